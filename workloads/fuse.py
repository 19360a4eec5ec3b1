"""Fusion: which ops run as one, and what then still crosses memory.

A group is what runs between two visits to memory: linears that read the same tensor (one GEMM), attention whole, and element-wise chains
with the op that feeds them. A group never spans two components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from functional.spec import Dim
from functional.work import Move
from workloads.graph import OpGraph, OpNode, Use

Kind: TypeAlias = Literal["weights", "activations"]

ELEMENTWISE = frozenset({"RoPE", "SiLU", "Mul", "Add", "MemCopy"})
"""Kinds that touch each element once and so can follow the op that makes it without another visit to memory."""

SOFTMAX = frozenset({"ReduceMax", "ElementwiseExp", "Normalize"})


class Flow(NamedTuple):
    """Bytes of one tensor that one op of a group brings in or takes out.

    `tensor` is empty where the bytes always pass through DRAM (weights, KV cache, ids, logits), and names an intermediate where a plan may
    keep them on the chip instead. (A tuple, since a step has a thousand of them and a frozen dataclass takes three times as long to make.)
    """

    op: int
    tensor: str
    kind: Kind
    size_bytes: Dim
    is_write: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Ops (indices into `OpGraph.ops`) that run as one, and all that crosses the border of the group."""

    ops: tuple[int, ...]
    component: str
    flows: tuple[Flow, ...]


def fuse(graph: OpGraph, enabled: bool = True) -> tuple[Group, ...]:
    """The groups of a graph in order; one op per group if not `enabled`."""
    members = _partition(graph.ops) if enabled else [[i] for i in range(len(graph.ops))]
    maker = {op.name: op for op in graph.ops}
    group_of = {graph.ops[i].name: g for g, ops in enumerate(members) for i in ops}
    leaving = {use.tensor for op in graph.ops for use in op.inputs if group_of.get(use.tensor, -1) not in (-1, group_of[op.name])}
    borders = _Borders(graph, maker, leaving)
    return tuple(Group(tuple(ops), graph.ops[ops[0]].component, tuple(borders.flows(ops))) for ops in members)


def _partition(ops: Sequence[OpNode]) -> list[list[int]]:
    groups: list[list[int]] = []
    component: str | None = None
    made: set[str] = set()  # tensors that the last group makes
    shared: str | None = None  # what the linears of the last group read
    for i, op in enumerate(ops):
        if op.component == component and _joins(op, made, shared):
            groups[-1].append(i)
        else:
            groups.append([i])
            component = op.component
            made.clear()
            shared = op.inputs[0].tensor if op.kind == "Linear" else None
        made.add(op.name)
    return groups


def _joins(op: OpNode, made: set[str], shared: str | None) -> bool:
    """Whether an op can run with the group before it."""
    if op.kind == "Linear":
        return op.inputs[0].tensor == shared
    if op.kind in ELEMENTWISE or op.kind in SOFTMAX or (op.kind == "MatMul" and op.attrs["mask_axis"] == "k"):
        return not made.isdisjoint([use.tensor for use in op.inputs])
    return False


@dataclass(frozen=True, slots=True)
class _Borders:
    """What crosses the border of a group: `maker` is the op that makes a tensor, `leaving` the tensors that a later group reads.

    `older_bytes` keeps the size of what was in a KV cache, so that alike layers share one object even where it is an array.
    """

    graph: OpGraph
    maker: Mapping[str, OpNode]
    leaving: Set[str]
    older_bytes: dict[tuple[int, int], Dim] = field(default_factory=dict)

    def flows(self, members: Sequence[int]) -> list[Flow]:
        ops = self.graph.ops
        seen = {ops[i].name for i in members}
        flows: list[Flow] = []
        for i in members:
            for use in ops[i].inputs:
                if use.tensor not in seen:
                    seen.add(use.tensor)
                    flows += self._reads(i, use)
            flows += self._writes(i)
        return flows

    def _reads(self, i: int, use: Use) -> list[Flow]:
        """What one op reads of a tensor that its group did not make."""
        made_by = self.maker.get(use.tensor)
        if made_by is not None:
            if made_by.kind == "MemCopy":
                return self._reads_cache(i, use, made_by)
            return [Flow(i, use.tensor, "activations", use.spec.size_bytes, False)]
        op, role = self.graph.ops[i], self.graph.tensors[use.tensor].role
        if role == "constant" or op.kind == "MemCopy":
            return []  # a constant is held by the unit that uses it; a cache that is written into is not read
        if op.kind == "Embedding" and role == "weight":
            return [Flow(i, "", "weights", _moved_bytes(op), False)]
        return [Flow(i, "", "weights" if role == "weight" else "activations", use.spec.size_bytes, False)]

    def _reads_cache(self, i: int, use: Use, made_by: OpNode) -> list[Flow]:
        """Of a KV cache, what was there before the step comes from DRAM; the new entries may still be on the chip."""
        new_bytes = _moved_bytes(made_by)
        key = id(use.spec), id(made_by.work)
        older_bytes = self.older_bytes.get(key)
        if older_bytes is None:
            older_bytes = self.older_bytes[key] = use.spec.size_bytes - new_bytes
        return [Flow(i, "", "activations", older_bytes, False), Flow(i, use.tensor, "activations", new_bytes, False)]

    def _writes(self, i: int) -> list[Flow]:
        """What one op leaves for later groups, for the cache or for the user."""
        op = self.graph.ops[i]
        if op.kind == "MemCopy":
            return [Flow(i, "", "activations", _moved_bytes(op), True)]
        if self.graph.tensors[op.name].role == "output":
            return [Flow(i, "", "activations", op.output.size_bytes, True)]
        return [Flow(i, op.name, "activations", op.output.size_bytes, True)] if op.name in self.leaving else []


def _moved_bytes(op: OpNode) -> Dim:
    assert isinstance(op.work, Move)
    return op.work.size_bytes
