"""Truth defended: fitted numbers live in the calibration library alone, each with where it comes from, and a file with a mistake is
refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from functional.errors import BadInput
from hwmodels.layers import LIBRARY
from hwmodels.technology import CALIBRATION, load_calibration

FILE = CALIBRATION / "tensor-core-gpu.yaml"


def test_no_chip_file_of_the_library_holds_a_fitted_number() -> None:
    held = [path.name for path in sorted(LIBRARY.glob("*.yaml")) if re.search(r"standing:\s*['\"]?fitted", path.read_text())]
    assert held == []


def test_every_constant_says_where_it_comes_from() -> None:
    calibration = load_calibration()
    assert {each.standing for each in calibration.provenance.values()} <= {"fitted", "assumed", "datasheet"}
    assert all(each.source for each in calibration.provenance.values())
    assert len(calibration.provenance) >= 30
    text = FILE.read_text()
    assert re.search(r'^date: "\d{4}-\d\d-\d\d"$', text, re.MULTILINE)
    assert "residual:" in text


def test_shares_and_energies_are_possible() -> None:
    calibration = load_calibration()
    assert all(0.5 < share <= 1 for share in calibration.dram.values())
    assert all(0.1e-12 < each.energy_j_per_flop < 10e-12 for each in calibration.generations.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  partial_wave:", "  partial_waves:", r"attention\.partial_waves: unknown field; did you mean 'partial_wave'\?"),
        ("  split: 1.", "  split: -1.", r"gemm\.split"),
        ("  prefill_launch: 6.", "  prefill_launch: 6 #", r"attention\.prefill_launch"),
        ("overlap_p: 1.", "overlap_p: 0.", r"attention\.overlap_p"),
        ("sustained: {value: 0.", "sustained: {value: 7.", r"dram\.HBM2\.sustained"),
        (", source: \"A100\"}", "}", r"generations\.tensor-core-gpu-n7\.energy\.source"),
        ("standing: fitted, source: \"A100\"", "standing: guessed, source: \"A100\"", r"energy\.standing"),
        ("asynchronous: false", "asynchronous: perhaps", "asynchronous"),
        ("data:\n", "data: []\nold:\n", "data"),
    ],
)
def test_a_mistake_names_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = FILE.read_text()
    assert old in text
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=message) as told:
        load_calibration(wrong)
    assert "wrong.yaml:" in str(told.value)
