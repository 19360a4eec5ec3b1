"""The op graph: what one step of a model does, op by op, with the tensors between the ops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from functional.errors import BadInput
from functional.ops import OPS
from functional.sampling import Sampling
from functional.spec import Dim, TensorSpec, format_shape
from functional.work import Mask, Work
from workloads.scenario import Formats, Scenario

if TYPE_CHECKING:
    import networkx

Role: TypeAlias = Literal["weight", "kv_cache", "input", "constant", "intermediate", "output"]
"""weight, kv_cache and input lie in DRAM before the step; an output is left there; a constant is held by the unit that uses it."""

GRAPH_FORMAT = 1
"""Version of the JSON layout."""


class Tensor(NamedTuple):
    """One tensor of the graph; what an op makes carries the op's name."""

    name: str
    role: Role
    spec: TensorSpec


class Use(NamedTuple):
    """A tensor as an op sees it, after the views between producer and consumer."""

    tensor: str
    spec: TensorSpec


class OpNode(NamedTuple):
    """One op: its kind in the op table, where it stands in the model, what it reads, what it makes and what that costs."""

    name: str
    kind: str
    component: str
    inputs: tuple[Use, ...]
    output: TensorSpec
    attrs: Mapping[str, Any]
    work: Work


@dataclass(frozen=True, eq=False)
class OpGraph:
    """Ops in the order of the model's text, and every tensor by name. Each op makes the tensor of its own name.

    `warm`: names of tensors that lie in the outermost on-chip memory when the step starts and may be left there (an L2 that a
    microbenchmark has warmed): weights, inputs, outputs, KV caches. Their bytes never pass DRAM, but every on-chip level.
    """

    model: str
    scenario: Scenario
    ops: tuple[OpNode, ...]
    tensors: Mapping[str, Tensor]
    warm: frozenset[str] = frozenset()

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What passes have derived from this graph, kept with it so that many chips share it."""
        return {}

    @cached_property
    def warm_tensors(self) -> frozenset[str]:
        """`warm`, and the caches that this step adds entries to, if what they held before is warm."""
        if not self.warm:
            return self.warm
        return self.warm | {op.name for op in self.ops if op.kind == "MemCopy" and not self.warm.isdisjoint([u.tensor for u in op.inputs])}

    @cached_property
    def network(self) -> networkx.MultiDiGraph[str]:
        """The graph as networkx: a node per op (attribute `op`), an edge per use (attributes `tensor`, `shape`, `format`)."""
        import networkx

        network: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(model=self.model)
        network.add_nodes_from((op.name, {"op": op}) for op in self.ops)
        made = {op.name for op in self.ops}
        network.add_edges_from(
            (use.tensor, op.name, {"tensor": use.tensor, "shape": use.spec.shape, "format": use.spec.format})
            for op in self.ops
            for use in op.inputs
            if use.tensor in made
        )
        return network

    def to_json(self) -> str:
        """The whole graph as JSON text; `OpGraph.from_json` reads it back unchanged."""
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """The whole graph as plain data. Work is not stored: it follows from kind, shapes and attributes by the op table."""
        scenario = self.scenario
        return {
            "graph_format": GRAPH_FORMAT,
            "model": self.model,
            "scenario": {
                "phase": scenario.phase,
                "batch": _plain(scenario.batch),
                "q_len": _plain(scenario.q_len),
                "context": _plain(scenario.context),
                "logits": scenario.logits,
                **({"sampling": asdict(scenario.sampling)} if scenario.sampling else {}),
                "formats": {name: getattr(scenario.formats, name) for name in Formats.__slots__},
            },
            "tensors": [{"name": tensor.name, "role": tensor.role, **_plain_spec(tensor.spec)} for tensor in self.tensors.values()],
            "ops": [
                {
                    "name": op.name,
                    "kind": op.kind,
                    "component": op.component,
                    "inputs": [{"tensor": use.tensor, **_plain_spec(use.spec)} for use in op.inputs],
                    "output": _plain_spec(op.output),
                    "attrs": {name: _plain(value) for name, value in op.attrs.items()},
                }
                for op in self.ops
            ],
            "warm": sorted(self.warm),
        }

    @classmethod
    def from_json(cls, text: str) -> OpGraph:
        """Read what `to_json` wrote; `BadInput` if it is something else."""
        try:
            data = json.loads(text)
            if data["graph_format"] != GRAPH_FORMAT:
                raise BadInput(f"op graph: format {data['graph_format']} is not {GRAPH_FORMAT}; write it again with this version")
            scenario = data["scenario"]
            lengths = {name: _rebuilt(scenario[name]) for name in ("batch", "q_len", "context")}
            formats = Formats(**scenario["formats"])
            sampling = Sampling(**scenario["sampling"]) if "sampling" in scenario else None
            return cls(
                data["model"],
                Scenario(scenario["phase"], **lengths, formats=formats, logits=scenario["logits"], sampling=sampling),
                tuple(_rebuilt_op(op) for op in data["ops"]),
                {tensor["name"]: Tensor(tensor["name"], tensor["role"], _rebuilt_spec(tensor)) for tensor in data["tensors"]},
                frozenset(data.get("warm", ())),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"op graph: not a graph that rooftile wrote ({type(error).__name__}: {error})") from error

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart, components as subgraphs."""
        ids = {op.name: f"n{i}" for i, op in enumerate(self.ops)}
        lines = ["flowchart TD"]
        for component, ops in self.by_component().items():
            lines.append(f'  subgraph "{component}"')
            lines += [f'    {ids[op.name]}["{op.name}<br/>{op.kind}"]' for op in ops]
            lines.append("  end")
        lines += [f'  {ids[source]} -->|"{format_shape(shape)}"| {ids[target]}' for source, target, shape in self._edges()]
        return "\n".join(lines)

    def to_dot(self) -> str:
        """The graph in Graphviz's DOT, components as clusters."""
        name = self.model.replace("\\", "\\\\").replace('"', '\\"')
        lines = [f'digraph "{name}" {{', "  node [shape=box];"]
        for i, (component, ops) in enumerate(self.by_component().items()):
            lines.append(f'  subgraph cluster_{i} {{ label="{component}";')
            lines += [f'    "{op.name}" [label="{op.name}\\n{op.kind}"];' for op in ops]
            lines.append("  }")
        lines += [f'  "{source}" -> "{target}" [label="{format_shape(shape)}"];' for source, target, shape in self._edges()]
        return "\n".join([*lines, "}"])

    def by_component(self) -> dict[str, list[OpNode]]:
        """Ops of each component, in order."""
        components: dict[str, list[OpNode]] = {}
        for op in self.ops:
            components.setdefault(op.component, []).append(op)
        return components

    def _edges(self) -> list[tuple[str, str, tuple[Dim, ...]]]:
        return [(source, target, edge["shape"]) for source, target, edge in self.network.edges(data=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, Mask):
        return {"offset": _plain(value.offset), "window": value.window}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    return value


def _plain_spec(spec: TensorSpec) -> dict[str, Any]:
    return {"shape": [_plain(dim) for dim in spec.shape], "format": spec.format}


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict):
        return np.asarray(value["array"], dtype=np.int64) if "array" in value else Mask(_rebuilt(value["offset"]), value["window"])
    return value


def _rebuilt_spec(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(tuple(_rebuilt(dim) for dim in data["shape"]), data["format"])


def _rebuilt_op(data: Mapping[str, Any]) -> OpNode:
    inputs = tuple(Use(use["tensor"], _rebuilt_spec(use)) for use in data["inputs"])
    attrs = {name: _rebuilt(value) for name, value in data["attrs"].items()}
    work = OPS[data["kind"]].work(*(use.spec for use in inputs), **attrs)
    return OpNode(data["name"], data["kind"], data["component"], inputs, _rebuilt_spec(data["output"]), attrs, work)
