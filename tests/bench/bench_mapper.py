"""Milliseconds per GEMM of the mapper on chips with systolic arrays: over the layers of Llama 3.2 1B and 3B, *one after another*, as a
program asks `map_gemm` for different GEMMs of a chip, which remembers the axes that they have in common (`sim.mapper.space.Columns`); each
*from nothing* but what is remembered of the chip, the rows of its bounds; and on a *chip never seen*. And *together*, the GEMMs of a
model's prefill and of its decode, as a prediction maps them (`sim.mapper.map_together`), from nothing; and that prefill, how far two-stage
mappings are from what all tiles could give, and a chip with three stages. No GEMM is asked for again while its answer is remembered. The
project asks for a median of 3 ms and at most 10 ms per GEMM, and 100 ms for the prefill.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from functional.formats import bits_of
from hwmodels.chip import Chip
from hwmodels.load import load_chip
from sim import predict, trace_model
from sim.engines.tiled import asked_of
from sim.mapper import Asked, map_gemm, map_together, remembered_place
from sim.mapper.attention import best_attention
from sim.mapper.bound import remembered_bounder
from sim.mapper.candidates import candidate_tiles, smallest_tiles
from sim.mapper.problem import setting_of
from sim.mapper.search import search
from sim.mapper.space import remembered_columns
from sim.mapping import Gemm
from sim.plan import plan

CHIPS = ("edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "tpu-v6e")
TOKENS = (1, 8, 128, 512, 2048)
LAYERS = (
    (2048, 2048), (512, 2048), (3072, 2048), (8192, 2048), (16384, 2048), (2048, 8192), (128256, 2048),
    (3072, 3072), (1024, 3072), (5120, 3072), (8192, 3072), (16384, 3072), (3072, 8192), (128256, 3072),
)  # fmt: skip
"""(n, k) of q, k, v, o, gate, up, down, lm_head, and of groups that read the same tensor."""
TWO_STAGES = ((1, 2048, 2048), (128, 2048, 2048), (512, 3072, 2048), (2048, 2048, 8192))
"""(m, n, k) for which the thinned search is compared with one of all tiles."""
BOXES = 300_000
RUNS = 3


def gemm_on(chip_name: str, m: int, n: int, k: int) -> Gemm:
    """Both operands and the result in the chip's own format."""
    number_format = load_chip(chip_name).default_format
    bits = bits_of(number_format)
    return Gemm(m, n, k, bits, bits, bits, 32, number_format)


OF_GEMMS = (remembered_place, best_attention, candidate_tiles, smallest_tiles, remembered_columns)
"""What is remembered of GEMMs and attentions."""


def forget(remembered: Sequence[Any]) -> None:
    for each in remembered:
        each.cache_clear()


def cpu_ms(run: Callable[[], object]) -> float:
    """CPU time: other programs of the machine are left out."""
    begin_s = time.process_time()
    run()
    return (time.process_time() - begin_s) * 1e3


def best_ms(run: Callable[[], object], forgotten: Sequence[Any] = OF_GEMMS) -> float:
    """That of the fastest of a few runs, each from nothing."""
    times = []
    for _ in range(RUNS):
        forget(forgotten)
        times.append(cpu_ms(run))
    return min(times)


def one_after_another_ms(gemms: Sequence[Gemm], chip: Chip) -> dict[tuple[int, int, int], float]:
    """Of each GEMM the fastest of a few runs through all of them, each run from nothing."""
    times: dict[tuple[int, int, int], float] = {}
    for _ in range(RUNS):
        forget(OF_GEMMS)
        for gemm in gemms:
            shape = gemm.m, gemm.n, gemm.k
            times[shape] = min(times.get(shape, math.inf), cpu_ms(partial(map_gemm, gemm, chip)))
    return times


STEPS: tuple[dict[str, Any], ...] = ({"phase": "prefill", "prompt": 2048}, {"phase": "decode", "context": 2048})
MODELS = ("llama-3.2-1b", "llama-3.2-3b")


def model_gemms(model: str, chip: Chip, step: dict[str, Any]) -> list[Asked]:
    """What a prediction asks of the mapper, each GEMM once."""
    planned = plan(trace_model(model, chip.default_format, **step), chip)
    linears = [each for each in planned.classes if any(op.kind == "Linear" for op in each.ops)]
    return list(dict.fromkeys(asked_of(each, planned) for each in linears))


def show_together(chip: Chip) -> None:
    """A model's GEMMs, one after another and together."""
    alone_ms, together_ms = [], []
    for model, step in product(MODELS, STEPS):
        asked = model_gemms(model, chip, step)
        together_ms.append(best_ms(lambda asked=asked: map_together(asked, chip)) / len(asked))
        alone_ms.append(best_ms(lambda asked=asked: [map_together([each], chip) for each in asked]) / len(asked))
    found, each = statistics.median(together_ms), statistics.median(alone_ms)
    print(f"{chip.name:18} a model's GEMMs together: {found:.1f} ms per GEMM (at most {max(together_ms):.1f}), alone {each:.1f} ms")


def show_gap(chip_name: str) -> None:
    """Latency against that of a search of all tiles that stops at a number of boxes, and against the bound that it leaves."""
    chip = load_chip(chip_name)
    for m, n, k in TWO_STAGES:
        gemm = gemm_on(chip_name, m, n, k)
        thin_s = map_gemm(gemm, chip).cost.latency_s
        found = search(setting_of(gemm, chip), "latency", budget_boxes=BOXES)
        told = "exactly" if found.is_exact else f"at most {thin_s / found.least_s - 1:.2%}"
        print(f"{chip_name} {m} x {n} x {k}: {thin_s / found.key[0] - 1:.3%} above the best of {BOXES:,} boxes, {told} above the optimum")


def three_stages() -> Chip:
    """cloud-npu with two more levels between its SRAM, which its cores share here, and their arrays."""
    chip = load_chip("cloud-npu")
    dram, sram = chip.memory
    inner = [replace(sram, name=name, capacity_bytes=kib * 1024.0, per="core") for name, kib in (("local", 1024), ("near", 64))]
    return replace(chip, name="three stages", cores=4, memory=(dram, replace(sram, per="chip"), *inner))


def show(name: str, how: str, times: dict[tuple[int, int, int], float]) -> None:
    slowest = max(times, key=lambda shape: times[shape])
    median_ms = statistics.median(times.values())
    print(f"{name:18} {how:18} median {median_ms:6.1f} ms, at most {times[slowest]:6.1f} ms at {slowest}", flush=True)


def main() -> None:
    one_after_another: list[float] = []
    for name in sys.argv[1:] or CHIPS:
        chip = load_chip(name)
        gemms = {(m, n, k): gemm_on(name, m, n, k) for m in TOKENS for n, k in LAYERS}
        show(name, "chip never seen", {s: best_ms(partial(map_gemm, g, chip), (*OF_GEMMS, remembered_bounder)) for s, g in gemms.items()})
        show(name, "from nothing", {shape: best_ms(partial(map_gemm, gemm, chip)) for shape, gemm in gemms.items()})
        times = one_after_another_ms([*gemms.values()], chip)
        show(name, "one after another", times)
        one_after_another += times.values()
        show_together(chip)
        whole_ms = best_ms(partial(predict, "llama-3.2-1b", name, phase="prefill", prompt=2048, engine="tiled"))
        print(f"{name:18} prefill of 2,048 with llama-3.2-1b: {whole_ms:.0f} ms", flush=True)
    median_ms, most_ms = statistics.median(one_after_another), max(one_after_another)
    print(f"all of these chips, one after another: median {median_ms:.1f} ms, at most {most_ms:.1f} ms")
    show_gap("tpu-v4i")
    chip = three_stages()
    show(chip.name, "from nothing", {shape: best_ms(partial(map_gemm, gemm_on("cloud-npu", *shape), chip)) for shape in TWO_STAGES})


if __name__ == "__main__":
    main()
