"""`rooftile compare`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def compare(
    chip_a: Annotated[str, typer.Argument(metavar="CHIP_A", help="A library chip, or a YAML file.")],
    chip_b: Annotated[str, typer.Argument(metavar="CHIP_B", help="The chip to compare it with.")],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="A library model, or a config.json or params.json.")],
    *,
    scenario: flags.Scenario,
    no_fuse: flags.NoFuse = False,
    form: Annotated[Literal["table", "json", "md", "csv"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Put two chips side by side, per phase and component, with the reason of each difference."""
    from hwmodels import load_chip
    from sim.explore.compare import compare as compare_chips
    from sim.present import text
    from sim.present.explore_tables import comparison_tables
    from sim.present.output import emit, emit_tables

    scenario.phases()
    chips = load_chip(chip_a), load_chip(chip_b)
    comparisons = compare_chips(model, *chips, **scenario.to_dict(), fused=not no_fuse)
    for comparison in comparisons:
        for timeline, chip in zip((comparison.a, comparison.b), chips, strict=True):
            for warning in text.step_warnings(timeline, chip.tdp_w):
                print(f"rooftile: warning: {warning}", file=sys.stderr)
    if form == "json":
        emit(json.dumps([comparison.to_dict() for comparison in comparisons], indent=1), out)
    elif form == "csv":
        from sim.present.markdown import rows_csv

        found = (comparison.to_dict() for comparison in comparisons)
        rows = ({"phase": each["phase"], **row} for each in found for row in (*each["components"], each["total"]))
        emit(rows_csv(rows), out)
    else:
        emit_tables([part for comparison in comparisons for part in comparison_tables(comparison)], out, form)
