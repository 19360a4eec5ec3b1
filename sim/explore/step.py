"""One step of a model, asked of many chips: traced once per number format, timed as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from functional.config import ModelConfig
from functional.errors import BadInput, Problem, UnknownName, did_you_mean
from functional.llama import Logits
from functional.sampling import Sampling
from hwmodels.chip import Chip
from hwmodels.consistency import Advice, inconsistencies
from hwmodels.formulas.roofline import largest, total
from sim.api import predict_graph, trace_model
from sim.engines import DEFAULT_ENGINE, check_engine, roofline
from sim.engines import timed as time_plan
from sim.engines.result import GroupTimes, spent_j, step_s
from sim.plan import Plan, plan
from sim.timeline import Timeline
from workloads.graph import OpGraph
from workloads.library import load_model
from workloads.scenario import PHASES, Phase, default_length


@dataclass(frozen=True)
class Step:
    """What is run: formats that are None are the chip's default, a context that is None is the prompt, a prompt that is None is 512 tokens
    or what the model holds."""

    model: str | Path | ModelConfig
    phase: Phase = "decode"
    batch: int = 1
    prompt: int | None = None
    context: int | None = None
    weights: str | None = None
    activations: str | None = None
    kv: str | None = None
    logits: Logits = "last"
    fused: bool = True
    engine: str = DEFAULT_ENGINE
    sampling: Sampling | None = None
    prefetch: bool = True
    split: int = 1
    _graphs: dict[str, OpGraph] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_engine(self.engine, self.prefetch)
        if self.phase not in PHASES:
            raise UnknownName(Problem(f"unknown phase '{self.phase}'", did_you_mean(self.phase, PHASES), path="--phase"))

    def __reduce__(self) -> tuple[type[Step], tuple[object, ...]]:
        """Graphs stay where they were traced."""
        return Step, tuple(getattr(self, name) for name in list(self.__dataclass_fields__)[:-1])

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        if self.prompt is not None:
            return self.prompt
        return default_length(self.model if isinstance(self.model, ModelConfig) else load_model(self.model))

    @property
    def context_length(self) -> int:
        """Tokens in the KV cache before a decode step."""
        return self.prompt_length if self.context is None else self.context

    def graph(self, default_format: str) -> OpGraph:
        """The traced step for chips of this default format; raises `BadInput` for an impossible length or format."""
        known = self._graphs.get(default_format)
        if known is None:
            known = self._graphs[default_format] = trace_model(
                self.model,
                default_format,
                phase=self.phase,
                batch=self.batch,
                prompt=self.prompt,
                context=self.context,
                weights=self.weights,
                activations=self.activations,
                kv=self.kv,
                logits=self.logits,
                sampling=self.sampling,
                split=self.split,
            )
        return known

    def plan(self, chip: Chip) -> Plan:
        """The step brought to a chip; raises `ScenarioError` for a format without a rate."""
        return plan(self.graph(chip.default_format), chip, self.fused)

    def timeline(self, chip: Chip) -> Timeline:
        """The whole prediction."""
        return predict_graph(self.graph(chip.default_format), chip, self.engine, fused=self.fused, prefetch=self.prefetch)

    def time(self, chip: Chip) -> Timing:
        """Only the total and what binds it, at a fraction of the cost of a timeline, equal to it to the last bit."""
        planned = self.plan(chip)
        if self.engine == "roofline":
            peaks = roofline.Peaks.of(chip)
            busy = [roofline.unit_times_s(group_class.load, peaks) for group_class in planned.classes]
            latencies = [float(largest(each.values())) for each in busy]
            bounds = [max(each, key=lambda name, each=each: float(each[name])) for each in busy]  # type: ignore[misc]
            timed: Sequence[GroupTimes] = []
        else:
            planned, timed = time_plan(planned, self.engine, self.prefetch)
            latencies, bounds = [each.latency_s for each in timed], [each.bound_by for each in timed]
        seconds: dict[str, float] = {}
        for group_class, latency, bound in zip(planned.classes, latencies, bounds, strict=True):
            seconds[bound] = seconds.get(bound, 0.0) + group_class.count * latency
        total_s, _ = step_s(planned.demand, latencies)
        return Timing(float(total_s), seconds, lambda: self._energy_j(planned, timed, float(total_s)))

    def _energy_j(self, planned: Plan, timed: Sequence[GroupTimes], total_s: float) -> float | None:
        """Joules; an engine that times no groups moves every tensor once."""
        peaks = roofline.Peaks.of(planned.chip)
        if peaks.prices is None:
            return None
        if not timed:
            return float(roofline.energy_j(planned.demand, peaks, total_s) or 0.0)
        return float(total(spent_j(planned, peaks.prices, timed, total_s).values()))

    def tokens(self, chip: Chip) -> int:
        """New tokens of the whole batch."""
        return int(np.max(self.graph(chip.default_format).scenario.tokens))


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of a step and the seconds of it that each resource binds; `spend` works out its energy."""

    latency_s: float
    bound_s: dict[str, float]
    spend: Callable[[], float | None]

    @property
    def energy_j(self) -> float | None:
        """Joules; None where nothing is known of the chip's energy."""
        return self.spend()

    @property
    def bound_by(self) -> str:
        """What binds the largest part."""
        return max(self.bound_s, key=self.bound_s.__getitem__)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the latency by resource, largest first."""
        ranked = sorted(self.bound_s, key=self.bound_s.__getitem__, reverse=True)
        return {name: self.bound_s[name] / self.latency_s for name in ranked}


def errors_of(chip: Chip) -> list[Problem]:
    """Why a chip cannot be: its contradictions, without mere advice."""
    return [problem for problem in inconsistencies(chip) if not isinstance(problem, Advice)]


def why_not(error: BadInput) -> str:
    """The mistakes of an error in one line."""
    return "; ".join(str(problem) for problem in error.problems)
