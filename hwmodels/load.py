"""From a chip's name or file to a validated `Chip`, with every mistake of the file in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from functional.documents import FieldPath, dotted, read_document, validation_problems
from functional.errors import ChipFileError, Problem, UnknownName, did_you_mean
from hwmodels.chip import Chip, Provenance
from hwmodels.consistency import Advice, inconsistencies
from hwmodels.layers import LIBRARY, Layer, Placed, chip_names, layers_of, located, looks_like_path, merged_layers
from hwmodels.paths import numeric_paths, recorded_paths


def load_chip(name_or_path: str | Path) -> Chip:
    """A chip of the library, by name or alias, or of a YAML file of one's own."""
    chip, problems = _load(_find(name_or_path))
    errors = [problem for problem in problems if not isinstance(problem, Advice)]
    if errors:
        raise ChipFileError(errors)
    return chip


def check_chip(name_or_path: str | Path) -> list[Problem]:
    """All that is wrong with a chip file; those of type `Advice` are warnings, with which it can still be used."""
    try:
        return _load(_find(name_or_path))[1]
    except ChipFileError as why:
        return list(why.problems)


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or looks_like_path(name):
        return Path(name_or_path)
    names = chip_names()
    if name.lower() in names:
        return LIBRARY / f"{name.lower()}.yaml"
    for known in names:
        if name in read_document(LIBRARY / f"{known}.yaml")[0].data.get("aliases", []):
            return LIBRARY / f"{known}.yaml"
    if Path(name).is_dir():
        raise ChipFileError(Problem("is a folder", "name the YAML file in it", name))
    if Path(name).is_file():
        raise ChipFileError(Problem("a chip file's name ends in .yaml", f"rename it, or write './{name}'", name))
    mine = [f"{name}{suffix}" for suffix in (".yaml", ".yml") if Path(f"{name}{suffix}").is_file()]
    raise UnknownName(Problem(f"unknown chip '{name}'", did_you_mean(name, names) if not mine else f"did you mean '{mine[0]}'?"))


def _load(path: Path) -> tuple[Chip, list[Problem]]:
    """The chip and its inconsistencies; what cannot be built is raised."""
    problems: list[Problem] = []
    layers = layers_of(path, (), problems)
    chip, found = _judged(layers)
    told = located(found, layers, lambda some: _judged(some)[1])
    if chip is None or problems:
        raise ChipFileError([*problems, *told])
    return replace(chip, provenance=_provenance(chip, layers, merged_layers(layers))), told


def _judged(layers: Sequence[Layer]) -> tuple[Chip | None, list[Placed]]:
    """The chip of these files, None where a field is wrong by itself, and all that is wrong with it."""
    from pydantic import ValidationError

    from hwmodels.schema import ChipFile

    try:
        fields = ChipFile.model_validate(merged_layers(layers))
    except ValidationError as why:
        places: dict[str, FieldPath] = {}

        def noted(field: FieldPath) -> tuple[str, int | None]:
            places[dotted(field)] = field
            return "", None

        return None, [(problem, places[problem.path]) for problem in validation_problems(why, ChipFile, noted)]
    chip = fields.build({})
    found = inconsistencies(chip)
    if all(isinstance(problem, Advice) for problem in found) and (fields.process or fields.energy or fields.area):
        from hwmodels.costs import costs_of

        sections = [None if section is None else section.model_dump(exclude_none=True) for section in (fields.energy, fields.area)]
        costs = costs_of(chip, fields.process, *sections)
        found += costs.problems
        chip = replace(chip, energy=costs.energy, area=costs.area, provenance=costs.provenance)
    return chip, [(problem, tuple(problem.path.split("."))) for problem in found]


def _provenance(chip: Chip, layers: Sequence[Layer], data: dict[str, Any]) -> dict[str, Provenance]:
    """For each number that a file states: the provenance written beside it, or its file's default; so for those that its process gives."""
    found = {}
    for name in (*numeric_paths(chip), *recorded_paths(chip)):
        path = tuple(name.split("."))
        layer = next((layer for layer in layers if _has(layer.data, path)), None)
        if layer is not None and _has(data, path):
            found[name] = next((layer.provenance[path[:n]] for n in range(len(path), 0, -1) if path[:n] in layer.provenance), layer.default)
        elif name in chip.provenance:
            found[name] = chip.provenance[name]
    return found


def _has(data: Any, path: FieldPath) -> bool:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return not isinstance(data, dict)


