"""What number formats ask of the hardware besides bytes: the format of each product, and the vector work of bringing tensors to it."""

from __future__ import annotations

from functional.formats import LARGEST, element_of, group_of, wider
from functional.spec import Dim
from functional.work import Contraction
from workloads.graph import OpNode


def compute_format(work: Contraction) -> str:
    """Format in which a contraction is multiplied: that of its operands or, if they differ, the wider one; floats before integers."""
    return wider(work.a_format, work.b_format)


def conversions(op: OpNode) -> dict[str, Dim]:
    """Vector work by primitive for what an op reads or writes in a format that is not its own; every element once.

    An operand of a product is brought to the compute format, gathered rows of an embedding to that of the activations, and what a KV cache
    stores to the cache's: a conversion; a product with a scale, unless both formats are scaled and the scales can wait for the sums, or
    neither is; and, where there are zero points, a subtraction.
    """
    if isinstance(op.work, Contraction):
        return of_product(op.work)
    if op.kind == "Embedding":
        return _to(op.output.format, op.inputs[1].spec.format, op.output.elements)
    if op.kind == "MemCopy":
        cache, new = (use.spec for use in op.inputs)
        return _to(cache.format, new.format, new.elements)
    return {}


def of_product(work: Contraction) -> dict[str, Dim]:
    """The same for a contraction: both operands, brought to its compute format."""
    wanted = compute_format(work)
    left = _to(wanted, work.a_format, work.batch * work.m * work.k)
    right = _to(wanted, work.b_format, work.batch // work.b_shared_by * work.n * work.k)
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


def _to(wanted: str, found: str, elements: Dim) -> dict[str, Dim]:
    if group_of(found) is not None:
        return {"convert": elements, "mul": elements, "add": elements}
    element = element_of(found)
    if element == wanted:
        return {}
    return {"convert": elements} if (element in LARGEST) == (wanted in LARGEST) else {"convert": elements, "mul": elements}
