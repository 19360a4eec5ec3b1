"""Truth defended: no latency changes unnoticed. (Whether they are right is for the other tests to say.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import regenerate_golden as golden


@pytest.mark.parametrize(("engine", "chip"), golden.CASES)
def test_latencies_are_those_recorded(engine: str, chip: str) -> None:
    changes = list(golden.differences(golden.recorded(engine, chip), golden.predicted(engine, chip)))
    assert changes == [], "if these are meant, run python -m tests.regenerate_golden and say in the commit why they changed"


def test_there_is_no_file_too_many() -> None:
    assert {file.name for file in golden.FOLDER.glob("*.json")} == {golden.file_of(*case).name for case in golden.CASES}


def test_alike_ops_share_an_entry() -> None:
    step = golden.recorded("roofline", "edge-npu")["llama-3.2-3b decode"]
    assert sum(count for count, _ in step["layers.*.mlp.up_proj"]) == 28
    assert sum(count * latency_s for op, runs in step.items() if op != "total" for count, latency_s in runs) == pytest.approx(
        step["total"][0][1], rel=1e-9
    )


def test_a_change_is_seen_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"m decode": {"a": [(2, 1.0)], "b": [(1, 2.0)], "gone": [(1, 1.0)]}}
    new = {"m decode": {"a": [(2, 1.0 + 1e-12)], "b": [(1, 2.5)], "new": [(1, 1.0)]}}
    assert list(golden.differences(old, old)) == []
    assert list(golden.differences(old, new)) == [
        "m decode b: 1 x 2 s -> 1 x 2.5 s, +25 %",
        "m decode gone: 1 x 1 s -> nothing",
        "m decode new: nothing -> 1 x 1 s",
    ]
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    golden.write("e", "c", new)
    assert list(golden.differences(golden.recorded("e", "c"), new)) == []
    assert json.loads((tmp_path / "e-c.json").read_text())["m decode"]["b"] == [[1, 2.5]]
