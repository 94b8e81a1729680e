"""Sums over whole parameters that are the same on every machine.

A sum of floats depends on its order, which a processor's vector width and the
number of threads decide. These do not round while they add: magnitudes go into
one integer for each exponent; inner products are taken of numbers in fixed
point, cut into slices so narrow that every float64 product and partial sum of a
block is an integer below 2**53, in any order, fused or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.blas import one_blas_thread
from deltavc.delta.increment import Increment
from deltavc.merge.blocks import Blocks

__all__ = ["Gram", "gram", "sum_of_magnitudes", "sum_of_squares"]

Gram = list[list[Fraction]]
Values = NDArray[np.float32]
Matrix = NDArray[np.float64]
Source = Callable[[int, int], Values]

_SLICE = 20  # bits of a slice: products of 40, of which 2**12 add up below 2**53
_RUN = 1 << 12
_MANTISSA, _BIAS = 23, 150


def sum_of_magnitudes(values: Values) -> Fraction:
    """Returns the exact Σ |v| of finite values, at most 2**29 of them."""
    patterns = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    field = (patterns >> np.uint32(_MANTISSA)).view(np.int32)
    digits = (patterns & np.uint32((1 << _MANTISSA) - 1)).astype(np.float64)
    digits += (field > 0) * float(1 << _MANTISSA)
    sums = np.bincount(field, weights=digits)  # integers: whatever the order, no rounding
    places = np.flatnonzero(sums)
    return sum((_scaled(int(sums[f]), max(int(f), 1) - _BIAS) for f in places), Fraction(0))


def sum_of_squares(values: Values) -> Fraction:
    """Returns the exact Σ v² of finite values, at most 2**29 of them."""
    wide = values.astype(np.float64)
    fraction, exponent = np.frexp(wide * wide)  # 48 bits: exact
    digits = fraction * 2.0**48
    high = np.floor(digits * 2.0**-24)
    digits -= high * 2.0**24
    offset = 600
    total = Fraction(0)
    for part, shift in ((high, -24), (digits, -48)):
        sums = np.bincount(exponent + offset, weights=part)
        for place in np.flatnonzero(sums).tolist():
            total += _scaled(int(sums[place]), place - offset + shift)
    return total


def _scaled(number: int, power: int) -> Fraction:
    return Fraction(number << power) if power >= 0 else Fraction(number, 1 << -power)


def gram(increments: Sequence[Increment], threads: int) -> Gram:
    """Returns the inner products of increments with each other.

    Args:
        increments: Increments of one parameter.
        threads: How many threads.

    Returns:
        A symmetric matrix.

    Numerics:
        The sums are exact; the numbers that go in are fixed-point ones of 40 bits
        below the largest: of the elements, or, where all increments are products
        of factors, of the columns of those, so that nothing is densified.
    """
    # A BLAS of several threads takes a hundred times as long for these small products.
    with one_blas_thread():
        if all(increment.factors is not None for increment in increments):
            return _gram_of_factors(increments)
        return _gram_of_elements(increments, threads)


def _gram_of_elements(increments: Sequence[Increment], threads: int) -> Gram:
    align = max(increment.columns for increment in increments)
    blocks = Blocks(increments[0].count, align)
    tops = [_largest(increment.values, blocks, threads) for increment in increments]
    powers = [0 if top == 0 else int(np.frexp(top)[1]) for top in tops]

    def task(start: int, stop: int) -> list[list[int]]:
        sums = [[0] * len(increments) for _ in increments]
        for low, high in blocks.within(start, stop):
            fixed = [
                np.ldexp(increment.values(low, high).astype(np.float64), 2 * _SLICE - 1 - power)
                for increment, power in zip(increments, powers, strict=True)
            ]
            for i, row in enumerate(_products(np.stack(fixed))):
                sums[i] = [a + b for a, b in zip(sums[i], row, strict=True)]
        return sums

    total = [[0] * len(increments) for _ in increments]
    for part in blocks.map(task, threads):
        total = [
            [a + b for a, b in zip(x, y, strict=True)] for x, y in zip(total, part, strict=True)
        ]
    unit = 2 * (2 * _SLICE - 1)
    return [
        [_scaled(n, powers[i] + powers[j] - unit) for j, n in enumerate(row)]
        for i, row in enumerate(total)
    ]


def _largest(source: Source, blocks: Blocks, threads: int) -> float:
    def task(start: int, stop: int) -> float:
        tops = [np.abs(source(a, z)).max(initial=0.0) for a, z in blocks.within(start, stop)]
        return float(max(tops, default=0.0))

    return max(blocks.map(task, threads), default=0.0)


def _products(rows: Matrix) -> list[list[int]]:
    """Returns the inner products of rows of numbers below 2**39 in size, rounded to integers.

    Args:
        rows: (k, n) float64; overwritten.
    """
    np.rint(rows, out=rows)
    high = np.rint(rows * 2.0**-_SLICE)
    rows -= high * 2.0**_SLICE
    both = np.concatenate([high, rows])
    count, length = both.shape
    whole = -(-length // _RUN) * _RUN
    if whole != length:
        both = np.concatenate([both, np.zeros((count, whole - length))], axis=1)
    runs = np.ascontiguousarray(both.reshape(count, -1, _RUN).transpose(1, 0, 2))
    products = np.matmul(runs, runs.transpose(0, 2, 1)).astype(np.int64).sum(axis=0).tolist()
    k = count // 2
    return [
        [
            (products[i][j] << 2 * _SLICE)
            + ((products[i][k + j] + products[k + i][j]) << _SLICE)
            + products[k + i][k + j]
            for j in range(k)
        ]
        for i in range(k)
    ]


def _gram_of_factors(increments: Sequence[Increment]) -> Gram:
    """Returns <Σ q L R, Σ q' L' R'> = Σ q q' Σ_ab (LᵀL')_ab (R R'ᵀ)_ab."""
    terms = [(i, t) for i, each in enumerate(increments) for t in each.factors or ()]
    result: Gram = [[Fraction(0)] * len(increments) for _ in increments]
    if not terms:
        return result
    left, left_powers = _fixed(np.concatenate([t.left.T for _, t in terms]))
    right, right_powers = _fixed(np.concatenate([t.right for _, t in terms]))
    # Object arrays hold Python's integers: a few hundred bits each, as many as ranks squared.
    mixed = np.array(_products(left), dtype=object) * np.array(_products(right), dtype=object)
    powers = left_powers + right_powers
    least = int(powers.min())
    shifts = (1 << (powers - least).astype(object)) if powers.size else powers
    mixed = mixed * shifts[:, None] * shifts[None, :]
    ends = np.cumsum([0, *(t.left.shape[1] for _, t in terms)]).tolist()
    unit = 2 * (least - 2 * (2 * _SLICE - 1))
    for x, (i, one) in enumerate(terms):
        for y, (j, other) in enumerate(terms):
            part = mixed[ends[x] : ends[x + 1], ends[y] : ends[y + 1]].sum()
            result[i][j] += one.coefficient * other.coefficient * _scaled(int(part), unit)
    return result


def _fixed(rows: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """Returns each row scaled below 2**39, and the exponents of the rows' largest numbers."""
    powers = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1].astype(np.int64)
    return np.ldexp(rows, (2 * _SLICE - 1 - powers)[:, None].astype(np.int32)), powers
