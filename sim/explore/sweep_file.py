"""The sweep file: which chips, which axes, which workloads; read strictly, all mistakes at once with file, line, path and cure."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, MinLen
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functional.documents import Document, FieldPath, dotted, load_document, validation_problems
from functional.errors import BadInput, Problem, did_you_mean
from hwmodels import load_chip, numeric_paths
from hwmodels.chip import Chip
from hwmodels.paths import instead_of, value_of, with_values
from hwmodels.units import UnitError
from sim.engines import DEFAULT_ENGINE, ENGINES
from sim.explore.choices import Choice, choice_paths, read_choice
from sim.explore.conditions import Condition, read_condition
from sim.explore.fields import is_whole, read_value, unit_of, written
from sim.explore.step import Step
from workloads.library import load_model
from workloads.scenario import PHASES, Formats, Scenario

METRICS: Mapping[str, str | None] = {
    "latency_s": "s",
    "tokens_per_s": "tok/s",
    "floor_s": "s",
    "energy_j": "J",
    "power_w": "W",
    "area_mm2": "mm2",
    "memory_bytes": "B",
    "fits": None,
}
"""Results of a point and their units; None: true or false. The same names as in the JSON of `predict`."""

_OF_ENERGY = ("energy_j", "power_w")
"""Results that only chips with a section `energy` have; `area_mm2` wants one of area."""

LARGER_IS_BETTER = ("tokens_per_s",)
"""Objectives that are maximised; all others are minimised."""

OF_WORKLOAD = ("batch", "prompt", "context", "weights", "activations", "kv", "phase", "model", "logits")


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RangeFields(_Fields):
    """`{from: 25 GB/s, to: 400 GB/s, steps: 50, scale: log}`; linear unless it says log."""

    from_: Any = Field(alias="from")
    to: Any
    steps: Annotated[int, Gt(0)]
    scale: Literal["linear", "log"] = "linear"


class WorkloadFields(_Fields):
    """One step of a model; both phases if none is named."""

    model: str
    phase: Literal["prefill", "decode"] | None = None
    batch: Annotated[int, Gt(0)] = 1
    prompt: Annotated[int, Gt(0)] | None = None
    context: Annotated[int, Gt(0)] | None = None
    weights: str | None = None
    activations: str | None = None
    kv: str | None = None
    logits: Literal["last", "all"] = "last"


class SweepFields(_Fields):
    """All fields of a sweep file."""

    base: str | None = None
    chips: Annotated[list[str], MinLen(1)] | None = None
    axes: dict[str, Any] = {}
    zip: list[dict[str, Any]] = []
    workloads: Annotated[list[WorkloadFields], MinLen(1)]
    engine: str = DEFAULT_ENGINE
    constraints: list[str] = []
    objectives: list[str] = []


@dataclass(frozen=True, eq=False)
class Axis:
    """One field and the values that it takes: numbers in base units, or choices. `reasons[i]` says why no chip has that value."""

    path: str
    unit: str
    values: NDArray[np.float64] | tuple[Choice | int, ...]
    reasons: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.values)


Dimension = tuple[Axis, ...]
"""Axes that move together; all of one length."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Chips x workloads x choices x numbers: the points of a sweep in their order, whatever the order of the axes in the file."""

    file: str
    chips: tuple[Chip, ...]
    steps: tuple[Step, ...]
    choices: tuple[Dimension, ...]
    numbers: tuple[Dimension, ...]
    engine: str
    constraints: tuple[Condition, ...]
    objectives: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of the dimension of numbers."""
        return tuple(len(dimension[0]) for dimension in self.numbers)

    @property
    def points(self) -> int:
        """Chips times workloads."""
        return len(self.chips) * len(self.steps) * math.prod(len(dimension[0]) for dimension in self.choices) * math.prod(self.shape)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every varied field of the chip, in the order of the columns."""
        return tuple(axis for dimension in (*self.choices, *self.numbers) for axis in dimension)

    @property
    def notes(self) -> tuple[str, ...]:
        """Where one axis stands for two rates: a bandwidth of a level that a chip reads and writes at rates of their own."""
        found = []
        for path, chip in itertools.product((axis.path for axis in self.axes if axis.path.endswith(".bandwidth")), self.chips):
            read, write = (written(float(value_of(chip, f"{path}.{way}")), unit_of(chip, path)) for way in ("read", "write"))
            if read != write:
                cure = f"{path}.read or {path}.write varies one of them"
                found.append(f"{path} is read and written each ({chip.name} has {read} and {write}); {cure}")
        return tuple(found)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the results depend on, besides the version of this tool."""
        digest = hashlib.sha256()
        for part in (self.chips, self.steps, self.choices, self.numbers, self.engine, self.constraints, self.objectives):
            for text in _canonical(part):
                digest.update(text)
        return digest.hexdigest()


def _canonical(value: Any) -> Iterator[bytes]:
    """The content of a value, the same in every process."""
    if isinstance(value, np.ndarray):
        yield value.tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.compare:
                yield field.name.encode()
                yield from _canonical(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield repr(key).encode()
            yield from _canonical(each)
    elif isinstance(value, (tuple, list)):
        yield b"["
        for each in value:
            yield from _canonical(each)
        yield b"]"
    elif isinstance(value, frozenset):
        yield repr(sorted(value)).encode()
    else:
        yield repr(value).encode() + b";"


MAX_POINTS = 10**8
"""Points of a sweep beyond which it wants to be told that they are meant."""


def load_sweep(path: str | Path, max_points: int = MAX_POINTS) -> Sweep:
    """Read a sweep file; raises `BadInput` with every mistake in it, or if it asks for more than `max_points`."""
    document = load_document(path)
    try:
        given = SweepFields.model_validate(document.data)
    except ValidationError as why:
        raise BadInput(validation_problems(why, SweepFields, lambda field: (document.file, document.line_of(field)))) from None
    points = _points(given)
    if points > max_points:
        message = f"{points:,} points are more than the {max_points:,} that are allowed"
        raise BadInput(Problem(message, f"coarsen an axis, or say --max-points {points}", document.file))
    return _Reader(document, given).sweep()


def _points(given: SweepFields) -> int:
    """Points of a sweep, counted before any of them is laid out."""
    steps = sum(1 if workload.phase else len(PHASES) for workload in given.workloads)
    lengths = [_length(axis) for axis in given.axes.values()] + [max(map(_length, group.values()), default=1) for group in given.zip]
    return len(given.chips or [""]) * steps * math.prod(lengths)


def _as_written(problem: Problem, place: str) -> Problem:
    """A problem of a range under the name `from`, which Python keeps for itself."""
    path, cure = (text.replace("from_", "from") for text in (problem.path, problem.cure))
    return replace(problem, path=f"{place}.{path}", cure=cure)


def _length(axis: Any) -> int:
    steps = axis.get("steps", 1) if isinstance(axis, dict) else len(axis) if isinstance(axis, list) else 1
    return steps if isinstance(steps, int) and steps > 0 else 1


class _Reader:
    """Turns the fields of a file into a sweep, noting every mistake with its place."""

    def __init__(self, document: Document, given: SweepFields) -> None:
        self.document = document
        self.given = given
        self.problems: list[Problem] = []

    def sweep(self) -> Sweep:
        chips = self._chips()
        if not chips:
            raise BadInput(self.problems)
        if self.given.engine not in ENGINES:
            self._wrong(("engine",), f"unknown engine '{self.given.engine}'", did_you_mean(self.given.engine, ENGINES))
        dimensions = self._dimensions(chips)
        of_workload = [dimension for dimension in dimensions if dimension[0].path.startswith("workload.")]
        of_chip = sorted((dimension for dimension in dimensions if dimension not in of_workload), key=lambda dimension: dimension[0].path)
        choices = tuple(dimension for dimension in of_chip if any(isinstance(axis.values, tuple) for axis in dimension))
        numbers = tuple(dimension for dimension in of_chip if dimension not in choices)
        axes = [axis for dimension in of_chip for axis in dimension]
        constraints, objectives = self._conditions(chips, axes), self._objectives(chips, axes)
        steps = () if self.problems else self._steps(chips, of_workload)
        if self.problems:
            raise BadInput(sorted(self.problems, key=lambda problem: problem.line or 0))
        return Sweep(self.document.file, chips, steps, choices, numbers, self.given.engine, constraints, objectives)

    def _wrong(self, path: FieldPath, message: str, cure: str = "") -> None:
        self.problems.append(Problem(message, cure, self.document.file, self.document.line_of(path), dotted(path)))

    def _chips(self) -> tuple[Chip, ...]:
        if (self.given.base is None) == (self.given.chips is None):
            self._wrong(("base",), "name one base chip, or several chips", "write 'base: edge-npu' or 'chips: [a, b]'")
            return ()
        named = (
            [(("base",), self.given.base)] if self.given.base else [(("chips", i), name) for i, name in enumerate(self.given.chips or [])]
        )
        chips = []
        for path, name in named:
            try:
                chips.append(load_chip(self._beside(str(name))))
            except BadInput as error:
                self.problems += [
                    problem
                    if problem.file
                    else replace(problem, file=self.document.file, line=self.document.line_of(path), path=dotted(path))
                    for problem in error.problems
                ]
        return tuple(chips)

    def _beside(self, name: str) -> str | Path:
        """A path is relative to the sweep file."""
        beside = Path(self.document.file).parent / name
        return beside if name.endswith((".yaml", ".yml", ".json")) or "/" in name else name

    def _dimensions(self, chips: Sequence[Chip]) -> list[Dimension]:
        groups: list[tuple[FieldPath, dict[str, Any]]] = [(("axes",), {path: given}) for path, given in self.given.axes.items()]
        groups += [(("zip", i), group) for i, group in enumerate(self.given.zip)]
        seen: set[str] = set()
        dimensions = []
        for place, group in groups:
            axes = [self._axis(chips, (*place, path), path, given) for path, given in group.items()]
            for path in group:
                if path in seen or path.removesuffix(".read").removesuffix(".write") in seen or seen & {f"{path}.read", f"{path}.write"}:
                    self._wrong((*place, path), "is varied twice", "keep one of them")
                seen.add(path)
            found = [axis for axis in axes if axis is not None]
            if len(found) < len(axes) or not found:
                if not axes:
                    self._wrong(place, "names no axis", "write e.g. '{memory.sram.capacity: [1 MiB, 4 MiB]}'")
                continue
            lengths = {axis.path: len(axis) for axis in found}
            if len(set(lengths.values())) > 1:
                told = ", ".join(f"{path} has {length}" for path, length in lengths.items())
                self._wrong(place, f"axes that move together need as many values: {told}", "give each the same number")
            elif len({axis.path.startswith("workload.") for axis in found}) > 1:
                self._wrong(place, "mixes fields of the chip and of the workload", "zip fields of one of them")
            else:
                dimensions.append(tuple(sorted(found, key=lambda axis: axis.path)))
        return dimensions

    def _axis(self, chips: Sequence[Chip], place: FieldPath, path: str, given: Any) -> Axis | None:
        if path.startswith("workload."):
            return self._workload_axis(place, path, given)
        for chip in chips:
            known = [*numeric_paths(chip), *choice_paths(chip)]
            if path not in known:
                cure = instead_of(chip, path, [*known, *(f"workload.{field}" for field in OF_WORKLOAD)])
                self._wrong(place, f"'{path}' is no field of the chip '{chip.name}'", cure)
                return None
        values = self._values(chips[0], place, path, given)
        if values is None:
            return None
        if path in choice_paths(chips[0]):
            return Axis(path, "", values, {})
        numbers = np.asarray(values, dtype=np.float64)
        if {unit_of(chip, path) for chip in chips} != {unit_of(chips[0], path)}:
            self._wrong(place, "the chips state this bandwidth in different units", "sweep them one by one")
            return None
        return Axis(path, unit_of(chips[0], path), numbers, _reasons(chips[0], path, numbers))

    def _values(self, chip: Chip, place: FieldPath, path: str, given: Any) -> Any:
        choice = path in choice_paths(chip)
        if isinstance(given, dict):
            return None if choice and not self._refuse_range(place) else self._range(chip, place, path, given)
        if not isinstance(given, list):
            self._wrong(
                place, f"expected a list or a range, found {given!r}", "write e.g. '[1, 2, 4]' or '{from: ..., to: ..., steps: ...}'"
            )
            return None
        if not given:
            self._wrong(place, "the axis is empty", "give at least one value")
            return None
        values = []
        for i, each in enumerate(given):
            value = read_choice(path, each) if choice else self._number(chip, (*place, i), path, each)
            if isinstance(value, Problem):
                self._wrong((*place, i), value.message, value.cure)
            elif value is not None:
                values.append(value)
        return tuple(values) if len(values) == len(given) else None

    def _refuse_range(self, place: FieldPath) -> bool:
        self._wrong(place, "a choice has no range", "list its values")
        return False

    def _number(self, chip: Chip, place: FieldPath, path: str, text: object) -> float | None:
        try:
            return read_value(chip, path, text)
        except UnitError as error:
            self._wrong(place, str(error), error.cure)
            return None

    def _range(self, chip: Chip, place: FieldPath, path: str, given: dict[str, Any]) -> NDArray[np.float64] | None:
        try:
            spec = RangeFields.model_validate(given)
        except ValidationError as why:
            found = validation_problems(why, RangeFields, lambda field: (self.document.file, self.document.line_of((*place, *field))))
            self.problems += [_as_written(each, dotted(place)) for each in found]
            return None
        ends = [self._number(chip, (*place, end), path, value) for end, value in (("from", spec.from_), ("to", spec.to))]
        if ends[0] is None or ends[1] is None:
            return None
        if spec.scale == "log" and min(ends[0], ends[1]) <= 0:
            self._wrong(place, "a logarithmic range cannot begin or end at 0", "use scale: linear, or begin above 0")
            return None
        if spec.steps == 1 and ends[0] != ends[1]:
            self._wrong((*place, "steps"), "one step does not reach from one end to the other", "write at least 2")
            return None
        values = (np.geomspace if spec.scale == "log" else np.linspace)(ends[0], ends[1], spec.steps)
        if not is_whole(path):
            return np.asarray(values, dtype=np.float64)
        nearest = np.round(values)
        if unit_of(chip, path) != "B" and np.any(np.abs(values - nearest) > 1e-9 * nearest):
            bad = values[np.argmax(np.abs(values - nearest))]
            self._wrong(place, f"a step falls on {bad:.6g}, which is not whole", "list the values, or choose other steps")
            return None
        return np.asarray(nearest, dtype=np.float64)

    def _workload_axis(self, place: FieldPath, path: str, given: Any) -> Axis | None:
        field = path.removeprefix("workload.")
        if field not in OF_WORKLOAD:
            self._wrong(place, f"'{field}' is no field of a workload", did_you_mean(field, OF_WORKLOAD))
            return None
        counts = field in ("batch", "prompt", "context")
        if isinstance(given, dict) and counts:
            given = self._whole_range(place, given)
        if given is None:
            return None
        if not isinstance(given, list) or not given:
            message = "the axis is empty" if given == [] else f"expected a list, found {given!r}"
            self._wrong(place, message, "give at least one value")
            return None
        for i, each in enumerate(given):
            good = isinstance(each, int) and not isinstance(each, bool) and each > 0 if counts else isinstance(each, str)
            if not good:
                self._wrong((*place, i), f"expected {'a whole number above 0' if counts else 'a name'}, found {each!r}")
                return None
        return Axis(path, "", tuple(given), {})

    def _whole_range(self, place: FieldPath, given: dict[str, Any]) -> list[int] | None:
        """Batches and lengths are rounded to whole ones; those that fall together are one."""
        try:
            spec = RangeFields.model_validate(given)
        except ValidationError as why:
            found = validation_problems(why, RangeFields, lambda field: (self.document.file, self.document.line_of((*place, *field))))
            self.problems += [_as_written(each, dotted(place)) for each in found]
            return None
        if not all(isinstance(end, int) and not isinstance(end, bool) and end > 0 for end in (spec.from_, spec.to)):
            self._wrong(place, "begins or ends at no whole number above 0", "write e.g. '{from: 1, to: 64, steps: 7, scale: log}'")
            return None
        values = (np.geomspace if spec.scale == "log" else np.linspace)(spec.from_, spec.to, spec.steps)
        return list(dict.fromkeys(int(value) for value in np.round(values)))

    def _unknown(self, chips: Sequence[Chip], place: FieldPath, name: str) -> bool:
        """Whether a result is not known of one of the chips, and this is said."""
        section = "energy" if name in _OF_ENERGY else "area" if name == "area_mm2" else ""
        for chip in chips:
            if section and getattr(chip, section) is None:
                cure = f"give its file 'process: 7 nm', or a section '{section}'"
                self._wrong(place, f"'{name}' is not known of the chip '{chip.name}'", cure)
                return True
        return False

    def _conditions(self, chips: Sequence[Chip], axes: Sequence[Axis]) -> tuple[Condition, ...]:
        known: dict[str, str | None] = {**METRICS, "batch": "", "q_len": "", "kv_len": ""}
        known |= {axis.path: axis.unit for axis in axes if isinstance(axis.values, np.ndarray)}
        found = []
        for i, text in enumerate(self.given.constraints):
            condition = read_condition(text, known)
            if isinstance(condition, Problem):
                self._wrong(("constraints", i), condition.message, condition.cure)
            elif not self._unknown(chips, ("constraints", i), condition.name):
                found.append(condition)
        return tuple(found)

    def _objectives(self, chips: Sequence[Chip], axes: Sequence[Axis]) -> tuple[str, ...]:
        known = [name for name, unit in METRICS.items() if unit is not None] + [
            axis.path for axis in axes if isinstance(axis.values, np.ndarray)
        ]
        for i, name in enumerate(self.given.objectives):
            if name not in known:
                self._wrong(("objectives", i), f"'{name}' is no result and no numeric axis", did_you_mean(name, known))
            self._unknown(chips, ("objectives", i), name)
        return tuple(self.given.objectives) or ("latency_s",)

    def _steps(self, chips: Sequence[Chip], of_workload: Sequence[Dimension]) -> tuple[Step, ...]:
        steps = []
        for i, spec in enumerate(self.given.workloads):
            ordered = sorted(of_workload, key=lambda dimension: dimension[0].path)
            for chosen in itertools.product(*(range(len(dimension[0])) for dimension in ordered)):
                varied = {
                    axis.path.removeprefix("workload."): axis.values[at]
                    for dimension, at in zip(ordered, chosen, strict=True)
                    for axis in dimension
                }
                steps += self._step(chips, ("workloads", i), {**spec.model_dump(), **varied})
        return tuple(steps)

    def _step(self, chips: Sequence[Chip], place: FieldPath, asked: dict[str, Any]) -> list[Step]:
        """A workload on each of its phases, checked against the model that it names."""
        phase, model = asked.pop("phase"), asked.pop("model")
        try:
            config = load_model(self._beside(str(model)))
            found = [Step(model=config, phase=each, engine=self.given.engine, **asked) for each in ([phase] if phase else PHASES)]
            for step in found:
                formats = Formats.of(chips[0].default_format, step.weights, step.activations, step.kv)
                if step.phase == "prefill":
                    Scenario.prefill(formats, step.batch, step.prompt_length, step.logits).check(config)
                else:
                    Scenario.decode(formats, step.batch, step.context_length, step.logits).check(config)
        except BadInput as error:
            for problem in error.problems:
                where = (*place, problem.path.removeprefix("--")) if problem.path.startswith("--") else place
                self.problems.append(
                    problem
                    if problem.file
                    else replace(problem, file=self.document.file, line=self.document.line_of(where), path=dotted(where))
                )
            return []
        return found


def _reasons(chip: Chip, path: str, values: NDArray[np.float64]) -> dict[int, str]:
    """Which values no chip can have, and why."""
    try:
        with_values(chip, {path: values})
    except BadInput:
        reasons = {}
        for i, value in enumerate(values.tolist()):
            try:
                with_values(chip, {path: value})
            except BadInput as error:
                reasons[i] = "; ".join(str(problem) for problem in error.problems)
        return reasons
    return {}


def own_value(chip: Chip, path: str) -> float:
    """What the chip has where an axis asks for the impossible."""
    return float(value_of(chip, path))
