"""Truth defended: a prompt in chunks, and a draft checked in one step, give the logits of one prefill; graphs are what is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.generate import generate
from functional.interpreters import Capture, Torch
from functional.llama import KVCache, Weights, forward
from functional.model import decode, prefill
from functional.sampling import sample
from functional.weights import new_cache, random_weights
from sim import Sampling, load_model, predict, trace_model
from tests.small_checkpoints import SMALL
from workloads.graph import OpGraph
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

MODELS = {
    "plain": replace(SMALL, vocab_size=120),
    "window": replace(SMALL, vocab_size=120, sliding_window=5),
    "stories15m, two layers": replace(load_model("stories15m"), num_hidden_layers=2),
}
LENGTH = 23


def model_of(name: str) -> tuple[ModelConfig, Weights[Tensor], Tensor]:
    config = MODELS[name]
    ids = torch.randint(config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    return config, random_weights(config), ids


def agrees(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the largest logit, and in the most likely token of each row."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 22, 23])
@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_in_chunks_gives_the_logits_of_one_prefill(name: str, chunk: int) -> None:
    """All logits, and those of the last token when the chunks before it leave the head out."""
    config, weights, ids = model_of(name)
    wanted = prefill(config, weights, ids, new_cache(config, 2, LENGTH), "all")
    cuts = list(pairwise([*range(0, LENGTH, chunk), LENGTH]))
    cache = new_cache(config, 2, LENGTH)
    agrees(torch.cat([decode(config, weights, ids[:, at:end], cache, at, "all") for at, end in cuts], 1), wanted)
    cache = new_cache(config, 2, LENGTH)
    for at, end in cuts:
        found = forward(Torch(), config, weights, ids[:, at:end], cache, at, end - at, "last" if end == LENGTH else "none")
    agrees(found, wanted[:, -1:])


@pytest.mark.parametrize("name", MODELS)
def test_a_draft_is_checked_in_one_step(name: str) -> None:
    """The token before and k proposals, after any context: the logits of k + 1 single steps."""
    config, weights, ids = model_of(name)
    for context, proposals in ((1, 4), (10, 1), (17, 5)):
        cache = new_cache(config, 2, LENGTH)
        prefill(config, weights, ids[:, :context], cache)
        stepwise = KVCache(*(tuple(side.clone() for side in sides) for sides in (cache.keys, cache.values)))
        found = decode(config, weights, ids[:, context : context + proposals + 1], cache, context, "all")
        steps = [decode(config, weights, ids[:, at : at + 1], stepwise, at) for at in range(context, context + proposals + 1)]
        agrees(found, torch.cat(steps, 1))


def attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Masks by what they hide; a generator exists only where numbers are drawn."""
    plain = {name: value for name, value in attrs.items() if name != "generator"}
    return plain | ({"mask": (plain["mask"].offset, plain["mask"].window)} if "mask" in plain else {})


@pytest.mark.parametrize("logits", ["last", "all", "none"])
@pytest.mark.parametrize("sampling", [None, Sampling(), Sampling(0.7), Sampling(0.7, top_k=5, top_p=0.8)])
def test_the_graph_of_a_chunk_is_what_is_computed(logits: str, sampling: Sampling | None) -> None:
    """Op by op, with every shape: sampling too, and no head where none is asked for."""
    if logits == "none" and sampling is not None:
        return
    config, weights, ids = model_of("plain")
    cache = new_cache(config, 2, 12)
    prefill(config, weights, ids[:, :7], cache)
    f = Capture()
    output = forward(f, config, weights, ids[:, 7:12], cache, 7, 5, logits, "fp32")  # type: ignore[arg-type]
    if sampling is not None:
        output = sample(f, output, sampling, torch.Generator().manual_seed(1))
    scenario = Scenario.extend(Formats.of("fp32"), 2, 5, 7, logits, sampling)  # type: ignore[arg-type]
    graph = trace(config, scenario)
    assert [op.name for op in graph.ops] == list(f.captured)
    for op in graph.ops:
        computed = f.captured[op.name]
        assert op.kind == computed.op.kind
        assert tuple(computed.output.shape) == op.output.shape, op.name
        assert [tuple(use.spec.shape) for use in op.inputs] == [tuple(tensor.shape) for tensor in computed.inputs], op.name
        assert attributes(computed.attrs) == attributes(op.attrs)
    outputs = [tensor.name for tensor in graph.tensors.values() if tensor.role == "output"]
    assert outputs == ([] if logits == "none" else [graph.ops[-1].name])
    assert tuple(output.shape) == graph.ops[-1].output.shape
    assert ("lm_head" in f.captured) == (logits != "none")


def test_generate_goes_through_the_interpreter() -> None:
    """Every op of model and sampling, step by step: an interpreter that watches sees as many as the graphs say."""
    config, weights, ids = model_of("plain")
    sampling = Sampling(0.7, top_k=20, top_p=0.8, seed=3)

    class Counting(Torch):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()

        def apply(self, op, name, inputs, **attrs):  # type: ignore[no-untyped-def]
            self.seen[name] += 1
            return super().apply(op, name, inputs, **attrs)

    watching = Counting()
    steps = list(generate(config, weights, ids.tolist(), 6, sampling, chunk=10, interpreter=watching))
    assert steps == list(generate(config, weights, ids.tolist(), 6, sampling, chunk=10))
    formats = Formats.of("fp32")
    wanted: Counter[str] = Counter()
    asked = [Scenario.extend(formats, 2, 10, at, "none") for at in (0, 10)] + [Scenario.extend(formats, 2, 3, 20, "last", sampling)]
    asked += [Scenario.decode(formats, 2, LENGTH + i, sampling=sampling) for i in range(5)]
    for scenario in asked:
        wanted.update(op.name for op in trace(config, scenario).ops)
    assert watching.seen == wanted
    assert wanted["sampling.top_p.sort"] == wanted["lm_head"] == 6
    assert wanted["layers.0.mlp.up_proj"] == 8


def test_compares_that_sort_are_between_what_must_be_and_what_merging_takes() -> None:
    """A merge sort that counts, and the entropy of an order: log2 n! compares."""
    from functional.ops import OPS
    from functional.spec import TensorSpec

    def sort(values: list[float]) -> tuple[list[float], int]:
        if len(values) < 2:
            return values, 0
        (left, a), (right, b) = sort(values[: len(values) // 2]), sort(values[len(values) // 2 :])
        merged, count = [], a + b
        while left and right:
            count += 1
            merged.append((left if left[0] <= right[0] else right).pop(0))
        return merged + left + right, count

    rng = np.random.default_rng(0)
    for n in (2, 3, 16, 31, 1000):
        charged = OPS["Sort"].work(TensorSpec((1, n), "fp32")).counts["add"]  # type: ignore[union-attr]
        needed = float(np.log2(np.arange(1, n + 1)).sum())
        taken = max(sort(rng.random(n).tolist())[1] for _ in range(5))
        assert needed <= charged
        assert taken <= charged <= taken + 2 * n


def test_sampling_of_a_step_by_hand() -> None:
    """32 rows of 32,000 logits: 15 merges sort them; the softmax has 4.1 MB to read and as much to write; ids leave, logits do not."""
    asked: dict[str, Any] = {"phase": "decode", "batch": 32, "context": 100}
    graph = trace_model("stories15m", "fp32", sampling=Sampling(1.0, top_p=0.9), **asked)
    plain = trace_model("stories15m", "fp32", **asked)
    assert [op.name for op in graph.ops[: len(plain.ops)]] == [op.name for op in plain.ops]
    work = {op.name.removeprefix("sampling."): op.work for op in graph.ops if op.component == "sampling"}
    top_p = ["top_p.sort", "top_p.softmax", "top_p.cumulative", "top_p.outside", "top_p.gather", "top_p.keep"]
    assert list(work) == ["temperature", *top_p, "softmax", "draw"]
    logits = 32 * 32_000
    assert work["top_p.sort"].counts == {"add": 15 * logits}  # type: ignore[union-attr]
    assert work["top_p.gather"].size_bytes == 4 * 32  # type: ignore[union-attr]
    assert work["softmax"].counts == {"add": 3 * logits, "exp": logits, "mul": logits, "rsqrt": 32}  # type: ignore[union-attr]
    assert graph.tensors["lm_head"].role == "intermediate"
    assert graph.tensors["sampling.draw"].role == "output"
    assert tuple(graph.tensors["sampling.draw"].spec.shape) == (32, 1)
    greedy = trace_model("stories15m", "fp32", sampling=Sampling(), **asked)
    assert [op.name for op in greedy.ops[len(plain.ops) :]] == ["sampling.argmax"]
    again = OpGraph.from_json(graph.to_json())
    assert again.scenario.sampling == graph.scenario.sampling
    assert again.to_json() == graph.to_json()
    assert OpGraph.from_json(plain.to_json()).scenario.sampling is None


def test_a_search_and_a_gather_read_what_they_look_at() -> None:
    """32 rows of 32,000: 15 halvings of each row, then one element of it, 4 bytes each; what is sorted is read and written whole."""
    asked: dict[str, Any] = {"phase": "decode", "batch": 32, "context": 100, "engine": "roofline"}
    step = predict("stories15m", "apple-m3-pro", sampling=Sampling(1.0, top_p=0.9), **asked)
    moved = {op.name.removeprefix("sampling.top_p."): row["dram_bytes"] for op, row in step.rows() if op.component == "sampling"}
    assert moved["outside"] == 32 * 15 * 4  # how many there are stays on the chip, as what is gathered does
    assert moved["gather"] == 32 * 4
    assert moved["sort"] == 2 * 32 * 32_000 * 4


@pytest.mark.parametrize("engine", ["roofline", "tiled", "cycle"])
def test_sampling_adds_a_component_and_changes_no_other(engine: str) -> None:
    asked: dict[str, Any] = {"phase": "decode", "batch": 4, "context": 50, "engine": engine}
    with_it = predict("stories15m", "edge-npu", sampling=Sampling(1.0, top_p=0.9), **asked)
    without = predict("stories15m", "edge-npu", **asked)
    assert [component.name for component in with_it.components] == [*(component.name for component in without.components), "sampling"]
    assert with_it.components[:-2] == without.components[:-1]
    assert with_it.floor_s <= with_it.total_s
    assert with_it.total_s > without.total_s
