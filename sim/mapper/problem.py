"""What the mapper asks of a GEMM and a chip before it chooses anything: stages, places of each role, rates, capacities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from functional.errors import BadInput, Problem
from hwmodels.chip import Chip, MemoryLevel, Role
from hwmodels.formulas.roofline import ports_s
from hwmodels.paths import arrays_among
from sim.mapping import AXES, Axis, ChipStage, Gemm, chip_stages
from sim.plan import resident_level

ROLE_AXES: dict[Role, tuple[int, int, int]] = {"activations": (0, 2, 1), "weights": (2, 1, 0), "psums": (0, 1, 2)}
"""Indices into `AXES`: the two axes that select a tile of a role, and the one that does not."""

Amount: TypeAlias = Any
"""int, or an array of int64 or float64: one mapping, or many at once."""

T = TypeVar("T")

Extents: TypeAlias = tuple[Amount, Amount, Amount]
"""Along m, n and k."""


class Choice(NamedTuple):
    """One mapping, or as many as the arrays in it hold; splits that are arrays all cut something. `ranks[stage][axis]` is the place of the
    loop over an axis, 0 outermost."""

    tiles: tuple[Extents, ...]
    ranks: tuple[Extents, ...]
    split: tuple[Amount, Amount]
    dataflow: str
    array_axis: Axis


class Place(NamedTuple):
    """A level with the rates at which it is priced: of one core if it belongs to a core, else of the chip."""

    level: MemoryLevel
    stage: int
    read_bytes_per_s: Amount
    write_bytes_per_s: Amount


class Besides(NamedTuple):
    """What the levels move for a group beside its GEMM, over the whole chip: bytes read and written, level by level of the chip (of DRAM
    in whole bursts); and the sizes of scales, which are read with the weights and as often as these [bytes]."""

    sizes_bytes: tuple[tuple[int, int], ...] = ()
    scales_bytes: tuple[int, ...] = ()


NOTHING = Besides()


@dataclass(frozen=True, slots=True)
class Setting:
    """A GEMM on a chip, and what its group moves besides. `holders[role]` are the place that a role comes from (DRAM, unless plan keeps it
    on the chip) and those further in that hold tiles of it; `roles[level]` are the roles of which a level holds tiles. Several `pieces` of
    the columns have a core each; else cores are used as is best."""

    gemm: Gemm
    chip: Chip
    stages: tuple[ChipStage, ...]
    split_stage: int
    places: tuple[Place, ...]
    holders: Mapping[Role, tuple[Place, ...]]
    roles: Mapping[str, tuple[Role, ...]]
    rate: float
    besides: Besides = NOTHING
    pieces: int = 1

    @property
    def cores(self) -> int:
        return int(self.chip.cores)

    @property
    def clock_hz(self) -> Amount:
        return self.chip.clock_hz

    @property
    def extents(self) -> tuple[int, int, int]:
        return self.gemm.m, self.gemm.n, self.gemm.k

    def bits(self, role: Role) -> int:
        """Bits of an element in a tile."""
        gemm = self.gemm
        return gemm.acc_bits if role == "psums" else gemm.w_bits if role == "weights" else gemm.a_bits

    def result_bits(self, outer: Place) -> int:
        """Bits of an element of the result that arrive at a place outside of its sums: none in DRAM where it stays on the chip."""
        return self.gemm.out_bits if self.arrives(outer) else 0

    def arrives(self, outer: Place) -> bool:
        """Whether the result arrives at a place outside of its sums."""
        return outer.stage >= 0 or self.gemm.out_in_dram

    def shared(self, place: Place) -> bool:
        """Whether all cores use this place."""
        return place.stage < self.split_stage


def setting_of(gemm: Gemm, chip: Chip, a_resident: bool = False, besides: Besides = NOTHING, pieces: int = 1) -> Setting:
    """Check a GEMM against a chip; raises `BadInput` with every reason why it cannot be mapped.

    `a_resident`: A lies in the chip's resident level, in the share of it that intermediates may use.
    """
    problems = [*_bad_extents(gemm), *_bad_chip(gemm, chip)] or _bad_pieces(gemm, chip, pieces)
    if problems:
        raise BadInput(problems)
    frame = _frame(Same(chip), a_resident)
    setting = Setting(gemm, chip, *frame, float(chip.matrix.rates[gemm.compute]), besides, pieces)
    _check_smallest(setting)
    return setting


class _Frame(NamedTuple):
    """What a setting takes from its chip alone."""

    stages: tuple[ChipStage, ...]
    split_stage: int
    places: tuple[Place, ...]
    holders: Mapping[Role, tuple[Place, ...]]
    roles: Mapping[str, tuple[Role, ...]]


class Same(Generic[T]):
    """The very same object, for what is remembered of it: it is held, so that its identity stays its own."""

    __slots__ = ("itself",)

    def __init__(self, itself: T) -> None:
        self.itself = itself

    def __hash__(self) -> int:
        return id(self.itself)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.itself is other.itself


@lru_cache(maxsize=16)
def _frame(same: Same[Chip], a_resident: bool) -> _Frame:
    chip = same.itself
    stages = chip_stages(chip)
    split_stage = next((i for i, stage in enumerate(stages) if stage.per_core), len(stages))
    clock = chip.clock_hz
    indices = [-1, *(i for i, stage in enumerate(stages) for _ in stage.levels)]
    places = tuple(
        Place(level, i, float(level.bandwidth.read_bytes_per_s(clock)), float(level.bandwidth.write_bytes_per_s(clock)))
        for i, level in zip(indices, chip.memory, strict=True)
    )
    holders = {role: tuple(place for place in places if role in place.level.holds) for role in ROLE_AXES}
    if a_resident:
        home = next(i for i, place in enumerate(holders["activations"]) if place.level is resident_level(chip))
        holders["activations"] = holders["activations"][home:]
    roles = {
        place.level.name: tuple(role for role in ROLE_AXES if place in holders[role][1:]) for place in places[1:]
    }
    return _Frame(stages, split_stage, places, holders, roles)


class Asked(NamedTuple):
    """What the mapper is asked: a GEMM, whether its A is an intermediate that stays on the chip, and what its group moves besides."""

    gemm: Gemm
    a_resident: bool = False
    besides: Besides = NOTHING

    def on(self, chip: Chip, pieces: int = 1) -> Setting:
        return setting_of(self.gemm, chip, self.a_resident, self.besides, pieces)


def besides_s(setting: Setting, weights_fetched: Any) -> list[tuple[Amount, ...]]:
    """Seconds for which each port of each level is busy beside the GEMM, if so many elements of the weights leave DRAM."""
    chip, besides = setting.chip, setting.besides
    burst, weights = chip.dram.burst_bytes, setting.gemm.n * setting.gemm.k
    scales = []
    for size in besides.scales_bytes:
        common = math.gcd(size, weights)
        scales.append(-(-weights_fetched * (size // common) // (weights // common)))
    in_bursts: Any = sum(-(-size // burst) * burst for size in scales)
    found = []
    for level, (read, written) in zip(chip.memory, besides.sizes_bytes, strict=True):
        more = in_bursts if level is chip.dram else sum(scales) if "weights" in level.holds else 0
        rates = chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)
        found.append(ports_s(read + more, written, *rates, level.bandwidth.shared))
    return found


def _bad_extents(gemm: Gemm) -> list[Problem]:
    found = []
    for axis in AXES:
        extent = getattr(gemm, axis)
        if isinstance(extent, np.ndarray):
            found.append(Problem("is an array", "map one shape at a time; only the roofline takes grids", path=axis))
        elif extent < 1:
            found.append(Problem(f"must be at least 1, found {extent}", path=axis))
    return found


def _bad_chip(gemm: Gemm, chip: Chip) -> list[Problem]:
    found = []
    if gemm.compute not in chip.matrix.rates:
        cure = f"choose one of {', '.join(chip.formats)}, or add the rate to the chip"
        found.append(Problem(f"{chip.name} has no rate for {gemm.compute}", cure, path=f"matrix.rates.{gemm.compute}"))
    if _has_arrays(Same(chip)):
        found += arrays_among(chip, "map one chip at a time; only the roofline takes grids")
    return found


@lru_cache(maxsize=16)
def _has_arrays(same: Same[Chip]) -> bool:
    chip = same.itself
    numbers: list[Any] = [chip.clock_hz, chip.cores, chip.resident_share, chip.matrix.rows, chip.matrix.cols, *chip.matrix.rates.values()]
    for level in chip.memory:
        numbers += level.capacity_bytes, level.bandwidth.read, level.bandwidth.write, level.latency_s, level.burst_bytes
    return any(isinstance(number, np.ndarray) for number in numbers)


def _bad_pieces(gemm: Gemm, chip: Chip, pieces: int) -> list[Problem]:
    found = []
    if gemm.n % pieces:
        found.append(Problem(f"{gemm.n} columns do not part into {pieces} equal pieces", "take a divisor", path="n"))
    if pieces > chip.cores:
        found.append(Problem(f"{pieces} pieces need as many cores; {chip.name} has {chip.cores}", f"raise cores to {pieces}", path="cores"))
    return found


def capacity_bytes(setting: Setting, level: MemoryLevel) -> float:
    """What tiles may use of a level: all of it, less what intermediates may keep of the level where they stay."""
    share = 1 - float(setting.chip.resident_share) if level is resident_level(setting.chip) else 1.0
    return float(level.capacity_bytes) * share


def tile_bits(setting: Setting, level: MemoryLevel, tile: Extents) -> Amount:
    """Bits of all tiles that a level has room for at a time."""
    total: Amount = 0
    for role in setting.roles[level.name]:
        x, y, _ = ROLE_AXES[role]
        total = total + tile[x] * tile[y] * setting.bits(role)
    return total * (2 if level.double_buffered else 1)


def _check_smallest(setting: Setting) -> None:
    """One element of each role must fit everywhere; where cores with pieces share a level, one column of each piece."""
    problems = []
    for place in setting.places[1:]:
        level, columns = place.level, setting.pieces if setting.shared(place) else 1
        needed = int(tile_bits(setting, level, (1, columns, 1)))
        share = capacity_bytes(setting, level) / float(level.capacity_bytes)
        if needed > 8 * capacity_bytes(setting, level):
            path = f"memory.{level.name}.capacity"
            least = -(-needed // 8) / share
            problems.append(
                Problem(f"not one element of each tile fits {level.name}", f"raise {path} to at least {least:.4g} B", path=path)
            )
    if problems:
        raise BadInput(problems)
