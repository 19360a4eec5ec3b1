"""What a chip cannot carry out, whatever the mapping is of."""

from __future__ import annotations

from collections.abc import Iterable

from hwmodels.chip import MatrixUnit, MemoryLevel
from sim.execute.arithmetic import Arithmetic


def check_compute(compute: str, arithmetic: Arithmetic, unit: MatrixUnit, dataflow: str) -> None:
    """Raise ValueError for a mapping made for another number format, or with a dataflow on units that have none."""
    if compute != arithmetic.compute:
        raise ValueError(f"the mapping is one of {compute} products, the operands are {arithmetic.compute}")
    if unit.kind == "tensor_core" and dataflow:
        raise ValueError(f"dataflow is {dataflow!r}; tensor cores have none, leave it empty")


def check_buffers(buffers: int, levels: Iterable[MemoryLevel]) -> None:
    """Raise ValueError for several copies of a tile where no level has a second buffer."""
    levels = tuple(levels)
    if buffers > 1 and not any(level.double_buffered for level in levels):
        names = " and ".join(level.name for level in levels)
        raise ValueError(f"{buffers} buffers of each tile, but {names} is not double-buffered; set buffers to 1")
