"""The fast path in C: a base plus low-rank terms, rounded and proved in one pass.

Does what :mod:`deltavc.delta.rounding_tiles` does, for the commonest sum: the
parameter's own base with coefficient 1, and factors. The proof is that of
``docs/adr/0003-certified-rounding.md``; the bits are the same, since both give
the definition's. Neither torch nor a BLAS is involved.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import native
from deltavc.delta.exactsum import Vector, two_product
from deltavc.delta.rounding_form import Index, LinearForm
from deltavc.delta.tensor import Bits

__all__ = ["NativeKernel", "native_kernel", "native_level"]

MAX_RANK = 1 << 12  # of all factors; keeps gamma of float32 under 2**-11
ROW_CHUNK = 32  # as in rounding.c
FLOOR = 2.0**-960
_DTYPES = {"BF16": 0, "F16": 1, "F32": 2}


class _Form(ctypes.Structure):
    """One parameter, laid out as rounding.c has it."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "columns", "rank", "dtype", "level", "exact")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "left", "right", "turned", "panels", "packed", "row_norms", "column_norms",
                "row_errors", "column_singles", "row_grids", "column_grids",
            )
        ),
        *((name, ctypes.c_double) for name in ("floor", "gamma", "gamma_single", "floor_single")),
    )  # fmt: skip


@cache
def _prototypes(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.deltavc_arithmetic_plain.restype = ctypes.c_uint64
    library.deltavc_arithmetic_restore.argtypes = [ctypes.c_uint64]
    library.deltavc_arithmetic_restore.restype = None
    library.deltavc_rounding_level.restype = number
    library.deltavc_rounding_tile.argtypes = [number]
    library.deltavc_rounding_tile.restype = number
    library.deltavc_rounding_width.argtypes = [number, number]
    library.deltavc_rounding_width.restype = number
    library.deltavc_rounding_prepare.argtypes = [pointer]
    library.deltavc_rounding_prepare.restype = number
    library.deltavc_rounding_rows.argtypes = [
        pointer, pointer, pointer, number, number, pointer, number, pointer,
    ]  # fmt: skip
    library.deltavc_rounding_rows.restype = number
    return library


def native_level() -> int | None:
    """Returns the best kernel for this processor (0 portable, 1 AVX2, 2 AVX-512), None without."""
    library = native.library("rounding")
    return None if library is None else int(_prototypes(library).deltavc_rounding_level())


def native_kernel(form: LinearForm, level: int | None = None) -> NativeKernel | None:
    """Returns the fast path for a sum, or None if C does not know the sum, or is not there.

    Args:
        form: The parameter's sum.
        level: The kernel to take instead of the best; one that the processor has.

    Returns:
        What computes it.
    """
    library = native.library("rounding")
    if library is None or not _known(form):
        return None
    if level is None and form.dtype.name == "F16" and not native_level():
        return None  # without conversions in hardware torch is four times as fast
    kernel = NativeKernel(form, _prototypes(library), level)
    return kernel if kernel.certifies else None


def _known(form: LinearForm) -> bool:
    """Tells whether a sum is the base with coefficient 1, factors, and lists of elements."""
    whole = [plane for plane in form.planes if plane.index is None]
    return (
        form.tame
        and form.dtype.name in _DTYPES
        and not form.extras
        and len(whole) == 1
        and whole[0].coefficient == 1
        and whole[0].values is form.anchor
        and 0 < sum(f.left.shape[1] for f in form.factors) <= MAX_RANK
    )


class NativeKernel:
    """The fast path in C for one parameter in F16, BF16 or F32.

    Args:
        form: The parameter's sum, of the kind that :func:`native_kernel` lets pass.
        library: The C library.
        level: The kernel to take; the best if None.

    Attributes:
        certifies: Whether its bounds hold for these factors.
    """

    def __init__(self, form: LinearForm, library: ctypes.CDLL, level: int | None = None) -> None:
        self.form = form
        self._library = library
        self._sparse = [p.index for p in form.planes if p.index is not None]
        self._bits = np.ascontiguousarray(form.anchor.bits)
        best = int(library.deltavc_rounding_level())
        self._held: list[NDArray[Any]] = []
        self._c = self._prepared(best if level is None else min(level, best))
        self._room = 2 * min(ROW_CHUNK, form.rows) * form.columns
        self.certifies = bool(library.deltavc_rounding_prepare(ctypes.byref(self._c)))

    def _prepared(self, level: int) -> _Form:
        """Returns the C form with buffers that are not filled yet, but for the factors."""
        form = self.form
        left, right = _side_by_side(form)
        rows, columns, rank = form.rows, form.columns, left.shape[1]
        code = _DTYPES[form.dtype.name]
        wide = form.dtype.size == 4
        width = int(self._library.deltavc_rounding_width(level, code))
        tile = int(self._library.deltavc_rounding_tile(level))
        padded, tall = -(-columns // width) * width, -(-rows // tile) * tile
        own = {
            "left": left,
            "right": right,
            "turned": np.empty(0 if wide else columns * rank),
            "panels": np.empty(padded * rank, np.float64 if wide else np.float32),
            "packed": np.empty(tall * rank, np.float64 if wide else np.float32),
            "row_norms": np.empty(tall),
            "column_norms": np.empty(padded),
            "row_errors": np.empty(tall, np.float32),
            "column_singles": np.empty(padded, np.float32),
            "row_grids": np.empty(tall, np.int32),
            "column_grids": np.empty(padded, np.int32),
        }
        self._held = list(own.values())
        # Folding a coefficient costs two roundings, narrowing to float32 one for each factor.
        terms = rank + 8
        return _Form(
            rows=rows,
            columns=columns,
            rank=rank,
            dtype=code,
            level=level,
            exact=_folds_exactly(form),
            floor=FLOOR,
            gamma=1.02 * terms * 2.0**-53,
            gamma_single=1.02 * terms * 2.0**-24,
            **{name: array.ctypes.data for name, array in own.items()},
        )

    def compute(self, start: int, stop: int, out: Bits) -> int:
        """Computes rows [start, stop) into ``out``.

        Args:
            start: First row.
            stop: Row after the last.
            out: Flat bit patterns of these rows.

        Returns:
            How many elements had to be settled.
        """
        columns = self.form.columns
        places = np.empty(self._room, dtype=np.int64)
        count = ctypes.c_int64()
        settled, row = 0, start
        with _plain_arithmetic(self._library):
            while row < stop:
                part = out[(row - start) * columns :]
                done = self._library.deltavc_rounding_rows(
                    ctypes.byref(self._c), self._bits.ctypes.data, part.ctypes.data,
                    row, stop, places.ctypes.data, places.size, ctypes.byref(count),
                )  # fmt: skip
                found = self._listed(places[: count.value], row, row + done)
                if found.size:
                    part[found] = self.form.settle(found + row * columns)
                settled += int(found.size)
                row += done
        return settled

    def _listed(self, found: Index, start: int, stop: int) -> Index:
        """Adds the elements of sparse terms, which C leaves out."""
        columns = self.form.columns
        for index in self._sparse:
            low, high = np.searchsorted(index, (start * columns, stop * columns))
            found = np.concatenate([found, index[low:high] - start * columns])
        return found


@contextmanager
def _plain_arithmetic(library: ctypes.CDLL) -> Iterator[None]:
    """Gives the calling thread IEEE arithmetic, and puts back what it had."""
    before = library.deltavc_arithmetic_plain()
    try:
        yield
    finally:
        library.deltavc_arithmetic_restore(before)


def _side_by_side(form: LinearForm) -> tuple[Vector, Vector]:
    """Returns all factors in one, coefficients folded into the left ones."""
    lefts = [f.left * float(f.coefficient) for f in form.factors]
    rights = [f.right for f in form.factors]
    if len(lefts) == 1:
        return np.ascontiguousarray(lefts[0]), np.ascontiguousarray(rights[0])
    return np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)


def _folds_exactly(form: LinearForm) -> bool:
    """Tells whether folding the coefficients into the left factors rounded nothing."""
    for term in form.factors:
        factor = float(term.coefficient)
        if factor != term.coefficient:
            return False
        if abs(math.frexp(factor)[0]) != 0.5 and two_product(term.left, factor)[1].any():
            return False
    return True
