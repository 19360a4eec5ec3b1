"""Tensors for a model: random weights of any configuration, names of weights, an empty KV cache."""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.formats import TENSOR_FORMATS, torch_dtype
from functional.llama import LAYER_MODULES, KVCache, Weights, build_weights, inverse_frequencies

_NORM_SPREAD = 0.1
"""Standard deviation of random norm weights around 1: enough that a norm weight which is left out shows."""


def random_weights(config: ModelConfig, seed: int = 0, dtype: str = "float32", layers: int | None = None) -> Weights[Tensor]:
    """Seeded random weights; with `layers`, only that many of the decoder layers.

    Matrices are normal with variance 1 / columns, so that activations, scores and logits stay of order 1. Each tensor depends on the seed
    and its name only: fewer layers are the same layers, and another dtype is the same numbers, rounded.
    """
    if layers is not None:
        config = replace(config, num_hidden_layers=layers)

    def make(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # PyTorch uses 32 bits of it
        normal = torch.empty(shape).normal_(generator=generator)
        tensor = normal.mul_(_NORM_SPREAD).add_(1) if len(shape) == 1 else normal.mul_(shape[1] ** -0.5)
        return tensor.to(dtype_named(dtype))

    return build_weights(config, make, rotary_frequencies(config))


def dtype_named(name: str) -> torch.dtype:
    """The type behind a number format (`bf16`) or behind PyTorch's own name for it (`bfloat16`)."""
    dtype: torch.dtype = torch_dtype(name) if name in TENSOR_FORMATS else getattr(torch, name)
    return dtype


def rotary_frequencies(config: ModelConfig, device: torch.device | str = "cpu") -> Tensor:
    """Inverse frequencies [E/2], always in fp32: positions are not exact in a narrower format."""
    return torch.tensor(inverse_frequencies(config), dtype=torch.float32, device=device)


def named_weights(weights: Weights[Tensor]) -> dict[str, Tensor]:
    """Stored tensors by the names of `build_weights` (`layers.0.self_attn.q_proj.weight`); a tied lm_head is not listed again."""
    named = {"embed_tokens.weight": weights.embed_tokens}
    for i, layer in enumerate(weights.layers):
        named |= {f"layers.{i}.{module}.weight": getattr(layer, field) for field, module in LAYER_MODULES.items()}
    named["norm.weight"] = weights.norm
    if weights.lm_head is not weights.embed_tokens:
        named["lm_head.weight"] = weights.lm_head
    return named


def new_cache(
    config: ModelConfig, batch: int, capacity: int, dtype: str = "float32", device: torch.device | str = "cpu"
) -> KVCache[Tensor]:
    """An empty cache with room for `capacity` tokens in each sequence: per layer keys and values [B, G, capacity, E]."""
    shape = (batch, config.num_key_value_heads, capacity, config.head_dim)

    def empty() -> tuple[Tensor, ...]:
        return tuple(torch.zeros(shape, dtype=dtype_named(dtype), device=device) for _ in range(config.num_hidden_layers))

    return KVCache(empty(), empty())
