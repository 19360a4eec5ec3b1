"""Solving for a target: the smallest value of a chip's number that meets it, or the cheapest combination of several.

A step is never slower on a chip with more of anything that it offers, so the values that meet a target are a half line. Its border is found
by narrowing between a value that misses and one that meets; both are evaluated, and the result shows them. The search begins at the border
that the next cheaper engine has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from functional.config import ModelConfig
from functional.errors import BadInput, Problem
from hwmodels import load_chip, with_values
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim.engines import DEFAULT_ENGINE, ENGINES
from sim.explore.bracket import DOUBLINGS, Line, Probe
from sim.explore.extras import needed
from sim.explore.fields import check_path, is_whole, unit_of
from sim.explore.limits import needed_bytes
from sim.explore.step import Step, Timing, errors_of, why_not
from sim.explore.target import ChipCost, Cost, Target, read_chip_cost, read_cost, read_target
from workloads.scenario import Phase


@dataclass(frozen=True, slots=True)
class Border:
    """Where one number starts to meet the target, all others fixed: `at` is the last value that meets, `beyond` the next that does not.

    `beyond` is None if every value that was tried meets; `at` is None if none does, and `beyond` then is the best of them. A bandwidth
    varies both rates of a level, that of reading and that of writing; `own_written` is the chip's own of these, where it is another.
    """

    path: str
    unit: str
    own: float
    at: Probe | None
    beyond: Probe | None
    own_written: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer: `values` in base units, empty if nothing meets the target; latency [s] and bounds are those of the answer, or of the best
    chip that was tried. `borders` prove it: one per number, with the others at their value in the answer."""

    model: str
    chip: str
    engine: str
    target: Target
    target_latency_s: float
    values: Mapping[str, float]
    borders: tuple[Border, ...]
    latency_s: float
    tokens_per_s: float
    bound_shares: Mapping[str, float]
    fits: bool
    cost: float | None
    own_cost: float | None
    cost_name: str
    cost_unit: str
    evaluations: int

    @property
    def found(self) -> bool:
        return bool(self.values)

    @property
    def not_monotone(self) -> tuple[str, ...]:
        """Numbers of the answer in which this engine's latency may rise and fall, so that a smaller value may do as well: a larger array or
        granule takes longer to fill, and pads more."""
        shapes = ("matrix.rows", "matrix.cols", "matrix.tile")
        return () if self.engine == "roofline" else tuple(path for path in self.values if path.startswith(shapes))

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the JSON names of `predict`; infinities become null."""
        return {
            "model": self.model,
            "chip": self.chip,
            "engine": self.engine,
            "phase": self.target.phase,
            "target": self.target.text,
            "target_latency_s": self.target_latency_s,
            "found": self.found,
            "values": dict(self.values),
            "latency_s": self.latency_s,
            "tokens_per_s": self.tokens_per_s,
            "bound_shares": dict(self.bound_shares),
            "fits": self.fits,
            "cost": self.cost,
            "own_cost": self.own_cost,
            "cost_is": self.cost_name,
            "cost_unit": self.cost_unit,
            "proof": [
                {
                    "path": border.path,
                    "unit": border.unit,
                    "own_value": border.own,
                    "meets": _plain(border.at),
                    "misses": _plain(border.beyond),
                }
                for border in self.borders
            ],
        }


def _plain(probe: Probe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    latency = probe.latency_s if math.isfinite(probe.latency_s) else None
    return {"value": probe.value, "latency_s": latency, **({"reason": probe.reason} if probe.reason else {})}


def solve(
    model: str | Path | ModelConfig,
    chip: str | Path | Chip,
    target: str,
    vary: str | Sequence[str],
    *,
    cost: str | None = None,
    phase: Phase | None = None,
    batch: int = 1,
    prompt: int | None = None,
    context: int | None = None,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    fused: bool = True,
    engine: str = DEFAULT_ENGINE,
) -> Solution:
    """The smallest value of the number `vary` with which a step meets `target` (`30 tok/s`, `33 ms`, `TTFT 200 ms`); where less is faster
    (latencies, launch, cycles per element) the largest. Several numbers: of the combinations that just meet the target, the one that costs
    least by `cost`: `area`, `energy`, or weights of one's own.

    Raises `BadInput`: unreadable targets and costs, unknown paths, impossible steps.
    """
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    paths = [vary] if isinstance(vary, str) else list(vary)
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise BadInput([Problem("is varied twice", "name it once", path=f"--vary {path}") for path in twice])
    wanted = read_target(target, phase)
    for path in paths:
        check_path(built, path, "--vary")
    step = Step(model, wanted.phase, batch, prompt, context, weights, activations, kv, fused=fused, engine=engine)
    limit_s = wanted.latency_s(step.tokens(built))
    search = _Search(step, built, limit_s)
    borders: tuple[Border, ...]
    priced: Cost | ChipCost | None = None
    if len(paths) == 1 and cost is None:
        borders = (search.border(paths[0], {}),)
    else:
        if cost is None:
            example = ",".join(f"{path}=1" for path in paths)
            raise BadInput(Problem("several numbers vary", f"say what each costs: 'area', 'energy' or e.g. '{example}'", path="--cost"))
        wants_chip = cost.strip() in ("area", "energy")
        priced = read_chip_cost(built, cost.strip(), paths, step) if wants_chip else read_cost(built, cost, paths)
        borders = _cheapest(search, paths, priced)
    values = {border.path: border.at.value for border in borders if border.at is not None}
    if len(values) < len(paths):
        values = {}
    final = values or {border.path: border.beyond.value for border in borders if border.beyond is not None and not border.beyond.reason}
    return _solution(search, wanted, built, values, final, borders, priced)


def _solution(
    search: _Search,
    target: Target,
    chip: Chip,
    values: Mapping[str, float],
    final: Mapping[str, float],
    borders: tuple[Border, ...],
    cost: Cost | ChipCost | None,
) -> Solution:
    timing, graph = search.timing(final), search.step.graph(chip.default_format)
    assert isinstance(timing, Timing)
    return Solution(
        model=graph.model,
        chip=chip.name,
        engine=search.step.engine,
        target=target,
        target_latency_s=search.limit_s,
        values=values,
        borders=borders,
        latency_s=timing.latency_s,
        tokens_per_s=search.step.tokens(chip) / timing.latency_s,
        bound_shares=timing.shares,
        fits=needed_bytes(graph) <= int(with_values(chip, final).dram.capacity_bytes),
        cost=cost.of(values) if cost and values else None,
        own_cost=cost.of({border.path: border.own for border in borders}) if cost else None,
        cost_name=cost.name if cost else "",
        cost_unit=cost.unit if cost else "",
        evaluations=search.evaluations,
    )


class _Search:
    """Tries chips, each once, and counts them."""

    def __init__(self, step: Step, chip: Chip, limit_s: float) -> None:
        self.step = step
        self.chip = chip
        self.limit_s = limit_s
        self.known: dict[tuple[tuple[str, float], ...], Timing | str] = {}
        cheaper = list(ENGINES)[: list(ENGINES).index(step.engine)][-1:]
        self.cheaper = _Search(replace(step, engine=cheaper[0]), chip, limit_s) if cheaper else None

    @property
    def evaluations(self) -> int:
        return len(self.known)

    def timing(self, values: Mapping[str, float]) -> Timing | str:
        """The step on the chip with these values, or why there is no such chip."""
        key = tuple(sorted(values.items()))
        if key not in self.known:
            self.known[key] = self._timing(values)
        return self.known[key]

    def _timing(self, values: Mapping[str, float]) -> Timing | str:
        try:
            chip = with_values(self.chip, values)
            problems = errors_of(chip)
            return "; ".join(str(problem) for problem in problems) if problems else self.step.time(chip)
        except BadInput as error:
            return why_not(error)

    def probe(self, values: Mapping[str, float], path: str, value: float) -> Probe:
        timing = self.timing({**values, path: value})
        if isinstance(timing, str):
            return Probe(value, math.inf, False, timing)
        return Probe(value, timing.latency_s, timing.latency_s <= self.limit_s)

    def line(self, path: str, others: Mapping[str, float], start: float) -> Line:
        """The values of one number, the others fixed. The roofline is never above tiled; cycle, which prefetches, may be below it."""
        cheaper = None if self.cheaper is None else self.cheaper.line(path, others, start)
        is_bound = self.step.engine == "tiled"
        return Line(path, start, self.limit_s, lambda value: self.probe(others, path, value), cheaper, is_bound)

    def border(self, path: str, others: Mapping[str, float], own: float | None = None) -> Border:
        """Where the number starts to meet the target, the others fixed."""
        its_own = float(value_of(self.chip, path))
        at, beyond = self.line(path, others, its_own if own is None else own).border()
        its_written = float(value_of(self.chip, f"{path}.write")) if path.endswith(".bandwidth") else its_own
        return Border(path, unit_of(self.chip, path), its_own, at, beyond, None if its_written == its_own else its_written)


def _cheapest(search: _Search, paths: Sequence[str], cost: Cost | ChipCost) -> tuple[Border, ...]:
    """The cheapest values that meet the target: an optimiser chooses all numbers but one, whose smallest that does is found."""
    own = {path: float(value_of(search.chip, path)) for path in paths}
    start = _feasible(search, own)
    if start is None:
        return tuple(Border(path, unit_of(search.chip, path), own[path], None, _best_missed(search, path, own)) for path in paths)
    inner = next((path for path in paths if not is_whole(path)), paths[-1])
    outer = [path for path in paths if path != inner]
    values = _optimised(search, own, start, inner, outer, cost) if outer else start
    for _ in range(2):
        for path in sorted(paths, key=lambda path: (not is_whole(path), path == inner)):
            border = search.border(path, {other: values[other] for other in paths if other != path}, values[path])
            values = {**values, path: border.at.value if border.at else values[path]}
    borders = [search.border(path, {other: values[other] for other in paths if other != path}, values[path]) for path in paths]
    # The search along the others has left each of them at its border already; a last digit must not undo that.
    return tuple(replace(border, at=Probe(values[border.path], border.at.latency_s, True) if border.at else None) for border in borders)


def _feasible(search: _Search, own: Mapping[str, float]) -> dict[str, float] | None:
    """All numbers raised by one factor until the target is met."""
    for doublings in range(DOUBLINGS + 1):
        values = {path: value * 2.0**doublings for path, value in own.items()}
        timing = search.timing(values)
        if isinstance(timing, Timing) and timing.latency_s <= search.limit_s:
            return values
    return None


def _best_missed(search: _Search, path: str, own: Mapping[str, float]) -> Probe:
    """The fastest chip with all numbers raised together, for saying what binds then."""
    best = Probe(own[path], math.inf, False)
    for doublings in range(DOUBLINGS + 1):
        timing = search.timing({each: value * 2.0**doublings for each, value in own.items()})
        if isinstance(timing, Timing) and timing.latency_s < best.latency_s:
            best = Probe(own[path] * 2.0**doublings, timing.latency_s, False)
    return best


def _optimised(
    search: _Search, own: Mapping[str, float], start: Mapping[str, float], inner: str, outer: Sequence[str], cost: Cost | ChipCost
) -> dict[str, float]:
    """scipy's DIRECT finds the region, its Nelder-Mead the point; both see logarithms, in which a roofline is a convex problem."""
    needed("scipy", "several numbers at once", "explore", "--vary")
    from scipy.optimize import Bounds, brentq, direct, minimize

    most = cost.of(start)
    upper = {path: math.log2(cost.reach(path, most, start[path])) for path in start}
    lower = {path: upper[path] - DOUBLINGS for path in upper}
    roots: list[float] = [math.log2(start[inner])]

    def excess(values: Mapping[str, float]) -> float:
        """Logarithm of latency over target; large where there is no such chip."""
        timing = search.timing(values)
        return math.log2(timing.latency_s / search.limit_s) if isinstance(timing, Timing) else 100.0

    def completed(point: Any) -> tuple[dict[str, float], float]:
        """The values of a point, with the inner one that just meets the target, and by how much even its largest misses it (else 0)."""
        values = {path: _rounded(path, 2.0 ** float(log)) for path, log in zip(outer, point, strict=True)}

        @cache  # the ends of a bracket are asked again by the root finder
        def at(log: float) -> float:
            return excess({**values, inner: _rounded(inner, 2.0**log)})

        low, high = max(roots[-1] - 0.25, lower[inner]), min(roots[-1] + 0.25, upper[inner])
        while high < upper[inner] and at(high) > 0:
            low, high = high, min(2 * high - low + 1, upper[inner])
        missed = at(high)
        if missed > 0:
            return {**values, inner: 2.0 ** upper[inner]}, missed
        while low > lower[inner] and at(low) <= 0:
            low, high = max(2 * low - high - 1, lower[inner]), low
        log = low if at(low) <= 0 else float(brentq(at, low, high, xtol=1e-5))
        roots.append(log)
        return {**values, inner: float(math.ceil(2.0**log)) if is_whole(inner) else 2.0**log}, 0.0

    def objective(point: Any) -> float:
        values, missed = completed(point)
        return math.log2(cost.of(values)) + (10 + missed if missed else 0)

    box = Bounds([lower[path] for path in outer], [upper[path] for path in outer])
    found = direct(objective, box, maxfun=30 * len(outer) ** 2)
    options = {"maxfev": 25 * len(outer) ** 2, "xatol": 1e-4, "fatol": 1e-7}
    refined = minimize(objective, found.x, method="Nelder-Mead", bounds=box, options=options)
    best, missed = completed(refined.x if refined.fun < found.fun else found.x)
    return best if not missed and cost.of(best) <= most else dict(start)


def _rounded(path: str, value: float) -> float:
    return max(1.0, float(round(value))) if is_whole(path) else value
