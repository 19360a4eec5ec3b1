"""What a play says, and what it is told beside its mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sim.engines.ports import Span, Wait
from sim.intervals import Log


class Ahead(NamedTuple):
    """Weights that came before the start: at moments since `begin` a port worked `busy` cycles for them."""

    resource: str
    what: str
    begin: float
    busy: float
    size_bytes: float

    def write(self, log: Log, op: int) -> None:
        """As an interval."""
        log.add(self.resource, self.what, self.begin, 0.0, busy=self.busy, size_bytes=self.size_bytes, role="weights", op=op)


@dataclass(frozen=True, slots=True)
class Played:
    """A schedule [cycles]: its end, busy times and spans of units and levels, what the array waited for in all and from when to when, bytes
    (read, written) of the first core by level, after its last transfer from DRAM how long the ports of weights are idle within the last
    `span` cycles (when tiles used before have left their room), what came `ahead` of its start, and, if it was asked for, every tile."""

    end: float
    busy: dict[str, float]
    spans: dict[str, Span]
    waits: dict[str, Wait]
    moved_bytes: dict[str, tuple[float, float]]
    idle: float
    span: float
    ahead: tuple[Ahead, ...]
    log: Log | None

    @property
    def stalls(self) -> dict[str, float]:
        """Cycles that the array waited, by cause."""
        return {cause: wait.cycles for cause, wait in self.waits.items()}


class Besides(NamedTuple):
    """Element-wise work in the group of a GEMM: vector cycles of the first core, cycles that its tensors take the ports of each level (one
    for both directions, or one to read and one to write), and the bytes of them that DRAM reads and writes."""

    vector: float
    levels: Mapping[str, tuple[float, ...]]
    dram_bytes: tuple[float, float]


NOTHING = Besides(0.0, {}, (0.0, 0.0))


class GemmOps(NamedTuple):
    """Which op of its group the product is, and which one the element-wise work; -1 for several."""

    product: int = -1
    elementwise: int = -1
