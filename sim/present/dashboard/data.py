"""What the page knows: predictions of every model on every chip as plain data, columns rather than rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from functional.formats import bits_of
from functional.spec import format_shape
from functional.work import Contraction
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim.engines.roofline import Peaks
from sim.explore.sensitivity import Sensitivity, sensitivity_of
from sim.explore.step import Step
from sim.present.dashboard.intervals import timeline_data
from sim.present.dashboard.layout import layer_drawing
from sim.present.dashboard.recipe import LARGEST_BATCH, Recipe, positions, recipe
from sim.present.folded import component_runs, op_rows, run_name
from sim.timeline import LOST, Timeline
from workloads.library import load_model
from workloads.scenario import PHASES, Formats, Phase, Scenario

TORNADO = 12
"""Numbers of the chip in the tornado."""

SENSITIVITY_ENGINE = "roofline"
"""The others map or play the model anew for every changed chip, some hundred of them."""


@dataclass
class _Shared:
    """Recipes that several chips use: those of one model, phase and set of formats."""

    recipes: list[dict[str, Any]] = field(default_factory=list)
    known: dict[Any, tuple[int, Recipe]] = field(default_factory=dict)

    def of(self, step: Step, formats: Formats) -> tuple[int, Recipe]:
        """Index and recipe of a step over the positions of the sliders."""
        key = str(step.model), step.phase, formats.weights, formats.activations, formats.kv
        if key not in self.known:
            self.known[key] = len(self.recipes), _recipe(step, formats)
            self.recipes.append(self.known[key][1].data)
        return self.known[key]


def _recipe(step: Step, formats: Formats) -> Recipe:
    config = load_model(str(step.model))
    batch = np.array(positions(max(LARGEST_BATCH, step.batch), 2, step.batch))[:, None]
    longest = config.max_position_embeddings
    if step.phase == "prefill":
        scenario = Scenario.prefill(formats, batch, np.array(positions(longest, 4, step.prompt_length))[None, :], step.logits)
    else:
        scenario = Scenario.decode(formats, batch, np.array(positions(longest - 1, 4, step.context_length))[None, :], step.logits)
    return recipe(config, scenario, step.fused, step.split)


def page_data(models: Sequence[str], chips: Sequence[Chip], asked: Step, phases: Sequence[Phase] = PHASES) -> dict[str, Any]:
    """Everything but the sweep; `asked` holds the scenario, its model and phase are replaced by each in turn.

    Raises `BadInput` for all that a prediction refuses.
    """
    shared = _Shared()
    cases: list[dict[str, Any]] = []
    for model in models:
        steps = [replace(asked, model=model, phase=phase, _graphs={}) for phase in phases]
        for index, chip in enumerate(chips):
            timed = [_phase(step, chip, shared) for step in steps]
            name = timed[0]["model"]
            taken = any(case["model"] == name and case["chip"] == index for case in cases)
            cases.append({"model": f"{name} ({model})" if taken else name, "chip": index, "phases": timed})
    return {
        "engine": asked.engine,
        "sensitivity_engine": SENSITIVITY_ENGINE,
        "chips": [_chip(chip) for chip in chips],
        "cases": cases,
        "recipes": shared.recipes,
        "lost": list(LOST),
    }


def _phase(step: Step, chip: Chip, shared: _Shared) -> dict[str, Any]:
    timeline = step.timeline(chip)
    graph, scenario, memory = timeline.graph, timeline.graph.scenario, timeline.memory
    index, found = shared.of(step, scenario.formats)
    rough = replace(step, engine=SENSITIVITY_ENGINE)
    inner = "layers.1" if any(op.component == "layers.1" for op in graph.ops) else "layers.0"
    return {
        "model": graph.model,
        "phase": step.phase,
        "batch": int(scenario.batch),
        "length": int(scenario.q_len if step.phase == "prefill" else scenario.context),
        "formats": {name: getattr(scenario.formats, name) for name in ("weights", "activations", "kv")},
        "total_s": timeline.total_s,
        "tokens_per_s": timeline.tokens_per_s,
        "floor_s": timeline.floor_s,
        "bound_shares": timeline.bound_shares,
        "energy_j": timeline.energy_j,
        "energy_by_j": timeline.energy_by_j and dict(timeline.energy_by_j),
        "memory": {
            "weights_bytes": memory.weights_bytes,
            "kv_cache_bytes": memory.kv_cache_bytes,
            "activations_bytes": memory.activations_bytes,
            "capacity_bytes": memory.capacity_bytes,
            "fits": memory.fits,
        },
        "runs": [
            {
                "name": run_name(run),
                "count": len(run),
                "latency_s": sum(each.latency_s for each in run),
                "bound_by": run[0].bound_by,
                "energy_j": _sum([each.energy_j for each in run]),
            }
            for run in component_runs(timeline.components)
        ],
        "rows": _rows(timeline, found),
        "recipe": index,
        "timeline": timeline_data(timeline, inner),
        "graph": layer_drawing(graph, inner),
        "sensitivity": [_tornado(row) for row in sensitivity_of(rough, chip)[:TORNADO] if row.is_felt],
        "sensitivity_s": rough.time(chip).latency_s,
    }


def _rows(timeline: Timeline, found: Recipe) -> dict[str, list[Any]]:
    """Columns of the folded ops. `members` are [class, place in it, how many ops] of the recipe, `ops` the indices in the graph; figures of
    work are those of one op, `latency_s` and `energy_j` are those of all."""
    graph = timeline.graph
    figures = [row for _, row in timeline.rows()]
    columns: dict[str, list[Any]] = {}
    for row in op_rows(timeline):
        first = row.ops[0]
        op, work = graph.ops[first], graph.ops[first].work
        members: dict[tuple[int, int], int] = {}
        for i in row.ops:
            place = found.places[graph.ops[i].name]
            members[place] = members.get(place, 0) + 1
        values = {
            "name": row.name,
            "run": row.run,
            "kind": op.kind,
            "ops": list(row.ops),
            "latency_s": row.latency_s,
            "bound_by": row.bound_by,
            "energy_j": _sum([figures[i]["energy_j"] for i in row.ops]),
            "flops": figures[first]["flops"],
            "macs": int(work.useful_macs) if isinstance(work, Contraction) else 0,
            "issued_macs": figures[first]["issued_macs"],
            "dram_bytes": figures[first]["dram_bytes"],
            "busy_s": figures[first]["busy_s"],
            "lost_s": [figures[first]["lost_s"][cause] for cause in LOST],
            "inputs": " ".join(format_shape(use.spec.shape) for use in op.inputs),
            "output": format_shape(op.output.shape),
            "format": op.output.format,
            "members": [[*place, count] for place, count in members.items()],
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns


def _sum(joules: Sequence[float | None]) -> float | None:
    """None where nothing is known of the chip's energy."""
    known = [each for each in joules if each is not None]
    return sum(known) if len(known) == len(joules) else None


def _tornado(row: Sensitivity) -> list[Any]:
    return [row.path, row.unit, row.value, row.doubled, row.halved]


def _chip(chip: Chip) -> dict[str, Any]:
    """A chip as the roofline sees it, and what the clock moves."""
    peaks = Peaks.of(chip)
    return {
        "name": chip.name,
        "clock_hz": float(chip.clock_hz),
        "cores": int(chip.cores),
        "macs_per_s": {name: float(rate) for name, rate in peaks.macs_per_s.items()},
        "rates": {name: float(rate) for name, rate in chip.matrix.rates.items()},
        "primitive_s": {name: float(seconds) for name, seconds in peaks.primitive_s.items()},
        "accumulate_bits": {name: bits_of(wide) for name, wide in chip.matrix.accumulate.items()},
        "resident_bytes": float(peaks.resident_bytes),
        "levels": [
            {
                "name": level.name,
                "read": float(read),
                "write": float(write),
                "shared": level.bandwidth.shared,
                "per_cycle": level.bandwidth.per_cycle,
                "holds": sorted(level.holds),
                "capacity_bytes": float(chip.capacity_bytes(level)),
                "stated": float(value_of(chip, f"memory.{level.name}.bandwidth")),
            }
            for level, read, write in peaks.levels
        ],
    }
