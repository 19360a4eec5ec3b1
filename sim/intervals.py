"""When what was busy: intervals on named resources, as columns.

Engines make them when they are asked for, once per class of groups, from the start of a group; a timeline moves them to where the groups
stand in the step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

KINDS = ("compute", "read", "write", "move", "launch", "stall")
"""What an interval is: work of a unit, bytes that leave a level or arrive in it, both in one, a launch, waiting."""

CAUSES = ("dram", "sram_space", "array", "vector", "dependency")
"""What is waited for: a tile from DRAM or the last store to it; room; the array's own drain; element-wise work; ports and tiles on the
chip."""

ROLES = ("activations", "weights", "psums")
"""Whose tile a transfer moves."""

_KIND = {name: i for i, name in enumerate(KINDS)}
_CAUSE = {"": -1} | {name: i for i, name in enumerate(CAUSES)}
_ROLE = {"": -1} | {name: i for i, name in enumerate(ROLES)}

LAUNCH = "launch"
"""The resource of launches: what starts work on the chip."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Columns with one entry per interval, ordered by group.

    `resources` are the levels of the chip, its units, and "launch"; `resource`, `what`, `cause` (-1 unless a stall) and `role` (-1 unless a
    tile moves) are indices into `resources`, `kinds`, `causes` and `roles`, `group` numbers the groups of the step, `op` is an index into
    the graph's ops, or -1 where the interval serves several. `busy_s` [s] is how long the resource works (or, of a stall, waits) between
    `start_s` and `end_s` [s]: all of it tile by tile, part of it where an interval spans a whole group from first to last. Stalls lie on
    the unit that waits. A level whose reads and writes have ports of their own may read and write at the same time. Weights that came
    before their group began are one interval, drawn over the part of the groups before in whose gaps they came.

    `bytes` of a transfer, each at both of its ends: of a tile, what the port moves; of a whole group, what DRAM moves, and 0 for levels on
    the chip, of which engines keep times. `macs` are issued ones. Where several cores work, the one with most to do is drawn, and what the
    whole chip moves through shared levels and issues is parted over its tiles.
    """

    kinds: ClassVar[tuple[str, ...]] = KINDS
    causes: ClassVar[tuple[str, ...]] = CAUSES
    roles: ClassVar[tuple[str, ...]] = ROLES

    resources: tuple[str, ...]
    resource: Indices
    start_s: Floats
    end_s: Floats
    busy_s: Floats
    what: Indices
    cause: Indices
    role: Indices
    group: Indices
    op: Indices
    bytes: Floats
    macs: Floats

    def __len__(self) -> int:
        return len(self.resource)


_AT_A_TIME = 2**18
"""Intervals that are repeated before short ones are merged."""


class Log:
    """Intervals as they are played, in any unit of time; `resources` as those of `Intervals`.

    With a `resolution`, those shorter than it that begin within the same step of that length and agree in all that is not a time, bytes or
    MACs become one: from the first start to the last end, with the sums of what they were busy, moved and issued.
    """

    def __init__(self, resources: Sequence[str], resolution: float = 0.0) -> None:
        self.resources, self.resolution = tuple(resources), resolution
        self._index = {name: i for i, name in enumerate(self.resources)}
        self._whole = array("q")
        self._times = array("d")

    def add(
        self,
        resource: str,
        what: str,
        start: float,
        end: float,
        *,
        busy: float | None = None,
        size_bytes: float = 0.0,
        macs: float = 0.0,
        cause: str = "",
        role: str = "",
        op: int = -1,
    ) -> None:
        """One interval, unless it has no length; it is busy throughout unless `busy` says otherwise. `op` counts from the first op of the
        group."""
        if end <= start:
            return
        self._whole.extend((self._index[resource], _KIND[what], _CAUSE[cause], _ROLE[role], op))
        self._times.extend((start, end, end - start if busy is None else busy, size_bytes, macs))

    def __len__(self) -> int:
        return len(self._whole) // 5

    def repeat(self, begin: int, count: int, shift: float) -> None:
        """All from interval `begin` on happens `count` times more, each time so much later."""
        whole, times = (np.array(each).reshape(-1, 5)[begin:] for each in (self._whole, self._times))
        if not len(whole):
            return
        at_a_time = max(1, _AT_A_TIME // len(whole))
        for first in range(1, count + 1, at_a_time):
            shifts = shift * np.arange(first, min(first + at_a_time, count + 1))
            moved = np.tile(times, (len(shifts), 1))
            moved[:, :2] += np.repeat(shifts, len(times))[:, None]
            kinds, moved = _merged(np.tile(whole, (len(shifts), 1)), moved, self.resolution)
            self._whole.frombytes(kinds.tobytes())
            self._times.frombytes(moved.tobytes())

    def intervals(self, unit_s: float = 1.0, launch_s: float = 0.0) -> Intervals:
        """The columns of one group, in seconds from its start: a launch first, then all that was logged in units of `unit_s`."""
        times = np.array(self._times).reshape(-1, 5)
        whole, times = _merged(np.array(self._whole, np.int64).reshape(-1, 5), times, self.resolution)
        if launch_s:
            times[:, :3] *= unit_s
            times[:, :2] += launch_s
            times = np.concatenate([[(0.0, launch_s, launch_s, 0.0, 0.0)], times])
            whole = np.concatenate([[(self._index[LAUNCH], _KIND["launch"], -1, -1, -1)], whole])
        elif unit_s != 1.0:
            times[:, :3] *= unit_s
        start, end, busy, size_bytes, macs = np.ascontiguousarray(times.T)
        resource, what, cause, role, op = np.ascontiguousarray(whole.T)
        return Intervals(self.resources, resource, start, end, busy, what, cause, role, np.zeros(len(op), np.int64), op, size_bytes, macs)


def _merged(whole: Indices, times: Floats, resolution: float) -> tuple[Indices, Floats]:
    """Short intervals made one; see `Log`. The others keep their order and come first."""
    short = times[:, 1] - times[:, 0] < resolution
    if not short.any():
        return whole, times
    steps = np.floor_divide(times[short, 0], resolution).astype(np.int64)
    # Resource, kind, cause, role and op are few: one number, which sorts faster than rows.
    codes = whole[short] + 1
    code = np.ravel_multi_index(tuple(codes.T), tuple((codes.max(axis=0) + 1).tolist()))
    order = np.lexsort((code, steps))
    first = np.flatnonzero(np.concatenate([[True], (np.diff(steps[order]) != 0) | (np.diff(code[order]) != 0)]))
    some = times[short][order]
    merged = np.add.reduceat(some, first, axis=0)
    merged[:, 0], merged[:, 1] = np.minimum.reduceat(some[:, 0], first), np.maximum.reduceat(some[:, 1], first)
    return np.concatenate([whole[~short], whole[short][order[first]]]), np.concatenate([times[~short], merged])


class Schedule(NamedTuple):
    """How to make the intervals of one class of groups: of the group as a whole, and tile by tile, to a resolution in seconds, where an
    engine plays tiles."""

    whole: Callable[[], Intervals]
    tiles: Callable[[float], Intervals] | None = None


class Part(NamedTuple):
    """A group's intervals, its number, its start in the step and its first op."""

    intervals: Intervals
    group: int
    start_s: float
    first_op: int


def joined(resources: tuple[str, ...], parts: Iterable[Part]) -> Intervals:
    """The intervals of groups, each moved to its place in the step."""
    known = list(parts)
    sizes = [len(part.intervals) for part in known]

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part.intervals, name) for part in known])

    starts_s = np.repeat([part.start_s for part in known], sizes)
    ops = column("op")
    return Intervals(
        resources=resources,
        resource=column("resource"),
        start_s=column("start_s") + starts_s,
        end_s=column("end_s") + starts_s,
        busy_s=column("busy_s"),
        what=column("what"),
        cause=column("cause"),
        role=column("role"),
        group=np.repeat(np.array([part.group for part in known], np.int64), sizes),
        op=np.where(ops < 0, -1, ops + np.repeat(np.array([part.first_op for part in known], np.int64), sizes)),
        bytes=column("bytes"),
        macs=column("macs"),
    )
