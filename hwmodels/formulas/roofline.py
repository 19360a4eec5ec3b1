"""The roofline: time on each unit and level if nothing else stood in the way.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009. All functions broadcast over scalars and NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Number


def matrix_s(macs: Number, peak_macs_per_s: Number) -> Number:
    """Seconds [s] for `macs` multiply-accumulates at a peak of `peak_macs_per_s` [1/s]."""
    return macs / peak_macs_per_s


def pack_s(weights_bytes: float, pack_bytes_per_s: Number, dram_bytes_per_s: Number) -> Number:
    """Seconds [s] in which a library copies weights into the order of its kernel while DRAM delivers them; then it multiplies several rows
    (Goto and van de Geijn, ACM TOMS 34(3), 2008)."""
    return larger(weights_bytes / pack_bytes_per_s, weights_bytes / dram_bytes_per_s)


def passes_s(weights_bytes: float, rows: int, rows_at_once: Number, dram_bytes_per_s: Number) -> Number:
    """Seconds [s] in which a library multiplies a few rows by weights as they lie in memory: each `rows_at_once` of them, whose sums stay
    in registers, take a pass over the weights."""
    return np.ceil(rows / rows_at_once) * weights_bytes / dram_bytes_per_s


def transfer_s(read_bytes: Number, written_bytes: Number, read_bytes_per_s: Number, write_bytes_per_s: Number, shared: bool) -> Number:
    """Seconds [s] to move bytes through a level: those of its busier port."""
    first, *second = ports_s(read_bytes, written_bytes, read_bytes_per_s, write_bytes_per_s, shared)
    return larger(first, *second) if second else first


def ports_s(
    read_bytes: Number, written_bytes: Number, read_bytes_per_s: Number, write_bytes_per_s: Number, shared: bool
) -> tuple[Number, ...]:
    """Seconds [s] that each port of a level works; one for both directions if `shared` (then both rates are the port's), else one to read
    and one to write."""
    if shared:
        return ((read_bytes + written_bytes) / read_bytes_per_s,)
    return read_bytes / read_bytes_per_s, written_bytes / write_bytes_per_s


def larger(a: Number, b: Number) -> Number:
    """Maximum of two scalars or arrays."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return max(a, b)


def largest(times: Iterable[Number]) -> Number:
    """Maximum of several scalars or arrays, none of them negative; 0 for none."""
    scalar = 0.0
    arrays: list[NDArray[Any]] = []
    for time in times:
        if isinstance(time, np.ndarray):
            arrays.append(time)
        elif time > scalar:
            scalar = time
    if not arrays:
        return scalar
    array = reduce(np.maximum, arrays)
    # NumPy compares two arrays much faster than an array and a number, and most often need not.
    return array if scalar <= array.min(initial=np.inf) else np.maximum(array, np.full(array.shape, scalar))


def total(times: Iterable[Number]) -> Number:
    """Sum of several scalars or arrays from the first to the last; 0 for none."""
    terms = list(times)
    return reduce(add, terms) if terms else 0.0
