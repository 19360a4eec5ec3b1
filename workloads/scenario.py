"""What is asked of a model: phase, batch, lengths and number formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.formats import WEIGHT_FORMATS, check_format
from functional.llama import Logits
from functional.spec import Dim

Phase: TypeAlias = Literal["prefill", "decode"]
LARGEST_BATCH = 2**20
"""Beyond any use; it keeps all counts of all models within 64 bits."""

PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True, slots=True, eq=False)
class Formats:
    """Number formats of the weight matrices, of every tensor between ops (and the norms' weights with them), and of the KV cache."""

    weights: str
    activations: str
    kv: str

    @classmethod
    def of(cls, default: str, weights: str | None = None, activations: str | None = None, kv: str | None = None) -> Formats:
        """One default for all; what is given overrides it."""
        return cls(
            check_format(weights or default, "--weights", WEIGHT_FORMATS),
            check_format(activations or default, "--activations"),
            check_format(kv or default, "--kv"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """`q_len` new tokens per sequence after `context` tokens that are in the KV cache already; integers or arrays that broadcast."""

    phase: Phase
    batch: Dim
    q_len: Dim
    context: Dim
    formats: Formats
    logits: Logits = "last"

    @property
    def kv_len(self) -> Dim:
        """Keys that the last new token may look at."""
        return self.context + self.q_len

    @property
    def tokens(self) -> Dim:
        """New tokens of the whole batch."""
        return self.batch * self.q_len

    @classmethod
    def prefill(cls, formats: Formats, batch: Dim = 1, prompt: Dim = 512, logits: Logits = "last") -> Scenario:
        """The whole prompt in one pass over an empty cache."""
        return cls("prefill", batch, prompt, 0, formats, logits)

    @classmethod
    def decode(cls, formats: Formats, batch: Dim = 1, context: Dim = 512, logits: Logits = "last") -> Scenario:
        """One token per sequence after `context` others."""
        return cls("decode", batch, 1, context, formats, logits)

    def check(self, config: ModelConfig) -> None:
        """Raise `ScenarioError` where a length is impossible for this model."""
        length_flag = "--prompt" if self.phase == "prefill" else "--context"
        length = self.q_len if self.phase == "prefill" else self.context
        problems = [
            Problem(f"must be at least 1, found {np.min(value)}", path=flag)
            for flag, value in (("--batch", self.batch), (length_flag, length))
            if np.min(value) < 1
        ]
        if np.max(self.batch) > LARGEST_BATCH:
            problems.append(Problem(f"must be at most {LARGEST_BATCH}, found {np.max(self.batch)}", path="--batch"))
        longest, limit = int(np.max(self.kv_len)), config.max_position_embeddings
        if longest > limit:
            cure = f"at most {limit if self.phase == 'prefill' else limit - 1} for this model (max_position_embeddings {limit})"
            problems.append(Problem(f"{config.name} cannot hold {longest} positions", cure, path=length_flag))
        if problems:
            raise ScenarioError(problems)
