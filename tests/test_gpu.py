"""Truth defended: kernels on a GPU take what its datasheet and the constants of its technology say, never less than the roofline, and
what is timed is a mapping that can be executed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Chip, chip_names, load_chip, numeric_paths, with_values
from hwmodels import gpu as kernels
from hwmodels.formulas import gpu
from hwmodels.gpu import Product, board_of, score_blocks
from hwmodels.paths import value_of
from hwmodels.technology import load_calibration, technology_of
from sim import predict, predict_graph, trace_model, verify
from sim.engines.play_waves import play_waves
from sim.engines.played import GemmOps, Played
from sim.engines.roofline import Peaks
from sim.engines.tiled import GemmChoice, map_group
from sim.intervals import Intervals, Log
from sim.plan import plan
from sim.timeline import Timeline
from tests.test_validate import MEASURED
from workloads.graph import OpGraph
from workloads.kernels import kernel_graph
from workloads.scenario import Formats

BOARDS = [name for name in chip_names() if technology_of(load_chip(name)) is not None]
A100, H100 = load_chip("a100-sxm4-80gb"), load_chip("h100-sxm5-80gb")
BF16 = Formats.of("bf16")
ROUNDING = 1e-9
quick = settings(max_examples=60, deadline=None)


def gemm(m: int, n: int, k: int) -> OpGraph:
    return kernel_graph("gemm", BF16, {"M": m, "N": n, "K": k})


def attention(op: str, batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int, head_dim: int = 128) -> OpGraph:
    dims = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "q_len": q_len, "kv_len": kv_len}
    return kernel_graph(op, BF16, dims)


# Formulas: hand values -------------------------------------------------------------------------------------------------------------------


def test_power_grows_with_the_square_of_the_clock() -> None:
    """400 TFLOP/s at 1 pJ and 1.41 GHz are 400 W, at twice the clock four times as much: of the latter, 400 W leave half the clock."""
    headroom = gpu.power_headroom(np.array([1.41e9, 2.82e9]), np.array([400e12, 800e12]), 400.0, 1e-12)
    assert headroom == pytest.approx([1.0, 0.25])
    assert gpu.powered_share(headroom, 1e-3, 1e-3, 0.0, 3.0) == pytest.approx([1.0, 0.5])


def test_tensor_cores_that_wait_draw_less() -> None:
    """Products of 1 ms at the peak, and a quarter of the power. Tiled to 4 ms, or beside memory that takes far longer, they keep the clock;
    beside memory that takes 2 ms in parallel, half of it: 1 ms / 2 = 2 ms of which 1 ms x 1/2 is a quarter; one after the other, x with
    x = (1 / x + 2) / 4."""
    assert gpu.powered_share(0.25, 1e-3, 4e-3, 0.0, 1.0) == 1.0
    assert gpu.powered_share(0.25, 1e-3, 1e-3, 9e-3, 3.0) == 1.0
    assert gpu.powered_share(0.25, 1e-3, 1e-3, 2e-3, 60.0) == pytest.approx(0.5, rel=0.02)
    assert gpu.powered_share(0.25, 1e-3, 1e-3, 2e-3, 1.0) == pytest.approx((1 + 5**0.5) / 4)
    assert gpu.powered_share(np.inf, 1e-3, 1e-3, 0.0, 3.0) == 1.0


def test_what_power_leaves_is_used_up() -> None:
    """Energy over latency is the limit: the share x of the clock draws ideal x / latency of the power at the full clock."""
    for p in (1.0, 2.5, 4.0):
        for other_s in (0.0, 0.3, 1.0, 2.0):
            share = float(gpu.powered_share(0.2, 1.0, 1.1, other_s, p))
            latency_s = ((1.1 / share) ** p + other_s**p) ** (1 / p)
            assert share < 1
            assert share / latency_s == pytest.approx(0.2)


def test_tiles_are_quantised_to_waves_of_all_sms() -> None:
    """257 x 256 in tiles of 128 x 128: 3 x 2 tiles; 6 on 4 SMs are two waves, 12 of k's halves three, one tile is one."""
    assert gpu.waves(257, 256, 128, 128, np.array([1, 2]), 4).tolist() == [2, 3]
    assert gpu.waves(1, 1, 128, 128, 1, 108) == 1


def test_a_tile_is_its_products_and_its_operands() -> None:
    """128 x 64 x 100 is padded to k = 128: 2 x 128 x 64 x 128 FLOP at 1 TFLOP/s; 128 rows of 2 B and 64 of 1 B, 128 long, at 10 GB/s.
    64 of k are there before the first product, and 128 x 64 of 4 B go after the last."""
    assert gpu.tile_times_s(128, 64, 100, (2, 1), 1e12, 10e9) == pytest.approx((2.097152e-6, 4.096e-6))
    assert gpu.tile_fill_s(128, 64, (2, 1, 4), 10e9) == pytest.approx(2.048e-6 + 3.2768e-6)


def test_soft_maximum_lies_between_maximum_and_sum() -> None:
    assert gpu.soft_max(1, 3.0, 4.0) == pytest.approx(7)
    assert gpu.soft_max(2, 3.0, 4.0) == pytest.approx(5)
    assert gpu.soft_max(200, 3.0, 4.0) == pytest.approx(4)
    assert gpu.soft_max(3, 0.0, 0.0) == 0


def test_an_operand_that_consecutive_blocks_share_is_read_once_if_it_fits() -> None:
    """8 x 8 in blocks of 4 x 4, rows of A and columns of W of 10 bytes: a block needs 80 bytes."""
    assert [float(each) for each in gpu.super_block_reads(8, 8, 4, 4, 10, 10, 80, True)] == [80, 160]
    assert [float(each) for each in gpu.super_block_reads(8, 8, 4, 4, 10, 10, 80, False)] == [160, 80]
    assert [float(each) for each in gpu.super_block_reads(8, 8, 4, 4, 10, 10, 79, True)] == [160, 160]
    assert [float(each) for each in gpu.super_block_reads(4, 8, 4, 4, 10, 10, 80, False)] == [40, 80]


def test_blocks_above_the_diagonal_and_outside_the_window_are_skipped() -> None:
    assert gpu.visible_blocks(128, 128, 0, None, 64, 64) == (3, 2)
    assert gpu.visible_blocks(100, 100, 0, None, 64, 64) == (3, 2)
    assert gpu.visible_blocks(1, 256, 255, None, 64, 64) == (4, 4)
    assert gpu.visible_blocks(64, 192, 128, None, 64, 64) == (3, 3)
    assert gpu.visible_blocks(256, 256, 0, 64, 64, 64) == (1 + 2 + 2 + 2, 2)


@pytest.mark.parametrize(
    ("queries", "keys", "window"),
    [(300, 300, None), (65, 65, None), (129, 193, None), (100, 260, None), (333, 333, 70), (64, 500, 100)],
)
def test_blocks_are_those_that_a_mask_leaves(queries: int, keys: int, window: int | None) -> None:
    offset = keys - queries
    query, key = np.indices((queries, keys))
    seen = (key <= query + offset) & (key > query + offset - (window or keys + queries))
    rows = [seen[q : q + 128].reshape(len(seen[q : q + 128]), -1) for q in range(0, queries, 128)]
    counts = [sum(row[:, k : k + 64].any() for k in range(0, keys, 64)) for row in rows]
    assert gpu.visible_blocks(queries, keys, offset, window, 128, 64) == (sum(counts), max(counts))


def test_softmax_waits_for_the_products_or_runs_beside_them() -> None:
    """Head dimension 64 at 256 FLOP per clock: 1 clock; 1/16 for the exponential, 4 operations on 64 lanes."""
    assert gpu.score_clocks(64, 256, 64, 16, 4, 1.0) == pytest.approx(1.125)
    assert gpu.score_clocks(64, 256, 64, 16, 4, 100.0) == pytest.approx(1.0)


def test_keys_are_split_where_sequences_are_fewer_than_slots() -> None:
    """On 216 slots: 8 items fill 216 in 27 parts, and 23 parts already fill 85 % of them; 600 keys are five blocks of 128; 54 items fill
    216 in 4 parts; 173 fill four fifths of them."""
    assert gpu.kv_splits(np.array([8, 8, 54, 173, 500]), np.array([8192, 600, 8192, 8192, 8192]), 216).tolist() == [23, 5, 4, 1, 1]


def test_slots_idle_while_the_last_items_run() -> None:
    """150 items on 100 slots: two waves, in which 200 would have run."""
    assert gpu.partial_wave(np.array([50, 100, 150, 200]), 100) == pytest.approx([0, 0, 1 / 3, 0])


def test_heads_that_share_keys_are_packed_into_tiles_of_asynchronous_cores() -> None:
    """Four heads of 16 queries in one tile of 128; of 128 queries in four, whose last sees both halves of the keys of 256."""
    assert score_blocks(32, 8, 16, 16, 0, None, 128, True) == (8, 1, 1, 1, 128 * 128)
    assert score_blocks(32, 8, 128, 256, 128, None, 128, True) == (8, 4, 8, 2, 128 * 128)
    assert score_blocks(32, 8, 96, 96, 0, None, 64, True) == (8, 2, 2, 1, 192 * 128)
    assert score_blocks(32, 8, 16, 16, 0, None, 128, False) == (32, 1, 1, 1, 64 * 64)


def test_memory_and_the_longest_row_hold_up_prefill() -> None:
    """Four rows of 10 blocks in all on 2 SMs: 5 us and 2 x 0.5 us; the longest of 4 blocks: 4.5 us; memory 3 us."""
    assert gpu.prefill_s(4, 10, 4, 1e-6, 3e-6, 2, 0.5e-6, 1.0) == pytest.approx(6e-6 + 4.5e-6 + 3e-6)
    assert gpu.prefill_s(4, 10, 4, 1e-6, 3e-6, 2, 0.5e-6, 100.0) == pytest.approx(6e-6)


def test_streams_cost_elements_and_operations_and_reuse_the_l2() -> None:
    assert gpu.stream_s(1000, 3000, 10, 1e9, 0.2, 0.1) == pytest.approx(50e-9)
    assert gpu.row_s(1000, 1e9, 0.5) == pytest.approx(500e-9)
    assert gpu.missed_bytes(np.array([5.0, 10.0, 15.0, 99.0]), 10).tolist() == [0, 0, 5, 89]


# The board -------------------------------------------------------------------------------------------------------------------------------


def test_a_board_is_its_datasheet_at_sustained_rates() -> None:
    technology = technology_of(A100)
    assert technology is not None
    board = board_of(A100, technology, "bf16")
    assert board.flops_per_s == pytest.approx(311.9e12, rel=1e-3)
    assert board.headroom == pytest.approx(400 / (311.87e12 * technology.generation.energy_j_per_flop), rel=1e-3)
    assert board.dram_bytes_per_s == pytest.approx(2039e9 * technology.dram_sustained)
    assert board_of(A100, technology, "fp32").headroom == np.inf


@pytest.mark.parametrize("slower", [0.999, 0.5])
def test_power_limits_a_format_also_where_another_is_faster(slower: float) -> None:
    """Half the rate draws half the power; a rate that is hardly less draws hardly less."""
    technology = technology_of(A100)
    assert technology is not None
    own = board_of(A100, technology, "bf16").headroom
    changed = with_values(A100, {"matrix.rates.bf16": 256 * slower})
    assert board_of(changed, technology, "bf16").headroom == pytest.approx(own / slower)
    assert board_of(changed, technology, "fp16").headroom == own


def test_inline_ecc_costs_bandwidth() -> None:
    a40 = load_chip("a40")
    technology, without = technology_of(a40), technology_of(with_ecc(a40, "none"))
    assert technology is not None
    assert without is not None
    assert technology.dram_sustained < without.dram_sustained


def with_ecc(chip: Chip, ecc: str) -> Chip:
    return replace(chip, memory=(replace(chip.dram, ecc=ecc), *chip.memory[1:]))  # type: ignore[arg-type]


def test_a_technology_that_is_not_calibrated_keeps_the_mapper() -> None:
    for name in ("edge-npu", "mi210", "v100-pcie-32gb", "apple-m3-pro"):
        assert technology_of(load_chip(name)) is None


@pytest.mark.parametrize("name", BOARDS)
def test_a_launch_is_counted_once(name: str) -> None:
    """A GEMM of nearly nothing takes the technology's launch, and library files of such boards add none of their own."""
    chip = load_chip(name)
    constants = load_calibration().kernels.gemm
    timeline = predict_graph(gemm(16, 64, 64), chip, "tiled")
    assert chip.launch_s == 0
    assert constants.launch_s < timeline.total_s < constants.launch_s + 1e-6
    slower = predict_graph(gemm(16, 64, 64), with_values(chip, {"overhead.launch": 5e-6}), "tiled")
    assert slower.total_s == pytest.approx(timeline.total_s + 5e-6)


@pytest.mark.skipif(not MEASURED.is_dir(), reason=f"no measurements in {MEASURED}; ROOFTILE_MEASURED names their folder")
def test_every_gpu_with_tensor_cores_that_was_measured_is_in_the_library() -> None:
    names = set(pandas.read_csv(MEASURED / "hardware.csv", comment="#").hardware)
    aliases = {alias for name in chip_names() for alias in load_chip(name).aliases}
    others = ("P100", "P4", "MI50", "MI250X", "RX-", "TPU", "Intel", "Apple", "OnePlus", "Radeon", "GB10", "RTX2080", "A100-SXM4-80GB (330")
    assert {name for name in names - aliases if not name.startswith(others)} == set()


# Waves -----------------------------------------------------------------------------------------------------------------------------------


def waves_of(tiles: int, sms: int, matrix: float, dram: float, latency: float, after: float = 0.0) -> tuple[Played, Intervals]:
    """A GEMM of so many tiles, at one cycle per second."""
    planned = plan(gemm(64, 64, 64), A100)
    mapped = map_group(planned.classes[0], planned, Peaks.of(A100))
    assert isinstance(mapped.choice, GemmChoice)
    busy_s = {"dram": dram, "l2": 0.0, "smem": 0.0, "matrix": matrix, "vector": after}
    choice = replace(mapped.choice, besides_s={name: (after if name == "vector" else 0.0,) for name in busy_s})
    mapped = replace(mapped, choice=choice, waves=(tiles, sms), busy_s=busy_s, latency_s=latency)
    log = Log([*busy_s, "launch"])
    return play_waves(mapped, "dram", 1.0, log, GemmOps(0, 1)), log.intervals()


def test_a_last_wave_leaves_sms_without_a_tile() -> None:
    """10 tiles on 4 SMs: waves of 4, 4 and 2 tiles, each 4 cycles if all tensor cores together need 10; half of the last is lost."""
    played, tiles = waves_of(10, 4, 10.0, 3.0, 12.0)
    assert played.end == 12
    assert {cause: cycles for cause, cycles in played.stalls.items() if cycles} == {"array": 2.0}
    compute = (tiles.resource == tiles.resources.index("matrix")) & (tiles.what == tiles.kinds.index("compute"))
    assert tiles.start_s[compute].tolist() == [0, 4, 8]
    assert tiles.busy_s[compute].tolist() == [4, 4, 2]
    moves = tiles.resource == 0
    assert tiles.end_s[moves] == pytest.approx([1.2, 2.4, 3.0])


def test_a_tail_wave_follows_what_dram_brought_late() -> None:
    """5 tiles on 4 SMs, 1 cycle of tensor cores each alone: DRAM takes 10, of which 8 are the first wave's; its last tile ends at 10."""
    played, _ = waves_of(5, 4, 1.25, 10.0, 10.0)
    assert played.end == 10
    assert played.stalls["dram"] == pytest.approx(7 + 1)
    played, _ = waves_of(5, 4, 5.0, 10.0, 10.0)  # 4 cycles a wave: the tail tile ends 4 after the first wave's 8
    assert played.end == 12
    assert played.stalls["array"] == pytest.approx(3)


def test_waves_are_stretched_to_the_calibrated_figure() -> None:
    played, tiles = waves_of(8, 4, 8.0, 2.0, 13.0, after=1.0)
    assert played.end == 13
    assert played.stalls == pytest.approx({"dram": 0, "sram_space": 0, "array": 0, "vector": 1, "dependency": 4})
    assert sum(played.stalls.values()) + played.busy["matrix"] == pytest.approx(played.end)
    waits = tiles.cause == tiles.causes.index("dependency")
    assert tiles.end_s[waits].tolist() == [6, 12]


# Brackets, and what better hardware does -------------------------------------------------------------------------------------------------

kernel_graphs = st.one_of(
    st.builds(gemm, *[st.integers(1, 3000)] * 3),
    st.builds(lambda m, n, k: gemm(m, 64 * n, 64 * k), st.integers(1, 70), st.integers(1, 400), st.integers(1, 200)),
    st.builds(
        lambda batch, groups, kv_heads, length: attention("attn_prefill", batch, groups * kv_heads, kv_heads, length, length),
        *(st.integers(1, 8), st.sampled_from([1, 3, 4, 8]), st.integers(1, 8), st.integers(1, 3000)),
    ),
    st.builds(
        lambda batch, groups, kv_heads, length: attention("attn_decode", batch, groups * kv_heads, kv_heads, 1, length),
        *(st.integers(1, 200), st.sampled_from([1, 3, 4, 8]), st.integers(1, 8), st.integers(1, 20000)),
    ),
    st.builds(lambda m, n: kernel_graph("rmsnorm", BF16, {"M": m, "N": n}), st.integers(1, 5000), st.integers(1, 9000)),
    st.builds(lambda m, n: kernel_graph("silu_mul", BF16, {"M": m, "N": n}), st.integers(1, 5000), st.integers(1, 9000)),
)
boards = st.sampled_from(BOARDS).map(load_chip)


def adds_up(timeline: Timeline, roofline: Timeline) -> None:
    assert timeline.floor_s <= roofline.total_s * (1 + ROUNDING)
    assert roofline.total_s <= timeline.total_s * (1 + ROUNDING)
    lost = sum(float(column.sum()) for column in timeline.lost_s.values())
    assert all((column >= -1e-15).all() for column in timeline.lost_s.values())
    assert timeline.total_s == pytest.approx(roofline.total_s + lost, rel=ROUNDING)
    group_s = np.bincount(timeline.group, weights=timeline.latency_s)
    for seconds in timeline.resource_busy_s.values():
        assert (seconds <= group_s * (1 + ROUNDING)).all()
    useful = sum(figures["useful_macs"] for _, figures in timeline.rows())
    assert timeline.issued_macs.sum() >= useful
    assert timeline.dram_bytes.sum() >= roofline.dram_bytes.sum() * (1 - ROUNDING)


@quick
@given(graph=kernel_graphs, chip=boards)
def test_no_kernel_is_below_its_roofline_and_all_time_is_explained(graph: OpGraph, chip: Chip) -> None:
    roofline, tiled = predict_graph(graph, chip, "roofline"), predict_graph(graph, chip, "tiled")
    adds_up(tiled, roofline)
    cycle = predict_graph(graph, chip, "cycle")
    adds_up(cycle, roofline)
    assert tiled.total_s <= cycle.total_s * (1 + ROUNDING)
    assert all((cycle.resource_busy_s[name] == seconds).all() for name, seconds in tiled.resource_busy_s.items())


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", BOARDS)
def test_steps_of_models_too(name: str, phase: str) -> None:
    for fused in (True, False):
        graph = trace_model("stories15m", load_chip(name).default_format, phase=phase, batch=2, prompt=100)  # type: ignore[arg-type]
        adds_up(predict_graph(graph, name, "tiled", fused=fused), predict_graph(graph, name, "roofline", fused=fused))


@quick
@given(graph=kernel_graphs, chip=boards, factor=st.floats(1, 4))
@pytest.mark.parametrize("path", ["memory.dram.bandwidth", "tdp", "clock", "matrix.rates.bf16", "matrix.rates.fp16"])
def test_more_bandwidth_power_clock_or_rate_is_never_slower(path: str, graph: OpGraph, chip: Chip, factor: float) -> None:
    if path not in numeric_paths(chip):
        return
    better = with_values(chip, {path: float(value_of(chip, path)) * factor})
    assert predict_graph(graph, better, "tiled").total_s <= predict_graph(graph, chip, "tiled").total_s * (1 + ROUNDING)


@quick
@given(shape=st.tuples(*[st.integers(1, 6000)] * 3), chip=boards)
def test_the_recorded_tiles_fit_and_cover_the_product(shape: tuple[int, int, int], chip: Chip) -> None:
    """`cost_gemm` refuses what does not fit; padded tiles are at least the product."""
    planned = plan(gemm(*shape), chip)
    mapped = map_group(planned.classes[0], planned, Peaks.of(chip))
    assert isinstance(mapped.choice, GemmChoice)
    mapping = mapped.choice.mapping
    assert mapping.split[0] * mapping.split[1] <= chip.cores
    outer, inner = (stage.tile for stage in mapping.stages)
    assert outer.m <= mapping.split[0] * 256
    assert inner.m * inner.n <= 256 * 128
    assert mapped.issued_macs >= shape[0] * shape[1] * shape[2]


def test_blocks_that_fit_the_l2_are_not_read_again() -> None:
    technology = technology_of(H100)
    assert technology is not None
    board = board_of(H100, technology, "bf16")
    small, large = (kernels.blocks_of(Product(n, n, n), board).dram_bytes for n in (1024, 16384))
    assert small.min() == 3 * 2 * 1024**2
    assert large.min() > 3 * 2 * 16384**2


# Whole models ----------------------------------------------------------------------------------------------------------------------------


def test_int8_weights_pay_for_their_conversion() -> None:
    """Half of the weight bytes of bf16, and two operations for each of 6.6 G weights: 1.2 ms of about 9.9 on an A100."""
    bf16, int8 = (predict("llama-2-7b", A100, phase="decode", context=99, engine="tiled", weights=w).total_s for w in ("bf16", "int8"))
    assert 0.63 * bf16 < int8 < 0.73 * bf16


def test_warm_weights_are_read_from_l2() -> None:
    graph = gemm(16, 2048, 2048)
    warm = frozenset(tensor.name for tensor in graph.tensors.values())
    cold, hot = (predict_graph(each, A100, "tiled") for each in (graph, replace(graph, warm=warm)))
    assert hot.dram_bytes.sum() == 0
    assert hot.total_s < cold.total_s
    adds_up(hot, predict_graph(replace(graph, warm=warm), A100, "roofline"))


def test_what_the_l2_serves_takes_its_bytes_at_the_bandwidth_of_all_sms() -> None:
    """1 GB, beside which nothing else counts: of a GEMM's weights, and of the keys and values of 27 x 8 items, one for each place."""
    technology, warm = technology_of(A100), 1e9
    assert technology is not None
    board, constants = board_of(A100, technology, "bf16"), technology.kernels
    wanted_s = warm / (constants.warm.bytes * 108 * 1.41e9)
    products = kernels.gemm_candidates_s(Product(16, 512, 512), board, constants, np.zeros(len(gpu.GEMM_TILES)), warm)
    assert products.min() == pytest.approx(wanted_s, rel=0.01)
    heads = kernels.Heads(27, 32, 8, 1, 128, 128)
    assert float(kernels.decode_attention_s(heads, board, constants, 0.0, warm)) == pytest.approx(wanted_s, rel=0.01)


def test_a_cache_larger_than_the_l2_is_warm_in_part() -> None:
    graph = attention("attn_decode", 64, 32, 8, 1, 4096)
    warm = frozenset(tensor.name for tensor in graph.tensors.values() if tensor.role != "intermediate")
    cold, hot = (predict_graph(each, A100, "tiled") for each in (graph, replace(graph, warm=warm)))
    assert 0 < cold.dram_bytes.sum() - hot.dram_bytes.sum() <= A100.memory[1].capacity_bytes


def test_short_queries_of_a_long_context_split_its_keys() -> None:
    """Four tokens after 16,384: the kernel that splits keys, not one row of blocks per head."""
    graph = trace_model("llama-3.2-1b", "bf16", phase="decode", context=16384)
    decode = predict_graph(graph, A100, "tiled").total_s
    assert decode < 2 * predict("llama-3.2-1b", A100, phase="decode", context=512, engine="tiled").total_s


@pytest.mark.parametrize("name", BOARDS)
def test_wide_formats_have_tiles_that_fit(name: str) -> None:
    """Both operands of 256 x 128 in fp32 and 64 of k are 192 KiB in two buffers; half of that k fits."""
    chip = load_chip(name)
    for size in (64, 4096):
        graph = kernel_graph("gemm", Formats.of("fp32"), {"M": size, "N": size, "K": size})
        adds_up(predict_graph(graph, chip, "tiled"), predict_graph(graph, chip, "roofline"))


@pytest.mark.parametrize(("n", "k"), [(2048, 64), (96, 2048)])
def test_a_batched_product_is_either_product_of_attention(n: int, k: int) -> None:
    """Scores of 2,048 keys, or their weighted sum: no operand is brought in again and again."""
    graph = kernel_graph("bmm", Formats.of("fp32"), {"batch": 64, "M": 2048, "N": n, "K": k})
    assert predict_graph(graph, A100, "tiled").total_s < 2 * predict_graph(graph, A100, "roofline").total_s


def test_a_last_wave_that_is_not_full_holds_up_decode() -> None:
    """27 sequences of 8 KV heads fill 216 slots of an A100 once, 32 nearly once and a fifth."""
    full, more = (predict_graph(attention("attn_decode", batch, 32, 8, 1, 8192), A100, "tiled").total_s for batch in (27, 32))
    assert more > 1.08 * 32 / 27 * full


def test_new_keys_and_values_pass_memory_in_prefill() -> None:
    """64 prompts of 512 on an A100: four times the KV heads bring 0.8 GB more past memory, for the same products."""
    few, many = (predict_graph(attention("attn_prefill", 64, 32, kv_heads, 512, 512), A100, "tiled").total_s for kv_heads in (8, 32))
    assert many > 1.2 * few


def test_one_row_is_the_work_of_one_block_of_threads() -> None:
    """A row of 16,384 elements takes as long on any number of SMs, and a launch; four rows take no longer."""
    constants = load_calibration().kernels.stream
    one, four = (predict_graph(kernel_graph("rmsnorm", BF16, {"M": m, "N": 16384}), A100, "tiled").total_s for m in (1, 4))
    assert one == pytest.approx(constants.launch_s + 16384 * constants.row_clocks / 1.41e9, rel=1e-3)
    assert four == pytest.approx(one, rel=1e-3)


def test_sms_share_keys_of_int8_attention_in_the_l2() -> None:
    """Whole rows of scores, of few queries at a time: without the L2 every tile of queries would bring all keys from DRAM."""
    dims = {"batch": 1, "heads": 32, "kv_heads": 8, "head_dim": 128, "q_len": 8192, "kv_len": 8192}
    graph = kernel_graph("attn_prefill", Formats.of("int8"), dims)
    assert predict_graph(graph, "a40", "tiled").total_s < 5 * predict_graph(graph, "a40", "roofline").total_s


@pytest.mark.parametrize("name", BOARDS)
def test_large_kernels_are_within_reach_of_the_roofline_on_every_board(name: str) -> None:
    """Of any size and format, prompts and contexts up to 128 Ki: finite, not below the roofline, and no more than five times that."""
    chip = load_chip(name)
    formats = [Formats.of(each) for each in ("bf16", "fp16", "fp8", "int8") if each in chip.formats]
    graphs = [kernel_graph("gemm", each, {"M": m, "N": 28672, "K": 8192}) for each in formats for m in (1, 64, 8192)]
    wide = [each for each in formats if each.activations in ("bf16", "fp16")]
    for batch, heads, kv_heads, q_len, kv_len, head_dim in (
        (1, 64, 8, 8192, 8192, 128),
        (32, 32, 8, 2048, 2048, 64),
        (1, 24, 8, 1, 131072, 128),
        (512, 32, 8, 1, 2048, 128),
    ):
        dims = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "q_len": q_len, "kv_len": kv_len}
        graphs += [kernel_graph("attn_decode" if q_len == 1 else "attn_prefill", each, dims) for each in wide]
    for graph in graphs:
        tiled, roofline = (predict_graph(graph, chip, engine).total_s for engine in ("tiled", "roofline"))
        assert roofline >= 20e-6
        assert roofline * (1 - ROUNDING) <= tiled < 5 * roofline


def test_groups_say_what_bounds_them() -> None:
    assert predict_graph(gemm(8192, 8192, 8192), A100, "tiled").bound_by[0] == "matrix"
    assert predict_graph(gemm(1, 8192, 8192), A100, "tiled").bound_by[0] == "dram"
    assert predict_graph(gemm(1, 128, 128), A100, "tiled").bound_by[0] == "launch"


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "number_format"), [("prefill", "bf16"), ("decode", "bf16"), ("prefill", "int8")])
def test_what_is_timed_is_executed(phase: str, number_format: str) -> None:
    found = verify("stories15m", H100, phase=phase, prompt=70, batch=2, layers=1, number_format=number_format)  # type: ignore[arg-type]
    assert found.passed, found.first_difference


@pytest.mark.parametrize(("m", "n", "k"), [(2048, 2048, 128), (2048, 128, 2048), (1, 3072, 128)])
def test_a_batched_product_moves_each_operand_once(m: int, n: int, k: int) -> None:
    """A head's keys or values lie in the L2 while all its queries pass, and scores pass DRAM whether written or read."""
    product = kernel_graph("bmm", BF16, {"batch": 192, "M": m, "N": n, "K": k})
    timeline = predict_graph(product, A100, "tiled")
    every = 2 * 192 * (m * k + n * k + m * n)
    assert float(timeline.dram_bytes.sum()) == pytest.approx(every, rel=1e-3)
    assert timeline.total_s >= every / 2039e9


def test_unfused_scores_pass_dram_on_other_chips_too() -> None:
    """edge-npu: 64 queries and keys of four heads; what is read once and written once is no less than all tensors."""
    edge = load_chip("edge-npu")
    for op in ("attn_scores", "attn_context"):
        sizes = {"batch": 1, "heads": 4, "kv_heads": 4, "head_dim": 32, "q_len": 64, "kv_len": 64}
        timeline = predict_graph(kernel_graph(op, BF16, sizes), edge, "tiled")
        assert float(timeline.dram_bytes.sum()) >= 2 * 4 * (64 * 32 * 2 + 64 * 64)
