"""What `solve` is asked for: a target for one phase, and what each number that may vary costs. Parsed, never evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from functional.errors import BadInput, Problem, did_you_mean
from hwmodels import units
from hwmodels.chip import Chip
from hwmodels.costs import area_mm2
from hwmodels.paths import value_of, with_values
from sim.explore.fields import less_is_faster, read_text
from sim.explore.step import Step
from workloads.scenario import Phase

_TARGET = re.compile(r"\s*(?P<name>[A-Za-z_]+\b(?!\s*/))?\s*(?P<sign><=|>=|<|>)?\s*(?P<quantity>[-+.0-9].*?)\s*")
_MEANINGS: Mapping[str, tuple[str, Phase | None]] = {
    "TTFT": ("time", "prefill"),
    "TPOT": ("time", "decode"),
    "latency_s": ("time", None),
    "latency": ("time", None),
    "tokens_per_s": ("throughput", None),
}
"""Names that a target may have: the dimension, and the phase that is meant by it."""


@dataclass(frozen=True, slots=True)
class Target:
    """At most `value` seconds, or, if `is_rate`, at least `value` tokens per second, in one phase."""

    text: str
    phase: Phase
    value: float
    is_rate: bool

    def latency_s(self, tokens: int) -> float:
        """The longest step that meets the target, for that many new tokens."""
        return tokens / self.value if self.is_rate else self.value


def read_target(text: str, phase: Phase | None = None) -> Target:
    """`30 tok/s`, `33 ms`, `TTFT 200 ms`, `TPOT < 40 ms`; raises `BadInput` for anything else, or for one that contradicts the phase."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise _wrong(f"cannot read '{text}'", "write e.g. '30 tok/s', '33 ms' or 'TTFT 200 ms'")
    name = match["name"]
    named = next((each for each in _MEANINGS if name and each.lower() == name.lower()), None)
    if name and named is None:
        raise _wrong(f"unknown target '{name}'", did_you_mean(name, _MEANINGS))
    meant, implied = _MEANINGS[named] if named else _unnamed(match["quantity"])
    try:
        value = units.parse(match["quantity"], meant)
    except units.UnitError as error:
        raise _wrong(str(error), error.cure) from None
    if value == 0:
        raise _wrong(f"'{text}' is zero", "write more than 0")
    is_rate = meant == "throughput"
    if match["sign"] and (match["sign"][0] == ">") != is_rate:
        raise _wrong(f"'{text}' points the wrong way", "a time is at most so long, tok/s are at least so many")
    if named in ("TTFT", "TPOT") and phase not in (None, implied):
        raise _wrong(f"{named} belongs to {implied}, not to {phase}", f"say --phase {implied}, or name a latency")
    chosen = phase or implied
    if chosen is None:
        raise BadInput(Problem(f"'{text}' may mean either phase", "say prefill or decode, or write TTFT or TPOT", path="--phase"))
    return Target(text.strip(), chosen, value, is_rate)


def _unnamed(quantity: str) -> tuple[str, Phase | None]:
    """What a quantity without a name means, by its unit."""
    unit = quantity.lstrip("-+.0123456789eE ")
    if unit and not any(unit in known for known in units.UNITS.values()):
        known = "; ".join(f"{', '.join(units.UNITS[each])} of a {each}" for each in ("throughput", "time"))
        raise _wrong(f"unknown unit '{unit}' in '{quantity}'", f"known: {known}")
    return ("throughput", "decode") if unit in units.UNITS["throughput"] else ("time", None)


def _wrong(message: str, cure: str) -> BadInput:
    return BadInput(Problem(message, cure, path="--target"))


@dataclass(frozen=True, slots=True)
class Cost:
    """`sum of weight x value / per` over the paths; `per` is in the field's base unit."""

    weights: Mapping[str, float]
    per: Mapping[str, float]
    name: str = "cost"
    unit: str = ""

    def of(self, values: Mapping[str, float]) -> float:
        """The cost, in the unit of the weights."""
        return sum(weight * values[path] / self.per[path] for path, weight in self.weights.items())

    def reach(self, path: str, budget: float, start: float) -> float:
        """A value of a number beyond which it alone costs more than the budget."""
        return budget * self.per[path] / self.weights[path]


@dataclass(frozen=True, slots=True)
class ChipCost:
    """The area [mm2] of the chip with some numbers replaced, or the energy [J] that a step takes on it."""

    chip: Chip
    name: str
    unit: str
    measure: Callable[[Chip], float]

    def of(self, values: Mapping[str, float]) -> float:
        """The cost of the chip with these values."""
        return self.measure(with_values(self.chip, values))

    def reach(self, path: str, budget: float, start: float) -> float:
        """A value of a number beyond which it alone costs more than the budget, all others as they are."""
        value = start
        while value < start * FARTHEST and self.of({path: value}) <= budget:
            value *= 2
        return value


FARTHEST = 2.0**30
"""Where the search for the reach of a budget ends."""


def read_chip_cost(chip: Chip, name: str, vary: Sequence[str], step: Step) -> ChipCost:
    """`area` or `energy`; raises `BadInput` where that is not known of the chip, or does not grow with a number that varies."""
    needed = {"area": chip.area} if name == "area" else {"energy": chip.energy, "area": chip.area}
    missing = [section for section, known in needed.items() if known is None]
    if missing:
        cure = "give its file 'process: 7 nm', or state the cost of each number"
        raise BadInput(Problem(f"{chip.name} has no section '{missing[0]}'", cure, path="--cost"))
    own_mm2 = float(area_mm2(chip) or 0.0)
    problems = [
        Problem(f"the chip's {name} does not grow with it, so that it would grow without end", "state a cost of your own", path=path)
        for path in vary
        if less_is_faster(path) or float(area_mm2(with_values(chip, {path: 2 * float(value_of(chip, path))})) or 0.0) <= own_mm2
    ]
    if problems:
        raise BadInput(problems)
    if name == "area":
        return ChipCost(chip, "area", "mm2", lambda each: float(area_mm2(each) or 0.0))
    return ChipCost(chip, "energy", "J", lambda each: step.time(each).energy_j or 0.0)


def read_cost(chip: Chip, text: str, vary: Sequence[str]) -> Cost:
    """`memory.dram.bandwidth=1,matrix.rows=2`: weights per multiple of the chip's own value; `=3 per 10 GB/s` per that much of it."""
    weights: dict[str, float] = {}
    per: dict[str, float] = {}
    problems = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        path, equals, rest = (part.strip() for part in term.partition("="))
        number, _, quantity = (part.strip() for part in rest.partition(" per "))
        if path not in vary:
            problems.append(Problem(f"'{path}' is not varied", did_you_mean(path, vary), path="--cost"))
            continue
        try:
            weights[path] = float(number) if equals else float("nan")
            per[path] = read_text(chip, path, quantity) if quantity else float(value_of(chip, path))
        except ValueError as error:
            cure = getattr(error, "cure", "write e.g. 'memory.dram.bandwidth=1' or 'matrix.rows=2 per 8'")
            problems.append(Problem(f"cannot read '{term}'", cure, path="--cost"))
            continue
        if not 0 < weights[path] < float("inf") or not per[path] > 0:
            problems.append(Problem(f"'{term}': a weight is a positive number", "write e.g. 'memory.dram.bandwidth=1'", path="--cost"))
    missing = [path for path in vary if path not in weights]
    if missing and not problems:
        problems.append(Problem(f"no weight for {', '.join(missing)}", f"add '{missing[0]}=1'", path="--cost"))
    problems += [
        Problem("smaller is faster here, so that no cost grows with it", "fix its value in the chip file", path=path)
        for path in vary
        if less_is_faster(path)
    ]
    if problems:
        raise BadInput(problems)
    return Cost(weights, per)
