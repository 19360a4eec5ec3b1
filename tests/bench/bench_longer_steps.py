"""Whether a step of a longer context, a longer prompt or a larger batch is faster: the worst cases, on chips of the library and on random
ones.

Each seed draws a chip (the NPUs of the library, or a random one of `bench_longer`), a model (Llama 3.2 1B and 3B and stories15m, or a
random one) and a step, which then grows along one dimension, first by one; each is compared with the slowest of the shorter ones.
`python -m tests.bench.bench_longer_steps [--random] [--engine tiled] [--first SEED] [--seconds S]`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from functional.config import ModelConfig
from functional.errors import BadInput
from hwmodels import load_chip
from hwmodels.chip import Chip, VectorUnit
from sim import predict_graph
from tests.bench.bench_longer import ROUNDING, STEPS, WORST, drawn_chip
from workloads.library import load_model
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

NPUS = ("edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "tpu-v5e", "tpu-v6e")
MODELS = ("stories15m", "llama-3.2-1b", "llama-3.2-3b")
DIMENSIONS = ("prompt", "context", "batch of decode", "batch of prefill")


class Case(NamedTuple):
    """A step and a longer one, and how much less time that one takes (negative: more)."""

    seed: int
    chip: str
    model: str
    dimension: str
    shorter: int
    longer: int
    faster: float


def random_chip(random_: random.Random) -> Chip:
    """With a vector unit, and a share of what is on the chip for tensors that stay there."""
    cycles = {name: random_.choice([1, 1, 4]) for name in ("add", "mul", "exp", "rsqrt", "convert")}
    vector = VectorUnit(random_.choice([1, 8, 64, 1024]), cycles)
    return replace(drawn_chip(random_), vector=vector, resident_share=random_.choice([0.01, 0.5, 0.9]))


def random_model(random_: random.Random) -> ModelConfig:
    """One small layer of any shape."""
    kv_heads, head_dim = random_.choice([1, 1, 2, 3, 4]), 2 * random_.randint(1, 40)
    heads = kv_heads * random_.choice([1, 1, 2, 4, 7])
    return ModelConfig(
        name="random",
        hidden_size=random_.choice([heads * head_dim, random_.randint(2, 300)]),
        intermediate_size=random_.randint(1, 600),
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=random_.randint(2, 1500),
        max_position_embeddings=10**6,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        tie_word_embeddings=random_.random() < 0.5,
        sliding_window=None,
    )


def step(dimension: str, length: int, other: int, formats: Formats) -> Scenario:
    if dimension == "prompt":
        return Scenario.prefill(formats, prompt=length)
    if dimension == "context":
        return Scenario.decode(formats, context=length, batch=other)
    if dimension == "batch of decode":
        return Scenario.decode(formats, context=8 * other, batch=length)
    return Scenario.prefill(formats, prompt=other, batch=length)


def cases(seed: int, is_random: bool, engine: str) -> Iterator[Case]:
    """One chip, model and dimension; up to the first step for which the chip is too small, or which has too many tiles to be played."""
    random_ = random.Random(f"longer steps {seed}")
    chip = random_chip(random_) if is_random else load_chip(random_.choice(NPUS))
    model = random_model(random_) if is_random else load_model(random_.choice(MODELS))
    dimension, most = random_.choice(DIMENSIONS), 7 if model.name == "stories15m" else 9 if is_random else 11  # stories15m holds 256
    shortest, other = round(2 ** random_.uniform(0, most)), round(2 ** random_.uniform(0, 4))
    fused = random_.random() < 0.8
    slowest, most_s = shortest, 0.0
    for more in (0, *STEPS):
        scenario = step(dimension, shortest + more, other, Formats.of(chip.default_format))
        try:
            total_s = predict_graph(trace(model, scenario), chip, engine, fused=fused).total_s
        except BadInput as error:
            if not any(text in str(error) for text in ("not one query with one key fits", "tiles of one GEMM; it plays up to")):
                raise
            return
        if more:
            yield Case(seed, chip.name, model.name, dimension, slowest, shortest + more, 1 - total_s / most_s)
        if total_s > most_s:
            slowest, most_s = shortest + more, total_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a longer step is faster.")
    parser.add_argument("--random", action="store_true", help="random chips and models, not those of the library")
    parser.add_argument("--engine", default="tiled")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=600.0)
    args = parser.parse_args()
    began, seed, found = time.monotonic(), args.first, list[Case]()
    while time.monotonic() - began < args.seconds:
        found += cases(seed, args.random, args.engine)
        seed += 1
    faster = sorted((each for each in found if each.faster > ROUNDING), key=lambda each: -each.faster)
    drawn = f"{len(found)} longer steps of seeds {args.first} to {seed - 1}, {args.engine}"
    print(f"{drawn}: {len(faster)} faster, of {len({each.seed for each in faster})} seeds")
    for each in faster[:WORST]:
        print(f"  {each.faster:.4%}: {each.model} on {each.chip}, {each.dimension} {each.longer} than {each.shorter}, seed {each.seed}")


if __name__ == "__main__":
    main()
