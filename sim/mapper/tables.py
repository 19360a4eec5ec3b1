"""What each candidate tile of one axis by itself contributes to the cost: tables of single axes, from which `sim.mapper.bound` is made.

Axes that are split into as many parts are worked out together, their candidates side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Axes as their candidate tiles cut them, as the first core and as all cores see them; extents of that core's first and last tile of
    each stage, and piece; and how many pieces of which lengths it has, and all cores have [kinds of pieces, candidates]."""

    own: AxisCuts
    every: AxisCuts
    firsts: list[Ints]
    lasts: list[Ints]
    counts: Ints
    lengths: Ints
    counts_of_all: Ints
    lengths_of_all: Ints

    def of(self, begin: int, end: int) -> Cuts:
        """The pieces of some candidates."""
        firsts, lasts = [self.firsts[-1][begin:end]], [self.lasts[-1][begin:end]]
        pieces = (each[:, begin:end] for each in self[4:])
        return Cuts(self.own, self.every, firsts, lasts, *pieces)


def cuts_of(setting: Setting, extents: Ints, tiles: Ints, parts: int) -> Cuts:
    """`tiles` [stages, candidates] of axes of `extents` [candidates], split into `parts`."""
    where, sizes = setting.split_stage, list(tiles)
    own = cut_axis(extents, sizes, where, parts, every=False)
    every = own if parts == 1 else cut_axis(extents, sizes, where, parts, every=True)
    first: Any = extents
    last: Any = extents
    firsts, lasts = [], []
    for stage in range(len(tiles) + 1):
        if stage == where and parts > 1:
            first, last = ceil_div(first, parts), ceil_div(last, parts)
        if stage < len(tiles):
            first, last = np.minimum(first, tiles[stage]), (last - 1) % tiles[stage] + 1
        firsts.append(first)
        lasts.append(last)
    pieces = _pieces(own, tiles.shape[1])
    return Cuts(own, every, firsts, lasts, *pieces, *(pieces if every is own else _pieces(every, tiles.shape[1])))


def _pieces(cuts: AxisCuts, candidates: int) -> tuple[Ints, Ints]:
    """Counts and lengths of what the array gets."""
    blocks = cuts.around[-1]
    counts, lengths = (np.empty((len(blocks), candidates), dtype=np.int64) for _ in range(2))
    for i, block in enumerate(blocks):
        counts[i], lengths[i] = block.blocks, block.length
    return counts, lengths


def geometry(setting: Setting, extents: Ints, tiles: Ints, parts: int, cuts: Cuts) -> Floats:
    """The rows that do not depend on the array.

    own: visits by the first core, by moving stage (-1, 0, ...); every: by all cores, for each stage; moves: whether the loop of a stage has
    more than one trip wherever it runs; sizes, firsts, lasts: extent of the tile and of the first core's first and last one; extent: the
    first core's share of the axis; alike: cores that have as much; whole, edge: full tiles in that share, and the length of the rest, as
    the outermost stage cuts it.
    """
    stages = len(tiles)
    numbers = np.zeros((layout(stages).cycles, tiles.shape[1]))
    rows: list[Any] = list(positions(cuts.own, stages - 1))
    for stage in range(stages):
        seen = rows if cuts.every is cuts.own and stage + 1 == stages else positions(cuts.every, stage)
        rows = [*rows, *seen[: stage + 2], *[0] * (stages - 1 - stage)]
    rows += [_all_move(cuts.every, tiles, stage) for stage in range(stages)]
    rows += [*tiles, *cuts.firsts[:stages], *cuts.lasts[:stages]]
    rows.append(sum(block.elements for block in cuts.own.around[setting.split_stage]))
    part = ceil_div(extents, parts) if setting.split_stage == 0 and parts > 1 else extents
    rows += [extents // part, part // tiles[0], part % tiles[0]]
    for i, row in enumerate(rows):
        numbers[i] = row
    return numbers


def _all_move(cuts: AxisCuts, tiles: Ints, stage: int) -> Any:
    """Whether all blocks that stage `stage` cuts have more than one trip."""
    first, *others = cuts.around[stage]
    moves: Any = first.length > tiles[stage]
    for block in others:
        moves = moves & ((block.length > tiles[stage]) | (block.blocks == 0))
    return moves


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
        end = (cuts.firsts if dataflow == "os" else cuts.lasts)[-1]
        extra = array.tile_extra_cycles(setting, dataflow, array_axis, (end, end, end))
    of_length = array.accesses_factor(setting, dataflow, array_axis, name)
    accesses = total(of_length)
    return [cycles, accesses, total_of_all(of_length, accesses), extra]


Kind: TypeAlias = tuple[str, Axis]
"""A dataflow and the axis along which matrix units share a tile."""


class Asked(NamedTuple):
    """An axis, its candidate tiles [stages, candidates], and the kinds for which they are looked at."""

    axis: int
    tiles: Ints
    kinds: Sequence[Kind]


def axis_tables(setting: Setting, parts: int, asked: Sequence[Asked]) -> list[list[Floats]]:
    """Tables [rows, candidates] of axes that are split into as many parts: of each axis one for each kind; alike kinds have the same."""
    widths = [each.tiles.shape[1] for each in asked]
    tiles = np.hstack([each.tiles for each in asked])
    extents = np.repeat([setting.extents[each.axis] for each in asked], widths)
    cuts = cuts_of(setting, extents, tiles, parts)
    shared, at = geometry(setting, extents, tiles, parts, cuts), layout(len(tiles))
    found, end = [], 0
    for (axis, _, kinds), width in zip(asked, widths, strict=True):
        begin, end, name = end, end + width, AXES[axis]
        own = cuts.of(begin, end)
        known: dict[Any, Floats] = {}
        tables = []
        for dataflow, array_axis in kinds:
            # Nothing but the axis's own place in the array matters to it.
            alike = systolic.AXES[dataflow].index(name) if dataflow else 0, dataflow == "os", array_axis == name
            if alike not in known:
                known[alike] = np.empty((at.rows, width))
                known[alike][: at.cycles] = shared[:, begin:end]
                for i, row in enumerate(array_factors(setting, dataflow, array_axis, name, own)):
                    known[alike][at.cycles + i] = row
            tables.append(known[alike])
        found.append(tables)
    return found
