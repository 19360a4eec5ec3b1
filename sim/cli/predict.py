"""`rooftile predict`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from functional.errors import BadInput, Problem
from sim.cli import flags
from sim.engines import DEFAULT_ENGINE, ENGINES
from workloads.scenario import PHASES

if TYPE_CHECKING:
    from sim.explore.sensitivity import Sensitivity

app = typer.Typer(rich_markup_mode=None)


@app.command()
def predict(
    model: flags.Model,
    chip: flags.ChipOption,
    phase: flags.Phase = None,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = 512,
    context: flags.Context = None,
    engine: Annotated[str, typer.Option("--engine", metavar="|".join(ENGINES), help="Fidelity of the prediction.")] = DEFAULT_ENGINE,
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = "last",
    no_fuse: Annotated[bool, typer.Option("--no-fuse", help="Run every op by itself, through memory.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Add how latency answers to each number of the chip: what to buy, what is over-built.")
    ] = False,
    form: Annotated[Literal["table", "json", "csv", "md"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Predict how long prefill and decode take on a chip: per op, per layer and for lm_head, and what bounds each."""
    from hwmodels import load_chip
    from sim.explore.step import Step
    from sim.present import text
    from sim.present.output import emit, emit_tables

    if sensitivity and form == "csv":
        raise BadInput(Problem("a CSV file has one row per op", "use --format table, md or json", path="--sensitivity"))
    built = load_chip(chip)
    phases = [phase] if phase else PHASES
    steps = [Step(model, each, batch, prompt, context, weights, activations, kv, logits, not no_fuse, engine) for each in phases]
    timelines = [step.timeline(built) for step in steps]
    for timeline in timelines:
        if not timeline.memory.fits:
            print(f"rooftile: warning: {text.does_not_fit(timeline)}", file=sys.stderr)
    responses: list[tuple[Sensitivity, ...]] = []
    if sensitivity:
        from sim.explore.sensitivity import sensitivity_of

        responses = [sensitivity_of(step, built) for step in steps]
    if form == "json":
        emit(text.predictions_json(timelines, [{"sensitivity": [row.to_dict() for row in rows]} for rows in responses]), out)
    elif form == "csv":
        emit(text.predictions_csv(timelines), out)
    else:
        from sim.present.tables import prediction_tables

        parts = [prediction_tables(timeline) for timeline in timelines]
        if sensitivity:
            from sim.present.explore_tables import sensitivity_tables

            parts = [[*part, *sensitivity_tables(rows)] for part, rows in zip(parts, responses, strict=True)]
        emit_tables([each for part in parts for each in part], out, form)
