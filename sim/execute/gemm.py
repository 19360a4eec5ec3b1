"""A GEMM mapping, executed on tensors as its loops say.

The loops of the outer stages are walked tile by tile. The tiles of the innermost stage within one enclosing tile, of which there may be
hundreds of thousands, are walked as arrays (`sim.execute.tiles`): the fetch rule compares each with the one before it, all at once, and
each counts for itself. All tiles of a step of k are multiplied together, and all steps where their sums are not rounded in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hwmodels.chip import Chip, MemoryLevel, Role
from sim.execute.arithmetic import Arithmetic, Exchanged, Issued, block_elements, exchanged_elements, issued_macs
from sim.execute.check import check_buffers, check_compute
from sim.execute.tally import Cargo, Tally
from sim.execute.tiles import Counted, Mask, Tiles, counted
from sim.mapping import (
    AXES,
    OPERAND_AXES,
    Block,
    ChipStage,
    GemmMapping,
    Span,
    StageTiling,
    Tile,
    blocks,
    chip_stages,
    core_blocks,
    whole,
)

Core = tuple[int, int] | None
"""Position of a core in the split; None is what all cores share."""

Area = tuple[Span, Span]
"""What a tile of one role covers: ranges along its two axes."""


@dataclass(slots=True)
class _Held:
    """A tile that a stage holds: which part of the operand, and its elements. Partial sums are a buffer of the stage's own."""

    area: Area
    data: Tensor

    def part(self, area: Area) -> Tensor:
        """A part of the tile; an element that is not held cannot be had."""
        if area == self.area:
            return self.data
        (first, second), (rows, cols) = area, self.area
        if first.start < rows.start or first.stop > rows.stop or second.start < cols.start or second.stop > cols.stop:
            raise AssertionError(f"{area} was never fetched; {self.area} is held")
        return self.data[first.start - rows.start : first.stop - rows.start, second.start - cols.start : second.stop - cols.start]


def execute_gemm(
    mapping: GemmMapping, chip: Chip, a: Tensor, w: Tensor, arithmetic: Arithmetic, a_resident: bool = False
) -> tuple[Tensor, Tally]:
    """C[m, n] = a[m, k] w[k, n] in the output format, moved and multiplied as the mapping says, and what that took.

    `a_resident`: A is whole in the outermost on-chip level that holds activations, and is read there, not in DRAM.
    a and w hold elements of `arithmetic.compute`. Raises ValueError for a mapping that the chip cannot carry out: stages that are not the
    chip's, more parts than cores, a dataflow that the array lacks, tiles that do not fit their level.
    """
    stages = chip_stages(chip)
    _check(mapping, chip, stages, a, w)
    check_compute(mapping.gemm.compute, arithmetic, chip.matrix, mapping.dataflow)
    run = _Run(mapping, chip, stages, a, w, arithmetic, a_resident)
    run.walk(0, whole(mapping.gemm), None, ())
    run.flush()
    _check_room(run.tally, stages)
    return run.outputs, run.tally


class _Run:
    """The state of one execution: what every stage holds, how far each tile of sums has come, and the matrices in DRAM."""

    def __init__(
        self,
        mapping: GemmMapping,
        chip: Chip,
        stages: tuple[ChipStage, ...],
        a: Tensor,
        w: Tensor,
        arithmetic: Arithmetic,
        a_resident: bool,
    ) -> None:
        self.mapping, self.chip, self.stages, self.arithmetic = mapping, chip, stages, arithmetic
        gemm = mapping.gemm
        self.extents = gemm.m, gemm.n, gemm.k
        self.operands: dict[Role, Tensor] = {"activations": a, "weights": w}
        self.outputs = torch.empty((gemm.m, gemm.n), dtype=arithmetic.output_dtype)
        self.spilled: Tensor | None = None
        self.held: dict[tuple[int, Core, Role], _Held] = {}
        self.depth_done: dict[tuple[int, Area], int] = {}
        self.last_tile: dict[int, Block] = {}
        self.largest: dict[tuple[Role, int], int] = {}
        self.broadcast: dict[tuple[object, ...], set[int]] = {}
        self.tally = Tally()
        self.holders = {role: [depth for depth, stage in enumerate(stages) if role in stage.roles] for role in OPERAND_AXES}
        home = self.holders["activations"].pop(0) if a_resident else None
        self.sources = dict.fromkeys(OPERAND_AXES, chip.dram)
        if home is not None:
            self.sources["activations"] = stages[home].level_of("activations")
        self.roles_at = [[role for role in OPERAND_AXES if depth in self.holders[role]] for depth in range(len(stages))]
        self.bits: dict[Role, int] = {"activations": gemm.a_bits, "weights": gemm.w_bits, "psums": gemm.acc_bits}
        self.tiles = lru_cache(maxsize=None)(self._tiles)
        self.issued = lru_cache(maxsize=None)(self._issued)
        self.exchanged = lru_cache(maxsize=None)(self._exchanged)
        self.outer = lru_cache(maxsize=None)(self._outer)
        self.level = lru_cache(maxsize=None)(self._level)

    # The nest of loops

    def walk(self, depth: int, block: Block, core: Core, path: tuple[object, ...]) -> None:
        """All tiles of a stage within an enclosing block, and of the stages within it. `path` is where the outer loops of the core are."""
        if depth == self.mapping.split_stage and core is None:
            self.broadcast.clear()
            placed = _placed(core_blocks(block, self.mapping.split))
            self.give_up({position for position, _ in placed})
            for position, part in placed:
                self.walk(depth, part, position, ())
            return
        if depth == len(self.stages):  # all stages are shared; a core works on its part of a tile
            self.multiply(self.tiles(block_elements(block), None), block, depth, core, path)
            return
        if depth == len(self.stages) - 1 and (core is not None or depth + 1 != self.mapping.split_stage):
            self.innermost(self.tiles(block_elements(block), depth), block, depth, core, path)
            return
        for tile in blocks(block, self.mapping.stages[depth]):
            self.note_turns(depth, core, tile, tile)
            here = (*path, *(span.start - outer.start for span, outer in zip(tile, block, strict=True)))
            for role in self.roles_at[depth]:
                self.need(role, depth, core, _area(role, tile), here)
            self.walk(depth + 1, tile, core, here)
            if "psums" in self.roles_at[depth]:
                sums = depth, _area("psums", tile)
                self.depth_done[sums] = self.depth_done.get(sums, 0) + tile[2].stop - tile[2].start

    def give_up(self, busy: set[tuple[int, int]]) -> None:
        """Cores that have no part of a block give up what they hold."""
        for depth, core, role in sorted((key for key in self.held if key[1] not in (None, *busy)), key=lambda key: -key[0]):
            if role == "psums":
                self.put_away(depth, core)
            else:
                del self.held[depth, core, role]

    def note_turns(self, depth: int, core: Core, first: Block, last: Block) -> None:
        """How long a tile is, and how it differs from the one before it, of what all cores share and of the first core, which has a part of
        every block; the next one comes after `last`. Of tiles that are cut from a block the first is the longest."""
        if core not in (None, (0, 0)):
            return
        for axis, span in zip(AXES, first, strict=True):
            self.tally.longest[depth, axis] = max(self.tally.longest[depth, axis], span.stop - span.start)
        before = self.last_tile.get(depth)
        self.last_tile[depth] = last
        if before is not None:
            for axis, span, old in zip(AXES, first, before, strict=True):
                if span != old:
                    self.tally.turns[depth, axis] += 1

    # The innermost stage

    def innermost(self, tiles: Tiles, block: Block, depth: int, core: Core, path: tuple[object, ...]) -> None:
        """All tiles of the innermost stage within an enclosing block, and their products."""
        self.note_turns(depth, core, tiles.first(block), tiles.last(block))
        if core in (None, (0, 0)):
            for axis, turns in tiles.turns.items():
                self.tally.turns[depth, axis] += turns
        for role in self.roles_at[depth]:
            if role != "psums":
                self.need_all(role, tiles, block, depth, core, path)
        if "psums" not in self.roles_at[depth]:
            self.multiply(tiles, block, depth, core, path)
            return
        begun = self.begin_sums(tiles, block, depth, core)
        self.multiply(tiles, block, depth, core, path, begun)
        self.end_sums(tiles, block, depth, core, begun)

    def need_all(self, role: Role, tiles: Tiles, block: Block, depth: int, core: Core, path: tuple[object, ...]) -> None:
        """The fetch rule for an operand."""
        held = self.held.get((depth, core, role))
        is_held = held is not None and held.area == _area(role, tiles.first(block))
        sizes, fetched, places = tiles.fetched(role, is_held)
        for elements, number in fetched:
            self.tally.move(self.name(role, depth), role, "write", elements, number)
        read = self.is_read(role, depth, _area(role, block), path, places)
        for elements, number in fetched if read is None else counted(sizes[read]):
            self.tally.move(self.name(role, self.outer(role, depth)), role, "read", elements, number)
        area = _area(role, tiles.last(block))
        self.held[depth, core, role] = _Held(area, self.nearest(role, depth, core, area))
        self.note_room(role, depth, tiles.largest[role])

    def is_read(self, role: Role, depth: int, area: Area, path: tuple[object, ...], places: list[int]) -> Mask | None:
        """Whether an operand's tiles cost a read each (None: all of them): those in an area, at some places of the loops that cut it and of
        the loops around (`path`). Cores that need one tile at the same place cost one read of a level that all share and that
        multicasts."""
        level = self.level(role, self.outer(role, depth))
        is_shared = depth >= self.mapping.split_stage and (level is self.chip.dram or level.per == "chip")
        if not (is_shared and level.multicast):
            return None
        seen = self.broadcast.setdefault((role, depth, area, path), set())
        fresh = np.array([place not in seen for place in places], dtype=bool) if seen else None
        seen.update(places)
        return fresh

    def multiply(
        self, tiles: Tiles, block: Block, depth: int, core: Core, path: tuple[object, ...], sums: Tensor | None = None
    ) -> None:
        """Tiles on the matrix units of one core; `sums` are those of the whole block, unless they lie further out."""
        a, w = (self.nearest(role, depth, core, _area(role, block)) for role in ("activations", "weights"))
        sums = self.nearest("psums", depth, core, _area("psums", block)) if sums is None else sums
        self.arithmetic.add_products(sums, a, w, tiles.steps)
        m, n, k = block_elements(block)
        self.tally.useful_macs += m * n * k
        inside, work = len(self.stages), tiles.work(block[2].start > 0, self.issued, self.exchanged)
        self.tally.issue(core, work.issued)
        for index, role in enumerate(_OPERANDS):
            read = self.is_read(role, inside, _area(role, block), path, tiles.places)
            numbers = work.numbers if read is None else np.bincount(work.kind_of[read], minlength=len(work.numbers))
            elements = sum(number * each[index] for number, each in zip(numbers.tolist(), work.exchanged, strict=True))
            self.tally.exchange(self.name(role, self.outer(role, inside)), role, "read", elements)
        level = self.name("psums", self.outer("psums", inside))
        tiles_of_kind = list(zip(work.numbers.tolist(), work.exchanged, strict=True))
        self.tally.exchange(level, "psums", "read", sum(number * each.sums_reads for number, each in tiles_of_kind))
        self.tally.exchange(level, "psums", "write", sum(number * each.sums_writes for number, each in tiles_of_kind))

    def begin_sums(self, tiles: Tiles, block: Block, depth: int, core: Core) -> Tensor:
        """Sums of a whole block before its first step: zeros, or what an earlier block left, in the tile that is held and further out."""
        first = _area("psums", tiles.first(block))
        held = self.held.get((depth, core, "psums"))
        if held is not None and held.area != first:
            self.put_away(depth, core)
            held = None
        here, outer = self.name("psums", depth), self.outer("psums", depth)
        there, moved = self.name("psums", outer), tiles.sums(held is not None, block[2].start)
        for elements, number in moved.arriving:
            self.tally.move(there, "psums", "read", elements, number)
            self.tally.move(here, "psums", "write", elements, number)
        leaving: dict[Cargo, Counted] = {"outputs": moved.finished, "psums": moved.unfinished}
        for cargo, leaves in leaving.items():
            for elements, number in leaves:
                self.tally.move(here, cargo, "read", elements, number)
                self.tally.move(there, cargo, "write", elements, number)
        self.note_room("psums", depth, tiles.largest["psums"])
        area = _area("psums", block)
        rows, cols = (span.stop - span.start for span in area)
        if block[2].start == 0:
            return torch.zeros((rows, cols), dtype=self.arithmetic.sum_dtype)
        if held is not None and held.area == area:
            return held.data
        sums = self.sums_further_out(outer, core, area).clone()
        if held is not None:
            _Held(area, sums).part(first).copy_(held.data)
        return sums

    def end_sums(self, tiles: Tiles, block: Block, depth: int, core: Core, sums: Tensor) -> None:
        """The last tile of sums stays; all others are where they have to be."""
        area, last = _area("psums", block), _area("psums", tiles.last(block))
        if last != area:
            self.write_sums(depth, core, _Held(area, sums), complete=block[2].stop == self.mapping.gemm.k)
        self.held[depth, core, "psums"] = _Held(last, _Held(area, sums).part(last))
        self.depth_done[depth, last] = block[2].stop

    def _tiles(self, extents: tuple[int, int, int], depth: int | None) -> Tiles:
        """Of blocks of some lengths: the tiles of a stage, or (None) the whole block as one."""
        tiling = StageTiling(Tile(*extents), AXES, 1) if depth is None else self.mapping.stages[depth]
        return Tiles(extents, tiling, self.extents)

    def _issued(self, m: int, n: int, k: int) -> Issued:
        mapping = self.mapping
        return issued_macs(self.chip.matrix, mapping.gemm.compute, mapping.dataflow, mapping.array_axis, m, n, k)

    def _exchanged(self, m: int, n: int, k: int, continues: bool) -> Exchanged:
        mapping = self.mapping
        return exchanged_elements(self.chip.matrix, mapping.gemm.compute, mapping.dataflow, mapping.array_axis, (m, n, k), continues)

    # What a stage holds

    def need(self, role: Role, depth: int, core: Core, area: Area, path: tuple[object, ...]) -> None:
        """The fetch rule: a tile is brought in exactly when it is not the one that is held."""
        held = self.held.get((depth, core, role))
        if held is not None and held.area == area:
            return
        if role == "psums":
            self.put_away(depth, core)
            data = self.sums_of(depth, core, area)
        else:
            data = self.nearest(role, depth, core, area)
            self.tally.move(self.name(role, depth), role, "write", data.numel())
            read = self.is_read(role, depth, area, path, [0])
            if read is None or read[0]:
                self.tally.move(self.name(role, self.outer(role, depth)), role, "read", data.numel())
        self.held[depth, core, role] = _Held(area, data)
        self.note_room(role, depth, data.numel())

    def note_room(self, role: Role, depth: int, elements: int) -> None:
        """Count the room of a tile, where it is larger than those before it."""
        if elements > self.largest.get((role, depth), 0):
            self.largest[role, depth] = elements
            level = self.level(role, depth)
            copies = self.mapping.stages[depth].buffers if level.double_buffered else 1
            self.tally.hold(level.name, role, elements * self.bits[role] * copies)

    def nearest(self, role: Role, depth: int, core: Core, area: Area) -> Tensor:
        """Elements of a role from the next place further out that holds it."""
        outer = self.outer(role, depth)
        if outer is None:
            rows, cols = area
            return self.operands[role][rows.start : rows.stop, cols.start : cols.stop]
        return self.held[outer, self.owner(outer, core), role].part(area)

    # Partial sums

    def sums_of(self, depth: int, core: Core, area: Area) -> Tensor:
        """A buffer for a tile of sums: zeros for one that was not begun, else read back from where it was put."""
        rows, cols = (span.stop - span.start for span in area)
        if not self.depth_done.get((depth, area)):
            return torch.zeros((rows, cols), dtype=self.arithmetic.sum_dtype)
        outer = self.outer("psums", depth)
        self.tally.move(self.name("psums", outer), "psums", "read", rows * cols)
        self.tally.move(self.name("psums", depth), "psums", "write", rows * cols)
        return self.sums_further_out(outer, core, area).clone()

    def sums_further_out(self, outer: int | None, core: Core, area: Area) -> Tensor:
        """Where a tile of unfinished sums lies outside of its stage."""
        if outer is not None:
            return self.held[outer, self.owner(outer, core), "psums"].part(area)
        if self.spilled is None:
            self.spilled = torch.empty(self.outputs.shape, dtype=self.arithmetic.sum_dtype)
        rows, cols = area
        return self.spilled[rows.start : rows.stop, cols.start : cols.stop]

    def put_away(self, depth: int, core: Core) -> None:
        """Write out the tile of sums that a stage holds, after those that the stages within hold of it."""
        held = self.held.pop((depth, core, "psums"), None)
        if held is None:
            return
        innermost = depth == self.holders["psums"][-1]
        within = [] if innermost else [key for key in self.held if key[2] == "psums" and key[0] > depth and core in (None, key[1])]
        self.held[depth, core, "psums"] = held  # the inner ones are put into it
        for inner in sorted(within, key=lambda key: -key[0]):
            self.put_away(inner[0], inner[1])
        del self.held[depth, core, "psums"]
        self.write_out(depth, core, held)

    def write_out(self, depth: int, core: Core, held: _Held) -> None:
        """Finished sums leave in the output format, which they get from the innermost stage that holds sums; others as they are."""
        complete = self.depth_done[depth, held.area] == self.mapping.gemm.k
        cargo: Cargo = "outputs" if complete else "psums"
        outer = self.outer("psums", depth)
        self.tally.move(self.name("psums", depth), cargo, "read", held.data.numel())
        self.tally.move(self.name("psums", outer), cargo, "write", held.data.numel())
        self.write_sums(depth, core, held, complete)

    def write_sums(self, depth: int, core: Core, held: _Held, complete: bool) -> None:
        """Put sums where they lie outside of their stage; complete ones get their format in the innermost stage that holds sums."""
        (rows, cols), outer = held.area, self.outer("psums", depth)
        data = self.arithmetic.finish(held.data, cols) if complete and depth == self.holders["psums"][-1] else held.data
        if complete and outer is None:
            self.outputs[rows.start : rows.stop, cols.start : cols.stop] = data
        else:
            self.sums_further_out(outer, core, held.area).copy_(data)

    def flush(self) -> None:
        """At the end everything that is still held is written out."""
        for depth, core, role in sorted((key for key in self.held if key[2] == "psums"), key=lambda key: -key[0]):
            assert role == "psums"
            self.put_away(depth, core)

    # Places

    def _outer(self, role: Role, depth: int) -> int | None:
        """The next stage further out than `depth` that holds tiles of a role; None is where the whole operand lies."""
        return max((holder for holder in self.holders[role] if holder < depth), default=None)

    def owner(self, depth: int, core: Core) -> Core:
        return core if depth >= self.mapping.split_stage else None

    def _level(self, role: Role, depth: int | None) -> MemoryLevel:
        return self.sources[role] if depth is None else self.stages[depth].level_of(role)

    def name(self, role: Role, depth: int | None) -> str:
        return self.level(role, depth).name


_OPERANDS: tuple[Role, Role] = ("activations", "weights")


_PLACES = {role: (AXES.index(first), AXES.index(second)) for role, (first, second) in OPERAND_AXES.items()}


def _area(role: Role, block: Block) -> Area:
    first, second = _PLACES[role]
    return block[first], block[second]


def _placed(parts: list[Block]) -> list[tuple[tuple[int, int], Block]]:
    """Each core's block with the core's position: how many distinct rows and columns of blocks come before it."""
    rows = sorted({part[0] for part in parts})
    cols = sorted({part[1] for part in parts})
    return [((rows.index(part[0]), cols.index(part[1])), part) for part in parts]


def _check(mapping: GemmMapping, chip: Chip, stages: tuple[ChipStage, ...], a: Tensor, w: Tensor) -> None:
    gemm = mapping.gemm
    if tuple(a.shape) != (gemm.m, gemm.k) or tuple(w.shape) != (gemm.k, gemm.n):
        raise ValueError(f"tensors {tuple(a.shape)} and {tuple(w.shape)} are not those of m {gemm.m}, n {gemm.n}, k {gemm.k}")
    if len(mapping.stages) != len(stages):
        raise ValueError(f"the mapping has {len(mapping.stages)} stages, {chip.name} has {len(stages)}")
    shared = sum(not stage.per_core for stage in stages)
    if mapping.split_stage != shared:
        raise ValueError(f"split_stage is {mapping.split_stage}; the first stage that a core of {chip.name} has for itself is {shared}")
    if mapping.split[0] < 1 or mapping.split[1] < 1 or mapping.split[0] * mapping.split[1] > chip.cores:
        raise ValueError(f"a split of {mapping.split} needs as many cores; {chip.name} has {chip.cores}")
    for role in OPERAND_AXES:
        if not any(role in stage.roles for stage in stages):
            raise ValueError(f"no on-chip level of {chip.name} holds {role}")
    for tiling, stage in zip(mapping.stages, stages, strict=True):
        check_buffers(tiling.buffers, stage.levels)
        if min(tiling.tile) < 1 or tiling.buffers < 1 or sorted(tiling.order) != sorted(AXES):
            raise ValueError(f"not a tiling: {tiling}")


def _check_room(tally: Tally, stages: tuple[ChipStage, ...]) -> None:
    for stage in stages:
        for level in stage.levels:
            needed_bytes = -(-tally.level_bits(level.name) // 8)
            if needed_bytes > level.capacity_bytes:
                raise ValueError(f"the tiles take {needed_bytes} bytes of {level.name}; raise memory.{level.name}.capacity to hold them")
