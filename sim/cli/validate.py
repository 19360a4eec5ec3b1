"""`rooftile validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def validate(
    more: Annotated[Optional[list[Path]], typer.Argument(metavar="CSV", help="More tables, so that a pattern of the shell works.")] = None,  # noqa: UP045
    data: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--data", metavar="CSV", help="A tidy table of measurements; may be repeated. [default: published ones]"),
    ] = None,
    engine: Annotated[list[str], typer.Option("--engine", metavar="E", help="roofline, tiled or cycle; may be repeated.")] = ["tiled"],  # noqa: B006
    chip: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--chip", metavar="CHIP", help="A chip besides the library's: its name or aliases are in the tables."),
    ] = None,
    form: Annotated[Literal["table", "json", "html"], typer.Option("--format", help="html goes to --out or into a pipe.")] = "table",
    out: flags.Out = None,
) -> None:
    """Predict every row of tables of measurements and tell the error per hardware, op, regime and engine."""
    from functional.errors import BadInput, Problem
    from sim.evidence.validate import validate as validate_tables
    from sim.present import evidence_tables
    from sim.present.output import emit, emit_tables

    if form == "html" and out is None and sys.stdout.isatty():
        raise BadInput(Problem("a page is nothing for a terminal", "name a file: --out page.html", path="--format"))
    tables = [*(data or []), *(more or [])]
    validation = validate_tables(tables, engines=engine, chips=chip or [])
    if form == "table":
        emit_tables(evidence_tables.validation_tables(validation) if tables else evidence_tables.published_tables(validation), out)
    elif form == "json":
        emit(evidence_tables.validation_json(validation), out)
    else:
        from sim.present.evidence_html import validation_html

        emit(validation_html(validation, is_published=not tables), out)
    if form != "table" or out is not None:
        for line in evidence_tables.left_lines(validation):
            print(f"rooftile: not predicted: {line}", file=sys.stderr)
