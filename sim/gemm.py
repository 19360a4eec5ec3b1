"""One GEMM on a chip: its mapping, its traffic against the bound, array cycles, and its latency in every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from functional.errors import Problem, ScenarioError
from functional.formats import WEIGHT_FORMATS, bits_of, check_format, scales_bytes, weight_format, wider
from functional.work import Contraction
from hwmodels.chip import Chip
from hwmodels.formulas.communication import gemm_lower_bound_elements
from hwmodels.formulas.roofline import transfer_s
from sim.array import check_extents
from sim.engines import roofline
from sim.engines.play_gemm import play_gemm
from sim.engines.played import Besides
from sim.engines.tiled import besides_s, gemm_s
from sim.mapper import GemmCost, map_gemm
from sim.mapping import Gemm, GemmMapping, chip_stages
from workloads.fuse import Flow
from workloads.quantise import of_product


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


def gemm_on_chip(m: int, n: int, k: int, chip: Chip, number_format: str | None = None, weights: str | None = None) -> GemmOnChip:
    """Map C[m, n] = A[m, k] W[k, n], all in one number format (the chip's default unless said), read from and written to DRAM.

    `weights` is a format of W alone: the product is in the wider of the two, W is dequantised on the vector unit, and its scales pass DRAM
    once. Raises `BadInput` for an extent below 1, an unknown format, or one without a rate.
    """
    check_extents({"--m": m, "--n": n, "--k": k})
    name = check_format(number_format or chip.default_format, "--dtype")
    stored = name if weights is None else weight_format(check_format(weights, "--weights", WEIGHT_FORMATS))
    compute = wider(name, stored)
    if compute not in chip.matrix.rates:
        cure = f"choose among {', '.join(chip.formats)}"
        raise ScenarioError(Problem(f"{chip.name} has no rate for {compute}", cure, path=f"matrix.rates.{compute}"))
    gemm = Gemm(m, n, k, bits_of(name), bits_of(stored), bits_of(name), bits_of(chip.matrix.accumulate[compute]), compute)
    mapping, cost = map_gemm(gemm, chip)
    beside_bytes = scales_bytes(stored, n, k)
    besides = _dequantised_s(Contraction(1, m, n, k, name, stored), chip, beside_bytes)
    read, written = (m * k * gemm.a_bits + k * n * gemm.w_bits) / 8 + beside_bytes, m * n * gemm.out_bits / 8
    memory_s = transfer_s(read, written, chip.read_bytes_per_s(chip.dram), chip.write_bytes_per_s(chip.dram), chip.dram.bandwidth.shared)
    (vector_s,) = besides[roofline.VECTOR]
    roofline_s = max(gemm.macs / float(chip.peak_macs_per_s(compute)), float(memory_s), vector_s)
    clock_hz, least_bits = float(chip.clock_hz), min(gemm.a_bits, gemm.w_bits)
    cycles = {level.name: tuple(seconds * clock_hz for seconds in besides[level.name]) for level in chip.memory}
    played = Besides(vector_s * clock_hz, cycles, (_bursts(beside_bytes, chip), 0.0))
    cycle_s = play_gemm(mapping, chip, cost, played).end / clock_hz
    on_chip_elements = sum(float(chip.capacity_bytes(level)) for stage in chip_stages(chip) for level in stage.levels) * 8 / least_bits
    bound = max(read + written, gemm_lower_bound_elements(m, n, k, on_chip_elements) * least_bits / 8)
    return GemmOnChip(chip.name, mapping, _beside(cost, besides, chip, beside_bytes), roofline_s, cycle_s, bound)


def _dequantised_s(work: Contraction, chip: Chip, scales: int) -> dict[str, tuple[float, ...]]:
    """Busy seconds of bringing W to the compute format: of the vector unit, and of the ports of levels that bytes of scales pass."""
    flows = (Flow(0, "", "weights", scales, False),)
    return besides_s(of_product(work), chip, roofline.Peaks.of(chip), flows, (_bursts(scales, chip), 0))


def _bursts(size_bytes: int, chip: Chip) -> int:
    """Bytes of the DRAM bursts that so many bytes take."""
    burst = int(chip.dram.burst_bytes)
    return -(-size_bytes // burst) * burst


def _beside(cost: GemmCost, besides: Mapping[str, tuple[float, ...]], chip: Chip, scales: int) -> GemmCost:
    """The cost with bytes of scales and the work beside the GEMM, added to that of its resources as the tiled engine adds it."""
    dram, read = chip.dram.name, _bursts(scales, chip)
    busy, latency_s, bound_by = gemm_s(cost, besides)
    cost = replace(
        cost,
        busy_s=busy,
        dram_read_bytes=cost.dram_read_bytes + read,
        read_bytes={**cost.read_bytes, dram: cost.read_bytes[dram] + read},
    )
    return replace(cost, latency_s=latency_s, bound_by=bound_by) if latency_s > cost.latency_s else cost
