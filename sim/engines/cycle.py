"""The cycle engine: the mappings of the tiled engine, played tile by tile on ports and units that do one thing at a time.

A group of linears is played by `sim.engines.play_gemm`, attention by `sim.engines.play_attention`; what streams through the vector unit
is one pass, for which the tiled bound is a schedule. Group by group no result is below the tiled one: what is played is one of the
schedules that tiled bounds. `lost_s["stall"]` is the difference. Groups follow one another; nothing is prefetched across them. On a GPU
whose technology is calibrated, waves of tiles, ends of pipelines and rates are in the tiled figures already; nothing is played, and
nothing stalls.
"""

from __future__ import annotations

from dataclasses import replace

from functional.errors import Problem, ScenarioError
from hwmodels.chip import Chip
from hwmodels.technology import technology_of
from sim.engines import roofline, tiled
from sim.engines.play_attention import play_attention
from sim.engines.play_gemm import Besides, Played, play_gemm
from sim.engines.result import GroupTimes
from sim.plan import Plan, sustained


def time_classes(plan: Plan) -> list[GroupTimes]:
    """Each class of groups, mapped and played. Raises `ScenarioError` for grids, `BadInput` for what cannot be mapped."""
    chip = plan.chip
    peaks = roofline.Peaks.of(chip)
    if peaks.is_many:
        raise ScenarioError(Problem(f"{plan.chip.name} has arrays for numbers", "cycle plays one chip at a time; take the roofline"))
    plan = sustained(plan)
    lasting = peaks if plan.chip is chip else roofline.Peaks.of(plan.chip)
    technology = technology_of(plan.chip)
    known: dict[object, Played] = {}  # alike choices of different classes
    times = []
    for group_class in plan.classes:
        mapped = tiled.map_group(group_class, plan, lasting)
        bound = tiled.timed(group_class, plan, peaks, lasting, mapped)
        if mapped.choice is None or technology is not None:
            times.append(bound)
            continue
        key = repr((mapped.choice, sorted(mapped.busy_s.items())))
        if key not in known:
            known[key] = _played(mapped, plan.chip)
        times.append(_stalled(bound, mapped, known[key], plan.chip))
    return times


def _played(mapped: tiled.Mapped, chip: Chip) -> Played:
    choice, clock_hz = mapped.choice, float(chip.clock_hz)
    if isinstance(choice, tiled.GemmChoice):
        levels = {level.name: choice.besides_s[level.name] * clock_hz for level in chip.memory}
        besides = Besides(choice.besides_s[roofline.VECTOR] * clock_hz, levels)
        return play_gemm(choice.mapping, chip, choice.cost, besides, choice.a_resident)
    assert choice is not None
    return play_attention(choice.mapping, chip, choice.cost, mapped.busy_s, choice.in_dram, choice.part)


def _stalled(bound: GroupTimes, mapped: tiled.Mapped, played: Played, chip: Chip) -> GroupTimes:
    """The bound's figures with the latency of the schedule."""
    played_s = played.end / float(chip.clock_hz)
    stall_s = played_s - mapped.latency_s
    return replace(bound, latency_s=played_s + bound.lost_s["launch"], lost_s={**bound.lost_s, "stall": stall_s})
