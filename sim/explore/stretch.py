"""Steps that differ in their context only, timed together.

They are traced once, with an array of contexts, and with `FEW` layers: all others are like the last but one of these. The roofline
evaluates arrays as they are; every latency is that of `predict` at its context, to the last bit. The other engines are asked once for the
groups that no context changes, and for those that one does (attention, whose work and bytes grow) at each of up to `EXACT_CONTEXTS`
contexts: to the last bit as well. Of more contexts they are asked where the tiling of the keys changes: at the first and the last of each
run of keys that the array takes at once; but of runs whose firsts (or lasts) are in line, to rounding, at some of them only (`_follow`).
Between two of these all figures are interpolated linearly (bytes and MACs grow by the key there, and full passes do not change), if both
ends of a run lie half way between those of the runs beside it, or else if the line is right half way, to `TOLERANCE` of the step's
latency; where it is not, another mapping has become the best, and both halves are looked at alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby, pairwise
from operator import is_
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from functional.config import ModelConfig
from functional.work import Contraction, flops
from hwmodels.chip import Chip
from hwmodels.formulas.roofline import largest, total
from hwmodels.paths import refuse_many
from sim.engines import ENGINES, ONE_CHIP, roofline
from sim.engines.prices import STATIC, Prices, prices_of
from sim.engines.result import GroupTimes, components_s
from sim.intervals import Floats
from sim.plan import Plan, plan, resident_capacity_bytes
from sim.timeline import Memory
from workloads.demand import GroupClass
from workloads.graph import OpGraph
from workloads.scenario import Scenario
from workloads.split import split as in_pieces
from workloads.trace import trace

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many contexts have been asked for, and of how many."""

EXACT_CONTEXTS = 128
"""How many contexts in a row are all asked for."""

FEW = 3
"""Layers that are planned at most: a first one, one between, and a last one."""

FEWEST_IN_LINE = 6
MOST_APART = 8
ROUNDING = 1e-12
"""How many contexts in a row may be found in line, how many runs of keys they are apart at most, and what is in line, relatively."""

TOLERANCE = 5e-4
"""How far a step's latency half way between two contexts may be from the line between them, relatively, for that line to be taken."""


@dataclass(slots=True)
class OpTotal:
    """What one op takes in several steps; `bound_s` are its seconds by what binds them, `energy_j` None where the chip's is not known."""

    name: str
    kind: str
    component: str
    group: int
    flops: float
    useful_macs: float
    issued_macs: float
    dram_bytes: float
    latency_s: float
    busy_s: float
    bound_s: dict[str, float]
    lost_s: dict[str, float]
    energy_j: float | None

    def add(self, other: OpTotal) -> None:
        """Take in the same op of other steps."""
        for name in ("flops", "useful_macs", "issued_macs", "dram_bytes", "latency_s", "busy_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if self.energy_j is not None and other.energy_j is not None:
            self.energy_j += other.energy_j
        for mine, theirs in ((self.bound_s, other.bound_s), (self.lost_s, other.lost_s)):
            for name, seconds in theirs.items():
                mine[name] = mine.get(name, 0.0) + seconds

    @property
    def bound_by(self) -> str:
        """What binds the largest part."""
        return max(self.bound_s, key=self.bound_s.__getitem__)


@dataclass(frozen=True, slots=True, eq=False)
class ClassTimes:
    """One class of groups at n contexts: what `GroupTimes` says, with a last axis of n, or of 1 where the context changes nothing."""

    latency_s: Floats
    bound_by: Sequence[str]
    shares: Floats
    op_busy_s: Floats
    op_dram_bytes: Floats
    op_issued_macs: Floats
    lost_s: Mapping[str, Floats]
    spent_j: Mapping[str, Floats]
    op_spent_j: Floats

    def spread(self, places: Sequence[int], many: int) -> ClassTimes:
        """The figures of all of 0 ... many - 1 from those at some places in order; bound by what binds the last place before."""
        if len(places) == many:
            return self
        all_places = np.arange(many)

        def between(column: Floats) -> Floats:
            rows = [np.interp(all_places, places, row) for row in np.atleast_2d(column)]
            return np.reshape(rows, (*column.shape[:-1], many))

        return self._made(between, np.searchsorted(places, all_places, "right") - 1)

    def _made(self, between: Callable[[Floats], Floats], before: NDArray[np.int64]) -> ClassTimes:
        """All columns made anew; bound by what binds those `before`."""
        return ClassTimes(
            latency_s=between(self.latency_s),
            bound_by=[self.bound_by[i] for i in before.tolist()],
            shares=between(self.shares),
            op_busy_s=between(self.op_busy_s),
            op_dram_bytes=between(self.op_dram_bytes),
            op_issued_macs=between(self.op_issued_macs),
            lost_s={cause: between(column) for cause, column in self.lost_s.items()},
            spent_j={name: between(column) for name, column in self.spent_j.items()},
            op_spent_j=between(self.op_spent_j),
        )

    def along(self, places: Sequence[int], lines: Mapping[int, tuple[int, int]]) -> ClassTimes:
        """The figures of these places and of those that lie on lines between two of them, all in order; bound by what binds the first."""
        if not lines:
            return self
        index = {place: i for i, place in enumerate(places)}
        ends = [(place, *lines.get(place, (place, place))) for place in sorted((*places, *lines))]
        low, high = (np.array([index[each[i]] for each in ends]) for i in (1, 2))
        parts = np.array([(place - before) / max(after - before, 1) for place, before, after in ends])
        return self._made(lambda column: column[..., low] + parts * (column[..., high] - column[..., low]), low)

    @classmethod
    def of(cls, found: Sequence[GroupTimes], prices: Prices | None) -> ClassTimes:
        """The figures of one context after the other."""
        spent = [] if prices is None else [prices.spent_j(each.macs, each.counts, each.moved_bytes) for each in found]
        causes = {cause for each in found for cause in each.lost_s}
        return cls(
            latency_s=np.array([each.latency_s for each in found]),
            bound_by=[each.bound_by for each in found],
            shares=np.stack([each.shares for each in found], -1),
            op_busy_s=np.stack([each.op_busy_s for each in found], -1),
            op_dram_bytes=np.stack([each.op_dram_bytes for each in found], -1),
            op_issued_macs=np.stack([each.op_issued_macs for each in found], -1),
            lost_s={cause: np.array([each.lost_s.get(cause, 0.0) for each in found]) for cause in causes},
            spent_j={} if prices is None else {name: np.array([float(each[name]) for each in spent]) for name in spent[0]},
            op_spent_j=np.stack([each.op_spent_j for each in found], -1),
        )


@dataclass(frozen=True, slots=True)
class Layers:
    """A model of `whole` layers that is planned with no more than `FEW`: all are one text, and what surrounds a layer is the same for all
    but the first and the last."""

    planned: int
    whole: int

    def components(self, planned: str) -> list[str]:
        """Components that a planned one stands for, in order."""
        if planned == f"layers.{self.planned - 1}":
            return [f"layers.{self.whole - 1}"]
        if planned == f"layers.{self.planned - 2}":
            return [f"layers.{i}" for i in range(self.planned - 2, self.whole - 1)]
        return [planned]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Steps after n contexts: `latency_s` and `floor_s` of each [n], the most memory that one needs. The plan is of some `layers`; how
    many groups a class has is said of all."""

    plan: Plan
    layers: Layers
    latency_s: Floats
    floor_s: Floats
    memory: Memory
    make_classes: Callable[[], Sequence[ClassTimes]]

    @cached_property
    def classes(self) -> Sequence[ClassTimes]:
        """Figures of the classes of the plan, made when they are asked for."""
        return self.make_classes()

    @property
    def graph(self) -> OpGraph:
        return self.plan.graph

    def totals(self, weights: Floats, prefix: str = "") -> Iterator[OpTotal]:
        """Each op in all steps together, which happen `weights` times [n]; `prefix` stands before names of ops and components."""
        sums = [_sums(times, weights) for times in self.classes]
        asked, prices = self.plan.demand, prices_of(self.plan.chip)
        static_w = None if prices is None else float(prices.static_w)
        counted: dict[int, tuple[float, float]] = {}
        number = 0
        for planned, groups in groupby(zip(asked.groups, asked.class_of, strict=True), key=lambda each: each[0].component):
            own = list(groups)
            for component in self.layers.components(planned):
                for group, index in own:
                    bound_s, columns, lost_s = sums[index]
                    whole_s = sum(bound_s.values()) or 1.0
                    for i, op in enumerate(self.graph.ops[place] for place in group.ops):
                        if id(op.work) not in counted:
                            macs = op.work.useful_macs if isinstance(op.work, Contraction) else 0
                            counted[id(op.work)] = _weighed(flops(op.work), weights), _weighed(macs, weights)
                        latency_s, busy_s, dram_bytes, issued_macs, spent_j = columns[:, i].tolist()
                        yield OpTotal(
                            prefix + component + op.name.removeprefix(planned),
                            op.kind,
                            prefix + component,
                            number,
                            *counted[id(op.work)],
                            issued_macs,
                            dram_bytes,
                            latency_s,
                            busy_s,
                            {name: seconds * latency_s / whole_s for name, seconds in bound_s.items()},
                            {cause: float(column[i]) for cause, column in lost_s.items()},
                            None if static_w is None else spent_j + static_w * latency_s,
                        )
                    number += 1

    def energy_by_j(self, weights: Floats) -> dict[str, float]:
        """Joules of all steps by unit, level and `static`; empty where the chip's energy is not known."""
        prices = prices_of(self.plan.chip)
        if prices is None:
            return {}
        found = {STATIC: float(prices.static_w) * _weighed(self.latency_s, weights)}
        for times, group_class in zip(self.classes, self.plan.classes, strict=True):
            for name, joules in times.spent_j.items():
                found[name] = found.get(name, 0.0) + group_class.count * _weighed(joules, weights)
        return found


def _weighed(count: Any, weights: Floats) -> float:
    """Sum over all steps of what is one number, or one for each."""
    return float((count * weights).sum())


def _sums(times: ClassTimes, weights: Floats) -> tuple[dict[str, float], Floats, dict[str, Floats]]:
    """Of one group: seconds by what binds it; by op latency, busy seconds, DRAM bytes, issued MACs, joules [5, ops]; lost seconds by op."""
    bound_s: dict[str, float] = {}
    names = times.bound_by if len(times.bound_by) == len(weights) else [times.bound_by[0]] * len(weights)
    for name, seconds in zip(names, (times.latency_s * weights).tolist(), strict=True):
        bound_s[name] = bound_s.get(name, 0.0) + seconds
    columns = times.latency_s * times.shares, times.op_busy_s, times.op_dram_bytes, times.op_issued_macs, times.op_spent_j
    lost_s = {cause: (seconds * times.shares * weights).sum(-1) for cause, seconds in times.lost_s.items()}
    return bound_s, np.array([(column * weights).sum(-1) for column in columns]), lost_s


def stretch(
    config: ModelConfig, scenario: Scenario, chip: Chip, engine: str, fused: bool, split: int = 1, progress: Progress | None = None
) -> Stretch:
    """Time a scenario whose context is a number, or an array of them [n]; every linear in `split` pieces, one per core. `progress` is
    called as contexts are timed one by one.

    Raises `BadInput` for what tracing, splitting and planning refuse, and for a chip whose numbers are arrays.
    """
    refuse_many(chip, ONE_CHIP)
    layers = Layers(min(config.num_hidden_layers, FEW), config.num_hidden_layers)
    few = replace(config, num_hidden_layers=layers.planned)
    planned, components = _for_all(plan(in_pieces(trace(few, scenario), split), chip, fused), layers)
    many = np.size(scenario.context)
    if engine == "roofline":
        peaks = roofline.Peaks.of(chip)
        latencies_s: list[Any] = [largest(roofline.unit_times_s(each.load, peaks).values()) for each in planned.classes]
        make: Callable[[], Sequence[ClassTimes]] = partial(_arrays, planned)
    else:
        classes = _one_by_one(planned, engine, many, progress or (lambda done, of: None))
        latencies_s, make = [times.latency_s for times in classes], lambda: classes
    latency_s, _ = components_s(components, latencies_s)
    floor_s = roofline.floor_s(planned.demand, chip)
    return Stretch(planned, layers, _column(latency_s, many), _column(floor_s, many), _most_memory(planned, layers), make)


def _for_all(planned: Plan, layers: Layers) -> tuple[Plan, list[tuple[int, ...]]]:
    """A plan whose classes count the groups of all layers, and the classes of each component."""
    asked = planned.demand
    components = [classes for name, classes in asked.components.items() for _ in layers.components(name)]
    counts = Counter(index for classes in components for index in classes)
    classes = tuple([replace(each, count=counts[i]) for i, each in enumerate(asked.classes)])
    return replace(planned, demand=replace(asked, classes=classes)), components


def _column(value: Any, many: int) -> Floats:
    column: Floats = np.broadcast_to(np.asarray(value, float), (many,))
    return column


def _most_memory(planned: Plan, layers: Layers) -> Memory:
    made = {op.name for op in planned.graph.ops if op.kind == "MemCopy"}
    sizes = {"weight": 0, "kv_cache": 0}
    for tensor in planned.graph.tensors.values():
        if tensor.role in sizes and tensor.name not in made:
            size_bytes = tensor.spec.size_bytes
            often = len(layers.components(".".join(tensor.name.removeprefix("cache.").split(".", 2)[:2])))
            sizes[tensor.role] += often * (size_bytes if isinstance(size_bytes, int) else int(np.max(size_bytes)))
    peak = int(np.max(planned.demand.residency.peak_bytes))
    return Memory(sizes["weight"], sizes["kv_cache"], peak, int(planned.chip.dram.capacity_bytes))


# The roofline: arrays as they are --------------------------------------------------------------------------------------------------------


def _arrays(planned: Plan) -> list[ClassTimes]:
    peaks = roofline.Peaks.of(planned.chip)
    return [_of_arrays(group_class, peaks) for group_class in planned.classes]


def _of_arrays(group_class: GroupClass, peaks: roofline.Peaks) -> ClassTimes:
    """What `roofline.time_class` says, at all contexts at once."""
    times = roofline.unit_times_s(group_class.load, peaks)
    by_unit = _rows(list(times.values()))
    names = list(times)
    alone = [times if load is group_class.load else roofline.unit_times_s(load, peaks) for load in group_class.op_loads]
    own_s = _rows([_rows(list(each.values())).max(0) for each in alone])
    macs = [op.work.useful_macs if isinstance(op.work, Contraction) else 0 for op in group_class.ops]
    shares = _parted(own_s, np.full_like(own_s, 1 / len(own_s)))
    spent = {name: np.asarray(joules, float) for name, joules in roofline.spent_j(group_class.load, peaks).items()}
    return ClassTimes(
        latency_s=by_unit.max(0),
        bound_by=[names[i] for i in by_unit.argmax(0).tolist()],
        shares=shares,
        op_busy_s=own_s,
        op_dram_bytes=_rows([sum(roofline.dram_bytes(load, peaks)) for load in group_class.op_loads]),
        op_issued_macs=_rows(macs),
        lost_s={},
        spent_j=spent,
        op_spent_j=_rows([total(roofline.spent_j(load, peaks).values()) for load in group_class.op_loads]),
    )


def _parted(rows: Floats, otherwise: Floats) -> Floats:
    """Rows in proportion to their sum; `otherwise` where that is 0."""
    sums = rows.sum(0)
    parted: Floats = np.where(sums > 0, rows / np.where(sums > 0, sums, 1.0), otherwise)
    return parted


def _rows(values: Sequence[Any]) -> Floats:
    """Numbers and arrays [n] as rows [len(values), n]."""
    return np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, float)) for value in values)))


# The other engines: what grows, context by context ---------------------------------------------------------------------------------------


def _one_by_one(planned: Plan, engine: str, many: int, progress: Progress) -> list[ClassTimes]:
    """All classes; alike ones among those that grow share their times."""
    classes, time_classes = planned.classes, ENGINES[engine]
    grows = [_grows(planned, group_class) for group_class in classes]
    still = [i for i, each in enumerate(grows) if not each]
    found = dict(zip(still, time_classes(_Parts(planned, [classes[i] for i in still]).at(0)), strict=True))
    prices = prices_of(planned.chip)
    result = {i: ClassTimes.of([times], prices) for i, times in found.items()}

    alike: dict[Any, int] = {}
    first = {i: alike.setdefault(_key(planned, classes[i]), i) for i, each in enumerate(grows) if each}
    growing = list(alike.values())
    if growing:
        counts = [sum(classes[j].count for j, leader in first.items() if leader == i) for i in growing]
        still_s = sum(classes[i].count * found[i].latency_s for i in still)
        asked, parts = _places(planned, many), _Parts(planned, [classes[i] for i in growing])

        def time_at(place: int) -> list[GroupTimes]:
            return time_classes(parts.at(place))

        ask = _Asked(time_at, counts, still_s, lambda done: progress(done, max(done, sum(map(len, asked)))))
        places = ask.all_that_matter(asked)
        timed = sorted(ask.times)
        for column, i in enumerate(growing):
            times = ClassTimes.of([ask.times[place][column] for place in timed], prices)
            result[i] = times.along(timed, ask.lines).spread(places, many)
    return [result[first.get(i, i)] for i in range(len(classes))]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Classes that grow, timed at some contexts; `counts` are the groups of each, `still_s` the seconds of all others. `lines` are other
    contexts, and the two between which each lies in line with many."""

    time_at: Callable[[int], list[GroupTimes]]
    counts: Sequence[int]
    still_s: float
    told: Callable[[int], None]
    times: dict[int, list[GroupTimes]] = field(default_factory=dict)
    lines: dict[int, tuple[int, int]] = field(default_factory=dict)

    def step_s(self, place: int) -> float:
        """Seconds of the step at one of the contexts."""
        if place in self.lines:
            return self._between_s(place, *self.lines[place])
        if place not in self.times:
            self.times[place] = self.time_at(place)
            self.told(len(self.times))
        return self.still_s + sum(count * each.latency_s for count, each in zip(self.counts, self.times[place], strict=True))

    def _between_s(self, place: int, low: int, high: int) -> float:
        """Seconds on the line between two contexts."""
        before_s, after_s = self.step_s(low), self.step_s(high)
        return before_s + (place - low) / max(high - low, 1) * (after_s - before_s)

    def _follow(self, places: Sequence[int], apart: int = 1) -> None:
        """Ask at places that are equally far apart, `apart` runs of keys, or only at some that show that all are in line.

        Every so many runs tiles of several runs are filled alike: if places are not in line, every second of them may be. Where those that
        are far apart are not either, another mapping has become the best: what is before and after it may be in line.
        """
        many = len(places)
        if many < FEWEST_IN_LINE:
            for place in places:
                self.step_s(place)
            return
        first, last = places[0], places[-1]
        shown = [places[i] for i in (1, 2, many // 2, *range(8, many - 1, 8))]
        if all(abs(self.step_s(place) - self._between_s(place, first, last)) <= ROUNDING * self.step_s(place) for place in shown):
            known = sorted({first, *shown, last})
            for low, high in pairwise(known):
                self.lines.update({place: (low, high) for place in places if low < place < high and place not in self.times})
        elif apart < MOST_APART:
            self._follow(places[::2], 2 * apart)
            self._follow(places[1::2], 2 * apart)
        else:
            self._follow(places[: many // 2 + 1], apart)
            self._follow(places[many // 2 :], apart)

    def all_that_matter(self, progressions: Sequence[Sequence[int]]) -> list[int]:
        """These, half way between two of them unless the gaps beside are in line with it, and there as many more as lines need."""
        for each in progressions:
            self._follow(each)
        places = sorted({place for each in progressions for place in each})
        gaps = [(places[0], places[0])] if len(places) == 1 else [(a, b) for a, b in pairwise(places) if b > a + 1]
        gaps = [gaps[i] for i in range(len(gaps)) if not self._in_line(gaps[max(i - 1, 0) : i + 2])]
        for place in places:
            self.step_s(place)
        while gaps:
            low, high = gaps.pop()
            middle = (low + high) // 2
            here_s, line_s = self.step_s(middle), self._between_s(middle, low, high)
            if low < middle < high and abs(here_s - line_s) > TOLERANCE * here_s:
                gaps += [(low, middle), (middle, high)]
        return sorted((*self.times, *self.lines))

    def _in_line(self, gaps: Sequence[tuple[int, int]]) -> bool:
        """Whether the second of three gaps begins and ends half way between the others, both in place and in time."""
        if len(gaps) < 3:
            return False
        for before, here, after in zip(*gaps, strict=True):
            if 2 * here != before + after:
                return False
            middle_s = self.step_s(here)
            if abs(2 * middle_s - self.step_s(before) - self.step_s(after)) > 2 * TOLERANCE * middle_s:
                return False
        return True


def _places(planned: Plan, many: int) -> list[list[int]]:
    """Where to ask: everywhere, one by one; or at the firsts and the lasts of runs of keys that fill the same number of array passes, and
    at the very first and the very last key."""
    if many <= EXACT_CONTEXTS:
        return [[place] for place in range(many)]
    unit, scenario = planned.chip.matrix, planned.graph.scenario
    run = max(unit.tile) if unit.kind == "tensor_core" else max(unit.rows, unit.cols)
    passes = (np.asarray(scenario.kv_len) - 1) // run
    begins = np.flatnonzero(np.diff(passes, prepend=-1))
    return [[0], begins[1:].tolist(), (begins[1:] - 1).tolist(), [many - 1]]


def _grows(planned: Plan, group_class: GroupClass) -> bool:
    """Whether the context has a part in what a class is or does."""
    thresholds = planned.demand.residency.thresholds_bytes
    asked = [thresholds.get(flow.tensor, 0) for flow in group_class.group.flows]
    return _has_array((group_class.load, group_class.op_loads, [op.work for op in group_class.ops], group_class.group.flows, asked))


def _key(planned: Plan, group_class: GroupClass) -> Any:
    """Equal for classes that ask the same of this chip: they may differ in how narrowly a tensor stays on it, or does not."""
    capacity_bytes, thresholds = resident_capacity_bytes(planned.chip), planned.demand.residency.thresholds_bytes
    first = group_class.group.ops[0]
    flows = []
    for flow in group_class.group.flows:
        threshold = thresholds.get(flow.tensor)
        stays: Any = threshold is not None and (id(threshold) if _has_array(threshold) else threshold <= capacity_bytes)
        size = id(flow.size_bytes) if _has_array(flow.size_bytes) else flow.size_bytes
        flows.append((flow.op - first, flow.kind, size, flow.is_write, bool(flow.tensor), stays))
    return tuple(id(op.work) for op in group_class.ops), tuple(flows)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """A plan of some classes alone, at one context after another. Values without an array stay the objects that they are; `plain` are those
    that are known to be such, by identity."""

    planned: Plan
    classes: Sequence[GroupClass]
    plain: dict[int, Any] = field(default_factory=dict)

    def at(self, place: int) -> Plan:
        """At one of the contexts."""
        graph, asked, known = self.planned.graph, self.planned.demand, dict[int, Any]()
        return replace(
            self.planned,
            graph=replace(graph, scenario=self._at(graph.scenario, place, known)),
            demand=replace(
                asked,
                classes=tuple([self._class_at(each, place, known) for each in self.classes]),
                residency=replace(asked.residency, thresholds_bytes=self._at(asked.residency.thresholds_bytes, place, known)),
            ),
        )

    def _class_at(self, group_class: GroupClass, place: int, known: dict[int, Any]) -> GroupClass:
        return replace(
            group_class,
            ops=self._at(group_class.ops, place, known),
            group=replace(group_class.group, flows=self._at(group_class.group.flows, place, known)),
            load=self._at(group_class.load, place, known),
            op_loads=self._at(group_class.op_loads, place, known),
        )

    def _at(self, value: Any, place: int, known: dict[int, Any]) -> Any:
        """The same value with one element of every array in it; `known` are those that are made, by the identity of what they are of."""
        identity = id(value)
        if identity in self.plain:
            return value
        if identity not in known:
            found = self._made(value, place, known)
            if found is value:
                self.plain[identity] = value
                return value
            known[identity] = found
        return known[identity]

    def _made(self, value: Any, place: int, known: dict[int, Any]) -> Any:
        if isinstance(value, np.ndarray):
            return value[place].item()
        if isinstance(value, tuple):
            parts = [self._at(part, place, known) for part in value]
            if all(map(is_, parts, value)):
                return value
            return type(value)._make(parts) if hasattr(value, "_make") else tuple(parts)
        if isinstance(value, Mapping):
            changed = {key: part for key, own in value.items() if (part := self._at(own, place, known)) is not own}
            return {**value, **changed} if changed else value
        if not is_dataclass(value):
            return value
        changed = {}
        for name in _names_of(value.__class__):
            own = getattr(value, name)
            part = self._at(own, place, known)
            if part is not own:
                changed[name] = part
        return replace(value, **changed) if changed else value  # type: ignore[type-var]


def _has_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return True
    if isinstance(value, Mapping):
        return any(map(_has_array, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_has_array, value))
    return is_dataclass(value) and any(_has_array(getattr(value, each.name)) for each in fields(value))


@lru_cache
def _names_of(type_: Any) -> tuple[str, ...]:
    """The fields of a dataclass."""
    return tuple(each.name for each in fields(type_))
