"""A systolic array played register by register: operands move one hop per cycle, real integers are multiplied, collisions raise `Hazard`.

It knows ports, registers and their wiring, and nothing of any formula: cycles are counted, results are what left the array, and the SRAM
accesses are tallied at its ports. An operand on a port in cycle t is seen by the PE beside it in t; what a PE writes is seen from t + 1.

`pack` neighbours along k share one operand and are multiplied in one go; `stretch` is the number of cycles of one product. Operands must
not be zero, so that a zero on a port is padding and is not tallied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]
EMPTY = -1


class Hazard(Exception):
    """Two things in one register, on one port or in one multiplier, or operands that do not belong together."""


@dataclass(frozen=True)
class Fold:
    """One filling of the array.

    `left` [rows, steps, pack] streams from the left; `top` comes from above, streamed [cols, steps, pack] (os) or preloaded
    [rows, cols, pack] (ws). `row` and `col`: where the fold's results begin in the product.
    """

    problem: int
    row: int
    col: int
    left: Matrix
    top: Matrix

    @property
    def steps(self) -> int:
        return self.left.shape[1]


@dataclass
class Run:
    """What was seen: products, the number of cycles, the cycles in which the left port was busy, and elements that crossed the edge."""

    products: list[Matrix]
    cycles: int = 0
    stream_begin: int = EMPTY
    stream_end: int = 0
    starts: list[int] = field(default_factory=list)
    left_reads: int = 0
    top_reads: int = 0
    psum_reads: int = 0
    psum_writes: int = 0


def operand_dtype(pack: int) -> np.dtype[np.void]:
    """An operand with the tags that travel beside it."""
    return np.dtype([("fold", int), ("step", int), ("last", bool), ("value", np.int64, (pack,))])


def blank(shape: tuple[int, ...], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    registers = np.zeros(shape, dtype)
    registers["fold"] = EMPTY
    return registers


def require(holds: bool | np.bool_, complaint: str) -> None:
    if not holds:
        raise Hazard(complaint)


class Multipliers:
    """One multiplier per PE; it takes an operand off the wire when that comes past and is busy with it for `stretch` cycles."""

    def __init__(self, rows: int, cols: int, pack: int, stretch: int) -> None:
        self.stretch = stretch
        self.held = blank((rows, cols), operand_dtype(pack))
        self.busy = np.zeros((rows, cols), int)

    def step(self, passing: NDArray[np.void]) -> NDArray[np.bool_]:
        """Take what passes; say which PEs finish a product in this cycle."""
        arrived = passing["fold"] != EMPTY
        require(not np.any(arrived & (self.busy > 0)), "an operand reached a busy multiplier")
        self.held[arrived] = passing[arrived]
        self.busy[arrived] = self.stretch
        self.busy = np.maximum(self.busy - 1, 0)
        finished = (self.held["fold"] != EMPTY) & (self.busy == 0)
        self._spent = finished
        return finished

    def release(self) -> None:
        self.held["fold"][self._spent] = EMPTY


def hop_right(registers: NDArray[np.void], port: NDArray[np.void]) -> NDArray[np.void]:
    return np.concatenate([port[:, None], registers[:, :-1]], axis=1)


def hop_down(registers: NDArray[np.void], port: NDArray[np.void]) -> NDArray[np.void]:
    return np.concatenate([port[None, :], registers[:-1]], axis=0)


def skewed_port(lanes: int, folds: Sequence[Fold], side: str, since: dict[int, int], t: int, stretch: int, pack: int) -> NDArray[np.void]:
    """What lies on the edge in cycle t: lane i carries step j of a fold i + j x stretch cycles after the fold's first operand."""
    port = blank((lanes,), operand_dtype(pack))
    for index, first_cycle in since.items():
        source, lane = getattr(folds[index], side), np.arange(lanes)
        step, rest = np.divmod(t - first_cycle - lane, stretch)
        now = (rest == 0) & (step >= 0) & (step < folds[index].steps)
        require(not np.any(now & (port["fold"] != EMPTY)), f"two folds on the {side} port")
        port["value"][now] = source[lane[now], step[now]]
        port["step"][now], port["fold"][now], port["last"][now] = step[now], index, step[now] == folds[index].steps - 1
    return port


class OutputStationary:
    """A from the left, W from the top; a PE keeps its sum, then hands it to the output register from where the column drains downwards."""

    preload_cycles = 0

    def __init__(self, rows: int, cols: int, pack: int, stretch: int) -> None:
        self.rows, self.cols, self.pack, self.stretch = rows, cols, pack, stretch
        self.a = blank((rows, cols), operand_dtype(pack))
        self.w = blank((rows, cols), operand_dtype(pack))
        self.a_multiplier = Multipliers(rows, cols, pack, stretch)
        self.w_multiplier = Multipliers(rows, cols, pack, stretch)
        self.total = np.zeros((rows, cols), np.int64)
        self.out = blank((rows, cols), np.dtype([("fold", int), ("wait", int), ("value", np.int64)]))

    def step(self, t: int, folds: Sequence[Fold], since: dict[int, int]) -> tuple[Matrix, Matrix, list[tuple[int, int, int]]]:
        left = skewed_port(self.rows, folds, "left", since, t, self.stretch, self.pack)
        top = skewed_port(self.cols, folds, "top", since, t, self.stretch, self.pack)
        self.a, self.w = hop_right(self.a, left), hop_down(self.w, top)
        in_step = (self.a["fold"] == self.w["fold"]) & (self.a["step"] == self.w["step"])
        require(np.all(in_step | ((self.a["fold"] == EMPTY) & (self.w["fold"] == EMPTY))), "A and W out of step")
        leaving, drained = self._drain()
        finished = self.a_multiplier.step(self.a) & self.w_multiplier.step(self.w)
        a, w = self.a_multiplier.held, self.w_multiplier.held
        before = np.where(a["step"] == 0, 0, self.total)
        self.total = np.where(finished, before + (a["value"] * w["value"]).sum(axis=-1), self.total)
        self._capture(finished & a["last"], a["fold"], drained)
        self.a_multiplier.release()
        self.w_multiplier.release()
        return left["value"], top["value"], leaving

    def _drain(self) -> tuple[list[tuple[int, int, int]], NDArray[np.void]]:
        """Move every sum whose wait is over one row down; the bottom row leaves."""
        moves = (self.out["fold"] != EMPTY) & (self.out["wait"] == 0)
        leaving = [(int(self.out["fold"][-1, c]), int(c), int(self.out["value"][-1, c])) for c in np.flatnonzero(moves[-1])]
        stays, moved = self.out.copy(), self.out.copy()
        stays["fold"][moves], moved["fold"][~moves] = EMPTY, EMPTY
        stays["wait"] = np.maximum(stays["wait"] - 1, 0)
        moved = hop_down(moved, blank((self.cols,), self.out.dtype))
        require(not np.any((stays["fold"] != EMPTY) & (moved["fold"] != EMPTY)), "a draining sum ran into a waiting one")
        return leaving, np.where(moved["fold"] != EMPTY, moved, stays)

    def _capture(self, ready: NDArray[np.bool_], fold: Matrix, drained: NDArray[np.void]) -> None:
        """A finished sum enters its output register; row r waits for the rows below it, which finish later, one cycle each."""
        require(not np.any(ready & (drained["fold"] != EMPTY)), "a finished sum found its output register occupied")
        row = np.broadcast_to(np.arange(self.rows)[:, None], ready.shape)
        drained["fold"][ready], drained["value"][ready] = fold[ready], self.total[ready]
        drained["wait"][ready] = (self.rows - 1 - row)[ready]
        self.out = drained


class WeightStationary:
    """W waits in one of two banks of registers, A streams from the left, sums move down.

    Input stationary is this array with A and W exchanged.
    """

    def __init__(self, rows: int, cols: int, pack: int, stretch: int) -> None:
        self.rows, self.cols, self.pack, self.stretch = rows, cols, pack, stretch
        self.preload_cycles = rows
        self.x = blank((rows, cols), operand_dtype(pack))
        self.multiplier = Multipliers(rows, cols, pack, stretch)
        self.banks = blank((2, rows, cols), np.dtype([("fold", int), ("hops", int), ("value", np.int64, (pack,))]))
        self.psum = blank((rows, cols), np.dtype([("fold", int), ("step", int), ("value", np.int64)]))

    def step(self, t: int, folds: Sequence[Fold], since: dict[int, int]) -> tuple[Matrix, Matrix, list[tuple[int, int, int]]]:
        streaming = {index: start + self.preload_cycles for index, start in since.items()}
        left = skewed_port(self.rows, folds, "left", streaming, t, self.stretch, self.pack)
        self.x = hop_right(self.x, left)
        finished = self.multiplier.step(self.x)
        leaving = self._accumulate(finished)
        self.multiplier.release()
        return left["value"], self._preload(t, folds, since), leaving

    def _accumulate(self, finished: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """Add each finished product to the sum that comes from the row above; the bottom row's sums leave in the same cycle."""
        x = self.multiplier.held
        bank = np.take_along_axis(self.banks, (x["fold"] % 2)[None], axis=0)[0]
        require(np.all(~finished | ((bank["fold"] == x["fold"]) & (bank["hops"] == 0))), "a PE multiplied by another fold's operand")
        above = hop_down(self.psum, blank((self.cols,), self.psum.dtype))
        require(
            np.all(~finished[1:] | ((above["fold"] == x["fold"]) & (above["step"] == x["step"]))[1:]), "a sum missed its product"
        )
        self.psum = blank(self.psum.shape, self.psum.dtype)
        self.psum["fold"][finished], self.psum["step"][finished] = x["fold"][finished], x["step"][finished]
        self.psum["value"] = above["value"] + (x["value"] * bank["value"]).sum(axis=-1)
        return [(int(self.psum["fold"][-1, c]), int(c), int(self.psum["value"][-1, c])) for c in np.flatnonzero(finished[-1])]

    def _preload(self, t: int, folds: Sequence[Fold], since: dict[int, int]) -> Matrix:
        """Put W on the top port, the last row first, each column one cycle after its neighbour; an operand falls until it is at its row."""
        port = blank((2, self.cols), self.banks.dtype)
        for index, start in since.items():
            column = np.arange(self.cols)
            row = self.rows - 1 - (t - start - column)
            now = (row >= 0) & (row < self.rows)
            require(not np.any(now & (port["fold"] != EMPTY).any(axis=0)), "two folds on the top port")
            port["value"][index % 2, now] = folds[index].top[row[now], column[now]]
            port["fold"][index % 2, now], port["hops"][index % 2, now] = index, row[now] + 1
        falling = np.concatenate([port[:, None], self.banks[:, :-1]], axis=1)
        moves = (falling["fold"] != EMPTY) & (falling["hops"] > 0)
        falling["hops"] -= 1
        # A register that handed its operand down is empty, unless the next one follows.
        emptied = (self.banks["fold"] != EMPTY) & (self.banks["hops"] > 0)
        self.banks["fold"][emptied] = EMPTY
        self.banks = np.where(moves, falling, self.banks)
        return port["value"].sum(axis=0)


def _padded(matrix: Matrix, shape: tuple[int, int]) -> Matrix:
    return np.pad(matrix, [(0, want - have) for want, have in zip(shape, matrix.shape, strict=True)])


def _os_folds(problem: int, a: Matrix, w: Matrix, rows: int, cols: int, pack: int) -> list[Fold]:
    """Blocks of A's rows against blocks of W's columns, all of k in each fold."""
    depth = -(-a.shape[1] // pack) * pack
    blocks = []
    for i in range(0, a.shape[0], rows):
        for j in range(0, w.shape[1], cols):
            left = _padded(a[i : i + rows], (rows, depth)).reshape(rows, -1, pack)
            blocks.append(Fold(problem, i, j, left, _padded(w.T[j : j + cols], (cols, depth)).reshape(cols, -1, pack)))
    return blocks


def _ws_folds(problem: int, a: Matrix, w: Matrix, rows: int, cols: int, pack: int) -> list[Fold]:
    """Blocks of W, one over k and one over n, all of m streamed past each."""
    blocks = []
    for j in range(0, w.shape[1], cols):
        for i in range(0, w.shape[0], rows * pack):
            left = _padded(a.T[i : i + rows * pack], (rows * pack, a.shape[0])).reshape(rows, pack, -1).transpose(0, 2, 1)
            top = _padded(w[i : i + rows * pack, j : j + cols], (rows * pack, cols)).reshape(rows, pack, cols).transpose(0, 2, 1)
            blocks.append(Fold(problem, 0, j, left, top))
    return blocks


def play(
    dataflow: str,
    problems: Sequence[tuple[Matrix, Matrix]],
    rows: int,
    cols: int,
    intervals: Sequence[int] | None,
    pack: int = 1,
    stretch: int = 1,
    max_folds: int | None = None,
) -> Run:
    """Multiply A W for each of `problems`, back to back.

    `intervals`: cycles from the start of each fold to that of the next; None starts each fold when the array is empty (serial).
    """
    if dataflow == "is":
        exchanged = play("ws", [(w.T, a.T) for a, w in problems], rows, cols, intervals, pack, stretch, max_folds)
        exchanged.products = [product.T for product in exchanged.products]
        return exchanged
    cut, array_kind = (_os_folds, OutputStationary) if dataflow == "os" else (_ws_folds, WeightStationary)
    folds = [fold for index, (a, w) in enumerate(problems) for fold in cut(index, a, w, rows, cols, pack)][:max_folds]
    array = array_kind(rows, cols, pack, stretch)
    run = Run([np.zeros((a.shape[0], w.shape[1]), np.int64) for a, w in problems])
    written = [np.zeros(product.shape, bool) for product in run.products]
    per_column = [rows if dataflow == "os" else fold.steps for fold in folds]
    left_array = [np.zeros(cols, int) for _ in folds]
    in_flight: dict[int, int] = {}
    t = 0
    while len(run.starts) < len(folds) or in_flight:
        if len(run.starts) < len(folds) and _due(t, run.starts, in_flight, intervals):
            in_flight[len(run.starts)] = t
            run.starts.append(t)
        left, top, leaving = array.step(t, folds, in_flight)
        run.left_reads += np.count_nonzero(left)
        run.top_reads += np.count_nonzero(top)
        if left[0].any():
            run.stream_begin = t if run.stream_begin == EMPTY else run.stream_begin
            run.stream_end = t + stretch
        for index, column, value in leaving:
            fold, order = folds[index], int(left_array[index][column])
            left_array[index][column] += 1
            row = fold.row + (rows - 1 - order if dataflow == "os" else order)
            product, seen = run.products[fold.problem], written[fold.problem]
            if row < product.shape[0] and fold.col + column < product.shape[1]:
                run.psum_reads += int(seen[row, fold.col + column])
                run.psum_writes += 1
                product[row, fold.col + column] += value
                seen[row, fold.col + column] = True
            if np.all(left_array[index] == per_column[index]):
                del in_flight[index]
        t += 1
    run.cycles = t
    return run


def _due(t: int, starts: Sequence[int], in_flight: dict[int, int], intervals: Sequence[int] | None) -> bool:
    if intervals is None or not starts:
        return not in_flight
    return t == starts[-1] + intervals[len(starts) - 1]


def tightest_intervals(
    dataflow: str, problems: Sequence[tuple[Matrix, Matrix]], rows: int, cols: int, folds: int, pack: int = 1, stretch: int = 1
) -> list[int]:
    """Intervals between the first `folds` folds, each the smallest that meets no hazard, found by trying.

    A fold's preload always ends as its stream begins. To preload earlier would gain nothing: its bank comes free, at the latest, as the
    stream of the fold before begins.
    """
    intervals: list[int] = []
    while len(intervals) < folds - 1:
        trials = (trial for trial in range(1, 100) if _plays(dataflow, problems, rows, cols, [*intervals, trial], pack, stretch))
        intervals.append(next(trials))
    return intervals


def _plays(
    dataflow: str, problems: Sequence[tuple[Matrix, Matrix]], rows: int, cols: int, intervals: list[int], pack: int, stretch: int
) -> bool:
    try:
        play(dataflow, problems, rows, cols, intervals, pack, stretch, max_folds=len(intervals) + 1)
    except Hazard:
        return False
    return True
