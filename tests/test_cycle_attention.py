"""Defends: attention is played as its mapping says, to the cycle and with the causes of stalls, with one place for scores and with two."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from hwmodels import load_chip, numeric_paths, with_values
from hwmodels.chip import Bandwidth, Chip
from hwmodels.formulas import systolic
from sim.attention_mapping import Attention, AttentionMapping
from sim.engines.play_attention import AttentionOps, least_cycles, play_attention
from sim.intervals import CAUSES, KINDS, Log
from sim.mapper.attention import map_attention
from sim.mapper.attention_cost import AttentionCost, InDram, Part, attention_cost
from tests.walked_attention import ARRAY, Sides, Speeds, own_cycles, simulate

SEEDS = range(40)


def small_chip(speeds: Speeds) -> Chip:
    """edge-npu with a small array at 1 Hz, and DRAM that takes whole cycles for a byte."""
    chip = load_chip("edge-npu")
    rate = Bandwidth(read=1 / speeds.dram, write=1 / speeds.dram, shared=True, per_cycle=False)
    dram = replace(chip.dram, bandwidth=rate, latency_s=float(speeds.latency), burst_bytes=1)
    return replace(chip, clock_hz=1.0, matrix=replace(chip.matrix, rows=ARRAY[0], cols=ARRAY[1]), memory=(dram, chip.memory[1]))


def charged(mapping: AttentionMapping, chip: Chip, speeds: Speeds, sides: Sides) -> tuple[AttentionCost, dict[str, float]]:
    """A cost of whole cycles, with just the products and bytes that the tiles of the one core have, and bytes of scores that pass DRAM."""
    attention = mapping.attention
    tiles = [(start, min(start + mapping.q_tile, attention.q_len)) for start in range(0, attention.q_len, mapping.q_tile)]
    rows = attention.q_len * attention.rows_per_query
    scores, keys, own = 0, 0, 0
    for start, stop in tiles:
        oldest = max(0, start + attention.mask_offset - (attention.window or 10**6) + 1)
        newest = min(stop + attention.mask_offset, attention.kv_len)
        here = min(-(-newest // mapping.kv_tile) * mapping.kv_tile, attention.kv_len) - oldest // mapping.kv_tile * mapping.kv_tile
        high = (stop - start) * attention.rows_per_query
        scores, keys = scores + high * here, keys + here
        lengths = [*[mapping.kv_tile] * (here // mapping.kv_tile), *([here % mapping.kv_tile] if here % mapping.kv_tile else [])]
        own += sum(own_cycles(tile, mapping, high, length) for tile in "KV" for length in lengths)
    keys = attention.kv_len if mapping.kv_tile >= attention.kv_len else keys
    read = attention.pairs * attention.head_dim * (rows * sides.queries + 2 * keys * sides.keys)
    written = attention.pairs * attention.head_dim * rows * sides.output
    if not mapping.fused:
        read, written = read + 4 * scores * attention.pairs, written + 3 * scores * attention.pairs
    scores, cycles = scores * attention.pairs, own * attention.pairs
    busy_s = {"matrix": float(speeds.array * cycles), "vector": float(speeds.vector * scores), "sram": float(speeds.level * cycles)}
    busy_s["dram"] = float((read + written) * speeds.dram)
    return AttentionCost(0.0, "", busy_s, {}, float(read), float(written), scores, float(cycles)), busy_s


MODES = [(1, False, True), (1, True, True), (2, False, True), (2, True, True), (1, False, False)]
"""Places for scores, online, fused."""


def drawn(seed: int, score_buffers: int, online: bool, fused: bool) -> tuple[AttentionMapping, Speeds, Sides]:
    rng = random.Random(f"attention {seed} {online}")  # the same for one place and for two
    kv_heads, q_len = rng.randint(1, 3), rng.randint(1, 7)
    kv_len = q_len + rng.choice([0, 0, 3, 8])
    window = rng.choice([None, None, 2, 5])
    batch, heads = rng.randint(1, 2), kv_heads * rng.randint(1, 2)
    attention = Attention(batch, heads, kv_heads, q_len, kv_len, 2, kv_len - q_len, window, 8, 8, 32, "int8")
    q_tile, kv_tile = rng.randint(1, q_len), rng.randint(1, kv_len + 1)
    mapping = AttentionMapping(attention, q_tile, kv_tile, fused, online, rng.randint(1, 2), (1, 1), rng.choice(["os", "ws"]), "m")
    drain = int(systolic.drain_cycles(mapping.dataflow, *ARRAY))
    speeds = Speeds(rng.randint(1, 3), rng.choice([0, 1, 4]), rng.randint(1, 9), rng.randint(1, 5), rng.choice([0, 1, 17, 60]), drain)
    sides = Sides(*(rng.random() < 0.7 for _ in range(3)))
    return replace(mapping, score_buffers=score_buffers), speeds, sides


@pytest.mark.parametrize(("score_buffers", "online", "fused"), MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_play_equals_a_simulator_that_moves_one_cycle_at_a_time(seed: int, score_buffers: int, online: bool, fused: bool) -> None:
    mapping, speeds, sides = drawn(seed, score_buffers, online, fused)
    chip = small_chip(speeds)
    cost, busy_s = charged(mapping, chip, speeds, sides)
    in_dram = InDram(*sides)
    played, found = play_attention(mapping, chip, cost, busy_s, in_dram, "all"), simulate(mapping, speeds, sides)
    assert played.end == pytest.approx(found.end, rel=1e-12)
    for cause in CAUSES:
        assert played.stalls[cause] == pytest.approx(found.stalls.get(cause, 0), rel=1e-9, abs=1e-9), cause
    assert least_cycles(mapping, chip, cost, busy_s, in_dram, "all") <= played.end * (1 + 1e-12)
    assert {name: played.busy[name] for name in busy_s} == pytest.approx(busy_s)


def test_all_that_stalls_is_simulated() -> None:
    """Cases are no good that never wait for something, or whose units never work at the same time."""
    found = [simulate(*drawn(seed, *mode)) for seed, mode in product(range(20), MODES)]
    for cause in CAUSES:
        assert sum(each.stalls.get(cause, 0) > 0 for each in found) > 5, cause
    overlaps = {places: [simulate(*drawn(seed, places, online=False, fused=True)).overlap for seed in SEEDS] for places in (1, 2)}
    assert not any(overlaps[1])
    assert sum(overlap > 0 for overlap in overlaps[2]) > len(SEEDS) / 2


def two_pairs(score_buffers: int) -> AttentionMapping:
    """Two pairs of one query tile with one key tile each."""
    attention = Attention(1, 2, 2, 4, 6, 2, 6, None, 8, 8, 32, "int8")
    return AttentionMapping(attention, 4, 6, True, False, 2, (1, 1), "ws", "m", score_buffers=score_buffers)


@pytest.mark.parametrize(
    ("score_buffers", "expected"),
    [
        (1, [(0, 8), (8 + 3 + 48, 71), (71 + 3, 82), (82 + 3 + 48, 145)]),  # S0, then V0 when 48 cycles of softmax are over, then S1, V1
        (2, [(0, 8), (8, 16), (59, 71), (107, 119)]),  # S1 while the vector unit works; the second softmax ends at 11 + 48 + 48
    ],
)
def test_two_pairs_by_hand(score_buffers: int, expected: list[tuple[int, int]]) -> None:
    """4 rows stream through 2 folds for 6 keys, 3 columns each, and through 3 for the values of 6 keys, 2 rows each: 8 and 12 cycles; 3 to
    drain, 48 of softmax of 24 scores, all on the chip. The next queries come when the output has left."""
    mapping, speeds, sides = two_pairs(score_buffers), Speeds(1, 0, 2, 1, 0, 3), Sides(False, False, False)
    chip = small_chip(speeds)
    cost, busy_s = charged(mapping, chip, speeds, sides)
    log = Log(("dram", "sram", "matrix", "vector", "launch"))
    played = play_attention(mapping, chip, cost, busy_s, InDram(*sides), "all", log, AttentionOps(0, 1))
    found = log.intervals()
    works = (found.resource == found.resources.index("matrix")) & (found.what == KINDS.index("compute"))
    assert sorted(zip(found.start_s[works].tolist(), found.end_s[works].tolist(), strict=True)) == expected
    assert [found.op[works].tolist(), played.end] == [[0, 1, 0, 1] if score_buffers == 1 else [0, 0, 1, 1], expected[-1][1] + 3]


@pytest.mark.parametrize(
    ("part", "expected", "end", "stalls"),
    [
        # 3 cycles to drain, 16 bytes of scores to write: the next ones come when these have left.
        ("scores", [(0, 16), (35, 47)], 47 + 3 + 12, {"sram_space": 35 - 16, "array": 3, "dram": 12}),
        # 16 bytes of scores to read; their next ones come meanwhile, but 3 cycles and 8 bytes of output go by until there is its place.
        ("context", [(16, 32), (43, 55)], 55 + 3 + 6, {"dram": 16 + 6, "sram_space": 43 - 32, "array": 3}),
    ],
)
def test_a_product_alone_by_hand(part: Part, expected: list[tuple[int, int]], end: int, stalls: dict[str, int]) -> None:
    """Query tiles of 4 and 3 rows with 4 keys: two folds of 4 and 3 cycles, of either product, and as much again that another core has
    more; DRAM reads and writes a byte per cycle at the same time."""
    attention = Attention(1, 1, 1, 7, 4, 2, 7, None, 8, 8, 32, "int8")
    mapping = AttentionMapping(attention, 4, 4, False, False, 1, (1, 1), "ws", "m")
    chip = small_chip(Speeds(1, 0, 0, 1, 0, 3))
    dram = replace(chip.dram, bandwidth=replace(chip.dram.bandwidth, shared=False))
    chip = replace(chip, memory=(dram, *chip.memory[1:]))
    read, written = (0.0, 28.0) if part == "scores" else (28.0, 14.0)
    busy_s = {"matrix": 28.0, "vector": 0.0, "sram": 0.0, "dram": max(read, written)}
    cost, log = AttentionCost(0.0, "", busy_s, {}, read, written, 28.0, 28.0), Log(("dram", "sram", "matrix", "vector", "launch"))
    played = play_attention(mapping, chip, cost, busy_s, InDram(queries=False, keys=False, output=part == "context"), part, log)
    found = log.intervals()
    works = (found.resource == found.resources.index("matrix")) & (found.what == KINDS.index("compute"))
    assert list(zip(found.start_s[works].tolist(), found.end_s[works].tolist(), strict=True)) == expected
    assert played.end == end
    assert {cause: cycles for cause, cycles in played.stalls.items() if cycles} == stalls


# --- on any chip ---


def any_chip(rng: random.Random) -> Chip:
    """One of the library with another array, vector unit, cores, latency and memories."""
    base = load_chip(rng.choice(["edge-npu", "cloud-npu", "gemmini-default", "tpu-v4i", "tpu-v6e"]))
    changes: dict[str, float] = {"matrix.rows": rng.choice([1, 4, 16]), "matrix.cols": rng.choice([1, 3, 16])}
    changes |= {"cores": rng.choice([1, 1, 2, 7]), "matrix.count": rng.choice([1, 3]), "vector.lanes": rng.choice([1, 8, 64])}
    changes |= {path: 0 for path in numeric_paths(base) if path.endswith(".latency") and rng.random() < 0.5}
    changes |= {f"memory.{level.name}.bandwidth": float(level.bandwidth.read) * rng.choice([0.001, 0.1, 1, 3]) for level in base.memory}
    return with_values(base, changes)


def any_mapping(rng: random.Random, chip: Chip) -> AttentionMapping:
    compute = "bf16" if "bf16" in chip.formats else "int8"
    bits, kv_heads, q_len = 16 if compute == "bf16" else 8, rng.randint(1, 3), rng.choice([1, 5, 12])
    kv_len, window = q_len + rng.choice([0, 9, 30]), rng.choice([None, 1, 3])
    heads = kv_heads * rng.randint(1, 2)
    attention = Attention(rng.randint(1, 3), heads, kv_heads, q_len, kv_len, 8, kv_len - q_len, window, bits, bits, 32, compute)
    fused = rng.random() < 0.8
    online = fused and compute == "bf16" and rng.random() < 0.5
    cores = int(chip.cores)
    split = rng.choice([(1, 1), (min(cores, attention.pairs), 1), (1, min(cores, q_len))])
    tiles = rng.randint(1, q_len), rng.randint(1, kv_len)
    mapping = AttentionMapping(attention, *tiles, fused, online, rng.randint(1, 2), split, rng.choice(chip.matrix.dataflows), "m")
    return replace(mapping, score_buffers=rng.randint(1, 2) if fused else 1)


@pytest.mark.parametrize("seed", range(60))
def test_no_play_is_below_its_bounds_and_better_hardware_is_never_slower(seed: int) -> None:
    """Of a fixed mapping, tiled and cycle alike; and every unit and level is as busy as charged."""
    rng = random.Random(f"any {seed}")
    chip = any_chip(rng)
    mapping, in_dram = any_mapping(rng, chip), InDram(*(rng.random() < 0.7 for _ in range(3)))
    counts = {"exp": rng.randint(0, 5000), "add": 77}

    def timed(chip: Chip) -> tuple[float, float]:
        cost = attention_cost(mapping, chip, counts, in_dram)
        played = play_attention(mapping, chip, cost, cost.busy_s, in_dram, "all")
        clock_hz = float(chip.clock_hz)
        for name, busy_s in cost.busy_s.items():
            assert played.busy[name] / clock_hz == pytest.approx(busy_s, rel=1e-9)
        least_s = least_cycles(mapping, chip, cost, cost.busy_s, in_dram, "all") / clock_hz
        assert max(cost.latency_s, least_s) <= played.end / clock_hz * (1 + 1e-9)
        return cost.latency_s, played.end / clock_hz

    before = timed(chip)
    numbers = {f"memory.{level.name}.bandwidth": level.bandwidth.read for level in chip.memory}
    for path, number in {"clock": chip.clock_hz, "vector.lanes": chip.vector.lanes, **numbers}.items():
        after = timed(with_values(chip, {path: 2 * number}))
        assert all(new <= old * (1 + 1e-9) for old, new in zip(before, after, strict=True)), path


def test_scores_that_pass_dram_do_not_keep_the_first_product_waiting_for_it() -> None:
    """Queries and keys lie on the chip: the array begins at once, and DRAM has answered when the first scores are back."""
    chip = load_chip("edge-npu")
    shape = Attention(1, 2, 2, 4, 64, 32, 60, None, 8, 8, 32, "int8")
    mapping, sides = AttentionMapping(shape, 4, 64, False, False, 2, (1, 1), "ws", "m"), InDram(False, False, False)
    cost = attention_cost(mapping, chip, {"exp": 512}, sides)
    played_s = play_attention(mapping, chip, cost, cost.busy_s, sides, "all").end / float(chip.clock_hz)
    assert cost.busy_s["matrix"] + cost.busy_s["vector"] <= cost.latency_s <= played_s
    slow = with_values(chip, {"memory.dram.latency": 1e-7 + 2 * played_s})
    assert attention_cost(mapping, slow, {"exp": 512}, sides).latency_s == cost.latency_s


def test_what_is_mapped_has_two_places_where_they_fit_and_help() -> None:
    """In little memory one place is what fits; what a core does at once has no use for two."""
    shape = Attention(1, 4, 2, 64, 64, 8, 0, None, 8, 8, 32, "int8")
    base = with_values(load_chip("edge-npu"), {"matrix.rows": 4, "matrix.cols": 4})
    found = {}
    for capacity in (400, 100_000):
        chip = with_values(base, {"memory.sram.capacity": capacity})
        mapping, cost = map_attention(shape, chip, {"exp": 100_000})
        found[capacity] = mapping.score_buffers
        other = attention_cost(replace(mapping, score_buffers=3 - mapping.score_buffers), chip, {"exp": 100_000})
        assert (other.latency_s < cost.latency_s) == (mapping.score_buffers == 1)
    assert found == {400: 1, 100_000: 2}
    alone, _ = map_attention(replace(shape, heads=2, kv_heads=1, q_len=1, mask_offset=63), base, {"exp": 128})
    assert alone.score_buffers == 1


@pytest.mark.parametrize("chip_name", ["cloud-npu", "gemmini-default", "tpu-v4i", "tpu-v5e"])
def test_a_longer_context_is_never_faster(chip_name: str) -> None:
    """Key by key, of one mapping: a full tile takes as long whatever follows, also where this only fills an array pass further."""
    chip, in_dram = load_chip(chip_name), InDram(queries=False, output=False)
    compute, bits = ("bf16", 16) if "bf16" in chip.formats else ("int8", 8)
    last_end, last_matrix_s, stays = 0.0, 0.0, 0
    for keys in range(561, 705):
        shape = Attention(1, 32, 8, 1, keys, 64, keys - 1, None, bits, bits, 32, compute)
        split = min(int(chip.cores), shape.pairs), 1
        mapping = AttentionMapping(shape, 1, 256, True, False, 2, split, chip.matrix.dataflows[0], "m", score_buffers=2)
        cost = attention_cost(mapping, chip, {"exp": 32 * keys}, in_dram)
        end = play_attention(mapping, chip, cost, cost.busy_s, in_dram, "all").end
        assert end >= last_end * (1 - 1e-12), keys
        stays += cost.busy_s["matrix"] == last_matrix_s
        last_end, last_matrix_s = end, cost.busy_s["matrix"]
    assert stays > 100


@pytest.mark.parametrize("online", [False, True])
def test_no_play_is_below_its_bounds_where_softmax_binds(online: bool) -> None:
    """With two places: what softmax waits for first, and what waits for it last, take the cycles of their own products."""
    bound = 0
    for seed in range(400):
        rng = random.Random(f"softmax {seed}")
        chip = any_chip(rng)
        mapping = replace(any_mapping(rng, chip), fused=True, online=online, score_buffers=2)
        in_dram = InDram(*(rng.random() < 0.7 for _ in range(3)))
        cost = attention_cost(mapping, chip, {"exp": 10 ** rng.uniform(3, 6)}, in_dram)
        played = play_attention(mapping, chip, cost, cost.busy_s, in_dram, "all")
        least = least_cycles(mapping, chip, cost, cost.busy_s, in_dram, "all")
        assert max(cost.latency_s * float(chip.clock_hz), least) <= played.end * (1 + 1e-9), seed
        bound += cost.bound_by == "vector"
    assert bound > 100
