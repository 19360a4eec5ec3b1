"""`rooftile profile`."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

import typer

from sim.cli import flags
from sim.engines import DEFAULT_ENGINE, ENGINES

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def profile(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_DIR", help="A checkpoint's folder, or a model, which gets random weights.")],
    batch: flags.Batch = 32,
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", help="Tokens of the prompt; they are random.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Decode steps to measure.")] = 32,
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--weights", metavar="FMT", help="Format to compute in: fp32, bf16 or fp16. [default: the checkpoint's, or fp32]"),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 is greedy.")] = 1.0,
    top_k: flags.TopK = None,
    top_p: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--top-p", metavar="P", help="Draw from the most likely tokens that make up P. [default: 0.9]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of prompt and draws.")] = 0,
    chip: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--chip", metavar="CHIP", help="Predict the same steps on this chip, beside."),
    ] = None,
    engine: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--engine", metavar="|".join(ENGINES), help=f"Fidelity of the prediction. [default: {DEFAULT_ENGINE}]"),
    ] = None,
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Measure where the time of a generation goes on this machine, and what a chip would take for it."""
    import json

    from functional.errors import BadInput, Problem
    from functional.sampling import Sampling
    from sim.present.output import emit, emit_tables
    from sim.profiling import TOP_P
    from sim.profiling import profile as measure

    if engine is not None and chip is None:
        raise BadInput(Problem("nothing is predicted without a chip", "give --chip CHIP", path="--engine"))
    flags.Drawing(temperature, top_k, top_p).sampling()  # refuses filters of a greedy choice
    found = measure(
        model,
        batch=batch,
        prompt=prompt,
        tokens=tokens,
        weights=weights,
        sampling=Sampling(temperature, top_k, TOP_P.top_p if top_p is None else top_p, seed),
        chip=chip,
        engine=engine or DEFAULT_ENGINE,
    )
    if form == "json":
        emit(json.dumps(found.to_dict(), indent=1), out)
    else:
        from sim.present.generation_tables import profile_tables

        emit_tables(profile_tables(found), out)
