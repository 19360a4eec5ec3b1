"""The tiled engine: for the mapping that the mapper found, a lower bound on every schedule of it.

Per group: max over units and levels of prefix + busy + suffix (`sim.mapper`), plus the launch. A group of linears is one GEMM, attention is
mapped whole, everything else streams through the vector unit. Element-wise ops that run with a GEMM work on its tiles while they are on the
chip: they add to the vector unit's time and to the bytes of what else they read and write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem, ScenarioError
from functional.formats import bits_of
from functional.work import Contraction, Vector
from hwmodels.chip import Chip, MemoryLevel
from hwmodels.formulas.elementwise import chosen, larger, plain, slowest, smaller
from hwmodels.formulas.masking import hidden_pass_s, hidden_product_s
from hwmodels.formulas.roofline import largest, pack_s, passes_s, ports_s
from hwmodels.formulas.systolic import whole_cycles
from hwmodels.technology import technology_of
from sim.attention_mapping import Attention, AttentionMapping
from sim.engines import roofline
from sim.engines.result import GroupTimes, side_by_side
from sim.intervals import Schedule
from sim.mapper import Asked, Besides, GemmCost, MappedGemm, is_soon_within, map_together, moved_bytes, weight_passes
from sim.mapper.attention import map_attention
from sim.mapper.attention_cost import AttentionCost, InDram, Part
from sim.mapper.attention_cost import moved_bytes as attention_bytes
from sim.mapper.cost import Port
from sim.mapping import Gemm, GemmMapping
from sim.plan import Plan, apart_from_sums, resident_capacity_bytes, sustained
from workloads.demand import GroupClass
from workloads.fuse import Flow
from workloads.quantise import compute_format
from workloads.split import parts_of

MATRIX, VECTOR = roofline.MATRIX, roofline.VECTOR
_ONCE = Fraction(1)
ROUNDING = 1 - 1e-12
"""Share of a time below which another is smaller by more than sums in another order."""


@dataclass(frozen=True, slots=True)
class GemmChoice:
    """How a group of linears is mapped; `besides_s` is what its element-wise ops ask of the vector unit and of each port of the levels."""

    mapping: GemmMapping
    cost: GemmCost
    besides_s: Mapping[str, tuple[float, ...]]
    a_resident: bool


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """How attention is mapped."""

    mapping: AttentionMapping
    cost: AttentionCost
    in_dram: InDram
    part: Part


@dataclass(frozen=True, slots=True)
class Mapped:
    """A group as its mapping leaves it: busy seconds per resource, the bound on its latency, what it moves and issues, and how it is mapped
    (None where everything streams). `flows` are the tensors that stream past the mapping. A technology adds its own `launch_s`, which is
    not in the latency, says where the time beyond the roofline goes, and of a GEMM in how many tiles it runs on how many SMs (`waves`)."""

    busy_s: Mapping[str, float]
    latency_s: float
    bound_by: str
    dram_read_bytes: float
    dram_written_bytes: float
    issued_macs: float
    choice: GemmChoice | AttentionChoice | None = None
    flows: tuple[Flow, ...] = ()
    launch_s: float = 0.0
    lost_s: Mapping[str, float] | None = None
    waves: tuple[int, int] | None = None

    @property
    def dram_bytes(self) -> float:
        return self.dram_read_bytes + self.dram_written_bytes


def time_classes(plan: Plan) -> list[GroupTimes]:
    """Each class of groups, mapped and timed. Raises `BadInput` for what cannot be mapped."""
    peaks = roofline.Peaks.of(plan.chip)
    lasting = sustained(plan)
    lasting_peaks = peaks if lasting is plan else roofline.Peaks.of(lasting.chip)
    mapped = map_groups(lasting, lasting_peaks)
    return [timed(each, lasting, peaks, lasting_peaks, own) for each, own in zip(plan.classes, mapped, strict=True)]


def class_seconds(plan: Plan) -> list[float]:
    """Seconds of each class, as `time_classes` has them. Where packing takes longer than some mapping anyway, none is chosen, which is
    sooner done. Raises what `time_classes` raises."""
    lasting = sustained(plan)
    peaks, lasting_peaks = roofline.Peaks.of(plan.chip), roofline.Peaks.of(lasting.chip)
    found = []
    for each in plan.classes:
        packed_s = _hidden_by_packing_s(each, lasting, lasting_peaks)
        if packed_s is None:
            found.append(float(timed(each, lasting, peaks, lasting_peaks, map_group(each, lasting, lasting_peaks)).latency_s))
        else:
            found.append(packed_s + float(plan.chip.launch_s))
    return found


def _hidden_by_packing_s(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> float | None:
    """Seconds of a group of linears whose weights are packed, or passed over, if a mapping that takes no longer is soon found."""
    chip = plan.chip
    linears = [op for op in group_class.ops if op.kind == "Linear"]
    if chip.pack is None or technology_of(chip) is not None or not linears:
        return None
    packed_s = float(packing_s(group_class, chip, roofline.unit_times_s(group_class.load, peaks)[MATRIX], 0.0))
    if packed_s < max(busiest_s(least_besides_s(group_class, plan, peaks)).values()):
        return None
    gemm, a_resident = gemm_of(group_class, plan)
    besides = moved_besides(group_class, plan)
    return packed_s if is_soon_within(packed_s, gemm, chip, a_resident, besides, parts_of(plan.graph)) else None


def map_classes(plan: Plan) -> list[Mapped]:
    """Each class of groups as it is mapped, and what its mapping is charged. Raises `BadInput` for what cannot be mapped."""
    plan = sustained(plan)
    return map_groups(plan, roofline.Peaks.of(plan.chip))


def map_groups(plan: Plan, peaks: roofline.Peaks) -> list[Mapped]:
    """Each class of groups of a sustained plan; their GEMMs are mapped together."""
    gemms = _mapped_gemms(plan)
    return [map_group(each, plan, peaks, gemms.get(i)) for i, each in enumerate(plan.classes)]


def _mapped_gemms(plan: Plan) -> dict[int, MappedGemm]:
    """The GEMMs of groups of linears, by the places of their classes; none where one of them cannot be mapped, which its group says."""
    if technology_of(plan.chip) is not None:
        return {}
    products = ((i, [op.work for op in each.ops if isinstance(op.work, Contraction)]) for i, each in enumerate(plan.classes))
    linears = [i for i, works in products if works and works[0].mask is None]
    try:
        found = map_together([asked_of(plan.classes[i], plan) for i in linears], plan.chip, pieces=parts_of(plan.graph))
    except BadInput:
        return {}
    return dict(zip(linears, found, strict=True))


def timed(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, lasting: roofline.Peaks, mapped: Mapped) -> GroupTimes:
    """The figures of a class that is mapped, by the `lasting` peaks of a sustained plan; `peaks` are those of the datasheet."""
    ideal = roofline.time_class(group_class, peaks)
    reached = ideal.busy_s if lasting is peaks else roofline.unit_times_s(group_class.load, lasting)
    reached_s = {name: float(seconds) for name, seconds in reached.items()}
    packing = packing_s(group_class, plan.chip, reached_s[MATRIX], mapped.latency_s)
    overhead_s = plan.chip.launch_s + mapped.launch_s + packing + hidden_scores_s(group_class, plan.chip)
    latency_s, bound_by = with_overhead(mapped.latency_s, mapped.bound_by, overhead_s, reached_s)
    lost_s = dict(mapped.lost_s or _lost_s(reached_s, mapped, plan.chip))
    lost_s["sustained"] = lost_s.get("sustained", 0.0) + max(reached_s.values()) - ideal.latency_s
    dram, issued = _shared_out(mapped.dram_bytes, ideal.op_dram_bytes), _shared_out(mapped.issued_macs, ideal.op_issued_macs)
    macs, moved = issued_by_format(group_class, mapped.issued_macs), {} if peaks.prices is None else _moved_bytes(group_class, plan, mapped)
    return replace(
        ideal,
        latency_s=latency_s,
        bound_by=bound_by,
        busy_s=mapped.busy_s,
        lost_s=lost_s | {"launch": overhead_s},
        op_dram_bytes=dram,
        op_issued_macs=issued,
        macs=macs,
        moved_bytes=moved,
        op_spent_j=_op_spent_j(group_class, peaks, macs, moved, ideal.shares),
        schedule=Schedule(partial(side_by_side, mapped.busy_s, dram, issued, overhead_s)),
    )


def with_overhead(latency_s: Any, bound_by: Any, overhead_s: Any, reached_s: Mapping[str, Any]) -> tuple[Any, Any]:
    """Seconds of a group with what comes before it, and what binds it; on many chips arrays. As every unit and level is busy for as long as
    in the roofline (`reached_s`), only rounding, of other sums, can bring a latency below that: so much is lifted, and no more, so that a
    bound that is wrong stays seen."""
    least_s = largest(reached_s.values())
    whole_s = chosen(latency_s >= least_s * ROUNDING, larger(latency_s, least_s), latency_s)
    return whole_s + overhead_s, chosen(latency_s >= overhead_s, bound_by, "launch")


def packing_s(group_class: GroupClass, chip: Chip, matrix_s: Any, latency_s: Any) -> Any:
    """Seconds that packing adds: weights come from DRAM while they are rearranged, and are multiplied, which takes `matrix_s`
    whatever the mapping, when they are. Or what passes over weights that are not packed add, if that is less."""
    size_bytes = packed_bytes(group_class)
    if chip.pack is None or not size_bytes:
        return 0.0
    packed_s = pack_s(size_bytes, chip.pack.read_bytes_per_s(chip.clock_hz), chip.read_bytes_per_s(chip.dram))
    return larger(0.0, smaller(packed_s + matrix_s, larger(unpacked_s(group_class, chip), matrix_s)) - latency_s)


def hidden_scores_s(group_class: GroupClass, chip: Chip) -> Any:
    """Seconds for the scores that a mask hides, where software computes them like the others."""
    if chip.hidden_s is None:
        return 0.0
    seconds: Any = 0.0
    for op in group_class.ops:
        work, scores = op.work, op.inputs[0].spec.elements if op.inputs else 0
        if isinstance(work, Contraction) and work.mask is not None:
            hidden_macs = work.batch * work.m * work.n * work.k - work.useful_macs
            masked = op.output.elements if hidden_macs and work.mask_axis == "n" else 0
            seconds += hidden_product_s(hidden_macs, chip.peak_macs_per_s(compute_format(work)), masked, chip.primitive_s("add"))
        elif isinstance(work, Vector) and scores > work.elements:
            score_s = sum(count * chip.primitive_s(name) for name, count in work.counts.items()) / work.elements
            seconds += hidden_pass_s(scores - work.elements, score_s, chip.hidden_s if "exp" in work.counts else 0.0)
    return seconds


def packed_bytes(group_class: GroupClass) -> float:
    """Bytes of weights that a library rearranges before it multiplies: those of products of several rows."""
    linears = [op.work for op in group_class.ops if isinstance(op.work, Contraction) and op.work.mask is None and op.work.m > 1]
    return sum(int(work.n * work.k) * bits_of(work.b_format) / 8 for work in linears)


def unpacked_s(group_class: GroupClass, chip: Chip) -> Any:
    """Seconds of the passes over weights that are not packed; the linears of a group multiply the same rows."""
    if chip.unpacked_rows is None:
        return math.inf
    rows = max((int(op.work.m) for op in group_class.ops if isinstance(op.work, Contraction) and op.work.mask is None), default=0)
    return passes_s(packed_bytes(group_class), rows, chip.unpacked_rows, chip.read_bytes_per_s(chip.dram))


def issued_by_format(group_class: GroupClass, issued_macs: Any) -> dict[str, Any]:
    """Issued MACs by compute format, in the proportion of the useful ones."""
    useful = group_class.load.macs
    all_useful = float(sum(useful.values())) or 1.0
    return {name: issued_macs * (float(each) / all_useful) for name, each in useful.items()}


def _op_spent_j(
    group_class: GroupClass, peaks: roofline.Peaks, macs: Mapping[str, float], moved: Mapping[str, float], shares: Any
) -> NDArray[np.float64]:
    """Joules of each op: of every unit and level in the proportion of what the ops take of it alone, else of their latencies."""
    spent_j = np.zeros(len(group_class.ops))
    if peaks.prices is not None:
        own = [roofline.spent_j(load, peaks) for load in group_class.op_loads]
        for name, joules in peaks.prices.spent_j(macs, group_class.load.counts, moved).items():
            alone = np.array([float(each[name]) for each in own])
            spent_j += float(joules) * (alone / alone.sum() if alone.sum() > 0 else shares)
    return spent_j


def _moved_bytes(group_class: GroupClass, plan: Plan, mapped: Mapped) -> dict[str, float]:
    """Bytes read from and written to each level, over the whole chip."""
    chip, choice = plan.chip, mapped.choice
    own: Mapping[str, float] = {}
    if isinstance(choice, GemmChoice):
        own = moved_bytes(choice.mapping, chip, choice.a_resident)
    elif isinstance(choice, AttentionChoice):
        own = attention_bytes(choice.mapping, chip, choice.cost, choice.in_dram, choice.part)
    return all_moved_bytes(chip, mapped.flows, mapped.dram_bytes, own)


def all_moved_bytes(chip: Chip, flows: tuple[Flow, ...], through_dram: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes that pass each level: `through_dram`, and what streams past a mapping besides its own."""
    inner = {level.name: sum(_inner_bytes(flows, level, chip)) + own.get(level.name, 0.0) for level in chip.memory[1:]}
    return {chip.dram.name: through_dram, **inner}


def _lost_s(ideal_s: Mapping[str, float], mapped: Mapped, chip: Chip) -> dict[str, float]:
    """The way from the roofline to the bound: padded tiles first, then bytes moved again, then the ends that nothing overlaps."""
    units = {name: mapped.busy_s[name] if name in (MATRIX, VECTOR) else seconds for name, seconds in ideal_s.items()}
    start, padded, moved = max(ideal_s.values()), max(units.values()), max(mapped.busy_s.values())
    ends = mapped.latency_s - moved
    waiting = min(ends, float(chip.dram.latency_s) if mapped.dram_bytes else 0.0)
    return {"padding": padded - start, "refetch": moved - padded, "dram_latency": waiting, "fill_drain": ends - waiting}


def _shared_out(whole: float, by: Any) -> Any:
    """A whole number parted in the proportions of `by`, into whole numbers that sum to it."""
    if not whole:
        return by * 0.0
    if not by.sum():
        by = by + 1.0
    edges = np.round(np.cumsum(by) / by.sum() * whole)
    return np.diff(edges, prepend=0.0)


def map_group(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, gemm: MappedGemm | None = None) -> Mapped:
    """What a group is charged, and the mapping that it is charged for; `gemm`: that of its linears, if it is known already."""
    technology = technology_of(plan.chip)
    if technology is not None:
        if parts_of(plan.graph) > 1:
            cure = "leave it out; blocks of tiles are spread over the cores"
            raise ScenarioError(Problem(f"{plan.chip.name} is timed as calibrated, not by pieces", cure, path="--split"))
        from sim.engines import gpu  # which builds on this module

        return gpu.map_group(group_class, plan, peaks, technology)
    contractions = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
    if not contractions:
        return _stream(group_class, plan, peaks)
    if contractions[0].mask is None:
        mapped = gemm or map_together([asked_of(group_class, plan)], plan.chip, pieces=parts_of(plan.graph))[0]
        return mapped_gemm(group_class, plan, peaks, mapped, gemm_of(group_class, plan)[1])
    return mapped_attention(group_class, plan, peaks)


def _stream(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> Mapped:
    """Vector work and moves: every tensor passes once, the vector unit waits for the first answer of DRAM."""
    flows = group_class.group.flows
    busy = busiest_s(besides(group_class, plan, peaks, flows))
    return Mapped(busy, *stream_s(busy, group_class, plan), *dram_bytes(plan, flows), 0.0, flows=flows)


def stream_s(busy: Mapping[str, Any], group_class: GroupClass, plan: Plan) -> tuple[Any, Any]:
    """Seconds of a group in which every tensor passes once, and what binds it; on many chips arrays."""
    bound_by, busiest_s = slowest(busy)
    waits_s = plan.chip.dram.latency_s if dram_bytes(plan, group_class.group.flows)[0] > 0 else 0.0
    return waits_s + busiest_s, bound_by


def gemm_of(group_class: GroupClass, plan: Plan) -> tuple[Gemm, bool]:
    """Linears that read the same tensor, as one GEMM over all their outputs, and whether that tensor stays on the chip."""
    linears = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
    first, output = linears[0], group_class.ops[0]
    compute = compute_format(first)
    alone = len(group_class.ops) == 1
    gemm = Gemm(
        m=int(first.m),
        n=sum(int(each.n) for each in linears),
        k=int(first.k),
        a_bits=bits_of(first.a_format),
        w_bits=bits_of(first.b_format),
        out_bits=bits_of(output.output.format) if alone else 0,  # else element-wise ops of the group take over
        acc_bits=bits_of(plan.chip.matrix.accumulate[compute]),
        compute=compute,
        out_in_dram=not (alone and on_chip(plan, output.name)),
    )
    return gemm, on_chip(plan, output.inputs[0].tensor)


def gemm_flows(group_class: GroupClass) -> tuple[tuple[Flow, ...], tuple[Flow, ...]]:
    """What the GEMM of a group moves itself: its operands and, if nothing follows in its group, its result; and what else crosses the
    border."""
    alone = len(group_class.ops) == 1
    linears = {i for i, op in zip(group_class.group.ops, group_class.ops, strict=True) if op.kind == "Linear"}
    own = tuple(flow for flow in group_class.group.flows if (alone if flow.is_write else flow.op in linears))
    return own, tuple(flow for flow in group_class.group.flows if flow not in own)


def asked_of(group_class: GroupClass, plan: Plan) -> Asked:
    """What the mapper is asked for a group of linears and what follows them; raises `ScenarioError` for warm weights."""
    return Asked(*gemm_of(group_class, plan), moved_besides(group_class, plan))


def mapped_gemm(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, mapped: MappedGemm, a_resident: bool) -> Mapped:
    """The figures of a group of linears under a mapping."""
    mapping, cost = mapped
    rest = (*beside_gemm(group_class, plan), *scales(group_class, weight_passes(mapping, plan.chip, a_resident)))
    others = besides(group_class, plan, peaks, rest)
    busy, latency_s, bound_by = gemm_s(cost, others)
    read, written = dram_bytes(plan, rest)
    moved = cost.dram_read_bytes + read, cost.dram_written_bytes + written
    choice = GemmChoice(mapping, cost, others, a_resident)
    return Mapped(busy, latency_s, bound_by, *moved, cost.issued_macs, choice, rest)


def beside_gemm(group_class: GroupClass, plan: Plan) -> tuple[Flow, ...]:
    """What crosses the border beside a group's GEMM, but for scales, and what of its result the GEMM does not move itself; raises
    `ScenarioError` for warm weights."""
    own, other = gemm_flows(group_class)
    if any(flow.warm and flow.kind == "weights" for flow in own):
        cure = "take the roofline, or a chip whose technology is calibrated"
        raise ScenarioError(Problem(f"{group_class.ops[0].name} has warm weights; a mapping brings weights from DRAM", cure))
    return *other, *kept_results(own)


def kept_results(own: tuple[Flow, ...]) -> tuple[Flow, ...]:
    """What a GEMM makes is written where intermediates stay, after it has left the sums; and what is warm passes every level."""
    return tuple(flow._replace(tensor="", warm=True) for flow in own if flow.is_write and (flow.warm or flow.kind == "results"))


def gemm_s(cost: GemmCost, others: Mapping[str, tuple[Any, ...]]) -> tuple[dict[str, Any], Any, Any]:
    """Busy seconds of a group of linears, with what its element-wise ops ask of each port besides; its latency, and what binds it; on many
    chips arrays."""
    busy, ends = dict[str, Any](), dict[str, Any]()
    for name, of_ports in others.items():
        ports, prefix_s = cost.ports.get(name, (Port(0.0, 0.0),) * len(of_ports)), cost.prefix_s.get(name, 0.0)
        both_s = [port.busy_s + more for port, more in zip(ports, of_ports, strict=True)]
        busy[name] = _busiest(both_s)
        ends[name] = _busiest([chosen(both > 0, prefix_s + both + port.late_s, 0.0) for both, port in zip(both_s, ports, strict=True)])
    bound_by, latency_s = slowest(ends)
    return busy, larger(latency_s, cost.latency_s), bound_by


def moved_besides(group_class: GroupClass, plan: Plan) -> Besides:
    """What the levels move for a group of linears beside its GEMM."""
    flows = beside_gemm(group_class, plan)
    inner = (_inner_bytes(flows, level, plan.chip) for level in plan.chip.memory[1:])
    return Besides((dram_bytes(plan, flows), *inner), tuple(int(flow.size_bytes) for flow in scales(group_class)))


def least_besides_s(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> dict[str, tuple[float, ...]]:
    """What a group of linears asks of the vector unit and of each port of the levels besides any mapping of them [s]."""
    return besides(group_class, plan, peaks, (*beside_gemm(group_class, plan), *scales(group_class)))


def scales(group_class: GroupClass, passes: Fraction = _ONCE) -> list[Flow]:
    """Scales and zero points of the weights of a group's linears: they come with their weights, as often as these do."""
    weights = [op.inputs[1].spec for op in group_class.ops if op.kind == "Linear"]
    return [Flow(i, "", "weights", math.ceil(int(weight.scales_bytes) * passes), False) for i, weight in enumerate(weights)]


def attention_of(group_class: GroupClass, plan: Plan) -> tuple[Attention, InDram, Part]:
    """Both products and the softmax between them, or one product by itself; and which of its sides lie in DRAM."""
    products = [op.work for op in group_class.ops if isinstance(op.work, Contraction)]
    first = products[0]
    part: Part = "all" if len(products) == 2 else "scores" if first.mask_axis == "n" else "context"
    queries, keys, head_dim = (first.m, first.n, first.k) if first.mask_axis == "n" else (first.m, first.k, first.n)
    compute = compute_format(first)
    batch = int(plan.graph.scenario.batch)
    assert first.mask is not None
    attention = Attention(
        batch=batch,
        heads=int(first.batch) // batch,
        kv_heads=int(first.batch) // batch // first.b_shared_by,
        q_len=int(queries),
        kv_len=int(keys),
        head_dim=int(head_dim),
        mask_offset=int(first.mask.offset),
        window=first.mask.window,
        act_bits=bits_of(first.a_format),
        kv_bits=bits_of(first.b_format),
        acc_bits=bits_of(plan.chip.matrix.accumulate[compute]),
        compute=compute,
    )
    ops = group_class.ops
    fresh_only = int(keys) == int(plan.graph.scenario.q_len)
    caches = [op.inputs[1].tensor for op in ops if isinstance(op.work, Contraction)]
    in_dram = InDram(
        queries=not on_chip(plan, ops[0].inputs[0].tensor),
        # Keys and values come from one place: from DRAM if either of them does.
        keys=not all(each in plan.graph.warm_tensors or (fresh_only and stays(plan, each)) for each in caches),
        output=not on_chip(plan, ops[-1].name),
    )
    if part == "scores":
        in_dram = in_dram._replace(output=False)
    elif part == "context":
        in_dram = in_dram._replace(queries=False)
    return attention, in_dram, part


def mapped_attention(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> Mapped:
    """Both products and the softmax between them; or, unfused, one product whose scores pass through DRAM."""
    attention, in_dram, part = attention_of(group_class, plan)
    scores = score_flows(group_class, part)
    read, written = dram_bytes(plan, scores)
    mapping, cost = map_attention(attention, plan.chip, group_class.load.counts, in_dram, part, score_bytes=(float(read), float(written)))
    return attention_mapped(AttentionChoice(mapping, cost, in_dram, part), group_class, plan, peaks)


def attention_mapped(choice: AttentionChoice, group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> Mapped:
    """The figures of an attention under a mapping."""
    cost, scores = choice.cost, score_flows(group_class, choice.part)
    busy, latency_s, bound_by = attention_s(cost, besides(group_class, plan, peaks, scores), plan)
    return Mapped(busy, latency_s, bound_by, cost.dram_read_bytes, cost.dram_written_bytes, cost.issued_macs, choice, scores)


def score_flows(group_class: GroupClass, part: Part) -> tuple[Flow, ...]:
    """Of an unfused product the score tensor, which passes DRAM: what it writes, or its first operand."""
    flows = group_class.group.flows
    if part == "all":
        return ()
    return tuple(flow for flow in flows if flow.is_write) if part == "scores" else tuple(flow for flow in flows if not flow.is_write)[:1]


def attention_s(cost: AttentionCost, others: Mapping[str, tuple[Any, ...]], plan: Plan) -> tuple[dict[str, Any], Any, Any]:
    """Busy seconds of an attention with what passes besides; its latency, and what binds it; on many chips arrays.

    Scores that are not the whole group's own pass the levels on their way; DRAM's part of that is in the cost already.
    """
    on_chip = [level.name for level in plan.chip.memory[1:]]
    busy = dict(cost.busy_s)
    for name in on_chip:
        busy[name] = _busiest([own + more for own, more in zip(cost.ports_s[name], others[name], strict=True)])
    busiest, busiest_s = slowest(busy)
    return busy, larger(cost.latency_s, busiest_s), chosen(busiest_s <= cost.latency_s, cost.bound_by, busiest)


def on_chip(plan: Plan, tensor: str) -> bool:
    """Whether a tensor that may lie in DRAM does not: it stays on the chip, or lies there from the start."""
    return tensor in plan.graph.warm_tensors or stays(plan, tensor)


def stays(plan: Plan, tensor: str) -> bool:
    """Whether the plan keeps an intermediate on the chip; many chips agree in it (`sim.engines.tiled_family`)."""
    threshold = plan.demand.residency.thresholds_bytes.get(tensor)
    return threshold is not None and bool(np.all(threshold <= resident_capacity_bytes(plan.chip)))


def dram_bytes(plan: Plan, flows: tuple[Flow, ...]) -> tuple[int, int]:
    """DRAM bytes (read, written) of tensors that pass once, each on bursts of its own; arrays, if many chips move different ones."""
    burst = plan.chip.dram.burst_bytes
    totals: list[Any] = [0, 0]
    for flow in flows:
        if not flow.warm and not stays(plan, flow.tensor):
            totals[flow.is_write] = totals[flow.is_write] + -(-_bytes(flow) // burst) * burst
    return totals[0], totals[1]


def besides(group_class: GroupClass, plan: Plan, peaks: roofline.Peaks, flows: tuple[Flow, ...]) -> dict[str, tuple[Any, ...]]:
    """Busy seconds of the vector unit with all of a group's element-wise work, and of each port of the levels with some of its tensors."""
    return besides_s(group_class.load.counts, plan.chip, peaks, flows, dram_bytes(plan, flows))


def besides_s(
    counts: Mapping[str, Any], chip: Chip, peaks: roofline.Peaks, flows: tuple[Flow, ...], through_dram: tuple[int, int]
) -> dict[str, tuple[Any, ...]]:
    """Busy seconds of the vector unit with `counts`, and of each port of the levels with `flows`, of which `through_dram` bytes (read,
    written) pass DRAM."""
    cycles = sum(float(count) * chip.vector.cycles[name] for name, count in counts.items())
    busy: dict[str, Any] = {MATRIX: (0.0,), VECTOR: (whole_cycles(cycles / (chip.vector.lanes * chip.cores)) / chip.clock_hz,)}
    for i, (level, read_bytes_per_s, write_bytes_per_s) in enumerate(peaks.levels):
        read, written = through_dram if i == 0 else _inner_bytes(flows, level, chip)
        busy[level.name] = ports_s(read, written, read_bytes_per_s, write_bytes_per_s, level.bandwidth.shared)
    return {name: tuple(map(plain, ports)) for name, ports in busy.items()}


def busiest_s(of_ports: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Seconds of the busier port of each resource."""
    return {name: _busiest(ports) for name, ports in of_ports.items()}


def _busiest(seconds: Sequence[Any]) -> Any:
    first, *others = seconds
    return larger(first, *others) if others else first


def _bytes(flow: Flow) -> Any:
    return flow.size_bytes if isinstance(flow.size_bytes, np.ndarray) else int(flow.size_bytes)


def _inner_bytes(flows: tuple[Flow, ...], level: MemoryLevel, chip: Chip) -> tuple[int, int]:
    """Bytes (read, written) of flows that pass an on-chip level. What a linear makes has left its sums already."""
    totals: list[Any] = [0, 0]
    for flow in flows:
        if level is apart_from_sums(chip) if flow.kind == "results" else flow.kind in level.holds:
            totals[flow.is_write] = totals[flow.is_write] + _bytes(flow)
    return totals[0], totals[1]
