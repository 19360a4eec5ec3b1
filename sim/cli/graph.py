"""`rooftile graph`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sim.cli import flags
from workloads.scenario import Phase

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def graph(
    model: flags.Model,
    *,
    phase: Annotated[Phase, typer.Option("--phase", help="The step to trace.")] = "prefill",
    batch: flags.Batch = 1,
    prompt: flags.Prompt = None,
    context: flags.Context = None,
    formats: flags.Formats,
    logits: flags.Logits = "last",
    split: flags.Split = 1,
    form: Annotated[Literal["table", "json", "md", "mermaid", "dot"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Print the op graph that is traced from the golden model (bf16 unless said): every op with its shapes and work."""
    from sim.api import trace_model
    from sim.present.output import emit, emit_tables

    flags.phases_of(phase, context, logits)
    traced = trace_model(
        model,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        **formats.to_dict(),
        logits=logits,
        split=split,
    )
    if form in ("table", "md"):
        from sim.present.tables import graph_table

        emit_tables([graph_table(traced)], out, form)
    else:
        emit({"json": traced.to_json, "mermaid": traced.to_mermaid, "dot": traced.to_dot}[form](), out)
