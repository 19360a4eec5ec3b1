"""Flags that several commands share, so that each is described once, and groups of them that commands take as one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from functional.errors import BadInput, Problem
from functional.llama import Logits as LogitsChoice
from functional.sampling import Sampling
from sim.engines import DEFAULT_ENGINE, ENGINES
from workloads.scenario import DEFAULT_LENGTH, PHASES
from workloads.scenario import Phase as PhaseChoice

if TYPE_CHECKING:
    from sim.explore.generation import Speculation
    from sim.explore.step import Step

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A library model (`rooftile models list`), or a config.json or params.json.")]
ChipOption = Annotated[str, typer.Option("--chip", metavar="CHIP", help="A library chip (`rooftile chips list`), or a YAML file.")]
Batch = Annotated[int, typer.Option("--batch", metavar="B", help="Sequences at a time.")]
DEFAULT_PROMPT = f"[default: {DEFAULT_LENGTH}, or what the model holds]"
SomePrompt = Annotated[int, typer.Option("--prompt", metavar="N", help="Tokens of the prompt (prefill).")]
Prompt = Annotated[
    Optional[int], typer.Option("--prompt", metavar="N", help=f"Tokens of the prompt (prefill). {DEFAULT_PROMPT}")  # noqa: UP045
]
# Typer reads annotations at run time, and `int | None` in an Annotated alias only from Python 3.14 on without Optional.
Context = Annotated[
    Optional[int], typer.Option("--context", metavar="N", help="Tokens in the KV cache before a decode step. [default: the prompt]")  # noqa: UP045
]
Weights = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--weights", metavar="FMT", help="Number format of the weights: bf16, fp16, fp32, fp8, int8, int4, int4:g128, ..."),
]
Activations = Annotated[Optional[str], typer.Option("--activations", metavar="FMT", help="Number format between ops.")]  # noqa: UP045
Kv = Annotated[Optional[str], typer.Option("--kv", metavar="FMT", help="Number format of the KV cache.")]  # noqa: UP045
Phase = Annotated[Optional[PhaseChoice], typer.Option("--phase", help="One phase only. [default: both]")]  # noqa: UP045
Logits = Annotated[LogitsChoice, typer.Option("--logits", help="Tokens for which lm_head runs.")]
Split = Annotated[int, typer.Option("--split", metavar="N", help="Cut every linear into N pieces, one per core.")]
Engine = Annotated[str, typer.Option("--engine", metavar="|".join(ENGINES), help="Fidelity of the prediction.")]
NoFuse = Annotated[bool, typer.Option("--no-fuse", help="Run every op by itself, through memory.")]
NoPrefetch = Annotated[bool, typer.Option("--no-prefetch", help="Cycle engine: fetch nothing before the group that uses it begins.")]
Out = Annotated[Optional[Path], typer.Option("--out", metavar="PATH", help="Write here instead of to the terminal.")]  # noqa: UP045
Generate = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--generate", metavar="N", help="Predict the generation of N tokens after the prompt: TTFT, and each token's latency."),
]
Chunk = Annotated[Optional[int], typer.Option("--chunk", metavar="N", help="Take the prompt N tokens at a time.")]  # noqa: UP045
Draft = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--draft", metavar="MODEL", help="Speculative decoding: the model that proposes tokens."),
]
DraftTokens = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--draft-tokens", metavar="K", help="Tokens that the draft proposes in a round. [default: 4]"),
]
Acceptance = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--acceptance", metavar="A", help="Probability with which a proposed token is taken. [default: 0.8]"),
]
DraftWeights = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--draft-weights", metavar="FMT", help="Number format of the draft's weights. [default: that of the model's]"),
]
Temperature = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--temperature", metavar="T", help="End each step with the choice of the next token; 0 is greedy. [default: logits]"),
]
TopK = Annotated[Optional[int], typer.Option("--top-k", metavar="K", help="Draw from the K most likely tokens only.")]  # noqa: UP045
TopP = Annotated[Optional[float], typer.Option("--top-p", metavar="P", help="Draw from the most likely tokens that make up P.")]  # noqa: UP045


def phases_of(phase: PhaseChoice | None, context: int | None, logits: LogitsChoice = "last") -> tuple[PhaseChoice, ...]:
    """The phases that were asked for. Raises `BadInput` for a context, or logits of all tokens, that none of them has."""
    if phase == "decode" and logits == "all":
        raise BadInput(Problem("has no part in this: a decode step has one token, the last", "leave it out", path="--logits"))
    if phase == "prefill" and context is not None:
        raise BadInput(Problem("has no part in this: nothing comes before a prefill", "leave it out", path="--context"))
    return (phase,) if phase else PHASES


class _Group:
    """Flags that commands take together."""

    def to_dict(self) -> dict[str, Any]:
        """The parameters of the API by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Formats(_Group):
    """Number formats; those that are not given are the default of the chip or of the command."""

    weights: Weights = None
    activations: Activations = None
    kv: Kv = None


@dataclass(frozen=True)
class Built(_Group):
    """What is built of a model, and with which random numbers."""

    layers: Annotated[int, typer.Option("--layers", metavar="L", help="Decoder layers to build.")] = 1
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of weights and token ids.")] = 0


@dataclass(frozen=True)
class Scenario(_Group):
    """What is run, and how it is timed; named as the parameters of the API."""

    phase: Phase = None
    batch: Batch = 1
    prompt: Prompt = None
    context: Context = None
    engine: Engine = DEFAULT_ENGINE
    weights: Weights = None
    activations: Activations = None
    kv: Kv = None
    logits: Logits = "last"

    def phases(self) -> tuple[PhaseChoice, ...]:
        """The phases that were asked for. Raises `BadInput` for a context, or logits of all tokens, that none of them has."""
        return phases_of(self.phase, self.context, self.logits)


@dataclass(frozen=True)
class Execution:
    """How the chip runs it."""

    split: Split = 1
    no_fuse: NoFuse = False
    no_prefetch: NoPrefetch = False

    def to_dict(self) -> dict[str, Any]:
        """The parameters of the API by name."""
        return {"split": self.split, "fused": not self.no_fuse, "prefetch": not self.no_prefetch}


@dataclass(frozen=True)
class Drawing:
    """How a step ends."""

    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None

    def sampling(self) -> Sampling | None:
        """None with logits. Raises `BadInput` for filters that would change nothing."""
        if not self.temperature and (self.top_k is not None or self.top_p is not None):
            found = "--top-k and --top-p choose what is drawn from"
            raise BadInput(Problem(found, "give --temperature above 0; 1 is the model's own distribution", path="--temperature"))
        return None if self.temperature is None else Sampling(self.temperature, self.top_k, 1.0 if self.top_p is None else self.top_p)


@dataclass(frozen=True)
class Drafting:
    """Speculative decoding."""

    draft: Draft = None
    draft_tokens: DraftTokens = None
    acceptance: Acceptance = None
    draft_weights: DraftWeights = None

    def speculation(self) -> Speculation | None:
        """None without a draft model. Raises `BadInput` for flags that would have no part then."""
        if self.draft is None:
            named = {"--draft-tokens": self.draft_tokens, "--acceptance": self.acceptance, "--draft-weights": self.draft_weights}
            refuse({flag: value is not None for flag, value in named.items()}, "no draft model is given")
            return None
        from sim.explore.generation import Speculation

        given = {"draft_tokens": self.draft_tokens, "acceptance": self.acceptance, "weights": self.draft_weights}
        return Speculation(self.draft, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command for Typer, which knows no groups: in the place of each parameter that is a dataclass of flags stand these flags."""
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += inspect.signature(parameter.annotation, eval_str=True).parameters.values()
        else:
            parameters.append(parameter)
    flat = inspect.Signature([parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters])

    @wraps(command)
    def run(*arguments: Any, **named: Any) -> None:
        bound = flat.bind(*arguments, **named)
        bound.apply_defaults()
        given = dict(bound.arguments)
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**given)

    run.__signature__ = flat  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def steps_of(model: str, scenario: Scenario, execution: Execution, sampling: Sampling | None = None) -> list[Step]:
    """A step for each phase that was asked for."""
    from sim.explore.step import Step

    asked = {**scenario.to_dict(), **execution.to_dict(), "sampling": sampling}
    return [Step(model, **{**asked, "phase": phase}) for phase in scenario.phases()]


def refuse(given: Mapping[str, object], why: str) -> None:
    """Raise `BadInput` for flags that would be ignored."""
    problems = [Problem(f"has no part in this: {why}", "leave it out", path=flag) for flag, value in given.items() if value]
    if problems:
        raise BadInput(problems)
