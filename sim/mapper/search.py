"""Finds the mapping of least tiled cost: branch and bound over boxes of tiles.

**Space.** `sim.mapper.space`: tiles along each axis, combined with all loop orders, dataflows, array axes and splits. It does not
depend on capacities, bandwidths or clocks: those only rule mappings out, or price them.

**Which mapping it is.** That of the least *canonical key*: latency, rounded to `GRID` so that sums in another order make no difference;
DRAM bytes; bytes moved; tile steps (for the objective "traffic" DRAM bytes come first); and where all of that is equal, the first in the
order of variants (splits, then dataflows, then array axes), of loop orders, and of tiles along m, n and k as their columns stand, the
smaller first where there are one or two stages. So the choice is a function of the set of candidates, never of the order in which they were
searched, as long as the search was to the last.

**Discarding.** Candidates of an axis lie sorted; blocks of 2^level neighbours carry the minima of their numbers. `sim.mapper.bound` of
three blocks is below every mapping of the box that they span (proof there), in latency, DRAM bytes, bytes moved and tile steps alike. A box
is dropped if its latency bound is above the incumbent's latency, or equal and the next bound above the next key, and so on, or if no bound
is below and it holds no mapping that comes before the incumbent: what is dropped holds nothing better. Boxes are opened best first, so that
a good incumbent is there early; what survives as a single mapping is priced by `sim.mapper.cost` itself.

**On trust.** The bound of a single mapping mostly is its cost, but for rounding. So a search that knows nothing yet takes the one for the
other (but where `Bounder.doubtful` says that it may be less), drops what is above the best bound of a single mapping that it has met, and
prices only what is left at the end. Let T be the key of that best one, and K the first key among those priced. What was dropped holds
nothing that comes before T; so if K does not come after T, nothing comes before K, and K is the answer. If it does, the search begins
again with K for its incumbent, and prices what it meets.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from sim.mapper import array
from sim.mapper.bound import ROUNDING, bounder_of, form_of
from sim.mapper.candidates import Variant
from sim.mapper.cost import Costs, evaluate
from sim.mapper.problem import Choice, Setting
from sim.mapper.space import NO_TILE, NoTile, Space, all_of, candidates_of, first_level, thin_of
from sim.mapper.tables import Floats, Ints, is_one_chip, with_arrays
from sim.mapper.threads import on_one_thread

GRID = 2.0**-33
"""Share of a latency by which two may differ and yet be the same: ten digits."""

_STEP = int(GRID * 2**53)
"""The same in units of the last place."""

_LARGEST = sys.float_info.max
"""Above the bounds of all that fits, below those of what does not."""

_BOXES_AT_FIRST = 1024
"""Boxes with which a search may begin: those of the highest levels are hardly ever discarded."""

_BATCH_BOXES = (32, 64, 512)
"""Boxes opened at a time: until there is an incumbent, after that with a budget, and without one."""

_MANY_BOXES = 512
"""Boxes of which those in which the array alone takes longer than the best mapping are looked for before they are bounded."""

_PARTS_AT_A_TIME = 512
"""Parts into which they are cut at once, if that is more than one level down."""

_ONE_BY_ONE = 4
_BATCH_PRICED = 1024
"""Mappings priced one by one, where no more are left or more than are priced at a time: mostly the best is among them."""

Key: TypeAlias = tuple[float, float, float, float, float]
"""What mappings are ranked by: three amounts and steps, and then their place among all."""


def on_grid(latency_s: Any) -> Any:
    """Latencies (float64 arrays) rounded to so many binary digits that those that differ by less than rounding errors are the same. It
    never falls while its argument grows."""
    return ((latency_s.view(np.int64) + _STEP // 2) & -_STEP).view(np.float64)


def lower_edge(latency_s: Floats) -> Floats:
    """The least latencies that `on_grid` makes these, which are on the grid."""
    return (latency_s.view(np.int64) - _STEP // 2).view(np.float64)


class Found(NamedTuple):
    """The best mapping so far, what it is ranked by, and its costs where it was priced by itself; whether nothing in the whole space is
    better, and (for the latency) a bound below all of it."""

    key: Key
    choice: Choice | None
    costs: Costs | None = None
    is_exact: bool = False
    least_s: float = 0.0


NONE_FOUND = Found((math.inf,) * 5, None)

_SOME = Choice((), (), (1, 1), "", "m")
"""Stands for a mapping that nobody asks for."""

_TRUSTED = 1 + np.array([1.5, 1.5, 1.5, 0]) * ROUNDING
"""What bounds of a single mapping are multiplied with to be no less than its costs, if that is what they are; steps are."""

_FIRST_ROW_DECIDES = np.array([8, 4, 2, 1], dtype=np.int8)
"""What 1 (less) and -1 (more) in four rows are multiplied with, so that the sign of the sum is that of the first row that is not 0."""


def together(choices: Sequence[Choice]) -> Choice:
    """Choices of one variant as one that holds them all."""
    tiles, ranks = (np.moveaxis(np.array([choice[i] for choice in choices]), 0, 2) for i in (0, 1))
    _, _, split, dataflow, array_axis = choices[0]
    return Choice(tuple(tuple(each) for each in tiles), tuple(tuple(each) for each in ranks), split, dataflow, array_axis)


def _is_within(key: Key, limits: Sequence[float]) -> bool:
    """Whether a mapping is no worse than the one that limits stand for."""
    for amount, low, high in zip(key[:4], limits[:4], limits[4:8], strict=True):
        if amount < low or amount > high:
            return amount < low
    return True


@lru_cache(maxsize=64)
def _all_of(*counts: int) -> Ints:
    """[counts, combinations]: one of so many, each with each."""
    return np.indices(counts).reshape(len(counts), -1)


@lru_cache(maxsize=256)
def _corners(depths: tuple[int, ...], level: int, below: int) -> tuple[Ints, Ints]:
    """Into how many parts of a lower level blocks of axes so deep are cut [axes, 1], and which of them each part of a box is made of
    [axes, 1, parts]."""
    parts = [1 << min(level, depth) - min(below, depth) for depth in depths]
    return np.array(parts)[:, None], _all_of(*parts)[:, None]


class _Boxes:
    """Boxes of one level: variant, order and column along m, n and k of each [5, boxes]; their bounds [4, boxes], in the order of ranking;
    and the number of the incumbent that they were compared with."""

    __slots__ = ("bounds", "boxes", "known", "level", "where")

    def __init__(self, level: int, where: Ints, bounds: Floats, known: int) -> None:
        self.level, self.where, self.bounds, self.known = level, where, bounds, known
        self.boxes = where.shape[1]

    def take(self, which: Any) -> _Boxes:
        return _Boxes(self.level, self.where.take(which, axis=1), self.bounds.take(which, axis=1), self.known)

    def joined(self, others: _Boxes | None) -> _Boxes:
        """With others of the same level, compared with the same incumbent."""
        if others is None or not others.boxes:
            return self
        where, bounds = np.concatenate([self.where, others.where], axis=1), np.concatenate([self.bounds, others.bounds], axis=1)
        return _Boxes(self.level, where, bounds, self.known)

    def unknown(self) -> _Boxes:
        """The same, not yet compared with any incumbent."""
        return _Boxes(self.level, self.where, self.bounds, -1)


class Search:
    """A search for one GEMM on a chip, or at once for several GEMMs of one form on it, or for one GEMM on chips that differ in nothing but
    their arrays: the tables, and what was found so far.

    `limits` [10, settings] say what bounds the best mapping of each stands for: below the first four a bound is below what that mapping is
    ranked by, up to the next four it may be equal; then comes its place; and array cycles that only what is no better takes. Boxes of
    several settings are laid out side by side, as if the variants of each were further variants of one; a box is compared with the
    incumbent of its own.
    """

    may_trust = True

    def __init__(
        self,
        settings: Sequence[Setting],
        spaces: Sequence[Space],
        objective: str = "latency",
        budget_boxes: float = math.inf,
        incumbent: Found = NONE_FOUND,
    ) -> None:
        _, self.orders, tiles_of = spaces[0]
        self.settings, self.setting, self.is_one = settings, settings[0], len(settings) == 1
        self.chosen = [variant for variants, _, _ in spaces for variant in variants]
        self.chips = [chip for chip, (variants, _, _) in enumerate(spaces) for _ in variants]
        self.numbers = np.array(self.chips)
        drains = [array.drain_cycles(settings[chip], variant.dataflow) for variant, chip in zip(self.chosen, self.chips, strict=True)]
        self.bounder = bounder_of(settings, self.orders, drains, self.chips)
        self.axes, self.table = candidates_of(settings, self.chosen, self.chips, tiles_of, self.bounder)
        self.of_boxes = self.table[: self.bounder.numbers_of_boxes]
        self.top = first_level(self.axes, len(self.chosen) * len(self.orders) // len(settings), _BOXES_AT_FIRST)
        self.keys = [1, 0, 2, 3] if objective == "traffic" else [0, 1, 2, 3]
        self.founds = [incumbent] * len(settings)
        self.has_all = self.has_any = incumbent.choice is not None
        self.limits = np.array([self._limits(incumbent.key)] * len(settings)).T
        self.depths = depths = tuple(axis.depth for axis in self.axes)
        self.heights = [sum(min(level, depth) for depth in depths) for level in range(self.top + 1)]
        self.begins = np.array([[[axis.begin(level)] for axis in self.axes] for level in range(self.top + 1)])
        self.cuts: dict[tuple[int, int], tuple[Ints, Ints]] = {}
        self.last_columns = np.array([[(1 << depth) - 1] for depth in depths])
        self.weights = np.array([len(self.orders) << sum(depths), 1 << sum(depths), 1 << sum(depths[1:]), 1 << depths[2], 1])
        self.placing: dict[int, tuple[Ints, Ints]] = {}
        self.costs: dict[tuple[int, int], Costs] = {}
        self.known = 0
        self.opened = self.priced = self.calls = 0
        self.budget_boxes = budget_boxes

    @cached_property
    def priced_alike(self) -> Ints:
        """[variants]: a number that those have in common that `_price_many` prices at once."""
        alike = {key: i for i, key in enumerate({(flow, axis, split == (1, 1)): None for split, flow, axis in self.chosen})}
        return np.array([alike[flow, axis, split == (1, 1)] for split, flow, axis in self.chosen])

    @cached_property
    def ranks(self) -> Ints:
        """[stages, axes, orders]."""
        return np.array(self.orders).transpose(1, 2, 0)

    @property
    def found(self) -> Found:
        """The best mapping so far, of one chip."""
        return self.founds[0]

    @on_one_thread
    def run(self) -> list[Found]:
        """Open boxes until none is left that could hold anything better: first on trust, where nothing is known yet."""
        latency = self.keys.index(0)
        waiting = None
        if self.has_all or self.budget_boxes < math.inf or not self.may_trust or not self._ends_well():
            waiting = self._open(self._price)
        if waiting is None:
            return [best._replace(is_exact=True, least_s=best.key[latency]) for best in self.founds]
        bounds_s = [float(boxes.bounds[latency].min()) for boxes in waiting.values()]
        return [best._replace(least_s=min([*bounds_s, best.key[latency]])) for best in self.founds]

    def _open(self, singles: Callable[[_Boxes], _Boxes | None]) -> dict[int, _Boxes] | None:
        """Open boxes: first straight down to an incumbent, the best boxes of each level; then level by level, if that is not too much at a
        time. Where there is a budget, or too much, on along the best. `singles` is given what is left as single mappings, and gives back
        what is left of them. What waits when the budget is spent, level by level; None if nothing is left before."""
        level, where = self.start()
        boxes, known = self._bounded(level, where), self.known
        waiting = {level: boxes} if boxes.boxes else {}
        while self.opened < self.budget_boxes or not self.has_all:
            if self.known != known:
                known, waiting = self.known, {level: self._promising(boxes) for level, boxes in waiting.items()}
                waiting = {level: boxes for level, boxes in waiting.items() if boxes.boxes}
            if not waiting:
                return None
            level = self._next_level(waiting)
            boxes = waiting.pop(level)
            if level == 0:
                left = singles(boxes)
                if left is not None and left.boxes:
                    waiting[0], self.opened = left, max(self.opened, int(self.budget_boxes))
            else:
                where = boxes.where
                if boxes.boxes > self._batch:
                    best, others = self._best(boxes, self._batch)
                    where, waiting[level] = where.take(best, axis=1), boxes.take(others)
                below = self._below(level, where.shape[1])
                boxes = self._bounded(below, self.children(level, where, below))
                if boxes.boxes:
                    waiting[below] = boxes.joined(waiting.get(below))
        return waiting

    def _ends_well(self) -> bool:
        """Search on trust: take the bounds of single mappings for their costs, which mostly they are, and price what is left of them only
        at the end. Whether the best of that is no worse than what it was trusted to be: if so, nothing was dropped that is better."""
        kept: list[_Boxes] = []

        def keep(boxes: _Boxes) -> None:
            self._trust(boxes)
            kept.append(boxes.unknown())

        self._open(keep)
        left: _Boxes | None = None
        limits = self.limits.T.tolist()
        for boxes in kept:
            left = self._promising(boxes).joined(left)
        for chip in range(len(self.founds)):
            self._let_lead(chip, NONE_FOUND)
        if left:
            self._price(left.unknown())
        return all(_is_within(best.key, own) for best, own in zip(self.founds, limits, strict=True))

    def _trust(self, boxes: _Boxes) -> None:
        """Let the best of some single mappings be the incumbent of each setting, as if its bound, which is lowered, was its cost: the best
        of those for which that is not doubtful; if it is for all, the best is priced. Its place counts as later than it is, so that it is
        not dropped itself."""
        latency = self.keys.index(0)
        for chip, own in self._of_each(boxes):
            clear, best = own, self._first(own)
            if self.bounder.beyond and self._are_doubtful(own.where[:, best : best + 1]).any():
                clear = own.take((~self._are_doubtful(own.where)).nonzero()[0])
                best = self._first(clear if clear.boxes else own)
            where = (clear if clear.boxes else own).where[:, best : best + 1]
            if clear.boxes:
                amounts = clear.bounds[:, best] * _TRUSTED
                amounts[latency] = clear.bounds[latency, best]
            else:
                amounts = self._keys(self._costs_of(chip, where), 1)[:, 0]
            key = (*amounts.tolist(), self.place(0, where).item() + 0.5)
            if key < self.founds[chip].key:
                self._let_lead(chip, Found(key, _SOME))

    def _are_doubtful(self, where: Ints) -> NDArray[np.bool_]:
        """Of single mappings, whether their costs may well be above their bounds."""
        return self.bounder.doubtful(self.table.take(where[2:], axis=1))

    def _of_each(self, boxes: _Boxes) -> Iterator[tuple[int, _Boxes]]:
        """Those of each setting that has any, and its number."""
        if self.is_one:
            yield 0, boxes
            return
        numbers = self.numbers.take(boxes.where[0])
        for chip in np.unique(numbers).tolist():
            yield chip, boxes.take((numbers == chip).nonzero()[0])

    @property
    def _batch(self) -> int:
        """Boxes that are opened at a time."""
        first, limited, unlimited = _BATCH_BOXES
        return (first if not self.has_all else limited if self.budget_boxes < math.inf else unlimited) * len(self.settings)

    def _next_level(self, waiting: Mapping[int, _Boxes]) -> int:
        """Where to go on."""
        if not self.has_all or self.budget_boxes < math.inf:
            return min(waiting)
        most = self._batch
        return max((level for level, boxes in waiting.items() if boxes.boxes <= most), default=min(waiting))

    def _below(self, level: int, count: int) -> int:
        """The level of the parts into which so many boxes are cut: the lowest at which they are not too many."""
        if self.budget_boxes < math.inf:
            return level - 1
        below, most = level - 1, _PARTS_AT_A_TIME
        while below and count << self.heights[level] - self.heights[below - 1] <= most:
            below -= 1
        return below

    def start(self) -> tuple[int, Ints]:
        """The whole space in boxes of the highest level."""
        level = self.top
        blocks = [1 << max(0, axis.depth - level) for axis in self.axes]
        where = _all_of(len(self.chosen), len(self.orders), *blocks).copy()
        firsts = [axis.begin(level) + axis.kinds * count for axis, count in zip(self.axes, blocks, strict=True)]
        where[2:] += np.array(firsts).take(where[0], axis=1)
        return level, where

    def children(self, level: int, where: Ints, below: int) -> Ints:
        """The parts of each box that are boxes of a level below."""
        if (level, below) not in self.cuts:
            outer, corners = _corners(self.depths, level, below)
            begins = self.begins[below] - self.begins[level] * outer
            self.cuts[level, below] = outer, corners + begins[:, :, None]
        outer, offsets = self.cuts[level, below]
        children = np.empty((5, where.shape[1], offsets.shape[2]), dtype=np.int64)
        children[:2] = where[:2, :, None]
        np.add((where[2:] * outer)[:, :, None], offsets, out=children[2:])
        return children.reshape(5, -1)

    def _bounded(self, level: int, where: Ints) -> _Boxes:
        """Boxes with their bounds, less those that cannot fit or hold nothing better."""
        table = self.of_boxes if level else self.table
        if len(self.settings) > 1 or (self.has_all and where.shape[1] > _MANY_BOXES):
            cycles = np.multiply.reduce(table[self.bounder.at.cycles].take(where[2:], mode="clip"))
            where = where.compress(cycles < self._limits_of(where[0])[9], axis=1)
        self.opened += where.shape[1]
        self.calls += 1
        numbers = table.take(where[2:], axis=1, mode="clip")
        # In the order of ranking, with latencies on the grid; the first is infinite where tiles do not fit.
        bounds, unfit = self.bounder(numbers, where[1], where[0], single=level == 0)
        latency = bounds[0].view(np.int64)
        latency += _STEP // 2
        latency &= -_STEP
        if self.keys[0]:
            bounds = bounds.take(self.keys, axis=0)
        np.copyto(bounds[0], np.inf, where=unfit)
        return self._promising(_Boxes(level, where, bounds, -1))

    def _limits(self, key: Key) -> list[float]:
        """What bounds are compared with, for an incumbent."""
        highs = [min(amount, _LARGEST) for amount in key]
        cycles = math.inf if self.keys[0] else key[0] * float(self.setting.clock_hz) * (1 + GRID)
        return [*(amount * (1 - 2 * ROUNDING) for amount in highs[:4]), *highs, min(cycles, NO_TILE / 1e6)]

    def _limits_of(self, variants: Ints) -> Floats:
        """[10, 1 or boxes]: the limits of the boxes' settings."""
        return self.limits if self.is_one else self.limits.take(self.numbers.take(variants), axis=1)

    def _promising(self, boxes: _Boxes) -> _Boxes:
        """Boxes that fit and may hold something better than what was found: of what is ranked first that differs it has less."""
        if self.known == boxes.known or not boxes.boxes:
            return boxes
        if self.has_any:
            limits = self._limits_of(boxes.where[0])
            near = (boxes.bounds[0] <= limits[4]).nonzero()[0]
            if not len(near):
                return boxes.take(near)
            if len(near) < boxes.boxes:
                boxes, limits = boxes.take(near), limits if self.is_one else limits.take(near, axis=1)
            less, more = np.less(boxes.bounds, limits[:4]), np.greater(boxes.bounds, limits[4:8])
            sign = _FIRST_ROW_DECIDES @ np.subtract(less.view(np.int8), more.view(np.int8))
            better = sign > 0
            equal = (sign == 0).nonzero()[0]
            if len(equal):
                before = limits[8] if self.is_one else limits[8].take(equal)
                better[equal] = self.place(boxes.level, boxes.where.take(equal, axis=1)) < before
        else:
            better = boxes.bounds[0] < np.inf
        left = better.nonzero()[0]
        if len(left) < boxes.boxes:
            boxes = boxes.take(left)
        return _Boxes(boxes.level, boxes.where, boxes.bounds, self.known)

    def _parted(self, boxes: _Boxes, count: int) -> tuple[_Boxes, _Boxes | None]:
        """The best ones, as many of each setting, and the rest."""
        if boxes.boxes <= count:
            return boxes, None
        best, others = self._best(boxes, count)
        return boxes.take(best), boxes.take(others)

    def _best(self, boxes: _Boxes, count: int) -> tuple[Ints, Ints]:
        """Which of more than so many boxes they are."""
        first, second, third = boxes.bounds[:3]
        one = first.item(0)
        score = first + second * (one / second.item(0) * 1e-10) + third * (one / third.item(0) * 1e-13)
        if self.is_one:
            order = np.argpartition(score, count)
            return order[:count], order[count:]
        numbers = self.numbers.take(boxes.where[0])
        order = np.argsort(numbers + score * (0.5 / score.max()))
        often = np.bincount(numbers)
        ranks = np.arange(len(order)) - (often.cumsum() - often).repeat(often)
        is_best = ranks < count // len(self.settings)
        return order.compress(is_best), order.compress(~is_best)

    def place(self, level: int, where: Ints) -> Ints:
        """The first place among all mappings that a box has."""
        if level not in self.placing:
            heights = np.array([[min(level, axis.depth)] for axis in self.axes])
            self.placing[level] = self.begins[level], heights
        begins, heights = self.placing[level]
        within = (where[2:] - begins << heights) & self.last_columns
        place: Ints = self.weights[:2] @ where[:2] + self.weights[2:] @ within
        return place

    def _price(self, boxes: _Boxes) -> _Boxes | None:
        """Price single mappings, best first, as long as they may be better; what the budget does not allow is left."""
        if self.is_one:
            return self._price_on(0, boxes)
        if not is_one_chip(self.settings):
            boxes = self._price_firsts(boxes)
        for chip, own in self._of_each(boxes):
            self._price_on(chip, own)
        return None

    def _price_firsts(self, boxes: _Boxes) -> _Boxes:
        """Price the first mapping of each chip, all that are of one variant together; what still is promising is left."""
        chips = self.numbers.take(boxes.where[0])
        alike: dict[Variant, list[tuple[int, int]]] = {}
        for chip in np.unique(chips).tolist():
            own = (chips == chip).nonzero()[0]
            first = int(own[self._first(boxes.take(own))])
            alike.setdefault(self.chosen[int(boxes.where[0, first])], []).append((chip, first))
        for pairs in alike.values():
            wheres = [boxes.where[:, first : first + 1] for _, first in pairs]
            choices = [self.chosen_at(where) for where in wheres]
            costs = evaluate(with_arrays(self.settings, [chip for chip, _ in pairs], [1] * len(pairs)), together(choices))
            for (chip, first), amounts, where, choice in zip(pairs, self._keys(costs, len(pairs)).T, wheres, choices, strict=True):
                self._take(chip, amounts, where, choice)
                boxes.bounds[0, first] = np.inf
            self.priced += len(pairs)
        return self._promising(boxes.unknown())

    def _price_on(self, chip: int, boxes: _Boxes) -> _Boxes | None:
        """Few one by one, the best first; all others together, but of very many the best first, too: mostly they spare the rest."""
        alone = 0
        while boxes.boxes:
            if self.priced >= self.budget_boxes / _BOXES_PER_PRICED and self.has_all:
                return boxes
            if boxes.boxes <= _ONE_BY_ONE or (boxes.boxes > _BATCH_PRICED and alone < _ONE_BY_ONE):
                best = self._first(boxes)
                self._price_one(chip, boxes.where[:, best : best + 1])
                self.priced, alone = self.priced + 1, alone + 1
                boxes.bounds[0, best] = np.inf
                boxes = self._promising(boxes.unknown())
                continue
            first, rest = self._parted(boxes, _BATCH_PRICED)
            kinds = self.priced_alike.take(first.where[0])
            for kind in np.unique(kinds).tolist():
                self._price_many(chip, first.where[:, kinds == kind])
            self.priced += first.boxes
            if rest is None:
                return None
            boxes = self._promising(rest)
        return None

    def _first(self, boxes: _Boxes) -> int:
        """The box of the least bounds, and of equal ones the first: mostly bounds of mappings are costs, and then it is the best."""
        first = boxes.bounds[0]
        among = (first == np.minimum.reduce(first)).nonzero()[0]
        if len(among) == 1:
            return int(among[0])
        rest = on_grid(boxes.bounds[1:].take(among, axis=1))
        among = among.compress((rest == rest[:, np.lexsort(rest[::-1])[:1]]).all(axis=0))
        return int(among[0] if len(among) == 1 else among[self.place(0, boxes.where.take(among, axis=1)).argmin()])

    def tiles(self, where: Ints) -> tuple[Any, Any]:
        """Tiles and ranks of single mappings of one variant."""
        variant = int(where[0, 0])
        stages = range(len(self.setting.stages))
        tiles = []
        for axis, column in zip(self.axes, where[2:], strict=True):
            kind = axis.kinds[variant]
            tiles.append(axis.tiles[kind].take(column - axis.begins[0] - (kind << axis.depth), axis=1, mode="clip"))
        ranks = self.ranks[..., where[1]]
        return tuple(tuple(axis[s] for axis in tiles) for s in stages), tuple(tuple(ranks[s]) for s in stages)

    def where(self, choice: Choice) -> Ints:
        """[5, 1]: the variant, the order and the columns of the single mapping that a choice is."""
        variant = self.chosen.index(Variant(choice.split, choice.dataflow, choice.array_axis))
        found = [variant, self.orders.index(choice.ranks)]
        for number, axis in enumerate(self.axes):
            kind = axis.kinds[variant]
            same = np.equal(axis.tiles[kind].T, [tile[number] for tile in choice.tiles]).all(axis=1)
            found.append(axis.begins[0] + (kind << axis.depth) + int(same.argmax()))
        return np.array(found)[:, None]

    def chosen_at(self, where: Ints) -> Choice:
        """The choice that a single mapping [5, 1] is."""
        (variant, order, *columns), tiles = where[:, 0].tolist(), []
        for axis, column in zip(self.axes, columns, strict=True):
            kind = int(axis.kinds[variant])
            tiles.append(axis.tiles[kind][:, column - axis.begins[0] - (kind << axis.depth)].tolist())
        return Choice(tuple(zip(*tiles, strict=True)), self.orders[order], *self.chosen[variant])

    def _price_one(self, chip: int, where: Ints) -> None:
        costs = self._costs_of(chip, where)
        self._take(chip, self._keys(costs, 1)[:, 0], where, costs=costs)

    def _costs_of(self, chip: int, where: Ints) -> Costs:
        """Of one mapping, each priced once."""
        which = chip, self.place(0, where).item()
        if which not in self.costs:
            self.costs[which] = evaluate(self.settings[chip], self.chosen_at(where))
        return self.costs[which]

    def _price_many(self, chip: int, where: Ints) -> None:
        """Mappings of variants that are alike but for how many cores they are split over, at once."""
        own, choices = [where[:, where[0] == variant] for variant in np.unique(where[0])], []
        for each in own:
            tiles, ranks = self.tiles(each)
            choices.append(Choice(tiles, ranks, *self.chosen[int(each[0, 0])]))
        where = np.concatenate(own, axis=1)
        tiles, ranks = (np.concatenate([choice[i] for choice in choices], axis=2) for i in (0, 1))
        split: Any = choices[0].split
        if len(own) > 1:
            often = [each.shape[1] for each in own]
            split = tuple(np.array([choice.split for choice in choices]).repeat(often, axis=0).T)
        choice = choices[0]._replace(tiles=tuple(map(tuple, tiles)), ranks=tuple(map(tuple, ranks)), split=split)
        keys = self._keys(evaluate(self.settings[chip], choice), where.shape[1])
        best = int(np.lexsort((self.place(0, where), *keys[::-1]))[0])
        self._take(chip, keys[:, best], where[:, best : best + 1])

    def _keys(self, costs: Costs, mappings: int) -> Floats:
        """[4, mappings]: all of the key but the place."""
        keys = np.empty((4, mappings))
        amounts = costs.latency_s, costs.dram_bytes, costs.moved_bytes, costs.steps
        for row, key in enumerate(self.keys):
            keys[row] = amounts[key]
        keys[self.keys.index(0)] = on_grid(keys[self.keys.index(0)])
        return keys

    def _take(self, chip: int, amounts: Floats, where: Ints, choice: Choice | None = None, costs: Costs | None = None) -> None:
        """Let a mapping be the incumbent if it comes before it."""
        key = (*amounts.tolist(), int(self.place(0, where)[0]))
        if key < self.founds[chip].key:
            self._let_lead(chip, Found(key, choice or self.chosen_at(where), costs))

    def _let_lead(self, chip: int, found: Found) -> None:
        """Make something the incumbent: boxes are looked at again."""
        self.founds[chip], self.limits[:, chip] = found, self._limits(found.key)
        has = [best.choice is not None for best in self.founds]
        self.has_all, self.has_any = all(has), any(has)
        self.known += 1


_ALL_UP_TO = 24
_FEW_CORES = 2
"""Extents of GEMMs, and cores of splits, of which all tiles are searched where there are two stages: mostly tenths of a second."""

_BOXES_PER_PRICED = 20
"""Boxes of a budget for one mapping that may be priced."""


def search(setting: Setting, objective: str, budget_boxes: float = 0) -> Found:
    """The best mapping. Raises `BadInput` if no tile fits.

    Of all candidates, if the chip has one stage; else of those that `thin_tiles` and `thin_variants` leave, and of all over up to two cores
    if they are few and the stages two. To the last in any case: a larger capacity, a higher rate and more cores, which only add to what is
    searched, never give a worse mapping. `budget_boxes`: look at all candidates, whatever the chip, until so many boxes are opened.
    """
    return search_each([setting], objective, budget_boxes)[0]


def search_each(settings: Sequence[Setting], objective: str, budget_boxes: float = 0) -> list[Found]:
    """The same of each of some GEMMs on one chip; those of one form are searched side by side."""
    founds = [NONE_FOUND] * len(settings)
    alike: dict[Any, list[tuple[int, Space]]] = {}
    for number, setting in enumerate(settings):
        space = _first_space(setting)
        alike.setdefault((form_of(setting), tuple(space[1]), space[2]), []).append((number, space))
    for own in alike.values():
        several = [settings[number] for number, _ in own]
        budget = budget_boxes or math.inf if len(several[0].stages) == 1 else math.inf
        for (number, _), found in zip(own, _side_by_side(several, [space for _, space in own], objective, budget), strict=True):
            founds[number] = found
    for number, setting in enumerate(settings):
        second = _second_space(setting, budget_boxes)
        if second is not None:
            # The place of what was found among others counts for nothing here.
            first = founds[number]._replace(key=(*founds[number].key[:4], math.inf))
            founds[number] = _side_by_side([setting], [second], objective, budget_boxes or math.inf, first)[0]
        if len(setting.stages) > 1 and not (budget_boxes or (second is not None and setting.cores <= _FEW_CORES)):
            founds[number] = founds[number]._replace(is_exact=False, least_s=0.0)
        if founds[number].choice is None:
            inner = setting.places[-1].level.name
            raise BadInput(Problem("no tile fits every level", f"raise memory.{inner}.capacity", path=f"memory.{inner}.capacity"))
    return founds


def _first_space(setting: Setting) -> Space:
    return all_of(setting) if len(setting.stages) == 1 else thin_of(setting)


def _second_space(setting: Setting, budget_boxes: float) -> Space | None:
    """What is searched after what `thin_tiles` leaves: all if so many boxes may be opened; of small GEMMs, where there are two stages, what
    they may do on few cores, however many there are, so that more are never worse."""
    is_small = len(setting.stages) == 2 and max(setting.extents) <= _ALL_UP_TO
    if len(setting.stages) == 1 or not (is_small or budget_boxes):
        return None
    chosen, orders, tiles_of = all_of(setting)
    few = [variant for variant in chosen if budget_boxes or math.prod(variant.split) <= _FEW_CORES]
    return (few, orders, tiles_of) if few else None


def _side_by_side(
    settings: Sequence[Setting], spaces: Sequence[Space], objective: str, budget_boxes: float, incumbent: Found = NONE_FOUND
) -> list[Found]:
    """What is found for each, or `incumbent` where no tile fits."""
    try:
        return Search(settings, spaces, objective, budget_boxes, incumbent).run()
    except NoTile:
        if len(settings) == 1:
            return [incumbent]
        each = zip(settings, spaces, strict=True)
        return [_side_by_side([setting], [space], objective, budget_boxes, incumbent)[0] for setting, space in each]


def search_few(setting: Setting, budget_boxes: float) -> Found:
    """The mapping of least latency among so many boxes of those that `search` looks at first; `NONE_FOUND` if no tile fits."""
    return _side_by_side([setting], [_first_space(setting)], "latency", budget_boxes)[0]
