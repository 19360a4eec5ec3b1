"""A cheap lower bound of the tiled cost, made of numbers of single axes; what lets the search discard mappings by the box.

**Below every mapping of a box.** The numbers of an axis (`sim.mapper.tables`) are combined into *demands* (elements that cross each link,
first and last tiles, accesses of the array, cycles), each a product or a choice of numbers that grows with each of them; resources' times
are sums of demands with coefficients that are not negative, and the latency is the largest of these. So with each number replaced by its
minimum over a set of candidates of its axis, the bound is below the cost of every mapping that takes its tiles from these sets.

**Below the cost of one mapping.** Demands are those of `sim.mapper.cost`, except: where a loop moves in some of the blocks that it is in,
it does for their share of the elements, and of two loops that drive a tile away the larger share counts, not what they do together; bursts
count for tiles that the outermost stage fetches from DRAM and for finished sums, and only for single mappings (rounding up does not grow
with the tile: 65 elements may take less than twice 33); single buffers count in innermost stages only; what follows the last use of a level
without sums is taken as a drain. For one stage, one core and bursts that divide every tile nothing of this makes a difference, and the
bound is the cost up to rounding.

**All at once.** As everything but the choice of a prefix is linear, one product of matrices [sums, demands] x [demands, mappings] bounds a
batch: the latency is the largest of some sums and of the smaller ones of some pairs. The coefficients may be arrays over chips that differ
in their rates, clocks and latencies: then so are the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Role
from hwmodels.formulas.elementwise import chosen, smaller
from sim.mapper.problem import ROLE_AXES, Place, Setting, capacity_bytes
from sim.mapper.tables import Floats, layout_of, takes_turns

OPERANDS: tuple[Role, Role] = ("activations", "weights")

ROLES: tuple[Role, Role, Role] = ("weights", "activations", "psums")
"""By the axis that does not select them: m, n and k."""

_SELECTING = np.array([ROLE_AXES[role][i] for i in range(2) for role in ROLES])
"""The axes that do: the first of each role, then the second."""


ROUNDING = 1e-14
"""Share by which a bound is lowered before it is compared with an exact cost: sums in another order differ in their last bits."""


class Link(NamedTuple):
    """Neighbouring holders of a role, and the demands of the transfers between them, as indices.

    leave, enter: elements out of the outer and into the inner holder (of sums: unfinished ones); one, one_in_bursts: those of the first
    load or the last store, and in whole bursts; waste_read, waste_written: bytes that bursts add.
    """

    role: Role
    outer: Place
    inner: Place
    leave: int
    enter: int
    one: int
    one_in_bursts: int
    waste_read: int
    waste_written: int


def selected(numbers: Floats, out: Floats) -> None:
    """For each role the product of the numbers [axes, ...] of the two axes that select it."""
    np.multiply(numbers[2], numbers[1::-1], out=out[:2])
    np.multiply(numbers[0], numbers[1], out=out[2])


class Bounder:
    """The bound of one GEMM on one chip, or on chips whose rates, clocks and latencies are arrays [chips, 1], for chosen orders
    and variants; or of several GEMMs of one form (`bounder_of`), each with variants of its own.

    `orders[i][stage][axis]` are ranks of loops; `drains[i]` the drain cycles of a variant. Demands of the three roles stand together; those
    that a variant decides come first, those that count for single mappings only last. Demands are elements, but for finished sums bytes, as
    GEMMs of one form may differ in the format of their results.
    """

    def __init__(self, setting: Setting, orders: Sequence[Any], drains: Sequence[int]) -> None:
        stages = len(setting.stages)
        self.at = layout_of(setting)
        self.inside = loops_inside(tuple(orders))
        self.one_core = setting.cores == 1
        unit = setting.chip.matrix
        self.turn_elements, self.units = math.prod(unit.tile[:2]) if takes_turns(setting) else 0, unit.count
        self.demands = 0
        self.one, self.drain, self.sums, self.finished = (self._next(1) for _ in range(4))
        self.besides = self._next(2 * len(setting.besides.sizes_bytes))
        self.scales = self._next(len(setting.besides.sizes_bytes) > 0)
        self.steps, self.cycles, self.extra = self._next(1), self._next(1), self._next(1)
        self.accesses = self._next()
        self._ask([setting], drains, [0] * len(drains))
        self.own, self.own_finished = (self.one, self.finished) if self.one_core else (self._next(), self._next(1))
        self.enter = [self._next() for _ in range(stages)]
        self.firsts = [self._next(2) for _ in range(stages)]
        self.held = [self._next(1) for _ in range(stages)]
        self.lasts = [self._next(1) for _ in range(stages)]
        pairs = [(role, *pair) for role in ROLES for pair in pairwise(setting.holders[role])]
        between = sorted({(outer.stage, inner.stage) for _, outer, inner in pairs})
        self.leave = {key: self.enter[key[1]] if self.one_core else self._next() for key in between}
        self.of_boxes = self.demands
        self.bursts, self.waste_read, self.waste_written = self._next(), self._next(), self._next(1)
        self.links: dict[Role, list[Link]] = {role: [] for role in ROLES}
        for role, outer, inner in pairs:
            self.links[role].append(self._link(role, outer, inner))
        self.multicast = {outer: self._multicast(outer) for outer, _ in between}
        self.weights_leave = self.links["weights"][0].leave
        self.from_dram = [link for links in self.links.values() for link in links if link.outer.stage < 0]
        self.beyond = [
            (link.inner.stage, *ROLE_AXES[link.role][:2], setting.bits(link.role)) for link in self.from_dram if link.inner.stage > 0
        ]
        self.rooms = self._rooms()
        homes = [setting.holders[role][-1] for role in ROLES]
        own = [not setting.shared(home) for home in homes]
        self.seen_by_first = None if all(own) else np.array(own)[:, None]
        for_all = [setting.shared(home) and not (home.level.multicast and role != "psums") for role, home in zip(ROLES, homes, strict=True)]
        rows = [self.at.accesses_of_all if each else self.at.accesses for each in for_all]
        self.access_rows = None if self.one_core or not any(for_all) else rows
        self.numbers_of_boxes = self.at.alike
        self.bursts_per_element, self.burst_parts, self.first_rows = self._burst_rates()
        self.wasted = 4 if self.burst_parts[2:].any() else 2 if self.burst_parts.any() else 0
        self.longest = self._longest()
        self.room = np.concatenate([room for _, _, room in self.rooms])
        self.rows = _Rows(self)

    def _ask(self, settings: Sequence[Setting], drains: Sequence[int], gemms: Sequence[int]) -> None:
        """Take in what GEMMs alone decide: extents, the format of results, what is moved besides; `gemms[i]` is the number of the setting
        that a variant is for."""
        self.setting = settings[0]
        given, own = [], []
        for setting in settings:
            whole = [float(setting.extents[x] * setting.extents[y]) for x, y, _ in (ROLE_AXES[role] for role in ROLES)]
            gemm, besides, out_bytes = setting.gemm, setting.besides, setting.gemm.out_bits / 8
            scales_per_weight = [sum(besides.scales_bytes) / (gemm.n * gemm.k)] if besides.sizes_bytes else []
            given.append([1.0, 0.0, whole[2], whole[2] * out_bytes, *chain(*besides.sizes_bytes), *scales_per_weight])
            own.append([*whole, out_bytes])
        self.given = np.array(given).T.take(gemms, axis=1)
        self.given[self.drain] = drains
        self.own_numbers = np.array(own).T if len(settings) == 1 else np.array(own).T.take(gemms, axis=1)
        self.is_one = len(settings) == 1

    def asked(self, settings: Sequence[Setting], drains: Sequence[int], gemms: Sequence[int]) -> Bounder:
        """The same for other GEMMs of the same form on the same chip."""
        other = Bounder.__new__(Bounder)
        other.__dict__.update(self.__dict__)
        other._ask(settings, drains, gemms)
        return other

    def _next(self, count: int = 3) -> int:
        self.demands += count
        return self.demands - count

    def _link(self, role: Role, outer: Place, inner: Place) -> Link:
        number, stage = ROLES.index(role), inner.stage
        one = self.lasts[stage] if role == "psums" else self.firsts[stage] + number
        leave = self.leave[outer.stage, stage] + number
        bursts = self.bursts + number if outer.stage < 0 else one
        return Link(role, outer, inner, leave, self.enter[stage] + number, one, bursts, self.waste_read + number, self.waste_written)

    def _rooms(self) -> list[tuple[int, Floats, Any]]:
        """Of each stage with levels the bits that a tile of each role takes per element [levels, roles], and those that there are."""
        setting = self.setting
        bits: dict[int, list[list[int]]] = {}
        rooms: dict[int, list[Any]] = {}
        for place in setting.places[1:]:
            level = place.level
            alone = [setting.bits(role) * (2 if level.double_buffered else 1) * (role in setting.roles[level.name]) for role in ROLES]
            bits.setdefault(place.stage, []).append(alone)
            rooms.setdefault(place.stage, []).append(8 * capacity_bytes(setting, level))
        return [(stage, np.array(bits[stage], dtype=float), np.array(rooms[stage])[:, None]) for stage in bits]

    def _burst_rates(self) -> tuple[Floats, Floats, list[int]]:
        """Bursts per element, or per byte of finished sums: of the first load or last store of each role that comes from DRAM; and of tiles
        that the outermost stage fetches from there, of the roles and of finished sums. And the demands of these loads and stores; of a role
        that does not come from there any number does."""
        setting, burst_bits = self.setting, 8 * self.setting.chip.dram.burst_bytes
        ends, parts, rows = np.ones((3, 1)), np.zeros((4, 1)), [self.one] * 3
        for link in self.from_dram:
            number, is_sum = ROLES.index(link.role), link.role == "psums"
            ends[number], rows[number] = (8 if is_sum else setting.bits(link.role)) / burst_bits, link.one
            if link.inner.stage == 0:
                parts[number] = setting.bits(link.role) / burst_bits
                parts[3] = 8 / burst_bits if is_sum and setting.arrives(link.outer) else parts[3]
        return ends, parts, rows

    def _longest(self) -> Floats:
        """[axes, stages, 1]: the longest tiles that fit where they are one element long along the other axes."""
        longest = np.full((3, len(self.enter), 1), np.inf)
        for stage, bits, room in self.rooms:
            for levels_bits, (bits_there,) in zip(bits.tolist(), room.tolist(), strict=True):
                # The role that stands at the place of an axis is the one that the axis does not select.
                for axis, unselected in enumerate(levels_bits):
                    selected_bits, most = sum(levels_bits) - unselected, (bits_there - unselected)
                    tile = most // selected_bits if selected_bits else math.copysign(math.inf, most)
                    longest[axis, stage] = min(longest[axis, stage, 0], tile)
        return longest

    def fits(self, sizes: Floats) -> NDArray[np.bool_]:
        """Whether tiles [stages, axes, mappings] fit every level."""
        products = np.empty(sizes.shape[1:])
        fine: Any = True
        for stage, bits, room in self.rooms:
            selected(sizes[stage], products)
            fine = fine & (bits @ products <= room).all(axis=0)
        return np.asarray(fine)

    def __call__(self, numbers: Floats, order: Any, variant: Any, single: bool) -> tuple[Floats, Any]:
        """Bounds [4, mappings] of one chip, latency [s], DRAM bytes, bytes moved and steps, and where tiles do not fit.

        `numbers` [rows, axes, mappings] are columns of tables, one per mapping or box; `order` and `variant` are as many indices. `single`:
        columns are mappings. Bounds are lowered by `ROUNDING`, but for steps, which are whole.
        """
        rows = self.rows
        found = (rows.all if single else rows.all_of_boxes) @ self.demands_of(numbers, order, variant, single)
        if rows.pairs:
            second = found[rows.pairs : 2 * rows.pairs]
            np.minimum(found[: rows.pairs], second, out=second)
        np.maximum.reduce(found[rows.pairs : rows.amounts], out=found[rows.amounts])
        return found[rows.amounts : rows.amounts + 4], np.logical_or.reduce(found[rows.amounts + 4 :] > self.room)

    def demands_of(self, numbers: Floats, order: Any, variant: Any, single: bool) -> Floats:
        """[demands, mappings]."""
        at, stages, count = self.at, len(self.enter), numbers.shape[2]
        driven = self._driven(numbers[at.moves : at.firsts], order)
        found = np.empty((self.demands if single else self.of_boxes, count))
        self.given.take(variant, axis=1, out=found[: self.steps], mode="clip")
        gemms = self.own_numbers if self.is_one else self.own_numbers.take(variant, axis=1)
        whole, out_bytes = gemms[:3], gemms[3]
        np.multiply.reduce(numbers[at.steps : at.moves], axis=1, out=found[self.steps : self.extra])
        if self.turn_elements and single:
            granules, pieces = numbers[at.granules : at.rows, :2].reshape(2, -1, 2, count)
            turns = np.ceil(granules[:, None, 0] * granules[:, 1] / self.units)
            turns *= pieces[:, None, 0] * pieces[:, 1]
            np.multiply(np.add.reduce(turns, axis=(0, 1)) * numbers[at.cycles, 2], self.turn_elements, out=found[self.cycles])
        elif self.turn_elements:
            # A piece takes a turn of all tensor cores for each granule along k, however few granules of sums it has.
            turns = numbers[at.steps, 0] * numbers[at.steps, 1] * numbers[at.cycles, 2]
            np.maximum(found[self.cycles], turns * self.turn_elements, out=found[self.cycles])
        np.add.reduce(numbers[at.extra], out=found[self.extra])
        own = whole
        if not self.one_core:
            own = found[self.own : self.own + 3]
            selected(numbers[at.extent], own)
            np.multiply(own[2], out_bytes, out=found[self.own_finished])
        seen = own if self.seen_by_first is None else np.where(self.seen_by_first, own, whole)
        accesses = numbers[at.accesses] if self.access_rows is None else numbers[self.access_rows, [0, 1, 2]]
        np.multiply(seen, accesses, out=found[self.accesses : self.accesses + 3])
        self._visits(found, numbers, driven, whole, own)
        # Stage by stage the first tiles of weights and activations; of sums the first and, in bytes, the last.
        firsts = numbers[at.firsts : at.lasts]
        np.multiply(firsts[:, 2:], firsts[:, 1::-1], out=found[self.firsts[0] : self.held[0]].reshape(stages, 2, count))
        ends = numbers[at.firsts : at.accesses]
        np.multiply(ends[:, 0], ends[:, 1], out=found[self.held[0] : self.lasts[-1] + 1])
        found[self.lasts[0] : self.lasts[-1] + 1] *= out_bytes
        if self.scales < self.steps:
            found[self.scales] *= found[self.weights_leave]
        if single:
            self._round_up(found, numbers, whole, out_bytes)
        return found

    def _visits(self, found: Floats, numbers: Floats, driven: list[Floats], whole: Floats, own: Floats) -> None:
        """Visits of the tiles of each stage, as elements that leave outer holders and enter those of the stage."""
        at, stages, count, split_stage = self.at, len(self.enter), numbers.shape[2], self.setting.split_stage
        once = self._often(numbers[None, at.own : at.cycles], driven)
        if self.one_core:
            np.multiply(once, whole, out=found[self.enter[0] : self.firsts[0]].reshape(stages, 3, count))
            return
        often = self._often(numbers[at.every : at.extent].reshape(stages, stages + 1, 3, count), driven)
        for stage, entered in enumerate(self.enter):
            np.multiply(once[stage], whole if stage < split_stage else own, out=found[entered : entered + 3])
        for (outer, inner), left in self.leave.items():
            seen = np.where(self.multicast[outer], once[inner], often[inner]) if outer < split_stage else once[inner]
            np.multiply(seen, whole if outer < split_stage else own, out=found[left : left + 3])

    def _driven(self, moving: Floats, order: Any) -> list[Floats]:
        """For each stage i and, from it on, each stage s [stages - i, roles, mappings]: the share of a role's elements at least that the
        loop of i over the role's third axis drives away from s, as loops inside it over the axes that select them move to other tiles."""
        stages, _, count = moving.shape
        each = moving.take(_SELECTING, axis=1)
        inside = each * self.inside.take(order, axis=1).reshape(stages, 6, count)
        if stages == 1:
            return [np.maximum(inside[:, :3], inside[:, 3:])]
        any_of = np.maximum(each[1:, :3], each[1:, 3:])
        found = []
        for i in range(stages):
            rows = np.empty((stages - i, 3, count))
            np.maximum(inside[i, :3], inside[i, 3:], out=rows[0])
            for row in range(1, stages - i):
                np.maximum(rows[row - 1], any_of[i + row - 1], out=rows[row])
            found.append(rows)
        return found

    def _often(self, positions: Floats, driven: list[Floats]) -> Floats:
        """[stages, roles, mappings]: visits of the tiles of each role, sums come back once less; `positions` [1 or stages, moving stages,
        axes, mappings]. What the loop of a stage drives away is among what those of outer stages do, and is fetched more often by the
        difference of positions."""
        more = positions[:, 1:] - positions[:, :-1]
        often = driven[0] * more[:, 0]
        often += positions[:, 0]
        for i in range(1, len(driven)):
            often[i:] += driven[i] * more[-len(driven[i]) :, i]
        often[:, 2] -= 1
        return often

    def doubtful(self, numbers: Floats) -> NDArray[np.bool_]:
        """[mappings]: whether single mappings may well cost more than their bounds: tiles that an inner stage fetches from DRAM are no
        whole bursts."""
        firsts, lasts = numbers[self.at.firsts : self.at.lasts], numbers[self.at.lasts : self.at.accesses]
        found = np.zeros(numbers.shape[2], dtype=bool)
        for stage, x, y, bits in self.beyond:
            for ends in firsts[stage], lasts[stage]:
                found |= ends[x] * ends[y] * bits % (8 * self.setting.chip.dram.burst_bytes) > 0
        return found

    def _multicast(self, stage: int) -> NDArray[np.bool_]:
        """[roles, 1]: whether the holder of a role in this stage serves all cores with one read; of sums no holder does."""
        served = {role: place.level.multicast for role in OPERANDS for place in self.setting.holders[role] if place.stage == stage}
        return np.array([[role != "psums" and served.get(role, False)] for role in ROLES])

    def _round_up(self, found: Floats, numbers: Floats, whole: Floats, out_bytes: Floats) -> None:
        """Whole bursts: for the first or last tile; for each tile that the outermost stage fetches, in parts as large as the first; and for
        finished sums that an inner stage stores."""
        at, per_element = self.at, self.bursts_per_element
        np.divide(np.ceil(found.take(self.first_rows, axis=0) * per_element), per_element, out=found[self.bursts : self.bursts + 3])
        found[self.waste_read : self.waste_written + 1] = 0
        if self.wasted:
            self._waste_of_outermost(found, numbers, whole, out_bytes)
        if at.lengths < at.blocks:
            rows, cols = numbers[at.lengths : at.blocks, :2].swapaxes(0, 1)
            burst_bytes = self.setting.chip.dram.burst_bytes
            bursts = rows[:, None] * cols * out_bytes / burst_bytes
            often = numbers[at.blocks : at.granules, None, 0] * numbers[at.blocks : at.granules, 1]
            wasted = np.add.reduce((np.ceil(bursts) - bursts) * often, axis=(0, 1))
            found[self.waste_written] += wasted * burst_bytes

    def _waste_of_outermost(self, found: Floats, numbers: Floats, whole: Floats, out_bytes: Floats) -> None:
        """Bytes that bursts add to the tiles that the outermost stage fetches and stores."""
        at = self.at
        # Sizes, and how many there are, of full tiles and of the one at the edge: for each role and finished sums of all four pairs.
        pairs = np.empty((2, 2, 2, self.wasted, numbers.shape[2]))
        axes = numbers[at.full : at.lengths].reshape(2, 2, 3, -1)
        np.multiply(axes[:, :, None, 2, None], axes[:, None, :, 1::-1], out=pairs[:, :, :, :2])
        if self.wasted > 2:
            np.multiply(axes[:, :, None, 0], axes[:, None, :, 1], out=pairs[:, :, :, 2])
            np.multiply(pairs[0, :, :, 2], out_bytes, out=pairs[0, :, :, 3])
            pairs[1, :, :, 3] = pairs[1, :, :, 2]
        sizes, tiles = pairs.reshape(2, 4, self.wasted, -1)
        bursts = sizes * self.burst_parts[: self.wasted]
        wasted = np.ceil(bursts)
        wasted -= bursts
        wasted *= tiles
        added = np.zeros((4, numbers.shape[2]))
        np.multiply(np.add.reduce(wasted), self.setting.chip.dram.burst_bytes, out=added[: self.wasted])
        if not self.one_core:
            alike_of = np.empty((3, numbers.shape[2]))
            selected(numbers[at.alike], alike_of)
            added[:3] *= alike_of
            added[3] *= alike_of[2]
        leave = self.leave[-1, 0]
        np.multiply(added[:3], found[leave : leave + 3] / whole, out=found[self.waste_read : self.waste_written])
        np.add(found[self.waste_written - 1], added[3], out=found[self.waste_written])


@dataclass(frozen=True, slots=True)
class Form:
    """What GEMMs that are searched together have alike, all that the rows of a bounder depend on besides orders: the very same chip, which
    `setting` holds, so that its identity stays its own; where operands lie; formats, but for that of results; pieces; and whether anything
    is moved besides."""

    chip_identity: int
    activations_from: int
    bits: tuple[int, ...]
    compute: str
    pieces: int
    besides: int
    setting: Setting = field(compare=False)


def form_of(setting: Setting) -> Form:
    """The form of a GEMM on a chip."""
    gemm, besides = setting.gemm, len(setting.besides.sizes_bytes)
    bits = gemm.a_bits, gemm.w_bits, gemm.acc_bits, int(gemm.out_in_dram)
    return Form(id(setting.chip), len(setting.holders["activations"]), bits, gemm.compute, setting.pieces, besides, setting)


def bounder_of(settings: Sequence[Setting], orders: Sequence[Any], drains: Sequence[int], gemms: Sequence[int]) -> Bounder:
    """A bounder of GEMMs of one form, made of one that is remembered; `gemms[i]` is the number of the setting that a variant is for."""
    return remembered_bounder(form_of(settings[0]), tuple(orders)).asked(settings, drains, gemms)


@lru_cache(maxsize=16)
def remembered_bounder(form: Form, orders: tuple[Any, ...]) -> Bounder:
    """A bounder of no GEMM's extents yet."""
    return Bounder(form.setting, orders, ())


@lru_cache(maxsize=16)
def loops_inside(orders: tuple[Any, ...]) -> Floats:
    """[stages * 6, orders], stage by stage as `_SELECTING`: 1 where the loop over an axis that selects a role lies inside that over its
    third axis, else 0."""
    ranks = np.array(orders).transpose(1, 2, 0)
    inside = ranks[:, _SELECTING] > ranks[:, [0, 1, 2] * 2]
    return inside.reshape(-1, len(orders)).astype(np.float64)


class _Rows:
    """What a chip makes of demands: rows of coefficients, one product of matrices away from seconds and bytes."""

    def __init__(self, form: Bounder) -> None:
        self.form, self.unit = form, np.eye(form.demands)
        self.clock_hz = form.setting.clock_hz
        self._singles: list[Any] = []
        self._pairs: list[tuple[Any, Any]] = []
        chains = {role: self._chain(role) for role in OPERANDS}
        self._stores = self._store_times()
        ends = [chain[-1] for chain in chains.values()]
        crossing, rests = self._crossing(chains)
        after_ready = [self._array() + self.unit[form.extra] / self.clock_hz + self._stores[-1]]
        self._levels(chains, after_ready)
        self._alternation(chains, after_ready)
        for row in after_ready:
            self._singles += [end + row for end in ends]
            if rests:
                self._pairs.append((crossing + rests[0] + row, crossing + rests[1] + row))
            elif crossing is not None:
                self._singles.append(crossing + row)
        table = [*(first for first, _ in self._pairs), *(second for _, second in self._pairs), *self._singles]
        self.pairs, self.amounts = len(self._pairs), len(table)
        self.coefficients = np.stack(np.broadcast_arrays(*table), axis=-2)
        self.coefficients_of_boxes, self.sizes_of_boxes = self._without_bursts(self.coefficients), self._without_bursts(self.sizes)
        self.needed = self._rooms()
        if self.coefficients.ndim == 2:  # one chip
            # Where the latency goes there is a row of zeros.
            lowered, latency = 1 - ROUNDING, np.zeros((1, form.demands))
            steps = self.unit[form.steps : form.steps + 1]
            self.all = np.concatenate([self.coefficients * lowered, latency, self.sizes * lowered, steps, self.needed])
            self.all_of_boxes = self._without_bursts(self.all)

    def _rooms(self) -> Floats:
        """Rows for the bits that tiles take of each level."""
        form = self.form
        rows = np.zeros((len(form.room), form.demands))
        row = 0
        for stage, bits, _ in form.rooms:
            for each in bits:
                rows[row, [form.firsts[stage], form.firsts[stage] + 1, form.held[stage]]] = each
                row += 1
        return rows

    def _without_bursts(self, coefficients: Floats) -> Floats:
        """Boxes do without whole bursts: elements stand for them, and nothing is wasted."""
        form = self.form
        found = coefficients[..., : form.of_boxes].copy()
        for link in form.from_dram:
            found[..., link.one] += coefficients[..., link.one_in_bursts]
        return found

    def latency_s(self, demands: Floats, single: bool, chips: Any = ...) -> Floats:
        """Of some of the chips [chips, mappings]."""
        return self.largest((self.coefficients if single else self.coefficients_of_boxes)[chips] @ demands)

    def largest(self, found: Floats) -> Floats:
        """[..., mappings] of what rows make of demands [..., rows, mappings]: the largest of all, of pairs the smaller one."""
        pairs = self.pairs
        latency_s: Floats = np.maximum.reduce(found[..., 2 * pairs :, :], axis=-2)
        if pairs:
            least = np.minimum(found[..., :pairs, :], found[..., pairs : 2 * pairs, :])
            latency_s = np.maximum(latency_s, np.maximum.reduce(least, axis=-2))
        return latency_s

    def bytes_of(self, demands: Floats, single: bool) -> Floats:
        """[2, mappings]: DRAM bytes, and bytes moved."""
        sizes: Floats = (self.sizes if single else self.sizes_of_boxes) @ demands
        return sizes

    def _one_s(self, link: Link, size_bytes: float, load: bool) -> Any:
        """Coefficients of the seconds of one transfer, of so many bytes for each that is counted: whole bursts where the outer port is the
        slower one, bits elsewhere."""
        outer, inner = (link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
        if not load:
            outer, inner = link.outer.write_bytes_per_s, link.inner.read_bytes_per_s
            if not self.form.setting.arrives(link.outer):
                return self.unit[link.one] * size_bytes / inner
        slower = outer <= inner
        in_bursts = chosen(slower, 1 / outer, 0.0) * self.unit[link.one_in_bursts]
        return (in_bursts + chosen(slower, 0.0, 1 / inner) * self.unit[link.one]) * size_bytes

    def _all_sums(self, place: Place) -> Any:
        """Elements of the result that a place gets."""
        form = self.form
        return self.unit[form.sums if form.one_core or form.setting.shared(place) else form.own + 2]

    def _finished(self, place: Place) -> Any:
        """Bytes of the result that a place gets."""
        return self.unit[self.form.finished if self.form.setting.shared(place) else self.form.own_finished]

    def _array(self) -> Any:
        return self.unit[self.form.cycles] / self.clock_hz

    def _chain(self, role: Role) -> list[Any]:
        """Earliest start and end of the first transfer on each link of an operand, in turn; at least [start of nothing]."""
        now: Any = np.zeros(self.form.demands)
        times: list[Any] = []
        for link in self.form.links[role]:
            now = now + link.outer.level.latency_s * self.unit[self.form.one]
            times.append(now)
            now = now + self._one_s(link, self.form.setting.bits(role) / 8, load=True)
            times.append(now)
        return times or [now]

    def _store_times(self) -> list[Any]:
        """Seconds of the last stores from a stage outwards: of none, of the outermost, of the two outermost, ..."""
        times: list[Any] = [np.zeros(self.form.demands)]
        for link in self.form.links["psums"]:
            times.append(times[-1] + self._one_s(link, 1.0, load=False))
        return times

    def _crossing(self, chains: dict[Role, list[Any]]) -> tuple[Any, list[Any]]:
        """Both operands cross DRAM's port; the one that does so last has the rest of its chain to go: that of either."""
        links = [self.form.links[role] for role in OPERANDS]
        if not all(each and each[0].outer.stage < 0 for each in links):
            return None, []
        row: Any = links[0][0].outer.level.latency_s * self.unit[self.form.one]
        for role, each in zip(OPERANDS, links, strict=True):
            row = row + self.unit[each[0].one_in_bursts] * (self.form.setting.bits(role) / 8) / each[0].outer.read_bytes_per_s
        rests = [chains[role][-1] - chains[role][1] for role in OPERANDS]
        return row, rests if all(len(each) > 1 for each in links) else []

    def _traffic(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Bytes read from and written to each level."""
        setting, unit = self.form.setting, self.unit
        acc_bytes = setting.gemm.acc_bits / 8
        read: dict[str, Any] = {place.level.name: np.zeros(self.form.demands) for place in setting.places}
        written: dict[str, Any] = {place.level.name: np.zeros(self.form.demands) for place in setting.places}
        for role in OPERANDS:
            size = setting.bits(role) / 8
            for link in self.form.links[role]:
                read[link.outer.level.name] += size * unit[link.leave] + unit[link.waste_read] * (link.outer.stage < 0)
                written[link.inner.level.name] += size * unit[link.enter]
            read[setting.holders[role][-1].level.name] += size * unit[self.form.accesses + ROLES.index(role)]
        for link in self.form.links["psums"]:
            outer, inner = link.outer.level.name, link.inner.level.name
            in_bursts = link.outer.stage < 0
            read[outer] += acc_bytes * unit[link.leave] + unit[link.waste_read] * in_bursts
            finished = self._finished(link.outer) * setting.arrives(link.outer)
            written[outer] += acc_bytes * unit[link.leave] + finished + unit[link.waste_written] * in_bursts
            read[inner] += acc_bytes * unit[link.enter] + self._finished(link.inner)
            written[inner] += acc_bytes * unit[link.enter]
        place = setting.holders["psums"][-1]
        innermost, sums = place.level.name, self._all_sums(place)
        read[innermost] += acc_bytes * (unit[self.form.accesses + 2] - sums)
        written[innermost] += acc_bytes * unit[self.form.accesses + 2]
        return read, written

    def _levels(self, chains: dict[Role, list[Any]], after_ready: list[Any]) -> None:
        form, setting, one = self.form, self.form.setting, self.unit[self.form.one]
        read, written = self._traffic()
        self.sizes = np.stack([read[setting.chip.dram.name] + written[setting.chip.dram.name], sum([*read.values(), *written.values()])])
        drain = self.unit[form.drain] / self.clock_hz
        starts: dict[str, list[Any]] = {}
        for role in OPERANDS:
            for number, link in enumerate(form.links[role]):
                starts.setdefault(link.inner.level.name, []).append(chains[role][2 * number])
            if form.links[role] and form.links[role][0].outer.stage >= 0:  # it lies there from the start
                starts.setdefault(form.links[role][0].outer.level.name, []).append(chains[role][0])
        after: dict[str, tuple[Any, Any]] = {setting.chip.dram.name: (0.0, 0.0)}
        for number, link in enumerate(form.links["psums"]):
            port = self.unit[link.one] / link.inner.read_bytes_per_s
            after[link.inner.level.name] = self._stores[number + 1] - port, self._stores[number + 1]
        for index, place in enumerate(setting.places):
            name = place.level.name
            rest = drain if setting.shared(place) and setting.cores > 1 else drain + self._stores[-1]
            after_read, after_write = after.get(name, (rest, rest))
            busy = [read[name] / place.read_bytes_per_s + after_read, written[name] / place.write_bytes_per_s + after_write]
            if place.level.bandwidth.shared:
                busy = [busy[0] + written[name] / place.write_bytes_per_s]
            besides = self._besides(index)
            if besides and place.stage >= 0 and name not in after:
                # What the group does besides may be done while the array drains; only stores follow it.
                late = busy[0] * 0.0 if setting.shared(place) and setting.cores > 1 else self._stores[-1]
                times = [read[name] / place.read_bytes_per_s, written[name] / place.write_bytes_per_s]
                loose = [sum(times) + late] if place.level.bandwidth.shared else [each + late for each in times]
                busy += [row + more for row, more in zip(loose, besides, strict=True)]
            elif besides:
                busy = [row + more for row, more in zip(busy, besides, strict=True)]
            begins = [place.level.latency_s * one] if place.stage < 0 else starts.get(name, [])
            if len(begins) == 1 or (begins and np.array_equal(begins[0], begins[1])):
                self._singles += [begins[0] + row for row in busy]
            elif begins:
                self._pairs += [(begins[0] + row, begins[1] + row) for row in busy]
            else:
                after_ready += busy

    def _besides(self, index: int) -> list[Any]:
        """Seconds that the group takes of each port of a place beside the GEMM, scales in parts of elements and of bursts; empty if nothing
        is known of it."""
        setting, form, chip = self.form.setting, self.form, self.form.setting.chip
        if not setting.besides.sizes_bytes:
            return []
        level, reads, written = chip.memory[index], self.unit[form.besides + 2 * index], self.unit[form.besides + 2 * index + 1]
        if "weights" in level.holds:
            reads = reads + self.unit[form.scales]
        if level.bandwidth.shared:
            return [(reads + written) / chip.read_bytes_per_s(level)]
        return [reads / chip.read_bytes_per_s(level), written / chip.write_bytes_per_s(level)]

    def _alternation(self, chains: dict[Role, list[Any]], after_ready: list[Any]) -> None:
        """Transfers and uses of a tile with a single buffer next to the array, one after another."""
        form, gemm = self.form, self.form.setting.gemm
        for role in OPERANDS:
            if form.links[role] and not form.links[role][-1].inner.level.double_buffered:
                link = form.links[role][-1]
                rate = smaller(link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
                moves = self.unit[link.enter] * (form.setting.bits(role) / 8) / rate
                self._singles.append(chains[role][-2] + moves + self._array() + self._stores[-1])
        link = form.links["psums"][-1]
        if not link.inner.level.double_buffered:
            back = self.unit[link.enter] * (gemm.acc_bits / 8)
            out_rate = smaller(link.outer.write_bytes_per_s, link.inner.read_bytes_per_s)
            in_rate = smaller(link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
            finished, arrives = self._finished(link.inner), form.setting.arrives(link.outer)
            away = (back + finished) / out_rate if arrives else back / out_rate + finished / link.inner.read_bytes_per_s
            after_ready.append(away + back / in_rate + self._array() + self._stores[-2])
