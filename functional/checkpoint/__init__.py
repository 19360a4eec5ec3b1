"""Reading a checkpoint: Hugging Face's layout (`hugging_face`) or Meta's own (`meta`); both end in the same `Weights`.

Everything is checked from names, shapes and dtypes before a single weight is read, all mistakes at once. Weights stay mapped to their
files; only what must be rearranged or converted is copied, a layer at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from functional.checkpoint import hugging_face, meta
from functional.checkpoint.source import Source, read_weights
from functional.config import ModelConfig
from functional.config_files import FILE_NAMES, load_config
from functional.errors import CheckpointError, Problem
from functional.llama import Weights

__all__ = ["Checkpoint", "checkpoint_config", "holds_weights", "load_checkpoint", "open_checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and its weights, from the files of one directory."""

    directory: Path
    config: ModelConfig
    weights: Weights[Tensor]


def open_checkpoint(directory: str | Path, dtype: str | None = None) -> Checkpoint:
    """Configuration and weights of a directory, as they are stored or converted to `dtype`.

    Raises `CheckpointError` and, for a configuration that cannot be used, `ModelFileError`.
    """
    directory = Path(directory)
    config, source = _described(directory)
    return Checkpoint(directory, config, read_weights(source, config, dtype))


def checkpoint_config(directory: str | Path) -> ModelConfig:
    """Configuration of a directory, with what only its weights tell: the vocabulary of Llama 2, a tied lm_head. No weight is read.

    Raises `CheckpointError` and `ModelFileError`.
    """
    return _described(Path(directory))[0]


def holds_weights(directory: str | Path) -> bool:
    """Whether there are weights of a known layout in a directory."""
    directory = Path(directory)
    return hugging_face.is_layout_of(directory) or meta.is_layout_of(directory)


def _described(directory: Path) -> tuple[ModelConfig, Source]:
    if not any((directory / name).is_file() for name in FILE_NAMES):
        raise CheckpointError(_no_checkpoint(directory, FILE_NAMES))
    config = load_config(directory, directory.resolve().name)
    source = _source(directory)
    if meta.takes_vocabulary_from_weights(directory):
        config = replace(config, vocab_size=source.shape_of("embed_tokens.weight", (config.vocab_size, config.hidden_size))[0])
    return replace(config, tie_word_embeddings=config.tie_word_embeddings or source.is_tied), source


def load_checkpoint(
    directory: str | Path, config: ModelConfig, dtype: str | None = None, layers: int | None = None
) -> Weights[Tensor]:
    """Weights of `config` from a checkpoint's directory, as they are stored or converted to `dtype` (`fp32`, `bf16`, ...); with `layers`
    only so many of its first layers.

    Raises `CheckpointError`.
    """
    return read_weights(_source(Path(directory)), config, dtype, layers)


def _source(directory: Path) -> Source:
    if hugging_face.is_layout_of(directory):
        return hugging_face.HuggingFace(directory)
    if meta.is_layout_of(directory):
        return meta.Meta(directory)
    raise CheckpointError(_no_checkpoint(directory, ()))


def _no_checkpoint(directory: Path, configurations: tuple[str, ...]) -> Problem:
    """Why a directory cannot be one, with the files that were looked for; `configurations` where even these are missing."""
    if not directory.is_dir():
        message = "is a file, not a directory" if directory.exists() else "no such directory"
        return Problem(message, "give the directory that holds the checkpoint", str(directory))
    if configurations:
        message = f"no checkpoint here: neither {' nor '.join(configurations)}"
        weights = f"{hugging_face.SINGLE} or {hugging_face.INDEX}, or params.json with {meta.FIRST}"
        return Problem(message, f"a checkpoint is config.json with {weights}", str(directory))
    message = f"no checkpoint here: neither {' nor '.join((hugging_face.SINGLE, hugging_face.INDEX, meta.FIRST))}"
    others = sorted(file.name for pattern in ("*.bin", "*.pth", "*.pt", "*.gguf") for file in directory.glob(pattern))
    cure = f"convert {others[0]} to safetensors" if others else "give the directory of a Hugging Face checkpoint, or of Meta's"
    return Problem(message, cure, str(directory))
