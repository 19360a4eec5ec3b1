"""Graphs of one kernel alone, as a microbenchmark runs it: its inputs and its output lie in memory.

Each kernel is a short text over the same interpreter as the models, so that shapes and work follow from the same op table. A kernel's
name is that of the `op` column of tidy tables of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from functional.errors import Problem, ScenarioError, UnknownName, did_you_mean
from functional.llama import attention
from functional.spec import TensorSpec
from functional.work import Mask
from workloads.graph import OpGraph, Role, Tensor, Use
from workloads.scenario import Formats, Scenario
from workloads.trace import Trace, weight_spec

_EPS = 1e-5


class _Bench:
    """Hands a kernel's text its inputs, in the formats of the step."""

    def __init__(self, formats: Formats) -> None:
        self.f = Trace()
        self.formats = formats

    def weight(self, name: str, *shape: int) -> Use:
        return self.f.declare(name, "weight", weight_spec(shape, self.formats))

    def activation(self, name: str, *shape: int) -> Use:
        return self._declare(name, "input", shape, self.formats.activations)

    def cached(self, name: str, *shape: int) -> Use:
        return self._declare(name, "kv_cache", shape, self.formats.kv)

    def wide(self, name: str, *shape: int) -> Use:
        return self._declare(name, "input", shape, "fp32")

    def ids(self, *shape: int) -> Use:
        return self._declare("ids", "input", shape, "int32")

    def _declare(self, name: str, role: Role, shape: tuple[int, ...], number_format: str) -> Use:
        return self.f.declare(name, role, TensorSpec(shape, number_format))


@dataclass(frozen=True, slots=True)
class Kernel:
    """The dimensions that it needs, under the names of the tidy columns, and its text."""

    dims: tuple[str, ...]
    text: Callable[..., Use]


def _gemm(b: _Bench, M: int, N: int, K: int) -> Use:
    return b.f.linear("gemm", b.activation("x", M, K), b.weight("weight", N, K))


def _bmm(b: _Bench, batch: int, M: int, N: int, K: int) -> Use:
    """Either product of attention: the shorter of N and K is the head dimension."""
    a = b.activation("a", batch, 1, M, K)
    if N < K:
        return b.f.weighted_sum("bmm", a, b.cached("b", batch, 1, K, N), Mask(K - 1))
    return b.f.scores("bmm", a, b.cached("b", batch, 1, N, K), Mask(N - 1))


def _attention(b: _Bench, batch: int, heads: int, kv_heads: int, head_dim: int, q_len: int, kv_len: int) -> Use:
    queries = b.activation("queries", batch, heads, q_len, head_dim)
    keys, values = (b.cached(name, batch, kv_heads, kv_len, head_dim) for name in ("keys", "values"))
    return attention(b.f, queries, keys, values, Mask(kv_len - q_len), 1 / math.sqrt(head_dim))


def _scores(b: _Bench, batch: int, heads: int, kv_heads: int, head_dim: int, q_len: int, kv_len: int) -> Use:
    queries, keys = b.activation("queries", batch, heads, q_len, head_dim), b.cached("keys", batch, kv_heads, kv_len, head_dim)
    return b.f.scores("scores", queries, keys, Mask(kv_len - q_len))


def _weighted_sum(b: _Bench, batch: int, heads: int, kv_heads: int, head_dim: int, q_len: int, kv_len: int) -> Use:
    weights, values = b.activation("weights", batch, heads, q_len, kv_len), b.cached("values", batch, kv_heads, kv_len, head_dim)
    return b.f.weighted_sum("weighted_sum", weights, values, Mask(kv_len - q_len))


def _reduce_max(b: _Bench, batch: int, heads: int, q_len: int, kv_len: int) -> Use:
    return b.f.reduce_max("reduce_max", b.activation("scores", batch, heads, q_len, kv_len), Mask(kv_len - q_len))


def _exp(b: _Bench, batch: int, heads: int, q_len: int, kv_len: int) -> Use:
    scores, maxima = b.activation("scores", batch, heads, q_len, kv_len), b.activation("maxima", batch, heads, q_len, 1)
    return b.f.elementwise_exp("exp", scores, maxima, Mask(kv_len - q_len), 1.0)


def _normalize(b: _Bench, batch: int, heads: int, q_len: int, kv_len: int) -> Use:
    return b.f.normalize("normalize", b.activation("exponentials", batch, heads, q_len, kv_len), Mask(kv_len - q_len))


def _softmax(b: _Bench, M: int, N: int) -> Use:
    scores, everything = b.activation("scores", 1, 1, M, N), Mask(N - 1)
    maxima = b.f.reduce_max("softmax_max", scores, everything)
    return b.f.normalize("softmax_normalize", b.f.elementwise_exp("softmax_exp", scores, maxima, everything, 1.0), everything)


def _rms_norm(b: _Bench, M: int, N: int) -> Use:
    return b.f.rms_norm("rmsnorm", b.activation("x", M, N), b.weight("weight", N), _EPS)


def _rope(b: _Bench, M: int, heads: int, kv_heads: int, head_dim: int) -> Use:
    """Queries and keys of M tokens, rotated by one kernel; kv_heads 0: queries alone."""
    return b.f.rope("rope", b.activation("x", 1, heads + kv_heads, M, head_dim), b.wide("table", 2, M, head_dim // 2))


def _silu(b: _Bench, M: int, N: int) -> Use:
    return b.f.silu("silu", b.activation("x", M, N))


def _silu_mul(b: _Bench, M: int, N: int) -> Use:
    gate = b.f.silu("silu", b.activation("gate", M, N))
    return b.f.mul("gated", gate, b.activation("up", M, N))


def _mul(b: _Bench, M: int, N: int) -> Use:
    return b.f.mul("mul", b.activation("a", M, N), b.activation("b", M, N))


def _add(b: _Bench, M: int, N: int) -> Use:
    return b.f.add("add", b.activation("a", M, N), b.activation("b", M, N))


def _embedding(b: _Bench, M: int, N: int) -> Use:
    """M rows of a table of width N, however long it is."""
    return b.f.embedding("embedding", b.ids(1, M), b.weight("table", M, N), b.formats.activations)


def _kv_write(b: _Bench, batch: int, kv_heads: int, head_dim: int, q_len: int, kv_len: int) -> Use:
    """The last q_len of kv_len entries, of keys or of values; only the write counts, since the op before leaves them on the chip."""
    cache, new = b.cached("cache", batch, kv_heads, kv_len, head_dim), b.activation("new", batch, kv_heads, q_len, head_dim)
    return b.f.mem_copy("kv_write", cache, new, kv_len - q_len)


def _rope_table(b: _Bench, head_dim: int, q_len: int, kv_len: int) -> Use:
    frequencies = b.f.declare("inverse_frequencies", "constant", TensorSpec((head_dim // 2,), "fp32"))
    return b.f.rope_table("rope_table", frequencies, kv_len - q_len, q_len)


def _stream_read(b: _Bench, M: int, N: int) -> Use:
    """A reduction: every element is read once, one value per row remains."""
    return b.f.reduce_max("stream_read", b.activation("x", 1, 1, M, N), Mask(N - 1))


_ATTENTION = ("batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len")
_SCORES = ("batch", "heads", "q_len", "kv_len")
_MATRIX = ("M", "N")

KERNELS: Mapping[str, Kernel] = {
    "gemm": Kernel(("M", "N", "K"), _gemm),
    "lm_head": Kernel(("M", "N", "K"), _gemm),
    "bmm": Kernel(("batch", "M", "N", "K"), _bmm),
    "attn_prefill": Kernel(_ATTENTION, _attention),
    "attn_decode": Kernel(_ATTENTION, _attention),
    "attn_scores": Kernel(_ATTENTION, _scores),
    "attn_context": Kernel(_ATTENTION, _weighted_sum),
    "softmax_max": Kernel(_SCORES, _reduce_max),
    "softmax_exp": Kernel(_SCORES, _exp),
    "softmax_normalize": Kernel(_SCORES, _normalize),
    "softmax": Kernel(_MATRIX, _softmax),
    "rmsnorm": Kernel(_MATRIX, _rms_norm),
    "rope": Kernel(("M", "heads", "kv_heads", "head_dim"), _rope),
    "silu": Kernel(_MATRIX, _silu),
    "silu_mul": Kernel(_MATRIX, _silu_mul),
    "mul": Kernel(_MATRIX, _mul),
    "elem_mul": Kernel(_MATRIX, _mul),
    "add": Kernel(_MATRIX, _add),
    "elem_add": Kernel(_MATRIX, _add),
    "embedding": Kernel(_MATRIX, _embedding),
    "kv_write": Kernel(("batch", "kv_heads", "head_dim", "q_len", "kv_len"), _kv_write),
    "rope_table": Kernel(("head_dim", "q_len", "kv_len"), _rope_table),
    "stream_read": Kernel(_MATRIX, _stream_read),
    "stream_triad": Kernel(_MATRIX, _add),
}
"""Kernels by the names of the `op` column. A triad moves what an addition moves: two tensors in, one out."""


def kernel_graph(op: str, formats: Formats, dims: Mapping[str, int]) -> OpGraph:
    """The graph of one kernel; `dims` holds at least what `KERNELS[op].dims` names.

    Raises `UnknownName` for a kernel that is not there, `ScenarioError` for a dimension below 1 (kv_heads may be 0) or that contradicts
    another.
    """
    if op not in KERNELS:
        raise UnknownName(Problem(f"unknown kernel '{op}'", did_you_mean(op, KERNELS)))
    kernel = KERNELS[op]
    given = {name: dims[name] for name in kernel.dims}
    _check(op, given)
    bench = _Bench(formats)
    with bench.f.scope(op):  # one component, so that all of it may run as one
        output = kernel.text(bench, **given)
    bench.f.tensors[output.tensor] = Tensor(output.tensor, "output", output.spec)
    q_len = given.get("q_len", given.get("M", 1))
    context = given.get("kv_len", q_len) - q_len
    scenario = Scenario("decode" if op == "attn_decode" else "prefill", given.get("batch", 1), q_len, context, formats)
    return OpGraph(op, scenario, tuple(bench.f.ops), bench.f.tensors)


def _check(op: str, dims: Mapping[str, int]) -> None:
    problems = [
        Problem(f"must be at least 1, found {value}", path=name)
        for name, value in dims.items()
        if value < (0 if (op, name) == ("rope", "kv_heads") else 1)
    ]
    if not problems and dims.get("kv_len", 0) < dims.get("q_len", 0):
        message = f"{dims['q_len']} queries cannot follow on {dims['kv_len']} keys"
        problems.append(Problem(message, "kv_len counts the queries' own keys too", path="kv_len"))
    if not problems and dims.get("kv_heads") and "heads" in dims and dims["heads"] % dims["kv_heads"]:
        problems.append(Problem(f"{dims['kv_heads']} do not divide the {dims['heads']} query heads", path="kv_heads"))
    if not problems and dims.get("head_dim", 2) % 2:
        problems.append(Problem(f"{dims['head_dim']} is odd", "pairs of elements are rotated", path="head_dim"))
    if problems:
        raise ScenarioError(problems)
