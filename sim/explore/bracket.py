"""The border along one number of a chip between values that meet a target and values that miss it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sim.explore.fields import is_whole, less_is_faster

DOUBLINGS = 30
"""How often a value is doubled or halved before the search ends: a factor of 10^9 either way from the chip's own."""

TOLERANCE = 1e-9
"""Relative width of the final bracket of a number that is not whole."""

_ZERO_STARTS_AT = 1e-12
"""What a number that is 0 in the chip file is first raised to (seconds: only times may be 0)."""

_PATIENCE = 3
"""Steps after which a bracket must be half as wide, or the next one bisects it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One value tried: latency [s] and whether it meets the target; `reason` where there is no such chip (then latency_s is infinite)."""

    value: float
    latency_s: float
    meets: bool
    reason: str = ""


class Line:
    """Brackets a target along one number. `faster` steps are those that can only shorten the latency.

    `cheaper`, if there is one, is the same line under an engine that costs less: the search begins at its border. With `is_bound` that
    engine is never above this one, so that nothing on the slower side of its border meets.
    """

    def __init__(
        self, path: str, start: float, limit_s: float, probe: Callable[[float], Probe], cheaper: Line | None = None, is_bound: bool = False
    ) -> None:
        self.start = start
        self.limit_s = limit_s
        self.probe = probe
        self.cheaper = cheaper
        self.is_bound = is_bound
        self.whole = is_whole(path)
        self.less_is_faster = less_is_faster(path)

    def border(self) -> tuple[Probe | None, Probe | None]:
        """(the last value that meets, the next slower one that does not)."""
        at, beyond = self.cheaper.border() if self.cheaper else (None, None)
        if beyond is not None:
            self.start = (at or beyond).value
        own = self.probe(self.start)
        if self.is_bound and beyond is not None:
            if own.meets:
                return own, self.probe(beyond.value)
            if at is None:
                return None, own
        doublings = 1.0 if beyond is None else self._likely(own)
        if own.meets:
            met, missed = self._walk(own, faster=False, doublings=doublings)
        else:
            # Far off, as it seems: where latencies are monotone the fastest value tells at once whether any does.
            fastest = self.probe(self._moved(DOUBLINGS, faster=True)) if doublings == 1.0 and not self.whole else own
            if fastest is not own and not fastest.meets and not fastest.reason:
                return None, fastest
            missed, met = self._walk(own, faster=True, doublings=doublings)
            if met is None:
                return None, missed
        assert met is not None
        return self._narrow(met, missed) if missed is not None else (met, None)

    def _likely(self, found: Probe) -> float:
        """Doublings that twice make up for what a value misses, or has to spare, if the latency is in proportion to it: 1 at most."""
        off = abs(math.log2(found.latency_s / self.limit_s))
        return 1.0 if self.whole or not off < 0.5 else max(2 * off, 2 * TOLERANCE)

    def _walk(self, begin: Probe, faster: bool, doublings: float) -> tuple[Probe | None, Probe | None]:
        """From `begin` in ever larger steps until the verdict changes: (the last like `begin`, the first that differs or None)."""
        last = begin
        while True:
            value = self._moved(min(doublings, DOUBLINGS), faster)
            if value == last.value:
                return last, None
            found = self.probe(value)
            if found.reason and faster:
                found = self._last_valid(last, found)
                return (last, found) if found.meets else (found, None)
            if found.meets != begin.meets:
                return last, found
            last = found
            if doublings >= DOUBLINGS:
                return last, None
            doublings *= 2 if doublings >= 1 else 4

    def _moved(self, doublings: float, faster: bool) -> float:
        """The value that many doublings (or halvings) away; a number at 0 starts from almost 0, and the fastest step of it is 0."""
        if faster and self.less_is_faster and doublings == DOUBLINGS:
            return 1.0 if self.whole else 0.0 if self._may_be_zero else self.start * 2.0**-doublings
        factor = 2.0 ** (doublings if faster != self.less_is_faster else -doublings)
        value = (self.start or _ZERO_STARTS_AT) * factor
        return max(1.0, float(round(value))) if self.whole else value

    @property
    def _may_be_zero(self) -> bool:
        return self.probe(0.0).reason == ""

    def _last_valid(self, valid: Probe, invalid: Probe) -> Probe:
        """The fastest value for which there still is a chip."""
        while (middle := self._middle(valid.value, invalid.value)) is not None:
            found = self.probe(middle)
            valid, invalid = (valid, found) if found.reason else (found, invalid)
        return valid

    def _narrow(self, met: Probe, missed: Probe) -> tuple[Probe, Probe]:
        """The border between two values by the Illinois method (Dowell and Jarratt 1971), by bisection where that is slow, or
        latencies go in steps."""
        weight = {True: 1.0, False: 1.0}
        widths = [math.inf] * _PATIENCE
        before, is_level = None, False
        while (middle := self._middle(met.value, missed.value)) is not None:
            widths.append(abs(met.value - missed.value))
            is_slow = is_level or widths[-1] > widths[-1 - _PATIENCE] / 2
            found = self.probe(middle if is_slow else self._crossing(met, missed, weight, middle))
            is_level = found.latency_s in (met.latency_s, missed.latency_s)
            weight[found.meets] = 1.0
            weight[not found.meets] = 1.0 if is_slow or found.meets != before else weight[not found.meets] / 2
            before = found.meets
            met, missed = (found, missed) if found.meets else (met, found)
        return met, missed

    def _crossing(self, met: Probe, missed: Probe, weight: Mapping[bool, float], middle: float) -> float:
        """Where the line between two values crosses the limit, off both ends by what still tells values apart; else their middle.

        The line is one over times, such as seconds per byte, in which a latency is a sum of straight lines and largest of such.
        """
        low, high = min(met.value, missed.value), max(met.value, missed.value)
        if low <= 0 or not math.isfinite(missed.latency_s):
            return middle
        above = (missed.latency_s - self.limit_s) * weight[False]
        below = (self.limit_s - met.latency_s) * weight[True]
        share = above / (above + below)
        if self.less_is_faster:
            value = missed.value + (met.value - missed.value) * share
        else:
            value = 1 / (1 / missed.value + (1 / met.value - 1 / missed.value) * share)
        least = 1.0 if self.whole else TOLERANCE * high / 2
        return min(max(float(round(value)) if self.whole else value, low + least), high - least)

    def _middle(self, a: float, b: float) -> float | None:
        """Between two values, or None if nothing is left between them."""
        low, high = min(a, b), max(a, b)
        if self.whole:
            return float((low + high) // 2) if high - low > 1 else None
        if high - low <= TOLERANCE * high:
            return None
        return math.sqrt(low * high) if low > 0 else high / 2 if high > _ZERO_STARTS_AT else None
