"""Verification: what is timed is executed.

The golden model runs once, with seeded random weights, in the chip's number format, and keeps what goes into and comes out of every op.
Then each op runs again from its golden inputs, products through the very mappings that the tiled engine charges for, tile by tile
(`sim.execute`), and its output, the MACs issued and the DRAM bytes moved are compared with the golden output and with the charge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functional.config import ModelConfig
from functional.errors import BadInput, Problem, did_you_mean
from functional.formats import TENSOR_FORMATS, is_integer
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.api import trace_model
from sim.plan import plan
from workloads.library import load_model
from workloads.scenario import Formats, Phase, Scenario

if TYPE_CHECKING:
    from functional.format_error import FormatError
    from sim.verification.check import LogitsCheck, OpCheck

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """One phase of a model on a chip, verified op by op; `logits` is None where an op could not be executed.

    `error` is that of the formats themselves: golden logits against those in fp32.
    """

    model: str
    chip: str
    layers: int
    seed: int
    scenario: Scenario
    ops: tuple[OpCheck, ...]
    logits: LogitsCheck | None
    error: FormatError

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
            "format": scenario.formats.activations,
            "weights": scenario.formats.weights,
            "kv": scenario.formats.kv,
            "error_against_fp32": asdict(self.error),
            "layers": self.layers,
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
    model: str | Path | ModelConfig,
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
    kv: str | None = None,
) -> Verification:
    """Execute the mappings of one prefill or decode step on tensors. `number_format` is that between ops (the chip's default one unless
    said) and, unless said, of weights and KV cache.

    `layers` decoder layers are built, besides the whole embedding and lm_head. Raises `BadInput`: an unknown model, chip, phase or format,
    a format without a rate or without golden numbers, lengths and layers that the model does not have.
    """
    from sim.verification.charge import charged_groups, resident_tensors
    from sim.verification.check import Checker
    from sim.verification.golden_run import golden_step
    from sim.verification.run import Machine

    config = model if isinstance(model, ModelConfig) else load_model(model)
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    name = number_format or built.default_format
    formats = Formats.of(name, weights, None, kv) if name in TENSOR_FORMATS else Formats(name, name, name)
    _check(config, formats, layers)
    config = replace(config, num_hidden_layers=layers)
    graph = trace_model(config, name, phase=phase, batch=batch, prompt=prompt, context=context, weights=weights, kv=kv)
    planned = plan(graph, built)
    groups = charged_groups(planned)
    golden = golden_step(config, graph, seed)
    checker = Checker(graph, golden, Machine(built, name, golden.scales), groups, resident_tensors(planned))
    checks = tuple(checker.ops())
    could_run = all(check.executed not in ("refused", "not reached") for check in checks)
    exact = name == "int8" and is_integer(formats.weights) and all(check.passed for check in checks)
    logits = checker.logits(exact) if could_run else None
    return Verification(config.name, built.name, layers, seed, graph.scenario, checks, logits, golden.error)


EXECUTED = ("bf16", "fp16", "fp32", "int8")
"""Formats between ops for which products are executed."""


def _check(config: ModelConfig, formats: Formats, layers: int) -> None:
    problems, activations = [], formats.activations
    if activations not in EXECUTED:
        problems.append(Problem(f"nothing is executed in '{activations}'", did_you_mean(activations, EXECUTED), path="--dtype"))
    elif activations == "int8" and not is_integer(formats.kv):
        problems.append(Problem(f"attention of int8 with a KV cache in {formats.kv} is not executed", "take int8 or int4", path="--kv"))
    if not 1 <= layers <= config.num_hidden_layers:
        problems.append(Problem(f"cannot build {layers} layers", f"{config.name} has 1 to {config.num_hidden_layers}", path="--layers"))
    if problems:
        raise BadInput(problems)
