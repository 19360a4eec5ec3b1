"""The roofline engine: per group, the busiest unit or level decides.

latency = max over units of summed work / peak, and over memory levels of bytes / bandwidth. Datasheet peaks, nothing calibrated. Everything
broadcasts: lengths in the graph and numbers of the chip may be arrays.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.formats import bits_of
from functional.spec import Dim
from functional.work import Contraction
from hwmodels.chip import Chip, MemoryLevel, Number
from hwmodels.formulas.roofline import larger, largest, matrix_s, total, transfer_s
from sim.engines.prices import UNITS, Prices, prices_of
from sim.engines.result import GroupTimes, side_by_side
from sim.intervals import Schedule
from sim.plan import Plan, apart_from_sums, resident_capacity_bytes
from workloads.demand import Demand, GroupClass, Load

MATRIX, VECTOR = UNITS


@dataclass(frozen=True, slots=True)
class Peaks:
    """A chip as the roofline sees it, worked out once for all loads; everything is that of the whole chip.

    `levels` are (level, bytes read per second, bytes written per second), outermost first; the array writes into `sums_level`. What it
    makes for later groups is written into `results_level` besides (empty: it is where the sums are). Intermediates may use
    `resident_bytes` on the chip; where that is an array, `resident_range` is its least and its largest value.
    """

    macs_per_s: Mapping[str, Number]
    primitive_s: Mapping[str, Number]
    levels: tuple[tuple[MemoryLevel, Number, Number], ...]
    accumulate: Mapping[str, str]
    sums_level: str
    results_level: str
    resident_bytes: Number
    resident_range: tuple[float, float]
    prices: Prices | None = None
    spilled: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Where intermediates of a threshold go through DRAM: loads share thresholds."""

    @classmethod
    def of(cls, chip: Chip) -> Peaks:
        """Datasheet peaks."""
        resident_bytes, apart = resident_capacity_bytes(chip), apart_from_sums(chip)
        return cls(
            macs_per_s={name: chip.peak_macs_per_s(name) for name in chip.formats},
            primitive_s={primitive: chip.primitive_s(primitive) for primitive in chip.vector.cycles},
            levels=tuple((level, chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)) for level in chip.memory),
            accumulate=chip.matrix.accumulate,
            sums_level=next(level.name for level in reversed(chip.memory) if "psums" in level.holds),
            results_level="" if apart is None else apart.name,
            resident_bytes=resident_bytes,
            resident_range=(float(np.min(resident_bytes)), float(np.max(resident_bytes))),
            prices=prices_of(chip),
        )

    def extreme(self, fastest: bool) -> Peaks:
        """Plain numbers: the largest of all that any of many chips offers, or the smallest."""
        most, least = (np.max, np.min) if fastest else (np.min, np.max)
        resident_bytes = self.resident_range[fastest]
        return replace(
            self,
            macs_per_s={name: float(most(rate)) for name, rate in self.macs_per_s.items()},
            primitive_s={name: float(least(seconds)) for name, seconds in self.primitive_s.items()},
            levels=tuple((level, float(most(read)), float(most(written))) for level, read, written in self.levels),
            resident_bytes=resident_bytes,
            resident_range=(resident_bytes, resident_bytes),
            spilled={},
        )

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


def unit_times_s(load: Load, peaks: Peaks, only: Container[str] | None = None) -> dict[str, Number]:
    """Seconds that each unit and each level of the chip (or `only` some) is busy with a load, if it runs at its peak."""
    times: dict[str, Number] = {}
    if only is None or MATRIX in only:
        times[MATRIX] = total(matrix_s(macs, peaks.macs_per_s[number_format]) for number_format, macs in load.macs.items())
    if only is None or VECTOR in only:
        times[VECTOR] = total(executions * peaks.primitive_s[primitive] for primitive, executions in load.counts.items())
    for i, (level, read_bytes_per_s, write_bytes_per_s) in enumerate(peaks.levels):
        if only is None or level.name in only:
            moved = inner_bytes(load, level, peaks) if i else dram_bytes(load, peaks)
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
    """Bytes (read, written) that a load moves through an on-chip level at least: each tensor that it holds once. Sums are written into the
    innermost level that holds them, and read in each that does where they leave as a linear's result; one that later groups read is then
    written where intermediates stay, as other activations are, whether it stays or goes on to DRAM."""
    totals: list[Number] = [0, 0]
    for (kind, is_write), size_bytes in load.moved.items():
        if kind in ("psums", "results"):
            if "psums" in level.holds:
                totals[0] = totals[0] + size_bytes
            if kind == "results" and level.name == peaks.results_level:
                totals[1] = totals[1] + size_bytes
        elif kind in level.holds:
            totals[is_write] = totals[is_write] + size_bytes
    if level.name == peaks.sums_level:
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


def energy_j(asked: Demand, peaks: Peaks, total_s: Number) -> Number | None:
    """Joules of a step that takes `total_s` [s]: linear in what all its groups ask together; None if nothing is known of the chip's."""
    if peaks.prices is None:
        return None
    return total(peaks.prices.step_j(spent_j(asked.whole, peaks), total_s).values())


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
    """Each class of groups, timed; its ops share the latency by their own single-op rooflines."""
    peaks = Peaks.of(plan.chip)
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
