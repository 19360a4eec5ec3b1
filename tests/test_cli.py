"""Truth defended: the command line keeps its contract: promised keys, whole files, exit codes, and one clear message for each mistake."""

from __future__ import annotations

import csv
import errno
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from functional.errors import BadInput
from functional.sampling import Sampling
from hwmodels import chip_names
from sim import model_names, predict, trace_model
from sim.cli import COMMANDS, flags, main
from sim.explore.step import Step
from workloads.graph import OpGraph
from workloads.scenario import PHASES

SMALL = ["predict", "stories15m", "--chip", "edge-npu", "--prompt", "16", "--engine", "roofline"]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def rooftile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, run as its entry point runs it."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["rooftile", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code: Any = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        return Said(code, *capsys.readouterr())

    return run


# What it promises ------------------------------------------------------------------------------------------------------------------------

KEYS = {
    "": {
        *("model", "chip", "engine", "phase", "batch", "q_len", "kv_len", "latency_s", "tokens_per_s", "floor_s"),
        *("components", "ops", "memory"),
    },
    "components": {"name", "latency_s", "bound_by"},
    "ops": {
        *("name", "kind", "component", "group", "flops", "useful_macs", "issued_macs", "dram_bytes", "latency_s", "busy_s", "bound_by"),
        "lost_s",
    },
    "memory": {"weights_bytes", "kv_cache_bytes", "activations_bytes", "capacity_bytes", "fits"},
}


def test_json_has_the_promised_keys_and_the_numbers_of_the_api(rooftile: Run) -> None:
    said = rooftile(*SMALL, "--batch", 2, "--context", 20, "--format", "json")
    assert (said.code, said.err) == (0, "")
    phases = json.loads(said.out)
    assert [each["phase"] for each in phases] == ["prefill", "decode"]
    assert [(each["q_len"], each["kv_len"], each["batch"]) for each in phases] == [(16, 16, 2), (1, 21, 2)]
    for each in phases:
        assert set(each) >= KEYS[""]
        assert set(each["memory"]) >= KEYS["memory"]
        assert all(set(part) >= KEYS["components"] for part in each["components"])
        assert all(set(op) >= KEYS["ops"] for op in each["ops"])
        timeline = predict("stories15m", "edge-npu", phase=each["phase"], batch=2, prompt=16, context=20, engine="roofline")
        assert each == timeline.to_dict()
        assert sum(op["latency_s"] for op in each["ops"]) == pytest.approx(each["latency_s"], rel=1e-12)


def test_context_is_the_prompt_unless_given(rooftile: Run) -> None:
    (decode,) = json.loads(rooftile(*SMALL, "--phase", "decode", "--format", "json").out)
    assert (decode["q_len"], decode["kv_len"]) == (1, 17)


EDGE = ["stories15m", "--chip", "edge-npu"]
NO_LENGTH = [
    (["predict", *EDGE, "--engine", "roofline"], ["prefill of 255 tokens", "decode of one token after 255"]),
    (["predict", *EDGE, "--engine", "roofline", "--generate", "10"], ["10 tokens after a prompt of 247"]),
    (["predict", *EDGE, "--engine", "roofline", "--generate", "10", "--draft", "stories15m"], ["10 tokens after a prompt of 243"]),
    (["limits", *EDGE], ["largest batch at context 255"]),
    (["graph", "stories15m"], ["[1, 255, 288]"]),
    (["solve", *EDGE, "--engine", "roofline", "--target", "100 tok/s", "--vary", "clock"], ["clock"]),
    (["compare", "edge-npu", "tpu-v4i", "--model", "stories15m", "--engine", "roofline"], ["stories15m, decode"]),
]


@pytest.mark.parametrize(("command", "parts"), NO_LENGTH)
def test_lengths_that_are_not_given_fit_the_model(rooftile: Run, command: list[str], parts: list[str]) -> None:
    """stories15m holds 256 positions: a prompt of 255 and what follows it; of a generation, all new tokens and four proposed ones."""
    said = rooftile(*command)
    assert (said.code, said.err) == (0, "")
    assert all(part in " ".join(said.out.split()) for part in parts), said.out


def test_other_models_have_512_tokens(rooftile: Run) -> None:
    found = json.loads(rooftile("predict", "llama-3.2-1b", "--chip", "edge-npu", "--engine", "roofline", "--format", "json").out)
    assert [(each["q_len"], each["kv_len"]) for each in found] == [(512, 512), (1, 513)]


def test_each_flag_reaches_the_prediction(rooftile: Run) -> None:
    flags = ["--weights", "int8", "--activations", "bf16", "--kv", "int8", "--logits", "all", "--no-fuse", "--phase", "prefill"]
    (said,) = json.loads(rooftile(*SMALL, *flags, "--format", "json").out)
    asked = {"weights": "int8", "activations": "bf16", "kv": "int8", "logits": "all", "fused": False}
    expected = predict("stories15m", "edge-npu", phase="prefill", prompt=16, engine="roofline", **asked).to_dict()  # type: ignore[arg-type]
    assert said == expected
    for name, other in (("weights", "bf16"), ("activations", "int8"), ("kv", "bf16"), ("logits", "last"), ("fused", True)):
        changed = predict("stories15m", "edge-npu", phase="prefill", prompt=16, engine="roofline", **{**asked, name: other})  # type: ignore[arg-type]
        assert changed.to_dict() != expected, name


def test_csv_has_a_row_per_op_and_phase(rooftile: Run) -> None:
    said = rooftile(*SMALL, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    for phase in PHASES:
        timeline = predict("stories15m", "edge-npu", phase=phase, prompt=16, engine="roofline")
        mine = [row for row in rows if row["phase"] == phase]
        assert [row["name"] for row in mine] == [op.name for op in timeline.graph.ops]
        assert [float(row["latency_s"]) for row in mine] == timeline.latency_s.tolist()
    assert set(rows[0]) >= KEYS["ops"] - {"lost_s"} | {"phase"}


def test_the_table_shows_headline_components_dearest_ops_and_memory(rooftile: Run) -> None:
    said = rooftile(*SMALL)
    for phase in ("prefill of 16 tokens", "TTFT", "decode of one token after 16", "TPOT"):
        assert said.out.count(phase) == 1, phase
    for part in ("floor", "bound by: ", "layers.0 ... layers.5", "lm_head", "dearest ops", "memory: weights"):
        assert part in said.out, part


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_out_writes_what_would_be_printed(rooftile: Run, tmp_path: Path, form: str) -> None:
    file = tmp_path / "result"
    file.write_text("old")
    said = rooftile(*SMALL, "--format", form, "--out", file)
    assert (said.code, said.out, said.err) == (0, "", "")
    assert file.read_text().rstrip("\n") == rooftile(*SMALL, "--format", form).out.rstrip("\n")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", ["table", "json"])
def test_out_leaves_nothing_behind_where_it_cannot_write(rooftile: Run, tmp_path: Path, form: str) -> None:
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "missing" / "result", tmp_path / "folder"):
        said = rooftile(*SMALL, "--format", form, "--out", file)
        is_one_message(said, "cannot write")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


REFUSED_BEFORE_WORK = [
    ([*SMALL, "--out", "missing/x"], ["missing/x: cannot write: No such file or directory"]),
    ([*SMALL, "--out", "file/x"], ["file/x: cannot write: Not a directory"]),
    ([*SMALL, "--out", "folder"], ["folder: cannot write: it is a directory"]),
    (["verify", "stories15m", "--chip", "edge-npu", "--out", "missing/x"], ["cannot write"]),
    (["dashboard", "stories15m", "--chip", "edge-npu", "--out", "missing/x.html"], ["cannot write"]),
    (["calibrate", "--chip", "edge-npu", "--data", "file", "--out", "missing/x.yaml"], ["cannot write"]),
    (["measure", "--model", "stories15m", "--out", "missing/x.csv"], ["cannot write"]),
    (["measure", "--model", "stories15m", "--chip-out", "missing/x.yaml"], ["cannot write"]),
    (["measure", "--model", "stories15m", "--out", "x", "--chip-out", "./x"], ["--chip-out and --out: both are the same file; name two"]),
    (["measure", "--model", "stories15m", "--chip-out", "x", "--clock", "2.5"], ["--clock", "a bare number, '2.5'"]),
    (["measure", "--model", "stories15m", "--chip-out", "x", "--clock", "0 GHz"], ["--clock", "zero"]),
    ([*SMALL, "--chip", "tpu-v4i"], ["--chip: is given twice", "`compare`"]),
    (["chips", "show", ""], ["CHIP: is empty"]),
    (["sweep", "file", "--out", ""], ["cannot write: it is a directory"]),
]


@pytest.mark.parametrize(("command", "parts"), REFUSED_BEFORE_WORK)
def test_what_cannot_end_well_does_not_begin(
    rooftile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], parts: list[str]
) -> None:
    """Measuring takes minutes: a place that takes no file, or a clock that cannot be read, is told before."""

    def work(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the work began")

    for place in ("sim.evidence.measure.measure", "sim.evidence.calibrate.calibrate", "sim.verification.verify", "sim.explore.step.Step"):
        monkeypatch.setattr(place, work)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    is_one_message(rooftile(*command), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_compare_and_dashboard_take_several_chips(rooftile: Run, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    both = ["--chip", "edge-npu", "--chip", "tpu-v4i", "--engine", "roofline", "--prompt", 16]
    assert rooftile("dashboard", "stories15m", *both, "--out", page).code == 0
    assert page.exists()


def test_a_chip_file_of_another_name_is_told(rooftile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "draft.yaml").write_text("base: edge-npu\n")
    (tmp_path / "plain").write_text("base: edge-npu\n")
    is_one_message(rooftile("chips", "show", "draft"), "unknown chip 'draft'; did you mean 'draft.yaml'?")
    is_one_message(rooftile("chips", "show", "plain"), "plain: a chip file's name ends in .yaml; rename it, or write './plain'")
    assert rooftile("chips", "show", "./plain").code == 0


def test_out_into_a_folder_without_leave_to_write(rooftile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere: for it the folder refuses through the function that makes files in it."""
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:

        def refuse(*arguments: Any, **named: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), named["dir"])

        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    is_one_message(rooftile(*SMALL, "--out", tmp_path / "result"), "cannot write: Permission denied")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_out_spares_what_the_command_reads(rooftile: Run, tmp_path: Path) -> None:
    chip = tmp_path / "mine.yaml"
    chip.write_text("name: mine\nbase: edge-npu\n")
    link = tmp_path / "link.yaml"
    link.symlink_to(chip)
    for out in (chip, link):
        said = rooftile("predict", "stories15m", "--chip", chip, "--prompt", 16, "--out", out)
        assert said.code == 2
        assert "is what this command reads" in said.err
    assert chip.read_text() == "name: mine\nbase: edge-npu\n"


def test_a_folder_is_no_chip(rooftile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drafts").mkdir()
    monkeypatch.chdir(tmp_path)
    said = rooftile("predict", "stories15m", "--chip", "drafts")
    assert said.code == 2
    assert "drafts: is a folder; name the YAML file in it" in said.err


@pytest.mark.parametrize("command", [SMALL, [*SMALL, "--format", "json"], ["chips", "list"]])
def test_a_reader_that_leaves_is_no_error(command: list[str]) -> None:
    code = "import sys; sys.stdout.reconfigure(line_buffering=True); from sim.cli import main; sys.argv[0] = 'rooftile'; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("closed", "out", "err"), [(1, "", "does not fit"), (2, "TTFT", "")])
def test_a_closed_stream_takes_nothing(closed: int, out: str, err: str) -> None:
    """`>&-` and `2>&-`: no traceback, and a warning does not go to the other stream."""
    words = ["predict", "llama-3.1-70b", "--chip", "edge-npu", "--prompt", "8", "--engine", "roofline"]
    command = [sys.executable, "-c", "from sim.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.close(closed))
    assert done.returncode == 0
    assert (out in done.stdout, err in done.stderr) == (True, True)
    assert ("TTFT" in done.stdout, "does not fit" in done.stdout + done.stderr) == (closed == 2, closed == 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", [SMALL, ["chips", "list"]])
def test_a_full_device_is_told(command: list[str]) -> None:
    code = "from sim.cli import main; import sys; sys.argv[0] = 'rooftile'; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("rooftile: cannot write: no space is left")
    assert "Traceback" not in done.stderr


def test_a_step_that_does_not_fit_is_predicted_with_a_warning(rooftile: Run) -> None:
    said = rooftile("predict", "llama-3.1-70b", "--chip", "edge-npu", "--phase", "decode", "--engine", "roofline", "--format", "json")
    assert said.code == 0
    assert said.err.count("\n") == 1
    assert "warning" in said.err
    assert "does not fit" in said.err
    (decode,) = json.loads(said.out)
    assert decode["memory"]["fits"] is False
    assert decode["latency_s"] > 1


@pytest.mark.parametrize("phase", PHASES)
def test_graph_in_all_formats(rooftile: Run, tmp_path: Path, phase: str) -> None:
    asked = ["graph", "stories15m", "--phase", phase, "--prompt", 16]
    graph = trace_model("stories15m", phase=phase, prompt=16)  # type: ignore[arg-type]
    assert OpGraph.from_json(rooftile(*asked, "--format", "json").out).to_dict() == graph.to_dict()
    assert rooftile(*asked, "--format", "mermaid").out.rstrip("\n") == graph.to_mermaid()
    assert rooftile(*asked, "--format", "dot").out.rstrip("\n") == graph.to_dot()
    table = rooftile(*asked).out
    assert all(op.name in table for op in graph.ops)
    assert rooftile(*asked, "--format", "dot", "--out", tmp_path / "x.dot").code == 0
    assert (tmp_path / "x.dot").read_text() == graph.to_dot() + "\n"


def test_chips_and_models_are_listed_and_shown(rooftile: Run) -> None:
    chips, models = rooftile("chips", "list").out, rooftile("models", "list").out
    assert all(name in chips for name in chip_names())
    assert all(name in models for name in model_names())
    shown = rooftile("chips", "show", "a100-sxm4-80gb").out
    assert all(part in shown for part in ("bf16 311.9 TFLOP/s", "memory.dram.bandwidth", "2.039 TB/s", "datasheet", "assumed"))
    layers = rooftile("models", "show", "llama-3.2-1b").out
    assert all(part in layers for part in ("1,235,814,400", "tied to embed_tokens", "layers.*.mlp.down_proj"))


def test_check_says_that_a_chip_can_be_used(rooftile: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: edge-npu\nclock: 2 GHz\n")
    said = rooftile("chips", "check", tmp_path / "mine.yaml")
    assert (said.code, said.err) == (0, "")
    assert "can be used" in said.out


def test_every_command_explains_itself(rooftile: Run) -> None:
    listed = rooftile("--help").out
    assert all(command in listed for command in COMMANDS)
    for command in COMMANDS:
        said = rooftile(command, "--help")
        assert said.code == 0
        assert "Usage: rooftile" in said.out
        assert "completion" not in said.out, "shells complete commands that are installed by themselves"


def test_the_installed_command_answers() -> None:
    command = [sys.executable, "-c", "from sim.cli import main; main()", "--version"]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert result.stdout.startswith("rooftile ")
    assert result.stderr == ""


# What it refuses -------------------------------------------------------------------------------------------------------------------------


def is_one_message(said: Said, *parts: str) -> None:
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.count("rooftile: ") + said.err.count("Error: ") == 1, said.err
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        (["predict", "llama-3.2-2b", "--chip", "edge-npu"], ["unknown model 'llama-3.2-2b'", "did you mean 'llama-3.2-3b'?"]),
        (["predict", "llama-3.2-1b", "--chip", "edge-nqu"], ["unknown chip 'edge-nqu'", "did you mean 'edge-npu'?"]),
        (["predict", "missing/config.json", "--chip", "edge-npu"], ["missing/config.json"]),
        (["predict", "llama-3.2-1b", "--chip", "missing.yaml"], ["missing.yaml"]),
        ([*SMALL, "--engine", "rooftop"], ["--engine", "unknown engine 'rooftop'", "roofline"]),
        ([*SMALL, "--phase", "training"], ["--phase", "'training'", "'prefill', 'decode'"]),
        ([*SMALL, "--format", "yaml"], ["--format", "'yaml'", "'json'"]),
        ([*SMALL, "--logits", "some"], ["--logits", "'some'"]),
        ([*SMALL, "--weights", "int3"], ["--weights", "unknown number format 'int3'", "did you mean 'int8'?"]),
        ([*SMALL, "--kv", "f16"], ["--kv", "unknown number format 'f16'", "did you mean 'fp16'?"]),
        ([*SMALL, "--kv", ""], ["--kv", "is empty", "give a value, or leave it out"]),
        ([*SMALL, "--weights", "fp8:g128"], ["--weights", "unknown number format 'fp8:g128'", "of fp8 there is fp8"]),
        ([*SMALL, "--weights", "INT8"], ["--weights", "unknown number format 'INT8'", "did you mean 'int8'?"]),
        (["predict", "", "--chip", "edge-npu"], ["MODEL", "is empty"]),
        ([*SMALL, "--activations", "fp8"], ["matrix.rates.fp8", "edge-npu has no rate for fp8", "int8, bf16"]),
        ([*SMALL, "--batch", "0"], ["--batch", "at least 1, found 0"]),
        ([*SMALL, "--batch", "-3"], ["--batch", "at least 1, found -3"]),
        ([*SMALL, "--batch", "two"], ["--batch", "integer"]),
        ([*SMALL, "--phase", "prefill", "--prompt", "0"], ["--prompt", "at least 1, found 0"]),
        ([*SMALL, "--phase", "decode", "--context", "-1"], ["--context", "at least 1, found -1"]),
        ([*SMALL, "--prompt", "257"], ["--prompt", "stories15m cannot hold 257 positions", "at most 256"]),
        ([*SMALL, "--phase", "decode", "--context", "256"], ["--context", "cannot hold 257 positions", "at most 255"]),
        ([*SMALL, "--no-such-flag"], ["--no-such-flag"]),
        (["gemm", "--m", 10**23, "--n", "1", "--k", "1", "--chip", "edge-npu"], ["--m: must be at most 1099511627776"]),
        (["gemm", "--m", "1", "--n", "1", "--k", "1", "--rows", 10**17, "--cols", "1"], ["--rows: must be at most"]),
        (["predict", "stories15m"], ["--chip"]),
        (["graph", "stories15m", "--format", "png"], ["--format", "'png'"]),
        (["graph", "stories16m"], ["unknown model 'stories16m'"]),
        (["chips", "show", "h1000"], ["unknown chip 'h1000'"]),
        (["models", "show", "gpt-5"], ["unknown model 'gpt-5'"]),
        (["models", "show", "stories15m", "--tokens", "0"], ["at least 1, found 0"]),
    ],
    ids=lambda value: " ".join(part.removeprefix("--") for part in value[-2:]) if isinstance(value, list) else None,
)
def test_bad_arguments(rooftile: Run, changed: list[str], parts: list[str]) -> None:
    is_one_message(rooftile(*changed), *parts)


CHIP = """\
base: edge-npu
name: mine
clock: 1 GHz
matrix:
  rows: 32
memory:
  dram: {capacity: 8 GiB, bandwidth: 51.2 GB/s}
  sram: {capacity: 2 MiB}
"""


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("clock: 1 GHz", "clock: 1", ["mine.yaml:3: clock", "a bare number", "write a unit", "1 GHz"]),
        ("clock: 1 GHz", "clok: 1 GHz", ["mine.yaml:3: clok", "unknown field", "did you mean 'clock'?"]),
        ("clock: 1 GHz", "clock: 1 GHz\nclock: 2 GHz", ["mine.yaml:4: clock", "given twice (lines 3 and 4)"]),
        ("clock: 1 GHz", "clock: 0 GHz", ["mine.yaml:3: clock", "zero"]),
        ("clock: 1 GHz", "clock: -1 GHz", ["mine.yaml:3: clock", "negative"]),
        ("51.2 GB/s", "51.2 Gb/s", ["mine.yaml:7: memory.dram.bandwidth", "unknown unit 'Gb/s'", "did you mean 'GB/s'?"]),
        ("51.2 GB/s", "51.2 GiB", ["mine.yaml:7: memory.dram.bandwidth", "write a bandwidth"]),
        ("bandwidth: 51.2", "bandwith: 51.2", ["mine.yaml:7: memory.dram.bandwith", "did you mean 'bandwidth'?"]),
        ("rows: 32", "rows: 0", ["mine.yaml:5: matrix.rows", "greater than 0"]),
        ("rows: 32", "rows: -4", ["mine.yaml:5: matrix.rows", "greater than 0"]),
        ("rows: 32", "rows: 32\n  rates: {int8: 1.0e-300}", ["mine.yaml:6: matrix.rates.int8", "0.000001, found 1e-300"]),
        ("clock: 1 GHz", "clock: 1 GHz\ncores: 9999", ["memory.sram.capacity", "2 MiB per core of 9999) is more than dram (8 GiB)"]),
        ("sram: {capacity: 2 MiB}", "sram: {capacity: 16 GiB}", ["mine.yaml:8: memory.sram.capacity", "more than dram"]),
        ("base: edge-npu", "base: edge-nqu", ["mine.yaml:1: base", "did you mean 'edge-npu'?"]),
        ("matrix:\n", "default_format: fp8\nmatrix:\n", ["default_format", "no rate for 'fp8'", "matrix.rates"]),
        ("clock: 1 GHz", "clock: [1 GHz", ["mine.yaml"]),
    ],
)
def test_bad_chip_files(rooftile: Run, tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in CHIP
    file = tmp_path / "mine.yaml"
    file.write_text(CHIP)
    assert rooftile("predict", "stories15m", "--chip", file, "--prompt", 16, "--engine", "roofline").code == 0
    file.write_text(CHIP.replace(old, new))
    is_one_message(rooftile("predict", "stories15m", "--chip", file), *parts)
    checked = rooftile("chips", "check", file)
    assert checked.code == 2
    assert "Traceback" not in checked.err
    assert all(part in checked.out for part in parts)


def test_all_mistakes_of_a_chip_file_are_said_at_once(rooftile: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(CHIP.replace("1 GHz", "1").replace("51.2 GB/s", "51.2 Gb/s").replace("rows: 32", "rows: 0"))
    said = rooftile("predict", "stories15m", "--chip", file)
    is_one_message(said, "mine.yaml:3: clock", "mine.yaml:5: matrix.rows", "mine.yaml:7: memory.dram.bandwidth")


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, ["GPT2LMHeadModel"]),
        ({"hidden_size": -64}, ["hidden_size"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads"]),
        ({"vocab_size": "many"}, ["vocab_size"]),
    ],
)
def test_bad_model_files(rooftile: Run, tmp_path: Path, changed: dict[str, Any], parts: list[str]) -> None:
    file = tmp_path / "config.json"
    asked = ["predict", file, "--chip", "edge-npu", "--prompt", 16, "--engine", "roofline"]
    file.write_text(json.dumps(CONFIG))
    assert rooftile(*asked).code == 0
    file.write_text(json.dumps({**CONFIG, **changed}))
    is_one_message(rooftile(*asked), "config.json", *parts)


def test_a_key_given_twice_in_a_model_file(rooftile: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG, indent=1).replace('"vocab_size": 100', '"vocab_size": 100,\n "vocab_size": 200'))
    is_one_message(rooftile("predict", file, "--chip", "edge-npu"), "vocab_size")


def test_every_flag_of_a_group_reaches_the_step() -> None:
    scenario = flags.Scenario("decode", 3, 40, 50, "cycle", "int4", "bf16", "int8", "last")
    (step,) = flags.steps_of("stories15m", scenario, flags.Execution(2, no_fuse=True, no_prefetch=True), Sampling(1.0))
    sampled = Sampling(1.0)
    assert step == Step("stories15m", "decode", 3, 40, 50, "int4", "bf16", "int8", "last", False, "cycle", sampled, False, 2)
    assert [each.phase for each in flags.steps_of("stories15m", flags.Scenario(logits="all"), flags.Execution())] == ["prefill", "decode"]


def test_a_command_has_the_flags_of_its_groups_in_their_place() -> None:
    seen: list[object] = []

    @flags.grouped
    def command(model: flags.Model, drawing: flags.Drawing, out: flags.Out = None) -> None:
        seen.extend((model, drawing, out))

    assert list(inspect.signature(command).parameters) == ["model", "temperature", "top_k", "top_p", "out"]
    command("m", top_k=3, temperature=0.5)
    assert seen == ["m", flags.Drawing(0.5, 3, None), None]
    for refused in ({"top_k": 3}, {"temperature": 0.0, "top_p": 0.5}):
        with pytest.raises(BadInput, match="--temperature"):
            flags.Drawing(**refused).sampling()  # type: ignore[arg-type]
