"""From a chip's name or file to a validated `Chip`, with every mistake of the file in one error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from functional.documents import Document, FieldPath, dotted, read_document, validation_problems
from functional.errors import ChipFileError, Problem, UnknownName, did_you_mean
from hwmodels.chip import Chip, Provenance, Standing
from hwmodels.consistency import Advice, inconsistencies
from hwmodels.paths import numeric_paths

LIBRARY = Path(__file__).parent / "library" / "chips"
_OF_ONE_FILE = ("name", "aliases")
"""Fields that a file does not take over from its base: a variant of an A100 is not an A100."""


def chip_names() -> list[str]:
    """Names of the chips in the library."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


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
    if isinstance(name_or_path, Path) or _looks_like_path(name):
        return Path(name_or_path)
    names = chip_names()
    if name.lower() in names:
        return LIBRARY / f"{name.lower()}.yaml"
    for known in names:
        if name in read_document(LIBRARY / f"{known}.yaml")[0].data.get("aliases", []):
            return LIBRARY / f"{known}.yaml"
    if Path(name).is_dir():
        raise ChipFileError(Problem("is a folder", "name the YAML file in it", name))
    raise UnknownName(Problem(f"unknown chip '{name}'", did_you_mean(name, names)))


def _looks_like_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


@dataclass(frozen=True)
class _Layer:
    """One file of a chain of bases: its document, and its fields with numbers freed of their provenance."""

    document: Document
    data: dict[str, Any]
    provenance: dict[FieldPath, Provenance]
    default: Provenance


def _load(path: Path) -> tuple[Chip, list[Problem]]:
    """The chip and its inconsistencies; what cannot be built is raised."""
    from pydantic import ValidationError

    from hwmodels.schema import ChipFile

    problems: list[Problem] = []
    layers = _layers(path, (), problems)
    data = _merged_layers(layers)
    try:
        fields = ChipFile.model_validate(data)
    except ValidationError as why:
        problems += validation_problems(why, ChipFile, lambda field: _locate(layers, field))
    if problems:
        raise ChipFileError(problems)
    chip = fields.build({})
    found = inconsistencies(chip)
    if all(isinstance(problem, Advice) for problem in found) and (fields.process or fields.energy or fields.area):
        from hwmodels.costs import costs_of

        sections = [None if section is None else section.model_dump(exclude_none=True) for section in (fields.energy, fields.area)]
        costs = costs_of(chip, fields.process, *sections)
        found += costs.problems
        chip = replace(chip, energy=costs.energy, area=costs.area, provenance=costs.provenance)
    chip = replace(chip, provenance=_provenance(chip, layers, data))
    return chip, [_located(problem, layers) for problem in found]


def _layers(path: Path, chain: tuple[Path, ...], problems: list[Problem]) -> list[_Layer]:
    """The file, its base, the base of that, ...; mistakes that leave the file readable are added to `problems`."""
    document, mistakes = read_document(path, ChipFileError)
    problems += mistakes
    layer = _layer(document, problems)
    base = layer.data.pop("base", None)
    if base is None:
        return [layer]
    below = _base_path(base, document, (*chain, path.resolve()))
    return [layer, *_layers(below, (*chain, path.resolve()), problems)]


def _base_path(base: object, document: Document, chain: tuple[Path, ...]) -> Path:
    line = document.line_of(("base",))
    if not isinstance(base, str) or not base:
        raise ChipFileError(Problem("expected a chip's name or the path of a file", "e.g. 'base: edge-npu'", document.file, line, "base"))
    if not _looks_like_path(base):
        if base not in chip_names():
            raise ChipFileError(Problem(f"unknown chip '{base}'", did_you_mean(base, chip_names()), document.file, line, "base"))
        return LIBRARY / f"{base}.yaml"
    path = Path(document.file).parent / base
    if path.resolve() in chain:
        circle = " -> ".join(step.name for step in (*chain, path.resolve()))
        raise ChipFileError(Problem(f"the bases form a circle: {circle}", "let one of them stand alone", document.file, line, "base"))
    if not path.is_file():
        raise ChipFileError(Problem(f"no such file: '{base}'", "write it relative to this file", document.file, line, "base"))
    return path


def _layer(document: Document, problems: list[Problem]) -> _Layer:
    sources, standing = document.data.get("sources"), document.data.get("standing", "assumed")
    named = [source for source in sources if isinstance(source, str)] if isinstance(sources, list) else []
    default = Provenance("; ".join(named) or f"stated in {Path(document.file).name}", standing)
    layer = _Layer(document, {}, {}, default)
    layer.data.update({key: _unwrapped(child, (key,), layer, problems) for key, child in document.data.items()})
    if "base" in layer.data:
        layer.data.setdefault("name", Path(document.file).stem)
    return layer


def _unwrapped(value: Any, path: FieldPath, layer: _Layer, problems: list[Problem]) -> Any:
    """`{value: 5, source: ..., standing: ...}` becomes 5; the rest of it goes to the layer's provenance."""
    if not isinstance(value, dict):
        return value
    if "value" not in value:
        return {key: _unwrapped(child, (*path, key), layer, problems) for key, child in value.items()}
    for field, message, cure in _wrapper_mistakes(value):
        place = (*path, field)
        problems.append(Problem(message, cure, layer.document.file, layer.document.line_of(place), dotted(place)))
    source, standing = value.get("source", layer.default.source), value.get("standing", layer.default.standing)
    layer.provenance[path] = Provenance(source, standing)
    return value["value"]


def _wrapper_mistakes(wrapper: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    known = ("value", "source", "standing")
    for field in wrapper:
        if field not in known:
            yield field, "unknown field", did_you_mean(field, known)
    if not isinstance(wrapper.get("source", ""), str):
        yield "source", "expected a text", "name the datasheet, paper or measurement"
    standing = wrapper.get("standing", "assumed")
    if standing not in get_args(Standing):
        yield "standing", f"expected datasheet, measured, assumed or fitted, found {standing!r}", ""


def _merged_layers(layers: list[_Layer]) -> dict[str, Any]:
    """The fields of all files, the first layer winning."""
    top, *below = layers
    if not below:
        return top.data
    base = {key: value for key, value in _merged_layers(below).items() if key not in _OF_ONE_FILE}
    data = _merged(base, top.data)
    sources = [layer.data["sources"] for layer in (top, *below) if isinstance(layer.data.get("sources"), list)]
    return {**data, "sources": list(dict.fromkeys(str(source) for group in sources for source in group))}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Key by key at any depth; `null` removes a key. Own keys set the order if they name all of the base's (a level put in between)."""
    order = own if base.keys() <= own.keys() else {**base, **own}
    merged = {}
    for key in order:
        value = own.get(key, base.get(key))
        if isinstance(value, dict) and isinstance(base.get(key), dict) and not _is_one_number(base[key], value):
            value = _merged(base[key], value)
        if key not in own or value is not None:
            merged[key] = value
    return merged


def _is_one_number(base: dict[str, Any], own: dict[str, Any]) -> bool:
    """`{read, write}` restated in full replaces both."""
    return base.keys() == own.keys() == {"read", "write"}


def _locate(layers: list[_Layer], path: FieldPath) -> tuple[str, int | None]:
    """File and line of a field; one that stands nowhere belongs to the top file."""
    for layer in layers:
        line = layer.document.find_line(path)
        if line is not None:
            return layer.document.file, line
    return layers[0].document.file, layers[0].document.line_of(path)


def _located(problem: Problem, layers: list[_Layer]) -> Problem:
    file, line = _locate(layers, tuple(problem.path.split(".")))
    return replace(problem, file=file, line=line)


def _provenance(chip: Chip, layers: list[_Layer], data: dict[str, Any]) -> dict[str, Provenance]:
    """For each number that a file states: the provenance written beside it, or its file's default; so for those that its process gives."""
    found = {}
    for name in (*numeric_paths(chip), "process"):
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


