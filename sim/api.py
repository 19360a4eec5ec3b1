"""The public functions: predict a step, or a whole grid of steps, of a model on a chip."""

from __future__ import annotations

from pathlib import Path

from functional.config import ModelConfig
from functional.errors import Problem, UnknownName, did_you_mean
from functional.llama import Logits
from functional.sampling import Sampling
from functional.spec import Dim
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.engines import DEFAULT_ENGINE, check_engine, roofline, roofline_arrays, timed
from sim.engines.result import assemble
from sim.plan import plan
from sim.timeline import Timeline
from workloads.graph import OpGraph
from workloads.library import load_model
from workloads.scenario import PHASES, Formats, Phase, Scenario, default_length
from workloads.split import split as in_pieces
from workloads.trace import trace


def trace_model(
    model: str | Path | ModelConfig,
    default_format: str = "bf16",
    *,
    phase: Phase = "prefill",
    batch: Dim = 1,
    prompt: Dim | None = None,
    context: Dim | None = None,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    logits: Logits = "last",
    sampling: Sampling | None = None,
    split: int = 1,
) -> OpGraph:
    """The op graph of one step. `prompt` defaults to 512 or what the model holds, `context` to `prompt`, formats to `default_format`; with
    `sampling` it ends with a token; every linear is in `split` pieces, one per core.

    Raises `BadInput`: an unknown model, phase or format, a length that the model cannot hold.
    """
    if phase not in PHASES:
        raise UnknownName(Problem(f"unknown phase '{phase}'", did_you_mean(phase, PHASES), path="--phase"))
    config = model if isinstance(model, ModelConfig) else load_model(model)
    formats = Formats.of(default_format, weights, activations, kv)
    prompt = default_length(config) if prompt is None else prompt
    if phase == "prefill":
        scenario = Scenario.prefill(formats, batch, prompt, logits, sampling)
    else:
        scenario = Scenario.decode(formats, batch, prompt if context is None else context, logits, sampling)
    return in_pieces(trace(config, scenario), split)


def predict_graph(
    graph: OpGraph, chip: str | Path | Chip, engine: str = DEFAULT_ENGINE, *, fused: bool = True, prefetch: bool = True
) -> Timeline:
    """Predict a traced step on a chip with the engine of that name; not `prefetch`: no weights come before the group that uses them.

    Raises `BadInput`: an unknown chip or engine, a format without a rate, array-valued lengths (see `roofline_grid`), an engine that never
    prefetches asked not to.
    """
    check_engine(engine, prefetch)
    graph.scenario.refuse_arrays()
    planned = plan(graph, chip if isinstance(chip, Chip) else load_chip(chip), fused)
    parted, times = timed(planned, engine, prefetch)
    return assemble(parted, engine, times, float(roofline.floor_s(planned.demand, planned.chip)))


def predict(
    model: str | Path | ModelConfig,
    chip: str | Path | Chip,
    *,
    phase: Phase = "prefill",
    batch: int = 1,
    prompt: int | None = None,
    context: int | None = None,
    engine: str = DEFAULT_ENGINE,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    logits: Logits = "last",
    sampling: Sampling | None = None,
    split: int = 1,
    fused: bool = True,
    prefetch: bool = True,
) -> Timeline:
    """Predict one prefill, or one decode step after `context` tokens (default: `prompt`), in the chip's default format unless said.

    Raises `BadInput` for all that `trace_model` and `predict_graph` refuse.
    """
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    graph = trace_model(
        model,
        built.default_format,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        weights=weights,
        activations=activations,
        kv=kv,
        logits=logits,
        sampling=sampling,
        split=split,
    )
    return predict_graph(graph, built, engine, fused=fused, prefetch=prefetch)


def roofline_grid(graph: OpGraph, chip: Chip, *, fused: bool = True) -> roofline_arrays.Grid:
    """The roofline over arrays: lengths and batches of the graph, numbers of the chip (`hwmodels.with_values`), or both, broadcast.

    Raises `BadInput` for a format without a rate.
    """
    return roofline_arrays.grid(plan(graph, chip, fused))
