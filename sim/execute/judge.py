"""Whether a result is the golden one: integers exactly, floats within a bound that follows from formats and lengths.

For a sum of k products in floating point, added in any order, |computed - exact| <= gamma_k sum |a| |b| with gamma_k = k u / (1 - k u) and
u the unit roundoff of the accumulator; then one rounding to the output format adds u_out |computed|. Source: Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., ch. 3 (eq. 3.5). Bounds are on the distance to the exact result, which float64 stands for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from functional.formats import LARGEST
from functional.work import Mask
from sim.execute.arithmetic import Arithmetic

if TYPE_CHECKING:
    from sim.execute.attention import Scales

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": 2.0**-4, "int8": 0.0}
"""Largest relative error of rounding to nearest."""

UNDERFLOW = {"fp32": 2.0**-150, "bf16": 2.0**-134, "fp16": 2.0**-25, "fp8": 2.0**-10, "int8": 0.5}
"""Largest absolute error of rounding a number below the normal range: half of the smallest subnormal; of codes that are integers, half."""

_ELEMENTS_AT_ONCE = 2**19
"""So that the float64 copies of a vocabulary's weights stay in the cache."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`worst` is the largest error over its bound (integers: the largest difference), at the element of flat index `worst_index`."""

    passed: bool
    elements: int
    different: int
    worst: float
    worst_index: int


def gamma(roundings: int, unit_roundoff: float) -> float:
    """Higham's gamma_n = n u / (1 - n u): the relative error of n roundings in a row."""
    return roundings * unit_roundoff / (1 - roundings * unit_roundoff)


def judge(found: Tensor, golden: Tensor, bound: Tensor | None = None) -> Judgement:
    """Compare with the golden values: exactly, or within `bound` (same shape). What is not a number never passes; equal infinities do."""
    if found.shape != golden.shape:
        raise ValueError(f"a result of shape {tuple(found.shape)} cannot be compared with a golden one of {tuple(golden.shape)}")
    if found.numel() == 0:
        return Judgement(True, 0, 0, 0.0, 0)
    found, golden = found.double(), golden.double()
    error = (found - golden).abs().masked_fill(found == golden, 0.0)
    share = error if bound is None else torch.where(error == 0, 0.0, error / bound)
    share = share.nan_to_num(nan=math.inf, posinf=math.inf)
    limit = 0.0 if bound is None else 1.0
    index = int(share.argmax())
    return Judgement(not bool((share > limit).any()), found.numel(), int((share > limit).sum()), float(share.flatten()[index]), index)


def magnitudes(a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(a w, |a| |w|) in float64 for a[m, k], w[k, n]."""
    exact = torch.empty((a.shape[0], w.shape[1]), dtype=torch.float64)
    sizes = torch.empty_like(exact)
    wide_a = a.double()
    size_a = wide_a.abs()
    for columns in _column_pieces(w):
        wide_w = w[:, columns].to(torch.float64, copy=True)
        exact[:, columns] = wide_a @ wide_w
        sizes[:, columns] = size_a @ wide_w.abs_()
    return exact, sizes


def gemm_bound(a: Tensor, w: Tensor, arithmetic: Arithmetic, known: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """(exact a w in float64, bound on the distance of any floating-point execution to it) for a[m, k], w[k, n]; `known` are their
    `magnitudes`.

    k additions in the accumulator's format; a k + 1st rounding is that of fp32 sums within a tile where the accumulator is narrower, and
    one more that of the product with a factor, after which codes end at the largest.
    """
    relative = gamma(a.shape[1] + 1 + (arithmetic.factor is not None), UNIT_ROUNDOFF[arithmetic.accumulate])
    exact, sizes = known or magnitudes(a, w)
    bound = relative * sizes
    if arithmetic.factor is not None:
        bound *= arithmetic.factor
        exact = (exact * arithmetic.factor).clamp(-LARGEST[arithmetic.output], LARGEST[arithmetic.output])
    return exact, output_rounding(exact, bound, arithmetic.output)


def output_rounding(exact: Tensor, error: Tensor, output: str) -> Tensor:
    """The bound after one more rounding, to the output format."""
    return error + UNIT_ROUNDOFF[output] * (exact.abs() + error) + UNDERFLOW[output]


def _column_pieces(w: Tensor) -> Iterator[slice]:
    width = max(_ELEMENTS_AT_ONCE // w.shape[0], 1)
    for start in range(0, w.shape[1], width):
        yield slice(start, start + width)


def attention_bound(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, softmax_scale: float, arithmetic: Arithmetic, scales: Scales | None = None
) -> tuple[Tensor, Tensor]:
    """(exact attention in float64, bound for three passes with `arithmetic.output` between the ops) of q[B, H, T, E], k and v[B, G, S, E].

    A score is off by at most e = gamma_E sum |q| |k| and one rounding. The maximum cancels. So an exponential is off by the factor
    exp(scale e) and a few roundings in fp32 and one to the format between ops; its argument, of magnitude A, is off by 3 u A more. A row's
    sum is off by no more than its worst term, so a probability is off by the factor (1 + eta) / (1 - eta). The product with the values is a
    sum of S terms, and is rounded once. Online rescaling rounds no more often than this: it keeps scores and sums in fp32, and each of the
    at most S rescalings is one more rounding, which `gamma` below counts.

    With `scales` the three sides, the scores and what follows are codes, and so is the result. Rounding to a code is off by an absolute
    part too, half a step where codes are integers: an exponential by a, its row's sum Z by S a, a probability p by (a + factor^2 S a p) / Z
    more. The largest exponential of a row is 1, whose code is exact, so that no Z is below that. Values beyond the largest code end there,
    which is off by their excess. What is brought to another format for a product is rounded once more.
    """
    groups, output, u = q.shape[1] // k.shape[1], arithmetic.output, UNIT_ROUNDOFF["fp32"]
    of_q, of_k, of_v, of_scores, of_exponentials, of_probabilities, of_output = _steps(scales)
    wide_q, wide_k, wide_v = of_q * q.double(), of_k * k.double(), of_v * v.double()
    wide_k, wide_v = wide_k.repeat_interleave(groups, 1), wide_v.repeat_interleave(groups, 1)
    u_out, length, largest = UNIT_ROUNDOFF[output], k.shape[2], LARGEST.get(output, math.inf)
    hidden = hidden_pairs(range(q.shape[2]), range(length), mask)
    scores = (wide_q @ wide_k.mT).masked_fill(hidden, -math.inf)
    size = scores.abs().masked_fill(hidden, 0.0)
    sum_error = gamma(q.shape[3] + 3, UNIT_ROUNDOFF[arithmetic.accumulate]) * (wide_q.abs() @ wide_k.mT.abs()) + 2 * u * size
    score_error = of_scores * output_rounding(size / of_scores, sum_error / of_scores, output) + (size - largest * of_scores).clamp(min=0)
    score_error = score_error.masked_fill(hidden, 0.0)
    below = (scores.amax(-1, keepdim=True) - scores).masked_fill(hidden, 0.0)
    argument_error = softmax_scale * (score_error + 3 * u * (below + 2 * score_error))
    narrowed = 0.0 if arithmetic.compute == output else UNIT_ROUNDOFF[arithmetic.compute]
    factor = (torch.expm1(argument_error.amax(-1, keepdim=True)) + 1) * (1 + gamma(2 * length + 12, u)) * (1 + u_out) ** 2 * (1 + narrowed)
    probability_error = factor * factor - 1
    probabilities = torch.softmax(softmax_scale * scores, -1)
    sums = gamma(2 * length + 5, UNIT_ROUNDOFF[arithmetic.accumulate])

    step = UNDERFLOW[output] * of_exponentials
    row_sum = (-softmax_scale * below).exp().masked_fill(hidden, 0.0).sum(-1, keepdim=True)
    seen = (~hidden).sum(-1, keepdim=True)
    least_sum = (row_sum / factor - seen * step).clamp(min=1 - 4 * u)
    apart = (1 + factor * factor * seen * probabilities) * step / least_sum + UNDERFLOW[output] * of_probabilities
    apart = apart + UNDERFLOW[arithmetic.compute] * (of_probabilities if arithmetic.compute in LARGEST else 1.0)
    apart = apart + (probabilities * (1 + probability_error) + apart - largest * of_probabilities).clamp(min=0)
    apart = (factor * apart).masked_fill(hidden, 0.0)

    error = ((1 + probability_error) * (1 + sums) - 1) * (probabilities @ wide_v.abs()) + (1 + sums) * (apart @ wide_v.abs())
    exact = ((probabilities @ wide_v) / of_output).clamp(-largest, largest)
    return exact, output_rounding(exact, error / of_output, output)


def _steps(scales: Scales | None) -> list[float]:
    """What a code of each tensor around attention stands for: 1 where there are no scales."""
    if scales is None:
        return [1.0] * 7
    return [float(getattr(scales, each.name)) for each in fields(scales)]


def hidden_pairs(queries: range, keys: range, mask: Mask) -> Tensor:
    """True where a query of a range must not see a key of another."""
    last = torch.arange(queries.start, queries.stop)[:, None] + int(mask.offset)
    key = torch.arange(keys.start, keys.stop)
    future = key > last
    return future if mask.window is None else future | (key <= last - mask.window)
