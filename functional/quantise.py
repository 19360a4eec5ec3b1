"""int8: how values become integers, and what every op of the table gives on them.

A real value is `scale` x an integer in -127 ... 127 (symmetric, no zero point). A weight matrix has one scale per row, which is an output
channel of a Linear and a word of an embedding table; a norm's weight has one scale. Every tensor between ops has one static scale, from
a seeded run in fp32 (`calibrate`). The code -128 is never a value: it marks a masked score.

What an op gives on integers is defined here once, exactly, and is what any tiled execution must give:

| op | output |
|---|---|
| Linear, MatMul | exact int32 sum of products, times one fp32 multiplier (operands' scales over the output's), rounded once |
| Embedding | the row times its scale, requantised |
| MemCopy | the integers themselves: what is written has the scale of the cache |
| ReduceMax | the largest integer of the row, in the scale of the scores |
| ElementwiseExp | exp of the integer difference to the maximum, in fp32, requantised; a masked score gives 0 |
| Normalize, RMSNorm | the sum (of squares) is an exact integer, so that no order of summation shows; the rest in fp32, requantised |
| RoPE, SiLU, Mul, Add | dequantised to fp32, computed by the op table, requantised |
| RoPETable | fp32, as always |

To requantise is to multiply by 1 / scale, round half to even and clamp to +-127. Source of the scheme: Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, arXiv 1712.05877 (with the zero points at 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.interpreters import Interpreter
from functional.llama import Head, KVCache, LayerWeights, Weights, forward
from functional.ops import Op, View

LARGEST = 127
MASKED = -128
"""The code of a score that must not be seen: below every value, so that a maximum never meets it."""

EXACT_IN_FP32 = 2**24 // (LARGEST + 1) ** 2
"""Products of two int8 values whose sum fp32 still holds exactly, in any order of addition."""

LARGEST_SUM = 2**29
"""Sums below this, times a 24-bit multiplier, float64 still holds exactly; 33,286 products of two int8 values cannot exceed it."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True, eq=False)
class QTensor:
    """int8 values and their scale: fp32, a scalar or one per row; None where the values stand for themselves (ids, angles)."""

    values: Tensor
    scale: Tensor | None

    def real(self) -> Tensor:
        """The values that the integers stand for, in fp32; a masked score is -inf."""
        if self.scale is None:
            return self.values
        scale = self.scale[:, None] if self.scale.ndim else self.scale
        return (self.values.float() * scale).masked_fill(self.values == MASKED, float("-inf"))


def scale_of(amax: Tensor) -> Tensor:
    """The fp32 scale that brings magnitudes up to `amax` to 127; 1 where there is nothing but zeros."""
    return torch.where(amax > 0, amax.float() / LARGEST, torch.ones_like(amax, dtype=torch.float32))


def requantise(real: Tensor, scale: Tensor) -> Tensor:
    """fp32 values as int8 of that scale: times 1 / scale, half to even, clamped."""
    return (real.float() * scale.reciprocal()).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def multiplier(a: Tensor, b: Tensor, output: Tensor) -> Tensor:
    """fp32 factor from int32 sums to the output's integers: scale of a x scale of b / scale of the output, a scalar or one per column."""
    return (a.double() * b.double() / output.double()).float()


def requantise_sums(sums: Tensor, factor: Tensor) -> Tensor:
    """Integer sums [..., N] times a factor (scalar or [N]) as int8: exact in float64, then one rounding, half to even.

    Raises ValueError for a sum of `LARGEST_SUM` or more, whose product would be rounded twice.
    """
    if sums.numel() and sums.abs().amax() >= LARGEST_SUM:
        raise ValueError(f"an integer sum of {int(sums.abs().amax())} cannot be requantised exactly; the largest is {LARGEST_SUM - 1}")
    return (sums.double() * factor.double()).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 a[..., M, K] times int8 b[..., K, N], exactly, in int32.

    fp32 products of pieces of K that are so short that no partial sum needs more than 24 bits: exact in any order, and fast everywhere.
    """
    depth = a.shape[-1]
    sums: Tensor | None = None
    for start in range(0, depth, EXACT_IN_FP32):
        piece = slice(start, start + EXACT_IN_FP32)
        product = (widened(a[..., piece]) @ widened(b[..., piece, :])).to(torch.int32)
        sums = product if sums is None else sums.add_(product)
    assert sums is not None
    return sums


def widened(tensor: Tensor) -> Tensor:
    """fp32 values, packed row by row: several times faster than keeping the strides of a transposed slice."""
    return tensor.to(torch.float32, memory_format=torch.contiguous_format)


def quantise(real: Tensor, scale: Tensor) -> QTensor:
    """A tensor as int8 of one scale."""
    return QTensor(requantise(real, scale), scale)


def quantise_weight(weight: Tensor) -> QTensor:
    """A matrix with one scale per row, or a vector with one scale."""
    if weight.ndim == 1:
        return quantise(weight, scale_of(weight.abs().amax()))
    scale = scale_of(weight.abs().amax(1))
    return QTensor(requantise(weight, scale[:, None]), scale)


def map_weights(weights: Weights[A], change: Callable[[A], B], angles: Callable[[A], B]) -> Weights[B]:
    """Every weight changed, tied ones staying one object; `angles` changes the inverse frequencies."""
    embed_tokens = change(weights.embed_tokens)
    layers = tuple(
        LayerWeights(**{name: change(getattr(layer, name)) for name in LayerWeights.__dataclass_fields__}) for layer in weights.layers
    )
    lm_head = embed_tokens if weights.lm_head is weights.embed_tokens else change(weights.lm_head)
    return Weights(embed_tokens, layers, change(weights.norm), lm_head, angles(weights.inverse_frequencies))


def quantise_weights(weights: Weights[Tensor]) -> Weights[QTensor]:
    """All weights in int8; the inverse frequencies stay in fp32."""
    return map_weights(weights, quantise_weight, lambda tensor: QTensor(tensor, None))


def quantise_cache(cache: KVCache[Tensor], scales: dict[str, Tensor]) -> KVCache[QTensor]:
    """A KV cache in int8, in the scales that `calibrate` found for it."""

    def side(name: str, tensors: tuple[Tensor, ...]) -> tuple[QTensor, ...]:
        return tuple(quantise(tensor, scales[f"layers.{i}.self_attn.{name}"]) for i, tensor in enumerate(tensors))

    return KVCache(side("k_cache", cache.keys), side("v_cache", cache.values))


# Scales ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """A tensor and the op that made it, which a view does not change."""

    tensor: Tensor
    maker: str


class _Calibrate(Interpreter[_Named]):
    """Computes, and notes the largest magnitude that every op gives; what is written into a cache shares the cache's."""

    def __init__(self) -> None:
        super().__init__()
        self.amax: dict[str, Tensor] = {}

    def apply(self, op: Op, name: str, inputs: tuple[_Named, ...], **attrs: Any) -> _Named:
        output = op.compute(*(each.tensor for each in inputs), **attrs)
        amax = torch.where(output.isinf(), 0.0, output).abs().amax()
        if op.kind == "MemCopy":
            self.amax[inputs[1].maker] = amax
        self.amax[name] = self.amax[inputs[0].maker] if op.kind == "ReduceMax" else amax
        return _Named(output, name)

    def view(self, view: View, x: _Named, **attrs: Any) -> _Named:
        return _Named(view.compute(x.tensor, **attrs), x.maker)


@torch.no_grad()
def calibrate(
    config: ModelConfig, weights: Weights[Tensor], ids: Tensor, cache: KVCache[Tensor], position: int, logits: Head = "last"
) -> dict[str, Tensor]:
    """Scale of every op's output, by the op's name, from one run in fp32; the cache is left as it was.

    Deterministic: ids and weights are the caller's, and seeded there.
    """
    f = _Calibrate()
    named = map_weights(weights, lambda tensor: _Named(tensor, ""), lambda tensor: _Named(tensor, ""))
    copies = KVCache(*(tuple(_Named(each.clone(), "") for each in side) for side in (cache.keys, cache.values)))
    forward(f, config, named, _Named(ids, ""), copies, position, ids.shape[1], logits)
    return {name: scale_of(amax) for name, amax in f.amax.items()}


# What each op gives on integers ----------------------------------------------------------------------------------------------------------

Kernel = Callable[[Op, tuple[QTensor, ...], dict[str, Any], Tensor], QTensor]


def golden_int8(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    """The golden output of one op on quantised inputs, in the given scale of its output."""
    return KERNELS[op.kind](op, inputs, attrs, scale)


def _scale(tensor: QTensor) -> Tensor:
    assert tensor.scale is not None
    return tensor.scale


def _linear(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    x, weight = inputs
    sums = integer_product(x.values, weight.values.T)
    return QTensor(requantise_sums(sums, multiplier(_scale(x), _scale(weight), scale)), scale)


def _matmul(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    """float64 holds the integer sums exactly; the op table masks them with -inf."""
    a, b = inputs
    sums = op.compute(a.values.double(), b.values.double(), **attrs)
    hidden = sums.isinf()
    output = requantise_sums(sums.masked_fill(hidden, 0), multiplier(_scale(a), _scale(b), scale))
    return QTensor(output.masked_fill(hidden, MASKED), scale)


def _embedding(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    ids, table = inputs
    rows = op.compute(ids.values, table.values, output_format=None).float() * _scale(table)[ids.values.long()][..., None]
    return quantise(rows, scale)


def _mem_copy(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    cache, new = inputs
    if not torch.equal(_scale(cache), _scale(new)):
        raise ValueError(f"a KV cache of scale {_scale(cache).item()} cannot take integers of scale {_scale(new).item()}")
    return QTensor(op.compute(cache.values, new.values, **attrs), _scale(cache))


def _reduce_max(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    (scores,) = inputs
    return QTensor(op.compute(scores.values, **attrs), scores.scale)


def _exponential(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    scores, maxima = inputs
    below = (scores.values.int() - maxima.values.int()).float()
    powers = (below * (_scale(scores) * attrs["scale"])).exp()
    return quantise(powers.masked_fill(scores.values == MASKED, 0.0), scale)


def _normalize(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    values = inputs[0].values
    total = values.sum(-1, keepdim=True, dtype=torch.int64)
    return quantise(values.float() * total.float().reciprocal(), scale)


def _rms_norm(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    x, weight = inputs
    squares = x.values.int().square().sum(-1, keepdim=True, dtype=torch.int64)
    mean_square = squares.float() * (_scale(x) * _scale(x) / x.values.shape[-1])
    return quantise(x.real() * (mean_square + attrs["eps"]).rsqrt() * weight.real(), scale)


def _in_fp32(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    return quantise(op.compute(*(each.real() for each in inputs), **attrs), scale)


def _angles(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor) -> QTensor:
    return QTensor(op.compute(inputs[0].values, **attrs), None)


KERNELS: dict[str, Kernel] = {
    "Embedding": _embedding,
    "RoPETable": _angles,
    "RMSNorm": _rms_norm,
    "Linear": _linear,
    "RoPE": _in_fp32,
    "MemCopy": _mem_copy,
    "MatMul": _matmul,
    "ReduceMax": _reduce_max,
    "ElementwiseExp": _exponential,
    "Normalize": _normalize,
    "SiLU": _in_fp32,
    "Mul": _in_fp32,
    "Add": _in_fp32,
}
"""What each op of the table gives on integers, but those of sampling, which is in fp32; a test says that none is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class QCaptured:
    """One op executed on integers: what went in, what came out."""

    op: Op
    name: str
    inputs: tuple[QTensor, ...]
    attrs: dict[str, Any]
    output: QTensor


@dataclass(eq=False)
class Quantised(Interpreter[QTensor]):
    """Computes in int8 with static scales by op name, and keeps inputs and output of every op that `wanted` accepts."""

    scales: dict[str, Tensor]
    wanted: Callable[[str], bool] = lambda name: True
    captured: dict[str, QCaptured] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def apply(self, op: Op, name: str, inputs: tuple[QTensor, ...], **attrs: Any) -> QTensor:
        # A cache is written in place, so what went in and what came out are kept as they were.
        keep = op.kind == "MemCopy" and self.wanted(name)
        before = tuple(QTensor(each.values.clone(), each.scale) if keep else each for each in inputs)
        output = golden_int8(op, inputs, attrs, self.scales[name])
        if self.wanted(name):
            after = QTensor(output.values.clone(), output.scale) if keep else output
            self.captured[name] = QCaptured(op, name, before, attrs, after)
        return output

    def view(self, view: View, x: QTensor, **attrs: Any) -> QTensor:
        return QTensor(view.compute(x.values, **attrs), x.scale)
