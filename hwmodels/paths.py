"""The numbers of a built chip under their dotted paths: what sweeps, `solve` and sensitivities vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from functional.errors import BadInput, Problem, ScenarioError, UnknownName, did_you_mean
from hwmodels.chip import Area, Bandwidth, Chip, Energy, MatrixUnit, MemoryLevel, Number

_MAY_BE_ZERO = ("latency", "launch")
_WHOLE = (
    *("cores", "matrix.count", "matrix.rows", "matrix.cols", "matrix.tile.m", "matrix.tile.n", "matrix.tile.k"),
    *("burst", "overhead.unpacked_rows"),
)


def numeric_paths(chip: Chip) -> list[str]:
    """Dotted paths of every number of the chip, in the order of a chip file."""
    unit = chip.matrix
    shape = ("rows", "cols") if unit.kind == "systolic" else ("tile.m", "tile.n", "tile.k")
    return [
        "clock",
        "cores",
        *(["tdp"] if chip.tdp_w is not None else []),
        *(f"matrix.{field}" for field in ("count", *shape, *(f"rates.{name}" for name in unit.rates))),
        *_unless_one("matrix", unit.efficiency),
        "vector.lanes",
        *_unless_one("vector", chip.vector.efficiency),
        *(f"vector.cycles.{primitive}" for primitive in chip.vector.cycles),
        *(path for level in chip.memory for path in _level_paths(chip, level)),
        "overhead.launch",
        *(["overhead.pack"] if chip.pack is not None else []),
        *(["overhead.unpacked_rows"] if chip.unpacked_rows is not None else []),
        *(["overhead.hidden"] if chip.hidden_s is not None else []),
        "resident_share",
        *_costs(chip),
    ]


def _level_paths(chip: Chip, level: MemoryLevel) -> list[str]:
    place, left_out = f"memory.{level.name}", _without_time(chip, level)
    return [*(f"{place}.{field}" for field in _LEVEL_FIELDS if field not in left_out), *_unless_one(place, level.efficiency)]


def _without_time(chip: Chip, level: MemoryLevel) -> list[str]:
    """Fields of a level that no engine charges: tiles lie on bursts in DRAM alone, and a latency is that of tiles on their way further in,
    not of what the array reads."""
    latency = [] if chip.feeds_another(level) else ["latency"]
    return latency if level is chip.dram else [*latency, "burst"]


def _unless_one(place: str, efficiency: Number) -> list[str]:
    """The path of an efficiency that is no mere default."""
    return [] if isinstance(efficiency, float) and efficiency == 1.0 else [f"{place}.efficiency"]


def _costs(chip: Chip) -> list[str]:
    """Paths of what the chip takes in energy and area."""
    paths = []
    if chip.energy is not None:
        paths += [f"energy.mac.{name}" for name in chip.energy.mac_j]
        paths += [f"energy.vector.{primitive}" for primitive in chip.energy.vector_j]
        for name in chip.energy.access_j:
            paths += [f"energy.memory.{name}.access", *([f"energy.memory.{name}.wire"] if name in chip.energy.wire_j else [])]
        paths += ["energy.static", "energy.leakage"]
    if chip.area is not None:
        paths += [f"area.mac.{name}" for name in chip.area.mac_mm2]
        paths += ["area.lane", *(f"area.memory.{name}" for name in chip.area.memory_mm2), "area.phy", "area.fixed", "area.other"]
    return paths


_LEVEL_FIELDS = ("capacity", "bandwidth", "bandwidth.read", "bandwidth.write", "latency", "burst")


def recorded_paths(chip: Chip) -> list[str]:
    """Dotted paths of numbers that a chip file has for the record: they are shown with their sources, and nothing varies with them by
    itself. A bandwidth is that of all channels together; energy and area follow from the process when the file is read."""
    of_levels = [f"memory.{level.name}.{field}" for level in chip.memory for field in ("channels", *_without_time(chip, level))]
    return [*of_levels, "process"]


def instead_of(chip: Chip, path: str, known: Sequence[str]) -> str:
    """What to write for a path that is none of the known ones, which may be varied."""
    if path not in recorded_paths(chip):
        return did_you_mean(path, known)
    if path == "process":
        return "it is for the record; vary what follows from it, energy and area"
    place, _, field = path.rpartition(".")
    cures = {
        "channels": f"vary {place}.bandwidth, which is that of all channels together",
        "burst": f"vary memory.{chip.dram.name}.burst: tiles lie on bursts in DRAM alone",
        "latency": "only tiles on their way to a level further in wait for a latency, not what the array reads",
    }
    return f"it is for the record, and no figure depends on it; {cures[field]}"


def with_values(chip: Chip, values: Mapping[str, Number]) -> Chip:
    """The chip with some numbers replaced, in SI base units; arrays describe many chips at once.

    A bandwidth is in bytes per second, or in bytes per cycle where the chip states it so; without `.read` or `.write` it sets both.
    """
    known = numeric_paths(chip)
    unknown = [path for path in values if path not in known]
    if unknown:
        raise UnknownName(
            Problem(f"the chip '{chip.name}' has no such number to vary", instead_of(chip, path, known), path=path) for path in unknown
        )
    problems = [problem for path, value in values.items() for problem in _range_problems(path, value)]
    if problems:
        raise BadInput(problems)
    for path, value in values.items():
        chip = _with_value(chip, path.split("."), _whole(path, value))
    return chip


def _range_problems(path: str, value: Number) -> list[Problem]:
    numbers = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(numbers)):
        return [Problem(f"expected finite numbers, found {value}", path=path)]
    may_be_zero = path.endswith(_MAY_BE_ZERO) or path.startswith(("energy.", "area."))
    if np.any(numbers < 0) or (np.any(numbers == 0) and not may_be_zero):
        return [Problem(f"must be greater than 0, found {value}", path=path)]
    if path.endswith("efficiency") and np.any(numbers > 1):
        return [Problem(f"must be at most 1, found {value}", path=path)]
    if path == "resident_share" and np.any(numbers >= 1):
        return [Problem(f"must be less than 1, found {value}", "tiles need the rest of the level", path=path)]
    if path == "area.other" and np.any(numbers >= 1):
        return [Problem(f"must be less than 1, found {value}", "what is modelled needs the rest of the die", path=path)]
    if path.endswith(_WHOLE) and np.any(numbers != np.floor(numbers)):
        return [Problem(f"must be a whole number, found {value}", path=path)]
    return []


def _whole(path: str, value: Number) -> Any:
    return int(value) if path.endswith(_WHOLE) and np.ndim(value) == 0 else value


def _with_value(chip: Chip, path: list[str], value: Any) -> Chip:
    """One number replaced; the path is known to exist."""
    match path:
        case ["clock"]:
            return replace(chip, clock_hz=value)
        case ["tdp"]:
            return replace(chip, tdp_w=value)
        case ["overhead", "launch"]:
            return replace(chip, launch_s=value)
        case ["overhead", "pack"] if chip.pack is not None:
            return replace(chip, pack=replace(chip.pack, read=value, write=value))
        case ["overhead", "unpacked_rows"] if chip.unpacked_rows is not None:
            return replace(chip, unpacked_rows=value)
        case ["overhead", "hidden"] if chip.hidden_s is not None:
            return replace(chip, hidden_s=value)
        case ["cores" | "resident_share" as name]:
            return replace(chip, **{name: value})
        case ["matrix", *rest]:
            return replace(chip, matrix=_matrix_with(chip.matrix, rest, value))
        case ["vector", "lanes" | "efficiency" as name]:
            return replace(chip, vector=replace(chip.vector, **{name: value}))
        case ["vector", "cycles", primitive]:
            return replace(chip, vector=replace(chip.vector, cycles={**chip.vector.cycles, primitive: value}))
        case ["memory", name, *rest]:
            memory = tuple(_level_with(level, rest, value) if level.name == name else level for level in chip.memory)
            return replace(chip, memory=memory)
        case ["energy", *rest] if chip.energy is not None:
            return replace(chip, energy=_cost_with(chip.energy, "energy", rest, value))
        case ["area", *rest] if chip.area is not None:
            return replace(chip, area=_cost_with(chip.area, "area", rest, value))
    raise AssertionError(path)


_COST_FIELDS = {
    "energy": {
        "mac": "mac_j",
        "vector": "vector_j",
        "access": "access_j",
        "wire": "wire_j",
        "static": "static_w",
        "leakage": "leakage_w_per_mm2",
    },
    "area": {
        "mac": "mac_mm2",
        "lane": "lane_mm2",
        "memory": "memory_mm2",
        "phy": "phy_mm2",
        "fixed": "fixed_mm2",
        "other": "other_share",
    },
}


def _cost_field(section: str, path: list[str]) -> tuple[str, str]:
    """The attribute under a path below `energy` or `area`, and the key in it (empty if it is one number)."""
    fields = _COST_FIELDS[section]
    match path:
        case ["memory", level, part]:
            return fields[part], level
        case [field]:
            return fields[field], ""
        case [field, key]:
            return fields[field], key
    raise AssertionError(path)


def _cost_with(cost: Energy | Area, section: str, path: list[str], value: Any) -> Any:
    attribute, key = _cost_field(section, path)
    changed: dict[str, Any] = {attribute: {**getattr(cost, attribute), key: value} if key else value}
    return replace(cost, **changed)


def _matrix_with(unit: MatrixUnit, path: list[str], value: Any) -> MatrixUnit:
    match path:
        case ["rates", number_format]:
            return replace(unit, rates={**unit.rates, number_format: value})
        case ["tile", axis]:
            m, n, k = (value if axis == name else old for name, old in zip("mnk", unit.tile, strict=True))
            return replace(unit, tile=(m, n, k))
        case [name]:
            return replace(unit, **{name: value})
    raise AssertionError(path)


def _level_with(level: MemoryLevel, path: list[str], value: Any) -> MemoryLevel:
    match path:
        case ["capacity"]:
            return replace(level, capacity_bytes=value)
        case ["latency"]:
            return replace(level, latency_s=value)
        case ["burst"]:
            return replace(level, burst_bytes=value)
        case ["efficiency"]:
            return replace(level, efficiency=value)
        case ["bandwidth", *direction]:
            return replace(level, bandwidth=_bandwidth_with(level.bandwidth, direction, value))
    raise AssertionError(path)


def _bandwidth_with(bandwidth: Bandwidth, direction: list[str], value: Any) -> Bandwidth:
    """One direction set by itself ends the sharing of the port."""
    if not direction:
        return replace(bandwidth, read=value, write=value)
    return replace(bandwidth, shared=False, **{direction[0]: value})


def value_of(chip: Chip, path: str) -> Number:
    """The number under a dotted path, in SI base units; a bandwidth without direction is what is read."""
    match path.split("."):
        case ["clock"]:
            return chip.clock_hz
        case ["tdp"] if chip.tdp_w is not None:
            return chip.tdp_w
        case ["overhead", "launch"]:
            return chip.launch_s
        case ["overhead", "pack"] if chip.pack is not None:
            return chip.pack.read
        case ["overhead", "unpacked_rows"] if chip.unpacked_rows is not None:
            return chip.unpacked_rows
        case ["overhead", "hidden"] if chip.hidden_s is not None:
            return chip.hidden_s
        case ["cores" | "resident_share" as name]:
            return _plain(getattr(chip, name))
        case ["matrix", "rates", number_format]:
            return chip.matrix.rates[number_format]
        case ["matrix", "tile", axis]:
            return chip.matrix.tile["mnk".index(axis)]
        case ["matrix", name]:
            return _plain(getattr(chip.matrix, name))
        case ["vector", "lanes"]:
            return chip.vector.lanes
        case ["vector", "efficiency"]:
            return chip.vector.efficiency
        case ["vector", "cycles", primitive]:
            return chip.vector.cycles[primitive]
        case ["memory", name, field, *direction]:
            return _level_value(next(level for level in chip.memory if level.name == name), field, direction)
        case ["energy" | "area" as section, *rest]:
            attribute, key = _cost_field(section, rest)
            number: Any = getattr(getattr(chip, section), attribute)
            return number[key] if key else number  # type: ignore[no-any-return]
    raise AssertionError(path)


def _plain(number: Number) -> Number:
    return number if isinstance(number, np.ndarray) else float(number)


def arrays_among(chip: Chip, cure: str) -> list[Problem]:
    """A problem for each number that is an array, as `with_values` makes them: the chip is many."""
    arrays = [path for path in numeric_paths(chip) if isinstance(value_of(chip, path), np.ndarray)]
    named = [path for path in arrays if path.rpartition(".")[0] not in arrays]  # a bandwidth, not its directions besides
    return [Problem(f"{chip.name} has arrays for numbers", cure, path=path) for path in named]


def refuse_many(chip: Chip, cure: str) -> None:
    """Raise `ScenarioError` for a chip that is many."""
    problems = arrays_among(chip, cure)
    if problems:
        raise ScenarioError(problems)


def _level_value(level: MemoryLevel, field: str, direction: list[str]) -> Number:
    if field == "bandwidth":
        return level.bandwidth.write if direction == ["write"] else level.bandwidth.read
    values = {"capacity": level.capacity_bytes, "latency": level.latency_s, "burst": level.burst_bytes, "channels": level.channels}
    values["efficiency"] = level.efficiency
    return values[field]
