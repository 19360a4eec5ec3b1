"""The numbers of a matrix unit: how tiles are multiplied, summed and rounded, and how many MACs its granules issue."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from functional.formats import LARGEST, is_integer, torch_dtype
from functional.qtensor import EXACT_IN_FP32, requantise, requantise_sums
from hwmodels.chip import MatrixUnit
from sim.mapping import Block, Span, parts


@dataclass(frozen=True, slots=True, eq=False)
class Arithmetic:
    """Formats of a product: operands in `compute`, sums in `accumulate`, results in `output`.

    int8 operands have int32 sums; with output int8 the sums are multiplied by `factor` (fp32, a scalar or one per column) and requantised,
    with output int32 they are left as they are. Floating-point tiles are multiplied and summed in fp32, in which the product of two
    elements of 16 bits is exact, and the running sum is kept in `accumulate`; with a scaled output they are multiplied by `factor` too.
    """

    compute: str
    accumulate: str
    output: str
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        if is_integer(self.compute) != is_integer(self.accumulate):
            raise ValueError(f"{self.compute} products cannot be summed in {self.accumulate}")
        if self.output in LARGEST and self.factor is None:
            raise ValueError(f"an {self.output} output needs the factor from sums to its scale")

    @property
    def sum_dtype(self) -> torch.dtype:
        return torch.int32 if is_integer(self.accumulate) else torch_dtype(self.accumulate)

    @property
    def output_dtype(self) -> torch.dtype:
        return {"int8": torch.int8, "int32": torch.int32}.get(self.output) or torch_dtype(self.output)

    def add_product(self, sums: Tensor, a: Tensor, b: Tensor) -> None:
        """sums[m, n] += a[m, k] b[k, n], in place; a and b in any type that holds their values."""
        self.add_products(sums, a, b, (Span(0, a.shape[1]),))

    def add_products(self, sums: Tensor, a: Tensor, b: Tensor, steps: Sequence[Span]) -> None:
        """The same for ranges of k, one step after another.

        Values are multiplied in fp32, which holds those of every format. int8 goes in pieces of k that are so short that every sum is an
        exact integer; since those may be added in any order, they need not be the steps. Nor does it matter to sums in fp32, whose bound
        is that of any order, in how many steps they are added: they take one. Narrower sums are rounded after each step.
        """
        if is_integer(self.compute):
            steps = parts(Span(0, a.shape[1]), EXACT_IN_FP32)
        elif self.accumulate == "fp32":
            steps = (Span(0, a.shape[1]),)
        a = a.float()
        width = max(_ELEMENTS_AT_ONCE // b.shape[0], 1)
        for columns in parts(Span(0, b.shape[1]), width):
            wide, into = b[:, slice(*columns)].float(), sums[:, slice(*columns)]
            for step in steps:
                rows = slice(*step)
                if is_integer(self.compute):
                    into.add_((a[:, rows] @ wide[rows]).int())
                elif self.accumulate == "fp32":
                    into.addmm_(a[:, rows], wide[rows])
                else:
                    into.copy_(into.float() + a[:, rows] @ wide[rows])

    def finish(self, sums: Tensor, columns: Span) -> Tensor:
        """Complete sums of some columns in the output format."""
        if self.factor is None:
            return sums.to(self.output_dtype)
        factor = self.factor[columns.start : columns.stop] if self.factor.ndim else self.factor
        if is_integer(self.compute):
            return requantise_sums(sums, factor)
        return requantise(sums.float() * factor, torch.ones(()), self.output)


_ELEMENTS_AT_ONCE = 2**19
"""So that the fp32 copies of a vocabulary's weights stay in the cache."""

_OVER_THE_ARRAY = {"os": ("m", "n"), "ws": ("k", "n"), "is": ("k", "m")}
"""Axes that lie over the rows and over the columns of a systolic array; the third is streamed and never padded."""


class Issued(NamedTuple):
    """MACs that matrix units carry out, padding included: all units of a core, and the first one, to which no other has more to do. Tensor
    cores are as one."""

    all_units: float
    first_unit: float


def issued_macs(unit: MatrixUnit, number_format: str, dataflow: str, array_axis: str, m: int, n: int, k: int) -> Issued:
    """What a tile takes.

    Systolic arrays cut the tile along `array_axis` (`_shares`), and pad each part to whole folds. Tensor cores deal out the granules of the
    whole tile, so that `dataflow` and `array_axis` mean nothing to them.
    """
    if number_format not in unit.rates:
        raise ValueError(f"the matrix unit has no rate for {number_format}; it has {', '.join(unit.rates)}")
    lengths = {"m": m, "n": n, "k": k}
    if unit.kind == "tensor_core":
        whole = math.prod(-(-length // size) * size for length, size in zip(lengths.values(), unit.tile, strict=True))
        return Issued(whole, whole)
    cuts = _shares(unit, dataflow, array_axis, lengths[array_axis])
    macs = [_padded(unit, number_format, dataflow, lengths | {array_axis: part.stop - part.start}) for part in cuts]
    return Issued(sum(macs), macs[0])


def _shares(unit: MatrixUnit, dataflow: str, array_axis: str, length: int) -> list[Span]:
    """The parts of a tile that matrix units take along an axis: as many whole folds each (of an axis that is streamed: elements), but for
    the last."""
    if dataflow not in _OVER_THE_ARRAY or dataflow not in unit.dataflows:
        raise ValueError(f"dataflow is {dataflow!r}; this array has {', '.join(unit.dataflows)}")
    over_rows, over_cols = _OVER_THE_ARRAY[dataflow]
    of_fold = {over_rows: unit.rows, over_cols: unit.cols}.get(array_axis, 1)
    return parts(Span(0, length), of_fold * -(-length // (of_fold * unit.count)))


def _padded(unit: MatrixUnit, number_format: str, dataflow: str, lengths: dict[str, int]) -> float:
    """MACs of one array. A PE of rate > 1 takes that many neighbours along k at once, so k is padded to whole groups of them."""
    over_rows, over_cols = _OVER_THE_ARRAY[dataflow]
    granule = {"m": 1, "n": 1, "k": 1, over_rows: unit.rows, over_cols: unit.cols}
    group = max(float(unit.rates[number_format]), 1.0)
    lengths = lengths | {"k": -int(-lengths["k"] // group)}
    macs = group
    for axis, length in lengths.items():
        macs *= -(-length // granule[axis]) * granule[axis]
    return macs


class Exchanged(NamedTuple):
    """Elements of a tile a[m, k] b[k, n] that matrix units read from and write to memory."""

    a_reads: int
    b_reads: int
    sums_reads: int
    sums_writes: int


def exchanged_elements(
    unit: MatrixUnit, number_format: str, dataflow: str, array_axis: str, lengths: tuple[int, int, int], continues: bool
) -> Exchanged:
    """What the matrix units of one core exchange with memory for a tile of m x n x k, fold by fold; `continues`: its sums are begun.

    Every fold of an array reads its part of both operands and writes its sums, which it reads before unless they begin with it. With "os"
    k is streamed, so that sums stay in the array for all of the tile. Tensor cores read both operands once for the whole tile.
    """
    if unit.kind == "tensor_core":
        return Exchanged(*map(round, _operands(*lengths, continues)))
    named = dict(zip("mnk", lengths, strict=True))
    total = [0.0, 0.0, 0.0, 0.0]
    for part in _shares(unit, dataflow, array_axis, named[array_axis]):
        for m, n, k, is_first in _folds(unit, number_format, dataflow, named | {array_axis: part.stop - part.start}):
            own = _operands(m, n, k, continues or not is_first)
            total = [count + more for count, more in zip(total, own, strict=True)]
    return Exchanged(*map(round, total))


def _operands(m: float, n: float, k: float, continues: bool) -> tuple[float, float, float, float]:
    return m * k, k * n, m * n * continues, m * n


def _folds(unit: MatrixUnit, number_format: str, dataflow: str, lengths: dict[str, int]) -> Iterator[tuple[float, float, float, bool]]:
    """(m, n, k) of every fold of one array, and whether it is the first along k."""
    group = max(float(unit.rates[number_format]), 1.0)
    over_rows, over_cols = _OVER_THE_ARRAY[dataflow]
    packed = lengths | {"k": -int(-lengths["k"] // group)}
    for rows in parts(Span(0, packed[over_rows]), unit.rows):
        for cols in parts(Span(0, packed[over_cols]), unit.cols):
            taken: dict[str, Span] = {over_rows: rows, over_cols: cols}
            extent: dict[str, float] = {axis: taken[axis].stop - taken[axis].start if axis in taken else lengths[axis] for axis in lengths}
            begin = taken["k"].start if "k" in taken else 0
            if "k" in taken:
                extent["k"] = min(taken["k"].stop * group, lengths["k"]) - begin * group
            yield extent["m"], extent["n"], extent["k"], begin == 0


def block_elements(block: Block) -> tuple[int, int, int]:
    """Lengths of a block along m, n and k."""
    m, n, k = block
    return m.stop - m.start, n.stop - n.start, k.stop - k.start
