"""Truth defended: the roofline charges what the hardware manual would, computed by hand for every kind of work on round numbers.

The chip: 1e11 MAC/s, 1e10 lane cycles per second, DRAM 1e11 B/s, SRAM 1e12 B/s; no intermediate stays on it unless a test says so.
The model: D = 100, F = 200, V = 1000, 10 query heads, 5 key/value heads, 10 wide. bf16 is 2 bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from functional.config import ModelConfig
from hwmodels import Chip, with_values
from sim import Timeline, predict, predict_graph, trace_model
from tests.chips import round_chip, round_model

US = 1e-6


def step(chip: Chip | None = None, model: ModelConfig | None = None, **asked: Any) -> Timeline:
    """One op per group, so that each row is one roofline."""
    return predict(model or round_model(), chip or round_chip(), **{"fused": False, "engine": "roofline", **asked})


def prefill(**asked: Any) -> Timeline:
    return step(phase="prefill", prompt=100, **asked)


def decode(**asked: Any) -> Timeline:
    """One token after 999 others: 1000 keys."""
    return step(phase="decode", context=999, **asked)


def row(timeline: Timeline, name: str) -> dict[str, Any]:
    name = name if name in ("embed_tokens", "rotary_emb", "norm", "lm_head") else f"layers.0.{name}"
    return next(figures for op, figures in timeline.rows() if op.name == name)


def says(timeline: Timeline, name: str, microseconds: float, bound_by: str) -> None:
    figures = row(timeline, name)
    assert figures["latency_s"] == pytest.approx(microseconds * US, rel=1e-12)
    assert figures["bound_by"] == bound_by


# Contractions ----------------------------------------------------------------------------------------------------------------------------


def test_a_linear_of_a_prefill_is_bound_by_its_macs() -> None:
    # 100 x 100 x 100 = 1e6 MAC at 1e11 MAC/s: 10 us. Its 20 kB + 20 kB + 20 kB take 0.6 us, and do not add to it.
    says(prefill(), "self_attn.q_proj", 10, "matrix")


def test_a_linear_of_a_decode_step_is_bound_by_its_weights() -> None:
    # 1e4 MAC: 0.1 us. x 200 B, weights 100 x 100 x 2 B = 20000 B, result 200 B: 20400 B at 1e11 B/s: 0.204 us.
    says(decode(), "self_attn.q_proj", 0.204, "dram")


def test_flop_is_two_per_mac() -> None:
    figures = row(prefill(), "self_attn.q_proj")
    assert figures["useful_macs"] == figures["issued_macs"] == 1_000_000
    assert figures["flops"] == 2_000_000


def test_batch_is_rows_of_one_product_and_shares_the_weights() -> None:
    # 8 rows: 8e4 MAC, 0.8 us; 1600 + 20000 + 1600 B: 0.232 us.
    says(decode(batch=8), "self_attn.q_proj", 0.8, "matrix")


def test_grouped_heads_have_smaller_projections() -> None:
    # k: 100 x 50 x 100 = 5e5 MAC.
    says(prefill(), "self_attn.k_proj", 5, "matrix")


def test_the_causal_mask_halves_the_scores_of_a_prefill() -> None:
    # 100 x 101 / 2 = 5050 pairs, times 10 heads, times 10: 505000 MAC, 5.05 us.
    # q 20 kB + keys of 5 heads 5 x 100 x 10 x 2 B = 10 kB + scores 10 x 100 x 100 x 2 B = 200 kB: 2.3 us.
    timeline = prefill()
    says(timeline, "self_attn.scores", 5.05, "matrix")
    assert row(timeline, "self_attn.scores")["dram_bytes"] == 230_000


def test_the_causal_mask_halves_the_weighted_sum_of_a_prefill() -> None:
    timeline = prefill()
    says(timeline, "self_attn.context", 5.05, "matrix")
    assert row(timeline, "self_attn.context")["dram_bytes"] == 230_000  # weights 200 kB, values 10 kB, result 20 kB


def test_decode_reads_each_key_value_head_once_over_the_whole_context() -> None:
    # 10 heads x 1000 keys x 10: 1e5 MAC, 1 us.
    # q 200 B + keys of 5 heads 5 x 1000 x 10 x 2 B = 100000 B + scores 10 x 1000 x 2 B = 20000 B: 120200 B, 1.202 us.
    says(decode(), "self_attn.scores", 1.202, "dram")
    says(decode(), "self_attn.context", 1.202, "dram")


def test_a_window_bounds_what_decode_reads() -> None:
    # 100 of the 1000 keys: 1e4 MAC, 0.1 us; 200 + 5 x 100 x 10 x 2 + 10 x 100 x 2 = 12200 B: 0.122 us.
    says(decode(model=round_model(window=100)), "self_attn.scores", 0.122, "dram")


def test_sequences_of_a_batch_have_a_cache_each() -> None:
    # 3 x 120200 B = 360600 B.
    says(decode(batch=3), "self_attn.scores", 3.606, "dram")


def test_an_integer_format_has_its_own_rate_and_its_own_bytes() -> None:
    # int8 throughout: 1e6 MAC at 2e11 MAC/s: 5 us. Decode: 100 + 10000 + 100 B, and an fp32 scale for each of 100 rows: 0.106 us.
    int8 = {"weights": "int8", "activations": "int8", "kv": "int8"}
    says(prefill(**int8), "self_attn.q_proj", 5, "matrix")
    says(decode(**int8), "self_attn.q_proj", 0.106, "dram")


def test_narrow_weights_are_brought_to_the_format_of_the_activations() -> None:
    # int8 weights, bf16 activations: bf16 products. Decode: 200 + 10400 + 200 B = 10800 B, 0.108 us; but 1e4 weights, each converted and
    # multiplied by its scale: 2e4 lane cycles, 2 us.
    says(prefill(weights="int8"), "self_attn.q_proj", 10, "matrix")
    timeline = decode(weights="int8")
    says(timeline, "self_attn.q_proj", 2, "vector")
    assert row(timeline, "self_attn.q_proj")["dram_bytes"] == 10_800


def test_four_bits_are_half_a_byte() -> None:
    # 1e4 weights in 5000 B, an fp32 scale for each of 100 rows, and 200 B in and out.
    assert row(decode(weights="int4"), "self_attn.q_proj")["dram_bytes"] == 5_800


# Vector work -----------------------------------------------------------------------------------------------------------------------------


def test_an_addition_runs_on_the_lanes() -> None:
    # 10000 elements, each 2 converted, added, converted back: 4e4 lane cycles at 1e10 per second: 4 us; 60 kB take 0.6 us.
    says(prefill(), "attention_residual", 4, "vector")


def test_with_many_lanes_an_addition_is_bound_by_memory() -> None:
    says(prefill(chip=with_values(round_chip(), {"vector.lanes": 1000})), "attention_residual", 0.6, "dram")


def test_silu_costs_its_exponential_and_its_reciprocal() -> None:
    # 20000 elements x (2 mul + 4 exp + 1 add + 4 reciprocal + 2 convert) = 260000 lane cycles.
    says(prefill(), "mlp.act_fn", 26, "vector")


def test_a_norm_costs_terms_per_element_and_per_row() -> None:
    # 100 rows of 100. mul 3 x 1e4 + 100, add 1e4 + 100, rsqrt 4 x 100, convert 1e4 + 100 + 1e4: 60700 lane cycles.
    says(prefill(), "input_layernorm", 6.07, "vector")


def test_rotary_embedding_rotates_queries_and_keys() -> None:
    # q: 10000 elements x (2 mul + 1 add + 2 convert) = 5e4; k: half of it.
    timeline = prefill()
    says(timeline, "self_attn.q_rope", 5, "vector")
    says(timeline, "self_attn.k_rope", 2.5, "vector")


def test_softmax_works_on_unmasked_scores_only() -> None:
    # 10 heads x 5050 pairs = 50500 scores; 1000 rows. max: 50500 + (50500 + 1000) converted. exp: 50500 x (1 + 1 + 4 + 2) + 1000.
    # normalise: 50500 x (1 + 1 + 2) + 1000 x 4.
    timeline = prefill()
    says(timeline, "self_attn.softmax_max", 10.2, "vector")
    says(timeline, "self_attn.softmax_exp", 40.5, "vector")
    says(timeline, "self_attn.softmax_normalize", 20.6, "vector")


# Moves -----------------------------------------------------------------------------------------------------------------------------------


def test_the_embedding_gathers_rows() -> None:
    # ids 100 x 4 B, rows 100 x 100 x 2 B, and the rows again as the result: 40400 B.
    says(prefill(), "embed_tokens", 0.404, "dram")


def test_new_keys_are_read_and_written_to_the_cache_once() -> None:
    # 5 heads x 100 x 10 x 2 B = 10 kB in, 10 kB out. In a decode step 100 B and 100 B, whatever is in the cache.
    says(prefill(), "self_attn.k_cache", 0.2, "dram")
    says(decode(), "self_attn.v_cache", 0.002, "dram")


# lm_head ---------------------------------------------------------------------------------------------------------------------------------


def test_lm_head_runs_on_the_last_token() -> None:
    # 1e5 MAC: 1 us; 200 + 1000 x 100 x 2 + 1000 x 2 = 202200 B: 2.022 us.
    says(prefill(), "lm_head", 2.022, "dram")


def test_unless_all_logits_are_asked_for() -> None:
    # 100 x 1e5 MAC.
    says(prefill(logits="all"), "lm_head", 100, "matrix")


# Groups and totals -----------------------------------------------------------------------------------------------------------------------


def test_units_of_a_group_overlap_and_its_ops_share_its_time() -> None:
    # q, k, v with rotation and cache: 2e6 MAC 20 us; rotation 7.5 us; x 20 kB + weights 40 kB + angles 2 x 100 x 5 x 4 B + q 20 kB + keys
    # and values 20 kB = 104 kB 1.04 us. Not 28.5 us, not 20 + 7.5 us.
    timeline = prefill(fused=True)
    names = ("q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "k_cache", "v_cache")
    rows = [row(timeline, f"self_attn.{name}") for name in names]
    assert len({figures["group"] for figures in rows}) == 1
    assert sum(figures["latency_s"] for figures in rows) == pytest.approx(20 * US, rel=1e-12)
    assert sum(figures["dram_bytes"] for figures in rows) == 104_000
    # Alone: 10, 5, 5, 5, 2.5 us, and 10 kB out 0.1 us twice (what comes in stays within the group).
    assert rows[0]["latency_s"] == pytest.approx(20 * US * 10 / 27.7, rel=1e-12)


def test_attention_runs_as_one_and_keeps_its_scores() -> None:
    # 2 x 505000 MAC 10.1 us; softmax 10.2 + 40.5 + 20.6 us = 71.3 us on the lanes; q, keys, values, result 60 kB.
    timeline = prefill(fused=True)
    rows = [row(timeline, f"self_attn.{name}") for name in ("scores", "softmax_max", "softmax_exp", "softmax_normalize", "context")]
    assert sum(figures["latency_s"] for figures in rows) == pytest.approx(71.3 * US, rel=1e-12)
    assert sum(figures["dram_bytes"] for figures in rows) == 60_000


def test_a_whole_decode_step_adds_up() -> None:
    # In us. embed_tokens 4 + 200 + 200 B: 0.00404. rotary_emb: 1 position, 5 angles, 5 mul + 10 cos and sin x 4 + 1 convert: 0.0046.
    # Four times, once per layer:
    #   input_layernorm 301 mul + 101 add + 4 + 300 convert = 706: 0.0706
    #   q, k, v: x 200 + weights 40000 + angles 40 + q 200 + cache 200 B = 40640 B: 0.4064
    #   attention: softmax of 10000 scores: 20010 + 80010 + 40040 = 140060 lane cycles: 14.006
    #   o_proj and residual: 200 + 20000 + 200 + 200 B: 0.206
    #   post_attention_layernorm: 0.0706
    #   gate, up: 200 + 80000 + 400 B = 80600 B 0.806; SiLU 200 x 13 + product 200 x 4 = 3400 lane cycles 0.34
    #   down and residual: 400 + 40000 + 200 + 200 B: 0.408
    # norm 0.0706, lm_head 2.022.
    layer = 0.0706 + 0.4064 + 14.006 + 0.206 + 0.0706 + 0.806 + 0.408
    timeline = decode(model=round_model(layers=4), fused=True)
    assert timeline.total_s == pytest.approx((0.00404 + 0.0046 + 4 * layer + 0.0706 + 2.022) * US, rel=1e-12)
    by_name = {component.name: component.latency_s for component in timeline.components}
    assert list(by_name) == ["embed_tokens", "rotary_emb", "layers.0", "layers.1", "layers.2", "layers.3", "norm", "lm_head"]
    assert by_name["layers.2"] == pytest.approx(layer * US, rel=1e-12)
    assert timeline.tokens_per_s == pytest.approx(1 / timeline.total_s)


def test_tokens_per_second_count_the_whole_batch_of_prompts() -> None:
    timeline = prefill(batch=3)
    assert timeline.tokens_per_s == pytest.approx(300 / timeline.total_s)


# Levels ----------------------------------------------------------------------------------------------------------------------------------


def test_an_intermediate_that_fits_stays_on_the_chip() -> None:
    # Half of 1 MB is free for intermediates: the addition reads and writes SRAM only, 60 kB at 1e12 B/s; its lanes still take 4 us.
    timeline = prefill(chip=round_chip(sram="1 MB", resident_share=0.5))
    assert row(timeline, "attention_residual")["dram_bytes"] == 0
    says(timeline, "attention_residual", 4, "vector")
    says(prefill(chip=with_values(round_chip("1 MB", resident_share=0.5), {"vector.lanes": 10_000})), "attention_residual", 0.06, "sram")


def test_weights_and_cache_never_stay() -> None:
    timeline = decode(chip=round_chip(sram="1 GB", resident_share=0.5))
    assert row(timeline, "self_attn.q_proj")["dram_bytes"] == 20_000
    assert row(timeline, "self_attn.scores")["dram_bytes"] == 99_900  # 999 tokens; the new one is still there


def test_reads_and_writes_of_separate_ports_overlap() -> None:
    # The addition reads 40 kB and writes 20 kB: at 1e11 B/s and 2e10 B/s 0.4 us and 1 us.
    chip = with_values(round_chip(), {"vector.lanes": 1000, "memory.dram.bandwidth.write": 2e10})
    says(prefill(chip=chip), "attention_residual", 1, "dram")


def test_a_level_per_core_has_the_bandwidth_of_all_cores() -> None:
    chip = round_chip("1 MB", resident_share=0.5)
    dram, sram = chip.memory
    fast = with_values(replace(chip, memory=(dram, replace(sram, per="core"))), {"cores": 4, "vector.lanes": 10_000})
    says(prefill(chip=fast), "attention_residual", 0.015, "sram")


def test_bandwidth_in_bytes_per_cycle_follows_the_clock() -> None:
    chip = round_chip()
    dram, sram = chip.memory
    per_cycle = replace(dram, bandwidth=replace(dram.bandwidth, read=100.0, write=100.0, per_cycle=True))
    fast = with_values(replace(chip, memory=(per_cycle, sram)), {"clock": 2e9})
    says(decode(chip=fast), "self_attn.q_proj", 0.102, "dram")


def test_a_gigabyte_is_not_a_gibibyte() -> None:
    assert decode(chip=round_chip(dram="10 GB")).memory.capacity_bytes == 10_000_000_000
    assert decode(chip=round_chip(dram="10 GiB")).memory.capacity_bytes == 10_737_418_240


# Memory and floor ------------------------------------------------------------------------------------------------------------------------

# Per layer 100 x (100 + 50 + 50 + 100) + 3 x 100 x 200 + 2 x 100 = 90200 weights; a table has 100000, the last norm 100.


def test_tied_embeddings_are_stored_once() -> None:
    assert decode(model=round_model(tied=True)).memory.weights_bytes == 2 * 190_300
    assert decode(model=round_model(tied=False)).memory.weights_bytes == 2 * 290_300


def test_the_cache_holds_keys_and_values_of_every_layer_and_the_new_token() -> None:
    # 2 layers x 2 x 5 heads x 1000 tokens x 10 x 2 B.
    assert decode(model=round_model(layers=2)).memory.kv_cache_bytes == 400_000


def test_the_floor_of_a_decode_step_is_its_compulsory_bytes() -> None:
    # Weights 90200 + 100 + lm_head 100000, twice 2 B: 380600 B, of an embedding table of its own one row, 200 B; cache read 999 tokens,
    # 199800 B, written 200 B; id 4 B; logits 2000 B.
    assert decode(model=round_model(tied=True)).floor_s == pytest.approx(582_604 / 1e11, rel=1e-12)
    assert decode(model=round_model(tied=False)).floor_s == pytest.approx(582_804 / 1e11, rel=1e-12)


def test_the_floor_of_a_prefill_is_its_products() -> None:
    # Linears of the layer 90000 MAC x 100 tokens, attention 2 x 505000, lm_head 100000 once.
    assert prefill().floor_s == pytest.approx(10_110_000 / 1e11, rel=1e-12)


def test_useful_macs_of_a_published_model() -> None:
    # Llama 3.2 1B, decode after 512 tokens: every weight of a linear once, 973078528 in the layers (16 x 60817408) and 128256 x 2048 in
    # lm_head; scores and values 16 layers x 2 x 32 heads x 64 x 513.
    graph = trace_model("llama-3.2-1b", phase="decode", context=512)
    timeline = predict_graph(graph, "a100-sxm4-80gb", "roofline")
    assert sum(figures["useful_macs"] for _, figures in timeline.rows()) == 973_078_528 + 262_668_288 + 33_619_968
