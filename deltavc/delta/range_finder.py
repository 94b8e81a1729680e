"""Leading singular triplets of a matrix that is given band by band and never held.

A randomised range finder with one power step: the matrix meets a few random
rows of signs, then its own image twice. Each pass goes over the bands in order
and adds up in the order of :mod:`deltavc.delta.ordered`; the signs are Philox's, so
the triplets are the same on every machine.

Source:
    Halko, Martinsson and Tropp 2011, algorithms 4.3 and 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.factored import Form, store
from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import Matrix, combine, cross, padded, rows_of_zeros
from deltavc.delta.orthonormal import Basis, Rows, basis
from deltavc.delta.spectrum import Spectrum, Triplets, triplets

__all__ = ["Approximation", "Bands", "Limits", "approximation"]

SEED = 20240301
OVERSAMPLE = 12
_FIRST = 16
_BAND = 1 << 17  # elements of a band: 1 MiB of float64
_NOISE = 2.0**-24  # of the norm: what is left out below it is rounding of the values


@dataclass(frozen=True)
class Bands:
    """A matrix of finite numbers, by runs of its rows.

    Attributes:
        rows: Rows.
        columns: Columns.
        read: Gives some rows, flat, from a first to an end one.
    """

    rows: int
    columns: int
    read: Callable[[int, int], NDArray[np.floating[Any]]]

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yields first and end row of each band."""
        step = max(1, _BAND // max(1, self.columns))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def bands(self, power: int) -> Iterator[tuple[int, Matrix]]:
        """Yields first row and values of each band, times a power of two, padded."""
        for first, end in self.bounds():
            band = rows_of_zeros(end - first, self.columns)
            values = self.read(first, end).reshape(end - first, self.columns)
            np.multiply(values, 2.0**power, out=band[:, : self.columns])
            yield first, band

    def largest(self) -> float:
        """Returns the largest magnitude; not finite if a number is not."""
        tops = [np.abs(self.read(first, end)).max(initial=0.0) for first, end in self.bounds()]
        return float(np.max(tops)) if tops else 0.0


@dataclass(frozen=True)
class Limits:
    """What an approximation keeps to.

    Attributes:
        rank: Largest rank.
        error: The smallest rank that keeps within it is taken, ``rank`` if none does;
            None to take ``rank``.
    """

    rank: int
    error: float | None


@dataclass(frozen=True, eq=False)
class Approximation:
    """A low-rank delta near a matrix.

    Attributes:
        delta: The delta.
        error: Relative error in the Frobenius norm, measured on what is stored.
        rank: Its rank; 0 for a matrix of zeros.
    """

    delta: Delta
    error: float
    rank: int


def approximation(bands: Bands, limits: Limits, form: Form, dtype: str = "F32") -> Approximation:
    """Returns a low-rank delta near a matrix.

    Args:
        bands: The matrix.
        limits: Rank and error.
        form: How the factors lie in the delta.
        dtype: What they are stored in.

    Numerics:
        The rank is within one of the smallest for slowly falling spectra; the error is
        measured in float64 against the values.

    Cost:
        Four passes for each doubling of the sketch, two to begin with and one to measure.
    """
    top = bands.largest()
    power = -math.frexp(top)[1]
    if abs(power) > 900:
        power = int(math.copysign(900, power))  # subnormal numbers, or near the largest
    power += power % 2
    whole = _norm(bands, power)
    side = min(bands.rows, bands.columns)
    most = min(limits.rank, side)
    size = _FIRST if limits.error is not None else most
    while whole:
        found = _sketch(bands, min(size + OVERSAMPLE, side), power)
        rest = _left_out(found.parts, whole)
        enough = min(size, found.parts.rank, most)
        if limits.error is None or size >= most or rest[enough] <= limits.error * whole:
            return _stored(bands, found, rest, Limits(most, limits.error), form, dtype)
        size *= 2
    empty = Triplets(np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)))
    left, right = (_basis(rows_of_zeros(0, width), width) for width in (bands.rows, bands.columns))
    return Approximation(store(Spectrum(left, right, empty, 0), form, dtype).delta, 0.0, 0)


def _stored(
    bands: Bands, found: Spectrum, rest: Matrix, limits: Limits, form: Form, dtype: str
) -> Approximation:
    """Stores the smallest rank within the limits and measures it."""
    most = min(limits.rank, found.parts.rank)
    whole = float(rest[0])
    rank = most
    if limits.error is not None:
        rank = next((r for r in range(1, most) if rest[r] <= limits.error * whole), most)
    while True:
        delta = store(found.first(rank), form, dtype).delta
        error = _missed(bands, delta, -found.exponent) / whole
        if limits.error is None or error <= limits.error or rank >= most:
            return Approximation(delta, error, rank)
        rank += 1


def _sketch(bands: Bands, size: int, power: int) -> Spectrum:
    """Returns leading singular triplets in units of 2**-power."""
    signs = np.random.Generator(np.random.Philox(key=SEED)).integers(
        0, 2, size=(size, bands.columns), dtype=np.int8
    )
    right = padded(1.0 - 2.0 * signs.astype(np.float64))
    for _ in range(2):  # the second turn is the power step
        columns = _orthonormal(_image(bands, right, power), bands.rows)
        image = _back(bands, columns.source, power)
        rows = _basis(image, bands.columns)
        right = combine(rows.turn, rows.source)
    parts = triplets(rows.coordinates)
    return Spectrum(columns, rows, parts.above(_NOISE * float(parts.values[0])), -power)


def _image(bands: Bands, right: Matrix, power: int) -> Matrix:
    """Returns (size, rows): the matrix times each row of ``right``."""
    image = rows_of_zeros(right.shape[0], bands.rows)
    for first, band in bands.bands(power):
        image[:, first : first + band.shape[0]] = cross(right, band)
    return image


def _back(bands: Bands, left: Matrix, power: int) -> Matrix:
    """Returns (size, columns): each row of ``left`` times the matrix."""
    image = rows_of_zeros(left.shape[0], bands.columns)
    for first, band in bands.bands(power):
        combine(left[:, first : first + band.shape[0]], band, image)
    return image


def _basis(rows: Matrix, width: int) -> Basis:
    made = Rows.of(rows, width)
    assert made is not None  # finite numbers of moderate size
    return basis(made)


def _orthonormal(rows: Matrix, width: int) -> Basis:
    """Returns a basis whose source is orthonormal itself, nearly to the last bit."""
    for _ in range(2):
        found = _basis(rows, width)
        rows = combine(found.turn, found.source)
    return replace(found, source=rows, turn=np.eye(rows.shape[0]))


def _norm(bands: Bands, power: int) -> float:
    total = rows_of_zeros(1, bands.columns)
    for _, band in bands.bands(power):
        combine(np.ones((1, band.shape[0])), band * band, total)
    return math.sqrt(math.fsum(total[0].tolist()))


def _missed(bands: Bands, delta: Delta, power: int) -> float:
    """Returns the norm of what a stored delta leaves of the matrix."""
    left, right = delta.matrices()
    left = left * float(delta.scale * 2**power if power >= 0 else delta.scale / 2**-power)
    right = padded(right)
    total = rows_of_zeros(1, bands.columns)
    for first, band in bands.bands(power):
        combine(-left[first : first + band.shape[0]], right, band)
        combine(np.ones((1, band.shape[0])), band * band, total)
    return math.sqrt(math.fsum(total[0].tolist()))


def _left_out(parts: Triplets, whole: float) -> Matrix:
    """Returns the norms of what the first 0, 1, … triplets leave out of the whole matrix.

    They project the matrix, so the squares of what they hold and of what they leave add up.
    """
    held = np.concatenate([[0.0], np.add.accumulate(parts.values * parts.values)])
    left: Matrix = np.sqrt(np.maximum(0.0, whole * whole - held))
    return left
