"""`python -m tests.regenerate_golden` writes `tests/golden/` anew and prints every latency that changed: old, new, percent.

One file per engine and chip. Each lists, by model and phase, its ops; ops that differ in their layer only are one entry, with how many of
them take how long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product, zip_longest
from pathlib import Path

from sim import predict
from sim.engines import ENGINES
from workloads.scenario import PHASES

FOLDER = Path(__file__).parent / "golden"
MODELS = ("llama-3.2-1b", "llama-3.2-3b")
CHIPS = ("a100-sxm4-80gb", "edge-npu", "gemmini-default")
CASES = tuple(product(ENGINES, CHIPS))
SAME = 1e-9
"""Relative difference up to which two latencies are the same."""

Latencies = dict[str, dict[str, list[tuple[int, float]]]]
"""By model and phase, by op (`layers.*.mlp.up_proj`): (how many, seconds each), in the order of the graph."""


def file_of(engine: str, chip: str) -> Path:
    return FOLDER / f"{engine}-{chip}.json"


def predicted(engine: str, chip: str) -> Latencies:
    latencies: Latencies = {}
    for model, phase in product(MODELS, PHASES):
        timeline = predict(model, chip, phase=phase, engine=engine)
        step = latencies[f"{model} {phase}"] = {"total": [(1, timeline.total_s)]}
        for op, latency_s in zip(timeline.graph.ops, timeline.latency_s.tolist(), strict=True):
            runs = step.setdefault(re.sub(r"^layers\.\d+\.", "layers.*.", op.name), [])
            if runs and abs(runs[-1][1] - latency_s) <= SAME * latency_s:
                runs[-1] = (runs[-1][0] + 1, runs[-1][1])
            else:
                runs.append((1, latency_s))
    return latencies


def recorded(engine: str, chip: str) -> Latencies:
    """What the file says; nothing if there is none."""
    file = file_of(engine, chip)
    return json.loads(file.read_text()) if file.exists() else {}


def differences(old: Latencies, new: Latencies) -> Iterator[str]:
    """One line per latency that is not the same: name, how many, old, new, percent."""
    for step in {**old, **new}:
        ops_before, ops_after = old.get(step, {}), new.get(step, {})
        for op in {**ops_before, **ops_after}:
            for before, after in zip_longest(ops_before.get(op, []), ops_after.get(op, [])):
                if before is None or after is None:
                    yield f"{step} {op}: {_written(before)} -> {_written(after)}"
                elif before[0] != after[0] or abs(after[1] - before[1]) > SAME * before[1]:
                    yield f"{step} {op}: {_written(before)} -> {_written(after)}, {100 * (after[1] / before[1] - 1):+.4g} %"


def _written(run: tuple[int, float] | None) -> str:
    return "nothing" if run is None else f"{run[0]} x {run[1]:.6g} s"


def write(engine: str, chip: str, latencies: Latencies) -> None:
    steps = [
        f" {json.dumps(step)}: {{\n" + ",\n".join(f"  {json.dumps(op)}: {json.dumps(runs)}" for op, runs in ops.items()) + "\n }"
        for step, ops in latencies.items()
    ]
    file_of(engine, chip).write_text("{\n" + ",\n".join(steps) + "\n}\n")


def main() -> None:
    for engine, chip in CASES:
        old, new = recorded(engine, chip), predicted(engine, chip)
        changes = list(differences(old, new))
        print(f"{file_of(engine, chip).name}: {len(changes)} changed")
        print(*(f"  {change}\n" for change in changes), sep="", end="")
        if changes:
            write(engine, chip, new)


if __name__ == "__main__":
    main()
