"""Engines by name: each times the classes of a plan. A new engine is one module and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sim.engines import roofline
from sim.engines.result import GroupTimes
from sim.plan import Plan


def _tiled(plan: Plan) -> list[GroupTimes]:
    """Imported when it is used: the roofline starts without the mapper."""
    from sim.engines import tiled

    return tiled.time_classes(plan)


def _cycle(plan: Plan) -> list[GroupTimes]:
    from sim.engines import cycle

    return cycle.time_classes(plan)


ENGINES: Mapping[str, Callable[[Plan], list[GroupTimes]]] = {"roofline": roofline.time_classes, "tiled": _tiled, "cycle": _cycle}
DEFAULT_ENGINE = "roofline"
