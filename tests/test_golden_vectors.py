"""Truth defended: golden vectors are the ops of the golden model, in the bits that their files and manifest say, whole or not at all."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from functional.config import ModelConfig
from functional.errors import BadInput, ScenarioError, UnknownName
from functional.formats import torch_dtype
from functional.ops import OPS, SAMPLING_KINDS
from functional.weights import random_weights
from functional.work import Mask
from sim import golden, golden_step
from sim.cli.golden import app
from sim.golden import MANIFEST, to_array, to_hex, tolerance, write_golden
from sim.golden_step import WORDS
from tests.small_checkpoints import LAYOUTS, write_checkpoint
from workloads.scenario import Formats, Scenario

SMALL = ModelConfig("small", 32, 48, 3, 4, 2, 8, 90, 64, 1e-5, 10000.0, tie_word_embeddings=True)
DTYPES: dict[str, Any] = {"fp16": np.float16, "fp32": np.float32, "int8": np.int8, "int32": np.int32, "bf16": np.uint16}


def read_hex(file: Path, number_format: str, shape: list[int]) -> NDArray[Any]:
    """What `$readmemh` would read: every line a number, address by address; read back without any code of the writer."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("//")]
    bits = {"fp16": 16, "bf16": 16, "fp32": 32, "int32": 32, "int8": 8}[number_format]
    assert all(len(line) == bits // 4 for line in lines)
    numbers = np.array([int(line, 16) for line in lines], dtype=np.uint32).astype(f"uint{bits}")
    return numbers.view(DTYPES[number_format]).reshape(shape)


def tensors(folder: Path) -> dict[tuple[str, str], tuple[dict[str, Any], Tensor]]:
    """Every tensor of a folder by op and name, checked to be the same in archive and hex file."""
    found = {}
    manifest = json.loads((folder / MANIFEST).read_text())
    for op in manifest["ops"]:
        archive = np.load(folder / op["npz"])
        for entry in op["tensors"]:
            array = archive[entry["array"]]
            assert str(array.dtype) == entry["dtype"]
            assert list(array.shape) == entry["shape"]
            from_hex = read_hex(folder / entry["hex"], entry["format"], entry["shape"])
            assert array.dtype == from_hex.dtype
            assert array.tobytes() == from_hex.tobytes()
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if entry["format"] == "bf16" else torch.from_numpy(array)
            found[op["name"], entry["name"]] = entry, tensor
    return found


def attributes(folder: Path) -> dict[str, dict[str, Any]]:
    """Attributes of each op as the op table takes them."""
    ops = json.loads((folder / MANIFEST).read_text())["ops"]
    return {op["name"]: {k: Mask(**v) if k == "mask" else v for k, v in op["attributes"].items()} for op in ops}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("number_format", ["bf16", "fp16", "fp32"])
def test_outputs_follow_from_inputs_by_the_op_table(tmp_path: Path, number_format: str, phase: Any) -> None:
    """What is in the files, put through the op table again, gives the outputs within their tolerance, and exactly but for contractions."""
    manifest = write_golden(SMALL, tmp_path / "v", ops=["*"], number_format=number_format, phase=phase, batch=2, prompt=7, layers=2, seed=3)
    read, attrs = tensors(tmp_path / "v"), attributes(tmp_path / "v")
    assert len(manifest["ops"]) == 2 + 2 * 22 + 2
    for op in manifest["ops"]:
        ports = [entry["name"] for entry in op["tensors"]]
        entry, output = read[op["name"], "output"]
        again = OPS[op["kind"]].compute(*(read[op["name"], port][1].clone() for port in ports[:-1]), **attrs[op["name"]])
        error = (again.double() - output.double()).abs().masked_fill(again == output, 0.0)
        allowed = entry["tolerance"]["absolute"] + entry["tolerance"]["relative"] * output.double().abs()
        assert (error <= allowed).all(), op["name"]
        if op["kind"] in ("Linear", "MatMul"):  # in float64, rounded once
            wide = (read[op["name"], port][1].double() for port in ports[:-1])
            again = OPS[op["kind"]].compute(*wide, **attrs[op["name"]]).to(output.dtype)
        assert torch.equal(again, output)
        assert output.dtype == torch_dtype("fp32" if op["kind"] == "RoPETable" else number_format)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_int8_linears_by_integers_alone(tmp_path: Path, phase: Any) -> None:
    """x W^T in 64-bit integers, times the factor, rounded half to even, is the output to the bit; the factor follows from the scales."""
    manifest = write_golden(SMALL, tmp_path / "v", ops=["*"], number_format="int8", phase=phase, batch=2, prompt=7, layers=2)
    read = tensors(tmp_path / "v")
    linears = [op for op in manifest["ops"] if op["kind"] == "Linear"]
    assert len(linears) == 2 * 7 + 1
    for op in linears:
        x, weight, output, factor = (read[op["name"], port] for port in ("x", "weight", "output", "factor"))
        sums = x[1].numpy().astype(np.int64) @ weight[1].numpy().astype(np.int64).T
        wanted = np.clip(np.rint(sums * factor[1].numpy().astype(np.float64)), -127, 127)
        assert np.array_equal(output[1].numpy(), wanted)
        assert np.abs(wanted).max() > 30
        rows = np.load(tmp_path / "v" / op["npz"])[weight[0]["scale"]["array"]]
        assert np.array_equal(rows, read_hex(tmp_path / "v" / weight[0]["scale"]["hex"], "fp32", [len(rows)]))
        assert factor[1].numpy() == pytest.approx(x[0]["scale"] * rows.astype(np.float64) / output[0]["scale"], rel=1e-6)
        assert output[0]["tolerance"]["absolute"] == output[0]["tolerance"]["relative"] == 0
    cache = read["layers.1.self_attn.k_cache", "cache"][1]
    assert bool(cache.any()) == (phase == "decode")  # the cache is as it was before the step
    assert read["layers.1.self_attn.k_cache", "output"][0]["scale"] == read["layers.1.self_attn.k_rope", "output"][0]["scale"]


def test_linears_of_grouped_weights_by_the_rule_of_the_manifest(tmp_path: Path) -> None:
    """scale * (code - zero point), rounded to bf16 as `dequantise` says, then products in float64."""
    manifest = write_golden(SMALL, tmp_path / "v", ops=["*_proj"], number_format="bf16", weights="int4:g32", prompt=7, layers=2)
    assert "rounded to the wider one first" in manifest["dequantise"]
    for op in manifest["ops"]:
        archive = np.load(tmp_path / "v" / op["npz"])
        x, weight, output = ({entry["name"]: entry for entry in op["tensors"]}[port] for port in ("x", "weight", "output"))
        codes, zeros = (archive[name].astype(np.float64) for name in (weight["array"], weight["zero_point"]["array"]))
        scales = archive[weight["scale"]["array"]].astype(np.float64)
        each = [np.repeat(part, 32, axis=1)[:, : codes.shape[1]] for part in (scales, zeros)]
        values = torch.from_numpy(each[0] * (codes - each[1])).to(torch.bfloat16).double()
        given, golden = (torch.from_numpy(archive[port["array"]].view(np.int16)).view(torch.bfloat16).double() for port in (x, output))
        allowed = output["tolerance"]["absolute"] + output["tolerance"]["relative"] * golden.abs()
        assert (((given @ values.T) - golden).abs() <= allowed).all(), op["name"]


def test_the_manifest_names_things_as_the_graph_does(tmp_path: Path) -> None:
    out = tmp_path / "v"
    manifest = write_golden(SMALL, out, ops=["*.q_proj", "*.scores"], number_format="int8", batch=2, prompt=5, layers=2, seed=9)
    assert manifest == json.loads((out / MANIFEST).read_text())
    assert [op["name"] for op in manifest["ops"]] == [f"layers.{i}.self_attn.{op}" for i in (0, 1) for op in ("q_proj", "scores")]
    assert {key: manifest[key] for key in ("model", "format", "seed", "layers", "phase", "batch", "q_len", "context")} == {
        "model": "small",
        "format": "int8",
        "seed": 9,
        "layers": 2,
        "phase": "prefill",
        "batch": 2,
        "q_len": 5,
        "context": 0,
    }
    q_proj, scores = manifest["ops"][2:]
    assert [(entry["name"], entry["tensor"], entry["role"], entry["shape"]) for entry in q_proj["tensors"]] == [
        ("x", "layers.1.input_layernorm", "input", [2, 5, 32]),
        ("weight", "layers.1.self_attn.q_proj.weight", "weight", [32, 32]),
        ("output", "layers.1.self_attn.q_proj", "output", [2, 5, 32]),
        ("factor", "", "parameter", [32]),
    ]
    assert (scores["kind"], scores["attributes"]) == ("MatMul", {"mask": {"offset": 0, "window": None}, "mask_axis": "n"})
    files = {q["hex"] for op in manifest["ops"] for q in op["tensors"]} | {op["npz"] for op in manifest["ops"]} | {MANIFEST}
    files |= {f"layers.{i}.self_attn.q_proj.weight_scale.hex" for i in (0, 1)}
    assert {file.name for file in out.iterdir()} == files
    assert (out / "layers.0.self_attn.q_proj.weight.hex").read_text().startswith("// layers.0.self_attn.q_proj weight: 32 x 32 of int8")


def test_hex_by_hand() -> None:
    """Row by row; two's complement; IEEE 754 bits."""
    assert to_hex(torch.tensor([[1, -1], [127, -128]], dtype=torch.int8)) == "01\nff\n7f\n80\n"
    assert to_hex(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16().T) == "3f80\n4040\n4000\n4080\n"
    assert to_hex(torch.tensor([1.0, float("-inf")]).half()) == "3c00\nfc00\n"
    assert to_hex(torch.tensor([-2.0])) == "c0000000\n"
    assert to_hex(torch.tensor([258], dtype=torch.int32)) == "00000102\n"
    assert to_array(torch.tensor([1.0]).bfloat16()).tolist() == [0x3F80]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        write_golden(SMALL, folder, ops=["*gate_proj", "embed_tokens"], seed=seed, prompt=4)
    contents = [{file.name: file.read_bytes() for file in sorted(folder.iterdir())} for folder in folders]
    assert contents[0] == contents[1]
    for file in ("embed_tokens.ids.hex", "layers.0.mlp.gate_proj.x.hex", "layers.0.mlp.gate_proj.weight.hex"):
        assert contents[0][file] != contents[2][file]


@pytest.mark.parametrize("number_format", ["bf16", "int8"])
def test_vectors_do_not_depend_on_what_else_is_asked_for(tmp_path: Path, number_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first words of a large table are built, unless embedding or lm_head are asked for: the other ops must not notice."""
    built: list[int] = []

    def noting(config: ModelConfig, *args: Any) -> Any:
        built.append(config.vocab_size)
        return random_weights(config, *args)

    monkeypatch.setattr(golden_step, "random_weights", noting)
    wide = ModelConfig("wide", 32, 48, 1, 4, 2, 8, 5000, 64, 1e-5, 10000.0, tie_word_embeddings=False)
    for folder, ops in (("few", ["*_proj"]), ("all", ["*"])):
        write_golden(wide, tmp_path / folder, ops=ops, number_format=number_format, prompt=6, phase="decode")
    assert built == [WORDS, 5000]
    for file in (tmp_path / "few").glob("*.hex"):
        assert file.read_bytes() == (tmp_path / "all" / file.name).read_bytes(), file.name
    default = write_golden(wide, tmp_path / "default", number_format=number_format, prompt=6)
    assert not {"embed_tokens", "lm_head"} & {op["name"] for op in default["ops"]}


# Tolerances ------------------------------------------------------------------------------------------------------------------------------


def test_tolerance_of_a_product_by_hand() -> None:
    """Two products, sum of magnitudes 7: gamma_2 of fp32 x 7, and two roundings to bf16."""
    x, weight = torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([[-1.0, 3.0]]).bfloat16()
    found = tolerance("Linear", (x, weight), torch.tensor([[5.0]]).bfloat16(), {})
    assert found.absolute == pytest.approx(7 * 2 * 2**-24 * (1 + 2**-8) ** 2, rel=2e-3)
    assert found.relative == pytest.approx(2 * 2**-8, rel=0.01)


@pytest.mark.parametrize("kind", sorted(set(OPS) - {"MemCopy", "Embedding", "ReduceMax", *SAMPLING_KINDS}))
@pytest.mark.parametrize("number_format", ["fp32", "bf16", "fp16"])
def test_a_float64_implementation_is_within_tolerance_and_a_wrong_one_is_not(kind: str, number_format: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(6):
        example = OPS[kind].example(random.Random(seed))
        attrs = dict(example.attrs)
        inputs = []
        for spec in example.inputs:
            values = torch.randn(tuple(int(dim) for dim in spec.shape), generator=generator)
            inputs.append(values if spec.format == "fp32" else values.to(torch_dtype(number_format)))
        if kind == "Normalize":
            inputs[0] = inputs[0].abs()
        output = OPS[kind].compute(*inputs, **attrs)
        allowed = tolerance(kind, inputs, output, attrs)
        exact = OPS[kind].compute(*(each.double() for each in inputs), **attrs)
        bound = allowed.absolute + allowed.relative * output.double().abs()
        error = (exact - output.double()).abs().masked_fill(output.isinf(), 0.0)
        assert (error <= bound).all()
        seen = ~output.isinf()
        assert not ((output.double() * 1.1 + 0.1 - output.double()).abs()[seen] <= bound[seen]).all()


# Refusals --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ops": ["q_prj"]}, r"--ops: no op is named 'q_prj'; did you mean '\*\.q_proj'\?"),
        ({"ops": ["zzzzzz"]}, r"no op is named 'zzzzzz'; there are 26 ops, such as embed_tokens, .*; \* stands for any text"),
        ({"ops": ["q_proj"]}, r"no op is named 'q_proj'; did you mean '\*\.q_proj'\?"),
        ({"ops": ["norm", "layers.7.*"]}, r"no op is named 'layers\.7\.\*'"),
        ({"ops": ["layers.0.mlp.gate_prj"]}, r"did you mean 'layers\.0\.mlp\.gate_proj'\?"),
        ({"number_format": "int4"}, r"--format: 'int4' is no format between ops; give it as --weights int4, and here one of bf16"),
        ({"number_format": "int8:g32"}, r"--format: 'int8:g32' is no format between ops; give it as --weights int8:g32, and here one of"),
        ({"split": 3}, r"--split: the 32 outputs of layers.0.self_attn.q_proj do not part into 3 equal pieces; take a divisor"),
        ({"split": 0}, r"--split: must be at least 1, found 0"),
        ({"weights": "int4:g100"}, r"--weights: unknown number format 'int4:g100'; of int4 there is int4, int4:g32, int4:g64, int4:g128"),
        ({"kv": "int4:g128"}, r"--kv: 'int4:g128' is a format of weights; known here: bf16, fp16, fp32, fp8, int8, int4"),
        ({"number_format": "int9"}, r"--format: unknown number format 'int9'; did you mean 'int8'\?"),
        ({"layers": 0}, r"--layers: cannot build 0 layers; small has 1 to 3"),
        ({"layers": 4}, r"--layers: cannot build 4 layers; small has 1 to 3"),
        ({"phase": "prefil"}, r"--phase: unknown phase 'prefil'; did you mean 'prefill'\?"),
        ({"prompt": 65}, r"--prompt: small cannot hold 65 positions"),
        ({"batch": 0}, r"--batch: must be at least 1, found 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        write_golden(SMALL, tmp_path / "v", **{"prompt": 4, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_foreseen_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_step, "random_weights", lambda *given, **named: pytest.fail("weights were made"))
    monkeypatch.setattr(golden_step, "available_bytes", lambda: 2**30)
    with pytest.raises(ScenarioError, match=r"out of memory foreseen: .* take fewer layers"):
        write_golden("llama-3.1-70b", tmp_path / "new", layers=80)
    with pytest.raises(ScenarioError, match="out of memory foreseen: "):
        write_golden(SMALL, tmp_path / "new", batch=2**20)
    assert not (tmp_path / "new").exists()


def test_memory_by_hand() -> None:
    """fp32 beside int8: 5 bytes per parameter; 3 layers x 2 heads x 8 in the cache of 7 tokens; scores of 4 heads, 90 logits per token."""
    need = golden_step.memory_floor(SMALL, Scenario.decode(Formats.of("int8"), 2, 6))
    assert need.weights_bytes == 5 * SMALL.parameters
    assert need.kv_cache_bytes == 4 * 2 * 3 * 2 * 8 * 2 * 7
    assert need.activations_bytes == 4 * 2 * (4 * 6 * 6 + 7 * 90)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="the folder is not empty; name another one, or empty it first"):
        write_golden(SMALL, tmp_path / "v", prompt=4)
    assert [file.name for file in (tmp_path / "v").iterdir()] == ["notes.txt"]
    with pytest.raises(BadInput, match="is a file"):
        write_golden(SMALL, tmp_path / "v" / "notes.txt", prompt=4)
    with pytest.raises(BadInput, match=r"the folder above it is not there; make .* first"):
        write_golden(SMALL, tmp_path / "missing" / "v", prompt=4)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    write_golden(SMALL, tmp_path / "v", ops=["norm"], prompt=4)
    assert (tmp_path / "v" / MANIFEST).exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "v"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    written: list[str] = []

    def failing(folder: Path, op: str, port: str, tensor: Tensor, number_format: str) -> str:
        written.append(port)
        if len(written) == 5:
            raise error
        return "x.hex"

    monkeypatch.setattr(golden, "_write_hex", failing)
    with pytest.raises((BadInput, KeyboardInterrupt), match=None if isinstance(error, KeyboardInterrupt) else "No space left on device"):
        write_golden(SMALL, tmp_path / "v", prompt=4)
    assert len(written) == 5
    assert list(tmp_path.iterdir()) == []


# Pieces ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number_format", ["bf16", "int8"])
def test_pieces_are_the_whole_side_by_side(tmp_path: Path, number_format: str) -> None:
    """Weights, outputs and what a Concat reads, against the vectors of the same linear in one piece."""
    some = {"ops": ["*.k_proj*"], "number_format": number_format, "prompt": 4}
    write_golden(SMALL, tmp_path / "whole", **some)
    manifest = write_golden(SMALL, tmp_path / "parts", split=2, **some)
    assert manifest["split"] == 2
    whole, parts, name = tensors(tmp_path / "whole"), tensors(tmp_path / "parts"), "layers.0.self_attn.k_proj"
    assert [op["name"] for op in manifest["ops"]] == [f"{name}.slice_0", f"{name}.slice_1", name]
    for port, axis in (("weight", 0), ("output", -1)):
        pieces = [parts[f"{name}.slice_{i}", port][1] for i in range(2)]
        assert torch.equal(torch.cat(pieces, axis), whole[name, port][1])
    assert parts[f"{name}.slice_1", "weight"][0]["tensor"] == f"{name}.weight.slice_1"
    for i in range(2):
        assert torch.equal(parts[name, f"piece_{i}"][1], parts[f"{name}.slice_{i}", "output"][1])
    assert torch.equal(parts[name, "output"][1], whole[name, "output"][1])


# The command -----------------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "v"
    arguments = ["stories15m", "--out", str(out), "--ops", "*.k_proj", "--ops", "norm", "--format", "fp16", "--layers", "2"]
    arguments += ["--phase", "decode", "--prompt", "4", "--context", "6", "--batch", "2", "--seed", "5"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == f"{out / MANIFEST}: 3 ops, 9 tensors in fp16, random weights, seed 5"
    assert lines[1].startswith("logits against fp32: max error 0.00")
    assert lines[1].endswith(" of 14 tokens")
    read = tensors(out)
    assert read["layers.1.self_attn.k_proj", "x"][1].shape == (2, 1, 288)
    manifest = json.loads((out / MANIFEST).read_text())
    assert (manifest["context"], manifest["seed"], manifest["batch"]) == (6, 5, 2)


def test_the_command_refuses_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown model 'stories15'"):
        CliRunner().invoke(app, ["stories15", "--out", str(tmp_path / "v")], catch_exceptions=False)


# Weights of a checkpoint -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_gives_its_own_weights(tmp_path: Path, layout: str) -> None:
    """To the bit, in fp32; only the first words and layers are built, and the manifest says whose they are."""
    folder = tmp_path / "given"
    folder.mkdir()
    config, weights = write_checkpoint(folder, layout)
    manifest = write_golden(folder, tmp_path / "v", ops=["*_proj", "lm_head"], number_format="fp32", prompt=5, layers=2)
    read = tensors(tmp_path / "v")
    assert (manifest["weights_source"], manifest["model"]) == (str(folder), "given")
    assert torch.equal(read["lm_head", "weight"][1], weights.lm_head)
    assert read["lm_head", "weight"][1].shape[0] == config.vocab_size
    for i in range(2):
        assert torch.equal(read[f"layers.{i}.self_attn.q_proj", "weight"][1], weights.layers[i].q_proj)
        assert torch.equal(read[f"layers.{i}.mlp.down_proj", "weight"][1], weights.layers[i].down_proj)
    # A configuration by itself has random ones.
    name = "params.json" if layout.startswith("meta") else "config.json"
    other = write_golden(folder / name, tmp_path / "other", ops=["*.q_proj"], number_format="fp32", prompt=5)
    assert other["weights_source"] == "random"
    assert not torch.equal(tensors(tmp_path / "other")["layers.0.self_attn.q_proj", "weight"][1], weights.layers[0].q_proj)


def test_the_first_words_of_a_checkpoint_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    config, weights = write_checkpoint(folder, "hugging face")
    monkeypatch.setattr(golden_step, "WORDS", 50)
    monkeypatch.setattr(golden, "WORDS", 50)
    write_golden(folder, tmp_path / "few", ops=["layers.0.input_layernorm", "*_proj"], number_format="int8", prompt=6, layers=3)
    write_golden(folder, tmp_path / "all", ops=["*"], number_format="int8", prompt=6, layers=3)
    for file in (tmp_path / "few").glob("*.hex"):
        assert file.read_bytes() == (tmp_path / "all" / file.name).read_bytes(), file.name
    taken = golden_step.WeightSource(folder).weights(replace(config, vocab_size=50), 0, Formats.of("fp32"))[0]
    assert torch.equal(taken.embed_tokens, weights.embed_tokens[:50])
    assert torch.equal(taken.lm_head, weights.lm_head[:50])


def test_a_folder_without_weights_has_random_ones(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hugging face")
    (tmp_path / "model.safetensors").unlink()
    opened = golden_step.GoldenModel.of(tmp_path)
    assert opened.source.said(3) == "random weights, seed 3"
    write_checkpoint(tmp_path, "hugging face")
    assert golden_step.GoldenModel.of(str(tmp_path)).source.said(3) == f"weights of {tmp_path}, ids of seed 3"


def test_weights_are_kept_for_one_model_in_one_mix_of_formats() -> None:
    source = golden_step.WeightSource()
    first = source.weights(SMALL, 0, Formats.of("int8"))
    assert source.weights(SMALL, 0, Formats.of("int8", kv="bf16")) == first
    for config, seed, formats in ((SMALL, 1, "int8"), (SMALL, 1, "bf16"), (replace(SMALL, num_hidden_layers=1), 1, "bf16")):
        wide, small = source.weights(config, seed, Formats.of(formats))
        assert torch.equal(wide.norm, random_weights(config, seed).norm)
        assert (len(wide.layers), small.layers[0].q_proj.format) == (config.num_hidden_layers, formats)


def test_a_broken_checkpoint_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hugging face")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        write_golden(tmp_path, tmp_path / "v", prompt=4)
    assert not (tmp_path / "v").exists()
