"""What a chip file may contradict although every field is valid by itself, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from functional.errors import Problem
from functional.formats import BITS
from hwmodels.chip import Chip, MemoryLevel, Role
from hwmodels.units import format_bandwidth

ROLES: tuple[Role, ...] = ("weights", "activations", "psums")
_LEVEL_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Advice(Problem):
    """Unlikely, but a prediction survives it: reported, never refused."""


def inconsistencies(chip: Chip) -> list[Problem]:
    """Every contradiction of a built chip; those of type `Advice` are warnings. Levels in the wrong order contradict all else."""
    if chip.dram.name != "dram":
        return list(_order(chip))
    checks = (_formats, _names, _roles, _capacities, _array_pass, _bandwidths, _without_time)
    return [problem for check in checks for problem in check(chip)]


def _formats(chip: Chip) -> Iterator[Problem]:
    rates, sums = chip.matrix.rates, chip.matrix.accumulate
    known = ", ".join(rates)
    if chip.default_format not in rates:
        cure = f"add a rate for {chip.default_format} to matrix.rates, or choose one of: {known}"
        yield Problem(f"the matrix unit has no rate for '{chip.default_format}'", cure, path="default_format")
    for name in rates:
        if name not in sums:
            yield Problem(f"no accumulator format for '{name}'", f"add '{name}: {_accumulator(name)}'", path="matrix.accumulate")
    for name in sums:
        if name not in rates:
            yield Problem("matrix.rates has no such format", f"remove it, or add a rate for {name}", path=f"matrix.accumulate.{name}")


def _accumulator(number_format: str) -> str:
    return "int32" if number_format.startswith("int") else "fp32"


def _names(chip: Chip) -> Iterator[Problem]:
    """Level names are parts of dotted paths; the outermost level is the chip's DRAM."""
    for level in chip.memory:
        if not _LEVEL_NAME.fullmatch(level.name):
            cure = "use lower-case letters, digits and _, a letter first"
            yield Problem(f"'{level.name}' cannot name a level", cure, path=f"memory.{level.name}")
    if chip.dram.per != "chip":
        cure = "remove 'per', and state the bandwidth of all channels together"
        yield Problem("DRAM belongs to the whole chip", cure, path=f"memory.{chip.dram.name}.per")


def _order(chip: Chip) -> Iterator[Problem]:
    first = chip.dram.name
    if any(level.name == "dram" for level in chip.memory):
        cure = f"list the levels from the outermost inwards: 'dram' before '{first}'"
    else:
        cure = "list the levels from the outermost inwards, and call the first one 'dram'"
    yield Problem(f"the first level is '{first}'", cure, path=f"memory.{first}")


def _roles(chip: Chip) -> Iterator[Problem]:
    missing = [role for role in ROLES if role not in chip.dram.holds]
    if missing:
        message = f"the outermost level must hold everything, {', '.join(missing)} too"
        yield Problem(message, "remove 'holds'", path=f"memory.{chip.dram.name}.holds")
    innermost = chip.memory[-1].name
    for role in ROLES:
        if not any(role in level.holds for level in chip.memory[1:]):
            yield Problem(f"no on-chip level holds {role}", f"add {role} to memory.{innermost}.holds", path="memory")


def _capacities(chip: Chip) -> Iterator[Problem]:
    """One instance of a level cannot exceed the level around it; the sum over cores may (L1 caches of a GPU against its L2)."""
    for i, inner in enumerate(chip.memory[1:], start=1):
        for outer in chip.memory[:i]:
            if outer is chip.dram:
                too_large = inner.capacity_bytes * (chip.cores if inner.per == "core" else 1) >= outer.capacity_bytes
                cure = "check the units of both"
            else:
                too_large = bool(inner.holds & outer.holds) and inner.capacity_bytes > outer.capacity_bytes
                cure = f"check the units of both, or list '{inner.name}' before '{outer.name}'"
            if too_large:
                each = f" of {chip.cores}" if outer is chip.dram and inner.per == "core" and chip.cores > 1 else ""
                yield Problem(f"{_size(inner, each)} is more than {_size(outer)}", cure, path=f"memory.{inner.name}.capacity")


def _size(level: MemoryLevel, of: str = "") -> str:
    return f"{level.name} ({_binary(float(level.capacity_bytes))}{f' per core{of}' if level.per == 'core' else ''})"


def _array_pass(chip: Chip) -> Iterator[Problem]:
    """Each on-chip level must take what one pass of one array, or one granule of one tensor core, touches of the roles that it holds."""
    if chip.default_format not in chip.matrix.rates or chip.default_format not in chip.matrix.accumulate:
        return
    for level in chip.memory[1:]:
        needed = _pass_bytes(chip, level)
        if level.capacity_bytes < needed:
            path = f"memory.{level.name}.capacity"
            message = f"{_size(level)} is too small for one pass of the matrix unit, which needs {_binary(needed)} in {chip.default_format}"
            yield Problem(message, f"raise {path} to at least {_binary(needed)}{_or_single(chip, level, needed)}", path=path)


def _or_single(chip: Chip, level: MemoryLevel, needed: float) -> str:
    fits = level.double_buffered and level.capacity_bytes >= needed / 2
    return f", or set memory.{level.name}.double_buffered to false" if fits else ""


def _pass_bytes(chip: Chip, level: MemoryLevel) -> float:
    """Bytes of one m x n x k granule: for a systolic array as many rows stream through it as it has."""
    unit = chip.matrix
    m, n, k = unit.tile if unit.kind == "tensor_core" else (unit.rows, unit.cols, unit.rows)
    operand, accumulator = BITS[chip.default_format] / 8, BITS[unit.accumulate[chip.default_format]] / 8
    touched = {"weights": k * n * operand, "activations": m * k * operand, "psums": m * n * accumulator}
    return sum(touched[role] for role in level.holds) * (2 if level.double_buffered else 1)


def _bandwidths(chip: Chip) -> Iterator[Problem]:
    outside = float(chip.read_bytes_per_s(chip.dram))
    for level in chip.memory[1:]:
        inside = float(chip.read_bytes_per_s(level))
        if inside < outside:
            message = f"{level.name} reads {format_bandwidth(inside)} over the whole chip, less than DRAM's {format_bandwidth(outside)}"
            yield Advice(message, "check the unit, and whether the number is per core", path=f"memory.{level.name}.bandwidth")


def _without_time(chip: Chip) -> Iterator[Problem]:
    """What is stated of on-chip levels and charged by no engine."""
    for level in chip.memory[1:]:
        if level.burst_bytes != 1:
            message = "is for the record: tiles lie on bursts in DRAM alone"
            yield Advice(message, f"say in memory.{level.name}.bandwidth what short accesses sustain", path=f"memory.{level.name}.burst")
        if level.latency_s and not chip.feeds_another(level):
            message = "is for the record: only tiles on their way to a level further in wait for a latency, not what the array reads"
            yield Advice(message, "leave it out", path=f"memory.{level.name}.latency")


def _binary(size_bytes: float) -> str:
    """A size as chip files write it: `2 MiB`."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.4g} {unit}"
    return f"{size_bytes:.4g} B"
