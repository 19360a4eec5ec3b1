"""Small checkpoints of both layouts, with tokenizers of their own, and transformers' model and tokenizer for the same files."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from functional.config import ModelConfig
from functional.llama import Weights
from functional.tokenizer import LLAMA3_PATTERN
from functional.weights import named_weights, random_weights

CORPUS = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "A chip reads its weights once for each token: 3,211 MB in 62.5 ms.",
    "Die Straße führt über grüne Hügel; naïve café, 12 €.",
    "東京は日本の首都です。 Привет, мир! 👩‍🚀🚀",
    "def tile(m, n, k):\n    return m * n * k\n\n\tindented   text",
]
LAYOUTS = ("hugging face", "hugging face, tied, shards", "meta, llama 3", "meta, llama 3, shards", "meta, llama 2")

SMALL = ModelConfig("small", 48, 112, 3, 6, 2, 8, 0, 96, 1e-5, 10000.0, tie_word_embeddings=False)
"""Without its vocabulary, which is that of the layout's tokenizer."""
META_ROWS = ("wq", "wk", "wv", "w1", "w3", "output")
"""Meta's matrices that are cut along their rows; wo and w2 along their columns (llama/model.py)."""

Stored = dict[str, Tensor]


# Tokenizers ------------------------------------------------------------------------------------------------------------------------------


@cache
def hugging_face_tokenizer() -> str:
    """tokenizer.json of a byte-level BPE that puts <|begin|> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<|begin|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    text: str = tokenizer.to_str()
    return text


@cache
def llama3_ranks() -> bytes:
    """tokenizer.model of Llama 3's kind: 256 bytes and 60 merges."""
    from tiktoken._educational import bpe_train

    ranks = bpe_train("\n".join(CORPUS * 3), 316, LLAMA3_PATTERN, visualise=None)
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


@cache
def llama2_model() -> bytes:
    """tokenizer.model of Llama 2's kind: a sentencepiece BPE with bytes to fall back on."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS[:3] * 3),  # so that the fourth needs bytes
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def llama2_converted() -> str:
    """The same model as a tokenizer.json, as Llama 2, TinyLlama and Mistral have it: a list of merges that `tokenizers` runs."""
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    model = sentencepiece.SentencePieceProcessor(model_proto=llama2_model())
    vocabulary = {model.id_to_piece(i): i for i in range(model.vocab_size())}
    # A merge's rank is its product's: sentencepiece scores a piece by minus its rank.
    cuts = [(piece[:at], piece[at:]) for piece in vocabulary for at in range(1, len(piece))]
    merges = sorted((cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary), key=lambda cut: vocabulary["".join(cut)])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    to_text = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(to_text)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    text: str = tokenizer.to_str()
    return text


def write_tokenizer(folder: Path, layout: str) -> int:
    """The tokenizer's files of a layout; how many tokens it has."""
    if layout.startswith("hugging face"):
        begin, end = ("<s>", "</s>") if "llama 2" in layout else ("<|begin|>", "<|end|>")
        (folder / "tokenizer.json").write_text(llama2_converted() if "llama 2" in layout else hugging_face_tokenizer())
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        return 340
    (folder / "tokenizer.model").write_bytes(llama2_model() if layout == "meta, llama 2" else llama3_ranks())
    return 340 if layout == "meta, llama 2" else 316 + 256


# Checkpoints -----------------------------------------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, layout: str, seed: int = 7) -> tuple[ModelConfig, Weights[Tensor]]:
    """A folder with everything `generate` needs; what is in it."""
    config = replace(SMALL, name=folder.name, vocab_size=write_tokenizer(folder, layout), tie_word_embeddings="tied" in layout)
    if layout.startswith("meta"):
        config = replace(config, intermediate_size=128, max_position_embeddings=4096)  # 2/3 of 4 x 48, in multiples of 16
    weights = random_weights(config, seed)
    if layout.startswith("meta"):
        save_meta(folder, meta_names(config, weights), 2 if "shards" in layout else 1)
        params = {"dim": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "multiple_of": 16, "norm_eps": 1e-5}
        (folder / "params.json").write_text(json.dumps({**params, "vocab_size": -1 if layout == "meta, llama 2" else config.vocab_size}))
    else:
        save_hugging_face(folder, hub_names(weights), 3 if "shards" in layout else 1)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **hub_fields(config), "rope_theta": config.rope_theta}))
    return config, weights


def hub_names(weights: Weights[Tensor]) -> Stored:
    return {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in named_weights(weights).items()}


def hub_fields(config: ModelConfig) -> dict[str, Any]:
    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
    names += "max_position_embeddings rms_norm_eps tie_word_embeddings"
    return {name: getattr(config, name) for name in names.split()}


def save_hugging_face(folder: Path, tensors: Stored, shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for place in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows as Meta has them: the inverse of `permute` in transformers' convert_llama_weights_to_hf.py."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns).clone()


def meta_names(config: ModelConfig, weights: Weights[Tensor]) -> Stored:
    tensors = {"tok_embeddings.weight": weights.embed_tokens, "norm.weight": weights.norm, "output.weight": weights.lm_head}
    for i, layer in enumerate(weights.layers):
        tensors |= {
            f"layers.{i}.attention.wq.weight": pairs(layer.q_proj, config.num_attention_heads),
            f"layers.{i}.attention.wk.weight": pairs(layer.k_proj, config.num_key_value_heads),
            f"layers.{i}.attention.wv.weight": layer.v_proj,
            f"layers.{i}.attention.wo.weight": layer.o_proj,
            f"layers.{i}.feed_forward.w1.weight": layer.gate_proj,
            f"layers.{i}.feed_forward.w2.weight": layer.down_proj,
            f"layers.{i}.feed_forward.w3.weight": layer.up_proj,
            f"layers.{i}.attention_norm.weight": layer.input_layernorm,
            f"layers.{i}.ffn_norm.weight": layer.post_attention_layernorm,
        }
    return {**tensors, "rope.freqs": torch.ones(config.head_dim // 2)}


def save_meta(folder: Path, tensors: Stored, shards: int = 1, embedding_axis: int = 0) -> None:
    for rank in range(shards):
        pieces = {name: _meta_piece(name, tensor, rank, shards, embedding_axis) for name, tensor in tensors.items()}
        torch.save(pieces, folder / f"consolidated.{rank:02}.pth")


def _meta_piece(name: str, tensor: Tensor, rank: int, shards: int, embedding_axis: int) -> Tensor:
    module = name.removesuffix(".weight").split(".")[-1]
    axis = embedding_axis if module == "tok_embeddings" else 0 if module in META_ROWS else 1 if module in ("wo", "w2") else None
    return tensor if axis is None or shards == 1 else tensor.chunk(shards, axis)[rank].clone()


# transformers ----------------------------------------------------------------------------------------------------------------------------


def transformers_model(config: ModelConfig, weights: Weights[Tensor]) -> Any:
    """transformers' model with the weights that went into the files."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    model: Any = LlamaForCausalLM(LlamaConfig(**hub_fields(config), rope_parameters=rope, bos_token_id=None, eos_token_id=None))
    _, unexpected = model.load_state_dict(hub_names(weights), strict=False)
    assert not unexpected
    return model.eval()


def transformers_ids(folder: Path, layout: str, text: str) -> list[int]:
    """Ids of a prompt as transformers reads the folder's tokenizer."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    if layout.startswith("hugging face"):
        ids: list[int] = PreTrainedTokenizerFast.from_pretrained(folder)(text)["input_ids"]
        return ids
    if layout == "meta, llama 2":
        from tokenizers import Tokenizer

        converted: list[int] = Tokenizer.from_str(llama2_converted()).encode(text).ids
        return converted
    return [316, *TikTokenConverter(str(folder / "tokenizer.model")).converted().encode(text).ids]
