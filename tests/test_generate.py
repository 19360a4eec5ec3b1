"""Truth defended: the golden model says what transformers says from the same files, token by token, in any batch, greedy or drawn."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor

from functional import generate as module
from functional.checkpoint import Checkpoint, open_checkpoint
from functional.config import ModelConfig
from functional.errors import BadInput, ScenarioError
from functional.generate import DEFAULT_NEW_TOKENS, LeftPadded, generate, generate_text
from functional.interpreters import Torch
from functional.llama import Weights, forward
from functional.memory import MemoryNeed, available_bytes, check_memory, memory_need
from functional.ops import OPS, attention
from functional.sampling import Sampling, distribution
from functional.tokenizer import load_tokenizer
from functional.weights import new_cache, random_weights, rotary_frequencies
from functional.work import Mask
from sim.cli import main
from tests.small_checkpoints import CORPUS, LAYOUTS, SMALL, hub_fields, transformers_ids, transformers_model, write_checkpoint

NEW = 24
PROMPTS = ["The capital of France is", "A chip", "東京は日本の首都です。 Привет", "\n"]
DRAWN = Sampling(temperature=0.8, top_k=60, top_p=0.9, seed=5)
MODELS = {
    "plain": replace(SMALL, vocab_size=120),
    "window": replace(SMALL, vocab_size=120, sliding_window=5),
    "window of two": replace(SMALL, vocab_size=120, sliding_window=2),
}
Ids = list[list[int]]
IDS: Ids = [[5, 7, 9, 11, 3, 2, 80], [1, 2], [4] * 13]


def theirs(model: Any, prompts: Ids, new: int = NEW, sampling: Sampling | None = None, stop: int | None = None) -> Ids:
    """transformers' generate on a batch that is padded on the left; a row that has ended is filled with -1."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how: dict[str, Any] = {"do_sample": False}
    if sampling is not None:
        torch.manual_seed(sampling.seed)
        how = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p}
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new, eos_token_id=stop, pad_token_id=0, **how)[:, longest:]
    if stop is not None:
        ended = (out == stop).cumsum(1) - (out == stop).int() > 0
        out = out.masked_fill(ended, -1)
    rows: list[list[int]] = out.tolist()
    return rows


def ours(steps: Iterator[tuple[int | None, ...]]) -> list[list[int]]:
    return [[-1 if token is None else token for token in row] for row in zip(*steps, strict=True)]


def varied(rows: list[list[int]]) -> bool:
    """Tokens that say something: not one word over and over."""
    return len({token for row in rows for token in row}) > 9


# From files, against transformers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [None, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "batch"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_equal_those_of_transformers(tmp_path: Path, layout: str, prompts: list[str], sampling: Sampling | None) -> None:
    config, weights = write_checkpoint(tmp_path, layout)
    wanted = theirs(transformers_model(config, weights), [transformers_ids(tmp_path, layout, prompt) for prompt in prompts], NEW, sampling)
    found = open_checkpoint(tmp_path)
    assert found.config == config
    tokenizer = load_tokenizer(tmp_path)
    rows = ours(generate(config, found.weights, [tokenizer.encode(prompt) for prompt in prompts], NEW, sampling or Sampling()))
    assert rows == wanted
    assert varied(rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_is_that_of_the_ids_up_to_the_end(tmp_path: Path, layout: str) -> None:
    config, weights = write_checkpoint(tmp_path, layout)
    tokenizer = load_tokenizer(tmp_path)
    ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    rows = theirs(transformers_model(config, weights), ids, NEW, DRAWN)
    texts = joined(generate_text(open_checkpoint(tmp_path), PROMPTS, NEW, DRAWN), len(PROMPTS))
    assert texts == [tokenizer.decode(prompt + row)[len(tokenizer.decode(prompt)) :] for prompt, row in zip(ids, rows, strict=True)]
    assert len(set(texts)) == len(texts)


def joined(pieces: Iterator[tuple[int, str]], texts: int) -> list[str]:
    """Whole texts; each must end exactly once, with an empty piece after which nothing comes."""
    parts: list[list[str]] = [[] for _ in range(texts)]
    for i, piece in pieces:
        assert parts[i][-1:] != [""]
        parts[i].append(piece)
    assert all(part[-1] == "" and "" not in part[:-1] for part in parts)
    return ["".join(part) for part in parts]


@pytest.mark.parametrize("name", MODELS)
def test_other_models_equal_transformers(name: str) -> None:
    """Windows that are shorter than the padding, too."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MODELS[name]
    weights = random_weights(config)
    model: Any = transformers_model(config, weights)
    if config.sliding_window is not None:
        rope = {"rope_type": "default", "rope_theta": config.rope_theta}
        shape = MistralConfig(**hub_fields(config), rope_parameters=rope, sliding_window=config.sliding_window, attn_implementation="eager")
        state, model = model.state_dict(), MistralForCausalLM(shape).eval()
        model.load_state_dict(state)
    rows = ours(generate(config, weights, IDS, NEW))
    assert rows == theirs(model, IDS)
    assert varied(rows)


# Ends ------------------------------------------------------------------------------------------------------------------------------------


def test_each_sequence_ends_with_a_stop_token() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    model = transformers_model(config, weights)
    free = theirs(model, IDS, 70, DRAWN)
    ends = {token: [row.index(token) for row in free] for token in set(free[0]).intersection(*free)}
    stop = next(token for token, places in ends.items() if len(set(places)) == 3 and min(places) > 0 and max(places) < 69)
    rows = ours(generate(config, weights, IDS, 70, DRAWN, [stop]))
    wanted = theirs(model, IDS, 70, DRAWN, stop)
    assert rows == wanted
    assert [row.index(stop) for row in rows] == ends[stop]
    assert len(rows[0]) == max(ends[stop]) + 1  # the last to end ends the batch
    several = ours(generate(config, weights, IDS[:1], NEW, DRAWN, [stop, free[0][0]]))
    assert several == [free[0][:1]]


def test_the_files_say_where_a_text_ends(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hugging face")
    checkpoint, tokenizer = open_checkpoint(tmp_path), load_tokenizer(tmp_path)
    (free,) = ours(generate(checkpoint.config, checkpoint.weights, [tokenizer.encode(PROMPTS[0])], NEW, DRAWN))
    ends = [free[9], free[12]]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (text,) = joined(generate_text(checkpoint, PROMPTS[:1], NEW, DRAWN), 1)
    kept = free[: min(free.index(end) for end in ends) + 1]
    assert text == tokenizer.decode(tokenizer.encode(PROMPTS[0]) + kept)[len(PROMPTS[0]) :]


def test_as_many_tokens_as_asked_for_and_as_the_context_holds() -> None:
    config = replace(MODELS["plain"], max_position_embeddings=20)
    weights = random_weights(config)
    for new in (1, 2, 7):
        assert len(list(generate(config, weights, IDS, new))) == new
    assert len(list(generate(config, weights, [[3] * 19], 1))) == 1


def test_without_a_number_the_context_is_filled_up_to_the_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hugging face")
    checkpoint, tokenizer = open_checkpoint(tmp_path), CountingTokenizer(tmp_path)
    list(generate_text(checkpoint, PROMPTS, tokenizer=tokenizer))
    assert tokenizer.pushed == checkpoint.config.max_position_embeddings - max(len(tokenizer.encode(prompt)) for prompt in PROMPTS)
    wide = Checkpoint(tmp_path, replace(checkpoint.config, max_position_embeddings=1000), checkpoint.weights)
    tokenizer = CountingTokenizer(tmp_path)
    list(generate_text(wide, PROMPTS[:1], tokenizer=tokenizer))
    assert tokenizer.pushed == DEFAULT_NEW_TOKENS


class CountingTokenizer:
    """How many tokens the first text was given: as many as the longest sequence that was decoded beyond its prompt."""

    def __init__(self, folder: Path) -> None:
        self._inner = load_tokenizer(folder)
        self.file, self.vocab_size, self.stop_ids = self._inner.file, self._inner.vocab_size, frozenset[int]()
        self.pushed = 0
        self._longest_prompt = 0

    def encode(self, text: str) -> list[int]:
        ids = self._inner.encode(text)
        self._longest_prompt = max(self._longest_prompt, len(ids))
        return ids

    def decode(self, ids: list[int]) -> str:
        # Text that is never whole makes the stream keep all ids.
        self.pushed = max(self.pushed, len(ids) - self._longest_prompt)
        return "\ufffd" * len(ids)


# Sampling --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.05, 1e-6, 1e-12])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5])
def test_distribution_equals_that_of_transformers(temperature: float, top_k: int | None, top_p: float) -> None:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 4 * torch.randn(6, 200, generator=torch.Generator().manual_seed(1))
    logits[3] = logits[3].round()  # ties
    logits[4] = 0.0
    logits[5, 3] = 90.0
    wanted: Any = LogitsProcessorList([TemperatureLogitsWarper(temperature)] if temperature != 1 else [])
    wanted += [TopKLogitsWarper(top_k)] if top_k else []
    wanted += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    found = distribution(Torch(), logits, Sampling(temperature, top_k, top_p))
    assert torch.equal(found, wanted(None, logits).softmax(-1))
    assert (found.sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.97])
def test_equally_likely_tokens_at_the_border_are_parted_as_transformers_does(top_p: float) -> None:
    """Logits in bf16 have many equals; which of those at the border stay is a matter of PyTorch's sort, whose order is not that of ids."""
    from transformers import TopPLogitsWarper

    logits = (3 * torch.randn(40, 5000, generator=torch.Generator().manual_seed(2))).bfloat16().float()
    found = distribution(Torch(), logits, Sampling(1.0, top_p=top_p))
    kept = TopPLogitsWarper(top_p)(None, logits)  # type: ignore[arg-type]
    assert torch.equal(found, kept.softmax(-1))
    border = logits.masked_fill(kept.isinf(), float("inf")).amin(-1, keepdim=True)
    assert int(((logits == border) & kept.isinf()).any(-1).sum()) >= 3


def test_distribution_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8. Temperature 1/2 squares them: 32/43.. of 16, 4, 1, 1. top-p keeps the fewest that reach p."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert distribution(Torch(), logits, Sampling(1.0))[0].tolist() == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert distribution(Torch(), logits, Sampling(0.5))[0].tolist() == pytest.approx([16 / 22, 4 / 22, 1 / 22, 1 / 22])
    assert distribution(Torch(), logits, Sampling(1.0, top_k=2))[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert distribution(Torch(), logits, Sampling(1.0, top_p=0.7))[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert distribution(Torch(), logits, Sampling(1.0, top_p=0.4))[0].tolist() == pytest.approx([1, 0, 0, 0])
    # Temperature comes first: squared, the first token alone reaches 0.7.
    assert distribution(Torch(), logits, Sampling(0.5, top_p=0.7))[0].tolist() == pytest.approx([1, 0, 0, 0])
    # top-k comes before top-p: of the two that are left, the first has 2/3.
    assert distribution(Torch(), logits, Sampling(1.0, top_k=2, top_p=0.6))[0].tolist() == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize(("rows", "vocabulary", "kept"), [(1, 2, 2), (7, 131, 131), (4, 32_000, 32_000), (4, 32_000, 9), (2, 128_256, 900)])
def test_a_draw_is_that_of_multinomial(rows: int, vocabulary: int, kept: int) -> None:
    """The same tokens from the same seed, and the generator is left where it is left there."""
    logits = 3 * torch.randn(rows, 1, vocabulary, generator=torch.Generator().manual_seed(1))
    probabilities = distribution(Torch(), logits, Sampling(1.3, top_k=kept))
    mine, others = (torch.Generator().manual_seed(77) for _ in range(2))
    for _ in range(5):
        found = Torch().draw("draw", probabilities, mine)
        assert found.tolist() == torch.multinomial(probabilities[:, 0], 1, generator=others).tolist()
    assert torch.equal(mine.get_state(), others.get_state())


def test_a_seed_repeats_and_another_does_not() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    torch.manual_seed(1)
    first = ours(generate(config, weights, IDS, NEW, DRAWN))
    torch.manual_seed(2)  # PyTorch's own seed has no part in it
    assert ours(generate(config, weights, IDS, NEW, DRAWN)) == first
    assert ours(generate(config, weights, IDS, NEW, replace(DRAWN, seed=6))) != first
    state = torch.random.get_rng_state()
    list(generate(config, weights, IDS, 2, DRAWN))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_lowest_temperature_is_greedy() -> None:
    logits = 1e7 * torch.randn(4, 1, 5000, generator=torch.Generator().manual_seed(3))
    found = distribution(Torch(), logits, Sampling(1e-30, top_p=0.9))
    assert torch.equal(found.argmax(-1), logits.argmax(-1))
    assert torch.equal(found.amax(-1), torch.ones(4, 1))


def test_greedy_is_the_most_likely_whatever_else_is_said() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    greedy = ours(generate(config, weights, IDS, NEW))
    assert ours(generate(config, weights, IDS, NEW, Sampling(0, 3, 0.5, 9))) == greedy
    assert ours(generate(config, weights, IDS, NEW, Sampling(1.0, top_k=1, seed=9))) == greedy
    assert ours(generate(config, weights, IDS, NEW, DRAWN)) != greedy


def test_copies_of_a_prompt_are_drawn_each_for_itself() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    rows = ours(generate(config, weights, IDS, NEW, DRAWN, copies=2))
    assert rows == ours(generate(config, weights, IDS * 2, NEW, DRAWN))
    assert rows[0] != rows[3]


# The batch, the chunks, the steps --------------------------------------------------------------------------------------------------------


def padded_logits(config: ModelConfig, weights: Weights[Tensor], rows: list[list[int]], cuts: list[int]) -> Tensor:
    """Logits of every step, for rows padded on the left with whatever stands there."""
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    ids = torch.tensor([[99] * pad + row for pad, row in zip(padding, rows, strict=True)])
    cache = new_cache(config, len(rows), longest)
    parts = []
    for first, last in zip([0, *cuts], [*cuts, longest], strict=True):
        interpreter = LeftPadded(padding, last)
        parts.append(forward(interpreter, config, weights, ids[:, first:last], cache, first, last - first, "all"))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("cuts", [[], [1], [6], [11, 12], [3, 6, 9], list(range(1, 13))])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_computes_as_if_it_were_alone(name: str, cuts: list[int]) -> None:
    """In one prefill, in chunks, one by one; also a chunk in which a row has not begun."""
    config = MODELS[name]
    weights = random_weights(config)
    found = padded_logits(config, weights, IDS, cuts)
    assert found.isfinite().all()
    for i, row in enumerate(IDS):
        ids = torch.tensor([row])
        alone = forward(Torch(), config, weights, ids, new_cache(config, 1, len(row)), 0, len(row), "all")
        torch.testing.assert_close(found[i, -len(row) :], alone[0], rtol=0, atol=3e-6 * float(alone.abs().max()))


def test_positions_count_from_the_first_token_of_each_row() -> None:
    """Exactly: a shift of all positions would only round differently, but in fp32 it does, the more the longer the context."""
    frequencies = rotary_frequencies(MODELS["plain"])
    (cosines, sines) = LeftPadded([0, 1000, 7], 1012).apply(OPS["RoPETable"], "rotary_emb", (frequencies,), first=1007, length=5)
    for i, first in enumerate((1007, 7, 1000)):
        cosine, sine = OPS["RoPETable"].compute(frequencies, first=first, length=5)
        assert torch.equal(cosines[i, 0], cosine)
        assert torch.equal(sines[i, 0], sine)


@pytest.mark.parametrize("window", [None, *range(1, 9)])
def test_a_mask_is_left_out_exactly_where_it_hides_nothing(window: int | None) -> None:
    for keys in range(1, 8):
        for queries in range(1, keys + 1):
            for offset in range(keys - queries, keys + 2):
                scores, mask = torch.zeros(1, 1, queries, keys), Mask(offset, window)
                assert attention._sees_all(scores, mask) == (not attention._hidden(scores, mask).any())


@pytest.mark.parametrize("chunk", [1, 2, 5, 12, 13, 500])
def test_chunks_of_a_prompt_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    whole = ours(generate(config, weights, IDS, NEW, chunk=13))
    lengths: list[int] = []
    compute = module._forward

    def noted(config: ModelConfig, weights: Weights[Tensor], ids: Tensor, *rest: Any) -> Tensor:
        lengths.append(ids.shape[1])
        return compute(config, weights, ids, *rest)

    monkeypatch.setattr(module, "_forward", noted)
    assert ours(generate(config, weights, IDS, NEW, chunk=chunk)) == whole
    prefill, decode = lengths[: -(NEW - 1)], lengths[-(NEW - 1) :]
    assert sum(prefill) == 13
    assert max(prefill) == min(chunk, 13)
    assert decode == [1] * (NEW - 1)  # the last token is never fed


def test_long_prompts_are_cut_so_that_scores_stay_small() -> None:
    heads = SMALL.num_attention_heads
    for batch, tokens in ((1, 100), (4, 8192), (64, 131072)):
        chunk = module._chunk(SMALL, batch, tokens)
        assert chunk == 1 or batch * heads * chunk * tokens <= 2**26
        assert 1 <= chunk <= 2048


def test_steps_are_computed_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS["plain"]
    calls = []
    monkeypatch.setattr(module, "_forward", lambda *given: calls.append(given) or torch.zeros(3, 1, 120))
    steps = generate(config, random_weights(config), IDS, 5, chunk=100)
    assert not calls
    for wanted in (1, 2, 3):
        next(steps)
        assert len(calls) == wanted


# Memory ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told(wrong: float) -> None:
    weights = random_weights(MODELS["plain"])
    broken = replace(weights, norm=weights.norm.clone().fill_(wrong))
    with pytest.raises(BadInput, match="the logits are not finite"):
        next(generate(MODELS["plain"], broken, IDS, 3))


def test_memory_by_hand() -> None:
    """48 wide, 112 in the MLP, 6 heads of 8 on 2 key/value heads, 120 words, 3 layers, fp32."""
    config = MODELS["plain"]
    need = memory_need(config, random_weights(config), batch=4, tokens=50, chunk=10)
    layer = 48 * 48 * 2 + 48 * 16 * 2 + 3 * 48 * 112 + 2 * 48
    assert need.weights_bytes == 4 * (3 * layer + 2 * 120 * 48 + 48)
    cache = new_cache(config, 4, 50)
    assert need.kv_cache_bytes == sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert need.kv_cache_bytes == 4 * 2 * 3 * 2 * 8 * 4 * 50
    assert need.activations_bytes == 4 * 4 * (4 * 6 * 10 * 50 + 6 * 10 * (112 + 48) + 8 * 120)
    assert need.total_bytes == need.weights_bytes + need.kv_cache_bytes + need.activations_bytes
    narrow = memory_need(config, random_weights(config, dtype="bf16"), batch=4, tokens=50, chunk=10)
    assert (2 * narrow.weights_bytes, 2 * narrow.kv_cache_bytes) == (need.weights_bytes, need.kv_cache_bytes)


def test_memory_is_compared_with_what_there_is() -> None:
    need = MemoryNeed(3 * 2**30, 2**30, 2**20)
    check_memory(need, None)
    check_memory(need, need.total_bytes)
    with pytest.raises(ScenarioError) as raised:
        check_memory(need, need.total_bytes - 1)
    parts = "weights 3.0 GiB, KV cache 1.0 GiB, activations 1.0 MiB"
    assert str(raised.value).startswith(f"out of memory foreseen: 4.0 GiB are needed ({parts}), 4.0 GiB are available; ")


def test_this_machine_has_memory() -> None:
    available = available_bytes()
    assert available is None or 2**26 < available < 2**50


# The command -----------------------------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    """The command in this process: its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rooftile", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


def text_of(folder: Path, prompt: str, sampling: Sampling, copies: int = 1) -> list[str]:
    return joined(generate_text(open_checkpoint(folder), [prompt], NEW, sampling, copies), copies)


@pytest.mark.parametrize("layout", ["hugging face", "meta, llama 3, shards", "meta, llama 2"])
def test_stdout_is_the_new_text_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    write_checkpoint(tmp_path, layout)
    assert run(tmp_path, PROMPTS[0], "--max-new-tokens", NEW) == 0
    assert capsys.readouterr() == (text_of(tmp_path, PROMPTS[0], Sampling())[0], "")
    drawn = ("--max-new-tokens", NEW, "--temperature", 0.8, "--top-k", 60, "--top-p", 0.9, "--seed", 5)
    assert run(tmp_path, PROMPTS[0], *drawn) == 0
    assert capsys.readouterr() == (text_of(tmp_path, PROMPTS[0], DRAWN)[0], "")


def test_texts_of_a_batch_follow_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, "hugging face")
    drawn = ("--max-new-tokens", NEW, "--temperature", 0.8, "--top-k", 60, "--top-p", 0.9, "--seed", 5)
    assert run(tmp_path, PROMPTS[0], *drawn, "--batch", 3) == 0
    texts = text_of(tmp_path, PROMPTS[0], DRAWN, 3)
    assert capsys.readouterr().out == "\n".join(texts)
    assert len(set(texts)) == 3
    assert run(tmp_path, PROMPTS[0], PROMPTS[1], "--max-new-tokens", 5) == 0
    assert capsys.readouterr().out == "\n".join(joined(generate_text(open_checkpoint(tmp_path), PROMPTS[:2], 5), 2))


def test_greedy_with_filters_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, "hugging face")
    assert run(tmp_path, PROMPTS[0], "--max-new-tokens", NEW, "--top-k", 5) == 0
    out, err = capsys.readouterr()
    assert out == text_of(tmp_path, PROMPTS[0], Sampling())[0]
    assert err == "rooftile: warning: temperature 0 is greedy: top-k and top-p change nothing; give --temperature\n"


def test_as_a_program(tmp_path: Path) -> None:
    """In a process of its own: characters of several bytes, exit codes, no traceback."""
    write_checkpoint(tmp_path, "meta, llama 2")
    command = [sys.executable, "-c", "from sim.cli import main; main()", "generate", str(tmp_path)]
    done = subprocess.run([*command, PROMPTS[2], "--max-new-tokens", str(NEW)], capture_output=True, check=True)
    assert done.stdout.decode() == text_of(tmp_path, PROMPTS[2], Sampling())[0]
    assert done.stderr == b""
    (tmp_path / "consolidated.00.pth").unlink()
    failed = subprocess.run([*command, PROMPTS[2]], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert failed.stderr.startswith(f"rooftile: {tmp_path}: no checkpoint here: neither model.safetensors nor ")


def break_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def break_shape(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "intermediate_size": 111}))


def break_pickle(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({"norm.weight": Path("x")}, folder / "consolidated.00.pth")


def break_vocabulary(folder: Path) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    described["added_tokens"].append({**described["added_tokens"][0], "id": 340, "content": "<|more|>"})
    (folder / "tokenizer.json").write_text(json.dumps(described))


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_everything(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


BROKEN = {
    break_shard: "model-00002-of-00003.safetensors: the shard is missing; ",
    break_shape: "expected shape [111, 48], found [112, 48]; ",
    break_pickle: "consolidated.00.pth: not plain tensors: it asks for pathlib.PosixPath; refused, nothing in it was executed; ",
    break_vocabulary: "tokenizer.json: 341 tokens, but DIR has a vocabulary of 340; ",
    break_tokenizer: "the directory holds no tokenizer: neither tokenizer.json nor tokenizer.model; ",
    break_everything: "no checkpoint here: neither config.json nor params.json; ",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: Any) -> None:
    write_checkpoint(tmp_path, "hugging face, tied, shards")
    broken(tmp_path)
    assert run(tmp_path, "The") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert BROKEN[broken].replace("DIR", tmp_path.name) in err
    assert err.startswith("rooftile: ")
    assert "Traceback" not in err


LONG = " ".join(CORPUS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the prompt is empty; give the text to go on from"),
        (["The", ""], "the prompt is empty; give the text to go on from"),
        (["The", "\udcff"], "the prompt is no UTF-8 text; give it in UTF-8"),
        ([LONG], "tokens leaves no room in DIR's context of 96; shorten it to at most 95 tokens"),
        (["The", "--max-new-tokens", 96], "new ones are more than DIR's context of 96; ask for at most 94 new tokens"),
        (["The", "--max-new-tokens", 0], "--max-new-tokens: 0 new tokens; give 1 or more"),
        (["The", "--batch", 0], "--batch: 0 sequences for each prompt; give 1 or more"),
        (["The", "--batch", 10**9], "out of memory foreseen: "),
        (["The", "--temperature", -1], "--temperature: -1.0 is no temperature; 0 is greedy, 1 the model's own distribution"),
        (["The", "--temperature", 1e-31], "--temperature: logits divided by 1e-31 leave fp32; give 0, which is greedy"),
        (["The", "--temperature", "nan"], "--temperature: nan is no temperature; "),
        (["The", "--top-k", 0], "--top-k: cannot draw from the 0 most likely tokens; give 1 or more"),
        (["The", "--top-p", 0], "--top-p: 0.0 is no probability above 0; give more than 0 and at most 1"),
        (["The", "--top-p", 1.5], "--top-p: 1.5 is no probability above 0; "),
        (["The", "--seed", 2**64], "--seed: 18446744073709551616 does not fit 64 bits; "),
    ],
)
def test_requests_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[object], message: str) -> None:
    write_checkpoint(tmp_path, "hugging face")
    assert run(tmp_path, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.replace("DIR", tmp_path.name) in err
    assert err.startswith("rooftile: ")
    assert err.count("\n") == 1


def test_memory_that_is_missing_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A billion sequences of 95 tokens: 4 bytes x 2 x 3 layers x 2 heads x 8 x 95 for each, and as much again for all else."""
    write_checkpoint(tmp_path, "hugging face")
    run(tmp_path, "The", "--batch", 10**9)
    kv_gib = 4 * 2 * 3 * 2 * 8 * 95 * 10**9 / 2**30
    assert f"KV cache {kv_gib:,.1f} GiB" in capsys.readouterr().err


def test_all_wrong_numbers_are_told_at_once() -> None:
    with pytest.raises(BadInput) as raised:
        Sampling(-1, 0, 2, 2**70)
    assert [problem.path for problem in raised.value.problems] == ["--temperature", "--top-k", "--top-p", "--seed"]


def test_tokens_that_the_model_has_not() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    with pytest.raises(ScenarioError, match="the prompt holds token 120, beyond a vocabulary of 120; check the tokenizer"):
        generate(config, weights, [[1, 120]], 3)
    for empty in ([], [[]], [[1], []]):
        with pytest.raises(ScenarioError, match="the prompt is empty; give at least one token"):
            generate(config, weights, empty, 3)


def test_a_prompt_at_the_edge_of_the_context() -> None:
    config = MODELS["plain"]
    weights = random_weights(config)
    with pytest.raises(ScenarioError, match="a prompt of 96 tokens leaves no room in small's context of 96; shorten it to at most 95"):
        generate(config, weights, [[1] * 96, [1]], 1)
    with pytest.raises(ScenarioError, match="a prompt of 90 tokens and 7 new ones are more than small's context of 96; ask for at most 6"):
        generate(config, weights, [[1], [1] * 90], 7)
    assert math.prod(torch.tensor(list(generate(config, weights, [[1] * 90], 6))).shape) == 6
