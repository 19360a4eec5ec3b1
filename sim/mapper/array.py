"""What the matrix units of a core are charged for the pieces that they get: cycles, steps, operands read, MACs issued.

Nearly everything is a product of three sums, one per axis over its pieces, because pieces of the axes combine freely: cycles of a systolic
tile are folds over the rows x folds over the columns x interval of the streamed length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from hwmodels.chip import MatrixUnit, Role
from hwmodels.formulas import systolic, tensor_core
from hwmodels.formulas.elementwise import larger
from hwmodels.formulas.systolic import ceil_div, floor_div
from hwmodels.formulas.tiling import AxisCuts, Blocks, is_one
from sim.mapper.problem import Amount, Same, Setting
from sim.mapping import AXES, Axis


class ArrayUse(NamedTuple):
    """Of one core: cycles in which the units are taken, innermost tiles, and the cycles by which the whole takes longer than that, and its
    last tile alone than its share of that."""

    cycles: Amount
    steps: Amount
    extra_cycles: Amount
    last_extra_cycles: Amount


class Accesses(NamedTuple):
    """Elements that the units exchange with the level that holds each role."""

    a_reads: Amount
    w_reads: Amount
    psum_reads: Amount
    psum_writes: Amount


class Charge(NamedTuple):
    """What an axis contributes, summed over its pieces: how many they are, their elements, cycles of the array as a factor, and how often
    the units access the role that it does not select."""

    pieces: Amount
    elements: Amount
    cycles: Amount
    accesses: Amount


class Lay(NamedTuple):
    """How an axis lies in the matrix units of a core: the units that share it; how many neighbours along it a PE takes as one; the PEs over
    which a unit folds its part, 1 where it is streamed; how many operands of a streamed one enter per cycle, if less than 1; the cycles of
    fill and drain, and those between folds at least, and besides (`systolic.interval_terms`), 0 where it is not streamed;
    turns of a tensor core per fold; and how much of a unit's part an access of the role that the axis does not select serves, of a streamed
    axis all. With arrays for these numbers it is several axes side by side."""

    units: Amount
    pack: Amount
    pes: Amount
    pace: Amount
    fill: Amount
    least: Amount
    more: Amount
    turns: Amount
    served: Amount

    def folds(self, length: Amount) -> Amount:
        """Folds of a piece, of the unit that has the largest part; of a streamed axis the cycles in which that enters."""
        return systolic.paced(self._folds(length, self.pes if is_one(self.units) else self.pes * self.units), self.pace)

    def cycles(self, folds: Amount) -> Amount:
        """What a piece of so many folds contributes to the cycles of its tile, as a factor."""
        return larger(folds, self.least) + self.more

    def taken(self, length: Amount) -> Amount:
        """The same of a piece of so many elements."""
        return self.cycles(self.folds(length))

    def extra_cycles(self, folds: Amount) -> Amount:
        """By how much a piece alone takes longer than its share of a sequence: fill, drain and skew."""
        return self.fill + folds - self.cycles(folds)

    def accesses(self, length: Amount) -> Amount:
        """How often units access the role that the axis does not select, for a piece."""
        return self._over_units(length, self.served)

    def charge(self, axis: AxisCuts) -> Charge:
        """What the axis contributes."""
        pieces: Amount = 0
        elements: Amount = 0
        cycles: Amount = 0
        accesses: Amount = 0
        for blocks, length, _ in axis.around[-1]:
            pieces, elements = pieces + blocks, elements + blocks * length
            cycles, accesses = cycles + blocks * self.taken(length), accesses + blocks * self.accesses(length)
        return Charge(pieces, elements, cycles, accesses)

    def issued(self, length: Amount) -> Amount:
        """Operands for which a piece is charged: whole folds, by all units."""
        return self.pack * self.pes * self._over_units(length, self.pes)

    def issued_to_first(self, length: Amount) -> Amount:
        """The same by the unit that has the largest part."""
        return self.pack * self.pes * self._folds(length, self.pes * self.units)

    def _folds(self, part: Amount, size: Amount) -> Amount:
        return ceil_div(systolic.paced(part, self.pack), size)

    def _over_units(self, length: Amount, size: Amount) -> Amount:
        """Folds of a size, summed over the units that get any of a piece, each as many whole folds of its PEs, but for the last."""
        if is_one(self.units):
            return self._folds(length, size)
        part = larger(self.pes * ceil_div(length, self.pes * self.units), 1)
        full = floor_div(length, part)
        return full * self._folds(part, size) + self._folds(length - full * part, size)


_ALL = 2**60
"""More than any piece is long."""

_PLACES: dict[str, int] = {name: place for place, name in enumerate(AXES)}


def lay_of(setting: Setting, dataflow: str, array_axis: Axis, name: Axis) -> Lay:
    """How an axis lies with a dataflow, if units share `array_axis`."""
    return laid(setting, dataflow, array_axis).lays[_PLACES[name]]


def _lay_in(unit: MatrixUnit, rate: float, dataflow: str, array_axis: Axis, name: Axis) -> Lay:
    if unit.kind == "tensor_core":
        size = unit.tile[_PLACES[name]]
        share = 1.0 if name != "m" else 1 / unit.count
        return Lay(1, 1, size, 1, 0, 0, 0, share * (size / rate if name == "k" else size), _ALL)
    units, pack = unit.count if name == array_axis else 1, rate if name == "k" and rate > 1 else 1
    rows, _, streamed = systolic.AXES[dataflow]
    if name != streamed:
        pes = unit.rows if name == rows else unit.cols
        return Lay(units, pack, pes, 1, 0, 0, 0, 1, pes)
    fill = systolic.fill_and_drain_cycles(unit.rows, unit.cols)
    return Lay(units, pack, 1, min(rate, 1), fill, *systolic.interval_terms(unit.weight_preload, unit.rows, unit.cols), 1, _ALL)


def drain_cycles(setting: Setting, dataflow: str) -> Amount:
    """From the last streamed operand until the last sum has left."""
    return _drain_cycles(setting.chip.matrix, dataflow)


def _drain_cycles(unit: MatrixUnit, dataflow: str) -> Amount:
    return 0 if unit.kind == "tensor_core" else systolic.drain_cycles(dataflow, unit.rows, unit.cols)


def interval_cycles(setting: Setting, dataflow: str, streamed: Amount) -> Amount:
    """Cycles between folds whose streamed axis has this length; the other two axes do not matter."""
    unit = setting.chip.matrix
    return systolic.fold_interval_cycles(dataflow, unit.weight_preload, unit.rows, unit.cols, streamed, streamed, streamed, setting.rate)


def laid(setting: Setting, dataflow: str, array_axis: Axis) -> Laid:
    """How the axes of a GEMM lie with a dataflow, if units share `array_axis`: remembered, as many GEMMs lie alike."""
    return _laid(Same(setting.chip.matrix), setting.rate, dataflow, array_axis)


@lru_cache(maxsize=256)
def _laid(unit: Same[MatrixUnit], rate: float, dataflow: str, array_axis: Axis) -> Laid:
    return Laid(unit.itself, rate, dataflow, array_axis)


class Laid:
    """The axes of a GEMM as they lie in the matrix units of a core with a dataflow, and what the units are charged for its pieces."""

    __slots__ = ("drain_cycles", "is_granular", "is_os", "lays", "rate", "streamed", "unit")

    def __init__(self, unit: MatrixUnit, rate: float, dataflow: str, array_axis: Axis) -> None:
        self.unit, self.rate = unit, rate
        self.is_granular, self.is_os = unit.kind == "tensor_core", dataflow == "os"
        self.drain_cycles = _drain_cycles(unit, dataflow)
        self.lays = [_lay_in(unit, rate, dataflow, array_axis, name) for name in AXES]
        self.streamed = -1 if self.is_granular else _PLACES[systolic.AXES[dataflow][2]]

    def charge(self, cuts: Sequence[AxisCuts]) -> list[Charge]:
        """What each axis contributes."""
        return [lay.charge(axis) for lay, axis in zip(self.lays, cuts, strict=True)]

    def use(self, cuts: Sequence[AxisCuts], charges: Sequence[Charge], last: tuple[Amount, ...]) -> ArrayUse:
        """Cycles for the pieces of one core; `last` are the extents of its last piece."""
        m, n, k = charges
        steps = m.pieces * n.pieces * k.pieces
        if self.is_granular:
            return ArrayUse(_granule_cycles(self.unit, self.rate, cuts), steps, 0, 0)
        taken = m.cycles * n.cycles * k.cycles
        of_last = self.extra_cycles(last)
        return ArrayUse(taken, steps, self.extra_cycles([axis.around[-1][0].length for axis in cuts]) if self.is_os else of_last, of_last)

    def extra_cycles(self, tile: Sequence[Amount]) -> Amount:
        """By how much a tile alone takes longer than its share of a sequence."""
        if self.is_granular:
            return 0
        lay = self.lays[self.streamed]
        return lay.extra_cycles(lay.folds(tile[self.streamed]))

    def step_cycles(self, tile: tuple[Amount, ...]) -> Amount:
        """Cycles of one innermost tile that has the units to itself."""
        if self.is_granular:
            return _granule_cycles(self.unit, self.rate, [single_piece(extent) for extent in tile])
        taken: Amount = 1
        for lay, length in zip(self.lays, tile, strict=True):
            taken = taken * lay.taken(length)
        return taken + self.extra_cycles(tile)

    @staticmethod
    def accesses(charges: Mapping[Role, Sequence[Charge]]) -> Accesses:
        """Operand-level reads and writes of all pieces; `charges[role]` are of those that are counted for which role.

        systolic: as `systolic.sram_accesses`, each unit reading for itself; a piece that continues sums reads them first. tensor_core: an
        operand of an innermost tile is read once per tile (the units share it through their operand registers), sums stay in the
        accumulators while the tile's k lasts.
        """
        (am, an, ak), (wm, wn, wk), (cm, cn, ck) = charges["activations"], charges["weights"], charges["psums"]
        sums, for_sums = cm.elements * cn.elements, ck.accesses
        a_reads, w_reads = am.elements * ak.elements * an.accesses, wk.elements * wn.elements * wm.accesses
        return Accesses(a_reads, w_reads, sums * (for_sums - 1), sums * for_sums)

    def issued_macs(self, cuts: Sequence[AxisCuts], first_unit: bool = False) -> Amount:
        """MACs that array time is charged for: granules, or folds padded to full rows, columns and packs; the streamed length is not. Those
        of all units, or of the first systolic array, whose share of each tile is the largest."""
        issued: Any = 1
        for lay, axis in zip(self.lays, cuts, strict=True):
            of_axis: Any = 0
            for blocks, length, _ in axis.around[-1]:
                of_axis = of_axis + blocks * (lay.issued_to_first(length) if first_unit else lay.issued(length))
            issued = issued * of_axis
        return issued


def single_piece(extent: Amount) -> AxisCuts:
    """An axis that the array gets in one piece."""
    return AxisCuts(((Blocks(1, extent, ()),),), (), 0, 1, False)


def _granule_cycles(unit: MatrixUnit, rate: float, cuts: Sequence[AxisCuts]) -> Amount:
    cycles: Amount = 0
    turn_cycles = unit.tile[0] * unit.tile[1] * unit.tile[2] / rate
    if turn_cycles == int(turn_cycles):
        turns: Amount = 0
        for m in cuts[0].around[-1]:
            for n in cuts[1].around[-1]:
                granules = ceil_div(m.length, unit.tile[0]) * ceil_div(n.length, unit.tile[1])
                turns = turns + m.blocks * n.blocks * ceil_div(granules, unit.count)
        return turns * sum([k.blocks * ceil_div(k.length, unit.tile[2]) for k in cuts[2].around[-1]]) * int(turn_cycles)
    for m in cuts[0].around[-1]:
        for n in cuts[1].around[-1]:
            for k in cuts[2].around[-1]:
                each = tensor_core.tile_cycles(unit.tile, unit.count, rate, m.length, n.length, k.length)
                cycles = cycles + m.blocks * n.blocks * k.blocks * each
    return cycles


