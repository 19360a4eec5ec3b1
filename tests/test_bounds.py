"""Truth defended: no prediction beats physics, better hardware is never slower, more work is never faster, and parts sum to the whole."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functional.config import ModelConfig
from functional.work import Contraction
from hwmodels import Chip, chip_names, load_chip, numeric_paths, with_values
from hwmodels.paths import value_of
from sim import Timeline, model_names, predict, predict_graph, trace_model
from sim.engines import ENGINES
from sim.timeline import Memory
from tests.chips import FORMATS, chips, graphs, models
from workloads.demand import demand
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats, Phase, Scenario
from workloads.trace import trace

ROUNDING = 1e-12
MODELS, CHIPS = model_names(), chip_names()
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@cache
def library_graph(model: str, number_format: str, phase: Phase, length: int) -> OpGraph:
    return trace_model(model, number_format, phase=phase, prompt=length)


def is_above_its_floor_and_adds_up(timeline: Timeline) -> list[dict[str, Any]]:
    """The figures of its ops, which hold this."""
    rows = [figures for _, figures in timeline.rows()]
    assert 0 < timeline.floor_s <= timeline.total_s * (1 + ROUNDING)
    assert sum(figures["latency_s"] for figures in rows) == pytest.approx(timeline.total_s, rel=ROUNDING)
    assert sum(part.latency_s for part in timeline.components) == pytest.approx(timeline.total_s, rel=ROUNDING)
    assert sum(timeline.bound_shares.values()) == pytest.approx(1, rel=ROUNDING)
    assert all(figures["latency_s"] >= 0 for figures in rows)
    return rows


# The library -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", CHIPS)
def test_every_model_on_every_chip_is_above_its_floor_adds_up_and_gains_by_fusion(chip: str) -> None:
    built = load_chip(chip)
    for model in MODELS:
        for phase in PHASES:
            graph = library_graph(model, built.default_format, phase, 128)
            together, apart = (predict_graph(graph, built, "roofline", fused=fused) for fused in (True, False))
            rows = [is_above_its_floor_and_adds_up(timeline) for timeline in (together, apart)]
            assert together.total_s <= apart.total_s * (1 + ROUNDING)
            assert together.group.max() < apart.group.max() == len(graph.ops) - 1
            useful = sum(op.work.useful_macs for op in graph.ops if isinstance(op.work, Contraction))
            assert [sum(figures["useful_macs"] for figures in each) for each in rows] == [useful, useful]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chip", ["edge-npu", "gemmini-default", "a100-sxm4-80gb"])
def test_every_engine_is_above_the_floor_and_adds_up(chip: str, engine: str) -> None:
    built = load_chip(chip)
    for phase in PHASES:
        is_above_its_floor_and_adds_up(predict_graph(library_graph("llama-3.2-1b", built.default_format, phase, 128), built, engine))


# Compulsory bytes by hand ----------------------------------------------------------------------------------------------------------------

# Llama 3.2 1B: a layer has 2048 x 2048 x 2 + 2048 x 512 x 2 + 3 x 2048 x 8192 + 2 x 2048 = 60821504 weights; 16 layers, the table of
# 128256 x 2048 that lm_head shares, and the last norm: 1235814400. A token has 16 layers x 2 x 8 heads x 64 = 16384 cache entries.
WEIGHTS_1B = 1_235_814_400
SCALES_1B = 4 * (128_256 + 16 * (2 * 2048 + 2 * 512 + 2 * 8192 + 2048))
"""int8: an fp32 scale per row of the table and of q, o, k, v, gate, up and down."""
CACHE_PER_TOKEN_1B = 16_384


@pytest.mark.parametrize("fused", [True, False])
def test_compulsory_bytes_of_a_decode_step(fused: bool) -> None:
    asked = demand(trace_model("llama-3.2-1b", "bf16", phase="decode", batch=4, context=1000), fused)
    assert asked.compulsory_bytes(is_write=False) == 2 * WEIGHTS_1B + 4 * 1000 * 2 * CACHE_PER_TOKEN_1B + 4 * 4
    assert asked.compulsory_bytes(is_write=True) == 4 * 2 * CACHE_PER_TOKEN_1B + 4 * 128_256 * 2


@pytest.mark.parametrize("fused", [True, False])
def test_compulsory_bytes_of_a_prefill(fused: bool) -> None:
    asked = demand(trace_model("llama-3.2-1b", "int8", phase="prefill", batch=2, prompt=300), fused)
    assert asked.compulsory_bytes(is_write=False) == WEIGHTS_1B + SCALES_1B + 2 * 300 * 4
    assert asked.compulsory_bytes(is_write=True) == 600 * CACHE_PER_TOKEN_1B + 2 * 128_256


def test_of_a_table_of_its_own_only_the_gathered_rows_are_compulsory() -> None:
    # Llama 3.1 8B has 8030261248 weights, 128256 x 4096 of them in a table that lm_head does not share; 7 tokens gather 7 rows.
    asked = demand(trace_model("llama-3.1-8b", "bf16", phase="prefill", prompt=7))
    assert asked.compulsory_bytes(is_write=False) == 2 * (8_030_261_248 - 128_256 * 4096 + 7 * 4096) + 7 * 4


# What fits and what does not -------------------------------------------------------------------------------------------------------------


def test_70b_does_not_fit_the_edge_and_is_predicted_all_the_same() -> None:
    timeline = predict("llama-3.1-70b", "edge-npu", phase="decode", engine="roofline")
    assert not timeline.memory.fits
    # int8, with an fp32 scale per row: two tables of 128,256 words, and 80 layers of 8192 + 2 x 1024 + 8192 + 2 x 28672 + 8192 rows.
    assert timeline.memory.weights_bytes == 70_553_706_496 + 4 * (2 * 128_256 + 80 * 83_968)
    assert timeline.total_s > 70_553_706_496 / 51.2e9 * 0.98  # it still has to be read, but for the embedding table
    assert not timeline.to_dict()["memory"]["fits"]


def test_a_step_fits_up_to_the_last_byte() -> None:
    chip = load_chip("edge-npu")
    graph = trace_model("llama-3.2-1b", "int8", phase="decode", context=100)

    def memory_of(capacity_bytes: float) -> Memory:
        return predict_graph(graph, with_values(chip, {"memory.dram.capacity": capacity_bytes}), "roofline").memory

    memory = memory_of(8e9)
    assert memory.fits
    assert memory.needed_bytes == memory.weights_bytes + memory.kv_cache_bytes + memory.activations_bytes
    assert memory.weights_bytes == WEIGHTS_1B + SCALES_1B
    assert memory.kv_cache_bytes == 101 * CACHE_PER_TOKEN_1B
    assert memory_of(memory.needed_bytes).fits
    assert not memory_of(memory.needed_bytes - 1).fits


@pytest.mark.parametrize(("fused", "bytes_per_token"), [(True, 288 + 192 + 288 + 3 * 288), (False, 288 + 192 + 3 * 768)])
def test_the_most_intermediates_alive_at_a_time(fused: bool, bytes_per_token: int) -> None:
    """stories15m in int8: the residual stream and RoPE's tables (two of 48 in bf16), beside these what the norm made, q, k and v; unfused
    the activated gate, up and their product."""
    for phase, tokens in (("prefill", 16), ("decode", 1)):
        graph = trace_model("stories15m", "int8", phase=phase, prompt=16)  # type: ignore[arg-type]
        memory = predict_graph(graph, load_chip("edge-npu"), "roofline", fused=fused).memory
        assert memory.activations_bytes == tokens * bytes_per_token


# Random chips ----------------------------------------------------------------------------------------------------------------------------


@quick
@given(chips(), graphs(), st.booleans())
def test_no_step_of_any_chip_beats_its_floor(chip: Chip, graph: OpGraph, fused: bool) -> None:
    is_above_its_floor_and_adds_up(predict_graph(graph, chip, "roofline", fused=fused))


@quick
@given(chips(), graphs())
def test_fusion_never_makes_a_step_slower(chip: Chip, graph: OpGraph) -> None:
    together, apart = (predict_graph(graph, chip, "roofline", fused=fused).total_s for fused in (True, False))
    assert together <= apart * (1 + ROUNDING)


SLOWER_IF_RAISED = ("latency", "launch", ".cycles.")


@settings(quick, max_examples=20)  # of some 30 numbers each
@given(chips(), graphs(), st.booleans(), st.sampled_from([2, 3, 10]))
def test_no_better_number_makes_a_step_slower(chip: Chip, graph: OpGraph, fused: bool, factor: int) -> None:
    before_s = predict_graph(graph, chip, "roofline", fused=fused).total_s
    for path in numeric_paths(chip):
        better = with_values(chip, {path: raised(chip, path, factor)})
        after_s = predict_graph(graph, better, "roofline", fused=fused).total_s
        if any(part in path for part in SLOWER_IF_RAISED):
            assert after_s >= before_s * (1 - ROUNDING), path
        else:
            assert after_s <= before_s * (1 + ROUNDING), path


def raised(chip: Chip, path: str, factor: int) -> float:
    """A number of the chip times the factor; a share goes so far towards 1, a bandwidth for both directions beyond the better one."""
    if path == "resident_share":
        return 1 - (1 - float(value_of(chip, path))) / factor
    if path.endswith(".bandwidth"):
        return factor * max(float(value_of(chip, f"{path}.{direction}")) for direction in ("read", "write"))
    return factor * float(value_of(chip, path))


@quick
@given(chips(), models(), FORMATS, st.lists(st.integers(1, 600), min_size=2, max_size=4, unique=True), st.integers(1, 4), st.booleans())
def test_a_longer_step_is_never_faster(
    chip: Chip, model: ModelConfig, formats: Formats, lengths: list[int], batch: int, fused: bool
) -> None:
    for make in (Scenario.prefill, Scenario.decode):
        steps = [predict_graph(trace(model, make(formats, batch, length)), chip, "roofline", fused=fused) for length in sorted(lengths)]
        assert all(shorter.total_s <= longer.total_s * (1 + ROUNDING) for shorter, longer in pairwise(steps))
        assert all(shorter.floor_s <= longer.floor_s * (1 + ROUNDING) for shorter, longer in pairwise(steps))


@quick
@given(chips(), models(), FORMATS, st.lists(st.integers(1, 64), min_size=2, max_size=4, unique=True), st.integers(1, 300), st.booleans())
def test_a_larger_batch_is_never_faster(
    chip: Chip, model: ModelConfig, formats: Formats, batches: list[int], length: int, fused: bool
) -> None:
    for make in (Scenario.prefill, Scenario.decode):
        steps = [predict_graph(trace(model, make(formats, batch, length)), chip, "roofline", fused=fused) for batch in sorted(batches)]
        assert all(smaller.total_s <= larger.total_s * (1 + ROUNDING) for smaller, larger in pairwise(steps))
