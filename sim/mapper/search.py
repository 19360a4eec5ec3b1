"""Finds the mapping of least tiled cost: branch and bound over boxes of tiles.

**Space.** `sim.mapper.candidates`: tiles along each axis, combined with all loop orders, dataflows, array axes and splits. It does not
depend on capacities, bandwidths or clocks: those only rule mappings out, or price them.

**Which mapping it is.** That of the least *canonical key*: latency, rounded to `_GRID` so that sums in another order make no difference;
DRAM bytes; bytes moved; tile steps (for the objective "traffic" DRAM bytes come first); and where all of that is equal, the first in the
order of variants (splits, then dataflows, then array axes), of loop orders, and of tiles along m, n and k, the smaller first. So the choice
is a function of the set of candidates, never of the order in which they were searched, as long as the search was to the last.

**Discarding.** Candidates of an axis lie sorted; blocks of 2^level neighbours carry the minima of their numbers. `sim.mapper.bound` of
three blocks is below every mapping of the box that they span (proof there), in latency, DRAM bytes, bytes moved and tile steps alike. A box
is dropped if its latency bound is above the incumbent's latency, or equal and the next bound above the next key, and so on, or if no bound
is below and it holds no mapping that comes before the incumbent: what is dropped holds nothing better. Boxes are opened best first, so that
a good incumbent is there early; what survives as a single mapping is priced by `sim.mapper.cost` itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from functional.errors import BadInput, Problem
from sim.mapper import array
from sim.mapper.bound import Bounder
from sim.mapper.candidates import ORDERS, ORDERS_ALIKE, Variant, all_tiles, thin_tiles, thin_variants, variants
from sim.mapper.cost import Costs, evaluate
from sim.mapper.problem import Choice, Setting
from sim.mapper.tables import Asked, Floats, Ints, Kind, axis_tables

_GRID = 2.0**-33
"""Share of a latency by which two may differ and yet be the same: ten digits."""

ROUNDING = 1e-14
"""Share by which a bound is lowered before it is compared with an exact cost: sums in another order differ in their last bits."""

_NO_TILE = 1e30
"""A number so large that no mapping has it: where there is no candidate."""

_BOXES_AT_FIRST = 1024
"""Boxes with which a search may begin: those of the highest levels are hardly ever discarded."""

_BATCH_BOXES = (48, 64, 512)
"""Boxes opened at a time: until there is an incumbent, after that with a budget, and without one."""

_ONE_BY_ONE = 4
_BATCH_PRICED = 1024
"""Mappings priced one by one (mostly the best is among them), and then at a time."""

Key: TypeAlias = tuple[float, float, float, float, float]
"""What mappings are ranked by: three amounts and steps, and then their place among all."""


def on_grid(latency_s: Any) -> Any:
    """Latencies (float64 arrays) rounded to so many binary digits that those that differ by less than rounding errors are the same. It
    never falls while its argument grows."""
    step = int(_GRID * 2**53)
    return ((latency_s.view(np.int64) + step // 2) & -step).view(np.float64)


class Found(NamedTuple):
    """The best mapping so far, what it is ranked by, and its costs where it was priced by itself; whether nothing in the whole space is
    better, and (for the latency) a bound below all of it."""

    key: Key
    choice: Choice | None
    costs: Costs | None = None
    is_exact: bool = False
    least_s: float = 0.0


NONE_FOUND = Found((math.inf,) * 5, None)


class _Axis(NamedTuple):
    """The candidates of one axis: of each kind [stages, candidates] those that fit alone, and the kind of each variant. Each kind has
    2^depth columns in the tables, the last of them of `_NO_TILE`; kinds follow each other."""

    tiles: list[Ints]
    kinds: Ints
    depth: int


class _Level(NamedTuple):
    """All axes, cut into blocks of 2^level candidates: `table` [rows, blocks] of their minima; where each axis begins in it [axes, 1]; and
    the columns of a block's parts a level below: `parted` times its own, plus `offsets` [axes, 1, parts]."""

    table: Floats
    begins: Ints
    parted: Ints
    offsets: Ints


class NoTile(Exception):
    """Along some axis no tile fits."""


TilesOf: TypeAlias = Callable[[Setting, int, int], Ints]


def _candidates(setting: Setting, chosen: Sequence[Variant], tiles_of: TilesOf, bounder: Bounder) -> tuple[list[_Axis], Floats]:
    """The axes, and their table with a column for each candidate of each kind, padded."""
    kinds: list[dict[int, list[Kind]]] = [{}, {}, {}]
    for variant in chosen:
        for axis, parts in enumerate((*variant.split, 1)):
            flows = kinds[axis].setdefault(parts, [])
            if variant[1:] not in flows:
                flows.append(variant[1:])
    tables: dict[tuple[int, int], list[tuple[Ints, Floats]]] = {}
    for parts in sorted({parts for each in kinds for parts in each}):
        asked = []
        for axis, each in enumerate(kinds):
            if parts in each:
                tiles = tiles_of(setting, axis, parts)
                fine = bounder.fits_alone(axis, tiles)
                if not fine.any():
                    raise NoTile
                asked.append(Asked(axis, tiles if fine.all() else tiles.compress(fine, axis=1), each[parts]))
        for own, found in zip(asked, axis_tables(setting, parts, asked), strict=True):
            tables[own.axis, parts] = [(own.tiles, table) for table in found]
    axes, columns = [], []
    for axis, each in enumerate(kinds):
        places: dict[Any, int] = {}
        first: dict[int, int] = {}
        own_tables: list[tuple[Ints, Floats]] = []
        for parts, flows in each.items():
            for flow, (tiles, table) in zip(flows, tables[axis, parts], strict=True):
                if id(table) not in first:
                    first[id(table)] = len(own_tables)
                    own_tables.append((tiles, table))
                places[parts, flow] = first[id(table)]
        depth = (max(table.shape[1] for _, table in own_tables) - 1).bit_length()
        for _, table in own_tables:
            columns += [table, np.full((len(table), 2**depth - table.shape[1]), _NO_TILE)]
            columns[-1][bounder.at.moves : bounder.at.sizes] = 1
        of_variant = np.array([places[(*variant.split, 1)[axis], variant[1:]] for variant in chosen])
        axes.append(_Axis([tiles for tiles, _ in own_tables], of_variant, depth))
    return axes, np.hstack(columns)


def _levels(axes: Sequence[_Axis], table: Floats, boxes: int) -> list[_Level]:
    """Levels from single candidates up to where boxes, of which there are as many for each combination of blocks, are few."""
    widths = [len(axis.tiles) << axis.depth for axis in axes]
    begins = np.cumsum([0, *widths[:-1]])
    levels = [_Level(table, begins[:, None], np.ones(3, dtype=np.int64), np.zeros((3, 1, 1), dtype=np.int64))]
    for level in range(1, 1 + max(axis.depth for axis in axes)):
        if boxes << sum(max(0, axis.depth - level + 1) for axis in axes) <= _BOXES_AT_FIRST:
            break
        outer = [1 + (axis.depth >= level) for axis in axes]
        widths, parted = [width // part for width, part in zip(widths, outer, strict=True)], np.array(outer)
        begins = np.cumsum([0, *widths[:-1]])
        below, before = levels[-1].table, levels[-1].begins[:, 0]
        if min(outer) == 2:
            table = np.minimum(below[:, ::2], below[:, 1::2])
        else:
            table = np.empty((len(below), sum(widths)))
            for part, old, new, width in zip(outer, before, begins, widths, strict=True):
                end = old + width * part
                np.minimum(below[:, old:end:part], below[:, old + part - 1 : end : part], out=table[:, new : new + width])
        offsets = (before - begins * parted)[:, None, None] + _corners(*outer)
        levels.append(_Level(table, begins[:, None], parted, offsets))
    return levels


@lru_cache(maxsize=16)
def _corners(*parted: int) -> Ints:
    """[axes, 1, parts]: which part along each axis."""
    return np.indices(parted).reshape(3, 1, -1)


class _Boxes(NamedTuple):
    """Boxes of one level: variant, order and column along m, n and k of each; their bounds, in the order of ranking; a score to sort by;
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
        tiles_of: TilesOf,
        objective: str = "latency",
        budget_boxes: float = math.inf,
        incumbent: Found = NONE_FOUND,
    ) -> None:
        self.setting, self.chosen, self.orders = setting, chosen, orders
        self.bounder = Bounder(setting, orders, [array.drain_cycles(setting, variant.dataflow) for variant in chosen])
        self.axes, table = _candidates(setting, chosen, tiles_of, self.bounder)
        self.levels = _levels(self.axes, table, len(chosen) * len(orders))
        self.keys = [1, 0, 2, 3] if objective == "traffic" else [0, 1, 2, 3]
        self.ranks = np.array(orders).transpose(1, 2, 0)
        self.found = incumbent
        self.opened = self.priced = self.calls = 0
        self.budget_boxes = budget_boxes

    def run(self) -> Found:
        """Open boxes until none is left that could hold anything better: first straight down to an incumbent, the best boxes of each level;
        then level by level, if that is not too much at a time. Where there is a budget, or too much, on along the best."""
        first = self._bounded(*self.start())
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
                waiting[level - 1].append(self._bounded(level - 1, self.children(level, boxes.where)))
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

    def start(self) -> tuple[int, Ints]:
        """The whole space in boxes of the highest level."""
        level = len(self.levels) - 1
        blocks = [1 << max(0, axis.depth - level) for axis in self.axes]
        where = np.indices((len(self.chosen), len(self.orders), *blocks)).reshape(5, -1)
        begins = self.levels[level].begins + np.array([axis.kinds for axis in self.axes]) * np.array(blocks)[:, None]
        where[2:] += begins.take(where[0], axis=1)
        return level, where

    def children(self, level: int, where: Ints) -> Ints:
        """The parts of each box along every axis that has blocks of this level."""
        _, _, parted, offsets = self.levels[level]
        children = np.empty((5, where.shape[1], offsets.shape[2]), dtype=np.int64)
        children[:2] = where[:2, :, None]
        np.add((where[2:] * parted[:, None])[:, :, None], offsets, out=children[2:])
        return children.reshape(5, -1)

    def _bounded(self, level: int, where: Ints) -> _Boxes:
        """Boxes with their bounds, less those that cannot fit or hold nothing better."""
        self.opened += where.shape[1]
        self.calls += 1
        table, sizes = self.levels[level].table, self.bounder.at.sizes
        fine = self.bounder.fits(table[sizes : sizes + len(self.setting.stages)].take(where[2:], axis=1, mode="clip"))
        if not fine.all():
            where = where.compress(fine, axis=1)
        bounds = self.bounder(table.take(where[2:], axis=1, mode="clip"), where[1], where[0], single=level == 0)
        ranked = np.array([bounds[key] for key in self.keys])
        ranked *= 1 - ROUNDING
        if where.shape[1] == 0:
            return _Boxes(level, where, ranked, ranked[0], None)
        latency = self.keys.index(0)
        ranked[latency] = on_grid(ranked[latency])
        score = ranked[0] + ranked[1] * (ranked[0, 0] / ranked[1, 0] * 1e-10) + ranked[2] * (ranked[0, 0] / ranked[2, 0] * 1e-13)
        return self._promising(_Boxes(level, where, ranked, score, None))

    def _promising(self, boxes: _Boxes) -> _Boxes:
        """Boxes that may hold something better than what was found."""
        if self.found.choice is boxes.known or len(boxes.score) == 0:
            return boxes
        kept = boxes.bounds[0] <= self.found.key[0]
        if not kept.all():
            boxes = boxes.take(np.flatnonzero(kept))
        better: Any = boxes.bounds[0] < self.found.key[0] * (1 - 2 * ROUNDING)
        if not better.all():
            equal: Any = ~better
            for low, best in zip(boxes.bounds[1:], self.found.key[1:4], strict=True):
                better = better | (equal & (low < best * (1 - 2 * ROUNDING)))
                equal = equal & (low <= best)
            if equal.any():
                better = better | (equal & (self.place(boxes.level, boxes.where) < self.found.key[4]))
            boxes = boxes.take(np.flatnonzero(better))
        return boxes._replace(known=self.found.choice)

    def place(self, level: int, where: Ints) -> Ints:
        """The first place among all mappings that a box has."""
        place = where[0] * len(self.orders) + where[1]
        for axis, column, begin in zip(self.axes, where[2:], self.levels[level].begins[:, 0], strict=True):
            height = min(level, axis.depth)
            place = (place << axis.depth) + ((column - begin << height) & (1 << axis.depth) - 1)
        return np.asarray(place)

    def _price(self, boxes: _Boxes) -> _Boxes | None:
        """Price single mappings, best first, as long as they may be better; what the budget does not allow is left."""
        while len(boxes.score):
            if self.priced >= self.budget_boxes / _BOXES_PER_PRICED and self.found.choice is not None:
                return boxes
            if self.priced < _ONE_BY_ONE or len(boxes.score) <= _ONE_BY_ONE:
                best = self._first(boxes)
                self._price_one(boxes.take(slice(best, best + 1)))
                self.priced += 1
                others = np.arange(len(boxes.score)) != best
                boxes = self._promising(boxes.take(others))
                continue
            first, rest = boxes.split(_BATCH_PRICED)
            for variant in np.unique(first.where[0]):
                self._price_many(first.take(np.flatnonzero(first.where[0] == variant)))
            self.priced += len(first.score)
            if rest is None:
                return None
            boxes = self._promising(rest)
        return None

    def _first(self, boxes: _Boxes) -> int:
        """The box of the least bounds, and of equal ones the first: mostly bounds of mappings are costs, and then it is the best."""
        among = np.arange(len(boxes.score))
        for bound in boxes.bounds:
            own = on_grid(bound.take(among))
            among = among.compress(own == own.min())
            if len(among) == 1:
                return int(among[0])
        return int(among[np.argmin(self.place(0, boxes.where.take(among, axis=1)))])

    def tiles(self, where: Ints) -> tuple[Any, Any]:
        """Tiles and ranks of single mappings of one variant."""
        variant = int(where[0, 0])
        stages = range(len(self.setting.stages))
        tiles = []
        for axis, column, begin in zip(self.axes, where[2:], self.levels[0].begins[:, 0], strict=True):
            kind = axis.kinds[variant]
            tiles.append(axis.tiles[kind].take(column - begin - (kind << axis.depth), axis=1, mode="clip"))
        ranks = self.ranks[..., where[1]]
        return tuple(tuple(axis[s] for axis in tiles) for s in stages), tuple(tuple(ranks[s]) for s in stages)

    def where(self, choice: Choice) -> Ints:
        """[5, 1]: the variant, the order and the columns of the single mapping that a choice is."""
        variant = self.chosen.index(Variant(choice.split, choice.dataflow, choice.array_axis))
        found = [variant, self.orders.index(choice.ranks)]
        for number, (axis, begin) in enumerate(zip(self.axes, self.levels[0].begins[:, 0].tolist(), strict=True)):
            kind = axis.kinds[variant]
            same = np.equal(axis.tiles[kind].T, [tile[number] for tile in choice.tiles]).all(axis=1)
            found.append(begin + (kind << axis.depth) + int(same.argmax()))
        return np.array(found)[:, None]

    def _chosen(self, boxes: _Boxes, which: int) -> Choice:
        tiles, ranks = self.tiles(boxes.where[:, [which]])
        whole = [tuple(tuple(int(each[0]) for each in stage) for stage in stages) for stages in (tiles, ranks)]
        return Choice(whole[0], whole[1], *self.chosen[int(boxes.where[0, which])])  # type: ignore[arg-type]

    def _price_one(self, boxes: _Boxes) -> None:
        choice = self._chosen(boxes, 0)
        costs = evaluate(self.setting, choice)
        key = self._keys(costs, boxes)[:, 0]
        self._take(key, boxes, 0, choice, costs)

    def _price_many(self, boxes: _Boxes) -> None:
        tiles, ranks = self.tiles(boxes.where)
        keys = self._keys(evaluate(self.setting, Choice(tiles, ranks, *self.chosen[int(boxes.where[0, 0])])), boxes)
        best = int(np.lexsort((self.place(0, boxes.where), *keys[::-1]))[0])
        self._take(keys[:, best], boxes, best)

    def _keys(self, costs: Costs, boxes: _Boxes) -> Floats:
        """[4, mappings]: all of the key but the place."""
        keys = np.empty((4, boxes.where.shape[1]))
        amounts = costs.latency_s, costs.dram_bytes, costs.moved_bytes, costs.steps
        for row, key in enumerate(self.keys):
            keys[row] = amounts[key]
        keys[self.keys.index(0)] = on_grid(keys[self.keys.index(0)])
        return keys

    def _take(self, amounts: Floats, boxes: _Boxes, which: int, choice: Choice | None = None, costs: Costs | None = None) -> None:
        """Let a mapping be the incumbent if it comes before it."""
        place = int(self.place(0, boxes.where[:, which : which + 1])[0])
        key = (*amounts.tolist(), place)
        if key < self.found.key:
            self.found = Found(key, choice or self._chosen(boxes, which), costs)


_ALL_UP_TO_MACS = 24**3
"""GEMMs for which all tiles of two stages and up to two cores are searched: mostly tenths of a second."""

_BOXES_PER_PRICED = 20
"""Boxes of a budget for one mapping that may be priced."""


def search(setting: Setting, objective: str, budget_boxes: float = 0) -> Found:
    """The best mapping. Raises `BadInput` if no tile fits.

    Of all candidates, if the chip has one stage, or two and up to two cores and they are few; else of those that `thin_tiles` leaves: to
    the last in any case, so that a larger capacity, which only adds to what fits, never gives a worse mapping. `budget_boxes`: look at all
    candidates, whatever the chip, until so many boxes are opened.
    """
    stages = len(setting.stages)
    found = NONE_FOUND
    if stages > 1:
        with suppress(NoTile):
            found = _search_thin(setting, objective)
    if stages == 1 or _has_few(setting) or budget_boxes:
        with suppress(NoTile):
            found = _search_all(setting, objective, budget_boxes or math.inf, found)
    if found.choice is not None:
        return found
    inner = setting.places[-1].level.name
    raise BadInput(Problem("no tile fits every level", f"raise memory.{inner}.capacity", path=f"memory.{inner}.capacity"))


def _search_all(setting: Setting, objective: str, budget_boxes: float, incumbent: Found) -> Found:
    # The place of what was found among others counts for nothing here.
    found = incumbent._replace(key=(*incumbent.key[:4], math.inf))
    return Search(setting, *all_of(setting), objective, budget_boxes, found).run()


def _search_thin(setting: Setting, objective: str) -> Found:
    return Search(setting, *thin_of(setting), objective).run()._replace(is_exact=False, least_s=0.0)


Space: TypeAlias = tuple[Sequence[Variant], Sequence[Any], TilesOf]
"""Variants, orders and tiles that are combined."""


def all_of(setting: Setting) -> Space:
    """All candidates: what `search` goes through where there is one stage."""
    chosen, stages = variants(setting), len(setting.stages)
    (m, n, _), pairs = setting.extents, {variant.split for variant in chosen}
    alike = stages == 1 and all(m % pm == 0 and n % pn == 0 for pm, pn in pairs)
    return chosen, list(product(ORDERS_ALIKE if alike else ORDERS, repeat=stages)), all_tiles


def thin_of(setting: Setting) -> Space:
    """What is left of them where they are too many."""
    return thin_variants(setting), list(product(ORDERS_ALIKE, repeat=len(setting.stages))), thin_tiles


def _has_few(setting: Setting) -> bool:
    return len(setting.stages) == 2 and setting.cores <= 2 and setting.gemm.macs <= _ALL_UP_TO_MACS
