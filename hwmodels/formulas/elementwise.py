"""Minimum, maximum and choice of numbers or arrays: NumPy's where an array takes part, plain comparison (much faster) where none does."""

from __future__ import annotations

from typing import Any

import numpy as np


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers, element by element."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return a if a <= b else b


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, element by element."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a >= b else b


def chosen(which: Any, yes: Any, no: Any) -> Any:
    """`yes` where `which` holds, else `no`."""
    if isinstance(which, np.ndarray):
        return np.where(which, yes, no)
    return yes if which else no
