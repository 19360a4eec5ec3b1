"""The CPU at hand as a chip file: a core is a matrix unit whose granule is one SIMD multiply-add, and vector lanes.

Peaks are the best that any run reached, so that a roofline stays a bound: `calibrate` fits what is sustained of them.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import yaml

from functional.errors import Problem, ScenarioError
from functional.formats import bits_of
from hwmodels import units
from sim.evidence.measure import Measured, Measurement
from sim.evidence.sampling import Timed
from sim.evidence.stopwatch import FLUSHED
from sim.evidence.tidy import slow_note

_WIDTH = 110
_LANE_BITS = 32
_ASSUMED_CLOCK_HZ = 1e9


def chip_yaml(found: Measurement, clock: str | None = None) -> str:
    """The text of a chip file; `clock` as a user writes it (`2.5 GHz`). Raises `BadInput` for a clock that cannot be read."""
    clock_hz = check_clock(clock) or found.processor.clock_hz
    told = "given" if clock else "/proc/cpuinfo" if clock_hz else "nobody says: rates per cycle follow from it, seconds do not"
    clock_hz = clock_hz or _ASSUMED_CLOCK_HZ
    measured = f"rooftile measure, {found.date}, {found.threads} threads"
    calls = measured if found.primitives_rate == 1 else f"{measured}, {slow_note(found.primitives_rate)}"
    data = {
        "name": _slug(found.hardware),
        "aliases": [found.hardware],
        "sources": [f"{found.processor.name}: {measured}"],
        "standing": "measured",
        "technology": "cpu",
        "default_format": found.dtype,
        "clock": {"value": f"{clock_hz / 1e6:g} MHz", "source": told, "standing": "measured" if clock_hz else "assumed"},
        "cores": {"value": found.threads, "source": "threads that PyTorch uses"},
        "matrix": _matrix(found, clock_hz, measured),
        "vector": _vector(found, clock_hz, calls),
        "memory": _memory(found, clock_hz, measured),
        "overhead": _overhead(found, calls),
    }
    head = "# A CPU as a chip. Peaks are the best that was measured; `rooftile calibrate` fits what is sustained of them.\n"
    return head + yaml.safe_dump(data, sort_keys=False, width=_WIDTH, default_flow_style=None)


def check_clock(clock: str | None) -> float | None:
    """A clock as a user writes it in Hz, None for none. Raises `BadInput` for one that cannot be read."""
    try:
        clock_hz = None if clock is None else units.parse(clock, "frequency")
    except units.UnitError as why:
        raise ScenarioError(Problem(str(why), why.cure, path="--clock")) from why
    if clock_hz == 0:
        raise ScenarioError(Problem(f"'{clock}' is zero", "write more than 0, e.g. '2.5 GHz'", path="--clock"))
    return clock_hz


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _matrix(found: Measurement, clock_hz: float, measured: str) -> dict[str, Any]:
    lanes = found.processor.simd_bits // _LANE_BITS
    best, rate = max(((row, _macs(row) / row.time.least_s) for row in _rows(found, "gemm")), key=lambda pair: pair[1])
    shape = " x ".join(str(best.cells[name]) for name in "MNK")
    return {
        "kind": "tensor_core",
        "count": {"value": 1, "source": "one SIMD engine per core; its issue ports are in the rate", "standing": "assumed"},
        "tile": {"m": 1, "n": lanes, "k": 1},
        "rates": {found.dtype: {"value": _round(rate / found.threads / clock_hz), "source": f"best GEMM, {shape}; {measured}"}},
        "accumulate": {found.dtype: "fp32"},
    }


def _macs(row: Measured) -> float:
    return float(row.cells["M"]) * float(row.cells["N"]) * float(row.cells["K"])


def _vector(found: Measurement, clock_hz: float, measured: str) -> dict[str, Any]:
    lanes = found.processor.simd_bits // _LANE_BITS
    source = f"one PyTorch call, its result in memory of its own; {measured}"
    lane_cycles_per_s = lanes * found.threads * clock_hz
    cycles = {
        name: {"value": _round(seconds * lane_cycles_per_s), "source": source}
        for name, seconds in found.primitives_s.items()
        if name not in ("launch", "hidden")
    }
    return {"lanes": {"value": lanes, "source": f"{found.processor.simd_bits} bits of fp32, from the processor's flags"}, "cycles": cycles}


ONE_PASS = 1.5
"""Times of one row up to which more of them have shared its pass over the weights; a second pass makes it twice that."""


def rows_at_once(found: Measurement) -> int | None:
    """Rows of a product that take as long as one: the most of any shape, up to the first that do not; None where one was not timed.

    One row must have been timed at the machine's best rate: more of them, if they were not, only seem fewer.
    """
    shapes = [timed for timed in _flushed_gemms(found).values() if 1 in timed and timed[1].rate == 1]
    return max((_shared({m: time.least_s for m, time in timed.items()}) for timed in shapes), default=None)


def _shared(least_s: dict[int, float]) -> int:
    """The most rows, counted up from one, that share a pass; seconds by rows."""
    longest_s = ONE_PASS * least_s[1]
    first_beyond = min((m for m, seconds in least_s.items() if seconds > longest_s), default=math.inf)
    return max(m for m in least_s if m < first_beyond)


_FEWEST_ROWS = 100
"""Rows of products from which on each row takes as long as any other."""


def pack_bytes_per_s(found: Measurement) -> float | None:
    """How fast weights are packed before they are multiplied: the median over shapes of what is left of the time of the fewest of many
    rows, if each takes as long as each of the others. None where nothing is left, or no shape was timed with two numbers of rows."""
    rates = []
    for (n, k), timed in _flushed_gemms(found).items():
        times = {m: time.least_s for m, time in timed.items() if time.rate == 1}
        many = sorted(m for m in times if m >= _FEWEST_ROWS)
        if len(many) > 1:
            row_s = (times[many[-1]] - times[many[0]]) / (many[-1] - many[0])
            left_s = times[many[0]] - many[0] * row_s
            rates.append(n * k * bits_of(found.dtype) / 8 / left_s if left_s > 0 else math.inf)
    rate = statistics.median(rates) if rates else math.inf
    return rate if rate < math.inf else None


def _flushed_gemms(found: Measurement) -> dict[tuple[int, int], dict[int, Timed]]:
    """Products on flushed caches by N and K, and by M."""
    shapes: dict[tuple[int, int], dict[int, Timed]] = {}
    for row in _rows(found, "gemm"):
        if row.note == FLUSHED:
            m, n, k = (int(row.cells[name]) for name in "MNK")
            shapes.setdefault((n, k), {})[m] = row.time
    return shapes


def _overhead(found: Measurement, measured: str) -> dict[str, Any]:
    launch_ns, hidden_ns = (f"{1e9 * found.primitives_s[name]:.4g} ns" for name in ("launch", "hidden"))
    rows = rows_at_once(found)
    few = {"unpacked_rows": {"value": rows, "source": f"so many rows take as long as one; {measured}"}} if rows else {}
    rate = pack_bytes_per_s(found)
    packs = {"pack": {"value": f"{rate / 1e9:.4g} GB/s", "source": f"products less what their rows take; {measured}"}} if rate else {}
    return {
        **few,
        **packs,
        "launch": {"value": launch_ns, "source": f"an addition of one element; {measured}"},
        "hidden": {"value": hidden_ns, "source": f"exponential of minus infinity, more than of another number; {measured}"},
    }


def _memory(found: Measurement, clock_hz: float, measured: str) -> dict[str, Any]:
    lanes = found.processor.simd_bits // _LANE_BITS
    name, rate = max(((_told(row), _moved_bytes(row, found.dtype) / row.time.least_s) for row in found.rows), key=lambda pair: pair[1])
    levels: dict[str, Any] = {
        "dram": {
            "capacity": f"{found.processor.memory_bytes} B",
            "bandwidth": {"value": f"{rate / 1e9:.4g} GB/s", "source": f"best stream, {name}; {measured}"},
            "latency": {"value": "100 ns", "source": "order of magnitude of a load from DRAM", "standing": "assumed"},
            "burst": {"value": "64 B", "source": "a cache line", "standing": "assumed"},
        }
    }
    caches = found.processor.caches
    for level, size, sharers in sorted(caches, reverse=True):
        if level == 1 and len(caches) > 1:
            continue  # tiles lie in the L2 cache; L1 and registers feed the SIMD engine and set no bound of their own
        shared = sharers >= found.threads > 1 or (level > 2 and found.threads == 1)
        per_cycle = 2 * lanes * 4 if level < 3 else lanes * 4 // 2 * (found.threads if shared else 1)
        source = "order of magnitude of this level of cache: a register's width per cycle and core, half of it from a shared one"
        levels[f"l{level}"] = {
            "capacity": {"value": f"{size} B", "source": "/sys/devices/system/cpu/cpu0/cache"},
            "bandwidth": {"value": f"{per_cycle} B/cycle", "source": source, "standing": "assumed"},
            "per": "chip" if shared else "core",
        }
    return levels


_STREAMED = {"stream_read": 1, "stream_triad": 3}
"""Arrays that a stream reads or writes."""


def _moved_bytes(row: Measured, dtype: str) -> float:
    """Bytes from memory of what is bound by them: streams, and the weights of a product with one row."""
    op, cells = str(row.cells["op"]), row.cells
    if op in _STREAMED:
        return _STREAMED[op] * 4.0 * int(cells["N"])
    return int(cells["N"]) * int(cells["K"]) * bits_of(dtype) / 8 if op == "gemm" and cells["M"] == 1 and row.note == FLUSHED else 0.0


def _told(row: Measured) -> str:
    return "matrix times vector" if row.cells["op"] == "gemm" else str(row.cells["op"])


def _rows(found: Measurement, op: str) -> list[Measured]:
    return [row for row in found.rows if row.cells["op"] == op]


def _round(value: float) -> float:
    return float(f"{value:.4g}")
