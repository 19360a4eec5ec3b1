"""Predictions beside measurements: every row of tidy tables predicted, and the error by hardware, op, regime and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from functional.errors import BadInput, Problem, UnknownName, did_you_mean
from hwmodels.chip import Chip
from sim.api import predict_graph
from sim.engines import ENGINES
from sim.evidence.cases import Case, NotPredicted, StepTask, Task, cases
from sim.evidence.hardware import Hardware
from sim.evidence.published import published_tables
from sim.evidence.tidy import CellError, Row, cell_problem, raise_all, read_tables

Predict: TypeAlias = Callable[[Task, Chip, str], float]
"""Seconds of a task on a chip, by the engine of that name."""

Regime: TypeAlias = Literal["large", "small", "l2"]

LARGE_S = 20e-6
"""From this roofline on, what a kernel costs besides its work matters little."""

ENGINE = "tiled"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measured time and the one predicted for it, by one engine."""

    case: Case
    engine: str
    regime: Regime
    predicted_s: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted_s / self.case.measured_s - 1


@dataclass(frozen=True, slots=True)
class Group:
    """Errors of all rows of one hardware (as the table calls it), op, regime and engine."""

    hardware: str
    op: str
    regime: Regime
    engine: str
    chip: str
    errors: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """One object of the JSON that `rooftile validate --format json` prints."""
        percent = 100 * np.array(self.errors)
        return {
            "hardware": self.hardware,
            "op": self.op,
            "regime": self.regime,
            "n": len(self.errors),
            "median_abs_pct": float(np.median(np.abs(percent))),
            "p90_abs_pct": float(np.percentile(np.abs(percent), 90)),
            "median_signed_pct": float(np.median(percent)),
            "engine": self.engine,
            "chip": self.chip,
        }


@dataclass(frozen=True, slots=True)
class Left:
    """Rows that were not predicted, all for one reason; `where` is the first of them."""

    reason: str
    rows: int
    where: str


@dataclass(frozen=True, eq=False)
class Validation:
    """All rows of some `tables` (their files): those compared, and those left with the reason."""

    tables: tuple[str, ...]
    rows: int
    comparisons: tuple[Comparison, ...]
    left: tuple[Left, ...]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Errors by hardware, op, regime and engine, sorted."""
        errors: dict[tuple[str, str, Regime, str, str], list[float]] = {}
        for each in self.comparisons:
            key = each.case.row.text("hardware"), each.case.op, each.regime, each.engine, each.case.chip.name
            errors.setdefault(key, []).append(each.error)
        return tuple(Group(*key, tuple(errors[key])) for key in sorted(errors))

    @property
    def rows_left(self) -> int:
        return sum(each.rows for each in self.left)


def validate(data: Sequence[str | Path] = (), *, engines: Sequence[str] = (ENGINE,), chips: Iterable[str | Path | Chip] = ()) -> Validation:
    """Predict every row of tidy CSV files (the few published figures of the package, unless some are given) and compare.

    `chips` are looked at before those of the library. Raises `BadInput`: an unknown engine, a chip or a table that cannot be read, a cell
    that cannot be right. Rows of unknown hardware, ops, models or formats are no error: `Validation.left` counts them.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise UnknownName(Problem(f"unknown engine '{each}'", did_you_mean(each, ENGINES), path="--engine") for each in unknown)
    return validate_rows(read_tables(data or published_tables()), engines, chips)


def validate_rows(
    rows: Sequence[Row], engines: Sequence[str], chips: Iterable[str | Path | Chip] = (), predict: Predict | None = None
) -> Validation:
    """The same for rows that were read before; `predict` says as `predict_task` what a task takes."""
    hardware = Hardware(chips)
    found, left = _all_cases(rows, hardware)
    predictor = _Predictor(predict or predict_task)
    comparisons: list[Comparison] = []
    for case in found:
        try:
            roofline_s = predictor.predicted_s(case.cold_tasks, case.chip, "roofline")
            regime: Regime = "l2" if case.is_l2 else "large" if roofline_s >= LARGE_S else "small"
            for engine in dict.fromkeys(engines):
                comparisons.append(Comparison(case, engine, regime, predictor.predicted_s(case.tasks, case.chip, engine)))
        except BadInput as why:
            _leave(left, why.problems[0].message, case.row)
    return Validation(tuple(dict.fromkeys(row.file for row in rows)), len(rows), tuple(comparisons), tuple(left.values()))


def _all_cases(rows: Sequence[Row], hardware: Hardware) -> tuple[list[Case], dict[str, Left]]:
    """What all rows measure, and those that say nothing that can be predicted; raises `BadInput` for wrong cells."""
    found: list[Case] = []
    left: dict[str, Left] = {}
    problems: list[Problem] = []
    for row in rows:
        name = row.text("hardware")
        chip = hardware.find(name)
        try:
            if chip is None:
                raise NotPredicted(f"unknown hardware '{name}'")
            found += cases(row, chip)
        except NotPredicted as why:
            _leave(left, str(why), row)
        except CellError as error:
            problems.append(cell_problem(row, error))
    raise_all(problems)
    return found, left


def _leave(left: dict[str, Left], reason: str, row: Row) -> None:
    known = left.get(reason)
    left[reason] = Left(reason, 1, row.where) if known is None else Left(reason, known.rows + 1, known.where)


class _Predictor:
    """Predictions by chip, task and engine; what many rows ask is worked out once."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._known: dict[tuple[str, float | None, str, Task], float | BadInput] = {}

    def predicted_s(self, tasks: Sequence[Task], chip: Chip, engine: str) -> float:
        """Seconds of all tasks, one after the other; raises `BadInput` for what the chip cannot do."""
        return sum(self._task_s(task, chip, engine) for task in tasks)

    def _task_s(self, task: Task, chip: Chip, engine: str) -> float:
        key = chip.name, chip.tdp_w, engine, task
        known = self._known.get(key)
        if known is None:
            try:
                known = self._predict(task, chip, engine)
            except BadInput as why:
                known = why
            self._known[key] = known
        if isinstance(known, BadInput):
            raise known
        return known


def predict_task(task: Task, chip: Chip, engine: str) -> float:
    """Seconds of one kernel or step on a chip; raises `BadInput` for what the chip cannot do."""
    graph = task.graph()
    if isinstance(task, StepTask):
        timeline = predict_graph(graph, chip, engine, fused=task.fused)
        left_out = {"norm", "lm_head"} if task.bare else set()
        return sum(component.latency_s for component in timeline.components if component.name not in left_out)
    return predict_graph(graph, chip, engine).total_s
