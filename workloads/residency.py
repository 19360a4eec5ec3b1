"""Which intermediates may stay on the chip, as one number per tensor: the capacity that it asks for.

Intermediates are ranked once, by size. One stays iff it and the smaller ones that live with it fit the capacity at every moment of its
life; so each has a threshold, and more capacity never sends a tensor back to DRAM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functional.spec import Dim
from workloads.fuse import Group


@dataclass(frozen=True, slots=True)
class Residency:
    """`thresholds_bytes[tensor]`: capacity from which on it stays on the chip. `peak_bytes`: most intermediates alive at a time."""

    thresholds_bytes: Mapping[str, Dim]
    peak_bytes: Dim


def residency(groups: Sequence[Group]) -> Residency:
    """What each intermediate between groups asks of the chip."""
    sizes, births, deaths = _lifetimes(groups)
    thresholds: dict[str, Dim] = {}
    peak: Dim = 0
    memo: dict[Any, list[Dim]] = {}
    identities = {name: _identity(size) for name, size in sizes.items()}
    for live in _live_tensors(len(groups), births, deaths):
        key = tuple([identities[name] for name in live])
        needs = memo.get(key)
        if needs is None:
            needs = memo[key] = _needs([sizes[name] for name in live])
            for need in needs:  # the last in rank asks for all that are alive
                peak = _larger(peak, need)
        for name, need in zip(live, needs, strict=True):
            known = thresholds.setdefault(name, need)
            if known is not need:
                thresholds[name] = _larger(known, need)
    return Residency(thresholds, peak)


def kept_bytes(groups: Sequence[Group], resident: Residency, capacity_bytes: float) -> list[int]:
    """Bytes of the intermediates that stay on the chip while each group runs, of those that ask for at most `capacity_bytes`."""
    sizes, births, deaths = _lifetimes(groups)
    kept = {name for name, threshold in resident.thresholds_bytes.items() if threshold <= capacity_bytes}
    return [
        sum(int(sizes[name]) for name in live if name in kept) for live in _live_tensors(len(groups), births, deaths)
    ]


def _lifetimes(groups: Sequence[Group]) -> tuple[dict[str, Dim], dict[str, int], dict[str, int]]:
    """Size of each intermediate, the group that makes it and the last one that reads it."""
    sizes: dict[str, Dim] = {}
    births: dict[str, int] = {}
    deaths: dict[str, int] = {}
    for g, group in enumerate(groups):
        for flow in group.flows:
            if flow.tensor:
                # The fresh part of a KV cache is first seen where it is read: it was written one group earlier, with the cache.
                births.setdefault(flow.tensor, g if flow.is_write else g - 1)
                sizes.setdefault(flow.tensor, flow.size_bytes)
                deaths[flow.tensor] = g
    return sizes, births, deaths


def _live_tensors(groups: int, births: dict[str, int], deaths: dict[str, int]) -> list[tuple[str, ...]]:
    live: list[list[str]] = [[] for _ in range(groups)]
    for name, birth in births.items():
        for g in range(birth, deaths[name] + 1):
            live[g].append(name)
    return [tuple(names) for names in live]


def _needs(sizes: Sequence[Dim]) -> list[Dim]:
    """For each tensor the sum of itself and of all live ones that rank before it (smaller, or as large and earlier)."""
    needs: list[Dim] = []
    for i, size in enumerate(sizes):
        need: Dim = size
        for j, other in enumerate(sizes):
            if j != i:
                before = other < size if j > i else other <= size
                need = need + other * before
        needs.append(need)
    return needs


def _larger(a: Dim, b: Dim) -> Dim:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def _identity(value: Dim) -> int:
    return value if isinstance(value, int) else -id(value)
