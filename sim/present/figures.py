"""Predictions as plotly figures, for notebooks and papers. Colours are Okabe and Ito's; symbols say the same once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from functional.errors import BadInput, Problem
from functional.work import flops
from hwmodels import load_chip
from hwmodels.chip import Chip
from hwmodels.units import format_bandwidth, format_rate, format_seconds
from sim.explore.extras import needed
from sim.present.folded import component_runs, op_rows, run_name
from sim.timeline import Timeline

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8A8A8A"

KINDS = {
    "Linear": (BLUE, "circle"),
    "MatMul": (VERMILLION, "square"),
    "ReduceMax": (ORANGE, "triangle-up"),
    "ElementwiseExp": (ORANGE, "triangle-down"),
    "Normalize": (ORANGE, "triangle-left"),
    "RMSNorm": (GREEN, "diamond"),
    "SiLU": (PURPLE, "pentagon"),
    "Mul": (PURPLE, "x"),
    "Add": (PURPLE, "cross"),
    "RoPE": (SKY, "star"),
    "RoPETable": (SKY, "hexagram"),
}
"""Colour and symbol of each kind of op; others are grey."""

BOUNDS = {"matrix": (VERMILLION, ""), "vector": (SKY, "/"), "dram": (BLUE, "."), "launch": (GREY, "x")}
"""Colour and pattern of what binds; others are green."""

WORK = {"compute": VERMILLION, "read": BLUE, "write": GREEN, "move": SKY, "launch": GREY, "stall": "#F0E442"}


def roofline_figure(timelines: Timeline | Sequence[Timeline], chip: str | Path | Chip) -> Figure:
    """Ops as points under the roofs of a chip: x in FLOP per byte of DRAM, y in FLOP/s, area the share of the time; decode is open.

    Ops without a FLOP or without a byte of DRAM have no place on these axes and are left out. Raises `BadInput`: no plotly, no such chip.
    """
    graph_objects = _graph_objects()
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    steps = [timelines] if isinstance(timelines, Timeline) else list(timelines)
    figure = graph_objects.Figure()
    points = [point for step in steps for point in _points(step)]
    if not points:
        raise BadInput(Problem("no op with both FLOPs and DRAM bytes", "give a timeline of a whole step"))
    least = min(x for _, _, _, x, _, _ in points)
    for trace in _roofs(built, min(least, 1.0) / 2, max(x for _, _, _, x, _, _ in points) * 4):
        figure.add_trace(graph_objects.Scatter(**trace))
    for kind in dict.fromkeys(kind for _, kind, *_ in points):
        own = [point for point in points if point[1] == kind]
        color, symbol = KINDS.get(kind, (GREY, "hexagon"))
        figure.add_trace(
            graph_objects.Scatter(
                name=kind,
                mode="markers",
                x=[x for _, _, _, x, _, _ in own],
                y=[y for _, _, _, _, y, _ in own],
                text=[text for text, *_ in own],
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "color": color,
                    "symbol": [symbol + ("-open" if phase == "decode" else "") for _, _, phase, *_ in own],
                    "size": [8 + 36 * share**0.5 for *_, share in own],
                },
            )
        )
    title = f"{_plain(steps[0].graph.model)} on {_plain(built.name)}, {steps[0].engine} engine"
    for phase, symbol in (("prefill", "circle"), ("decode", "circle-open")):
        if any(step.phase == phase for step in steps):
            marker = {"symbol": symbol, "size": 9, "color": "black", "line": {"width": 2}}
            figure.add_trace(graph_objects.Scatter(name=phase, mode="markers", x=[None], y=[None], marker=marker))
    axes = {"xaxis": "operational intensity [FLOP per byte of DRAM]", "yaxis": "attained rate [FLOP/s]"}
    scale = {"type": "log", "dtick": 1, "exponentformat": "SI"}
    figure.update_layout(
        title={"text": title},
        legend={"itemsizing": "constant", "tracegroupgap": 0, "font": {"size": 10}},
        **{name: {**scale, "title": {"text": text}} for name, text in axes.items()},
    )
    return figure


def _points(timeline: Timeline) -> list[tuple[str, str, str, float, float, float]]:
    """(text, kind, phase, FLOP per byte, FLOP/s, share) of each folded op that has both."""
    points = []
    for row in op_rows(timeline):
        i, op = row.ops[0], timeline.graph.ops[row.ops[0]]
        work, moved = float(flops(op.work)), float(timeline.dram_bytes[i])
        # Ops of a group run at the same time: what the own unit takes, where that is more than the share of the group's latency.
        spent_s = max(row.latency_s / len(row.ops), float(timeline.busy_s[i]))
        if work and moved and spent_s:
            share = row.latency_s / timeline.total_s
            text = f"{_plain(row.name)}, {timeline.phase}<br>{format_seconds(row.latency_s)}, {share:.1%}, bound by {_plain(row.bound_by)}"
            points.append((text, op.kind, timeline.phase, work / moved, work / spent_s, share))
    return points


def _roofs(chip: Chip, left: float, right: float) -> list[dict[str, Any]]:
    """Lines of each memory level and of each format's peak; x from `left` to `right`."""
    peaks = {name: 2 * float(chip.peak_macs_per_s(name)) for name in chip.formats}
    rates = {level.name: float(chip.read_bytes_per_s(level)) for level in chip.memory}
    top = max(peaks.values())
    line = {"mode": "lines", "legendgroup": "roofs"}
    slopes = [
        {**line, "name": f"{_plain(name)} {format_bandwidth(rate)}", "x": [left, top / rate], "y": [left * rate, top]}
        for name, rate in rates.items()
    ]
    flats = [
        {**line, "name": f"{name} {format_rate(peak, 'FLOP/s')}", "x": [peak / max(rates.values()), right], "y": [peak, peak]}
        for name, peak in peaks.items()
    ]
    dashes = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
    return [{**each, "line": {"color": GREY, "dash": dashes[i % len(dashes)]}} for i, each in enumerate([*slopes, *flats])]


def breakdown_figure(timeline: Timeline) -> Figure:
    """Where the time goes, as an icicle: the step, its components (alike layers as one), their ops; coloured by what binds them."""
    graph_objects = _graph_objects()
    runs = component_runs(timeline.components)
    root = f"{timeline.phase} {format_seconds(timeline.total_s)}"
    ids, labels, parents, values, bounds = ["step"], [root], [""], [timeline.total_s], [""]
    for i, run in enumerate(runs):
        ids.append(f"run {i}")
        labels.append(_plain(run_name(run)))
        parents.append("step")
        values.append(sum(component.latency_s for component in run))
        bounds.append(run[0].bound_by)
    for k, row in enumerate(op_rows(timeline)):
        if row.name != run_name(runs[row.run]):
            ids.append(f"op {k}")
            labels.append(_plain(row.name.removeprefix("layers.*.")))
            parents.append(f"run {row.run}")
            values.append(row.latency_s)
            bounds.append(row.bound_by)
    styles = [BOUNDS.get(bound, (GREEN, "\\")) if bound else ("#dddddd", "") for bound in bounds]
    icicle = graph_objects.Icicle(
        ids=ids,
        labels=labels,
        parents=parents,
        values=values,
        branchvalues="total",
        sort=False,
        text=[f"bound by {_plain(bound)}" if bound else "" for bound in bounds],
        texttemplate="%{label}  %{percentRoot:.1%}",
        hovertemplate="%{label}<br>%{value:.4s}s, %{percentRoot:.1%}<br>%{text}<extra></extra>",
        marker={
            "colors": [_tint(color) for color, _ in styles],
            "pattern": {"shape": [shape for _, shape in styles], "fgcolor": [color for color, _ in styles], "solidity": 0.1},
        },
        textfont={"color": "black"},
        leaf={"opacity": 1},
        tiling={"orientation": "h"},
    )
    figure = graph_objects.Figure(icicle)
    figure.update_layout(title={"text": _title(timeline)}, uniformtext={"minsize": 9, "mode": "hide"}, margin={"l": 20, "r": 20, "b": 20})
    return figure


def timeline_figure(timeline: Timeline, component: str | None = None) -> Figure:
    """When each resource was busy, group by group; with `component` (`layers.3`) tile by tile, which the cycle engine knows.

    Raises `BadInput`: no plotly, an unknown component, an engine that plays no tiles.
    """
    graph_objects = _graph_objects()
    found = timeline.intervals if component is None else timeline.tile_intervals(component)
    first_op = np.searchsorted(timeline.group, np.arange(int(timeline.group.max()) + 1))
    ops = np.where(found.op >= 0, found.op, first_op[found.group])
    figure = graph_objects.Figure()
    for what, cause in sorted({*zip(found.what.tolist(), found.cause.tolist(), strict=True)}):
        own = np.flatnonzero((found.what == what) & (found.cause == cause))
        kind = found.kinds[what]
        figure.add_trace(
            graph_objects.Bar(
                name=kind if cause < 0 else f"waits for {found.causes[cause]}",
                orientation="h",
                y=[found.resources[i] for i in found.resource[own].tolist()],
                base=found.start_s[own],
                x=(found.end_s - found.start_s)[own],
                text=[_plain(timeline.graph.ops[i].name) for i in ops[own].tolist()],
                textposition="none",
                hovertemplate="%{text}<br>%{base:.6s}s + %{x:.4s}s<extra>%{fullData.name}</extra>",
                marker={"color": WORK[kind], "line": {"width": 0}, "pattern": {"shape": "/" if kind == "stall" else ""}},
            )
        )
    figure.update_layout(
        barmode="overlay",
        title={"text": _title(timeline)},
        xaxis={"title": {"text": "time since the start of the step [s]"}, "tickformat": "~s", "ticksuffix": "s"},
        yaxis={"autorange": "reversed", "categoryorder": "array", "categoryarray": list(found.resources)},
    )
    return figure


def _tint(color: str) -> str:
    """A colour half way to white, on which black text is read."""
    return "#" + "".join(f"{(int(color[i : i + 2], 16) + 255) // 2:02x}" for i in (1, 3, 5))


def _title(timeline: Timeline) -> str:
    total = format_seconds(timeline.total_s)
    return f"{_plain(timeline.graph.model)} on {_plain(timeline.chip)}: {timeline.phase} {total}, {timeline.engine} engine"


def _plain(name: str) -> str:
    """Plotly reads a few tags in its texts; a name is text."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _graph_objects() -> Any:
    return needed("plotly.graph_objects", "figures", "plots")
