"""Finds the mapping of least tiled cost: branch and bound over boxes of tiles.

**Space.** `sim.mapper.candidates`: tiles along each axis, combined with all loop orders, dataflows, array axes and splits.

**Discarding.** Candidates of an axis lie sorted; blocks of 2^level neighbours carry the minima of their numbers. `sim.mapper.bound` of
three blocks is below every mapping of the box that they span (proof there), in latency, DRAM bytes, bytes moved and tile steps alike. A box
is dropped if its latency bound is above the incumbent's latency, or equal and the next bound above the next key, and so on, or if no bound
is below: what is dropped holds nothing better. Boxes are opened best first, so that a good incumbent is there early; what survives as a
single mapping is priced by `sim.mapper.cost` itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from functional.errors import BadInput, Problem
from sim.mapper import array
from sim.mapper.bound import Bounder
from sim.mapper.candidates import ORDERS, ORDERS_ALIKE, Variant, all_tiles, fit_alone, thin_tiles, thin_variants, variants
from sim.mapper.cost import Costs, evaluate
from sim.mapper.problem import Choice, Setting
from sim.mapper.tables import Floats, Ints, Kind, asked_of, axis_tables

_ROUNDING = 1e-12
"""Share by which a bound is lowered before it is compared with an exact cost: sums in another order differ in their last bits."""

_BOXES_AT_FIRST = 1024
"""Boxes with which a search may begin: those of the highest levels are hardly ever discarded."""

_BATCH_BOXES = (24, 64, 256)
"""Boxes opened at a time: until there is an incumbent, after that with a budget, and without one."""

_ONE_BY_ONE = 4
_BATCH_PRICED = 64
"""Mappings priced one by one (mostly the best is among them), and then at a time."""


class Found(NamedTuple):
    """The best mapping so far, what it is ranked by, and its costs where it was priced by itself; whether nothing in the whole space is
    better, and (for the latency) a bound below all of it."""

    key: tuple[float, float, float, float]
    choice: Choice | None
    costs: Costs | None = None
    is_exact: bool = False
    least_s: float = 0.0


class _Axis(NamedTuple):
    """Numbers of one axis: `levels[l]` [rows, kinds * blocks] are minima over blocks of 2^l candidates, `blocks[l]` as many per kind;
    `tiles` of each kind: [stages, candidates], and which of them there are; `kinds[variant]`."""

    levels: list[Floats]
    blocks: list[int]
    tiles: list[tuple[Ints, Ints]]
    kinds: Ints


def _axis(setting: Setting, axis: int, chosen: Sequence[Variant], tiles_of: Any) -> _Axis:
    kinds: dict[int, list[Kind]] = {}
    for variant in chosen:
        flows = kinds.setdefault((*variant.split, 1)[axis], [])
        if variant[1:] not in flows:
            flows.append(variant[1:])
    places: dict[Any, int] = {}
    tables: list[tuple[Floats, Ints]] = []
    tiles: list[tuple[Ints, Ints]] = []
    for parts, flows in kinds.items():
        columns, numbers = axis_tables(asked_of(setting, axis, parts, flows, tiles_of))
        fine = np.flatnonzero(fit_alone(setting, axis, columns))
        if not len(fine):
            raise NoTile
        for flow, table in zip(flows, numbers, strict=True):
            alike = next(i for i, other in enumerate(numbers) if other is table)
            if (parts, flows[alike]) not in places:
                places[parts, flows[alike]] = len(tables)
                tables.append((table, fine))
                tiles.append((columns, fine))
            places[parts, flow] = places[parts, flows[alike]]
    depth = (max(len(fine) for _, fine in tables) - 1).bit_length()
    padded = [_padded(table, fine, 2**depth) for table, fine in tables]
    levels, blocks = [padded[0] if len(padded) == 1 else np.hstack(padded)], [2**depth]
    for _ in range(depth):
        levels.append(np.minimum(levels[-1][:, ::2], levels[-1][:, 1::2]))
        blocks.append(blocks[-1] // 2)
    of_variant = [places[(*variant.split, 1)[axis], variant[1:]] for variant in chosen]
    return _Axis(levels, blocks, tiles, np.array(of_variant))


def _padded(columns: Any, fine: Ints, width: int) -> Any:
    """The fine columns, the last of them repeated."""
    which = np.full(width, fine[-1])
    which[: len(fine)] = fine
    return columns.take(which, axis=1)


class _Level(NamedTuple):
    """The axes at one level, side by side: `table` [rows, blocks of all axes], where the blocks of a variant begin in it [axes, variants],
    and into how many each block of an axis is parted a level below."""

    table: Floats
    begins: Ints
    parted: tuple[int, int, int]


def _levels(axes: Sequence[_Axis]) -> list[_Level]:
    levels = []
    for level in range(max(len(axis.levels) for axis in axes)):
        tables, begins, before = [], [], 0
        for axis in axes:
            height = min(level, len(axis.levels) - 1)
            tables.append(axis.levels[height])
            begins.append(before + axis.kinds * axis.blocks[height])
            before += tables[-1].shape[1]
        m, n, k = (2 if level < len(axis.levels) else 1 for axis in axes)
        levels.append(_Level(np.hstack(tables), np.array(begins), (m, n, k)))
    return levels


class NoTile(Exception):
    """Along some axis no tile fits."""


class _Boxes(NamedTuple):
    """Boxes of one level: variant, order and block along m, n and k of each; their bounds, in the order of ranking; a score to sort by;
    and the incumbent that they were compared with."""

    level: int
    where: Ints
    bounds: Floats
    score: Floats
    known: Choice | None

    def take(self, which: Any) -> _Boxes:
        return _Boxes(self.level, self.where.take(which, axis=1), self.bounds.take(which, axis=1), self.score.take(which), self.known)

    def split(self, count: int) -> tuple[_Boxes, _Boxes | None]:
        """The best ones, and the rest."""
        if len(self.score) <= count:
            return self, None
        order = np.argpartition(self.score, count)
        return self.take(order[:count]), self.take(order[count:])


def _joined(some: Sequence[_Boxes]) -> _Boxes:
    if len(some) == 1:
        return some[0]
    where, bounds = (np.hstack([getattr(boxes, name) for boxes in some]) for name in ("where", "bounds"))
    known = some[0].known if all(boxes.known is some[0].known for boxes in some) else None
    return _Boxes(some[0].level, where, bounds, np.hstack([boxes.score for boxes in some]), known)


class Search:
    """One search: the tables, and what was found so far."""

    def __init__(
        self,
        setting: Setting,
        chosen: Sequence[Variant],
        orders: Sequence[tuple[tuple[int, int, int], ...]],
        tiles_of: Any,
        objective: str = "latency",
        budget_boxes: float = math.inf,
        incumbent: Found | None = None,
    ) -> None:
        self.setting, self.chosen, self.orders = setting, chosen, orders
        self.axes = [_axis(setting, axis, chosen, tiles_of) for axis in range(3)]
        self.levels = _levels(self.axes)
        self.bounder = Bounder(setting, orders, [array.drain_cycles(setting, variant.dataflow) for variant in chosen])
        self.keys = [1, 0, 2, 3] if objective == "traffic" else [0, 1, 2, 3]
        self.ranks = np.array(orders).transpose(1, 2, 0)
        self.found = incumbent or Found((np.inf, np.inf, np.inf, np.inf), None)
        self.opened = self.priced = self.calls = 0
        self.budget_boxes = budget_boxes

    def run(self) -> Found:
        """Open boxes until none is left that could hold anything better: first straight down to an incumbent, the best boxes of each level;
        then level by level, if that is not too much at a time. Where there is a budget, or too much, on along the best."""
        first = self._bounded(*self._start())
        waiting: list[list[_Boxes]] = [[] for _ in range(first.level + 1)]
        waiting[first.level].append(first)
        while self.opened < self.budget_boxes or self.found.choice is None:
            level = self._next_level(waiting)
            if level is None:
                return self.found._replace(is_exact=True, least_s=self.found.key[self.keys.index(0)])
            boxes = self._promising(_joined(waiting[level]))
            waiting[level] = []
            if level == 0:
                unpriced = self._price(boxes)
                if unpriced is not None:
                    waiting[0].append(unpriced)
                    self.opened = max(self.opened, int(self.budget_boxes))
                continue
            boxes, rest = boxes.split(self._batch)
            if rest is not None:
                waiting[level].append(rest)
            if len(boxes.score):
                waiting[level - 1].append(self._bounded(level - 1, self._children(level, boxes.where)))
        left = [float(boxes.bounds[self.keys.index(0)].min()) for each in waiting for boxes in each if len(boxes.score)]
        return self.found._replace(least_s=min([*left, self.found.key[self.keys.index(0)]]))

    @property
    def _batch(self) -> int:
        first, limited, unlimited = _BATCH_BOXES
        return first if self.found.choice is None else limited if self.budget_boxes < math.inf else unlimited

    def _next_level(self, waiting: Sequence[Sequence[_Boxes]]) -> int | None:
        counts = [sum(len(boxes.score) for boxes in level) for level in waiting]
        levels = [level for level, count in enumerate(counts) if count]
        if not levels or self.found.choice is None or self.budget_boxes < math.inf:
            return levels[0] if levels else None
        return next((level for level in reversed(levels) if counts[level] <= self._batch), levels[0])

    def _start(self) -> tuple[int, Ints]:
        """The whole space in boxes of one level: the highest with so many that they are worth a batch."""
        level = len(self.levels) - 1
        where = np.array(list(product(range(len(self.chosen)), range(len(self.orders)), [0], [0], [0]))).T
        while level > 0 and where.shape[1] * math.prod(self.levels[level].parted) <= _BOXES_AT_FIRST:
            where = self._children(level, where)
            level -= 1
        return level, where

    def _children(self, level: int, where: Ints) -> Ints:
        """The parts of each box along every axis that has blocks of this level."""
        parted = self.levels[level].parted
        offsets = np.indices(parted).reshape(3, 1, -1)
        children = np.empty((5, where.shape[1], offsets.shape[2]), dtype=np.int64)
        children[:2] = where[:2, :, None]
        np.add(where[2:, :, None] * np.array(parted)[:, None, None], offsets, out=children[2:])
        return children.reshape(5, -1)

    def _bounded(self, level: int, where: Ints) -> _Boxes:
        """Boxes with their bounds, less those that cannot fit or hold nothing better."""
        self.opened += where.shape[1]
        self.calls += 1
        table, begins, _ = self.levels[level]
        numbers = table.take(begins.take(where[0], axis=1) + where[2:], axis=1, mode="clip")
        fine = self.bounder.fits(numbers)
        if not fine.all():
            kept = np.flatnonzero(fine)
            where, numbers = where.take(kept, axis=1), numbers.take(kept, axis=2)
        bounds = self.bounder(numbers, where[1], where[0], single=level == 0)
        ranked = np.stack([bounds[key] for key in self.keys])
        ranked *= 1 - _ROUNDING
        if where.shape[1] == 0:
            return _Boxes(level, where, ranked, ranked[0], None)
        score = ranked[0] + ranked[1] * (ranked[0, 0] / ranked[1, 0] * 1e-10) + ranked[2] * (ranked[0, 0] / ranked[2, 0] * 1e-13)
        return self._promising(_Boxes(level, where, ranked, score, None))

    def _promising(self, boxes: _Boxes) -> _Boxes:
        """Boxes that may hold something better than what was found."""
        if self.found.choice is boxes.known:
            return boxes
        first = self.found.key[0]
        kept = np.flatnonzero(boxes.bounds[0] <= first)
        if len(kept) < len(boxes.score):
            boxes = boxes.take(kept)
        tied = boxes.bounds[0] >= first * (1 - 2 * _ROUNDING)
        if not tied.any():
            return boxes._replace(known=self.found.choice)
        better: Any = ~tied
        equal: Any = tied
        for low, best in zip(boxes.bounds[1:], self.found.key[1:], strict=True):
            better = better | (equal & (low < best * (1 - 2 * _ROUNDING)))
            equal = equal & (low <= best)
        return boxes.take(np.flatnonzero(better))._replace(known=self.found.choice)

    def _price(self, boxes: _Boxes) -> _Boxes | None:
        """Price single mappings, best first, as long as they may be better; what the budget does not allow is left."""
        batch = 1
        while len(boxes.score):
            if self.priced >= self.budget_boxes / _BOXES_PER_PRICED and self.found.choice is not None:
                return boxes
            first, rest = boxes.split(batch)
            if batch == 1:
                self._price_one(first)
            else:
                for variant in np.unique(first.where[0]):
                    self._price_many(first.take(np.flatnonzero(first.where[0] == variant)))
            self.priced += len(first.score)
            if rest is None:
                return None
            boxes = self._promising(rest)
            if self.priced >= _ONE_BY_ONE and len(boxes.score) > _ONE_BY_ONE:
                batch = _BATCH_PRICED
        return None

    def _tiles(self, boxes: _Boxes) -> tuple[Any, Any]:
        """Tiles and ranks of single mappings of one variant."""
        variant = int(boxes.where[0, 0])
        stages = range(len(self.setting.stages))
        tiles = []
        for number, axis in enumerate(self.axes):
            columns, fine = axis.tiles[axis.kinds[variant]]
            tiles.append(columns.take(fine.take(boxes.where[2 + number], mode="clip"), axis=1))
        ranks = self.ranks[..., boxes.where[1]]
        return tuple(tuple(axis[s] for axis in tiles) for s in stages), tuple(tuple(ranks[s]) for s in stages)

    def _chosen(self, boxes: _Boxes, which: int) -> Choice:
        tiles, ranks = self._tiles(boxes.take([which]))
        whole = [tuple(tuple(int(each[0]) for each in stage) for stage in stages) for stages in (tiles, ranks)]
        return Choice(whole[0], whole[1], *self.chosen[int(boxes.where[0, which])])  # type: ignore[arg-type]

    def _price_one(self, boxes: _Boxes) -> None:
        choice = self._chosen(boxes, 0)
        costs = evaluate(self.setting, choice)
        ranked: tuple[Any, ...] = costs[:4]
        key = tuple(float(ranked[each]) for each in self.keys)
        if key < self.found.key:
            self.found = Found(key, choice, costs)  # type: ignore[arg-type]

    def _price_many(self, boxes: _Boxes) -> None:
        tiles, ranks = self._tiles(boxes)
        costs = evaluate(self.setting, Choice(tiles, ranks, *self.chosen[int(boxes.where[0, 0])]))
        ranked = np.array([np.broadcast_to(costs[:4][key], boxes.where.shape[1:]) for key in self.keys])
        best = int(np.lexsort(ranked[::-1])[0])
        key = tuple(float(each) for each in ranked[:, best])
        if key < self.found.key:
            self.found = Found(key, self._chosen(boxes, best))  # type: ignore[arg-type]


_ALL_UP_TO_MACS = 24**3
"""GEMMs that are searched to the last on up to two stages and two cores, however long it takes: mostly tenths of a second."""

_BOXES_PER_PRICED = 20
"""Boxes of a budget for one mapping that may be priced."""

BUDGET_BOXES = 6000
"""Boxes after which the thinned search is content with what it has."""

_BUDGET_BOXES_ALL = 100_000
"""The same for all tiles of one stage that several cores share out among them: many splits are nearly as good as each other."""


def search(setting: Setting, objective: str, budget_boxes: float | None = None) -> Found:
    """The best mapping. Raises `BadInput` if no tile fits.

    With up to two cores all candidates are searched to the last, if the chip has one stage, or two and they are few; else, with one stage
    or few, until a budget is spent; else only thinned out. `budget_boxes`: search all of them for that long, whatever the chip.
    """
    stages = len(setting.stages)
    few = setting.gemm.macs <= _ALL_UP_TO_MACS
    to_the_last = budget_boxes is None and setting.cores <= 2 and (stages == 1 or (few and stages <= 2))
    found = None
    if stages > 1:
        with suppress(NoTile):
            found = _search_thin(setting, objective)
    if few or stages == 1 or budget_boxes is not None or found is None or found.choice is None:
        with suppress(NoTile):
            found = _search_all(setting, objective, math.inf if to_the_last else budget_boxes or _BUDGET_BOXES_ALL, found)
    if found is not None and found.choice is not None:
        return found
    inner = setting.places[-1].level.name
    raise BadInput(Problem("no tile fits every level", f"raise memory.{inner}.capacity", path=f"memory.{inner}.capacity"))


def _search_all(setting: Setting, objective: str, budget_boxes: float, incumbent: Found | None) -> Found:
    chosen, stages = variants(setting), len(setting.stages)
    (m, n, _), pairs = setting.extents, {variant.split for variant in chosen}
    alike = stages == 1 and all(m % pm == 0 and n % pn == 0 for pm, pn in pairs)
    orders = list(product(ORDERS_ALIKE if alike else ORDERS, repeat=stages))
    return Search(setting, chosen, orders, all_tiles, objective, budget_boxes, incumbent).run()


def _search_thin(setting: Setting, objective: str) -> Found:
    orders = list(product(ORDERS_ALIKE, repeat=len(setting.stages)))
    return Search(setting, thin_variants(setting), orders, thin_tiles, objective, BUDGET_BOXES).run()._replace(is_exact=False, least_s=0.0)
