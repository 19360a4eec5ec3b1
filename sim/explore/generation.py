"""A whole generation: the prompt, in one pass or in chunks, then token by token while the context grows; alone or with a draft model.

The first token comes out of the prompt's logits, so N tokens are one prefill and N - 1 decode steps, at contexts prompt ... prompt + N - 2.
All steps of one kind are traced once, with an array of contexts. The roofline evaluates it at once. The other engines time the groups that
do not depend on the context once, and those that do (attention) at each context; every latency equals that of `predict` at its context to
the last bit, for every engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError, UnknownName, did_you_mean
from functional.sampling import Sampling
from functional.work import Contraction, flops
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.engines import DEFAULT_ENGINE, ENGINES, roofline
from sim.engines.result import GroupTimes, step_s
from sim.engines.tiled import stays
from sim.plan import Plan, plan
from sim.timeline import LOST, Component, Floats, Memory
from workloads.demand import GroupClass
from workloads.graph import OpGraph, OpNode
from workloads.library import load_model
from workloads.scenario import Formats, Scenario
from workloads.trace import trace


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding: a draft model proposes tokens one by one, the model checks them all in one step.

    `draft_tokens` are k, `acceptance` is the probability alpha that one proposal is taken. Source: Leviathan, Kalman, Matias, Fast
    Inference from Transformers via Speculative Decoding, ICML 2023 (arXiv 2211.17192).
    """

    draft: str | Path | ModelConfig
    draft_tokens: int = 4
    acceptance: float = 0.8

    def __post_init__(self) -> None:
        problems = []
        if self.draft_tokens < 1:
            problems.append(Problem(f"must be at least 1, found {self.draft_tokens}", path="--draft-tokens"))
        if not 0 <= self.acceptance <= 1:
            problems.append(Problem(f"{self.acceptance} is no probability", "give 0 to 1", path="--acceptance"))
        if problems:
            raise ScenarioError(problems)

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a round is expected to give."""
        return expected_tokens(self.acceptance, self.draft_tokens)


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """Tokens of one round: (1 - a^(k + 1)) / (1 - a), at most k + 1. Source: Leviathan et al., eq. 1."""
    return float(sum(acceptance**i for i in range(draft_tokens + 1)))


# Steps that differ in their context only -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Times:
    """One class of groups over n contexts: columns of `GroupTimes` with a last axis of n, or of 1 where the context does not matter."""

    latency_s: Floats
    bound_by: Sequence[str]
    shares: Floats
    op_busy_s: Floats
    op_dram_bytes: Floats
    op_issued_macs: Floats
    lost_s: Mapping[str, Floats]

    @classmethod
    def of(cls, found: Sequence[GroupTimes]) -> _Times:
        causes = {cause for each in found for cause in each.lost_s}
        return cls(
            np.array([each.latency_s for each in found]),
            [each.bound_by for each in found],
            *(np.stack([getattr(each, name) for each in found], axis=-1) for name in ("shares", "op_busy_s", "op_dram_bytes", "op_issued_macs")),
            {cause: np.array([each.lost_s.get(cause, 0.0) for each in found]) for cause in causes},
        )


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of one kind, timed: `latency_s` and `floor_s` of each [n]; each happens `weights` times [n]."""

    graph: OpGraph
    latency_s: Floats
    floor_s: Floats
    weights: Floats
    times: Sequence[_Times]
    class_of: Sequence[int]
    memory: Memory
    prefix: str = ""

    @property
    def total_s(self) -> float:
        return float((self.latency_s * self.weights).sum())

    def totals(self) -> Iterator[OpTotal]:
        """What each op takes in all steps together."""
        by_class = [self._of_class(times) for times in self.times]
        ops, groups = iter(self.graph.ops), {}  # type: ignore[var-annotated]
        n = float(self.weights.sum())
        counted: dict[int, tuple[float, float]] = {}
        for group, index in enumerate(self.class_of):
            bound_s, columns, lost = by_class[index]
            for i in range(columns.shape[1]):
                op = next(ops)
                groups[op.name] = group
                counts = counted.get(id(op.work))
                if counts is None:
                    counts = counted[id(op.work)] = self._sum(flops(op.work)), self._sum(_macs(op))
                latency_s, busy_s, dram_bytes, issued_macs = columns[:, i].tolist()
                share = latency_s / (sum(bound_s.values()) or 1.0)
                yield OpTotal(
                    f"{self.prefix}{op.name}",
                    op.kind,
                    f"{self.prefix}{op.component}",
                    n,
                    *counts,
                    issued_macs,
                    dram_bytes,
                    latency_s,
                    busy_s,
                    {name: seconds * share for name, seconds in bound_s.items()},
                    {cause: float(column[i]) for cause, column in lost.items()},
                )

    def _sum(self, count: Any) -> float:
        return float((np.broadcast_to(np.asarray(count, float), self.weights.shape) * self.weights).sum())

    def _of_class(self, times: _Times) -> tuple[dict[str, float], Floats, dict[str, Floats]]:
        """Seconds by what binds them; per op latency, busy time, DRAM bytes and issued MACs [4, ops]; lost seconds per op."""
        weights = self.weights if times.latency_s.shape == self.weights.shape else self.weights.sum(keepdims=True)
        bound_s: dict[str, float] = {}
        for name, seconds in zip(times.bound_by, (times.latency_s * weights).tolist(), strict=True):
            bound_s[name] = bound_s.get(name, 0.0) + seconds
        columns = times.latency_s * times.shares, times.op_busy_s, times.op_dram_bytes, times.op_issued_macs
        lost = {cause: (seconds * times.shares * weights).sum(-1) for cause, seconds in times.lost_s.items()}
        return bound_s, np.array([(column * weights).sum(-1) for column in columns]), lost


@dataclass(slots=True)
class OpTotal:
    """What one op takes in all steps of a generation; `steps` is how often it runs, `bound_s` its seconds by what binds them."""

    name: str
    kind: str
    component: str
    steps: float
    flops: float
    useful_macs: float
    issued_macs: float
    dram_bytes: float
    latency_s: float
    busy_s: float
    bound_s: dict[str, float]
    lost_s: dict[str, float]

    def add(self, other: OpTotal) -> None:
        """Take in the same op of other steps."""
        for name in ("steps", "flops", "useful_macs", "issued_macs", "dram_bytes", "latency_s", "busy_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.bound_s, other.bound_s), (self.lost_s, other.lost_s)):
            for name, seconds in theirs.items():
                mine[name] = mine.get(name, 0.0) + seconds

    @property
    def bound_by(self) -> str:
        return max(self.bound_s, key=self.bound_s.__getitem__)
