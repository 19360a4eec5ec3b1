"""The one result of all engines: when each op ran, on what, what bound it and where the time went.

Columns are NumPy arrays with one entry per op, in graph order; rows, dictionaries and tables are views made on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem, did_you_mean
from functional.work import Contraction, flops
from hwmodels.units import format_energy, format_seconds
from sim.intervals import Floats, Intervals, Part, Schedule, joined
from workloads.graph import OpGraph, OpNode
from workloads.split import parts_of

LOST = ("padding", "refetch", "sustained", "fill_drain", "dram_latency", "launch", "stall")
"""Causes that part a latency from its roofline; they add up to the difference. sustained: rates and bandwidths below their peak."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes needed against the capacity of the outermost memory."""

    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    capacity_bytes: int

    @property
    def needed_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.capacity_bytes


@dataclass(frozen=True, slots=True)
class Component:
    """embed_tokens, rotary_emb, layers.i, norm or lm_head: its latency, what bounds most of it, and its energy if that is known."""

    name: str
    latency_s: float
    bound_by: str
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """The energy of a step: by op (what it switches and moves, and what leaks in its latency), in total, and by unit, level and
    `static`."""

    op_j: Floats
    total_j: float
    by_resource_j: Mapping[str, float]


class Visits(NamedTuple):
    """How many mappings of a group the cycle engine has played, and whether it is proved that no other plays faster by more than it
    tolerates (`sim.engines.play`)."""

    mappings: int
    is_proved: bool


@dataclass(frozen=True, eq=False)
class Timeline:
    """A predicted step.

    Per op: `latency_s` is its end minus the latest end so far in graph order, so the column sums to the total; `busy_s` is the time that
    its busiest unit works for it; `group` numbers what ran as one; `lost_s[cause]` [s] explains the distance from the roofline.
    Per group: `resource_busy_s[resource]` [s]. `spent` and `area_mm2` are None where nothing is known of the chip's energy and area.
    Per group: `resource_busy_s[resource]` [s], `group_s`, its latency [s], and `schedule_of`, an index into `schedules`, from which
    intervals are made when they are asked for, and `visits`, of the mappings that the cycle engine played.
    """

    graph: OpGraph
    chip: str
    engine: str
    total_s: float
    floor_s: float
    memory: Memory
    latency_s: Floats
    busy_s: Floats
    dram_bytes: Floats
    issued_macs: Floats
    bound_by: Sequence[str]
    group: NDArray[np.int64]
    lost_s: Mapping[str, Floats]
    resource_busy_s: Mapping[str, Floats]
    group_s: Floats
    schedule_of: NDArray[np.int64]
    schedules: Sequence[Schedule]
    visits: Sequence[Visits | None]
    spent: Spent | None = None
    area_mm2: float | None = None

    @property
    def phase(self) -> str:
        return self.graph.scenario.phase

    @property
    def split(self) -> int:
        """In how many pieces the linears are, one per core."""
        return parts_of(self.graph)

    @property
    def tokens_per_s(self) -> float:
        """New tokens of the whole batch per second."""
        return int(self.graph.scenario.tokens) / self.total_s

    @property
    def energy_j(self) -> float | None:
        """Joules of the step."""
        return None if self.spent is None else self.spent.total_j

    @property
    def energy_by_j(self) -> Mapping[str, float] | None:
        """Joules by unit, level and `static`."""
        return None if self.spent is None else self.spent.by_resource_j

    @property
    def power_w(self) -> float | None:
        """Watts on average over the step."""
        return None if self.spent is None else self.spent.total_j / self.total_s

    @property
    def j_per_token(self) -> float | None:
        """Joules per new token of the batch; its inverse is tokens/s per watt."""
        return None if self.spent is None else self.spent.total_j / int(self.graph.scenario.tokens)

    @property
    def mappings(self) -> dict[str, int] | None:
        """Of the groups that the cycle engine played: how many there are, for how many the best mapping is proved, and the most mappings
        that were played of any. None for other engines."""
        played = [self.visits[index] for index in self.schedule_of.tolist()]
        known = [each for each in played if each is not None]
        if not known:
            return None
        return {"groups": len(known), "proved": sum(each.is_proved for each in known), "most_played": max(each.mappings for each in known)}

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Latency and energy of each component, in order; `bound_by` is what binds the largest part of it."""
        by_bound: dict[str, dict[str, float]] = {}
        for op, latency, bound in zip(self.graph.ops, self.latency_s.tolist(), self.bound_by, strict=True):
            parts = by_bound.setdefault(op.component, {})
            parts[bound] = parts.get(bound, 0.0) + latency
        spent: dict[str, float] = {}
        if self.spent is not None:
            for op, joules in zip(self.graph.ops, self.spent.op_j.tolist(), strict=True):
                spent[op.component] = spent.get(op.component, 0.0) + joules
        return tuple(
            Component(name, sum(parts.values()), max(parts, key=parts.__getitem__), spent.get(name)) for name, parts in by_bound.items()
        )

    @cached_property
    def bound_shares(self) -> dict[str, float]:
        """Share of the latency that each resource binds, largest first."""
        seconds: dict[str, float] = {}
        for latency, bound in zip(self.latency_s.tolist(), self.bound_by, strict=True):
            seconds[bound] = seconds.get(bound, 0.0) + latency
        return {name: seconds[name] / self.total_s for name in sorted(seconds, key=seconds.__getitem__, reverse=True)}

    @cached_property
    def intervals(self) -> Intervals:
        """When each group kept which resource busy, and what its units waited for: one interval per group and resource, in seconds from
        the start of the step. Of roofline and tiled, which have no schedule, each begins with its group, after the launch."""
        return self._joined(range(len(self.group_s)), [schedule.whole for schedule in self.schedules])

    def tile_intervals(self, component: str, resolution_s: float = 0.0) -> Intervals:
        """Every tile of one component (`layers.3`), in seconds from the start of the step, as the cycle engine played it.

        There may be millions: with a resolution [s], those that are shorter, begin within the same step of that length and are alike in
        resource, kind, cause, role and op are one interval, whose busy time, bytes and MACs are their sums. Raises `BadInput` for an
        unknown component, and for an engine that plays no tiles.
        """
        names = list(dict.fromkeys(op.component for op in self.graph.ops))
        if component not in names:
            raise BadInput(Problem(f"unknown component '{component}'", did_you_mean(component, names), path="component"))
        tiles = [schedule.tiles for schedule in self.schedules]
        wanted = sorted({group for op, group in zip(self.graph.ops, self.group.tolist(), strict=True) if op.component == component})
        makers = [make for make in tiles if make is not None]
        if len(makers) < len(tiles):
            raise BadInput(Problem(f"engine {self.engine} keeps no tile intervals", "take cycle", path="--engine"))
        return self._joined(wanted, [partial(make, resolution_s) for make in makers])

    def _joined(self, groups: Iterable[int], makers: Sequence[Callable[[], Intervals]]) -> Intervals:
        """The intervals of some groups; those of alike groups are made once."""
        starts_s = np.cumsum(self.group_s) - self.group_s
        first_op = np.searchsorted(self.group, np.arange(len(self.group_s)))
        made: dict[int, Intervals] = {}
        parts = []
        for group in groups:
            index = int(self.schedule_of[group])
            if index not in made:
                made[index] = makers[index]()
            parts.append(Part(made[index], group, float(starts_s[group]), int(first_op[group])))
        return joined(parts[0].intervals.resources, parts)

    def rows(self) -> Iterator[tuple[OpNode, dict[str, Any]]]:
        """Each op with its figures, under the names of the JSON output."""
        lost_s = [dict.fromkeys(LOST, 0.0) for _ in self.graph.ops]
        for cause in LOST:
            for i in np.flatnonzero(self.lost_s[cause]).tolist():
                lost_s[i][cause] = float(self.lost_s[cause][i])
        columns = zip(
            self.graph.ops,
            self.group.tolist(),
            self.issued_macs.astype(np.int64).tolist(),
            self.dram_bytes.astype(np.int64).tolist(),
            self.latency_s.tolist(),
            self.busy_s.tolist(),
            self.bound_by,
            lost_s,
            [None] * len(lost_s) if self.spent is None else self.spent.op_j.tolist(),
            strict=True,
        )
        counted: dict[int, tuple[int, int]] = {}  # FLOPs and MACs by work, which alike ops share
        for op, group, issued_macs, dram_bytes, latency_s, busy_s, bound_by, lost, energy_j in columns:
            counts = counted.get(id(op.work))
            if counts is None:
                macs = int(op.work.useful_macs) if isinstance(op.work, Contraction) else 0
                counts = counted[id(op.work)] = int(flops(op.work)), macs
            yield (
                op,
                {
                    "name": op.name,
                    "kind": op.kind,
                    "component": op.component,
                    "group": group,
                    "flops": counts[0],
                    "useful_macs": counts[1],
                    "issued_macs": issued_macs,
                    "dram_bytes": dram_bytes,
                    "latency_s": latency_s,
                    "busy_s": busy_s,
                    "bound_by": bound_by,
                    "lost_s": lost,
                    "energy_j": energy_j,
                },
            )

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per op, under the names of the JSON output; `lost_s` takes one column per cause.

        Raises `BadInput` where pandas is missing.
        """
        try:
            import pandas
        except ImportError:
            raise BadInput(Problem("a DataFrame needs pandas", "pip install 'rooftile[plots]'")) from None
        rows = []
        for _, row in self.rows():
            lost = row.pop("lost_s")
            rows.append({**row, **{f"lost_{cause}_s": seconds for cause, seconds in lost.items()}})
        return pandas.DataFrame(rows).set_index("name")

    def _repr_html_(self) -> str:
        """Total and components, for notebooks; names are escaped."""
        what = f"{self.graph.model} on {self.chip}: {self.phase}, {self.engine} engine, {format_seconds(self.total_s)}"
        titles = ["component", "latency", "share", "bound by", *(["energy"] if self.spent is not None else [])]
        lines = [
            f"<tr><td>{escape(each.name)}</td><td>{format_seconds(each.latency_s)}</td>"
            f"<td>{each.latency_s / self.total_s:.1%}</td><td>{escape(each.bound_by)}</td>"
            + ("</tr>" if each.energy_j is None else f"<td>{format_energy(each.energy_j)}</td></tr>")
            for each in self.components
        ]
        head = "".join(f"<th>{title}</th>" for title in titles)
        return f"<table><caption>{escape(what)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

    def to_dict(self) -> dict[str, Any]:
        """The promised JSON object of `rooftile predict --format json`."""
        scenario, memory = self.graph.scenario, self.memory
        return {
            "model": self.graph.model,
            "chip": self.chip,
            "engine": self.engine,
            "phase": scenario.phase,
            "batch": int(scenario.batch),
            "q_len": int(scenario.q_len),
            "kv_len": int(scenario.kv_len),
            "formats": {name: getattr(scenario.formats, name) for name in ("weights", "activations", "kv")},
            "split": self.split,
            "latency_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "floor_s": self.floor_s,
            "lost_s": {cause: float(self.lost_s[cause].sum()) for cause in LOST},
            "energy_j": self.energy_j,
            "energy_by_j": None if self.spent is None else dict(self.spent.by_resource_j),
            "power_w": self.power_w,
            "j_per_token": self.j_per_token,
            "tokens_per_s_per_w": None if self.j_per_token is None else 1 / self.j_per_token,
            "area_mm2": self.area_mm2,
            "mappings": self.mappings,
            "components": [
                {"name": c.name, "latency_s": c.latency_s, "bound_by": c.bound_by, "energy_j": c.energy_j} for c in self.components
            ],
            "ops": [row for _, row in self.rows()],
            "memory": {
                "weights_bytes": memory.weights_bytes,
                "kv_cache_bytes": memory.kv_cache_bytes,
                "activations_bytes": memory.activations_bytes,
                "capacity_bytes": memory.capacity_bytes,
                "fits": memory.fits,
            },
        }
