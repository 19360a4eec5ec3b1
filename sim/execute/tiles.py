"""The tiles of one stage within an enclosing block, as arrays: which are fetched, how long they are, where they lie.

Blocks of the same lengths have the same tiles, so what is asked of them is found once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Role
from sim.execute.arithmetic import Exchanged, Issued
from sim.mapping import AXES, OPERAND_AXES, Axis, Block, Span, StageTiling, parts

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

Counted = tuple[tuple[int, int], ...]
"""Sizes in elements, and how many tiles there are of each."""


class Work(NamedTuple):
    """What the matrix units do with tiles, by shape: which shape each tile has, how many tiles have it, what one of them exchanges with
    memory; and what they issue for all tiles."""

    kind_of: Indices
    numbers: Indices
    exchanged: tuple[Exchanged, ...]
    issued: Issued


class Sums(NamedTuple):
    """Tiles of partial sums that come in, and those that go out, finished or not, before the last one."""

    arriving: Counted
    finished: Counted
    unfinished: Counted


class Tiles:
    """Of any block of `extents`, in the order of its loops: where each tile begins within the block and how long it is, by axis; `steps`
    are the ranges into which the block is cut along k. `product` are the lengths of the whole product."""

    def __init__(self, extents: tuple[int, int, int], tiling: StageTiling, product: tuple[int, int, int]) -> None:
        self.extents, self.product = extents, product
        cuts = {axis: parts(Span(0, extent), size) for axis, extent, size in zip(AXES, extents, tiling.tile, strict=True)}
        loops = np.indices([len(cuts[axis]) for axis in tiling.order]).reshape(3, -1)
        index = dict(zip(tiling.order, loops, strict=True))
        self.starts = {axis: np.array([cut.start for cut in cuts[axis]])[index[axis]] for axis in AXES}
        self.lengths = {axis: np.array([cut.stop - cut.start for cut in cuts[axis]])[index[axis]] for axis in AXES}
        self.steps = tuple(cuts["k"])
        self._first, self._last = self._tile(0), self._tile(-1)
        self.places: list[int] = _index([self.starts[axis] for axis in AXES], product).tolist()
        self.turns: dict[Axis, int] = {axis: int(self._moves(axis).sum()) for axis in AXES}
        self.moves: dict[Role, Mask] = {role: self._moves(*axes) for role, axes in OPERAND_AXES.items()}
        self.sizes: dict[Role, Indices] = {role: self.lengths[a] * self.lengths[b] for role, (a, b) in OPERAND_AXES.items()}
        self.largest: dict[Role, int] = {role: int(sizes.max()) for role, sizes in self.sizes.items()}
        self.fetched = lru_cache(maxsize=None)(self._fetched)
        self.sums = lru_cache(maxsize=None)(self._sums)
        self.work = lru_cache(maxsize=None)(self._work)

    def first(self, block: Block) -> Block:
        """The first of them in a block."""
        return _moved(self._first, block)

    def last(self, block: Block) -> Block:
        """The last of them in a block."""
        return _moved(self._last, block)

    def _tile(self, index: int) -> Block:
        m, n, k = (Span(int(self.starts[axis][index]), int(self.starts[axis][index] + self.lengths[axis][index])) for axis in AXES)
        return m, n, k

    def _moves(self, *axes: Axis) -> Mask:
        """Whether a tile lies elsewhere along some axes than the one before it, from the second on."""
        elsewhere: Mask = np.any([np.diff(self.starts[axis]) != 0 for axis in axes], axis=0)
        return elsewhere

    def _fetched(self, role: Role, first_is_held: bool) -> tuple[Indices, Counted, list[int]]:
        """The fetch rule for an operand: sizes of the tiles that are not the one held before, the same counted, and their places."""
        fetched = np.concatenate(([not first_is_held], self.moves[role]))
        sizes = self.sizes[role][fetched]
        return sizes, counted(sizes), [place for place, is_fetched in zip(self.places, fetched.tolist(), strict=True) if is_fetched]

    def _sums(self, first_is_held: bool, depth: int) -> Sums:
        """The fetch rule for partial sums, where the block begins at k = `depth`."""
        sizes, moves = self.sizes["psums"], self.moves["psums"]
        arrives = np.concatenate(([not first_is_held], moves)) & (self.starts["k"] + depth > 0)
        complete = (self.starts["k"] + self.lengths["k"] + depth == self.product[2])[:-1]
        return Sums(counted(sizes[arrives]), counted(sizes[:-1][moves & complete]), counted(sizes[:-1][moves & ~complete]))

    def _work(
        self, is_begun: bool, issued: Callable[[int, int, int], Issued], exchanged: Callable[[int, int, int, bool], Exchanged]
    ) -> Work:
        """What the matrix units do with every tile, from what one issues and exchanges; `is_begun`: all sums were begun before."""
        m, n, k = self.extents
        continues = (self.starts["k"] > 0) | is_begun
        shapes = 2 * _index([self.lengths[axis] for axis in AXES], (m + 1, n + 1, k + 1)) + continues
        _, examples, kind_of, numbers = np.unique(shapes, return_index=True, return_inverse=True, return_counts=True)
        lengths = list(zip(*(self.lengths[axis][examples].tolist() for axis in AXES), strict=True))
        macs = np.array([issued(*each) for each in lengths]).T @ numbers
        each = [exchanged(m, n, k, is_begun) for (m, n, k), is_begun in zip(lengths, continues[examples].tolist(), strict=True)]
        return Work(kind_of, numbers, tuple(each), Issued(*macs.tolist()))


def _moved(tile: Block, block: Block) -> Block:
    (m, n, k), (of_m, of_n, of_k) = tile, block
    m, n, k = (Span(of.start + span.start, of.start + span.stop) for span, of in ((m, of_m), (n, of_n), (k, of_k)))
    return m, n, k


def counted(sizes: Indices) -> Counted:
    """Sizes and how many there are of each."""
    return tuple(zip(*(each.tolist() for each in np.unique(sizes, return_counts=True)), strict=True))


def _index(numbers: Sequence[Indices], extents: tuple[int, int, int]) -> Indices:
    """Three numbers as one, each below its extent."""
    first, second, third = numbers
    return (first * extents[1] + second) * extents[2] + third
