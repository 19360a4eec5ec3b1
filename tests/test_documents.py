"""A file says what it seems to say: no guessed types, no silent duplicate, and every mistake with its line and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from functional.documents import Document, dotted, load_document, parse_document, validation_problems
from functional.errors import BadInput, ChipFileError


def mistakes(text: str, file: str = "my.yaml") -> list[str]:
    with pytest.raises(BadInput) as refused:
        parse_document(text, file)
    return [str(problem) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e9", 1e9),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12:30", "12:30"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("007", "007"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2024-01-31", "2024-01-31"),
        ("51.2 GB/s", "51.2 GB/s"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{b: 1}", {"b": 1}),
    ],
)
def test_scalars_mean_what_they_look_like(written: str, meant: object) -> None:
    value = parse_document(f"a: {written}\n", "my.yaml").data["a"]
    assert value == meant
    assert type(value) is type(meant)


def test_keys_are_text() -> None:
    assert parse_document("1: a\non: b\n", "my.yaml").data == {"1": "a", "on": "b"}


def test_python_and_c_loaders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: {b: [1, 12:30, {c: on}], d: 1e9}\ne:\n  f: 'x'\n"
    fast = parse_document(text, "my.yaml")
    monkeypatch.delattr(yaml, "CSafeLoader")
    slow = parse_document(text, "my.yaml")
    assert slow.data == fast.data
    assert all(slow.line_of(path) == fast.line_of(path) for path in [("a",), ("a", "b", 2, "c"), ("e", "f")])


@pytest.mark.parametrize("file", ["my.yaml", "my.json"])
def test_lines_of_fields(file: str) -> None:
    text = '{\n"a": {"x": 1},\n"b": {\n  "x": 2,\n  "list": [3,\n 4]}\n}\n'
    document = parse_document(text, file)
    assert document.data == {"a": {"x": 1}, "b": {"x": 2, "list": [3, 4]}}
    assert [document.line_of(path) for path in [("a",), ("a", "x"), ("b",), ("b", "x"), ("b", "list")]] == [2, 2, 3, 4, 5]


def test_what_is_missing_has_the_line_of_what_is_around_it() -> None:
    document = parse_document("a: 1\nb:\n  c: 2\n", "my.yaml")
    assert document.line_of(("b", "d", "e")) == 2
    assert document.line_of(("z",)) is None


def test_every_duplicate_is_reported_with_both_lines() -> None:
    assert mistakes("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n") == [
        "my.yaml:5: b.c: given twice (lines 3 and 5); keep one of them",
        "my.yaml:6: a: given twice (lines 1 and 6); keep one of them",
    ]


def test_duplicates_in_json() -> None:
    assert mistakes('{"a": 1,\n "b": {"c": 1},\n "a": 2}', "my.json") == ["my.json:3: a: given twice (lines 1 and 3); keep one of them"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "my.yaml: the file is empty; write at least one 'field: value'"),
        ("# nothing\n", "my.yaml:1: expected fields at the top, found nothing; write 'field: value' lines"),
        ("- 1\n", "my.yaml:1: expected fields at the top, found a list; write 'field: value' lines"),
        ("just text\n", "my.yaml:1: expected fields at the top, found 'just text'; write 'field: value' lines"),
        ("a: 1\nb: &x 2\nc: *x\n", "my.yaml:3: c: aliases (*name) are not supported; write the value out"),
        ("a: !!python/object:os.system ls\n", "my.yaml:1: a: the tag '!!python/object:os.system' is not supported; write the plain value"),
        ("a: !mine 1\n", "my.yaml:1: a: the tag '!mine' is not supported; write the plain value"),
        ("? [a]\n: 1\n", "my.yaml:1: a key must be a name; write 'name: value'"),
    ],
)
def test_refused_yaml(text: str, expected: str) -> None:
    assert mistakes(text) == [expected]


@pytest.mark.parametrize(
    ("text", "line", "cure"),
    [
        ("a: 1\nb: [1\nc: 2\n", 3, "check the indentation, the brackets and the quotes around here"),
        ("a:\n\tb: 1\n", 2, "indent with spaces, not tabs"),
        ("a: b: c\n", 1, "quote a text that holds ': '"),
        ("a: 1\n---\nb: 2\n", 2, "keep one document in a file, without '---'"),
        ("a: *x\n", 1, "write the value out; a text that begins with '*' wants quotes"),
    ],
)
def test_syntax_errors_name_line_and_cure(text: str, line: int, cure: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"my.yaml:{line}: not valid YAML: ")
    assert mistake.endswith(f"; {cure}")


def test_control_characters() -> None:
    (mistake,) = mistakes("a: \x01\n")
    assert mistake.startswith("my.yaml")
    assert "not valid YAML" in mistake


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert len(mistakes(text)) == 2 * 39


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_nesting_without_end(opening: str) -> None:
    assert len(mistakes("a: " + opening * 100_000)) == 1
    assert len(mistakes('{"a": ' + "[" * 100_000, "my.json")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": NaN}', "my.json:1: NaN is not a JSON number; write a finite number or null"),
        ("", 'my.json: the file is empty; write an object, {"field": value, ...}'),
        ("[1]", 'my.json:1: expected fields at the top, found a list; write an object, {"field": value, ...}'),
    ],
)
def test_refused_json(text: str, expected: str) -> None:
    assert mistakes(text, "my.json") == [expected]


def test_json_syntax_error_names_the_line() -> None:
    (mistake,) = mistakes('{"a": 1,\n "b" 2}', "my.json")
    assert mistake == "my.json:2: not valid JSON: Expecting ':' delimiter; check the commas, brackets and quotes around here"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9\n")
    for path, message in [
        (tmp_path / "none.yaml", "no such file; check the spelling of the path"),
        (tmp_path, "is a directory; name a file inside it"),
        (latin, "not UTF-8 text (byte 3); save it as UTF-8"),
    ]:
        with pytest.raises(ChipFileError) as refused:
            load_document(path, ChipFileError)
        assert str(refused.value) == f"{path}: {message}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("a: 1\n".encode("utf-8-sig"))
    assert load_document(path).data == {"a": 1}


def test_dotted_paths() -> None:
    assert dotted(("memory", "dram", "holds", 0)) == "memory.dram.holds[0]"


def test_validation_problems_of_a_whole_file() -> None:
    from pydantic import BaseModel, ConfigDict, ValidationError

    class Level(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        bandwidth: float
        ports: int = 1

    class Top(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        levels: dict[str, Level]

    def locate(document: Document) -> list[str]:
        with pytest.raises(ValidationError) as why:
            Top.model_validate(document.data)
        found = validation_problems(why.value, Top, lambda path: (document.file, document.line_of(path)))
        return [str(problem) for problem in found]

    assert locate(parse_document("levels:\n  a:\n    bandwith: 5\n  b:\n    bandwidth: 1\n    ports: '2'\nlevls: 3\n", "my.yaml")) == [
        "my.yaml:2: levels.a.bandwidth: missing field; add 'bandwidth: ...'",
        "my.yaml:3: levels.a.bandwith: unknown field; did you mean 'bandwidth'?",
        "my.yaml:6: levels.b.ports: must be a valid integer, found '2'",
        "my.yaml:7: levls: unknown field; did you mean 'levels'?",
    ]
