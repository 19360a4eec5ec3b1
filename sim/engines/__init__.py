"""Engines by name: each times the classes of a plan. A new engine is one module and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from functional.errors import Problem, ScenarioError, UnknownName, did_you_mean
from hwmodels.paths import refuse_many
from sim.engines import roofline
from sim.engines.result import GroupTimes
from sim.plan import Plan

if TYPE_CHECKING:
    from sim.engines import tiled


def _tiled(plan: Plan) -> list[GroupTimes]:
    """Imported when it is used: the roofline starts without the mapper."""
    from sim.engines import tiled

    return tiled.time_classes(plan)


def _cycle(plan: Plan) -> list[GroupTimes]:
    from sim.engines import cycle

    return cycle.time_classes(plan)


def timed(plan: Plan, engine: str, prefetch: bool = True) -> tuple[Plan, list[GroupTimes]]:
    """A plan with the engine of that name: the plan whose classes are timed, and their times.

    The cycle engine lets weights come before the group that uses them, unless not `prefetch`: what came parts its classes. Without, and in
    every other engine, groups of a class are alike. Raises `ScenarioError` for a chip whose numbers are arrays.
    """
    refuse_many(plan.chip, ONE_CHIP)
    if engine == "cycle" and prefetch:
        from sim.engines import prefetch as ahead

        return ahead.time_groups(plan)
    return plan, ENGINES[engine](plan)


def mapped_by(plan: Plan, engine: str) -> list[tiled.Mapped]:
    """Each class of groups as the engine of that name maps it: the very mapping that it times.

    Raises `BadInput` for an engine that maps nothing, and for a chip whose numbers are arrays.
    """
    check_engine(engine)
    refuse_many(plan.chip, ONE_CHIP)
    if engine == "roofline":
        raise ScenarioError(Problem("roofline maps nothing that could be executed", "take tiled or cycle", path="--engine"))
    from sim.engines import cycle, tiled

    if engine == "cycle":
        return [each.mapped for each in cycle.play_classes(plan)]
    return tiled.map_classes(plan)


ENGINES: Mapping[str, Callable[[Plan], list[GroupTimes]]] = {"roofline": roofline.time_classes, "tiled": _tiled, "cycle": _cycle}
DEFAULT_ENGINE = "tiled"

ONE_CHIP = "one chip is timed at a time; for the roofline of many call roofline_grid"
"""What to do where a chip's numbers are arrays."""


def check_engine(engine: str, prefetch: bool = True) -> None:
    """Raise `BadInput` for an unknown engine, and for one that never prefetches if it is asked not to."""
    if engine not in ENGINES:
        raise UnknownName(Problem(f"unknown engine '{engine}'", did_you_mean(engine, ENGINES), path="--engine"))
    if not prefetch and engine != "cycle":
        raise ScenarioError(Problem(f"engine {engine} never prefetches", "leave it out, or add --engine cycle", path="--no-prefetch"))
