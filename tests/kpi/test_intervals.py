"""Intervals against SciPy, published examples and exact sums over all outcomes."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from deltavc.kpi import intervals
from deltavc.kpi.student import normal_quantile, t_quantile

CONFIDENCES = (0.8, 0.9, 0.95, 0.99, 0.9999)


@pytest.mark.parametrize("probability", [0.75, 0.8, 0.9, 0.975, 0.995, 0.99999])
@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3.7, 10, 29, 100, 1000, 12345.6, 1e6, 1e9])
def test_quantiles_of_student(probability, freedom):
    ours, scipys = t_quantile(probability, freedom), scipy.stats.t.ppf(probability, freedom)
    assert ours == pytest.approx(scipys, rel=1e-9 if freedom <= 1000 else 1e-6)
    assert normal_quantile(probability) == pytest.approx(scipy.stats.norm.ppf(probability))


@given(st.data(), st.integers(1, 5000), st.sampled_from(CONFIDENCES))
def test_wilson_is_scipys(data, n, confidence):
    right = data.draw(st.integers(0, n))
    ours = intervals.wilson(right / n, n, confidence)
    theirs = scipy.stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours[0] <= right / n <= ours[1] <= 1


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_two_proportions_as_published(counts, low, high):
    a, m, b, n = counts
    found = intervals.newcombe(a / m, m, b / n, n, 0.95)
    assert found == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 2635, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((53, 0, 0, 1), -0.0729, 0.0729),
    ],
)
def test_paired_proportions_as_published(cells, low, high):
    assert intervals.newcombe_paired(*cells, 0.95) == pytest.approx((low, high), abs=1e-4)


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(any))
def test_paired_proportions_turned_round(cells):
    both, new, old, neither = cells
    low, high = intervals.newcombe_paired(both, new, old, neither, 0.95)
    n = sum(cells)
    assert -1 <= low <= (new - old) / n <= high <= 1
    back = intervals.newcombe_paired(both, old, new, neither, 0.95)
    assert back == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("p", [Fraction(1, 10), Fraction(1, 2), Fraction(17, 20)])
def test_wilson_covers_what_it_says(p):
    """The coverage, summed exactly over all outcomes of 60 samples, is near 95 %."""
    n = 60
    covered = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if intervals.wilson(k / n, n, 0.95)[0] <= p <= intervals.wilson(k / n, n, 0.95)[1]
    )
    assert 0.93 < covered < 0.98


def test_paired_proportions_cover_what_they_say():
    """Summed exactly over all tables of 14 pairs."""
    n, cells = 12, (Fraction(6, 10), Fraction(2, 10), Fraction(1, 10), Fraction(1, 10))
    covered = Fraction(0)
    for a, b, c in product(range(n + 1), repeat=3):
        d = n - a - b - c
        if d < 0:
            continue
        low, high = intervals.newcombe_paired(a, b, c, d, 0.95)
        if low <= 0.1 <= high:
            ways = math.factorial(n) // math.prod(map(math.factorial, (a, b, c, d)))
            chance = math.prod(p**k for p, k in zip(cells, (a, b, c, d), strict=True))
            covered += ways * chance
    assert 0.93 < covered < 0.995


@pytest.mark.parametrize("n", [1, 2, 7, 59, 120])
@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95, 0.99])
def test_order_statistics_cover_what_they_say(n, quantile):
    """P(X_(l) <= q-quantile <= X_(u)) is a binomial sum; one rank nearer would be too few."""
    q, risk = Fraction(quantile), Fraction("0.025")
    low, high = intervals.order_statistics(list(range(1, n + 1)), quantile, 0.95)

    def at_most(k):
        return sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))

    if math.isinf(low):
        assert at_most(0) > risk
    else:
        assert at_most(int(low) - 1) <= risk < at_most(int(low))
    if math.isinf(high):
        assert 1 - at_most(n - 1) > risk
    else:
        assert 1 - at_most(int(high) - 1) <= risk
        assert high == 1 or 1 - at_most(int(high) - 2) > risk


values = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=40)


@given(values, values, st.sampled_from(CONFIDENCES))
def test_means_are_scipys(a, b, confidence):
    mean, error = intervals.mean_and_stderr(a)
    assert mean == pytest.approx(math.fsum(a) / len(a))
    assert error == pytest.approx(scipy.stats.sem(a), abs=1e-12)
    other = (*intervals.mean_and_stderr(b), len(b))
    ours = intervals.welch((mean, error, len(a)), other, confidence)
    if error > 0 and other[1] > 0:  # else SciPy warns
        theirs = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
        assert ours == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-6)
    if len(a) == len(b) and len({x - y for x, y in zip(a, b, strict=True)}) > 1:
        theirs = scipy.stats.ttest_rel(a, b).confidence_interval(confidence)
        ours = intervals.paired_mean(a, b, confidence)
        assert ours == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-6)


def test_one_sample_gives_no_interval():
    assert intervals.mean_and_stderr([3.0]) == (3.0, math.inf)
    assert intervals.from_stderr(3.0, 0.5, 1, 0.95) == (-math.inf, math.inf)
    assert intervals.welch((1.0, 0.1, 1), (2.0, 0.1, 9), 0.95) == (-math.inf, math.inf)
    low, high = intervals.from_stderr(3.0, 0.5, None, 0.95)
    assert (low, high) == pytest.approx((3 - 1.959964 * 0.5, 3 + 1.959964 * 0.5))
    assert intervals.square_and_add((0.0, (-math.inf, 1.0)), (0.0, (0.0, 0.0)))[0] == -math.inf
