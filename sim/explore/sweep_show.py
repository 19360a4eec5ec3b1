"""What a sweep found: for each workload the best chips, and the Pareto front over two or three objectives."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem, did_you_mean
from sim.explore.extras import needed
from sim.explore.sweep import provenance_of
from sim.explore.sweep_file import LARGER_IS_BETTER

WORKLOAD_COLUMNS = ("model", "phase", "batch", "q_len", "kv_len", "weights", "activations", "kv", "logits")
"""Chips are compared on the same workload only."""


@dataclass(frozen=True, slots=True)
class Findings:
    """One workload: its `best` rows by the first objective and its `front`, best first; rows are dictionaries by column name. `reasons`
    count why points are invalid, the most frequent first."""

    workload: dict[str, Any]
    points: int
    feasible: int
    best: tuple[dict[str, Any], ...]
    front: tuple[dict[str, Any], ...]
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """A result file: its provenance, the unit of each column, the objectives, and what was found for each workload."""

    provenance: dict[str, Any]
    units: dict[str, str]
    objectives: tuple[str, ...]
    workloads: tuple[Findings, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.provenance.get("axes", ()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Best rows and fronts of all workloads, the first column of which says what a row is."""
        for found in self.workloads:
            yield from ({"part": part, **row} for part, rows in (("best", found.best), ("front", found.front)) for row in rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with all rows of the fronts."""
        return {
            "provenance": self.provenance,
            "units": self.units,
            "objectives": list(self.objectives),
            "workloads": [
                {
                    **each.workload,
                    "points": each.points,
                    "feasible": each.feasible,
                    "invalid": each.reasons,
                    "best": list(each.best),
                    "front": list(each.front),
                }
                for each in self.workloads
            ],
        }


def show(path: str | Path, objectives: Sequence[str] = (), best: int = 10) -> Shown:
    """Read a result of `sweep`; rows of chips that cannot be, or that miss a constraint, take no part. `objectives` default to the sweep's.

    Raises `BadInput`: no such file, not a result of a sweep, an objective that is no number of it, more than three objectives.
    """
    needed("pyarrow", "results of sweeps", "explore")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    provenance = provenance_of(path)
    if not provenance:
        raise BadInput(Problem("is no result of a sweep", "name a file that `rooftile sweep` wrote", str(path)))
    file = pq.ParquetFile(path)
    numeric = [field.name for field in file.schema_arrow if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]
    chosen = tuple(objectives or provenance.get("objectives") or ("latency_s",))
    problems = [
        Problem(f"'{name}' is no number of this file", did_you_mean(name, numeric), path="--objectives")
        for name in chosen
        if name not in numeric
    ]
    if len(chosen) > 3:
        problems.append(Problem(f"{len(chosen)} objectives", "choose two or three", path="--objectives"))
    if problems:
        raise BadInput(problems)
    units = {field.name: field.metadata[b"unit"].decode() for field in file.schema_arrow if field.metadata and b"unit" in field.metadata}
    gathered: dict[tuple[Any, ...], _Gathered] = {}
    for group in range(file.num_row_groups):
        for key, costs, rows, points, reasons in _by_workload(file, group, chosen):
            gathered.setdefault(key, _Gathered(best)).add(costs, rows, group, points, reasons)
    return Shown(provenance, units, chosen, tuple(found.findings(file, key) for key, found in gathered.items()))


def _by_workload(
    file: Any, group: int, objectives: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], NDArray[Any], NDArray[Any], int, Counter[str]]]:
    """For each workload of a row group: its key, the objectives as costs [rows, objectives] and the rows that may count, all its points,
    and why those that are invalid are."""
    table = file.read_row_group(group, columns=list(dict.fromkeys([*WORKLOAD_COLUMNS, *objectives, "feasible", "valid", "reason"])))
    invalid = ~table["valid"].to_numpy()
    code = np.zeros(len(table), dtype=np.int64)
    for name in WORKLOAD_COLUMNS:
        column = table[name].combine_chunks()
        indices = column.indices if hasattr(column, "indices") else column.dictionary_encode().indices
        values = indices.to_numpy(zero_copy_only=False)
        code = code * (int(values.max(initial=0)) + 1) + values
    feasible = table["feasible"].to_numpy()
    costs = np.stack([_cost(table[name].to_numpy(), name) for name in objectives], axis=1)
    for each in dict.fromkeys(code[np.sort(np.unique(code, return_index=True)[1])].tolist()):
        here = code == each
        first = int(np.argmax(here))
        key = tuple(table[name][first].as_py() for name in WORKLOAD_COLUMNS)
        rows = np.flatnonzero(here & feasible)
        yield key, costs[rows], rows, int(here.sum()), Counter(table["reason"].filter(here & invalid).to_pylist())


def _cost(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    return np.asarray(-values if name in LARGER_IS_BETTER else values, dtype=np.float64)


class _Gathered:
    """The best rows and the front of one workload, so far."""

    def __init__(self, best: int) -> None:
        self.most = best
        self.points = self.feasible = 0
        self.reasons: Counter[str] = Counter()
        self.best: tuple[NDArray[Any], NDArray[Any]] | None = None
        self.front: tuple[NDArray[Any], NDArray[Any]] | None = None

    def add(self, costs: NDArray[Any], rows: NDArray[Any], group: int, points: int, reasons: Counter[str]) -> None:
        self.points += points
        self.reasons += reasons
        self.feasible += len(rows)
        places = np.stack([np.full(len(rows), group), rows], axis=1)
        self.best = _kept(self.best, costs, places, lambda costs: np.lexsort(costs.T[::-1])[: self.most])
        self.front = _kept(self.front, costs, places, pareto_front)

    def findings(self, file: Any, key: tuple[Any, ...]) -> Findings:
        workload = dict(zip(WORKLOAD_COLUMNS, key, strict=True))
        best, front = (_read(file, kept[1]) if kept else () for kept in (self.best, self.front))
        return Findings(workload, self.points, self.feasible, best, front, dict(self.reasons.most_common()))


def _kept(before: tuple[NDArray[Any], NDArray[Any]] | None, costs: NDArray[Any], places: NDArray[Any], choose: Any) -> Any:
    """What stays of the new rows, and then of them together with the old."""
    chosen = choose(costs)
    costs, places = costs[chosen], places[chosen]
    if before is None:
        return costs, places
    costs, places = np.concatenate([before[0], costs]), np.concatenate([before[1], places])
    chosen = choose(costs)
    return costs[chosen], places[chosen]


def _read(file: Any, places: NDArray[Any]) -> tuple[dict[str, Any], ...]:
    """Whole rows by (row group, row)."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for group in np.unique(places[:, 0]).tolist():
        rows = places[places[:, 0] == group][:, 1].tolist()
        found |= {(group, row): content for row, content in zip(rows, file.read_row_group(group).take(rows).to_pylist(), strict=True)}
    return tuple(found[int(group), int(row)] for group, row in places)


def pareto_front(costs: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the points that no other is at most as dear as in every cost and cheaper in one; the first of equal points only.

    `costs` is [points, 1 to 3]. In the order of the first cost, then the second, ...
    """
    if not len(costs):
        return np.zeros(0, dtype=np.int64)
    costs = np.column_stack([costs, np.zeros((len(costs), 3 - costs.shape[1]))])
    alive = _not_clearly_worse(costs)
    order = alive[np.lexsort((costs[alive, 2], costs[alive, 1], costs[alive, 0]))]
    front: list[int] = []
    # Of what came before (at most as dear in the first cost): second costs ascending, third costs descending.
    seconds: list[float] = []
    thirds: list[float] = []
    for i in order.tolist():
        _, second, third = costs[i].tolist()
        at = bisect.bisect_right(seconds, second)
        if at and thirds[at - 1] <= third:
            continue
        front.append(i)
        begin = end = bisect.bisect_left(seconds, second)
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        seconds[begin:end], thirds[begin:end] = [second], [third]
    return np.array(front, dtype=np.int64)


def _not_clearly_worse(costs: NDArray[Any]) -> NDArray[np.int64]:
    """A first cut: drop what one of a few good points dominates strictly in every cost that tells points apart."""
    alive = np.arange(len(costs))
    least, most = costs.min(axis=0), costs.max(axis=0)
    tells = np.flatnonzero(most > least)
    if not len(tells):
        return alive
    for weights in np.concatenate([np.ones((1, len(tells))), 1 + 8 * np.eye(len(tells))]):
        scaled = (costs[alive][:, tells] - least[tells]) / (most[tells] - least[tells])
        good = costs[alive[np.argmin(scaled @ weights)]]
        alive = alive[~np.all(costs[alive][:, tells] > good[tells], axis=1)]
    return alive
