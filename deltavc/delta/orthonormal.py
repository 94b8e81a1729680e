"""Orthonormal bases of a few long rows, the same bits on every machine.

Rows are taken through their inner products, a matrix as small as they are many.
That squares their condition, so where rows are nearly dependent the basis is made
in passes: what stands clear of the others first, then what that leaves of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.ordered import Matrix, cholesky, combine, cross, padded, rows_of_zeros

__all__ = ["Basis", "Rows", "basis"]

CLEAR = 2.0**-20  # squared sine of a row to the ones before; leaves bases orthogonal to 1e-9
NOISE = 2.0**-44  # what is left of a unit row that lies in the span of others
_TAME = 2.0**400


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in units of their own, so that no inner product overflows.

    Attributes:
        values: (k, n), n a multiple of 4.
        exponents: (k,): what is meant is 2**exponent times a row.
        gram: (k, k), the inner products of the values.
        width: Columns that are meant; the others are padding.
    """

    values: Matrix
    exponents: NDArray[np.int64]
    gram: Matrix
    width: int

    @classmethod
    def of(cls, values: Matrix, width: int) -> Rows | None:
        """Returns rows, scaled only where they must be; None if one holds NaN or infinity."""
        gram = cross(values)
        squares = np.diagonal(gram)
        exponents = np.zeros(values.shape[0], dtype=np.int64)
        wild = ~((squares <= _TAME) & (squares >= 1 / _TAME))
        if wild.any():
            largest = np.abs(values).max(axis=1, initial=0.0)
            if not np.isfinite(largest).all():
                return None
            exponents[wild] = np.frexp(largest[wild])[1]
            if exponents.any():
                scaled = rows_of_zeros(*values.shape)
                scaled[:] = np.ldexp(values, -exponents[:, np.newaxis].astype(np.int32))
                values, gram = scaled, cross(scaled)
        return cls(values, exponents, gram, width)


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of the span of rows.

    Attributes:
        source: (q, n) rows that span it.
        turn: (q, q): the orthonormal rows are ``turn @ source``.
        coordinates: (k, q) of the given rows (their values) in the basis.
        width: Columns that are meant; the others are padding.
    """

    source: Matrix
    turn: Matrix
    coordinates: Matrix
    width: int

    @property
    def size(self) -> int:
        """Dimension of the span."""
        return int(self.source.shape[0])

    def weights(self, coordinates: Matrix) -> Matrix:
        """Returns what gives vectors from the source: coordinates times ``turn``.

        Shapes:
            coordinates: (m, q); the result is (m, q).
        """
        return combine(coordinates, padded(self.turn))[:, : self.size]


def basis(rows: Rows) -> Basis:
    """Returns an orthonormal basis of the span of rows.

    Args:
        rows: The rows; zeros and dependent ones among them.

    Returns:
        The basis; its dimension is the rows' numerical rank.

    Numerics:
        Orthonormal within about 1e-9; rows are met to some 2**-48 of their norm.

    Cost:
        One pass for the inner products that the rows bring along, and as much again
        for each row that is nearly a combination of others.

    Source:
        Cholesky QR (Yamamoto et al. 2015) with pivots; block Gram-Schmidt, twice.
    """
    norms = np.sqrt(np.diagonal(rows.gram))
    there = np.flatnonzero(norms)
    scale = 1.0 / norms[there]
    gram = rows.gram[np.ix_(there, there)] * (scale[:, np.newaxis] * scale)
    order, upper, inverse = cholesky(gram, CLEAR)
    if order.size < there.size:
        return _in_passes(rows, there, scale)
    coordinates = np.zeros((norms.size, order.size))
    coordinates[there] = upper.T * norms[there, np.newaxis]
    picked = there[order]
    turn = inverse * scale[order]
    source = rows.values
    if not np.array_equal(picked, np.arange(norms.size)):
        if picked.size < norms.size:
            source = rows_of_zeros(picked.size, rows.values.shape[1])
            source[:] = rows.values[picked]
        else:  # the rows stay where they are, the triangle's columns go to them
            turn = turn[:, np.argsort(picked)]
    return Basis(source, turn, coordinates, rows.width)


def _in_passes(given: Rows, there: NDArray[np.int64], scale: Matrix) -> Basis:
    """Returns the basis of rows some of which are nearly dependent."""
    values, width = given.values, given.values.shape[1]
    rest = rows_of_zeros(there.size, width)
    rest[:] = values[there] * scale[:, np.newaxis]
    found = rows_of_zeros(0, width)
    while rest.shape[0]:
        order, _, inverse = cholesky(cross(rest), CLEAR)
        fresh = combine(inverse, rest[order])
        fresh = _unit(_without(found, fresh))
        joined = rows_of_zeros(found.shape[0] + fresh.shape[0], width)
        joined[: found.shape[0]], joined[found.shape[0] :] = found, fresh
        found = joined
        keep = np.ones(rest.shape[0], dtype=np.bool_)
        keep[order] = False
        left = _without(found, rest[keep])
        sizes = np.sqrt(np.diagonal(cross(left)))
        stay = sizes > NOISE
        rest = rows_of_zeros(int(stay.sum()), width)
        rest[:] = left[stay] / sizes[stay, np.newaxis]
    return Basis(found, np.eye(found.shape[0]), cross(values, found), given.width)


def _without(found: Matrix, rows: Matrix) -> Matrix:
    """Returns rows less their projections on orthonormal ones, taken twice."""
    left = rows_of_zeros(*rows.shape)
    left[:] = rows
    for _ in range(2 if found.shape[0] else 0):
        combine(-cross(left, found), found, left)
    return left


def _unit(rows: Matrix) -> Matrix:
    """Returns rows that are nearly orthonormal made so."""
    order, _, inverse = cholesky(cross(rows), 0.0)
    return combine(inverse, rows[order])
