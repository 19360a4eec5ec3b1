"""Defends: intervals tell the same story as the totals: who was busy, for how long, for which group, and what was waited for."""

from __future__ import annotations

from functools import cache
from time import process_time

import numpy as np
import pytest

from functional.errors import BadInput
from hwmodels import load_chip
from sim import Timeline, predict_graph, trace_model
from sim.engines import ENGINES
from sim.intervals import Intervals, Log
from workloads.scenario import PHASES, Phase

CHIPS = ("edge-npu", "gemmini-default", "cloud-npu")


@cache
def step(chip_name: str, engine: str, phase: Phase, fused: bool = True) -> Timeline:
    chip = load_chip(chip_name)
    graph = trace_model("stories15m", chip.default_format, phase=phase, prompt=70, context=200)
    return predict_graph(graph, chip, engine, fused=fused)


def of_kind(intervals: Intervals, *kinds: str) -> np.ndarray:
    return np.isin(intervals.what, [intervals.kinds.index(kind) for kind in kinds])


def per_group(intervals: Intervals, chosen: np.ndarray, groups: int, column: str = "busy_s") -> np.ndarray:
    return np.bincount(intervals.group[chosen], weights=getattr(intervals, column)[chosen], minlength=groups)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chip_name", CHIPS)
def test_groups_add_up(chip_name: str, engine: str, phase: Phase, fused: bool) -> None:
    timeline = step(chip_name, engine, phase, fused)
    found, groups = timeline.intervals, len(timeline.group_s)
    stalls = of_kind(found, "stall")
    for index, name in enumerate(found.resources[:-1]):
        busy_s = per_group(found, (found.resource == index) & ~stalls, groups)
        assert busy_s == pytest.approx(timeline.resource_busy_s[name], rel=1e-9, abs=1e-15), name
    launches_s = per_group(found, of_kind(found, "launch"), groups)
    assert launches_s == pytest.approx(np.full(groups, 0 if engine == "roofline" else launch_s(chip_name)))
    dram = found.resource == 0
    of_ops = np.bincount(timeline.group, weights=timeline.dram_bytes)
    assert per_group(found, dram, groups, "bytes") == pytest.approx(of_ops)
    assert found.macs.sum() == pytest.approx(timeline.issued_macs.sum())
    ends_s = np.cumsum(timeline.group_s)
    early = found.start_s < (ends_s - timeline.group_s)[found.group] - 1e-12
    assert np.all(found.role[early] == found.roles.index("weights"))  # only these come before their group
    assert np.all(found.end_s[early] == pytest.approx((ends_s - timeline.group_s)[found.group[early]]))
    assert np.any(early) == (engine == "cycle" and not launch_s(chip_name))
    assert np.all(found.end_s <= ends_s[found.group] * (1 + 1e-9))
    assert np.all(found.busy_s <= (found.end_s - found.start_s) * (1 + 1e-6) + 1e-15)
    assert ends_s[-1] == pytest.approx(timeline.total_s)
    if engine == "cycle":
        assert found.end_s.max() == pytest.approx(timeline.total_s)
    else:
        assert not np.any(stalls)
    assert np.all((found.op == -1) | (timeline.group[found.op] == found.group))


def launch_s(chip_name: str) -> float:
    return float(load_chip(chip_name).launch_s)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", CHIPS)
def test_work_and_stalls_of_the_array_fill_every_group_that_multiplies(chip_name: str, phase: Phase) -> None:
    timeline = step(chip_name, "cycle", phase)
    found, groups = timeline.intervals, len(timeline.group_s)
    matrix = found.resource == found.resources.index("matrix")
    spent_s = per_group(found, matrix, groups)
    multiplies = timeline.resource_busy_s["matrix"] > 0
    assert spent_s[multiplies] == pytest.approx(timeline.group_s[multiplies] - launch_s(chip_name))
    assert np.all(spent_s[~multiplies] == 0)
    causes = found.cause[of_kind(found, "stall")]
    assert np.all(causes >= 0)
    assert np.all(found.cause[~of_kind(found, "stall")] == -1)
    assert found.causes.index("dram") in causes  # for the first weights, at least
    assert (found.causes.index("array") in causes) == (load_chip(chip_name).matrix.kind == "systolic")  # a tensor core drains at once


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", CHIPS)
def test_tiles_are_the_groups_in_detail(chip_name: str, phase: Phase) -> None:
    timeline = step(chip_name, "cycle", phase)
    whole = timeline.intervals
    for component in ("embed_tokens", "layers.1", "lm_head"):
        tiles = timeline.tile_intervals(component)
        assert set(tiles.group.tolist()) == {
            int(group) for op, group in zip(timeline.graph.ops, timeline.group, strict=True) if op.component == component
        }
        for group in np.unique(tiles.group):
            for index, name in enumerate(tiles.resources):
                for stall in (True, False):
                    a = (tiles.group == group) & (tiles.resource == index) & (of_kind(tiles, "stall") == stall)
                    b = (whole.group == group) & (whole.resource == index) & (of_kind(whole, "stall") == stall)
                    assert np.any(a) == np.any(b), name
                    if not np.any(a):
                        continue
                    assert tiles.start_s[a].min() == pytest.approx(whole.start_s[b].min(), rel=1e-9)
                    assert tiles.end_s[a].max() == pytest.approx(whole.end_s[b].max(), rel=1e-9), (name, stall, group, component)
                    if index == 0:
                        assert tiles.bytes[a].sum() == pytest.approx(whole.bytes[b].sum())
                    if name == "matrix":
                        assert tiles.macs[a].sum() == pytest.approx(whole.macs[b].sum())
                        assert tiles.busy_s[a].sum() == pytest.approx(whole.busy_s[b].sum())
        assert np.all((tiles.op == -1) | (timeline.group[tiles.op] == tiles.group))


@pytest.mark.parametrize("resolution_s", [1e-7, 1e-6, 1e-3])
@pytest.mark.parametrize("chip_name", CHIPS)
def test_a_resolution_merges_what_is_short_and_keeps_the_sums(chip_name: str, resolution_s: float) -> None:
    timeline = step(chip_name, "cycle", "prefill")
    fine, coarse = timeline.tile_intervals("layers.1"), timeline.tile_intervals("layers.1", resolution_s)
    assert len(coarse) < len(fine)
    for name in ("busy_s", "bytes", "macs"):
        for of in ("resource", "what", "cause", "group", "op"):
            sums = [np.bincount(getattr(each, of) + 1, weights=getattr(each, name)) for each in (fine, coarse)]
            assert sums[1] == pytest.approx(sums[0], rel=1e-9, abs=1e-18), (name, of)
    for group in np.unique(fine.group):
        ends = [(each.start_s[each.group == group].min(), each.end_s[each.group == group].max()) for each in (fine, coarse)]
        assert ends[1] == pytest.approx(ends[0])
    assert np.all(coarse.busy_s <= (coarse.end_s - coarse.start_s) * (1 + 1e-6) + 1e-15)
    # No merged one is longer than two steps, and of one kind at most one begins in each.
    long = fine.end_s - fine.start_s >= resolution_s
    assert np.sum(coarse.end_s - coarse.start_s >= 2 * resolution_s * (1 + 1e-9)) <= np.sum(long)
    kinds = len(np.unique(np.stack([fine.resource, fine.what, fine.cause, fine.role, fine.group, fine.op]), axis=1).T)
    lasts_s = sum(timeline.group_s[group] for group in np.unique(fine.group))
    assert len(coarse) <= np.sum(long) + kinds * (lasts_s / resolution_s + 2)


@pytest.mark.slow
def test_all_tiles_of_a_large_layer_take_seconds() -> None:
    """Three million of them took 25 s when each was written down by itself; three seconds and memory in proportion is what is asked for."""
    timeline = predict_graph(trace_model("llama-3.2-1b", "int8", phase="prefill", prompt=512), "edge-npu", "cycle")
    begin_s = process_time()
    assert len(timeline.tile_intervals("layers.3")) > 2_000_000
    assert process_time() - begin_s < 6.0  # twice that, for a busy machine
    begin_s = process_time()
    assert len(timeline.tile_intervals("layers.3", 1e-5)) < 100_000
    assert process_time() - begin_s < 3.0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", CHIPS)
def test_a_played_group_is_bound_by_what_takes_most_of_it(chip_name: str, phase: Phase) -> None:
    timeline = step(chip_name, "cycle", phase)
    found = timeline.intervals
    called = {"array": "matrix"}  # a drain is the array's; other causes go by their name
    for group in range(len(timeline.group_s)):
        takes: dict[str, float] = {}
        for i in np.flatnonzero(found.group == group):
            cause = found.causes[found.cause[i]] if found.cause[i] >= 0 else ""
            name = called.get(cause, cause) or found.resources[found.resource[i]]
            takes[name] = max(takes.get(name, 0.0), float(found.busy_s[i]))
        bound_by = timeline.bound_by[int(np.flatnonzero(timeline.group == group)[0])]
        assert takes[bound_by] == pytest.approx(max(takes.values())), takes


def test_alike_layers_are_the_same_moved_in_time() -> None:
    timeline = step("edge-npu", "cycle", "decode")
    one, other = timeline.tile_intervals("layers.1"), timeline.tile_intervals("layers.2")
    moved_s = other.start_s - one.start_s
    assert np.array_equal(one.resource, other.resource)
    assert moved_s == pytest.approx(np.full(len(one), moved_s[0]))
    assert moved_s[0] == pytest.approx(next(part.latency_s for part in timeline.components if part.name == "layers.1"))


@pytest.mark.parametrize("engine", ["roofline", "tiled"])
def test_engines_without_tiles_say_so(engine: str) -> None:
    with pytest.raises(BadInput, match=f"engine {engine} keeps no tile intervals; take cycle"):
        step("edge-npu", engine, "decode").tile_intervals("lm_head")


def test_calibrated_chips_play_waves() -> None:
    timeline = step("a100-sxm4-80gb", "cycle", "prefill")
    waves, whole = timeline.tile_intervals("lm_head"), timeline.intervals
    matrix = waves.resource == waves.resources.index("matrix")
    assert np.sum(matrix & of_kind(waves, "compute")) >= 2
    for name in ("busy_s", "bytes", "macs"):
        alike = np.isin(whole.group, waves.group)
        assert getattr(waves, name).sum() == pytest.approx(getattr(whole, name)[alike].sum())


def test_an_unknown_component_is_told() -> None:
    with pytest.raises(BadInput, match=r"unknown component 'layer\.1'.*layers\.1"):
        step("edge-npu", "cycle", "decode").tile_intervals("layer.1")


def test_nothing_is_written_down_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a prediction alone keeps no intervals")

    monkeypatch.setattr(Log, "__init__", refuse)
    graph = trace_model("stories15m", "int8", phase="decode", context=30)
    for engine in ENGINES:
        assert predict_graph(graph, "edge-npu", engine).total_s > 0
