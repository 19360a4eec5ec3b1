"""Truth defended: Markdown and CSV hold the very cells and rows of the terminal's tables, and a name cannot become markup."""

from __future__ import annotations

import csv
import io

import pytest
from rich.text import Text

from sim import compare, limits
from sim.present.markdown import markdown, rows_csv
from sim.present.tables import new_table
from tests.test_cli import Run, rooftile  # noqa: F401


def test_a_table_becomes_a_pipe_table_and_names_stay_text() -> None:
    table = new_table("a | title", "chip", "latency")
    table.add_row("<b>x</b> | *y*", "1 ms")
    lines = markdown([Text("head\nline\n"), table]).splitlines()
    assert lines == [
        "head  ",
        "line",
        "",
        "**a \\| title**",
        "",
        "| chip | latency |",
        "| --- | ---: |",
        "| \\<b\\>x\\</b\\> \\| \\*y\\* | 1 ms |",
    ]


def test_rows_are_flat_and_hold_every_figure() -> None:
    text = rows_csv([{"name": "a", "pair": [1, 2.5], "inner": {"x": "p,q"}}, {"name": "b", "more": None}])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"name": "a", "pair.1": "1", "pair.2": "2.5", "inner.x": "p,q", "more": ""},
        {"name": "b", "pair.1": "", "pair.2": "", "inner.x": "", "more": ""},
    ]


@pytest.mark.parametrize("command", ["predict stories15m --chip edge-npu", "compare edge-npu cloud-npu --model stories15m"])
def test_commands_print_markdown(rooftile: Run, command: str) -> None:  # noqa: F811
    printed = rooftile(*command.split(), "--prompt", "16", "--format", "md").out
    assert printed.count("| ---") >= 2
    assert "lm\\_head" in printed


def test_a_comparison_and_limits_as_csv_are_their_json(rooftile: Run) -> None:  # noqa: F811
    asked = ["compare", "edge-npu", "cloud-npu", "--model", "stories15m", "--prompt", "16", "--format", "csv"]
    rows = list(csv.DictReader(io.StringIO(rooftile(*asked).out)))
    expected = [row for each in compare("stories15m", "edge-npu", "cloud-npu", prompt=16) for row in (*each.rows, each.total)]
    found = [(row["name"], float(row["latency_s.1"]), float(row["latency_s.2"])) for row in rows]
    assert found == [(row.name, *row.latency_s) for row in expected]
    told = rooftile("limits", "stories15m", "--chip", "edge-npu", "--context", "16", "--format", "csv").out
    largest = [int(row["max_batch"]) for row in csv.DictReader(io.StringIO(told))]
    assert largest == [row.max_batch for row in limits("stories15m", "edge-npu", context=16).rows]
