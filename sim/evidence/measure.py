"""Measure the machine at hand: stream bandwidth, GEMM rates, the functional model's ops, and whole steps, as a tidy table.

GEMM microbenchmarks run on flushed caches; steps, and on a CPU the ops in them, run as they come. Weights, inputs and caches are seeded and
random.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.llama import KVCache, Weights, build_weights, forward
from functional.memory import MemoryNeed, available_bytes, check_memory, memory_need
from functional.model import decode, prefill
from functional.weights import dtype_named, random_weights, rotary_frequencies
from sim.evidence.cases import OURS
from sim.evidence.machine import Board, Processor, board, kept_memory, processor
from sim.evidence.stopwatch import FLUSHED, Stopwatch, Timed, stopwatch
from workloads.library import load_model

DTYPES = ("fp32", "bf16")
COLUMNS = (
    *("source", "hardware", "op", "model", "phase", "M", "N", "K", "batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim", "dtype"),
    *("layers", "framework", "tokens_per_forward", "avg_kv_len", "tokens_per_s", "latency_us", "least_us", "runs", "notes"),
)

GEMMS = (*((m, n, k) for n, k in ((2048, 2048), (8192, 2048)) for m in (1, 2, 3, 4, 6, 8, 32, 128, 512)), (2048, 2048, 2048))
"""Shape classes whose rate is measured: matrix times vector, a few rows, of which it shows how many share a pass over the weights, many
rows."""

STREAM_BYTES = 2**27
"""Bytes of each array of a stream, at least; four times the last cache if that is more."""
VECTOR_BYTES = 2**23
"""Bytes of each array from which a vector primitive's rate is taken: those of an activation of a thousand tokens."""

PASSES = 2
"""How often everything is timed, one after the other: what else the machine does meanwhile slows all of it alike."""

_BUDGET_S = 1.0
_WARM = "as it comes"


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: its cells without source and hardware, and the time."""

    cells: Mapping[str, str | int]
    time: Timed
    note: str


@dataclass(frozen=True, eq=False)
class Measurement:
    """Everything that one run of `measure` found.

    `primitives_s`, of a CPU: by name, seconds per element of vector primitives, each a call that leaves its result in memory of its own, as
    the functional model calls them; `launch`, seconds of the least call; and `hidden`, more seconds of the exponential of minus infinity.
    """

    hardware: str
    device: str
    dtype: str
    threads: int
    processor: Processor
    date: str
    comments: tuple[str, ...]
    rows: tuple[Measured, ...]
    primitives_s: Mapping[str, float] = field(default_factory=dict)

    def to_csv(self) -> str:
        """The tidy table; `rooftile validate` reads it."""
        buffer = io.StringIO()
        for comment in self.comments:
            buffer.write(f"# {comment}\n")
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        common = {"source": f"rooftile measure {self.date}", "hardware": self.hardware, "dtype": self.dtype}
        for row in self.rows:
            times = {"latency_us": f"{1e6 * row.time.median_s:.4f}", "least_us": f"{1e6 * row.time.least_s:.4f}", "runs": row.time.runs}
            writer.writerow({**common, **row.cells, **times, "notes": row.note})
        return buffer.getvalue()


def measure(
    model: str | Path | ModelConfig,
    *,
    device: str = "cpu",
    layers: int | None = None,
    batches: Sequence[int] = (1,),
    prompts: Sequence[int] = (128,),
    contexts: Sequence[int] = (),
    dtype: str = "fp32",
    runs: int = 15,
    seed: int = 0,
    name: str | None = None,
) -> Measurement:
    """Time this machine with a model's ops and steps; `contexts` of decode steps default to `prompts`.

    Each is run `runs` times at most. Raises `BadInput`: an unknown model, lengths that it cannot hold, no CUDA device, less memory than is
    needed.
    """
    config = model if isinstance(model, ModelConfig) else load_model(model)
    _check(config, layers, batches, prompts, contexts, dtype, runs)
    config = config if layers is None else replace(config, num_hidden_layers=layers)
    steps = [(batch, prompt, 0) for batch in batches for prompt in prompts]
    steps += [(batch, 1, context) for batch in batches for context in (contexts or prompts)]
    machine = processor()
    stream_bytes = max(STREAM_BYTES, 4 * _last_cache_bytes(device, machine))
    watch = stopwatch(device, -(-runs // PASSES), _BUDGET_S, stream_bytes)
    _check_memory(config, steps, dtype, stream_bytes, device)

    rows: list[Measured] = []
    with kept_memory() if device == "cpu" else nullcontext(False) as is_kept, torch.inference_mode(), _told_if_full():
        weights = _weights(config, dtype, seed, watch.device)
        primitives: dict[str, Timed] = {}
        for _ in range(PASSES):
            rows += [*_streams(watch, stream_bytes), *_gemms(watch, dtype, seed)]
            if device == "cpu":  # a GPU is described by its datasheet
                primitives = {name: timed + primitives.get(name, Timed(())) for name, timed in _primitives(watch).items()}
            for batch, q_len, context in steps:
                rows += _step_rows(watch, config, weights, batch, q_len, context, dtype, seed)
    gpu = None if device == "cpu" else _board()
    hardware = name or (machine.name if gpu is None else gpu.hardware)
    date = datetime.now(UTC).date().isoformat()
    threads = torch.get_num_threads()
    rates = _per_element_s(primitives) if primitives else {}
    comments = _comments(config, gpu, date, threads, machine, is_kept)
    return Measurement(hardware, device, dtype, threads, machine, date, comments, tuple(_pooled(rows)), rates)


def _check(
    config: ModelConfig,
    layers: int | None,
    batches: Sequence[int],
    prompts: Sequence[int],
    contexts: Sequence[int],
    dtype: str,
    runs: int,
) -> None:
    problems = []
    if dtype not in DTYPES:
        problems.append(Problem(f"cannot measure in '{dtype}'", f"choose among {', '.join(DTYPES)}", path="--dtype"))
    if layers is not None and not 1 <= layers <= config.num_hidden_layers:
        cure = f"1 to {config.num_hidden_layers}"
        problems.append(Problem(f"{config.name} has no {layers} layers to take", cure, path="--layers"))
    limit = config.max_position_embeddings
    for flag, values, most in (("--batch", batches, None), ("--prompt", prompts, limit), ("--context", contexts, limit - 1)):
        for value in values:
            if value < 1 or (most is not None and value > most):
                cure = "1 or more" if most is None else f"1 to {most} for {config.name}"
                problems.append(Problem(f"found {value}", cure, path=flag))
    if runs < 1:
        problems.append(Problem(f"found {runs}", "1 or more", path="--runs"))
    if problems:
        raise ScenarioError(problems)


def _check_memory(config: ModelConfig, steps: Sequence[tuple[int, int, int]], dtype: str, stream_bytes: int, device: str) -> None:
    """Raise `ScenarioError`, with what is needed, if the streams' arrays or a step would not fit."""
    available = available_bytes() if device == "cpu" else int(torch.cuda.mem_get_info()[0])
    check_memory(MemoryNeed(0, 0, 4 * stream_bytes), available)
    table = torch.empty(0, dtype=dtype_named(dtype), device="meta")
    shapes = build_weights(config, lambda name, shape: table.new_empty(shape), table)
    for batch, q_len, context in steps:
        need = memory_need(config, shapes, batch, context + q_len, q_len)
        check_memory(replace(need, activations_bytes=need.activations_bytes + stream_bytes), available)


def _streams(watch: Stopwatch, size_bytes: int) -> Iterator[Measured]:
    """Bandwidth from memory: a read (sum) and a triad. Source: McCalpin, STREAM."""
    elements = size_bytes // 4
    a, b, c = (torch.ones(elements, device=watch.device) for _ in range(3))
    dims: dict[str, str | int] = {"M": 1, "N": elements, "dtype": "fp32"}
    yield Measured({"op": "stream_read", **dims}, watch.time(lambda: a.sum(), flushed=False), "larger than any cache")
    triad = watch.time(lambda: torch.add(a, b, alpha=3.0, out=c), flushed=False)
    yield Measured({"op": "stream_triad", **dims}, triad, "larger than any cache")


def _gemms(watch: Stopwatch, dtype: str, seed: int) -> Iterator[Measured]:
    for m, n, k in GEMMS:
        generator = torch.Generator().manual_seed(seed)
        x, weight = (torch.randn(rows, k, generator=generator).to(watch.device, dtype_named(dtype)) for rows in (m, n))
        with torch.inference_mode():
            timed = watch.time(partial(_product, x, weight), flushed=True)
        yield Measured({"op": "gemm", "M": m, "N": n, "K": k}, timed, FLUSHED)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _primitives(watch: Stopwatch) -> dict[str, Timed]:
    """Calls of each vector primitive; of the least call there is (`launch`); and of an exponential of which every other element is minus
    infinity (`hidden`), as a mask leaves scores: libraries take a slow path for it."""
    elements = VECTOR_BYTES // 4
    a, one = torch.rand(elements, device=watch.device) + 0.5, torch.ones(1, device=watch.device)
    masked = a.clone()
    masked[::2] = -torch.inf
    calls: dict[str, Callable[[], object]] = {
        "launch": lambda: torch.add(one, one),
        "add": lambda: a + 1.0,
        "mul": lambda: a * 0.5,
        "exp": lambda: a.exp(),
        "rsqrt": lambda: a.reciprocal(),
        "convert": lambda: a.bfloat16(),
        "hidden": lambda: masked.exp(),
    }
    return {name: watch.time(work, flushed=False) for name, work in calls.items()}


def _per_element_s(primitives: Mapping[str, Timed]) -> dict[str, float]:
    """Seconds of the least call, per element of each primitive, and more per element that is minus infinity."""
    elements = VECTOR_BYTES // 4
    medians = {name: timed.median_s for name, timed in primitives.items()}
    least_s, hidden_s = medians.pop("launch"), medians.pop("hidden")
    found = {name: max(seconds - least_s, 0.1 * seconds) / elements for name, seconds in medians.items()}
    return {"launch": least_s, **found, "hidden": max(hidden_s - medians["exp"], 0.0) / (elements / 2)}


def _step_rows(
    watch: Stopwatch, config: ModelConfig, weights: Weights[Tensor], batch: int, q_len: int, context: int, dtype: str, seed: int
) -> Iterator[Measured]:
    """A whole step, and each distinct op in it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (batch, q_len), generator=generator).to(watch.device)
    cache = _filled_cache(config, batch, context + q_len, dtype, watch.device, generator)
    phase = "decode" if context else "prefill"

    def step() -> Tensor:
        return decode(config, weights, ids, cache, context) if context else prefill(config, weights, ids, cache)

    timed = watch.time(step, flushed=False)
    shape: dict[str, str | int] = {"model": config.name, "phase": phase, "batch": batch, "q_len": q_len, "kv_len": context + q_len}
    tokens = batch * q_len
    speed: dict[str, str | int] = {"tokens_per_forward": tokens, "avg_kv_len": context + q_len}
    whole: dict[str, str | int] = {"op": f"e2e_{phase}", "layers": config.num_hidden_layers, "framework": OURS}
    yield Measured({**shape, **whole, **speed}, timed, _WARM)

    for (kernel, dims), seconds in watch.ops(lambda f: forward(f, config, weights, ids, cache, context, q_len)).items():
        cells: dict[str, str | int] = {"op": kernel, "model": config.name, "phase": phase, **dict(dims)}
        yield Measured(cells, seconds, watch.ops_note)


def _filled_cache(
    config: ModelConfig, batch: int, tokens: int, dtype: str, device: str, generator: torch.Generator
) -> KVCache[Tensor]:
    shape = (batch, config.num_key_value_heads, tokens, config.head_dim)

    def tensors() -> tuple[Tensor, ...]:
        layers = range(config.num_hidden_layers)
        return tuple(torch.randn(shape, generator=generator).to(device, dtype_named(dtype)) for _ in layers)

    return KVCache(tensors(), tensors())


def _weights(config: ModelConfig, dtype: str, seed: int, device: str) -> Weights[Tensor]:
    weights = random_weights(config, seed, dtype)
    if device == "cpu":
        return weights
    moved: dict[int, Tensor] = {}  # tied tensors stay one

    def on_device(tensor: Tensor) -> Tensor:
        return moved.setdefault(id(tensor), tensor.to(device))

    layers = tuple(type(layer)(**{name: on_device(getattr(layer, name)) for name in layer.__slots__}) for layer in weights.layers)
    head, table = on_device(weights.lm_head), on_device(weights.embed_tokens)
    return Weights(table, layers, on_device(weights.norm), head, rotary_frequencies(config, device))


def _pooled(rows: Sequence[Measured]) -> Iterator[Measured]:
    """One row for all with the same cells, but for the model and phase of an op, with the runs of all."""
    found: dict[tuple[Any, ...], Measured] = {}
    for row in rows:
        cells = {name: value for name, value in row.cells.items() if row.cells.get("framework") or name not in ("model", "phase")}
        key = tuple(sorted((name, str(value)) for name, value in cells.items()))
        known = found.get(key)
        found[key] = row if known is None else replace(known, time=known.time + row.time)
    for row in found.values():
        tokens = row.cells.get("tokens_per_forward")
        speed = {} if tokens is None else {"tokens_per_s": f"{int(tokens) / row.time.median_s:.6g}"}
        yield replace(row, cells={**row.cells, **speed})


def _last_cache_bytes(device: str, machine: Processor) -> int:
    """Bytes of the cache before the memory of a device; that there is no such device is told by `stopwatch`."""
    if device == "cpu" or not torch.cuda.is_available():
        return machine.last_cache_bytes
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def _board() -> Board:
    return board(str(torch.cuda.get_device_name()), f"GPU-{torch.cuda.get_device_properties(0).uuid}")


@contextmanager
def _told_if_full() -> Iterator[None]:
    """Memory that runs out all the same, for others take some, is no failure of the program."""
    try:
        yield
    except torch.OutOfMemoryError as why:
        message = "the device's memory is full"
        raise ScenarioError(Problem(message, "fewer sequences, tokens or layers, or nothing else on the device", path="--device")) from why


def _comments(config: ModelConfig, gpu: Board | None, date: str, threads: int, machine: Processor, is_kept: bool) -> tuple[str, ...]:
    where = f"{machine.name}, {threads} threads" if gpu is None else f"{gpu.name}, CUDA {torch.version.cuda}; {gpu}"
    how = "wall clock around the call" if gpu is None else "CUDA events around the replay of a CUDA graph, right after a flush or itself"
    return (
        f"origin: rooftile measure, {date}; {where}; PyTorch {torch.__version__}",
        f"method: {how}; median of the stated number of runs, in {PASSES} passes over everything, each after warm-up; notes say whether"
        " caches were flushed before each run" + ("; memory that was freed stays with the process (mallopt)" if is_kept else ""),
        f"model: {config.name}, {config.num_hidden_layers} layers, seeded random weights; framework {OURS}: the functional model, op by op",
        "units: latency_us and least_us = microseconds of one call, median and least; tokens_per_s = new tokens per median second",
    )
