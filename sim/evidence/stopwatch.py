"""Timing of work on a device: warmed up, caches flushed where asked, the median of several runs."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from functional.errors import Problem, ScenarioError
from functional.interpreters import Interpreter
from sim.evidence.op_rows import Distinct, InPlace, Key

Step = Callable[[Interpreter[Tensor]], object]
"""A whole step of the functional model, given its interpreter."""

Work = Callable[[], object]

WARM_UP = 2
FLUSHED = "caches flushed before each run"

LEAST = 2
"""Runs of each in a pass, whatever they take."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of each of some runs."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least_s(self) -> float:
        return min(self.seconds)

    @property
    def runs(self) -> int:
        return len(self.seconds)

    def __add__(self, other: Timed) -> Timed:
        """The runs of both."""
        return Timed(self.seconds + other.seconds)


class Stopwatch(ABC):
    """Times work on one device: at most `runs` runs, and no more once `budget_s` are spent."""

    def __init__(self, runs: int, budget_s: float, flush_bytes: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._runs, self._budget_s, self._now = runs, budget_s, now
        self._flush_bytes = flush_bytes
        self._flushed: torch.Tensor | None = None

    @property
    @abstractmethod
    def device(self) -> str:
        """As PyTorch names it."""

    @abstractmethod
    def prepared(self, work: Work) -> Work:
        """The work, run `WARM_UP` times and made ready to be repeated."""

    @abstractmethod
    def seconds(self, work: Work) -> float:
        """Seconds of one run."""

    @abstractmethod
    def ops(self, step: Step) -> dict[Key, Timed]:
        """Seconds of each distinct op of a step; `ops_note` says under which conditions."""

    @property
    @abstractmethod
    def ops_note(self) -> str:
        """What `ops` finds in the caches."""

    def flush(self) -> None:
        """Write so much that no cache keeps anything else."""
        if self._flushed is None:
            self._flushed = torch.zeros(self._flush_bytes // 4, device=self.device)
        self._flushed.add_(1.0)

    def time(self, work: Work, flushed: bool) -> Timed:
        """Median of runs of some work, each after a flush of the caches if `flushed`."""
        ready = self.prepared(work)
        seconds: list[float] = []
        for _ in self._repeats():
            self.lead(ready, flushed)
            seconds.append(self.seconds(ready))
        return Timed(tuple(seconds))

    def lead(self, work: Work, flushed: bool) -> None:
        """What runs right before each timed run."""
        if flushed:
            self.flush()

    def _repeats(self) -> Iterator[int]:
        """At least `LEAST` runs, at most as many as asked for, none begun after the budget is spent."""
        begin_s = self._now()
        for run in range(max(LEAST, self._runs)):
            if run >= LEAST and self._now() - begin_s >= self._budget_s:
                return
            yield run


class CpuStopwatch(Stopwatch):
    """Wall clock around the call, as a caller sees it."""

    @property
    def device(self) -> str:
        return "cpu"

    def prepared(self, work: Work) -> Work:
        for _ in range(WARM_UP):
            work()
        return work

    def seconds(self, work: Work) -> float:
        begin_s = self._now()
        work()
        return self._now() - begin_s

    def ops(self, step: Step) -> dict[Key, Timed]:
        """Where they stand in the step, which has run before: weights come from memory, activations from where the op before left them."""
        watched = InPlace(self._now)
        for _ in self._repeats():
            step(watched)
        return {key: Timed(tuple(seconds)) for key, seconds in watched.seconds.items()}

    @property
    def ops_note(self) -> str:
        return "in a step: weights from memory, activations as left by the op before"


class CudaStopwatch(Stopwatch):
    """Events around one replay of a CUDA graph of the work, enqueued while the device is still busy with what leads it, so that neither
    Python nor launches from the host are in it."""

    @property
    def device(self) -> str:
        return "cuda"

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

    def lead(self, work: Work, flushed: bool) -> None:
        """The flush, or else the work itself: on an idle device the time of the launch would lie between the events."""
        super().lead(work, flushed)
        if not flushed:
            work()

    def seconds(self, work: Work) -> float:
        cuda: Any = torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def ops(self, step: Step) -> dict[Key, Timed]:
        """Each by itself, replayed on flushed caches: the host is too slow to time ops of a step one by one."""
        distinct = Distinct()
        step(distinct)
        return {key: self.time(call.run, flushed=True) for key, call in distinct.calls.items()}

    @property
    def ops_note(self) -> str:
        return FLUSHED


STOPWATCHES: dict[str, type[Stopwatch]] = {"cpu": CpuStopwatch, "cuda": CudaStopwatch}


def stopwatch(device: str, runs: int, budget_s: float, flush_bytes: int) -> Stopwatch:
    """The stopwatch of a device; raises `ScenarioError` where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ScenarioError(Problem("PyTorch sees no CUDA device here", "measure the CPU, or install PyTorch with CUDA", path="--device"))
    return STOPWATCHES[device](runs, budget_s, flush_bytes)
