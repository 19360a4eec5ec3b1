"""What a number of a chip is: its dimension, how it is written and read, and whether more of it helps."""

from __future__ import annotations

import math

from functional.errors import BadInput, Problem, UnknownName
from hwmodels import units
from hwmodels.chip import Chip, MemoryLevel
from hwmodels.paths import instead_of, numeric_paths

WHOLE_FIELDS = ("cores", "count", "rows", "cols", "m", "n", "k", "lanes")
"""Last parts of the paths that count things."""

_DIMENSIONS = {
    "clock": "frequency",
    "tdp": "power",
    "capacity": "size",
    "burst": "size",
    "latency": "time",
    "launch": "time",
    "bandwidth": "bandwidth",
}
_BASE_UNITS = {
    "frequency": "Hz",
    "power": "W",
    "size": "B",
    "time": "s",
    "bandwidth": "B/s",
    "energy": "J",
    "byte energy": "J/B",
    "power density": "W/mm2",
    "area": "mm2",
    "byte area": "mm2/B",
    "PHY area": "mm2 s/B",
}
_COSTS = {
    "energy.mac": "energy",
    "energy.vector": "energy",
    "energy.memory": "byte energy",
    "energy.static": "power",
    "energy.leakage": "power density",
    "area.mac": "area",
    "area.lane": "area",
    "area.memory": "byte area",
    "area.phy": "PHY area",
    "area.fixed": "area",
    "area.other": None,
}
_LESS_IS_FASTER = ("latency", "launch", "burst")


def check_path(chip: Chip, path: str, where: str = "") -> str:
    """The path, or `UnknownName` with the nearest one that the chip has."""
    known = numeric_paths(chip)
    if path not in known:
        message = f"'{path}' is no number of the chip '{chip.name}' that may be varied"
        raise UnknownName(Problem(message, instead_of(chip, path, known), path=where))
    return path


def dimension_of(path: str) -> str | None:
    """`size`, `bandwidth`, `frequency`, `time`, `power`, `energy`, `area`, ..., or None for a plain number."""
    parts = path.split(".")
    if parts[0] in ("energy", "area"):
        return _COSTS[".".join(parts[:2])]
    if parts[0] == "vector" or parts[:2] == ["matrix", "rates"]:
        return None
    return _DIMENSIONS.get(parts[-1] if parts[-1] not in ("read", "write") else parts[-2])


def unit_of(chip: Chip, path: str) -> str:
    """The base unit in which the chip holds the number; empty for a plain number."""
    dimension = dimension_of(path)
    if dimension == "bandwidth" and _level(chip, path).bandwidth.per_cycle:
        return "B/cycle"
    return _BASE_UNITS[dimension] if dimension else ""


def is_whole(path: str) -> bool:
    """Whether the number counts something, so that only whole values make sense."""
    parts = path.split(".")
    if parts[0] in ("energy", "area"):
        return False
    return parts[-1] in WHOLE_FIELDS or dimension_of(path) == "size"


def less_is_faster(path: str) -> bool:
    """True where a smaller number makes a faster chip: latencies, the launch, cycles per element, bytes per burst."""
    return not path.startswith(("energy.", "area.")) and (path.split(".")[-1] in _LESS_IS_FASTER or path.startswith("vector.cycles."))


def read_value(chip: Chip, path: str, text: object) -> float:
    """A value of the field in its base unit; raises `units.UnitError` for a unit that does not fit the field or this chip."""
    dimension = dimension_of(path)
    if dimension is None:
        if isinstance(text, bool) or not isinstance(text, (int, float)):
            raise units.UnitError(f"expected a plain number, found {text!r}", "write it without a unit")
        return float(text)
    value = units.parse(text, dimension)
    if dimension == "bandwidth":
        expected = unit_of(chip, path)
        found = "B/cycle" if units.parse_bandwidth(text).per_cycle else "B/s"
        if found != expected:
            example = "256 B/cycle" if expected == "B/cycle" else "51.2 GB/s"
            raise units.UnitError(f"'{text}' is in {found}, but {chip.name} states this bandwidth in {expected}", f"write e.g. '{example}'")
    return float(round(value)) if dimension == "size" else value


def read_text(chip: Chip, path: str, text: str) -> float:
    """Like `read_value` for text from a command line, where plain numbers are text too."""
    if dimension_of(path) is None:
        try:
            return float(text)
        except ValueError:
            raise BadInput(Problem(f"expected a plain number, found '{text}'", path=path)) from None
    return read_value(chip, path, text)


def written(value: float, unit: str, digits: int = 6) -> str:
    """A value with its unit, as a chip file would hold it."""
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    match unit:
        case "B":
            return units.format_capacity(value, digits)
        case "B/s" | "B/cycle":
            return units.format_bandwidth(value, unit == "B/cycle", digits)
        case "Hz" | "tok/s":
            return units.format_rate(value, unit, digits)
        case "s":
            return units.format_seconds(value, digits)
        case "J" | "J/B":
            return units.format_energy(value, unit, digits)
        case "mm2 s/B":
            return f"{value * 1e9:.{digits}g} mm2/(GB/s)"
        case "mm2" | "mm2/B" if abs(value) < 0.1:
            return f"{value * 1e6:.{digits}g} u{unit[1:]}"
        case "":
            return f"{value:.{digits}g}"
    return f"{value:.{digits}g} {unit}"


def _level(chip: Chip, path: str) -> MemoryLevel:
    return next(level for level in chip.memory if level.name == path.split(".")[1])
