"""Where the time of a generation goes on the machine at hand: the golden model's text, run with a clock in the interpreter.

Predicted figures stand beside the measured ones for a chip that is named: what that chip would take at its best, or as its mappings allow,
against what PyTorch takes here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from functional.checkpoint import open_checkpoint
from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError, did_you_mean
from functional.formats import bits_of
from functional.generate import generate
from functional.interpreters import Torch
from functional.llama import Weights, build_weights
from functional.memory import MemoryNeed, available_bytes, check_memory
from functional.ops import Op, hide
from functional.sampling import Sampling
from functional.weights import dtype_named, named_weights, random_weights, rotary_frequencies
from functional.work import Mask
from hwmodels import load_chip
from hwmodels.chip import Chip
from sim.engines import DEFAULT_ENGINE, ENGINES
from sim.explore.stretch import stretch
from workloads.library import load_model
from workloads.scenario import Formats, Scenario

Clock = Callable[[], float]

TORCH_FORMATS = ("fp32", "bf16", "fp16")
"""Formats in which PyTorch computes the golden model as it stands."""

TOP_P = Sampling(temperature=1.0, top_p=0.9)
"""How a token is chosen unless said: with a sort, as in the published profile that this table follows."""

DEFAULT_TOKENS = 32


@dataclass(slots=True)
class Span:
    """How often something ran, and for how many seconds in all."""

    calls: int = 0
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.total_s += seconds


class Profile(Torch):
    """Computes and times every op and every scope; layers share one name: `layers.*.self_attn`. The mask of scores is a span of its own."""

    MASK = "layers.*.self_attn.mask"

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        super().__init__()
        self._clock = clock
        self.spans: dict[str, Span] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        path, begin_s = self._scope + name, self._clock()
        with super().scope(name):
            yield
        self._note(path, begin_s)

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        begin_s = self._clock()
        if op.kind == "MatMul" and attrs["mask_axis"] == "n":
            nothing_hidden = Mask(inputs[1].shape[2] - 1)
            product = op.compute(*inputs, mask=nothing_hidden, mask_axis="n")
            middle_s = self._clock()
            output = hide(product, attrs["mask"])
            self._note(self.MASK, middle_s)
        else:
            output = super().apply(op, name, inputs, **attrs)
        self._note(name, begin_s)
        return output

    def _note(self, name: str, begin_s: float) -> None:
        self.spans.setdefault(re.sub(r"^layers\.\d+", "layers.*", name), Span()).add(self._clock() - begin_s)


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the table: which spans it sums, under which line it stands, and whether it is what they leave of that one."""

    name: str
    spans: tuple[str, ...]
    under: str
    is_rest: bool = False


PARTS = (
    Part("model", ("embed_tokens", "rotary_emb", "layers.*", "norm", "lm_head"), "iteration"),
    Part("embedding", ("embed_tokens",), "model"),
    Part("rope frequencies", ("rotary_emb",), "model"),
    Part("layers", ("layers.*",), "model"),
    Part("attention", ("layers.*.self_attn",), "layers"),
    Part("mask", (Profile.MASK,), "attention"),
    Part("feed-forward", ("layers.*.mlp",), "layers"),
    Part("norms, residuals", ("layers.*.self_attn", "layers.*.mlp"), "layers", is_rest=True),
    Part("norm", ("norm",), "model"),
    Part("head", ("lm_head",), "model"),
    Part("sampling", ("sampling",), "iteration"),
    Part("top-p", ("sampling.top_p",), "sampling"),
    Part("elsewhere", ("embed_tokens", "rotary_emb", "layers.*", "norm", "lm_head", "sampling"), "iteration", is_rest=True),
)
"""The lines below `iteration`, in order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line: how often it ran, in how many seconds; `predicted_s` is that of all calls, None where nothing is predicted."""

    name: str
    depth: int
    calls: int
    total_s: float
    share: float
    predicted_s: float | None = None


@dataclass(frozen=True, slots=True)
class Profiled:
    """The profile of a generation: `steps` decode steps after a prompt, whose prefill (with the choice of the first token) is apart."""

    model: str
    number_format: str
    batch: int
    prompt: int
    steps: int
    threads: int
    sampling: Sampling
    prefill_s: float
    rows: tuple[Row, ...]
    chip: str | None
    engine: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "model": self.model,
            "format": self.number_format,
            "batch": self.batch,
            "prompt": self.prompt,
            "steps": self.steps,
            "threads": self.threads,
            "chip": self.chip,
            "engine": self.engine,
            "prefill_s": self.prefill_s,
            "rows": [
                {
                    "name": row.name,
                    "depth": row.depth,
                    "calls": row.calls,
                    "total_s": row.total_s,
                    "average_s": row.total_s / row.calls,
                    "share": row.share,
                    "predicted_s": row.predicted_s,
                }
                for row in self.rows
            ],
        }


def profile(
    model: str | Path | ModelConfig,
    *,
    batch: int = 32,
    prompt: int = 1,
    tokens: int = DEFAULT_TOKENS,
    weights: str | None = None,
    sampling: Sampling = TOP_P,
    chip: str | Path | Chip | None = None,
    engine: str = DEFAULT_ENGINE,
    clock: Clock = time.perf_counter,
) -> Profiled:
    """Measure `tokens` decode steps after a prompt of random ids; with a chip, predict the same steps on it.

    `model` is a checkpoint's folder, or a configuration that gets random weights (in fp32 unless `weights` says otherwise). Raises
    `BadInput` for what cannot be loaded, generated or predicted.
    """
    flags = {"--batch": batch, "--prompt": prompt, "--tokens": tokens}
    problems = [Problem(f"must be at least 1, found {value}", path=flag) for flag, value in flags.items() if value < 1]
    if weights is not None and weights not in TORCH_FORMATS:
        problems.append(Problem(f"nothing is measured in '{weights}'", did_you_mean(weights, TORCH_FORMATS), path="--weights"))
    if engine not in ENGINES:
        problems.append(Problem(f"unknown engine '{engine}'", did_you_mean(engine, ENGINES), path="--engine"))
    if problems:
        raise ScenarioError(problems)
    built = None if chip is None else chip if isinstance(chip, Chip) else load_chip(chip)
    config, tensors = _opened(model, weights)
    room = config.max_position_embeddings - prompt - 1  # the prefill, too, gives a token
    if tokens > room:
        message = f"a prompt of {prompt} tokens and {tokens} decode steps are more than {config.name}'s context holds"
        cure = f"ask for at most {room} steps" if room >= 1 else f"shorten --prompt to at most {config.max_position_embeddings - 2} tokens"
        raise ScenarioError(Problem(message, cure, path="--tokens" if room >= 1 else "--prompt"))
    number_format = _format_of(tensors)
    predicted = {} if built is None else _predicted_s(config, built, engine, number_format, batch, prompt, tokens, sampling)
    ids = torch.randint(config.vocab_size, (prompt,), generator=torch.Generator().manual_seed(sampling.seed)).tolist()
    watching = Profile(clock)
    steps = generate(config, tensors, [ids], tokens + 1, sampling, copies=batch, chunk=prompt, interpreter=watching)
    begin_s = clock()
    next(steps)
    prefill_s = clock() - begin_s
    watching.spans.clear()
    iteration = Span()
    for _ in range(tokens):
        begin_s = clock()
        next(steps)
        iteration.add(clock() - begin_s)
    return Profiled(
        model=config.name,
        number_format=number_format,
        batch=batch,
        prompt=prompt,
        steps=tokens,
        threads=torch.get_num_threads(),
        sampling=sampling,
        prefill_s=prefill_s,
        rows=tuple(_rows(iteration, watching.spans, predicted)),
        chip=None if built is None else built.name,
        engine=None if built is None else engine,
    )


def _opened(model: str | Path | ModelConfig, weights: str | None) -> tuple[ModelConfig, Weights[Tensor]]:
    if not isinstance(model, ModelConfig) and Path(model).is_dir():
        checkpoint = open_checkpoint(Path(model))
        return checkpoint.config, checkpoint.weights if weights is None else _converted(checkpoint.config, checkpoint.weights, weights)
    config = model if isinstance(model, ModelConfig) else load_model(model)
    number_format = "fp32" if weights is None else weights
    check_memory(MemoryNeed(config.parameters * bits_of(number_format) // 8, 0, 0), available_bytes())
    return config, random_weights(config, dtype=number_format)


def _converted(config: ModelConfig, weights: Weights[Tensor], number_format: str) -> Weights[Tensor]:
    named, dtype = named_weights(weights), dtype_named(number_format)
    check_memory(MemoryNeed(config.parameters * dtype.itemsize, 0, 0), available_bytes(), "keep the checkpoint's own format")
    return build_weights(config, lambda name, shape: named[name].to(dtype), rotary_frequencies(config))


def _format_of(weights: Weights[Tensor]) -> str:
    return next(name for name in TORCH_FORMATS if dtype_named(name) == weights.embed_tokens.dtype)


def _predicted_s(
    config: ModelConfig, chip: Chip, engine: str, number_format: str, batch: int, prompt: int, tokens: int, sampling: Sampling
) -> Mapping[str, float]:
    """Seconds of all steps by op, layers under one name."""
    contexts = np.arange(prompt, prompt + tokens)
    steps = stretch(config, Scenario.decode(Formats.of(number_format), batch, contexts, sampling=sampling), chip, engine, True)
    found: dict[str, float] = {}
    for op in steps.totals(np.ones(tokens)):
        name = re.sub(r"^layers\.\d+", "layers.*", op.name)
        found[name] = found.get(name, 0.0) + op.latency_s
    return found


def _rows(iteration: Span, spans: Mapping[str, Span], predicted_s: Mapping[str, float]) -> Iterator[Row]:
    measured, depth = {"iteration": iteration}, {"iteration": 0}
    predicted: dict[str, float | None] = {"iteration": sum(predicted_s.values()) if predicted_s else None}
    yield Row("iteration", 0, iteration.calls, iteration.total_s, 1.0, predicted["iteration"])
    for part in PARTS:
        found = [spans[name] for name in part.spans if name in spans]
        if not found:
            continue  # greedy has no top-p
        above = measured[part.under]
        total_s = sum(span.total_s for span in found)
        own_s = _under(part.spans, predicted_s)
        upper_s = predicted[part.under]
        if part.is_rest:
            total_s = above.total_s - total_s
            own_s = upper_s - own_s if upper_s is not None and own_s is not None else None
        calls = above.calls if part.is_rest or len(found) > 1 else found[0].calls
        measured[part.name], depth[part.name] = Span(calls, total_s), depth[part.under] + 1
        predicted[part.name] = None if part.name == "elsewhere" else own_s
        yield Row(part.name, depth[part.name], calls, total_s, total_s / iteration.total_s, predicted[part.name])


def _under(scopes: Sequence[str], predicted_s: Mapping[str, float]) -> float | None:
    """Predicted seconds of all ops in these scopes, or of these names; None where there are none, such as a mask's."""
    found = [seconds for name, seconds in predicted_s.items() for scope in scopes if name == scope or name.startswith(f"{scope}.")]
    return sum(found) if found else None
