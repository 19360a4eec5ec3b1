"""Meta's own layout: params.json and consolidated.00.pth, consolidated.01.pth, ..., one file per rank of its tensor parallelism.

Two things differ from Hugging Face's besides the names. A matrix is cut among the files along its rows (wq, wk, wv, w1, w3, output) or its
columns (wo, w2; the embedding either way, by version). And a head's rotated pairs lie side by side, (0, 1), (2, 3), ..., where our text
has them half a head apart, so rows of wq and wk are moved. Source: `model.py` of Meta's llama and llama-models.

Files under each other's names give tensors of the right shapes, joined in a wrong order. That is noticed by the name that `torch.save` left
within a file, where it left one; the same file twice, by equal pieces; a file of another model, by its norms, which all files hold whole.
What goes unnoticed: files exchanged that were saved under other names, and other fine-tunings of a model whose norms stayed as they were.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from functional.checkpoint.source import Shapes, Source, Stored, listed
from functional.config import ModelConfig
from functional.documents import load_document
from functional.errors import CheckpointError, Problem

FIRST = "consolidated.00.pth"
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_SAMPLE = 4096
"""Elements of a piece that are compared with those of other files; pieces that differ do so in their first."""

_NAMES = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
"""Our modules under Meta's names; `norm` is the same."""

_STORED_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def is_layout_of(directory: Path) -> bool:
    """Whether a directory holds weights of this layout."""
    return any(_SHARD.fullmatch(file.name) and file.is_file() for file in directory.glob("consolidated.*.pth"))


def takes_vocabulary_from_weights(directory: Path) -> bool:
    """Llama 2's params.json leaves the size of the vocabulary to whoever reads the tokenizer: it says -1."""
    file = directory / "params.json"
    has_own = file.is_file() and not (directory / "config.json").is_file()
    return has_own and is_layout_of(directory) and load_document(file, CheckpointError).data.get("vocab_size", -1) == -1


class Meta(Source):
    """Files of `torch.save`, opened as tensors only: a pickle that asks for anything else is refused before it is executed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = _shards(directory)
        shards = [_open(file) for file in self.files]
        self.pieces = {name: [tuple(shard[name].shape) for shard in shards if name in shard] for name in shards[0]}
        self.stored = {name: self._stored(name, tensor) for name, tensor in shards[0].items()}
        head, embedding = (shards[0].get(self.stored_name(f"{name}.weight")) for name in ("lm_head", "embed_tokens"))
        # The file of a tied model (Llama 3.2 1B and 3B) holds one tensor under two names; params.json does not say so.
        self.is_tied = head is not None and embedding is not None and head.data_ptr() == embedding.data_ptr()

    def _stored(self, name: str, tensor: Tensor) -> Stored:
        """The tensor as it will be when its pieces are joined, as far as that can be known without the configuration."""
        return Stored(self.files[0], _STORED_DTYPES.get(tensor.dtype, str(tensor.dtype)), self._joined_shape(name))

    def _joined_shape(self, name: str) -> tuple[int, ...]:
        pieces = self.pieces[name]
        axis = self._axis(name)
        if axis is None or len(pieces[0]) <= axis:
            return pieces[0]
        return (*pieces[0][:axis], sum(piece[axis] for piece in pieces), *pieces[0][axis + 1 :])

    def _axis(self, name: str) -> int | None:
        """Along which axis a tensor is cut; None: every file holds all of it."""
        module = name.removesuffix(".weight").split(".")[-1]
        if len(self.files) == 1 or module.endswith("norm") or module == "freqs":
            return None
        if module == "tok_embeddings":
            return self._embedding_axis(name)
        return 1 if module in ("wo", "w2") else 0

    def _embedding_axis(self, name: str) -> int:
        """Llama 3 cuts the embedding's rows, Llama 2 its columns; a norm, never cut, tells how many columns there are."""
        norm = self.pieces.get("norm.weight")
        return 0 if norm and self.pieces[name][0][-1:] == norm[0] else 1

    def problems(self, wanted: Shapes) -> Iterable[Problem]:
        """Files that are missing, or do not belong where they are."""
        yield from self._missing(wanted)
        yield from self._misnamed()
        directory = str(self.directory)
        uneven = [each for each, shapes in self.pieces.items() if len(set(shapes)) > 1 or len(shapes) < len(self.files)]
        yield from listed(uneven, lambda each: Problem(self._uneven(each), "download the shards again", directory, None, each), directory)
        if not uneven:
            yield from self._mixed()

    def _missing(self, wanted: Shapes) -> Iterator[Problem]:
        """Missing files betray themselves by rows: every one holds the same share of wq."""
        name = "layers.0.self_attn.q_proj.weight"
        pieces = self.pieces.get(self.stored_name(name), [])
        if pieces and pieces[0] and pieces[0][0] and wanted[name][0] % pieces[0][0] == 0:
            expected = wanted[name][0] // pieces[0][0]
            missing = [f"consolidated.{i:02}.pth" for i in range(len(self.files), expected)]
            problem = f"the shard is missing; {self.files[0].name} holds 1/{expected} of each matrix"
            yield from (Problem(problem, "download it again", str(self.directory / file)) for file in missing)

    def _misnamed(self) -> Iterator[Problem]:
        """`torch.save` names the archive within a file like the file."""
        for i, file in enumerate(self.files):
            with zipfile.ZipFile(file) as archive:
                saved_as = f"{archive.namelist()[0].partition('/')[0]}.pth"
            number = _SHARD.fullmatch(saved_as)
            if number is not None and int(number[1]) != i:
                yield Problem(f"it was saved as {saved_as}", "give each shard its own name, or download them again", str(file))

    def _mixed(self) -> Iterator[Problem]:
        """The same file twice, or files of several models."""
        shards = [_open(file) for file in self.files]
        again, directory = "download the shards again", str(self.directory)
        several = [name for name in shards[0] if len({shard[name].dtype for shard in shards}) > 1]
        told = partial(Problem, "the shards do not belong together: pieces of several dtypes", again, directory, None)
        yield from listed(several, told, directory)
        if several:
            return
        cut = [name for name in shards[0] if self._axis(name) is not None and _is_sampled(name)]
        first: dict[bytes, Path] = {}
        for file, shard in zip(self.files, shards, strict=True):
            rows = b"".join(shard[name].reshape(-1)[:_SAMPLE].view(torch.uint8).numpy().tobytes() for name in cut)
            other = first.setdefault(rows, file)
            if cut and other is not file:
                yield Problem(f"it holds the same pieces as {other.name}", "download it again", str(file))
        for file, shard in zip(self.files[1:], shards[1:], strict=True):
            whole = [name for name in shard if self._axis(name) is None and not torch.equal(shard[name], shards[0][name])]
            message = f"differs from the one in {self.files[0].name}; each shard of a model holds the same"
            yield from listed(whole, partial(Problem, message, again, str(file), None), directory)

    def _uneven(self, name: str) -> str:
        return f"the shards do not belong together: pieces {', '.join(str(list(piece)) for piece in self.pieces[name])}"

    def stored_name(self, name: str) -> str:
        prefix, module = re.fullmatch(r"(layers\.\d+\.)?(.+)\.weight", name).groups("")  # type: ignore[union-attr]
        return f"{prefix}{_NAMES.get(module, module)}.weight"

    def ignores(self, stored_name: str) -> bool:
        """Rotary frequencies follow from the configuration."""
        return stored_name == "rope.freqs"

    def must_copy(self, name: str) -> bool:
        return _is_rotated(name) or self._axis(self.stored_name(name)) is not None

    def read(self, names: list[str], config: ModelConfig) -> dict[str, Tensor]:
        shards = [_open(file) for file in self.files]
        return {name: self._tensor(name, shards, config) for name in names}

    def _tensor(self, name: str, shards: list[dict[str, Tensor]], config: ModelConfig) -> Tensor:
        stored_name = self.stored_name(name)
        axis = self._axis(stored_name)
        if axis is None:
            shards = shards[:1]
        pieces = [shard[stored_name] for shard in shards]
        if _is_rotated(name):
            return _in_halves(pieces, config.head_dim)
        return pieces[0] if axis is None else torch.cat(pieces, axis)


def _is_sampled(stored_name: str) -> bool:
    """Whether a tensor is compared among the files: those of one layer, and of none, are enough."""
    return stored_name.startswith("layers.0.") or not stored_name.startswith("layers.")


def _is_rotated(name: str) -> bool:
    return name.endswith(("q_proj.weight", "k_proj.weight"))


def _in_halves(pieces: list[Tensor], head_dim: int) -> Tensor:
    """Rows of all pieces [heads * E, D] with the pairs (2i, 2i + 1) of each head moved to (i, i + E/2), in one copy."""
    columns = pieces[0].shape[1]
    heads = [piece.view(-1, head_dim // 2, 2, columns).transpose(1, 2) for piece in pieces]  # [heads, 2, E/2, D]
    return torch.cat(heads).view(-1, columns)


def _shards(directory: Path) -> list[Path]:
    """consolidated.00.pth and its successors without a gap."""
    numbers = [int(match[1]) for file in directory.iterdir() if (match := _SHARD.fullmatch(file.name)) and file.is_file()]
    files = [directory / f"consolidated.{i:02}.pth" for i in range(max(numbers) + 1)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        cure = f"{files[-1].name} is there; download it again"
        raise CheckpointError(Problem("the shard is missing", cure, str(file)) for file in missing)
    return files


def _open(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, mapped; nothing but tensors is ever built from it."""
    try:
        contents = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(Problem(_what_was_refused(file), "if you trust it, convert it to safetensors", str(file))) from None
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as why:
        # A file that is no archive is refused before anything of its pickle is read.
        message = "truncated, or no archive of torch.save (PyTorch 1.6 or newer)"
        if zipfile.is_zipfile(file):
            message = f"cannot be read: {why}".splitlines()[0]
        raise CheckpointError(Problem(f"{message}; refused", "download it again", str(file))) from None
    strange = next(_no_plain_tensors(contents), None)
    if strange is not None:
        raise CheckpointError(Problem(f"not plain tensors: {strange}; refused", "give a file of names and tensors", str(file)))
    tensors: dict[str, Tensor] = contents
    return tensors


def _what_was_refused(file: Path) -> str:
    """Names the functions that the pickle asks for, found by reading its instructions without following them."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:
        # Whatever is wrong with a pickle that was refused already, refused it stays.
        names = []
    asked = f": it asks for {', '.join(sorted(names)[:3])}" if names else ""
    return f"not plain tensors{asked}; refused, nothing in it was executed"


def _no_plain_tensors(contents: object) -> Iterator[str]:
    if not isinstance(contents, dict):
        yield f"a {type(contents).__name__}, no dictionary of tensors"
        return
    if not contents:
        yield "an empty dictionary"
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            yield f"{name!r} holds a {type(value).__name__}"
