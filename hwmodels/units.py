"""Quantities with units: text such as `51.2 GB/s` to SI numbers and back. Conversion happens only here.

kB, MB, GB and TB are powers of ten; KiB, MiB, GiB and TiB are powers of two (IEC 80000-13). B is a byte; bits have no unit here.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import NamedTuple

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0}
_BYTES = {f"{prefix}B": scale for prefix, scale in (_DECIMAL | _BINARY).items()}
_PER_CYCLE = "/cycle"

UNITS: dict[str, dict[str, float]] = {
    "size": _BYTES,
    "bandwidth": {f"{unit}{per}": scale for per in ("/s", _PER_CYCLE) for unit, scale in _BYTES.items()},
    "frequency": {f"{prefix}Hz": _DECIMAL[prefix] for prefix in _DECIMAL},
    "time": {f"{prefix}s": _SMALL[prefix] for prefix in ("", "m", "u", "µ", "n", "p")},
    "power": {"W": 1.0, "mW": 1e-3, "kW": 1e3},
    "energy": {f"{prefix}J": scale for prefix, scale in _SMALL.items()},
    "area": {"mm2": 1.0, "um2": 1e-6},
    "process": {"nm": 1.0},
    "byte energy": {**{f"{prefix}J/B": scale for prefix, scale in _SMALL.items()}, **{f"{p}J/bit": 8 * _SMALL[p] for p in ("n", "p", "f")}},
    "byte area": {"um2/B": 1e-6, "um2/bit": 8e-6, "mm2/MiB": 2.0**-20},
    "PHY area": {"mm2/(GB/s)": 1e-9},
    "power density": {"W/mm2": 1.0, "mW/mm2": 1e-3},
    "throughput": {"tok/s": 1.0, "tokens/s": 1.0},
}
"""For each dimension its units in bytes, bytes per second (or per cycle), hertz, seconds, watts, joules, mm2, nanometres,
joules per byte, mm2 per byte, mm2 per byte per second, watts per mm2 and tokens per second."""

EXAMPLES = {
    "size": "2 MiB",
    "bandwidth": "51.2 GB/s",
    "frequency": "1 GHz",
    "time": "100 ns",
    "power": "15 W",
    "energy": "0.2 pJ",
    "area": "0.5 mm2",
    "process": "7 nm",
    "byte energy": "3.9 pJ/bit",
    "byte area": "0.5 um2/B",
    "PHY area": "0.03 mm2/(GB/s)",
    "power density": "50 mW/mm2",
    "throughput": "20 tok/s",
}
_QUANTITY = re.compile(r"([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*([^0-9].*)?", re.DOTALL)


class UnitError(ValueError):
    """A quantity that cannot be read, and the cure."""

    def __init__(self, message: str, cure: str) -> None:
        self.cure = cure
        super().__init__(message)


class BandwidthValue(NamedTuple):
    """Bytes per second, or bytes per clock cycle if `per_cycle`."""

    value: float
    per_cycle: bool


def parse(text: object, dimension: str) -> float:
    """A quantity such as `2 MiB` in base units (B, B/s or B/cycle, Hz, s, W, J, mm2, nm, J/B, mm2/B, mm2 s/B, W/mm2, tok/s)."""
    number, unit = _split(text, dimension)
    if unit not in UNITS[dimension]:
        raise UnitError(f"unknown unit '{unit}' in '{text}'", _unit_cure(unit, dimension))
    scale = UNITS[dimension][unit]
    value = float(number) * scale if scale >= 1 else float(number) / round(1 / scale)  # 100 ns is 1e-7 to the last bit
    if not math.isfinite(value):
        raise UnitError(f"'{text}' is too large", f"write a {dimension}, e.g. '{EXAMPLES[dimension]}'")
    if value < 0:
        raise UnitError(f"'{text}' is negative", f"a {dimension} is at least 0")
    return value


def parse_bytes(text: object) -> float:
    """`2 MiB` in bytes."""
    return parse(text, "size")


def parse_bandwidth(text: object) -> BandwidthValue:
    """`51.2 GB/s` in bytes per second, or `256 B/cycle` in bytes per cycle."""
    value = parse(text, "bandwidth")
    return BandwidthValue(value, str(text).strip().endswith(_PER_CYCLE))


def _split(text: object, dimension: str) -> tuple[str, str]:
    """Number and unit of a quantity."""
    example = f"e.g. '{EXAMPLES[dimension]}'"
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise UnitError(f"a bare number, {text!r}", f"write a unit, {example}")
    match = _QUANTITY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or "_" in match[0]:
        raise UnitError(f"expected a number with a unit, found {_found(text)}", f"write a {dimension}, {example}")
    if not match[2]:
        raise UnitError(f"a bare number, '{text}'", f"write a unit, {example}")
    return match[1], match[2]


def _found(value: object) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _unit_cure(unit: str, dimension: str) -> str:
    """`Gb/s`, `GBps`, `gb/s` and `GB/sec` mean GB/s; a unit of another dimension is said to be one."""
    others = [name for name, units in UNITS.items() if unit in units]
    if others:
        return f"this is a {others[0]}; write a {dimension}, e.g. '{EXAMPLES[dimension]}'"
    known = list(UNITS[dimension])
    spelling = re.sub(r"(?<=[Bb])ps$|/(sec|second)$", "/s", unit)
    spelling = re.sub(r"/(clk|clock|cyc|cycles)$", _PER_CYCLE, spelling).replace("μ", "µ")
    folded = [name for name in known if name.casefold() == spelling.casefold()]
    close = folded or difflib.get_close_matches(spelling, known, n=1, cutoff=0.6)
    bits = " (B is a byte, b a bit)" if close and "b" in unit.split("/")[0] else ""
    return f"did you mean '{close[0]}'?{bits}" if close else "known: " + ", ".join(known)


def format_seconds(seconds: float, digits: int = 4) -> str:
    """`1.234 ms`."""
    return _scaled(seconds, "s", {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}, digits)


def format_energy(joules: float, unit: str = "J", digits: int = 4) -> str:
    """`1.234 mJ`, or `31.2 pJ/B` for unit `J/B`."""
    return _scaled(joules, unit, {"k": 1e3, "": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}, digits)


def format_bytes(size_bytes: float, digits: int = 3) -> str:
    """`2.47 GB` (powers of ten)."""
    return _scaled(size_bytes, "B", _DECIMAL, digits)


def format_capacity(size_bytes: float, digits: int = 4) -> str:
    """`2 MiB` (powers of two, as memories are built)."""
    return _scaled(size_bytes, "B", {"": 1.0, **_BINARY}, digits)


def format_bandwidth(value: float, per_cycle: bool = False, digits: int = 4) -> str:
    """`51.2 GB/s`, or `256 B/cycle`."""
    return f"{_rounded(value, digits)} B{_PER_CYCLE}" if per_cycle else _scaled(value, "B/s", _DECIMAL, digits)


def format_rate(per_second: float, unit: str, digits: int = 4) -> str:
    """`312 TFLOP/s` for unit `FLOP/s`, `27.1 tok/s` for `tok/s`, `1.41 GHz` for `Hz`."""
    prefixes = {"": 1.0} if unit.startswith("tok") else _DECIMAL
    return _scaled(per_second, unit, prefixes, digits)


def _scaled(value: float, unit: str, prefixes: dict[str, float], digits: int) -> str:
    """The number with the largest prefix that keeps it at least 1; rounding comes first, so that 999.96 us is 1 ms."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g} {unit}"
    rounded = float(f"{value:.{digits - 1}e}")
    by_size = sorted(prefixes.items(), key=lambda item: -item[1])
    prefix, scale = next((item for item in by_size if abs(rounded) >= item[1] * (1 - 1e-12)), by_size[-1])
    return f"{_rounded(rounded / scale, digits)} {prefix}{unit}"


def _rounded(value: float, digits: int) -> str:
    """Significant digits without an exponent and without trailing zeros."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
