"""What a step asks of any chip: its groups, folded into classes of alike ones, each with its work and the bytes that cross its border.

An engine times a class, not a group: the layers of a model, alike but for their names, cost nothing after the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from functional.formats import bits_of, is_integer
from functional.spec import Dim
from functional.work import Contraction, Vector
from workloads.fuse import Group, Kind, fuse
from workloads.graph import OpGraph, OpNode
from workloads.residency import Residency, residency


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """Bytes that cross the border of a group: through DRAM unless the chip can keep `threshold_bytes` (None: always through DRAM)."""

    size_bytes: Dim
    is_write: bool
    kind: Kind
    threshold_bytes: Dim | None


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What an op or a group asks for.

    `macs` are useful MACs by compute format, `sums` the accumulators that leave the array by compute format, `counts` vector primitives.
    """

    macs: Mapping[str, Dim]
    sums: Mapping[str, Dim]
    counts: Mapping[str, Dim]
    crossings: tuple[Crossing, ...]


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
    """All groups of a step in order, the class of each, and the bytes that nothing can save."""

    groups: tuple[Group, ...]
    class_of: tuple[int, ...]
    classes: tuple[GroupClass, ...]
    residency: Residency

    @cached_property
    def component_counts(self) -> dict[str, dict[int, int]]:
        """How often each class occurs in each component."""
        counts: dict[str, dict[int, int]] = {}
        for group, index in zip(self.groups, self.class_of, strict=True):
            of_component = counts.setdefault(group.component, {})
            of_component[index] = of_component.get(index, 0) + 1
        return counts

    @cached_property
    def macs(self) -> dict[str, Dim]:
        """Useful MACs of the step by compute format."""
        total: dict[str, Dim] = {}
        for each in self.classes:
            for number_format, macs in each.load.macs.items():
                total[number_format] = total.get(number_format, 0) + each.count * macs
        return total

    def compulsory_bytes(self, is_write: bool) -> Dim:
        """DRAM bytes (read or written) of any execution of the step, however large its on-chip memory.

        Every used weight once (of an embedding table only the gathered rows), KV entries present before the step once, new ones written
        once, ids read and logits written.
        """
        total: Dim = 0
        for each in self.classes:
            for crossing in each.load.crossings:
                if crossing.threshold_bytes is None and crossing.is_write == is_write:
                    total = total + each.count * crossing.size_bytes
        return total


def demand(graph: OpGraph, fused: bool = True) -> Demand:
    """Group and fold a graph; computed once per graph, however many chips it is then timed on."""
    known = graph.memo.get(("demand", fused))
    if known is None:
        known = graph.memo["demand", fused] = _demand(graph, fused)
    assert isinstance(known, Demand)
    return known


def compute_format(work: Contraction) -> str:
    """Format in which a contraction is multiplied: that of its operands or, if they differ, the wider one; floats before integers."""
    return max((work.a_format, work.b_format), key=lambda name: (not is_integer(name), bits_of(name)))


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
    return Demand(groups, tuple(class_of), classes, resident)


def _key(graph: OpGraph, group: Group, thresholds: Mapping[str, Dim]) -> Any:
    """Equal for groups that ask the same; alike ops of a traced graph share their work objects, and arrays are told apart by identity."""
    first = group.ops[0]
    crossings = [
        (flow.op - first, flow.kind, flow.is_write, _identity(flow.size_bytes), _identity(thresholds.get(flow.tensor)))
        for flow in group.flows
    ]
    return *[id(graph.ops[i].work) for i in group.ops], *crossings


def _identity(value: Dim | None) -> Any:
    return value if isinstance(value, int) or value is None else ("array", id(value))


def _group_class(graph: OpGraph, group: Group, thresholds: Mapping[str, Dim], count: int) -> GroupClass:
    ops = tuple(graph.ops[i] for i in group.ops)
    loads = tuple(_op_load(graph.ops[i], i, group, thresholds) for i in group.ops)
    return GroupClass(group, ops, _sum(loads), loads, count)


def _op_load(op: OpNode, index: int, group: Group, thresholds: Mapping[str, Dim]) -> Load:
    crossings = tuple(
        Crossing(flow.size_bytes, flow.is_write, flow.kind, thresholds.get(flow.tensor)) for flow in group.flows if flow.op == index
    )
    work = op.work
    if isinstance(work, Contraction):
        number_format = compute_format(work)
        sums = work.batch * work.m * work.n
        return Load({number_format: work.useful_macs}, {number_format: sums}, _dequantise(work, number_format), crossings)
    return Load({}, {}, work.counts if isinstance(work, Vector) else {}, crossings)


def _dequantise(work: Contraction, number_format: str) -> dict[str, Dim]:
    """Vector work to bring the narrower operand to the compute format: a conversion and a product with its scale, once per element."""
    elements: Dim = 0
    if work.a_format != number_format:
        elements = elements + work.batch * work.m * work.k
    if work.b_format != number_format:
        elements = elements + work.batch // work.b_shared_by * work.n * work.k
    return {} if isinstance(elements, int) and elements == 0 else {"convert": elements, "mul": elements}


def _sum(loads: tuple[Load, ...]) -> Load:
    macs: dict[str, Dim] = {}
    sums: dict[str, Dim] = {}
    counts: dict[str, Dim] = {}
    for load in loads:
        for total, part in ((macs, load.macs), (sums, load.sums), (counts, load.counts)):
            for name, value in part.items():
                total[name] = total.get(name, 0) + value
    return Load(macs, sums, counts, tuple(crossing for load in loads for crossing in load.crossings))
