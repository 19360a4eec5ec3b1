"""Two designs side by side: each component on both chips, and why it takes longer on one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from functional.config import ModelConfig
from functional.llama import Logits
from functional.work import Contraction
from hwmodels import load_chip
from hwmodels.chip import Chip
from hwmodels.units import format_bandwidth, format_bytes, format_rate
from sim.api import predict
from sim.engines import DEFAULT_ENGINE
from sim.engines.roofline import MATRIX, VECTOR
from sim.timeline import Timeline
from workloads.quantise import compute_format
from workloads.scenario import PHASES, Phase

ALIKE = 1e-9
"""Relative difference below which neighbouring layers share a row, and below which two chips are equally fast."""

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """One component, or `count` alike layers together, on chip A and on chip B; `reason` says what makes the difference."""

    name: str
    count: int
    latency_s: Pair
    energy_j: tuple[float | None, float | None]
    dram_bytes: Pair
    bound_by: tuple[str, str]
    reason: str

    @property
    def ratio(self) -> float:
        """Latency on A over latency on B: above 1, B is faster."""
        a, b = self.latency_s
        return a / b if b else 1.0 if a == b else float("inf")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One phase on two chips; `total` is the whole step."""

    a: Timeline
    b: Timeline
    rows: tuple[Difference, ...]
    total: Difference

    def to_dict(self) -> dict[str, Any]:
        """Plain data: one object per phase."""
        return {
            "model": self.a.graph.model,
            "phase": self.a.phase,
            "engine": self.a.engine,
            "chips": [self.a.chip, self.b.chip],
            "formats": [_formats(self.a), _formats(self.b)],
            "fits": [self.a.memory.fits, self.b.memory.fits],
            "tokens_per_s": [self.a.tokens_per_s, self.b.tokens_per_s],
            "power_w": [self.a.power_w, self.b.power_w],
            "j_per_token": [self.a.j_per_token, self.b.j_per_token],
            "area_mm2": [self.a.area_mm2, self.b.area_mm2],
            "total": _plain(self.total),
            "components": [_plain(row) for row in self.rows],
        }


def _formats(timeline: Timeline) -> dict[str, str]:
    formats = timeline.graph.scenario.formats
    return {"weights": formats.weights, "activations": formats.activations, "kv": formats.kv}


def _plain(row: Difference) -> dict[str, Any]:
    return {
        "name": row.name,
        "count": row.count,
        "latency_s": list(row.latency_s),
        "ratio": row.ratio,
        "energy_j": list(row.energy_j),
        "bound_by": list(row.bound_by),
        "dram_bytes": list(row.dram_bytes),
        "reason": row.reason,
    }


def compare(
    model: str | Path | ModelConfig,
    chip_a: str | Path | Chip,
    chip_b: str | Path | Chip,
    *,
    phase: Phase | None = None,
    batch: int = 1,
    prompt: int | None = None,
    context: int | None = None,
    engine: str = DEFAULT_ENGINE,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    logits: Logits = "last",
    fused: bool = True,
) -> tuple[Comparison, ...]:
    """Both chips on the same step, each in its own default format unless said; both phases unless one is named.

    Raises `BadInput` for all that `predict` refuses.
    """
    chips = [chip if isinstance(chip, Chip) else load_chip(chip) for chip in (chip_a, chip_b)]
    comparisons = []
    for each in [phase] if phase else PHASES:
        a, b = (
            predict(
                model,
                chip,
                phase=each,
                batch=batch,
                prompt=prompt,
                context=context,
                engine=engine,
                weights=weights,
                activations=activations,
                kv=kv,
                logits=logits,
                fused=fused,
            )
            for chip in chips
        )
        comparisons.append(_comparison(a, b, chips[0], chips[1]))
    return tuple(comparisons)


def _comparison(a: Timeline, b: Timeline, chip_a: Chip, chip_b: Chip) -> Comparison:
    bytes_a, bytes_b = _bytes_by_component(a), _bytes_by_component(b)
    rows: list[Difference] = []
    for of_a, of_b in zip(a.components, b.components, strict=True):
        moved = bytes_a[of_a.name], bytes_b[of_a.name]
        seconds, joules = (of_a.latency_s, of_b.latency_s), (of_a.energy_j, of_b.energy_j)
        row = Difference(of_a.name, 1, seconds, joules, moved, (of_a.bound_by, of_b.bound_by), "")
        if rows and _alike(rows[-1], row):
            rows[-1] = _joined(rows[-1], row)
        else:
            rows.append(row)
    bounds = next(iter(a.bound_shares)), next(iter(b.bound_shares))
    moved = sum(bytes_a.values()), sum(bytes_b.values())
    total = Difference("total", 1, (a.total_s, b.total_s), (a.energy_j, b.energy_j), moved, bounds, "")
    explained = [replace(row, reason=_reason(row, (a, b), (chip_a, chip_b))) for row in (*rows, total)]
    return Comparison(a, b, tuple(explained[:-1]), explained[-1])


def _bytes_by_component(timeline: Timeline) -> dict[str, float]:
    moved: dict[str, float] = {}
    for op, size_bytes in zip(timeline.graph.ops, timeline.dram_bytes.tolist(), strict=True):
        moved[op.component] = moved.get(op.component, 0.0) + size_bytes
    return moved


def _alike(run: Difference, row: Difference) -> bool:
    layers = run.name.startswith("layers.") and row.name.startswith("layers.") and run.bound_by == row.bound_by
    return layers and all(abs(a / run.count - b) <= ALIKE * b for a, b in zip(run.latency_s, row.latency_s, strict=True))


def _joined(run: Difference, row: Difference) -> Difference:
    first = run.name.split(" ")[0]
    latency_s = run.latency_s[0] + row.latency_s[0], run.latency_s[1] + row.latency_s[1]
    dram_bytes = run.dram_bytes[0] + row.dram_bytes[0], run.dram_bytes[1] + row.dram_bytes[1]
    energy_j = _added(run.energy_j[0], row.energy_j[0]), _added(run.energy_j[1], row.energy_j[1])
    name = f"{first} ... {row.name}"
    return replace(run, name=name, count=run.count + 1, latency_s=latency_s, energy_j=energy_j, dram_bytes=dram_bytes)


def _added(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _reason(row: Difference, timelines: tuple[Timeline, Timeline], chips: tuple[Chip, Chip]) -> str:
    """What binds on each side, at which peak; for the same resource how much faster it is, and how much more it moves."""
    (peak_a, text_a), (peak_b, text_b) = (
        _peak(chip, bound, each) for chip, bound, each in zip(chips, row.bound_by, timelines, strict=True)
    )
    bound_a, bound_b = row.bound_by
    if bound_a != bound_b:
        return f"{bound_a} {text_a} against {bound_b} {text_b}"
    if peak_a is None or peak_b is None:
        return f"both {bound_a}"
    bytes_a, bytes_b = row.dram_bytes
    more = bound_a == "dram" and abs(bytes_a - bytes_b) > 0.005 * max(bytes_a, bytes_b)
    if text_a == text_b and not more:
        return f"none: the same {bound_a} binds"
    peaks = f"{bound_a} {text_a} against {text_b}" if text_a != text_b else f"{bound_a} {text_a} on both"
    return peaks + (f", for {format_bytes(bytes_a)} against {format_bytes(bytes_b)}" if more else "")


def _peak(chip: Chip, resource: str, timeline: Timeline) -> tuple[float | None, str]:
    """Datasheet peak of a resource, as number and text; an engine's other bounds (a launch, a stall) have none."""
    if resource == MATRIX:
        name = _main_format(timeline)
        peak = 2 * float(chip.peak_macs_per_s(name))
        return peak, f"{format_rate(peak, 'OP/s' if name.startswith('int') else 'FLOP/s')} {name}"
    if resource == VECTOR:
        peak = float(chip.vector.lanes * chip.cores * chip.clock_hz)
        return peak, f"{format_rate(peak, 'op/s')} in {chip.vector.lanes * chip.cores:g} lanes"
    for level in chip.memory:
        if level.name == resource:
            peak = float(chip.read_bytes_per_s(level))
            return peak, format_bandwidth(peak)
    return None, ""


def _main_format(timeline: Timeline) -> str:
    """The format in which most MACs of the step are done."""
    macs: dict[str, int] = {}
    for op in timeline.graph.ops:
        if isinstance(op.work, Contraction):
            name = compute_format(op.work)
            macs[name] = macs.get(name, 0) + int(op.work.useful_macs)
    return max(macs, key=macs.__getitem__)
