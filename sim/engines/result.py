"""What an engine says of a class of groups, and how a whole step is put together from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Number
from sim.plan import Plan
from sim.timeline import LOST, Floats, Memory, Timeline


@dataclass(frozen=True, slots=True, eq=False)
class GroupTimes:
    """One class of groups, timed. `shares` [ops] part the latency among the ops and sum to 1; `lost_s` names only what is not 0."""

    latency_s: float
    bound_by: str
    busy_s: Mapping[str, float]
    lost_s: Mapping[str, float]
    shares: Floats
    op_busy_s: Floats
    op_dram_bytes: Floats
    op_issued_macs: Floats


def weighted_sum(values: Sequence[Number], counts: Mapping[int, int]) -> Number:
    """Sum of count x value: the one way in which groups add up, so that a sweep equals a prediction to the last bit."""
    total: Number = 0.0
    for index, count in counts.items():
        total = total + count * values[index]
    return total


def assemble(plan: Plan, engine: str, times: Sequence[GroupTimes], floor_s: float) -> Timeline:
    """The timeline of groups that run one after the other."""
    total = weighted_sum([each.latency_s for each in times], {i: group_class.count for i, group_class in enumerate(plan.classes)})
    sizes = np.array([len(group.ops) for group in plan.demand.groups])
    resources = times[0].busy_s
    return Timeline(
        graph=plan.graph,
        chip=plan.chip.name,
        engine=engine,
        total_s=float(total),
        floor_s=floor_s,
        memory=_memory(plan),
        latency_s=_per_op(plan, [each.latency_s * each.shares for each in times]),
        busy_s=_per_op(plan, [each.op_busy_s for each in times]),
        dram_bytes=_per_op(plan, [each.op_dram_bytes for each in times]),
        issued_macs=_per_op(plan, [each.op_issued_macs for each in times]),
        bound_by=[times[index].bound_by for group, index in zip(plan.demand.groups, plan.demand.class_of, strict=True) for _ in group.ops],
        group=np.repeat(np.arange(len(plan.demand.groups)), sizes),
        lost_s={cause: _per_op(plan, [each.lost_s.get(cause, 0.0) * each.shares for each in times]) for cause in LOST},
        resource_busy_s={name: np.array([times[index].busy_s[name] for index in plan.demand.class_of]) for name in resources},
    )


def _per_op(plan: Plan, by_class: Sequence[Floats]) -> NDArray[np.float64]:
    return np.concatenate([by_class[index] for index in plan.demand.class_of])


def _memory(plan: Plan) -> Memory:
    """What the step needs at the same time in the outermost memory; the KV cache with the entries that the step adds."""
    made = {op.name for op in plan.graph.ops}
    weights = cache = 0
    for tensor in plan.graph.tensors.values():
        if tensor.role == "weight":
            weights += int(tensor.spec.size_bytes)
        elif tensor.role == "kv_cache" and tensor.name not in made:
            cache += int(tensor.spec.size_bytes)
    return Memory(weights, cache, int(plan.demand.residency.peak_bytes), int(plan.chip.dram.capacity_bytes))
