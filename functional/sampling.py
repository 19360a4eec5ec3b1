"""From logits to the next token: greedy, or drawn after temperature, top-k and top-p, in this order.

As the model, a text over an interpreter: what chooses the token is what is traced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from functional.errors import Problem, ScenarioError
from functional.interpreters import Interpreter

if TYPE_CHECKING:
    from torch import Generator

T = TypeVar("T")

_COLDEST = 1e-30
"""The lowest temperature above 0: logits of up to 10^8 stay finite in fp32."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy, whatever `top_k` and `top_p` are: both always keep the most likely token.

    Sources: Fan et al., arXiv 1805.04833, sec. 5 (top-k); Holtzman et al., arXiv 1904.09751, sec. 3.1 (top-p).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ScenarioError(problems)

    def _problems(self) -> Iterable[Problem]:
        if not 0 <= self.temperature < math.inf:
            yield Problem(f"{self.temperature} is no temperature", "0 is greedy, 1 the model's own distribution", path="--temperature")
        if 0 < self.temperature < _COLDEST:
            yield Problem(f"logits divided by {self.temperature} leave fp32", "give 0, which is greedy", path="--temperature")
        if self.top_k is not None and self.top_k < 1:
            yield Problem(f"cannot draw from the {self.top_k} most likely tokens", "give 1 or more", path="--top-k")
        if not 0 < self.top_p <= 1:
            yield Problem(f"{self.top_p} is no probability above 0", "give more than 0 and at most 1", path="--top-p")
        if not -(2**63) <= self.seed < 2**64:
            yield Problem(f"{self.seed} does not fit 64 bits", "give a smaller seed", path="--seed")

    def beyond(self, vocabulary: int) -> list[Problem]:
        """What a vocabulary of this size has no room for."""
        if self.top_k is None or self.top_k <= vocabulary:
            return []
        return [Problem(f"the vocabulary has only {vocabulary} tokens to draw from, not {self.top_k}", "give less", path="--top-k")]

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


def sample(f: Interpreter[T], logits: T, sampling: Sampling, generator: Generator | None = None) -> T:
    """A token id for each row of logits [B, T, V]: [B, T]. Only a draw uses the generator, once per call, for all rows."""
    with f.scope("sampling"):
        if sampling.is_greedy:
            return f.arg_max("argmax", logits)
        return f.draw("draw", distribution(f, logits, sampling), generator)


def distribution(f: Interpreter[T], logits: T, sampling: Sampling) -> T:
    """Probabilities [..., V] in fp32 from which a token is drawn; 0 where top-k or top-p leave it out."""
    scores = f.scale("temperature", logits, sampling.temperature)
    if sampling.top_k is not None:
        scores = f.top_k("top_k", scores, sampling.top_k)
    if sampling.top_p < 1:
        scores = nucleus(f, scores, sampling.top_p)
    return f.softmax("softmax", scores)


def nucleus(f: Interpreter[T], scores: T, top_p: float) -> T:
    """Scores [..., V] with -inf for all but the most likely tokens that make up `top_p`."""
    with f.scope("top_p"):
        ordered = f.sort("sort", scores)
        cumulative = f.cumulative_sum("cumulative", f.softmax("softmax", ordered))
        outside = f.least_likely("outside", cumulative, top_p)  # [..., 1]
        return f.nucleus("keep", scores, outside, f.gather("gather", ordered, outside))
