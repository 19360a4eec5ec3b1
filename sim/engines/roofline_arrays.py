"""The roofline of a step over many chips, batches or lengths at once.

Equal to the scalar engine to the last bit, because it adds and compares the same numbers in the same order. What costs the time of a sweep
is saved by looking at ranges first: of a class of groups, a resource that is the slowest on no chip of a block is never worked out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip, Number
from hwmodels.formulas.roofline import largest
from hwmodels.many import flat, shape_of, taken
from sim.engines import roofline
from sim.engines.result import step_s
from sim.plan import Plan
from workloads.demand import GroupClass

PIECE = 2**15
"""Chips that a grid takes at a time: few enough that what one step leaves for the next stays in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Latencies where numbers of the graph or of the chip are arrays: `latency_s` has the grid's shape, the others broadcast to it; alike
    components share one."""

    latency_s: Number
    components_s: dict[str, Number]
    floor_s: Number


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds of the step, the part of them that each resource binds, and joules (None where nothing is known of them); scalars or arrays
    that broadcast."""

    latency_s: Number
    bound_s: Mapping[str, Number]
    energy_j: Number | None

    def bound_by(self, shape: tuple[int, ...]) -> tuple[list[str], NDArray[np.int8]]:
        """What binds the largest part: names, and for each point of `shape` the index of one of them."""
        names = list(self.bound_s)
        index = np.zeros(shape, dtype=np.int8)
        if names:
            most = self.bound_s[names[0]]
            for i, name in enumerate(names[1:], start=1):
                more = self.bound_s[name] > most
                if np.any(more):
                    np.copyto(index, np.int8(i), where=more)
                    most = np.maximum(most, self.bound_s[name])
        return names, index


def grid(plan: Plan) -> Grid:
    """Latency of the step, and of each component, over all chips, batches and lengths of the plan at once."""
    asked, scenario = plan.demand, plan.graph.scenario
    distinct = tuple(dict.fromkeys(asked.components.values()))

    def evaluate(chip: Chip) -> list[Number]:
        total_s, sums_s = step_s(asked, [slowest_s for _, slowest_s, _ in _timed(plan, roofline.Peaks.of(chip))])
        return [total_s, roofline.floor_s(asked, chip), *(sums_s[classes] for classes in distinct)]

    steps = np.broadcast_shapes(*(np.shape(value) for value in (scenario.batch, scenario.q_len, scenario.context)))
    chips = shape_of(plan.chip)
    total_s, least_s, *sums_s = evaluate(plan.chip) if steps else _in_pieces(evaluate, plan.chip, chips)
    component_s = dict(zip(distinct, sums_s, strict=True))
    shape = np.broadcast_shapes(steps, chips)
    return Grid(
        latency_s=np.broadcast_to(total_s, shape) if shape else total_s,
        components_s={name: component_s[classes] for name, classes in asked.components.items()},
        floor_s=least_s,
    )


def bounds(plan: Plan) -> Bounds:
    """Latency of the step, what binds it, and its energy, over as many chips, batches and lengths as a cache holds."""
    peaks = roofline.Peaks.of(plan.chip)
    latencies_s: list[Number] = []
    bound_s: dict[str, Number] = {}
    for group_class, slowest_s, contenders in _timed(plan, peaks):
        latencies_s.append(slowest_s)
        _share_out(slowest_s if group_class.count == 1 else group_class.count * slowest_s, slowest_s, contenders, bound_s)
    total_s, _ = step_s(plan.demand, latencies_s)
    return Bounds(total_s, bound_s, roofline.energy_j(plan.demand, peaks, total_s))


def _timed(plan: Plan, peaks: roofline.Peaks) -> Iterator[tuple[GroupClass, Number, dict[str, Number]]]:
    """Each class of groups with its seconds, and those of the resources that may be the slowest somewhere, in the engine's order; the first
    wins a tie. Classes that differ only in which capacity they ask for share them where all chips, or none, have that."""
    fastest, slowest = peaks.extreme(fastest=True), peaks.extreme(fastest=False)
    known: dict[Any, tuple[Number, dict[str, Number]]] = {}
    for group_class in plan.classes:
        load = group_class.load
        through_dram, at_most = roofline.dram_bytes(load, fastest), roofline.dram_bytes(load, slowest)
        asked: Any = object()  # equal to nothing
        if all(isinstance(size_bytes, int) for size_bytes in (*through_dram, *load.moved.values())) and through_dram == at_most:
            asked = *map(id, (op.work for op in group_class.ops)), *load.moved.items(), *through_dram
        if asked not in known:
            # Rounding is monotone: no chip is faster than the fastest of all in every number, and none slower than the slowest.
            at_least_s = max(float(np.min(seconds)) for seconds in roofline.unit_times_s(load, fastest).values())
            at_most_s = roofline.unit_times_s(load, slowest)
            contenders = roofline.unit_times_s(load, peaks, [name for name in at_most_s if float(np.max(at_most_s[name])) >= at_least_s])
            known[asked] = largest(contenders.values()), contenders
        yield group_class, *known[asked]


def _share_out(weighted: Number, slowest: Number, contenders: Mapping[str, Number], bound_s: dict[str, Number]) -> None:
    """Add a class's seconds to what binds it."""
    rest = weighted
    names = list(contenders)
    taken: NDArray[np.bool_] | None = None
    for name in names[:-1]:
        binds = np.asarray(contenders[name] == slowest)
        if taken is not None:
            binds = binds & ~taken
        taken = binds if taken is None or len(names) == 2 else taken | binds
        part = weighted * binds
        rest = rest - part
        bound_s[name] = bound_s.get(name, 0.0) + part
    bound_s[names[-1]] = bound_s.get(names[-1], 0.0) + rest


def _in_pieces(evaluate: Callable[[Chip], list[Number]], chips: Chip, shape: tuple[int, ...]) -> list[Number]:
    """What `evaluate` makes of a chip with arrays in it that broadcast to `shape`, `PIECE` chips at a time."""
    many = math.prod(shape)
    if many <= PIECE:
        return evaluate(chips)
    chips, results = flat(chips), np.empty((0, many))
    for begin in range(0, many, PIECE):
        piece = slice(begin, begin + PIECE)
        values = evaluate(taken(chips, piece))
        if not begin:
            results = np.empty((len(values), many))
        for result, value in zip(results, values, strict=True):
            result[piece] = value
    return list(results.reshape(-1, *shape))
