"""A cheap lower bound of the tiled cost, made of numbers of single axes; what lets the search discard mappings by the box.

It is the cost of `sim.mapper.cost` without bursts, with single buffers only in innermost stages, and with blocks of unequal trips taken at
the fewest. Every term is
a product or sum of numbers of single axes and grows with each of them. So with each number replaced by its minimum over a set of candidates
of its axis, the bound is below the cost of every mapping that takes its tiles from these sets: a box of mappings is discarded as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Role
from hwmodels.formulas.tiling import AxisCuts, cut_axis, positions
from sim.mapper import array
from sim.mapper.problem import ROLE_AXES, Place, Setting, capacity_bytes, tile_bits
from sim.mapping import AXES, Axis

Floats: TypeAlias = NDArray[np.float64]


class Layout(NamedTuple):
    """Rows of an axis table: where each number stands."""

    own: int
    every: int
    moves: int
    sizes: int
    firsts: int
    lasts: int
    cycles: int
    accesses: int
    extra: int
    extent: int
    rows: int


def layout(stages: int) -> Layout:
    """own: visits by the first core, by moving stage (-1, 0, ...); every: by all cores, for each stage; moves: whether loops have trips."""
    widths = (stages + 1, stages * (stages + 1), stages, stages, stages, stages, 1, 1, 1, 1)
    places = [sum(widths[:i]) for i in range(len(widths) + 1)]
    return Layout(*places)


def axis_numbers(setting: Setting, axis: int, tiles: Sequence[Any], parts: int, dataflow: str, array_axis: Axis) -> Floats:
    """Table [rows, candidates] of one axis, the tiles of whose stages are given."""
    stages = len(tiles)
    own = cut_axis(setting.extents[axis], tiles, setting.split_stage, parts, every=False)
    every = own if parts == 1 else cut_axis(setting.extents[axis], tiles, setting.split_stage, parts, every=True)
    rows: list[Any] = list(positions(own, stages - 1))
    for stage in range(stages):
        seen = positions(every, stage)
        rows += seen + [0] * (stages + 1 - len(seen))
    rows += [_least_moves(every, tiles, stage) for stage in range(stages)]
    rows += list(tiles)
    first: Any = setting.extents[axis]
    last: Any = first
    firsts, lasts = [], []
    for stage in range(stages):
        if stage == setting.split_stage:
            first, last = -(-first // parts), -(-last // parts)
        first, last = np.minimum(first, tiles[stage]), (last - 1) % tiles[stage] + 1
        firsts.append(first)
        lasts.append(last)
    if setting.split_stage == stages:
        first, last = -(-first // parts), -(-last // parts)
    rows += firsts + lasts
    rows += array.axis_factors(setting, dataflow, array_axis, AXES[axis], own, first if dataflow == "os" else last)
    rows.append(sum(block.elements for block in own.around[setting.split_stage]))
    numbers = np.empty((len(rows), len(tiles[0])))
    for i, row in enumerate(rows):
        numbers[i] = row
    return numbers


def _least_moves(cuts: AxisCuts, tiles: Sequence[Any], stage: int) -> Any:
    """1 where all blocks that stage `stage` cuts have more than one trip."""
    least: Any = np.inf
    for block in cuts.around[stage]:
        least = np.minimum(least, np.where(block.blocks > 0, -(-block.length // tiles[stage]), np.inf))
    return least > 1


class Bound(NamedTuple):
    """Lower bounds of what mappings are ranked by, in this order."""

    latency_s: Floats
    dram_bytes: Floats
    moved_bytes: Floats
    steps: Floats


class _Roles(NamedTuple):
    """Of one transfer between holders: visits as the first core and as the outer place see them."""

    own: Any
    every: Any


def fits(setting: Setting, sizes: Sequence[Floats]) -> NDArray[np.bool_]:
    """Whether the tiles fit every level; `sizes[axis]` [stages, tiles]."""
    fine: Any = True
    for place in setting.places[1:]:
        tile = tuple(axis[place.stage] for axis in sizes)
        needed = tile_bits(setting, place.level, (tile[0], tile[1], tile[2]))
        fine = fine & (needed <= 8 * capacity_bytes(setting, place.level))
    return np.asarray(fine)


def bound(setting: Setting, numbers: Sequence[Floats], ranks: Any, single: bool = False) -> Bound:
    """`numbers[axis]` are columns of tables, one per mapping or box; `ranks[stage][axis]` numbers or arrays of as many.

    `single`: columns are mappings, not boxes; then full tiles of the first core in the outermost stage are rounded up to bursts, which does
    not grow with the tile.
    """
    at = layout(len(setting.stages))
    gemm, clock_hz = setting.gemm, float(setting.chip.clock_hz)
    read: dict[str, Any] = {place.level.name: 0.0 for place in setting.places}
    written: dict[str, Any] = dict(read)
    extents = setting.extents

    def visits(role: Role, inner: Place, outer: Place) -> _Roles:
        x, y, z = ROLE_AXES[role]
        own, every = numbers[z][at.own], numbers[z][at.every + inner.stage * (len(setting.stages) + 1)]
        moved: Any = False
        chosen: list[Any] = []
        for stage in reversed(range(inner.stage + 1)):
            x_moves, y_moves = numbers[x][at.moves + stage] > 0, numbers[y][at.moves + stage] > 0
            rank = ranks[stage]
            chosen.append(moved | ((rank[x] > rank[z]) & x_moves) | ((rank[y] > rank[z]) & y_moves))
            moved = moved | x_moves | y_moves
        for stage, below in enumerate(reversed(chosen)):
            own = np.where(below, numbers[z][at.own + stage + 1], own)
            every = np.where(below, numbers[z][at.every + inner.stage * (len(setting.stages) + 1) + stage + 1], every)
        if not setting.shared(outer) or (outer.level.multicast and role != "psums"):
            every = own
        return _Roles(own, every)

    def waste(inner: Place, x: int, y: int, bits: int) -> Any:
        """Bytes that bursts add to the full tiles of the first core, each once."""
        if not single or inner.stage > 0:
            return 0.0
        x_size, y_size = numbers[x][at.sizes], numbers[y][at.sizes]
        bursts = x_size * y_size * (bits / 8 / setting.chip.dram.burst_bytes)
        tiles = np.floor(numbers[x][at.extent] / x_size) * np.floor(numbers[y][at.extent] / y_size)
        return tiles * (np.ceil(bursts) - bursts) * setting.chip.dram.burst_bytes

    from_dram = all(len(setting.holders[role]) > 1 and setting.holders[role][0].stage < 0 for role in ("activations", "weights"))
    ready: Any = 0.0
    crossing: Any = float(setting.chip.dram.latency_s)
    rests: Any = np.inf
    starts: dict[str, Any] = {}
    alternating: list[Any] = []
    alternating_sums: list[tuple[Any, Any]] = []
    own_extents = [axis[at.extent] for axis in numbers]
    for role in ("activations", "weights"):
        x, y, _ = ROLE_AXES[role]
        size_bytes = extents[x] * extents[y] * setting.bits(role) / 8
        own_bytes = own_extents[x] * own_extents[y] * setting.bits(role) / 8
        chain: Any = 0.0
        for number, (outer, inner) in enumerate(pairwise(setting.holders[role])):
            often = visits(role, inner, outer)
            read[outer.level.name] = read[outer.level.name] + (size_bytes if setting.shared(outer) else own_bytes) * often.every
            if outer.stage < 0:
                read[outer.level.name] = read[outer.level.name] + waste(inner, x, y, setting.bits(role)) * often.own
            mine = (size_bytes if setting.shared(inner) else own_bytes) * often.own
            written[inner.level.name] = written[inner.level.name] + mine
            first = numbers[x][at.firsts + inner.stage] * numbers[y][at.firsts + inner.stage] * (setting.bits(role) / 8)
            chain = chain + float(outer.level.latency_s)
            starts[inner.level.name] = np.minimum(starts.get(inner.level.name, np.inf), chain)
            if not inner.level.double_buffered and inner is setting.holders[role][-1]:
                alternating.append(chain + mine / min(outer.read_bytes_per_s, inner.write_bytes_per_s))
            chain = chain + first / min(outer.read_bytes_per_s, inner.write_bytes_per_s)
            if number == 0:
                crossing, after_first = crossing + first / outer.read_bytes_per_s, chain
        ready = np.maximum(ready, chain)
        if from_dram:
            rests = np.minimum(rests, chain - after_first)
    if from_dram:
        ready = np.maximum(ready, crossing + rests)
    stores: Any = 0.0
    beyond: dict[str, tuple[Any, Any]] = {}
    for outer, inner in pairwise(setting.holders["psums"]):
        often = visits("psums", inner, outer)
        sums, own_sums = extents[0] * extents[1], own_extents[0] * own_extents[1]
        outer_sums, inner_sums = (sums if setting.shared(outer) else own_sums), (sums if setting.shared(inner) else own_sums)
        partial = outer_sums * (often.every - 1) * (gemm.acc_bits / 8)
        read[outer.level.name] = read[outer.level.name] + partial
        written[outer.level.name] = written[outer.level.name] + partial + outer_sums * (gemm.out_bits / 8)
        if outer.stage < 0:
            spilled = waste(inner, 0, 1, gemm.acc_bits) * (often.own - 1)
            read[outer.level.name] = read[outer.level.name] + spilled
            written[outer.level.name] = written[outer.level.name] + spilled + waste(inner, 0, 1, gemm.out_bits)
        partial = inner_sums * (often.own - 1) * (gemm.acc_bits / 8)
        read[inner.level.name] = read[inner.level.name] + partial + inner_sums * (gemm.out_bits / 8)
        written[inner.level.name] = written[inner.level.name] + partial
        if not inner.level.double_buffered and inner is setting.holders["psums"][-1]:
            away = (partial + inner_sums * (gemm.out_bits / 8)) / min(outer.write_bytes_per_s, inner.read_bytes_per_s)
            back = partial / min(outer.read_bytes_per_s, inner.write_bytes_per_s)
            alternating_sums.append((ready + away + back, stores))
        last = numbers[0][at.lasts + inner.stage] * numbers[1][at.lasts + inner.stage] * (gemm.out_bits / 8)
        one, port = last / min(outer.write_bytes_per_s, inner.read_bytes_per_s), last / inner.read_bytes_per_s
        beyond[inner.level.name] = stores + one - port, stores + one
        stores = stores + one
    innermost = {role: holders[-1] for role, holders in setting.holders.items()}
    reads = {"activations": 1, "weights": 0, "psums": 2}
    for role, place in innermost.items():
        x, y, _ = ROLE_AXES[role]
        often_used = numbers[reads[role]][at.accesses]
        elements = own_extents[x] * own_extents[y]
        name = place.level.name
        read[name] = read[name] + elements * (often_used - (role == "psums")) * (setting.bits(role) / 8)
        if role == "psums":
            written[name] = written[name] + elements * often_used * (setting.bits(role) / 8)
    cycles = numbers[0][at.cycles] * numbers[1][at.cycles] * numbers[2][at.cycles]
    extra = numbers[0][at.extra] + numbers[1][at.extra] + numbers[2][at.extra]
    latency = ready + (cycles + extra) / clock_hz + stores
    for transfers in alternating:
        latency = np.maximum(latency, transfers + cycles / clock_hz + stores)
    for transfers, outwards in alternating_sums:
        latency = np.maximum(latency, transfers + cycles / clock_hz + outwards)
    dram = setting.chip.dram
    drain = array.least_drain_cycles(setting) / clock_hz
    for place in setting.places:
        name = place.level.name
        read_s, write_s = read[name] / place.read_bytes_per_s, written[name] / place.write_bytes_per_s
        prefix = float(dram.latency_s) if place.stage < 0 else starts.get(name, ready)
        after = (
            (0.0, 0.0)
            if place.stage < 0 or (setting.shared(place) and setting.cores > 1)
            else beyond.get(name, (drain + stores, drain + stores))
        )
        busy = read_s + write_s + after[0] if place.level.bandwidth.shared else np.maximum(read_s + after[0], write_s + after[1])
        latency = np.maximum(latency, prefix + busy)
    moved_bytes: Any = 0.0
    for size in (*read.values(), *written.values()):
        moved_bytes = moved_bytes + size
    steps = numbers[0][at.own + len(setting.stages)] * numbers[1][at.own + len(setting.stages)] * numbers[2][at.own + len(setting.stages)]
    return Bound(latency, read[dram.name] + written[dram.name], moved_bytes, steps)
