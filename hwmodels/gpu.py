"""Kernels on a GPU with tensor cores: the formulas of `hwmodels.formulas.gpu` put together for one board, or for rows of many at once.

Times are lower than no roofline by themselves; the engines take the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodels.chip import Chip
from hwmodels.formulas import gpu
from hwmodels.formulas.gpu import Amount
from hwmodels.technology import KernelConstants, Technology

BLOCK_ROWS = tuple(sorted(base * 2**i for base in (1, 3) for i in range(8)))
"""Tiles along m of the blocks of C that are tried; the other SMs lie along n."""

WIDE = ("bf16", "fp16")
"""Formats of products for which a technology states its energy."""


def attention_tile(head_dim: int, asynchronous: bool) -> tuple[int, int]:
    """Queries and keys of a tile of causal attention: FlashAttention-3's where tensor cores are asynchronous, else one that fits the data
    of FlashAttention-2."""
    if not asynchronous:
        return 64, 64
    return 192 if head_dim <= 64 else 128, 128


@dataclass(frozen=True, slots=True)
class Board:
    """Numbers of a chip (or columns of many chips), and those of its technology that are not the same for all.

    `flops_per_s` is the datasheet's peak of the compute format at `clock_hz`, `headroom` the power limit over what busy tensor cores would
    draw, `dram_bytes_per_s` what memory sustains, `tile_l2_bytes` the part of the L2 that tiles may use for one of two buffers.
    """

    sms: Amount
    clock_hz: Amount
    headroom: Amount
    flops_per_s: Amount
    lanes: Amount
    l2_bytes: Amount
    tile_l2_bytes: Amount
    dram_bytes_per_s: Amount
    asynchronous: Any


def board_of(chip: Chip, technology: Technology, compute: str) -> Board:
    """The board as its kernels see it. Energy is stated for 16-bit products; narrower ones take as much power at their own peak, and those
    in fp32, outside the tensor cores, are not limited."""
    clock_hz, l2 = float(chip.clock_hz), chip.memory[1]
    flops_per_s = {name: 2 * float(chip.peak_macs_per_s(name)) for name in chip.formats}
    wide = flops_per_s[compute] if compute in WIDE else max((flops_per_s[name] for name in WIDE if name in flops_per_s), default=0.0)
    headroom = np.inf
    if chip.tdp_w is not None and wide and compute != "fp32":
        headroom = float(gpu.power_headroom(clock_hz, wide, chip.tdp_w, technology.generation.energy_j_per_flop))
    return Board(
        sms=float(chip.cores),
        clock_hz=clock_hz,
        headroom=headroom,
        flops_per_s=flops_per_s[compute],
        lanes=float(chip.vector.lanes),
        l2_bytes=float(chip.capacity_bytes(l2)),
        tile_l2_bytes=float(chip.capacity_bytes(l2)) * (1 - float(chip.resident_share)) / 2,
        dram_bytes_per_s=float(chip.read_bytes_per_s(chip.dram)) * technology.dram_sustained,
        asynchronous=technology.generation.asynchronous,
    )


class Product(NamedTuple):
    """C[m, n] = A[m, k] W[k, n], `batch` times; bytes of an element of A, W and C; which of them do not pass DRAM."""

    m: Amount
    n: Amount
    k: Amount
    element_bytes: tuple[Amount, Amount, Amount] = (2, 2, 2)
    batch: Amount = 1
    in_dram: tuple[Amount, Amount, Amount] = (True, True, True)


class Blocks(NamedTuple):
    """For each tile shape (last axis) the block of C that all SMs work on: tiles along m and n, whether its rows come one after another,
    and the bytes that pass DRAM."""

    tiles_m: Amount
    tiles_n: Amount
    m_outer: Amount
    dram_bytes: Amount


def blocks_of(product: Product, board: Board) -> Blocks:
    """The blocks that read least, for each of `GEMM_TILES` of the formulas along a new last axis."""
    m, n, k, sms, l2_bytes = (np.asarray(each, float)[..., None, None, None] for each in (*product[:3], board.sms, board.tile_l2_bytes))
    a_bytes, w_bytes, _ = (np.asarray(each, float)[..., None, None, None] for each in product.element_bytes)
    a_in_dram, w_in_dram, _ = (np.asarray(each)[..., None, None, None] for each in product.in_dram)
    tile_m, tile_n = (np.array(each, float)[:, None, None] for each in zip(*gpu.GEMM_TILES, strict=True))
    wanted = np.array(BLOCK_ROWS, float)[:, None]
    m_outer = np.array([True, False])
    tiles_m = np.minimum(np.minimum(wanted, np.ceil(m / tile_m)), sms)
    tiles_n = np.maximum(np.minimum(np.floor(sms / tiles_m), np.ceil(n / tile_n)), 1)
    reads = gpu.super_block_reads(m, n, tiles_m * tile_m, tiles_n * tile_n, k * a_bytes, k * w_bytes, l2_bytes, m_outer)
    read = np.broadcast_to(reads[0] * a_in_dram + reads[1] * w_in_dram, np.broadcast_shapes(reads[0].shape, reads[1].shape))
    flat = read.reshape(*read.shape[:-2], -1)
    best = np.expand_dims(flat.argmin(-1), -1)

    def taken(values: Amount) -> Amount:
        return np.take_along_axis(np.broadcast_to(values, read.shape).reshape(flat.shape), best, -1)[..., 0]

    out = np.asarray(product.m * product.n * product.element_bytes[2] * np.asarray(product.in_dram[2]), float)[..., None]
    batch = np.asarray(product.batch)[..., None]
    return Blocks(taken(tiles_m), taken(tiles_n), taken(m_outer), (taken(read) + out) * batch)


def gemm_candidates_s(product: Product, board: Board, kernels: KernelConstants, dram_bytes: Amount, warm_bytes: Amount = 0) -> Amount:
    """Seconds without the launch for each tile shape and split of k (the last two axes). `dram_bytes` has an axis of tile shapes at the
    end; `warm_bytes` are served by the L2 in which they lie."""
    c = kernels.gemm
    m, n, k, batch, sms, clock_hz, warm = (
        np.asarray(each, float)[..., None, None] for each in (*product[:3], product.batch, board.sms, board.clock_hz, warm_bytes)
    )
    flops_per_s, dram_bytes_per_s, headroom = (
        np.asarray(each)[..., None, None] for each in (board.flops_per_s, board.dram_bytes_per_s, board.headroom)
    )
    tile_m, tile_n = (np.array(each, float)[:, None] for each in zip(*gpu.GEMM_TILES, strict=True))
    splits = np.array(gpu.SPLITS, float)
    rounds = gpu.waves(m * batch, n, tile_m, tile_n, splits, sms)
    # Multicast: from Hopper on, SMs that need the same operand share one load.
    l2_bytes_per_s = np.where(np.asarray(board.asynchronous)[..., None, None], np.inf, c.l2_bytes * clock_hz)
    memory_s = np.asarray(dram_bytes, float)[..., None] / dram_bytes_per_s + warm / (kernels.warm.bytes * sms * clock_hz)
    multiply_s, load_s = gpu.tile_times_s(tile_m, tile_n, k / splits, product.element_bytes[:2], flops_per_s / sms, l2_bytes_per_s)
    multiply_s = multiply_s + c.fill * gpu.tile_fill_s(tile_m, tile_n, product.element_bytes, c.l2_bytes * clock_hz)
    tensor_s, other_s = rounds * multiply_s, gpu.soft_max(c.p, rounds * load_s, memory_s)
    clock_share = gpu.powered_share(headroom, 2 * m * n * k * batch / flops_per_s, tensor_s, other_s, c.p)
    work_s = gpu.soft_max(c.p, tensor_s / clock_share, other_s)
    return work_s + gpu.split_k_s(m, n, splits, c.l2_bytes * clock_hz * sms, c.split_s)


class Heads(NamedTuple):
    """Attention of `batch` sequences; element bytes of queries and outputs, and of keys and values."""

    batch: Amount
    heads: Amount
    kv_heads: Amount
    queries: Amount
    keys: Amount
    head_dim: Amount
    act_bytes: Amount = 2
    kv_bytes: Amount = 2

    @property
    def cache_bytes(self) -> Amount:
        """All keys and values."""
        return 2 * self.batch * self.kv_heads * self.keys * self.head_dim * self.kv_bytes

    @property
    def new_bytes(self) -> Amount:
        """Those of the new tokens."""
        return 2 * self.batch * self.kv_heads * np.minimum(self.queries, self.keys) * self.head_dim * self.kv_bytes


class ScoreBlocks(NamedTuple):
    """How prefill cuts its scores: units (heads, or KV heads whose query heads are packed into one tile) per sequence, rows of blocks of a
    unit, its blocks, and those of the longest row; `block` scores each."""

    units: Amount
    rows: Amount
    blocks: Amount
    longest: Amount
    block: Amount


def score_blocks(
    heads: int, kv_heads: int, queries: int, keys: int, offset: int, window: int | None, head_dim: int, asynchronous: bool
) -> ScoreBlocks:
    """FlashAttention-3 packs the query heads that share a KV head into one tile, as it does for sequences of any lengths."""
    tile_q, tile_k = attention_tile(head_dim, asynchronous)
    positions = max(1, tile_q // (heads // kv_heads)) if asynchronous else tile_q
    blocks, longest = gpu.visible_blocks(queries, keys, offset, window, positions, tile_k)
    return ScoreBlocks(kv_heads if asynchronous else heads, -(-queries // positions), blocks, longest, tile_q * tile_k)


def prefill_attention_s(heads: Heads, cut: ScoreBlocks, board: Board, kernels: KernelConstants, dram_bytes: Amount) -> Amount:
    """Seconds without the launch: blocks on the SMs beside memory, which new keys and values pass twice more, on their way from the
    projection into their cache."""
    c = kernels.attention
    flops_per_clock = board.flops_per_s / board.sms / board.clock_hz
    overlap_p = np.where(np.asarray(board.asynchronous), c.overlap_p, 1.0)
    clocks = gpu.score_clocks(heads.head_dim, flops_per_clock, board.lanes, c.exponentials, c.softmax_ops, overlap_p)
    clock_share = gpu.powered_share(board.headroom, 4 * heads.head_dim / flops_per_clock, clocks, 0.0, 1.0)
    block_s = cut.block * clocks / (board.clock_hz * clock_share)
    rows, blocks = heads.batch * cut.units * cut.rows, heads.batch * cut.units * cut.blocks
    memory_s = (dram_bytes + 2 * heads.new_bytes) / board.dram_bytes_per_s
    return gpu.prefill_s(rows, blocks, cut.longest, block_s, memory_s, board.sms, c.item_s, c.prefill_p)


def decode_attention_s(heads: Heads, board: Board, kernels: KernelConstants, dram_bytes: Amount, warm_bytes: Amount) -> Amount:
    """Seconds without the launch; the keys are split over SMs where there are fewer sequences and KV heads than SMs."""
    c = kernels.attention
    items = heads.batch * heads.kv_heads
    # The larger tiles of asynchronous tensor cores leave an SM room for one item.
    slots = board.sms * np.where(board.asynchronous, 1, 2)
    parts = gpu.kv_splits(items, heads.keys, slots)
    memory_s = dram_bytes / board.dram_bytes_per_s + warm_bytes / (kernels.warm.bytes * board.sms * board.clock_hz)
    memory_s = memory_s * (1 + c.partial_wave * gpu.partial_wave(items * parts, slots))
    work_s = gpu.decode_attention_s(items, memory_s, board.sms, c.item_s, c.decode_p)
    return work_s + np.where(parts > 1, gpu.latency_s(c.split_s, board.clock_hz), 0.0)


def stream_s(
    elements: Amount,
    operations: Amount,
    board: Board,
    kernels: KernelConstants,
    dram_bytes: Amount,
    warm_bytes: Amount = 0,
    row_elements: Amount = 0,
) -> Amount:
    """Seconds without the launch of element-wise and row-wise work; what the kernel before left in the L2 does not pass DRAM."""
    c = kernels.stream
    spread_s = gpu.stream_s(elements, operations, board.sms, board.clock_hz, c.element_clocks, c.operation_clocks)
    work_s = np.maximum(spread_s, gpu.row_s(row_elements, board.clock_hz, c.row_clocks))
    missed = gpu.missed_bytes(dram_bytes + warm_bytes, c.l2_share * board.l2_bytes)
    return gpu.soft_max(c.p, work_s, missed / board.dram_bytes_per_s)
