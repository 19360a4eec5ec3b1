"""Where text goes: the terminal, or a file that is written whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from functional.errors import BadInput, Problem

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_COLUMNS = 240
"""Width of tables where no terminal gives one."""


def emit(text: str, out: Path | None) -> None:
    """Print text, or write it to `out`; raises `BadInput` if that cannot be written."""
    if out is None:
        print(text)
    else:
        write_whole(out, text if text.endswith("\n") else text + "\n")


def emit_tables(parts: list[RenderableType], out: Path | None, form: str = "table") -> None:
    """Print rich tables and lines, or write them to `out`, as plain text or (`md`) as Markdown."""
    from rich.console import Console

    if form == "md":
        from sim.present.markdown import markdown

        emit(markdown(parts), out)
        return
    if out is None:
        console = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
        # Of rich it ends the program with exit code 1; here the command line decides what a closed pipe means.
        console.on_broken_pipe = _broken_pipe  # type: ignore[method-assign]
        for part in parts:
            console.print(part, highlight=False, markup=False)
        return
    console = Console(width=PIPE_COLUMNS, force_terminal=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part, highlight=False, markup=False)
    write_whole(out, capture.get())


def _broken_pipe() -> None:
    raise BrokenPipeError


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old or the new content, never a part. A link stays one; what is no plain file, such as
    a pipe or a device, is written to as it is. Raises `BadInput` if it cannot be written."""
    check_place(path)
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:  # Ctrl-C too
                os.unlink(file.name)
                raise
    except OSError as error:
        raise BadInput(_unwritable(path, error.errno or errno.EIO)) from error


def check_place(path: Path) -> None:
    """Raise `BadInput` for a place where `write_whole` is bound to fail: a folder, or a file in a folder that is not there."""
    path = path.resolve()
    if path.is_dir():
        raise BadInput(Problem("cannot write: it is a directory", "name a file", str(path)))
    if not path.parent.is_dir():
        raise BadInput(_unwritable(path, errno.ENOTDIR if path.parent.exists() else errno.ENOENT))


def _unwritable(path: Path, number: int) -> Problem:
    return Problem(f"cannot write: {os.strerror(number)}", "choose a file in a folder that exists and is writable", str(path))
