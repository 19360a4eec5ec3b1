"""Timing of work on a device: warmed up, caches flushed where asked; which samples count is up to `sim.evidence.sampling`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch

from functional.errors import Problem, ScenarioError
from functional.interpreters import Interpreter, Torch
from sim.evidence.op_rows import PARTS, Distinct, InPlace, Key
from sim.evidence.sampling import Job, Log

Step: TypeAlias = Callable[[Interpreter[torch.Tensor], int | None], object]
"""A step of the functional model, given its interpreter, with so many of its layers: None for all."""

Work: TypeAlias = Callable[[], object]

WARM_UP = 2
"""Runs before any is timed, or one if that takes long."""
FLUSHED = "caches flushed before each run"
WHOLE = "step"
"""The one part of a step that is timed whole."""

_LONG_S = 0.5
_PRODUCT_SIZE = 384
"""Rows and columns of the reference's matrices: about a millisecond of two cores, in their caches."""
_STREAMED_BYTES = 2**23
"""Bytes that the reference reads from memory: about a millisecond, and a part of what a last cache holds."""
_REPEATS = 5
"""Runs of each part of the reference, of which the least counts: what disturbs one of them is no state of the machine."""


class Stopwatch(ABC):
    """Times work on one device; a flush reads `flush_bytes`, more than any cache holds."""

    def __init__(self, flush_bytes: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._flush_bytes = now, flush_bytes
        self._flushed: torch.Tensor | None = None

    @property
    @abstractmethod
    def device(self) -> str:
        """As PyTorch names it."""

    @abstractmethod
    def reference(self) -> tuple[Callable[[], float], ...]:
        """Kernels of fixed work that tell the machine's state by their seconds."""

    @abstractmethod
    def prepared(self, work: Work) -> Work:
        """The work, warmed up and made ready to be repeated."""

    @abstractmethod
    def seconds(self, work: Work) -> float:
        """Seconds of one run."""

    @abstractmethod
    def lead(self, work: Work, flushed: bool, is_fresh: bool) -> None:
        """What runs right before each timed run; `is_fresh`: the first after a reading of the reference."""

    @abstractmethod
    def step_jobs(
        self, name: str, layers: int, make: Callable[[], Step], op_key: Callable[[Key], Hashable], part_key: Callable[[str], Hashable]
    ) -> Iterator[Job]:
        """Jobs that time a step of so many layers and its distinct ops: samples of the ops, and of the parts that `parts` names."""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """What a step is timed in: `PARTS`, or whole."""

    @property
    @abstractmethod
    def ops_note(self) -> str:
        """What the ops of a step find in the caches."""

    def flush(self) -> None:
        """Read so much that no cache keeps anything else. What is written would have to go back to memory during the timed run."""
        if self._flushed is None:
            self._flushed = torch.zeros(self._flush_bytes // 4, device=self.device)
        self._flushed.sum()

    def kernel(self, name: str, key: Hashable, make: Callable[[], Work], flushed: bool) -> Job:
        """A job that times one kernel, which `make` makes; each run after a flush of the caches if `flushed`."""

        def begin() -> Callable[[Log], None]:
            work = self.prepared(make())

            def run(log: Log) -> None:
                self.lead(work, flushed, log.is_fresh)
                log.note(key, self.seconds(work))

            return run

        return Job(name, begin)


class CpuStopwatch(Stopwatch):
    """Wall clock around the call, as a caller sees it."""

    @property
    def device(self) -> str:
        return "cpu"

    def reference(self) -> tuple[Callable[[], float], ...]:
        """A product of matrices that caches hold, bound by the clock and what else a core runs; and a part of the memory that none holds,
        another one each time, bound by what others move. The least of some runs each."""
        a, b, out = (torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE) for _ in range(3))
        large = torch.ones(self._flush_bytes // 4)
        elements = min(_STREAMED_BYTES // 4, len(large))
        at = 0

        def read() -> torch.Tensor:
            nonlocal at
            at = at + elements if at + 2 * elements <= len(large) else 0
            return large[at : at + elements].sum()

        def least(work: Work) -> float:
            return min(self.seconds(work) for _ in range(_REPEATS))

        return partial(least, partial(torch.mm, a, b, out=out)), partial(least, read)

    def prepared(self, work: Work) -> Work:
        self._warm_up(work)
        return work

    def _warm_up(self, work: Work) -> None:
        for _ in range(WARM_UP):
            if self.seconds(work) > _LONG_S:
                break

    def seconds(self, work: Work) -> float:
        begin_s = self._now()
        work()
        return self._now() - begin_s

    def lead(self, work: Work, flushed: bool, is_fresh: bool) -> None:
        """The flush, or the work itself where the reference has taken its place in the caches."""
        if flushed:
            self.flush()
        elif is_fresh:
            work()

    def step_jobs(
        self, name: str, layers: int, make: Callable[[], Step], op_key: Callable[[Key], Hashable], part_key: Callable[[str], Hashable]
    ) -> Iterator[Job]:
        """One job: the step part by part, and its ops where they stand in it: weights come from memory, activations from where the op
        before left them. Layers are alike: once there are samples of as many, runs go through one of them."""

        def begin() -> Callable[[Log], None]:
            step = make()
            self._warm_up(lambda: step(Torch(), 1))

            def run(log: Log) -> None:
                watched = InPlace(log, op_key, part_key, self._now)
                step(watched, 1 if log.sizes().get(part_key("layer"), 0) >= layers else None)
                watched.end()

            return run

        yield Job(name, begin)

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS

    @property
    def ops_note(self) -> str:
        return "in a step: weights from memory, activations as left by the op before"


class CudaStopwatch(Stopwatch):
    """Events around one replay of a CUDA graph of the work, enqueued while the device is still busy with what leads it, so that neither
    Python nor launches from the host are in it.

    It has no reference: what heat and the power limit make of a board's clock belongs to what it sustains, and nobody shares it.
    """

    @property
    def device(self) -> str:
        return "cuda"

    def reference(self) -> tuple[Callable[[], float], ...]:
        return ()

    def prepared(self, work: Work) -> Work:
        cuda: Any = torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # what is captured must have run before, on a stream that is not the default one
            for _ in range(WARM_UP):
                work()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=side):  # where libraries have their handles and workspaces from the runs before
            work()
        replay: Work = graph.replay
        for _ in range(WARM_UP):  # the first replay brings the graph to the device
            replay()
        return replay

    def lead(self, work: Work, flushed: bool, is_fresh: bool) -> None:
        """The flush, or else the work itself: on an idle device the time of the launch would lie between the events."""
        if flushed:
            self.flush()
        else:
            work()

    def seconds(self, work: Work) -> float:
        cuda: Any = torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def step_jobs(
        self, name: str, layers: int, make: Callable[[], Step], op_key: Callable[[Key], Hashable], part_key: Callable[[str], Hashable]
    ) -> Iterator[Job]:
        """The whole step; and each distinct op by itself, replayed on flushed caches: the host is too slow to time ops of a step one by
        one."""

        def whole() -> Work:
            step = make()
            return lambda: step(Torch(), None)

        yield self.kernel(name, part_key(WHOLE), whole, flushed=False)
        for key in _distinct(make()).calls:
            yield self.kernel(f"{key[0]} of {name}", op_key(key), partial(_call, make, key), flushed=True)

    @property
    def parts(self) -> tuple[str, ...]:
        return (WHOLE,)

    @property
    def ops_note(self) -> str:
        return FLUSHED


def _call(make: Callable[[], Step], key: Key) -> Work:
    return _distinct(make()).calls[key].run


def _distinct(step: Step) -> Distinct:
    distinct = Distinct()
    step(distinct, None)
    return distinct


STOPWATCHES: dict[str, type[Stopwatch]] = {"cpu": CpuStopwatch, "cuda": CudaStopwatch}


def stopwatch(device: str, flush_bytes: int) -> Stopwatch:
    """The stopwatch of a device; raises `ScenarioError` where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ScenarioError(Problem("PyTorch sees no CUDA device here", "measure the CPU, or install PyTorch with CUDA", path="--device"))
    return STOPWATCHES[device](flush_bytes)
