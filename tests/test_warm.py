"""Truth defended: what a scenario declares warm never passes DRAM, and is served at the bandwidth of the outermost on-chip level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from functional.errors import ScenarioError
from hwmodels import load_chip
from sim import predict_graph, trace_model
from workloads.demand import demand
from workloads.graph import OpGraph

A100 = load_chip("a100-sxm4-80gb")
COLD = trace_model("stories15m", "bf16", phase="decode", batch=4, context=255)
CACHES = frozenset(tensor.name for tensor in COLD.tensors.values() if tensor.role == "kv_cache")
WEIGHTS = frozenset(tensor.name for tensor in COLD.tensors.values() if tensor.role == "weight")


def test_warm_bytes_leave_the_compulsory_ones_and_are_no_fewer() -> None:
    for warm in (CACHES, WEIGHTS, CACHES | WEIGHTS):
        graph = replace(COLD, warm=warm)
        for is_write in (False, True):
            all_bytes = demand(graph).compulsory_bytes(is_write) + demand(graph).warm_bytes(is_write)
            assert all_bytes == demand(COLD).compulsory_bytes(is_write)
        assert demand(graph).warm_bytes(is_write=False) > 0


def test_keys_and_values_that_are_warm_are_read_from_l2() -> None:
    """Six layers, keys and values of 255 tokens before the step, 4 sequences of 6 heads of 48, 2 bytes each."""
    assert demand(replace(COLD, warm=CACHES)).warm_bytes(is_write=False) == 6 * 2 * 255 * 4 * 6 * 48 * 2


def test_a_warm_step_has_the_floor_and_the_roofline_of_l2() -> None:
    warm = replace(COLD, warm=WEIGHTS | CACHES)
    cold, hot = predict_graph(COLD, A100, "roofline"), predict_graph(warm, A100, "roofline")
    warm_bytes = demand(warm).warm_bytes(is_write=False) + demand(warm).warm_bytes(is_write=True)
    assert hot.floor_s == pytest.approx(warm_bytes / (5120 * 1.41e9), rel=0.2)
    assert hot.floor_s <= hot.total_s < cold.total_s
    assert hot.dram_bytes.sum() < 0.05 * cold.dram_bytes.sum()


def test_tiled_reads_a_warm_cache_on_the_chip_on_every_chip() -> None:
    chip = load_chip("edge-npu")
    cold, hot = (predict_graph(graph, chip, "tiled") for graph in (COLD, replace(COLD, warm=CACHES)))
    saved = float(cold.dram_bytes.sum() - hot.dram_bytes.sum())
    assert saved == pytest.approx(demand(replace(COLD, warm=CACHES)).warm_bytes(is_write=False), rel=0.01)


def test_a_mapping_that_brings_weights_from_dram_refuses_warm_ones() -> None:
    with pytest.raises(ScenarioError, match="warm weights"):
        predict_graph(replace(COLD, warm=WEIGHTS), "edge-npu", "tiled")


def test_a_graph_keeps_what_is_warm_as_json() -> None:
    assert OpGraph.from_json(replace(COLD, warm=CACHES).to_json()).warm == CACHES
