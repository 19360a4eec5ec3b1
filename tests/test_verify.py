"""Truth defended: what is timed is executed: every op, run through the mapping that is charged, is golden and costs the charge."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import sim.verification
from functional.config import ModelConfig
from functional.errors import BadInput
from functional.formats import ACTIVATION_FORMATS
from functional.qtensor import QTensor
from hwmodels import load_chip, with_values
from hwmodels.chip import Chip
from sim import golden_step, predict, trace_model, verify
from sim.attention_mapping import AttentionMapping
from sim.cli.verify import app
from sim.engines import cycle, tiled
from sim.execute import Tally
from sim.golden_step import GoldenModel
from sim.mapper.attention_cost import AttentionUse
from sim.mapping import Gemm, GemmMapping, StageTiling, Tile
from sim.verification import charge, check, golden_run, run
from sim.verification.check import compare_logits
from tests.small_checkpoints import LAYOUTS, write_checkpoint
from workloads.scenario import PHASES, Phase

TINY = ModelConfig("tiny", 40, 56, 2, 6, 2, 8, 203, 256, 1e-5, 10000.0, tie_word_embeddings=True)
WINDOW = replace(TINY, name="window", sliding_window=11, tie_word_embeddings=False)
CHIPS = ("edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "h100-sxm5-80gb")
STEPS = [("prefill", 1, 1), ("prefill", 37, 3), ("decode", 101, 3)]
MORE_STEPS = [*STEPS, ("prefill", 130, 1), ("decode", 1, 3)]


def passes(model: str | ModelConfig, chip: str | Chip, phase: Phase, length: int, batch: int, **more: Any) -> None:
    result = verify(model, chip, phase=phase, prompt=length, batch=batch, **more)
    assert result.passed, [(each.name, each.differences) for each in result.ops if not each.passed]
    assert result.logits is not None
    assert result.logits.top1_agreement == 1 or not result.logits.judged
    assert sum(each.tally is not None for each in result.ops) >= 9


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("phase", "length", "batch"), STEPS)
def test_a_tiny_model_is_golden_and_costs_its_charge(chip: str, phase: Phase, length: int, batch: int) -> None:
    passes(TINY, chip, phase, length, batch)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("phase", PHASES)
def test_attention_over_a_window(chip: str, phase: Phase) -> None:
    passes(WINDOW, chip, phase, 37, 2)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_real_configuration(chip: str, phase: Phase) -> None:
    passes("stories15m", chip, phase, 37, 1)


@pytest.mark.parametrize("chip", ["edge-npu", "cloud-npu", "tpu-v4i", "h100-sxm5-80gb"])
def test_the_other_format_of_a_chip(chip: str) -> None:
    other = "int8" if load_chip(chip).default_format == "bf16" else "bf16"
    for phase in PHASES:
        passes(TINY, chip, phase, 37, 1, number_format=other)


def odd_chip(what: str) -> Chip:
    """edge-npu with an array or memory that no chip of the library has."""
    edge = replace(load_chip("edge-npu"), energy=None, area=None)
    sram, unit = edge.memory[1], replace(edge.matrix, rows=4, cols=8, rates={"int8": 3.0, "bf16": 1.0})
    operands = replace(sram, holds=frozenset({"weights", "activations"}), per="chip")
    sums = replace(sram, name="sums", holds=frozenset({"psums"}))
    changes: dict[str, dict[str, Any]] = {
        "packs along k": {"matrix": replace(unit, dataflows=("os",))},
        "packs, some of which are lost": {"matrix": replace(unit, efficiency=0.8)},
        "sums of a core below shared operands": {"memory": (edge.dram, operands, sums), "cores": 3},
        "all shared": {"memory": (edge.dram, replace(sram, per="chip", capacity_bytes=20e3)), "cores": 4},
    }
    return replace(edge, **changes[what])


@pytest.mark.parametrize("what", ["packs along k", "packs, some of which are lost", "sums of a core below shared operands", "all shared"])
@pytest.mark.parametrize("phase", PHASES)
def test_odd_chips(what: str, phase: Phase) -> None:
    passes(TINY, odd_chip(what), phase, 37, 3)


@pytest.mark.parametrize("number_format", ["fp16", "fp32"])
def test_wider_floats(number_format: str) -> None:
    passes(TINY, "h100-sxm5-80gb", "prefill", 37, 1, number_format=number_format)


def mixes(activations: Sequence[str], weights: Sequence[str], kv: Sequence[str]) -> list[tuple[str, str, str]]:
    """Every weight and every cache with each format between ops, the other one in that format too."""
    found = {(w, a, a) for a in activations for w in weights} | {(a, a, k) for a in activations for k in kv}
    return sorted(found)


WEIGHTS, CACHES = ("bf16", "fp8", "int8", "int4", "int4:g32", "int4:g128", "int8:g64"), ("bf16", "fp32", "fp8", "int8", "int4")


@pytest.mark.parametrize(("weights", "activations", "kv"), mixes(("fp8", "int8"), ("bf16", "int4:g64"), ("bf16", "fp8", "int4")))
@pytest.mark.parametrize("phase", PHASES)
def test_a_mix_of_formats(weights: str, activations: str, kv: str, phase: Phase) -> None:
    passes(TINY, "h100-sxm5-80gb", phase, 19, 2, weights=weights, activations=activations, kv=kv)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "activations", "kv"), mixes(ACTIVATION_FORMATS, WEIGHTS, CACHES))
@pytest.mark.parametrize("chip", ["edge-npu", "h100-sxm5-80gb"])
def test_predict_and_verify_take_the_same_formats(chip: str, weights: str, activations: str, kv: str) -> None:
    mix = {"weights": weights, "activations": activations, "kv": kv}
    try:
        predict(TINY, chip, engine="tiled", prompt=19, batch=2, **mix)
    except BadInput as refusal:
        with pytest.raises(BadInput, match=re.escape(str(refusal))):
            verify(TINY, chip, prompt=19, batch=2, **mix)
    else:
        passes(TINY, chip, "prefill", 19, 2, **mix)


def many_cores(name: str) -> Chip:
    """A chip of the library with four small cores, so that a tiny model has several tiles along every axis."""
    levels = {"edge-npu": {"memory.sram.capacity": 2500}, "tpu-v4i": {"memory.cmem.capacity": 20000, "memory.vmem.capacity": 5000}}
    return with_values(load_chip(name), {**levels[name], "matrix.rows": 4, "matrix.cols": 8, "cores": 4})


@pytest.mark.parametrize("chip", ["edge-npu", "tpu-v4i"])
@pytest.mark.parametrize("engine", ["tiled", "cycle"])
@pytest.mark.parametrize("phase", PHASES)
def test_linears_in_pieces(chip: str, engine: str, phase: Phase) -> None:
    """Every piece is golden, and the Concat puts them together; the vocabulary parts into four."""
    result = verify(replace(TINY, vocab_size=204), many_cores(chip), phase=phase, prompt=23, batch=2, split=4, engine=engine)
    assert result.passed, [(each.name, each.differences) for each in result.ops if not each.passed]
    names = [each.name for each in result.ops]
    assert [name for name in names if name.startswith("lm_head")] == [*(f"lm_head.slice_{i}" for i in range(4)), "lm_head"]


def test_each_core_has_its_piece_of_every_linear() -> None:
    """Two linears of 8 and 4 columns in two pieces; a tile that both cores share has 4 columns, 2 of each core."""
    tiles = StageTiling(Tile(1, 4, 4), ("m", "n", "k"), 1), StageTiling(Tile(1, 1, 4), ("m", "n", "k"), 1)
    mapping = GemmMapping(Gemm(1, 12, 4, 8, 8, 8, 32, "int8"), tiles, (1, 2), 1, "ws", "m")
    step = run.LinearStep(("q.slice_0", "q.slice_1", "k.slice_0", "k.slice_1"), mapping, False, 2)
    # Columns of q.slice_0 are 0 to 3, of q.slice_1 4 to 7, of k.slice_0 8 and 9, of k.slice_1 10 and 11.
    assert run._columns_of_cores(step, [4, 4, 2, 2]).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("engine", ["tiled", "cycle"])
def test_the_mapping_is_that_of_the_engine(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Not one that is found again: where an engine takes another mapping, that one is executed, and charged."""
    module, name = (tiled, "map_classes") if engine == "tiled" else (cycle, "play_classes")
    true, asked = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda plan: asked.append(engine) or true(plan))
    assert verify(TINY, "edge-npu", prompt=5, engine=engine).passed
    assert asked == [engine]


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("phase", "length", "batch"), MORE_STEPS)
def test_all_layers_of_stories15m(chip: str, phase: Phase, length: int, batch: int) -> None:
    passes("stories15m", chip, phase, length, batch, layers=6)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "chip", "phase"), [
    ("llama-3.2-1b", "edge-npu", "decode"), ("llama-3.2-1b", "h100-sxm5-80gb", "prefill"), ("llama-3.2-3b", "tpu-v4i", "decode"),
])
def test_a_full_size_layer_and_lm_head(model: str, chip: str, phase: Phase) -> None:
    """Some of `tests/bench/full_size_verify.py`."""
    passes(model, chip, phase, 37, 1)


def test_the_logits_of_integers_are_judged_and_equal() -> None:
    result = verify(TINY, "edge-npu", layers=2)
    assert result.logits == check.LogitsCheck(0.0, 0.0, 1.0, judged=True, passed=True)
    floats = verify(TINY, "tpu-v4i", layers=2).logits
    assert floats is not None
    assert not floats.judged
    assert floats.passed
    assert 0 <= floats.max_error < 0.1


def test_logits_by_hand() -> None:
    found, golden = torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [5.0, 4.0]]])
    result = compare_logits(QTensor(found, None), QTensor(golden, None), exact=True)
    assert result == check.LogitsCheck(5.0, pytest.approx((26 / 4) ** 0.5), 0.5, True, False)
    assert compare_logits(QTensor(found, None), QTensor(golden, None), exact=False).passed


# Planted differences ---------------------------------------------------------------------------------------------------------------------


def change_mapping(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], kind: type) -> None:
    """Charge for the mapper's mapping, execute another one."""
    true = charge._step

    def changed(ops: Any, choice: Any, pieces: int) -> Any:
        if choice is not None and isinstance(choice.mapping, kind) and ops[0].name != "lm_head":
            choice = replace(choice, mapping=change(choice.mapping))
        return true(ops, choice, pieces)

    monkeypatch.setattr(charge, "_step", changed)


def with_stage(mapping: GemmMapping, **fields: Any) -> GemmMapping:
    first = replace(mapping.stages[0], **fields)
    return replace(mapping, stages=(first, *mapping.stages[1:]))


def smaller(mapping: GemmMapping) -> GemmMapping:
    tile = mapping.stages[0].tile
    return with_stage(mapping, tile=tile._replace(k=max(tile.k // 2 - 1, 1), n=max(tile.n // 2 - 1, 1)))


ATTENTION: dict[str, Callable[[AttentionMapping], AttentionMapping]] = {
    "q_tile": lambda mapping: replace(mapping, q_tile=1, kv_tile=3),
    "unfused": lambda mapping: replace(mapping, fused=False, online=False, score_buffers=1),
    "one place for scores": lambda mapping: replace(mapping, score_buffers=1),
}


def test_a_smaller_tile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    change_mapping(monkeypatch, smaller, GemmMapping)
    result = verify(TINY, "edge-npu")
    assert result.first_difference == "layers.0.self_attn.q_proj"
    assert "tallied" in result.ops[3].differences[0]


def test_a_tile_that_does_not_fit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    change_mapping(monkeypatch, lambda mapping: replace(mapping, split=(7, 7)), GemmMapping)
    result = verify(TINY, "edge-npu")
    assert result.first_difference == "layers.0.self_attn.q_proj"
    assert "the mapping cannot be executed: a split of (7, 7) needs as many cores" in result.ops[3].differences[0]
    assert result.logits is None


@pytest.mark.parametrize("change", ATTENTION)
def test_another_attention_is_found(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    change_mapping(monkeypatch, ATTENTION[change], AttentionMapping)
    assert verify(TINY, "edge-npu").first_difference == "layers.0.self_attn.context"


@pytest.mark.parametrize("chip", ["edge-npu", "tpu-v4i"])
@pytest.mark.parametrize("name", ["layers.0.input_layernorm", "layers.0.self_attn.k_proj", "layers.1.self_attn.softmax_exp", "lm_head"])
def test_a_wrong_golden_output_is_named(monkeypatch: pytest.MonkeyPatch, chip: str, name: str) -> None:
    true = golden_run.golden_step

    def wrong(*arguments: Any) -> golden_run.GoldenStep:
        step = true(*arguments)
        output = step.ops[name].output
        values = output.values.clone()
        flat = values.flatten()
        index = int(flat.abs().argmin())
        flat[index] += 1
        ops = {**step.ops, name: replace(step.ops[name], output=QTensor(flat.view(values.shape), output.scale))}
        return replace(step, ops=ops)

    monkeypatch.setattr(golden_run, "golden_step", wrong)
    result = verify(TINY, chip, layers=2)
    assert result.first_difference == name
    assert sum(not each.passed for each in result.ops) == 1


@pytest.mark.parametrize("chip", ["edge-npu", "h100-sxm5-80gb"])
@pytest.mark.parametrize("which", ["gemm", "attention"])
def test_a_wrong_executed_element_is_named(monkeypatch: pytest.MonkeyPatch, chip: str, which: str) -> None:
    true = getattr(run, f"execute_{which}")

    def wrong(*arguments: Any) -> tuple[torch.Tensor, Tally]:
        found, tally = true(*arguments)
        found.view(-1)[-1] += 1
        return found, tally

    monkeypatch.setattr(run, f"execute_{which}", wrong)
    result = verify(TINY, chip)
    # The last column of q, k and v as one GEMM belongs to v.
    assert result.first_difference == ("layers.0.self_attn.v_proj" if which == "gemm" else "layers.0.self_attn.context")


@pytest.mark.parametrize("field", ["issued_macs", "dram_read_bytes", "dram_written_bytes"])
def test_a_wrong_charge_is_found(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    true = tiled.map_group

    def wrong(group_class: Any, *asked: Any) -> tiled.Mapped:
        mapped = true(group_class, *asked)
        return replace(mapped, **{field: getattr(mapped, field) + 1}) if group_class.ops[0].name == "lm_head" else mapped

    monkeypatch.setattr(tiled, "map_group", wrong)
    result = verify(TINY, "edge-npu")
    assert result.first_difference == "lm_head"
    assert f"{field}: " in result.ops[-1].differences[0]


@pytest.mark.parametrize("chip", ["edge-npu", "gemmini-default", "tpu-v4i", "h100-sxm5-80gb"])
def test_a_wrong_byte_of_attention_on_any_level_is_found(monkeypatch: pytest.MonkeyPatch, chip: str) -> None:
    """Read or written, of tiles on their way, of operands, scores or sums."""
    true = charge.attention_use
    for level in load_chip(chip).memory[1:]:
        for field in ("read_bytes", "written_bytes", "room_bytes"):

            def wrong(*asked: Any, field: str = field, name: str = level.name) -> AttentionUse:
                use = true(*asked)
                return use._replace(**{field: getattr(use, field) | {name: getattr(use, field)[name] + 1}})

            monkeypatch.setattr(charge, "attention_use", wrong)
            result = verify(TINY, chip)
            assert result.first_difference == "layers.0.self_attn.context"
            (told,) = next(each.differences for each in result.ops if each.name == result.first_difference)
            assert told.startswith(f"{level.name}.{field}: ")


# The command -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_file(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps")
    fields = {name: getattr(TINY, name) for name in (*names, "num_hidden_layers", "max_position_embeddings", "rope_theta")}
    file.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **fields}))
    return str(file)


def invoke(model: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, [model, "--chip", "edge-npu", "--prompt", "5", *arguments])


def test_the_command_prints_both_phases_and_exits_0(tiny_file: str) -> None:
    result = invoke(tiny_file, "--format", "json")
    assert result.exit_code == 0
    phases = json.loads(result.stdout)
    assert [each["phase"] for each in phases] == list(PHASES)
    for each in phases:
        assert each["passed"]
        assert each["first_difference"] is None
        assert each["ops"][-1]["tally"] == each["ops"][-1]["charge"]
    table = invoke(tiny_file, "--phase", "decode", "--context", "6", "--batch", "2")
    assert table.exit_code == 0
    assert "decode of one token after 6, batch 2, int8, 1 layer, as tiled maps it, random weights, seed 0" in table.stdout
    assert "lm_head" in table.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_verified_with_its_weights(tmp_path: Path, layout: str) -> None:
    config, weights = write_checkpoint(tmp_path, layout)
    table = CliRunner().invoke(app, [str(tmp_path), "--chip", "edge-npu", "--prompt", "5", "--layers", "2"])
    assert table.exit_code == 0
    assert f"as tiled maps it, weights of {tmp_path}, ids of seed 0" in " ".join(table.stdout.split())
    opened = GoldenModel.of(tmp_path)
    graph = trace_model(replace(opened.config, num_hidden_layers=2), "int8", prompt=5)
    golden = golden_run.golden_step(replace(opened.config, num_hidden_layers=2), graph, 0, opened.source)
    for name, weight in (("layers.1.self_attn.k_proj", weights.layers[1].k_proj), ("lm_head", weights.lm_head)):
        found = golden.ops[name].inputs[1].real()
        assert (found - weight).abs().max() <= weight.abs().max() / 127
    assert verify(tmp_path, "edge-npu", prompt=5, layers=2).to_dict()["weights_source"] == str(tmp_path)
    assert verify(config, "edge-npu", prompt=5).to_dict()["weights_source"] == "random"


def test_both_phases_take_the_same_weights_once(monkeypatch: pytest.MonkeyPatch, tiny_file: str) -> None:
    made: list[int] = []
    true = golden_step.random_weights
    monkeypatch.setattr(golden_step, "random_weights", lambda *given: made.append(1) or true(*given))
    assert invoke(tiny_file).exit_code == 0
    assert made == [1]


def test_the_command_exits_1_and_names_the_first_op(monkeypatch: pytest.MonkeyPatch, tiny_file: str) -> None:
    change_mapping(monkeypatch, smaller, GemmMapping)
    result = invoke(tiny_file, "--phase", "prefill")
    assert result.exit_code == 1
    assert "first difference: layers.0.self_attn.q_proj" in result.stdout


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"number_format": "int4"}, "--dtype: 'int4' is no format between ops; give it as --weights int4, and here one of bf16"),
        ({"activations": "int4"}, "--activations: 'int4' is no format between ops"),
        ({"number_format": "int9"}, "--dtype: unknown number format 'int9'; did you mean 'int8'"),
        ({"kv": "fp16"}, "edge-npu has no rate for fp16"),
        ({"split": 2}, "--split: the 203 outputs of lm_head do not part into 2 equal pieces; take a divisor"),
        ({"split": 0}, "--split: must be at least 1, found 0"),
        ({"engine": "roofline"}, "--engine: roofline maps nothing that could be executed; take tiled or cycle"),
        ({"engine": "cycl"}, "unknown engine 'cycl'; did you mean 'cycle'"),
        ({"number_format": "fp16"}, "edge-npu has no rate for fp16"),
        ({"layers": 0}, "--layers: cannot build 0 layers"),
        ({"layers": 3}, "tiny has 1 to 2"),
        ({"batch": 0}, "--batch"),
        ({"prompt": 300}, "--prompt"),
    ],
)
def test_bad_input(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        verify(TINY, "edge-npu", **wrong)


def test_pieces_beyond_the_cores_are_refused() -> None:
    with pytest.raises(BadInput, match="--split 2 runs on as many cores; edge-npu has 1; raise cores to 2"):
        verify(replace(TINY, vocab_size=204), "edge-npu", split=2)


def test_execution_imports_no_cost() -> None:
    """What is executed and tallied must not know what is charged."""
    ours_too = ("sim.execute", "sim.golden_step", "workloads.graph", "workloads.split")
    allowed = ("functional", "hwmodels.chip", "sim.mapping", "sim.attention_mapping", *ours_too)
    folder = Path(sim.verification.__file__).parent
    for name in ("run", "border", "counts", "golden_run"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                ours = module.split(".")[0] in ("functional", "workloads", "hwmodels", "sim")
                mine = module in ("sim.verification.run", "sim.verification.counts")
                assert not ours or mine or any(module == each or module.startswith(f"{each}.") for each in allowed), f"{name}: {module}"
