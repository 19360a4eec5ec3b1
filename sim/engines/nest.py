"""The loop nest of a mapping on the first core: what it does step by step, told in as few *rows* as there are different steps.

A loop of many trips does the same in the middle of them. Of each loop the first `KEPT` trips, the last `KEPT` and one for all between are
told apart; a row is one trip of every loop, and stands for as many steps as trips of its loops are alike. Nothing that a play asks of a
step reaches further than that: the tiles in use, those before and after them, and whether sums come back after one, two or more visits.

A walk counts all trips and finds the row of each step. Trips of a loop are *alike* if their rows are, in everything that a play asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Role
from sim.mapper.problem import ROLE_AXES
from sim.mapping import AXES, GemmMapping

Counts: TypeAlias = NDArray[np.int64]

KEPT = 3
"""Trips at either end of a loop that are told apart."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


class Rows(NamedTuple):
    """First index and length along m, n, k for each stage, and last for the array [rows, stages + 1, 3]; indices count told trips only. How
    many steps each row stands for [rows]."""

    starts: Counts
    lengths: Counts
    often: Counts


@dataclass(frozen=True, slots=True)
class Block:
    """What a stage cuts into tiles: trips of its three loops, outermost first, told or not; row at which each told trip of the innermost
    begins, and the end; steps in all; and what is within a tile, by whether it is the last along each loop (nothing: one step)."""

    trips: tuple[int, int, int]
    told: tuple[int, int, int]
    firsts: list[int]
    rows: Rows
    steps: int
    within: dict[tuple[bool, ...], Block]


def _told(trips: int) -> int:
    return min(trips, 2 * KEPT + 1)


def told_trip(trip: int, trips: int) -> int:
    """Which of the told trips a trip is."""
    if trip < KEPT or trips <= 2 * KEPT + 1:
        return trip
    return max(KEPT, trip - trips + 2 * KEPT + 1)


class Stays(NamedTuple):
    """Stays of a role's tiles in a stage: first row of each, elements, whether its tile was held before or will be again, how many stays
    ago at the least (0: never; at most 3), its steps, and how often it happens; which one each row [rows] is part of, whether it begins
    it."""

    begin: Counts
    elements: Counts
    last: NDArray[np.bool_]
    ago: Counts
    steps: Counts
    often: Counts
    of_row: Counts
    begins: NDArray[np.bool_]


def stays(role: Role, stage: int, rows: Rows) -> Stays:
    """The stays of a role's tiles in a stage."""
    x, y, _ = ROLE_AXES[role]
    starts = rows.starts[:, stage]
    begins = np.ones(len(starts), bool)
    begins[1:] = (starts[1:, x] != starts[:-1, x]) | (starts[1:, y] != starts[:-1, y])
    begin = np.flatnonzero(begins)
    elements = rows.lengths[begin, stage, x] * rows.lengths[begin, stage, y]
    last, ago = np.ones(len(begin), bool), np.zeros(len(begin), np.int64)
    if role == "psums":
        tile = starts[begin, x] * (int(starts[:, y].max()) + 1) + starts[begin, y]
        order = np.argsort(tile, kind="stable")
        same = tile[order][1:] == tile[order][:-1]
        last[order[:-1][same]] = False
        ago[order[1:][same]] = np.minimum((order[1:] - order[:-1])[same], 3)
    often = rows.often[begin]
    return Stays(begin, elements, last, ago, np.add.reduceat(rows.often, begin) // often, often, np.cumsum(begins) - 1, begins)


class Nest:
    """The steps of the first core under a mapping, and the stays of tiles in the stages in which they are held (`held[role]`)."""

    def __init__(self, mapping: GemmMapping, held: Sequence[tuple[Role, tuple[int, ...]]]) -> None:
        self.mapping, gemm = mapping, mapping.gemm
        self._known: dict[tuple[tuple[int, ...], int], Block | None] = {}
        whole = self._block((gemm.m, gemm.n, gemm.k), 0)
        assert whole is not None
        self.whole, self.rows, self.steps = whole, whole.rows, whole.steps
        self.stays = {role: [stays(role, stage, self.rows) for stage in stages] for role, stages in held}
        # Whether the tile around one changes with it.
        self.turns = {
            role: [_turns(found, around) for found, around in zip(each, [None, *each], strict=False)] for role, each in self.stays.items()
        }
        pieces, continues = self.rows.lengths[:, -1], self.rows.starts[:, -1, 2] > 0
        self.pieces: list[tuple[int, int, int, bool]] = [
            (m, n, k, again) for (m, n, k), again in zip(pieces.tolist(), continues.tolist(), strict=True)
        ]
        self._codes: dict[bool, bytes] = {}

    # --- rows ---

    def _block(self, extents: tuple[int, ...], stage: int) -> Block | None:
        """What there is in a block of these extents, from a stage on; None if that is a single step."""
        mapping = self.mapping
        if stage == len(mapping.stages):
            return None
        if stage == mapping.split_stage:
            extents = -(-extents[0] // mapping.split[0]), -(-extents[1] // mapping.split[1]), extents[2]
        if (extents, stage) not in self._known:
            self._known[extents, stage] = self._cut(extents, stage)
        return self._known[extents, stage]

    def _cut(self, extents: tuple[int, ...], stage: int) -> Block:
        tiling = self.mapping.stages[stage]
        axes = [AXES.index(axis) for axis in tiling.order]
        all_trips = [-(-extents[axis] // tiling.tile[axis]) for axis in axes]
        told = [_told(trips) for trips in all_trips]
        grid = np.indices(told).reshape(3, -1)
        starts, lengths = np.empty((grid.shape[1], 3), np.int64), np.empty((grid.shape[1], 3), np.int64)
        often = np.ones(grid.shape[1], np.int64)
        is_last = []
        for axis, trips, kept, trip in zip(axes, all_trips, told, grid, strict=True):
            size = tiling.tile[axis]
            starts[:, axis] = trip * size
            lengths[:, axis] = np.where(trip == kept - 1, extents[axis] - (trips - 1) * size, size)
            if trips > kept:
                often *= np.where(trip == KEPT, trips - kept + 1, 1)
            is_last.append(trip == kept - 1)
        within: dict[tuple[bool, ...], Block] = {}
        tables: list[Rows] = []
        steps, which = 0, np.zeros(grid.shape[1], np.int64)
        for flags in product(*([False, True] if trips > 1 else [True] for trips in all_trips)):
            here = (is_last[0] == flags[0]) & (is_last[1] == flags[1]) & (is_last[2] == flags[2])
            tile = [0, 0, 0]
            for axis, trips, flag in zip(axes, all_trips, flags, strict=True):
                tile[axis] = extents[axis] - (trips - 1) * tiling.tile[axis] if flag else tiling.tile[axis]
            block = self._block(tuple(tile), stage + 1)
            which[here] = len(tables)
            if block is not None:
                within[flags] = block
                tables.append(block.rows)
            else:
                tables.append(self._piece(tuple(tile)))
            steps += int(often[here].sum()) * (1 if block is None else block.steps)
        sizes = np.array([len(table.often) for table in tables])[which]
        firsts = np.concatenate([[0], np.cumsum(sizes)])
        outer = np.repeat(np.arange(len(sizes)), sizes)
        offsets = np.cumsum([0, *(len(table.often) for table in tables)])
        inner = np.arange(len(outer)) - firsts[outer] + offsets[which[outer]]
        within_rows = Rows(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))
        rows = Rows(
            np.concatenate([starts[outer, None], within_rows.starts[inner] + starts[outer, None]], axis=1),
            np.concatenate([lengths[outer, None], within_rows.lengths[inner]], axis=1),
            often[outer] * within_rows.often[inner],
        )
        a, b, c = all_trips
        return Block((a, b, c), (told[0], told[1], told[2]), firsts.tolist(), rows, steps, within)

    def _piece(self, extents: tuple[int, ...]) -> Rows:
        """What the array gets of a tile of the last stage."""
        m, n, k = extents
        if self.mapping.split_stage == len(self.mapping.stages):
            m, n = -(-m // self.mapping.split[0]), -(-n // self.mapping.split[1])
        return Rows(np.zeros((1, 1, 3), np.int64), np.array([[[m, n, k]]], np.int64), np.ones(1, np.int64))

    # --- likeness ---

    def codes(self, some_early: bool = False) -> bytes:
        """Eight bytes per row: equal where the same is done in the same way (up to collisions of 64-bit hashes). `some_early`: of the first
        two tiles of weights some have come before the start."""
        if some_early not in self._codes:
            self._codes[some_early] = self._hashes(some_early).tobytes()
        return self._codes[some_early]

    def _hashes(self, some_early: bool) -> NDArray[np.uint64]:
        rows = self.rows
        found = np.zeros(len(rows.often), np.uint64)
        for axis in range(3):
            found = _mixed(found, rows.lengths[:, -1, axis])
        found = _mixed(found, rows.starts[:, -1, 2] > 0)
        for role, of_role in self.stays.items():
            for depth, (each, turns) in enumerate(zip(of_role, self.turns[role], strict=True)):
                columns: list[Any] = [each.elements, np.append(each.elements[1:], 0), each.steps, turns, np.append(turns[1:], True)]
                if role == "psums":
                    before = np.append([0], each.elements[:-1]), np.append([False], each.last[:-1])
                    columns += [*before, each.last, each.ago]
                if some_early and role == "weights" and depth == 0:
                    here = np.arange(len(each.begin))
                    columns += [here < 1, here < 2]  # what comes into use, and what is loaded for later, is not what it is further on
                code = np.zeros(len(each.begin), np.uint64)
                for column in columns:
                    code = _mixed(code, column)
                found = _mixed(found, code[each.of_row])
                found = _mixed(found, np.minimum(np.arange(len(each.of_row)) - each.begin[each.of_row], 2))
        return found


def _turns(found: Stays, around: Stays | None) -> NDArray[np.bool_]:
    return np.zeros(len(found.begin), bool) if around is None else around.begins[found.begin]


def _mixed(codes: NDArray[np.uint64], column: Any) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = (codes ^ (codes >> np.uint64(29))) * _MIX + column.astype(np.uint64)
    return mixed


class Place(NamedTuple):
    """Where in the nest a stage's loops stand: the block, its first row, the trips."""

    block: Block
    first_row: int
    trips: list[int]


class Walk:
    """All steps in order: `row` is that of the step that is next, `loop` the loop that goes on with it (from the outermost of all, 0; -1 at
    the start), `is_over` after the last step."""

    def __init__(self, nest: Nest, codes: bytes) -> None:
        self._codes = codes
        self._places = [Place(nest.whole, 0, [0, 0, 0])]
        self._ends = [0] * (3 * len(nest.mapping.stages))  # of each loop, the end of the alike trips that were found last
        self.row, self.loop, self.is_over = 0, -1, False
        self._enter()

    def _enter(self) -> None:
        """Go to the first step within the tiles in which the outer stages stand."""
        while True:
            block, first_row, trips = self._places[-1]
            at = _flat(block, trips)
            self.row = first_row + block.firsts[at]
            if not block.within:
                return
            (a, b, c), (many_a, many_b, many_c) = trips, block.trips
            within = block.within.get((a == many_a - 1, b == many_b - 1, c == many_c - 1))
            if within is None:
                return
            self._places.append(Place(within, self.row, [0, 0, 0]))

    def go_on(self) -> None:
        """To the next step."""
        while self._places:
            stage = len(self._places) - 1
            block, _, trips = self._places[-1]
            for loop in (2, 1, 0):
                if trips[loop] + 1 < block.trips[loop]:
                    trips[loop] += 1
                    trips[loop + 1 :] = [0] * (2 - loop)
                    self.loop = 3 * stage + loop
                    self._ends[self.loop + 1 :] = [0] * (len(self._ends) - self.loop - 1)
                    self._enter()
                    return
            self._places.pop()
        self.is_over = True

    @property
    def trip(self) -> int:
        """Of the loop that goes on."""
        stage, loop = divmod(self.loop, 3)
        return self._places[stage].trips[loop]

    def _range(self, stage: int, loop: int, trip: int) -> tuple[int, int]:
        """Rows of a trip of a loop, all outer ones as they stand; bytes of their codes."""
        block, first_row, trips = self._places[stage]
        _, many_b, many_c = block.told
        if loop == 0:
            at, alike = told_trip(trip, block.trips[0]) * many_b * many_c, many_b * many_c
        elif loop == 1:
            at, alike = (told_trip(trips[0], block.trips[0]) * many_b + told_trip(trip, block.trips[1])) * many_c, many_c
        else:
            at, alike = _flat(block, (trips[0], trips[1], trip)), 1
        return 8 * (first_row + block.firsts[at]), 8 * (first_row + block.firsts[at + alike])

    def alike(self, trip: int) -> int:
        """How many trips of the loop that goes on, from this one on, are all like the one before."""
        stage, loop = divmod(self.loop, 3)
        count = self._places[stage].block.trips[loop]
        end = trip
        if trip >= count:
            return 0
        if trip < self._ends[self.loop]:
            return self._ends[self.loop] - trip
        begin, stop = self._range(stage, loop, trip - 1)
        before = self._codes[begin:stop]
        while end < count:
            begin, stop = self._range(stage, loop, end)
            if self._codes[begin:stop] != before:
                break
            end = count - KEPT if told_trip(end, count) == KEPT and count > 2 * KEPT + 1 else end + 1
        self._ends[self.loop] = end
        return end - trip

    def skip(self, trips: int) -> int:
        """Past so many trips of the loop that goes on; the row of the last step of these."""
        stage, loop = divmod(self.loop, 3)
        block, _, at = self._places[stage]
        _, stop = self._range(stage, loop, at[loop] + trips - 1)
        del self._places[stage + 1 :]
        at[loop] += trips - 1
        at[loop + 1 :] = [block.trips[inner] - 1 for inner in range(loop + 1, 3)]
        self.go_on()
        return stop // 8 - 1


def _flat(block: Block, trips: Sequence[int]) -> int:
    (a, b, c), (many_a, many_b, many_c), told = trips, block.trips, block.told
    return (told_trip(a, many_a) * told[1] + told_trip(b, many_b)) * told[2] + told_trip(c, many_c)


@lru_cache(maxsize=64)
def nest_of(mapping: GemmMapping, held: tuple[tuple[Role, tuple[int, ...]], ...]) -> Nest:
    """The nest of a mapping, remembered: it is played again with other windows before it."""
    return Nest(mapping, held)
