"""Groups of ops, executed as their mappings say, on golden or on any other tensors. Nothing here knows a cost.

Numbers are `QTensor`s throughout: codes with their scale, or floats without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from torch import Tensor

from functional.interpreters import Interpreter
from functional.ops import Op, View
from functional.qtensor import QTensor, brought, common_format
from functional.quantise import golden, product_factor
from hwmodels.chip import Chip
from sim.attention_mapping import AttentionMapping
from sim.execute import Arithmetic, Tally, execute_attention, execute_gemm
from sim.execute.attention import AttentionNumbers, Scales
from sim.mapping import GemmMapping, Span, parts

Weights: TypeAlias = Mapping[str, QTensor]
"""The weight of each Linear by the op's name."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearStep:
    """Linears that read the same tensor, executed as one GEMM whose columns are those of all their outputs, one after another; or, if they
    are in several pieces (name after name with its pieces), each core has the columns of its piece of all of them."""

    names: tuple[str, ...]
    mapping: GemmMapping
    a_resident: bool
    pieces: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class AttentionStep:
    """The ops from the scores to the product with the values, executed as one."""

    names: tuple[str, ...]
    mapping: AttentionMapping


Step: TypeAlias = LinearStep | AttentionStep


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A chip, the number format between ops, and (int8) the scale of every op's output."""

    chip: Chip
    activations: str
    scales: Mapping[str, Tensor]

    def arithmetic(self, compute: str, factor: Tensor | None = None) -> Arithmetic:
        """Products in a format as this chip computes them."""
        return Arithmetic(compute, self.chip.matrix.accumulate[compute], self.activations, factor)

    def by_itself(self, op: Op, name: str, inputs: Sequence[QTensor], attrs: Mapping[str, Any]) -> QTensor:
        """An op without a mapping: vector work and moves."""
        return golden(op, tuple(inputs), dict(attrs), self.activations, self.scales.get(name))

    def linears(self, step: LinearStep, x: QTensor, weights: Sequence[QTensor]) -> tuple[list[QTensor], Tally]:
        """Outputs of all linears of a group from what they read."""
        if step.pieces > 1 and step.mapping.split != (1, step.pieces):
            raise ValueError(f"{step.pieces} pieces are for as many cores, one each; the mapping is split {step.mapping.split}")
        outputs = [self.scales.get(name) for name in step.names]
        products = [self.product(x, weight, output) for weight, output in zip(weights, outputs, strict=True)]
        arithmetic = products[0].arithmetic
        if arithmetic.factor is not None:
            factors = [_scale_of(each.arithmetic.factor).expand(each.b.values.shape[0]) for each in products]
            arithmetic = replace(arithmetic, factor=torch.cat(factors))
        rows = products[0].a.values.reshape(-1, x.values.shape[-1])
        columns = products[0].b.values if len(weights) == 1 else torch.cat([each.b.values for each in products])
        places = None if step.pieces == 1 else _columns_of_cores(step, [weight.values.shape[0] for weight in weights])
        if places is not None:
            columns = columns[places]
            arithmetic = arithmetic if arithmetic.factor is None else replace(arithmetic, factor=arithmetic.factor[places])
        found, tally = execute_gemm(step.mapping, self.chip, rows, columns.T, arithmetic, step.a_resident)
        if places is not None:
            found = found[:, places.argsort()]
        parts = torch.split(found, [weight.values.shape[0] for weight in weights], 1)
        shape = x.values.shape[:-1]
        return [QTensor(each.reshape(*shape, -1), output) for each, output in zip(parts, outputs, strict=True)], tally

    def product(self, x: QTensor, weight: QTensor, output: Tensor | None) -> Product:
        """A product with operands in its compute format; `output` is the scale of what comes out, if it has one."""
        compute, a, b = common_format(x, weight)
        return Product(a, b, self.arithmetic(compute, None if output is None else product_factor(a, b, output)))

    def attention(self, step: AttentionStep, sides: tuple[QTensor, QTensor, QTensor], softmax_scale: float) -> tuple[QTensor, Tally]:
        """Output of attention from queries, keys and values."""
        numbers, (q, k, v) = self.attention_numbers(step.names, sides, softmax_scale)
        found, tally = execute_attention(step.mapping, self.chip, q.values, k.values, v.values, numbers)
        return QTensor(found, self.scales.get(step.names[-1]), None, self.activations), tally

    def attention_numbers(
        self, names: Sequence[str], sides: tuple[QTensor, QTensor, QTensor], softmax_scale: float
    ) -> tuple[AttentionNumbers, tuple[QTensor, QTensor, QTensor]]:
        """How attention is computed, and its sides in the format of its products."""
        compute, q, k = common_format(sides[0], sides[1])
        v = brought(sides[2], compute)
        one, scales = torch.ones(()), None
        if names[-1] in self.scales:
            of_sides = [one if each.scale is None else each.scale for each in (q, k, v)]
            scales = Scales(*of_sides, *(self.scales[names[i]] for i in (0, 2, 3, 4)))
        arithmetic = self.arithmetic(compute, None if scales is None else one)
        return AttentionNumbers(arithmetic, softmax_scale, scales), (q, k, v)


def _columns_of_cores(step: LinearStep, widths: Sequence[int]) -> Tensor:
    """Which column of all pieces, one after another, stands in each column of the GEMM, so that core i works on piece i of every linear.

    A tile that cores share is cut into equal parts, one per core. Raises ValueError where a core gets more or fewer columns than its pieces
    have.
    """
    starts = [0, *accumulate(widths)]
    own: list[list[int]] = [[] for _ in range(step.pieces)]
    for i, width in enumerate(widths):
        own[i % step.pieces] += range(starts[i], starts[i] + width)
    ranges = [Span(0, step.mapping.gemm.n)]
    for stage in step.mapping.stages[: step.mapping.split_stage]:
        ranges = [part for each in ranges for part in parts(each, stage.tile.n)]
    places: list[int] = []
    taken = [0] * step.pieces
    for each in ranges:
        for core, part in enumerate(parts(each, -(-(each.stop - each.start) // step.pieces))):
            width = part.stop - part.start
            places += own[core][taken[core] : taken[core] + width]
            taken[core] += width
    if taken != [len(columns) for columns in own]:
        raise ValueError(f"cores get {taken} columns of pieces that have {[len(columns) for columns in own]}")
    return torch.tensor(places)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Operands in one format, and how they are multiplied."""

    a: QTensor
    b: QTensor
    arithmetic: Arithmetic


def _scale_of(scale: Tensor | None) -> Tensor:
    assert scale is not None
    return scale


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
        return x.with_values(view.compute(x.values, **attrs))

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
