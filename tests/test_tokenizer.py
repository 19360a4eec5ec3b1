"""Truth defended: a prompt becomes the ids that transformers would feed; ids become the text, streamed or not, in whole characters."""

from __future__ import annotations

import base64
import json
import os
import random
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from functional import tokenizer as module
from functional.errors import BadInput, CheckpointError
from functional.tokenizer import TextStream, Tokenizer, check_vocabulary, load_tokenizer, stop_ids
from tests.small_checkpoints import CORPUS, SMALL, hugging_face_tokenizer, llama3_ranks, transformers_ids, write_tokenizer

KINDS = ("hugging face", "hugging face, llama 2", "meta, llama 3", "meta, llama 2")
TEXTS = (*CORPUS, " a leading space", "one", "\n", "  two  spaces ", "🜁🜂seen €€", "I'll 12345 WE'RE\r\n\r\n", "e\u0301", "🚀🜁🚀 🜁")


def made(folder: Path, kind: str) -> Tokenizer:
    write_tokenizer(folder, kind)
    return load_tokenizer(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        load_tokenizer(folder)
    return str(raised.value).replace(str(folder) + os.sep, "").replace(str(folder), "DIR")


# Ids -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_and_give_the_text_back(tmp_path: Path, kind: str) -> None:
    tokenizer = made(tmp_path, kind)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == transformers_ids(tmp_path, kind, text), text
        assert max(ids) < tokenizer.vocab_size
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("begins", [True, False], ids=["post-processor", "plain"])
def test_tokenizer_json_says_how_a_text_begins(tmp_path: Path, begins: bool, settings: dict[str, bool]) -> None:
    """Whatever tokenizer_config.json says: so it is in transformers 5."""
    write_tokenizer(tmp_path, "hugging face")
    if not begins:
        (tmp_path / "tokenizer.json").write_text(json.dumps({**json.loads(hugging_face_tokenizer()), "post_processor": None}))
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    ids = load_tokenizer(tmp_path).encode("The capital")
    assert ids == transformers_ids(tmp_path, "hugging face", "The capital")
    assert (ids[0] == 0) == begins


def test_a_token_may_be_described_at_length(tmp_path: Path) -> None:
    """`eos_token` is a text or a group with `content`, by the version of transformers that wrote it."""
    write_tokenizer(tmp_path, "hugging face")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>", "lstrip": False}}))
    assert load_tokenizer(tmp_path).stop_ids == {1}


def test_padding_and_truncation_of_the_file_are_not_for_prompts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library

    library = Library.from_str(hugging_face_tokenizer())
    library.enable_truncation(4)
    library.enable_padding(length=64)
    library.save(str(tmp_path / "tokenizer.json"))
    text = CORPUS[0]
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode(text)) == text


def test_llama3_special_tokens_by_hand(tmp_path: Path) -> None:
    """Ids of Llama 3.1's tokenizer, less its 128,000 ranks and plus our 316 (model card: <|eot_id|> is 128009)."""
    tokenizer = made(tmp_path, "meta, llama 3")
    names = ["begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    written = "".join(f"<|{name}|>" for name in names)
    ids = [id - 128000 + 316 for id in (128000, 128001, 128004, 128006, 128007, 128008, 128009, 128010)]
    assert tokenizer.encode(written) == [316, *ids]
    assert tokenizer.encode("<|reserved_special_token_255|>") == [316, 316 + 255]
    assert tokenizer.decode([*ids, *tokenizer.encode("text")]) == "text"
    assert tokenizer.stop_ids == {316 + 1, 316 + 8, 316 + 9}


def test_a_very_long_text(tmp_path: Path) -> None:
    """tiktoken's regular expressions fail on a run of a million spaces."""
    text = " " * 1_000_000
    tokenizer = made(tmp_path, "meta, llama 3")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "meta, llama 2")
    write_tokenizer(tmp_path, "hugging face")
    assert load_tokenizer(tmp_path).file.name == "tokenizer.json"


# Streams ---------------------------------------------------------------------------------------------------------------------------------


def pieces(tokenizer: Tokenizer, prompt: list[int], new: list[int]) -> list[str]:
    stream = TextStream(tokenizer, prompt)
    return [*(stream.push(token) for token in new), stream.end()]


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_text_is_the_text_in_whole_characters(tmp_path: Path, kind: str) -> None:
    tokenizer = made(tmp_path, kind)
    for text in TEXTS:
        ids = tokenizer.encode("The" + text)
        for cut in range(1, len(ids)):
            prompt = tokenizer.decode(ids[:cut])
            if "\ufffd" in prompt:
                continue  # a prompt is a text, and so never ends within a character
            streamed = pieces(tokenizer, ids[:cut], ids[cut:])
            assert prompt + "".join(streamed) == "The" + text
            assert not any("\ufffd" in piece for piece in streamed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_of_several_tokens_comes_with_its_last(tmp_path: Path, kind: str) -> None:
    tokenizer = made(tmp_path, kind)
    prompt, whole = tokenizer.encode("a"), tokenizer.encode("a\U00010348")
    new = whole[len(prompt) :]
    assert len(new) == 4  # one for each byte
    assert pieces(tokenizer, prompt, new) == ["", "", "", "\U00010348", ""]
    assert pieces(tokenizer, prompt, new[:2])[:2] == ["", ""]
    assert set(pieces(tokenizer, prompt, new[:2])[2]) == {"\ufffd"}  # nothing follows: told as it is


@pytest.mark.parametrize("kind", ["hugging face", "meta, llama 3"])
def test_any_tokens_stream_to_their_text(tmp_path: Path, kind: str) -> None:
    """Also what a random model says: bytes that are no text, special tokens, in any order."""
    tokenizer, rng = made(tmp_path, kind), random.Random(0)
    prompt = tokenizer.encode("The ")
    for _ in range(100):
        new = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 30))]
        assert "The " + "".join(pieces(tokenizer, prompt, new)) == tokenizer.decode(prompt + new)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_no_text(tmp_path: Path, kind: str) -> None:
    tokenizer = made(tmp_path, kind)
    end = max(tokenizer.stop_ids)
    assert pieces(tokenizer, tokenizer.encode("a"), [end]) == ["", ""]
    assert tokenizer.decode([end, *tokenizer.encode("one"), end]) == "one"


# Ends of texts ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        ({"eos_token_id": [5, 7]}, {"eos_token_id": 3}, {5, 7}),
        ({"eos_token_id": 5}, None, {5}),
        ({}, {"eos_token_id": 3}, {3}),
        ({"eos_token_id": None}, {"eos_token_id": [3]}, {3}),
        (None, {}, {1}),
        (None, None, {1}),
    ],
)
def test_which_file_says_where_a_text_ends(tmp_path: Path, generation: Any, config: Any, wanted: set[int]) -> None:
    tokenizer = made(tmp_path, "hugging face")
    for name, contents in (("generation_config.json", generation), ("config.json", config)):
        if contents is not None:
            (tmp_path / name).write_text(json.dumps(contents))
    assert stop_ids(tmp_path, tokenizer) == wanted


@pytest.mark.parametrize("value", ['"</s>"', "-1", "[1, null]", "true", "1.5"])
def test_an_end_that_is_no_id(tmp_path: Path, value: str) -> None:
    tokenizer = made(tmp_path, "hugging face")
    (tmp_path / "generation_config.json").write_text(f'{{\n"eos_token_id": {value}}}')
    with pytest.raises(CheckpointError, match=r"generation_config.json:2: eos_token_id: expected a token id or a list of them, found"):
        stop_ids(tmp_path, tokenizer)


# Bad input -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "fits"), [(340, True), (344, True), (352, True), (384, True), (339, False), (341, False), (448, False)])
def test_a_tokenizer_of_another_vocabulary_size(tmp_path: Path, rows: int, fits: bool) -> None:
    """340 tokens; embeddings may be padded to multiples of 8 to 128."""
    from dataclasses import replace

    tokenizer = made(tmp_path, "hugging face")
    config = replace(SMALL, vocab_size=rows)
    if fits:
        check_vocabulary(tokenizer, config)
        return
    with pytest.raises(CheckpointError) as raised:
        check_vocabulary(tokenizer, config)
    message = f"340 tokens, but small has a vocabulary of {rows}; give the tokenizer that belongs to the model"
    assert str(raised.value) == f"{tmp_path / 'tokenizer.json'}: {message}"


def test_no_tokenizer(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        "DIR: the directory holds no tokenizer: neither tokenizer.json nor tokenizer.model; download it with the checkpoint"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "No such"}}'])
def test_a_broken_tokenizer_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    assert refusal(tmp_path).startswith("tokenizer.json: no tokenizer that can be read: ")
    assert refusal(tmp_path).endswith("; download it again")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00\x01", b"AA== one\n"])
def test_a_broken_tokenizer_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert refusal(tmp_path).startswith("tokenizer.model: no tokenizer that can be read: ")


def test_broken_ranks(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    lines = llama3_ranks().splitlines()
    for broken in (b"AA==", b"A 3", b"AA== three", b"AA== 3 4", b""):
        file.write_bytes(b"\n".join([*lines[:6], broken, *lines[6:]]))
        assert refusal(tmp_path) == "tokenizer.model:7: expected a token in base64 and its rank; download it again", broken
    file.write_bytes(b"\n".join([*lines[:300], *lines[301:]]))
    assert refusal(tmp_path) == "tokenizer.model: 315 tokens whose ranks are not 0 to 314; download it again"
    without = [line for line in lines if base64.b64decode(line.split()[0]) != b"Q"]
    file.write_bytes(b"\n".join(line.split()[0] + b" %d" % rank for rank, line in enumerate(without)))
    assert refusal(tmp_path) == "tokenizer.model: no token for the byte 81; download it again"


@pytest.mark.parametrize(("kind", "package"), [*zip(KINDS[1:], ("tokenizers", "tiktoken", "sentencepiece"), strict=True)])
def test_a_missing_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str) -> None:
    def absent(name: str) -> Any:
        if name == package:
            raise ModuleNotFoundError(name)
        return import_module(name)

    write_tokenizer(tmp_path, kind)
    monkeypatch.setattr(module, "import_module", absent)
    assert refusal(tmp_path).endswith(f": needs the package {package}; pip install 'rooftile[checkpoints]'")
