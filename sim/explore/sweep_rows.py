"""From boxes of points to rows of a table: latencies, what binds, what fits, which constraints hold, and why a chip cannot be."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput
from hwmodels.chip import Chip
from hwmodels.costs import area_mm2
from hwmodels.paths import with_values
from sim.engines import roofline
from sim.engines.roofline_arrays import bounds
from sim.engines.tiled_family import takes_families
from sim.explore.limits import needed_bytes
from sim.explore.many import tiled
from sim.explore.step import Step, errors_of, why_not
from sim.explore.sweep_file import METRICS, Axis, Sweep
from sim.explore.sweep_grid import Box, Grid
from sim.mapper.family import FEWEST
from sim.timeline import LOST

if TYPE_CHECKING:
    import pyarrow as pa

_NEVER_CONTRADICT = (
    *("clock", "tdp", "rates", "cycles", "lanes", "bandwidth", "latency", "burst", "launch", "resident_share"),
    *("energy", "area"),
)
"""Fields on which no contradiction of a chip depends; a chip is checked once for all their values."""

OTHER = "other"
"""What binds, if an engine names something else than a unit, a level or a cause of loss."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Results:
    """What a box comes to, one entry per point; `bound_by` counts in the words of that column. With a reason, figures mean nothing; energy
    and area are None where nothing is known of them."""

    latency_s: Floats
    floor_s: Floats
    energy_j: Floats | None
    area_mm2: Floats | None
    bound_by: NDArray[np.int32]
    fits: NDArray[np.bool_]
    memory_bytes: int
    reason: NDArray[np.object_] | None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Results on their way: columns [points] to be filled in, `reason` with empty texts."""

    latency_s: Floats
    floor_s: Floats
    energy_j: Floats
    area_mm2: Floats
    bound_by: NDArray[np.int32]
    fits: NDArray[np.bool_]
    needed: int
    reason: NDArray[np.object_]


@dataclass
class Evaluator:
    """Evaluates the boxes of one sweep; keeps what they share."""

    sweep: Sweep
    _contradictions: dict[Any, NDArray[np.object_] | None] = field(default_factory=dict)
    _constants: dict[Any, pa.Array] = field(default_factory=dict)
    _memory: dict[Any, int] = field(default_factory=dict)

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.sweep)

    @cached_property
    def schema(self) -> pa.Schema:
        return schema(self.sweep)

    @cached_property
    def words(self) -> dict[str, list[str]]:
        """The dictionary of each column of words: the same in every chunk, whatever is in it."""
        return _words(self.sweep)

    def results(self, box: Box) -> Results:
        """Evaluate one box."""
        try:
            chip = self.grid.chip(box)
            graph = box.step.graph(chip.default_format)
            box.step.plan(chip)
        except BadInput as error:
            return self._none(box, why_not(error))
        reason = self._reasons(box, chip)
        if reason is not None and all(reason):
            return self._none(box, "", reason)
        key = id(box.step), chip.default_format
        if key not in self._memory:
            self._memory[key] = int(needed_bytes(graph))
        evaluate = self._vectorised if self.sweep.engine == "roofline" else self._by_families
        return evaluate(box, chip, self._memory[key], reason)

    def _none(self, box: Box, text: str, reason: NDArray[np.object_] | None = None) -> Results:
        shape = box.points
        nothing = np.full(shape, np.nan)
        given = reason if reason is not None else np.full(shape, text, dtype=object)
        return Results(nothing, nothing, None, None, np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.bool_), 0, given)

    def _vectorised(self, box: Box, chip: Chip, needed: int, reason: NDArray[np.object_] | None) -> Results:
        values = {}
        for d, (dimension, taken) in enumerate(zip(self.sweep.numbers, box.ranges, strict=True)):
            shape = [1] * len(box.ranges)
            shape[d] = len(taken)
            for axis in dimension:
                values[axis.path] = _possible(axis, chip)[taken.start : taken.stop].reshape(shape)
        many = with_values(chip, dict(sorted(values.items())))
        planned = box.step.plan(many)
        found = bounds(planned)
        names, index = found.bound_by(box.shape)

        def flat(value: Any) -> Any:
            return None if value is None else np.broadcast_to(np.asarray(value), box.shape).reshape(-1)

        return Results(
            flat(found.latency_s),
            flat(roofline.floor_s(planned.demand, many)),
            flat(found.energy_j),
            flat(area_mm2(many)),
            np.array([self._bound(name) for name in names], dtype=np.int32)[index.reshape(-1)],
            flat(needed <= np.asarray(many.dram.capacity_bytes)),
            needed,
            reason,
        )

    def _by_families(self, box: Box, chip: Chip, needed: int, reason: NDArray[np.object_] | None) -> Results:
        """Chips that differ in rates and capacities together, others apart."""
        latency_s, floor_s, energy_j, area = np.full((4, box.points), np.nan)
        columns = _Columns(
            latency_s,
            floor_s,
            energy_j,
            area,
            np.zeros(box.points, dtype=np.int32),
            np.zeros(box.points, dtype=np.bool_),
            needed,
            np.full(box.points, "", dtype=object) if reason is None else reason,
        )
        fewest = FEWEST if self.sweep.engine == "tiled" and takes_families(box.step.plan(chip)) else box.points + 1
        numbers = np.arange(box.points).reshape(box.shape)
        cuts = zip(box.ranges, self.grid.parts_families, strict=True)
        apart: list[Sequence[Any]] = [range(len(taken)) if parts else [slice(None)] for taken, parts in cuts]
        for at in itertools.product(*apart):
            points = numbers[at].reshape(-1)
            self._family(box, chip, points[columns.reason[points] == ""], columns, fewest)
        spent, size = None if chip.energy is None else energy_j, None if chip.area is None else area
        told = columns.reason if any(columns.reason) else None
        return Results(latency_s, floor_s, spent, size, columns.bound_by, columns.fits, needed, told)

    def _family(self, box: Box, chip: Chip, points: NDArray[np.int64], columns: _Columns, fewest: int) -> None:
        """Time chips that share a search, if they are not too few; those that cannot be mapped are found by halves."""
        if len(points) < fewest:
            for point in points.tolist():
                self._one(box, chip, point, columns)
            return
        at = np.array(np.unravel_index(points, box.shape))
        values = self._numbers(at + np.array([[taken.start] for taken in box.ranges]))
        many = with_values(chip, {path: each if (each != each[0]).any() else float(each[0]) for path, each in values.items()})
        planned = box.step.plan(many)
        try:
            found = tiled(planned)
        except BadInput:
            for half in np.array_split(points, 2):
                self._family(box, chip, half, columns, fewest)
            return
        columns.latency_s[points], columns.floor_s[points] = found.latency_s, roofline.floor_s(planned.demand, many)
        columns.energy_j[points], columns.area_mm2[points] = found.energy_j, area_mm2(many)
        columns.fits[points] = columns.needed <= np.asarray(many.dram.capacity_bytes)
        names, index = np.unique(found.bound_by.astype(str), return_inverse=True)
        columns.bound_by[points] = np.array([self._bound(name) for name in names.tolist()], dtype=np.int32)[index]

    def _one(self, box: Box, chip: Chip, point: int, columns: _Columns) -> None:
        """Time one chip by itself."""
        at = [np.array(taken[i]) for taken, i in zip(box.ranges, np.unravel_index(point, box.shape), strict=True)]
        one = with_values(chip, {path: float(each) for path, each in self._numbers(at).items()})
        try:
            timing = box.step.time(one)
        except BadInput as error:
            columns.reason[point] = why_not(error)
            return
        columns.latency_s[point], columns.bound_by[point] = timing.latency_s, self._bound(timing.bound_by)
        columns.energy_j[point], columns.area_mm2[point] = timing.energy_j, area_mm2(one)
        columns.floor_s[point] = float(roofline.floor_s(box.step.plan(one).demand, one))
        columns.fits[point] = columns.needed <= int(one.dram.capacity_bytes)

    def _bound(self, name: str) -> int:
        words = self.words["bound_by"]
        return words.index(name if name in words else OTHER)

    def _numbers(self, at: Sequence[Any]) -> dict[str, NDArray[np.float64]]:
        """The values at indices of each dimension, in the order in which a bandwidth comes before its directions."""
        chosen = {axis.path: np.asarray(axis.values)[i] for dimension, i in zip(self.sweep.numbers, at, strict=True) for axis in dimension}
        return dict(sorted(chosen.items()))

    def _reasons(self, box: Box, chip: Chip) -> NDArray[np.object_] | None:
        """Why each point is no chip; None if all are."""
        alone = [[axis.reasons for axis in dimension if axis.reasons] for dimension in self.sweep.numbers]
        matters = [any(alone[d]) or any(_may_contradict(axis) for axis in dimension) for d, dimension in enumerate(self.sweep.numbers)]
        ranges = [taken if relevant else range(1) for taken, relevant in zip(box.ranges, matters, strict=True)]
        key = box.chip_index, box.choice, tuple(ranges)
        if key not in self._contradictions:
            told = [self._contradiction(chip, at, matters) for at in itertools.product(*ranges)]
            self._contradictions[key] = np.array(told, dtype=object).reshape([len(each) for each in ranges]) if any(told) else None
        shaped = self._contradictions[key]
        return None if shaped is None else np.broadcast_to(shaped, box.shape).reshape(-1).copy()

    def _contradiction(self, chip: Chip, at: tuple[int, ...], matters: Sequence[bool]) -> str:
        values: dict[str, float] = {}
        impossible = []
        for dimension, i, relevant in zip(self.sweep.numbers, at, matters, strict=True):
            for axis in dimension if relevant else ():
                if i in axis.reasons:
                    impossible.append(axis.reasons[i])
                else:
                    values[axis.path] = float(axis.values[i])
        problems = errors_of(with_values(chip, dict(sorted(values.items()))))
        return "; ".join([*impossible, *(str(problem) for problem in problems)])


def _may_contradict(axis: Axis) -> bool:
    return not any(part in _NEVER_CONTRADICT for part in axis.path.split("."))


def _possible(axis: Axis, chip: Chip) -> Floats:
    """The values, those that no chip can have replaced by the chip's own: their rows carry a reason and no figures."""
    values = np.asarray(axis.values, dtype=np.float64)
    if axis.reasons:
        from sim.explore.sweep_file import own_value

        values = values.copy()
        values[list(axis.reasons)] = own_value(chip, axis.path)
    return values


RESULT_COLUMNS = ("valid", "reason", *METRICS, "bound_by", "feasible")
"""Columns that have to be worked out; all others follow from the number of the point."""


def schema(sweep: Sweep) -> pa.Schema:
    """Columns with their units: what a point is, then what came of it."""
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    columns: list[tuple[str, Any, str | None]] = [("chip", word, None)]
    columns += [(axis.path, _type(axis, word), axis.unit or None) for axis in sweep.axes]
    columns += [("model", word, None), ("phase", word, None), ("batch", pa.int64(), "sequences"), ("q_len", pa.int64(), "tokens")]
    columns += [("kv_len", pa.int64(), "tokens"), *((name, word, None) for name in ("weights", "activations", "kv", "logits"))]
    columns += [("valid", pa.bool_(), None), ("reason", pa.string(), None)]
    columns += [
        (name, pa.bool_() if unit is None else pa.int64() if name == "memory_bytes" else pa.float64(), unit)
        for name, unit in METRICS.items()
    ]
    columns += [("bound_by", word, None), ("feasible", pa.bool_(), None)]
    return pa.schema([pa.field(name, kind, metadata={"unit": unit} if unit else None) for name, kind, unit in columns])


def _type(axis: Axis, word: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if isinstance(axis.values, np.ndarray):
        return pa.float64()
    return pa.bool_() if isinstance(axis.values[0], bool) else word


def table(evaluator: Evaluator, boxes: range) -> pa.Table:
    """The rows of some boxes."""
    return described(evaluator, boxes, results_table(evaluator, boxes))


def results_table(evaluator: Evaluator, boxes: range) -> pa.Table:
    """The columns that have to be worked out."""
    import pyarrow as pa

    columns = pa.schema([evaluator.schema.field(name) for name in RESULT_COLUMNS])
    return pa.concat_tables([_box_results(evaluator, evaluator.grid.box(number), columns) for number in boxes])


def described(evaluator: Evaluator, boxes: range, results: pa.Table) -> pa.Table:
    """Their results with the columns that say what each point is."""
    import pyarrow as pa

    facts = [_box_facts(evaluator, evaluator.grid.box(number)) for number in boxes]
    columns = {name: pa.chunked_array([fact[name] for fact in facts], evaluator.schema.field(name).type) for name in facts[0]}
    arrays = [columns[name] if name in columns else results[name] for name in evaluator.schema.names]
    return pa.Table.from_arrays(arrays, schema=evaluator.schema)


def _box_facts(evaluator: Evaluator, box: Box) -> dict[str, pa.Array]:
    import pyarrow as pa

    given = {"chip": evaluator.sweep.chips[box.chip_index].name, **_described(evaluator.sweep, box), **_axis_columns(evaluator.sweep, box)}
    return {
        name: pa.array(value) if isinstance(value, np.ndarray) else _constant(evaluator, name, value, box.points)
        for name, value in given.items()
    }


def _constant(evaluator: Evaluator, name: str, value: Any, points: int) -> pa.Array:
    """A column of one value; boxes of the same length share it."""
    import pyarrow as pa

    key = name, value, points
    known = evaluator._constants.get(key)
    if known is None:
        kind = evaluator.schema.field(name).type
        if pa.types.is_dictionary(kind):
            words = evaluator.words[name]
            index = np.full(points, words.index(str(value)), dtype=np.int32)
            known = pa.DictionaryArray.from_arrays(pa.array(index), pa.array(words, pa.string()))
        else:
            known = pa.array(np.full(points, value), kind)
        evaluator._constants[key] = known
    return known


def _box_results(evaluator: Evaluator, box: Box, columns: pa.Schema) -> pa.Table:
    import pyarrow as pa

    results, words, points = evaluator.results(box), evaluator.words["bound_by"], box.points
    texts = None if results.reason is None else [text or None for text in results.reason.tolist()]
    valid = None if texts is None else np.array([text is None for text in texts], dtype=np.bool_)
    missing = None if valid is None else ~valid
    figures = _figures(evaluator.sweep, box, results)
    feasible = _feasible(evaluator.sweep, box, figures, valid)
    bounds = pa.DictionaryArray.from_arrays(pa.array(results.bound_by, mask=missing), pa.array(words, pa.string()))
    arrays = {
        "valid": _constant(evaluator, "valid", True, points) if valid is None else pa.array(valid),
        "reason": pa.nulls(points, pa.string()) if texts is None else pa.array(texts, pa.string()),
        "bound_by": bounds,
        "feasible": pa.array(feasible),
        **{name: _figure(values, points, columns.field(name).type, missing) for name, values in figures.items()},
    }
    return pa.Table.from_arrays([arrays[name] for name in columns.names], schema=columns)


def _figure(values: Any, points: int, kind: pa.DataType, missing: NDArray[np.bool_] | None) -> pa.Array:
    import pyarrow as pa

    return pa.nulls(points, kind) if values is None else pa.array(np.broadcast_to(values, points), kind, mask=missing)


def _words(sweep: Sweep) -> dict[str, list[str]]:
    formats = sorted(
        {name for chip in sweep.chips for name in _formats(chip)} | {str(each) for axis in sweep.axes for each in _texts(axis)}
    )
    given = {str(value) for step in sweep.steps for value in (step.weights, step.activations, step.kv) if value}
    levels = [level.name for chip in sweep.chips for level in chip.memory]
    return {
        "chip": list(dict.fromkeys(chip.name for chip in sweep.chips)),
        "model": list(dict.fromkeys(_model_name(step) for step in sweep.steps)),
        "phase": ["prefill", "decode"],
        "logits": ["last", "all"],
        **{name: sorted({*formats, *given}) for name in ("weights", "activations", "kv")},
        "bound_by": list(dict.fromkeys([roofline.MATRIX, roofline.VECTOR, *levels, *LOST, OTHER])),
        **{axis.path: [str(value) for value in dict.fromkeys(_texts(axis))] for axis in sweep.axes},
    }


def _formats(chip: Chip) -> tuple[str, ...]:
    return chip.default_format, *chip.formats


def _texts(axis: Axis) -> list[Any]:
    return [] if isinstance(axis.values, np.ndarray) else [value for value in axis.values if isinstance(value, str)]


def _model_name(step: Step) -> str:
    return str(getattr(step.model, "name", step.model))


def _described(sweep: Sweep, box: Box) -> dict[str, Any]:
    """What is the same for a whole box."""
    step = box.step
    chip = sweep.chips[box.chip_index]
    default = chip.default_format
    for dimension, at in zip(sweep.choices, box.choice, strict=True):
        default = next((str(axis.values[at]) for axis in dimension if axis.path == "default_format"), default)
    q_len, kv_len = (step.prompt_length, step.prompt_length) if step.phase == "prefill" else (1, step.context_length + 1)
    formats = {name: getattr(step, name) or default for name in ("weights", "activations", "kv")}
    return {
        "model": _model_name(step),
        "phase": step.phase,
        "batch": step.batch,
        "q_len": q_len,
        "kv_len": kv_len,
        **formats,
        "logits": step.logits,
    }


def _axis_columns(sweep: Sweep, box: Box) -> dict[str, Any]:
    """The varied fields: a scalar for a choice, an array in the order of the points for a number."""
    found: dict[str, Any] = {
        axis.path: axis.values[at] for dimension, at in zip(sweep.choices, box.choice, strict=True) for axis in dimension
    }
    for d, (dimension, taken) in enumerate(zip(sweep.numbers, box.ranges, strict=True)):
        shape = [1] * len(box.ranges)
        shape[d] = len(taken)
        for axis in dimension:
            values = np.asarray(axis.values[taken.start : taken.stop]).reshape(shape)
            found[axis.path] = np.broadcast_to(values, box.shape).reshape(-1)
    return found


def _figures(sweep: Sweep, box: Box, results: Results) -> dict[str, Any]:
    with np.errstate(invalid="ignore", divide="ignore"):
        tokens_per_s = box.step.batch * (box.step.prompt_length if box.step.phase == "prefill" else 1) / results.latency_s
        power_w = None if results.energy_j is None else results.energy_j / results.latency_s
    return {
        "latency_s": results.latency_s,
        "tokens_per_s": tokens_per_s,
        "floor_s": results.floor_s,
        "energy_j": results.energy_j,
        "power_w": power_w,
        "area_mm2": results.area_mm2,
        "memory_bytes": results.memory_bytes,
        "fits": results.fits,
    }


def _feasible(sweep: Sweep, box: Box, figures: Mapping[str, Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Where there is such a chip and every constraint holds."""
    feasible = np.ones(box.points, dtype=np.bool_) if valid is None else valid.copy()
    values: Mapping[str, Any] = figures
    if any(condition.name not in figures for condition in sweep.constraints):
        values = {**_described(sweep, box), **_axis_columns(sweep, box), **figures}
    for condition in sweep.constraints:
        column = values[condition.name]
        feasible &= condition.holds(np.nan if column is None else column)
    return feasible
