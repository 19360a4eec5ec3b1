"""The published profile of stories15m beside the same table on this machine: as that program computes, and as `rooftile profile` does.

The study's NumPy multiplies a stack of 32 rows by a matrix, which reads the matrix once per row; here all rows share one reading. Both are
measured in processor time of one thread, so that other work on the machine shows little.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from functional.interpreters import Torch
from functional.ops import Op
from sim.profiling import Profile, Profiled, profile

PUBLISHED_MS = {
    "iteration": 19.75,
    "model": 17.11,
    "layers": 5.35,
    "attention": 6 * 0.25,
    "feed-forward": 6 * 0.62,
    "norm": 0.01,
    "head": 11.72,
    "sampling": 2.59,
    "top-p": 2.17,
}
"""Per step: NumPy, Apple M3 Pro, stories15m, batch 32, 254 steps; a block's attention and feed-forward six times."""


class RowByRow(Torch):
    """Linears as NumPy computes x[B, 1, K] @ weight.T: one product per row, each of which reads the weights."""

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        if op.kind != "Linear":
            return super().apply(op, name, inputs, **attrs)
        x, weight = (each.numpy() for each in inputs)
        return torch.from_numpy(np.matmul(x, weight.T))


class RowByRowProfile(Profile, RowByRow):
    """The same with a clock."""


def milliseconds(found: Profiled) -> dict[str, float]:
    return {row.name: 1e3 * row.total_s / found.steps for row in found.rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)  # NumPy's: OMP_NUM_THREADS=1

    with patch("sim.profiling.Profile", RowByRowProfile):
        rows = milliseconds(profile("stories15m", tokens=given.tokens, clock=time.process_time))
    shared = milliseconds(profile("stories15m", tokens=given.tokens, clock=time.process_time))
    print(f"stories15m, batch 32, fp32, {given.tokens} steps: ms per step, share of the iteration")
    print(f"{'':14} {'published':>16} {'row by row, here':>18} {'rooftile profile':>18}")
    for name, published in PUBLISHED_MS.items():
        columns = ((published, PUBLISHED_MS["iteration"]), (rows[name], rows["iteration"]), (shared[name], shared["iteration"]))
        print(f"{name:14} " + " ".join(f"{spent:10.2f} {spent / whole:6.1%}" for spent, whole in columns))
    for part, whole in (("head", "model"), ("top-p", "sampling")):
        shares = (f"{spent[part] / spent[whole]:.0%}" for spent in (PUBLISHED_MS, rows, shared))
        print(f"{part} of {whole}: {', '.join(shares)}")


if __name__ == "__main__":
    main()
