"""Defends: the cycle engine plays a schedule that its rules allow and its mapping fixes, never faster than the tiled bound."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations, product
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from hwmodels import load_chip, with_values
from hwmodels.chip import Bandwidth, Chip, MatrixUnit, MemoryLevel, VectorUnit
from hwmodels.formulas import systolic
from sim import predict, predict_graph, trace_model
from sim.engines import ENGINES, play, roofline, tiled
from sim.engines.cycle import play_classes
from sim.engines.nest import Walk, nest_of
from sim.engines.play_gemm import play_gemm
from sim.engines.played import Besides, Played
from sim.engines.ports import Ports, Unit, Window, move
from sim.intervals import CAUSES, Intervals, Log
from sim.mapper import choice_of, cost_gemm, map_gemm, mapping_of, ranked
from sim.mapper.candidates import ORDERS, variants
from sim.mapper.cost import evaluate
from sim.mapper.problem import Choice, Setting, capacity_bytes, setting_of, tile_bits
from sim.mapper.ranked import bounds, candidates, program_of, sees_all
from sim.mapper.space import all_of
from sim.mapping import AXES, Gemm, GemmMapping, StageTiling, Tile, blocks, whole
from sim.plan import Plan, plan
from sim.timeline import Visits
from tests import test_mapper as some
from tests import walked_gemm as walked
from workloads.demand import GroupClass
from workloads.scenario import PHASES, Phase

ROUNDING = 1 - 1e-9


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "tpu-v4i", "a100-sxm4-80gb"])
def test_no_group_is_faster_than_the_tiled_bound(chip_name: str, phase: Phase) -> None:
    chip = load_chip(chip_name)
    graph = trace_model("llama-3.2-1b", chip.default_format, phase=phase, prompt=70, context=1024)
    planned = plan(graph, chip)
    played_classes = play_classes(planned)
    for bound, played, each in zip(ENGINES["tiled"](planned), ENGINES["cycle"](planned), played_classes, strict=True):
        assert played.latency_s >= bound.latency_s * ROUNDING
        assert played.busy_s == each.bound.busy_s  # what is played is as busy as charged
        assert each.bound.latency_s >= bound.latency_s * ROUNDING
        assert math.isclose(played.lost_s.get("stall", 0.0), played.latency_s - each.bound.latency_s, abs_tol=1e-12)
    roofline, cycle = predict_graph(graph, chip, "roofline"), predict_graph(graph, chip, "cycle")
    lost = sum(float(seconds.sum()) for seconds in cycle.lost_s.values())
    assert math.isclose(roofline.total_s + lost, cycle.total_s, rel_tol=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_cores_that_share_all_memory_work_on_a_tile_once(fused: bool) -> None:
    """Element-wise ops take every element of the tile that cores share, not each core's part as often as there are cores."""
    chip = load_chip("edge-npu")
    chip = replace(chip, cores=4, memory=(chip.dram, replace(chip.memory[1], per="chip")))
    planned = plan(trace_model("stories15m", "int8", phase="prefill", prompt=37), chip, fused)
    split = 0
    for each in play_classes(planned):
        if isinstance(each.mapped.choice, tiled.GemmChoice) and each.played is not None:
            split += each.mapped.choice.mapping.split != (1, 1)
            for name, cycles in each.played.busy.items():
                assert cycles / float(chip.clock_hz) == pytest.approx(each.bound.busy_s[name], rel=1e-9), name
    assert split


def test_an_operand_that_lies_on_the_chip_is_read_before_dram_answers() -> None:
    """A port that both an operand on the chip and weights from DRAM pass has work from the start: 12 reads and writes of 8 B at 0.01 B
    per cycle, and not DRAM's 1,000 cycles before them."""
    chip = load_chip("edge-npu")
    slow, fast = Bandwidth(0.01, 0.01, True, True), Bandwidth(1e6, 1e6, True, True)
    dram, sram = replace(chip.dram, bandwidth=fast, latency_s=1e-6), replace(chip.memory[1], capacity_bytes=1e6)
    outer, inner = replace(sram, name="outer", bandwidth=slow), replace(sram, name="inner", bandwidth=fast)
    chip = replace(chip, memory=(dram, outer, inner))
    stages = tuple(StageTiling(Tile(1, 1, 8), ("m", "n", "k"), 2) for _ in range(2))
    mapping = GemmMapping(Gemm(4, 1, 8, 8, 8, 0, 32, "int8"), stages, (1, 1), 0, "ws", "m")
    cost = cost_gemm(mapping, chip, a_resident=True)
    assert cost.prefix_s["outer"] == 0.0
    assert play_gemm(mapping, chip, cost, a_resident=True).end / float(chip.clock_hz) >= cost.latency_s * ROUNDING
    with_both = cost_gemm(mapping, chip)
    assert with_both.prefix_s["outer"] == 1e-6


@pytest.mark.parametrize("out_bits", [0, 8])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("tiles", [2, 3, 8])
def test_what_a_group_does_besides_may_be_done_while_the_array_drains(tiles: int, dataflow: str, out_bits: int) -> None:
    """Where operands have a memory of their own, and it is the slowest part: the drain after its last read is no longer only waiting."""
    chip = load_chip("gemmini-default")
    scratchpad = replace(chip.memory[1], bandwidth=Bandwidth(4.0, 4.0, True, True))
    fast = Bandwidth(1e6, 1e6, True, True)
    chip = replace(chip, memory=(replace(chip.dram, bandwidth=fast, latency_s=0.0), scratchpad, chip.memory[2]))
    stages = (StageTiling(Tile(16, 16, 16), ("n", "k", "m"), 2),)
    mapping = GemmMapping(Gemm(16 * tiles, 16, 16, 8, 8, out_bits, 32, "int8"), stages, (1, 1), 0, dataflow, "m")
    cost, clock_hz = cost_gemm(mapping, chip), float(chip.clock_hz)
    besides_s = dict.fromkeys(["matrix", "vector", *(level.name for level in chip.memory)], (0.0,))
    besides_s["scratchpad"] = (100.0 * tiles / clock_hz,)
    _, latency_s, bound_by = tiled.gemm_s(cost, besides_s)
    assert bound_by == "scratchpad"
    played = play_gemm(mapping, chip, cost, Besides(0.0, {"scratchpad": (100.0 * tiles,)}, (0.0, 0.0)))
    assert latency_s * ROUNDING <= played.end / clock_hz < latency_s * 1.25
    assert cost.ports["scratchpad"][0].late_s < cost.suffix_s["scratchpad"]


def test_to_the_last_bit() -> None:
    """Rounding of bounds in seconds to cycles and back, and of sums in another order, does not turn engines around."""
    for name, model in (("a100-sxm4-80gb", "llama-3.2-1b"), ("edge-npu", "stories15m"), ("tpu-v4i", "stories15m")):
        chip = load_chip(name)
        for context in (100, 201, 1000) if model == "llama-3.2-1b" else (100, 201):
            graph = trace_model(model, chip.default_format, phase="decode", context=context)
            planned = plan(graph, chip)
            of_engines = [ENGINES[engine](planned) for engine in ("roofline", "tiled", "cycle")]
            for engines in zip(*of_engines, strict=True):
                ideal_s, mapped_s, played_s = (each.latency_s for each in engines)
                assert ideal_s <= mapped_s <= played_s
            ideal, mapped = (predict_graph(graph, chip, engine).total_s for engine in ("roofline", "tiled"))
            played, ahead = (predict_graph(graph, chip, "cycle", prefetch=prefetch).total_s for prefetch in (False, True))
            assert ideal <= mapped <= played >= ahead


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_mappings_on_random_chips(data: st.DataObject) -> None:
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(16))
    mapping = data.draw(some.mappings(gemm, chip))
    cost = cost_gemm(mapping, chip)
    played, clock_hz = play_gemm(mapping, chip, cost), chip.clock_hz
    assert played.end / clock_hz >= cost.latency_s * ROUNDING
    assert math.isclose(sum(played.stalls.values()) + played.busy["matrix"], played.end, rel_tol=1e-9)
    assert played.busy["matrix"] == cost.array_cycles
    for level in chip.memory:
        rates = level.bandwidth
        read_s = cost.read_bytes[level.name] / rates.read_bytes_per_s(clock_hz)
        times = [read_s, cost.written_bytes[level.name] / rates.write_bytes_per_s(clock_hz)]
        charged = sum(times) if rates.shared else max(times)
        assert math.isclose(played.busy[level.name] / clock_hz, charged, rel_tol=1e-9, abs_tol=1e-15)
    names = [*(level.name for level in chip.memory), "matrix", "vector", "launch"]
    log, repeated = Log(names), Log(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Walk, "alike", lambda *_: 0)  # step by step to the end
        in_full = play_gemm(mapping, chip, cost, log=log)
    assert math.isclose(in_full.end, played.end, rel_tol=1e-9)
    play_gemm(mapping, chip, cost, log=repeated)
    same_intervals(log.intervals(), repeated.intervals(), played.end)
    for name, (first, last) in played.spans.items():
        assert in_full.spans[name] == pytest.approx((first, last), rel=1e-9)
    for cause, wait in played.waits.items():
        assert in_full.waits[cause].cycles == pytest.approx(wait.cycles, rel=1e-9, abs=1e-9 * played.end)
        assert in_full.waits[cause].last == pytest.approx(wait.last, rel=1e-9, abs=1e-9 * played.end)
    tiles_are_what_was_played(log.intervals(), in_full, chip)


def same_intervals(one: Intervals, other: Intervals, end: float) -> None:
    """The same intervals, in any order; waits as short as rounding apart."""
    names = ("resource", "what", "cause", "role", "start_s", "end_s", "bytes", "macs")
    columns = []
    for each in (one, other):
        long = each.end_s - each.start_s > 1e-6 * end
        order = np.lexsort((np.round(each.start_s[long] / end, 6), each.role[long], each.what[long], each.resource[long]))
        columns.append([getattr(each, name)[long][order] for name in names])
    for a, b in zip(*columns, strict=True):
        assert a.shape == b.shape
        assert np.all(np.abs(a - b) <= 1e-6 * np.maximum(np.abs(b), end))


def tiles_are_what_was_played(tiles: Intervals, played: Played, chip: Chip) -> None:
    """No resource does two things at a time, each is as busy as played, and no tile goes missing."""
    for index, name in enumerate(tiles.resources):
        here = tiles.resource == index
        for what in ("compute", "read", "write", "stall"):
            some = here & (tiles.what == tiles.kinds.index(what))
            starts, ends = np.sort(tiles.start_s[some]), np.sort(tiles.end_s[some])
            assert np.all(starts[1:] >= ends[:-1] - 1e-9 * played.end), (name, what)
        work = here & (tiles.what != tiles.kinds.index("stall"))
        if not np.any(work):
            assert played.busy.get(name, 0.0) == 0.0
            continue
        assert played.spans[name] == pytest.approx((tiles.start_s[work].min(), tiles.end_s[work].max()), rel=1e-9)
        seconds = [tiles.busy_s[work & (tiles.what == tiles.kinds.index(what))].sum() for what in ("read", "write")]
        shared = name in ("matrix", "vector") or next(level for level in chip.memory if level.name == name).bandwidth.shared
        of_units = tiles.busy_s[work].sum()
        assert played.busy[name] == pytest.approx(of_units if shared else max(seconds), rel=1e-9)
    for cause, cycles in played.stalls.items():
        assert tiles.busy_s[tiles.cause == tiles.causes.index(cause)].sum() == pytest.approx(cycles, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_faster_memory_is_never_slower_for_a_fixed_mapping(data: st.DataObject) -> None:
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(16))
    mapping = data.draw(some.mappings(gemm, chip))
    at = data.draw(st.integers(0, len(chip.memory) - 1))
    level = chip.memory[at]
    faster = replace(level, bandwidth=replace(level.bandwidth, read=level.bandwidth.read * 2, write=level.bandwidth.write * 2))
    memory = (*chip.memory[:at], faster, *chip.memory[at + 1 :])
    slow, fast = (play_gemm(mapping, each, cost_gemm(mapping, each)) for each in (chip, replace(chip, memory=memory)))
    assert fast.end <= slow.end * (1 + 1e-9)
    quick = replace(chip, clock_hz=2 * chip.clock_hz)
    assert play_gemm(mapping, quick, cost_gemm(mapping, quick)).end / 2 <= slow.end * (1 + 1e-9)


def test_components_refuse_a_start_a_cycle_too_early() -> None:
    ports = Ports.of(load_chip("edge-npu"))
    for unit in ports.units:
        unit.issue(unit.earliest(3.0), 7.0)
        with pytest.raises(ValueError, match="taken until 10"):
            unit.issue(unit.earliest(0.0) - 1, 1.0)
        assert unit.issue(unit.earliest(0.0), 1.0) == 11.0
        assert unit.earliest(20.0) == 20.0


def test_a_slow_memory_does_not_keep_a_fast_port() -> None:
    slow, fast = Unit("dram"), Unit("sram")
    assert move(slow, fast, 5.0, 100.0, 10.0) == (5.0, 105.0)
    assert (slow.busy, fast.busy, fast.free) == (100.0, 10.0, 105.0)
    assert move(fast, slow, 0.0, 10.0, 100.0) == (105.0, 205.0 + 10.0 - 10.0)
    # What takes longer to arrive than to leave is taken from when it leaves, not before.
    assert move(Unit("sram"), Unit("dram"), 5.0, 10.0, 100.0) == (5.0, 105.0)


def test_a_level_works_from_its_first_to_its_last_byte_in_either_direction() -> None:
    chip = load_chip("edge-npu")
    dram = replace(chip.dram, bandwidth=replace(chip.dram.bandwidth, shared=False))
    ports = Ports.of(replace(chip, memory=(dram, *chip.memory[1:])))
    port = ports.of_level["dram"]
    port.reader.issue(2.0, 3.0)
    port.writer.issue(1.0, 1.0)
    assert ports.spans == {"dram": (1.0, 5.0)}
    port.writer.issue(8.0, 1.0)
    assert ports.spans == {"dram": (1.0, 9.0)}


# --- a simulator that moves one cycle at a time ---


@dataclass
class Job:
    """`needs` and `room` must be over; the cause is what a step that waits for this job last waits for."""

    resource: str
    cycles: float
    needs: list[Job] = field(default_factory=list)
    room: list[Job] = field(default_factory=list)
    not_before: int = 0
    cause: str = "dram"
    sums: int = -1
    done: int = -1
    start: int = -1
    left: int = -1
    before: list[Job] = field(default_factory=list)

    def missing(self, now: int) -> set[str]:
        """For what it cannot begin yet: operands or sums that are not there, places that are taken, ports that serve others first."""
        late = [job for job in self.needs if not -1 < job.when(self) <= now]
        stores = [job for job in late if job.resource == "nothing" or job.cause == "store"]
        found = {"room"} if stores or any(not -1 < job.when(self) <= now for job in self.room) else set[str]()
        found |= {"data"} if len(late) > len(stores) or now < self.not_before else set[str]()
        return found if self.ports_free(now) else found | {"ports"}

    def ports_free(self, now: int) -> bool:
        """SRAM's ports serve in the order of the program: what reads at its start (steps, stores) or writes when it has come (loads)."""
        reads = self.resource == "array" or self.cause == "store"
        started = all(-1 < job.start <= now for job in self.before if reads and (job.resource == "array" or job.cause == "store"))
        return started and (self.resource != "array" or all(-1 < job.done <= now for job in self.before if job.cause != "store"))

    def arrive(self, now: int) -> None:
        """A load has come when all of it is there and the steps ahead of it have begun."""
        if self.done < 0 <= self.left <= now and all(job.start > -1 for job in self.before if job.resource == "array"):
            self.done = now

    def when(self, asker: Job) -> int:
        """When what the asker waits for is there: of a step, a store waits for the sums, a load for the end. A store of nothing is over
        when its sums are there."""
        if self.resource == "nothing":
            return self.needs[0].sums
        return self.sums if self.resource == "array" and asker.cause == "store" else self.done


def program(
    mapping: GemmMapping, double: bool, rate: float, latency: int, came: dict[int, float] | None = None
) -> tuple[list[Job], list[tuple[int, int, int]]]:
    """Jobs in the order that the play's rules give, from a walk of the nest; the shapes of the array's pieces. `came`: elements of the
    first tiles of W that were there before the start."""
    gemm = mapping.gemm
    tiles = list(blocks(whole(gemm), mapping.stages[0]))
    sizes = [tuple(span.stop - span.start for span in tile) for tile in tiles]
    jobs, steps = [], list[Job]()
    axes = {"A": (0, 2), "W": (2, 1), "C": (0, 1)}
    firsts = {
        role: [i for i, tile in enumerate(tiles) if i == 0 or any(tile[axis] != tiles[i - 1][axis] for axis in axes[role])] for role in axes
    }
    spans = {role: list(pairwise([*begin, len(tiles)])) for role, begin in firsts.items()}
    at = dict.fromkeys(axes, -1)
    loads: dict[str, list[list[Job]]] = {"A": [], "W": []}
    stores: list[list[Job]] = []
    opened: list[Job] = []
    elements = {role: [sizes[i][axes[role][0]] * sizes[i][axes[role][1]] for i in firsts[role]] for role in axes}
    keys = [tuple(tiles[i][axis] for axis in axes["C"]) for i in firsts["C"]]

    def load(role: str, visit: int, slices: int) -> None:
        back = visit - (2 if double else 1)
        room = [steps[spans[role][back][1] - 1]] if back >= 0 else []
        missing = elements[role][visit] - ((came or {}).get(visit, 0) if role == "W" else 0)
        job = Job("dram", missing / rate / slices, room=room, not_before=latency)
        if visit == len(loads[role]):
            loads[role].append([])
        loads[role][visit].append(job)
        if missing:
            jobs.append(job)
        else:
            job.start = job.done = 0

    def store(visit: int, slices: int) -> None:
        size = elements["C"][visit] * (gemm.out_bits / 8 if keys[visit] not in keys[visit + 1 :] else 4)
        job = Job("dram" if size else "nothing", size / rate / slices, needs=[steps[spans["C"][visit][1] - 1]], cause="store")
        if visit == len(stores):
            stores.append([])
        stores[visit].append(job)
        if size:
            jobs.append(job)

    for i in range(len(tiles)):
        if i and i in firsts["C"] and not double:
            store(at["C"], 1)
        for role in ("A", "W"):
            if i in firsts[role]:
                at[role] += 1
                if not double or i == 0:
                    load(role, at[role], 1)
        if i in firsts["C"]:
            at["C"] += 1
            back = at["C"] - (2 if double else 1)
            opened = list(stores[back][-1:]) if back >= 0 else []
            if keys[at["C"]] in keys[: at["C"]]:
                raise AssertionError("sums that leave and come back are not simulated here: draw another mapping")
        step = Job("array", 0.0, needs=[loads["A"][at["A"]][-1], loads["W"][at["W"]][-1], *opened], cause="array")
        steps.append(step)
        jobs.append(step)
        for role in ("A", "W"):
            if double and at[role] + 1 < len(firsts[role]):
                begin, end = spans[role][at[role]]
                load(role, at[role] + 1, end - begin)
        if double and at["C"] > 0:
            begin, end = spans["C"][at["C"]]
            if end - begin == 1 or i > begin:
                store(at["C"] - 1, max(end - begin - 1, 1))
    if double and at["C"] > 0 and len(stores) < at["C"]:
        raise AssertionError
    store(at["C"], 1)
    return jobs, sizes


@dataclass(frozen=True)
class Simulated:
    """Last cycle, stalls, and the window for weights of the next group: how many of its last `span` cycles DRAM is idle; all jobs."""

    end: int
    stalls: dict[str, int]
    idle: int
    span: int
    jobs: list[Job]


def window_of(mapping: GemmMapping, jobs: list[Job], end: int, latency: int, double: bool) -> tuple[int, int]:
    """Idle and all cycles after the last load, when one of two buffers of each operand is free; stores after it are counted one by one."""
    dram, steps = ([job for job in jobs if job.resource == name] for name in ("dram", "array"))
    last = max((i for i, job in enumerate(dram) if job.cause != "store"), default=-1)
    begin = max(latency, dram[last].left if last >= 0 else 0)
    tiles = list(blocks(whole(mapping.gemm), mapping.stages[0]))
    for axes in ((0, 2), (2, 1)) if double else ():
        firsts = [i for i, tile in enumerate(tiles) if i and any(tile[axis] != tiles[i - 1][axis] for axis in axes)]
        begin = max(begin, steps[firsts[-1] - 1].left if firsts else 0)
    begin = min(begin, end)
    stored = {now for job in dram[last + 1 :] for now in range(job.start, job.left)}
    return max(0, end - begin - len(stored)), end - begin


def simulate(mapping: GemmMapping, chip: Chip, rate: float, latency: int, came: dict[int, float] | None = None) -> Simulated:
    """A schedule, moved on cycle by cycle. Raises `UnsatisfiedAssumption` where durations are not whole."""
    unit, double = chip.matrix, chip.memory[1].double_buffered
    jobs, sizes = program(mapping, double, rate, latency, came)
    if any(job.cycles != int(job.cycles) for job in jobs):
        raise UnsatisfiedAssumption
    for i, job in enumerate(jobs):
        job.before = jobs[max(0, i - 6) : i]  # those further back are behind these
    queues = {name: [job for job in jobs if job.resource == name] for name in ("dram", "array")}
    shape = mapping.dataflow, unit.weight_preload, unit.rows, unit.cols
    extras, folds = [0] * len(sizes), [0] * len(sizes)
    if unit.kind == "systolic":
        extras = [int(systolic.alone_cycles(*shape, *size)) - int(systolic.tile_cycles(*shape, *size)) for size in sizes]
        folds = [int(systolic.folds(mapping.dataflow, unit.rows, unit.cols, *size)) for size in sizes]
    for job, size in zip(queues["array"], sizes, strict=True):
        job.cycles = int(systolic.tile_cycles(*shape, *size)) if unit.kind == "systolic" else granule_cycles(unit, *size)
    stalls, free, sums, place = dict.fromkeys(CAUSES, 0), {"dram": 0, "array": 0}, 0, {"dram": 0, "array": 0}
    now = 0
    coming: list[Job] = []
    while any(place[name] < len(queues[name]) for name in queues):
        before = place["dram"], place["array"], len(coming)
        for job in coming:
            job.arrive(now)
        coming = [job for job in coming if job.done < 0]
        for name, queue in queues.items():
            while place[name] < len(queue) and free[name] <= now and not queue[place[name]].missing(now):
                job = queue[place[name]]
                job.start, job.left = now, now + int(job.cycles)
                job.done = job.left if name == "array" or job.cause == "store" else -1
                coming += [job] if job.done < 0 else []
                if name == "array":
                    waits = [need for need in job.needs if need.when(job) == now]
                    cause = "dependency" if not waits else "sram_space" if waits[0].cause in ("room", "store") else "dram"
                    stalls[cause] += now - free[name]
                    sums = max(job.done + extras[place[name]], sums + unit.rows * folds[place[name]] * (mapping.dataflow == "os"))
                    job.sums = sums
                elif job.room and max(room.done for room in job.room) == now > max(free[name], latency):
                    job.cause = "room"
                free[name] = job.left
                place[name] += 1
        now += before == (place["dram"], place["array"], len(coming))  # all that can begin now has begun
    stalls["array"] = sums - free["array"]
    end = max(sums, *free.values())
    stalls["dram"] += end - sums
    return Simulated(end, stalls, *window_of(mapping, jobs, end, latency, double), jobs)


def granule_cycles(unit: MatrixUnit, m: int, n: int, k: int) -> int:
    """Granules of the output are dealt out to the units one by one, each with all its granules along k."""
    busy = [0] * unit.count
    per_granule = unit.tile[0] * unit.tile[1] * unit.tile[2] // int(unit.rates["int8"])
    for i, _ in enumerate(product(range(0, m, unit.tile[0]), range(0, n, unit.tile[1]))):
        busy[i % unit.count] += len(range(0, k, unit.tile[2])) * per_granule
    return max(busy)


def slow_chip(rows: int, cols: int, rate: float, latency: int, double: bool) -> Chip:
    """One array and one SRAM that costs no time; DRAM moves `rate` bytes per cycle."""
    roles = frozenset(("activations", "weights", "psums"))
    bandwidth = Bandwidth(rate * 1e9, rate * 1e9, True, False)
    dram = MemoryLevel("dram", 1e12, bandwidth, "chip", roles, 1, latency * 1e-9, 1, True, False, "", "none")
    sram = replace(dram, name="sram", bandwidth=Bandwidth(1e60, 1e60, False, False), per="core", latency_s=0.0, double_buffered=double)
    unit = MatrixUnit("systolic", 1, rows, cols, (1, 1, 1), ("os", "ws", "is"), "overlapped", {"int8": 1}, {"int8": "int32"})
    return Chip("slow", "int8", 1e9, 1, unit, VectorUnit(1, {}), (dram, sram), 0.0, 0.5, None, "", (), (), {})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_equals_a_simulator_that_moves_one_cycle_at_a_time(data: st.DataObject) -> None:
    side, double = st.integers(1, 8), data.draw(st.booleans())
    rate, latency = data.draw(st.sampled_from([0.25, 0.5, 1.0, 4.0])), data.draw(st.sampled_from([0, 64]))
    chip = slow_chip(data.draw(side), data.draw(side), rate, latency, double)
    gemm = Gemm(*(data.draw(st.integers(1, 40)) for _ in "mnk"), 8, 8, data.draw(st.sampled_from([0, 8])), 32, "int8")
    mapping = small_mapping(data, gemm, chip)
    came, windows = {}, []
    if data.draw(st.booleans()):
        loads = nest_of(mapping, (("weights", (0,)),)).stays["weights"][0].elements[: 2 if double else 1].tolist()
        share = data.draw(st.sampled_from([1.0, 0.5, 0.25]))
        came = {visit: elements * share if visit == len(loads) - 1 else elements for visit, elements in enumerate(loads)}
        windows = [Window(idle=sum(came.values()) / rate, span=1e6, room_bytes=1e6)]
    played = play_gemm(mapping, chip, cost_gemm(mapping, chip), windows=windows)
    equal(played, simulate(mapping, chip, rate, latency, came))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_tensor_cores_of_many_cores_equal_the_simulator(data: st.DataObject) -> None:
    """Cores with equal parts ask the same at the same time: each has its share of DRAM."""
    double, rate, latency = data.draw(st.booleans()), data.draw(st.sampled_from([0.5, 1.0, 4.0])), data.draw(st.sampled_from([0, 64]))
    parts = data.draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1)]))
    cores = parts[0] * parts[1]
    side = st.sampled_from([1, 2, 3, 4])
    granule = data.draw(side), data.draw(side), data.draw(side)
    unit = MatrixUnit("tensor_core", data.draw(st.integers(1, 4)), 1, 1, granule, (), "overlapped", {"int8": 1}, {"int8": "int32"})
    alone = replace(slow_chip(1, 1, rate, latency, double), matrix=unit)
    gemm = Gemm(*(data.draw(st.integers(1, 24)) for _ in "mnk"), 8, 8, data.draw(st.sampled_from([0, 8])), 32, "int8")
    own = small_mapping(data, gemm, alone)
    many = replace(slow_chip(1, 1, rate * cores, latency, double), matrix=unit, cores=cores)
    mapping = replace(own, gemm=replace(gemm, m=gemm.m * parts[0], n=gemm.n * parts[1]), split=parts)
    cost = cost_gemm(mapping, many)
    assert cost.array_cycles == sum(granule_cycles(unit, *size) for size in program(own, double, rate, latency)[1])
    equal(play_gemm(mapping, many, cost), simulate(own, alone, rate, latency))


def equal(played: Played, simulated: Simulated) -> None:
    assert played.end == pytest.approx(simulated.end, abs=1e-6)
    assert {cause: round(cycles) for cause, cycles in played.stalls.items()} == simulated.stalls
    assert (played.idle, played.span) == pytest.approx((simulated.idle, simulated.span), abs=1e-6)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_groups_that_fetch_ahead_equal_the_simulator(data: st.DataObject) -> None:
    """Three groups, one after the other: the weights that come while DRAM is idle in one are missing from the loads of the next."""
    double, rate, latency = data.draw(st.booleans()), data.draw(st.sampled_from([0.5, 1.0, 4.0])), data.draw(st.sampled_from([0, 64]))
    chip = slow_chip(data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8)), rate, latency, double)
    came: dict[int, float] = {}
    windows: list[Window] = []
    for _ in range(3):
        gemm = Gemm(*(data.draw(st.integers(1, 24)) for _ in "mnk"), 8, 8, 8, 32, "int8")
        mapping = small_mapping(data, gemm, chip)
        tiles = nest_of(mapping, (("weights", (0,)),)).stays["weights"][0].elements[: 2 if double else 1].tolist()
        held = min(windows[0].idle * rate, windows[0].room_bytes) if windows else 0.0
        came = {visit: min(max(held - sum(tiles[:visit]), 0.0), elements) for visit, elements in enumerate(tiles)}
        simulated = simulate(mapping, chip, rate, latency, came)
        equal(play_gemm(mapping, chip, cost_gemm(mapping, chip), windows=windows), simulated)
        windows = [Window(simulated.idle, simulated.span, data.draw(st.sampled_from([0.0, 40.0, 1e6])))]


def small_mapping(data: st.DataObject, gemm: Gemm, chip: Chip) -> GemmMapping:
    """A mapping on one core whose tiles are not too many to simulate."""
    mapping = data.draw(some.mappings(gemm, chip))
    tiling = mapping.stages[0]
    tile = type(tiling.tile)(*(max(size, extent // 5, 1) for size, extent in zip(tiling.tile, (gemm.m, gemm.n, gemm.k), strict=True)))
    mapping = replace(mapping, stages=(replace(tiling, tile=tile),), split=(1, 1))
    assume(tiling.order[2] == "k" or tile.k == gemm.k)  # sums that come back are held by the other tests
    return mapping


# --- which mapping is played ---


def class_with(chip: Chip, op: str, **scenario: object) -> tuple[GroupClass, Plan, roofline.Peaks]:
    """The class of groups of a step of llama-3.2-1b that begins with such an op."""
    planned = plan(trace_model("llama-3.2-1b", chip.default_format, **scenario), chip)  # type: ignore[arg-type]
    found = next(each for each in planned.classes if each.ops[0].name.endswith(op))
    return found, planned, roofline.Peaks.of(chip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mappings_are_ranked_by_a_bound_between_tiled_and_played(data: st.DataObject) -> None:
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(16))
    mapping = data.draw(some.mappings(gemm, chip))
    cost, setting = cost_gemm(mapping, chip), setting_of(gemm, chip)
    bound_s, tiled_s, tiles = bounds(setting, choice_of(mapping), {})
    assert tiled_s == pytest.approx(cost.latency_s, rel=1e-12)
    assert tiles == cost.tile_steps
    assert tiled_s <= bound_s <= play_gemm(mapping, chip, cost).end / chip.clock_hz / ROUNDING


def all_choices(setting: Setting) -> Iterator[Choice]:
    """For each variant and order all tiles of a chip of one stage that fit, as arrays."""
    for variant in variants(setting):
        per_axis = [all_of(setting)[2](setting, axis, [(*variant.split, 1)[axis]]).sizes[0] for axis in range(3)]
        m, n, k = (each.ravel() for each in np.meshgrid(*per_axis, indexing="ij"))
        fine = np.ones(len(m), dtype=bool)
        for place in setting.places[1:]:
            fine &= tile_bits(setting, place.level, (m, n, k)) <= 8 * capacity_bytes(setting, place.level)
        if fine.any():
            yield from (Choice(((m[fine], n[fine], k[fine]),), (order,), *variant) for order in ORDERS)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_best_mappings_are_those_of_an_enumeration(data: st.DataObject) -> None:
    chip = data.draw(some.chips().filter(lambda chip: sees_all(chip) and chip.cores <= 2))  # on more the search may give up, and says so
    gemm, count = data.draw(some.gemms(9)), data.draw(st.integers(1, 9))
    besides_s = {
        level.name: tuple(data.draw(st.sampled_from([0.0, 1e-7, 1e-6])) for _ in range(1 if level.bandwidth.shared else 2))
        for level in chip.memory
    }
    setting = setting_of(gemm, chip)
    every = list[float]()
    for choices in all_choices(setting):
        every += bounds(setting, choices, besides_s)[0].tolist()
    best_s = min(every)
    below_s = data.draw(st.sampled_from([1.0, 1.05, 2.0])) * best_s
    found = candidates(gemm, chip, False, besides_s, (0.0, below_s), count, 10**9)
    assert found.others_s > 0
    assert [each.bound_s for each in found.best] == sorted(each.bound_s for each in found.best)
    distinct = sorted(bound for bound in every if bound < below_s)
    assert bool(found.best) == bool(distinct)
    if distinct:
        assert found.best[0].bound_s == pytest.approx(distinct[0], rel=1e-12)
        # Mappings that do the same are among them once.
        assert {round(each.bound_s / best_s, 9) for each in found.best} <= {round(bound / best_s, 9) for bound in distinct}
    seen = {round(each.bound_s / best_s, 9) for each in found.best}
    for bound in distinct:
        assert round(bound / best_s, 9) in seen or bound >= found.others_s / (1 + 1e-9)


@pytest.mark.parametrize(("changes", "shape"), [
    ({"memory.dram.bandwidth": 5e9}, (20, 96, 128)),
    ({"memory.dram.bandwidth": 3e9, "memory.sram.capacity": 20e3}, (59, 48, 30)),
    ({"cores": 2}, (37, 64, 160)),
])
def test_the_best_mappings_do_not_depend_on_the_order_of_search(
    changes: dict[str, float], shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many mappings tie; of them the first among all are taken."""
    chip, gemm = with_values(load_chip("edge-npu"), changes), Gemm(*shape, 8, 8, 8, 32, "int8")
    best_s, found, search = map_gemm(gemm, chip).cost.latency_s, set(), importlib.import_module("sim.mapper.search")
    for at_first, batches, own in ((1024, (32, 64, 512), 512), (1, (1, 1, 3), 7), (100_000, (1000, 1000, 1000), 5000)):
        monkeypatch.setattr(search, "_BOXES_AT_FIRST", at_first)
        monkeypatch.setattr(search, "_BATCH_BOXES", batches)
        monkeypatch.setattr(ranked, "_BATCH", own)
        ranked._answer.cache_clear()
        best, others_s = candidates(gemm, chip, False, {}, (best_s, 1.2 * best_s), 8, 10**9)
        assert len(best) == 8
        assert others_s > 0
        found.add(tuple(each.mapping for each in best))
    assert len(found) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_programs_are_the_same_where_all_cores_walk_the_same_tiles(data: st.DataObject) -> None:
    """A mapping and all others that differ from it in the order of loops."""
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(9))
    mapping = data.draw(some.mappings(gemm, chip))
    setting, cores = setting_of(gemm, chip), list(product(*map(range, mapping.split)))
    choice, steps = choice_of(mapping), [walked.nest(mapping, core) for core in cores]
    for orders in product(permutations(AXES), repeat=len(mapping.stages)):
        stages = tuple(replace(stage, order=order) for stage, order in zip(mapping.stages, orders, strict=True))
        other = replace(mapping, stages=stages)
        is_same = [walked.nest(other, core) for core in cores] == steps
        assert (program_of(setting, choice_of(other)) == program_of(setting, choice)) == is_same


@pytest.mark.parametrize(("chip_name", "m"), [("tpu-v4i", 130), ("edge-npu", 1)])
def test_of_mappings_that_do_the_same_one_is_visited(chip_name: str, m: int) -> None:
    chip = load_chip(chip_name)
    gemm = Gemm(m, 3072, 2048, *((16, 16, 16, 32, "bf16") if chip.default_format == "bf16" else (8, 8, 8, 32, "int8")))
    best_s = map_gemm(gemm, chip).cost.latency_s
    found = candidates(gemm, chip, False, {}, (best_s, 1.2 * best_s), 32, 4096).best
    assert len({program_of(setting_of(gemm, chip), choice_of(each.mapping)) for each in found}) == len(found) == 32


@pytest.mark.parametrize(("chip_name", "op", "scenario"), [
    ("cloud-npu", "o_proj", {"phase": "decode", "context": 1024}),
    ("cloud-npu", "gate_proj", {"phase": "decode", "context": 1024}),
    ("edge-npu", "o_proj", {"phase": "prefill", "prompt": 512}),
])
def test_a_mapping_that_plays_better_than_the_mapper_s_choice_is_found(chip_name: str, op: str, scenario: dict[str, object]) -> None:
    chip = load_chip(chip_name)
    group_class, planned, peaks = class_with(chip, op, **scenario)
    mapped = tiled.map_group(group_class, planned, peaks)
    first = play.play(group_class, mapped, chip)
    visited = play.visit(group_class, mapped, planned, peaks)
    assert visited.played.end < first.end
    assert 1 < visited.visits.mappings <= play.MOST_VISITS
    assert visited.mapped.latency_s >= mapped.latency_s * ROUNDING
    assert visited.mapped.choice != mapped.choice
    again = play.play(group_class, visited.mapped, chip)
    assert (again.end, again.stalls) == (visited.played.end, visited.played.stalls)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_is_said_to_be_proved_is_the_best_of_all_mappings(data: st.DataObject) -> None:
    """Every mapping of a small GEMM that is charged less than the best of them takes, played."""
    rate, double = data.draw(st.sampled_from([0.25, 1.0, 4.0])), data.draw(st.booleans())
    chip = slow_chip(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), rate, 16, double)
    memory = (chip.dram, replace(chip.memory[1], capacity_bytes=data.draw(st.sampled_from([400.0, 1000.0]))))
    chip = replace(chip, memory=memory, vector=VectorUnit(1, {}))
    m, n, k = (data.draw(st.integers(1, 8)) for _ in "mnk")
    mapped = map_gemm(Gemm(m, n, k, 8, 8, 8, 32, "int8"), chip)
    setting = setting_of(mapped.mapping.gemm, chip)
    every = list[tuple[float, Choice]]()
    for choices in all_choices(setting):
        latencies_s = evaluate(setting, choices).latency_s.tolist()
        tiles = zip(*(each.tolist() for each in choices.tiles[0]), strict=True)
        every += [(latency_s, choices._replace(tiles=(tile,))) for latency_s, tile in zip(latencies_s, tiles, strict=True)]
    best = math.inf
    for latency_s, choice in sorted(every, key=itemgetter(0)):
        if latency_s * chip.clock_hz * ROUNDING < best:  # nothing is played faster than it is charged, as others of these tests hold
            each = mapping_of(setting, choice)
            best = min(best, play_gemm(each, chip, cost_gemm(each, chip)).end)
    first = play_gemm(mapped.mapping, chip, mapped.cost)
    found = candidates(mapped.mapping.gemm, chip, False, {}, (mapped.cost.latency_s, first.end / chip.clock_hz), 10**6, 10**6)
    ends = [play_gemm(each.mapping, chip, cost_gemm(each.mapping, chip)).end for each in found.best]
    assert min([first.end, *ends]) == pytest.approx(best, rel=1e-9)


def visits(chip_name: str, phase: Phase) -> list[Visits]:
    """Of all groups with products."""
    chip = load_chip(chip_name)
    planned = plan(trace_model("stories15m", chip.default_format, phase=phase, prompt=70, context=200), chip)
    return [each.visited.visits for each in play_classes(planned) if each.visited is not None]


def test_nothing_is_proved_while_something_that_may_be_better_was_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    known = visits("edge-npu", "prefill")
    monkeypatch.setattr("sim.engines.play.MOST_VISITS", 1)
    alone = visits("edge-npu", "prefill")
    assert {each.mappings for each in alone} == {1}
    assert any(each.mappings > 1 and each.is_proved for each in known)
    for more, one in zip(known, alone, strict=True):
        assert one.is_proved == (more.is_proved and more.mappings == 1)


@pytest.mark.parametrize("phase", PHASES)
def test_little_is_lost_to_stalls_where_the_array_or_memory_is_busy(phase: Phase) -> None:
    """Transfers and element-wise work go in slices between the steps: no linear of edge-npu is 0.5 % above its tiled bound."""
    chip = load_chip("edge-npu")
    planned = plan(trace_model("llama-3.2-1b", "int8", phase=phase, prompt=512, context=1024), chip)
    for each in play_classes(planned):
        if isinstance(each.mapped.choice, tiled.GemmChoice):
            assert each.played is not None
            assert each.played.end / chip.clock_hz < 1.005 * each.mapped.latency_s, each.group_class.ops[0].name


@pytest.mark.parametrize("chip_name", ["h100-sxm5-80gb", "a100-sxm4-80gb"])
def test_the_cause_of_a_wait_is_found_through_the_levels(chip_name: str) -> None:
    """One token's weights come from DRAM by way of L2: what the array waits for is DRAM, not the level next to it."""
    chip = replace(load_chip(chip_name), technology="")  # else it is calibrated, and nothing is played
    step = predict_graph(trace_model("llama-3.2-1b", "bf16", phase="decode", context=64), chip, "cycle")
    assert step.bound_shares["dram"] > 0.8


def test_a_mapping_that_leaves_dram_idle_is_visited() -> None:
    """Of gate_proj for 6,255 rows hundreds of mappings tie that keep DRAM as busy as the array, but only while they spill sums: all of them
    play half as long again as tiled says, and as 6,260 rows take."""
    shorter, longer = (predict("llama-3.2-3b", "tpu-v4i", phase="prefill", prompt=5, batch=n, engine="cycle").total_s for n in (1251, 1252))
    assert shorter <= longer * 1.002
