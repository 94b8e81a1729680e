"""Floats as ordered integers, and rounding into a dtype.

Reading the bits of a float as a signed integer, with the magnitude of negative
ones turned round, gives integers in the order of the numbers: neighbours differ
by one, whatever the exponent. Differences of such ordinals, folded so that
small ones of either sign are small unsigned numbers, are what exact deltas
store. Everything here is a bijection on bit patterns: NaN payloads, infinities,
-0.0 and subnormals need no care.

Work goes block by block, so that temporaries stay in cache: 3 times faster
than whole-array expressions for 64 MB of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.tensor import Bits, DType

__all__ = [
    "all_finite",
    "block_size",
    "blocks",
    "exponents",
    "fold",
    "half_spacing",
    "ordinals",
    "round_bits",
    "signs",
    "unfold",
    "widen",
]

BLOCK_BYTES = 1 << 17  # 128 KiB runs at 1.7 GB/s; 256 KiB leave malloc's heap and fall to 0.5


def block_size(dtype: DType) -> int:
    """Returns the number of elements in a block that stays in cache."""
    return BLOCK_BYTES // dtype.size


def blocks(count: int, step: int) -> Iterator[tuple[int, int]]:
    """Yields the bounds of consecutive blocks that cover ``count`` elements."""
    for start in range(0, count, step):
        yield start, min(start + step, count)


_SIGNED: dict[int, tuple[np.dtype[Any], Any]] = {
    size: (np.dtype(f"<i{size}"), np.dtype(f"<i{size}").type(8 * size - 1)) for size in (1, 2, 4, 8)
}


def signs(bits: Bits) -> Bits:
    """Returns all ones for negative patterns and zero for others."""
    signed, last = _SIGNED[bits.dtype.itemsize]
    sign: Bits = (bits.view(signed) >> last).view(bits.dtype)
    return sign


def ordinals(bits: Bits) -> Bits:
    """Returns the ordinals of bit patterns, as unsigned numbers modulo 2**n.

    The map is its own inverse: positive patterns stay, the magnitude bits of
    negative ones are complemented.
    """
    turn = signs(bits)
    turn >>= bits.dtype.type(1)
    turn ^= bits
    return turn


def fold(difference: Bits) -> Bits:
    """Returns differences modulo 2**n folded to 0, -1, 1, -2, … = 0, 1, 2, 3, …."""
    folded: Bits = difference << difference.dtype.type(1)
    folded ^= signs(difference)
    return folded


def unfold(folded: Bits) -> Bits:
    """Returns the differences modulo 2**n that :func:`fold` folded."""
    one = folded.dtype.type(1)
    low = folded & one
    np.negative(low, out=low)
    difference: Bits = folded >> one
    difference ^= low
    return difference


def exponents(bits: Bits, dtype: DType) -> NDArray[np.uint16]:
    """Returns the biased exponent fields of bit patterns."""
    mask = bits.dtype.type((1 << dtype.exponent) - 1)
    field: NDArray[np.uint16] = ((bits >> bits.dtype.type(dtype.mantissa)) & mask).astype(np.uint16)
    return field


def widen(bits: Bits, dtype: DType, kind: type = np.float64) -> NDArray[Any]:
    """Returns the values of bit patterns as float64, or as float32; exact where that can hold them.

    Args:
        bits: The bit patterns.
        dtype: What they mean.
        kind: ``np.float64`` or ``np.float32``; the latter halves the work on 16-bit floats.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN in a base that is the wrong one
        if dtype.name == "BF16":
            word = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return word.astype(kind, copy=False)
        return bits.view(np.dtype(f"<f{dtype.size}")).astype(kind)


def all_finite(bits: Bits, dtype: DType) -> bool:
    """Tells whether no bit pattern of an arithmetic dtype is NaN or infinite."""
    magnitude = bits.dtype.type((1 << (8 * dtype.size - 1)) - 1)
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    return all(
        int((bits[start:stop] & magnitude).max()) < infinity
        for start, stop in blocks(bits.size, block_size(dtype))
    )


def half_spacing(bits: Bits, dtype: DType, kind: type = np.float64) -> NDArray[Any]:
    """Returns half the distance between neighbouring floats at finite values.

    Args:
        bits: The bit patterns.
        dtype: What they mean.
        kind: ``np.float64``, or ``np.float32`` where what is subnormal becomes 0.
    """
    number, bias, mantissa = (np.int64, 1023, 52) if kind is np.float64 else (np.int32, 127, 23)
    power: NDArray[Any] = np.maximum(exponents(bits, dtype), np.uint16(1)).astype(number)
    power += number(bias - (1 << (dtype.exponent - 1)) - dtype.mantissa)
    if kind is not np.float64:
        np.maximum(power, number(0), out=power)
    power <<= number(mantissa)
    return power.view(kind)


def round_bits(values: NDArray[np.float64], dtype: DType) -> Bits:
    """Returns the bit patterns of float64 values rounded to float32 and then into a dtype.

    Args:
        values: Flat values; what is too large becomes infinite.
        dtype: F32, BF16 or F16 (F64 stays as it is).

    Numerics:
        Both steps round to nearest, ties to even. The detour through float32 is
        part of the definition of a predictor: it is what a merge in float32 does.
    """
    if dtype.name == "F64":
        return values.view(dtype.bits)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        if dtype.name == "F16":
            return single.astype(np.float16).view(dtype.bits)
    word = single.view(np.uint32)
    if dtype.name == "F32":
        return word
    word += np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
    return (word >> np.uint32(16)).astype(dtype.bits)
