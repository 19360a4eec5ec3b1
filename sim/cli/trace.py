"""`rooftile trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli import flags
from sim.engines import DEFAULT_ENGINE, ENGINES
from workloads.scenario import PHASES

app = typer.Typer(rich_markup_mode=None)


@app.command()
def trace(
    model: flags.Model,
    chip: flags.ChipOption,
    out: Annotated[Path, typer.Option("--out", metavar="TRACE.json", help="The trace to write.")],
    phase: flags.Phase = None,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = 512,
    context: flags.Context = None,
    engine: Annotated[str, typer.Option("--engine", metavar="|".join(ENGINES), help="Fidelity of the prediction.")] = DEFAULT_ENGINE,
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = "last",
    split: flags.Split = 1,
    no_fuse: Annotated[bool, typer.Option("--no-fuse", help="Run every op by itself, through memory.")] = False,
    no_prefetch: Annotated[
        bool, typer.Option("--no-prefetch", help="Cycle engine: fetch nothing before the group that uses it begins.")
    ] = False,
) -> None:
    """Write the prediction as a trace for ui.perfetto.dev and chrome://tracing: ops, resources, cores, bandwidth, occupancy."""
    from hwmodels import load_chip
    from sim.explore.step import Step
    from sim.present.output import write_whole
    from sim.present.perfetto import perfetto

    phases = [phase] if phase else PHASES
    rest = (weights, activations, kv, logits, not no_fuse, engine)
    steps = [Step(model, each, batch, prompt, context, *rest, prefetch=not no_prefetch, split=split) for each in phases]
    write_whole(out, perfetto(steps, load_chip(chip)))
    print(f"{out}: open it in https://ui.perfetto.dev or chrome://tracing")
