"""Adding up what repeats: where a period has moved all that a play knows in time and changed nothing else, the next ones are not played.

Starts are maxima of sums of durations; max and + commute with a common shift, so that the result is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sim.engines.ports import Ports, Tail, Unit, Wait


class State(NamedTuple):
    """Of a play: all times on which what follows depends, the units' first; all causes; what only adds up; when things happened last."""

    times: list[float]
    causes: list[str]
    tallies: list[float]
    lasts: list[float]

    def shift_to(self, new: State) -> list[float] | None:
        """By how much each time moves, if the new state is this one moved in time; times that are long past may stand still."""
        if self.causes != new.causes:
            return None
        delta = new.times[0] - self.times[0]
        tolerance = 1e-10 * delta
        moving = []
        for before, after in zip(self.times, new.times, strict=True):
            move = after - before
            is_moving = -tolerance <= move - delta <= tolerance
            if move and not is_moving:
                return None
            moving.append(is_moving)
        least = min(time for time, is_moving in zip(self.times, moving, strict=True) if is_moving)
        if any(time > least for time, is_moving in zip(self.times, moving, strict=True) if not is_moving):
            return None
        return [delta if is_moving else 0.0 for is_moving in moving]


class Books:
    """What a play writes down: units, ports, waits, and what comes after the last transfer from DRAM."""

    def __init__(self, ports: Ports, waits: Mapping[str, Wait], tail: Tail) -> None:
        self.units, self.levels, self.waits, self.tail = ports.units, list(ports.of_level.values()), list(waits.values()), tail
        self.clocked: list[Unit | Wait | Tail] = [*self.units, *self.waits, tail]

    def state(self, own_times: Sequence[float], causes: list[str]) -> State:
        """With the times and causes that the play itself keeps."""
        tallies = [unit.busy for unit in self.units] + [wait.cycles for wait in self.waits]
        for port in self.levels:
            tallies += (port.read_bytes, port.written_bytes)
        return State([*(unit.free for unit in self.units), *own_times], causes, tallies, [each.last for each in self.clocked])

    def jump(self, old: State, shift: Sequence[float], periods: int) -> list[float]:
        """Add what so many periods add that are like the one since `old`; by how much the play's own times move."""
        now = self.state((), [])
        before_tail, after_tail = self.tail.last, self.tail.busy_now - self.tail.busy
        values = iter([new + periods * (new - before) for before, new in zip(old.tallies, now.tallies, strict=True)])
        # What happened in the period happens in each of them; the array works in all.
        for each, before in zip(self.clocked, old.lasts, strict=True):
            if each.last != before:
                each.last += periods * shift[0]
        for unit, move in zip(self.units, shift, strict=False):
            unit.free += periods * move
        for unit in self.units:
            unit.busy = next(values)
        for wait in self.waits:
            wait.cycles = next(values)
        for port in self.levels:
            port.read_bytes, port.written_bytes = next(values), next(values)
        if self.tail.last != before_tail:
            self.tail.busy = self.tail.busy_now - after_tail
        return [periods * move for move in shift[len(self.units) :]]
