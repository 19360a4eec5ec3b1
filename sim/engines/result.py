"""What an engine says of a class of groups, and how a whole step is put together from that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwmodels.chip import Number
from hwmodels.costs import area_mm2
from hwmodels.formulas.roofline import total
from sim.engines.prices import UNITS, Prices, prices_of
from sim.intervals import LAUNCH, Floats, Intervals, Log, Schedule
from sim.plan import Plan
from sim.timeline import LOST, Memory, Spent, Timeline, Visits
from workloads.demand import Demand


@dataclass(frozen=True, slots=True, eq=False)
class GroupTimes:
    """One class of groups, timed. `shares` [ops] part the latency among the ops and sum to 1; `lost_s` names only what is not 0. `macs`
    are issued by compute format, `counts` of vector primitives, `moved_bytes` read and written by level over the whole chip, and
    `op_spent_j` joules by op without what leaks: nothing and zeros where the chip's energy is not known. `visits` says how the cycle engine
    chose the mapping that it played, where it played one."""

    latency_s: float
    bound_by: str
    busy_s: Mapping[str, float]
    lost_s: Mapping[str, float]
    shares: Floats
    op_busy_s: Floats
    op_dram_bytes: Floats
    op_issued_macs: Floats
    macs: Mapping[str, Number]
    counts: Mapping[str, Number]
    moved_bytes: Mapping[str, Number]
    op_spent_j: Floats
    schedule: Schedule
    visits: Visits | None = None


class Traffic(Protocol):
    """What the energy of a class of groups follows from: MACs issued by compute format, bytes read and written by level."""

    @property
    def macs(self) -> Mapping[str, Number]: ...

    @property
    def moved_bytes(self) -> Mapping[str, Number]: ...


def resources_of(busy_s: Mapping[str, float]) -> tuple[str, ...]:
    """Names of what intervals lie on: levels from the outermost, units, launches. `busy_s` has an entry for each unit and level."""
    levels = [name for name in busy_s if name not in UNITS]
    return (*levels, *UNITS, LAUNCH)


def side_by_side(busy_s: Mapping[str, float], op_dram_bytes: Floats, op_issued_macs: Floats, launch_s: float) -> Intervals:
    """A group of an engine that has no schedule: everything that is busy begins with the group."""
    log = Log(resources_of(busy_s))
    dram = log.resources[0]
    only = 0 if len(op_dram_bytes) == 1 else -1
    for name in log.resources[:-1]:
        if busy_s[name]:
            size_bytes = float(op_dram_bytes.sum()) if name == dram else 0.0
            macs = float(op_issued_macs.sum()) if name == UNITS[0] else 0.0
            log.add(name, "compute" if name in UNITS else "move", 0.0, busy_s[name], size_bytes=size_bytes, macs=macs, op=only)
    return log.intervals(launch_s=launch_s)


def step_s(asked: Demand, latencies_s: Sequence[Number]) -> tuple[Number, dict[tuple[int, ...], Number]]:
    """Seconds of the step, and of each of `asked.components.values()`, from those of each class of groups."""
    return components_s(asked.components.values(), latencies_s)


def components_s(components: Collection[tuple[int, ...]], latencies_s: Sequence[Number]) -> tuple[Number, dict[tuple[int, ...], Number]]:
    """Seconds of components, of which the classes of groups are given, together and each.

    Groups add up one after the other within their component, then components: the one way in which they do, so that a grid equals a
    prediction to the last bit, however many classes each of them has.
    """
    sums = {classes: total(latencies_s[i] for i in classes) for classes in dict.fromkeys(components)}
    return total(sums[classes] for classes in components), sums


def spent_j(plan: Plan, prices: Prices, times: Sequence[Traffic], total_s: Number) -> dict[str, Number]:
    """Joules of a step by unit and level and of what leaks, from what its groups issue and move."""
    counts = [group_class.count for group_class in plan.classes]

    def summed(parts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
        sums: dict[str, Number] = {}
        for count, part in zip(counts, parts, strict=True):
            for name, number in part.items():
                sums[name] = sums.get(name, 0) + count * number
        return sums

    macs, moved = summed(each.macs for each in times), summed(each.moved_bytes for each in times)
    return prices.step_j(prices.spent_j(macs, plan.demand.whole.counts, moved), total_s)


def _spent(plan: Plan, times: Sequence[GroupTimes], total_s: float, op_latency_s: Floats, op_spent_j: Floats) -> Spent | None:
    """The energy of a step; None where nothing is known of the chip's."""
    prices = prices_of(plan.chip)
    if prices is None:
        return None
    by_resource = {name: float(joules) for name, joules in spent_j(plan, prices, times, total_s).items()}
    return Spent(op_spent_j + float(prices.static_w) * op_latency_s, float(total(by_resource.values())), by_resource)


def assemble(plan: Plan, engine: str, times: Sequence[GroupTimes], floor_s: float) -> Timeline:
    """The timeline of groups that run one after the other."""
    summed_s, _ = step_s(plan.demand, [each.latency_s for each in times])
    total_s = float(summed_s)
    class_of = np.array(plan.demand.class_of)
    sizes = np.array([len(group_class.ops) for group_class in plan.classes])
    # Where each op finds its figures in a column that lists every class once.
    starts = np.cumsum(sizes) - sizes
    first = np.cumsum(sizes[class_of]) - sizes[class_of]
    source = np.arange(len(plan.graph.ops)) + np.repeat(starts[class_of] - first, sizes[class_of])

    def per_op(by_class: Iterable[Floats]) -> Floats:
        column: Floats = np.concatenate(list(by_class))[source]
        return column

    lost = {cause for each in times for cause in each.lost_s}
    latency_s = per_op(each.latency_s * each.shares for each in times)
    size_mm2 = area_mm2(plan.chip)
    return Timeline(
        graph=plan.graph,
        chip=plan.chip.name,
        engine=engine,
        total_s=total_s,
        floor_s=floor_s,
        memory=_memory(plan),
        latency_s=latency_s,
        busy_s=per_op(each.op_busy_s for each in times),
        dram_bytes=per_op(each.op_dram_bytes for each in times),
        issued_macs=per_op(each.op_issued_macs for each in times),
        bound_by=[times[index].bound_by for group, index in zip(plan.demand.groups, plan.demand.class_of, strict=True) for _ in group.ops],
        group=np.repeat(np.arange(len(class_of)), sizes[class_of]),
        lost_s={
            cause: per_op(each.lost_s.get(cause, 0.0) * each.shares for each in times) if cause in lost else np.zeros(len(source))
            for cause in LOST
        },
        resource_busy_s={name: np.array([each.busy_s[name] for each in times])[class_of] for name in times[0].busy_s},
        spent=_spent(plan, times, total_s, latency_s, per_op(each.op_spent_j for each in times)),
        area_mm2=None if size_mm2 is None else float(size_mm2),
        group_s=np.array([each.latency_s for each in times])[class_of],
        schedule_of=class_of,
        schedules=[each.schedule for each in times],
        visits=[each.visits for each in times],
    )


def _memory(plan: Plan) -> Memory:
    """What the step needs at the same time in the outermost memory; the KV cache with the entries that the step adds."""
    made = {op.name for op in plan.graph.ops if op.kind == "MemCopy"}
    weights = cache = 0
    for tensor in plan.graph.tensors.values():
        if tensor.role == "weight":
            weights += int(tensor.spec.size_bytes)
        elif tensor.role == "kv_cache" and tensor.name not in made:
            cache += int(tensor.spec.size_bytes)
    return Memory(weights, cache, int(plan.demand.residency.peak_bytes), int(plan.chip.dram.capacity_bytes))
