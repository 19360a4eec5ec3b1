"""Points per second of a sweep over bandwidth x rate x SRAM with the roofline, in memory and into Parquet, on one core; of sweeps with
tiled; of two workers against one; and of `solve`.

The project asks for 4,000,000 points/s in memory, 1,000,000 points/s into Parquet, 10,000,000 points in 25 s and 1 GB, and 1 s for `solve`;
with tiled for 2,000 points/s over bandwidth x clock, 100 where SRAM varies and 40 where the array does; of two workers 1.7 times one.
Rates of tiled are of processor time, the others of the clock on the wall: measure on an idle machine.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sim.explore.solve import solve
from sim.explore.sweep import sweep
from sim.explore.sweep_file import load_sweep
from sim.explore.sweep_rows import Evaluator

RUNS = 3
SWEEP = """
base: edge-npu
axes:
  memory.dram.bandwidth: {{from: 25 GB/s, to: 400 GB/s, steps: {bandwidths}, scale: log}}
  matrix.rates.int8: {{from: 0.5, to: 8, steps: 200}}
  memory.sram.capacity: {{from: 256 KiB, to: 64 MiB, steps: 250, scale: log}}
workloads: [{{model: llama-3.2-1b, phase: {phase}}}]
constraints: [fits, "latency_s < 100 ms"]
engine: roofline
"""


TILED = """
base: edge-npu
axes:
{axes}
workloads: [{{model: llama-3.2-1b, phase: {phase}}}]
engine: tiled
"""
_BANDWIDTH = "  memory.dram.bandwidth: {{from: 25 GB/s, to: 400 GB/s, steps: {}, scale: log}}\n"
TILED_AXES = {
    "bandwidth x clock": _BANDWIDTH.format(64) + "  clock: {from: 0.5 GHz, to: 2 GHz, steps: 64}",
    "SRAM": "  memory.sram.capacity: {from: 256 KiB, to: 16 MiB, steps: 400, scale: log}",
    "array": "  matrix.rows: [8, 16, 24, 32, 48, 64]\n  matrix.cols: [8, 16, 24, 32, 48, 64]",
}


def tiled(file: Path) -> float:
    """Points per second of processor time."""
    asked = load_sweep(file)
    begin_s = time.process_time()
    evaluator = Evaluator(asked)
    for number in range(evaluator.grid.boxes):
        evaluator.results(evaluator.grid.box(number))
    return asked.points / (time.process_time() - begin_s)


def with_workers(file: Path, out: Path, workers: int) -> float:
    """Seconds from the first chunk to the last on so many processes: starting them is left out."""
    told: list[float] = []
    sweep(file, out, overwrite=True, workers=workers, progress=lambda done, of: told.append(time.perf_counter()))
    return told[-1] - told[1]


def in_memory(file: Path) -> float:
    """Points per second: latency, floor, bound and constraint of every point, as arrays."""
    asked = load_sweep(file)
    begin_s = time.perf_counter()
    evaluator = Evaluator(asked)
    for number in range(evaluator.grid.boxes):
        evaluator.results(evaluator.grid.box(number))
    return asked.points / (time.perf_counter() - begin_s)


def into_parquet(file: Path, out: Path) -> tuple[int, float]:
    """Points, and points per second, from the sweep file to the finished result."""
    begin_s = time.perf_counter()
    points = sweep(file, out, overwrite=True).points
    return points, points / (time.perf_counter() - begin_s)


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "sweep.yaml"), Path(folder, "r.parquet")
        for phase in ("decode", "prefill"):
            file.write_text(SWEEP.format(bandwidths=40, phase=phase), encoding="utf-8")
            print(f"{phase}, in memory: {statistics.median(in_memory(file) for _ in range(RUNS)):,.0f} points/s")
            print(f"{phase}, into Parquet: {statistics.median(into_parquet(file, out)[1] for _ in range(RUNS)):,.0f} points/s")
        file.write_text(SWEEP.format(bandwidths=200, phase="prefill"), encoding="utf-8")
        points, rate = into_parquet(file, out)
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        row_bytes = out.stat().st_size / points
        print(f"{points:,} points into Parquet: {points / rate:.1f} s, {peak_bytes / 1e9:.2f} GB, {row_bytes:.2f} bytes per row")
        for name, axes in TILED_AXES.items():
            for phase in ("decode", "prefill"):
                file.write_text(TILED.format(axes=axes, phase=phase), encoding="utf-8")
                print(f"tiled over {name}, {phase}: {statistics.median(tiled(file) for _ in range(RUNS)):,.0f} points/s")
    begin_s = time.perf_counter()
    solve("llama-3.2-3b", "edge-npu", "30 tok/s", "memory.dram.bandwidth", context=4096, engine="roofline")
    print(f"solve: {time.perf_counter() - begin_s:.2f} s")
    two_workers()


def two_workers() -> None:
    """One worker against two, on as many cores as there are."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "sweep.yaml"), Path(folder, "r.parquet")
        file.write_text(SWEEP.format(bandwidths=200, phase="prefill"), encoding="utf-8")
        one_s, two_s = (with_workers(file, out, workers) for workers in (1, 2))
        print(f"two workers: {one_s / two_s:.2f} times one")


if __name__ == "__main__":
    main()
