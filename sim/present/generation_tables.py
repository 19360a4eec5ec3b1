"""A predicted generation as tables, JSON and CSV, and a measured one as a table."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hwmodels.units import format_seconds
from sim.explore.generation import Generation
from sim.present.output import emit, emit_tables
from sim.present.tables import components_table, formats_text, last_lines, new_table, pieces_text, share_list, significant
from sim.present.text import memory_warning

if TYPE_CHECKING:
    from sim.profiling import Profiled

CURVE = 6
"""Rows of the curve of latencies, the first and the last token among them."""


def emit_generation(found: Generation, form: Literal["table", "json", "csv", "md"], out: Path | None) -> None:
    """Print a generation, or write it; warn on stderr if its longest context does not fit."""
    if not found.memory.fits:
        what = f"{found.model.name} with {found.prompt + found.tokens - 1} tokens of context"
        print(f"rooftile: warning: {memory_warning(what, found.chip, found.memory)}", file=sys.stderr)
    if form == "json":
        emit(json.dumps([found.to_dict()], indent=1), out)
    elif form == "csv":
        emit(generation_csv(found), out)
    else:
        emit_tables(generation_tables(found), out, form)


def generation_csv(found: Generation) -> str:
    """One row per token: how many are in the cache before its step, its latency, and the time since the start."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["token", "context", "latency_s", "end_s"])
    ends = np.cumsum(found.token_latency_s)
    for i, (latency_s, end_s) in enumerate(zip(found.token_latency_s.tolist(), ends.tolist(), strict=True)):
        writer.writerow([i + 1, found.prompt + i - 1 if i else 0, latency_s, end_s])
    return buffer.getvalue()


def generation_tables(found: Generation) -> list[RenderableType]:
    """Headline, chunks, the curve of latencies, components and memory."""
    parts: list[RenderableType] = [Text(_headline(found))]
    if len(found.passes) > 1:
        parts.append(_chunks(found))
    if found.tokens > 1:
        parts.append(_curve(found))
    return [*parts, components_table(found), Text(last_lines(found))]


def _headline(found: Generation) -> str:
    tokens = "1 token" if found.tokens == 1 else f"{found.tokens} tokens"
    how = f"{formats_text(found.formats)}{pieces_text(found.split)}, {found.engine} engine"
    what = f"{tokens} after a prompt of {found.prompt}, batch {found.batch}, {how}"
    floor = f"{found.total_s / found.floor_s:.2f} x the floor of {format_seconds(found.floor_s)}"
    rate = f"{significant(found.tokens_per_s)} tokens/s"
    lines = [
        f"{found.model.name} on {found.chip}: {what}",
        f"TTFT {format_seconds(found.ttft_s)}   total {format_seconds(found.total_s)}   {rate}   {floor}",
    ]
    rest = found.token_latency_s[1:]
    if len(rest):
        first, middle, last = (format_seconds(float(each)) for each in (rest[0], np.median(rest), rest[-1]))
        lines.append(f"TPOT first {first}, median {middle}, last {last}")
    if found.speculation is not None:
        each = found.to_dict()["generate"]["speculation"]
        lines.append(
            f"speculation: {each['draft']} proposes {each['draft_tokens']} tokens, taken with probability {each['acceptance']:g}: "
            f"{each['tokens_per_round']:.3g} tokens per round, {found.speedup:.2f} x the speed of plain decode"
        )
        whole = float(found.plain_latency_s.sum()) / found.total_s
        reads = format_seconds(found.draft_ttft_s)
        lines.append(f"TTFT with {reads} in which the draft reads the prompt; {whole:.2f} x the speed in total")
    return "\n".join([*lines, f"bound by: {share_list(found.bound_shares)}", ""])


def _chunks(found: Generation) -> Table:
    table = new_table("", "chunk", "tokens", "context", "latency")
    for i, each in enumerate(found.passes, 1):
        table.add_row(str(i), str(each.q_len), str(each.kv_len - each.q_len), format_seconds(each.latency_s))
    return table


def _curve(found: Generation) -> Table:
    table = new_table("", "token", "context", "latency", "since the start")
    ends = np.cumsum(found.token_latency_s)
    for i in sorted({0, 1, *np.linspace(1, found.tokens - 1, CURVE - 1).round().astype(int).tolist()}):
        context = str(found.prompt + i - 1) if i else "0"
        table.add_row(f"{i + 1:,}", context, format_seconds(float(found.token_latency_s[i])), format_seconds(float(ends[i])))
    return table


def profile_tables(found: Profiled) -> list[RenderableType]:
    """What was measured, line by line, and what a chip would take for it."""
    how = f"batch {found.batch}, {found.number_format}, {found.threads} threads of this machine"
    head = f"{found.model}: {found.steps} decode steps after a prompt of {found.prompt}, {how}; prefill {format_seconds(found.prefill_s)}\n"
    beside = [f"{found.chip}, {found.engine}", "share"] if found.chip else []
    table = new_table("", "part", "calls", "total", "average", "share", *beside)
    whole_s = found.rows[0].predicted_s
    for row in found.rows:
        cells = [str(row.calls), format_seconds(row.total_s), format_seconds(row.total_s / row.calls), f"{row.share:.1%}"]
        if whole_s is not None:
            predicted = row.predicted_s
            cells += ["", ""] if predicted is None else [format_seconds(predicted / row.calls), f"{predicted / whole_s:.1%}"]
        table.add_row("  " * row.depth + row.name, *cells)
    return [Text(head), table]
