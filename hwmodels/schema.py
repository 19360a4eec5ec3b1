"""The chip file as pydantic models: which fields there are, what they may hold, and their defaults.

Only `hwmodels.load` imports this module, because importing pydantic takes longer than everything else that loading a chip does. Annotations
are evaluated right here: as text, pydantic would compile each of them at import.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from hwmodels import units
from hwmodels.chip import Bandwidth, Chip, MatrixUnit, MemoryLevel, Provenance, Role, VectorUnit

Format = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int4"]
Accumulator = Literal["fp32", "fp16", "int32"]
Efficiency = Annotated[float, Gt(0), Le(1)]
Rate = Annotated[float, Ge(1e-6), Le(1e9)]
"""MACs per cycle, or cycles per element, of one unit: beyond are slips of the exponent, and cycles that no integer counts."""
PositiveInt = Annotated[int, Gt(0)]


class Quantity:
    """Annotates a field that is written with a unit and kept in SI base units."""

    def __init__(self, dimension: str, may_be_zero: bool = False) -> None:
        self.dimension = dimension
        self.may_be_zero = may_be_zero

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, text: object) -> float:
        """In the base unit of the dimension."""
        value = units.parse(text, self.dimension)
        if self.dimension == "size":
            value = float(round(value))
        if value == 0 and not self.may_be_zero:
            raise units.UnitError(f"'{text}' is zero", f"write more than 0, e.g. '{units.EXAMPLES[self.dimension]}'")
        return value


class BandwidthQuantity:
    """Annotates a bandwidth: one number that reads and writes share, or `{read, write}`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, given: object) -> Bandwidth:
        """Bytes per second or per cycle."""
        if not isinstance(given, dict):
            both = self._one(given)
            return Bandwidth(both.value, both.value, True, both.per_cycle)
        if set(given) != {"read", "write"}:
            raise units.UnitError(f"found the fields {', '.join(given) or 'none'}", "write one bandwidth, or {read: ..., write: ...}")
        read, write = self._one(given["read"]), self._one(given["write"])
        if read.per_cycle != write.per_cycle:
            raise units.UnitError("read and write have different units", "write both in B/s or both in B/cycle")
        return Bandwidth(read.value, write.value, False, read.per_cycle)

    def _one(self, text: object) -> units.BandwidthValue:
        bandwidth = units.parse_bandwidth(text)
        if bandwidth.value == 0:
            raise units.UnitError(f"'{text}' is zero", f"write more than 0, e.g. '{units.EXAMPLES['bandwidth']}'")
        return bandwidth


class Fields(BaseModel):
    """Frozen, nothing unknown, and no text taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _by_name(by_format: Mapping[Any, Any]) -> dict[str, Any]:
    return dict(by_format)


class Tile(Fields):
    """The granule of a tensor core's instruction, in elements."""

    m: PositiveInt
    n: PositiveInt
    k: PositiveInt


class Systolic(Fields):
    """`count` arrays of `rows` x `cols` PEs per core; `rates` are MACs per PE and cycle, of which `efficiency` is sustained."""

    kind: Literal["systolic"]
    count: PositiveInt
    rows: PositiveInt
    cols: PositiveInt
    dataflows: Annotated[list[Literal["ws", "os", "is"]], MinLen(1)]
    weight_preload: Literal["overlapped", "serial"] = "overlapped"
    rates: Annotated[dict[Format, Rate], MinLen(1)]
    accumulate: dict[Format, Accumulator]
    efficiency: Efficiency = 1.0

    def build(self) -> MatrixUnit:
        flows = tuple(dict.fromkeys(self.dataflows))
        shape = (self.rows, self.cols, (1, 1, 1))
        formats = _by_name(self.rates), _by_name(self.accumulate)
        return MatrixUnit(self.kind, self.count, *shape, flows, self.weight_preload, *formats, self.efficiency)


class TensorCore(Fields):
    """`count` matrix units per core that work on granules of `tile`; `rates` are MACs per unit and cycle."""

    kind: Literal["tensor_core"]
    count: PositiveInt
    tile: Tile
    rates: Annotated[dict[Format, Rate], MinLen(1)]
    accumulate: dict[Format, Accumulator]
    efficiency: Efficiency = 1.0

    def build(self) -> MatrixUnit:
        shape = (1, 1, (self.tile.m, self.tile.n, self.tile.k))
        return MatrixUnit(self.kind, self.count, *shape, (), "overlapped", _by_name(self.rates), _by_name(self.accumulate), self.efficiency)


class Cycles(Fields):
    """Cycles of one lane per element. All five are required: a default would be one chip's numbers given to every new one."""

    add: Rate
    mul: Rate
    exp: Rate
    rsqrt: Rate
    convert: Rate


class Vector(Fields):
    """`lanes` fp32 lanes per core; they sustain `efficiency` of their rate."""

    lanes: PositiveInt
    cycles: Cycles
    efficiency: Efficiency = 1.0


class Memory(Fields):
    """One level; capacity and bandwidth are per core where `per` is `core`; of the bandwidth, which is that of all `channels` together,
    `efficiency` is sustained. Tiles in DRAM lie on whole bursts; tiles on their way to a level further in wait for the `latency`. For the
    record are how many channels there are, bursts on chip, and the latency of levels that only the array reads."""

    capacity: Annotated[float, Quantity("size")]
    bandwidth: Annotated[Bandwidth, BandwidthQuantity()]
    per: Literal["chip", "core"] = "chip"
    holds: Annotated[list[Role], MinLen(1)] = ["weights", "activations", "psums"]
    channels: PositiveInt = 1
    latency: Annotated[float, Quantity("time", may_be_zero=True)] = 0.0
    burst: Annotated[float, Quantity("size")] = 1.0
    double_buffered: bool = True
    multicast: bool = False
    technology: str = ""
    ecc: Literal["none", "sideband", "inline"] = "none"
    efficiency: Efficiency = 1.0

    def build(self, name: str) -> MemoryLevel:
        return MemoryLevel(
            name=name,
            capacity_bytes=self.capacity,
            bandwidth=self.bandwidth,
            per=self.per,
            holds=frozenset(self.holds),
            channels=self.channels,
            latency_s=self.latency,
            burst_bytes=int(self.burst),
            double_buffered=self.double_buffered,
            multicast=self.multicast,
            technology=self.technology,
            ecc=self.ecc,
            efficiency=self.efficiency,
        )


class Overhead(Fields):
    """What each fusion group pays besides its work: a launch, and, where a library rearranges the weights of a product of several rows
    before it multiplies, their bytes at the bandwidth `pack` (at DRAM's, if that is less); then it multiplies. Few rows are multiplied
    without, `unpacked_rows` in each pass over the weights, where that is stated and takes less. Where `hidden` is stated, software computes
    the scores that a mask hides as it does the others, and takes so much more for the exponential of each."""

    launch: Annotated[float, Quantity("time", may_be_zero=True)] = 0.0
    pack: Annotated[Bandwidth, BandwidthQuantity()] | None = None
    unpacked_rows: Annotated[int, Field(ge=1)] | None = None
    hidden: Annotated[float, Quantity("time", may_be_zero=True)] | None = None


class PrimitiveEnergy(Fields):
    """Joules per element of each vector primitive; what is not stated follows from the process."""

    add: Annotated[float, Quantity("energy", may_be_zero=True)] | None = None
    mul: Annotated[float, Quantity("energy", may_be_zero=True)] | None = None
    exp: Annotated[float, Quantity("energy", may_be_zero=True)] | None = None
    rsqrt: Annotated[float, Quantity("energy", may_be_zero=True)] | None = None
    convert: Annotated[float, Quantity("energy", may_be_zero=True)] | None = None


class ByteEnergy(Fields):
    """Per byte read from or written to a level; `wire` besides for each root of a MiB of an on-chip one."""

    access: Annotated[float, Quantity("byte energy", may_be_zero=True)] | None = None
    wire: Annotated[float, Quantity("byte energy", may_be_zero=True)] | None = None


class EnergyFields(Fields):
    """What events take; `static` flows always, `leakage` by area."""

    mac: dict[Format, Annotated[float, Quantity("energy", may_be_zero=True)]] = {}
    vector: PrimitiveEnergy = PrimitiveEnergy()
    memory: dict[str, ByteEnergy] = {}
    static: Annotated[float, Quantity("power", may_be_zero=True)] | None = None
    leakage: Annotated[float, Quantity("power density", may_be_zero=True)] | None = None


class AreaFields(Fields):
    """What parts take; `mac` of the formats that have hardware of their own, per MAC and cycle; `phy` by DRAM bandwidth."""

    mac: dict[Format, Annotated[float, Quantity("area", may_be_zero=True)]] = {}
    lane: Annotated[float, Quantity("area", may_be_zero=True)] | None = None
    memory: dict[str, Annotated[float, Quantity("byte area", may_be_zero=True)]] = {}
    phy: Annotated[float, Quantity("PHY area", may_be_zero=True)] | None = None
    fixed: Annotated[float, Quantity("area", may_be_zero=True)] | None = None
    other: Annotated[float, Ge(0), Lt(1)] | None = None


class ChipFile(Fields):
    """All fields of a chip file; `base` is gone, because the files were merged before."""

    name: Annotated[str, MinLen(1)]
    aliases: list[str] = []
    sources: Annotated[list[str], MinLen(1)]
    standing: Literal["datasheet", "measured", "assumed"]
    technology: str = ""
    default_format: Format
    clock: Annotated[float, Quantity("frequency")]
    cores: PositiveInt
    tdp: Annotated[float, Quantity("power")] | None = None
    matrix: Annotated[Systolic | TensorCore, Field(discriminator="kind")]
    vector: Vector
    memory: Annotated[dict[str, Memory], MinLen(2)]
    overhead: Overhead = Overhead()
    resident_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    process: Annotated[float, Quantity("process")] | None = None
    energy: EnergyFields | None = None
    area: AreaFields | None = None

    def build(self, provenance: dict[str, Provenance]) -> Chip:
        return Chip(
            name=self.name,
            default_format=self.default_format,
            clock_hz=self.clock,
            cores=self.cores,
            matrix=self.matrix.build(),
            vector=VectorUnit(self.vector.lanes, self.vector.cycles.model_dump(), self.vector.efficiency),
            memory=tuple(level.build(name) for name, level in self.memory.items()),
            launch_s=self.overhead.launch,
            pack=self.overhead.pack,
            unpacked_rows=self.overhead.unpacked_rows,
            hidden_s=self.overhead.hidden,
            resident_share=self.resident_share,
            tdp_w=self.tdp,
            technology=self.technology,
            aliases=tuple(self.aliases),
            sources=tuple(self.sources),
            provenance=provenance,
            process_nm=self.process,
        )
