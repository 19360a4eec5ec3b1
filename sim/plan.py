"""The plan: what is decided once, for all engines, before anything is timed on a chip.

Fusion groups and the residency of intermediates come from `workloads` as numbers without a chip; here they meet one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from functional.errors import Problem, ScenarioError
from hwmodels.chip import Chip, MemoryLevel, Number
from workloads.demand import Demand, GroupClass, demand
from workloads.graph import OpGraph
from workloads.split import parts_of


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A step, ready to be timed on a chip."""

    graph: OpGraph
    chip: Chip
    demand: Demand

    @property
    def classes(self) -> tuple[GroupClass, ...]:
        return self.demand.classes


def plan(graph: OpGraph, chip: Chip, fused: bool = True) -> Plan:
    """Bring a step and a chip together; raises `ScenarioError` if the chip cannot multiply in a format that the step needs, or has
    fewer cores than a linear has pieces."""
    asked = demand(graph, fused)
    missing = [number_format for number_format in asked.macs if number_format not in chip.matrix.rates]
    if missing:
        raise ScenarioError(
            Problem(
                f"{chip.name} has no rate for {', '.join(missing)}",
                f"choose --weights, --activations and --kv among {', '.join(chip.formats)}, or add the rate to the chip",
                path=f"matrix.rates.{missing[0]}",
            )
        )
    parts = parts_of(graph)
    if np.any(parts > np.asarray(chip.cores)):
        message = f"--split {parts} runs on as many cores; {chip.name} has {np.min(chip.cores)}"
        raise ScenarioError(Problem(message, f"raise cores to {parts}", path="cores"))
    return Plan(graph, chip, asked)


def sustained(plan: Plan) -> Plan:
    """The same plan on the chip at the rates and bandwidths that it sustains: what tiled and cycle time, not the roofline or the floor."""
    chip = plan.chip.sustained()
    return plan if chip is plan.chip else replace(plan, chip=chip)


def resident_level(chip: Chip) -> MemoryLevel:
    """The level in which intermediates may stay: the outermost on-chip one that holds activations."""
    return next(level for level in chip.memory[1:] if "activations" in level.holds)


def apart_from_sums(chip: Chip) -> MemoryLevel | None:
    """The level in which intermediates may stay, if it holds no sums: what a linear makes for later groups is written into it. (Else the
    sums that the array writes there become it where they lie.)"""
    level = resident_level(chip)
    return None if "psums" in level.holds else level


def resident_capacity_bytes(chip: Chip) -> Number:
    """What intermediates may use of it; tiles get the rest."""
    return chip.capacity_bytes(resident_level(chip)) * chip.resident_share
