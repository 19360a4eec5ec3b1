"""What the cycle engine costs for all layers and lm_head of Llama 3.2 1B, each step in fresh processes: CPU and wall seconds of the
prediction (imports apart, which are shown too) and peak resident memory, against the bounds that the project sets itself.

Bounds are for one core of an idle machine. `python -m tests.bench.bench_cycle`
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

RUNS = 5
PEAK_BYTES = 300e6
CHIPS_S = {"edge-npu": 1.0, "a100-sxm4-80gb": 1.0, "gemmini-default": 5.0}
STEPS = {"decode, context 1,024": {"phase": "decode", "context": 1024}, "prefill, prompt 512": {"phase": "prefill", "prompt": 512}}
STEP = """
import json, resource, sys, time
from sim import predict
imported_s, begin_s = time.process_time(), time.perf_counter()
predict("llama-3.2-1b", sys.argv[1], engine="cycle", **json.loads(sys.argv[2]))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.process_time() - imported_s, time.perf_counter() - begin_s, imported_s, usage.ru_maxrss * 1024]))
"""


def fresh(chip: str, step: dict[str, object]) -> tuple[float, float, float, float]:
    """CPU and wall seconds of one prediction, CPU seconds before it, and peak resident bytes of its process."""
    told = subprocess.run([sys.executable, "-c", STEP, chip, json.dumps(step)], check=True, capture_output=True, text=True).stdout
    cpu_s, wall_s, imported_s, peak_bytes = json.loads(told)
    return cpu_s, wall_s, imported_s, peak_bytes


def main() -> None:
    print(f"{'':40} {'CPU':>8} {'best':>8} {'wall':>8} {'imports':>8} {'bound':>8} {'peak':>8}   (medians of {RUNS})")
    for chip, bound_s in CHIPS_S.items():
        for name, step in STEPS.items():
            runs = [fresh(chip, step) for _ in range(RUNS)]
            cpu_s, wall_s, imported_s, peak_bytes = (statistics.median(column) for column in zip(*runs, strict=True))
            best_s = min(run[0] for run in runs)
            verdict = "ok" if cpu_s <= bound_s and peak_bytes <= PEAK_BYTES else "MISSED"
            times = " ".join(f"{each:6.2f} s" for each in (cpu_s, best_s, wall_s, imported_s, bound_s))
            print(f"{chip + ', ' + name:40} {times} {peak_bytes / 1e6:5.0f} MB  {verdict}", flush=True)


if __name__ == "__main__":
    main()
