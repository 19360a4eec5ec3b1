"""`rooftile dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sim.cli import flags
from sim.engines import DEFAULT_ENGINE

app = typer.Typer(rich_markup_mode=None)


@app.command()
def dashboard(
    models: Annotated[list[str], typer.Argument(metavar="MODEL ...", help="Library models, or config.json or params.json files.")],
    chips: Annotated[list[str], typer.Option("--chip", metavar="CHIP", help="A library chip, or a YAML file; repeat it to compare.")],
    out: Annotated[Path, typer.Option("--out", metavar="PAGE.html", help="The page to write.")],
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
    sweep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--sweep", metavar="RESULTS.parquet", help="Add the explorer of what `rooftile sweep` wrote."),
    ] = None,
) -> None:
    """Write one HTML page of linked views, which works offline: roofline, breakdown, timeline, curves, sensitivity, what if, op graph."""
    from sim.present.dashboard import dashboard as page_of
    from sim.present.output import write_whole

    flags.phases_of(phase, context)
    page = page_of(
        models,
        chips,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        engine=engine,
        weights=weights,
        activations=activations,
        kv=kv,
        logits=logits,
        split=split,
        fused=not no_fuse,
        prefetch=not no_prefetch,
        sweep=sweep,
    )
    write_whole(out, page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")
