"""What kernels of good libraries take on a GPU with tensor cores, from datasheet numbers and the constants of a technology.

Pure functions of numbers or NumPy arrays that broadcast; seconds, bytes, hertz, FLOP = 2 x MAC. "SM" is NVIDIA's word for a core. Sources:
tile and wave quantisation: NVIDIA, Deep Learning Performance, Matrix Multiplication Background (2023); tiles of attention: Dao,
FlashAttention-2, arXiv 2307.08691, and Shah et al., FlashAttention-3, arXiv 2407.08608; split-KV decode: Dao et al., Flash-Decoding (2023).
The constants and the exponents that join times are fitted: `hwmodels/library/calibration`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Amount: TypeAlias = Any
"""A number, or an array of them."""

REFERENCE_CLOCK_HZ = 1.41e9
"""The clock at which energies per FLOP and latencies of a technology are stated: that of the first board that was fitted, the A100."""

GEMM_TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (32, 64), (16, 64))
"""Rows and columns of the output tile of one SM: what cuBLAS and CUTLASS offer for 16-bit operands."""

SPLITS = (1, 2, 4, 8)
"""Parts of k that different SMs work on."""

K_STEP = 32
"""k of a tile is padded to whole steps of this many elements."""

SPLIT_KEYS, MOST_SPLITS, MOST_SLOTS, NEARLY_FULLEST = 128, 128, 0.8, 0.85
"""FlashAttention's rule for parts of the keys: their granularity and number, and the shares of slots and of the best fill that suffice."""


def soft_max(p: Amount, *times: Amount) -> Amount:
    """(sum of t^p)^(1/p): units that work at the same time, but not quite. p = 1 is the sum, p = infinity the maximum."""
    largest = np.maximum.reduce(np.broadcast_arrays(*times))
    safe = np.where(largest > 0, largest, 1.0)
    return largest * sum((np.asarray(t) / safe) ** p for t in times) ** (1 / p) if np.any(largest > 0) else largest


def power_headroom(clock_hz: Amount, flops_per_s: Amount, tdp_w: Amount, energy_j_per_flop: Amount) -> Amount:
    """The board's power over what tensor cores that are always busy would draw at the full clock.

    Power is FLOP/s x energy per FLOP; the energy is that at 1.41 GHz and grows with the clock, as the voltage (squared) grows with about
    its root. `flops_per_s` is the peak at `clock_hz`.
    """
    return tdp_w / (flops_per_s * energy_j_per_flop * clock_hz / REFERENCE_CLOCK_HZ)


def powered_share(headroom: Amount, ideal_s: Amount, tensor_s: Amount, other_s: Amount, p: Amount) -> Amount:
    """The share x of the full clock that the board's power leaves a kernel. Its products take `ideal_s` at the peak and, as they are tiled,
    `tensor_s` at the full clock, softly joined with `other_s`, which does not depend on the clock.

    Energy per FLOP falls with the clock, so x is the largest for which ideal_s x / latency(x) <= `headroom`, with
    latency(x)^p = (tensor_s / x)^p + other_s^p: a quadratic equation in x^p. What keeps tensor cores waiting leaves them a faster clock.
    """
    draw = np.maximum(ideal_s / tensor_s / headroom, 1e-9) ** p
    waits = (other_s / tensor_s) ** p
    return np.minimum(1.0, ((waits + np.sqrt(waits**2 + 4 * draw)) / (2 * draw)) ** (1 / p))


def latency_s(reference_s: Amount, clock_hz: Amount) -> Amount:
    """A chain of dependent steps, stated at 1.41 GHz, at another clock."""
    return reference_s * REFERENCE_CLOCK_HZ / clock_hz


def waves(m: Amount, n: Amount, tile_m: Amount, tile_n: Amount, splits: Amount, sms: Amount) -> Amount:
    """How many times all SMs take a tile: ceil(tiles / SMs), at least 1."""
    tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) * splits
    return np.maximum(1.0, np.ceil(tiles / sms))


def tile_times_s(
    tile_m: Amount,
    tile_n: Amount,
    tile_k: Amount,
    operand_bytes: tuple[Amount, Amount],
    flops_per_s_and_sm: Amount,
    l2_bytes_per_s_and_sm: Amount,
) -> tuple[Amount, Amount]:
    """One tile on one SM: its products, and its operands through the SM's share of the L2. `operand_bytes` are those of an element of A
    and of W."""
    k = np.ceil(tile_k / K_STEP) * K_STEP
    multiply_s = 2 * tile_m * tile_n * k / flops_per_s_and_sm
    load_s = (operand_bytes[0] * tile_m + operand_bytes[1] * tile_n) * k / l2_bytes_per_s_and_sm
    return multiply_s, load_s


def tile_fill_s(tile_m: Amount, tile_n: Amount, element_bytes: tuple[Amount, Amount, Amount], l2_bytes_per_s_and_sm: Amount) -> Amount:
    """What of a tile passes the L2 while there are no products of it: two steps of k of both operands before the first, C after the last
    (NVIDIA, CUTLASS, Efficient GEMM in CUDA: prologue of the software pipeline, and epilogue). `element_bytes`: of A, W and C."""
    a_bytes, w_bytes, out_bytes = element_bytes
    return (2 * K_STEP * (a_bytes * tile_m + w_bytes * tile_n) + out_bytes * tile_m * tile_n) / l2_bytes_per_s_and_sm


def split_k_s(m: Amount, n: Amount, splits: Amount, l2_bytes_per_s: Amount, split_s: Amount) -> Amount:
    """What it takes to add up the parts of k: a fixed time, and fp32 sums of each part written to the L2 and read back."""
    return np.where(np.asarray(splits) > 1, split_s + 8.0 * m * n * splits / l2_bytes_per_s, 0.0)


def super_block_reads(
    m: Amount, n: Amount, block_m: Amount, block_n: Amount, a_row_bytes: Amount, w_column_bytes: Amount, l2_bytes: Amount, m_outer: Amount
) -> tuple[Amount, Amount]:
    """Bytes of A and W that come into the L2 if all SMs work on one block of C at a time, rows of blocks (`m_outer`) or columns one after
    another. Where both operands of a block fit `l2_bytes`, the one that the next block shares stays."""
    block_m, block_n = np.minimum(block_m, m), np.minimum(block_n, n)
    columns, rows = np.ceil(n / block_n), np.ceil(m / block_m)
    fit = block_m * a_row_bytes + block_n * w_column_bytes <= l2_bytes
    a_stays = fit & (np.asarray(m_outer) | (rows == 1))
    w_stays = fit & (~np.asarray(m_outer) | (columns == 1))
    return m * a_row_bytes * np.where(a_stays, 1, columns), n * w_column_bytes * np.where(w_stays, 1, rows)


def score_clocks(
    head_dim: Amount, flops_per_clock: Amount, lanes: Amount, exponentials_per_clock: Amount, softmax_ops: Amount, overlap_p: Amount
) -> Amount:
    """Clocks of an SM per element of the score matrix: both products, joined with its exponential and the other work of softmax.

    p = 1 where the tensor cores wait for softmax, more where they are asynchronous (FlashAttention-3, section 3.1).
    """
    softmax = 1 / exponentials_per_clock + softmax_ops / lanes
    return soft_max(overlap_p, 4 * head_dim / flops_per_clock, softmax)


def visible_blocks(queries: int, keys: int, offset: int, window: int | None, tile_q: int, tile_k: int) -> tuple[int, int]:
    """(blocks of the score matrix of one head that are not masked whole, those of the longest row of blocks).

    Query i sees key j iff j <= i + offset and, with a window, j > i + offset - window.
    """
    first = np.arange(0, queries, tile_q)
    last = np.minimum(first + tile_q, queries) - 1
    stop = np.minimum(last + offset + 1, keys)
    start = np.zeros_like(first) if window is None else np.maximum(first + offset - window + 1, 0)
    blocks = np.maximum(np.ceil(stop / tile_k) - start // tile_k, 0)
    return int(blocks.sum()), int(blocks.max())


def prefill_s(
    rows: Amount, blocks: Amount, longest: Amount, block_s: Amount, memory_s: Amount, sms: Amount, item_s: Amount, p: Amount
) -> Amount:
    """All blocks spread over the SMs, `item_s` more for each row of blocks, softly joined with the longest row alone and with memory."""
    return soft_max(p, (blocks * block_s + rows * item_s) / sms, longest * block_s + item_s, memory_s)


def kv_splits(items: Amount, keys: Amount, slots: Amount) -> Amount:
    """Parts of the keys of a sequence that different SMs take, of whole `SPLIT_KEYS`; `slots` items run at once.

    One where the items fill most slots; else the fewest parts whose waves are nearly as full as the fullest: the rule of FlashAttention-2
    and -3 (`num_splits_heuristic`).
    """
    items, keys, slots = (np.asarray(each, float)[..., None] for each in (items, keys, slots))
    parts = np.arange(1.0, MOST_SPLITS + 1)
    filled = items * parts / slots
    full = np.where(parts <= np.minimum(slots, np.ceil(keys / SPLIT_KEYS)), filled / np.ceil(filled), 0.0)
    fewest = 1 + np.argmax(full >= NEARLY_FULLEST * full.max(-1, keepdims=True), axis=-1)
    return np.where(items[..., 0] >= MOST_SLOTS * slots[..., 0], 1, fewest)


def partial_wave(items: Amount, slots: Amount) -> Amount:
    """Slots that idle while the last items run, per slot that is used; 0 where all items run at once."""
    filled = np.asarray(items) / slots
    return np.where(filled > 1, np.ceil(filled) / filled - 1, 0.0)


def decode_attention_s(items: Amount, memory_s: Amount, sms: Amount, item_s: Amount, p: Amount) -> Amount:
    """The keys and values at memory's speed, softly joined with `item_s` per sequence and KV head, spread over the SMs."""
    return soft_max(p, memory_s, items * item_s / sms)


def stream_s(
    elements: Amount, operations: Amount, sms: Amount, clock_hz: Amount, element_clocks: Amount, operation_clocks: Amount
) -> Amount:
    """Element-wise and row-wise work: clocks of an SM per element and per arithmetic operation (conversions are free)."""
    return (elements * element_clocks + operations * operation_clocks) / (sms * clock_hz)


def row_s(row_elements: Amount, clock_hz: Amount, row_clocks: Amount) -> Amount:
    """One row, which one block of threads works through however many SMs there are."""
    return row_elements * row_clocks / clock_hz


def missed_bytes(touched_bytes: Amount, kept_bytes: Amount) -> Amount:
    """What passes DRAM of what a kernel touches, where the L2 keeps up to `kept_bytes` of it from one kernel to the next."""
    return np.maximum(touched_bytes - kept_bytes, 0.0)
