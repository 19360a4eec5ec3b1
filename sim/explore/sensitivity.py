"""How latency answers to each number of a chip: what to buy next, and what is over-built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functional.config import ModelConfig
from functional.errors import BadInput
from functional.llama import Logits
from hwmodels import load_chip, numeric_paths, with_values
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim.engines import DEFAULT_ENGINE
from sim.explore.fields import is_whole, unit_of
from sim.explore.step import Step, errors_of, why_not
from workloads.scenario import Phase

NUDGE = 1e-3
"""Relative step either way for the elasticity; whole numbers move by at least 1."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One number of a chip, in base units.

    `elasticity`: percent of latency per percent of the number (negative: more is faster). `doubled`, `halved`: relative change of the
    latency if the number is doubled or halved (-0.5: half the time). None where there is no such chip; `reason` says why.
    """

    path: str
    unit: str
    value: float
    elasticity: float | None
    doubled: float | None
    halved: float | None
    reason: str = ""

    @property
    def gain(self) -> float:
        """The larger saving of doubling and halving; 0 if neither helps."""
        return max(0.0, *(-change for change in (self.doubled, self.halved) if change is not None), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `gain_from_doubling` is the share of the latency that goes away."""
        return {
            "path": self.path,
            "unit": self.unit,
            "value": self.value,
            "elasticity": self.elasticity,
            "gain_from_doubling": None if self.doubled is None else -self.doubled + 0.0,
            "gain_from_halving": None if self.halved is None else -self.halved + 0.0,
            **({"reason": self.reason} if self.reason else {}),
        }


def sensitivity(
    model: str | Path | ModelConfig,
    chip: str | Path | Chip,
    *,
    phase: Phase = "prefill",
    batch: int = 1,
    prompt: int = 512,
    context: int | None = None,
    engine: str = DEFAULT_ENGINE,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    logits: Logits = "last",
    fused: bool = True,
) -> tuple[Sensitivity, ...]:
    """Elasticity of a step's latency, and what doubling and halving would do, for every number of the chip; the largest gain first.

    Raises `BadInput` for all that `predict` refuses.
    """
    step = Step(model, phase, batch, prompt, context, weights, activations, kv, logits, fused, engine)
    return sensitivity_of(step, chip if isinstance(chip, Chip) else load_chip(chip))


def sensitivity_of(step: Step, built: Chip) -> tuple[Sensitivity, ...]:
    """The same for a step that is there already."""
    own_s = step.time(built).latency_s
    rows = [_sensitivity(step, built, path, own_s) for path in independent_paths(built)]
    return tuple(sorted(rows, key=lambda row: (-row.gain, -abs(row.elasticity or 0.0))))


def independent_paths(chip: Chip) -> list[str]:
    """Every number that can move by itself and on which a latency may depend: of a shared port the bandwidth, of two ports each
    direction; nothing of energy and area."""
    shared = {level.name: level.bandwidth.shared for level in chip.memory}

    def stands_alone(path: str) -> bool:
        parts = path.split(".")
        if parts[0] in ("energy", "area"):
            return False
        return "bandwidth" not in parts or (parts[-1] == "bandwidth") == shared[parts[1]]

    return [path for path in numeric_paths(chip) if stands_alone(path)]


def _sensitivity(step: Step, chip: Chip, path: str, own_s: float) -> Sensitivity:
    value = float(value_of(chip, path))
    whole = is_whole(path)
    reasons: list[str] = []

    def latency_s(changed: float) -> float | None:
        if changed == value:
            return own_s
        try:
            varied = with_values(chip, {path: changed})
            problems = errors_of(varied)
        except BadInput as error:
            reasons.append(why_not(error))
            return None
        reasons.extend(str(problem) for problem in problems)
        return None if problems else step.time(varied).latency_s

    doubled = _change(latency_s(2 * value), own_s)
    halved = None if whole and value < 2 else _change(latency_s(float(math.floor(value / 2)) if whole else value / 2), own_s)
    elasticity = (
        0.0 if value == 0 else _elasticity(value, max(1.0, math.floor(value * NUDGE)) if whole else value * NUDGE, own_s, latency_s)
    )
    return Sensitivity(path, unit_of(chip, path), value, elasticity, doubled, halved, "; ".join(dict.fromkeys(reasons)))


def _change(latency_s: float | None, own_s: float) -> float | None:
    return None if latency_s is None else latency_s / own_s - 1


def _elasticity(value: float, nudge: float, own_s: float, latency_s: Callable[[float], float | None]) -> float | None:
    """Slope between neighbours in logarithms; one-sided where one of them is no chip."""
    known: Mapping[float, float | None] = {value: own_s, **{at: latency_s(at) for at in (value - nudge, value + nudge) if at > 0}}
    points = [(at, known[at]) for at in sorted(known)]
    valid = [(at, seconds) for at, seconds in points if seconds is not None]
    if len(valid) < 2:
        return None
    (low, low_s), (high, high_s) = valid[0], valid[-1]
    slope = math.log(high_s / low_s) / math.log(high / low)
    return slope + 0.0
