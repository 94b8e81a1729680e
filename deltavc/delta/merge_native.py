"""The passes of element-wise merging in C: the same bits as in NumPy, several times faster.

Each function says by its result whether it did the work: None or False where the
library is not there, or where it has no version for these arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.native import library
from deltavc.delta.tensor import Bits, DType

__all__ = [
    "count_lower",
    "count_upper",
    "elect",
    "mark_within",
    "round_bf16",
    "scale_masked",
    "sum_of_planes",
]

Values = NDArray[np.float32]
_POINTER, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sum_bf16": (None, (_POINTER, _FLOAT, _POINTER, _FLOAT, _NUMBER, _POINTER)),
    "sum_f32": (None, (_POINTER, _FLOAT, _POINTER, _FLOAT, _NUMBER, _POINTER)),
    "count_upper": (None, (_POINTER, _NUMBER, _POINTER)),
    "count_lower": (None, (_POINTER, _NUMBER, ctypes.c_uint32, _POINTER)),
    "mark_within": (None, (_POINTER, _NUMBER, ctypes.c_uint32, _NUMBER, _POINTER)),
    "scale_masked": (None, (_POINTER, _POINTER, _NUMBER, _FLOAT)),
    "elect": (
        _NUMBER,
        (_POINTER, _POINTER, _NUMBER, ctypes.c_int, _FLOAT, ctypes.c_int, _NUMBER, _POINTER),
    ),
    "round_bf16": (_NUMBER, (_POINTER, _NUMBER, _POINTER)),
}


def _library() -> Any:
    found = library("merge")
    return None if found is None else _prepared(found)


@cache
def _prepared(found: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def _fits(array: NDArray[Any]) -> bool:
    return bool(array.flags.c_contiguous and array.flags.aligned)


def sum_of_planes(planes: Sequence[tuple[Bits, int]], dtype: DType) -> Values | None:
    """Returns the sum of two planes with coefficients of 1 or -1, as float32 rounded once."""
    native = _library()
    if native is None or len(planes) != 2 or dtype.name not in ("BF16", "F32"):
        return None
    (a, of_a), (b, of_b) = planes
    if not _fits(a) or not _fits(b):
        return None
    out: Values = np.empty(a.size, dtype=np.float32)
    add = native.sum_bf16 if dtype.name == "BF16" else native.sum_f32
    add(a.ctypes.data, of_a, b.ctypes.data, of_b, a.size, out.ctypes.data)
    return out


def count_upper(values: Values, counts: NDArray[np.int64]) -> bool:
    """Adds to the counts of the upper halves of magnitudes' patterns."""
    native = _library()
    if native is None or not _fits(values):
        return False
    native.count_upper(values.ctypes.data, values.size, counts.ctypes.data)
    return True


def count_lower(values: Values, half: int, counts: NDArray[np.uint32]) -> bool:
    """Adds to the counts of the lower halves of those with a given upper one."""
    native = _library()
    if native is None or not _fits(values):
        return False
    native.count_lower(values.ctypes.data, values.size, half, counts.ctypes.data)
    return True


def mark_within(patterns: NDArray[np.uint32], pattern: int, equal: int) -> NDArray[np.bool_] | None:
    """Tells which are larger than a pattern; of those that are equal, the first so many places."""
    native = _library()
    if native is None or not _fits(patterns):
        return None
    inside = np.empty(patterns.size, dtype=np.bool_)
    native.mark_within(patterns.ctypes.data, patterns.size, pattern, equal, inside.ctypes.data)
    return inside


def scale_masked(values: NDArray[Any], mask: NDArray[np.bool_], factor: Any) -> bool:
    """Multiplies float32 values by a mask, then by a factor, in place."""
    native = _library()
    if native is None or values.dtype != np.float32 or not _fits(values) or not _fits(mask):
        return False
    native.scale_masked(values.ctypes.data, mask.ctypes.data, values.size, float(factor))
    return True


def elect(
    sides: Sequence[NDArray[Any]], shares: Sequence[Any] | None, zero: int, *, by_count: bool
) -> tuple[Values, int] | None:
    """Returns the merged float32 values of a vote, and how many were outvoted."""
    native = _library()
    if native is None or any(s.dtype != np.float32 or not _fits(s) for s in sides):
        return None
    out: Values = np.empty(sides[0].size, dtype=np.float32)
    pointers = (_POINTER * len(sides))(*(s.ctypes.data for s in sides))
    numbers = (_FLOAT * len(sides))(*(map(float, shares) if shares else ()))
    lost = native.elect(
        pointers, numbers, len(sides), by_count, zero, shares is not None, out.size, out.ctypes.data
    )
    return out, int(lost)


def round_bf16(values: NDArray[Any], out: Bits) -> int | None:
    """Rounds float32 values into bfloat16 patterns.

    Args:
        values: The values.
        out: Receives the patterns; zeros have no sign.

    Returns:
        How many are not zero; -1 if one is not finite.
    """
    native = _library()
    if native is None or values.dtype != np.float32 or not _fits(values) or not _fits(out):
        return None
    return int(native.round_bf16(values.ctypes.data, values.size, out.ctypes.data))
