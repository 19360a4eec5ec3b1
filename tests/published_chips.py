"""Area and power that are published of chips, beside what the model says of them: `python -m tests.published_chips` prints the table.

Area follows from the process and one set of assumed factors. Power is that of the peak MAC rate of the chip's default format with all the
traffic of a prefill of llama-3.2-3b, 2048 tokens, tiled engine, beside the TDP. Of NVDLA, which no language model fits, it is that of all its
MACs beside the peak, and of 51 % of them (269 frames/s of ResNet-50 at 3.9 GMAC) beside the average that is published.
"""

from __future__ import annotations

from typing import NamedTuple

from hwmodels import Chip, load_chip
from hwmodels.costs import area_mm2, byte_j, static_w
from sim import predict
from tests.chips import chip_of

NVDLA = """\
name: nvdla-2048
sources: ["NVDLA primer, nvdla.org: example area and performance; 2048 int8 MACs, 512 KB convolution buffer, 20 GB/s"]
standing: datasheet
default_format: int8
clock: 1 GHz
cores: 1
matrix: {{kind: tensor_core, count: 1, tile: {{m: 1, n: 32, k: 64}}, rates: {{int8: 2048}}, accumulate: {{int8: int32}}}}
vector: {{lanes: 16, cycles: {{add: 1, mul: 1, exp: 1, rsqrt: 1, convert: 1}}}}
memory:
  dram: {{capacity: 1 GiB, bandwidth: 20 GB/s, technology: LPDDR4}}
  buffer: {{capacity: 512 kB, bandwidth: 256 B/cycle}}
process: {process}
energy: {{leakage: 10 mW/mm2}}
area: {{phy: 0 mm2/(GB/s)}}
"""
MACS_PER_FRAME, FRAMES_PER_S = 3.9e9, 269.0


def nvdla(process: str) -> Chip:
    """The largest NVDLA of the primer's table, which has no DRAM interface of its own."""
    return chip_of(NVDLA.format(process=process))


class Check(NamedTuple):
    """A figure [mm2 or W] as published and as predicted."""

    chip: str
    figure: str
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


def nvdla_w(chip: Chip, macs_per_s: float) -> float:
    """Watts of NVDLA: MACs, operands from the buffer, leakage; not the DRAM."""
    assert chip.energy is not None
    operand_bytes_per_s = macs_per_s / 2048 * (64 + 2048 / 32)  # 64 features a cycle, for which 2048 weights stay about 32 cycles
    return macs_per_s * chip.energy.mac_j["int8"] + operand_bytes_per_s * float(byte_j(chip, chip.memory[1])) + float(static_w(chip))


def checks() -> list[Check]:
    """All that is compared."""
    areas = {
        "tpu-v4i": (400.0, "less than 400 mm2: Jouppi et al., ISCA 2021, table 1"),
        "a100-sxm4-80gb": (826.0, "NVIDIA A100 whitepaper; 20 of the die's 128 SMs are off and not counted"),
        "h100-sxm5-80gb": (814.0, "NVIDIA H100 whitepaper; 12 of the die's 144 SMs are off and not counted"),
    }
    powers = {"tpu-v4i": 175.0, "a100-sxm4-80gb": 400.0, "h100-sxm5-80gb": 700.0}
    found = [Check(name, "area", mm2, float(area_mm2(load_chip(name)) or 0.0), source) for name, (mm2, source) in areas.items()]
    small, shrunk = nvdla("28 nm"), nvdla("16 nm")
    found.append(Check("NVDLA 2048, 28 nm", "area", 5.5, float(area_mm2(small) or 0.0), "NVDLA primer, nvdla.org"))
    found.append(Check("NVDLA 2048, 16 nm", "area", 3.3, float(area_mm2(shrunk) or 0.0), "NVDLA primer, nvdla.org"))
    found += [Check(name, "power", watts, full_load_w(name), "TDP") for name, watts in powers.items()]
    found.append(Check("NVDLA 2048, 16 nm", "power", 0.766, nvdla_w(shrunk, 2048e9), "peak, NVDLA primer, nvdla.org"))
    average_w = nvdla_w(shrunk, MACS_PER_FRAME * FRAMES_PER_S)
    found.append(Check("NVDLA 2048, 16 nm", "power", 0.291, average_w, "average over ResNet-50, NVDLA primer, nvdla.org"))
    return found


def table() -> str:
    """The comparison as lines of text."""
    lines = [f"{'chip':<18} {'figure':<7} {'published':>10} {'predicted':>10} {'off by':>7}"]
    for each in checks():
        unit = "mm2" if each.figure == "area" else "W"
        published, predicted = f"{each.published:g} {unit}", f"{each.predicted:.3g} {unit}"
        lines.append(f"{each.chip:<18} {each.figure:<7} {published:>10} {predicted:>10} {each.deviation:>+7.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
