"""The loop nest of a mapping, walked step by step: every fetch, spill, burst and cycle counted one at a time, for the mapper's tests."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from hwmodels.chip import Chip, MatrixUnit, MemoryLevel
from hwmodels.formulas import systolic, tensor_core
from sim.mapping import AXES, OPERAND_AXES, Block, GemmMapping, Span, blocks, chip_stages, whole

CoreIndex = tuple[int, int]


@dataclass
class Visit:
    """One stay of a tile in a stage."""

    lengths: tuple[int, int]
    first: bool = True
    last: bool = True


@dataclass
class Walk:
    read: dict[str, dict[CoreIndex, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    written: dict[str, dict[CoreIndex, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    cycles: dict[CoreIndex, int] = field(default_factory=lambda: defaultdict(int))
    steps: dict[CoreIndex, int] = field(default_factory=lambda: defaultdict(int))
    issued_macs: float = 0
    visits: dict[tuple[str, int, CoreIndex], list[Visit]] = field(default_factory=dict)
    pieces: dict[CoreIndex, list[tuple[int, int, int]]] = field(default_factory=dict)


def shares(block: Block, split: tuple[int, int]) -> dict[CoreIndex, Block]:
    """Equal parts, by hand."""
    m, n, k = block
    row, col = -(-(m.stop - m.start) // split[0]), -(-(n.stop - n.start) // split[1])
    found = {}
    for i, j in itertools.product(range(split[0]), range(split[1])):
        rows = Span(m.start + i * row, min(m.start + (i + 1) * row, m.stop))
        cols = Span(n.start + j * col, min(n.start + (j + 1) * col, n.stop))
        if rows.start < rows.stop and cols.start < cols.stop:
            found[i, j] = (rows, cols, k)
    return found


def nest(mapping: GemmMapping, core: CoreIndex) -> list[list[Block]]:
    """The tiles of all stages, and what the array gets, step by step of one core; an empty list where the core sits out an enclosing
    tile."""

    def inside(block: Block, stage: int) -> list[list[Block]]:
        if stage == mapping.split_stage:
            own = shares(block, mapping.split)
            if core not in own:
                return [[]]
            block = own[core]
        if stage == len(mapping.stages):
            return [[block]]
        return [[tile, *rest] if rest else [] for tile in blocks(block, mapping.stages[stage]) for rest in inside(tile, stage + 1)]

    return inside(whole(mapping.gemm), 0)


def stays(steps: list[list[Block]], role: str, stage: int) -> list[Visit]:
    x, y = (AXES.index(axis) for axis in OPERAND_AXES[role])
    found: list[tuple[tuple[Span, Span], Visit]] = []
    held = None
    for step in steps:
        if not step:
            held = None
            continue
        tile = (step[stage][x], step[stage][y])
        if tile != held:
            found.append((tile, Visit((tile[0].stop - tile[0].start, tile[1].stop - tile[1].start))))
            held = tile
    seen: dict[tuple[Span, Span], Visit] = {}
    for tile, visit in found:
        if tile in seen:
            visit.first, seen[tile].last = False, False
        seen[tile] = visit
    return [visit for _, visit in found]


def holders(chip: Chip, role: str) -> list[tuple[int, MemoryLevel]]:
    on_chip = [(i, level) for i, stage in enumerate(chip_stages(chip)) for level in stage.levels if role in level.holds]
    return [(-1, chip.memory[0]), *on_chip]


def burst_up(bits: int, level: MemoryLevel, is_dram: bool) -> float:
    return -(-bits // (8 * level.burst_bytes)) * level.burst_bytes if is_dram else bits / 8


def walk(mapping: GemmMapping, chip: Chip) -> Walk:
    result, gemm = Walk(), mapping.gemm
    bits = {"activations": gemm.a_bits, "weights": gemm.w_bits}
    cores = list(itertools.product(range(mapping.split[0]), range(mapping.split[1])))
    steps = {core: nest(mapping, core) for core in cores}
    cores = [core for core in cores if any(steps[core])]
    for role in ("activations", "weights", "psums"):
        for (outer_stage, outer), (stage, inner) in itertools.pairwise(holders(chip, role)):
            shared = stage < mapping.split_stage
            outer_shared = outer_stage < mapping.split_stage
            for core in [(0, 0)] if shared else cores:
                visits = stays(steps[core], role, stage)
                result.visits[role, stage, core] = visits
                outer_core = (0, 0) if outer_shared else core
                for visit in visits:
                    count = visit.lengths[0] * visit.lengths[1]
                    if role == "psums":
                        if not visit.first:
                            result.read[outer.name][outer_core] += burst_up(count * gemm.acc_bits, outer, outer_stage < 0)
                            result.written[inner.name][core] += count * gemm.acc_bits / 8
                        leaving = gemm.out_bits if visit.last else gemm.acc_bits
                        result.read[inner.name][core] += count * leaving / 8
                        if not visit.last or outer_stage >= 0 or gemm.out_in_dram:
                            result.written[outer.name][outer_core] += burst_up(count * leaving, outer, outer_stage < 0)
                    else:
                        served = outer_shared and not shared and outer.multicast and core[1 if role == "activations" else 0] > 0
                        if not served:
                            result.read[outer.name][outer_core] += burst_up(count * bits[role], outer, outer_stage < 0)
                        result.written[inner.name][core] += count * bits[role] / 8
    for core in cores:
        play_array(mapping, chip, core, steps[core], result)
    return result


def unit_parts(length: int, name: str, mapping: GemmMapping, unit: MatrixUnit) -> list[int]:
    """What each unit has of a tile along an axis: whole folds where the axis lies over rows or columns, but for the last."""
    if mapping.array_axis != name:
        return [length]
    rows, cols, _ = systolic.AXES[mapping.dataflow]
    of_fold = {rows: unit.rows, cols: unit.cols}.get(name, 1)
    size = next(size for size in itertools.count(of_fold, of_fold) if size * unit.count >= length)
    return [min(size, length - start) for start in range(0, length, size)]


def play_array(mapping: GemmMapping, chip: Chip, core: CoreIndex, steps: list[list[Block]], result: Walk) -> None:
    gemm, unit = mapping.gemm, chip.matrix
    rate = unit.rates[gemm.compute]
    result.pieces[core] = []
    for step in filter(None, steps):
        m, n, k = (span.stop - span.start for span in step[-1])
        result.pieces[core].append((m, n, k))
        result.steps[core] += 1
        counts = {"activations": 0, "weights": 0, "psums_read": 0, "psums_written": 0}
        if step[-1][2].start > 0:
            counts["psums_read"] += m * n
        if unit.kind == "tensor_core":
            result.cycles[core] += tensor_core.tile_cycles(unit.tile, unit.count, rate, m, n, k)
            result.issued_macs += tensor_core.issued_macs(unit.tile, m, n, k)
            counts["activations"] += m * k
            counts["weights"] += k * n
            counts["psums_written"] += m * n
        else:
            cycles = []
            for um in unit_parts(m, "m", mapping, unit):
                for un in unit_parts(n, "n", mapping, unit):
                    where = (mapping.dataflow, unit.rows, unit.cols, um, un, k, rate)
                    cycles.append(systolic.tile_cycles(mapping.dataflow, unit.weight_preload, *where[1:]))
                    used = systolic.sram_accesses(*where)
                    counts["activations"] += used.a_reads
                    counts["weights"] += used.w_reads
                    counts["psums_read"] += used.psum_reads
                    counts["psums_written"] += used.psum_writes
                    pack = max(rate, 1)
                    lengths = {"m": um, "n": un, "k": systolic.whole_cycles(k / pack)}
                    _, _, streamed = systolic.AXES[mapping.dataflow]
                    folds = systolic.folds(*where)
                    result.issued_macs += folds * unit.rows * unit.cols * lengths[streamed] * pack
            result.cycles[core] += max(cycles)
        for role, direction, size in (
            ("activations", result.read, counts["activations"] * gemm.a_bits / 8),
            ("weights", result.read, counts["weights"] * gemm.w_bits / 8),
            ("psums", result.read, counts["psums_read"] * gemm.acc_bits / 8),
            ("psums", result.written, counts["psums_written"] * gemm.acc_bits / 8),
        ):
            stage, level = holders(chip, role)[-1]
            shared = stage < mapping.split_stage
            parts_axis = {"activations": 1, "weights": 0}.get(role)
            if shared and level.multicast and parts_axis is not None and core[parts_axis] > 0:
                continue
            direction[level.name][(0, 0) if shared else core] += size


def largest_unit_part(mapping: GemmMapping, chip: Chip, piece: tuple[int, int, int]) -> tuple[int, int, int]:
    m, n, k = piece
    return unit_parts(m, "m", mapping, chip.matrix)[0], unit_parts(n, "n", mapping, chip.matrix)[0], k


def step_cycles(mapping: GemmMapping, chip: Chip, piece: tuple[int, int, int], alone: bool) -> int:
    unit, rate = chip.matrix, chip.matrix.rates[mapping.gemm.compute]
    if unit.kind == "tensor_core":
        return int(tensor_core.tile_cycles(unit.tile, unit.count, rate, *piece))
    cycles_of = systolic.alone_cycles if alone else systolic.tile_cycles
    part = largest_unit_part(mapping, chip, piece)
    return int(cycles_of(mapping.dataflow, unit.weight_preload, unit.rows, unit.cols, *part, rate))


def transfer(chip: Chip, outer: tuple[int, MemoryLevel], inner: MemoryLevel, bits: int, load: bool) -> tuple[float, float]:
    """Seconds of one transfer on the outer and on the inner port."""
    stage, level = outer
    outside, inside = level.bandwidth, inner.bandwidth
    outer_bytes = burst_up(bits, level, stage < 0)
    if load:
        return outer_bytes / outside.read_bytes_per_s(chip.clock_hz), bits / 8 / inside.write_bytes_per_s(chip.clock_hz)
    return outer_bytes / outside.write_bytes_per_s(chip.clock_hz), bits / 8 / inside.read_bytes_per_s(chip.clock_hz)


@dataclass
class Loads:
    """Operands on their way to the array: when the first tile of each may come to a level, when both are where the array reads them, and
    for how long all tiles keep the ports of a level busy."""

    started: dict[tuple[str, str], float]
    ready: float
    moves: dict[tuple[str, str], float]


@dataclass
class Stores:
    """Last stores of sums, from the outermost level that holds them inwards: seconds, seconds of the inner port alone; and for how long all
    sums keep the ports of a level busy."""

    last: list[float]
    ports: list[float]
    moves: dict[tuple[str, str], float]


def latency_s(mapping: GemmMapping, chip: Chip, counted: Walk) -> float:
    """The tiled bound from what was walked, written a second time from its definition."""
    loads, stores = loads_of(mapping, chip, counted), stores_of(mapping, chip, counted)
    return max(
        array_bound(mapping, chip, counted, loads, stores),
        *level_bounds(mapping, chip, counted, loads, stores),
        *single_buffer_bounds(mapping, chip, counted, loads, stores),
    )


def loads_of(mapping: GemmMapping, chip: Chip, counted: Walk) -> Loads:
    gemm, clock_hz = mapping.gemm, chip.clock_hz
    found = Loads({}, 0.0, {})
    chains, rests, crossing = [], [], chip.dram.latency_s
    for role, bits in (("activations", gemm.a_bits), ("weights", gemm.w_bits)):
        now = 0.0
        for index, (outer, (stage, inner)) in enumerate(itertools.pairwise(holders(chip, role))):
            now += outer[1].latency_s
            found.started[role, inner.name] = now
            visits = counted.visits[role, stage, (0, 0)]
            ports = transfer(chip, outer, inner, visits[0].lengths[0] * visits[0].lengths[1] * bits, True)
            now += max(ports)
            moved = sum(visit.lengths[0] * visit.lengths[1] for visit in visits) * bits / 8
            rate = min(outer[1].bandwidth.read_bytes_per_s(clock_hz), inner.bandwidth.write_bytes_per_s(clock_hz))
            found.moves[role, inner.name] = moved / rate
            if index == 0:
                crossing, landed = crossing + ports[0], now
        chains.append(now)
        rests.append(now - landed)
    found.ready = max(*chains, crossing + min(rests))
    return found


def stores_of(mapping: GemmMapping, chip: Chip, counted: Walk) -> Stores:
    gemm, clock_hz = mapping.gemm, chip.clock_hz
    found = Stores([], [], {})
    for outer, (stage, inner) in itertools.pairwise(holders(chip, "psums")):
        visits = counted.visits["psums", stage, (0, 0)]
        ports = transfer(chip, outer, inner, visits[-1].lengths[0] * visits[-1].lengths[1] * gemm.out_bits, False)
        arrives = outer[0] >= 0 or gemm.out_in_dram
        ports = ports if arrives else (0.0, ports[1])
        found.last.append(max(ports))
        found.ports.append(ports[1])
        back = sum(v.lengths[0] * v.lengths[1] * gemm.acc_bits / 8 for v in visits if not v.first)
        finished = sum(v.lengths[0] * v.lengths[1] * gemm.out_bits / 8 for v in visits if v.last)
        away = sum(v.lengths[0] * v.lengths[1] * gemm.acc_bits / 8 for v in visits if not v.last)
        into = min(outer[1].bandwidth.read_bytes_per_s(clock_hz), inner.bandwidth.write_bytes_per_s(clock_hz))
        out = min(outer[1].bandwidth.write_bytes_per_s(clock_hz), inner.bandwidth.read_bytes_per_s(clock_hz))
        finished_s = finished / (out if arrives else inner.bandwidth.read_bytes_per_s(clock_hz))
        found.moves["psums", inner.name] = back / into + away / out + finished_s
    return found


def extra_s(mapping: GemmMapping, chip: Chip, piece: tuple[int, int, int]) -> float:
    """What a piece takes by itself more than among others: filling and emptying the array."""
    return (step_cycles(mapping, chip, piece, True) - step_cycles(mapping, chip, piece, False)) / chip.clock_hz


def array_bound(mapping: GemmMapping, chip: Chip, counted: Walk, loads: Loads, stores: Stores) -> float:
    pieces = counted.pieces[0, 0]
    end = pieces[0] if mapping.dataflow == "os" else pieces[-1]
    return loads.ready + counted.cycles[0, 0] / chip.clock_hz + extra_s(mapping, chip, end) + sum(stores.last)


def level_bounds(mapping: GemmMapping, chip: Chip, counted: Walk, loads: Loads, stores: Stores) -> Iterator[float]:
    """Of every level: from its first transfer on it is busy, and then comes what must follow its last read and its last write."""
    clock_hz = chip.clock_hz
    for level in chip.memory:
        read = counted.read[level.name][0, 0] / level.bandwidth.read_bytes_per_s(clock_hz)
        write = counted.written[level.name][0, 0] / level.bandwidth.write_bytes_per_s(clock_hz)
        own_starts = [time for (_, name), time in loads.started.items() if name == level.name]
        prefix = min(own_starts, default=loads.ready) if level is not chip.dram else level.latency_s
        after = after_last(mapping, chip, level, counted.pieces[0, 0][-1], stores)
        if level.bandwidth.shared:
            yield prefix + read + write + after[0]
        else:
            yield prefix + max(read + after[0], write + after[1])


def after_last(mapping: GemmMapping, chip: Chip, level: MemoryLevel, piece: tuple[int, int, int], stores: Stores) -> tuple[float, float]:
    """Seconds that must follow the last read and the last write of a level; `piece` is the last that the array works on."""
    if level is chip.dram:
        return 0.0, 0.0
    sums = [name.name for _, name in holders(chip, "psums")]
    if level.name in sums:
        index = sums.index(level.name) - 1
        return stores.last[index] - stores.ports[index] + sum(stores.last[:index]), sum(stores.last[: index + 1])
    unit = chip.matrix
    drain = 0 if unit.kind == "tensor_core" else (2 if mapping.dataflow == "os" else 1) * unit.rows + unit.cols - 2
    stage = next(stage for stage, found in enumerate(chip_stages(chip)) if level in found.levels)
    shared_by_several = mapping.split != (1, 1) and stage < mapping.split_stage
    step = step_cycles(mapping, chip, (1, 1, 1) if shared_by_several else piece, True) / chip.clock_hz
    rest = 0.0 if shared_by_several else sum(stores.last)
    feeds = any(holders(chip, role)[-1][1] is level for role in ("activations", "weights"))
    return (drain / chip.clock_hz if feeds else step) + rest, step + rest


def single_buffer_bounds(mapping: GemmMapping, chip: Chip, counted: Walk, loads: Loads, stores: Stores) -> Iterator[float]:
    """Where a level has one buffer for the tiles of a role, moving them and using them take turns."""
    last, array_s = counted.pieces[0, 0][-1], counted.cycles[0, 0] / chip.clock_hz
    worked_s = array_s + extra_s(mapping, chip, last)
    for role in ("activations", "weights"):
        places = [level for _, level in holders(chip, role)][1:]
        for index, level in enumerate(places):
            if not level.double_buffered:
                begin = loads.started[role, level.name] + loads.moves[role, level.name]
                if level is places[-1]:
                    yield begin + worked_s + sum(stores.last)
                else:
                    step = step_cycles(mapping, chip, last, True) / chip.clock_hz
                    yield begin + loads.moves[role, places[index + 1].name] + step + sum(stores.last)
    places = [level for _, level in holders(chip, "psums")][1:]
    for index, level in enumerate(places):
        if not level.double_buffered:
            uses = worked_s if level is places[-1] else stores.moves["psums", places[index + 1].name]
            yield loads.ready + stores.moves["psums", level.name] + uses + sum(stores.last[:index])
