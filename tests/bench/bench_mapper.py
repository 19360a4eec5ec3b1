"""Milliseconds per GEMM of the mapper, over the layers of Llama 3.2 1B and 3B; the project asks for a median of 3 and at most 10."""

from __future__ import annotations

import statistics
import sys
import time

from functional.formats import bits_of
from hwmodels.load import load_chip
from sim.mapper import map_gemm
from sim.mapping import Gemm

CHIPS = ("edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "a100-sxm4-80gb", "h100-sxm5-80gb")
TOKENS = (1, 8, 128, 512, 2048)
LAYERS = (
    (2048, 2048), (512, 2048), (3072, 2048), (8192, 2048), (16384, 2048), (2048, 8192), (128256, 2048),
    (3072, 3072), (1024, 3072), (5120, 3072), (8192, 3072), (16384, 3072), (3072, 8192), (128256, 3072),
)  # fmt: skip
"""(n, k) of q, k, v, o, gate, up, down, lm_head, and of groups that read the same tensor."""
RUNS = 3


def best_ms(gemm: Gemm, chip_name: str) -> float:
    """CPU time of the fastest of a few runs: other programs of the machine are left out."""
    chip, times = load_chip(chip_name), []
    for _ in range(RUNS):
        begin_s = time.process_time()
        map_gemm(gemm, chip)
        times.append(time.process_time() - begin_s)
    return min(times) * 1e3


def main() -> None:
    for name in sys.argv[1:] or CHIPS:
        number_format = load_chip(name).default_format
        bits = bits_of(number_format)
        shapes = [Gemm(m, n, k, bits, bits, bits, 32, number_format) for m in TOKENS for n, k in LAYERS]
        times = {(gemm.m, gemm.n, gemm.k): best_ms(gemm, name) for gemm in shapes}
        slowest = max(times, key=lambda shape: times[shape])
        print(f"{name:18} median {statistics.median(times.values()):6.1f} ms, at most {times[slowest]:6.1f} ms at {slowest}", flush=True)


if __name__ == "__main__":
    main()
