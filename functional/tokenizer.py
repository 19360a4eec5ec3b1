"""Text to token ids and back, with whichever tokenizer a checkpoint's directory holds.

`tokenizer.json` is read by `tokenizers`; `tokenizer.model` is Llama 3's list of ranks, read by `tiktoken`, or a model of sentencepiece, as
in Llama 2. The three libraries are extras (`rooftile[checkpoints]`), imported where they are used.
"""

from __future__ import annotations

import base64
import binascii
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from functional.config import ModelConfig
from functional.documents import load_document
from functional.errors import BadInput, CheckpointError, Problem

FILE_NAMES = ("tokenizer.json", "tokenizer.model")
"""What a checkpoint's directory is searched for, in this order."""

_PADDED_TO = 128
"""Embeddings may have up to this many rows less one more than the tokenizer has tokens: rows are padded to multiples of 8 ... 128."""

_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
_UNFINISHED = "\ufffd"
"""What stands for bytes that are no whole UTF-8 character (yet)."""


class Tokenizer(ABC):
    """Token ids of a text and text of token ids. `vocab_size` is the highest id + 1, `stop_ids` end a text unless other files say more."""

    file: Path
    vocab_size: int
    stop_ids: frozenset[int]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the beginning-of-text token where the model was trained with one; special tokens may be written out."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""


class TextStream:
    """The text that follows a prompt, token by token and never with half a character: what is not whole yet comes with a later token."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # A token's text may depend on its neighbours (a leading space, a character of several tokens), so it is read off as the difference
        # that it makes to the text of those before it. `_told` of `_ids` are in that text; older ones than these are forgotten.
        self._ids = list(prompt)
        self._told = len(self._ids)

    def push(self, token: int) -> str:
        """What a token adds to the text; empty while a character is unfinished."""
        self._ids.append(token)
        text = self._difference()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._ids = self._ids[self._told :]
        self._told = len(self._ids)
        return text

    def end(self) -> str:
        """What is left when no token follows: a character that stayed unfinished."""
        return self._difference()

    def _difference(self) -> str:
        return self._tokenizer.decode(self._ids)[len(self._tokenizer.decode(self._ids[: self._told])) :]


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint's directory. Raises `CheckpointError`."""
    directory = Path(directory)
    file = next((directory / name for name in FILE_NAMES if (directory / name).is_file()), None)
    if file is None:
        message = f"the directory holds no tokenizer: neither {' nor '.join(FILE_NAMES)}"
        raise CheckpointError(Problem(message, "download it with the checkpoint", str(directory)))
    if file.suffix == ".json":
        return _HuggingFace(file)
    with file.open("rb") as stream:
        is_ranks = _RANK_LINE.fullmatch(stream.readline(4096).rstrip())
    return _Llama3(file) if is_ranks else _SentencePiece(file)


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Raise `CheckpointError` unless the model has a row for each token and no more than padding besides."""
    rows, tokens = config.vocab_size, tokenizer.vocab_size
    multiples = (2**power for power in range(3, _PADDED_TO.bit_length()))
    if rows != tokens and rows not in {-(-tokens // multiple) * multiple for multiple in multiples}:
        message = f"{tokens} tokens, but {config.name} has a vocabulary of {rows}"
        raise CheckpointError(Problem(message, "give the tokenizer that belongs to the model", str(tokenizer.file)))


def stop_ids(directory: str | Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a text: `eos_token_id`, a number or a list, of generation_config.json, else of config.json, else the tokenizer's own."""
    for file in (Path(directory) / "generation_config.json", Path(directory) / "config.json"):
        document = load_document(file, CheckpointError) if file.is_file() else None
        found = document.data.get("eos_token_id") if document else None
        if document is None or found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(type(each) is int and each >= 0 for each in ids):
            message, line = f"expected a token id or a list of them, found {found!r}", document.line_of(("eos_token_id",))
            raise CheckpointError(Problem(message, "download the file again", str(file), line, "eos_token_id"))
        return frozenset(ids)
    return tokenizer.stop_ids


class _HuggingFace(Tokenizer):
    """tokenizer.json, whose post-processor says what a text begins with; as in transformers 5, tokenizer_config.json does not."""

    def __init__(self, file: Path) -> None:
        library = _library("tokenizers", file)
        self.file = file
        try:
            self._tokenizer = library.Tokenizer.from_file(str(file))
        except Exception as why:  # the library raises nothing narrower
            raise _unreadable(file, why) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        about = file.parent / "tokenizer_config.json"
        settings = load_document(about, CheckpointError).data if about.is_file() else {}
        end = self._id_of(settings.get("eos_token"))
        self.stop_ids = frozenset() if end is None else frozenset({end})

    def _id_of(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        found: int | None = self._tokenizer.token_to_id(text) if isinstance(text, str) else None
        return found

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3 splits a text before pairs are merged."""

_LLAMA3_SPECIAL_TOKENS = 256
_LLAMA3_NAMES = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Special tokens by their place after the ranks; the others are reserved."""
_TIKTOKEN_AT_ONCE = 400_000
"""Characters that tiktoken is given at a time; its regular expressions fail on much longer runs."""


class _Llama3(Tokenizer):
    """Llama 3's tokenizer.model: lines of a token's bytes in base64 and its rank. Source: `tokenizer.py` of Meta's llama-models."""

    def __init__(self, file: Path) -> None:
        library = _library("tiktoken", file)
        self.file = file
        ranks = _read_ranks(file)
        names = (_LLAMA3_NAMES.get(place, f"<|reserved_special_token_{place}|>") for place in range(_LLAMA3_SPECIAL_TOKENS))
        special = {name: len(ranks) + place for place, name in enumerate(names)}
        self._tokenizer = library.Encoding(file.name, pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)
        self._text_tokens = len(ranks)
        self.vocab_size = len(ranks) + _LLAMA3_SPECIAL_TOKENS
        self._begin = special["<|begin_of_text|>"]
        self.stop_ids = frozenset(special[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"))

    def encode(self, text: str) -> list[int]:
        parts = (text[first : first + _TIKTOKEN_AT_ONCE] for first in range(0, len(text), _TIKTOKEN_AT_ONCE))
        return [self._begin, *(token for part in parts for token in self._tokenizer.encode(part, allowed_special="all"))]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([token for token in ids if token < self._text_tokens], errors="replace")
        return text


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(Problem("expected a token in base64 and its rank", "download it again", str(file), number)) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        message = f"{len(ranks)} tokens whose ranks are not 0 to {len(ranks) - 1}"
        raise CheckpointError(Problem(message, "download it again", str(file)))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise CheckpointError(Problem(f"no token for the byte {missing[0]}", "download it again", str(file)))
    return ranks


class _SentencePiece(Tokenizer):
    """Llama 2's tokenizer.model. Source: `tokenizer.py` of Meta's llama."""

    def __init__(self, file: Path) -> None:
        library = _library("sentencepiece", file)
        self.file = file
        content = file.read_bytes()
        if not content:  # which the library takes, and then complains at every call
            raise _unreadable(file, ValueError("the file is empty"))
        try:
            self._tokenizer = library.SentencePieceProcessor(model_proto=content)
        except RuntimeError as why:
            raise _unreadable(file, why) from None
        self.vocab_size = self._tokenizer.vocab_size()
        self.stop_ids = frozenset({self._tokenizer.eos_id()} - {-1})
        self._begin = [begin for begin in (self._tokenizer.bos_id(),) if begin >= 0]

    def encode(self, text: str) -> list[int]:
        return [*self._begin, *self._tokenizer.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([token for token in ids if token < self.vocab_size])
        return text


def _library(name: str, file: Path) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise BadInput(Problem(f"needs the package {name}", "pip install 'rooftile[checkpoints]'", str(file))) from None


def _unreadable(file: Path, why: Exception) -> CheckpointError:
    reason = str(why).splitlines()[0].strip() if str(why) else "no reason given"
    return CheckpointError(Problem(f"no tokenizer that can be read: {reason}", "download it again", str(file)))
