"""Area and power that are published of chips, beside what the model says of them: `python -m tests.published_chips` prints the table.

Area follows from the process and one set of assumed factors. Power of a server chip is that of the peak MAC rate of its default format with
all the traffic of a prefill of llama-3.2-3b, 2048 tokens, tiled engine, beside the TDP. Of NPUs, which no language model fits, it is that
of their MACs, of the operands that they read from their buffer and of leakage, DRAM left out, as in what is published of them:

* NVDLA: all MACs beside the peak, and 51 % of them (269 frames/s of ResNet-50 at 3.9 GMAC) beside the average. Areas at 28 nm, buffers and
  frames/s are in the primer's source (github.com/nvdla/doc); what is said at 16 nm was in a later edition and was not read again.
* The NPU of Tesla's FSD chip: 384 B of its SRAM per cycle for 96 x 96 MACs.
* ITA: per TOPS, MACs alone, as its paper states a ratio and operands stay in latches.

Voltages are nominal; chips that are published at a lowered voltage (Simba's 0.11 pJ per operation) are left out.
"""

from __future__ import annotations

from typing import NamedTuple

from hwmodels import Chip, load_chip
from hwmodels.costs import area_mm2, byte_j, static_w
from hwmodels.formulas import technology
from sim import predict
from tests.chips import chip_of

NVDLA = """\
name: nvdla-{macs}
sources: ["NVDLA primer, nvdla.org: example area and performance, int8"]
standing: datasheet
default_format: int8
clock: 1 GHz
cores: 1
matrix: {{kind: tensor_core, count: 1, tile: {{m: 1, n: {cells}, k: 64}}, rates: {{int8: {macs}}}, accumulate: {{int8: int32}}}}
vector: {{lanes: {lanes}, cycles: {{add: 1, mul: 1, exp: 1, rsqrt: 1, convert: 1}}}}
memory:
  dram: {{capacity: 1 GiB, bandwidth: 20 GB/s, technology: LPDDR4}}
  buffer: {{capacity: {buffer_kb} kB, bandwidth: 256 B/cycle}}
process: {process}
energy: {{leakage: 10 mW/mm2}}
area: {{phy: 0 mm2/(GB/s)}}
"""
NVDLA_28_NM_MM2 = {(2048, 512): 5.5, (1024, 256): 3.0, (512, 256): 2.3, (256, 256): 1.7, (128, 256): 1.4, (64, 128): 0.91, (32, 128): 0.85}
"""All rows of the primer's table, by MACs and buffer [kB]. Activation outputs per cycle, 1 to 16 there, are taken to go with the MACs."""
MACS_PER_FRAME, FRAMES_PER_S = 3.9e9, 269.0
OPERANDS = 64 + 2048 / 32
"""Bytes that NVDLA reads per cycle: 64 features, for which 2048 weights stay about 32 cycles."""

FSD = """\
name: tesla-fsd-npu
sources: ["wikichip.org, FSD Chip: 96 x 96 MACs of 8 bits, sums of 32, 2 GHz, 32 MiB, 256 B of activations and 128 B of weights a cycle"]
standing: datasheet
default_format: int8
clock: 2 GHz
cores: 1
matrix:
  {kind: systolic, count: 1, rows: 96, cols: 96, dataflows: [os], weight_preload: overlapped, rates: {int8: 1}, accumulate: {int8: int32}}
vector: {lanes: 96, cycles: {add: 1, mul: 1, exp: 1, rsqrt: 1, convert: 1}}
memory:
  dram: {capacity: 8 GiB, bandwidth: 68 GB/s, technology: LPDDR4}
  sram: {capacity: 32 MiB, bandwidth: 384 B/cycle}
process: 14 nm
energy: {leakage: 10 mW/mm2}
area: {phy: 0 mm2/(GB/s)}
"""
EXYNOS = """\
name: exynos-2400-npu
sources:
  - "chipcraft.app, Exynos 2400 NPU: 17,408 MACs, 1196 MHz, 6 MB, four vector engines of 32 lanes, 12 mm2"
  - "IEEE JSSC 58(1), 2023, of the NPU before it: fp16 at half the rate of int8"
standing: datasheet
default_format: int8
clock: 1196 MHz
cores: 1
matrix: {kind: tensor_core, count: 1, tile: {m: 1, n: 128, k: 136}, rates: {int8: 17408, fp16: 8704}, accumulate: {int8: int32, fp16: fp32}}
vector: {lanes: 128, cycles: {add: 1, mul: 1, exp: 1, rsqrt: 1, convert: 1}}
memory:
  dram: {capacity: 8 GiB, bandwidth: 68 GB/s, technology: LPDDR5}
  npumem: {capacity: 6 MB, bandwidth: 2048 B/cycle}
process: 4 nm
area: {phy: 0 mm2/(GB/s)}
"""


def nvdla(process: str, macs: int = 2048, buffer_kb: int = 512) -> Chip:
    """An NVDLA of the primer's table, which has no DRAM interface of its own."""
    sizes = {"macs": macs, "buffer_kb": buffer_kb, "cells": max(1, macs // 64), "lanes": max(1, macs // 128)}
    return chip_of(NVDLA.format(process=process, **sizes))


class Check(NamedTuple):
    """A figure as published and as predicted, in one unit."""

    chip: str
    figure: str
    unit: str
    published: float
    predicted: float
    source: str

    @property
    def deviation(self) -> float:
        """Relative to what is published."""
        return self.predicted / self.published - 1


def full_load_w(name: str) -> float:
    """Watts of a large prefill whose arrays never wait."""
    chip = load_chip(name)
    timeline = predict("llama-3.2-3b", chip, prompt=2048, engine="tiled")
    assert timeline.spent is not None
    dynamic_j = timeline.spent.total_j - timeline.spent.by_resource_j["static"]
    return dynamic_j / (timeline.issued_macs.sum() / float(chip.peak_macs_per_s(chip.default_format))) + float(static_w(chip))


def npu_w(chip: Chip, operand_bytes_per_cycle: float, busy: float = 1.0) -> float:
    """Watts of an NPU whose MACs are busy for a share of the time: MACs, operands from the buffer, leakage; not the DRAM."""
    assert chip.energy is not None
    macs_w = float(chip.peak_macs_per_s("int8")) * chip.energy.mac_j["int8"]
    operands_w = float(chip.clock_hz) * operand_bytes_per_cycle * float(byte_j(chip, chip.memory[1]))
    return busy * (macs_w + operands_w) + float(static_w(chip))


def checks() -> list[Check]:
    """All that is compared."""
    return [*_areas(), *_powers()]


def _areas() -> list[Check]:
    library = {
        "tpu-v4i": (400.0, "less than 400 mm2: Jouppi et al., ISCA 2021, table 1"),
        "a100-sxm4-80gb": (826.0, "NVIDIA A100 whitepaper; 20 of the die's 128 SMs are off and not counted"),
        "h100-sxm5-80gb": (814.0, "NVIDIA H100 whitepaper; 12 of the die's 144 SMs are off and not counted"),
    }
    found = [_area(name, mm2, load_chip(name), source) for name, (mm2, source) in library.items()]
    primer = "NVDLA primer, nvdla.org"
    for (macs, buffer_kb), mm2 in NVDLA_28_NM_MM2.items():
        found.append(_area(f"NVDLA {macs}, 28 nm", mm2, nvdla("28 nm", macs, buffer_kb), primer))
    found.append(_area("NVDLA 2048, 16 nm", 3.3, nvdla("16 nm"), f"{primer}, not read again"))
    found.append(_area("Exynos 2400 NPU, 4 nm", 12.0, chip_of(EXYNOS), "chipcraft.app, Exynos 2400 NPU"))
    return found


def _area(name: str, published: float, chip: Chip, source: str) -> Check:
    return Check(name, "area", "mm2", published, float(area_mm2(chip) or 0.0), source)


def _powers() -> list[Check]:
    tdps = {"tpu-v4i": 175.0, "a100-sxm4-80gb": 400.0, "h100-sxm5-80gb": 700.0}
    found = [Check(name, "power", "W", watts, full_load_w(name), "TDP") for name, watts in tdps.items()]
    small, primer = nvdla("16 nm"), "NVDLA primer, nvdla.org, not read again"
    busy = MACS_PER_FRAME * FRAMES_PER_S / float(small.peak_macs_per_s("int8"))
    found.append(Check("NVDLA 2048, 16 nm", "power, peak", "W", 0.766, npu_w(small, OPERANDS), primer))
    found.append(Check("NVDLA 2048, 16 nm", "power, average", "W", 0.291, npu_w(small, OPERANDS, busy), f"{primer}: over ResNet-50"))
    fsd = chip_of(FSD)
    fsd_w = 2 * float(fsd.peak_macs_per_s("int8")) / 1e12 / 4.9
    source = "WikiChip Fuse, 22 September 2019: 4.9 TOPS/W"
    found.append(Check("Tesla FSD NPU, 14 nm", "power, peak", "W", fsd_w, npu_w(fsd, 256 + 128), source))
    ita_w = 1e12 / 2 * technology.mac_j("int8", "int32", 22)
    source = "Islamoglu et al., ISLPED 2023: 16.9 TOPS/W in 22 nm FD-SOI at 0.8 V"
    found.append(Check("ITA, 22 nm", "power per TOPS", "W", 1 / 16.9, ita_w, source))
    return found


def table() -> str:
    """The comparison as lines of text."""
    lines = [f"{'chip':<22} {'figure':<15} {'published':>10} {'predicted':>10} {'off by':>7}"]
    for each in checks():
        published, predicted = f"{each.published:.3g} {each.unit}", f"{each.predicted:.3g} {each.unit}"
        lines.append(f"{each.chip:<22} {each.figure:<15} {published:>10} {predicted:>10} {each.deviation:>+7.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
