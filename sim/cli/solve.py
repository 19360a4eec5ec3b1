"""`rooftile solve`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Optional

import typer

from sim.cli import flags
from sim.engines import DEFAULT_ENGINE

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def solve(
    model: flags.Model,
    chip: flags.ChipOption,
    *,
    target: Annotated[
        str, typer.Option("--target", help="What to reach: '30 tok/s', '33 ms' (with --phase), 'TTFT 200 ms', 'TPOT 40 ms'.")
    ],
    vary: Annotated[list[str], typer.Option("--vary", metavar="PATH", help="A number of the chip; may be given several times.")],
    cost: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--cost", help="'area', 'energy', or weights: 'memory.dram.bandwidth=1,matrix.rows=2 per 8'; without `per`, of its own value."
        ),
    ] = None,
    phase: Annotated[
        Optional[Literal["prefill", "decode"]],  # noqa: UP045
        typer.Option("--phase", help="The step to time. [default: what the target means]"),
    ] = None,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = None,
    context: flags.Context = None,
    engine: flags.Engine = DEFAULT_ENGINE,
    formats: flags.Formats,
    no_fuse: flags.NoFuse = False,
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Find the smallest value of a number of the chip that meets a target, or the cheapest combination of several."""
    from sim.explore.solve import solve as solve_for
    from sim.present.explore_tables import solution_text
    from sim.present.output import emit

    solution = solve_for(
        model,
        chip,
        target,
        vary,
        cost=cost,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        engine=engine,
        **formats.to_dict(),
        fused=not no_fuse,
    )
    emit(json.dumps(solution.to_dict(), indent=1) if form == "json" else solution_text(solution), out)
