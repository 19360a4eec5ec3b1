"""Strict reading of YAML and JSON: plain values, the line of every field, and all mistakes of a file at once.

YAML without its surprises: only text, integers, decimals, true/false and null. `12:30`, `on`, `yes`, `0x10`, `1_000` and dates stay text,
`1e9` is a number, `<<` is a key like any other, and tags, aliases and several documents in one file are refused. A key that is given
twice is an error in both formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from functional.errors import BadInput, Problem, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

FieldPath: TypeAlias = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "": None, "~": None, "null": None, "Null": None}
_SAFE_DEPTH = 5000
"""Levels of nesting that a C stack of 8 MiB takes many times over."""
_TAGS = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAGS + kind for kind in ("str", "seq", "map")}


@dataclass(frozen=True)
class Document:
    """What a file says: nested dicts, lists and scalars, and where each field stands."""

    file: str
    data: dict[str, Any]
    find_line: Callable[[FieldPath], int | None]

    def line_of(self, path: FieldPath) -> int | None:
        """Line of a field, or, if it is not in the file, of the innermost field around it that is."""
        while path:
            line = self.find_line(path)
            if line is not None:
                return line
            path = path[:-1]
        return None


def load_document(path: str | Path, error: type[BadInput] = BadInput) -> Document:
    """Read a `.json` file as JSON and any other as YAML; every mistake in it is one problem of `error`."""
    return _sound(*read_document(path, error), error)


def parse_document(text: str, file: str, error: type[BadInput] = BadInput) -> Document:
    """Like `load_document`, for text at hand; `file` stands in messages, and its suffix says whether the text is JSON or YAML."""
    return _sound(*_read_text(text, file, error), error)


def read_document(path: str | Path, error: type[BadInput] = BadInput) -> tuple[Document, list[Problem]]:
    """A file, and those mistakes that leave the rest readable (keys given twice), for callers that look for more before they raise."""
    file = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(Problem("no such file", "check the spelling of the path", file)) from None
    except IsADirectoryError:
        raise error(Problem("is a directory", "name a file inside it", file)) from None
    except UnicodeDecodeError as why:
        raise error(Problem(f"not UTF-8 text (byte {why.start})", "save it as UTF-8", file)) from None
    except OSError as why:
        raise error(Problem(f"cannot be read: {why.strerror}", "", file)) from None
    return _read_text(text, file, error)


def _read_text(text: str, file: str, error: type[BadInput]) -> tuple[Document, list[Problem]]:
    is_json = file.endswith(".json")
    if not text.strip():
        cure = """write an object, {"field": value, ...}""" if is_json else "write at least one 'field: value'"
        raise error(Problem("the file is empty", cure, file))
    read = _read_json if is_json else _read_yaml
    try:
        data, find_line, problems = read(text, file)
    except RecursionError:
        raise error(Problem("nested too deeply", "no field lies deeper than a few levels", file)) from None
    if not isinstance(data, dict):
        cure = """write an object, {"field": value, ...}""" if is_json else "write 'field: value' lines"
        found = Problem(f"expected fields at the top, found {_describe(data)}", cure, file, 1)
        raise error(problems or found)
    return Document(file, data, find_line), problems


def _sound(document: Document, problems: list[Problem], error: type[BadInput]) -> Document:
    if problems:
        raise error(sorted(problems, key=lambda problem: problem.line or 0))
    return document


def dotted(path: FieldPath) -> str:
    """`("memory", "dram", "holds", 0)` as `memory.dram.holds[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


_Read: TypeAlias = tuple[Any, Callable[[FieldPath], int | None], list[Problem]]


def _read_yaml(text: str, file: str) -> _Read:
    import yaml

    loader = _yaml_loader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as why:
        line = why.problem_mark.line + 1 if why.problem_mark else 1
        cure = _yaml_cure(str(why.problem), text.splitlines()[line - 1 : line])
        return None, _nowhere, [Problem(f"not valid YAML: {why.problem}", cure, file, line)]
    except yaml.reader.ReaderError as why:
        return None, _nowhere, [Problem(f"not valid YAML: {why.reason} at character {why.position}", "remove that character", file)]
    finally:
        loader.dispose()
    tree = _YamlTree(file)
    data = tree.plain(root, ()) if root is not None else None
    return data, tree.lines.get, tree.problems


def _yaml_loader(text: str) -> Any:
    """A composer without YAML 1.1's guesses at what a scalar means: that of libyaml (ten times faster) where PyYAML has it.

    libyaml's recurses on the C stack, which a file of nothing but brackets overflows; Python's raises RecursionError.
    """
    import yaml

    may_be_deep = sum(text.count(opening) for opening in ("[", "{", "- ", "? ")) + max(map(len, text.splitlines())) > _SAFE_DEPTH
    base: Any = yaml.SafeLoader if may_be_deep else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return type("StrictLoader", (base,), {"yaml_implicit_resolvers": {}})(text)


def _nowhere(path: FieldPath) -> None:
    """Where nothing could be read, nothing has a line."""


def _yaml_cure(problem: str, line: list[str]) -> str:
    if "\t" in "".join(line):
        return "indent with spaces, not tabs"
    if "another document" in problem:
        return "keep one document in a file, without '---'"
    if "mapping values" in problem:
        return "quote a text that holds ': '"
    if "undefined alias" in problem:
        return "write the value out; a text that begins with '*' wants quotes"
    return "check the indentation, the brackets and the quotes around here"


class _YamlTree:
    """Turns PyYAML's nodes into plain values, noting the line of each field and every mistake."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[FieldPath, int] = {}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()

    def plain(self, node: Any, path: FieldPath) -> Any:
        if node.tag not in _PLAIN_TAGS:
            return self._refuse(f"the tag '{node.tag.replace(_TAGS, '!!')}' is not supported", "write the plain value", node, path)
        if id(node) in self._seen:
            return self._refuse("aliases (*name) are not supported", "write the value out", node, path)
        self._seen.add(id(node))
        if node.id == "scalar":
            return node.value if node.style else _scalar(node.value)
        if node.id == "sequence":
            return [self._item(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._mapping(node, path)

    def _item(self, node: Any, path: FieldPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.plain(node, path)

    def _mapping(self, node: Any, path: FieldPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                self._refuse("a key must be a name", "write 'name: value'", key, path)
                continue
            here = (*path, key.value)
            if key.value in data:
                message = f"given twice (lines {self.lines[here]} and {line})"
                self.problems.append(Problem(message, "keep one of them", self.file, line, dotted(here)))
                continue
            self.lines[here] = line
            data[key.value] = self.plain(value, here)
        return data

    def _refuse(self, message: str, cure: str, node: Any, path: FieldPath) -> None:
        """An alias's node stands elsewhere; the line of its field is where the mistake is."""
        line = node.start_mark.line + 1
        self.problems.append(Problem(message, cure, self.file, max(line, self.lines.get(path, line)), dotted(path)))


def _scalar(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    return float(text) if _DECIMAL.fullmatch(text) and not _leading_zero(text) else text


def _integer(text: str) -> int | float:
    """Python refuses to read integers of thousands of digits; as a decimal such a number is infinite, which every field refuses."""
    return int(text) if len(text) < 400 else float(text)


def _leading_zero(text: str) -> bool:
    """`007` is a label, or octal; as a number it is a mistake."""
    digits = text.lstrip("+-")
    return digits[:1] == "0" and digits[1:2].isdigit()


def _read_json(text: str, file: str) -> _Read:
    find_line = partial(_json_line, text)
    problems: list[Problem] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        problems.extend(_json_duplicate(text, file, key, keys.count(key)) for key in dict.fromkeys(keys) if keys.count(key) > 1)
        return dict(pairs)

    def constant(name: str) -> None:
        problems.append(Problem(f"{name} is not a JSON number", "write a finite number or null", file, _line_at(text, text.find(name))))

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_int=_integer)
    except json.JSONDecodeError as why:
        cure = "check the commas, brackets and quotes around here"
        return None, find_line, [Problem(f"not valid JSON: {why.msg}", cure, file, why.lineno)]
    return data, find_line, problems


def _json_duplicate(text: str, file: str, key: str, times: int) -> Problem:
    """Python's parser does not tell lines; they are certain where the key stands nowhere else in the file."""
    lines = [_line_at(text, at) for at in _json_keys(text, key)]
    count = "twice" if times == 2 else f"{times} times"
    if len(lines) != times:
        return Problem(f"given {count}", "keep one of them", file, None, key)
    where = " and ".join(str(line) for line in lines)
    return Problem(f"given {count} (lines {where})", "keep one of them", file, lines[-1], key)


def _json_line(text: str, path: FieldPath) -> int | None:
    """Line of a field by looking for its quoted keys one after the other: exact unless a sibling's subtree repeats a key."""
    at, found = 0, -1
    for key in (part for part in path if isinstance(part, str)):
        found = next((place for place in _json_keys(text, key) if place >= at), -1)
        if found < 0:
            return None
        at = found + 1
    return _line_at(text, found) if found >= 0 else None


def _json_keys(text: str, key: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text))


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def validation_problems(
    why: ValidationError, model: type[BaseModel], locate: Callable[[FieldPath], tuple[str, int | None]]
) -> list[Problem]:
    """Every mistake that pydantic found, in our words; `locate` gives the file and line of a field."""
    problems = []
    for mistake in why.errors(include_url=False):
        path, known = _walk(model, tuple(mistake["loc"]))
        file, line = locate(path)
        message, cure = _in_our_words(mistake, path, known)
        problems.append(Problem(message, cure, file, line, dotted(path)))
    return sorted(problems, key=lambda problem: (problem.file, problem.line or 0))


def _in_our_words(mistake: Any, path: FieldPath, known: list[str]) -> tuple[str, str]:
    kind, context, found = mistake["type"], mistake.get("ctx", {}), _describe(mistake["input"])
    if kind == "missing":
        return "missing field", f"add '{path[-1]}: ...'"
    if kind == "extra_forbidden":
        return "unknown field", did_you_mean(str(path[-1]), [name for name in known if name != path[-1]])
    if kind == "too_short":
        return f"has too few entries: {len(mistake['input'])}", f"it takes at least {context['min_length']}"
    if kind == "literal_error":
        return f"expected {context['expected']}, found {found}", ""
    if kind == "union_tag_not_found":
        return f"the field {context['discriminator']} is missing", f"write one of: {', '.join(known)}"
    if kind == "union_tag_invalid":
        return f"unknown {context['discriminator'].strip(chr(39))} '{context['tag']}'", did_you_mean(context["tag"], known)
    if kind == "value_error":
        return str(context["error"]), getattr(context["error"], "cure", "")
    message = mistake["msg"].removeprefix("Input ").replace("should be", "must be").replace("valid dictionary", "mapping of fields")
    return f"{message}, found {found}", ""


def _walk(annotation: Any, loc: FieldPath) -> tuple[FieldPath, list[str]]:
    """Follow pydantic's location through the models: the path as in the file, and the names known there (fields, or tags of a union).

    Pydantic puts the tag of a discriminated union into the location; a reader of the file finds no such field.
    """
    path: list[str | int] = []
    known: list[str] = []
    for part in loc:
        models = _models_in(annotation)
        if part == "[key]":
            continue  # pydantic's mark of a key that is not allowed; the key itself stands before it
        if len(models) > 1:
            annotation = next(model for model in models if part in _tags(model))
            continue
        path.append(part)
        fields = models[0].model_fields if models else {}
        known = list(fields)
        annotation = fields[str(part)].annotation if str(part) in fields else _item_of(annotation)
    alternatives = _models_in(annotation)
    return tuple(path), [tag for model in alternatives for tag in _tags(model)] if len(alternatives) > 1 else known


def _models_in(annotation: Any) -> list[Any]:
    """The pydantic models among the alternatives of an annotation."""
    return [kind for kind in (annotation, *_alternatives(annotation)) if hasattr(kind, "model_fields")]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    from types import UnionType
    from typing import Union, get_args, get_origin

    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()


def _item_of(annotation: Any) -> Any:
    """The value type of a mapping or list."""
    from typing import get_args

    for kind in (annotation, *_alternatives(annotation)):
        if get_args(kind):
            return get_args(kind)[-1]
    return None


def _tags(model: Any) -> tuple[Any, ...]:
    """What the discriminating field `kind` of a model may be."""
    from typing import get_args

    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping of fields"
    if isinstance(value, list):
        return "a list"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
