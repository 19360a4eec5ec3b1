"""Plays a group under its mapping, and looks for the mapping that plays best.

**Order.** The mapper's choice is played first. Then others are visited of which a bound that is at least their tiled latency
(`sim.mapper.ranked`; of attention, `least_cycles`) does not say that they cannot be faster by more than `NEAR`: attention in the order of
the bound; of the `RANKED` GEMMs with the least, for many tie in it, those first that a guess says to end soonest, and before them one that
leaves DRAM idle for a while: where all that tie keep it as busy as the array, each waits for the other. At most
`MOST_VISITS` of them are played, each for as long as it may still be the fastest, `MOST_STEPS` tile steps in all. What was played, and
whether the order was followed to its end, is in the result. Mappings that tiled would have taken for faster than its own choice (where its
search is not exact) are left out, so that no group is below its tiled figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.chip import Chip, Role
from sim.engines import roofline, tiled
from sim.engines.play_attention import AttentionOps, attention_steps, least_cycles, least_of_tilings, play_attention
from sim.engines.play_gemm import play_gemm, played_within
from sim.engines.play_waves import play_waves
from sim.engines.played import Besides, GemmOps, Played
from sim.engines.ports import Window
from sim.intervals import Log
from sim.mapper import MappedGemm, choice_of, cost_gemm, map_together
from sim.mapper.array import laid
from sim.mapper.attention import TilingBounds, attention_candidates
from sim.mapper.problem import ROLE_AXES, Same, Setting, setting_of
from sim.mapper.ranked import candidates, program_of, sees_all
from sim.mapping import AXES, GemmMapping
from sim.plan import Plan
from sim.timeline import Visits
from workloads.demand import GroupClass
from workloads.split import parts_of

NEAR = 2e-3
MOST_VISITS = 12
RANKED = 128
MOST_STEPS = 2000
FAR = 0.01
SLOWER = 0.75
"""If the mapper's choice plays so much above its bound, what it would choose with so much of DRAM's bandwidth is visited first."""

FEW_TILES = 4096
"""Tiles that a mapping may always have; else up to twice those of the mapper's choice."""


class Visited(NamedTuple):
    """The mapping that played best, its schedule, and what was played to find it."""

    mapped: tiled.Mapped
    played: Played
    visits: Visits


def play(group_class: GroupClass, mapped: tiled.Mapped, chip: Chip, windows: Sequence[Window] = (), log: Log | None = None) -> Played:
    """The schedule of a group that is mapped: in `log` tile by tile, if that is asked for."""
    choice = mapped.choice
    kinds = [op.kind for op in group_class.ops]
    if isinstance(choice, tiled.GemmChoice):
        linears = kinds.count("Linear")
        ops = GemmOps(0 if linears == 1 else -1, linears if linears == len(kinds) - 1 else -1)
        if mapped.waves is not None:
            return play_waves(mapped, chip.dram.name, float(chip.clock_hz), log, ops)
        return play_gemm(choice.mapping, chip, choice.cost, _besides(choice, mapped, chip), choice.a_resident, log, ops, windows)
    assert choice is not None
    products = [i for i, kind in enumerate(kinds) if kind == "MatMul"]
    named = AttentionOps(products[0], products[-1])
    return play_attention(choice.mapping, chip, choice.cost, mapped.busy_s, choice.in_dram, choice.part, log, named)


def _besides(choice: tiled.GemmChoice, mapped: tiled.Mapped, chip: Chip) -> Besides:
    clock_hz = float(chip.clock_hz)
    levels = {level.name: tuple(seconds * clock_hz for seconds in choice.besides_s[level.name]) for level in chip.memory}
    (vector_s,), cost = choice.besides_s[roofline.VECTOR], choice.cost
    dram_bytes = mapped.dram_read_bytes - cost.dram_read_bytes, mapped.dram_written_bytes - cost.dram_written_bytes
    return Besides(vector_s * clock_hz, levels, dram_bytes)


class _Others(NamedTuple):
    """Mappings with a bound on each [s], in the order of visits, each made when it is visited; and a bound on all that are not among them:
    0 if nothing is known of these."""

    best: Sequence[tuple[float, Callable[[], tiled.Mapped]]]
    rest_s: float


def visit(group_class: GroupClass, mapped: tiled.Mapped, plan: Plan, peaks: roofline.Peaks) -> Visited:
    """The best of the mappings that are played; `mapped` is the mapper's choice, or on a chip that is calibrated what its kernels do."""
    clock_hz = float(plan.chip.clock_hz)
    best, chosen = play(group_class, mapped, plan.chip), mapped
    if mapped.waves is not None:
        return Visited(mapped, best, Visits(1, is_proved=False))
    others = _others(group_class, mapped, plan, peaks, best.end / clock_hz / (1 + NEAR))
    mappings, steps_left, is_proved = 1, MOST_STEPS, True
    for bound_s, make in others.best:
        if bound_s * clock_hz * (1 + NEAR) >= best.end:
            continue
        each = make() if mappings < MOST_VISITS and steps_left > 0 else None
        if each is None or each.latency_s < mapped.latency_s * tiled.ROUNDING:
            is_proved = False
            continue
        mappings += 1
        played, steps = _within(group_class, each, plan.chip, best.end, steps_left)
        steps_left -= steps
        is_proved = is_proved and (played is not None or steps_left > 0)
        if played is not None and played.end < best.end:
            best, chosen = played, each
    is_proved = is_proved and others.rest_s * clock_hz * (1 + NEAR) >= best.end
    return Visited(chosen, best, Visits(mappings, is_proved))


def _others(group_class: GroupClass, mapped: tiled.Mapped, plan: Plan, peaks: roofline.Peaks, below_s: float) -> _Others:
    choice, chip = mapped.choice, plan.chip
    if isinstance(choice, tiled.AttentionChoice):
        read, written = tiled.dram_bytes(plan, mapped.flows)
        counts, score_bytes = group_class.load.counts, (float(read), float(written))

        def least_s_of(tilings: TilingBounds) -> NDArray[np.float64]:
            return least_of_tilings(tilings, chip, choice.in_dram, choice.part) / float(chip.clock_hz)

        asked = choice.mapping, chip, counts, choice.in_dram, choice.part, score_bytes
        found = attention_candidates(*asked, below_s, least_s_of)
        choices = [replace(choice, mapping=each, cost=cost) for each, cost in found if each != choice.mapping]
        made = [tiled.attention_mapped(each, group_class, plan, peaks) for each in choices]
        bounded = sorted(((_least_s(each, chip), each) for each in made), key=lambda pair: pair[0])
        return _Others([(least_s, lambda each=each: each) for least_s, each in bounded], below_s)  # type: ignore[misc]
    assert choice is not None
    if below_s <= mapped.latency_s:  # others are worse by themselves, with less or more besides
        return _Others([], choice.cost.latency_s if sees_all(chip) else 0.0)
    few = max(FEW_TILES, 2 * choice.cost.tile_steps)
    range_s = mapped.latency_s, below_s
    besides_s = tiled.least_besides_s(group_class, plan, peaks)
    pieces = parts_of(plan.graph)
    ranked = candidates(choice.mapping.gemm, chip, choice.a_resident, besides_s, range_s, RANKED, few, pieces)
    setting = setting_of(choice.mapping.gemm, chip, choice.a_resident)
    own = program_of(setting, choice_of(choice.mapping))
    some = [each for each in ranked.best if program_of(setting, choice_of(each.mapping)) != own]
    guesses_s = [max(each.bound_s, _guess_s(each.mapping, setting)) for each in some]
    order = sorted(range(len(some)), key=guesses_s.__getitem__)

    def as_group(mapping: GemmMapping) -> tiled.Mapped:
        as_mapped = MappedGemm(mapping, cost_gemm(mapping, chip, choice.a_resident))
        return tiled.mapped_gemm(group_class, plan, peaks, as_mapped, choice.a_resident)

    best = [(some[i].bound_s, partial(as_group, some[i].mapping)) for i in order[: MOST_VISITS - 1]]
    if below_s > (1 + FAR) * mapped.latency_s:
        (slow,) = map_together([tiled.asked_of(group_class, plan)], _with_slower_dram(Same(chip)), pieces=pieces)
        if slow.mapping != choice.mapping and slow.cost.tile_steps <= few:
            best.insert(0, (mapped.latency_s, partial(as_group, slow.mapping)))
    return _Others(best, min([ranked.others_s, *(some[i].bound_s for i in order[MOST_VISITS - 1 :])]))


@lru_cache(maxsize=32)
def _with_slower_dram(chip: Same[Chip]) -> Chip:
    """The same, where DRAM has a share of its bandwidth."""
    dram = chip.itself.dram
    rates = replace(dram.bandwidth, read=SLOWER * dram.bandwidth.read, write=SLOWER * dram.bandwidth.write)
    return replace(chip.itself, memory=(replace(dram, bandwidth=rates), *chip.itself.memory[1:]))


def _guess_s(mapping: GemmMapping, setting: Setting) -> float:
    """About when a GEMM ends: one of its operands comes from DRAM, as often as it does, and then all steps with its last tile follow."""
    gemm, tiling, chip, clock_hz = mapping.gemm, mapping.stages[0], setting.chip, float(setting.chip.clock_hz)
    extents = gemm.m, gemm.n, gemm.k
    trips = [-(-extent // size) for extent, size in zip(extents, tiling.tile, strict=True)]
    last = [extent - (count - 1) * size for extent, count, size in zip(extents, trips, tiling.tile, strict=True)]
    guess_s = 0.0
    bits_of: dict[Role, int] = {"activations": gemm.a_bits, "weights": gemm.w_bits}
    for role, bits in bits_of.items():
        x, y, other = ROLE_AXES[role]
        if setting.holders[role][0].level is not chip.dram:
            continue
        within = [axis for axis in tiling.order[tiling.order.index(AXES[other]) + 1 :] if trips[AXES.index(axis)] > 1]
        passes = trips[other] if within else 1
        steps = [*last]
        if not within:
            steps[other] = extents[other]
        piece = -(-steps[0] // mapping.split[0]), -(-steps[1] // mapping.split[1]), steps[2]
        cycles = float(laid(setting, mapping.dataflow, mapping.array_axis).step_cycles(piece))
        read_s = passes * extents[x] * extents[y] * bits / 8 / float(chip.read_bytes_per_s(chip.dram))
        guess_s = max(guess_s, float(chip.dram.latency_s) + read_s + cycles / clock_hz)
    return guess_s


def _least_s(mapped: tiled.Mapped, chip: Chip) -> float:
    """Seconds that no play of a mapped attention goes below; not below the tiled latency."""
    choice = mapped.choice
    assert isinstance(choice, tiled.AttentionChoice)
    least = least_cycles(choice.mapping, chip, choice.cost, mapped.busy_s, choice.in_dram, choice.part)
    return max(mapped.latency_s, least * tiled.ROUNDING / float(chip.clock_hz))


def under(choice: tiled.GemmChoice | tiled.AttentionChoice, group_class: GroupClass, plan: Plan, peaks: roofline.Peaks) -> tiled.Mapped:
    """The figures of a group under the mapping of an alike one."""
    if isinstance(choice, tiled.AttentionChoice):
        return tiled.attention_mapped(choice, group_class, plan, peaks)
    return tiled.mapped_gemm(group_class, plan, peaks, MappedGemm(choice.mapping, choice.cost), choice.a_resident)


def _within(group_class: GroupClass, mapped: tiled.Mapped, chip: Chip, latest: float, most_steps: int) -> tuple[Played | None, int]:
    """The schedule of a mapping, unless it is clear that it ends later or takes more steps to play; and the steps that it took."""
    choice = mapped.choice
    if isinstance(choice, tiled.GemmChoice):
        return played_within(choice.mapping, chip, choice.cost, _besides(choice, mapped, chip), choice.a_resident, latest, most_steps)
    assert choice is not None
    steps = attention_steps(choice.mapping, choice.part)
    return (play(group_class, mapped, chip), steps) if steps <= most_steps else (None, most_steps)
