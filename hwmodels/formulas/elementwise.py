"""Minimum, maximum and choice of numbers or arrays: NumPy's where an array takes part, plain comparison (much faster) where none does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers, element by element."""
    if isinstance(a, ndarray) or isinstance(b, ndarray):
        return np.minimum(a, b)
    return a if a <= b else b


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, element by element."""
    if isinstance(a, ndarray) or isinstance(b, ndarray):
        return np.maximum(a, b)
    return a if a >= b else b


def chosen(which: Any, yes: Any, no: Any) -> Any:
    """`yes` where `which` holds, else `no`."""
    if isinstance(which, ndarray):
        return np.where(which, yes, no)
    return yes if which else no


def slowest(seconds: Mapping[str, Any]) -> tuple[Any, Any]:
    """The name of the largest of some times [s], the first of equals, and that time; of arrays arrays."""
    (name, most), *others = seconds.items()
    for other, time in others:
        more = time > most
        name, most = chosen(more, other, name), chosen(more, time, most)
    return name, most


def plain(number: Any) -> Any:
    """A Python float; an array as it is."""
    return number if isinstance(number, ndarray) else float(number)


def plain_count(number: Any) -> Any:
    """A Python int; an array as it is."""
    return number if isinstance(number, ndarray) else int(number)


def nearest_count(number: Any) -> Any:
    """The nearest whole number; what rounding has made of halves is forgiven."""
    return np.rint(np.round(number, 3)) if isinstance(number, ndarray) else round(round(number, 3))
