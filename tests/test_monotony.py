"""Defends: better hardware, with everything mapped anew, makes the cycle engine at most 2 % slower."""

from __future__ import annotations

import pytest

from tests.bench.bench_monotony import ALLOWED, BASES, cases


@pytest.mark.parametrize(("base", "seed", "path"), [
    ("cloud-npu", 11, "cores"),  # many mappings with one bound: of those visited first, with four cores all played badly
    ("cloud-npu", 9, "cores"),  # the same, where those over few cores came first
    ("cloud-npu", 4, "memory.sram.capacity"),
    ("tpu-v4i", 15, "memory.dram.bandwidth"),  # mappings that do the same, visited three times each, left no visit for a better one
    ("tpu-v4i", 7, "cores"),  # a search that was content with what it had met
    ("tpu-v4i", 55, "cores"),  # more mappings with one bound than were ranked by a guess
    ("edge-npu", 2, "memory.sram.bandwidth"),
    ("gemmini-default", 1, "memory.dram.bandwidth"),
])
def test_a_better_number_is_hardly_slower(base: str, seed: int, path: str) -> None:
    (case,) = cases(base, [seed], only=[path])
    assert case.slower <= ALLOWED, case


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_no_better_number_is_slower_by_more(base: str) -> None:
    worst = max(cases(base, range(4)), key=lambda case: case.slower)
    assert worst.slower <= ALLOWED, worst
