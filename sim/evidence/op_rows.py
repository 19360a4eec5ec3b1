"""Ops of the functional model as rows of a tidy table: which kernel each call is, and with which dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from functional.interpreters import Torch
from functional.ops import Op

Dims = dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of an op with the tensors that it had."""

    op: Op
    inputs: tuple[Tensor, ...]
    attrs: Mapping[str, Any]

    def run(self) -> Tensor:
        return self.op.compute(*self.inputs, **self.attrs)

    def key(self) -> Key:
        """Name and dimensions of the kernel that it is."""
        kernel, dims = _ROWS[self.op.kind]
        return kernel(self) if callable(kernel) else kernel, tuple(dims(self).items())


Key = tuple[str, tuple[tuple[str, int], ...]]
"""A kernel and its dimensions."""


class Distinct(Torch):
    """Computes, and keeps the first call of each op with each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Key, Call] = {}

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        call = Call(op, inputs, attrs)
        self.calls.setdefault(call.key(), call)
        return super().apply(op, name, inputs, **attrs)


class InPlace(Torch):
    """Computes, and keeps the seconds that each op took where it stands in the step, by kernel and dimensions."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self.seconds: dict[Key, list[float]] = {}

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        begin_s = self._now()
        output = op.compute(*inputs, **attrs)
        took_s = self._now() - begin_s
        self.seconds.setdefault(Call(op, inputs, attrs).key(), []).append(took_s)
        return output


def _rows_of(x: Tensor) -> Dims:
    """M rows of N elements."""
    return {"M": prod(x.shape[:-1]), "N": x.shape[-1]}


def _linear(call: Call) -> Dims:
    x, weight = call.inputs
    return {"M": prod(x.shape[:-1]), "N": weight.shape[0], "K": weight.shape[1]}


def _product(call: Call) -> Dims:
    a, b = call.inputs
    head_dim, kv_len = b.shape[3], b.shape[2]
    heads = {"heads": a.shape[1], "kv_heads": b.shape[1], "head_dim": head_dim}
    return {"batch": a.shape[0], **heads, "q_len": a.shape[2], "kv_len": kv_len}


def _scores(call: Call) -> Dims:
    batch, heads, queries, keys = call.inputs[0].shape
    return {"batch": batch, "heads": heads, "q_len": queries, "kv_len": keys}


def _rotation(call: Call) -> Dims:
    batch, heads, tokens, head_dim = call.inputs[0].shape
    return {"M": batch * tokens, "heads": heads, "kv_heads": 0, "head_dim": head_dim}


def _cache_write(call: Call) -> Dims:
    batch, kv_heads, tokens, head_dim = call.inputs[1].shape
    return {"batch": batch, "kv_heads": kv_heads, "head_dim": head_dim, "q_len": tokens, "kv_len": call.attrs["offset"] + tokens}


def _table(call: Call) -> Dims:
    length = call.attrs["length"]
    return {"head_dim": 2 * call.inputs[0].shape[0], "q_len": length, "kv_len": call.attrs["first"] + length}


def _gathered(call: Call) -> Dims:
    return {"M": call.inputs[0].numel(), "N": call.inputs[1].shape[1]}


def _elements(call: Call) -> Dims:
    return _rows_of(call.inputs[0])


_ROWS: Mapping[str, tuple[str | Callable[[Call], str], Callable[[Call], Dims]]] = {
    "Linear": ("gemm", _linear),
    "MatMul": (lambda call: "attn_scores" if call.attrs["mask_axis"] == "n" else "attn_context", _product),
    "ReduceMax": ("softmax_max", _scores),
    "ElementwiseExp": ("softmax_exp", _scores),
    "Normalize": ("softmax_normalize", _scores),
    "RMSNorm": ("rmsnorm", _elements),
    "RoPE": ("rope", _rotation),
    "RoPETable": ("rope_table", _table),
    "SiLU": ("silu", _elements),
    "Mul": ("mul", _elements),
    "Add": ("add", _elements),
    "Embedding": ("embedding", _gathered),
    "MemCopy": ("kv_write", _cache_write),
}
"""For each kind of op the kernel (`workloads.kernels`) that one call of it is."""
