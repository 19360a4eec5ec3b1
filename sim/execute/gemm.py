"""A GEMM mapping, executed tile by tile on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hwmodels.chip import Chip, MemoryLevel, Role
from sim.execute.arithmetic import Arithmetic, Exchanged, block_elements, exchanged_elements, issued_macs
from sim.execute.check import check_buffers, check_compute
from sim.execute.tally import Cargo, Tally
from sim.mapping import AXES, OPERAND_AXES, Block, ChipStage, GemmMapping, Span, blocks, chip_stages, core_blocks, whole

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
        # fp32 holds the values of every format that is multiplied here; converted once, not once per tile.
        self.operands: dict[Role, Tensor] = {"activations": a.float(), "weights": w.float()}
        self.outputs = torch.empty((gemm.m, gemm.n), dtype=arithmetic.output_dtype)
        self.spilled: Tensor | None = None
        self.held: dict[tuple[int, Core, Role], _Held] = {}
        self.depth_done: dict[tuple[int, Area], int] = {}
        self.last_tile: dict[int, Block] = {}
        self.largest: dict[tuple[Role, int], int] = {}
        self.broadcast: set[tuple[object, ...]] = set()
        self.tally = Tally()
        self.holders = {role: [depth for depth, stage in enumerate(stages) if role in stage.roles] for role in OPERAND_AXES}
        home = self.holders["activations"].pop(0) if a_resident else None
        self.sources = dict.fromkeys(OPERAND_AXES, chip.dram)
        if home is not None:
            self.sources["activations"] = stages[home].level_of("activations")
        self.roles_at = [[role for role in OPERAND_AXES if depth in self.holders[role]] for depth in range(len(stages))]
        self.bits: dict[Role, int] = {"activations": gemm.a_bits, "weights": gemm.w_bits, "psums": gemm.acc_bits}
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
        if depth == len(self.stages):
            self.multiply(block, core, path)
            return
        for tile in blocks(block, self.mapping.stages[depth]):
            self.note_turns(depth, core, tile)
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

    def note_turns(self, depth: int, core: Core, tile: Block) -> None:
        """Of what all cores share and of the first core, which has a part of every block."""
        if core not in (None, (0, 0)):
            return
        before = self.last_tile.get(depth)
        self.last_tile[depth] = tile
        if before is not None:
            for axis, span, old in zip(AXES, tile, before, strict=True):
                if span != old:
                    self.tally.turns[depth, axis] += 1

    def multiply(self, block: Block, core: Core, path: tuple[object, ...]) -> None:
        """An innermost tile on the matrix units of one core."""
        a, w, sums = (self.nearest(role, len(self.stages), core, _area(role, block)) for role in ("activations", "weights", "psums"))
        self.arithmetic.add_product(sums, a, w)
        m, n, k = block_elements(block)
        self.tally.useful_macs += m * n * k
        self.tally.issued_by_core[core] += self.issued(m, n, k)
        counts = self.exchanged(m, n, k, block[2].start > 0)
        self.note_read("activations", block, path, counts.a_reads)
        self.note_read("weights", block, path, counts.b_reads)
        sums_level = self.name("psums", self.outer("psums", len(self.stages)))
        self.tally.exchange(sums_level, "psums", "read", counts.sums_reads)
        self.tally.exchange(sums_level, "psums", "write", counts.sums_writes)

    def _issued(self, m: int, n: int, k: int) -> int:
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
            self.note_fetch(role, depth, area, path, data.numel())
        self.held[depth, core, role] = _Held(area, data)
        self.note_room(role, depth, data.numel())

    def note_room(self, role: Role, depth: int, elements: int) -> None:
        """Count the room of a tile, where it is larger than those before it."""
        if elements > self.largest.get((role, depth), 0):
            self.largest[role, depth] = elements
            level = self.level(role, depth)
            copies = self.mapping.stages[depth].buffers if level.double_buffered else 1
            self.tally.hold(level.name, role, elements * self.bits[role] * copies)

    def note_fetch(self, role: Role, depth: int, area: Area, path: tuple[object, ...], elements: int) -> None:
        """Count a tile of an operand. Cores that need one tile at the same place of their loops cost one read of a level with multicast."""
        self.tally.move(self.name(role, depth), role, "write", elements)
        if not self.is_broadcast(role, depth, area, path):
            self.tally.move(self.name(role, self.outer(role, depth)), role, "read", elements)

    def note_read(self, role: Role, block: Block, path: tuple[object, ...], elements: int) -> None:
        """Count what the matrix units of a core read of an operand."""
        depth = len(self.stages)
        if not self.is_broadcast(role, depth, _area(role, block), path):
            self.tally.exchange(self.name(role, self.outer(role, depth)), role, "read", elements)

    def is_broadcast(self, role: Role, depth: int, area: Area, path: tuple[object, ...]) -> bool:
        """Whether another core has a tile read at the same place of its loops, from a level that all cores share and that multicasts."""
        level = self.level(role, self.outer(role, depth))
        is_shared = depth >= self.mapping.split_stage and (level is self.chip.dram or level.per == "chip")
        if not (is_shared and level.multicast):
            return False
        if (role, depth, area, path) in self.broadcast:
            return True
        self.broadcast.add((role, depth, area, path))
        return False

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
        within = [key for key in self.held if key[2] == "psums" and key[0] > depth and core in (None, key[1])]
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
        rows, cols = held.area
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
