"""Text from the golden model: a batch of prompts of any lengths, token by token.

The text of the model stays as it is. Prompts of different lengths are padded on the left, so that all end at the same position of the
cache; that a row begins later than the others is a matter of the interpreter (`LeftPadded`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from functional.checkpoint import Checkpoint
from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.interpreters import Torch
from functional.llama import Head, KVCache, Weights, forward
from functional.memory import available_bytes, check_memory, memory_need
from functional.ops import Op
from functional.sampling import Sampling, sample
from functional.tokenizer import TextStream, Tokenizer, check_vocabulary, load_tokenizer, stop_ids
from functional.weights import new_cache

DEFAULT_NEW_TOKENS = 128
_LONGEST_CHUNK = 2048
_CHUNK_SCORES = 2**26
"""Elements of a score tensor to which a chunk of a prompt is cut: 256 MiB in fp32."""

Step = tuple[int | None, ...]


def generate_text(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    copies: int = 1,
    tokenizer: Tokenizer | None = None,
) -> Iterator[tuple[int, str]]:
    """Pieces of the texts that follow the prompts, each `copies` times, as (which text, piece); an empty piece tells that a text has ended.

    `max_new_tokens` defaults to `DEFAULT_NEW_TOKENS`, or to as many as the context has room for. All is checked before this returns; raises
    `ScenarioError` for prompts that cannot be, `CheckpointError` for a tokenizer that does not belong to the model.
    """
    tokenizer = tokenizer or load_tokenizer(checkpoint.directory)
    check_vocabulary(tokenizer, checkpoint.config)
    if not all(prompts):
        raise ScenarioError(Problem("the prompt is empty", "give the text to go on from"))
    if any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt):
        raise ScenarioError(Problem("the prompt is no UTF-8 text", "give it in UTF-8"))
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    room = checkpoint.config.max_position_embeddings - max(map(len, ids), default=0)
    tokens = max(1, min(DEFAULT_NEW_TOKENS, room)) if max_new_tokens is None else max_new_tokens
    steps = generate(checkpoint.config, checkpoint.weights, ids, tokens, sampling, stop_ids(checkpoint.directory, tokenizer), copies)
    return _texts([TextStream(tokenizer, each) for each in ids * copies], steps)


def _texts(streams: list[TextStream], steps: Iterator[Step]) -> Iterator[tuple[int, str]]:
    alive = set(range(len(streams)))
    for step in steps:
        for i in sorted(alive):
            token = step[i]
            if token is not None:
                piece = streams[i].push(token)
                if piece:
                    yield i, piece
            else:
                alive.remove(i)
                yield from _last_pieces(i, streams[i])
    for i in sorted(alive):
        yield from _last_pieces(i, streams[i])


def _last_pieces(i: int, stream: TextStream) -> Iterator[tuple[int, str]]:
    piece = stream.end()
    if piece:
        yield i, piece
    yield i, ""


def generate(
    config: ModelConfig,
    weights: Weights[Tensor],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    stop: Collection[int] = (),
    copies: int = 1,
    chunk: int | None = None,
    interpreter: Torch | None = None,
) -> Iterator[Step]:
    """The next token of each prompt (all of them `copies` times), step by step; a sequence ends with a token of `stop`, then it is None.

    Prompts are taken in `chunk` tokens at a time (None: as many as keep the scores small). `interpreter` computes model and sampling, to
    watch them; it takes prompts of one length. All is checked before this returns; raises `ScenarioError`.
    """
    _check(config, prompts, max_new_tokens, copies)
    if beyond := sampling.beyond(config.vocab_size):
        raise ScenarioError(beyond)
    batch, longest = copies * len(prompts), max(map(len, prompts))
    chunk = chunk or _chunk(config, batch, longest)
    tokens = longest + max_new_tokens - 1
    if weights.embed_tokens.device.type == "cpu":
        check_memory(memory_need(config, weights, batch, tokens, min(chunk, longest)), available_bytes())
    return _steps(config, weights, [*prompts] * copies, tokens, sampling, frozenset(stop), chunk, interpreter or Torch())


def _check(config: ModelConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int, copies: int) -> None:
    if not prompts or not all(prompts):
        raise ScenarioError(Problem("the prompt is empty", "give at least one token"))
    if copies < 1:
        raise ScenarioError(Problem(f"{copies} sequences for each prompt", "give 1 or more", path="--batch"))
    if max_new_tokens < 1:
        raise ScenarioError(Problem(f"{max_new_tokens} new tokens", "give 1 or more", path="--max-new-tokens"))
    longest, context = max(map(len, prompts)), config.max_position_embeddings
    if longest >= context:
        message = f"a prompt of {longest} tokens leaves no room in {config.name}'s context of {context}"
        raise ScenarioError(Problem(message, f"shorten it to at most {context - 1} tokens"))
    if longest + max_new_tokens > context:
        message = f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than {config.name}'s context of {context}"
        raise ScenarioError(Problem(message, f"ask for at most {context - longest} new tokens", path="--max-new-tokens"))
    outside = next((token for prompt in prompts for token in prompt if not 0 <= token < config.vocab_size), None)
    if outside is not None:
        raise ScenarioError(Problem(f"the prompt holds token {outside}, beyond a vocabulary of {config.vocab_size}", "check the tokenizer"))


def _chunk(config: ModelConfig, batch: int, tokens: int) -> int:
    return max(1, min(_LONGEST_CHUNK, _CHUNK_SCORES // (batch * config.num_attention_heads * tokens)))


def _steps(
    config: ModelConfig,
    weights: Weights[Tensor],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    sampling: Sampling,
    stop: frozenset[int],
    chunk: int,
    interpreter: Torch,
) -> Iterator[Step]:
    table = weights.embed_tokens
    generator = torch.Generator(table.device).manual_seed(sampling.seed)
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    cache = new_cache(config, len(prompts), tokens, str(table.dtype).removeprefix("torch."), table.device)
    ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)], device=table.device)

    ended = [False] * len(prompts)

    def logits_of(ids: Tensor, position: int, wanted: Head = "last") -> Tensor:
        f = LeftPadded(padding, position + ids.shape[1]) if any(padding) else interpreter
        return _forward(config, weights, ids, cache, position, f, wanted)

    for first, last in pairwise([*range(0, longest, chunk), longest]):
        logits = logits_of(ids[:, first:last], first, "last" if last == longest else "none")
    for position in range(longest, tokens + 1):
        if not logits.amax(-1).isfinite().all():
            raise ScenarioError(Problem("the logits are not finite", "look for NaN and infinities among the checkpoint's weights"))
        with torch.inference_mode():
            ids = sample(interpreter, logits, sampling, generator)
        chosen = ids[:, 0].tolist()
        yield tuple(None if done else token for done, token in zip(ended, chosen, strict=True))
        ended = [done or token in stop for done, token in zip(ended, chosen, strict=True)]
        if all(ended) or position == tokens:
            return
        logits = logits_of(ids, position)


@torch.inference_mode()
def _forward(
    config: ModelConfig, weights: Weights[Tensor], ids: Tensor, cache: KVCache[Tensor], position: int, f: Torch, logits: Head
) -> Tensor:
    """Logits [B, 1, V] of the last of the tokens ids[B, T]; with logits="none" they only enter the cache."""
    return forward(f, config, weights, ids, cache, position, ids.shape[1], logits)


class LeftPadded(Torch):
    """Computes with rows that begin late: the first `padding[b]` of the `tokens` tokens up to this step are no part of row b.

    Such a row's positions count from its own first token, and none of its queries sees a key from before. (What stands there sees itself,
    so that everything stays finite, and is seen by nobody.)
    """

    def __init__(self, padding: Sequence[int], tokens: int) -> None:
        super().__init__()
        self._padding = list(padding)
        self._tokens = tokens
        self._unseen: Tensor | None = None

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        if op.kind == "RoPETable":
            return self._tables(op, name, inputs, **attrs)
        output = super().apply(op, name, inputs, **attrs)
        if op.kind == "MatMul" and attrs["mask_axis"] == "n":
            return output.masked_fill(self._before(output), float("-inf"))
        return output

    def _tables(self, op: Op, name: str, inputs: tuple[Tensor, ...], *, first: int, length: int) -> Tensor:
        """A table for each row: [2, B, 1, T, E/2], which `RoPE` spreads over the heads."""
        tables = {pad: super(LeftPadded, self).apply(op, name, inputs, first=first - pad, length=length) for pad in set(self._padding)}
        return torch.stack([tables[pad] for pad in self._padding], 1)[:, :, None]

    def _before(self, scores: Tensor) -> Tensor:
        """True where a key is from before the row's first token, and the query is not: [B, 1, T, S]; the same in all layers."""
        if self._unseen is None:
            queries, keys = scores.shape[-2:]
            padding = torch.tensor(self._padding, device=scores.device)[:, None, None, None]
            key = torch.arange(self._tokens - keys, self._tokens, device=scores.device)
            query = torch.arange(self._tokens - queries, self._tokens, device=scores.device)[:, None]
            self._unseen = (key < padding) & (query >= padding)
        return self._unseen
