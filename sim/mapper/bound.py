"""A cheap lower bound of the tiled cost, made of numbers of single axes; what lets the search discard mappings by the box.

**Below every mapping of a box.** The numbers of an axis (`sim.mapper.tables`) are combined into *demands* (elements that cross each link,
first and last tiles, accesses of the array, cycles), each a product or a choice of numbers that grows with each of them; resources' times
are sums of demands with coefficients that are not negative, and the latency is the largest of these. So with each number replaced by its
minimum over a set of candidates of its axis, the bound is below the cost of every mapping that takes its tiles from these sets.

**Below the cost of one mapping.** Demands are those of `sim.mapper.cost`, except: blocks of unequal trips are taken at the fewest; bursts
count for tiles that the outermost stage fetches from DRAM, and only for single mappings (rounding up does not grow with the tile: 65
elements may take less than twice 33); single buffers count in innermost stages only; what follows the last use of a level without sums is
taken as a drain. For one stage, one core and bursts that divide every tile nothing of this makes a difference, and the bound is the cost up
to rounding.

**All at once.** As everything but the choice of a prefix is linear, one product of matrices [resources, demands] x [demands, mappings]
bounds a batch. The coefficients may be arrays over chips that differ in their rates: then so are the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Role
from hwmodels.formulas.elementwise import chosen, smaller
from sim.mapper.problem import ROLE_AXES, Place, Setting, capacity_bytes
from sim.mapper.tables import Floats, layout

OPERANDS: tuple[Role, Role] = ("activations", "weights")

class Bound(NamedTuple):
    """Lower bounds of what mappings are ranked by, in this order."""

    latency_s: Floats
    dram_bytes: Floats
    moved_bytes: Floats
    steps: Floats


ROLES: tuple[Role, Role, Role] = ("activations", "weights", "psums")
X, Y, Z = ([ROLE_AXES[role][i] for role in ROLES] for i in range(3))
"""The axes of each role."""


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


class Bounder:
    """The bound of one GEMM on one chip, or on chips whose rates and clocks are arrays [chips, 1], for chosen orders and variants.

    `orders[i][stage][axis]` are ranks of loops; `drains[i]` the drain cycles of a variant. Demands of the three roles stand together.
    """

    def __init__(self, setting: Setting, orders: Sequence[Any], drains: Sequence[int]) -> None:
        self.setting = setting
        stages = len(setting.stages)
        self.at = layout(stages)
        self.inside = _inside(orders, stages)
        self.drains = np.array(drains, dtype=float)
        self.less = np.array([[0.0], [0.0], [1.0]])
        self.demands = 0
        self.one, self.cycles, self.extra, self.drain = (self._next(1) for _ in range(4))
        self.accesses, self.own, self.bursts, self.waste_read, self.waste_written = (self._next() for _ in range(5))
        self.enter = [self._next() for _ in range(stages)]
        self.ends = [self._next() for _ in range(stages)]
        pairs = [(role, *pair) for role in ROLES for pair in pairwise(setting.holders[role])]
        self.leave = {key: self._next() for key in sorted({(outer.stage, inner.stage) for _, outer, inner in pairs})}
        self.links: dict[Role, list[Link]] = {role: [] for role in ROLES}
        for role, outer, inner in pairs:
            self.links[role].append(self._link(role, outer, inner))
        self.from_dram = [link for links in self.links.values() for link in links if link.outer.stage < 0]
        self.whole = np.array([[float(setting.extents[x] * setting.extents[y])] for x, y in zip(X, Y, strict=True)])
        self.rooms = self._rooms()
        homes = [setting.holders[role][-1] for role in ROLES]
        own = [not setting.shared(home) for home in homes]
        self.seen_by_first = None if all(own) else np.array(own)[:, None]
        for_all = [setting.shared(home) and not (home.level.multicast and role != "psums") for role, home in zip(ROLES, homes, strict=True)]
        self.access_rows = [self.at.accesses_of_all if each else self.at.accesses for each in for_all]
        self.rows = _Rows(self)

    def _next(self, count: int = 3) -> int:
        self.demands += count
        return self.demands - count

    def _link(self, role: Role, outer: Place, inner: Place) -> Link:
        number, stage = ROLES.index(role), inner.stage
        one = self.ends[stage] + number
        leave = self.leave[outer.stage, stage] + number
        bursts = self.bursts + number if outer.stage < 0 else one
        wastes = self.waste_read + number, self.waste_written + number
        return Link(role, outer, inner, leave, self.enter[stage] + number, one, bursts, *wastes)

    def _rooms(self) -> list[tuple[int, Floats, float]]:
        """Of each level its stage, the bits that a tile of each role takes per element, and the bits that there are."""
        setting, rooms = self.setting, []
        for place in setting.places[1:]:
            level = place.level
            alone = [setting.bits(role) * (2 if level.double_buffered else 1) * (role in setting.roles[level.name]) for role in ROLES]
            rooms.append((place.stage, np.array(alone, dtype=float), 8 * capacity_bytes(setting, level)))
        return rooms

    def fits(self, numbers: Floats) -> NDArray[np.bool_]:
        """Whether the tiles fit every level."""
        fine: Any = True
        products: dict[int, Any] = {}
        for stage, bits, room in self.rooms:
            if stage not in products:
                sizes = numbers[self.at.sizes + stage]
                products[stage] = sizes[X] * sizes[Y]
            fine = fine & (bits @ products[stage] <= room)
        return np.asarray(fine)

    def __call__(self, numbers: Floats, order: Any, variant: Any, single: bool) -> Bound:
        """Bounds [mappings], or [chips, mappings] of the latency.

        `numbers` [rows, axes, mappings] are columns of tables, one per mapping or box; `order` and `variant` as many indices. `single`:
        columns are mappings.
        """
        latency_s, dram_bytes, moved_bytes = self.rows.bound(self._demands(numbers, order, variant, single))
        return Bound(latency_s, dram_bytes, moved_bytes, np.multiply.reduce(numbers[self.at.every - 1]))

    def _demands(self, numbers: Floats, order: Any, variant: Any, single: bool) -> Floats:
        """[demands, mappings]."""
        at, setting = self.at, self.setting
        found = np.zeros((self.demands, numbers.shape[2]))
        found[self.one], found[self.drain] = 1, self.drains[variant]
        np.multiply.reduce(numbers[at.cycles], out=found[self.cycles])
        np.add.reduce(numbers[at.extra], out=found[self.extra])
        own = found[self.own : self.own + 3]
        np.multiply(numbers[at.extent][X], numbers[at.extent][Y], out=own)
        seen = own if self.seen_by_first is None else np.where(self.seen_by_first, own, self.whole)
        np.multiply(seen, numbers[self.access_rows, Z], out=found[self.accesses : self.accesses + 3])
        inside, moves = self.inside[..., order], numbers[at.moves : at.sizes] > 0
        for stage in range(len(setting.stages)):
            self._stage(found, numbers, stage, inside, moves)
        for link in self.from_dram:
            found[link.one_in_bursts] = found[link.one]
        if single:
            self._round_up(found, numbers)
        return found

    def _stage(self, found: Floats, numbers: Floats, stage: int, inside: NDArray[np.bool_], moves: NDArray[np.bool_]) -> None:
        """Visits of the tiles of a stage, as elements that leave outer holders and enter those of the stage; first and last tiles."""
        at, setting = self.at, self.setting
        own, whole = found[self.own : self.own + 3], self.whole
        below: list[Any] = []
        moved: Any = None
        for i in reversed(range(stage + 1)):
            x_moves, y_moves = moves[i, X], moves[i, Y]
            driven = (inside[i, 0] & x_moves) | (inside[i, 1] & y_moves)
            below.append(driven if moved is None else moved | driven)
            if i:
                moved = x_moves | y_moves if moved is None else moved | x_moves | y_moves
        below.reverse()
        once = self._often(numbers, at.own, below)
        np.multiply(once - self.less, whole if stage < setting.split_stage else own, out=found[self.enter[stage] : self.enter[stage] + 3])
        often = once
        if setting.cores > 1:
            often = self._often(numbers, at.every + stage * (len(setting.stages) + 1), below)
        for (outer, inner), index in self.leave.items():
            if inner == stage:
                seen = once
                if outer < setting.split_stage and often is not once:
                    seen = np.where(self._multicast(outer), once, often)
                np.multiply(seen - self.less, whole if outer < setting.split_stage else own, out=found[index : index + 3])
        ends = self.ends[stage]
        firsts, lasts = numbers[at.firsts + stage], numbers[at.lasts + stage]
        np.multiply(firsts[X[:2]], firsts[Y[:2]], out=found[ends : ends + 2])
        np.multiply(lasts[0], lasts[1], out=found[ends + 2])

    def _often(self, numbers: Floats, row: int, below: list[Any]) -> Any:
        often = numbers[row][Z]
        for i, driven in enumerate(below):
            often = np.where(driven, numbers[row + i + 1][Z], often)
        return often

    def _multicast(self, stage: int) -> NDArray[np.bool_]:
        """[roles, 1]: whether the holder of a role in this stage serves all cores with one read; of sums no holder does."""
        served = {role: place.level.multicast for role in OPERANDS for place in self.setting.holders[role] if place.stage == stage}
        return np.array([[served.get("activations", False)], [served.get("weights", False)], [False]])

    def _round_up(self, found: Floats, numbers: Floats) -> None:
        """Whole bursts: for the first or last tile, and for each tile that the outermost stage fetches, in parts as large as the first."""
        at, setting, burst_bytes = self.at, self.setting, self.setting.chip.dram.burst_bytes
        gemm = setting.gemm
        for link in self.from_dram:
            bits = gemm.out_bits if link.role == "psums" else setting.bits(link.role)
            if bits:
                found[link.one_in_bursts] = np.ceil(found[link.one] * (bits / (8 * burst_bytes))) * (burst_bytes * 8 / bits)
        loads = [link for link in self.from_dram if link.inner.stage == 0]
        if not loads:
            return
        sizes, whole, edge = numbers[at.sizes], numbers[at.whole], numbers[at.edge]
        x, y = ([ROLE_AXES[link.role][i] for link in loads] for i in range(2))
        x_size, y_size, x_edge, y_edge, x_whole, y_whole = sizes[x], sizes[y], edge[x], edge[y], whole[x], whole[y]
        kinds = ((x_size * y_size, x_whole * y_whole), (x_edge * y_size, y_whole), (x_size * y_edge, x_whole), (x_edge * y_edge, 1))
        alike = numbers[at.alike]
        scale = alike[x] * alike[y] * burst_bytes

        def added(bits: Sequence[int]) -> Any:
            """Bytes by which whole bursts exceed the bits of all tiles, each once; for each of the links."""
            per_element = np.array(bits)[:, None] / (8 * burst_bytes)
            total: Any = 0.0
            for lengths, counts in kinds:
                bursts = lengths * per_element
                total = total + (np.ceil(bursts) - bursts) * counts
            return total * scale

        often = found[[link.leave for link in loads]] / self.whole[[ROLES.index(link.role) for link in loads]]
        found[[link.waste_read for link in loads]] = added([setting.bits(link.role) for link in loads]) * often
        for number, link in enumerate(loads):
            if link.role == "psums":
                finished = added([gemm.out_bits] * len(loads))[number]
                found[link.waste_written] = found[link.waste_read] + finished


class _Rows:
    """What a chip makes of demands: rows of coefficients, one product of matrices away from seconds and bytes."""

    def __init__(self, form: Bounder) -> None:
        self.form, self.unit = form, np.eye(form.demands)
        self.clock_hz = form.setting.clock_hz
        self._table: list[Any] = []
        chains = {role: self._chain(role) for role in OPERANDS}
        self._stores = self._store_times()
        self.ends = [self._add(chain[-1]) for chain in chains.values()]
        self._crossing(chains)
        self.after_ready: list[int] = [self._add(self._array() + self.unit[form.extra] / self.clock_hz + self._stores[-1])]
        self.after_start: list[tuple[list[int], list[int]]] = []
        self.constant: list[int] = []
        self._levels(chains)
        self._alternation(chains)
        self.coefficients = np.stack(np.broadcast_arrays(*self._table), axis=-2)

    def bound(self, demands: Floats) -> tuple[Floats, Floats, Floats]:
        """Latency [mappings] or [chips, mappings]; DRAM bytes and moved bytes [mappings]."""
        found = self.coefficients @ demands
        ready = np.maximum.reduce([found[..., end, :] for end in self.ends])
        if self.crossing is not None:
            crossing = found[..., self.crossing, :]
            ready = np.maximum(ready, crossing + np.minimum(*(found[..., rest, :] for rest in self.rests)) if self.rests else crossing)
        latency_s = ready + _largest(found, self.after_ready)
        latency_s = np.maximum(latency_s, _largest(found, self.constant))
        for starts, rows in self.after_start:
            latency_s = np.maximum(latency_s, np.minimum(*(found[..., start, :] for start in starts)) + _largest(found, rows))
        sizes = self.sizes @ demands
        return latency_s, sizes[0], sizes[1]

    def _add(self, row: Any) -> int:
        self._table.append(row)
        return len(self._table) - 1

    def _one_s(self, link: Link, bits: int, load: bool) -> Any:
        """Coefficients of the seconds of one transfer: whole bursts where the outer port is the slower one, bits elsewhere."""
        outer, inner = (link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
        if not load:
            outer, inner = link.outer.write_bytes_per_s, link.inner.read_bytes_per_s
        slower = outer <= inner
        in_bursts = chosen(slower, 1 / outer, 0.0) * self.unit[link.one_in_bursts]
        return (in_bursts + chosen(slower, 0.0, 1 / inner) * self.unit[link.one]) * (bits / 8)

    def _all_sums(self, place: Place) -> Any:
        """Elements of the result that a place gets."""
        whole = float(self.form.whole[2, 0])
        return whole * self.unit[self.form.one] if self.form.setting.shared(place) else self.unit[self.form.own + 2]

    def _array(self) -> Any:
        return self.unit[self.form.cycles] / self.clock_hz

    def _chain(self, role: Role) -> list[Any]:
        """Earliest start and end of the first transfer on each link of an operand, in turn; at least [start of nothing]."""
        now: Any = np.zeros(self.form.demands)
        times: list[Any] = []
        for link in self.form.links[role]:
            now = now + float(link.outer.level.latency_s) * self.unit[self.form.one]
            times.append(now)
            now = now + self._one_s(link, self.form.setting.bits(role), load=True)
            times.append(now)
        return times or [now]

    def _store_times(self) -> list[Any]:
        """Seconds of the last stores from a stage outwards: of none, of the outermost, of the two outermost, ..."""
        times: list[Any] = [np.zeros(self.form.demands)]
        for link in self.form.links["psums"]:
            times.append(times[-1] + self._one_s(link, self.form.setting.gemm.out_bits, load=False))
        return times

    def _crossing(self, chains: dict[Role, list[Any]]) -> None:
        """Both operands cross DRAM's port; the one that does so last has the rest of its chain to go."""
        links = [self.form.links[role] for role in OPERANDS]
        self.crossing: int | None = None
        self.rests: list[int] = []
        if not all(each and each[0].outer.stage < 0 for each in links):
            return
        row: Any = float(links[0][0].outer.level.latency_s) * self.unit[self.form.one]
        for role, each in zip(OPERANDS, links, strict=True):
            row = row + self.unit[each[0].one_in_bursts] * (self.form.setting.bits(role) / 8) / each[0].outer.read_bytes_per_s
        self.crossing = self._add(row)
        if all(len(each) > 1 for each in links):
            self.rests = [self._add(chains[role][-1] - chains[role][1]) for role in OPERANDS]

    def _traffic(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Bytes read from and written to each level."""
        setting, unit = self.form.setting, self.unit
        gemm, acc_bytes = setting.gemm, setting.gemm.acc_bits / 8
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
            finished = gemm.out_bits / 8 * self._all_sums(link.outer)
            written[outer] += acc_bytes * unit[link.leave] + finished + unit[link.waste_written] * in_bursts
            read[inner] += acc_bytes * unit[link.enter] + gemm.out_bits / 8 * self._all_sums(link.inner)
            written[inner] += acc_bytes * unit[link.enter]
        place = setting.holders["psums"][-1]
        innermost, sums = place.level.name, self._all_sums(place)
        read[innermost] += acc_bytes * (unit[self.form.accesses + 2] - sums)
        written[innermost] += acc_bytes * unit[self.form.accesses + 2]
        return read, written

    def _levels(self, chains: dict[Role, list[Any]]) -> None:
        form, setting, one = self.form, self.form.setting, self.unit[self.form.one]
        read, written = self._traffic()
        self.sizes = np.stack([read[setting.chip.dram.name] + written[setting.chip.dram.name], sum([*read.values(), *written.values()])])
        drain = self.unit[form.drain] / self.clock_hz
        starts: dict[str, list[Any]] = {}
        for role in OPERANDS:
            for number, link in enumerate(form.links[role]):
                starts.setdefault(link.inner.level.name, []).append(chains[role][2 * number])
        after: dict[str, tuple[Any, Any]] = {setting.chip.dram.name: (0.0, 0.0)}
        for number, link in enumerate(form.links["psums"]):
            port = self.unit[link.one] * (setting.gemm.out_bits / 8) / link.inner.read_bytes_per_s
            after[link.inner.level.name] = self._stores[number + 1] - port, self._stores[number + 1]
        for place in setting.places:
            name = place.level.name
            rest = drain if setting.shared(place) and setting.cores > 1 else drain + self._stores[-1]
            after_read, after_write = after.get(name, (rest, rest))
            busy = [read[name] / place.read_bytes_per_s + after_read, written[name] / place.write_bytes_per_s + after_write]
            if place.level.bandwidth.shared:
                busy = [busy[0] + written[name] / place.write_bytes_per_s]
            begins = [float(place.level.latency_s) * one] if place.stage < 0 else starts.get(name, [])
            if len(begins) == 1 or (begins and np.array_equal(begins[0], begins[1])):
                self.constant += [self._add(begins[0] + row) for row in busy]
            elif begins:
                self.after_start.append(([self._add(begin) for begin in begins], [self._add(row) for row in busy]))
            else:
                self.after_ready += [self._add(row) for row in busy]

    def _alternation(self, chains: dict[Role, list[Any]]) -> None:
        """Transfers and uses of a tile with a single buffer next to the array, one after another."""
        form, gemm = self.form, self.form.setting.gemm
        for role in OPERANDS:
            if form.links[role] and not form.links[role][-1].inner.level.double_buffered:
                link = form.links[role][-1]
                rate = smaller(link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
                moves = self.unit[link.enter] * (form.setting.bits(role) / 8) / rate
                self.constant.append(self._add(chains[role][-2] + moves + self._array() + self._stores[-1]))
        link = form.links["psums"][-1]
        if not link.inner.level.double_buffered:
            back = self.unit[link.enter] * (gemm.acc_bits / 8)
            away = back + self._all_sums(link.inner) * (gemm.out_bits / 8)
            out_rate = smaller(link.outer.write_bytes_per_s, link.inner.read_bytes_per_s)
            in_rate = smaller(link.outer.read_bytes_per_s, link.inner.write_bytes_per_s)
            self.after_ready.append(self._add(away / out_rate + back / in_rate + self._array() + self._stores[-2]))


def _largest(found: Floats, rows: Sequence[int]) -> Floats:
    """The largest of some rows."""
    largest: Floats = found[..., rows[0], :]
    for row in rows[1:]:
        largest = np.maximum(largest, found[..., row, :])
    return largest


def _inside(orders: Any, stages: int) -> NDArray[np.bool_]:
    """[stages, 2, roles, orders]: whether the loops over x and over y of a role lie inside its loop over z."""
    ranks = np.array(orders).transpose(1, 2, 0)
    return np.array([[ranks[s][X] > ranks[s][Z], ranks[s][Y] > ranks[s][Z]] for s in range(stages)])
