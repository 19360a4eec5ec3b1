"""A whole generation: the prompt, in one pass or in chunks, then token by token while the context grows; alone or with a draft model.

The first token comes out of the prompt's logits: N tokens are a prefill and N - 1 decode steps, at contexts prompt ... prompt + N - 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError, UnknownName, did_you_mean
from functional.sampling import Sampling
from hwmodels import load_chip
from hwmodels.chip import Chip
from hwmodels.costs import area_mm2
from sim.engines import DEFAULT_ENGINE, ENGINES
from sim.explore.stretch import OpTotal, Progress, Stretch, stretch
from sim.intervals import Floats
from sim.timeline import LOST, Component, Memory
from workloads.library import load_model
from workloads.scenario import Formats, Scenario, default_length

DRAFT = "draft."
"""What stands before the names of the draft model's ops and components."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding: a draft model proposes `draft_tokens` tokens one by one, the model checks them all in one step.

    `acceptance` is the probability with which one proposal is taken, independent of the others; `weights` the format of the draft's
    weights, None that of the model's: activations and KV cache have the model's formats always. Source: Leviathan, Kalman, Matias, Fast
    Inference from Transformers via Speculative Decoding, ICML 2023 (arXiv 2211.17192).
    """

    draft: str | Path | ModelConfig
    draft_tokens: int = 4
    acceptance: float = 0.8
    weights: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.draft_tokens < 1:
            problems.append(Problem(f"must be at least 1, found {self.draft_tokens}", path="--draft-tokens"))
        if not 0 <= self.acceptance <= 1:
            problems.append(Problem(f"{self.acceptance} is no probability", "give 0 to 1", path="--acceptance"))
        if problems:
            raise ScenarioError(problems)

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a round is expected to give."""
        return expected_tokens(self.acceptance, self.draft_tokens)


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """Tokens that one round is expected to give: (1 - a^(k + 1)) / (1 - a), as a sum that a = 1 does not break. Leviathan et al., eq. 1."""
    return float(sum(acceptance**taken for taken in range(draft_tokens + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Steps of one kind: each happens `weights` times [n]; `prefix` says whose model they are."""

    steps: Stretch
    weights: Floats
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a part of the prompt."""

    q_len: int
    kv_len: int
    latency_s: float


@dataclass(frozen=True, eq=False)
class Generation:
    """A predicted generation of `tokens` tokens for each sequence.

    `token_latency_s` [tokens]: the first is the time to the first token (TTFT), each other the time from the token before it; with
    speculation that is expected, the cost of a round that begins there divided by the tokens that a round gives. `plain_latency_s` [tokens]
    is the same without speculation. `passes` are the chunks of the prompt. Memory is what the longest context needs, of both models.
    """

    model: ModelConfig
    chip: str
    engine: str
    formats: Formats
    batch: int
    split: int
    prompt: int
    tokens: int
    chunk: int | None
    sampling: Sampling | None
    speculation: Speculation | None
    token_latency_s: Floats
    plain_latency_s: Floats
    passes: tuple[Pass, ...]
    parts: tuple[Part, ...]
    memory: Memory
    area_mm2: float | None

    @property
    def ttft_s(self) -> float:
        """Time to the first token; with a draft model, both read the prompt first."""
        return float(self.token_latency_s[0])

    @property
    def draft_ttft_s(self) -> float:
        """What of it the draft model takes to read the prompt."""
        return self.ttft_s - float(self.plain_latency_s[0])

    @property
    def total_s(self) -> float:
        return float(self.token_latency_s.sum())

    @property
    def floor_s(self) -> float:
        """Sum of the floors of all steps."""
        return sum(float((part.steps.floor_s * part.weights).sum()) for part in self.parts)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the whole batch per second, the prompt's time included."""
        return self.batch * self.tokens / self.total_s

    @property
    def speedup(self) -> float:
        """How much faster the tokens after the first come with speculation."""
        return float(self.plain_latency_s[1:].sum() / self.token_latency_s[1:].sum()) if self.tokens > 1 else 1.0

    @cached_property
    def ops(self) -> tuple[OpTotal, ...]:
        """Each op in all steps together, in the order of the model's text; latencies add up to the total."""
        found: dict[str, OpTotal] = {}
        for part in sorted(self.parts, key=lambda part: -len(part.steps.graph.ops)):  # chunks that go on have fewer ops
            for total in part.steps.totals(part.weights, part.prefix):
                if total.name in found:
                    found[total.name].add(total)
                else:
                    found[total.name] = total
        ordered = sorted(found.values(), key=lambda total: total.name.startswith(DRAFT))
        groups: dict[tuple[bool, int], int] = {}
        for total in ordered:
            total.group = groups.setdefault((total.name.startswith(DRAFT), total.group), len(groups))
        return tuple(ordered)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Latency of each component in all steps, and what binds the largest part of it."""
        by_bound: dict[str, dict[str, float]] = {}
        spent: dict[str, float] = {}
        for op in self.ops:
            parts = by_bound.setdefault(op.component, {})
            for name, seconds in op.bound_s.items():
                parts[name] = parts.get(name, 0.0) + seconds
            if op.energy_j is not None:
                spent[op.component] = spent.get(op.component, 0.0) + op.energy_j
        return tuple(
            Component(name, sum(parts.values()), max(parts, key=parts.__getitem__), spent.get(name)) for name, parts in by_bound.items()
        )

    @cached_property
    def energy_by_j(self) -> dict[str, float] | None:
        """Joules by unit, level and `static`; None where the chip's energy is not known."""
        found: dict[str, float] = {}
        for part in self.parts:
            for name, joules in part.steps.energy_by_j(part.weights).items():
                found[name] = found.get(name, 0.0) + joules
        return found or None

    @property
    def energy_j(self) -> float | None:
        """Joules of the whole generation."""
        return None if self.energy_by_j is None else sum(self.energy_by_j.values())

    @property
    def power_w(self) -> float | None:
        """Watts on average."""
        return None if self.energy_j is None else self.energy_j / self.total_s

    @property
    def j_per_token(self) -> float | None:
        """Joules per generated token of the batch, the prompt's included."""
        return None if self.energy_j is None else self.energy_j / (self.batch * self.tokens)

    @cached_property
    def bound_shares(self) -> dict[str, float]:
        """Share of the total that each resource binds, largest first."""
        seconds: dict[str, float] = {}
        for op in self.ops:
            for name, part in op.bound_s.items():
                seconds[name] = seconds.get(name, 0.0) + part
        return {name: seconds[name] / self.total_s for name in sorted(seconds, key=seconds.__getitem__, reverse=True)}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `rooftile predict --generate`: the promised keys, for all steps together, and `generate`."""
        memory = self.memory
        return {
            "model": self.model.name,
            "chip": self.chip,
            "engine": self.engine,
            "phase": "generate",
            "batch": self.batch,
            "q_len": self.tokens,
            "kv_len": self.prompt + self.tokens - 1,
            "formats": {name: getattr(self.formats, name) for name in ("weights", "activations", "kv")},
            "split": self.split,
            "latency_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "floor_s": self.floor_s,
            "lost_s": {cause: sum(op.lost_s.get(cause, 0.0) for op in self.ops) for cause in LOST},
            "energy_j": self.energy_j,
            "energy_by_j": self.energy_by_j,
            "power_w": self.power_w,
            "j_per_token": self.j_per_token,
            "tokens_per_s_per_w": None if self.j_per_token is None else 1 / self.j_per_token,
            "area_mm2": self.area_mm2,
            "components": [
                {"name": c.name, "latency_s": c.latency_s, "bound_by": c.bound_by, "energy_j": c.energy_j} for c in self.components
            ],
            "ops": [_row(op) for op in self.ops],
            "memory": {
                "weights_bytes": memory.weights_bytes,
                "kv_cache_bytes": memory.kv_cache_bytes,
                "activations_bytes": memory.activations_bytes,
                "capacity_bytes": memory.capacity_bytes,
                "fits": memory.fits,
            },
            "generate": self._generate(),
        }

    def _generate(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "prompt": self.prompt,
            "tokens": self.tokens,
            "ttft_s": self.ttft_s,
            "total_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "token_latency_s": self.token_latency_s.tolist(),
        }
        if self.chunk is not None:
            found["chunks"] = [{"q_len": each.q_len, "kv_len": each.kv_len, "latency_s": each.latency_s} for each in self.passes]
        if self.speculation is not None:
            found["speculation"] = {
                "draft": _loaded(self.speculation.draft).name,
                "draft_weights": self.speculation.weights or self.formats.weights,
                "draft_tokens": self.speculation.draft_tokens,
                "acceptance": self.speculation.acceptance,
                "tokens_per_round": self.speculation.tokens_per_round,
                "speedup": self.speedup,
                "plain_token_latency_s": self.plain_latency_s.tolist(),
            }
        return found


def _row(op: OpTotal) -> dict[str, Any]:
    """Counts are whole, but where rounds of speculation are only expected."""
    return {
        "name": op.name,
        "kind": op.kind,
        "component": op.component,
        "group": op.group,
        "flops": _whole(op.flops),
        "useful_macs": _whole(op.useful_macs),
        "issued_macs": _whole(op.issued_macs),
        "dram_bytes": _whole(op.dram_bytes),
        "latency_s": op.latency_s,
        "busy_s": op.busy_s,
        "bound_by": op.bound_by,
        "lost_s": {cause: op.lost_s.get(cause, 0.0) for cause in LOST},
        "energy_j": op.energy_j,
    }


def _whole(count: float) -> float:
    return int(count) if count.is_integer() else count


def predict_generation(
    model: str | Path | ModelConfig,
    chip: str | Path | Chip,
    *,
    tokens: int,
    prompt: int | None = None,
    batch: int = 1,
    engine: str = DEFAULT_ENGINE,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    sampling: Sampling | None = None,
    chunk: int | None = None,
    speculation: Speculation | None = None,
    fused: bool = True,
    split: int = 1,
    progress: Progress | None = None,
) -> Generation:
    """Predict the generation of `tokens` tokens after a prompt, taken in `chunk` tokens at a time (None: in one pass).

    Every latency is that of `predict` at its context (with cycle: without prefetch), to the last bit; of more than `EXACT_CONTEXTS`
    contexts tiled and cycle interpolate some, see `sim.explore.stretch`. Of a chunked prompt only the last chunk runs lm_head. With
    speculation a round is `draft_tokens` decode steps of the draft model and one step of the model over those and the token before them.
    `progress(done, of)` is called as contexts of one of its parts are timed by tiled or cycle.
    Raises `BadInput` for all that `predict` refuses, and for lengths, chunks and drafts that cannot be.
    """
    if engine not in ENGINES:
        raise UnknownName(Problem(f"unknown engine '{engine}'", did_you_mean(engine, ENGINES), path="--engine"))
    built = chip if isinstance(chip, Chip) else load_chip(chip)
    config = _loaded(model)
    if speculation is not None:
        speculation = replace(speculation, draft=_loaded(speculation.draft))
    if prompt is None:
        shortest = min([config, *([_loaded(speculation.draft)] if speculation else [])], key=lambda each: each.max_position_embeddings)
        prompt = default_length(shortest, tokens - 1 + _ahead(speculation, tokens))
    _check(config, prompt, tokens, chunk, speculation)
    formats = Formats.of(built.default_format, weights, activations, kv)
    run = _Run(built, formats, batch, prompt, tokens, chunk, sampling, engine, fused, split, progress)
    prefill = run.prefill(config)
    decode = run.decode(config, run.contexts)
    first = prefill
    parts = [*prefill, *decode]
    token_latency_s = plain_latency_s = np.concatenate([[_total_s(prefill)], *(part.steps.latency_s for part in decode)])
    if speculation is not None:
        first = [*prefill, *run.drafting(speculation).prefill(_loaded(speculation.draft), DRAFT)]
        rounds, round_s = run.rounds(config, speculation)
        parts = [*first, *rounds]
        token_latency_s = np.concatenate([[_total_s(first)], round_s / speculation.tokens_per_round])
    area = area_mm2(built)
    return Generation(
        model=config,
        chip=built.name,
        engine=engine,
        formats=run.formats,
        batch=batch,
        split=split,
        prompt=prompt,
        tokens=tokens,
        chunk=chunk,
        sampling=sampling,
        speculation=speculation,
        token_latency_s=token_latency_s,
        plain_latency_s=plain_latency_s,
        passes=tuple(each for part in first if not part.prefix for each in _passes(part)),
        parts=tuple(parts),
        memory=_memory(parts),
        area_mm2=None if area is None else float(area),
    )


def _loaded(model: str | Path | ModelConfig) -> ModelConfig:
    return model if isinstance(model, ModelConfig) else load_model(model)


def _total_s(parts: Iterable[Part]) -> float:
    return sum(float((part.steps.latency_s * part.weights).sum()) for part in parts)


def _passes(part: Part) -> list[Pass]:
    scenario = part.steps.graph.scenario
    contexts = np.atleast_1d(scenario.context).tolist()
    q_len = int(scenario.q_len)
    return [Pass(q_len, context + q_len, seconds) for context, seconds in zip(contexts, part.steps.latency_s.tolist(), strict=True)]


def _memory(parts: Iterable[Part]) -> Memory:
    """The most that any step needs, of the model and of the draft model together."""
    most: dict[str, Memory] = {}
    for part in parts:
        known, new = most.get(part.prefix, part.steps.memory), part.steps.memory
        most[part.prefix] = Memory(
            new.weights_bytes,
            max(known.kv_cache_bytes, new.kv_cache_bytes),
            max(known.activations_bytes, new.activations_bytes),
            new.capacity_bytes,
        )
    both = most.values()
    return Memory(
        sum(each.weights_bytes for each in both),
        sum(each.kv_cache_bytes for each in both),
        max(each.activations_bytes for each in both),
        most[""].capacity_bytes,
    )


def _ahead(speculation: Speculation | None, tokens: int) -> int:
    """Proposed tokens that may stand after the last one."""
    return speculation.draft_tokens if speculation is not None and tokens > 1 else 0


def _check(config: ModelConfig, prompt: int, tokens: int, chunk: int | None, speculation: Speculation | None) -> None:
    """All mistakes at once; batch and prompt are checked where they are traced."""
    problems = []
    if tokens < 1:
        problems.append(Problem(f"must be at least 1, found {tokens}", path="--generate"))
    if chunk is not None and chunk < 1:
        problems.append(Problem(f"must be at least 1, found {chunk}", path="--chunk"))
    ahead = _ahead(speculation, tokens)
    models = [config, *([_loaded(speculation.draft)] if speculation is not None else [])]
    for each in {model.name: model for model in models}.values():
        limit = each.max_position_embeddings
        longest = prompt + tokens - 1 + ahead
        if prompt >= 1 and tokens >= 1 and longest > limit:
            room, proposals = limit - prompt + 1 - ahead, limit - prompt - tokens + 1
            path = "--draft-tokens" if ahead and proposals >= 1 else "--generate"
            cure = f"at most {room} after this prompt" if room >= 1 else "shorten the prompt"
            cure = f"at most {proposals} with this prompt and generation" if path == "--draft-tokens" else cure
            cure = f"{cure} (max_position_embeddings {limit})"
            problems.append(Problem(f"{each.name} cannot hold {longest} positions", cure, path=path))
    draft = models[-1]
    if draft.vocab_size != config.vocab_size:
        message = f"{draft.name} has a vocabulary of {draft.vocab_size}, {config.name} one of {config.vocab_size}"
        problems.append(Problem(message, "a draft proposes tokens of the same vocabulary", path="--draft"))
    if problems:
        raise ScenarioError(problems)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What all steps of a generation share."""

    chip: Chip
    formats: Formats
    batch: int
    prompt: int
    tokens: int
    chunk: int | None
    sampling: Sampling | None
    engine: str
    fused: bool
    split: int
    progress: Progress | None

    def drafting(self, speculation: Speculation) -> _Run:
        """The same of the draft model, in its own formats."""
        weights = speculation.weights
        if weights is None:
            return self
        return replace(self, formats=Formats.of(weights, weights, self.formats.activations, self.formats.kv, "--draft-weights"))

    @property
    def contexts(self) -> Any:
        """Tokens in the cache before each decode step."""
        return np.arange(self.prompt, self.prompt + self.tokens - 1)

    def time(self, config: ModelConfig, scenario: Scenario) -> Stretch:
        return stretch(config, scenario, self.chip, self.engine, self.fused, self.split, self.progress)

    def prefill(self, config: ModelConfig, prefix: str = "") -> list[Part]:
        """The prompt; only its last token goes through lm_head, and through sampling."""
        formats, batch, prompt, chunk = self.formats, self.batch, self.prompt, self.chunk
        once = np.ones(1)
        if chunk is None or chunk >= prompt:
            return [Part(self.time(config, Scenario.prefill(formats, batch, prompt, sampling=self.sampling)), once, prefix)]
        last = (prompt - 1) // chunk * chunk
        whole = self.time(config, Scenario.extend(formats, batch, chunk, np.arange(0, last, chunk), "none"))
        rest = self.time(config, Scenario.extend(formats, batch, prompt - last, last, "last", self.sampling))
        return [Part(whole, np.ones(last // chunk), prefix), Part(rest, once, prefix)]

    def decode(self, config: ModelConfig, contexts: Any) -> list[Part]:
        """One token after another; nothing where the first one was all that was asked for."""
        if not len(contexts):
            return []
        steps = self.time(config, Scenario.decode(self.formats, self.batch, contexts, sampling=self.sampling))
        return [Part(steps, np.ones(len(contexts)))]

    def rounds(self, config: ModelConfig, speculation: Speculation) -> tuple[list[Part], Floats]:
        """Rounds that begin at each context, as often as is expected, and the seconds of one that begins there.

        In the long run a round begins at one context of `tokens_per_round`. The draft model's entry for the last proposal, missing where
        all are taken, comes with its next step and is not charged.
        """
        starts, proposals = self.contexts, speculation.draft_tokens
        if not len(starts):
            return [], np.zeros(0)
        share = 1 / speculation.tokens_per_round
        ahead = np.arange(self.prompt, self.prompt + len(starts) + proposals - 1)
        draft = self.drafting(speculation)
        proposing = draft.time(_loaded(speculation.draft), Scenario.decode(draft.formats, self.batch, ahead, sampling=self.sampling))
        checking = self.time(config, Scenario.extend(self.formats, self.batch, proposals + 1, starts, "all", self.sampling))
        proposals_s = np.convolve(proposing.latency_s, np.ones(proposals), "valid")
        often = np.convolve(np.ones(len(starts)), np.ones(proposals))
        parts = [Part(checking, np.full(len(starts), share)), Part(proposing, often * share, DRAFT)]
        return parts, checking.latency_s + proposals_s
