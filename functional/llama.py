"""The Llama family as one functional text.

`forward` is all there is to the model: interpreted by `Torch` it is the golden model, interpreted by `workloads.trace.Trace` it is the op
graph. Axis letters of the shape comments: see `functional.spec`. Sources: Touvron et al., arXiv 2302.13971; Grattafiori et al., arXiv
2407.21783.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np

from functional.config import ModelConfig
from functional.interpreters import Interpreter
from functional.spec import Dim
from functional.work import Mask

T = TypeVar("T")
Logits: TypeAlias = Literal["last", "all"]
Head: TypeAlias = Literal["last", "all", "none"]
"""Tokens for which lm_head runs; none of them where a prompt goes on in another chunk."""


@dataclass(frozen=True, slots=True)
class LayerWeights(Generic[T]):
    """Weights of one decoder layer; a Linear's weight is [out, in]."""

    input_layernorm: T  # [D]
    q_proj: T  # [H*E, D]
    k_proj: T  # [G*E, D]
    v_proj: T  # [G*E, D]
    o_proj: T  # [D, H*E]
    post_attention_layernorm: T  # [D]
    gate_proj: T  # [F, D]
    up_proj: T  # [F, D]
    down_proj: T  # [D, F]


@dataclass(frozen=True, slots=True)
class Weights(Generic[T]):
    """All weights; `lm_head` is the very object `embed_tokens` where they are tied. `inverse_frequencies` [E/2] are derived, not stored."""

    embed_tokens: T  # [V, D]
    layers: tuple[LayerWeights[T], ...]
    norm: T  # [D]
    lm_head: T  # [V, D]
    inverse_frequencies: T  # [E/2]


LAYER_MODULES = {
    "input_layernorm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
"""Module path within a layer of each field of `LayerWeights`."""


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each field of `LayerWeights`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return {
        "input_layernorm": (hidden,),
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def build_weights(config: ModelConfig, make: Callable[[str, tuple[int, ...]], T], inverse_frequencies: T) -> Weights[T]:
    """Weights from a function that makes one tensor from its name (`layers.0.self_attn.q_proj.weight`) and shape."""
    shapes = layer_shapes(config)
    table = (config.vocab_size, config.hidden_size)
    embed_tokens = make("embed_tokens.weight", table)
    layers = tuple(
        LayerWeights(**{field: make(f"layers.{i}.{LAYER_MODULES[field]}.weight", shape) for field, shape in shapes.items()})
        for i in range(config.num_hidden_layers)
    )
    norm = make("norm.weight", (config.hidden_size,))
    lm_head = embed_tokens if config.tie_word_embeddings else make("lm_head.weight", table)
    return Weights(embed_tokens, layers, norm, lm_head, inverse_frequencies)


@dataclass(frozen=True, slots=True)
class KVCache(Generic[T]):
    """Keys and values of every layer, each [B, G, capacity, E]; `forward` writes them in place at the position that it is given."""

    keys: tuple[T, ...]
    values: tuple[T, ...]


def inverse_frequencies(config: ModelConfig) -> list[float]:
    """Rotary frequencies in radians per position, [E/2], with llama3 scaling: long waves are slowed down by `factor`, short ones kept,
    those between blended. Source: Llama 3.1 reference code, `apply_scaling`."""
    base = [config.rope_theta ** (-2 * i / config.head_dim) for i in range(config.head_dim // 2)]
    scaling = config.rope_scaling
    if scaling is None:
        return base
    scaled = []
    for frequency in base:
        turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = min(max(blend, 0.0), 1.0)
        scaled.append(frequency * (blend + (1 - blend) / scaling.factor))
    return scaled


def forward(
    f: Interpreter[T],
    config: ModelConfig,
    weights: Weights[T],
    ids: T,
    cache: KVCache[T],
    position: Dim,
    length: Dim,
    logits: Head = "last",
    activations: str | None = None,
) -> T:
    """Logits of `length` new tokens ids[B, T] that follow `position` tokens in the cache: [B, 1, V], or [B, T, V] with logits="all".

    With logits="none" the tokens only enter the cache, and what the last layer leaves is returned: [B, T, D].
    `activations` is the number format between ops; None: that of the embedding table.
    """
    # Keys older than the window are never looked at again: attention reads the cache from the first one that some query still sees.
    window = config.sliding_window
    first = 0 if window is None else _never_negative(position + 1 - window)
    mask = Mask(position - first, window)

    x = f.embedding("embed_tokens", ids, weights.embed_tokens, activations)  # [B, T, D]
    table = f.rope_table("rotary_emb", weights.inverse_frequencies, position, length)  # [2, T, E/2]
    for i, layer in enumerate(weights.layers):
        with f.scope(f"layers.{i}"):
            x = decoder_layer(f, config, layer, x, table, cache.keys[i], cache.values[i], position, first, mask)
    if logits == "none":
        return x
    if logits == "last":
        x = f.last_token(x)  # [B, 1, D]
    x = f.rms_norm("norm", x, weights.norm, config.rms_norm_eps)
    return f.linear("lm_head", x, weights.lm_head)  # [B, T or 1, V]


def decoder_layer(
    f: Interpreter[T],
    config: ModelConfig,
    w: LayerWeights[T],
    x: T,
    table: T,
    keys: T,
    values: T,
    position: Dim,
    first: Dim,
    mask: Mask,
) -> T:
    """One pre-norm decoder layer: x[B, T, D] to [B, T, D]."""
    h = f.rms_norm("input_layernorm", x, w.input_layernorm, config.rms_norm_eps)
    with f.scope("self_attn"):
        q = f.split_heads(f.linear("q_proj", h, w.q_proj), config.num_attention_heads)  # [B, H, T, E]
        k = f.split_heads(f.linear("k_proj", h, w.k_proj), config.num_key_value_heads)  # [B, G, T, E]
        v = f.split_heads(f.linear("v_proj", h, w.v_proj), config.num_key_value_heads)  # [B, G, T, E]
        q = f.rope("q_rope", q, table)
        k = f.rope("k_rope", k, table)
        k = f.recent(f.mem_copy("k_cache", keys, k, position), first)  # [B, G, S, E]
        v = f.recent(f.mem_copy("v_cache", values, v, position), first)  # [B, G, S, E]
        context = attention(f, q, k, v, mask, 1 / math.sqrt(config.head_dim))  # [B, H, T, E]
        attended = f.linear("o_proj", f.merge_heads(context), w.o_proj)  # [B, T, D]
    x = f.add("attention_residual", x, attended)
    h = f.rms_norm("post_attention_layernorm", x, w.post_attention_layernorm, config.rms_norm_eps)
    with f.scope("mlp"):
        gate = f.silu("act_fn", f.linear("gate_proj", h, w.gate_proj))  # [B, T, F]
        up = f.linear("up_proj", h, w.up_proj)  # [B, T, F]
        h = f.linear("down_proj", f.mul("gated", gate, up), w.down_proj)  # [B, T, D]
    return f.add("mlp_residual", x, h)


def attention(f: Interpreter[T], q: T, k: T, v: T, mask: Mask, scale: float) -> T:
    """softmax(scale * q k^T) v with softmax in three passes; q [B, H, T, E], k and v [B, G, S, E] to [B, H, T, E]."""
    scores = f.scores("scores", q, k, mask)  # [B, H, T, S]
    maxima = f.reduce_max("softmax_max", scores, mask)  # [B, H, T, 1]
    exponentials = f.elementwise_exp("softmax_exp", scores, maxima, mask, scale)
    probabilities = f.normalize("softmax_normalize", exponentials, mask)
    return f.weighted_sum("context", probabilities, v, mask)


def _never_negative(position: Dim) -> Dim:
    return max(position, 0) if isinstance(position, int) else np.maximum(position, 0)
