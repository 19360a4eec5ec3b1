"""Plays a GEMM on a GPU whose technology is calibrated: waves of output tiles over the SMs, operands of each from the DRAM that all share.

SMs take tiles in order, one each. A wave is over when its tiles are multiplied, at the rate that is sustained, and when DRAM, which brings
(and takes back) the bytes of one tile after another without a pause, has moved those of the wave. The last wave may leave SMs without a
tile. Kernels take longer than that: pipelines fill and drain in every wave, operands pass the L2, units disturb each other. The calibrated
figure (`hwmodels.gpu`) says how much longer in all; the waves are stretched to it, or last as they are played if that is more. So the
played time is at least the tiled one, and mostly the same. Element-wise work follows the last wave.

**Stalls**, of all SMs together: `array` SMs without a tile in the last wave; `dram` bytes that are late; `dependency` what the stretching
adds; `vector` the element-wise work.
"""

from __future__ import annotations

import numpy as np

from sim.engines.played import GemmOps, Played
from sim.engines.ports import Span, Wait
from sim.engines.roofline import MATRIX, VECTOR
from sim.engines.tiled import GemmChoice, Mapped
from sim.intervals import CAUSES, Log


def play_waves(mapped: Mapped, dram: str, clock_hz: float, log: Log | None, ops: GemmOps) -> Played:
    """The schedule, in cycles; in `log` wave by wave, if that is asked for."""
    assert isinstance(mapped.choice, GemmChoice)
    assert mapped.waves is not None
    tiles, sms = mapped.waves
    busy = {name: seconds * clock_hz for name, seconds in mapped.busy_s.items()}
    after = mapped.choice.besides_s[VECTOR][0] * clock_hz
    counts = np.diff(np.minimum(np.arange(-(-tiles // sms) + 1) * sms, tiles))
    whole = busy[MATRIX] * sms / tiles  # cycles of a wave that has a tile for each SM
    moved = np.concatenate([[0.0], np.cumsum(counts)]) * (busy[dram] / tiles)
    ends = np.zeros(len(moved))
    for i in range(len(counts)):
        ends[i + 1] = max(ends[i] + whole, moved[i + 1])
    stretch = max((mapped.latency_s * clock_hz - after) / ends[-1], 1.0)
    begins, lasts = ends[:-1], np.diff(ends)
    waits = {cause: Wait() for cause in CAUSES}

    def wait(cause: str, start: float, end: float, cycles: float) -> None:
        if cycles > 1e-9 * ends[-1]:
            known = waits[cause]
            waits[cause] = Wait(known.cycles + cycles, known.first if known.first >= 0.0 else start, end)
            if log is not None:
                log.add(MATRIX, "stall", start, end, busy=cycles, cause=cause, op=ops.product)

    macs, size_bytes = mapped.issued_macs / tiles, mapped.dram_bytes / tiles
    for i, count in enumerate(counts.tolist()):
        start, end = stretch * begins[i], stretch * (begins[i] + lasts[i])
        if log is not None:
            log.add(MATRIX, "compute", start, start + whole, busy=whole * count / sms, macs=macs * count, op=ops.product)
            moves = stretch * moved[i], stretch * moved[i + 1]
            log.add(dram, "move", *moves, busy=busy[dram] * count / tiles, size_bytes=size_bytes * count, op=ops.product)
        wait("array", start, start + whole, whole * (1 - count / sms))
        wait("dram", start + whole, start + lasts[i], lasts[i] - whole)
        wait("dependency", start + lasts[i], end, end - start - lasts[i])
    done = stretch * ends[-1]
    wait("vector", done, done + after, after)
    spans = {MATRIX: Span(0.0, stretch * begins[-1] + whole), dram: Span(0.0, stretch * moved[-1])}
    if busy[VECTOR] and after:
        spans[VECTOR] = Span(done, done + after)
    for name in busy:
        if name not in spans and busy[name]:
            spans[name] = Span(0.0, done + after)
        if log is not None and name not in (MATRIX, dram) and name in spans:
            what = "compute" if name == VECTOR else "move"
            log.add(name, what, *spans[name], busy=busy[name], op=ops.elementwise if name == VECTOR else -1)
    return Played(done + after, busy, {name: span for name, span in spans.items() if busy[name]}, waits, {}, 0.0, 0.0, (), log)
