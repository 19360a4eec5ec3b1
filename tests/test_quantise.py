"""Truth defended: what an op gives in int8 is defined exactly, agrees with the float op to half a step, and depends on no order."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.interpreters import Capture
from functional.llama import forward
from functional.model import prefill
from functional.ops import OPS, SAMPLING_KINDS
from functional.qtensor import (
    LARGEST,
    LARGEST_SUM,
    MASKED,
    QTensor,
    integer_product,
    multiplier,
    quantise,
    quantise_weight,
    requantise,
    requantise_sums,
    scale_of,
)
from functional.quantise import KERNELS, Quantised, calibrate, golden_int8, quantise_cache, quantise_weights
from functional.spec import TensorSpec
from functional.weights import new_cache, random_weights
from functional.work import Mask

MODEL = ModelConfig("small", 64, 112, 2, 8, 2, 8, 90, 128, 1e-5, 10000.0, tie_word_embeddings=True)


def one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def codes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int8)


# Rounding --------------------------------------------------------------------------------------------------------------------------------


def test_requantise_by_hand() -> None:
    """Scale 0.5: half a code goes to the even one, and what is too large stops at 127 on both sides."""
    real = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75, 0.26, 63.4, 63.6, 1e9, -1e9])
    assert requantise(real, one(0.5)).tolist() == [0, 2, 2, 0, -2, 1, 127, 127, 127, -127]


@pytest.mark.parametrize("scale", [1.0, 0.1, 3e-7, 12345.678])
def test_a_quantised_value_comes_back(scale: float) -> None:
    every = torch.arange(-LARGEST, LARGEST + 1, dtype=torch.int8)
    assert torch.equal(requantise(QTensor(every, one(scale)).real(), one(scale)), every)


def test_requantised_sums_equal_rational_arithmetic() -> None:
    """One exact product, one rounding: against fractions, ties and sums near the limit among them."""
    rng = random.Random(1)
    sums = [rng.randrange(-LARGEST_SUM + 1, LARGEST_SUM) >> rng.randrange(28) for _ in range(3000)]
    sums += [33_816_577, LARGEST_SUM - 1, 3, 5, -3, -5]
    factors = [rng.random() * 2.0 ** -rng.randrange(30) for _ in range(3000)] + [0.5**19, 0.5**23, 0.5, 0.5, 0.5, 0.5]
    factor = torch.tensor(factors, dtype=torch.float32)
    found = requantise_sums(torch.tensor(sums, dtype=torch.int32), factor).tolist()
    exact = [Fraction(value) * Fraction(float(f)) for value, f in zip(sums, factor.tolist(), strict=True)]
    assert found == [max(-LARGEST, min(LARGEST, round(value))) for value in exact]  # round() of a Fraction is half to even
    assert found[-6:] == [65, 64, 2, 2, -2, -2]  # the first is 64.5 and a little, which fp32 would lose


def test_a_sum_that_would_be_rounded_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="an integer sum of 536870912 cannot be requantised exactly"):
        requantise_sums(torch.tensor([LARGEST_SUM], dtype=torch.int32), one(1e-9))


# Products --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 7, 1023, 1024, 1025, 3000, 8192])
def test_integer_products_are_exact(depth: int) -> None:
    """Against NumPy's 64-bit integers, with all products of one sign too, where partial sums are largest."""
    rng = np.random.default_rng(depth)
    for low in (-128, 100, 127):
        a, b = (rng.integers(low, 128, shape, dtype=np.int64) for shape in ((3, depth), (depth, 5)))
        found = integer_product(torch.tensor(a, dtype=torch.int8), torch.tensor(b, dtype=torch.int8))
        assert found.dtype == torch.int32
        assert np.array_equal(found.numpy(), a @ b)


def test_linear_by_hand() -> None:
    """Rows of the weight have scales 1 and 0.5: sums 1 x 3 + 2 x 4 = 11 and 1 x 5 - 2 x 1 = 3 stand for 0.1 x (11, 1.5) = (1.1, 0.15)."""
    x = QTensor(codes(1, 2)[None], one(0.1))
    weight = QTensor(torch.stack((codes(3, 4), codes(5, -1))), torch.tensor([1.0, 0.5]))
    output = golden_int8(OPS["Linear"], (x, weight), {}, one(0.05))
    assert output.values.tolist() == [[22, 3]]
    assert output.real()[0].tolist() == pytest.approx([1.1, 0.15])


# Attention -------------------------------------------------------------------------------------------------------------------------------


def test_softmax_by_hand() -> None:
    """Two queries, two keys, causal: the first query sees one key only."""
    mask = Mask(0)
    q, k = QTensor(torch.tensor([[[[10], [20]]]], dtype=torch.int8), one(0.1)), QTensor(
        torch.tensor([[[[10], [-10]]]], dtype=torch.int8), one(0.1)
    )
    scores = golden_int8(OPS["MatMul"], (q, k), {"mask": mask, "mask_axis": "n"}, one(0.02))
    assert scores.values.tolist() == [[[[50, MASKED], [100, -100]]]]
    maxima = golden_int8(OPS["ReduceMax"], (scores,), {"mask": mask}, one(9.0))
    assert (maxima.values.tolist(), maxima.scale) == ([[[[50], [100]]]], scores.scale)
    powers = golden_int8(OPS["ElementwiseExp"], (scores, maxima), {"mask": mask, "scale": 0.25}, one(1 / 127))
    assert powers.values.tolist() == [[[[127, 0], [127, 47]]]]  # exp(0.25 x 0.02 x -200) = 0.3679 = 46.7 / 127
    shares = golden_int8(OPS["Normalize"], (powers,), {"mask": mask}, one(1 / 127))
    assert shares.values.tolist() == [[[[127, 0], [93, 34]]]]  # 127 x 127 / 174 = 92.7


def test_a_masked_score_is_minus_infinity() -> None:
    assert QTensor(codes(MASKED, -LARGEST), one(0.5)).real().tolist() == [-np.inf, -63.5]


# All ops ---------------------------------------------------------------------------------------------------------------------------------


def test_every_op_of_the_table_has_a_kernel() -> None:
    assert set(KERNELS) == set(OPS) - set(SAMPLING_KINDS)  # these are fp32 always


def quantised_input(spec: TensorSpec, generator: torch.Generator, is_matrix: bool) -> QTensor:
    shape = tuple(int(dim) for dim in spec.shape)
    if spec.format == "int32":
        return QTensor(torch.randint(8, shape, generator=generator, dtype=torch.int32), None)
    real = torch.randn(shape, generator=generator)
    if spec.format == "fp32":
        return QTensor(real, None)
    return quantise_weight(real) if is_matrix else quantise(real, scale_of(real.abs().max()))


def call(kind: str, seed: int) -> tuple[tuple[QTensor, ...], dict[str, Any]]:
    """Quantised inputs of an example of the table, masked as the ops before would have left them."""
    example = OPS[kind].example(random.Random(seed))
    generator = torch.Generator().manual_seed(seed)
    inputs = [quantised_input(spec, generator, kind in ("Linear", "Embedding") and i == 1) for i, spec in enumerate(example.inputs)]
    attrs = dict(example.attrs)
    if kind in ("Normalize", "MatMul") and attrs.get("mask_axis") != "n":  # exponentials and probabilities are not negative
        inputs[0] = QTensor(inputs[0].values.abs().clamp(min=1), inputs[0].scale)
    if kind == "ElementwiseExp":
        inputs[1] = golden_int8(OPS["ReduceMax"], (inputs[0],), {"mask": attrs["mask"]}, one(1.0))
    if kind == "MemCopy":
        inputs[1] = QTensor(inputs[1].values, inputs[0].scale)
    return tuple(inputs), attrs


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("seed", range(4))
def test_integers_agree_with_floats_to_half_a_step(kind: str, seed: int) -> None:
    """The op table in float64 on what the integers stand for; half a step of the output is all that rounding may add."""
    inputs, attrs = call(kind, seed)
    op = OPS[kind]
    wide = [each.real() if each.scale is not None else each.values for each in inputs]
    wanted = op.compute(*(each.clone() for each in wide), **attrs)
    seen = ~wanted.isinf()
    scale = inputs[0].scale if kind == "MemCopy" else scale_of(wanted[seen].abs().max())
    assert scale is not None
    output = golden_int8(op, tuple(QTensor(each.values.clone(), each.scale) for each in inputs), attrs, scale)
    found = output.real()
    assert torch.equal(found.isinf(), ~seen)
    step = 1e-6 if output.scale is None else float(output.scale)
    assert (found - wanted)[seen].abs().max() <= 0.5001 * step
    assert kind == "RoPETable" or output.values.dtype == torch.int8


@pytest.mark.parametrize("kind", ["Normalize", "RMSNorm"])
def test_no_order_of_summation_shows(kind: str) -> None:
    """The reduced axis turned around gives the same integers, turned around, on rows so long that fp32 sums would differ."""
    values = torch.randint(1, 128, (1, 1, 40, 5000), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    weight = QTensor(torch.full((5000,), LARGEST, dtype=torch.int8), one(1 / LARGEST))
    extra, attrs = ((), {"mask": Mask(0)}) if kind == "Normalize" else ((weight,), {"eps": 1e-5})
    scale = one(1e-6) if kind == "Normalize" else one(2 / LARGEST)
    forwards = golden_int8(OPS[kind], (QTensor(values, one(0.01)), *extra), attrs, scale)
    backwards = golden_int8(OPS[kind], (QTensor(values.flip(-1), one(0.01)), *extra), attrs, scale)
    assert torch.equal(forwards.values, backwards.values.flip(-1))


# Models ----------------------------------------------------------------------------------------------------------------------------------


def run(batch: int = 2, tokens: int = 20) -> tuple[Quantised, QTensor, Tensor, dict[str, Tensor]]:
    weights = random_weights(MODEL, 3)
    ids = torch.randint(90, (batch, tokens), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    scales, _ = calibrate(MODEL, weights, ids, new_cache(MODEL, batch, tokens), 0, "all")
    f = Quantised(scales)
    cache = quantise_cache(new_cache(MODEL, batch, tokens), scales)
    logits = forward(f, MODEL, quantise_weights(weights), QTensor(ids, None), cache, 0, tokens, "all")
    return f, logits, prefill(MODEL, weights, ids, new_cache(MODEL, batch, tokens), "all"), scales


def test_a_model_in_int8_stays_close_to_fp32() -> None:
    f, logits, wanted, _ = run()
    error = (logits.real() - wanted).square().mean().sqrt() / wanted.std()
    assert 0.001 < error < 0.12
    assert len(f.captured) == 2 + 2 * 22 + 2


def test_scales_are_those_of_the_largest_magnitude() -> None:
    """Against Capture, op by op: amax / 127; the cache and what is written into it share one."""
    *_, scales = run()
    weights = random_weights(MODEL, 3)
    ids = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    capture = Capture()
    with torch.no_grad():
        forward(capture, MODEL, weights, ids, new_cache(MODEL, 2, 20), 0, 20, "all")
    for name, each in capture.captured.items():
        amax = each.output[~each.output.isinf()].abs().max()
        if not name.endswith("softmax_max"):
            assert float(scales[name]) == pytest.approx(float(amax) / 127, rel=1e-6), name
    assert scales["layers.1.self_attn.softmax_max"] == scales["layers.1.self_attn.scores"]
    for written, cache in (("k_rope", "k_cache"), ("v_proj", "v_cache")):
        assert scales[f"layers.0.self_attn.{written}"] == scales[f"layers.0.self_attn.{cache}"]


def test_calibration_covers_what_the_cache_held_before_and_leaves_it_alone() -> None:
    weights, ids = random_weights(MODEL), torch.ones(1, 1, dtype=torch.int32)
    cache = new_cache(MODEL, 1, 5)
    for side in (*cache.keys, *cache.values):
        side[:, :, :4] = 63.5
    before = [side.clone() for side in (*cache.keys, *cache.values)]
    scales, _ = calibrate(MODEL, weights, ids, cache, 4)
    assert float(scales["layers.1.self_attn.k_rope"]) == 0.5
    assert all(torch.equal(side, old) for side, old in zip((*cache.keys, *cache.values), before, strict=True))


def test_integers_of_another_scale_are_not_copied() -> None:
    cache = QTensor(torch.zeros(1, 1, 4, 2, dtype=torch.int8), one(0.5))
    new = QTensor(torch.ones(1, 1, 1, 2, dtype=torch.int8), one(0.25))
    with pytest.raises(ValueError, match=r"a KV cache of scale 0\.5 cannot take codes of scale 0\.25"):
        golden_int8(OPS["MemCopy"], (cache, new), {"offset": 0}, one(0.5))


def test_weights_have_a_scale_per_row_and_tied_ones_stay_one() -> None:
    weights = quantise_weights(random_weights(MODEL))
    assert weights.lm_head is weights.embed_tokens
    matrix, real = weights.layers[0].up_proj, random_weights(MODEL).layers[0].up_proj
    assert matrix.scale is not None
    assert matrix.scale.shape == (112,)
    assert matrix.values.abs().amax(1).tolist() == [LARGEST] * 112
    assert ((matrix.real() - real).abs() <= 0.5001 * matrix.scale[:, None]).all()
    assert weights.norm.scale is not None
    assert weights.norm.scale.ndim == 0


def test_zeros_have_scale_one() -> None:
    assert float(scale_of(torch.tensor(0.0))) == 1.0


def test_multiplier_is_rounded_once_to_fp32() -> None:
    found = multiplier(one(0.1), torch.tensor([0.3, 0.7]), one(0.9))
    wanted = [float(np.float32(float(np.float32(0.1)) * float(np.float32(w)) / float(np.float32(0.9)))) for w in (0.3, 0.7)]
    assert found.tolist() == wanted
