"""What the matrix units of a core are charged for the pieces that they get: cycles, steps, operands read, MACs issued.

Nearly everything is a product of three sums, one per axis over its pieces, because pieces of the axes combine freely: cycles of a systolic
tile are folds over the rows x folds over the columns x interval of the streamed length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hwmodels.chip import Role
from hwmodels.formulas import systolic, tensor_core
from hwmodels.formulas.elementwise import larger, smaller
from hwmodels.formulas.systolic import ceil_div, whole_cycles
from hwmodels.formulas.tiling import AxisCuts, Blocks
from sim.mapper.problem import Amount, Setting
from sim.mapping import AXES, Axis


class ArrayUse(NamedTuple):
    """Of one core: cycles in which the units are taken, innermost tiles, and the cycles by which the whole takes longer than that."""

    cycles: Amount
    steps: Amount
    extra_cycles: Amount


class Accesses(NamedTuple):
    """Elements that the units exchange with the level that holds each role."""

    a_reads: Amount
    w_reads: Amount
    psum_reads: Amount
    psum_writes: Amount


def total(axis: AxisCuts, of_length: Callable[[Amount], Amount]) -> Amount:
    """A function of a piece's length, summed over the pieces of an axis."""
    result: Amount = 0
    for block in axis.around[-1]:
        result = result + block.blocks * of_length(block.length)
    return result


def use(
    setting: Setting, dataflow: str, array_axis: Axis, cuts: Sequence[AxisCuts], first: tuple[Amount, ...], last: tuple[Amount, ...]
) -> ArrayUse:
    """Cycles for the pieces of one core; `first` and `last` are the extents of its first and last piece."""
    steps: Amount = 1
    for axis in cuts:
        steps = steps * total(axis, one)
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        return ArrayUse(_granule_cycles(setting, cuts), steps, 0)
    cycles: Amount = 1
    for name, axis in zip(AXES, cuts, strict=True):
        cycles = cycles * total(axis, cycles_factor(setting, dataflow, array_axis, name))
    end = first if dataflow == "os" else last
    return ArrayUse(cycles, steps, tile_extra_cycles(setting, dataflow, array_axis, end))


def cycles_factor(setting: Setting, dataflow: str, array_axis: Axis, name: Axis) -> Callable[[Amount], Amount]:
    """What a piece's length along one axis contributes to the cycles of its tile, as a factor."""
    unit = setting.chip.matrix
    rows, _, streamed = systolic.AXES[dataflow]
    if name == streamed:
        return lambda length: interval_cycles(setting, dataflow, _part(setting, name, array_axis, length))
    return _share_folds(setting, name, array_axis, unit.rows if name == rows else unit.cols)


def tile_extra_cycles(setting: Setting, dataflow: str, array_axis: Axis, tile: tuple[Amount, ...]) -> Amount:
    """By how much a tile alone takes longer than its share of a sequence: fill, drain and skew."""
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        return 0
    name = systolic.AXES[dataflow][2]
    streamed = _part(setting, name, array_axis, tile[[*AXES].index(name)])  # type: ignore[arg-type]
    stream = systolic.stream_cycles(dataflow, streamed, streamed, streamed, setting.rate)
    return 2 * unit.rows + unit.cols - 2 + stream - interval_cycles(setting, dataflow, streamed)


def drain_cycles(setting: Setting, dataflow: str) -> Amount:
    """From the last streamed operand until the last sum has left."""
    unit = setting.chip.matrix
    return 0 if unit.kind == "tensor_core" else systolic.drain_cycles(dataflow, unit.rows, unit.cols)


def interval_cycles(setting: Setting, dataflow: str, streamed: Amount) -> Amount:
    """Cycles between folds whose streamed axis has this length; the other two axes do not matter."""
    unit = setting.chip.matrix
    interval = systolic.fold_interval_cycles(
        dataflow, unit.weight_preload, unit.rows, unit.cols, streamed, streamed, streamed, setting.rate
    )
    return interval * smaller(streamed, 1)


def step_cycles(setting: Setting, dataflow: str, array_axis: Axis, tile: tuple[Amount, ...]) -> Amount:
    """Cycles of one innermost tile that has the units to itself."""
    if setting.chip.matrix.kind == "tensor_core":
        return _granule_cycles(setting, [AxisCuts(((Blocks(1, extent, ()),),), (), 0, 1, False) for extent in tile])
    cycles: Amount = 1
    for name, length in zip(AXES, tile, strict=True):
        cycles = cycles * cycles_factor(setting, dataflow, array_axis, name)(length)
    return cycles + tile_extra_cycles(setting, dataflow, array_axis, tile)


def accesses(setting: Setting, dataflow: str, array_axis: Axis, cuts: Mapping[Role, Sequence[AxisCuts]]) -> Accesses:
    """Operand-level reads and writes of all pieces; `cuts[role]` says whose pieces are counted for which role.

    systolic: as `systolic.sram_accesses`, each unit reading for itself; a piece that continues sums reads them first. tensor_core: an
    operand of an innermost tile is read once per tile (the units share it through their operand registers), sums stay in the accumulators
    while the tile's k lasts.
    """
    (am, an, ak), (wm, wn, wk), (cm, cn, ck) = cuts["activations"], cuts["weights"], cuts["psums"]
    a_elements, w_elements, sums = (
        total(am, _same) * total(ak, _same),
        total(wk, _same) * total(wn, _same),
        total(cm, _same) * total(cn, _same),
    )
    k_pieces = total(ck, one)
    unit = setting.chip.matrix
    if unit.kind == "tensor_core":
        return Accesses(a_elements * total(an, one), w_elements * total(wm, one), sums * (k_pieces - 1), sums * k_pieces)

    def parts(name: Axis, size: int | None) -> Callable[[Amount], Amount]:
        return _folds(setting, name, array_axis, size)

    k_folds = total(ck, lambda length: ceil_div(_packed(setting, "k", length), unit.rows))
    match dataflow:
        case "os":
            often = total(an, parts("n", unit.cols)), total(wm, parts("m", unit.rows)), k_pieces
        case "ws":
            often = total(an, parts("n", unit.cols)), total(wm, parts("m", None)), k_folds
        case _:
            often = total(an, parts("n", None)), total(wm, parts("m", unit.cols)), k_folds
    return Accesses(a_elements * often[0], w_elements * often[1], sums * (often[2] - 1), sums * often[2])


def issued_macs(setting: Setting, dataflow: str, array_axis: Axis, cuts: Sequence[AxisCuts], first_unit: bool = False) -> Amount:
    """MACs that array time is charged for: granules, or folds padded to full rows, columns and packs; the streamed length is not. Those of
    all units, or of the first systolic array, whose share of each tile is the largest."""
    unit = setting.chip.matrix
    issued: Any = 1
    if unit.kind == "tensor_core":
        for axis, size in zip(cuts, unit.tile, strict=True):
            issued = issued * total(axis, _padded(size))
        return issued
    rows, cols, _ = systolic.AXES[dataflow]
    for name, axis in zip(AXES, cuts, strict=True):
        pack = max(setting.rate, 1) if name == "k" else 1
        size = unit.rows if name == rows else unit.cols if name == cols else 1
        issued = issued * pack * size * total(axis, (_share_folds if first_unit else _folds)(setting, name, array_axis, size))
    return issued


def _granule_cycles(setting: Setting, cuts: Sequence[AxisCuts]) -> Amount:
    unit = setting.chip.matrix
    cycles: Amount = 0
    turn_cycles = unit.tile[0] * unit.tile[1] * unit.tile[2] / setting.rate
    if turn_cycles == int(turn_cycles):
        turns: Amount = 0
        for m in cuts[0].around[-1]:
            for n in cuts[1].around[-1]:
                granules = ceil_div(m.length, unit.tile[0]) * ceil_div(n.length, unit.tile[1])
                turns = turns + m.blocks * n.blocks * ceil_div(granules, unit.count)
        return turns * total(cuts[2], lambda length: ceil_div(length, unit.tile[2])) * int(turn_cycles)
    for m in cuts[0].around[-1]:
        for n in cuts[1].around[-1]:
            for k in cuts[2].around[-1]:
                each = tensor_core.tile_cycles(unit.tile, unit.count, setting.rate, m.length, n.length, k.length)
                cycles = cycles + m.blocks * n.blocks * k.blocks * each
    return cycles


def one(length: Amount) -> Amount:
    """1 for a piece, 0 where there is none."""
    return smaller(length, 1)


def _same(length: Amount) -> Amount:
    return length


def _padded(size: int) -> Callable[[Amount], Amount]:
    return lambda length: ceil_div(length, size) * size


def _folds(setting: Setting, name: Axis, array_axis: Axis, size: int | None) -> Callable[[Amount], Amount]:
    return lambda length: _over_parts(setting, name, array_axis, length, size)


def _share_folds(setting: Setting, name: Axis, array_axis: Axis, size: int) -> Callable[[Amount], Amount]:
    return lambda length: ceil_div(_packed(setting, name, _part(setting, name, array_axis, length)), size)


def _packed(setting: Setting, name: str, length: Amount) -> Amount:
    """Operands along an axis: `rate` neighbours along k are one."""
    return whole_cycles(length / setting.rate) if name == "k" and setting.rate > 1 else length


def _part(setting: Setting, name: str, array_axis: Axis, length: Amount) -> Amount:
    """The largest share of one matrix unit."""
    return ceil_div(length, setting.chip.matrix.count) if name == array_axis else length


def _over_parts(setting: Setting, name: Axis, array_axis: Axis, length: Amount, size: int | None) -> Amount:
    """Folds of `size` over one axis, summed over the units that share it; for size None the units that get anything (at least one)."""
    if name != array_axis or setting.chip.matrix.count == 1:
        return one(length) if size is None else ceil_div(_packed(setting, name, length), size)
    part = larger(_part(setting, name, array_axis, length), 1)
    if size is None:
        return ceil_div(length, part)
    return length // part * ceil_div(_packed(setting, name, part), size) + ceil_div(_packed(setting, name, length % part), size)


def accesses_factor(setting: Setting, dataflow: str, array_axis: Axis, name: Axis) -> Callable[[Amount], Amount]:
    """How often a piece of this length along one axis has the systolic units access the role that the axis does not select."""
    unit = setting.chip.matrix
    if name == "k":
        return one if dataflow == "os" else lambda length: ceil_div(_packed(setting, "k", length), unit.rows)
    stationary = {"ws": "m", "is": "n"}.get(dataflow)  # the axis along which the stationary operand is reused
    return _folds(setting, name, array_axis, None if name == stationary else unit.rows if dataflow == "os" and name == "m" else unit.cols)
