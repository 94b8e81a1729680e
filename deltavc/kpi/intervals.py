"""Confidence intervals, one function a method; ``docs/adr/0013-kpis-and-gates.md`` says why these.

All are two-sided, at a confidence such as 0.95. An end that the samples cannot give
is infinite. Sums are :func:`math.fsum`, so the ends depend on the values alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from deltavc.kpi.student import normal_quantile, t_quantile

__all__ = [
    "Interval",
    "from_stderr",
    "mean_and_stderr",
    "newcombe",
    "newcombe_paired",
    "order_statistics",
    "paired_mean",
    "square_and_add",
    "welch",
    "wilson",
]

Interval = tuple[float, float]


def wilson(share: float, samples: int, confidence: float) -> Interval:
    """Returns Wilson's score interval of a proportion.

    Args:
        share: The observed proportion, 0 to 1.
        samples: Number of samples, at least 1.
        confidence: Such as 0.95.

    Returns:
        Low and high end.

    Source:
        E. B. Wilson, JASA 22 (1927) 209: the values p with (share - p)² <= z² p (1 - p) / n.
    """
    z = _z(confidence)
    z2 = z * z
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = z / (1 + z2 / samples) * math.sqrt(
        share * (1 - share) / samples + z2 / (4 * samples * samples)
    )  # fmt: skip
    low = 0.0 if share <= 0 else max(0.0, middle - half)
    return low, 1.0 if share >= 1 else min(1.0, middle + half)


def newcombe(new: float, new_n: int, old: float, old_n: int, confidence: float) -> Interval:
    """Returns the interval of the difference of two independent proportions, new - old.

    Source:
        R. G. Newcombe, Statistics in Medicine 17 (1998) 873, method 10: the Wilson
        intervals of both, squared and added.
    """
    return square_and_add(
        (new, wilson(new, new_n, confidence)), (old, wilson(old, old_n, confidence))
    )


def newcombe_paired(both: int, only_new: int, only_old: int, neither: int,
                    confidence: float) -> Interval:  # fmt: skip
    """Returns the interval of the difference of two proportions over the same samples.

    Args:
        both: Samples that both versions got right.
        only_new: Samples that only the new one got right.
        only_old: Samples that only the old one got right.
        neither: Samples that neither got right.
        confidence: Such as 0.95.

    Returns:
        Low and high end of new - old.

    Source:
        R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: Wilson intervals
        squared and added, with the correlation phi of the pairs, corrected for continuity.
    """
    n = both + only_new + only_old + neither
    new, old = (both + only_new) / n, (both + only_old) / n
    ends = (both + only_new) * (only_old + neither) * (both + only_old) * (only_new + neither)
    product = both * neither - only_new * only_old
    corrected = max(product - n / 2, 0.0) if product > 0 else product
    phi = corrected / math.sqrt(ends) if ends else 0.0
    new_at, old_at = (new, wilson(new, n, confidence)), (old, wilson(old, n, confidence))
    return square_and_add(new_at, old_at, correlation=phi)


def square_and_add(
    new: tuple[float, Interval], old: tuple[float, Interval], *, correlation: float = 0.0
) -> Interval:
    """Returns the interval of a difference from the estimates and intervals of its two parts.

    Args:
        new: Estimate and interval of the first.
        old: Estimate and interval of the second.
        correlation: Of the two estimates.

    Returns:
        Low and high end of new - old.

    Source:
        G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008) 1693: distances to the
        ends stand for variances near the ends; for proportions it is Newcombe's method.
    """
    (a, (a_low, a_high)), (b, (b_low, b_high)) = new, old
    return (
        a - b - _joined(a - a_low, b_high - b, correlation),
        a - b + _joined(a_high - a, b - b_low, correlation),
    )


def _joined(one: float, other: float, correlation: float) -> float:
    if math.isinf(one) or math.isinf(other):
        return math.inf
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of values and its standard error; infinite for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.inf
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def from_stderr(value: float, stderr: float, samples: int | None, confidence: float) -> Interval:
    """Returns the interval of a mean from its standard error: t, or normal without a count."""
    if samples is not None and samples < 2:
        return -math.inf, math.inf
    half = stderr * _t(confidence, math.inf if samples is None else samples - 1)
    return value - half, value + half


def welch(
    new: tuple[float, float, int | None],
    old: tuple[float, float, int | None],
    confidence: float,
) -> Interval:
    """Returns the interval of the difference of two independent means.

    Args:
        new: Mean, standard error and number of samples of the first.
        old: The same of the second.
        confidence: Such as 0.95.

    Returns:
        Low and high end of new - old.

    Source:
        B. L. Welch, Biometrika 34 (1947) 28, with Satterthwaite's degrees of freedom;
        normal where a number of samples is not known.
    """
    (a, a_error, a_n), (b, b_error, b_n) = new, old
    if (a_n is not None and a_n < 2) or (b_n is not None and b_n < 2):
        return -math.inf, math.inf
    error = math.hypot(a_error, b_error)
    freedom = math.inf
    if a_n is not None and b_n is not None and error > 0:
        a_share, b_share = (a_error / error) ** 2, (b_error / error) ** 2
        freedom = 1 / (a_share * a_share / (a_n - 1) + b_share * b_share / (b_n - 1))
    half = error * _t(confidence, freedom)
    return a - b - half, a - b + half


def paired_mean(new: Sequence[float], old: Sequence[float], confidence: float) -> Interval:
    """Returns the interval of the mean difference over the same samples: t of the differences."""
    mean, error = mean_and_stderr([a - b for a, b in zip(new, old, strict=True)])
    return from_stderr(mean, error, len(new), confidence)


def order_statistics(ordered: Sequence[float], quantile: float, confidence: float) -> Interval:
    """Returns the distribution-free interval of a quantile, from the samples in order.

    Args:
        ordered: The samples, ascending; at least one.
        quantile: Such as 0.95.
        confidence: Such as 0.95.

    Returns:
        The greatest sample below which the quantile lies with at most half the risk, and
        the like above; infinite where there are too few samples.

    Source:
        The number of samples below a quantile is binomial (H. A. David, Order Statistics).
    """
    n, risk = len(ordered), (1 - confidence) / 2
    below = 0  # the greatest k with P(B <= k - 1) <= risk
    above = n + 1  # the smallest k with P(B >= k) <= risk
    for k, at_most in _binomial(n, quantile):
        if at_most <= risk:
            below = k + 1
        if 1 - at_most <= risk:
            above = min(above, k + 1)
            break
    low = ordered[below - 1] if below >= 1 else -math.inf
    return low, ordered[above - 1] if above <= n else math.inf


def _binomial(n: int, p: float) -> list[tuple[int, float]]:
    """Returns k and P(B <= k) for the k within some 12 standard deviations of the mean."""
    reach = 12 * math.sqrt(n * p * (1 - p)) + 12
    first, last = max(0, int(n * p - reach)), min(n, int(n * p + reach) + 1)
    log_p, log_q = math.log(p), math.log1p(-p)
    total, found = 0.0, []
    for k in range(first, last + 1):
        choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(choose + k * log_p + (n - k) * log_q)
        found.append((k, min(total, 1.0)))
    return found


def _z(confidence: float) -> float:
    return normal_quantile(0.5 + confidence / 2)


def _t(confidence: float, freedom: float) -> float:
    return t_quantile(0.5 + confidence / 2, freedom)
