"""Groups of ops, executed as their mappings say, on golden or on any other tensors. Nothing here knows a cost.

Numbers are `QTensor`s throughout: int8 values with their scale, or floats without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from functional.interpreters import Interpreter
from functional.ops import Op, View
from functional.qtensor import QTensor, multiplier
from functional.quantise import golden_int8
from hwmodels.chip import Chip
from sim.attention_mapping import AttentionMapping
from sim.execute import Arithmetic, Tally, execute_attention, execute_gemm
from sim.execute.attention import AttentionNumbers, Scales
from sim.mapping import GemmMapping

Weights: TypeAlias = Mapping[str, QTensor]
"""The weight of each Linear by the op's name."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearStep:
    """Linears that read the same tensor, executed as one GEMM whose columns are those of all their outputs, one after another."""

    names: tuple[str, ...]
    mapping: GemmMapping
    a_resident: bool


@dataclass(frozen=True, slots=True, eq=False)
class AttentionStep:
    """The ops from the scores to the product with the values, executed as one."""

    names: tuple[str, ...]
    mapping: AttentionMapping


Step: TypeAlias = LinearStep | AttentionStep


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A chip, the number format in which the step runs on it, and (int8) the scale of every op's output."""

    chip: Chip
    number_format: str
    scales: Mapping[str, Tensor]

    def arithmetic(self, factor: Tensor | None = None) -> Arithmetic:
        """Products as this chip computes them."""
        return Arithmetic(self.number_format, self.chip.matrix.accumulate[self.number_format], self.number_format, factor)

    def by_itself(self, op: Op, name: str, inputs: Sequence[QTensor], attrs: Mapping[str, Any]) -> QTensor:
        """An op without a mapping: vector work and moves."""
        if self.number_format == "int8":
            return golden_int8(op, tuple(inputs), dict(attrs), self.scales[name])
        return QTensor(op.compute(*(each.values for each in inputs), **attrs), None)

    def linears(self, step: LinearStep, x: QTensor, weights: Sequence[QTensor]) -> tuple[list[QTensor], Tally]:
        """Outputs of all linears of a group from what they read."""
        rows = x.values.reshape(-1, x.values.shape[-1])
        columns = weights[0].values if len(weights) == 1 else torch.cat([weight.values for weight in weights])
        factor = None
        if self.number_format == "int8":
            factors = [multiplier(_scale(x), _scale(each), self.scales[name]) for name, each in zip(step.names, weights, strict=True)]
            factor = torch.cat(factors)
        product, tally = execute_gemm(step.mapping, self.chip, rows, columns.T, self.arithmetic(factor), step.a_resident)
        outputs = torch.split(product, [weight.values.shape[0] for weight in weights], 1)
        shape = x.values.shape[:-1]
        return [QTensor(each.reshape(*shape, -1), self.scales.get(name)) for name, each in zip(step.names, outputs, strict=True)], tally

    def attention(self, step: AttentionStep, sides: tuple[QTensor, QTensor, QTensor], softmax_scale: float) -> tuple[QTensor, Tally]:
        """Output of attention from queries, keys and values."""
        q, k, v = sides
        output = self.scales.get(step.names[-1])
        scales, factor = None, None
        if self.number_format == "int8":
            between = [self.scales[step.names[i]] for i in (0, 2, 3, 4)]
            scales, factor = Scales(_scale(q), _scale(k), _scale(v), *between), torch.tensor(1.0)
        numbers = AttentionNumbers(self.arithmetic(factor), softmax_scale, scales)
        found, tally = execute_attention(step.mapping, self.chip, q.values, k.values, v.values, numbers)
        return QTensor(found, output), tally


def _scale(tensor: QTensor) -> Tensor:
    assert tensor.scale is not None
    return tensor.scale


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a group gave when it was executed before: the same inputs need not be executed again."""

    inputs: tuple[QTensor, ...]
    outputs: tuple[QTensor, ...]

    def answers(self, inputs: Sequence[QTensor]) -> bool:
        return all(torch.equal(mine.values, theirs.values) for mine, theirs in zip(self.inputs, inputs, strict=True))


@dataclass(eq=False)
class Mapped(Interpreter[QTensor]):
    """Interprets the model's text by executing mappings: products through their groups' steps, other ops by themselves."""

    machine: Machine
    steps: Mapping[str, Step]
    weights: Weights
    known: Mapping[str, Known]
    ready: dict[str, QTensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._sides: tuple[QTensor, ...] = ()
        self._softmax_scale = 1.0

    def apply(self, op: Op, name: str, inputs: tuple[QTensor, ...], **attrs: Any) -> QTensor:
        step = self.steps.get(name)
        if isinstance(step, LinearStep):
            if name == step.names[0]:
                self.ready |= dict(zip(step.names, self._linears(step, inputs[0]), strict=True))
            return self.ready.pop(name)
        if isinstance(step, AttentionStep):
            return self._attention(step, op, name, inputs, attrs)
        return self.machine.by_itself(op, name, inputs, attrs)

    def view(self, view: View, x: QTensor, **attrs: Any) -> QTensor:
        return QTensor(view.compute(x.values, **attrs), x.scale)

    def _linears(self, step: LinearStep, x: QTensor) -> Sequence[QTensor]:
        known = self.known.get(step.names[0])
        if known is not None and known.answers((x,)):
            return known.outputs
        return self.machine.linears(step, x, [self.weights[name] for name in step.names])[0]

    def _attention(self, step: AttentionStep, op: Op, name: str, inputs: tuple[QTensor, ...], attrs: Mapping[str, Any]) -> QTensor:
        """Executed whole at its last op; what the ops before it give is not looked at."""
        if name == step.names[0]:
            self._sides = inputs
        self._softmax_scale = attrs.get("scale", self._softmax_scale)
        if name != step.names[-1]:
            return inputs[0]
        queries, keys = self._sides
        sides = queries, keys, inputs[1]
        known = self.known.get(step.names[0])
        if known is not None and known.answers(sides):
            return known.outputs[0]
        return self.machine.attention(step, sides, self._softmax_scale)[0]
