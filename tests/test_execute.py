"""Truth defended: a mapping, executed tile by tile, gives the golden result, and moves and multiplies exactly what its contract says."""

from __future__ import annotations

import ast
import itertools
import math
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sim.execute
from functional.formats import torch_dtype
from functional.interpreters import Torch
from functional.llama import attention as golden_attention
from functional.qtensor import QTensor, quantise, requantise_sums, scale_of
from functional.quantise import Quantised
from functional.work import Mask
from hwmodels import load_chip
from hwmodels.chip import Chip, MemoryLevel, Role
from sim.attention_mapping import Attention, AttentionMapping
from sim.execute import Arithmetic, Tally, execute_attention, execute_gemm, gemm_bound, judge
from sim.execute import attention as attention_module
from sim.execute.arithmetic import issued_macs
from sim.execute.attention import AttentionNumbers, Scales
from sim.execute.judge import attention_bound, gamma
from sim.execute.tally import Cargo
from sim.mapping import AXES, OPERAND_AXES, Gemm, GemmMapping, Span, StageTiling, Tile, chip_stages

EDGE = load_chip("edge-npu")
ALL = frozenset({"weights", "activations", "psums"})
RATES = {"int8": 1, "bf16": 1, "fp16": 1, "fp32": 1}


def level(name: str, holds: frozenset[Role] = ALL, per: str = "core", **fields: Any) -> MemoryLevel:
    return replace(EDGE.memory[1], name=name, holds=holds, per=per, capacity_bytes=1e9, **fields)


def chip(*levels: MemoryLevel, cores: int = 1, rows: int = 4, cols: int = 4, count: int = 1, rates: dict[str, float] | None = None) -> Chip:
    unit = replace(EDGE.matrix, rows=rows, cols=cols, count=count, dataflows=("os", "ws", "is"), rates=rates or RATES)
    return replace(EDGE, memory=(EDGE.dram, *levels), cores=cores, matrix=unit)


ONE_STAGE = (level("sram"),)
SPLIT_STAGE = (level("scratchpad", frozenset({"weights", "activations"})), level("accumulator", frozenset({"psums"})))
SHARED_L2 = (level("l2", per="chip"), level("sram"))
GPU_LIKE = (level("l2", frozenset({"weights", "activations"}), per="chip"), *SPLIT_STAGE)
WEIGHTS_ONLY_INSIDE = (level("l2", per="chip"), level("sram", frozenset({"weights"})))
THREE_STAGES = (level("l3", per="chip"), level("l2", frozenset({"weights", "psums"}), per="chip"), level("sram"))
MEMORIES = {
    "one": ONE_STAGE,
    "accumulator": SPLIT_STAGE,
    "l2": SHARED_L2,
    "gpu": GPU_LIKE,
    "weights inside": WEIGHTS_ONLY_INSIDE,
    "three": THREE_STAGES,
}


def gemm(m: int, n: int, k: int, compute: str = "int8") -> Gemm:
    bits, sums = {"int8": (8, 32), "bf16": (16, 32), "fp16": (16, 32), "fp32": (32, 32)}[compute]
    return Gemm(m, n, k, bits, bits, bits, sums, compute)


def one_stage(g: Gemm, tile: tuple[int, int, int], order: str, buffers: int = 1) -> GemmMapping:
    return GemmMapping(g, (StageTiling(Tile(*tile), tuple(order), buffers),), (1, 1), 0, "ws", "m")  # type: ignore[arg-type]


def random_mapping(rng: random.Random, hardware: Chip, g: Gemm) -> GemmMapping:
    """Any tiles, orders, split; tiles of a stage within those of the stage around it, and of a core within its part."""
    extents = {"m": g.m, "n": g.n, "k": g.k}
    stages = chip_stages(hardware)
    split = rng.choice([(p, q) for p in range(1, 8) for q in range(1, 8) if p * q <= hardware.cores])
    tilings = []
    shared = sum(not stage.per_core for stage in stages)
    for depth in range(len(stages)):
        if depth == shared:
            extents["m"], extents["n"] = -(-extents["m"] // split[0]), -(-extents["n"] // split[1])
        extents = {axis: rng.randint(max(1, extent // 4), extent) for axis, extent in extents.items()}
        order: Any = tuple(rng.sample(AXES, 3))
        tilings.append(StageTiling(Tile(**extents), order, rng.randint(1, 2)))
    return GemmMapping(g, tuple(tilings), split, shared, rng.choice(["ws", "os", "is"]), rng.choice(["m", "n"]))


def integers(rng: random.Random, *shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)), dtype=torch.int8)


def floats(rng: random.Random, number_format: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31))).to(torch_dtype(number_format))


def execute(mapping: GemmMapping, hardware: Chip, seed: int = 0) -> Tally:
    """The tally of an int8 product whose result is checked on the way."""
    rng, g = random.Random(seed), mapping.gemm
    a, w = integers(rng, g.m, g.k), integers(rng, g.k, g.n)
    factor = torch.rand(g.n, generator=torch.Generator().manual_seed(seed)) * 1e-2 + 1e-3
    c, tally = execute_gemm(mapping, hardware, a, w, Arithmetic("int8", "int32", "int8", factor))
    assert torch.equal(c, requantise_sums((a.long() @ w.long()), factor))
    return tally


def moved(tally: Tally) -> dict[str, int]:
    """`dram read weights: elements` without the level's other side."""
    return {f"{each.level} {each.direction} {each.cargo}": elements for each, elements in tally.elements.items()}


# By hand ---------------------------------------------------------------------------------------------------------------------------------

HAND = {
    # 4 x 6 x 8 in tiles of 2 x 3 x 4: two steps along each axis. k innermost: both operands change at every step, sums never leave early.
    "mnk": {"activations": 8 * 8, "weights": 8 * 12, "spilled": 0},
    # n innermost, k in the middle: A tiles 4 times; sums of the other n are in the way at every step.
    "mkn": {"activations": 4 * 8, "weights": 8 * 12, "spilled": 24},
    "kmn": {"activations": 4 * 8, "weights": 8 * 12, "spilled": 24},
    # m innermost: W tiles 4 times.
    "nkm": {"activations": 8 * 8, "weights": 4 * 12, "spilled": 24},
    "knm": {"activations": 8 * 8, "weights": 4 * 12, "spilled": 24},
    "nmk": {"activations": 8 * 8, "weights": 8 * 12, "spilled": 0},
}


@pytest.mark.parametrize("order", HAND)
def test_traffic_by_hand(order: str) -> None:
    tally = execute(one_stage(gemm(4, 6, 8), (2, 3, 4), order), chip(*ONE_STAGE))
    wanted = HAND[order]
    expected = {
        "dram read activations": wanted["activations"],
        "dram read weights": wanted["weights"],
        "dram write psums": wanted["spilled"],
        "dram read psums": wanted["spilled"],
        "dram write outputs": 24,
    }
    mirrored = {f"sram {'write' if ' read ' in name else 'read'} {name.split()[2]}": count for name, count in expected.items()}
    assert moved(tally) == {name: count for name, count in {**expected, **mirrored}.items() if count}
    assert tally.useful_macs == 4 * 6 * 8
    assert tally.issued_macs == 8 * (2 * 4 * 4)  # k over 4 rows fits, 3 columns of 4 are used, m streams


def test_a_tile_that_is_still_held_is_not_fetched_again() -> None:
    """m 4 in twos, n 6 in threes, k whole: with n innermost A stays; the W of the last n is not that of the first, unless n is whole."""
    tally = execute(one_stage(gemm(4, 6, 8), (2, 3, 8), "mnk"), chip(*ONE_STAGE))
    assert moved(tally)["dram read activations"] == 4 * 8
    assert moved(tally)["dram read weights"] == 2 * 8 * 6
    assert moved(execute(one_stage(gemm(4, 6, 8), (2, 6, 8), "mnk"), chip(*ONE_STAGE)))["dram read weights"] == 8 * 6


def test_edge_tiles_are_smaller() -> None:
    """5 x 7 x 3 in tiles of 2 x 4 x 3: 3 x 2 tiles; nothing is read twice but A, once per n."""
    tally = execute(one_stage(gemm(5, 7, 3), (2, 4, 3), "nmk"), chip(*ONE_STAGE))
    assert moved(tally)["dram read weights"] == 21
    assert moved(tally)["dram read activations"] == 2 * 15
    assert tally.useful_macs == 105
    assert sum(tiles for (each, _), tiles in tally.moves.items() if each.level == "dram") == 6 + 2 + 6


def test_two_cores_read_a_shared_tile_once_iff_multicast() -> None:
    """n split over two cores: both need all of A."""
    mapping = replace(one_stage(gemm(4, 6, 8), (4, 3, 8), "mnk"), split=(1, 2))
    assert moved(execute(mapping, chip(*ONE_STAGE, cores=2)))["dram read activations"] == 2 * 32
    hardware = chip(*ONE_STAGE, cores=2)
    tally = execute(mapping, replace(hardware, memory=(replace(hardware.dram, multicast=True), *ONE_STAGE)))
    assert moved(tally)["dram read activations"] == 32
    assert moved(tally)["sram write activations"] == 2 * 32
    assert moved(tally)["dram read weights"] == 48
    shared = (level("l2", per="chip", multicast=True), level("sram"))
    through_l2 = replace(mapping, stages=(StageTiling(Tile(4, 6, 8), AXES, 1), mapping.stages[0]), split_stage=1)
    assert moved(execute(through_l2, chip(*shared, cores=2)))["l2 read activations"] == 32
    assert moved(execute(through_l2, chip(*SHARED_L2, cores=2)))["l2 read activations"] == 64


def test_what_a_stage_lacks_passes_by_it() -> None:
    """A GPU's L2 holds no sums: they go from the cores' accumulators to DRAM."""
    g = gemm(4, 6, 8)
    stages = (StageTiling(Tile(4, 6, 4), AXES, 1), StageTiling(Tile(2, 3, 4), AXES, 1))
    names = moved(execute(GemmMapping(g, stages, (1, 1), 1, "ws", "m"), chip(*GPU_LIKE)))
    assert names["dram write psums"] == names["accumulator read psums"] == 24
    assert not any("l2" in name and ("psums" in name or "outputs" in name) for name in names)


def test_room_is_counted_with_all_copies() -> None:
    g = gemm(4, 6, 8)
    tally = execute(one_stage(g, (2, 3, 4), "mnk", buffers=2), chip(*ONE_STAGE))
    assert tally.level_bits("sram") == 2 * (8 * 8 + 12 * 8 + 6 * 32)
    single = chip(replace(ONE_STAGE[0], double_buffered=False))
    assert execute(one_stage(g, (2, 3, 4), "mnk"), single).level_bits("sram") == 8 * 8 + 12 * 8 + 6 * 32
    with pytest.raises(ValueError, match="2 buffers of each tile, but sram is not double-buffered; set buffers to 1"):
        execute(one_stage(g, (2, 3, 4), "mnk", buffers=2), single)
    small = chip(replace(ONE_STAGE[0], capacity_bytes=87))
    with pytest.raises(ValueError, match=r"the tiles take 88 bytes of sram; raise memory\.sram\.capacity"):
        execute(one_stage(g, (2, 3, 4), "mnk", buffers=2), small)


def share_of(count: int, of_fold: int, length: int) -> int:
    """The least whole folds that so many units need to have all of a length."""
    return next(share for share in itertools.count(of_fold, of_fold) if share * count >= length)


def issued_by_enumeration(count: int, rows: int, cols: int, dataflow: str, axis: str, extents: tuple[int, int, int]) -> int:
    """PEs that are busy with a fold, fold by fold: every fold has rows x cols of them for as long as it streams."""
    m, n, k = extents
    length = {"m": m, "n": n, "k": k}
    over_rows, over_cols, streamed = {"os": "mnk", "ws": "knm", "is": "kmn"}[dataflow]
    share = share_of(count, {over_rows: rows, over_cols: cols}.get(axis, 1), length[axis])
    total = 0
    for start in range(0, length[axis], share):
        part = length | {axis: min(share, length[axis] - start)}
        for _ in itertools.product(range(0, part[over_rows], rows), range(0, part[over_cols], cols)):
            total += rows * cols * part[streamed]
    return total


@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_issued_macs_fill_whole_folds(dataflow: str) -> None:
    rng = random.Random(2)
    for _ in range(60):
        count, rows, cols = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 5)
        extents, axis = (rng.randint(1, 13), rng.randint(1, 13), rng.randint(1, 13)), rng.choice("mn")
        unit = chip(*ONE_STAGE, rows=rows, cols=cols, count=count).matrix
        issued = issued_macs(unit, "int8", dataflow, axis, *extents)
        assert issued.all_units == issued_by_enumeration(count, rows, cols, dataflow, axis, extents)
        place = "mn".index(axis)
        of_fold = {"os": (rows, cols), "ws": (1, cols), "is": (cols, 1)}[dataflow][place]
        first = list(extents)
        first[place] = min(extents[place], share_of(count, of_fold, extents[place]))
        assert issued.first_unit == issued_by_enumeration(1, rows, cols, dataflow, axis, (first[0], first[1], first[2]))


def test_issued_macs_of_granules_and_packed_operands() -> None:
    """16 x 8 x 16 granules: 17 x 9 x 1 needs 2 x 2 x 1 of them. A PE of rate 2 takes pairs along k: 5 is 3 pairs, 4 rows of pairs here."""
    granules = load_chip("h100-sxm5-80gb").matrix
    assert issued_macs(granules, "bf16", "", "m", 17, 9, 1) == (4 * 16 * 8 * 16, 4 * 16 * 8 * 16)
    double = chip(*ONE_STAGE, rates={"int8": 2}).matrix
    assert issued_macs(double, "int8", "ws", "m", 3, 4, 5).all_units == 3 * 4 * (4 * 2)
    assert issued_macs(double, "int8", "os", "m", 3, 4, 5).all_units == 4 * 4 * (3 * 2)


# Against a second derivation -------------------------------------------------------------------------------------------------------------


def ranges(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


Box = dict[str, tuple[int, int]]


def steps(mapping: GemmMapping, depth: int, box: Box, cores: tuple[int, int] | None) -> Iterator[tuple[int, Any, Box]]:
    """(stage, core, box) in the order of the nest, from the mapping's fields alone."""
    if depth == mapping.split_stage and cores is None:
        sizes = {axis: -(-(box[axis][1] - box[axis][0]) // parts) for axis, parts in zip("mn", mapping.split, strict=True)}
        for i, m in enumerate(ranges(*box["m"], sizes["m"])):
            for j, n in enumerate(ranges(*box["n"], sizes["n"])):
                yield from steps(mapping, depth, {**box, "m": m, "n": n}, (i, j))
        return
    if depth == len(mapping.stages):
        return
    tiling = mapping.stages[depth]
    loops = [[(axis, part) for part in ranges(*box[axis], getattr(tiling.tile, axis))] for axis in tiling.order]
    for chosen in itertools.product(*loops):
        inner = dict(chosen)
        yield depth, cores, inner
        yield from steps(mapping, depth + 1, inner, cores)


def expected_elements(mapping: GemmMapping, hardware: Chip) -> Counter[Any]:
    """Fetches as runs: of the sequence of tiles that a stage of a core needs, each run of equal ones is one fetch. A run of sums that is
    not the first of its tile reads back, one that is not the last spills. A tile of sums that is put away takes along what is within it."""
    g, stages = mapping.gemm, chip_stages(hardware)
    sequences: dict[Any, list[Any]] = {}
    generation: Counter[Any] = Counter()  # tiles of sums that a stage has begun to hold
    for depth, core, box in steps(mapping, 0, {"m": (0, g.m), "n": (0, g.n), "k": (0, g.k)}, None):
        for role in stages[depth].roles:
            area = tuple(box[axis] for axis in OPERAND_AXES[role])
            around = max((d for d in range(depth) if role in stages[d].roles), default=None) if role == "psums" else None
            owner = (around, core if around is not None and around >= mapping.split_stage else None)
            sequence = sequences.setdefault((depth, core, role), [])
            if role == "psums" and (not sequence or sequence[-1] != (area, generation[owner])):
                generation[depth, core] += 1
            sequence.append((area, generation[owner] if role == "psums" else 0))
    counts: Counter[Any] = Counter()
    for (depth, _, role), sequence in sequences.items():
        here = stages[depth].level_of(role).name
        outer = next((stages[d].level_of(role).name for d in range(depth - 1, -1, -1) if role in stages[d].roles), "dram")
        runs = [area for (area, _), _ in itertools.groupby(sequence)]
        last = {area: i for i, area in enumerate(runs)}
        begun: set[Any] = set()
        for i, area in enumerate(runs):
            elements = math.prod(stop - start for start, stop in area)
            if role != "psums":
                counts[here, role, "write"] += elements
                counts[outer, role, "read"] += elements
                continue
            if area in begun:
                counts[here, role, "write"] += elements
                counts[outer, role, "read"] += elements
            begun.add(area)
            cargo = "outputs" if last[area] == i else "psums"
            counts[here, cargo, "read"] += elements
            counts[outer, cargo, "write"] += elements
    return counts


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
@pytest.mark.parametrize("memory", MEMORIES)
def test_random_mappings_are_exact_and_move_what_a_second_derivation_says(memory: str, cores: int) -> None:
    rng = random.Random(f"{memory} {cores}")
    hardware = chip(*MEMORIES[memory], cores=cores, count=rng.randint(1, 3))
    for seed in range(8):
        g = gemm(rng.randint(1, 14), rng.randint(1, 14), rng.randint(1, 14))
        mapping = random_mapping(rng, hardware, g)
        tally = execute(mapping, hardware, seed)
        assert tally.elements == expected_elements(mapping, hardware), mapping
        assert tally.useful_macs == g.macs
        assert tally.issued_macs >= g.macs


@pytest.mark.parametrize("memory", ["one", "gpu", "three"])
def test_all_orders(memory: str) -> None:
    hardware = chip(*MEMORIES[memory])
    tiles = [Tile(6, 5, 6), Tile(4, 3, 3), Tile(3, 2, 2)]
    for orders in itertools.product(itertools.permutations(AXES), repeat=min(2, len(chip_stages(hardware)))):
        stages = tuple(StageTiling(tiles[d], orders[d % len(orders)], 1) for d in range(len(chip_stages(hardware))))
        mapping = GemmMapping(gemm(7, 7, 9), stages, (1, 1), sum(not stage.per_core for stage in chip_stages(hardware)), "os", "n")
        assert execute(mapping, hardware).elements == expected_elements(mapping, hardware)


# Floats ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number_format", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("memory", ["one", "gpu", "three"])
def test_floats_stay_within_their_bound(number_format: str, memory: str) -> None:
    rng = random.Random(memory)
    hardware = chip(*MEMORIES[memory], cores=3)
    arithmetic = Arithmetic(number_format, "fp32", number_format)
    for _ in range(4):
        g = gemm(rng.randint(1, 12), rng.randint(1, 12), rng.randint(1, 150), number_format)
        a, w = floats(rng, number_format, g.m, g.k), floats(rng, number_format, g.k, g.n)
        c, _ = execute_gemm(random_mapping(rng, hardware, g), hardware, a, w, arithmetic)
        assert c.dtype == torch_dtype(number_format)
        exact, bound = gemm_bound(a, w, arithmetic)
        assert judge(c, exact, bound).passed
        assert judge(a @ w, exact, bound).passed  # PyTorch's own product too
        c[0, 0] += 8 * bound[0, 0] + 2 * gamma(2, 2.0**-8) * c[0, 0].abs().float()
        assert judge(c, exact, bound).worst_index == 0
        assert not judge(c, exact, bound).passed


def test_narrow_accumulators_have_a_wider_bound() -> None:
    rng, hardware = random.Random(3), chip(*ONE_STAGE)
    g = gemm(5, 6, 400, "fp16")
    a, w = floats(rng, "fp16", 5, 400), floats(rng, "fp16", 400, 6)
    arithmetic = Arithmetic("fp16", "fp16", "fp16")
    c, _ = execute_gemm(one_stage(g, (5, 6, 10), "mnk"), hardware, a, w, arithmetic)
    assert judge(c, *gemm_bound(a, w, arithmetic)).passed
    assert not judge(c, *gemm_bound(a, w, Arithmetic("fp16", "fp32", "fp16"))).passed


def test_the_bound_by_hand() -> None:
    """Two products in fp32, output bf16: gamma_3 x 7 + 2^-8 (|5| + gamma_3 x 7)."""
    a, w = torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([[-1.0], [3.0]]).bfloat16()
    exact, bound = gemm_bound(a, w, Arithmetic("bf16", "fp32", "bf16"))
    error = 3 * 2**-24 / (1 - 3 * 2**-24) * 7
    assert exact.item() == 5
    assert bound.item() == pytest.approx(error + 2**-8 * (5 + error), rel=1e-12)


def test_judgement_of_what_is_not_a_number() -> None:
    golden = torch.tensor([1.0, -math.inf, 2.0])
    assert judge(golden, golden, torch.zeros(3)).passed
    for wrong in (torch.tensor([1.0, 0.0, 2.0]), torch.tensor([math.nan, -math.inf, 2.0]), torch.tensor([1.0, -math.inf, math.inf])):
        found = judge(wrong, golden, torch.full((3,), 1e30))
        assert (found.passed, found.different, found.worst) == (False, 1, math.inf)
    off = judge(torch.tensor([3, 4], dtype=torch.int8), torch.tensor([3, 5], dtype=torch.int8))
    assert (off.passed, off.different, off.worst, off.worst_index) == (False, 1, 1.0, 1)


# Mutation --------------------------------------------------------------------------------------------------------------------------------


def test_a_change_of_any_field_of_a_mapping_shows() -> None:
    hardware = chip(*SHARED_L2, cores=4, count=2)
    stages = (StageTiling(Tile(12, 12, 10), ("m", "k", "n"), 1), StageTiling(Tile(3, 3, 5), ("n", "k", "m"), 2))
    mapping = GemmMapping(gemm(24, 24, 20), stages, (2, 2), 1, "ws", "n")
    base = execute(mapping, hardware)
    mutants: list[GemmMapping] = []
    for depth, tiling in enumerate(stages):
        sizes = [{axis: getattr(tiling.tile, axis) + step} for axis in AXES for step in (1, -1)]
        changed = [replace(tiling, tile=tiling.tile._replace(**size)) for size in sizes]
        changed += [replace(tiling, order=order) for order in itertools.permutations(AXES) if order != tiling.order]
        changed.append(replace(tiling, buffers=3 - tiling.buffers))
        mutants += [replace(mapping, stages=(*stages[:depth], each, *stages[depth + 1 :])) for each in changed]
    mutants += [replace(mapping, split=split) for split in [(1, 1), (1, 2), (2, 1), (4, 1), (1, 4), (3, 1), (2, 3)]]
    mutants += [replace(mapping, split_stage=stage) for stage in (0, 2)]
    mutants += [replace(mapping, dataflow=dataflow) for dataflow in ("os", "is", "rs")]
    mutants += [replace(mapping, array_axis="m"), replace(mapping, stages=stages[:1])]
    for mutant in mutants:
        try:
            assert execute(mutant, hardware) != base, mutant
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": (2, 2)}, r"a split of \(2, 2\) needs as many cores; edge-npu has 3"),
        ({"split_stage": 1}, "split_stage is 1; the first stage that a core of edge-npu has for itself is 0"),
        ({"stages": ()}, "the mapping has 0 stages, edge-npu has 1"),
        ({"gemm": gemm(4, 6, 9)}, "are not those of m 4, n 6, k 9"),
        ({"dataflow": "rs"}, "dataflow is 'rs'; this array has os, ws, is"),
        ({"stages": (StageTiling(Tile(0, 1, 1), AXES, 1),)}, "not a tiling"),
    ],
)
def test_a_mapping_that_the_chip_cannot_carry_out_is_refused(change: dict[str, Any], message: str) -> None:
    mapping = replace(one_stage(gemm(4, 6, 8), (2, 3, 4), "mnk"), **change)
    a, w = torch.zeros(4, 8, dtype=torch.int8), torch.zeros(8, 6, dtype=torch.int8)
    with pytest.raises(ValueError, match=message):
        execute_gemm(mapping, chip(*ONE_STAGE, cores=3), a, w, Arithmetic("int8", "int32", "int32"))


def test_formats_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="int8 products cannot be summed in fp32"):
        Arithmetic("int8", "fp32", "int32")
    with pytest.raises(ValueError, match="needs the factor"):
        Arithmetic("int8", "int32", "int8")
    with pytest.raises(ValueError, match="no rate for fp8; it has int8, bf16, fp16, fp32"):
        issued_macs(chip(*ONE_STAGE).matrix, "fp8", "ws", "m", 1, 1, 1)


def test_no_cost_is_imported() -> None:
    """What is charged and what is tallied must be two derivations."""
    allowed = ("functional", "hwmodels.chip", "sim.mapping", "sim.attention_mapping", "sim.execute")
    files = [*sorted(Path(sim.execute.__file__).parent.glob("*.py")), Path(sim.execute.__file__).parents[1] / "attention_mapping.py"]
    assert len(files) == 9
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name.split(".")[0] in ("functional", "workloads", "hwmodels", "sim")
                assert not ours or any(name == each or name.startswith(f"{each}.") for each in allowed), f"{file.name} imports {name}"


EXECUTED_ALONE = """
import pickle, sys
import torch
from sim.execute import Arithmetic, execute_attention, execute_gemm
from sim.execute.attention import AttentionNumbers

chip, mapping, fused = pickle.load(open(sys.argv[1], "rb"))
whole = Arithmetic("fp32", "fp32", "fp32")
g, a = mapping.gemm, fused.attention
_, one = execute_gemm(mapping, chip, torch.ones(g.m, g.k), torch.ones(g.k, g.n), whole)
q, kv = torch.ones(a.batch, a.heads, a.q_len, a.head_dim), torch.ones(a.batch, a.kv_heads, a.kv_len, a.head_dim)
_, other = execute_attention(fused, chip, q, kv, kv, AttentionNumbers(whole, 1.0))
for tally in (one, other):
    assert tally.issued_macs >= tally.busiest_macs >= tally.busiest_unit_macs and tally.busy_cores
    assert tally.elements
print(*(name for name in sys.modules if name.split(".")[0] in ("workloads", "hwmodels", "sim")))
"""


def test_executing_loads_no_cost(tmp_path: Path) -> None:
    """What is imported is not all in the lines of these files: they import others, and might import while they run."""
    hardware, given = chip(*ONE_STAGE), tmp_path / "given"
    chosen = hardware, one_stage(gemm(4, 6, 8, "fp32"), (2, 3, 4), "mnk"), attention_mapping(attention(Mask(5), compute="fp32"), 3, 4)
    given.write_bytes(pickle.dumps(chosen))
    root = Path(sim.execute.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", EXECUTED_ALONE, given], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    known = {"hwmodels", "hwmodels.chip", "sim", "sim.mapping", "sim.attention_mapping", "sim.execute"}
    loaded = set(done.stdout.split())
    assert known < loaded
    assert {name for name in loaded if not name.startswith("sim.execute.")} == known


# Attention -------------------------------------------------------------------------------------------------------------------------------


def attention(mask: Mask, heads: int = 6, kv_heads: int = 2, queries: int = 9, keys: int = 14, compute: str = "int8") -> Attention:
    bits = {"int8": 8, "bf16": 16, "fp16": 16, "fp32": 32}[compute]
    return Attention(2, heads, kv_heads, queries, keys, 8, int(mask.offset), mask.window, bits, bits, 32, compute)


def attention_mapping(a: Attention, q_tile: int, kv_tile: int, **fields: Any) -> AttentionMapping:
    chosen = {"fused": True, "online": False, "buffers": 1, "split": (1, 1), "dataflow": "ws", "array_axis": "m", **fields}
    return AttentionMapping(a, q_tile, kv_tile, **chosen)


MASKS = {
    "causal": Mask(5),
    "prefill": Mask(0),
    "window": Mask(5, 4),
    "narrow window": Mask(2, 1),
    "aligned window": Mask(5, 3),
    "none": Mask(14),
    "wide window": Mask(9, 30),
}


def attention_inputs(a: Attention, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = random.Random(seed)
    return tuple(floats(rng, "fp32", a.batch, heads, length, a.head_dim) for heads, length in ((a.heads, a.q_len), (a.kv_heads, a.kv_len), (a.kv_heads, a.kv_len)))  # type: ignore[return-value]  # noqa: E501


def int8_attention(mapping: AttentionMapping, hardware: Chip, seed: int = 0) -> Tally:
    """The tally of attention in int8, whose output is compared with the golden text's on the way."""
    a = mapping.attention
    real = attention_inputs(a, seed)
    softmax_scale = 1 / math.sqrt(a.head_dim)
    q, k, v = (quantise(each, scale_of(each.abs().max())) for each in real)
    steps = {"scores": 0.08, "softmax_max": 0.08, "softmax_exp": 1 / 127, "softmax_normalize": 1 / 127, "context": 0.01}
    f = Quantised({name: torch.tensor(scale) for name, scale in steps.items()})
    wanted = golden_attention(f, q, k, v, a.mask, softmax_scale)
    assert wanted.values.unique().numel() > 40
    s = f.scales
    assert q.scale is not None
    assert k.scale is not None
    assert v.scale is not None
    scales = Scales(q.scale, k.scale, v.scale, s["scores"], s["softmax_exp"], s["softmax_normalize"], s["context"])
    products = Arithmetic("int8", "int32", "int8", torch.tensor(1.0))
    found, tally = execute_attention(mapping, hardware, q.values, k.values, v.values, AttentionNumbers(products, softmax_scale, scales))
    assert judge(found, wanted.values).passed
    assert isinstance(wanted, QTensor)
    return tally


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (4, 1)])
def test_attention_in_int8_equals_the_golden_text(mask: str, heads: tuple[int, int]) -> None:
    rng = random.Random(f"{mask} {heads}")
    a = attention(MASKS[mask], *heads)
    hardware = chip(*ONE_STAGE, cores=7)
    for seed in range(3):
        split = rng.choice([(1, 1), (2, 3), (7, 1), (1, 7)])
        mapping = attention_mapping(a, rng.randint(1, 9), rng.randint(1, 14), fused=rng.random() < 0.7, split=split)
        mapping = replace(mapping, score_buffers=rng.choice([1, 2]) if mapping.fused else 1)
        tally = int8_attention(mapping, hardware, seed)
        assert tally.useful_macs == a.useful_macs
        assert tally.issued_macs >= tally.useful_macs


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("number_format", ["fp32", "bf16", "fp16"])
def test_attention_in_floats_stays_within_its_bound(mask: str, online: bool, number_format: str) -> None:
    rng = random.Random(mask)
    a = attention(MASKS[mask], compute=number_format)
    q, k, v = (each.to(torch_dtype(number_format)) for each in attention_inputs(a))
    numbers = AttentionNumbers(Arithmetic(number_format, "fp32", number_format), 1 / math.sqrt(8))
    mapping = attention_mapping(a, rng.randint(1, 9), rng.randint(1, 14), online=online, score_buffers=rng.choice([1, 2]))
    found, tally = execute_attention(mapping, chip(*ONE_STAGE), q, k, v, numbers)
    exact, bound = attention_bound(q, k, v, a.mask, numbers.softmax_scale, numbers.products)
    assert judge(found, exact, bound).passed
    assert judge(golden_attention(Torch(), q, k, v, a.mask, numbers.softmax_scale), exact, bound).passed
    assert tally.useful_macs == a.useful_macs
    # The bound says something: leaving out one key is seen (in fp32, where it is narrow).
    if number_format == "fp32":
        assert float(bound.max()) < 1e-4
        v[:, :, -1] = 0
        without = golden_attention(Torch(), q, k, v, a.mask, numbers.softmax_scale)
        assert judge(without, exact, bound).passed == (mask in ("prefill", "narrow window"))  # where no query sees the last key


@pytest.mark.parametrize("online", [False, True])
def test_attention_in_scaled_floats_stays_within_its_bound(online: bool) -> None:
    """Flat scores and values of one sign, so that the bound is well below the output: exponentials of half the size are seen."""
    a = replace(attention(Mask(5)), compute="fp8")
    real = attention_inputs(a)
    q, k, v = (quantise(each, scale_of(each.max(), "fp8"), "fp8") for each in (*real[:2], real[2].abs()))
    assert q.scale is not None
    assert k.scale is not None
    assert v.scale is not None
    scores, exponentials, output = (torch.tensor(largest / 448) for largest in (20.0, 1.0, 4.0))
    scales = Scales(q.scale, k.scale, v.scale, scores, exponentials, exponentials, output)
    numbers = AttentionNumbers(Arithmetic("fp8", "fp32", "fp8", torch.ones(())), 0.02, scales)
    hardware, mapping = chip(*ONE_STAGE, rates={"fp8": 1}), attention_mapping(a, 4, 3, online=online)
    found, _ = execute_attention(mapping, hardware, q.values, k.values, v.values, numbers)
    exact, bound = attention_bound(q.values, k.values, v.values, a.mask, 0.02, numbers.products, scales)
    assert judge(found, exact, bound).passed
    assert not judge(found.float() / 2, exact, bound).passed


def dram(tally: Tally) -> dict[str, int]:
    return {f"{each.direction} {each.cargo}": elements for each, elements in tally.elements.items() if each.level == "dram"}


def test_attention_traffic_of_the_published_check() -> None:
    """32 query heads of 64, 512 x 512, no mask, one byte per element, K and V of a head on the chip at a time."""
    hardware = chip(*ONE_STAGE)
    numbers = AttentionNumbers(Arithmetic("fp32", "fp32", "fp32"), 0.125)
    for kv_heads, fused, wanted in ((32, True, 4_194_304), (32, False, 62_947_328), (8, True, 2_621_440)):
        a = Attention(1, 32, kv_heads, 512, 512, 64, 512, None, 8, 8, 32, "fp32")
        q, k, v = attention_inputs(a)
        _, tally = execute_attention(attention_mapping(a, 512, 512, fused=fused), hardware, q, k, v, numbers)
        assert sum(dram(tally).values()) == wanted


def test_attention_traffic_by_hand() -> None:
    """One pair of 2 query heads of width 8, 6 queries in threes, 6 keys in twos, causal: the first query tile sees two key tiles."""
    a = replace(attention(Mask(0), heads=2, kv_heads=1, queries=6, keys=6), batch=1)
    hardware = chip(*ONE_STAGE)
    tally = int8_attention(attention_mapping(a, 3, 2), hardware)
    assert dram(tally) == {"read queries": 96, "read keys": (2 + 3) * 2 * 8, "read values": (2 + 3) * 2 * 8, "write outputs": 96}
    assert tally.useful_macs == 2 * 2 * 21 * 8
    # Scores: 6 rows x 4 and 6 keys; k 8 over two folds of 4 rows, each of two key tiles over 4 columns. Values: k 2 over 4 rows, n 8.
    assert tally.issued_macs == 5 * (6 * 8 * 4) + 5 * (6 * 4 * 8)
    assert dram(int8_attention(attention_mapping(a, 3, 6), hardware))["read keys"] == 6 * 8
    assert dram(int8_attention(attention_mapping(a, 3, 5), hardware))["read keys"] == (5 + 6) * 8
    assert dram(int8_attention(attention_mapping(a, 3, 6, split=(1, 2)), replace(hardware, cores=2)))["read keys"] == 2 * 6 * 8
    unfused = dram(int8_attention(attention_mapping(a, 3, 2, fused=False), hardware))
    computed = 6 * (4 + 6)  # rows x keys of the tiles that are not skipped
    assert (unfused["write scores"], unfused["read scores"]) == (computed, 2 * computed)
    assert (unfused["write maxima"], unfused["read maxima"]) == (12, 12)
    assert unfused["write exponentials"] == unfused["read probabilities"] == computed


@pytest.mark.parametrize(("mask", "tiles"), [("prefill", 6), ("window", 9), ("aligned window", 6), ("none", 15), ("wide window", 14)])
def test_fully_masked_tiles_are_skipped(mask: str, tiles: int) -> None:
    """One head, 9 queries in threes, 14 keys in threes: the pairs of tiles in which some query sees some key, found one by one."""
    chosen = MASKS[mask]
    a = replace(attention(chosen, heads=1, kv_heads=1), batch=1)
    oldest = [i + int(chosen.offset) - (chosen.window or 99) for i in range(9)]
    sees = sorted({(i // 3, j // 3) for i in range(9) for j in range(14) if oldest[i] < j <= i + chosen.offset})
    assert len(sees) == tiles
    widths = [3, 3, 3, 3, 2]
    tally = int8_attention(attention_mapping(a, 3, 3), chip(*ONE_STAGE))
    assert dram(tally)["read keys"] == dram(tally)["read values"] == sum(widths[j] for _, j in sees) * 8
    assert tally.issued_macs == len(sees) * (3 * 8 * 4 + 3 * 4 * 8)


def test_a_change_of_any_field_of_an_attention_mapping_shows() -> None:
    a = attention(Mask(5), heads=6, kv_heads=2)
    hardware = chip(*ONE_STAGE, cores=4, count=2)
    mapping = attention_mapping(a, 4, 3, buffers=2, split=(2, 1))
    base = int8_attention(mapping, hardware)
    changes: list[dict[str, Any]] = [{"q_tile": 3}, {"q_tile": 5}, {"kv_tile": 2}, {"kv_tile": 4}, {"fused": False}, {"online": True}]
    changes += [{"score_buffers": each} for each in (0, 2, 3)]
    changes += [{"buffers": 1}, {"split": (2, 2)}, {"split": (5, 1)}, {"dataflow": "os"}, {"array_axis": "n"}, {"split": (0, 1)}]
    for change in changes:
        try:
            assert int8_attention(replace(mapping, **change), hardware) != base, change
        except ValueError:
            continue


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(("score_buffers", "order"), [(1, "KVKVKVKV"), (2, "KKVKVKVV")])
def test_the_next_scores_are_computed_while_there_is_a_place(online: bool, score_buffers: int, order: str) -> None:
    """Two pairs of two query tiles with one key tile each; every number of places gives the same output."""
    a = replace(attention(Mask(14), heads=2, kv_heads=2, queries=6, keys=6, compute="fp32"), batch=1)
    mapping, hardware = attention_mapping(a, 3, 6, online=online, score_buffers=score_buffers), chip(*ONE_STAGE)
    fetched: list[str] = []

    class Told(attention_module._Run):
        def fetch(self, cargo: Cargo, pair: int, tile: Span) -> Tensor:
            fetched.append("K" if cargo == "keys" else "V")
            return super().fetch(cargo, pair, tile)

    sides, numbers = attention_inputs(a), AttentionNumbers(Arithmetic("fp32", "fp32", "fp32"), 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_Run", Told)
        found, tally = execute_attention(mapping, hardware, *sides, numbers)
    assert "".join(fetched) == order
    assert torch.equal(found, execute_attention(replace(mapping, score_buffers=1), hardware, *sides, numbers)[0])
    # 3 rows of scores with 6 keys in each place, 3 queries of 8; and an output of its own where queries leave before it is complete.
    assert tally.held_bits["sram", "scores"] == score_buffers * 3 * 6 * 32
    assert tally.held_bits["sram", "queries"] + tally.held_bits.get(("sram", "outputs"), 0) == score_buffers * 3 * 8 * 32


def test_a_place_for_scores_is_written_when_it_is_free() -> None:
    a = attention(Mask(5))
    sides, numbers = attention_inputs(a), AttentionNumbers(Arithmetic("fp32", "fp32", "fp32"), 1.0)
    mapping = attention_mapping(replace(a, compute="fp32"), 4, 3, score_buffers=2)

    class Crowded(attention_module._Run):
        def __init__(self, *each: Any) -> None:
            super().__init__(*each)
            self.scored = attention_module._Places("scores", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_Run", Crowded)
        with pytest.raises(ValueError, match="scores are written to a place that is still in use; there are 1"):
            execute_attention(mapping, chip(*ONE_STAGE), *sides, numbers)
    with pytest.raises(ValueError, match="no scores are there to be used"):
        attention_module._Places[int]("scores", 2).free()


@pytest.mark.parametrize(("score_buffers", "fused"), [(0, True), (3, True), (2, False)])
def test_one_place_for_scores_or_two(score_buffers: int, fused: bool) -> None:
    with pytest.raises(ValueError, match=f"{score_buffers} places for scores; there are one or two"):
        int8_attention(attention_mapping(attention(Mask(5)), 4, 3, score_buffers=score_buffers, fused=fused), chip(*ONE_STAGE))


def test_attention_that_does_not_fit_is_refused() -> None:
    a = attention(Mask(5))
    small = chip(replace(ONE_STAGE[0], capacity_bytes=100))
    with pytest.raises(ValueError, match=r"the tiles take \d+ bytes of sram; raise memory\.sram\.capacity"):
        int8_attention(attention_mapping(a, 9, 14), small)


@pytest.mark.parametrize("mask", [Mask(-1), Mask(9, 3)])
def test_a_query_that_sees_nothing_is_refused(mask: Mask) -> None:
    a = attention(mask)
    q, k, v = attention_inputs(a)
    numbers = AttentionNumbers(Arithmetic("fp32", "fp32", "fp32"), 1.0)
    with pytest.raises(ValueError, match="a query that sees no key has no output"):
        execute_attention(attention_mapping(a, 4, 3), chip(*ONE_STAGE), q, k, v, numbers)


def test_online_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="set online to false for integers"):
        int8_attention(attention_mapping(attention(Mask(5)), 4, 3, online=True), chip(*ONE_STAGE))
