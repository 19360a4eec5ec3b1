"""`limits` names the last batch and context for which `predict` says that they fit, and the batch at which a decode step turns."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from functional.errors import BadInput
from hwmodels import load_chip, with_values
from sim import predict
from sim.explore.limits import FormatLimits, limits
from workloads.library import load_model


def fits(model: str, chip: str, row: FormatLimits, batch: int, context: int) -> bool:
    step = predict(model, chip, phase="decode", batch=batch, context=context, weights=row.weights, kv=row.kv, engine="roofline")
    return step.memory.fits


@pytest.mark.parametrize(
    ("model", "chip", "context"),
    [
        ("llama-3.2-3b", "edge-npu", 4096),
        ("llama-3.1-70b", "h100-sxm5-80gb", 2048),
        ("mistral-7b", "tpu-v4i", 512),
        ("stories15m", "edge-npu", 100),
    ],
)
def test_the_last_that_fits_fits_and_the_next_does_not(model: str, chip: str, context: int) -> None:
    longest = load_model(model).max_position_embeddings - 1
    for row in limits(model, chip, batch=2, context=context).rows[::2]:
        if row.max_batch:
            assert fits(model, chip, row, row.max_batch, context)
        assert not fits(model, chip, row, row.max_batch + 1, context)
        if row.max_context:
            assert fits(model, chip, row, 2, row.max_context)
        assert (row.context_bound_by == "model") == (row.max_context == longest)
        if row.context_bound_by == "memory":
            assert not fits(model, chip, row, 2, row.max_context + 1)


def test_decode_turns_where_half_of_it_is_bound_by_the_units() -> None:
    def units_share(row: FormatLimits, batch: int) -> float:
        step = predict(
            "llama-3.2-1b", "edge-npu", phase="decode", batch=batch, context=64, weights=row.weights, kv=row.kv, engine="roofline"
        )
        return step.bound_shares.get("matrix", 0.0) + step.bound_shares.get("vector", 0.0)

    turning = 0
    units = set()
    for row in limits("llama-3.2-1b", "edge-npu", context=64).rows:
        if row.compute_bound_batch is None:
            assert units_share(row, 4096) < 0.5
            continue
        assert units_share(row, row.compute_bound_batch) >= 0.5
        assert row.compute_bound_fits == (row.compute_bound_batch <= row.max_batch)
        asked = {"batch": row.compute_bound_batch, "context": 64, "weights": row.weights, "kv": row.kv}
        step = predict("llama-3.2-1b", "edge-npu", phase="decode", engine="roofline", **asked)
        shares = {name: step.bound_shares.get(name, 0.0) for name in ("matrix", "vector")}
        assert row.compute_bound_by == max(shares, key=shares.__getitem__)
        units.add(row.compute_bound_by)
        if row.compute_bound_batch > 1:
            turning += 1
            assert units_share(row, row.compute_bound_batch - 1) < 0.5
    assert turning
    assert units == {"matrix", "vector"}  # where weights and activations differ, conversions bind first


def test_hand_value_of_the_longest_context() -> None:
    """One layer, one KV head of 4 elements in int8: 8 bytes a position. Memory takes 1000 positions, the step's own included."""
    config = replace(
        load_model("stories15m"),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=16,
        max_position_embeddings=10**6,
    )
    chip = with_values(load_chip("edge-npu"), {"memory.sram.capacity": 8192})
    short = predict(config, chip, phase="decode", context=1, weights="int8", kv="int8", engine="roofline").memory
    chip = with_values(chip, {"memory.dram.capacity": short.weights_bytes + short.activations_bytes + 8 * 1000})
    (row,) = limits(config, chip, weights="int8", kv="int8", context=1).rows
    assert row.max_context == 999
    assert row.weights_bytes == short.weights_bytes


def test_a_model_that_never_fits_has_no_limits_but_zero() -> None:
    (row,) = limits("llama-3.1-70b", "edge-npu", weights="int8", kv="int8").rows
    assert (row.max_batch, row.max_context, row.compute_bound_fits) == (0, 0, False)


def test_only_formats_that_the_chip_multiplies() -> None:
    rows = limits("stories15m", "edge-npu", context=64).rows
    assert {row.weights for row in rows} == {"bf16", "int8", "int4"}
    assert {row.weights for row in limits("stories15m", "edge-npu", context=64, weights="int4").rows} == {"int4"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"context": 10**7}, "--context"),
        ({"batch": 0}, "--batch"),
        ({"kv": "int9"}, "unknown number format 'int9'"),
        ({"weights": "fp16", "activations": "fp16", "kv": "fp16"}, "multiplies no such formats"),
    ],
)
def test_bad_input_is_told(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        limits("llama-3.2-1b", "edge-npu", **arguments)  # type: ignore[arg-type]


def test_command() -> None:
    command = [sys.executable, "-c", "from sim.cli import main; main()", "limits", "llama-3.2-1b", "--chip", "edge-npu"]
    assert "largest batch at context 512" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout)
    assert found["rows"][0].keys() >= {"weights", "kv", "max_batch", "max_context", "compute_bound_batch"}
