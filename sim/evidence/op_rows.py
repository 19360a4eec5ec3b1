"""Ops of the functional model as rows of a tidy table: which kernel each call is, with which dimensions, and what it takes in a step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from functional.interpreters import Torch
from functional.ops import Op
from sim.evidence.sampling import Log

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


PARTS = ("embedding", "layer", "head")
"""What a step consists of: what comes before the layers, each layer, and what comes after them."""


class InPlace(Torch):
    """Computes, and times each op and each part of a step where it stands, for a log whose keys `op_key` and `part_key` make.

    The log may read its reference between parts, never within one. The op that comes next has then lost its inputs from the caches: it is
    run once before time goes on.
    """

    def __init__(
        self, log: Log, op_key: Callable[[Key], Hashable], part_key: Callable[[str], Hashable], now: Callable[[], float]
    ) -> None:
        super().__init__()
        self._log, self._op_key, self._part_key, self._now = log, op_key, part_key, now
        self._is_cold = False
        self._besides_s = 0.0
        self._begin_s = now()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        is_layer = not self._scope
        if is_layer and name == "layers.0":
            self._end_part("embedding")
        with super().scope(name):
            yield
        if is_layer:
            self._end_part("layer")

    def end(self) -> None:
        """The step is done."""
        self._end_part("head")

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        if self._is_cold:
            op.compute(*inputs, **attrs)
            self._begin_s, self._is_cold = self._now(), False
        begin_s = self._now()
        output = op.compute(*inputs, **attrs)
        end_s = self._now()
        self._log.note(self._op_key(Call(op, inputs, attrs).key()), end_s - begin_s)
        self._besides_s += self._now() - end_s
        return output

    def _end_part(self, name: str) -> None:
        self._log.note(self._part_key(name), self._now() - self._begin_s - self._besides_s)
        self._log.settle()
        self._is_cold = self._log.is_fresh
        self._besides_s, self._begin_s = 0.0, self._now()


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
