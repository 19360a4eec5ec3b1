"""What a played schedule is made of: things that do one job at a time, in the order in which the mapping hands them out.

A component answers "from when could you?" and accepts a job; it never chooses. Start times are maxima of sums of durations, so that no job
ends later if anything is faster, and so that what arrives early cannot push in. Times are cycles of the clock, not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hwmodels.chip import Chip, MemoryLevel


def weights_level(chip: Chip) -> MemoryLevel:
    """Where weights come to from DRAM: the outermost level on the chip that holds them."""
    return next(level for level in chip.memory[1:] if "weights" in level.holds)


def later(one: float, other: float) -> bool:
    """Whether one time is after another by more than rounding, so that a cause is not a matter of it."""
    return one - other > 1e-9 * one


@dataclass(slots=True)
class Unit:
    """A matrix or vector unit, or one direction of a memory port: one job at a time, none before the one handed out earlier.

    It works from `first` to `last`, of which it is `busy`; `first` is negative before its first job.
    """

    name: str
    free: float = 0.0
    busy: float = 0.0
    first: float = -1.0
    last: float = 0.0

    def earliest(self, ready: float) -> float:
        """When a job that is ready then could begin."""
        return max(self.free, ready)

    def issue(self, start: float, duration: float) -> float:
        """Take a job; returns its end. Raises `ValueError` before the earliest start: no job overlaps the one before it."""
        if start < self.free:
            raise ValueError(f"{self.name} is taken until {self.free}, asked for {start}")
        self.free = start + duration
        if duration:
            self.busy += duration
            self.last = self.free
            if self.first < 0.0:
                self.first = start
        return self.free

    def hold(self, until: float) -> None:
        """Stay taken, without working, at least until then."""
        self.free = max(self.free, until)


class Span(NamedTuple):
    """First and last moment [cycles]."""

    first: float
    last: float


@dataclass(slots=True)
class Wait:
    """What the array lost to one cause: cycles in all, between `first` and `last`."""

    cycles: float = 0.0
    first: float = -1.0
    last: float = 0.0

    def add(self, start: float, end: float) -> bool:
        """One more wait; whether it is longer than rounding."""
        self.cycles += end - start
        if not later(end, start):
            return False
        self.last = end
        if self.first < 0.0:
            self.first = start
        return True


@dataclass(slots=True)
class Tail:
    """What comes after the last transfer from DRAM: until `last`, the ports that weights come through have been `busy` so long. They are
    DRAM's `reader` and the `writer` of the outermost level on the chip that holds weights."""

    reader: Unit
    writer: Unit
    last: float
    busy: float = 0.0

    @property
    def busy_now(self) -> float:
        return self.reader.busy + self.writer.busy

    def mark(self) -> None:
        """A transfer from DRAM has been handed out. Jobs handed out later begin on neither port before `last`."""
        reader, writer = self.reader, self.writer
        self.last = max(self.last, reader.free, writer.free)
        self.busy = reader.busy + writer.busy

    def idle(self, begin: float, end: float) -> float:
        """Cycles between two moments after `last` in which neither port works, at least."""
        return max(0.0, end - begin - (self.busy_now - self.busy))


class Window(NamedTuple):
    """When weights of a later group may come [cycles]: for so long the ports are `idle`, at moments of the last `span` of a group, in which
    there is room for so many bytes on the chip."""

    idle: float
    span: float
    room_bytes: float


@dataclass(slots=True)
class Port:
    """Both directions of one memory level and the cycles that a byte takes; one unit if they share it.

    The shares are by how much the bytes that all cores ask of it exceed those of the core that is played.
    """

    name: str
    read_cycles_per_byte: float
    write_cycles_per_byte: float
    latency: float
    reader: Unit
    writer: Unit
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    read_share: float = 1.0
    write_share: float = 1.0

    @property
    def busy(self) -> float:
        """Cycles that the busier direction works."""
        return max(self.reader.busy, self.writer.busy)

    def reads(self, size_bytes: float, of_all: bool = False) -> float:
        """Count bytes that leave; the cycles that this takes, with what other cores ask unless it is `of_all` of them."""
        self.read_bytes += size_bytes
        return size_bytes * self.read_cycles_per_byte * (1.0 if of_all else self.read_share)

    def writes(self, size_bytes: float, of_all: bool = False) -> float:
        """Count bytes that arrive; the cycles that this takes."""
        self.written_bytes += size_bytes
        return size_bytes * self.write_cycles_per_byte * (1.0 if of_all else self.write_share)


@dataclass(slots=True)
class Ports:
    """The ports of a chip as one core sees them, and its units."""

    of_level: dict[str, Port]
    matrix: Unit = field(default_factory=lambda: Unit("matrix"))
    vector: Unit = field(default_factory=lambda: Unit("vector"))

    @classmethod
    def of(cls, chip: Chip) -> Ports:
        """All ports, each at the rate of one core's level if the level belongs to a core."""
        clock_hz, found = float(chip.clock_hz), {}
        for level in chip.memory:
            bandwidth, reader = level.bandwidth, Unit(level.name)
            writer = reader if bandwidth.shared else Unit(level.name)
            per_byte = clock_hz / float(bandwidth.read_bytes_per_s(clock_hz)), clock_hz / float(bandwidth.write_bytes_per_s(clock_hz))
            found[level.name] = Port(level.name, *per_byte, float(level.latency_s) * clock_hz, reader, writer)
        return cls(found)

    def tail(self, chip: Chip) -> Tail:
        """Nothing has come from DRAM yet; it could not answer before its latency."""
        dram, home = self.of_level[chip.dram.name], self.of_level[weights_level(chip).name]
        return Tail(dram.reader, home.writer, dram.latency)

    @property
    def units(self) -> list[Unit]:
        """Everything that can be taken, once."""
        found = [self.matrix, self.vector]
        for port in self.of_level.values():
            found.append(port.reader)
            if port.writer is not port.reader:
                found.append(port.writer)
        return found

    @property
    def busy(self) -> dict[str, float]:
        """Busy cycles of each unit and level."""
        units = {"matrix": self.matrix.busy, "vector": self.vector.busy}
        return units | {name: port.busy for name, port in self.of_level.items()}

    @property
    def spans(self) -> dict[str, Span]:
        """From when to when each unit and level that does anything works."""
        spans: dict[str, Span] = {}
        for unit in self.units:
            if unit.busy:
                first, last = spans.get(unit.name, (unit.first, unit.last))
                spans[unit.name] = Span(min(first, unit.first), max(last, unit.last))
        return spans


def move(source: Unit, sink: Unit, ready: float, source_cycles: float, sink_cycles: float) -> tuple[float, float]:
    """A tile from one port to another: (start, end).

    It flows through: the side that it leaves begins, the other takes it while it comes and is done last: a slow memory does not keep
    a fast one from its other work.
    """
    if not source_cycles and not sink_cycles:
        return ready, ready  # nothing moves, and keeps no port from what comes later
    start = max(source.free, ready)
    left = source.issue(start, source_cycles)
    if not sink_cycles:
        return start, left
    if source is sink:
        return start, sink.issue(left, sink_cycles)
    return start, max(left, sink.issue(max(sink.free, start, left - sink_cycles), sink_cycles))
