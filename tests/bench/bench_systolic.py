"""Shapes per second of the systolic formulas, median of several runs; the project asks for 1,000,000."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwmodels.formulas import systolic

SHAPES = 1_000_000
RUNS = 7


def tile_cycles(dataflow: str, shapes: NDArray[np.int64]) -> None:
    systolic.tile_cycles(dataflow, "overlapped", *shapes)


def everything(dataflow: str, shapes: NDArray[np.int64]) -> None:
    """All that the gemm command prints: folds, cycles, phases, utilisation, mapping efficiency, accesses."""
    systolic.folds(dataflow, *shapes)
    systolic.tile_phases(dataflow, "overlapped", *shapes)
    systolic.utilisation(*shapes, systolic.alone_cycles(dataflow, "overlapped", *shapes))
    systolic.mapping_efficiency(dataflow, *shapes)
    systolic.sram_accesses(dataflow, *shapes)


def shapes_per_s(work: Callable[[str, NDArray[np.int64]], None], dataflow: str, shapes: NDArray[np.int64]) -> list[float]:
    rates = []
    for _ in range(RUNS):
        begin_s = time.perf_counter()
        work(dataflow, shapes)
        rates.append(shapes.shape[1] / (time.perf_counter() - begin_s))
    return rates


def main() -> None:
    shapes = np.random.default_rng(0).integers(1, [[256], [256], [8192], [8192], [8192]], (5, SHAPES))
    for work in (tile_cycles, everything):
        for dataflow in systolic.AXES:
            rates = shapes_per_s(work, dataflow, shapes)
            print(f"{work.__name__:12} {dataflow}  {statistics.median(rates):12,.0f} shapes/s  (slowest of {RUNS}: {min(rates):,.0f})")


if __name__ == "__main__":
    main()
