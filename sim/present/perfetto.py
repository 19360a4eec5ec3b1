"""Predictions in Chrome's trace format, which ui.perfetto.dev and chrome://tracing read.

A process is a step; decode begins where prefill ends. Its tracks: the ops in order, nested in their layer, whose slices partition the
prediction; each resource as the engine kept it busy; on a chip of several cores each core. Format: "Trace Event Format", Google 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from functional.spec import format_shape
from functional.work import flops
from hwmodels.chip import Chip
from sim.engines import mapped_by, tiled
from sim.explore.step import Step
from sim.mapper import chip_use
from sim.mapper.attention_room import held_bytes
from sim.plan import Plan, resident_capacity_bytes, resident_level, sustained
from sim.present.dashboard.page import embedded
from sim.timeline import Timeline
from workloads.graph import OpNode
from workloads.residency import kept_bytes
from workloads.split import pieces

ATTENTION = ("MatMul", "ReduceMax", "ElementwiseExp", "Normalize", "MatMul")
"""Kinds of the ops of attention, in order: each head runs them."""

DRAM_COUNTER = "DRAM bandwidth [GB/s]"

_PS_PER_S, _PS_PER_US = 10**12, 10**6


def perfetto(steps: Sequence[Step], chip: Chip) -> str:
    """The trace of some steps on a chip, one after the other, as JSON text. Raises `BadInput` for all that a prediction refuses."""
    events: list[dict[str, Any]] = []
    begin_s = 0.0
    for pid, step in enumerate(steps, start=1):
        timeline = step.timeline(chip)
        events += _process(pid, timeline, step, chip, begin_s)
        begin_s += timeline.total_s
    return embedded({"displayTimeUnit": "ns", "traceEvents": events})


def _process(pid: int, timeline: Timeline, step: Step, chip: Chip, begin_s: float) -> Iterator[dict[str, Any]]:
    name = f"{timeline.graph.model} on {chip.name}: {timeline.phase}, {timeline.engine} engine"
    yield _named("process_name", pid, 0, name)
    yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for tid, track in enumerate(_tracks(timeline, chip), start=1):
        yield _named("thread_name", pid, tid, track.name)
        yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
        now_us = 0.0
        for event in (event for slice_ in track.slices for event in slice_.events(pid, tid, begin_s)):
            now_us = max(now_us, event["ts"])  # sums of parts may end a picosecond after the whole
            yield {**event, "ts": now_us}
    yield from _counters(pid, timeline, step, chip, begin_s)


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _us(seconds: float) -> float:
    """Microseconds to the picosecond: a child that ends with its parent ends at the same number."""
    return round(seconds * _PS_PER_S) / _PS_PER_US


@dataclass(slots=True)
class _Slice:
    """From `start_s` to `end_s` [s]; `inner` lie within it, in order and without overlap."""

    name: str
    kind: str
    start_s: float
    end_s: float
    args: dict[str, Any] = field(default_factory=dict)
    inner: list[_Slice] = field(default_factory=list)

    def events(self, pid: int, tid: int, begin_s: float) -> Iterator[dict[str, Any]]:
        where = {"pid": pid, "tid": tid}
        yield {"name": self.name, "cat": self.kind, "ph": "B", "ts": _us(begin_s + self.start_s), **where, "args": self.args}
        for slice_ in self.inner:
            yield from slice_.events(pid, tid, begin_s)
        yield {"ph": "E", "ts": _us(begin_s + self.end_s), **where}


@dataclass(slots=True)
class _Track:
    name: str
    slices: list[_Slice]


def _tracks(timeline: Timeline, chip: Chip) -> Iterator[_Track]:
    ends = np.cumsum(timeline.latency_s).tolist()
    starts = [0.0, *ends[:-1]]
    yield _Track("ops", _by_component(timeline, list(_op_slices(timeline, starts, ends, None))))
    yield from _resource_tracks(timeline)
    if chip.cores > 1:
        for core in range(int(chip.cores)):
            slices = list(_op_slices(timeline, starts, ends, (core, int(chip.cores))))
            yield _Track(f"Engine-{core}", _by_component(timeline, slices))


def _by_component(timeline: Timeline, slices: Sequence[_Slice]) -> list[_Slice]:
    """Slices in order, those of neighbours in one component nested in a slice of its name."""
    nested = []
    for component, members in groupby(slices, key=lambda each: str(each.args["component"])):
        inner = list(members)
        nested.append(_Slice(component, "component", inner[0].start_s, inner[-1].end_s, {"model": timeline.graph.model}, inner))
    return nested


def _op_slices(timeline: Timeline, starts: Sequence[float], ends: Sequence[float], core: tuple[int, int] | None) -> Iterator[_Slice]:
    """A slice per op, attention head by head; of a core, its part of the work, at the same time as that of the others: of a linear in
    pieces (`--split`) its piece, from the first of them to the Concat."""
    ops = timeline.graph.ops
    piece_of = pieces(timeline.graph)
    index = {op.name: i for i, op in enumerate(ops)} if piece_of else {}
    i = 0
    while i < len(ops):
        if tuple(op.kind for op in ops[i : i + len(ATTENTION)]) == ATTENTION:
            yield from _attention(timeline, range(i, i + len(ATTENTION)), starts, ends, core)
            i += len(ATTENTION)
        elif core is not None and ops[i].name in piece_of:
            parts = len(ops[index[piece_of[ops[i].name]]].inputs)
            if core[0] < parts:
                name = piece_of[ops[i].name].rpartition(".")[2]
                yield _Slice(name, "Linear", starts[i], ends[i + parts], _args(timeline, i + core[0]))
            i += parts + 1
        else:
            args = _args(timeline, i, 1 if core is None else core[1])
            yield _Slice(_name(ops[i]), ops[i].kind, starts[i], ends[i], args)
            i += 1


def _attention(
    timeline: Timeline, members: range, starts: Sequence[float], ends: Sequence[float], core: tuple[int, int] | None
) -> Iterator[_Slice]:
    """Each query head runs the five ops; a core runs its share of the heads, and is idle in the end where they do not part evenly."""
    ops = timeline.graph.ops
    heads = int(ops[members[0]].output.shape[1])
    own = range(heads)
    if core is not None:
        most = -(-heads // core[1])
        own = range(min(heads, core[0] * most), min(heads, (core[0] + 1) * most))
    at_once = len(own) if core is None else -(-heads // core[1])
    for place, head in enumerate(own):
        inner = []
        begin = starts[members[0]] + (ends[members[-1]] - starts[members[0]]) * place / at_once
        for i in members:
            end = begin + (ends[i] - starts[i]) / at_once
            args = {**_args(timeline, i, 1 if core is None else core[1]), "head": head, "of_heads": heads}
            inner.append(_Slice(_name(ops[i]), ops[i].kind, begin, end, args))
            begin = end
        component = ops[members[0]].component
        yield _Slice(f"head {head}", "head", inner[0].start_s, inner[-1].end_s, {"component": component}, inner)


def _name(op: OpNode) -> str:
    """The kind of an op; of a linear its name, which tells more."""
    if op.kind != "Linear":
        return op.kind
    *_, module, last = ["", *op.name.split(".")]
    return f"{module}.{last}" if last.startswith("slice_") else last


def _args(timeline: Timeline, i: int, cores: int = 1) -> dict[str, Any]:
    """What is known of an op. Figures are those of the whole op (in attention of all heads), or what one of several cores does of it."""
    op = timeline.graph.ops[i]
    return {
        "op": op.name,
        "component": op.component,
        "inputs": " ".join(f"{format_shape(use.spec.shape)} {use.spec.format}" for use in op.inputs),
        "output": format_shape(op.output.shape),
        "dtype": op.output.format,
        "flops": int(flops(op.work)) / cores if cores > 1 else int(flops(op.work)),
        "dram_bytes": float(timeline.dram_bytes[i]) / cores,
        "bound_by": timeline.bound_by[i],
    }


def _resource_tracks(timeline: Timeline) -> Iterator[_Track]:
    """What each resource did, in as many tracks as it did things at the same time."""
    found = timeline.intervals
    first_op = np.searchsorted(timeline.group, np.arange(int(timeline.group.max()) + 1))
    lanes: dict[str, list[list[_Slice]]] = {}
    for i in np.lexsort((found.end_s, found.start_s)).tolist():
        op = int(found.op[i]) if found.op[i] >= 0 else int(first_op[found.group[i]])
        what = found.kinds[int(found.what[i])]
        resource = found.resources[int(found.resource[i])]
        cause = f" for {found.causes[int(found.cause[i])]}" if found.cause[i] >= 0 else ""
        args = {**_args(timeline, op), "group": int(found.group[i]), "group_ops": int(np.count_nonzero(timeline.group == found.group[i]))}
        args |= {"bytes": float(found.bytes[i]), "macs": float(found.macs[i]), "busy_s": float(found.busy_s[i])}
        slice_ = _Slice(what + cause, what, float(found.start_s[i]), float(found.end_s[i]), args)
        rows = lanes.setdefault(resource if what in ("compute", "launch") else f"{resource} {what}", [])
        free = next((row for row in rows if _us(row[-1].end_s) <= _us(slice_.start_s)), None)
        if free is None:
            rows.append(free := [])
        free.append(slice_)
    for name in sorted(lanes):
        for number, row in enumerate(lanes[name]):
            yield _Track(name if number == 0 else f"{name} ({number + 1})", _by_component(timeline, row))


def _counters(pid: int, timeline: Timeline, step: Step, chip: Chip, begin_s: float) -> Iterator[dict[str, Any]]:
    """While each group runs: bytes per second of DRAM; of the on-chip level where intermediates stay, what those take and, where the engine
    has mappings, what the tiles of the group have room for."""
    moved = np.bincount(timeline.group, weights=timeline.dram_bytes)
    planned = step.plan(chip)
    demand, level = planned.demand, resident_level(chip)
    stays = kept_bytes(demand.groups, demand.residency, float(resident_capacity_bytes(chip)))
    taken: dict[str, Sequence[float]] = {"intermediates": stays}
    if timeline.engine != "roofline":
        of_class = _tiles_bytes(planned, timeline.engine)
        taken["tiles"] = [of_class[index] for index in demand.class_of]
    occupancy = f"{level.name} occupancy [B]"
    at_s = begin_s
    for i, (size, group_s) in enumerate(zip(moved.tolist(), timeline.group_s.tolist(), strict=True)):
        rate = size / group_s / 1e9 if group_s else 0.0
        yield {"name": DRAM_COUNTER, "ph": "C", "ts": _us(at_s), "pid": pid, "args": {"GB/s": rate}}
        yield {"name": occupancy, "ph": "C", "ts": _us(at_s), "pid": pid, "args": {name: sizes[i] for name, sizes in taken.items()}}
        at_s += group_s
    for name, series in ((DRAM_COUNTER, ["GB/s"]), (occupancy, list(taken))):
        yield {"name": name, "ph": "C", "ts": _us(at_s), "pid": pid, "args": dict.fromkeys(series, 0)}


def _tiles_bytes(planned: Plan, engine: str) -> list[float]:
    """What the tiles of each class of groups take of the level where intermediates stay, on all cores, by the mapping that the engine
    charges for; nothing where everything streams, and on a calibrated chip, whose kernels hold their tiles elsewhere."""
    chip = sustained(planned).chip
    level = resident_level(chip)
    copies = int(chip.cores) if level.per == "core" else 1
    found = []
    for mapped in mapped_by(planned, engine):
        held: Mapping[str, float] = {}
        if isinstance(mapped.choice, tiled.GemmChoice):
            held = chip_use(mapped.choice.mapping, chip, mapped.choice.a_resident).room_bytes
        elif isinstance(mapped.choice, tiled.AttentionChoice):
            held = held_bytes(mapped.choice.mapping, chip)
        found.append(copies * held.get(level.name, 0.0))
    return found
