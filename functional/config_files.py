"""Reading a model's hyper-parameters: Hugging Face's `config.json` and Meta's `params.json`.

Fields that say nothing about the computation (token ids, dropout, dtype ...) are ignored; one that changes it is honoured or refused, never
ignored. All mistakes of a file are reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from functional.config import ModelConfig, RopeScaling
from functional.documents import Document, FieldPath, dotted, load_document
from functional.errors import ModelFileError, Problem, did_you_mean

T = TypeVar("T")

FILE_NAMES = ("config.json", "params.json")
"""What a model's directory is searched for, in this order."""

ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
"""Architectures that `functional.llama` computes, with the `model_type` under which Hugging Face files them."""

_HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "sliding_window": None, "num_key_value_heads": None},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096, "num_key_value_heads": 8},
}
"""What transformers takes for a field that the file leaves out (LlamaConfig, MistralConfig)."""
_LARGEST = 10**8
"""Ten times the longest context and a hundred times the largest vocabulary that exist; products of two stay whole in 64 bits."""

_HF_RMS_NORM_EPS = 1e-6
_HF_ROPE_THETA = 10000.0

_HF_ONLY: dict[str, tuple[Any, str]] = {
    "hidden_act": ("silu", "only SwiGLU with silu is modelled"),
    "attention_bias": (False, "projections with a bias are not modelled"),
    "mlp_bias": (False, "projections with a bias are not modelled"),
    "partial_rotary_factor": (1, "every element of a head is rotated"),
    "quantization_config": (None, "give the configuration of the unquantised model; formats belong to the scenario"),
    "layer_types": (None, "all layers are alike; say sliding_window instead"),
}
"""Fields that change the computation, the one value that is supported, and why."""

_META_FIELDS = (
    *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"),
    *("rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size"),
)
_META_VOCAB_SIZE = 32000  # Llama 2 writes -1 and takes the size of its tokenizer
_META_ROPE_THETA = 10000.0  # a constant in Llama 2's code; later files state it
_META_SCALING = RopeScaling(8.0, 1.0, 4.0, 8192)  # constants of `apply_scaling` in Meta's llama-models


def load_config(path: str | Path, name: str | None = None) -> ModelConfig:
    """Read a `config.json`, a `params.json` or a directory that holds one of them (the former first).

    The name defaults to that of the file, or of its directory where the file has one of the two usual names. Raises `ModelFileError`.
    """
    file = _find(Path(path))
    fields = _Fields(load_document(file, ModelFileError))
    data = fields.document.data
    name = name or (file.resolve().parent.name if file.name in FILE_NAMES else file.stem)
    if data.keys() & {"model_type", "architectures", "hidden_size"}:
        config = _from_hugging_face(fields, name)
    elif data.keys() & {"dim", "n_layers"}:
        config = _from_meta(fields, name)
    else:
        message = "neither Hugging Face's config.json (no 'model_type') nor Meta's params.json (no 'dim')"
        raise ModelFileError(Problem(message, "give one of the two", str(file)))
    if fields.problems:
        raise ModelFileError(sorted(fields.problems, key=lambda problem: problem.line or 0))
    return config


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    for file_name in FILE_NAMES:
        if (path / file_name).is_file():
            return path / file_name
    raise ModelFileError(Problem(f"the directory holds neither {' nor '.join(FILE_NAMES)}", "name the file itself", str(path)))


def _from_hugging_face(fields: _Fields, name: str) -> ModelConfig:
    """Names are those of `ModelConfig`."""
    model_type = _model_type(fields)
    defaults = _HF_DEFAULTS[model_type]
    for key, (supported, cure) in _HF_ONLY.items():
        found = fields.values.get(key)
        if found not in (None, supported):
            fields.refuse((key,), f"{found!r} is not supported", cure)
    heads, kv_heads, head_dim = _heads(fields, "hidden_size", "num_attention_heads", "num_key_value_heads", defaults["num_key_value_heads"])
    rope = _rope_fields(fields)
    return ModelConfig(
        name=name,
        hidden_size=fields.whole("hidden_size"),
        intermediate_size=fields.whole("intermediate_size"),
        num_hidden_layers=fields.whole("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.whole("vocab_size"),
        max_position_embeddings=fields.whole("max_position_embeddings", defaults["max_position_embeddings"]),
        rms_norm_eps=fields.number("rms_norm_eps", _HF_RMS_NORM_EPS),
        rope_theta=_rope_theta(fields, rope),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        rope_scaling=_rope_scaling(rope),
        sliding_window=_sliding_window(fields, model_type, defaults["sliding_window"]),
    )


def _model_type(fields: _Fields) -> str:
    """`llama` or `mistral`; anything else cannot be read any further."""
    data = fields.document.data
    listed = data.get("architectures") or []
    architectures = listed if isinstance(listed, list) else [listed]
    supported = "supported: " + ", ".join(ARCHITECTURES)
    for architecture in architectures:
        if architecture not in ARCHITECTURES:
            raise ModelFileError(fields.problem(("architectures",), f"architecture '{architecture}' is not supported", supported))
    types = {ARCHITECTURES[architecture] for architecture in architectures}
    if "model_type" in data:
        types.add(str(data["model_type"]))
    if not types:
        raise ModelFileError(fields.problem(("model_type",), "missing field", 'write "model_type": "llama" or "mistral"'))
    unknown = sorted(types - set(ARCHITECTURES.values()))
    if unknown:
        raise ModelFileError(fields.problem(("model_type",), f"architecture '{unknown[0]}' is not supported", supported))
    if len(types) > 1:
        message = f"'{data.get('model_type')}' contradicts architectures {architectures}"
        raise ModelFileError(fields.problem(("model_type",), message, "make the two agree"))
    return types.pop()


def _sliding_window(fields: _Fields, model_type: str, default: int | None) -> int | None:
    if "sliding_window" not in fields.document.data:
        return default
    window = fields.optional("sliding_window", fields.whole)
    if model_type == "llama" and window is not None:
        fields.refuse(("sliding_window",), "a model of type 'llama' has no sliding window", 'write null, or "model_type": "mistral"')
    return window


def _rope_fields(fields: _Fields) -> _Fields:
    """The group that describes RoPE: `rope_parameters` since transformers 5, `rope_scaling` before."""
    given = [key for key in ("rope_parameters", "rope_scaling") if fields.values.get(key) is not None]
    if len(given) == 2:
        fields.refuse(("rope_scaling",), "given besides rope_parameters, which replaces it", "keep one of the two")
    return fields.group(given[0] if given else "rope_scaling")


def _rope_theta(fields: _Fields, rope: _Fields) -> float:
    outer = fields.number("rope_theta", _HF_ROPE_THETA)
    inner = rope.number("rope_theta", outer)
    if fields.values.get("rope_theta") is not None and inner != outer and not rope.is_wrong("rope_theta"):
        fields.refuse(("rope_theta",), f"{outer:g} contradicts {inner:g} of {dotted(rope.prefix)}", "keep one of the two")
    return inner


def _rope_scaling(group: _Fields) -> RopeScaling | None:
    kind = group.values.get("rope_type", group.values.get("type", "default"))
    if group.values.get("partial_rotary_factor") not in (None, 1):
        group.refuse((*group.prefix, "partial_rotary_factor"), "partial rotation is not supported", _HF_ONLY["partial_rotary_factor"][1])
    if kind == "default":
        return None
    if kind != "llama3":
        key = "rope_type" if "rope_type" in group.values else "type"
        group.refuse((*group.prefix, key), f"RoPE type {kind!r} is not supported", "supported: default, llama3")
        return None
    scaling = RopeScaling(
        factor=group.number("factor"),
        low_freq_factor=group.number("low_freq_factor"),
        high_freq_factor=group.number("high_freq_factor"),
        original_max_position_embeddings=group.whole("original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor and not group.is_wrong("high_freq_factor", "low_freq_factor"):
        group.refuse((*group.prefix, "high_freq_factor"), "not above low_freq_factor", "Llama 3.1 has 4 and 1")
    return scaling


def _from_meta(fields: _Fields, name: str) -> ModelConfig:
    """Meta's names and rules. Source: `ModelArgs` and `FeedForward` of the reference code (llama, llama-models)."""
    for key in fields.document.data:
        if key not in _META_FIELDS and not key.startswith("_"):
            fields.refuse((key,), "not a field of Meta's params.json that is supported", did_you_mean(key, _META_FIELDS))
    dim = fields.whole("dim")
    heads, kv_heads, head_dim = _heads(fields, "dim", "n_heads", "n_kv_heads")
    vocab_size = _META_VOCAB_SIZE if fields.values.get("vocab_size", -1) == -1 else fields.whole("vocab_size")
    rope_theta = fields.number("rope_theta", _META_ROPE_THETA)
    scaled = fields.flag("use_scaled_rope", False)
    factor = fields.number("rope_scaling_factor", _META_SCALING.factor)
    s = _META_SCALING
    return ModelConfig(
        name=name,
        hidden_size=dim,
        intermediate_size=_meta_intermediate_size(dim, fields.number("ffn_dim_multiplier", 1.0), fields.whole("multiple_of", 256)),
        num_hidden_layers=fields.whole("n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        max_position_embeddings=fields.whole("max_seq_len", _meta_max_positions(rope_theta, scaled)),
        rms_norm_eps=fields.number("norm_eps", 1e-5),
        rope_theta=rope_theta,
        tie_word_embeddings=False,  # Meta's checkpoints always hold `output.weight`
        rope_scaling=RopeScaling(factor, s.low_freq_factor, s.high_freq_factor, s.original_max_position_embeddings) if scaled else None,
    )


def _meta_intermediate_size(dim: int, multiplier: float, multiple_of: int) -> int:
    """Two thirds of 4 dim, times the multiplier, rounded up. Source: `FeedForward.__init__` of Meta's llama-models."""
    hidden_dim = int(multiplier * int(2 * 4 * dim / 3))
    return math.ceil(hidden_dim / multiple_of) * multiple_of


def _meta_max_positions(rope_theta: float, scaled: bool) -> int:
    """params.json does not state the context length; the releases do: 128 Ki tokens with scaled RoPE (Llama 3.1, arXiv 2407.21783,
    sec. 3.4.2), 8192 with Llama 3's base frequency of 500,000, and 4096 before (Llama 2, arXiv 2307.09288, tab. 1)."""
    if scaled:
        return 131072
    return 8192 if rope_theta >= 500000 else 4096


def _heads(fields: _Fields, width_key: str, heads_key: str, kv_key: str, default_kv_heads: int | None = None) -> tuple[int, int, int]:
    """Query heads, key/value heads (as many, unless said) and head_dim (their share of the width, unless said), checked together."""
    width, heads = fields.whole(width_key), fields.whole(heads_key)
    kv_heads = fields.whole(kv_key, default_kv_heads or heads, null=heads)
    if heads % kv_heads and not fields.is_wrong(heads_key, kv_key):
        message = f"{heads} query heads are not a multiple of {kv_heads} key/value heads"
        fields.refuse((kv_key,), message, "every key/value head serves equally many query heads")
    stated = fields.optional("head_dim", fields.whole)
    head_dim = stated or width // heads
    if fields.is_wrong("head_dim", width_key, heads_key):
        return heads, kv_heads, 1
    if stated is None and width % heads:
        fields.refuse((width_key,), f"{width} is not a multiple of {heads_key} ({heads})", "mend one of the two")
    elif head_dim % 2:
        key = "head_dim" if stated else width_key
        fields.refuse((key,), f"a head of {head_dim} elements cannot be rotated in pairs", "head_dim must be even")
    return heads, kv_heads, head_dim


class _Fields:
    """Takes fields out of one group of a document, noting every mistake; a field that is wrong gives 1, so that reading goes on."""

    def __init__(self, document: Document, prefix: FieldPath = (), values: Mapping[str, Any] | None = None) -> None:
        self.document = document
        self.prefix = prefix
        self.values = document.data if values is None else values
        self.problems: list[Problem] = []
        self.wrong: set[str] = set()

    def group(self, key: str) -> _Fields:
        """The fields of a nested group; none where it is absent or null."""
        values = self.values.get(key) or {}
        if not isinstance(values, dict):
            self._wrong(key, f"expected a group of fields, found {values!r}", "write {...} or null")
            values = {}
        group = _Fields(self.document, (*self.prefix, key), values)
        group.problems = self.problems
        return group

    def whole(self, key: str, default: int | None = None, null: int | None = None) -> int:
        """A positive whole number, of a size that a model may have."""
        expected = "a positive whole number"
        if type(self.values.get(key)) is int and self.values[key] > _LARGEST:
            expected += f" of at most {_LARGEST:,}"
        return self._take(key, default, null, lambda value: type(value) is int and 0 < value <= _LARGEST, expected, 1)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        return float(self._take(key, default, default, _is_positive, "a positive number", 1.0))

    def flag(self, key: str, default: bool) -> bool:
        return self._take(key, default, default, lambda value: type(value) is bool, "true or false", default)

    def optional(self, key: str, take: Callable[[str], T]) -> T | None:
        """None where the field is absent or null."""
        return None if self.values.get(key) is None else take(key)

    def is_wrong(self, *keys: str) -> bool:
        return not self.wrong.isdisjoint(keys)

    def refuse(self, path: FieldPath, message: str, cure: str) -> None:
        self.problems.append(self.problem(path, message, cure))

    def problem(self, path: FieldPath, message: str, cure: str) -> Problem:
        return Problem(message, cure, self.document.file, self.document.line_of(path), dotted(path))

    def _take(self, key: str, default: T | None, null: T | None, is_right: Callable[[Any], bool], expected: str, stand_in: T) -> T:
        value = self.values.get(key, default)
        if value is None and key in self.values:
            value = null
        if value is None:
            self._wrong(key, "missing field", f"write {expected}")
            return stand_in
        if not is_right(value):
            self._wrong(key, f"expected {expected}, found {value!r}", "")
            return stand_in
        right: T = value
        return right

    def _wrong(self, key: str, message: str, cure: str) -> None:
        # A field is asked for more than once where others depend on it; it is reported once.
        if key not in self.wrong:
            self.refuse((*self.prefix, key), message, cure)
        self.wrong.add(key)


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
