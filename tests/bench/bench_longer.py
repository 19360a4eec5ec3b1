"""Whether a longer GEMM is faster in tiled: the worst cases on random chips with one stage of memory on the chip.

Each seed draws a chip (systolic arrays or tensor cores, one level for all roles or one for operands and one for sums, of a core or of all
cores) and a GEMM, of which one extent at a time then grows step by step, first by one. What the mapper finds for it should take no less
time than what it finds for a shorter one. `python -m tests.bench.bench_longer [--chips N] [--first SEED] [--seconds S]` takes so many
chips, or fewer if the seconds are over.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from hwmodels.chip import Bandwidth, Chip, MatrixUnit, MemoryLevel, Role, VectorUnit
from sim.mapper import map_gemm
from sim.mapper.space import EVERY_TILE_UP_TO
from sim.mapping import AXES, Gemm

STEPS = (1, 2, 3, 5, 8, 13, 24, 41)
"""By how much an extent grows."""

ROUNDING = 1e-12
WORST = 5
"""Cases that are told."""


class Case(NamedTuple):
    """A GEMM and one that is longer along one axis, and how much less time that one takes (negative: more)."""

    seed: int
    shorter: Gemm
    longer: Gemm
    faster: float

    @property
    def is_small(self) -> bool:
        """Whether the mapper tries every tile of the shorter one."""
        return self.shorter.macs <= EVERY_TILE_UP_TO


def drawn_unit(random_: random.Random) -> MatrixUnit:
    rates, count = {"int8": random_.choice([0.5, 1, 1.5, 2, 3])}, random_.choice([1, 1, 2, 3])
    sizes = [random_.choice([1, 2, 4, 8, 16, 32, random_.randint(1, 40)]) for _ in "mnk"]
    if random_.random() < 0.3:
        return MatrixUnit("tensor_core", count, 1, 1, (sizes[0], sizes[1], sizes[2]), (), "overlapped", rates, {"int8": "int32"})
    dataflows = random_.sample(["os", "ws", "is"], random_.randint(1, 3))
    preload = random_.choice(["overlapped", "serial"])
    return MatrixUnit("systolic", count, sizes[0], sizes[1], (1, 1, 1), tuple(dataflows), preload, rates, {"int8": "int32"})


def drawn_chip(random_: random.Random) -> Chip:
    """One stage on the chip: ports with rates over three orders of magnitude, bursts that tiles fill or do not."""

    def level(name: str, per: str, holds: tuple[Role, ...], capacity_bytes: float, latency_s: float, burst_bytes: int) -> MemoryLevel:
        shared = random_.random() < 0.5
        read = 10 ** random_.uniform(8, 11)
        bandwidth = Bandwidth(read, read if shared else 10 ** random_.uniform(8, 11), shared, False)
        double, multicast = random_.random() < 0.7, random_.random() < 0.5
        where: tuple[str, frozenset[Role]] = "core" if per == "core" else "chip", frozenset(holds)
        return MemoryLevel(name, capacity_bytes, bandwidth, *where, 1, latency_s, burst_bytes, double, multicast, "", "none")  # type: ignore[arg-type]

    roles: tuple[Role, ...] = ("weights", "activations", "psums")
    memory = [level("dram", "chip", roles, 1e12, random_.choice([0.0, 1e-8, 1e-7]), random_.choice([1, 4, 7, 32, 64]))]
    apart, per = random_.random() < 0.3, random_.choice(["core", "core", "chip"])
    for i, holds in enumerate([roles[:2], roles[2:]] if apart else [roles]):
        memory.append(level(f"level{i}", "core" if apart else per, holds, float(round(2 ** random_.uniform(9, 17))), 0.0, 1))
    cores = random_.choice([1, 1, 2, 3, 4, 7])
    return Chip("random", "int8", 1e9, cores, drawn_unit(random_), VectorUnit(1, {}), tuple(memory), 0.0, 0.5, None, "", (), (), {})


def cases(seed: int) -> Iterator[Case]:
    """One chip and one GEMM, longer step by step along each axis; each against the slowest of the shorter ones."""
    random_ = random.Random(f"longer {seed}")
    chip = drawn_chip(random_)
    m, n, k = (round(2 ** random_.uniform(0, 10)) for _ in AXES)
    a_bits, w_bits, out_bits = (random_.choice([4, 8, 16]) for _ in range(3))
    gemm = Gemm(m, n, k, a_bits, w_bits, out_bits, 32, "int8")
    alone_s = map_gemm(gemm, chip).cost.latency_s
    for axis in AXES:
        slowest, most_s = gemm, alone_s
        for step in STEPS:
            longer = replace(gemm, **{axis: getattr(gemm, axis) + step})
            latency_s = map_gemm(longer, chip).cost.latency_s
            yield Case(seed, slowest, longer, 1 - latency_s / most_s)
            if latency_s > most_s:
                slowest, most_s = longer, latency_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a longer GEMM is faster in tiled, on random chips of one stage.")
    parser.add_argument("--chips", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=600.0)
    args = parser.parse_args()
    began, chips, found = time.monotonic(), 0, list[Case]()
    for seed in range(args.first, args.first + args.chips):
        if time.monotonic() - began > args.seconds:
            break
        chips += 1
        found += cases(seed)
    for what, some in (
        (f"up to {EVERY_TILE_UP_TO:,} MACs", [each for each in found if each.is_small]),
        ("of more", [each for each in found if not each.is_small]),
    ):
        fell = sorted((each for each in some if each.faster > ROUNDING), key=lambda each: -each.faster)
        of_chips = len({each.seed for each in fell})
        print(f"{chips} chips, GEMMs {what}: {len(some)} longer ones, {len(fell)} of them faster, on {of_chips} chips")
        for each in fell[:WORST]:
            shapes = " than ".join(f"{gemm.m} x {gemm.n} x {gemm.k}" for gemm in (each.longer, each.shorter))
            print(f"  {each.faster:.2%}: {shapes}, seed {each.seed}")


if __name__ == "__main__":
    main()
