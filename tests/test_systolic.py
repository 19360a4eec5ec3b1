"""Defends: cycles, folds, SRAM accesses of the systolic array are those of a register-level array and, in scalesim mode, of SCALE-Sim."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwmodels.formulas import systolic
from sim.mapper.array import Lay
from tests.register_array import Hazard, play, tightest_intervals

DATAFLOWS = tuple(systolic.AXES)
PRELOADS = ("overlapped", "serial")
RATES = {1: (1, 1), 2: (2, 1), 3: (3, 1), 1 / 2: (1, 2), 1 / 3: (1, 3)}  # rate: (pack, stretch)


def shape_of(problem: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[int, int, int]:
    a, w = problem
    return a.shape[0], w.shape[1], a.shape[1]


def nonzero(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
    return rng.integers(1, 9, shape) * rng.choice([-1, 1], shape)


def problem_of(rng: np.random.Generator, m: int, n: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return nonzero(rng, (m, k)), nonzero(rng, (k, n))


def draw(rng: np.random.Generator, *limits: int) -> tuple[int, ...]:
    return tuple(int(rng.integers(1, limit + 1)) for limit in limits)


# --- SCALE-Sim ---


def oracle_rows() -> list[dict[str, str]]:
    with (Path(__file__).parent / "data" / "scalesim_gemm.csv").open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_scalesim_mode_reproduces_every_column_of_every_row() -> None:
    rows = oracle_rows()
    assert len(rows) == 268
    for row in rows:
        where = (row["dataflow"], *(int(row[name]) for name in ("rows", "cols", "M", "N", "K")))
        accesses = systolic.sram_accesses(*where)
        counts = {
            "folds": systolic.folds(*where),
            "cycles_per_fold": systolic.scalesim_fold_cycles(*where),
            "compute_cycles": systolic.scalesim_compute_cycles(*where),
            "reported_total_cycles": systolic.scalesim_reported_cycles(*where),
            "ifmap_sram_reads": accesses.a_reads,
            "filter_sram_reads": accesses.w_reads,
            "ofmap_sram_writes_true": accesses.psum_writes,
        }
        assert counts == {name: int(row[name]) for name in counts}, where
        # The file rounds to six decimals of a percent.
        assert 100 * systolic.scalesim_utilisation(*where) == pytest.approx(float(row["util_pct"]), abs=5.1e-7), where
        assert 100 * systolic.mapping_efficiency(*where) == pytest.approx(float(row["mapping_eff_pct"]), abs=5.1e-7), where


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_serial_physical_array_is_scalesim_plus_the_drain_that_it_forgets(dataflow: str) -> None:
    rng = np.random.default_rng(1)
    rows, cols, m, n, k = rng.integers(1, 100, (5, 1000))
    drain = systolic.folds(dataflow, rows, cols, m, n, k) * rows if dataflow == "os" else 0
    physical = systolic.tile_cycles(dataflow, "serial", rows, cols, m, n, k)
    np.testing.assert_array_equal(physical, systolic.scalesim_compute_cycles(dataflow, rows, cols, m, n, k) + drain)


# --- the register-level array ---


def assert_formulas_describe(
    dataflow: str, preload: str, rows: int, cols: int, problem: tuple[NDArray[np.int64], NDArray[np.int64]], rate: float
) -> None:
    where = (rows, cols, *shape_of(problem), rate)
    folds = systolic.folds(dataflow, *where)
    interval = systolic.fold_interval_cycles(dataflow, preload, *where)
    pack, stretch = RATES[rate]
    run = play(dataflow, [problem], rows, cols, None if preload == "serial" else [interval] * (folds - 1), pack, stretch)
    np.testing.assert_array_equal(run.products[0], problem[0] @ problem[1])
    assert run.cycles == systolic.alone_cycles(dataflow, preload, *where)
    assert np.diff(run.starts).tolist() == [interval] * (folds - 1)
    phases = (run.stream_begin, run.stream_end - run.stream_begin, run.cycles - run.stream_end)
    assert phases == systolic.tile_phases(dataflow, preload, *where)
    a_reads, w_reads = (run.top_reads, run.left_reads) if dataflow == "is" else (run.left_reads, run.top_reads)
    assert (a_reads, w_reads, run.psum_reads, run.psum_writes) == systolic.sram_accesses(dataflow, *where)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("preload", PRELOADS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_array_takes_as_long_as_the_formula_says(dataflow: str, preload: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, cols = draw(rng, 9, 9)
    limits = (24, 24, 24) if rows * cols >= 9 else (9, 9, 9)
    assert_formulas_describe(dataflow, preload, rows, cols, problem_of(rng, *draw(rng, *limits)), rate=1)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate != 1])
@pytest.mark.parametrize("preload", PRELOADS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_array_with_packed_or_slow_products(dataflow: str, preload: str, rate: float) -> None:
    rng = np.random.default_rng(7)
    for rows, cols in ((1, 1), (4, 3), (2, 5)):
        assert_formulas_describe(dataflow, preload, rows, cols, problem_of(rng, *draw(rng, 7, 7, 7)), rate)


@pytest.mark.parametrize("rows_cols", [(1, 1), (1, 5), (5, 1), (4, 6)])
@pytest.mark.parametrize("preload", PRELOADS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_array_on_vectors_and_edges(dataflow: str, preload: str, rows_cols: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for m, n, k in ((1, 1, 1), (1, 7, 5), (7, 1, 5), (5, 7, 1)):
        assert_formulas_describe(dataflow, preload, *rows_cols, problem_of(rng, m, n, k), rate=1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_no_shorter_interval_between_folds_is_free_of_collisions(dataflow: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, cols = draw(rng, 6, 4)
    rate = list(RATES)[seed % len(RATES)]
    extents = {"m": 2 * cols if dataflow == "is" else 2 * rows, "n": 2 * cols, "k": 2 * rows * RATES[rate][0]}
    extents[systolic.AXES[dataflow][2]] = draw(rng, 9)[0]
    problem = problem_of(rng, **extents)
    expected = systolic.fold_interval_cycles(dataflow, "overlapped", rows, cols, *shape_of(problem), rate)
    assert tightest_intervals(dataflow, [problem], rows, cols, 3, *RATES[rate]) == [expected, expected]


def test_hazards_are_seen() -> None:
    problem = problem_of(np.random.default_rng(0), 4, 8, 6)
    for dataflow in DATAFLOWS:
        with pytest.raises(Hazard):
            play(dataflow, [problem], 4, 4, [1] * 8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_tiles_of_different_lengths_back_to_back(dataflow: str, seed: int) -> None:
    """The sum rule of the module's docstring, against the earliest collision-free schedule of the register-level array."""
    rng = np.random.default_rng(seed)
    rows, cols = draw(rng, 4, 3)
    problems = [problem_of(rng, *draw(rng, 6, 4, 6)) for _ in range(3)]
    shapes = [(rows, cols, *shape_of(problem)) for problem in problems]
    folds = sum(systolic.folds(dataflow, *shape) for shape in shapes)
    run = play(dataflow, problems, rows, cols, tightest_intervals(dataflow, problems, rows, cols, folds))
    for product, (a, w) in zip(run.products, problems, strict=True):
        np.testing.assert_array_equal(product, a @ w)
    edge = shapes[0] if dataflow == "os" else shapes[-1]
    busy = [systolic.tile_cycles(dataflow, "overlapped", *shape) for shape in (*shapes, edge)]
    assert run.cycles == sum(busy[:-1]) + systolic.alone_cycles(dataflow, "overlapped", *edge) - busy[-1]


# --- hand values ---


@pytest.mark.parametrize(
    ("dataflow", "preload", "shape", "rate", "alone", "tile"),
    [
        # 4 x 4 array. os, k = 10: the last of 4 + 4 - 2 hops ends at 16, four rows of results leave by 20.
        ("os", "serial", (4, 4, 10), 1, 20, 20),
        ("os", "serial", (4, 8, 10), 1, 40, 40),
        ("os", "overlapped", (4, 8, 10), 1, 30, 20),
        ("os", "overlapped", (4, 8, 2), 1, 16, 8),  # k = 2 is shorter than a drain of 4 rows
        ("os", "overlapped", (4, 8, 10), 2, 20, 10),
        ("os", "overlapped", (4, 8, 10), 0.5, 50, 40),
        # ws, 10 rows of activations: 4 cycles of preload, 10 of stream, 6 hops.
        ("ws", "serial", (10, 4, 4), 1, 20, 20),
        ("ws", "serial", (10, 4, 8), 1, 40, 40),
        ("ws", "overlapped", (10, 4, 8), 1, 30, 20),
        ("ws", "overlapped", (1, 4, 8), 1, 15, 8),  # one token: the preload of 4 cycles per fold is what it takes
        ("ws", "overlapped", (10, 4, 8), 2, 20, 10),  # int8 pairs: one fold holds all of k
        ("ws", "overlapped", (10, 4, 8), 0.5, 50, 40),
        # is: ws with the parts of m and n exchanged.
        ("is", "overlapped", (4, 10, 8), 1, 30, 20),
        ("is", "overlapped", (4, 1, 8), 1, 15, 8),
    ],
)
def test_hand_values(dataflow: str, preload: str, shape: tuple[int, int, int], rate: float, alone: int, tile: int) -> None:
    assert systolic.alone_cycles(dataflow, preload, 4, 4, *shape, rate) == alone
    assert systolic.tile_cycles(dataflow, preload, 4, 4, *shape, rate) == tile


def test_hand_values_of_phases_and_accesses() -> None:
    assert systolic.tile_phases("os", "overlapped", 4, 2, 4, 4, 10) == (0, 20, 8)
    assert systolic.tile_phases("ws", "overlapped", 4, 2, 10, 4, 4) == (4, 20, 4)
    # m, n, k = 6, 5, 9 on 4 x 2: os re-reads A for 3 column blocks, W for 2 row blocks; ws and is add 3 partial sums per result.
    assert systolic.sram_accesses("os", 4, 2, 6, 5, 9) == (54 * 3, 45 * 2, 0, 30)
    assert systolic.sram_accesses("ws", 4, 2, 6, 5, 9) == (54 * 3, 45, 60, 90)
    assert systolic.sram_accesses("is", 4, 2, 6, 5, 9) == (54, 45 * 3, 60, 90)
    assert systolic.utilisation(4, 4, 8, 4, 10, cycles=40, rate=2) == 320 / (16 * 2 * 40)
    assert systolic.mapping_efficiency("ws", 4, 4, 100, 6, 2) == 12 / 32


# --- properties ---


CYCLES = (systolic.tile_cycles, systolic.alone_cycles)
EVERY_KIND = pytest.mark.parametrize(("dataflow", "preload", "cycles"), list(itertools.product(DATAFLOWS, PRELOADS, CYCLES)))


def random_shapes(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(1, [[40], [40], [300], [300], [300]], (5, count))


@EVERY_KIND
def test_more_work_never_takes_fewer_cycles(dataflow: str, preload: str, cycles) -> None:
    rows, cols, *lengths = random_shapes(5000)
    for rate in (0.3, 0.5, 1, 2, 4):
        base = cycles(dataflow, preload, rows, cols, *lengths, rate)
        for axis in range(3):
            longer = [length + (index == axis) for index, length in enumerate(lengths)]
            assert np.all(cycles(dataflow, preload, rows, cols, *longer, rate) >= base)


@EVERY_KIND
def test_a_higher_rate_is_never_slower(dataflow: str, preload: str, cycles) -> None:
    shapes = random_shapes(5000)
    by_rate = [cycles(dataflow, preload, *shapes, rate) for rate in (0.1, 0.25, 1 / 3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 8)]
    assert all(np.all(slow >= fast) for slow, fast in itertools.pairwise(by_rate))


@EVERY_KIND
def test_overlapping_never_hurts_and_utilisation_is_a_share(dataflow: str, preload: str, cycles) -> None:
    shapes = random_shapes(5000)
    taken = cycles(dataflow, preload, *shapes)
    assert np.all(taken <= cycles(dataflow, "serial", *shapes))
    share = systolic.utilisation(*shapes, taken)
    assert share.min() > 0
    assert share.max() <= 1


def test_a_quotient_is_not_rounded_up_for_its_rounding_error() -> None:
    k = np.arange(1, 20_000)
    np.testing.assert_array_equal(systolic.stream_cycles("os", 1, 1, k, 7 / 10), -(-k * 10 // 7))


FUNCTIONS_OF_A_TILE = [
    *(lambda d, *s, p=p, f=f: f(d, p, *s) for p in PRELOADS for f in (*CYCLES, systolic.fold_interval_cycles)),
    *(lambda d, *s, p=p, i=i: systolic.tile_phases(d, p, *s)[i] for p in PRELOADS for i in range(3)),
    *(lambda d, *s, i=i: systolic.sram_accesses(d, *s)[i] for i in range(4)),
    systolic.folds,
    systolic.mapping_efficiency,
    systolic.scalesim_compute_cycles,
]


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("function", FUNCTIONS_OF_A_TILE)
def test_arrays_give_what_scalars_give(function, dataflow: str) -> None:
    shapes = random_shapes(50)
    whole = np.broadcast_to(function(dataflow, *shapes), 50)
    one_by_one = [function(dataflow, *(int(length) for length in shape)) for shape in shapes.T]
    assert {type(value) for value in one_by_one} <= {int, float}
    assert whole.tolist() == one_by_one


def test_a_grid_of_chips_against_a_grid_of_lengths() -> None:
    sides, tokens, rate = np.array([[[8]], [[16]]]), np.array([[1], [64], [512]]), np.array([0.5, 1.0, 2.0, 4.0])
    grid = systolic.tile_cycles("ws", "overlapped", sides, sides, tokens, 64, 128, rate)
    assert grid.shape == (2, 3, 4)
    assert grid[1, 2, 2] == systolic.tile_cycles("ws", "overlapped", 16, 16, 512, 64, 128, 2.0)


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="one of os, ws, is"):
        systolic.folds("rs", 4, 4, 1, 1, 1)
    with pytest.raises(ValueError, match="one of os, ws, is"):
        systolic.sram_accesses("rs", 4, 4, 1, 1, 1)
    with pytest.raises(ValueError, match="'overlapped' or 'serial'"):
        systolic.tile_cycles("os", "late", 4, 4, 1, 1, 1)


def test_counts_in_float64_are_divided_as_whole_numbers_are() -> None:
    rng = np.random.default_rng(0)
    counts, divisors = (2 ** rng.uniform(0, 50, (2, 20000))).astype(np.int64)
    counts[::2] -= counts[::2] % divisors[::2]
    counts[::4] -= 1
    counts = np.maximum(counts, 0)
    for divide in (systolic.ceil_div, systolic.floor_div):
        assert np.array_equal(divide(counts.astype(float), divisors.astype(float)), divide(counts, divisors))
    lengths = np.arange(1, 5000)
    for rate in (0.1, 0.3, 0.7, 1.0, 1.1, 1.7, 4.0):
        assert np.array_equal(systolic.paced(lengths.astype(float), rate), systolic.paced(lengths, rate))


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 200))
def test_units_that_share_an_axis_are_charged_each_for_its_part(units: int, pes: int, length: int) -> None:
    part = max(1, -(-length // (units * pes))) * pes  # whole folds
    folds = [-(-max(0, min(part, length - unit * part)) // pes) for unit in range(units)]
    lay = Lay(units, 1, pes, 1, 0, 0, 0, 1, pes)
    assert lay.accesses(length) == sum(folds)
    assert lay.issued(length) == pes * sum(folds)
    assert lay.issued_to_first(length) == pes * folds[0]
    assert lay.folds(length) == max(folds)
    assert lay.accesses(np.array([float(length)])) == sum(folds)
