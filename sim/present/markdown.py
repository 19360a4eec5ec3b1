"""The tables of the terminal as Markdown, for papers and issues, and plain rows as CSV, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def markdown(parts: Sequence[RenderableType]) -> str:
    """Tables as pipe tables with their title above, all else as paragraphs; names are escaped."""
    blocks = []
    for part in parts:
        if isinstance(part, Table):
            if part.title:
                blocks.append(f"**{_cell(str(part.title))}**")
            blocks.append(_pipe_table(part))
        else:
            text = part.plain if isinstance(part, Text) else str(part)
            blocks += ["  \n".join(_cell(line) for line in text.strip().splitlines())] if text.strip() else []
    return "\n\n".join(blocks)


def _pipe_table(table: Table) -> str:
    """Columns that the terminal aligns right are aligned right."""
    heads = [_cell(str(column.header)) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*([_cell(str(cell)) for cell in column.cells] for column in table.columns), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing but text."""
    for sign in "\\`*_{}[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def rows_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Plain rows under the names of the JSON output; the entries of a list take a column each, numbered from 1."""
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield from _flat({f"{name}.{i}": each for i, each in enumerate(value, start=1)}, prefix)
        else:
            yield f"{prefix}{name}", value
