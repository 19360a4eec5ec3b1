"""Decode of the golden model in float32 on the CPU, beside the memory bandwidth of the same moment and beside transformers.

Every step reads each weight once, so bytes of the weights / time of a step is a bandwidth; the project asks for 80 % of what a stream-like
loop reaches, and for no more time than transformers takes with the same weights and threads. One step of each is followed by one of the
next, since other work on the machine comes and goes: shares are medians over rounds, each of which compares neighbours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor

from functional.config import ModelConfig
from functional.generate import generate
from functional.llama import Weights
from functional.weights import named_weights, random_weights
from workloads.library import load_model

STREAM_ELEMENTS = 2**26
"""256 MiB in each array, far beyond any cache."""
PROMPT = 16


def stream_loops() -> dict[str, tuple[int, Callable[[], object]]]:
    """Bytes and work of a read (sum), a copy and a triad; a write counts once. Source: McCalpin, STREAM."""
    a, b, c = (torch.ones(STREAM_ELEMENTS) for _ in range(3))
    return {
        "read": (a.nbytes, lambda: a.sum()),
        "copy": (2 * a.nbytes, lambda: c.copy_(a)),
        "triad": (3 * a.nbytes, lambda: torch.add(a, b, alpha=3.0, out=c)),
    }


def transformers_model(config: ModelConfig, weights: Weights[Tensor]) -> Any:
    """transformers' model around the very same tensors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
    names += "max_position_embeddings rms_norm_eps tie_word_embeddings"
    fields = {name: getattr(config, name) for name in names.split()}
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**fields, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}))
    state = {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in named_weights(weights).items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies are no weights
    return model.eval()


@torch.inference_mode()
def _transformers_forward(model: Any, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
    output = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1].argmax(-1, keepdim=True), output.past_key_values


def transformers_steps(model: Any, prompts: Tensor) -> Iterator[list[int]]:
    """Greedy decoding without anything of `generate` around it."""
    ids, past = _transformers_forward(model, prompts, None)
    while True:
        yield ids[:, 0].tolist()
        ids, past = _transformers_forward(model, ids, past)


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()

    config = replace(load_model("llama-3.2-1b"), num_hidden_layers=given.layers, rope_scaling=None)
    weights = random_weights(config)
    read_bytes = sum(tensor.nbytes for tensor in named_weights(weights).values())  # as lm_head, the embedding is read whole
    prompts = torch.arange(given.batch * PROMPT).view(given.batch, PROMPT)
    ours = generate(config, weights, prompts.tolist(), given.rounds + 1)
    theirs = transformers_steps(transformers_model(config, weights), prompts)
    assert list(next(ours)) == next(theirs)

    work = {**stream_loops(), "rooftile": (read_bytes, lambda: next(ours)), "transformers": (read_bytes, lambda: next(theirs))}
    rates: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for _ in range(given.rounds):
        for name in names:
            size_bytes, step = work[name]
            rates[name].append(size_bytes / seconds(step))
        names.reverse()  # whoever comes first has it harder while others want the processor

    threads = torch.get_num_threads()
    print(f"{given.layers} layers of llama-3.2-1b in fp32 ({read_bytes / 1e9:.2f} GB), batch {given.batch}, {threads} threads")
    print(f"medians of {given.rounds} rounds:")
    for name, found in rates.items():
        print(f"  {name:12} {statistics.median(found) / 1e9:6.2f} GB/s  (fastest {max(found) / 1e9:.2f})")
    stream = [max(each) for each in zip(*(rates[name] for name in ("read", "copy", "triad")), strict=True)]
    share = [mine / best for mine, best in zip(rates["rooftile"], stream, strict=True)]
    speed = [mine / other for mine, other in zip(rates["rooftile"], rates["transformers"], strict=True)]
    fastest = max(rates["rooftile"]) / max(stream)
    print(f"of the fastest stream loop of its round: {statistics.median(share):.0%}; fastest step of the fastest loop: {fastest:.0%}")
    print(f"times the speed of transformers: {statistics.median(speed):.2f}; fastest of fastest: ", end="")
    print(f"{max(rates['rooftile']) / max(rates['transformers']):.2f}")


if __name__ == "__main__":
    main()
