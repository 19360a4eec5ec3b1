"""Interpreters of a model's text: one text, many meanings.

A model is a plain function whose first argument is an `Interpreter`. `Torch` computes; `Capture` computes and keeps every op's inputs and
output (golden vectors); `workloads.trace.Trace` records the graph from shapes alone. Interpreters hold no global state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from functional import ops
from functional.ops import OPS, Op, View
from functional.spec import Dim
from functional.work import Mask

if TYPE_CHECKING:
    from torch import Generator, Tensor

T = TypeVar("T")


class Interpreter(ABC, Generic[T]):
    """Gives a meaning to each op of the table; `T` is what stands for a tensor."""

    def __init__(self) -> None:
        self._scope = ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Ops named within are prefixed with `name.`."""
        outer = self._scope
        self._scope = f"{outer}{name}."
        try:
            yield
        finally:
            self._scope = outer

    @abstractmethod
    def apply(self, op: Op, name: str, inputs: tuple[T, ...], **attrs: Any) -> T:
        """One op of the table under its full name."""

    @abstractmethod
    def view(self, view: View, x: T, **attrs: Any) -> T:
        """A change of shape without work."""

    def _op(self, kind: str, name: str, *inputs: T, **attrs: Any) -> T:
        return self.apply(OPS[kind], self._scope + name, inputs, **attrs)

    def embedding(self, name: str, ids: T, table: T, output_format: str | None) -> T:
        return self._op("Embedding", name, ids, table, output_format=output_format)

    def rope_table(self, name: str, inverse_frequencies: T, first: Dim, length: Dim) -> T:
        return self._op("RoPETable", name, inverse_frequencies, first=first, length=length)

    def rms_norm(self, name: str, x: T, weight: T, eps: float) -> T:
        return self._op("RMSNorm", name, x, weight, eps=eps)

    def linear(self, name: str, x: T, weight: T) -> T:
        return self._op("Linear", name, x, weight)

    def rope(self, name: str, x: T, table: T) -> T:
        return self._op("RoPE", name, x, table)

    def mem_copy(self, name: str, cache: T, new: T, offset: Dim) -> T:
        return self._op("MemCopy", name, cache, new, offset=offset)

    def scores(self, name: str, queries: T, keys: T, mask: Mask) -> T:
        return self._op("MatMul", name, queries, keys, mask=mask, mask_axis="n")

    def weighted_sum(self, name: str, weights: T, values: T, mask: Mask) -> T:
        return self._op("MatMul", name, weights, values, mask=mask, mask_axis="k")

    def reduce_max(self, name: str, scores: T, mask: Mask) -> T:
        return self._op("ReduceMax", name, scores, mask=mask)

    def elementwise_exp(self, name: str, scores: T, maxima: T, mask: Mask, scale: float) -> T:
        return self._op("ElementwiseExp", name, scores, maxima, mask=mask, scale=scale)

    def normalize(self, name: str, exponentials: T, mask: Mask) -> T:
        return self._op("Normalize", name, exponentials, mask=mask)

    def silu(self, name: str, x: T) -> T:
        return self._op("SiLU", name, x)

    def mul(self, name: str, a: T, b: T) -> T:
        return self._op("Mul", name, a, b)

    def add(self, name: str, a: T, b: T) -> T:
        return self._op("Add", name, a, b)

    def arg_max(self, name: str, x: T) -> T:
        return self._op("ArgMax", name, x)

    def scale(self, name: str, x: T, divisor: float) -> T:
        return self._op("Scale", name, x, divisor=divisor)

    def top_k(self, name: str, x: T, k: int) -> T:
        return self._op("TopK", name, x, k=k)

    def sort(self, name: str, x: T) -> T:
        return self._op("Sort", name, x)

    def gather(self, name: str, x: T, places: T) -> T:
        return self._op("Gather", name, x, places)

    def softmax(self, name: str, x: T) -> T:
        return self._op("Softmax", name, x)

    def cumulative_sum(self, name: str, x: T) -> T:
        return self._op("CumulativeSum", name, x)

    def least_likely(self, name: str, cumulative: T, top_p: float) -> T:
        return self._op("LeastLikely", name, cumulative, top_p=top_p)

    def nucleus(self, name: str, x: T, outside: T, border: T) -> T:
        return self._op("Nucleus", name, x, outside, border)

    def draw(self, name: str, probabilities: T, generator: Generator | None) -> T:
        return self._op("Draw", name, probabilities, generator=generator)

    def concat(self, name: str, *pieces: T) -> T:
        return self._op("Concat", name, *pieces)

    def split_heads(self, x: T, heads: int) -> T:
        return self.view(ops.SPLIT_HEADS, x, heads=heads)

    def merge_heads(self, x: T) -> T:
        return self.view(ops.MERGE_HEADS, x)

    def last_token(self, x: T) -> T:
        return self.view(ops.LAST_TOKEN, x)

    def recent(self, cache: T, first: Dim) -> T:
        return self.view(ops.RECENT, cache, first=first)


class Torch(Interpreter["Tensor"]):
    """Computes with PyTorch."""

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        return op.compute(*inputs, **attrs)

    def view(self, view: View, x: Tensor, **attrs: Any) -> Tensor:
        return view.compute(x, **attrs)


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One executed op: what went in, what came out."""

    op: Op
    name: str
    inputs: tuple[Tensor, ...]
    attrs: dict[str, Any]
    output: Tensor


class Capture(Torch):
    """Computes and keeps the inputs and the output of every op that `wanted` accepts (all, unless said)."""

    def __init__(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        super().__init__()
        self._wanted = wanted
        self.captured: dict[str, Captured] = {}

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        if not self._wanted(name):
            return super().apply(op, name, inputs, **attrs)
        # A cache is written in place, so a cache that goes in is kept as it was before.
        kept = tuple(tensor.clone() if op.kind == "MemCopy" else tensor for tensor in inputs)
        output = super().apply(op, name, inputs, **attrs)
        self.captured[name] = Captured(op, name, kept, attrs, output.clone() if op.kind == "MemCopy" else output)
        return output
