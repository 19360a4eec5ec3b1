"""The roofline engine: per group, the busiest unit or level decides.

latency = max over units of summed work / peak, and over memory levels of bytes / bandwidth. Datasheet peaks, nothing calibrated. Everything
broadcasts: lengths in the graph and numbers of the chip may be arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functional.formats import bits_of
from functional.work import Contraction
from hwmodels.chip import Chip, MemoryLevel, Number
from hwmodels.formulas.roofline import larger, largest, matrix_s, transfer_s
from sim.engines.result import GroupTimes, weighted_sum
from sim.plan import Plan, resident_capacity_bytes
from workloads.demand import Demand, GroupClass, Load

MATRIX, VECTOR = "matrix", "vector"


def unit_times_s(load: Load, chip: Chip) -> dict[str, Number]:
    """Seconds that each unit and each level of the chip is busy with a load, if it runs at its peak."""
    matrix: Number = 0.0
    for number_format, macs in load.macs.items():
        matrix = matrix + matrix_s(macs, chip.peak_macs_per_s(number_format))
    vector: Number = 0.0
    for primitive, executions in load.counts.items():
        vector = vector + executions * chip.primitive_s(primitive)
    times = {MATRIX: matrix, VECTOR: vector}
    for level in chip.memory:
        read, written = level_bytes(load, chip, level)
        bandwidths = chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)
        times[level.name] = transfer_s(read, written, *bandwidths, level.bandwidth.shared)
    return times


def level_bytes(load: Load, chip: Chip, level: MemoryLevel) -> tuple[Number, Number]:
    """Bytes (read, written) that a load moves through a level at least: each tensor once, residents not through DRAM."""
    totals: list[Number] = [0, 0]
    if level is chip.dram:
        capacity = resident_capacity_bytes(chip)
        for crossing in load.crossings:
            leaves = True if crossing.threshold_bytes is None else crossing.threshold_bytes > capacity
            totals[crossing.is_write] = totals[crossing.is_write] + crossing.size_bytes * leaves
        return totals[0], totals[1]
    for crossing in load.crossings:
        if crossing.kind in level.holds:
            totals[crossing.is_write] = totals[crossing.is_write] + crossing.size_bytes
    if level.holds == {"psums"}:
        for number_format, sums in load.sums.items():
            totals[1] = totals[1] + sums * bits_of(chip.matrix.accumulate[number_format]) // 8
    return totals[0], totals[1]


def floor_s(asked: Demand, chip: Chip) -> Number:
    """No execution of a step is faster: all MACs at the peak of their formats, or all compulsory bytes at DRAM's peak bandwidth."""
    level = chip.dram
    moved = asked.compulsory_bytes(is_write=False), asked.compulsory_bytes(is_write=True)
    memory = transfer_s(*moved, chip.read_bytes_per_s(level), chip.write_bytes_per_s(level), level.bandwidth.shared)
    compute: Number = 0.0
    for number_format, macs in asked.macs.items():
        compute = compute + matrix_s(macs, chip.peak_macs_per_s(number_format))
    return larger(memory, compute)


def time_classes(plan: Plan) -> list[GroupTimes]:
    """Each class of groups, timed; its ops share the latency by their own single-op rooflines."""
    return [_time_class(group_class, plan.chip) for group_class in plan.classes]


def _time_class(group_class: GroupClass, chip: Chip) -> GroupTimes:
    times = unit_times_s(group_class.load, chip)
    bound_by = max(times, key=lambda name: float(times[name]))
    own_s = np.array([float(largest(unit_times_s(load, chip).values())) for load in group_class.op_loads])
    macs = [float(op.work.useful_macs) if isinstance(op.work, Contraction) else 0.0 for op in group_class.ops]
    moved = [float(sum(level_bytes(load, chip, chip.dram))) for load in group_class.op_loads]
    return GroupTimes(
        latency_s=float(times[bound_by]),
        bound_by=bound_by,
        busy_s={name: float(time) for name, time in times.items()},
        lost_s={},
        shares=own_s / own_s.sum() if own_s.sum() > 0 else np.full(len(own_s), 1 / len(own_s)),
        op_busy_s=own_s,
        op_dram_bytes=np.array(moved),
        op_issued_macs=np.array(macs),
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """Latencies where numbers of the graph or of the chip are arrays; all broadcast to the grid's shape."""

    latency_s: Number
    components_s: dict[str, Number]
    floor_s: Number


def grid(plan: Plan) -> Grid:
    """Latency of the step, and of each component, over all chips, batches and lengths of the plan at once."""
    latencies = [largest(unit_times_s(group_class.load, plan.chip).values()) for group_class in plan.classes]
    components = {name: weighted_sum(latencies, counts) for name, counts in plan.demand.component_counts.items()}
    total = weighted_sum(latencies, {i: group_class.count for i, group_class in enumerate(plan.classes)})
    return Grid(total, components, floor_s(plan.demand, plan.chip))
