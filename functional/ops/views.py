"""Changes of shape without work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functional.spec import Dim, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A change of shape that costs nothing: no op of the graph, only another way to see a tensor."""

    name: str
    compute: Callable[..., Tensor]
    shape: Callable[..., TensorSpec]


def _split_heads(x: Tensor, *, heads: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.view(batch, tokens, heads, width // heads).transpose(1, 2)


def _split_heads_shape(x: TensorSpec, *, heads: int) -> TensorSpec:
    batch, tokens, width = x.shape
    return TensorSpec((batch, heads, tokens, width // heads), x.format)


def _merge_heads(x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


def _merge_heads_shape(x: TensorSpec) -> TensorSpec:
    batch, heads, tokens, width = x.shape
    return TensorSpec((batch, tokens, heads * width), x.format)


def _last_token(x: Tensor) -> Tensor:
    return x[:, x.shape[1] - 1 :]


def _last_token_shape(x: TensorSpec) -> TensorSpec:
    return TensorSpec((x.shape[0], 1, *x.shape[2:]), x.format)


def _recent(cache: Tensor, *, first: int) -> Tensor:
    return cache[:, :, first:]


def _recent_shape(cache: TensorSpec, *, first: Dim) -> TensorSpec:
    batch, heads, keys, width = cache.shape
    return TensorSpec((batch, heads, keys - first, width), cache.format)


SPLIT_HEADS = View("split_heads", _split_heads, _split_heads_shape)
MERGE_HEADS = View("merge_heads", _merge_heads, _merge_heads_shape)
LAST_TOKEN = View("last_token", _last_token, _last_token_shape)
RECENT = View("recent", _recent, _recent_shape)
