"""Optional parts: told in one line when they are missing, before anything is done."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from functional.errors import BadInput, Problem


def needed(module: str, what: str, extra: str, path: str = "") -> Any:
    """A module of an extra; raises `BadInput` with the command that installs it."""
    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise BadInput(Problem(f"{what} need {name}", f"pip install 'rooftile[{extra}]'", path=path)) from None
