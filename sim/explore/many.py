"""A step on many chips at once, by any engine that takes them so: latency, what binds, energy, as arrays that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hwmodels.formulas.roofline import total
from hwmodels.many import flat
from sim.engines.prices import prices_of
from sim.engines.result import spent_j, step_s
from sim.engines.tiled_family import ONE_FOR_ALL, time_chips
from sim.plan import Plan


def parts_families(path: str) -> bool:
    """Whether chips that differ in this number are searched apart from each other."""
    return any(part in ONE_FOR_ALL for part in path.split("."))


class Tiled(NamedTuple):
    """Seconds of the step, joules (None where nothing is known of them), and the name of what binds the largest part: arrays [chips]."""

    latency_s: Any
    energy_j: Any
    bound_by: Any


def tiled(planned: Plan) -> Tiled:
    """The tiled engine on all chips of a plan; raises `BadInput` where one of them cannot be mapped."""
    planned = replace(planned, chip=flat(planned.chip))
    times = time_chips(planned)
    latency_s, _ = step_s(planned.demand, [each.latency_s for each in times])
    prices = prices_of(planned.chip)
    energy_j = None if prices is None else total(spent_j(planned, prices, times, latency_s).values())
    seconds = [group_class.count * each.latency_s for group_class, each in zip(planned.classes, times, strict=True)]
    return Tiled(latency_s, energy_j, _bound_by([each.bound_by for each in times], seconds))


def _bound_by(bounds: Sequence[Any], seconds: Sequence[Any]) -> Any:
    """The names that bind most; of equal ones that of the earlier class."""
    codes = dict[str, int]()
    coded = [np.array([codes.setdefault(name, len(codes)) for name in bound.tolist()]) for bound in bounds]
    sums, first = np.zeros((len(codes), len(seconds[0]))), np.full((len(codes), len(seconds[0])), len(bounds))
    chips = np.arange(len(seconds[0]))
    for number, (code, own) in enumerate(zip(coded, seconds, strict=True)):
        sums[code, chips] += own
        first[code, chips] = np.minimum(first[code, chips], number)
    best = np.lexsort((first, -sums), axis=0)[0]
    return np.array(list(codes), dtype=object)[best]
