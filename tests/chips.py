"""Chips and models for tests: one with round numbers, and random ones that are valid."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import strategies as st

from functional.config import ModelConfig
from hwmodels import Chip, load_chip
from workloads.graph import OpGraph
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

_ROUND = """\
name: round
sources: [invented for tests]
standing: assumed
default_format: bf16
clock: 1 GHz
cores: 1
matrix:
  kind: systolic
  count: 1
  rows: 10
  cols: 10
  dataflows: [ws]
  rates: {{bf16: 1, int8: 2}}
  accumulate: {{bf16: fp32, int8: int32}}
vector: {{lanes: 10, cycles: {{add: 1, mul: 1, exp: 4, rsqrt: 4, convert: 1}}}}
memory:
  dram: {{capacity: {dram}, bandwidth: 100 GB/s}}
  sram: {{capacity: {sram}, bandwidth: 1000 GB/s}}
resident_share: {resident_share}
"""


def chip_of(text: str) -> Chip:
    """A chip from the text of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chip.yaml"
        path.write_text(text)
        return load_chip(path)


def round_chip(sram: str = "2 kB", dram: str = "10 GB", resident_share: float = 0.001) -> Chip:
    """1e11 MAC/s in bf16 and 2e11 in int8, 1e10 lane cycles per second, DRAM 1e11 B/s, SRAM 1e12 B/s.

    Unless said, no intermediate stays on it: 2 B of SRAM are free for them.
    """
    return chip_of(_ROUND.format(dram=dram, sram=sram, resident_share=resident_share))


def round_model(layers: int = 1, tied: bool = False, window: int | None = None) -> ModelConfig:
    """D = 100, F = 200, V = 1000, H = 10 query heads, G = 5 key/value heads, E = 10."""
    return ModelConfig(
        name="round",
        hidden_size=100,
        intermediate_size=200,
        num_hidden_layers=layers,
        num_attention_heads=10,
        num_key_value_heads=5,
        head_dim=10,
        vocab_size=1000,
        max_position_embeddings=100_000,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=tied,
        sliding_window=window,
    )


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    """Any valid chip that computes in bf16 and int8, plain and odd: one PE, an SRAM of one tile, seven cores, up to four levels."""
    whole, some = st.integers, draw(st.booleans())
    kind = draw(st.sampled_from(["systolic", "tensor_core"]))
    if kind == "systolic":
        rows, cols = draw(whole(1, 128)) if some else 1, draw(whole(1, 128)) if some else 1
        shape = f"rows: {rows}, cols: {cols}, dataflows: [ws, os]"
        granule = (rows, cols, rows)
    else:
        granule = draw(st.tuples(whole(1, 32), whole(1, 32), whole(1, 32)))
        shape = "tile: {{m: {}, n: {}, k: {}}}".format(*granule)
    m, n, k = granule
    one_tile = 2 * (2 * k * n + 2 * m * k + 4 * m * n)  # bf16 operands, fp32 sums, double-buffered
    levels = draw(whole(1, 3))
    sizes = sorted((one_tile * draw(whole(1, 3000)) for _ in range(levels)), reverse=True)
    sizes[-1] = draw(st.sampled_from([one_tile, sizes[-1]]))
    latency = draw(st.sampled_from(["0 ns", "100 ns"]))
    memory = [f"  dram: {{capacity: 1 TiB, bandwidth: {_bandwidth(draw)}, latency: {latency}, burst: 64 B}}"]
    for i, size in enumerate(sizes):
        per = draw(st.sampled_from(["chip", "core"]))
        memory.append(f"  level{i}: {{capacity: {size} B, bandwidth: {_bandwidth(draw)}, per: {per}}}")
    if draw(st.booleans()):
        memory[-1] = memory[-1][:-1] + ", holds: [weights, activations]}"
        memory.append(f"  sums: {{capacity: {one_tile} B, bandwidth: {_bandwidth(draw)}, per: core, holds: [psums]}}")
    return chip_of(
        f"""\
name: random
sources: [drawn for a test]
standing: assumed
default_format: bf16
clock: {draw(whole(1, 3000))} MHz
cores: {draw(st.sampled_from([1, 2, 7, 108]))}
matrix:
  {{kind: {kind}, count: {draw(whole(1, 8))}, {shape}, rates: {{bf16: {draw(whole(1, 512))}, int8: {draw(whole(1, 1024))}}},
   accumulate: {{bf16: fp32, int8: int32}}}}
vector: {{lanes: {draw(whole(1, 4096))}, cycles: {{add: 1, mul: 1, exp: {draw(whole(1, 16))}, rsqrt: {draw(whole(1, 16))}, convert: 1}}}}
memory:
"""
        + "\n".join(memory)
        + f"\noverhead: {{launch: {draw(st.sampled_from(['0 us', '5 us']))}}}\nresident_share: {draw(st.sampled_from([0.01, 0.5, 0.99]))}\n"
    )


def _bandwidth(draw: st.DrawFn) -> str:
    unit = draw(st.sampled_from(["MB/s", "GB/s", "B/cycle"]))
    if draw(st.booleans()):
        return f"{draw(st.integers(1, 5000))} {unit}"
    return f"{{read: {draw(st.integers(1, 5000))} {unit}, write: {draw(st.integers(1, 5000))} {unit}}}"


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    """A small model: grouped-query attention of any grouping, tied or not, with or without a window."""
    kv_heads = draw(st.integers(1, 3))
    return ModelConfig(
        name="random",
        hidden_size=draw(st.integers(1, 300)),
        intermediate_size=draw(st.integers(1, 500)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=kv_heads * draw(st.integers(1, 4)),
        num_key_value_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 40)),
        vocab_size=draw(st.integers(600, 3000)),
        max_position_embeddings=10_000,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=draw(st.booleans()),
        sliding_window=draw(st.sampled_from([None, 1, 16])),
    )


FORMATS = st.sampled_from([Formats("bf16", "bf16", "bf16"), Formats("int8", "int8", "int8"), Formats("int8", "bf16", "int8")])


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """A prefill or a decode step of up to 4 sequences; all its tokens are fewer than the words of any random model."""
    batch, formats = draw(st.integers(1, 4)), draw(FORMATS)
    logits = draw(st.sampled_from(["last", "all"]))
    if draw(st.booleans()):
        return Scenario.prefill(formats, batch, draw(st.integers(1, 150)), logits)  # type: ignore[arg-type]
    return Scenario.decode(formats, batch, draw(st.integers(1, 2000)), logits)  # type: ignore[arg-type]


@st.composite
def graphs(draw: st.DrawFn) -> OpGraph:
    """One step of a small model."""
    return trace(draw(models()), draw(scenarios()))
