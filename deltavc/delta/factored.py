"""Factors as they are stored: rounded into a dtype, in one fixed form, with the error measured.

Columns of B and rows of A come in the order of their singular values, each
pair with the same share of its value; of each column the element of the largest
magnitude, the first of them, is positive. The scale is 1, but for numbers that
the dtype would not hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import Matrix, Rounded, combine, cross, round_rows
from deltavc.delta.ordinals import round_bits, widen
from deltavc.delta.orthonormal import Basis
from deltavc.delta.spectrum import Spectrum
from deltavc.delta.tensor import DTYPES, Bits, DType, Tensor
from deltavc.errors import UsageError

__all__ = ["Form", "Stored", "store"]

# Exponents of the largest norm that are left as they are, and where others are moved.
_RANGES = {"F32": (-60, 60, 0), "BF16": (-60, 60, 0), "F16": (6, 14, 12)}


@dataclass(frozen=True)
class Form:
    """How factors lie in a delta.

    Attributes:
        shape: The parameter's shape.
        transposed: Whether the parameter is the transpose of B @ A.
        layer: linear, embedding or conv.
    """

    shape: tuple[int, ...]
    transposed: bool = False
    layer: str = "linear"

    @classmethod
    def of(cls, shape: tuple[int, ...], deltas: Sequence[Delta]) -> Form:
        """Returns the form that deltas share, so that an adapter's layers stay what they are."""
        forms = {(delta.header.transposed, delta.header.layer) for delta in deltas}
        if len(forms) == 1 and (len(shape) == 2) == (next(iter(forms))[1] != "conv"):
            return cls(shape, *next(iter(forms)))
        return cls(shape, layer="linear" if len(shape) == 2 else "conv")

    def delta(self, columns: Tensor, rows: Tensor, scale: Fraction) -> Delta:
        """Returns the delta of ``scale * columns.T @ rows``.

        Args:
            columns: (r, rows of the parameter).
            rows: (r, columns of the parameter).
            scale: The scale.
        """
        b, a = (rows, columns) if self.transposed else (columns, rows)
        rank = b.shape[0]
        tail = self.shape[2:] if not self.transposed else ()
        turned = _turned(b.bits.reshape(b.shape))
        return kinds.lowrank(
            Tensor(b.dtype, (turned.shape[0], rank, *(1,) * len(tail)), turned.reshape(-1)),
            Tensor(a.dtype, (rank, self.shape[1], *tail) if tail else a.shape, a.bits),
            scale,
            shape=self.shape,
            transposed=self.transposed,
            layer=self.layer,
        )


@dataclass(frozen=True, eq=False)
class Stored:
    """A delta as it is stored.

    Attributes:
        delta: The delta.
        miss: Frobenius norm of what rounding changed, in the units of the spectrum.
    """

    delta: Delta
    miss: float


def store(spectrum: Spectrum, form: Form, dtype: str = "F32") -> Stored:
    """Returns a matrix given by singular triplets as a low-rank delta.

    Args:
        spectrum: The matrix; where it has no triplets the delta is zero, of rank 1.
        form: How the factors lie.
        dtype: F32, BF16 or F16.

    Raises:
        UsageError: Another dtype.

    Numerics:
        With b and a for what rounding adds to B and A, the error is ``b A + (B + b) a``. The
        columns of B and the rows of A are orthogonal to about 1e-9, which is taken for granted,
        and products of two roundings within B are left out: the error is right to 1e-7 of itself in
        F32, to 1e-3 in BF16.
    """
    if dtype not in _RANGES:
        raise UsageError(
            f"low-rank factors are not stored as '{dtype[:20]}'",
            hint=f"choose one of {', '.join(_RANGES)}",
            found=dtype[:20],
        )
    parts, sides = spectrum.parts, (spectrum.left, spectrum.right)
    if not parts.rank:
        zeros = [Tensor.from_array(np.zeros((1, side.width), dtype=np.float32)) for side in sides]
        return Stored(form.delta(zeros[0], zeros[1], Fraction(1)), 0.0)
    roots = np.sqrt(parts.values)
    power, scale = _power(float(roots[0]), spectrum.exponent, dtype)
    made = []
    for side, vectors in zip(sides, (parts.left, parts.right), strict=True):
        weights = side.weights(vectors * roots[:, np.newaxis])
        if dtype == "F32":
            made.append(round_rows(weights, side.source, side.width, power))
        else:
            made.append(_rounded_to(DTYPES[dtype], weights, side, power))
    left, right = made
    for row in np.flatnonzero(left.peaks < 0):
        for factor in made:
            np.negative(factor.values[row], out=factor.values[row])
    columns, rows = (_tensor(factor.values, DTYPES[dtype]) for factor in made)
    delta = form.delta(columns, rows, scale)
    # b (B + b)ᵀ is the transpose of B bᵀ, and b bᵀ on its diagonal.
    mixed = left.mixed.T + np.diag(left.squares)
    terms = [*((left.squares + right.squares) * parts.values).tolist()]
    terms += (2.0 * (mixed * right.mixed)).reshape(-1).tolist()
    return Stored(delta, math.sqrt(max(0.0, math.fsum(terms))))


def _turned(rows: Bits) -> Bits:
    """Returns the transpose; eight rows at a time, for more that begin alike share cache lines."""
    turned: Bits = np.empty(rows.shape[::-1], dtype=rows.dtype)
    for at in range(0, len(rows), 8):
        turned[:, at : at + 8] = rows[at : at + 8].T
    return turned


def _power(largest: float, exponent: int, dtype: str) -> tuple[int, Fraction]:
    """Returns the power of two that both factors are multiplied by, and the delta's scale."""
    low, high, middle = _RANGES[dtype]
    at = math.frexp(largest)[1]
    power = exponent // 2
    if not low <= at + power <= high:
        power = middle - at
    return power, Fraction(2) ** (exponent - 2 * power)


def _rounded_to(dtype: DType, weights: Matrix, side: Basis, power: int) -> Rounded:
    """Returns rows rounded to a 16-bit dtype, by way of float32, as float32."""
    exact = combine(weights, side.source)
    bits = round_bits(np.ldexp(exact, power).reshape(-1), dtype)
    values = widen(bits, dtype, np.float32).reshape(exact.shape)
    rest = np.ldexp(values.astype(np.float64), -power) - exact
    peaks = exact[np.arange(exact.shape[0]), np.argmax(np.abs(exact), axis=1)]
    return Rounded(
        values[:, : side.width], peaks, np.diagonal(cross(rest)).copy(), cross(exact, rest)
    )


def _tensor(values: NDArray[np.float32], dtype: DType) -> Tensor:
    """Returns values that a dtype holds as a tensor of it."""
    bits = values.view(np.uint32)
    if dtype.name == "BF16":
        bits = (bits >> np.uint32(16)).astype(dtype.bits)
    elif dtype.name == "F16":
        bits = values.astype(np.float16).view(dtype.bits)
    return Tensor(dtype, values.shape, np.ascontiguousarray(bits).reshape(-1))
