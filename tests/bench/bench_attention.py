"""How far attention under cycle is above tiled: `python -m tests.bench.bench_attention [CHIP ...]`.

One layer's attention in steps of llama-3.2-1b: latency of cycle over tiled's for the mapping that cycle plays, and over that of tiled's own
choice, which is the same or less. With the places for scores, the tiles and what cycle waits for most.
"""

from __future__ import annotations

import sys
from typing import Any

from hwmodels import load_chip
from sim import trace_model
from sim.engines.cycle import play_classes
from sim.engines.tiled import AttentionChoice, map_classes
from sim.plan import plan

CHIPS = ("edge-npu", "cloud-npu", "tpu-v4i", "gemmini-default", "tpu-v5e", "tpu-v6e")
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("prefill of 37", {"phase": "prefill", "prompt": 37}),
    ("prefill of 512", {"phase": "prefill", "prompt": 512}),
    ("prefill of 2,048", {"phase": "prefill", "prompt": 2048}),
    ("decode after 1,024", {"phase": "decode", "context": 1024}),
    ("16 x decode after 1,024", {"phase": "decode", "context": 1024, "batch": 16}),
)


def main() -> None:
    """Print a line per chip and step."""
    print(f"{'chip':16} {'step':24} {'cycle':>11}  over tiled of its mapping, of tiled's   places  tile of queries x keys  waits most for")
    for name in sys.argv[1:] or CHIPS:
        chip = load_chip(name)
        for step, scenario in STEPS:
            planned = plan(trace_model("llama-3.2-1b", chip.default_format, **scenario), chip)
            both = zip(play_classes(planned), map_classes(planned), strict=True)
            own, best = next((own, best) for own, best in both if isinstance(own.mapped.choice, AttentionChoice))
            assert isinstance(own.mapped.choice, AttentionChoice)
            assert own.played is not None
            mapping, seconds = own.mapped.choice.mapping, float(own.played.end) / float(chip.clock_hz)
            ratios = f"{seconds / own.mapped.latency_s:.3f}  {seconds / best.latency_s:.3f}"
            tiles, cause = f"{mapping.q_tile} x {mapping.kv_tile}", max(own.played.stalls, key=own.played.stalls.__getitem__)
            print(f"{name:16} {step:24} {seconds * 1e6:8.1f} us  {ratios:>40}  {mapping.score_buffers:6}  {tiles:>22}  {cause}")


if __name__ == "__main__":
    main()
