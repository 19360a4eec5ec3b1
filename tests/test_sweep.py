"""A row of a sweep is `predict` on that chip to the last bit, whatever the chunks, the workers and the interruptions; bad input is told."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functional.errors import BadInput
from hwmodels import chip_names, load_chip, with_values
from hwmodels.chip import Chip
from sim import predict, trace_model
from sim.engines import ENGINES, roofline_arrays
from sim.explore.choices import with_choice
from sim.explore.conditions import Condition, read_condition
from sim.explore.step import Step, errors_of
from sim.explore.sweep import provenance_of, sweep, sweep_table
from sim.explore.sweep_file import load_sweep
from sim.explore.sweep_grid import Grid
from sim.explore.sweep_show import pareto_front, show
from sim.plan import plan

SWEEP = """
base: edge-npu
axes:
  memory.dram.bandwidth: {{from: 25 GB/s, to: 400 GB/s, steps: 5, scale: log}}
  matrix.rows: [16, 32, 200]
  workload.batch: [1, 3]
zip:
  - {{memory.sram.capacity: [64 KiB, 1 MiB, 4 MiB], memory.sram.bandwidth: [64 B/cycle, 128 B/cycle, 256 B/cycle]}}
workloads:
  - {{model: stories15m, phase: decode, context: 100}}
  - {{model: stories15m, phase: prefill, prompt: 64, weights: int8, activations: bf16}}
engine: {engine}
constraints: ["fits", "latency_s < 1 ms"]
objectives: [latency_s, memory.dram.bandwidth]
"""
COMMAND = [sys.executable, "-c", "from sim.cli import main; main()", "sweep"]


def written(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, SWEEP.format(engine="roofline"))


def rows(table: Any) -> Iterator[tuple[dict[str, Any], Chip]]:
    """Each row with the chip that it speaks of, built from its columns alone."""
    for row in table.to_pylist():
        chip = load_chip(row["chip"])
        varied = {name: row[name] for name in row if "." in name or name in ("clock", "cores", "resident_share")}
        for path, value in varied.items():
            chip = with_values(chip, {path: value}) if isinstance(value, float) else with_choice(chip, path, value)
        if "default_format" in row:
            chip = with_choice(chip, "default_format", row["default_format"])
        yield row, chip


def of_row(row: dict[str, Any]) -> dict[str, Any]:
    length = {"prompt": row["q_len"]} if row["phase"] == "prefill" else {"context": row["kv_len"] - 1}
    return {"phase": row["phase"], "batch": row["batch"], **{name: row[name] for name in ("weights", "activations", "kv")}, **length}


def check_rows(table: Any, engine: str) -> int:
    compared = 0
    for row, chip in rows(table):
        reasons = errors_of(chip)
        assert row["valid"] == (not reasons)
        if reasons:
            assert str(reasons[0]) in row["reason"]
            assert row["latency_s"] is row["bound_by"] is row["tokens_per_s"] is None
            continue
        step = predict(row["model"], chip, engine=engine, **of_row(row))
        assert row["latency_s"] == step.total_s
        assert row["tokens_per_s"] == step.tokens_per_s
        assert row["floor_s"] == step.floor_s
        assert (row["energy_j"], row["power_w"], row["area_mm2"]) == (step.energy_j, step.power_w, step.area_mm2)
        assert row["memory_bytes"] == step.memory.needed_bytes
        assert row["fits"] == step.memory.fits
        assert row["bound_by"] == next(iter(step.bound_shares))
        assert row["feasible"] == (step.memory.fits and step.total_s < 1e-3)
        compared += 1
    return compared


def test_every_row_is_predict_on_that_chip(tmp_path: Path) -> None:
    table = sweep_table(written(tmp_path, SWEEP.format(engine="roofline")))
    assert len(table) == 5 * 3 * 2 * 3 * 2
    assert 100 < check_rows(table, "roofline") < len(table)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "roofline"])
def test_every_row_of_a_slower_engine_is_predict_on_that_chip(tmp_path: Path, engine: str) -> None:
    smaller = SWEEP.format(engine=engine).replace("steps: 5", "steps: 2").replace("[16, 32, 200]", "[16, 200]").replace("[1, 3]", "[2]")
    table = sweep_table(written(tmp_path, smaller))
    assert 0 < check_rows(table, engine) < len(table) == 2 * 2 * 1 * 3 * 2


def test_choices_formats_and_several_chips(tmp_path: Path) -> None:
    text = """
    chips: [edge-npu, cloud-npu]
    axes:
      default_format: [int8, bf16]
      matrix.dataflows: [ws, [ws, os]]
      memory.sram.double_buffered: [true, false]
      memory.dram.capacity: [16 MiB, 1 GiB]
    workloads: [{model: stories15m, prompt: 32}]
    constraints: ["fits", "latency_s < 1 ms"]
    engine: roofline
    """
    table = sweep_table(written(tmp_path, text))
    assert len(table) == 2 * 2 * 2 * 2 * 2 * 2
    check_rows(table, "roofline")
    assert len(set(table["weights"].to_pylist())) == 2


def test_an_axis_that_stands_for_two_rates_is_told(tmp_path: Path) -> None:
    """It sets both; of a port that reads and writes share there is nothing to tell."""
    (tmp_path / "two.yaml").write_text("base: edge-npu\nmemory: {dram: {bandwidth: {read: 40 GB/s, write: 20 GB/s}}}\n")
    text = """
chips: [edge-npu, two.yaml]
axes: {memory.dram.bandwidth: [30 GB/s], memory.sram.bandwidth: [256 B/cycle]}
workloads: [{model: stories15m, phase: decode, context: 5}]
engine: roofline
"""
    file = written(tmp_path, text)
    done = subprocess.run([*COMMAND, str(file), "--out", str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True)
    told = "memory.dram.bandwidth is read and written each (two has 40 GB/s and 20 GB/s); "
    assert done.stderr == f"rooftile: warning: {told}memory.dram.bandwidth.read or memory.dram.bandwidth.write varies one of them\n"
    both = written(tmp_path, text.replace("memory.sram.bandwidth: [256 B/cycle]", "memory.dram.bandwidth.read: [40 GB/s]"))
    with pytest.raises(BadInput, match=r"axes.memory.dram.bandwidth.read: is varied twice"):
        load_sweep(both)


def test_one_value_is_one_prediction(tmp_path: Path) -> None:
    text = "base: edge-npu\naxes: {clock: [1.5 GHz]}\nworkloads: [{model: stories15m, phase: decode, context: 7}]\nengine: roofline"
    (row,) = sweep_table(written(tmp_path, text)).to_pylist()
    chip = with_values(load_chip("edge-npu"), {"clock": 1.5e9})
    assert row["latency_s"] == predict("stories15m", chip, phase="decode", context=7, engine="roofline").total_s
    no_axis = "base: edge-npu\nworkloads: [{model: stories15m, phase: decode, context: 7}]\nengine: roofline"
    (row,) = sweep_table(written(tmp_path, no_axis)).to_pylist()
    assert row["latency_s"] == predict("stories15m", "edge-npu", phase="decode", context=7, engine="roofline").total_s


def test_bandwidth_of_a_step_bound_by_dram_by_hand(tmp_path: Path) -> None:
    """Twice the bandwidth, half the time; the clock is so high that nothing else counts."""
    text = "base: edge-npu\naxes: {clock: [1000000 GHz], memory.dram.bandwidth: {from: 10 GB/s, to: 40 GB/s, steps: 3, scale: log}}\n"
    table = sweep_table(written(tmp_path, text + "workloads: [{model: llama-3.2-1b, phase: decode}]\nengine: roofline"))
    assert table["memory.dram.bandwidth"].to_pylist() == pytest.approx([10e9, 20e9, 40e9], rel=1e-12)
    moved = predict("llama-3.2-1b", "edge-npu", phase="decode", engine="roofline").dram_bytes.sum()
    assert table["latency_s"].to_pylist() == pytest.approx([moved / 10e9, moved / 20e9, moved / 40e9], rel=1e-5)
    assert set(table["bound_by"].to_pylist()) == {"dram"}


@pytest.mark.parametrize("chips", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_vectorised_roofline_is_the_scalar_one_on_random_chips(chips: int) -> None:
    rng = np.random.default_rng(5)
    ranges = {
        "clock": (2e8, 3e9),
        "matrix.rates.int8": (0.1, 16),
        "matrix.rates.bf16": (0.1, 16),
        "vector.lanes": (1, 512),
        "vector.cycles.exp": (0.5, 20),
        "memory.dram.bandwidth.read": (1e9, 3e12),
        "memory.dram.bandwidth.write": (1e9, 3e12),
        "memory.sram.bandwidth": (8, 4096),
        "memory.sram.capacity": (2e4, 1e8),
        "resident_share": (0.01, 0.99),
    }
    drawn = {path: np.exp(rng.uniform(np.log(low), np.log(high), chips)) for path, (low, high) in ranges.items()}
    drawn["cores"] = rng.integers(1, 9, chips).astype(float)
    drawn["matrix.rows"] = rng.integers(1, 300, chips).astype(float)
    for phase, weights in (("prefill", "int8"), ("decode", "int4"), ("decode", "int4:g128")):
        graph = trace_model("stories15m", "bf16", phase=phase, prompt=96, weights=weights, batch=2)  # type: ignore[arg-type]
        found = roofline_arrays.bounds(plan(graph, with_values(load_chip("edge-npu"), drawn)))
        step = Step("stories15m", phase, 2, 96, weights=weights, activations="bf16", kv="bf16", engine="roofline")  # type: ignore[arg-type]
        bounds = {name: np.broadcast_to(seconds, chips) for name, seconds in found.bound_s.items()}
        for i in range(chips):
            chip = with_values(load_chip_once(), {path: float(values[i]) for path, values in drawn.items()})
            timing = step.time(chip)
            assert np.broadcast_to(found.latency_s, chips)[i] == timing.latency_s
            for name, seconds in bounds.items():
                assert seconds[i] == pytest.approx(timing.bound_s.get(name, 0.0), rel=1e-9, abs=1e-12 * timing.latency_s)


def load_chip_once(known: list[Chip] = []) -> Chip:  # noqa: B006
    if not known:
        known.append(load_chip("edge-npu"))
    return known[0]


def test_boxes_part_the_points_in_their_order(tmp_path: Path) -> None:
    for steps in ((3, 5), (300, 700), (2, 70_000), (70_000, 2), (100_000,), ()):
        axes = "".join(
            f"  {path}: {{from: {low}, to: {high}, steps: {n}}}\n"
            for (path, low, high), n in zip((("clock", "1 GHz", "2 GHz"), ("resident_share", 0.1, 0.9)), steps, strict=False)
        )
        text = f"base: edge-npu\n{'axes:' if axes else ''}\n{axes}workloads: [{{model: stories15m, prompt: 8}}]\nengine: roofline"
        asked = load_sweep(written(tmp_path, text))
        grid = Grid(asked)
        boxes = [grid.box(number) for number in range(grid.boxes)]
        starts = [box.start for box in boxes]
        assert starts == list(itertools.accumulate([0, *(box.points for box in boxes[:-1])]))
        assert boxes[-1].start + boxes[-1].points == asked.points
        assert max(box.points for box in boxes) <= grid.largest_box


def test_the_order_of_axes_and_the_size_of_chunks_change_nothing(tmp_path: Path, file: Path) -> None:
    sweep(file, tmp_path / "a.parquet")
    lines = SWEEP.format(engine="roofline").splitlines()
    swapped = "\n".join([*lines[:3], lines[5], lines[4], lines[3], *lines[6:]])
    assert swapped != "\n".join(lines)
    sweep(written(tmp_path, swapped, "swapped.yaml"), tmp_path / "b.parquet", chunk_points=7)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert not (tmp_path / "a.parquet.parts").exists()


def test_a_row_group_does_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr("sim.explore.sweep.ROW_GROUP", 64)
    for i, chunk_points in enumerate((1, 50, 10**6)):
        sweep(file, tmp_path / f"{i}.parquet", chunk_points=chunk_points)
    contents = {(tmp_path / f"{i}.parquet").read_bytes() for i in range(3)}
    assert len(contents) == 1
    assert pq.ParquetFile(tmp_path / "0.parquet").num_row_groups == 3


def test_an_impossible_chip_is_a_row_with_its_reason(tmp_path: Path) -> None:
    text = """
    base: edge-npu
    axes:
      matrix.rows: [32, 0, 2048]
      memory.dram.bandwidth: [51.2 GB/s, 100 GB/s]
      matrix.weight_preload: [overlapped]
    workloads: [{model: stories15m, phase: decode, context: 9}, {model: stories15m, phase: decode, context: 9, weights: fp16}]
    engine: ENGINE
    """
    for engine in ENGINES:
        table = sweep_table(written(tmp_path, text.replace("ENGINE", engine))).to_pylist()
        assert len(table) == 12
        told = {(row["matrix.rows"], row["weights"]): row["reason"] for row in table}
        assert told[32.0, "int8"] is None
        assert "matrix.rows: must be greater than 0" in told[0.0, "int8"]
        assert "too small for one pass" in told[2048.0, "int8"]
        assert "no rate for fp16" in told[32.0, "fp16"]
        assert all(row["valid"] == (row["reason"] is None) and not (row["feasible"] and row["reason"]) for row in table)
        assert all((row["latency_s"] is None) == bool(row["reason"]) for row in table)


def test_units_and_provenance_and_readers(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.parquet"
    sweep(file, out)
    columns = pq.read_schema(out)
    assert columns.field("latency_s").metadata == {b"unit": b"s"}
    assert columns.field("memory.dram.bandwidth").metadata == {b"unit": b"B/s"}
    assert columns.field("memory.sram.bandwidth").metadata == {b"unit": b"B/cycle"}
    assert columns.field("memory.sram.capacity").metadata == {b"unit": b"B"}
    assert columns.field("matrix.rows").metadata is None
    found = provenance_of(out)
    assert found["points"] == 180
    assert found["engine"] == "roofline"
    assert len(found["inputs_sha256"]) == 64
    total = sum(value for value in pq.read_table(out)["latency_s"].to_pylist() if value)
    assert pandas.read_parquet(out)["latency_s"].sum() == pytest.approx(total)
    assert polars.read_parquet(out)["latency_s"].sum() == pytest.approx(total)
    assert duckdb.sql(f"select sum(latency_s) from '{out}' where phase in ('prefill', 'decode')").fetchall()[0][0] == pytest.approx(total)


def test_the_digest_follows_every_input(tmp_path: Path) -> None:
    base = SWEEP.format(engine="roofline")
    digests = {load_sweep(written(tmp_path, base)).digest, load_sweep(written(tmp_path, base)).digest}
    assert len(digests) == 1
    for old, new in (
        ("steps: 5", "steps: 6"),
        ("edge-npu", "cloud-npu"),
        ("context: 100", "context: 101"),
        ("< 1 ms", "< 2 ms"),
        ("bf16}", "int8}"),
    ):
        assert old in base
        digests.add(load_sweep(written(tmp_path, base.replace(old, new))).digest)
    assert len(digests) == 6


INTERRUPTED = """
import os, signal, sys
from sim.explore.sweep import sweep
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored of what runs behind it
calls = []
def tell(done, of):
    calls.append(done)
    if len(calls) == 4:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
sweep(sys.argv[1], sys.argv[2], chunk_points=20, progress=tell, resume=True)
"""


@pytest.mark.parametrize("with_signal", ["SIGKILL", "SIGINT"])
def test_resume_after_an_interruption_gives_the_same_bytes(tmp_path: Path, file: Path, with_signal: str) -> None:
    out, whole = tmp_path / "r.parquet", tmp_path / "whole.parquet"
    sweep(file, whole)
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(file), str(out), with_signal], capture_output=True, check=False)
    assert done.returncode != 0
    assert not out.exists()
    parts = sorted(path.name for path in (tmp_path / "r.parquet.parts").glob("chunk-*.arrow"))
    assert len(parts) == 3
    with pytest.raises(BadInput, match="interrupted sweep lies here; say --resume"):
        sweep(file, out)
    found = sweep(file, out, resume=True)
    assert found.evaluated == found.chunks - 3
    assert out.read_bytes() == whole.read_bytes()
    again = sweep(file, out, resume=True)
    assert again.was_complete
    assert again.evaluated == 0


def test_a_torn_write_is_done_again(tmp_path: Path, file: Path) -> None:
    """What a killed process left under another name does not count."""
    out = tmp_path / "r.parquet"
    subprocess.run([sys.executable, "-c", INTERRUPTED, str(file), str(out), "SIGKILL"], capture_output=True, check=False)
    parts = tmp_path / "r.parquet.parts"
    torn = parts / ".chunk-00000003.arrow.1.unfinished"
    torn.write_bytes(b"ARROW1")
    (tmp_path / ".r.parquet.1.unfinished").write_bytes(b"PAR1")
    sweep(file, out, resume=True)
    sweep(file, tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
    assert not list(tmp_path.glob(".*"))


def test_resume_with_nothing_there_begins_afresh_and_overwrite_begins_again(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.parquet"
    assert not sweep(file, out, resume=True).was_complete
    with pytest.raises(BadInput, match="exists already; say --overwrite"):
        sweep(file, out)
    assert not sweep(file, out, overwrite=True).was_complete


def test_resume_refuses_another_sweep_and_another_version(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.parquet"
    sweep(file, out)
    other = written(tmp_path, SWEEP.format(engine="roofline").replace("steps: 5", "steps: 4"), "other.yaml")
    with pytest.raises(BadInput, match="result of another sweep"):
        sweep(other, out, resume=True)
    unfinished = tmp_path / "u.parquet"
    subprocess.run([sys.executable, "-c", INTERRUPTED, str(file), str(unfinished), "SIGKILL"], capture_output=True, check=False)
    with pytest.raises(BadInput, match="result of another sweep"):
        sweep(other, unfinished, resume=True)
    manifest = tmp_path / "u.parquet.parts" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "rooftile": "0.0.1"}))
    with pytest.raises(BadInput, match=r"is of version 0\.0\.1"):
        sweep(file, unfinished, resume=True)


def test_a_full_disk_is_told_and_what_is_done_is_kept(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real, calls = tmp_path / "r.parquet", os.replace, []

    def full(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("sim.explore.sweep.os.replace", full)
    with pytest.raises(BadInput, match=r"No space left on device; 2 of \d+ chunks are kept"):
        sweep(file, out, chunk_points=20)
    assert not list(tmp_path.rglob("*.unfinished"))
    sweep(file, out, resume=True)
    sweep(file, tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


BAD = [
    ("matrix.rows: [16, 32, 200]", "matrix.rws: [16]", ["sweep.yaml:5: axes.matrix.rws", "did you mean 'matrix.rows'?"]),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: []", ["sweep.yaml:5: axes.matrix.rows: the axis is empty"]),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: 16", ["expected a list or a range, found 16"]),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: [16 GB]", ["axes.matrix.rows[0]", "without a unit"]),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: {from: 1, to: 10, steps: 4, scale: log}", ["not whole"]),
    (
        "matrix.rows: [16, 32, 200]",
        "matrix.rows: {from: 1, to: 10, stops: 4}",
        ["axes.matrix.rows.stops: unknown field; did you mean 'steps'?"],
    ),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: {form: 1, to: 10, steps: 4}", ["rows.form: unknown field; did you mean 'from'?"]),
    ("matrix.rows: [16, 32, 200]", "matrix.rows: {from: 1, to: 10, steps: 0}", ["axes.matrix.rows.steps"]),
    ("matrix.rows: [16, 32, 200]", "default_format: [int9]", ["did you mean 'int8'?"]),
    ("matrix.rows: [16, 32, 200]", "memory.dram.bandwidth.read: [1 GB]", ["this is a size; write a bandwidth"]),
    ("matrix.rows: [16, 32, 200]", "memory.sram.capacity: [1 MiB]", ["is varied twice"]),
    ("25 GB/s", "25 GiB", ["axes.memory.dram.bandwidth.from", "this is a size"]),
    ("25 GB/s", "25", ["a bare number"]),
    ("25 GB/s", "25 B/cycle", ["states this bandwidth in B/s"]),
    ("25 GB/s", "0 GB/s", ["cannot begin or end at 0"]),
    ("4 MiB]", "4 MiB, 8 MiB]", ["sweep.yaml:8: zip[0]", "need as many values: memory.sram.capacity has 4, memory.sram.bandwidth has 3"]),
    ("base: edge-npu", "base: edge-npx", ["sweep.yaml:2: base: unknown chip 'edge-npx'; did you mean 'edge-npu'?"]),
    ("base: edge-npu", "base: edge-npu\nchips: [cloud-npu]", ["name one base chip, or several chips"]),
    ("model: stories15m, phase: decode", "model: stories15, phase: decode", ["workloads[0]", "did you mean 'stories15m'?"]),
    ("phase: decode", "phase: decoding", ["workloads[0].phase"]),
    ("context: 100", "context: 1000", ["sweep.yaml:10: workloads[0].context: stories15m cannot hold"]),
    ("weights: int8", "weights: int7", ["unknown number format 'int7'"]),
    ("workload.batch", "workload.bach", ["'bach' is no field of a workload; did you mean 'batch'?"]),
    ("workload.batch: [1, 3]", "workload.batch: [0]", ["expected a whole number above 0"]),
    ("engine: roofline", "engine: roofine", ["sweep.yaml:12: engine: unknown engine 'roofine'"]),
    ('"fits"', '"fit"', ["constraints[0]: 'fit' is no column; did you mean 'fits'?"]),
    ("< 1 ms", "< 1 GB", ["this is a size; write a time"]),
    ("< 1 ms", "< __import__('os')", ["constraints[1]"]),
    ("[latency_s, memory.dram", "[latncy_s, memory.dram", ["objectives[0]", "did you mean 'latency_s'?"]),
    ("constraints:", "constraint:", ["unknown field; did you mean 'constraints'?"]),
]


@pytest.mark.parametrize(("old", "new", "words"), BAD)
def test_bad_input_is_told_with_file_line_path_and_cure(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    text = SWEEP.format(engine="roofline")
    assert old in text
    with pytest.raises(BadInput) as caught:
        sweep(written(tmp_path, text.replace(old, new)), tmp_path / "r.parquet")
    for word in words:
        assert word in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.yaml"]


def test_all_mistakes_of_a_file_at_once(tmp_path: Path) -> None:
    text = (
        SWEEP.format(engine="roofline")
        .replace("matrix.rows", "matrix.rws")
        .replace("< 1 ms", "< 1 GB")
        .replace("engine: roofline", "engine: x")
    )
    with pytest.raises(BadInput) as caught:
        load_sweep(written(tmp_path, text))
    assert [problem.line for problem in caught.value.problems] == [5, 12, 13]


def test_a_grid_that_is_too_large_is_counted_before_any_work(tmp_path: Path) -> None:
    text = SWEEP.format(engine="roofline").replace("steps: 5", "steps: 1000000000")
    with pytest.raises(BadInput, match=r"36,000,000,000 points are more than the 100,000,000 that are allowed; .*--max-points 36000000000"):
        sweep(written(tmp_path, text), tmp_path / "r.parquet")
    with pytest.raises(BadInput, match="180 points are more than the 179"):
        load_sweep(written(tmp_path, SWEEP.format(engine="roofline")), max_points=179)


def test_energy_of_chips_that_have_none(tmp_path: Path) -> None:
    text = "base: l40s\naxes: {clock: [2 GHz]}\nworkloads: [{model: stories15m, phase: decode, context: 8}]\nengine: roofline\n"
    (row,) = sweep_table(written(tmp_path, text)).to_pylist()
    assert [row["energy_j"], row["power_w"], row["area_mm2"]] == [None] * 3
    with pytest.raises(BadInput, match=r"objectives\[0\]: 'energy_j' is not known of the chip 'l40s'; give its file 'process: 7 nm'"):
        sweep_table(written(tmp_path, text + "objectives: [energy_j]\n"))
    with pytest.raises(BadInput, match=r"constraints\[0\]: 'area_mm2' is not known of the chip 'l40s'"):
        sweep_table(written(tmp_path, text + 'constraints: ["area_mm2 < 50"]\n'))


def test_a_condition_may_leave_out_the_unit_that_its_name_says(tmp_path: Path) -> None:
    text = "base: edge-npu\naxes: {matrix.rows: [32, 64]}\nworkloads: [{model: stories15m, phase: decode, context: 8}]\nengine: roofline\n"
    plain = sweep_table(written(tmp_path, text + 'constraints: ["area_mm2 < 9", "power_w < 3"]\n'))
    units = sweep_table(written(tmp_path, text + 'constraints: ["area_mm2 < 9e6 um2", "power_w < 3000 mW"]\n'))
    assert plain["feasible"].to_pylist() == units["feasible"].to_pylist() == [True, False]
    with pytest.raises(BadInput, match="a bare number"):
        sweep_table(written(tmp_path, text + 'constraints: ["memory_bytes < 5"]\n'))


def test_another_format_is_refused_before_any_work(tmp_path: Path, file: Path) -> None:
    with pytest.raises(BadInput, match=r"a sweep writes Parquet; write '.*r\.parquet'"):
        sweep(file, tmp_path / "r.csv")
    assert not list(tmp_path.glob("r.*"))


def test_an_output_in_no_folder_and_a_scheduler_that_is_not_there(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        sweep(file, tmp_path / "nowhere" / "r.parquet")
    monkeypatch.setattr("sim.explore.cluster.CONNECT_S", 1)
    with pytest.raises(BadInput, match=r"--scheduler: no scheduler at tcp://127\.0\.0\.1:9"):
        sweep(file, tmp_path / "r.parquet", scheduler="tcp://127.0.0.1:9")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("latency_s < 100 ms", 0.1, False),
        ("latency_s <= 100 ms", 0.1, True),
        ("latency_s >= 0.1 s", 0.1, True),
        ("latency_s != 1 s", 1.0, False),
    ],
)
def test_conditions_by_hand(text: str, value: float, expected: bool) -> None:
    condition = read_condition(text, {"latency_s": "s"})
    assert isinstance(condition, Condition)
    assert condition.holds(np.array([value, np.nan])).tolist() == [expected, text == "latency_s != 1 s"]


def test_the_front_is_what_no_other_point_beats() -> None:
    """Oracle: every pair compared."""
    rng = np.random.default_rng(3)
    for costs in [rng.integers(0, 6, (60, n)).astype(float) for n in (1, 2, 3) for _ in range(60)] + [rng.random((400, n)) for n in (2, 3)]:
        distinct = {tuple(point) for point in costs.tolist()}
        expected = {
            point
            for point in distinct
            if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in distinct)
        }
        front = pareto_front(costs)
        assert {tuple(costs[i].tolist()) for i in front} == expected
        assert len(front) == len(expected)
    assert len(pareto_front(np.zeros((0, 2)))) == 0


def test_show_finds_the_best_chips_of_each_workload(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.explore.sweep.ROW_GROUP", 32)
    out = tmp_path / "r.parquet"
    sweep(file, out)
    found = show(out, best=3)
    everything = pq.read_table(out).to_pylist()
    assert len(found.workloads) == 4
    for each in found.workloads:
        alike = [row for row in everything if all(row[name] == value for name, value in each.workload.items())]
        feasible = [row for row in alike if row["feasible"]]
        assert (each.points, each.feasible) == (len(alike), len(feasible)) == (45, len(feasible))
        if feasible:
            assert each.best[0]["latency_s"] == min(row["latency_s"] for row in feasible)
        front = {(row["latency_s"], row["memory.dram.bandwidth"]) for row in each.front}
        costs = np.array([[row["latency_s"], row["memory.dram.bandwidth"]] for row in feasible])
        assert front == {tuple(costs[i].tolist()) for i in pareto_front(costs)}
    more = show(out, ["tokens_per_s", "memory.dram.bandwidth", "matrix.rows"])
    assert more.workloads[0].best[0]["tokens_per_s"] == max(row["tokens_per_s"] for row in more.workloads[0].front)


def test_show_tells_bad_input(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.parquet"
    sweep(file, out)
    with pytest.raises(BadInput, match="'latency' is no number of this file; did you mean 'latency_s'"):
        show(out, ["latency"])
    with pytest.raises(BadInput, match="choose two or three"):
        show(out, ["latency_s", "floor_s", "tokens_per_s", "memory_bytes"])
    with pytest.raises(BadInput, match="no such file"):
        show(tmp_path / "none.parquet")
    with pytest.raises(BadInput, match="no Parquet file"):
        show(file)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="no result of a sweep"):
        show(tmp_path / "x.parquet")


def test_commands(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.parquet"
    run = [*COMMAND, str(file), "--out", str(out)]
    assert "180 points" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    refused = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--overwrite" in refused.stderr
    again = subprocess.run([*run, "--resume"], capture_output=True, text=True, check=True)
    assert "complete already" in again.stdout
    assert "Pareto front over" in subprocess.run([*COMMAND, "show", str(out)], capture_output=True, text=True, check=True).stdout
    found = json.loads(subprocess.run([*COMMAND, "show", str(out), "--format", "json"], capture_output=True, text=True, check=True).stdout)
    assert found["objectives"] == ["latency_s", "memory.dram.bandwidth"]


@pytest.mark.parametrize("name", chip_names())
def test_every_chip_of_the_library_can_be_swept(tmp_path: Path, name: str) -> None:
    chip = load_chip(name)
    per_cycle = chip.dram.bandwidth.per_cycle
    values = "[64 B/cycle, 128 B/cycle]" if per_cycle else "[50 GB/s, 500 GB/s]"
    text = f"base: {name}\naxes: {{memory.dram.bandwidth: {values}}}\nworkloads: [{{model: stories15m, prompt: 16}}]\nengine: roofline"
    assert sweep_table(written(tmp_path, text))["latency_s"].null_count == 0


@pytest.mark.slow
def test_workers_give_the_same_bytes_even_if_one_is_killed(tmp_path: Path, file: Path) -> None:
    sweep(file, tmp_path / "one.parquet")
    killed: list[int] = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:

        def tell(done: int, of: int) -> None:
            if done and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        sweep(file, tmp_path / "two.parquet", scheduler=cluster.scheduler_address, chunk_points=5, progress=tell)
    assert killed
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.mark.slow
def test_local_workers_give_the_same_bytes(tmp_path: Path, file: Path) -> None:
    sweep(file, tmp_path / "one.parquet")
    done = subprocess.run(
        [*COMMAND, str(file), "--out", str(tmp_path / "two.parquet"), "--workers", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
