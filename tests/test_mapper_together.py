"""Truth defended: GEMMs that are mapped together or one after another get, to the last bit, mapping and cost that each gets alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functional.errors import BadInput
from hwmodels import load_chip
from sim import trace_model
from sim.engines import tiled
from sim.mapper import NOTHING, Asked, Besides, MappedGemm, Objective, map_gemm, map_together, remembered_place, space, tables
from sim.mapper.problem import setting_of
from sim.mapper.search import Search
from sim.mapper.space import remembered_columns
from sim.mapping import Gemm
from sim.plan import plan
from tests.test_mapper import chips
from workloads.split import parts_of


def alone(each: Asked, chip: Any, objective: Objective, pieces: int) -> MappedGemm | str:
    """The mapping of a search of its own, or why there is none."""
    remembered_columns.cache_clear()
    return after_others(each, chip, objective, pieces)


def after_others(each: Asked, chip: Any, objective: Objective, pieces: int) -> MappedGemm | str:
    """The same with what is remembered of the axes of other GEMMs."""
    remembered_place.cache_clear()
    try:
        return map_gemm(each.gemm, chip, objective, each.a_resident, each.besides, pieces)
    except BadInput as error:
        return str(error)


@st.composite
def questions(draw: st.DrawFn, levels: int, limit: int) -> list[Asked]:
    """GEMMs of few forms, so that several share one; some with extents alike, and results that are not written."""
    extents = draw(st.lists(st.integers(1, limit), min_size=3, max_size=6))
    extent, size = st.sampled_from(extents), st.integers(0, 5000)
    found = []
    for _ in range(draw(st.integers(2, 6))):
        a_bits, out_bits = draw(st.sampled_from([8, 8, 8, 16])), draw(st.sampled_from([0, 4, 8, 16]))
        gemm = Gemm(draw(extent), draw(extent), draw(extent), a_bits, 8, out_bits, 32, "int8", draw(st.booleans()))
        besides = Besides(tuple((draw(size), draw(size)) for _ in range(levels)), draw(st.sampled_from([(), (40,), (300, 20)])))
        found.append(Asked(gemm, draw(st.sampled_from([False, False, True])), draw(st.sampled_from([NOTHING, besides]))))
    return found


@pytest.mark.parametrize(("memories", "cores", "limit", "most"), [
    ((0, 1, 2), (1, 2), 40, 40),
    ((0, 1, 2), (1, 2, 3, 7), 300, 15),
    ((3, 4, 5, 6, 7, 8), (1, 2, 3), 60, 6),
])
@pytest.mark.parametrize("columns", [32768, 100])
def test_gemms_together_and_one_after_another_are_each_alone(
    memories: tuple[int, ...], cores: tuple[int, ...], limit: int, most: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where little room is for what is remembered of their axes."""
    monkeypatch.setattr(space, "_MOST_COLUMNS", columns)
    monkeypatch.setattr(space, "_COLUMNS_AT_FIRST", 1)

    @settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        chip = data.draw(chips(memories=memories, cores=cores, room=limit > 40))
        asked = data.draw(questions(len(chip.memory), limit))
        objectives: list[Objective] = ["latency", "latency", "traffic"]
        objective = data.draw(st.sampled_from(objectives))
        pieces = data.draw(st.sampled_from([1, 1, int(chip.cores)]))
        asked = [each._replace(gemm=replace(each.gemm, n=each.gemm.n * pieces)) for each in asked]
        each = [alone(one, chip, objective, pieces) for one in asked]
        assert [after_others(one, chip, objective, pieces) for one in asked] == each
        remembered_place.cache_clear()
        fine = [(one, answer) for one, answer in zip(asked, each, strict=True) if not isinstance(answer, str)]
        if len(fine) < len(asked):
            with pytest.raises(BadInput) as error:
                map_together(asked, chip, objective, pieces)
            assert str(error.value) in each
        assert map_together([one for one, _ in fine], chip, objective, pieces) == [answer for _, answer in fine]

    check()


@pytest.mark.parametrize("name", ["edge-npu", "gemmini-default", "cloud-npu", "tpu-v4i", "tpu-v6e"])
@pytest.mark.parametrize("scenario", [{"phase": "prefill", "prompt": 100}, {"phase": "decode", "context": 500, "batch": 3}])
def test_the_gemms_of_a_plan_are_mapped_together_as_they_are_alone(name: str, scenario: dict[str, Any]) -> None:
    chip = load_chip(name)
    planned = plan(trace_model("llama-3.2-1b", chip.default_format, **scenario), chip)
    linears = [each for each in planned.classes if any(op.kind == "Linear" for op in each.ops)]
    each = [alone(tiled.asked_of(group, planned), chip, "latency", parts_of(planned.graph)) for group in linears]
    remembered_place.cache_clear()
    mapped = tiled.map_classes(planned)
    found = [own.choice for group, own in zip(planned.classes, mapped, strict=True) if group in linears]
    assert [(choice.mapping, choice.cost) for choice in found if isinstance(choice, tiled.GemmChoice)] == each


def test_what_is_asked_again_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chip, gemm = load_chip("edge-npu"), Gemm(8, 64, 64, 8, 8, 8, 32, "int8")
    remembered_place.cache_clear()
    first, second, _ = map_together([Asked(gemm), Asked(replace(gemm, n=32)), Asked(gemm)], chip)
    monkeypatch.setattr("sim.mapper.search.Search.run", None)
    assert map_gemm(gemm, chip) is first
    assert map_together([Asked(replace(gemm, n=32)), Asked(gemm)], chip) == [second, first]


def test_axes_in_common_with_an_earlier_gemm_are_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chip, gemm = load_chip("cloud-npu"), Gemm(40, 640, 200, 16, 16, 16, 32, "bf16")
    remembered_columns.cache_clear()
    map_gemm(gemm, chip)
    filled: list[list[int]] = []

    def fill(settings: Any, axes: Any, *args: Any) -> list[int]:
        filled.append([each.axis for each in axes])
        return tables.fill(settings, axes, *args)

    monkeypatch.setattr(space, "fill", fill)
    map_gemm(replace(gemm, n=320), chip)
    map_gemm(replace(gemm, m=39, n=320), chip)
    map_gemm(replace(gemm, m=39), chip)
    map_gemm(replace(gemm, m=39, k=640, n=200), chip)
    assert filled == [[1], [0], [2, 1]]


def test_axes_of_other_tiles_or_parts_are_not_taken_for_each_other() -> None:
    """A GEMM so small that each integer is a tile, and one with as long axes that is not; axes in one part and in two."""
    chip = load_chip("cloud-npu")
    found = []
    for m, split in product((8, 80), ((1, 1), (1, 2))):
        setting = setting_of(Gemm(m, 40, 40, 16, 16, 16, 32, "bf16"), chip)
        chosen, orders, tiles_of = space.all_of(setting)
        own = [variant for variant in chosen if variant.split == split]
        for axis in Search([setting], [(own, orders, tiles_of)]).axes[1:]:
            found.append(axis.tiles[0].shape[1])
    assert found == [40, 40, 20, 40, 12, 12, 8, 12]


def test_threads_may_ask_for_gemms_of_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_MOST_COLUMNS", 2000)
    monkeypatch.setattr(space, "_COLUMNS_AT_FIRST", 1)
    chip = load_chip("edge-npu")
    asked = [Asked(Gemm(8 * i, 40 + 8 * (i % 7), 64, 8, 8, 8, 32, "int8")) for i in range(1, 41)]
    each = [alone(one, chip, "latency", 1) for one in asked]
    remembered_place.cache_clear()
    remembered_columns.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda one: map_together([one], chip)[0], asked)] == each
