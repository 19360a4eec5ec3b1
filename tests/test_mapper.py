"""Defends: the cost of a mapping is what walking its loops costs, and the mapper finds the mapping of least cost."""

from __future__ import annotations

import csv
import importlib
import itertools
import math
import platform
import random
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from functional.errors import BadInput
from hwmodels import with_values
from hwmodels.chip import Bandwidth, Chip, MatrixUnit, MemoryLevel, Role, VectorUnit
from hwmodels.formulas import systolic
from hwmodels.formulas.tiling import cut_axis
from hwmodels.load import load_chip
from sim.mapper import NOTHING, Besides, GemmCost, array, cost_gemm, map_gemm, map_gemm_traffic
from sim.mapper.bound import Bounder
from sim.mapper.candidates import all_tiles, array_grains, thin_tiles, variants
from sim.mapper.cost import _Case, evaluate
from sim.mapper.problem import Choice, Setting, setting_of
from sim.mapper.space import TilesOf, all_of, thin_of
from sim.mapper.tables import Asked, AxisAsked, depth_of, fill, layout_of, takes_turns
from sim.mapping import AXES, Gemm, GemmMapping, StageTiling, Tile, chip_stages
from tests.chips import chips as valid_chips
from tests.walked_gemm import latency_s, walk

search_module: ModuleType = importlib.import_module("sim.mapper.search")  # the package has a function of this name

W, A, P = "weights", "activations", "psums"
MEMORIES: tuple[tuple[tuple[str, tuple[Role, ...]], ...], ...] = (
    (("core", (W, A, P)),),
    (("chip", (W, A, P)),),
    (("core", (W, A)), ("core", (P,))),
    (("chip", (W, A)), ("core", (W, A)), ("core", (P,))),
    (("chip", (W, A)), ("core", (W, A, P))),
    (("chip", (W, A, P)), ("core", (W, A, P))),
    (("chip", (W, A, P)), ("chip", (W, A, P))),
    (("core", (W, A, P)), ("core", (W, A, P))),
    (("core", (W, A, P)), ("core", (W,))),
    (("chip", (W, A, P)), ("chip", (W, A, P)), ("core", (W, A, P))),
    (("chip", (W, A)), ("chip", (W, A, P)), ("core", (W, A)), ("core", (P,))),
)
"""Per and holds of the on-chip levels, outermost first: one to three stages, operands that pass by a stage, accumulators apart."""


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-15)


@st.composite
def units(draw: st.DrawFn) -> MatrixUnit:
    rates = {"int8": draw(st.sampled_from([0.5, 1, 1.5, 2, 3]))}
    preload, count = draw(st.sampled_from(["overlapped", "serial"])), draw(st.integers(1, 3))
    side = st.integers(1, 5)
    if draw(st.booleans()):
        return MatrixUnit("systolic", count, draw(side), draw(side), (1, 1, 1), ("os", "ws", "is"), preload, rates, {"int8": "int32"})
    return MatrixUnit("tensor_core", count, 1, 1, (draw(side), draw(side), draw(side)), (), "overlapped", rates, {"int8": "int32"})


@st.composite
def levels(draw: st.DrawFn, name: str, per: str, holds: tuple[Role, ...], capacity_bytes: float) -> MemoryLevel:
    shared = draw(st.booleans())
    rate = st.sampled_from([1e9, 3e9, 8e9])
    read = draw(rate)
    return MemoryLevel(
        name=name,
        capacity_bytes=capacity_bytes,
        bandwidth=Bandwidth(read, read if shared else draw(rate), shared, False),
        per="core" if per == "core" else "chip",
        holds=frozenset(holds),
        channels=1,
        latency_s=draw(st.sampled_from([0.0, 1e-8])),
        burst_bytes=draw(st.sampled_from([1, 4, 7])),
        double_buffered=draw(st.booleans()),
        multicast=draw(st.booleans()),
        technology="",
        ecc="none",
    )


@st.composite
def chips(
    draw: st.DrawFn, memories: tuple[int, ...] = tuple(range(9)), cores: tuple[int, ...] = (1, 2, 3, 7), room: bool = True
) -> Chip:
    memory = [draw(levels("dram", "chip", (W, A, P), 1e12))]
    for i, (per, holds) in enumerate(MEMORIES[draw(st.sampled_from(memories))]):
        capacity_bytes = 1e9 if room else float(draw(st.integers(50, 400)))
        memory.append(draw(levels(f"level{i}", per, holds, capacity_bytes)))
    vector = VectorUnit(1, {})
    number = draw(st.sampled_from(cores))
    return Chip("random", "int8", 1e9, number, draw(units()), vector, tuple(memory), 0.0, 0.5, None, "", (), (), {})


def gemms(limit: int) -> st.SearchStrategy[Gemm]:
    extent, bits = st.integers(1, limit), st.sampled_from([4, 8, 16])
    return st.builds(Gemm, extent, extent, extent, bits, bits, st.sampled_from([0, 8, 16]), st.just(32), st.just("int8"), st.booleans())


@st.composite
def mappings(draw: st.DrawFn, gemm: Gemm, chip: Chip) -> GemmMapping:
    extents, tilings = [gemm.m, gemm.n, gemm.k], []
    stages = chip_stages(chip)
    for _ in stages:
        extents = [draw(st.integers(1, extent)) for extent in extents]
        order = draw(st.permutations(AXES))
        tilings.append(StageTiling(Tile(*extents), (order[0], order[1], order[2]), 2))
    rows = draw(st.integers(1, int(chip.cores)))
    cols = draw(st.integers(1, int(chip.cores) // rows))
    split_stage = sum(not stage.per_core for stage in stages)
    dataflow = draw(st.sampled_from(chip.matrix.dataflows)) if chip.matrix.dataflows else ""
    return GemmMapping(gemm, tuple(tilings), (rows, cols), split_stage, dataflow, draw(st.sampled_from(["m", "n"])))


# --- the cost of a mapping ---


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_random_mapping_on_a_random_chip_costs_what_walking_its_loops_costs(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips()), data.draw(gemms(13))
    mapping = data.draw(mappings(gemm, chip))
    cost, walked = cost_gemm(mapping, chip), walk(mapping, chip)
    for level in chip.memory:
        for charged, sizes in ((cost.read_bytes, walked.read[level.name]), (cost.written_bytes, walked.written[level.name])):
            assert charged[level.name] == close(sizes.get((0, 0), 0))
            # A smaller part may stream through more matrix units of its core, each of which reads for itself.
            assert int(chip.matrix.count) > 1 or charged[level.name] == close(max(sizes.values(), default=0))
    assert cost.array_cycles == max(walked.cycles.values())
    assert cost.tile_steps == max(walked.steps.values())
    assert cost.issued_macs == close(round(walked.issued_macs)) or abs(cost.issued_macs - walked.issued_macs) <= 1
    assert cost.latency_s == close(latency_s(mapping, chip, walked))


def test_a_core_that_sits_out_a_tile_below_two_shared_memories_fetches_again_as_when_walked() -> None:
    """Every way to cut an axis of up to 9 twice and then over up to 4 cores."""
    port = Bandwidth(1e9, 1e9, True, False)
    level = MemoryLevel("dram", 1e12, port, "chip", frozenset({W, A, P}), 1, 0.0, 1, True, False, "", "none")
    outer, inner, own = (replace(level, name=name, per=per) for name, per in (("outer", "chip"), ("inner", "chip"), ("own", "core")))
    unit = MatrixUnit("systolic", 1, 2, 2, (1, 1, 1), ("ws",), "overlapped", {"int8": 1}, {"int8": "int32"})
    chip = Chip("hand", "int8", 1e9, 4, unit, VectorUnit(1, {}), (level, outer, inner, own), 0.0, 0.5, None, "", (), (), {})
    for n, cores in itertools.product(range(1, 10), (2, 3, 4)):
        for first, second in [(i, j) for i in range(1, n + 1) for j in range(1, i + 1)]:
            tiles = [StageTiling(Tile(1, tile, 1), ("m", "n", "k"), 2) for tile in (first, second, 1)]
            mapping = GemmMapping(Gemm(1, n, 1, 8, 8, 8, 32, "int8"), tuple(tiles), (1, cores), 2, "ws", "m")
            cost, walked = cost_gemm(mapping, chip), walk(mapping, chip)
            for name in ("dram", "outer", "inner", "own"):
                assert cost.read_bytes[name] == walked.read[name][0, 0], mapping
                assert cost.written_bytes[name] == walked.written[name][0, 0], mapping


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mappings_of_several_splits_cost_together_what_each_costs_alone(data: st.DataObject) -> None:
    """On up to three stages; splits over one core apart."""
    chip, gemm = data.draw(chips(tuple(range(len(MEMORIES))), (2, 3, 7))), data.draw(gemms(20))
    setting = setting_of(gemm, chip, besides=data.draw(some_besides(chip)))
    drawn = st.lists(mappings(gemm, chip).filter(lambda mapping: mapping.split != (1, 1)), min_size=2, max_size=4)
    alike = choice_of(data.draw(mappings(gemm, chip)))
    choices = [choice_of(mapping)._replace(dataflow=alike.dataflow, array_axis=alike.array_axis) for mapping in data.draw(drawn)]
    tiles, ranks = (tuple(map(tuple, np.moveaxis(np.array([choice[i] for choice in choices]), 0, 2))) for i in (0, 1))
    split = tuple(np.array([choice.split for choice in choices]).T)
    costs = evaluate(setting, Choice(tiles, ranks, split, *alike[3:]))
    for i, amounts in enumerate(zip(*(np.broadcast_to(each, len(choices)) for each in costs[:4]), strict=True)):
        assert amounts == close_each(evaluate(setting, choices[i])[:4])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_cost_is_below_the_roofline(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips()), data.draw(gemms(40))
    cost = cost_gemm(data.draw(mappings(gemm, chip)), chip)
    assert cost.latency_s >= roofline_s(gemm, chip) * (1 - 1e-12)
    assert cost.dram_bytes >= compulsory_bytes(gemm)
    assert cost.issued_macs >= gemm.macs
    assert cost.utilisation <= 1 + 1e-12


def compulsory_bytes(gemm: Gemm) -> float:
    return (gemm.m * gemm.k * gemm.a_bits + gemm.k * gemm.n * gemm.w_bits + gemm.m * gemm.n * gemm.out_bits * gemm.out_in_dram) / 8


def roofline_s(gemm: Gemm, chip: Chip) -> float:
    """Each operand once from each level that holds it, sums once into their level, all MACs at the peak."""
    times = [gemm.macs / float(chip.peak_macs_per_s(gemm.compute))]
    sizes = {"activations": gemm.m * gemm.k * gemm.a_bits / 8, "weights": gemm.k * gemm.n * gemm.w_bits / 8}
    for level in chip.memory:
        read = sum(size for role, size in sizes.items() if role in level.holds)
        written = gemm.m * gemm.n * gemm.out_bits / 8 if "psums" in level.holds else 0
        rates = float(chip.read_bytes_per_s(level)), float(chip.write_bytes_per_s(level))
        times.append((read + written) / rates[0] if level.bandwidth.shared else max(read / rates[0], written / rates[1]))
    return max(times)


@st.composite
def some_besides(draw: st.DrawFn, chip: Chip) -> Besides:
    """Nothing, or a few bytes on each level; and scales of up to two linears."""
    if draw(st.booleans()):
        return NOTHING
    sizes = st.integers(0, 3000)
    return Besides(tuple((draw(sizes), draw(sizes)) for _ in chip.memory), tuple(draw(st.lists(st.integers(1, 300), max_size=2))))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_bound_of_a_box_is_below_the_cost_of_each_mapping_in_it(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips()), data.draw(gemms(20))
    pair = [data.draw(mappings(gemm, chip))]
    setting = setting_of(gemm, chip, besides=data.draw(some_besides(chip)))
    choice = choice_of(pair[0])
    cost = evaluate(setting, choice)
    for low in bounds_of(setting, choice, further=3):
        for lower, exact in zip(low, (cost.latency_s, cost.dram_bytes, cost.moved_bytes, cost.steps), strict=True):
            assert float(lower[0]) <= float(exact) * (1 + 1e-9)


def filled(setting: Setting, asked: list[Asked], choice: Choice) -> np.ndarray:
    """Numbers of candidates of the three axes, as many of each."""
    axes = [AxisAsked(axis, [own], [(choice.dataflow, choice.array_axis)], depth_of([own])) for axis, own in enumerate(asked)]
    columns = axes[0].columns
    table = np.empty((layout_of(setting).rows, 3 * columns))
    assert fill([setting], axes, 1e30, table) == [0, columns, 2 * columns]
    return table


def bounds_of(setting: Setting, choice: Choice, further: int) -> list[np.ndarray]:
    """Of a box of the mapping and those with tiles that are longer by so much, and of the mapping itself."""
    tiles = [
        np.array([[tile[axis] for tile in choice.tiles], [min(tile[axis] + further, extent) for tile in choice.tiles]]).T
        for axis, extent in enumerate(setting.extents)
    ]
    parts = (*choice.split, 1)
    table = filled(setting, [Asked(parts[axis], tiles[axis]) for axis in range(3)], choice)
    bounder, none = Bounder(setting, [choice.ranks], [array.drain_cycles(setting, choice.dataflow)]), np.zeros(1, dtype=int)
    pairs = table.reshape(len(table), 3, 2)
    each = ((pairs.min(axis=2, keepdims=True), False), (pairs[..., :1], True))
    return [bounder(numbers, none, none, single)[0] for numbers, single in each]


def test_a_bound_counts_what_the_first_core_has_of_tiles_in_which_a_loop_moves() -> None:
    """Every way to cut an axis of up to 11 twice and then over three cores: the first has another share of the tile at the edge than of
    whole ones."""
    port = Bandwidth(1e9, 1e9, True, False)
    level = MemoryLevel("dram", 1e12, port, "chip", frozenset({W, A, P}), 1, 0.0, 1, True, False, "", "none")
    outer, inner, own = (replace(level, name=name, per=per) for name, per in (("outer", "chip"), ("inner", "chip"), ("own", "core")))
    unit = MatrixUnit("systolic", 1, 2, 2, (1, 1, 1), ("ws",), "overlapped", {"int8": 1}, {"int8": "int32"})
    chip = Chip("hand", "int8", 1e9, 3, unit, VectorUnit(1, {}), (level, outer, inner, own), 0.0, 0.5, None, "", (), (), {})
    for m in range(1, 12):
        setting = setting_of(Gemm(m, 1, 3, 8, 8, 8, 32, "int8"), chip)
        for first, second in [(i, j) for i in range(1, m + 1) for j in range(1, i + 1)]:
            choice = Choice(((first, 1, 2), (second, 1, 1), (1, 1, 1)), ((0, 1, 2),) * 3, (3, 1), "ws", "m")
            _, single = bounds_of(setting, choice, further=0)
            assert float(single[2, 0]) <= evaluate(setting, choice).moved_bytes, choice


def test_a_level_in_which_an_operand_lies_begins_before_another_one_has_come() -> None:
    """The weights come from DRAM while the activations are read from where they lie."""
    chip = edge()
    dram, sram = chip.memory
    dram = replace(dram, latency_s=1e-3)
    lies = replace(sram, name="lies", holds=frozenset({A}), latency_s=3e-9)
    gemm, chip = Gemm(8, 8, 8, 8, 8, 8, 32, "int8"), replace(chip, memory=(dram, lies, sram))
    assert map_gemm(gemm, chip, a_resident=True).cost.prefix_s["lies"] == 3e-9
    assert map_gemm(gemm, chip).cost.prefix_s["lies"] == 1e-3


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_numbers_of_single_axes_make_what_the_array_is_charged(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips()), data.draw(gemms(60))
    setting, choice = setting_of(gemm, chip), choice_of(data.draw(mappings(gemm, chip)))
    asked = [Asked(parts, np.array([[tile[axis]] for tile in choice.tiles])) for axis, parts in enumerate((*choice.split, 1))]
    at, numbers = layout_of(setting), filled(setting, asked, choice)
    case = _Case(setting, choice)
    used = case.used()
    assert numbers[at.steps].prod() == used.steps
    if chip.matrix.kind == "systolic":
        assert numbers[at.cycles].prod() == used.cycles
        assert numbers[at.extra].sum() == used.extra_cycles
    elif takes_turns(setting):
        (m_granules, n_granules, _), (m_pieces, n_pieces, _) = numbers[at.granules : at.rows].reshape(2, -1, 3).swapaxes(1, 2)
        turns = np.ceil(np.outer(m_granules, n_granules) / chip.matrix.count)
        cycles = m_pieces @ turns @ n_pieces * numbers[at.cycles, 2] * chip.matrix.tile[0] * chip.matrix.tile[1]
        assert cycles <= used.cycles * (1 + 1e-12)
        if math.prod(chip.matrix.tile) % setting.rate == 0:
            assert cycles == pytest.approx(used.cycles)
    own = case.laid.accesses(dict.fromkeys((W, A, P), case.charges))
    extents = [sum(block.blocks * block.length for block in axis.around[-1]) for axis in case.first]
    m, n, k = numbers[at.accesses]
    assert (own.a_reads, own.w_reads) == (extents[0] * extents[2] * n, extents[1] * extents[2] * m)
    assert own.psum_writes == extents[0] * extents[1] * k


@given(
    st.sampled_from(["os", "ws", "is"]),
    st.sampled_from(["overlapped", "serial"]),
    st.sampled_from([0.3, 0.5, 1.0, 1.5, 4.0]),
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.integers(1, 70)] * 3),
)
def test_one_array_is_charged_for_a_tile_as_the_formulas_say(
    dataflow: str, preload: Any, rate: float, size: tuple[int, int], tile: tuple[int, int, int]
) -> None:
    unit = MatrixUnit("systolic", 1, *size, (1, 1, 1), (dataflow,), preload, {"int8": rate}, {"int8": "int32"})
    setting = setting_of(Gemm(*tile, 8, 8, 8, 32, "int8"), replace(edge(), matrix=unit))
    laid = array.laid(setting, dataflow, "m")
    assert laid.step_cycles(tile) == systolic.alone_cycles(dataflow, preload, *size, *tile, rate)
    folds = systolic.tile_cycles(dataflow, preload, *size, *tile, rate)
    cuts = [cut_axis(extent, [extent], 0, 1, every=False) for extent in tile]
    charges = laid.charge(cuts)
    assert laid.use(cuts, charges, tile).cycles == folds
    assert laid.accesses(dict.fromkeys((W, A, P), charges)) == systolic.sram_accesses(dataflow, *size, *tile, rate)


def choice_of(mapping: GemmMapping) -> Choice:
    ranks = tuple(tuple(stage.order.index(axis) for axis in AXES) for stage in mapping.stages)
    tiles = tuple(tuple(stage.tile) for stage in mapping.stages)
    return Choice(tiles, ranks, mapping.split, mapping.dataflow, mapping.array_axis)  # type: ignore[arg-type]


# --- the best mapping ---


def oracle_rows() -> list[dict[str, str]]:
    with (Path(__file__).parent / "data" / "gemm_traffic.csv").open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_tiles_may_fill_the_memory_to_the_last_element() -> None:
    """2 x 2 sums, two elements of A and two of W: all moved once in 8 elements; in 7 one operand comes twice."""
    assert map_gemm_traffic(2, 2, 2, 8, False).traffic_elements == map_gemm_traffic(2, 2, 2, 16, True).traffic_elements == 12
    assert map_gemm_traffic(2, 2, 2, 7, False).traffic_elements == map_gemm_traffic(2, 2, 2, 15, True).traffic_elements == 16
    assert map_gemm_traffic(1, 1, 1, 3, False).traffic_elements == 3


def test_the_least_traffic_is_that_of_an_exhaustive_search() -> None:
    rows = oracle_rows()
    assert len(rows) == 48
    for row in rows:
        shape = tuple(int(row[name]) for name in ("M", "N", "K", "S_elems"))
        for column, double_buffered in (("best_even", False), ("best_even_doublebuf", True)):
            found = map_gemm_traffic(*shape, double_buffered)
            assert found.traffic_elements == int(row[column]), row
            assert found.traffic_elements >= float(row["lower_bound"]) - 0.5, row


def every_tile(extent: int, grains: tuple[int, ...]) -> list[int]:
    """For each number of trips the smallest tile and the smallest multiple of each grain, found by trying all."""
    found: dict[int, list[int]] = {}
    for tile in range(1, extent + 1):
        found.setdefault(-(-extent // tile), []).append(tile)
    aligned = [next((tile for tile in tiles if tile % grain == 0), tiles[0]) for tiles in found.values() for grain in grains]
    return sorted({*aligned, *(tiles[0] for tiles in found.values())})


def every_choice(gemm: Gemm, chip: Chip, pieces: int = 1) -> list[Choice]:
    """Every combination of candidate tiles, orders, splits, dataflows and axes, unpruned, of small GEMMs on one stage of any tiles; of
    several pieces each has as many columns of a tile that cores share."""
    setting = setting_of(gemm, chip, pieces=pieces)
    is_small, found = len(setting.stages) == 1 and gemm.macs <= 2**16, []
    for variant in variants(setting):
        chains: list[list[tuple[int, ...]]] = []
        for axis, extent in enumerate((gemm.m, gemm.n, gemm.k)):
            rows: list[tuple[int, ...]] = [()]
            for stage in range(len(setting.stages)):
                grown = []
                for row in rows:
                    outer = row[-1] if row else extent
                    if stage == setting.split_stage:
                        outer = -(-outer // (*variant.split, 1)[axis])
                    alike = pieces if axis == 1 and stage < setting.split_stage else 1
                    tiles_within = range(1, outer // alike + 1) if is_small else every_tile(outer // alike, array_grains(setting, axis))
                    grown += [(*row, alike * tile) for tile in tiles_within]
                rows = grown
            chains.append(rows)
        tiles = [np.array(rows).T for rows in chains]
        grid = np.meshgrid(*(np.arange(each.shape[1]) for each in tiles), indexing="ij")
        picked = tuple(tuple(tiles[a][s][grid[a].ravel()] for a in range(3)) for s in range(len(setting.stages)))
        for ranks in itertools.product(itertools.permutations(range(3)), repeat=len(setting.stages)):
            found.append(Choice(picked, ranks, *variant))
    return found


def has_room(choice: Choice, gemm: Gemm, chip: Chip) -> np.ndarray:
    """Which tiles fit, with half of the outermost level of activations kept for intermediates."""
    fine = np.ones_like(choice.tiles[0][0], dtype=bool)
    bits = {A: gemm.a_bits, W: gemm.w_bits, P: gemm.acc_bits}
    stages = chip_stages(chip)
    resident = next(level for level in chip.memory[1:] if A in level.holds)
    for stage, (m, n, k) in zip(stages, choice.tiles, strict=True):
        elements = {A: m * k, W: k * n, P: m * n}
        for level in stage.levels:
            needed = sum(elements[role] * bits[role] for role in level.holds) * (2 if level.double_buffered else 1)
            fine &= needed <= 8 * level.capacity_bytes * (0.5 if level is resident else 1)
    return fine


def least(gemm: Gemm, chip: Chip, besides: Besides = NOTHING, pieces: int = 1) -> tuple[float, ...] | None:
    setting = setting_of(gemm, chip, besides=besides, pieces=pieces)
    best = None
    for choice in every_choice(gemm, chip, pieces):
        fine = has_room(choice, gemm, chip)
        if not fine.any():
            continue
        choice = choice._replace(tiles=tuple(tuple(each[fine] for each in tile) for tile in choice.tiles))
        keys = np.array([np.broadcast_to(each, (int(fine.sum()),)) for each in evaluate(setting, choice)[:4]])
        key = tuple(keys[:, np.lexsort(keys[::-1])[0]])
        best = key if best is None or key < best else best
    return best


def ranked(cost: GemmCost) -> tuple[float, ...]:
    return cost.latency_s, cost.dram_bytes, cost.moved_bytes, cost.tile_steps


def mapped_or_none(gemm: Gemm, chip: Chip) -> GemmCost | None:
    try:
        return map_gemm(gemm, chip).cost
    except BadInput:
        return None


def ranked_or_none(gemm: Gemm, chip: Chip, besides: Besides, pieces: int = 1) -> tuple[float, ...] | None:
    """What the best mapping is ranked by beside other work of its group."""
    try:
        mapping = map_gemm(gemm, chip, besides=besides, pieces=pieces).mapping
    except BadInput:
        return None
    return evaluate(setting_of(gemm, chip, besides=besides), choice_of(mapping))[:4]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_with_one_stage_the_mapper_equals_an_unpruned_search_up_to_24(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips((0, 2), (1, 2), room=False)), data.draw(gemms(24))
    besides = data.draw(some_besides(chip))
    found = ranked_or_none(gemm, chip, besides)
    if found is not None:
        assert found == close_each(least(gemm, chip, besides))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_pieces_on_a_core_each_are_mapped_as_by_an_unpruned_search(data: st.DataObject) -> None:
    """Also below, and within, what cores share."""
    chip, pieces = data.draw(chips((0, 1, 2, 3, 4), (2,), room=False)), 2
    drawn = data.draw(gemms(4))
    gemm, besides = replace(drawn, n=pieces * drawn.n), data.draw(some_besides(chip))
    found = ranked_or_none(gemm, chip, besides, pieces)
    if found is not None:
        mapping = map_gemm(gemm, chip, besides=besides, pieces=pieces).mapping
        assert mapping.split == (1, pieces)
        assert all(stage.tile.n % pieces == 0 for stage in mapping.stages[: mapping.split_stage])
        assert found == close_each(least(gemm, chip, besides, pieces))


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_with_two_stages_the_mapper_equals_an_unpruned_search(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips((3, 4, 5, 7), (1, 2), room=False)), data.draw(gemms(4))
    found = mapped_or_none(gemm, chip)
    if found is not None:
        assert ranked(found) == close_each(least(gemm, chip))


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.data())
def test_with_two_stages_and_two_cores_the_mapper_equals_an_unpruned_search_up_to_24(data: st.DataObject) -> None:
    chip = data.draw(chips((3, 4, 5, 7), (1, 2), room=False))
    unit = replace(chip.matrix, count=1, dataflows=chip.matrix.dataflows[:1])
    extent = st.sampled_from([5, 13, 18, 24])
    gemm = Gemm(data.draw(extent), data.draw(extent), data.draw(extent), 8, 8, 8, 32, "int8")
    found = mapped_or_none(gemm, replace(chip, matrix=unit))
    if found is not None:
        assert ranked(found) == close_each(least(gemm, replace(chip, matrix=unit)))


NEAR_BEST = (
    ((8, 5, 300, 20, 2, 64), (59, 48, 30)),
    ((4, 2, 1500, 0.5, 1, 64), (51, 52, 53)),
    ((2, 8, 700, 0.5, 2, 64), (20, 57, 30)),
    ((3, 4, 700, 1, 2, 1), (18, 16, 37)),
    ((3, 2, 700, 5, 1, 64), (37, 45, 15)),
    ((8, 8, 6000, 20, 2, 1), (41, 50, 14)),
    ((4, 5, 3000, 2, 2, 1), (27, 26, 60)),
    ((2, 2, 3000, 5, 1, 64), (20, 28, 56)),
)
"""(rows, columns, bytes of SRAM, GB/s, cores, burst), (m, n, k): the best mapping lies in boxes whose bound is less than 0.3 % below the
best that is found before it, so that a search that discards a little too much misses it."""


def small_chip(rows: int, cols: int, sram_bytes: int, gb_per_s: float, cores: int, burst_bytes: int) -> Chip:
    """edge-npu with other numbers."""
    chip = edge()
    dram, sram = chip.memory
    dram = replace(dram, bandwidth=replace(dram.bandwidth, read=gb_per_s * 1e9, write=gb_per_s * 1e9), burst_bytes=burst_bytes)
    memory = dram, replace(sram, capacity_bytes=float(sram_bytes))
    return replace(chip, cores=cores, matrix=replace(chip.matrix, rows=rows, cols=cols), memory=memory)


@pytest.mark.parametrize(("numbers", "shape"), NEAR_BEST)
def test_the_mapper_equals_an_unpruned_search_where_much_is_nearly_as_good(numbers: tuple[Any, ...], shape: tuple[int, int, int]) -> None:
    chip, gemm = small_chip(*numbers), Gemm(*shape, 8, 8, 8, 32, "int8")
    assert ranked(map_gemm(gemm, chip).cost) == close_each(least(gemm, chip))


@pytest.mark.parametrize(("numbers", "shape"), NEAR_BEST[::2])
def test_the_choice_does_not_depend_on_the_order_of_search(
    numbers: tuple[Any, ...], shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, "int8"), small_chip(*numbers))
    chosen = set()
    for at_first, batches in ((1024, (32, 64, 512)), (1, (1, 1, 3)), (100_000, (1000, 1000, 1000))):
        monkeypatch.setattr(search_module, "_BOXES_AT_FIRST", at_first)
        monkeypatch.setattr(search_module, "_BATCH_BOXES", batches)
        chosen.add(search_module.search(setting, "latency").choice)
    assert len(chosen) == 1


@pytest.mark.parametrize(("numbers", "shape"), [((2, 2, 2000, 5, 1, 16), (16, 32, 16)), ((2, 2, 2000, 20, 1, 16), (24, 16, 32))])
def test_of_mappings_of_the_same_latency_the_one_of_least_traffic_is_chosen(numbers: tuple[Any, ...], shape: tuple[int, int, int]) -> None:
    """The array decides, whatever passes DRAM; the least bytes moved in all would be another mapping, and so would the fewest steps."""
    chip, gemm = small_chip(*numbers), Gemm(*shape, 8, 8, 8, 32, "int8")
    setting, found = setting_of(gemm, chip), map_gemm(gemm, chip).cost
    same: list[float] = []
    for choice in every_choice(gemm, chip):
        costs = evaluate(setting, choice)
        fine = has_room(choice, gemm, chip) & (np.abs(costs.latency_s / found.latency_s - 1) < 1e-11)
        same += np.broadcast_to(costs.dram_bytes, fine.shape)[fine].tolist()
    assert len(set(same)) > 1
    assert found.dram_bytes == min(same)


class Unpruned(search_module.Search):  # type: ignore[misc, name-defined]
    """Goes through the same boxes, and keeps the canonical keys [5, mappings] of all single mappings that fit."""

    may_trust = False

    def keys_of_all(self) -> np.ndarray:
        self.found_keys: list[np.ndarray] = []
        self.run()
        return np.hstack(self.found_keys)

    def _promising(self, boxes: Any) -> Any:
        return boxes.take((boxes.bounds[0] < np.inf).nonzero()[0])

    def _price_on(self, chip: int, boxes: Any) -> None:
        for variant in np.unique(boxes.where[0]):
            where = boxes.where[:, boxes.where[0] == variant]
            costs = evaluate(self.settings[chip], Choice(*self.tiles(where), *self.chosen[int(variant)]))
            self.found_keys.append(np.vstack([self._keys(costs, where.shape[1]), self.place(0, where)]))


def first_of(keys: np.ndarray) -> tuple[float, ...]:
    return tuple(keys[:, np.lexsort(keys[::-1])[0]])


EQUALS = (
    ((2, 2, 300, 20, 2, 16), (4, 15, 17)),
    ((1, 4, 700, 20, 2, 64), (6, 7, 11)),
    ((1, 2, 3000, 20, 1, 16), (20, 9, 8)),
    ((3, 2, 1500, 400, 2, 16), (8, 9, 16)),
    ((2, 1, 1500, 20, 1, 1), (8, 7, 14)),
    ((1, 1, 700, 400, 1, 64), (10, 4, 17)),
)
"""As `NEAR_BEST`: some mappings are equal to the best in what comes first, have no more steps, and pass more bytes."""


@pytest.mark.parametrize("objective", ["latency", "traffic"])
@pytest.mark.parametrize(("numbers", "shape"), EQUALS)
def test_whatever_the_search_begins_with_it_ends_at_the_first_of_all_mappings(
    numbers: tuple[Any, ...], shape: tuple[int, int, int], objective: str
) -> None:
    """Begun with mappings that are as good in what comes first, but not in what decides between equals."""
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, "int8"), small_chip(*numbers))
    space = all_of(setting)
    keys = Unpruned([setting], [space], objective).keys_of_all()
    first = first_of(keys)
    assert search_module.search(setting, objective).key == first
    same = keys[:, keys[0] == first[0]]
    same = same[:, np.lexsort((same[4], same[3]))]
    assert same.shape[1] > 3
    for i in {*range(same.shape[1])[:20], *range(same.shape[1])[-20:]}:
        incumbent = search_module.Found(tuple(same[:, i]), Choice((), (), (1, 1), "", "m"))
        assert search_module.Search([setting], [space], objective, incumbent=incumbent).run()[0].key == first


@pytest.mark.parametrize(("chip_name", "shape", "holds"), [
    ("gemmini-default", (37, 512, 2048), True),
    ("cloud-npu", (8, 3072, 2048), True),
    ("tpu-v4i", (512, 2048, 2048), True),
    ("t4", (155, 216, 260), False),
])
def test_bounds_that_were_trusted_in_vain_change_nothing(
    monkeypatch: pytest.MonkeyPatch, chip_name: str, shape: tuple[int, int, int], holds: bool
) -> None:
    """Bounds of single mappings stand for their costs until the end, also where that is doubtful. In the last case the best bound is less
    than what its mapping costs, and all is searched again."""
    monkeypatch.setattr(Bounder, "doubtful", lambda self, numbers: np.zeros(numbers.shape[2], dtype=bool))
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, load_chip(chip_name).default_format), load_chip(chip_name))
    space = search_module._first_space(setting)
    priced = search_module.Search([setting], [space])
    priced.may_trust = False
    assert search_module.Search([setting], [space])._ends_well() is holds
    assert search_module.Search([setting], [space]).run()[0][:2] == priced.run()[0][:2]


@pytest.mark.parametrize("shape", [(262, 121, 508), (138, 583, 65), (2048, 128256, 3072)])
def test_doubtful_bounds_are_not_trusted(shape: tuple[int, int, int]) -> None:
    """Results that go to DRAM from the inner stage in tiles that are no whole bursts; so the search need not begin again."""
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, "bf16"), load_chip("tpu-v4i"))
    search = search_module.Search([setting], [thin_of(setting)])
    assert search._ends_well()
    assert search.calls < 20


@pytest.mark.parametrize("name", ["t4", "mi100"])
def test_units_that_have_nothing_in_the_last_turn_are_bounded_as_they_cost(name: str) -> None:
    """Pieces at the edge have no whole number of turns of granules; so the search need not begin again."""
    chip = load_chip(name)
    setting = setting_of(Gemm(2048, 8192, 2048, 16, 16, 16, 32, chip.default_format), chip)
    assert search_module.Search([setting], [thin_of(setting)])._ends_well()


@pytest.mark.parametrize(("name", "outer_kib", "inner_kib", "shape"), [
    ("tpu-v4i", 131072, 64, (128, 2048, 2048)),
    ("tpu-v4i", 131072, 128, (1, 2048, 2048)),
    ("tpu-v4i", 512, 64, (128, 2048, 2048)),
    ("cloud-npu", 1024, 256, (512, 3072, 2048)),
    ("cloud-npu", 512, 128, (128, 2048, 2048)),
    ("edge-npu", 16, 4, (128, 2048, 2048)),
    ("edge-npu", 32, 8, (37, 300, 700)),
])
def test_what_has_room_for_no_array_pass_is_mapped_nearly_as_well_as_by_a_search_of_all_tiles(
    name: str, outer_kib: int, inner_kib: int, shape: tuple[int, int, int]
) -> None:
    """With tiles of one or of whole passes it took 1.9 to 64 times as long."""
    chip = load_chip(name)
    dram, outer, inner = chip.memory if len(chip.memory) > 2 else (*chip.memory, replace(chip.memory[1], name="near"))
    outer = replace(outer, capacity_bytes=outer_kib * 1024.0, per="chip")
    chip = replace(chip, memory=(dram, outer, replace(inner, capacity_bytes=inner_kib * 1024.0)))
    gemm = Gemm(*shape, 16, 16, 16, 32, "bf16") if name != "edge-npu" else Gemm(*shape, 8, 8, 8, 32, "int8")
    all_tiles_s = search_module.search(setting_of(gemm, chip), "latency", budget_boxes=60_000).key[0]
    assert map_gemm(gemm, chip).cost.latency_s <= 1.2 * all_tiles_s


@pytest.mark.parametrize("tiles", [thin_tiles, all_tiles])
@pytest.mark.parametrize("name", ["t4", "cloud-npu", "tpu-v4i"])
def test_candidates_of_several_splits_are_those_of_each(name: str, tiles: TilesOf) -> None:
    chip = load_chip(name)
    setting = setting_of(Gemm(37, 300, 130, 16, 16, 16, 32, chip.default_format), chip)
    parts = [1, 2, 3, 7, 40]
    for axis in range(3):
        sizes, splits = tiles(setting, axis, parts)
        for number, own in enumerate(parts):
            assert (sizes[:, splits == number] == tiles(setting, axis, [own]).sizes).all()


@pytest.mark.parametrize("tokens", [1, 512])
def test_results_that_an_inner_stage_stores_in_dram_are_bounded_in_whole_bursts(tokens: int) -> None:
    """On 132 cores some ten thousand mappings of lm_head differ in nothing but what bursts add to the results of each core."""
    chip = replace(load_chip("h100-sxm5-80gb"), technology="")
    setting = setting_of(Gemm(tokens, 128256, 2048, 16, 16, 16, 32, "bf16"), chip)
    search = search_module.Search([setting], [thin_of(setting)])
    search.run()
    assert search.priced < 100


def test_bounds_of_tiles_cut_by_an_edge_are_their_costs() -> None:
    """A loop of the inner stage has one trip in the tile at the edge of the outer one alone, along one axis: elsewhere it drives tiles
    away."""
    setting = setting_of(Gemm(2048, 16384, 3072, 16, 16, 16, 32, "bf16"), load_chip("tpu-v4i"))
    search = search_module.Search([setting], [thin_of(setting)])
    random_, checked = random.Random(1), 0
    for _ in range(16000):
        where = [random_.randrange(len(search.chosen)), random_.randrange(len(search.orders))]
        for axis in search.axes:
            kind = axis.kinds[where[0]]
            where.append(axis.begins[0] + (kind << axis.depth) + random_.randrange(axis.tiles[kind].shape[1]))
        numbers = search.table[:, where[2:], None]
        (outer, inner), (last, _) = (numbers[begin : begin + 2, :, 0] for begin in (search.bounder.at.firsts, search.bounder.at.lasts))
        bounds, unfit = search.bounder(numbers, np.array(where[1:2]), np.array(where[:1]), single=True)
        is_filling = bounds[3, 0] > 1e20  # what stands there again
        if is_filling or unfit[0] or ((outer > inner) != (last > inner)).sum() != 1:
            continue
        checked += 1
        costs = evaluate(setting, search.chosen_at(np.array(where)[:, None]))
        assert bounds[0, 0] == pytest.approx(costs.latency_s, rel=1e-9)
    assert checked > 200


@pytest.mark.parametrize("name", ["tpu-v4i", "three stages"])
def test_candidates_in_the_order_of_search_are_all_of_them(name: str) -> None:
    """Those within one tile of the stage around begin at a multiple of four; of three stages, those of one element stand apart."""
    chip = load_chip("tpu-v4i")
    if name != chip.name:
        chip = replace(chip, memory=(*chip.memory, replace(chip.memory[-1], name="near", capacity_bytes=65536.0)))
    setting = setting_of(Gemm(300, 1000, 700, 16, 16, 16, 32, "bf16"), chip)
    search = search_module.Search([setting], [thin_of(setting)])
    for number, axis in enumerate(search.axes):
        every = thin_tiles(setting, number, [1]).sizes
        fine = (every <= search.bounder.longest[number]).all(axis=0)
        ((tiles, *_), wanted) = axis.tiles, {*map(tuple, every[:, fine].T.tolist())}
        columns = [tuple(column) for column in tiles.T.tolist()]
        assert {*columns} == wanted
        begins = [at for at in range(len(columns)) if at == 0 or columns[at] != columns[at - 1]]
        assert len(begins) == len(wanted)
        apart = [at for at in begins if len(chip.memory) > 3 and columns[at][-1] == 1]
        assert apart == begins[: len(apart)]
        around = [columns[at][:-1] for at in begins[len(apart) :]]
        new = [at for i, at in enumerate(begins[len(apart) :]) if i and around[i] != around[i - 1]]
        assert all(at % 4 == 0 for at in new)


@pytest.mark.parametrize(("numbers", "shape"), [((4, 4, 3000, 2, 1, 1), (17, 11, 4)), ((4, 2, 300, 5, 1, 16), (10, 4, 9))])
def test_of_mappings_alike_but_for_steps_a_later_one_with_fewer_is_chosen(numbers: tuple[Any, ...], shape: tuple[int, int, int]) -> None:
    """Begun with an earlier mapping that is as fast, and moves as many bytes, in more steps."""
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, "int8"), small_chip(*numbers))
    space = all_of(setting)
    keys = Unpruned([setting], [space]).keys_of_all()
    first = np.array(first_of(keys))
    alike = (keys[:3] == first[:3, None]).all(axis=0) & (keys[3] > first[3]) & (keys[4] < first[4])
    assert alike.any()
    for key in keys[:, alike].T:
        incumbent = search_module.Found(tuple(key), Choice((), (), (1, 1), "", "m"))
        assert search_module.Search([setting], [space], incumbent=incumbent).run()[0].key == tuple(first)


@pytest.mark.parametrize("shape", [(200, 130, 130), (200, 130, 60)])
def test_the_thinned_search_goes_to_the_last_of_its_boxes(shape: tuple[int, int, int]) -> None:
    """The best of them all comes late: after more than some hundred boxes."""
    setting = setting_of(Gemm(*shape, 8, 8, 8, 32, "int8"), load_chip("tpu-v4i"))
    keys = Unpruned([setting], [thin_of(setting)]).keys_of_all()
    assert search_module.search(setting, "latency").key == first_of(keys)


def close_each(values: tuple[float, ...] | None) -> object:
    assert values is not None
    return pytest.approx(values, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_no_walked_mapping_is_better_than_the_mappers(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips((0, 2, 3, 4), (1, 2), room=False)), data.draw(gemms(24))
    found = mapped_or_none(gemm, chip)
    if found is None:
        return
    setting = setting_of(gemm, chip)
    for _ in range(10):
        choices = every_choice(gemm, chip) if gemm.macs <= 64 else []
        if not choices:
            return
        choice = data.draw(st.sampled_from(choices))
        fine = has_room(choice, gemm, chip)
        if not fine.any():
            continue
        index = data.draw(st.sampled_from(np.flatnonzero(fine).tolist()))
        tilings = tuple(
            StageTiling(Tile(*(int(each[index]) for each in tile)), tuple(AXES[i] for i in np.argsort(ranks)), 2)  # type: ignore[arg-type]
            for tile, ranks in zip(choice.tiles, choice.ranks, strict=True)
        )
        mapping = GemmMapping(gemm, tilings, choice.split, setting.split_stage, choice.dataflow, choice.array_axis)
        assert found.latency_s <= latency_s(mapping, chip, walk(mapping, chip)) * (1 + 1e-9)


# --- monotone ---


def faster(chip: Chip) -> list[Chip]:
    """The chip with one thing better each time."""

    def wider(level: MemoryLevel) -> MemoryLevel:
        bandwidth = level.bandwidth
        return replace(level, bandwidth=replace(bandwidth, read=bandwidth.read * 1.7, write=bandwidth.write * 1.7))

    found = [replace(chip, cores=int(chip.cores) + 1), replace(chip, clock_hz=chip.clock_hz * 1.5)]
    for i, level in enumerate(chip.memory):
        for better in (wider(level), replace(level, capacity_bytes=level.capacity_bytes * 2), replace(level, latency_s=0.0)):
            found.append(replace(chip, memory=(*chip.memory[:i], better, *chip.memory[i + 1 :])))
    rate = chip.matrix.rates["int8"]
    return [*found, replace(chip, matrix=replace(chip.matrix, rates={"int8": rate * 2}))]


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_a_better_chip_is_never_slower(data: st.DataObject) -> None:
    chip, gemm = data.draw(chips((0, 1, 2), (1, 2, 3), room=False)), data.draw(gemms(24))
    besides = data.draw(some_besides(chip))
    before = ranked_or_none(gemm, chip, besides)
    if before is not None:
        for better in faster(chip):
            after = ranked_or_none(gemm, better, besides)
            assert after is not None
            assert after[0] <= before[0] * (1 + 1e-9), better


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_a_better_chip_of_one_stage_is_never_slower_for_layers_of_some_hundred(data: st.DataObject) -> None:
    chip = data.draw(valid_chips().filter(lambda chip: len(chip_stages(chip)) == 1 and chip.cores <= 2 and chip.matrix.kind == "systolic"))
    gemm = data.draw(gemms(300))
    besides = data.draw(some_besides(chip))
    before = ranked_or_none(gemm, chip, besides)
    if before is not None:
        for better in faster(chip):
            after = ranked_or_none(gemm, better, besides)
            assert after is not None
            assert after[0] <= before[0] * (1 + 1e-9), better


@st.composite
def roomy_chips_of_stages(draw: st.DrawFn, memories: tuple[int, ...] = (3, 4, 5, 6, 7, 9)) -> Chip:
    """Two stages or three, with room for tiles of some dozens."""
    chip = draw(chips(memories, (1, 2, 3)))
    sizes = st.integers(100, 20_000)
    return replace(chip, memory=(chip.memory[0], *(replace(level, capacity_bytes=float(draw(sizes))) for level in chip.memory[1:])))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_more_capacity_on_a_chip_of_two_or_three_stages_is_never_slower(data: st.DataObject) -> None:
    chip, gemm = data.draw(roomy_chips_of_stages()), data.draw(gemms(200))
    before = mapped_or_none(gemm, chip)
    if before is None:
        return
    for i, level in enumerate(chip.memory[1:], start=1):
        larger = replace(level, capacity_bytes=level.capacity_bytes * data.draw(st.sampled_from([1.0007, 1.3, 4])))
        after = map_gemm(gemm, replace(chip, memory=(*chip.memory[:i], larger, *chip.memory[i + 1 :]))).cost
        assert after.latency_s <= before.latency_s * (1 + 1e-9)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_more_of_anything_on_a_chip_of_two_stages_is_never_slower(data: st.DataObject) -> None:
    chip = data.draw(roomy_chips_of_stages((3, 4, 5, 6, 7, 8)))
    extents = st.integers(1, 60)
    gemm = Gemm(data.draw(extents), data.draw(extents), data.draw(extents), 8, 8, 8, 32, "int8")
    before = mapped_or_none(gemm, chip)
    if before is not None:
        rate, factor = chip.matrix.rates["int8"], data.draw(st.sampled_from([1.3, 1.5, 3, 4, 6]))
        rated = replace(chip, matrix=replace(chip.matrix, rates={"int8": rate * factor}))
        for better in [*faster(chip), rated, replace(chip, cores=int(chip.cores) * data.draw(st.sampled_from([2, 5])))]:
            assert map_gemm(gemm, better).cost.latency_s <= before.latency_s * (1 + 1e-9), better


SMALL_TPU = {"matrix.count": 1, "memory.cmem.capacity": 8192.0, "memory.vmem.capacity": 8192.0}
"""The two stages of the TPU v4i with room for few tiles."""


@pytest.mark.parametrize(("changes", "path", "values", "shape"), [
    ({}, "cores", (1, 3, 4, 8, 12, 16, 24, 64), (2048, 2048, 8192)),
    ({}, "cores", (1, 3, 4, 8, 12, 16, 24, 132), (128, 2048, 2048)),
    (SMALL_TPU | {"matrix.rows": 32, "matrix.cols": 16}, "matrix.rates.bf16", (0.5, 1, 1.5, 2, 3, 4, 8), (24, 138, 121)),
    (SMALL_TPU | {"matrix.rows": 16, "matrix.cols": 8}, "matrix.rates.bf16", (0.5, 1, 1.5, 2, 3, 4, 8), (77, 164, 71)),
    (SMALL_TPU | {"matrix.rows": 16, "matrix.cols": 8}, "memory.dram.bandwidth", (1e9, 1.1e9, 1e10, 1e11, 1e12), (77, 164, 71)),
])
def test_more_cores_a_higher_rate_and_more_bandwidth_are_never_slower_on_two_stages(
    changes: dict[str, float], path: str, values: tuple[float, ...], shape: tuple[int, int, int]
) -> None:
    """Whatever a better chip can, the search has mappings for a worse one among its own."""
    chip, gemm = with_values(load_chip("tpu-v4i"), changes), Gemm(*shape, 16, 16, 16, 32, "bf16")
    latencies = [map_gemm(gemm, with_values(chip, {path: value})).cost.latency_s for value in values]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("axis", ["m", "n", "k"])
def test_more_rows_columns_and_depth_are_never_faster_on_two_stages(axis: str) -> None:
    """With room for few tiles, and nothing shared by cores: tiles do not depend on what they cut."""
    numbers = {"matrix.rows": 32, "matrix.cols": 8, "matrix.count": 2, "memory.vmem.capacity": 4096.0}
    chip = with_values(load_chip("tpu-v4i"), SMALL_TPU | numbers)
    gemm = Gemm(72, 78, 56, 16, 16, 16, 32, "bf16")
    longer = [replace(gemm, **{axis: getattr(gemm, axis) + more}) for more in (0, 1, 2, 7, 8, 24, 41)]
    latencies = [map_gemm(each, chip).cost.latency_s for each in longer]
    assert latencies == sorted(latencies)


def one_stage_chip(unit: MatrixUnit, cores: int, burst_bytes: int, per: str, *rates: tuple[tuple[Role, ...], float]) -> Chip:
    """DRAM and levels on chip, outermost first: the roles that they hold and their B/s."""
    memory = [
        MemoryLevel(f"level{i}", 1e12 if i == 0 else 1e5, Bandwidth(rate, rate, True, False), "chip" if i == 0 or per == "chip" else "core",
                    frozenset(holds), 1, 1e-7 if i == 0 else 0.0, burst_bytes if i == 0 else 1, True, False, "", "none")
        for i, (holds, rate) in enumerate(rates)
    ]  # fmt: skip
    return Chip("hand", "int8", 1e9, cores, unit, VectorUnit(1, {}), tuple(memory), 0.0, 0.5, None, "", (), (), {})


def systolic_unit(count: int, rows: int, cols: int, dataflows: tuple[str, ...], rate: float) -> MatrixUnit:
    return MatrixUnit("systolic", count, rows, cols, (1, 1, 1), dataflows, "serial", {"int8": rate}, {"int8": "int32"})


@pytest.mark.parametrize(("chip", "shape", "longer", "bits"), [
    # 6 %: 59 and 4 rows of a core lie on fewer units than 60 and 3 do, and as 60 and 4 of the longer one
    (one_stage_chip(systolic_unit(3, 20, 8, ("os", "is"), 1), 4, 64, "core", (("weights", "activations", "psums"), 1e12),
                    (("weights", "activations"), 2e8), (("psums",), 2e10)), (251, 14, 1), (253, 14, 1), (8, 16, 8)),
    # 3 %: so do 22 and 17 columns and 40, but not 39
    (one_stage_chip(systolic_unit(3, 3, 6, ("is", "ws", "os"), 1.5), 7, 4, "core", (("weights", "activations", "psums"), 1e12),
                    (("weights", "activations", "psums"), 7.4e8)), (38, 39, 39), (38, 40, 39), (16, 8, 16)),
    # 1 %: 87, 87 and 81 fill bursts as thrice 86 do
    (one_stage_chip(systolic_unit(3, 27, 8, ("os", "ws"), 1.5), 1, 7, "core", (("weights", "activations", "psums"), 1.5e9),
                    (("weights", "activations", "psums"), 3e9)), (1, 1, 255), (1, 1, 256), (16, 8, 8)),
    # 11 %: 109 rows fill three turns of two units as 128 do
    (one_stage_chip(MatrixUnit("tensor_core", 2, 1, 1, (32, 16, 1), (), "overlapped", {"int8": 3}, {"int8": "int32"}), 1, 64, "chip",
                    (("weights", "activations", "psums"), 3.8e8), (("weights", "activations", "psums"), 1e10)),
     (282, 1, 1), (299, 1, 1), (4, 16, 8)),
])  # fmt: skip
def test_a_small_gemm_that_is_longer_is_never_faster_on_one_stage(
    chip: Chip, shape: tuple[int, int, int], longer: tuple[int, int, int], bits: tuple[int, int, int]
) -> None:
    """All tiles are tried, not only the smallest that cause as many trips."""
    less, more = (map_gemm(Gemm(*each, *bits, 32, "int8"), chip).cost.latency_s for each in (shape, longer))
    assert less <= more


@pytest.mark.parametrize(("changes", "shapes"), [
    ({"matrix.rows": 16, "matrix.cols": 4, "matrix.count": 2, "memory.cmem.capacity": 4096.0, "memory.vmem.capacity": 2048.0, "cores": 2},
     ((49, 22, 112), (52, 22, 112))),
    ({"matrix.rows": 32, "matrix.cols": 32, "matrix.count": 1, "memory.cmem.capacity": 16384.0, "cores": 3}, ((74, 58, 61), (90, 58, 61))),
])
def test_more_rows_are_never_faster_where_a_core_sits_out_the_tile_at_the_edge(
    changes: dict[str, float], shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    """The edge of a tile that cores share has no part for one of them; the longer GEMM's has: it was 10 % faster, and 21 %."""
    chip = with_values(load_chip("tpu-v4i"), {"memory.vmem.capacity": 8192.0, "clock": 1e8} | changes)
    less, more = (map_gemm(Gemm(*shape, 16, 16, 16, 32, "bf16"), chip).cost.latency_s for shape in shapes)
    assert less <= more


# --- hand value ---


def test_hand_value_of_one_tile_on_a_chip_with_round_numbers() -> None:
    """4 x 4 x 4 in one tile on a 4 x 4 array at 1 GHz, 1 B/ns DRAM after 10 ns, 4 B/ns SRAM: 10 + 32 + 16 + 4 ... each term by hand."""
    dram = MemoryLevel("dram", 1e9, Bandwidth(1e9, 1e9, True, False), "chip", frozenset({W, A, P}), 1, 1e-8, 1, True, False, "", "none")
    sram = replace(dram, name="sram", bandwidth=Bandwidth(4e9, 4e9, True, False), per="core", latency_s=0.0, capacity_bytes=1e6)
    unit = MatrixUnit("systolic", 1, 4, 4, (1, 1, 1), ("ws",), "overlapped", {"int8": 1}, {"int8": "int32"})
    chip = Chip("hand", "int8", 1e9, 1, unit, VectorUnit(1, {}), (dram, sram), 0.0, 0.5, None, "", (), (), {})
    gemm = Gemm(4, 4, 4, 8, 8, 8, 32, "int8")
    cost = cost_gemm(GemmMapping(gemm, (StageTiling(Tile(4, 4, 4), ("m", "n", "k"), 2),), (1, 1), 0, "ws", "m"), chip)
    assert cost.prefix_s["matrix"] == close(42e-9)  # 10 ns, then 16 B of A and 16 B of W
    assert cost.busy_s["matrix"] == close(4e-9)
    assert cost.suffix_s["matrix"] == close((10 + 16) * 1e-9)  # 2 x 4 + 4 - 2 cycles to fill and drain, 16 B of C
    assert cost.busy_s["dram"] == close(48e-9)
    assert cost.busy_s["sram"] == close((32 + 32 + 64 + 16) / 4 * 1e-9)  # fills, operands, sums of 4 B, the finished C
    assert cost.latency_s == close(72e-9)


# --- bad input ---


def edge() -> Chip:
    return load_chip("edge-npu")


def test_bad_input_names_the_field() -> None:
    gemm = Gemm(8, 8, 8, 8, 8, 8, 32, "int8")
    with pytest.raises(BadInput, match=r"m: is an array; map one shape at a time"):
        map_gemm(replace(gemm, m=np.array([1, 2])), edge())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"n: must be at least 1, found 0"):
        map_gemm(replace(gemm, n=0), edge())
    with pytest.raises(BadInput, match=r"matrix\.rates\.fp8: edge-npu has no rate for fp8; choose one of int8, bf16"):
        map_gemm(replace(gemm, compute="fp8"), edge())
    with pytest.raises(BadInput, match=r"unknown objective 'speed'"):
        map_gemm(gemm, edge(), "speed")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="raise capacity_elements to at least 6"):
        map_gemm_traffic(4, 4, 4, 5, True)
    dram, sram = edge().memory
    tiny = replace(edge(), memory=(dram, replace(sram, capacity_bytes=16.0)))
    with pytest.raises(
        BadInput, match=r"memory\.sram\.capacity: not one element of each tile fits sram; raise memory\.sram\.capacity to at least 24 B"
    ):
        map_gemm(gemm, tiny)


def test_a_mapping_that_the_chip_cannot_carry_out_is_refused() -> None:
    gemm = Gemm(2048, 2048, 2048, 8, 8, 8, 32, "int8")
    fine = map_gemm(gemm, edge()).mapping
    with pytest.raises(BadInput, match=r"matrix\.dataflows: the array of edge-npu has no dataflow 'is'; choose ws or os"):
        cost_gemm(replace(fine, dataflow="is"), edge())
    with pytest.raises(BadInput, match="raise cores to 4"):
        cost_gemm(replace(fine, split=(2, 2)), edge())
    large = replace(fine, stages=(replace(fine.stages[0], tile=Tile(2048, 2048, 2048)),))
    with pytest.raises(BadInput, match=r"raise memory\.sram\.capacity to at least 100663296 B"):
        cost_gemm(large, edge())


@pytest.mark.parametrize("name", ["edge-npu", "cloud-npu", "gemmini-default", "tpu-v4i", "a100-sxm4-80gb"])
def test_the_library_maps_a_layer_and_its_cost_is_that_of_the_mapping(name: str) -> None:
    chip = load_chip(name)
    bits = {"int8": 8, "bf16": 16}[chip.default_format]
    for m in (1, 37, 512):
        gemm = Gemm(m, 2048, 2048, bits, bits, bits, 32, chip.default_format)
        mapping, cost = map_gemm(gemm, chip)
        assert cost == cost_gemm(mapping, chip)
        assert cost.latency_s >= roofline_s(gemm, chip) * (1 - 1e-12)


def test_searches_take_one_thread_and_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    blas = ThreadpoolController().select(user_api="blas")
    if not blas.lib_controllers:
        pytest.skip("NumPy was built without a BLAS that can be asked")
    seen, bound = [], Bounder.__call__

    def asked(*args: Any, **kwargs: Any) -> Any:
        seen.append([each["num_threads"] for each in blas.info()])
        return bound(*args, **kwargs)

    monkeypatch.setattr(Bounder, "__call__", asked)
    with blas.limit(limits=2):
        before = [each["num_threads"] for each in blas.info()]
        map_gemm(Gemm(11, 64, 48, 8, 8, 8, 32, "int8"), edge())
        assert [each["num_threads"] for each in blas.info()] == before
    assert seen
    assert all(threads == [1] * len(blas.lib_controllers) for threads in seen)


FREED = """
import resource
import numpy as np
from hwmodels import load_chip
from sim.mapper import map_gemm
from sim.mapping import Gemm

map_gemm(Gemm(8, 64, 64, 8, 8, 8, 32, "int8"), load_chip("edge-npu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(100):
    np.empty(2**17 + 2**13 * i).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep freed memory as they like")
def test_memory_that_is_freed_is_kept_for_the_next_array() -> None:
    """100 arrays of up to 7 MiB, each larger than those before: the pages of about one, not of all."""
    told = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout
    assert int(told) < 2**24 / resource.getpagesize()
