"""A validation as one self-contained page: predicted against measured, op by op, and the table of errors."""

from __future__ import annotations

from html import escape
from typing import Any

from functional.errors import BadInput, Problem
from hwmodels.units import format_seconds
from sim.evidence.validate import Comparison, Validation
from sim.present.evidence_tables import counts, percent_cells

_STYLE = "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:2px 12px;text-align:right}"
_STYLE += "td:nth-child(-n+4),th:nth-child(-n+4){text-align:left}pre{white-space:pre-wrap}"
_HEIGHT = 460


def validation_html(validation: Validation) -> str:
    """The page; raises `BadInput` where plotly is missing. Names come from the user's tables: they are escaped."""
    figures = [_figure(op, engine, each) for (op, engine), each in _by_op(validation).items()]
    scripts = [figure.to_html(full_html=False, include_plotlyjs=(i == 0)) for i, figure in enumerate(figures)]
    head = f'<meta charset="utf-8"><title>Predicted against measured</title><style>{_STYLE}</style>'
    body = "\n".join(["<h1>Predicted against measured</h1>", f"<pre>{escape(counts(validation))}</pre>", _table(validation), *scripts])
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n{body}\n</body></html>"


def _by_op(validation: Validation) -> dict[tuple[str, str], list[Comparison]]:
    """Comparisons of each op and engine, sorted."""
    by_op: dict[tuple[str, str], list[Comparison]] = {}
    for each in validation.comparisons:
        by_op.setdefault((each.case.op, each.engine), []).append(each)
    return {key: by_op[key] for key in sorted(by_op)}


def _table(validation: Validation) -> str:
    columns = ("hardware", "op", "regime", "engine", "rows", "median of |error|, %", "90 % below, %", "median of error, %")
    rows = ["".join(f"<th>{name}</th>" for name in columns)]
    for group in validation.groups:
        figures = group.to_dict()
        percents = percent_cells(*(figures[name] for name in ("median_abs_pct", "p90_abs_pct", "median_signed_pct")))
        cells = (group.hardware, group.op, group.regime, group.engine, f"{figures['n']:,}", *percents)
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _figure(op: str, engine: str, comparisons: list[Comparison]) -> Any:
    """Log-log scatter of one op, a colour per hardware; on the line, predicted equals measured."""
    try:
        from plotly import graph_objects
    except ImportError as why:
        raise BadInput(Problem("plotly is missing", "install the extra: pip install 'rooftile[plots]'")) from why

    by_hardware: dict[str, list[Comparison]] = {}
    for each in comparisons:
        by_hardware.setdefault(each.case.row.text("hardware"), []).append(each)
    all_us = [1e6 * seconds for each in comparisons for seconds in (each.case.measured_s, each.predicted_s)]
    ends = [min(all_us) / 1.5, max(all_us) * 1.5]  # a line also where there is one point
    figure = graph_objects.Figure()
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "grey", "dash": "dot"}, name="equal", hoverinfo="skip")
    for hardware, ours in sorted(by_hardware.items()):
        figure.add_scatter(
            x=[1e6 * each.case.measured_s for each in ours],
            y=[1e6 * each.predicted_s for each in ours],
            mode="markers",
            marker={"size": 5},
            name=escape(hardware),
            text=[_hover(each) for each in ours],
            hovertemplate="%{text}<extra></extra>",
        )
    title = f"{escape(op)}, {escape(engine)} engine"
    figure.update_layout(title={"text": title}, height=_HEIGHT, xaxis={"title": {"text": "measured [us]"}, "type": "log"})
    figure.update_layout(yaxis={"title": {"text": "predicted [us]"}, "type": "log"})
    return figure


def _hover(comparison: Comparison) -> str:
    """The row, as it is told on hovering."""
    case = comparison.case
    times = f"measured {format_seconds(case.measured_s)}, predicted {format_seconds(comparison.predicted_s)} ({comparison.error:+.1%})"
    cells = ", ".join(f"{name} {value}" for name, value in case.row.cells.items() if value and name not in ("source", "notes"))
    return "<br>".join(map(escape, (case.row.where, cells, times)))
