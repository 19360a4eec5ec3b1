"""How long the dashboard takes: `python -m tests.bench.bench_dashboard`.

Writing is measured in a fresh process whose modules are compiled, as pip leaves them, in processor seconds and in wall-clock seconds;
the page in a headless Chromium without a GPU, which draws everything on the processor and has just been started. Times of a page count from
the start of its loading. Prints medians.

* usable: controls, sliders, totals, op table and op graph answer; figures are not drawn yet.
* interactive: besides, the first figure, the roofline, is drawn and shown, and answers a pointer. The longest task that begins after it is
  how long an input may wait from then on.
* bare: a page with nothing but Plotly's file, as its own documentation embeds it, and one figure of three points, in the same run.
* hover: from the pointer's move over a figure of the sweep until the chip under it stands in the page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import plotly

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

ROUNDS = 3


def write(page: Path, *more: str) -> tuple[float, float]:
    """Processor and wall-clock seconds of one page."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", WRITE, str(page), *more], capture_output=True, text=True, check=True, env=environment)
    processor_s, wall_s, torch = done.stdout.rpartition("FIGURES")[2].split()
    assert torch == "False"
    return float(processor_s), float(wall_s)


BARE = """\
<!DOCTYPE html><html><head><meta charset="utf-8"></head><body><div id="figure" style="width: 800px; height: 500px"></div>
<script>{plotly}</script>
<script>Plotly.newPlot("figure", [{{ x: [1, 2, 3], y: [1, 3, 2], mode: "markers" }}], {{}}).then(() => {{
  document.body.dataset.interactive = document.body.dataset.ready = performance.now();
}});</script></body></html>
"""

WATCH = """
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries())).observe({ type: 'longtask', buffered: true });
"""

LONGEST = """
  const since = Number(document.body.dataset.interactive);
  return Math.max(0, ...window.tasks.map((task) => (task.startTime >= since ? task.duration : 0)));
"""

SLIDE = "const s = document.getElementById('slider-clock'); s.value = arguments[0]; s.dispatchEvent(new Event('input')); return 0"

HOVER = """
  const done = arguments[arguments.length - 1], holder = document.getElementById('sweep-point');
  let moved = null;
  document.addEventListener('mousemove', (event) => { moved ??= event.timeStamp; }, { capture: true, once: true });
  new MutationObserver((_, own) => { own.disconnect(); window.answered = performance.now() - moved; }).observe(holder, { childList: true });
  done();
"""

PLACES = """
  const figure = document.getElementById('front'), x = figure._fullLayout.xaxis, y = figure._fullLayout.yaxis;
  const cloud = figure.data[0], found = [];
  figure.scrollIntoView();
  const now = figure.getBoundingClientRect();
  for (let k = 0; k < arguments[0]; k++) {
    const i = Math.floor((cloud.x.length * (k + 0.5)) / arguments[0]);
    found.push([now.left + x._offset + x.d2p(cloud.x[i]), now.top + y._offset + y.d2p(cloud.y[i])]);
  }
  return found;
"""


def look(page: Path, folder: Path) -> dict[str, float]:
    """Medians over rounds: when the page can be used, when all is drawn [ms], what an input waits for at most, what a slider step takes."""
    found: dict[str, list[float]] = {}
    for i in range(ROUNDS):
        with opened(page, folder / f"round{i}{page.stem}", before=WATCH) as driver:
            for name in ("usable", "interactive", "ready"):
                stamp = driver.execute_script("return document.body.dataset[arguments[0]] || null", name)
                if stamp is not None:
                    found.setdefault(name, []).append(float(stamp))
            found.setdefault("task", []).append(float(driver.execute_script(LONGEST)))
            metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            found.setdefault("cpu", []).append(1e3 * next(each["value"] for each in metrics if each["name"] == "TaskDuration"))
            if driver.execute_script("return document.getElementById('slider-clock') !== null"):
                for position in range(6, 18):
                    driver.execute_script(SLIDE, position)
                    found.setdefault("step", []).append(float(driver.execute_script("return document.body.dataset.step_ms")))
            if driver.execute_script("return document.getElementById('front')?.data !== undefined"):
                found.setdefault("hover", []).extend(hovers(driver))
    return {name: median(values) for name, values in found.items()}


def hovers(driver: Any) -> list[float]:
    """Milliseconds until the chip under the pointer is shown, for points all over the cloud."""
    taken = []
    for x, y in driver.execute_script(PLACES, 12):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 2, "y": 2})
        time.sleep(0.3)
        driver.execute_async_script(HOVER)
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        time.sleep(0.7)
        answered = driver.execute_script("const found = window.answered; window.answered = undefined; return found ?? null")
        if answered is not None:
            taken.append(float(answered))
    return taken


def told(name: str, figures: dict[str, float], bare: dict[str, float]) -> None:
    usable, interactive, ready = (f"{figures[each] / 1e3:.2f} s" for each in ("usable", "interactive", "ready"))
    print(f"{name}: usable after {usable}, interactive after {interactive}, all drawn after {ready} (wall clock)")
    ratio, least = figures["interactive"] / bare["interactive"], bare["interactive"] / 1e3
    print(f"  interactive {ratio:.2f} x bare Plotly's {least:.2f} s")
    print(f"  main thread {figures['cpu']:.0f} ms of processor until all is drawn, bare Plotly's {bare['cpu']:.0f}")
    print(f"  longest task after it was interactive {figures['task']:.0f} ms; a slider step recomputes in {figures['step']:.1f} ms")
    if "hover" in figures:
        print(f"  a hover over the sweep is answered in {figures['hover']:.0f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, explorer = folder / "plain.html", folder / "sweep.html"
        write(plain)  # compiles the modules
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
        blank = folder / "bare.html"
        library = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        blank.write_text(BARE.format(plotly=library.replace("</script", "<\\/script")))
        bare = look(blank, folder)
        for name, page in (("one model, one chip", plain), ("with the sweep", explorer)):
            told(name, look(page, folder), bare)


if __name__ == "__main__":
    main()
