"""What the tiled engine charges each group for, as counts, and the mapping that it charges for."""

from __future__ import annotations

from dataclasses import dataclass

from functional.work import Contraction
from sim.engines import roofline, tiled
from sim.plan import Plan, sustained
from sim.verification.run import AttentionStep, LinearStep, Step
from workloads.demand import GroupClass
from workloads.graph import OpNode


@dataclass(frozen=True, slots=True)
class Counts:
    """MACs and DRAM bytes of one group: charged, or tallied while it runs."""

    useful_macs: int = 0
    issued_macs: int = 0
    dram_read_bytes: int = 0
    dram_written_bytes: int = 0

    def differences(self, charged: Counts) -> list[str]:
        """Where a tally is not what was charged."""
        names = [name for name in self.__slots__ if getattr(self, name) != getattr(charged, name)]
        return [f"{name}: {getattr(self, name):,} tallied, {getattr(charged, name):,} charged" for name in names]

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class ChargedGroup:
    """A group: its ops, how its products are executed (None: it has none), and what it is charged."""

    ops: tuple[OpNode, ...]
    step: Step | None
    charge: Counts


def charged_groups(plan: Plan) -> list[ChargedGroup]:
    """All groups of a step in order. Raises `BadInput` for what cannot be mapped."""
    plan = sustained(plan)
    peaks = roofline.Peaks.of(plan.chip)
    mapped = [tiled.map_group(group_class, plan, peaks) for group_class in plan.classes]
    charges = [_charge(group_class, each) for group_class, each in zip(plan.classes, mapped, strict=True)]
    groups = []
    for group, index in zip(plan.demand.groups, plan.demand.class_of, strict=True):
        ops = tuple(plan.graph.ops[i] for i in group.ops)
        groups.append(ChargedGroup(ops, _step(ops, mapped[index].choice), charges[index]))
    return groups


def resident_tensors(plan: Plan) -> frozenset[str]:
    """Intermediates that the plan keeps on the chip."""
    return frozenset(name for name in plan.demand.residency.thresholds_bytes if tiled.stays(plan, name))


def _charge(group_class: GroupClass, mapped: tiled.Mapped) -> Counts:
    useful = sum(int(op.work.useful_macs) for op in group_class.ops if isinstance(op.work, Contraction))
    return Counts(useful, int(mapped.issued_macs), int(mapped.dram_read_bytes), int(mapped.dram_written_bytes))


def _step(ops: tuple[OpNode, ...], choice: tiled.GemmChoice | tiled.AttentionChoice | None) -> Step | None:
    if isinstance(choice, tiled.GemmChoice):
        return LinearStep(tuple(op.name for op in ops if op.kind == "Linear"), choice.mapping, choice.a_resident)
    if isinstance(choice, tiled.AttentionChoice):
        return AttentionStep(tuple(op.name for op in ops), choice.mapping)
    return None
