"""Rounding to nearest, ties to even, as a definition on exact numbers.

Two ways to the same bits. :func:`round_fraction` rounds one exact rational;
:func:`round_sticky` rounds many numbers that are each known as a float64 plus
the sign of what that float64 leaves out, which is all that rounding needs.
Both use integer arithmetic alone: no cast of NumPy or torch is trusted here.
The fast path, which does use casts, is :mod:`deltavc.delta.rounding_tiles`;
the proof that it agrees is ``docs/adr/0003-certified-rounding.md``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.tensor import Bits, DType

__all__ = [
    "infinity_bits",
    "magnitude_mask",
    "not_finite",
    "round_fraction",
    "round_sticky",
    "sign_bit",
    "smallest_exponent",
    "value_of_bits",
]

F64_MANTISSA = 52
F64_BIAS = 1023


def sign_bit(dtype: DType) -> int:
    """Returns the pattern of -0.0."""
    return 1 << (8 * dtype.size - 1)


def magnitude_mask(dtype: DType) -> int:
    """Returns the mask of all bits but the sign."""
    return sign_bit(dtype) - 1


def infinity_bits(dtype: DType) -> int:
    """Returns the pattern of +infinity; larger magnitudes are NaN."""
    return ((1 << dtype.exponent) - 1) << dtype.mantissa


def smallest_exponent(dtype: DType) -> int:
    """Returns the exponent of the smallest normal number."""
    return 2 - (1 << (dtype.exponent - 1))


def not_finite(bits: Bits, dtype: DType) -> NDArray[np.bool_]:
    """Tells for each pattern whether it is NaN or infinite."""
    mask = dtype.bits.type(infinity_bits(dtype))
    found: NDArray[np.bool_] = (bits & mask) == mask
    return found


def round_fraction(value: Fraction, dtype: DType) -> int:
    """Returns the pattern of the number of this dtype that is nearest to an exact value.

    Ties go to the even significand, overflow to infinity from half a step
    beyond the largest number on, underflow is gradual and keeps the sign.
    Zero gives +0.0.

    Args:
        value: The exact value.
        dtype: A dtype with arithmetic.

    Returns:
        The bit pattern.
    """
    if value == 0:
        return 0
    sign = sign_bit(dtype) if value < 0 else 0
    top, bottom = abs(value.numerator), value.denominator
    exponent = top.bit_length() - bottom.bit_length()  # value in (2**(e-1), 2**(e+1))
    if (top << max(0, -exponent)) < (bottom << max(0, exponent)):
        exponent -= 1
    exponent = max(exponent, smallest_exponent(dtype))
    quantum = exponent - dtype.mantissa
    quotient, rest = divmod(top << max(0, -quantum), bottom << max(0, quantum))
    twice, whole = 2 * rest, bottom << max(0, quantum)
    if twice > whole or (twice == whole and quotient & 1):
        quotient += 1
    bits = ((exponent - smallest_exponent(dtype)) << dtype.mantissa) + quotient
    return sign | min(bits, infinity_bits(dtype))


def value_of_bits(bits: int, dtype: DType) -> Fraction:
    """Returns the exact value of a finite pattern.

    Args:
        bits: The pattern.
        dtype: A dtype with arithmetic.

    Returns:
        Its value; 0 for both zeros.
    """
    magnitude = bits & magnitude_mask(dtype)
    field, fraction = magnitude >> dtype.mantissa, magnitude & ((1 << dtype.mantissa) - 1)
    if field:
        fraction |= 1 << dtype.mantissa
    exponent = max(field, 1) - 1 + smallest_exponent(dtype) - dtype.mantissa
    value = Fraction(fraction) * Fraction(2) ** exponent
    return -value if bits & sign_bit(dtype) else value


def round_sticky(near: NDArray[np.float64], rest: NDArray[Any], dtype: DType) -> Bits:
    """Rounds numbers given as a float64 and the sign of the remainder.

    Args:
        near: Finite float64 with no other float64 strictly between it and the
            number.
        rest: Sign of number - near: negative, 0 or positive.
        dtype: F32, F16 or BF16 (a significand of at most 51 bits).

    Returns:
        The bit patterns; a number that is zero gives +0.0.

    Numerics:
        Every boundary of the target's rounding is itself a float64, so which
        side of it a number lies on is told by near, or, where near is the
        boundary, by rest. The number is first made odd (near, or its
        neighbour towards rest, whichever has an odd significand), after which
        integer rounding cannot meet a false tie.
    """
    sign = np.sign(rest).astype(np.int64)
    bits = near.view(np.int64)
    magnitude = bits & np.int64((1 << 63) - 1)
    negative = (bits < 0) | ((magnitude == 0) & (sign < 0))
    outward = np.where(negative, -sign, sign)
    even = (magnitude & 1) == 0
    magnitude = magnitude + np.where(even & (sign != 0), outward, 0)
    field = magnitude >> F64_MANTISSA
    significand = magnitude & np.int64((1 << F64_MANTISSA) - 1)
    significand |= np.where(field > 0, np.int64(1 << F64_MANTISSA), np.int64(0))
    exponent = np.maximum(field, 1) - F64_BIAS
    clamped = np.maximum(exponent, smallest_exponent(dtype))
    shift = np.minimum(F64_MANTISSA - dtype.mantissa + (clamped - exponent), 60)
    half = np.left_shift(np.int64(1), shift - 1)
    kept = significand >> shift
    kept += ((significand & (2 * half - 1)) + (kept & 1)) > half
    rounded = ((clamped - smallest_exponent(dtype)) << dtype.mantissa) + kept
    rounded = np.minimum(rounded, infinity_bits(dtype))
    rounded |= np.where(negative & ((magnitude != 0) | (sign != 0)), sign_bit(dtype), 0)
    result: Bits = rounded.astype(dtype.bits)
    return result
