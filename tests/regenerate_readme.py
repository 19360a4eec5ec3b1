"""`python -m tests.regenerate_readme` writes the outputs that the README shows anew, and prints which changed.

Blocks are told as `tests/test_readme.py` tells them: a text block after a block of commands is what its last one prints, and those of
`ELSEWHERE` are found by how they begin.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.test_readme import BLOCKS, ELSEWHERE, commands, files_in, run, stripped

README = Path(__file__).parent.parent / "README.md"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = files_in(Path(name))
        shown = [(command, old, run(command, folder)) for command, old in commands()]
        shown += [(command, block_of(start), run(command, folder)) for command, start in ELSEWHERE.items()]
    for command, old, new in shown:
        if old and stripped(old) != stripped(new):
            lines = [line.rstrip() for line in new.strip("\n").split("\n")]
            text = text.replace(f"```text\n{old}```", "```text\n" + "\n".join(lines) + "\n```")
            print(f"changed: {command}")
    README.write_text(text, encoding="utf-8")


def block_of(start: str) -> str:
    (block,) = [text for language, text in BLOCKS if language == "text" and text.strip("\n").startswith(start)]
    return block


if __name__ == "__main__":
    main()
