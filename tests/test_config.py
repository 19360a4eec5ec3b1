"""Truth defended: a configuration file means to us what it means to its publisher, and what we cannot compute is refused, not guessed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from functional.config import ModelConfig, RopeScaling
from functional.config_files import load_config
from functional.errors import ModelFileError, UnknownName
from functional.llama import layer_shapes
from workloads.library import load_model, model_names
from workloads.summary import summarise

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
META = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 100, "multiple_of": 32, "norm_eps": 1e-5, "rope_theta": 5e5}
ABSENT = object()


def write(folder: Path, base: dict[str, Any], name: str = "config.json", **changes: Any) -> Path:
    fields = {key: value for key, value in {**base, **changes}.items() if value is not ABSENT}
    file = folder / name
    file.write_text(json.dumps(fields, indent=1))
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ModelFileError) as raised:
        load_config(file)
    return str(raised.value).replace(str(file), file.name)


# Parameters as the publishers state them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("mistral-7b", 7_241_732_096),
        ("stories15m", 15_191_712),
    ],
)
def test_parameters_of_the_library(model: str, parameters: int) -> None:
    assert load_model(model).parameters == parameters


def test_untied_3b_counts_the_embedding_twice(tmp_path: Path) -> None:
    library = json.loads((Path(sys.modules["workloads.library"].__file__ or "").parent / "models/llama-3.2-3b.json").read_text())
    assert load_config(write(tmp_path, library, tie_word_embeddings=False)).parameters == 3_606_752_256


def test_one_layer_of_3b() -> None:
    rows = {row.name: row for row in summarise(load_model("llama-3.2-3b")).rows}
    part = {name.removeprefix("layers.0."): row.parameters for name, row in rows.items()}
    assert sum(part[f"self_attn.{name}_proj"] for name in "qkvo") == 25_165_824
    assert sum(part[f"mlp.{name}_proj"] for name in ("gate", "up", "down")) == 75_497_472
    assert part["input_layernorm"] == part["post_attention_layernorm"] == part["norm"] == 3_072


# The layer table -------------------------------------------------------------------------------------------------------------------------


def test_summary_by_hand(tmp_path: Path) -> None:
    """64 wide, 8 heads of 8, 2 key/value heads, batch 3, 5 tokens: every number below is counted by hand."""
    summary = summarise(load_config(write(tmp_path, LLAMA)), batch=3, tokens=5)
    rows = {row.name: row for row in summary.rows}
    query, key = rows["layers.0.self_attn.q_proj"], rows["layers.0.self_attn.k_proj"]
    assert (query.input_shape, query.output_shape, query.parameters, query.macs) == ((3, 5, 64), (3, 5, 64), 4096, 15 * 4096)
    assert (key.output_shape, key.parameters, key.macs, key.repeats) == ((3, 5, 16), 1024, 15 * 1024, 2)
    assert rows["lm_head"].tied_to == "embed_tokens"
    assert (rows["lm_head"].parameters, rows["lm_head"].macs) == (0, 15 * 64 * 100)
    assert (rows["embed_tokens"].parameters, rows["embed_tokens"].macs) == (6400, 0)
    layer = 2 * 4096 + 2 * 1024 + 3 * 64 * 160
    assert summary.module_macs == 15 * (2 * layer + 6400)
    # 2 layers x 3 prompts x 8 heads x (1 + 2 + 3 + 4 + 5) pairs x 8 elements, for scores and for values
    assert summary.attention_macs == 2 * 3 * 8 * 15 * 8 * 2
    assert len(summary.rows) == 1 + 9 + 2


@pytest.mark.parametrize("model", model_names())
def test_summary_adds_up_to_the_parameters(model: str) -> None:
    config = load_model(model)
    summary = summarise(config)
    assert summary.parameters == config.parameters
    assert sum(row.repeats for row in summary.rows) == 3 + config.num_hidden_layers * len(layer_shapes(config))


# What is read ----------------------------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, LLAMA, num_key_value_heads=ABSENT, tie_word_embeddings=ABSENT, rms_norm_eps=ABSENT))
    assert (config.head_dim, config.num_key_value_heads, config.tie_word_embeddings) == (8, 8, False)
    assert (config.max_position_embeddings, config.rms_norm_eps, config.rope_theta) == (2048, 1e-6, 10000.0)
    assert config.rope_scaling is None
    assert config.sliding_window is None


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        (model_type, key, value)
        for model_type in ("llama", "mistral")
        for key in ("num_key_value_heads", "head_dim", "sliding_window")
        for value in (ABSENT, None)
        if (model_type, key, value) != ("mistral", "num_key_value_heads", None)  # transformers 5 refuses it
    ],
)
def test_absent_and_null_mean_what_they_mean_to_transformers(tmp_path: Path, model_type: str, key: str, value: object) -> None:
    from transformers import LlamaConfig, MistralConfig

    fields = {k: v for k, v in LLAMA.items() if k not in ("architectures", "model_type", "num_key_value_heads", "torch_dtype")}
    if value is None:
        fields[key] = None
    theirs = (LlamaConfig if model_type == "llama" else MistralConfig)(**fields)
    ours = load_config(write(tmp_path, fields, model_type=model_type))
    assert ours.num_key_value_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_head_dim_may_be_stated(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, LLAMA, head_dim=16)).head_dim == 16


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 500000, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
        {"rope_theta": 500000.0, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
    ],
)
def test_rope_of_old_and_new_transformers(tmp_path: Path, rope: dict[str, Any]) -> None:
    config = load_config(write(tmp_path, LLAMA, **rope))
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32)


@pytest.mark.parametrize("rope", [{"rope_scaling": {"type": "default"}}, {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}])
def test_default_rope(tmp_path: Path, rope: dict[str, Any]) -> None:
    assert load_config(write(tmp_path, LLAMA, **rope)).rope_scaling is None


def test_names(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    write(folder, LLAMA)
    assert load_config(folder).name == "my-model"
    assert load_config(write(tmp_path, LLAMA, "tiny-1.5b.json")).name == "tiny-1.5b"
    assert load_config(folder, "other").name == "other"


def test_a_directory_with_params_json(tmp_path: Path) -> None:
    write(tmp_path, META, "params.json")
    assert load_config(tmp_path).hidden_size == 64


# Meta's params.json says the same as Hugging Face's config.json ---------------------------------------------------------------------------

META_LLAMA3 = {"norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256}
WIDE = {"ffn_dim_multiplier": 1.3}
RELEASED = {
    "llama-3.2-1b": {
        "dim": 2048,
        "n_layers": 16,
        "n_heads": 32,
        "n_kv_heads": 8,
        "ffn_dim_multiplier": 1.5,
        "multiple_of": 256,
        **META_LLAMA3,
    },
    "llama-3.2-3b": {
        "dim": 3072,
        "n_layers": 28,
        "n_heads": 24,
        "n_kv_heads": 8,
        "ffn_dim_multiplier": 1.0,
        "multiple_of": 256,
        **META_LLAMA3,
    },
    "llama-3.1-8b": {
        "dim": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 8,
        "ffn_dim_multiplier": 1.3,
        **META_LLAMA3,
        "multiple_of": 1024,
    },
    "llama-3.1-70b": {
        "dim": 8192,
        "n_layers": 80,
        "n_heads": 64,
        "n_kv_heads": 8,
        "ffn_dim_multiplier": 1.3,
        **META_LLAMA3,
        "multiple_of": 4096,
    },
    "llama-2-7b": {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1},
}


@pytest.mark.parametrize("model", RELEASED)
def test_meta_and_hugging_face_agree(tmp_path: Path, model: str) -> None:
    meta, hub = load_config(write(tmp_path, RELEASED[model], "params.json")), load_model(model)

    def dimensions(config: ModelConfig) -> tuple[Any, ...]:
        sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim, config.vocab_size)
        heads = (config.num_attention_heads, config.num_key_value_heads)
        return (*sizes, *heads, config.max_position_embeddings, config.rms_norm_eps, config.rope_theta)

    assert dimensions(meta) == dimensions(hub)
    assert (meta.rope_scaling is None) == (hub.rope_scaling is None)
    assert not meta.tie_word_embeddings


def test_meta_rope_scaling(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, META, "params.json", use_scaled_rope=True)).rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)
    stated = load_config(write(tmp_path, META, "params.json", use_scaled_rope=True, rope_scaling_factor=32))
    assert stated.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("changes", "positions"),
    [({}, 8192), ({"rope_theta": ABSENT}, 4096), ({"use_scaled_rope": True}, 131072), ({"max_seq_len": 777}, 777)],
)
def test_meta_context_length(tmp_path: Path, changes: dict[str, Any], positions: int) -> None:
    assert load_config(write(tmp_path, META, "params.json", **changes)).max_position_embeddings == positions


# Bad input -------------------------------------------------------------------------------------------------------------------------------

UNSUPPORTED = "is not supported; supported: LlamaForCausalLM, MistralForCausalLM"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ABSENT}, "config.json: hidden_size: missing field; write a positive whole number"),
        ({"num_attention_heads": ABSENT}, "config.json: num_attention_heads: missing field; write a positive whole number"),
        ({"vocab_size": None}, "config.json:11: vocab_size: missing field; write a positive whole number"),
        ({"hidden_size": "64"}, "config.json:6: hidden_size: expected a positive whole number, found '64'"),
        ({"hidden_size": 64.0}, "config.json:6: hidden_size: expected a positive whole number, found 64.0"),
        ({"num_hidden_layers": True}, "config.json:8: num_hidden_layers: expected a positive whole number, found True"),
        ({"num_hidden_layers": 0}, "config.json:8: num_hidden_layers: expected a positive whole number, found 0"),
        (
            {"hidden_size": 64 * 10**12},
            "config.json:6: hidden_size: expected a positive whole number of at most 100,000,000, found 64000000000000",
        ),
        ({"vocab_size": -1}, "config.json:11: vocab_size: expected a positive whole number, found -1"),
        ({"rms_norm_eps": 0}, "config.json:12: rms_norm_eps: expected a positive number, found 0"),
        ({"tie_word_embeddings": 1}, "config.json:13: tie_word_embeddings: expected true or false, found 1"),
        (
            {"num_key_value_heads": 3},
            "config.json:10: num_key_value_heads: 8 query heads are not a multiple of 3 key/value heads; "
            "every key/value head serves equally many query heads",
        ),
        ({"head_dim": 7}, "config.json:16: head_dim: a head of 7 elements cannot be rotated in pairs; head_dim must be even"),
        ({"hidden_size": 72}, "config.json:6: hidden_size: a head of 9 elements cannot be rotated in pairs; head_dim must be even"),
        ({"hidden_size": 68}, "config.json:6: hidden_size: 68 is not a multiple of num_attention_heads (8); mend one of the two"),
        ({"attention_bias": True}, "config.json:16: attention_bias: True is not supported; projections with a bias are not modelled"),
        ({"mlp_bias": True}, "config.json:16: mlp_bias: True is not supported; projections with a bias are not modelled"),
        ({"hidden_act": "gelu"}, "config.json:16: hidden_act: 'gelu' is not supported; only SwiGLU with silu is modelled"),
        ({"partial_rotary_factor": 0.5}, "config.json:16: partial_rotary_factor: 0.5 is not supported; every element of a head is rotated"),
        (
            {"sliding_window": 16},
            'config.json:16: sliding_window: a model of type \'llama\' has no sliding window; write null, or "model_type": "mistral"',
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"]},
            f"config.json:2: architectures: architecture 'Qwen2ForCausalLM' {UNSUPPORTED}",
        ),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architecture 'LlamaForSequenceClassification' is not supported"),
        (
            {"architectures": ABSENT, "model_type": "mixtral"},
            f"config.json:2: model_type: architecture 'mixtral' {UNSUPPORTED}",
        ),
        ({"architectures": ABSENT, "model_type": "gemma3"}, "architecture 'gemma3' is not supported"),
        (
            {"architectures": ABSENT, "model_type": ABSENT},
            'config.json: model_type: missing field; write "model_type": "llama" or "mistral"',
        ),
        ({"model_type": "mistral"}, "'mistral' contradicts architectures ['LlamaForCausalLM']; make the two agree"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "config.json:17: rope_scaling.rope_type: RoPE type 'yarn' is not supported; supported: default, llama3",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type: RoPE type 'linear' is not supported"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type: RoPE type 'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.high_freq_factor: missing field; write a positive number"),
        ({"rope_scaling": "llama3"}, "config.json:16: rope_scaling: expected a group of fields, found 'llama3'; write {...} or null"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
            "rope_scaling.high_freq_factor: not above low_freq_factor; Llama 3.1 has 4 and 1",
        ),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "config.json:16: rope_theta: 10000 contradicts 500000 of rope_parameters; keep one of the two",
        ),
        (
            {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "default"}},
            "rope_scaling: given besides rope_parameters, which replaces it; keep one of the two",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor: partial rotation is not supported"),
        ({"quantization_config": {"bits": 4}}, "give the configuration of the unquantised model; formats belong to the scenario"),
    ],
)
def test_what_hugging_face_files_are_refused_for(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write(tmp_path, {key: value for key, value in LLAMA.items() if changes.get(key) is not ABSENT}, **changes)
    assert message in refusal(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": ABSENT}, "params.json: n_heads: missing field; write a positive whole number"),
        ({"n_kv_heads": 5}, "params.json:5: n_kv_heads: 8 query heads are not a multiple of 5 key/value heads"),
        ({"dim": 60}, "params.json:2: dim: 60 is not a multiple of n_heads (8); mend one of the two"),
        ({"n_layer": 3}, "params.json:10: n_layer: not a field of Meta's params.json that is supported; did you mean 'n_layers'?"),
        ({"hidden_dim": 128}, "hidden_dim: not a field of Meta's params.json that is supported"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args: not a field of Meta's params.json that is supported"),
        ({"ffn_dim_multiplier": "1.5"}, "ffn_dim_multiplier: expected a positive number, found '1.5'"),
        ({"use_scaled_rope": "yes"}, "use_scaled_rope: expected true or false, found 'yes'"),
        ({"vocab_size": 0}, "params.json:6: vocab_size: expected a positive whole number, found 0"),
    ],
)
def test_what_meta_files_are_refused_for(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(write(tmp_path, META, "params.json", **changes))


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, LLAMA, tie_word_embeddings="no", hidden_size=0, num_hidden_layers=-2))
    assert [line.split(": ")[1] for line in text.splitlines()] == ["hidden_size", "num_hidden_layers", "tie_word_embeddings"]


def test_a_mistake_is_reported_once(tmp_path: Path) -> None:
    """Heads are needed for three checks; a wrong number of them must not be blamed on the fields that depend on it."""
    assert len(refusal(write(tmp_path, LLAMA, num_attention_heads="eight")).splitlines()) == 1
    assert len(refusal(write(tmp_path, LLAMA, num_attention_heads=ABSENT)).splitlines()) == 1


def test_neither_kind_of_file(tmp_path: Path) -> None:
    assert "neither Hugging Face's config.json (no 'model_type') nor Meta's params.json (no 'dim')" in refusal(write(tmp_path, {"a": 1}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"holds neither config\.json nor params\.json; name the file itself"):
        load_config(tmp_path / "empty")
    with pytest.raises(ModelFileError, match="no such file"):
        load_config(tmp_path / "absent.json")


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n"hidden_size": 64,\n"hidden_size": 65\n}')
    assert "given twice" in refusal(file)
    file.write_text('{\n"hidden_size": 64\n"vocab_size": 65\n}')
    assert "config.json:3: not valid JSON" in refusal(file)


# The library -----------------------------------------------------------------------------------------------------------------------------


def test_unknown_model() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'lama-3\.2-1b'; did you mean 'llama-3\.2-1b'\?"):
        load_model("lama-3.2-1b")


def test_load_model_takes_a_path(tmp_path: Path) -> None:
    assert load_model(write(tmp_path, LLAMA)).vocab_size == 100
    assert load_model(str(tmp_path)).vocab_size == 100
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "absent.json")


def test_every_model_says_where_it_is_from() -> None:
    folder = Path(sys.modules["workloads.library"].__file__ or "").parent / "models"
    assert all(json.loads(file.read_text())["_source"] for file in folder.glob("*.json"))


def test_importing_the_library_loads_neither_torch_nor_pydantic() -> None:
    code = "import sys, workloads.library, workloads.summary; assert not {'torch', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_a_model_is_quick() -> None:
    """Below 2 ms on an idle core; the best of several, since a test machine is not idle."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        load_model("llama-3.1-70b")
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3
