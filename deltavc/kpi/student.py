"""Quantiles of the normal and of Student's t distribution, with the standard library alone.

SciPy has both, and its import takes longer than everything else that ``gate check``
does together; tests compare these with SciPy's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

__all__ = ["normal_quantile", "t_quantile"]

NEARLY_NORMAL = 1e7  # from here on the quantiles differ by less than 1e-6 of their value
STEPS = 200


def normal_quantile(probability: float) -> float:
    """Returns the quantile of the standard normal distribution, for 0 < probability < 1."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: float) -> float:
    """Returns the quantile of Student's t distribution.

    Args:
        probability: Between 0.5 and 1.
        freedom: Degrees of freedom, above 0; need not be whole.

    Returns:
        The quantile.

    Numerics:
        Bisection on the distribution function. From probability 0.75 on the relative
        error is below 1e-6, up to a thousand degrees of freedom below 1e-9.
    """
    if freedom > NEARLY_NORMAL:
        return normal_quantile(probability)
    tail = 1 - probability
    low, high = 0.0, 1.0
    while _upper_tail(high, freedom) > tail and high < 1e300:
        low, high = high, high * 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _upper_tail(middle, freedom) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _upper_tail(t: float, freedom: float) -> float:
    """Returns the probability beyond t > 0: half the incomplete beta function at v / (v + t²)."""
    x = 1 / (1 + t / freedom * t)
    return _beta(x, freedom / 2, 0.5) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b).

    Source:
        The continued fraction of DLMF 8.17.22, evaluated from the front (Lentz); it
        converges fast for x < (a + 1) / (a + b + 2), elsewhere 1 - I_{1-x}(b, a) is used.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    d = 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    c, result = 1.0, d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away(1 + even * d, tiny)
        c = _away(1 + even / c, tiny)
        result *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away(1 + odd * d, tiny)
        c = _away(1 + odd / c, tiny)
        result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * result


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
