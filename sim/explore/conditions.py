"""Conditions on the rows of a sweep, such as `latency_s < 100 ms` or `fits`: parsed, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import Problem, did_you_mean
from hwmodels import units

_CONDITION = re.compile(r"\s*(?P<name>[A-Za-z_][\w.]*)\s*(?:(?P<sign><=|>=|==|!=|<|>)\s*(?P<quantity>\S.*?))?\s*")
_PLAIN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_DIMENSIONS = {
    "s": "time",
    "B": "size",
    "B/s": "bandwidth",
    "B/cycle": "bandwidth",
    "Hz": "frequency",
    "W": "power",
    "tok/s": "throughput",
    "J": "energy",
    "mm2": "area",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`name sign value` in the base unit of the column; a condition without a sign is a column that is true or false."""

    text: str
    name: str
    sign: str
    value: float

    def holds(self, column: Any) -> NDArray[np.bool_]:
        """For each row whether the condition holds; false where the column has no value."""
        if not self.sign:
            return np.asarray(column, dtype=np.bool_)
        with np.errstate(invalid="ignore"):
            return np.asarray(_SIGNS[self.sign](column, self.value), dtype=np.bool_)


def read_condition(text: object, unit_of: Mapping[str, str | None]) -> Condition | Problem:
    """A condition over columns with these base units (empty: a plain number; None: true or false), or what is wrong with it."""
    match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return Problem(f"cannot read {text!r}", "write e.g. 'latency_s < 100 ms' or 'fits'")
    name, sign, quantity = match["name"], match["sign"] or "", match["quantity"]
    if name not in unit_of:
        return Problem(f"'{name}' is no column", did_you_mean(name, unit_of))
    unit = unit_of[name]
    if unit is None:
        return Condition(match[0].strip(), name, "", 1.0) if not sign else Problem(f"'{name}' is true or false", f"write only '{name}'")
    if not sign:
        return Problem(f"'{name}' is a number", f"compare it, e.g. '{name} < {units.EXAMPLES.get(_DIMENSIONS.get(unit, ''), '5')}'")
    try:
        return Condition(match[0].strip(), name, sign, _value(name, quantity, unit))
    except ValueError as error:
        return Problem(str(error), getattr(error, "cure", "write a plain number"))


def _value(name: str, quantity: str, unit: str) -> float:
    """In the base unit; a plain number where the name says the unit, as `area_mm2` does."""
    said_by_name = name.rpartition("_")[2].lower() == unit.lower()
    if not unit or (said_by_name and _PLAIN.fullmatch(quantity)):
        return float(quantity)
    value = units.parse(quantity, _DIMENSIONS[unit])
    if _DIMENSIONS[unit] == "bandwidth" and units.parse_bandwidth(quantity).per_cycle != (unit == "B/cycle"):
        raise units.UnitError(f"'{quantity}' is not in {unit}, as this column is", "write it in the unit in which the chip states it")
    return value
