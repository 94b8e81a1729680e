"""Predictors: what a changed tensor looks like before its residual is added.

A predictor turns a block of the base into predicted ordinals, with the same
bits on every machine. Three are known:

- none: the base itself;
- ``drift``: a table of ordinal differences by leading mantissa bits. Decoupled
  weight decay multiplies every float by nearly one, step after step; each
  rounding depends on the mantissa alone, so rows that training touched in no
  other way move by the same few ordinals for equal mantissas;
- ``lowrank``: integer factors with power-of-two units for rows and columns,
  chosen so that their float64 product is exact in any order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import block_size, blocks, ordinals, round_bits, signs, widen
from deltavc.delta.tensor import Bits, DType
from deltavc.errors import ObjectCorrupt

__all__ = ["Drift", "LowRank", "Predictor", "Same", "read_predictor"]

MAX_EXPONENT = 500  # far from where float64 products overflow or lose bits
MAX_RANK = 1 << 14
_EXACT_BITS = 55  # sums of r products below 2**(p + q - 2) stay within 2**53


class Predictor(Protocol):
    """What encoders and decoders ask of a predictor."""

    def bounds(self, count: int) -> Iterator[tuple[int, int]]:
        """Yields the blocks in which it likes to work."""

    def predict(self, base: Bits, start: int) -> Bits:
        """Returns the predicted ordinals of a block of the base that begins at ``start``."""

    def params(self) -> dict[str, Any]:
        """Returns its settings for the header."""

    def streams(self) -> list[Stream]:
        """Returns its streams."""


@dataclass(frozen=True)
class Same:
    """The base itself."""

    dtype: DType

    def bounds(self, count: int) -> Iterator[tuple[int, int]]:
        """Yields blocks that stay in cache."""
        return blocks(count, block_size(self.dtype))

    def predict(self, base: Bits, start: int) -> Bits:  # noqa: ARG002 -- the same everywhere
        """Returns the base's ordinals."""
        return ordinals(base)

    def params(self) -> dict[str, Any]:
        """Returns nothing: no predictor is the default."""
        return {}

    def streams(self) -> list[Stream]:
        """Returns none."""
        return []


@dataclass(frozen=True, eq=False)
class Drift:
    """A table of ordinal differences by leading mantissa bits.

    Attributes:
        dtype: The tensor's dtype.
        table: 2**bits differences away from zero, modulo 2**n, as ``dtype.bits``.
    """

    dtype: DType
    table: Bits

    @property
    def bits(self) -> int:
        """Number of leading mantissa bits that choose an entry."""
        return int(self.table.size).bit_length() - 1

    def bounds(self, count: int) -> Iterator[tuple[int, int]]:
        """Yields blocks that stay in cache."""
        return blocks(count, block_size(self.dtype))

    def index(self, base: Bits) -> Bits:
        """Returns the table's index for bit patterns."""
        kind = base.dtype.type
        found: Bits = base >> kind(self.dtype.mantissa - self.bits)
        found &= kind((1 << self.bits) - 1)
        return found

    def predict(self, base: Bits, start: int) -> Bits:  # noqa: ARG002 -- the same everywhere
        """Returns the base's ordinals, moved away from zero by the table's entries."""
        step = self.table.take(self.index(base), mode="clip")  # half the time of indexing
        sign = signs(base)
        step ^= sign
        step -= sign
        step += ordinals(base)
        return step

    def params(self) -> dict[str, Any]:
        """Returns name and bits."""
        return {"predictor": "drift", "bits": self.bits}

    def streams(self) -> list[Stream]:
        """Returns the table."""
        return [Stream("table", self.table.view(np.uint8).data, self.dtype.size)]


@dataclass(frozen=True, eq=False)
class LowRank:
    """Low-rank factors in fixed point.

    Attributes:
        dtype: The tensor's dtype.
        left: (rows, rank) integers as float64, below 2**(left_bits - 1) in size.
        right: (rank, columns) likewise.
        left_exponents: (rows,) powers of two that are the units of the rows of ``left``.
        right_exponents: (columns,) likewise of the columns of ``right``.
        left_bits: Width of the integers in ``left``, sign included.
        right_bits: Width of the integers in ``right``.
    """

    dtype: DType
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    left_exponents: NDArray[np.int16]
    right_exponents: NDArray[np.int16]
    left_bits: int
    right_bits: int

    def __post_init__(self) -> None:
        scaled = np.ldexp(self.left, self.left_exponents[:, None].astype(np.int32))
        object.__setattr__(self, "_left", scaled)
        scaled = np.ldexp(self.right, self.right_exponents[None, :].astype(np.int32))
        object.__setattr__(self, "_right", scaled)

    @classmethod
    def quantised(
        cls, left: NDArray[np.float64], right: NDArray[np.float64], dtype: DType, bits: int
    ) -> LowRank:
        """Returns the nearest fixed-point factors of a width.

        Args:
            left: (rows, rank) factor.
            right: (rank, columns) factor.
            dtype: The tensor's dtype.
            bits: Wanted width of the integers; less if the rank needs it.
        """
        room = _EXACT_BITS - (left.shape[1] - 1).bit_length()
        left_bits, right_bits = min(bits, room - room // 2), min(bits, room // 2)
        whole_left, left_exponents = _fixed_point(left, left_bits)
        whole_right, right_exponents = _fixed_point(right.T, right_bits)
        right_rows = np.ascontiguousarray(whole_right.T)
        return cls(
            dtype, whole_left, right_rows, left_exponents, right_exponents, left_bits, right_bits
        )

    @property
    def rank(self) -> int:
        """Inner dimension of the factors."""
        return int(self.right.shape[0])

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.right.shape[1])

    def bounds(self, count: int) -> Iterator[tuple[int, int]]:
        """Yields blocks of whole rows that stay in cache."""
        rows = max(1, block_size(self.dtype) // 2 // max(1, self.columns))
        return blocks(count, max(1, rows * self.columns))

    def product(self, start: int, stop: int) -> NDArray[np.float64]:
        """Returns the exact product for a run of whole rows, flat."""
        left: NDArray[np.float64] = self._left  # type: ignore[attr-defined]
        right: NDArray[np.float64] = self._right  # type: ignore[attr-defined]
        rows = left[start // self.columns : stop // self.columns]
        return (rows @ right).reshape(-1)

    def patterns(self, base: Bits, start: int) -> Bits:
        """Returns base plus product, rounded twice as merges in float32 do."""
        values = self.product(start, start + base.size)
        values += widen(base, self.dtype)
        return round_bits(values, self.dtype)

    def predict(self, base: Bits, start: int) -> Bits:
        """Returns the ordinals of base plus product."""
        return ordinals(self.patterns(base, start))

    def only_rows(self, rows: NDArray[np.int64]) -> LowRank:
        """Returns the predictor of some rows."""
        return LowRank(
            self.dtype,
            self.left[rows],
            self.right,
            self.left_exponents[rows],
            self.right_exponents,
            self.left_bits,
            self.right_bits,
        )

    def params(self) -> dict[str, Any]:
        """Returns name, rank and widths."""
        return {
            "predictor": "lowrank",
            "rank": self.rank,
            "left_bits": self.left_bits,
            "right_bits": self.right_bits,
        }

    def streams(self) -> list[Stream]:
        """Returns the factors and their units."""
        return [
            _units("left_exponents", self.left_exponents),
            _units("right_exponents", self.right_exponents),
            _integers("left", self.left, self.left_bits),
            _integers("right", self.right, self.right_bits),
        ]


def read_predictor(delta: Delta, dtype: DType, rows: int, columns: int) -> Predictor:
    """Reads the predictor of an exact delta.

    Args:
        delta: The delta.
        dtype: Its dtype.
        rows: Rows of the parameter seen as a matrix.
        columns: Its columns.

    Returns:
        The predictor.

    Raises:
        ObjectCorrupt: It is unknown or malformed.
    """
    params: dict[str, Any] = delta.header.params
    name = params.get("predictor", "")
    if name == "":
        return Same(dtype)
    if name == "drift":
        bits = _whole(params, "bits", 1, min(16, dtype.mantissa))
        data = delta.stream("table")
        if data.nbytes != dtype.size << bits:
            raise ObjectCorrupt("a drift table does not have the declared size")
        return Drift(dtype, np.frombuffer(data, dtype=dtype.bits))
    if name == "lowrank" and dtype.name in ("BF16", "F16", "F32"):
        return _read_lowrank(delta, dtype, rows, columns)
    raise ObjectCorrupt(f"a delta has the unknown predictor '{str(name)[:20]}'")


def _read_lowrank(delta: Delta, dtype: DType, rows: int, columns: int) -> LowRank:
    params: dict[str, Any] = delta.header.params
    rank = _whole(params, "rank", 1, MAX_RANK)
    left_bits = _whole(params, "left_bits", 2, 32)
    right_bits = _whole(params, "right_bits", 2, 32)
    if left_bits + right_bits + (rank - 1).bit_length() > _EXACT_BITS:
        raise ObjectCorrupt("a delta's factors are too wide for exact products")
    return LowRank(
        dtype,
        _read_integers(delta, "left", rows, rank, left_bits),
        _read_integers(delta, "right", rank, columns, right_bits),
        _read_units(delta, "left_exponents", rows),
        _read_units(delta, "right_exponents", columns),
        left_bits,
        right_bits,
    )


def _whole(params: dict[str, Any], key: str, low: int, high: int) -> int:
    value = params.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ObjectCorrupt(f"a delta's '{key}' is not a number from {low} to {high}")
    return value


def _fixed_point(
    factor: NDArray[np.float64], bits: int
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Returns rows as integers of a width, and the exponents of their units."""
    size = np.abs(factor).max(axis=1, initial=0.0)
    _, power = np.frexp(size)
    units = np.clip(power - (bits - 1), -MAX_EXPONENT, MAX_EXPONENT).astype(np.int16)
    whole = np.rint(np.ldexp(factor, -units[:, None].astype(np.int32)))
    limit = float((1 << (bits - 1)) - 1)
    return np.clip(whole, -limit, limit), units


def _container(bits: int) -> np.dtype[Any]:
    return np.dtype("<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4")


def _integers(name: str, whole: NDArray[np.float64], bits: int) -> Stream:
    """Returns integers plus 2**(bits - 1), so that unused high bytes are zero planes."""
    box = _container(bits)
    data = (whole + float(1 << (bits - 1))).astype(box)
    return Stream(name, data.reshape(-1).view(np.uint8).data, box.itemsize)


def _read_integers(
    delta: Delta, name: str, rows: int, columns: int, bits: int
) -> NDArray[np.float64]:
    data = delta.stream(name)
    box = _container(bits)
    if data.nbytes != rows * columns * box.itemsize:
        raise ObjectCorrupt(f"a delta's '{name}' has {data.nbytes} bytes, not {rows} x {columns}")
    numbers = np.frombuffer(data, dtype=box)
    if numbers.size and int(numbers.max()) >= 1 << bits:
        raise ObjectCorrupt(f"a delta's '{name}' holds more than {bits} bits")
    return (numbers.astype(np.float64) - float(1 << (bits - 1))).reshape(rows, columns)


def _units(name: str, exponents: NDArray[np.int16]) -> Stream:
    data = (exponents + np.int16(MAX_EXPONENT)).astype("<u2")
    return Stream(name, data.view(np.uint8).data, 2)


def _read_units(delta: Delta, name: str, count: int) -> NDArray[np.int16]:
    data = delta.stream(name)
    if data.nbytes != 2 * count:
        raise ObjectCorrupt(f"a delta's '{name}' has {data.nbytes} bytes for {count} units")
    numbers = np.frombuffer(data, dtype="<u2")
    if numbers.size and int(numbers.max()) > 2 * MAX_EXPONENT:
        raise ObjectCorrupt(f"a delta's '{name}' holds a unit out of range")
    return numbers.astype(np.int16) - np.int16(MAX_EXPONENT)
