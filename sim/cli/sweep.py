"""`rooftile sweep`: run one, or show what it found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer
from typer.core import TyperGroup

from sim.cli import flags

if TYPE_CHECKING:
    from sim.explore.sweep import Outcome


class _RunUnlessSaid(TyperGroup):
    """`rooftile sweep FILE` runs a sweep; `rooftile sweep show RESULT` shows one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunUnlessSaid,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Evaluate a grid of chips and workloads: `rooftile sweep SWEEP.yaml --out RESULTS.parquet`; then show what was found.",
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Base chip, axes, workloads, constraints, objectives.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="The Parquet file to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted sweep; begin afresh if there is none.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result or an interrupted sweep.")] = False,
    max_points: Annotated[int, typer.Option("--max-points", metavar="N", help="Refuse a larger grid before any work.")] = 10**8,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workers", metavar="N", min=1, help="Local processes. [default: this one]"),
    ] = None,
    scheduler: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--scheduler", metavar="tcp://...", help="A dask scheduler, whose workers see the folder of --out."),
    ] = None,
) -> None:
    """Evaluate every point of a sweep file into a Parquet file."""
    from functional.errors import BadInput, Problem
    from sim.explore.sweep import sweep

    if workers and scheduler:
        raise BadInput(
            Problem("--workers starts processes here, --scheduler uses those that are there", "say one of them", path="--scheduler")
        )
    with _progress() as tell:
        try:
            found = sweep(
                file,
                out,
                resume=resume,
                overwrite=overwrite,
                max_points=max_points,
                workers=workers or 0,
                scheduler=scheduler,
                progress=tell,
            )
        except KeyboardInterrupt:
            print(f"rooftile: interrupted; `rooftile sweep {file} --out {out} --resume` goes on", file=sys.stderr)
            raise typer.Exit(130) from None
    for note in found.notes:
        print(f"rooftile: warning: {note}", file=sys.stderr)
    print(f"{found.path}: {_done(found)}")
    _refuse_nothing_but_invalid(found.path)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What is told of points done shows as a bar with its rate, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate, points = TextColumn("{task.fields[rate]}"), TextColumn("points")
    columns = (BarColumn(), MofNCompleteColumn(), points, rate, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate="")
        begun: list[int] = []

        def tell(done: int, of: int) -> None:
            begun.append(done)
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(task, completed=done, total=of, rate=f"{(done - begun[0]) / elapsed:,.0f}/s" if elapsed else "")

        yield tell


def _done(found: Outcome) -> str:
    """How many points there are, and what of them was there before."""
    if found.was_complete:
        return f"complete already, {found.points:,} points"
    before = found.chunks - found.evaluated
    return f"{found.points:,} points" + (f" ({before} of {found.chunks} chunks taken up from before)" if before else "")


def _refuse_nothing_but_invalid(path: Path) -> None:
    """A sweep without any point that can be timed is bad input; its file says why, point by point."""
    from functional.errors import BadInput, Problem
    from sim.explore.sweep import why_nothing

    reason = why_nothing(path)
    if reason:
        cure = f"`rooftile sweep show {path}` counts the reasons of all"
        raise BadInput(Problem(f"not one point is valid; the first: {reason}", cure, str(path)))


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="RESULTS.parquet", help="What `rooftile sweep` wrote.")],
    objectives: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--objectives", metavar="A,B[,C]", help="Two or three columns to trade off. [default: those of the sweep file]"),
    ] = None,
    best: Annotated[int, typer.Option("--best", metavar="N", min=1, help="Rows to show.")] = 10,
    form: Annotated[
        Literal["table", "json", "md", "csv"], typer.Option("--format", help="How to print; JSON and CSV hold the whole front.")
    ] = "table",
    out: flags.Out = None,
) -> None:
    """Print the best rows of each workload and its Pareto front."""
    from sim.explore.sweep_show import show as findings
    from sim.present.explore_tables import findings_tables
    from sim.present.output import emit, emit_tables

    names = [name.strip() for name in objectives.split(",") if name.strip()] if objectives else []
    found = findings(file, names, best)
    if form == "json":
        emit(json.dumps(found.to_dict(), indent=1), out)
    elif form == "csv":
        from sim.present.markdown import rows_csv

        emit(rows_csv(found.rows()), out)
    else:
        emit_tables(findings_tables(found, best), out, form)
