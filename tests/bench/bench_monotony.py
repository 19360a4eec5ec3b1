"""What better hardware does to the cycle engine when everything is mapped anew: the worst case that was found.

Seeded chips around edge-npu, cloud-npu, gemmini-default (one stage), tpu-v4i (two) and h100-sxm5-80gb without its calibration (two, 132
cores), each drawn by scaling its numbers, and then one number made better; whole steps of a small and a large model. With a fixed mapping
nothing is slower (`tests/test_cycle.py`); a mapping that is taken for better may play worse. `python -m tests.bench.bench_monotony [SEEDS]`
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from functional.errors import BadInput
from hwmodels import Chip, load_chip, with_values
from hwmodels.paths import value_of
from sim import predict_graph, trace_model
from workloads.graph import OpGraph

BASES = ("edge-npu", "cloud-npu", "gemmini-default", "tpu-v4i", "h100-sxm5-80gb")
EXACT = ("edge-npu", "cloud-npu", "gemmini-default")
"""Those that the mapper searches to the last."""

STEPS = (
    ("stories15m", {"phase": "decode", "context": 200}),
    ("stories15m", {"phase": "prefill", "prompt": 70}),
    ("llama-3.2-1b", {"phase": "decode", "context": 1024}),
    ("llama-3.2-1b", {"phase": "prefill", "prompt": 130}),
)
ALLOWED = 0.02


class Case(NamedTuple):
    """One number of a drawn chip made better, and by how much the step got slower (negative: faster)."""

    base: str
    step: str
    path: str
    factor: float
    slower: float


def paths_of(chip: Chip) -> list[str]:
    """Numbers of which more is better."""
    levels = [f"memory.{level.name}.bandwidth" for level in chip.memory]
    return [*levels, *(f"memory.{level.name}.capacity" for level in chip.memory[1:]), "clock", "cores"]


def scaled(chip: Chip, path: str, factor: float) -> Chip:
    value = float(value_of(chip, path)) * factor
    return with_values(chip, {path: max(1, round(value)) if path == "cores" else value})


def drawn(base: str, random_: random.Random) -> Chip:
    """The base with its bandwidths, capacities and clock scaled by up to two each way."""
    chip = replace(load_chip(base), technology="")
    for path in paths_of(chip):
        if path != "cores":
            chip = scaled(chip, path, 2 ** random_.uniform(-1, 1))
    return chip


def cases(base: str, seeds: Iterable[int], prefetch: bool = True, only: Sequence[str] = ()) -> Iterator[Case]:
    """For each seed one chip, and each of its numbers (or those) made better in turn, on one of the steps."""
    graphs: dict[int, OpGraph] = {}
    for seed in seeds:
        random_ = random.Random(seed)
        chip, number = drawn(base, random_), seed % len(STEPS)
        model, scenario = STEPS[number]
        if number not in graphs:
            graphs[number] = trace_model(model, chip.default_format, **scenario)  # type: ignore[arg-type]
        try:
            before_s = predict_graph(graphs[number], chip, "cycle", prefetch=prefetch).total_s
        except BadInput:
            continue
        for path in paths_of(chip):
            factor = random_.choice([1.1, 1.5, 2.0])
            if only and path not in only:
                continue
            better = scaled(chip, path, factor)
            after_s = predict_graph(graphs[number], better, "cycle", prefetch=prefetch).total_s
            yield Case(base, f"{model} {scenario['phase']}", path, factor, after_s / before_s - 1)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    for base in BASES:
        found = list(cases(base, range(seeds)))
        worst = max(found, key=lambda case: case.slower)
        above = sum(case.slower > ALLOWED for case in found)
        print(
            f"{base:16} {len(found):4} cases, {above} above {ALLOWED:.0%}; worst {worst.slower:+.2%}: {worst.step}, "
            f"{worst.path} x {worst.factor}",
            flush=True,
        )


if __name__ == "__main__":
    main()
