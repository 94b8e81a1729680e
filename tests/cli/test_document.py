"""Plain values and their JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.document import dumps, plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_has_strict_ascii_json(value: Any) -> None:
    text = dumps(plain(value))
    assert text.isascii()
    assert text.isprintable()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read == plain(value)


@dataclass
class Point:
    time: int
    where: Path


class Measured(msgspec.Struct):
    kpi: str
    value: float
    start_time: int = 0


def test_records_become_objects_and_their_times_iso() -> None:
    assert plain(Point(1_700_000_000_000, Path("a/b"))) == {
        "time": "2023-11-14T22:13:20Z",
        "where": "a/b",
    }
    assert plain([Measured("accuracy", 0.5, 1)]) == [
        {"kpi": "accuracy", "value": 0.5, "start_time": "1970-01-01T00:00:00.001Z"}
    ]
    assert plain({"time": 7}) == {"time": 7}, "a mapping of foreign keys is left alone"


def test_nan_is_null_and_said() -> None:
    assert plain(Measured("accuracy", math.nan)) == {
        "kpi": "accuracy",
        "value": None,
        "start_time": "1970-01-01T00:00:00Z",
        "is_nan": True,
    }
    assert plain({"a": {"b": [1.0, math.nan]}, "c": -math.inf}) == {
        "a": {"b": [1.0, None], "is_nan": True},
        "c": None,
        "is_infinite": True,
    }


def test_other_scalars() -> None:
    assert plain((Fraction(1, 3), b"\x00\xff", {3, 1}, True)) == ["1/3", "00ff", [1, 3], True]
    with pytest.raises(TypeError, match="no form in JSON"):
        plain(object())
