"""The intervals of a timeline for the page: all groups of the step; every tile of one layer and lm_head, if the engine plays tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from sim.intervals import CAUSES, KINDS, Intervals
from sim.present.dashboard.packed import packed
from sim.present.folded import op_rows
from sim.timeline import Timeline

MOST_TILES = 5_000
"""Intervals that the page keeps of each group, from its start on; what comes later is left out, and the page says so."""


def timeline_data(timeline: Timeline, layer: str) -> dict[str, Any]:
    """`groups`: one interval per group and resource; `tiles`: those of `layer` and lm_head. Raises `BadInput` if an engine keeps none."""
    groups = timeline.intervals
    if not len(groups):
        raise BadInput(Problem(f"engine {timeline.engine} leaves no timeline", "choose roofline, tiled or cycle", path="--engine"))
    rows = _row_of(timeline)
    plays = all(schedule.tiles is not None for schedule in timeline.schedules)  # cycle
    tiles = {name: timeline.tile_intervals(name) for name in (layer, "lm_head")} if plays else {}
    return {
        "resources": list(groups.resources),
        "kinds": list(KINDS),
        "causes": list(CAUSES),
        "groups": _columns(groups, rows, 0.0, len(groups)),
        "tiles": {name: _columns(found, rows, float(found.start_s.min()), MOST_TILES) for name, found in tiles.items()},
    }


def _row_of(timeline: Timeline) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The folded row of each op, and of the dearest op of each group."""
    of_op = np.zeros(len(timeline.graph.ops), np.int64)
    for i, row in enumerate(op_rows(timeline)):
        of_op[list(row.ops)] = i
    order = np.lexsort((timeline.latency_s, timeline.group))  # the last of each group is its dearest
    last = np.searchsorted(timeline.group[order], np.arange(timeline.group.max() + 1), side="right") - 1
    return of_op, of_op[order[last]]


def _by_group(found: Intervals) -> list[NDArray[np.int64]]:
    """Indices of the intervals of each group; they are ordered by group."""
    return np.split(np.arange(len(found)), np.flatnonzero(np.diff(found.group)) + 1)


def _first(starts_s: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Indices of the first of some millions, in order; equals stay as they are."""
    near = np.arange(len(starts_s))
    if len(starts_s) > most:
        near = np.flatnonzero(starts_s <= np.partition(starts_s, most)[most])
    order: NDArray[np.int64] = near[np.argsort(starts_s[near], kind="stable")[:most]]
    return order


def _columns(found: Intervals, rows: tuple[NDArray[np.int64], NDArray[np.int64]], origin_s: float, most: int) -> dict[str, Any]:
    """Times in seconds from `origin_s`, in 32 bits: a part in 10^7 of the component, or 64 for the whole step."""
    order = np.concatenate([each[_first(found.start_s[each], most)] for each in _by_group(found)])
    of_op, of_group = rows
    row = np.where(found.op >= 0, of_op[found.op], of_group[found.group])
    times = "f4" if origin_s else "f8"
    return {
        "origin_s": origin_s,
        "left_out": len(found) - len(order),
        "start_s": packed(found.start_s[order] - origin_s, times),
        "end_s": packed(found.end_s[order] - origin_s, times),
        "resource": packed(found.resource[order], "u1"),
        "what": packed(found.what[order], "u1"),
        "cause": packed(found.cause[order], "i1"),
        "row": packed(row[order], "u2"),
        "bytes": packed(found.bytes[order], "f4"),
        "busy_s": packed(found.busy_s[order], "f4"),
    }
