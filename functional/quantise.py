"""Scaled number formats: what every op of the table gives on codes, and how a model gets into them.

A real value is `scale` x a code (`functional.qtensor`). Weight matrices have the scales of their format; a norm's weight has one scale, as
every tensor between ops and every side of the KV cache has: static, from a seeded run in fp32 (`calibrate`).

What an op gives on int8 is defined here once, exactly, and is what any tiled execution must give:

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

In mixed formats (`golden`) the operands of a product are brought to the wider of their formats first: with int4 weights and bf16
activations the weights are dequantised to bf16. What is written into a KV cache is quantised there, and dequantised where it is read. With
float activations all other ops are those of the op table; with fp8 ones they are computed in fp32 on dequantised inputs and requantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.formats import LARGEST as LARGEST_CODES
from functional.formats import is_integer, torch_dtype
from functional.interpreters import Interpreter
from functional.llama import Head, KVCache, LayerWeights, Weights, forward
from functional.ops import OPS, Op, View
from functional.qtensor import (
    MASKED,
    QTensor,
    common_format,
    integer_product,
    multiplier,
    quantise,
    quantise_weight,
    requantise,
    requantise_sums,
    scale_of,
)

A = TypeVar("A")
B = TypeVar("B")


def map_weights(weights: Weights[A], change: Callable[[A], B], angles: Callable[[A], B]) -> Weights[B]:
    """Every weight changed, tied ones staying one object; `angles` changes the inverse frequencies."""
    embed_tokens = change(weights.embed_tokens)
    layers = tuple(
        LayerWeights(**{name: change(getattr(layer, name)) for name in LayerWeights.__dataclass_fields__}) for layer in weights.layers
    )
    lm_head = embed_tokens if weights.lm_head is weights.embed_tokens else change(weights.lm_head)
    return Weights(embed_tokens, layers, change(weights.norm), lm_head, angles(weights.inverse_frequencies))


def quantise_weights(weights: Weights[Tensor], number_format: str = "int8", activations: str = "int8") -> Weights[QTensor]:
    """Matrices in a format of weights, norms in that of the activations; the inverse frequencies stay in fp32."""

    def change(weight: Tensor) -> QTensor:
        return quantise_weight(weight, number_format if weight.ndim > 1 else activations)

    return map_weights(weights, change, lambda tensor: QTensor(tensor, None))


def quantise_cache(cache: KVCache[Tensor], scales: Mapping[str, Tensor], number_format: str = "int8") -> KVCache[QTensor]:
    """A KV cache in a format, if it is a scaled one in the scales that `calibrate` found for it."""

    def change(name: str, tensor: Tensor) -> QTensor:
        if number_format not in LARGEST_CODES:
            return QTensor(tensor.to(torch_dtype(number_format), copy=True), None)
        return quantise(tensor, scales[name], number_format)

    def side(name: str, tensors: tuple[Tensor, ...]) -> tuple[QTensor, ...]:
        return tuple(change(f"layers.{i}.self_attn.{name}", tensor) for i, tensor in enumerate(tensors))

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
        self.caches: set[str] = set()

    def apply(self, op: Op, name: str, inputs: tuple[_Named, ...], **attrs: Any) -> _Named:
        output = op.compute(*(each.tensor for each in inputs), **attrs)
        amax = torch.where(output.isinf(), 0.0, output).abs().amax()
        if op.kind == "MemCopy":
            self.amax[inputs[1].maker] = amax
            self.caches.add(name)
        self.amax[name] = self.amax[inputs[0].maker] if op.kind == "ReduceMax" else amax
        return _Named(output, name)

    def view(self, view: View, x: _Named, **attrs: Any) -> _Named:
        return _Named(view.compute(x.tensor, **attrs), x.maker)


def takes_scales(activations: str, kv: str) -> bool:
    """Whether one of these formats is a scaled one."""
    return not LARGEST_CODES.keys().isdisjoint((activations, kv))


@torch.no_grad()
def calibrate(
    config: ModelConfig,
    weights: Weights[Tensor],
    ids: Tensor,
    cache: KVCache[Tensor],
    position: int,
    logits: Head = "last",
    activations: str = "int8",
    kv: str = "int8",
) -> tuple[dict[str, Tensor], Tensor]:
    """Scale of every op's output that is in a scaled format, by the op's name, and the logits, from one run in fp32; the cache is left as
    it was. Deterministic: ids and weights are the caller's, and seeded there."""
    f = _Calibrate()
    named = map_weights(weights, lambda tensor: _Named(tensor, ""), lambda tensor: _Named(tensor, ""))
    copies = KVCache(*(tuple(_Named(each.clone(), "") for each in side) for side in (cache.keys, cache.values)))
    found = forward(f, config, named, _Named(ids, ""), copies, position, ids.shape[1], logits)
    formats = {name: kv if name in f.caches else activations for name in f.amax}
    return {name: scale_of(amax, formats[name]) for name, amax in f.amax.items() if formats[name] in LARGEST_CODES}, found.tensor


# What each op gives in any formats -------------------------------------------------------------------------------------------------------


def golden(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], activations: str, scale: Tensor | None) -> QTensor:
    """The golden output of one op, with activations in that format; `scale` is that of its output if its format is a scaled one."""
    match op.kind:
        case "Linear" | "MatMul":
            return _product(op, inputs, attrs, activations, scale)
        case "Embedding":
            ids, table = inputs
            return _in_format(table.rows(ids.values), activations, scale)
        case "MemCopy":
            cache, new = inputs
            if new.format != cache.format:
                new = _in_format(new.real(), cache.format, cache.scale)
            return _mem_copy(op, (cache, new), attrs, scale)
        case "RoPETable":
            return QTensor(op.compute(inputs[0].values, **attrs), None)
    if activations not in LARGEST_CODES:
        return QTensor(op.compute(*(each.values for each in inputs), **attrs), None)
    assert scale is not None
    if activations == "int8":
        return golden_int8(op, inputs, attrs, scale)
    return quantise(op.compute(*(each.real() for each in inputs), **attrs), scale, activations)


def _in_format(real: Tensor, number_format: str, scale: Tensor | None) -> QTensor:
    """Values in a format between ops or of the KV cache."""
    return QTensor(real.to(torch_dtype(number_format)), None) if scale is None else quantise(real, scale, number_format)


def _product(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], activations: str, scale: Tensor | None) -> QTensor:
    """A product in the wider format of its operands."""
    wanted, a, b = common_format(*inputs)
    if scale is None:
        return QTensor(op.compute(a.values, b.values, **attrs).to(torch_dtype(activations)), None)
    if is_integer(wanted):
        return golden_int8(op, (a, b), attrs, scale)
    sums = op.compute(a.values.float(), b.values.float(), **attrs)
    return QTensor(requantise(sums * product_factor(a, b, scale), torch.ones(()), activations), scale, None, activations)


def product_factor(a: QTensor, b: QTensor, output: Tensor) -> Tensor:
    """What sums of products of codes are multiplied by to be codes of the output; operands that stand for themselves have scale 1."""
    one = torch.ones(())
    return multiplier(one if a.scale is None else a.scale, one if b.scale is None else b.scale, output)


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
    return quantise(table.rows(ids.values), scale)


def _mem_copy(op: Op, inputs: tuple[QTensor, ...], attrs: dict[str, Any], scale: Tensor | None) -> QTensor:
    cache, new = inputs
    if cache.scale is not None and not torch.equal(cache.scale, _scale(new)):
        raise ValueError(f"a KV cache of scale {cache.scale.item()} cannot take codes of scale {_scale(new).item()}")
    return cache.with_values(op.compute(cache.values, new.values, **attrs))


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
    "Concat": _in_fp32,
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
    """Computes in mixed formats, scaled ones with static scales by op name; keeps inputs and output of every op that `wanted` accepts."""

    scales: Mapping[str, Tensor]
    wanted: Callable[[str], bool] = lambda name: True
    activations: str = "int8"
    captured: dict[str, QCaptured] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def apply(self, op: Op, name: str, inputs: tuple[QTensor, ...], **attrs: Any) -> QTensor:
        # A cache is written in place, so what went in and what came out are kept as they were.
        keep = op.kind == "MemCopy" and self.wanted(name)
        before = tuple(each.with_values(each.values.clone()) if keep else each for each in inputs)
        output = golden(op, inputs, attrs, self.activations, self.scales.get(name))
        if self.wanted(name):
            after = output.with_values(output.values.clone()) if keep else output
            self.captured[name] = QCaptured(op, name, before, attrs, after)
        return output

    def view(self, view: View, x: QTensor, **attrs: Any) -> QTensor:
        return x.with_values(view.compute(x.values, **attrs))


@dataclass(eq=False)
class InPieces(Interpreter[QTensor]):
    """Interprets the model's text with every linear in `parts` pieces of its outputs and a Concat that puts them together, as
    `workloads.split` cuts a graph; another interpreter computes each op."""

    inner: Interpreter[QTensor]
    parts: int

    def __post_init__(self) -> None:
        super().__init__()

    def apply(self, op: Op, name: str, inputs: tuple[QTensor, ...], **attrs: Any) -> QTensor:
        if op.kind != "Linear":
            return self.inner.apply(op, name, inputs, **attrs)
        x, weight = inputs
        rows = weight.values.shape[0] // self.parts
        pieces = [weight.part(slice(i * rows, (i + 1) * rows)) for i in range(self.parts)]
        outputs = [self.inner.apply(op, f"{name}.slice_{i}", (x, piece), **attrs) for i, piece in enumerate(pieces)]
        return self.inner.apply(OPS["Concat"], name, tuple(outputs))

    def view(self, view: View, x: QTensor, **attrs: Any) -> QTensor:
        return self.inner.view(view, x, **attrs)


def scales_in_pieces(scales: Mapping[str, Tensor], pieces: Mapping[str, str]) -> dict[str, Tensor]:
    """Scales by op name, with those of pieces of linears: that of the whole, by the name of the op that puts each piece into its place."""
    return {**scales, **{piece: scales[whole] for piece, whole in pieces.items() if whole in scales}}
