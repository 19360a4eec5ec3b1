"""Groups on a GPU whose technology is calibrated: what the kernels of good libraries take (`hwmodels.gpu`), for tiled and cycle alike.

A group of linears is one GEMM, of the tile shape and split of k that take least; element-wise ops that run with it follow it without a
launch of their own. Attention is one kernel, for one token per sequence the one that splits the keys, and puts new keys and values into
their cache. All else streams. The mapping that is recorded is what runs: blocks of C of one tile per SM, k in steps that fit the L2, or
tiles of queries and keys; parts of k, and of keys, one after another. Nothing is below the roofline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from functional.formats import bits_of, is_integer
from functional.work import Contraction, Move, Vector
from hwmodels import gpu
from hwmodels.chip import Chip
from hwmodels.formulas import gpu as formulas
from hwmodels.formulas.roofline import transfer_s
from hwmodels.gpu import Board, Heads, Product
from hwmodels.technology import Technology
from sim.attention_mapping import Attention, AttentionMapping
from sim.engines import roofline, tiled
from sim.engines.roofline import MATRIX, VECTOR
from sim.engines.tiled import AttentionChoice, GemmChoice, Mapped
from sim.mapper import cost_gemm
from sim.mapper.attention import map_attention
from sim.mapper.attention_cost import AttentionCost, InDram, Part, attention_cost
from sim.mapping import Gemm, GemmMapping, StageTiling, Tile
from sim.plan import Plan
from workloads.demand import GroupClass
from workloads.fuse import Flow
from workloads.graph import OpNode
from workloads.quantise import compute_format

K_STEP = 32
LONGEST_ROW = 2**16


def map_group(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, technology: Technology) -> Mapped:
    """What a group is charged, and the mapping that it is charged for."""
    contractions = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
    on = _Group(group_class, plan, peaks, technology)
    if not contractions:
        return on.stream()
    if contractions[0].mask is None:
        return on.gemm()
    return on.attention() if len(contractions) == 2 else on.product_of_attention()


class _Group:
    """One group on one board."""

    def __init__(self, group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, technology: Technology) -> None:
        self.group_class, self.plan, self.peaks, self.kernels = group_class, plan, peaks, technology.kernels
        self.chip: Chip = plan.chip
        products = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
        compute = compute_format(products[0]) if products else self.chip.formats[0]
        self.board: Board = gpu.board_of(self.chip, technology, compute)
        self.ideal_s = {name: float(each) for name, each in roofline.unit_times_s(group_class.load, peaks).items()}

    def stream(self) -> Mapped:
        """Element-wise and row-wise work, and moves."""
        flows = self.group_class.group.flows
        elements, operations = _vector_work(self.group_class.ops)
        read, written = tiled.dram_bytes(self.plan, flows)
        row = _row_elements(self.group_class.ops, int(self.plan.graph.scenario.batch) * int(self.plan.graph.scenario.q_len))
        work_s = float(gpu.stream_s(elements, operations, self.board, self.kernels, read + written, _warm_bytes(flows), row))
        return self._mapped({VECTOR: work_s}, work_s, self.kernels.stream.launch_s, (read, written), 0.0, None, flows)

    def gemm(self) -> Mapped:
        """A group of linears and what follows them."""
        own, rest = tiled.gemm_flows(self.group_class)
        gemm, a_resident = tiled.gemm_of(self.group_class, self.plan)
        w_warm = any(flow.warm for flow in own if flow.kind == "weights")
        product = Product(
            gemm.m,
            gemm.n,
            gemm.k,
            (gemm.a_bits / 8, gemm.w_bits / 8, gemm.out_bits / 8),
            in_dram=(not a_resident, not w_warm, gemm.out_bits > 0 and gemm.out_in_dram),
        )
        blocks = gpu.blocks_of(product, self.board)
        warm_bytes = _warm_bytes(own)
        scales = tuple(tiled.scales(self.group_class))
        scale_bytes = sum(tiled.dram_bytes(self.plan, scales))
        times = gpu.gemm_candidates_s(product, self.board, self.kernels, blocks.dram_bytes + scale_bytes, warm_bytes)
        shape, split = np.unravel_index(int(np.argmin(times)), times.shape)
        tile = formulas.GEMM_TILES[shape]
        grid = int(blocks.tiles_m[shape]), int(blocks.tiles_n[shape])
        mapping = _gemm_mapping(gemm, self.chip, tile, grid, bool(blocks.m_outer[shape]), self.board.tile_l2_bytes, a_resident)
        cost = cost_gemm(mapping, self.chip, a_resident=a_resident)
        read = cost.dram_read_bytes if not w_warm else 0 if a_resident else gemm.m * gemm.k * gemm.a_bits // 8
        own_s = float(times[shape, split])
        after_s, besides = self._after(rest)
        moved = read + scale_bytes + besides[0], cost.dram_written_bytes + besides[1]
        besides_s = {name: (after_s if name == VECTOR else 0.0,) for name in self.ideal_s}
        choice = GemmChoice(mapping, cost, besides_s, a_resident)
        busy = {MATRIX: own_s, VECTOR: after_s}
        tiles = -(-gemm.m // tile[0]) * -(-gemm.n // tile[1]) * formulas.SPLITS[split]
        flows = (*rest, *tiled.kept_results(own), *scales)
        figures = self._mapped(busy, own_s + after_s, self.kernels.gemm.launch_s, moved, cost.issued_macs, choice, flows)
        return replace(figures, waves=(tiles, int(self.chip.cores)))

    def _after(self, rest: tuple[Flow, ...]) -> tuple[float, tuple[int, int]]:
        """Seconds that follow the products of a group, and bytes (read, written) that pass DRAM for it: element-wise ops, and before the
        products what brings operands to the compute format."""
        board, c = self.board, self.kernels.stream
        elements, operations = _vector_work(self.group_class.ops)
        read, written = tiled.dram_bytes(self.plan, rest)
        converted = [load.counts for op, load in zip(self.group_class.ops, self.group_class.op_loads, strict=True) if _multiplies(op)]
        dequantised = sum(float(count) for counts in converted for count in counts.values())
        seconds = dequantised * c.dequantise_ops / (board.lanes * board.sms * board.clock_hz)
        if elements or read or written:
            seconds += float(gpu.stream_s(elements, operations, board, self.kernels, read + written, _warm_bytes(rest)))
        return float(seconds), (read, written)

    def attention(self) -> Mapped:
        """Both products and the softmax between them."""
        attention, in_dram, part = tiled.attention_of(self.group_class, self.plan)
        mapping, cost = self._tiles(attention, in_dram, part)
        heads = Heads(
            attention.batch,
            attention.heads,
            attention.kv_heads,
            attention.q_len,
            attention.kv_len,
            attention.head_dim,
            attention.act_bits / 8,
            attention.kv_bits / 8,
        )
        moved_bytes, warm_bytes = cost.dram_read_bytes + cost.dram_written_bytes, _warm_bytes(self.group_class.group.flows)
        # Of what is warm, as much as the L2 can hold stays there.
        kept_bytes = min(warm_bytes, self.kernels.warm.l2_share * self.board.l2_bytes)
        missed_bytes = warm_bytes - kept_bytes
        c, options = self.kernels.attention, []
        if attention.kv_len > attention.q_len or attention.q_len == 1:
            split_s = float(gpu.decode_attention_s(heads, self.board, self.kernels, moved_bytes + missed_bytes, kept_bytes))
            options.append((split_s, float(formulas.latency_s(c.decode_launch_s, self.board.clock_hz))))
        if attention.q_len > 1:
            shape = attention.heads, attention.kv_heads, attention.q_len, attention.kv_len, attention.mask_offset, attention.window
            cut = gpu.score_blocks(*shape, attention.head_dim, self.board.asynchronous)
            whole_s = float(gpu.prefill_attention_s(heads, cut, self.board, self.kernels, moved_bytes + missed_bytes))
            options.append((whole_s, c.prefill_launch_s))
        work_s, launch_s = min(options, key=sum)
        moved = cost.dram_read_bytes + missed_bytes, cost.dram_written_bytes
        choice = AttentionChoice(mapping, cost, in_dram, part)
        return self._mapped({MATRIX: work_s}, work_s, launch_s, moved, cost.issued_macs, choice)

    def product_of_attention(self) -> Mapped:
        """One product by itself, whose scores pass through DRAM: a batched GEMM. SMs that work on one head share its keys in the L2."""
        attention, in_dram, part = tiled.attention_of(self.group_class, self.plan)
        scores = tiled.score_flows(self.group_class, part)
        score_bytes = tiled.dram_bytes(self.plan, scores)
        mapping, cost = self._tiles(attention, in_dram, part, score_bytes)
        work = next(op.work for op in self.group_class.ops if isinstance(op.work, Contraction))
        a_bytes, b_bytes = bits_of(work.a_format) / 8, bits_of(work.b_format) / 8
        product = Product(int(work.m), int(work.n), int(work.k), (a_bytes, b_bytes, a_bytes), batch=int(work.batch))
        moved = cost.dram_read_bytes, cost.dram_written_bytes
        moved_bytes = np.full(len(formulas.GEMM_TILES), sum(moved))
        warm_bytes = _warm_bytes(self.group_class.group.flows)
        work_s = float(gpu.gemm_candidates_s(product, self.board, self.kernels, moved_bytes, warm_bytes).min())
        choice = AttentionChoice(mapping, cost, in_dram, part)
        return self._mapped({MATRIX: work_s}, work_s, self.kernels.gemm.launch_s, moved, cost.issued_macs, choice, scores)

    def _tiles(
        self, attention: Attention, in_dram: InDram, part: Part, score_bytes: tuple[int, int] = (0, 0)
    ) -> tuple[AttentionMapping, AttentionCost]:
        """The tiles of attention, or of one of its products, and their cost."""
        counts = self.group_class.load.counts
        if is_integer(attention.compute):  # scores are rounded to integers once per row, so whole rows of them stay on the chip
            mapping, _ = map_attention(attention, self.chip, counts, in_dram, part, whole_rows=True)
            mapping = replace(mapping, keys_shared=True)  # in the L2
        else:
            mapping = _attention_mapping(attention, self.chip, self.board)
        return mapping, attention_cost(mapping, self.chip, counts, in_dram, part, score_bytes)

    def _mapped(
        self,
        unit_s: Mapping[str, float],
        work_s: float,
        launch_s: float,
        moved: tuple[float, float],
        issued_macs: float,
        choice: GemmChoice | AttentionChoice | None = None,
        flows: tuple[Flow, ...] = (),
    ) -> Mapped:
        """The group's figures: `work_s` besides the launch, of which each unit may take `unit_s`; not below the roofline."""
        chip, dram = self.chip, self.chip.dram
        ideal_s = max(self.ideal_s.values())
        # Where the L2 serves what the roofline has from DRAM, the launch is part of that.
        latency_s = max(work_s, ideal_s)
        launch_s = max(work_s + launch_s, ideal_s) - latency_s
        peak_s = dict(self.ideal_s)
        rates = chip.read_bytes_per_s(dram), chip.write_bytes_per_s(dram)
        moved_s = float(transfer_s(moved[0], moved[1], *rates, dram.bandwidth.shared))
        if issued_macs:
            peak_s[MATRIX] = max(peak_s[MATRIX], 2 * issued_macs / float(self.board.flops_per_s))
        padded_s = max(peak_s.values())
        peak_s[dram.name] = max(peak_s[dram.name], moved_s)
        sustained_s = {
            MATRIX: max(peak_s[MATRIX], peak_s[MATRIX] ** 2 / (float(self.board.headroom) * latency_s)),
            dram.name: sum(moved) / float(self.board.dram_bytes_per_s),
        }
        busy = {name: min(max(seconds, sustained_s.get(name, 0.0)), latency_s) for name, seconds in peak_s.items()}
        steps = {"padding": padded_s, "refetch": max(peak_s.values()), "sustained": max(*peak_s.values(), *sustained_s.values())}
        lost = _lost_s(ideal_s, steps, latency_s)
        bounds = {**busy, **{name: max(busy[name], seconds) for name, seconds in unit_s.items()}}
        # What holds a unit back without keeping it busy (waves, operands on their way) counts for it, unless memory is busier.
        bounds[MATRIX] = busy[MATRIX] if busy[dram.name] > 0.7 * work_s else bounds[MATRIX]
        bounds[VECTOR] = busy[VECTOR] if MATRIX not in unit_s and busy[dram.name] > 0.7 * work_s else bounds[VECTOR]
        bound_by = max(bounds, key=bounds.__getitem__)
        return Mapped(busy, latency_s, bound_by, *moved, issued_macs, choice, flows, launch_s, lost)


def _lost_s(ideal_s: float, steps: Mapping[str, float], latency_s: float) -> dict[str, float]:
    """The way from the roofline to the latency: padded tiles, bytes moved again, rates that are not sustained, and the rest, which is waves
    that are not full, the ends of pipelines and units that wait for each other."""
    lost: dict[str, float] = {}
    before_s = ideal_s
    for cause, seconds in steps.items():
        reached_s = min(max(seconds, before_s), latency_s)
        lost[cause], before_s = reached_s - before_s, reached_s
    return {**lost, "fill_drain": latency_s - before_s}


def _multiplies(op: OpNode) -> bool:
    return isinstance(op.work, Contraction)


def _vector_work(ops: tuple[OpNode, ...]) -> tuple[float, float]:
    """Elements (of the largest op: a fused kernel visits each once) and arithmetic operations; conversions come with the loads and
    stores."""
    elements, operations = 0.0, 0.0
    for op in ops:
        if isinstance(op.work, Vector):
            elements = max(elements, float(op.work.elements))
            operations += sum(float(count) for name, count in op.work.counts.items() if name != "convert")
        elif isinstance(op.work, Move):
            elements = max(elements, float(op.work.size_bytes) / (bits_of(op.output.format) / 8))
    return elements, operations


def _row_elements(ops: tuple[OpNode, ...], tokens: int) -> float:
    """The longest row that one block of threads works through: the last axis, and of a rotation all heads of a token. Blocks share
    longer ones."""
    rows = [0.0]
    for op in ops:
        if isinstance(op.work, Vector):
            longest = max(spec.shape[-1] for spec in (op.output, *(use.spec for use in op.inputs)))
            rows.append(float(op.work.elements) / tokens if op.kind == "RoPE" else float(longest))
    return min(max(rows), LONGEST_ROW)


def _warm_bytes(flows: tuple[Flow, ...]) -> float:
    return float(sum(int(flow.size_bytes) for flow in flows if flow.warm))


def _gemm_mapping(
    gemm: Gemm, chip: Chip, tile: tuple[int, int], grid: tuple[int, int], m_outer: bool, tile_l2_bytes: float, a_resident: bool
) -> GemmMapping:
    """Blocks of C of one tile per SM; k as long as both operands of a block fit the L2, in whole steps."""
    tile_m, tile_n = min(tile[0], gemm.m), min(tile[1], gemm.n)
    block_m, block_n = min(tile[0] * grid[0], gemm.m), min(tile[1] * grid[1], gemm.n)
    row_bytes = (block_m * gemm.a_bits * (not a_resident) + block_n * gemm.w_bits) / 8
    k = gemm.k if row_bytes * gemm.k <= tile_l2_bytes else max(K_STEP, int(tile_l2_bytes / row_bytes) // K_STEP * K_STEP)
    # The parts of a block are equal, so that its last tiles may be smaller than the others.
    parts_m, parts_n = -(-block_m // tile[0]), -(-block_n // tile[1])
    inner = StageTiling(Tile(tile_m, tile_n, min(_step_k(tile_m, tile_n, gemm, chip), gemm.k)), ("m", "n", "k"), 2)
    outer = StageTiling(Tile(block_m, block_n, min(k, gemm.k)), ("m", "n", "k") if m_outer else ("n", "m", "k"), 2)
    return GemmMapping(gemm, (outer, inner), (parts_m, parts_n), 1, "", "m")


def _step_k(tile_m: int, tile_n: int, gemm: Gemm, chip: Chip) -> int:
    """Elements of k that an SM holds of both operands, in two buffers: 64, or fewer where wide formats would not fit."""
    room_bytes = min(float(level.capacity_bytes) for level in chip.memory if {"weights", "activations"} & level.holds)
    step_bytes = 2 * (tile_m * gemm.a_bits + tile_n * gemm.w_bits) / 8
    return min(2 * K_STEP, 1 << max(0, int(np.log2(room_bytes / step_bytes))))


def _attention_mapping(attention: Attention, chip: Chip, board: Board) -> AttentionMapping:
    """Tiles of queries and keys that fit an SM; keys and values pass DRAM once, the SMs share them in the L2."""
    q_tile, kv_tile = gpu.attention_tile(attention.head_dim, bool(board.asynchronous))
    q_tile = min(q_tile, attention.q_len)
    head_bytes = attention.head_dim * attention.act_bits / 8
    operands, sums = (next(level for level in reversed(chip.memory) if role in level.holds) for role in ("activations", "psums"))
    while q_tile > 1 or kv_tile > 1:
        rows = q_tile * attention.rows_per_query
        keys_bytes = 4 * kv_tile * attention.head_dim * attention.kv_bits / 8
        sums_bytes = rows * (attention.head_dim + kv_tile) * attention.acc_bits / 8
        if rows * head_bytes * 2 + keys_bytes <= float(operands.capacity_bytes) and sums_bytes <= float(sums.capacity_bytes):
            break
        q_tile, kv_tile = (q_tile, -(-kv_tile // 2)) if kv_tile > rows else (-(-q_tile // 2), kv_tile)
    pairs = min(attention.pairs, int(chip.cores))
    queries = max(1, min(int(chip.cores) // pairs, -(-attention.q_len // q_tile)))
    fresh = AttentionMapping(attention, q_tile, kv_tile, True, True, 2, (pairs, queries), "", "m")
    return replace(fresh, keys_shared=True)
