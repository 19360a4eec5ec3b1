"""`rooftile dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def dashboard(
    models: Annotated[list[str], typer.Argument(metavar="MODEL ...", help="Library models, or config.json or params.json files.")],
    chips: Annotated[list[str], typer.Option("--chip", metavar="CHIP", help="A library chip, or a YAML file; repeat it to compare.")],
    out: Annotated[Path, typer.Option("--out", metavar="PAGE.html", help="The page to write.")],
    *,
    scenario: flags.Scenario,
    execution: flags.Execution,
    sweep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--sweep", metavar="RESULTS.parquet", help="Add the explorer of what `rooftile sweep` wrote."),
    ] = None,
) -> None:
    """Write one HTML page of linked views, which works offline: roofline, breakdown, timeline, curves, sensitivity, what if, op graph."""
    from sim.present.dashboard import dashboard as page_of
    from sim.present.output import write_whole

    scenario.phases()
    page = page_of(models, chips, **scenario.to_dict(), **execution.to_dict(), sweep=sweep)
    write_whole(out, page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")
