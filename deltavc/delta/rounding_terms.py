"""Terms of a parameter's sum that are neither a plane nor a product of two factors.

Each knows its exact value at any element: as pairs of float64 whose products
add up to it, and as a rational. The tiles' fast ways to the same numbers are in
:mod:`deltavc.delta.rounding_extras`; bounds in ``docs/adr/0009-scaled-and-rotated-deltas.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.exactsum import Vector, two_product
from deltavc.delta.product import KronFactors
from deltavc.delta.tensor import Tensor

__all__ = ["Blocks", "Experts", "ExtraTerm", "Gained", "Hadamard", "Kronecker", "Pairs", "Scaled"]

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Exact = Fraction | int

RANGE = 2.0**330  # products of two such numbers and a chunk stay where two_product is exact


@dataclass(frozen=True)
class Pairs:
    """Values of a term at some elements: Σ left · right, exact but where lost.

    Shapes:
        left, right: (pairs, elements); lost: (elements,).
    """

    left: Vector
    right: Vector
    lost: Mask


class ExtraTerm(Protocol):
    """What the sum asks of such a term."""

    @property
    def coefficient(self) -> Fraction:
        """What the term is multiplied by."""

    @property
    def width(self) -> int:
        """Number of pairs for an element."""

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns the term, less its coefficient, at some elements."""

    def value(self, row: int, column: int) -> Exact:
        """Returns the term, less its coefficient, at one element as a rational."""


@dataclass(frozen=True)
class Scaled:
    """A tensor with a gain for each row or column.

    Attributes:
        coefficient: What it is multiplied by.
        values: The tensor; finite where it is asked for.
        gain: One number for each row (``axis`` 0) or column (1) of the tensor as a matrix.
        axis: Which.
    """

    coefficient: Fraction
    values: Tensor
    gain: Vector
    axis: int

    @property
    def width(self) -> int:
        """One pair."""
        return 1

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns values and gains."""
        values = floats(self.values, rows * self.values.matrix_shape[1] + columns)
        gains = self.gain[columns if self.axis else rows]
        return _watched(values[np.newaxis], gains[np.newaxis])

    def value(self, row: int, column: int) -> Exact:
        """Returns value times gain."""
        at = np.array([row * self.values.matrix_shape[1] + column])
        gain = float(self.gain[column if self.axis else row])
        return Fraction(float(floats(self.values, at)[0])) * Fraction(gain)


@dataclass(frozen=True)
class Gained:
    """Low-rank factors with a gain for each row or column of their product.

    Shapes:
        left: (rows, r), right: (r, columns), gain: (rows,) or (columns,) by ``axis``.
    """

    coefficient: Fraction
    left: Vector
    right: Vector
    gain: Vector
    axis: int

    @property
    def width(self) -> int:
        """Two pairs for each product: the gain splits one factor."""
        return 2 * int(self.left.shape[1])

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns the factors, one of them times the gain."""
        left, right = self.left[rows].T, self.right[:, columns]
        gain = self.gain[columns if self.axis else rows]
        if self.axis:
            left, right = right, left
        return _gained(left, gain, right)

    def value(self, row: int, column: int) -> Exact:
        """Returns the product times the gain."""
        gain = Fraction(float(self.gain[column if self.axis else row]))
        return gain * _dot(self.left[row], self.right[:, column])


@dataclass(frozen=True)
class Blocks:
    """A tensor times a block-diagonal matrix, with a gain for each row if there is one.

    Elements of the tensor that are not finite count as zero.

    Shapes:
        blocks: (count, size, size), gain: (rows,).
    """

    coefficient: Fraction
    values: Tensor
    blocks: Vector
    gain: Vector | None = None

    @property
    def size(self) -> int:
        """Rows of a block."""
        return int(self.blocks.shape[1])

    @property
    def width(self) -> int:
        """As many pairs as a block has rows, twice with gains."""
        return self.size * (1 if self.gain is None else 2)

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns the row's values in the column's block, and that block's column."""
        block, inside = np.divmod(columns, self.size)
        first = rows * self.values.matrix_shape[1] + block * self.size
        at = first[np.newaxis] + np.arange(self.size)[:, np.newaxis]
        left = _finite(floats(self.values, at.reshape(-1))).reshape(at.shape)
        right = np.ascontiguousarray(self.blocks[block, :, inside].T)
        if self.gain is None:
            return _watched(left, right)
        return _gained(left, self.gain[rows], right)

    def value(self, row: int, column: int) -> Exact:
        """Returns the inner product, times the gain."""
        block, inside = divmod(column, self.size)
        first = row * self.values.matrix_shape[1] + block * self.size
        values = _finite(floats(self.values, np.arange(first, first + self.size)))
        gain = Fraction(1) if self.gain is None else Fraction(float(self.gain[row]))
        return gain * _dot(values, self.blocks[block, :, inside])


@dataclass(frozen=True)
class Hadamard:
    """The elementwise product of two products of factors, each of at most 24 bits.

    Shapes:
        first, second: (rows, r) and (r, columns), r their own.
    """

    coefficient: Fraction
    first: tuple[Vector, Vector]
    second: tuple[Vector, Vector]

    @property
    def width(self) -> int:
        """Product of the two ranks."""
        return int(self.first[0].shape[1] * self.second[0].shape[1])

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns products of the left factors and of the right ones, each with each."""
        left = self.first[0][rows].T[:, np.newaxis] * self.second[0][rows].T[np.newaxis]
        right = self.first[1][:, columns][:, np.newaxis] * self.second[1][:, columns][np.newaxis]
        shape = (self.width, rows.size)
        return _watched(left.reshape(shape), right.reshape(shape))

    def value(self, row: int, column: int) -> Exact:
        """Returns the product of the two."""
        one, other = (_dot(a[row], b[:, column]) for a, b in (self.first, self.second))
        return one * other


@dataclass(frozen=True)
class Experts:
    """Low-rank factors of each matrix of a stack.

    Attributes:
        coefficient: What they are multiplied by.
        by_row: Whether a row of the sum is one of a matrix, or a whole matrix.

    Shapes:
        lefts: (count, rows, r), rights: (count, r, columns).
    """

    coefficient: Fraction
    lefts: Vector
    rights: Vector
    by_row: bool = False

    @property
    def width(self) -> int:
        """The rank of one matrix."""
        return int(self.lefts.shape[2])

    def split(self, rows: Index, columns: Index) -> tuple[Index, Index, Index]:
        """Returns number, row and column in the stack of elements of the sum."""
        if self.by_row:
            return *np.divmod(rows, self.lefts.shape[1]), columns
        return rows, *np.divmod(columns, self.rights.shape[2])

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns the row of one factor and the column of the other."""
        at, row, column = self.split(rows, columns)
        return _watched(self.lefts[at, row].T, self.rights[at, :, column].T)

    def value(self, row: int, column: int) -> Exact:
        """Returns the inner product."""
        at, i, j = self.split(np.array([row]), np.array([column]))
        return _dot(self.lefts[at[0], i[0]], self.rights[at[0], :, j[0]])


@dataclass(frozen=True)
class Kronecker:
    """A Kronecker product of two matrices, each full or a product of factors."""

    coefficient: Fraction
    factors: KronFactors

    @property
    def width(self) -> int:
        """Product of the two inner dimensions."""
        count = 1
        for left, right in (self.factors.first, self.factors.second):
            count *= 1 if right is None else int(left.shape[1])
        return count

    def pairs(self, rows: Index, columns: Index) -> Pairs:
        """Returns products of the left factors and of the right ones, each with each."""
        (i1, i2), (j1, j2) = self._split(rows, columns)
        a1, b1 = _operand(self.factors.first, i1, j1)
        a2, b2 = _operand(self.factors.second, i2, j2)
        shape = (self.width, rows.size)
        left = (a1[:, np.newaxis] * a2[np.newaxis]).reshape(shape)
        right = (b1[:, np.newaxis] * b2[np.newaxis]).reshape(shape)
        return _watched(left, right)

    def value(self, row: int, column: int) -> Exact:
        """Returns the product of the two."""
        (i1, i2), (j1, j2) = self._split(np.array([row]), np.array([column]))
        one = _dot(*(part[:, 0] for part in _operand(self.factors.first, i1, j1)))
        return one * _dot(*(part[:, 0] for part in _operand(self.factors.second, i2, j2)))

    def _split(
        self, rows: Index, columns: Index
    ) -> tuple[tuple[Index, Index], tuple[Index, Index]]:
        left, right = self.factors.second
        inner = left.shape[0], (left if right is None else right).shape[1]
        return np.divmod(rows, inner[0]), np.divmod(columns, inner[1])


def _operand(
    factors: tuple[Vector, Vector | None], rows: Index, columns: Index
) -> tuple[Vector, Vector]:
    left, right = factors
    if right is None:
        found = left[rows, columns][np.newaxis]
        return found, np.ones_like(found)
    return left[rows].T, right[:, columns]


def floats(values: Tensor, at: Index) -> Vector:
    """Returns a tensor's values at flat element numbers."""
    return Tensor(values.dtype, (at.size,), values.bits[at]).to_float64()


def _finite(values: Vector) -> Vector:
    return np.where(np.isfinite(values), values, 0.0)


def _dot(left: Vector, right: Vector) -> Fraction:
    pairs = zip(left.tolist(), right.tolist(), strict=True)
    return sum((Fraction(x) * Fraction(y) for x, y in pairs if x and y), Fraction(0))


def _any_outside(*arrays: Vector) -> Mask:
    """Tells for each element whether one of its operands is out of range."""
    found = np.zeros(arrays[0].shape[-1], dtype=np.bool_)
    for values in arrays:
        sizes = np.abs(values)
        outside = (sizes != 0) & ~((sizes <= RANGE) & (sizes >= 1 / RANGE))
        found |= outside.any(axis=0) if outside.ndim > 1 else outside
    return found


def _gained(left: Vector, gain: Vector, right: Vector) -> Pairs:
    """Returns (left · gain) · right with the first product split in two."""
    outside = _any_outside(left, gain)
    high, low = two_product(left, gain)
    found = _watched(np.concatenate([high, low]), np.concatenate([right, right]))
    return Pairs(found.left, found.right, found.lost | outside)


def _watched(left: Vector, right: Vector) -> Pairs:
    """Marks elements that have an operand out of range."""
    return Pairs(left, right, _any_outside(left, right))
