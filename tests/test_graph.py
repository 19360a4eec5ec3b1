"""Truth defended: the op graph is what the golden model does, op by op and shape by shape, and survives being written down."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from functional.config import ModelConfig
from functional.errors import BadInput
from functional.interpreters import Capture
from functional.llama import forward
from functional.ops import OPS
from functional.weights import new_cache, random_weights
from functional.work import Contraction, Move, Vector
from sim import load_model, model_names, predict_graph, trace_model
from tests.chips import graphs, round_model
from workloads.graph import OpGraph
from workloads.scenario import PHASES, Formats, Phase, Scenario
from workloads.trace import trace

BF16 = Formats.of("bf16")
KINDS = {"Linear", "MatMul", "RoPE", "MemCopy", "ReduceMax", "ElementwiseExp", "Normalize", "RMSNorm", "SiLU", "Mul", "Add", "Embedding"}
LAYER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_rope", "self_attn.k_rope",
    "self_attn.k_cache", "self_attn.v_cache", "self_attn.scores", "self_attn.softmax_max", "self_attn.softmax_exp",
    "self_attn.softmax_normalize", "self_attn.context", "self_attn.o_proj", "attention_residual", "post_attention_layernorm",
    "mlp.gate_proj", "mlp.act_fn", "mlp.up_proj", "mlp.gated", "mlp.down_proj", "mlp_residual",
)


def plain(value: Any) -> Any:
    """Arrays as lists, work as its fields: comparable with ==."""
    if isinstance(value, np.ndarray):
        return ("array", value.tolist())
    if isinstance(value, Contraction | Move | Vector):
        fields = value.__dataclass_fields__
        return {name: plain(getattr(value, name)) for name in fields if name != "mask"}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


# Names and kinds -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("model", model_names())
def test_op_names_are_module_paths_in_the_order_of_the_text(model: str, phase: Phase) -> None:
    graph, layers = trace_model(model, phase=phase, prompt=16), load_model(model).num_hidden_layers
    expected = ["embed_tokens", "rotary_emb", *(f"layers.{i}.{name}" for i in range(layers) for name in LAYER), "norm", "lm_head"]
    assert [op.name for op in graph.ops] == expected
    assert {op.kind for op in graph.ops} == KINDS | {"RoPETable"}
    assert [*dict.fromkeys(op.component for op in graph.ops)] == list(graph.by_component())
    assert list(graph.by_component()) == ["embed_tokens", "rotary_emb", *(f"layers.{i}" for i in range(layers)), "norm", "lm_head"]


def test_tied_embeddings_are_one_tensor() -> None:
    for tied in (True, False):
        graph = trace(round_model(tied=tied), Scenario.prefill(BF16))
        by_name = {op.name: op for op in graph.ops}
        assert (by_name["lm_head"].inputs[1].tensor == by_name["embed_tokens"].inputs[1].tensor) is tied
        assert ("lm_head.weight" in graph.tensors) is not tied


def test_every_tensor_has_one_maker_and_its_role() -> None:
    graph = trace_model("stories15m", phase="decode", context=20)
    made = {op.name for op in graph.ops}
    for name, tensor in graph.tensors.items():
        assert (tensor.role in ("intermediate", "output") or name.endswith(("k_cache", "v_cache"))) is (name in made)
    assert [name for name, tensor in graph.tensors.items() if tensor.role == "output"] == ["lm_head"]
    assert [name for name, tensor in graph.tensors.items() if tensor.role == "input"] == ["ids"]


# Traced equals computed ------------------------------------------------------------------------------------------------------------------

TINY = replace(
    round_model(layers=2), hidden_size=24, intermediate_size=40, vocab_size=50, num_attention_heads=6, num_key_value_heads=3, head_dim=4
)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("context", "length", "logits"), [(0, 7, "last"), (0, 7, "all"), (9, 1, "last")])
def test_traced_shapes_are_those_of_computed_tensors(context: int, length: int, logits: Any, window: int | None) -> None:
    config = replace(TINY, sliding_window=window)
    ids = torch.arange(2 * length).reshape(2, length)
    capture = Capture()
    # The cache is as long as the step needs it: a trace has no room to spare.
    cache = new_cache(config, 2, context + length)
    forward(capture, config, random_weights(config), ids, cache, context, length, logits)
    fp32 = Formats.of("fp32")
    traced = trace(config, Scenario.decode(fp32, 2, context, logits) if context else Scenario.prefill(fp32, 2, length, logits))
    assert [op.name for op in traced.ops] == list(capture.captured)
    for op in traced.ops:
        computed = capture.captured[op.name]
        assert op.kind == computed.op.kind
        assert op.output.shape == tuple(computed.output.shape), op.name
        assert [use.spec.shape for use in op.inputs] == [tuple(tensor.shape) for tensor in computed.inputs], op.name


# Arrays of lengths -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("model", ["llama-3.2-1b", "mistral-7b"])
def test_traced_over_arrays_equals_traced_at_each_integer(model: str, phase: Phase) -> None:
    batches, lengths = np.array([[1], [3]]), np.array([1, 5, 4095, 4096, 4097, 9000])
    grid = trace_model(model, phase=phase, batch=batches, prompt=lengths)
    for b, n in np.ndindex(2, 6):
        one = trace_model(model, phase=phase, batch=int(batches[b, 0]), prompt=int(lengths[n]))
        for of_many, alone in zip(grid.ops[:30], one.ops[:30], strict=True):
            assert shape_at(of_many.output.shape, (b, n)) == alone.output.shape
            assert fields_at(of_many.work, (b, n)) == plain(alone.work), of_many.name


def value_at(value: Any, place: tuple[int, int]) -> Any:
    return int(np.broadcast_to(value, (2, 6))[place]) if isinstance(value, np.ndarray) else value


def shape_at(shape: tuple[Any, ...], place: tuple[int, int]) -> tuple[int, ...]:
    return tuple(value_at(dim, place) for dim in shape)


def fields_at(work: Any, place: tuple[int, int]) -> dict[str, Any]:
    fields = {name: getattr(work, name) for name in work.__dataclass_fields__ if name != "mask"}
    return {
        name: {key: value_at(part, place) for key, part in value.items()} if isinstance(value, dict) else value_at(value, place)
        for name, value in fields.items()
    }


# Sliding window --------------------------------------------------------------------------------------------------------------------------


def test_a_window_bounds_the_keys_of_decode() -> None:
    def scores(context: int) -> Any:
        graph = trace_model("mistral-7b", phase="decode", context=context)
        return next(op for op in graph.ops if op.name == "layers.0.self_attn.scores")

    assert scores(4095).output.shape == (1, 32, 1, 4096)
    assert scores(4096).output.shape == (1, 32, 1, 4096)
    assert scores(20_000).output.shape == (1, 32, 1, 4096)
    assert scores(20_000).work.useful_macs == 32 * 4096 * 128
    # Both products of 32 layers read 8 heads x 4096 keys x 128 x 2 B, of which the newest key was never in DRAM before.
    graphs = [trace_model("mistral-7b", phase="decode", context=context) for context in (4096, 20_000)]
    timelines = [predict_graph(graph, "a100-sxm4-80gb", "roofline") for graph in graphs]
    assert timelines[0].dram_bytes.sum() == timelines[1].dram_bytes.sum()
    assert timelines[1].memory.kv_cache_bytes == 20_001 * 32 * 2 * 8 * 128 * 2  # the cache still holds them all


def test_a_window_bounds_the_work_of_a_prefill() -> None:
    graph = trace_model("mistral-7b", phase="prefill", prompt=10_000)
    scores = next(op for op in graph.ops if op.name == "layers.0.self_attn.scores")
    assert isinstance(scores.work, Contraction)
    assert scores.work.useful_macs == 32 * 128 * (4096 * 4097 // 2 + (10_000 - 4096) * 4096)


# JSON ------------------------------------------------------------------------------------------------------------------------------------


def is_the_same(read: OpGraph, written: OpGraph) -> None:
    assert read.to_dict() == written.to_dict()
    assert read.model == written.model
    assert [plain(op.work) for op in read.ops] == [plain(op.work) for op in written.ops]
    assert read.to_json() == written.to_json()


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_json_round_trip(graph: OpGraph) -> None:
    is_the_same(OpGraph.from_json(graph.to_json()), graph)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "mistral-7b"])
def test_json_round_trip_of_arrays(model: str) -> None:
    graph = trace_model(model, phase="decode", batch=np.array([[1], [2]]), context=np.array([4000, 5000]))
    read = OpGraph.from_json(graph.to_json())
    is_the_same(read, graph)
    assert isinstance(read.scenario.context, np.ndarray)
    assert read.scenario.context.dtype == np.int64


def test_a_graph_from_json_is_predicted_alike() -> None:
    graph = trace_model("llama-3.2-1b", "int8", phase="decode", context=300)
    read = OpGraph.from_json(graph.to_json())
    assert predict_graph(read, "edge-npu", "roofline").total_s == predict_graph(graph, "edge-npu", "roofline").total_s


WRITTEN = trace(round_model(), Scenario.prefill(BF16)).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({**WRITTEN, "graph_format": 99}),
        json.dumps({key: value for key, value in WRITTEN.items() if key != "ops"}),
        json.dumps({**WRITTEN, "ops": [{**WRITTEN["ops"][0], "kind": "Conv"}]}),
    ],
    ids=["no JSON", "no object", "another version", "no ops", "an unknown op"],
)
def test_what_is_not_a_graph_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="op graph"):
        OpGraph.from_json(text)


# Drawings --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> OpGraph:
    return trace(round_model(layers=2), Scenario.prefill(BF16, 1, 7))


def test_networkx_has_a_node_per_op_and_an_edge_per_use(drawn: OpGraph) -> None:
    network, made = drawn.network, {op.name for op in drawn.ops}
    assert set(network.nodes) == made
    assert all(network.nodes[op.name]["op"] is op for op in drawn.ops)
    uses = [(use.tensor, op.name, use.spec.shape) for op in drawn.ops for use in op.inputs if use.tensor in made]
    assert sorted(uses) == sorted((source, target, edge["shape"]) for source, target, edge in network.edges(data=True))
    assert network.edges["layers.0.self_attn.q_proj", "layers.0.self_attn.q_rope", 0] == {
        "tensor": "layers.0.self_attn.q_proj",
        "shape": (1, 10, 7, 10),
        "format": "bf16",
    }
    order = {op.name: i for i, op in enumerate(drawn.ops)}
    assert all(order[source] < order[target] for source, target in network.edges())


def test_mermaid_is_well_formed(drawn: OpGraph) -> None:
    head, *lines = drawn.to_mermaid().splitlines()
    assert head == "flowchart TD"
    node, edge = re.compile(r' +(n\d+)\["([\w.]+)<br/>(\w+)"\]'), re.compile(r' +(n\d+) -->\|"\[[\d, ]+\]"\| (n\d+)')
    names = dict(match.group(1, 2) for line in lines if (match := node.fullmatch(line)))
    edges = [match.group(1, 2) for line in lines if (match := edge.fullmatch(line))]
    frames = [line for line in lines if re.fullmatch(r'  subgraph "[\w.]+"|  end', line)]
    assert len(names) + len(edges) + len(frames) == len(lines)
    assert frames.count("  end") * 2 == len(frames) == 2 * len(drawn.by_component())
    assert sorted(names.values()) == sorted(op.name for op in drawn.ops)
    assert sorted((names[source], names[target]) for source, target in edges) == sorted(drawn.network.edges())


def test_dot_is_well_formed(drawn: OpGraph) -> None:
    head, style, *lines, end = drawn.to_dot().splitlines()
    assert (head, style, end) == ('digraph "round" {', "  node [shape=box];", "}")
    node = re.compile(r' +"([\w.]+)" \[label="[\w.]+\\n(\w+)"\];')
    edge = re.compile(r' +"([\w.]+)" -> "([\w.]+)" \[label="\[[\d, ]+\]"\];')
    names = [match[1] for line in lines if (match := node.fullmatch(line))]
    edges = [match.group(1, 2) for line in lines if (match := edge.fullmatch(line))]
    frames = [line for line in lines if re.fullmatch(r'  subgraph cluster_\d+ \{ label="[\w.]+";|  }', line)]
    assert len(names) + len(edges) + len(frames) == len(lines)
    assert frames.count("  }") * 2 == len(frames)
    assert sorted(names) == sorted(op.name for op in drawn.ops)
    assert sorted(edges) == sorted(drawn.network.edges())


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash"])
def test_a_model_name_cannot_break_a_drawing(name: str) -> None:
    graph = trace(replace(round_model(), name=name), Scenario.prefill(BF16))
    head = graph.to_dot().splitlines()[0]
    assert re.fullmatch(r'digraph "(?:[^"\\]|\\.)*" \{', head), head


def test_every_kind_is_in_the_op_table(drawn: OpGraph) -> None:
    assert {op.kind for op in drawn.ops} <= set(OPS)


def test_an_unknown_config_is_traced_like_any_other() -> None:
    config = ModelConfig("odd", 12, 7, 1, 3, 1, 2, 11, 64, 1e-6, 10_000.0, False)
    assert trace(config, Scenario.prefill(BF16, 1, 64)).ops[-1].output.shape == (1, 1, 11)
