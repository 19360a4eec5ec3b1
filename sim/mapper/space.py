"""What a search goes through: the candidates that are combined, the axes with a column of numbers for each of them, and levels of blocks of
such columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sim.mapper.bound import Bounder
from sim.mapper.candidates import ORDERS, ORDERS_ALIKE, Variant, all_tiles, thin_tiles, thin_variants, variants
from sim.mapper.problem import Setting
from sim.mapper.tables import Asked, Floats, Flow, Ints, Tables, axis_tables, is_one_chip, place_of
from sim.mapping import AXES

NO_TILE = 1e30
"""A number so large that no mapping has it: where there is no candidate."""

TilesOf: TypeAlias = Callable[[Setting, int, int], Ints]
"""Candidate tiles [stages, candidates] of an axis of a GEMM on a chip that is split into parts."""

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


class SearchAxis(NamedTuple):
    """The candidates of one axis: of each kind [stages, candidates] those that fit alone, and the kind of each variant. Each kind has
    2^depth columns in the tables, the last of them of `NO_TILE`; kinds follow each other."""

    tiles: list[Ints]
    kinds: Ints
    depth: int


class Level(NamedTuple):
    """All axes, cut into blocks of 2^level candidates: a table with a column of minima for each, and where each axis begins [axes]."""

    table: Floats
    begins: list[int]


class NoTile(Exception):
    """Along some axis no tile fits."""


@lru_cache(maxsize=64)
def _kinds(chosen: tuple[Variant, ...], sources: tuple[tuple[int, ...], ...]) -> list[tuple[list[tuple[int, int]], list[Flow], Ints]]:
    """Of each axis the groups of candidates that variants ask for, each the number of a setting and parts; the flows that make a difference
    to it; and the kind of each variant, by flow and then by group. `sources[axis]` say which setting gives each variant its candidates."""
    found = []
    for axis, name in enumerate(AXES):
        groups = [(source, (*variant.split, 1)[axis]) for variant, source in zip(chosen, sources[axis], strict=True)]
        places = [place_of(variant.dataflow, variant.array_axis, name) for variant in chosen]
        flows = {place: (variant.dataflow, variant.array_axis) for place, variant in zip(reversed(places), reversed(chosen), strict=True)}
        group_numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        place_numbers = {place: i * len(group_numbers) for i, place in enumerate(dict.fromkeys(places))}
        kinds = np.array([place_numbers[place] + group_numbers[group] for place, group in zip(places, groups, strict=True)])
        found.append(([*group_numbers], [flows[place] for place in place_numbers], kinds))
    return found


def candidates_of(
    settings: Sequence[Setting], chosen: Sequence[Variant], asking: Sequence[int], tiles_of: TilesOf, bounder: Bounder
) -> tuple[list[SearchAxis], Tables]:
    """The axes, and their tables with a column for each candidate of each kind, padded. `asking` says for which of the settings each of the
    chosen variants is; GEMMs whose extents along an axis are the same share its candidates."""
    sources = [tuple(asking)] * len(AXES)
    if len(settings) > 1 and is_one_chip(settings):
        firsts = [{setting.extents[axis]: number for number, setting in reversed([*enumerate(settings)])} for axis in range(len(AXES))]
        sources = [tuple(own[settings[number].extents[axis]] for number in asking) for axis, own in enumerate(firsts)]
    kinds = _kinds(tuple(chosen), tuple(sources))
    asked = [
        [_that_fit(Asked(parts, tiles_of(settings[number], axis, parts), number), bounder.longest[axis]) for number, parts in groups]
        for axis, (groups, _, _) in enumerate(kinds)
    ]
    tables = axis_tables(settings, asked, [flows for _, flows, _ in kinds], NO_TILE)
    tiles = [[each.tiles for each in own] * len(flows) for own, (_, flows, _) in zip(asked, kinds, strict=True)]
    return [SearchAxis(*each) for each in zip(tiles, (own for _, _, own in kinds), tables.depths, strict=True)], tables


def _that_fit(asked: Asked, longest: Floats) -> Asked:
    """Candidates that fit where they are one element long along the other axes."""
    fine = asked.tiles <= longest
    if not fine.all():
        asked = asked._replace(tiles=asked.tiles.compress(fine.all(axis=0), axis=1))
        if not asked.tiles.size:
            raise NoTile
    return asked if len(asked.tiles) == 1 else asked._replace(tiles=_in_fours(asked.tiles))


def _in_fours(tiles: Ints) -> Ints:
    """Chains of tiles [stages, candidates], so that those within one tile of the stage around begin at a multiple of four: the last of them
    stands there again, which `axis_tables` takes for no tile. Blocks of neighbours then differ in fewer tiles, and their bounds are closer:
    it halves the boxes that prefill on a TPU v4i opens."""
    ends = np.ones(tiles.shape[1], dtype=bool)
    np.not_equal(tiles[:-1, 1:], tiles[:-1, :-1]).any(axis=0, out=ends[:-1])
    lasts = ends.nonzero()[0]
    often = np.ones(len(ends), dtype=np.int64)
    often[lasts] += -np.diff(lasts, prepend=-1) % 4
    return tiles.repeat(often, axis=1)


def levels_of(axes: Sequence[SearchAxis], tables: Tables, boxes: int, rows: int, at_first: int) -> list[Level]:
    """Levels from single candidates up to where boxes, of which there are as many for each combination of blocks, are few: of so many rows
    blocks' minima, in the columns that were left for them. Axes that a level does not part keep those that they have."""
    numbers, depths, begins = tables.numbers[:rows], tables.depths, tables.begins
    widths = [len(axis.tiles) << axis.depth for axis in axes]
    levels, begin, end = [Level(tables.numbers, begins)], 0, sum(widths)
    for level in range(1, 1 + max(depths)):
        if boxes << sum(max(0, depth - level + 1) for depth in depths) <= at_first:
            break
        # Deeper axes come first, so that those that are parted stand together.
        parted = [axis for axis in range(len(axes)) if depths[axis] >= level]
        half = sum(widths[axis] for axis in parted) >> level
        below = numbers[:, begin : begin + 2 * half]
        np.minimum(below[:, ::2], below[:, 1::2], out=numbers[:, end : end + half])
        begins = [end + (at - begin) // 2 if axis in parted else at for axis, at in enumerate(begins)]
        levels.append(Level(numbers, begins))
        begin, end = end, end + half
    return levels
