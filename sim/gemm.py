"""One GEMM on a chip: its mapping, its traffic against the bound, array cycles, and its latency in every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from functional.errors import Problem, ScenarioError
from functional.formats import bits_of, check_format
from hwmodels.chip import Chip
from hwmodels.formulas.communication import gemm_lower_bound_elements
from hwmodels.formulas.roofline import transfer_s
from sim.engines.play_gemm import play_gemm
from sim.mapper import GemmCost, map_gemm
from sim.mapping import Gemm, GemmMapping, chip_stages


@dataclass(frozen=True, slots=True)
class GemmOnChip:
    """A mapped GEMM. `roofline_s`, `cycle_s` (of the schedule that is played) and the cost's latency are without launch;
    `lower_bound_bytes` is what DRAM must move at least."""

    chip: str
    mapping: GemmMapping
    cost: GemmCost
    roofline_s: float
    cycle_s: float
    lower_bound_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """The promised JSON object of `rooftile gemm --chip ... --format json`."""
        gemm, mapping, cost = self.mapping.gemm, self.mapping, self.cost
        return {
            "chip": self.chip,
            "m": gemm.m,
            "n": gemm.n,
            "k": gemm.k,
            "format": gemm.compute,
            "tile": [list(stage.tile) for stage in mapping.stages],
            "order": ["".join(stage.order) for stage in mapping.stages],
            "buffers": [stage.buffers for stage in mapping.stages],
            "split": list(mapping.split),
            "dataflow": mapping.dataflow,
            "traffic_bytes": {"dram": cost.dram_bytes, "read": cost.read_bytes, "written": cost.written_bytes},
            "lower_bound_bytes": self.lower_bound_bytes,
            "array_cycles": cost.array_cycles,
            "utilization": cost.utilisation,
            "issued_macs": cost.issued_macs,
            "bound_by": cost.bound_by,
            "busy_s": cost.busy_s,
            "latency_s": {"roofline": self.roofline_s, "tiled": cost.latency_s, "cycle": self.cycle_s},
        }


def gemm_on_chip(m: int, n: int, k: int, chip: Chip, number_format: str | None = None) -> GemmOnChip:
    """Map C[m, n] = A[m, k] W[k, n], all in one number format (the chip's default unless said), read from and written to DRAM.

    Raises `BadInput` for an extent below 1, an unknown format, or one without a rate.
    """
    name = check_format(number_format or chip.default_format, "--dtype")
    if name not in chip.matrix.rates:
        cure = f"choose among {', '.join(chip.formats)}"
        raise ScenarioError(Problem(f"{chip.name} has no rate for {name}", cure, path=f"matrix.rates.{name}"))
    bits, acc_bits = bits_of(name), bits_of(chip.matrix.accumulate[name])
    gemm = Gemm(m, n, k, bits, bits, bits, acc_bits, name)
    mapping, cost = map_gemm(gemm, chip)
    read, written = (m * k + k * n) * bits / 8, m * n * bits / 8
    memory_s = transfer_s(read, written, chip.read_bytes_per_s(chip.dram), chip.write_bytes_per_s(chip.dram), chip.dram.bandwidth.shared)
    roofline_s = max(gemm.macs / float(chip.peak_macs_per_s(name)), float(memory_s))
    on_chip_elements = sum(float(chip.capacity_bytes(level)) for stage in chip_stages(chip) for level in stage.levels) * 8 / bits
    bound = gemm_lower_bound_elements(m, n, k, on_chip_elements) * bits / 8
    cycle_s = play_gemm(mapping, chip, cost).end / float(chip.clock_hz)
    return GemmOnChip(chip.name, mapping, cost, roofline_s, cycle_s, bound)
