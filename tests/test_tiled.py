"""Defends: floor <= roofline <= tiled, group by group, and that what tiled adds is accounted for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from functional.config import ModelConfig
from functional.errors import BadInput
from hwmodels import Chip, chip_names, load_chip, with_values
from hwmodels.paths import numeric_paths, recorded_paths, value_of
from sim import predict, predict_graph, trace_model
from sim.engines import ENGINES, tiled
from sim.engines.roofline import Peaks
from sim.mapper import choice_of, map_gemm
from sim.mapper.cost import evaluate
from sim.mapper.problem import setting_of
from sim.mapping import Gemm, chip_stages
from sim.plan import plan
from sim.timeline import Timeline
from tests.bench.bench_longer import ROUNDING as NOISE
from tests.bench.bench_longer_steps import cases
from tests.chips import chip_of, chips, models, round_model
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats, Phase, Scenario
from workloads.trace import trace

ROUNDING = 1 - 1e-9


def check_bracket(graph: OpGraph, chip: Chip, fused: bool = True) -> Timeline:
    """Everything that must hold between the two engines on one step."""
    planned = plan(graph, chip, fused)
    for ideal, mapped in zip(ENGINES["roofline"](planned), ENGINES["tiled"](planned), strict=True):
        assert mapped.latency_s >= ideal.latency_s * ROUNDING
        for resource, seconds in ideal.busy_s.items():
            assert mapped.busy_s[resource] >= seconds * ROUNDING, resource
    roofline, tiled = predict_graph(graph, chip, "roofline", fused=fused), predict_graph(graph, chip, "tiled", fused=fused)
    assert roofline.floor_s == tiled.floor_s <= roofline.total_s / ROUNDING
    assert math.isclose(tiled.latency_s.sum(), tiled.total_s, rel_tol=1e-9)
    lost = sum(float(seconds.sum()) for seconds in tiled.lost_s.values())
    assert math.isclose(roofline.total_s + lost, tiled.total_s, rel_tol=1e-9)
    assert all(float(seconds.min()) >= -1e-12 * tiled.total_s for seconds in tiled.lost_s.values())
    assert np.all(tiled.issued_macs >= roofline.issued_macs * ROUNDING - 1)
    assert float(tiled.dram_bytes.sum()) >= float(roofline.dram_bytes.sum()) * ROUNDING
    return tiled


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", chip_names())
def test_library_chips_1b(chip_name: str, phase: Phase) -> None:
    chip = load_chip(chip_name)
    check_bracket(trace_model("llama-3.2-1b", chip.default_format, phase=phase), chip)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", chip_names())
def test_library_chips_3b_batch_and_odd_lengths(chip_name: str, phase: Phase) -> None:
    chip = load_chip(chip_name)
    check_bracket(trace_model("llama-3.2-3b", chip.default_format, phase=phase, batch=3, prompt=37, context=130), chip)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "tpu-v4i"])
def test_unfused(chip_name: str, phase: Phase) -> None:
    chip = load_chip(chip_name)
    graph = trace_model("stories15m", chip.default_format, phase=phase, prompt=100)
    fused, unfused = check_bracket(graph, chip), check_bracket(graph, chip, fused=False)
    assert fused.total_s <= unfused.total_s


def test_sliding_window() -> None:
    chip = load_chip("edge-npu")
    near = check_bracket(trace_model("mistral-7b", "int8", phase="decode", context=4096), chip)
    far = check_bracket(trace_model("mistral-7b", "int8", phase="decode", context=20_000), chip)
    assert far.total_s == near.total_s


def in_scope(chip: Chip) -> bool:
    """Levels of the chip outside levels of its cores, one stage that cores share at most, two stages and seven cores at most (the search
    for more takes seconds)."""
    stages = chip_stages(chip)
    levels = [level.per for level in chip.memory[1:]]
    return levels == sorted(levels) and sum(not stage.per_core for stage in stages) <= 1 and len(stages) <= 2 and int(chip.cores) <= 7


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(chip=chips(), model=models())
def test_random_chips_and_models(chip: Chip, model: ModelConfig) -> None:
    assume(in_scope(chip))
    for scenario in (Scenario.prefill(Formats.of("bf16"), 2, 19), Scenario.decode(Formats.of("bf16"), 3, 45)):
        try:
            check_bracket(trace(model, scenario), chip)
        except BadInput as refused:
            if "memory." not in str(refused):  # not one pass fits, and the message says which field to raise
                raise


def test_weights_of_half_a_byte_more_share_it_with_the_next() -> None:
    """gate and up of 25 x 11 in int4 are 137.5 bytes each and their scales 100; together 475."""
    model = ModelConfig("odd", 11, 25, 1, 3, 3, 11, 7, 256, 1e-5, 10_000.0, tie_word_embeddings=True)
    chip = with_values(load_chip("edge-npu"), {"memory.dram.burst": 1, "memory.dram.bandwidth": 1e6})
    graph = trace(model, Scenario.prefill(Formats.of("int8", weights="int4"), 1, 5))
    planned = plan(graph, chip)
    ideal, mapped = (
        {each.ops[0].name: times.moved_bytes["dram"] for each, times in zip(planned.classes, ENGINES[engine](planned), strict=True)}
        for engine in ("roofline", "tiled")
    )
    assert all(mapped[name] >= least for name, least in ideal.items())
    assert (ideal["layers.0.mlp.gate_proj"], mapped["layers.0.mlp.gate_proj"]) == (474, 475)


_ONE_BY_ONE = """\
name: one-by-one
sources: [invented for tests]
standing: assumed
default_format: bf16
clock: 1 MHz
cores: 1
matrix: {kind: tensor_core, count: 1, tile: {m: 1, n: 1, k: 5}, rates: {bf16: 1}, accumulate: {bf16: fp32}}
vector: {lanes: 1, cycles: {add: 1, mul: 1, exp: 1, rsqrt: 1, convert: 1}}
memory:
  dram: {capacity: 1 TiB, bandwidth: {read: 1 MB/s, write: 1 MB/s}, burst: 64 B}
"""

_APART = """\
  tiles: {capacity: 48 B, bandwidth: {read: 1 MB/s, write: 1 MB/s}, holds: [weights, activations]}
  sums: {capacity: 48 B, bandwidth: 1 MB/s, holds: [psums]}
"""

_TOGETHER = """\
  outer: {capacity: 96 B, bandwidth: {read: 1 MB/s, write: 1 MB/s}}
  inner: {capacity: 96 B, bandwidth: {read: 1 MB/s, write: 1 MB/s}}
"""


def _tiny_step(hidden_size: int, head_dim: int = 2) -> OpGraph:
    """So narrow that it is nearly all logits."""
    model = ModelConfig(
        name="tiny",
        hidden_size=hidden_size,
        intermediate_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=head_dim,
        vocab_size=600,
        max_position_embeddings=10_000,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
    )
    return trace(model, Scenario.prefill(Formats.of("bf16"), 2, 19))


def test_a_result_leaves_from_its_sums() -> None:
    """Not through the level of the operands; 1,200 logits in fp32 are written into the sums and read there in bf16."""
    chip = chip_of(_ONE_BY_ONE + _APART)
    graph = _tiny_step(1)
    check_bracket(graph, chip)
    planned = plan(graph, chip)
    head = next(i for i, each in enumerate(planned.classes) if each.ops[0].name == "lm_head")
    busy_s = ENGINES["roofline"](planned)[head].busy_s
    assert busy_s["tiles"] == pytest.approx((600 + 2) * 2 / 1e6)
    assert busy_s["sums"] == pytest.approx(1200 * (4 + 2) / 1e6)


@pytest.mark.parametrize("capacity_bytes", [48.0, 1e3, 1e6])
@pytest.mark.parametrize("memory", [_APART, _TOGETHER])
def test_results_of_lone_linears_leave_their_sums_wherever_they_go(memory: str, capacity_bytes: float) -> None:
    """Without fusion: to DRAM, or to where they stay."""
    chip = chip_of(_ONE_BY_ONE + memory)
    chip = with_values(chip, {f"memory.{chip.memory[1].name}.capacity": capacity_bytes})
    check_bracket(_tiny_step(4), chip, fused=False)


@pytest.mark.parametrize(("capacity_bytes", "through_dram"), [(100.0, True), (1e6, False)])
def test_what_a_lone_linear_makes_passes_its_sums_and_is_written_where_it_may_stay(capacity_bytes: float, through_dram: bool) -> None:
    """38 rows of 2 in bf16, made of 38 of 4 and 8 weights: 76 sums in fp32 are written and read in bf16, whether they stay or not."""
    chip = with_values(chip_of(_ONE_BY_ONE + _APART), {"memory.tiles.capacity": capacity_bytes, "memory.dram.bandwidth": 1e9})
    planned = plan(_tiny_step(4), chip, fused=False)
    which = next(i for i, each in enumerate(planned.classes) if each.ops[0].name.endswith("q_proj"))
    assert tiled.stays(planned, planned.classes[which].ops[0].name) is not through_dram
    ideal, mapped = (ENGINES[engine](planned)[which].busy_s for engine in ("roofline", "tiled"))
    assert ideal["sums"] == mapped["sums"] == pytest.approx(76 * (4 + 2) / 1e6)
    assert ideal["tiles"] == pytest.approx((38 * 4 + 4 * 2) * 2 / 1e6)  # reads; it writes less
    choice = tiled.map_group(planned.classes[which], planned, Peaks.of(chip)).choice
    assert isinstance(choice, tiled.GemmChoice)
    assert choice.besides_s["tiles"] == pytest.approx((0.0, 76 * 2 / 1e6))
    assert (choice.cost.dram_written_bytes > 0) is through_dram
    # One port reads for the GEMM while the other writes for it and besides.
    read_s, written_s = choice.cost.read_bytes["tiles"] / 1e6, choice.cost.written_bytes["tiles"] / 1e6
    assert mapped["tiles"] == pytest.approx(max(read_s, written_s + 76 * 2 / 1e6))
    assert mapped["tiles"] < max(read_s, written_s) + 76 * 2 / 1e6


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("memory", [_APART, _TOGETHER])
def test_more_room_on_the_chip_is_never_slower(memory: str, fused: bool) -> None:
    """Nor where what stays is written into a port that is slower than DRAM."""
    chip, graph = chip_of(_ONE_BY_ONE + memory), _tiny_step(4)
    sizes = [48.0, 100.0, 400.0, 1e3, 3e3, 1e4, 1e6]
    chips = [with_values(chip, {f"memory.{chip.memory[1].name}.capacity": size, "memory.dram.bandwidth": 1e9}) for size in sizes]
    for engine in ("roofline", "tiled"):
        latencies = [predict_graph(graph, each, engine, fused=fused).total_s for each in chips]
        assert all(more <= less * (1 + 1e-12) for less, more in pairwise(latencies))


def test_ports_are_busy_as_long_as_the_busier_one() -> None:
    """Also where the other one has more to wait for at the end."""
    check_bracket(_tiny_step(4), with_values(chip_of(_ONE_BY_ONE + _TOGETHER), {"memory.outer.capacity": 1000.0}))


def test_keys_that_stay_where_values_do_not() -> None:
    """What comes from DRAM in the roofline does in tiled."""
    chip = with_values(chip_of(_ONE_BY_ONE + _TOGETHER), {"memory.outer.capacity": 35_000.0, "memory.inner.capacity": 2_000.0})
    planned = plan(_tiny_step(4, head_dim=64), chip)
    assert tiled.stays(planned, "layers.0.self_attn.k_cache")
    assert not tiled.stays(planned, "layers.0.self_attn.v_cache")
    check_bracket(planned.graph, chip)


@pytest.mark.parametrize("path", ["memory.dram.bandwidth", "clock", "memory.sram.bandwidth", "matrix.rates.int8", "vector.lanes"])
@pytest.mark.parametrize("phase", PHASES)
def test_more_is_never_slower(path: str, phase: Phase) -> None:
    chip = load_chip("edge-npu")
    graph = trace_model("llama-3.2-1b", "int8", phase=phase, prompt=64)
    base = value_of(chip, path)
    latencies = [predict_graph(graph, with_values(chip, {path: base * factor}), "tiled").total_s for factor in (1, 2, 4)]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("name", ["edge-npu", "gemmini-default"])
def test_a_little_more_bandwidth_is_never_slower(name: str) -> None:
    """Element-wise ops and scales move bytes beside the products: the mapping that is best with them is not the one that is best alone."""
    graph, chip = trace_model("llama-3.2-1b", "int8", phase="prefill", prompt=512), load_chip(name)
    bandwidths = [6.2859e9, 6.286e9, *np.geomspace(6.3e9, 9e9, 12).tolist()]
    latencies = [predict_graph(graph, with_values(chip, {"memory.dram.bandwidth": each}), "tiled").total_s for each in bandwidths]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("pieces", [1, 2])
def test_what_the_mapper_makes_least_is_what_a_group_takes(pieces: int) -> None:
    """On a group that waits for DRAM, to the grid of the search."""
    chip = with_values(load_chip("edge-npu"), {"memory.dram.bandwidth": 2e9, "cores": pieces})
    planned = plan(trace_model("llama-3.2-1b", "int8", phase="prefill", prompt=300, split=pieces), chip)
    for each in planned.classes:
        mapped = tiled.map_group(each, planned, Peaks.of(chip))
        if isinstance(mapped.choice, tiled.GemmChoice):
            gemm, a_resident = tiled.gemm_of(each, planned)
            setting = setting_of(gemm, chip, a_resident, tiled.moved_besides(each, planned), pieces)
            found = evaluate(setting, choice_of(mapped.choice.mapping))
            assert mapped.latency_s == max(found.latency_s, mapped.busy_s["vector"]) > found.own_s


def test_longer_contexts_and_larger_batches_are_never_faster() -> None:
    contexts = [predict("llama-3.2-1b", "edge-npu", phase="decode", context=n, engine="tiled").total_s for n in (1, 100, 500, 2000)]
    batches = [predict("llama-3.2-1b", "edge-npu", phase="decode", batch=n, engine="tiled").total_s for n in (1, 2, 5, 16)]
    assert contexts == sorted(contexts)
    assert batches == sorted(batches)


@pytest.mark.slow
@pytest.mark.parametrize(("is_random", "seeds"), [
    (False, range(20)),
    # Some, and those that were faster: attention kept whole rows wherever they fitted, its queries were cut into equal parts for the cores,
    # and tiles into equal parts for matrix units.
    (True, [*range(12), 36, 141, 353, 394, 650, 714, 883]),
])
def test_steps_that_are_a_little_longer_are_not_faster(is_random: bool, seeds: Sequence[int]) -> None:
    found = [case for seed in seeds for case in cases(seed, is_random, "tiled")]
    assert len(found) > 100
    assert max(case.faster for case in found) <= NOISE


def test_one_token_does_not_fill_a_systolic_array() -> None:
    """Weights enter a 32 x 32 array one row per cycle: 32 cycles for 1,024 of them, whatever DRAM could deliver."""
    step = predict("llama-3.2-1b", "edge-npu", phase="decode", context=512, engine="tiled")
    linear_weights = 16 * (2048 * (2048 + 2 * 512 + 2048) + 3 * 2048 * 8192) + 128256 * 2048
    assert step.total_s >= linear_weights / 1024 * 32 / 1e9
    assert next(iter(step.bound_shares)) == "matrix"


DRAM = "{capacity: 8 GiB, bandwidth: 51.2 GB/s, latency: 100 ns, burst: 64 B}"
L2 = "l2: {capacity: 4 MiB, bandwidth: 512 B/cycle, holds: [weights, activations]}"
SRAM = "sram: {capacity: 256 KiB, bandwidth: 256 B/cycle, per: core, holds: [weights, activations]}"
SUMS = "acc: {capacity: 64 KiB, bandwidth: 256 B/cycle, per: core, holds: [psums]}"


@pytest.mark.parametrize(
    ("name", "engine"), [*product(("edge-npu", "gemmini-default", "tpu-v4i"), ("tiled", "cycle")), ("with an L2", "tiled")]
)
def test_latencies_and_bursts_touch_time_unless_they_are_for_the_record(name: str, engine: str) -> None:
    chip = load_chip(name) if name in chip_names() else _around_edge_npu(L2, SRAM, SUMS)
    graph = trace(round_model(), Scenario.prefill(Formats.of(chip.default_format), prompt=3))
    known_s = predict_graph(graph, chip, engine).total_s
    for i, level in enumerate(chip.memory):
        for field, changed in (("latency", replace(level, latency_s=1.5e-7)), ("burst", replace(level, burst_bytes=4096))):
            slower = replace(chip, memory=(*chip.memory[:i], changed, *chip.memory[i + 1 :]))
            is_record = f"memory.{level.name}.{field}" in recorded_paths(chip)
            assert (predict_graph(graph, slower, engine).total_s == known_s) is is_record, (level.name, field)


def _around_edge_npu(*levels: str) -> Chip:
    return chip_of("\n  ".join(["base: edge-npu\nname: more\ncores: 2\nmemory:", f"dram: {DRAM}", *levels]))


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_are_refused(engine: str) -> None:
    """Numbers of a chip, lengths and batches, whichever they are: a timeline is of one step of one chip."""
    chip, graph = load_chip("edge-npu"), trace_model("stories15m", "int8", prompt=8)
    for path in numeric_paths(chip):
        number = value_of(chip, path) or 1e-9
        two = with_values(chip, {path: np.array([number, number / 2 if path == "resident_share" else 2 * number])})
        named = path.removesuffix(".read") if path.endswith("bandwidth.read") else path
        with pytest.raises(BadInput, match=rf"^{named}.*has arrays for numbers; .*roofline"):
            predict_graph(graph, two, engine)
    for flag, lengths in (("prompt", {"prompt": np.array([8, 16])}), ("batch", {"prompt": 8, "batch": np.array([1, 2])})):
        with pytest.raises(BadInput, match=f"^--{flag}: is an array of 2; .* arrays of batches or lengths call roofline_grid"):
            predict_graph(trace_model("stories15m", "int8", **lengths), chip, engine)


@pytest.mark.parametrize("path", ["clock", "matrix.rates.int8", "matrix.rows", "memory.dram.latency", "memory.sram.bandwidth"])
def test_arrays_are_not_mapped(path: str) -> None:
    chip = load_chip("edge-npu")
    two = with_values(chip, {path: np.array([1, 2]) * value_of(chip, path)})
    with pytest.raises(BadInput, match=f"^{path}: edge-npu has arrays for numbers; map one chip at a time"):
        map_gemm(Gemm(8, 8, 8, 8, 8, 8, 32, "int8"), two)


def test_an_empty_array_is_no_length() -> None:
    with pytest.raises(BadInput, match="--context: is an empty array; give at least one number"):
        trace_model("stories15m", "int8", phase="decode", context=np.array([], dtype=int))
