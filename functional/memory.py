"""How much memory a generation takes, and how much this machine has left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from functional.config import ModelConfig
from functional.errors import Problem, ScenarioError
from functional.llama import Weights
from functional.weights import named_weights

_GIB = 2**30
_WIDE_BYTES = 4
"""Vector ops compute in fp32."""
_LIVE_SCORES = 4
"""Tensors of the size of the scores that are alive at once: the scores, their exponentials, the probabilities and one in the making."""
_LIVE_INNER = 6
"""The same for those of the MLP's width, and of the hidden size besides."""
_LIVE_LOGITS = 8
"""The same for the logits, where sorting them for top-p takes 64-bit indices too."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What must be in memory at once."""

    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes


def memory_need(config: ModelConfig, weights: Weights[Tensor], batch: int, tokens: int, chunk: int) -> MemoryNeed:
    """Of `batch` sequences of at most `tokens` tokens, with prompts taken in `chunk` tokens at a time."""
    element_bytes = weights.embed_tokens.element_size()
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * element_bytes
    scores = _LIVE_SCORES * config.num_attention_heads * chunk * tokens
    inner = _LIVE_INNER * chunk * (config.intermediate_size + config.hidden_size)
    activations_bytes = _WIDE_BYTES * batch * (scores + inner + _LIVE_LOGITS * config.vocab_size)
    return MemoryNeed(sum(tensor.nbytes for tensor in named_weights(weights).values()), batch * tokens * per_token, activations_bytes)


def check_memory(
    need: MemoryNeed, available_bytes: int | None, cure: str = "generate fewer tokens or sequences at a time, or take a smaller model"
) -> None:
    """Raise `ScenarioError` where more is needed than there is; None: nobody knows how much there is."""
    if available_bytes is None or need.total_bytes <= available_bytes:
        return
    parts = f"weights {_gib(need.weights_bytes)}, KV cache {_gib(need.kv_cache_bytes)}, activations {_gib(need.activations_bytes)}"
    message = f"out of memory foreseen: {_gib(need.total_bytes)} are needed ({parts}), {_gib(available_bytes)} are available"
    raise ScenarioError(Problem(message, cure))


def available_bytes() -> int | None:
    """Memory that this process may fill, what it holds already included."""
    try:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        available = os.sysconf("SC_PHYS_PAGES") * page_bytes
    except (AttributeError, ValueError, OSError):
        return None
    free = _field(Path("/proc/meminfo"), "MemAvailable:")
    own = _field(Path("/proc/self/status"), "VmRSS:")
    if free is not None and own is not None:
        available = min(available, 1024 * (free + own))
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    return min(available, int(limit)) if limit.strip().isdigit() else available


def _field(file: Path, name: str) -> int | None:
    """`MemAvailable:   12 kB`."""
    return next((int(line.split()[1]) for line in _text(file).splitlines() if line.startswith(name)), None)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.1f} GiB" if size_bytes >= _GIB / 10 else f"{size_bytes / 2**20:,.1f} MiB"
