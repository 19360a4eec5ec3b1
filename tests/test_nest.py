"""Defends: the few rows by which a play knows a loop nest tell it what all steps, written down one by one, would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.chip import Chip
from sim.engines import nest
from sim.engines.nest import Nest, Walk
from sim.mapper.problem import setting_of
from sim.mapping import GemmMapping
from tests import test_mapper as some
from tests import walked_gemm


def nest_on(mapping: GemmMapping, chip: Chip, kept: int) -> Nest:
    """The nest with so many trips told apart at either end of a loop."""
    held = tuple((role, tuple(place.stage for place in places[1:])) for role, places in setting_of(mapping.gemm, chip).holders.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nest, "KEPT", kept)
        return Nest(mapping, held)


def rows_of(found: Nest) -> Iterator[int]:
    """The row of each step."""
    walk = Walk(found, found.codes())
    while not walk.is_over:
        yield walk.row
        walk.go_on()


def asked(found: Nest, row: int) -> list[Any]:
    """All that a play may ask of a step: the piece, and of each held tile itself and those before and after it."""
    answers: list[Any] = [found.pieces[row], found.rows.lengths[row].tolist()]
    for role, of_role in found.stays.items():
        for each, turns in zip(of_role, found.turns[role], strict=True):
            here = int(each.of_row[row])
            answers += [bool(each.begins[row]), here == 0, here == 1, here == len(each.begin) - 1, int(each.steps[here]), bool(turns[here])]
            answers += [int(each.elements[here]), bool(each.last[here]), int(each.ago[here])]
            if here + 1 < len(each.begin):
                answers += [int(each.elements[here + 1]), bool(turns[here + 1]), int(each.ago[here + 1])]
            if here:
                answers += [int(each.elements[here - 1]), bool(each.last[here - 1])]
    return answers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_rows_stand_for_all_steps(data: st.DataObject) -> None:
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(24))
    mapping = data.draw(some.mappings(gemm, chip))
    few, all_steps = nest_on(mapping, chip, nest.KEPT), nest_on(mapping, chip, 10**6)
    walked = [step for step in walked_gemm.nest(mapping, (0, 0)) if step]
    assert few.steps == all_steps.steps == len(walked) == int(few.rows.often.sum())
    lengths = [[[span.stop - span.start for span in block] for block in step] for step in walked]
    starts = [[[span.start for span in block] for block in step] for step in walked]
    assert all_steps.rows.lengths.tolist() == lengths
    assert all_steps.rows.starts.tolist() == starts
    told = list(rows_of(few))
    for step, row in enumerate(told):
        assert asked(few, row) == asked(all_steps, step), step
    for role, of_role in few.stays.items():
        for each, full in zip(of_role, all_steps.stays[role], strict=True):
            assert int(each.often.sum()) == len(full.begin)
            assert int((each.often * each.elements).sum()) == int(full.elements.sum())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_trips_are_alike_if_all_their_steps_are(data: st.DataObject) -> None:
    """Counted on all steps; skipping them ends where walking them does."""
    chip, gemm = data.draw(some.chips()), data.draw(some.gemms(24))
    mapping = data.draw(some.mappings(gemm, chip))
    early = data.draw(st.booleans())
    few, all_steps = nest_on(mapping, chip, nest.KEPT), nest_on(mapping, chip, 10**6)
    codes = all_steps.codes(early)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nest, "KEPT", 10**6)
        full, counts, loops = Walk(all_steps, codes), [], []
        while not full.is_over:
            loops.append((full.loop, full.trip if full.loop >= 0 else 0))
            counts.append(full.alike(full.trip) if full.loop >= 0 else 0)
            full.go_on()
    walk, step = Walk(few, few.codes(early)), 0
    told = list(rows_of(few))
    while not walk.is_over:
        assert walk.row == told[step]
        assert (walk.loop, walk.trip if walk.loop >= 0 else 0) == loops[step]
        alike = walk.alike(walk.trip) if walk.loop >= 0 else 0
        assert alike == counts[step]
        if alike and data.draw(st.booleans()):
            begins = [i for i in range(step) if loops[i] == (walk.loop, walk.trip - 1) or (walk.trip == 1 and i == 0)]
            period = step - max(begins) if begins and walk.trip > 1 else 0
            if period:
                last = walk.skip(alike)
                step += alike * period
                assert last == told[step - 1]
                continue
        step += 1
        walk.go_on()
    assert step == len(told)
