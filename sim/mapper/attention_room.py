"""What an attention mapping holds at a time, and whether that fits: a level of a core holds what its core works on, one that cores share
what all of them do."""

from __future__ import annotations

from typing import Any

from hwmodels.chip import Chip
from hwmodels.formulas.elementwise import larger, smaller
from sim.attention_mapping import AttentionMapping
from sim.mapping import innermost
from sim.plan import resident_level


def fits(mapping: AttentionMapping, chip: Chip) -> bool:
    """Whether all that the mapping holds at a time fits the levels that hold it."""
    return bool(fit(mapping, mapping.kv_tile, chip))


def fit(mapping: AttentionMapping, kv_tiles: Any, chip: Chip) -> Any:
    """The same with key tiles of other sizes."""
    levels = {level.name: level for level in chip.memory}
    fine: Any = True
    for name, held in _held_bytes(mapping, kv_tiles, chip).items():
        share = 1 - chip.resident_share if levels[name] is resident_level(chip) else 1.0
        fine = fine & (held <= share * levels[name].capacity_bytes)
    return fine


def held_bytes(mapping: AttentionMapping, chip: Chip) -> dict[str, float]:
    """What one instance of each level has to hold at a time, if it holds anything."""
    return _held_bytes(mapping, mapping.kv_tile, chip)


def _held_bytes(mapping: AttentionMapping, kv_tiles: Any, chip: Chip) -> dict[str, Any]:
    attention = mapping.attention
    rows = mapping.q_tile * attention.rows_per_query
    kv_tile = smaller(kv_tiles, attention.kv_len)
    kept_keys = attention.kv_len if mapping.fused and not mapping.online else kv_tile
    sums_wide = attention.head_dim + mapping.score_buffers * kv_tile if mapping.online else larger(attention.head_dim, kv_tile)
    operands, sums = innermost(chip, "activations"), innermost(chip, "psums")
    held_bits: dict[str, Any] = {operands.name: 0.0, sums.name: 0.0}
    held_bits[operands.name] = mapping.score_buffers * rows * (attention.head_dim + kept_keys) * attention.act_bits
    held_bits[operands.name] = held_bits[operands.name] + 2 * mapping.buffers * kv_tile * attention.head_dim * attention.kv_bits
    held_bits[sums.name] = held_bits[sums.name] + rows * sums_wide * attention.acc_bits
    of_cores = {level.name: mapping.busy_cores for level in (operands, sums) if level.per == "chip"}
    return {name: bits / 8 * of_cores.get(name, 1) for name, bits in held_bits.items()}
