"""Number formats: their names and how many bits an element takes in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functional.errors import Problem, UnknownName, did_you_mean

if TYPE_CHECKING:
    import torch

BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4, "int32": 32}
"""Bits per element. fp8 is e4m3 of the OCP 8-bit floating point specification (2023); int32 holds token ids and integer sums."""

TENSOR_FORMATS = ("bf16", "fp16", "fp32", "fp8", "int8", "int4")
"""What weights, activations and the KV cache may be stored in."""

_INTEGERS = frozenset({"int8", "int4", "int32"})


def bits_of(number_format: str) -> int:
    """Bits of one element in memory."""
    return BITS[number_format]


def is_integer(number_format: str) -> bool:
    """True for formats whose products and sums are exact integers."""
    return number_format in _INTEGERS


def check_format(number_format: str, path: str = "format") -> str:
    """Return the name, or raise `UnknownName` with the cure."""
    if number_format not in TENSOR_FORMATS:
        raise UnknownName(Problem(f"unknown number format '{number_format}'", did_you_mean(number_format, TENSOR_FORMATS), path=path))
    return number_format


def torch_dtype(number_format: str) -> torch.dtype:
    """The PyTorch type of a floating-point format."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[number_format]
