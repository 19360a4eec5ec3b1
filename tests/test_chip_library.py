"""The chips of the library are the published ones: peaks and bandwidths equal the datasheets, and every number says where it comes from."""

from __future__ import annotations

import re

import pytest

from functional.documents import load_document
from hwmodels import Chip, check_chip, chip_names, load_chip, numeric_paths
from hwmodels.layers import LIBRARY
from hwmodels.paths import recorded_paths

CHIPS = chip_names()
GIB = 2**30


@pytest.fixture(scope="module", params=CHIPS)
def chip(request: pytest.FixtureRequest) -> Chip:
    return load_chip(request.param)


def test_what_the_readme_promises_is_there() -> None:
    assert {"edge-npu", "cloud-npu", "a100-sxm4-80gb", "h100-sxm5-80gb", "rtx-4090", "tpu-v6e", "gemmini-default"} <= set(CHIPS)


@pytest.mark.parametrize("name", CHIPS)
def test_no_mistake_and_no_advice(name: str) -> None:
    assert check_chip(name) == []


def test_name_is_the_file_name(chip: Chip) -> None:
    assert chip.name in CHIPS
    assert (LIBRARY / f"{chip.name}.yaml").is_file()


def test_every_number_that_a_file_states_has_a_source_and_a_standing(chip: Chip) -> None:
    stated = stated_numbers(chip.name)
    assert len(stated) >= 10 or "base" in load_document(LIBRARY / f"{chip.name}.yaml").data
    assert stated <= set(chip.provenance)
    for path, provenance in chip.provenance.items():
        assert provenance.standing in ("datasheet", "measured", "assumed"), path
        assert len(provenance.source) > 10, path


def stated_numbers(name: str) -> set[str]:
    """Dotted paths of the numbers in a file, read without the schema: leaves that begin with a digit."""

    def leaves(value: object, path: str) -> set[str]:
        if isinstance(value, dict):
            inner = {"": value["value"]} if "value" in value else {f".{key}": child for key, child in value.items()}
            return {leaf for key, child in inner.items() for leaf in leaves(child, f"{path}{key}")}
        return {path.removeprefix(".")} if re.match(r"[0-9]", str(value)) else set()

    return leaves(load_document(LIBRARY / f"{name}.yaml").data, "")


def test_all_library_chips_have_an_on_chip_level_and_more_bandwidth_inside(chip: Chip) -> None:
    assert len(chip.memory) >= 2
    assert all(chip.read_bytes_per_s(level) >= chip.read_bytes_per_s(chip.dram) for level in chip.memory[1:])
    assert all(value > 0 for value in (chip.clock_hz, chip.cores, *chip.matrix.rates.values(), *chip.vector.cycles.values()))


def test_numeric_paths_cover_the_provenance(chip: Chip) -> None:
    assert set(chip.provenance) <= {*numeric_paths(chip), *recorded_paths(chip)}
    assert not set(numeric_paths(chip)) & set(recorded_paths(chip))


@pytest.mark.parametrize(
    ("name", "number_format", "teraflops"),
    [
        ("a100-sxm4-80gb", "bf16", 312),
        ("a100-sxm4-80gb", "fp16", 312),
        ("a100-sxm4-80gb", "int8", 624),
        ("a100-sxm4-80gb", "int4", 1248),
        ("a100-sxm4-80gb", "fp32", 19.5),
        ("h100-sxm5-80gb", "bf16", 989.4),
        ("h100-sxm5-80gb", "fp8", 1978.9),
        ("h100-sxm5-80gb", "int8", 1978.9),
        ("h100-sxm5-80gb", "fp32", 66.9),
        ("h200-sxm-141gb", "bf16", 989.4),
        ("l40s", "bf16", 362.05),
        ("l40s", "fp8", 733),
        ("l40s", "int8", 733),
        ("l40s", "fp32", 91.6),
        ("rtx-4090", "bf16", 165.2),
        ("rtx-4090", "fp8", 330.3),
        ("rtx-4090", "int8", 660.6),
        ("rtx-4090", "fp32", 82.6),
        ("rtx-3090", "bf16", 71),
        ("rtx-3090", "int8", 284),
        ("rtx-3090", "fp32", 35.6),
        ("mi210", "bf16", 181),
        ("mi210", "int8", 181),
        ("mi210", "fp32", 45.3),
        ("apple-m3-pro", "fp32", 6.4),
        ("tpu-v4i", "bf16", 138),
        ("tpu-v4i", "int8", 138),
        ("tpu-v5e", "bf16", 197),
        ("tpu-v5e", "int8", 393),
        ("tpu-v6e", "bf16", 918),
        ("tpu-v6e", "int8", 1836),
        ("gemmini-default", "int8", 0.512),
        ("edge-npu", "int8", 2.048),
        ("cloud-npu", "bf16", 393.2),
    ],
)
def test_peak_is_the_published_dense_one(name: str, number_format: str, teraflops: float) -> None:
    assert 2 * load_chip(name).peak_macs_per_s(number_format) / 1e12 == pytest.approx(teraflops, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gigabytes_per_s", "capacity_bytes", "watts"),
    [
        ("a100-sxm4-80gb", 2039, 80 * GIB, 400),
        ("h100-sxm5-80gb", 3350, 80 * GIB, 700),
        ("h200-sxm-141gb", 4800, 141e9, 700),
        ("l40s", 864, 48 * GIB, 350),
        ("rtx-4090", 1008, 24 * GIB, 450),
        ("rtx-3090", 936, 24 * GIB, 350),
        ("mi210", 1638.4, 64 * GIB, 300),
        ("apple-m3-pro", 150, 36 * GIB, None),
        ("tpu-v4i", 614, 8 * GIB, 175),
        ("tpu-v5e", 819, 16 * GIB, None),
        ("tpu-v6e", 1640, 32 * GIB, None),
        ("gemmini-default", 16, 16 * GIB, None),
        ("edge-npu", 51.2, 8 * GIB, None),
    ],
)
def test_memory_and_power_are_the_published_ones(name: str, gigabytes_per_s: float, capacity_bytes: float, watts: float | None) -> None:
    chip = load_chip(name)
    assert chip.read_bytes_per_s(chip.dram) == gigabytes_per_s * 1e9
    assert chip.dram.capacity_bytes == capacity_bytes
    assert chip.tdp_w == watts


@pytest.mark.parametrize(
    ("name", "special_functions_per_cycle"),
    [("a100-sxm4-80gb", 16), ("h100-sxm5-80gb", 16), ("l40s", 16), ("rtx-4090", 16), ("rtx-3090", 16), ("mi210", 16)],
)
def test_special_functions_per_cycle_and_core(name: str, special_functions_per_cycle: int) -> None:
    vector = load_chip(name).vector
    assert vector.lanes / vector.cycles["exp"] == special_functions_per_cycle
    assert vector.lanes / vector.cycles["rsqrt"] == special_functions_per_cycle


def test_a_derived_chip_restates_what_differs_only() -> None:
    h100, h200 = load_chip("h100-sxm5-80gb"), load_chip("h200-sxm-141gb")
    assert h200.matrix == h100.matrix
    assert h200.memory[1:] == h100.memory[1:]
    assert h200.dram.technology == "HBM3e"
    assert "H200" in h200.provenance["memory.dram.bandwidth"].source
    assert "H100" in h200.provenance["cores"].source


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("H100-SXM5-80GB", "h100-sxm5-80gb"),
        ("H100-80GB (DGX per README)", "h100-sxm5-80gb"),
        ("H200-SXM-141GB", "h200-sxm-141gb"),
        ("L40S", "l40s"),
        ("RTX4090", "rtx-4090"),
        ("RTX3090", "rtx-3090"),
        ("MI210", "mi210"),
        ("TPU-v5e", "tpu-v5e"),
        ("TPU-v6e", "tpu-v6e"),
    ],
)
def test_names_used_in_measurements_find_their_chip(alias: str, name: str) -> None:
    assert load_chip(alias).name == name
    assert alias in load_chip(name).aliases


def test_no_alias_is_claimed_twice() -> None:
    aliases = [alias for name in CHIPS for alias in load_chip(name).aliases]
    assert len(aliases) == len(set(aliases))


def test_files_hold_no_line_too_long_to_read() -> None:
    assert [path.name for path in LIBRARY.glob("*.yaml") if max(map(len, path.read_text().splitlines())) > 140] == []
