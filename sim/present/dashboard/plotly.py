"""Plotly.js for the page: the file of the Python package, which starts only the kinds of trace that the page draws.

The file wraps the library for all kinds of loaders, which has a browser read its 5 MB twice, and its last module starts every kind of
trace, maps and WebGL included. Both cost a page most of the time until its first figure. The file is a bundle of esbuild
(https://esbuild.github.io/api/#format): a module is `var NAME=helper((exports,module)=>{"use strict";...});`, and `NAME()` starts it. What
is not of that shape is left as it is: the page works all the same, later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from functional.errors import BadInput, Problem

_LIBRARY = "var Plotly="
_END = "window.Plotly = Plotly;"
_STARTED = re.compile(r"\.register\(\[((?:[\w$]+\(\),)+[\w$]+\(\))\]\)")
_MODULE = re.compile(r'var ([\w$]+)=[\w$]+\(\([\w$,]*\)=>\{"use strict";')
_LONGEST = 100_000
"""Characters of a module, as far back as its begin is looked for."""


def plotly_js(kinds: Sequence[str]) -> str:
    """The library as a script that sets `Plotly`, with `scatter` and these kinds of trace; its Python package is not imported.

    Raises `BadInput` if it is not installed.
    """
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(Problem("the page needs plotly", "pip install 'rooftile[plots]'"))
    whole = (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return in_page(with_kinds(unwrapped(whole), kinds))


def unwrapped(text: str) -> str:
    """The library alone, after its licence."""
    begin, end = text.find(_LIBRARY), text.rfind(_END)
    return f'{text[: text.find("*/") + 2]}\n"use strict";{text[begin:end]}' if 0 <= begin < end else text


def with_kinds(text: str, kinds: Sequence[str]) -> str:
    """The library without starting other kinds of trace."""
    started = _STARTED.search(text, text.rfind(".register(["))
    if started is None:
        return text
    modules = [_started_by(text, kind, started[1].split(",")) for kind in kinds]
    return text[: started.start(1)] + ",".join(modules) + text[started.end(1) :] if all(modules) else text


def _started_by(text: str, kind: str, started: Sequence[str]) -> str:
    """Which of the calls `started` starts a kind of trace; empty if unknown. A module of a trace is used in one place, as is its user."""
    at = text.find(f'moduleType:"trace",name:"{kind}"')
    while at >= 0:
        *_, module = ["", *_MODULE.findall(text, max(0, at - _LONGEST), at)]
        call = f"{module}()"
        if call in started:
            return call
        at = text.find(f"={call}") if module else -1
    return ""


def in_page(script: str) -> str:
    """A script that may stand in a page: no tag in it, and plain characters, which a browser keeps in half the memory."""
    plain = script.encode("ascii", "backslashreplace").decode("ascii")
    if plain.count("\\U") > script.count("\\U"):  # \xb5 and \u5341 mean the same in JavaScript, \U0001f600 means nothing
        plain = script
    return plain.replace("</script", "<\\/script")
