"""A chip file becomes exactly the numbers that it states, in SI units; all that is wrong with it is said at once, with place and cure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functional.errors import BadInput, ChipFileError, UnknownName
from hwmodels import Advice, Chip, check_chip, chip_names, load_chip, numeric_paths, with_values

GOOD = """\
name: toy
sources: [invented for a test]
standing: assumed
default_format: int8
clock: 1 GHz
cores: 2
tdp: 5 W
matrix:
  kind: systolic
  count: 1
  rows: 4
  cols: 8
  dataflows: [ws, os]
  rates: {int8: 2, bf16: 1}
  accumulate: {int8: int32, bf16: fp32}
vector: {lanes: 8, cycles: {add: 1, mul: 1, exp: 4, rsqrt: 4, convert: 1}}
memory:
  dram: {capacity: 1 GiB, bandwidth: 10 GB/s, latency: 100 ns, burst: 64 B}
  sram:
    capacity: 64 KiB
    bandwidth: {read: 64 B/cycle, write: 32 B/cycle}
    per: core
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "toy.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def said(path: Path) -> list[str]:
    """The mistakes of a file without its folder; loading it must refuse with the same ones."""
    problems = check_chip(path)
    with pytest.raises(ChipFileError) as refused:
        load_chip(path)
    assert list(refused.value.problems) == [problem for problem in problems if not isinstance(problem, Advice)]
    return [str(problem).replace(f"{path.parent}/", "") for problem in problems]


def test_numbers_in_si_units(write) -> None:
    chip = load_chip(write(GOOD))
    dram, sram = chip.memory
    assert (chip.name, chip.default_format, chip.clock_hz, chip.cores, chip.tdp_w) == ("toy", "int8", 1e9, 2, 5.0)
    assert (chip.matrix.kind, chip.matrix.rows, chip.matrix.cols, chip.matrix.tile) == ("systolic", 4, 8, (1, 1, 1))
    assert chip.matrix.dataflows == ("ws", "os")
    assert chip.peak_macs_per_s("int8") == 2 * 4 * 8 * 2 * 1e9
    assert chip.peak_macs_per_s("bf16") == 2 * 4 * 8 * 1e9
    assert chip.primitive_s("exp") == 4 / (8 * 2 * 1e9)
    assert (dram.capacity_bytes, chip.read_bytes_per_s(dram), dram.latency_s, dram.burst_bytes) == (2**30, 10e9, 1e-7, 64)
    assert dram.bandwidth.shared
    assert not sram.bandwidth.shared
    assert chip.capacity_bytes(sram) == 2 * 65536
    assert (chip.read_bytes_per_s(sram), chip.write_bytes_per_s(sram)) == (2 * 64e9, 2 * 32e9)
    assert check_chip(write(GOOD)) == []


def test_documented_defaults(write) -> None:
    chip = load_chip(write(GOOD))
    dram, sram = chip.memory
    assert (chip.matrix.weight_preload, chip.launch_s, chip.resident_share, chip.technology, chip.aliases) == ("overlapped", 0, 0.5, "", ())
    assert (dram.per, dram.channels, dram.technology, dram.ecc) == ("chip", 1, "", "none")
    assert (sram.latency_s, sram.burst_bytes, sram.double_buffered, sram.multicast) == (0, 1, True, False)
    assert dram.holds == sram.holds == {"weights", "activations", "psums"}


def test_tensor_cores(write) -> None:
    text = GOOD.replace("systolic", "tensor_core").replace("  rows: 4\n  cols: 8\n  dataflows: [ws, os]", "  tile: {m: 4, n: 2, k: 8}")
    chip = load_chip(write(text))
    assert (chip.matrix.rows, chip.matrix.cols, chip.matrix.tile, chip.matrix.dataflows) == (1, 1, (4, 2, 8), ())
    assert chip.peak_macs_per_s("int8") == 2 * 2 * 1e9


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("clock: 1 GHz", "clock: 1e9", "5: clock: a bare number, 1000000000.0; write a unit, e.g. '1 GHz'"),
        ("clock: 1 GHz", "clock: 0 Hz", "5: clock: '0 Hz' is zero; write more than 0, e.g. '1 GHz'"),
        ("clock: 1 GHz\n", "", " clock: missing field; add 'clock: ...'"),
        ("clock:", "clok:", "5: clok: unknown field; did you mean 'clock'?"),
        ("cores: 2", "cores: 2.5", "6: cores: must be a valid integer, found 2.5"),
        ("cores: 2", "cores: '2'", "6: cores: must be a valid integer, found '2'"),
        ("cores: 2", "cores: true", "6: cores: must be a valid integer, found true"),
        ("cores: 2", "cores: 0", "6: cores: must be greater than 0, found 0"),
        ("cores: 2", "cores:", "6: cores: must be a valid integer, found nothing"),
        ("10 GB/s", "10 Gb/s", "18: memory.dram.bandwidth: unknown unit 'Gb/s' in '10 Gb/s'; did you mean 'GB/s'? (B is a byte, b a bit)"),
        ("10 GB/s", "10", "18: memory.dram.bandwidth: a bare number, 10; write a unit, e.g. '51.2 GB/s'"),
        (", write: 32 B/cycle", "", "21: memory.sram.bandwidth: found the fields read; write one bandwidth, or {read: ..., write: ...}"),
        (
            "write: 32 B/cycle",
            "write: 32 GB/s",
            "21: memory.sram.bandwidth: read and write have different units; write both in B/s or both in B/cycle",
        ),
        ("bandwidth: 10", "bandwith: 10", "18: memory.dram.bandwith: unknown field; did you mean 'bandwidth'?"),
        ("  rows: 4\n", "", "8: matrix.rows: missing field; add 'rows: ...'"),
        (
            "  rows: 4\n",
            "  rows: 4\n  tile: {m: 1, n: 1, k: 1}\n",
            "12: matrix.tile: unknown field; known: kind, count, rows, cols, dataflows, weight_preload, rates, accumulate, efficiency",
        ),
        ("kind: systolic", "kind: sistolic", "8: matrix: unknown kind 'sistolic'; did you mean 'systolic'?"),
        ("  kind: systolic\n", "", "8: matrix: the field 'kind' is missing; write one of: systolic, tensor_core"),
        ("[ws, os]", "[ws, rs]", "13: matrix.dataflows[1]: expected 'ws', 'os' or 'is', found 'rs'"),
        ("int8: 2,", "int8: 0,", "14: matrix.rates.int8: must be greater than or equal to 0.000001, found 0"),
        ("rsqrt: 4, ", "", "16: vector.cycles.rsqrt: missing field; add 'rsqrt: ...'"),
        ("per: core", "per: die", "22: memory.sram.per: expected 'chip' or 'core', found 'die'"),
        ("per: core", "double_buffered: on", "22: memory.sram.double_buffered: must be a valid boolean, found 'on'"),
        ("per: core", "holds: [weights, ifmaps]", "22: memory.sram.holds[1]: expected 'weights', 'activations' or 'psums', found 'ifmaps'"),
        ("standing: assumed", "standing: fitted", "3: standing: expected 'datasheet', 'measured' or 'assumed', found 'fitted'"),
        ("tdp: 5 W", "resident_share: 1", "7: resident_share: must be less than 1, found 1"),
        ("tdp: 5 W", "resident_share: 0", "7: resident_share: must be greater than 0, found 0"),
        ("tdp: 5 W", "tdp: 5 W\nclock: 2 GHz", "8: clock: given twice (lines 5 and 8); keep one of them"),
        ("tdp: 5 W", "tdp: {value: 5 W, sauce: me}", "7: tdp.sauce: unknown field; did you mean 'source'?"),
        ("tdp: 5 W", "tdp: {value: 5 W, standing: sure}", "7: tdp.standing: expected datasheet, measured, assumed or fitted, found 'sure'"),
        ("tdp: 5 W", "base: edge-npuu", "7: base: unknown chip 'edge-npuu'; did you mean 'edge-npu'?"),
        ("tdp: 5 W", "base: other.yaml", "7: base: no such file: 'other.yaml'; write it relative to this file"),
        ("tdp: 5 W", "base: [a]", "7: base: expected a chip's name or the path of a file; e.g. 'base: edge-npu'"),
    ],
)
def test_one_mistake(write, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) >= 1
    assert f"toy.yaml:{expected}" in said(write(GOOD.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "default_format: int8",
            "default_format: fp16",
            "4: default_format: the matrix unit has no rate for 'fp16'; add a rate for fp16 to matrix.rates, or choose one of: int8, bf16",
        ),
        (", bf16: fp32}", "}", "15: matrix.accumulate: no accumulator format for 'bf16'; add 'bf16: fp32'"),
        (", bf16: 1}", "}", "15: matrix.accumulate.bf16: matrix.rates has no such format; remove it, or add a rate for bf16"),
        (
            "capacity: 64 KiB",
            "capacity: 256 B",
            "20: memory.sram.capacity: sram (256 B per core) is too small for one pass of the matrix unit, which needs 352 B in int8; "
            "raise memory.sram.capacity to at least 352 B, or set memory.sram.double_buffered to false",
        ),
        (
            "capacity: 64 KiB",
            "capacity: 100 B",
            "20: memory.sram.capacity: sram (100 B per core) is too small for one pass of the matrix unit, which needs 352 B in int8; "
            "raise memory.sram.capacity to at least 352 B",
        ),
        ("per: core", "holds: [weights, psums]", "17: memory: no on-chip level holds activations; add activations to memory.sram.holds"),
        (
            "capacity: 64 KiB",
            "capacity: 512 MiB",
            "20: memory.sram.capacity: sram (512 MiB per core of 2) is more than dram (1 GiB); check the units of both",
        ),
        (
            "  dram:",
            "  hbm:",
            "18: memory.hbm: the first level is 'hbm'; list the levels from the outermost inwards, and call the first one 'dram'",
        ),
        ("  sram:", "  L1.x:", "17: memory.L1.x: 'L1.x' cannot name a level; use lower-case letters, digits and _, a letter first"),
        (
            "burst: 64 B",
            "burst: 64 B, per: core",
            "18: memory.dram.per: DRAM belongs to the whole chip; remove 'per', and state the bandwidth of all channels together",
        ),
        (
            "burst: 64 B",
            "burst: 64 B, holds: [weights]",
            "18: memory.dram.holds: the outermost level must hold everything, activations, psums too; remove 'holds'",
        ),
    ],
)
def test_one_contradiction(write, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    assert said(write(GOOD.replace(old, new))) == [f"toy.yaml:{expected}"]


def test_the_smallest_sram_that_passes_is_the_one_advised(write) -> None:
    """By hand: (8 x 4 weights + 4 x 4 activations) x 1 B + 4 x 8 sums x 4 B, twice for double buffering."""
    assert 2 * (8 * 4 + 4 * 4 + 4 * 8 * 4) == 352
    assert check_chip(write(GOOD.replace("capacity: 64 KiB", "capacity: 352 B"))) == []


def test_a_slow_inner_level_is_advice_only(write) -> None:
    path = write(GOOD.replace("{read: 64 B/cycle, write: 32 B/cycle}", "4 B/cycle"))
    (advice,) = check_chip(path)
    assert isinstance(advice, Advice)
    assert str(advice).endswith(
        "toy.yaml:21: memory.sram.bandwidth: sram reads 8 GB/s over the whole chip, less than DRAM's 10 GB/s; "
        "check the unit, and whether the number is per core"
    )
    assert load_chip(path).memory[1].bandwidth.read == 4


def test_what_no_engine_charges_is_advice(write) -> None:
    """On-chip bursts, and the latency of a level that only the array reads; that of a level around it is charged."""
    shared = "  l2: {capacity: 1 MiB, bandwidth: 1 kB/cycle, latency: 20 ns, holds: [weights, activations]}\n  sram:\n"
    path = write(GOOD.replace("  sram:\n", shared + "    latency: 2 ns\n    burst: 32 B\n"))
    advice = check_chip(path)
    assert all(isinstance(problem, Advice) for problem in advice)
    assert {problem.path for problem in advice} == {"memory.sram.burst", "memory.sram.latency"}
    assert all("is for the record" in problem.message for problem in advice)
    assert "memory.l2.latency" in numeric_paths(load_chip(path))


def test_all_mistakes_of_a_file_at_once(write) -> None:
    text = GOOD.replace("cores: 2", "cores: none").replace("10 GB/s", "10").replace("per: core", "pre: core\n    capacity: 1 B")
    assert said(write(text)) == [
        "toy.yaml:23: memory.sram.capacity: given twice (lines 20 and 23); keep one of them",
        "toy.yaml:6: cores: must be a valid integer, found 'none'",
        "toy.yaml:18: memory.dram.bandwidth: a bare number, 10; write a unit, e.g. '51.2 GB/s'",
        "toy.yaml:22: memory.sram.pre: unknown field; did you mean 'per'?",
    ]


@given(line=st.integers(0, GOOD.count("\n") - 1), junk=st.text(alphabet="{}[]:,'\"#&*!|>%@`\\t -.0a5éµ\x00", max_size=12))
def test_whatever_a_line_says_the_answer_is_a_chip_or_a_list_of_mistakes(tmp_path_factory, line: int, junk: str) -> None:
    lines = GOOD.splitlines()
    lines[line] = f"{lines[line].split(':')[0]}: {junk}"
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    problems = [problem for problem in check_chip(path) if not isinstance(problem, Advice)]
    if problems:
        assert all(problem.file and problem.message for problem in problems)
    else:
        assert isinstance(load_chip(path), Chip)


def test_a_top_field_named_value_is_no_number_with_a_source(write) -> None:
    (mistake,) = said(write("value: 5\n" + GOOD))
    assert mistake.startswith("toy.yaml:1: value: unknown field; known: name, ")


def test_syntax_error(write) -> None:
    (mistake,) = said(write(GOOD.replace("[ws, os]", "[ws, os")))
    assert mistake.startswith("toy.yaml:1")
    assert "not valid YAML" in mistake


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ChipFileError, match=r"none\.yaml: no such file"):
        load_chip(tmp_path / "none.yaml")


def test_unknown_chip() -> None:
    with pytest.raises(UnknownName) as refused:
        load_chip("edge-npuu")
    assert str(refused.value) == "unknown chip 'edge-npuu'; did you mean 'edge-npu'?"


class TestBase:
    def test_takes_all_that_is_not_restated(self, write) -> None:
        write(GOOD)
        child = write("base: toy.yaml\nmemory: {sram: {capacity: 128 KiB}}\nmatrix: {rates: {bf16: 0.5}}\n", "child.yaml")
        parent, chip = load_chip(write(GOOD)), load_chip(child)
        assert chip.name == "child"
        assert chip.memory[1].capacity_bytes == 2 * parent.memory[1].capacity_bytes
        assert chip.memory[1].bandwidth == parent.memory[1].bandwidth
        assert chip.matrix.rates == {"int8": 2, "bf16": 0.5}
        assert chip.memory[0] == parent.memory[0]

    def test_provenance_follows_the_file_that_states_the_number(self, write) -> None:
        write(GOOD.replace("tdp: 5 W", "tdp: {value: 5 W, source: a meter, standing: measured}"))
        chip = load_chip(write("base: toy.yaml\nclock: 2 GHz\nmemory: {sram: {bandwidth: 64 B/cycle}}\n", "child.yaml"))
        assert (chip.provenance["clock"].source, chip.provenance["clock"].standing) == ("stated in child.yaml", "assumed")
        assert (chip.provenance["tdp"].source, chip.provenance["tdp"].standing) == ("a meter", "measured")
        assert chip.provenance["cores"].source == "invented for a test"
        assert chip.provenance["memory.sram.bandwidth"].source == "stated in child.yaml"
        assert "memory.sram.bandwidth.read" not in chip.provenance

    def test_a_restated_number_loses_the_source_of_the_old_one(self, write) -> None:
        write(GOOD.replace("tdp: 5 W", "tdp: {value: 5 W, source: a meter, standing: measured}"))
        chip = load_chip(write("base: toy.yaml\ntdp: {value: 6 W}\n", "child.yaml"))
        assert (chip.tdp_w, chip.provenance["tdp"].source) == (6, "stated in child.yaml")

    def test_null_removes_a_field(self, write) -> None:
        write(GOOD)
        child = (
            "base: toy.yaml\nmatrix: {kind: tensor_core, rows: null, cols: null, dataflows: null, tile: {m: 4, n: 4, k: 4}}\n"
            "memory: {sram: {per: ~}}\n"
        )
        chip = load_chip(write(child, "child.yaml"))
        assert (chip.matrix.kind, chip.matrix.tile, chip.memory[1].per) == ("tensor_core", (4, 4, 4), "chip")

    def test_a_new_level_goes_inside_unless_the_order_is_restated(self, write) -> None:
        write(GOOD)
        level = "{capacity: 1 MiB, bandwidth: 128 B/cycle}"
        inside = load_chip(write(f"base: toy.yaml\nmemory: {{l2: {level.replace('1 MiB', '4 KiB')}}}\n", "inside.yaml"))
        between = load_chip(write(f"base: toy.yaml\nmemory: {{dram: {{}}, l2: {level}, sram: {{}}}}\n", "between.yaml"))
        assert [one.name for one in inside.memory] == ["dram", "sram", "l2"]
        assert [one.name for one in between.memory] == ["dram", "l2", "sram"]

    def test_errors_name_the_file_that_holds_the_mistake(self, write) -> None:
        write(GOOD.replace("cores: 2", "cores: 0"))
        child = write("base: toy.yaml\nclock: 5\n", "child.yaml")
        assert said(child) == [
            "child.yaml:2: clock: a bare number, 5; write a unit, e.g. '1 GHz'",
            "toy.yaml:6: cores: must be greater than 0, found 0",
        ]

    def test_contradiction_between_the_files(self, write) -> None:
        write(GOOD)
        (mistake,) = said(write("base: toy.yaml\nmatrix: {rows: 4096, cols: 4096}\n", "child.yaml"))
        assert mistake.startswith("child.yaml:2: memory.sram.capacity: sram (64 KiB per core) is too small for one pass of the matrix unit")
        assert mistake.endswith(
            "needs 192 MiB in int8 (matrix.rows is stated here, memory.sram.capacity in the base toy); "
            "raise memory.sram.capacity to at least 192 MiB"
        )

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            (
                "name: mine\nclock: 2 GHz\nmatrix:\n  rates: {int4: 2}\n",
                "child.yaml:5: matrix.accumulate: no accumulator format for 'int4' "
                "(matrix.rates.int4 is stated here, matrix.accumulate in the base toy); add 'int4: int32'",
            ),
            (
                "memory:\n  sram: {capacity: 1 MiB}\n  dram: {bandwidth: 60 GB/s}\n",
                "child.yaml:3: memory.sram: the first level is 'sram'; list the levels from the outermost inwards: 'dram' before 'sram'",
            ),
            (
                "clock: 2 GHz\nmatrix:\n  kind: tensor_core\n  tile: {m: 4, n: 4, k: 4}\n",
                "child.yaml:4: matrix.kind: fields of the base toy have no place here: rows, cols, dataflows; "
                "add 'rows: null, cols: null, dataflows: null' beside it",
            ),
            (
                "memory: {sram: {capacity: 16 GiB}}\n",
                "child.yaml:2: memory.sram.capacity: sram (16 GiB per core of 2) is more than dram (1 GiB); check the units of both",
            ),
            ("matrix:\n  rows: null\n", "child.yaml:3: matrix.rows: missing field; add 'rows: ...'"),
            ("process: 7 nm\nmemory:\n  dram:\n    technology: DDR9\n", "child.yaml:5: memory.dram.technology: 'DDR9' gives no"),
        ],
    )
    def test_what_the_file_makes_of_its_base_is_told_there_and_once(self, own: str, expected: str, write) -> None:
        """The base is right by itself: no line of it is to blame."""
        write(GOOD)
        (mistake,) = said(write(f"base: toy.yaml\n{own}", "child.yaml"))
        assert mistake.startswith(expected)

    def test_the_file_between_is_told_where_it_is_to_blame(self, write) -> None:
        write(GOOD)
        write("base: toy.yaml\nmatrix: {rows: 4096, cols: 4096}\n", "between.yaml")
        (mistake,) = said(write("base: between.yaml\nclock: 2 GHz\n", "child.yaml"))
        assert mistake.startswith("between.yaml:2: memory.sram.capacity: sram (64 KiB per core) is too small")

    def test_circles_are_refused(self, write) -> None:
        write("base: b.yaml\n", "a.yaml")
        (mistake,) = said(write("base: a.yaml\n", "b.yaml"))
        assert mistake == "a.yaml:1: base: the bases form a circle: b.yaml -> a.yaml -> b.yaml; let one of them stand alone"

    def test_library_chip_and_sources_of_both(self, write) -> None:
        chip = load_chip(write("base: h100-sxm5-80gb\nsources: [mine]\nmemory: {dram: {bandwidth: 4 TB/s}}\n", "fast.yaml"))
        assert chip.dram.bandwidth.read == 4e12
        assert chip.sources[0] == "mine"
        assert chip.sources[1:] == load_chip("h100-sxm5-80gb").sources
        assert chip.aliases == ()


RECORD = "it is for the record, and no figure depends on it; "


class TestValues:
    @pytest.fixture
    def chip(self, write) -> Chip:
        return load_chip(write(GOOD))

    def test_every_number_can_be_replaced_and_nothing_else_changes(self, chip: Chip) -> None:
        for path in (path for path in numeric_paths(chip) if "bandwidth" not in path):
            value = 0.25 if path == "resident_share" else 7
            changed = with_values(chip, {path: value})
            assert changed != chip, path
            assert with_values(changed, originals(chip, path)) == chip, path

    def test_a_bandwidth_sets_both_directions(self, chip: Chip) -> None:
        assert with_values(chip, {"memory.dram.bandwidth": 5e9}).dram.bandwidth.write == 5e9
        one_way = with_values(chip, {"memory.dram.bandwidth.read": 5e9}).dram.bandwidth
        assert (one_way.read, one_way.write, one_way.shared) == (5e9, 10e9, False)

    def test_arrays_describe_many_chips(self, chip: Chip) -> None:
        rows = np.array([4.0, 8.0])
        many = with_values(chip, {"matrix.rows": rows, "memory.sram.bandwidth": np.array([32.0, 64.0])})
        np.testing.assert_array_equal(many.peak_macs_per_s("int8"), chip.peak_macs_per_s("int8") * rows / 4)
        np.testing.assert_array_equal(many.read_bytes_per_s(many.memory[1]), [2 * 32e9, 2 * 64e9])

    @pytest.mark.parametrize(
        ("path", "cure"),
        [
            ("memory.dram.bandwith", "did you mean 'memory.dram.bandwidth'?"),
            ("matrix.tile.m", "did you mean 'matrix."),
            ("memory.dram.channels", f"{RECORD}vary memory.dram.bandwidth, which is that of all channels together"),
            ("memory.sram.burst", f"{RECORD}vary memory.dram.burst: tiles lie on bursts in DRAM alone"),
            ("memory.sram.latency", f"{RECORD}only tiles on their way to a level further in wait for a latency, not what the array reads"),
        ],
    )
    def test_unknown_path(self, chip: Chip, path: str, cure: str) -> None:
        with pytest.raises(UnknownName) as refused:
            with_values(chip, {path: 1})
        assert str(refused.value).startswith(f"{path}: the chip 'toy' has no such number to vary; {cure}")

    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            ("clock", 0, "clock: must be greater than 0, found 0"),
            ("clock", float("nan"), "clock: expected finite numbers, found nan"),
            ("memory.dram.latency", -1, "memory.dram.latency: must be greater than 0, found -1"),
            ("matrix.rows", 4.5, "matrix.rows: must be a whole number, found 4.5"),
            ("resident_share", 1, "resident_share: must be less than 1, found 1; tiles need the rest of the level"),
        ],
    )
    def test_out_of_range(self, chip: Chip, path: str, value: float, expected: str) -> None:
        with pytest.raises(BadInput) as refused:
            with_values(chip, {path: value})
        assert str(refused.value) == expected


def originals(chip: Chip, path: str) -> dict[str, float]:
    """The value under a path, found here by hand so that a wrong target shows."""
    matrix, vector = chip.matrix, chip.vector
    values = {
        "clock": chip.clock_hz,
        "cores": chip.cores,
        "tdp": chip.tdp_w,
        "matrix.count": matrix.count,
        "matrix.rows": matrix.rows,
        "matrix.cols": matrix.cols,
        "vector.lanes": vector.lanes,
        "overhead.launch": chip.launch_s,
        "resident_share": chip.resident_share,
    }
    values |= {f"matrix.rates.{name}": rate for name, rate in matrix.rates.items()}
    values |= {f"vector.cycles.{name}": cycles for name, cycles in vector.cycles.items()}
    for level in chip.memory:
        fields = {"capacity": level.capacity_bytes, "latency": level.latency_s, "burst": level.burst_bytes}
        values |= {f"memory.{level.name}.{field}": value for field, value in fields.items()}
    return {path: values[path]}


def test_importing_the_package_loads_neither_yaml_nor_pydantic_nor_numpy() -> None:
    program = "import hwmodels, sys; print([name for name in ('yaml', 'pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    import hwmodels

    assert sorted(hwmodels.__all__) == ["Advice", "Chip", "check_chip", "chip_names", "load_chip", "numeric_paths", "with_values"]
    assert all(callable(getattr(hwmodels, name)) for name in hwmodels.__all__)
    assert "edge-npu" in chip_names()
