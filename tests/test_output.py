"""Defends: what is written is whole, and goes where it was sent."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from functional.errors import BadInput
from sim.cli import main
from sim.present.output import write_whole


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(timeout=10)
    assert found == ["text"]
    assert pipe.is_fifo()


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is a directory"):
        write_whole(tmp_path, "text")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*names: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "file"
    file.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["predict", "stories15m", "--chip", "edge-npu", "--prompt", "8", "--phase", "prefill", "--context", "4"], "--context: has no"),
        (["trace", "stories15m", "--chip", "edge-npu", "--phase", "prefill", "--context", "4", "--out", "x.json"], "--context: has no"),
        (["gemm", "--m", "1000000", "--n", "1000000", "--k", "1000000", "--chip", "edge-npu"], "the cycle engine would play"),
    ],
)
def test_what_cannot_be_is_said(
    command: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rooftile", *command])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--phase", "decode"], ["--generate", "3"]])
def test_power_above_tdp_is_warned_about(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = tmp_path / "small.yaml"
    for tdp_w, warned in ((0.001, True), (1000.0, False)):
        chip.write_text(f"base: edge-npu\nname: small\ntdp: {tdp_w} W\n")
        monkeypatch.setattr("sys.argv", ["rooftile", "predict", "stories15m", "--chip", str(chip), "--prompt", "8", *more])
        with pytest.raises(SystemExit) as exit_info:
            main()
        assert exit_info.value.code == 0
        assert ("more than its TDP of 0.001 W" in capsys.readouterr().err) is warned
