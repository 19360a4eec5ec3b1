"""Cross-op prefetch of the cycle engine: while a group computes, the first weights of the next linears come from DRAM.

**What is played.** Groups follow one another as without prefetch. Before a group of linears begins, part of its first tile of weights, and
then of the one after it if there are two buffers, comes in *windows* of the groups since the linears before it (these included); the play
of the group then finds them there. Nothing else comes early. Activations depend on the groups before. Entries of a KV cache that earlier
steps have written could come, and are left: of a layer's attention that is at most DRAM's latency and its first tile of keys. So are
gathered rows. If a launch takes time, nothing comes early, for what is launched is not known before.

**Why it is legal.** *Data*: weights are there before the step. *Ports*: a window of linears or attention begins when the last of their own
transfers from DRAM is over; only moments count in which neither DRAM's port nor that of the level to which weights come works for the group
itself, so no job of the group is later and no port does two things at a time (a prefetch goes on burst by burst, in the gaps). Of a group
that streams, the same moments count from DRAM's first answer on. *Room*: linears have let go of one of two buffers of each operand by then
(when the tile before the last was last used, for later the window begins), and hold all their sums; attention holds all that its mapping
holds; what streams holds two rows of each of its tensors. What is left of the level (less the share of intermediates) is room; what has
come stays in it through all groups until it is used. The tiles have room in the linears that use them, for they are theirs.

**What follows.** Prefetched or not, the array, DRAM and every port do the same work, one thing at a time: no total is below the floor. With
prefetch transfers of a group are shorter and keep their order, so no group ends later: no total is above the one without. A group may be
faster than its own tiled bound, then its `stall` is negative. Bytes and energy are those of the mapping. Generations are timed without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from functional.formats import bits_of
from sim.engines import tiled
from sim.engines.cycle import PlayedClass, play_classes
from sim.engines.played import Played
from sim.engines.ports import Window, weights_level
from sim.engines.result import GroupTimes
from sim.intervals import LAUNCH
from sim.mapper.attention_room import held_bytes
from sim.mapper.problem import ROLE_AXES, capacity_bytes, setting_of
from sim.plan import Plan, resident_level
from workloads.graph import OpNode


def time_groups(plan: Plan) -> tuple[Plan, list[GroupTimes]]:
    """The step with prefetch: its plan with classes parted by what came before their groups began, and the times of these classes.

    Raises what `sim.engines.cycle.time_classes` raises.
    """
    classes = play_classes(plan)
    if any(each.calibrated or each.bound.lost_s[LAUNCH] > 0.0 for each in classes):
        return plan, [each.times(each.played) for each in classes]
    rooms = [_room_bytes(each) for each in classes]
    known: dict[tuple[int, tuple[Window, ...]], Played | None] = {}
    order: list[tuple[int, tuple[Window, ...]]] = []
    windows: tuple[Window, ...] = ()
    for index in plan.demand.class_of:
        each = classes[index]
        if not isinstance(each.mapped.choice, tiled.GemmChoice):
            order.append((index, ()))
            windows = (*windows, _window(each, each.played, rooms[index]))
            continue
        key = index, windows
        if key not in known:
            known[key] = each.play(windows) if _allow_any(windows) else each.played
        order.append(key)
        windows = (_window(each, known[key], rooms[index]),)
    index_of = {key: i for i, key in enumerate(dict.fromkeys(order))}
    times = [classes[index].times(known.get((index, before), classes[index].played), before) for index, before in index_of]
    counts = [0] * len(index_of)
    class_of = tuple(index_of[key] for key in order)
    for i in class_of:
        counts[i] += 1
    parted = tuple(replace(plan.classes[index], count=count) for (index, _), count in zip(index_of, counts, strict=True))
    return replace(plan, demand=replace(plan.demand, class_of=class_of, classes=parted)), times


def _allow_any(windows: Sequence[Window]) -> bool:
    return any(window.idle > 0.0 for window in windows) and windows[-1].room_bytes > 0.0


def _window(each: PlayedClass, played: Played | None, room_bytes: float) -> Window:
    """When, during a group, weights of a later one may come."""
    if played is not None:
        return Window(played.idle, played.span, room_bytes)
    chip, busy_s, latency_s = each.chip, each.mapped.busy_s, each.mapped.latency_s
    idle_s = latency_s - float(chip.dram.latency_s) - busy_s[chip.dram.name] - busy_s[weights_level(chip).name]
    clock_hz = float(chip.clock_hz)
    return Window(max(idle_s, 0.0) * clock_hz, latency_s * clock_hz, room_bytes)


def _room_bytes(each: PlayedClass) -> float:
    """What a group leaves free of the level to which weights come, of linears at their end: of one core if the level belongs to cores."""
    chip, choice = each.chip, each.mapped.choice
    home = weights_level(chip)
    if isinstance(choice, tiled.GemmChoice):
        setting = setting_of(choice.mapping.gemm, chip, choice.a_resident)
        stage = next(place.stage for place in setting.places if place.level is home)
        tile, held_bits = choice.mapping.stages[stage].tile, 0
        for role in setting.roles[home.name]:
            x, y, _ = ROLE_AXES[role]
            held_bits += tile[x] * tile[y] * setting.bits(role) * (2 if role == "psums" and home.double_buffered else 1)
        return max(0.0, capacity_bytes(setting, home) - held_bits / 8)
    share = 1 - float(chip.resident_share) if home is resident_level(chip) else 1.0
    if isinstance(choice, tiled.AttentionChoice):
        held = held_bytes(choice.mapping, chip).get(home.name, 0.0)
    else:
        held = 2 * sum(_row_bytes(op) for op in each.group_class.ops) if home.holds & {"activations"} else 0.0
    return max(0.0, share * float(home.capacity_bytes) - held)


def _row_bytes(op: OpNode) -> float:
    """One row of all that an op reads and writes."""
    specs = [*(use.spec for use in op.inputs), op.output]
    return sum(int(spec.shape[-1]) * bits_of(spec.format) / 8 for spec in specs)
