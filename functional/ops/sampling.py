"""Ops that lead from logits [..., V] to a token, in fp32. Rows are the last axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from functional.ops.table import Example, converted, counted, register, rows_of
from functional.spec import TensorSpec
from functional.work import Move, Vector, Work

if TYPE_CHECKING:
    import random

    from torch import Tensor


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


def _place_of(x: Tensor, extreme: Literal["argmax", "argmin"]) -> Tensor:
    """Where in each row the first of the largest, or of the smallest, is. On a CPU by NumPy, whose search is vectorised."""
    import torch

    if x.device.type != "cpu":
        place: Tensor = getattr(x, extreme)(-1)
        return place.int()
    return torch.from_numpy(np.asarray(getattr(np, extreme)(x.numpy(), axis=-1), np.int32))


def _less(x: Tensor, border: Tensor) -> Tensor:
    """Where x[..., V] is below border[..., 1]; on a CPU by NumPy, too."""
    import torch

    return torch.from_numpy(np.less(x.numpy(), border.numpy())) if x.device.type == "cpu" else x < border


@register
class ArgMax:
    """Index of the largest of each row x[..., V]: [...]."""

    @staticmethod
    def compute(x: Tensor) -> Tensor:
        return _place_of(x.float(), "argmax")

    @staticmethod
    def shape(x: TensorSpec) -> TensorSpec:
        return TensorSpec(x.shape[:-1], "int32")

    @staticmethod
    def work(x: TensorSpec) -> Work:
        return Vector(x.elements, counted(add=x.elements, convert=converted(x)), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "bf16")


@register
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
        return Vector(x.elements, counted(mul=x.elements, convert=converted(x)))

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "bf16", attrs={"divisor": 0.8})


@register
class TopK:
    """x[..., V] with -inf for what is below the k-th largest of its row.

    Each element may sink into a heap of the k largest, ceil(log2(k + 1)) compares, and is then compared with the smallest of these.
    Source: Knuth, The Art of Computer Programming 3, sec. 5.2.3.
    """

    @staticmethod
    def compute(x: Tensor, *, k: int) -> Tensor:
        import torch

        place = max(x.shape[-1] - k, 0)
        if x.device.type == "cpu":
            least = torch.from_numpy(np.partition(x.numpy(), place, axis=-1)[..., place, None])
        else:
            least = x.kthvalue(place + 1, keepdim=True).values
        return torch.where(_less(x, least), float("-inf"), x)

    @staticmethod
    def shape(x: TensorSpec, *, k: int) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, *, k: int) -> Work:
        kept = min(k, int(x.shape[-1]))
        return Vector(x.elements, counted(add=x.elements * (kept.bit_length() + 1)), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"k": rng.randint(1, 20)})


@register
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
        return Vector(x.elements, counted(add=rows_of(x) * _compares_to_sort(int(x.shape[-1]))), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@register
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


@register
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
        counts = counted(add=3 * x.elements, exp=x.elements, mul=x.elements, rsqrt=rows_of(x))
        return Vector(x.elements, counts, reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@register
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
        return Vector(x.elements, counted(add=x.elements), reduced=x.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32")


@register
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
        compares = rows_of(cumulative) * int(cumulative.shape[-1]).bit_length()
        return Vector(cumulative.elements, counted(add=compares), reduced=cumulative.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"top_p": 0.9})


@register
class Nucleus:
    """x[..., V] with -inf for the `outside` [..., 1] smallest of each row, of which `border` [..., 1] is the next.

    Where some that equal the border are outside, PyTorch's order says which: it is that of others' top-p. Source: Holtzman et al., arXiv
    1904.09751, sec. 3.1.
    """

    @staticmethod
    def compute(x: Tensor, outside: Tensor, border: Tensor) -> Tensor:
        import torch

        below = _less(x, border)
        tied = (outside > below.sum(-1, keepdim=True, dtype=torch.int32))[..., 0]
        if tied.any():
            order = x[tied].sort(-1).indices
            first = torch.arange(x.shape[-1], device=x.device) < outside[tied]
            below[tied] = first.scatter(-1, order, first)
        return torch.where(below, float("-inf"), x)

    @staticmethod
    def shape(x: TensorSpec, outside: TensorSpec, border: TensorSpec) -> TensorSpec:
        return x

    @staticmethod
    def work(x: TensorSpec, outside: TensorSpec, border: TensorSpec) -> Work:
        return Vector(x.elements, counted(add=x.elements))

    @staticmethod
    def example(rng: random.Random) -> Example:
        row = _vocabulary(rng, "fp32").inputs[0]
        single = (*row.shape[:-1], 1)
        return Example((row, TensorSpec(single, "int32"), TensorSpec(single, "fp32")))


@register
class Draw:
    """An index of each row of probabilities [..., V], drawn in proportion to them: [...].

    The first to arrive of exponential variates divided by the probabilities, which is what `torch.multinomial` does for one sample: bit by
    bit, from the same generator, and on a CPU in a third of its time, for it takes the logarithms one by one. Uniform random numbers cost
    nothing here; None for `generator` is PyTorch's own. Source: Devroye, Non-Uniform Random Variate Generation (1986), sec. III.3.
    """

    @staticmethod
    def compute(probabilities: Tensor, *, generator: Any) -> Tensor:
        import torch

        if probabilities.device.type == "cpu":
            uniform = torch.rand(probabilities.shape, generator=generator, dtype=torch.float64)
            arrivals = uniform.neg_().log1p_().to(probabilities.dtype)  # all negative: what is divided by them, too
        else:
            arrivals = torch.empty_like(probabilities).exponential_(1.0, generator=generator).neg_()
        return _place_of(torch.div(probabilities, arrivals, out=arrivals), "argmin")

    @staticmethod
    def shape(probabilities: TensorSpec, *, generator: Any) -> TensorSpec:
        return TensorSpec(probabilities.shape[:-1], "int32")

    @staticmethod
    def work(probabilities: TensorSpec, *, generator: Any) -> Work:
        elements = probabilities.elements
        counts = counted(exp=elements, mul=2 * elements, rsqrt=elements, add=elements)
        return Vector(elements, counts, reduced=probabilities.shape[-1])

    @staticmethod
    def example(rng: random.Random) -> Example:
        return _vocabulary(rng, "fp32", attrs={"generator": None})
