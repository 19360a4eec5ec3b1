"""The tiled cost of one attention, and the search for its mapping.

Everything follows from `sim.attention_mapping`: which tiles are fetched and computed, and when. Of all cores the most loaded one decides;
DRAM and levels that cores share serve them all. Tiles are held where the array reads them: in the innermost level that holds activations;
score and output tiles in the accumulator's format where psums are held.

**Latency.** A lower bound on every schedule of the mapping, as for a GEMM (`sim.mapper.cost`): max over units and levels of prefix + busy +
suffix. Before the array and the vector unit do anything, DRAM has answered and the first query and key tile have passed its port; after
them the last output tile is still to be written. DRAM itself waits for its first answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from functional.formats import is_integer
from hwmodels.chip import Chip, MemoryLevel, Role
from hwmodels.formulas import systolic, tensor_core
from hwmodels.formulas.elementwise import chosen, larger, plain, slowest, smaller
from hwmodels.formulas.roofline import transfer_s
from hwmodels.formulas.systolic import ceil_div, whole_cycles
from sim.attention_mapping import Attention, AttentionMapping
from sim.plan import resident_level

Part: TypeAlias = Literal["all", "scores", "context"]
"""Both products with the softmax between them, or one product by itself."""

Counts: TypeAlias = NDArray[np.int64]
_Of = TypeVar("_Of", "Attention", "AttentionMapping")


class InDram(NamedTuple):
    """Which sides of an attention lie in DRAM; the others stay on the chip."""

    queries: bool = True
    keys: bool = True
    output: bool = True


ALL_IN_DRAM = InDram()


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """Tiled cost of an attention; DRAM bytes, score elements computed and MACs issued are those of the whole chip. On many chips
    times and what binds are arrays."""

    latency_s: Any
    bound_by: Any
    busy_s: dict[str, Any]
    prefix_s: Any
    suffix_s: Any
    dram_read_bytes: float
    dram_written_bytes: float
    computed_scores: float
    issued_macs: float


class _Tiles(NamedTuple):
    """Query tiles of a pair: the part of the queries that each belongs to, its positions, the key tiles that it computes (full ones, the
    smaller one at the end) and their keys; the first key that it sees, and the end of those."""

    part: Counts
    queries: Counts
    full: Counts
    edge: Counts
    keys: Counts
    first: Counts
    last: Counts


class _Use(NamedTuple):
    """What pairs ask of a core: array cycles, MACs issued, in all and by its first matrix unit, operand bytes read, elements, and bytes of
    tiles fetched and stored."""

    cycles: Any
    issued_macs: Any
    unit_macs: Any
    operand_bytes: Any
    psum_reads: Any
    psum_writes: Any
    computed_scores: Any
    query_bytes: Any
    key_bytes: Any
    output_bytes: Any


def attention_cost(
    mapping: AttentionMapping,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram = ALL_IN_DRAM,
    part: Part = "all",
    score_bytes: tuple[float, float] = (0, 0),
) -> AttentionCost:
    """Cost of one mapping. `counts` are the vector primitives of the unmasked scores; `score_bytes` (read, written) pass DRAM besides."""
    return cost_of_use(mapping, chip, counts, in_dram, part, score_bytes, use_of(mapping, chip, part, moves_of(mapping, chip, part)))


def cost_of_use(
    mapping: AttentionMapping,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram,
    part: Part,
    score_bytes: tuple[float, float],
    use: _Use,
) -> AttentionCost:
    """Cost of what one pair asks for, part by part."""
    attention = mapping.attention
    pairs = int(ceil_div(attention.pairs, mapping.split[0]))
    columns = np.array(use)
    worst = _Use(*(pairs * most for most in columns.max(axis=1).tolist()))
    whole = _Use(*(attention.pairs * total for total in columns.sum(axis=1).tolist()))

    key_bytes = _once_per_pair(mapping, chip, part) if mapping.keys_shared else whole.key_bytes
    read = whole.query_bytes * in_dram.queries + key_bytes * in_dram.keys + score_bytes[0]
    written = whole.output_bytes * in_dram.output + score_bytes[1]
    if part == "all" and not mapping.fused:
        passes = whole.computed_scores * attention.act_bits / 8
        maxima = attention.batch * attention.heads * attention.q_len * attention.act_bits / 8
        read, written = read + 4 * passes + maxima, written + 3 * passes + maxima
    visible = attention.batch * attention.heads * float(attention.mask.visible_pairs(attention.q_len, attention.kv_len))
    busy = _busy(mapping, chip, worst, whole, (read, written), {name: float(count) / visible for name, count in counts.items()})
    return _bounded(mapping, chip, busy, in_dram, whole, read, written)


def _bounded(
    mapping: AttentionMapping, chip: Chip, busy: dict[str, Any], in_dram: InDram, whole: _Use, read: float, written: float
) -> AttentionCost:
    dram = chip.dram
    latency_s = dram.latency_s if read > 0 else 0.0
    first_s, suffix_s = _ends_s(mapping, min(mapping.kv_tile, mapping.attention.kv_len), chip, in_dram)
    ends = {name: (latency_s, 0.0) if name == dram.name else (latency_s + first_s, suffix_s) for name in busy}
    bound_by, most_s = slowest({name: chosen(busy[name] > 0, ends[name][0] + busy[name] + ends[name][1], 0.0) for name in busy})
    prefix, suffix = (chosen(bound_by == dram.name, ends[dram.name][i], ends["matrix"][i]) for i in range(2))
    return AttentionCost(most_s, bound_by, busy, prefix, suffix, read, written, whole.computed_scores, whole.issued_macs)


def _ends_s(mapping: AttentionMapping, keys: Any, chip: Chip, in_dram: InDram) -> tuple[Any, Any]:
    """Seconds in which the first query tile and the first key tile, of `keys`, pass DRAM's port, and the last output tile does."""
    attention = mapping.attention
    tile_bytes = mapping.q_tile * attention.rows_per_query * attention.head_dim * attention.act_bits / 8
    key_bytes = keys * attention.head_dim * attention.kv_bits / 8
    first_s = (tile_bytes * in_dram.queries + key_bytes * in_dram.keys) / chip.read_bytes_per_s(chip.dram)
    last_rows = (attention.q_len - 1) % mapping.q_tile + 1
    last_bytes = last_rows * attention.rows_per_query * attention.head_dim * attention.act_bits / 8
    return first_s, last_bytes * in_dram.output / chip.write_bytes_per_s(chip.dram) if mapping.split == (1, 1) else 0.0


def _busy(
    mapping: AttentionMapping, chip: Chip, worst: _Use, whole: _Use, dram_bytes: tuple[float, float], per_score: Mapping[str, float]
) -> dict[str, Any]:
    """Seconds that each unit and level works."""
    attention = mapping.attention
    clock = chip.clock_hz
    lane_cycles = sum(each * chip.vector.cycles[name] for name, each in per_score.items()) * worst.computed_scores
    busy = {
        "matrix": worst.cycles / clock,
        "vector": whole_cycles(lane_cycles / chip.vector.lanes) / clock,
        chip.dram.name: transfer_s(*dram_bytes, *_rates(chip, chip.dram), chip.dram.bandwidth.shared),
    }
    passes = _score_passes_bytes(attention, worst, bool(per_score))
    for level in chip.memory[1:]:
        use = whole if level.per == "chip" else worst
        read, written = _level_bytes(chip, level, attention, use, passes)
        rates = level.bandwidth.read_bytes_per_s(chip.clock_hz), level.bandwidth.write_bytes_per_s(chip.clock_hz)
        busy[level.name] = transfer_s(read, written, *rates, level.bandwidth.shared)
    return {name: plain(seconds) for name, seconds in busy.items()}


def _score_passes_bytes(attention: Attention, use: _Use, has_softmax: bool) -> float:
    """Bytes of scores that the softmax reads, and as many that it writes, in its three passes."""
    return 3 * use.computed_scores * attention.act_bits / 8 if has_softmax else 0.0


def _level_bytes(chip: Chip, level: MemoryLevel, attention: Attention, use: _Use, passes_bytes: float) -> tuple[Any, Any]:
    """Bytes read from and written to an on-chip level."""
    read: Any = 0.0
    written: Any = 0.0
    if level is innermost(chip, "activations"):
        read = use.operand_bytes + use.output_bytes + passes_bytes
        written = use.query_bytes + use.key_bytes + use.output_bytes + passes_bytes
    elif "activations" in level.holds:
        read, written = use.query_bytes + use.key_bytes, use.output_bytes
    if level is innermost(chip, "psums"):
        read += use.psum_reads * attention.acc_bits / 8
        written += use.psum_writes * attention.acc_bits / 8
    return read, written


def moved_bytes(mapping: AttentionMapping, chip: Chip, cost: AttentionCost, part: Part, has_softmax: bool) -> dict[str, float]:
    """Bytes that a mapping reads from and writes to each level, over the whole chip."""
    use = use_of(mapping, chip, part, moves_of(mapping, chip, part))
    whole = _Use(*(mapping.attention.pairs * float(np.sum(column)) for column in use))
    passes = _score_passes_bytes(mapping.attention, whole, has_softmax)
    inner = {level.name: float(sum(_level_bytes(chip, level, mapping.attention, whole, passes))) for level in chip.memory[1:]}
    return {chip.dram.name: float(cost.dram_read_bytes + cost.dram_written_bytes), **inner}


class InnermostUse(NamedTuple):
    """What an attention asks of the level next to the array that holds activations: bytes read of it, by the array and by output tiles that
    leave, and written to it by tiles that arrive and by finished outputs, over the whole chip; bytes that one instance of it, and of the
    level that holds sums, has to hold; the MACs that the busiest core and the busiest matrix unit issue, and how many cores issue any."""

    level: str
    read_bytes: float
    written_bytes: float
    room_bytes: dict[str, float]
    busiest_macs: float
    busiest_unit_macs: float
    busy_cores: int


def innermost_use(mapping: AttentionMapping, chip: Chip) -> InnermostUse:
    """Both products with the softmax between them; scores that softmax passes over, and sums, are left out of the traffic."""
    attention, use = mapping.attention, use_of(mapping, chip, "all", moves_of(mapping, chip, "all"))
    columns = use.operand_bytes, use.query_bytes, use.key_bytes, use.output_bytes
    read, queries, keys, outputs = (attention.pairs * float(np.sum(each)) for each in columns)
    operands, sums = innermost(chip, "activations"), innermost(chip, "psums")
    tiles = _query_tiles(mapping)
    rows = tiles.queries * attention.rows_per_query
    widths = np.where(tiles.full > 0, mapping.kv_tile, attention.kv_len % mapping.kv_tile)
    kept_bits = float(np.max(rows * tiles.keys)) * attention.act_bits if mapping.fused and not mapping.online else 0.0
    copies = 2 * (mapping.buffers if operands.double_buffered else 1)
    room = dict.fromkeys((operands.name, sums.name), 0.0)
    room[operands.name] += float(np.max(rows)) * attention.head_dim * attention.act_bits + kept_bits
    room[operands.name] += copies * float(np.max(widths)) * attention.head_dim * attention.kv_bits
    room[sums.name] += float(np.max(rows)) * attention.head_dim * attention.acc_bits
    if mapping.online:
        room[sums.name] += float(np.max(rows * widths)) * attention.acc_bits
    pairs = int(ceil_div(attention.pairs, mapping.split[0]))
    return InnermostUse(
        level=operands.name,
        read_bytes=read + outputs,
        written_bytes=queries + keys + outputs,
        room_bytes={name: bits / 8 for name, bits in room.items()},
        busiest_macs=pairs * float(np.max(use.issued_macs)),
        busiest_unit_macs=pairs * float(np.max(use.unit_macs)),
        busy_cores=int(ceil_div(attention.pairs, pairs)) * len(use.issued_macs),
    )


def _rates(chip: Chip, level: MemoryLevel) -> tuple[Any, Any]:
    return chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)


def innermost(chip: Chip, role: Role) -> MemoryLevel:
    """The level next to the array that holds a role."""
    return next(level for level in reversed(chip.memory) if role in level.holds)


class QueryCuts(NamedTuple):
    """Query tiles of a pair, whatever the key tiles: the part of the queries that each belongs to, its positions, the first key that it
    sees, and the end of those."""

    part: Counts
    queries: Counts
    first: Counts
    last: Counts


def query_cuts(attention: Attention, parts: int, q_tile: int) -> QueryCuts:
    """Query tiles of so many positions in so many parts of a pair."""
    size = int(ceil_div(attention.q_len, parts))
    cuts = [np.arange(first, min(first + size, attention.q_len), q_tile) for first in range(0, attention.q_len, size)]
    part = np.repeat(np.arange(len(cuts)), [len(cut) for cut in cuts])
    starts = np.concatenate(cuts)
    stops = np.minimum(starts + q_tile, np.minimum((part + 1) * size, attention.q_len))
    oldest = 0 * starts if attention.window is None else np.maximum(starts + attention.mask_offset - attention.window + 1, 0)
    newest = np.minimum(np.maximum(stops + attention.mask_offset, oldest), attention.kv_len)
    return QueryCuts(part, stops - starts, oldest, newest)


def _query_tiles(mapping: AttentionMapping) -> _Tiles:
    attention, kv_tile = mapping.attention, mapping.kv_tile
    part, queries, oldest, newest = query_cuts(attention, mapping.split[1], mapping.q_tile)
    begin, end = oldest // kv_tile, -(-newest // kv_tile)
    edge = (end * kv_tile > attention.kv_len).astype(np.int64)
    keys = np.minimum(end * kv_tile, attention.kv_len) - begin * kv_tile
    return _Tiles(part, queries, end - begin - edge, edge, keys, oldest, newest)


class _Moves(NamedTuple):
    """What one pair asks apart from its products, which alone depend on the dataflow: score elements and bytes, for each part of the query
    positions."""

    tiles: _Tiles
    computed_scores: NDArray[np.float64]
    query_bytes: NDArray[np.float64]
    key_bytes: NDArray[np.float64]
    output_bytes: NDArray[np.float64]


def moves_of(mapping: AttentionMapping, chip: Chip, part: Part) -> _Moves:
    """What a pair asks whatever the dataflow."""
    attention, tiles = mapping.attention, _query_tiles(mapping)
    rows = tiles.queries * attention.rows_per_query
    side_bytes = _packed(chip, rows * attention.head_dim * attention.act_bits / 8)
    key_bytes = (2 if part == "all" else 1) * _key_bytes(mapping, chip, tiles)
    columns = (rows * tiles.keys, side_bytes * (part != "context"), key_bytes, side_bytes * (part != "scores"))
    computed, queries, keys, output = (np.bincount(tiles.part, weights=column).astype(np.float64) for column in columns)
    return _Moves(tiles, computed, queries, keys, output)


def use_of(mapping: AttentionMapping, chip: Chip, part: Part, moves: _Moves) -> _Use:
    """What one pair asks, for each part of the query positions. Query tiles have few lengths: each product is worked out once."""
    attention, tiles = mapping.attention, moves.tiles
    products = np.zeros((6, len(moves.computed_scores)))
    edge_keys = attention.kv_len % mapping.kv_tile
    for queries in set(tiles.queries.tolist()):
        rows, alike = queries * attention.rows_per_query, tiles.queries == queries
        for number, keys in ((tiles.full, mapping.kv_tile), (tiles.edge, edge_keys)):
            often = np.bincount(tiles.part, weights=number * alike)
            if not keys or not often.any():
                continue
            if part != "context":
                products += often * _product(mapping, chip, rows, keys, attention.head_dim)
            if part != "scores":
                products += often * _product(mapping, chip, rows, attention.head_dim, keys)
    cycles, issued, by_unit, operands, psum_reads, psum_writes = products
    return _Use(cycles, issued, by_unit, operands, psum_reads, psum_writes, *moves[1:])


def _key_bytes(mapping: AttentionMapping, chip: Chip, tiles: _Tiles) -> NDArray[np.float64]:
    """Bytes of key tiles that each query tile fetches (value tiles are as many): once per part if one tile holds them all."""
    attention = mapping.attention
    element_bytes = attention.head_dim * attention.kv_bits / 8
    if mapping.kv_tile >= attention.kv_len:
        (whole,) = _packed(chip, np.array([attention.kv_len * element_bytes]))
        return np.where(np.diff(tiles.part, prepend=-1) > 0, whole, 0.0)
    full, edge = _packed(chip, np.array([mapping.kv_tile * element_bytes, attention.kv_len % mapping.kv_tile * element_bytes]))
    fetched: NDArray[np.float64] = tiles.full * full + tiles.edge * edge
    return fetched


def _once_per_pair(mapping: AttentionMapping, chip: Chip, part: Part) -> float:
    """Bytes of all key and value tiles that any query tile sees, each once."""
    attention, tiles = mapping.attention, _query_tiles(mapping)
    ends = np.minimum(-(-(tiles.last) // mapping.kv_tile) * mapping.kv_tile, attention.kv_len)
    starts = tiles.first // mapping.kv_tile * mapping.kv_tile
    keys = np.arange(int(starts.min()), int(ends.max()), mapping.kv_tile)
    sizes = np.minimum(keys + mapping.kv_tile, attention.kv_len) - keys
    tile_bytes = _packed(chip, sizes * attention.head_dim * attention.kv_bits / 8)
    return float(attention.pairs * (2 if part == "all" else 1) * tile_bytes.sum())


def _packed(chip: Chip, sizes_bytes: NDArray[Any]) -> NDArray[np.float64]:
    """Bytes of tiles that lie on bursts of their own."""
    packed: NDArray[np.float64] = np.ceil(sizes_bytes / chip.dram.burst_bytes) * chip.dram.burst_bytes
    return packed


def _product(mapping: AttentionMapping, chip: Chip, m: int, n: int, k: int) -> NDArray[np.float64]:
    """Of a product m x n x k: array cycles, MACs issued, in all and by the first unit, operand bytes read, partial sums read and written; a
    column."""
    unit, attention = chip.matrix, mapping.attention
    rate = float(unit.rates[attention.compute])
    a_bytes, b_bytes = attention.act_bits / 8, attention.kv_bits / 8
    cycles = _product_cycles(mapping, chip, m, n, k)
    if unit.kind == "tensor_core":
        macs = tensor_core.issued_macs(unit.tile, m, n, k)
        return np.array([[cycles], [macs], [macs], [m * k * a_bytes + n * k * b_bytes], [0], [m * n]], dtype=float)
    total: NDArray[np.float64] = np.zeros((6, 1))
    shared = m if mapping.array_axis == "m" else n
    share = -(-shared // unit.count)
    streamed_axis = systolic.AXES[mapping.dataflow][2]
    pack = 1.0 if streamed_axis == "k" else max(rate, 1.0)
    # All units work on the largest share; the last of them may have less to do, but none has more.
    for size, units in ((share, shared // share), (shared % share, 1)):
        if size == 0:
            continue
        own_m, own_n = (size, n) if mapping.array_axis == "m" else (m, size)
        shape = (unit.rows, unit.cols, own_m, own_n, k, rate)
        accesses = systolic.sram_accesses(mapping.dataflow, *shape)
        streamed = {"m": own_m, "n": own_n, "k": k}[streamed_axis]
        issued = systolic.folds(mapping.dataflow, *shape) * unit.rows * unit.cols * pack * streamed
        operands = accesses.a_reads * a_bytes + accesses.w_reads * b_bytes
        total[1:, 0] += units * np.array([issued, 0, operands, accesses.psum_reads, accesses.psum_writes], dtype=float)
        total[2] = max(total[2, 0], issued)
    total[0] = cycles
    return total


def map_attention(
    attention: Attention,
    chip: Chip,
    counts: Mapping[str, Any],
    in_dram: InDram = ALL_IN_DRAM,
    part: Part = "all",
    score_bytes: tuple[float, float] = (0, 0),
) -> tuple[AttentionMapping, AttentionCost]:
    """The mapping of least latency (then DRAM traffic, then larger tiles) among tiles of whole array passes, equal cuts, the whole length.

    Three passes over whole rows where they fit; else online, for floats; else unfused. Raises `BadInput` if not one query tile fits.
    """
    return best_attention(_Question(attention, tuple(counts.items()), in_dram, part, score_bytes, id(chip), chip))


@dataclass(frozen=True, slots=True)
class _Question(Generic[_Of]):
    """An attention or a tiling, and what its price depends on, on the very same chip: held, so that its identity stays its own."""

    of: _Of
    counts: tuple[tuple[str, Any], ...]
    in_dram: InDram
    part: Part
    score_bytes: tuple[float, float]
    chip_identity: int
    chip: Chip = field(compare=False)


@lru_cache(maxsize=64)
def best_attention(question: _Question[Attention]) -> tuple[AttentionMapping, AttentionCost]:
    """The answer, remembered: layers ask alike."""
    attention, chip, counts = question.of, question.chip, dict(question.counts)
    asked = question.in_dram, question.part, question.score_bytes
    for fused, is_online in attention_modes(attention):
        best: tuple[Any, AttentionMapping, AttentionCost] | None = None
        for each in _least_first(question, fused, is_online):
            if best is not None and each.least_s > best[0][0]:
                break
            for mapping, cost in _priced(each.mapping, chip, counts, *asked):
                rank = (cost.latency_s, cost.dram_read_bytes + cost.dram_written_bytes, -mapping.q_tile, -mapping.kv_tile)
                if best is None or rank < best[0]:
                    best = rank, mapping, cost
        if best is not None:
            return best[1], best[2]
    level = innermost(chip, "activations")
    raise BadInput(Problem("not one query with one key fits", f"raise memory.{level.name}.capacity", path=f"memory.{level.name}.capacity"))


def attention_modes(attention: Attention) -> list[tuple[bool, bool]]:
    """(fused, online): the first for which anything fits is taken."""
    online = [] if is_integer(attention.compute) else [(True, True)]
    return [(True, False), *online, (False, False)]


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
    kind = mapping.fused, mapping.online
    promising: dict[int, list[bool]] = {}
    for each in _least_first(question, *kind):
        if each.least_s >= below_s:
            break
        if id(each.among) not in promising:
            promising[id(each.among)] = (least_s_of(each.among) * (1 - 1e-9) < below_s).tolist()
        if promising[id(each.among)][each.place]:
            found += _priced(each.mapping, chip, counts, in_dram, part, score_bytes)
    best = sorted(found, key=lambda pair: (pair[1].latency_s, pair[1].dram_read_bytes + pair[1].dram_written_bytes, -pair[0].q_tile))
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
    the array under each dataflow [flows, key tiles] and of the vector unit, bytes that DRAM reads and writes, and seconds."""

    first: AttentionMapping
    kv_tiles: Counts
    array_cycles: Counts
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


@lru_cache(maxsize=64)
def _least_first(question: _Question[Attention], fused: bool, online: bool) -> list[_Bounded]:
    """Tilings in the order of what no dataflow goes below."""
    attention, chip = question.of, question.chip
    asked = dict(question.counts), question.in_dram, question.part, question.score_bytes
    bounded = []
    for _, alike in groupby(tilings_of(attention, chip, fused, online), key=lambda each: each[0].split):
        tilings = list(alike)
        longest = max((kv_tiles for _, kv_tiles in tilings), key=len)  # with all others in it: what fits one beside fits a smaller one
        every = _array_cycles([first for first, _ in tilings], longest, chip, question.part)
        for (first, kv_tiles), of_all in zip(tilings, every, strict=True):
            cycles = of_all if len(kv_tiles) == len(longest) else of_all[:, np.isin(longest, kv_tiles)]
            vector_cycles, read_bytes, written_bytes, seconds = least(first, kv_tiles, chip, *asked, cycles.min(axis=0))
            among = TilingBounds(first, kv_tiles, cycles, vector_cycles, read_bytes, written_bytes, seconds * (1 - 1e-12))
            bounded += [_Bounded(each_s, among, i) for i, each_s in enumerate(among.least_s.tolist())]
    return sorted(bounded, key=lambda each: each.least_s)


def tilings_of(attention: Attention, chip: Chip, fused: bool, online: bool) -> Iterator[tuple[AttentionMapping, Counts]]:
    """Splits and query tiles with the first dataflow, each with the key tiles that fit beside; only those for which there are some."""
    unit = chip.matrix
    rows, keys = (unit.rows, unit.cols) if unit.kind == "systolic" else (unit.tile[0], unit.tile[1])
    dataflow = unit.dataflows[0] if unit.kind == "systolic" else ""
    buffers = 2 if innermost(chip, "activations").double_buffered else 1
    kv_tiles = np.array(_sizes(attention.kv_len, keys))
    for split in _splits(attention, int(chip.cores)):
        positions = int(ceil_div(attention.q_len, split[1]))
        for q_tile in _sizes(positions, max(1, rows // attention.rows_per_query)):
            mapping = AttentionMapping(attention, q_tile, attention.kv_len, fused, online, buffers, split, dataflow, "m")
            fine = kv_tiles[fit(mapping, kv_tiles, chip)]
            if len(fine):
                yield mapping, fine


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
    attention, unit, clock_hz, dram = mapping.attention, chip.matrix, chip.clock_hz, chip.dram
    cuts, sizes = query_cuts(attention, mapping.split[1], mapping.q_tile), kv_tiles[:, None]
    keys = np.minimum(-(-cuts.last // sizes) * sizes, attention.kv_len) - cuts.first // sizes * sizes
    rows = cuts.queries * attention.rows_per_query
    begins = np.flatnonzero(np.diff(cuts.part, prepend=-1))
    computed = np.add.reduceat(keys * rows, begins, axis=1)
    key_elements = np.where(kv_tiles < attention.kv_len, keys.sum(axis=1), len(begins) * attention.kv_len) * attention.head_dim
    side_bytes = attention.pairs * float(_packed(chip, rows * attention.head_dim * attention.act_bits / 8).sum())
    products = 2 if part == "all" else 1
    read = attention.pairs * products * key_elements * (attention.kv_bits / 8) * in_dram.keys + score_bytes[0]
    read = read + side_bytes * (part != "context") * in_dram.queries
    written = side_bytes * (part != "scores") * in_dram.output + score_bytes[1]
    if part == "all" and not mapping.fused:
        passes = attention.pairs * computed.sum(axis=1) * attention.act_bits / 8
        maxima = attention.batch * attention.heads * attention.q_len * attention.act_bits / 8
        read, written = read + 4 * passes + maxima, written + 3 * passes + maxima
    worst = int(ceil_div(attention.pairs, mapping.split[0])) * computed.max(axis=1)
    peak_macs = unit.count * float(unit.rates[attention.compute]) * (unit.rows * unit.cols if unit.kind == "systolic" else 1)
    visible = attention.batch * attention.heads * float(attention.mask.visible_pairs(attention.q_len, attention.kv_len))
    lane_cycles = sum(float(count) / visible * chip.vector.cycles[name] for name, count in counts.items())
    vector_cycles = worst * (lane_cycles / chip.vector.lanes)
    cycles = np.maximum(worst * (products * attention.head_dim / peak_macs), vector_cycles)
    cycles = np.maximum(cycles, array_cycles)
    latency_s = np.where(read > 0, dram.latency_s, 0.0)
    first_s, suffix_s = _ends_s(mapping, np.minimum(kv_tiles, attention.kv_len), chip, in_dram)
    busy_s = transfer_s(read, written, *_rates(chip, dram), dram.bandwidth.shared)
    return Least(vector_cycles, read, written, latency_s + np.maximum(busy_s, first_s + cycles / clock_hz + suffix_s))


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
        cycles = cycles + _product_cycles(mapping, chip, rows, keys, side)
    if part != "scores":
        cycles = cycles + _product_cycles(mapping, chip, rows, side, keys)
    return cycles


def _product_cycles(mapping: AttentionMapping, chip: Chip, m: Any, n: Any, k: Any) -> Any:
    """Array cycles of a product, or of many: those of the largest share that one unit works on."""
    unit = chip.matrix
    rate = float(unit.rates[mapping.attention.compute])
    if unit.kind == "tensor_core":
        return tensor_core.tile_cycles(unit.tile, unit.count, rate, m, n, k)
    m, n = (-(-m // unit.count), n) if mapping.array_axis == "m" else (m, -(-n // unit.count))
    return systolic.tile_cycles(mapping.dataflow, unit.weight_preload, unit.rows, unit.cols, m, n, k, rate)


def flows_of(mapping: AttentionMapping, chip: Chip) -> Iterator[AttentionMapping]:
    """A tiling with every dataflow and array axis of the chip."""
    unit = chip.matrix
    for dataflow in unit.dataflows if unit.kind == "systolic" else ("",):
        yield replace(mapping, dataflow=dataflow)
        if unit.kind == "systolic" and unit.count > 1:
            yield replace(mapping, dataflow=dataflow, array_axis="n")


def _splits(attention: Attention, cores: int) -> list[tuple[int, int]]:
    """Cores over pairs first, the rest over query positions."""
    over_pairs = min(cores, attention.pairs)
    found = {(over_pairs, min(cores // over_pairs, attention.q_len)), (1, min(cores, attention.q_len)), (over_pairs, 1)}
    return sorted(found, key=lambda split: -split[0] * split[1])


def _sizes(length: int, granule: int) -> list[int]:
    """The whole length, and granules doubled until then."""
    sizes = {length}
    size = granule
    while size < length:
        sizes.add(size)
        size *= 2
    sizes.add(min(1, length))
    return sorted(sizes, reverse=True)


def fits(mapping: AttentionMapping, chip: Chip) -> bool:
    """Whether all that the mapping holds at a time fits the levels that hold it."""
    return bool(fit(mapping, mapping.kv_tile, chip))


def fit(mapping: AttentionMapping, kv_tiles: Any, chip: Chip) -> Any:
    """The same with key tiles of other sizes."""
    levels = {level.name: level for level in chip.memory}
    fine: Any = True
    for name, held in _held_bytes(mapping, kv_tiles, chip).items():
        share = 1 - chip.resident_share if levels[name] is resident_level(chip) else 1.0
        fine = fine & (held <= share * levels[name].capacity_bytes)
    return fine


def held_bytes(mapping: AttentionMapping, chip: Chip) -> dict[str, float]:
    """What a core holds at a time of each level that it holds anything in."""
    return _held_bytes(mapping, mapping.kv_tile, chip)


def _held_bytes(mapping: AttentionMapping, kv_tiles: Any, chip: Chip) -> dict[str, Any]:
    attention = mapping.attention
    rows = mapping.q_tile * attention.rows_per_query
    kv_tile = smaller(kv_tiles, attention.kv_len)
    kept_keys = attention.kv_len if mapping.fused and not mapping.online else kv_tile
    sums_wide = attention.head_dim + kv_tile if mapping.online else larger(attention.head_dim, kv_tile)
    operands, sums = innermost(chip, "activations"), innermost(chip, "psums")
    held_bits: dict[str, Any] = {operands.name: 0.0, sums.name: 0.0}
    held_bits[operands.name] = rows * (attention.head_dim + kept_keys) * attention.act_bits
    held_bits[operands.name] = held_bits[operands.name] + 2 * mapping.buffers * kv_tile * attention.head_dim * attention.kv_bits
    held_bits[sums.name] = held_bits[sums.name] + rows * sums_wide * attention.acc_bits
    return {name: bits / 8 for name, bits in held_bits.items()}
