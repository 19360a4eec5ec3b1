"""The golden model: `functional.llama` computed with PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.interpreters import Torch
from functional.llama import KVCache, Logits, Weights, build_weights, forward
from functional.weights import named_weights, new_cache


def prefill(config: ModelConfig, weights: Weights[Tensor], ids: Tensor, cache: KVCache[Tensor], logits: Logits = "last") -> Tensor:
    """Logits of the prompt ids[B, T], written into an empty cache: [B, 1, V], or [B, T, V] with logits="all"."""
    return _run(config, weights, ids, cache, 0, logits)


def decode(
    config: ModelConfig, weights: Weights[Tensor], ids: Tensor, cache: KVCache[Tensor], position: int, logits: Logits = "last"
) -> Tensor:
    """Logits after the new tokens ids[B, T], with `position` tokens in the cache before them: [B, 1, V], or [B, T, V] with logits="all".

    T = 1 is one step; a chunk of a prompt, or what a draft proposes, are several.
    """
    return _run(config, weights, ids, cache, position, logits)


@torch.no_grad()
def _run(config: ModelConfig, weights: Weights[Tensor], ids: Tensor, cache: KVCache[Tensor], position: int, logits: Logits) -> Tensor:
    length, capacity = ids.shape[1], cache.keys[0].shape[2]
    if position + length > capacity:
        message = f"{position} + {length} tokens do not fit a KV cache of {capacity}"
        raise ScenarioError(Problem(message, "make the cache larger or the sequence shorter"))
    return forward(Torch(), config, weights, ids, cache, position, length, logits)


def as_module(config: ModelConfig, weights: Weights[Tensor]) -> Llama:
    """The same text as an `nn.Module`, for PyTorch's own tools; it shares the tensors of `weights`."""
    return Llama(config, weights)


class Llama(nn.Module):
    """Parameters under Hugging Face's names (without the leading `model.`); forward(ids[B, T]) gives all logits [B, T, V]."""

    def __init__(self, config: ModelConfig, weights: Weights[Tensor]) -> None:
        super().__init__()
        self.config = config
        parameters = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in named_weights(weights).items()}
        for name, parameter in parameters.items():
            _place(self, name, parameter)
        self._weights: Weights[Tensor] = build_weights(config, lambda name, shape: parameters[name], weights.inverse_frequencies)

    def forward(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        embeddings = self._weights.embed_tokens
        cache = new_cache(self.config, batch, length, str(embeddings.dtype).removeprefix("torch."), embeddings.device)
        return forward(Torch(), self.config, self._weights, ids, cache, 0, length, "all")


def _place(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    module = root
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(leaf, parameter)
