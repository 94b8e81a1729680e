"""Where float64 sums are exact, whatever their order.

Weights and factors of few digits, such as bfloat16, leave sums that often fall
exactly halfway between two numbers of the target: 16 % of the elements of a
float32 base under a bfloat16 adapter. No error bound decides those. But their
terms are multiples of a common power of two, 2**g, and if the sum of their
magnitudes stays below 2**(53 + g), every partial sum is a float64: the GEMM
made no error, in any order, and its result can be rounded as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.exactsum import Vector, two_product
from deltavc.delta.rounding import infinity_bits, magnitude_mask, smallest_exponent
from deltavc.delta.rounding_form import TAME, LinearForm, Plane

__all__ = ["ExactTiles", "lowest_bits", "norms"]

FREE = 5000  # grid of nothing but zeros: no constraint
Exponents = NDArray[np.int16]
Mask = NDArray[np.bool_]


def lowest_bits(values: Vector, axis: int) -> Exponents:
    """Returns for each line along an axis the exponent of the lowest bit set in it.

    Args:
        values: Finite float64 matrix.
        axis: The axis that is taken together.

    Returns:
        The largest g such that all numbers of the line are multiples of 2**g;
        a large number for a line of zeros.
    """
    fraction, exponent = np.frexp(values)
    digits = np.ldexp(fraction, 53).astype(np.int64)
    lowest = np.frexp((digits & -digits).astype(np.float64))[1] - 1
    grid = np.where(values == 0, FREE, exponent - 53 + lowest)
    found: Exponents = grid.min(axis=axis, initial=FREE).astype(np.int16)
    return found


def norms(values: Vector, axis: int) -> Vector:
    """Returns upper bounds of the Euclidean norms of the lines along an axis.

    Numerics:
        The added 2**-500 stands for squares that underflow; those that
        overflow give infinity, which decides nothing.
    """
    with np.errstate(all="ignore"):
        found: Vector = np.sqrt(np.square(values).sum(axis=axis)) * 1.001 + 2.0**-500
    return found


class ExactTiles:
    """Tells which elements of a tile were summed without error.

    Args:
        form: The parameter's sum.
        planes: Its planes that cover all elements, as the tiles add them.
        left: The left factors with the coefficients folded in.
        right: The right factors.
    """

    def __init__(
        self, form: LinearForm, planes: Sequence[Plane], left: Vector, right: Vector
    ) -> None:
        self.form = form
        self.planes = planes
        coefficients = [p.coefficient for p in planes] + [f.coefficient for f in form.factors]
        folded = [Fraction(float(c)) == c for c in coefficients]
        self.possible = not form.extras and all(folded)
        self.possible = self.possible and all(
            not two_product(f.left, float(f.coefficient))[1].any() for f in form.factors
        )
        if not self.possible:
            return
        self._row_grid = lowest_bits(left, 1)
        self._column_grid = lowest_bits(right, 0)
        self._row_sizes = norms(left, 1)
        self._column_size = float(norms(right, 0).max(initial=0.0))

    def find(self, start: int, stop: int, room: Mask) -> bool:
        """Tells for each element of a tile whether its sum is exact; errs towards no.

        The weights count with the smallest and the largest of the tile, which
        costs a fraction of looking at each.

        Args:
            start: First row.
            stop: Row after the last.
            room: Where the answer goes, one for each element.

        Returns:
            Whether any may be exact; if not, ``room`` is left as it was.
        """
        if not self.possible:
            return False
        columns = self.form.columns
        size = float(self._row_sizes[start:stop].max()) * self._column_size
        grid = FREE
        for plane in self.planes:
            lowest, top = _extent(plane, start * columns, stop * columns)
            grid = min(grid, lowest)
            size += top
        if not size < TAME:
            return False
        # All partial sums are below size, so multiples of 2**wanted among them are float64.
        wanted = math.frexp(size * 1.001)[1] - 53
        if grid < wanted:
            return False
        rows = (wanted - self._row_grid[start:stop]).astype(np.int16)
        shape = (stop - start, columns)
        np.greater_equal(self._column_grid, rows[:, np.newaxis], out=room.reshape(shape))
        return True


def _extent(plane: Plane, low: int, high: int) -> tuple[int, float]:
    """Returns the exponent of the lowest bit in part of a plane, and a bound of its magnitudes."""
    dtype = plane.values.dtype
    word = dtype.bits.type
    sizes = plane.values.bits[low:high] & word(magnitude_mask(dtype))
    top = int(sizes.max(initial=0))
    if top >= infinity_bits(dtype):
        return -FREE, math.inf
    factor = float(plane.coefficient)
    if not top or not factor:
        return FREE, 0.0
    sizes -= word(1)  # zeros, which constrain nothing, become the largest
    smallest = int(sizes.min()) + 1
    first = smallest_exponent(dtype) - 1
    lowest = max(smallest >> dtype.mantissa, 1) + first - dtype.mantissa
    bound = math.ldexp(abs(factor), max(top >> dtype.mantissa, 1) + first + 1)
    return lowest + int(lowest_bits(np.array([[factor]]), 1)[0]), bound
