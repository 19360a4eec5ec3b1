"""Truth defended: a sweep is a prediction: over arrays of lengths or of chip numbers the roofline gives the same bits as one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from functional.config import ModelConfig
from functional.errors import BadInput
from hwmodels import Chip, chip_names, load_chip, with_values
from sim import predict_graph, roofline_grid, trace_model
from sim.engines import ENGINES
from sim.engines.roofline_arrays import PIECE, Grid
from tests.chips import FORMATS, chips, models, round_chip, round_model
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats, Phase, Scenario
from workloads.trace import trace


def at(value: Any, shape: tuple[int, ...], place: tuple[int, ...]) -> Any:
    return np.broadcast_to(value, shape)[place]


def equals_prediction(grid: Grid, shape: tuple[int, ...], place: tuple[int, ...], graph: OpGraph, chip: Chip, fused: bool = True) -> None:
    timeline = predict_graph(graph, chip, "roofline", fused=fused)
    assert at(grid.latency_s, shape, place) == timeline.total_s
    assert at(grid.floor_s, shape, place) == timeline.floor_s
    assert list(grid.components_s) == [part.name for part in timeline.components]
    for part in timeline.components:
        assert at(grid.components_s[part.name], shape, place) == pytest.approx(part.latency_s, rel=1e-12)


# Lengths and batches ---------------------------------------------------------------------------------------------------------------------

CONTEXTS = np.array([1, 2, 3, 63, 64, 100, 511, 512, 1000, 4095, 4096, 4097, 8191, 9999])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("model", "chip"), [("llama-3.2-1b", "a100-sxm4-80gb"), ("mistral-7b", "edge-npu"), ("llama-3.2-3b", "gemmini-default")]
)
def test_the_decode_curve(model: str, chip: str, fused: bool) -> None:
    built = load_chip(chip)
    asked = {"phase": "decode", "batch": 3}
    grid = roofline_grid(trace_model(model, built.default_format, context=CONTEXTS, **asked), built, fused=fused)  # type: ignore[arg-type]
    assert grid.latency_s.shape == CONTEXTS.shape  # type: ignore[union-attr]
    for i, context in enumerate(CONTEXTS.tolist()):
        one = trace_model(model, built.default_format, context=context, **asked)  # type: ignore[arg-type]
        equals_prediction(grid, CONTEXTS.shape, (i,), one, built, fused)


@pytest.mark.parametrize("phase", PHASES)
def test_batches_times_lengths(phase: Phase) -> None:
    chip = load_chip("cloud-npu")
    batches, lengths = np.array([[1], [2], [7], [32]]), np.array([1, 17, 256, 2000])
    grid = roofline_grid(trace_model("llama-3.2-1b", phase=phase, batch=batches, prompt=lengths), chip)
    for b, batch in enumerate(batches.ravel().tolist()):
        for n, length in enumerate(lengths.tolist()):
            one = trace_model("llama-3.2-1b", phase=phase, batch=batch, prompt=length)
            equals_prediction(grid, (4, 4), (b, n), one, chip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chips(), models(), FORMATS, st.lists(st.integers(1, 400), min_size=1, max_size=4), st.sampled_from(PHASES), st.booleans())
def test_any_lengths_of_any_model_on_any_chip(
    chip: Chip, model: ModelConfig, formats: Formats, lengths: list[int], phase: Phase, fused: bool
) -> None:
    make = Scenario.prefill if phase == "prefill" else Scenario.decode
    grid = roofline_grid(trace(model, make(formats, 2, np.array(lengths))), chip, fused=fused)
    for i, length in enumerate(lengths):
        equals_prediction(grid, (len(lengths),), (i,), trace(model, make(formats, 2, length)), chip, fused)


# Numbers of the chip ---------------------------------------------------------------------------------------------------------------------


def test_bandwidth_times_rate_times_capacity() -> None:
    chip = load_chip("edge-npu")
    axes: dict[str, NDArray[Any]] = {
        "memory.dram.bandwidth": np.geomspace(25e9, 400e9, 5).reshape(-1, 1, 1),
        "matrix.rates.int8": np.array([1.0, 2.0, 4.0]).reshape(1, -1, 1),
        "memory.sram.capacity": np.geomspace(2**12, 2**24, 6).round(),
    }
    for phase in PHASES:
        graph = trace_model("llama-3.2-1b", "int8", phase=phase)
        grid = roofline_grid(graph, with_values(chip, axes))
        assert grid.latency_s.shape == (5, 3, 6)  # type: ignore[union-attr]
        for place in np.ndindex(5, 3, 6):
            equals_prediction(grid, (5, 3, 6), place, graph, one_of(chip, axes, place))


def one_of(chip: Chip, axes: dict[str, NDArray[Any]], place: tuple[int, ...]) -> Chip:
    shape = np.broadcast_shapes(*(axis.shape for axis in axes.values()))
    return with_values(chip, {path: float(np.broadcast_to(axis, shape)[place]) for path, axis in axes.items()})


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["edge-npu", "a100-sxm4-80gb", "gemmini-default"])
def test_ten_thousand_random_chips(name: str, phase: Phase) -> None:
    chip, rng, many = load_chip(name), np.random.default_rng(7), 10_000
    inner = chip.memory[1].name
    axes = {
        "clock": rng.uniform(1e8, 3e9, many),
        "cores": rng.integers(1, 200, many),
        "vector.lanes": rng.integers(1, 4000, many),
        "vector.cycles.exp": rng.uniform(1, 16, many),
        f"matrix.rates.{chip.default_format}": rng.uniform(1, 1000, many),
        "memory.dram.bandwidth": rng.uniform(1e9, 4e12, many),
        f"memory.{inner}.bandwidth": rng.uniform(10, 1e4, many),
        f"memory.{inner}.capacity": rng.uniform(2**10, 2**27, many).round(),
        "resident_share": rng.uniform(0.05, 0.95, many),
    }
    graph = trace_model("llama-3.2-1b", chip.default_format, phase=phase, prompt=300)
    grid = roofline_grid(graph, with_values(chip, axes))
    for i in rng.choice(many, 50, replace=False).tolist():
        equals_prediction(grid, (many,), (i,), graph, one_of(chip, axes, (i,)))


@pytest.mark.parametrize("many", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
def test_a_grid_in_pieces_has_no_seams(many: int) -> None:
    chip = round_chip("100 kB", resident_share=0.5)
    graph = trace(round_model(layers=2), Scenario.prefill(Formats.of("bf16"), 1, 50))
    axes = {"memory.dram.bandwidth": np.linspace(1e9, 1e12, many), "memory.sram.capacity": np.linspace(2e3, 1e6, many).round()}
    grid = roofline_grid(graph, with_values(chip, axes))
    assert grid.latency_s.shape == (many,)  # type: ignore[union-attr]
    for i in sorted({0, 1, PIECE - 2, min(PIECE, many - 1), many - 1}):
        equals_prediction(grid, (many,), (i,), graph, one_of(chip, axes, (i,)))


def test_chips_times_contexts() -> None:
    chip, contexts = load_chip("edge-npu"), np.array([1, 100, 3000])
    axes = {"memory.dram.bandwidth": np.array([[1e10], [1e11]])}
    grid = roofline_grid(trace_model("llama-3.2-1b", "int8", phase="decode", context=contexts), with_values(chip, axes))
    for c, n in np.ndindex(2, 3):
        one = trace_model("llama-3.2-1b", "int8", phase="decode", context=int(contexts[n]))
        equals_prediction(grid, (2, 3), (c, n), one, one_of(chip, axes, (c, 0)))


@pytest.mark.parametrize("name", chip_names())
def test_without_arrays_a_grid_is_one_number(name: str) -> None:
    chip = load_chip(name)
    graph = trace_model("stories15m", chip.default_format, phase="decode", context=10)
    equals_prediction(roofline_grid(graph, chip), (), (), graph, chip)


# What takes no arrays says so ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("asked", [{"batch": np.array([1, 2])}, {"context": np.arange(1, 5)}])
def test_a_timeline_is_of_one_step(engine: str, asked: dict[str, Any]) -> None:
    graph = trace_model("llama-3.2-1b", phase="decode", **asked)
    with pytest.raises(BadInput, match="roofline_grid"):
        predict_graph(graph, "a100-sxm4-80gb", engine)


@pytest.mark.parametrize("path", ["clock", "vector.lanes", "matrix.rates.int8", "memory.dram.bandwidth", "memory.dram.capacity"])
def test_a_timeline_is_of_one_chip(path: str) -> None:
    chip = with_values(load_chip("edge-npu"), {path: np.array([1e10, 1e11])})
    with pytest.raises(BadInput, match=r"arrays for numbers.*roofline_grid"):
        predict_graph(trace_model("llama-3.2-1b", "int8"), chip, "roofline")
