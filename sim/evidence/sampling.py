"""Which timings of a machine count: those taken while it was at its best.

Neighbours on the same core, clocks and heat make a machine slower by half for seconds or minutes, and other programs and virtual machines
take their turns. So a *reference*, some milliseconds of fixed work, is timed before and after every stretch of samples, and the operating
system is asked what others have taken of the processor meanwhile. A sample is used if neither reading is slower than the machine's best by
more than `SHARE`, and others took no larger share. No time is ever scaled, and what a sample itself took has no part in whether it is used.
What has too few such samples is timed again later, while there is patience; what has too few of them then is made of those of the best
rate, and says which rate that was.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

SHARE = 0.15
"""By how much slower than its best a machine's readings may be: its states differ by half or more, readings within one by some 12 %."""
HELD = 7
"""Readings in a row whose median must be as fast as that for a rate to be a machine's: a single fast one may be chance."""
LEAST = 3
"""Samples of which a median is taken, at least."""
BUDGET_S = 0.5
"""Seconds spent on what has `LEAST` samples, at most."""

_STRETCH_S = 0.25
"""Seconds between two readings: what lasts for less is noise, which the median takes care of, and operating systems count in steps of
10 ms."""


class Reading(NamedTuple):
    """Seconds of each kernel of the reference; when it was read, and processor seconds that others had taken of the threads until then."""

    kernels_s: tuple[float, ...]
    at_s: float
    taken_s: float


class Reference:
    """Kernels of fixed work, each of which times itself [s], and `taken`, which tells the processor seconds that others took so far of each
    thread. Without any kernels, and with nothing taken, a machine counts as being at its best always."""

    def __init__(
        self,
        kernels: Sequence[Callable[[], float]],
        taken_s: Callable[[], float] = lambda: 0.0,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._kernels, self._taken_s, self._now = tuple(kernels), taken_s, now
        self._recent: tuple[Reading, ...] = ()
        self._best_s = (math.inf,) * len(self._kernels)

    def read(self) -> Reading:
        reading = Reading(tuple(kernel() for kernel in self._kernels), self._now(), self._taken_s())
        self._recent = (*self._recent, reading)[-HELD:]
        if len(self._recent) == HELD:
            held_s = (statistics.median(seconds) for seconds in zip(*(each.kernels_s for each in self._recent), strict=True))
            self._best_s = tuple(min(pair) for pair in zip(self._best_s, held_s, strict=True))
        return reading

    def work(self, seconds: float) -> None:
        """Run the kernels for so long: what a processor does that has slept says little of its rate at work."""
        begin_s = self._now()
        while self._kernels and self._now() - begin_s < seconds:
            for kernel in self._kernels:
                kernel()

    def rate(self, before: Reading, after: Reading) -> float:
        """The machine's rate between two readings, of its best one so far: that of the kernel that is slowed most, or what others left;
        1 at most."""
        elapsed_s = after.at_s - before.at_s
        left = 1 - (after.taken_s - before.taken_s) / elapsed_s if elapsed_s > 0 else 1.0
        slowed = (best_s / seconds for each in (before, after) for best_s, seconds in zip(self._best_s, each.kernels_s, strict=True))
        return max(min(1.0, left, *slowed), 0.0)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of some work: the median and the least of its samples, and their number. `rate`: the machine's, of its best, where too few
    samples were taken at that."""

    median_s: float
    least_s: float
    runs: int
    rate: float = 1.0

    @classmethod
    def of(cls, seconds: Sequence[float], rate: float = 1.0) -> Timed:
        return cls(statistics.median(seconds), min(seconds), len(seconds), rate)

    @classmethod
    def total(cls, parts: Iterable[tuple[int, Timed]]) -> Timed:
        """Work that consists of others, each so many times."""
        counted = list(parts)
        median_s, least_s = (sum(count * getattr(part, name) for count, part in counted) for name in ("median_s", "least_s"))
        return cls(median_s, least_s, min(part.runs for _, part in counted), min(part.rate for _, part in counted))


class Sample(NamedTuple):
    """Seconds of one run, and the readings before and after it."""

    seconds: float
    before: Reading
    after: Reading


class Log:
    """Samples by key, each between two readings of the reference."""

    def __init__(self, reference: Reference, now: Callable[[], float] = time.perf_counter) -> None:
        self._reference, self._now = reference, now
        self._samples: dict[Hashable, list[Sample]] = {}
        self._open: list[tuple[Hashable, float]] = []
        self._last: tuple[Reading, Reading] | None = None

    def read(self) -> None:
        """Begin a stretch."""
        reading = self._reference.read()
        self._last = (reading if self._last is None else self._last[1], reading)

    def wait(self) -> None:
        """A stretch without samples, but not without work."""
        self._reference.work(_STRETCH_S)
        self.read()

    def note(self, key: Hashable, seconds: float) -> None:
        """One sample, which counts from the next reading on."""
        self._open.append((key, seconds))

    def settle(self, at_once: bool = False) -> None:
        """End a stretch and begin another, unless the last reading is recent."""
        assert self._last is not None
        before = self._last[1]
        if at_once or self._now() - before.at_s >= _STRETCH_S:
            self.read()
            for key, seconds in self._open:
                self._samples.setdefault(key, []).append(Sample(seconds, before, self._last[1]))
            self._open.clear()

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has been timed since the last reading, which left its own data in the caches."""
        return not self._open

    @property
    def rate(self) -> float:
        """The machine's between the last two readings, of its best."""
        return 1.0 if self._last is None else self._reference.rate(*self._last)

    @property
    def is_best(self) -> bool:
        return _is_best(self.rate)

    def sizes(self) -> dict[Hashable, int]:
        """Samples of each key."""
        return {key: len(samples) for key, samples in self._samples.items()}

    def good(self, key: Hashable, most: int) -> int:
        """Samples of a key that were taken while the machine was at its best, counted up to so many."""
        return len(list(islice((True for sample in self._samples[key] if _is_best(self._rate(sample))), most)))

    def timed(self, key: Hashable) -> Timed:
        """What is known of a key: its samples at the best rate, or else those of its `LEAST` best readings, and others as good."""
        samples = [(self._rate(sample), sample.seconds) for sample in self._samples[key]]
        used = [seconds for rate, seconds in samples if _is_best(rate)]
        if len(used) >= LEAST:
            return Timed.of(used)
        level = sorted((rate for rate, _ in samples), reverse=True)[:LEAST][-1]
        return Timed.of([seconds for rate, seconds in samples if rate >= level], level)

    def _rate(self, sample: Sample) -> float:
        return self._reference.rate(sample.before, sample.after)


def _is_best(rate: float) -> bool:
    return rate * (1 + SHARE) >= 1


@dataclass(frozen=True, eq=False)
class Job:
    """Something to time: `begin` makes its tensors and warms it up, and what it gives takes one sample of each of its keys, or several."""

    name: str
    begin: Callable[[], Callable[[Log], None]]


class Progress(NamedTuple):
    """How far a measurement is: jobs done, of so many, the one at work, the machine's rate, and the patience left [s]."""

    done: int
    of: int
    job: str
    rate: float
    patience_s: float

    def __str__(self) -> str:
        waits = "" if _is_best(self.rate) else f", machine at {self.rate:.0%} of its best rate, {self.patience_s:.0f} s of patience left"
        return f"{self.done} of {self.of} timed; {self.job}{waits}"


class Sampler:
    """Takes `runs` samples of each job at the machine's best rate, or as many as `BUDGET_S` allows, but `LEAST`.

    Waiting for that rate, and timing again what has been timed before, take `patience_s` in all; what is under way then is ended first.
    """

    def __init__(
        self,
        log: Log,
        runs: int,
        patience_s: float,
        tell: Callable[[Progress], None] = lambda progress: None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._log, self._runs, self._left_s = log, max(runs, LEAST), patience_s
        self._tell, self._now = tell, now
        self._keys: dict[Job, set[Hashable]] = {}
        self._spent_s: dict[Job, float] = {}

    def take(self, jobs: Sequence[Job]) -> None:
        """Time all jobs, round by round."""
        for _ in range(HELD):
            self._log.wait()
        todo = list(jobs)
        while todo:
            for job in todo:
                is_best = self._waits(jobs, job)
                if is_best or not self._has_enough(job, only_best=False):
                    self._visit(job, is_best)
            todo = [job for job in jobs if not self._has_enough(job, only_best=True)] if self._left_s > 0 else []

    def _waits(self, jobs: Sequence[Job], job: Job) -> bool:
        """Wait for the machine's best rate; False once patience is at its end."""
        done = sum(self._has_enough(each, only_best=True) for each in jobs)
        while True:
            self._tell(Progress(done, len(jobs), job.name, self._log.rate, max(self._left_s, 0.0)))
            if self._left_s <= 0 or self._log.is_best:
                return self._left_s > 0
            begin_s = self._now()
            self._log.wait()
            self._left_s -= self._now() - begin_s

    def _visit(self, job: Job, only_best: bool) -> None:
        """Samples of one job until there are enough; or, if only those at the machine's best rate are of use, until that is gone."""
        begin_s, known = self._now(), self._log.sizes()
        run = job.begin()
        self._log.read()
        ready_s, spent_s, is_again = self._now(), self._spent_s.get(job, 0.0), job in self._spent_s
        for turn in count(1):
            turn_s = self._now()
            run(self._log)
            self._log.settle(at_once=turn % self._runs == 0 or self._now() - turn_s >= _STRETCH_S / 2)
            self._spent_s[job] = spent_s + self._now() - ready_s
            if not self._log.is_fresh:
                continue
            self._keys.setdefault(job, set()).update(key for key, size in self._log.sizes().items() if size > known.get(key, 0))
            if self._has_enough(job, only_best) or (only_best and not self._log.is_best):
                break
        if is_again:
            self._left_s -= self._now() - begin_s

    def _has_enough(self, job: Job, only_best: bool) -> bool:
        """Whether a job has as many samples as are wanted, at the best rate or at any."""
        if job not in self._keys:
            return False
        sizes = self._log.sizes()
        least = min(self._log.good(key, self._runs) if only_best else sizes[key] for key in self._keys[job])
        return least >= self._runs or (least >= LEAST and self._spent_s[job] >= BUDGET_S)
