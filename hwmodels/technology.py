"""What boards of one technology have in common beyond their datasheets: constants fitted once on measured boards, inherited by name.

A chip says `technology` (generation and process of its tensor cores) and, of its outermost memory, `technology` and `ecc`. Where both are
in `hwmodels/library/calibration`, tiled and cycle charge what kernels take on such a board (`hwmodels.gpu`); datasheet peaks stay with
the roofline and the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from functional.documents import load_document, validation_problems
from functional.errors import BadInput
from hwmodels.chip import Chip, Provenance

CALIBRATION = Path(__file__).parent / "library" / "calibration"


@dataclass(frozen=True, slots=True)
class Generation:
    """Tensor cores of one generation and process: energy per 16-bit FLOP at 1.41 GHz, and whether they run asynchronously of the threads
    that feed them (wgmma, tcgen05: operands are multicast, tiles of attention are larger)."""

    energy_j_per_flop: float
    asynchronous: bool


@dataclass(frozen=True, slots=True)
class GemmConstants:
    """`launch_s`: a kernel that does next to nothing. `l2_bytes`: per clock and SM, for operands of tiles; `fill`: how many times
    `formulas.gpu.tile_fill_s` the first loads of a tile and its stores hold up its products; `split_s`: for adding up parts of k. `p` joins
    products, operands and DRAM."""

    launch_s: float
    l2_bytes: float
    fill: float
    split_s: float
    p: float


@dataclass(frozen=True, slots=True)
class AttentionConstants:
    """`item_s`: what a work item costs an SM (a row of blocks, or a sequence and KV head) besides its blocks. `softmax_ops`: fp32
    operations per score. `prefill_p` joins the SMs, the longest row of blocks and memory; `decode_p` items and memory, which takes
    `partial_wave` longer for each slot that idles in the last wave. Decode's times are stated at 1.41 GHz."""

    prefill_launch_s: float
    decode_launch_s: float
    split_s: float
    item_s: float
    exponentials: float
    softmax_ops: float
    overlap_p: float
    prefill_p: float
    decode_p: float
    partial_wave: float


@dataclass(frozen=True, slots=True)
class StreamConstants:
    """Element-wise and row-wise kernels: launch, clocks of an SM per element and per operation, clocks of the block of threads that works
    through a row per element of it, the share of the L2 that holds what the kernel before left, what dequantising costs in fp32 lane
    operations per counted one, and the exponent that joins SMs and DRAM."""

    launch_s: float
    element_clocks: float
    operation_clocks: float
    row_clocks: float
    l2_share: float
    dequantise_ops: float
    p: float


@dataclass(frozen=True, slots=True)
class WarmConstants:
    """`bytes`: per clock and SM, of data that lies in the L2 when the kernel starts; `l2_share`: the share of the L2 that can hold it."""

    bytes: float
    l2_share: float


@dataclass(frozen=True, slots=True)
class KernelConstants:
    """What all generations share."""

    gemm: GemmConstants
    attention: AttentionConstants
    stream: StreamConstants
    warm: WarmConstants


@dataclass(frozen=True, slots=True)
class Technology:
    """All constants of one chip; `dram_sustained` is the share of the datasheet's bandwidth that kernels reach."""

    generation: Generation
    dram_sustained: float
    kernels: KernelConstants


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything in the library; `dram` is by (technology, whether ECC takes a share of the bandwidth). `provenance` is by dotted path."""

    generations: Mapping[str, Generation]
    dram: Mapping[tuple[str, bool], float]
    kernels: KernelConstants
    provenance: Mapping[str, Provenance]


def technology_of(chip: Chip, calibration: Calibration | None = None) -> Technology | None:
    """The constants of a chip's technology; None where it or that of its DRAM is not calibrated."""
    if chip.matrix.kind != "tensor_core" or not chip.technology:
        return None
    known = calibration or load_calibration()
    generation = known.generations.get(chip.technology)
    sustained = known.dram.get((chip.dram.technology, chip.dram.ecc == "inline"))
    return None if generation is None or sustained is None else Technology(generation, sustained, known.kernels)


@lru_cache(maxsize=4)
def load_calibration(path: Path = CALIBRATION / "tensor-core-gpu.yaml") -> Calibration:
    """Read a calibration file; raises `BadInput` with every mistake in it."""
    from pydantic import ValidationError

    from hwmodels.calibration_file import CalibrationFile

    document = load_document(path)
    try:
        return CalibrationFile.model_validate(document.data).build()
    except ValidationError as why:
        raise BadInput(validation_problems(why, CalibrationFile, lambda field: (document.file, document.line_of(field)))) from why
