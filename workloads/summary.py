"""The layer table of a model: shapes, parameters and MACs of each module, read off the model's own text."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from functional.config import ModelConfig
from functional.interpreters import Interpreter
from functional.llama import KVCache, build_weights, forward
from functional.ops import Op, View
from functional.spec import TensorSpec
from functional.work import Contraction

MODULE_KINDS = ("Embedding", "Linear", "RMSNorm")
"""Ops that own a weight, their second input; together they are what PyTorch calls the modules of the model."""


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module, or `repeats` alike ones in as many decoder layers; `parameters` and `macs` are those of one."""

    name: str
    kind: str
    repeats: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    tied_to: str | None = None
    """The module whose weight this one shares; its parameters are counted there."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The table and its totals for one batch of prompts; `attention_macs` are the unmasked products that belong to no module."""

    config: ModelConfig
    batch: int
    tokens: int
    rows: tuple[ModuleRow, ...]
    parameters: int
    module_macs: int
    attention_macs: int

    @property
    def macs(self) -> int:
        return self.module_macs + self.attention_macs


def summarise(config: ModelConfig, batch: int = 1, tokens: int = 1) -> Summary:
    """The layer table of a forward pass over ids[B, T] with all logits, as a module prints it.

    Layers are folded into the first of them that is alike in every shape.
    """
    modules = _Modules()
    ids = TensorSpec((batch, tokens), "int32")
    weights = build_weights(config, lambda name, shape: TensorSpec(shape, "bf16"), TensorSpec((config.head_dim // 2,), "fp32"))
    empty = TensorSpec((batch, config.num_key_value_heads, tokens, config.head_dim), "bf16")
    caches = (empty,) * config.num_hidden_layers
    forward(modules, config, weights, ids, KVCache(caches, caches), 0, tokens, "all")
    rows = _fold(modules.rows)
    return Summary(
        config=config,
        batch=batch,
        tokens=tokens,
        rows=rows,
        parameters=sum(row.repeats * row.parameters for row in rows),
        module_macs=sum(row.repeats * row.macs for row in rows),
        attention_macs=modules.attention_macs,
    )


class _Modules(Interpreter[TensorSpec]):
    """Follows shapes through the text and notes the ops that own a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[ModuleRow] = []
        self.attention_macs = 0
        self._owners: dict[int, str] = {}

    def apply(self, op: Op, name: str, inputs: tuple[TensorSpec, ...], **attrs: Any) -> TensorSpec:
        output = op.shape(*inputs, **attrs)
        work = op.work(*inputs, **attrs)
        macs = int(work.useful_macs) if isinstance(work, Contraction) else 0
        if op.kind in MODULE_KINDS:
            self.rows.append(self._row(op, name, inputs, output, macs))
        else:
            self.attention_macs += macs
        return output

    def view(self, view: View, x: TensorSpec, **attrs: Any) -> TensorSpec:
        return view.shape(x, **attrs)

    def _row(self, op: Op, name: str, inputs: tuple[TensorSpec, ...], output: TensorSpec, macs: int) -> ModuleRow:
        x, weight = inputs
        owner = self._owners.setdefault(id(weight), name)
        tied = owner != name
        parameters = 0 if tied else int(weight.elements)
        return ModuleRow(name, op.kind, 1, _whole(x.shape), _whole(output.shape), parameters, macs, owner if tied else None)


def _whole(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(int(dim) for dim in shape)


def _fold(rows: list[ModuleRow]) -> tuple[ModuleRow, ...]:
    """Rows that differ in nothing but the number of their layer become one, under the name of the first."""
    folded: dict[ModuleRow, ModuleRow] = {}
    for row in rows:
        alike = replace(row, name=re.sub(r"^layers\.\d+\.", "layers.*.", row.name))
        first = folded.get(alike)
        folded[alike] = row if first is None else replace(first, repeats=first.repeats + 1)
    return tuple(folded.values())
