"""`rooftile calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def calibrate(
    chip: flags.ChipOption,
    data: Annotated[list[Path], typer.Option("--data", metavar="CSV", help="A table measured on that chip; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", metavar="YAML", help="The chip file to write; it takes the rest from CHIP.")],
    points: Annotated[int, typer.Option("--points", metavar="N", help="Rows to fit to, at most 30.")] = 30,
) -> None:
    """Fit what a chip sustains and what its software costs to at most 30 measured ops, and tell the error on the rest."""
    from sim.evidence.calibrate import BAD_FIT, UNSTEADY, median_abs
    from sim.evidence.calibrate import calibrate as calibrate_chip
    from sim.present.evidence_tables import calibration_tables
    from sim.present.output import emit_tables, write_whole

    found = calibrate_chip(chip, data, points, lambda line: print(f"rooftile: {line}", file=sys.stderr))
    write_whole(out, found.to_yaml(out))
    if not found.is_steady:
        why = f"{UNSTEADY} while most rows were measured; the fit is to those too, and holds for no other rate"
        print(f"rooftile: warning: {why}", file=sys.stderr)
    residual = median_abs(found.used)
    if residual > BAD_FIT:
        why = "the machine was busy while it was measured, or other things bound it"
        print(f"rooftile: warning: the fit leaves a median error of {residual:.0%} on its own points: {why}", file=sys.stderr)
    emit_tables(calibration_tables(found), None)
