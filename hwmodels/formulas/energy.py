"""Energy of a step: what is switched, what is moved, and what leaks meanwhile.

The accounting of Horowitz, "Computing's energy problem", ISSCC 2014: energy = sum over events of count x energy per event, plus static
power x time. All functions broadcast over scalars and NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwmodels.chip import Number
from hwmodels.formulas.roofline import total

MEBIBYTE = 2.0**20


def events_j(counts: Mapping[str, Number], each_j: Mapping[str, Number]) -> Number:
    """Joules [J] of `counts` events by kind, of `each_j` [J] each."""
    return total(count * each_j[kind] for kind, count in counts.items())


def sram_byte_j(access_j: Number, wire_j: Number, capacity_bytes: Number) -> Number:
    """Joules per byte [J/B] of a memory of `capacity_bytes`: `access_j`, and `wire_j` for each root of a MiB, as wires grow with the side
    of the memory (as in CACTI; Wilton and Jouppi, IEEE JSSC 31(5), 1996)."""
    return access_j + wire_j * np.sqrt(capacity_bytes / MEBIBYTE)


def static_j(static_w: Number, seconds: Number) -> Number:
    """Joules [J] that leak in `seconds`."""
    return static_w * seconds
