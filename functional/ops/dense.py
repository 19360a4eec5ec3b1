"""Ops on whole rows of tokens: embedding, norms, linears, angles of positions and what is element-wise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functional.formats import torch_dtype
from functional.ops.table import Example, converted, counted, register, rows_of, spec
from functional.spec import Dim, TensorSpec
from functional.work import Contraction, Move, Vector, Work

if TYPE_CHECKING:
    import random

    from torch import Tensor


@register
class Embedding:
    """Rows ids[B, T] of the table [V, D]: [B, T, D], in `output_format` or, if that is None, in the table's own."""

    @staticmethod
    def compute(ids: Tensor, table: Tensor, *, output_format: str | None) -> Tensor:
        rows = table[ids.long()]
        return rows if output_format is None else rows.to(torch_dtype(output_format))

    @staticmethod
    def shape(ids: TensorSpec, table: TensorSpec, *, output_format: str | None) -> TensorSpec:
        return TensorSpec((*ids.shape, table.shape[1]), output_format or table.format)

    @staticmethod
    def work(ids: TensorSpec, table: TensorSpec, *, output_format: str | None) -> Work:
        return Move(TensorSpec((ids.elements, table.shape[1]), table.format).size_bytes)

    @staticmethod
    def example(rng: random.Random) -> Example:
        ids, table = spec(rng.randint(1, 3), rng.randint(1, 5), like="int32"), spec(rng.randint(8, 16), rng.randint(1, 8))
        return Example((ids, table), {"output_format": None})


@register
class RoPETable:
    """Cosines and sines of the positions `first` ... `first` + T - 1 times the inverse frequencies: [2, T, E/2] in fp32.

    The inverse frequencies, [E/2] in fp32, hold the llama3 scaling already. Source: Su et al., arXiv 2104.09864, eq. 15.
    """

    @staticmethod
    def compute(inverse_frequencies: Tensor, *, first: int, length: int) -> Tensor:
        import torch

        positions = torch.arange(first, first + length, device=inverse_frequencies.device).float()
        angles = positions[:, None] * inverse_frequencies
        return torch.stack((angles.cos(), angles.sin()))

    @staticmethod
    def shape(inverse_frequencies: TensorSpec, *, first: Dim, length: Dim) -> TensorSpec:
        return TensorSpec((2, length, inverse_frequencies.shape[0]), "fp32")

    @staticmethod
    def work(inverse_frequencies: TensorSpec, *, first: Dim, length: Dim) -> Work:
        angles = length * inverse_frequencies.elements
        return Vector(angles, counted(mul=angles, exp=2 * angles, convert=length), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return Example((spec(rng.randint(1, 8), like="fp32"),), {"first": rng.randint(0, 9), "length": rng.randint(1, 6)})


@register
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis. Source: Zhang and Sennrich, arXiv 1910.07467, eq. 4."""

    @staticmethod
    def compute(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
        wide = x.float()
        mean_square = (wide * wide).sum(-1, keepdim=True) * (1 / x.shape[-1])
        return (wide * (mean_square + eps).rsqrt() * weight.float()).to(x.dtype)

    @staticmethod
    def shape(x: TensorSpec, weight: TensorSpec, *, eps: float) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, weight: TensorSpec, *, eps: float) -> Work:
        elements, rows = x.elements, rows_of(x)
        counts = counted(mul=3 * elements + rows, add=elements + rows, rsqrt=rows, convert=converted(x, weight, x))
        return Vector(elements, counts, reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        width = rng.randint(1, 8)
        return Example((spec(rng.randint(1, 3), rng.randint(1, 5), width), spec(width)), {"eps": 1e-5})


@register
class Linear:
    """x[..., K] times the transpose of weight[N, K]: [..., N]."""

    @staticmethod
    def compute(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T

    @staticmethod
    def shape(x: TensorSpec, weight: TensorSpec) -> TensorSpec:
        return TensorSpec((*x.shape[:-1], weight.shape[0]), x.format)

    @staticmethod
    def work(x: TensorSpec, weight: TensorSpec) -> Work:
        return Contraction(1, rows_of(x), weight.shape[0], weight.shape[1], x.format, weight.format)

    @staticmethod
    def example(rng: random.Random) -> Example:
        width = rng.randint(1, 8)
        return Example((spec(rng.randint(1, 3), rng.randint(1, 5), width), spec(rng.randint(1, 9), width)))


@register
class SiLU:
    """x / (1 + exp(-x)). Source: Elfwing et al., arXiv 1702.03118."""

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        wide = x.float()
        return (-wide).exp_().add_(1).reciprocal_().mul_(wide).to(x.dtype)

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec) -> Work:
        elements = x.elements
        return Vector(elements, counted(mul=2 * elements, exp=elements, add=elements, rsqrt=elements, convert=converted(x, x)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return Example((spec(rng.randint(1, 3), rng.randint(1, 9)),))


def _pair(rng: random.Random) -> Example:
    shape = (rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 9))
    return Example((spec(*shape), spec(*shape)))


@register
class Mul:
    """Element-wise product of two tensors of one shape."""

    @staticmethod
    def compute(a: Tensor, b: Tensor) -> Tensor:
        return (a.float() * b.float()).to(a.dtype)

    @staticmethod
    def shape(a: TensorSpec, b: TensorSpec) -> TensorSpec:
        return a

    @staticmethod
    def work(a: TensorSpec, b: TensorSpec) -> Work:
        return Vector(a.elements, counted(mul=a.elements, convert=converted(a, b, a)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _pair(rng)


@register
class Add:
    """Element-wise sum of two tensors of one shape."""

    @staticmethod
    def compute(a: Tensor, b: Tensor) -> Tensor:
        return (a.float() + b.float()).to(a.dtype)

    @staticmethod
    def shape(a: TensorSpec, b: TensorSpec) -> TensorSpec:
        return a

    @staticmethod
    def work(a: TensorSpec, b: TensorSpec) -> Work:
        return Vector(a.elements, counted(add=a.elements, convert=converted(a, b, a)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _pair(rng)


@register
class Concat:
    """Pieces x_i[..., N_i] side by side: [..., sum of N_i]. A move; within a group the pieces lie in one buffer already."""

    @staticmethod
    def compute(*pieces: Tensor) -> Tensor:
        import torch

        return torch.cat(pieces, dim=-1)

    @staticmethod
    def shape(*pieces: TensorSpec) -> TensorSpec:
        width: Dim = 0
        for piece in pieces:
            width = width + piece.shape[-1]
        return TensorSpec((*pieces[0].shape[:-1], width), pieces[0].format)

    @staticmethod
    def work(*pieces: TensorSpec) -> Work:
        return Move(Concat.shape(*pieces).size_bytes)

    @staticmethod
    def example(rng: random.Random) -> Example:
        rows = rng.randint(1, 3), rng.randint(1, 5)
        return Example(tuple(spec(*rows, rng.randint(1, 8)) for _ in range(rng.randint(1, 4))))
