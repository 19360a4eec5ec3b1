"""What fits a chip: the largest batch and longest context for each weight and KV format, and where decode stops being bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.formats import TENSOR_FORMATS, bits_of
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.api import trace_model
from sim.engines.roofline import MATRIX, VECTOR
from sim.engines.roofline_arrays import bounds
from sim.plan import plan
from workloads.demand import demand
from workloads.graph import OpGraph
from workloads.library import load_model
from workloads.scenario import default_length

LARGEST_BATCH = 2**20
"""Where the search for a batch ends."""

AT_A_TIME = 128
"""Batches or contexts that one pass of a search tries together."""


@dataclass(frozen=True, slots=True)
class FormatLimits:
    """Limits with weights and KV cache in these formats; 0 where not even one fits.

    `max_batch` at the asked context, `max_context` at the asked batch; `context_bound_by` is `memory`, or `model` where the model's
    positions end first. From `compute_bound_batch` sequences on, matrix and vector units bind most of a decode step at the asked context
    (roofline), `compute_bound_by` the larger part of that; None if memory always does. `compute_bound_fits` says whether that batch fits.
    """

    weights: str
    kv: str
    weights_bytes: int
    max_batch: int
    max_context: int
    context_bound_by: str
    compute_bound_batch: int | None
    compute_bound_by: str | None
    compute_bound_fits: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """All formats that the chip can multiply with these activations."""

    model: str
    chip: str
    batch: int
    context: int
    activations: str
    capacity_bytes: int
    rows: tuple[FormatLimits, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def limits(
    model: str | Path | ModelConfig,
    chip: str | Path | Chip,
    *,
    batch: int = 1,
    context: int | None = None,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
) -> Limits:
    """Largest batch and longest context of decode that fit the chip's memory, by weight and KV format (or only the given ones).

    Raises `BadInput`: an unknown model, chip or format, a length that the model cannot hold, no format that the chip can multiply.
    """
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    config = model if isinstance(model, ModelConfig) else load_model(model)
    context = default_length(config) if context is None else context
    activation = built.default_format if activations is None else activations
    trace_model(config, built.default_format, phase="decode", batch=batch, context=context, weights=weights, activations=activation, kv=kv)
    weight_formats, caches = ([weights] if weights else _widths(built)), ([kv] if kv else _widths(built))
    found = (_row(config, built, batch, context, weight, activation, cache) for weight in weight_formats for cache in caches)
    rows = [row for row in found if row is not None]
    if not rows:
        raise ScenarioError(
            Problem(
                f"{built.name} multiplies no such formats",
                f"choose among {', '.join(built.formats)}",
                path="--weights, --activations, --kv",
            )
        )
    return Limits(config.name, built.name, batch, context, activation, int(built.dram.capacity_bytes), tuple(rows))


def _widths(chip: Chip) -> list[str]:
    """One format per number of bits, those that the chip multiplies first; nothing wider than it multiplies."""
    ranked = [*chip.formats, *(name for name in TENSOR_FORMATS if name not in chip.formats)]
    widest = max(bits_of(name) for name in chip.formats)
    by_bits = {bits_of(name): name for name in reversed(ranked) if bits_of(name) <= widest}
    return [by_bits[bits] for bits in sorted(by_bits, reverse=True)]


def _row(config: ModelConfig, chip: Chip, batch: int, context: int, weights: str, activations: str, kv: str) -> FormatLimits | None:
    """One line, or None if the chip has no rate for these formats."""
    capacity = int(chip.dram.capacity_bytes)

    def graph(layers: int, batches: Any, contexts: Any) -> OpGraph:
        short = replace(config, num_hidden_layers=layers)
        return trace_model(
            short, chip.default_format, phase="decode", batch=batches, context=contexts, weights=weights, activations=activations, kv=kv
        )

    def whole(of_layers: Callable[[int], Any]) -> Any:
        """Layers are alike after the first: what two and three of them ask for tells what all do."""
        few, more = min(2, config.num_hidden_layers), min(3, config.num_hidden_layers)
        first = of_layers(few)
        return first if few == more else first + (config.num_hidden_layers - few) * (of_layers(more) - first)

    def needed(batches: Any, contexts: Any) -> Any:
        return whole(lambda layers: needed_bytes(graph(layers, batches, contexts)))

    def seconds(batches: NDArray[np.int64]) -> Any:
        """Of a step, and of what the matrix and the vector unit bind."""

        def of_layers(layers: int) -> Any:
            found = bounds(plan(graph(layers, batches, context), chip))
            units = [found.bound_s.get(name, 0.0) for name in (MATRIX, VECTOR)]
            return np.stack(np.broadcast_arrays(found.latency_s, *units, batches)[:3])

        return whole(of_layers)

    def computes(batches: NDArray[np.int64]) -> NDArray[np.bool_]:
        total, matrix, vector = seconds(batches)
        return np.asarray(2 * (matrix + vector) >= total)

    try:
        plan(graph(1, batch, context), chip)
    except ScenarioError:
        return None
    longest = config.max_position_embeddings - 1
    max_batch = _first(lambda batches: np.asarray(needed(batches, context) > capacity), LARGEST_BATCH) - 1
    max_context = _first(lambda contexts: np.asarray(needed(batch, contexts) > capacity), longest) - 1
    turn = _first(computes, LARGEST_BATCH)
    _, matrix, vector = seconds(np.array([min(turn, LARGEST_BATCH)]))
    return FormatLimits(
        weights=weights,
        kv=kv,
        weights_bytes=whole(lambda layers: _weights_bytes(graph(layers, 1, 1))),
        max_batch=max_batch,
        max_context=max_context,
        context_bound_by="model" if max_context == longest else "memory",
        compute_bound_batch=turn if turn <= LARGEST_BATCH else None,
        compute_bound_by=None if turn > LARGEST_BATCH else MATRIX if float(matrix[0]) >= float(vector[0]) else VECTOR,
        compute_bound_fits=turn <= max_batch,
    )


def needed_bytes(graph: OpGraph) -> Any:
    """Weights, KV cache with the new entries, and the most intermediates alive at a time: what `predict` compares with the capacity."""
    made = {op.name for op in graph.ops}
    stored = sum(
        tensor.spec.size_bytes
        for tensor in graph.tensors.values()
        if tensor.role == "weight" or (tensor.role == "kv_cache" and tensor.name not in made)
    )
    return stored + demand(graph).residency.peak_bytes


def _weights_bytes(graph: OpGraph) -> int:
    return sum(int(tensor.spec.size_bytes) for tensor in graph.tensors.values() if tensor.role == "weight")


def _first(holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]], last: int) -> int:
    """The smallest of 1 ... last for which a monotone condition holds, last + 1 if for none: many are tried at a time."""
    low, high = 0, last + 1  # holds for `high`, if that is not past the end; not for `low`
    while high - low > 1:
        tried = np.unique(np.geomspace(low + 1, high - 1, AT_A_TIME).astype(np.int64))
        found = np.broadcast_to(holds(tried), tried.shape)
        first = int(np.argmax(found)) if found.any() else len(tried)
        low = int(tried[first - 1]) if first > 0 else low
        high = int(tried[first]) if first < len(tried) else high
    return high
