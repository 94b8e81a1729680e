"""Low-rank approximations of a change: smaller, and not exact.

Only by request: what is stored this way does not rebuild to the bits that were
committed. The error is measured on the factors as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.kinds import Delta
from deltavc.delta.rankfind import Pair
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UsageError

__all__ = ["approximate"]

Matrix = NDArray[np.float64]

SEED = 20240301
OVERSAMPLE = 12
_FIRST = 16


def approximate(
    base: Tensor | None,
    new: Tensor,
    *,
    max_rank: int | None = None,
    rel_error: float | None = None,
) -> tuple[Delta, float]:
    """Returns a low-rank delta near a change, and how far it is from it.

    Args:
        base: The base's tensor; None where the base lacks it, which counts as zeros.
        new: The checkpoint's tensor, of at least two dimensions.
        max_rank: Largest rank.
        rel_error: Largest relative error; the smallest rank that reaches it is
            taken, or ``max_rank`` if that does not.

    Returns:
        The delta, with float32 factors, and its relative error in the
        Frobenius norm, measured against ``new - base`` in float64.

    Numerics:
        Randomised range finder with one power step, then an SVD of the sketch;
        the rank is within one of the smallest for slowly falling spectra.

    Cost:
        Four passes over the change for each doubling of the sketch, and one to measure.

    Raises:
        UsageError: Neither limit is given, or one is out of range.
        ShapeMismatch: The tensors are not two matrices of one shape and dtype.
        NonFiniteTensor: One holds NaN or infinity.
    """
    if max_rank is None and rel_error is None:
        raise UsageError("an approximation needs a rank or an error to keep to")
    if (max_rank is not None and max_rank < 1) or not 0 <= (rel_error or 0.0) < 1:
        raise UsageError("a rank is at least 1 and an error is at least 0 and below 1")
    pair = _checked(base, new)
    total = math.sqrt(sum(float(np.vdot(c, c)) for c in _changes(pair)))
    limit = min(pair.rows, pair.columns, max_rank or pair.rows)
    if total == 0.0:
        zero = np.zeros((pair.rows, 1)), np.zeros((1, pair.columns))
        return _delta(*zero, new.shape), 0.0
    left, values, right = _leading(pair, limit, rel_error, total)
    rank = limit if rel_error is None else _smallest(values, rel_error, total, limit)
    while True:
        delta = _delta(left[:, :rank] * values[:rank], right[:rank], new.shape)
        error = _measured(pair, delta, total)
        if rel_error is None or error <= rel_error or rank >= min(limit, values.size):
            return delta, error
        rank += 1


def _checked(base: Tensor | None, new: Tensor) -> Pair:
    if len(new.shape) < 2 or not new.count or not new.dtype.arithmetic:
        raise ShapeMismatch("only matrices of floats can be approximated", shape=list(new.shape))
    if base is None:
        base = Tensor(new.dtype, new.shape, np.zeros(new.count, dtype=new.dtype.bits))
    if base.dtype is not new.dtype or base.shape != new.shape:
        raise ShapeMismatch("a change of shape or dtype cannot be approximated")
    if not (base.is_finite() and new.is_finite()):
        raise NonFiniteTensor("a tensor with NaN or infinity cannot be approximated")
    return Pair.of(base, new)


def _changes(pair: Pair) -> Iterator[Matrix]:
    return (pair.change(first, end) for first, end in pair.bands())


def _leading(
    pair: Pair, limit: int, rel_error: float | None, total: float
) -> tuple[Matrix, NDArray[np.float64], Matrix]:
    """Returns leading singular triplets, as many as the limits need."""
    side = min(pair.rows, pair.columns)
    size = limit + OVERSAMPLE if rel_error is None else _FIRST + OVERSAMPLE
    while True:
        size = min(size, side)
        left, values, right = _sketch(pair, size)
        enough = rel_error is None or size >= min(side, limit + OVERSAMPLE)
        if enough or _error(values[: size - OVERSAMPLE], total) <= (rel_error or 0.0):
            return left, values, right
        size *= 2


def _sketch(pair: Pair, size: int) -> tuple[Matrix, NDArray[np.float64], Matrix]:
    right = np.random.default_rng(SEED).standard_normal((pair.columns, size))
    for _ in range(2):  # the second turn is the power step
        left = np.linalg.qr(_image(pair, right))[0]
        right = np.linalg.qr(_image_back(pair, left))[0]
    turn, values, back = np.linalg.svd(_image(pair, right), full_matrices=False)
    return turn, values, back @ right.T


def _image(pair: Pair, right: Matrix) -> Matrix:
    image = np.empty((pair.rows, right.shape[1]))
    for first, end in pair.bands():
        np.matmul(pair.change(first, end), right, out=image[first:end])
    return image


def _image_back(pair: Pair, left: Matrix) -> Matrix:
    image = np.zeros((pair.columns, left.shape[1]))
    for first, end in pair.bands():
        image += pair.change(first, end).T @ left[first:end]
    return image


def _error(values: NDArray[np.float64], total: float) -> float:
    """Returns the relative error that singular values leave."""
    return math.sqrt(max(0.0, 1.0 - float(np.vdot(values, values)) / total**2))


def _smallest(values: NDArray[np.float64], rel_error: float, total: float, limit: int) -> int:
    left = np.sqrt(np.maximum(0.0, 1.0 - np.cumsum(np.square(values)) / total**2))
    reached = np.flatnonzero(left <= rel_error)
    rank = int(reached[0]) + 1 if reached.size else int(values.size)
    return min(rank, limit)


def _delta(left: Matrix, right: Matrix, shape: tuple[int, ...]) -> Delta:
    """Returns the delta of factors, balanced and rounded to float32."""
    sizes = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    safe = [np.where(size > 0, size, 1.0) for size in sizes]
    share = np.sqrt(safe[1] / safe[0])
    b = Tensor(DTYPES["F32"], left.shape, _single(left * share))
    a = Tensor(DTYPES["F32"], right.shape, _single(right / share[:, None]))
    return kinds.lowrank(b, a, Fraction(1), shape=shape)


def _single(factor: Matrix) -> NDArray[np.uint32]:
    return np.ascontiguousarray(factor, dtype=np.float32).reshape(-1).view(np.uint32)


def _measured(pair: Pair, delta: Delta, total: float) -> float:
    left, right = delta.matrices()
    missed = 0.0
    for first, end in pair.bands():
        rest = pair.change(first, end) - left[first:end] @ right
        missed += float(np.vdot(rest, rest))
    return math.sqrt(missed) / total
