"""What is counted while a mapping executes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Cargo: TypeAlias = Literal[
    "activations", "weights", "psums", "outputs", "queries", "keys", "values", "scores", "maxima", "exponentials", "probabilities"
]
"""What moves. `psums` are unfinished sums in the accumulator's format, `outputs` finished ones in the output format."""


class Traffic(NamedTuple):
    """One kind of movement: the level's name, what moved, and in which direction as seen from that level."""

    level: str
    cargo: Cargo
    direction: Literal["read", "write"]


@dataclass(eq=True)
class Tally:
    """Counts of one execution, over all cores.

    `useful_macs`: unmasked products. `issued_macs`: what the matrix units carry out, padding of their granules and masked parts of computed
    tiles included. `issued_by_core`: those of each core that has any, and `issued_by_unit` of its first matrix unit. `moves`: tiles by
    movement between levels and by their elements. `exchanged`: elements that the matrix units, and in attention the vector unit, read from
    and write to the levels next to them. `turns`: how often, at the stage of that index (of the first core, where each has its own), the
    next tile lies elsewhere along an axis than the one before it, which tells two orders of loops apart even where they move the same; and
    `longest`: the extent of the longest of these tiles, which tells two sizes apart that take as many steps.
    `softmaxes`: how often the vector unit takes up scores of an attention: whole rows of a query tile, or online those of one key tile.
    `held_bits`: the most that one instance of a level has to make room for, by level and cargo, all buffers of a tile counted.
    """

    useful_macs: int = 0
    issued_by_core: dict[object, float] = field(default_factory=dict)
    issued_by_unit: dict[object, float] = field(default_factory=dict)
    moves: dict[tuple[Traffic, int], int] = field(default_factory=dict)
    exchanged: Counter[Traffic] = field(default_factory=Counter)
    turns: Counter[tuple[int, str]] = field(default_factory=Counter)
    longest: Counter[tuple[int, str]] = field(default_factory=Counter)
    softmaxes: int = 0
    held_bits: dict[tuple[str, Cargo], int] = field(default_factory=dict)

    @property
    def issued_macs(self) -> int:
        return _whole(sum(self.issued_by_core.values()))

    @property
    def busiest_macs(self) -> int:
        """What the core with the most work issues."""
        return _whole(max(self.issued_by_core.values(), default=0))

    @property
    def busiest_unit_macs(self) -> int:
        """What the matrix unit with the most work issues: the array's time."""
        return _whole(max(self.issued_by_unit.values(), default=0))

    @property
    def busy_cores(self) -> int:
        """Cores that issue any."""
        return sum(macs > 0 for macs in self.issued_by_core.values())

    def issue(self, core: object, issued: tuple[float, float]) -> None:
        """MACs of all matrix units of a core, and of the first of them; of a PE that takes 2.4 of them at once not whole ones."""
        self.issued_by_core[core] = self.issued_by_core.get(core, 0.0) + issued[0]
        self.issued_by_unit[core] = self.issued_by_unit.get(core, 0.0) + issued[1]

    def move(self, level: str, cargo: Cargo, direction: Literal["read", "write"], elements: int, tiles: int = 1) -> None:
        """Tiles of so many elements each, read from or written to a level."""
        key = Traffic(level, cargo, direction), elements
        self.moves[key] = self.moves.get(key, 0) + tiles

    def exchange(self, level: str, cargo: Cargo, direction: Literal["read", "write"], elements: int) -> None:
        """Elements that units read from or write to a level."""
        if elements:
            self.exchanged[Traffic(level, cargo, direction)] += elements

    @property
    def elements(self) -> Counter[Traffic]:
        """Elements by movement."""
        totals: Counter[Traffic] = Counter()
        for (movement, elements), tiles in self.moves.items():
            totals[movement] += elements * tiles
        return totals

    def moved_bytes(self, level: str, direction: Literal["read", "write"], bits: Mapping[Cargo, int], burst_bytes: int) -> int:
        """Bytes that pass a level in one direction, every tile on bursts of its own; `bits` per element of the cargoes that are counted."""
        total = 0
        for (movement, elements), tiles in self.moves.items():
            if movement.level == level and movement.direction == direction and movement.cargo in bits:
                total += tiles * -(-elements * bits[movement.cargo] // (8 * burst_bytes)) * burst_bytes
        return total

    def exchanged_bits(self, level: str, direction: Literal["read", "write"], bits: Mapping[Cargo, int]) -> int:
        """Bits that units exchange with a level in one direction; `bits` per element of the cargoes that are counted."""
        counted = ((movement, elements) for movement, elements in self.exchanged.items() if movement.cargo in bits)
        return sum(elements * bits[each.cargo] for each, elements in counted if (each.level, each.direction) == (level, direction))

    def hold(self, level: str, cargo: Cargo, bits: int) -> None:
        """A tile that a level has to make room for."""
        self.held_bits[level, cargo] = max(self.held_bits.get((level, cargo), 0), bits)

    def level_bits(self, level: str) -> int:
        """The most that one instance of a level has to hold."""
        return sum(bits for (name, _), bits in self.held_bits.items() if name == level)


def _whole(macs: float) -> int:
    """The nearest whole number, where sums of fractions have rounded halves to either side."""
    return round(round(macs, 3))
