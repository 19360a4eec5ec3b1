"""What a chip costs: units, chip files, formulas. Importing this package loads nothing; each name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwmodels.chip import Chip
    from hwmodels.consistency import Advice
    from hwmodels.layers import chip_names
    from hwmodels.load import check_chip, load_chip
    from hwmodels.paths import numeric_paths, with_values

__all__ = ["Advice", "Chip", "check_chip", "chip_names", "load_chip", "numeric_paths", "with_values"]

_HOME = {
    "Advice": "consistency",
    "Chip": "chip",
    "check_chip": "load",
    "chip_names": "layers",
    "load_chip": "load",
    "numeric_paths": "paths",
    "with_values": "paths",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwmodels' has no attribute '{name}'")
    return getattr(import_module(f"hwmodels.{_HOME[name]}"), name)
