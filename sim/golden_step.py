"""One golden step: a model's weights, token ids and KV cache, and all of it in the number formats of a scenario.

Weights are those of a checkpoint's directory, else random and seeded. Token ids are always random and seeded, from the first `WORDS` words.
The KV cache of a decode step is that of a real prefill in fp32.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from functional.checkpoint import checkpoint_config, holds_weights, load_checkpoint
from functional.config import ModelConfig
from functional.format_error import FormatError, format_error
from functional.formats import bits_of
from functional.interpreters import Interpreter
from functional.llama import KVCache, Weights, forward
from functional.memory import MemoryNeed, available_bytes, check_memory
from functional.model import prefill
from functional.qtensor import QTensor
from functional.quantise import InPieces, calibrate, quantise_cache, quantise_weights, takes_scales
from functional.weights import new_cache, random_weights
from workloads.library import load_model, model_names
from workloads.scenario import Formats, Scenario

WORDS = 1024
"""Token ids are below this (and the vocabulary), so that other ops give the same vectors whether or not the whole table is built."""


@dataclass(eq=False)
class WeightSource:
    """Where weights come from: a checkpoint's directory, or (None) a seed. Those that were asked for last are kept, so that several steps
    of one model make or read them once."""

    directory: Path | None = None
    _last: tuple[object, Weights[Tensor], Weights[QTensor]] | None = field(default=None, repr=False)

    def said(self, seed: int) -> str:
        """In words."""
        return f"random weights, seed {seed}" if self.directory is None else f"weights of {self.directory}, ids of seed {seed}"

    @property
    def name(self) -> str:
        """`random`, or the checkpoint's directory."""
        return "random" if self.directory is None else str(self.directory)

    def weights(self, config: ModelConfig, seed: int, formats: Formats) -> tuple[Weights[Tensor], Weights[QTensor]]:
        """Weights of a model, or of its first layers and words, in fp32 and in their formats. Raises `CheckpointError`."""
        wanted = config, seed, formats.weights, formats.activations
        if self._last is None or self._last[0] != wanted:
            self._last = None  # so that there are never two of them
            wide = random_weights(config, seed) if self.directory is None else self._read(self.directory, config)
            self._last = wanted, wide, quantise_weights(wide, formats.weights, formats.activations)
        return self._last[1:]

    @staticmethod
    def _read(directory: Path, config: ModelConfig) -> Weights[Tensor]:
        whole = load_checkpoint(directory, checkpoint_config(directory), "fp32", config.num_hidden_layers)
        if whole.embed_tokens.shape[0] == config.vocab_size:
            return whole
        table = whole.embed_tokens[: config.vocab_size].clone()
        head = table if whole.lm_head is whole.embed_tokens else whole.lm_head[: config.vocab_size].clone()
        return replace(whole, embed_tokens=table, lm_head=head)


@dataclass(frozen=True, slots=True, eq=False)
class GoldenModel:
    """A model and where its weights come from."""

    config: ModelConfig
    source: WeightSource

    @classmethod
    def of(cls, model: str | Path | ModelConfig | GoldenModel) -> GoldenModel:
        """The directory of a checkpoint has the weights in it; a configuration and a model of the library have random ones.

        Raises `BadInput`: an unknown model, a file that cannot be used.
        """
        if isinstance(model, GoldenModel):
            return model
        if isinstance(model, ModelConfig):
            return cls(model, WeightSource())
        if str(model) not in model_names() and holds_weights(model):
            return cls(checkpoint_config(model), WeightSource(Path(model)))
        return cls(load_model(model), WeightSource())


def seeded_ids(config: ModelConfig, scenario: Scenario, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, context] that are in the cache, and [B, q_len] of the step."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} ids".encode()))
    shape = (int(scenario.batch), int(scenario.kv_len))
    ids = torch.randint(min(config.vocab_size, WORDS), shape, generator=generator, dtype=torch.int32)
    return ids[:, : int(scenario.context)], ids[:, int(scenario.context) :]


@dataclass(frozen=True, slots=True, eq=False)
class SeededStep:
    """A model in the formats of a scenario, and all that one step of it takes; `cache` is written into by a run."""

    config: ModelConfig
    scenario: Scenario
    weights: Weights[QTensor]
    cache: KVCache[QTensor]
    ids: Tensor
    scales: dict[str, Tensor]

    def interpreted(self, f: Interpreter[QTensor], split: int = 1) -> QTensor:
        """The step as another interpreter sees it, with every linear in `split` pieces, on a cache of its own."""
        f = f if split == 1 else InPieces(f, split)
        copies = KVCache(*(tuple(each.with_values(each.values.clone()) for each in side) for side in (self.cache.keys, self.cache.values)))
        scenario, ids = self.scenario, QTensor(self.ids, None)
        length, activations = int(scenario.q_len), scenario.formats.activations
        return forward(f, self.config, self.weights, ids, copies, int(scenario.context), length, scenario.logits, activations)


@torch.no_grad()
def seeded_step(config: ModelConfig, scenario: Scenario, seed: int, source: WeightSource) -> SeededStep:
    """Weights, cache, ids and scales of a step. Raises `ScenarioError` if they would not fit the memory that is left."""
    formats, context = scenario.formats, int(scenario.context)
    check_memory(memory_floor(config, scenario), available_bytes(), "take fewer layers, tokens or sequences")
    weights, small = source.weights(config, seed, formats)
    before, ids = seeded_ids(config, scenario, seed)
    cache = new_cache(config, before.shape[0], int(scenario.kv_len))
    if context:
        prefill(config, weights, before, cache)
    scales: dict[str, Tensor] = {}
    if takes_scales(formats.activations, formats.kv):
        scales, _ = calibrate(config, weights, ids, cache, context, scenario.logits, formats.activations, formats.kv)
    return SeededStep(config, scenario, small, quantise_cache(cache, scales, formats.kv), ids, scales)


@torch.no_grad()
def seeded_error(config: ModelConfig, scenario: Scenario, seed: int, source: WeightSource) -> FormatError:
    """How far the formats of a scenario are from fp32, over all tokens of the sequences, those in the cache too."""
    weights, small = source.weights(config, seed, scenario.formats)
    ids, formats = torch.cat(seeded_ids(config, scenario, seed), 1), scenario.formats
    return format_error(config, weights, ids, (formats.weights, formats.activations, formats.kv), small)


def memory_floor(config: ModelConfig, scenario: Scenario) -> MemoryNeed:
    """What a seeded step takes at least: fp32 weights beside those in their format, the fp32 cache, one layer's scores and the logits."""
    batch, length = int(scenario.batch), int(scenario.kv_len)
    stored_bytes = max(1, bits_of(scenario.formats.weights) // 8)
    cache_bytes = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * batch * length
    longest = max(int(scenario.context), int(scenario.q_len))
    # Logits of all tokens: the error of the formats is that over all of them.
    activations_bytes = 4 * batch * (config.num_attention_heads * longest * longest + length * config.vocab_size)
    return MemoryNeed((4 + stored_bytes) * config.parameters, cache_bytes, activations_bytes)
