"""Defends: a step with its linears in pieces is the same step, on as many cores, and is timed as one of the chip's own mappings."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from functional.errors import BadInput
from functional.ops import OPS
from hwmodels import load_chip, with_values
from hwmodels.paths import value_of
from sim import predict, predict_graph, trace_model
from sim.cli import main
from sim.engines import ENGINES, tiled
from sim.engines.cycle import play_classes
from sim.engines.play import play
from sim.engines.roofline import Peaks
from sim.execute import Arithmetic, execute_gemm
from sim.golden import tolerance
from sim.mapper import map_gemm
from sim.mapping import Gemm
from sim.plan import plan
from sim.verification.golden_run import golden_step
from workloads.demand import demand
from workloads.graph import OpGraph
from workloads.library import load_model
from workloads.scenario import PHASES, Phase
from workloads.split import split

ROUNDING = 1 - 1e-9


def test_pieces_make_the_same_tensors() -> None:
    """Each linear of the golden model, computed piece by piece from its golden input and put together by Concat, is the golden output."""
    config = load_model("stories15m")
    whole = trace_model(config, "fp32", prompt=9)
    graph = split(whole, 4)
    capture = golden_step(config, whole, 0).ops
    made: dict[str, torch.Tensor] = {}
    begun: dict[str, int] = {}
    for op in graph.ops:
        if op.kind == "Linear":
            name = op.name.rpartition(".")[0]
            x, weight = (each.values for each in capture[name].inputs)
            begin = begun.get(name, 0)
            begun[name] = begin + int(op.inputs[1].spec.shape[0])
            made[op.name] = OPS["Linear"].compute(x, weight[begin : begun[name]])
            assert tuple(made[op.name].shape[1:]) == tuple(op.output.shape[1:])
        elif op.kind == "Concat":
            found = OPS["Concat"].compute(*(made[use.tensor] for use in op.inputs))
            whole_op = capture[op.name]
            allowed = tolerance("Linear", [each.values for each in whole_op.inputs], whole_op.output.values, {})
            assert torch.allclose(found, whole_op.output.values, atol=2 * allowed.absolute, rtol=0)  # two orders of adding
            assert begun[op.name] == capture[op.name].inputs[1].values.shape[0]
    assert len(begun) == sum(op.kind == "Linear" for op in whole.ops)


@pytest.mark.parametrize("phase", PHASES)
def test_the_work_and_what_must_move_stay_the_same(phase: Phase) -> None:
    whole = trace_model("llama-3.2-1b", "int8", phase=phase, prompt=64)
    graph = split(whole, 4)
    for fused in (True, False):
        a, b = demand(whole, fused), demand(graph, fused)
        assert a.macs == b.macs
        assert [a.compulsory_bytes(is_write) for is_write in (False, True)] == [b.compulsory_bytes(is_write) for is_write in (False, True)]
    assert len(demand(graph).groups) == len(demand(whole).groups)
    # By themselves, the pieces of a linear still run at a time; their Concat is one more group.
    linears = sum(op.kind == "Linear" for op in whole.ops)
    assert len(demand(graph, False).groups) == len(demand(whole, False).groups) + linears
    assert OpGraph.from_json(graph.to_json()).to_dict() == graph.to_dict()
    assert {op.name for op in whole.ops} < {op.name for op in graph.ops}
    assert sum(op.kind == "Concat" for op in graph.ops) == sum(op.kind == "Linear" for op in whole.ops)
    assert split(whole, 1) is whole
    memory = [predict_graph(each, "cloud-npu", "roofline").memory for each in (whole, split(whole, 2))]
    assert memory[0].weights_bytes == memory[1].weights_bytes


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("chip_name", ["edge-npu", "cloud-npu"])
def test_the_bracket_holds(chip_name: str, fused: bool) -> None:
    chip = load_chip(chip_name) if chip_name != "edge-npu" else with_values(load_chip(chip_name), {"cores": 4})
    graph = split(trace_model("stories15m", chip.default_format, phase="decode", context=50), 2)
    planned = plan(graph, chip, fused)
    for ideal, bound, played in zip(*(ENGINES[engine](planned) for engine in ("roofline", "tiled", "cycle")), strict=True):
        assert ideal.latency_s <= bound.latency_s / ROUNDING
        assert bound.latency_s <= played.latency_s / ROUNDING
    ahead = predict_graph(graph, chip, "cycle", fused=fused)
    assert ahead.floor_s <= ahead.total_s
    assert math.isclose(sum(part.latency_s for part in ahead.components), ahead.total_s, rel_tol=1e-9)


def test_pieces_run_on_as_many_cores_and_the_mapping_gives_the_product() -> None:
    chip = with_values(load_chip("edge-npu"), {"cores": 4})
    gemm = Gemm(5, 96, 70, 8, 8, 8, 32, "int8")
    mapping, cost = map_gemm(gemm, chip, pieces=4)
    assert mapping.split == (1, 4)
    a, w = torch.randint(-9, 9, (5, 70), dtype=torch.int8), torch.randint(-9, 9, (70, 96), dtype=torch.int8)
    found, tally = execute_gemm(mapping, chip, a, w, Arithmetic("int8", "int32", "int32", None))
    assert torch.equal(found.int(), (a.int() @ w.int()))
    assert tally.issued_macs == cost.issued_macs


SMALL: dict[str, dict[str, float]] = {
    "edge-npu": {"cores": 4, "memory.sram.capacity": 2**20},
    "tpu-v4i": {"cores": 4, "memory.cmem.capacity": 4 * 2**20, "memory.vmem.capacity": 8 * 2**20},
}
NEAR_A_CHANGE_OF_MAPPING = {
    "edge-npu": [(1.589e10, 1.617e10), (3.159e10, 3.213e10), (4.723e10, 4.804e10)],
    "tpu-v4i": [(4.197e11, 4.219e11), (5.558e11, 5.587e11), (5.297e11, 5.388e11), (7.92e11, 8.055e11)],
}
"""B/s of DRAM between which a mapping that knows nothing of its group's other bytes changes, and takes longer with them after that."""


@pytest.mark.parametrize("name", SMALL)
def test_a_little_more_bandwidth_is_never_slower_in_pieces(name: str) -> None:
    """Scales of groups of 32 weights are a quarter of what DRAM moves; a mapping of less time alone is not one of less time with them."""
    base = with_values(load_chip(name), SMALL[name])
    graph = trace_model("llama-3.2-1b", base.default_format, phase="prefill", prompt=512, weights="int4:g32", split=2)
    for slower, faster in NEAR_A_CHANGE_OF_MAPPING[name]:
        chips = [with_values(base, {"memory.dram.bandwidth": each}) for each in (slower, faster)]
        before_s, after_s = (predict_graph(graph, chip, "tiled").total_s for chip in chips)
        assert after_s <= before_s, (slower, faster)


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(["edge-npu", "cloud-npu", "tpu-v4i", "gemmini-default"]),
    parts=st.sampled_from([2, 4]),
    phase=st.sampled_from(PHASES),
    weights=st.sampled_from([None, "int4:g32"]),
    shrink=st.integers(0, 6),
    slow=st.floats(0.01, 1),
    more=st.sampled_from([1.0003, 1.02, 1.3]),
)
def test_no_better_number_is_slower_in_pieces(
    name: str, parts: int, phase: Phase, weights: str | None, shrink: int, slow: float, more: float
) -> None:
    base = load_chip(name)
    graph = trace_model("stories15m", base.default_format, phase=phase, prompt=90, weights=weights, split=parts)
    numbers = {"cores": 4, "memory.dram.bandwidth": slow * value_of(base, "memory.dram.bandwidth")}
    inner = [f"memory.{level.name}" for level in base.memory[1:]]
    numbers |= {f"{path}.capacity": value_of(base, f"{path}.capacity") / 2**shrink for path in inner}
    chip = with_values(base, numbers)
    before_s = predict_graph(graph, chip, "tiled").total_s
    for path in ("clock", "memory.dram.bandwidth", *(f"{each}.{what}" for each in inner for what in ("capacity", "bandwidth"))):
        better = with_values(chip, {path: more * value_of(chip, path)})
        assert predict_graph(graph, better, "tiled").total_s <= before_s / ROUNDING, path


@pytest.mark.parametrize("phase", PHASES)
def test_pieces_are_played_under_other_mappings_too(phase: Phase) -> None:
    """Each still has a core for every piece; together they play much closer to the bound than the mapper's own choices do."""
    chip = with_values(load_chip("edge-npu"), {"cores": 2})
    planned = plan(trace_model("stories15m", "int8", phase=phase, prompt=128, split=2), chip)
    first_s = best_s = bound_s = 0.0
    for each, bound in zip(play_classes(planned), ENGINES["tiled"](planned), strict=True):
        choice = each.mapped.choice
        if isinstance(choice, tiled.GemmChoice) and each.played is not None:
            assert choice.mapping.split == (1, 2)
            own = tiled.map_group(each.group_class, planned, Peaks.of(chip))
            first_s += play(each.group_class, own, chip).end / float(chip.clock_hz)
            best_s += each.played.end / float(chip.clock_hz)
            bound_s += bound.latency_s
            assert each.visited is not None
            assert each.visited.visits.mappings > 1 or each.visited.visits.is_proved
    assert bound_s <= best_s < bound_s + 0.6 * (first_s - bound_s)


def test_a_core_alone_takes_longer() -> None:
    """A compute-bound prefill on four cores: in one piece the mapper may use all of them; two pieces use two."""
    chip = with_values(load_chip("edge-npu"), {"cores": 4})
    free, two, four = (predict("stories15m", chip, prompt=256, engine="tiled", split=parts).total_s for parts in (1, 2, 4))
    assert free <= four / ROUNDING
    assert four < two


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["rooftile", *words])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_bad_splits_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=r"cores: --split 4 runs on as many cores; edge-npu has 1; raise cores to 4"):
        predict("stories15m", "edge-npu", prompt=8, split=4)
    with pytest.raises(BadInput, match=r"--split: the 288 outputs of .* do not part into 5 equal pieces"):
        trace_model("stories15m", prompt=8, split=5)
    with pytest.raises(BadInput, match="--split: a100-sxm4-80gb is timed as calibrated"):
        predict("stories15m", "a100-sxm4-80gb", engine="tiled", prompt=8, split=2)
    with pytest.raises(BadInput, match="--split: must be at least 1, found 0"):
        trace_model("stories15m", prompt=8, split=0)
    assert run(monkeypatch, "predict", "stories15m", "--chip", "edge-npu", "--split", "2", "--prompt", "8") == 2
    assert "raise cores to 2" in capsys.readouterr().err
    assert not run(monkeypatch, "graph", "stories15m", "--split", "2", "--prompt", "8")
    assert "q_proj.slice_1" in capsys.readouterr().out


def test_the_answer_says_that_linears_are_in_pieces(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "stories15m", "--chip", "cloud-npu", "--prompt", "8", "--engine", "roofline"]
    for more in (["--phase", "decode"], ["--generate", "3"]):
        for parts, pieces in (("1", ""), ("2", ", linears in 2 pieces")):
            assert not run(monkeypatch, *command, *more, "--split", parts)
            assert f"batch 1, bf16{pieces}, roofline engine" in capsys.readouterr().out
            assert not run(monkeypatch, *command, *more, "--split", parts, "--format", "json")
            assert json.loads(capsys.readouterr().out)[0]["split"] == int(parts)
