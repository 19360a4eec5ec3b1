"""Tracing: the golden text, interpreted on shapes alone, leaves the op graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from functional.config import ModelConfig
from functional.formats import weight_format
from functional.interpreters import Interpreter
from functional.llama import KVCache, Weights, build_weights, forward
from functional.ops import Op, View
from functional.sampling import sample
from functional.spec import TensorSpec
from functional.work import Mask, Work
from workloads.graph import OpGraph, OpNode, Role, Tensor, Use
from workloads.scenario import Formats, Scenario


class Trace(Interpreter[Use]):
    """Records every op. Alike calls share one spec and one work object: a layer costs no arithmetic after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[OpNode] = []
        self.tensors: dict[str, Tensor] = {}
        self._ruled: dict[Any, tuple[TensorSpec, Work]] = {}
        self._viewed: dict[Any, TensorSpec] = {}
        # Memo keys hold identities, so what they identify must stay alive as long as the tracer does.
        self._alive: list[Any] = []

    def declare(self, name: str, role: Role, spec: TensorSpec) -> Use:
        """A tensor that exists before the step."""
        self.tensors[name] = Tensor(name, role, spec)
        return Use(name, spec)

    def apply(self, op: Op, name: str, inputs: tuple[Use, ...], **attrs: Any) -> Use:
        key = (op.kind, *(id(use.spec) for use in inputs), *map(_identity, attrs.values()))
        ruled = self._ruled.get(key)
        if ruled is None:
            specs = tuple(use.spec for use in inputs)
            ruled = self._ruled[key] = op.shape(*specs, **attrs), op.work(*specs, **attrs)
            self._alive.append((specs, attrs))
        output, work = ruled
        self.ops.append(OpNode(name, op.kind, _component(name), inputs, output, attrs, work))
        self.tensors[name] = Tensor(name, "kv_cache" if op.kind == "MemCopy" else "intermediate", output)
        return Use(name, output)

    def view(self, view: View, x: Use, **attrs: Any) -> Use:
        key = (view.name, id(x.spec), *map(_identity, attrs.values()))
        spec = self._viewed.get(key)
        if spec is None:
            spec = self._viewed[key] = view.shape(x.spec, **attrs)
            self._alive.append((x.spec, attrs))
        return Use(x.tensor, spec)


def trace(config: ModelConfig, scenario: Scenario) -> OpGraph:
    """The op graph of one step; raises `ScenarioError` for lengths that the model cannot hold."""
    scenario.check(config)
    f, formats = Trace(), scenario.formats
    spec_of: dict[tuple[int, ...], TensorSpec] = {}

    def weight(name: str, shape: tuple[int, ...]) -> Use:
        spec = spec_of.get(shape)
        if spec is None:
            spec = spec_of[shape] = weight_spec(shape, formats)
        return f.declare(name, "weight", spec)

    frequencies = f.declare("inverse_frequencies", "constant", TensorSpec((config.head_dim // 2,), "fp32"))
    weights: Weights[Use] = build_weights(config, weight, frequencies)
    cache_spec = TensorSpec((scenario.batch, config.num_key_value_heads, scenario.kv_len, config.head_dim), formats.kv)
    layers = range(config.num_hidden_layers)
    cache = KVCache(
        tuple(f.declare(f"cache.layers.{i}.keys", "kv_cache", cache_spec) for i in layers),
        tuple(f.declare(f"cache.layers.{i}.values", "kv_cache", cache_spec) for i in layers),
    )
    ids = f.declare("ids", "input", TensorSpec((scenario.batch, scenario.q_len), "int32"))
    result = forward(f, config, weights, ids, cache, scenario.context, scenario.q_len, scenario.logits, formats.activations)
    if scenario.sampling is not None:
        result = sample(f, result, scenario.sampling)
    if scenario.logits != "none":  # else nobody looks at what the last layer leaves
        f.tensors[result.tensor] = Tensor(result.tensor, "output", result.spec)
    return OpGraph(config.name, scenario, tuple(f.ops), f.tensors)


def weight_spec(shape: tuple[int, ...], formats: Formats) -> TensorSpec:
    """A weight as it lies in memory; that of a norm is multiplied with activations, element by element, and has their format."""
    return TensorSpec(shape, weight_format(formats.weights) if len(shape) > 1 else formats.activations)


def _component(name: str) -> str:
    """`layers.3` for `layers.3.mlp.up_proj`; otherwise the first part of the path."""
    head, _, rest = name.partition(".")
    return f"{head}.{rest.partition('.')[0]}" if head == "layers" else head


def _identity(value: Any) -> Any:
    return id(value) if isinstance(value, (Mask, np.ndarray)) else value
