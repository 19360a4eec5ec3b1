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
memories, may fetch more, and one whose smaller part lies on more matrix units may read more, and the first is a bound all the same):

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

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeAlias

from hwmodels.chip import Role
from hwmodels.formulas.elementwise import chosen, larger, nearest_count, plain, plain_count, slowest, smaller
from hwmodels.formulas.systolic import Count
from hwmodels.formulas.tiling import AxisCuts, Visited, cut_axis, packed_bytes, turns, visited
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
    every: list[AxisCuts]
    own_s: Seconds


class Link(NamedTuple):
    """Transfers of one role between two neighbouring holders, as the first core sees them.

    `one_s` is the first load or the last store, of which the outer port is taken for `outer_s` and the inner one for `inner_s`; `all_s` are
    the transfers of all its tiles, in both directions.
    """

    outer: Place
    inner: Place
    one_s: Seconds
    outer_s: Seconds
    inner_s: Seconds
    all_s: Seconds

    @property
    def latency_s(self) -> Seconds:
        return self.outer.level.latency_s


class _Traffic:
    """Bytes read from and written to each level, filled in role by role."""

    def __init__(self, setting: Setting) -> None:
        self.read: dict[str, Seconds] = {place.level.name: 0 for place in setting.places}
        self.written: dict[str, Seconds] = {place.level.name: 0 for place in setting.places}

    def reads(self, place: Place, size_bytes: Seconds) -> None:
        self.read[place.level.name] = self.read[place.level.name] + size_bytes

    def writes(self, place: Place, size_bytes: Seconds) -> None:
        self.written[place.level.name] = self.written[place.level.name] + size_bytes


class _Case:
    """A setting and a choice with what both imply: cuts as all cores (`every`), as all of them where a read serves them together
    (`at_once`) and as the first core alone (`first`) see them, the extents of the first core's first and last tile of each stage, and (last
    entries) of its first and last piece for the array."""

    def __init__(self, setting: Setting, choice: Choice) -> None:
        self.setting, self.choice = setting, choice
        parts = (*choice.split, 1)
        self.several = any(not isinstance(each, int) or each > 1 for each in choice.split)
        sizes = [[tile[axis] for tile in choice.tiles] for axis in range(3)]
        where = setting.split_stage
        self.first = [cut_axis(extent, sizes[i], where, parts[i], every=False) for i, extent in enumerate(setting.extents)]
        self.every = self.at_once = self.first
        if self.several:
            self.at_once = [cuts._replace(at_once=True) for cuts in self.first]
            self.every = [cut_axis(extent, sizes[i], where, parts[i], every=True) for i, extent in enumerate(setting.extents)]
        ends = [_axis_ends(extent, sizes[i], where, parts[i]) for i, extent in enumerate(setting.extents)]
        stages = range(len(choice.tiles) + 1)
        self.first_tiles: list[Extents] = [(ends[0][s][0], ends[1][s][0], ends[2][s][0]) for s in stages]
        self.last_tiles: list[Extents] = [(ends[0][s][1], ends[1][s][1], ends[2][s][1]) for s in stages]
        self.used = array.use(setting, choice.dataflow, choice.array_axis, self.first, self.first_tiles[-1], self.last_tiles[-1])

    def axes(self, role: Role, seen_from: Place) -> tuple[AxisCuts, AxisCuts, AxisCuts]:
        """The axes x, y, z of a role, as traffic of `seen_from` counts them."""
        x, y, z = ROLE_AXES[role]
        if not self.setting.shared(seen_from):
            return self.first[x], self.first[y], self.first[z]
        is_multicast = seen_from.level.multicast and role != "psums"
        return self.every[x], self.every[y], (self.at_once if is_multicast else self.every)[z]

    def tiles_of(self, role: Role, inner: Place, seen_from: Place) -> list[Visited]:
        """Tiles of a role that `inner` fetches."""
        x, y, z = ROLE_AXES[role]
        inside = [(rank[x] > rank[z], rank[y] > rank[z]) for rank in self.choice.ranks[: inner.stage + 1]]
        return visited(*self.axes(role, seen_from), inner.stage, inside)

    def tiles_of_first_core(self, role: Role, inner: Place) -> list[Visited]:
        """The same, of the first core alone."""
        x, y, z = ROLE_AXES[role]
        inside = [(rank[x] > rank[z], rank[y] > rank[z]) for rank in self.choice.ranks[: inner.stage + 1]]
        return visited(self.first[x], self.first[y], self.first[z], inner.stage, inside)


class _AllCores(_Case):
    """The same for counting what all cores together move."""

    def axes(self, role: Role, seen_from: Place) -> tuple[AxisCuts, AxisCuts, AxisCuts]:
        if self.setting.shared(seen_from):
            return super().axes(role, seen_from)
        x, y, z = ROLE_AXES[role]
        return self.every[x], self.every[y], self.every[z]

    def tiles_of_first_core(self, role: Role, inner: Place) -> list[Visited]:
        x, y, z = ROLE_AXES[role]
        inside = [(rank[x] > rank[z], rank[y] > rank[z]) for rank in self.choice.ranks[: inner.stage + 1]]
        return visited(self.every[x], self.every[y], self.every[z], inner.stage, inside)


def chip_bytes(setting: Setting, choice: Choice) -> dict[str, float]:
    """Bytes that pass each level."""
    traffic = chip_traffic(setting, choice)
    return {name: float(read + traffic.written[name]) for name, read in traffic.read.items()}


def weights_fetched(setting: Setting, choice: Choice) -> Any:
    """Elements of weights that leave DRAM, as often as they do."""
    return plain_count(_weights_fetched(_Case(setting, choice)))


def _weights_fetched(case: _Case) -> Count:
    outer, inner = case.setting.holders["weights"][:2]
    return _elements(case.tiles_of("weights", inner, outer))


def room_bits(setting: Setting, choice: Choice) -> dict[str, int]:
    """What one instance of each on-chip level has to hold: the largest tiles, which are the first."""
    tiles = _Case(setting, choice).first_tiles
    return {place.level.name: int(tile_bits(setting, place.level, tiles[place.stage])) for place in setting.places[1:]}


def macs_of_cores(setting: Setting, choice: Choice, first_unit: bool = False) -> list[int]:
    """MACs that each core issues, or its first matrix unit. The first core need not issue most: a smaller part may lie on more matrix
    units, with more padding."""
    parts, extents = (*choice.split, 1), setting.extents
    sizes = [[tile[axis] for tile in choice.tiles] for axis in range(3)]

    def cuts_of(axis: int) -> list[AxisCuts]:
        return [cut_axis(extents[axis], sizes[axis], setting.split_stage, parts[axis], False, core) for core in range(parts[axis])]

    cores = product(cuts_of(0), cuts_of(1), cuts_of(2))
    return [nearest_count(array.issued_macs(setting, choice.dataflow, choice.array_axis, cuts, first_unit)) for cuts in cores]


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


def chip_traffic(setting: Setting, choice: Choice) -> _Traffic:
    """Bytes read from and written to each level by all cores together: what takes energy, where `cost_of` asks what takes time."""
    case, traffic = _AllCores(setting, choice), _Traffic(setting)
    for role in OPERANDS:
        _loads(case, role, traffic)
    _stores(case, traffic)
    _array_traffic(case, traffic)
    return traffic


def _axis_ends(extent: int, sizes: list[Count], split_stage: int, parts: Count) -> list[tuple[Count, Count]]:
    """Lengths of the first core's first and last piece, stage by stage."""
    first: Count = extent
    last: Count = extent
    ends = []
    for stage in range(len(sizes) + 1):
        if stage == split_stage:
            first, last = -(-first // parts), -(-last // parts)
        if stage < len(sizes):
            first, last = smaller(first, sizes[stage]), (last - 1) % sizes[stage] + 1
        ends.append((first, last))
    return ends


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
    step_s = array.step_cycles(setting, choice.dataflow, choice.array_axis, last) / float(setting.chip.clock_hz)
    return costs, step_s if case.several else step_s + _sum(link.one_s for link in stores)


def _evaluated(case: _Case) -> tuple[Costs, list[Link]]:
    """A cost, and the transfers of sums."""
    setting = case.setting
    traffic = _Traffic(setting)
    loads = [_loads(case, role, traffic) for role in OPERANDS]
    stores = _stores(case, traffic)
    _array_traffic(case, traffic)
    terms, alternation = _times(case, loads, stores, traffic)
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
    cycles, steps, _ = case.used
    return Costs(latency, dram_bytes, moved, steps, terms, alternation, traffic.read, traffic.written, cycles, case.every, own), stores


def _elements(groups: list[Visited], less: int = 0) -> Count:
    """Elements fetched, `less` visits of each tile left out."""
    total: Count = 0
    for group in groups:
        total = total + group.elements * (group.visits - less)
    return total


def _once(groups: list[Visited]) -> list[Visited]:
    return [group._replace(visits=1) for group in groups]


def _leaves(case: _Case, groups: list[Visited], role: Role, inner: Place, outer: Place, bits: int, less: int = 0) -> Seconds:
    """Bytes that cross the outer port for the transfers of these tiles: whole bursts at DRAM, bits elsewhere."""
    if outer.stage >= 0:
        return _elements(groups, less) * bits / 8
    x, y, _ = ROLE_AXES[role]
    tile = case.choice.tiles[inner.stage]
    total: Count = 0
    for group in groups:
        total = total + (group.visits - less) * packed_bytes(group, tile[x], tile[y], bits, outer.level.burst_bytes)
    return total


def _one_transfer(elements: Count, bits: int, outer: Place, is_load: bool, inner: Place) -> tuple[Seconds, Seconds]:
    """Seconds that one transfer takes the outer and the inner port."""
    inner_bytes = elements * bits / 8
    burst_bytes = outer.level.burst_bytes
    outer_bytes = -(-elements * bits // (8 * burst_bytes)) * burst_bytes if outer.stage < 0 else inner_bytes
    if is_load:
        return outer_bytes / outer.read_bytes_per_s, inner_bytes / inner.write_bytes_per_s
    return outer_bytes / outer.write_bytes_per_s, inner_bytes / inner.read_bytes_per_s


def _loads(case: _Case, role: Role, traffic: _Traffic) -> list[Link]:
    """Transfers of one operand, from DRAM inwards."""
    setting, bits = case.setting, case.setting.bits(role)
    x, y, _ = ROLE_AXES[role]
    links = []
    for outer, inner in pairwise(setting.holders[role]):
        groups = case.tiles_of(role, inner, outer)
        traffic.reads(outer, _leaves(case, groups, role, inner, outer, bits))
        own_bytes = _elements(case.tiles_of_first_core(role, inner) if case.several else groups) * bits / 8
        traffic.writes(inner, own_bytes)
        tile = case.first_tiles[inner.stage]
        outer_s, inner_s = _one_transfer(tile[x] * tile[y], bits, outer, True, inner)
        rate = smaller(outer.read_bytes_per_s, inner.write_bytes_per_s)
        links.append(Link(outer, inner, larger(outer_s, inner_s), outer_s, inner_s, own_bytes / rate))
    return links


def _stores(case: _Case, traffic: _Traffic) -> list[Link]:
    """Transfers of sums, both ways, from DRAM inwards: unfinished ones leave and come back, finished ones leave once."""
    gemm = case.setting.gemm
    links = []
    for outer, inner in pairwise(case.setting.holders["psums"]):
        groups = case.tiles_of("psums", inner, outer)
        own = case.tiles_of_first_core("psums", inner) if case.several else groups
        unfinished = _leaves(case, groups, "psums", inner, outer, gemm.acc_bits, less=1)
        traffic.reads(outer, unfinished)
        traffic.writes(outer, unfinished + _leaves(case, _once(groups), "psums", inner, outer, case.setting.result_bits(outer)))
        own_unfinished, own_finished = _elements(own, less=1) * gemm.acc_bits / 8, _elements(_once(own)) * gemm.out_bits / 8
        traffic.writes(inner, own_unfinished)
        traffic.reads(inner, own_unfinished + own_finished)
        tile = case.last_tiles[inner.stage]
        _, inner_s = _one_transfer(tile[0] * tile[1], gemm.out_bits, outer, False, inner)
        outer_s, _ = _one_transfer(tile[0] * tile[1], case.setting.result_bits(outer), outer, False, inner)
        back_s = own_unfinished / smaller(outer.read_bytes_per_s, inner.write_bytes_per_s)
        out_rate = smaller(outer.write_bytes_per_s, inner.read_bytes_per_s)
        if case.setting.result_bits(outer) == gemm.out_bits:
            away_s = (own_unfinished + own_finished) / out_rate
        else:
            away_s = own_unfinished / out_rate + own_finished / inner.read_bytes_per_s
        links.append(Link(outer, inner, larger(outer_s, inner_s), outer_s, inner_s, back_s + away_s))
    return links


def _array_traffic(case: _Case, traffic: _Traffic) -> None:
    """What the array reads from and writes to the innermost level of each role."""
    gemm, innermost = case.setting.gemm, {role: holders[-1] for role, holders in case.setting.holders.items()}
    seen = {}
    for role, place in innermost.items():
        axes = dict(zip(ROLE_AXES[role], case.axes(role, place), strict=True))
        seen[role] = [axes[0], axes[1], axes[2]]
    counts = array.accesses(case.setting, case.choice.dataflow, case.choice.array_axis, seen)
    traffic.reads(innermost["activations"], counts.a_reads * gemm.a_bits / 8)
    traffic.reads(innermost["weights"], counts.w_reads * gemm.w_bits / 8)
    traffic.reads(innermost["psums"], counts.psum_reads * gemm.acc_bits / 8)
    traffic.writes(innermost["psums"], counts.psum_writes * gemm.acc_bits / 8)


class _Tail(NamedTuple):
    """What must follow: after the array's last operand, after the last load of a tile (a step of the array on `tile`), and of all stores
    from a stage outwards."""

    case: _Case
    drain_s: Seconds
    tile: Extents
    stores_s: Seconds

    def step_s(self) -> Seconds:
        """Only levels that do not feed the array ask for it."""
        setting, choice = self.case.setting, self.case.choice
        return array.step_cycles(setting, choice.dataflow, choice.array_axis, self.tile) / setting.clock_hz


def _times(case: _Case, loads: list[list[Link]], stores: list[Link], traffic: _Traffic) -> tuple[dict[str, Term], Seconds]:
    """A term per resource, and the bound from single buffers."""
    setting, choice = case.setting, case.choice
    clock_hz = setting.clock_hz
    used = case.used
    last = case.last_tiles[-1]
    drain_s = array.drain_cycles(setting, choice.dataflow) / clock_hz
    stores_s = _sum(link.one_s for link in stores)
    own, shared = _Tail(case, drain_s, last, stores_s), _Tail(case, drain_s, (1, 1, 1), 0.0)
    ready_s = _ready(loads)
    array_s = used.cycles / clock_hz
    extra_s = used.extra_cycles / clock_hz + stores_s
    terms = {"matrix": Term(ready_s, array_s, extra_s, (Port(array_s, extra_s),))}
    for place in setting.places:
        tail = shared if case.several and setting.shared(place) else own
        terms[place.level.name] = _level_term(setting, place, loads, stores, ready_s, tail, traffic)
    extra_s = array.tile_extra_cycles(setting, choice.dataflow, choice.array_axis, last) / clock_hz
    return terms, _alternation(loads, stores, ready_s, array_s, extra_s, own)


def _sum(times: Iterable[Seconds]) -> Seconds:
    total: Seconds = 0.0
    for time in times:
        total = total + time
    return total


def _started(links: list[Link], index: int) -> Seconds:
    """Earliest start of the first transfer of link `index`."""
    return _sum(link.latency_s + link.one_s for link in links[:index]) + links[index].latency_s


def _ready(loads: list[list[Link]]) -> Seconds:
    """Earliest first step: each operand comes down its chain; what comes from DRAM crosses its port one after the other, and the last to do
    so has the rest of its chain to go. An operand that lies where the array reads it has no chain."""
    coming = [links for links in loads if links]
    if not coming:
        return 0.0
    chains = [_started(links, len(links) - 1) + links[-1].one_s for links in coming]
    ready = chains[0] if len(chains) == 1 else larger(*chains)
    if len(coming) < 2 or any(links[0].outer.stage >= 0 for links in coming):
        return ready
    crossing = _sum(links[0].outer_s for links in coming) + coming[0][0].latency_s
    rests = [chain - links[0].latency_s - links[0].one_s for chain, links in zip(chains, coming, strict=True)]
    return larger(ready, crossing + smaller(*rests))


def _level_term(
    setting: Setting, place: Place, loads: list[list[Link]], stores: list[Link], ready_s: Seconds, tail: _Tail, traffic: _Traffic
) -> Term:
    read_s = traffic.read[place.level.name] / place.read_bytes_per_s
    write_s = traffic.written[place.level.name] / place.write_bytes_per_s
    if place.stage < 0:
        prefix_s: Seconds = place.level.latency_s
        after_read_s: Seconds = 0.0
        after_write_s: Seconds = 0.0
    else:
        starts = [_started(links, i) for links in loads for i, link in enumerate(links) if link.inner is place]
        starts += [_started(links, 0) for links in loads if links and links[0].outer is place]  # an operand lies there from the start
        prefix_s = ready_s if not starts else starts[0] if len(starts) == 1 else smaller(*starts)
        after_read_s, after_write_s = _after(setting, place, stores, tail)
    only_operands = place.stage >= 0 and all(link.inner is not place for link in stores)
    late_read_s, late_write_s = (tail.stores_s,) * 2 if only_operands else (after_read_s, after_write_s)
    if place.level.bandwidth.shared:
        return Term(prefix_s, read_s + write_s, after_read_s, (Port(read_s + write_s, late_read_s),))
    busy_s = larger(read_s, write_s)
    suffix_s = larger(read_s + after_read_s, write_s + after_write_s) - busy_s
    return Term(prefix_s, busy_s, suffix_s, (Port(read_s, late_read_s), Port(write_s, late_write_s)))


def _after(setting: Setting, place: Place, stores: list[Link], tail: _Tail) -> tuple[Seconds, Seconds]:
    """What must follow the last read and the last write of an on-chip level."""
    for index, link in enumerate(stores):
        if link.inner is place:
            outwards_s = _sum(further.one_s for further in stores[:index])
            return link.one_s - link.inner_s + outwards_s, link.one_s + outwards_s
    feeds_array = any(holders[-1] is place for holders in setting.holders.values())
    after_write_s = tail.step_s() + tail.stores_s
    return tail.drain_s + tail.stores_s if feeds_array else after_write_s, after_write_s


def _alternation(loads: list[list[Link]], stores: list[Link], ready_s: Seconds, array_s: Seconds, extra_s: Seconds, tail: _Tail) -> Seconds:
    """Transfers and uses of a tile with a single buffer, one after another."""
    bound: Seconds = 0.0
    for links in loads:
        for index, link in enumerate(links):
            if link.inner.level.double_buffered:
                continue
            uses_s, after_s = (array_s, extra_s) if index == len(links) - 1 else (links[index + 1].all_s, tail.step_s())
            bound = larger(bound, _started(links, index) + link.all_s + uses_s + after_s + tail.stores_s)
    for index, link in enumerate(stores):
        if link.inner.level.double_buffered:
            continue
        uses_s = array_s + extra_s if index == len(stores) - 1 else stores[index + 1].all_s
        bound = larger(bound, ready_s + link.all_s + uses_s + _sum(further.one_s for further in stores[:index]))
    return bound


def cost_of(setting: Setting, choice: Choice, costs: Costs | None = None) -> GemmCost:
    """The whole cost of one mapping, or of as many as choice and setting hold; `costs` are its, if they are known already."""
    costs = costs or evaluate(setting, choice)
    latency, alternation = costs.own_s, costs.alternation_s
    bound_by, _ = slowest({name: term.prefix_s + term.busy_s + term.suffix_s for name, term in costs.terms.items()})
    dram, cycles = setting.chip.dram.name, costs.array_cycles
    unit = setting.chip.matrix
    peak_macs = setting.cores * unit.count * unit.rows * unit.cols * setting.rate * cycles
    return GemmCost(
        latency_s=plain(latency),
        bound_by=chosen(alternation < latency, bound_by, "alternation"),
        busy_s={name: plain(term.busy_s) for name, term in costs.terms.items()},
        prefix_s={name: plain(term.prefix_s) for name, term in costs.terms.items()},
        suffix_s={name: plain(term.suffix_s) for name, term in costs.terms.items()},
        ports={name: tuple(Port(*map(plain, port)) for port in term.ports) for name, term in costs.terms.items()},
        alternation_s=plain(alternation),
        dram_read_bytes=plain_count(costs.read_bytes[dram]),
        dram_written_bytes=plain_count(costs.written_bytes[dram]),
        read_bytes={name: plain(size) for name, size in costs.read_bytes.items()},
        written_bytes={name: plain(size) for name, size in costs.written_bytes.items()},
        moved_bytes=plain(costs.moved_bytes),
        issued_macs=nearest_count(array.issued_macs(setting, choice.dataflow, choice.array_axis, costs.every)),
        array_cycles=plain_count(cycles),
        utilisation=setting.gemm.macs / peak_macs,
        tile_steps=plain_count(costs.steps),
    )
