"""Verify full-size models on the chips that their issue names: `python -m tests.bench.full_size_verify [MODEL ...]`.

Two layers and the whole lm_head of each model, with seeded weights, in every chip's default format and in bf16 where it has it. The golden
step is computed once for all chips of a format. Prints a table, with the processor's seconds; exit code 1 where anything differs.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from dataclasses import replace

from hwmodels import load_chip
from sim.api import trace_model
from sim.plan import plan
from sim.verification import checked
from sim.verification.charge import charged_groups
from sim.verification.golden_run import golden_step
from workloads.library import load_model
from workloads.scenario import Phase

MODELS = ("llama-3.2-1b", "llama-3.2-3b")
CHIPS = {
    "int8": ("edge-npu", "gemmini-default"),
    "bf16": ("edge-npu", "cloud-npu", "tpu-v4i", "h100-sxm5-80gb"),
}
"""Chips by format."""

STEPS: tuple[tuple[Phase, int, int], ...] = (("prefill", 1, 1), ("prefill", 37, 3), ("prefill", 130, 1), ("decode", 101, 3))
"""Phase, tokens of the prompt or in the cache, batch; no tile divides the lengths but 1."""

LAYERS = 2


def main(models: tuple[str, ...]) -> int:
    failed = 0
    print("| model | format | step | golden s | chips, seconds of each | MiB |\n|---|---|---|---|---|---|", flush=True)
    for model in models:
        config = replace(load_model(model), num_hidden_layers=LAYERS)
        for number_format, chips in CHIPS.items():
            for phase, length, batch in STEPS:
                begun = time.process_time()
                graph = trace_model(config, number_format, phase=phase, batch=batch, prompt=length)
                golden = golden_step(config, graph, 0)
                golden_s, found = time.process_time() - begun, []
                for name in chips:
                    begun = time.process_time()
                    planned = plan(graph, load_chip(name))
                    result = checked(planned, charged_groups(planned), golden, engine="tiled", layers=LAYERS, seed=0)
                    failed += not result.passed
                    verdict = "" if result.passed else f" DIFFERS at {result.first_difference}"
                    found.append(f"{name} {time.process_time() - begun:.0f}{verdict}")
                peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                step = f"{phase} {length} x {batch}"
                print(f"| {model} | {number_format} | {step} | {golden_s:.0f} | {', '.join(found)} | {peak_mib} |", flush=True)
                del golden, result
                gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or MODELS))
