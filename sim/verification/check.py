"""Each op from its golden inputs, against its golden output; each group's tally against its charge; the logits end to end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from functional.formats import is_integer
from functional.qtensor import QTensor
from functional.quantise import QCaptured
from sim.execute import Judgement, gemm_bound, judge
from sim.execute.judge import attention_bound, magnitudes
from sim.verification.border import Destination, attention_counts, linear_counts, scale_bytes, streamed_bytes
from sim.verification.charge import ChargedGroup
from sim.verification.counts import Counts
from sim.verification.golden_run import GoldenStep
from sim.verification.run import AttentionStep, Known, LinearStep, Machine, Mapped
from workloads.graph import OpGraph, OpNode


@dataclass(frozen=True, slots=True)
class OpCheck:
    """One op. `error` is the largest distance of an executed element to the golden one (int8: in codes) and `bound` what that element may
    be off (0: nothing); `share` is the largest error over its bound. A group's tally and charge stand at one of its ops.
    """

    name: str
    kind: str
    executed: str
    elements: int
    different: int
    error: float
    bound: float
    share: float
    tally: Counts | None
    charge: Counts | None
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences


@dataclass(frozen=True, slots=True)
class LogitsCheck:
    """Logits with every op executed through its mapping, against the golden ones. They are judged where every op is exact."""

    max_error: float
    rms_error: float
    top1_agreement: float
    judged: bool
    passed: bool


@dataclass(eq=False)
class Checker:
    """Executes the groups of one step and compares; `known` fills up with what they gave."""

    graph: OpGraph
    golden: GoldenStep
    machine: Machine
    groups: Sequence[ChargedGroup]
    resident: Set[str]
    known: dict[str, Known] = field(default_factory=dict)

    def ops(self) -> list[OpCheck]:
        """Every op, in the order of the graph."""
        checks = {check.name: check for group in self.groups for check in self._group(group)}
        return [checks[op.name] for op in self.graph.ops]

    def logits(self, exact: bool) -> LogitsCheck:
        """The whole step through its mappings; judged if every op was `exact`."""
        steps = {name: group.step for group in self.groups if group.step is not None for name in group.step.names}
        weights = {name: each.inputs[1] for name, each in self.golden.ops.items() if each.op.kind == "Linear"}
        found = self.golden.interpreted(Mapped(self.machine, steps, weights, self.known))
        return compare_logits(found, self.golden.logits, exact)

    # One group

    def _group(self, group: ChargedGroup) -> list[OpCheck]:
        captured = [self.golden.ops[op.name] for op in group.ops]
        try:
            checks, tally = self._products(group)
        except (ValueError, AssertionError) as error:
            return [_broken(op, str(error)) if i == 0 else _not_run(op) for i, op in enumerate(group.ops)]
        done = {check.name for check in checks}
        checks += [self._alone(op, each) for op, each in zip(group.ops, captured, strict=True) if op.name not in done]
        if not isinstance(group.step, AttentionStep):
            tally = tally.plus(*streamed_bytes(group.ops, self.golden.ops, self.graph, self.machine.chip, self.resident))
        owner = checks[0]
        checks[0] = replace(
            owner, tally=tally, charge=group.charge, differences=(*owner.differences, *tally.differences(group.charge))
        )
        return checks

    def _products(self, group: ChargedGroup) -> tuple[list[OpCheck], Counts]:
        if isinstance(group.step, LinearStep):
            return self._linears(group.step, group)
        if isinstance(group.step, AttentionStep):
            return self._attention(group.step, group)
        return [], Counts()

    def _linears(self, step: LinearStep, group: ChargedGroup) -> tuple[list[OpCheck], Counts]:
        golden = [self.golden.ops[name] for name in step.names]
        x, weights = golden[0].inputs[0], [each.inputs[1] for each in golden]
        outputs, tally = self.machine.linears(step, x, weights)
        self.known[step.names[0]] = Known((x,), tuple(outputs))
        stays = step.names[0] in self.resident
        output: Destination = "taken over" if len(group.ops) > 1 else "on the chip" if stays else "in DRAM"
        how = f"GEMM of {len(golden)}" if len(golden) > 1 else "GEMM"
        checks = [self._linear(each, output, how) for each, output in zip(golden, outputs, strict=True)]
        counts = linear_counts(step, golden[0], tally, self.machine, output)
        return checks, counts.plus(scale_bytes(weights, tally, self.machine.chip), 0)

    def _linear(self, golden: QCaptured, found: QTensor, how: str) -> OpCheck:
        product = self.machine.product(golden.inputs[0], golden.inputs[1], golden.output.scale)
        if is_integer(product.arithmetic.compute):
            return _compared(golden, found.values, how)
        x, weight = product.a.values, product.b.values
        rows, columns, known = x.reshape(-1, x.shape[-1]), weight.T, self.golden.magnitudes
        if golden.name not in known:
            known[golden.name] = magnitudes(rows, columns)
        exact, bound = gemm_bound(rows, columns, product.arithmetic, known[golden.name])
        return _compared(golden, found.values, how, (exact.view(found.values.shape), bound.view(found.values.shape)))

    def _attention(self, step: AttentionStep, group: ChargedGroup) -> tuple[list[OpCheck], Counts]:
        scores, _, exponentials, _, context = (self.golden.ops[name] for name in step.names)
        sides = (*scores.inputs, context.inputs[1])
        softmax_scale = exponentials.attrs["scale"]
        assert len(sides) == 3
        found, tally = self.machine.attention(step, sides, softmax_scale)
        self.known[step.names[0]] = Known(sides, (found,))
        how = ("fused, online" if step.mapping.online else "fused") if step.mapping.fused else "unfused"
        how += ", two tiles of scores" if step.mapping.score_buffers == 2 else ""
        within = None
        numbers, (q, k, v) = self.machine.attention_numbers(step.names, sides, softmax_scale)
        if not is_integer(numbers.products.compute):
            how_computed = numbers.softmax_scale, numbers.products, numbers.scales
            within = attention_bound(q.values, k.values, v.values, scores.attrs["mask"], *how_computed)
        check = _compared(context, found.values, f"attention, {how}", within)
        return [check], attention_counts(step, group.ops, scores, tally, self.machine.chip, self.resident)

    def _alone(self, node: OpNode, golden: QCaptured) -> OpCheck:
        # A cache is written in place; the kept one must stay as it was.
        inputs = [each.with_values(each.values.clone()) for each in golden.inputs] if node.kind == "MemCopy" else golden.inputs
        found = self.machine.by_itself(golden.op, golden.name, inputs, golden.attrs)
        return _compared(golden, found.values, "by itself")


def _compared(golden: QCaptured, found: Tensor, how: str, within: tuple[Tensor, Tensor] | None = None) -> OpCheck:
    """Equal to the golden output; or, within (exact values, bound), as near to the exact values as it and the golden output must be."""
    wanted = golden.output.values
    if golden.attrs.get("mask_axis") == "n" and wanted.dtype == torch.float8_e4m3fn:  # a masked score is not a number there
        wanted, found = (each.float().masked_fill(each.isnan(), -math.inf) for each in (wanted, found))
    if within is None:
        verdict, error, bound = judge(found, wanted), _distance(found, wanted), 0.0
        differences = _told(verdict, "differ from the golden output", verdict.worst)
    else:
        exact, bounds = within
        verdict, reference = judge(found, exact, bounds), judge(wanted, exact, bounds)
        error, bound = _distance(found, wanted), float(bounds.flatten()[verdict.worst_index])
        differences = _told(verdict, "are further from the exact result than its bound", verdict.worst)
        differences += _told(reference, "of the golden output are further from the exact result than its bound", reference.worst)
    return OpCheck(
        golden.name, golden.op.kind, how, verdict.elements, verdict.different, error, bound, verdict.worst, None, None, tuple(differences)
    )


def _distance(found: Tensor, golden: Tensor) -> float:
    """The largest; equal infinities are none apart."""
    if found.shape != golden.shape or not found.numel():
        return math.inf if found.shape != golden.shape else 0.0
    found, golden = found.double(), golden.double()
    apart = (found - golden).abs().masked_fill(found == golden, 0.0)
    return float(apart.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _told(verdict: Judgement, what: str, worst: float) -> list[str]:
    if verdict.passed:
        return []
    return [f"{verdict.different} of {verdict.elements} elements {what}, most at index {verdict.worst_index} ({worst:.3g})"]


def _broken(op: OpNode, why: str) -> OpCheck:
    return OpCheck(op.name, op.kind, "refused", 0, 0, 0.0, 0.0, 0.0, None, None, (f"the mapping cannot be executed: {why}",))


def _not_run(op: OpNode) -> OpCheck:
    return OpCheck(op.name, op.kind, "not reached", 0, 0, 0.0, 0.0, 0.0, None, None, ())


def compare_logits(found: QTensor, golden: QTensor, exact: bool) -> LogitsCheck:
    """Errors in the logits' own unit; the share of tokens whose most likely next token is the same."""
    mine, wanted = found.real().double(), golden.real().double()
    apart = (mine - wanted).abs()
    agreement = float((mine.argmax(-1) == wanted.argmax(-1)).double().mean())
    passed = not exact or bool(torch.equal(found.values, golden.values))
    return LogitsCheck(float(apart.max()), float(apart.square().mean().sqrt()), agreement, exact, passed)


def as_json(check: OpCheck) -> Mapping[str, Any]:
    """One op as plain data."""

    def counts(each: Counts | None) -> Mapping[str, Any] | None:
        if each is None:
            return None
        numbers = {name: getattr(each, name) for name in Counts.__slots__}
        tiles = {"turns": dict(each.turns), "longest": dict(each.longest)}
        return numbers | {"levels": {name: level._asdict() for name, level in each.levels.items()}} | tiles

    return {
        "name": check.name,
        "kind": check.kind,
        "executed": check.executed,
        "elements": check.elements,
        "different": check.different,
        "max_error": check.error,
        "bound": check.bound,
        "max_share_of_bound": check.share,
        "tally": counts(check.tally),
        "charge": counts(check.charge),
        "differences": list(check.differences),
        "passed": check.passed,
    }
