"""A sweep for the page: every chip of a Parquet file as columns, so that the browser can trade off and show any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functional.errors import BadInput, Problem
from sim.explore.extras import needed
from sim.explore.sweep import provenance_of
from sim.explore.sweep_file import LARGER_IS_BETTER
from sim.explore.sweep_show import WORKLOAD_COLUMNS, pareto_front
from sim.present.dashboard.packed import packed, smallest

MOST_POINTS = 200_000
"""Points that the page holds; of a larger sweep an even sample, and the whole Pareto front of each workload."""

HIDDEN = ("valid", "reason")
"""Columns of points that are no chips, which the page leaves out."""

METRICS = ("latency_s", "tokens_per_s")
"""Figures that are worth an axis beside the objectives and what was varied."""


def sweep_data(path: Path) -> dict[str, Any]:
    """Columns, workloads and objectives of a result of `rooftile sweep`.

    Raises `BadInput`: no such file, no Parquet, no sweep, no point that is a chip.
    """
    needed("pyarrow", "results of sweeps", "explore")
    import pyarrow.parquet as pq

    provenance = provenance_of(path)
    if not provenance:
        raise BadInput(Problem("is no result of a sweep", "name a file that `rooftile sweep` wrote", str(path)))
    table = pq.read_table(path)
    columns = {name: _values(table[name]) for name in table.column_names}
    valid = columns["valid"][0]
    if not valid.any():
        raise BadInput(Problem("holds no point that is a chip", "see the column 'reason'", str(path)))
    workload = _codes(columns, np.flatnonzero(valid))
    objectives = [name for name in provenance.get("objectives") or ["latency_s"] if name in columns]
    kept = _kept(columns, np.flatnonzero(valid), workload, objectives)
    units = {field.name: field.metadata[b"unit"].decode() for field in table.schema if field.metadata and b"unit" in field.metadata}
    varied = [name for name in provenance.get("axes", ()) if name in columns]
    return {
        "name": path.name,
        "points": len(table),
        "no_chips": int((~valid).sum()),
        "shown": len(kept),
        "objectives": objectives,
        "larger_is_better": [name for name in columns if name in LARGER_IS_BETTER],
        "varied": [*varied, *(["chip"] if len(set(columns["chip"][0].tolist())) > 1 else [])],
        "metrics": [name for name in METRICS if name in columns],
        "workload_columns": list(WORKLOAD_COLUMNS),
        "units": units,
        "columns": {name: _column(*values, kept) for name, values in columns.items() if name not in HIDDEN},
    }


def _values(column: Any) -> tuple[NDArray[Any], list[str] | None]:
    """Numbers (truths as 0 and 1, nothing as not a number), or codes and the words that they stand for."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        encoded = column.combine_chunks() if pa.types.is_dictionary(column.type) else column.combine_chunks().dictionary_encode()
        words = [str(word) for word in encoded.dictionary.to_pylist()]
        return encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False), [*words, ""]
    values = column.to_numpy()
    return (values.astype(np.bool_) if pa.types.is_boolean(column.type) else np.asarray(values, np.float64)), None


def _codes(columns: dict[str, tuple[NDArray[Any], list[str] | None]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The workload of each row, as a number."""
    stacked = np.stack([columns[name][0][rows].astype(np.float64) for name in WORKLOAD_COLUMNS], axis=1)
    _, codes = np.unique(stacked, axis=0, return_inverse=True)
    return np.asarray(codes).reshape(-1)


def _kept(columns: Any, rows: NDArray[np.int64], workload: NDArray[np.int64], objectives: list[str]) -> NDArray[np.int64]:
    """All rows, or an even sample of them with the front of each workload."""
    if len(rows) <= MOST_POINTS:
        return rows
    costs = np.stack([-columns[name][0] if name in LARGER_IS_BETTER else columns[name][0] for name in objectives[:3]], axis=1)
    fronts = []
    for code in np.unique(workload):
        own = rows[(workload == code) & columns["feasible"][0][rows]]
        fronts.append(own[pareto_front(costs[own])])
    return np.unique(np.concatenate([rows[:: -(-len(rows) // MOST_POINTS)], *fronts]))


def _column(values: NDArray[Any], words: list[str] | None, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Codes of words; numbers of which there are few as codes too; others in full."""
    own = values[kept]
    if words is not None:
        return {"words": words, "codes": packed(own, smallest(own))}
    if own.dtype == np.bool_:
        return {"truths": packed(own, "u1")}
    distinct, codes = np.unique(own, return_inverse=True)
    if len(distinct) <= len(own) // 4 and not np.isnan(distinct).any():
        return {"numbers": distinct.tolist(), "codes": packed(codes, smallest(codes))}
    return {"values": packed(own, smallest(own))}
