"""A quantity means what its unit says: GB is 10^9, GiB is 2^30, and what carries no clear unit is refused with a cure."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.units import (
    UNITS,
    UnitError,
    format_bandwidth,
    format_bytes,
    format_rate,
    format_seconds,
    parse,
    parse_bandwidth,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("1 GB", "size", 1_000_000_000),
        ("1 GiB", "size", 1_073_741_824),
        ("1 kB", "size", 1_000),
        ("64 KiB", "size", 65_536),
        ("2MiB", "size", 2_097_152),
        (" 1.5 TB ", "size", 1_500_000_000_000),
        ("1e3 B", "size", 1_000),
        ("51.2 GB/s", "bandwidth", 51_200_000_000),
        ("1 GiB/s", "bandwidth", 1_073_741_824),
        ("1410 MHz", "frequency", 1_410_000_000),
        ("100 ns", "time", 1e-7),
        ("3 us", "time", 3e-6),
        ("3 µs", "time", 3e-6),
        ("0 ps", "time", 0),
        ("250 mW", "power", 0.25),
        ("0.2 pJ", "energy", 2e-13),
        ("2 mm2", "area", 2),
        ("20 tok/s", "throughput", 20),
    ],
)
def test_value_of_a_quantity(text: str, dimension: str, expected: float) -> None:
    assert parse(text, dimension) == expected


def test_a_gigabyte_is_not_a_gibibyte() -> None:
    assert parse_bytes("1 GiB") / parse_bytes("1 GB") == 1.073741824
    assert parse_bandwidth("1 GiB/s").value / parse_bandwidth("1 GB/s").value == 1.073741824


def test_bandwidth_says_whether_it_counts_per_cycle() -> None:
    assert parse_bandwidth("256 B/cycle") == (256.0, True)
    assert parse_bandwidth("4 KiB/cycle") == (4096.0, True)
    assert parse_bandwidth("256 B/s") == (256.0, False)


@pytest.mark.parametrize(
    ("text", "dimension", "message", "cure"),
    [
        (51.2, "bandwidth", "a bare number, 51.2", "write a unit, e.g. '51.2 GB/s'"),
        (0, "size", "a bare number, 0", "write a unit, e.g. '2 MiB'"),
        ("51.2", "bandwidth", "a bare number, '51.2'", "write a unit, e.g. '51.2 GB/s'"),
        ("51.2 Gb/s", "bandwidth", "unknown unit 'Gb/s' in '51.2 Gb/s'", "did you mean 'GB/s'? (B is a byte, b a bit)"),
        ("51.2 GBps", "bandwidth", "unknown unit 'GBps' in '51.2 GBps'", "did you mean 'GB/s'?"),
        ("51.2 GB/sec", "bandwidth", "unknown unit 'GB/sec' in '51.2 GB/sec'", "did you mean 'GB/s'?"),
        ("64 B/clk", "bandwidth", "unknown unit 'B/clk' in '64 B/clk'", "did you mean 'B/cycle'?"),
        ("51.2 GB", "bandwidth", "unknown unit 'GB' in '51.2 GB'", "this is a size; write a bandwidth, e.g. '51.2 GB/s'"),
        ("8 KB", "size", "unknown unit 'KB' in '8 KB'", "did you mean 'kB'?"),
        ("8 Gib", "size", "unknown unit 'Gib' in '8 Gib'", "did you mean 'GiB'? (B is a byte, b a bit)"),
        ("1 ghz", "frequency", "unknown unit 'ghz' in '1 ghz'", "did you mean 'GHz'?"),
        ("1 parsec", "time", "unknown unit 'parsec' in '1 parsec'", "known: s, ms, us, µs, ns, ps"),
        ("nan GB/s", "bandwidth", "expected a number with a unit, found 'nan GB/s'", "write a bandwidth, e.g. '51.2 GB/s'"),
        ("inf s", "time", "expected a number with a unit, found 'inf s'", "write a time, e.g. '100 ns'"),
        ("1_000 B", "size", "expected a number with a unit, found '1_000 B'", "write a size, e.g. '2 MiB'"),
        (True, "size", "expected a number with a unit, found true", "write a size, e.g. '2 MiB'"),
        (None, "size", "expected a number with a unit, found nothing", "write a size, e.g. '2 MiB'"),
        ("", "size", "expected a number with a unit, found ''", "write a size, e.g. '2 MiB'"),
        ("1e400 B", "size", "'1e400 B' is too large", "write a size, e.g. '2 MiB'"),
        ("-2 MiB", "size", "'-2 MiB' is negative", "a size is at least 0"),
    ],
)
def test_refused_with_a_cure(text: object, dimension: str, message: str, cure: str) -> None:
    with pytest.raises(UnitError) as refused:
        parse(text, dimension)
    assert (str(refused.value), refused.value.cure) == (message, cure)


@given(st.integers(0, 10**9), st.sampled_from([(dimension, unit) for dimension in UNITS for unit in UNITS[dimension]]))
def test_whole_numbers_convert_to_the_nearest_double(number: int, dimension_and_unit: tuple[str, str]) -> None:
    dimension, unit = dimension_and_unit
    scale = UNITS[dimension][unit]
    exact = number * (Fraction(int(scale)) if scale >= 1 else Fraction(1, round(1 / scale)))
    assert parse(f"{number} {unit}", dimension) == float(exact)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_seconds(1.234e-3), "1.234 ms"),
        (format_seconds(999.96e-6), "1 ms"),
        (format_seconds(0), "0 s"),
        (format_seconds(-2.5e-6), "-2.5 us"),
        (format_seconds(123.456), "123.5 s"),
        (format_seconds(math.inf), "inf s"),
        (format_bytes(2.468e9), "2.47 GB"),
        (format_bytes(512), "512 B"),
        (format_bytes(999_999), "1 MB"),
        (format_bandwidth(51.2e9), "51.2 GB/s"),
        (format_bandwidth(256, per_cycle=True), "256 B/cycle"),
        (format_bandwidth(4096, per_cycle=True), "4096 B/cycle"),
        (format_rate(311.87e12, "FLOP/s"), "311.9 TFLOP/s"),
        (format_rate(1.41e9, "Hz"), "1.41 GHz"),
        (format_rate(27.123456, "tok/s"), "27.12 tok/s"),
        (format_rate(123_456.7, "tok/s"), "123500 tok/s"),
    ],
)
def test_printed_for_tables(text: str, expected: str) -> None:
    assert text == expected


@given(st.floats(1e-11, 1e3))
def test_printed_seconds_read_back_within_their_digits(seconds: float) -> None:
    assert parse(format_seconds(seconds), "time") == pytest.approx(seconds, rel=5.1e-4)


@given(st.floats(1, 1e14))
def test_printed_bandwidth_reads_back_within_its_digits(bytes_per_s: float) -> None:
    assert parse(format_bandwidth(bytes_per_s), "bandwidth") == pytest.approx(bytes_per_s, rel=5.1e-4)
