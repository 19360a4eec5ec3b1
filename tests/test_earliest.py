"""Defends: every tile, product and softmax that is played begins in the first cycle that a simulator allows, which refuses the one before:
a unit works, operands have not come, scores or sums are not complete, a place has not been left."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis.errors import UnsatisfiedAssumption

from hwmodels.chip import Chip
from sim.engines.nest import Walk
from sim.engines.play_attention import play_attention
from sim.engines.play_gemm import play_gemm
from sim.intervals import KINDS, Log
from sim.mapper import cost_gemm
from sim.mapper.attention_cost import InDram
from sim.mapping import Gemm, GemmMapping, StageTiling, Tile
from tests import walked_attention
from tests.test_cycle import simulate, slow_chip
from tests.test_cycle_attention import MODES, charged, small_chip
from tests.test_cycle_attention import drawn as drawn_attention

NAMES = ("dram", "sram", "matrix", "vector", "launch")
SEEDS = range(60)
Refusals = Counter[tuple[str, frozenset[str]]]


def starts(log: Log, name: str, whats: tuple[str, ...]) -> list[float]:
    """When what a resource does begins, in the order of time."""
    found = log.intervals()
    of_kinds = sum((found.what == KINDS.index(what) for what in whats), start=0)
    return sorted(found.start_s[(found.resource == NAMES.index(name)) & (of_kinds > 0)].tolist())


# --- GEMMs ---


def drawn_gemm(seed: int) -> tuple[GemmMapping, Chip, float, int]:
    """A GEMM on one array beside slow DRAM, whose sums do not come back: mapping, chip, bytes per cycle, cycles until DRAM answers."""
    rng = random.Random(f"gemm {seed}")
    rate, latency, double = rng.choice([1 / 12, 1 / 4, 1.0, 4.0]), rng.choice([0, 64]), rng.random() < 0.6
    chip = slow_chip(rng.randint(1, 8), rng.randint(1, 8), rate, latency, double)
    m, n, k = (rng.randint(1, 24) for _ in "mnk")
    tile = Tile(*(-(-extent // rng.randint(1, 4)) for extent in (m, n, k)))
    order = rng.choice([("m", "n", "k"), ("n", "m", "k")] if tile.k < k else [("m", "k", "n"), ("k", "n", "m"), ("n", "m", "k")])
    gemm = Gemm(m, n, k, 8, 8, rng.choice([0, 8, 8]), 32, "int8")
    tiling = StageTiling(tile, order, 2 if double else 1)  # type: ignore[arg-type]
    return GemmMapping(gemm, (tiling,), (1, 1), 0, rng.choice(["os", "ws", "is"]), "m"), chip, rate, latency


def refused_gemm(seed: int, monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """For what each job is refused a cycle earlier."""
    mapping, chip, rate, latency = drawn_gemm(seed)
    try:
        jobs = simulate(mapping, chip, rate, latency).jobs
    except UnsatisfiedAssumption:
        return Counter()
    log = Log(NAMES)
    monkeypatch.setattr(Walk, "alike", lambda *_: 0)  # step by step to the end
    play_gemm(mapping, chip, cost_gemm(mapping, chip), log=log)
    found: Refusals = Counter()
    for resource, name, whats in (("array", "matrix", ("compute",)), ("dram", "dram", ("read", "write"))):
        own = [job for job in jobs if job.resource == resource]
        assert starts(log, name, whats) == pytest.approx([job.start for job in own], abs=1e-6), name
        free = 0
        for job in own:
            before = job.start - 1
            reasons = frozenset(job.missing(before) | ({"busy"} if free > before else set()))
            assert reasons or not job.start, (resource, job.start)
            # Where a tile has not come, its port of the SRAM is waiting for it, too.
            found["store" if job.cause == "store" else resource, reasons - {"ports"} or reasons] += 1
            free = job.left
    return found


def test_every_tile_of_a_gemm_begins_when_its_data_and_its_place_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Refusals = Counter()
    for seed in SEEDS:
        found += refused_gemm(seed, monkeypatch)
    alone = [("array", "data"), ("array", "room"), ("dram", "room"), ("store", "data")]
    for job, reason in [*alone, *((name, "busy") for name in ("array", "dram", "store"))]:
        assert found[job, frozenset([reason])] > 5, (job, reason, found)


@pytest.mark.parametrize("m", [4, 8])
def test_a_product_waits_for_each_of_its_operands(m: int) -> None:
    """Where sums have a memory of their own, so that no port of the operands' serves anything else: 16 B of A and 32 of W at 1 B per cycle,
    10 cycles after the start; and A's second tile, while the array works for 4 cycles and what it fills with."""
    slow = slow_chip(4, 8, 1.0, 10, double=True)
    dram, sram = slow.memory
    operands = replace(sram, name="operands", holds=frozenset(("activations", "weights")))
    chip = replace(slow, memory=(dram, operands, replace(sram, name="sums", holds=frozenset(("psums",)))))
    mapping = GemmMapping(Gemm(m, 8, 4, 8, 8, 8, 32, "int8"), (StageTiling(Tile(4, 8, 4), ("n", "k", "m"), 2),), (1, 1), 0, "ws", "m")
    log = Log(("dram", "operands", "sums", "matrix", "vector", "launch"))
    play_gemm(mapping, chip, cost_gemm(mapping, chip), log=log)
    found = log.intervals()
    works = (found.resource == found.resources.index("matrix")) & (found.what == KINDS.index("compute"))
    assert found.start_s[works].tolist() == [10 + 16 + 32, 10 + 16 + 32 + 16][: m // 4]


# --- attention ---


def refused_attention(seed: int, mode: tuple[int, bool, bool]) -> Refusals:
    """For what each job is refused a cycle earlier."""
    mapping, speeds, sides = drawn_attention(seed, *mode)
    chip, log = small_chip(speeds), Log(NAMES)
    cost, busy_s = charged(mapping, chip, speeds, sides)
    jobs = walked_attention.simulate(mapping, speeds, sides).jobs
    play_attention(mapping, chip, cost, busy_s, InDram(*sides), "all", log)
    found: Refusals = Counter()
    for name, whats in {"matrix": ("compute",), "vector": ("compute",), "dram": ("read", "write")}.items():
        assert starts(log, name, whats) == pytest.approx([job.start for job in jobs[name]], abs=1e-6), name
        for job in jobs[name]:
            assert job.refused or not job.start
            kind = name if name != "matrix" else "values" if any(cause == "vector" for cause, _, _ in job.after) else "keys"
            found["store" if name == "dram" and job.after else kind, job.refused] += 1
    return found


def test_every_tile_of_attention_begins_when_its_data_and_its_place_are_there() -> None:
    found: Refusals = Counter()
    for seed, mode in product(range(30), MODES):
        found += refused_attention(seed, mode)
    alone = [("keys", "data"), ("keys", "room"), ("values", "data"), ("values", "room"), ("vector", "data"), ("dram", "room")]
    alone += [("store", "data")]
    for job, reason in [*alone, *((name, "busy") for name in ("keys", "values", "vector", "dram", "store"))]:
        assert found[job, frozenset([reason])] > 5, (job, reason, found)
