"""What each candidate tile of one axis by itself contributes to the cost: tables of single axes, from which `sim.mapper.bound` is made.

All axes are worked out together, their candidates side by side; so are those of several chips that differ in their arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.formulas import systolic
from hwmodels.formulas.systolic import ceil_div
from hwmodels.formulas.tiling import AxisCuts, Blocks, cut_axis, positions
from sim.mapper import array
from sim.mapper.problem import Setting
from sim.mapping import AXES, Axis

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Layout(NamedTuple):
    """Rows of a table: where each number stands. See `geometry` and `array_factors` for what they are. Boxes do with those before `every`
    on one core, and with those before `alike` on several."""

    own: int
    steps: int
    cycles: int
    moves: int
    firsts: int
    lasts: int
    accesses: int
    extra: int
    every: int
    extent: int
    accesses_of_all: int
    alike: int
    full: int
    edge: int
    fulls: int
    edges: int
    rows: int


@lru_cache(maxsize=8)
def layout(stages: int) -> Layout:
    """Where the numbers of a chip with so many stages stand."""
    # The last row of `own` are the steps of the array.
    widths = (stages, 1, 1, stages, stages, stages, 1, 1, stages * (stages + 1), 1, 1, 1, 1, 1, 1, 1)
    return Layout(*(sum(widths[:i]) for i in range(len(widths) + 1)))


class Asked(NamedTuple):
    """An axis, the parts that it is split into, candidate tiles [stages, candidates] of it, and the number of the setting that they are
    for."""

    axis: int
    parts: int
    tiles: Ints
    setting: int = 0


class Cuts(NamedTuple):
    """Axes as their candidate tiles cut them, as the first core and as all cores see them; extents of that core's first and last tile of
    each stage, and piece."""

    own: AxisCuts
    every: AxisCuts
    firsts: list[Ints]
    lasts: list[Ints]


class Pieces(NamedTuple):
    """What the array gets of each candidate: how many pieces of which lengths the first core has, and after those (if there are several)
    all cores have [kinds of pieces, candidates]; how many kinds the first core has; and the extent of its first and last piece."""

    counts: Ints
    lengths: Ints
    own: int
    first: Ints
    last: Ints

    def part(self, begin: int, end: int) -> Pieces:
        """Those of neighbours."""
        return Pieces(self.counts[:, begin:end], self.lengths[:, begin:end], self.own, self.first[begin:end], self.last[begin:end])


def cuts_of(setting: Setting, extents: Ints, tiles: Ints, parts: Any) -> Cuts:
    """`tiles` [stages, candidates] of axes of `extents` [candidates], split into `parts`: as many numbers, or 1 for a single core."""
    where, sizes, several = setting.split_stage, list(tiles), setting.cores > 1
    own = cut_axis(extents, sizes, where, parts, every=False)
    every = cut_axis(extents, sizes, where, parts, every=True) if several else own
    first: Any = extents
    last: Any = extents
    firsts, lasts = [], []
    for stage in range(len(tiles) + 1):
        if stage == where and several:
            first, last = ceil_div(first, parts), ceil_div(last, parts)
        if stage < len(tiles):
            first, last = np.minimum(first, tiles[stage]), (last - 1) % tiles[stage] + 1
        firsts.append(first)
        lasts.append(last)
    return Cuts(own, every, firsts, lasts)


def pieces_of(cuts: Cuts, candidates: int) -> Pieces:
    """What the array gets of axes that are cut so."""
    own = cuts.own.around[-1]
    blocks = own if cuts.every is cuts.own else (*own, *cuts.every.around[-1])
    counts, lengths = np.empty((2, len(blocks), candidates), dtype=np.int64)
    for i, block in enumerate(blocks):
        counts[i], lengths[i] = block.blocks, block.length
    return Pieces(counts, lengths, len(own), cuts.firsts[-1], cuts.lasts[-1])


def geometry(setting: Setting, extents: Ints, tiles: Ints, parts: Any, cuts: Cuts) -> Floats:
    """A table with the rows that do not depend on the array.

    own: visits by the first core, by moving stage (-1, 0, ...); every: by all cores, for each stage; moves: the share of the axis that lies
    in blocks in which the loop of a stage has more than one trip; firsts, lasts: extent of the first core's first and last tile, of which
    the first is as large as any; extent: the first core's share of the axis; alike: cores that have as much; full, edge: lengths of full
    tiles in that share and of the rest, as the outermost stage cuts it; fulls, edges: how many these are.
    """
    stages, several = len(tiles), setting.cores > 1
    at = layout(stages)
    numbers = np.zeros((at.rows, tiles.shape[1]))
    for i, row in enumerate(positions(cuts.own, stages - 1)):
        numbers[at.own + i] = row
    moves = [_moving(cuts, tiles, stage) for stage in range(stages)]
    for i, row in enumerate([*moves, *cuts.firsts[:stages], *cuts.lasts[:stages]]):
        numbers[at.moves + i] = row
    part = ceil_div(extents, parts) if setting.split_stage == 0 and several else extents
    if several:
        for stage in range(stages):
            for i, row in enumerate(positions(cuts.every, stage)):
                numbers[at.every + stage * (stages + 1) + i] = row
        numbers[at.extent] = sum(block.elements for block in cuts.own.around[setting.split_stage])
    numbers[at.alike], numbers[at.full], numbers[at.edges] = extents // part, cuts.firsts[0], 1
    numbers[at.fulls], numbers[at.edge] = np.divmod(part, tiles[0])
    return numbers


def _moving(cuts: Cuts, tiles: Ints, stage: int) -> Any:
    """The share of the blocks that stage `stage` cuts in which it has more than one trip: of the first core or of all, the lesser one."""
    seen = [cuts.own] if cuts.every is cuts.own else [cuts.own, cuts.every]
    shares = [_share(each.around[stage], tiles[stage]) for each in seen]
    return shares[0] if len(shares) == 1 else np.minimum(*shares)


def _share(blocks: Sequence[Blocks], tile: Ints) -> Any:
    """How much of the elements of blocks lies in those longer than a tile."""
    first, *others = blocks
    if not others:
        return first.length > tile
    moving, whole = first.elements * (first.length > tile), first.elements
    for block in others:
        moving, whole = moving + block.elements * (block.length > tile), whole + block.elements
    return moving / whole


def array_factors(setting: Setting, dataflow: str, array_axis: Axis, name: Axis, pieces: Pieces) -> list[Any]:
    """Of one axis: its factor of the array's cycles, of the accesses to the role that it does not select (by the first core and by all),
    and its term of the extra cycles. Rows and columns of the array may be numbers for each candidate.

    The cycles of a tensor core are at least its granules over the units.
    """

    counts, lengths, own = pieces.counts, pieces.lengths, pieces.own

    def totals(of_length: Callable[[Any], Any]) -> tuple[Any, Any]:
        each = counts * of_length(lengths)
        of_first = np.add.reduce(each[:own])
        return of_first, np.add.reduce(each[own:]) if len(each) > own else of_first

    def total(of_length: Callable[[Any], Any]) -> Any:
        return np.add.reduce(counts[:own] * of_length(lengths[:own]))

    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        size = unit.tile[AXES.index(name)]
        share = 1.0 if name != "m" else 1 / unit.count
        turns = size / setting.rate if name == "k" else size
        return [total(lambda length: ceil_div(length, size)) * (share * turns), *totals(array.one), 0]
    cycles = total(array.cycles_factor(setting, dataflow, array_axis, name))
    extra: Any = 0
    if name == systolic.AXES[dataflow][2]:
        end = pieces.first if dataflow == "os" else pieces.last
        extra = array.tile_extra_cycles(setting, dataflow, array_axis, (end, end, end))
    return [cycles, *totals(array.accesses_factor(setting, dataflow, array_axis, name)), extra]


class Kind(NamedTuple):
    """How a group of candidates is looked at: which of the groups that were asked for, with a dataflow and the axis along which matrix
    units share a tile."""

    asked: int
    dataflow: str
    array_axis: Axis


def axis_tables(
    settings: Sequence[Setting], asked: Sequence[Asked], kinds: Sequence[Sequence[Kind]], none: float
) -> tuple[Floats, list[int]]:
    """A table [rows, columns] of the numbers of all axes, and how deep each is: axis after axis, the candidates of each of its kinds,
    filled up with columns of `none` to 2^depth; a candidate that stands there again has such numbers, too. What is asked for one axis
    follows each other, as do kinds of one dataflow and array axis.
    Of one GEMM and chip, or of some GEMMs, or of some chips with nothing but their arrays different."""
    setting, stages = settings[0], len(settings[0].stages)
    at, widths = layout(stages), [each.tiles.shape[1] for each in asked]
    ends = list(accumulate(widths))
    tiles = np.concatenate([each.tiles for each in asked], axis=1)
    extents = np.array([settings[each.setting].extents[each.axis] for each in asked]).repeat(widths)
    parts: Any = np.array([each.parts for each in asked]).repeat(widths) if setting.cores > 1 else 1
    cuts = cuts_of(setting, extents, tiles, parts)
    pieces = pieces_of(cuts, tiles.shape[1])
    depths = [(max(widths[kind.asked] for kind in each) - 1).bit_length() for each in kinds]
    table = np.full((at.rows, sum(len(each) << depth for each, depth in zip(kinds, depths, strict=True))), none)
    table[at.moves : at.firsts] = 1
    numbers, column = geometry(setting, extents, tiles, parts, cuts), 0
    again = _again(tiles, ends) if stages > 1 else None
    for axis, (each, depth) in enumerate(zip(kinds, depths, strict=True)):
        own = [i for i, group in enumerate(asked) if group.axis == axis]
        begin, end = ends[own[0]] - widths[own[0]], ends[own[-1]]
        own_setting = with_arrays(settings, [asked[i].setting for i in own], [widths[i] for i in own])
        own_pieces = pieces.part(begin, end)
        for (dataflow, array_axis), alike in groupby(each, key=attrgetter("dataflow", "array_axis")):
            factors = array_factors(own_setting, dataflow, array_axis, AXES[axis], own_pieces)
            for row, factor in zip((at.cycles, at.accesses, at.accesses_of_all, at.extra), factors, strict=True):
                numbers[row, begin:end] = factor
            if again is not None:
                numbers[at.own : at.moves, again] = none
            for kind in alike:
                width = widths[kind.asked]
                table[:, column : column + width] = numbers[:, ends[kind.asked] - width : ends[kind.asked]]
                column += 1 << depth
    return table, depths


def _again(tiles: Ints, ends: Sequence[int]) -> Ints:
    """Where a candidate is the one before it; what is asked ends at `ends`."""
    alike: NDArray[np.bool_] = np.logical_and.reduce(np.equal(tiles[:, 1:], tiles[:, :-1]))
    alike[np.array(ends[:-1], dtype=np.int64) - 1] = False
    return alike.nonzero()[0] + 1


def with_arrays(settings: Sequence[Setting], chips: Sequence[int], often: Sequence[int]) -> Setting:
    """A chip whose array has numbers for each of some chips, each of them so often; the very chip where there is only one."""
    if is_one_chip(settings):
        return settings[0]
    chip = settings[0].chip
    sizes = np.array([(settings[each].chip.matrix.rows, settings[each].chip.matrix.cols) for each in chips]).repeat(often, axis=0)
    return replace(settings[0], chip=replace(chip, matrix=replace(chip.matrix, rows=sizes[:, 0], cols=sizes[:, 1])))  # type: ignore[arg-type]


def is_one_chip(settings: Sequence[Setting]) -> bool:
    """Whether what is searched side by side is GEMMs of one chip."""
    return all(setting.chip is settings[0].chip for setting in settings)


def place_of(dataflow: str, array_axis: Axis, name: Axis) -> tuple[int, bool, bool]:
    """All of a dataflow and the axis that matrix units share that matters to an axis: its own place in the array."""
    return systolic.AXES[dataflow].index(name) if dataflow else 0, dataflow == "os" and name != "n", array_axis == name
