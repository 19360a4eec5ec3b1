"""A chip file and those that it is based on: their fields merged, and in which of them, and in which line, a mistake was made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

from functional.documents import Document, FieldPath, dotted, read_document
from functional.errors import ChipFileError, Problem, did_you_mean
from hwmodels.chip import Provenance, Standing

LIBRARY = Path(__file__).parent / "library" / "chips"
_OF_ONE_FILE = ("name", "aliases")
"""Fields that a file does not take over from its base: a variant of an A100 is not an A100."""
UNKNOWN = "unknown field"


def chip_names() -> list[str]:
    """Names of the chips in the library."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def looks_like_path(name: str) -> bool:
    """Whether a chip was named by its file."""
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


@dataclass(frozen=True)
class Layer:
    """One file of a chain of bases: its document, and its fields with numbers freed of their provenance."""

    document: Document
    data: dict[str, Any]
    provenance: dict[FieldPath, Provenance]
    default: Provenance


def layers_of(path: Path, chain: tuple[Path, ...], problems: list[Problem]) -> list[Layer]:
    """The file, its base, the base of that, ...; mistakes that leave the file readable are added to `problems`."""
    document, mistakes = read_document(path, ChipFileError)
    problems += mistakes
    layer = _layer(document, problems)
    base = layer.data.pop("base", None)
    if base is None:
        return [layer]
    below = _base_path(base, document, (*chain, path.resolve()))
    return [layer, *layers_of(below, (*chain, path.resolve()), problems)]


def _base_path(base: object, document: Document, chain: tuple[Path, ...]) -> Path:
    line = document.line_of(("base",))
    if not isinstance(base, str) or not base:
        raise ChipFileError(Problem("expected a chip's name or the path of a file", "e.g. 'base: edge-npu'", document.file, line, "base"))
    if not looks_like_path(base):
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


def _layer(document: Document, problems: list[Problem]) -> Layer:
    sources, standing = document.data.get("sources"), document.data.get("standing", "assumed")
    named = [source for source in sources if isinstance(source, str)] if isinstance(sources, list) else []
    default = Provenance("; ".join(named) or f"stated in {Path(document.file).name}", standing)
    layer = Layer(document, {}, {}, default)
    layer.data.update({key: _unwrapped(child, (key,), layer, problems) for key, child in document.data.items()})
    if "base" in layer.data:
        layer.data.setdefault("name", Path(document.file).stem)
    return layer


def _unwrapped(value: Any, path: FieldPath, layer: Layer, problems: list[Problem]) -> Any:
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


def merged_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """The fields of all files, the first layer winning."""
    top, *below = layers
    if not below:
        return top.data
    base = {key: value for key, value in merged_layers(below).items() if key not in _OF_ONE_FILE}
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


Placed: TypeAlias = tuple[Problem, FieldPath]
"""A mistake, and the field at which it was noticed."""

Judge: TypeAlias = Callable[[Sequence[Layer]], list[Placed]]
"""All that is wrong with the merged fields of some layers."""


def located(found: Sequence[Placed], layers: Sequence[Layer], judge: Judge) -> list[Problem]:
    """The mistakes with file and line: those of the field where it stands, but never in a base that is right by itself."""
    told: dict[Problem, list[str]] = {}
    for problem, place in found:
        here, stranger = _blamed(problem, place, layers, judge)
        told.setdefault(here, []).extend([stranger] if stranger else [])
    order = {layer.document.file: i for i, layer in enumerate(layers)}
    listed = [_listing(problem, strangers) if strangers else problem for problem, strangers in told.items()]
    return sorted(listed, key=lambda problem: (order.get(problem.file, 0), problem.line or 0))


def _listing(problem: Problem, strangers: Sequence[str]) -> Problem:
    removed = ", ".join(f"{name}: null" for name in strangers)
    return replace(problem, message=f"{problem.message}: {', '.join(strangers)}", cure=f"add '{removed}' beside it")


def _blamed(problem: Problem, place: FieldPath, layers: Sequence[Layer], judge: Judge) -> tuple[Problem, str]:
    """The mistake at the file that brings it in: the deepest with whose fields it is there. If that is not where the field stands, it is
    at the first of that file's own fields without which the mistake goes away, or is another. Of a base's field that has no place any
    more, also its name."""
    at = next((i for i in reversed(range(1, len(layers))) if _is_among(problem, judge(layers[i:]))), 0)
    own, *below = layers[at:]
    stands = next((layer for layer in layers if layer.document.find_line(place) is not None), None)
    here = replace(problem, file=own.document.file, line=own.document.line_of(place))
    leaf = _culprit(problem, [own, *below], judge) if below and stands is not own else None
    if leaf is None:
        return here, ""
    here = replace(here, line=own.document.line_of(leaf))
    if stands is None:
        return here, ""
    base = stands.data.get("name", stands.document.file)
    if problem.message == UNKNOWN:
        return replace(here, path=dotted(leaf), message=f"fields of the base {base} have no place here", cure=""), str(place[-1])
    return replace(here, message=f"{problem.message} ({dotted(leaf)} is stated here, {problem.path} in the base {base})"), ""


def _culprit(problem: Problem, layers: Sequence[Layer], judge: Judge) -> FieldPath | None:
    """The top file's field that makes the mistake: without it there is one less. Better one without which nothing else goes wrong, or
    without which it is at least another mistake."""
    top, *below = layers
    paths = {each.path for each, _ in judge(layers)}
    found = {leaf: judge([_without(top, leaf), *below]) for leaf in _leaves(top.data) if leaf[0] not in _OF_ONE_FILE}
    left = {leaf: {each.path for each, _ in others} for leaf, others in found.items()}
    alone = [leaf for leaf in found if left[leaf] <= paths - {problem.path}]
    in_part = [leaf for leaf in found if left[leaf] <= paths and not _is_among(problem, found[leaf])]
    at_a_price = [leaf for leaf in found if problem.path not in left[leaf]]
    return next(iter([*alone, *in_part, *at_a_price]), None)


def _is_among(problem: Problem, found: Sequence[Placed]) -> bool:
    return any((each.path, each.message) == (problem.path, problem.message) for each, _ in found)


def _leaves(data: dict[str, Any], path: FieldPath = ()) -> Iterator[FieldPath]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield *path, key


def _without(layer: Layer, leaf: FieldPath) -> Layer:
    data = copy.deepcopy(layer.data)
    inner: Any = data
    for part in leaf[:-1]:
        inner = inner[part]
    del inner[leaf[-1]]
    return replace(layer, data=data)
