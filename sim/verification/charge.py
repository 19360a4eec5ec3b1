"""What an engine charges each group for, as counts, and the mapping that it charges for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from functional.work import Contraction
from hwmodels.chip import Chip
from hwmodels.formulas.elementwise import nearest_count
from sim.engines import mapped_by, tiled
from sim.mapper import ChipUse, chip_use
from sim.mapper.attention_cost import AttentionUse, attention_use
from sim.plan import Plan, sustained
from sim.verification.counts import Counts, LevelBytes
from sim.verification.run import AttentionStep, LinearStep, Step
from workloads.demand import GroupClass
from workloads.graph import OpNode
from workloads.split import parts_of


@dataclass(frozen=True, slots=True, eq=False)
class ChargedGroup:
    """A group: its ops, how its products are executed (None: it has none), and what it is charged."""

    ops: tuple[OpNode, ...]
    step: Step | None
    charge: Counts


def charged_groups(plan: Plan, engine: str = "tiled") -> list[ChargedGroup]:
    """All groups of a step in order, as an engine maps them. Raises `BadInput` for what cannot be mapped."""
    plan = sustained(plan)
    mapped, parts = mapped_by(plan, engine), parts_of(plan.graph)
    charges = [_charge(group_class, each, plan.chip) for group_class, each in zip(plan.classes, mapped, strict=True)]
    groups = []
    for group, index in zip(plan.demand.groups, plan.demand.class_of, strict=True):
        ops = tuple(plan.graph.ops[i] for i in group.ops)
        groups.append(ChargedGroup(ops, _step(ops, mapped[index].choice, parts), charges[index]))
    return groups


def resident_tensors(plan: Plan) -> frozenset[str]:
    """Intermediates that the plan keeps on the chip."""
    return frozenset(name for name in plan.demand.residency.thresholds_bytes if tiled.stays(plan, name))


def _charge(group_class: GroupClass, mapped: tiled.Mapped, chip: Chip) -> Counts:
    longest: dict[str, int] = {}
    useful = sum(int(op.work.useful_macs) for op in group_class.ops if isinstance(op.work, Contraction))
    if isinstance(mapped.choice, tiled.GemmChoice):
        use = chip_use(mapped.choice.mapping, chip, mapped.choice.a_resident)
        turns, longest = ({f"{stage} {axis}": each for (stage, axis), each in of.items()} for of in (use.turns, use.longest))
        busiest, cores, levels = (use.busiest_macs, use.busiest_unit_macs), use.busy_cores, _levels(use, chip)
    elif isinstance(mapped.choice, tiled.AttentionChoice):
        asked = attention_use(mapped.choice.mapping, chip, mapped.choice.in_dram)
        busiest = nearest_count(asked.busiest_macs), nearest_count(asked.busiest_unit_macs)
        cores, levels, turns = asked.busy_cores, _levels(asked, chip), {"softmax": asked.softmaxes}
    else:
        busiest, cores, levels, turns = (0, 0), 0, {}, {}
    dram = int(mapped.dram_read_bytes), int(mapped.dram_written_bytes)
    return Counts(useful, nearest_count(mapped.issued_macs), *busiest, cores, *dram, levels, turns, longest)


def _levels(use: ChipUse | AttentionUse, chip: Chip) -> dict[str, LevelBytes]:
    sizes = {level.name: (use.read_bytes, use.written_bytes, use.room_bytes) for level in chip.memory[1:]}
    return {name: LevelBytes(*(math.ceil(each[name]) for each in columns)) for name, columns in sizes.items()}


def _step(ops: tuple[OpNode, ...], choice: tiled.GemmChoice | tiled.AttentionChoice | None, pieces: int) -> Step | None:
    if isinstance(choice, tiled.GemmChoice):
        return LinearStep(tuple(op.name for op in ops if op.kind == "Linear"), choice.mapping, choice.a_resident, pieces)
    if isinstance(choice, tiled.AttentionChoice):
        return AttentionStep(tuple(op.name for op in ops), choice.mapping)
    return None
