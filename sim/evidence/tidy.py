"""Tidy tables of measurements: CSV files with one measurement per row and `#` lines that say where they come from.

Three kinds of rows: one op (`op`, `latency_us`, or of products `utilisation_pct`, the share of the chip's peak MAC rate), a composed layer
(`layer_sum_us`, `lm_head_est_us`), and a whole model (`tokens_per_s`). One file may mix the first and the last: what a row is follows from
the cells that it fills.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from functional.errors import BadInput, Problem

MEASURED = ("latency_us", "utilisation_pct", "layer_sum_us", "tokens_per_s")
"""Columns of which a table has at least one."""

_SLOW = re.compile(r"machine at [0-9]+ % of its best rate")

_SHOWN = 10
"""Mistakes of one file that are told one by one."""


class CellError(ValueError):
    """A cell that cannot be what it should be."""

    def __init__(self, column: str, message: str, cure: str) -> None:
        self.column, self.message, self.cure = column, message, cure
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: where it stands, and its cells by column, stripped."""

    file: str
    line: int
    cells: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str:
        """The cell, or an empty text where the table has no such column."""
        return self.cells.get(column, "")

    def whole(self, column: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least` (`4096` or `4096.0`); `default` for an empty cell; raises `CellError`."""
        text = self.text(column)
        if not text and default is not None:
            return default
        value = _number(column, text)
        if value != int(value) or value < least:
            raise CellError(column, f"expected a whole number of at least {least}, found '{text}'", "")
        return int(value)

    def positive(self, column: str) -> float:
        """A finite number above 0; raises `CellError`."""
        text = self.text(column)
        value = _number(column, text)
        if value <= 0:
            raise CellError(column, f"must be greater than 0, found '{text}'", "")
        return value


def slow_note(rate: float) -> str:
    """What the notes of a row say that was timed while its machine ran at this share of its best rate."""
    return f"machine at {100 * rate:.0f} % of its best rate"


def is_slow(row: Row) -> bool:
    """Whether its notes say so."""
    return _SLOW.search(row.text("notes")) is not None


def _number(column: str, text: str) -> float:
    if not text:
        raise CellError(column, "the cell is empty", "this kind of row needs it")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CellError(column, f"expected a number, found '{text}'", "")
    return value


def read_tidy(path: str | Path) -> list[Row]:
    """The rows of one table. Raises `BadInput`: a file that cannot be read, missing columns, a row of another width than the header."""
    file = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadInput(Problem(f"cannot read: {why}", "give a CSV file of measurements", file)) from error
    lines = list(_lines(text))
    if not lines:
        raise BadInput(Problem("no header", "the first line that is no comment names the columns", file, 1))
    (header_line, header), *body = lines
    columns = [name.strip() for name in header]
    if len(columns) == 1 and (separator := next((each for each in ";\t|" if each in columns[0]), None)):
        raise BadInput(Problem(f"one column, with {separator!r} in its name", "separate the columns by commas", file, header_line))
    _check_columns(columns, file, header_line)
    problems = [
        Problem(f"{len(cells)} cells under {len(columns)} columns", "quote cells that hold a comma", file, line)
        for line, cells in body
        if len(cells) != len(columns)
    ]
    raise_all(problems)
    if not body:
        raise BadInput(Problem("no row under the header", "each further line is one measurement", file, header_line))
    return [Row(file, line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))) for line, cells in body]


def read_tables(paths: Iterable[str | Path]) -> list[Row]:
    """The rows of several tables, in order. Raises `BadInput` as `read_tidy`, and for a file that would be counted twice."""
    rows: list[Row] = []
    seen: set[Path] = set()
    for path in paths:
        place = Path(path).resolve()
        if place in seen:
            raise BadInput(Problem("is given twice", "its rows would count twice; give it once", str(path)))
        seen.add(place)
        rows += read_tidy(path)
    return rows


def comments_of(path: str | Path) -> str:
    """What the `#` lines before the header say: where the rows come from, and under which conditions."""
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    return "\n".join(line.lstrip("#").strip() for line in takewhile(lambda line: not line.strip() or line.startswith("#"), lines)).strip()


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Cells of each line that is neither empty nor a comment, with its number; a quoted cell may go on in the next line."""
    numbered = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    reader = csv.reader([line for _, line in numbered])
    read = 0
    for cells in reader:
        yield numbered[read][0], cells
        read = reader.line_num


def _check_columns(columns: Sequence[str], file: str, line: int) -> None:
    problems = []
    if "hardware" not in columns:
        problems.append(Problem("no column 'hardware'", "it names the chip, e.g. A100-SXM4-80GB", file, line))
    if not set(MEASURED) & set(columns):
        message = f"no column of measurements ({', '.join(MEASURED)})"
        problems.append(Problem(message, "latency_us for rows of one op, tokens_per_s for rows of a whole model", file, line))
    for measured in ("latency_us", "utilisation_pct"):
        if measured in columns and "op" not in columns:
            problems.append(Problem("no column 'op'", f"it says what {measured} measures, e.g. gemm", file, line))
    doubled = sorted({name for name in columns if name and columns.count(name) > 1})
    problems += [Problem(f"two columns are called '{name}'", "rename one", file, line) for name in doubled]
    raise_all(problems)


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise `BadInput` if there are problems; the first ones are told one by one, the rest counted."""
    if len(problems) > _SHOWN:
        more = Problem(f"and {len(problems) - _SHOWN} more like these", file=problems[0].file)
        problems = [*problems[:_SHOWN], more]
    if problems:
        raise BadInput(problems)


def cell_problem(row: Row, error: CellError) -> Problem:
    """The message for a cell, with file and line."""
    return Problem(error.message, error.cure, row.file, row.line, error.column)
