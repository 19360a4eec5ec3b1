"""Predictions as JSON and CSV, and sentences about them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwmodels.units import format_bytes
from sim.timeline import LOST, Memory, Timeline


def predictions_json(timelines: Sequence[Timeline], more: Sequence[Mapping[str, Any]] = ()) -> str:
    """The promised list, one object per phase; `more` holds further keys for each."""
    further = more or [{}] * len(timelines)
    return json.dumps([{**timeline.to_dict(), **keys} for timeline, keys in zip(timelines, further, strict=True)], indent=1)


def predictions_csv(timelines: Sequence[Timeline]) -> str:
    """One row per op and phase, under the JSON names; `lost_s` takes one column per cause."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for timeline in timelines:
        for i, (_, row) in enumerate(timeline.rows()):
            lost = row.pop("lost_s")
            if i == 0 and timeline is timelines[0]:
                writer.writerow(["phase", *row, *(f"lost_{cause}_s" for cause in LOST)])
            writer.writerow([timeline.phase, *row.values(), *lost.values()])
    return buffer.getvalue()


def does_not_fit(timeline: Timeline) -> str:
    """The warning for a step that needs more memory than there is."""
    return memory_warning(f"{timeline.graph.model} {timeline.phase}", timeline.chip, timeline.memory)


def memory_warning(what: str, chip: str, memory: Memory) -> str:
    """The warning for whatever needs more memory than there is."""
    return (
        f"{what} does not fit {chip}: it needs {format_bytes(memory.needed_bytes)} "
        f"(weights {format_bytes(memory.weights_bytes)}, KV cache {format_bytes(memory.kv_cache_bytes)}, "
        f"activations {format_bytes(memory.activations_bytes)}) of {format_bytes(memory.capacity_bytes)}; predicted as if it did"
    )


def step_warnings(timeline: Timeline, tdp_w: float | None) -> Iterator[str]:
    """What a step is warned about: memory that is not there, and more power than the chip's TDP [W]."""
    if not timeline.memory.fits:
        yield does_not_fit(timeline)
    if timeline.power_w is not None and tdp_w is not None and timeline.power_w > tdp_w:
        yield above_tdp(f"{timeline.graph.model} {timeline.phase}", timeline.power_w, timeline.chip, tdp_w)


def above_tdp(what: str, power_w: float, chip: str, tdp_w: float) -> str:
    """The warning for a step or a generation that takes more power than the chip is built for."""
    return (
        f"{what} takes {power_w:.4g} W on {chip}, more than its TDP of {tdp_w:g} W; "
        "its clock would be lowered, which this prediction leaves out"
    )
