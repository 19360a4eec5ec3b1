"""A chip as numbers: what the YAML file becomes after it was validated.

Every quantity is in SI base units (seconds, bytes, hertz, bytes per second) and may be a NumPy array where a sweep evaluates many chips at
once. Nothing here reads a file; `hwmodels.schema` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

Number: TypeAlias = float | NDArray[Any]
Standing: TypeAlias = Literal["datasheet", "measured", "assumed", "fitted"]
Role: TypeAlias = Literal["weights", "activations", "psums"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one number comes from."""

    source: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second, or bytes per clock cycle, of one level and (if the level is per core) of one core.

    `shared` says that reads and writes compete for one port; then `read` equals `write` and is the port's total.
    """

    read: Number
    write: Number
    shared: bool
    per_cycle: bool

    def read_bytes_per_s(self, clock_hz: Number) -> Number:
        return self.read * clock_hz if self.per_cycle else self.read

    def write_bytes_per_s(self, clock_hz: Number) -> Number:
        return self.write * clock_hz if self.per_cycle else self.write

    def scaled(self, factor: Number) -> Bandwidth:
        """Both directions times a factor."""
        return replace(self, read=self.read * factor, write=self.write * factor)


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """The matrix engines of one core.

    systolic: `rows` x `cols` PEs each, `rates[format]` MACs per PE and cycle.
    tensor_core: works on granules of `tile` = (m, n, k), `rates[format]` MACs per unit and cycle; rows = cols = 1.
    `efficiency` is the share of the rates that is sustained.
    """

    kind: Literal["systolic", "tensor_core"]
    count: int
    rows: int
    cols: int
    tile: tuple[int, int, int]
    dataflows: tuple[str, ...]
    weight_preload: Literal["overlapped", "serial"]
    rates: Mapping[str, Number]
    accumulate: Mapping[str, str]
    efficiency: Number = 1.0


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """`lanes` fp32 lanes per core; `cycles[primitive]` cycles of one lane per element, at peak; `efficiency` of that is sustained."""

    lanes: Number
    cycles: Mapping[str, Number]
    efficiency: Number = 1.0


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """One level of memory; `capacity_bytes` and `bandwidth` are per core where `per` is "core"; `efficiency` of the latter is sustained."""

    name: str
    capacity_bytes: Number
    bandwidth: Bandwidth
    per: Literal["chip", "core"]
    holds: frozenset[Role]
    channels: int
    latency_s: Number
    burst_bytes: int
    double_buffered: bool
    multicast: bool
    technology: str
    ecc: Literal["none", "sideband", "inline"]
    efficiency: Number = 1.0


@dataclass(frozen=True, slots=True)
class Energy:
    """What events of a chip take: joules per issued MAC by compute format, per vector primitive and element, per byte read from or written
    to a level. On-chip levels take `wire_j` per byte more for each root of a MiB that one of them holds. `static_w` always flows, and
    `leakage_w_per_mm2` by area."""

    mac_j: Mapping[str, Number]
    vector_j: Mapping[str, Number]
    access_j: Mapping[str, Number]
    wire_j: Mapping[str, Number]
    static_w: Number
    leakage_w_per_mm2: Number


@dataclass(frozen=True, slots=True)
class Area:
    """What parts of a chip take [mm2]: a MAC per cycle of each format that has hardware of its own, a vector lane, a byte of each on-chip
    level, a byte per second of DRAM bandwidth, what is fixed; `other_share` of the die is none of these."""

    mac_mm2: Mapping[str, Number]
    lane_mm2: Number
    memory_mm2: Mapping[str, Number]
    phy_mm2: Number
    fixed_mm2: Number
    other_share: Number


@dataclass(frozen=True, slots=True)
class Chip:
    """A validated chip. `memory` runs from the outermost level (DRAM) inwards; `pack` is the bandwidth at which a library rearranges the
    weights of a product of several rows before it multiplies (None: it does not); `unpacked_rows` how many of a few rows it takes in each
    pass over weights as they lie, where that is less (None: it always packs); `hidden_s` what software that computes the scores that a
    mask hides takes for each besides (None: it skips them); `process_nm` [nm], `energy` and `area` are None where they are not known."""

    name: str
    default_format: str
    clock_hz: Number
    cores: Number
    matrix: MatrixUnit
    vector: VectorUnit
    memory: tuple[MemoryLevel, ...]
    launch_s: Number
    resident_share: Number
    tdp_w: float | None
    technology: str
    aliases: tuple[str, ...]
    sources: tuple[str, ...]
    provenance: Mapping[str, Provenance]
    pack: Bandwidth | None = None
    unpacked_rows: Number | None = None
    hidden_s: Number | None = None
    process_nm: float | None = None
    energy: Energy | None = None
    area: Area | None = None

    @property
    def dram(self) -> MemoryLevel:
        return self.memory[0]

    def feeds_another(self, level: MemoryLevel) -> bool:
        """Whether tiles go from a level to one further in, which holds some of the same: only these wait for its `latency_s`."""
        place = next(i for i, each in enumerate(self.memory) if each is level)
        return any(level.holds & inner.holds for inner in self.memory[place + 1 :])

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats in which the matrix unit multiplies."""
        return tuple(self.matrix.rates)

    def peak_macs_per_s(self, number_format: str) -> Number:
        """Datasheet peak of the matrix units of the whole chip in MACs per second (FLOP = 2 x MAC)."""
        return self.macs_per_cycle(number_format) * self.clock_hz

    def macs_per_cycle(self, number_format: str) -> Number:
        """MACs that the matrix units of the whole chip do in a cycle."""
        unit = self.matrix
        return self.cores * unit.count * unit.rows * unit.cols * unit.rates[number_format]

    def primitive_s(self, primitive: str) -> Number:
        """Seconds per element of one vector primitive with all lanes of the chip busy."""
        return self.vector.cycles[primitive] / (self.vector.lanes * self.cores * self.clock_hz)

    def capacity_bytes(self, level: MemoryLevel) -> Number:
        """Capacity of a level over the whole chip."""
        return level.capacity_bytes * self.cores if level.per == "core" else level.capacity_bytes

    def read_bytes_per_s(self, level: MemoryLevel) -> Number:
        """Read bandwidth of a level over the whole chip."""
        bandwidth = level.bandwidth.read_bytes_per_s(self.clock_hz)
        return bandwidth * self.cores if level.per == "core" else bandwidth

    def write_bytes_per_s(self, level: MemoryLevel) -> Number:
        """Write bandwidth of a level over the whole chip."""
        bandwidth = level.bandwidth.write_bytes_per_s(self.clock_hz)
        return bandwidth * self.cores if level.per == "core" else bandwidth

    def sustained(self) -> Chip:
        """The chip at the rates and bandwidths that it sustains; itself where that is all of them."""
        unit, vector = self.matrix, self.vector
        numbers = (unit.efficiency, vector.efficiency, *(level.efficiency for level in self.memory))
        if all(isinstance(number, float) and number == 1.0 for number in numbers):
            return self
        rates = {name: rate * unit.efficiency for name, rate in unit.rates.items()}
        cycles = {name: count / vector.efficiency for name, count in vector.cycles.items()}
        memory = tuple(
            replace(level, bandwidth=level.bandwidth.scaled(level.efficiency), efficiency=1.0) for level in self.memory
        )
        return replace(
            self,
            matrix=replace(unit, rates=rates, efficiency=1.0),
            vector=replace(vector, cycles=cycles, efficiency=1.0),
            memory=memory,
        )
