"""`rooftile trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli import flags
from sim.engines import DEFAULT_ENGINE

app = typer.Typer(rich_markup_mode=None)


@app.command()
def trace(
    model: flags.Model,
    chip: flags.ChipOption,
    out: Annotated[Path, typer.Option("--out", metavar="TRACE.json", help="The trace to write.")],
    phase: flags.Phase = None,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = None,
    context: flags.Context = None,
    engine: flags.Engine = DEFAULT_ENGINE,
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = "last",
    split: flags.Split = 1,
    no_fuse: flags.NoFuse = False,
    no_prefetch: flags.NoPrefetch = False,
) -> None:
    """Write the prediction as a trace for ui.perfetto.dev and chrome://tracing: ops, resources, cores, bandwidth, occupancy."""
    from hwmodels import load_chip
    from sim.explore.step import Step
    from sim.present.output import write_whole
    from sim.present.perfetto import perfetto

    phases = flags.phases_of(phase, context)
    rest = (weights, activations, kv, logits, not no_fuse, engine)
    steps = [Step(model, each, batch, prompt, context, *rest, prefetch=not no_prefetch, split=split) for each in phases]
    write_whole(out, perfetto(steps, load_chip(chip)))
    print(f"{out}: open it in https://ui.perfetto.dev or chrome://tracing")
