"""Fit the few constants that a datasheet does not say: what is sustained of the peaks, and what software costs per op.

At most 30 rows of one op each are used, of those that were measured at the machine's best rate; the others, and whole steps, are predicted
and tell the error. The fit is a damped Gauss-Newton (Levenberg, 1944; Marquardt, 1963) on the logarithms of constants and times, with
Huber's weights: a disturbed measurement counts less.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from functional.errors import BadInput, Problem, ScenarioError
from hwmodels import chip_names, load_chip
from hwmodels.chip import Bandwidth, Chip, Number
from sim.engines.roofline import MATRIX, VECTOR, Peaks, unit_times_s
from sim.engines.tiled import class_seconds, packed_bytes, unpacked_s
from sim.evidence.cases import Case, StepTask, Task
from sim.evidence.hardware import plain
from sim.evidence.tidy import is_slow, read_tables
from sim.evidence.validate import ENGINE, Comparison, Validation, predict_task, validate_rows
from sim.plan import plan

POINTS = 30
"""Rows that a fit may use."""

BAD_FIT = 0.25
"""Median |error| on its own points from which on a fit is warned about."""

UNSTEADY = "the machine was below its best rate"
"""What is said of a fit to rows that were so measured."""

_GEMM_SHARE = 1 / 3
_ROUNDS = 25
_ANCHORS = 6
"""How often the engine is asked for all points, at most."""
_SETTLED = 2e-3
"""Relative change of the constants at which it need not be asked again."""
_STEP = 0.02
"""Relative step of the finite differences."""
_HUBER = 0.1
"""Relative errors beyond this count linearly."""
_DONE = 1e-5
_SLOWER = 4.0
"""Times by which packing, of which a chip says nothing, is first taken to be slower than DRAM."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Constant:
    """One fitted number under its dotted path, in SI units; `seen` says whether any point depends on it."""

    path: str
    before: float
    value: float
    seen: bool


@dataclass(frozen=True, eq=False)
class Calibration:
    """A chip with fitted constants, and how well it predicts the points that were used and all other rows (as it was, and as it is).

    `is_steady`: the points were measured at the machine's best rate. Where less than half as many rows were as would be used, rows below it
    are used too.
    """

    base: str
    chip: Chip
    constants: tuple[Constant, ...]
    points: tuple[str, ...]
    used: Validation
    used_before: Validation
    rest: Validation
    rest_before: Validation
    data: tuple[tuple[str, str], ...]
    date: str
    is_steady: bool

    def to_yaml(self, out: Path) -> str:
        """The text of a chip file at `out` that restates only what was fitted."""
        hashes = ", ".join(f"{name} (sha256 {digest})" for name, digest in self.data)
        residual = f"median |error| {median_abs(self.used):.1%} on {len(self.points)} points"
        if self.rest.comparisons:
            residual += f", {median_abs(self.rest):.1%} on the other {len(self.rest.comparisons)} times"
        source = f"rooftile calibrate, {self.date}; {hashes}; {residual}" + ("" if self.is_steady else f"; {UNSTEADY}")
        data: dict[str, Any] = {
            "base": self._base(out),
            "name": self.chip.name,
            "aliases": list(self.chip.aliases),
            "sources": [source],
            "standing": "assumed",
        }
        for constant in self.constants:
            if constant.seen:
                *place, name = constant.path.split(".")
                inner = data
                for part in place:
                    inner = inner.setdefault(part, {})
                inner[name] = {"value": _written(constant), "source": source, "standing": "fitted"}
        return yaml.safe_dump(data, sort_keys=False, width=110)

    def _base(self, out: Path) -> str:
        if self.base in chip_names():
            return self.base
        return os.path.relpath(Path(self.base).resolve(), out.resolve().parent)


def _written(constant: Constant) -> Any:
    value = float(f"{constant.value:.5g}")
    if constant.path == "overhead.launch":
        return f"{1e9 * value:.5g} ns"
    return f"{value / 1e9:.5g} GB/s" if constant.path == "overhead.pack" else value


def median_abs(validation: Validation) -> float:
    """Median of |error| over all comparisons."""
    return float(np.median([abs(each.error) for each in validation.comparisons]))


def calibrate(
    chip: str | Path, data: Sequence[str | Path], points: int = POINTS, tell: Callable[[str], None] = lambda line: None
) -> Calibration:
    """Fit a chip (library name or file) to the rows of tidy tables that were measured on it; `tell` hears how far it is.

    Raises `BadInput`: a chip or table that cannot be read, no row of that chip, fewer or more than 1 to 30 points.
    """
    if not 1 <= points <= POINTS:
        raise ScenarioError(Problem(f"{points} points", f"1 to {POINTS}: the rest tells the error", path="--points"))
    start = load_chip(chip)
    rows = read_tables(data)
    names = {plain(name) for name in (start.name, *start.aliases)}
    ours = [row for row in rows if plain(row.text("hardware")) in names]
    if not ours:
        found = ", ".join(sorted({f"'{row.text('hardware')}'" for row in rows})) or "nothing"
        raise BadInput(Problem(f"no row was measured on {start.name}", f"they name {found}; add an alias to the chip", str(data[0])))
    compare = partial(validate_rows, ours, engines=(ENGINE,), predict=predicted_s)
    before = compare(chips=[start])
    steady = [each for each in before.comparisons if not is_slow(each.case.row)]
    chosen = choose(steady, points)
    is_steady = 2 * len(chosen) >= min(points, len(choose(before.comparisons, points)))
    if not is_steady:
        chosen = choose(before.comparisons, points)
    if not chosen:
        raise BadInput(Problem("no row of one op can be predicted", "measure GEMMs and vector ops too", str(data[0])))
    constants, fitted = fit(start, [each.case for each in chosen], tell)
    fitted = replace(fitted, name=f"{start.name}-calibrated", aliases=(start.name, *start.aliases))
    after = compare(chips=[fitted])
    used = {_identity(each) for each in chosen}
    date = datetime.now(UTC).date().isoformat()
    files = tuple((Path(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]) for path in data)
    return Calibration(
        str(chip),
        fitted,
        constants,
        tuple(each.case.row.where for each in chosen),
        _part(after, used, inside=True),
        _part(before, used, inside=True),
        _part(after, used, inside=False),
        _part(before, used, inside=False),
        files,
        date,
        is_steady,
    )


def _identity(comparison: Comparison) -> tuple[str, str]:
    return comparison.case.row.where, comparison.case.op


def _part(validation: Validation, used: set[tuple[str, str]], inside: bool) -> Validation:
    return replace(validation, comparisons=tuple(each for each in validation.comparisons if (_identity(each) in used) == inside))


def choose(comparisons: Iterable[Comparison], points: int) -> list[Comparison]:
    """Rows of one op to fit to: a third of them GEMMs, the others shared among the other ops; of each evenly over the times."""
    by_op: dict[str, list[Comparison]] = {}
    for each in comparisons:
        if not isinstance(each.case.tasks[0], StepTask) and len(each.case.tasks) == 1:
            by_op.setdefault(each.case.op, []).append(each)
    ordered = {op: sorted(by_op[op], key=lambda each: (each.case.measured_s, each.case.row.where)) for op in sorted(by_op)}
    gemms = ordered.pop("gemm", [])
    for_gemms = points if not ordered else max(1, min(len(gemms), int(points * _GEMM_SHARE))) if gemms else 0
    chosen = _evenly(gemms, for_gemms)
    left = points - len(chosen)
    shares = dict.fromkeys(ordered, 0)
    while left > 0 and any(shares[op] < len(rows) for op, rows in ordered.items()):
        for op, rows in ordered.items():
            if left > 0 and shares[op] < len(rows):
                shares[op] += 1
                left -= 1
    return [*chosen, *(each for op, rows in ordered.items() for each in _evenly(rows, shares[op]))]


def _evenly(rows: Sequence[Comparison], count: int) -> list[Comparison]:
    """`count` rows from the first to the last; one alone from the middle."""
    count = min(count, len(rows))
    if count == 1:
        return [rows[len(rows) // 2]]
    return [rows[round(i * (len(rows) - 1) / max(count - 1, 1))] for i in range(count)]


def fit(start: Chip, cases: Sequence[Case], tell: Callable[[str], None] = lambda line: None) -> tuple[tuple[Constant, ...], Chip]:
    """The constants with which the tiled engine comes closest to the measured times, and the chip with them.

    The engine is slow, so a model of it is fitted: roofline, launch and packing, held to what the engine says at the constants of the fit
    before. Source of the scheme (space mapping): Bandler et al., IEEE Trans. Microwave Theory Tech. 42 (1994) 2536.
    """
    model = _Model(start, cases)
    measured = np.log([case.measured_s for case in cases])
    theta, seen = model.begin.copy(), np.zeros(len(model.initial), dtype=bool)
    for round_ in range(1, _ANCHORS + 1):
        residual = model.anchor(theta) - measured
        tell(f"fit {round_} of at most {_ANCHORS}: median |error| {np.median(np.abs(np.expm1(residual))):.1%} on {len(cases)} points")
        new = _descend(model, theta, measured, seen)
        moved = np.abs(new - theta).max()
        theta = new
        if moved < _SETTLED:
            break
    values, first = np.exp(theta), np.exp(model.initial)
    constants = tuple(
        Constant(path, float(old), float(new), bool(known))
        for path, old, new, known in zip(model.paths, first, values, seen, strict=True)
    )
    return constants, model.chip({each.path: each.value for each in constants if each.seen})


def _descend(model: _Model, theta: Floats, measured: Floats, seen: NDArray[np.bool_]) -> Floats:
    """The constants of least loss from here on; notes in `seen` which of them any point depends on."""
    residual = model.log_times(theta) - measured
    damping = 1e-3
    for _ in range(_ROUNDS):
        slopes = model.slopes(theta, residual + measured)
        seen |= np.abs(slopes).max(axis=0) > 1e-3
        weights = np.sqrt(_HUBER / np.maximum(np.abs(residual), _HUBER))
        step, damping, residual_new = _improve(model, theta, residual, measured, slopes, weights, damping)
        if step is None or residual_new is None:
            break
        theta, residual = model.bounded(theta + step), residual_new
        if np.abs(step).max() < _DONE:
            break
    return theta


def _improve(
    model: _Model, theta: Floats, residual: Floats, measured: Floats, slopes: Floats, weights: Floats, damping: float
) -> tuple[Floats | None, float, Floats | None]:
    """The first damped step that lowers the loss; None if none does."""
    loss = _loss(residual)
    weighted = slopes * weights[:, None]
    curvature = weighted.T @ weighted
    gradient = weighted.T @ (residual * weights)
    while damping < 1e6:
        scaled = curvature + damping * np.diag(np.maximum(np.diag(curvature), 1e-9))
        step = model.bounded(theta - np.linalg.solve(scaled, gradient)) - theta
        trial = model.log_times(theta + step) - measured
        if _loss(trial) < loss:
            return step, damping / 5, trial
        damping *= 5
    return None, damping, None


def _loss(residual: Floats) -> float:
    """Huber's loss: quadratic for small errors, linear beyond."""
    size = np.abs(residual)
    return float(np.where(size <= _HUBER, size**2 / 2, _HUBER * (size - _HUBER / 2)).sum())


class _Model:
    """Predicted times of the points as a function of the constants: near the anchor, at the price of a roofline."""

    def __init__(self, start: Chip, cases: Sequence[Case]) -> None:
        self._start = start
        self._tasks = [case.tasks[0] for case in cases]
        self.paths = [f"memory.{start.dram.name}.efficiency", "matrix.efficiency", "vector.efficiency", "overhead.launch"]
        first: list[Number] = [start.dram.efficiency, start.matrix.efficiency, start.vector.efficiency, max(float(start.launch_s), 1e-8)]
        self._units = np.array([_unit_times_s(task, start) for task in self._tasks])
        if self._units[:, 4].any() and (start.pack is not None or start.technology == "cpu"):
            self.paths.append("overhead.pack")
            first.append(start.read_bytes_per_s(start.dram) if start.pack is None else start.pack.read_bytes_per_s(start.clock_hz))
        self.initial: Floats = np.log(np.array(first, dtype=np.float64))
        self.begin = self.initial.copy()
        if start.pack is None:
            # As fast as DRAM, packing hides behind it, and no point would depend on it.
            self.begin[4:] -= np.log(_SLOWER)
        self._off = np.zeros(len(cases))

    def bounded(self, theta: Floats) -> Floats:
        """No efficiency above 1."""
        highest = [0.0 if path.endswith("efficiency") else np.inf for path in self.paths]
        return np.minimum(theta, highest)

    def anchor(self, theta: Floats) -> Floats:
        """Log times as the engine says, to which the model is held from now on."""
        chip = self.chip(dict(zip(self.paths, np.exp(theta).tolist(), strict=True)))
        exact = np.log([predicted_s(task, chip) for task in self._tasks])
        self._off = self._off + exact - self.log_times(theta)
        return exact

    def log_times(self, theta: Floats) -> Floats:
        """Log times by roofline, launch and packing, as far off as at the anchor."""
        values = np.exp(theta)
        dram_s, matrix_s, vector_s = (self._units[:, i] / values[i] for i in range(3))
        rest_s, packed_bytes, passes_s = self._units[:, 3], self._units[:, 4], self._units[:, 5] / values[0]
        times = np.maximum.reduce([dram_s, matrix_s, vector_s, rest_s])
        if len(values) > 4:
            packed_s = np.maximum(dram_s, packed_bytes / values[4]) + matrix_s
            weights_s = np.minimum(packed_s, np.maximum(passes_s, matrix_s))
            times = np.maximum(times, np.where(packed_bytes > 0, weights_s, 0.0))
        return np.asarray(np.log(times + values[3]) + self._off)

    def slopes(self, theta: Floats, here: Floats) -> Floats:
        """d log time / d log constant, [points, constants]; efficiencies step down, away from their bound."""
        columns = []
        for i in range(len(theta)):
            step = np.zeros(len(theta))
            step[i] = -_STEP
            columns.append((here - self.log_times(theta + step)) / _STEP)
        return np.stack(columns, axis=1)

    def chip(self, values: Mapping[str, float]) -> Chip:
        """The chip with these constants; the others stay as they were."""
        start = self._start
        kept = (start.dram.efficiency, start.matrix.efficiency, start.vector.efficiency)
        chip = _with_efficiencies(start, tuple(float(values.get(path, old)) for path, old in zip(self.paths[:3], kept, strict=True)))
        pack = values.get("overhead.pack")
        return replace(
            chip,
            launch_s=values.get("overhead.launch", float(start.launch_s)),
            pack=start.pack if pack is None else Bandwidth(pack, pack, True, False),
        )


def _unit_times_s(task: Task, chip: Chip) -> tuple[float, float, float, float, float, float]:
    """Seconds of DRAM, matrix unit, vector unit and the slowest other level at their peaks, the bytes of weights that are packed, and
    seconds of passes over them at DRAM's peak if they are not (infinite where they always are)."""
    times = dict.fromkeys((chip.dram.name, MATRIX, VECTOR), 0.0)
    others, packed, unpacked = 0.0, 0.0, 0.0
    planned = plan(task.graph(), chip)
    for each in planned.classes:
        found = unit_times_s(each.load, Peaks.of(chip))
        times = {name: seconds + each.count * float(found[name]) for name, seconds in times.items()}
        others += each.count * max((float(seconds) for name, seconds in found.items() if name not in times), default=0.0)
        packed += each.count * packed_bytes(each)
        unpacked += each.count * float(unpacked_s(each, chip))
    return times[chip.dram.name], times[MATRIX], times[VECTOR], others, packed, unpacked


def predicted_s(task: Task, chip: Chip, engine: str = ENGINE) -> float:
    """Seconds of a task, as `predict_task` has them, by the engine of the fit without mappings that packing hides."""
    if engine != ENGINE or (isinstance(task, StepTask) and task.bare):
        return predict_task(task, chip, engine)
    planned = plan(task.graph(), chip, task.fused if isinstance(task, StepTask) else True)
    return sum(each.count * seconds for each, seconds in zip(planned.classes, class_seconds(planned), strict=True))


def _with_efficiencies(chip: Chip, values: tuple[float, ...]) -> Chip:
    dram, matrix, vector = values
    memory = (replace(chip.dram, efficiency=dram), *chip.memory[1:])
    return replace(chip, memory=memory, matrix=replace(chip.matrix, efficiency=matrix), vector=replace(chip.vector, efficiency=vector))


def steps(calibration: Calibration) -> Iterator[tuple[Comparison, Comparison]]:
    """Whole steps, predicted as the chip was and as it is."""
    for old, new in zip(calibration.rest_before.comparisons, calibration.rest.comparisons, strict=True):
        if isinstance(new.case.tasks[0], StepTask):
            yield old, new
