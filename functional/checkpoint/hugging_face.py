"""Hugging Face's layout: `model.safetensors`, or several shards and their index.

Layout of a file: 8 bytes with the header's length, the header in JSON, the tensors. Source: the format's description,
huggingface/safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from functional.checkpoint.source import Source, Stored
from functional.config import ModelConfig
from functional.documents import load_document
from functional.errors import CheckpointError, Problem

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def is_layout_of(directory: Path) -> bool:
    """Whether a directory holds weights of this layout."""
    return (directory / SINGLE).is_file() or (directory / INDEX).is_file()


class HuggingFace(Source):
    """Safetensors; what is not converted stays mapped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stored = _read_headers(directory)

    def stored_name(self, name: str) -> str:
        return name if name.startswith("lm_head.") else f"model.{name}"

    def ignores(self, stored_name: str) -> bool:
        """Old checkpoints carry the rotary frequencies, which follow from the configuration."""
        return stored_name.endswith("rotary_emb.inv_freq")

    def must_copy(self, name: str) -> bool:
        return False

    def read(self, names: list[str], config: ModelConfig) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        places = {name: self.stored[self.stored_name(name)].file for name in names}
        for file in sorted(set(places.values())):
            try:
                with safe_open(file, framework="pt") as shard:
                    tensors |= {name: shard.get_tensor(self.stored_name(name)) for name, place in places.items() if place == file}
            except SafetensorError as why:
                raise CheckpointError(Problem(f"no valid safetensors file: {why}", "download it again", str(file))) from None
        return tensors


def _read_headers(directory: Path) -> dict[str, Stored]:
    """All tensors of all shards by name."""
    stored: dict[str, Stored] = {}
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
    return [directory / SINGLE] if (directory / SINGLE).is_file() else _indexed_shards(directory / INDEX)


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


def _read_header(file: Path) -> dict[str, Stored] | Problem:
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
        tensors = {name: Stored(file, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        promised_bytes = 8 + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return Problem("no safetensors file: its header cannot be read", "download it again", str(file))
    if promised_bytes > size_bytes:
        return Problem(f"truncated: {size_bytes} bytes of {promised_bytes}", "download it again", str(file))
    return tensors
