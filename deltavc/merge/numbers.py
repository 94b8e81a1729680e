"""Roots and angles in decimal arithmetic: the same digits everywhere.

The sine of a C library differs between machines in its last bit. What goes into
a commit as a coefficient comes from here instead: series with 60 digits in
Python's ``decimal``, whose every operation is specified, rounded once to float64.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from fractions import Fraction

__all__ = ["DIGITS", "arccos", "decimal", "nearest", "precise", "sine_cosine"]

DIGITS = 60
_TINY = Decimal(10) ** -(DIGITS + 2)


def precise() -> AbstractContextManager[Context]:
    """Returns a context manager in which decimals have 60 digits."""
    return localcontext(Context(prec=DIGITS, Emin=-999999, Emax=999999))


def decimal(value: Fraction) -> Decimal:
    """Returns a rational as a decimal of the current precision."""
    return Decimal(value.numerator) / Decimal(value.denominator)


def nearest(value: Decimal) -> Fraction:
    """Returns the float64 nearest to a decimal."""
    return Fraction(float(Fraction(value)))


def sine_cosine(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Returns sine and cosine of an angle of a few turns at most."""
    # Halved often enough, the series needs few terms; doubling loses a digit in three steps.
    halvings = 12
    x = angle / (1 << halvings)
    square = x * x
    sine, cosine, term, n = Decimal(0), Decimal(0), Decimal(1), 0
    while abs(term) > _TINY:
        cosine += term
        sine += term / (n + 1)
        n += 2
        term = -term * square / (n * (n - 1))
    sine *= x
    for _ in range(halvings):
        sine, cosine = 2 * sine * cosine, cosine * cosine - sine * sine
    return sine, cosine


def arccos(value: Decimal) -> Decimal:
    """Returns the angle from 0 to π with this cosine, -1 <= value <= 1."""
    # arccos v = 2 arctan(sqrt((1 - v) / (1 + v))), the half angle taken as it is when v = -1.
    if value == -1:
        return 4 * _arctan(Decimal(1))
    return 2 * _arctan(((1 - value) / (1 + value)).sqrt())


def _arctan(value: Decimal) -> Decimal:
    # arctan x = 2 arctan(x / (1 + sqrt(1 + x²))), until the series converges quickly.
    halvings = 0
    while abs(value) > Decimal("0.01"):
        value = value / (1 + (1 + value * value).sqrt())
        halvings += 1
    square, term, total, n = value * value, value, Decimal(0), 1
    while abs(term) > _TINY:
        total += term / n
        term, n = -term * square, n + 2
    return total * (1 << halvings)
