"""The cycle engine: the mappings of the tiled engine, played tile by tile on ports and units that do one thing at a time.

A group of linears is played by `sim.engines.play_gemm`, attention by `sim.engines.play_attention`, under the mapping that plays best of
those that `sim.engines.play` visits; what streams through the vector unit is one pass, for which the tiled bound is a schedule. Group by
group no result is below the tiled one: what is played is one of the schedules that tiled bounds, of a mapping that tiled has not for better
than its own. `lost_s["stall"]` is the difference to the tiled latency of what is played. Groups follow one another; `sim.engines.prefetch`
lets weights come across them. On a GPU whose technology is calibrated `sim.engines.play_waves` plays GEMMs; attention and what streams take
their tiled figures, which waves, ends of pipelines and sustained rates are in already.

A group is bound by what takes most of it: a unit or level that is busy, something that the array waits for, or the launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hwmodels.chip import Chip
from hwmodels.technology import technology_of
from sim.engines import roofline, tiled
from sim.engines.play import Visited, play, under, visit
from sim.engines.played import Played
from sim.engines.ports import Window
from sim.engines.prices import UNITS
from sim.engines.result import GroupTimes, resources_of
from sim.intervals import LAUNCH, Intervals, Log, Schedule
from sim.plan import Plan, sustained
from workloads.demand import GroupClass

NAMED_BY = {"dram": "dram", "array": "matrix", "vector": "vector"}
"""Causes of stalls that are named by what is waited for; DRAM by its name on the chip."""


def time_classes(plan: Plan) -> list[GroupTimes]:
    """Each class of groups, mapped and played. Raises `BadInput` for what cannot be mapped."""
    return [each.times(each.played) for each in play_classes(plan)]


def play_classes(plan: Plan) -> list[PlayedClass]:
    """The schedules of all classes, each for itself and under the mapping that plays best; alike ones of different classes share one."""
    chip = plan.chip
    peaks = roofline.Peaks.of(chip)
    plan = sustained(plan)
    lasting = peaks if plan.chip is chip else roofline.Peaks.of(plan.chip)
    calibrated = technology_of(plan.chip) is not None
    known: dict[object, Visited] = {}
    found = []
    for group_class, mapped in zip(plan.classes, tiled.map_groups(plan, lasting), strict=True):
        visited = None
        if mapped.choice is not None and (mapped.waves is not None or not calibrated):
            key = repr((mapped.choice, sorted(mapped.busy_s.items()), mapped.dram_bytes))
            if key not in known:
                known[key] = visit(group_class, mapped, plan, lasting)
            visited = known[key]
        chosen = mapped
        if visited is not None and visited.mapped.choice not in (mapped.choice, None):
            chosen = under(visited.mapped.choice, group_class, plan, lasting)
        first = tiled.timed(group_class, plan, peaks, lasting, mapped)
        bound = first if chosen is mapped else tiled.timed(group_class, plan, peaks, lasting, chosen)
        found.append(PlayedClass(plan.chip, calibrated, group_class, chosen, bound, first.latency_s, visited))
    return found


@dataclass(frozen=True, slots=True)
class PlayedClass:
    """A class of groups: how it is mapped, the tiled bound of that, the tiled latency of the mapper's choice, and what was played (nothing
    where it streams, and the bound is a schedule, and of attention on a chip that is calibrated)."""

    chip: Chip
    calibrated: bool
    group_class: GroupClass
    mapped: tiled.Mapped
    bound: GroupTimes
    least_s: float
    visited: Visited | None

    @property
    def played(self) -> Played | None:
        return None if self.visited is None else self.visited.played

    def play(self, windows: Sequence[Window]) -> Played:
        """The schedule of a GEMM if what those windows before it allow of its weights has come."""
        return play(self.group_class, self.mapped, self.chip, windows)

    def times(self, played: Played | None, windows: Sequence[Window] = ()) -> GroupTimes:
        """The bound's figures with the latency of a schedule, that of a play with those windows, and what binds it."""
        chip, bound, mapped = self.chip, self.bound, self.mapped
        if self.calibrated and played is None:
            whole = bound.schedule.whole
            return replace(bound, schedule=Schedule(whole, lambda _: whole()))
        if played is None:
            make = partial(_one_pass, bound, mapped, chip)
            bound_by = _bound_by(bound, _waits_s(mapped, chip), chip)
            return replace(bound, bound_by=bound_by, schedule=Schedule(make, lambda _: make()))
        clock_hz = float(chip.clock_hz)
        played_s = played.end / clock_hz
        waits_s = {cause: cycles / clock_hz for cause, cycles in played.stalls.items()}
        return replace(
            bound,
            latency_s=self._latency_s(played, played_s + bound.lost_s[LAUNCH]),
            bound_by=bound.bound_by if self.calibrated else _bound_by(bound, waits_s, chip),
            lost_s={**bound.lost_s, "stall": played_s - mapped.latency_s},
            schedule=Schedule(partial(_whole, bound, played, chip), partial(self._tiles, tuple(windows))),
            visits=self.visited and self.visited.visits,
        )

    def _latency_s(self, played: Played, latency_s: float) -> float:
        """Seconds of a group whose play takes `latency_s`. If nothing came before it began, what is played is one of the schedules that the
        tiled engine bounds, and only the rounding of a bound in seconds to cycles and back can bring it below that. With more ahead it ends
        no later than without."""
        if not played.ahead:
            return self.least_s if tiled.ROUNDING * self.least_s <= latency_s < self.least_s else latency_s
        assert self.played is not None
        return min(latency_s, self._latency_s(self.played, self.played.end / float(self.chip.clock_hz) + self.bound.lost_s[LAUNCH]))

    def _tiles(self, windows: Sequence[Window], resolution_s: float) -> Intervals:
        """The schedule, played again with every tile written down."""
        clock_hz = float(self.chip.clock_hz)
        log = Log(resources_of(self.bound.busy_s), resolution_s * clock_hz)
        play(self.group_class, self.mapped, self.chip, windows, log)
        return log.intervals(1 / clock_hz, self.bound.lost_s[LAUNCH])


def _bound_by(bound: GroupTimes, waits_s: Mapping[str, float], chip: Chip) -> str:
    """What takes most of a group."""
    takes = dict(bound.busy_s) | {LAUNCH: bound.lost_s[LAUNCH]}
    for cause, seconds in waits_s.items():
        name = {**NAMED_BY, "dram": chip.dram.name}.get(cause, cause)
        takes[name] = max(takes.get(name, 0.0), seconds)
    return max(takes, key=takes.__getitem__)


def _whole(bound: GroupTimes, played: Played, chip: Chip) -> Intervals:
    """A played group: each resource from its first to its last work, each cause from the first to the last time that the array waited."""
    log = Log(resources_of(bound.busy_s))
    only = 0 if len(bound.shares) == 1 else -1
    came_bytes = sum(each.size_bytes for each in played.ahead if each.resource == chip.dram.name)
    for each in played.ahead:
        each._replace(size_bytes=each.size_bytes if each.resource == chip.dram.name else 0.0).write(log, only)
    for name, span in played.spans.items():
        size_bytes = float(bound.op_dram_bytes.sum()) - came_bytes if name == chip.dram.name else 0.0
        macs = float(bound.op_issued_macs.sum()) if name == roofline.MATRIX else 0.0
        what = "compute" if name in UNITS else "move"
        log.add(name, what, span.first, span.last, busy=played.busy[name], size_bytes=size_bytes, macs=macs, op=only)
    for cause, wait in played.waits.items():
        if wait.first >= 0.0:
            log.add(roofline.MATRIX, "stall", wait.first, wait.last, busy=wait.cycles, cause=cause, op=only)
    return log.intervals(1 / float(chip.clock_hz), bound.lost_s[LAUNCH])


def _one_pass(bound: GroupTimes, mapped: tiled.Mapped, chip: Chip) -> Intervals:
    """What streams: all begin when DRAM has answered; the vector unit waits for what it has not yet got."""
    log = Log(resources_of(bound.busy_s))
    only = 0 if len(bound.shares) == 1 else -1
    begin_s = mapped.latency_s - max(mapped.busy_s.values())
    for name, busy_s in mapped.busy_s.items():
        size_bytes = float(bound.op_dram_bytes.sum()) if name == chip.dram.name else 0.0
        log.add(name, "compute" if name in UNITS else "move", begin_s, begin_s + busy_s, size_bytes=size_bytes, op=only)
    for cause, waits_s in _waits_s(mapped, chip).items():
        log.add(roofline.VECTOR, "stall", 0.0, mapped.latency_s, busy=waits_s, cause=cause, op=only)
    return log.intervals(launch_s=bound.lost_s[LAUNCH])


def _waits_s(mapped: tiled.Mapped, chip: Chip) -> dict[str, float]:
    """What the vector unit, if it works, waits for in a group that streams."""
    works_s = mapped.busy_s[roofline.VECTOR]
    on_chip = mapped.bound_by not in (chip.dram.name, roofline.VECTOR)
    return {"dependency" if on_chip else "dram": mapped.latency_s - works_s} if works_s and mapped.latency_s > works_s else {}
