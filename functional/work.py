"""What an op inherently costs, without hardware: a small closed set, so that chips never see op names.

FLOP = 2 x MAC, here and everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from functional.spec import Dim, Quantity

PRIMITIVES = ("add", "mul", "exp", "rsqrt", "convert")
"""What a vector lane can do. add: also subtract and compare. exp: also sine and cosine. rsqrt: also reciprocal."""


def _positive_sum(first: Dim, terms: Dim) -> Dim:
    """Sum over i < terms of max(0, first + i), for integers or arrays."""
    last = np.maximum(first + terms - 1, 0)
    before = np.maximum(first - 1, 0)
    total: Dim = (last * (last + 1) - before * (before + 1)) // 2
    return int(total) if np.ndim(total) == 0 else total


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Which keys a query sees: query i sees key j iff j <= i + offset and j > i + offset - window."""

    offset: Dim
    window: int | None = None

    def visible_pairs(self, queries: Dim, keys: Dim) -> Dim:
        """Number of (query, key) pairs that are not masked."""
        seen = _positive_sum(self.offset + 1, queries) - _positive_sum(self.offset + 1 - keys, queries)
        if self.window is None:
            return seen
        return seen - _positive_sum(self.offset + 1 - self.window, queries) + _positive_sum(self.offset + 1 - self.window - keys, queries)


@dataclass(frozen=True, eq=False)
class Contraction:
    """C[batch, m, n] += A[batch, m, k] B[batch // b_shared_by, k, n].

    `b_shared_by` consecutive batch entries read the same B: the query heads that share a key/value head. A mask lies over (m, n) when
    `mask_axis` is "n" (scores) and over (m, k) when it is "k" (weights times values).
    """

    batch: Dim
    m: Dim
    n: Dim
    k: Dim
    a_format: str
    b_format: str
    b_shared_by: int = 1
    mask: Mask | None = None
    mask_axis: Literal["n", "k"] = "n"

    @cached_property
    def useful_macs(self) -> Dim:
        """Multiply-accumulates of unmasked pairs; the same whatever executes them."""
        if self.mask is None:
            return self.batch * self.m * self.n * self.k
        keys, other = (self.n, self.k) if self.mask_axis == "n" else (self.k, self.n)
        return self.batch * self.mask.visible_pairs(self.m, keys) * other


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """Element-wise and row-wise work: `counts[primitive]` executions in total (per-row terms make a count per element fractional).

    `elements` are the unmasked elements visited, `reduced` the length of the axis that is reduced (0: none), `live_tensors` how many
    tensors of this size are touched at a time.
    """

    elements: Dim
    counts: Mapping[str, Dim] = field(default_factory=dict)
    reduced: Dim = 0
    live_tensors: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Bytes that only change place: KV-cache write, embedding gather."""

    size_bytes: Dim


Work: TypeAlias = Contraction | Vector | Move


def flops(work: Work) -> Quantity:
    """Floating-point operations of a contraction (2 per MAC); executions of arithmetic primitives (not conversions) of vector work."""
    if isinstance(work, Contraction):
        return 2 * work.useful_macs
    if isinstance(work, Vector):
        return sum((count for primitive, count in work.counts.items() if primitive != "convert"), start=0)
    return 0
