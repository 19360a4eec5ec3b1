"""Validations as tables for a terminal, as JSON, and as sentences."""

from __future__ import annotations

import json

from rich.console import RenderableType
from rich.text import Text

from sim.evidence.validate import Validation
from sim.present.tables import new_table


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


def percent_cells(median_abs: float, p90_abs: float, median: float) -> tuple[str, str, str]:
    """Percents with one decimal; the signed one with its sign."""
    return f"{median_abs:.1f}", f"{p90_abs:.1f}", f"{median:+.1f}"


def counts(validation: Validation) -> str:
    """How many rows there are, and how many were not predicted, for which reasons."""
    lines = [f"{validation.rows:,} rows, {validation.rows - validation.rows_left:,} predicted"]
    lines += [f"not predicted: {left_line}" for left_line in left_lines(validation)]
    return "\n".join(lines)


def left_lines(validation: Validation) -> list[str]:
    """`12 rows: unknown op 'gelu' (the first: data.csv:31)`, most rows first."""
    ordered = sorted(validation.left, key=lambda each: -each.rows)
    return [f"{each.rows:,} row{'s' if each.rows > 1 else ''}: {each.reason} (the first: {each.where})" for each in ordered]
