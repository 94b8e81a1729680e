"""The gate language: what is read comes back, what is no rule is refused with its column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.errors import DeltavcError, UsageError
from deltavc.kpi.rules import AgeRule, BaselineRule, LimitRule, parse

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}(/[a-z0-9]{1,4})?", fullmatch=True)
parts = st.none() | st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True)
numbers = st.floats(-1e12, 1e12, allow_nan=False).map(lambda x: x + 0.0)
units = st.sampled_from(["", "%", "ms", "MiB", "s"])
stated = st.none() | st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
rules = st.one_of(
    st.builds(LimitRule, names, parts, st.booleans(), numbers, units, stated),
    st.builds(
        BaselineRule, names, parts, st.floats(1e-9, 1e6).map(lambda x: x + 0.0), units, stated
    ),
    st.builds(AgeRule, names, parts, st.floats(0, 1e6), st.sampled_from(["days", "hours", "week"])),
)


@given(rules)
def test_a_rule_comes_back_as_it_was(rule):
    assert parse(str(rule)) == rule
    assert str(parse(str(rule))) == str(rule)
    assert parse("  " + str(rule).replace(" ", " \t ") + " ") == rule


@pytest.mark.parametrize(
    ("text", "rule", "written"),
    [
        ("accuracy>=0.85", LimitRule("accuracy", None, True, 0.85), "accuracy >= 0.85"),
        ("x <= 500ms", LimitRule("x", None, False, 500, "ms"), "x <= 500 ms"),
        ("x >= 85 % at 99%", LimitRule("x", None, True, 85, "%", 0.99), "x >= 85% at 99%"),
        ("x >= -.5e-3", LimitRule("x", None, True, -0.0005), "x >= -0.0005"),
        ("x not worse than baseline", BaselineRule("x", None), "x not worse than baseline"),
        (
            "x[a/b] not worse than baseline by 2 ms at 95%",
            BaselineRule("x", "a/b", 2, "ms", 0.95),
            "x[a/b] not worse than baseline by 2 ms at 95%",
        ),
        ("x not worse than baseline by 0", BaselineRule("x", None), "x not worse than baseline"),
        ("age of x <= 2 weeks", AgeRule("x", None, 2, "weeks"), "age of x <= 2 weeks"),
        ("age >= 3", LimitRule("age", None, True, 3), "age >= 3"),
    ],
)
def test_forms(text, rule, written):
    assert parse(text) == rule
    assert str(rule) == written


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("accuracy", 9),
        ("accuracy > 0.8", 10),
        ("accuracy == 0.8", 10),
        ("accuracy >= ", 13),
        ("accuracy >= much", 13),
        ("accuracy >= nan", 13),
        ("accuracy >= 1e999", 13),
        ("accuracy >= 1 ms ms", 18),
        ("accuracy >= 1 at 5%", 18),
        ("accuracy >= 1 at 100%", 18),
        ("accuracy >= 1 at 95", 18),
        ("accuracy not better than baseline", 14),
        ("accuracy not worse than baseline by -1", 37),
        ("age of x >= 3 days", 10),
        ("age of x <= 3", 13),
        ("age of x <= 3 years", 15),
        ("a[b >= 3", 1),
        ("a[] >= 3", 1),
        ("../a >= 3", 1),
        ("a >= 3 and b >= 3", 12),
    ],
)
def test_what_is_no_rule_is_refused_where_it_is_wrong(text, column):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.context["column"] == column
    assert f"column {column}: " in caught.value.message
    assert "deltavc help gates" in caught.value.hint


WORDS = [
    *("age", "of", "x", "x[y]", ">=", "<=", "not", "worse", "than", "baseline", "by", "at", "5"),
    *("5%", "1e400", "days", "ms", "=", "[", "\0", "é", "__import__('os')"),
]


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join))
def test_any_text_is_a_rule_or_refused(text):
    try:
        rule = parse(text)
    except DeltavcError:
        return
    assert parse(str(rule)) == rule


def test_a_long_text_is_refused():
    with pytest.raises(UsageError, match="too long"):
        parse("x >= " + "1" * 1000)
