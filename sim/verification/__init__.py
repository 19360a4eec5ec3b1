"""Verification: what is timed is executed.

The golden model runs once, in the chip's number format, and keeps what goes into and comes out of every op. Weights are those of a
checkpoint's directory, else random and seeded.
Then each op runs again from its golden inputs, products through the very mappings that an engine charges for, tile by tile
(`sim.execute`), and its output is compared with the golden one; MACs issued, bytes moved in DRAM and on chip, and room with the charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functional.config import ModelConfig
from functional.errors import BadInput, Problem
from functional.formats import check_default, is_integer
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.api import trace_model
from sim.plan import Plan, plan, sustained
from workloads.scenario import Phase, Scenario
from workloads.split import parts_of

if TYPE_CHECKING:
    from functional.format_error import FormatError
    from sim.golden_step import GoldenModel, WeightSource
    from sim.verification.charge import ChargedGroup
    from sim.verification.check import LogitsCheck, OpCheck
    from sim.verification.golden_run import GoldenStep

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """One phase of a model on a chip, verified op by op; `logits` is None where an op could not be executed.

    `error` is that of the formats themselves, where it was asked for: golden logits against those in fp32.
    """

    model: str
    chip: str
    engine: str
    layers: int
    split: int
    seed: int
    source: WeightSource
    scenario: Scenario
    ops: tuple[OpCheck, ...]
    logits: LogitsCheck | None
    error: FormatError | None

    @property
    def first_difference(self) -> str | None:
        """The first op that differs; `logits` if only they do."""
        named = next((check.name for check in self.ops if not check.passed), None)
        if named is None and self.logits is not None and not self.logits.passed:
            return "logits"
        return named

    @property
    def passed(self) -> bool:
        return self.first_difference is None

    def to_dict(self) -> dict[str, Any]:
        """One object of the JSON that `rooftile verify --format json` prints."""
        from sim.verification.check import as_json

        scenario = self.scenario
        return {
            "model": self.model,
            "chip": self.chip,
            "engine": self.engine,
            "format": scenario.formats.activations,
            "weights": scenario.formats.weights,
            "kv": scenario.formats.kv,
            "error_against_fp32": None if self.error is None else asdict(self.error),
            "weights_source": self.source.name,
            "layers": self.layers,
            "split": self.split,
            "seed": self.seed,
            "phase": scenario.phase,
            "batch": int(scenario.batch),
            "q_len": int(scenario.q_len),
            "kv_len": int(scenario.kv_len),
            "passed": self.passed,
            "first_difference": self.first_difference,
            "logits": None if self.logits is None else asdict(self.logits),
            "ops": [as_json(check) for check in self.ops],
        }


def verify(
    model: str | Path | ModelConfig | GoldenModel,
    chip: str | Path | Chip,
    *,
    phase: Phase = "prefill",
    batch: int = 1,
    prompt: int = 37,
    context: int | None = None,
    layers: int = 1,
    seed: int = 0,
    number_format: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    engine: str = "tiled",
    split: int = 1,
) -> Verification:
    """Execute the mappings of one prefill or decode step on tensors, as the engine of that name maps it. `number_format` (the chip's
    default one unless said) is that of weights, of what is between ops and of the KV cache, unless said.

    `layers` decoder layers are built, besides the whole embedding and lm_head; every linear is in `split` pieces, one per core. The
    directory of a checkpoint is verified with its weights, any other model with random ones (`sim.golden_step`). Raises `BadInput` for all
    that `predict` refuses, for an engine that maps nothing, and for layers that the model does not have.
    """
    from sim.golden_step import GoldenModel, seeded_error
    from sim.verification.charge import charged_groups
    from sim.verification.golden_run import golden_step

    opened = GoldenModel.of(model)
    config, source = opened.config, opened.source
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    name = built.default_format if number_format is None else number_format
    _check(config, name, activations, layers)
    config = replace(config, num_hidden_layers=layers)
    graph = trace_model(
        config,
        name,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        weights=weights,
        activations=activations,
        kv=kv,
        split=split,
    )
    graph.scenario.refuse_arrays()
    planned = plan(graph, built)
    groups = charged_groups(planned, engine)
    result = checked(planned, groups, golden_step(config, graph, seed, source), engine=engine, layers=layers, seed=seed, source=source)
    return replace(result, error=seeded_error(config, graph.scenario, seed, source))


def checked(
    plan: Plan, groups: Sequence[ChargedGroup], golden: GoldenStep, *, engine: str, layers: int, seed: int, source: WeightSource
) -> Verification:
    """Execute the groups of a planned step, as they are charged, against the golden step of the same graph."""
    from sim.verification.charge import resident_tensors
    from sim.verification.check import Checker
    from sim.verification.run import Machine

    graph, chip, used = plan.graph, sustained(plan).chip, plan.graph.scenario.formats
    checker = Checker(graph, golden, Machine(chip, used.activations, golden.scales), groups, resident_tensors(plan))
    checks = tuple(checker.ops())
    could_run = all(check.executed not in ("refused", "not reached") for check in checks)
    integers = all(is_integer(each) for each in (used.activations, used.weights, used.kv))
    exact = integers and all(check.passed for check in checks)
    logits = checker.logits(exact) if could_run else None
    return Verification(graph.model, chip.name, engine, layers, parts_of(graph), seed, source, graph.scenario, checks, logits, None)


def _check(config: ModelConfig, number_format: str, activations: str | None, layers: int) -> None:
    problems = check_default(number_format, "--dtype", activations)
    if not 1 <= layers <= config.num_hidden_layers:
        problems.append(Problem(f"cannot build {layers} layers", f"{config.name} has 1 to {config.num_hidden_layers}", path="--layers"))
    if problems:
        raise BadInput(problems)
