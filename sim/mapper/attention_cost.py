"""The tiled cost of one attention.

Everything follows from `sim.attention_mapping`: which tiles are fetched and computed, and when. Of all cores the most loaded one decides;
DRAM and levels that cores share serve them all. Tiles are held where the array reads them: in the innermost level that holds activations;
score and output tiles in the accumulator's format where psums are held.

**Levels on the chip.** A tile passes each level that holds activations on its way, as a tile of a GEMM does: it is written there and read
again. What stays on the chip, and keys that cores share, lie in the outermost of these levels: they are not written there once more, nor
is an output that stays read there. The vector unit reads scores for their maxima and their exponentials, and these to normalise them, and
writes what it makes beside the tiles; online it reads sums of scores, and the output so far to rescale it, where sums are held, and writes
only the exponentials beside the tiles. The array adds to the sums of an output from its second key tile on, and reads them first. Maxima
and totals of rows stay in the vector unit, unless scores pass through DRAM op by op.

**Latency.** A lower bound on every schedule of the mapping, as for a GEMM (`sim.mapper.cost`): max over units and levels of prefix + busy +
suffix. Before the array and the vector unit do anything, DRAM has answered and the first query and key tile have passed its port; after
them the last output tile is still to be written. DRAM itself, and levels on the chip that tiles pass while they pass its port, wait for its
first answer. While a query tile has the only place for scores, array and vector unit work by turns: both take their time. With two places
the vector unit still has nothing to do before the first scores are complete, and the array is not done before the last of them are
multiplied by the values: of the core with most scores, in the part that these products have in its array cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip, MemoryLevel
from hwmodels.formulas import systolic, tensor_core
from hwmodels.formulas.elementwise import chosen, larger, plain, slowest
from hwmodels.formulas.roofline import ports_s, transfer_s
from hwmodels.formulas.systolic import ceil_div, whole_cycles
from sim.attention_mapping import Attention, AttentionMapping
from sim.mapping import innermost, levels_of

Part: TypeAlias = Literal["all", "scores", "context"]
"""Both products with the softmax between them, or one product by itself."""

Counts: TypeAlias = NDArray[np.int64]


class InDram(NamedTuple):
    """Which sides of an attention lie in DRAM; the others stay on the chip."""

    queries: bool = True
    keys: bool = True
    output: bool = True


ALL_IN_DRAM = InDram()


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """Tiled cost of an attention: busy times of units and levels, of levels on the chip those of each port; DRAM bytes, score elements
    computed and MACs issued are those of the whole chip. On many chips times and what binds are arrays."""

    latency_s: Any
    bound_by: Any
    busy_s: dict[str, Any]
    ports_s: dict[str, tuple[Any, ...]]
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
    """What pairs ask of a core: array cycles, MACs issued, in all and by its first matrix unit, operand bytes read, sums read and written,
    rows that are rescaled online, as often as they are, score elements and rows, bytes of tiles fetched and stored, array cycles of the
    scores that softmax waits for at first and of the values for those that it is done with last, and the rows of the first query tile and
    the keys of its first key tile."""

    cycles: Any
    issued_macs: Any
    unit_macs: Any
    operand_bytes: Any
    psum_reads: Any
    psum_writes: Any
    rescaled_rows: Any
    computed_scores: Any
    rows: Any
    query_bytes: Any
    key_bytes: Any
    output_bytes: Any
    first_cycles: Any
    last_cycles: Any
    first_rows: Any
    first_keys: Any


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
    whole = _whole_chip(mapping, use)

    key_bytes = _once_per_pair(mapping, chip, part) if mapping.keys_shared else whole.key_bytes
    read = whole.query_bytes * in_dram.queries + key_bytes * in_dram.keys + score_bytes[0]
    written, waits = whole.output_bytes * in_dram.output + score_bytes[1], read > 0  # not for scores that pass DRAM later
    if part == "all" and not mapping.fused:
        loaded, stored = _spilled_bytes(attention, whole)
        read, written = read + loaded, written + stored
    visible = attention.batch * attention.heads * float(attention.mask.visible_pairs(attention.q_len, attention.kv_len))
    uses = [(level, whole if level.per == "chip" else worst) for level in chip.memory[1:]]
    levels = {level.name: _level_bytes(chip, level, mapping, asked, in_dram, part) for level, asked in uses}
    busy, ports = _busy(mapping, chip, worst, (read, written), levels, {name: float(count) / visible for name, count in counts.items()})
    first = min(use.first_rows.tolist()), min(use.first_keys.tolist())
    latency_s, bound_by = _bound(mapping, chip, busy, in_dram, waits, first)
    if part == "all":
        most = _Use(*columns[:, columns[_Use._fields.index("computed_scores")].argmax()].tolist())
        alone = 1.0 if mapping.score_buffers == 1 else (most.first_cycles + most.last_cycles) / (pairs * most.cycles)
        by_turns_s = _bound(mapping, chip, {"matrix": busy["matrix"] * alone + busy["vector"]}, in_dram, waits, first)[0]
        busier = chosen(busy["matrix"] >= busy["vector"], "matrix", "vector")
        latency_s, bound_by = larger(latency_s, by_turns_s), chosen(by_turns_s > latency_s, busier, bound_by)
    return AttentionCost(latency_s, bound_by, busy, ports, read, written, whole.computed_scores, whole.issued_macs)


def _bound(
    mapping: AttentionMapping, chip: Chip, busy: dict[str, Any], in_dram: InDram, is_read: bool, first: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Seconds that nothing goes below which keeps units and levels so long busy, and what binds; `first`: see `ends_s`."""
    latency_s = chip.dram.latency_s if is_read else 0.0
    first_s, suffix_s = ends_s(mapping, *first, chip, in_dram)
    moving = [level.name for level in chip.memory if "activations" in level.holds]  # while tiles pass DRAM's port, too
    ends = {name: (latency_s, 0.0) if name in moving else (latency_s + first_s, suffix_s) for name in busy}
    bound_by, most_s = slowest({name: chosen(busy[name] > 0, ends[name][0] + busy[name] + ends[name][1], 0.0) for name in busy})
    return most_s, bound_by


def ends_s(mapping: AttentionMapping, rows: Any, keys: Any, chip: Chip, in_dram: InDram) -> tuple[Any, Any]:
    """Seconds in which the first query tile, of so many rows, and the first key tile pass DRAM's port, and the last output tile does. Of
    several cores, whose first tiles may differ, the fewest rows and keys: any may be the most loaded. A window may begin in the smaller
    key tile at the end."""
    attention = mapping.attention
    tile_bytes = rows * attention.head_dim * attention.act_bits / 8
    key_bytes = keys * attention.head_dim * attention.kv_bits / 8
    first_s = (tile_bytes * in_dram.queries + key_bytes * in_dram.keys) / chip.read_bytes_per_s(chip.dram)
    last_rows = (attention.q_len - 1) % mapping.q_tile + 1
    last_bytes = last_rows * attention.rows_per_query * attention.head_dim * attention.act_bits / 8
    return first_s, last_bytes * in_dram.output / chip.write_bytes_per_s(chip.dram) if mapping.split == (1, 1) else 0.0


def _busy(
    mapping: AttentionMapping,
    chip: Chip,
    worst: _Use,
    dram_bytes: tuple[float, float],
    levels: Mapping[str, tuple[float, float]],
    per_score: Mapping[str, float],
) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Seconds that each unit and level works, and each port of levels on the chip, which read and write so many bytes."""
    clock = chip.clock_hz
    lane_cycles = sum(each * chip.vector.cycles[name] for name, each in per_score.items()) * worst.computed_scores
    lane_cycles = lane_cycles + rescale_cycles(mapping.attention, chip) * worst.rescaled_rows
    busy = {
        "matrix": worst.cycles / clock,
        "vector": whole_cycles(lane_cycles / chip.vector.lanes) / clock,
        chip.dram.name: transfer_s(*dram_bytes, *rates_of(chip, chip.dram), chip.dram.bandwidth.shared),
    }
    ports = dict[str, tuple[Any, ...]]()
    for level in chip.memory[1:]:
        read, written = levels[level.name]
        rates = level.bandwidth.read_bytes_per_s(chip.clock_hz), level.bandwidth.write_bytes_per_s(chip.clock_hz)
        ports[level.name] = tuple(map(plain, ports_s(read, written, *rates, level.bandwidth.shared)))
        busy[level.name] = transfer_s(read, written, *rates, level.bandwidth.shared)
    return {name: plain(seconds) for name, seconds in busy.items()}, ports


def _spilled_bytes(attention: Attention, use: _Use) -> tuple[float, float]:
    """Bytes (read, written) of what passes through DRAM between the ops of an unfused attention: scores are read for their maxima and for
    their exponentials, these to be normalised and what that gives for its product with the values; maxima once."""
    scores, maxima = use.computed_scores * attention.act_bits / 8, use.rows * attention.act_bits / 8
    return 4 * scores + maxima, 3 * scores + maxima


def _level_bytes(
    chip: Chip, level: MemoryLevel, mapping: AttentionMapping, use: _Use, in_dram: InDram, part: Part
) -> tuple[float, float]:
    """Bytes read from and written to an on-chip level."""
    attention, home = mapping.attention, levels_of(chip, "activations")[0]
    read = written = 0.0
    if "activations" in level.holds:
        from_dram, keys = ALL_IN_DRAM, use.key_bytes
        if level is home:
            from_dram, keys = in_dram, _once_per_pair(mapping, chip, part) if mapping.keys_shared else keys
        loaded, stored = _spilled_bytes(attention, use) if part == "all" and not mapping.fused else (0.0, 0.0)
        read = use.output_bytes * from_dram.output + stored
        written = use.query_bytes * from_dram.queries + keys * from_dram.keys + loaded + use.output_bytes
        if level is innermost(chip, "activations"):
            passes = use.computed_scores * attention.act_bits / 8 if part == "all" else 0.0
            read += use.operand_bytes + (0.0 if mapping.online else 3 * passes)
            written += passes if mapping.online else 3 * passes
        else:
            read, written = read + use.query_bytes + use.key_bytes + loaded, written + stored
    if level is innermost(chip, "psums"):
        read += use.psum_reads * attention.acc_bits / 8
        written += use.psum_writes * attention.acc_bits / 8
    return read, written


def _whole_chip(mapping: AttentionMapping, use: _Use) -> _Use:
    """What all pairs and parts of the query positions ask together."""
    return _Use(*(mapping.attention.pairs * float(np.sum(column)) for column in use))


def moved_bytes(mapping: AttentionMapping, chip: Chip, cost: AttentionCost, in_dram: InDram, part: Part) -> dict[str, float]:
    """Bytes that a mapping reads from and writes to each level, over the whole chip."""
    whole = _whole_chip(mapping, use_of(mapping, chip, part, moves_of(mapping, chip, part)))
    inner = {level.name: float(sum(_level_bytes(chip, level, mapping, whole, in_dram, part))) for level in chip.memory[1:]}
    return {chip.dram.name: float(cost.dram_read_bytes + cost.dram_written_bytes), **inner}


class AttentionUse(NamedTuple):
    """What an attention asks of a chip: bytes that each on-chip level reads and writes, over the whole chip; bytes that one instance of it
    has to hold; the MACs that the busiest core and the busiest matrix unit issue, and how many cores issue any; and how often the vector
    unit takes up scores, whole rows of a query tile or, online, those of a key tile."""

    read_bytes: dict[str, float]
    written_bytes: dict[str, float]
    room_bytes: dict[str, float]
    busiest_macs: float
    busiest_unit_macs: float
    busy_cores: int
    softmaxes: int


def attention_use(mapping: AttentionMapping, chip: Chip, in_dram: InDram = ALL_IN_DRAM) -> AttentionUse:
    """Both products with the softmax between them."""
    attention, use, tiles = mapping.attention, use_of(mapping, chip, "all", moves_of(mapping, chip, "all")), _query_tiles(mapping)
    whole, pairs = _whole_chip(mapping, use), int(ceil_div(attention.pairs, mapping.split[0]))
    moved = {level.name: _level_bytes(chip, level, mapping, whole, in_dram, "all") for level in chip.memory[1:]}
    return AttentionUse(
        read_bytes={name: read for name, (read, _) in moved.items()},
        written_bytes={name: written for name, (_, written) in moved.items()},
        room_bytes=_room_bytes(mapping, chip, tiles),
        busiest_macs=pairs * float(np.max(use.issued_macs)),
        busiest_unit_macs=pairs * float(np.max(use.unit_macs)),
        busy_cores=mapping.busy_cores,
        softmaxes=attention.pairs * (int(np.sum(tiles.full + tiles.edge)) if mapping.online else len(tiles.queries)),
    )


def _room_bytes(mapping: AttentionMapping, chip: Chip, tiles: _Tiles) -> dict[str, float]:
    """Bytes that one instance of each on-chip level has to hold."""
    attention, operands, sums = mapping.attention, innermost(chip, "activations"), innermost(chip, "psums")
    rows = tiles.queries * attention.rows_per_query
    widths = np.where(tiles.full > 0, mapping.kv_tile, attention.kv_len % mapping.kv_tile)
    parts = np.flatnonzero(np.diff(tiles.part, prepend=-1))

    def largest(elements: Counts, level: MemoryLevel) -> float:
        """Of the tiles of a core, or of all cores together if they share the level."""
        of_cores = np.maximum.reduceat(elements, parts)
        return float(of_cores.sum() * (mapping.busy_cores // len(parts)) if level.per == "chip" else of_cores.max())

    kept_keys = tiles.keys if mapping.fused and not mapping.online else widths
    kept_bits = largest(rows * kept_keys, operands) * attention.act_bits
    room = {level.name: 0.0 for level in chip.memory[1:]}
    room[operands.name] += mapping.score_buffers * (largest(rows, operands) * attention.head_dim * attention.act_bits + kept_bits)
    room[operands.name] += 2 * mapping.buffers * largest(widths, operands) * attention.head_dim * attention.kv_bits
    if mapping.online:
        room[sums.name] += largest(rows, sums) * attention.head_dim * attention.acc_bits
        room[sums.name] += mapping.score_buffers * largest(rows * widths, sums) * attention.acc_bits
    else:
        room[sums.name] += largest(rows * np.maximum(widths, attention.head_dim), sums) * attention.acc_bits
    return {name: bits / 8 for name, bits in room.items()}


def rates_of(chip: Chip, level: MemoryLevel) -> tuple[Any, Any]:
    """Bytes per second that a level reads and writes."""
    return chip.read_bytes_per_s(level), chip.write_bytes_per_s(level)


class QueryCuts(NamedTuple):
    """Query tiles of a pair, whatever the key tiles: the part of the queries that each belongs to, its positions, the first key that it
    sees, and the end of those."""

    part: Counts
    queries: Counts
    first: Counts
    last: Counts


def query_cuts(attention: Attention, parts: int, q_tile: int) -> QueryCuts:
    """Query tiles of so many positions, dealt to so many parts of a pair, part by part."""
    tiles = np.arange(0, attention.q_len, q_tile)
    part = np.arange(len(tiles)) % parts
    order = np.argsort(part, kind="stable")
    starts, part = tiles[order], part[order]
    stops = np.minimum(starts + q_tile, attention.q_len)
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
    """What one pair asks apart from its products, which alone depend on the dataflow: score elements, rows and bytes, for each part of the
    query positions."""

    tiles: _Tiles
    computed_scores: NDArray[np.float64]
    rows: NDArray[np.float64]
    query_bytes: NDArray[np.float64]
    key_bytes: NDArray[np.float64]
    output_bytes: NDArray[np.float64]
    first_rows: NDArray[np.float64]
    first_keys: NDArray[np.float64]


def moves_of(mapping: AttentionMapping, chip: Chip, part: Part) -> _Moves:
    """What a pair asks whatever the dataflow."""
    attention, tiles = mapping.attention, _query_tiles(mapping)
    rows = tiles.queries * attention.rows_per_query
    side_bytes = packed(chip, rows * attention.head_dim * attention.act_bits / 8)
    key_bytes = (2 if part == "all" else 1) * _key_bytes(mapping, chip, tiles)
    columns = (rows * tiles.keys, rows, side_bytes * (part != "context"), key_bytes, side_bytes * (part != "scores"))
    first, _ = _ends(tiles)
    heads = rows[first], np.where(tiles.full > 0, mapping.kv_tile, attention.kv_len % mapping.kv_tile)[first]
    sums = (np.bincount(tiles.part, weights=column) for column in columns)
    return _Moves(tiles, *(column.astype(np.float64) for column in (*sums, *heads)))


def _ends(tiles: _Tiles) -> tuple[Counts, Counts]:
    """Which query tiles are the first and the last of each part."""
    changes = np.flatnonzero(np.diff(tiles.part))
    return np.append(0, changes + 1), np.append(changes, len(tiles.part) - 1)


def use_of(mapping: AttentionMapping, chip: Chip, part: Part, moves: _Moves) -> _Use:
    """What one pair asks, for each part of the query positions. Query tiles have few lengths: each product is worked out once."""
    attention, tiles = mapping.attention, moves.tiles
    products = np.zeros((6, len(moves.computed_scores)))
    scored, weighed = np.zeros((2, 2, len(tiles.part)))  # cycles of each product with a full key tile and with the smaller one at the end
    edge_keys = attention.kv_len % mapping.kv_tile
    for queries in set(tiles.queries.tolist()):
        rows, alike = queries * attention.rows_per_query, tiles.queries == queries
        for size, (number, keys) in enumerate(((tiles.full, mapping.kv_tile), (tiles.edge, edge_keys))):
            often = np.bincount(tiles.part, weights=number * alike)
            if not keys or not often.any():
                continue
            if part != "context":
                product = _product(mapping, chip, rows, keys, attention.head_dim)
                products += often * product
                scored[size, alike] = product[0]
            if part != "scores":
                product = _product(mapping, chip, rows, attention.head_dim, keys)
                products += often * product
                weighed[size, alike] = product[0]
    cycles, issued, by_unit, operands, psum_reads, psum_writes = products
    rows = tiles.queries * attention.rows_per_query
    more = *_more_sums(mapping, part, rows, tiles.keys, tiles.full + tiles.edge), rescaled_rows(mapping, rows, tiles.full + tiles.edge)
    reads, writes, rescaled = (np.bincount(tiles.part, weights=column) for column in more)
    sums = psum_reads + reads, psum_writes + writes
    ends = _end_cycles(mapping, tiles, scored, weighed)
    return _Use(cycles, issued, by_unit, operands, *sums, rescaled, *moves[1:-2], *ends, *moves[-2:])


def _end_cycles(
    mapping: AttentionMapping, tiles: _Tiles, scored: NDArray[np.float64], weighed: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Array cycles of the first query tile's scores and of the last one's values in each part, online with their first and last key tile;
    of products with a full key tile and with the smaller one [2, query tiles]."""
    heads = tails = np.array([tiles.full, tiles.edge])
    if mapping.online:
        heads, tails = np.array([tiles.full > 0, tiles.full == 0]), np.array([tiles.edge == 0, tiles.edge > 0])
    first, last = _ends(tiles)
    return (heads * scored).sum(axis=0)[first], (tails * weighed).sum(axis=0)[last]


def _more_sums(mapping: AttentionMapping, part: Part, rows: Counts, keys: Counts, key_tiles: Counts) -> tuple[Counts, Counts]:
    """Sums (read, written) besides those of each product by itself, of query tiles with some rows, keys and key tiles: outputs that go on
    with each key tile but the first; online, besides, scores read for their maxima and exponentials, and the outputs to be rescaled."""
    continued = rows * mapping.attention.head_dim * (key_tiles - 1) * (part != "scores")
    rescaled = int(part == "all" and mapping.online)
    return (1 + rescaled) * continued + 2 * rescaled * rows * keys, rescaled * continued


def rescaled_rows(mapping: AttentionMapping, rows: Counts, key_tiles: Counts) -> Counts:
    """Rows of outputs that are rescaled, as often as they are: online, of query tiles with some rows and key tiles, with each key tile but
    the first."""
    return rows * (key_tiles - 1) * mapping.online


def rescale_cycles(attention: Attention, chip: Chip) -> Any:
    """Lane cycles of rescaling one row: its maximum against that of the new scores, the exponential of their difference, with which its
    total and its output are multiplied, and the total of the new scores added (Milakov and Gimelshein, arXiv 1805.02867, algorithm 3)."""
    cycles = chip.vector.cycles
    return 3 * cycles["add"] + cycles["exp"] + (1 + attention.head_dim) * cycles["mul"]


def least_level_s(mapping: AttentionMapping, kv_tiles: Counts, chip: Chip, in_dram: InDram, part: Part) -> NDArray[np.float64]:
    """Seconds that the busiest level on the chip at least works with each of some key tiles, whatever the dataflow [key tiles]: products
    read each operand and write each sum once, and tiles lie without whole bursts."""
    attention, cuts, sizes = mapping.attention, query_cuts(mapping.attention, mapping.split[1], mapping.q_tile), kv_tiles[:, None]
    begin, end = cuts.first // sizes, -(-cuts.last // sizes)
    rows, keys, tiles = cuts.queries * attention.rows_per_query, np.minimum(end * sizes, attention.kv_len) - begin * sizes, end - begin
    scored, weighed, side = part != "context", part != "scores", attention.head_dim
    begins = np.diff(cuts.part, prepend=-1) > 0
    act_bytes, kv_bytes = attention.act_bits / 8, attention.kv_bits / 8
    reads, writes = _more_sums(mapping, part, rows, keys, tiles)
    fetched = np.where(sizes < attention.kv_len, keys, attention.kv_len * begins)
    operands = (scored * rows * side * tiles + weighed * rows * keys) * act_bytes + (scored + weighed) * keys * side * kv_bytes
    known = {
        "operand_bytes": operands,
        "psum_reads": reads,
        "psum_writes": writes + scored * rows * keys + weighed * rows * side * tiles,
        "computed_scores": rows * keys,
        "rows": rows,
        "query_bytes": scored * rows * side * act_bytes,
        "key_bytes": (scored + weighed) * fetched * side * kv_bytes,
        "output_bytes": weighed * rows * side * act_bytes,
    }
    columns = [np.broadcast_to(each, keys.shape) for each in known.values()]
    of_parts = np.add.reduceat(np.array(columns), np.flatnonzero(begins), axis=2)
    others = dict.fromkeys(_Use._fields, 0)
    whole = _Use(**others | dict(zip(known, attention.pairs * of_parts.sum(axis=2), strict=True)))
    worst = _Use(**others | dict(zip(known, int(ceil_div(attention.pairs, mapping.split[0])) * of_parts.max(axis=2), strict=True)))
    seconds = np.zeros(len(kv_tiles))
    for level in chip.memory[1:]:
        moved = _level_bytes(chip, level, mapping, whole if level.per == "chip" else worst, in_dram, part)
        seconds = np.maximum(seconds, transfer_s(*moved, *rates_of(chip, level), level.bandwidth.shared))
    return seconds


def _key_bytes(mapping: AttentionMapping, chip: Chip, tiles: _Tiles) -> NDArray[np.float64]:
    """Bytes of key tiles that each query tile fetches (value tiles are as many): once per part if one tile holds them all."""
    attention = mapping.attention
    element_bytes = attention.head_dim * attention.kv_bits / 8
    if mapping.kv_tile >= attention.kv_len:
        (whole,) = packed(chip, np.array([attention.kv_len * element_bytes]))
        return np.where(np.diff(tiles.part, prepend=-1) > 0, whole, 0.0)
    full, edge = packed(chip, np.array([mapping.kv_tile * element_bytes, attention.kv_len % mapping.kv_tile * element_bytes]))
    fetched: NDArray[np.float64] = tiles.full * full + tiles.edge * edge
    return fetched


def _once_per_pair(mapping: AttentionMapping, chip: Chip, part: Part) -> float:
    """Bytes of all key and value tiles that any query tile sees, each once."""
    attention, tiles = mapping.attention, _query_tiles(mapping)
    ends = np.minimum(-(-(tiles.last) // mapping.kv_tile) * mapping.kv_tile, attention.kv_len)
    starts = tiles.first // mapping.kv_tile * mapping.kv_tile
    keys = np.arange(int(starts.min()), int(ends.max()), mapping.kv_tile)
    sizes = np.minimum(keys + mapping.kv_tile, attention.kv_len) - keys
    tile_bytes = packed(chip, sizes * attention.head_dim * attention.kv_bits / 8)
    return float(attention.pairs * (2 if part == "all" else 1) * tile_bytes.sum())


def packed(chip: Chip, sizes_bytes: NDArray[Any]) -> NDArray[np.float64]:
    """Bytes of tiles that lie on bursts of their own."""
    packed: NDArray[np.float64] = np.ceil(sizes_bytes / chip.dram.burst_bytes) * chip.dram.burst_bytes
    return packed


def _product(mapping: AttentionMapping, chip: Chip, m: int, n: int, k: int) -> NDArray[np.float64]:
    """Of a product m x n x k: array cycles, MACs issued, in all and by the first unit, operand bytes read, partial sums read and written; a
    column."""
    unit, attention = chip.matrix, mapping.attention
    rate = float(unit.rates[attention.compute])
    a_bytes, b_bytes = attention.act_bits / 8, attention.kv_bits / 8
    cycles = product_cycles(mapping, chip, m, n, k)
    if unit.kind == "tensor_core":
        macs = tensor_core.issued_macs(unit.tile, m, n, k)
        return np.array([[cycles], [macs], [macs], [m * k * a_bytes + n * k * b_bytes], [0], [m * n]], dtype=float)
    total: NDArray[np.float64] = np.zeros((6, 1))
    shared, (rows, cols, _) = m if mapping.array_axis == "m" else n, systolic.AXES[mapping.dataflow]
    of_fold = unit.rows if mapping.array_axis == rows else unit.cols if mapping.array_axis == cols else 1
    share = of_fold * -(-shared // (of_fold * unit.count))
    pack = max(rate, 1.0)
    # Each unit has as many whole folds, the last of them perhaps fewer.
    for size, units in ((share, shared // share), (shared % share, 1)):
        if size == 0:
            continue
        own_m, own_n = (size, n) if mapping.array_axis == "m" else (m, size)
        shape = (unit.rows, unit.cols, own_m, own_n, k, rate)
        accesses = systolic.sram_accesses(mapping.dataflow, *shape)
        streamed = systolic.stream_cycles(mapping.dataflow, own_m, own_n, k, pack)
        issued = systolic.folds(mapping.dataflow, *shape) * unit.rows * unit.cols * pack * streamed
        operands = accesses.a_reads * a_bytes + accesses.w_reads * b_bytes
        total[1:, 0] += units * np.array([issued, 0, operands, accesses.psum_reads, accesses.psum_writes], dtype=float)
        total[2] = max(total[2, 0], issued)
    total[0] = cycles
    return total


def product_cycles(mapping: AttentionMapping, chip: Chip, m: Any, n: Any, k: Any) -> Any:
    """Array cycles of a product, or of many: those of the largest share that one unit works on."""
    unit = chip.matrix
    rate = float(unit.rates[mapping.attention.compute])
    if unit.kind == "tensor_core":
        return tensor_core.tile_cycles(unit.tile, unit.count, rate, m, n, k)
    m, n = (-(-m // unit.count), n) if mapping.array_axis == "m" else (m, -(-n // unit.count))
    return systolic.tile_cycles(mapping.dataflow, unit.weight_preload, unit.rows, unit.cols, m, n, k, rate)
