"""Truth defended: a checkpoint's weights arrive bit by bit where they belong; one that does not fit is refused, every mistake named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from functional.checkpoint import load_checkpoint
from functional.config import ModelConfig
from functional.config_files import load_config
from functional.errors import CheckpointError
from functional.llama import Weights
from functional.model import prefill
from functional.weights import named_weights, new_cache, random_weights

UNTIED = ModelConfig("tiny", 32, 48, 2, 4, 2, 8, 50, 64, 1e-5, 10000.0, tie_word_embeddings=False)
TIED = replace(UNTIED, tie_word_embeddings=True)

Stored = dict[str, Tensor]


def stored(config: ModelConfig, dtype: str = "fp32") -> Stored:
    """Random weights under the names of the hub."""
    named = named_weights(random_weights(config, seed=7, dtype=dtype)).items()
    return {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in named}


def save(folder: Path, tensors: Stored, name: str = "model.safetensors") -> Path:
    save_file(tensors, folder / name)
    return folder


def save_shards(folder: Path, tensors: Stored, shards: int = 3) -> Path:
    names = list(tensors)
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(places.values())):
        save(folder, {name: tensors[name] for name in names if places[name] == shard}, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}, indent=1))
    return folder


def assert_same(found: Weights[Tensor], wanted: Weights[Tensor]) -> None:
    ours, theirs = named_weights(found), named_weights(wanted)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name
    assert torch.equal(found.inverse_frequencies, wanted.inverse_frequencies)
    assert (found.lm_head is found.embed_tokens) == (wanted.lm_head is wanted.embed_tokens)


def refusal(folder: Path, config: ModelConfig = UNTIED, dtype: str | None = None) -> list[str]:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(folder, config, dtype)
    return str(raised.value).replace(str(folder) + os.sep, "").replace(str(folder), "DIR").splitlines()


# What is read ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("keep", [save, save_shards])
@pytest.mark.parametrize("config", [UNTIED, TIED], ids=["untied", "tied"])
def test_round_trip(tmp_path: Path, config: ModelConfig, keep: Callable[[Path, Stored], Path], dtype: str) -> None:
    assert_same(load_checkpoint(keep(tmp_path, stored(config, dtype)), config), random_weights(config, seed=7, dtype=dtype))


def test_converted_on_request(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(UNTIED))
    assert_same(load_checkpoint(folder, UNTIED, "bf16"), random_weights(UNTIED, seed=7, dtype="bf16"))


def test_a_tied_checkpoint_may_carry_a_copy(tmp_path: Path) -> None:
    tensors = stored(TIED)
    folder = save(tmp_path, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert_same(load_checkpoint(folder, TIED), random_weights(TIED, seed=7))


def test_rotary_frequencies_of_old_checkpoints_are_not_needed(tmp_path: Path) -> None:
    extra = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert_same(load_checkpoint(save(tmp_path, {**stored(UNTIED), **extra}), UNTIED), random_weights(UNTIED, seed=7))


def test_what_transformers_saves_gives_what_transformers_computes(tmp_path: Path) -> None:
    """From its files alone: config.json, shards and index are all written by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**fields, vocab_size=50, initializer_range=0.2, tie_word_embeddings=False)).eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    config = load_config(tmp_path)
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        wanted = model(ids).logits
    found = prefill(config, load_checkpoint(tmp_path, config), ids, new_cache(config, 2, 9), "all")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


# Bad input -------------------------------------------------------------------------------------------------------------------------------


def test_no_checkpoint(tmp_path: Path) -> None:
    looked_for = "DIR: no checkpoint here: neither model.safetensors nor model.safetensors.index.json nor consolidated.00.pth"
    assert refusal(tmp_path) == [f"{looked_for}; give the directory of a Hugging Face checkpoint, or of Meta's"]
    (tmp_path / "pytorch_model.bin").touch()
    assert refusal(tmp_path) == [f"{looked_for}; convert pytorch_model.bin to safetensors"]
    assert refusal(tmp_path / "absent") == ["DIR: no such directory; give the directory that holds the checkpoint"]
    assert refusal(tmp_path / "pytorch_model.bin")[0].startswith("DIR: is a file, not a directory")


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    folder = save_shards(tmp_path, stored(UNTIED))
    (folder / "model-00001-of-00003.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    cure = "the shard is missing; model.safetensors.index.json lists it; download it again"
    assert refusal(folder) == [f"model-0000{i}-of-00003.safetensors: {cure}" for i in (1, 3)]


@pytest.mark.parametrize("index", ['{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', '{"metadata": {}}'])
def test_an_index_without_files(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "weight_map: expected the file name of each tensor; download the index again" in refusal(tmp_path)[0]


def test_a_broken_index_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{\n"weight_map": {\n')
    assert refusal(tmp_path)[0].startswith("model.safetensors.index.json:3: not valid JSON")


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1, -1000])
def test_truncated(tmp_path: Path, kept: int) -> None:
    file = save(tmp_path, stored(UNTIED)) / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    (line,) = refusal(tmp_path)
    assert line.startswith("model.safetensors: truncated")
    assert line.endswith("; download it again")
    if kept < 0:
        assert f"{len(data) + kept} bytes of {len(data)}" in line


@pytest.mark.parametrize(
    "header", [b"not json", b"[1, 2]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b'{"a": {"dtype": "F32", "shape": 3}}']
)
def test_no_safetensors_file(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert refusal(tmp_path) == ["model.safetensors: no safetensors file: its header cannot be read; download it again"]


def test_what_only_the_library_notices(tmp_path: Path) -> None:
    """Bytes after the last tensor: our check of the length passes, the library's does not."""
    file = save(tmp_path, stored(UNTIED)) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    (line,) = refusal(tmp_path)
    assert line.startswith("model.safetensors: no valid safetensors file: ")


def test_missing_and_unknown_tensors(tmp_path: Path) -> None:
    tensors = stored(UNTIED)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["lm_head.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    assert refusal(save(tmp_path, tensors)) == [
        "DIR: lm_head.weight: missing tensor; if it is tied to embed_tokens, the configuration must say tie_word_embeddings: true",
        "DIR: model.layers.1.mlp.up_proj.weight: missing tensor; tiny needs it; check that configuration and checkpoint belong together",
        "model.safetensors: model.layers.0.self_attn.q_proj.bias: unknown tensor; tiny has no such weight",
    ]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    lines = refusal(save(tmp_path, stored(UNTIED)), replace(UNTIED, num_hidden_layers=4))
    assert len(lines) == 9
    assert lines[-1] == "DIR: missing tensor: 10 more"


def test_wrong_shapes_and_dtypes_at_once(tmp_path: Path) -> None:
    tensors = stored(UNTIED)
    tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(32, 32)
    tensors["model.norm.weight"] = torch.zeros(32, dtype=torch.int8)
    assert refusal(save(tmp_path, tensors)) == [
        "model.safetensors: model.layers.0.self_attn.k_proj.weight: expected shape [16, 32], found [32, 32]; "
        "check that configuration and checkpoint belong together",
        "model.safetensors: model.norm.weight: expected dtype F32, BF16 or F16, found I8; give a checkpoint that is not quantised",
    ]


def test_a_mixture_of_dtypes_must_be_converted(tmp_path: Path) -> None:
    tensors = stored(UNTIED)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].bfloat16()
    folder = save(tmp_path, tensors)
    assert refusal(folder) == ["DIR: weights of several dtypes: BF16, F32; convert them to one, or open the checkpoint with a dtype"]
    assert load_checkpoint(folder, UNTIED, "fp32").layers[0].up_proj.dtype == torch.float32


def test_norms_may_be_wider_than_matrices(tmp_path: Path) -> None:
    tensors = {name: tensor if tensor.ndim == 1 else tensor.bfloat16() for name, tensor in stored(UNTIED).items()}
    assert load_checkpoint(save(tmp_path, tensors), UNTIED).norm.dtype == torch.float32


def test_a_copy_that_differs_is_no_copy(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(UNTIED))
    assert refusal(folder, TIED) == [
        "DIR: lm_head.weight: differs from model.embed_tokens.weight, to which the configuration ties it; "
        "the configuration must say tie_word_embeddings: false"
    ]
