"""Many chips as one: a chip whose numbers are arrays, an entry for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip


def mapped(value: Any, change: Callable[[NDArray[Any]], Any]) -> Any:
    """The same value with every array in it changed; what has none stays the object that it is."""
    if isinstance(value, np.ndarray):
        return change(value)
    if value is None or isinstance(value, str | int | float | frozenset):
        return value
    if isinstance(value, tuple):
        parts = tuple([mapped(part, change) for part in value])
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
    if isinstance(value, Mapping):
        changed = {key: mapped(part, change) for key, part in value.items()}
        return value if all(changed[key] is part for key, part in value.items()) else changed
    if is_dataclass(value) and not isinstance(value, type):
        different = {}
        for name in _names(type(value)):
            part = getattr(value, name)
            new = mapped(part, change)
            if new is not part:
                different[name] = new
        return replace(value, **different) if different else value
    return value


@lru_cache(maxsize=64)
def _names(kind: type) -> tuple[str, ...]:
    """Fields of a dataclass in which there may be numbers."""
    return tuple(each.name for each in fields(kind) if each.name != "provenance")


def shape_of(chips: Chip) -> tuple[int, ...]:
    """The shape to which all arrays of a chip broadcast; () if it has none."""
    shapes: list[tuple[int, ...]] = []

    def noted(array: NDArray[Any]) -> NDArray[Any]:
        shapes.append(array.shape)
        return array

    mapped(chips, noted)
    return np.broadcast_shapes(*shapes)


def flat(chips: Chip) -> Chip:
    """The same chips with arrays of one dimension, all of one length."""
    shape = shape_of(chips)
    return mapped(chips, lambda array: np.broadcast_to(array, shape).reshape(-1))  # type: ignore[no-any-return]


def taken(chips: Chip, which: Any) -> Chip:
    """Some of the chips: `which` are indices or a slice of flat ones."""
    return mapped(chips, lambda array: array[which])  # type: ignore[no-any-return]


def chip_at(chips: Chip, which: int) -> Chip:
    """One of the chips, with plain numbers."""
    return mapped(chips, lambda array: array[which].item())  # type: ignore[no-any-return]
