"""`rooftile limits`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Optional

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def limits(
    model: flags.Model,
    chip: flags.ChipOption,
    *,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Sequences at a time, for the longest context.")] = 1,
    context: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--context", metavar="N", help=f"Tokens in the KV cache, for the largest batch. {flags.DEFAULT_PROMPT}"),
    ] = None,
    formats: flags.Formats,
    form: Annotated[Literal["table", "json", "md", "csv"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Find the largest batch and the longest context that fit, per format, and the batch at which decode turns compute-bound."""
    from sim.explore.limits import limits as limits_of
    from sim.present.explore_tables import limits_tables
    from sim.present.output import emit, emit_tables

    found = limits_of(model, chip, batch=batch, context=context, **formats.to_dict())
    if form == "json":
        emit(json.dumps(found.to_dict(), indent=1), out)
    elif form == "csv":
        from sim.present.markdown import rows_csv

        emit(rows_csv(found.to_dict()["rows"]), out)
    else:
        emit_tables(limits_tables(found), out, form)
