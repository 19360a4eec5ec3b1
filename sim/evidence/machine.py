"""The machine at hand: its name, and what its operating system says of its processor."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SIMD = (("avx512f", 512), ("avx2", 256), ("avx", 256), ("asimd", 128), ("neon", 128), ("sse2", 128))
"""Flags of /proc/cpuinfo and the width of a vector register in bits, widest first."""


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU as its operating system describes it. `caches`: (level, bytes, cores that share one), of data or both, innermost first;
    `clock_hz` is 0 where nobody says."""

    name: str
    clock_hz: float
    simd_bits: int
    caches: tuple[tuple[int, int, int], ...]
    memory_bytes: int

    @property
    def last_cache_bytes(self) -> int:
        return max((size for _, size, _ in self.caches), default=0)


def processor(cpuinfo: str | None = None, caches: Path = _CACHES) -> Processor:
    """The CPU of this machine; `cpuinfo` stands for the text of /proc/cpuinfo."""
    text = _text(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo
    name = _field(text, "model name") or platform.processor() or platform.machine() or "CPU"
    mhz = _field(text, "cpu MHz")
    flags = set((_field(text, "flags") or _field(text, "Features")).split())
    simd_bits = next((bits for flag, bits in _SIMD if flag in flags), 128)
    return Processor(re.sub(r"\s+", " ", name), 1e6 * float(mhz) if mhz else 0.0, simd_bits, _data_caches(caches), _memory_bytes())


def _data_caches(folder: Path) -> tuple[tuple[int, int, int], ...]:
    found = []
    for index in sorted(folder.glob("index*")):
        kind, level, size = (_text(index / name).strip() for name in ("type", "level", "size"))
        match = re.fullmatch(r"([0-9]+)([KM])", size)
        if kind != "Instruction" and level.isdigit() and match:
            sharers = _count(_text(index / "shared_cpu_list").strip())
            found.append((int(level), int(match[1]) * (2**10 if match[2] == "K" else 2**20), sharers))
    return tuple(found)


def _count(cpus: str) -> int:
    """`0-3,8` are five."""
    ends = [part.split("-") for part in cpus.split(",") if part]
    return max(1, sum(int(part[-1]) - int(part[0]) + 1 for part in ends))


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return match[1].strip() if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
