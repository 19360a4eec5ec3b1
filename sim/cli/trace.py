"""`rooftile trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def trace(
    model: flags.Model,
    chip: flags.ChipOption,
    out: Annotated[Path, typer.Option("--out", metavar="TRACE.json", help="The trace to write.")],
    scenario: flags.Scenario,
    execution: flags.Execution,
) -> None:
    """Write the prediction as a trace for ui.perfetto.dev and chrome://tracing: ops, resources, cores, bandwidth, occupancy."""
    from hwmodels import load_chip
    from sim.present.output import write_whole
    from sim.present.perfetto import perfetto

    write_whole(out, perfetto(flags.steps_of(model, scenario, execution), load_chip(chip)))
    print(f"{out}: open it in https://ui.perfetto.dev or chrome://tracing")
