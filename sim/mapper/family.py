"""One GEMM, or one attention, on many chips at once: those that differ in rates, latencies and capacities share the search.

What a mapping moves and computes does not depend on how fast a chip is. So boxes of mappings are laid out once, and bounded for all chips
with one product of matrices (`sim.mapper.bound`, whose coefficients are arrays over chips); a box is dropped where it holds, for no chip,
anything that comes before what that chip has already. What is left as a single mapping is priced by `sim.mapper.cost` itself, over arrays
of chips, and every chip takes the first by the canonical key of `sim.mapper.search`: the very mapping that a search for it alone finds.

Chips lie in *blocks*, of which each resource takes alike shares of the latency, and boxes are bounded for a block at once: coefficients of
a chip are divided by the latency of the best mapping that it has, and of all chips of the block the least are taken. Where the bound that
they give is above 1 the box holds nothing better for any of them, as demands are not negative. First the few best boxes of each level are
opened down to single mappings, so that every chip has a good one; then all that may be better, level by level. Where that are many for a
block its chips are looked at one by one, and the one that keeps most is searched for alone.

Chips with several stages of memory, whose search is thinned out, are asked one by one. So are chips that differ in rows and columns of
their arrays and in other numbers too; those that differ in nothing else are searched side by side, with the same calls for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip, MatrixUnit
from hwmodels.many import chip_at, shape_of, taken
from sim.attention_mapping import Attention, AttentionMapping
from sim.mapper import array, map_gemm, moved_bytes, weight_passes
from sim.mapper.attention import attention_modes, flows_of, least, map_attention, rank_of, tilings_of
from sim.mapper.attention_cost import ALL_IN_DRAM, AttentionCost, InDram, Part, attention_cost, cost_of_use, moves_of, use_of
from sim.mapper.attention_cost import moved_bytes as attention_bytes
from sim.mapper.attention_room import fit
from sim.mapper.bound import ROUNDING, Bounder
from sim.mapper.cost import GemmCost, chip_traffic, cost_of, evaluate, weights_fetched
from sim.mapper.problem import NOTHING, Asked, Besides, Choice, Place, Setting
from sim.mapper.search import GRID, NONE_FOUND, Found, Search, lower_edge, on_grid, search, together
from sim.mapper.space import NoTile, Space, all_of
from sim.mapper.tables import Floats, Ints, with_arrays
from sim.mapper.threads import on_one_thread
from sim.mapping import Gemm
from sim.plan import resident_level

BLOCK = 64
"""Chips of a block at most."""

MANY_BOXES = 120
"""Boxes of a level up to which a block does without a look at each of its chips."""

TOO_MANY_BOXES = 500
"""Boxes of a level that a chip with a good mapping hardly ever keeps."""

FEW = 16
"""Boxes of each level that are opened first of all for each block: the best of them are good to begin with."""

FEWEST = 4
"""Chips for which a search together is worth its while."""

SIDE_BY_SIDE = 18
"""Chips with different arrays that are searched together at most: with more the work on arrays outweighs the calls that are saved."""


class GemmCosts(NamedTuple):
    """The best mapping's cost on each chip, as arrays [chips]; the bytes that pass each level, over the whole chip; and the elements of the
    weights that it reads from DRAM."""

    cost: GemmCost
    moved_bytes: Mapping[str, Any]
    weights_fetched: Any


Flags: TypeAlias = NDArray[np.bool_]
"""Which of some boxes."""

Share: TypeAlias = tuple[Ints, GemmCosts]
"""Some of the chips, and what the GEMM costs them."""


def map_gemms(gemm: Gemm, chips: Chip, a_resident: bool = False, besides: Besides = NOTHING) -> GemmCosts:
    """What `map_gemm` and `moved_bytes` say of each of many chips: of one chip with arrays [chips] for its clock, bandwidths, latencies,
    capacities, resident share, or the rows and columns of its array.

    Raises `BadInput` where `map_gemm` does for any of them.
    """
    (count,) = shape_of(chips)
    parts = list(_shares(Asked(gemm, a_resident, besides), chips, count))
    found = _joined([(which, {**share._asdict(), "cost": _columns(share.cost)}) for which, share in parts], count)
    return GemmCosts(**{**found, "cost": GemmCost(**found["cost"])})


def _shares(asked: Asked, chips: Chip, count: int) -> Iterator[Share]:
    if has_arrays(chips):
        alike = alike_arrays(chips)
        for which, own in alike.many:
            yield which, map_gemms(asked.gemm, own, asked.a_resident, asked.besides)
        for begin in range(0, len(alike.few), SIDE_BY_SIDE):
            yield from _side_by_side(asked, alike.few[begin : begin + SIDE_BY_SIDE])
        return
    setting = asked.on(_with_most_room(chips))
    left = np.arange(count)
    if count >= FEWEST and len(setting.stages) == 1:
        for which, share in _Family(setting, all_of(setting), chips, asked).run():
            yield which, share
            left = np.setdiff1d(left, which)
    for i in left.tolist():
        yield _alone(asked, chip_at(chips, i), i)


def has_arrays(chips: Chip) -> bool:
    """Whether chips differ in the rows or columns of their arrays."""
    return isinstance(chips.matrix.rows, np.ndarray) or isinstance(chips.matrix.cols, np.ndarray)


class Alike(NamedTuple):
    """Chips parted by their arrays: those of which several have one alike, together, and the others one by one."""

    many: list[tuple[Ints, Chip]]
    few: list[tuple[int, Chip]]


@dataclass(frozen=True, slots=True)
class _Same:
    """Chips that are the very same: it holds them, so that their identity stays their own."""

    identity: int
    chips: Chip = field(compare=False)


def alike_arrays(chips: Chip) -> Alike:
    """Those of the chips that have an array alike, for each of the arrays."""
    return _alike_arrays(_Same(id(chips), chips))


@lru_cache(maxsize=4)
def _alike_arrays(same: _Same) -> Alike:
    chips = same.chips
    sizes = np.array([np.broadcast_to(each, shape_of(chips)) for each in (chips.matrix.rows, chips.matrix.cols)], dtype=np.int64)
    kinds, kind_of = np.unique(sizes, axis=1, return_inverse=True)
    found = Alike([], [])
    for i, (rows, cols) in enumerate(kinds.T.tolist()):
        which = np.flatnonzero(kind_of.reshape(-1) == i)
        # One number is an array at least, so that they stay chips.
        clock_hz = np.broadcast_to(np.asarray(chips.clock_hz, dtype=float), kind_of.reshape(-1).shape)
        own = replace(chips, clock_hz=clock_hz, matrix=replace(chips.matrix, rows=rows, cols=cols))
        if len(which) >= FEWEST:
            found.many.append((which, taken(own, which)))
        else:
            found.few.extend((int(each), chip_at(own, int(each))) for each in which)
    return found


def _side_by_side(asked: Asked, chips: Sequence[tuple[int, Chip]]) -> Iterator[Share]:
    """Chips with numbers of their own, searched together if nothing but their arrays is different."""
    settings = [asked.on(chip) for _, chip in chips]
    first = chips[0][1]
    found: Sequence[Found] = [NONE_FOUND] * len(chips)
    if len(settings[0].stages) == 1 and all(replace(chip, matrix=_of_size(chip, first)) == first for _, chip in chips):
        with suppress(NoTile):
            found = Search(settings, [all_of(setting) for setting in settings]).run()
    alike: dict[Any, list[int]] = {}
    for number, ((i, chip), best) in enumerate(zip(chips, found, strict=True)):
        if best.choice is None:
            yield _alone(asked, chip, i)
        else:
            alike.setdefault(best.choice[2:], []).append(number)
    for numbers in alike.values():
        setting = with_arrays(settings, numbers, [1] * len(numbers))
        choice = together([each.choice for each in (found[number] for number in numbers) if each.choice is not None])
        traffic = chip_traffic(setting, choice)
        moved = {name: read + traffic.written[name] for name, read in traffic.read.items()}
        which = np.array([chips[number][0] for number in numbers])
        yield which, GemmCosts(cost_of(setting, choice), moved, weights_fetched(setting, choice))


def _of_size(chip: Chip, other: Chip) -> MatrixUnit:
    """The matrix unit of a chip with as many rows and columns as another's."""
    return replace(chip.matrix, rows=other.matrix.rows, cols=other.matrix.cols)


def _alone(asked: Asked, chip: Chip, which: int) -> Share:
    mapping, cost = map_gemm(asked.gemm, chip, a_resident=asked.a_resident, besides=asked.besides)
    passes = weight_passes(mapping, chip, asked.a_resident)
    fetched = int(passes * asked.gemm.n * asked.gemm.k)
    return np.array([which]), GemmCosts(cost, moved_bytes(mapping, chip, asked.a_resident), fetched)


def _with_most_room(chips: Chip) -> Chip:
    """The first of the chips, with as much room on each level as any of them has."""
    first = chip_at(chips, 0)
    rooms = [float(np.max(level.capacity_bytes)) for level in chips.memory]
    memory = [replace(level, capacity_bytes=room) for level, room in zip(first.memory, rooms, strict=True)]
    return replace(first, memory=tuple(memory), resident_share=float(np.min(chips.resident_share)))


def _columns(cost: Any) -> dict[str, Any]:
    return {each.name: getattr(cost, each.name) for each in fields(cost)}


def _joined(parts: Sequence[tuple[Ints, Mapping[str, Any]]], count: int) -> dict[str, Any]:
    """Numbers of parts of the chips as those of all, by name; numbers within them by name likewise."""
    found: dict[str, Any] = {}
    for name, example in parts[0][1].items():
        if isinstance(example, Mapping):
            found[name] = _joined([(which, columns[name]) for which, columns in parts], count)
            continue
        if isinstance(example, tuple):
            joined = _joined([(which, {str(i): each for i, each in enumerate(columns[name])}) for which, columns in parts], count)
            found[name] = type(example)(*joined.values()) if hasattr(example, "_fields") else tuple(joined.values())
            continue
        is_word = isinstance(example, str) or np.asarray(example).dtype.kind in "UO"
        column = np.empty(count, dtype=object if is_word else np.float64)
        for which, columns in parts:
            column[which] = columns[name]
        found[name] = column
    return found


def on_chips(setting: Setting, chips: Chip, shaped: Any) -> Setting:
    """A setting on many chips; `shaped` gives their arrays the shape that is wanted. Room is that of the setting's own chip."""
    clock_hz, places = shaped(chips.clock_hz), []
    for place, level in zip(setting.places, chips.memory, strict=True):
        bandwidth = replace(level.bandwidth, read=shaped(level.bandwidth.read), write=shaped(level.bandwidth.write))
        own = replace(place.level, bandwidth=bandwidth, latency_s=shaped(level.latency_s))
        places.append(Place(own, place.stage, bandwidth.read_bytes_per_s(clock_hz), bandwidth.write_bytes_per_s(clock_hz)))
    chip = replace(setting.chip, clock_hz=clock_hz, memory=tuple(place.level for place in places))
    at = {place.level.name: place for place in places}
    holders = {role: tuple(at[place.level.name] for place in held) for role, held in setting.holders.items()}
    return replace(setting, chip=chip, places=tuple(places), holders=holders)


def blocks_of(features: Floats) -> tuple[Ints, list[slice]]:
    """An order of the chips in which neighbours are alike in all features [features, chips], and the blocks that it falls into."""
    blocks, waiting = [], [np.arange(features.shape[1])]
    while waiting:
        chips = waiting.pop()
        if len(chips) <= BLOCK:
            blocks.append(chips)
            continue
        own = features[:, chips]
        chips = chips[np.argsort(own[np.argmax(np.ptp(own, axis=1))], kind="stable")]
        waiting += [chips[: len(chips) // 2], chips[len(chips) // 2 :]]
    ends = np.cumsum([0, *map(len, blocks)]).tolist()
    return np.concatenate(blocks), [slice(*each) for each in pairwise(ends)]


class _Bounds(NamedTuple):
    """Boxes `where` of a level, or single mappings, bounded but for their latency: demands, amounts [DRAM bytes, bytes moved, steps;
    boxes], bits that tiles take [levels, boxes] (empty where all chips have the same room), and the first place among all mappings that
    each has."""

    level: int
    where: Ints
    demands: Floats
    amounts: Floats
    needed: Floats
    places: Ints

    def take(self, which: Any) -> _Bounds:
        return _Bounds(self.level, *(each.take(which, axis=-1) for each in self[1:]))


class _Family:
    """The search for one GEMM on many chips, in an order of its own; `key` [5, chips] is what each chip's best mapping, `where` [5, chips],
    is ranked by."""

    def __init__(self, setting: Setting, space: Space, chips: Chip, asked: Asked) -> None:
        self.setting, self.asked = setting, asked
        self.space = Search([setting], [space])
        count = shape_of(chips)[0]
        # One number is an array at least, so that all bounds are.
        self.chips = replace(chips, clock_hz=np.broadcast_to(np.asarray(chips.clock_hz, dtype=float), count))
        rooms = self._rooms()
        seed = search(asked.on(chip_at(self.chips, count // 2)), "latency").choice
        assert seed is not None
        self.order, self.blocks = blocks_of(self._features(seed, rooms))
        self.begins = [block.start for block in self.blocks]
        self.chips = taken(self.chips, self.order)
        variants, orders, _ = space
        upright = on_chips(setting, self.chips, lambda number: number[:, None] if isinstance(number, np.ndarray) else number)
        self.bounder = Bounder(upright, orders, [array.drain_cycles(setting, variant.dataflow) for variant in variants])
        self.rooms = None if (rooms == rooms[:, :1]).all() else rooms[:, self.order]
        self.key = np.full((5, count), np.inf)
        self.where = np.zeros((5, count), dtype=np.int64)
        self.searched = set[int]()
        self.virtual: dict[bool, Floats] = {}
        self._offer(seed)

    def _rooms(self) -> Floats:
        """[levels, chips]: bits that tiles may take, level by level of the bounder."""
        rooms: list[Any] = []
        for stage, _, _ in self.space.bounder.rooms:
            for place, level in zip(self.setting.places, self.chips.memory, strict=True):
                if place.stage == stage:
                    share = 1 - self.chips.resident_share if level.name == resident_level(self.chips).name else 1.0
                    rooms.append(np.broadcast_to(8 * (level.capacity_bytes * share), shape_of(self.chips)))
        return np.array(rooms)

    def _features(self, choice: Choice, rooms: Floats) -> Floats:
        """What chips are alike in: the share of the latency of one mapping that each resource takes; and doublings of room."""
        costs = evaluate(self._setting(np.arange(rooms.shape[1])), choice)
        ends = [term.prefix_s + term.busy_s + term.suffix_s for term in costs.terms.values()]
        return np.array([*(np.broadcast_to(end / costs.latency_s, rooms.shape[1:]) for end in ends), *np.log2(rooms)])

    @on_one_thread
    def _search(self) -> None:
        for keep in (self._best, self._good)[len(self.blocks) == 1 :]:
            self._price_alive(*self._down(keep))

    def run(self) -> Iterator[Share]:
        """The parts of the chips that have a mapping."""
        self._search()
        found = np.flatnonzero(self.key[0] < np.inf)
        for variant in np.unique(self.where[0, found]).tolist():
            own = found[self.where[0, found] == variant]
            # What is moved depends on the mapping alone, of which there are few.
            _, firsts, alike = np.unique(self.key[4, own], return_index=True, return_inverse=True)
            choice = self._choice(self.where[:, own[firsts]])
            traffic = chip_traffic(self.setting, choice)
            moved = {name: _each(read + traffic.written[name], alike) for name, read in traffic.read.items()}
            fetched = _each(weights_fetched(self.setting, choice), alike)
            yield self.order[own], GemmCosts(cost_of(self._setting(own), self._choice(self.where[:, own])), moved, fetched)

    def _ask(self, chip: int) -> None:
        """Search for one chip alone, and offer what is found to all of them."""
        self.searched.add(chip)
        found = search(self.asked.on(chip_at(self.chips, chip)), "latency").choice
        assert found is not None
        self._offer(found)

    def _offer(self, choice: Choice) -> None:
        """Let a mapping be the best one of every chip for which it is better than what that has."""
        where = self.space.where(choice)
        bounds = self._bounds(0, where)
        takers = self._promising(bounds, self._latency_s(bounds, slice(None)), slice(None))[:, 0].nonzero()[0]
        self._price(takers, np.repeat(where, len(takers), axis=1))

    def _price(self, chips: Ints, where: Ints) -> None:
        """Price mappings on chips, pair by pair, and note what is better than before."""
        keys = np.empty((5, len(chips)))
        for variant in np.unique(where[0]).tolist():
            mine = np.flatnonzero(where[0] == variant)
            costs = evaluate(self._setting(chips[mine]), self._choice(where[:, mine]))
            for row, amounts in enumerate((costs.latency_s, costs.dram_bytes, costs.moved_bytes, costs.steps)):
                keys[row, mine] = amounts
        keys[0], keys[4] = on_grid(keys[0]), self.space.place(0, where)
        order = np.lexsort((*keys[::-1], chips))
        best = order[np.diff(chips[order], prepend=-1) > 0]
        best = best[_before(list(keys[:, best]), self.key[:, chips[best]])]
        self.key[:, chips[best]], self.where[:, chips[best]] = keys[:, best], where[:, best]
        self.virtual.clear()

    def _setting(self, chips: Ints) -> Setting:
        return on_chips(self.setting, self.chips, lambda number: number[chips] if isinstance(number, np.ndarray) else number)

    def _choice(self, where: Ints) -> Choice:
        """Mappings of one variant."""
        variant, (tiles, ranks) = self.space.chosen[int(where[0, 0])], self.space.tiles(where)
        return Choice(tiles, ranks, variant.split, variant.dataflow, variant.array_axis)

    def _down(self, keep: Callable[[_Bounds, Flags], Flags]) -> tuple[_Bounds, Flags]:
        """From the whole space down to single mappings, and which blocks have them [blocks, mappings]: of the boxes of each level that
        blocks have, with their bounds, those are opened that `keep` leaves."""
        level, where = self.space.start()
        alive = np.ones((len(self.blocks), where.shape[1]), dtype=bool)
        while True:
            fine = self._fits_largest(where)
            bounds = self._bounds(level, where.compress(fine, axis=1))
            alive = keep(bounds, alive.compress(fine, axis=1))
            some = np.flatnonzero(alive.any(axis=0))
            bounds, alive = bounds.take(some), alive.take(some, axis=1)
            if not level or not len(some):
                return bounds, alive
            level, where = level - 1, self.space.children(level, bounds.where, level - 1)
            alive = alive.repeat(where.shape[1] // len(some), axis=1)

    def _best(self, bounds: _Bounds, alive: Flags) -> Flags:
        """The few boxes of the least bounds of each block."""
        least = np.where(alive, self._least(bounds), np.inf)
        few = np.argpartition(least, min(FEW, least.shape[1]) - 1, axis=1)[:, :FEW]
        found = np.zeros_like(alive)
        np.put_along_axis(found, few, np.take_along_axis(least, few, axis=1) < np.inf, axis=1)
        return found

    def _good(self, bounds: _Bounds, alive: Flags) -> Flags:
        """The boxes that may hold something that comes before what a chip of their block has."""
        alive = alive & self._perhaps(bounds)
        for block, own_alive in zip(self.blocks, alive, strict=True):
            which = np.flatnonzero(own_alive)
            if len(which) > MANY_BOXES:
                own_alive[which] = self._kept(bounds.take(which), block).any(axis=0)
        return alive

    def _price_alive(self, bounds: _Bounds, alive: Flags) -> None:
        """Price single mappings on the chips of blocks: for each chip first the one of the best bounds, which mostly is the best, then what
        still may be better."""
        order = np.lexsort((bounds.places, *bounds.amounts[::-1]))
        bounds, alive = bounds.take(order), alive.take(order, axis=1)
        parts = [(block, bounds.take(np.flatnonzero(own))) for block, own in zip(self.blocks, alive, strict=True) if own.any()]
        latencies = [self._latency_s(own, block) for block, own in parts]
        for is_first in (True, False):
            pairs = []
            for (block, own), latency_s in zip(parts, latencies, strict=True):
                kept = self._promising(own, latency_s, block)
                if is_first:
                    kept &= np.arange(kept.shape[1]) == np.where(kept, latency_s, np.inf).argmin(axis=1)[:, None]
                    latency_s[kept] = np.inf
                chips, which = kept.nonzero()
                pairs.append((chips + block.start, own.where[:, which]))
            if pairs:
                self._price(np.concatenate([each for each, _ in pairs]), np.hstack([where for _, where in pairs]))

    def _perhaps(self, bounds: _Bounds) -> Flags:
        """[blocks, boxes]: which may hold something that comes before what a chip of the block has."""
        key = np.maximum.reduceat(self.key, self.begins, axis=1)
        least = self._least(bounds)
        better = least < 1
        return self._with_equal(better, (least <= 1 + 2 * GRID) & ~better, bounds, key)

    def _least(self, bounds: _Bounds) -> Floats:
        """[blocks, boxes]: the least share of the best latency of any chip of the block."""
        least = self.bounder.rows.largest(self._least_coefficients(bounds.level == 0) @ bounds.demands) * (1 - ROUNDING)
        for needed, room in zip(bounds.needed, self.rooms if self.rooms is not None else (), strict=True):
            least[needed > np.maximum.reduceat(room, self.begins)[:, None]] = np.inf
        return least

    def _least_coefficients(self, single: bool) -> Floats:
        """[blocks, rows, demands]: the least of all chips of a block, of which each is measured by the least latency that would be as good
        as the best that it has."""
        if single not in self.virtual:
            rows = self.bounder.rows
            scale = np.where(self.key[0] < np.inf, 1 / lower_edge(self.key[0]), 0.0)[:, None, None]
            self.virtual[single] = np.minimum.reduceat((rows.coefficients if single else rows.coefficients_of_boxes) * scale, self.begins)
        return self.virtual[single]

    def _kept(self, bounds: _Bounds, block: slice) -> Flags:
        """What the chips of a block keep, after those of them were asked that kept many boxes."""
        latency_s = self._latency_s(bounds, block)
        while True:
            kept = self._promising(bounds, latency_s, block)
            counts = kept.sum(axis=1)
            counts[[chip - block.start for chip in self.searched if block.start <= chip < block.stop]] = 0
            chip = int(counts.argmax())
            if counts[chip] <= TOO_MANY_BOXES:
                return kept
            self._ask(block.start + chip)

    def _fits_largest(self, where: Ints) -> Flags:
        """Whether boxes fit the largest of the chips."""
        firsts = self.bounder.at.firsts
        table = self.space.of_boxes[firsts : firsts + len(self.setting.stages)]
        return self.bounder.fits(table.take(where[2:], axis=1, mode="clip"))

    def _bounds(self, level: int, where: Ints) -> _Bounds:
        table = self.space.of_boxes if level else self.space.table
        numbers, rows = table.take(where[2:], axis=1, mode="clip"), self.bounder.rows
        demands = self.bounder.demands_of(numbers, where[1], where[0], single=level == 0)
        dram_bytes, moved_bytes = rows.bytes_of(demands, level == 0)
        steps = demands[self.bounder.steps]
        needed = np.empty((0, where.shape[1])) if self.rooms is None else rows.needed[:, : len(demands)] @ demands
        return _Bounds(level, where, demands, np.array([dram_bytes, moved_bytes, steps]), needed, self.space.place(level, where))

    def _latency_s(self, bounds: _Bounds, block: slice) -> Floats:
        """[chips, boxes]; infinite where a box does not fit."""
        latency_s = on_grid(self.bounder.rows.latency_s(bounds.demands, bounds.level == 0, block) * (1 - ROUNDING))
        for needed, room in zip(bounds.needed, self.rooms if self.rooms is not None else (), strict=True):
            latency_s[needed > room[block, None]] = np.inf
        return np.asarray(latency_s)

    def _promising(self, bounds: _Bounds, latency_s: Floats, block: slice) -> Flags:
        """[chips, boxes]: which hold something that may come before what a chip has."""
        key = self.key[:, block]
        most = key[0, :, None]
        better = latency_s < most * (1 - 2 * ROUNDING)
        return self._with_equal(better, (latency_s <= most) & ~better & (latency_s < np.inf), bounds, key)

    @staticmethod
    def _with_equal(better: Flags, equal: Flags, bounds: _Bounds, key: Floats) -> Flags:
        """[chips, boxes]: those that are better, and of those of `equal` latency those that may come before a key [5, chips] by what is
        ranked besides."""
        chips, boxes = equal.nonzero()
        if len(chips):
            own, best = bounds.amounts.take(boxes, axis=1) * (1 - ROUNDING), key[1:4].take(chips, axis=1)
            before = own < best * (1 - 2 * ROUNDING)
            not_after = own <= best
            last = bounds.places.take(boxes) < key[4].take(chips)
            better[chips, boxes] = before[0] | not_after[0] & (before[1] | not_after[1] & (before[2] | not_after[2] & last))
        return better


def _each(amounts: Any, which: Ints) -> Any:
    """Amounts of some mappings, or one of all, for each chip."""
    return amounts[which] if isinstance(amounts, np.ndarray) else amounts


def map_attentions(
    attention: Attention,
    chips: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram = ALL_IN_DRAM,
    part: Part = "all",
    score_bytes: tuple[float, float] = (0, 0),
) -> tuple[AttentionCost, Mapping[str, Any]]:
    """What `map_attention` and `moved_bytes` say of each of many chips, as `map_gemms`: every tiling is priced on all of them."""
    (count,) = shape_of(chips)
    if has_arrays(chips):
        asked = counts, in_dram, part, score_bytes
        alike = alike_arrays(chips)
        found = [(which, map_attentions(attention, own, *asked)) for which, own in alike.many]
        for i, chip in alike.few:
            mapping, cost = map_attention(attention, chip, *asked)
            found.append((np.array([i]), (cost, attention_bytes(mapping, chip, cost, in_dram, part))))
        joined = _joined([(which, _columns(cost)) for which, (cost, _) in found], count)
        return AttentionCost(**joined), _joined([(which, moved) for which, (_, moved) in found], count)
    winner, candidates = np.zeros(count, dtype=np.int64), list[AttentionMapping]()
    rank = np.full((11, count), np.inf)
    every = [each for mode in attention_modes(attention) for each in tilings_of(attention, _with_most_room(chips), *mode, part)]
    bounded = []
    for number, tiling in enumerate(replace(first, kv_tile=kv_tile) for first, kv_tiles in every for kv_tile in kv_tiles.tolist()):
        below_s = least(tiling, np.array([tiling.kv_tile]), chips, counts, in_dram, part, score_bytes).seconds * (1 - 1e-12)
        bounded.append((float(below_s.min()), number, tiling, below_s))
    for _, number, tiling, below_s in sorted(bounded, key=lambda each: each[:2]):
        fitting = fit(tiling, tiling.kv_tile, chips)
        if not (fitting & (below_s <= rank[0])).any():
            continue
        moves = moves_of(tiling, chips, part)
        for flow, mapping in enumerate(flows_of(tiling, chips)):
            cost = cost_of_use(mapping, chips, counts, in_dram, part, score_bytes, use_of(mapping, chips, part, moves))
            own = *rank_of(mapping, cost), below_s, number, flow
            better = fitting & _before(own, rank)
            if better.any():
                for row, amounts in zip(rank, own, strict=True):
                    np.copyto(row, amounts, where=better)
                winner[better] = len(candidates)
                candidates.append(mapping)
    if (rank[0] == np.inf).any():
        map_attention(attention, chip_at(chips, int(rank[0].argmax())), counts, in_dram, part, score_bytes)  # which says why not
    costs, moved = [], []
    for each in np.unique(winner).tolist():
        which, mapping = np.flatnonzero(winner == each), candidates[each]
        own_chips = taken(chips, which)
        cost = attention_cost(mapping, own_chips, counts, in_dram, part, score_bytes)
        costs.append((which, _columns(cost)))
        moved.append((which, attention_bytes(mapping, own_chips, cost, in_dram, part)))
    return AttentionCost(**_joined(costs, count)), _joined(moved, count)


def _before(some: Sequence[Any], others: Any) -> Any:
    """Where the first amounts come before the second ones, the earlier deciding."""
    before: Any = False
    equal: Any = True
    for own, other in zip(some, others, strict=True):
        before = before | (equal & (own < other))
        equal = equal & (own == other)
    return before
