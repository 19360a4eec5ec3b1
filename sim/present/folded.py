"""Alike layers and their ops as one row: how predictions are listed, whatever draws them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.timeline import Component, Timeline

ALIKE = 1e-9
"""Layers whose latencies differ by less, relatively, share a row."""

_LAYER = re.compile(r"^layers\.\d+\.")


def component_runs(components: Iterable[Component]) -> list[list[Component]]:
    """Components in order; neighbouring layers that are alike are one run."""
    runs: list[list[Component]] = []
    for component in components:
        if runs and _alike(runs[-1][0], component):
            runs[-1].append(component)
        else:
            runs.append([component])
    return runs


def run_name(run: Sequence[Component]) -> str:
    """`layers.0 ... layers.15`."""
    return run[0].name if len(run) == 1 else f"{run[0].name} ... {run[-1].name}"


def folded_name(op: str) -> str:
    """`layers.*.mlp.up_proj` for the op of any layer."""
    return _LAYER.sub("layers.*.", op)


@dataclass(frozen=True, slots=True)
class OpRow:
    """Alike ops of one run of components: `ops` are their indices in the graph, `latency_s` is that of all of them."""

    run: int
    name: str
    ops: tuple[int, ...]
    latency_s: float
    bound_by: str


def op_rows(timeline: Timeline) -> list[OpRow]:
    """Every op of a step, those of alike layers together, in the order of the graph."""
    run_of = {component.name: i for i, run in enumerate(component_runs(timeline.components)) for component in run}
    members: dict[tuple[int, str, str], list[int]] = {}
    for i, (op, bound) in enumerate(zip(timeline.graph.ops, timeline.bound_by, strict=True)):
        members.setdefault((run_of[op.component], folded_name(op.name), bound), []).append(i)
    return [
        OpRow(run, name, tuple(ops), float(timeline.latency_s[ops].sum()), bound) for (run, name, bound), ops in members.items()
    ]


def _alike(a: Component, b: Component) -> bool:
    stack, other = (part.name.rpartition(".")[0] for part in (a, b))  # `layers`, or `draft.layers`
    layers = stack.endswith("layers") and stack == other
    return layers and a.bound_by == b.bound_by and abs(a.latency_s - b.latency_s) <= ALIKE * a.latency_s
