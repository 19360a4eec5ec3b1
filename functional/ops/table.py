"""How an op is declared, and what declarations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from functional.spec import Dim, TensorSpec
from functional.work import Work

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


def register(declaration: type) -> Op:
    """Turn a class of four static functions into a row of the table."""
    op = Op(declaration.__name__, declaration.compute, declaration.shape, declaration.work, declaration.example)  # type: ignore[attr-defined]
    OPS[op.kind] = op
    return op


def spec(*shape: Dim, like: str = "bf16") -> TensorSpec:
    """A tensor of an example."""
    return TensorSpec(shape, like)


def if_narrow(spec: TensorSpec, elements: Dim) -> Dim:
    """`elements` where the format must be converted from or to fp32, else 0."""
    return 0 if spec.format == "fp32" else elements


def converted(*specs: TensorSpec) -> Dim:
    """Elements that a vector op converts from or to fp32."""
    total: Dim = 0
    for spec in specs:
        total = total + if_narrow(spec, spec.elements)
    return total


def counted(**counts: Dim) -> dict[str, Dim]:
    """Counts by primitive without the zeros."""
    return {primitive: count for primitive, count in counts.items() if not isinstance(count, int) or count}


def rows_of(tensor: TensorSpec) -> Dim:
    """Rows of a tensor, the last axis being a row."""
    return TensorSpec(tensor.shape[:-1], tensor.format).elements
