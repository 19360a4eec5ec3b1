"""The golden step: a model with few layers, computed once, every op kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.interpreters import Interpreter
from functional.qtensor import QTensor
from functional.quantise import QCaptured, Quantised, scales_in_pieces
from sim.golden_step import WeightSource, seeded_step
from workloads.graph import OpGraph
from workloads.split import parts_of, pieces


@dataclass(frozen=True, slots=True, eq=False)
class GoldenStep:
    """Inputs and output of every op by name, the logits, the scales (of scaled formats), and the same step as another interpreter sees it.

    `magnitudes` keeps those of products in floats, by op, once they were asked for: they are the same on all chips.
    """

    ops: Mapping[str, QCaptured]
    logits: QTensor
    scales: Mapping[str, Tensor]
    interpreted: Callable[[Interpreter[QTensor]], QTensor]
    magnitudes: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@torch.no_grad()
def golden_step(config: ModelConfig, graph: OpGraph, seed: int, source: WeightSource | None = None) -> GoldenStep:
    """Compute a traced step in its number formats; the KV cache of a decode step is that of a real prefill.

    Random weights unless there is another `source`.
    """
    step = seeded_step(config, graph.scenario, seed, source or WeightSource())
    scales = scales_in_pieces(step.scales, pieces(graph))
    interpreted = partial(step.interpreted, split=parts_of(graph))
    quantised = Quantised(scales, activations=graph.scenario.formats.activations)
    logits = interpreted(quantised)
    return GoldenStep(quantised.captured, logits, scales, interpreted)
