"""What is asked of a model: phase, batch, lengths and number formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.formats import ACTIVATION_FORMATS, WEIGHT_FORMATS, check_format
from functional.llama import Head, Logits
from functional.sampling import Sampling
from functional.spec import Dim

Phase: TypeAlias = Literal["prefill", "decode"]
StepKind: TypeAlias = Literal["prefill", "decode", "extend"]
"""extend: several new tokens after others, a chunk of a prompt or what a draft model proposes."""
LARGEST_BATCH = 2**20
"""Beyond any use; it keeps all counts of all models within 64 bits."""

PHASES: tuple[Phase, ...] = ("prefill", "decode")

DEFAULT_LENGTH = 512
"""Tokens of a prompt of which nothing is said, where the model can hold it and one more."""


def default_length(config: ModelConfig, following: int = 1) -> int:
    """Tokens of a prompt of which nothing is said: 512, or as many as leave room for those that follow."""
    return max(1, min(DEFAULT_LENGTH, config.max_position_embeddings - following))


@dataclass(frozen=True, slots=True, eq=False)
class Formats:
    """Number formats of the weight matrices, of every tensor between ops (and the norms' weights with them), and of the KV cache."""

    weights: str
    activations: str
    kv: str

    @classmethod
    def of(
        cls,
        default: str,
        weights: str | None = None,
        activations: str | None = None,
        kv: str | None = None,
        flag: str = "--weights",
    ) -> Formats:
        """One default for all; what is given overrides it. `flag` names the weights' format in messages."""
        return cls(
            check_format(default if weights is None else weights, flag, WEIGHT_FORMATS),
            check_format(default if activations is None else activations, "--activations", ACTIVATION_FORMATS),
            check_format(default if kv is None else kv, "--kv"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """`q_len` new tokens per sequence after `context` tokens that are in the KV cache already; integers or arrays that broadcast.

    With `sampling` the step ends with the choice of the next token, and token ids leave it instead of logits.
    """

    phase: StepKind
    batch: Dim
    q_len: Dim
    context: Dim
    formats: Formats
    logits: Head = "last"
    sampling: Sampling | None = None

    @property
    def kv_len(self) -> Dim:
        """Keys that the last new token may look at."""
        return self.context + self.q_len

    @property
    def tokens(self) -> Dim:
        """New tokens of the whole batch."""
        return self.batch * self.q_len

    @classmethod
    def prefill(
        cls, formats: Formats, batch: Dim = 1, prompt: Dim = 512, logits: Logits = "last", sampling: Sampling | None = None
    ) -> Scenario:
        """The whole prompt in one pass over an empty cache."""
        return cls("prefill", batch, prompt, 0, formats, logits, sampling)

    @classmethod
    def decode(
        cls, formats: Formats, batch: Dim = 1, context: Dim = 512, logits: Logits = "last", sampling: Sampling | None = None
    ) -> Scenario:
        """One token per sequence after `context` others."""
        return cls("decode", batch, 1, context, formats, logits, sampling)

    @classmethod
    def extend(
        cls, formats: Formats, batch: Dim, tokens: Dim, context: Dim, logits: Head = "last", sampling: Sampling | None = None
    ) -> Scenario:
        """`tokens` new tokens per sequence after `context` others (0: none yet); each sees those before it."""
        return cls("extend", batch, tokens, context, formats, logits, sampling)

    def _named(self) -> dict[str, Dim]:
        """Batch and length by their flags."""
        return {"--batch": self.batch, **({"--context": self.context} if self.phase == "decode" else {"--prompt": self.q_len})}

    def refuse_arrays(self) -> None:
        """Raise `ScenarioError` where the batch or a length is an array: that is many steps."""
        arrays = {flag: np.shape(value) for flag, value in self._named().items() if np.ndim(value)}
        if arrays:
            cure = "give one number; for arrays of batches or lengths call roofline_grid"
            raise ScenarioError(Problem(f"is an array of {math.prod(shape)}", cure, path=flag) for flag, shape in arrays.items())

    def check(self, config: ModelConfig) -> None:
        """Raise `ScenarioError` where a length is impossible for this model."""
        named = self._named()
        empty = [flag for flag, value in named.items() if np.size(value) == 0]
        if empty:
            raise ScenarioError(Problem("is an empty array", "give at least one number", path=flag) for flag in empty)
        length_flag, length = list(named.items())[1]
        problems = [
            Problem(f"must be at least 1, found {np.min(value)}", path=flag)
            for flag, value in named.items()
            if np.min(value) < 1
        ]
        if np.max(self.batch) > LARGEST_BATCH:
            problems.append(Problem(f"must be at most {LARGEST_BATCH}, found {np.max(self.batch)}", path="--batch"))
        longest, limit = int(np.max(self.kv_len)), config.max_position_embeddings
        if longest > limit:
            room = limit - int(np.max(self.kv_len - length))
            cure = f"at most {room} for this model (max_position_embeddings {limit})"
            problems.append(Problem(f"{config.name} cannot hold {longest} positions", cure, path=length_flag))
        if self.sampling is not None:
            problems += self.sampling.beyond(config.vocab_size)
        if problems:
            raise ScenarioError(problems)
