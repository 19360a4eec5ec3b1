"""What a search goes through: the candidates that are combined, and the axes, with a column of numbers for each candidate and for blocks of
them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby, product
from operator import itemgetter
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sim.mapper.bound import Bounder, Form, form_of
from sim.mapper.candidates import ORDERS, ORDERS_ALIKE, Order, Tiles, Variant, all_tiles, every_tile, thin_tiles, thin_variants, variants
from sim.mapper.problem import Setting
from sim.mapper.tables import Asked, AxisAsked, Floats, Flow, Ints, depth_of, fill, is_one_chip, layout_of, place_of
from sim.mapping import AXES

NO_TILE = 1e30
"""A number so large that no mapping has it: where there is no candidate."""

TilesOf: TypeAlias = Callable[[Setting, int, Sequence[int]], Tiles]
"""Candidate tiles of an axis of a GEMM on a chip that is split into each of some parts."""

Space: TypeAlias = tuple[Sequence[Variant], Sequence[Any], TilesOf]
"""Variants, orders and tiles that are combined."""


EVERY_TILE_UP_TO = 2**16
"""MACs of GEMMs for which every integer is a candidate, where there is one stage. Of tiles that cause as many trips a longer one may be
better, for the rest at the edge, which leaves last, is smaller, or fills bursts and matrix units: that of a longer GEMM then fits, too."""


def all_of(setting: Setting) -> Space:
    """All candidates: what `search` goes through where there is one stage."""
    chosen, stages = variants(setting), len(setting.stages)
    (m, n, _), pairs = setting.extents, {variant.split for variant in chosen}
    alike = stages == 1 and all(m % pm == 0 and n % pn == 0 for pm, pn in pairs)
    is_small = stages == 1 and setting.gemm.macs <= EVERY_TILE_UP_TO
    return chosen, _orders(setting, ORDERS_ALIKE if alike else ORDERS), every_tile if is_small else all_tiles


def thin_of(setting: Setting) -> Space:
    """What is left of them where they are too many."""
    return thin_variants(setting), _orders(setting, ORDERS_ALIKE), thin_tiles


def _orders(setting: Setting, of_stage: Sequence[Order]) -> list[tuple[Order, ...]]:
    """Those of each stage, but for later ones that differ in nothing but where loops of one trip stand: over axes of one element."""
    moving = [axis for axis, extent in enumerate(setting.extents) if extent > 1]
    distinct = {tuple(sorted(moving, key=order.__getitem__)): order for order in reversed(of_stage)}
    return [*product([order for order in of_stage if order in distinct.values()], repeat=len(setting.stages))]


class SearchAxis(NamedTuple):
    """The candidates of one axis: of each kind [stages, candidates] those that fit alone, and the kind of each variant. Each kind has
    2^depth columns, the last of them of `NO_TILE`, and kinds follow each other; level by level up to the depth there are columns of minima
    for blocks of 2^level candidates. `begins[level]` is where those of a level begin."""

    tiles: list[Ints]
    kinds: Ints
    depth: int
    begins: list[int]

    def begin(self, level: int) -> int:
        """Where the columns of a level are: above the depth those of the depth."""
        return self.begins[min(level, self.depth)]


class NoTile(Exception):
    """Along some axis no tile fits."""


class Kinds(NamedTuple):
    """Of an axis the groups of candidates that variants ask for, each the number of a setting and parts; the flows that make a difference
    to it; and the kind of each variant, by flow and then by group."""

    groups: list[tuple[int, int]]
    flows: list[Flow]
    of_variants: Ints


@lru_cache(maxsize=64)
def _kinds(chosen: tuple[Variant, ...], sources: tuple[tuple[int, ...], ...]) -> list[Kinds]:
    """Of each axis. `sources[axis]` say which setting gives each variant its candidates."""
    found = []
    for axis, name in enumerate(AXES):
        groups = [(source, (*variant.split, 1)[axis]) for variant, source in zip(chosen, sources[axis], strict=True)]
        places = [place_of(variant.dataflow, variant.array_axis, name) for variant in chosen]
        flows = {place: (variant.dataflow, variant.array_axis) for place, variant in zip(reversed(places), reversed(chosen), strict=True)}
        group_numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        place_numbers = {place: i * len(group_numbers) for i, place in enumerate(dict.fromkeys(places))}
        kinds = np.array([place_numbers[place] + group_numbers[group] for place, group in zip(places, groups, strict=True)])
        found.append(Kinds([*group_numbers], [flows[place] for place in place_numbers], kinds))
    return found


def candidates_of(
    settings: Sequence[Setting], chosen: Sequence[Variant], asking: Sequence[int], tiles_of: TilesOf, bounder: Bounder
) -> tuple[list[SearchAxis], Floats]:
    """The axes, and the table [rows, columns] that they are in. `asking` says for which of the settings each of the chosen variants is;
    GEMMs whose extents along an axis are the same share its candidates. Raises `NoTile`."""
    sources, columns = [tuple(asking)] * len(AXES), Columns()
    if is_one_chip(settings):
        columns = remembered_columns(form_of(settings[0]))
        if len(settings) > 1:
            firsts = [{setting.extents[axis]: number for number, setting in reversed([*enumerate(settings)])} for axis in range(len(AXES))]
            sources = [tuple(own[settings[number].extents[axis]] for number in asking) for axis, own in enumerate(firsts)]
    return columns.axes(settings, _kinds(tuple(chosen), tuple(sources)), tiles_of, bounder.longest)


_COLUMNS_AT_FIRST = 4096
_MOST_COLUMNS = 32768
"""Columns that there is room for at first, and that are remembered at most: some megabytes."""


class Columns:
    """A table [rows, columns] of axes' candidates and blocks of them. What a GEMM has in common with an earlier one of its form is not
    worked out again: most layers of a model share their axes."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self.numbers, self.used = np.empty((0, 0)), 0
        self.known: dict[Any, SearchAxis] = {}

    def axes(
        self, settings: Sequence[Setting], kinds: Sequence[Kinds], tiles_of: TilesOf, longest: Floats
    ) -> tuple[list[SearchAxis], Floats]:
        """The axes, and the table; `longest`: tiles that fit where they are one element long along the other axes. Raises `NoTile`."""
        keys = [(tiles_of, i, *own.flows, *((settings[j].extents[i], parts) for j, parts in own.groups)) for i, own in enumerate(kinds)]
        with self.lock:
            new = [i for i, key in enumerate(keys) if key not in self.known]
            if new and self.used > _MOST_COLUMNS:
                self._forget()
                new = [*range(len(keys))]
            asked = []
            for i in new:
                groups: list[Asked] = []
                for j, own in groupby(kinds[i].groups, key=itemgetter(0)):
                    parts = [each for _, each in own]
                    fitting = _that_fit(tiles_of(settings[j], i, parts), len(parts), longest[i])
                    groups += [Asked(each, tiles, j) for each, tiles in zip(parts, fitting, strict=True)]
                asked.append(AxisAsked(i, groups, kinds[i].flows, depth_of(groups)))
            # Deeper axes come first, so that those that a level parts stand together.
            asked.sort(key=lambda each: -each.depth)
            for each, begins in zip(asked, self._added(settings, asked) if asked else (), strict=True):
                tiles = [group.tiles for group in each.groups] * len(each.flows)
                self.known[keys[each.axis]] = SearchAxis(tiles, kinds[each.axis].of_variants, each.depth, begins)
            found = [self.known[key]._replace(kinds=each.of_variants) for key, each in zip(keys, kinds, strict=True)]
            return found, self.numbers

    def _added(self, settings: Sequence[Setting], asked: Sequence[AxisAsked]) -> list[list[int]]:
        """Where the levels of axes begin, which are filled in."""
        widths, at = [each.columns for each in asked], layout_of(settings[0])
        begin, end = self.used, self.used + sum(widths)
        self._make_room(at.rows, end + sum(widths))
        begins = [[begin + own] for own in fill(settings, asked, NO_TILE, self.numbers[:, begin:end])]
        boxes = self.numbers[: at.alike]
        for level in range(1, asked[0].depth + 1):
            parted = [i for i, each in enumerate(asked) if each.depth >= level]
            half = sum(widths[i] for i in parted) >> level
            below = boxes[:, begin : begin + 2 * half]
            np.minimum(below[:, ::2], below[:, 1::2], out=boxes[:, end : end + half])
            for i in parted:
                begins[i].append(end + (begins[i][-1] - begin) // 2)
            begin, end = end, end + half
        self.used = end
        return begins

    def _make_room(self, rows: int, columns: int) -> None:
        """Searches that go on keep the table that they began with."""
        before = self.numbers.shape[1]
        if columns > before:
            numbers = np.empty((rows, max(columns, 2 * before, _COLUMNS_AT_FIRST)))
            if self.used:
                numbers[:, : self.used] = self.numbers[:, : self.used]
            self.numbers = numbers


@lru_cache(maxsize=8)
def remembered_columns(form: Form) -> Columns:
    """Those of GEMMs of one form."""
    return Columns()


def _that_fit(tiles: Tiles, splits: int, longest: Floats) -> list[Ints]:
    """Of so many splits each the candidates that fit where they are one element long along the other axes."""
    fine = (tiles.sizes <= longest).all(axis=0)
    if not fine.all():
        tiles = Tiles(tiles.sizes.compress(fine, axis=1), tiles.splits.compress(fine))
        if not np.bincount(tiles.splits, minlength=splits).all():
            raise NoTile
    tiles = tiles if len(tiles.sizes) == 1 else _in_fours(tiles)
    return np.split(tiles.sizes, (tiles.splits[1:] > tiles.splits[:-1]).nonzero()[0] + 1, axis=1)


def _in_fours(tiles: Tiles) -> Tiles:
    """Chains of tiles, so that those within one tile of the stage around begin at a multiple of four: the last of them stands there again,
    which `fill` takes for no tile. Blocks of neighbours then differ in fewer tiles, and their bounds are closer: it halves the boxes that
    prefill on a TPU v4i opens. From three stages on, chains with tiles of one element stand apart, for these are far from the next longer
    ones: it opens a tenth of the boxes on cloud-npu with two more levels (on two stages it would open more)."""
    sizes, splits = tiles
    around = sizes[:-1]
    if len(sizes) > 2:
        order = np.lexsort((*sizes[::-1], *(sizes > 1), splits))
        sizes, splits = sizes.take(order, axis=1), splits.take(order)
        around = np.concatenate([np.where(sizes[1:] > 1, sizes[:-1], 0), sizes > 1])
    ends = np.ones(sizes.shape[1], dtype=bool)
    np.not_equal(around[:, 1:], around[:, :-1]).any(axis=0, out=ends[:-1])
    ends[:-1] |= splits[1:] > splits[:-1]
    lasts = ends.nonzero()[0]
    often = np.ones(len(ends), dtype=np.int64)
    often[lasts] += -np.diff(lasts, prepend=-1) % 4
    return Tiles(sizes.repeat(often, axis=1), splits.repeat(often))


def first_level(axes: Sequence[SearchAxis], combinations: int, at_first: int) -> int:
    """The level with which a search begins: the first at which there are few boxes, of which there are as many for each combination of
    blocks."""
    depths = [axis.depth for axis in axes]
    few = (level for level in range(max(depths)) if combinations << sum(max(0, depth - level) for depth in depths) <= at_first)
    return next(few, max(depths))
