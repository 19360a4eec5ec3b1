"""The roofline engine: per group, the busiest unit or level decides.

latency = max over units of summed work / peak, and over memory levels of bytes / bandwidth. Datasheet peaks, nothing calibrated. Everything
broadcasts: lengths in the graph and numbers of the chip may be arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import Problem, ScenarioError
from functional.formats import bits_of
from functional.spec import Dim
from functional.work import Contraction
from hwmodels.chip import Chip, MemoryLevel, Number
from hwmodels.formulas.roofline import larger, largest, matrix_s, total, transfer_s
from sim.engines.prices import UNITS, Prices, prices_of
from sim.engines.result import GroupTimes, side_by_side, step_s
from sim.intervals import Schedule
from sim.plan import Plan, resident_capacity_bytes
from workloads.demand import Demand, GroupClass, Load

MATRIX, VECTOR = UNITS

PIECE = 2**15
"""Chips that a grid takes at a time: few enough that what one step leaves for the next stays in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """A chip as the roofline sees it, worked out once for all loads; everything is that of the whole chip.

    `levels` are (level, bytes read per second, bytes written per second), outermost first. Intermediates may use `resident_bytes` on the
    chip; where that is an array, `resident_range` is its least and its largest value.
    """

    macs_per_s: Mapping[str, Number]
    primitive_s: Mapping[str, Number]
    levels: tuple[tuple[MemoryLevel, Number, Number], ...]
    accumulate: Mapping[str, str]
    resident_bytes: Number
    resident_range: tuple[float, float]
    prices: Prices | None = None
    spilled: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Where intermediates of a threshold go through DRAM: loads share thresholds."""

    @classmethod
    def of(cls, chip: Chip) -> Peaks:
        """Datasheet peaks."""
        resident_bytes = resident_capacity_bytes(chip)
        return cls(
            macs_per_s={name: chip.peak_macs_per_s(name) for name in chip.formats},
            primitive_s={primitive: chip.primitive_s(primitive) for primitive in chip.vector.cycles},
            levels=tuple((level, chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)) for level in chip.memory),
            accumulate=chip.matrix.accumulate,
            resident_bytes=resident_bytes,
            resident_range=(float(np.min(resident_bytes)), float(np.max(resident_bytes))),
            prices=prices_of(chip),
        )

    @property
    def is_many(self) -> bool:
        """Whether any number is an array of those of many chips."""
        rates = (number for level, *rates in self.levels for number in (level.capacity_bytes, *rates))
        return any(isinstance(number, np.ndarray) for number in (*self.macs_per_s.values(), *self.primitive_s.values(), *rates))

    def spills(self, threshold_bytes: Dim) -> Any:
        """Whether an intermediate goes through DRAM; an array only where lengths or chips differ in it."""
        if not isinstance(threshold_bytes, int):
            return threshold_bytes > self.resident_bytes
        least, most = self.resident_range
        if threshold_bytes <= least or threshold_bytes > most:
            return threshold_bytes > most
        known = self.spilled.get(threshold_bytes)
        if known is None:
            # As 0.0 and 1.0: bytes below 2^53 are exact in float64, and products of like arrays are the fast ones.
            known = self.spilled[threshold_bytes] = np.asarray(threshold_bytes > self.resident_bytes, np.float64)
        return known


def unit_times_s(load: Load, peaks: Peaks, through_dram: tuple[Number, Number] | None = None) -> dict[str, Number]:
    """Seconds that each unit and each level of the chip is busy with a load, if it runs at its peak.

    `through_dram`: what `dram_bytes` says of the load, if that is known already.
    """
    times = {
        MATRIX: total(matrix_s(macs, peaks.macs_per_s[number_format]) for number_format, macs in load.macs.items()),
        VECTOR: total(executions * peaks.primitive_s[primitive] for primitive, executions in load.counts.items()),
    }
    for i, (level, read_bytes_per_s, write_bytes_per_s) in enumerate(peaks.levels):
        moved = inner_bytes(load, level, peaks) if i else through_dram or dram_bytes(load, peaks)
        times[level.name] = transfer_s(*moved, read_bytes_per_s, write_bytes_per_s, level.bandwidth.shared)
    return times


def dram_bytes(load: Load, peaks: Peaks) -> tuple[Number, Number]:
    """Bytes (read, written) that a load moves through DRAM at least: each tensor once, residents not at all."""
    totals: list[Number] = [load.always_dram.get(False, 0), load.always_dram.get(True, 0)]
    for size_bytes, is_write, threshold_bytes in load.crossings:
        spills = peaks.spills(threshold_bytes)
        if spills is not False:
            totals[is_write] = totals[is_write] + size_bytes * spills
    return totals[0], totals[1]


def inner_bytes(load: Load, level: MemoryLevel, peaks: Peaks) -> tuple[Number, Number]:
    """Bytes (read, written) that a load moves through an on-chip level at least: each tensor that it holds once."""
    totals: list[Number] = [0, 0]
    for (kind, is_write), size_bytes in load.moved.items():
        if kind in level.holds:
            totals[is_write] = totals[is_write] + size_bytes
    if level.holds == {"psums"}:
        for number_format, sums in load.sums.items():
            totals[1] = totals[1] + sums * bits_of(peaks.accumulate[number_format]) // 8
    return totals[0], totals[1]


def moved_bytes(load: Load, peaks: Peaks) -> dict[str, Number]:
    """Bytes read from and written to each level, each tensor moved once."""
    moved: dict[str, Number] = {}
    for i, (level, _, _) in enumerate(peaks.levels):
        read, written = inner_bytes(load, level, peaks) if i else dram_bytes(load, peaks)
        moved[level.name] = read + written
    return moved


def spent_j(load: Load, peaks: Peaks) -> dict[str, Number]:
    """Joules that a load takes by unit and level, without what leaks; empty if nothing is known of the chip's energy."""
    return {} if peaks.prices is None else peaks.prices.spent_j(load.macs, load.counts, moved_bytes(load, peaks))


def floor_s(asked: Demand, chip: Chip) -> Number:
    """No execution of a step is faster: all MACs at the peak of their formats, all compulsory bytes at DRAM's peak bandwidth, or all warm
    bytes at that of the outermost on-chip level."""
    compute = total(matrix_s(macs, chip.peak_macs_per_s(number_format)) for number_format, macs in asked.macs.items())
    memory: list[Number] = []
    for level, moved in zip(chip.memory[:2], (asked.compulsory_bytes, asked.warm_bytes), strict=True):
        rates = chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)
        memory.append(transfer_s(moved(is_write=False), moved(is_write=True), *rates, level.bandwidth.shared))
    return larger(larger(*memory), compute)


def time_classes(plan: Plan) -> list[GroupTimes]:
    """Each class of groups, timed; its ops share the latency by their own single-op rooflines. Raises `ScenarioError` for many chips."""
    peaks = Peaks.of(plan.chip)
    if peaks.is_many:
        raise ScenarioError(Problem(f"{plan.chip.name} has arrays for numbers", "a timeline is of one chip; for many call roofline_grid"))
    return [time_class(group_class, peaks) for group_class in plan.classes]


def time_class(group_class: GroupClass, peaks: Peaks) -> GroupTimes:
    """One class: its busiest unit or level decides."""
    times = unit_times_s(group_class.load, peaks)
    bound_by = max(times, key=lambda name: float(times[name]))
    own_times = [times if load is group_class.load else unit_times_s(load, peaks) for load in group_class.op_loads]
    own_s = np.array([float(largest(each.values())) for each in own_times])
    macs = [float(op.work.useful_macs) if isinstance(op.work, Contraction) else 0.0 for op in group_class.ops]
    moved = [float(sum(dram_bytes(load, peaks))) for load in group_class.op_loads]
    own_sum_s = own_s.sum()
    shares = own_s / own_sum_s if own_sum_s > 0 else np.full(len(own_s), 1 / len(own_s))
    busy_s = {name: float(time) for name, time in times.items()}
    op_dram_bytes, op_issued_macs = np.array(moved), np.array(macs)
    return GroupTimes(
        latency_s=busy_s[bound_by],
        bound_by=bound_by,
        busy_s=busy_s,
        lost_s={},
        shares=shares,
        op_busy_s=own_s,
        op_dram_bytes=op_dram_bytes,
        op_issued_macs=op_issued_macs,
        macs=group_class.load.macs,
        counts=group_class.load.counts,
        moved_bytes={} if peaks.prices is None else moved_bytes(group_class.load, peaks),
        op_spent_j=np.array([float(total(spent_j(load, peaks).values())) for load in group_class.op_loads]),
        schedule=Schedule(partial(side_by_side, busy_s, op_dram_bytes, op_issued_macs, 0.0)),
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """Latencies where numbers of the graph or of the chip are arrays; all broadcast to the grid's shape, alike components share one."""

    latency_s: Number
    components_s: dict[str, Number]
    floor_s: Number


def grid(plan: Plan) -> Grid:
    """Latency of the step, and of each component, over all chips, batches and lengths of the plan at once."""
    asked, scenario = plan.demand, plan.graph.scenario
    distinct = tuple(dict.fromkeys(asked.components.values()))

    def evaluate(chip: Chip) -> list[Number]:
        total_s, sums_s = step_s(asked, _class_latencies_s(plan.classes, Peaks.of(chip)))
        return [total_s, floor_s(asked, chip), *(sums_s[classes] for classes in distinct)]

    one_step = not any(np.ndim(value) for value in (scenario.batch, scenario.q_len, scenario.context))
    total_s, least_s, *sums_s = _in_pieces(evaluate, plan.chip) if one_step else evaluate(plan.chip)
    component_s = dict(zip(distinct, sums_s, strict=True))
    return Grid(total_s, {name: component_s[classes] for name, classes in asked.components.items()}, least_s)


def _class_latencies_s(classes: Sequence[GroupClass], peaks: Peaks) -> list[Number]:
    """Seconds of each class. Classes that differ only in which capacity they ask for are worked out once where all of it is there."""
    known: dict[Any, Number] = {}
    latencies_s = []
    for group_class in classes:
        load = group_class.load
        through_dram = dram_bytes(load, peaks)
        asked: Any = object()  # equal to nothing
        if all(isinstance(size_bytes, int) for size_bytes in (*through_dram, *load.moved.values())):
            asked = *map(id, (op.work for op in group_class.ops)), *load.moved.items(), *through_dram
        if asked not in known:
            known[asked] = largest(unit_times_s(load, peaks, through_dram).values())
        latencies_s.append(known[asked])
    return latencies_s


def _in_pieces(evaluate: Callable[[Chip], list[Number]], chip: Chip) -> list[Number]:
    """What `evaluate` makes of a chip with arrays in it, `PIECE` chips at a time."""
    shapes: list[tuple[int, ...]] = []
    _mapped(chip, lambda array: shapes.append(array.shape))
    shape = np.broadcast_shapes(*shapes)
    chips = math.prod(shape)
    if chips <= PIECE:
        return evaluate(chip)
    flat = _mapped(replace(chip, provenance={}), lambda array: np.broadcast_to(array, shape).reshape(-1))
    results = np.empty((0, chips))
    for begin in range(0, chips, PIECE):
        piece = slice(begin, begin + PIECE)
        values = evaluate(_mapped(flat, lambda array, piece=piece: array[piece]))
        if not begin:
            results = np.empty((len(values), chips))
        for result, value in zip(results, values, strict=True):
            result[piece] = value
    return list(results.reshape(-1, *shape))


def _mapped(value: Any, change: Callable[..., Any]) -> Any:
    """The same value with every array in it changed."""
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _mapped(getattr(value, each.name), change) for each in fields(value)})
    return value
