"""A mapping: how one GEMM is cut into tiles, ordered, placed and split, so exactly that it can be timed and executed.

C[m, n] += A[m, k] W[k, n]. On-chip levels form *stages*, outermost first: a stage begins where a level holds a role (activations, weights,
psums) that the stage so far already holds, so a scratchpad for operands and an accumulator for sums are one stage, an L2 and a shared
memory are two. Each stage holds, of every role that its levels hold, one tile at a time; a role that a stage does not hold passes by it.

What is fetched when is defined by one rule, from which cost and execution both derive: the loops of all stages run as one nest, outermost
stage first, and a stage fetches the tile of a role from the next outer place that holds the role exactly when the tile that it needs next
is not the one that it holds. A tile of partial sums that must make room is written out and, when it is needed again, read back; one whose k
is complete is written once, in the output format. A core that has no part of a block gives up what it holds. Tiles at the edge are smaller.
A load or a store of a tile never crosses DRAM twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from hwmodels.chip import Chip, MemoryLevel, Role

Axis: TypeAlias = Literal["m", "n", "k"]
AXES: tuple[Axis, Axis, Axis] = ("m", "n", "k")

OPERAND_AXES: dict[Role, tuple[Axis, Axis]] = {"activations": ("m", "k"), "weights": ("k", "n"), "psums": ("m", "n")}
"""Axes that select a tile of each role: A, W and C of the product."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """One product and the bits of its elements; `compute` is the number format in which it is multiplied. `out_bits` is 0 where others take
    over the sums; what leaves them goes to DRAM unless it stays on the chip (not `out_in_dram`)."""

    m: int
    n: int
    k: int
    a_bits: int
    w_bits: int
    out_bits: int
    acc_bits: int
    compute: str
    out_in_dram: bool = True

    @property
    def macs(self) -> int:
        return self.m * self.n * self.k


class Tile(NamedTuple):
    """Extents along the three axes."""

    m: int
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class StageTiling:
    """What one stage holds at a time, in which order its tiles are visited within the enclosing tile (outermost loop first), and how many
    copies of each tile there is room for: 2 lets the next tile arrive while this one is in use."""

    tile: Tile
    order: tuple[Axis, Axis, Axis]
    buffers: int


@dataclass(frozen=True, slots=True)
class GemmMapping:
    """One complete decision.

    `split` = (parts of m, parts of n) over as many cores. `split_stage` is the index of the first stage that every core has for itself: the
    enclosing tile is cut into equal parts (rounded up; the last may be smaller or empty) just before it; it equals `len(stages)` where all
    stages are shared. `array_axis` is the axis along which the matrix units of one core share an innermost tile.
    """

    gemm: Gemm
    stages: tuple[StageTiling, ...]
    split: tuple[int, int]
    split_stage: int
    dataflow: str
    array_axis: Literal["m", "n"]


@dataclass(frozen=True, slots=True)
class ChipStage:
    """The levels of a chip that hold tiles together."""

    levels: tuple[MemoryLevel, ...]

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset(role for level in self.levels for role in level.holds)

    @property
    def per_core(self) -> bool:
        return self.levels[0].per == "core"

    def level_of(self, role: Role) -> MemoryLevel:
        """The level of this stage that holds a role."""
        return next(level for level in self.levels if role in level.holds)


def chip_stages(chip: Chip) -> tuple[ChipStage, ...]:
    """The stages of a chip's on-chip memory, outermost first."""
    stages: list[list[MemoryLevel]] = []
    for level in chip.memory[1:]:
        taken = {role for member in stages[-1] for role in member.holds} if stages else set()
        if stages and not taken & level.holds and stages[-1][0].per == level.per:
            stages[-1].append(level)
        else:
            stages.append([level])
    return tuple(ChipStage(tuple(levels)) for levels in stages)


def levels_of(chip: Chip, role: Role) -> list[MemoryLevel]:
    """The levels on the chip that hold a role, outermost first."""
    return [level for level in chip.memory[1:] if role in level.holds]


def innermost(chip: Chip, role: Role) -> MemoryLevel:
    """The level next to the array that holds a role."""
    return next(level for level in reversed(chip.memory) if role in level.holds)


class Span(NamedTuple):
    """A half-open range of indices."""

    start: int
    stop: int


Block: TypeAlias = tuple[Span, Span, Span]
"""Ranges along m, n and k."""


def parts(span: Span, size: int) -> list[Span]:
    """A range cut into pieces of `size`, the last one smaller."""
    return [Span(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size)]


def blocks(block: Block, tiling: StageTiling) -> Iterator[Block]:
    """The tiles of one stage within an enclosing block, in the order of its loops."""
    cuts = {axis: parts(span, size) for axis, span, size in zip(AXES, block, tiling.tile, strict=True)}
    first, second, third = tiling.order
    for a in cuts[first]:
        for b in cuts[second]:
            for c in cuts[third]:
                chosen = {first: a, second: b, third: c}
                yield chosen["m"], chosen["n"], chosen["k"]


def core_blocks(block: Block, split: tuple[int, int]) -> list[Block]:
    """The equal parts of a block that the cores work on at the same time; fewer than cores where it is too small."""
    m, n, k = block
    rows = parts(m, -(-(m.stop - m.start) // split[0]))
    cols = parts(n, -(-(n.stop - n.start) // split[1]))
    return [(row, col, k) for row in rows for col in cols]


def whole(gemm: Gemm) -> Block:
    """The block that is the whole product."""
    return Span(0, gemm.m), Span(0, gemm.n), Span(0, gemm.k)
