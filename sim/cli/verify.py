"""`rooftile verify`."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def verify(
    model: flags.Model,
    chip: flags.ChipOption,
    *,
    phase: flags.Phase = None,
    batch: flags.Batch = 1,
    prompt: flags.SomePrompt = 37,
    context: flags.Context = None,
    engine: Annotated[str, typer.Option("--engine", metavar="tiled|cycle", help="Whose mappings are executed.")] = "tiled",
    built: flags.Built,
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--dtype", metavar="FMT", help="Format of weights, between ops and of the KV cache, unless said. [default: the chip's]"
        ),
    ] = None,
    formats: flags.Formats,
    split: flags.Split = 1,
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Execute the mappings that an engine charges for, tile by tile, against the golden model; exit code 1 on any difference."""
    from sim.golden_step import GoldenModel
    from sim.present.output import emit, emit_tables
    from sim.present.verify_tables import verification_tables, verifications_json
    from sim.verification import verify as verify_step

    opened = GoldenModel.of(model)  # its weights are made or read once for both phases
    results = [
        verify_step(
            opened,
            chip,
            phase=each,
            batch=batch,
            prompt=prompt,
            context=context,
            **built.to_dict(),
            number_format=dtype,
            **formats.to_dict(),
            engine=engine,
            split=split,
        )
        for each in flags.phases_of(phase, context)
    ]
    if form == "json":
        emit(verifications_json(results), out)
    else:
        emit_tables([part for result in results for part in verification_tables(result)], out)
    if not all(result.passed for result in results):
        raise typer.Exit(1)
