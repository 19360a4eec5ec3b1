"""What predicting a generation of 1000 tokens costs, against the bounds that the project sets itself.

Bounds are for one core of an idle machine; times are those of the process. `python -m tests.bench.bench_generation [ENGINE ...]`
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from hwmodels import load_chip
from sim import Speculation, load_model, predict_generation
from sim.explore.generation import Generation

BOUNDS_S = {"roofline": 50e-3, "tiled": 3.0, "cycle": 3.0}
DRAFT, CHUNK = {"speculation": Speculation("llama-3.2-1b")}, {"chunk": 256}
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama-3.2-1b", "edge-npu", {}),
    ("llama-3.2-3b", "edge-npu", {}),
    ("llama-3.2-1b", "a100-sxm4-80gb", {}),
    ("llama-3.2-1b", "cloud-npu", {}),
    ("llama-3.2-1b", "edge-npu", CHUNK),
    ("llama-3.2-3b", "edge-npu", DRAFT),
    ("llama-3.2-3b", "cloud-npu", DRAFT),
    ("llama-3.2-3b", "tpu-v4i", DRAFT),
    ("llama-3.2-3b", "gemmini-default", DRAFT),
    ("llama-3.2-3b", "a100-sxm4-80gb", DRAFT),
    ("llama-3.2-3b", "edge-npu", DRAFT | CHUNK),
)
RUNS = {"roofline": 9, "tiled": 1, "cycle": 1}


def seconds(model: str, chip: str, engine: str, how: dict[str, Any]) -> list[float]:
    """Process seconds of some runs, each from a configuration and a chip that are loaded."""
    config, built, taken = load_model(model), load_chip(chip), []
    for _ in range(RUNS[engine]):
        begin_s = time.process_time()
        found: Generation = predict_generation(config, built, tokens=1000, prompt=512, engine=engine, **how)
        taken.append(time.process_time() - begin_s)
        assert len(found.token_latency_s) == 1000
    return taken


def main(engines: list[str]) -> None:
    for engine in engines or BOUNDS_S:
        for model, chip, how in CASES:
            taken_s = seconds(model, chip, engine, how)
            median_s, bound_s = statistics.median(taken_s), BOUNDS_S[engine]
            verdict = "ok" if median_s <= bound_s else "MISSED"
            name = f"1000 tokens of {model} on {chip}, {engine}" + "".join(f", {what}" for what in how)
            print(f"{name:60} {median_s * 1e3:9.1f} ms  best {min(taken_s) * 1e3:9.1f}  bound {bound_s * 1e3:7.0f}  {verdict}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
