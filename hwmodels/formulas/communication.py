"""How little a matrix product can move: bounds that hold for every schedule."""

from __future__ import annotations

import math


def gemm_lower_bound_elements(m: int, n: int, k: int, capacity_elements: float) -> float:
    """Elements that cross the border of an on-chip memory of `capacity_elements` at least, for C[m, n] = A[m, k] W[k, n].

    All operands and results once; and 2 m n k / sqrt(S) - 2 S. Source: Kwasniewski et al., "Red-blue pebbling revisited", SC 2019,
    doi:10.1145/3295500.3356181, after Hong and Kung, STOC 1981.
    """
    compulsory = m * k + k * n + m * n
    return max(compulsory, 2 * m * n * k / math.sqrt(capacity_elements) - 2 * capacity_elements)
