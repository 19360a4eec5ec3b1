"""`solve` gives the smallest value that meets the target, proves it by a neighbour that misses, and says so when no value does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functional.errors import BadInput
from hwmodels import load_chip, numeric_paths, with_values
from sim import predict, roofline_grid, trace_model
from sim.engines import ENGINES
from sim.explore.bracket import DOUBLINGS, TOLERANCE, Line, Probe
from sim.explore.fields import is_whole, less_is_faster
from sim.explore.solve import Solution, solve
from sim.explore.target import read_target
from sim.present.explore_tables import solution_text

ONLY_DRAM = with_values(load_chip("edge-npu"), {"clock": 1e18})
"""So fast inside that nothing but DRAM takes time."""


def test_bandwidth_of_a_step_bound_by_dram_is_bytes_times_rate() -> None:
    step = predict("llama-3.2-3b", ONLY_DRAM, phase="decode", context=4096, engine="roofline")
    solution = solve("llama-3.2-3b", ONLY_DRAM, "30 tok/s", "memory.dram.bandwidth", phase="decode", context=4096, engine="roofline")
    assert solution.values["memory.dram.bandwidth"] == pytest.approx(30 * step.dram_bytes.sum(), rel=2e-9)
    assert solution.tokens_per_s == pytest.approx(30, rel=2e-9)


def test_a_batch_makes_its_tokens_together() -> None:
    one = solve("llama-3.2-1b", ONLY_DRAM, "40 tok/s", "memory.dram.bandwidth", context=128, batch=8, engine="roofline")
    step = predict("llama-3.2-1b", ONLY_DRAM, phase="decode", context=128, batch=8, engine="roofline")
    assert one.values["memory.dram.bandwidth"] == pytest.approx(40 / 8 * step.dram_bytes.sum(), rel=2e-9)


@pytest.mark.parametrize("engine", [pytest.param(name, marks=[] if name == "roofline" else pytest.mark.slow) for name in ENGINES])
@pytest.mark.parametrize(
    "path", ["memory.dram.bandwidth", "clock", "matrix.rows", "memory.sram.capacity", "vector.cycles.exp", "overhead.launch"]
)
def test_the_answer_meets_the_target_and_its_neighbour_does_not(path: str, engine: str) -> None:
    """Checked by predictions of their own, on targets around what the chip reaches."""
    chip = with_values(load_chip("edge-npu"), {"overhead.launch": 1e-6})
    own_s = predict("stories15m", chip, phase="prefill", prompt=64, engine=engine).total_s
    for factor in (0.9, 0.999, 1.001, 1.3) if engine == "roofline" else (0.97,):
        limit_s = own_s * factor
        solution = solve("stories15m", chip, f"TTFT {limit_s!r} s", path, prompt=64, engine=engine)
        (border,) = solution.borders

        def latency_s(value: float) -> float:
            return predict("stories15m", with_values(chip, {path: value}), phase="prefill", prompt=64, engine=engine).total_s

        if border.at is not None:
            assert latency_s(border.at.value) <= limit_s
            assert border.at.latency_s == latency_s(border.at.value)
        if border.beyond is not None and not border.beyond.reason:
            assert latency_s(border.beyond.value) > limit_s
        if border.at is not None and border.beyond is not None:
            gap = abs(border.at.value - border.beyond.value)
            assert gap == 1 if is_whole(path) else gap <= 1.0001e-9 * border.at.value
            assert (border.at.value < border.beyond.value) == less_is_faster(path)


def test_no_value_does_and_what_binds_instead() -> None:
    solution = solve("llama-3.2-3b", "edge-npu", "30 tok/s", "clock", context=4096, engine="roofline")
    assert not solution.found
    assert solution.values == {}
    assert next(iter(solution.bound_shares)) == "dram"
    step = predict("llama-3.2-3b", "edge-npu", phase="decode", context=4096, engine="roofline")
    assert solution.latency_s == pytest.approx(step.dram_bytes.sum() / 51.2e9, rel=1e-6)


def test_the_answer_is_a_chip_that_may_exist() -> None:
    """More rows than the SRAM can feed contradict the chip's own description."""
    chip = with_values(load_chip("edge-npu"), {"memory.sram.capacity": 64 * 1024})
    solution = solve("llama-3.2-1b", chip, "TTFT 50 ms", "matrix.rows", engine="roofline")
    assert not solution.found
    (border,) = solution.borders
    assert border.beyond is not None
    assert 32 <= border.beyond.value < 2000


def test_the_smallest_chip_that_may_exist_is_an_answer() -> None:
    solution = solve("llama-3.2-1b", "edge-npu", "TTFT 9 s", "memory.sram.capacity", engine="roofline")
    (border,) = solution.borders
    assert border.beyond is not None
    assert "too small for one pass" in border.beyond.reason
    assert border.at is not None
    assert border.at.value == border.beyond.value + 1


def test_cheapest_combination_is_no_dearer_than_a_fine_search() -> None:
    """Oracle: 300 bandwidths times 512 rows, the best of those that do."""
    paths = ["memory.dram.bandwidth", "matrix.rows"]
    chip = load_chip("edge-npu")
    target, prompt = "TTFT 15 ms", 256
    found = solve("stories15m", chip, target, paths, cost="memory.dram.bandwidth=1,matrix.rows=2", prompt=prompt, engine="roofline")
    assert found.found
    bandwidths, rows = np.geomspace(1e9, 100e9, 300), np.arange(1.0, 513.0)
    many = with_values(chip, {paths[0]: bandwidths[:, np.newaxis], paths[1]: rows})
    latency_s = roofline_grid(trace_model("stories15m", chip.default_format, prompt=prompt), many).latency_s
    costs = bandwidths[:, np.newaxis] / 51.2e9 + 2 * rows / 32
    best = float(np.min(np.where(latency_s <= 0.015, costs, math.inf)))
    assert found.cost is not None
    assert found.cost <= best * 1.001
    assert found.cost == pytest.approx(found.values[paths[0]] / 51.2e9 + 2 * found.values[paths[1]] / 32, rel=1e-12)
    step = predict("stories15m", with_values(chip, found.values), phase="prefill", prompt=prompt, engine="roofline")
    assert step.total_s <= 0.015


def test_cheapest_of_three_beats_every_corner_of_a_coarse_grid() -> None:
    chip = load_chip("edge-npu")
    paths = ["memory.dram.bandwidth", "matrix.rates.int8", "vector.lanes"]
    cost = "memory.dram.bandwidth=1 per 51.2 GB/s,matrix.rates.int8=2,vector.lanes=0.1 per 32"
    found = solve("stories15m", chip, "TTFT 8 ms", paths, cost=cost, prompt=256, engine="roofline")
    assert found.cost is not None
    bandwidth, rate, lanes = np.ix_(np.geomspace(0.1, 10, 14), np.geomspace(0.1, 10, 14), [8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
    many = with_values(chip, {paths[0]: bandwidth * 51.2e9, paths[1]: rate, paths[2]: lanes})
    latency_s = roofline_grid(trace_model("stories15m", chip.default_format, prompt=256), many).latency_s
    meets = np.asarray(latency_s) <= 8e-3
    assert meets.any()
    assert found.cost <= np.min((bandwidth + 2 * rate + 0.1 * lanes / 32)[meets]) + 1e-9


def test_no_combination_does() -> None:
    solution = solve(
        "llama-3.2-3b",
        "edge-npu",
        "300 tok/s",
        ["clock", "vector.lanes"],
        cost="clock=1,vector.lanes=1",
        context=4096,
        engine="roofline",
    )
    assert not solution.found
    assert next(iter(solution.bound_shares)) == "dram"


@pytest.mark.parametrize(
    ("text", "phase", "expected"),
    [
        ("30 tok/s", None, ("decode", 30.0, True)),
        ("30tok/s", "prefill", ("prefill", 30.0, True)),
        ("3e1 tokens/s", None, ("decode", 30.0, True)),
        ("33 ms", "decode", ("decode", 0.033, False)),
        ("TTFT 200 ms", None, ("prefill", 0.2, False)),
        ("TPOT <= 40 ms", None, ("decode", 0.04, False)),
        ("tokens_per_s > 30 tok/s", "decode", ("decode", 30.0, True)),
        ("latency_s<50 us", "prefill", ("prefill", 50e-6, False)),
    ],
)
def test_targets(text: str, phase: str | None, expected: tuple[str, float, bool]) -> None:
    target = read_target(text, phase)  # type: ignore[arg-type]
    assert (target.phase, target.value, target.is_rate) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "fast"}, ["--target", "cannot read 'fast'"]),
        ({"target": "30"}, ["a bare number", "write a unit"]),
        ({"target": "30 GB/s"}, ["bandwidth"]),
        ({"target": "30 tps"}, ["unknown unit 'tps' in '30 tps'", "known: tok/s, tokens/s of a throughput; s, ms, "]),
        ({"target": "0 ms"}, ["zero"]),
        ({"target": "-3 tok/s"}, ["negative"]),
        ({"target": "33 ms"}, ["--phase", "either phase"]),
        ({"target": "TTFT 33 ms", "phase": "decode"}, ["TTFT belongs to prefill"]),
        ({"target": "TTTF 33 ms"}, ["did you mean 'TTFT'"]),
        ({"target": "TPOT > 33 ms"}, ["wrong way"]),
        ({"target": "__import__('os') 3 ms"}, ["cannot read"]),
        ({"vary": "memory.dram.bandwith"}, ["--vary", "did you mean 'memory.dram.bandwidth'"]),
        ({"vary": ["clock", "vector.lanes"]}, ["--cost", "say what each costs"]),
        ({"vary": ["clock", "vector.lanes"], "cost": "clock=1"}, ["no weight for vector.lanes"]),
        ({"vary": ["clock", "vector.lanes"], "cost": "clock=1,lanes=2"}, ["'lanes' is not varied"]),
        ({"vary": ["clock", "vector.lanes"], "cost": "clock=__import__('os'),vector.lanes=1"}, ["cannot read"]),
        ({"vary": ["clock", "vector.lanes"], "cost": "clock=-1,vector.lanes=1"}, ["positive"]),
        ({"vary": ["clock", "vector.lanes"], "cost": "clock=1 per 3 GB/s,vector.lanes=1"}, ["this is a bandwidth"]),
        ({"vary": ["clock", "overhead.launch"], "cost": "clock=1,overhead.launch=1"}, ["overhead.launch", "smaller is faster"]),
        ({"engine": "cycles"}, ["unknown engine 'cycles'"]),
        ({"context": 10**9}, ["--context", "cannot hold"]),
    ],
)
def test_bad_input_is_told(arguments: dict[str, object], words: list[str]) -> None:
    given = {"model": "llama-3.2-1b", "chip": "edge-npu", "target": "30 tok/s", "vary": "clock", **arguments}
    with pytest.raises(BadInput) as caught:
        solve(**given)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_a_bandwidth_varies_both_rates_and_says_so() -> None:
    chip = with_values(load_chip("edge-npu"), {"memory.dram.bandwidth.write": 2e8})
    found = solve("stories15m", chip, "TTFT 3 ms", "memory.dram.bandwidth", prompt=200, engine="roofline")
    assert "GB/s, read and written each (the chip has 51.2 GB/s and 200 MB/s)" in solution_text(found)
    (border,) = found.borders
    assert border.at is not None
    met = with_values(chip, {"memory.dram.bandwidth": border.at.value})
    assert predict("stories15m", met, phase="prefill", prompt=200, engine="roofline").total_s <= 3e-3
    one = solve("stories15m", chip, "TTFT 3 ms", "memory.dram.bandwidth.write", prompt=200, engine="roofline")
    assert "each" not in solution_text(one)


def test_every_number_of_every_kind_of_chip_can_be_solved_for() -> None:
    for name in ("edge-npu", "a100-sxm4-80gb"):
        for path in numeric_paths(load_chip(name)):
            assert isinstance(solve("stories15m", name, "TTFT 1 ms", path, prompt=32, engine="roofline"), Solution)


def test_a_bracket_proves_nothing_where_latency_is_not_monotone() -> None:
    varied = {"vary": ["matrix.rows"], "target": "TTFT 60 s", "prompt": 16}
    assert solve("stories15m", "edge-npu", engine="tiled", **varied).not_monotone == ("matrix.rows",)  # type: ignore[arg-type]
    assert solve("stories15m", "edge-npu", engine="roofline", **varied).not_monotone == ()  # type: ignore[arg-type]


def test_command_prints_the_answer_with_its_proof_and_refuses_with_exit_code_2() -> None:
    base = [sys.executable, "-c", "from sim.cli import main; main()", "solve", "llama-3.2-3b", "--chip", "edge-npu", "--engine", "roofline"]
    command = [*base, "--phase", "decode", "--context", "4096", "--target", "30 tok/s", "--vary", "memory.dram.bandwidth"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "memory.dram.bandwidth = 103.657 GB/s (the chip has 51.2 GB/s, 2.02x)" in done.stdout
    assert "misses by" in done.stdout
    as_json = json.loads(subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout)
    (proof,) = as_json["proof"]
    assert proof["meets"]["latency_s"] <= 1 / 30 < proof["misses"]["latency_s"]
    refused = subprocess.run([*base, "--target", "30 mph", "--vary", "clock"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def line(path: str, limit_s: float, latency_s: Callable[[float], float], cheaper: Line | None = None) -> tuple[Line, list[float]]:
    """A line over a made-up latency, and what it asks."""
    asked: list[float] = []

    def probe(value: float) -> Probe:
        asked.append(value)
        seconds = latency_s(value)
        return Probe(value, seconds, seconds <= limit_s)

    return Line(path, 64.0, limit_s, probe, cheaper, is_bound=cheaper is not None), asked


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 1000)), min_size=1, max_size=6),
    st.floats(1, 1.5),
    st.floats(0.01, 30),
    st.sampled_from(["memory.dram.bandwidth", "matrix.rows", "memory.dram.latency"]),
    st.booleans(),
)
def test_brackets_of_made_up_latencies(parts: list[tuple[float, float]], above: float, limit_s: float, path: str, in_steps: bool) -> None:
    """Sums of largest ones of a constant and a time in proportion; the border is known by bisection of one's own."""

    def least_s(value: float) -> float:
        times = value if less_is_faster(path) else 1 / value
        return sum(max(still, moving * times) for still, moving in parts)

    def latency_s(value: float) -> float:
        seconds = above * least_s(value)
        return math.ceil(seconds * 8) / 8 if in_steps else seconds

    cheaper, _ = line(path, limit_s, least_s)
    with_bound, asked = line(path, limit_s, latency_s, cheaper)
    at, beyond = with_bound.border()
    assert len(asked) <= 80
    fastest = 64.0 * 2.0 ** (-DOUBLINGS if less_is_faster(path) else DOUBLINGS)
    assert (at is not None) == (latency_s(0.0 if less_is_faster(path) else fastest) <= limit_s)
    if at is None:
        assert beyond is not None
        assert not beyond.meets
    else:
        assert latency_s(at.value) <= limit_s
        if beyond is not None:
            assert latency_s(beyond.value) > limit_s
            gap = abs(at.value - beyond.value)
            assert gap == 1 if is_whole(path) else gap <= 1.0001 * TOLERANCE * max(at.value, beyond.value)
            assert (at.value < beyond.value) == less_is_faster(path)


def test_the_roofline_leaves_little_to_try() -> None:
    """It says where to begin, and of a target that it misses everywhere only the fastest value is left."""
    found = solve("llama-3.2-3b", "edge-npu", "9 tok/s", "memory.dram.bandwidth", context=4096)
    assert found.evaluations <= 6
    missed = solve("llama-3.2-3b", "edge-npu", "30 tok/s", "clock", context=4096)
    assert not missed.found
    assert missed.evaluations == 1
    assert next(iter(missed.bound_shares)) == "dram"


@pytest.mark.parametrize("engine", ["roofline", "tiled"])
def test_it_takes_less_than_a_second(engine: str) -> None:
    begin = time.process_time()
    solve("llama-3.2-3b", "edge-npu", "9 tok/s", "memory.dram.bandwidth", context=4096, engine=engine)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("path", ["memory.dram.bandwidth", "clock", "vector.cycles.exp", "memory.dram.latency"])
def test_a_smooth_number_takes_few_predictions(path: str) -> None:
    """Bisection alone takes some 40."""
    for target in ("TTFT 540 ms", "TTFT 600 ms", "TTFT 1500 ms"):
        assert solve("llama-3.2-1b", "edge-npu", target, path, engine="roofline").evaluations <= 22
