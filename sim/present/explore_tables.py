"""Answers of `solve`, `limits`, `compare` and `sweep`, and sensitivities, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from hwmodels import units
from hwmodels.units import format_seconds
from sim.explore.fields import is_whole, less_is_faster, written
from sim.present.tables import new_table

if TYPE_CHECKING:  # a command shows what one of them has found: the others need not be there
    from sim.explore.compare import Comparison
    from sim.explore.limits import Limits
    from sim.explore.sensitivity import Sensitivity
    from sim.explore.solve import Border, Solution
    from sim.explore.sweep_show import Shown
    from sim.timeline import Timeline


def solution_text(solution: Solution) -> str:
    """The answer, the bracket that proves it, and what binds."""
    head = f"{solution.model} on {solution.chip}, {solution.target.phase}, {solution.engine} engine: {solution.target.text}"
    limit = f"a step of at most {format_seconds(solution.target_latency_s, 6)}"
    lines = [f"{head} (= {limit})"]
    if solution.found:
        lines += [_answer(border, solution.target_latency_s) for border in solution.borders]
    else:
        lines += [_refusal(border) for border in solution.borders]
    if solution.not_monotone:
        names = ", ".join(solution.not_monotone)
        lines.append(f"not monotone in {names} with this engine (padding, filling): a smaller value may do; `sweep` the range to see")
    if solution.cost is not None and solution.own_cost is not None:
        costs, own = (written(value, solution.cost_unit) for value in (solution.cost, solution.own_cost))
        lines.append(f"{solution.cost_name} {costs} (the chip as it is: {own})")
    speed = f"{format_seconds(solution.latency_s, 6)}, {solution.tokens_per_s:,.6g} tokens/s"
    if solution.found:
        lines.append(f"there: {speed}, bound by {_shares(solution)}")
    else:
        short = solution.latency_s / solution.target_latency_s
        lines.append(f"the fastest of these takes {speed}, {short:.3g} times the target; what binds it instead: {_shares(solution)}")
    if not solution.fits:
        lines.append("the model does not fit the chip's memory; predicted as if it did")
    return "\n".join(lines)


_ROUNDING = 1e-12
"""Share of a target that is told as such, not in seconds."""


def _answer(border: Border, limit_s: float) -> str:
    assert border.at is not None
    value, own = _just_met(border, border.at.value), written(border.own, border.unit)
    times = f", {border.at.value / border.own:.3g}x" if border.own else ""
    text = f"  {border.path} = {value} (the chip has {own}{times})"
    if border.own_written is not None:
        own += f" and {written(border.own_written, border.unit)}"
        text = f"  {border.path} = {value}, read and written each (the chip has {own})"
    if border.beyond is None:
        return f"{text}: the search ended there; it met the target all the way"
    if border.beyond.reason:
        return f"{text}: beyond it there is no such chip: {border.beyond.reason}"
    digits = 12 if math.isclose(border.beyond.value, border.at.value, rel_tol=1e-6) else 6
    miss_s = border.beyond.latency_s - limit_s
    by = format_seconds(miss_s, 3) if miss_s > _ROUNDING * limit_s else "less than 1 part in 10^12"
    return f"{text}; {written(border.beyond.value, border.unit, digits)} misses by {by}"


def _just_met(border: Border, value: float, digits: int = 6) -> str:
    """The value to six digits, rounded to the side that meets the target; whole bytes exactly."""
    if border.unit == "B":
        text = written(value, "B", 6)
        return text if units.parse_bytes(text) == value else f"{int(value)} B"
    if value == 0 or is_whole(border.path):
        return written(value, border.unit, 12)
    step = Decimal(1).scaleb(Decimal(value).adjusted() - digits + 1)
    rounding = ROUND_FLOOR if less_is_faster(border.path) else ROUND_CEILING
    return written(float((Decimal(value) / step).to_integral_value(rounding) * step), border.unit, digits)


def _refusal(border: Border) -> str:
    if border.beyond is None:
        return f"  no value of {border.path} does"
    times = border.beyond.value / border.own if border.own else 0.0
    tried = f"{times:.3g} times the chip's own" if border.own and border.beyond.value else written(border.beyond.value, border.unit)
    return f"  no value of {border.path} does: tried from {written(border.own, border.unit)} to {tried}"


def _shares(solution: Solution) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in solution.bound_shares.items() if share >= 0.005)


def sensitivity_tables(rows: Sequence[Sensitivity]) -> list[RenderableType]:
    """What to buy next, dearest answer first, and what latency does not feel."""
    from sim.explore.sensitivity import STEP

    bends = any(row.bends for row in rows if row.is_felt)
    table = new_table("", "latency answers to", "value", "% per %", *(["below, above"] if bends else []), "doubled", "halved")
    spare: list[str] = []
    silent: list[str] = []
    for row in rows:
        if row.is_felt:
            elasticity = "-" if row.elasticity is None else f"{row.elasticity:+.3f}"
            sides = [_sides(row)] if bends else []
            table.add_row(row.path, written(row.value, row.unit, 5), elasticity, *sides, _percent(row.doubled), _percent(row.halved))
        else:
            (silent if row.halved is None or less_is_faster(row.path) else spare).append(row.path)
    told = (("over-built here, half would do: ", spare), ("not felt, doubled or halved: ", silent))
    notes = [f"% per %: between {STEP:.0%} less and {STEP:.0%} more of the number; a whole number moves by at least 1"]
    if bends:
        notes.append("below, above: a step or a bend here, where another mapping or another bound takes over; % per % on either side")
    notes += [f"{head}{', '.join(paths)}" for head, paths in told if paths]
    return [table, Text("\n".join(notes) + "\n")]


def _sides(row: Sensitivity) -> str:
    """Both slopes, where one does not tell the other."""
    return f"{row.below.elasticity:+.2f}, {row.above.elasticity:+.2f}" if row.bends and row.below and row.above else ""


def _percent(change: float | None) -> str:
    return "-" if change is None else f"{change:+.1%}"


def limits_tables(limits: Limits) -> list[RenderableType]:
    """Which batch and context fit, by format."""
    memory = units.format_capacity(limits.capacity_bytes)
    title = f"{limits.model} on {limits.chip}, decode, activations {limits.activations}, {memory} of memory"
    columns = f"largest batch at context {limits.context}", f"longest context at batch {limits.batch}"
    table = new_table(title, "weights", "KV cache", "weights take", *columns, "compute-bound from batch")
    for row in limits.rows:
        context = f"{row.max_context:,}" + (" (the model's)" if row.context_bound_by == "model" else "")
        turn = "never" if row.compute_bound_batch is None else f"{row.compute_bound_batch:,}, by the {row.compute_bound_by} unit"
        beyond = " (does not fit)" if row.compute_bound_batch is not None and not row.compute_bound_fits else ""
        table.add_row(row.weights, row.kv, units.format_bytes(row.weights_bytes), f"{row.max_batch:,}", context, turn + beyond)
    return [table]


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """Both chips, component by component."""
    a, b = comparison.a, comparison.b
    total = comparison.total
    if abs(total.ratio - 1) < 1e-9:
        verdict = "equally fast"
    else:
        verdict = f"{b.chip if total.ratio > 1 else a.chip} is {max(total.ratio, 1 / total.ratio):.3g}x faster"
    title = f"{a.graph.model}, {a.phase}, {a.engine} engine: {verdict}"
    table = new_table(title, "component", a.chip, b.chip, "A / B", "because (A against B)")
    table.columns[4].justify = "left"
    table.columns[4].no_wrap = False
    for row in comparison.rows:
        table.add_row(row.name, *map(format_seconds, row.latency_s), f"{row.ratio:.3g}x", row.reason)
    table.add_section()
    table.add_row("total", *map(format_seconds, total.latency_s), f"{total.ratio:.3g}x", total.reason)
    misfits = [each.chip for each in (a, b) if not each.memory.fits]
    known = [each for each in (a, b) if each.energy_j is not None]
    spent = [Text("\n".join(map(_energy, known)) + "\n")] if known else []
    return [table, *spent, *([Text(f"does not fit the memory of {' and '.join(misfits)}; predicted as if it did\n")] if misfits else [])]


def _energy(timeline: Timeline) -> str:
    """What a chip takes, in one line."""
    joules, per_token, watts, size = timeline.energy_j, timeline.j_per_token, timeline.power_w, timeline.area_mm2
    assert joules is not None and per_token is not None  # noqa: PT018
    area = "" if size is None else f", {size:.4g} mm2"
    return f"{timeline.chip}: {units.format_energy(joules)}, {units.format_energy(per_token)} per token, {watts:.4g} W{area}"


def findings_tables(shown: Shown, most: int) -> list[RenderableType]:
    """The best rows and the Pareto front of every workload."""
    parts: list[RenderableType] = []
    for found in shown.workloads:
        asked = found.workload
        length = f"prompt {asked['q_len']}" if asked["phase"] == "prefill" else f"context {asked['kv_len'] - 1}"
        formats = "/".join(dict.fromkeys(asked[name] for name in ("weights", "activations", "kv")))
        head = f"{asked['model']}, {asked['phase']}, batch {asked['batch']}, {length}, {formats}"
        parts.append(Text(f"{head}: {found.feasible:,} of {found.points:,} points meet all constraints", style="bold"))
        parts += [Text(f"  {count:,} no chip or not possible: {reason}") for reason, count in list(found.reasons.items())[:REASONS]]
        others = list(found.reasons.values())[REASONS:]
        if others:
            parts.append(Text(f"  {sum(others):,} for {len(others):,} other reasons"))
        if not found.best:
            continue
        parts.append(_rows_table(f"best by {shown.objectives[0]}", shown, found.best))
        if len(shown.objectives) > 1:
            front = found.front
            step = max(1, -(-len(front) // most))
            title = f"Pareto front over {', '.join(shown.objectives)}: {len(front)} points" + (f", 1 in {step} shown" if step > 1 else "")
            parts.append(_rows_table(title, shown, front[::step]))
    return parts


REASONS = 5
"""Reasons for which points are invalid that a table tells, the most frequent first."""


def _rows_table(title: str, shown: Shown, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    names = [name for name in dict.fromkeys([*shown.axes, *shown.objectives, "latency_s", "bound_by"]) if name in rows[0]]
    names = (["chip"] if len(shown.provenance.get("chips", ())) > 1 else []) + names
    table = new_table(title, *names)
    for row in rows:
        table.add_row(*(_cell(row[name], shown.units.get(name, "")) for name in names))
    return table


def _cell(value: Any, unit: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return written(float(value), unit, 5)
