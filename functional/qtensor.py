"""Codes of scaled number formats: how values become integers or fp8, and back. Formats and their scales: `functional.formats`.

Symmetric codes stand for `scale` x code. Group-wise codes are unsigned and stand for scale x (code - zero point); 0 is always a code, and
the fp16 scale is rounded up, so that no value of the group is further than half a step away. Rounding is half to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from functional import formats
from functional.formats import bits_of, group_of, is_integer, torch_dtype, wider

LARGEST = formats.LARGEST["int8"]
MASKED = -128
"""The int8 code of a score that must not be seen: below every value, so that a maximum never meets it. In fp8 it is not a number."""

EXACT_IN_FP32 = 2**24 // (LARGEST + 1) ** 2
"""Products of two int8 values whose sum fp32 still holds exactly, in any order of addition."""

LARGEST_SUM = 2**29
"""Sums below this, times a 24-bit multiplier, float64 still holds exactly; 33,286 products of two int8 values cannot exceed it."""

_PLAIN = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8",
    torch.int8: "int8",
    torch.int32: "int32",
}


@dataclass(frozen=True, slots=True, eq=False)
class QTensor:
    """Codes and what turns them into values.

    `scale` is fp32, a scalar or one per row, or fp16 per row and group with `zero` points beside it; None where the values stand for
    themselves (floats, ids, angles). `stored` names the format where the type of `values` does not: int4 in int8, group-wise in uint8.
    """

    values: Tensor
    scale: Tensor | None
    zero: Tensor | None = None
    stored: str = ""

    @property
    def format(self) -> str:
        """Number format as users say it: `int4:g128`."""
        return self.stored or _PLAIN[self.values.dtype]

    def real(self) -> Tensor:
        """The values that the codes stand for, in fp32; a masked score is -inf. What stands for itself is given back."""
        if self.scale is None:
            return self.values
        if self.zero is not None:
            return self._real_groups(self.scale, self.zero)
        scale = self.scale[:, None] if self.scale.ndim else self.scale
        if self.values.dtype == torch.float8_e4m3fn:
            wide = self.values.float()
            return (wide * scale).masked_fill(wide.isnan(), float("-inf"))
        return (self.values.float() * scale).masked_fill(self.values == MASKED, float("-inf"))

    def _real_groups(self, scale: Tensor, zero: Tensor) -> Tensor:
        group = group_of(self.format)
        assert group is not None
        rows, columns = self.values.shape
        wide = pad(self.values, (0, -columns % group)).float().view(rows, -1, group)
        return wide.sub_(zero[..., None]).mul_(scale[..., None].float()).view(rows, -1)[:, :columns]

    def gathered(self, ids: Tensor) -> QTensor:
        """The rows of a matrix that ids[...] name, one after another, with their scales."""
        flat = ids.flatten().long()
        scale = self.scale if self.scale is None or not self.scale.ndim else self.scale[flat]
        return QTensor(self.values[flat], scale, None if self.zero is None else self.zero[flat], self.stored)

    def rows(self, ids: Tensor) -> Tensor:
        """What the rows of a matrix that ids[...] name stand for: [..., columns]."""
        return self.gathered(ids).real().view(*ids.shape, -1)

    def part(self, rows: slice) -> QTensor:
        """Some rows of a matrix, with their scales."""
        scale = self.scale if self.scale is None or not self.scale.ndim else self.scale[rows]
        return QTensor(self.values[rows], scale, None if self.zero is None else self.zero[rows], self.stored)

    def with_values(self, values: Tensor) -> QTensor:
        """Other codes, or the same in another shape, that stand for values in the same way."""
        return QTensor(values, self.scale, self.zero, self.stored)


def weight_bytes(weight: QTensor) -> tuple[int, int]:
    """Bytes of a weight matrix as it lies in memory, counted on its tensors: (elements, scales and zero points)."""
    bits = bits_of(weight.format)
    beside = [each.nbytes for each in (weight.scale,) if each is not None]
    return packed(weight.values, bits).nbytes, sum(beside) + (0 if weight.zero is None else packed(weight.zero, bits).nbytes)


def bits_in_memory(tensor: QTensor) -> int:
    """Bits of an element, by the type of the tensor that holds it; codes of four bits lie two to a byte."""
    return 8 * tensor.values.element_size() // (2 if tensor.format.startswith("int4") else 1)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes as they lie in memory: of four bits the first in the lower half of a byte."""
    if bits != 4:
        return codes
    nibbles = pad(codes.flatten().to(torch.uint8) & 15, (0, codes.numel() % 2)).view(-1, 2)
    return nibbles[:, 0] | nibbles[:, 1] << 4


# Values to codes -------------------------------------------------------------------------------------------------------------------------


def scale_of(amax: Tensor, number_format: str = "int8") -> Tensor:
    """The fp32 scale that brings magnitudes up to `amax` to the largest code; 1 where there is nothing but zeros."""
    return torch.where(amax > 0, amax.float() / formats.LARGEST[number_format], torch.ones_like(amax, dtype=torch.float32))


def requantise(real: Tensor, scale: Tensor, number_format: str = "int8") -> Tensor:
    """fp32 values as codes of that scale: times 1 / scale, clamped, half to even; -inf is a masked score."""
    largest = formats.LARGEST[number_format]
    codes, masked = real.float() * scale.reciprocal(), real.isneginf()
    if number_format == "fp8":
        return codes.clamp_(-largest, largest).masked_fill_(masked, float("nan")).to(torch.float8_e4m3fn)
    return codes.round_().clamp_(-largest, largest).masked_fill_(masked, MASKED).to(torch.int8)


def quantise(real: Tensor, scale: Tensor, number_format: str = "int8") -> QTensor:
    """A tensor as codes of one scale."""
    return QTensor(requantise(real, scale, number_format), scale, None, number_format)


def quantise_weight(weight: Tensor, number_format: str = "int8") -> QTensor:
    """A matrix in a format of weights (`int4:g128`): a scale per group, per row, or one; a float format is only converted.

    A vector has one scale.
    """
    group = group_of(number_format)
    if group is not None:
        return _quantise_groups(weight, number_format, group)
    if number_format not in formats.LARGEST:
        return QTensor(weight.to(torch_dtype(number_format)), None)
    if weight.ndim == 1 or number_format == "fp8":
        return quantise(weight, scale_of(weight.abs().amax(), number_format), number_format)
    scale = scale_of(weight.abs().amax(1), number_format)
    return QTensor(requantise(weight, scale[:, None], number_format), scale, None, number_format)


def _quantise_groups(weight: Tensor, number_format: str, group: int) -> QTensor:
    levels = 2 ** bits_of(number_format) - 1
    rows, columns = weight.shape
    grouped = pad(weight.float(), (0, -columns % group)).view(rows, -1, group)  # a zero more changes neither end of a group's range
    least, most = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    scale = _rounded_up(torch.where(most > least, (most - least) / levels, 1.0))
    wide = scale.float()
    zero = (-least / wide).round().clamp(0, levels)
    codes = (grouped / wide[..., None]).round_().add_(zero[..., None]).clamp_(0, levels)
    return QTensor(codes.view(rows, -1)[:, :columns].to(torch.uint8), scale, zero.to(torch.uint8), number_format)


def _rounded_up(scale: Tensor) -> Tensor:
    """The next fp16 that is not smaller. Raises ValueError where there is none."""
    half = scale.half()
    half = torch.where(half.float() < scale, half.nextafter(half.new_tensor(float("inf"))), half)
    if half.isinf().any():
        raise ValueError(f"weights up to {float(scale.max()):.3g} steps apart have no scale in fp16")
    return half


# Products --------------------------------------------------------------------------------------------------------------------------------


def common_format(a: QTensor, b: QTensor) -> tuple[str, QTensor, QTensor]:
    """The format in which two operands are multiplied, and both in it."""
    wanted = wider(a.format, b.format)
    return wanted, brought(a, wanted), brought(b, wanted)


def brought(operand: QTensor, wanted: str) -> QTensor:
    """An operand in the wider format of a product: in a float format the values that its codes stand for, rounded.

    In a scaled format symmetric codes are codes of the same scale (of int8 in fp8: rounded), and group-wise ones get a scale per row.
    """
    if operand.format == wanted:
        return operand
    if wanted not in formats.LARGEST:
        return QTensor(operand.real().to(torch_dtype(wanted)), None)
    if operand.zero is not None:
        real = operand.real()
        scale = scale_of(real.abs().amax(1), wanted)
        return QTensor(requantise(real, scale[:, None], wanted), scale, None, wanted)
    codes = operand.values if is_integer(wanted) else operand.values.float().to(torch_dtype(wanted))
    return QTensor(codes, operand.scale, None, wanted)


def multiplier(a: Tensor, b: Tensor, output: Tensor) -> Tensor:
    """fp32 factor from int32 sums to the output's integers: scale of a x scale of b / scale of the output, a scalar or one per column."""
    return (a.double() * b.double() / output.double()).float()


def requantise_sums(sums: Tensor, factor: Tensor) -> Tensor:
    """Integer sums [..., N] times a factor (scalar or [N]) as int8: exact in float64, then one rounding, half to even.

    Raises ValueError for a sum of `LARGEST_SUM` or more, whose product would be rounded twice.
    """
    if sums.numel() and sums.abs().amax() >= LARGEST_SUM:
        raise ValueError(f"an integer sum of {int(sums.abs().amax())} cannot be requantised exactly; the largest is {LARGEST_SUM - 1}")
    return (sums.double() * factor.double()).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 a[..., M, K] times int8 b[..., K, N], exactly, in int32.

    fp32 products of pieces of K that are so short that no partial sum needs more than 24 bits: exact in any order, and fast everywhere.
    """
    depth = a.shape[-1]
    sums: Tensor | None = None
    for start in range(0, depth, EXACT_IN_FP32):
        piece = slice(start, start + EXACT_IN_FP32)
        product = (widened(a[..., piece]) @ widened(b[..., piece, :])).to(torch.int32)
        sums = product if sums is None else sums.add_(product)
    assert sums is not None
    return sums


def widened(tensor: Tensor) -> Tensor:
    """fp32 values, packed row by row, or column by column if they lie so: several times faster than keeping the strides of a slice of a
    transposed matrix, or than transposing it."""
    if tensor.stride(-1) != 1 and tensor.stride(-2) == 1:
        return tensor.mT.to(torch.float32, memory_format=torch.contiguous_format).mT
    return tensor.to(torch.float32, memory_format=torch.contiguous_format)
