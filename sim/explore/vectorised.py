"""The roofline of a step over many chips, batches or lengths at once: latency and the seconds of it that each resource binds.

Equal to the scalar engine to the last bit, because it adds and compares the same numbers in the same order. What costs the time of a sweep
is saved by looking at ranges first: of a class of groups, a resource that is nowhere in the block the slowest is never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Number
from hwmodels.formulas.roofline import largest, total
from sim.engines import roofline
from sim.engines.result import step_s
from sim.plan import Plan


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of the step, the part of them that each resource binds, and joules (None where nothing is known of them); scalars or arrays
    that broadcast."""

    latency_s: Number
    bound_s: Mapping[str, Number]
    energy_j: Number | None


def latencies(planned: Plan) -> Latencies:
    """Time every class of groups on every chip and batch of the plan."""
    peaks = roofline.Peaks.of(planned.chip)
    slowest_s: list[Number] = []
    bound_s: dict[str, Number] = {}
    for group_class in planned.classes:
        contenders = _contenders(roofline.unit_times_s(group_class.load, peaks))
        slowest = largest(contenders.values())
        slowest_s.append(slowest)
        _share_out(slowest if group_class.count == 1 else group_class.count * slowest, slowest, contenders, bound_s)
    total_s, _ = step_s(planned.demand, slowest_s)
    return Latencies(total_s, bound_s, energy_j(planned, peaks, total_s))


def energy_j(planned: Plan, peaks: roofline.Peaks, total_s: Number) -> Number | None:
    """Joules of the step that takes `total_s` [s]: linear in what all its groups ask together."""
    if peaks.prices is None:
        return None
    return total(peaks.prices.step_j(roofline.spent_j(planned.demand.whole, peaks), total_s).values())


def _contenders(times: Mapping[str, Number]) -> dict[str, Number]:
    """The resources that are the slowest somewhere, in the engine's order; the first wins a tie."""
    at_least = max(float(np.min(time)) for time in times.values())
    return {name: time for name, time in times.items() if float(np.max(time)) >= at_least}


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


def bound_by(result: Latencies, shape: tuple[int, ...]) -> tuple[list[str], NDArray[np.int8]]:
    """What binds the largest part: names, and for each point of `shape` the index of one of them."""
    names = list(result.bound_s)
    index = np.zeros(shape, dtype=np.int8)
    if names:
        most = result.bound_s[names[0]]
        for i, name in enumerate(names[1:], start=1):
            more = result.bound_s[name] > most
            if np.any(more):
                np.copyto(index, np.int8(i), where=more)
                most = np.maximum(most, result.bound_s[name])
    return names, index
