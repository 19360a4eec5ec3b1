"""Truth defended: a Timeline shows itself in a notebook, as a table, a frame and figures that hold its numbers."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from functional.errors import BadInput
from hwmodels import load_chip
from sim import breakdown_figure, predict, roofline_figure, timeline_figure
from sim.timeline import LOST, Timeline


@pytest.fixture(scope="module")
def prefill() -> Timeline:
    return predict("stories15m", "edge-npu", prompt=32, engine="cycle")


def test_a_frame_has_a_row_per_op_and_sums_to_the_total(prefill: Timeline) -> None:
    frame = prefill.to_frame()
    assert list(frame.index) == [op.name for op in prefill.graph.ops]
    assert frame["latency_s"].sum() == pytest.approx(prefill.total_s, rel=1e-12)
    assert {f"lost_{cause}_s" for cause in LOST} <= set(frame.columns)


def test_a_frame_without_pandas_names_the_extra(prefill: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"rooftile\[plots\]"):
        prefill.to_frame()


def test_the_table_of_a_notebook_escapes_names(tmp_path: Path) -> None:
    path = tmp_path / "chip.yaml"
    path.write_text("base: edge-npu\nname: '<script>x'\n")
    shown = predict("stories15m", path, prompt=8)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;x" in shown
    assert shown.count(" uJ</td>") + shown.count(" nJ</td>") + shown.count(" mJ</td>") == 10
    assert shown.count("<tr>") == 1 + 10  # a head, and embed_tokens, rotary_emb, 6 layers, norm, lm_head


def test_the_roofline_holds_every_op_with_flops_and_bytes_under_its_roofs(prefill: Timeline) -> None:
    decode = predict("stories15m", "edge-npu", prompt=32, phase="decode")
    figure = roofline_figure([prefill, decode], "edge-npu")
    roofs = [trace for trace in figure.data if trace.mode == "lines"]
    chip = load_chip("edge-npu")
    assert len(roofs) == len(chip.memory) + len(chip.formats)
    points = [(x, y) for trace in figure.data if trace.mode == "markers" for x, y in zip(trace.x, trace.y, strict=True) if x is not None]
    expected = {trace.name for trace in figure.data if trace.mode == "markers"}
    assert {"Linear", "MatMul", "RMSNorm", "prefill", "decode"} <= expected
    peak, bandwidth = 2 * float(chip.peak_macs_per_s("int8")), float(chip.read_bytes_per_s(chip.dram))
    assert all(y <= 1.0001 * min(peak, x * bandwidth) for x, y in points)


def test_the_breakdown_adds_up(prefill: Timeline) -> None:
    (icicle,) = breakdown_figure(prefill).data
    values = dict(zip(icicle.ids, icicle.values, strict=True))
    children = [value for name, value, parent in zip(icicle.ids, icicle.values, icicle.parents, strict=True) if parent == "step"]
    assert values["step"] == prefill.total_s
    assert sum(children) == pytest.approx(prefill.total_s, rel=1e-12)
    assert "lm_head" in icicle.labels


def test_the_timeline_of_groups_and_of_tiles(prefill: Timeline) -> None:
    groups, tiles = timeline_figure(prefill), timeline_figure(prefill, "lm_head")
    assert {"dram", "matrix"} <= {name for trace in groups.data for name in trace.y}
    ends = [base + x for trace in groups.data for base, x in zip(trace.base, trace.x, strict=True)]
    assert max(ends) == pytest.approx(prefill.total_s, rel=1e-9)
    assert sum(len(trace.x) for trace in tiles.data) > 10
    with pytest.raises(BadInput, match="unknown component"):
        timeline_figure(prefill, "lm_hat")
