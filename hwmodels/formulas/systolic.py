"""Systolic array of `rows` x `cols` PEs computing C[m, n] = A[m, k] W[k, n]: folds, cycles, utilisation, SRAM accesses.

One axis lies over the rows of the array, one over its columns, the third is streamed (`AXES`). What is larger than the array is cut into
folds. Every function broadcasts over integers and int64 arrays alike; lengths count elements and are at least 1.

**Physical mode** (what the engines charge) describes the register-level array that the tests play hop by hop. A fold alone takes
T + 2 rows + cols - 2 cycles, T its streamed length: the analytical model of Samajdar et al., "A Systematic Methodology for Characterizing
Scalability of DNN Accelerators using SCALE-Sim", ISPASS 2020, doi:10.1109/ISPASS48437.2020.00016. What is beyond it:

* os: operands enter skewed from the left and the top; the last PE is done in T + rows + cols - 2; then the sums of a column leave through
  the bottom, one row per cycle: rows more. Each PE has an accumulator and an output register, its link of the column's drain chain.
* ws, is: rows cycles of preload through the top, then the stream from the left; sums move down, the last leaves T + rows + cols - 2 later.
  Each PE has two stationary registers, used in turn by consecutive folds.
* preload `overlapped`: consecutive folds start max(T, rows) cycles apart. The stream occupies the left ports for T cycles; the stationary
  operand (ws, is) or the drain (os) occupies the one port of each column for rows cycles. Skews travel with the data and cost nothing.
* preload `serial`: a fold begins (for os too) when the last sum of the one before has left.
* A fold at the edge takes as long as a full one: the sequencer is fixed, unused rows and columns carry zeros. Only T is never padded.
* `rate` MACs per PE and cycle. rate >= 1 packs `rate` neighbours along k into one operand of a PE, with ports and registers as much wider:
  the array sees ceil(k / rate). rate < 1: a product takes 1 / rate cycles and operands enter that far apart, but still hop once per cycle.
  A rate that is neither whole nor one over a whole number is an average throughput.

A sequence of tiles, back to back, takes sum(tile_cycles) + alone_cycles(e) - tile_cycles(e), where e is its first tile for os (the drains
of the others hide behind a stream) and its last for ws and is (the preloads of the others do), whatever the lengths of the tiles.

**scalesim mode** (`scalesim_*`) reproduces what SCALE-Sim 3.0.0 (arXiv:2504.15377) prints: no drain for os, and folds never overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from hwmodels.formulas.elementwise import larger, smaller

Count: TypeAlias = int | NDArray[np.int64]
Number: TypeAlias = float | NDArray[np.float64]
Preload: TypeAlias = Literal["overlapped", "serial"]

AXES: Mapping[str, tuple[str, str, str]] = MappingProxyType({"os": ("m", "n", "k"), "ws": ("k", "n", "m"), "is": ("k", "m", "n")})
"""Dataflow: (axis over the rows, axis over the columns, streamed axis)."""

# k / 0.7 lands one unit in the last place above a whole number for some k: without this a cycle would be charged for rounding alone.
_ROUNDING_GUARD = 1 - 2**-50


class TilePhases(NamedTuple):
    """Cycles of one tile alone: until its first streamed operand enters, while operands stream, from then until the last sum has left."""

    fill_cycles: Count
    steady_cycles: Count
    drain_cycles: Count


class SramAccesses(NamedTuple):
    """Elements (unpadded) that the array exchanges with its SRAM; a finished result counts as the last write of its partial sum."""

    a_reads: Count
    w_reads: Count
    psum_reads: Count
    psum_writes: Count


def ceil_div(dividend: Count, divisor: Count) -> Count:
    """Quotient of two counts, rounded up. Float64 arrays of whole numbers below 2^52 take a fifth of the time of int64 ones: no quotient of
    such is rounded to or past another whole number."""
    if isinstance(dividend, ndarray) and dividend.dtype.kind == "f":
        return np.ceil(dividend / divisor)
    return -(-dividend // divisor)


def floor_div(dividend: Count, divisor: Count) -> Count:
    """The same rounded down."""
    return np.floor(dividend / divisor) if _is_float(dividend) else dividend // divisor


def _is_float(count: Any) -> bool:
    return isinstance(count, np.ndarray) and count.dtype.kind == "f"


def whole_cycles(cycles: Any) -> Count:
    """Cycles rounded up to a whole number: int for a scalar, int64 array for an array; rounding errors of a quotient are forgiven."""
    if isinstance(cycles, int) or (isinstance(cycles, np.ndarray) and cycles.dtype.kind == "i"):
        return cycles
    guarded = cycles * _ROUNDING_GUARD
    return np.ceil(guarded).astype(np.int64) if isinstance(guarded, np.ndarray) else math.ceil(guarded)


def paced(count: Count, rate: Number) -> Count:
    """Cycles that so many operands take at a rate, or packs of so many in each."""
    if not isinstance(rate, ndarray) and rate == 1:
        return count
    return np.ceil(count / rate * _ROUNDING_GUARD) if _is_float(count) else whole_cycles(count / rate)


def folds(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> Count:
    """Fillings of the array that the problem takes."""
    over_rows, over_cols, _ = _extents(dataflow, m, n, _packed_depth(k, rate))
    return ceil_div(over_rows, rows) * ceil_div(over_cols, cols)


def stream_cycles(dataflow: str, m: Count, n: Count, k: Count, rate: Number = 1) -> Count:
    """T, the cycles in which one fold's operands enter the array."""
    if dataflow not in AXES:
        raise _unknown(dataflow)
    name = AXES[dataflow][2]
    streamed = _packed_depth(k, rate) if name == "k" else m if name == "m" else n
    return paced(streamed, smaller(rate, 1))


def drain_cycles(dataflow: str, rows: Count, cols: Count) -> Count:
    """Cycles from the last streamed operand until the last sum has left: through the rows and columns (see above), with "os" down a column
    besides."""
    return rows + cols - 2 + (rows if dataflow == "os" else 0)


def fold_interval_cycles(
    dataflow: str, preload: Preload, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1
) -> Count:
    """Cycles between the starts of two consecutive folds of the same length."""
    least, more = interval_terms(preload, rows, cols)
    return whole_cycles(larger(stream_cycles(dataflow, m, n, k, rate), least)) + more


def interval_terms(preload: Preload, rows: Count, cols: Count) -> tuple[Count, Count]:
    """What the interval between folds adds to the cycles in which the streamed operands enter: it is at least the first, and the second
    longer."""
    match preload:
        case "overlapped":
            return rows, 0
        case "serial":
            return 0, fill_and_drain_cycles(rows, cols)
    raise ValueError(f"preload is {preload!r}; it must be 'overlapped' or 'serial'")


def fill_and_drain_cycles(rows: Count, cols: Count) -> Count:
    """What a fold that has the array to itself takes besides the cycles in which its streamed operands enter, with any dataflow."""
    return 2 * rows + cols - 2


def tile_cycles(dataflow: str, preload: Preload, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> Count:
    """Array cycles that a tile occupies between neighbours of its own dataflow: its folds at their interval."""
    return folds(dataflow, rows, cols, m, n, k, rate) * fold_interval_cycles(dataflow, preload, rows, cols, m, n, k, rate)


def tile_phases(dataflow: str, preload: Preload, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> TilePhases:
    """Fill, steady and drain cycles of a tile that has the array to itself."""
    interval = fold_interval_cycles(dataflow, preload, rows, cols, m, n, k, rate)
    steady = (folds(dataflow, rows, cols, m, n, k, rate) - 1) * interval + stream_cycles(dataflow, m, n, k, rate)
    fill = 0 * rows if dataflow == "os" else rows
    return TilePhases(fill, steady, drain_cycles(dataflow, rows, cols))


def alone_cycles(dataflow: str, preload: Preload, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> Count:
    """Cycles of a tile that has the array to itself, from its first preloaded or streamed operand until its last sum has left."""
    fill, steady, drain = tile_phases(dataflow, preload, rows, cols, m, n, k, rate)
    return fill + steady + drain


def utilisation(rows: Count, cols: Count, m: Count, n: Count, k: Count, cycles: Count | Number, rate: Number = 1) -> Number:
    """Useful MACs over the MACs that the array could do in `cycles`."""
    return m * n * k / (rows * cols * rate * cycles)


def mapping_efficiency(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> Number:
    """Share of the PEs that hold useful elements, mean over the folds."""
    over_rows, over_cols, _ = _extents(dataflow, m, n, _packed_depth(k, rate))
    return over_rows * over_cols / (folds(dataflow, rows, cols, m, n, k, rate) * rows * cols)


def sram_accesses(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count, rate: Number = 1) -> SramAccesses:
    """Elements read and written by all folds of a tile: what is stationary is read once, what streams once per fold across the other axis.

    ws and is add the partial sums of consecutive k folds in SRAM. A tile that continues the sums of an earlier one reads m x n psums more.
    """
    k_folds = ceil_div(_packed_depth(k, rate), rows)
    match dataflow:
        case "os":
            return SramAccesses(m * k * ceil_div(n, cols), k * n * ceil_div(m, rows), 0 * m * n, m * n)
        case "ws":
            return SramAccesses(m * k * ceil_div(n, cols), k * n, m * n * (k_folds - 1), m * n * k_folds)
        case "is":
            return SramAccesses(m * k, k * n * ceil_div(m, cols), m * n * (k_folds - 1), m * n * k_folds)
    raise _unknown(dataflow)


def scalesim_fold_cycles(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count) -> Count:
    """Cycles that SCALE-Sim charges per fold; its os has no drain."""
    preload = 0 if dataflow == "os" else rows
    return preload + stream_cycles(dataflow, m, n, k) + rows + cols - 2


def scalesim_compute_cycles(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count) -> Count:
    """Cycles of all folds, one after another."""
    return folds(dataflow, rows, cols, m, n, k) * scalesim_fold_cycles(dataflow, rows, cols, m, n, k)


def scalesim_reported_cycles(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count) -> Count:
    """Total that SCALE-Sim prints: the index of the last cycle, one less than their number (its open issue 125)."""
    return scalesim_compute_cycles(dataflow, rows, cols, m, n, k) - 1


def scalesim_utilisation(dataflow: str, rows: Count, cols: Count, m: Count, n: Count, k: Count) -> Number:
    """Utilisation that SCALE-Sim prints (there in percent): over its reported cycles, hence above 1 where one PE never waits."""
    return utilisation(rows, cols, m, n, k, scalesim_reported_cycles(dataflow, rows, cols, m, n, k))


def _extents(dataflow: str, m: Count, n: Count, k: Count) -> tuple[Count, Count, Count]:
    """Lengths over the rows, over the columns, and streamed."""
    if dataflow not in AXES:
        raise _unknown(dataflow)
    lengths = {"m": m, "n": n, "k": k}
    over_rows, over_cols, streamed = AXES[dataflow]
    return lengths[over_rows], lengths[over_cols], lengths[streamed]


def _packed_depth(k: Count, rate: Number) -> Count:
    """Operands along k after `rate` neighbours were packed into one."""
    return paced(k, larger(rate, 1))


def _unknown(dataflow: str) -> ValueError:
    return ValueError(f"dataflow is {dataflow!r}; it must be one of {', '.join(AXES)}")
