"""`rooftile predict`."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated, Optional

import typer

from sim.cli import flags
from sim.engines import ENGINES

app = typer.Typer(rich_markup_mode=None)
EngineFlag = Enum("EngineFlag", {name: name for name in ENGINES}, type=str)


class FormatFlag(str, Enum):
    """How to print."""

    table = "table"
    json = "json"
    csv = "csv"


@app.command()
def predict(
    model: flags.Model,
    chip: flags.ChipOption,
    phase: Annotated[Optional[flags.PhaseFlag], typer.Option("--phase", help="One phase only. [default: both]")] = None,  # noqa: UP045
    batch: flags.Batch = 1,
    prompt: flags.Prompt = 512,
    context: flags.Context = None,
    engine: Annotated[EngineFlag, typer.Option("--engine", help="Fidelity of the prediction.")] = EngineFlag("roofline"),  # type: ignore[valid-type]  # noqa: B008
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = flags.LogitsFlag.last,
    no_fuse: Annotated[bool, typer.Option("--no-fuse", help="Run every op by itself, through memory.")] = False,
    form: Annotated[FormatFlag, typer.Option("--format", help="How to print.")] = FormatFlag.table,
    out: flags.Out = None,
) -> None:
    """Predict how long prefill and decode take on a chip: per op, per layer and for lm_head, and what bounds each."""
    from sim.api import predict as predict_step
    from sim.present import text
    from sim.present.output import emit, emit_tables

    phases = [phase.value] if phase else ["prefill", "decode"]
    timelines = [
        predict_step(
            model,
            chip,
            phase=each,
            batch=batch,
            prompt=prompt,
            context=context,
            engine=engine.value,
            weights=weights,
            activations=activations,
            kv=kv,
            logits=logits.value,
            fused=not no_fuse,
        )
        for each in phases
    ]
    for timeline in timelines:
        if not timeline.memory.fits:
            print(f"rooftile: warning: {text.does_not_fit(timeline)}", file=sys.stderr)
    if form is FormatFlag.json:
        emit(text.predictions_json(timelines), out)
    elif form is FormatFlag.csv:
        emit(text.predictions_csv(timelines), out)
    else:
        from sim.present.tables import prediction_tables

        emit_tables([part for timeline in timelines for part in prediction_tables(timeline)], out)
