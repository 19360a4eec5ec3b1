"""Pages as text: template, style, scripts and data in one file. What users named is escaped, whatever it holds."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

SCRIPTS = (
    "engine.js",
    "common.js",
    "roofline.js",
    "breakdown.js",
    "timeline.js",
    "curves.js",
    "sensitivity.js",
    "sweep.js",
    "graph.js",
    "whatif.js",
    "main.js",
)
"""In the order in which they stand in the page."""


def page(data: Mapping[str, Any], plotly: str) -> str:
    """The dashboard's page."""
    names = list(dict.fromkeys(case["model"] for case in data["cases"]))
    chips = [chip["name"] for chip in data["chips"]]
    return document("page.html", SCRIPTS, data, plotly, {"title": html.escape(f"{', '.join(names)} on {', '.join(chips)}")})


def document(template: str, scripts: Sequence[str], data: Mapping[str, Any], plotly: str, more: Mapping[str, str]) -> str:
    """One HTML document that asks nothing of any network: the head of all pages and a template of the folder `page`, with style, scripts,
    data and what `more` it has places for, as HTML."""
    text = "\n".join(_file(name) for name in scripts)
    parts = {
        "data": embedded(data),
        "plotly": plotly,
        "script": f'(() => {{\n"use strict";\n{text}\n}})();',
        "head": _filled("head.html", {"style": _file("style.css"), "title": more["title"]}),
        **more,
    }
    return _filled(template, parts)


def _file(name: str) -> str:
    return (files("sim.present.dashboard") / "page" / name).read_text(encoding="utf-8")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """A template with its places filled, in one pass: parts may hold braces."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file(template))


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that no HTML parser can take for a tag or a comment, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
