"""Exact sums of float64 products, vectorised over many elements.

Every step is an error-free transformation: a sum or a product of two float64
is replaced by the rounded result and the exact error. An :class:`Accumulator`
keeps the running sum of each element as three float64 and remembers where a
fourth would have been needed; there the caller falls back to integers. So a
result is either exact or says that it is not, whatever the order of the terms.
For a handful of elements :class:`ExactRows` does the same with less ado.

Source:
    Two-sum is Knuth's, the split of a product Dekker's and Veltkamp's; the
    idea of carrying exact errors along is Shewchuk's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK_RANGE",
    "Accumulator",
    "ExactRows",
    "ExactSum",
    "Vector",
    "common_denominator",
    "float_chunks",
    "two_product",
    "two_sum",
]

Vector = NDArray[np.float64]

SPLITTER = 134217729.0  # 2**27 + 1: cuts a 53-bit significand in halves
MAX_CHUNKS = 4
CHUNK_RANGE = 150
LEVELS = 3


def two_sum(a: Vector, b: Vector) -> tuple[Vector, Vector]:
    """Returns the rounded sums and their exact errors."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Vector, b: Vector | float) -> tuple[Vector, Vector]:
    """Returns the rounded products and their exact errors.

    Numerics:
        Exact while each product is zero or lies within 2**-960 … 2**990 and
        no operand exceeds 2**990.
    """
    product = a * b
    scaled = a * SPLITTER
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    other = b * SPLITTER
    b_high = other - (other - b)
    b_low = b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def common_denominator(values: Iterable[Fraction]) -> int:
    """Returns the smallest odd number whose product with each value is dyadic."""
    common = 1
    for value in values:
        bottom = value.denominator
        common = math.lcm(common, bottom // (bottom & -bottom))
    return common


def float_chunks(value: Fraction) -> list[float] | None:
    """Returns float64 numbers whose exact sum is a dyadic rational.

    Args:
        value: The rational; its denominator is a power of two.

    Returns:
        The numbers, largest first, none for 0; None if there would be more
        than four or one would leave 2**-150 … 2**150.
    """
    chunks: list[float] = []
    limit = Fraction(2) ** CHUNK_RANGE
    while value:
        if len(chunks) == MAX_CHUNKS or not 1 / limit <= abs(value) <= limit:
            return None
        chunks.append(float(value))
        value -= Fraction(chunks[-1])
    return chunks


class ExactSum:
    """Sums of many elements at once, each exact or marked as lost.

    Attributes:
        lost: Marks of sums that must not be used.
    """

    lost: NDArray[np.bool_]

    def copy(self) -> Self:
        """Returns the same sums, to add to independently."""
        raise NotImplementedError

    def add(self, term: Vector) -> None:
        """Adds a number to each sum."""
        raise NotImplementedError

    def add_all(self, terms: Vector) -> None:
        """Adds several numbers to each sum: the columns of a matrix."""
        for term in terms:
            self.add(term)

    def add_product(self, a: Vector, b: Vector | float) -> None:
        """Adds a product to each sum; :func:`two_product` tells its range."""
        if isinstance(b, float) and abs(math.frexp(b)[0]) == 0.5:
            self.add(a * b)  # a power of two: the product is exact
            return
        for part in two_product(a, b):
            self.add(part)

    def add_products(self, a: Vector, b: float) -> None:
        """Adds several products to each sum: the columns of a matrix times one number."""
        if abs(math.frexp(b)[0]) == 0.5:
            self.add_all(a * b)
            return
        for part in two_product(a, b):
            self.add_all(part)

    def estimate(self) -> Vector:
        """Returns the sums as float64, within about half a step."""
        raise NotImplementedError

    def leading(self) -> tuple[Vector, NDArray[np.bool_]]:
        """Returns numbers with the exact sign of the sums, and where they can be trusted.

        Returns:
            Numbers within 1 % of the sums and of their sign, zero just where a
            sum is zero; and a mask, False where the sum was lost or its sign
            could not be told.
        """
        raise NotImplementedError


class Accumulator(ExactSum):
    """Exact sums as three float64 each: for thousands of elements.

    Args:
        size: Number of elements.
    """

    def __init__(self, size: int) -> None:
        self.levels: list[Vector] = [np.zeros(size) for _ in range(LEVELS)]
        self.lost = np.zeros(size, dtype=np.bool_)

    def copy(self) -> Accumulator:
        """Returns the same sums, to add to independently."""
        twin = Accumulator(0)
        twin.levels, twin.lost = list(self.levels), self.lost.copy()
        return twin

    def add(self, term: Vector) -> None:
        """Adds a number to each sum."""
        for level, held in enumerate(self.levels):
            self.levels[level], term = two_sum(held, term)
            if not term.any():
                return
        self.lost |= term != 0

    def estimate(self) -> Vector:
        """Returns the sums as float64, within about half a step."""
        first, second, third = self.levels
        return first + (second + third)

    def leading(self) -> tuple[Vector, NDArray[np.bool_]]:
        """Returns numbers with the exact sign of the sums, and where they can be trusted."""
        first, second, third = self.levels
        for _ in range(3):
            second, third = two_sum(second, third)
            first, second = two_sum(first, second)
        tail = np.maximum(np.abs(second), np.abs(third))
        known = ((tail == 0) | (np.abs(first) > 1024 * tail)) & ~self.lost
        return first, known


class ExactRows(ExactSum):
    """Exact sums as lists of their terms, added by :func:`math.fsum`: for few elements.

    Args:
        size: Number of elements.
    """

    def __init__(self, size: int) -> None:
        self._terms: list[Vector] = []
        self.lost = np.zeros(size, dtype=np.bool_)

    def copy(self) -> ExactRows:
        """Returns the same sums, to add to independently."""
        twin = ExactRows(0)
        twin._terms, twin.lost = list(self._terms), self.lost.copy()
        return twin

    def add(self, term: Vector) -> None:
        """Adds a number to each sum."""
        self._terms.append(term[np.newaxis])

    def add_all(self, terms: Vector) -> None:
        """Adds several numbers to each sum: the columns of a matrix."""
        self._terms.append(terms)

    def estimate(self) -> Vector:
        """Returns the sums as float64, correctly rounded."""
        if not self._terms:
            return np.zeros(self.lost.size)
        columns = np.concatenate(self._terms).T
        columns[self.lost] = 0.0
        return np.array([math.fsum(column) for column in columns.tolist()], dtype=np.float64)

    def leading(self) -> tuple[Vector, NDArray[np.bool_]]:
        """Returns numbers with the exact sign of the sums, and where they can be trusted."""
        return self.estimate(), ~self.lost
