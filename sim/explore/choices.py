"""Fields of a chip that are chosen rather than measured: what they may be, and a chip with another choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

from functional.errors import Problem, did_you_mean
from functional.formats import ACTIVATION_FORMATS
from hwmodels.chip import Chip, MemoryLevel

Choice: TypeAlias = str | bool

_MATRIX = {"weight_preload": ("overlapped", "serial"), "dataflows": ("ws", "os", "is")}
_LEVEL: dict[str, tuple[Choice, ...]] = {
    "per": ("chip", "core"),
    "holds": ("weights", "activations", "psums"),
    "double_buffered": (True, False),
    "multicast": (True, False),
}
_LISTS = ("dataflows", "holds")


def choice_paths(chip: Chip) -> list[str]:
    """Dotted paths of every choice that a sweep may vary."""
    matrix = [f"matrix.{field}" for field in _MATRIX] if chip.matrix.kind == "systolic" else []
    return ["default_format", *matrix, *(f"memory.{level.name}.{field}" for level in chip.memory for field in _LEVEL)]


def read_choice(path: str, given: object) -> Choice | Problem:
    """One value of an axis: a word, true or false, or a list of words, kept as `ws, os`; a `Problem` if the field cannot hold it."""
    field = path.split(".")[-1]
    known: tuple[Choice, ...] = ACTIVATION_FORMATS if path == "default_format" else (_MATRIX.get(field) or _LEVEL[field])
    words: list[Any] = given if isinstance(given, list) and field in _LISTS else [given]
    for word in words:
        if not isinstance(word, (str, bool)) or word not in known:
            options = [str(each).lower() if isinstance(each, bool) else each for each in known]
            return Problem(f"cannot be {word!r}", did_you_mean(str(word), options))
    if not words:
        return Problem("names nothing", f"choose among {', '.join(map(str, known))}")
    return words[0] if isinstance(words[0], bool) else ", ".join(words)


def with_choice(chip: Chip, path: str, value: Choice) -> Chip:
    """The chip with one choice made; the path is known to exist, and the value to be one of its values."""
    match path.split("."):
        case ["default_format"]:
            return replace(chip, default_format=str(value))
        case ["matrix", field]:
            return replace(chip, matrix=replace(chip.matrix, **{field: _held(field, value)}))
        case ["memory", name, field]:
            memory = tuple(_level_with(level, field, value) if level.name == name else level for level in chip.memory)
            return replace(chip, memory=memory)
    raise AssertionError(path)


def _level_with(level: MemoryLevel, field: str, value: Choice) -> MemoryLevel:
    held: Any = _held(field, value)
    fields: dict[str, Any] = {field: frozenset(held) if field == "holds" else held}
    return replace(level, **fields)


def _held(field: str, value: Choice) -> Any:
    return tuple(dict.fromkeys(str(value).split(", "))) if field in _LISTS else value
