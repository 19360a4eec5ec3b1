"""Truth defended: what measure times is what it says, its table is read by validate, and a described CPU is a valid chip."""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from functional.errors import BadInput, ScenarioError
from functional.interpreters import Torch
from functional.llama import forward
from functional.model import decode, prefill
from functional.ops import Op
from functional.weights import new_cache, random_weights
from hwmodels import load_chip
from sim import predict_graph, validate
from sim.cli import main
from sim.evidence import measure as module
from sim.evidence import sampling, stopwatch
from sim.evidence.describe import chip_yaml
from sim.evidence.hardware import Hardware
from sim.evidence.machine import Board, Processor, board, processor
from sim.evidence.measure import Measured, Measurement, measure
from sim.evidence.op_rows import PARTS, Distinct, InPlace
from sim.evidence.sampling import Job, Log, Reference, Sampler, Timed
from sim.evidence.stopwatch import CpuStopwatch, CudaStopwatch
from sim.evidence.tidy import is_slow, read_tidy
from sim.present.evidence_tables import slow_rows
from workloads.kernels import KERNELS, kernel_graph
from workloads.library import load_model
from workloads.scenario import Formats, Scenario
from workloads.trace import trace

MODEL = load_model("stories15m")


@pytest.fixture(scope="module")
def quick() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STREAM_BYTES", 2**16)
        patch.setattr(module, "VECTOR_BYTES", 2**14)
        patch.setattr(module, "GEMMS", ((1, 64, 64), (16, 64, 64)))
        patch.setattr(module, "processor", lambda: replace(processor(), caches=((2, 2**18, 1), (3, 2**20, 2))))
        yield patch


@pytest.fixture(scope="module")
def found(quick: pytest.MonkeyPatch) -> Measurement:
    return measure("stories15m", layers=1, prompts=(8,), contexts=(5,), runs=3, patience_s=1.0, name="My CPU 3000")


def rows_of(found: Measurement) -> list[dict[str, str]]:
    text = "\n".join(line for line in found.to_csv().splitlines() if not line.startswith("#"))
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_says_where_it_comes_from_and_what_was_timed(found: Measurement) -> None:
    comments = [line for line in found.to_csv().splitlines() if line.startswith("#")]
    told = " ".join(comments)
    for part in (found.date, f"{torch.get_num_threads()} threads", str(torch.__version__), "median", "flushed", "stories15m", "us"):
        assert part in told, part
    rows = rows_of(found)
    assert {row["hardware"] for row in rows} == {"My CPU 3000"}
    assert all(float(row["latency_us"]) > 0 and int(row["runs"]) >= sampling.LEAST and row["notes"] for row in rows)
    assert all(float(row["least_us"]) <= float(row["latency_us"]) for row in rows)


def test_every_op_of_both_phases_and_both_steps_are_rows(found: Measurement) -> None:
    rows = rows_of(found)
    gemms = {(int(row["M"]), int(row["N"]), int(row["K"])) for row in rows if row["op"] == "gemm"}
    d, f, v = MODEL.hidden_size, MODEL.intermediate_size, MODEL.vocab_size
    assert gemms >= {(8, d, d), (8, f, d), (8, d, f), (1, v, d), (1, d, d), (1, f, d), (1, d, f), (1, 64, 64), (16, 64, 64)}
    others = {row["op"] for row in rows}
    assert others >= {"embedding", "rmsnorm", "rope", "attn_scores", "softmax_max", "softmax_exp", "softmax_normalize", "attn_context"}
    assert others >= {"silu", "mul", "add", "kv_write", "rope_table", "e2e_prefill", "e2e_decode"}
    assert {row["op"] for row in rows} >= {"stream_read", "stream_triad"}
    steps = {row["op"]: row for row in rows if row["tokens_per_s"]}
    prefill, decode = steps["e2e_prefill"], steps["e2e_decode"]
    assert [prefill[name] for name in ("q_len", "kv_len", "layers", "tokens_per_forward", "framework")] == ["8", "8", "1", "8", "rooftile"]
    assert [decode[name] for name in ("q_len", "kv_len", "layers", "tokens_per_forward", "framework")] == ["1", "6", "1", "1", "rooftile"]
    assert float(prefill["tokens_per_s"]) == pytest.approx(8e6 / float(prefill["latency_us"]), rel=1e-4)


def test_the_steps_that_are_timed_are_a_prefill_and_a_decode_at_its_position(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[int, ...], int, int, int]] = []

    def noted(f: Any, config: Any, weights: Any, ids: torch.Tensor, cache: Any, position: int, length: int) -> Any:
        calls.append((tuple(ids.shape), cache.keys[0].shape[2], position, length))
        return forward(f, config, weights, ids, cache, position, length)

    monkeypatch.setattr(module, "forward", noted)
    measure("stories15m", layers=1, batches=(2,), prompts=(4,), contexts=(6,), runs=3, patience_s=0.0)
    assert set(calls) == {((2, 4), 4, 0, 4), ((2, 1), 7, 6, 1)}


def test_validate_predicts_every_row_on_the_described_chip(found: Measurement, tmp_path: Path) -> None:
    (tmp_path / "cpu.csv").write_text(found.to_csv())
    (tmp_path / "cpu.yaml").write_text(chip_yaml(found))
    chip = load_chip(tmp_path / "cpu.yaml")
    assert chip.aliases == ("My CPU 3000",)
    assert chip.default_format == "fp32"
    assert chip.cores == torch.get_num_threads()
    assert all(origin.source and origin.standing in ("measured", "assumed") for origin in chip.provenance.values())
    result = validate([tmp_path / "cpu.csv"], engines=["roofline"], chips=[tmp_path / "cpu.yaml"])
    assert result.left == ()
    assert len(result.comparisons) == len(found.rows)


def test_rows_that_share_a_pass_are_those_that_take_as_long_as_one(found: Measurement, tmp_path: Path) -> None:
    """Two shapes; of the second a disturbance lets only two rows seem to share one, and what comes after the first second pass is none."""
    least_s = {(64, 64): {1: 1.0, 2: 1.1, 3: 1.2, 4: 2.1, 6: 1.4}, (8, 64): {1: 1.0, 2: 1.2, 3: 1.8, 4: 2.1, 6: 2.2}}
    rows = [
        Measured({"op": "gemm", "M": m, "N": n, "K": k}, Timed(9.0, seconds, 2), stopwatch.FLUSHED)
        for (n, k), times in least_s.items()
        for m, seconds in times.items()
    ]
    others = tuple(row for row in found.rows if row.cells["op"] != "gemm" or row.note != stopwatch.FLUSHED)
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=(*others, *rows)), "2 GHz"))
    assert load_chip(tmp_path / "cpu.yaml").unpacked_rows == 3
    slow = replace(rows[2], time=replace(rows[2].time, rate=0.8))  # three rows still seem to share one
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=(*others, *rows[:2], slow, *rows[3:5])), "2 GHz"))
    assert load_chip(tmp_path / "cpu.yaml").unpacked_rows == 3
    one = replace(rows[0], time=replace(rows[0].time, rate=0.8))
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=(*others, one, *rows[1:5])), "2 GHz"))
    assert load_chip(tmp_path / "cpu.yaml").unpacked_rows is None
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=(*others, *rows[1:5])), "2 GHz"))
    assert load_chip(tmp_path / "cpu.yaml").unpacked_rows is None


def test_packing_is_what_many_rows_leave(found: Measurement, tmp_path: Path) -> None:
    """64 x 64 x 4 bytes; 128 rows take 10 us and 512 take 34, so a row 62.5 ns, and 2 us are left: 8.192 GB/s. A shape whose few rows were
    timed at half the rate, and one that leaves nothing, say nothing."""
    times_us = {(64, 64): {1: 1, 128: 10, 512: 34}, (8, 64): {1: 1, 128: 10, 512: 20}, (64, 8): {1: 1, 128: 10, 512: 44}}
    rows = [
        Measured({"op": "gemm", "M": m, "N": n, "K": k}, Timed(1.0, us * 1e-6, 3, 0.5 if (n, m) == (8, 128) else 1.0), stopwatch.FLUSHED)
        for (n, k), times in times_us.items()
        for m, us in times.items()
    ]
    others = tuple(row for row in found.rows if row.cells["op"] != "gemm" or row.note != stopwatch.FLUSHED)
    for which, expected in ((rows, None), (rows[:6], 8.192e9), (rows[3:], None)):
        (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=(*others, *which)), "2 GHz"))
        pack = load_chip(tmp_path / "cpu.yaml").pack
        assert (pack and pack.read_bytes_per_s(2e9)) == (expected and pytest.approx(expected, rel=1e-3))


def test_rows_below_the_best_rate_say_so(found: Measurement, tmp_path: Path) -> None:
    steady = tuple(replace(row, time=replace(row.time, rate=1.0)) for row in found.rows)
    slow = replace(found, rows=(*steady[:-1], replace(steady[-1], time=replace(steady[-1].time, rate=0.523))), primitives_rate=0.7)
    rows = rows_of(slow)
    assert rows[-1]["notes"] == f"{steady[-1].note}; machine at 52 % of its best rate"
    assert [row["notes"] for row in rows[:-1]] == [row.note for row in steady[:-1]]
    assert slow_rows(slow).startswith(f"1 of {len(steady)} rows were timed while the machine was below its best rate, at 52% at the least")
    (tmp_path / "slow.csv").write_text(slow.to_csv())
    assert [is_slow(row) for row in read_tidy(tmp_path / "slow.csv")] == [False] * (len(steady) - 1) + [True]
    (tmp_path / "cpu.yaml").write_text(chip_yaml(slow))
    sources = {path: origin.source for path, origin in load_chip(tmp_path / "cpu.yaml").provenance.items()}
    assert "machine at 70 % of its best rate" in sources["overhead.launch"]
    assert "machine at" not in sources["memory.dram.bandwidth"]


def test_a_described_chip_has_the_best_rates_that_were_measured(found: Measurement, tmp_path: Path) -> None:
    """A GEMM of 16 x 64 x 64 in 1 us is 65.5 GMAC/s; a read of 2^14 elements in 2 us is 32.8 GB/s."""
    rows = tuple(
        replace(row, time=Timed(5.0, 1e-6, 3))
        if row.cells.get("M") == 16 and row.cells["op"] == "gemm"
        else replace(row, time=Timed(5.0, 2e-6, 3))
        if row.cells["op"] == "stream_read"
        else replace(row, time=Timed.of([5.0]))
        for row in found.rows
    )
    elements = next(int(row.cells["N"]) for row in found.rows if row.cells["op"] == "stream_read")
    primitives = {"launch": 3e-6, "add": 1e-9, "mul": 2e-9, "exp": 3e-9, "rsqrt": 4e-9, "convert": 5e-9, "hidden": 6e-9}
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, rows=rows, primitives_s=primitives), "2 GHz"))
    chip = load_chip(tmp_path / "cpu.yaml")
    assert chip.clock_hz == 2e9
    assert chip.peak_macs_per_s("fp32") == pytest.approx(16 * 64 * 64 / 1e-6, rel=1e-3)
    assert chip.read_bytes_per_s(chip.dram) == pytest.approx(4 * elements / 2e-6, rel=1e-3)
    assert chip.primitive_s("exp") == pytest.approx(3e-9, rel=1e-3)
    assert chip.launch_s == pytest.approx(3e-6)
    assert chip.hidden_s == pytest.approx(6e-9)
    with pytest.raises(ScenarioError, match="--clock"):
        chip_yaml(found, "2 GB")


@pytest.mark.parametrize(("q_len", "context"), [(7, 0), (1, 9)])
def test_each_op_has_the_work_of_the_traced_one(q_len: int, context: int) -> None:
    """The kernel of a row asks the same of a chip as the op of the model's graph: same rooflines, one by one."""
    config = replace(MODEL, num_hidden_layers=1, num_key_value_heads=3)
    distinct = Distinct()
    weights, cache = random_weights(config), new_cache(config, 2, context + q_len)
    forward(distinct, config, weights, torch.zeros(2, q_len, dtype=torch.int64), cache, context, q_len)
    formats = Formats("fp32", "fp32", "fp32")
    graph = trace(config, Scenario("decode" if context else "prefill", 2, q_len, context, formats))
    mine: dict[str, set[str]] = {}
    for (kernel, dims), call in distinct.calls.items():
        assert set(dict(dims)) == set(KERNELS[kernel].dims), kernel
        (op,) = kernel_graph(kernel, formats, dict(dims)).ops
        assert op.kind == call.op.kind
        mine.setdefault(op.kind, set()).add(_amount(op))
    traced: dict[str, set[str]] = {}
    for op in graph.ops:
        traced.setdefault(op.kind, set()).add(_amount(op))
    assert mine == traced


def _amount(op: Any) -> str:
    """Work in plain numbers; how many sequences share a leading axis does not matter."""
    work = op.work
    if hasattr(work, "useful_macs"):
        return f"{work.useful_macs} {work.k} {work.n} {work.b_shared_by}"
    return str(sorted(work.counts.items())) if hasattr(work, "counts") else str(work.size_bytes)


class FakeClock:
    """Time that passes only when work says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def samples_of(job: Job, clock: FakeClock, runs: int, kernels: tuple[Callable[[], float], ...] = ()) -> Log:
    log = Log(Reference(kernels, now=clock), clock)
    Sampler(log, runs, 0.0, now=clock).take([job])
    return log


def test_a_stopwatch_warms_up_flushes_and_takes_the_median() -> None:
    clock, log = FakeClock(), []
    watch = CpuStopwatch(1024, clock)
    durations = iter([0.3, 0.3, 1.0, 5.0, 2.0, 8.0, 3.0])

    def work() -> None:
        log.append("work")
        clock.now_s += next(durations) / 100

    watch.flush = lambda: log.append("flush")  # type: ignore[method-assign]
    timed = samples_of(watch.kernel("x", "x", lambda: work, flushed=True), clock, 5).timed("x")
    assert timed == Timed(pytest.approx(0.03), pytest.approx(0.01), 5)
    assert log == ["work"] * stopwatch.WARM_UP + ["flush", "work"] * 5


def test_what_takes_long_is_warmed_up_once() -> None:
    clock, runs = FakeClock(), []

    def work() -> None:
        runs.append(clock.now_s)
        clock.now_s += 2.0

    CpuStopwatch(1024, clock).prepared(work)
    assert runs == [0.0]


def test_after_a_reading_of_the_reference_work_runs_once_before_it_is_timed() -> None:
    """The reference has taken its place in the caches. Six runs are done before the next reading is due."""
    clock, log = FakeClock(), []
    watch = CpuStopwatch(1024, clock)

    def work() -> None:
        log.append("work")
        clock.now_s += 0.01

    def read() -> float:
        log.append("read")
        clock.now_s += 0.001
        return 0.001

    samples_of(watch.kernel("x", "x", lambda: work, flushed=False), clock, 6, (read,))
    assert log[log.index("work") :] == [*["work"] * stopwatch.WARM_UP, "read", *["work"] * 7, "read"]


def test_the_reference_multiplies_and_reads_what_no_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten parts of 2^15 bytes; each run reads the next one."""
    monkeypatch.setattr(stopwatch, "_STREAMED_BYTES", 2**15)
    seen: list[tuple[int, int]] = []
    product, stream = CpuStopwatch(10 * 2**15).reference()
    whole = torch.Tensor.sum

    def noted(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.storage_offset() * 4 // 2**15, x.nbytes))
        return whole(x)

    monkeypatch.setattr(torch.Tensor, "sum", noted)
    assert product() > 0
    assert stream() > 0
    assert stream() > 0
    assert stream() > 0
    parts, sizes = zip(*seen, strict=True)
    assert set(sizes) == {2**15}
    assert parts == tuple((1 + i) % 10 for i in range(3 * stopwatch._REPEATS))


def test_primitives_are_rates_beside_the_least_call() -> None:
    """2^14 / 4 elements; every other one of the masked exponential takes 8 ns more than the others."""
    elements = module.VECTOR_BYTES // 4
    seconds = {"launch": 1e-6, "exp": 1e-6 + elements * 2e-9, "hidden": 1e-6 + elements * 6e-9}
    found = module._per_element_s({name: Timed.of([each]) for name, each in seconds.items()})
    assert found == pytest.approx({"launch": 1e-6, "exp": 2e-9, "hidden": 8e-9})


KEPT = """
import resource, torch
from sim.evidence.machine import kept_memory

def faults():
    for _ in range(20):  # until the C library's small bins are full
        torch.ones(2**22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory() as is_kept:
    print(is_kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_memory_that_was_freed_is_kept() -> None:
    """Tensors of 16 MiB, made anew, cost next to no page faults; they would cost one per page (of 2 MiB at most, so 80)."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    is_kept, faults = done.stdout.split()
    assert is_kept == "True"
    assert int(faults) < 40


def test_a_flush_reads_all_of_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, read = CpuStopwatch(4096), []
    monkeypatch.setattr(torch.Tensor, "sum", lambda x: read.append(x.nbytes))
    watch.flush()
    watch.flush()
    assert read == [4096, 4096]


def test_ops_and_parts_are_timed_where_they_stand() -> None:
    """Every look at the clock takes a second: an op one, and a part those of its ops and one each for what is between them."""
    clock = FakeClock()

    def ticking() -> float:
        clock.now_s += 1.0
        return clock.now_s

    config = replace(MODEL, num_hidden_layers=2)
    log = Log(Reference([], now=clock), clock)
    log.read()
    watched = InPlace(log, lambda key: key, lambda part: part, ticking)
    forward(watched, config, random_weights(config), torch.zeros(1, 4, dtype=torch.int64), new_cache(config, 1, 4), 0, 4)
    watched.end()
    log.settle(at_once=True)
    sizes = log.sizes()
    assert (sizes["embedding"], sizes["layer"], sizes["head"]) == (1, 2, 1)
    assert sizes["rmsnorm", (("M", 4), ("N", config.hidden_size))] == 4  # two in each layer; the last norm sees one token
    ops = [key for key in sizes if isinstance(key, tuple)]
    assert {(log.timed(key).least_s, log.timed(key).median_s) for key in ops} == {(1.0, 1.0)}
    in_layer = (sum(sizes[key] for key in ops) - 4) // 2  # embedding, table, norm and lm_head are outside
    assert [log.timed(part).median_s for part in PARTS] == [2 + 3, in_layer + in_layer + 1, 2 + 3]


def test_after_a_reading_between_layers_an_op_runs_once_before_time_goes_on() -> None:
    """Its inputs have left the caches. Each op takes 0.1 s, so that a reading is due after every part."""
    clock, computed = FakeClock(), []
    config = replace(MODEL, num_hidden_layers=2)

    class Slow(Log):
        def note(self, key: Any, seconds: float) -> None:
            super().note(key, seconds)
            clock.now_s += 0.1

    class Counting(InPlace):
        def apply(self, op: Op, name: str, inputs: tuple[torch.Tensor, ...], **attrs: Any) -> torch.Tensor:
            def compute(*args: Any, **kwargs: Any) -> torch.Tensor:
                computed.append(op.kind)
                return op.compute(*args, **kwargs)

            return super().apply(replace(op, compute=compute), name, inputs, **attrs)

    def read() -> float:
        computed.append("read")
        return 1.0

    log = Slow(Reference([read], now=clock), clock)
    log.read()
    step = (config, random_weights(config), torch.zeros(1, 4, dtype=torch.int64), new_cache(config, 1, 4), 0, 4)
    watched = Counting(log, lambda key: key, lambda part: part, clock)
    logits = forward(watched, *step)
    watched.end()
    assert torch.equal(logits, forward(Torch(), *step))
    after = [computed[i + 1 : i + 3] for i, kind in enumerate(computed) if kind == "read"]
    assert after == [["Embedding", "RoPETable"], *[["RMSNorm", "RMSNorm"]] * 3, []]
    assert computed.count("RMSNorm") == 5 + 3


def test_a_run_goes_through_all_layers_until_as_many_have_been_timed() -> None:
    clock, asked = FakeClock(), list[int | None]()
    config, *step = small_step()

    def some(f: Any, layers: int | None) -> None:
        asked.append(layers)
        for _ in range(4 if layers is None else layers):
            forward(f, config, *step)
            clock.now_s += 1.0

    (job,) = CpuStopwatch(1024, clock).step_jobs("step", 4, lambda: some, lambda key: key, lambda part: part)
    log = samples_of(job, clock, 3)
    assert asked == [1, None, 1, 1]
    assert (log.sizes()["layer"], log.sizes()["head"]) == (6, 3)


class FakeCuda:
    """What `CudaStopwatch` asks of torch.cuda, with a log instead of a GPU."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def current_stream(self) -> FakeCuda:
        return self

    def wait_stream(self, other: object) -> None:
        self.log.append("wait")

    def Stream(self) -> FakeCuda:  # noqa: N802
        return self

    def stream(self, side: object) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def CUDAGraph(self) -> FakeCuda:  # noqa: N802
        return self

    def graph(self, graph: object, stream: object) -> Any:
        from contextlib import contextmanager

        assert stream is self  # the one that the work has run on before

        @contextmanager
        def capture() -> Iterator[None]:
            self.log.append("capture")
            yield
            self.log.append("captured")

        return capture()

    def replay(self) -> None:
        self.log.append("replay")

    def Event(self, enable_timing: bool) -> FakeCuda:  # noqa: N802
        assert enable_timing
        return self

    def record(self) -> None:
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def elapsed_time(self, end: object) -> float:
        return 2.5

    def is_available(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return 2**34, 2**34

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(L2_cache_size=50 * 2**20, uuid="12-34")

    def get_device_name(self) -> str:
        return "NVIDIA H100 80GB HBM3"


def test_a_gpu_is_timed_by_events_around_a_replayed_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the CUDA calls themselves: warm-up, capture once, replay between events, milliseconds to seconds."""
    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    clock, watch = FakeClock(), CudaStopwatch(1024)
    log = samples_of(watch.kernel("x", "x", lambda: lambda: cuda.log.append("work"), flushed=False), clock, 3, watch.reference())
    assert log.timed("x") == Timed(2.5e-3, 2.5e-3, 3)
    assert cuda.log[:7] == ["wait", "work", "work", "wait", "capture", "work", "captured"]
    assert cuda.log[7:9] == ["replay", "replay"]
    assert cuda.log[9:] == ["replay", "record", "replay", "record", "synchronize"] * 3  # the device is busy when events come
    cuda.log.clear()
    watch.flush = lambda: cuda.log.append("flush")  # type: ignore[method-assign]
    samples_of(watch.kernel("x", "x", lambda: lambda: None, flushed=True), clock, 3)
    assert cuda.log[6:] == ["flush", "record", "replay", "record", "synchronize"] * 3
    del watch.flush
    monkeypatch.setattr(CudaStopwatch, "device", "cpu")
    jobs = list(watch.step_jobs("step", 1, lambda: lambda f, layers: forward(f, *small_step()), lambda key: key, lambda part: part))
    logs = [samples_of(job, clock, 3) for job in jobs]
    assert {key if isinstance(key, str) else key[0] for log in logs for key in log.sizes()} >= {*watch.parts, "gemm", "attn_scores"}
    assert all(log.timed(key) == Timed(2.5e-3, 2.5e-3, 3) for log in logs for key in log.sizes())


def test_a_gpu_s_table_names_board_clocks_and_versions(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a GPU: all of `measure` but the CUDA calls themselves, on tensors that stay on the CPU."""
    monkeypatch.setattr(torch, "cuda", FakeCuda())
    monkeypatch.setattr(CudaStopwatch, "device", "cpu")
    monkeypatch.setenv("PATH", str(driver_tool(tmp_path, "550.54, 1755, 1980, 2619, 500.00, 700.00, Enabled").parent), prepend=os.pathsep)
    found = measure("stories15m", device="cuda", layers=1, prompts=(8,), contexts=(5,), dtype="bf16", runs=3)
    assert found.hardware == "NVIDIA H100 80GB HBM3 (500 W power limit)"
    assert (tmp_path / "asked").read_text().split()[-1] == "--id=GPU-12-34"
    head = found.to_csv().splitlines()[0]
    for told in ("H100 80GB HBM3, CUDA", "driver 550.54", "clock 1755 of 1980 MHz", "clock 2619 MHz", "ECC Enabled", torch.__version__):
        assert told in head, told
    (tmp_path / "gpu.csv").write_text(found.to_csv())
    predicted = validate([tmp_path / "gpu.csv"])
    assert {each.case.chip.name for each in predicted.comparisons} == {"h100-sxm5-80gb"}
    assert {each.case.chip.tdp_w for each in predicted.comparisons} == {500.0}
    assert {"e2e_prefill", "e2e_decode", "gemm", "rope"} <= {each.case.op for each in predicted.comparisons}
    assert {each.time.median_s for each in found.rows} == {2.5e-3}
    assert found.primitives_s == {}


def driver_tool(folder: Path, answer: str) -> Path:
    """A program in the place of nvidia-smi."""
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\necho "{answer}"\n')
    tool.chmod(0o755)
    return tool


def test_a_board_is_told_as_far_as_its_driver_tells(tmp_path: Path) -> None:
    assert board("B", "GPU-1", str(tmp_path / "none")) == Board("B", {})
    assert (Board("B", {}).hardware, str(Board("B", {}))) == ("B", "no nvidia-smi that tells driver, clocks and power limit")
    usual = board("B", "GPU-1", str(driver_tool(tmp_path, "550, 10, 20, 30, 300.00, 300.00, [N/A]")))
    assert usual.hardware == "B"
    assert "power limit 300.00 W, 300.00 W by default; ECC [N/A]" in str(usual)
    assert board("B", "GPU-1", str(driver_tool(tmp_path, "550, 10, 20, 30, [N/A], [N/A], [N/A]"))).hardware == "B"
    assert board("B", "GPU-1", str(driver_tool(tmp_path, "No devices were found"))) == Board("B", {})


@pytest.mark.parametrize(
    ("told", "chip"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA B200", "b200-sxm-180gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti"),
        ("Tesla T4", "t4"),
        ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"),
    ],
)
def test_boards_are_known_by_the_names_that_their_driver_gives_them(told: str, chip: str) -> None:
    found = Hardware().find(told)
    assert found is not None
    assert found.name == chip


class OfTheHost(TorchDispatchMode):
    """Notes what gives a tensor of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        if any(isinstance(each, torch.Tensor) and each.device.type == "cpu" for each in (made if isinstance(made, tuple) else (made,))):
            self.seen.append(str(call))
        return made


@pytest.mark.parametrize("context", [0, 5])
def test_a_step_can_be_captured_for_it_asks_nothing_of_the_host(context: int) -> None:
    """A CUDA graph holds what runs on the device alone: no tensor from the host, no value that the host waits for (which the device
    `meta`, without values, refuses)."""
    config = replace(MODEL, num_hidden_layers=2)
    weights = module._weights(config, "bf16", 0, "meta")
    assert weights.embed_tokens.device.type == weights.layers[0].q_proj.device.type == weights.inverse_frequencies.device.type == "meta"
    assert (weights.lm_head is weights.embed_tokens) == config.tie_word_embeddings
    length = 1 if context else 4
    ids, cache = torch.zeros(2, length, dtype=torch.int64, device="meta"), new_cache(config, 2, context + length, "bfloat16", "meta")
    with OfTheHost() as host, torch.inference_mode():
        logits = decode(config, weights, ids, cache, context) if context else prefill(config, weights, ids, cache)
        distinct = Distinct()
        forward(distinct, config, weights, ids, cache, context, length)
        for call in distinct.calls.values():
            call.run()
    assert logits.shape == (2, 1, config.vocab_size)
    assert host.seen == []


def test_memory_that_runs_out_all_the_same_is_told(quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> Iterator[Measured]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(module, "_streams", full)
    with pytest.raises(ScenarioError, match=r"--device: the device's memory is full"):
        measure("stories15m", layers=1, prompts=(4,), runs=2)


def small_step() -> tuple[Any, ...]:
    config = replace(MODEL, num_hidden_layers=1)
    return config, random_weights(config), torch.zeros(1, 3, dtype=torch.int64), new_cache(config, 1, 3), 0, 3


CPUINFO = """\
processor\t: 0
model name\t: Some  CPU @ 3.00GHz
cpu MHz\t\t: 2999.998
flags\t\t: fpu sse2 avx2 avx512f
"""


def test_a_processor_is_read_from_the_operating_system(tmp_path: Path) -> None:
    caches = [("Data", 1, "32K", "0"), ("Instruction", 1, "32K", "0"), ("Unified", 3, "36M", "0-3,8")]
    for i, (kind, level, size, sharers) in enumerate(caches):
        (tmp_path / f"index{i}").mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size), ("shared_cpu_list", sharers)):
            (tmp_path / f"index{i}" / name).write_text(f"{value}\n")
    cpu = processor(CPUINFO, tmp_path)
    assert (cpu.name, cpu.simd_bits, cpu.clock_hz) == ("Some CPU @ 3.00GHz", 512, pytest.approx(2.999998e9))
    assert cpu.caches == ((1, 32 * 2**10, 1), (3, 36 * 2**20, 5))
    assert cpu.last_cache_bytes == 36 * 2**20
    unknown = processor("", tmp_path / "none")
    assert (unknown.clock_hz, unknown.simd_bits, unknown.caches) == (0.0, 128, ())


def test_a_processor_that_says_little_is_described_all_the_same(found: Measurement, tmp_path: Path) -> None:
    silent = Processor("ARM", 0.0, 128, ((1, 2**16, 1),), 2**34)
    (tmp_path / "cpu.yaml").write_text(chip_yaml(replace(found, processor=silent)))
    assert [level.name for level in load_chip(tmp_path / "cpu.yaml").memory] == ["dram", "l1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"layers": 7}, "--layers"),
        ({"prompts": (300,)}, "--prompt: found 300"),
        ({"contexts": (256,)}, "--context: found 256"),
        ({"batches": (0,)}, "--batch: found 0"),
        ({"runs": 0}, "--runs"),
        ({"patience_s": -1.0}, "--patience: found -1.0"),
        ({"dtype": "int8"}, "--dtype: cannot measure in 'int8'"),
        ({"device": "cuda"}, "--device: PyTorch sees no CUDA device"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=told):
        measure("stories15m", **arguments)


def test_too_little_memory_is_foreseen_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: 4 * 2**30)
    with pytest.raises(ScenarioError, match=r"out of memory foreseen: .* GiB are needed \(weights 4\.6 GiB"):
        measure("llama-3.2-1b")


Run = Callable[..., tuple[int, str, str]]


def test_the_command_writes_table_and_chip(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, chip = tmp_path / "cpu.csv", tmp_path / "cpu.yaml"
    words = ["measure", "--model", "stories15m", "--layers", "1", "--prompt", "4", "--runs", "3", "--patience", "1"]
    words += ["--out", str(out), "--chip-out", str(chip)]
    monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, words)])
    main_code = _code()
    told = capsys.readouterr()
    assert (main_code, told.out) == (0, "")
    assert "timed; " in told.err
    assert ("warning: " in told.err) == ("of its best rate" in out.read_text())
    assert out.read_text().startswith("# origin: rooftile measure")
    assert predict_graph(trace(MODEL, Scenario.decode(Formats("fp32", "fp32", "fp32"), 1, 9)), chip, "roofline").total_s > 0
    for wrong in (["--clock", "2 GHz"], ["--device", "cuda", "--chip-out", str(chip)]):
        monkeypatch.setattr(sys, "argv", ["rooftile", "measure", "--model", "stories15m", *wrong])
        assert _code() == 2
        assert capsys.readouterr().err.startswith("rooftile: ")


def _code() -> int:
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0
