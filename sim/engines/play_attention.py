"""Plays one mapped attention: pairs, query tiles and key tiles of the most loaded core, in the order of `sim.attention_mapping`.

Of a query tile: its queries come from DRAM into a place that an output has left; each key tile comes as soon as there is room for it and
gives scores; the vector unit works on all scores of the tile (online: on those of each key tile); each value tile gives a part of the
output; the output is written. Where scores have one place, the next ones wait until these are used. Where they have two, the array computes
the next ones of the core first and then takes the values for these: the vector unit works on one while the array fills or uses the other.
All units and ports serve in the order of these steps, in which the array leaves a place before it needs it again. Each product takes the
array for as many cycles as it does by itself, all by the same factor longer if another core, the one with most cycles, is charged; what is
charged to the levels on the chip is parted over the products in proportion to these cycles, and is taken with them; that of the vector unit
in proportion to the scores of each softmax, and DRAM's bytes over the transfers in proportion to their own: everything is exactly as busy
as charged. Scores that pass through DRAM do so op by op: each tile of them is written when it is complete, all are read for their maxima
and exponentials, the exponentials are written and read to be normalised, and each tile of probabilities that was written is read for its
product with the values. Times are cycles, not rounded; causes of stalls are those of `sim.engines.play_gemm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip
from hwmodels.formulas import systolic
from sim.attention_mapping import AttentionMapping, core_parts, key_tiles
from sim.engines.played import Played
from sim.engines.ports import Ports, Wait
from sim.engines.repeat import Books, State
from sim.intervals import CAUSES, Log
from sim.mapper.attention import CoreEnds, TilingBounds, core_ends, flows_of
from sim.mapper.attention_cost import AttentionCost, InDram, Part, product_cycles, query_cuts
from sim.mapping import Span


class AttentionOps(NamedTuple):
    """Which op of its group the scores are, and which one the product with the values; -1 for none."""

    scores: int = -1
    context: int = -1


class Row(NamedTuple):
    """A query tile: rows of the product and the lengths of the key tiles that it computes."""

    rows: int
    keys: list[int]


def rows_of(mapping: AttentionMapping) -> list[Row]:
    """Query tiles of a pair of the most loaded core."""
    attention = mapping.attention

    def cut(queries: list[Span]) -> list[Row]:
        tiles = [(tile, key_tiles(mapping, tile)) for tile in queries]
        return [Row((tile.stop - tile.start) * attention.rows_per_query, [keys.stop - keys.start for keys in all]) for tile, all in tiles]

    candidates = {queries[0]: queries for _, queries in core_parts(mapping)}
    return max(map(cut, candidates.values()), key=lambda rows: sum(row.rows * sum(row.keys) for row in rows))


def attention_steps(mapping: AttentionMapping, part: Part) -> int:
    """How many tiles of products a play of it takes."""
    tiles = sum(len(row.keys) for row in rows_of(mapping)) * (2 if part == "all" else 1)
    return tiles * -(-mapping.attention.pairs // mapping.split[0])


class _Scored(NamedTuple):
    """Scores in their place: their rows, the lengths of their key tiles, whether their query tile is the first of its pair, whether they
    are its last ones, and when they are complete."""

    rows: int
    lengths: list[int]
    is_first_row: bool
    is_last: bool
    ready: float


class _Unwritten(NamedTuple):
    """Bytes of an output that is still on the chip, and when it is complete."""

    own_bytes: float
    ready: float


class _Waits(NamedTuple):
    """Cycles of what waits for each other in both products and the softmax between them, of a core: of each summed up, drains of scores and
    of outputs, queries and outputs that pass DRAM; the first queries, the first scores, the last values and the last output."""

    products: Any
    softmax: Any
    scores: Any
    outputs: Any
    sides: Any
    first_queries: Any
    first_scores: Any
    last_values: Any
    last_output: Any

    def least(self, score_buffers: int, drain: Any) -> Any:
        """Cycles that come after the first keys; results leave the array a `drain` after the last operands."""
        by_turns = self.products + self.softmax + self.scores
        if score_buffers == 1:
            return by_turns + self.outputs + self.sides
        in_turn = self.first_scores + drain + self.softmax + self.last_values
        return self.first_queries + np.maximum(np.maximum(by_turns / 2, self.products), in_turn) + drain + self.last_output


class _EndCycles(NamedTuple):
    """Array cycles that some tilings at least take, under each dataflow [flows, key tiles]: of the scores that softmax waits for at first,
    of the last product, and of the last query tile's products with values (online: the last product)."""

    first_scores: NDArray[np.float64]
    last_product: NDArray[np.float64]
    last_values: NDArray[np.float64]


class _Bytes(NamedTuple):
    """DRAM bytes that the played core asks of each transfer: per row of a query tile, per key, per score; and how often a score is read and
    written."""

    query: float
    key: float
    output: float
    score: float
    reads: int
    writes: int

    @property
    def score_read(self) -> float:
        return self.score * self.reads

    @property
    def score_written(self) -> float:
        return self.score * self.writes


def _own_bytes(mapping: AttentionMapping, in_dram: InDram, part: Part) -> _Bytes:
    attention = mapping.attention
    side, key = attention.head_dim * attention.act_bits / 8, attention.head_dim * attention.kv_bits / 8
    reads, writes = (4, 3) if part == "all" and not mapping.fused else (int(part == "context"), int(part == "scores"))
    return _Bytes(
        side * (in_dram.queries and part != "context"),
        key * in_dram.keys,
        side * (in_dram.output and part != "scores"),
        attention.act_bits / 8,
        reads,
        writes,
    )


def _array_cycles(
    mapping: AttentionMapping, chip: Chip, rows: Sequence[Row], part: Part, all_cycles: float
) -> dict[str, dict[int, dict[int, float]]]:
    """Array cycles of the products with key tiles ("K") and with value tiles ("V"), those that there are, by rows and by keys: what each
    takes by itself, times what makes it `all_cycles` for all query tiles together."""
    lengths = dict[int, set[int]]()
    for row in rows:
        lengths.setdefault(row.rows, set()).update(row.keys)
    own = {
        tile: {m: {keys: float(_tile_cycles(tile, mapping, chip, m, keys)) for keys in each} for m, each in lengths.items()}
        for tile in {"all": "KV", "scores": "K", "context": "V"}[part]
    }
    more = all_cycles / sum(sum(map(of_rows[row.rows].__getitem__, row.keys)) for of_rows in own.values() for row in rows)
    return {
        tile: {m: {keys: more * cycles for keys, cycles in of_keys.items()} for m, of_keys in of_rows.items()}
        for tile, of_rows in own.items()
    }


def _tile_cycles(tile: str, mapping: AttentionMapping, chip: Chip, rows: Any, keys: Any) -> Any:
    """Array cycles of the product of rows with a key or a value tile, or of many."""
    side = mapping.attention.head_dim
    return product_cycles(mapping, chip, rows, *((keys, side) if tile == "K" else (side, keys)))


def _drain_cycles(mapping: AttentionMapping, chip: Chip) -> float:
    """Cycles from the last operand that enters the array until the last sum has left it."""
    unit = chip.matrix
    return float(systolic.drain_cycles(mapping.dataflow, unit.rows, unit.cols)) if unit.kind == "systolic" else 0.0


class _Attention:
    """One attention on its way through a chip."""

    def __init__(
        self,
        mapping: AttentionMapping,
        chip: Chip,
        cost: AttentionCost,
        busy_s: Mapping[str, float],
        in_dram: InDram,
        part: Part,
        log: Log | None,
        ops: AttentionOps,
    ) -> None:
        self.mapping, self.part, self.ports, self.log = mapping, part, Ports.of(chip), log
        self.op_of = {"K": ops.scores, "V": ops.context}
        self.rows = rows_of(mapping)
        self.pairs = -(-mapping.attention.pairs // mapping.split[0])
        self.dram = self.ports.of_level[chip.dram.name]
        self.bytes = _own_bytes(mapping, in_dram, part)
        self.keep_keys = mapping.kv_tile >= mapping.attention.kv_len
        products = 2 if part == "all" else 1
        scores = sum(row.rows * sum(row.keys) for row in self.rows)
        fetched = self.rows[0].keys if self.keep_keys else [keys for row in self.rows for keys in row.keys]
        tile_rows = sum(row.rows for row in self.rows)
        read = tile_rows * self.bytes.query + products * sum(fetched) * self.bytes.key + scores * self.bytes.score_read
        written = tile_rows * self.bytes.output + scores * self.bytes.score_written
        self.read = read
        # How many bytes of the chip stand for one of the played core.
        self.dram.read_share = cost.dram_read_bytes / (read * self.pairs) if read else 1.0
        self.dram.write_share = cost.dram_written_bytes / (written * self.pairs) if written else 1.0
        clock_hz, self.all_scores = float(chip.clock_hz), scores * self.pairs
        self.all_array = busy_s["matrix"] * clock_hz
        self.vector_cycles = busy_s["vector"] * clock_hz / self.all_scores  # per score
        self.array_cycles = _array_cycles(mapping, chip, self.rows, part, self.all_array / self.pairs)
        # Per array cycle: MACs that the chip issues, and cycles of each level.
        self.macs = cost.issued_macs / self.all_array
        self.level_cycles = [
            (port.reader, port.writer, busy_s[name] * clock_hz / self.all_array)
            for name, port in self.ports.of_level.items()
            if port is not self.dram and busy_s[name]
        ]
        self.drain = _drain_cycles(mapping, chip)
        self.waits = {cause: Wait() for cause in CAUSES}
        self.tail = self.ports.tail(chip)
        self.books = Books(self.ports, self.waits, self.tail)
        self.used: dict[str, list[float]] = {"K": [0.0] * mapping.buffers, "V": [0.0] * mapping.buffers}
        self.whole: dict[str, float] = {}
        # When queries have been used, when the last output has left, when anything was complete last.
        self.asked = self.away = self.last_end = 0.0
        self.scored: list[_Scored] = []
        self.unwritten: _Unwritten | None = None

    def least(self) -> float:
        """Cycles that the play does not go below.

        Of the whole attention: the first keys come, and then for one query tile after another its queries, scores, softmax and values
        (online: scores, softmax and values of one key tile after another), and its output leaves, all of which wait for each other if
        there is one place. With two, what has the same place waits for each other: one of the places sees at least half of all. All
        products follow one another, and so does all softmax, after the first scores and before the last values. And all reads of DRAM
        come before the last product with values, or with keys if there are no others.
        """
        dram, last = self.dram, self.rows[-1]
        longest = max([1.0, *(cycles for _, _, cycles in self.level_cycles)])
        from_dram, to_dram = dram.read_cycles_per_byte * dram.read_share, dram.write_cycles_per_byte * dram.write_share
        output = self.bytes.output * to_dram
        reads = self.read * self.pairs * from_dram
        last_product = longest * self.array_cycles["K" if self.part == "scores" else "V"][last.rows][last.keys[-1]]
        least = dram.latency + reads + last_product + last.rows * output + self.drain if reads else 0.0
        if self.part != "all":
            return least
        first, online = self.rows[0], self.mapping.online
        waits = _Waits(
            products=self.all_array * longest,
            softmax=self.all_scores * self.vector_cycles,
            scores=self.pairs * sum(len(each.keys) if online else 1 for each in self.rows) * self.drain,
            outputs=self.pairs * len(self.rows) * self.drain,
            sides=self.pairs * sum(each.rows for each in self.rows) * (self.bytes.query * from_dram + output),
            first_queries=first.rows * self.bytes.query * from_dram,
            first_scores=longest * sum(map(self.array_cycles["K"][first.rows].__getitem__, first.keys[:1] if online else first.keys)),
            last_values=last_product if online else longest * sum(map(self.array_cycles["V"][last.rows].__getitem__, last.keys)),
            last_output=last.rows * output,
        )
        keys = first.keys[0] * self.bytes.key * from_dram
        begin = dram.latency + keys if keys or self.bytes.query else 0.0
        return float(max(least, begin + waits.least(self.mapping.score_buffers, self.drain)))

    def _wait(self, cause: str, start: float, end: float) -> None:
        """The array waits."""
        if self.waits[cause].add(start, end) and self.log is not None:
            self.log.add("matrix", "stall", start, end, cause=cause)

    def _load(self, own_bytes: float, room: float, op: int) -> float:
        """From DRAM; 0 bytes lie on the chip already."""
        if not own_bytes:
            return room
        dram = self.dram
        start = dram.reader.earliest(max(room, dram.latency))
        end = dram.reader.issue(start, dram.reads(own_bytes))
        self.tail.mark()
        if self.log is not None:
            self.log.add(dram.name, "read", start, end, size_bytes=own_bytes * dram.read_share, role="activations", op=op)
        return end

    def _write(self, own_bytes: float, ready: float, op: int) -> float:
        if not own_bytes:
            return ready
        dram = self.dram
        start = dram.writer.earliest(ready)
        end = dram.writer.issue(start, dram.writes(own_bytes))
        if self.log is not None:
            self.log.add(dram.name, "write", start, end, size_bytes=own_bytes * dram.write_share, role="activations", op=op)
        return end

    def _products(
        self,
        tile: str,
        rows: int,
        lengths: Sequence[int],
        is_first_row: bool,
        queries: float,
        room: tuple[str, float],
        written: float = 0.0,
    ) -> float:
        """Key or value tiles of a query tile, one after the other: fetched, unless they stay, and multiplied by the array when they, the
        queries or the scores that were `written` to DRAM, and what `room` names are there and the levels are free. When the operands of the
        last are read. (The innermost loop.)"""
        matrix, log, op, used = self.ports.matrix, self.log, self.op_of[tile], self.used[tile]
        array_cycles, key_bytes, level_cycles = self.array_cycles[tile][rows], self.bytes.key, self.level_cycles
        fetches, came_first = is_first_row or not self.keep_keys, tile == "K"
        score_bytes = self.bytes.score if tile == "V" and self.bytes.reads else 0.0
        name, ready = room
        end = ready
        for keys in lengths:
            if fetches:
                self.whole[tile] = self._load(keys * key_bytes, used.pop(0), op)
                used.append(0.0)
            came = max(self.whole[tile], queries)
            if score_bytes:
                came = max(came, self._load(rows * keys * score_bytes, written, op))
            free = start = matrix.free
            cause = "dependency"
            if came_first and came > start:
                start, cause = came, "dram"
            if ready > start:
                start, cause = ready, name
            if came > start:
                start, cause = came, "dram"
            for reader, writer, _ in level_cycles:
                if reader.free > start:
                    start, cause = reader.free, "dependency"
                if writer.free > start:
                    start, cause = writer.free, "dependency"
            if start > free:
                self._wait(cause, free, start)
            taken = array_cycles[keys]
            end = worked = matrix.issue(start, taken)
            if log is not None:
                log.add("matrix", "compute", start, worked, macs=taken * self.macs, op=op)
            for reader, writer, cycles in level_cycles:
                done = reader.issue(start, cycles * taken)
                if writer is not reader:
                    writer.issue(start, cycles * taken)
                if log is not None:
                    log.add(reader.name, "move", start, done, op=op)
                if done > end:
                    end = done
            if end > worked:
                matrix.free = end
                self._wait("dependency", worked, end)
            used[-1] = end
        return end

    def _softmax(self, scores: int, ready: float) -> tuple[float, float]:
        """Of scores that are complete: when the vector unit is done, and when all that pass DRAM has been written there."""
        if not (self.bytes.reads and self.bytes.writes):
            return self._soften(scores, ready), 0.0
        passed, op = scores * self.bytes.score, self.op_of["V"]
        done = self._soften(scores, self._load(2 * passed, ready, op))
        return done, self._write(passed, self._load(passed, self._write(passed, done, op), op), op)

    def _soften(self, scores: int, ready: float) -> float:
        """The vector unit's work on scores that are there; a product alone has none."""
        if not self.vector_cycles:
            return ready
        vector = self.ports.vector
        start = vector.earliest(ready)
        end = vector.issue(start, self.vector_cycles * scores)
        if self.log is not None and end > start:
            self.log.add("vector", "compute", start, end)
        return end

    def _state(self) -> State:
        waiting = [each.ready for each in (*self.scored, self.unwritten) if each is not None]
        own = self.asked, self.away, self.last_end, *self.used["K"], *self.used["V"], *waiting
        return self.books.state(own, [f"{len(self.scored)} scored", f"{self.unwritten is not None} unwritten"])

    def _jump(self, old: State, shift: list[float], pairs: int) -> None:
        """Add what so many pairs add."""
        moves = iter(self.books.jump(old, shift, pairs))
        self.asked, self.away, self.last_end = self.asked + next(moves), self.away + next(moves), self.last_end + next(moves)
        for times in (self.used["K"], self.used["V"]):
            times[:] = [time + next(moves) for time in times]
        self.scored = [each._replace(ready=each.ready + next(moves)) for each in self.scored]
        if self.unwritten is not None:
            self.unwritten = self.unwritten._replace(ready=self.unwritten.ready + next(moves))

    def play(self) -> Played:
        """All pairs, then the last store. They are alike: what they add is added up as soon as one has only moved all times."""
        known: tuple[State, int] | None = None
        pairs = self.pairs
        while pairs:
            state, logged = self._state(), 0 if self.log is None else len(self.log)
            shift = None if known is None else known[0].shift_to(state)
            if known is not None and shift is not None:
                if self.log is not None:
                    self.log.repeat(known[1], pairs, shift[0])
                self._jump(known[0], shift, pairs)
                break
            known = state, logged
            for index, row in enumerate(self.rows):
                self._row(row, index == 0)
            pairs -= 1
        for scored in self.scored:
            self._write_output()
            self._weigh(scored)
        self._write_output()
        matrix = self.ports.matrix
        drained = matrix.free + self.drain
        end = max(self.last_end, drained, *(unit.free for unit in self.ports.units))
        self._wait("array", matrix.free, drained)
        self._wait("dram", drained, end)
        moved = {name: (port.read_bytes, port.written_bytes) for name, port in self.ports.of_level.items()}
        begin = min(self.tail.last, end)
        return Played(end, self.ports.busy, self.ports.spans, self.waits, moved, self.tail.idle(begin, end), end - begin, (), self.log)

    def _row(self, row: Row, is_first_row: bool) -> None:
        """One query tile: its scores; and the values for the scores before them, as soon as there is no place for more."""
        mapping, query_bytes = self.mapping, row.rows * self.bytes.query
        room = self.away if mapping.score_buffers == 1 else self.asked
        queries = self._load(query_bytes, room, self.op_of["K"]) if query_bytes else 0.0
        chunks = [[keys] for keys in row.keys] if mapping.online and self.part == "all" else [row.keys]
        for index, lengths in enumerate(chunks):
            ready = 0.0 if self.part == "context" else self._scores(row, lengths, is_first_row, queries, room)
            self._write_output()
            self.scored.append(_Scored(row.rows, lengths, is_first_row, index == len(chunks) - 1, ready))
            if len(self.scored) == mapping.score_buffers:
                self._weigh(self.scored.pop(0))

    def _scores(self, row: Row, lengths: list[int], is_first_row: bool, queries: float, room: float) -> float:
        """Scores of some key tiles; when they are complete. Scores that pass DRAM are written between the steps."""
        written = self.bytes.score if self.bytes.writes else 0.0
        end = complete = 0.0
        for steps in [[keys] for keys in lengths] if written else [lengths]:
            end = self._products("K", row.rows, steps, is_first_row, queries, ("sram_space", room))
            complete = max(complete, self._write(row.rows * steps[-1] * written, end + self.drain, self.op_of["K"]))
        self.asked = end
        return complete

    def _weigh(self, scored: _Scored) -> None:
        """Softmax of scores, and the product of what it gives with the values; of the last ones of a query tile, the output."""
        rows = scored.rows
        done, written = self._softmax(rows * sum(scored.lengths), scored.ready)
        if self.part != "scores":
            waits_for = ("sram_space", self.away) if scored.is_last and self.away > done else ("vector", done)
            end = self._products("V", rows, scored.lengths, scored.is_first_row, 0.0, waits_for, written)
            done = max(done, end + self.drain)
        if scored.is_last:
            self.unwritten = _Unwritten(rows * self.bytes.output, done)
            if self.mapping.score_buffers == 1:
                self._write_output()

    def _write_output(self) -> None:
        """The output that is complete, if there is one, leaves."""
        if self.unwritten is not None:
            self.away = self._write(*self.unwritten, self.op_of["V"])
            self.last_end = max(self.last_end, self.unwritten.ready, self.away)
            self.unwritten = None


def play_attention(
    mapping: AttentionMapping,
    chip: Chip,
    cost: AttentionCost,
    busy_s: Mapping[str, float],
    in_dram: InDram,
    part: Part,
    log: Log | None = None,
    ops: AttentionOps = AttentionOps(),  # noqa: B008
) -> Played:
    """Play a mapping; `busy_s` is what its group is charged per unit and level. Given a `log`, every tile is written into it, in cycles."""
    return _Attention(mapping, chip, cost, busy_s, in_dram, part, log, ops).play()


def least_cycles(
    mapping: AttentionMapping, chip: Chip, cost: AttentionCost, busy_s: Mapping[str, float], in_dram: InDram, part: Part
) -> float:
    """Cycles that `play_attention` does not go below."""
    return _Attention(mapping, chip, cost, busy_s, in_dram, part, None, AttentionOps()).least()


def least_of_tilings(tilings: TilingBounds, chip: Chip, in_dram: InDram, part: Part) -> NDArray[np.float64]:
    """Cycles that `play_attention` does not go below with the key tiles of some tilings, whatever the dataflow [key tiles]: as
    `least_cycles`, of what is known of them."""
    first, sizes = tilings.first, tilings.kv_tiles[:, None]
    attention, own, products = first.attention, _own_bytes(first, in_dram, part), 2 if part == "all" else 1
    pairs = -(-attention.pairs // first.split[0])
    cuts = query_cuts(attention, first.split[1], first.q_tile)
    rows = cuts.queries * attention.rows_per_query
    begin, end = cuts.first // sizes, -(-cuts.last // sizes)
    keys = np.minimum(end * sizes, attention.kv_len) - begin * sizes
    begins = np.flatnonzero(np.diff(cuts.part, prepend=-1))
    most, each = np.add.reduceat(rows * keys, begins, axis=1).argmax(axis=1), np.arange(len(sizes))

    def summed(column: Any) -> Any:
        return np.add.reduceat(np.broadcast_to(column, keys.shape), begins, axis=1)[each, most]

    ends = core_ends(first, tilings.kv_tiles, cuts, begins, most)
    tile_rows, scores = summed(rows), summed(rows * keys)
    fetched = np.where(tilings.kv_tiles >= attention.kv_len, attention.kv_len, summed(keys))
    own_read = tile_rows * own.query + products * fetched * own.key + scores * own.score_read
    own_written = tile_rows * own.output + scores * own.score_written
    dram, clock_hz = chip.dram, float(chip.clock_hz)
    reads = tilings.read_bytes * (clock_hz / float(dram.bandwidth.read_bytes_per_s(clock_hz)))
    writes = tilings.written_bytes * (clock_hz / float(dram.bandwidth.write_bytes_per_s(clock_hz)))
    # Cycles of DRAM, of the whole chip, per byte of the played core.
    from_dram, to_dram = reads / np.maximum(own_read, 1e-300), writes / np.maximum(own_written, 1e-300)
    latency = float(dram.latency_s) * clock_hz
    drain = np.array([_drain_cycles(flow, chip) for flow in flows_of(first, chip)])[:, None]
    longest = np.maximum(tilings.level_cycles / tilings.array_cycles, 1.0)  # of array and levels, per array cycle
    of_ends = _EndCycles(*(longest * cycles for cycles in _end_cycles(first, chip, part, ends)))
    last_output = ends.last_rows * own.output * to_dram / pairs
    cycles = np.where(own_read > 0, latency + reads + of_ends.last_product + last_output + drain, 0.0)
    if part == "all":
        waits = _Waits(
            products=longest * tilings.array_cycles,
            softmax=tilings.vector_cycles * (1 - 1e-12),
            scores=pairs * summed(end - begin if first.online else 1) * drain,
            outputs=pairs * summed(1) * drain,
            sides=tile_rows * (own.query * from_dram + own.output * to_dram),
            first_queries=ends.first_rows * own.query * from_dram / pairs,
            first_scores=of_ends.first_scores,
            last_values=of_ends.last_values,
            last_output=last_output,
        )
        starts = ends.first_keys * own.key * from_dram / pairs + latency * bool(own.key or own.query)
        cycles = np.maximum(cycles, starts + waits.least(first.score_buffers, drain))
    least: NDArray[np.float64] = cycles.min(axis=0)
    return least


def _end_cycles(mapping: AttentionMapping, chip: Chip, part: Part, ends: CoreEnds) -> _EndCycles:
    """Of tilings that differ in their key tiles from the mapping."""
    found = []
    for flow in flows_of(mapping, chip):
        firsts = _tile_cycles("K", flow, chip, ends.first_rows, ends.sizes)
        lasts = _tile_cycles("K" if part == "scores" else "V", flow, chip, ends.last_rows, ends.sizes)
        last = np.where(ends.last_keys == ends.sizes[0], *lasts)
        found.append(((ends.first_tiles * firsts).sum(axis=0), last, (ends.last_tiles * lasts).sum(axis=0)))
    return _EndCycles(*(np.array(column, dtype=float) for column in zip(*found, strict=True)))
