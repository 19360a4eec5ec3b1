"""Finds the mapping of least tiled cost: branch and bound over boxes of tiles.

**Space.** Along each axis the candidate tiles of the outermost stage are, for every number of trips that a tile can cause in the first
core's part of the axis (in the whole axis where the stage is shared), the smallest such tile and the smallest multiple of the array's
extent along that axis; within each, the same for the next stage. All loop orders, dataflows, array axes and splits (`splits`) are combined
with them.

**Discarding.** Candidates of an axis lie sorted; blocks of 2^level neighbours carry the minima of their numbers. `sim.mapper.bound` of
three blocks is below every mapping of the box that they span (proof there), in latency, DRAM bytes, bytes moved and tile steps alike. A
box is dropped if its latency bound is above the incumbent's latency, or equal and the next bound above the next key, and so on, or if no
bound is below: what is dropped holds nothing better. Boxes are opened best first, so that a good incumbent is there early.

**Exact**: with one stage and one core, every survivor is priced by `sim.mapper.cost` itself. With more of either the boxes are too many:
the search ends after a number of them, and with several stages orders and tiles are thinned out first (`thin_tiles`, `thin_variants`):
**not exact**, but a real mapping at its real cost. `exhaustive` searches everything, within the rule that no core sits out the tile at the
edge only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from hwmodels.formulas import systolic
from hwmodels.formulas.systolic import ceil_div
from sim.mapper.bound import Bound, Floats, axis_numbers, bound, fits, layout
from sim.mapper.cost import evaluate
from sim.mapper.problem import Choice, Setting
from sim.mapping import AXES, Axis

Ints: TypeAlias = NDArray[np.int64]
Order: TypeAlias = tuple[int, int, int]

ORDERS: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""Ranks of the loops over m, n and k."""

ORDERS_ALONE: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (2, 1, 0))
"""Enough where all blocks are cut into the same trips (one stage, one core): then only the innermost loop with more than one trip matters,
and these let each axis of any two or three be that loop."""

_ROUNDING = 1e-12
"""Share by which a bound is lowered before it is compared with an exact cost: sums in another order differ in their last bits."""

_FAN_OUT = 4
"""Neighbours that a block of the next level spans."""

_BATCH_BOXES = 16
_BATCH_PRICED = (2, 32)
"""Boxes opened at a time; mappings priced at first (mostly the best is among them) and then at a time."""


class Variant(NamedTuple):
    """What is chosen besides tiles and orders."""

    split: tuple[int, int]
    dataflow: str
    array_axis: Axis


class Found(NamedTuple):
    """The best mapping so far and what it is ranked by."""

    key: tuple[float, float, float, float]
    choice: Choice | None


@lru_cache(maxsize=4096)
def candidate_tiles(extent: int, grain: int) -> tuple[int, ...]:
    """For every number of trips the smallest tile, and the smallest that is a multiple of `grain` (where there is one); ascending."""
    root = math.isqrt(extent) + 1
    trips = np.arange(1, root + 1)
    smallest = np.unique(np.concatenate([-(-extent // trips), np.arange(1, root + 1)]))
    smallest = np.unique(-(-extent // -(-extent // smallest)))
    aligned = -(-smallest // grain) * grain
    keeps = (-(-extent // aligned) == -(-extent // smallest)) & (aligned <= extent)
    return tuple(int(tile) for tile in np.unique(np.concatenate([smallest, aligned[keeps]])))


def splits(cores: int) -> list[tuple[int, int]]:
    """Parts of m and n over at most `cores` cores.

    `variants` keeps one of those that cut the axes into the same parts.
    """
    return [(pm, pn) for pm in range(1, cores + 1) for pn in range(1, cores // pm + 1)]


def array_grains(setting: Setting, variant: Variant) -> tuple[int, int, int]:
    """Extent of the matrix units of a core along each axis; 1 for the streamed one."""
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        return unit.tile
    rows, cols, _ = systolic.AXES[variant.dataflow]
    pack = max(1, int(setting.rate))
    sizes = []
    for name in AXES:
        size = unit.rows if name == rows else unit.cols if name == cols else 1
        sizes.append(size * (unit.count if name == variant.array_axis else 1) * (pack if name == "k" else 1))
    return sizes[0], sizes[1], sizes[2]


def variants(setting: Setting) -> list[Variant]:
    """All splits, dataflows and array axes that differ."""
    unit = setting.chip.matrix
    flows: tuple[str, ...] = unit.dataflows if unit.kind == "systolic" else ("",)
    axes: tuple[Axis, ...] = ("m", "n") if unit.kind == "systolic" and unit.count > 1 else ("m",)
    m, n, _ = setting.extents
    shares: dict[tuple[int, int], tuple[int, int]] = {}
    for pm, pn in splits(setting.cores):
        if pm > m or pn > n:
            continue
        alike = (-(-m // pm), -(-n // pn)) if setting.split_stage == 0 else (pm, pn)  # parts of tiles differ where those of axes do not
        shares.setdefault(alike, (pm, pn))
    return [Variant(split, flow, axis) for split in shares.values() for flow in flows for axis in axes]


class _Pyramid(NamedTuple):
    """Tables of one axis for all variants: `levels[l]` [rows, variants x blocks], `blocks[l]` of each variant; `tiles` [variants, stages,
    candidates]."""

    levels: list[Floats]
    blocks: list[int]
    tiles: Ints


def _pyramid(setting: Setting, axis: int, chosen: Sequence[Variant], tiles_of: Any) -> _Pyramid:
    tables: dict[Any, tuple[Floats, Ints]] = {}
    keys = []
    for variant in chosen:
        key = ((*variant.split, 1)[axis], variant.dataflow, variant.array_axis)
        keys.append(key)
        if key not in tables:
            tiles = tiles_of(setting, axis, variant)
            tables[key] = axis_numbers(setting, axis, list(tiles), key[0], variant.dataflow, variant.array_axis), tiles
    width = max(tiles.shape[1] for _, tiles in tables.values())
    depth = 0
    while _FAN_OUT**depth < width:
        depth += 1
    pad = _FAN_OUT**depth
    numbers = np.stack([tables[key][0][:, np.minimum(np.arange(pad), tables[key][0].shape[1] - 1)] for key in keys], axis=1)
    tiles = np.stack([tables[key][1][:, np.minimum(np.arange(pad), tables[key][1].shape[1] - 1)] for key in keys])
    levels, blocks = [numbers.reshape(len(numbers), -1)], [pad]
    for _ in range(depth):
        levels.append(levels[-1].reshape(len(numbers), -1, _FAN_OUT).min(axis=2))
        blocks.append(blocks[-1] // _FAN_OUT)
    return _Pyramid(levels, blocks, tiles)


class _Boxes(NamedTuple):
    """Boxes of one level: variant, order and block along m, n and k of each; and their bounds."""

    level: int
    where: Ints
    bounds: Floats

    def take(self, which: Any) -> _Boxes:
        return _Boxes(self.level, self.where[:, which], self.bounds[:, which])


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
    ) -> None:
        self.setting, self.chosen, self.orders = setting, chosen, orders
        self.pyramids = [_pyramid(setting, axis, chosen, tiles_of) for axis in range(3)]
        self.keys = [1, 0, 2, 3] if objective == "traffic" else [0, 1, 2, 3]
        self.ranks = np.array(orders).transpose(1, 2, 0)
        self.found = Found((np.inf, np.inf, np.inf, np.inf), None)
        self.opened = self.priced = 0
        self.budget_boxes = budget_boxes

    def run(self) -> Found:
        """Open boxes, best first, until none is left that could hold anything better."""
        top = max(len(pyramid.levels) for pyramid in self.pyramids) - 1
        start = np.array(list(product(range(len(self.chosen)), range(len(self.orders)), [0], [0], [0]))).T
        stack = [self._bounded(top, start)]
        while stack and (self.opened < self.budget_boxes or self.found.choice is None):
            boxes = self._promising(stack.pop())
            count = boxes.where.shape[1]
            if count == 0:
                continue
            if boxes.level == 0:
                self._price(boxes)
                continue
            if count > _BATCH_BOXES:
                best_first = np.lexsort(boxes.bounds[2::-1])
                stack.append(boxes.take(best_first[_BATCH_BOXES:]))
                boxes = boxes.take(best_first[:_BATCH_BOXES])
            stack.append(self._promising(self._bounded(boxes.level - 1, self._children(boxes))))
        return self.found

    def _children(self, boxes: _Boxes) -> Ints:
        """The halves of each box along every axis that has blocks of this level."""
        index = boxes.where
        for axis, pyramid in enumerate(self.pyramids):
            if boxes.level < len(pyramid.levels):
                count = index.shape[1]
                index = np.tile(index, _FAN_OUT)
                index[2 + axis] = index[2 + axis] * _FAN_OUT + np.repeat(np.arange(_FAN_OUT), count)
        return index

    def _bounded(self, level: int, index: Ints) -> _Boxes:
        """Boxes with their bounds, less those that cannot fit."""
        self.opened += index.shape[1]
        columns, sizes, rows = [], [], layout(len(self.setting.stages))
        for axis, pyramid in enumerate(self.pyramids):
            at = min(level, len(pyramid.levels) - 1)
            columns.append((pyramid.levels[at], index[0] * pyramid.blocks[at] + index[2 + axis]))
            sizes.append(columns[-1][0][rows.sizes : rows.firsts].take(columns[-1][1], axis=1))
        fine = fits(self.setting, sizes)
        if not fine.all():
            index, columns = index[:, fine], [(table, chosen[fine]) for table, chosen in columns]
        numbers = [table.take(chosen, axis=1) for table, chosen in columns]
        ranks = self.ranks[:, :, index[1]]
        bounds: Bound = bound(self.setting, numbers, ranks, single=level == 0)
        return _Boxes(level, index, np.array([np.broadcast_to(bounds[key], index.shape[1:]) for key in self.keys]) * (1 - _ROUNDING))

    def _promising(self, boxes: _Boxes) -> _Boxes:
        """Boxes that may hold something better than what was found."""
        better: Any = False
        equal: Any = True
        for low, best in zip(boxes.bounds, self.found.key, strict=True):
            better = better | (equal & (low < best * (1 - 2 * _ROUNDING)))
            equal = equal & (low <= best)
        return boxes.take(better) if not np.all(better) else boxes

    def _price(self, boxes: _Boxes) -> None:
        """Price single mappings, best first, as long as they may be better."""
        batch = _BATCH_PRICED[self.priced > 0]
        while boxes.where.shape[1] and (self.priced < self.budget_boxes / 100 or self.found.choice is None):
            best_first = np.lexsort(boxes.bounds[::-1])
            first = boxes.take(best_first[:batch])
            for variant in np.unique(first.where[0]):
                self._price_variant(first.take(first.where[0] == variant))
            boxes = self._promising(boxes.take(best_first[batch:]))
            batch = _BATCH_PRICED[1]

    def _price_variant(self, boxes: _Boxes) -> None:
        self.priced += boxes.where.shape[1]
        variant = int(boxes.where[0, 0])
        stages = range(len(self.setting.stages))
        tiles = tuple(tuple(pyramid.tiles[variant, s, boxes.where[2 + a]] for a, pyramid in enumerate(self.pyramids)) for s in stages)
        ranks = tuple(tuple(self.ranks[s, a, boxes.where[1]] for a in range(3)) for s in stages)
        costs = evaluate(self.setting, Choice(tiles, ranks, *self.chosen[variant]))
        ranked = np.array([np.broadcast_to(costs[:4][key], boxes.where.shape[1:]) for key in self.keys])
        best = np.lexsort(ranked[::-1])[0]
        key = tuple(float(each) for each in ranked[:, best])
        if key < self.found.key:
            own_tiles = tuple(tuple(int(each[best]) for each in tile) for tile in tiles)
            own_ranks = tuple(tuple(int(each[best]) for each in rank) for rank in ranks)
            self.found = Found(key, Choice(own_tiles, own_ranks, *self.chosen[variant]))  # type: ignore[arg-type]


def _sits_out_nothing(extent: int, tile: int, parts: int) -> bool:
    """Whether as many cores get a part of the tile at the edge as of the others."""
    busy = [-(-length // -(-length // parts)) for length in (min(tile, extent), (extent - 1) % tile + 1)]
    return busy[0] == busy[1]


def all_tiles(setting: Setting, axis: int, variant: Variant) -> Ints:
    """[stages, candidates] of one axis."""
    grain = array_grains(setting, variant)[axis]
    parts = (*variant.split, 1)[axis]
    rows: list[tuple[int, ...]] = [()]
    for stage in range(len(setting.stages)):
        grown = []
        for row in rows:
            extent = row[-1] if row else setting.extents[axis]
            if stage == setting.split_stage:
                extent = -(-extent // parts)
            tiles = candidate_tiles(extent, grain)
            if stage + 1 == setting.split_stage and parts > 1:
                tiles = tuple(tile for tile in tiles if _sits_out_nothing(extent, tile, parts))
            grown += [(*row, tile) for tile in tiles]
        rows = grown
    return np.array(rows).T


_TRIPS = tuple(base * 2**i for i in range(12) for base in (2, 3))
"""Trips of the outer stages that the thinned search tries, besides 1."""

_THIN_SPLITS = 4

_BUDGET_BOXES = 6000
"""Boxes after which the thinned search is content with what it has."""

_BUDGET_BOXES_ALL = 60_000
"""The same for all tiles of one stage that several cores share out among them: many splits are nearly as good as each other."""


def thin_tiles(setting: Setting, axis: int, variant: Variant) -> Ints:
    """[stages, candidates] of one axis, fewer: outer stages make 1, 2, 3, 4, 6 ... trips, the innermost has 1, 2, 4 ... array extents, or
    all, or half."""
    grain, parts = array_grains(setting, variant)[axis], (*variant.split, 1)[axis]
    rows: list[tuple[int, ...]] = [()]
    for stage in range(len(setting.stages)):
        grown = set()
        for row in rows:
            extent = row[-1] if row else setting.extents[axis]
            if stage == setting.split_stage:
                extent = -(-extent // parts)
            if stage + 1 == len(setting.stages):
                tiles = {1, extent, _aligned(-(-extent // 2), grain, extent)} | {grain << i for i in range(20) if grain << i < extent}
            else:
                tiles = {extent} | {_aligned(-(-extent // trips), grain * parts, extent) for trips in _TRIPS if trips <= extent}
            if stage + 1 == setting.split_stage and parts > 1:
                tiles = {tile for tile in tiles if _sits_out_nothing(extent, tile, parts)}
            grown |= {(*row, tile) for tile in tiles}
        rows = sorted(grown)
    return np.array(rows).T


def _aligned(tile: int, grain: int, extent: int) -> int:
    return min(-(-tile // grain) * grain, extent)


def thin_variants(setting: Setting) -> list[Variant]:
    """Of the variants those with the splits whose largest part, in whole granules, is smallest, and of equal ones the squarest."""
    chosen = variants(setting)
    m, n, _ = setting.extents

    def size(split: tuple[int, int]) -> tuple[Any, Any]:
        grains = array_grains(setting, Variant(split, chosen[0].dataflow, "m"))
        rows, cols = (ceil_div(ceil_div(extent, parts), grain) * grain for extent, parts, grain in zip((m, n), split, grains, strict=False))
        return rows * cols, rows + cols

    kept = sorted({variant.split for variant in chosen}, key=size)[:_THIN_SPLITS]
    return [variant for variant in chosen if variant.split in kept]


def search(setting: Setting, objective: str, exhaustive: bool) -> Choice:
    """The best mapping; `exhaustive` matters where there are several stages or cores. Raises `BadInput` if no tile fits."""
    stages = len(setting.stages)
    alone = stages == 1 and setting.cores == 1
    thin = stages > 1 and not exhaustive
    choice = _search_thin(setting, objective) if thin else None
    if choice is None:
        orders = list(product(ORDERS_ALONE if alone else ORDERS, repeat=stages))
        budget = math.inf if alone or exhaustive else _BUDGET_BOXES_ALL
        choice = Search(setting, variants(setting), orders, all_tiles, objective, budget).run().choice
    if choice is not None:
        return choice
    inner = setting.places[-1].level.name
    raise BadInput(Problem("no tile fits every level", f"raise memory.{inner}.capacity", path=f"memory.{inner}.capacity"))


def _search_thin(setting: Setting, objective: str) -> Choice | None:
    orders = list(product(ORDERS_ALONE, repeat=len(setting.stages)))
    return Search(setting, thin_variants(setting), orders, thin_tiles, objective, _BUDGET_BOXES).run().choice
