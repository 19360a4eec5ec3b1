"""The tiled engine on many chips at once: chips that differ only in clock, bandwidths, latencies, capacities and costs, or in the rows
and columns of their arrays.

The same formulas as `sim.engines.tiled`, over arrays; the mappings of all chips come from one search (`sim.mapper.family`). Equal to the
engine on each chip alone to the last bit, as numbers are added and compared in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.work import Contraction
from hwmodels.many import shape_of, taken
from hwmodels.technology import technology_of
from sim.engines import roofline
from sim.engines.tiled import (
    all_moved_bytes,
    attention_of,
    attention_s,
    beside_gemm,
    besides,
    busiest_s,
    dram_bytes,
    gemm_of,
    gemm_s,
    hidden_scores_s,
    issued_by_format,
    moved_besides,
    packing_s,
    scales,
    score_flows,
    stream_s,
    with_overhead,
)
from sim.mapper.family import GemmCosts, map_attentions, map_gemms
from sim.mapping import Gemm
from sim.plan import Plan, resident_capacity_bytes, sustained
from workloads.demand import GroupClass
from workloads.fuse import Flow
from workloads.split import parts_of

ONE_FOR_ALL = ("cores", "count", "rates", "tile", "burst", "efficiency")
"""Parts of dotted paths: numbers that all chips of a family have alike."""


@dataclass(frozen=True, slots=True)
class ChipTimes:
    """One class of groups on many chips: seconds, and what binds; MACs issued by compute format, and bytes read and written by level."""

    latency_s: Any
    bound_by: Any
    macs: Mapping[str, Any]
    moved_bytes: Mapping[str, Any]


def takes_families(plan: Plan) -> bool:
    """Whether such steps are timed on many chips at once: not on boards that are timed as calibrated, nor in pieces."""
    return technology_of(plan.chip) is None and parts_of(plan.graph) == 1


def time_chips(plan: Plan) -> list[ChipTimes]:
    """Each class of groups on all chips of a plan, whose chip has arrays of one dimension for any numbers but `ONE_FOR_ALL`.

    Raises `BadInput` where any of them cannot be mapped.
    """
    (count,) = shape_of(plan.chip)
    parts = [(which, _time_alike(replace(plan, chip=taken(plan.chip, which)))) for which in _with_alike_residents(plan, count)]
    return [_joined([(which, times[i]) for which, times in parts], count) for i in range(len(plan.classes))]


def _with_alike_residents(plan: Plan, count: int) -> list[NDArray[np.int64]]:
    """The chips, parted by which intermediates stay on them."""
    thresholds = np.unique([float(each) for each in plan.demand.residency.thresholds_bytes.values()])
    stay = np.broadcast_to(np.searchsorted(thresholds, resident_capacity_bytes(plan.chip), side="right"), count)
    return [np.flatnonzero(stay == each) for each in np.unique(stay)]


def _joined(parts: Sequence[tuple[NDArray[np.int64], ChipTimes]], count: int) -> ChipTimes:
    """Figures of parts of the chips as those of all."""

    def join(figures: Sequence[Any]) -> Any:
        if isinstance(figures[0], Mapping):
            return {name: join([each[name] for each in figures]) for name in figures[0]}
        column = np.empty(count, dtype=object if np.asarray(figures[0]).dtype.kind in "OU" else np.float64)
        for (which, _), own in zip(parts, figures, strict=True):
            column[which] = own
        return column

    return ChipTimes(*(join([getattr(times, field.name) for _, times in parts]) for field in fields(ChipTimes)))


def _time_alike(plan: Plan) -> list[ChipTimes]:
    """The same for chips on which the same intermediates stay."""
    lasting, with_energy = sustained(plan), plan.chip.energy is not None
    peaks, known = roofline.Peaks.of(lasting.chip), dict[Any, Any]()
    return [_time_class(group_class, lasting, peaks, known, with_energy) for group_class in plan.classes]


def _linears(group_class: GroupClass, plan: Plan, mapped_gemm: GemmCosts, gemm: Gemm, with_energy: bool) -> ChipTimes:
    """A group of linears; scales come as often as the mapping of each chip fetches the weights."""
    cost, own, fetched = mapped_gemm
    weights, times_fetched = gemm.n * gemm.k, fetched.astype(np.int64)
    often = [each._replace(size_bytes=-(-int(each.size_bytes) * times_fetched // weights)) for each in scales(group_class)]
    flows = (*beside_gemm(group_class, plan), *often)
    read, written = dram_bytes(plan, flows)
    moved_bytes = (cost.dram_read_bytes + read) + (cost.dram_written_bytes + written)
    _, *times = gemm_s(cost, besides(group_class, plan, roofline.Peaks.of(plan.chip), flows))
    return _with_overhead(group_class, plan, times, cost.issued_macs, moved_bytes, flows, own, with_energy)


def _with_overhead(
    group_class: GroupClass,
    plan: Plan,
    times: Sequence[Any],
    issued_macs: Any,
    moved_bytes: Any,
    flows: tuple[Flow, ...],
    own: Mapping[str, Any],
    with_energy: bool,
) -> ChipTimes:
    latency_s, bound_by = times
    reached_s = roofline.unit_times_s(group_class.load, roofline.Peaks.of(plan.chip))
    packing = packing_s(group_class, plan.chip, reached_s[roofline.MATRIX], latency_s)
    overhead_s = plan.chip.launch_s + 0.0 + packing + hidden_scores_s(group_class, plan.chip)
    latency_s, bound_by = with_overhead(latency_s, bound_by, overhead_s, reached_s)
    macs = issued_by_format(group_class, issued_macs)
    return ChipTimes(latency_s, bound_by, macs, all_moved_bytes(plan.chip, flows, moved_bytes, own) if with_energy else {})


def _time_class(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, known: dict[Any, Any], with_energy: bool) -> ChipTimes:
    """One class: its mapping, priced, and what comes before it. `known` are GEMMs and attentions that are mapped already."""
    products = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
    own: Mapping[str, Any] = {}
    if not products:
        flows, issued_macs = group_class.group.flows, 0.0
        moved_bytes: Any = sum(dram_bytes(plan, flows))
        times: Sequence[Any] = stream_s(busiest_s(besides(group_class, plan, peaks, flows)), group_class, plan)
    elif products[0].mask is None:
        asked = *gemm_of(group_class, plan), moved_besides(group_class, plan)
        if asked not in known:
            known[asked] = map_gemms(asked[0], plan.chip, asked[1], asked[2])
        return _linears(group_class, plan, known[asked], asked[0], with_energy)
    else:
        attention, in_dram, part = attention_of(group_class, plan)
        flows = score_flows(group_class, part)
        counts, score_bytes = group_class.load.counts, dram_bytes(plan, flows)
        question = attention, tuple(counts.items()), in_dram, part, score_bytes
        if question not in known:
            known[question] = map_attentions(attention, plan.chip, counts, in_dram, part, score_bytes)
        cost_of_all, own = known[question]
        moved_bytes, issued_macs = cost_of_all.dram_read_bytes + cost_of_all.dram_written_bytes, cost_of_all.issued_macs
        _, *times = attention_s(cost_of_all, besides(group_class, plan, peaks, flows), plan)
    return _with_overhead(group_class, plan, times, issued_macs, moved_bytes, flows, own, with_energy)
