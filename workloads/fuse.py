"""Fusion: which ops run as one, and what then still crosses memory.

A group is what runs between two visits to memory: linears that read the same tensor (one GEMM), attention whole, and element-wise chains
with the op that feeds them. A group never spans two components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from functional.formats import bits_of
from functional.spec import Dim, TensorSpec
from functional.work import Move, Vector
from workloads.graph import OpGraph, OpNode, Use
from workloads.split import pieces

Kind: TypeAlias = Literal["weights", "activations", "psums", "results"]
"""What holds the bytes on a chip. What a linear makes with no op after it in its group comes straight from its sums: `psums` if it leaves
the chip for good, `results` if a later group reads it, as an activation."""

ELEMENTWISE = frozenset({"RoPE", "SiLU", "Mul", "Add", "MemCopy", "Concat"})
"""Kinds that touch each element once and so can follow the op that makes it without another visit to memory."""

SOFTMAX = frozenset({"ReduceMax", "ElementwiseExp", "Normalize"})


class Flow(NamedTuple):
    """Bytes of one tensor that one op of a group brings in or takes out.

    `tensor` is empty where the bytes always pass through DRAM (weights, KV cache, ids, logits), and names an intermediate where a plan may
    keep them on the chip instead; bytes that are `warm` never do. (A tuple, since a step has a thousand of them and a frozen dataclass
    takes three times as long to make.)
    """

    op: int
    tensor: str
    kind: Kind
    size_bytes: Dim
    is_write: bool
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Ops (indices into `OpGraph.ops`) that run as one, and all that crosses the border of the group."""

    ops: tuple[int, ...]
    component: str
    flows: tuple[Flow, ...]


def fuse(graph: OpGraph, enabled: bool = True) -> tuple[Group, ...]:
    """The groups of a graph in order; one op per group if not `enabled`, but all pieces of a linear in one, for they run at a time."""
    members = _partition(graph.ops) if enabled else _apart(graph)
    borders = _Borders(graph, {op.name: op for op in graph.ops})
    groups = [Group(tuple(ops), graph.ops[ops[0]].component, tuple(borders.flows(ops))) for ops in reversed(members)]
    return tuple(reversed(groups))


def _apart(graph: OpGraph) -> list[list[int]]:
    piece_of = pieces(graph)
    whole = [piece_of.get(op.name, op.name) if op.kind == "Linear" else i for i, op in enumerate(graph.ops)]
    return [[i for i, _ in members] for _, members in groupby(enumerate(whole), key=lambda member: member[1])]


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
    """What crosses the borders of groups, asked from the last group to the first, so that it is known which tensors are read later.

    `maker` is the op that makes a tensor, `read_later` what the groups asked so far read of others. `older_bytes` keeps the size of what
    was in a KV cache, so that alike layers share one object even where it is an array.
    """

    graph: OpGraph
    maker: Mapping[str, OpNode]
    read_later: set[str] = field(default_factory=set)
    older_bytes: dict[tuple[int, int], Dim] = field(default_factory=dict)

    def flows(self, members: Sequence[int]) -> list[Flow]:
        ops = self.graph.ops
        seen = {ops[i].name for i in members}
        flows: list[Flow] = []
        for i in members:
            for use in ops[i].inputs:
                if use.tensor not in seen or self._is_piece(i, use):
                    seen.add(use.tensor)
                    self._add_reads(flows, i, use)
            self._add_write(flows, i, from_sums=len(members) == 1 and ops[i].kind == "Linear")
        return flows

    def _is_piece(self, i: int, use: Use) -> bool:
        """Whether an op reads a part of a weight, which no other op reads."""
        tensor = self.graph.tensors[use.tensor]
        return tensor.role == "weight" and self.graph.ops[i].kind == "Linear" and use.spec.shape != tensor.spec.shape

    def _add_reads(self, flows: list[Flow], i: int, use: Use) -> None:
        """What one op reads of a tensor that its group did not make."""
        made_by = self.maker.get(use.tensor)
        if made_by is None:
            self._add_read_from_memory(flows, i, use)
            return
        self.read_later.add(use.tensor)
        if made_by.kind != "MemCopy":
            flows.append(Flow(i, use.tensor, "activations", _read_bytes(self.graph.ops[i], use), False))
            return
        # Of a KV cache, what was there before the step comes from DRAM; the new entries may still be on the chip.
        new_bytes = _moved_bytes(made_by)
        key = id(use.spec), id(made_by.work)
        older_bytes = self.older_bytes.get(key)
        if older_bytes is None:
            older_bytes = self.older_bytes[key] = use.spec.size_bytes - new_bytes
        warm = use.tensor in self.graph.warm_tensors
        flows += Flow(i, "", "activations", older_bytes, False, warm), Flow(i, use.tensor, "activations", new_bytes, False)

    def _add_read_from_memory(self, flows: list[Flow], i: int, use: Use) -> None:
        """Weights and ids. A constant is held by the unit that uses it; a cache that is written into is not read."""
        op, role = self.graph.ops[i], self.graph.tensors[use.tensor].role
        warm = use.tensor in self.graph.warm
        if role == "weight":
            flows.append(Flow(i, "", "weights", _packed_bytes(use.spec) if op.kind == "Linear" else _read_bytes(op, use), False, warm))
        elif role != "constant" and op.kind != "MemCopy":
            flows.append(Flow(i, "", "activations", use.spec.size_bytes, False, warm))

    def _add_write(self, flows: list[Flow], i: int, from_sums: bool) -> None:
        """What one op leaves for the cache, for later groups or for the user."""
        op = self.graph.ops[i]
        if op.kind == "MemCopy":
            flows.append(Flow(i, "", "activations", _moved_bytes(op), True))
        elif op.name in self.read_later:
            flows.append(Flow(i, op.name, "results" if from_sums else "activations", op.output.size_bytes, True))
        elif self.graph.tensors[op.name].role == "output":
            warm = op.name in self.graph.warm  # and so ends in a level that holds activations
            flows.append(Flow(i, "", "psums" if from_sums and not warm else "activations", op.output.size_bytes, True, warm))


def _read_bytes(op: OpNode, use: Use) -> Dim:
    """What an op reads of a tensor: all of it, but where it gathers or searches only the elements that it looks at."""
    if (op.kind == "Embedding" and use is op.inputs[1]) or (op.kind == "Gather" and use is op.inputs[0]):
        return _moved_bytes(op)
    if op.kind == "LeastLikely" and isinstance(op.work, Vector):
        return TensorSpec((op.work.counts["add"],), use.spec.format).size_bytes
    return use.spec.size_bytes


def _packed_bytes(weight: TensorSpec) -> Dim:
    """What is read at least of a weight that lies packed with those of the other linears of its group: half a byte at its end (int4) may
    belong to the next."""
    return weight.elements * bits_of(weight.format) // 8 + weight.scales_bytes


def _moved_bytes(op: OpNode) -> Dim:
    assert isinstance(op.work, Move)
    return op.work.size_bytes
