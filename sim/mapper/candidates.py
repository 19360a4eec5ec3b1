"""What the mapper chooses from: tiles along each axis, loop orders, splits over cores, dataflows and array axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.formulas import systolic
from hwmodels.formulas.systolic import ceil_div
from sim.mapper.problem import Setting
from sim.mapping import AXES, Axis

Ints: TypeAlias = NDArray[np.int64]
Order: TypeAlias = tuple[int, int, int]

ORDERS: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""Ranks of the loops over m, n and k."""

ORDERS_ALIKE: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (2, 1, 0))
"""Enough where all blocks are cut into the same trips (one stage, equal parts): then only the innermost loop with more than one trip
matters, and these let each axis of any two or three be that loop."""


class Variant(NamedTuple):
    """What is chosen besides tiles and orders."""

    split: tuple[int, int]
    dataflow: str
    array_axis: Axis


def distinct(tiles: Ints) -> Ints:
    """Ascending, each once."""
    tiles.sort()
    new = np.empty(len(tiles), dtype=bool)
    new[0] = True
    np.not_equal(tiles[1:], tiles[:-1], out=new[1:])
    return tiles.compress(new)


@lru_cache(maxsize=4096)
def smallest_tiles(extent: int) -> Ints:
    """For every number of trips that a tile can cause the smallest such tile; ascending.

    With r the root of the extent, rounded down, extent / t and extent / (t + 1) are more than 1 apart as long as t < r: so every tile up to
    r is one, and a larger one belongs to each number of trips below extent / r.
    """
    root = math.isqrt(extent)
    larger = -(-extent // np.arange((extent - 1) // root, 0, -1))
    return np.concatenate([np.arange(1, root + 1), larger])


@lru_cache(maxsize=4096)
def candidate_tiles(extent: int, grains: tuple[int, ...]) -> Ints:
    """For every number of trips the smallest tile, and the smallest that is a multiple of each grain (where there is one); ascending.

    The trips of j grains are those of tiles of j in as many grains as the extent takes: so of each number of trips the smallest j is the
    smallest tile of these.
    """
    found = [smallest_tiles(extent)]
    for grain in grains:
        if grain > 1:
            # Of a chip out of a sweep the sides of arrays are float64.
            multiples = int(grain) * smallest_tiles(-(-extent // int(grain)))
            found.append(multiples if multiples[-1] <= extent else multiples[:-1])
    return found[0] if len(found) == 1 else distinct(np.concatenate(found))


def splits(cores: int) -> list[tuple[int, int]]:
    """Parts of m and n over at most `cores` cores."""
    return [(pm, pn) for pm in range(1, cores + 1) for pn in range(1, cores // pm + 1)]


def variants(setting: Setting) -> list[Variant]:
    """All splits, dataflows and array axes that differ: of splits that cut the axes into the same parts the one over the fewest cores; and
    of pieces, which have a core each, the only one."""
    unit = setting.chip.matrix
    flows: tuple[str, ...] = unit.dataflows if unit.kind == "systolic" else ("",)
    axes: tuple[Axis, ...] = ("m", "n") if unit.kind == "systolic" and unit.count > 1 else ("m",)
    m, n, _ = setting.extents
    shares: dict[tuple[int, int], tuple[int, int]] = {}
    for pm, pn in [(1, setting.pieces)] if setting.pieces > 1 else splits(setting.cores):
        if pm > m or pn > n:
            continue
        alike = (-(-m // pm), -(-n // pn)) if setting.split_stage == 0 else (pm, pn)  # parts of tiles differ where those of axes do not
        shares.setdefault(alike, (pm, pn))
    return [Variant(split, flow, axis) for split in shares.values() for flow in flows for axis in axes]


def array_grains(setting: Setting, axis: int) -> tuple[int, ...]:
    """Extents along an axis that fill one matrix unit of a core, or all, over all dataflows and array axes; along k those of lower rates,
    too (see `_packed`). Ascending."""
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        granule = unit.tile[axis]
        return _packed((granule, granule * unit.count) if AXES[axis] != "k" else (granule,), 1)
    return _packed(_bases(setting, axis), setting.rate if AXES[axis] == "k" else 1)


def _bases(setting: Setting, axis: int) -> tuple[int, ...]:
    """The same if a PE does one MAC at a time; 1 is among them where an axis is streamed."""
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        return (unit.tile[axis],)
    return _systolic_bases(unit.dataflows, unit.rows, unit.cols, unit.count, AXES[axis])


@lru_cache(maxsize=64)
def _systolic_bases(dataflows: tuple[str, ...], rows: int, cols: int, count: int, name: Axis) -> tuple[int, ...]:
    bases = set[int]()
    for flow in dataflows:
        over_rows, over_cols, _ = systolic.AXES[flow]
        base = rows if name == over_rows else cols if name == over_cols else 1
        bases.update((base, base * count) if name != "k" else (base,))
    return tuple(sorted(bases))


@lru_cache(maxsize=64)
def _packed(bases: tuple[int, ...], rate: float) -> tuple[int, ...]:
    """Multiples of 1, 2, 3, 4, 6 ... up to the rate: neighbours along k that a PE takes together. What suits a lower rate is among them, so
    that a higher one only adds to what is searched."""
    packs = [1, *(pack for power in range(int(rate).bit_length()) for pack in (2 << power, 3 << power) if pack <= rate)]
    return tuple(sorted({base * pack for base in bases for pack in packs} - {1}))


class Tiles(NamedTuple):
    """Candidate tiles [stages, candidates] of an axis, of one split after another, and the number of each one's split."""

    sizes: Ints
    splits: Ints


def every_tile(setting: Setting, axis: int, parts: Sequence[int]) -> Tiles:
    """Those of one axis, split into each of these parts: every integer, of one stage."""
    return _within_each(setting, axis, parts, lambda extent: np.arange(1, extent + 1))


def all_tiles(setting: Setting, axis: int, parts: Sequence[int]) -> Tiles:
    """Those of one axis, split into each of these parts: candidates within each candidate of the stage around."""
    grains = array_grains(setting, axis)
    return _within_each(setting, axis, parts, lambda extent: candidate_tiles(extent, grains))


def _within_each(setting: Setting, axis: int, parts: Sequence[int], within: Callable[[int], Ints]) -> Tiles:
    """Those of one axis that are within the extent of each of the stage around."""
    if len(setting.stages) == 1 and setting.split_stage == 0:
        each = [within(-(-setting.extents[axis] // own)) for own in parts]
        return Tiles(np.concatenate(each)[None], np.arange(len(parts)).repeat([*map(len, each)]))

    def tiles_of(extents: Ints, *_: Any) -> Ints:
        each = [within(extent) for extent in extents.tolist()]
        found = np.tile(extents, (max(map(len, each)), 1))
        for i, tiles in enumerate(each):
            found[: len(tiles), i] = tiles
        return found

    return _chains(setting, axis, parts, tiles_of)


def _chains(setting: Setting, axis: int, parts: Sequence[int], tiles_of: Callable[[Ints, int, Ints], Ints]) -> Tiles:
    """Chains of tiles within tiles, ascending; `tiles_of(extents, stage, splits)` gives those of a stage within blocks of these extents
    [tiles, extents] of these splits, the same one more than once where there are fewer. A tile that cores share has as many columns of each
    piece."""
    splits, cores = np.arange(len(parts)), np.array(parts)
    chains = np.empty((0, len(parts)), dtype=np.int64)
    for stage in range(len(setting.stages)):
        extents = chains[-1] if stage else np.array([setting.extents[axis]] * len(parts))
        if stage == setting.split_stage:
            extents = ceil_div(extents, cores[splits])
        alike = setting.pieces if axis == AXES.index("n") and stage < setting.split_stage else 1
        tiles = np.sort(alike * tiles_of(extents // alike, stage, splits), axis=0)
        new = np.empty(tiles.shape, dtype=bool)
        new[0] = True
        np.not_equal(tiles[1:], tiles[:-1], out=new[1:])
        often = np.add.reduce(new)
        around, new_chains, splits = chains.repeat(often, axis=1), tiles.T[new.T], splits.repeat(often)
        chains = np.empty((stage + 1, len(new_chains)), dtype=np.int64)
        chains[:stage], chains[stage] = around, new_chains
    return Tiles(chains, splits)


_LADDER = np.array(sorted({1, *(base * 2**i for i in range(24) for base in (2, 3))}))
"""Array extents of which the thinned search makes tiles for the array."""


@lru_cache(maxsize=256)
def inner_sizes(bases: tuple[int, ...], longest: int) -> Ints:
    """Lengths of tiles for the array: 1, 2, 3, 4, 6 ... of its extents; and, for where memory does not hold what fills it, their eighths,
    and, as far as one, halves and three quarters of these: with halves alone 45 GEMMs on chips with little room take a tenth longer in the
    mean."""
    sizes = [base * _LADDER[max(1, longest // base) >= _LADDER] for base in bases]
    for base in bases:
        sizes += [_halves(base), _halves(3 * base)[2:], base * np.arange(1, 8) // 8 if base >= 8 else _halves(base)]
    return distinct(np.concatenate(sizes))


@lru_cache(maxsize=256)
def outer_sizes(bases: tuple[int, ...], longest: int, octaves: int) -> Ints:
    """Lengths of tiles of outer stages, so many octaves apart: from the array's extents on, and below the smallest; also three quarters of
    that if they are one apart."""
    least = bases[0]
    sizes = [base << np.arange(0, max(1, (longest // base).bit_length()), octaves) for base in bases]
    between = [np.array([3 * least // 4])] if least >= 4 and octaves == 1 else []
    return distinct(np.concatenate([*sizes, _halves(least)[::octaves], *between]))


def _halves(base: int) -> Ints:
    """Of an extent, down to 1; the longest first."""
    return base >> np.arange(base.bit_length())


def thin_tiles(setting: Setting, axis: int, parts: Sequence[int]) -> Tiles:
    """Those of one axis, split into each of these parts, fewer: all of a block, one element, for the array `inner_sizes`, and for each
    core of outer stages `outer_sizes`, two octaves apart where there are three stages or more, which takes a tenth of the time that one
    would. Neither capacities nor the rate have a say in which these are, nor what is cut, so that what suits less of them or a longer axis
    is there for this one, too; and as one element of each role fits, something does.
    """
    bases = tuple(int(base) for base in _bases(setting, axis) if base > 1) or (1,)
    longest, stages = setting.extents[axis], len(setting.stages)
    further_out = outer_sizes(bases, longest, 1 if stages == 2 else 2)[:, None]
    cores = np.array(parts) if setting.pieces == 1 else np.ones(len(parts), dtype=np.int64)

    def tiles_of(extents: Ints, stage: int, splits: Ints) -> Ints:
        own = further_out * cores[splits] if stage < stages - 1 else inner_sizes(bases, longest)[:, None]
        tiles = np.empty((2 + len(own), len(extents)), dtype=np.int64)
        tiles[0], tiles[1], tiles[2:] = 1, extents, own
        return np.minimum(tiles, extents, out=tiles)

    return _chains(setting, axis, parts, tiles_of)


_ALL_SPLITS_OVER = 8
"""Cores up to which the thinned search tries all splits; of more only those over 10, 12, 14, 16, 20 ... are tried, four to an octave."""


def thin_variants(setting: Setting) -> list[Variant]:
    """Of the variants those with splits over few cores, and with those that no other split surpasses which takes no more cores: in whole
    granules its largest part is no larger, and no less square. Which ones these are among the splits over so many cores does not depend on
    how many more there are, so that more cores only add to them."""
    every = variants(setting)
    if setting.cores <= _ALL_SPLITS_OVER or setting.pieces > 1:
        return every
    chosen = [variant for variant in every if is_round(math.prod(variant.split))]
    splits = np.array(list(dict.fromkeys(variant.split for variant in chosen))).T
    extents = np.array(setting.extents[:2])[:, None]
    grains = np.array([next((base for base in _bases(setting, axis) if base > 1), 1) for axis in (0, 1)])[:, None]
    cores, sides = np.multiply.reduce(splits), ceil_div(ceil_div(extents, splits), grains) * grains
    area, around = np.multiply.reduce(sides), np.add.reduce(sides)
    order = np.lexsort((*splits[::-1], around, area, cores))
    cores, area, around = cores[order], area[order], around[order]
    is_less = (area[:, None] <= area) & (around[:, None] <= around)
    surpassed = np.triu(is_less, 1).any(axis=0)
    kept = {*map(tuple, splits[:, order[(cores <= _ALL_SPLITS_OVER) | ~surpassed]].T.tolist())}
    return [variant for variant in chosen if variant.split in kept]


def is_round(cores: int) -> bool:
    """Whether a number has at most three binary digits and zeros after them."""
    return cores % (1 << max(0, cores.bit_length() - 3)) == 0
