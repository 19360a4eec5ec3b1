"""Traffic of a nest of loops over tiles: how often each tile is moved, with its edges exact.

An axis of `extent` elements is cut by each stage of memory, outermost first, into pieces of `sizes[stage]`, the last one smaller. All loops
run as one nest, outermost stage first; a stage fetches a tile when the one needed next is not the one held. Before stage `split_stage` a
block may be cut into equal parts, one per core; parts run at the same time and are no loop. A core that sits out a block gives up what
it holds.

**How often.** A tile selected by two axes x and y is needed at every position of the third axis z. Fix the tile. A step of the z loop of
stage i leaves it in place iff no loop over x or y inside that z loop has more than one trip: else such a loop was at its last position and
starts again at its first. What lies inside the z loop of stage i also lies inside those of the stages outside it, so there is one deepest
stage i whose z loop drives the tile away, and the tile is fetched once per position of z as stage i cuts it: sum of trips, edges included,
however those of deeper stages go. No z loop drives it away: once. This is the product of the trips of all loops at or outside the
innermost relevant one, for edges of any shape; trips differ between full and smaller blocks, hence the sums over alike blocks.

This is the counting of Timeloop (Parashar et al., ISPASS 2019, doi:10.1109/ISPASS.2019.00042, tile analysis) with imperfect factors.
Everything broadcasts over integers and int64 arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hwmodels.formulas.elementwise import chosen, larger, smaller
from hwmodels.formulas.systolic import Count, ceil_div

Flag: TypeAlias = Any
"""bool or array of bool."""


class Blocks(NamedTuple):
    """Alike blocks of one axis: how many, their length (0 where there are none), and the trips of the loops of the stages around them."""

    blocks: Count
    length: Count
    trips: tuple[Count, ...]


class Cut(NamedTuple):
    """Alike blocks as one stage cuts them: into which tiles; their elements; and the trips of the loops around those, the stage's own the
    last."""

    tiles: tuple[Blocks, ...]
    elements: Count
    trips: tuple[Count, ...]


class AxisCuts(NamedTuple):
    """One axis, cut by every stage. `around[s]` are the blocks that stage s cuts; the last entry are the pieces that the array gets.

    `every`: parts of all cores are counted; else only those of the first core, whose parts are the largest. `at_once`: what several cores
    fetch at the same place of their loops counts once, that is, besides what the first core fetches, what others do when they come back.
    `cut[s]`: the blocks of `around[s]` with what stage s cuts them into, for those who ask for more than how often tiles are fetched.
    """

    around: Sequence[Sequence[Blocks]]
    sizes: Sequence[Count]
    split_stage: int
    parts: Count
    every: bool
    at_once: bool = False
    cut: Sequence[Sequence[Cut]] = ()

    def longest(self, stage: int) -> Count:
        """The length of the longest tile of a stage, which is the first."""
        return self.cut[stage][0].tiles[0].length


def is_one(parts: Count) -> bool:
    """Whether there is a single part, for every mapping."""
    return isinstance(parts, int) and parts == 1


def divide(block: Blocks, size: Count) -> Cut:
    """Blocks cut by a loop into pieces of `size`: the full ones and the one at the edge."""
    blocks, length, trips = block
    times, rest = divmod(length, size)
    if isinstance(rest, int) and rest == 0:
        trips = (*trips, times)
        return Cut((Blocks(blocks * times, smaller(length, size), trips),), blocks * length, trips)
    edge = smaller(rest, 1)
    trips = (*trips, times + edge)
    tiles = Blocks(blocks * times, smaller(length, size), trips), Blocks(blocks * edge, rest, trips)
    return Cut(tiles, blocks * length, trips)


def share_out(block: Blocks, parts: Count, every: bool, core: int = 0) -> tuple[Blocks, ...]:
    """Blocks cut into equal parts for as many cores (rounded up, the last one smaller): all of them, or those of one core."""
    size = larger(ceil_div(block.length, parts), 1)
    if core:
        own = smaller(size, larger(block.length - core * size, 0))
        return (Blocks(block.blocks * smaller(own, 1), own, block.trips),)
    if not every:
        return (Blocks(block.blocks, smaller(size, block.length), block.trips),)
    return tuple([Blocks(piece.blocks, piece.length, block.trips) for piece in divide(block, size).tiles])


def cut_axis(extent: Count, sizes: Sequence[Count], split_stage: int, parts: Count, every: bool, core: int = 0) -> AxisCuts:
    """An axis of `extent` elements, cut by stage after stage; not `every`: of one core, which has the parts of that number."""
    level: Sequence[Blocks] = (Blocks(1, extent, ()),)
    around, cut = [], []
    shared_out = -1 if is_one(parts) else split_stage
    for stage, size in enumerate(sizes):
        if stage == shared_out:
            level = [part for block in level for part in share_out(block, parts, every, core)]
        around.append(level)
        cut.append([divide(block, size) for block in level])
        level = [tile for each in cut[-1] for tile in each.tiles] if len(level) > 1 else cut[-1][0].tiles
    around.append([part for block in level for part in share_out(block, parts, every, core)] if shared_out == len(sizes) else level)
    return AxisCuts(around, sizes, split_stage, parts, every, False, cut)


def positions(axis: AxisCuts, stage: int) -> list[Count]:
    """How often a tile of `stage` is fetched that moves with no loop of this axis, with those of stage 0, of stages 0 and 1, ...

    Below the split, every core that has a part of this axis fetches the tile for itself.
    """
    own = -1 if axis.split_stage > stage or is_one(axis.parts) else axis.split_stage
    counts: list[Count] = []
    for moving in range(-1, stage + 1):
        counts.append(_total(axis, moving) if moving >= own else _sharers(axis, moving))
    return counts


def _total(axis: AxisCuts, moving: int) -> Count:
    """All trips of the loop of stage `moving`: the blocks that it leaves, unless these have been shared out."""
    if moving < 0:
        return 1
    if moving + 1 == axis.split_stage and not is_one(axis.parts):
        return sum([block.blocks * ceil_div(block.length, axis.sizes[moving]) for block in axis.around[moving]])
    total: Count = 0
    for block in axis.around[moving + 1]:
        total = total + block.blocks
    return total


def _sharers(axis: AxisCuts, moving: int) -> Count:
    """Fetches by all cores that have a part, summed over the blocks below the loop of stage `moving`."""
    total: Count = 0
    for block in axis.around[moving + 1] if moving + 1 < axis.split_stage else ():
        total = total + block.blocks * _active_parts(block.length, axis, moving + 1)
    if moving + 1 == axis.split_stage:
        for block in axis.around[axis.split_stage]:
            total = total + block.blocks
    return total


def _active_parts(length: Count, axis: AxisCuts, stage: int) -> Count:
    """How often all cores together fetch what they need as long as they have a part of a block that the shared stages from `stage` on cut.

    A core does so once for each run of consecutive tiles of which it has a part. With one shared stage left a core has no second run: the
    tile at the edge comes last.
    """
    if axis.at_once:
        return 1 + _rises(length, axis, stage).number
    if stage == axis.split_stage:
        busy: Count = _busy(length, axis)
        return busy
    if stage + 1 == axis.split_stage:
        size = axis.sizes[stage]
        most: Count = larger(_busy(smaller(length, size), axis), _busy(length % size, axis))
        return most
    total: Count = 0
    for core in range(int(np.max(axis.parts)) if axis.every else 1):
        total = total + _runs(length, axis, stage, core).number
    return total


def _busy(length: Count, axis: AxisCuts) -> Any:
    """Cores that have a part of a block."""
    part = larger(ceil_div(length, axis.parts), 1)
    return ceil_div(length, part) if axis.every else smaller(length, 1)


class _Rises(NamedTuple):
    """How often more cores have a part of a tile than had of the one before it; how many have of the first and of the last tile."""

    number: Count
    first: Count
    last: Count


def _rises(length: Count, axis: AxisCuts, stage: int) -> _Rises:
    """Of the tiles of a block that the shared stages from `stage` on cut. Where more cores have a part, those that come back fetch at the
    same place of their loops, so that each rise is one fetch."""
    if stage == axis.split_stage:
        busy: Count = ceil_div(length, larger(ceil_div(length, axis.parts), 1))
        return _Rises(0 * busy, busy, busy)
    size = axis.sizes[stage]
    full, edge = _rises(smaller(length, size), axis, stage + 1), _rises(length % size, axis, stage + 1)
    times = larger(length // size, 1)
    has_edge = chosen((length % size > 0) & (length > size), 1, 0)
    again, after = chosen(full.first > full.last, 1, 0), chosen(edge.first > full.last, 1, 0)
    number = times * full.number + (times - 1) * again + has_edge * (edge.number + after)
    return _Rises(number, full.first, chosen(has_edge == 1, edge.last, full.last))


class _Runs(NamedTuple):
    """Runs of consecutive tiles of which one core has a part, and whether the first and the last tile are among them (1 or 0)."""

    number: Count
    begins: Count
    ends: Count


def _runs(length: Count, axis: AxisCuts, stage: int, core: int) -> _Runs:
    """The runs of one core within a block that the shared stages from `stage` on cut; none in a block of length 0."""
    if stage == axis.split_stage:
        busy = chosen(_busy(length, axis) > core, 1, 0)
        return _Runs(busy, busy, busy)
    size = axis.sizes[stage]
    full = _runs(smaller(length, size), axis, stage + 1, core)
    edge = _runs(length % size, axis, stage + 1, core)
    times = length // size + chosen(length < size, chosen(length > 0, 1, 0), 0)
    repeated = times * full.number - larger(times - 1, 0) * (full.begins * full.ends)
    # Where the block is smaller than a tile it is itself both the full tile and the edge: only the first counts.
    has_edge = chosen((length % size > 0) & (length > size), 1, 0)
    return _Runs(
        repeated + has_edge * (edge.number - full.ends * edge.begins),
        full.begins,
        chosen(has_edge == 1, edge.ends, full.ends),
    )


def visits(x: Sequence[Count], y: Sequence[Count], inside: Sequence[tuple[Flag, Flag]], z_positions: Sequence[Count]) -> Count:
    """How often a tile in blocks of two axes is fetched, of which x and y are the trips of all loops, the stage's own among them (see the
    head of this module).

    `inside[i]`: whether the loops over x and over y of stage i lie inside its loop over z.
    """
    moved: Flag = False
    result = z_positions[len(x)]
    for stage in range(len(x) - 1, -1, -1):
        x_moves, y_moves = x[stage] > 1, y[stage] > 1
        x_inside, y_inside = inside[stage]
        # Where nothing moves inside the loop over z of a stage, nothing does inside those of the stages within.
        result = chosen(moved | (x_inside & x_moves) | (y_inside & y_moves), result, z_positions[stage])
        moved = moved | x_moves | y_moves
    return result


def turns(x: AxisCuts, others: Sequence[AxisCuts], stage: int, inside: Sequence[Sequence[Flag]]) -> Count:
    """How often the next tile of a stage lies elsewhere along the axis x than the one before it, for the cores that are counted.

    As a tile that x alone selects is driven away by loops over either of the other axes (see the head of this module), whose positions
    combine freely. `inside[j][i]`: whether the loop over x of stage i lies inside that over the j-th other axis. Each core begins once.
    """
    begun: Count = positions(x, stage)[0]
    counts = [positions(other, stage) for other in others]
    for each in counts:
        begun = begun * each[0]
    total: Count = 0
    for block, (_, _, trips) in zip(x.around[stage], x.cut[stage], strict=True):
        often: Count = block.blocks * trips[-1]
        for each, within in zip(counts, inside, strict=True):
            often = often * visits(trips, [1] * len(trips), [(flag, False) for flag in within], each)
        total = total + often
    return total - begun


class Visited(NamedTuple):
    """Tiles of alike blocks of two axes: their elements, each once; how often each is fetched; and their lengths along x and along y."""

    elements: Count
    visits: Count
    x_tiles: tuple[Blocks, ...]
    y_tiles: tuple[Blocks, ...]


def visited(x: AxisCuts, y: AxisCuts, z: AxisCuts, stage: int, inside: Sequence[tuple[Flag, Flag]]) -> list[Visited]:
    """Every tile that a stage holds of a role selected by x and y, in groups of alike blocks."""
    z_positions, y_cut = positions(z, stage), y.cut[stage]
    return [
        Visited(x_elements * y_elements, visits(x_trips, y_trips, inside, z_positions), x_tiles, y_tiles)
        for x_tiles, x_elements, x_trips in x.cut[stage]
        for y_tiles, y_elements, y_trips in y_cut
    ]


def packed_bytes(group: Visited, bits: int, burst_bytes: int) -> Count:
    """Bytes of all tiles of a group, each once, where every tile lies by itself and begins a new burst."""
    bursts: Count = 0
    for x_blocks, x_length, _ in group.x_tiles:
        for y_blocks, y_length, _ in group.y_tiles:
            bursts = bursts + x_blocks * y_blocks * ceil_div(x_length * y_length * bits, 8 * burst_bytes)
    return bursts * burst_bytes
