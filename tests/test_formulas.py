"""Defends: tensor-core and vector-unit cycles are the hand-counted ones, padding is issued and paid, more work never takes less time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwmodels.formulas import masking, roofline, tensor_core, vector

GRANULE = (16, 8, 16)  # 2048 MACs


@pytest.mark.parametrize(
    ("count", "rate", "shape", "cycles", "issued"),
    [
        (1, 1024, (16, 8, 16), 2, 2048),
        (1, 1024, (1, 1, 1), 2, 2048),  # part of a granule costs all of it
        (1, 1024, (17, 8, 16), 4, 4096),
        (4, 1024, (64, 32, 64), 32, 16 * 4 * 2048),  # 16 output granules on 4 units, 4 granules of k each
        (4, 1024, (16, 40, 16), 4, 5 * 2048),  # 5 output granules on 4 units: two turns
        (4, 1024, (16, 8, 64), 8, 4 * 2048),  # k stays on one unit, three are idle
        (1, 3000, (16, 8, 32), 2, 4096),  # 1.37 cycles; rounded up once for the tile, not once per granule
    ],
)
def test_tensor_core_hand_values(count: int, rate: float, shape: tuple[int, int, int], cycles: int, issued: int) -> None:
    assert tensor_core.tile_cycles(GRANULE, count, rate, *shape) == cycles
    assert tensor_core.issued_macs(GRANULE, *shape) == issued


def test_tensor_core_never_beats_its_peak_and_is_monotone() -> None:
    m, n, k = np.random.default_rng(0).integers(1, 300, (3, 5000))
    count, rate = np.array([[1], [4], [7]]), 512.0
    cycles = tensor_core.tile_cycles(GRANULE, count, rate, m, n, k)
    assert np.all(tensor_core.issued_macs(GRANULE, m, n, k) >= m * n * k)
    assert np.all(cycles * count * rate >= tensor_core.issued_macs(GRANULE, m, n, k))
    for longer in ((m + 1, n, k), (m, n + 1, k), (m, n, k + 1)):
        assert np.all(tensor_core.tile_cycles(GRANULE, count, rate, *longer) >= cycles)
    by_rate = [tensor_core.tile_cycles(GRANULE, 4, faster, m, n, k) for faster in (0.5, 3, 64, 1000, 1024)]
    assert all(np.all(slow >= fast) for slow, fast in itertools.pairwise(by_rate))


def test_tensor_core_arrays_give_what_scalars_give() -> None:
    shapes = np.random.default_rng(1).integers(1, 100, (3, 50))
    one_by_one = [tensor_core.tile_cycles(GRANULE, 4, 300.0, *(int(length) for length in shape)) for shape in shapes.T]
    assert {type(cycles) for cycles in one_by_one} == {int}
    assert tensor_core.tile_cycles(GRANULE, 4, 300.0, *shapes).tolist() == one_by_one


COSTS = {"add": 1.0, "mul": 1.0, "exp": 4.0, "convert": 0.5}


@pytest.mark.parametrize(
    ("elements", "per_element", "lanes", "lane_cycles", "cycles", "whole"),
    [
        (64, {"add": 1}, 32, 64, 2.0, 2),
        (65, {"add": 1}, 32, 65, 65 / 32, 3),
        (10, {"mul": 2, "exp": 1, "convert": 2}, 32, 70, 70 / 32, 3),  # 10 x (2 + 4 + 1), rounded once, not per primitive
        (1, {"convert": 1}, 32, 0.5, 0.5 / 32, 1),
        (100, {}, 32, 0, 0.0, 0),
    ],
)
def test_vector_hand_values(
    elements: int, per_element: dict[str, float], lanes: int, lane_cycles: float, cycles: float, whole: int
) -> None:
    assert vector.lane_cycles(elements, per_element, COSTS) == lane_cycles
    assert vector.vector_cycles(elements, per_element, COSTS, lanes) == cycles
    assert vector.tile_cycles(elements, per_element, COSTS, lanes) == whole


def test_vector_broadcasts_over_lengths_lanes_and_costs() -> None:
    elements, lanes = np.array([1, 32, 1000]), np.array([[16.0], [64.0]])
    whole = vector.tile_cycles(elements, {"exp": 2}, {"exp": np.array([[[1.0]], [[4.0]]])}, lanes)
    assert whole.shape == (2, 2, 3)
    assert whole[1, 1].tolist() == [1, 4, 125]


def test_a_primitive_without_a_cost_is_an_error() -> None:
    with pytest.raises(KeyError, match="tanh"):
        vector.lane_cycles(1, {"tanh": 1}, COSTS)


def test_weights_are_packed_no_faster_than_dram_delivers_them() -> None:
    """2 MB of weights."""
    assert roofline.pack_s(2e6, 1e6, 4e6) == 2.0
    assert roofline.pack_s(2e6, 1e6, 5e5) == 4.0


def test_hidden_scores_by_hand() -> None:
    """4 queries of 2 heads see 10 of 16 keys: 12 hidden scores of 32, products of width 8 at 1 GMAC/s, 2 ns to add, 3 + 5 ns for exp."""
    assert masking.hidden_product_s(12 * 8, 1e9, 32, 2e-9) == pytest.approx(96e-9 + 64e-9)
    assert masking.hidden_product_s(np.array([0, 96]), 1e9, 0, 2e-9) == pytest.approx(np.array([0, 96e-9]))
    assert masking.hidden_pass_s(12, 3e-9, 5e-9) == pytest.approx(96e-9)
    assert masking.hidden_pass_s(np.array([0, 12]), 3e-9, 0.0) == pytest.approx(np.array([0, 36e-9]))
