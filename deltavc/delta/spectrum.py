"""Sums of low-rank changes in the space that their factors span.

A sum ``Σ w_a · l_a ⊗ r_a`` of columns and rows of factors is ``U S Vᵀ`` in the
orthonormal bases of all columns and of all rows: the core S is as small as
there are columns, and holds everything that is to know. Singular values, the
best approximation of a rank, any other function of the matrix come from the
core; nothing of the size of the parameter is formed.

Everything is computed in the order of :mod:`deltavc.delta.ordered`, so that what is
stored of it has the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import Matrix, combine, cross, padded, rotate, rows_of_zeros
from deltavc.delta.orthonormal import Basis, Rows, basis
from deltavc.errors import NonFiniteTensor, UnsupportedFormat

__all__ = ["FACTORED", "Spectrum", "Sum", "Triplets", "triplets"]

FACTORED = ("lowrank", "product")
FLOOR = 2.0**-46  # of the factors' size: singular values below are rounding
_LOST = -1000  # powers of two below the largest term at which another one is nothing


@dataclass(frozen=True, eq=False)
class Triplets:
    """Singular values above zero with their vectors, the largest first.

    Attributes:
        left: (r, p): orthonormal rows.
        values: (r,).
        right: (r, q): orthonormal rows; the matrix is ``left.T @ diag(values) @ right``.
    """

    left: Matrix
    values: Matrix
    right: Matrix

    @property
    def rank(self) -> int:
        """How many there are."""
        return int(self.values.size)

    def first(self, rank: int) -> Triplets:
        """Returns the first so many."""
        return Triplets(self.left[:rank], self.values[:rank], self.right[:rank])

    def above(self, floor: float) -> Triplets:
        """Returns those with values above one."""
        return self.first(int(np.count_nonzero(self.values > floor)))

    def tails(self) -> Matrix:
        """Returns the Frobenius norms of what the first 0, 1, …, rank leave out."""
        squares = np.concatenate([self.values * self.values, [0.0]])
        return np.sqrt(np.add.accumulate(squares[::-1])[::-1])


def triplets(matrix: Matrix) -> Triplets:
    """Returns the singular value decomposition of a small matrix.

    Numerics:
        One-sided Jacobi; equal values stand in the order in which they were found.
    """
    flat = matrix.shape[0] <= matrix.shape[1]
    given = matrix if flat else matrix.T
    rows = np.zeros((given.shape[0], -(-given.shape[1] // 4) * 4))
    rows[:, : given.shape[1]] = given
    turn = rotate(rows)
    values = np.sqrt(np.diagonal(cross(rows)))
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    values = values[order]
    one, other = turn[order], rows[order, : given.shape[1]] / values[:, np.newaxis]
    return Triplets(one, values, other) if flat else Triplets(other, values, one)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A matrix by its singular triplets that are not rounding.

    Attributes:
        left: Basis of the columns.
        right: Basis of the rows.
        parts: The triplets, in the coordinates of the bases.
        exponent: The matrix is 2**exponent times what the parts say; even.
    """

    left: Basis
    right: Basis
    parts: Triplets
    exponent: int

    def first(self, rank: int) -> Spectrum:
        """Returns the best approximation of a rank."""
        return replace(self, parts=self.parts.first(rank))


class Sum:
    """Low-rank changes of one parameter, in common bases.

    Args:
        groups: Deltas with their coefficients; each group is a change.
        name: The parameter's name, for messages.

    Attributes:
        left: Basis of the columns of all left factors.
        right: Basis of the rows of all right factors.
        numbers: Coefficient times scale of each column and row, in units of 2**exponent.
        exponent: Coordinates are in units of 2**exponent; even.

    Raises:
        UnsupportedFormat: A delta is not made of factors.
        NonFiniteTensor: A factor holds NaN or infinity.
    """

    def __init__(self, groups: Sequence[Sequence[tuple[Delta, Fraction]]], name: str) -> None:
        pairs = [pair for group in groups for pair in group]
        factors = []
        for delta, _ in pairs:
            if delta.kind not in FACTORED:
                raise UnsupportedFormat(
                    f"a {delta.kind} change of '{name}' has no low-rank factors",
                    hint="use an element-wise strategy for it, such as ties",
                    parameter=name,
                    kind=delta.kind,
                )
            factors.append(_matrices(delta))
        ranks = [right.shape[0] for _, right in factors]
        left = self._basis([one.T for one, _ in factors], name)
        right = self._basis([other for _, other in factors], name)
        (self._left_rows, self.left), (self._right_rows, self.right) = left, right
        weights = [_float(coefficient * delta.scale) for delta, coefficient in pairs]
        exponents = self._left_rows.exponents + self._right_rows.exponents
        exponents += np.repeat([power for _, power in weights], ranks).astype(np.int64)
        numbers = np.repeat([number for number, _ in weights], ranks)
        sizes = np.abs(self.left.coordinates).max(axis=1, initial=0.0)
        sizes = sizes * np.abs(self.right.coordinates).max(axis=1, initial=0.0) * numbers
        powers = (exponents + np.frexp(sizes)[1])[sizes != 0]
        top = int(powers.max()) if powers.size else 0
        self.exponent = top + top % 2
        shifts = np.maximum(exponents - self.exponent, _LOST).astype(np.int32)
        self.numbers = np.ldexp(numbers, shifts)
        ends = np.cumsum([0, *ranks])
        self._ends = ends[np.cumsum([0, *map(len, groups)])].tolist()

    def core(self) -> Matrix:
        """Returns the sum of all changes in coordinates: (left.size, right.size)."""
        return self._weighted(slice(None), self.numbers)

    def cores(self) -> list[Matrix]:
        """Returns the coordinates of each group's change; zeros for what is only rounding."""
        spans = zip(self._ends[:-1], self._ends[1:], strict=True)
        found = [self._weighted(slice(a, z), self.numbers[a:z]) for a, z in spans]
        return [core if _norm(core) > self.floor else np.zeros(core.shape) for core in found]

    @cached_property
    def floor(self) -> float:
        """What in a core is rounding: a small share of the sizes of its terms together."""
        sizes = [
            np.sqrt(np.diagonal(cross(padded(basis.coordinates))))
            for basis in (self.left, self.right)
        ]
        products = np.abs(self.numbers) * sizes[0] * sizes[1]
        return FLOOR * math.fsum(products.tolist())

    def spectrum(self, core: Matrix) -> Spectrum:
        """Returns a matrix given by coordinates as its singular triplets that are not rounding."""
        return Spectrum(self.left, self.right, triplets(core).above(self.floor), self.exponent)

    @staticmethod
    def _basis(parts: Sequence[NDArray[np.floating[Any]]], name: str) -> tuple[Rows, Basis]:
        stacked = rows_of_zeros(sum(p.shape[0] for p in parts), parts[0].shape[1])
        at = 0
        for part in parts:
            stacked[at : at + part.shape[0], : part.shape[1]] = part
            at += part.shape[0]
        rows = Rows.of(stacked, parts[0].shape[1])
        if rows is None:
            raise NonFiniteTensor(
                f"the factors of '{name}' hold NaN or infinity, which cannot be merged",
                hint=f"take one side: --resolve '{name}=ours'",
                parameter=name,
            )
        return rows, basis(rows)

    def _weighted(self, span: slice, numbers: NDArray[np.float64]) -> Matrix:
        left = self.left.coordinates[span] * numbers[:, np.newaxis]
        right = padded(self.right.coordinates[span])
        return combine(left.T, right)[:, : self.right.size]


def _matrices(delta: Delta) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Returns factors as :meth:`Delta.matrices` does, in their own dtype if NumPy has it."""
    if delta.kind != "lowrank" or {delta.header.b_dtype, delta.header.a_dtype} != {"F32"}:
        return delta.matrices()
    left, right = (delta.tensor(name) for name in ("b", "a"))
    b, a = (each.bits.view(np.float32).reshape(each.shape[0], -1) for each in (left, right))
    return (a.T, b.T) if delta.header.transposed else (b, a)


def _norm(matrix: Matrix) -> float:
    return math.sqrt(math.fsum(np.square(matrix).reshape(-1).tolist()))


def _float(value: Fraction) -> tuple[float, int]:
    """Returns a rational as the nearest float64 in 0.25 … 2 and a power of two."""
    power = value.numerator.bit_length() - value.denominator.bit_length()
    return float(value / Fraction(2) ** power), power
