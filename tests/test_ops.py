"""Truth defended: every op of the table has the shape and does the work that it declares, counted while its implementation runs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from functional.formats import torch_dtype
from functional.ops import OPS, RECENT, Op
from functional.spec import TensorSpec
from functional.work import PRIMITIVES, Contraction, Mask, Move, Vector, Work, flops

SEEDS = range(12)
FORMATS = ("fp32", "bf16", "fp16")

# The tally -------------------------------------------------------------------------------------------------------------------------------

PER_OUTPUT = {
    "add": ("add", "sub", "rsub", "cumsum"),
    "mul": ("mul", "neg"),
    "exp": ("exp", "cos", "sin", "log1p"),
    "rsqrt": ("rsqrt", "reciprocal"),
}
PER_INPUT = {"add": ("sum", "amax", "lt", "le")}
MOVES = ("index", "copy_", "gather", "cat")
FREE = (
    *("_unsafe_view", "clone", "expand", "permute", "select", "slice", "split", "transpose", "unbind", "unsqueeze", "view"),
    *("arange", "stack", "masked_fill", "where", "empty_like", "full", "fill_", "rand", "scalar_tensor", "detach", "lift_fresh"),
)
"""Only another look at a tensor, or a buffer that an accelerator would not make: no arithmetic on elements."""


def heap_compares(k: int) -> int:
    """Levels of a heap of k elements."""
    return len(f"{k:b}")


def merges(length: int) -> int:
    """Passes over runs of 1, 2, 4, ...: each touches every element once."""
    return sum(1 for i in range(length.bit_length()) if 2**i < length)


NUMPY: dict[str, Callable[..., int]] = {
    "sort": merges,
    "argmax": lambda length: 1,
    "argmin": lambda length: 1,
    "less": lambda length, border: 1,
    "partition": lambda length, place: heap_compares(length - place),
}
"""What NumPy compares, per element, in rows of a length."""


def whole(name: str, args: tuple[Any, ...]) -> Counter[str] | None:
    """What operators do that ATen has as one piece, by hand; None for others."""
    x = args[0]
    n, width = x.numel(), x.shape[-1] if x.dim() else 0
    if name == "searchsorted":  # what is left is halved
        return Counter(add=args[1].numel() * len(f"{width:b}"))
    if name == "_softmax":  # compare, subtract, add up; then once per row the reciprocal
        return Counter(add=3 * n, exp=n, mul=n, rsqrt=n // width)
    if name == "div":  # by a number: times its reciprocal, which is known
        return Counter(mul=n, rsqrt=n) if isinstance(args[1], Tensor) and args[1].dim() else Counter(mul=n)
    return None


@dataclass
class Tally(TorchDispatchMode):
    """Counts what ATen executes, by element; an operator that it does not know is an error, so that nothing runs uncounted.

    NumPy has a part in it: it sorts and compares.
    """

    counts: Counter[str] = field(default_factory=Counter)
    macs: int = 0
    written_bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __enter__(self) -> Tally:
        self._watched = [patch.object(np, name, self._counting(getattr(np, name), compares)) for name, compares in NUMPY.items()]
        for each in self._watched:
            each.start()
        super().__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        for each in self._watched:
            each.stop()

    def _counting(self, function: Callable[..., Any], compares: Callable[..., int]) -> Callable[..., Any]:
        def counting(x: Any, *more: Any, **settings: Any) -> Any:
            self.counts["add"] += x.size * compares(x.shape[-1], *more)
            return function(x, *more, **settings)

        return counting

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        output = function(*args, **(kwargs or {}))
        self._note(function.overloadpacket.__name__, args, output)
        return output

    def _note(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        counted = whole(name, args) if args and isinstance(args[0], Tensor) else None
        if counted is not None:
            self.counts += counted
        elif name in ("mm", "bmm"):
            self.macs += output.numel() * args[0].shape[-1]
        elif name in MOVES:
            self.written_bytes += output.numel() * output.element_size()
        elif name == "_to_copy":
            # Token ids become addresses; only arithmetic on floating-point values is vector work.
            # So is random numbers' float64 a matter of PyTorch's generator.
            counts = output.is_floating_point() and args[0].dtype not in (output.dtype, torch.float64)
            self.counts["convert"] += output.numel() if counts else 0
        elif name in FREE:
            return
        else:
            self._note_arithmetic(name, args, output)

    def _note_arithmetic(self, name: str, args: tuple[Any, ...], output: Tensor) -> None:
        if not args[0].is_floating_point():  # the positions of a mask
            return
        for elements, table in ((output.numel(), PER_OUTPUT), (args[0].numel(), PER_INPUT)):
            for primitive, names in table.items():
                if name.removesuffix("_") in names:
                    self.counts[primitive] += elements
                    return
        raise AssertionError(f"aten.{name} is neither counted nor known to be free")


# Examples --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One example of an op: specs and tensors."""

    op: Op
    specs: tuple[TensorSpec, ...]
    tensors: tuple[Tensor, ...]
    attrs: Mapping[str, Any]

    def run(self) -> Tensor:
        return self.op.compute(*(tensor.clone() for tensor in self.tensors), **self.attrs)


def in_format(spec: TensorSpec, number_format: str) -> TensorSpec:
    """Ids and tables of angles keep the format that they always have."""
    return TensorSpec(spec.shape, number_format if spec.format == "bf16" else spec.format)


def random_tensor(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = tuple(int(dim) for dim in spec.shape)
    if spec.format == "int32":
        return torch.randint(8, shape, generator=generator, dtype=torch.int32)  # tables of examples have 8 rows or more
    return torch.randn(shape, generator=generator).to(torch_dtype(spec.format))


def example(kind: str, seed: int, number_format: str) -> Call:
    op = OPS[kind]
    given = op.example(random.Random(seed))
    specs = tuple(in_format(spec, number_format) for spec in given.inputs)
    generator = torch.Generator().manual_seed(seed)
    tensors = tuple(random_tensor(spec, generator) for spec in specs)
    if kind == "Nucleus":
        tensors[1].zero_()  # none equal the border: those that do are sorted out apart
    return Call(op, specs, tensors, given.attrs)


def every_op(test: Any) -> Any:
    """Runs a test for each op of the table in each format."""
    return pytest.mark.parametrize("kind", OPS)(pytest.mark.parametrize("number_format", FORMATS)(test))


# Masked ops run query by query, on the keys that it sees: the tally knows nothing of how pairs are counted -----------------------------


def visible_keys(mask: Mask, query: int, keys: int) -> list[int]:
    """The definition of a mask, key by key."""
    last = query + int(mask.offset)
    return [key for key in range(keys) if key <= last and (mask.window is None or key > last - mask.window)]


def rows_of(*axes: str) -> Callable[[tuple[Tensor, ...], int, list[int]], tuple[Tensor, ...]]:
    """Take query `i` of each axis `q` and the visible keys of each axis `k`; one word per input, one letter per axis."""

    def take(tensors: tuple[Tensor, ...], query: int, keys: list[int]) -> tuple[Tensor, ...]:
        picked = []
        for tensor, letters in zip(tensors, axes, strict=True):
            for axis, letter in enumerate(letters):
                wanted = {"q": [query], "k": keys}.get(letter)
                tensor = tensor if wanted is None else tensor.index_select(axis, torch.tensor(wanted))
            picked.append(tensor)
        return tuple(picked)

    return take


ROWS = {
    "ReduceMax": rows_of("..qk"),
    "ElementwiseExp": rows_of("..qk", "..q."),
    "Normalize": rows_of("..qk"),
    "MatMul-n": rows_of("..q.", "..k."),
    "MatMul-k": rows_of("..qk", "..k."),
}


def row_calls(call: Call) -> Iterator[tuple[int, list[int], Call]]:
    """The call as one per query, without anything to hide."""
    mask = call.attrs["mask"]
    axis = call.attrs.get("mask_axis")
    take = ROWS[f"{call.op.kind}-{axis}" if axis else call.op.kind]
    keys = call.specs[1].shape[2] if axis else call.specs[0].shape[3]
    for query in range(call.specs[0].shape[2]):
        seen = visible_keys(mask, query, keys)
        tensors = take(call.tensors, query, seen)
        yield query, seen, Call(call.op, call.specs, tensors, {**call.attrs, "mask": Mask(len(seen) - 1)})


def tallied(call: Call) -> Tally:
    tally = Tally()
    runs = [row for _, _, row in row_calls(call)] if "mask" in call.attrs else [call]
    for run in runs:
        with tally:
            run.op.compute(*run.tensors, **run.attrs)
    return tally


# The contract ----------------------------------------------------------------------------------------------------------------------------


@every_op
def test_shape_and_format_are_those_declared(kind: str, number_format: str) -> None:
    for seed in SEEDS:
        call = example(kind, seed, number_format)
        declared = call.op.shape(*call.specs, **call.attrs)
        computed = call.run()
        assert tuple(computed.shape) == declared.shape
        assert computed.dtype == (torch.int32 if declared.format == "int32" else torch_dtype(declared.format))


@every_op
def test_work_is_what_the_implementation_does(kind: str, number_format: str) -> None:
    for seed in SEEDS:
        call = example(kind, seed, number_format)
        assert_tally(call.op.work(*call.specs, **call.attrs), tallied(call))


def assert_tally(work: Work, tally: Tally) -> None:
    if isinstance(work, Contraction):
        assert work.useful_macs == tally.macs
        assert flops(work) == 2 * tally.macs
        assert not +tally.counts
    elif isinstance(work, Move):
        assert work.size_bytes == tally.written_bytes
        assert tally.macs == 0
    else:
        assert dict(work.counts) == dict(+tally.counts)
        assert set(work.counts) <= set(PRIMITIVES)
        assert tally.macs == 0
        assert flops(work) == sum(tally.counts.values()) - tally.counts["convert"]


REDUCING = ("RMSNorm", "ReduceMax", "Normalize", "ArgMax", "TopK", "Sort", "Softmax", "CumulativeSum", "LeastLikely", "Draw")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [kind for kind in OPS if kind not in ("Linear", "MatMul", "Embedding", "MemCopy", "Gather", "Concat")])
def test_vector_work_names_elements_and_the_reduced_axis(kind: str, seed: int) -> None:
    call = example(kind, seed, "bf16")
    work = call.op.work(*call.specs, **call.attrs)
    assert isinstance(work, Vector)
    made = call.op.shape(*call.specs, **call.attrs).elements
    if "mask" in call.attrs:
        batch, heads = call.specs[0].shape[:2]
        made = batch * heads * sum(len(keys) for _, keys, _ in row_calls(call))
    elif kind == "RoPETable":
        made = made // 2  # an angle gives a cosine and a sine
    elif kind in ("ArgMax", "LeastLikely", "Draw"):
        made = call.specs[0].elements  # one number for each row
    assert work.elements == made
    assert work.reduced == (call.specs[0].shape[-1] if kind in REDUCING else 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [kind for kind in OPS if "mask" in OPS[kind].example(random.Random(0)).attrs])
def test_masked_ops_equal_their_rows(kind: str, seed: int) -> None:
    """Whole tensors with hidden scores give what each query gives on the keys that it sees alone."""
    call = example(kind, seed, "fp32")
    if kind == "Normalize":
        call.tensors[0].abs_()  # exponentials; with mixed signs a sum near 0 would blow up rounding errors
    scores_in = kind != "MatMul" or call.attrs["mask_axis"] == "k"
    hidden_value = float("-inf") if kind in ("ReduceMax", "ElementwiseExp") else 0.0
    if scores_in:  # masked scores arrive as -inf, masked weights as 0
        for query, seen, _ in row_calls(call):
            hidden = [key for key in range(call.specs[0].shape[3]) if key not in seen]
            call.tensors[0][:, :, query, hidden] = hidden_value
    whole = call.run()
    for query, seen, row in row_calls(call):
        part = whole[:, :, query : query + 1]
        by_key = part.shape[-1] == call.specs[0].shape[3] and kind in ("ElementwiseExp", "Normalize")
        by_key = by_key or (kind == "MatMul" and call.attrs["mask_axis"] == "n")
        found = part[..., seen] if by_key else part
        torch.testing.assert_close(found, row.run())
        if kind == "MatMul" and by_key:
            assert (part == float("-inf")).sum() == part.numel() - found.numel()  # and all others are hidden


def test_every_masked_op_is_taken_apart() -> None:
    masked = {kind for kind, op in OPS.items() if "mask" in op.example(random.Random(0)).attrs}
    assert masked == {key.partition("-")[0] for key in ROWS}


# The mask --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 2, 5, 100])
def test_visible_pairs_equal_an_enumeration(window: int | None) -> None:
    for offset in range(-3, 9):
        for queries in range(1, 7):
            for keys in range(1, 9):
                mask = Mask(offset, window)
                assert mask.visible_pairs(queries, keys) == sum(len(visible_keys(mask, query, keys)) for query in range(queries))


# The tally itself bites ------------------------------------------------------------------------------------------------------------------


def test_the_tally_counts_what_was_done() -> None:
    """A hand count, so that an empty tally cannot pass for agreement."""
    x, a, b = torch.ones(2, 3), torch.ones(2, 5, 3), torch.ones(3, 4)
    with Tally() as tally:
        x = x.bfloat16().float()
        ((x + 1) * x).exp().sum(-1).rsqrt()
        a @ b
    assert dict(tally.counts) == {"convert": 12, "add": 12, "mul": 6, "exp": 6, "rsqrt": 2}
    assert tally.macs == 2 * 5 * 3 * 4


@pytest.mark.parametrize("kind", OPS)
def test_a_declaration_that_is_off_is_caught(kind: str) -> None:
    call = example(kind, 1, "bf16")
    work, tally = call.op.work(*call.specs, **call.attrs), tallied(call)
    for wrong in off_by_one(work):
        with pytest.raises(AssertionError):
            assert_tally(wrong, tally)


def off_by_one(work: Work) -> list[Work]:
    """The same work with one of its counts wrong."""
    if isinstance(work, Contraction):
        return [replace(work, batch=work.batch + 1), replace(work, n=work.n + 1, k=work.k + 1)]
    if isinstance(work, Move):
        return [replace(work, size_bytes=work.size_bytes + 1)]
    more = [replace(work, counts={**work.counts, primitive: work.counts.get(primitive, 0) + 1}) for primitive in PRIMITIVES]
    without = [replace(work, counts={key: count for key, count in work.counts.items() if key != lost}) for lost in work.counts]
    return [*more, *without]


def test_the_tally_refuses_what_it_does_not_know() -> None:
    x = torch.ones(2)
    with Tally(), pytest.raises(AssertionError, match=r"aten\.tanh is neither counted nor known to be free"):
        x.tanh()


# Details that a count does not show ------------------------------------------------------------------------------------------------------


def test_contraction_says_which_operand_heads_share() -> None:
    query, key = TensorSpec((2, 12, 5, 8), "bf16"), TensorSpec((2, 3, 9, 8), "int8")
    work = OPS["MatMul"].work(query, key, mask=Mask(4), mask_axis="n")
    assert isinstance(work, Contraction)
    assert (work.batch, work.m, work.n, work.k, work.b_shared_by) == (24, 5, 9, 8, 4)
    assert (work.a_format, work.b_format) == ("bf16", "int8")


def test_embedding_reads_the_rows_in_the_format_of_the_table() -> None:
    work = OPS["Embedding"].work(TensorSpec((2, 3), "int32"), TensorSpec((100, 8), "int4"), output_format="bf16")
    assert isinstance(work, Move)
    assert work.size_bytes == 2 * 3 * 8 // 2


def test_embedding_gives_the_format_asked_for() -> None:
    ids, table = torch.tensor([[1, 2]], dtype=torch.int32), torch.randn(4, 3)
    assert OPS["Embedding"].compute(ids, table, output_format="bf16").dtype == torch.bfloat16
    assert OPS["Embedding"].shape(TensorSpec((1, 2), "int32"), TensorSpec((4, 3), "fp32"), output_format="bf16").format == "bf16"


def test_cache_write_is_in_place_and_gives_the_filled_part() -> None:
    cache, new = torch.zeros(1, 2, 6, 4), torch.ones(1, 2, 2, 4)
    filled = OPS["MemCopy"].compute(cache, new, offset=3)
    assert filled.shape == (1, 2, 5, 4)
    assert cache.sum(dim=(0, 1, 3)).tolist() == [0, 0, 0, 8, 8, 0]
    assert RECENT.compute(filled, first=3).data_ptr() == cache[:, :, 3:].data_ptr()
