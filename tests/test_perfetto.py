"""Truth defended: a trace is well-formed, its op slices partition the prediction, and every slice says what it is."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodels import load_chip, with_values
from hwmodels.chip import Chip
from sim.engines import mapped_by
from sim.engines.tiled import GemmChoice
from sim.explore.step import Step
from sim.mapper import chip_use
from sim.present.perfetto import ATTENTION, perfetto
from workloads.demand import demand
from workloads.fuse import fuse
from workloads.residency import kept_bytes

HEADS, LAYERS = 6, 6  # of stories15m


def steps(engine: str = "roofline", prompt: int = 24) -> list[Step]:
    return [Step("stories15m", phase, prompt=prompt, engine=engine) for phase in ("prefill", "decode")]


def traced(chip: Chip, engine: str = "roofline") -> list[dict[str, Any]]:
    found = json.loads(perfetto(steps(engine), chip))["traceEvents"]
    assert isinstance(found, list)
    return found


def tracks(events: list[dict[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """Begins and ends by (process, name of the track)."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    found = defaultdict(list)
    for event in events:
        if event["ph"] in "BE":
            found[event["pid"], names[event["pid"], event["tid"]]].append(event)
    return found


def slices(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices with depth, path of names and duration; asserts that begins and ends pair up and times never go back."""
    following = {id(event): after for event, after in itertools.pairwise(events)}  # a leaf is begun and ended at once
    stack: list[dict[str, Any]] = []
    found = []
    now = 0.0
    for event in events:
        assert event["ts"] >= now
        now = event["ts"]
        if event["ph"] == "B":
            stack.append(event)
        else:
            begun = stack.pop()
            path = [each["name"] for each in stack]
            found.append({**begun, "end": event["ts"], "dur": event["ts"] - begun["ts"], "path": path})
            found[-1]["leaf"] = event is following[id(begun)]
    assert stack == []
    return found


def cores(number: int) -> Chip:
    return with_values(load_chip("edge-npu"), {"cores": number})


@pytest.mark.parametrize("engine", ["roofline", "tiled", "cycle"])
def test_op_slices_partition_the_prediction(engine: str) -> None:
    chip = load_chip("edge-npu")
    by_track = tracks(traced(chip, engine))
    begin = 0.0
    for pid, step in enumerate(steps(engine), start=1):
        timeline = step.timeline(chip)
        own = slices(by_track[pid, "ops"])
        components = [each for each in own if not each["path"]]
        assert [each["name"] for each in components] == [component.name for component in timeline.components]
        for each, component in zip(components, timeline.components, strict=True):
            assert each["dur"] == pytest.approx(1e6 * component.latency_s, abs=2e-6)
        leaves = sorted((each for each in own if each["leaf"]), key=lambda each: (each["ts"], each["end"]))
        assert sum(each["dur"] for each in leaves) == pytest.approx(1e6 * timeline.total_s, rel=1e-9, abs=1e-4)
        assert leaves[0]["ts"] == pytest.approx(begin, abs=1e-6)
        for each, following in itertools.pairwise(leaves):
            assert following["ts"] == pytest.approx(each["end"], abs=2e-6)
        begin += 1e6 * timeline.total_s


@pytest.mark.parametrize("engine", ["roofline", "tiled", "cycle"])
def test_every_track_is_well_formed_and_every_op_slice_says_what_it_is(engine: str) -> None:
    for events in tracks(traced(cores(4), engine)).values():
        for each in slices(events):
            if each["cat"] not in ("component", "head"):
                assert {"op", "inputs", "output", "dtype", "flops", "dram_bytes", "bound_by"} <= set(each["args"]), each
                assert each["path"][0] == each["args"]["component"]


def test_attention_runs_head_by_head_and_the_cache_is_copied() -> None:
    own = slices(tracks(traced(load_chip("edge-npu")))[1, "ops"])
    in_heads = [each for each in own if len(each["path"]) == 2 and each["path"][1].startswith("head ")]
    assert len(in_heads) == LAYERS * HEADS * len(ATTENTION)
    first = sorted((each for each in in_heads if each["path"] == ["layers.3", "head 2"]), key=lambda each: each["ts"])
    assert [each["name"] for each in first] == list(ATTENTION)
    assert sum(each["name"] == "MemCopy" and each["args"]["op"].endswith(("k_cache", "v_cache")) for each in own) == 2 * LAYERS


def test_four_cores_are_four_tracks_that_work_at_the_same_time() -> None:
    by_track = tracks(traced(cores(4)))
    engines = [name for pid, name in by_track if pid == 1 and name.startswith("Engine")]
    assert engines == ["Engine-0", "Engine-1", "Engine-2", "Engine-3"]
    for projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        spans = {
            (each["ts"], each["end"])
            for name in engines
            for each in slices(by_track[1, name])
            if each["name"] == projection and each["path"] == ["layers.2"]
        }
        assert len(spans) == 1, projection
    heads = {each["args"]["head"] for name in engines for each in slices(by_track[1, name]) if "head" in each["args"]}
    assert heads == set(range(HEADS))
    assert not any(name.startswith("Engine") for _, name in tracks(traced(load_chip("edge-npu"))))


def test_pieces_of_a_split_run_side_by_side_each_on_its_core() -> None:
    asked = [Step("stories15m", "prefill", prompt=24, split=2)]
    by_track = tracks(json.loads(perfetto(asked, cores(3)))["traceEvents"])
    for projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"):
        found = [
            [each for each in slices(by_track[1, f"Engine-{core}"]) if each["name"] == projection and each["path"] == ["layers.1"]]
            for core in range(3)
        ]
        (first,), (second,), idle = found
        assert (first["ts"], first["end"]) == (second["ts"], second["end"])
        assert [each["args"]["op"].rpartition(".")[2] for each in (first, second)] == ["slice_0", "slice_1"]
        assert idle == []
    timeline = asked[0].timeline(cores(3))
    leaves = [each for each in slices(by_track[1, "ops"]) if each["leaf"]]
    assert sum(each["dur"] for each in leaves) == pytest.approx(1e6 * timeline.total_s, rel=1e-9, abs=1e-4)


def counters(events: list[dict[str, Any]], pid: int = 1) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Samples by counter and series."""
    found = defaultdict(list)
    for event in events:
        if event["ph"] == "C" and event["pid"] == pid:
            for series, value in event["args"].items():
                found[event["name"], series].append((event["ts"], value))
    return found


def test_counters_carry_all_bytes_and_end_at_nothing() -> None:
    chip = load_chip("edge-npu")
    by_name = counters(traced(chip))
    assert set(by_name) == {("DRAM bandwidth [GB/s]", "GB/s"), ("sram occupancy [B]", "intermediates")}
    timeline = steps()[0].timeline(chip)
    samples = by_name["DRAM bandwidth [GB/s]", "GB/s"]
    moved = sum(rate * 1e9 * (end - at) * 1e-6 for (at, rate), (end, _) in itertools.pairwise(samples))
    assert moved == pytest.approx(float(timeline.dram_bytes.sum()), rel=1e-6)
    assert all(values[-1][1] == 0 for values in by_name.values())
    assert 0 < max(value for _, value in by_name["sram occupancy [B]", "intermediates"]) <= chip.resident_share * 2 * 2**20


@pytest.mark.parametrize("engine", ["tiled", "cycle"])
@pytest.mark.parametrize("number", [1, 4])
def test_tiles_and_what_stays_fit_the_chip_and_every_product_has_tiles(engine: str, number: int) -> None:
    chip = cores(number)
    step = steps(engine)[0]
    by_name = counters(traced(chip, engine))
    tiles = [value for _, value in by_name["sram occupancy [B]", "tiles"]]
    stays = [value for _, value in by_name["sram occupancy [B]", "intermediates"]]
    assert max(a + b for a, b in zip(tiles, stays, strict=True)) <= number * 2 * 2**20
    for group, size in zip(step.plan(chip).demand.groups, tiles, strict=False):
        products = [op for op in group.ops if step.graph("int8").ops[op].kind in ("Linear", "MatMul")]
        assert (size > 0) == bool(products)
    timeline = step.timeline(chip)
    linear = next(op for op in timeline.graph.ops if op.name == "layers.2.mlp.down_proj")
    own = tiles[int(timeline.group[timeline.graph.ops.index(linear)])]
    assert own >= 2 * 3 * 32  # two buffers of a weight, an activation and a sum of each row of the array, and more


def test_tiles_are_those_of_the_mapping_that_the_engine_plays() -> None:
    """Linears that cycle plays under another mapping than tiled charges for; here the mapping's own room is the answer."""
    chip, step = load_chip("edge-npu"), steps()[0]
    planned = step.plan(chip)
    room = {}
    for engine in ("tiled", "cycle"):
        seen = [value for _, value in counters(traced(chip, engine))["sram occupancy [B]", "tiles"]]
        mapped = mapped_by(planned, engine)
        room[engine] = {
            i: chip_use(mapped[index].choice.mapping, chip, mapped[index].choice.a_resident).room_bytes["sram"]
            for i, index in enumerate(planned.demand.class_of)
            if isinstance(mapped[index].choice, GemmChoice)
        }
        assert {i: seen[i] for i in room[engine]} == room[engine]
    assert len(room["cycle"]) > 20
    assert room["cycle"] != room["tiled"]


_NEEDS = {"B": {"name", "cat", "args"}, "E": set(), "C": {"name", "args"}, "M": {"name", "args"}}


@pytest.mark.parametrize("engine", ["roofline", "tiled", "cycle"])
def test_events_keep_the_rules_of_the_format(engine: str) -> None:
    """Chrome's Trace Event Format: what each type of event must have, names of processes and tracks, finite numbers that never go back
    within a track or a counter."""
    document = json.loads(perfetto(steps(engine), cores(2)), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    named, last, seen = set(), defaultdict(float), set()
    for event in document["traceEvents"]:
        assert _NEEDS[event["ph"]] <= set(event), event
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            (value,) = event["args"].values()
            assert isinstance(value, int if event["name"].endswith("index") else str)
            named.add((event["name"], event["pid"], event["tid"]))
            continue
        track = (event["pid"], event["name"]) if event["ph"] == "C" else (event["pid"], event["tid"])
        assert event["ts"] >= last[track] >= 0
        last[track] = event["ts"]
        seen.add(track)
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) and value >= 0 for value in event["args"].values())
        else:
            assert ("thread_name", *track) in named
            assert ("process_name", event["pid"], 0) in named
    assert len(seen) > 10


def test_what_stays_on_the_chip_is_at_most_its_capacity_and_all_of_it_on_a_large_one() -> None:
    graph = steps()[0].graph("int8")
    asked, groups = demand(graph), fuse(graph)
    for capacity in (0, 5_000, 20_000, 10**9):
        kept = kept_bytes(groups, asked.residency, capacity)
        assert len(kept) == len(groups)
        assert max(kept) <= capacity
    assert max(kept_bytes(groups, asked.residency, 10**9)) == int(np.max(asked.residency.peak_bytes))


def test_names_of_users_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "chip.yaml"
    path.write_text("base: edge-npu\nname: '<script>alert(1)</script>'\n")
    text = perfetto(steps()[:1], load_chip(path))
    assert "<script" not in text
    assert "<script>alert(1)</script>" in json.loads(text)["traceEvents"][0]["args"]["name"]
