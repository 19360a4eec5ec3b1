"""A validation as one self-contained page: predicted against measured, op by op, and the table of errors; in the dashboard's two themes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hwmodels.units import format_seconds
from sim.evidence.tidy import comments_of
from sim.evidence.validate import Comparison, Validation
from sim.present.dashboard.page import document
from sim.present.dashboard.plotly import plotly_js
from sim.present.evidence_tables import PUBLISHED, PUBLISHED_COLUMNS, counts, percent_cells, published_row, remarks

TITLE = "Predicted against measured"


def validation_html(validation: Validation, is_published: bool = False) -> str:
    """The page; of published figures also every row by itself, with what its table remarks. Raises `BadInput` where plotly is missing.
    Names come from the user's tables: they are escaped, also in the data, for Plotly reads tags in its texts."""
    by_op = _by_op(validation)
    boards = sorted({each.case.row.text("hardware") for each in validation.comparisons})
    figures = [_figure(comparisons, boards) for comparisons in by_op.values()]
    views = "\n".join(_view(k, *key) for k, key in enumerate(by_op))
    more = {
        "title": TITLE,
        "counts": escape(counts(validation)),
        "table": _errors(validation),
        "published": _published(validation) if is_published else "",
        "views": views,
        "sources": _sources(validation),
    }
    return document("validation.html", ("common.js", "validation.js"), {"figures": figures}, plotly_js(()), more)


def _by_op(validation: Validation) -> dict[tuple[str, str], list[Comparison]]:
    """Comparisons of each op and engine, sorted."""
    by_op: dict[tuple[str, str], list[Comparison]] = {}
    for each in validation.comparisons:
        by_op.setdefault((each.case.op, each.engine), []).append(each)
    return {key: by_op[key] for key in sorted(by_op)}


def _errors(validation: Validation) -> str:
    columns = ("hardware", "op", "regime", "engine", "rows", "median of |error|, %", "90 % below, %", "median of error, %")
    rows = []
    for group in validation.groups:
        figures = group.to_dict()
        percents = percent_cells(*(figures[name] for name in ("median_abs_pct", "p90_abs_pct", "median_signed_pct")))
        rows.append((group.hardware, group.op, group.regime, group.engine, f"{figures['n']:,}", *percents))
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Head and body of a table."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"


def _published(validation: Validation) -> str:
    """Every row by itself, and what its table remarks on it."""
    notes = "".join(f"<li>{escape(line)}</li>" for line in remarks(validation))
    return f"""  <section class="view" aria-labelledby="published-title">
    <div class="head"><h2 id="published-title">{escape(PUBLISHED.capitalize())}</h2></div>
    <div class="scroll"><table id="published">{_table(PUBLISHED_COLUMNS, map(published_row, validation.comparisons))}</table></div>
    <ul class="note" id="remarks">{notes}</ul>
  </section>"""


def _sources(validation: Validation) -> str:
    """What each table says of where its rows come from."""
    said = {Path(table).name: comments_of(table) for table in validation.tables}
    parts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in said.items() if text)
    if not parts:
        return ""
    return f"""  <section class="view" aria-labelledby="sources-title">
    <div class="head"><h2 id="sources-title">Where the figures come from</h2></div>
    <dl id="sources">{parts}</dl>
  </section>"""


def _view(k: int, op: str, engine: str) -> str:
    """The place of one figure."""
    op, engine = escape(op), escape(engine)
    return f"""  <section class="view" aria-labelledby="title-{k}">
    <div class="head"><h2 id="title-{k}">{op}, {engine} engine</h2>
      <span class="save" data-figure="figure-{k}" data-name="{op}-{engine}"></span></div>
    <div class="figure tall" id="figure-{k}" role="img" aria-label="Predicted against measured times of {op}"></div>
  </section>"""


def _figure(comparisons: list[Comparison], boards: list[str]) -> dict[str, Any]:
    """Points by hardware, whose place among all `boards` chooses its colour, and the ends [s] of both axes."""
    by_board: dict[str, list[Comparison]] = {}
    for each in comparisons:
        by_board.setdefault(each.case.row.text("hardware"), []).append(each)
    all_s = [seconds for each in comparisons for seconds in (each.case.measured_s, each.predicted_s)]
    points = [
        {
            "name": escape(board),
            "index": boards.index(board),
            "measured_s": [each.case.measured_s for each in ours],
            "predicted_s": [each.predicted_s for each in ours],
            "text": [_hover(each) for each in ours],
        }
        for board, ours in sorted(by_board.items())
    ]
    return {"points": points, "low": min(all_s) / 1.5, "high": max(all_s) * 1.5}  # a line also where there is one point


def _hover(comparison: Comparison) -> str:
    """The row, as it is told on hovering."""
    case = comparison.case
    times = f"measured {format_seconds(case.measured_s)}, predicted {format_seconds(comparison.predicted_s)} ({comparison.error:+.1%})"
    cells = ", ".join(f"{name} {value}" for name, value in case.row.cells.items() if value and name not in ("source", "notes"))
    return "<br>".join(map(escape, (case.row.where, cells, times)))
