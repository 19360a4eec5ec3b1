"""How long the dashboard takes: `python -m tests.bench.bench_dashboard`.

Writing is measured in a fresh process, in processor seconds and in wall-clock seconds; the page in a headless Chromium without a GPU, which
draws everything on the processor. Prints medians.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.browser import browser_path, opened

WRITE = """
import resource, sys, time
begin = time.perf_counter()
from sim.cli import main
sys.argv = ["rooftile", "dashboard", "llama-3.2-1b", "--chip", "edge-npu", "--out", sys.argv[1], *sys.argv[2:]]
try:
    main()
except SystemExit:
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
print("FIGURES", used.ru_utime + used.ru_stime, time.perf_counter() - begin, "torch" in sys.modules)
"""

SWEEP = """\
base: edge-npu
axes:
  memory.dram.bandwidth: {from: 25 GB/s, to: 400 GB/s, steps: 50, scale: log}
  matrix.rows: [16, 24, 32, 48, 64]
  matrix.cols: [16, 24, 32, 48, 64]
  memory.sram.capacity: [1 MiB, 2 MiB, 4 MiB, 8 MiB, 16 MiB]
  clock: {from: 0.5 GHz, to: 2 GHz, steps: 16, scale: linear}
workloads: [{model: llama-3.2-1b, phase: prefill, prompt: 512}]
engine: roofline
objectives: [latency_s, memory.dram.bandwidth]
"""

ROUNDS = 5


def write(page: Path, *more: str) -> tuple[float, float]:
    """Processor and wall-clock seconds of one page."""
    done = subprocess.run([sys.executable, "-c", WRITE, str(page), *more], capture_output=True, text=True, check=True)
    processor_s, wall_s, torch = done.stdout.rpartition("FIGURES")[2].split()
    assert torch == "False"
    return float(processor_s), float(wall_s)


def look(page: Path, folder: Path) -> None:
    """When the page can be used, when all is drawn, and what a slider step takes."""
    interactive, ready, steps = [], [], []
    for i in range(ROUNDS):
        with opened(page, folder / f"round{i}{page.stem}") as driver:
            interactive.append(float(driver.execute_script("return document.body.dataset.interactive")))
            ready.append(float(driver.execute_script("return document.body.dataset.ready")))
            for position in range(6, 18):
                script = "const s = document.getElementById('slider-clock'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
                driver.execute_script(f"{script} return 0", position)
                steps.append(float(driver.execute_script("return document.body.dataset.step_ms")))
    print(f"  interactive after {median(interactive) / 1e3:.2f} s, all drawn after {median(ready) / 1e3:.2f} s (wall clock)")
    print(f"  a slider step recomputes in {median(steps):.1f} ms (slowest {max(steps):.1f})")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, explorer = folder / "plain.html", folder / "sweep.html"
        figures = [write(plain) for _ in range(ROUNDS)]
        print(f"one model, one chip: {plain.stat().st_size / 1e6:.2f} MB")
        print(f"  written in {median(f[0] for f in figures):.2f} s of processor, {median(f[1] for f in figures):.2f} s of wall clock")
        (folder / "sweep.yaml").write_text(SWEEP)
        from sim import sweep

        sweep(folder / "sweep.yaml", folder / "sweep.parquet")
        processor_s, wall_s = write(explorer, "--sweep", str(folder / "sweep.parquet"))
        print(f"with a sweep of 100,000 points: {explorer.stat().st_size / 1e6:.2f} MB")
        print(f"  written in {processor_s:.2f} s of processor, {wall_s:.2f} s of wall clock")
        if browser_path() is None:
            print("no browser: the page is not looked at")
            return
        for page in (plain, explorer):
            print(page.stem)
            look(page, folder)


if __name__ == "__main__":
    main()
