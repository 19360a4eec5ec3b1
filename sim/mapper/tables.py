"""What each candidate tile of one axis by itself contributes to the cost: tables of single axes, from which `sim.mapper.bound` is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.formulas import systolic
from hwmodels.formulas.systolic import ceil_div
from hwmodels.formulas.tiling import AxisCuts, cut_axis, positions
from sim.mapper import array
from sim.mapper.problem import Setting
from sim.mapping import AXES, Axis

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Layout(NamedTuple):
    """Rows of a table: where each number stands. See `geometry` and `array_factors` for what they are."""

    own: int
    every: int
    moves: int
    sizes: int
    firsts: int
    lasts: int
    extent: int
    alike: int
    whole: int
    edge: int
    cycles: int
    accesses: int
    accesses_of_all: int
    extra: int
    rows: int


def layout(stages: int) -> Layout:
    """Where the numbers of a chip with so many stages stand."""
    widths = (stages + 1, stages * (stages + 1), stages, stages, stages, stages, 1, 1, 1, 1, 1, 1, 1, 1)
    return Layout(*(sum(widths[:i]) for i in range(len(widths) + 1)))


class Cuts(NamedTuple):
    """One axis as its candidate tiles cut it, as the first core and as all cores see it, with that core's first and last piece, and how
    many pieces of which lengths it has, and all cores have [kinds of pieces, candidates]."""

    own: AxisCuts
    every: AxisCuts
    first: Ints
    last: Ints
    counts: Ints
    lengths: Ints
    counts_of_all: Ints
    lengths_of_all: Ints


def cuts_of(setting: Setting, axis: int, tiles: Ints, parts: int) -> Cuts:
    """`tiles` [stages, candidates], split into `parts`."""
    extent, where, sizes = setting.extents[axis], setting.split_stage, list(tiles)
    own = cut_axis(extent, sizes, where, parts, every=False)
    every = own if parts == 1 else cut_axis(extent, sizes, where, parts, every=True)
    first: Any = extent
    last: Any = extent
    for stage in range(len(tiles) + 1):
        if stage == where:
            first, last = ceil_div(first, parts), ceil_div(last, parts)
        if stage < len(tiles):
            first, last = np.minimum(first, tiles[stage]), (last - 1) % tiles[stage] + 1
    pieces = _pieces(own, tiles.shape[1])
    return Cuts(own, every, first, last, *pieces, *(pieces if every is own else _pieces(every, tiles.shape[1])))


def _pieces(cuts: AxisCuts, candidates: int) -> tuple[Ints, Ints]:
    """Counts and lengths of what the array gets."""
    blocks = cuts.around[-1]
    counts, lengths = (np.empty((len(blocks), candidates), dtype=np.int64) for _ in range(2))
    for i, block in enumerate(blocks):
        counts[i], lengths[i] = block.blocks, block.length
    return counts, lengths


def geometry(setting: Setting, axis: int, tiles: Ints, parts: int, cuts: Cuts) -> Floats:
    """The rows of an axis that do not depend on the array.

    own: visits by the first core, by moving stage (-1, 0, ...); every: by all cores, for each stage; moves: whether the loop of a stage has
    more than one trip wherever it runs; sizes, firsts, lasts: extent of the tile and of the first core's first and last one; extent: the
    first core's share of the axis; alike: cores that have as much; whole, edge: full tiles in that share, and the length of the rest, as
    the outermost stage cuts it.
    """
    stages = len(tiles)
    extent: Any = setting.extents[axis]
    numbers = np.zeros((layout(stages).cycles, tiles.shape[1]))
    rows: list[Any] = list(positions(cuts.own, stages - 1))
    for stage in range(stages):
        seen = positions(cuts.every, stage)
        rows += seen + [0] * (stages + 1 - len(seen))
    rows += [_least_moves(cuts.every, tiles, stage) for stage in range(stages)]
    rows += list(tiles)
    first: Any = extent
    last: Any = extent
    firsts, lasts = [], []
    for stage in range(stages):
        if stage == setting.split_stage:
            first, last = ceil_div(first, parts), ceil_div(last, parts)
        first, last = np.minimum(first, tiles[stage]), (last - 1) % tiles[stage] + 1
        firsts.append(first)
        lasts.append(last)
    rows += firsts + lasts
    rows.append(sum(block.elements for block in cuts.own.around[setting.split_stage]))
    part = ceil_div(extent, parts) if setting.split_stage == 0 else extent
    rows += [extent // part, part // tiles[0], part % tiles[0]]
    for i, row in enumerate(rows):
        numbers[i] = row
    return numbers


def _least_moves(cuts: AxisCuts, tiles: Ints, stage: int) -> Any:
    """1 where all blocks that stage `stage` cuts have more than one trip."""
    least: Any = np.inf
    for block in cuts.around[stage]:
        trips: Any = ceil_div(block.length, tiles[stage])
        least = np.minimum(least, trips if block is cuts.around[stage][0] else np.where(block.blocks > 0, trips, np.inf))
    return least > 1


def array_factors(setting: Setting, dataflow: str, array_axis: Axis, name: Axis, cuts: Cuts) -> list[Any]:
    """Of one axis: its factor of the array's cycles, of the accesses to the role that it does not select (by the first core and by all),
    and its term of the extra cycles.

    The cycles of a tensor core are at least its granules over the units.
    """
    def total(of_length: Callable[[Any], Any]) -> Any:
        return np.add.reduce(cuts.counts * of_length(cuts.lengths))

    def total_of_all(of_length: Callable[[Any], Any], of_first: Any) -> Any:
        return of_first if cuts.every is cuts.own else np.add.reduce(cuts.counts_of_all * of_length(cuts.lengths_of_all))

    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        size = unit.tile[AXES.index(name)]
        share = 1.0 if name != "m" else 1 / unit.count
        turns = size / setting.rate if name == "k" else size
        tiles = total(array.one)
        return [total(lambda length: ceil_div(length, size)) * (share * turns), tiles, total_of_all(array.one, tiles), 0]
    cycles = total(array.cycles_factor(setting, dataflow, array_axis, name))
    extra: Any = 0
    if name == systolic.AXES[dataflow][2]:
        end = cuts.first if dataflow == "os" else cuts.last
        extra = array.tile_extra_cycles(setting, dataflow, array_axis, (end, end, end))
    of_length = array.accesses_factor(setting, dataflow, array_axis, name)
    accesses = total(of_length)
    return [cycles, accesses, total_of_all(of_length, accesses), extra]


Kind: TypeAlias = tuple[str, Axis]
"""A dataflow and the axis along which matrix units share a tile."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the tables of one axis depend on; `setting` is one that all else was taken from."""

    extent: int
    axis: int
    parts: int
    split_stage: int
    stages: int
    unit: tuple[Any, ...]
    kinds: tuple[Kind, ...]
    tiles_of: Callable[[Setting, int, int], Ints]
    setting: Setting = field(compare=False)


def asked_of(setting: Setting, axis: int, parts: int, kinds: Sequence[Kind], tiles_of: Callable[[Setting, int, int], Ints]) -> Asked:
    """The question whose answer `axis_tables` remembers."""
    unit = setting.chip.matrix
    numbers = (unit.kind, unit.count, unit.rows, unit.cols, unit.tile, unit.dataflows, unit.weight_preload, setting.rate)
    stages = len(setting.stages)
    return Asked(setting.extents[axis], axis, parts, setting.split_stage, stages, numbers, tuple(kinds), tiles_of, setting)


@lru_cache(maxsize=512)
def axis_tables(asked: Asked) -> tuple[Ints, list[Floats]]:
    """Candidate tiles [stages, candidates] and their tables, one for each kind; alike kinds have the same table."""
    tiles = asked.tiles_of(asked.setting, asked.axis, asked.parts)
    return tiles, axis_table(asked.setting, asked.axis, tiles, asked.parts, asked.kinds)


def axis_table(setting: Setting, axis: int, tiles: Ints, parts: int, kinds: Sequence[Kind]) -> list[Floats]:
    """Tables [rows, candidates] of one axis, one for each kind."""
    cuts = cuts_of(setting, axis, tiles, parts)
    shared, at, name = geometry(setting, axis, tiles, parts, cuts), layout(len(tiles)), AXES[axis]
    known: dict[Any, Floats] = {}
    tables = []
    for dataflow, array_axis in kinds:
        # Nothing but the axis's own place in the array matters to it.
        alike = systolic.AXES[dataflow].index(name) if dataflow else 0, dataflow == "os", array_axis == name
        if alike not in known:
            known[alike] = np.empty((at.rows, tiles.shape[1]))
            known[alike][: at.cycles] = shared
            for i, row in enumerate(array_factors(setting, dataflow, array_axis, name, cuts)):
                known[alike][at.cycles + i] = row
        tables.append(known[alike])
    return tables
