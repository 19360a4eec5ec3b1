"""Truth defended: a number format costs the bytes and the work of what it stores, and what is stored gives the values that it says."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from functional.config import ModelConfig
from functional.errors import BadInput, UnknownName
from functional.format_error import FormatError, error_of, format_error
from functional.formats import LARGEST, TENSOR_FORMATS, WEIGHT_FORMATS, bits_of, element_of, group_of, is_integer, weight_format, wider
from functional.llama import forward
from functional.ops import OPS
from functional.qtensor import QTensor, brought, integer_product, packed, quantise_weight, requantise, weight_bytes
from functional.quantise import Quantised, calibrate, golden, quantise_cache, quantise_weights
from functional.spec import TensorSpec
from functional.weights import new_cache, random_weights
from hwmodels import with_values
from sim import Timeline, load_chip, predict, predict_graph, roofline_grid, trace_model, verify
from sim.cli.verify import app as verify_app
from sim.engines import tiled
from sim.explore.limits import limits
from sim.gemm import gemm_on_chip
from sim.golden import write_golden
from tests.chips import round_chip, round_model
from workloads.demand import demand
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats

SMALL = ModelConfig("small", 256, 512, 2, 8, 2, 32, 500, 512, 1e-5, 10000.0, tie_word_embeddings=True)
TINY = ModelConfig("tiny", 40, 56, 2, 6, 2, 8, 203, 256, 1e-5, 10000.0, tie_word_embeddings=True)
GROUPED = [name for name in WEIGHT_FORMATS if group_of(name)]
SCALED = [name for name in WEIGHT_FORMATS if name not in ("bf16", "fp16", "fp32")]
MIXED: dict[str, Any] = {"weights": "int4:g128", "activations": "bf16", "kv": "int8"}


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


# Names -----------------------------------------------------------------------------------------------------------------------------------


def test_what_a_name_says() -> None:
    assert [bits_of(name) for name in ("int4:g64", "int8:channel", "fp8:tensor", "bf16")] == [4, 8, 8, 16]
    assert [group_of(name) for name in ("int4:g64", "int8:g128", "int4:channel", "int8")] == [64, 128, None, None]
    assert [wider(*pair) for pair in (("int4:g32", "bf16"), ("int8:channel", "int8"), ("int4", "int8:g32"), ("int8", "fp8:tensor"))] == [
        "bf16",
        "int8",
        "int8",
        "fp8",
    ]
    assert [name for name in WEIGHT_FORMATS if is_integer(name)] == ["int8", "int4", *GROUPED]


@pytest.mark.parametrize(
    ("weights", "activations", "kv", "message"),
    [
        ("int4:g127", None, None, "--weights: unknown number format 'int4:g127'; of int4 there is int4, int4:g32, int4:g64, int4:g128"),
        ("int4g32", None, None, "did you mean 'int4:g32'?"),
        ("int8:channel", None, None, "--weights: unknown number format 'int8:channel'; of int8 there is int8, int8:g32, int8:g64"),
        (None, "int4:g32", None, "--activations: 'int4:g32' is no format between ops: the golden model does not compute in it"),
        (None, "int4", None, "--activations: 'int4' is no format between ops: the golden model does not compute in it"),
        (None, None, "int8:g64", "--kv: 'int8:g64' is a format of weights"),
        ("", None, None, "--weights: unknown number format ''; known: bf16"),
        (None, "", None, "--activations: unknown number format ''; known: bf16"),
        (None, None, "", "--kv: unknown number format ''; known: bf16"),
    ],
)
def test_a_format_that_cannot_be_is_refused(weights: str | None, activations: str | None, kv: str | None, message: str) -> None:
    with pytest.raises(UnknownName) as refused:
        Formats.of("bf16", weights, activations, kv)
    assert message in str(refused.value)


def test_a_missing_rate_is_that_of_the_wider_format() -> None:
    with pytest.raises(BadInput, match=r"matrix\.rates\.fp8: edge-npu has no rate for fp8; choose .* among int8, bf16"):
        predict("stories15m", "edge-npu", prompt=8, weights="int4:g32", activations="fp8")


# Bytes -----------------------------------------------------------------------------------------------------------------------------------

HIDDEN, INNER, WORDS, LAYERS = 2048, 8192, 128_256, 16
ELEMENTS = WORDS * HIDDEN + LAYERS * (2 * HIDDEN * HIDDEN + 2 * 512 * HIDDEN + 3 * INNER * HIDDEN)
ROWS = WORDS + LAYERS * (HIDDEN + 512 + 512 + HIDDEN + INNER + INNER + HIDDEN)
NORMS = 2 * 33 * HIDDEN
LLAMA_1B = {
    "fp32": 4 * ELEMENTS,
    "bf16": 2 * ELEMENTS,
    "fp16": 2 * ELEMENTS,
    "fp8": ELEMENTS + 4 * (1 + 7 * LAYERS),  # one fp32 per matrix
    "int8": ELEMENTS + 4 * ROWS,  # one fp32 per row
    "int4": ELEMENTS // 2 + 4 * ROWS,
    "int8:g32": ELEMENTS + ELEMENTS // 32 * 3,  # fp16 scale and 8-bit zero point
    "int8:g64": ELEMENTS + ELEMENTS // 64 * 3,
    "int8:g128": ELEMENTS + ELEMENTS // 128 * 3,
    "int4:g32": ELEMENTS // 2 + ELEMENTS // 64 * 5,  # fp16 scale and 4-bit zero point: 2.5 bytes
    "int4:g64": ELEMENTS // 2 + ELEMENTS // 128 * 5,
    "int4:g128": ELEMENTS // 2 + ELEMENTS // 256 * 5,
}


def test_the_shapes_counted_by_hand_are_those_of_the_model() -> None:
    assert (ELEMENTS, ROWS, LLAMA_1B["int4:g128"] + NORMS) == (1_235_746_816, 505_088, 642_144_256)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_the_weights_of_llama_in_every_format_by_hand(name: str) -> None:
    """Norms stay in the format of the activations; the table is shared with lm_head."""
    graph = trace_model("llama-3.2-1b", "bf16", phase="decode", weights=name)
    assert sum(int(each.spec.size_bytes) for each in graph.tensors.values() if each.role == "weight") == LLAMA_1B[name] + NORMS
    assert predict("llama-3.2-1b", "h100-sxm5-80gb", weights=name, phase="decode").memory.weights_bytes == LLAMA_1B[name] + NORMS
    read, written = (demand(graph).compulsory_bytes(is_write) for is_write in (False, True))
    cache_bytes = 2 * 16 * 8 * 64 * 2
    assert read == LLAMA_1B[name] + NORMS + 512 * cache_bytes + 4
    assert written == cache_bytes + 2 * WORDS


@pytest.mark.parametrize(
    ("shape", "name", "values", "beside"),
    [
        ((3, 100), "int4:g32", 150, 3 * 4 * 2 + 6),  # 100 = 3 x 32 + 4: four groups per row
        ((1, 5), "int4:g32", 3, 2 + 1),
        ((3, 33), "int4:g32", 50, 3 * 2 * 2 + 3),
        ((3, 5), "int4", 8, 12),
        ((3, 5), "int8:g128", 15, 9),
        ((3, 5), "fp8", 15, 4),
        ((3, 5), "bf16", 30, 0),
    ],
)
def test_bytes_of_ragged_matrices_by_hand(shape: tuple[int, int], name: str, values: int, beside: int) -> None:
    spec = TensorSpec(shape, weight_format(name))
    assert (spec.size_bytes, spec.scales_bytes) == (values + beside, beside)


@given(rows=st.integers(1, 40), columns=st.integers(1, 300), name=st.sampled_from(WEIGHT_FORMATS))
@settings(deadline=None, max_examples=60)
def test_what_is_charged_is_what_the_tensors_take(rows: int, columns: int, name: str) -> None:
    """Two derivations: the formula of a spec, and the packed tensors of a quantised matrix."""
    spec = TensorSpec((rows, columns), weight_format(name))
    assert weight_bytes(quantise_weight(matrix(rows, columns), name)) == (spec.size_bytes - spec.scales_bytes, spec.scales_bytes)


def test_nibbles_by_hand() -> None:
    assert packed(torch.tensor([[1, 15, 7]], dtype=torch.uint8), 4).tolist() == [0xF1, 0x07]
    assert packed(torch.tensor([-1, -7], dtype=torch.int8), 4).tolist() == [0x9F]


def test_rows_of_an_embedding_bring_their_scales() -> None:
    for name, row_bytes in (("int4:g32", 50 + 4 * 2 + 2), ("int8", 104), ("bf16", 200)):
        graph = trace_model(round_model(), "bf16", phase="decode", context=9, weights=name)
        assert graph.ops[0].work.size_bytes == row_bytes  # type: ignore[union-attr]


# Time ------------------------------------------------------------------------------------------------------------------------------------


def row(timeline: Timeline, name: str) -> dict[str, Any]:
    return next(figures for op, figures in timeline.rows() if op.name == name)


def decode(**asked: Any) -> Timeline:
    return predict(round_model(), round_chip(), phase="decode", context=999, fused=False, engine="roofline", **asked)


@pytest.mark.parametrize(
    ("formats", "size_bytes", "microseconds"),
    [
        # 100 x 100 weights, x and result 200 B each in bf16. 1e10 lane cycles per second: 1 us per primitive and weight.
        ({"weights": "int4:g32"}, 5000 + 400 * 2 + 200 + 400, 3),  # convert, subtract the zero point, scale
        ({"weights": "int8:g128"}, 10_000 + 100 * 3 + 400, 3),
        ({"weights": "int4"}, 5000 + 400 + 400, 2),  # convert, scale
        ({"weights": "fp8"}, 10_004 + 400, 2),
        ({"weights": "int4", "activations": "int8"}, 5000 + 400 + 200, 1),  # convert; scales wait for the sums
        ({"weights": "int4:g32", "activations": "int8"}, 6000 + 200, 3),
    ],
)
def test_dequantisation_of_weights_by_hand(formats: dict[str, str], size_bytes: int, microseconds: float) -> None:
    figures = row(decode(**formats), "layers.0.self_attn.q_proj")
    assert figures["dram_bytes"] == size_bytes
    assert figures["latency_s"] == pytest.approx(microseconds * 1e-6)
    assert figures["bound_by"] == "vector"


def test_integers_alike_need_no_vector_unit() -> None:
    figures = row(decode(weights="int8", activations="int8"), "layers.0.self_attn.q_proj")
    assert (figures["bound_by"], figures["dram_bytes"]) == ("dram", 10_000 + 400 + 200)


def test_a_cache_of_eight_bits_by_hand() -> None:
    """5 heads of 10: 1000 keys are 50,000 B and as many conversions and products; the new key is quantised as it is written."""
    timeline = decode(kv="int8")
    scores, write = row(timeline, "layers.0.self_attn.scores"), row(timeline, "layers.0.self_attn.k_cache")
    assert (scores["dram_bytes"], scores["bound_by"]) == (200 + 50_000 + 20_000, "vector")
    assert scores["latency_s"] == pytest.approx(2 * 50_000 / 1e10)
    assert write["dram_bytes"] == 100 + 50
    assert demand(timeline.graph, False).classes[-1].load.counts == {}
    counts = next(each.load.counts for each in demand(timeline.graph, False).classes if each.ops[0].name.endswith("k_cache"))
    assert counts == {"convert": 50, "mul": 50}


@pytest.mark.parametrize("narrow", ["int8", "fp8"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_cache_of_eight_bits_is_half_and_changes_no_other_op(phase: Any, narrow: str) -> None:
    wide, small = (
        predict("llama-3.2-1b", "h100-sxm5-80gb", phase=phase, kv=kv, fused=False, engine="roofline") for kv in ("bf16", narrow)
    )
    assert 2 * small.memory.kv_cache_bytes == wide.memory.kv_cache_bytes
    assert small.memory.weights_bytes == wide.memory.weights_bytes
    changed = set()
    for (op, before), (_, after) in zip(wide.rows(), small.rows(), strict=True):
        if {**before, "group": 0} != {**after, "group": 0}:
            changed.add(op.name.rpartition(".")[2])
            assert op.name.endswith(("k_cache", "v_cache", "scores", "context")), op.name
    assert changed >= ({"k_cache", "v_cache"} if phase == "prefill" else {"k_cache", "v_cache", "scores", "context"})


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("weights", ["int4:g32", "int8", "fp8"])
def test_the_vectorised_roofline_is_the_scalar_one(weights: str, fused: bool) -> None:
    chip, contexts = load_chip("h100-sxm5-80gb"), np.array([1, 77, 250])
    asked = {"phase": "decode", "weights": weights, "kv": "int8"}
    found = roofline_grid(trace_model("stories15m", "bf16", context=contexts, **asked), chip, fused=fused)  # type: ignore[arg-type]
    for i, context in enumerate(contexts):
        graph = trace_model("stories15m", "bf16", context=int(context), **asked)  # type: ignore[arg-type]
        one = predict_graph(graph, chip, "roofline", fused=fused)
        assert (found.latency_s[i], np.broadcast_to(found.floor_s, 3)[i]) == (one.total_s, one.floor_s)  # type: ignore[index]


@pytest.mark.parametrize("formats", [MIXED, {"weights": "int4:g32", "activations": "int8", "kv": "int8"}, {"weights": "int8:g64"}])
@pytest.mark.parametrize("chip", ["edge-npu", "cloud-npu"])
@pytest.mark.parametrize("phase", PHASES)
def test_fidelities_bracket_each_other(phase: Any, chip: str, formats: dict[str, Any]) -> None:
    times = [predict("stories15m", chip, phase=phase, prompt=40, engine=engine, **formats) for engine in ("roofline", "tiled", "cycle")]
    assert times[0].floor_s <= times[0].total_s
    for lower, upper in pairwise(times):
        assert lower.total_s <= upper.total_s * (1 + 1e-12)


def test_graphs_with_formats_survive_json() -> None:
    graph = trace_model("stories15m", "bf16", prompt=8, weights="int4:g64", kv="fp8")
    again = OpGraph.from_json(graph.to_json())
    assert again.to_json() == graph.to_json()
    assert demand(again).compulsory_bytes(False) == demand(graph).compulsory_bytes(False)


def test_limits_and_gemm_take_group_wise_weights() -> None:
    (found,) = limits("llama-3.2-1b", "edge-npu", weights="int4:g128", activations="bf16", kv="int8").rows
    assert found.weights_bytes == LLAMA_1B["int4:g128"] + NORMS
    mixed = gemm_on_chip(1, 256, 512, load_chip("edge-npu"), "bf16", "int4:g128").to_dict()
    assert mixed["format"] == "bf16"
    assert mixed["lower_bound_bytes"] == 2 * 512 + 256 * 512 // 2 + 256 * 4 * 5 // 2 + 2 * 256
    assert mixed["traffic_bytes"]["dram"] >= mixed["lower_bound_bytes"]
    assert mixed["latency_s"]["roofline"] == 3 * 256 * 512 / 32 / 1e9 <= mixed["latency_s"]["tiled"] <= mixed["latency_s"]["cycle"]


# Values ----------------------------------------------------------------------------------------------------------------------------------


def test_a_group_by_hand() -> None:
    """-1 ... 2 in 16 levels: scale 0.2 (up to fp16), zero point 5, so that codes are 0 ... 15."""
    weight = torch.zeros(1, 32)
    weight[0, :4] = torch.tensor([-1.0, 2.0, 0.31, -0.29])
    found = quantise_weight(weight, "int4:g32")
    assert found.scale is not None
    assert found.zero is not None
    assert 0.2 <= float(found.scale) < 0.2 * (1 + 2**-10)
    assert (found.zero.tolist(), found.values[0, :5].tolist()) == ([[5]], [0, 15, 7, 4, 5])
    assert found.real()[0, :5].tolist() == pytest.approx([-1.0, 2.0, 0.4, -0.2, 0.0], abs=2e-3)


def test_groups_lie_along_the_last_axis_and_the_last_one_is_short() -> None:
    weight = torch.ones(2, 40)
    weight[0, 32:] = 100.0
    found = quantise_weight(weight, "int8:g32")
    assert found.scale is not None
    assert found.scale.shape == (2, 2)
    assert found.scale.argmax() == 1
    assert torch.allclose(found.real(), weight, rtol=2e-3)


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 150),
    name=st.sampled_from(SCALED),
    spread=st.floats(1e-3, 1e3),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=100)
def test_nothing_is_further_off_than_half_a_step(rows: int, columns: int, name: str, spread: float, shift: float, seed: int) -> None:
    real = (matrix(rows, columns, seed) + shift) * spread
    found = quantise_weight(real, name)
    assert found.format == name
    assert found.scale is not None
    error = (found.real() - real).abs()
    scale = found.scale.float()
    if group_of(name):
        step = scale.repeat_interleave(group_of(name) or 1, 1)[:, :columns]
    elif name == "fp8":  # half a step of three mantissa bits, or of the smallest subnormal, 2^-9
        step = torch.maximum(real.abs() * 2**-3, scale * 2**-9)
    else:
        step = scale[:, None]
    assert (error <= 0.5 * step * (1 + 1e-4)).all()
    zeros = quantise_weight(torch.zeros(rows, columns), name)
    assert torch.equal(zeros.real(), torch.zeros(rows, columns))


@pytest.mark.parametrize(("name", "largest"), [("int4", 7), ("int8", 127), ("fp8", 448)])
def test_what_is_larger_than_its_scale_foresaw_ends_at_the_largest_code(name: str, largest: int) -> None:
    found = requantise(torch.tensor([1e9, -1e9, largest + 0.4, 1.0]), torch.tensor(1.0), name)
    assert found.float().tolist() == [largest, -largest, largest, 1]


def test_what_has_no_scale_in_fp16_is_refused() -> None:
    with pytest.raises(ValueError, match="no scale in fp16"):
        quantise_weight(torch.tensor([[1e7, -1e7]]), "int4:g32")


# Products --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_products_of_integers_are_exact(name: str) -> None:
    """int4 codes are int8 codes: against 64-bit integers."""
    x, weight = quantise_weight(matrix(3, 4100, 1)[:1]), brought(quantise_weight(matrix(5, 4100, 2), name), "int8")
    found = integer_product(x.values, weight.values.T)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), x.values.long() @ weight.values.long().T)
    assert weight.values.abs().max() == (127 if name == "int8" else 7)


@pytest.mark.parametrize("name", SCALED)
def test_weights_alone_are_dequantised_then_multiplied(name: str) -> None:
    x, weight = QTensor(matrix(3, 100).bfloat16(), None), quantise_weight(matrix(7, 100, 1), name)
    found = golden(OPS["Linear"], (x, weight), {}, "bf16", None)
    assert (found.format, found.scale) == ("bf16", None)
    assert torch.equal(found.values, x.values @ weight.real().bfloat16().T)


@pytest.mark.parametrize("name", GROUPED)
def test_groups_get_a_scale_per_row_for_integer_products(name: str) -> None:
    weight = quantise_weight(matrix(7, 100, 1), name)
    found = brought(weight, "int8")
    assert found.scale is not None
    assert found.scale.shape == (7,)
    assert ((found.real() - weight.real()).abs() <= 0.5001 * found.scale[:, None]).all()


# Models ----------------------------------------------------------------------------------------------------------------------------------


def errors(*formats: str, seed: int = 3) -> FormatError:
    ids = torch.randint(500, (2, 40), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    return format_error(SMALL, random_weights(SMALL, seed), ids, formats)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fewer_bits_and_longer_groups_are_further_from_fp32(seed: int) -> None:
    names = ("fp32", "bf16", "int8:g32", "int8", "fp8", "int4:g32", "int4:g64", "int4:g128", "int4")
    found = [errors(name, "fp32", "fp32", seed=seed).rms_error for name in names]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] < 1


@pytest.mark.parametrize("kv", TENSOR_FORMATS)
@pytest.mark.parametrize("activations", [name for name in TENSOR_FORMATS if name != "int4"])
def test_every_mix_of_formats_computes(activations: str, kv: str) -> None:
    """Nothing but four bits may take the logits further than a third of their size from fp32."""
    for weights in ("bf16", "fp8", "int8", "int4:g32"):
        error = errors(weights, activations, kv)
        limit = 0.8 if element_of(weights) == "int4" or kv == "int4" else 0.33
        assert 0 <= error.rms_error < limit * error.fp32_rms, (weights, activations, kv, error)
        assert error.tokens == 80


@pytest.mark.parametrize("kv", ["int8", "fp8", "int4"])
def test_each_side_of_the_cache_has_a_scale_of_its_own(kv: str) -> None:
    """The largest key and the largest value of a layer have the largest code, whatever format the activations have."""
    weights, ids = random_weights(TINY, 2), torch.randint(203, (2, 9), generator=torch.Generator().manual_seed(4), dtype=torch.int32)
    empty = new_cache(TINY, 2, 9)
    scales, _ = calibrate(TINY, weights, ids, empty, 0, "all", "fp32", kv)
    assert set(scales) == {f"layers.{i}.self_attn.{side}_cache" for i in range(2) for side in "kv"}
    cache = quantise_cache(empty, scales, kv)
    f = Quantised(scales, activations="fp32")
    forward(f, TINY, quantise_weights(weights, "fp32", "fp32"), QTensor(ids, None), cache, 0, 9, "all", "fp32")
    first = f.captured["layers.0.self_attn.k_rope"].output.values, f.captured["layers.0.self_attn.v_proj"].output.values
    for side, real in ((cache.keys, first[0]), (cache.values, first[1].view(2, 9, 2, 8).transpose(1, 2))):
        assert all(float(each.values.float().abs().max()) == LARGEST[kv] for each in side)
        scale = side[0].scale
        assert scale is not None
        step = torch.maximum(real.abs() * 2**-3, scale * 2**-9) if kv == "fp8" else scale
        assert ((side[0].real() - real).abs() <= 0.5001 * step).all()


def test_an_error_by_hand() -> None:
    found, wanted = torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [5.0, 4.0]]])
    assert error_of(found, wanted) == FormatError(5.0, pytest.approx(6.5**0.5), 0.5, pytest.approx(11.5**0.5), 2)
    # The most likely word of each token, not the most likely token of each word: (1, 1) and (1, 0).
    agreeing = error_of(torch.tensor([[[0.0, 5.0, 1.0], [2.0, 4.0, 3.0]]]), torch.tensor([[[0.0, 9.0, 1.0], [6.0, 5.0, 3.0]]]))
    assert agreeing.top1_agreement == 0.5


# Execution -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("chip", "number_format", "weights", "kv"),
    [
        ("edge-npu", "bf16", "int4:g128", "int8"),
        ("edge-npu", "bf16", "int8", "int4"),
        ("edge-npu", "int8", "int4:g32", "int8"),
        ("edge-npu", "int8", "int4", "int4"),
        ("edge-npu", "int8", "bf16", "int8"),
        ("cloud-npu", "bf16", "int8:g64", "fp8"),
        ("h100-sxm5-80gb", "bf16", "int4:g32", "fp8"),
        ("h100-sxm5-80gb", "fp16", "fp8", "int8"),
        ("h100-sxm5-80gb", "bf16", "fp32", "fp32"),
    ],
)
def test_what_is_charged_in_mixed_formats_is_executed(chip: str, number_format: str, weights: str, kv: str, phase: Any) -> None:
    result = verify(TINY, chip, phase=phase, prompt=13, batch=2, layers=2, number_format=number_format, weights=weights, kv=kv)
    assert result.passed, [(each.name, each.differences) for each in result.ops if not each.passed]
    assert result.logits is not None
    assert result.logits.judged == (number_format == "int8" and is_integer(weights))
    assert result.error.tokens == 2 * (13 if phase == "prefill" else 14)


def test_scales_that_are_not_charged_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "scales", lambda group_class, passes=1: [])
    result = verify(TINY, "edge-npu", prompt=5, number_format="bf16", weights="int4:g32")
    assert result.first_difference == "layers.0.self_attn.q_proj"
    # q, k, v of 48, 16 and 16 rows of 40 = 32 + 8 columns: two groups a row, 2.5 B each, on bursts of 64 B.
    read = result.ops[3].tally.dram_read_bytes - result.ops[3].charge.dram_read_bytes  # type: ignore[union-attr]
    assert read == 256 + 128 + 128


def test_scales_come_as_often_as_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SRAM in which neither operand fits: weights are read again for other rows, and their scales with them."""
    chip = with_values(load_chip("edge-npu"), {"memory.sram.capacity": 6000})
    asked: dict[str, Any] = {"phase": "prefill", "prompt": 40, "layers": 1, "number_format": "bf16", "weights": "int4:g32"}
    result = verify(TINY, chip, **asked)
    assert result.passed, [(each.name, each.differences) for each in result.ops if not each.passed]
    charged = sum(each.charge.dram_read_bytes for each in result.ops if each.charge is not None)
    monkeypatch.setattr(tiled, "weight_passes", lambda *mapped: Fraction(1))
    once = verify(TINY, chip, **asked)
    assert not once.passed
    assert sum(each.charge.dram_read_bytes for each in once.ops if each.charge is not None) < charged


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"number_format": "fp8"}, "matrix.rates.fp8: edge-npu has no rate for fp8"),
        ({"activations": "int4"}, "--activations: "),
        ({"weights": "int4:g33"}, "--weights: unknown number format 'int4:g33'; of int4 there is int4, int4:g32"),
    ],
)
def test_what_is_not_executed_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        verify(TINY, "edge-npu", prompt=5, **wrong)
    assert message in str(refused.value)


def test_verify_prints_the_error_of_the_formats(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps")
    fields = {name: getattr(TINY, name) for name in (*names, "num_hidden_layers", "max_position_embeddings", "rope_theta")}
    file.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **fields}))
    arguments = [str(file), "--chip", "edge-npu", "--prompt", "5", "--phase", "prefill", "--dtype", "bf16", "--weights", "int4:g128"]
    printed = CliRunner().invoke(verify_app, [*arguments, "--kv", "int8"])
    assert printed.exit_code == 0
    assert "weights int4:g128, activations bf16, KV int8" in printed.output
    assert "these formats against fp32: logits max error" in printed.output
    assert "top-1 agreement" in printed.output
    phases = json.loads(CliRunner().invoke(verify_app, [*arguments, "--format", "json"]).output)
    assert phases[0]["error_against_fp32"].keys() == {"max_error", "rms_error", "top1_agreement", "fp32_rms", "tokens"}
    assert (phases[0]["format"], phases[0]["weights"], phases[0]["kv"]) == ("bf16", "int4:g128", "bf16")


# Golden vectors --------------------------------------------------------------------------------------------------------------------------


def test_golden_vectors_of_group_wise_weights_by_numpy_alone(tmp_path: Path) -> None:
    """(code - zero point) x scale, group by group of the archive, is near the weights; x times it, rounded, is the output."""
    manifest = write_golden(SMALL, tmp_path / "v", ops=["*.k_proj"], number_format="fp32", weights="int4:g64", kv="int8", prompt=5)
    (op,) = manifest["ops"]
    x, weight, output = op["tensors"]
    archive = np.load(tmp_path / "v" / op["npz"])
    assert (weight["format"], weight["dtype"], weight["scale"]["axis"], weight["scale"]["group"]) == ("int4:g64", "uint8", 1, 64)
    scale, zero = (archive[weight[key]["array"]].astype(np.float32) for key in ("scale", "zero_point"))
    codes = archive["weight"].astype(np.float32)
    real = (codes.reshape(64, 4, 64) - zero[..., None]) * scale[..., None]
    wanted = random_weights(SMALL).layers[0].k_proj.numpy().reshape(64, 4, 64)
    assert (np.abs(real - wanted) <= 0.501 * scale[..., None]).all()
    found = archive["x"].astype(np.float64) @ real.reshape(64, 256).T.astype(np.float64)
    assert np.array_equal(found.astype(np.float32), archive["output"])
    lines = (tmp_path / "v" / weight["hex"]).read_text().splitlines()
    assert [int(line, 16) for line in lines[1:]] == codes.flatten().tolist()
    assert all(len(line) == 1 for line in lines[1:])
    assert manifest["weights"] == "int4:g64"
    assert manifest["error_against_fp32"]["tokens"] == 5
    assert (x["scale"], output["scale"], weight["tolerance"]) == (None, None, None)


@pytest.mark.parametrize("number_format", ["fp8", "bf16", "int8"])
@pytest.mark.parametrize("phase", PHASES)
def test_golden_vectors_of_every_op_in_mixed_formats(tmp_path: Path, number_format: str, phase: Any) -> None:
    """What the op itself gives from the inputs in the files is within the tolerance that the manifest allows."""
    manifest = write_golden(
        SMALL, tmp_path / "v", ops=["*"], number_format=number_format, weights="int4:g32", kv="int8", phase=phase, prompt=6, layers=2
    )
    assert len(manifest["ops"]) == 2 + 2 * 22 + 2
    assert manifest["error_against_fp32"]["rms_error"] < 1
    caches = [op["tensors"] for op in manifest["ops"] if op["kind"] == "MemCopy"]
    assert all(tensors[0]["format"] == tensors[2]["format"] == "int8" for tensors in caches)
    assert all(tensors[1]["format"] == number_format for tensors in caches)
    assert all((tensors[2]["tolerance"]["absolute"] == 1) == (number_format != "int8") for tensors in caches)
