"""Tensors as bit patterns: raw little-endian bytes with a dtype and a shape.

deltavc stores and compares bits. A :class:`Tensor` keeps them as unsigned
integers in a NumPy array, so that bfloat16 needs no special care, NaN payloads
and -0.0 survive, and equality is equality of bits. Only the rebuild and the
encoders look at the numbers behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "Bits", "DType", "Tensor", "dtype_named"]

Bits = NDArray[Any]
_COMPARE = 1 << 15


@dataclass(frozen=True)
class DType:
    """One safetensors dtype.

    Attributes:
        name: Its name in safetensors headers.
        size: Bytes an element.
        bits: NumPy dtype of the bit patterns (unsigned, little-endian).
        arithmetic: Whether deltas add up in it (F16, BF16, F32, F64).
        exponent: Width of the exponent field, 0 without arithmetic.
        mantissa: Stored width of the significand, 0 without arithmetic.
        torch: Name of the torch dtype.
    """

    name: str
    size: int
    bits: np.dtype[Any]
    arithmetic: bool
    exponent: int
    mantissa: int
    torch: str


def _dtype(name: str, size: int, torch: str, exponent: int = 0, mantissa: int = 0) -> DType:
    return DType(name, size, np.dtype(f"<u{size}"), exponent > 0, exponent, mantissa, torch)


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        _dtype("BOOL", 1, "bool"),
        _dtype("U8", 1, "uint8"),
        _dtype("I8", 1, "int8"),
        _dtype("F8_E4M3", 1, "float8_e4m3fn"),
        _dtype("F8_E5M2", 1, "float8_e5m2"),
        _dtype("I16", 2, "int16"),
        _dtype("U16", 2, "uint16"),
        _dtype("F16", 2, "float16", 5, 10),
        _dtype("BF16", 2, "bfloat16", 8, 7),
        _dtype("I32", 4, "int32"),
        _dtype("U32", 4, "uint32"),
        _dtype("F32", 4, "float32", 8, 23),
        _dtype("F64", 8, "float64", 11, 52),
        _dtype("I64", 8, "int64"),
        _dtype("U64", 8, "uint64"),
    )
}


def dtype_named(name: str) -> DType:
    """Returns the dtype of this safetensors name.

    Args:
        name: Name in the header.

    Returns:
        The dtype.

    Raises:
        KeyError: No such dtype.
    """
    return DTYPES[name]


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array of bit patterns with a dtype.

    Attributes:
        dtype: What the bits mean.
        shape: Dimensions; () for a scalar.
        bits: Flat array of ``dtype.bits``, C order, often a view of a mapped file.
    """

    dtype: DType
    shape: tuple[int, ...]
    bits: Bits

    @classmethod
    def from_buffer(cls, dtype: DType, shape: tuple[int, ...], data: Any) -> Tensor:
        """Returns a tensor over little-endian bytes without copying them."""
        return cls(dtype, shape, np.frombuffer(data, dtype=dtype.bits))

    @classmethod
    def from_array(cls, array: NDArray[Any], dtype: str | None = None) -> Tensor:
        """Returns a tensor over a NumPy array's bytes; names the dtype if it is not NumPy's own."""
        names = {"f2": "F16", "f4": "F32", "f8": "F64", "i8": "I64", "i4": "I32", "u1": "U8"}
        name = dtype or names[np.dtype(array.dtype).str[1:]]
        found = DTYPES[name]
        return cls(found, array.shape, np.ascontiguousarray(array).reshape(-1).view(found.bits))

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(self.bits.size)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return int(self.bits.nbytes)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Shape as rows and columns: first dimension, product of the others."""
        if not self.shape:
            return (1, 1)
        rows = self.shape[0]
        return (rows, self.count // rows if rows else 0)

    def raw(self) -> memoryview:
        """Returns the bytes, flat; a view where there are any."""
        return self.bits.view(np.uint8).reshape(-1).data if self.count else memoryview(b"")

    def same_bits(self, other: Tensor) -> bool:
        """Tells whether both have the same dtype, shape and bits.

        Cost:
            Memory speed, 256 KiB at a time; nearly every changed tensor differs in the first.
        """
        if self.dtype is not other.dtype or self.shape != other.shape:
            return False
        left, right = self.bits, other.bits
        if _whole_words(left) and _whole_words(right):  # both, or they could not be compared
            left, right = left.view(np.uint64), right.view(np.uint64)
        return all(
            bool(np.array_equal(left[i : i + _COMPARE], right[i : i + _COMPARE]))
            for i in range(0, left.size, _COMPARE)
        )

    def to_float64(self) -> NDArray[np.float64]:
        """Returns the values as float64, exact for every arithmetic dtype, in the tensor's shape.

        Returns:
            A new array.

        Raises:
            TypeError: The dtype has no arithmetic.
        """
        return self._values().astype(np.float64).reshape(self.shape)

    def is_finite(self) -> bool:
        """Tells whether no element is NaN or infinite; True without arithmetic."""
        if not self.dtype.arithmetic:
            return True
        mask = self.dtype.bits.type(((1 << self.dtype.exponent) - 1) << self.dtype.mantissa)
        step = 1 << 18
        flat = self.bits
        return not any(
            bool(((flat[i : i + step] & mask) == mask).any()) for i in range(0, flat.size, step)
        )

    def _values(self) -> NDArray[Any]:
        if self.dtype.name == "BF16":
            return (self.bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.dtype.arithmetic:
            return self.bits.view(np.dtype(f"<f{self.dtype.size}"))
        raise TypeError(f"{self.dtype.name} has no arithmetic")


def _whole_words(bits: Bits) -> bool:
    """Tells whether bit patterns can be seen as 64-bit words; a mapped tensor need not lie so."""
    return bits.nbytes % 8 == 0 and bits.ctypes.data % 8 == 0 and bits.flags.c_contiguous
