"""`compare` shows the two predictions themselves, and its reasons name what differs between the chips and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from functional.errors import BadInput
from hwmodels import load_chip, with_values
from sim import predict
from sim.cli.compare import compare as run_compare
from sim.cli.predict import predict as run_predict
from sim.engines import ENGINES
from sim.explore.compare import compare


@pytest.mark.parametrize("engine", ENGINES)
def test_every_figure_is_a_prediction(engine: str) -> None:
    for found, phase in zip(compare("stories15m", "edge-npu", "cloud-npu", prompt=64, engine=engine), ("prefill", "decode"), strict=True):
        a, b = (predict("stories15m", chip, phase=phase, prompt=64, engine=engine) for chip in ("edge-npu", "cloud-npu"))  # type: ignore[arg-type]
        assert found.total.latency_s == (a.total_s, b.total_s)
        assert sum(row.latency_s[0] for row in found.rows) == pytest.approx(a.total_s, rel=1e-12)
        assert sum(row.latency_s[1] for row in found.rows) == pytest.approx(b.total_s, rel=1e-12)
        assert sum(row.dram_bytes[0] for row in found.rows) == pytest.approx(a.dram_bytes.sum(), rel=1e-12)
        assert sum(row.count for row in found.rows) == len(a.components)
        assert found.total.bound_by == (next(iter(a.bound_shares)), next(iter(b.bound_shares)))


def test_a_chip_against_itself_has_no_difference() -> None:
    for found in compare("stories15m", "edge-npu", "edge-npu", prompt=64):
        assert found.total.ratio == 1
        assert all(row.reason.startswith("none") or row.reason.startswith("both") for row in (*found.rows, found.total))


def test_twice_the_bandwidth_is_the_reason_where_dram_binds_and_only_there() -> None:
    chip = load_chip("edge-npu")
    wider = with_values(chip, {"memory.dram.bandwidth": 102.4e9})
    (found,) = compare("llama-3.2-1b", chip, wider, phase="decode", engine="roofline")
    rows = {row.name: row for row in found.rows}
    assert rows["lm_head"].ratio == pytest.approx(2)
    assert rows["lm_head"].reason == "dram 51.2 GB/s against 102.4 GB/s"
    assert rows["norm"].ratio == 1
    assert rows["norm"].reason == "none: the same vector binds"


def test_other_formats_are_said_as_more_bytes_and_another_peak() -> None:
    prefill, decode = compare("llama-3.2-1b", "edge-npu", "a100-sxm4-80gb", engine="roofline")
    assert prefill.total.reason == "matrix 2.048 TOP/s int8 against 311.9 TFLOP/s bf16"
    assert "dram 51.2 GB/s against 2.039 TB/s, for" in decode.total.reason


def test_another_bound_is_said_with_both_peaks() -> None:
    chip = load_chip("edge-npu")
    (found,) = compare("llama-3.2-1b", chip, with_values(chip, {"memory.dram.bandwidth": 1e9}), phase="prefill", engine="roofline")
    assert found.total.reason.startswith("matrix 2.048 TOP/s int8 against dram 1 GB/s")
    assert found.total.ratio < 1


def test_a_level_per_core_in_bytes_per_cycle_is_said_as_that_of_the_whole_chip() -> None:
    """256 B/cycle x 1 GHz x 2 cores = 512 GB/s."""
    chip = with_values(load_chip("edge-npu"), {"cores": 2, "memory.dram.bandwidth": 1e15})
    (found,) = compare("llama-3.2-1b", chip, with_values(chip, {"memory.sram.bandwidth": 512}), phase="decode", engine="roofline")
    assert {row.name: row for row in found.rows}["lm_head"].reason == "sram 512 GB/s against 1.024 TB/s"


def test_bad_input_is_that_of_predict() -> None:
    with pytest.raises(BadInput, match="unknown chip 'edge-npx'; did you mean 'edge-npu'"):
        compare("llama-3.2-1b", "edge-npu", "edge-npx")


def test_command() -> None:
    command = [
        sys.executable,
        "-c",
        "from sim.cli import main; main()",
        "compare",
        "edge-npu",
        "cloud-npu",
        "--model",
        "llama-3.2-1b",
        "--engine",
        "roofline",
    ]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table.count("x faster") == 2
    assert "layers.0 ... layers.15" in table
    prefill, decode = json.loads(subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout)
    assert (prefill["phase"], decode["phase"]) == ("prefill", "decode")
    assert prefill["chips"] == ["edge-npu", "cloud-npu"]
    assert all(row["reason"] for row in prefill["components"])


def test_what_predict_warns_about_is_warned_about_here_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("base: edge-npu\nname: small\ntdp: 0.1 W\nmemory: {dram: {capacity: 1 GiB}}\n")
    asked = {"phase": "decode", "engine": "roofline"}
    run_predict("llama-3.2-1b", str(small), **asked)
    alone = capsys.readouterr().err
    run_compare("edge-npu", str(small), "llama-3.2-1b", **asked)
    assert capsys.readouterr().err == alone
    assert "more than its TDP of 0.1 W" in alone
    assert "does not fit" in alone
