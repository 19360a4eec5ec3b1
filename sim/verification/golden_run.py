"""The golden step: a model with few layers and seeded random weights, computed once, every op kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.interpreters import Capture, Interpreter
from functional.llama import KVCache, Weights, forward
from functional.qtensor import QTensor
from functional.quantise import QCaptured, Quantised, calibrate, map_weights, quantise_cache, quantise_weights
from functional.weights import random_weights
from sim.golden import filled_cache, seeded_ids
from workloads.graph import OpGraph


@dataclass(frozen=True, slots=True, eq=False)
class GoldenStep:
    """Inputs and output of every op by name, the logits, the scales (int8), and the same step as another interpreter sees it."""

    ops: Mapping[str, QCaptured]
    logits: QTensor
    scales: Mapping[str, Tensor]
    interpreted: Callable[[Interpreter[QTensor]], QTensor]


@torch.no_grad()
def golden_step(config: ModelConfig, graph: OpGraph, seed: int) -> GoldenStep:
    """Compute a traced step in its number format; the KV cache of a decode step is that of a real prefill."""
    scenario = graph.scenario
    number_format, position = scenario.formats.activations, int(scenario.context)
    is_int8 = number_format == "int8"
    stored = "fp32" if is_int8 else number_format
    weights = random_weights(config, seed, stored)
    before, ids = seeded_ids(config, scenario, seed)
    cache = filled_cache(config, weights, before, int(scenario.kv_len), stored)

    scales: dict[str, Tensor] = {}
    if is_int8:
        scales = calibrate(config, weights, ids, cache, position, scenario.logits)
        small: Weights[QTensor] = quantise_weights(weights)
        filled = quantise_cache(cache, scales)
    else:
        small = map_weights(weights, _as_is, _as_is)
        filled = KVCache(tuple(map(_as_is, cache.keys)), tuple(map(_as_is, cache.values)))

    def interpreted(f: Interpreter[QTensor]) -> QTensor:
        copies = KVCache(tuple(map(_copy, filled.keys)), tuple(map(_copy, filled.values)))
        return forward(f, config, small, QTensor(ids, None), copies, position, int(scenario.q_len), scenario.logits)

    if is_int8:
        quantised = Quantised(scales)
        return GoldenStep(quantised.captured, interpreted(quantised), scales, interpreted)
    capture = Capture()
    logits = forward(capture, config, weights, ids, cache_copy(cache), position, int(scenario.q_len), scenario.logits)
    ops = {
        name: QCaptured(each.op, name, tuple(map(_as_is, each.inputs)), each.attrs, _as_is(each.output))
        for name, each in capture.captured.items()
    }
    return GoldenStep(ops, _as_is(logits), scales, interpreted)


def cache_copy(cache: KVCache[Tensor]) -> KVCache[Tensor]:
    """A cache of its own for a run that writes into it."""
    return KVCache(tuple(each.clone() for each in cache.keys), tuple(each.clone() for each in cache.values))


def _as_is(tensor: Tensor) -> QTensor:
    return QTensor(tensor, None)


def _copy(tensor: QTensor) -> QTensor:
    return QTensor(tensor.values.clone(), tensor.scale)
