"""The search for the mapping of one attention, and what its tilings take at least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from heapq import heappop, heappush
from itertools import count, product
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from functional.formats import is_integer
from hwmodels.chip import Chip, Role
from hwmodels.formulas.roofline import transfer_s
from hwmodels.formulas.systolic import ceil_div
from sim.attention_mapping import Attention, AttentionMapping
from sim.mapper.attention_cost import (
    ALL_IN_DRAM,
    AttentionCost,
    Counts,
    InDram,
    Part,
    QueryCuts,
    cost_of_use,
    ends_s,
    least_level_s,
    moves_of,
    packed,
    product_cycles,
    query_cuts,
    rates_of,
    rescale_cycles,
    rescaled_rows,
    use_of,
)
from sim.mapper.attention_room import fit
from sim.mapper.candidates import inner_sizes, is_round, outer_sizes
from sim.mapping import innermost

_Of = TypeVar("_Of", "Attention", "AttentionMapping")

_HELD: tuple[Role, Role] = ("activations", "psums")
"""Roles of the tiles that an attention holds."""


def map_attention(
    attention: Attention,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram = ALL_IN_DRAM,
    part: Part = "all",
    score_bytes: tuple[float, float] = (0, 0),
    whole_rows: bool = False,
) -> tuple[AttentionMapping, AttentionCost]:
    """The mapping of least latency (then DRAM traffic, then whole rows before online, then larger tiles) among tiles of whole array passes
    and the whole length; `whole_rows`: of those that keep whole rows of scores on the chip, if any fits. Raises `BadInput` if not one query
    tile fits.
    """
    return best_attention(_Question(attention, tuple(counts.items()), in_dram, part, score_bytes, id(chip), chip, whole_rows))


@dataclass(frozen=True, slots=True)
class _Question(Generic[_Of]):
    """An attention or a tiling, and what its price depends on, on the very same chip: held, so that its identity stays its own; and whether
    whole rows of scores are kept on the chip if they fit."""

    of: _Of
    counts: tuple[tuple[str, Any], ...]
    in_dram: InDram
    part: Part
    score_bytes: tuple[float, float]
    chip_identity: int
    chip: Chip = field(compare=False)
    whole_rows: bool = False


@lru_cache(maxsize=64)
def best_attention(question: _Question[Attention]) -> tuple[AttentionMapping, AttentionCost]:
    """The answer, remembered: layers ask alike."""
    modes, level = attention_modes(question.of), innermost(question.chip, "activations")
    for some in [modes[:1], modes] if question.whole_rows else [modes]:
        best = _best_of(question, some)
        if best is not None:
            return best
    raise BadInput(Problem("not one query with one key fits", f"raise memory.{level.name}.capacity", path=f"memory.{level.name}.capacity"))


def _best_of(question: _Question[Attention], modes: Sequence[tuple[bool, bool]]) -> tuple[AttentionMapping, AttentionCost] | None:
    """Of some ways the best mapping, if any fits."""
    asked = question.chip, dict(question.counts), question.in_dram, question.part, question.score_bytes
    best: tuple[Any, AttentionMapping, AttentionCost] | None = None
    for least_s, each in _least_first(question, modes):
        if best is not None and least_s > best[0][0]:
            break
        for mapping, cost in _priced(each.mapping, *asked) if each else ():
            rank = rank_of(mapping, cost)
            if best is None or rank < best[0]:
                best = rank, mapping, cost
    return None if best is None else best[1:]


def rank_of(mapping: AttentionMapping, cost: AttentionCost) -> tuple[Any, ...]:
    """By which mappings are ordered, the best first, but for dataflows; of many chips with arrays."""
    moved_bytes, (pairs, queries) = cost.dram_read_bytes + cost.dram_written_bytes, mapping.split
    tiles = -mapping.q_tile, -mapping.kv_tile, -mapping.score_buffers
    return cost.latency_s, moved_bytes, mapping.online, *tiles, -pairs * queries, pairs


def attention_modes(attention: Attention) -> list[tuple[bool, bool]]:
    """(fused, online) that are weighed against each other: whole rows that just fit may leave room for tiles so small that the other ways
    take less time, and a longer context, which leaves only these, would be faster."""
    online = [] if is_integer(attention.compute) else [(True, True)]
    return [(True, False), *online, (False, False)]


def _share_tiles(chip: Chip) -> bool:
    """Whether several cores hold tiles in one level."""
    return int(chip.cores) > 1 and any(innermost(chip, role).per == "chip" for role in _HELD)


def attention_candidates(
    mapping: AttentionMapping,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram,
    part: Part,
    score_bytes: tuple[float, float],
    below_s: float,
    least_s_of: Callable[[TilingBounds], NDArray[np.float64]],
) -> list[tuple[AttentionMapping, AttentionCost]]:
    """All mappings of the kind of a known one (fused or not, online or not) whose tiled latency is below a time, least first, but those of
    tilings of which `least_s_of` some with one query tile [key tiles] says that they are not below it in another sense."""
    found: list[tuple[AttentionMapping, AttentionCost]] = []
    question = _Question(mapping.attention, tuple(counts.items()), in_dram, part, score_bytes, id(chip), chip)
    promising: dict[int, list[bool]] = {}
    for least_s, each in _least_first(question, [(mapping.fused, mapping.online)]):
        if least_s >= below_s:
            break
        if each is None:
            continue
        if id(each.among) not in promising:
            promising[id(each.among)] = (least_s_of(each.among) * (1 - 1e-9) < below_s).tolist()
        if promising[id(each.among)][each.place]:
            found += _priced(each.mapping, chip, counts, in_dram, part, score_bytes)
    best = sorted(found, key=lambda pair: rank_of(*pair))
    return [pair for pair in best if pair[1].latency_s < below_s]


def _priced(
    tiling: AttentionMapping, chip: Chip, counts: Mapping[str, Any], in_dram: InDram, part: Part, score_bytes: tuple[float, float]
) -> tuple[tuple[AttentionMapping, AttentionCost], ...]:
    """The mappings of a tiling with their costs; they move the same tiles."""
    return _answer(_Question(tiling, tuple(counts.items()), in_dram, part, score_bytes, id(chip), chip))


@lru_cache(maxsize=256)
def _answer(asked: _Question[AttentionMapping]) -> tuple[tuple[AttentionMapping, AttentionCost], ...]:
    """Remembered: whoever plays mappings asks for those again that were looked at to choose one."""
    tiling, chip, part = asked.of, asked.chip, asked.part
    moves, counts = moves_of(tiling, chip, part), dict(asked.counts)
    return tuple(
        (mapping, cost_of_use(mapping, chip, counts, asked.in_dram, part, asked.score_bytes, use_of(mapping, chip, part, moves)))
        for mapping in flows_of(tiling, chip)
    )


class TilingBounds(NamedTuple):
    """Tilings with one split and query tile and some key tiles, and what they at least ask of the most loaded core [key tiles]: cycles of
    the array under each dataflow [flows, key tiles], of the busiest level on the chip and of the vector unit, bytes that DRAM reads and
    writes, and seconds."""

    first: AttentionMapping
    kv_tiles: Counts
    array_cycles: Counts
    level_cycles: NDArray[np.float64]
    vector_cycles: NDArray[np.float64]
    read_bytes: Any
    written_bytes: Any
    least_s: NDArray[np.float64]


class _Bounded(NamedTuple):
    """A tiling among others, and seconds that it does not go below."""

    least_s: float
    among: TilingBounds
    place: int

    @property
    def mapping(self) -> AttentionMapping:
        """With the first dataflow."""
        return replace(self.among.first, kv_tile=int(self.among.kv_tiles[self.place]))


class _Split(NamedTuple):
    """All tilings of one kind with one split, and seconds that they do not go below."""

    least_s: float
    question: _Question[Attention]
    fused: bool
    online: bool
    split: tuple[int, int]

    def parts(self) -> Sequence[_Tilings]:
        return _tilings_of_split(self.question, self.fused, self.online, self.split)


@dataclass(frozen=True, eq=False)
class _Tilings:
    """Tilings with one split and query tile and some key tiles: what they at least ask for but for levels on the chip, seconds that they do
    not go below, and cycles of the array under each dataflow [flows, key tiles]."""

    question: _Question[Attention]
    first: AttentionMapping
    kv_tiles: Counts
    cycles: Counts
    least: Least

    @property
    def least_s(self) -> float:
        return float(self.least.seconds.min()) * (1 - 1e-12)

    def parts(self) -> Sequence[_Bounded]:
        return self.bounded

    @cached_property
    def bounded(self) -> list[_Bounded]:
        """Each by itself, with levels on the chip."""
        asked, (vector_cycles, read_bytes, written_bytes, seconds) = self.question, self.least
        level_s = least_level_s(self.first, self.kv_tiles, asked.chip, asked.in_dram, asked.part) * (1 - 1e-12)
        seconds, level_cycles = np.maximum(seconds * (1 - 1e-12), level_s), level_s * float(asked.chip.clock_hz)
        among = TilingBounds(self.first, self.kv_tiles, self.cycles, level_cycles, vector_cycles, read_bytes, written_bytes, seconds)
        return [_Bounded(each_s, among, i) for i, each_s in enumerate(seconds.tolist())]


def _least_first(question: _Question[Attention], modes: Sequence[tuple[bool, bool]]) -> Iterator[tuple[float, _Bounded | None]]:
    """Tilings in the order of what no dataflow goes below. Splits are cut into query tiles, and these into key tiles, only when it is their
    turn: before that, seconds that nothing goes below which is still to come."""
    turns, splits = count(), _splits(question.of, question.chip)
    waiting: list[tuple[float, int, _Split | _Tilings | _Bounded]] = []
    for mode, split in product(modes, splits):
        heappush(waiting, (least_s := _split_s(question, *mode, split), next(turns), _Split(least_s, question, *mode, split)))
    while waiting:
        least_s, _, first = heappop(waiting)
        if isinstance(first, _Bounded):
            yield least_s, first
            continue
        yield least_s, None
        for each in first.parts():
            heappush(waiting, (each.least_s, next(turns), each))


def _split_s(question: _Question[Attention], fused: bool, online: bool, split: tuple[int, int]) -> float:
    """Seconds that no tiling with a split goes below: the core with most scores that some query sees has no fewer than the mean, and scores
    that leave the chip pass DRAM."""
    attention, chip = question.of, question.chip
    of_score = _CyclesPerScore.of(attention, chip, dict(question.counts), question.part)
    of_pair = attention.rows_per_query * float(attention.mask.visible_pairs(attention.q_len, attention.kv_len))
    scores = int(ceil_div(attention.pairs, split[0])) * of_pair / split[1]
    seconds = scores * float(max(of_score.array, of_score.vector) / chip.clock_hz)
    if question.part == "all" and not fused:
        passed = attention.pairs * of_pair * attention.act_bits / 8
        dram_s = transfer_s(4 * passed, 3 * passed, *rates_of(chip, chip.dram), chip.dram.bandwidth.shared)
        seconds = max(seconds, float(dram_s))
    return seconds * (1 - 1e-12)


@lru_cache(maxsize=256)
def _tilings_of_split(question: _Question[Attention], fused: bool, online: bool, split: tuple[int, int]) -> list[_Tilings]:
    """With one place for scores only where two do not fit, for they cost no more."""
    attention, chip = question.of, question.chip
    asked = dict(question.counts), question.in_dram, question.part, question.score_bytes
    tilings = list(_fitting(attention, chip, fused, online, question.part, split))
    if not tilings:
        return []
    longest = max((kv_tiles for _, kv_tiles in tilings), key=len)  # with all others in it: what fits one beside fits a smaller one
    firsts = {first.q_tile: first for first, _ in tilings}
    every = dict(zip(firsts, _array_cycles(list(firsts.values()), longest, chip, question.part), strict=True))
    with_two = {first.q_tile: fine for first, fine in tilings if first.score_buffers == 2}
    found = []
    for first, fine in tilings:
        of_all = every[first.q_tile]
        kv_tiles = fine if first.score_buffers == 2 else fine[~np.isin(fine, with_two.get(first.q_tile, ()))]
        if not len(kv_tiles):
            continue
        cycles = of_all if len(kv_tiles) == len(longest) else of_all[:, np.isin(longest, kv_tiles)]
        found.append(_Tilings(question, first, kv_tiles, cycles, least(first, kv_tiles, chip, *asked, cycles.min(axis=0))))
    return found


def tilings_of(attention: Attention, chip: Chip, fused: bool, online: bool, part: Part) -> Iterator[tuple[AttentionMapping, Counts]]:
    """Splits, query tiles and places for scores (two where a core has more than one use for them) with the first dataflow, each with the
    key tiles that fit beside; only those for which there are some."""
    for split in _splits(attention, chip):
        yield from _fitting(attention, chip, fused, online, part, split)


def _fitting(
    attention: Attention, chip: Chip, fused: bool, online: bool, part: Part, split: tuple[int, int]
) -> Iterator[tuple[AttentionMapping, Counts]]:
    """The same with one split."""
    unit = chip.matrix
    rows, keys = (unit.rows, unit.cols) if unit.kind == "systolic" else (unit.tile[0], unit.tile[1])
    dataflow = unit.dataflows[0] if unit.kind == "systolic" else ""
    buffers = 2 if innermost(chip, "activations").double_buffered else 1
    keys, kv_len = int(keys), attention.kv_len
    kv_sizes = inner_sizes((keys,), kv_len) if attention.q_len <= _FEW_QUERIES else outer_sizes((keys,), kv_len, 1)
    kv_tiles = _sizes(kv_len, kv_sizes)
    positions = int(ceil_div(attention.q_len, split[1]))
    granule = int(max(1, rows // attention.rows_per_query))
    q_sizes = outer_sizes((granule,), positions, 1)
    if attention.q_len > _FEW_QUERIES:
        q_sizes = q_sizes[(q_sizes >= granule) | np.isin(q_sizes, [1, *outer_sizes((granule,), positions, 2)])]
    for q_tile in _sizes(positions, q_sizes).tolist():
        one = AttentionMapping(attention, q_tile, attention.kv_len, fused, online, buffers, split, dataflow, "m")
        is_more = online or q_tile < positions or attention.pairs > split[0]
        for mapping in [replace(one, score_buffers=2), one] if part == "all" and fused and is_more else [one]:
            fine = kv_tiles[fit(mapping, kv_tiles, chip)]
            if len(fine):
                yield mapping, fine


class _CyclesPerScore(NamedTuple):
    """What the array of a core takes at its peak rate for a score and its value, or for one of them, and its vector unit."""

    array: Any
    vector: Any

    @classmethod
    def of(cls, attention: Attention, chip: Chip, counts: Mapping[str, Any], part: Part) -> Self:
        unit, products = chip.matrix, 2 if part == "all" else 1
        peak_macs = unit.count * float(unit.rates[attention.compute]) * (unit.rows * unit.cols if unit.kind == "systolic" else 1)
        visible = attention.batch * attention.heads * float(attention.mask.visible_pairs(attention.q_len, attention.kv_len))
        lane_cycles = sum(float(often) / visible * chip.vector.cycles[name] for name, often in counts.items())
        return cls(products * attention.head_dim / peak_macs, lane_cycles / chip.vector.lanes)


class Least(NamedTuple):
    """What tilings at least ask, whatever the dataflow [key tiles]: cycles of the most loaded core's vector unit, bytes that DRAM reads and
    writes (key tiles without whole bursts), and seconds."""

    vector_cycles: NDArray[np.float64]
    read_bytes: Any
    written_bytes: Any
    seconds: NDArray[np.float64]


def least(
    mapping: AttentionMapping,
    kv_tiles: Counts,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram,
    part: Part,
    score_bytes: tuple[float, float],
    array_cycles: Any = 0,
) -> Least:
    """Below what each of some key tiles takes, whatever the dataflow: products at the peak rate or in what is known of their
    `array_cycles`, key tiles without whole bursts, and levels on the chip left out. With one key tile the chips may be many."""
    attention, clock_hz, dram = mapping.attention, chip.clock_hz, chip.dram
    cuts, sizes = query_cuts(attention, mapping.split[1], mapping.q_tile), kv_tiles[:, None]
    keys = np.minimum(-(-cuts.last // sizes) * sizes, attention.kv_len) - cuts.first // sizes * sizes
    rows = cuts.queries * attention.rows_per_query
    begins = np.flatnonzero(np.diff(cuts.part, prepend=-1))
    computed = np.add.reduceat(keys * rows, begins, axis=1)
    key_elements = np.where(kv_tiles < attention.kv_len, keys.sum(axis=1), len(begins) * attention.kv_len) * attention.head_dim
    side_bytes = attention.pairs * float(packed(chip, rows * attention.head_dim * attention.act_bits / 8).sum())
    products = 2 if part == "all" else 1
    read = attention.pairs * products * key_elements * (attention.kv_bits / 8) * in_dram.keys + score_bytes[0]
    read = read + side_bytes * (part != "context") * in_dram.queries
    written = side_bytes * (part != "scores") * in_dram.output + score_bytes[1]
    latency_s = np.where(read > 0, dram.latency_s, 0.0)
    if part == "all" and not mapping.fused:
        passes = attention.pairs * computed.sum(axis=1) * attention.act_bits / 8
        maxima = attention.batch * attention.heads * attention.q_len * attention.act_bits / 8
        read, written = read + 4 * passes + maxima, written + 3 * passes + maxima
    pairs = int(ceil_div(attention.pairs, mapping.split[0]))
    worst = pairs * computed.max(axis=1)
    of_score = _CyclesPerScore.of(attention, chip, counts, part)
    rescaled = rescaled_rows(mapping, rows, -(-cuts.last // sizes) - cuts.first // sizes)
    rescaled_most = pairs * np.add.reduceat(rescaled, begins, axis=1).max(axis=1)
    vector_cycles = worst * of_score.vector + rescaled_most * (rescale_cycles(attention, chip) / chip.vector.lanes)
    cycles = np.maximum(worst * of_score.array, array_cycles)
    if part == "all":
        alone = cycles
        if mapping.score_buffers == 2:
            ends = core_ends(mapping, kv_tiles, cuts, begins, computed.argmax(axis=1))
            of_both = ends.first_rows * ends.first_tiles + ends.last_rows * ends.last_tiles
            alone = (of_both * ends.sizes).sum(axis=0) * (of_score.array / products)
        cycles = np.maximum(cycles, alone + vector_cycles)
    starts = cuts.first[begins] // sizes * sizes
    first_keys = np.minimum(kv_tiles, attention.kv_len - starts.max(axis=1))
    first_s, suffix_s = ends_s(mapping, int(rows[begins].min()), first_keys, chip, in_dram)
    busy_s = transfer_s(read, written, *rates_of(chip, dram), dram.bandwidth.shared)
    return Least(vector_cycles, read, written, latency_s + np.maximum(busy_s, first_s + cycles / clock_hz + suffix_s))


class CoreEnds(NamedTuple):
    """Of the query tiles of a core with each of some key tiles [key tiles]: rows of the first and of the last query tile, and keys of its
    first, or last, key tile; keys of a full key tile and of the smaller one at the end, and how many of each give the scores that softmax
    waits for at first, and those that it is done with last [2, key tiles]."""

    first_rows: Counts
    last_rows: Counts
    first_keys: Counts
    last_keys: Counts
    sizes: Counts
    first_tiles: Counts
    last_tiles: Counts


def core_ends(mapping: AttentionMapping, kv_tiles: Counts, cuts: QueryCuts, begins: Counts, part: Counts) -> CoreEnds:
    """Of query tiles that are cut in parts from `begins` on, those of one `part` with each of the key tiles [key tiles]."""
    kv_len, each = mapping.attention.kv_len, np.arange(len(kv_tiles))
    head, tail = begins[part], np.append(begins[1:], len(cuts.queries))[part] - 1
    sizes = np.array([kv_tiles, np.maximum(kv_len % kv_tiles, 1)])
    begin, end = cuts.first // kv_tiles[:, None], -(-cuts.last // kv_tiles[:, None])
    at_edge = end * kv_tiles[:, None] > kv_len
    tiles = np.array([end - begin - at_edge, at_edge])
    heads, tails = tiles[:, each, head], tiles[:, each, tail]
    first, last = np.array([heads[0] > 0, heads[0] == 0]), np.array([tails[1] == 0, tails[1] > 0])
    keys = (first * sizes).sum(axis=0), (last * sizes).sum(axis=0)
    rows = cuts.queries * mapping.attention.rows_per_query
    return CoreEnds(rows[head], rows[tail], *keys, sizes, *((first, last) if mapping.online else (heads, tails)))


def _array_cycles(firsts: Sequence[AttentionMapping], kv_tiles: Counts, chip: Chip, part: Part) -> Counts:
    """Cycles of the most loaded core's array under each dataflow with each of some key tiles, of tilings that differ in nothing but their
    query tile [tilings, flows, key tiles]."""
    attention, pieces = firsts[0].attention, firsts[0].split[1]
    every = [query_cuts(attention, pieces, each.q_tile) for each in firsts]
    cuts = QueryCuts(*map(np.concatenate, zip(*every, strict=True)))
    begins = np.cumsum([0, *(len(each.part) for each in every[:-1])])
    parts = np.union1d(begins, np.flatnonzero(np.diff(cuts.part, prepend=0)))
    sizes = kv_tiles[:, None]
    begin, end = cuts.first // sizes, -(-cuts.last // sizes)
    at_edge = end * sizes > attention.kv_len
    rows, side = cuts.queries * attention.rows_per_query, attention.head_dim
    keys = np.concatenate([sizes, np.maximum(attention.kv_len % sizes, 1)])
    found = []
    for flow in flows_of(firsts[0], chip):
        whole, edge = np.split(_both_cycles(flow, chip, part, rows, keys, side), 2)
        cycles = np.add.reduceat((end - begin - at_edge) * whole + at_edge * edge, parts, axis=1)
        found.append(np.maximum.reduceat(cycles, np.searchsorted(parts, begins), axis=1))
    of_flows: Counts = int(ceil_div(attention.pairs, firsts[0].split[0])) * np.moveaxis(np.array(found), 2, 0)
    return of_flows


def _both_cycles(mapping: AttentionMapping, chip: Chip, part: Part, rows: Counts, keys: Counts, side: int) -> Any:
    """Of the product that gives scores and the one with the values, those that there are."""
    cycles: Any = 0
    if part != "context":
        cycles = cycles + product_cycles(mapping, chip, rows, keys, side)
    if part != "scores":
        cycles = cycles + product_cycles(mapping, chip, rows, side, keys)
    return cycles


def flows_of(mapping: AttentionMapping, chip: Chip) -> Iterator[AttentionMapping]:
    """A tiling with every dataflow and array axis of the chip."""
    unit = chip.matrix
    for dataflow in unit.dataflows if unit.kind == "systolic" else ("",):
        yield replace(mapping, dataflow=dataflow)
        if unit.kind == "systolic" and unit.count > 1:
            yield replace(mapping, dataflow=dataflow, array_axis="n")


_FEW_QUERIES = 64
"""Of which more tiles are tried: of many, each costs time."""

_ALL_PARTS_UP_TO = 16


def _splits(attention: Attention, chip: Chip) -> list[tuple[int, int]]:
    """Cores over pairs first, the rest, or fewer of it, over query tiles; or all, or fewer, over query tiles. Keys that several cores read
    may cost more than these gain, and more cores only add to the splits, but for some over fewer pairs at a time. Those are hardly better
    (1.1 % for one of 284 random attentions, whose edges fitted) unless cores share a level that holds their tiles: each takes room there,
    and all splits are tried."""
    cores = int(chip.cores)
    over_pairs = min(cores, attention.pairs)
    pairs = [1, over_pairs, *(_parts(attention.pairs, cores) if _share_tiles(chip) else [])]
    found = {(part, parts) for part in pairs for parts in _numbers_of_parts(attention.q_len, cores // part)}
    return sorted(found, key=lambda split: (-split[0] * split[1], split))


def _numbers_of_parts(length: int, most: int) -> list[int]:
    """Numbers of parts of query tiles, few of them all, of many those with three binary digits and then zeros: whichever a longer length
    would have a shorter one has, too."""
    return [parts for parts in range(1, min(length, most) + 1) if parts <= _ALL_PARTS_UP_TO or is_round(parts)]


def _parts(length: int, most: int) -> list[int]:
    """Numbers of parts of different lengths: of those that are as long the least."""
    return list({-(-length // parts): parts for parts in range(min(length, most), 0, -1)}.values())


def _sizes(length: int, some: Counts) -> Counts:
    """The whole length, and those of some sizes that are shorter; the largest first."""
    return np.append(some[some < length], length)[::-1]
