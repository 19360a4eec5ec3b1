"""Flags that several commands share, so that each is described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from functional.llama import Logits as LogitsChoice
from workloads.scenario import Phase as PhaseChoice

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A library model (`rooftile models list`), or a config.json or params.json.")]
ChipOption = Annotated[str, typer.Option("--chip", metavar="CHIP", help="A library chip (`rooftile chips list`), or a YAML file.")]
Batch = Annotated[int, typer.Option("--batch", metavar="B", help="Sequences at a time.")]
Prompt = Annotated[int, typer.Option("--prompt", metavar="N", help="Tokens of the prompt (prefill).")]
# Typer reads annotations at run time, and `int | None` in an Annotated alias only from Python 3.14 on without Optional.
Context = Annotated[
    Optional[int], typer.Option("--context", metavar="N", help="Tokens in the KV cache before a decode step. [default: the prompt]")  # noqa: UP045
]
Weights = Annotated[Optional[str], typer.Option("--weights", metavar="FMT", help="Number format of the weights.")]  # noqa: UP045
Activations = Annotated[Optional[str], typer.Option("--activations", metavar="FMT", help="Number format between ops.")]  # noqa: UP045
Kv = Annotated[Optional[str], typer.Option("--kv", metavar="FMT", help="Number format of the KV cache.")]  # noqa: UP045
Phase = Annotated[Optional[PhaseChoice], typer.Option("--phase", help="One phase only. [default: both]")]  # noqa: UP045
Logits = Annotated[LogitsChoice, typer.Option("--logits", help="Tokens for which lm_head runs.")]
Out = Annotated[Optional[Path], typer.Option("--out", metavar="PATH", help="Write here instead of to the terminal.")]  # noqa: UP045
