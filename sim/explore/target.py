"""What `solve` is asked for: a target for one phase, and what each number that may vary costs. Parsed, never evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from functional.errors import BadInput, Problem, did_you_mean
from hwmodels import units
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim.explore.fields import less_is_faster, read_text
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
    dimension = "throughput" if match["quantity"].rstrip().endswith("tok/s") else "time"
    meant, implied = _MEANINGS[named] if named else (dimension, "decode" if dimension == "throughput" else None)
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


def _wrong(message: str, cure: str) -> BadInput:
    return BadInput(Problem(message, cure, path="--target"))


@dataclass(frozen=True, slots=True)
class Cost:
    """`sum of weight x value / per` over the paths; `per` is in the field's base unit."""

    text: str
    weights: Mapping[str, float]
    per: Mapping[str, float]

    def of(self, values: Mapping[str, float]) -> float:
        """The cost, in the unit of the weights."""
        return sum(weight * values[path] / self.per[path] for path, weight in self.weights.items())


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
    return Cost(text, weights, per)
