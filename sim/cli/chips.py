"""`rooftile chips`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="The chips of the library; show and check chip files.",
)


@app.command("list")
def list_chips() -> None:
    """List the chips of the library with their peaks."""
    from hwmodels import chip_names, load_chip
    from sim.present.output import emit_tables
    from sim.present.tables import chips_table

    emit_tables([chips_table([load_chip(name) for name in chip_names()])], None)


@app.command()
def show(chip: Annotated[str, typer.Argument(metavar="CHIP", help="A library chip, or a YAML file.")]) -> None:
    """Print every number of a chip with where it comes from."""
    from hwmodels import load_chip
    from sim.present.output import emit_tables
    from sim.present.tables import chip_tables

    emit_tables(chip_tables(load_chip(chip)), None)


@app.command()
def check(path: Annotated[str, typer.Argument(metavar="PATH", help="A chip's YAML file.")]) -> None:
    """Say all that is wrong with a chip file at once; exit code 2 if it cannot be used."""
    from hwmodels import Advice, check_chip

    problems = check_chip(path)
    errors = [problem for problem in problems if not isinstance(problem, Advice)]
    for problem in problems:
        print(f"{'warning: ' if isinstance(problem, Advice) else ''}{problem}")
    count = f"{len(errors)} {'error' if len(errors) == 1 else 'errors'}"
    print(f"{path}: " + (count if errors else "can be used"))
    if errors:
        raise typer.Exit(2)
