"""Verify models on five chips: `python -m tests.bench.full_size_verify [MODEL ...] [--record FILE.jsonl]`.

Two full-size layers and the whole lm_head of Llama 3.2 1B and 3B, and all layers of stories15m, with seeded weights, in every chip's
default format and in bf16 where it has it. The golden step is computed once for all chips of a format. Prints a table with the processor's
seconds, then how many passed; exit code 1 where anything differs. Cases that a record says have passed are not run again.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwmodels import load_chip
from sim.api import trace_model
from sim.golden_step import WeightSource
from sim.plan import plan
from sim.verification import checked
from sim.verification.charge import charged_groups
from sim.verification.golden_run import golden_step
from workloads.library import load_model
from workloads.scenario import Phase

MODELS = {"llama-3.2-1b": 2, "llama-3.2-3b": 2, "stories15m": 6}
"""Layers of each."""

CHIPS = ("edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "h100-sxm5-80gb")

STEPS: tuple[tuple[Phase, int, int], ...] = (("prefill", 1, 1), ("prefill", 37, 3), ("prefill", 130, 1), ("decode", 101, 3))
"""Phase, tokens of the prompt or in the cache, batch; no tile divides the lengths but 1."""


def chips_by_format() -> dict[str, list[str]]:
    """Every chip under its default format, and under bf16 if it has it."""
    found: dict[str, list[str]] = {}
    for name in CHIPS:
        chip = load_chip(name)
        for number_format in dict.fromkeys((chip.default_format, "bf16")):
            if number_format in chip.matrix.rates:
                found.setdefault(number_format, []).append(name)
    return found


def cases(models: list[str], done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Runs what is not done, one case after another."""
    for model in models:
        config = replace(load_model(model), num_hidden_layers=MODELS[model])
        for number_format, chips in chips_by_format().items():
            source = WeightSource()
            for phase, length, batch in STEPS:
                step = f"{phase} {length} x {batch}"
                left = [name for name in chips if (model, number_format, step, name) not in done]
                if not left:
                    continue
                begun = time.process_time()
                graph = trace_model(config, number_format, phase=phase, batch=batch, prompt=length)
                golden = golden_step(config, graph, 0, source)
                golden_s = time.process_time() - begun
                for name in left:
                    begun = time.process_time()
                    planned = plan(graph, load_chip(name))
                    groups = charged_groups(planned)
                    result = checked(planned, groups, golden, engine="tiled", layers=config.num_hidden_layers, seed=0, source=source)
                    yield {
                        "model": model,
                        "format": number_format,
                        "step": step,
                        "chip": name,
                        "ops": len(result.ops),
                        "first_difference": result.first_difference,
                        "golden_s": round(golden_s, 1),
                        "seconds": round(time.process_time() - begun, 1),
                        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                    }
                del golden, result
                gc.collect()


def main(arguments: list[str]) -> int:
    record = Path(arguments.pop(arguments.index("--record") + 1)) if "--record" in arguments else None
    models = [each for each in arguments if each != "--record"] or list(MODELS)
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record is not None and record.exists() else []
    rows = [row for row in rows if row["first_difference"] is None and row["model"] in models]
    done = {(row["model"], row["format"], row["step"], row["chip"]) for row in rows}
    print("| model | format | step | chip | golden s | chip s | MiB | |\n|---|---|---|---|---|---|---|---|", flush=True)
    for row in cases(models, done):
        rows.append(row)
        if record is not None:
            with record.open("a") as file:
                file.write(json.dumps(row) + "\n")
        verdict = "passed" if row["first_difference"] is None else f"DIFFERS at {row['first_difference']}"
        named = [row[name] for name in ("model", "format", "step", "chip", "golden_s", "seconds", "mib")]
        print(f"| {' | '.join(map(str, named))} | {verdict} |", flush=True)
    failed = [row for row in rows if row["first_difference"] is not None]
    worst = max(rows, key=lambda row: row["seconds"])
    where = " ".join(worst[name] for name in ("model", "format", "step", "chip"))
    print(f"\n{len(rows)} cases, {len(rows) - len(failed)} passed; the slowest takes {worst['seconds']} s besides its golden step: {where}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
