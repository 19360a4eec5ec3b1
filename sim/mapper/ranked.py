"""The mappings of a GEMM that may be faster than a known time, best first: what the cycle engine plays after the mapper's choice.

They are ranked by a bound that is at least the tiled latency of their group: the tiled terms with what element-wise ops of the group ask of
each level besides; and DRAM's reads, all of which come before the last step, followed by that step and the last tile's way out. Many
mappings tie in tiled latency, and that last tile, which a few large ones make long, is what mostly parts them when they are played.

The search is that of `sim.mapper.search`, whose boxes are dropped if their tiled bound is above the last of the best, or equal and all that
they hold comes after it: what is dropped holds none of them. Bounds are compared on the grid of that search, and of equal ones the first in
its order of all mappings is better, the last variants first, which split over most cores and end soonest: so which mappings are the best is
a function of the question if the search was to the last.
Where the mapper thins out its candidates, so does this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from hwmodels.chip import Chip
from sim.mapper import array, mapping_of
from sim.mapper.candidates import Variant
from sim.mapper.cost import evaluate_with_last_step
from sim.mapper.problem import Choice, Setting, setting_of
from sim.mapper.search import Found, Key, Search, lower_edge, on_grid
from sim.mapper.space import NoTile, all_of, thin_of
from sim.mapper.tables import Ints
from sim.mapping import Gemm, GemmMapping, chip_stages

_BATCH = 512
_MOST_BOXES = 100_000
_MOST_PRICED = 20_000
"""Boxes that are opened, and mappings that are priced, before the search is content with what it has."""


class Candidate(NamedTuple):
    """A mapping and a bound on every schedule of it in its group [s], not below the tiled one."""

    bound_s: float
    mapping: GemmMapping


class Candidates(NamedTuple):
    """The best mappings in the order of their bounds, and a bound on all others [s]; 0 where the search did not see all of them."""

    best: list[Candidate]
    others_s: float


def candidates(
    gemm: Gemm,
    chip: Chip,
    a_resident: bool,
    besides_s: Mapping[str, tuple[float, ...]],
    range_s: tuple[float, float],
    count: int,
    most_tiles: int,
    pieces: int = 1,
) -> Candidates:
    """Up to `count` mappings of no more than `most_tiles` whose tiled latency is at least the first time and whose bound is below the
    second; `besides_s`: what else each port of a level and the vector unit do in the group; `pieces` as for `map_gemm`."""
    return _answer(_Question(gemm, a_resident, tuple(besides_s.items()), range_s, count, most_tiles, pieces, id(chip), chip))


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, of the very same chip: it is held, so that its identity stays its own."""

    gemm: Gemm
    a_resident: bool
    besides_s: tuple[tuple[str, tuple[float, ...]], ...]
    range_s: tuple[float, float]
    count: int
    most_tiles: int
    pieces: int
    chip_identity: int
    chip: Chip = field(compare=False)


@lru_cache(maxsize=64)
def _answer(asked: _Question) -> Candidates:
    """Remembered: the last token of a prompt and the next one ask lm_head alike."""
    setting = setting_of(asked.gemm, asked.chip, asked.a_resident, pieces=asked.pieces)
    search = _search(setting, dict(asked.besides_s), asked.range_s, asked.count, asked.most_tiles)
    if search is None:
        return Candidates([], 0.0)
    is_exact = search.run()[0].is_exact and search.is_whole
    best = [Candidate(each.bound_s, mapping_of(setting, each.choice)) for each in search.best]
    return Candidates(best, search.others_s if is_exact else 0.0)


def sees_all(chip: Chip) -> bool:
    """Whether all candidates of the mapper are searched, as the mapper does itself then: one stage."""
    return len(chip_stages(chip)) == 1


def _search(
    setting: Setting, besides_s: Mapping[str, tuple[float, ...]], range_s: tuple[float, float], count: int, most_tiles: int
) -> _Ranked | None:
    whole = sees_all(setting.chip)
    try:
        variants, orders, tiles_of = all_of(setting) if whole else thin_of(setting)
        search = _Ranked([setting], [(variants[::-1], orders, tiles_of)], "latency")
    except NoTile:
        return None
    search.besides_s, search.count, search.most_tiles, search.is_whole = besides_s, count, most_tiles, whole
    search.begin(*range_s)
    return search


def program_of(setting: Setting, choice: Choice) -> tuple[object, ...]:
    """What a mapping does, the same for all that differ in nothing but where loops of one trip stand: of each stage its other loops,
    outermost first, and all else that is chosen."""
    loops, extents = [], setting.extents
    for stage, (tile, ranks) in enumerate(zip(choice.tiles, choice.ranks, strict=True)):
        if stage == setting.split_stage:
            extents = -(-extents[0] // choice.split[0]), -(-extents[1] // choice.split[1]), extents[2]
        loops.append(tuple(sorted((axis for axis in range(3) if tile[axis] < extents[axis]), key=ranks.__getitem__)))
        extents = tile
    return choice.tiles, tuple(loops), choice.split, choice.dataflow, choice.array_axis


class _Best(NamedTuple):
    """A mapping: its bound on the grid, its place among all, its bound [s], what it is and what it does."""

    on_grid_s: float
    place: int
    bound_s: float
    choice: Choice
    program: tuple[object, ...]


class _Ranked(Search):
    """A search that keeps the best few, by bound and then by place among all mappings; of those that do the same the first."""

    may_trust = False
    besides_s: Mapping[str, tuple[float, ...]]
    count: int
    most_tiles: int
    is_whole: bool
    left_out_s = math.inf
    best: list[_Best]

    def begin(self, least_s: float, below_s: float) -> None:
        """Only bounds in this range are wanted."""
        self.best, self.least_s, self.below_s = [], least_s, below_s
        dram, gemm = self.setting.places[0], self.setting.gemm
        a_bits = gemm.m * gemm.k * gemm.a_bits * (self.setting.holders["activations"][0] is dram)
        # All operands come before the last step.
        self.operands_s = float(dram.level.latency_s) + (a_bits + gemm.k * gemm.n * gemm.w_bits) / 8 / dram.read_bytes_per_s
        self.late_s = on_grid(np.array([self._late_s(variant) for variant in self.chosen]) * (1 - 1e-12))
        self._nothing_after(float(on_grid(np.float64(below_s))), math.inf)

    @property
    def others_s(self) -> float:
        """A bound on all that are not among the best, once the search was to the last."""
        last_s = float(lower_edge(np.array(self.best[-1].on_grid_s))) if len(self.best) == self.count else self.below_s
        return min(last_s, self.below_s, self.left_out_s)

    def _limits(self, key: Key) -> list[float]:
        # Nothing but bounds and places counts.
        limits = super()._limits(key)
        return [limits[0], *[-math.inf] * 3, limits[4], *[math.inf] * 3, *limits[8:]]

    def _parted(self, boxes: Any, count: int) -> tuple[Any, Any]:
        """The first ones, and the rest: of equal bounds those with the lowest places, which others are compared with."""
        if boxes.boxes <= count:
            return boxes, None
        order = np.lexsort((self.place(boxes.level, boxes.where), boxes.bounds[0]))
        return boxes.take(order[:count]), boxes.take(order[count:])

    def _late_s(self, variant: Variant) -> float:
        """Seconds that no mapping of several cores goes below: the very sum of `bounds` with operands read once and the least step."""
        if variant.split == (1, 1):
            return 0.0
        step = array.laid(self.setting, variant.dataflow, variant.array_axis).step_cycles((1, 1, 1))
        return float(self.operands_s + step / float(self.setting.chip.clock_hz))

    def _promising(self, boxes: Any) -> Any:
        """Boxes that fit and may hold something better, the last step of which is no shorter than the least last tile's."""
        if boxes.known < 0 and boxes.boxes:
            boxes = boxes.take((boxes.bounds[0] < np.inf).nonzero()[0])
            row = self.table[self.bounder.at.lasts + len(self.setting.stages) - 1]
            lasts = row.take(boxes.where[2:], mode="clip")
            for variant in np.unique(boxes.where[0]):
                each = self.chosen[int(variant)]
                if each.split == (1, 1):
                    those = np.flatnonzero(boxes.where[0] == variant)
                    laid = array.laid(self.setting, each.dataflow, each.array_axis)
                    step = laid.step_cycles(tuple(lasts[:, those].astype(np.int64)))
                    late_s = (self.operands_s + step / float(self.setting.chip.clock_hz)) * (1 - 1e-12)
                    boxes.bounds[0, those] = np.maximum(boxes.bounds[0, those], on_grid(late_s))
        if boxes.known != self.known and boxes.boxes and self.late_s.max() > self.found.key[0]:
            boxes = boxes.take((self.late_s.take(boxes.where[0]) <= self.found.key[0]).nonzero()[0])
        return super()._promising(boxes)

    def _nothing_after(self, on_grid_s: float, place: float) -> None:
        # A new incumbent, so that boxes are looked at again.
        self._let_lead(0, Found((on_grid_s, -1.0, -1.0, -1.0, place), Choice((), (), (1, 1), "", "m")))

    def _price(self, boxes: Any) -> Any:
        """Price single mappings, best first."""
        while boxes.boxes:
            if self.priced >= _MOST_PRICED or self.opened >= _MOST_BOXES:
                self.budget_boxes = self.opened
                return boxes
            first, rest = self._parted(boxes, _BATCH)
            for variant in np.unique(first.where[0]):
                self._keep(first.where[:, first.where[0] == variant])
            self.priced += first.boxes
            if rest is None:
                return None
            boxes = self._promising(rest)
        return None

    def _keep(self, where: Ints) -> None:
        tiles, ranks = self.tiles(where)
        choice = Choice(tiles, ranks, *self.chosen[int(where[0, 0])])
        found = bounds(self.setting, choice, self.besides_s)
        bounds_s, tiled_s, steps = (np.broadcast_to(each, where.shape[1:]) for each in found)
        unwanted = (steps > self.most_tiles) | (tiled_s < self.least_s * (1 - 1e-12))
        if unwanted.any():
            self.left_out_s = min(self.left_out_s, float(bounds_s[unwanted].min()))
        wanted = np.flatnonzero(~unwanted & (bounds_s < self.below_s))
        bounds_s, places = bounds_s.take(wanted), self.place(0, where).take(wanted)
        grid_s = on_grid(bounds_s)
        for i in np.lexsort((places, grid_s)).tolist():
            if (grid_s[i], places[i]) >= (self.found.key[0], self.found.key[4]):
                break
            chosen = self.chosen_at(where[:, wanted[i] : wanted[i] + 1])
            new = _Best(float(grid_s[i]), int(places[i]), float(bounds_s[i]), chosen, program_of(self.setting, chosen))
            alike = next((each for each in self.best if each.program == new.program), None)
            if alike is not None:
                if alike[:2] <= new[:2]:
                    continue
                self.best.remove(alike)
            self.best.append(new)
            self.best.sort(key=lambda each: each[:2])
            del self.best[self.count :]
            if len(self.best) == self.count:
                self._nothing_after(*self.best[-1][:2])


def bounds(setting: Setting, choice: Choice, besides_s: Mapping[str, tuple[float, ...]]) -> tuple[Any, Any, Any]:
    """Of one mapping or many: seconds that no schedule of it and of what its group does besides goes below; its tiled latency; its
    tiles."""
    costs, last_step_s = evaluate_with_last_step(setting, choice)
    tiled_s: Any = np.maximum(np.asarray(costs.alternation_s), max(chain.from_iterable(besides_s.values()), default=0.0))
    for name, term in costs.terms.items():
        tiled_s = np.maximum(tiled_s, term.prefix_s + term.busy_s + term.suffix_s)
        for port, more in zip(term.ports, besides_s.get(name, ()), strict=name in besides_s):
            tiled_s = np.maximum(tiled_s, term.prefix_s + (port.busy_s + more) + port.late_s)
    dram = setting.places[0]
    read_s = costs.read_bytes[dram.level.name] / dram.read_bytes_per_s
    return np.maximum(tiled_s, float(dram.level.latency_s) + read_s + last_step_s), tiled_s, costs.steps
