"""An attention mapping: how softmax(scale q k^T) v of one layer is cut into tiles, ordered and split, so that it can be timed and executed.

Queries [B, H, T, E], keys and values [B, G, S, E], output [B, H, T, E] (axis letters: `functional.spec`). A *pair* is one sequence and one
KV head; the H / G query heads that share the KV head are worked on together, as rows of one product: a query tile of `q_tile` positions
has `q_tile` x H / G rows of width E, a key tile `kv_tile` keys of width E, and a value tile as many values.

The loops, outermost first: pairs of this core, its query tiles, key tiles, in ascending order. Query tiles are cut at multiples of `q_tile`
from query 0, key tiles at multiples of `kv_tile` from key 0; the last of each may be smaller. A key tile that no query of the query
tile sees is *skipped*: neither fetched nor computed. One that is seen in part is fetched and computed whole.

What is fetched when: one query tile, one key tile, one value tile are held at a time. A query tile is fetched from DRAM once. Key and value
tiles are fetched once per query tile that sees them, whatever the one before it has left, with one exception: if one tile is all there
is (`kv_tile` >= keys) it is fetched once per pair and stays while the query tiles of the core pass. Heads that share a KV head never fetch
it again. Every output tile is written once, in the output format. Cores share no fetch but with `keys_shared`.

* `fused`, not `online`: three passes over whole rows. All key tiles give scores, which stay on the chip for all visible tiles of the query
  tile, in the format between ops; maxima, exponentials and their sum; then all value tiles. Scores never leave the chip.
* `fused` and `online`: one pass. Key tile and value tile arrive together; scores of one key tile are held, and the output in the
  accumulator's format is rescaled where the running maximum grows (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv
  2205.14135). Floats only.
* not `fused`: as three passes, but between the graph's ops everything passes through DRAM. Elements of computed score tiles (skipped tiles
  have none) are written by the scores, read by the maxima, read by the exponentials, which write theirs, read and written by the
  normalisation, read by the product with the values; maxima, one per row, are written once and read once.

`score_buffers`: how many places there are for the scores of a query tile (online: for those with one key tile). A place is free again when
its scores have been multiplied by the values. With one, scores, their softmax and the product with the values follow one another, and the
output takes the place of the queries. With two, the array computes the next scores of the core, be they of the next query tile or pair,
while the vector unit works on these, and only then multiplies these by the values, as FlashAttention-3 lets two warpgroups take turns (Shah
et al., arXiv 2407.08608, section 3.1): S0, S1, V0, S2, V1, ... Queries leave their place when all their scores are computed; outputs have
one of their own and are written after the scores that are computed next. Two places are for scores that stay on the chip.

* `keys_shared`: cores share an outer level that keeps what it has read of keys and values. A tile is brought from DRAM the first time that
  any query tile of its pair sees it, and from that level ever after.

`split` = (parts of pairs, parts of query tiles) over as many cores. Pairs are cut into equal parts rounded up, the last ones smaller or
empty. Query tiles are dealt in turn: of n parts the first has tiles 0, n, 2n, ..., so that under a causal mask, where later queries see
more keys, all have about as much to do (as striped attention deals them: Brandon et al., arXiv 2311.09431). The matrix units of one core
share the rows of a query tile (`array_axis` "m") or the columns of a product ("n").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from functional.work import Mask
from sim.mapping import Span, parts


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. Query i sees key j iff j <= i + mask_offset and, with a window, j > i + mask_offset - window."""

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    mask_offset: int
    window: int | None
    act_bits: int
    kv_bits: int
    acc_bits: int
    compute: str

    @property
    def rows_per_query(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def pairs(self) -> int:
        return self.batch * self.kv_heads

    @property
    def mask(self) -> Mask:
        return Mask(self.mask_offset, self.window)

    @property
    def useful_macs(self) -> int:
        """Of both products, unmasked."""
        return 2 * self.batch * self.heads * int(self.mask.visible_pairs(self.q_len, self.kv_len)) * self.head_dim


@dataclass(frozen=True, slots=True)
class AttentionMapping:
    """One complete decision; the module's text says what each field means. `buffers` copies of a key and a value tile fit."""

    attention: Attention
    q_tile: int
    kv_tile: int
    fused: bool
    online: bool
    buffers: int
    split: tuple[int, int]
    dataflow: str
    array_axis: Literal["m", "n"]
    keys_shared: bool = False
    score_buffers: int = 1

    @property
    def busy_cores(self) -> int:
        """Cores that have a part."""
        pairs, tiles = self.attention.pairs, -(-self.attention.q_len // self.q_tile)
        return len(parts(Span(0, pairs), -(-pairs // self.split[0]))) * min(self.split[1], tiles)


def visible_keys(attention: Attention, queries: Span) -> Span:
    """Keys that at least one query of a range sees; empty (stop <= start) where there is none."""
    oldest = 0 if attention.window is None else queries.start + attention.mask_offset - attention.window + 1
    return Span(max(oldest, 0), min(queries.stop + attention.mask_offset, attention.kv_len))


def key_tiles(mapping: AttentionMapping, queries: Span) -> list[Span]:
    """The key tiles that a query tile computes, in order; what is fully masked is left out."""
    seen = visible_keys(mapping.attention, queries)
    tiles = parts(Span(0, mapping.attention.kv_len), mapping.kv_tile)
    return [tile for tile in tiles if tile.start < seen.stop and tile.stop > seen.start]


def core_parts(mapping: AttentionMapping) -> Iterator[tuple[Span, list[Span]]]:
    """(pairs, query tiles) of each core that has any."""
    pairs, tiles = mapping.attention.pairs, parts(Span(0, mapping.attention.q_len), mapping.q_tile)
    for some_pairs in parts(Span(0, pairs), -(-pairs // mapping.split[0])):
        for first in range(min(mapping.split[1], len(tiles))):
            yield some_pairs, tiles[first :: mapping.split[1]]
