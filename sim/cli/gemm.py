"""`rooftile gemm`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Optional

import typer

from functional.errors import BadInput, Problem
from sim.array import Mode
from sim.cli.flags import refuse

Dataflow = Literal["os", "ws", "is"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def gemm(
    m: Annotated[int, typer.Option("--m", help="Rows of A and C.")],
    n: Annotated[int, typer.Option("--n", help="Columns of W and C.")],
    k: Annotated[int, typer.Option("--k", help="Columns of A, rows of W.")],
    chip: Annotated[Optional[str], typer.Option("--chip", metavar="CHIP", help="Map it on a chip.")] = None,  # noqa: UP045
    dtype: Annotated[Optional[str], typer.Option("--dtype", metavar="FMT", help="Number format on the chip. [default: the chip's]")] = None,  # noqa: UP045
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--weights", metavar="FMT", help="Format of W, with its scales: int4:g128. [default: that of A, without scales]"),
    ] = None,
    rows: Annotated[Optional[int], typer.Option("--rows", metavar="R", help="Or take a systolic array alone: its rows,")] = None,  # noqa: UP045
    cols: Annotated[Optional[int], typer.Option("--cols", metavar="C", help="its columns,")] = None,  # noqa: UP045
    dataflow: Annotated[Optional[Dataflow], typer.Option("--dataflow", help="its dataflow, [default: ws]")] = None,  # noqa: UP045
    mode: Annotated[Optional[Mode], typer.Option("--mode", help="and whose cycles to count. [default: physical]")] = None,  # noqa: UP045
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Map one GEMM C[m, n] = A[m, k] W[k, n] on a chip, or run it on a systolic array alone."""
    of_array = {"--rows": rows, "--cols": cols, "--dataflow": dataflow, "--mode": mode}
    if chip is None:
        refuse({"--dtype": dtype, "--weights": weights}, "an array alone, without --chip, has no number formats")
    else:
        refuse({flag: value is not None for flag, value in of_array.items()}, f"{chip} has its own array")
    if chip is not None:
        from hwmodels import load_chip
        from sim.gemm import gemm_on_chip

        mapped = gemm_on_chip(m, n, k, load_chip(chip), dtype, weights)
        result, title = mapped.to_dict(), f"{m} x {n} x {k} on {mapped.chip}"
    elif rows is None or cols is None:
        raise BadInput(Problem("nothing to run on", "give --chip CHIP, or --rows R and --cols C"))
    else:
        from sim.array import run_array

        run = run_array(m, n, k, rows, cols, dataflow or "ws", mode or "physical")
        result, title = run.to_dict(), f"{m} x {n} x {k} on a {rows} x {cols} array, {dataflow or 'ws'}, {run.mode}"
    if form == "json":
        print(json.dumps(result, indent=1))
    else:
        from sim.present.output import emit_tables
        from sim.present.tables import facts_table

        emit_tables([facts_table(title, result)], None)
