"""Counts of one group: charged, or tallied while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class LevelBytes(NamedTuple):
    """Of one on-chip level, for the tiles of a mapping: bytes read and written by all cores, and what one instance has to hold at a time.

    Bytes are whole ones, rounded up.
    """

    read_bytes: int
    written_bytes: int
    room_bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """MACs and bytes of one group: charged, or tallied while it runs. `levels` are on-chip; `turns` is how often the next tile of a stage
    lies elsewhere along an axis of a GEMM ("0 k" for k at the outermost stage), which is its order; of an attention, how often the vector
    unit takes up scores ("softmax"), which tells online softmax from whole rows. `longest` are the extents of a stage's longest tile, named
    as turns are. `busiest_core_macs` are those that the core with the most
    work issues, `busiest_unit_macs` those of a matrix unit, `busy_cores` how many issue any."""

    useful_macs: int = 0
    issued_macs: int = 0
    busiest_core_macs: int = 0
    busiest_unit_macs: int = 0
    busy_cores: int = 0
    dram_read_bytes: int = 0
    dram_written_bytes: int = 0
    levels: Mapping[str, LevelBytes] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)
    longest: Mapping[str, int] = field(default_factory=dict)

    def differences(self, charged: Counts) -> list[str]:
        """Where a tally is not what was charged."""
        mine, theirs = self.flat(), charged.flat()
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return [f"{name}: {_shown(mine.get(name))} tallied, {_shown(theirs.get(name))} charged" for name in names]

    def flat(self) -> dict[str, int]:
        """Every number by its name."""
        numbers: dict[str, int] = {name: getattr(self, name) for name in self.__slots__[:7]}
        for level, each in self.levels.items():
            numbers |= {f"{level}.{name}": number for name, number in each._asdict().items()}
        tiles = {"turns": self.turns, "longest": self.longest}
        return numbers | {f"{what}.{name}": number for what, each in tiles.items() for name, number in each.items()}

    def plus(self, read: int, written: int) -> Counts:
        """With DRAM bytes of what streams past the mapping."""
        return replace(self, dram_read_bytes=self.dram_read_bytes + read, dram_written_bytes=self.dram_written_bytes + written)


def _shown(number: int | None) -> str:
    return "nothing" if number is None else f"{number:,}"
