"""Defends: what is fetched before a group begins are weights, which come while ports are idle into free room, and never cost time."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from functional.config import ModelConfig
from functional.errors import BadInput
from hwmodels import Chip, load_chip
from sim import Timeline, predict, predict_graph, trace_model
from sim.cli import main
from sim.engines import ENGINES, timed
from sim.engines.cycle import play_classes
from sim.engines.nest import nest_of
from sim.engines.play_attention import play_attention
from sim.engines.play_gemm import play_gemm
from sim.engines.played import Played
from sim.engines.ports import Window, weights_level
from sim.engines.prefetch import _room_bytes, _window
from sim.intervals import Intervals, Log
from sim.mapper import cost_gemm
from sim.mapper.attention_cost import InDram, attention_cost
from sim.mapping import Gemm, GemmMapping, StageTiling, Tile
from sim.plan import plan
from tests import test_mapper as some
from tests.chips import chips, models
from tests.test_cycle_attention import any_chip, any_mapping
from tests.test_tiled import in_scope
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats, Phase, Scenario
from workloads.trace import trace

ROUNDING = 1 - 1e-9
NPUS = ("edge-npu", "cloud-npu", "gemmini-default", "tpu-v4i")


def launchless(chip: Chip) -> Chip:
    return replace(chip, launch_s=0.0)


def check(graph: OpGraph, chip: Chip) -> tuple[Timeline, Timeline]:
    """Everything that must hold between the step with prefetch and the one without."""
    ahead, alone = (predict_graph(graph, chip, "cycle", prefetch=prefetch) for prefetch in (True, False))
    assert ahead.floor_s <= ahead.total_s / ROUNDING
    assert ahead.total_s <= alone.total_s / ROUNDING
    assert np.all(ahead.group_s <= alone.group_s / ROUNDING)
    for name in ("dram_bytes", "issued_macs", "busy_s", "group"):
        assert np.array_equal(getattr(ahead, name), getattr(alone, name)), name
    for resource, seconds in ahead.resource_busy_s.items():
        assert np.array_equal(seconds, alone.resource_busy_s[resource])
        assert seconds.sum() <= ahead.total_s / ROUNDING
    ideal = predict_graph(graph, chip, "roofline").total_s
    assert ideal + sum(seconds.sum() for seconds in ahead.lost_s.values()) == pytest.approx(ahead.total_s, rel=1e-9)
    assert sum(part.latency_s for part in ahead.components) == pytest.approx(ahead.total_s, rel=1e-9)
    return ahead, alone


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", NPUS)
def test_it_helps_and_never_beats_the_floor(chip_name: str, phase: Phase) -> None:
    chip = launchless(load_chip(chip_name))
    graph = trace_model("llama-3.2-1b", chip.default_format, phase=phase, prompt=70, context=1024)
    ahead, alone = check(graph, chip)
    assert ahead.total_s < alone.total_s


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(chip=chips(), model=models())
def test_random_chips_and_models(chip: Chip, model: ModelConfig) -> None:
    assume(in_scope(chip))
    for scenario in (Scenario.prefill(Formats.of("bf16"), 2, 19), Scenario.decode(Formats.of("bf16"), 3, 45)):
        try:
            check(trace(model, scenario), launchless(chip))
        except BadInput as refused:
            if "memory." not in str(refused):
                raise


def test_what_is_launched_is_not_known_before() -> None:
    graph = trace_model("llama-3.2-1b", "int8", phase="decode", context=100)
    chip = load_chip("edge-npu")
    launched = replace(chip, launch_s=1e-9)
    without = predict_graph(graph, launched, "cycle", prefetch=False).total_s
    assert predict_graph(graph, launched, "cycle").total_s == without
    assert predict_graph(graph, chip, "cycle").total_s < without


def test_a_step_timed_for_a_sweep_is_the_step_predicted() -> None:
    from sim.explore.step import Step

    chip = load_chip("edge-npu")
    for prefetch in (True, False):
        step = Step("stories15m", "decode", context=60, engine="cycle", prefetch=prefetch)
        assert step.time(chip).latency_s == step.timeline(chip).total_s
    assert step.time(chip).latency_s > Step("stories15m", "decode", context=60, engine="cycle").time(chip).latency_s


# Ports ------------------------------------------------------------------------------------------------------------------------------------


def taken(tiles: Intervals, chip: Chip) -> list[tuple[float, float]]:
    """When DRAM's reading port or that of the level to which weights come works, from the tiles themselves."""
    home = weights_level(chip)
    found = []
    for level, whats in ((chip.dram, ("read", "move")), (home, ("write", "move"))):
        shared = (*whats, "read", "write") if level.bandwidth.shared else whats
        chosen = np.isin(tiles.what, [tiles.kinds.index(what) for what in shared]) & (tiles.resource == tiles.resources.index(level.name))
        found += zip(tiles.start_s[chosen].tolist(), tiles.end_s[chosen].tolist(), strict=True)
    return sorted(found)


def idle_within(found: list[tuple[float, float]], begin: float, end: float) -> float:
    """Time in which nothing is taken."""
    idle, now = 0.0, begin
    for start, stop in found:
        idle += max(0.0, min(start, end) - now)
        now = max(now, stop)
    return idle + max(0.0, end - now)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_windows_are_idle(data: st.DataObject) -> None:
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(16))
    mapping = data.draw(some.mappings(gemm, chip))
    cost = cost_gemm(mapping, chip)
    log = Log([*(level.name for level in chip.memory), "matrix", "vector", "launch"])
    before = [Window(data.draw(st.sampled_from([0.0, 10.0, 1e9])), 10.0, data.draw(st.sampled_from([0.0, 30.0, 1e9])))]
    played, jumped = play_gemm(mapping, chip, cost, log=log, windows=before), play_gemm(mapping, chip, cost, windows=before)
    assert jumped.end == pytest.approx(played.end, rel=1e-9)
    assert played.end <= play_gemm(mapping, chip, cost).end / ROUNDING
    tiles = log.intervals()
    begin = played.end - played.span
    assert played.idle <= idle_within(taken(tiles, chip), begin, played.end) + 1e-9 * played.end
    reads = (tiles.resource == 0) & (tiles.what == tiles.kinds.index("read"))
    assert np.all(tiles.end_s[reads] <= begin * (1 + 1e-9) + 1e-9)
    assert (jumped.idle, jumped.span) == pytest.approx((played.idle, played.span), rel=1e-9, abs=1e-9 * played.end)


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_attention_are_idle(seed: int) -> None:
    rng = random.Random(f"window {seed}")
    chip = any_chip(rng)
    mapping, in_dram = any_mapping(rng, chip), InDram(*(rng.random() < 0.7 for _ in range(3)))
    cost = attention_cost(mapping, chip, {"exp": rng.randint(0, 5000)}, in_dram)
    log = Log([*(level.name for level in chip.memory), "matrix", "vector", "launch"])
    asked = mapping, chip, cost, cost.busy_s, in_dram, "all"
    played, jumped = play_attention(*asked, log), play_attention(*asked)  # type: ignore[arg-type]
    tiles, begin = log.intervals(), played.end - played.span
    assert played.idle <= idle_within(taken(tiles, chip), begin, played.end) + 1e-9 * played.end
    reads = (tiles.resource == 0) & (tiles.what == tiles.kinds.index("read"))
    assert np.all(tiles.end_s[reads] <= begin * (1 + 1e-9) + 1e-9)
    assert (jumped.idle, jumped.span) == pytest.approx((played.idle, played.span), rel=1e-9, abs=1e-9 * played.end)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", NPUS)
def test_windows_of_whole_steps_are_idle(chip_name: str, phase: Phase) -> None:
    chip = launchless(load_chip(chip_name))
    planned = plan(trace_model("stories15m", chip.default_format, phase=phase, prompt=40, context=90), chip)
    clock_hz = float(chip.clock_hz)
    found = moving = 0
    for each in play_classes(planned):
        if each.played is None:  # element-wise work and moves: the ports are as busy as their bytes take, whenever that is
            window, busy_s, latency_s = _window(each, None, 0.0), each.mapped.busy_s, each.mapped.latency_s
            for port in (chip.dram.name, weights_level(chip).name):
                assert window.idle / clock_hz + busy_s[port] <= latency_s * (1 + 1e-9)
            moving += busy_s[chip.dram.name] > 0
            continue
        tiles = each.times(each.played).schedule.tiles
        assert tiles is not None
        end_s, span_s = each.played.end / clock_hz, each.played.span / clock_hz
        idle_s = idle_within(taken(tiles(0.0), chip), end_s - span_s, end_s)
        assert each.played.idle / clock_hz <= idle_s + 1e-9 * end_s
        found += each.played.idle > 0
    assert found
    assert moving


def test_more_time_and_more_room_are_never_slower_and_all_of_it_is_enough() -> None:
    chip = load_chip("edge-npu")
    planned = plan(trace_model("llama-3.2-1b", "int8", phase="decode", context=100), chip)
    each = next(each for each in play_classes(planned) if any(op.kind == "Linear" for op in each.group_class.ops))
    assert each.played is not None

    def end(idle: float, room_bytes: float) -> float:
        return each.play([Window(idle, 1e9, room_bytes)]).end

    ends = [end(idle, 1e9) for idle in (0.0, 5.0, 10.0, 40.0, 1e9)]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] == each.played.end > ends[-1]
    assert end(1e9, 0.0) == each.played.end
    assert [end(1e9, room) for room in (0.0, 100.0, 1e9)] == sorted((end(1e9, room) for room in (0.0, 100.0, 1e9)), reverse=True)


def moved_bytes(played: Played, name: str) -> float:
    return sum(each.size_bytes for each in played.ahead if each.resource == name)


def test_what_comes_through_several_groups_needs_room_in_all_of_them() -> None:
    """64-byte bursts over 51.2 bytes per cycle: 40 cycles bring 2,048 bytes; the narrowest group on the way decides."""
    chip = load_chip("edge-npu")
    planned = plan(trace_model("llama-3.2-1b", "int8", phase="decode", context=100), chip)
    each = next(each for each in play_classes(planned) if any(op.kind == "Linear" for op in each.group_class.ops))
    tile = next(iter(each.mapped.choice.mapping.stages)).tile  # type: ignore[union-attr]
    assert 2 * tile.n * tile.k >= 2048  # two buffers
    wide, narrow = Window(20.0, 30.0, 1e9), Window(0.0, 30.0, 500.0)
    assert moved_bytes(each.play([wide]), "dram") == pytest.approx(1024)
    assert moved_bytes(each.play([wide, wide]), "dram") == pytest.approx(2048)
    assert moved_bytes(each.play([wide, narrow]), "dram") == pytest.approx(500)
    assert moved_bytes(each.play([narrow, wide]), "dram") == pytest.approx(1024)
    assert moved_bytes(each.play([wide, narrow, wide]), "dram") == pytest.approx(1524)


def test_a_step_whose_weights_came_early_is_no_repeat_of_one_whose_did_not() -> None:
    """Eight alike tiles of weights; the first is there and half of the second. What follows each is not what follows the later ones."""
    gemm = Gemm(64, 256, 32, 8, 8, 8, 32, "int8")
    mapping = GemmMapping(gemm, (StageTiling(Tile(8, 32, 32), ("n", "m", "k"), 2),), (1, 1), 0, "ws", "m")
    nest = nest_of(mapping, (("activations", (0,)), ("weights", (0,)), ("psums", (0,))))
    alone, early = (np.frombuffer(nest.codes(some_early), np.uint64).reshape(7, 7) for some_early in (False, True))
    assert np.array_equal(alone[2], alone[3])  # six of the eight are told apart, and one for the two in the middle
    assert np.array_equal(early[2], early[3])
    assert np.all(early[0] != early[1])
    assert np.all(early[1] != early[2])


# Room -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", NPUS)
def test_room_is_what_the_tiles_in_use_leave(chip_name: str, phase: Phase) -> None:
    """Counted on the last tiles that are held, which are never larger than what the mapping reserves."""
    chip = launchless(load_chip(chip_name))
    planned = plan(trace_model("llama-3.2-1b", chip.default_format, phase=phase, prompt=40, context=90), chip)
    home = weights_level(chip)
    share = 1 - float(chip.resident_share) if "activations" in home.holds else 1.0
    for each in play_classes(planned):
        room = _room_bytes(each)
        assert 0 <= room <= share * float(home.capacity_bytes)
        choice = each.mapped.choice
        if choice is None or not hasattr(choice.mapping, "stages"):
            continue
        last = nest_of(choice.mapping, ()).rows.lengths[-1]
        m, n, k = last[0].tolist()  # of the first stage, which weights come to on these chips
        gemm = choice.mapping.gemm
        operands = k * n * gemm.w_bits + ("activations" in home.holds and not choice.a_resident) * m * k * gemm.a_bits
        sums = ("psums" in home.holds) * m * n * gemm.acc_bits * (2 if home.double_buffered else 1)
        assert room + (operands + sums) / 8 <= share * float(home.capacity_bytes)


def test_a_full_memory_takes_nothing_early() -> None:
    """Single-buffered, and an SRAM of exactly one tile of each: no byte is free while linears work."""
    chip = launchless(load_chip("edge-npu"))
    planned = plan(trace_model("stories15m", "int8", phase="decode", context=20), chip)
    each = next(each for each in play_classes(planned) if any(op.kind == "Linear" for op in each.group_class.ops))
    home = weights_level(chip)
    used = (1 - float(chip.resident_share)) * float(home.capacity_bytes) - _room_bytes(each)
    tight = replace(home, capacity_bytes=used / (1 - float(chip.resident_share)))
    small = replace(chip, memory=(chip.dram, tight))
    assert _room_bytes(replace(each, chip=small)) == pytest.approx(0.0, abs=1e-6)


# The flag ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["roofline", "tiled"])
def test_engines_that_never_prefetch_refuse_the_flag(
    engine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=f"--no-prefetch: engine {engine} never prefetches"):
        predict("stories15m", "edge-npu", engine=engine, prefetch=False, prompt=8)
    command = ["rooftile", "predict", "stories15m", "--chip", "edge-npu", "--prompt", "8", "--engine", engine, "--no-prefetch"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--no-prefetch: engine" in capsys.readouterr().err


def test_classes_are_parted_and_counted() -> None:
    chip = load_chip("edge-npu")
    planned = plan(trace_model("llama-3.2-1b", "int8", phase="decode", context=100), chip)
    parted, times = timed(planned, "cycle")
    assert len(times) == len(parted.classes) >= len(planned.classes)
    assert sum(each.count for each in parted.classes) == len(parted.demand.class_of) == len(planned.demand.class_of)
    for before, after in zip(planned.demand.class_of, parted.demand.class_of, strict=True):
        assert planned.classes[before].ops is parted.classes[after].ops
    same, alone = timed(planned, "cycle", prefetch=False)
    assert same is planned
    assert [each.latency_s for each in alone] == [each.latency_s for each in ENGINES["cycle"](planned)]
