"""Defends: `rooftile gemm` prints the promised figures, of SCALE-Sim or of a mapped chip, and refuses what contradicts itself."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from functional.errors import BadInput
from hwmodels import load_chip
from sim.array import run_array
from sim.cli import app
from sim.explore.sweep import sweep
from sim.gemm import gemm_on_chip

ONE = ["--m", "1", "--n", "1", "--k", "1"]
ORACLE = Path(__file__).parent / "data" / "scalesim_gemm.csv"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["gemm", *arguments])


def test_scalesim_mode_equals_its_runs() -> None:
    with ORACLE.open() as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for row in rows[1::7]:
        extents = [int(row[name]) for name in ("M", "N", "K", "rows", "cols")]
        if int(row["reported_total_cycles"]) == 0:
            continue
        ran = run_array(*extents, row["dataflow"], "scalesim")  # type: ignore[misc]
        assert ran.cycles == int(row["compute_cycles"])
        assert ran.total_cycles_reported == int(row["reported_total_cycles"])
        assert (ran.folds, ran.a_reads, ran.w_reads) == tuple(int(row[key]) for key in ("folds", "ifmap_sram_reads", "filter_sram_reads"))


def test_physical_os_drains_through_all_rows() -> None:
    """One fold: K + 2R + C - 2."""
    assert run_array(4, 4, 10, 4, 4, "os").cycles == 10 + 2 * 4 + 4 - 2


def test_array_json() -> None:
    row = ["--m", "1", "--n", "8", "--k", "8", "--rows", "4", "--cols", "4", "--dataflow", "os"]
    result = json.loads(run(*row, "--format", "json").stdout)
    assert {"cycles", "folds", "utilization", "sram_reads", "sram_writes", "total_cycles_reported"} <= result.keys()
    assert result["sram_reads"]["w"] == 64


@pytest.mark.parametrize("chip", ["edge-npu", "gemmini-default"])
def test_chip_json(chip: str) -> None:
    result = json.loads(run("--m", "128", "--n", "256", "--k", "512", "--chip", chip, "--format", "json").stdout)
    assert {"tile", "order", "traffic_bytes", "lower_bound_bytes", "latency_s"} <= result.keys()
    assert result["traffic_bytes"]["dram"] >= result["lower_bound_bytes"] >= 128 * 512 + 512 * 256 + 128 * 256
    least_s = 128 * 256 * 512 / float(load_chip(chip).peak_macs_per_s("int8"))
    assert result["latency_s"]["cycle"] >= result["latency_s"]["tiled"] >= result["latency_s"]["roofline"] >= least_s


def test_table_names_what_the_json_names() -> None:
    printed = run("--m", "16", "--n", "16", "--k", "16", "--chip", "edge-npu").stdout
    assert all(name in printed for name in ("lower_bound_bytes", "latency_s.tiled", "traffic_bytes.dram"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--m", "0", "--n", "1", "--k", "1", "--rows", "4", "--cols", "4"], "--m: must be at least 1, found 0"),
        (ONE, "nothing to run on"),
        ([*ONE, "--chip", "edge-npu", "--rows", "0"], "--rows: has no part in this: edge-npu has its own array"),
        (["--m", "0", "--n", "1", "--k", "1", "--chip", "edge-npu"], "--m: must be at least 1, found 0"),
        ([*ONE, "--chip", "edge-npu", "--dataflow", "is"], "--dataflow: has no part in this: edge-npu has its own array"),
        ([*ONE, "--chip", "edge-npu", "--mode", "scalesim"], "--mode: has no part in this: edge-npu has its own array"),
        ([*ONE, "--rows", "4", "--cols", "4", "--dtype", "int8"], "--dtype: has no part in this: an array alone"),
        ([*ONE, "--rows", "4", "--cols", "4", "--weights", "int4"], "--weights: has no part in this: an array alone"),
        ([*ONE, "--chip", "edge-npu", "--dtype", "fp8"], "edge-npu has no rate for fp8"),
        ([*ONE, "--chip", "edge-npu", "--dtype", "int9"], "unknown number format 'int9'; did you mean 'int8'?"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], message: str) -> None:
    refused = run(*arguments)
    assert isinstance(refused.exception, BadInput)
    assert message in str(refused.exception)


def test_no_extent_is_mapped_that_is_not_there() -> None:
    with pytest.raises(BadInput, match="must be at least 1"):
        gemm_on_chip(1, 0, 1, load_chip("edge-npu"))


def test_a_missing_extra_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match="sweeps need pyarrow; pip install 'rooftile\\[explore\\]'"):
        sweep(tmp_path / "none.yaml", tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())
