"""Measure the machine at hand: stream bandwidth, GEMM rates, the functional model's ops, and whole steps, as a tidy table.

GEMM microbenchmarks run on flushed caches; steps, and on a CPU the ops in them, run as they come. Weights, inputs and caches are seeded and
random. Of a CPU only samples count between which and the machine's best rate a reference sees no difference (`sim.evidence.sampling`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.interpreters import Interpreter
from functional.llama import KVCache, Weights, build_weights, forward
from functional.memory import MemoryNeed, available_bytes, check_memory, memory_need
from functional.weights import dtype_named, random_weights, rotary_frequencies
from sim.evidence.cases import OURS
from sim.evidence.machine import Board, Processor, Taken, board, kept_memory, processor
from sim.evidence.op_rows import Key
from sim.evidence.sampling import SHARE, Job, Log, Progress, Reference, Sampler, Timed
from sim.evidence.stopwatch import FLUSHED, Step, Stopwatch, Work, stopwatch
from sim.evidence.tidy import slow_note
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

PATIENCE_S = 120.0
"""Seconds for which a measurement waits for the machine's best rate, and times again, unless it is told."""

_AS_IT_COMES = "as it comes"


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: its cells without source and hardware, the time, and under which conditions."""

    cells: Mapping[str, str | int]
    time: Timed
    note: str

    @property
    def notes(self) -> str:
        """The cell of that name: conditions, and the machine's rate where that was not its best."""
        return self.note if self.time.rate == 1 else f"{self.note}; {slow_note(self.time.rate)}"


@dataclass(frozen=True, eq=False)
class Measurement:
    """Everything that one run of `measure` found.

    `primitives_s`, of a CPU: by name, seconds per element of vector primitives, each a call that leaves its result in memory of its own, as
    the functional model calls them; `launch`, seconds of the least call; and `hidden`, more seconds of the exponential of minus infinity;
    `primitives_rate` is the machine's then, of its best.
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
    primitives_rate: float = 1.0

    @property
    def slow(self) -> tuple[Measured, ...]:
        """Rows that were timed while the machine was below its best rate."""
        return tuple(row for row in self.rows if row.time.rate < 1)

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
            writer.writerow({**common, **row.cells, **times, "notes": row.notes})
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
    patience_s: float = PATIENCE_S,
    seed: int = 0,
    name: str | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Measurement:
    """Time this machine with a model's ops and steps; `contexts` of decode steps default to `prompts`.

    Each is run `runs` times at most. For `patience_s` in all it waits for the machine's best rate, and times again what was disturbed;
    `tell` hears how far it is. Raises `BadInput`: an unknown model, lengths that it cannot hold, no CUDA device, less memory than is
    needed.
    """
    config = model if isinstance(model, ModelConfig) else load_model(model)
    _check(config, layers, batches, prompts, contexts, dtype, runs, patience_s)
    config = config if layers is None else replace(config, num_hidden_layers=layers)
    steps = [(batch, prompt, 0) for batch in batches for prompt in prompts]
    steps += [(batch, 1, context) for batch in batches for context in (contexts or prompts)]
    machine = processor()
    stream_bytes = max(STREAM_BYTES, 4 * _last_cache_bytes(device, machine))
    watch = stopwatch(device, stream_bytes)
    _check_memory(config, steps, dtype, stream_bytes, device)

    with kept_memory() if device == "cpu" else nullcontext(False) as is_kept, torch.inference_mode(), _told_if_full():
        weights = _weights(config, dtype, seed, watch.device)
        timed_steps = [_Step(config, weights, *step, dtype, seed, watch) for step in steps]
        log = Log(Reference(watch.reference(), Taken(torch.get_num_threads()) if device == "cpu" else lambda: 0.0))
        jobs = [*_streams(watch, stream_bytes), *_gemms(watch, dtype, seed)]
        if device == "cpu":  # a GPU is described by its datasheet
            jobs += _primitives(watch)
        Sampler(log, runs, patience_s, tell).take([*jobs, *(job for step in timed_steps for job in step.jobs())])
    rows = tuple(_rows(log, timed_steps))
    gpu = None if device == "cpu" else _board()
    hardware = name or (machine.name if gpu is None else gpu.hardware)
    date = datetime.now(UTC).date().isoformat()
    threads = torch.get_num_threads()
    comments = _comments(config, gpu, date, threads, machine, is_kept)
    primitives = {key.name: log.timed(key) for key in log.sizes() if isinstance(key, _Primitive)}
    rates = _per_element_s(primitives) if primitives else {}
    rate = min((each.rate for each in primitives.values()), default=1.0)
    return Measurement(hardware, device, dtype, threads, machine, date, comments, rows, rates, rate)


class _Kernel(NamedTuple):
    """A row of one op, as a key of the log: what is known of it by whichever step has it is one row."""

    cells: tuple[tuple[str, str | int], ...]
    note: str


class _Primitive(NamedTuple):
    """A vector primitive, as a key of the log."""

    name: str


class _Part(NamedTuple):
    """A part of a step, as a key of the log."""

    step: str
    part: str


def _check(
    config: ModelConfig,
    layers: int | None,
    batches: Sequence[int],
    prompts: Sequence[int],
    contexts: Sequence[int],
    dtype: str,
    runs: int,
    patience_s: float,
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
    if not 0 <= patience_s < math.inf:
        problems.append(Problem(f"found {patience_s}", "seconds, 0 or more", path="--patience"))
    if problems:
        raise ScenarioError(problems)


def _check_memory(config: ModelConfig, steps: Sequence[tuple[int, int, int]], dtype: str, stream_bytes: int, device: str) -> None:
    """Raise `ScenarioError`, with what is needed, if the streams' arrays or a step would not fit."""
    available = available_bytes() if device == "cpu" else int(torch.cuda.mem_get_info()[0])
    check_memory(MemoryNeed(0, 0, 5 * stream_bytes), available)
    table = torch.empty(0, dtype=dtype_named(dtype), device="meta")
    shapes = build_weights(config, lambda name, shape: table.new_empty(shape), table)
    for batch, q_len, context in steps:
        need = memory_need(config, shapes, batch, context + q_len, q_len)
        check_memory(replace(need, activations_bytes=need.activations_bytes + 2 * stream_bytes), available)


def _streams(watch: Stopwatch, size_bytes: int) -> Iterator[Job]:
    """Bandwidth from memory: a read (sum) and a triad. Source: McCalpin, STREAM."""
    elements = size_bytes // 4

    def read() -> Work:
        return torch.ones(elements, device=watch.device).sum

    def triad() -> Work:
        a, b, c = (torch.ones(elements, device=watch.device) for _ in range(3))
        return lambda: torch.add(a, b, alpha=3.0, out=c)

    for op, make in (("stream_read", read), ("stream_triad", triad)):
        cells = (("op", op), ("M", 1), ("N", elements), ("dtype", "fp32"))
        yield watch.kernel(op, _Kernel(cells, "larger than any cache"), make, flushed=False)


def _gemms(watch: Stopwatch, dtype: str, seed: int) -> Iterator[Job]:
    def make(m: int, n: int, k: int) -> Work:
        generator = torch.Generator().manual_seed(seed)
        x, weight = (torch.randn(rows, k, generator=generator).to(watch.device, dtype_named(dtype)) for rows in (m, n))
        return partial(_product, x, weight)

    for m, n, k in GEMMS:
        key = _Kernel((("op", "gemm"), ("M", m), ("N", n), ("K", k)), FLUSHED)
        yield watch.kernel(f"GEMM {m} x {n} x {k}", key, partial(make, m, n, k), flushed=True)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _primitives(watch: Stopwatch) -> Iterator[Job]:
    """Calls of each vector primitive; of the least call there is (`launch`); and of an exponential of which every other element is minus
    infinity (`hidden`), as a mask leaves scores: libraries take a slow path for it."""
    elements = VECTOR_BYTES // 4
    a, one = torch.rand(elements, device=watch.device) + 0.5, torch.ones(1, device=watch.device)
    masked = a.clone()
    masked[::2] = -torch.inf
    calls: dict[str, Work] = {
        "launch": lambda: torch.add(one, one),
        "add": lambda: a + 1.0,
        "mul": lambda: a * 0.5,
        "exp": a.exp,
        "rsqrt": a.reciprocal,
        "convert": a.bfloat16,
        "hidden": masked.exp,
    }
    for name, work in calls.items():
        yield watch.kernel(name, _Primitive(name), partial(_same, work), flushed=False)


def _same(work: Work) -> Work:
    return work


def _per_element_s(primitives: Mapping[str, Timed]) -> dict[str, float]:
    """Seconds of the least call, per element of each primitive, and more per element that is minus infinity."""
    elements = VECTOR_BYTES // 4
    medians = {name: timed.median_s for name, timed in primitives.items()}
    least_s, hidden_s = medians.pop("launch"), medians.pop("hidden")
    found = {name: max(seconds - least_s, 0.1 * seconds) / elements for name, seconds in medians.items()}
    return {"launch": least_s, **found, "hidden": max(hidden_s - medians["exp"], 0.0) / (elements / 2)}


@dataclass(frozen=True, eq=False, slots=True)
class _Step:
    """A step of a model, whose parts and ops are timed."""

    config: ModelConfig
    weights: Weights[Tensor]
    batch: int
    q_len: int
    context: int
    dtype: str
    seed: int
    watch: Stopwatch

    @property
    def phase(self) -> str:
        return "decode" if self.context else "prefill"

    @property
    def name(self) -> str:
        length = f"after {self.context}" if self.context else f"of {self.q_len}"
        return f"{self.phase} {length} tokens, batch {self.batch}"

    def jobs(self) -> Iterator[Job]:
        layers = self.config.num_hidden_layers
        return self.watch.step_jobs(self.name, layers, self._made, self._op_key, lambda part: _Part(self.name, part))

    def _made(self) -> Step:
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(self.config.vocab_size, (self.batch, self.q_len), generator=generator).to(self.watch.device)
        cache = _filled_cache(self.config, self.batch, self.context + self.q_len, self.dtype, self.watch.device, generator)

        def step(f: Interpreter[Tensor], layers: int | None) -> Tensor:
            weights = replace(self.weights, layers=self.weights.layers[:layers])
            return forward(f, self.config, weights, ids, cache, self.context, self.q_len)

        return step

    def _op_key(self, key: Key) -> _Kernel:
        kernel, dims = key
        return _Kernel((("op", kernel), *dims), self.watch.ops_note)

    def row(self, log: Log) -> Measured:
        """The whole step: its parts, the layers as often as there are any."""
        layers = self.config.num_hidden_layers
        time = Timed.total((layers if part == "layer" else 1, log.timed(_Part(self.name, part))) for part in self.watch.parts)
        tokens, kv_len = self.batch * self.q_len, self.context + self.q_len
        shape: dict[str, str | int] = {"model": self.config.name, "phase": self.phase, "batch": self.batch, "q_len": self.q_len}
        whole: dict[str, str | int] = {"op": f"e2e_{self.phase}", "kv_len": kv_len, "layers": layers, "framework": OURS}
        speed: dict[str, str | int] = {"tokens_per_forward": tokens, "avg_kv_len": kv_len, "tokens_per_s": f"{tokens / time.median_s:.6g}"}
        return Measured({**shape, **whole, **speed}, time, _AS_IT_COMES)


def _rows(log: Log, steps: Sequence[_Step]) -> Iterator[Measured]:
    """Whole steps, and each distinct op."""
    yield from (step.row(log) for step in steps)
    for key in log.sizes():
        if isinstance(key, _Kernel):
            cells = dict(key.cells)
            yield Measured(cells, log.timed(key), key.note)


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
    how = (
        "wall clock around the call, of a step around each layer; samples count where a reference before and after them was within"
        f" {SHARE:.0%} of its best, at which the machine was unless notes say otherwise"
        if gpu is None
        else "CUDA events around the replay of a CUDA graph, right after a flush or itself"
    )
    return (
        f"origin: rooftile measure, {date}; {where}; PyTorch {torch.__version__}",
        f"method: {how}; median of the stated number of runs, after warm-up; notes say whether"
        " caches were flushed before each run" + ("; memory that was freed stays with the process (mallopt)" if is_kept else ""),
        f"model: {config.name}, {config.num_hidden_layers} layers, seeded random weights; framework {OURS}: the functional model, op by op",
        "units: latency_us and least_us = microseconds of one call, median and least; tokens_per_s = new tokens per median second",
    )
