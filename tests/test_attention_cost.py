"""Defends: the tiled cost of attention charges exactly the tiles that its mapping fetches and computes, and lies above the roofline."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from functional.errors import BadInput
from hwmodels import load_chip, with_values
from hwmodels.chip import Bandwidth, Chip, VectorUnit
from hwmodels.formulas.elementwise import nearest_count
from sim.attention_mapping import Attention, AttentionMapping, core_parts, key_tiles
from sim.engines.play_attention import AttentionOps, least_cycles, least_of_tilings, play_attention
from sim.execute import Arithmetic, execute_attention, judge
from sim.execute.attention import AttentionNumbers
from sim.execute.judge import attention_bound
from sim.execute.tally import Cargo
from sim.intervals import KINDS, Log
from sim.mapper.attention import TilingBounds, attention_candidates, flows_of, least, map_attention, rank_of, tilings_of
from sim.mapper.attention_cost import ALL_IN_DRAM, InDram, Part, attention_cost, attention_use, moved_bytes
from sim.mapper.attention_room import fit, fits, held_bytes
from sim.plan import resident_level
from sim.verification.border import attention_levels
from tests.test_execute import MEMORIES
from tests.test_execute import chip as hand_chip

UNMASKED = 10**6


def attention(kv_heads: int = 32, **changes: Any) -> Attention:
    """32 query heads of 64, 512 x 512, one byte per element, no mask."""
    shape = Attention(1, 32, kv_heads, 512, 512, 64, UNMASKED, None, 8, 8, 32, "int8")
    return replace(shape, **changes)


def small_chip() -> Chip:
    """edge-npu with 128 KiB, all of it for tiles, single-buffered, and bursts of one byte."""
    chip = load_chip("edge-npu")
    sram = replace(chip.memory[1], capacity_bytes=128 * 1024, double_buffered=False)
    return replace(chip, memory=(replace(chip.dram, burst_bytes=1), sram), resident_share=1e-9)


def whole_head(shape: Attention, fused: bool) -> AttentionMapping:
    """Eight rows of queries against all keys of a head."""
    return AttentionMapping(shape, 8 // shape.rows_per_query, 512, fused, False, 1, (1, 1), "ws", "m")


@pytest.mark.parametrize(
    ("kv_heads", "fused", "expected_bytes"),
    [
        (32, True, 4_194_304),  # q, k, v and the output once: 4 x 32 x 512 x 64
        (8, True, 2_621_440),  # k and v of 8 heads: 2 x 1,048,576 + 2 x 262,144
        (32, False, 62_947_328),  # and 7 x 32 x 512 x 512 scores, and the row maxima written and read: 2 x 32 x 512
    ],
)
def test_traffic_by_hand(kv_heads: int, fused: bool, expected_bytes: int) -> None:
    mapping = whole_head(attention(kv_heads), fused)
    assert fits(mapping, small_chip())
    cost = attention_cost(mapping, small_chip(), {})
    assert cost.dram_read_bytes + cost.dram_written_bytes == expected_bytes


def test_softmax_as_one_op_saves_three_visits_and_the_maxima() -> None:
    cost = attention_cost(whole_head(attention(), fused=False), small_chip(), {})
    scores, maxima = 32 * 512 * 512, 32 * 512
    one_op = cost.dram_read_bytes + cost.dram_written_bytes - 3 * scores - 2 * maxima
    assert one_op == 37_748_736


def test_scores_pass_dram_in_the_format_between_ops() -> None:
    """Not in that of the KV cache: q and the output in 2 bytes, k and v in 1, 7 visits of 2 bytes per score, maxima twice."""
    shape = attention(act_bits=16, compute="bf16")
    cost = attention_cost(whole_head(shape, fused=False), small_chip(), {})
    by_hand = 2 * 2 * 32 * 512 * 64 + 2 * 32 * 512 * 64 + 7 * 2 * 32 * 512 * 512 + 2 * 2 * 32 * 512
    assert cost.dram_read_bytes + cost.dram_written_bytes == by_hand


def walked(mapping: AttentionMapping, burst: int) -> tuple[int, int, int]:
    """DRAM bytes read and written and score elements computed, tile after tile."""
    shape = mapping.attention

    def packed(elements: int, bits: int) -> int:
        return -(-elements * bits // (8 * burst)) * burst

    read = written = scores = 0
    for pairs, queries in core_parts(mapping):
        for _ in range(pairs.start, pairs.stop):
            held = None
            for tile in queries:
                rows = (tile.stop - tile.start) * shape.rows_per_query
                read += packed(rows * shape.head_dim, shape.act_bits)
                written += packed(rows * shape.head_dim, shape.act_bits)
                for keys in key_tiles(mapping, tile):
                    scores += rows * (keys.stop - keys.start)
                    if keys != held:
                        read += 2 * packed((keys.stop - keys.start) * shape.head_dim, shape.kv_bits)
                    held = keys if mapping.kv_tile >= shape.kv_len else None
    return read, written, scores


@pytest.mark.parametrize("seed", range(60))
def test_cost_equals_a_walk_over_the_tiles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kv_heads, q_len = int(rng.integers(1, 4)), int(rng.integers(1, 30))
    kv_len = q_len + int(rng.integers(0, 20))
    window = None if rng.random() < 0.5 else int(rng.integers(1, 12))
    heads = kv_heads * int(rng.integers(1, 4))
    shape = Attention(int(rng.integers(1, 3)), heads, kv_heads, q_len, kv_len, 8, kv_len - q_len, window, 16, 8, 32, "bf16")
    q_tile, kv_tile = int(rng.integers(1, q_len + 1)), int(rng.integers(1, kv_len + 1))
    split = (int(rng.integers(1, shape.pairs + 1)), int(rng.integers(1, q_len + 1)))
    mapping = AttentionMapping(shape, q_tile, kv_tile, True, False, 2, split, "os", "m")
    chip = load_chip("edge-npu")
    cost = attention_cost(mapping, chip, {})
    assert (cost.dram_read_bytes, cost.dram_written_bytes, cost.computed_scores) == walked(mapping, chip.dram.burst_bytes)


def random_shape(rng: random.Random) -> Attention:
    """A few queries behind some context or none, with a window or without, in formats that all differ."""
    kv_heads, q_len = rng.randint(1, 3), rng.choice([1, rng.randint(2, 9)])
    kv_len, window = q_len + rng.choice([0, rng.randint(1, 12)]), rng.choice([None, None, rng.randint(1, 7)])
    heads, offset = kv_heads * rng.randint(1, 3), kv_len - q_len
    return Attention(rng.randint(1, 2), heads, kv_heads, q_len, kv_len, rng.choice([5, 8]), offset, window, 16, 8, 32, "fp32")


def random_mapping(rng: random.Random, shape: Attention, chip: Chip) -> AttentionMapping:
    """Any tiles, mode, places, split and flow; keys are shared where a level on the chip can keep them for all cores."""
    fused, shared = rng.random() < 0.6, any(level.per == "chip" and "activations" in level.holds for level in chip.memory[1:])
    split = rng.choice([(p, q) for p in range(1, 8) for q in range(1, 8) if p * q <= chip.cores])
    tiles = rng.randint(1, shape.q_len), rng.randint(1, shape.kv_len + 1)
    online, flow, axis = fused and rng.random() < 0.5, rng.choice(["os", "ws", "is"]), rng.choice(["m", "n"])
    mapping = AttentionMapping(shape, *tiles, fused, online, rng.randint(1, 2), split, flow, axis)  # type: ignore[arg-type]
    return replace(mapping, keys_shared=shared and rng.random() < 0.5, score_buffers=rng.randint(1, 2) if fused else 1)


@pytest.mark.parametrize("memory", MEMORIES)
def test_any_mapping_takes_what_it_is_charged(memory: str) -> None:
    """Read and written apart, of DRAM and of every level on the chip, wherever the sides lie; also what the mapper never chooses: unfused,
    rows of several heads beside one KV head, keys that cores share, cores and places that are left empty."""
    rng, seen = random.Random(f"attention {memory}"), Counter[tuple[bool, bool, bool]]()
    for seed in range(20):
        chip = hand_chip(*MEMORIES[memory], cores=rng.choice([1, 2, 3, 7]), count=rng.randint(1, 3), rates={"fp32": rng.choice([1, 2, 4])})
        chip = replace(chip, memory=(replace(chip.dram, burst_bytes=rng.choice([1, 7, 64])), *chip.memory[1:]))
        shape = random_shape(rng)
        mapping, burst = random_mapping(rng, shape, chip), int(chip.dram.burst_bytes)
        seen[mapping.fused, mapping.online, mapping.keys_shared] += 1
        generator = torch.Generator().manual_seed(seed)
        q = torch.randn(shape.batch, shape.heads, shape.q_len, shape.head_dim, generator=generator)
        k, v = torch.randn(2, shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim, generator=generator)
        numbers = AttentionNumbers(Arithmetic("fp32", "fp32", "fp32"), 0.5)
        found, tally = execute_attention(mapping, chip, q, k, v, numbers)
        exact, bound = attention_bound(q, k, v, shape.mask, 0.5, numbers.products)
        assert judge(found, exact, bound).passed, mapping

        stays = [rng.random() < 0.3 for _ in InDram._fields]
        staying: set[Cargo] = {cargo for cargo, is_there in zip(("queries", "keys", "outputs"), stays, strict=True) if is_there}  # type: ignore[misc]
        staying |= {"values"} if "keys" in staying else set()
        in_dram = InDram(*(not each for each in stays))
        cost, use = attention_cost(mapping, chip, {}, in_dram), attention_use(mapping, chip, in_dram)
        sides: dict[Cargo, int] = {"queries": 16, "keys": 8, "values": 8, "outputs": 16}
        sides = {cargo: bits for cargo, bits in sides.items() if cargo not in staying}
        between: dict[Cargo, int] = dict.fromkeys(("scores", "maxima", "exponentials", "probabilities"), 16)
        dram = [sum(tally.moved_bytes("dram", way, *each) for each in ((sides, burst), (between, 1))) for way in ("read", "write")]  # type: ignore[arg-type]
        assert dram == [cost.dram_read_bytes, cost.dram_written_bytes], mapping
        assert (tally.issued_macs, tally.softmaxes) == (nearest_count(cost.issued_macs), use.softmaxes), mapping
        busiest = nearest_count(use.busiest_macs), nearest_count(use.busiest_unit_macs)
        assert (tally.busiest_macs, tally.busiest_unit_macs, tally.busy_cores) == (*busiest, use.busy_cores), mapping
        for name, found_bytes in attention_levels(tally, chip, (16, 8, 32), staying).items():
            charged = use.read_bytes[name], use.written_bytes[name], use.room_bytes[name]
            assert found_bytes == tuple(map(math.ceil, charged)), (name, mapping)
        moved = moved_bytes(mapping, chip, cost, in_dram, "all")
        assert moved == {"dram": sum(dram), **{name: use.read_bytes[name] + use.written_bytes[name] for name in use.read_bytes}}
    assert {each[:2] for each in seen} == {(True, False), (True, True), (False, False)}


@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "a100-sxm4-80gb"])
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1025), (37, 37), (512, 512)])
def test_cost_is_above_the_roofline_and_its_mapping_fits(chip_name: str, q_len: int, kv_len: int) -> None:
    chip = load_chip(chip_name)
    shape = Attention(1, 32, 8, q_len, kv_len, 64, kv_len - q_len, None, 16, 16, 32, "bf16" if "bf16" in chip.formats else "int8")
    seen = 32 * int(shape.mask.visible_pairs(q_len, kv_len))
    mapping, cost = map_attention(shape, chip, {"exp": seen})
    assert fits(mapping, chip)
    assert cost.busy_s["matrix"] >= shape.useful_macs / float(chip.peak_macs_per_s(shape.compute)) * (1 - 1e-12)
    assert cost.busy_s["vector"] >= seen * float(chip.primitive_s("exp")) * (1 - 1e-12)
    compulsory = 2 * (32 * q_len + 8 * kv_len) * 64 * 2
    assert cost.dram_read_bytes + cost.dram_written_bytes >= compulsory
    assert cost.latency_s >= max(cost.busy_s.values())
    assert cost.issued_macs >= shape.useful_macs


@pytest.mark.parametrize(
    ("fused", "online", "score_buffers", "kv_tile", "operands_bytes", "sums_bytes"),
    [
        # 6 rows of queries of 64 and their scores with 100 keys, bf16; two tiles of 32 keys and two of values of 64.
        (True, False, 1, 32, 6 * (64 + 100) * 2 + 4 * 32 * 64 * 2, 6 * 64 * 4),
        # The sums of scores with 80 keys are more than those of the output, which come after them.
        (True, False, 1, 80, 6 * (64 + 100) * 2 + 4 * 80 * 64 * 2, 6 * 80 * 4),
        # Outputs and the next scores have places of their own.
        (True, False, 2, 32, 2 * 6 * (64 + 100) * 2 + 4 * 32 * 64 * 2, 6 * 64 * 4),
        # Scores with one key tile in the accumulator's format beside the sums of the output, and their exponentials for the array.
        (True, True, 1, 32, 6 * (64 + 32) * 2 + 4 * 32 * 64 * 2, 6 * (64 + 32) * 4),
        (True, True, 2, 32, 2 * 6 * (64 + 32) * 2 + 4 * 32 * 64 * 2, 6 * (64 + 2 * 32) * 4),
        # Scores with one key tile, on their way to DRAM.
        (False, False, 1, 32, 6 * (64 + 32) * 2 + 4 * 32 * 64 * 2, 6 * 64 * 4),
    ],
)
def test_room_by_hand(fused: bool, online: bool, score_buffers: int, kv_tile: int, operands_bytes: int, sums_bytes: int) -> None:
    """What the mapper looks for, what is charged, and what is tallied while it is executed."""
    shape = Attention(1, 4, 2, 9, 100, 64, 91, None, 16, 16, 32, "bf16")
    mapping = AttentionMapping(shape, 3, kv_tile, fused, online, 2, (1, 1), "ws", "m", score_buffers=score_buffers)
    chip = load_chip("edge-npu")
    sums = replace(chip.memory[1], name="sums", holds=frozenset({"psums"}))
    chip = replace(chip, memory=(chip.dram, replace(chip.memory[1], holds=frozenset({"weights", "activations"})), sums))
    by_hand = {"sram": operands_bytes, "sums": sums_bytes}
    assert held_bytes(mapping, chip) == by_hand
    assert attention_use(mapping, chip).room_bytes == by_hand
    q, k = torch.zeros(1, 4, 9, 64, dtype=torch.bfloat16), torch.zeros(1, 2, 100, 64, dtype=torch.bfloat16)
    numbers = AttentionNumbers(Arithmetic("bf16", "fp32", "bf16"), 0.125)
    _, tally = execute_attention(mapping, chip, q, k, k, numbers)
    assert {name: tally.level_bits(name) / 8 for name in by_hand} == by_hand
    small = replace(chip, memory=(*chip.memory[:2], replace(sums, capacity_bytes=sums_bytes - 1)))
    with pytest.raises(ValueError, match=f"the tiles take {sums_bytes} bytes of sums"):
        execute_attention(mapping, small, q, k, k, numbers)


def test_each_level_by_hand() -> None:
    """Three pairs on two cores, each of 4 queries and 4 keys of width 8, which one tile sees: the causal mask leaves 10 of its 16 scores.
    4 x 4 PEs take the scores in two folds along k, the values in two along n."""
    rate, rates = Bandwidth(1e9, 2e9, shared=False, per_cycle=False), {"fp32": 1.0}
    chip = hand_chip(*(replace(level, bandwidth=rate) for level in MEMORIES["gpu"]), cores=2, rates=rates)
    chip = replace(chip, memory=(replace(chip.dram, burst_bytes=1), *chip.memory[1:]))
    mapping = AttentionMapping(Attention(1, 3, 3, 4, 4, 8, 0, None, 16, 8, 32, "fp32"), 4, 4, True, False, 1, (2, 1), "ws", "m")
    cost = attention_cost(mapping, chip, {"exp": 3 * 10})
    queries, keys, outputs, passes = 64, 2 * 32, 64, 3 * 16 * 2
    operands = (2 * 16 + 2 * 16) * 2 + (2 * 16 + 2 * 16) * 1
    of_a_pair = {
        "l2": (queries + keys + outputs, queries + keys + outputs),  # all of it comes there and leaves again
        "scratchpad": (operands + outputs + passes, queries + keys + outputs + passes),
        "accumulator": (16 * 4, (2 * 16 + 2 * 16) * 4),  # the second fold along k reads what the first has written
    }
    pairs = {"l2": 3, "scratchpad": 2, "accumulator": 2}  # one level serves both cores
    for name, (read, written) in of_a_pair.items():
        assert cost.ports_s[name] == pytest.approx((pairs[name] * read * 1e-9, pairs[name] * written * 0.5e-9), rel=1e-12), name
    moved = moved_bytes(mapping, chip, cost, ALL_IN_DRAM, "all")
    assert moved == {"dram": 3 * (queries + keys + outputs), **{name: 3 * sum(each) for name, each in of_a_pair.items()}}
    assert cost.busy_s["vector"] == math.ceil(2 * 16 * chip.vector.cycles["exp"] / chip.vector.lanes) / chip.clock_hz
    alone = attention_cost(replace(mapping, split=(1, 1)), chip, {})
    assert cost.busy_s["matrix"] == pytest.approx(alone.busy_s["matrix"] * 2 / 3)


def test_a_slow_level_begins_with_the_first_bytes_and_ends_with_the_last() -> None:
    """A tile is written to SRAM while it passes DRAM's port, and read while the output does: all that SRAM waits for is DRAM's answer."""
    chip = with_values(load_chip("edge-npu"), {"memory.sram.bandwidth": 2})
    cost = attention_cost(whole_head(attention(), fused=True), chip, {"exp": 32 * 512 * 512})
    assert cost.bound_by == "sram"
    assert cost.latency_s == pytest.approx(chip.dram.latency_s + cost.busy_s["sram"], rel=1e-12)


@pytest.mark.parametrize(
    ("q_tile", "online", "score_buffers", "split", "first_bytes", "alone", "last_bytes"),
    [
        # 3 queries of 2 heads and 4 keys, all of 2 bytes. First 4 rows and 3 keys come, at last 2 rows leave: the smaller tile at the end.
        (2, False, 1, (1, 1), 8 + 6, 1, 4),
        (3, False, 1, (1, 1), 12 + 6, 1, 12),
        # Either of two cores may be the last: that of 2 rows may begin first, and what leaves at last is not known.
        (2, False, 1, (1, 2), 4 + 6, 1, 0),
        # Rows stream through 2 folds for 3 keys and 1 for one, of 2 elements each, and through one for each key with values: with 4 rows
        # 16 + 8 and 12 + 4 cycles, with 2 half of that. The vector unit does nothing during the first scores and the last values.
        (2, False, 2, (1, 1), 8 + 6, (16 + 8 + 6 + 2) / 60, 4),
        (2, True, 2, (1, 1), 8 + 6, (16 + 2) / 60, 4),
    ],
)
def test_latency_by_hand(
    q_tile: int, online: bool, score_buffers: int, split: tuple[int, int], first_bytes: int, alone: float, last_bytes: int
) -> None:
    """DRAM at 1 B/ns after 100 ns; of the array's time what the vector unit waits for. The array has one row and two columns."""
    shape = Attention(1, 2, 1, 3, 4, 2, UNMASKED, None, 8, 8, 32, "int8")
    mapping = AttentionMapping(shape, q_tile, 3, True, online, 1, split, "ws", "m", score_buffers=score_buffers)
    numbers = {"memory.dram.bandwidth": 1e9, "memory.dram.latency": 1e-7, "memory.dram.burst": 1, "cores": 2}
    chip = with_values(load_chip("edge-npu"), numbers | {"matrix.rows": 1, "matrix.cols": 2})
    cost = attention_cost(mapping, chip, {"exp": 24000})
    by_turns_s = cost.busy_s["matrix"] * alone + cost.busy_s["vector"]
    assert cost.bound_by == "vector"
    assert cost.latency_s == pytest.approx((100 + first_bytes + last_bytes) * 1e-9 + by_turns_s, rel=1e-12)


def test_vector_time_of_rescaling_by_hand() -> None:
    """6 rows with tiles of 3 and 1 keys are rescaled once: of each 3 additions, an exponential and 1 + 2 products."""
    shape = Attention(1, 2, 1, 3, 4, 2, UNMASKED, None, 16, 16, 32, "bf16")
    chip = replace(load_chip("edge-npu"), vector=VectorUnit(1, {"add": 2, "mul": 5, "exp": 7}))
    mapping = AttentionMapping(shape, 2, 3, True, True, 1, (1, 1), "ws", "m")
    times = [attention_cost(each, chip, {"exp": 24}).busy_s["vector"] for each in (mapping, replace(mapping, online=False))]
    assert times == pytest.approx([(24 * 7 + 6 * (3 * 2 + 7 + 3 * 5)) / chip.clock_hz, 24 * 7 / chip.clock_hz], rel=1e-12)


def test_a_longer_context_is_not_faster_where_whole_rows_cease_to_fit() -> None:
    """With 180 keys they fit beside key tiles of one, with 185 not at all."""
    chip = with_values(load_chip("edge-npu"), {"matrix.rows": 2, "matrix.cols": 7, "cores": 2, "memory.sram.capacity": 32379})
    slow = replace(chip.memory[1], bandwidth=Bandwidth(5.6e8, 1.1e8, False, False))
    chip = replace(chip, memory=(chip.dram, slow), resident_share=0.9)
    times = []
    for kv_len in range(150, 200, 5):
        shape = Attention(1, 21, 3, 1, kv_len, 50, kv_len - 1, None, 8, 8, 32, "int8")
        times.append(map_attention(shape, chip, {"exp": 21.0 * kv_len})[1].latency_s)
    assert times == sorted(times)


@pytest.mark.parametrize(("kib", "queries"), [(16, 64), (32, 1), (64, 64), (256, 96)])
def test_what_has_room_for_no_array_pass_is_mapped_nearly_as_well_as_with_tiles_of_any_size(
    monkeypatch: pytest.MonkeyPatch, kib: int, queries: int
) -> None:
    """cloud-npu, whose array has 128 rows and columns, with little SRAM: with tiles of one or of whole passes it took 17 to 211 times
    as long."""
    chip = with_values(load_chip("cloud-npu"), {"memory.sram.capacity": kib * 1024.0})
    shape = Attention(1, 32, 8, queries, 96, 64, 96 - queries, None, 16, 16, 32, "bf16")
    counts = {"exp": 32.0 * shape.mask.visible_pairs(queries, 96)}
    found_s = map_attention(shape, chip, counts)[1].latency_s
    monkeypatch.setattr("sim.mapper.attention._sizes", lambda length, some: np.arange(length, 0, -1))
    assert found_s <= 1.2 * map_attention(shape, replace(chip), counts)[1].latency_s


@pytest.mark.parametrize(("cores", "q_tile"), [(4, 1), (7, 2), (3, 8)])
def test_longer_prompts_are_not_faster_on_several_cores(cores: int, q_tile: int) -> None:
    """Query tiles dealt in turn: with one more query the tiles of a core at most grow. (Cut into equal parts, 29 queries are faster than 28
    on four cores, for the last part, which sees most keys, has 5 of them instead of 7.)"""
    chip = with_values(load_chip("edge-npu"), {"cores": cores, "matrix.rows": 4, "matrix.cols": 4})
    times = []
    for length in range(20, 60):
        shape = Attention(1, 2, 2, length, length, 8, 0, None, 8, 8, 32, "int8")
        mapping = AttentionMapping(shape, q_tile, 4, True, False, 2, (1, cores), "ws", "m")
        times.append(attention_cost(mapping, chip, {"exp": length * (length + 1.0)}).latency_s)
    assert times == sorted(times)


def shared_chip(capacity_bytes: float, cores: int = 6) -> Chip:
    """edge-npu with cores around one SRAM, nearly all of it for tiles."""
    chip = load_chip("edge-npu")
    sram = replace(chip.memory[1], per="chip", capacity_bytes=capacity_bytes)
    return replace(chip, memory=(chip.dram, sram), cores=cores, resident_share=1e-9)


def test_cores_that_share_a_level_take_room_for_each() -> None:
    """Two pairs, and 7 queries in parts of 3, 3 and 1."""
    shape = Attention(1, 4, 2, 7, 100, 64, UNMASKED, None, 16, 16, 32, "bf16")
    mapping = AttentionMapping(shape, 3, 32, True, False, 2, (2, 3), "ws", "m")
    one = 6 * (64 + 100) * 2 + 4 * 32 * 64 * 2 + 6 * 64 * 4
    assert held_bytes(mapping, load_chip("edge-npu")) == {"sram": one}
    assert held_bytes(mapping, shared_chip(1e6)) == {"sram": 6 * one}
    assert fits(mapping, shared_chip(6 * one + 1))
    assert not fits(mapping, shared_chip(6 * one - 1))
    operands, sums = (replace(shared_chip(1e6).memory[1], name=name, holds=frozenset({name})) for name in ("activations", "psums"))
    apart = replace(shared_chip(1e6), memory=(load_chip("edge-npu").dram, operands, sums))
    assert held_bytes(mapping, apart) == {"activations": 6 * (one - 6 * 64 * 4), "psums": 6 * 6 * 64 * 4}
    of_one_query = 2 * (64 + 100) * 2 + 4 * 32 * 64 * 2 + 2 * 64 * 4
    assert attention_use(mapping, shared_chip(1e6)).room_bytes == {"sram": 2 * (2 * one + of_one_query)}


def test_as_many_cores_work_as_there_is_room_for() -> None:
    shape = Attention(1, 4, 2, 9, 100, 64, UNMASKED, None, 16, 16, 32, "bf16")
    rooms = (2e3, 3e3, 5e3, 1e4, 2e4, 4e4, 1e5, 1e6)
    found = [map_attention(shape, shared_chip(room), {"exp": 360_000}) for room in rooms]
    assert all(fits(mapping, shared_chip(room)) for (mapping, _), room in zip(found, rooms, strict=True))
    # Where there is little room, one core with key tiles of some length takes less time than several with single keys.
    assert [mapping.busy_cores for mapping, _ in found] == [1, 1, 1, 3, 6, 6, 6, 6]
    assert all(more.latency_s <= less.latency_s for (_, less), (_, more) in pairwise(found))


def test_what_stays_on_the_chip_is_not_fetched() -> None:
    mapping = whole_head(attention(), fused=True)
    cost = attention_cost(mapping, small_chip(), {}, InDram(queries=False, keys=False, output=False))
    assert cost.dram_read_bytes == cost.dram_written_bytes == 0


@pytest.mark.parametrize("score_buffers", [1, 2])
@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i"])
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 545), (5, 301), (37, 37), (96, 160)])
@pytest.mark.parametrize("in_dram", [InDram(), InDram(queries=False, output=False)])
def test_tilings_that_are_left_out_play_no_better(
    chip_name: str, q_len: int, kv_len: int, in_dram: InDram, score_buffers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of tilings is below every play of theirs, and not far below the bound of each that is priced."""
    chip = replace(load_chip(chip_name))
    if score_buffers == 1:
        monkeypatch.setattr("sim.mapper.attention.fit", lambda mapping, *each: fit(mapping, *each) & (mapping.score_buffers == 1))
    shape = Attention(1, 32, 8, q_len, kv_len, 64, kv_len - q_len, None, 16, 16, 32, "bf16" if "bf16" in chip.formats else "int8")
    counts = {"exp": 32 * int(shape.mask.visible_pairs(q_len, kv_len)), "add": 100}
    mapping, cost = map_attention(shape, chip, counts, in_dram)
    clock_hz, bounds_s = float(chip.clock_hz), dict[tuple[tuple[int, int], int, int, int], float]()

    def noted(tilings: TilingBounds) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        seconds = least_of_tilings(tilings, chip, in_dram, "all") / clock_hz
        for kv_tile, each_s in zip(tilings.kv_tiles.tolist(), seconds.tolist(), strict=True):
            bounds_s[tilings.first.split, tilings.first.q_tile, kv_tile, tilings.first.score_buffers] = each_s
        return 0 * seconds

    asked = mapping, chip, counts, in_dram, "all", (0.0, 0.0)
    everything = attention_candidates(*asked, 3 * cost.latency_s, noted)  # type: ignore[arg-type]
    plays = dict[tuple[tuple[int, int], int, int, int], float]()
    for each, priced in everything:
        tiling = each.split, each.q_tile, each.kv_tile, each.score_buffers
        least_s = least_cycles(each, chip, priced, priced.busy_s, in_dram, "all") / clock_hz
        assert bounds_s[tiling] <= least_s * (1 + 1e-9)
        assert bounds_s[tiling] <= play_attention(each, chip, priced, priced.busy_s, in_dram, "all").end / clock_hz * (1 + 1e-9)
        plays[tiling] = min(plays.get(tiling, least_s), least_s)
    assert all(bounds_s[tiling] > 0.7 * least_s for tiling, least_s in plays.items())
    assert score_buffers == max(each for *_, each in plays)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_known_of_tilings_is_below_what_plays_where_softmax_binds(seed: int, online: bool) -> None:
    """On small arrays, of which the two products, and the tiles at the edge, take different cycles."""
    rng = random.Random(f"softmax {seed}")
    numbers = {"matrix.rows": rng.choice([1, 2, 5]), "matrix.cols": rng.choice([1, 3, 8]), "memory.dram.bandwidth": 1e12}
    chip = replace(with_values(load_chip("edge-npu"), numbers))
    shape = replace(random_shape(rng), compute="bf16")
    counts = {"exp": 10 ** rng.uniform(3, 5)}
    asked = chip, counts, InDram(), "all", (0.0, 0.0)
    mapping, _ = map_attention(shape, *asked)  # type: ignore[arg-type]
    bounds = dict[tuple[int, int, int], float]()

    def noted(tilings: TilingBounds) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        first, cycles = tilings.first, least_of_tilings(tilings, chip, InDram(), "all").tolist()
        bounds.update({(first.q_tile, kv_tile, first.score_buffers): each for kv_tile, each in zip(tilings.kv_tiles, cycles, strict=True)})
        return 0 * tilings.least_s

    every = attention_candidates(replace(mapping, fused=True, online=online), *asked, np.inf, noted)  # type: ignore[arg-type]
    for each, priced in every:
        least = least_cycles(each, chip, priced, priced.busy_s, InDram(), "all")
        assert bounds[each.q_tile, each.kv_tile, each.score_buffers] <= least * (1 + 1e-9), each
        assert least <= play_attention(each, chip, priced, priced.busy_s, InDram(), "all").end * (1 + 1e-9), each
    assert every


@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i"])
@pytest.mark.parametrize(("q_len", "kv_len", "window"), [(1, 301, None), (33, 33, None), (20, 65, None), (20, 65, 7)])
@pytest.mark.parametrize(("fused", "online", "part"), [
    (True, False, "all"), (True, True, "all"), (False, False, "all"), (False, False, "scores"), (False, False, "context"),
])  # fmt: skip
def test_what_tilings_cost_at_least_is_below_what_they_cost(
    chip_name: str, q_len: int, kv_len: int, window: int | None, fused: bool, online: bool, part: Part
) -> None:
    """What passes DRAM decides where it is slow, as it is here for scores."""
    chip = load_chip(chip_name) if fused else with_values(load_chip(chip_name), {"memory.dram.bandwidth": 1e9})
    shape = Attention(2, 6, 3, q_len, kv_len, 64, kv_len - q_len, window, 16, 16, 32, "bf16" if "bf16" in chip.formats else "int8")
    counts = {"exp": 3 * 64 * 1000} if part == "all" else {}
    scores, places = 2.0 * 6 * q_len * kv_len, set()
    score_bytes = {"all": (0.0, 0.0), "scores": (0.0, scores), "context": (scores, 0.0)}[part]
    asked = counts, InDram(), part, score_bytes
    for first, kv_tiles in tilings_of(shape, chip, fused, online, part):
        seconds = least(first, kv_tiles, chip, *asked).seconds
        for kv_tile, least_s in zip(kv_tiles.tolist(), seconds.tolist(), strict=True):
            costs = [attention_cost(each, chip, *asked) for each in flows_of(replace(first, kv_tile=kv_tile), chip)]
            assert all(least_s <= cost.latency_s * (1 + 1e-12) for cost in costs), (first, kv_tile)
        places.add(first.score_buffers)
    assert places == ({1, 2} if fused else {1})


def all_mappings(shape: Attention, chip: Chip, fused: bool, online: bool) -> list[AttentionMapping]:
    """Over one pair at a time or as many as there are cores for, or any number where these share the level, and over any part of the
    queries; with tiles of all there is, of an array pass, these doubled and halved; for queries of three quarters of one, for keys of three
    doubled and halved."""

    def sizes(length: int, granule: int, threes: int) -> set[int]:
        of_three = {3 * granule // 4, *(3 * granule << i for i in range(threes))} - {0}
        return {1, length, *(granule >> i for i in range(3)), *(granule << i for i in range(12)), *of_three} & {*range(1, length + 1)}

    unit, found = chip.matrix, []
    over_pairs = range(1, shape.pairs + 1) if chip.memory[1].per == "chip" else {1, min(shape.pairs, int(chip.cores))}
    splits = [(p, q) for p in over_pairs for q in range(1, shape.q_len + 1) if p * q <= chip.cores]
    for split, kv_tile, places in itertools.product(splits, sizes(shape.kv_len, unit.cols, 12), (1, 2) if fused else (1,)):
        for q_tile in sizes(-(-shape.q_len // split[1]), max(1, unit.rows // shape.rows_per_query), 0):
            one = AttentionMapping(shape, q_tile, kv_tile, fused, online, 2, split, "os", "m", score_buffers=places)
            found += [replace(one, dataflow=flow, array_axis=axis) for flow in unit.dataflows for axis in ("m", "n")]  # type: ignore[arg-type]
    return [each for each in found if fits(each, chip)]


@pytest.mark.parametrize("seed", range(24))
def test_the_mapper_finds_the_best_of_all(seed: int) -> None:
    """Of whole rows, online and unfused; least time first, then DRAM bytes, then not online, then the larger tiles."""
    rng = random.Random(f"best {seed}")
    numbers = {"matrix.rows": rng.choice([2, 4]), "matrix.cols": rng.choice([2, 4]), "matrix.count": rng.choice([1, 2])}
    numbers |= {"cores": rng.choice([1, 2, 3, 6]), "memory.dram.burst": 4}
    numbers["memory.dram.bandwidth"] = rng.choice([1e30, 10 ** rng.uniform(8, 12)])  # the first: only the order of ranks knows of bytes
    chip = with_values(load_chip("edge-npu"), numbers | {"memory.sram.capacity": 2 ** rng.uniform(6.5, 11.5)})
    chip = replace(chip, memory=(chip.dram, replace(chip.memory[1], per=rng.choice(["core", "core", "chip"]))))
    shape = replace(random_shape(rng), compute=rng.choice(["int8", "bf16"]))
    counts = {"exp": 8.0 * shape.heads * shape.q_len * shape.kv_len * rng.choice([0, 1])}
    asked = chip, counts, InDram(*(rng.random() < 0.7 for _ in range(3)))
    modes = [(True, False), (True, True), (False, False)]
    possible = [each for mode in modes if not (mode[1] and shape.compute == "int8") for each in all_mappings(shape, chip, *mode)]
    if not possible:
        with pytest.raises(BadInput, match="not one query with one key fits"):
            map_attention(shape, *asked)
        return
    ranks = [rank_of(each, attention_cost(each, *asked))[:5] for each in possible]
    assert rank_of(*map_attention(shape, *asked))[:5] == min(ranks)


@pytest.mark.parametrize(("kv_tile", "online"), [(32, False), (128, False), (32, True)])
def test_no_product_begins_before_its_tile_has_come(kv_tile: int, online: bool) -> None:
    """Key tiles and value tiles: the one that a product takes is whole by then, and no two products run at a time."""
    chip = load_chip("edge-npu")
    slow = replace(chip, memory=(replace(chip.dram, bandwidth=replace(chip.dram.bandwidth, read=8e9, write=8e9)), *chip.memory[1:]))
    shape = Attention(1, 32, 8, 1, 545, 64, 544, None, 16, 16, 32, "bf16")
    mapping = AttentionMapping(shape, 1, kv_tile, True, online, 2, (1, 1), "ws", "m")
    for built in (chip, slow):
        cost = attention_cost(mapping, built, {"exp": 32 * 545})
        log = Log((*(level.name for level in built.memory), "matrix", "vector", "launch"))
        play_attention(mapping, built, cost, cost.busy_s, InDram(queries=False), "all", log, AttentionOps(0, 1))
        found = log.intervals()
        is_work = found.what == KINDS.index("compute")
        for op in (0, 1):
            works = np.flatnonzero(is_work & (found.resource == found.resources.index("matrix")) & (found.op == op))
            reads = np.flatnonzero((found.resource == 0) & (found.what == KINDS.index("read")) & (found.op == op))
            assert len(works) == len(reads) == 8 * -(-545 // kv_tile)
            assert (np.sort(found.start_s[works]) >= np.sort(found.end_s[reads]) * (1 - 1e-12)).all()
        every = np.flatnonzero(is_work & (found.resource == found.resources.index("matrix")))
        every = every[np.argsort(found.start_s[every])]
        assert (found.start_s[every][1:] >= found.end_s[every][:-1] * (1 - 1e-12)).all()


@pytest.mark.parametrize("chip_name", ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i"])
def test_what_is_mapped_fits_as_it_is_executed(chip_name: str) -> None:
    """In as little memory as takes any tile: online, the sums of the output and of the scores are held at the same time."""
    base = with_values(load_chip(chip_name), {"matrix.rows": 4, "matrix.cols": 4})
    name = "bf16" if "bf16" in base.formats else "int8"
    shape = Attention(1, 4, 2, 64, 64, 8, 0, None, 8 if name == "int8" else 16, 8 if name == "int8" else 16, 32, name)
    modes = set()
    for capacity in range(280, 5000, 26):
        chip = with_values(base, {f"memory.{level.name}.capacity": capacity for level in base.memory[1:]})
        try:
            mapping, _ = map_attention(shape, chip, {"exp": 1})
        except BadInput:
            continue
        modes.add((mapping.fused, mapping.online))
        room = attention_use(mapping, chip).room_bytes
        shares = {level.name: 1 - chip.resident_share if level is resident_level(chip) else 1.0 for level in chip.memory[1:]}
        assert all(each <= shares[level] * capacity for level, each in room.items()), (mapping, room, capacity)
    assert len(modes) > 1


@pytest.mark.parametrize("part", ["all", "scores", "context"])
def test_the_first_keys_may_be_those_of_the_smaller_tile_at_the_end(part: Part) -> None:
    """The last of 10 keys is all that a window of 1 shows, and is alone in its tile of at most 9; DRAM needs 1 us a byte."""
    shape = Attention(2, 1, 1, 1, 10, 2, 9, 1, 8, 8, 32, "int8")
    chip = with_values(load_chip("edge-npu"), {"memory.dram.bandwidth": 1e6, "memory.dram.burst": 1})
    in_dram = InDram(queries=False, output=False)
    mapping = AttentionMapping(shape, 1, 9, part == "all", False, 2, (1, 1), "ws", "m")
    cost = attention_cost(mapping, chip, {"exp": 2} if part == "all" else {}, in_dram, part)
    assert cost.dram_read_bytes == 2 * 2 * (2 if part == "all" else 1)
    played = play_attention(mapping, chip, cost, cost.busy_s, in_dram, part)
    assert cost.busy_s["dram"] <= cost.latency_s <= played.end / float(chip.clock_hz)
    assert played.end / float(chip.clock_hz) < 1.1 * cost.latency_s


@pytest.mark.parametrize(("chip_name", "numbers", "attention"), [
    ("cloud-npu", {"memory.dram.bandwidth": 130.6e9, "clock": 839.6e6, "memory.sram.capacity": 256 * 1024.0}, (5, 5, 152)),
    ("tpu-v4i", {"memory.dram.bandwidth": 325.7e9, "clock": 2655.7e6}, (1, 1, 37)),
])
def test_more_cores_are_never_slower(chip_name: str, numbers: dict[str, float], attention: tuple[int, int, int]) -> None:
    """Even where cores that share keys read them for each: fewer cores stay among the choices."""
    heads, kv_heads, tokens = attention
    asked = Attention(1, heads, kv_heads, tokens, tokens, 64, 0, None, 16, 16, 32, "bf16")
    counts = dict.fromkeys(("add", "mul", "exp"), heads * tokens * (tokens + 1) / 2)
    latencies = []
    for cores in (1, 2, 3, 4, 5, 6, 7, 8, 14, 40):
        chip = with_values(load_chip(chip_name), numbers | {"cores": cores})
        latencies.append(map_attention(asked, chip, counts)[1].latency_s)
    assert latencies == sorted(latencies, reverse=True)
