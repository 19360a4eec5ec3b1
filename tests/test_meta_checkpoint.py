"""Truth defended: Meta's own files give the very weights of Hugging Face's, from any number of shards; nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor

from functional.checkpoint import load_checkpoint, open_checkpoint
from functional.config import ModelConfig
from functional.errors import BadInput, CheckpointError
from functional.llama import Weights
from functional.model import prefill
from functional.weights import named_weights, new_cache, random_weights
from tests.small_checkpoints import hub_names, meta_names, save_hugging_face, save_meta

PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 48, "multiple_of": 16, "norm_eps": 1e-5}
CONFIG = ModelConfig("meta", 32, 96, 2, 4, 2, 8, 48, 4096, 1e-5, 10000.0, tie_word_embeddings=False)
Stored = dict[str, Tensor]


def stored(config: ModelConfig = CONFIG, dtype: str = "fp32") -> Stored:
    return meta_names(config, random_weights(config, seed=7, dtype=dtype))


def save(folder: Path, tensors: Stored, shards: int = 1, embedding_axis: int = 0) -> Path:
    save_meta(folder, tensors, shards, embedding_axis)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    return folder


def assert_same(found: Weights[Tensor], wanted: Weights[Tensor]) -> None:
    ours, theirs = named_weights(found), named_weights(wanted)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


def refusal(folder: Path, config: ModelConfig = CONFIG) -> list[str]:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(folder, config)
    return str(raised.value).replace(str(folder) + os.sep, "").replace(str(folder), "DIR").splitlines()


# What is read ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("embedding_axis", [0, 1], ids=["llama-3", "llama-2"])
@pytest.mark.parametrize("shards", [1, 2])
def test_round_trip(tmp_path: Path, shards: int, embedding_axis: int, dtype: str) -> None:
    found = open_checkpoint(save(tmp_path, stored(dtype=dtype), shards, embedding_axis))
    assert found.config == replace(CONFIG, name=tmp_path.name)
    assert_same(found.weights, random_weights(CONFIG, seed=7, dtype=dtype))


def test_converted_on_request(tmp_path: Path) -> None:
    assert_same(load_checkpoint(save(tmp_path, stored()), CONFIG, "bf16"), random_weights(CONFIG, seed=7, dtype="bf16"))


def meta_attention(tensors: Stored, hidden: Tensor) -> Tensor:
    """Layer 0's scores as Meta's model.py computes them: complex rotation of neighbouring pairs. [H, T, T]."""
    tokens, heads, width = hidden.shape[0], PARAMS["n_heads"], 8
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(tokens).float(), frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]  # [T, 1, E/2]

    def rotated(name: str, count: int) -> Tensor:
        x = (hidden @ tensors[f"layers.0.attention.{name}.weight"].T).view(tokens, count, width // 2, 2)
        return torch.view_as_real(torch.view_as_complex(x) * turns).flatten(2)

    q, k = rotated("wq", int(heads)), rotated("wk", 2).repeat_interleave(2, 1)
    return torch.einsum("thd,shd->hts", q, k)


def test_rotated_pairs_are_where_meta_has_them(tmp_path: Path) -> None:
    """The moved rows give, with our RoPE, the scores of Meta's own arithmetic on the rows as they are stored."""
    from functional.ops import OPS
    from functional.weights import rotary_frequencies

    tensors = stored()
    layer = load_checkpoint(save(tmp_path, tensors), CONFIG).layers[0]
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    table = OPS["RoPETable"].compute(rotary_frequencies(CONFIG), first=0, length=6)

    def rotated(weight: Tensor, heads: int) -> Tensor:
        return OPS["RoPE"].compute((hidden @ weight.T).view(1, 6, heads, 8).transpose(1, 2), table)[0]

    found = rotated(layer.q_proj, 4) @ rotated(layer.k_proj, 2).repeat_interleave(2, 0).transpose(1, 2)
    torch.testing.assert_close(found, meta_attention(tensors, hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shards", [1, 2])
def test_logits_equal_those_of_transformers_from_converted_weights(tmp_path: Path, shards: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**fields, vocab_size=48, rms_norm_eps=1e-5)).eval()
    tensors = stored()
    names = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    inner = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj"}
    inner |= {"attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj"}
    inner |= {"feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"layers.{i}.{old}": f"model.layers.{i}.{new}" for i in range(2) for old, new in inner.items()}
    state = {f"{new}.weight": tensors[f"{old}.weight"] for old, new in names.items()}
    for name, heads in (("q_proj", 4), ("k_proj", 2)):
        for i in range(2):
            weight = state[f"model.layers.{i}.self_attn.{name}.weight"]
            # `permute` of transformers/models/llama/convert_llama_weights_to_hf.py
            moved = weight.view(heads, weight.shape[0] // heads // 2, 2, 32).transpose(1, 2).reshape(weight.shape)
            state[f"model.layers.{i}.self_attn.{name}.weight"] = moved
    model.load_state_dict(state)
    ids = torch.randint(48, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = model(ids).logits
    found = open_checkpoint(save(tmp_path, tensors, shards))
    logits = prefill(found.config, found.weights, ids, new_cache(found.config, 2, 9), "all")
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_one_tensor_under_two_names_is_tied(tmp_path: Path) -> None:
    tensors = stored()
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    found = open_checkpoint(save(tmp_path, tensors))
    assert found.config.tie_word_embeddings
    assert found.weights.lm_head is found.weights.embed_tokens
    assert_same(found.weights, random_weights(replace(CONFIG, tie_word_embeddings=True), seed=7))


def test_a_vocabulary_that_params_leave_open_is_that_of_the_weights(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2, embedding_axis=1)
    (folder / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": -1}))
    assert open_checkpoint(folder).config.vocab_size == 48


# Memory ----------------------------------------------------------------------------------------------------------------------------------

MEASURE = """
import sys
import torch
from safetensors import safe_open
from functional.checkpoint import load_checkpoint
from functional.config import ModelConfig
from functional.weights import named_weights

def peak_bytes():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

config = ModelConfig("big", 768, 2048, 24, 6, 2, 128, 8000, 64, 1e-5, 1e4, tie_word_embeddings=False)
torch.save({"a": torch.zeros(8)}, sys.argv[1] + "/small")  # so that everything that loading imports is there already
torch.load(sys.argv[1] + "/small", weights_only=True, mmap=True)
before = peak_bytes()
weights = load_checkpoint(sys.argv[1], config)
loaded = peak_bytes()
named = named_weights(weights).values()
for tensor in named:
    tensor.view(-1)[::1024].clone()
print(sum(tensor.nbytes for tensor in named), loaded - before, peak_bytes() - before)
"""
"""In a process of its own, since a peak is never forgotten: bytes of the weights, peak after loading, peak after touching all pages."""
BIG = ModelConfig("big", 768, 2048, 24, 6, 2, 128, 8000, 64, 1e-5, 1e4, tie_word_embeddings=False)


def save_big(folder: Path, layout: str) -> None:
    if layout == "hugging face":
        save_hugging_face(folder, hub_names(random_weights(BIG, dtype="bf16")), 1)
    else:
        save(folder, stored(BIG, "bf16"), 1 if layout == "meta" else 2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("layout", ["hugging face", "meta", "meta, two shards"])
def test_loading_takes_no_more_than_the_weights_and_a_tenth(tmp_path: Path, layout: str) -> None:
    """Peak resident memory beyond what the process had before. What is copied takes a layer more than the weights; here that is 1/26."""
    save_big(tmp_path, layout)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    size_bytes, loaded_bytes, touched_bytes = map(int, run.stdout.split())
    assert loaded_bytes <= 1.1 * size_bytes
    assert 0.9 * size_bytes <= touched_bytes <= 1.1 * size_bytes
    if layout == "hugging face":
        assert loaded_bytes < 0.2 * size_bytes  # nothing is read before it is needed


# Bad input -------------------------------------------------------------------------------------------------------------------------------


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    (folder / "consolidated.00.pth").unlink()
    assert refusal(folder) == ["consolidated.00.pth: the shard is missing; consolidated.01.pth is there; download it again"]


def test_a_missing_last_shard_is_noticed(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    (folder / "consolidated.01.pth").unlink()
    assert refusal(folder) == ["consolidated.01.pth: the shard is missing; consolidated.00.pth holds 1/2 of each matrix; download it again"]


def test_shards_of_different_models(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    tensors = torch.load(folder / "consolidated.01.pth")
    tensors["layers.1.feed_forward.w1.weight"] = torch.zeros(8, 32)
    torch.save(tensors, folder / "consolidated.01.pth")
    assert refusal(folder) == [
        "DIR: layers.1.feed_forward.w1.weight: the shards do not belong together: pieces [48, 32], [8, 32]; download the shards again"
    ]


def test_shards_under_each_others_names(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    first, second = (folder / f"consolidated.0{i}.pth" for i in range(2))
    first.rename(folder / "first")
    second.rename(first)
    (folder / "first").rename(second)
    cure = "give each shard its own name, or download them again"
    assert refusal(folder) == [
        f"consolidated.00.pth: it was saved as consolidated.01.pth; {cure}",
        f"consolidated.01.pth: it was saved as consolidated.00.pth; {cure}",
    ]


def save_namelessly(tensors: dict[str, Tensor], file: Path) -> None:
    """Into a stream, whose archive has no name of its own."""
    with file.open("wb") as stream:
        torch.save(tensors, stream)


def test_a_shard_twice(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    save_namelessly(torch.load(folder / "consolidated.00.pth"), folder / "consolidated.01.pth")
    assert refusal(folder) == ["consolidated.01.pth: it holds the same pieces as consolidated.00.pth; download it again"]


def test_a_shard_of_another_model_of_the_same_shape(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    tensors = torch.load(folder / "consolidated.01.pth")
    save_namelessly({**tensors, "layers.1.ffn_norm.weight": tensors["layers.1.ffn_norm.weight"] + 1e-3}, folder / "consolidated.01.pth")
    assert refusal(folder) == [
        "consolidated.01.pth: layers.1.ffn_norm.weight: differs from the one in consolidated.00.pth; each shard of a model holds the same; "
        "download the shards again"
    ]


def test_shards_of_several_dtypes(tmp_path: Path) -> None:
    folder = save(tmp_path, stored(), 2)
    tensors = torch.load(folder / "consolidated.01.pth")
    name = "layers.0.attention.wo.weight"
    save_namelessly({**tensors, name: tensors[name].half()}, folder / "consolidated.01.pth")
    assert refusal(folder) == [
        f"DIR: {name}: the shards do not belong together: pieces of several dtypes; download the shards again"
    ]


def test_wrong_names_shapes_and_dtypes_at_once(tmp_path: Path) -> None:
    tensors = stored()
    del tensors["output.weight"]
    tensors["layers.0.attention.wk.weight"] = torch.zeros(32, 32)
    tensors["norm.weight"] = torch.zeros(32, dtype=torch.int8)
    tensors["layers.0.attention.wq.bias"] = torch.zeros(32)
    assert refusal(save(tmp_path, tensors)) == [
        "DIR: output.weight: missing tensor; if it is tied to embed_tokens, the configuration must say tie_word_embeddings: true",
        "consolidated.00.pth: layers.0.attention.wq.bias: unknown tensor; meta has no such weight",
        "consolidated.00.pth: layers.0.attention.wk.weight: expected shape [16, 32], found [32, 32]; "
        "check that configuration and checkpoint belong together",
        "consolidated.00.pth: norm.weight: expected dtype F32, BF16 or F16, found torch.int8; give a checkpoint that is not quantised",
    ]


class Harmful:
    """A pickle that would write a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_a_pickle_that_wants_to_run_is_refused_and_does_not(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    folder = save(tmp_path, stored())
    torch.save({"norm.weight": Harmful(trace)}, folder / "consolidated.00.pth")
    (line,) = refusal(folder)
    assert line == (
        "consolidated.00.pth: not plain tensors: it asks for posix.mkdir; refused, nothing in it was executed; "
        "if you trust it, convert it to safetensors"
    )
    assert not trace.exists()
    torch.load(folder / "consolidated.00.pth", weights_only=False)
    assert trace.exists()  # the file is as harmful as it is meant to be


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_refused_unread(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "executed"
    (save(tmp_path, stored()) / "consolidated.00.pth").write_bytes(pickle.dumps({"a": Harmful(trace)}, protocol))
    (line,) = refusal(tmp_path)
    assert line.startswith("consolidated.00.pth: truncated, or no archive of torch.save (PyTorch 1.6 or newer); refused")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        ([torch.zeros(2)], "a list, no dictionary of tensors"),
        ({}, "an empty dictionary"),
        ({"norm.weight": 3}, "'norm.weight' holds a int"),
        ({"model": {"norm.weight": torch.zeros(2)}}, "'model' holds a dict"),
        ({1: torch.zeros(2)}, "1 holds a Tensor"),
    ],
)
def test_what_is_no_dictionary_of_tensors(tmp_path: Path, contents: object, found: str) -> None:
    torch.save(contents, save(tmp_path, stored()) / "consolidated.00.pth")
    assert refusal(tmp_path) == [f"consolidated.00.pth: not plain tensors: {found}; refused; give a file of names and tensors"]


@pytest.mark.parametrize("kept", [0, 10, 3000, -1, -500])
def test_truncated(tmp_path: Path, kept: int) -> None:
    file = save(tmp_path, stored()) / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[:kept])
    (line,) = refusal(tmp_path)
    assert line.startswith("consolidated.00.pth: ")
    assert line.endswith("; refused; download it again")


def test_a_folder_is_no_shard(tmp_path: Path) -> None:
    (save(tmp_path, stored()) / "consolidated.00.pth").unlink()
    (tmp_path / "consolidated.00.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json nor consolidated.00.pth"):
        open_checkpoint(tmp_path)


def test_a_folder_that_is_no_checkpoint_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        open_checkpoint(tmp_path)
    for name in ("config.json", "params.json", "model.safetensors", "model.safetensors.index.json", "consolidated.00.pth"):
        assert name in str(raised.value)
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json nor consolidated.00.pth"):
        open_checkpoint(tmp_path)
