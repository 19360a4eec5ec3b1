"""Truth defended: what verify compares pins a mapping down: whichever field of it is changed, execution refuses it, or what comes out, or
what it takes, is no longer what was charged.

Fields are found by introspection, down to the numbers of each tile: a new one without a mutation fails here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import permutations
from typing import Any

import pytest

from functional.config import ModelConfig
from hwmodels import load_chip, with_values
from hwmodels.chip import Chip, Role
from sim.api import trace_model
from sim.attention_mapping import Attention, AttentionMapping, core_parts, key_tiles, visible_keys
from sim.engines.play_gemm import play_gemm
from sim.execute.tally import Cargo, Tally
from sim.mapper import chip_use, choice_of, cost_gemm
from sim.mapper.attention_cost import AttentionCost, InDram, attention_cost, attention_use
from sim.mapper.cost import cost_of
from sim.mapper.problem import setting_of
from sim.mapping import AXES, GemmMapping, Span, StageTiling, Tile, levels_of
from sim.plan import plan
from sim.verification.border import level_bytes
from sim.verification.charge import ChargedGroup, charged_groups, resident_tensors
from sim.verification.check import Checker
from sim.verification.golden_run import golden_step
from sim.verification.run import AttentionStep, LinearStep, Machine
from tests.test_execute import MEMORIES, execute, gemm, level, random_mapping
from tests.test_execute import chip as small_chip
from tests.walked_gemm import nest
from workloads.scenario import PHASES, Phase

MODEL = ModelConfig("tiny", 40, 56, 1, 6, 2, 8, 204, 256, 1e-5, 10000.0, sliding_window=11, tie_word_embeddings=False)


def chip(name: str) -> Chip:
    """A chip of the library, with so little memory that a tiny model has several tiles along every axis; "granules": with tensor cores of
    no technology, "cores": with three of them below a memory that they share."""
    if name == "granules":
        unit = replace(load_chip("edge-npu").matrix, kind="tensor_core", tile=(4, 2, 4), dataflows=())
        return replace(chip("edge-npu"), matrix=unit)
    if name == "cores":
        return with_values(chip("tpu-v4i"), {"cores": 3})
    changes: dict[str, dict[str, Any]] = {
        "edge-npu": {"memory.sram.capacity": 2500, "matrix.rows": 4, "matrix.cols": 8, "cores": 3, "matrix.count": 2},
        "gemmini-default": {"memory.scratchpad.capacity": 1200, "memory.accumulator.capacity": 900, "matrix.rows": 4, "matrix.cols": 4},
        "cloud-npu": {"memory.sram.capacity": 5000, "matrix.rows": 4, "matrix.cols": 8},
        "tpu-v4i": {"memory.cmem.capacity": 20000, "memory.vmem.capacity": 5000, "matrix.rows": 4, "matrix.cols": 8},
    }
    return with_values(load_chip(name), changes.get(name, {}))


@dataclass(frozen=True)
class Case:
    """One phase of the model on a chip, golden and charged."""

    chip: Chip
    checker: Checker
    groups: tuple[ChargedGroup, ...]

    def of(self, kind: type) -> list[ChargedGroup]:
        """Groups whose step is of a kind."""
        return [group for group in self.groups if isinstance(group.step, kind)]

    def differences(self, group: ChargedGroup, mapping: Any) -> tuple[str, ...]:
        """What verify says of a group that is charged for its own mapping and executed by another one."""
        assert group.step is not None
        checks = self.checker._group(replace(group, step=replace(group.step, mapping=mapping)))
        return tuple(told for check in checks for told in check.differences)


def case(name: str, phase: Phase, split: int = 1, seed: int = 0) -> Case:
    """Other seeds have other numbers, lengths and batches, and no window."""
    hardware, model = chip(name), MODEL if seed == 0 else replace(MODEL, sliding_window=None)
    batch, prompt = [(2, 23), (1, 30), (3, 13)][seed]
    graph = trace_model(model, hardware.default_format, phase=phase, batch=batch, prompt=prompt, split=split)
    planned = plan(graph, hardware)
    golden = golden_step(model, graph, seed)
    groups = tuple(charged_groups(planned))
    machine = Machine(hardware, hardware.default_format, golden.scales)
    return Case(hardware, Checker(graph, golden, machine, groups, resident_tensors(planned)), groups)


def whole_step(case: Case, group: ChargedGroup, **changes: Any) -> tuple[str, ...]:
    """What verify says of a group whose step is changed in fields other than its mapping."""
    assert group.step is not None
    checks = case.checker._group(replace(group, step=replace(group.step, **changes)))
    return tuple(told for check in checks for told in check.differences)


# Other values of a field -----------------------------------------------------------------------------------------------------------------

Other = Callable[[Any], list[Any]]


def near(number: int) -> list[int]:
    return [each for each in (number - 1, number + 1, 2 * number) if each != number]


def other_splits(split: tuple[int, int]) -> list[tuple[int, int]]:
    return [each for each in [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (0, 1), split[::-1]] if each != split]


OTHER: dict[str, Other] = {
    "int": near,
    "int | None": lambda window: [None, 1, 5] if window is not None else [3],
    "bool": lambda flag: [not flag],
    "split": other_splits,
    "order": lambda order: [each for each in permutations(AXES) if each != order],
    "dataflow": lambda flow: [each for each in ("os", "ws", "is", "rs", "") if each != flow],
    "array_axis": lambda axis: ["n" if axis == "m" else "m"],
    "compute": lambda compute: [each for each in ("int8", "bf16", "fp32", "none") if each != compute],
}
"""Other values of a field: by its name, else by its type."""


def mutants(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, a copy with that one field changed) for every field below a dataclass."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            for name, other in mutations_of(getattr(value, field.name), f"{path}.{field.name}", field.name, str(field.type)):
                yield name, replace(value, **{field.name: other})


def mutations_of(value: Any, path: str, name: str, kind: str) -> Iterator[tuple[str, Any]]:
    other = OTHER.get(name) or OTHER.get(kind)
    if other is not None:
        yield from ((path, each) for each in other(value))
    elif hasattr(value, "_fields"):
        for each in value._fields:
            for inner, changed in mutations_of(getattr(value, each), f"{path}.{each}", each, type(getattr(value, each)).__name__):
                yield inner, value._replace(**{each: changed})
    elif isinstance(value, tuple):
        yield f"{path} shorter", value[:-1]
        for i, each in enumerate(value):
            yield from ((inner, (*value[:i], changed, *value[i + 1 :])) for inner, changed in mutants(each, f"{path}[{i}]"))
    elif is_dataclass(value):
        yield from mutants(value, path)
    else:
        raise AssertionError(f"{path} ({kind}) has no mutation; give it one in OTHER")


def test_every_field_has_a_mutation() -> None:
    """All the way down; and nothing that is not known by name or type is passed over."""
    step = case("edge-npu", "prefill").of(LinearStep)[0].step
    assert isinstance(step, LinearStep)
    names = {path for path, _ in mutants(step.mapping)}
    wanted = {"split", "split_stage", "dataflow", "array_axis", "stages shorter", "gemm.m", "gemm.compute"}
    assert {f".{each}" for each in wanted} <= names
    assert {f".stages[0].{each}" for each in ("tile.m", "tile.n", "tile.k", "order", "buffers")} <= names

    @dataclass(frozen=True)
    class Grown:
        prefetch: float

    with pytest.raises(AssertionError, match=r"\.prefetch \(float\) has no mutation"):
        list(mutants(Grown(1.0)))


# What may pass ---------------------------------------------------------------------------------------------------------------------------


def written_otherwise(case: Case, group: ChargedGroup, path: str, mine: Any, other: Any) -> bool:
    """Whether a changed mapping is the same one: the same tiles on the same cores one after another, or a field that says nothing here.

    Of a GEMM `nest` lists, for each core and step, the tiles of all stages. Everything else follows from that list: a stage fetches or
    stores exactly where its tile of a role is not the one of the step before, or the core sat out in between; it has room for its largest
    tile times `buffers`, which no such path changes; and what the array gets are the innermost tiles, in this order. So lists that are
    equal are one execution: mostly loops with one trip in another order, or tiles larger than what they cut. Of an attention the same is
    true of pairs, query tiles, key tiles and visible keys of each core. `array_axis` parts a tile over the units of a core: over one unit,
    or granules of a tensor core that are not parted by it, there is nothing to say. `keys_shared` is about the second read of a key from
    DRAM. Parts of a split that are empty leave their cores out. `same_execution` checks all of this on what is executed and charged.
    """
    if path == ".array_axis":
        return case.chip.matrix.kind == "tensor_core" or case.chip.matrix.count == 1
    if isinstance(mine, GemmMapping):
        geometry = path.endswith(".order") or ".tile." in path or (path == ".split" and min(other.split) > 0)
        cores = [(i, j) for i in range(max(mine.split[0], other.split[0])) for j in range(max(mine.split[1], other.split[1]))]
        return geometry and all(nest(mine, core) == nest(other, core) for core in cores)
    if path == ".keys_shared":  # keys that lie on the chip, or that no second tile of queries looks at
        seen = [(pair, keys) for pairs, _, tiles, _ in attention_tiles(mine) for pair in range(*pairs) for keys in tiles]
        return group.ops[0].inputs[1].tensor in case.checker.resident or len(seen) == len(set(seen))
    geometry = path in (".split", ".q_tile", ".kv_tile", ".attention.window", ".attention.mask_offset")
    return geometry and list(attention_tiles(mine)) == list(attention_tiles(other))


def attention_tiles(mapping: AttentionMapping) -> Iterator[tuple[Span, Span, list[Span], list[Span]]]:
    """Pairs of a core, query tile, its key tiles, and the keys that each query sees."""
    for pairs, queries in core_parts(mapping):
        for tile in queries:
            yield pairs, tile, key_tiles(mapping, tile), [visible_keys(mapping.attention, Span(i, i + 1)) for i in range(*tile)]


def same_execution(case: Case, group: ChargedGroup, path: str, mine: Any, other: Any) -> bool:
    """Whether two mappings give the same numbers, by the same loads, stores, exchanges with the array and buffers one after another, and
    are charged the same."""
    (numbers, log), (other_numbers, other_log) = (executed(case, group, mapping) for mapping in (mine, other))
    in_dram = InDram(keys=group.ops[0].inputs[1].tensor not in case.checker.resident)
    if path == ".keys_shared" and not in_dram.keys:  # what a core reads of DRAM lies on the chip, in the level that it would come to first
        home = levels_of(case.chip, "activations")[0].name
        arriving = [("move", home, cargo, "write") for cargo in ("keys", "values")]
        log, other_log = ([each for each in calls if "dram" not in each and each[:4] not in arriving] for calls in (log, other_log))
    if isinstance(mine, GemmMapping):
        charges = [(chip_use(each, case.chip), cost_of(setting_of(each.gemm, case.chip), choice_of(each))) for each in (mine, other)]
    else:
        charges = [(attention_use(each, case.chip, in_dram),) for each in (mine, other)]
    if path == ".split" and (1, 1) in (mine.split, other.split):  # the bound is looser where any of several cores may come last
        charges = [each[:1] for each in charges]
    return numbers == other_numbers and log == other_log and charges[0] == charges[1]


def executed(case: Case, group: ChargedGroup, mapping: Any) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Outputs, and every call that counts something, in order."""
    log: list[tuple[Any, ...]] = []

    class Recorded(Tally):
        def move(self, *each: Any, **more: Any) -> None:
            log.append(("move", *each, *more.values()))

        def exchange(self, *each: Any) -> None:
            log.append(("exchange", *each))

        def hold(self, *each: Any) -> None:
            log.append(("hold", *each))

    golden = [case.checker.golden.ops[op.name] for op in group.ops]
    machine, step = case.checker.machine, replace(group.step, mapping=mapping)  # type: ignore[type-var]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("gemm", "attention"):
            patch.setattr(f"sim.execute.{module}.Tally", Recorded)
        if isinstance(step, LinearStep):
            linears = [each for each in golden if each.op.kind == "Linear"]
            found, tally = machine.linears(step, linears[0].inputs[0], [each.inputs[1] for each in linears])
        else:
            assert isinstance(step, AttentionStep)
            sides = (*golden[0].inputs, golden[-1].inputs[1])
            output, tally = machine.attention(step, sides, golden[2].attrs["scale"])  # type: ignore[arg-type]
            found = [output]
    log += [("issued", *each) for each in tally.issued_by_core.items()] + [("turns", *each) for each in tally.turns.items()]
    return [each.values.tolist() for each in found], log


def check_mutants(each: Case, groups: Iterable[ChargedGroup]) -> None:
    """Each change is refused, or found, or another way of writing the same."""
    for group in groups:
        assert group.step is not None
        mine = group.step.mapping
        assert each.differences(group, mine) == ()
        for path, other in mutants(mine):
            if not each.differences(group, other):
                told = f"{group.ops[0].name}{path}: {mine} passes as {other}"
                assert written_otherwise(each, group, path, mine, other), told
                assert same_execution(each, group, path, mine, other), told


CHIPS = ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "h100-sxm5-80gb", "cores", "granules"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", CHIPS)
def test_a_change_of_any_field_is_found(name: str, phase: Phase) -> None:
    each = case(name, phase)
    linears = each.of(LinearStep)
    check_mutants(each, (linears[0], linears[-1], *each.of(AttentionStep)))


@pytest.mark.slow
@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", CHIPS)
def test_a_change_of_any_field_of_any_group_is_found(name: str, phase: Phase, seed: int, split: int) -> None:
    """Every GEMM and attention, with other numbers, lengths and batches, and in pieces where there are cores for them."""
    if split > 1 and name in ("gemmini-default", "tpu-v4i", "h100-sxm5-80gb"):
        return
    each = case(name, phase, split, seed)
    check_mutants(each, each.of(LinearStep) + each.of(AttentionStep))


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_change_of_any_field_of_any_mapping_is_found(memory: str) -> None:
    """Also of mappings that no mapper would choose: what is charged for one is not what another takes."""
    rng = random.Random(f"mutants {memory}")
    for _ in range(2):
        levels = [replace(each, multicast=rng.random() < 0.5) for each in MEMORIES[memory]]
        hardware = small_chip(*levels, cores=rng.choice([1, 2, 6]), count=rng.randint(1, 3))
        mine = random_mapping(rng, hardware, gemm(rng.randint(4, 9), rng.randint(4, 16), rng.randint(4, 9)))
        mine = replace(mine, stages=tuple(replace(stage, buffers=2) for stage in mine.stages))
        charged = as_charged(mine, hardware)
        assert as_executed(mine, hardware) == charged
        for path, other in mutants(mine):
            if path.startswith(".gemm"):  # other operands
                continue
            try:
                found = as_executed(other, hardware)
            except (ValueError, AssertionError):
                continue
            if found == charged:
                cores = [(i, j) for i in range(mine.split[0]) for j in range(mine.split[1])]
                units = path == ".array_axis" and hardware.matrix.count == 1
                assert units or all(nest(mine, core) == nest(other, core) for core in cores), (path, mine, other)
                assert as_charged(other, hardware) == charged


BITS: dict[Cargo, int] = {"activations": 8, "weights": 8, "psums": 32, "outputs": 8}


def as_executed(mapping: GemmMapping, hardware: Chip) -> list[Any]:
    tally = execute(mapping, hardware)
    levels = [level_bytes(each.name, tally, BITS) for each in hardware.memory[1:]]
    dram = [tally.moved_bytes("dram", way, BITS, hardware.dram.burst_bytes) for way in ("read", "write")]
    busiest = tally.busiest_macs, tally.busiest_unit_macs, tally.busy_cores
    return [*(tuple(each) for each in levels), *dram, +tally.turns, +tally.longest, *busiest, tally.issued_macs]


def as_charged(mapping: GemmMapping, hardware: Chip) -> list[Any]:
    use, names = chip_use(mapping, hardware), [each.name for each in hardware.memory[1:]]
    cost = cost_of(setting_of(mapping.gemm, hardware), choice_of(mapping))
    levels = [(use.read_bytes[each], use.written_bytes[each], use.room_bytes[each]) for each in names]
    dram = [cost.dram_read_bytes, cost.dram_written_bytes]
    busiest = use.busiest_macs, use.busiest_unit_macs, use.busy_cores
    return [*levels, *dram, +Counter(use.turns), +Counter(use.longest), *busiest, cost.issued_macs]


def test_no_field_is_without_effect() -> None:
    """On a chip with several cores and units, each field has a change that is found, not only ones that say the same otherwise."""
    each = case("edge-npu", "prefill")
    for group in (each.of(LinearStep)[0], *each.of(AttentionStep)):
        assert group.step is not None
        paths, found = set(), set()
        for path, other in mutants(group.step.mapping):
            paths.add(path)
            if path not in found and each.differences(group, other):
                found.add(path)
        assert found == paths


def test_fields_of_pieces() -> None:
    """Linears in pieces on a core each: the number of pieces, and every field of the mapping that they share."""
    each = case("edge-npu", "prefill", split=2)
    group = each.of(LinearStep)[0]
    assert isinstance(group.step, LinearStep)
    assert (group.step.pieces, group.step.mapping.split, len(group.step.names)) == (2, (1, 2), 6)
    assert each.differences(group, group.step.mapping) == ()
    for pieces in (3, 4):
        assert "pieces are for as many cores" in whole_step(each, group, pieces=pieces)[0]
    check_mutants(each, (group,))


# Any mapping -----------------------------------------------------------------------------------------------------------------------------


WITHOUT: dict[str, frozenset[Role]] = {
    "weights": frozenset({"activations", "psums"}),
    "activations": frozenset({"weights", "psums"}),
}
PASSED_BY = {  # two memories that all cores share, past which an operand goes from DRAM to cores
    f"{operand} pass by": (level("l3", others, "chip"), level("l2", others, "chip"), level("sram")) for operand, others in WITHOUT.items()
}


@pytest.mark.parametrize("memory", [*MEMORIES, *PASSED_BY])
def test_any_mapping_takes_what_it_is_charged(memory: str) -> None:
    """On each level, in order and by core: not only mappings that the mapper likes. Cores that sit out a block come back with nothing, so
    that what they fetch is read again even where the first core still holds it and the level, DRAM too, multicasts."""
    rng = random.Random(memory)
    for seed in range(60 if memory in MEMORIES else 15):
        levels = [replace(each, multicast=rng.random() < 0.5) for each in (MEMORIES | PASSED_BY)[memory]]
        cores = rng.choice([1, 2, 3, 7])
        hardware = small_chip(*levels, cores=cores, count=rng.randint(1, 3), rates={"int8": rng.choice([1, 2, 4])})
        dram = replace(hardware.dram, multicast=rng.random() < 0.5, burst_bytes=rng.choice([1, 7, 64]))
        hardware = replace(hardware, memory=(dram, *levels))
        mapping = random_mapping(rng, hardware, gemm(rng.randint(1, 14), rng.randint(1, 24), rng.randint(1, 14)))
        mapping = replace(mapping, stages=tuple(replace(stage, buffers=2) for stage in mapping.stages))
        tally, charged = execute(mapping, hardware, seed), chip_use(mapping, hardware)
        for each in hardware.memory[1:]:
            found = level_bytes(each.name, tally, BITS)
            assert found.read_bytes == charged.read_bytes[each.name], mapping
            assert found.written_bytes == charged.written_bytes[each.name], mapping
            assert found.room_bytes == charged.room_bytes[each.name], mapping
        cost = cost_gemm(mapping, hardware)
        through_dram = [tally.moved_bytes("dram", way, BITS, dram.burst_bytes) for way in ("read", "write")]
        assert through_dram == [cost.dram_read_bytes, cost.dram_written_bytes], mapping
        assert {key: tally.turns[key] for key in charged.turns} == charged.turns, mapping
        assert tally.longest == charged.longest, mapping
        assert tally.busiest_macs == charged.busiest_macs, mapping
        assert tally.busiest_unit_macs == charged.busiest_unit_macs, mapping
        assert tally.busy_cores == charged.busy_cores, mapping


def test_the_same_work_on_other_cores_is_found() -> None:
    """Attention over 30 queries and keys of 2 pairs: the last of three query tiles, of both pairs, is as much work as all those of one."""

    def three_parts(attention: Attention, chip: Chip, counts: Any, *rest: Any, **more: Any) -> tuple[AttentionMapping, AttentionCost]:
        mapping = AttentionMapping(attention, 10, 2, True, False, 2, (1, 3), "ws", "m")
        return mapping, attention_cost(mapping, chip, counts, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.engines.tiled.map_attention", three_parts)
        each = case("edge-npu", "prefill", seed=1)
    (group,) = each.of(AttentionStep)
    assert isinstance(group.step, AttentionStep)
    mine = group.step.mapping
    told = each.differences(group, replace(mine, split=(2, 1)))
    assert told == ("busy_cores: 2 tallied, 3 charged",)


def test_matrix_units_take_whole_folds() -> None:
    """Of 4 + 3 rows each core gives its to one of its 3 units, of 4 rows each; of 7 + 6 to two of them."""
    hardware = small_chip(*MEMORIES["one"], cores=2, count=3)
    for rows, units in ((7, 1), (13, 2)):
        mapping = GemmMapping(gemm(rows, 4, 4), (StageTiling(Tile(7, 4, 4), AXES, 2),), (2, 1), 0, "os", "m")
        tally = execute(mapping, hardware)
        assert dict(tally.issued_by_core) == {(0, 0): units * 4 * 4 * 4, (1, 0): units * 4 * 4 * 4}
        assert chip_use(mapping, hardware).busiest_macs == tally.busiest_macs == units * 4 * 4 * 4


COME_BACK = {
    "weights pass by": ((14, 15, 7), [((9, 7, 3), "nkm"), ((8, 4, 3), "nmk"), ((2, 4, 2), "nmk")], (2, 1)),
    "activations pass by": ((13, 18, 11), [((6, 10, 8), "kmn"), ((1, 7, 5), "nkm"), ((1, 2, 5), "nmk")], (1, 4)),
}


@pytest.mark.parametrize("memory", COME_BACK)
def test_a_core_that_comes_back_reads_a_multicasting_dram_again(memory: str) -> None:
    """In tiled cost, in charge and tally: one burst of 64 bytes more than the first core makes; and cycle keeps DRAM busy for as much."""
    extents, tilings, split = COME_BACK[memory]
    stages = tuple(StageTiling(Tile(*tile), tuple(order), 2) for tile, order in tilings)  # type: ignore[arg-type]
    mapping = GemmMapping(gemm(*extents), stages, split, 2, "ws", "m")
    hardware = small_chip(*PASSED_BY[memory], cores=4)
    read = {}
    for multicast in (True, False):
        each = replace(hardware, memory=(replace(hardware.dram, multicast=multicast), *hardware.memory[1:]))
        tally, cost = execute(mapping, each), cost_gemm(mapping, each)
        read[multicast] = cost.dram_read_bytes
        assert tally.moved_bytes("dram", "read", BITS, 64) == cost.dram_read_bytes
        assert chip_use(mapping, each).read_bytes["dram"] == cost.dram_read_bytes
        busy_s = (cost.dram_read_bytes + cost.dram_written_bytes) / each.read_bytes_per_s(each.dram)
        assert play_gemm(mapping, each, cost).busy["dram"] == pytest.approx(busy_s * each.clock_hz)
    assert read[True] == {"weights pass by": 10240, "activations pass by": 11840}[memory] < read[False]


@pytest.mark.parametrize("field", ["act_bits", "kv_bits", "acc_bits"])
def test_an_attention_of_other_formats_is_refused(field: str) -> None:
    """Also where what it holds is the same number of whole bytes: one key, whose sums would take a quarter of a byte less."""
    model = ModelConfig("small", 8, 8, 1, 2, 2, 6, 204, 256, 1e-5, 10000.0, tie_word_embeddings=True)
    hardware = chip("edge-npu")
    planned = plan(trace_model(model, "int8", phase="prefill", prompt=1), hardware)
    golden, groups = golden_step(model, planned.graph, 0), tuple(charged_groups(planned))
    checker = Checker(planned.graph, golden, Machine(hardware, "int8", golden.scales), groups, resident_tensors(planned))
    each = Case(hardware, checker, groups)
    (group,) = each.of(AttentionStep)
    assert group.step is not None
    mine = group.step.mapping
    assert each.differences(group, mine) == ()
    attention = mine.attention
    assert isinstance(attention, Attention)
    told = each.differences(group, replace(mine, attention=replace(attention, **{field: getattr(attention, field) - 1})))
    assert any("bits per element of queries, keys and sums" in difference for difference in told)
