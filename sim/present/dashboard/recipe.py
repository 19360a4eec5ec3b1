"""What the page needs to compute a roofline by itself: the loads of a step as exact functions of batch and length.

The step is traced once over a grid of batches and lengths; the sliders of the page stand on its positions. Every number of a load is linear
in the batch, most often a polynomial in the length. What holds on the whole grid is written as coefficients, all else as a table, so that
the page has the very numbers of `roofline_grid` at every position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.config import ModelConfig
from functional.spec import Dim
from functional.work import flops
from workloads.demand import Load, demand
from workloads.scenario import Scenario
from workloads.split import split
from workloads.trace import trace

LARGEST_BATCH = 256
"""Last position of the batch's slider, unless a larger batch is asked for."""

Ints = NDArray[np.int64]


def positions(last: int, per_octave: int, asked: int) -> list[int]:
    """Whole numbers from 1 to `last`, `per_octave` of them evenly spread over each doubling, and the one that was asked for."""
    steps = {
        power + power * part // per_octave
        for power in (2**exponent for exponent in range(last.bit_length()))
        for part in range(per_octave)
        if power * part % per_octave == 0
    }
    return sorted({asked, *(step for step in steps if step <= last)})


class _Quantities:
    """Numbers over the grid [batches, lengths], each distinct one kept once."""

    def __init__(self, batches: Ints, lengths: Ints) -> None:
        self.batches, self.lengths = batches, lengths
        self.shape = len(batches), len(lengths)
        self.written: list[Any] = []
        self._index: dict[Any, int] = {}
        self._known: dict[int, tuple[Any, int]] = {}  # by identity; the object is kept so that none takes its place

    def add(self, value: Any) -> int:
        """The index of a number: an integer, or an array that broadcasts to the grid."""
        if isinstance(value, int):
            return self._add((value, 0, 0, 0, 0, 0))
        if id(value) not in self._known:
            table = np.broadcast_to(np.asarray(value), self.shape)
            self._known[id(value)] = value, self._add(_described(table, self.batches, self.lengths))
        return self._known[id(value)][1]

    def _add(self, described: tuple[Any, ...]) -> int:
        index = self._index.setdefault(described, len(self.written))
        if index == len(self.written):
            self.written.append(described)
        return index


def _described(table: NDArray[Any], batches: Ints, lengths: Ints) -> tuple[Any, ...]:
    """`f(length) + batch x g(length)`: six coefficients (of f, then of g), or the values of f and of g, or the whole table."""
    if len(batches) > 1:
        slope = (table[1] - table[0]) // (batches[1] - batches[0])
    else:
        slope = np.zeros_like(table[0])
    start = table[0] - batches[0] * slope
    if not np.array_equal(start + batches[:, None] * slope, table):
        return "table", *map(tuple, table.tolist())
    parts = _polynomial(start, lengths), _polynomial(slope, lengths)
    if parts[0] is not None and parts[1] is not None:
        return *parts[0], *parts[1]
    return "linear", tuple(start.tolist()), tuple(slope.tolist())


def _polynomial(values: Ints, lengths: Ints) -> tuple[float, float, float] | None:
    """Coefficients of 1, x and x^2 if the values are such a polynomial at every length and the page can compute it exactly, else None.

    Newton's divided differences of three lengths, as whole numbers over `common`.
    """
    if (values == values[0]).all():
        return float(values[0]), 0.0, 0.0
    if len(lengths) < 3:
        return None
    at = (0, len(lengths) // 2, len(lengths) - 1)
    x, y, z = (int(lengths[i]) for i in at)
    p, q, r = (int(values[i]) for i in at)
    two = (r - q) * (y - x) - (q - p) * (z - y)
    one = (q - p) * (z - x) * (z - y) - two * (x + y)
    common = (y - x) * (z - x) * (z - y)
    zero = p * common - (two * x + one) * x
    shared = math.gcd(common, two, one, zero)
    common, two, one, zero = common // shared, two // shared, one // shared, zero // shared
    if common & (common - 1) or max(abs(two), abs(one), abs(zero)) >= 2**53:
        return None
    if not np.array_equal((two * lengths + one) * lengths + zero, common * values):
        return None
    return zero / common, one / common, two / common


SHORT = 4
"""Layers that are traced: the first, two inner ones, which are alike as all inner ones are, and the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """`data` is for the page; `places` says of each op of the whole model its class and its place in it."""

    data: dict[str, Any]
    places: dict[str, tuple[int, int]]


def recipe(config: ModelConfig, scenario: Scenario, fused: bool, parts: int = 1) -> Recipe:
    """Loads, classes and components of a step over batches [batches, 1] and lengths [1, lengths].

    `classes[i]` are indices into `loads`, numbers in loads are indices into `quantities`, `components` are pairs of the classes of a
    component's groups and the names of all components that have these. Raises `ScenarioError` for lengths that the model cannot hold.
    """
    layers = config.num_hidden_layers
    graph = split(trace(replace(config, num_hidden_layers=min(layers, SHORT)), scenario), parts)
    batches = np.asarray(scenario.batch).reshape(-1)
    lengths = np.asarray(scenario.q_len if scenario.phase == "prefill" else scenario.context).reshape(-1)
    quantities = _Quantities(batches, lengths)
    asked = demand(graph, fused)
    loads: dict[Any, int] = {}
    classes: dict[tuple[int, ...], int] = {}
    class_of: list[int] = []
    for each in asked.classes:
        members = []
        for op, load in zip(each.ops, each.op_loads, strict=True):
            described = _load(load, quantities, flops(op.work))
            members.append(loads.setdefault(tuple(described.items()), len(loads)))
        class_of.append(classes.setdefault(tuple(members), len(classes)))
    of_component = {name: tuple(class_of[index] for index in indices) for name, indices in asked.components.items()}
    of_op = {
        graph.ops[op].name: (class_of[index], place)
        for group, index in zip(asked.groups, asked.class_of, strict=True)
        for place, op in enumerate(group.ops)
    }
    components: dict[tuple[int, ...], list[str]] = {}
    for name, traced in _traced_components(list(of_component), layers):
        components.setdefault(of_component[traced], []).append(name)
    return Recipe(
        {
            "phase": scenario.phase,
            "batches": batches.tolist(),
            "lengths": lengths.tolist(),
            "quantities": [list(each) for each in quantities.written],
            "loads": [dict(load) for load in loads],
            "classes": [list(members) for members in classes],
            "components": [[list(members), names] for members, names in components.items()],
        },
        {name: of_op[traced] for name, traced in _traced_ops(list(of_op), layers)},
    )


def _traced_layer(layer: int, layers: int) -> int:
    """Which layer of the short model stands for a layer of the whole one."""
    return layer if layers <= SHORT else 0 if layer == 0 else SHORT - 1 if layer == layers - 1 else 1


def _traced_components(traced: Sequence[str], layers: int) -> Iterator[tuple[str, str]]:
    """(component of the whole model, component of the short one), in order."""
    for name in traced:
        if not name.startswith("layers."):
            yield name, name
        elif name == "layers.0":
            yield from ((f"layers.{i}", f"layers.{_traced_layer(i, layers)}") for i in range(layers))


def _traced_ops(traced: Sequence[str], layers: int) -> Iterator[tuple[str, str]]:
    """(op of the whole model, op of the short one)."""
    for name in traced:
        if not name.startswith("layers."):
            yield name, name
        elif name.startswith("layers.0."):
            rest = name.removeprefix("layers.0.")
            yield from ((f"layers.{i}.{rest}", f"layers.{_traced_layer(i, layers)}.{rest}") for i in range(layers))


def _load(load: Load, quantities: _Quantities, operations: Any) -> dict[str, Any]:
    def by_name(counts: Mapping[str, Dim]) -> tuple[tuple[str, int], ...]:
        return tuple((name, quantities.add(count)) for name, count in counts.items())

    return {
        "macs": by_name(load.macs),
        "sums": by_name(load.sums),
        "counts": by_name(load.counts),
        "moved": tuple((kind, int(is_write), quantities.add(size)) for (kind, is_write), size in load.moved.items()),
        "always": tuple((int(is_write), quantities.add(size)) for is_write, size in load.always_dram.items()),
        "crossings": tuple((quantities.add(size), int(write), quantities.add(threshold)) for size, write, threshold in load.crossings),
        "flops": quantities.add(operations),
    }
