"""From a row of a table to what must be predicted for it: kernels, and steps of models.

A case is a measured time and the tasks whose predicted times add up to it. Rows that no prediction exists for say why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from functional.config import ModelConfig
from functional.errors import UnknownName
from functional.llama import Logits
from hwmodels.chip import Chip
from hwmodels.technology import technology_of
from sim.evidence.tidy import CellError, Row
from workloads.graph import OpGraph
from workloads.kernels import KERNELS, kernel_graph
from workloads.library import load_model, model_names
from workloads.scenario import Formats, Phase, Scenario
from workloads.trace import trace

SAME_SHAPES = {"llama-3-8b": "llama-3.1-8b", "llama-7b": "llama-2-7b"}
"""Models that have the shapes of one of the library; they differ in how far their positions go."""

FOLLOWING = frozenset({"rmsnorm", "rope", "silu", "silu_mul", "mul", "add", "elem_mul", "elem_add", "softmax"})
"""Element-wise and row-wise kernels: wherever they are timed, in a model or in a loop, a kernel has just written what they read."""

WEIGHTS_NOTE, CACHE_NOTE = "wt_copies_fit_L2", "kv_fits_L2"
"""Notes of rows whose weights, or whose keys and values, are read from the L2 cache that earlier runs have warmed."""

GEMMS = "gemms"
"""Products one after the other, under `gemms`: `12544x64x147 + 3 * 3136x64x576`, each M x N x K and how often."""

_PRODUCT = re.compile(r"(?:(?P<count>[1-9][0-9]*) ?\* ?)?(?P<M>[1-9][0-9]*)x(?P<N>[1-9][0-9]*)x(?P<K>[1-9][0-9]*)")
_ABBREVIATED = re.compile(r"(?P<weights>[a-z0-9]+)-weight(-g(?P<group>[0-9]+))?")
OURS = "rooftile"
"""The framework of `rooftile measure`: the functional model, which runs op by op."""

_WITHOUT_HEAD = "llama.cpp"
"""A framework that asks logits only for a prompt's last token, so that a micro-batch runs the layers alone."""


class NotPredicted(Exception):
    """A row that no prediction exists for; the text is the reason, the same for all rows like it."""


@dataclass(frozen=True, slots=True)
class KernelTask:
    """One kernel alone; `warm`: repeated so often that what it touches lies in the outermost on-chip memory. `left_bytes`: of its inputs
    and outputs, the smallest, up to so many bytes of that memory, lie there, since the kernel before has left them."""

    op: str
    formats: tuple[str, str, str]
    dims: tuple[tuple[str, int], ...]
    warm: bool = False
    left_bytes: int = 0

    def graph(self) -> OpGraph:
        graph = kernel_graph(self.op, Formats(*self.formats), dict(self.dims))
        if self.warm:
            return replace(graph, warm=frozenset(tensor.name for tensor in graph.tensors.values() if tensor.role != "intermediate"))
        kept, room_bytes = set(), self.left_bytes
        for size_bytes, name in sorted((int(t.spec.size_bytes), t.name) for t in graph.tensors.values() if t.role in ("input", "output")):
            if size_bytes <= room_bytes:
                kept.add(name)
                room_bytes -= size_bytes
        return replace(graph, warm=frozenset(kept)) if kept else graph


@dataclass(frozen=True, slots=True)
class StepTask:
    """One step of a model with its first `layers` layers; `bare`: the layers alone, without final norm and lm_head."""

    model: str
    layers: int
    formats: tuple[str, str, str]
    phase: Phase
    batch: int
    q_len: int
    context: int
    all_logits: bool = False
    bare: bool = False
    fused: bool = True

    def graph(self) -> OpGraph:
        config = replace(_model(self.model), num_hidden_layers=self.layers)
        logits: Logits = "all" if self.all_logits else "last"
        return trace(config, Scenario(self.phase, self.batch, self.q_len, self.context, Formats(*self.formats), logits))


Task: TypeAlias = KernelTask | StepTask


@dataclass(frozen=True, slots=True)
class Case:
    """One measured time [s] and what is to be predicted for it; `is_l2`: the row says that it was served from L2."""

    row: Row
    op: str
    chip: Chip
    measured_s: float
    tasks: tuple[Task, ...]
    is_l2: bool = False

    @property
    def cold_tasks(self) -> tuple[Task, ...]:
        """The tasks as if no kernel before had left anything on the chip: by them a row is large or small."""
        return tuple(replace(task, left_bytes=0) if isinstance(task, KernelTask) else task for task in self.tasks)


def titled(case: Case) -> str:
    """What a row is of, in words: `gemm 8192 x 8192 x 8192 bf16`, `Llama-2-7B decode, batch 1, int8-weight`."""
    row = case.row
    if case.op == "gemm":
        return f"gemm {' x '.join(row.text(name) for name in 'MNK')} {row.text('dtype')}"
    model, phase, batch = row.text("model") or case.op, row.text("phase"), row.text("batch")
    if phase == "ubatch":
        words = [f"{model} passes of {row.text('tokens_per_forward')} tokens"]
    else:
        words = [f"{model} {phase}".strip(), *([f"batch {batch}"] if batch else [])]
    return ", ".join([*words, row.text("dtype")])


def cases(row: Row, chip: Chip) -> Iterator[Case]:
    """What one row measures on its chip. Raises `NotPredicted`, and `CellError` for cells that cannot be right."""
    if row.text("layer_sum_us"):
        yield from _composed(row, chip)
    elif row.text("tokens_per_s"):
        yield _whole_model(row, chip)
    elif row.text("op") == GEMMS:
        yield _gemms(row, chip)
    elif row.text("op") in KERNELS:
        yield _kernel(row, chip)
    elif row.text("op") in ("e2e_prefill", "e2e_decode"):
        yield _timed_model(row, chip)
    else:
        raise NotPredicted(f"unknown op '{row.text('op')}'")


def _kernel(row: Row, chip: Chip) -> Case:
    op = row.text("op")
    defaults = {"batch": None if op == "bmm" else 1, "kv_heads": 0 if op == "rope" else None}
    if op == "attn_decode":
        defaults["q_len"] = 1
    elif op == "attn_prefill":
        defaults["kv_len"] = row.whole("q_len")
    least = {"kv_heads": 0} if op == "rope" else {}
    dims = tuple((name, row.whole(name, defaults.get(name), least.get(name, 1))) for name in KERNELS[op].dims)
    notes = row.text("notes")
    is_l2 = WEIGHTS_NOTE in notes or CACHE_NOTE in notes
    left_bytes = int(chip.capacity_bytes(chip.memory[1])) if op in FOLLOWING and technology_of(chip) is not None else 0
    task = KernelTask(op, _formats(row, chip), dims, is_l2, left_bytes)
    return Case(row, op, chip, _measured_s(row, chip, [task]), (task,), is_l2)


def _gemms(row: Row, chip: Chip) -> Case:
    """A network as the products that its makers say it is, all of which count."""
    formats, text = _formats(row, chip), row.text("gemms")
    tasks: list[KernelTask] = []
    for part in text.split("+"):
        product = _PRODUCT.fullmatch(part.strip())
        if product is None:
            raise CellError("gemms", f"expected products like '3 * 3136x64x576' with + between them, found '{part.strip()}'", "M x N x K")
        tasks += [_gemm(formats, *(int(product[name]) for name in "MNK"))] * int(product["count"] or 1)
    return Case(row, GEMMS, chip, _measured_s(row, chip, tasks), tuple(tasks))


def _measured_s(row: Row, chip: Chip, tasks: Sequence[KernelTask]) -> float:
    """Seconds of all tasks: as measured, or those of their MACs at the share of the peak that the row has."""
    if row.text("latency_us") or not row.text("utilisation_pct"):
        return row.positive("latency_us") * 1e-6
    share = row.positive("utilisation_pct") / 100
    if share > 1:
        raise CellError("utilisation_pct", f"more than all MACs, found '{row.text('utilisation_pct')}'", "of the peak, in percent")
    if any(task.op != "gemm" for task in tasks):
        raise NotPredicted("a utilisation of something else than products")
    number_format = tasks[0].formats[1]
    if number_format not in chip.formats:
        raise NotPredicted(f"a utilisation in '{number_format}', of which {chip.name} has no peak")
    macs = sum(math.prod(size for _, size in task.dims) for task in tasks)
    return macs / float(chip.peak_macs_per_s(number_format)) / share


def _composed(row: Row, chip: Chip) -> Iterator[Case]:
    """A layer as the sum of its five kernels, and lm_head for one token per sequence."""
    config = _config(row)
    batch, q_len, kv_len = row.whole("batch"), row.whole("q_len"), row.whole("kv_len")
    formats = _formats(row, chip, "bf16")  # these tables have no column for it and say so in their head
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    is_decode = row.text("phase") == "decode"
    cached = CACHE_NOTE in row.text("notes")
    heads = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads, "head_dim": config.head_dim}
    dims = {"batch": batch, **heads, "q_len": q_len, "kv_len": kv_len}
    attention = KernelTask("attn_decode" if is_decode else "attn_prefill", formats, tuple(dims.items()), cached)
    shapes = ((queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner))
    qkv, o, gate_up, down = (_gemm(formats, batch * q_len, n, k) for n, k in shapes)
    yield Case(row, "layer", chip, row.positive("layer_sum_us") * 1e-6, (qkv, attention, o, gate_up, down), cached)
    if row.text("lm_head_est_us"):
        head = _gemm(formats, batch, config.vocab_size, hidden)
        yield Case(row, "lm_head", chip, row.positive("lm_head_est_us") * 1e-6, (head,))


def _gemm(formats: tuple[str, str, str], m: int, n: int, k: int) -> KernelTask:
    return KernelTask("gemm", formats, (("M", m), ("N", n), ("K", k)))


def _whole_model(row: Row, chip: Chip) -> Case:
    """Speed of a whole model: one forward pass of `tokens_per_forward` new tokens (of all sequences) that ends at `avg_kv_len` keys."""
    tp, notes = row.whole("tp", 1), row.text("notes")
    if tp > 1:
        raise NotPredicted("tensor parallel on several chips")
    if "exclude" in notes:
        raise NotPredicted("its notes say: exclude")
    config, phase, framework = _config(row), row.text("phase"), row.text("framework")
    if phase not in ("prefill", "decode", "ubatch"):
        raise NotPredicted(f"unknown phase '{phase}' of a whole model")
    batch = row.whole("batch", 1)
    tokens = row.whole("tokens_per_forward", batch)
    if tokens % batch:
        raise CellError("tokens_per_forward", f"{tokens} tokens are not whole ones of each of {batch} sequences", "")
    q_len = tokens // batch
    kv_len = max(row.whole("avg_kv_len", q_len), q_len)
    bare = framework == _WITHOUT_HEAD and phase != "decode"
    layers = row.whole("layers", config.num_hidden_layers)
    step: Phase = "decode" if phase == "decode" else "prefill"
    context = kv_len - q_len
    fused = framework != OURS
    task = StepTask(config.name, layers, _formats(row, chip), step, batch, q_len, context, bare=bare, fused=fused)
    return Case(row, f"e2e_{phase}", chip, tokens / row.positive("tokens_per_s"), (task,))


def _timed_model(row: Row, chip: Chip) -> Case:
    """One forward pass of a whole model under `latency_us`, with the logits of all positions."""
    config, op = _config(row), row.text("op")
    q_len = row.whole("q_len", 1 if op == "e2e_decode" else None)
    context = row.whole("kv_len", q_len) - q_len
    step: Phase = "decode" if op == "e2e_decode" else "prefill"
    task = StepTask(config.name, config.num_hidden_layers, _formats(row, chip), step, row.whole("batch"), q_len, context, all_logits=True)
    return Case(row, op, chip, row.positive("latency_us") * 1e-6, (task,))


def _config(row: Row) -> ModelConfig:
    """The model of a row: `Llama-3.1-8B (named "llama 8B")` is llama-3.1-8b."""
    name = re.sub(r"\s*\(.*\)", "", row.text("model")).strip().lower().replace(" ", "-").removesuffix("-hf")
    name = SAME_SHAPES.get(name, name)
    if name not in model_names():
        raise NotPredicted(f"unknown model '{row.text('model')}'")
    return _model(name)


def _model(name: str) -> ModelConfig:
    known = _MODELS.get(name)
    if known is None:
        known = _MODELS[name] = load_model(name)
    return known


_MODELS: dict[str, ModelConfig] = {}


def _formats(row: Row, chip: Chip, default: str = "") -> tuple[str, str, str]:
    """Formats of weights, activations and KV cache: `bf16`, `fp16/bf16` (the first that the chip multiplies), `int8-weight`."""
    text = row.text("dtype") or default
    kv_text = row.text("kv_dtype")
    abbreviated = _ABBREVIATED.fullmatch(text)
    if abbreviated is not None:
        group = abbreviated["group"]
        weights = abbreviated["weights"] + (f":g{group}" if group else "")
        activations = "bf16"
    else:
        weights = activations = _first([name.strip() for name in text.split("/")], lambda name: name in chip.formats)
    kv = _first([name.strip() for name in kv_text.split("/")], lambda name: name == activations) if kv_text else activations
    try:
        formats = Formats.of(activations, weights, activations, kv)
    except UnknownName as why:
        raise NotPredicted(f"unknown number format '{text}'" + (f" with a cache in '{kv_text}'" if kv_text else "")) from why
    return formats.weights, formats.activations, formats.kv


def _first(names: Iterable[str], wanted: Callable[[str], bool]) -> str:
    """The first name that is wanted, or simply the first."""
    names = list(names)
    return next((name for name in names if wanted(name)), names[0])
