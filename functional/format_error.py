"""How far a model in some number formats is from the same model in fp32: the error of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.llama import Weights, forward
from functional.qtensor import QTensor
from functional.quantise import Quantised, calibrate, quantise_cache, quantise_weights
from functional.weights import new_cache


@dataclass(frozen=True, slots=True)
class FormatError:
    """Distance of logits to those in fp32, over `tokens` tokens; `fp32_rms` is the size of the latter, `top1_agreement` the share of tokens
    whose most likely next token is the same."""

    max_error: float
    rms_error: float
    top1_agreement: float
    fp32_rms: float
    tokens: int


@torch.no_grad()
def format_error(
    config: ModelConfig, weights: Weights[Tensor], ids: Tensor, formats: tuple[str, str, str], small: Weights[QTensor] | None = None
) -> FormatError:
    """Error of a prefill of ids[B, T], all logits, with (weights, activations, KV cache) in these formats; `weights` are the fp32 ones.

    `small` are the weights in their format, if they are there already. Scales of activations and caches are from the same tokens.
    """
    of_weights, activations, kv = formats
    batch, tokens = ids.shape
    empty = new_cache(config, batch, tokens)
    scales, wanted = calibrate(config, weights, ids, empty, 0, "all", activations, kv)
    f = Quantised(scales, lambda name: False, activations)
    cache = quantise_cache(empty, scales, kv)
    small = small or quantise_weights(weights, of_weights, activations)
    found = forward(f, config, small, QTensor(ids, None), cache, 0, tokens, "all", activations)
    return error_of(found.real().float(), wanted)


def error_of(found: Tensor, wanted: Tensor) -> FormatError:
    """Of logits [B, T, V] against those in fp32."""
    apart = (found - wanted).abs()
    agreement = float((found.argmax(-1) == wanted.argmax(-1)).double().mean())
    return FormatError(float(apart.max()), _rms(apart), agreement, _rms(wanted), wanted.shape[0] * wanted.shape[1])


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())
