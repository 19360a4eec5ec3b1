"""The tiled cost of one GEMM under one mapping: a proved lower bound on every schedule at tile granularity.

**Schedules at tile granularity.** A transfer moves one tile between two neighbouring holders of its role; it takes the port of both for
bytes / bandwidth each, beginning on neither before the outer level's latency after the tile is whole there, and is over when both are done.
A step of the array begins when the innermost tile of each role has arrived whole, occupies the array for its tile cycles, and its sums have
left when the array has drained. A tile of C leaves a stage when it is finished there. Steps of a core, and tiles of a role, keep the order
of the nest. Ports and array do one thing at a time. A level has one port, or one for reads and one for writes; a level of a core serves its
core, other levels all. A tile with one buffer is not replaced while it is in use: by the array for the cycles of each step, by the stage
below while that fetches from it.

**latency >= max over ports X of prefix_X + busy_X + suffix_X**, for X does no work before prefix_X, then busy_X of it in all, and after its
last work suffix_X must follow. In detail, for the first core where a level belongs to a core (its parts are the largest, hence its count of
folds, trips and bytes; all are monotone in the lengths; only a core that sits out tiles between two that it works on, below two shared
memories, may fetch more, and one whose smaller part streams through more matrix units may read more, and the first is a bound all the
same):

* *ready* is the earliest first step: each operand's first tile comes down its chain of holders, one transfer after another; both must cross
  DRAM's port, and the one that does so last still has the rest of its chain before it.
* array: prefix ready; busy the tile cycles; suffix fill, skew and drain of `systolic`'s sequence, and the last tile of C up its chain.
* DRAM: prefix its latency. Its last work may be the last store, so the suffix is 0.
* a level with operands: prefix the earliest start of a transfer into it, or out of it of an operand that lies there. One with sums alone:
  ready.
* suffix of a core's level with sums: what the last store there takes longer than the port, and the stores further out; for a port that only
  writes, all of that store, because it must end with the array's last sums. Of a level with operands alone: drain and stores after the
  array's last read, for those from which the array reads; a whole step more for ports that only load and levels that feed other stages.
  For a level that cores share, of whom any may come last, the step is as small as any piece is.
* single buffers: uses and transfers of a role's tile exclude each other, so latency >= first start + its transfers + its uses + what
  follows
  the last of them; uses are the array's cycles, or the transfers of the stage below.

**No roofline is above it**: DRAM moves every element at least once, the array's cycles cover all MACs of the largest part, each level is
written or read once per element of what it holds.

**Bytes.** DRAM holds tensors packed in tile order, each tile on bursts of its own. On chip a transfer is its bits. Several cores that
need a
tile of one role at the same place of their loops cost one read of the place that they read from iff that says multicast, else one each.
Sums move in accumulator bits; what is finished, in output bits. Levels that a role passes by are not charged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from numpy import ndarray

from hwmodels.chip import Role
from hwmodels.formulas.elementwise import chosen, larger, nearest_count, plain, plain_count, slowest, smaller
from hwmodels.formulas.systolic import Count
from hwmodels.formulas.tiling import AxisCuts, Visited, cut_axis, is_one, packed_bytes, turns, visited
from sim.mapper import array
from sim.mapper.problem import ROLE_AXES, Choice, Extents, Place, Setting, besides_s, tile_bits
from sim.mapping import AXES

Seconds: TypeAlias = Any
"""float or array of float."""

OPERANDS: tuple[Role, Role] = ("activations", "weights")


class Port(NamedTuple):
    """One port of a resource, which works for `busy_s`: `late_s` must follow the last of its work and of what the group does besides, which
    it may do while the array drains; no more than what must follow its last work for the GEMM."""

    busy_s: Seconds
    late_s: Seconds


@dataclass(frozen=True, slots=True)
class GemmCost:
    """Tiled cost of one GEMM; `busy_s`, `prefix_s`, `suffix_s` and `ports` (see `Term`) are keyed by "matrix" and the names of levels. On
    many chips each number is an array.

    Bytes of a level are over the whole chip if all cores share it and of the first (most loaded) core otherwise; `array_cycles` and
    `tile_steps` are the first core's. `alternation_s` is the bound from single buffers (0 without). `moved_bytes` stands in for energy.
    """

    latency_s: Seconds
    bound_by: Any
    busy_s: dict[str, Seconds]
    prefix_s: dict[str, Seconds]
    suffix_s: dict[str, Seconds]
    ports: dict[str, tuple[Port, ...]]
    alternation_s: Seconds
    dram_read_bytes: Any
    dram_written_bytes: Any
    read_bytes: dict[str, Seconds]
    written_bytes: dict[str, Seconds]
    moved_bytes: Seconds
    issued_macs: Any
    array_cycles: Any
    utilisation: Seconds
    tile_steps: Any

    @property
    def dram_bytes(self) -> Any:
        return self.dram_read_bytes + self.dram_written_bytes


class Term(NamedTuple):
    """One resource, its busiest port: latency is at least the sum. And each of its ports."""

    prefix_s: Seconds
    busy_s: Seconds
    suffix_s: Seconds
    ports: tuple[Port, ...]


class Costs(NamedTuple):
    """What mappings are ranked by, in this order (latency: of the group, but for its vector unit), and (for one mapping) how the latency
    came about, and that of the GEMM alone."""

    latency_s: Seconds
    dram_bytes: Seconds
    moved_bytes: Seconds
    steps: Count
    terms: dict[str, Term]
    alternation_s: Seconds
    read_bytes: dict[str, Seconds]
    written_bytes: dict[str, Seconds]
    array_cycles: Count
    every: Sequence[AxisCuts]
    laid: array.Laid
    own_s: Seconds


class Link(NamedTuple):
    """Transfers of one role between two neighbouring holders, as the first core sees them.

    `one_s` is the first load or the last store, of which the outer port is taken for `outer_s` and the inner one for `inner_s`; `all_s` are
    the transfers of all its tiles, in both directions. `further_s` is what takes place further out: before that first load can begin, or
    after that last store.
    """

    outer: Place
    inner: Place
    one_s: Seconds
    outer_s: Seconds
    inner_s: Seconds
    all_s: Seconds
    further_s: Seconds


class _Traffic:
    """Bytes read from and written to each level, filled in role by role."""

    def __init__(self, setting: Setting) -> None:
        self.read: dict[str, Seconds] = dict.fromkeys([place.level.name for place in setting.places], 0)
        self.written = self.read.copy()

    def reads(self, place: Place, size_bytes: Seconds) -> None:
        self.read[place.level.name] = self.read[place.level.name] + size_bytes

    def writes(self, place: Place, size_bytes: Seconds) -> None:
        self.written[place.level.name] = self.written[place.level.name] + size_bytes


class _Case:
    """A setting and a choice with what both imply: cuts as all cores (`every`), as all of them where a read serves them together
    (`at_once`) and as the first core alone (`first`) see them, the extents of the first core's last tile of each stage, and (last entry) of
    its last piece for the array; the axes as a level counts them that each core has for itself (`own`); how they
    lie in the array, and what those of the first core contribute to what that is charged."""

    def __init__(self, setting: Setting, choice: Choice) -> None:
        self.setting, self.choice = setting, choice
        rows, columns = choice.split
        self.several = not (is_one(rows) and is_one(columns))
        where, axes = setting.split_stage, list(zip(setting.extents, zip(*choice.tiles, strict=True), (rows, columns, 1), strict=True))
        self.first = [cut_axis(extent, sizes, where, parts, every=False) for extent, sizes, parts in axes]
        self.every = self.at_once = self.first
        if self.several:
            self.every, self.at_once = [*self.first], [*self.first]
            for i, (extent, sizes, parts) in enumerate(axes):
                if not is_one(parts):
                    self.every[i] = cut_axis(extent, sizes, where, parts, every=True)
                    self.at_once[i] = self.first[i]._replace(at_once=True)
        self.last_tiles: list[Extents] = list(zip(*[_lasts(extent, sizes, where, parts) for extent, sizes, parts in axes], strict=True))
        self.own = self.first
        self.laid = array.laid(setting, choice.dataflow, choice.array_axis)
        self.charges = self.laid.charge(self.first)

    def cuts(self, role: Role, seen_from: Place) -> Sequence[AxisCuts]:
        """The axes m, n, k of a role, as traffic of `seen_from` counts them."""
        if not self.several or not self.setting.shared(seen_from):
            return self.own
        if not seen_from.level.multicast or role == "psums":
            return self.every
        other = ROLE_AXES[role][2]
        return [*self.every[:other], self.at_once[other], *self.every[other + 1 :]]

    def tiles_of(self, role: Role, inner: Place, cuts: Sequence[AxisCuts]) -> list[Visited]:
        """Tiles of a role that `inner` fetches."""
        x, y, z = ROLE_AXES[role]
        inside = [(rank[x] > rank[z], rank[y] > rank[z]) for rank in self.choice.ranks[: inner.stage + 1]]
        return visited(cuts[x], cuts[y], cuts[z], inner.stage, inside)

    def used(self) -> array.ArrayUse:
        """What the array of the first core is charged."""
        return self.laid.use(self.first, self.charges, self.last_tiles[-1])

    def charges_of(self, cuts: Sequence[AxisCuts]) -> Sequence[array.Charge]:
        """What axes contribute to what the array is charged; most are cut as for the first core."""
        if cuts is self.first:
            return self.charges
        each = enumerate(zip(cuts, self.first, strict=True))
        return [self.charges[i] if axis.around is own.around else self.laid.lays[i].charge(axis) for i, (axis, own) in each]


class _AllCores(_Case):
    """The same for counting what all cores together move."""

    def __init__(self, setting: Setting, choice: Choice) -> None:
        super().__init__(setting, choice)
        self.own = self.every


def chip_bytes(setting: Setting, choice: Choice) -> dict[str, float]:
    """Bytes that pass each level."""
    traffic = chip_traffic(setting, choice)
    return {name: float(read + traffic.written[name]) for name, read in traffic.read.items()}


def weights_fetched(setting: Setting, choice: Choice) -> Any:
    """Elements of weights that leave DRAM, as often as they do."""
    return plain_count(_weights_fetched(_Case(setting, choice)))


def _weights_fetched(case: _Case) -> Count:
    outer, inner = case.setting.holders["weights"][:2]
    return _elements(case.tiles_of("weights", inner, case.cuts("weights", outer)), _every_time)


def room_bits(setting: Setting, choice: Choice) -> dict[str, int]:
    """What one instance of each on-chip level has to hold: the largest tiles, which are the first."""
    first = _Case(setting, choice).first
    tiles = [(first[0].longest(stage), first[1].longest(stage), first[2].longest(stage)) for stage in range(len(setting.stages))]
    return {place.level.name: int(tile_bits(setting, place.level, tiles[place.stage])) for place in setting.places[1:]}


def macs_of_cores(setting: Setting, choice: Choice, first_unit: bool = False) -> list[int]:
    """MACs that each core issues, or its first matrix unit."""
    sizes, laid = zip(*choice.tiles, strict=True), array.laid(setting, choice.dataflow, choice.array_axis)

    def cuts_of(extent: int, sizes: Sequence[int], parts: int) -> list[AxisCuts]:
        return [cut_axis(extent, sizes, setting.split_stage, parts, False, core) for core in range(parts)]

    cores = product(*map(cuts_of, setting.extents, sizes, (*choice.split, 1)))
    return [nearest_count(laid.issued_macs(cuts, first_unit)) for cuts in cores]


def tile_turns(setting: Setting, choice: Choice) -> dict[tuple[int, str], int]:
    """How often the next tile of a stage of the first core lies elsewhere along an axis: the order in which tiles are visited."""
    cuts = _Case(setting, choice).first
    found: dict[tuple[int, str], int] = {}
    for stage in range(len(setting.stages)):
        for axis, name in enumerate(AXES):
            others = [other for other in range(3) if other != axis]
            inside = [[rank[axis] > rank[other] for rank in choice.ranks[: stage + 1]] for other in others]
            found[stage, name] = int(turns(cuts[axis], [cuts[other] for other in others], stage, inside))
    return found


def longest_tiles(setting: Setting, choice: Choice) -> dict[tuple[int, str], int]:
    """Extents of the longest tile of each stage of the first core along each axis."""
    first = _Case(setting, choice).first
    return {(stage, name): int(cuts.longest(stage)) for stage in range(len(setting.stages)) for name, cuts in zip(AXES, first, strict=True)}


def chip_traffic(setting: Setting, choice: Choice) -> _Traffic:
    """Bytes read from and written to each level by all cores together: what takes energy, where `cost_of` asks what takes time."""
    case, traffic = _AllCores(setting, choice), _Traffic(setting)
    for role in OPERANDS:
        _loads(case, role, traffic)
    _stores(case, traffic)
    _array_traffic(case, traffic)
    return traffic


def _lasts(extent: int, sizes: Sequence[Count], split_stage: int, parts: Count) -> list[Count]:
    """Lengths of the first core's last tile of each stage, and piece."""
    last: Count = extent
    lasts = []
    for stage, size in enumerate(sizes):
        if stage == split_stage:
            last = -(-last // parts)
        last = (last - 1) % size + 1
        lasts.append(last)
    lasts.append(-(-last // parts) if split_stage == len(sizes) else last)
    return lasts


def evaluate(setting: Setting, choice: Choice) -> Costs:
    """Cost of one mapping, or of as many as the choice holds; rates, latencies and the clock of the setting may be arrays, too. Capacities
    are not checked here."""
    return _evaluated(_Case(setting, choice))[0]


def evaluate_with_last_step(setting: Setting, choice: Choice) -> tuple[Costs, Seconds]:
    """The same, and what follows the last tile of an operand at least: the last step, and its sums on their way out; of several cores, of
    whom any may come last, the least step that there can be."""
    case = _Case(setting, choice)
    costs, stores = _evaluated(case)
    last = (1, 1, 1) if case.several else case.last_tiles[-1]
    step_s = case.laid.step_cycles(last) / float(setting.chip.clock_hz)
    return costs, step_s if case.several else step_s + _chain_s(stores)


def _evaluated(case: _Case) -> tuple[Costs, list[Link]]:
    """A cost, and the transfers of sums."""
    setting = case.setting
    traffic = _Traffic(setting)
    loads = [_loads(case, role, traffic) for role in OPERANDS]
    stores = _stores(case, traffic)
    _array_traffic(case, traffic)
    used = case.used()
    terms, alternation = _times(case, used, loads, stores, traffic)
    own = alternation
    for term in terms.values():
        own = larger(own, term.prefix_s + term.busy_s + term.suffix_s)
    latency = own
    if setting.besides.sizes_bytes:
        for place, besides in zip(setting.places, besides_s(setting, _weights_fetched(case)), strict=True):
            term = terms[place.level.name]
            for port, more in zip(term.ports, besides, strict=True):
                latency = larger(latency, term.prefix_s + (port.busy_s + more) + port.late_s)
    dram = setting.chip.dram.name
    moved = sum(traffic.read.values()) + sum(traffic.written.values())
    dram_bytes = traffic.read[dram] + traffic.written[dram]
    moved_by_level, laid = (traffic.read, traffic.written), case.laid
    return Costs(latency, dram_bytes, moved, used.steps, terms, alternation, *moved_by_level, used.cycles, case.every, laid, own), stores


_every_time: Callable[[Visited], Count] = attrgetter("visits")


def _again(group: Visited) -> Count:
    return group.visits - 1


def _once(_group: Visited) -> Count:
    return 1


def _elements(groups: list[Visited], often: Callable[[Visited], Count]) -> Count:
    """Elements fetched, if the tiles of each group are so often."""
    total: Count = 0
    for group in groups:
        total = total + group.elements * often(group)
    return total


def _leaves(groups: list[Visited], often: Callable[[Visited], Count], bits: int, outer: Place) -> Seconds:
    """Bytes that cross the outer port if the tiles of each group do so often: whole bursts at DRAM, bits elsewhere."""
    if outer.stage >= 0:
        return _elements(groups, often) * bits / 8
    total: Count = 0
    for group in groups:
        times = often(group)
        if not (isinstance(times, int) and times == 0):
            total = total + times * packed_bytes(group, bits, outer.level.burst_bytes)
    return total


def _crossing_s(bits: Count, place: Place, bytes_per_s: Seconds) -> Seconds:
    """Seconds that one transfer takes a port: whole bursts at DRAM."""
    if place.stage >= 0:
        return bits / 8 / bytes_per_s
    burst_bytes = place.level.burst_bytes
    return -(-bits // (8 * burst_bytes)) * burst_bytes / bytes_per_s


def _loads(case: _Case, role: Role, traffic: _Traffic) -> list[Link]:
    """Transfers of one operand, from DRAM inwards."""
    bits = case.setting.bits(role)
    x, y, _ = ROLE_AXES[role]
    links = []
    waited_s: Seconds = 0.0
    for outer, inner in pairwise(case.setting.holders[role]):
        cuts = case.cuts(role, outer)
        own = groups = case.tiles_of(role, inner, cuts)
        if cuts is not case.own:
            own = case.tiles_of(role, inner, case.own)
        traffic.reads(outer, _leaves(groups, _every_time, bits, outer))
        own_bytes = _elements(own, _every_time) * bits / 8
        traffic.writes(inner, own_bytes)
        tile_bits = case.first[x].longest(inner.stage) * case.first[y].longest(inner.stage) * bits
        outer_s = _crossing_s(tile_bits, outer, outer.read_bytes_per_s)
        inner_s = _crossing_s(tile_bits, inner, inner.write_bytes_per_s)
        one_s, latency_s = larger(outer_s, inner_s), outer.level.latency_s
        all_s = own_bytes / smaller(outer.read_bytes_per_s, inner.write_bytes_per_s)
        links.append(Link(outer, inner, one_s, outer_s, inner_s, all_s, waited_s + latency_s))
        waited_s = waited_s + (latency_s + one_s)
    return links


def _stores(case: _Case, traffic: _Traffic) -> list[Link]:
    """Transfers of sums, both ways, from DRAM inwards: unfinished ones leave and come back, finished ones leave once."""
    setting, gemm = case.setting, case.setting.gemm
    links = []
    outwards_s: Seconds = 0.0
    for outer, inner in pairwise(setting.holders["psums"]):
        cuts = case.cuts("psums", outer)
        own = groups = case.tiles_of("psums", inner, cuts)
        if cuts is not case.own:
            own = case.tiles_of("psums", inner, case.own)
        result_bits = setting.result_bits(outer)
        unfinished = _leaves(groups, _again, gemm.acc_bits, outer)
        traffic.reads(outer, unfinished)
        traffic.writes(outer, unfinished + _leaves(groups, _once, result_bits, outer))
        own_unfinished = _elements(own, _again) * gemm.acc_bits / 8
        own_finished = _elements(own, _once) * gemm.out_bits / 8
        traffic.writes(inner, own_unfinished)
        traffic.reads(inner, own_unfinished + own_finished)
        tile = case.last_tiles[inner.stage]
        outer_s = _crossing_s(tile[0] * tile[1] * result_bits, outer, outer.write_bytes_per_s)
        inner_s = _crossing_s(tile[0] * tile[1] * gemm.out_bits, inner, inner.read_bytes_per_s)
        back_s = own_unfinished / smaller(outer.read_bytes_per_s, inner.write_bytes_per_s)
        out_rate = smaller(outer.write_bytes_per_s, inner.read_bytes_per_s)
        if result_bits == gemm.out_bits:
            away_s = (own_unfinished + own_finished) / out_rate
        else:
            away_s = own_unfinished / out_rate + own_finished / inner.read_bytes_per_s
        one_s = larger(outer_s, inner_s)
        links.append(Link(outer, inner, one_s, outer_s, inner_s, back_s + away_s, outwards_s))
        outwards_s = outwards_s + one_s
    return links


def _array_traffic(case: _Case, traffic: _Traffic) -> None:
    """What the array reads from and writes to the innermost level of each role."""
    gemm, innermost = case.setting.gemm, {role: holders[-1] for role, holders in case.setting.holders.items()}
    counts = case.laid.accesses({role: case.charges_of(case.cuts(role, place)) for role, place in innermost.items()})
    traffic.reads(innermost["activations"], counts.a_reads * gemm.a_bits / 8)
    traffic.reads(innermost["weights"], counts.w_reads * gemm.w_bits / 8)
    traffic.reads(innermost["psums"], counts.psum_reads * gemm.acc_bits / 8)
    traffic.writes(innermost["psums"], counts.psum_writes * gemm.acc_bits / 8)


class _Tail:
    """What must follow: after the array's last operand, after the last load of a tile (a step of the array on `tile`), and of all stores
    from a stage outwards."""

    def __init__(self, case: _Case, drain_s: Seconds, tile: Extents, stores_s: Seconds) -> None:
        self.case, self.drain_s, self.tile, self.stores_s = case, drain_s, tile, stores_s

    @cached_property
    def step_s(self) -> Seconds:
        """Only levels without sums ask for it."""
        return self.case.laid.step_cycles(self.tile) / self.case.setting.clock_hz


def _times(
    case: _Case, used: array.ArrayUse, loads: list[list[Link]], stores: list[Link], traffic: _Traffic
) -> tuple[dict[str, Term], Seconds]:
    """A term per resource, and the bound from single buffers."""
    setting, clock_hz = case.setting, case.setting.clock_hz
    drain_s = case.laid.drain_cycles / clock_hz
    stores_s = _chain_s(stores)
    own, shared = _Tail(case, drain_s, case.last_tiles[-1], stores_s), _Tail(case, drain_s, (1, 1, 1), 0.0)
    ready_s = _ready(loads)
    array_s = used.cycles / clock_hz
    extra_s = used.extra_cycles / clock_hz + stores_s
    terms = {"matrix": Term(ready_s, array_s, extra_s, (Port(array_s, extra_s),))}
    starts = _starts(loads)
    for place in setting.places:
        name, tail = place.level.name, shared if case.several and setting.shared(place) else own
        prefix_s = starts.get(name, ready_s) if place.stage >= 0 else place.level.latency_s
        terms[name] = _level_term(setting, place, prefix_s, stores, tail, traffic)
    return terms, _alternation(loads, stores, ready_s, array_s, used.last_extra_cycles / clock_hz, own)


def _chain_s(links: list[Link]) -> Seconds:
    """From the outermost holder to the innermost, one transfer after another, or back."""
    return links[-1].further_s + links[-1].one_s if links else 0.0


def _ready(loads: list[list[Link]]) -> Seconds:
    """Earliest first step: each operand comes down its chain; what comes from DRAM crosses its port one after the other, and the last to do
    so has the rest of its chain to go. An operand that lies where the array reads it has no chain."""
    coming = [links for links in loads if links]
    if len(coming) < 2:
        return _chain_s(coming[0]) if coming else 0.0
    one, other = coming
    one_s, other_s = _chain_s(one), _chain_s(other)
    ready = larger(one_s, other_s)
    if one[0].outer.stage >= 0 or other[0].outer.stage >= 0:
        return ready
    crossing = one[0].outer_s + other[0].outer_s + one[0].further_s
    return larger(ready, crossing + smaller(one_s - one[0].further_s - one[0].one_s, other_s - other[0].further_s - other[0].one_s))


def _starts(loads: list[list[Link]]) -> dict[str, Seconds]:
    """The earliest start of a transfer of operands into each level; out of it, of one that lies there from the start."""
    starts: dict[str, Seconds] = {}
    for links in loads:
        for place, link in [(link.inner, link) for link in links] + [(link.outer, link) for link in links[:1]]:
            name, start_s = place.level.name, link.further_s
            starts[name] = smaller(starts[name], start_s) if name in starts else start_s
    return starts


def _level_term(setting: Setting, place: Place, prefix_s: Seconds, stores: list[Link], tail: _Tail, traffic: _Traffic) -> Term:
    read_s = traffic.read[place.level.name] / place.read_bytes_per_s
    write_s = traffic.written[place.level.name] / place.write_bytes_per_s
    after_read_s, late_read_s = _after_read(setting, place, stores, tail)
    if place.level.bandwidth.shared:
        both_s = read_s + write_s
        return Term(prefix_s, both_s, after_read_s, (Port(both_s, late_read_s),))
    after_write_s, late_write_s = _after_write(place, stores, tail)
    busy_s = larger(read_s, write_s)
    suffix_s = larger(read_s + after_read_s, write_s + after_write_s) - busy_s
    return Term(prefix_s, busy_s, suffix_s, (Port(read_s, late_read_s), Port(write_s, late_write_s)))


def _after_read(setting: Setting, place: Place, stores: list[Link], tail: _Tail) -> tuple[Seconds, Seconds]:
    """What must follow the last read of a level, and the last of all that it does."""
    if place.stage < 0:
        return 0.0, 0.0
    for link in stores:
        if link.inner is place:
            return (link.one_s - link.inner_s + link.further_s,) * 2
    for holders in setting.holders.values():
        if holders[-1] is place:
            return tail.drain_s + tail.stores_s, tail.stores_s
    return tail.step_s + tail.stores_s, tail.stores_s


def _after_write(place: Place, stores: list[Link], tail: _Tail) -> tuple[Seconds, Seconds]:
    """The same of the last write."""
    if place.stage < 0:
        return 0.0, 0.0
    for link in stores:
        if link.inner is place:
            return (link.one_s + link.further_s,) * 2
    return tail.step_s + tail.stores_s, tail.stores_s


def _alternation(loads: list[list[Link]], stores: list[Link], ready_s: Seconds, array_s: Seconds, extra_s: Seconds, tail: _Tail) -> Seconds:
    """Transfers and uses of a tile with a single buffer, one after another."""
    bound: Seconds = 0.0
    for links in loads:
        for index, link in enumerate(links):
            if link.inner.level.double_buffered:
                continue
            uses_s, after_s = (array_s, extra_s) if index == len(links) - 1 else (links[index + 1].all_s, tail.step_s)
            bound = larger(bound, link.further_s + link.all_s + uses_s + after_s + tail.stores_s)
    for index, link in enumerate(stores):
        if link.inner.level.double_buffered:
            continue
        uses_s = array_s + extra_s if index == len(stores) - 1 else stores[index + 1].all_s
        bound = larger(bound, ready_s + link.all_s + uses_s + link.further_s)
    return bound


def cost_of(setting: Setting, choice: Choice, costs: Costs | None = None) -> GemmCost:
    """The whole cost of one mapping, or of as many as choice and setting hold; `costs` are its, if they are known already."""
    costs = costs or evaluate(setting, choice)
    latency, alternation = costs.own_s, costs.alternation_s
    number, count = (plain, plain_count) if isinstance(latency, ndarray) else (float, int)
    bound_by, _ = slowest({name: term.prefix_s + term.busy_s + term.suffix_s for name, term in costs.terms.items()})
    dram, cycles = setting.chip.dram.name, costs.array_cycles
    unit = setting.chip.matrix
    peak_macs = setting.cores * unit.count * unit.rows * unit.cols * setting.rate * cycles
    return GemmCost(
        latency_s=number(latency),
        bound_by=chosen(alternation < latency, bound_by, "alternation"),
        busy_s={name: number(term.busy_s) for name, term in costs.terms.items()},
        prefix_s={name: number(term.prefix_s) for name, term in costs.terms.items()},
        suffix_s={name: number(term.suffix_s) for name, term in costs.terms.items()},
        ports={name: tuple([Port(number(busy_s), number(late_s)) for busy_s, late_s in term.ports]) for name, term in costs.terms.items()},
        alternation_s=number(alternation),
        dram_read_bytes=count(costs.read_bytes[dram]),
        dram_written_bytes=count(costs.written_bytes[dram]),
        read_bytes={name: number(size) for name, size in costs.read_bytes.items()},
        written_bytes={name: number(size) for name, size in costs.written_bytes.items()},
        moved_bytes=number(costs.moved_bytes),
        issued_macs=nearest_count(costs.laid.issued_macs(costs.every)),
        array_cycles=count(cycles),
        utilisation=setting.gemm.macs / peak_macs,
        tile_steps=count(costs.steps),
    )
