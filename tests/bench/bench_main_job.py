"""What tracing, predicting and sweeping cost: median (and best) of several runs against the bounds that the project sets itself.

Bounds are for one core of an idle machine; the clock of a shared one may halve. `python -m tests.bench.bench_main_job`
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from hwmodels import load_chip, with_values
from sim import load_model, predict_graph, roofline_grid, trace_model
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

RUNS = 15
IMPORTS = "import numpy, networkx, pydantic, yaml"
COLD = """
import sys
from sim.cli import main
sys.argv = "rooftile predict llama-3.2-1b --chip a100-sxm4-80gb --engine roofline".split()
main()
"""


def seconds(work: Callable[[], object], runs: int = RUNS) -> list[float]:
    taken = []
    for _ in range(runs):
        begin_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin_s)
    return taken


def report(name: str, taken_s: list[float], bound_s: float, unit: str = "ms", scale: float = 1e3) -> None:
    median_s = statistics.median(taken_s)
    verdict = "ok" if median_s <= bound_s else "MISSED"
    print(f"{name:52} {median_s * scale:9.2f} {unit}  best {min(taken_s) * scale:9.2f}  bound {bound_s * scale:9.2f}  {verdict}")


def fresh(code: str) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a fresh interpreter that runs some code."""
    begin_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    taken_s = time.perf_counter() - begin_s
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return taken_s, usage.ru_maxrss / 1024


def bench_cold_command() -> None:
    """In turns, so that both see the same machine."""
    pairs = [(fresh(IMPORTS), fresh(COLD)) for _ in range(9)]
    ratios = [command[0] / imports[0] for imports, command in pairs]
    report("rooftile predict llama-3.2-1b, cold", ratios, 2.3, "x imports", 1)
    report("  peak memory", [command[1] for _, command in pairs], 110, "MB", 1)


def bench_tracing() -> None:
    config, scenario = load_model("llama-3.2-3b"), Scenario.prefill(Formats.of("bf16"))
    report("trace llama-3.2-3b", seconds(lambda: trace(config, scenario)), 15e-3)


def bench_prediction() -> None:
    graph, chip = trace_model("llama-3.2-3b"), load_chip("a100-sxm4-80gb")

    def warm() -> object:
        return list(predict_graph(graph, chip, "roofline").rows())

    def unshared() -> object:
        graph.memo.clear()
        return warm()

    report("predict llama-3.2-3b with all rows", seconds(warm), 5e-3)
    unshared_s = seconds(unshared)
    print(f"  {statistics.median(unshared_s) * 1e3:.2f} ms for the first chip, when the graph's groups are not known yet")


def bench_decode_curve() -> None:
    contexts, chip, formats = np.arange(1, 4097), load_chip("a100-sxm4-80gb"), Formats.of("bf16")
    for model in ("llama-3.2-1b", "llama-3.2-3b"):
        config = load_model(model)
        taken_s = seconds(lambda config=config: roofline_grid(trace(config, Scenario.decode(formats, 1, contexts)), chip))  # type: ignore[misc]
        report(f"decode curve of {model}, 4096 contexts", taken_s, 50e-3)


def bench_million_chips() -> None:
    many, rng = 1_000_000, np.random.default_rng(0)
    chips = with_values(
        load_chip("edge-npu"),
        {
            "memory.dram.bandwidth": rng.uniform(25e9, 400e9, many),
            "matrix.rates.int8": rng.uniform(1, 4, many),
            "memory.sram.capacity": rng.uniform(2**16, 2**24, many).round(),
        },
    )
    for phase in ("decode", "prefill"):
        graph = trace_model("llama-3.2-1b", "int8", phase=phase)  # type: ignore[arg-type]
        taken_s = seconds(lambda graph=graph: roofline_grid(graph, chips), 7)  # type: ignore[misc]
        report(f"roofline of 1e6 chips, llama-3.2-1b {phase}", taken_s, 0.25)
        print(f"  {many / statistics.median(taken_s) / 1e6:.1f} million chips per second")


def main() -> None:
    bench_cold_command()
    bench_tracing()
    bench_prediction()
    bench_decode_curve()
    bench_million_chips()
    print(f"peak memory of this script: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
