"""Area of a chip as the sum of its parts. All functions broadcast over scalars and NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable

from hwmodels.chip import Number
from hwmodels.formulas.roofline import total


def parts_mm2(parts: Iterable[tuple[Number, Number]]) -> Number:
    """Area [mm2] of (how many, area of one [mm2]) parts: PEs, lanes, bytes of memory, bytes per second of PHY."""
    return total(count * each_mm2 for count, each_mm2 in parts)


def die_mm2(modelled_mm2: Number, fixed_mm2: Number, other_share: Number) -> Number:
    """Area [mm2] of a die of which `other_share` is neither modelled nor fixed."""
    return (modelled_mm2 + fixed_mm2) / (1 - other_share)
