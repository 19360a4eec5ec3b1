"""Configurations of well-known models, one file each in the layout of Hugging Face's `config.json`; `_source` says where it comes from."""

from __future__ import annotations

from pathlib import Path

from functional.config import ModelConfig
from functional.config_files import load_config
from functional.errors import Problem, UnknownName, did_you_mean

_MODELS = Path(__file__).parent / "models"


def model_names() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(file.stem for file in _MODELS.glob("*.json"))


def load_model(name_or_path: str | Path) -> ModelConfig:
    """A model of the library by its name, or any other by the path of its configuration (see `load_config`).

    Raises `UnknownName` for what is neither, and `ModelFileError` for a file that cannot be used.
    """
    known, path = model_names(), Path(name_or_path)
    if str(name_or_path) in known:
        return load_config(_MODELS / f"{name_or_path}.json", str(name_or_path))
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return load_config(path)
    named = did_you_mean(path.name, known)
    cure = f"{named}{'' if named.endswith('?') else ';'} or give the path of a config.json or params.json"
    raise UnknownName(Problem(f"unknown model '{name_or_path}'", cure))
