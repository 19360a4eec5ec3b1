"""Sensitivities are the slopes and ratios of predictions: what binds answers in full, what does not bind not at all."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
from rich.table import Table

from functional.errors import BadInput
from hwmodels import chip_names, load_chip, with_values
from hwmodels.chip import Chip
from hwmodels.paths import value_of
from sim import predict
from sim.engines import ENGINES
from sim.explore.sensitivity import Sensitivity, Side, independent_paths, sensitivity, sensitivity_of
from sim.explore.step import Step, Timing
from sim.present.explore_tables import sensitivity_tables

ONLY_DRAM = with_values(load_chip("edge-npu"), {"clock": 1e18})


def by_path(rows: tuple[Sensitivity, ...]) -> dict[str, Sensitivity]:
    return {row.path: row for row in rows}


def test_a_step_bound_by_dram_alone_answers_its_bandwidth_and_nothing_else() -> None:
    rows = sensitivity("llama-3.2-1b", ONLY_DRAM, phase="decode", context=512, engine="roofline")
    first = rows[0]
    assert first.path == "memory.dram.bandwidth"
    assert first.elasticity == pytest.approx(-1, abs=1e-6)
    assert first.doubled == pytest.approx(-0.5, abs=1e-9)
    assert first.halved == pytest.approx(1.0, abs=1e-9)
    for row in rows[1:]:
        assert abs(row.elasticity or 0) < 1e-6, row.path
        assert abs(row.doubled or 0) < 1e-6, row.path


@pytest.mark.parametrize("name", chip_names())
def test_doing_everything_faster_by_one_percent_saves_one_percent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Euler: latency is homogeneous of degree -1 in all rates of time and +1 in all fixed times; of slopes, so the steps are small."""
    monkeypatch.setattr("sim.explore.sensitivity.STEP", 1e-3)
    chip = load_chip(name)
    rows = by_path(sensitivity("stories15m", chip, phase="prefill", prompt=128, engine="roofline"))
    rates = [path for path in independent_paths(chip) if path == "clock" or ("bandwidth" in path and "B/s" in rows[path].unit)]
    assert sum(rows[path].elasticity or 0 for path in rates) == pytest.approx(-1, abs=2e-3)


@pytest.mark.parametrize("engine", [pytest.param(name, marks=[] if name == "roofline" else pytest.mark.slow) for name in ENGINES])
def test_doubled_and_halved_are_predictions_of_their_own(engine: str) -> None:
    chip = load_chip("edge-npu")

    def latency_s(each: Chip) -> float:
        return predict("stories15m", each, phase="prefill", prompt=64, engine=engine).total_s

    rows = by_path(sensitivity("stories15m", chip, phase="prefill", prompt=64, engine=engine))
    assert set(rows) == set(independent_paths(chip))
    for path in ("clock", "matrix.rows", "vector.lanes", "memory.dram.bandwidth", "memory.sram.capacity", "vector.cycles.exp"):
        own = float(value_of(chip, path))
        assert rows[path].doubled == latency_s(with_values(chip, {path: 2 * own})) / latency_s(chip) - 1
        assert rows[path].halved == latency_s(with_values(chip, {path: own / 2})) / latency_s(chip) - 1


@dataclass(frozen=True)
class OneStep(Step):
    """A step that takes 1 s, and 3 % less as soon as the bandwidth is a little above that of edge-npu."""

    def time(self, chip: Chip) -> Timing:
        return Timing(0.97 if float(value_of(chip, "memory.dram.bandwidth")) > 51.25e9 else 1.0, {}, lambda: None)


def test_a_jump_is_told_and_not_taken_for_a_slope() -> None:
    """Half a percent of a step would make of 3 % an elasticity of -15."""
    row = by_path(sensitivity_of(OneStep("stories15m", "decode", engine="roofline"), load_chip("edge-npu")))["memory.dram.bandwidth"]
    assert row.elasticity == pytest.approx(math.log(0.97) / math.log(1.1**2))
    assert row.bends
    assert row.below == Side(pytest.approx(51.2e9 / 1.1), 0)
    assert row.above == Side(pytest.approx(51.2e9 * 1.1), pytest.approx(math.log(0.97) / math.log(1.1)))
    table, notes = sensitivity_tables([row])
    assert isinstance(table, Table)
    assert "+0.00, -0.32" in list(table.columns[3].cells)
    assert "between 10% less and 10% more" in str(notes)
    assert "a step or a bend here" in str(notes)


def test_a_slope_is_that_of_predictions_a_tenth_away() -> None:
    """At the ridge one side answers in full and the other not at all; a whole number moves by a tenth, but at least by 1."""
    chip = load_chip("edge-npu")

    def latency_s(path: str, value: float) -> float:
        return predict("stories15m", with_values(chip, {path: value}), phase="prefill", prompt=64, engine="roofline").total_s

    rows = by_path(sensitivity("stories15m", chip, phase="prefill", prompt=64, engine="roofline"))
    for path, low, own, high in (("clock", 1e9 / 1.1, 1e9, 1.1e9), ("matrix.rows", 29, 32, 35), ("matrix.cols", 29, 32, 35)):
        low_s, own_s, high_s = (latency_s(path, value) for value in (low, own, high))
        row = rows[path]
        assert row.below == Side(pytest.approx(low), pytest.approx(math.log(own_s / low_s) / math.log(own / low), rel=1e-9))
        assert row.above == Side(pytest.approx(high), pytest.approx(math.log(high_s / own_s) / math.log(high / own), rel=1e-9))
        assert row.elasticity == pytest.approx(math.log(high_s / low_s) / math.log(high / low), rel=1e-9)
    one = rows["matrix.count"]
    assert (one.below, one.above and one.above.value) == (None, 2)
    assert one.elasticity == one.above.elasticity if one.above else False


def test_a_launch_answers_for_its_share() -> None:
    """A number that only costs time has a positive elasticity, and one that is 0 has none."""
    rows = by_path(sensitivity("stories15m", "edge-npu", phase="decode", context=64, engine="roofline"))
    assert rows["overhead.launch"].elasticity == 0
    slower = by_path(sensitivity("stories15m", "edge-npu", phase="prefill", prompt=256, engine="roofline"))["vector.cycles.exp"]
    assert slower.elasticity is not None
    assert slower.elasticity > 0
    assert slower.doubled is not None
    assert slower.doubled > 0


def test_a_chip_that_cannot_be_doubled_says_why() -> None:
    """Twice the rows would not be fed from this SRAM."""
    chip = with_values(load_chip("edge-npu"), {"memory.sram.capacity": 24 * 1024})
    row = by_path(sensitivity("stories15m", chip, phase="prefill", prompt=64, engine="roofline"))["matrix.rows"]
    assert row.doubled is None
    assert row.halved is not None
    assert "too small for one pass" in row.reason


def test_of_a_shared_port_the_bandwidth_of_two_ports_each_direction() -> None:
    paths = independent_paths(load_chip("edge-npu"))
    assert "memory.dram.bandwidth" in paths
    assert "memory.dram.bandwidth.read" not in paths
    two_ports = with_values(load_chip("edge-npu"), {"memory.dram.bandwidth.write": 1e10})
    paths = independent_paths(two_ports)
    assert "memory.dram.bandwidth" not in paths
    assert {"memory.dram.bandwidth.read", "memory.dram.bandwidth.write"} <= set(paths)


def test_predict_shows_them_and_json_carries_them() -> None:
    command = [sys.executable, "-c", "from sim.cli import main; main()", "predict", "llama-3.2-1b", "--chip", "edge-npu"]
    command += ["--engine", "roofline", "--sensitivity"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table.count("latency answers to") == 2
    assert "over-built here" in table
    assert "between 10% less and 10% more" in table
    prefill, decode = json.loads(subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout)
    assert decode["sensitivity"][0]["path"] == "memory.dram.bandwidth"
    assert decode["sensitivity"][0]["gain_from_doubling"] == pytest.approx(0.5, abs=0.01)
    assert all(math.isfinite(row["elasticity"]) for row in prefill["sensitivity"])
    clock = next(row for row in prefill["sensitivity"] if row["path"] == "clock")
    assert [clock[f"elasticity_{side}"]["value"] for side in ("below", "above")] == pytest.approx([1e9 / 1.1, 1.1e9])
    refused = subprocess.run([*command, "--format", "csv"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--sensitivity" in refused.stderr


def test_without_the_flag_there_is_no_such_key() -> None:
    assert "sensitivity" not in predict("stories15m", "edge-npu", prompt=64).to_dict()


def test_bad_input_is_that_of_predict() -> None:
    with pytest.raises(BadInput, match="unknown chip"):
        sensitivity("stories15m", "edge-npx")
