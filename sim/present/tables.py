"""Predictions, graphs, models and chips as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from functional.config import ModelConfig
from functional.formats import is_integer
from functional.spec import format_shape
from functional.work import Contraction, Move, Vector
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from hwmodels.units import format_bandwidth, format_bytes, format_capacity, format_rate, format_seconds
from sim.present.folded import component_runs, folded_name, run_name
from sim.timeline import Timeline
from workloads.graph import OpGraph
from workloads.summary import Summary

DEAREST = 8
"""Rows of the table of ops."""


def new_table(title: str, *columns: str) -> Table:
    """A plain table whose first column is text and whose other columns are figures, aligned right."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        # Where there is no room, a cell goes on in its next line: half a number is worse than none.
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def prediction_tables(timeline: Timeline) -> list[RenderableType]:
    """Headline, components, dearest ops and memory of one predicted step."""
    return [Text(headline(timeline)), _components(timeline), _dearest_ops(timeline), Text(_memory(timeline) + "\n")]


def headline(timeline: Timeline) -> str:
    """What was asked and the answer, in three lines."""
    scenario = timeline.graph.scenario
    formats = scenario.formats
    stored = {formats.weights, formats.activations, formats.kv}
    kinds = stored.pop() if len(stored) == 1 else f"weights {formats.weights}, activations {formats.activations}, KV {formats.kv}"
    if timeline.phase == "prefill":
        what, name = f"prefill of {scenario.q_len} tokens", "TTFT"
    else:
        what, name = f"decode of one token after {scenario.context}", "TPOT"
    shares = ", ".join(f"{bound} {share:.0%}" for bound, share in timeline.bound_shares.items() if share >= 0.005)
    floor = f"{timeline.total_s / timeline.floor_s:.2f} x the floor of {format_seconds(timeline.floor_s)}"
    return (
        f"{timeline.graph.model} on {timeline.chip}: {what}, batch {scenario.batch}, {kinds}, {timeline.engine} engine\n"
        f"{name} {format_seconds(timeline.total_s)}   {_significant(timeline.tokens_per_s)} tokens/s   {floor}\n"
        f"bound by: {shares}\n"
    )


def _significant(value: float) -> str:
    """Four significant digits, thousands set off, never an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


@dataclass
class _Row:
    """Components or ops that share one line of a table."""

    name: str
    count: int
    latency_s: float
    each_s: float
    bound_by: str


def _folded_components(timeline: Timeline) -> Iterator[_Row]:
    """Components in order; a run of alike layers is one row."""
    for run in component_runs(timeline):
        yield _Row(run_name(run), len(run), sum(part.latency_s for part in run), run[0].latency_s, run[0].bound_by)


def _components(timeline: Timeline) -> Table:
    table = new_table("", "component", "count", "each", "latency", "share", "bound by")
    for row in _folded_components(timeline):
        _add(table, row, timeline.total_s)
    table.add_section()
    table.add_row("total", "", "", format_seconds(timeline.total_s), "100.0%", next(iter(timeline.bound_shares)))
    return table


def _dearest_ops(timeline: Timeline) -> Table:
    rows: dict[tuple[str, str], _Row] = {}
    for op, figures in timeline.rows():
        name = folded_name(op.name)
        row = rows.setdefault((name, figures["bound_by"]), _Row(name, 0, 0.0, figures["latency_s"], figures["bound_by"]))
        row.count += 1
        row.latency_s += figures["latency_s"]
    title = f"dearest ops ({min(DEAREST, len(rows))} of {len(rows)})"
    table = new_table("", title, "count", "each", "latency", "share", "bound by")
    for row in sorted(rows.values(), key=lambda row: -row.latency_s)[:DEAREST]:
        _add(table, row, timeline.total_s)
    return table


def _add(table: Table, row: _Row, total_s: float) -> None:
    share = f"{row.latency_s / total_s:.1%}"
    table.add_row(row.name, str(row.count), format_seconds(row.each_s), format_seconds(row.latency_s), share, row.bound_by)


def _memory(timeline: Timeline) -> str:
    memory = timeline.memory
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    needed, capacity = format_bytes(memory.needed_bytes), format_bytes(memory.capacity_bytes)
    return (
        f"memory: weights {format_bytes(memory.weights_bytes)} + KV cache {format_bytes(memory.kv_cache_bytes)} + activations "
        f"{format_bytes(memory.activations_bytes)} = {needed} of {capacity}: {verdict}"
    )


def graph_table(graph: OpGraph) -> Table:
    """Every op of a graph with its shapes and work."""
    title = f"{graph.model}, {graph.scenario.phase}: {len(graph.ops)} ops"
    table = new_table(title, "op", "kind", "inputs", "output", "MACs", "vector", "bytes")
    for op in graph.ops:
        work = op.work
        inputs = " ".join(format_shape(use.spec.shape) for use in op.inputs)
        macs = f"{work.useful_macs:,}" if isinstance(work, Contraction) else ""
        executions = f"{sum(work.counts.values()):,}" if isinstance(work, Vector) else ""
        moved = f"{work.size_bytes:,}" if isinstance(work, Move) else ""
        table.add_row(op.name, op.kind, inputs, format_shape(op.output.shape), macs, executions, moved)
    return table


def models_table(configs: Sequence[ModelConfig]) -> Table:
    """One line per model."""
    table = new_table("", "model", "parameters", "layers", "hidden", "MLP", "heads", "KV heads", "vocabulary", "positions", "tied")
    for config in configs:
        table.add_row(
            config.name,
            f"{config.parameters:,}",
            str(config.num_hidden_layers),
            str(config.hidden_size),
            str(config.intermediate_size),
            str(config.num_attention_heads),
            str(config.num_key_value_heads),
            f"{config.vocab_size:,}",
            f"{config.max_position_embeddings:,}",
            "yes" if config.tie_word_embeddings else "no",
        )
    return table


def summary_tables(summary: Summary) -> list[RenderableType]:
    """The layer table of a model, and its totals."""
    title = f"{summary.config.name}: forward pass over [{summary.batch}, {summary.tokens}] tokens"
    table = new_table(title, "module", "count", "kind", "input", "output", "parameters each", "MACs each")
    for row in summary.rows:
        name = row.name if row.repeats == 1 else row.name.replace("layers.0.", "layers.*.")
        parameters = f"tied to {row.tied_to}" if row.tied_to else f"{row.parameters:,}"
        shapes = format_shape(row.input_shape), format_shape(row.output_shape)
        table.add_row(name, str(row.repeats), row.kind, *shapes, parameters, f"{row.macs:,}")
    totals = (
        f"parameters {summary.parameters:,}   in bf16 {format_bytes(2 * summary.parameters)}\n"
        f"MACs of modules {summary.module_macs:,} + attention {summary.attention_macs:,} = {summary.macs:,} (FLOP = 2 x MAC)\n"
    )
    return [table, Text(totals)]


def chips_table(chips: Sequence[Chip]) -> Table:
    """One line per chip."""
    table = new_table("", "chip", "default", "matrix peak", "DRAM bandwidth", "DRAM", "on chip", "cores", "matrix unit")
    for chip in chips:
        unit = chip.matrix
        shape = f"{unit.rows}x{unit.cols} systolic" if unit.kind == "systolic" else "tensor core " + "x".join(map(str, unit.tile))
        on_chip = sum(float(chip.capacity_bytes(level)) for level in chip.memory[1:])
        table.add_row(
            chip.name,
            chip.default_format,
            format_rate(2 * float(chip.peak_macs_per_s(chip.default_format)), _flop_unit(chip.default_format)),
            format_bandwidth(float(chip.read_bytes_per_s(chip.dram))),
            format_capacity(float(chip.dram.capacity_bytes)),
            format_capacity(on_chip),
            f"{chip.cores}",
            f"{unit.count} x {shape}",
        )
    return table


def chip_tables(chip: Chip) -> list[RenderableType]:
    """Every number of a chip with its standing and source, and the peaks that follow."""
    table = new_table("", "number", "value", "standing", "source")
    table.columns[3].justify = "left"
    table.columns[3].no_wrap = False
    table.columns[3].overflow = "fold"
    of_file = "; ".join(chip.sources)
    for path, origin in chip.provenance.items():
        source = "sources above" if origin.source == of_file else origin.source
        table.add_row(path, _chip_value(chip, path), origin.standing, source)
    peaks = ", ".join(
        f"{name} {format_rate(2 * float(chip.peak_macs_per_s(name)), _flop_unit(name))}" for name in chip.formats
    )
    sources = "\n".join(f"  [{i}] {source}" for i, source in enumerate(chip.sources, 1))
    return [Text(f"{chip.name}\npeaks: {peaks}\nsources:\n{sources}\n"), table]


def _flop_unit(number_format: str) -> str:
    return "OP/s" if is_integer(number_format) else "FLOP/s"


def _chip_value(chip: Chip, path: str) -> str:
    value = float(value_of(chip, path))
    parts = path.split(".")
    if "bandwidth" in parts:
        level = next(level for level in chip.memory if level.name == parts[1])
        return format_bandwidth(value, level.bandwidth.per_cycle)
    written = {"capacity": format_capacity, "burst": format_bytes, "latency": format_seconds, "launch": format_seconds}.get(parts[-1])
    if written is not None:
        return written(value)
    return {"clock": f"{format_rate(value, 'Hz')}", "tdp": f"{value:g} W"}.get(path, f"{value:g}")


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Nested facts under the names of the JSON output, one per line; seconds and bytes with their unit."""
    table = new_table(title, "figure", "value")

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for part, inner in value.items():
                add(f"{name}.{part}" if name else part, inner)
        else:
            table.add_row(name, _written(name, value))

    add("", facts)
    return table


def _written(name: str, value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(part) if not isinstance(part, list) else "x".join(map(str, part)) for part in value)
    if not isinstance(value, int | float):
        return str(value)
    if "_s" in {name[-2:], name.partition(".")[0][-2:]}:
        return format_seconds(value)
    if "bytes" in name:
        return f"{value:,.0f} B"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
