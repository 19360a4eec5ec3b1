"""Truth defended: calibrate finds constants that were planted, uses at most 30 rows, and tells the error of all the others."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from functional.errors import BadInput
from hwmodels import chip_names, load_chip, numeric_paths, with_values
from hwmodels.chip import Bandwidth, Chip
from sim import predict
from sim.cli import main
from sim.evidence.calibrate import POINTS, Calibration, calibrate, predicted_s
from sim.evidence.cases import KernelTask, StepTask
from sim.evidence.tidy import is_slow, slow_note
from sim.evidence.validate import predict_task, validate
from sim.mapper import is_soon_within, map_gemm
from sim.mapper.problem import Setting
from sim.mapper.search import Found, search_each
from sim.mapping import Gemm
from tests.chips import chip_of
from workloads.kernels import KERNELS
from workloads.scenario import Phase

CPU = """\
name: small-cpu
aliases: ["Small CPU (R) 7"]
sources: [invented for tests]
standing: assumed
technology: cpu
default_format: fp32
clock: 2 GHz
cores: 1
matrix: {kind: tensor_core, count: 1, tile: {m: 1, n: 16, k: 1}, rates: {fp32: 32}, accumulate: {fp32: fp32}}
vector: {lanes: 16, cycles: {add: 4, mul: 4, exp: 8, rsqrt: 8, convert: 4}}
memory:
  dram: {capacity: 16 GiB, bandwidth: 10 GB/s}
  l2: {capacity: 1 MiB, bandwidth: 64 B/cycle, per: core}
overhead: {launch: 1 us}
"""

PLANTED = {
    "memory.dram.efficiency": 0.8,
    "matrix.efficiency": 0.9,
    "vector.efficiency": 0.5,
    "overhead.launch": 40e-6,
    "overhead.pack": 5e9,
}

GEMMS = [(m, n, k) for m in (1, 2, 16, 64, 200, 512) for n, k in ((256, 512), (1024, 256), (512, 1024))]
MATRICES = [(m, n) for m in (1, 16, 100, 700) for n in (300, 2000)]
VECTOR_OPS = ("rmsnorm", "silu", "add", "mul", "softmax")
HEAD = "hardware,op,M,N,K,dtype,latency_us,notes"


def planted(chip: Chip) -> Chip:
    """The chip with the planted constants."""
    values = PLANTED
    memory = (replace(chip.dram, efficiency=values["memory.dram.efficiency"]), *chip.memory[1:])
    matrix = replace(chip.matrix, efficiency=values["matrix.efficiency"])
    vector = replace(chip.vector, efficiency=values["vector.efficiency"])
    pack = Bandwidth(values["overhead.pack"], values["overhead.pack"], True, False)
    return replace(chip, memory=memory, matrix=matrix, vector=vector, pack=pack, launch_s=values["overhead.launch"])


def shapes() -> list[tuple[str, dict[str, int]]]:
    gemms = [("gemm", {"M": m, "N": n, "K": k}) for m, n, k in GEMMS]
    return [*gemms, *((op, {"M": m, "N": n}) for op in VECTOR_OPS for m, n in MATRICES)]


def measured_on(chip: Chip, which: Sequence[tuple[str, dict[str, int]]], hardware: str = "Small CPU (R) 7") -> str:
    """A table whose times are the tiled engine's on this chip."""
    lines = ["# invented", HEAD]
    for op, dims in which:
        task = KernelTask(op, ("fp32", "fp32", "fp32"), tuple((name, dims[name]) for name in KERNELS[op].dims))
        latency_us = 1e6 * predict_task(task, chip, "tiled")
        lines.append(f"{hardware},{op},{dims['M']},{dims['N']},{dims.get('K', '')},fp32,{latency_us!r},")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("calibrate")
    (where / "cpu.yaml").write_text(CPU)
    (where / "cpu.csv").write_text(measured_on(planted(chip_of(CPU)), shapes()))
    return where


@pytest.fixture(scope="module")
def found(folder: Path) -> Calibration:
    return calibrate(folder / "cpu.yaml", [folder / "cpu.csv"])


def test_planted_constants_are_found_within_a_percent(found: Calibration) -> None:
    assert {each.path: each.value for each in found.constants} == {path: pytest.approx(value, rel=0.01) for path, value in PLANTED.items()}
    assert all(each.seen for each in found.constants)


def test_at_most_thirty_rows_are_used_and_the_rest_tells_the_error(found: Calibration, folder: Path) -> None:
    assert len(found.points) == len(set(found.points)) == POINTS == 30
    assert len(found.used.comparisons) == 30
    rows = len(shapes())
    assert len(found.rest.comparisons) == rows - 30
    places = {each.case.row.where for each in found.rest.comparisons}
    assert not places & set(found.points)
    assert max(abs(each.error) for each in found.rest.comparisons) < 0.01
    assert max(abs(each.error) for each in found.rest_before.comparisons) > 0.5


def test_rows_below_the_machine_s_best_rate_are_predicted_but_not_fitted(folder: Path) -> None:
    """Every third row took twice as long, and its notes say so."""
    lines = (folder / "cpu.csv").read_text().splitlines()
    slowed = []
    for i, line in enumerate(lines[2:]):
        *cells, latency_us, _ = line.split(",")
        slowed.append(",".join([*cells, str(2 * float(latency_us)), f"flushed; {slow_note(0.5)}"]) if i % 3 == 0 else line)
    (folder / "slowed.csv").write_text("\n".join([*lines[:2], *slowed]) + "\n")
    found = calibrate(folder / "cpu.yaml", [folder / "slowed.csv"])
    assert {each.path: each.value for each in found.constants} == {path: pytest.approx(value, rel=0.01) for path, value in PLANTED.items()}
    assert not any(is_slow(each.case.row) for each in found.used.comparisons)
    assert sum(is_slow(each.case.row) for each in found.rest.comparisons) == len(slowed[::3])
    assert found.is_steady
    assert "below its best rate" not in found.to_yaml(folder / "x.yaml")


def test_a_machine_that_was_hardly_ever_at_its_best_is_fitted_as_it_was_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows but five gemms say that the machine was slow, and are what the planted constants give."""
    lines = (folder / "cpu.csv").read_text().splitlines()
    (folder / "slow.csv").write_text("\n".join([*lines[:7], *(f"{line}{slow_note(0.6)}" for line in lines[7:])]) + "\n")
    words = ["calibrate", "--chip", folder / "cpu.yaml", "--data", folder / "slow.csv", "--out", folder / "slow.yaml"]
    monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, words)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    assert "warning: the machine was below its best rate while most rows were measured" in capsys.readouterr().err
    chip = load_chip(folder / "slow.yaml")
    assert chip.provenance["matrix.efficiency"].source.endswith("; the machine was below its best rate")
    assert chip.matrix.efficiency == pytest.approx(PLANTED["matrix.efficiency"], rel=0.01)


@pytest.mark.parametrize("overhead", ["launch: 1 us", "launch: 1 us, pack: 1 GB/s", "pack: 2 GB/s, unpacked_rows: 3, hidden: 9 ns"])
def test_what_a_fit_predicts_is_what_the_engine_says(overhead: str) -> None:
    chip = planted(chip_of(CPU)) if "pack" not in overhead else chip_of(CPU.replace("launch: 1 us", overhead))
    fp32 = ("fp32",) * 3
    tasks = [KernelTask("gemm", fp32, (("M", m), ("N", 256), ("K", 512))) for m in (1, 2, 3, 4, 16, 200)]
    tasks += [KernelTask(op, fp32, (("M", 16), ("N", 300))) for op in VECTOR_OPS]
    phases: tuple[tuple[Phase, int, int], ...] = (("prefill", 16, 0), ("decode", 1, 16))
    steps = [
        StepTask("stories15m", 2, fp32, phase, 1, q_len, context, bare=bare, fused=fused)
        for phase, q_len, context in phases
        for bare, fused in ((False, False), (False, True), (True, False))
    ]
    exact = [predict_task(task, chip, "tiled") for task in (*tasks, *steps)]
    assert [predicted_s(task, chip) for task in (*tasks, *steps)] == pytest.approx(exact, rel=1e-12)


def test_no_mapping_is_chosen_where_packing_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 GB/s packing takes longer than any good mapping; a matrix times a vector is not packed."""
    chip, searched = chip_of(CPU.replace("launch: 1 us", "launch: 1 us, pack: 1 GB/s")), []

    def noted(settings: Sequence[Setting], objective: str) -> list[Found]:
        searched.extend(each.gemm.m for each in settings)
        return search_each(settings, objective)

    monkeypatch.setattr("sim.mapper.search_each", noted)
    for m in (200, 16, 2, 1):
        predicted_s(KernelTask("gemm", ("fp32",) * 3, (("M", m), ("N", 252), ("K", 508))), chip)
    assert searched == [1]


def test_a_time_that_some_mapping_needs_at_most_is_known_soon() -> None:
    chip = chip_of(CPU)
    for m, n, k in ((1, 64, 64), (37, 100, 300), (200, 256, 512)):
        gemm = Gemm(m, n, k, 32, 32, 32, 32, "fp32")
        least_s = map_gemm(gemm, chip).cost.latency_s
        assert is_soon_within(1.01 * least_s, gemm, chip)
        assert not is_soon_within(0.999999 * least_s, gemm, chip)


@pytest.mark.slow
def test_planted_constants_are_found_where_few_rows_are_not_packed(tmp_path: Path) -> None:
    """Three rows in a pass: products of 4 and of 6 rows take two, those of 16 rows and more are packed."""
    text = CPU.replace("overhead: {launch: 1 us}", "overhead: {launch: 1 us, unpacked_rows: 3}")
    few = [("gemm", {"M": m, "N": n, "K": k}) for m in (4, 6) for n, k in ((256, 512), (1024, 256), (512, 1024))]
    (tmp_path / "cpu.yaml").write_text(text)
    (tmp_path / "cpu.csv").write_text(measured_on(planted(chip_of(text)), [*few, *shapes()]))
    found = calibrate(tmp_path / "cpu.yaml", [tmp_path / "cpu.csv"])
    assert {each.path: each.value for each in found.constants} == {path: pytest.approx(value, rel=0.01) for path, value in PLANTED.items()}
    assert max(abs(each.error) for each in found.rest.comparisons) < 0.01


@pytest.mark.slow
def test_fewer_points_leave_more_rows(folder: Path) -> None:
    fewer = calibrate(folder / "cpu.yaml", [folder / "cpu.csv"], points=10)
    assert (len(fewer.used.comparisons), len(fewer.rest.comparisons)) == (10, len(shapes()) - 10)


def test_the_points_cover_all_ops_and_all_sizes(found: Calibration) -> None:
    used = [each.case for each in found.used.comparisons]
    assert {case.op for case in used} == {"gemm", *VECTOR_OPS}
    gemm_rows = sorted(case.measured_s for case in used if case.op == "gemm")
    every = [each.case for each in (*found.used.comparisons, *found.rest.comparisons) if each.case.op == "gemm"]
    assert gemm_rows[0] == min(case.measured_s for case in every)
    assert gemm_rows[-1] == max(case.measured_s for case in every)


def test_the_file_says_what_was_fitted_to_which_data(found: Calibration, folder: Path) -> None:
    out = folder / "fitted" / "my_cpu.yaml"
    out.parent.mkdir(exist_ok=True)
    out.write_text(found.to_yaml(out))
    chip = load_chip(out)
    digest = hashlib.sha256((folder / "cpu.csv").read_bytes()).hexdigest()[:16]
    for path, value in PLANTED.items():
        origin = chip.provenance[path]
        assert origin.standing == "fitted", path
        for part in (found.date, "cpu.csv", digest, "30 points", "median |error|"):
            assert part in origin.source, (path, part)
        assert path in numeric_paths(chip)
        assert with_values(chip, {path: value}) is not None
    assert chip.provenance["memory.dram.bandwidth"].standing == "assumed"
    assert "Small CPU (R) 7" in chip.aliases
    groups = validate([folder / "cpu.csv"], chips=[out]).groups
    assert max(group.to_dict()["p90_abs_pct"] for group in groups) < 1


@pytest.mark.slow
def test_one_disturbed_row_does_not_move_the_fit(folder: Path) -> None:
    lines = (folder / "cpu.csv").read_text().splitlines()
    cells = lines[6].split(",")
    cells[6] = str(10 * float(cells[6]))
    (folder / "disturbed.csv").write_text("\n".join([*lines[:6], ",".join(cells), *lines[7:]]) + "\n")
    disturbed = calibrate(folder / "cpu.yaml", [folder / "disturbed.csv"])
    for each in disturbed.constants:
        assert each.value == pytest.approx(PLANTED[each.path], rel=0.1), each.path


@pytest.mark.slow
def test_a_bad_fit_is_warned_about(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every other row took nine times as long as the one before it: no chip is both. Rows as they are leave nothing to warn of."""
    lines = (folder / "cpu.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[2:]]
    wild = [",".join([*row[:6], str(float(row[6]) * 9 ** (i % 2)), *row[7:]]) for i, row in enumerate(rows)]
    (folder / "wild.csv").write_text("\n".join([*lines[:2], *wild]) + "\n")
    warnings = {}
    for name in ("cpu", "wild"):
        words = ["calibrate", "--chip", folder / "cpu.yaml", "--data", folder / f"{name}.csv", "--out", folder / "fitted.yaml"]
        monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert not leaving.value.code
        warnings[name] = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert warnings["cpu"] == []
    (told,) = warnings["wild"]
    assert re.fullmatch(r"rooftile: warning: the fit leaves a median error of \d+% on its own points: the machine was busy.*", told)


@pytest.mark.slow
def test_what_no_row_depends_on_stays_as_it_was(folder: Path) -> None:
    (folder / "gemms.csv").write_text(measured_on(planted(chip_of(CPU)), [each for each in shapes() if each[0] == "gemm"]))
    only = calibrate(folder / "cpu.yaml", [folder / "gemms.csv"])
    seen = {each.path: each.seen for each in only.constants}
    assert seen == {path: path != "vector.efficiency" for path in PLANTED}
    assert only.chip.vector.efficiency == 1
    assert "vector" not in only.to_yaml(folder / "x.yaml").split("sources")[0]
    assert "vector:" not in only.to_yaml(folder / "x.yaml")


def test_efficiencies_lower_tiled_and_cycle_but_no_bound(folder: Path) -> None:
    whole = chip_of(CPU)
    slow = replace(planted(whole), pack=None, launch_s=whole.launch_s)
    for phase in ("prefill", "decode"):
        asked = {"phase": phase, "prompt": 16, "weights": "fp32", "activations": "fp32", "kv": "fp32"}
        engines = ("roofline", "tiled", "cycle")
        before, after = (
            {engine: predict("stories15m", chip, engine=engine, **asked) for engine in engines}  # type: ignore[arg-type]
            for chip in (whole, slow)
        )
        assert after["roofline"].total_s == before["roofline"].total_s
        assert after["tiled"].floor_s == before["tiled"].floor_s
        assert after["tiled"].total_s > 1.1 * before["tiled"].total_s
        assert after["cycle"].total_s >= after["tiled"].total_s
        for engine in ("tiled", "cycle"):
            lost_s = sum(float(seconds.sum()) for seconds in after[engine].lost_s.values())
            assert after[engine].total_s == pytest.approx(after["roofline"].total_s + lost_s)
            assert float(after[engine].lost_s["sustained"].sum()) > 0
        assert float(before["tiled"].lost_s["sustained"].sum()) == 0


def test_half_the_bandwidth_doubles_what_memory_bounds_and_bytes_stay() -> None:
    """A matrix times a vector of 2 MB from DRAM; efficiency 0.5."""
    chip = replace(chip_of(CPU), launch_s=0.0)
    half = replace(chip, memory=(replace(chip.dram, efficiency=0.5), *chip.memory[1:]))
    task = KernelTask("gemm", ("fp32", "fp32", "fp32"), (("M", 1), ("N", 1024), ("K", 512)))
    assert predict_task(task, half, "tiled") == pytest.approx(2 * predict_task(task, chip, "tiled"), rel=0.01)


@pytest.mark.parametrize(("pack", "weights_s"), [(1e9, 524.288e-6), (1e12, 52.4288e-6)])
def test_weights_are_packed_and_then_multiplied(pack: float, weights_s: float) -> None:
    """256 x 512 x 4 B at 1 GB/s, or at DRAM's 10 GB/s where packing is faster; then 2 x 256 x 512 MACs, 32 a cycle at 2 GHz; launch 1 us"""
    chip = chip_of(CPU)
    packing = replace(chip, pack=Bandwidth(pack, pack, True, False))
    vector, several = (KernelTask("gemm", ("fp32", "fp32", "fp32"), (("M", m), ("N", 256), ("K", 512))) for m in (1, 2))
    for engine in ("tiled", "cycle"):
        assert predict_task(vector, packing, engine) == predict_task(vector, chip, engine)
        assert predict_task(several, packing, engine) >= predict_task(several, packing, "tiled")
    assert predict_task(several, packing, "tiled") == pytest.approx(1e-6 + weights_s + 4.096e-6)


@pytest.mark.parametrize(("rows", "weights_us"), [(3, None), (4, 2 * 52.4288), (33, 11 * 52.4288), (36, 524.288 + 36 * 2.048)])
def test_few_rows_pass_over_weights_that_are_not_packed(rows: int, weights_us: float | None) -> None:
    """Three rows share a pass of 256 x 512 x 4 B at 10 GB/s; packing at 1 GB/s, and then 2.048 us of MACs per row, is less from 34 on."""
    chip = chip_of(CPU)
    packing = replace(chip, pack=Bandwidth(1e9, 1e9, True, False), unpacked_rows=5)
    passing = with_values(packing, {"overhead.unpacked_rows": 3})
    task = KernelTask("gemm", ("fp32", "fp32", "fp32"), (("M", rows), ("N", 256), ("K", 512)))
    expected = predict_task(task, chip, "tiled") if weights_us is None else 1e-6 * (1 + weights_us)
    assert predict_task(task, passing, "tiled") == pytest.approx(expected)
    assert predict_task(task, packing, "tiled") <= predict_task(task, passing, "tiled")
    assert "overhead.unpacked_rows" in numeric_paths(passing)


@pytest.mark.parametrize(
    ("op", "hidden_ns"),
    [
        ("attn_scores", 6 * 16 / 64 + 16 * 4 / 32),  # 64 MACs/ns; the mask is added to all 16 scores; 32 lane cycles/ns
        ("attn_context", 6 * 16 / 64),
        ("softmax_max", 6 * 4 / 32),
        ("softmax_exp", 6 * (4 + 4 + 8) / 32 + 6 * 10),
        ("softmax_normalize", 6 * (4 + 4) / 32 + 0.6 * 4 * 8 / 32),  # a reciprocal for each of four rows
    ],
)
def test_scores_that_a_mask_hides_are_computed_where_software_does(op: str, hidden_ns: float) -> None:
    """Four queries see 10 of 16 scores; a decode step sees all."""
    chip = chip_of(CPU)
    masking = with_values(replace(chip, hidden_s=0.0), {"overhead.hidden": 10e-9})
    for queries, extra_ns in ((4, hidden_ns), (1, 0.0)):
        sizes = {"batch": 1, "heads": 1, "kv_heads": 1, "head_dim": 16, "q_len": queries, "kv_len": 4}
        task = KernelTask(op, ("fp32", "fp32", "fp32"), tuple((name, sizes[name]) for name in KERNELS[op].dims))
        added = [predict_task(task, masking, engine) - predict_task(task, chip, engine) for engine in ("tiled", "cycle")]
        assert added == pytest.approx([extra_ns * 1e-9] * 2, rel=1e-6, abs=1e-15)


def test_no_chip_of_the_library_has_fitted_numbers() -> None:
    for name in chip_names():
        assert not [path for path, origin in load_chip(name).provenance.items() if origin.standing == "fitted"], name


@pytest.mark.parametrize(
    ("data", "points", "told"),
    [
        ("other", 30, "no row was measured on small-cpu; they name 'Another'"),
        ("cpu", 0, "--points: 0 points"),
        ("cpu", 31, "--points: 31 points"),
        ("none", 30, "cannot read"),
        ("steps", 30, "no row of one op can be predicted"),
    ],
)
def test_bad_input_is_one_message(folder: Path, data: str, points: int, told: str) -> None:
    (folder / "other.csv").write_text(f"{HEAD}\nAnother,gemm,1,2,3,fp32,1,\n")
    (folder / "steps.csv").write_text("hardware,model,phase,dtype,tokens_per_s\nsmall-cpu,stories15m,decode,fp32,10\n")
    with pytest.raises(BadInput, match=re.escape(told)):
        calibrate(folder / "cpu.yaml", [folder / f"{data}.csv"], points)


@pytest.mark.slow
def test_the_command_writes_the_file_and_shows_both_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / "both.csv"
    lines = (folder / "cpu.csv").read_text().splitlines()
    head = f"{lines[1]},model,phase,framework,batch,tokens_per_forward,tokens_per_s"
    step = "small-cpu,,,,,fp32,,,stories15m,prefill,rooftile,1,32,2000"
    data.write_text("\n".join([head, *(f"{line},,,,,," for line in lines[2:]), step]) + "\n")
    out = folder / "by_command.yaml"
    words = ["calibrate", "--chip", folder / "cpu.yaml", "--data", data, "--out", out]
    monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, words)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    shown = capsys.readouterr().out
    for part in ("constants fitted to", "memory.dram.efficiency", "0.800", "all other rows", "prefill of 32", "whole steps"):
        assert part in shown, part
    assert load_chip(out).dram.efficiency == pytest.approx(0.8, rel=0.01)
