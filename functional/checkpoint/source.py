"""What both layouts share: the checks before anything is read, and the reading itself, which never holds much more than the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.errors import CheckpointError, Problem
from functional.llama import Weights, build_weights
from functional.weights import dtype_named, rotary_frequencies

_DTYPES = ("F32", "BF16", "F16")
_LISTED = 8
"""How many mistakes of one kind are listed; a checkpoint of another model has hundreds."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a checkpoint says of one tensor before it is read."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


class Source(ABC):
    """A checkpoint's files; `name` is always ours (`layers.0.mlp.up_proj.weight`), `stored_name` the layout's."""

    directory: Path
    stored: dict[str, Stored]
    is_tied = False
    """True where the files themselves hold one tensor as embedding and as lm_head."""

    @abstractmethod
    def stored_name(self, name: str) -> str:
        """The layout's name of a weight."""

    @abstractmethod
    def ignores(self, stored_name: str) -> bool:
        """Whether a tensor that no weight asks for is harmless."""

    @abstractmethod
    def must_copy(self, name: str) -> bool:
        """Whether the tensor cannot stay mapped to the file, since it must be rearranged."""

    @abstractmethod
    def read(self, names: list[str], config: ModelConfig) -> dict[str, Tensor]:
        """Tensors by our names, mapped anew: pages are given back when the tensors are dropped."""

    def problems(self, wanted: Shapes) -> Iterable[Problem]:
        """Mistakes that only this layout can have."""
        return ()

    def shape_of(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        found = self.stored.get(self.stored_name(name))
        return found.shape if found is not None and len(found.shape) == len(default) else default


def read_weights(source: Source, config: ModelConfig, dtype: str | None, layers: int | None = None) -> Weights[Tensor]:
    """Weights of `config`, with `layers` only of so many of its first layers, after everything that can be known beforehand has been
    checked. Raises `CheckpointError`."""
    wanted = _wanted(config)
    problems = list(source.problems(wanted)) or [*_name_problems(source, config, wanted), *_shape_problems(source, wanted)]
    if dtype is None:
        problems += _mixture_problem(source, wanted)
    if problems:
        raise CheckpointError(problems)
    head_is_tied = source.is_tied and config.tie_word_embeddings
    read = config if layers is None else replace(config, num_hidden_layers=layers)
    names = [name for name in _wanted(read) if source.stored_name(name) in source.stored]
    names = [name for name in names if not (head_is_tied and name == "lm_head.weight")]
    tensors = _read(source, config, names, dtype)
    _check_tied(source, config, tensors)
    return build_weights(read, lambda name, shape: tensors[name], rotary_frequencies(config))


def _wanted(config: ModelConfig) -> Shapes:
    """Shape of every tensor that may be in the checkpoint; lm_head also where it is tied, since some carry a copy."""
    shapes: Shapes = {"lm_head.weight": (config.vocab_size, config.hidden_size)}

    def note(name: str, shape: tuple[int, ...]) -> None:
        shapes[name] = shape

    build_weights(config, note, None)
    return shapes


def _read(source: Source, config: ModelConfig, names: list[str], dtype: str | None) -> dict[str, Tensor]:
    """What can stay mapped stays; the rest is copied a layer at a time, and each layer's pages are given back before the next."""
    to = None if dtype is None else dtype_named(dtype)
    copied = [name for name in names if source.must_copy(name) or to is not None]
    tensors = source.read([name for name in names if name not in set(copied)], config)
    for _, group in groupby(copied, lambda name: name.split(".")[:2]):
        tensors |= {name: tensor.to(to or tensor.dtype) for name, tensor in source.read(list(group), config).items()}
    return tensors


def _name_problems(source: Source, config: ModelConfig, wanted: Shapes) -> Iterable[Problem]:
    """Tensors that are missing, and those that the model has no place for."""
    optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
    places = {source.stored_name(name) for name in wanted}
    missing = [name for name in wanted if source.stored_name(name) not in source.stored and name not in optional]
    extra = [stored_name for stored_name in source.stored if stored_name not in places and not source.ignores(stored_name)]
    directory = str(source.directory)
    yield from listed(
        missing, lambda name: Problem("missing tensor", _missing_cure(name, config), directory, None, source.stored_name(name)), directory
    )
    no_place = f"{config.name} has no such weight"
    yield from listed(extra, lambda name: Problem("unknown tensor", no_place, str(source.stored[name].file), None, name), directory)


def _missing_cure(name: str, config: ModelConfig) -> str:
    if name == "lm_head.weight":
        return "if it is tied to embed_tokens, the configuration must say tie_word_embeddings: true"
    return f"{config.name} needs it; check that configuration and checkpoint belong together"


def _shape_problems(source: Source, wanted: Shapes) -> Iterable[Problem]:
    for name, shape in wanted.items():
        path = source.stored_name(name)
        found = source.stored.get(path)
        if found is None:
            continue
        if found.shape != shape:
            message = f"expected shape {list(shape)}, found {list(found.shape)}"
            yield Problem(message, "check that configuration and checkpoint belong together", str(found.file), None, path)
        if found.dtype not in _DTYPES:
            message = f"expected dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, found {found.dtype}"
            yield Problem(message, "give a checkpoint that is not quantised", str(found.file), None, path)


def _mixture_problem(source: Source, wanted: Shapes) -> Iterable[Problem]:
    """The matrices must be of one dtype, since each multiplies what the others made."""
    matrices = [source.stored.get(source.stored_name(name)) for name, shape in wanted.items() if len(shape) == 2]
    dtypes = sorted({found.dtype for found in matrices if found is not None} & set(_DTYPES))
    if len(dtypes) > 1:
        cure = "convert them to one, or open the checkpoint with a dtype"
        yield Problem(f"weights of several dtypes: {', '.join(dtypes)}", cure, str(source.directory))


def listed(names: list[str], problem: Callable[[str], Problem], directory: str) -> Iterable[Problem]:
    """One problem per name, up to `_LISTED`, then how many more there are."""
    yield from (problem(name) for name in names[:_LISTED])
    if len(names) > _LISTED:
        yield Problem(f"{problem(names[0]).message}: {len(names) - _LISTED} more", "", directory)


def _check_tied(source: Source, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    head = tensors.get("lm_head.weight")
    if config.tie_word_embeddings and head is not None and not torch.equal(head, tensors["embed_tokens.weight"]):
        names = source.stored_name("embed_tokens.weight"), source.stored_name("lm_head.weight")
        message = f"differs from {names[0]}, to which the configuration ties it"
        cure = "the configuration must say tie_word_embeddings: false"
        raise CheckpointError(Problem(message, cure, str(source.directory), None, names[1]))
