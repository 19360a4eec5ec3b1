"""Truth defended: the golden model is Llama and Mistral as transformers computes them, however it is fed, and does the work it declares."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from functional.config import ModelConfig, RopeScaling
from functional.errors import ScenarioError
from functional.interpreters import Torch
from functional.llama import LAYER_MODULES, Weights, forward
from functional.model import as_module, decode, prefill
from functional.ops import Op
from functional.spec import TensorSpec
from functional.weights import named_weights, new_cache, random_weights
from functional.work import Contraction, flops
from workloads.library import load_model

GQA = ModelConfig("gqa", 64, 112, 3, 8, 2, 8, 90, 128, 1e-5, 10000.0, tie_word_embeddings=True)
CONFIGS = {
    "gqa-tied": GQA,
    "gqa-untied": replace(GQA, tie_word_embeddings=False),
    "mha": replace(GQA, num_key_value_heads=8, tie_word_embeddings=False),
    "one-kv-head": replace(GQA, num_key_value_heads=1),
    "wide-heads": replace(GQA, head_dim=24),
    "llama3-rope": replace(GQA, rope_theta=500.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16)),
    "window": replace(GQA, sliding_window=5),
    "window-untied-mha": replace(GQA, sliding_window=3, num_key_value_heads=8, tie_word_embeddings=False),
}
TOKENS = 40
"""More than twice the original context of `llama3-rope` and many windows."""


def ids_for(config: ModelConfig, batch: int, tokens: int, seed: int = 1) -> Tensor:
    return torch.randint(config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def theirs(config: ModelConfig, weights: Weights[Tensor]) -> Any:
    """transformers' model with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
    names += "max_position_embeddings rms_norm_eps tie_word_embeddings"
    fields: dict[str, Any] = {name: getattr(config, name) for name in names.split()}
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = {name: getattr(config.rope_scaling, name) for name in RopeScaling.__slots__}
        fields["rope_parameters"] = {"rope_type": "llama3", "rope_theta": config.rope_theta, **scaling}
    if config.sliding_window is None:
        model: Any = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="eager"))
    else:
        model = MistralForCausalLM(MistralConfig(**fields, sliding_window=config.sliding_window, attn_implementation="eager"))
    state = {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in named_weights(weights).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return model.eval()


def assert_close(found: Tensor, wanted: Tensor, relative: float) -> None:
    assert found.shape == wanted.shape
    error = (found.float() - wanted.float()).abs().max() / wanted.float().abs().max()
    assert error <= relative, f"relative error {error:.2e}"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name: str, batch: int) -> None:
    config = CONFIGS[name]
    weights = random_weights(config, seed=3)
    ids = ids_for(config, batch, TOKENS)
    with torch.no_grad():
        wanted = theirs(config, weights)(ids.long()).logits
    assert wanted.std() > 0.3  # logits that say something
    found = prefill(config, weights, ids, new_cache(config, batch, TOKENS), "all")
    assert_close(found, wanted, 1e-5)


def test_llama3_scaling_matters() -> None:
    """The comparison above would be worth nothing if the scaled frequencies did not show."""
    config = CONFIGS["llama3-rope"]
    weights, plain = random_weights(config), random_weights(replace(config, rope_scaling=None))
    ids = ids_for(config, 1, TOKENS)
    scaled = prefill(config, weights, ids, new_cache(config, 1, TOKENS))
    unscaled = prefill(config, plain, ids, new_cache(config, 1, TOKENS))
    assert (scaled - unscaled).abs().max() > 1e-2


def test_window_matters() -> None:
    config = CONFIGS["window"]
    ids = ids_for(config, 1, TOKENS)
    weights = random_weights(config)
    seen = prefill(config, weights, ids, new_cache(config, 1, TOKENS))
    all_seen = prefill(GQA, weights, ids, new_cache(config, 1, TOKENS))
    assert (seen - all_seen).abs().max() > 1e-2


@pytest.mark.slow
def test_one_full_size_layer_equals_transformers() -> None:
    config = replace(load_model("llama-3.2-1b"), num_hidden_layers=1)
    weights = random_weights(config)
    ids = ids_for(config, 1, 24)
    with torch.no_grad():
        wanted = theirs(config, weights)(ids.long()).logits
    assert_close(prefill(config, weights, ids, new_cache(config, 1, 24), "all"), wanted, 1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [(0, 9, 10, 11, 12, 13), (0, 1, 2, 13), (0, 4, 11, 13)], ids=["prefill+decode", "one-by-one", "chunks"])
def test_pieces_equal_the_whole(name: str, batch: int, cuts: tuple[int, ...]) -> None:
    """Prefill and decode steps, or chunks, into a cache that is larger than needed, give the logits of one forward pass."""
    config = CONFIGS[name]
    weights = random_weights(config)
    ids = ids_for(config, batch, cuts[-1])
    whole = prefill(config, weights, ids, new_cache(config, batch, cuts[-1]), "all")
    cache = new_cache(config, batch, capacity=cuts[-1] + 7)
    for first, last in pairwise(cuts):
        logits = decode(config, weights, ids[:, first:last], cache, first)
        assert_close(logits, whole[:, last - 1 : last], 2e-6)


def test_last_logits_are_the_last_of_all() -> None:
    weights, ids = random_weights(GQA), ids_for(GQA, 2, 9)
    every = prefill(GQA, weights, ids, new_cache(GQA, 2, 9), "all")
    assert_close(prefill(GQA, weights, ids, new_cache(GQA, 2, 9)), every[:, 8:], 1e-6)


def test_a_cache_that_is_too_small_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"3 \+ 6 tokens do not fit a KV cache of 8; make the cache larger or the sequence shorter"):
        decode(GQA, random_weights(GQA), ids_for(GQA, 1, 6), new_cache(GQA, 1, 8), 3)


@pytest.mark.parametrize(("dtype", "relative"), [("bf16", 4e-2), ("fp16", 5e-3)])
def test_narrow_formats_stay_close(dtype: str, relative: float) -> None:
    for config in (CONFIGS["llama3-rope"], CONFIGS["window"]):
        ids = ids_for(config, 2, TOKENS)
        wide = prefill(config, random_weights(config), ids, new_cache(config, 2, TOKENS), "all")
        narrow = prefill(config, random_weights(config, dtype=dtype), ids, new_cache(config, 2, TOKENS, dtype), "all")
        assert narrow.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        assert_close(narrow, wide, relative)


def test_random_weights_are_seeded_and_independent_of_the_number_of_layers() -> None:
    full, again, other = random_weights(GQA, 5), random_weights(GQA, 5), random_weights(GQA, 6)
    one = random_weights(GQA, 5, layers=1)
    assert len(one.layers) == 1
    assert torch.equal(one.layers[0].up_proj, full.layers[0].up_proj)
    assert torch.equal(one.norm, full.norm)
    assert all(torch.equal(a, b) for a, b in zip(named_weights(full).values(), named_weights(again).values(), strict=True))
    assert not torch.equal(full.layers[2].q_proj, other.layers[2].q_proj)
    assert not torch.equal(full.layers[1].q_proj, full.layers[2].q_proj)
    assert full.lm_head is full.embed_tokens


def test_module_is_the_same_text() -> None:
    config = CONFIGS["gqa-untied"]
    weights, ids = random_weights(config), ids_for(config, 2, 7)
    module = as_module(config, weights)
    assert torch.equal(module(ids), prefill(config, weights, ids, new_cache(config, 2, 7), "all"))
    assert sum(parameter.numel() for parameter in module.parameters()) == config.parameters
    assert set(module.state_dict()) == set(named_weights(weights))
    assert module.state_dict()["layers.2.mlp.up_proj.weight"].data_ptr() == weights.layers[2].up_proj.data_ptr()
    tied = as_module(GQA, random_weights(GQA))
    assert sum(parameter.numel() for parameter in tied.parameters()) == GQA.parameters


# FLOPs -----------------------------------------------------------------------------------------------------------------------------------


class Counting(Torch):
    """Computes, and adds up the declared work of every op."""

    def __init__(self) -> None:
        super().__init__()
        self.dense_macs: dict[str, int] = {}
        self.declared_flops = 0.0

    def apply(self, op: Op, name: str, inputs: tuple[Tensor, ...], **attrs: Any) -> Tensor:
        specs = tuple(TensorSpec(tuple(tensor.shape), "fp32") for tensor in inputs)
        work = op.work(*specs, **attrs)
        if isinstance(work, Contraction):
            self.dense_macs[name] = int(work.batch * work.m * work.n * work.k)
            self.declared_flops += float(flops(work))
        return super().apply(op, name, inputs, **attrs)


@pytest.mark.parametrize("name", ["gqa-tied", "mha", "wide-heads"])
def test_flops_equal_those_that_pytorch_counts(name: str) -> None:
    """PyTorch sees no mask, so both halves of the score matrix are in its count: 2 x dense MACs, to the last one."""
    config = CONFIGS[name]
    weights, ids = random_weights(config), ids_for(config, 2, 11)
    with FlopCounterMode(display=False) as counter:
        as_module(config, weights)(ids)
    counting = Counting()
    forward(counting, config, weights, ids, new_cache(config, 2, 11), 0, 11, "all")
    assert counter.get_total_flops() == 2 * sum(counting.dense_macs.values())
    masked_pairs = 2 * config.num_attention_heads * (11 * 10 // 2)
    hidden_flops = 2 * masked_pairs * config.head_dim * 2 * config.num_hidden_layers  # in scores and in values
    assert counting.declared_flops == counter.get_total_flops() - hidden_flops


def test_a_windowed_step_reads_the_window_and_no_more() -> None:
    config = CONFIGS["window"]
    counting = Counting()
    forward(counting, config, random_weights(config), ids_for(config, 2, 1), new_cache(config, 2, 20), 19, 1)
    assert counting.dense_macs["layers.1.self_attn.scores"] == 2 * 8 * 5 * 8  # batch, heads, window, head_dim
    assert counting.dense_macs["layers.1.self_attn.context"] == 2 * 8 * 5 * 8


def test_flops_by_hand() -> None:
    """Batch 2, 11 tokens, 64 wide, 8 heads of 8 on 2 key/value heads, 112 in the MLP, 90 words, 3 layers."""
    counting = Counting()
    forward(counting, GQA, random_weights(GQA), ids_for(GQA, 2, 11), new_cache(GQA, 2, 11), 0, 11, "all")
    tokens = 2 * 11
    linears = tokens * (64 * 64 + 2 * 64 * 16 + 64 * 64 + 3 * 64 * 112)
    attention = 2 * 8 * (11 * 12 // 2) * 8 * 2
    assert counting.declared_flops == 2 * (3 * (linears + attention) + tokens * 64 * 90)
    assert len(counting.dense_macs) == 3 * (len(LAYER_MODULES) - 2 + 2) + 1
