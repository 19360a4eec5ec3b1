"""The golden step: a model with few layers and seeded random weights, computed once, every op kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.format_error import FormatError
from functional.interpreters import Interpreter
from functional.qtensor import QTensor
from functional.quantise import QCaptured, Quantised, scales_in_pieces
from sim.golden import seeded_step
from workloads.graph import OpGraph
from workloads.split import parts_of, pieces


@dataclass(frozen=True, slots=True, eq=False)
class GoldenStep:
    """Inputs and output of every op by name, the logits, the scales (of scaled formats), the same step as another interpreter sees it, and
    how far its formats are from fp32."""

    ops: Mapping[str, QCaptured]
    logits: QTensor
    scales: Mapping[str, Tensor]
    interpreted: Callable[[Interpreter[QTensor]], QTensor]
    error: FormatError


@torch.no_grad()
def golden_step(config: ModelConfig, graph: OpGraph, seed: int) -> GoldenStep:
    """Compute a traced step in its number formats; the KV cache of a decode step is that of a real prefill."""
    step = seeded_step(config, graph.scenario, seed)
    scales = scales_in_pieces(step.scales, pieces(graph))
    interpreted = partial(step.interpreted, split=parts_of(graph))
    quantised = Quantised(scales, activations=graph.scenario.formats.activations)
    logits = interpreted(quantised)
    return GoldenStep(quantised.captured, logits, scales, interpreted, step.error)
