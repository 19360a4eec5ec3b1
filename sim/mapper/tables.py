"""What each candidate tile of one axis by itself contributes to the cost: tables of single axes, from which `sim.mapper.bound` is made.

All axes are worked out together, their candidates side by side; so are those of several chips that differ in their arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.formulas import systolic
from hwmodels.formulas.systolic import ceil_div
from hwmodels.formulas.tiling import AxisCuts, Blocks, positions
from sim.mapper import array
from sim.mapper.problem import ROLE_AXES, Setting
from sim.mapping import AXES, Axis

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Layout(NamedTuple):
    """Rows of a table: where each number stands. See `geometry` and `array_factors` for what they are. Boxes do with those before `alike`;
    on one core there are none from `every` up to it."""

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
    lengths: int
    blocks: int
    granules: int
    pieces: int
    rows: int


@lru_cache(maxsize=8)
def _layout(stages: int, several: bool, kinds: int, in_turns: bool) -> Layout:
    """Where the numbers of a chip with so many stages stand, with several cores or one, from an inner stage of which blocks of so many
    kinds are stored in DRAM, and with granules that matrix units take in turns or with other ones."""
    # The last row of `own` are the steps of the array.
    of_all = (stages * (stages + 1), 1, 1, 1) if several else (0, 0, 0, 0)
    pieces = 2**stages if in_turns else 0
    widths = (stages, 1, 1, stages, stages, stages, 1, 1, *of_all, 1, 1, 1, 1, kinds, kinds, pieces, pieces)
    return Layout(*(sum(widths[:i]) for i in range(len(widths) + 1)))


def _stored_kinds(setting: Setting) -> int:
    """Of how many kinds the blocks are into which an axis is cut for the stage that stores sums in DRAM; 0 if it is the outermost one."""
    outer, inner = setting.holders["psums"][:2]
    several = setting.cores > 1 and inner.stage >= setting.split_stage
    return 2 ** (inner.stage + 1 + several) if inner.stage > 0 and setting.arrives(outer) else 0


def layout_of(setting: Setting) -> Layout:
    """Where the numbers of a GEMM on a chip stand."""
    return _layout(len(setting.stages), setting.cores > 1, _stored_kinds(setting), takes_turns(setting))


def takes_turns(setting: Setting) -> bool:
    """Whether the granules of a piece are dealt to several units, of which some may have none in the last turn."""
    return setting.chip.matrix.kind == "tensor_core" and setting.chip.matrix.count > 1


class Asked(NamedTuple):
    """The parts that an axis is split into, candidate tiles [stages, candidates] of it, and the number of the setting that they are for."""

    parts: int
    tiles: Ints
    setting: int = 0


Flow: TypeAlias = tuple[str, Axis]
"""A dataflow, and the axis along which matrix units share a tile."""


class AxisAsked(NamedTuple):
    """An axis (0: m, 1: n, 2: k), groups of candidates of it, the flows that make a difference to it, and its depth (`depth_of`)."""

    axis: int
    groups: Sequence[Asked]
    flows: Sequence[Flow]
    depth: int

    @property
    def columns(self) -> int:
        """Each group with each flow has its own."""
        return len(self.flows) * len(self.groups) << self.depth


Whole: TypeAlias = Any
"""A float64 array of whole numbers: a count that divides faster."""


class Cuts(NamedTuple):
    """Axes as their candidate tiles cut them: for each stage, and at last for the array, how many blocks there are, and their lengths
    [cores, kinds of blocks, candidates], float64 but whole; of how few candidates there are none of a kind does not matter. `cores`: the
    first one; once there are several, after it all of them, those that have full parts and the one that has the rest. And the extents of
    the first core's first and last tile of each stage, and piece [candidates]."""

    counts: list[Whole]
    lengths: list[Whole]
    firsts: list[Whole]
    lasts: list[Whole]


def cuts_of(setting: Setting, extents: Whole, tiles: Whole, parts: Any) -> Cuts:
    """`tiles` [stages, candidates] of axes of `extents` [candidates], split into `parts`: as many numbers, or 1 for a single core."""
    where, several, stages = setting.split_stage, setting.cores > 1, len(tiles)
    found = Cuts([], [], [], [])
    counts, lengths, first, last = np.ones((1, 1, len(extents))), extents[None, None], extents, extents
    for stage in range(stages + 1):
        if stage == where and several:
            counts, lengths = _shared_out(counts, lengths, parts)
            first, last = ceil_div(first, parts), ceil_div(last, parts)
        found.counts.append(counts)
        found.lengths.append(lengths)
        if stage < stages:
            tile = tiles[stage]
            counts, lengths = _divided(counts, lengths, tile)
            first, last = np.minimum(first, tile), last - (ceil_div(last, tile) - 1) * tile
        found.firsts.append(first)
        found.lasts.append(last)
    return found


def _divided(counts: Whole, lengths: Whole, tile: Whole) -> tuple[Whole, Whole]:
    """Blocks cut into tiles: the full ones and the one at the edge."""
    cores, kinds, candidates = lengths.shape
    new = np.empty((2, cores, 2, kinds, candidates))
    times, has_edge, full, rest = new[0, :, 0], new[0, :, 1], new[1, :, 0], new[1, :, 1]
    np.floor(lengths / tile, out=times)
    np.subtract(lengths, times * tile, out=rest)
    np.minimum(rest, 1, out=has_edge)
    np.minimum(lengths, tile, out=full)
    new[0] *= counts[:, None]
    new_counts, new_lengths = new.reshape(2, cores, 2 * kinds, candidates)
    return new_counts, new_lengths


def _shared_out(counts: Whole, lengths: Whole, parts: Whole) -> tuple[Whole, Whole]:
    """Blocks cut into equal parts for as many cores, rounded up, the last one smaller: those of the first core, and of all."""
    part = np.maximum(ceil_div(lengths[0], parts), 1)
    times = np.floor(lengths[0] / part)
    rest = lengths[0] - times * part
    own = np.minimum(lengths[0], part)
    return np.array([np.ones_like(times), times, np.minimum(rest, 1)]) * counts, np.array([own, own, rest])


def geometry(setting: Setting, tiles: Whole, parts: Any, cuts: Cuts) -> Floats:
    """A table with the rows that do not depend on the array.

    own: visits by the first core, by moving stage (-1, 0, ...); every: by all cores, for each stage; moves: the share of the axis that lies
    in blocks in which the loop of a stage has more than one trip; firsts, lasts: extent of the first core's first and last tile, of which
    the first is as large as any; extent: the first core's share of the axis; alike: cores that have as much; full, edge: lengths of full
    tiles in that share and of the rest, as the outermost stage cuts it; fulls, edges: how many these are; lengths,
    blocks: of what the stage holds that stores sums in DRAM, if it is an inner one, all cores together, and how many of each kind.
    """
    stages, several, where = len(tiles), setting.cores > 1, setting.split_stage
    at = layout_of(setting)
    table = np.zeros((at.rows, tiles.shape[1]))
    for row, often in zip(table[at.own : at.cycles], _positions(setting, tiles, parts, cuts, stages - 1, every=False), strict=True):
        row[:] = often
    for stage in range(stages):
        table[at.moves + stage] = _moving(cuts, tiles, stage, where)
        table[at.firsts + stage], table[at.lasts + stage] = cuts.firsts[stage], cuts.lasts[stage]
    if several:
        for stage in range(stages):
            begin = at.every + stage * (stages + 1)
            every = _positions(setting, tiles, parts, cuts, stage, every=True)
            for row, often in zip(table[begin : begin + stage + 2], every, strict=True):
                row[:] = often
        np.add.reduce(cuts.counts[where][0] * cuts.lengths[where][0], out=table[at.extent])
        table[at.alike] = cuts.counts[0][1, 0] if where == 0 else 1
    # Before the outermost stage cuts it, what the first core has is one block.
    fulls, part = cuts.counts[1][0, 0], cuts.lengths[0][0, 0]
    table[at.full], table[at.fulls], table[at.edges] = cuts.firsts[0], fulls, 1
    np.subtract(part, fulls * tiles[0], out=table[at.edge])
    if at.lengths < at.blocks:
        stage = setting.holders["psums"][1].stage
        stored = _divided(cuts.counts[stage], cuts.lengths[stage], tiles[stage])
        # Of several cores the first stands before those of all.
        table[at.blocks : at.granules], table[at.lengths : at.blocks] = (each[-2:].reshape(-1, tiles.shape[1]) for each in stored)
    return table


def _positions(setting: Setting, tiles: Whole, parts: Any, cuts: Cuts, stage: int, every: bool) -> list[Any]:
    """How often a tile of a stage is fetched that moves with no loop of an axis, with those of stage 0, ...: by the first core, or all."""
    around = []
    for counts, lengths in zip(cuts.counts, cuts.lengths, strict=True):
        cores, shape = slice(1, None) if every and len(counts) > 1 else slice(1), (-1, tiles.shape[1])
        around.append((Blocks(counts[cores].reshape(shape), lengths[cores].reshape(shape), ()),))
    where = setting.split_stage if setting.cores > 1 else 0
    found = positions(AxisCuts(tuple(around), tuple(tiles), where, parts, every), stage)
    return [np.add.reduce(often) if isinstance(often, np.ndarray) else often for often in found]


def _moving(cuts: Cuts, tiles: Whole, stage: int, where: int) -> Any:
    """The share of the blocks that stage `stage` cuts in which it has more than one trip: of the first core or of all, the lesser one. Of a
    block that is shared out at stage `where`, further in, the first core has another share than of others."""
    counts, lengths = cuts.counts[stage], cuts.lengths[stage]
    moving = lengths > tiles[stage]
    if counts.size == tiles.shape[1]:
        return moving[0, 0]
    elements = counts * lengths
    shares = [_share(elements[:1], moving[:1])]
    if len(elements) > 1:
        shares.append(_share(elements[1:], moving[1:]))
    elif len(cuts.counts[-1]) > 1:
        # What a block is cut into follows each other in steps of as many as there are such blocks.
        own = cuts.counts[where][0] * cuts.lengths[where][0]
        shares.append(_share(own.reshape(-1, *moving.shape[1:]), moving))
    return shares[0] if len(shares) == 1 else np.minimum(*shares)


def _share(elements: Whole, moving: Any) -> Any:
    """How many of the elements [groups, kinds of blocks, candidates] lie in blocks that move."""
    return np.add.reduce(elements * moving, axis=(0, 1)) / np.add.reduce(elements, axis=(0, 1))


def are_all_counted(setting: Setting) -> bool:
    """Whether what all cores access counts: of a level that they share."""
    return setting.cores > 1 and any(setting.shared(setting.holders[role][-1]) for role in ROLE_AXES)


def array_factors(setting: Setting, lay: array.Lay, ends: Whole, counts: Whole, lengths: Whole, table: Floats) -> None:
    """Fill in the rows that depend on the array: factors of its cycles, and of the accesses to the role that an axis does not select (by
    the first core and by all), and a term of the extra cycles. What `lay` holds may be numbers for each candidate; `ends` are the pieces
    [candidates] of which the array takes longer than their share of a sequence; `counts` and `lengths` those of `Cuts`.

    The cycles of a tensor core are at least its granules over the units; of several units the table also has, for each kind of pieces, how
    many granules they have, and how many they are.
    """
    at = layout_of(setting)
    kinds = counts.shape[1]
    pieces = np.empty((kinds + 1, len(ends)))
    pieces[:kinds], pieces[kinds] = lengths[0], ends
    folds = lay.folds(pieces)
    if at.granules < at.pieces:
        table[at.granules : at.pieces], table[at.pieces : at.rows] = folds[:kinds], counts[0]
    np.add.reduce(counts[0] * lay.cycles(folds[:kinds]), out=table[at.cycles])
    if setting.chip.matrix.kind == "tensor_core":
        table[at.cycles] *= lay.turns
    table[at.extra] = lay.extra_cycles(folds[kinds])
    np.add.reduce(counts[0] * lay.accesses(lengths[0]), out=table[at.accesses])
    if are_all_counted(setting):
        np.add.reduce(counts[1:] * lay.accesses(lengths[1:]), axis=(0, 1), out=table[at.accesses_of_all])


def depth_of(asked: Sequence[Asked]) -> int:
    """How often a block that holds all candidates of each is halved until single ones are left."""
    return (max(int(each.tiles.shape[1]) for each in asked) - 1).bit_length()


def fill(settings: Sequence[Setting], axes: Sequence[AxisAsked], none: float, out: Floats) -> list[int]:
    """Fill in `out` [rows, columns] the numbers of axes, side by side: for each of its flows, each of its groups of candidates, as
    many columns as 2 to the axis's depth, of which those that no mapping has are of `none`; and say where each axis begins. A candidate
    that stands there again has such numbers, too. Of one GEMM and chip, or of some GEMMs, or of some chips with nothing but their arrays
    different."""
    setting, rows = settings[0], layout_of(settings[0])
    tiles, extents, parts = _columns_of_groups(settings, axes)
    cuts = cuts_of(setting, extents, tiles, parts)
    numbers = geometry(setting, tiles, parts if setting.cores > 1 else 1, cuts)
    spans = _side_by_side([sum(each.tiles.shape[1] for each in axis.groups) for axis in axes])
    # What does not depend on the array is alike for all flows of an axis.
    flows = [(axis, span, flow) for axis, span in zip(axes, spans, strict=True) for flow in axis.flows]

    def of_flows(of_groups: Any) -> Any:
        return of_groups if len(flows) == len(axes) else np.concatenate([of_groups[..., span] for _, span, _ in flows], axis=-1)

    seen = slice(None) if are_all_counted(setting) else slice(1)
    counts, lengths = (of_flows(each[-1][seen]) for each in (cuts.counts, cuts.lengths))
    ends = np.concatenate([(cuts.lasts[-1], cuts.firsts[-1])[flow[0] == "os"][span] for _, span, flow in flows])
    kinds = [(axis, flow, each) for axis, _, flow in flows for each in axis.groups]
    lay = _lays([(array.lay_of(settings[each.setting], *flow, AXES[axis.axis]), each.tiles.shape[1]) for axis, flow, each in kinds])
    numbers = of_flows(numbers)
    array_factors(setting, lay, ends, counts, lengths, numbers)
    columns = _side_by_side([each.tiles.shape[1] for _, _, each in kinds])
    if len(tiles) > 1:
        numbers[rows.own : rows.moves, _again(of_flows(tiles), [own.start for own in columns])] = none
    out[:] = none
    out[rows.moves : rows.firsts] = 1
    for own, begin in zip(columns, _side_by_side([1 << axis.depth for axis, _, _ in kinds]), strict=True):
        out[:, begin.start : begin.start + own.stop - own.start] = numbers[:, own]
    return [own.start for own in _side_by_side([axis.columns for axis in axes])]


def _columns_of_groups(settings: Sequence[Setting], axes: Sequence[AxisAsked]) -> tuple[Whole, Whole, Whole]:
    """Of all groups the candidates [stages, columns], and of each column the extent and parts of its axis."""
    groups = [(axis, each) for axis in axes for each in axis.groups]
    tiles = np.concatenate([each.tiles for _, each in groups], axis=1, dtype=float)
    given = [(settings[each.setting].extents[axis.axis], each.parts) for axis, each in groups]
    extents, parts = np.array(given, dtype=float).T.repeat([each.tiles.shape[1] for _, each in groups], axis=1)
    return tiles, extents, parts


def _side_by_side(widths: Sequence[int]) -> list[slice]:
    """Columns of so many, one after another."""
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


def _lays(each: Sequence[tuple[array.Lay, int]]) -> array.Lay:
    """How candidates lie, so many each way. What all have alike stays one number: of one unit, rates of 1 and the like nothing is worked
    out."""
    lays, widths = zip(*each, strict=True)
    columns = np.array(lays, dtype=float).T.repeat(widths, axis=1)
    return array.Lay(*(own[0] if len({*own}) == 1 else each for own, each in zip(zip(*lays, strict=True), columns, strict=True)))


def _again(tiles: Whole, begins: Sequence[int]) -> Ints:
    """Where a candidate is the one before it; those of a kind begin at `begins`."""
    alike: NDArray[np.bool_] = np.logical_and.reduce(np.equal(tiles[:, 1:], tiles[:, :-1]))
    alike[np.array(begins[1:], dtype=np.int64) - 1] = False
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
