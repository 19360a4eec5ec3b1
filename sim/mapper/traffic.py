"""The tile of least DRAM traffic in elements, for one on-chip memory and no chip around it: one element size, no bursts, no array."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from functional.errors import BadInput, Problem
from hwmodels.formulas.systolic import ceil_div
from sim.mapper.candidates import smallest_tiles
from sim.mapping import Axis, Tile

_INNERMOST: tuple[tuple[Axis, tuple[Axis, Axis, Axis]], ...] = (("k", ("m", "n", "k")), ("n", ("m", "k", "n")), ("m", ("n", "k", "m")))


class TrafficTile(NamedTuple):
    """A tile, the order of its loops (outermost first) and the elements that cross the chip's border."""

    tile: Tile
    order: tuple[Axis, Axis, Axis]
    traffic_elements: int


def map_gemm_traffic(m: int, n: int, k: int, capacity_elements: int, double_buffered: bool) -> TrafficTile:
    """Exact minimum over all integer tiles and loop orders; among equals the fewest tiles.

    With the loop over axis z innermost, the role that z does not select is moved once per element (sums stay until they are complete), the
    other two once per trip of the axis that they lack. So traffic depends on the trips of the other two axes only, the tile's extent
    along z
    is free, and 1 leaves most room: for each z it is enough to look at all pairs of the other two extents, and of these at the smallest
    extent for each number of trips (fewer elements, same traffic). Where a loop has one trip the formula of another z holds, and is no
    greater. The extent along z is raised afterwards as far as there is room.
    """
    extents = {"m": m, "n": n, "k": k}
    room = capacity_elements // (2 if double_buffered else 1)
    if room < 3:
        least = 6 if double_buffered else 3
        raise BadInput(
            Problem("not one element of each tile fits", f"raise capacity_elements to at least {least}", path="capacity_elements")
        )
    best: tuple[int, int, TrafficTile] | None = None
    for inner, order in _INNERMOST:
        x, y, _ = order
        xs, ys = smallest_tiles(extents[x])[:, None], smallest_tiles(extents[y])
        traffic = np.where(xs * ys + xs + ys <= room, _traffic(extents, inner, order, xs, ys), np.iinfo(np.int64).max)
        z_extents = np.minimum((room - xs * ys) // (xs + ys), extents[inner])
        steps = ceil_div(extents[x], xs) * ceil_div(extents[y], ys) * ceil_div(extents[inner], np.maximum(z_extents, 1))
        steps = np.where(traffic == traffic.min(), steps, np.iinfo(np.int64).max)
        i, j = np.unravel_index(np.argmin(steps), steps.shape)
        chosen = {x: int(xs[i, 0]), y: int(ys[j]), inner: int(z_extents[i, j])}
        found = TrafficTile(Tile(chosen["m"], chosen["n"], chosen["k"]), order, int(traffic[i, j]))
        if best is None or (found.traffic_elements, int(steps[i, j])) < best[:2]:
            best = found.traffic_elements, int(steps[i, j]), found
    assert best is not None
    return best[2]


def _traffic(extents: dict[Axis, int] | dict[str, int], inner: Axis, order: tuple[Axis, Axis, Axis], xs: Any, ys: Any) -> Any:
    """Elements moved for tile extents along the two outer axes."""
    sizes: dict[str, int] = dict(extents)  # type: ignore[arg-type]
    a, w, c = sizes["m"] * sizes["k"], sizes["k"] * sizes["n"], sizes["m"] * sizes["n"]
    trips = {order[0]: ceil_div(sizes[order[0]], xs), order[1]: ceil_div(sizes[order[1]], ys), inner: 1}
    return a * trips["n"] + w * trips["m"] + c * (2 * trips["k"] - 1)
