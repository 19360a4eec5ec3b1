"""Ops of attention: rotary positions, KV cache, the two products and the softmax in three passes, with what a mask hides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functional.ops.table import Example, converted, counted, if_narrow, register, rows_of, spec
from functional.spec import Dim, TensorSpec
from functional.work import Contraction, Mask, Move, Vector, Work

if TYPE_CHECKING:
    import random

    from torch import Tensor


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
    scores = spec(batch, heads, queries, keys)
    inputs = (scores, spec(batch, heads, queries, 1)) if rows else (scores,)
    return Example(inputs, {"mask": Mask(keys - queries, rng.choice([None, 2, 4])), **attrs})


@register
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
        return Vector(x.elements, counted(mul=2 * x.elements, add=x.elements, convert=converted(x, x)), live_tensors=3)

    @staticmethod
    def example(rng: random.Random) -> Example:
        batch, heads, _, queries, _, width = _attention_shape(rng)
        return Example((spec(batch, heads, queries, width), spec(2, queries, width // 2, like="fp32")))


@register
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
        return Example((spec(batch, heads, keys + 1, width), spec(batch, heads, queries, width)), {"offset": keys - queries})


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


@register
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
        a = spec(batch, heads, queries, width if axis == "n" else keys)
        return Example((a, spec(batch, kv_heads, keys, width)), {"mask": mask, "mask_axis": axis})


@register
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
        seen, rows = _visible(scores, mask), rows_of(scores)
        return Vector(seen, counted(add=seen, convert=if_narrow(scores, seen + rows)), reduced=scores.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=False)


@register
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
        return Vector(seen, counted(add=seen, mul=seen, exp=seen, convert=if_narrow(scores, 2 * seen) + converted(maxima)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=True, scale=0.5)


@register
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
        seen, rows = _visible(exponentials, mask), rows_of(exponentials)
        counts = counted(add=seen, mul=seen, rsqrt=rows, convert=if_narrow(exponentials, 2 * seen))
        return Vector(seen, counts, reduced=exponentials.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _score_example(rng, rows=False)
