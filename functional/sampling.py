"""From logits to the next token: greedy, or drawn after temperature, top-k and top-p, in this order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from functional.errors import Problem, ScenarioError


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
            yield Problem(f"{self.temperature} is no temperature", "0 is greedy, 1 the model's own distribution", path="temperature")
        if self.top_k is not None and self.top_k < 1:
            yield Problem(f"cannot draw from the {self.top_k} most likely tokens", "give 1 or more", path="top_k")
        if not 0 < self.top_p <= 1:
            yield Problem(f"{self.top_p} is no probability above 0", "give more than 0 and at most 1", path="top_p")
        if not -(2**63) <= self.seed < 2**64:
            yield Problem(f"{self.seed} does not fit 64 bits", "give a smaller seed", path="seed")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


def next_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token id for each row of logits [B, V]: [B]. Only a draw uses the generator, once per call, for all rows."""
    if sampling.is_greedy:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, sampling), 1, generator=generator).squeeze(1)


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [B, V] in fp32 from which a token is drawn; 0 where top-k or top-p leave it out."""
    scores = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -math.inf)
    if sampling.top_p < 1:
        scores = scores.masked_fill(_outside_nucleus(scores, sampling.top_p), -math.inf)
    return scores.softmax(-1)


def _outside_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """True for the least likely tokens that together have at most 1 - top_p; never for the most likely one."""
    ascending, order = scores.sort(-1)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    outside[:, -1] = False
    return outside.scatter(-1, order, outside)
