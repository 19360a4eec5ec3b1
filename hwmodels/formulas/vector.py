"""Vector unit of `lanes` lanes, each busy for a known number of cycles per primitive (add, mul, exp, ...) and element.

A throughput model: lanes are pipelined, work spreads evenly over them, latency is hidden (Hennessy and Patterson, "Computer Architecture: A
Quantitative Approach", vector execution time with multiple lanes). Counts may be scalars or arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from hwmodels.formulas.systolic import Count, Number, whole_cycles

Costs: TypeAlias = Mapping[str, Number]


def lane_cycles(elements: Count | Number, per_element: Costs, primitive_cycles: Costs) -> Number:
    """Busy cycles summed over lanes: elements x sum over primitives of (`per_element` count x cycles of one lane)."""
    element_cycles = sum((count * primitive_cycles[name] for name, count in per_element.items()), start=0.0)
    return cast(Number, elements * element_cycles)  # NumPy's stubs forget that float64 times int is float64


def vector_cycles(elements: Count | Number, per_element: Costs, primitive_cycles: Costs, lanes: Number) -> Number:
    """Cycles on `lanes` lanes, fractional: work over throughput, for the roofline."""
    return lane_cycles(elements, per_element, primitive_cycles) / lanes


def tile_cycles(elements: Count | Number, per_element: Costs, primitive_cycles: Costs, lanes: Number) -> Count:
    """Whole cycles on `lanes` lanes."""
    return whole_cycles(vector_cycles(elements, per_element, primitive_cycles, lanes))
