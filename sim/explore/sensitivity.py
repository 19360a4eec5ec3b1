"""How latency answers to each number of a chip: what to buy next, and what is over-built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from functional.config import ModelConfig
from functional.errors import BadInput
from functional.llama import Logits
from hwmodels import load_chip, numeric_paths, with_values
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim.engines import DEFAULT_ENGINE
from sim.engines.tiled_family import takes_families
from sim.explore.fields import is_whole, unit_of
from sim.explore.many import parts_families, tiled
from sim.explore.step import Step, errors_of, why_not
from workloads.scenario import Phase

STEP = 0.1
"""The elasticity is the slope between a tenth less and a tenth more (1 / 1.1 and 1.1 times), whole numbers by at least 1: what a designer
may change, and wide enough that a small jump where another mapping takes over is not taken for a slope."""

BEND = 0.1
"""By how much the slopes below and above may differ, in percent per percent, before they are told apart."""

FELT = 5e-4
"""A change of latency that tables and figures show."""

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Side:
    """The nearest value on one side that was tried, and percent of latency per percent of the number between it and the chip's own."""

    value: float
    elasticity: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One number of a chip, in base units.

    `elasticity`: percent of latency per percent of the number (negative: more is faster), as the slope in logarithms between the values of
    `below` and `above`; one-sided where one of them is None. `doubled`, `halved`: relative change of the latency if the number is doubled
    or halved (-0.5: half the time). None where there is no such chip; `reason` says why.
    """

    path: str
    unit: str
    value: float
    elasticity: float | None
    below: Side | None
    above: Side | None
    doubled: float | None
    halved: float | None
    reason: str = ""

    @property
    def bends(self) -> bool:
        """Whether another mapping or another bound takes over so near that one slope does not tell both sides."""
        return self.below is not None and self.above is not None and abs(self.below.elasticity - self.above.elasticity) > BEND

    @property
    def gain(self) -> float:
        """The larger saving of doubling and halving; 0 if neither helps."""
        return max(0.0, *(-change for change in (self.doubled, self.halved) if change is not None), 0.0)

    @property
    def is_felt(self) -> bool:
        """Whether doubling or halving changes the latency by as much as is shown."""
        return any(abs(change) >= FELT for change in (self.doubled, self.halved) if change is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `gain_from_doubling` is the share of the latency that goes away."""
        return {
            "path": self.path,
            "unit": self.unit,
            "value": self.value,
            "elasticity": self.elasticity,
            "elasticity_below": self.below and asdict(self.below),
            "elasticity_above": self.above and asdict(self.above),
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
    prompt: int | None = None,
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


def sensitivity_of(step: Step, built: Chip, progress: Progress | None = None) -> tuple[Sensitivity, ...]:
    """The same for a step that is there already. `progress(done, of)` is called as changed chips are timed."""
    paths = independent_paths(built)
    asked = [(path, value) for path in paths for value in _probes(path, float(value_of(built, path)))]
    latencies = _latencies(step, built, asked, progress or (lambda done, of: None))
    own_s = step.time(built).latency_s
    rows = [_sensitivity(built, path, own_s, latencies) for path in paths]
    return tuple(sorted(rows, key=lambda row: (-row.gain, -abs(row.elasticity or 0.0))))


def _halved(path: str, value: float) -> float | None:
    """Half of a number; None where a whole number has none."""
    if is_whole(path):
        return float(math.floor(value / 2)) if value >= 2 else None
    return value / 2


def _beside(path: str, value: float) -> tuple[float | None, float | None]:
    """A little less and a little more; None where that would be nothing."""
    if not value:
        return None, None
    if is_whole(path):
        move = max(1.0, float(round(value * STEP)))
        return (value - move if value > move else None), value + move
    return value / (1 + STEP), value * (1 + STEP)


def _probes(path: str, value: float) -> list[float]:
    """The other values at which a number is tried."""
    halved = _halved(path, value)
    return [at for at in dict.fromkeys([2 * value, halved, *_beside(path, value)]) if at is not None and at != value]


def _latencies(step: Step, chip: Chip, asked: Sequence[tuple[str, float]], tell: Progress) -> dict[tuple[str, float], float | str]:
    """Seconds of the step with one number changed, or why there is no such chip; those that share a search for mappings together."""
    found: dict[tuple[str, float], float | str] = {}
    together: list[tuple[str, float]] = []
    alone: list[tuple[str, float]] = []
    is_family = step.engine == "tiled" and takes_families(step.plan(chip))
    for path, value in asked:
        problems = _problems(chip, path, value)
        if problems:
            found[path, value] = problems
        else:
            (together if is_family and not parts_families(path) else alone).append((path, value))
    if together:
        values = {path: np.full(len(together), float(value_of(chip, path))) for path, _ in together}
        for i, (path, value) in enumerate(together):
            values[path][i] = value
        try:
            latency_s = tiled(step.plan(with_values(chip, dict(sorted(values.items()))))).latency_s
            found |= dict(zip(together, latency_s.tolist(), strict=True))
        except BadInput:
            alone += together
    for path, value in alone:
        tell(len(found), len(asked))
        try:
            found[path, value] = step.time(with_values(chip, {path: value})).latency_s
        except BadInput as error:
            found[path, value] = why_not(error)
    tell(len(found), len(asked))
    return found


def _problems(chip: Chip, path: str, value: float) -> str:
    try:
        return "; ".join(str(problem) for problem in errors_of(with_values(chip, {path: value})))
    except BadInput as error:
        return why_not(error)


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


def _sensitivity(chip: Chip, path: str, own_s: float, latencies: Mapping[tuple[str, float], float | str]) -> Sensitivity:
    value = float(value_of(chip, path))
    reasons = [told for at in _probes(path, value) if isinstance(told := latencies[path, at], str)]

    def seconds(at: float | None) -> float | None:
        told = own_s if at == value else latencies.get((path, at), "") if at is not None else ""
        return None if isinstance(told, str) else told

    def side(at: float | None) -> Side | None:
        at_s = seconds(at)
        return None if at is None or at_s is None else Side(at, _slope((value, own_s), (at, at_s)))

    below, above = (side(at) for at in _beside(path, value))
    elasticity = _between(below, above, value) if value else 0.0
    doubled, halved = (_change(seconds(at), own_s) for at in (2 * value, _halved(path, value)))
    return Sensitivity(path, unit_of(chip, path), value, elasticity, below, above, doubled, halved, "; ".join(dict.fromkeys(reasons)))


def _change(latency_s: float | None, own_s: float) -> float | None:
    return None if latency_s is None else latency_s / own_s - 1


def _between(below: Side | None, above: Side | None, value: float) -> float | None:
    """The slope from one side to the other; that of one side where there is no other."""
    if below is None or above is None:
        known = below or above
        return None if known is None else known.elasticity
    lower, upper = math.log(value / below.value), math.log(above.value / value)
    return (below.elasticity * lower + above.elasticity * upper) / (lower + upper)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Percent of latency per percent of a number, between two pairs (value, seconds)."""
    return math.log(other[1] / one[1]) / math.log(other[0] / one[0]) + 0.0
