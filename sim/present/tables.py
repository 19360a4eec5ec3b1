"""Predictions, graphs, models and chips as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from functional.config import ModelConfig
from functional.formats import is_integer
from functional.spec import format_shape
from functional.work import Contraction, Move, Vector
from hwmodels.chip import Chip
from hwmodels.costs import area_mm2
from hwmodels.paths import value_of
from hwmodels.units import format_bandwidth, format_bytes, format_capacity, format_energy, format_rate, format_seconds
from sim.explore.fields import unit_of, written
from sim.present.folded import component_runs, folded_name, run_name
from sim.timeline import Memory, Timeline
from workloads.graph import OpGraph
from workloads.scenario import Formats
from workloads.summary import Summary

if TYPE_CHECKING:
    from sim.explore.generation import Generation

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
    return [Text(headline(timeline)), components_table(timeline), _dearest_ops(timeline), Text(last_lines(timeline))]


def headline(timeline: Timeline) -> str:
    """What was asked and the answer, in three lines."""
    scenario = timeline.graph.scenario
    kinds = formats_text(scenario.formats)
    if timeline.phase == "prefill":
        what, name = f"prefill of {scenario.q_len} tokens", "TTFT"
    else:
        what, name = f"decode of one token after {scenario.context}", "TPOT"
    shares = share_list(timeline.bound_shares)
    floor = f"{timeline.total_s / timeline.floor_s:.2f} x the floor of {format_seconds(timeline.floor_s)}"
    return (
        f"{timeline.graph.model} on {timeline.chip}: {what}, batch {scenario.batch}, {kinds}{pieces_text(timeline.split)}, "
        f"{timeline.engine} engine\n"
        f"{name} {format_seconds(timeline.total_s)}   {significant(timeline.tokens_per_s)} tokens/s   {floor}\n"
        f"bound by: {shares}\n"
    )


def share_list(shares: Mapping[str, float]) -> str:
    """`dram 92%, vector 8%`."""
    return ", ".join(f"{bound} {share:.0%}" for bound, share in shares.items() if share >= 0.005)


def formats_text(formats: Formats) -> str:
    """`int8`, or `weights int4:g128, activations bf16, KV int8`."""
    stored = {formats.weights, formats.activations, formats.kv}
    return stored.pop() if len(stored) == 1 else f"weights {formats.weights}, activations {formats.activations}, KV {formats.kv}"


def pieces_text(split: int) -> str:
    """`, linears in 2 pieces`; nothing where they are whole."""
    return f", linears in {split} pieces" if split > 1 else ""


def significant(value: float) -> str:
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
    energy_j: float | None


def _folded_components(timeline: Timeline | Generation) -> Iterator[_Row]:
    """Components in order; a run of alike layers is one row."""
    for run in component_runs(timeline.components):
        spent = None if run[0].energy_j is None else sum(part.energy_j or 0.0 for part in run)
        yield _Row(run_name(run), len(run), sum(part.latency_s for part in run), run[0].latency_s, run[0].bound_by, spent)


def components_table(timeline: Timeline | Generation) -> Table:
    """Components of a step, or of all steps of a generation."""
    table = new_table("", "component", "count", "each", "latency", "share", "bound by", *_energy_column(timeline))
    for row in _folded_components(timeline):
        _add(table, row, timeline.total_s)
    table.add_section()
    spent = [] if timeline.energy_j is None else [format_energy(timeline.energy_j)]
    table.add_row("total", "", "", format_seconds(timeline.total_s), "100.0%", next(iter(timeline.bound_shares)), *spent)
    return table


def _energy_column(found: Timeline | Generation) -> list[str]:
    return [] if found.components[0].energy_j is None else ["energy"]


def _dearest_ops(timeline: Timeline) -> Table:
    rows: dict[tuple[str, str], _Row] = {}
    for op, figures in timeline.rows():
        name = folded_name(op.name)
        none = None if timeline.spent is None else 0.0
        row = rows.setdefault((name, figures["bound_by"]), _Row(name, 0, 0.0, figures["latency_s"], figures["bound_by"], none))
        row.count += 1
        row.latency_s += figures["latency_s"]
        if row.energy_j is not None:
            row.energy_j += figures["energy_j"]
    title = f"dearest ops ({min(DEAREST, len(rows))} of {len(rows)})"
    table = new_table("", title, "count", "each", "latency", "share", "bound by", *_energy_column(timeline))
    for row in sorted(rows.values(), key=lambda row: -row.latency_s)[:DEAREST]:
        _add(table, row, timeline.total_s)
    return table


def _add(table: Table, row: _Row, total_s: float) -> None:
    share = f"{row.latency_s / total_s:.1%}"
    spent = [] if row.energy_j is None else [format_energy(row.energy_j)]
    table.add_row(row.name, str(row.count), format_seconds(row.each_s), format_seconds(row.latency_s), share, row.bound_by, *spent)


def memory_line(memory: Memory) -> str:
    """What is needed, and whether that fits."""
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    needed, capacity = format_bytes(memory.needed_bytes), format_bytes(memory.capacity_bytes)
    return (
        f"memory: weights {format_bytes(memory.weights_bytes)} + KV cache {format_bytes(memory.kv_cache_bytes)} + activations "
        f"{format_bytes(memory.activations_bytes)} = {needed} of {capacity}: {verdict}"
    )


def last_lines(found: Timeline | Generation) -> str:
    """Memory; joules by what takes them, watts, and what a token costs, where the chip's energy is known."""
    lines = [memory_line(found.memory)]
    if found.energy_j is not None and found.energy_by_j is not None and found.j_per_token is not None:
        ranked = sorted(found.energy_by_j.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {joules / found.energy_j:.0%}" for name, joules in ranked if joules >= 0.005 * found.energy_j)
        area = "" if found.area_mm2 is None else f"; {found.area_mm2:.4g} mm2"
        each, rate = format_energy(found.j_per_token), significant(1 / found.j_per_token)
        power = f"{found.power_w:.4g} W on average"
        lines.append(f"energy: {format_energy(found.energy_j)}, {each} per token, {power}, {rate} tokens/s/W{area}")
        lines.append(f"taken by: {shares}")
    return "\n".join([*lines, ""])


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
    size_mm2 = area_mm2(chip)
    area = "" if size_mm2 is None else f"area: {float(size_mm2):.4g} mm2\n"
    return [Text(f"{chip.name}\npeaks: {peaks}\n{area}sources:\n{sources}\n"), table]


def _flop_unit(number_format: str) -> str:
    return "OP/s" if is_integer(number_format) else "FLOP/s"


def _chip_value(chip: Chip, path: str) -> str:
    if path == "process":
        return f"{chip.process_nm:g} nm"
    value = float(value_of(chip, path))
    parts = path.split(".")
    if parts[0] in ("energy", "area"):
        return written(value, unit_of(chip, path), 4)
    if "bandwidth" in parts:
        level = next(level for level in chip.memory if level.name == parts[1])
        return format_bandwidth(value, level.bandwidth.per_cycle)
    form = {"capacity": format_capacity, "burst": format_bytes, "latency": format_seconds, "launch": format_seconds}.get(parts[-1])
    if form is not None:
        return form(value)
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
