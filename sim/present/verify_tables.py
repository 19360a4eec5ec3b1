"""Verifications as tables for a terminal and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from sim.present.tables import formats_text, new_table, pieces_text
from sim.verification import Verification
from sim.verification.check import OpCheck

_LAYER = re.compile(r"^layers\.\d+\.")


def verifications_json(results: Sequence[Verification]) -> str:
    """A list, one object per phase."""
    return json.dumps([result.to_dict() for result in results], indent=1)


def verification_tables(result: Verification) -> list[RenderableType]:
    """Headline, one row per op or for the alike ops of all layers, the logits, and what differs."""
    table = new_table("", "op", "x", "executed", "max error", "bound", "MACs issued", "DRAM read", "DRAM written", "verdict")
    for name, checks in _folded(result.ops):
        check, bad = _worst(checks), sum(not each.passed for each in checks)
        if check.tally is None:
            counts = ["", "", ""]
        else:
            counts = [f"{each:,}" for each in (check.tally.issued_macs, check.tally.dram_read_bytes, check.tally.dram_written_bytes)]
        bound = f"{check.bound:.3g}" if check.bound else "exact"
        verdict = f"{bad} DIFFER" if bad else "ok"
        table.add_row(name, str(len(checks)), check.executed, f"{check.error:.3g}", bound, *counts, verdict)
    return [Text(_headline(result)), table, Text(_conclusion(result))]


def _folded(checks: Sequence[OpCheck]) -> list[tuple[str, list[OpCheck]]]:
    rows: dict[str, list[OpCheck]] = {}
    for check in checks:
        rows.setdefault(_LAYER.sub("layers.*.", check.name), []).append(check)
    return list(rows.items())


def _worst(checks: Sequence[OpCheck]) -> OpCheck:
    """The first that differs, with the largest error of all."""
    shown = next((check for check in checks if not check.passed), checks[0])
    largest = max(checks, key=lambda check: check.share)
    return replace(shown, error=largest.error, bound=largest.bound)


def _headline(result: Verification) -> str:
    scenario = result.scenario
    what = f"prefill of {scenario.q_len} tokens" if scenario.phase == "prefill" else f"decode of one token after {scenario.context}"
    layers = f"{result.layers} layer" + ("s" if result.layers > 1 else "")
    formats = formats_text(scenario.formats)
    parts = [what, f"batch {scenario.batch}", formats, f"{layers}{pieces_text(result.split)}"]
    parts += [f"as {result.engine} maps it", result.source.said(result.seed)]
    return f"{result.model} on {result.chip}: {', '.join(parts)}\n"


def _conclusion(result: Verification) -> str:
    lines = []
    if result.logits is not None:
        logits = result.logits
        judged = ("equal, as they must be" if logits.passed else "DIFFER") if logits.judged else "reported, not judged"
        lines.append(
            f"logits end to end: max error {logits.max_error:.3g}, RMS {logits.rms_error:.3g}, "
            f"top-1 agreement {logits.top1_agreement:.1%} ({judged})"
        )
    error = result.error
    if error is not None:
        lines.append(
            f"these formats against fp32: logits max error {error.max_error:.3g}, RMS {error.rms_error:.3g} of {error.fp32_rms:.3g}, "
            f"top-1 agreement {error.top1_agreement:.1%} of {error.tokens} tokens"
        )
    groups = sum(check.tally is not None for check in result.ops)
    if result.passed:
        lines.append(f"{len(result.ops)} ops give the golden output; MACs, DRAM and on-chip bytes of {groups} groups equal those charged")
    else:
        lines.append(f"first difference: {result.first_difference}")
        lines += [f"  {check.name}: {told}" for check in result.ops for told in check.differences]
    return "\n".join(lines) + "\n"
