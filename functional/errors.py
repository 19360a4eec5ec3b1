"""The one exception tree.

::

    RooftileError                 everything that this package raises on purpose
    └── BadInput                  what the user gave is wrong; carries one `Problem` per mistake; exit code 2
        ├── UnknownName           a model, chip, format, engine ... that is not there ("did you mean")
        ├── ModelFileError        config.json, params.json
        ├── CheckpointError       safetensors: missing, truncated, of another shape
        ├── ChipFileError         a chip's YAML
        └── ScenarioError         lengths, batch and formats that contradict each other or the model
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it stands, what was found and how to mend it."""

    message: str
    cure: str = ""
    file: str = ""
    line: int | None = None
    path: str = ""

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line is not None else "")
        head = ": ".join(part for part in (where, self.path) if part)
        text = f"{head}: {self.message}" if head else self.message
        return f"{text}; {self.cure}" if self.cure else text


class RooftileError(Exception):
    """Root of the tree."""


class BadInput(RooftileError):
    """What the user gave is wrong. `problems` holds every mistake that was found, in the order of the file."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownName(BadInput):
    """A name that is not in the list of those known."""


class ModelFileError(BadInput):
    """A model configuration that cannot be read or is not supported."""


class CheckpointError(BadInput):
    """Weights that cannot be read or do not match the configuration."""


class ChipFileError(BadInput):
    """A chip description that cannot be read or contradicts itself."""


class ScenarioError(BadInput):
    """Batch, lengths or formats that make no sense for this model."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The cure for a misspelt name: `did you mean 'x'?`, or the list of what there is."""
    known = list(known)
    spelt = name.strip().lower()
    if spelt in known:
        return f"did you mean '{spelt}'?"
    begun = [each for each in known if name and each.startswith(name)]
    close = begun[:1] if len(begun) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(known)
