"""Verdicts: what is known decides, what is not known is said."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.errors import DeltavcError, UsageError
from deltavc.kpi.definitions import check_kpi, gate_from_table, kpi_from_table, quantile_of
from deltavc.kpi.estimates import Observed, difference, estimate
from deltavc.kpi.rules import parse
from deltavc.kpi.verdicts import FAIL, INCONCLUSIVE, PASS, Evidence, judge, worst
from deltavc.records.model import Kpi

DAY = 86_400_000
KPIS = {
    "accuracy": Kpi("accuracy", "higher", "proportion", min_samples=100),
    "toxicity": Kpi("toxicity", "lower", "proportion"),
    "loss": Kpi("loss", "lower", "mean"),
    "latency_p95": Kpi("latency_p95", "lower", "quantile", "ms", 1000, 0.95),
    "bytes": Kpi("bytes", "lower", "count"),
}


def said(rule, new=None, old=None, *, now=0, same=False, baseline=True):
    evidence = Evidence(
        KPIS,
        lambda _: new,
        (lambda _: old) if baseline else None,
        now,
        same,
    )
    return judge(parse(rule), evidence)


ACCURACY = Observed(0.879, 5000)


@pytest.mark.parametrize(
    ("rule", "new", "verdict", "sentence"),
    [
        ("accuracy >= 0.85", ACCURACY, PASS, "0.879 (0.870..0.888, n=5,000)"),
        ("accuracy >= 85%", ACCURACY, PASS, "0.879 (0.870..0.888, n=5,000)"),
        ("accuracy >= 0.9", ACCURACY, FAIL, "0.879 (0.870..0.888, n=5,000)"),
        ("accuracy >= 0.88", ACCURACY, INCONCLUSIVE, "the interval contains the limit"),
        ("accuracy >= 0.85", None, INCONCLUSIVE, "no measurement"),
        ("accuracy >= 0.85", Observed(None, 500), INCONCLUSIVE, "not a number"),
        ("accuracy >= 0.85", Observed(0.9, 99), INCONCLUSIVE, "100 samples are needed"),
        ("accuracy >= 0.85", Observed(0.9), INCONCLUSIVE, "no sample count"),
        ("toxicity <= 0.1", Observed(0.0), INCONCLUSIVE, "no sample count"),
        ("accuracy >= 85 ms", ACCURACY, INCONCLUSIVE, "the rule is in 'ms'"),
        ("loss <= 1", Observed(0.5, 50), INCONCLUSIVE, "no standard error"),
        ("loss <= 1", Observed(0.5, 50, 0.1), PASS, "0.500 (0.299..0.701, n=50)"),
        ("loss <= 1", Observed(0.5, 1, 0.1), INCONCLUSIVE, "(..,"),
        ("latency_p95 <= 500 ms", Observed(405, 2000), PASS, "405 ms (n=2,000, no interval)"),
        ("latency_p95 <= 400", Observed(405, 2000), FAIL, "405 ms (n=2,000, no interval)"),
        ("latency_p95 <= 500 s", Observed(405, 2000), INCONCLUSIVE, "the KPI in 'ms'"),
        ("bytes <= 1000", Observed(1000), PASS, "1,000"),
        ("bytes <= 999", Observed(1000), FAIL, "1,000"),
        ("other >= 1", Observed(2, 50), INCONCLUSIVE, "not defined"),
        ("other >= 1 ms", Observed(2, 50, 0.1), INCONCLUSIVE, "not defined"),
        ("other >= 1", Observed(2, 50, 0.1), PASS, "2 (1.799..2.201, n=50)"),
    ],
)  # fmt: skip
def test_limits(rule, new, verdict, sentence):
    found = said(rule, new)
    assert (found.verdict, sentence in found.sentence) == (verdict, True), found


@pytest.mark.parametrize(
    ("rule", "new", "old", "verdict", "sentence"),
    [
        ("accuracy not worse than baseline", ACCURACY, Observed(0.853, 5000), PASS,
         "+0.026 (+0.013..+0.039)"),
        ("accuracy not worse than baseline", ACCURACY, ACCURACY, INCONCLUSIVE, "contains"),
        ("accuracy not worse than baseline by 0.02", ACCURACY, ACCURACY, PASS, "+0.000"),
        ("accuracy not worse than baseline by 2%", ACCURACY, ACCURACY, PASS, "+0.000"),
        ("accuracy not worse than baseline", Observed(0.8, 5000), ACCURACY, FAIL, "-0.079"),
        ("toxicity not worse than baseline", Observed(0.1, 900), Observed(0.2, 900), PASS, "-0.1"),
        ("toxicity not worse than baseline", Observed(0.2, 900), Observed(0.1, 900), FAIL, "+0.1"),
        ("loss not worse than baseline", Observed(1, 90, 0.01), Observed(2, 90, 0.01), PASS, "-1"),
        ("loss not worse than baseline", Observed(1, 90), Observed(2, 90, 1), INCONCLUSIVE, ":"),
        ("bytes not worse than baseline", Observed(10), Observed(10), PASS, "+0.000"),
        ("bytes not worse than baseline by 1", Observed(12), Observed(10), FAIL, "+2"),
        ("accuracy not worse than baseline", ACCURACY, None, INCONCLUSIVE, "the baseline has no"),
        ("accuracy not worse than baseline", ACCURACY, Observed(None, 500), INCONCLUSIVE, "not a"),
        ("accuracy not worse than baseline", ACCURACY, Observed(0.8, 9), INCONCLUSIVE, "fewer"),
        ("other not worse than baseline", ACCURACY, ACCURACY, INCONCLUSIVE, "which way"),
        ("accuracy not worse than baseline", Observed(0.9, 500, dataset="a"),
         Observed(0.5, 500, dataset="b"), INCONCLUSIVE, "not comparable"),
        ("accuracy not worse than baseline", Observed(0.9, 500, dataset="a", dataset_sha256="1"),
         Observed(0.5, 500, dataset="a", dataset_sha256="2"), INCONCLUSIVE, "not comparable"),
    ],
)  # fmt: skip
def test_baselines(rule, new, old, verdict, sentence):
    found = said(rule, new, old)
    assert (found.verdict, sentence in found.sentence) == (verdict, True), found


def test_without_a_baseline_and_against_itself():
    rule = "accuracy not worse than baseline"
    found = said(rule, ACCURACY, baseline=False)
    assert (found.verdict, "--against" in found.hint) == (INCONCLUSIVE, True)
    found = said(rule, ACCURACY, ACCURACY, same=True)
    assert (found.verdict, found.sentence) == (PASS, "the revision is the baseline")


@pytest.mark.parametrize(
    ("rule", "age", "verdict"),
    [
        ("age of loss <= 14 days", 14 * DAY, PASS),
        ("age of loss <= 14 days", 15 * DAY, FAIL),
        ("age of loss <= 2 hours", 3 * DAY // 24, FAIL),
        ("age of loss <= 1 week", 6 * DAY, PASS),
        ("age of loss <= 1 week", -1000, PASS),
        ("age of loss <= 1 week", -DAY, INCONCLUSIVE),
    ],
)
def test_ages(rule, age, verdict):
    assert said(rule, Observed(1.0, time=100 * DAY), now=100 * DAY + age).verdict == verdict


def test_the_hint_says_how_many_samples_would_decide():
    found = said("accuracy >= 0.85", Observed(0.842, 5000))
    assert found.verdict == INCONCLUSIVE
    assert found.hint.startswith(
        "5,000 samples tell differences of 0.010 apart; for 0.008 it takes"
    )
    wanted = int(found.hint.rpartition(" ")[2].replace(",", ""))
    assert said("accuracy >= 0.85", Observed(0.842, wanted)).verdict == FAIL
    assert said("accuracy >= 0.85", Observed(0.842, wanted // 2)).verdict == INCONCLUSIVE
    assert "no number of samples" in said("accuracy >= 0.85", Observed(0.85, 5000)).hint


def test_samples_that_pair_decide_sooner():
    new, old = [1.0] * 90 + [0.0] * 10, [1.0] * 88 + [0.0] * 12
    rule = "toxicity not worse than baseline by 0.02"
    apart = Observed(0.9, 100, values=old), Observed(0.88, 100, values=new)
    assert said(rule, *apart).verdict == INCONCLUSIVE
    assert difference(*apart, KPIS["toxicity"], 0.95).method == "newcombe"
    pair = Observed(0.9, 100, values=new, dataset="d"), Observed(0.88, 100, values=old, dataset="d")
    found = difference(*pair, KPIS["accuracy"], 0.95)
    assert (found.paired, found.method) == (True, "newcombe paired")
    assert found.low > difference(*apart, KPIS["accuracy"], 0.95).low
    named = [
        Observed(o.value, 100, values={str(i): v for i, v in enumerate(o.values)}) for o in pair
    ]
    assert difference(*named, KPIS["loss"], 0.95).method == "paired t"
    other = Observed(0.88, 100, 0.01, values={"x": 1.0})
    assert not difference(named[0], other, KPIS["loss"], 0.95).paired


def test_quantiles_use_their_values():
    values = [float(v) for v in range(1, 2001)]
    found = estimate(Observed(1900, 2000, values=values), KPIS["latency_p95"], 0.95)
    assert (found.method, found.low <= 1900 <= found.high) == ("order statistics", True)
    few = estimate(Observed(19, 20, values=values[:20]), KPIS["latency_p95"], 0.95)
    assert math.isinf(few.high)
    assert few.half_width is None
    a, b = Observed(1900, 2000, values=values), Observed(2000, 2000, values=[v * 2 for v in values])
    assert difference(a, b, KPIS["latency_p95"], 0.95).method == "square and add"


observed = st.builds(
    Observed,
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 10**6),
    st.none() | st.floats(0, 10),
    st.none() | st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=1, max_size=9),
    st.sampled_from([None, "a", "b"]),
)
rules = st.builds(
    "{}{}".format,
    st.sampled_from([*KPIS, "other", "accuracy[rare]"]),
    st.sampled_from([" >= 0.5", " <= 0.5 ms", " not worse than baseline", " >= 50% at 99%",
                     " not worse than baseline by 0.1"]),
) | st.just("age of loss <= 3 days")  # fmt: skip


@given(rules, st.none() | observed, st.none() | observed, st.booleans())
def test_whatever_was_measured_there_is_a_verdict_and_a_sentence(rule, new, old, baseline):
    found = said(rule, new, old, baseline=baseline)
    assert found.verdict in (PASS, FAIL, INCONCLUSIVE)
    assert found.sentence
    assert new is not None or found.verdict == INCONCLUSIVE
    assert found.low is None or math.isfinite(found.low)


def test_a_gate_is_the_worst_of_its_rules():
    passes, fails = said("bytes <= 9", Observed(1)), said("bytes <= 9", Observed(10))
    unsure = said("accuracy >= 0.5", None)
    assert worst([passes]) == PASS
    assert worst([passes, unsure]) == INCONCLUSIVE
    assert worst([unsure, fails, passes]) == FAIL
    assert worst([]) == INCONCLUSIVE


@pytest.mark.parametrize(
    ("name", "quantile"),
    [("latency_p95", 0.95), ("x_p999", 0.999), ("p50", None), ("x_p5", 0.05), ("x_p00", None)],
)
def test_quantiles_by_name(name, quantile):
    assert quantile_of(name) == quantile


@pytest.mark.parametrize(
    "kpi",
    [
        Kpi("x", "up", "mean"),
        Kpi("x", "higher", "median"),
        Kpi("x", "higher", "quantile"),
        Kpi("x", "higher", "mean", quantile=0.5),
        Kpi("x", "higher", "quantile", quantile=1.5),
        Kpi("x", "higher", "mean", "two words"),
        Kpi("x", "higher", "proportion", "%"),
        Kpi("x", "higher", "mean", min_samples=-1),
        Kpi("x", "higher", "mean", description="two\nlines"),
        Kpi("x[y]", "higher", "mean"),
        Kpi("", "higher", "mean"),
    ],
)
def test_definitions_that_make_no_sense_are_refused(kpi):
    with pytest.raises(DeltavcError) as caught:
        check_kpi(kpi)
    assert caught.value.hint


tables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["direction", "kind", "unit", "min_samples", "quantile", "require", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.text(max_size=12) | st.just("accuracy"), tables)
def test_any_table_is_a_definition_or_refused(name, table):
    for read in (kpi_from_table, gate_from_table):
        with contextlib.suppress(DeltavcError):
            assert read(name, table, "deltavc.toml").name == name


def test_a_table_is_a_definition():
    table = {"direction": "lower", "kind": "quantile", "unit": "ms", "min_samples": 9}
    assert kpi_from_table("x_p99", table, "f") == Kpi("x_p99", "lower", "quantile", "ms", 9, 0.99)
    with pytest.raises(UsageError, match="holds 'min_sample'"):
        kpi_from_table("x", {"min_sample": 3}, "f")
    assert gate_from_table("g", {"require": ["x >= 1"]}, "f").rules == ("x >= 1",)
