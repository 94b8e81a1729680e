"""A product of two float matrices in fixed point: the same bits on every machine.

Each row of the left matrix and each column of the right one is rounded to
integers of 40 bits in a unit of its own; integers are cut in two slices of 20
bits, so that float64 products of slices are exact in any order, and put
together and rounded once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.blas import one_blas_thread
from deltavc.delta.tensor import Tensor

__all__ = ["BITS", "fixed_product"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BITS = 40
HALF = BITS // 2
RUN = 1 << 12  # this many products of slices, each at most 2**40, stay below 2**53
BAND = 1 << 17  # elements of the left matrix at a time


def fixed_product(left: Tensor, right: Array) -> Array:
    """Returns ``left @ right`` as float64.

    Args:
        left: The left matrix (first dimension by all others); what is not finite counts as 0.
        right: (columns of left, r), finite.

    Returns:
        (rows of left, r). With e and f the smallest exponents such that row i of
        the left is below 2**e and column k of the right below 2**f in size, the
        sum of the products of the numbers rounded to multiples of 2**(e - 40) and
        2**(f - 40), ties to even, rounded to float64.

    Cost:
        Four passes of float64 products.
    """
    high, low, right_units = _slices(right.T)
    turned = np.ascontiguousarray(np.concatenate([high, low]).T)
    out = np.empty((left.matrix_shape[0], right.shape[1]))
    with np.errstate(all="ignore"), one_blas_thread():
        _fill(left, turned, right_units, out)
    return out


def _fill(left: Tensor, turned: Array, right_units: Integers, out: Array) -> None:
    rows, columns = left.matrix_shape
    step = max(1, BAND // max(columns, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        bits = left.bits[start * columns : stop * columns]
        values = Tensor(left.dtype, (stop - start, columns), bits).to_float64()
        if not np.isfinite(values.sum()):
            values[~np.isfinite(values)] = 0.0
        out[start:stop] = _band(values, turned, right_units)


def _band(values: Array, turned: Array, right_units: Integers) -> Array:
    high, low, units = _slices(values)
    rank = turned.shape[1] // 2
    tops, middles, ends = (np.zeros((len(values), rank), dtype=np.int64) for _ in range(3))
    for at in range(0, values.shape[1], RUN):
        run = slice(at, at + RUN)
        first, second = high[:, run] @ turned[run], low[:, run] @ turned[run]
        tops += first[:, :rank].astype(np.int64)
        middles += first[:, rank:].astype(np.int64) + second[:, :rank].astype(np.int64)
        ends += second[:, rank:].astype(np.int64)
    # Carries, so that the sum is tops * 2**40 + rest with 0 <= rest < 2**40.
    mask = np.int64((1 << HALF) - 1)
    middles += ends >> HALF
    tops += middles >> HALF
    rest = ((middles & mask) << HALF) | (ends & mask)
    # Two float64 without an error, whose one addition is the one rounding.
    shift = 10
    upper = np.ldexp((tops >> shift).astype(np.float64), BITS + shift)
    lower = ((tops & ((1 << shift) - 1)) << BITS) | rest
    total = upper + lower.astype(np.float64)
    found: Array = np.ldexp(total, units[:, None] + right_units[None] - 2 * BITS)
    return found


def _slices(rows: Array) -> tuple[Array, Array, Integers]:
    """Returns rows as two slices of integers, high and low, and the exponents of their sizes."""
    _, exponents = np.frexp(np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)))
    shift = (BITS - exponents)[:, None]
    # A product with a power of two is exact, and ten times as fast, where that is a float64.
    moderate = bool((np.abs(shift) < 1000).all())
    whole = rows * np.ldexp(1.0, shift) if moderate else np.ldexp(rows, shift)
    np.rint(whole, out=whole)
    high = whole * 2.0**-HALF
    np.rint(high, out=high)
    whole -= high * 2.0**HALF
    return high, whole, exponents.astype(np.int64)
