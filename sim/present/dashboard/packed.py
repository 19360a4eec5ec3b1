"""Columns of numbers inside a page: compressed bytes as text, which the browser turns into typed arrays."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 6
"""Of zlib's nine: columns of alike tiles shrink tenfold, and more effort gains little."""

_TYPES = {"u1": np.uint8, "i1": np.int8, "u2": np.uint16, "u4": np.uint32, "f4": np.float32, "f8": np.float64}


def packed(values: NDArray[Any], kind: str) -> dict[str, str]:
    """A column as `kind` (`u1` to `f8`, little-endian), for `unpacked` of the page; whole numbers must fit it."""
    column = np.ascontiguousarray(values, dtype=np.dtype(_TYPES[kind]).newbyteorder("<"))
    return {"type": kind, "deflate": base64.b64encode(zlib.compress(column.tobytes(), LEVEL)).decode("ascii")}


def smallest(values: NDArray[Any]) -> str:
    """The shortest kind that holds numbers from 0 on exactly, whole or not."""
    if values.size and np.all(values == np.floor(values)) and values.min() >= 0:
        for kind, end in (("u1", 2**8), ("u2", 2**16), ("u4", 2**32)):
            if values.max() < end:
                return kind
    return "f8"
