"""Shapes and number formats of tensors that need not exist.

Axis letters, used in every shape comment of this package: B batch, T new tokens (q_len), S keys (kv_len), D hidden_size,
F intermediate_size, V vocab_size, H query heads, G key/value heads, E head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from functional.formats import bits_of, scales_bytes

Dim: TypeAlias = int | NDArray[np.int64]
"""A dimension or a count: an integer, or an array of them where a grid of batches and contexts is evaluated at once."""

Quantity: TypeAlias = int | float | NDArray[Any]
"""A number of bytes or seconds, scalar or array."""


@dataclass(frozen=True, eq=False)
class TensorSpec:
    """Shape and number format of one tensor; compared by identity, since a dimension may be an array."""

    shape: tuple[Dim, ...]
    format: str

    @cached_property
    def elements(self) -> Dim:
        product: Dim = 1
        for dim in self.shape:
            product = product * dim
        return product

    @cached_property
    def scales_bytes(self) -> Dim:
        """Bytes of the scales and zero points that lie beside the elements; 0 for most formats."""
        size_bytes: Dim = 0
        if ":" in self.format:
            rows = TensorSpec(self.shape[:-1], self.format).elements
            size_bytes = scales_bytes(self.format, rows, self.shape[-1])
        return size_bytes

    @cached_property
    def size_bytes(self) -> Dim:
        """Bytes of the tensor as it lies in memory, elements rounded up to whole ones, scales and zero points included."""
        return (self.elements * bits_of(self.format) + 7) // 8 + self.scales_bytes


def format_shape(shape: tuple[Dim, ...]) -> str:
    """`[1, 512, 2048]`; an array of values prints as its range `1..4096`."""
    return "[" + ", ".join(str(dim) if isinstance(dim, int) else f"{np.min(dim)}..{np.max(dim)}" for dim in shape) + "]"
