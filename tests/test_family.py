"""Truth defended: chips that are timed together get, to the last bit, what each gets alone: mapping, latency, energy, what binds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functional.config import ModelConfig
from functional.errors import BadInput
from hwmodels import Chip, load_chip, numeric_paths, with_values
from hwmodels.many import chip_at, flat, shape_of, taken
from hwmodels.paths import value_of
from sim.cli import main
from sim.explore.many import tiled
from sim.explore.solve import solve
from sim.explore.step import Step
from sim.explore.sweep import sweep_table
from sim.mapper import NOTHING, Besides, family, map_gemm, moved_bytes
from sim.mapper.family import map_gemms
from sim.mapper.problem import setting_of
from sim.mapper.search import on_grid
from sim.mapper.space import all_of
from sim.mapping import Gemm, chip_stages
from tests.chips import chips, models
from tests.test_mapper import Unpruned
from tests.test_sweep import check_rows, written

quick = settings(max_examples=20, suppress_health_check=list(HealthCheck))
FACTORS = st.lists(st.sampled_from([0.125, 0.3, 0.5, 0.9, 1.0, 1.7, 2.0, 6.0]), min_size=2, max_size=3)


@st.composite
def families(draw: st.DrawFn, most_cores: int, most_stages: int = 1) -> Chip:
    """A random chip with arrays for two of its numbers: every combination of two or three multiples of each."""
    chip = draw(chips().filter(lambda chip: chip.cores <= most_cores and len(chip_stages(chip)) <= most_stages))
    paths = ["clock", "resident_share", "vector.lanes", "vector.cycles.exp", "overhead.launch"]
    paths += [f"memory.{level.name}.{field}" for level in chip.memory for field in ("capacity", "bandwidth")]
    paths += [path for path in numeric_paths(chip) if path.endswith(".latency")]
    paths += ["matrix.rows", "matrix.cols"] * (chip.matrix.kind == "systolic")
    chosen = draw(st.lists(st.sampled_from(paths), min_size=2, max_size=2, unique=True))
    values = {}
    for path, grid in zip(chosen, np.meshgrid(*(draw(FACTORS) for _ in chosen), indexing="ij"), strict=True):
        several = grid * float(value_of(chip, path))
        is_whole = path.endswith(("capacity", "rows", "cols"))
        values[path] = np.maximum(np.floor(several), 1) if is_whole else np.minimum(several, 0.99) if "share" in path else several
    return flat(with_values(chip, values))


def alone(step: Step, chip: Chip) -> tuple[Any, ...] | None:
    try:
        timing = step.time(chip)
    except BadInput:
        return None
    return timing.latency_s, timing.bound_by, timing.energy_j


def check_family(step: Step, many: Chip) -> None:
    own = [alone(step, chip_at(many, i)) for i in range(*shape_of(many))]
    if None in own:
        with pytest.raises(BadInput):
            tiled(step.plan(many))
        many = taken(many, [i for i, each in enumerate(own) if each])
        own = [each for each in own if each]
    if own:
        found = tiled(step.plan(many))
        energy_j = found.energy_j if found.energy_j is not None else [None] * len(own)
        assert own == list(zip(found.latency_s, found.bound_by, energy_j, strict=True))


@quick
@given(families(most_cores=7), models(), st.sampled_from(["prefill", "decode"]), st.sampled_from(["bf16", "int8"]), st.integers(1, 40))
def test_a_family_is_each_of_its_chips_alone(many: Chip, model: ModelConfig, phase: Any, number_format: str, length: int) -> None:
    check_family(Step(model, phase, 1, length, weights=number_format, activations=number_format, kv=number_format, engine="tiled"), many)


@pytest.mark.parametrize("name", ["edge-npu", "cloud-npu", "gemmini-default", "tpu-v6e"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_family_of_a_library_chip(name: str, phase: Any) -> None:
    chip = load_chip(name)
    bandwidth, clock, capacity = np.meshgrid(np.geomspace(0.3, 8, 3), np.geomspace(0.4, 2.5, 2), [0.25, 3.0], indexing="ij")
    inner = chip.memory[1]
    many = with_values(
        chip,
        {
            "memory.dram.bandwidth": chip.dram.bandwidth.read * bandwidth,
            "clock": chip.clock_hz * clock,
            f"memory.{inner.name}.capacity": np.floor(inner.capacity_bytes * capacity),
        },
    )
    check_family(Step("stories15m", phase, 2, 48, engine="tiled"), flat(many))


GEMMS = st.builds(
    lambda m, n, k, out, a_resident, moved, scales: (Gemm(m, n, k, 8, 8, out, 32, "int8"), a_resident, moved, scales),
    st.sampled_from([1, 2, 17, 64]),
    st.integers(1, 120),
    st.integers(1, 120),
    st.sampled_from([0, 8]),
    st.booleans(),
    st.sampled_from([0, 700, 50_000]),
    st.sampled_from([(), (40,), (300, 20)]),
)
"""A GEMM, whether A is resident, bytes read and written on each level besides, and bytes of scales."""


@settings(quick, max_examples=30)
@given(families(most_cores=7), GEMMS)
def test_the_mapping_of_many_chips_is_that_of_each(many: Chip, asked: tuple[Gemm, bool, int, tuple[int, ...]]) -> None:
    gemm, a_resident, moved, scales = asked
    besides = Besides(((moved, moved // 2),) * len(many.memory), scales) if moved else NOTHING
    try:
        each = [map_gemm(gemm, chip_at(many, i), a_resident=a_resident, besides=besides) for i in range(*shape_of(many))]
    except BadInput:
        with pytest.raises(BadInput):
            map_gemms(gemm, many, a_resident, besides)
        return
    found = map_gemms(gemm, many, a_resident, besides)
    for i, (mapping, cost) in enumerate(each):
        for field in ("latency_s", "bound_by", "dram_read_bytes", "dram_written_bytes", "moved_bytes", "issued_macs", "tile_steps"):
            assert getattr(found.cost, field)[i] == getattr(cost, field)
        for field in ("busy_s", "prefix_s", "suffix_s", "read_bytes", "written_bytes"):
            assert {name: values[i] for name, values in getattr(found.cost, field).items()} == getattr(cost, field)
        assert {name: values[i] for name, values in found.moved_bytes.items()} == moved_bytes(mapping, chip_at(many, i), a_resident)


@pytest.mark.parametrize("m", [1, 48])
def test_every_chip_of_a_fine_grid_has_its_own_best_mapping(m: int) -> None:
    chip, gemm = load_chip("edge-npu"), Gemm(m, 512, 768, 8, 8, 8, 32, "int8")
    bandwidth, clock = np.meshgrid(np.geomspace(10e9, 600e9, 14), np.geomspace(0.4e9, 3e9, 10), indexing="ij")
    many = flat(with_values(chip, {"memory.dram.bandwidth": bandwidth, "clock": clock}))
    found = map_gemms(gemm, many)
    each = [map_gemm(gemm, chip_at(many, i)) for i in range(*shape_of(many))]
    assert len({mapping for mapping, _ in each}) > 3
    for i, (_, cost) in enumerate(each):
        own = found.cost.latency_s[i], found.cost.moved_bytes[i], found.cost.tile_steps[i], found.cost.issued_macs[i]
        assert own == (cost.latency_s, cost.moved_bytes, cost.tile_steps, cost.issued_macs)


@pytest.mark.parametrize(("name", "shape"), [("edge-npu", (1, 1, 1)), ("edge-npu", (13, 6, 9)), ("cloud-npu", (3, 2, 4))])
def test_none_of_the_mappings_that_fit_is_lost_to_any_chip(name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as no chip has a best mapping nothing may be dropped: what is left is all that fits, of just those chips on which it fits."""
    left = list[tuple[Any, Any]]()
    price = family._Family._price_alive

    def noted(self: Any, bounds: Any, alive: Any) -> None:
        for block, own in zip(self.blocks, alive, strict=True):
            mappings = bounds.take(np.flatnonzero(own))
            chips, which = np.nonzero(self._latency_s(mappings, block) < np.inf)
            left.append((self.order[chips + block.start], mappings.places[which]))
        price(self, bounds, alive)

    monkeypatch.setattr(family, "MANY_BOXES", math.inf)
    monkeypatch.setattr(family, "FEW", 0)
    monkeypatch.setattr(family, "BLOCK", 4)
    monkeypatch.setattr(family._Family, "_offer", lambda self, choice: None)
    monkeypatch.setattr(family._Family, "_price_alive", noted)
    chip, gemm = load_chip(name), Gemm(*shape, 8, 8, 8, 32, "int8")
    capacity, clock = np.meshgrid([64.0, 400.0, 1e6], [1e8, 1e9, 3e9], indexing="ij")
    many = flat(with_values(chip, {f"memory.{chip.memory[1].name}.capacity": capacity, "clock": clock}))
    map_gemms(gemm, many)
    chips, places = (np.concatenate(each) for each in zip(*left, strict=True))
    for i in range(*shape_of(many)):
        setting, own = setting_of(gemm, chip_at(many, i)), places[chips == i].tolist()
        assert len(own) == len(set(own)) == Unpruned([setting], [all_of(setting)]).keys_of_all().shape[1]


@pytest.mark.parametrize("is_later", [True, False])
def test_a_block_keeps_what_is_better_by_the_least_bit(is_later: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping that is as good as the best of a chip but stands before it among all, or is a little faster, is never dropped."""
    chip, gemm = load_chip("edge-npu"), Gemm(48, 512, 768, 8, 8, 8, 32, "int8")
    bandwidth, clock = np.meshgrid(np.geomspace(10e9, 600e9, 12), np.geomspace(0.4e9, 3e9, 12), indexing="ij")
    many = flat(with_values(chip, {"memory.dram.bandwidth": bandwidth, "clock": clock}))
    setting = setting_of(gemm, chip)
    monkeypatch.setattr(family, "BLOCK", 1)  # else other chips of a block may keep it
    search = family._Family(setting, all_of(setting), many, family.Asked(gemm, False, NOTHING))
    assert sum(len(which) for which, _ in search.run()) == len(search.order) == len(search.blocks)
    search.virtual.clear()
    if is_later:
        search.key[4] += 1
    else:
        search.key[0] = on_grid(search.key[0] * (1 + 1e-9))
    for block, slots in enumerate(search.blocks):
        assert search._perhaps(search._bounds(0, search.where[:, slots]))[block].all()


@pytest.mark.parametrize("name", ["edge-npu", "cloud-npu"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_chips_that_differ_in_their_arrays_only_are_searched_side_by_side(name: str, phase: Any) -> None:
    rows, cols = np.meshgrid([5, 16, 32, 96], [8, 48, 64, 70], indexing="ij")
    many = flat(with_values(load_chip(name), {"matrix.rows": rows.astype(float), "matrix.cols": cols.astype(float)}))
    check_family(Step("stories15m", phase, 2, 48, engine="tiled"), many)


def test_rows_of_a_tiled_sweep_are_predictions_also_where_chips_cannot_be(tmp_path: Path) -> None:
    text = """
    base: edge-npu
    axes:
      clock: [0.7 GHz, 1.9 GHz]
      matrix.rows: [16, 0]
      memory.dram.bandwidth: [20 GB/s, 60 GB/s, 300 GB/s]
      memory.sram.capacity: [1 KiB, 12 KiB, 300 KiB]
    workloads: [{model: stories15m, phase: decode, context: 100}, {model: stories15m, phase: prefill, prompt: 33}]
    engine: tiled
    constraints: [fits, "latency_s < 1 ms"]
    """
    table = sweep_table(written(tmp_path, text))
    told = {(row["matrix.rows"], row["memory.sram.capacity"]): row["reason"] for row in table.to_pylist()}
    assert all("must be greater than 0" in told[0.0, size * 1024.0] for size in (1, 12, 300))
    valid = table.filter([row["matrix.rows"] > 0 for row in table.to_pylist()])
    assert 20 < check_rows(valid, "tiled") < len(valid) == 36


def test_boards_that_are_timed_as_calibrated_are_swept_one_by_one(tmp_path: Path) -> None:
    text = """
    base: h100-sxm5-80gb
    axes: {clock: [1.2 GHz, 1.7 GHz], memory.hbm.bandwidth: [2 TB/s, 3 TB/s, 4 TB/s]}
    workloads: [{model: stories15m, phase: decode, context: 100}]
    engine: tiled
    constraints: [fits, "latency_s < 1 ms"]
    """
    level = load_chip("h100-sxm5-80gb").dram.name
    table = sweep_table(written(tmp_path, text.replace("memory.hbm", f"memory.{level}")))
    assert check_rows(table, "tiled") == 6


def test_what_is_asked_in_vain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = "base: edge-npu\naxes: {memory.sram.capacity: [1 B, 2 B]}\nworkloads: [{model: stories15m, prompt: 8}]\nengine: tiled\n"
    command = ["rooftile", "sweep", str(written(tmp_path, text)), "--out", str(tmp_path / "a.parquet")]
    for more in (["--workers", "0"], []):  # no workers; and a sweep of which no chip can be
        monkeypatch.setattr("sys.argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert ("--workers" if more else "memory.sram.capacity") in capsys.readouterr().err
    with pytest.raises(BadInput, match="clock: is varied twice"):
        solve("stories15m", "edge-npu", "TPOT 1 ms", ["clock", "clock"], cost="clock=1")
