"""Fusion: which ops run as one, and what then still crosses memory.

A group is what runs between two visits to memory: linears that read the same tensor (one GEMM), attention whole, and element-wise chains
with the op that feeds them. A group never spans two components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from functional.spec import Dim
from functional.work import Move
from workloads.graph import OpGraph, OpNode

Kind: TypeAlias = Literal["weights", "activations"]

ELEMENTWISE = frozenset({"RoPE", "SiLU", "Mul", "Add", "MemCopy"})
"""Kinds that touch each element once and so can follow the op that makes it without another visit to memory."""

SOFTMAX = frozenset({"ReduceMax", "ElementwiseExp", "Normalize"})


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes of one tensor that one op of a group brings in or takes out.

    `tensor` is empty where the bytes always pass through DRAM (weights, KV cache, ids, logits), and names an intermediate where a plan may
    keep them on the chip instead.
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
    group_of = [g for g, ops in enumerate(members) for _ in ops]
    index_of = {op.name: i for i, op in enumerate(graph.ops)}
    leaving = _leaving(graph, group_of, index_of)
    return tuple(
        Group(tuple(ops), graph.ops[ops[0]].component, tuple(_flows(graph, ops, group_of, index_of, leaving))) for ops in members
    )


def _partition(ops: Sequence[OpNode]) -> list[list[int]]:
    groups: list[list[int]] = []
    made: set[str] = set()  # tensors that the last group makes
    shared: str | None = None  # what the linears of the last group read
    for i, op in enumerate(ops):
        same_component = bool(groups) and ops[groups[-1][0]].component == op.component
        if same_component and _joins(op, made, shared):
            groups[-1].append(i)
        else:
            groups.append([i])
            made.clear()
            shared = op.inputs[0].tensor if op.kind == "Linear" else None
        made.add(op.name)
    return groups


def _joins(op: OpNode, made: set[str], shared: str | None) -> bool:
    """Whether an op can run with the group before it."""
    if op.kind == "Linear":
        return op.inputs[0].tensor == shared
    if op.kind in ELEMENTWISE or op.kind in SOFTMAX or (op.kind == "MatMul" and op.attrs["mask_axis"] == "k"):
        return any(use.tensor in made for use in op.inputs)
    return False


def _leaving(graph: OpGraph, group_of: Sequence[int], index_of: dict[str, int]) -> set[str]:
    """Tensors that an op of a later group reads."""
    return {
        use.tensor
        for i, op in enumerate(graph.ops)
        for use in op.inputs
        if use.tensor in index_of and group_of[index_of[use.tensor]] != group_of[i]
    }


def _flows(
    graph: OpGraph, members: Sequence[int], group_of: Sequence[int], index_of: dict[str, int], leaving: set[str]
) -> list[Flow]:
    flows: list[Flow] = []
    here = group_of[members[0]]
    seen: set[str] = set()
    for i in members:
        op = graph.ops[i]
        for use in op.inputs:
            producer = index_of.get(use.tensor)
            if use.tensor in seen or (producer is not None and group_of[producer] == here):
                continue
            seen.add(use.tensor)
            flows += _reads(graph, i, use.tensor, use.spec.size_bytes, producer)
        flows += _writes(graph, i, leaving)
    return flows


def _reads(graph: OpGraph, i: int, tensor: str, size_bytes: Dim, producer: int | None) -> list[Flow]:
    """What one op reads of a tensor that its group did not make."""
    op = graph.ops[i]
    if producer is not None:
        made_by = graph.ops[producer]
        if made_by.kind != "MemCopy":
            return [Flow(i, tensor, "activations", size_bytes, False)]
        # Of a KV cache, what was there before the step comes from DRAM; the new entries may still be on the chip.
        assert isinstance(made_by.work, Move)
        new_bytes = made_by.work.size_bytes
        return [Flow(i, "", "activations", size_bytes - new_bytes, False), Flow(i, tensor, "activations", new_bytes, False)]
    role = graph.tensors[tensor].role
    if role == "constant" or op.kind == "MemCopy":
        return []  # a constant is held by the unit that uses it; a cache that is written into is not read
    if op.kind == "Embedding" and role == "weight":
        assert isinstance(op.work, Move)
        return [Flow(i, "", "weights", op.work.size_bytes, False)]
    return [Flow(i, "", "weights" if role == "weight" else "activations", size_bytes, False)]


def _writes(graph: OpGraph, i: int, leaving: set[str]) -> list[Flow]:
    """What one op leaves for later groups, for the cache or for the user."""
    op = graph.ops[i]
    if op.kind == "MemCopy":
        assert isinstance(op.work, Move)
        return [Flow(i, "", "activations", op.work.size_bytes, True)]
    if graph.tensors[op.name].role == "output":
        return [Flow(i, "", "activations", op.output.size_bytes, True)]
    return [Flow(i, op.name, "activations", op.output.size_bytes, True)] if op.name in leaving else []
