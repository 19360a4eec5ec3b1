"""One GEMM on a systolic array alone: cycles, folds, utilisation and operand-level SRAM accesses, without memory around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from functional.errors import BadInput, Problem, UnknownName, did_you_mean
from hwmodels.formulas import systolic

LARGEST_EXTENT = 2**40
"""Of a GEMM or an array: sums of a few such numbers are exact, and searches over what divides them stay short."""

Mode: TypeAlias = Literal["physical", "scalesim"]
MODES: tuple[Mode, ...] = ("physical", "scalesim")


@dataclass(frozen=True, slots=True)
class ArrayRun:
    """What one GEMM costs an array. `utilization` is useful MACs over what the array could do in `cycles`.

    `total_cycles_reported` is what SCALE-Sim prints in mode scalesim (one less, its open issue 125), and `cycles` in mode physical.
    """

    mode: Mode
    cycles: int
    folds: int
    utilization: float
    a_reads: int
    w_reads: int
    psum_reads: int
    sram_writes: int
    total_cycles_reported: int

    def to_dict(self) -> dict[str, Any]:
        """The promised JSON object of `rooftile gemm --rows ... --format json`."""
        return {
            "mode": self.mode,
            "cycles": self.cycles,
            "folds": self.folds,
            "utilization": self.utilization,
            "sram_reads": {"a": self.a_reads, "w": self.w_reads, "psum": self.psum_reads},
            "sram_writes": self.sram_writes,
            "total_cycles_reported": self.total_cycles_reported,
        }


def check_extents(extents: Mapping[str, int]) -> None:
    """Raise `BadInput` with the flags of all extents below 1, or larger than anything that is computed."""
    problems = [Problem(f"must be at least 1, found {extent}", path=flag) for flag, extent in extents.items() if extent < 1]
    large = {flag: extent for flag, extent in extents.items() if extent > LARGEST_EXTENT}
    problems += [Problem(f"must be at most {LARGEST_EXTENT}, found {extent}", path=flag) for flag, extent in large.items()]
    if problems:
        raise BadInput(problems)


def run_array(m: int, n: int, k: int, rows: int, cols: int, dataflow: str, mode: Mode = "physical") -> ArrayRun:
    """C[m, n] = A[m, k] W[k, n] on a rows x cols array, with overlapped preload in mode physical.

    Raises `BadInput` for an extent below 1, an unknown dataflow or mode.
    """
    check_extents({"--m": m, "--n": n, "--k": k, "--rows": rows, "--cols": cols})
    for flag, name, known in (("--dataflow", dataflow, tuple(systolic.AXES)), ("--mode", mode, MODES)):
        if name not in known:
            raise UnknownName(Problem(f"unknown name '{name}'", did_you_mean(name, known), path=flag))
    where = (dataflow, rows, cols, m, n, k)
    if mode == "scalesim":
        cycles = systolic.scalesim_compute_cycles(*where)
        reported, utilization = systolic.scalesim_reported_cycles(*where), systolic.scalesim_utilisation(*where)
    else:
        cycles = reported = systolic.alone_cycles(dataflow, "overlapped", *where[1:])
        utilization = systolic.utilisation(rows, cols, m, n, k, cycles)
    accesses = systolic.sram_accesses(*where)
    counts = (systolic.folds(*where), accesses.a_reads, accesses.w_reads, accesses.psum_reads, accesses.psum_writes)
    folds, a_reads, w_reads, psum_reads, sram_writes = (int(count) for count in counts)
    return ArrayRun(mode, int(cycles), folds, float(utilization), a_reads, w_reads, psum_reads, sram_writes, int(reported))
