"""`rooftile graph`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from sim.cli import flags

app = typer.Typer(rich_markup_mode=None)


class FormatFlag(str, Enum):
    """How to print."""

    table = "table"
    json = "json"
    mermaid = "mermaid"
    dot = "dot"


@app.command()
def graph(
    model: flags.Model,
    phase: Annotated[flags.PhaseFlag, typer.Option("--phase", help="The step to trace.")] = flags.PhaseFlag.prefill,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = 512,
    context: flags.Context = None,
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = flags.LogitsFlag.last,
    form: Annotated[FormatFlag, typer.Option("--format", help="How to print.")] = FormatFlag.table,
    out: flags.Out = None,
) -> None:
    """Print the op graph that is traced from the golden model (bf16 unless said): every op with its shapes and work."""
    from sim.api import trace_model
    from sim.present.output import emit, emit_tables

    traced = trace_model(
        model,
        phase=phase.value,
        batch=batch,
        prompt=prompt,
        context=context,
        weights=weights,
        activations=activations,
        kv=kv,
        logits=logits.value,
    )
    if form is FormatFlag.table:
        from sim.present.tables import graph_table

        emit_tables([graph_table(traced)], out)
    else:
        emit({"json": traced.to_json, "mermaid": traced.to_mermaid, "dot": traced.to_dot}[form.value](), out)
