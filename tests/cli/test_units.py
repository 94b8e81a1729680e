"""Sizes, counts and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli import units


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (25_270_682, "24.1 MiB"),
        (2_201_170_739, "2.05 GiB"),
        (219_136, "214 KiB"),
        (1024**2 - 1, "1.00 MiB"),
        (1024**6, "1024 PiB"),
    ],
)
def test_sizes_have_three_digits(number: int, text: str) -> None:
    assert units.size(number) == text


@given(st.integers(1024, 2**59))
def test_a_size_is_within_its_rounding(number: int) -> None:
    text = units.size(number)
    value, unit = text.split()
    scale = 1024 ** (["KiB", "MiB", "GiB", "TiB", "PiB"].index(unit) + 1)
    assert re.fullmatch(r"\d\.\d\d|\d\d\.\d|\d{3,4}", value)
    assert abs(float(value) * scale - number) <= 0.006 * number


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_iso_times_read_back(moment: datetime) -> None:
    whole = moment.replace(tzinfo=UTC, microsecond=0)  # a float holds no microsecond in 2515
    milliseconds = int(whole.timestamp()) * 1000 + moment.microsecond // 1000
    text = units.iso(milliseconds)
    assert text.endswith("Z")
    read = datetime.fromisoformat(text)
    assert read == moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)


def test_times_that_no_calendar_holds_do_not_fail() -> None:
    assert units.iso(10**18) == "1000000000000000000 ms"
    assert units.stamp(10**18) == "1000000000000000000 ms"


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0, "just now"),
        (59, "just now"),
        (120, "2 min ago"),
        (3 * 3600, "3 h ago"),
        (86_400, "1 day ago"),
        (6 * 86_400, "6 days ago"),
        (7 * 86_400, "2023-11-07"),
        (-10, "2023-11-14"),
    ],
)
def test_times_are_relative_under_a_week(age: int, text: str) -> None:
    now = 1_700_000_000_000
    assert units.when(now - age * 1000, now) == text


def test_stamps_counts_and_durations() -> None:
    assert units.stamp(1_700_000_000_000) == "2023-11-14 22:13 UTC"
    assert units.count(1204) == "1,204"
    assert [units.seconds(s) for s in (0.04, 9.94, 12.3, 185, 7300)] == [
        "0.0 s",
        "9.9 s",
        "12 s",
        "3 min 05 s",
        "2 h 01 min",
    ]
