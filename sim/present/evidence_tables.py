"""Validations and calibrations as tables for a terminal, as JSON, and as sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from hwmodels.units import format_bandwidth, format_seconds
from sim.evidence.calibrate import Calibration, steps
from sim.evidence.cases import StepTask, Task, titled
from sim.evidence.validate import Comparison, Validation
from sim.present.tables import new_table, significant

if TYPE_CHECKING:
    from sim.evidence.measure import Measurement


def validation_json(validation: Validation) -> str:
    """The promised list, one object per hardware, op, regime and engine."""
    return json.dumps([group.to_dict() for group in validation.groups], indent=1)


def validation_tables(validation: Validation) -> list[RenderableType]:
    """Errors by hardware, op, regime and engine, and what was not predicted."""
    title = "error of the predicted against the measured time, in percent"
    table = new_table(title, "hardware", "op", "regime", "engine", "rows", "median of |error|", "90 % below", "median of error")
    for column in table.columns[1:4]:
        column.justify = "left"
    for group in validation.groups:
        figures = group.to_dict()
        percents = (figures[name] for name in ("median_abs_pct", "p90_abs_pct", "median_signed_pct"))
        table.add_row(group.hardware, group.op, group.regime, group.engine, f"{figures['n']:,}", *percent_cells(*percents))
    parts: list[RenderableType] = [table] if validation.groups else []
    return [*parts, Text(counts(validation) + "\n")]


PUBLISHED = "published beside predicted; errors are of the time"
PUBLISHED_COLUMNS = ("hardware", "what", "engine", "published", "predicted", "error")


def published_tables(validation: Validation) -> list[RenderableType]:
    """Every row by itself, with what its table remarks, and then the errors together."""
    table = new_table(PUBLISHED, *PUBLISHED_COLUMNS)
    for column in table.columns[1:3]:
        column.justify = "left"
    for each in validation.comparisons:
        table.add_row(*published_row(each))
    sources = ", ".join(dict.fromkeys(each.case.row.text("source") for each in validation.comparisons))
    lines = [*remarks(validation), f"from: {sources}; cited in full in the tables"]
    return [table, Text("\n".join(f"* {line}" for line in lines) + "\n"), *validation_tables(validation)]


def published_row(each: Comparison) -> tuple[str, ...]:
    """The cells of one row under `PUBLISHED_COLUMNS`."""
    return each.case.row.text("hardware"), titled(each.case), each.engine, *_figures(each), f"{each.error:+.1%}"


def remarks(validation: Validation) -> list[str]:
    """What the tables remark on their rows, each once."""
    noted = [(each.case.row, titled(each.case)) for each in validation.comparisons]
    return list(dict.fromkeys(f"{row.text('hardware')}, {what}: {row.text('notes')}" for row, what in noted if row.text("notes")))


def _figures(compared: Comparison) -> tuple[str, str]:
    """Published and predicted, in the unit of the table."""
    row, faster = compared.case.row, compared.case.measured_s / compared.predicted_s
    if row.text("tokens_per_s"):
        rate = row.positive("tokens_per_s")
        return f"{significant(rate)} tokens/s", f"{significant(rate * faster)} tokens/s"
    if row.text("utilisation_pct"):
        share = row.positive("utilisation_pct")
        return f"{share:.3g}% of peak", f"{share * faster:.3g}% of peak"
    return format_seconds(compared.case.measured_s), format_seconds(compared.predicted_s)


def percent_cells(median_abs: float, p90_abs: float, median: float) -> tuple[str, str, str]:
    """Percents with one decimal; the signed one with its sign."""
    return f"{median_abs:.1f}", f"{p90_abs:.1f}", f"{median:+.1f}"


def counts(validation: Validation) -> str:
    """How many rows there are, and how many were not predicted, for which reasons."""
    tables = [Path(table).name for table in validation.tables]
    whose = f" of {tables[0]}" if len(tables) == 1 else f" of {len(tables)} tables" if tables else ""
    lines = [f"{validation.rows:,} rows{whose}, {validation.rows - validation.rows_left:,} predicted"]
    lines += [f"not predicted: {left_line}" for left_line in left_lines(validation)]
    return "\n".join(lines)


def left_lines(validation: Validation) -> list[str]:
    """`12 rows: unknown op 'gelu' (the first: data.csv:31)`, most rows first."""
    ordered = sorted(validation.left, key=lambda each: -each.rows)
    return [f"{each.rows:,} row{'s' if each.rows > 1 else ''}: {each.reason} (the first: {each.where})" for each in ordered]


def calibration_tables(found: Calibration) -> list[RenderableType]:
    """Fitted constants, errors before and after on points and rest, and whole steps side by side."""
    constants = new_table(f"{found.chip.name}: constants fitted to {len(found.points)} points", "constant", "before", "fitted")
    for constant in found.constants:
        fitted = _constant(constant.path, constant.value) if constant.seen else "no point depends on it"
        constants.add_row(constant.path, _constant(constant.path, constant.before), fitted)
    errors = new_table("error of the predicted against the measured time, in percent", "rows", "n", *_BOTH)
    parts = [("points of the fit", found.used_before, found.used), ("all other rows", found.rest_before, found.rest)]
    for name, before, after in parts:
        if after.comparisons:
            errors.add_row(name, f"{len(after.comparisons):,}", *_median_and_p90(before), *_median_and_p90(after))
    tables: list[RenderableType] = [constants, errors]
    rows = list(steps(found))
    if rows:
        side = new_table("whole steps, none of them used in the fit", "step", "measured", "before", "error", "calibrated", "error")
        for old, new in rows:
            times = [format_seconds(new.case.measured_s)]
            for compared in (old, new):
                times += [format_seconds(compared.predicted_s), f"{compared.error:+.1%}"]
            side.add_row(_step(new.case.tasks[0]), *times)
        tables.append(side)
    if found.rest.left:
        tables.append(Text("\n".join(f"not predicted: {line}" for line in left_lines(found.rest)) + "\n"))
    return tables


_BOTH = ("before: median", "90 % below", "calibrated: median", "90 % below")


def _median_and_p90(validation: Validation) -> tuple[str, str]:
    percent = 100 * np.abs([each.error for each in validation.comparisons])
    return f"{np.median(percent):.1f}", f"{np.percentile(percent, 90):.1f}"


def _constant(path: str, value: float) -> str:
    if path.endswith("launch"):
        return format_seconds(value)
    return format_bandwidth(value) if path.endswith("pack") else f"{value:.3f}"


def slow_rows(found: Measurement) -> str:
    """How many rows of a measurement are not at the machine's best rate."""
    least = min(row.time.rate for row in found.slow)
    told = f"{len(found.slow)} of {len(found.rows)} rows were timed while the machine was below its best rate, at {least:.0%} at the least"
    return f"{told}; their notes say so, and calibrate leaves them out of its fit"


def _step(task: Task) -> str:
    assert isinstance(task, StepTask)
    what = f"prefill of {task.q_len}" if task.phase == "prefill" else f"decode after {task.context}"
    return f"{task.model}, {task.layers} layers, {what}, batch {task.batch}"
