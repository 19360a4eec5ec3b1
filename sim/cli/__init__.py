"""The command `rooftile`: one lazily imported module per command, each with a Typer `app`.

A command parses, calls one API function and prints. Exit codes: 0; 1 if `verify` finds a difference; 2 for bad input.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from functional.errors import BadInput, Problem, RooftileError

COMMANDS = (
    *("predict", "gemm", "graph", "chips", "models", "sweep", "solve", "limits", "compare", "dashboard", "trace"),
    *("golden", "verify", "generate", "profile", "measure", "calibrate", "validate"),
)


class _LazyGroup(TyperGroup):
    """Imports a command's module when that command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command: Any = typer.main.get_command(import_module(f"sim.cli.{cmd_name}").app)
        command.name = cmd_name
        for each in getattr(command, "commands", {"": command}).values():
            _guard(each)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader of a pipe that has left (`| head`) is not an error."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            _close_stdout()
            sys.exit(0)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _close_stdout()
            raise BadInput(Problem("cannot write: no space is left where standard output goes", "free some, or write elsewhere")) from error


def _open_closed_streams() -> None:
    """Of a stream that was closed (`>&-`) Python has none: what is printed there is discarded, and no file takes its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _close_stdout() -> None:
    """Keep the interpreter from flushing at exit into what takes nothing any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _guard(command: Any) -> None:
    """Refuse what no command can mean before its work begins, which may take minutes."""
    run, make_parser = command.invoke, command.make_parser

    def invoke(ctx: Any) -> Any:
        _refuse_empty(command.params, ctx.params)
        _keep_inputs(ctx.params)
        _refuse_places(command.params, ctx.params)
        return run(ctx)

    def parser(ctx: Any) -> Any:
        made = make_parser(ctx)
        parse = made.parse_args

        def parse_args(args: list[str]) -> Any:
            found = parse(args)
            _refuse_second_chip(found[2])
            return found

        made.parse_args = parse_args
        return made

    command.invoke, command.make_parser = invoke, parser


def _refuse_second_chip(order: Sequence[Any]) -> None:
    """Raise `BadInput` for `--chip` given twice to a command that takes one, which would ignore the first."""
    if sum(each.name == "chip" and not each.multiple for each in order) > 1:
        raise BadInput(Problem("is given twice, and one is taken here", "`compare` and `dashboard` put chips side by side", path="--chip"))


def _refuse_places(parameters: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Raise `BadInput` for files that could not be written at the end. Folders are looked at by the command that fills them."""
    from sim.present.output import check_place

    files = [each for each in parameters if each.name in ("out", "chip_out") and each.metavar != "DIR"]
    places = {each.opts[0]: given[each.name] for each in files if given.get(each.name) is not None}
    for place in places.values():
        check_place(place)
    if len({place.resolve() for place in places.values()}) < len(places):
        raise BadInput(Problem("both are the same file", "name two", path=" and ".join(places)))


def _refuse_empty(parameters: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Raise `BadInput` for a text that says nothing, such as that of an unset shell variable: nobody means the default by it."""
    named = {each.name: each.opts[0] if each.param_type_name == "option" else each.metavar for each in parameters}
    problems = [Problem("is empty", "give a value, or leave it out", path=named[name]) for name, value in given.items() if value == ""]
    if problems:
        raise BadInput(problems)


def _keep_inputs(given: Mapping[str, Any]) -> None:
    """Raise `BadInput` if `--out` names a file that the command reads."""
    out = given.get("out")
    if out is None or not os.path.isfile(out):
        return
    for name, value in given.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if name != "out" and isinstance(each, (str, Path)) and os.path.isfile(each) and os.path.samefile(each, out):
                raise BadInput(Problem(f"{out} is what this command reads", "write to another file", path="--out"))


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rooftile {version('rooftile')}")
        raise typer.Exit


@app.callback()
def rooftile(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """How fast will this language model run on the chip that I am drawing, and what holds it back?"""


def main() -> None:
    """Entry point: mistakes of the user become one message on stderr and exit code 2."""
    _open_closed_streams()
    try:
        app(prog_name="rooftile")
    except RooftileError as error:
        print(f"rooftile: {error}", file=sys.stderr)
        sys.exit(2)
