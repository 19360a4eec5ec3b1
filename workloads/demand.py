"""What a step asks of any chip: its groups, folded into classes of alike ones, each with its work and the bytes that cross its border.

An engine times a class, not a group: the layers of a model, alike but for their names, cost nothing after the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from functional.spec import Dim
from functional.work import Contraction, Move, Vector
from workloads.fuse import Flow, Group, Kind, fuse
from workloads.graph import OpGraph, OpNode
from workloads.quantise import compute_format, conversions
from workloads.residency import Residency, residency

Key = TypeVar("Key", bound=Hashable)


class Crossing(NamedTuple):
    """Bytes of an intermediate that cross the border of a group: through DRAM unless the chip can keep `threshold_bytes`."""

    size_bytes: Dim
    is_write: bool
    threshold_bytes: Dim


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What an op or a group asks for.

    `macs` are useful MACs by compute format, `sums` the accumulators that leave the array by compute format, `counts` vector primitives.
    `moved` are the bytes that cross the border of the group by kind and whether they are written; of these, `always_dram` (by whether they
    are written) pass through DRAM on every chip, `crossings` where the chip cannot keep them, and `warm` never.
    """

    macs: Mapping[str, Dim]
    sums: Mapping[str, Dim]
    counts: Mapping[str, Dim]
    moved: Mapping[tuple[Kind, bool], Dim]
    always_dram: Mapping[bool, Dim]
    crossings: tuple[Crossing, ...]
    warm: Mapping[bool, Dim]


@dataclass(frozen=True, slots=True, eq=False)
class GroupClass:
    """Groups that ask the same: one of them as example, what it asks in total and op by op, and how many of them there are."""

    group: Group
    ops: tuple[OpNode, ...]
    load: Load
    op_loads: tuple[Load, ...]
    count: int


@dataclass(frozen=True, eq=False)
class Demand:
    """All groups of a step in order, the class of each, and the bytes that nothing can save.

    `gathered_twice_bytes` are embedding rows that lm_head reads again with the whole table, where the two are tied.
    """

    groups: tuple[Group, ...]
    class_of: tuple[int, ...]
    classes: tuple[GroupClass, ...]
    residency: Residency
    gathered_twice_bytes: Dim

    @cached_property
    def components(self) -> dict[str, tuple[int, ...]]:
        """The classes of each component's groups, in order."""
        classes: dict[str, list[int]] = {}
        for group, index in zip(self.groups, self.class_of, strict=True):
            classes.setdefault(group.component, []).append(index)
        return {name: tuple(indices) for name, indices in classes.items()}

    @cached_property
    def macs(self) -> dict[str, Dim]:
        """Useful MACs of the step by compute format."""
        total: dict[str, Dim] = {}
        for each in self.classes:
            for number_format, macs in each.load.macs.items():
                total[number_format] = total.get(number_format, 0) + each.count * macs
        return total

    @cached_property
    def whole(self) -> Load:
        """What the step asks in total; crossings that ask the chip to keep the same are one."""
        parts = [_times(each.count, each.load) for each in self.classes]
        found = _sum(parts)
        merged: dict[Any, Crossing] = {}
        for size_bytes, is_write, threshold_bytes in found.crossings:
            key = is_write, _identity(threshold_bytes)
            before = merged[key].size_bytes if key in merged else 0
            merged[key] = Crossing(before + size_bytes, is_write, threshold_bytes)
        return replace(found, crossings=tuple(merged.values()))

    def compulsory_bytes(self, is_write: bool) -> Dim:
        """DRAM bytes (read or written) of any execution of the step, however large its on-chip memory.

        Every used weight once (of an embedding table only the gathered rows, unless lm_head shares it), KV entries present before the step
        once, new ones written once, ids read and logits written.
        """
        total: Dim = 0 if is_write else -self.gathered_twice_bytes
        for each in self.classes:
            total = total + each.count * each.load.always_dram.get(is_write, 0)
        return total

    def warm_bytes(self, is_write: bool) -> Dim:
        """Bytes (read or written) of tensors that the scenario declares warm: they pass the outermost on-chip level in any execution."""
        return sum((each.count * each.load.warm.get(is_write, 0) for each in self.classes), start=0)


def demand(graph: OpGraph, fused: bool = True) -> Demand:
    """Group and fold a graph; computed once per graph, however many chips it is then timed on."""
    known = graph.memo.get(("demand", fused))
    if known is None:
        known = graph.memo["demand", fused] = _demand(graph, fused)
    assert isinstance(known, Demand)
    return known


def _demand(graph: OpGraph, fused: bool) -> Demand:
    groups = fuse(graph, fused)
    resident = residency(groups)
    thresholds = resident.thresholds_bytes
    index_of: dict[Any, int] = {}
    examples: list[Group] = []
    counts: list[int] = []
    class_of: list[int] = []
    for group in groups:
        index = index_of.setdefault(_key(graph, group, thresholds), len(examples))
        if index == len(examples):
            examples.append(group)
            counts.append(0)
        counts[index] += 1
        class_of.append(index)
    classes = tuple(_group_class(graph, group, thresholds, count) for group, count in zip(examples, counts, strict=True))
    return Demand(groups, tuple(class_of), classes, resident, _gathered_twice_bytes(graph))


def _gathered_twice_bytes(graph: OpGraph) -> Dim:
    tables = {op.inputs[1].tensor for op in graph.ops if op.kind == "Linear"}
    gathers = [op for op in graph.ops if op.kind == "Embedding" and op.inputs[1].tensor in tables]
    return sum((op.work.size_bytes for op in gathers if isinstance(op.work, Move)), start=0)


def _key(graph: OpGraph, group: Group, thresholds: Mapping[str, Dim]) -> Any:
    """Equal for groups that ask the same; alike ops of a traced graph share their work objects, and arrays are told apart by identity."""
    first = group.ops[0]
    crossings = [
        (op - first, kind, is_write, _identity(size_bytes), _identity(thresholds.get(tensor)), warm)
        for op, tensor, kind, size_bytes, is_write, warm in group.flows
    ]
    return *[id(graph.ops[i].work) for i in group.ops], *crossings


def _identity(value: Dim | None) -> int | None:
    return value if isinstance(value, int) or value is None else -id(value)


def _group_class(graph: OpGraph, group: Group, thresholds: Mapping[str, Dim], count: int) -> GroupClass:
    ops = tuple(graph.ops[i] for i in group.ops)
    flows: dict[int, list[Flow]] = {i: [] for i in group.ops}
    for flow in group.flows:
        flows[flow.op].append(flow)
    loads = tuple(_op_load(op, flows[i], thresholds) for i, op in zip(group.ops, ops, strict=True))
    return GroupClass(group, ops, _sum(loads), loads, count)


def _op_load(op: OpNode, flows: Sequence[Flow], thresholds: Mapping[str, Dim]) -> Load:
    moved: dict[tuple[Kind, bool], Dim] = {}
    always_dram: dict[bool, Dim] = {}
    crossings: list[Crossing] = []
    warm_bytes: dict[bool, Dim] = {}
    for _, tensor, kind, size_bytes, is_write, warm in flows:
        moved[kind, is_write] = moved.get((kind, is_write), 0) + size_bytes
        if warm:
            warm_bytes[is_write] = warm_bytes.get(is_write, 0) + size_bytes
        elif tensor:
            crossings.append(Crossing(size_bytes, is_write, thresholds[tensor]))
        else:
            always_dram[is_write] = always_dram.get(is_write, 0) + size_bytes
    border, work = (moved, always_dram, tuple(crossings), warm_bytes), op.work
    if isinstance(work, Contraction):
        number_format = compute_format(work)
        sums = work.useful_macs // work.k if work.mask_axis == "n" else work.batch * work.m * work.n  # masked scores leave no sum
        return Load({number_format: work.useful_macs}, {number_format: sums}, conversions(op), *border)
    return Load({}, {}, work.counts if isinstance(work, Vector) else conversions(op), *border)


def _sum(loads: Sequence[Load]) -> Load:
    if len(loads) == 1:
        return loads[0]
    return Load(
        macs=_added([load.macs for load in loads]),
        sums=_added([load.sums for load in loads]),
        counts=_added([load.counts for load in loads]),
        moved=_added([load.moved for load in loads]),
        always_dram=_added([load.always_dram for load in loads]),
        crossings=tuple([crossing for load in loads for crossing in load.crossings]),
        warm=_added([load.warm for load in loads]),
    )


def _times(count: int, load: Load) -> Load:
    def times(parts: Mapping[Key, Dim]) -> dict[Key, Dim]:
        return {key: count * value for key, value in parts.items()}

    crossings = tuple(each._replace(size_bytes=count * each.size_bytes) for each in load.crossings)
    dram, warm = times(load.always_dram), times(load.warm)
    return Load(times(load.macs), times(load.sums), times(load.counts), times(load.moved), dram, crossings, warm)


def _added(parts: Sequence[Mapping[Key, Dim]]) -> dict[Key, Dim]:
    """Sums by key."""
    total: dict[Key, Dim] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total[key] + value if key in total else value
    return total
