"""Energy and area of operators, memories and interfaces by process node, from published tables.

Sources, cited below by name:

* Horowitz: "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9 (45 nm, 0.9 V).
* Jouppi: Jouppi et al., "Ten lessons from three generations shaped Google's TPUv4i", ISCA 2021, table 2 (45 nm and 7 nm).
* Dally: "High-performance hardware for machine learning", NIPS 2015 tutorial (operators synthesised in TSMC 45 nm).
* Shao: Shao et al., "Aladdin", ISCA 2014 (a register bit in a 40 nm library).
* Stillmaker: Stillmaker and Baas, "Scaling equations for the accurate prediction of CMOS device performance from 180 nm to 7 nm",
  Integration 58, 2017, doi:10.1016/j.vlsi.2017.02.002 (area by node). Its energies are not used: they fall 21-fold from 45 nm to 7 nm,
  those that Jouppi's table 2 states about 2.6-fold.
* Dally 2020: Dally, Turakhia and Han, "Domain-specific hardware accelerators", CACM 63(7), 2020, p. 56: a large memory is small ones and
  wires between them, at 100 fJ per bit and mm; "communication energy remains roughly constant" from node to node.
* Keckler: Keckler et al., "GPUs and the future of parallel computing", IEEE Micro 31(5), 2011, table 1 (40 nm: 310 pJ for 256 bits over
  10 mm, 121 fJ per bit and mm).
* O'Connor: O'Connor et al., "Fine-grained DRAM", MICRO 2017 (HBM2).
* Kim: Kim et al., "ARK", MICRO 2022, table 4 (two HBM PHYs of 14.8 mm2 in 7 nm).
* Zhang: Zhang et al., "LLMCompass", ISCA 2024 (areas read off photographs of the dies of an A100 and an MI210).

Between nodes all of this is interpolated in logarithms, but for wires, whose energy follows their length. Below 7 nm it goes on with what
TSMC states of its nodes. The four factors
`ARRAY_ENERGY`, `LOGIC_AREA`, `MACRO_EFFICIENCY` and `OTHER_SHARE` are assumed; they are one set for all chips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

SMALLEST_NM, LARGEST_NM = 3.0, 45.0
"""Nodes that the tables cover."""

OPERATION_PJ: Mapping[str, tuple[float, float]] = {
    "int8 add": (0.03, 0.007),
    "int32 add": (0.1, 0.03),
    "fp16 add": (0.4, 0.16),
    "fp32 add": (0.9, 0.38),
    "int8 mul": (0.2, 0.07),
    "fp16 mul": (1.1, 0.34),
    "fp32 mul": (3.7, 1.31),
    "bf16 mul": (1.1 * 0.21 / 0.34, 0.21),
}
"""pJ per operation at 45 nm (Horowitz) and 7 nm (Jouppi). At 45 nm bf16 was not there: it keeps its 7 nm share of fp16."""

ACCESS_PJ: Mapping[int, tuple[float, float]] = {8 * 2**10: (10.0, 7.5), 32 * 2**10: (20.0, 8.5), 2**20: (100.0, 14.0)}
"""pJ per 64-bit access to so many bytes at 45 nm (Horowitz, caches) and 7 nm (Jouppi, SRAM). Dally 2020 has 3.2 pJ for 8 KB at 14 nm."""

ENERGY_BELOW_7: Mapping[float, float] = {7: 1.0, 5: 0.70, 4: 0.66, 3: 0.50}
"""Energy relative to 7 nm at the same speed: TSMC states about 30 % less for N5 than N7 (IEDM 2019), 25 to 30 % less for N3 than N5; N4
assumed just below N5."""

OPERATOR_UM2: Mapping[str, float] = {
    "int8 add": 36.0,
    "int32 add": 137.0,
    "fp16 add": 1360.0,
    "fp32 add": 4184.0,
    "int8 mul": 282.0,
    "fp16 mul": 1640.0,
    "fp32 mul": 7700.0,
    "bf16 mul": 1640.0 * 0.21 / 0.34,
}
"""um2 per operator at 45 nm (Dally). bf16 has the share of fp16 that it has in energy (Jouppi)."""

REGISTER_BIT_UM2 = 5.98
"""um2 of a register bit at 40 nm (Shao)."""

AREA: Mapping[float, float] = {
    45: 1.0,
    32: 0.46,
    20: 0.21,
    16: 0.19,
    14: 0.17,
    10: 0.10,
    7: 0.059,
    5: 0.059 / 1.84,
    4: 0.059 / 1.95,
    3: 0.059 / 2.94,
}
"""Area of logic relative to 45 nm: Stillmaker's table of area factors down to 7 nm; then densities that TSMC states: N5 1.84 x N7, N4
1.06 x N5, N3 1.6 x N5."""

BITCELL_UM2: Mapping[float, float] = {45: 0.346, 28: 0.127, 22: 0.092, 16: 0.07, 10: 0.042, 7: 0.027, 5: 0.021, 4: 0.021, 3: 0.0199}
"""um2 of a high-density SRAM cell: Intel 45 and 22 nm (IEDM 2007, VLSI 2012), TSMC 28, 16, 10, 7, 5 and 3 nm (IEDM 2009, ISSCC 2014, 2017,
2017, 2020, IEDM 2022)."""

ARRAY_ENERGY = 2.0
"""Energy of a PE over that of its arithmetic: operand registers, clock, wires and control take as much again."""

LOGIC_AREA = 2.0 / 0.7
"""Area of placed logic over its operators and registers: as much again for clock, control, test and wiring, rows filled to 70 %."""

MACRO_EFFICIENCY = 0.35
"""Share of an on-chip memory that is cells: periphery, banking, redundancy, ECC and wiring take the rest. Bare macros reach nearly twice
that; the rows of NVDLA's published areas that differ in their buffer imply about 0.24."""

OTHER_SHARE = 0.35
"""Share of a die outside arrays, vector lanes, memories and DRAM PHYs: control, network on chip, host interface, pads. On the TPU v1
buffer, array and accumulators take 29, 24 and 6 % (Jouppi et al., ISCA 2017, figure 2): 41 % is left, a part of it DRAM ports and
activation units."""

LEAKAGE_W_PER_MM2 = 0.064
"""Idle power by area of server chips, the mean of a TPU v1, a K80 die and a Haswell: 28 W / 331 mm2, 25 / 561, 41 / 662 (Jouppi et al.,
ISCA 2017, table 2)."""


class Dram(NamedTuple):
    """Energy of a bit from the cell to the chip, and area of the chip's PHY per bandwidth (None: not published)."""

    pj_per_bit: float
    phy_mm2_per_gb_s: float | None
    source: str


_HBM = "O'Connor et al., MICRO 2017: 3.92 pJ/bit of HBM2; Kim et al., MICRO 2022: 14.8 mm2 per HBM PHY"
_DDR = "Jouppi et al., ISCA 2021, table 2: 1300 pJ per 64 bits; Zhang et al., ISCA 2024: 1.45 mm2 per 32 bits of DDR5"
_LPDDR = "order of device and interface together; Zhang et al., ISCA 2024: 1.45 mm2 per 32 bits of DDR5"
DRAM: Mapping[str, Dram] = {
    "HBM2": Dram(3.92, 14.8 / 307.2, f"{_HBM} (a stack gives 307 GB/s)"),
    "HBM2E": Dram(3.92, 14.8 / 460.8, f"{_HBM} (a stack gives 461 GB/s), both taken for HBM2E"),
    "HBM3": Dram(3.92, 14.8 / 819.2, f"{_HBM} (a stack gives 819 GB/s), both taken for HBM3"),
    "HBM3E": Dram(3.92, 14.8 / 1177.6, f"{_HBM} (a stack gives 1178 GB/s), both taken for HBM3E"),
    "LPDDR4": Dram(5.0, 1.45 / 17.1, f"{_LPDDR} (17.1 GB/s)"),
    "LPDDR5": Dram(4.5, 1.45 / 25.6, f"{_LPDDR} (25.6 GB/s)"),
    "DDR3": Dram(1300 / 64, 1.45 / 8.5, f"{_DDR} (8.5 GB/s)"),
    "DDR4": Dram(1300 / 64, 1.45 / 12.8, f"{_DDR} (12.8 GB/s)"),
    "DDR5": Dram(1300 / 64, 1.45 / 19.2, f"{_DDR} (19.2 GB/s), DDR4's energy taken for it"),
    "GDDR6": Dram(415 / 64, None, "Jouppi et al., ISCA 2021, table 2: 350 to 480 pJ per 64 bits"),
}
"""By the name that a chip file gives to its DRAM's technology. PHYs are analogue and keep their area from node to node (Zhang)."""


def between(table: Mapping[float, float], node_nm: float) -> float:
    """A table's value at a node: interpolated in logarithms of both; exact at its entries."""
    if node_nm in table:
        return table[node_nm]
    above = min(node for node in table if node > node_nm)
    below = max(node for node in table if node < node_nm)
    part = math.log(node_nm / below) / math.log(above / below)
    return math.exp((1 - part) * math.log(table[below]) + part * math.log(table[above]))


def energy_at(at_45_and_7: tuple[float, float], node_nm: float) -> float:
    """An energy that is published at 45 and 7 nm, at another node, in the unit in which it is given."""
    if node_nm < 7:
        return at_45_and_7[1] * between(ENERGY_BELOW_7, node_nm)
    return between(dict(zip((45.0, 7.0), at_45_and_7, strict=True)), node_nm)


def multiplies(number_format: str) -> bool:
    """Whether energy and area of a multiplier of this format follow from the tables."""
    return number_format in ("int4", "fp8") or f"{number_format} mul" in OPERATION_PJ


def operation_j(operation: str, node_nm: float) -> float:
    """Joules of `int8 mul`, `fp32 add`, ... An int4 multiplier is a quarter of int8's, fp8's is taken as int8's."""
    if operation == "int4 mul":
        return operation_j("int8 mul", node_nm) / 4
    return energy_at(OPERATION_PJ["int8 mul" if operation == "fp8 mul" else operation], node_nm) / 1e12


def mac_j(number_format: str, accumulator: str, node_nm: float) -> float:
    """Joules [J] of one multiply-accumulate in an array, with all that feeds it."""
    return ARRAY_ENERGY * (operation_j(f"{number_format} mul", node_nm) + operation_j(f"{accumulator} add", node_nm))


POLYNOMIAL = 4
"""Multiply-adds that stand for an exponential, a sine or a reciprocal root."""


def primitive_j(primitive: str, node_nm: float) -> float:
    """Joules [J] of one vector primitive on one fp32 element: the operation, two operands read from and a result written to a register file
    of the class of an 8 KB SRAM."""
    add, mul = operation_j("fp32 add", node_nm), operation_j("fp32 mul", node_nm)
    series = POLYNOMIAL * (add + mul)
    own = {"add": add, "mul": mul, "exp": series, "rsqrt": series, "convert": operation_j("int32 add", node_nm)}[primitive]
    return own + 12 * energy_at(ACCESS_PJ[8 * 2**10], node_nm) / 8 / 1e12


def sram_j_per_byte(node_nm: float) -> tuple[float, float]:
    """(access, wire) [J/B]: an SRAM of C MiB takes access + wire x sqrt(C) per byte. 8 KB is as published at 45 and 7 nm, 1 MB at 7 nm, and
    32 KB there is met within 7 %.

    Wires keep their energy per mm from node to node (Dally 2020), so that `wire` goes with the side of a MiB, which the cell sets. Through
    Jouppi's 1 MB that is 138 fJ per bit and mm; Dally 2020 and Keckler have 100 and 121. Horowitz's 32 KB and 1 MB are caches, with tags
    and ways that a managed memory does not read: this is 0.6 and 0.3 of theirs.
    """
    small_mib = 8 * 2**10 / 2**20
    per_byte = 8e12
    wire_7 = (ACCESS_PJ[2**20][1] - ACCESS_PJ[8 * 2**10][1]) / per_byte / (1 - math.sqrt(small_mib))
    wire = wire_7 * math.sqrt(between(BITCELL_UM2, node_nm) / BITCELL_UM2[7])
    return energy_at(ACCESS_PJ[8 * 2**10], node_nm) / per_byte - wire * math.sqrt(small_mib), wire


def operator_mm2(operator: str, node_nm: float) -> float:
    """Area [mm2] of one operator before anything is placed around it."""
    if operator == "int4 mul":
        return operator_mm2("int8 mul", node_nm) / 4
    return OPERATOR_UM2["int8 mul" if operator == "fp8 mul" else operator] * between(AREA, node_nm) / 1e6


def registers_mm2(bits: int, node_nm: float) -> float:
    """Area [mm2] of registers before anything is placed around them."""
    return bits * REGISTER_BIT_UM2 * between(AREA, node_nm) / between(AREA, 40) / 1e6


def mac_mm2(number_format: str, bits: int, accumulator: str, node_nm: float) -> float:
    """Area [mm2] of one PE: multiplier, adder, two weight registers, one for the operand that streams, one for the sum; placed."""
    arithmetic = operator_mm2(f"{number_format} mul", node_nm) + operator_mm2(f"{accumulator} add", node_nm)
    sum_bits = 16 if accumulator == "fp16" else 32
    return LOGIC_AREA * (arithmetic + registers_mm2(3 * bits + sum_bits, node_nm))


def lane_mm2(node_nm: float) -> float:
    """Area [mm2] of one fp32 lane: multiplier, adder, a quarter of a special-function unit as large as both, 32 registers; placed."""
    fused = operator_mm2("fp32 mul", node_nm) + operator_mm2("fp32 add", node_nm)
    return LOGIC_AREA * (1.25 * fused + operator_mm2("int32 add", node_nm) + registers_mm2(32 * 32, node_nm))


def sram_mm2_per_byte(node_nm: float) -> float:
    """Area [mm2/B] of on-chip memory with its periphery."""
    return 8 * between(BITCELL_UM2, node_nm) / MACRO_EFFICIENCY / 1e6
