"""An attention mapping, executed tile by tile on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from functional.formats import LARGEST, is_integer
from functional.ops import OPS
from functional.qtensor import MASKED, QTensor, brought, multiplier, requantise
from functional.quantise import golden
from hwmodels.chip import Chip, MemoryLevel
from sim.attention_mapping import Attention, AttentionMapping, core_parts, key_tiles, visible_keys
from sim.execute.arithmetic import Arithmetic, exchanged_elements, issued_macs
from sim.execute.check import check_buffers, check_compute
from sim.execute.judge import hidden_pairs
from sim.execute.tally import Cargo, Tally
from sim.mapping import Span, innermost, levels_of

_Held = TypeVar("_Held")


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Scales of the tensors around attention's ops, where what is between ops is scaled; the maxima have that of the scores. A side whose
    format is not scaled has 1."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor
    exponentials: Tensor
    probabilities: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AttentionNumbers:
    """Formats of attention: `products` as for any product (its output is the format between ops), what scores are multiplied by before
    the exponential (1 / sqrt(E)), and, if that format is scaled, the scales."""

    products: Arithmetic
    softmax_scale: float
    scales: Scales | None = None

    @property
    def for_scores(self) -> Arithmetic:
        scales = self.scales
        return self.products if scales is None else replace(self.products, factor=multiplier(scales.queries, scales.keys, scales.scores))

    @property
    def for_values(self) -> Arithmetic:
        scales = self.scales
        if scales is None:
            return self.products
        return replace(self.products, factor=multiplier(self.of_codes(scales.probabilities), scales.values, scales.output))

    @property
    def for_exponentials(self) -> Arithmetic:
        """The product with the values where what they are weighted by are exponentials, not yet divided by their sum."""
        scales = self.scales
        if scales is None:
            return self.products
        return replace(self.products, factor=multiplier(self.of_codes(scales.exponentials), scales.values, scales.output))

    def of_codes(self, scale: Tensor) -> Tensor:
        """The scale that is left of an operand that is brought to the format of the products: 1 where that is not scaled."""
        return scale if self.products.compute in LARGEST else torch.ones(())

    def weights(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """What weighs the values, from the format between ops in that of the products."""
        return codes if scale is None else brought(QTensor(codes, scale, None, self.products.output), self.products.compute).values

    def op(self, kind: str, inputs: tuple[Tensor, ...], scales: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        """An op of the table on tiles; `scales` are those of its inputs and output, empty for floats."""
        if not scales:
            return OPS[kind].compute(*inputs, **attrs)
        between = self.products.output
        quantised = tuple(QTensor(tensor, scale, None, between) for tensor, scale in zip(inputs, scales[:-1], strict=True))
        return golden(OPS[kind], quantised, attrs, between, scales[-1]).values


def execute_attention(
    mapping: AttentionMapping, chip: Chip, q: Tensor, k: Tensor, v: Tensor, numbers: AttentionNumbers
) -> tuple[Tensor, Tally]:
    """Output [B, H, T, E] of q[B, H, T, E], k and v[B, G, S, E], moved and computed as the mapping says, and what that took.

    Tiles pass every level on the chip that holds activations, written there and read again. Raises ValueError for a mapping that the chip
    cannot carry out: more parts than cores, a dataflow that the array lacks, tiles that do not fit their level, keys shared where no level
    is, online rescaling of integers or without fusion; and for a query that sees no key.
    """
    _check(mapping, chip, q, k, numbers)
    run = _Run(mapping, chip, q, k, v, numbers)
    for core in core_parts(mapping):
        run.core(*core)
    _check_room(run.tally, chip)
    return run.output, run.tally


class _Places(Generic[_Held]):
    """Places on the chip, taken in turn: each is written, used, and only then free for the next."""

    def __init__(self, what: str, count: int) -> None:
        self.what, self.held = what, list[_Held | None]([None] * count)
        self.written = self.used = 0

    def write(self, held: _Held) -> None:
        """Into the next place. Raises ValueError where it is still in use."""
        place = self.written % len(self.held)
        if self.held[place] is not None:
            raise ValueError(f"{self.what} are written to a place that is still in use; there are {len(self.held)}")
        self.held[place] = held
        self.written += 1

    def oldest(self) -> _Held:
        """What has been held for longest. Raises ValueError where nothing is."""
        held = self.held[self.used % len(self.held)]
        if held is None:
            raise ValueError(f"no {self.what} are there to be used")
        return held

    def free(self) -> None:
        """That place."""
        self.oldest()
        self.held[self.used % len(self.held)] = None
        self.used += 1


@dataclass(eq=False)
class _Rows:
    """A query tile in work: which queries of which heads and sequence, and the output so far; online up to the sums of exponentials, which
    are measured from the maxima of their rows."""

    pair: int
    queries: Span
    here: tuple[int, slice, slice]
    output: Tensor
    maxima: Tensor
    totals: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Scores of a query tile with some key tiles, and whether these are its first and its last ones."""

    of: _Rows
    tiles: list[Span]
    scores: Tensor
    is_first: bool
    is_last: bool


class _Run:
    """The state of one execution: the tensors in DRAM, and what the current core holds: a key and a value tile, queries, and scores."""

    def __init__(self, mapping: AttentionMapping, chip: Chip, q: Tensor, k: Tensor, v: Tensor, numbers: AttentionNumbers) -> None:
        self.mapping, self.attention, self.numbers, self.chip = mapping, mapping.attention, numbers, chip
        self.stored = {"keys": k, "values": v}
        self.queries = q
        self.output = torch.empty(q.shape, dtype=numbers.products.output_dtype)
        self.who: tuple[Span, Span] | None = None
        self.held: dict[str, tuple[int, Span]] = {}
        self.shared: set[tuple[str, int, Span]] = set()
        self.masks: dict[tuple[Span, Span], Tensor] = {}
        self.asking = _Places[Tensor]("queries", 1)
        self.scored = _Places[_Scored]("scores", mapping.score_buffers)
        self.tally = Tally()
        self.operands, self.sums = innermost(chip, "activations"), innermost(chip, "psums")
        self.way = [level.name for level in (chip.dram, *levels_of(chip, "activations"))]
        self.here: dict[tuple[MemoryLevel, Cargo], int] = {}

    def core(self, pairs: Span, queries: list[Span]) -> None:
        """One core's share: scores, and as soon as there is no place for more of them, what follows for the oldest."""
        self.held.clear()
        self.here.clear()
        self.who = pairs, queries[0]
        for pair in range(*pairs):
            for tile in queries:
                self.query_tile(pair, tile)
        while self.scored.used < self.scored.written:
            self.weigh()
        for (level, cargo), bits in self.here.items():  # cores work at the same time
            others = self.tally.held_bits.get((level.name, cargo), 0) if level.per == "chip" else 0
            self.tally.hold(level.name, cargo, others + bits)

    def hold(self, level: MemoryLevel, cargo: Cargo, bits: int) -> None:
        """A tile that this core has to have room for."""
        self.here[level, cargo] = max(self.here.get((level, cargo), 0), bits)

    def query_tile(self, pair: int, queries: Span) -> None:
        """Scores of a query tile with all keys that it looks at."""
        attention, mapping = self.attention, self.mapping
        batch, kv_head = divmod(pair, attention.kv_heads)
        heads = slice(kv_head * attention.rows_per_query, (kv_head + 1) * attention.rows_per_query)
        here = batch, heads, slice(*queries)
        rows = self.queries[here].reshape(-1, attention.head_dim)
        self.asking.write(rows)
        self.move_in("queries", rows.numel(), attention.act_bits)
        self.hold(self.sums, "psums", rows.numel() * attention.acc_bits)
        if mapping.kv_tile < attention.kv_len:
            self.held.pop("keys", None)
        output = torch.zeros(rows.shape, dtype=self.numbers.products.sum_dtype)
        of = _Rows(pair, queries, here, output, torch.full((rows.shape[0], 1), -math.inf), torch.zeros((rows.shape[0], 1)))
        tiles = key_tiles(mapping, queries)
        for i, some in enumerate([[tile] for tile in tiles] if mapping.online else [tiles]):
            is_last = i == len(tiles) - 1 or not mapping.online
            compute = self.raw_scores if mapping.online else self.whole_rows
            self.scored.write(_Scored(of, some, compute(pair, queries, some), i == 0, is_last))
            if is_last and mapping.score_buffers > 1:
                self.asking.free()
            if self.scored.written - self.scored.used == mapping.score_buffers:
                self.weigh()

    def weigh(self) -> None:
        """What follows for the oldest scores: softmax and the product with the values; after the last ones of a query tile its output."""
        scored, attention = self.scored.oldest(), self.attention
        of = scored.of
        self.tally.softmaxes += 1
        if self.mapping.kv_tile < attention.kv_len and scored.is_first:
            self.held.pop("values", None)
        if self.mapping.online:
            self.rescale(scored)
        else:
            heads = scored.scores.view(1, attention.rows_per_query, -1, scored.scores.shape[-1])
            probabilities = self.softmax(heads).view(scored.scores.shape)
            of.output = self.weighted_values(of.pair, of.queries, probabilities, scored.tiles)
        self.scored.free()
        if scored.is_last:
            self.store(of)

    def store(self, of: _Rows) -> None:
        """A finished output, in the place of its queries or in one of its own."""
        result = of.output
        if self.mapping.online:
            result = self.numbers.for_exponentials.finish(result.float() / of.totals, Span(0, result.shape[1]))
        if self.mapping.score_buffers == 1:
            self.asking.free()
        else:
            self.hold(self.operands, "outputs", result.numel() * self.attention.act_bits)
        self.tally.move(self.operands.name, "outputs", "write", result.numel())
        self.outwards("outputs", result.numel())
        self.output[of.here] = result.view(self.attention.rows_per_query, -1, self.attention.head_dim)

    # Three passes over whole rows

    def whole_rows(self, pair: int, queries: Span, tiles: list[Span]) -> Tensor:
        rows = self.asking.oldest()
        scores = torch.cat([self.scores(pair, queries, rows, tile) for tile in tiles], -1)
        kept = scores.shape[-1] if self.mapping.fused else max(tile.stop - tile.start for tile in tiles)
        self.hold(self.operands, "scores", scores.shape[0] * kept * self.attention.act_bits * self.mapping.score_buffers)
        return scores

    def scores(self, pair: int, queries: Span, rows: Tensor, tile: Span) -> Tensor:
        """Masked scores [rows, keys] of one key tile, in the format between ops."""
        arithmetic = self.numbers.for_scores
        sums = torch.zeros((rows.shape[0], tile.stop - tile.start), dtype=arithmetic.sum_dtype)
        self.hold(self.sums, "psums", sums.numel() * self.attention.acc_bits)
        self.multiply(arithmetic, sums, rows, self.fetch("keys", pair, tile).T, queries, tile)
        scores = arithmetic.finish(sums, Span(0, sums.shape[1]))
        self.tally.exchange(self.operands.name, "scores", "write", scores.numel())
        self.spill("scores", scores.numel(), reads=0)
        if scores.dtype == torch.float8_e4m3fn:  # a masked score is not a number there
            return scores.float().masked_fill(self.hidden(queries, tile), math.nan).to(scores.dtype)
        return scores.masked_fill(self.hidden(queries, tile), MASKED if self.numbers.scales else -math.inf)

    def softmax(self, scores: Tensor) -> Tensor:
        """The graph's three ops on whole rows [1, heads, queries, keys]."""
        number, scales, mask = self.numbers, self.numbers.scales, {"mask": self.attention.mask}
        exp_scales = (scales.scores, scales.scores, scales.exponentials) if scales else ()
        maxima = number.op("ReduceMax", (scores,), exp_scales[:2], mask)
        self.passes("scores", scores)
        exponentials = number.op("ElementwiseExp", (scores, maxima), exp_scales, {**mask, "scale": number.softmax_scale})
        self.passes("scores", scores, "exponentials")
        probabilities = number.op("Normalize", (exponentials,), (scales.exponentials, scales.probabilities) if scales else (), mask)
        self.passes("exponentials", exponentials, "probabilities")
        self.spill("scores", scores.numel(), reads=2, writes=0)
        self.spill("maxima", maxima.numel(), reads=1)
        self.spill("exponentials", exponentials.numel(), reads=1)
        self.spill("probabilities", probabilities.numel(), reads=1)
        return probabilities

    def passes(self, taken: Cargo, tensor: Tensor, made: Cargo | None = None) -> None:
        """The vector unit reads a tensor, and writes one of as many elements if it makes one."""
        self.tally.exchange(self.operands.name, taken, "read", tensor.numel())
        if made is not None:
            self.tally.exchange(self.operands.name, made, "write", tensor.numel())

    def weighted_values(self, pair: int, queries: Span, probabilities: Tensor, tiles: list[Span]) -> Tensor:
        arithmetic, scales = self.numbers.for_values, self.numbers.scales
        probabilities = self.numbers.weights(probabilities, None if scales is None else scales.probabilities)
        sums = torch.zeros((probabilities.shape[0], self.attention.head_dim), dtype=arithmetic.sum_dtype)
        first = 0
        for tile in tiles:
            width = tile.stop - tile.start
            some, values = probabilities[:, first : first + width], self.fetch("values", pair, tile)
            self.multiply(arithmetic, sums, some, values, queries, tile, continues=first > 0)
            first += width
        return arithmetic.finish(sums, Span(0, sums.shape[1]))

    # One pass

    def raw_scores(self, pair: int, queries: Span, tiles: list[Span]) -> Tensor:
        """Scores of one key tile in the accumulator's format, not masked yet."""
        (tile,), rows = tiles, self.asking.oldest()
        arithmetic = self.numbers.for_exponentials
        scores = torch.zeros((rows.shape[0], tile.stop - tile.start), dtype=arithmetic.sum_dtype)
        self.hold(self.sums, "scores", scores.numel() * self.attention.acc_bits * self.mapping.score_buffers)
        self.multiply(arithmetic, scores, rows, self.fetch("keys", pair, tile).T, queries, tile)
        return scores

    def rescale(self, scored: _Scored) -> None:
        """Online softmax: after each tile the output so far is that of the keys seen so far, up to the sum of their exponentials."""
        arithmetic, scale, scales = self.numbers.for_exponentials, self.numbers.softmax_scale, self.numbers.scales
        of, (tile,) = scored.of, scored.tiles
        of_scores = torch.ones(()) if scales is None else scales.queries * scales.keys
        scores = (scored.scores.float() * of_scores).masked_fill(self.hidden(of.queries, tile), -math.inf)
        larger = torch.maximum(of.maxima, scores.amax(-1, keepdim=True))
        self.tally.exchange(self.sums.name, "psums", "read", scores.numel())
        # A row that has seen no key yet has no maximum: it is measured from 0, where all its exponentials are 0.
        base = larger.masked_fill(larger.isinf(), 0.0)
        exponentials = ((scores - base) * scale).exp()
        self.tally.exchange(self.sums.name, "psums", "read", scores.numel())
        self.tally.exchange(self.operands.name, "exponentials", "write", exponentials.numel())
        shrink = ((of.maxima - base) * scale).exp()
        of.totals = of.totals * shrink + exponentials.sum(-1, keepdim=True)
        of.output = (of.output.float() * shrink).to(arithmetic.sum_dtype)
        if not scored.is_first:
            self.tally.exchange(self.sums.name, "psums", "read", of.output.numel())
            self.tally.exchange(self.sums.name, "psums", "write", of.output.numel())
        values = self.fetch("values", of.pair, tile)
        if scales is None:
            weights = exponentials.to(arithmetic.output_dtype)
        else:
            weights = self.numbers.weights(requantise(exponentials, scales.exponentials, arithmetic.output), scales.exponentials)
        self.hold(self.operands, "exponentials", weights.numel() * self.attention.act_bits * self.mapping.score_buffers)
        self.multiply(arithmetic, of.output, weights, values, of.queries, tile, continues=not scored.is_first)
        of.maxima = larger

    # Moving, masking, multiplying

    def fetch(self, cargo: Cargo, pair: int, tile: Span) -> Tensor:
        """A key or value tile [keys, E], brought in unless it is the one that is held."""
        batch, kv_head = divmod(pair, self.attention.kv_heads)
        data = self.stored[cargo][batch, kv_head, tile.start : tile.stop]
        if self.held.get(cargo) != (pair, tile):
            self.held[cargo] = pair, tile
            from_dram = (cargo, pair, tile) not in self.shared
            self.move_in(cargo, data.numel(), self.attention.kv_bits * self.mapping.buffers, from_dram)
            if self.mapping.keys_shared:
                self.shared.add((cargo, pair, tile))
        return data

    def move_in(self, cargo: Cargo, elements: int, bits: int, from_dram: bool = True) -> None:
        self.inwards(cargo, elements, self.way if from_dram else self.way[1:])
        self.hold(self.operands, cargo, elements * bits)

    def inwards(self, cargo: Cargo, elements: int, way: Sequence[str]) -> None:
        """From each level of a way to the next, the outermost first."""
        for outer, inner in pairwise(way):
            self.tally.move(outer, cargo, "read", elements)
            self.tally.move(inner, cargo, "write", elements)

    def outwards(self, cargo: Cargo, elements: int) -> None:
        """All the way to DRAM."""
        for outer, inner in pairwise(self.way):
            self.tally.move(inner, cargo, "read", elements)
            self.tally.move(outer, cargo, "write", elements)

    def spill(self, cargo: Cargo, elements: int, *, reads: int, writes: int = 1) -> None:
        """What passes through DRAM between the graph's ops, unless attention is fused."""
        if self.mapping.fused:
            return
        for _ in range(writes):
            self.outwards(cargo, elements)
        for _ in range(reads):
            self.inwards(cargo, elements, self.way)

    def hidden(self, queries: Span, tile: Span) -> Tensor:
        """True for each row and key that must not meet; the heads of a pair follow each other."""
        if (queries, tile) not in self.masks:
            pairs = hidden_pairs(range(*queries), range(*tile), self.attention.mask)
            self.masks[queries, tile] = pairs.repeat(self.attention.rows_per_query, 1)
        return self.masks[queries, tile]

    def multiply(
        self, arithmetic: Arithmetic, sums: Tensor, a: Tensor, b: Tensor, queries: Span, tile: Span, *, continues: bool = False
    ) -> None:
        """One of the two products of a query tile and a key tile; `continues`: its sums are begun."""
        arithmetic.add_product(sums, a, b)
        (m, k), n, mapping = a.shape, b.shape[1], self.mapping
        seen = int((~self.hidden(queries, tile)).sum())
        self.tally.useful_macs += seen * self.attention.head_dim
        how = self.chip.matrix, self.attention.compute, mapping.dataflow, mapping.array_axis
        self.tally.issue(self.who, issued_macs(*how, m, n, k))
        counts = exchanged_elements(*how, (m, n, k), continues)
        self.tally.exchange(self.operands.name, "activations", "read", counts.a_reads)
        self.tally.exchange(self.operands.name, "keys", "read", counts.b_reads)
        self.tally.exchange(self.sums.name, "psums", "read", counts.sums_reads)
        self.tally.exchange(self.sums.name, "psums", "write", counts.sums_writes)


def _check(mapping: AttentionMapping, chip: Chip, q: Tensor, k: Tensor, numbers: AttentionNumbers) -> None:
    attention = mapping.attention
    _check_shapes(attention, q, k)
    if mapping.q_tile < 1 or mapping.kv_tile < 1 or mapping.buffers < 1 or min(mapping.split) < 1:
        raise ValueError(f"not a mapping: {mapping}")
    if visible_keys(attention, Span(0, 1)).stop < 1 or not key_tiles(mapping, Span(attention.q_len - 1, attention.q_len)):
        raise ValueError("a query that sees no key has no output; the mask must leave it at least one")
    if mapping.split[0] * mapping.split[1] > chip.cores:
        raise ValueError(f"a split of {mapping.split} needs as many cores; {chip.name} has {chip.cores}")
    if mapping.keys_shared and not any(level.per == "chip" and "activations" in level.holds for level in chip.memory[1:]):
        raise ValueError(f"no on-chip level of {chip.name} that cores share keeps keys and values; set keys_shared to false")
    check_compute(attention.compute, numbers.products, chip.matrix, mapping.dataflow)
    check_buffers(mapping.buffers, [innermost(chip, "activations")])
    if mapping.score_buffers not in (1, 2) or (mapping.score_buffers == 2 and not mapping.fused):
        raise ValueError(f"{mapping.score_buffers} places for scores; there are one or two, and one where scores pass through DRAM")
    if mapping.online and (not mapping.fused or is_integer(attention.compute)):
        raise ValueError("online rescaling is fused and in floating point; set online to false for integers and for unfused attention")


def _check_shapes(attention: Attention, q: Tensor, k: Tensor) -> None:
    wanted = (attention.batch, attention.heads, attention.q_len, attention.head_dim)
    stored = (attention.batch, attention.kv_heads, attention.kv_len, attention.head_dim)
    if tuple(q.shape) != wanted or tuple(k.shape) != stored:
        raise ValueError(f"queries {tuple(q.shape)} and keys {tuple(k.shape)} are not those of the mapping, {wanted} and {stored}")


def _check_room(tally: Tally, chip: Chip) -> None:
    for level in (innermost(chip, "activations"), innermost(chip, "psums")):
        needed_bytes = -(-tally.level_bits(level.name) // 8)
        if needed_bytes > level.capacity_bytes:
            raise ValueError(f"the tiles take {needed_bytes} bytes of {level.name}; raise memory.{level.name}.capacity to hold them")
