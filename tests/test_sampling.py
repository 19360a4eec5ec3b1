"""Truth defended: of a machine whose rate changes only samples at its best rate count, whatever they took, and patience has an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.evidence import sampling
from sim.evidence.machine import Taken
from sim.evidence.sampling import HELD, LEAST, Job, Log, Progress, Reference, Sampler, Timed

SAMPLE_S, REFERENCE_S, BEGIN_S = 0.01, 0.002, 0.05
STRETCH_S = sampling._STRETCH_S
READY_S = HELD * (STRETCH_S + 2 * REFERENCE_S)
"""When the first job begins, at the latest."""


class Machine:
    """A clock, and a rate that is a function of it; work is done at the rate at which it begins."""

    def __init__(self, rate: Callable[[float], float] = lambda now_s: 1.0) -> None:
        self.now_s, self.waited_s, self.rate = 0.0, -HELD * STRETCH_S, rate
        self.log = self.logged(Reference([lambda: self.spend(REFERENCE_S)], now=self.now))
        self.begun: list[str] = []

    def now(self) -> float:
        return self.now_s

    def logged(self, reference: Reference) -> Log:
        """A log that says how long it was waited, beyond the beginning."""
        machine = self

        class Waiting(Log):
            def wait(self) -> None:
                begin_s = machine.now_s
                super().wait()
                machine.waited_s += machine.now_s - begin_s

        return Waiting(reference, self.now)

    def spend(self, seconds: float) -> float:
        took_s = seconds / self.rate(self.now_s)
        self.now_s += took_s
        return took_s

    def job(self, name: str, seconds: float = SAMPLE_S) -> Job:
        def begin() -> Callable[[Log], None]:
            self.begun.append(name)
            self.spend(BEGIN_S)
            return lambda log: log.note(name, self.spend(seconds))

        return Job(name, begin)

    def take(self, jobs: list[Job], patience_s: float, runs: int = 15, told: list[Progress] | None = None) -> None:
        tell = (lambda progress: None) if told is None else told.append
        Sampler(self.log, runs, patience_s, tell, self.now).take(jobs)


def by_turns(fast_s: float, slow_s: float, slow: float = 0.5) -> Callable[[float], float]:
    """At its best for so long, and then slow for so long, again and again."""
    return lambda now_s: 1.0 if now_s % (fast_s + slow_s) < fast_s else slow


@pytest.mark.parametrize("slow", [0.5, 0.85])
@pytest.mark.parametrize(("fast_s", "slow_s"), [(2.0, 3.0), (0.9, 0.4), (5.0, 20.0)])
def test_only_samples_at_the_best_rate_are_used(fast_s: float, slow_s: float, slow: float) -> None:
    machine = Machine(by_turns(fast_s, slow_s, slow))
    machine.take([machine.job(str(i)) for i in range(20)], patience_s=1000.0)
    for i in range(20):
        timed = machine.log.timed(str(i))
        assert timed == Timed(pytest.approx(SAMPLE_S), pytest.approx(SAMPLE_S), timed.runs)
        assert timed.runs >= LEAST


def test_a_rate_that_differs_by_less_than_the_share_is_no_other() -> None:
    """4 % below: it is used, and never scaled."""
    machine = Machine(by_turns(1.0, 1.0, 0.96))
    machine.take([machine.job(str(i), 0.2) for i in range(6)], patience_s=1000.0)
    assert machine.waited_s < STRETCH_S
    found = [machine.log.timed(str(i)) for i in range(6)]
    assert {timed.rate for timed in found} == {1.0}
    assert max(timed.median_s for timed in found) == pytest.approx(0.2 / 0.96)


def test_what_was_timed_before_the_best_rate_came_is_timed_again() -> None:
    machine = Machine(lambda now_s: 0.5 if now_s < 4.0 else 1.0)
    machine.take([machine.job(str(i)) for i in range(20)], patience_s=1000.0)
    assert len(machine.begun) > len(set(machine.begun)) == 20
    assert all(machine.log.timed(str(i)) == Timed(pytest.approx(SAMPLE_S), pytest.approx(SAMPLE_S), 15) for i in range(20))


def test_a_machine_that_stays_slow_is_told_with_its_rate() -> None:
    machine = Machine(lambda now_s: 1.0 if now_s < READY_S + 1.0 else 0.52)
    machine.take([machine.job(str(i)) for i in range(10)], patience_s=30.0)
    first, *_, last = (machine.log.timed(str(i)) for i in range(10))
    assert first == Timed(pytest.approx(SAMPLE_S), pytest.approx(SAMPLE_S), 15)
    assert last == Timed(pytest.approx(SAMPLE_S / 0.52), pytest.approx(SAMPLE_S / 0.52), 15, pytest.approx(0.52))
    assert 25.0 < machine.waited_s <= 30.0 + 2 * STRETCH_S


@pytest.mark.parametrize("patience_s", [0.0, 7.0])
@pytest.mark.parametrize("rate", [lambda now_s: 1.0 if now_s < READY_S + 1.0 else 0.3, by_turns(0.2, 0.2), by_turns(0.6, 1.5)])
def test_waiting_and_timing_again_end_with_patience(rate: Callable[[float], float], patience_s: float) -> None:
    """What is under way may take as long again as one job: at a third of the rate, begun, read and half a second and a run of it."""
    machine = Machine(rate)
    machine.take([machine.job(str(i)) for i in range(30)], patience_s)
    first_s = 30 * (BEGIN_S + 15 * SAMPLE_S + 4 * REFERENCE_S) / 0.3 + READY_S
    last_s = (BEGIN_S + 15 * SAMPLE_S) / 0.3 + sampling.BUDGET_S
    assert machine.now_s <= 2 * first_s + patience_s + last_s
    assert machine.waited_s <= patience_s + 2 * STRETCH_S
    assert all(machine.log.timed(str(i)).runs >= LEAST for i in range(30))


def test_patience_pays_for_timing_again_too() -> None:
    """The machine is slow right after each sample and at its best whenever one waits; beginning the job takes 10 s."""
    machine, is_worked = Machine(), [False]

    def kernel() -> float:
        slowed, is_worked[0] = 1 + is_worked[0], False
        return machine.spend(REFERENCE_S * slowed)

    def begin() -> Callable[[Log], None]:
        machine.spend(10.0)
        return run

    def run(log: Log) -> None:
        log.note("x", machine.spend(0.3))
        is_worked[0] = True

    machine.log = machine.logged(Reference([kernel], now=machine.now))
    machine.take([Job("x", begin)], patience_s=60.0)
    assert 60.0 < machine.now_s < READY_S + 60.0 + 3 * 10.0
    assert machine.log.timed("x").rate == pytest.approx(0.5)


def logged(*rates: tuple[float, float, float]) -> Log:
    """A log of one sample of so many seconds each, between a reading at the first and one at the second of these rates."""
    left = iter([1.0] * HELD + [rate for before, _, after in rates for rate in (before, after)])
    log = Log(Reference([lambda: REFERENCE_S / next(left)]), lambda: 0.0)
    for _ in range(HELD):
        log.read()
    for _, seconds, _ in rates:
        log.read()
        log.note("x", seconds)
        log.settle(at_once=True)
    return log


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.6), (0.6, 1.0)])
def test_both_readings_must_be_good(before: float, after: float) -> None:
    log = logged((1.0, 1.0, 1.0), (before, 7.0, after), (1.0, 2.0, 1.0), (1.0, 3.0, 1.0))
    assert log.timed("x") == Timed(2.0, 1.0, 3)
    assert (log.good("x", 9), log.good("x", 2), log.sizes()) == (3, 2, {"x": 4})


def test_too_few_good_samples_leave_those_of_the_best_readings() -> None:
    log = logged((0.5, 9.0, 0.5), (0.8, 1.0, 0.8), (1.0, 2.0, 1.0), (0.7, 3.0, 0.9), (0.8, 6.0, 0.9), (0.4, 5.0, 1.0))
    assert log.timed("x") == Timed(2.0, 1.0, 3, pytest.approx(0.8))


def test_what_a_sample_took_has_no_part_in_its_use() -> None:
    """Two runs of three take ten times as long, while the reference sees nothing: they count like the third."""
    machine = Machine()
    seconds = iter([SAMPLE_S * (10 if i % 3 else 1) for i in range(15)])
    machine.take([Job("x", lambda: lambda log: log.note("x", machine.spend(next(seconds) / 4)))], patience_s=100.0)
    assert machine.log.timed("x") == Timed(pytest.approx(10 * SAMPLE_S / 4), pytest.approx(SAMPLE_S / 4), 15)
    assert machine.waited_s < STRETCH_S


def test_one_fast_reading_makes_no_best_rate() -> None:
    machine = Machine()
    turn = iter(range(10**6))
    machine.log._reference._kernels = (lambda: machine.spend(REFERENCE_S * (0.5 if next(turn) % 9 == 4 else 1.0)),)
    machine.take([machine.job(str(i), 0.1) for i in range(5)], patience_s=100.0)
    assert machine.waited_s < STRETCH_S
    assert {machine.log.timed(str(i)).rate for i in range(5)} == {1.0}


def test_every_kernel_of_the_reference_counts() -> None:
    machine = Machine()
    kernels = (lambda: machine.spend(REFERENCE_S), lambda: machine.spend(REFERENCE_S * (1.0 if machine.now_s < READY_S + 1.0 else 1.5)))
    machine.log = machine.logged(Reference(kernels, now=machine.now))
    machine.take([machine.job("early"), machine.job("late", 3.0)], patience_s=5.0)
    assert machine.log.timed("early").rate == 1
    assert machine.log.timed("late").rate == pytest.approx(1 / 1.5)


def test_what_others_take_counts_as_a_lower_rate() -> None:
    """A neighbour has a fifth of the processor for 19 s; the reference, which is short, sees nothing of it."""
    machine = Machine()

    def taken_s(machine: Machine, most_s: float) -> float:
        return 0.2 * min(max(machine.now_s - READY_S - 1.0, 0.0), most_s)

    machine.log = machine.logged(Reference([lambda: machine.spend(REFERENCE_S)], lambda: taken_s(machine, 19.0), machine.now))
    machine.take([machine.job(str(i)) for i in range(20)], patience_s=100.0)
    assert machine.now_s > 20.0
    assert {machine.log.timed(str(i)).rate for i in range(20)} == {1.0}
    impatient = Machine()
    impatient.log = Log(Reference([lambda: impatient.spend(REFERENCE_S)], lambda: taken_s(impatient, 1e9), impatient.now), impatient.now)
    impatient.take([impatient.job(str(i)) for i in range(20)], patience_s=2.0)
    assert impatient.log.timed("19").rate == pytest.approx(0.8, abs=0.01)


def test_without_a_reference_everything_counts() -> None:
    machine = Machine(by_turns(1.0, 1.0))
    machine.log = machine.logged(Reference([]))
    machine.take([machine.job(str(i)) for i in range(20)], patience_s=100.0)
    assert machine.waited_s < STRETCH_S
    assert {machine.log.timed(str(i)).rate for i in range(20)} == {1.0}


def test_a_job_has_the_runs_asked_for_or_what_its_budget_allows_but_three() -> None:
    machine = Machine()
    machine.take([machine.job("short"), machine.job("long", 0.15), machine.job("longest", 4.0)], patience_s=10.0, runs=8)
    runs = [machine.log.timed(name).runs for name in ("short", "long", "longest")]
    assert runs == [8, 4, LEAST]


def test_a_job_may_have_several_keys() -> None:
    """A step of one head and four layers; the head has a sample each time, and three are wanted."""
    machine = Machine()

    def run(log: Log) -> None:
        for _ in range(4):
            log.note("layer", machine.spend(1.0))
            log.settle()
        log.note("head", machine.spend(0.1))

    machine.take([Job("step", lambda: run)], patience_s=10.0)
    layer, head = (machine.log.timed(name) for name in ("layer", "head"))
    assert (layer.runs, head.runs) == (4 * LEAST, LEAST)
    whole = Timed.total([(4, layer), (1, head)])
    assert (whole.median_s, whole.least_s, whole.runs, whole.rate) == (pytest.approx(4.1), pytest.approx(4.1), LEAST, 1.0)
    assert Timed.total([(4, Timed(1.0, 1.0, 9)), (1, Timed(2.0, 1.0, 3, 0.7))]) == Timed(6.0, 5.0, 3, 0.7)


def test_progress_is_told_also_while_it_waits() -> None:
    machine, told = Machine(lambda now_s: 1.0 if now_s < READY_S + 1.0 else 0.5), list[Progress]()
    machine.take([machine.job(str(i)) for i in range(6)], patience_s=5.0, told=told)
    assert [each.of for each in told] == [6] * len(told)
    waits = [each for each in told if each.rate < 0.6]
    assert len(waits) > 10
    assert "50% of its best rate" in str(waits[0])
    assert waits[0].patience_s > waits[-1].patience_s
    assert (told[0].done, str(told[0])) == (0, "0 of 6 timed; 0")


def test_what_others_take_is_read_from_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 ms: in 2 s of two processors we use 1 s, others 1.8 s, and 0.6 s are stolen. With one thread, others find 2 s of room."""
    monkeypatch.setattr("sim.evidence.machine.os.cpu_count", lambda: 2)
    monkeypatch.setattr("sim.evidence.machine.os.sysconf", lambda name: 100)
    for threads, expected_s in ((2, (1.8 + 0.6) / 2), (1, 0.6)):
        stat, now, own = tmp_path / "stat", [0.0], [5.0]
        stat.write_text("cpu  1000 20 300 4000 50 6 7 80 0 0\ncpu0 1 2 3\n")
        monkeypatch.setattr("sim.evidence.machine.time.process_time", lambda own=own: own[0])
        taken = Taken(threads, stat, lambda now=now: now[0])
        assert taken() == 0
        now[0], own[0] = 2.0, 6.0
        stat.write_text("cpu  1200 70 320 4060 50 11 12 140 0 0\ncpu0 1 2 3\n")
        assert taken() == pytest.approx(expected_s)
    assert Taken(2, tmp_path / "none")() == 0
