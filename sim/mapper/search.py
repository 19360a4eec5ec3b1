"""Finds the mapping of least tiled cost: branch and bound over boxes of tiles.

**Space.** `sim.mapper.candidates`: tiles along each axis, combined with all loop orders, dataflows, array axes and splits.

**Discarding.** Candidates of an axis lie sorted; blocks of 2^level neighbours carry the minima of their numbers. `sim.mapper.bound` of three blocks
is below every mapping of the box that they span (proof there), in latency, DRAM bytes, bytes moved and tile steps alike. A box is dropped
if its latency bound is above the incumbent's latency, or equal and the next bound above the next key, and so on, or if no bound is below:
what is dropped holds nothing better. Boxes are opened best first, so that a good incumbent is there early; what survives as a single
mapping is priced by `sim.mapper.cost` itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from functional.errors import BadInput, Problem
from sim.mapper import array
from sim.mapper.bound import Bounder
from sim.mapper.candidates import ORDERS, ORDERS_ALIKE, Variant, all_tiles, thin_tiles, thin_variants, variants
from sim.mapper.cost import evaluate
from sim.mapper.problem import Choice, Setting
from sim.mapper.tables import Floats, Ints, axis_table

_ROUNDING = 1e-12
"""Share by which a bound is lowered before it is compared with an exact cost: sums in another order differ in their last bits."""

_BOXES_AT_FIRST = 1024
"""Boxes with which a search may begin: those of the highest levels are hardly ever discarded."""

_BATCH_BOXES = (24, 256)
"""Boxes opened at a time, until there is an incumbent and after."""

_ONE_BY_ONE = 4
_BATCH_PRICED = 64
"""Mappings priced one by one (mostly the best is among them), and then at a time."""


class Found(NamedTuple):
    """The best mapping so far and what it is ranked by."""

    key: tuple[float, float, float, float]
    choice: Choice | None


class _Axis(NamedTuple):
    """Numbers of one axis: `levels[l]` [rows, kinds * blocks] are minima over blocks of 2^l candidates, `blocks[l]` as many per kind;
    `tiles` [kinds, stages, candidates], of kinds that are split alike; `kinds[variant]`."""

    levels: list[Floats]
    blocks: list[int]
    tiles: Ints
    kinds: Ints


def _axis(setting: Setting, axis: int, chosen: Sequence[Variant], tiles_of: Any) -> _Axis:
    kinds: dict[int, list[tuple[str, str]]] = {}
    for variant in chosen:
        flows = kinds.setdefault((*variant.split, 1)[axis], [])
        flow = variant.dataflow, variant.array_axis
        if flow not in flows:
            flows.append(flow)
    places, tables, tiles = {}, [], []
    for parts, flows in kinds.items():
        columns = tiles_of(setting, axis, parts)
        if columns.shape[1] == 0:
            raise NoTile
        for flow, table in zip(flows, axis_table(setting, axis, columns, parts, flows), strict=True):  # type: ignore[arg-type]
            places[parts, flow] = len(tables)
            tables.append(table)
            tiles.append(columns)
    depth = (max(table.shape[1] for table in tables) - 1).bit_length()
    numbers = np.stack([_padded(table, 2**depth) for table in tables], axis=1)
    levels, blocks = [numbers.reshape(len(numbers), -1)], [2**depth]
    for _ in range(depth):
        levels.append(np.minimum(levels[-1][:, ::2], levels[-1][:, 1::2]))
        blocks.append(blocks[-1] // 2)
    of_variant = [places[(*variant.split, 1)[axis], (variant.dataflow, variant.array_axis)] for variant in chosen]
    return _Axis(levels, blocks, np.stack([_padded(each, 2**depth) for each in tiles]), np.array(of_variant))


def _padded(columns: Any, width: int) -> Any:
    return columns[:, np.minimum(np.arange(width), columns.shape[1] - 1)]


class _Level(NamedTuple):
    """The axes at one level, side by side: `table` [rows, blocks of all axes], where the blocks of a variant begin in it [axes, variants], and
    into how many each block of an axis is parted a level below."""

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
        return _Boxes(self.level, self.where[:, which], self.bounds[:, which], self.score[which], self.known)

    def split(self, count: int) -> tuple[_Boxes, _Boxes | None]:
        """The best ones, and the rest."""
        if len(self.score) <= count:
            return self, None
        order = np.argpartition(self.score, count)
        return self.take(order[:count]), self.take(order[count:])


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
        """Open boxes, best first, until none is left that could hold anything better."""
        stack = [self._bounded(*self._start())]
        while stack and (self.opened < self.budget_boxes or self.found.choice is None):
            boxes = stack.pop()
            if self.found.choice is not boxes.known:
                boxes = self._promising(boxes)
            if len(boxes.score) == 0:
                continue
            if boxes.level == 0:
                self._price(boxes)
                continue
            boxes, rest = boxes.split(_BATCH_BOXES[self.found.choice is not None])
            if rest is not None:
                stack.append(rest)
            stack.append(self._bounded(boxes.level - 1, self._children(boxes.level, boxes.where)))
        return self.found

    def _start(self) -> tuple[int, Ints]:
        """The whole space in boxes of one level: the highest with so many that they are worth a batch."""
        level = len(self.levels) - 1
        where = np.array(list(product(range(len(self.chosen)), range(len(self.orders)), [0], [0], [0]))).T
        while level > 0 and where.shape[1] * math.prod(self.levels[level].parted) <= _BOXES_AT_FIRST:
            where = self._children(level, where)
            level -= 1
        return level, where

    @property
    def is_exhausted(self) -> bool:
        return self.opened < self.budget_boxes

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
        numbers = table[:, begins[:, where[0]] + where[2:]]
        fine = self.bounder.fits(numbers)
        if not fine.all():
            where, numbers = where[:, fine], numbers[:, :, fine]
        bounds = self.bounder(numbers, where[1], where[0], single=level == 0)
        ranked = np.stack([bounds[key] for key in self.keys])
        ranked *= 1 - _ROUNDING
        if where.shape[1] == 0:
            return _Boxes(level, where, ranked, ranked[0], self.found.choice)
        scales = ranked[:3].min(axis=1) * (1, 1e6, 1e9)
        return self._promising(_Boxes(level, where, ranked, (ranked[:3] / scales[:, None]).sum(axis=0), self.found.choice))

    def _promising(self, boxes: _Boxes) -> _Boxes:
        """Boxes that may hold something better than what was found."""
        if self.found.choice is None:
            return boxes
        better: Any = False
        equal: Any = True
        for low, best in zip(boxes.bounds, self.found.key, strict=True):
            better = better | (equal & (low < best * (1 - 2 * _ROUNDING)))
            equal = equal & (low <= best)
        boxes = boxes._replace(known=self.found.choice)
        return boxes.take(better) if not np.all(better) else boxes

    def _price(self, boxes: _Boxes) -> None:
        """Price single mappings, best first, as long as they may be better."""
        batch = 1
        while len(boxes.score) and (self.priced < self.budget_boxes / 100 or self.found.choice is None):
            first, rest = boxes.split(batch)
            if batch == 1:
                self._price_one(first)
            else:
                for variant in np.unique(first.where[0]):
                    self._price_many(first.take(first.where[0] == variant))
            self.priced += len(first.score)
            if rest is None:
                return
            boxes = self._promising(rest)
            if self.priced >= _ONE_BY_ONE and len(boxes.score) > _ONE_BY_ONE:
                batch = _BATCH_PRICED

    def _tiles(self, boxes: _Boxes) -> tuple[Any, Any]:
        """Tiles and ranks of single mappings of one variant."""
        variant = int(boxes.where[0, 0])
        stages = range(len(self.setting.stages))
        tiles = tuple(
            tuple(axis.tiles[axis.kinds[variant], s, boxes.where[2 + a]] for a, axis in enumerate(self.axes)) for s in stages
        )
        return tiles, tuple(tuple(self.ranks[s, a, boxes.where[1]] for a in range(3)) for s in stages)

    def _chosen(self, boxes: _Boxes, which: int) -> Choice:
        tiles, ranks = self._tiles(boxes.take([which]))
        whole = [tuple(tuple(int(each[0]) for each in stage) for stage in stages) for stages in (tiles, ranks)]
        return Choice(whole[0], whole[1], *self.chosen[int(boxes.where[0, which])])  # type: ignore[arg-type]

    def _price_one(self, boxes: _Boxes) -> None:
        choice = self._chosen(boxes, 0)
        costs = evaluate(self.setting, choice)
        key = tuple(float(costs[each]) for each in self.keys)
        if key < self.found.key:
            self.found = Found(key, choice)  # type: ignore[arg-type]

    def _price_many(self, boxes: _Boxes) -> None:
        tiles, ranks = self._tiles(boxes)
        costs = evaluate(self.setting, Choice(tiles, ranks, *self.chosen[int(boxes.where[0, 0])]))
        ranked = np.array([np.broadcast_to(costs[key], boxes.where.shape[1:]) for key in self.keys])
        best = int(np.lexsort(ranked[::-1])[0])
        key = tuple(float(each) for each in ranked[:, best])
        if key < self.found.key:
            self.found = Found(key, self._chosen(boxes, best))  # type: ignore[arg-type]


_BUDGET_BOXES = 6000
"""Boxes after which the thinned search is content with what it has."""

_BUDGET_BOXES_ALL = 60_000
"""The same for all tiles of one stage that several cores share out among them: many splits are nearly as good as each other."""


def search(setting: Setting, objective: str, exhaustive: bool) -> Choice:
    """The best mapping; `exhaustive` matters where there are several stages or cores. Raises `BadInput` if no tile fits."""
    stages = len(setting.stages)
    alone = stages == 1 and setting.cores == 1
    thin = stages > 1 and not exhaustive
    choice = _search_thin(setting, objective) if thin else None
    if choice is None:
        orders = list(product(ORDERS_ALIKE if alone else ORDERS, repeat=stages))
        budget = math.inf if alone or exhaustive else _BUDGET_BOXES_ALL
        try:
            choice = Search(setting, variants(setting), orders, all_tiles, objective, budget).run().choice
        except NoTile:
            choice = None
    if choice is not None:
        return choice
    inner = setting.places[-1].level.name
    raise BadInput(Problem("no tile fits every level", f"raise memory.{inner}.capacity", path=f"memory.{inner}.capacity"))


def _search_thin(setting: Setting, objective: str) -> Choice | None:
    orders = list(product(ORDERS_ALIKE, repeat=len(setting.stages)))
    try:
        return Search(setting, thin_variants(setting), orders, thin_tiles, objective, _BUDGET_BOXES).run().choice
    except NoTile:
        return None
