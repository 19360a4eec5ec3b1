"""Flags that several commands share, so that each is described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from functional.errors import BadInput, Problem
from functional.llama import Logits as LogitsChoice
from functional.sampling import Sampling
from sim.engines import ENGINES
from workloads.scenario import DEFAULT_LENGTH, PHASES
from workloads.scenario import Phase as PhaseChoice

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


def sampling_of(temperature: float | None, top_k: int | None, top_p: float | None) -> Sampling | None:
    """How a step ends: None with logits. Raises `BadInput` for filters that would change nothing."""
    if not temperature and (top_k is not None or top_p is not None):
        found = "--top-k and --top-p choose what is drawn from"
        raise BadInput(Problem(found, "give --temperature above 0; 1 is the model's own distribution", path="--temperature"))
    return None if temperature is None else Sampling(temperature, top_k, 1.0 if top_p is None else top_p)


def phases_of(phase: PhaseChoice | None, context: int | None, logits: LogitsChoice = "last") -> tuple[PhaseChoice, ...]:
    """The phases that were asked for. Raises `BadInput` for a context, or logits of all tokens, that none of them has."""
    if phase == "decode" and logits == "all":
        raise BadInput(Problem("has no part in this: a decode step has one token, the last", "leave it out", path="--logits"))
    if phase == "prefill" and context is not None:
        raise BadInput(Problem("has no part in this: nothing comes before a prefill", "leave it out", path="--context"))
    return (phase,) if phase else PHASES
