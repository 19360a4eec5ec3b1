"""Reading a checkpoint in Hugging Face's layout: `model.safetensors`, or several shards and their index.

Everything is checked from the headers before a single weight is read: files, names, shapes and dtypes, all mistakes at once. Layout of a
file: 8 bytes with the header's length, the header in JSON, the tensors. Source: the format's description, huggingface/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from functional.config import ModelConfig
from functional.documents import load_document
from functional.errors import CheckpointError, Problem
from functional.llama import Weights, build_weights
from functional.weights import dtype_named, rotary_frequencies

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "BF16", "F16")
_LISTED = 8
"""How many mistakes of one kind are listed; a checkpoint of another model has hundreds."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a header says of one tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def load_checkpoint(directory: str | Path, config: ModelConfig, dtype: str | None = None) -> Weights[Tensor]:
    """Weights of `config` from a checkpoint's directory, as they are stored or converted to `dtype` (`fp32`, `bf16`, ...).

    Raises `CheckpointError`.
    """
    stored = _read_headers(Path(directory))
    wanted = _wanted(config)
    problems = [*_name_problems(Path(directory), config, stored, wanted), *_shape_problems(stored, wanted)]
    if dtype is None:
        problems += _mixture_problem(Path(directory), stored, wanted)
    if problems:
        raise CheckpointError(problems)
    tensors = _read_tensors({name: stored[name].file for name in wanted if name in stored}, dtype)
    _check_tied(Path(directory), config, tensors)
    return build_weights(config, lambda name, shape: tensors[_hub_name(name)], rotary_frequencies(config))


def _hub_name(name: str) -> str:
    """`layers.0.mlp.up_proj.weight` as Hugging Face stores it."""
    return name if name.startswith("lm_head.") else f"model.{name}"


def _wanted(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that may be in the checkpoint; lm_head also where it is tied, since some carry a copy."""
    shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (config.vocab_size, config.hidden_size)}

    def note(name: str, shape: tuple[int, ...]) -> None:
        shapes[_hub_name(name)] = shape

    build_weights(config, note, None)
    return shapes


def _read_headers(directory: Path) -> dict[str, _Stored]:
    """All tensors of all shards by name."""
    stored: dict[str, _Stored] = {}
    problems: list[Problem] = []
    for file in _shards(directory):
        header = _read_header(file)
        if isinstance(header, Problem):
            problems.append(header)
        else:
            stored |= header
    if problems:
        raise CheckpointError(problems)
    return stored


def _shards(directory: Path) -> list[Path]:
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if (directory / INDEX).is_file():
        return _indexed_shards(directory / INDEX)
    if not directory.is_dir():
        message = "is a file, not a directory" if directory.exists() else "no such directory"
        raise CheckpointError(Problem(message, "give the directory that holds the checkpoint", str(directory)))
    message = f"the directory holds no checkpoint: neither {SINGLE} nor {INDEX}"
    others = sorted(file.name for pattern in ("*.bin", "*.pth", "*.pt", "*.gguf") for file in directory.glob(pattern))
    cure = f"convert {others[0]} to safetensors" if others else "give the directory of a Hugging Face checkpoint"
    raise CheckpointError(Problem(message, cure, str(directory)))


def _indexed_shards(index: Path) -> list[Path]:
    document = load_document(index, CheckpointError)
    places = document.data.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        message = "expected the file name of each tensor"
        raise CheckpointError(Problem(message, "download the index again", str(index), document.line_of(("weight_map",)), "weight_map"))
    shards = [index.parent / name for name in sorted(set(places.values()))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        cure = f"{index.name} lists it; download it again"
        raise CheckpointError(Problem("the shard is missing", cure, str(shard)) for shard in missing)
    return shards


def _read_header(file: Path) -> dict[str, _Stored] | Problem:
    """Tensors of one file, or why it cannot be one: the length that its header promises is compared with that of the file."""
    try:
        size_bytes = file.stat().st_size
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            text = stream.read(min(header_bytes, size_bytes))
    except OSError as why:
        return Problem(f"cannot be read: {why.strerror}", "", str(file))
    if size_bytes < 8 + header_bytes:
        return Problem("truncated, or no safetensors file: it ends within its header", "download it again", str(file))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: _Stored(file, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        promised_bytes = 8 + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return Problem("no safetensors file: its header cannot be read", "download it again", str(file))
    if promised_bytes > size_bytes:
        return Problem(f"truncated: {size_bytes} bytes of {promised_bytes}", "download it again", str(file))
    return tensors


def _name_problems(
    directory: Path, config: ModelConfig, stored: dict[str, _Stored], wanted: dict[str, tuple[int, ...]]
) -> Iterable[Problem]:
    """Tensors that are missing, and those that the model has no place for."""
    optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = [name for name in wanted if name not in stored and name not in optional]
    # Old checkpoints carry the rotary frequencies, which follow from the configuration.
    extra = [name for name in stored if name not in wanted and not name.endswith("rotary_emb.inv_freq")]
    yield from _listed(missing, lambda name: Problem("missing tensor", _missing_cure(name, config), str(directory), None, name), directory)
    yield from _listed(
        extra, lambda name: Problem("unknown tensor", f"{config.name} has no such weight", str(stored[name].file), None, name), directory
    )


def _missing_cure(name: str, config: ModelConfig) -> str:
    if name == "lm_head.weight":
        return "if it is tied to embed_tokens, the configuration must say tie_word_embeddings: true"
    return f"{config.name} needs it; check that configuration and checkpoint belong together"


def _shape_problems(stored: dict[str, _Stored], wanted: dict[str, tuple[int, ...]]) -> Iterable[Problem]:
    for name, shape in wanted.items():
        found = stored.get(name)
        if found is None:
            continue
        if found.shape != shape:
            message = f"expected shape {list(shape)}, found {list(found.shape)}"
            yield Problem(message, "check that configuration and checkpoint belong together", str(found.file), None, name)
        if found.dtype not in _DTYPES:
            message = f"expected dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, found {found.dtype}"
            yield Problem(message, "give a checkpoint that is not quantised", str(found.file), None, name)


def _mixture_problem(directory: Path, stored: dict[str, _Stored], wanted: dict[str, tuple[int, ...]]) -> Iterable[Problem]:
    """The matrices must be of one dtype, since each multiplies what the others made."""
    dtypes = sorted({stored[name].dtype for name, shape in wanted.items() if name in stored and len(shape) == 2} & set(_DTYPES))
    if len(dtypes) > 1:
        yield Problem(f"weights of several dtypes: {', '.join(dtypes)}", "ask for one dtype when loading", str(directory))


def _listed(names: list[str], problem: Callable[[str], Problem], directory: Path) -> Iterable[Problem]:
    """One problem per name, up to `_LISTED`, then how many more there are."""
    yield from (problem(name) for name in names[:_LISTED])
    if len(names) > _LISTED:
        yield Problem(f"{problem(names[0]).message}: {len(names) - _LISTED} more", "", str(directory))


def _read_tensors(files: dict[str, Path], dtype: str | None) -> dict[str, Tensor]:
    """Tensors by name; what is not converted stays mapped to the file."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        try:
            with safe_open(file, framework="pt") as shard:
                names = [name for name, place in files.items() if place == file]
                tensors |= {name: shard.get_tensor(name) for name in names}
        except SafetensorError as why:
            raise CheckpointError(Problem(f"no valid safetensors file: {why}", "download it again", str(file))) from None
    if dtype is None:
        return tensors
    wanted = dtype_named(dtype)
    return {name: tensor.to(wanted) for name, tensor in tensors.items()}


def _check_tied(directory: Path, config: ModelConfig, tensors: dict[str, Any]) -> None:
    head = tensors.get("lm_head.weight")
    if config.tie_word_embeddings and head is not None and not torch.equal(head, tensors["model.embed_tokens.weight"]):
        message = "differs from model.embed_tokens.weight, to which the configuration ties it"
        raise CheckpointError(
            Problem(message, "the configuration must say tie_word_embeddings: false", str(directory), None, "lm_head.weight")
        )
