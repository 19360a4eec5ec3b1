"""Defends: every command that the README shows runs, and prints what the README shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
FILES = {"my-npu.yaml": "name: my-npu\nclock", "my-sweep.yaml": "axes:"}
"""Files that commands read, by a text that tells their block."""

NOT_HERE = ("path/to", "pip install", "pytest")
"""Commands that need a checkpoint of the user's own, or that CI itself runs."""

ELSEWHERE = {
    "rooftile chips list": " chip   ",
    "rooftile compare edge-npu a100-sxm4-80gb --model llama-3.2-1b --phase decode": "llama-3.2-1b, decode, ",
}
"""Commands whose output is shown apart from them, and how it begins."""

pytestmark = pytest.mark.slow


def commands() -> list[tuple[str, str]]:
    """(command, what it prints according to the README, or nothing), in order."""
    found = []
    for (language, text), (next_language, shown) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if language == "sh":
            lines = [part.strip() for line in text.splitlines() for part in line.split("&&")]
            found += [(line, "") for line in lines[:-1]]
            found.append((lines[-1], shown if next_language == "text" else ""))
    ours = [pair for pair in found if pair[0].startswith("rooftile")]
    return [pair for pair in ours if not any(word in pair[0] for word in NOT_HERE)]


def files_in(where: Path) -> Path:
    """The folder, with the files that the commands read."""
    for name, sign in FILES.items():
        (block,) = [text for language, text in BLOCKS if language == "yaml" and sign in text]
        (where / name).write_text(block)
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files_in(tmp_path_factory.mktemp("readme"))


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    code = "import sys; from sim.cli import main; sys.argv = sys.argv[1:]; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def stripped(text: str) -> list[str]:
    """Lines without trailing blanks, and without the empty ones at both ends."""
    return [line.rstrip() for line in text.strip("\n").split("\n") if line.strip()]


def test_all_commands_in_order(folder: Path) -> None:
    shown_outputs = 0
    for command, shown in commands():
        printed = run(command, folder)
        if shown:
            shown_outputs += 1
            assert stripped(printed) == stripped(shown), command
    assert len(commands()) >= 15
    assert shown_outputs >= 2


@pytest.mark.parametrize("command", ELSEWHERE)
def test_outputs_shown_apart_from_their_command(command: str, folder: Path) -> None:
    printed = stripped(run(command, folder))
    assert any(stripped(text) == printed for language, text in BLOCKS if language == "text")


def test_python_examples_run(folder: Path) -> None:
    examples = [text for language, text in BLOCKS if language == "python" and "dask" not in text]
    assert examples
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
