"""The machine at hand: its name, and what its operating system says of its processor, or its driver of its GPU."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


class Taken:
    """Processor seconds that others have taken of each of `threads` threads since it was made, as the operating system counts them: time
    that a hypervisor gave to other machines while this one wanted to run, and of other processes what the remaining processors had no room
    for. 0 where nobody counts (Linux does: /proc/stat, man proc)."""

    def __init__(self, threads: int, stat: Path = Path("/proc/stat"), now: Callable[[], float] = time.perf_counter) -> None:
        self._threads, self._stat, self._now = threads, stat, now
        self._last = self._counted()
        self._taken_s = 0.0

    def __call__(self) -> float:
        last, self._last = self._last, self._counted()
        if last is not None and self._last is not None:
            elapsed_s, used_s, stolen_s = (new - old for new, old in zip(self._last, last, strict=True))
            spare_s = max((os.cpu_count() or 1) - self._threads, 0) * elapsed_s
            self._taken_s += (stolen_s + max(used_s - spare_s, 0.0)) / self._threads
        return self._taken_s

    def _counted(self) -> tuple[float, float, float] | None:
        """The time now, seconds that other processes used of all processors, and those that were stolen."""
        words = _text(self._stat).partition("\n")[0].split()
        if len(words) < 9 or words[0] != "cpu":
            return None
        user, nice, system, _, _, irq, soft, stolen = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
        return self._now(), user + nice + system + irq + soft - time.process_time(), stolen


_BOARD_STATE = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "power.default_limit", "ecc.mode.current")
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Board:
    """A GPU and the state that its driver tells right after the runs; `state` is empty where nobody says."""

    name: str
    state: Mapping[str, str]

    @property
    def hardware(self) -> str:
        """As tables call it: a board whose power is limited is not the one of the datasheet."""
        limit, usual = self.state.get("power.limit", ""), self.state.get("power.default_limit", "")
        return f"{self.name} ({float(limit):g} W power limit)" if _number(limit) < _number(usual) else self.name

    def __str__(self) -> str:
        if not self.state:
            return "no nvidia-smi that tells driver, clocks and power limit"
        told = self.state
        return (
            f"driver {told['driver_version']}; right after the runs SM clock {told['clocks.sm']} of {told['clocks.max.sm']} MHz,"
            f" memory clock {told['clocks.mem']} MHz; power limit {told['power.limit']} W, {told['power.default_limit']} W by default;"
            f" ECC {told['ecc.mode.current']}"
        )


def board(name: str, uuid: str, program: str = "nvidia-smi") -> Board:
    """What the driver's tool says of a GPU, which `uuid` names whatever devices this process is shown."""
    asked = [program, f"--query-gpu={','.join(_BOARD_STATE)}", "--format=csv,noheader,nounits", f"--id={uuid}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return Board(name, {})
    cells = [cell.strip() for cell in done.stdout.strip().split(",")]
    return Board(name, dict(zip(_BOARD_STATE, cells, strict=True)) if len(cells) == len(_BOARD_STATE) else {})


def _number(text: str) -> float:
    """Infinite where a board has no such number (`[N/A]`)."""
    try:
        return float(text)
    except ValueError:
        return math.inf


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TRIM_BYTES, _MMAP_MAX = 128 * 2**10, 2**16
"""What glibc begins with (man mallopt)."""


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Freed memory stays with the process meanwhile; says whether the C library can be asked for that.

    Else glibc takes every large tensor from the kernel anew, which fills it with zeros page by page: more than an element-wise op takes
    itself. PyTorch's performance tuning guide advises allocators that keep it.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    mallopt = getattr(library, "mallopt", None)
    if library is None or mallopt is None:
        yield False
        return
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_MMAP_MAX, 0)
    try:
        yield True
    finally:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_MMAP_MAX, _MMAP_MAX)
        library.malloc_trim(0)


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
