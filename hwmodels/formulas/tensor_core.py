"""Matrix units that work on granules of (tm, tn, tk) elements, `rate` MACs per unit and cycle: cycles and issued MACs of a tile.

A granule is the shape of one matrix instruction, such as mma.m16n8k16 (NVIDIA, "PTX ISA", warp-level matrix multiply-accumulate); part of
one costs as much as all of it. Counts may be integers or int64 arrays.
"""

from __future__ import annotations

from hwmodels.formulas.systolic import Count, Number, ceil_div, whole_cycles


def issued_macs(granule: tuple[int, int, int], m: Count, n: Count, k: Count) -> Count:
    """MACs that the units carry out for an m x n x k tile, padding included."""
    tm, tn, tk = granule
    return ceil_div(m, tm) * tm * ceil_div(n, tn) * tn * ceil_div(k, tk) * tk


def tile_cycles(granule: tuple[int, int, int], count: Count, rate: Number, m: Count, n: Count, k: Count) -> Count:
    """Whole cycles of an m x n x k tile on `count` units.

    Output granules are dealt out to the units; the k granules of one output granule follow each other on its unit. (To split k over units
    is a mapping's choice; it comes here as smaller tiles.)
    """
    tm, tn, tk = granule
    turns = ceil_div(ceil_div(m, tm) * ceil_div(n, tn), count) * ceil_div(k, tk)
    return whole_cycles(turns * (tm * tn * tk) / rate)
