"""What events of a chip take in joules, worked out once for all loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwmodels.chip import Chip, Number
from hwmodels.costs import byte_j, static_w
from hwmodels.formulas.energy import events_j, static_j

UNITS = ("matrix", "vector")
"""Names of the matrix and the vector unit among the resources; the others are levels of memory."""

STATIC = "static"
"""What leaks, among the resources that take energy."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Joules per MAC by compute format, per vector primitive, per byte by level; watts that always flow. Numbers may be arrays of many
    chips."""

    mac_j: Mapping[str, Number]
    vector_j: Mapping[str, Number]
    byte_j: Mapping[str, Number]
    static_w: Number

    def spent_j(self, macs: Mapping[str, Number], counts: Mapping[str, Number], moved_bytes: Mapping[str, Number]) -> dict[str, Number]:
        """Joules by unit and level; `moved_bytes` are read and written together, over the whole chip."""
        levels = {name: size_bytes * self.byte_j[name] for name, size_bytes in moved_bytes.items()}
        matrix, vector = UNITS
        return {matrix: events_j(macs, self.mac_j), vector: events_j(counts, self.vector_j), **levels}

    def step_j(self, spent_j: Mapping[str, Number], total_s: Number) -> dict[str, Number]:
        """Joules of a step by unit and level, and what leaks meanwhile; the step's energy is their `total` in this order."""
        return {**spent_j, STATIC: static_j(self.static_w, total_s)}


def prices_of(chip: Chip) -> Prices | None:
    """None where nothing is known of the chip's energy."""
    if chip.energy is None:
        return None
    return Prices(chip.energy.mac_j, chip.energy.vector_j, {level.name: byte_j(chip, level) for level in chip.memory}, static_w(chip))
