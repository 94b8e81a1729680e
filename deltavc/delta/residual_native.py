"""Residuals in C: the same numbers as :mod:`deltavc.delta.residual`, at memory speed.

Each call goes over a whole run of elements, with the interpreter lock released:
two threads that code small blocks in NumPy wait for each other, not for memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.room import Room, heap
from deltavc.delta.native import library
from deltavc.delta.tensor import DTYPES, Bits, DType

__all__ = [
    "MAX_BANDS",
    "Bands",
    "Goal",
    "Kernels",
    "Read",
    "Step",
    "check_gaps",
    "kernels",
    "kernels_of_width",
]

MAX_BANDS = 8

_POINTER, _NUMBER, _WORD = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
_LANES = 2
_REASONS = (
    "",
    "a delta's long gaps do not fit its gaps",
    "a delta's gaps lead past the end",
)


class _Drift(ctypes.Structure):
    _fields_ = (("table", _POINTER), ("shift", _NUMBER), ("mask", _WORD))


class _Summary(ctypes.Structure):
    _fields_ = (
        ("changed", _NUMBER),
        ("any", _WORD),
        ("top_base", _WORD),
        ("top_fresh", _WORD),
    )


class _Sequence(ctypes.Structure):
    _fields_ = (
        ("next", _NUMBER),
        ("left", _NUMBER),
        ("width", _NUMBER),
        ("gaps", _POINTER),
        ("escapes", _POINTER),
        ("values", _POINTER),
    )


class _Banding(ctypes.Structure):
    _fields_ = (
        ("bands", _NUMBER),
        ("edges", _NUMBER * (MAX_BANDS - 1)),
        ("head", _NUMBER * MAX_BANDS),
        ("end", _NUMBER * MAX_BANDS),
        ("escape", _NUMBER * MAX_BANDS),
        ("escape_end", _NUMBER * MAX_BANDS),
        ("width", _NUMBER),
        ("stride", _NUMBER),
        ("planes", _POINTER),
        ("escapes", _POINTER),
    )


@dataclass(frozen=True)
class Bands:
    """How elements are ordered by the base's exponent, and cut into planes.

    Attributes:
        edges: The least exponent of each band but the first, ascending; fewer than MAX_BANDS.
        width: Number of byte planes; elements that do not fit stand apart.
    """

    edges: tuple[int, ...]
    width: int


class Step:
    """What is predicted of a run of elements.

    Args:
        bits: Bit patterns; the base's own or predicted ones.
        table: Ordinal steps away from zero to take from there, by mantissa; or None.
        mantissa: Width of the mantissa field, where there is a table.
    """

    def __init__(self, bits: Bits, table: Bits | None = None, mantissa: int = 0) -> None:
        self.bits = bits
        self._table = table
        self.drift: Any = None
        if table is not None:
            leading = int(table.size).bit_length() - 1
            drift = _Drift(_at(table), mantissa - leading, table.size - 1)
            self.drift = ctypes.byref(drift)


class Goal:
    """Where rebuilt elements go, or what they are expected to be; one of the two.

    Args:
        out: Receives them.
        expected: Is compared with them.
    """

    def __init__(self, out: Bits | None, expected: Bits | None = None) -> None:
        self.out = out
        self.expected = expected

    def take(self, start: int, stop: int, bits: Bits) -> bool:
        """Takes the bit patterns of a run of elements; tells whether they are as expected."""
        if self.expected is not None:
            return bool(np.array_equal(self.expected[start:stop], bits))
        assert self.out is not None
        self.out[start:stop] = bits
        return True

    def part(self, start: int, stop: int) -> tuple[int | None, int | None]:
        """Returns the addresses of a run of elements."""
        out, expected = self.out, self.expected
        return (
            None if out is None else _at(out[start:stop]),
            None if expected is None else _at(expected[start:stop]),
        )


Read = Callable[[int, int, Step, Goal], bool]
"""Puts the residuals of the next elements, start to stop, on their prediction.

Runs must be asked for in order. Tells whether what was expected came out.
"""


class Kernels:
    """The kernels for elements of one dtype."""

    def __init__(self, loaded: ctypes.CDLL, dtype: DType) -> None:
        self._dtype = dtype
        key = (ctypes.c_int, _WORD)
        run, goal = (_POINTER, _NUMBER, _POINTER), (_POINTER, _POINTER)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = loaded[f"deltavc_{name}_{8 * dtype.size}"]
            found.argtypes, found.restype = arguments, result
            return found

        self._measure = function("measure", None, _POINTER, _POINTER, _NUMBER, *[_POINTER] * 3)
        self._split = function("split", None, _POINTER, _NUMBER, _POINTER)
        self._join = function("join", None, _POINTER, _NUMBER, _POINTER)
        self._count = function("count", None, _POINTER, _NUMBER, *key, _POINTER)
        self._group = function("group", None, _POINTER, _POINTER, _NUMBER, *key, _POINTER, _POINTER)
        self._gaps = function("gaps", _NUMBER, _POINTER, _NUMBER, _NUMBER, *[_POINTER] * 3)
        self._from_planes = function("from_planes", _NUMBER, *run, _POINTER, _NUMBER, *goal)
        self._from_groups = function("from_groups", _NUMBER, *run, *key, _POINTER, _POINTER, *goal)
        self._from_gaps = function("from_gaps", _NUMBER, *run, _POINTER, *goal)
        self._over = function("over", _NUMBER, _POINTER, _NUMBER, _NUMBER)
        self._to_bands = function("to_bands", None, _POINTER, _POINTER, _NUMBER, *[_POINTER] * 4)
        self._open_bands = function("open_bands", _NUMBER, _POINTER, _NUMBER, _POINTER, _NUMBER)
        self._from_bands = function(
            "from_bands", _NUMBER, _POINTER, _POINTER, _NUMBER, _POINTER, _POINTER, *goal
        )
        self._begin = loaded.deltavc_begin
        self._begin.argtypes, self._begin.restype = (_POINTER,), None

    # coding -----------------------------------------------------------------

    def measure(self, step: Step, new: Bits, folded: Bits) -> tuple[int, int, bool]:
        """Writes folded differences of ordinals.

        Args:
            step: The prediction.
            new: What is predicted.
            folded: Receives the differences.

        Returns:
            How many are not 0, all of them or'ed, and whether both sides are finite.
        """
        found = _Summary()
        self._measure(
            _at(step.bits), _at(new), new.size, step.drift, _at(folded), ctypes.byref(found)
        )
        infinity = ((1 << self._dtype.exponent) - 1) << self._dtype.mantissa
        return found.changed, found.any, max(found.top_base, found.top_fresh) < infinity

    def split(self, folded: Bits) -> NDArray[np.uint8]:
        """Returns byte planes, one behind the other, lowest byte first."""
        planes = np.empty(folded.nbytes, dtype=np.uint8)
        self._split(_at(folded), folded.size, _at(planes))
        return planes

    def group(self, folded: Bits, base: Bits) -> Bits:
        """Returns elements ordered by the base's exponent, in their own order within one."""
        grouped = np.empty_like(folded)
        heads = self._heads(base)
        self._group(_at(folded), _at(base), base.size, *self._key, _at(heads), _at(grouped))
        return grouped

    def gaps(
        self, folded: Bits, count: int, width: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint8]]:
        """Returns gaps, long gaps, and values of a width in bytes, of ``count`` elements."""
        gaps = np.empty(count + 1, dtype=np.uint8)  # the kernel writes one ahead
        escapes = np.empty(folded.size // 256 + 1, dtype=np.uint64)
        values = np.empty(count * width + folded.itemsize, dtype=np.uint8)
        found = self._gaps(_at(folded), folded.size, width, _at(gaps), _at(escapes), _at(values))
        return gaps[:count], escapes[:found].copy(), values[: count * width]

    def to_bands(self, folded: Bits, base: Bits, bands: Bands) -> tuple[NDArray[np.uint8], Bits]:
        """Returns the planes of elements in the order of their bands, and what does not fit.

        Args:
            folded: One value for each element.
            base: The base's bit patterns.
            bands: How to order and cut them.
        """
        banding, count, width = self._banding(bands), base.size, bands.width
        whole = width == self._dtype.size
        escapes = np.empty(
            0 if whole else self._over(_at(folded), count, width), dtype=folded.dtype
        )
        planes = np.empty(width * count, dtype=np.uint8)
        spare = count + 8 * MAX_BANDS if bands.edges else 0
        arranged = np.empty(spare, dtype=folded.dtype)
        self._to_bands(
            _at(folded), _at(base), count, ctypes.byref(banding),
            _at(arranged), _at(planes), _at(escapes),
        )  # fmt: skip
        return planes, escapes

    # decoding ---------------------------------------------------------------

    def planes(self, planes: NDArray[np.uint8]) -> Read:
        """Returns what reads residuals in their own order."""
        count = planes.size // self._dtype.size

        def read(start: int, stop: int, step: Step, goal: Goal) -> bool:
            return bool(
                self._from_planes(
                    _at(step.bits), stop - start, step.drift,
                    _at(planes) + start, count, *goal.part(start, stop),
                )
            )  # fmt: skip

        return read

    def groups(self, planes: NDArray[np.uint8], base: Bits, room: Room = heap) -> Read:
        """Returns what reads all residuals at once, which are ordered by the base's exponent."""
        grouped = np.frombuffer(room(base.nbytes), dtype=base.dtype)
        self._join(_at(planes), base.size, _at(grouped))

        def read(start: int, stop: int, step: Step, goal: Goal) -> bool:
            heads = self._heads(base)
            return bool(
                self._from_groups(
                    _at(step.bits), stop - start, step.drift, *self._key,
                    _at(heads), _at(grouped), *goal.part(start, stop),
                )
            )  # fmt: skip

        return read

    def bands(
        self, planes: NDArray[np.uint8], escapes: Bits, base: Bits, bands: Bands
    ) -> Read | None:
        """Returns what reads residuals by bands; None where the escapes are not as many.

        Args:
            planes: As many byte planes as the bands' width says, all elements in each.
            escapes: What does not fit them.
            base: The base's bit patterns.
            bands: How they were ordered and cut.
        """
        held = planes, escapes  # the cursor has addresses alone
        banding, size, first = self._banding(bands), self._dtype.size, _at(base)
        banding.planes, banding.escapes = map(_at, held)
        at = ctypes.byref(banding)
        if not self._open_bands(first, base.size, at, escapes.size):
            return None

        def read(start: int, stop: int, step: Step, goal: Goal) -> bool:
            assert held
            return bool(
                self._from_bands(
                    _at(step.bits), first + start * size, stop - start, step.drift,
                    at, *goal.part(start, stop),
                )
            )  # fmt: skip

        return read

    def _banding(self, bands: Bands) -> Any:
        edges = (edge << self._dtype.mantissa for edge in bands.edges)
        return _Banding(bands=len(bands.edges) + 1, edges=tuple(edges), width=bands.width)

    def sequence(
        self,
        gaps: NDArray[np.uint8],
        escapes: NDArray[np.uint8],
        values: NDArray[np.uint8],
        width: int,
    ) -> Read:
        """Returns what reads residuals by gaps, which :func:`check_gaps` must have found right."""
        held = gaps, escapes, values  # the cursor has addresses alone
        cursor = _Sequence(-1, gaps.size, width, *map(_at, held))
        at = ctypes.byref(cursor)
        self._begin(at)

        def read(start: int, stop: int, step: Step, goal: Goal) -> bool:
            assert held
            part = goal.part(start, stop)
            return bool(self._from_gaps(_at(step.bits), stop - start, step.drift, at, *part))

        return read

    @property
    def _key(self) -> tuple[int, int]:
        return self._dtype.mantissa, (1 << self._dtype.exponent) - 1

    def _heads(self, base: Bits) -> NDArray[np.int64]:
        """Returns for each lane where its elements of each exponent begin."""
        counts = np.zeros((_LANES, 1 << self._dtype.exponent), dtype=np.int64)
        self._count(_at(base), base.size, *self._key, _at(counts))
        ends = np.cumsum(counts.T)  # by exponent, then by lane
        return np.ascontiguousarray(ends.reshape(-1, _LANES).T - counts)


def kernels(dtype: DType) -> Kernels | None:
    """Returns the kernels for an arithmetic dtype, or None where they cannot be used."""
    loaded = library("residual")
    return None if loaded is None else _kernels(loaded, dtype)


def kernels_of_width(size: int) -> Kernels | None:
    """Returns kernels for elements of so many bytes, whatever they mean, or None."""
    name = {2: "BF16", 4: "F32", 8: "F64"}.get(size)
    return None if name is None else kernels(DTYPES[name])


@cache
def _kernels(loaded: ctypes.CDLL, dtype: DType) -> Kernels:
    return Kernels(loaded, dtype)


def check_gaps(gaps: NDArray[np.uint8], escapes: NDArray[np.uint8], limit: int) -> str | None:
    """Tells what is wrong with gaps.

    Args:
        gaps: The gaps.
        escapes: Bytes of the long ones, a multiple of eight.
        limit: Number of elements that they must stay within.

    Returns:
        What is wrong, empty if nothing; None without a library.
    """
    loaded = library("residual")
    if loaded is None:
        return None
    function = loaded.deltavc_check
    function.argtypes = (_POINTER, _NUMBER, _POINTER, _NUMBER, _NUMBER)
    function.restype = _NUMBER
    return _REASONS[function(_at(gaps), gaps.size, _at(escapes), escapes.size // 8, limit)]


def _at(array: NDArray[Any]) -> int:
    """Returns the address of a contiguous array."""
    address: int = array.__array_interface__["data"][0]
    return address
