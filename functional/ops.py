"""The op table: each op declared once, with its PyTorch implementation, shape rule, inherent work and an example.

Contract tests run over every op registered here: traced shape equals computed shape, declared work equals a tally kept while the
implementation runs. PyTorch is imported only when something is computed. Vector ops convert to fp32, compute and convert back, and are
charged for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from functional.formats import torch_dtype
from functional.spec import Dim, TensorSpec
from functional.work import Contraction, Mask, Move, Vector, Work

if TYPE_CHECKING:
    import random

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs of one call: specs of the tensors, and attributes."""

    inputs: tuple[TensorSpec, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One row of the table. All four functions take the op's inputs in the same order and its attributes by keyword."""

    kind: str
    compute: Callable[..., Tensor]
    shape: Callable[..., TensorSpec]
    work: Callable[..., Work]
    example: Callable[[random.Random], Example]


OPS: dict[str, Op] = {}


def _register(declaration: type) -> Op:
    """Turn a class of four static functions into a row of the table."""
    op = Op(declaration.__name__, declaration.compute, declaration.shape, declaration.work, declaration.example)  # type: ignore[attr-defined]
    OPS[op.kind] = op
    return op


def _spec(*shape: Dim, like: str = "bf16") -> TensorSpec:
    return TensorSpec(shape, like)


def _if_narrow(spec: TensorSpec, elements: Dim) -> Dim:
    """`elements` where the format must be converted from or to fp32, else 0."""
    return 0 if spec.format == "fp32" else elements


def _converted(*specs: TensorSpec) -> Dim:
    """Elements that a vector op converts from or to fp32."""
    total: Dim = 0
    for spec in specs:
        total = total + _if_narrow(spec, spec.elements)
    return total


def _counts(**counts: Dim) -> dict[str, Dim]:
    """Counts by primitive without the zeros."""
    return {primitive: count for primitive, count in counts.items() if not isinstance(count, int) or count}


def _rows(spec: TensorSpec) -> Dim:
    return TensorSpec(spec.shape[:-1], spec.format).elements


def _visible(spec: TensorSpec, mask: Mask) -> Dim:
    """Unmasked elements of a score tensor [B, H, T, S]."""
    batch, heads, queries, keys = spec.shape
    return batch * heads * mask.visible_pairs(queries, keys)


def _attention_shape(rng: random.Random) -> tuple[int, int, int, int, int, int]:
    """B, H, G, T, S, E of a small grouped-query attention."""
    kv_heads, queries = rng.randint(1, 3), rng.randint(1, 6)
    return rng.randint(1, 3), kv_heads * rng.randint(1, 3), kv_heads, queries, queries + rng.randint(0, 5), 2 * rng.randint(1, 4)


def _score_example(rng: random.Random, rows: bool, **attrs: Any) -> Example:
    batch, heads, _, queries, keys, _ = _attention_shape(rng)
    scores = _spec(batch, heads, queries, keys)
    inputs = (scores, _spec(batch, heads, queries, 1)) if rows else (scores,)
    return Example(inputs, {"mask": Mask(keys - queries, rng.choice([None, 2, 4])), **attrs})


@_register
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
        ids, table = _spec(rng.randint(1, 3), rng.randint(1, 5), like="int32"), _spec(rng.randint(8, 16), rng.randint(1, 8))
        return Example((ids, table), {"output_format": None})


@_register
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
        return Vector(angles, _counts(mul=angles, exp=2 * angles, convert=length), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return Example((_spec(rng.randint(1, 8), like="fp32"),), {"first": rng.randint(0, 9), "length": rng.randint(1, 6)})


@_register
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
        elements, rows = x.elements, _rows(x)
        counts = _counts(mul=3 * elements + rows, add=elements + rows, rsqrt=rows, convert=_converted(x, weight, x))
        return Vector(elements, counts, reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        width = rng.randint(1, 8)
        return Example((_spec(rng.randint(1, 3), rng.randint(1, 5), width), _spec(width)), {"eps": 1e-5})


@_register
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
        return Contraction(1, _rows(x), weight.shape[0], weight.shape[1], x.format, weight.format)

    @staticmethod
    def example(rng: random.Random) -> Example:
        width = rng.randint(1, 8)
        return Example((_spec(rng.randint(1, 3), rng.randint(1, 5), width), _spec(rng.randint(1, 9), width)))


@_register
class RoPE:
    """Rotate the pairs (x[e], x[e + E/2]) of x[B, H, T, E] by the angles of a table [2, T, E/2]."""

    @staticmethod
    def compute(x: Tensor, table: Tensor) -> Tensor:
        import torch

        first, second = x.float().chunk(2, dim=-1)
        cosine, sine = table
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)

    @staticmethod
    def shape(x: TensorSpec, table: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, table: TensorSpec) -> Work:
        return Vector(x.elements, _counts(mul=2 * x.elements, add=x.elements, convert=_converted(x, x)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        batch, heads, _, queries, _, width = _attention_shape(rng)
        return Example((_spec(batch, heads, queries, width), _spec(2, queries, width // 2, like="fp32")))


@_register
class MemCopy:
    """Write new[B, G, T, E] at `offset` into a cache [B, G, capacity, E] in place; the filled part [B, G, offset + T, E]."""

    @staticmethod
    def compute(cache: Tensor, new: Tensor, *, offset: int) -> Tensor:
        filled = offset + new.shape[2]
        cache[:, :, offset:filled] = new
        return cache[:, :, :filled]

    @staticmethod
    def shape(cache: TensorSpec, new: TensorSpec, *, offset: Dim) -> TensorSpec:
        return TensorSpec((*cache.shape[:2], offset + new.shape[2], cache.shape[3]), cache.format)

    @staticmethod
    def work(cache: TensorSpec, new: TensorSpec, *, offset: Dim) -> Work:
        return Move(TensorSpec(new.shape, cache.format).size_bytes)

    @staticmethod
    def example(rng: random.Random) -> Example:
        batch, _, heads, queries, keys, width = _attention_shape(rng)
        return Example((_spec(batch, heads, keys + 1, width), _spec(batch, heads, queries, width)), {"offset": keys - queries})


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """[B, H, T, X] as [B, G, H/G * T, X]: the query heads that share a key/value head become rows of one product."""
    batch, heads, rows, width = x.shape
    return x.reshape(batch, kv_heads, heads // kv_heads * rows, width)


def _hidden(scores: Tensor, mask: Mask) -> Tensor:
    """True where a query must not see a key, for scores [..., T, S]."""
    import torch

    rows, keys = scores.shape[-2:]
    last = torch.arange(rows, device=scores.device)[:, None] + int(mask.offset)
    key = torch.arange(keys, device=scores.device)
    future: Tensor = key > last
    return future if mask.window is None else future | (key <= last - mask.window)


def _sees_all(scores: Tensor, mask: Mask) -> bool:
    """Whether the first query sees the last key, and the last query the first: a decode step."""
    queries, keys = scores.shape[-2:]
    return int(mask.offset) >= keys - 1 and (mask.window is None or mask.window >= int(mask.offset) + queries)


def hide(scores: Tensor, mask: Mask) -> Tensor:
    """These very scores [B, H, T, S], with -inf where a query must not see a key.

    By adding 0 or -inf, which PyTorch does in a tenth of the time that it takes to fill by a mask.
    """
    if _sees_all(scores, mask):
        return scores
    hidden = _hidden(scores, mask)
    return scores.add_(scores.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf")))


@_register
class MatMul:
    """Attention's products, each key/value head read once for all query heads that share it.

    With `mask_axis` "n" queries [B, H, T, E] times keys [B, G, S, E], masked scores [B, H, T, S]; with "k" weights [B, H, T, S] times
    values [B, G, S, E]: [B, H, T, E].
    """

    @staticmethod
    def compute(a: Tensor, b: Tensor, *, mask: Mask, mask_axis: str) -> Tensor:
        grouped = _grouped(a, b.shape[1])
        if mask_axis == "k":
            return (grouped @ b).reshape(*a.shape[:3], b.shape[3])
        return hide((grouped @ b.transpose(-1, -2)).reshape(*a.shape[:3], b.shape[2]), mask)

    @staticmethod
    def shape(a: TensorSpec, b: TensorSpec, *, mask: Mask, mask_axis: str) -> TensorSpec:
        return TensorSpec((*a.shape[:3], b.shape[2] if mask_axis == "n" else b.shape[3]), a.format)

    @staticmethod
    def work(a: TensorSpec, b: TensorSpec, *, mask: Mask, mask_axis: str) -> Work:
        batch, heads, queries, k = a.shape
        n = b.shape[2] if mask_axis == "n" else b.shape[3]
        shared = int(heads // b.shape[1])
        return Contraction(batch * heads, queries, n, k, a.format, b.format, shared, mask, "n" if mask_axis == "n" else "k")

    @staticmethod
    def example(rng: random.Random) -> Example:
        batch, heads, kv_heads, queries, keys, width = _attention_shape(rng)
        axis = rng.choice(["n", "k"])
        mask = Mask(keys - queries, rng.choice([None, 2, 4]))
        a = _spec(batch, heads, queries, width if axis == "n" else keys)
        return Example((a, _spec(batch, kv_heads, keys, width)), {"mask": mask, "mask_axis": axis})


@_register
class ReduceMax:
    """First pass of softmax: the maximum of each row of scores [B, H, T, S]: [B, H, T, 1]."""

    @staticmethod
    def compute(scores: Tensor, *, mask: Mask) -> Tensor:
        return scores.float().amax(-1, keepdim=True).to(scores.dtype)

    @staticmethod
    def shape(scores: TensorSpec, *, mask: Mask) -> TensorSpec:
        return TensorSpec((*scores.shape[:-1], 1), scores.format)

    @staticmethod
    def work(scores: TensorSpec, *, mask: Mask) -> Work:
        seen, rows = _visible(scores, mask), _rows(scores)
        return Vector(seen, _counts(add=seen, convert=_if_narrow(scores, seen + rows)), reduced=scores.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=False)


@_register
class ElementwiseExp:
    """Second pass of softmax: exp(scale * (scores - maxima)), scores [B, H, T, S], maxima [B, H, T, 1]; masked scores give 0."""

    @staticmethod
    def compute(scores: Tensor, maxima: Tensor, *, mask: Mask, scale: float) -> Tensor:
        return (scores.float() - maxima.float()).mul_(scale).exp_().to(scores.dtype)

    @staticmethod
    def shape(scores: TensorSpec, maxima: TensorSpec, *, mask: Mask, scale: float) -> TensorSpec:
        return scores

    @staticmethod
    def work(scores: TensorSpec, maxima: TensorSpec, *, mask: Mask, scale: float) -> Work:
        seen = _visible(scores, mask)
        return Vector(seen, _counts(add=seen, mul=seen, exp=seen, convert=_if_narrow(scores, 2 * seen) + _converted(maxima)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=True, scale=0.5)


@_register
class Normalize:
    """Third pass of softmax: each row of exponentials [B, H, T, S] divided by its sum."""

    @staticmethod
    def compute(exponentials: Tensor, *, mask: Mask) -> Tensor:
        wide = exponentials.float()
        return (wide * wide.sum(-1, keepdim=True).reciprocal()).to(exponentials.dtype)

    @staticmethod
    def shape(exponentials: TensorSpec, *, mask: Mask) -> TensorSpec:
        return exponentials

    @staticmethod
    def work(exponentials: TensorSpec, *, mask: Mask) -> Work:
        seen, rows = _visible(exponentials, mask), _rows(exponentials)
        counts = _counts(add=seen, mul=seen, rsqrt=rows, convert=_if_narrow(exponentials, 2 * seen))
        return Vector(seen, counts, reduced=exponentials.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=False)


@_register
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
        return Vector(elements, _counts(mul=2 * elements, exp=elements, add=elements, rsqrt=elements, convert=_converted(x, x)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return Example((_spec(rng.randint(1, 3), rng.randint(1, 9)),))


def _pair(rng: random.Random) -> Example:
    shape = (rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 9))
    return Example((_spec(*shape), _spec(*shape)))


@_register
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
        return Vector(a.elements, _counts(mul=a.elements, convert=_converted(a, b, a)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _pair(rng)


@_register
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
        return Vector(a.elements, _counts(add=a.elements, convert=_converted(a, b, a)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _pair(rng)


# Sampling: from logits [..., V] to a token, in fp32. Rows are the last axis. -------------------------------------------------------------

SAMPLING_KINDS = ("ArgMax", "Scale", "TopK", "Sort", "Gather", "Softmax", "CumulativeSum", "LeastLikely", "Nucleus", "Draw")
"""Kinds that only `functional.sampling` uses."""


def _compares_to_sort(length: int) -> int:
    """Compares that sort so many elements at most, with the fewest passes: each of ceil(log2 n) merges touches each element once.

    Source: Knuth, The Art of Computer Programming 3, sec. 5.2.4. A bitonic network takes (log2 n + 1) / 4 times as many.
    """
    return length * (length - 1).bit_length()


def _vocabulary(rng: random.Random, *rows: str, attrs: Mapping[str, Any] | None = None) -> Example:
    """Tensors [B, 1, V] of these formats."""
    shape = rng.randint(1, 3), 1, rng.randint(8, 16)
    return Example(tuple(TensorSpec(shape, each) for each in rows), attrs or {})


@_register
class ArgMax:
    """Index of the largest of each row x[..., V]: [...]."""

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        return x.float().argmax(-1).int()

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return TensorSpec(x.shape[:-1], "int32")

    @staticmethod
    def work(x: TensorSpec) -> Work:
        return Vector(x.elements, _counts(add=x.elements, convert=_converted(x)), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "bf16")


@_register
class Scale:
    """x / `divisor` in fp32: logits at a temperature."""

    @staticmethod
    def compute(x: Tensor, *, divisor: float) -> Tensor:
        return x.float() / divisor

    @staticmethod
    def shape(x: TensorSpec, *, divisor: float) -> TensorSpec:
        return TensorSpec(x.shape, "fp32")

    @staticmethod
    def work(x: TensorSpec, *, divisor: float) -> Work:
        return Vector(x.elements, _counts(mul=x.elements, convert=_converted(x)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "bf16", attrs={"divisor": 0.8})


@_register
class TopK:
    """x[..., V] with -inf for what is below the k-th largest of its row.

    Each element may sink into a heap of the k largest, ceil(log2(k + 1)) compares, and is then compared with the smallest of these.
    Source: Knuth, The Art of Computer Programming 3, sec. 5.2.3.
    """

    @staticmethod
    def compute(x: Tensor, *, k: int) -> Tensor:
        kept = x.topk(min(k, x.shape[-1])).values
        return x.masked_fill(x < kept[..., -1:], float("-inf"))

    @staticmethod
    def shape(x: TensorSpec, *, k: int) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, *, k: int) -> Work:
        kept = min(k, int(x.shape[-1]))
        return Vector(x.elements, _counts(add=x.elements * (kept.bit_length() + 1)), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"k": rng.randint(1, 20)})


@_register
class Sort:
    """Each row x[..., V] in order, smallest first.

    On a CPU by NumPy, whose sort is vectorised: PyTorch sorts indices too, in some fifteen times the time.
    """

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(np.sort(x.numpy(), axis=-1)) if x.device.type == "cpu" else x.sort(-1).values

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec) -> Work:
        return Vector(x.elements, _counts(add=_rows(x) * _compares_to_sort(int(x.shape[-1]))), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@_register
class Gather:
    """Elements of each row x[..., V] at some places [..., N]."""

    @staticmethod
    def compute(x: Tensor, places: Tensor) -> Tensor:
        return x.gather(-1, places.long())

    @staticmethod
    def shape(x: TensorSpec, places: TensorSpec) -> TensorSpec:
        return TensorSpec(places.shape, x.format)

    @staticmethod
    def work(x: TensorSpec, places: TensorSpec) -> Work:
        return Move(TensorSpec(places.shape, x.format).size_bytes)

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", "int32")


@_register
class Softmax:
    """exp(x - max) / sum of each whole row x[..., V].

    One op, where attention's three are cut and masked: it rounds as PyTorch's own, so that what is drawn is what others draw.
    """

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        return x.softmax(-1)

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec) -> Work:
        counts = _counts(add=3 * x.elements, exp=x.elements, mul=x.elements, rsqrt=_rows(x))
        return Vector(x.elements, counts, reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@_register
class CumulativeSum:
    """Sums of each row x[..., V] up to and with every element."""

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        return x.cumsum(-1)

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec) -> Work:
        return Vector(x.elements, _counts(add=x.elements), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@_register
class LeastLikely:
    """How many of each row of probabilities, summed from the smallest on in cumulative[..., V], have at most 1 - `top_p`: [..., 1].

    Never all of them: the most likely one is left. A binary search in each row.
    """

    @staticmethod
    def compute(cumulative: Tensor, *, top_p: float) -> Tensor:
        import torch

        bound = torch.full((*cumulative.shape[:-1], 1), 1 - top_p, device=cumulative.device)
        return torch.searchsorted(cumulative, bound, right=True).clamp(max=cumulative.shape[-1] - 1).int()

    @staticmethod
    def shape(cumulative: TensorSpec, *, top_p: float) -> TensorSpec:
        return TensorSpec((*cumulative.shape[:-1], 1), "int32")

    @staticmethod
    def work(cumulative: TensorSpec, *, top_p: float) -> Work:
        compares = _rows(cumulative) * int(cumulative.shape[-1]).bit_length()
        return Vector(cumulative.elements, _counts(add=compares), reduced=cumulative.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"top_p": 0.9})


@_register
class Nucleus:
    """x[..., V] with -inf for the `outside` [..., 1] smallest of each row, of which `border` [..., 1] is the next.

    Where some that equal the border are outside, PyTorch's order says which: it is that of others' top-p. Source: Holtzman et al., arXiv
    1904.09751, sec. 3.1.
    """

    @staticmethod
    def compute(x: Tensor, outside: Tensor, border: Tensor) -> Tensor:
        import torch

        below = x < border
        tied = (outside > below.sum(-1, keepdim=True, dtype=torch.int32))[..., 0]
        if tied.any():
            order = x[tied].sort(-1).indices
            first = torch.arange(x.shape[-1], device=x.device) < outside[tied]
            below[tied] = first.scatter(-1, order, first)
        return x.masked_fill(below, float("-inf"))

    @staticmethod
    def shape(x: TensorSpec, outside: TensorSpec, border: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, outside: TensorSpec, border: TensorSpec) -> Work:
        return Vector(x.elements, _counts(add=x.elements))

    @staticmethod
    def example(rng: random.Random) -> Example:
        row = _vocabulary(rng, "fp32").inputs[0]
        single = (*row.shape[:-1], 1)
        return Example((row, TensorSpec(single, "int32"), TensorSpec(single, "fp32")))


@_register
class Draw:
    """An index of each row of probabilities [..., V], drawn in proportion to them: [...].

    The first to arrive of exponential variates -log(u) divided by the probabilities, which is what `torch.multinomial` does for one
    sample. Uniform random numbers cost nothing here; None for `generator` is PyTorch's own. Source: Devroye, Non-Uniform Random Variate
    Generation (1986), sec. III.3.
    """

    @staticmethod
    def compute(probabilities: Tensor, *, generator: Any) -> Tensor:
        import torch

        arrivals = torch.empty_like(probabilities).exponential_(1.0, generator=generator)
        return torch.div(probabilities, arrivals, out=arrivals).argmax(-1).int()

    @staticmethod
    def shape(probabilities: TensorSpec, *, generator: Any) -> TensorSpec:
        return TensorSpec(probabilities.shape[:-1], "int32")

    @staticmethod
    def work(probabilities: TensorSpec, *, generator: Any) -> Work:
        elements = probabilities.elements
        counts = _counts(exp=elements, mul=2 * elements, rsqrt=elements, add=elements)
        return Vector(elements, counts, reduced=probabilities.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"generator": None})


@_register
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
        return Example(tuple(_spec(*rows, rng.randint(1, 8)) for _ in range(rng.randint(1, 4))))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A change of shape that costs nothing: no op of the graph, only another way to see a tensor."""

    name: str
    compute: Callable[..., Tensor]
    shape: Callable[..., TensorSpec]


def _split_heads(x: Tensor, *, heads: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.view(batch, tokens, heads, width // heads).transpose(1, 2)


def _split_heads_shape(x: TensorSpec, *, heads: int) -> TensorSpec:
    batch, tokens, width = x.shape
    return TensorSpec((batch, heads, tokens, width // heads), x.format)


def _merge_heads(x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


def _merge_heads_shape(x: TensorSpec) -> TensorSpec:
    batch, heads, tokens, width = x.shape
    return TensorSpec((batch, tokens, heads * width), x.format)


def _last_token(x: Tensor) -> Tensor:
    return x[:, x.shape[1] - 1 :]


def _last_token_shape(x: TensorSpec) -> TensorSpec:
    return TensorSpec((x.shape[0], 1, *x.shape[2:]), x.format)


def _recent(cache: Tensor, *, first: int) -> Tensor:
    return cache[:, :, first:]


def _recent_shape(cache: TensorSpec, *, first: Dim) -> TensorSpec:
    batch, heads, keys, width = cache.shape
    return TensorSpec((batch, heads, keys - first, width), cache.format)


SPLIT_HEADS = View("split_heads", _split_heads, _split_heads_shape)
MERGE_HEADS = View("merge_heads", _merge_heads, _merge_heads_shape)
LAST_TOKEN = View("last_token", _last_token, _last_token_shape)
RECENT = View("recent", _recent, _recent_shape)
