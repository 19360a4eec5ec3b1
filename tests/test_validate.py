"""Truth defended: validate predicts every row that it can, names every other one, and its statistics are what a hand computes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from functional.errors import BadInput
from hwmodels import load_chip
from hwmodels.technology import technology_of
from sim import predict_graph, validate
from sim.cli import main
from sim.evidence.cases import StepTask, cases
from sim.evidence.hardware import Hardware
from sim.evidence.published import published_tables
from sim.evidence.tidy import Row, read_tidy
from sim.present.evidence_html import validation_html
from tests.browser import WHY_NOT, browser_path, complaints, misplaced, opened, requests
from workloads.kernels import KERNELS, kernel_graph
from workloads.scenario import Formats

MEASURED = Path(os.environ.get("ROOFTILE_MEASURED", Path(__file__).parents[2] / "shared" / "measured"))

BOARD = """\
name: round-board
aliases: [Round Board 9000]
sources: [invented for tests]
standing: assumed
default_format: bf16
clock: 1 GHz
cores: 1
tdp: 300 W
matrix:
  kind: systolic
  count: 1
  rows: 10
  cols: 10
  dataflows: [ws]
  rates: {bf16: 1, int8: 2}
  accumulate: {bf16: fp32, int8: int32}
vector: {lanes: 10, cycles: {add: 1, mul: 1, exp: 4, rsqrt: 4, convert: 1}}
memory:
  dram: {capacity: 10 GB, bandwidth: 100 GB/s}
  sram: {capacity: 200 kB, bandwidth: 1000 GB/s}
"""
"""1e11 MAC/s in bf16, 1e11 B/s of DRAM, 1e12 B/s of SRAM."""

HEAD = "source,hardware,op,model,phase,M,N,K,batch,q_len,kv_len,heads,kv_heads,head_dim,dtype,latency_us,notes"

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.yaml"
    path.write_text(BOARD)
    return path


@pytest.fixture
def rooftile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def gemm(latency_us: float, side: int = 1000, hardware: str = "round-board", notes: str = "", dtype: str = "bf16") -> str:
    """A cube: side^3 MACs, 10 ms on the board with side 1000 and 10 ns with side 10."""
    return f"me,{hardware},gemm,,,{side},{side},{side},,,,,,,{dtype},{latency_us},{notes}"


def table(path: Path, *rows: str, head: str = HEAD) -> Path:
    path.write_text("\n".join(["# origin: invented", head, *rows]) + "\n")
    return path


def test_statistics_by_hand(board: Path, tmp_path: Path) -> None:
    """10 ms against 8, 12.5, 20 and 10 ms: errors +25, -20, -50 and 0 %."""
    data = table(tmp_path / "a.csv", *(gemm(us) for us in (8000, 12500, 20000, 10000)))
    (group,) = validate([data], engines=["roofline"], chips=[board]).groups
    assert group.to_dict() == {
        "hardware": "round-board",
        "op": "gemm",
        "regime": "large",
        "n": 4,
        "median_abs_pct": pytest.approx(22.5),
        "p90_abs_pct": pytest.approx(25 + 0.7 * 25),  # between the third and the last of 0, 20, 25, 50
        "median_signed_pct": pytest.approx(-10),
        "engine": "roofline",
        "chip": "round-board",
    }


def test_regimes_follow_the_roofline_and_the_notes(board: Path, tmp_path: Path) -> None:
    rows = [
        gemm(9000),
        gemm(1, side=10),
        gemm(9000, notes="a; wt_copies_fit_L2"),
        gemm(1, side=10, notes="kv_fits_L2"),
        gemm(30, side=126),  # 20.004 us
        gemm(30, side=125),  # 19.5 us
    ]
    found = validate([table(tmp_path / "a.csv", *rows)], engines=["roofline"], chips=[board])
    assert [each.regime for each in found.comparisons] == ["large", "small", "l2", "l2", "large", "small"]
    warm = found.comparisons[3]
    assert warm.predicted_s == pytest.approx(1e-8)  # 600 B from SRAM take less than 1000 MACs, as from DRAM
    assert found.comparisons[1].predicted_s == pytest.approx(1e-8)


def test_warm_rows_are_served_from_the_chip(board: Path, tmp_path: Path) -> None:
    """100 kB of weights and 1 kB each of input and output: 1.02 us from DRAM, a tenth of that from SRAM, where the 50,000 MACs decide."""
    row = "me,round-board,gemm,,,1,100,500,,,,,,,bf16,1,"
    cold, warm = validate([table(tmp_path / "a.csv", row, row + "wt_copies_fit_L2")], engines=["roofline"], chips=[board]).comparisons
    assert cold.predicted_s == pytest.approx(2 * (100 * 500 + 500 + 100) / 1e11)
    assert warm.predicted_s == pytest.approx(50_000 / 1e11)


def test_a_kernel_after_another_finds_in_the_l2_what_that_wrote(tmp_path: Path) -> None:
    """2 x 4 MB of an addition on an A100 lie in 40 MiB of L2, those of 160 MB do not; the regime is that of DRAM: 12 MB at 2039 GB/s take
    5.9 us, 48 MB 23.5. A GEMM finds nothing, nor does any kernel on a chip whose L2 is not calibrated."""
    add = "me,{0},add,,,{1},2000,,,,,,,,bf16,9,"
    rows = [add.format("A100-SXM4-80GB", m) for m in (1000, 4000, 40000)] + ["me,A100-SXM4-80GB,gemm,,,1000,2000,50,,,,,,,bf16,9,"]
    found = validate([table(tmp_path / "a.csv", *rows, add.format("V100-PCIE-32GB", 1000))], engines=["roofline"]).comparisons
    cold_s = [3 * 4e6 / 2039e9, 3 * 16e6 / 2039e9, 3 * 160e6 / 2039e9, 2 * (1000 * 50 + 2000 * 50 + 1000 * 2000) / 2039e9, 3 * 4e6 / 900e9]
    assert [each.regime for each in found] == ["small", "large", "large", "small", "small"]
    assert [each.predicted_s >= 0.999 * cold for each, cold in zip(found, cold_s, strict=True)] == [False, False, True, True, True]
    assert found[1].predicted_s >= (48e6 - 40 * 2**20) / 2039e9


FLOOR_BOARDS = ["a100-sxm4-80gb", "h100-sxm5-80gb", "a40", "l40s", "rtx-3060-12gb", "rtx-4090", "rtx-5090", "t4", "v100-pcie-32gb"]


@pytest.mark.parametrize("engine", ["roofline", "tiled", "cycle"])
@pytest.mark.parametrize("name", [*FLOOR_BOARDS, "edge-npu", "tpu-v4i"])
def test_rows_served_from_the_l2_are_no_faster_than_it(name: str, engine: str, tmp_path: Path) -> None:
    """Their own physical floor: weights, or keys and values of 4 heads of 128, that take 0.9 of the outermost memory on the chip, at its
    peak bandwidth: where that is an L2 of tens of MB, longer than a launch."""
    chip = load_chip(name)
    rate, dtype = float(chip.read_bytes_per_s(chip.memory[1])), "bf16" if "bf16" in chip.formats else "fp16"
    extent = int(0.9 * float(chip.memory[1].capacity_bytes) / (1024 * 2))
    rows = [
        f"me,{name},gemm,,,1,{extent},1024,,,,,,,{dtype},1,wt_copies_fit_L2",
        f"me,{name},attn_decode,,,,,,1,1,{extent},8,4,128,{dtype},1,kv_fits_L2",
    ]
    found = validate([table(tmp_path / "a.csv", *rows)], engines=[engine]).comparisons
    ops = {"gemm", "attn_decode"}
    if engine != "roofline" and technology_of(chip) is None:  # a mapping brings weights from DRAM
        ops.remove("gemm")
    assert {each.case.op: each.regime for each in found} == dict.fromkeys(ops, "l2")
    for each in found:
        warm_bytes = extent * 1024 * 2 if each.case.op == "gemm" else (extent - 1) * 2 * 4 * 128 * 2
        assert each.predicted_s >= (1 - 1e-9) * warm_bytes / rate, each


def test_names_of_hardware_are_matched_as_laboratories_write_them(board: Path) -> None:
    hardware = Hardware([board])
    for name in ("round-board", "Round_Board", "NVIDIA round board", "nvidia Round-Board 9000", "ROUNDBOARD9000"):
        found = hardware.find(name)
        assert found is not None, name
        assert found.name == "round-board", name
    assert hardware.find("A100 SXM4 80GB") == load_chip("a100-sxm4-80gb")
    assert hardware.find("round-board-2") is None
    limited = hardware.find("Round-Board (250 W power limit)")
    assert limited is not None
    assert limited.tdp_w == 250


def test_rows_that_cannot_be_predicted_are_named_and_counted(rooftile: Run, board: Path, tmp_path: Path) -> None:
    data = table(
        tmp_path / "a.csv",
        gemm(9000),
        gemm(9000, hardware="Nobody 1"),
        gemm(9000, hardware="Nobody 1"),
        gemm(9000).replace(",gemm,", ",gelu,"),
        gemm(9000, dtype="Q4_K_M"),
        gemm(9000, dtype="fp32"),
    )
    arguments = ["validate", "--data", data, "--chip", board, "--engine", "roofline"]
    code, out, err = rooftile(*arguments, "--format", "json")
    assert code == 0
    assert [each["n"] for each in json.loads(out)] == [1]
    reasons = ("unknown op 'gelu'", "unknown number format 'Q4_K_M'", "round-board has no rate for fp32")
    for told in ("2 rows: unknown hardware 'Nobody 1'", *(f"1 row: {reason}" for reason in reasons)):
        assert told in err, told
    assert f"{data}:4" in err
    code, out, err = rooftile(*arguments)
    assert (code, err) == (0, "")
    assert "6 rows of a.csv, 1 predicted" in out
    assert "2 rows: unknown hardware 'Nobody 1'" in out


def test_json_of_the_command_has_exactly_the_promised_keys(rooftile: Run, board: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", gemm(9000))
    code, out, err = rooftile("validate", data, "--chip", board, "--format", "json", "--engine", "roofline", "--engine", "tiled")
    assert (code, err) == (0, "")
    groups = json.loads(out)
    assert [each["engine"] for each in groups] == ["roofline", "tiled"]
    promised = {"hardware", "op", "regime", "n", "median_abs_pct", "p90_abs_pct", "median_signed_pct"}
    assert all(set(each) == promised | {"engine", "chip"} for each in groups)


@pytest.mark.parametrize(
    ("rows", "head", "told"),
    [
        (["me,8"], "source,latency_us", "a.csv:2: no column 'hardware'"),
        (["me,a"], "source,hardware", "a.csv:2: no column of measurements"),
        (["a,8"], "hardware,latency_us", "a.csv:2: no column 'op'"),
        (["a;gemm;8"], "hardware;op;latency_us", "a.csv:2: one column, with ';' in its name; separate the columns by commas"),
        ([], HEAD, "a.csv:2: no row under the header"),
        (["a,b,8"], "hardware,hardware,tokens_per_s", "two columns are called 'hardware'"),
        ([gemm(9000) + ",1"], HEAD, "a.csv:3: 18 cells under 17 columns"),
        ([gemm(9000), gemm(9000).replace("9000", "fast")], HEAD, "a.csv:4: latency_us: expected a number, found 'fast'"),
        ([gemm(-1)], HEAD, "a.csv:3: latency_us: must be greater than 0"),
        ([gemm(0)], HEAD, "a.csv:3: latency_us: must be greater than 0"),
        ([gemm(float("nan"))], HEAD, "a.csv:3: latency_us: expected a number, found 'nan'"),
        ([gemm(1, side=0)], HEAD, "a.csv:3: M: expected a whole number of at least 1, found '0'"),
        ([gemm(1).replace("1000", "10.5", 1)], HEAD, "a.csv:3: M: expected a whole number"),
        ([gemm(1).replace("1000", "", 1)], HEAD, "a.csv:3: M: the cell is empty"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_clear_message(
    rooftile: Run, board: Path, tmp_path: Path, rows: list[str], head: str, told: str
) -> None:
    data = table(tmp_path / "a.csv", *rows, head=head)
    code, out, err = rooftile("validate", "--data", data, "--chip", board, "--engine", "roofline")
    assert code == 2
    assert out == ""
    assert told in err
    assert "Traceback" not in err


def test_files_and_engines_that_are_not_there(rooftile: Run, tmp_path: Path) -> None:
    assert "cannot read" in rooftile("validate", "--data", tmp_path / "none.csv")[2]
    (tmp_path / "empty.csv").write_text("# nothing\n")
    assert "no header" in rooftile("validate", "--data", tmp_path / "empty.csv")[2]
    assert "unknown engine 'tilde'" in rooftile("validate", "--engine", "tilde")[2]
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in rooftile("validate", "--data", tmp_path / "bytes.csv")[2]


def test_a_table_given_twice_is_not_counted_twice(rooftile: Run, board: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", gemm(9000))
    for command in (["validate", data, "--data", data], ["calibrate", "--data", data, "--data", data, "--out", tmp_path / "x.yaml"]):
        code, _, err = rooftile(*command, "--chip", board)
        assert (code, "a.csv: is given twice" in err) == (2, True), err
    assert not (tmp_path / "x.yaml").exists()


def test_lines_are_counted_past_comments_and_quoted_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('# one\nhardware,op,latency_us\n\n"a, b",gemm,1\n# between\nc,"two\nlines",2\nd,gemm,3\n')
    assert [(row.line, row.text("hardware")) for row in read_tidy(path)] == [(4, "a, b"), (6, "c"), (8, "d")]


def case_of(chip: str = "a100-sxm4-80gb", **cells: str) -> list[object]:
    return list(cases(Row("x.csv", 1, cells), load_chip(chip)))


def test_a_composed_layer_is_its_five_kernels_and_the_head_one_more() -> None:
    cells = {"model": "Llama-3.2-3B", "phase": "decode", "batch": "4", "q_len": "1", "kv_len": "1000", "layer_sum_us": "80"}
    layer, head = cases(Row("x.csv", 1, {**cells, "lm_head_est_us": "500", "notes": "kv_fits_L2"}), load_chip("a100-sxm4-80gb"))
    assert (layer.op, layer.measured_s, layer.is_l2) == ("layer", pytest.approx(80e-6), True)
    assert (head.op, head.measured_s, head.is_l2) == ("lm_head", pytest.approx(500e-6), False)
    shapes = [dict(task.dims) for task in layer.tasks]  # type: ignore[union-attr]
    assert shapes[0] == {"M": 4, "N": (24 + 16) * 128, "K": 3072}
    assert shapes[1] == {"batch": 4, "heads": 24, "kv_heads": 8, "head_dim": 128, "q_len": 1, "kv_len": 1000}
    assert shapes[2:] == [{"M": 4, "N": 3072, "K": 3072}, {"M": 4, "N": 2 * 8192, "K": 3072}, {"M": 4, "N": 3072, "K": 8192}]
    assert [task.warm for task in layer.tasks] == [False, True, False, False, False]  # type: ignore[union-attr]
    assert dict(head.tasks[0].dims) == {"M": 4, "N": 128256, "K": 3072}  # type: ignore[union-attr]


def test_formats_as_laboratories_write_them() -> None:
    cells = {"op": "gemm", "M": "1", "N": "8", "K": "8", "latency_us": "1"}
    wanted = {
        "bf16": ("bf16", "bf16", "bf16"),
        "int8-weight": ("int8", "bf16", "bf16"),
        "int4-weight-g32": ("int4:g32", "bf16", "bf16"),
        "fp8/fp16": ("fp16", "fp16", "fp16"),  # an A100 multiplies no fp8
    }
    for text, formats in wanted.items():
        assert case_of(**cells, dtype=text)[0].tasks[0].formats == formats  # type: ignore[attr-defined]
    assert case_of(**cells, dtype="fp16", kv_dtype="int8")[0].tasks[0].formats == ("fp16", "fp16", "int8")  # type: ignore[attr-defined]


def test_weights_of_a_kernel_lie_in_memory_as_those_of_a_model_do() -> None:
    """int8 weights of 8 x 5: 40 B, and an fp32 scale for each of 8 rows; 3 x 5 and 3 x 8 activations in bf16."""
    graph = kernel_graph("gemm", Formats("int8", "bf16", "bf16"), {"M": 3, "N": 8, "K": 5})
    assert predict_graph(graph, "a100-sxm4-80gb", "roofline").dram_bytes.sum() == 40 + 4 * 8 + 2 * (15 + 24)


def test_whole_models_are_one_forward_pass() -> None:
    cells = {"model": "Llama-3-8B", "dtype": "fp16", "framework": "llama.cpp", "batch": "1", "tokens_per_s": "100"}
    decode = case_of(**cells, phase="decode", tokens_per_forward="1", avg_kv_len="100")[0]
    batches = case_of(**cells, phase="ubatch", tokens_per_forward="8", avg_kv_len="260")[0]
    step = decode.tasks[0]  # type: ignore[attr-defined]
    assert (step.model, step.layers, step.phase, step.q_len, step.context, step.bare) == ("llama-3.1-8b", 32, "decode", 1, 99, False)
    assert decode.measured_s == pytest.approx(0.01)  # type: ignore[attr-defined]
    step = batches.tasks[0]  # type: ignore[attr-defined]
    assert isinstance(step, StepTask)
    assert (step.phase, step.q_len, step.context, step.bare) == ("prefill", 8, 252, True)
    assert batches.measured_s == pytest.approx(0.08)  # type: ignore[attr-defined]


def test_layers_without_the_head_are_the_step_without_it(tmp_path: Path) -> None:
    head = "hardware,model,dtype,phase,framework,batch,tokens_per_forward,tokens_per_s"
    rows = [f"A100-SXM4-80GB,Llama-2-7B,fp16,prefill,{name},1,64,1000" for name in ("llama.cpp", "other")]
    bare, whole = validate([table(tmp_path / "a.csv", *rows, head=head)], engines=["roofline"]).comparisons
    head_graph = kernel_graph("gemm", Formats("fp16", "fp16", "fp16"), {"M": 1, "N": 32000, "K": 4096})
    head_s = predict_graph(head_graph, "a100-sxm4-80gb", "roofline").total_s
    assert whole.predicted_s - bare.predicted_s == pytest.approx(head_s, rel=0.01)  # and the norm of one token


@pytest.mark.parametrize("op", sorted(KERNELS))
def test_every_kernel_runs_as_one_group_and_moves_its_own_bytes(op: str) -> None:
    """Bytes by hand, in bf16 with M = 3, N = 8, K = 5; 2 sequences, 4 query heads, 2 key/value heads of 6, 3 queries, 7 keys."""
    dims = {"M": 3, "N": 8, "K": 5, "batch": 2, "heads": 4, "kv_heads": 2, "head_dim": 6, "q_len": 3, "kv_len": 7}
    q, kv, s, rows = 2 * 4 * 3 * 6, 2 * 2 * 7 * 6, 2 * 4 * 3 * 7, 2 * 4 * 3
    elements = {
        "gemm": 3 * 5 + 8 * 5 + 3 * 8,
        "lm_head": 3 * 5 + 8 * 5 + 3 * 8,
        "bmm": 2 * (3 * 5 + 8 * 5 + 3 * 8),
        "attn_prefill": 2 * q + 2 * kv,
        "attn_decode": 2 * q + 2 * kv,
        "attn_scores": q + kv + s,
        "attn_context": s + kv + q,
        "softmax_max": s + rows,
        "softmax_exp": 2 * s + rows,
        "softmax_normalize": 2 * s,
        "softmax": 2 * 24,
        "rmsnorm": 2 * 24 + 8,
        "rope": 2 * (4 + 2) * 3 * 6 + 2 * 2 * 3 * 3,  # and the table of 2 x 3 x 3 in fp32
        "silu": 2 * 24,
        "silu_mul": 3 * 24,
        "mul": 3 * 24,
        "elem_mul": 3 * 24,
        "add": 3 * 24,
        "elem_add": 3 * 24,
        "embedding": 2 * 24 + 2 * 3,  # and three int32 ids
        "kv_write": 2 * 2 * 3 * 6,  # written; what is new was left on the chip by the op before
        "rope_table": 2 * (2 * 3 * 3),  # written in fp32; frequencies are constants
        "stream_read": 24 + 3,
        "stream_triad": 3 * 24,
    }
    timeline = predict_graph(kernel_graph(op, Formats("bf16", "bf16", "bf16"), dims), "a100-sxm4-80gb", "roofline")
    assert set(timeline.group.tolist()) == {0}
    assert timeline.dram_bytes.sum() == 2 * elements[op]


def test_a_page_escapes_what_the_table_says(board: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    board.write_text(BOARD.replace("aliases: [", f'aliases: ["{evil}", '))
    rows = [gemm(9000, hardware=evil), gemm(9000, hardware="<b>nobody</b>"), gemm(9000).replace(",gemm,", ",<i>,")]
    data = table(tmp_path / "a.csv", *rows)
    data.write_text(f"# <u>measured by nobody\n{data.read_text()}")
    page = validation_html(validate([data], engines=["roofline"], chips=[board]))
    assert "alert(1)" in page
    assert "\\u003cscript" not in page  # plotly would take it for markup of a label
    for text in (evil, "<b>nobody", "<i>", "<u>measured"):
        assert text not in page, text
    assert "a.csv</dt><dd>&lt;u&gt;measured by nobody" in page
    assert 'id="published"' not in page
    assert "plotly" in page
    assert 'src="http' not in page


@pytest.mark.skipif(browser_path() is None, reason=WHY_NOT)
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn_in_the_system_s_theme_and_in_the_other(board: Path, tmp_path: Path, dark: bool) -> None:
    page = tmp_path / "page.html"
    rows = [gemm(9000), gemm(700), gemm(9000, hardware="A100-SXM4-80GB"), gemm(9000).replace(",gemm,", ",add,")]
    page.write_text(validation_html(validate([table(tmp_path / "a.csv", *rows)], engines=["roofline"], chips=[board])))
    script = """
      const style = getComputedStyle(document.documentElement), figures = [...document.querySelectorAll(".figure")];
      return [document.documentElement.dataset.theme, style.getPropertyValue("--paper").trim(),
        figures.map((each) => [each.layout.paper_bgcolor, each.data.slice(1).map((trace) => [trace.name, [...trace.x]])])];"""
    with opened(page, tmp_path, webgl=False, dark=dark) as driver:
        theme, paper, figures = driver.execute_script(script)
        assert theme == ("dark" if dark else "light")
        assert [each[0] for each in figures] == [paper, paper]
        assert figures[0][1] == [["round-board", [9e-3]]]
        assert figures[1][1] == [["A100-SXM4-80GB", [9e-3]], ["round-board", [9e-3, 7e-4]]]
        driver.find_element("id", "theme").click()
        other, other_paper, figures = driver.execute_script(script)
        assert (other, other_paper != paper) == ("light" if dark else "dark", True)
        assert figures[0][0] == other_paper
        assert (complaints(driver), misplaced(driver), requests(driver)) == ([], [], [page.as_uri()])


def test_published_figures_come_with_the_package(rooftile: Run) -> None:
    tables = published_tables()
    assert tables
    for path in tables:
        assert path.read_text().startswith("# "), f"{path.name} does not say where it comes from"
        assert all(row.text("source") for row in read_tidy(path))
    code, out, _ = rooftile("validate", "--engine", "roofline", "--format", "json")
    assert code == 0
    assert json.loads(out)
    rows = sum(len(read_tidy(path)) for path in tables)
    assert f"{rows} rows of {len(tables)} tables, " in rooftile("validate", "--engine", "roofline")[1]


def test_the_published_systolic_chips_are_there_and_shown_one_by_one(rooftile: Run) -> None:
    found = validate()
    assert {each.case.chip.name for each in found.comparisons} >= {"gemmini-default", "tpu-v5e", "tpu-v6e", "apple-m3-pro"}
    assert found.rows == len(found.comparisons)
    _, out, _ = rooftile("validate")
    for each in found.comparisons:
        assert f"{each.error:+.1%}" in out
        assert each.case.row.text("source") in out
    assert "dispatch from Python" in out
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines() if "%  " not in line and line.rstrip().endswith("%")]
    systolic = [cells for cells in lines if cells[0] in ("gemmini-default", "TPU-v5e", "TPU-v6e")]
    assert len(systolic) == 5
    for _, _, _, published, predicted, error in systolic:
        assert f"| {published} | {predicted} | {error} |" in README


def test_the_page_of_published_figures_says_what_the_table_says_and_cites(rooftile: Run) -> None:
    """Every row, every remark, and what the tables say of where they come from, which the terminal only names."""
    code, page, _ = rooftile("validate", "--engine", "roofline", "--format", "html")
    body = unescape(page.partition("<main")[2].partition("<script")[0])
    found = validate(engines=["roofline"])
    assert code == 0
    for each in found.comparisons:
        row = each.case.row
        assert f"<td>{each.error:+.1%}</td>" in body
        assert row.text("notes") in body
        first = Path(row.file).read_text().splitlines()[0].lstrip("# ")
        assert (Path(row.file).name in body, first in body) == (True, True)


UTILISED = "source,hardware,op,dtype,M,N,K,gemms,latency_us,utilisation_pct"


def test_a_utilisation_is_the_time_of_the_macs_at_that_share_of_the_peak(tmp_path: Path) -> None:
    """edge-npu: 1,024 int8 MACs per cycle of 1 ns. 1024 x 1024 x 512 at half of them take 2 x 524,288 ns."""
    path = table(tmp_path / "a.csv", "x,edge-npu,gemm,int8,1024,512,1024,,,50", "x,edge-npu,gemm,int8,1024,512,1024,,,100", head=UTILISED)
    half, whole = validate([path], engines=["roofline"]).comparisons
    assert half.case.measured_s == pytest.approx(2 * 524_288e-9)
    assert whole.case.measured_s == pytest.approx(524_288e-9)
    assert half.predicted_s == whole.predicted_s == pytest.approx(524_288e-9)
    assert half.error == pytest.approx(-0.5)


def test_products_in_a_row_are_the_sum_of_each(tmp_path: Path) -> None:
    """The time of 3 + 1 products is that of a row for each, and their utilisation is of all their MACs."""
    rows = ["x,edge-npu,gemms,int8,,,,3 * 64x32x96 + 1024x512x1024,100,"]
    rows += ["x,edge-npu,gemms,int8,,,,3*64x32x96+1024x512x1024,,50"]
    rows += ["x,edge-npu,gemm,int8,64,32,96,,100,", "x,edge-npu,gemm,int8,1024,512,1024,,100,"]
    timed, shared, small, large = validate([table(tmp_path / "a.csv", *rows, head=UTILISED)], engines=["tiled"]).comparisons
    assert timed.predicted_s == shared.predicted_s == pytest.approx(3 * small.predicted_s + large.predicted_s)
    assert timed.case.measured_s == pytest.approx(100e-6)
    assert shared.case.measured_s == pytest.approx((3 * 64 * 32 * 96 + 1024 * 512 * 1024) / 1024 * 1e-9 / 0.5)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("x,edge-npu,gemms,int8,,,,64x32,100,", "found '64x32'"),
        ("x,edge-npu,gemms,int8,,,,64x32x96 +,100,", "found ''"),
        ("x,edge-npu,gemms,int8,,,,0 * 64x32x96,100,", "found '0 * 64x32x96'"),
        ("x,edge-npu,gemm,int8,64,32,96,,,130", "more than all MACs, found '130'"),
        ("x,edge-npu,gemm,int8,64,32,96,,,", "latency_us: the cell is empty"),
    ],
)
def test_products_that_cannot_be_read_are_told(row: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        validate([table(tmp_path / "a.csv", row, head=UTILISED)])


def test_a_utilisation_without_a_peak_is_left_with_its_reason(tmp_path: Path) -> None:
    rows = ["x,edge-npu,gemm,fp32,64,32,96,,,50", "x,edge-npu,rmsnorm,int8,64,32,,,,50"]
    found = validate([table(tmp_path / "a.csv", *rows, head=UTILISED)], engines=["roofline"])
    assert sorted(each.reason for each in found.left) == [
        "a utilisation in 'fp32', of which edge-npu has no peak",
        "a utilisation of something else than products",
    ]


def test_the_out_file_is_written_whole_and_the_rest_told(rooftile: Run, board: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", gemm(9000), gemm(9000, hardware="Nobody 1"))
    out_file = tmp_path / "page.html"
    code, out, err = rooftile("validate", "--data", data, "--chip", board, "--engine", "roofline", "--format", "html", "--out", out_file)
    assert (code, out) == (0, "")
    assert "Nobody 1" in err
    assert out_file.read_text().startswith("<!doctype html>")


def test_a_page_goes_to_a_file_or_a_pipe_but_not_to_a_terminal(rooftile: Run, board: Path, tmp_path: Path) -> None:
    arguments = ("validate", "--data", table(tmp_path / "a.csv", gemm(9000)), "--chip", board, "--engine", "roofline", "--format", "html")
    code, out, _ = rooftile(*arguments)
    assert (code, out[:15]) == (0, "<!doctype html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        code, out, err = rooftile(*arguments)
    assert (code, out) == (2, "")
    assert "--out page.html" in err


@pytest.mark.slow
@pytest.mark.skipif(not MEASURED.is_dir(), reason=f"no measurements in {MEASURED}; ROOFTILE_MEASURED names their folder")
def test_every_measured_row_is_predicted_or_named() -> None:
    tables = [path for path in sorted(MEASURED.glob("*.csv")) if path.name != "hardware.csv"]
    found = validate(tables, engines=["roofline"])
    rows = {each.case.row.where for each in found.comparisons}
    assert found.rows == sum(len(read_tidy(path)) for path in tables)
    assert len(rows) + found.rows_left == found.rows
    assert len(rows) > 4000


def test_a_measurement_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no column of measurements"):
        validate([table(tmp_path / "a.csv", "A100,1", head="hardware,peak")])
