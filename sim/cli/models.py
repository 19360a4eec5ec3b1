"""`rooftile models`."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli import flags

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="The models of the library, and the layer table of any model.",
)


@app.command("list")
def list_models() -> None:
    """List the models of the library."""
    from sim.present.output import emit_tables
    from sim.present.tables import models_table
    from workloads.library import load_model, model_names

    emit_tables([models_table([load_model(name) for name in model_names()])], None)


@app.command()
def show(
    model: flags.Model,
    batch: flags.Batch = 1,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Tokens of the forward pass.")] = 1,
) -> None:
    """Print input shape, output shape, parameters and MACs of every module of a model, and the totals."""
    from sim.present.output import emit_tables
    from sim.present.tables import summary_tables
    from workloads.library import load_model
    from workloads.scenario import Formats, Scenario
    from workloads.summary import summarise

    config = load_model(model)
    Scenario.prefill(Formats.of("bf16"), batch, tokens).check(config)
    emit_tables(summary_tables(summarise(config, batch, tokens)), None)
