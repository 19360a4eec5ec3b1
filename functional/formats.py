"""Number formats: their names, how many bits an element takes in memory, and the scales that come with it.

What users write is `ELEMENT` or, for weights, `ELEMENT:gN`: bf16, fp16, fp32, fp8, int8, int4, int8:g32 ... int4:g128. A tensor's format
says besides how its scales lie in memory, since that is what it costs:

| format | scales | zero points | source |
|---|---|---|---|
| `int4:g128` | one fp16 per row and group of 128 along the last axis | one of the element's width per group | GPTQ, AWQ |
| `int8:channel` | one fp32 per row (output channel, word of the vocabulary) | none | Jacob et al., arXiv 1712.05877 |
| `fp8:tensor` | one fp32 | none | Micikevicius et al., arXiv 2209.05433 |
| `int8`, `fp8` | none in memory: one static number per tensor, which the unit that uses it holds | none | the same |

GPTQ: Frantar et al., arXiv 2210.17323. AWQ: Lin et al., arXiv 2306.00978. A last group may be shorter and has a scale of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from functional.errors import Problem, UnknownName, did_you_mean

if TYPE_CHECKING:
    import torch

BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4, "int32": 32}
"""Bits per element. fp8 is e4m3 of the OCP 8-bit floating point specification (2023); int32 holds token ids and integer sums."""

TENSOR_FORMATS = ("bf16", "fp16", "fp32", "fp8", "int8", "int4")
"""What weights and the KV cache may be stored in."""

ACTIVATION_FORMATS = tuple(name for name in TENSOR_FORMATS if name != "int4")
"""What tensors between ops may be stored in: what the golden model computes in. Sixteen codes are too few for sums and exponentials."""

WEIGHT_FORMATS = (*TENSOR_FORMATS, *(f"{element}:g{size}" for element in ("int8", "int4") for size in (32, 64, 128)))
"""What weights may be stored in: group-wise formats too."""

LARGEST = {"int8": 127, "int4": 7, "fp8": 448}
"""Largest magnitude of a symmetric code of each scaled format; int8 and int4 leave out -128 and -8."""

GROUP_SCALE_BITS = BITS["fp16"]
SCALE_BITS = BITS["fp32"]

_INTEGERS = frozenset({"int8", "int4", "int32"})
_SCALES = {"fp8": "tensor", "int8": "channel", "int4": "channel"}


def element_of(number_format: str) -> str:
    """The format of one element: `int4` of `int4:g128`."""
    return number_format.partition(":")[0]


@lru_cache(maxsize=64)
def group_of(number_format: str) -> int | None:
    """Elements along the last axis that share a scale and a zero point; None where the format has no groups."""
    found = re.fullmatch(r"\w+:g(\d+)", number_format)
    return int(found[1]) if found else None


def bits_of(number_format: str) -> int:
    """Bits of one element in memory, without what belongs to its scale."""
    return BITS[element_of(number_format)]


def is_integer(number_format: str) -> bool:
    """True for formats whose products and sums are exact integers."""
    return element_of(number_format) in _INTEGERS


def wider(a: str, b: str) -> str:
    """The format in which elements of two formats are multiplied: the wider one; floats before integers."""
    return max((element_of(a), element_of(b)), key=lambda name: (not is_integer(name), BITS[name]))


def weight_format(number_format: str) -> str:
    """How a weight matrix lies in memory if users ask for this format."""
    scales = _SCALES.get(number_format)
    return f"{number_format}:{scales}" if scales else number_format


def scales_bytes(number_format: str, rows: Any, columns: Any) -> Any:
    """Bytes of scales and zero points of a matrix [rows, columns], integers or arrays; zero points are packed."""
    group = group_of(number_format)
    if group is not None:
        groups = rows * -(-columns // group)
        return groups * (GROUP_SCALE_BITS // 8) + (groups * bits_of(number_format) + 7) // 8
    match number_format.partition(":")[2]:
        case "channel":
            return rows * (SCALE_BITS // 8)
        case "tensor":
            return SCALE_BITS // 8
    return 0


def check_format(number_format: str, path: str = "format", known: tuple[str, ...] = TENSOR_FORMATS) -> str:
    """Return the name, or raise `UnknownName` with the cure; `known` is what may be said in this place."""
    if number_format not in known:
        raise UnknownName(_unknown(number_format, path, known))
    return number_format


def check_default(number_format: str, path: str, activations: str | None) -> list[Problem]:
    """What is wrong with a format that weights, activations and KV cache have unless said; `activations` is what is said of these."""
    if number_format in ACTIVATION_FORMATS or (number_format in TENSOR_FORMATS and activations is not None):
        return []
    if number_format in WEIGHT_FORMATS:
        cure = f"give it as --weights {number_format}, and here one of {', '.join(ACTIVATION_FORMATS)}"
        return [Problem(f"'{number_format}' is no format between ops", cure, path=path)]
    return [_unknown(number_format, path, ACTIVATION_FORMATS)]


_OTHER_NAMES = {"float16": "fp16", "f16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32", "f32": "fp32", "e4m3": "fp8"}
"""What others call our formats."""


def _unknown(number_format: str, path: str, known: tuple[str, ...]) -> Problem:
    """What to say of a format that is not `known` in this place."""
    if number_format in WEIGHT_FORMATS:
        is_between = path == "--activations"
        found = "no format between ops: the golden model does not compute in it" if is_between else "a format of weights"
        return Problem(f"'{number_format}' is {found}", f"known here: {', '.join(known)}", path=path)
    element, colon, _ = number_format.partition(":")
    alike = [name for name in known if element_of(name) == element]
    cure = did_you_mean(_OTHER_NAMES.get(number_format, number_format), known)
    if colon and alike:
        cure = f"of {element} there is {', '.join(alike)}"
    return Problem(f"unknown number format '{number_format}'", cure, path=path)


def torch_dtype(number_format: str) -> torch.dtype:
    """The PyTorch type of a floating-point format."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}[number_format]
