"""Points per second of a sweep over bandwidth x rate x SRAM with the roofline, in memory and into Parquet, on one core; and of `solve`.

The project asks for 4,000,000 points/s in memory, 1,000,000 points/s into Parquet, 10,000,000 points in 25 s and 1 GB, and 1 s for `solve`.
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
    begin_s = time.perf_counter()
    solve("llama-3.2-3b", "edge-npu", "30 tok/s", "memory.dram.bandwidth", context=4096, engine="roofline")
    print(f"solve: {time.perf_counter() - begin_s:.2f} s")


if __name__ == "__main__":
    main()
