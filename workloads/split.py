"""Splitting: every linear in pieces of its output, one per core, and a Concat that puts them together.

The weight's output dimension is cut into equal pieces `NAME.slice_0`, `NAME.slice_1`, ...; all read the same input, and `NAME` becomes the
Concat of what they give. Pieces of all linears of a group run at the same time, piece i on core i, so that in a group a Concat is only a
view of a packed buffer; by itself (`--no-fuse`) it moves its bytes.
"""

from __future__ import annotations

from typing import Any

from functional.errors import Problem, ScenarioError
from functional.ops import OPS
from functional.spec import TensorSpec
from functional.work import Work
from workloads.graph import OpGraph, OpNode, Tensor, Use

Ruled = tuple[TensorSpec, Work]


def split(graph: OpGraph, parts: int) -> OpGraph:
    """The same step with every linear in `parts` pieces; the graph itself for one.

    Raises `ScenarioError` where a linear's outputs do not part equally.
    """
    if parts < 1:
        raise ScenarioError(Problem(f"must be at least 1, found {parts}", path="--split"))
    if parts == 1:
        return graph
    linears = {op.name: int(op.output.shape[-1]) for op in graph.ops if op.kind == "Linear"}
    uneven = next((name for name, columns in linears.items() if columns % parts), None)
    if uneven is not None:
        raise ScenarioError(
            Problem(f"the {linears[uneven]} outputs of {uneven} do not part into {parts} equal pieces", "take a divisor", path="--split")
        )
    ruled: dict[Any, Ruled] = {}  # alike pieces share spec and work, as alike ops of a traced graph do
    weights: dict[int, TensorSpec] = {}
    tensors = dict(graph.tensors)
    ops: list[OpNode] = []

    def made(kind: str, name: str, component: str, inputs: tuple[Use, ...]) -> Use:
        key = kind, *(id(use.spec) for use in inputs)
        if key not in ruled:
            specs = [use.spec for use in inputs]
            ruled[key] = OPS[kind].shape(*specs), OPS[kind].work(*specs)
        output, work = ruled[key]
        ops.append(OpNode(name, kind, component, inputs, output, {}, work))
        tensors.setdefault(name, Tensor(name, "intermediate", output))
        return Use(name, output)

    for op in graph.ops:
        if op.kind != "Linear":
            ops.append(op)
            continue
        x, weight = op.inputs
        piece = weights.get(id(weight.spec))
        if piece is None:
            piece = weights[id(weight.spec)] = TensorSpec((weight.spec.shape[0] // parts, *weight.spec.shape[1:]), weight.spec.format)
        pieces = [made("Linear", f"{op.name}.slice_{i}", op.component, (x, Use(weight.tensor, piece))) for i in range(parts)]
        made("Concat", op.name, op.component, tuple(pieces))
    return OpGraph(graph.model, graph.scenario, tuple(ops), tensors)


def pieces(graph: OpGraph) -> dict[str, str]:
    """The Concat that puts each piece of a linear into its place, by the piece's name."""
    return {use.tensor: op.name for op in graph.ops if op.kind == "Concat" for use in op.inputs}


def parts_of(graph: OpGraph) -> int:
    """In how many pieces the linears of a graph are."""
    return max((len(op.inputs) for op in graph.ops if op.kind == "Concat"), default=1)
