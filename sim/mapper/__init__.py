"""The mapper: of all ways to tile, order, place and split one GEMM on a chip, the one of least tiled cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from typing import Any, Literal, NamedTuple, TypeAlias

from functional.errors import BadInput, Problem
from hwmodels.chip import Chip
from sim.mapper.cost import (
    GemmCost,
    chip_bytes,
    chip_traffic,
    cost_of,
    longest_tiles,
    macs_of_cores,
    room_bits,
    tile_turns,
    weights_fetched,
)
from sim.mapper.problem import NOTHING, Asked, Besides, Choice, Extents, Setting, capacity_bytes, setting_of, tile_bits
from sim.mapper.search import search_each, search_few
from sim.mapper.traffic import TrafficTile, map_gemm_traffic
from sim.mapping import AXES, Axis, Gemm, GemmMapping, StageTiling, Tile

__all__ = [
    "NOTHING",
    "Asked",
    "Besides",
    "ChipUse",
    "GemmCost",
    "MappedGemm",
    "Objective",
    "TrafficTile",
    "chip_use",
    "choice_of",
    "cost_gemm",
    "is_soon_within",
    "map_gemm",
    "map_gemm_traffic",
    "map_together",
    "mapping_of",
    "moved_bytes",
]

Objective: TypeAlias = Literal["latency", "traffic"]


class MappedGemm(NamedTuple):
    """A mapping and its tiled cost."""

    mapping: GemmMapping
    cost: GemmCost


def map_gemm(
    gemm: Gemm, chip: Chip, objective: Objective = "latency", a_resident: bool = False, besides: Besides = NOTHING, pieces: int = 1
) -> MappedGemm:
    """The best mapping: of least latency, then DRAM bytes, then bytes moved, then tile steps; for "traffic" DRAM bytes come first.

    `a_resident`: A is an intermediate that the plan keeps on the chip; it is read where it lies, and needs no tile there. `besides`: what
    the levels move for the GEMM's group at the same time; the latency that is least is that of both. The cost is the GEMM's own. `pieces`:
    into how many pieces its columns are cut, each for a core of its own; 1 leaves the cores to the mapper.
    Exact over all candidates of `sim.mapper.candidates` if the chip has one stage, or if they are few, the stages two and the cores at most
    two; else over those that it thins out. What decides among equals is the canonical key of `sim.mapper.search`.
    Raises `BadInput` for extents or chips that are arrays, a format without a rate, levels too small for a single element of each tile, and
    pieces that are uneven or more than there are cores.
    """
    return map_together([Asked(gemm, a_resident, besides)], chip, objective, pieces)[0]


def map_together(asked: Sequence[Asked], chip: Chip, objective: Objective = "latency", pieces: int = 1) -> list[MappedGemm]:
    """What `map_gemm` says of each of some GEMMs on one chip, in less time: those of the same formats are searched side by side.

    Raises `BadInput` where `map_gemm` does for any of them.
    """
    if objective not in ("latency", "traffic"):
        raise BadInput(Problem(f"unknown objective '{objective}'", "known: latency, traffic", path="objective"))
    questions = [_Question(each, objective, pieces, id(chip), each.on(chip, pieces)) for each in asked]
    places = [remembered_place(question) for question in questions]
    new = list({question: place for question, place in zip(questions, places, strict=True) if not place}.items())
    founds = search_each([question.setting for question, _ in new], objective)
    for (question, place), found in zip(new, founds, strict=True):
        assert found.choice is not None
        cost = cost_of(question.setting, found.choice, found.costs)
        place.append(MappedGemm(mapping_of(question.setting, found.choice), cost))
    return [place[0] for place in places]


@dataclass(frozen=True, slots=True)
class _Question:
    """What is mapped, on the very same chip: `setting` holds it, so that its identity stays its own."""

    asked: Asked
    objective: Objective
    pieces: int
    chip_identity: int
    setting: Setting = field(compare=False)


@lru_cache(maxsize=64)
def remembered_place(question: _Question) -> list[MappedGemm]:
    """Where the answer is kept, once it is known: layers ask alike."""
    return []


_FEW_BOXES = (1, 10_000)
"""Boxes with which a search for any good mapping is content: the first that it comes upon, and mostly one within 0.1 % of the best."""


def is_soon_within(
    most_s: float, gemm: Gemm, chip: Chip, a_resident: bool = False, besides: Besides = NOTHING, pieces: int = 1
) -> bool:
    """Whether a short search meets a mapping that takes at most so long [s], with what the levels move besides. If it does, the best one
    takes no longer; if not, nothing is known."""
    setting = setting_of(gemm, chip, a_resident, besides, pieces)
    return any(search_few(setting, boxes).key[0] <= most_s for boxes in _FEW_BOXES)


def cost_gemm(mapping: GemmMapping, chip: Chip, a_resident: bool = False) -> GemmCost:
    """The tiled cost of a given mapping; raises `BadInput` where the chip cannot carry it out."""
    setting = setting_of(mapping.gemm, chip, a_resident)
    problems = _unfit(setting, mapping)
    if problems:
        raise BadInput(problems)
    return cost_of(setting, choice_of(mapping))


def moved_bytes(mapping: GemmMapping, chip: Chip, a_resident: bool = False) -> dict[str, float]:
    """Bytes that a mapping reads from and writes to each level, over the whole chip."""
    return chip_bytes(setting_of(mapping.gemm, chip, a_resident), choice_of(mapping))


def weight_passes(mapping: GemmMapping, chip: Chip, a_resident: bool = False) -> Fraction:
    """How often a mapping reads the weights from DRAM."""
    gemm = mapping.gemm
    return Fraction(weights_fetched(setting_of(gemm, chip, a_resident), choice_of(mapping)), gemm.n * gemm.k)


class ChipUse(NamedTuple):
    """What a mapping asks of a chip, all cores together: bytes read from and written to each level, bytes that one instance of each on-chip
    level has to hold, how often the next tile of a stage lies elsewhere along an axis, and how long the longest is, the MACs that the
    busiest core and the busiest matrix unit issue, and how many cores issue any."""

    read_bytes: dict[str, float]
    written_bytes: dict[str, float]
    room_bytes: dict[str, float]
    turns: dict[tuple[int, str], int]
    longest: dict[tuple[int, str], int]
    busiest_macs: int
    busiest_unit_macs: int
    busy_cores: int


def chip_use(mapping: GemmMapping, chip: Chip, a_resident: bool = False) -> ChipUse:
    """What a GEMM asks of a chip."""
    setting, choice = setting_of(mapping.gemm, chip, a_resident), choice_of(mapping)
    traffic = chip_traffic(setting, choice)
    room = {name: bits / 8 for name, bits in room_bits(setting, choice).items()}
    macs, tiles = macs_of_cores(setting, choice), (tile_turns(setting, choice), longest_tiles(setting, choice))
    busiest = max(macs), max(macs_of_cores(setting, choice, first_unit=True))
    return ChipUse(_floats(traffic.read), _floats(traffic.written), room, *tiles, *busiest, sum(each > 0 for each in macs))


def _floats(sizes: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(size) for name, size in sizes.items()}


def _ranks_of(order: tuple[Axis, Axis, Axis]) -> Extents:
    """The place of the loop over each axis, 0 outermost."""
    return order.index("m"), order.index("n"), order.index("k")


def choice_of(mapping: GemmMapping) -> Choice:
    """A mapping, as the search sees it."""
    ranks = tuple(_ranks_of(stage.order) for stage in mapping.stages)
    tiles = tuple((stage.tile.m, stage.tile.n, stage.tile.k) for stage in mapping.stages)
    return Choice(tiles, ranks, mapping.split, mapping.dataflow, mapping.array_axis)


_ORDERS: dict[Extents, tuple[Axis, Axis, Axis]] = {_ranks_of((a, b, c)): (a, b, c) for a, b, c in permutations(AXES)}
"""Axes by the ranks of their loops, outermost first."""


def mapping_of(setting: Setting, choice: Choice) -> GemmMapping:
    """A choice of the search, as a mapping."""
    tilings = []
    for stage, tile, ranks in zip(setting.stages, choice.tiles, choice.ranks, strict=True):
        buffers = 2 if any(level.double_buffered for level in stage.levels) else 1
        tilings.append(StageTiling(Tile(*map(int, tile)), _ORDERS[ranks], buffers))
    return GemmMapping(
        setting.gemm, tuple(tilings), choice.split, setting.split_stage, choice.dataflow, "n" if choice.array_axis == "n" else "m"
    )


def _unfit(setting: Setting, mapping: GemmMapping) -> list[Problem]:
    """Why a chip cannot carry out a mapping."""
    chip, found = setting.chip, []
    flows = chip.matrix.dataflows
    if chip.matrix.kind == "systolic" and mapping.dataflow not in flows:
        cure = f"choose {' or '.join(flows)}, or add it to the list"
        found.append(Problem(f"the array of {chip.name} has no dataflow '{mapping.dataflow}'", cure, path="matrix.dataflows"))
    asked = mapping.split[0] * mapping.split[1]
    if asked > setting.cores:
        found.append(
            Problem(
                f"a split into {asked} parts needs as many cores; {chip.name} has {setting.cores}", f"raise cores to {asked}", path="cores"
            )
        )
    if len(mapping.stages) != len(setting.stages) or mapping.split_stage != setting.split_stage:
        found.append(Problem(f"the mapping was made for other memory than that of {chip.name}", "map the GEMM again", path="memory"))
        return found
    for place in setting.places[1:]:
        level, needed = place.level, int(tile_bits(setting, place.level, mapping.stages[place.stage].tile)) / 8
        room = capacity_bytes(setting, level)
        if needed > room:
            path = f"memory.{level.name}.capacity"
            least = -(-needed * float(level.capacity_bytes) // room)
            found.append(Problem(f"the tiles take {needed:.0f} of {room:.0f} bytes", f"raise {path} to at least {least:.0f} B", path=path))
    return found
