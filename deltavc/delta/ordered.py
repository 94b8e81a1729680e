"""Products of factors and singular vectors, with every sum in an order that is written down.

What a BLAS or LAPACK returns depends on its version, the processor and the
number of threads. Bytes that are stored must not. Here each result is made of
IEEE additions, multiplications, divisions and square roots in a fixed order,
none of them fused, so it has one value everywhere. The order:

- ``cross``: elements go to four sums by their number modulo 4. A sum runs
  through 256 elements at a time in their order, the chunks' sums are added in
  theirs, and the four are added as (0 + 2) + (1 + 3).
- ``combine``: products are added one after another, in the order of the rows.
- ``rotate``: cyclic one-sided Jacobi, pairs in the order of a round-robin
  tournament, inner products as one chunk of ``cross``.

Rows are kept in arrays whose width is a multiple of 4, padded by zeros
(:func:`rows_of_zeros`). The loops are in C (``native/small_svd.c``); without it
NumPy takes the same steps many elements at a time.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import native
from deltavc.errors import InternalError

__all__ = [
    "Matrix", "Rounded", "cholesky", "combine", "cross", "ieee", "padded", "rotate", "round_rows",
    "rows_of_zeros",
]  # fmt: skip

Matrix = NDArray[np.float64]

LANES, CHUNK = 4, 256
SWEEPS = 60  # some 6 to 10 are needed
TOLERANCE = 2.0**-48  # cosine of two rows that count as orthogonal
NOTHING = 2.0**-120  # share of the squares of all rows that a row must have to be turned
_SPREAD = 512  # rows this many float64 apart, or a multiple, would share few lines of a cache
_LINE = 8  # float64 in a line of a cache; rows that begin with one are read in two thirds the time
_PIECE = 1 << 18  # elements of a temporary without C
_PLAIN = 500  # powers of two that a product meets without leaving float64


def rows_of_zeros(count: int, width: int) -> Matrix:
    """Returns rows of zeros, the width rounded up to a multiple of 4.

    Args:
        count: Number of rows.
        width: Least number of columns.

    Returns:
        An array whose rows may be further apart than they are wide.
    """
    whole = -(-width // LANES) * LANES
    step = whole if whole < _SPREAD // 2 else -(-whole // _SPREAD) * _SPREAD + 2 * LANES
    flat = np.zeros(count * step + _LINE)
    start = -flat.ctypes.data // flat.itemsize % _LINE
    return flat[start : start + count * step].reshape(count, step)[:, :whole]


def padded(rows: Matrix) -> Matrix:
    """Returns a copy of rows, their width rounded up to a multiple of 4 by zeros."""
    copy = rows_of_zeros(*rows.shape)
    copy[:, : rows.shape[1]] = rows
    return copy


def cross(x: Matrix, y: Matrix | None = None) -> Matrix:
    """Returns x @ y.T, or x @ x.T.

    Shapes:
        x: (k, n), y: (m, n), n a multiple of 4; the result is (k, m).
    """
    other = x if y is None else y
    out = np.zeros((x.shape[0], other.shape[0]))
    library = _library()
    if library is None:
        return _cross(x, other, out)
    done = library.deltavc_small_svd_cross(
        *out.shape, x.shape[1], *_rows(x), *_rows(other), out.ctypes.data, int(y is None)
    )
    if not done:
        raise MemoryError
    return out


def combine(weights: Matrix, rows: Matrix, out: Matrix | None = None) -> Matrix:
    """Returns weights @ rows, or adds it to what is there.

    Args:
        weights: (m, k).
        rows: (k, n), n a multiple of 4.
        out: (m, n) to add to; zeros if not given.

    Returns:
        The sums, in ``out`` if that was given.
    """
    total = rows_of_zeros(weights.shape[0], rows.shape[1]) if out is None else out
    weights = np.ascontiguousarray(weights)
    library = _library()
    if library is None:
        for row in range(rows.shape[0]):
            total += weights[:, row, np.newaxis] * rows[row]
        return total
    library.deltavc_small_svd_combine(
        *weights.shape, rows.shape[1], weights.ctypes.data, *_rows(rows), *_rows(total)
    )
    return total


@dataclass(frozen=True, eq=False)
class Rounded:
    """Rows as they are rounded, with X the exact rows and R what rounding added to them.

    Attributes:
        values: (m, width) float32: the rows times a power of two.
        peaks: (m,) the element of each row of X with the largest magnitude, the first of them.
        squares: (m,) sums of the squares of each row of R.
        mixed: (m, m): X @ R.T.
    """

    values: NDArray[np.float32]
    peaks: Matrix
    squares: Matrix
    mixed: Matrix


def round_rows(weights: Matrix, rows: Matrix, width: int, power: int) -> Rounded:
    """Returns weights @ rows, times a power of two, rounded to float32.

    Args:
        weights: (m, k).
        rows: (k, n), n a multiple of 4.
        width: How many columns are meant; the others are zero.
        power: The exponent of the power of two.
    """
    count = weights.shape[0]
    library = _library()
    if library is None or abs(power) > _PLAIN:
        exact = combine(weights, rows)
        rounded = np.ldexp(exact, power).astype(np.float32)
        rest = np.ldexp(rounded.astype(np.float64), -power) - exact
        place = np.argmax(np.abs(exact), axis=1)
        squares = np.zeros(count)
        for row in range(count):
            squares[row] = cross(rest[row : row + 1])[0, 0]
        peaks = exact[np.arange(count), place]
        return Rounded(rounded[:, :width], peaks, squares, cross(exact, rest))
    weights = np.ascontiguousarray(weights)
    made = Rounded(
        np.empty((count, width), dtype=np.float32),
        np.zeros(count),
        np.zeros(count),
        np.zeros((count, count)),
    )
    done = library.deltavc_small_svd_make(
        *weights.shape,
        rows.shape[1],
        weights.ctypes.data,
        *_rows(rows),
        2.0**power,
        2.0**-power,
        width,
        *(part.ctypes.data for part in (made.values, made.peaks, made.squares, made.mixed)),
    )
    if not done:
        raise MemoryError
    return made


def cholesky(gram: Matrix, least: float) -> tuple[NDArray[np.int64], Matrix, Matrix]:
    """Returns a pivoted Cholesky factor.

    Args:
        gram: (k, k), symmetric and positive semidefinite.
        least: Pivots that are not above it are left.

    Returns:
        The pivots in order; rows ``u`` (q, k) with ``u.T @ u`` near ``gram``, whose columns
        at the pivots are an upper triangle; and the inverse of that triangle's transpose.
    """
    count = gram.shape[0]
    left = np.array(gram, order="C")
    upper, inverse = np.zeros((count, count)), np.zeros((count, count))
    order = np.zeros(count, dtype=np.int64)
    library = _library()
    if library is None:
        found = _cholesky(left, least, upper, order, inverse)
    else:
        arrays = (left, upper, order, inverse)
        found = library.deltavc_small_svd_cholesky(count, least, *(a.ctypes.data for a in arrays))
    return order[:found], upper[:found], inverse[:found, :found]


def rotate(rows: Matrix) -> Matrix:
    """Makes rows orthogonal to each other by rotations, in place.

    Args:
        rows: (k, n), C-contiguous, n a multiple of 4.

    Returns:
        The orthogonal (k, k) matrix that gives the new rows when it is multiplied by the
        old ones.

    Numerics:
        Cosines below 2**-48 are left, and rows below 2**-60 of the norm of all, which
        are rounding: they would be turned for ever.

    Source:
        Hestenes 1958; Demmel and Veselić 1992 for the accuracy.
    """
    count = rows.shape[0]
    turn = np.zeros((count, -(-count // LANES) * LANES))
    turn[:, :count] = np.eye(count)
    schedule = _schedule(count)
    least = NOTHING * math.fsum(np.diagonal(cross(rows)).tolist())
    library = _library()
    if library is None:
        done = _rotate(rows, turn, schedule, least)
    else:
        done = library.deltavc_small_svd_rotate(
            schedule.size // 2,
            schedule.ctypes.data,
            rows.shape[1],
            rows.ctypes.data,
            turn.shape[1],
            turn.ctypes.data,
            SWEEPS,
            TOLERANCE,
            least,
        )
    if not done:
        raise InternalError("singular vectors did not settle")
    return turn[:, :count]


@contextmanager
def ieee() -> Iterator[None]:
    """Gives the thread IEEE arithmetic: a training script may have it flush subnormals."""
    smallest_normal = 2.2250738585072014e-308
    if smallest_normal * float("0.5") and float("1") + float("1e-30") == 1.0:
        with np.errstate(all="ignore"):
            yield
        return
    from deltavc.delta.rounding_arithmetic import plain_arithmetic

    with plain_arithmetic(), np.errstate(all="ignore"):
        yield


def _library() -> ctypes.CDLL | None:
    library = native.library("small_svd")
    return None if library is None else _prototypes(library)


@cache
def _prototypes(library: ctypes.CDLL) -> ctypes.CDLL:
    number: Any = ctypes.c_int64
    pointer: Any = ctypes.c_void_p
    rows = [pointer, number]
    library.deltavc_small_svd_cross.argtypes = [number] * 3 + rows + rows + [pointer, number]
    library.deltavc_small_svd_cross.restype = number
    library.deltavc_small_svd_combine.argtypes = [number] * 3 + [pointer] + rows + rows
    library.deltavc_small_svd_combine.restype = None
    library.deltavc_small_svd_make.argtypes = (
        [number] * 3 + [pointer] + rows + [ctypes.c_double] * 2 + [number] + [pointer] * 4
    )
    library.deltavc_small_svd_make.restype = number
    library.deltavc_small_svd_cholesky.argtypes = [number, ctypes.c_double] + [pointer] * 4
    library.deltavc_small_svd_cholesky.restype = number
    library.deltavc_small_svd_rotate.argtypes = [
        number, pointer, number, pointer, number, pointer, number, ctypes.c_double,
        ctypes.c_double,
    ]  # fmt: skip
    library.deltavc_small_svd_rotate.restype = number
    return library


def _rows(array: Matrix) -> tuple[int, int]:
    """Returns where an array's rows begin, and how many elements they are apart."""
    return array.ctypes.data, array.strides[0] // array.itemsize


@cache
def _schedule(count: int) -> NDArray[np.int32]:
    """Returns the rounds of a tournament, in which each row meets each other one once."""
    size = count + count % 2
    ring = list(range(size))
    rounds = []
    for _ in range(size - 1):
        pairs = zip(ring[: size // 2], reversed(ring[size // 2 :]), strict=True)
        rounds.append([sorted(pair) for pair in pairs if max(pair) < count])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return np.array(rounds, dtype=np.int32).reshape(size - 1 if count else 0, count // 2, 2)


# The same in NumPy -------------------------------------------------------------------------


def _cross(x: Matrix, y: Matrix, out: Matrix) -> Matrix:
    """Fills in x @ y.T, some rows and chunks at a time."""
    count, width = x.shape
    rows = max(1, _PIECE // max(1, y.shape[0] * LANES))
    for first in range(0, count, rows):
        part = x[first : first + rows]
        total = np.zeros((part.shape[0], y.shape[0], LANES))
        for at in range(0, width, CHUNK):
            total += _lanes(part[:, np.newaxis, at : at + CHUNK], y[:, at : at + CHUNK])
        out[first : first + rows] = _tree(total)
    return out


def _lanes(x: Matrix, y: Matrix) -> Matrix:
    """Returns four sums over the last axis of a product, each in order."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    sums = np.zeros((*shape[:-1], LANES))
    for at in range(0, shape[-1], LANES):
        sums += x[..., at : at + LANES] * y[..., at : at + LANES]
    return sums


def _tree(sums: Matrix) -> Matrix:
    total: Matrix = (sums[..., 0] + sums[..., 2]) + (sums[..., 1] + sums[..., 3])
    return total


def _cholesky(
    left: Matrix, least: float, upper: Matrix, order: NDArray[np.int64], inverse: Matrix
) -> int:
    """Fills in the factor, the pivots and the inverse; returns how many there are."""
    count = left.shape[0]
    taken = np.zeros(count, dtype=np.bool_)
    found = 0
    while found < count:
        diagonal = np.where(taken, -1.0, np.diagonal(left))
        pivot = int(np.argmax(diagonal))
        if not diagonal[pivot] > least:
            break
        upper[found] = left[pivot] / np.sqrt(diagonal[pivot])
        upper[found, taken] = 0.0
        left -= upper[found, :, np.newaxis] * upper[found]
        order[found], taken[pivot] = pivot, True
        found += 1
    pivots = order[:found]
    inverse[:found, :found] = np.eye(found)
    for step in range(found):
        inverse[step, :found] /= upper[step, pivots[step]]
        factors = upper[step, pivots[step + 1 :], np.newaxis]
        inverse[step + 1 : found, :found] -= factors * inverse[step, :found]
    return found


def _rotate(rows: Matrix, turn: Matrix, schedule: NDArray[np.int32], least: float) -> int:
    """Rotates; the pairs of a round have no row in common and are taken together."""
    for sweep in range(1, SWEEPS + 1):
        turned = False
        for pairs in schedule:
            one, other = pairs[:, 0], pairs[:, 1]
            p, q = rows[one], rows[other]
            alpha, beta, gamma = (_tree(_lanes(a, b)) for a, b in ((p, p), (q, q), (p, q)))
            far = (alpha > least) & (beta > least)
            far &= np.abs(gamma) > TOLERANCE * (np.sqrt(alpha) * np.sqrt(beta))
            if not far.any():
                continue
            turned = True
            one, other = one[far], other[far]
            zeta = (beta[far] - alpha[far]) / (gamma[far] + gamma[far])
            size = 1.0 / (np.abs(zeta) + np.sqrt(1.0 + zeta * zeta))
            tangent = np.where(zeta < 0.0, -size, size)
            cosine = (1.0 / np.sqrt(1.0 + tangent * tangent))[:, np.newaxis]
            sine = cosine * tangent[:, np.newaxis]
            for array in (rows, turn):
                p, q = array[one], array[other]
                array[one], array[other] = cosine * p - sine * q, sine * p + cosine * q
        if not turned:
            return sweep
    return 0
