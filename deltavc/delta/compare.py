"""Sizes and angles of changes, for people who compare two versions.

A change is a sum of deltas with coefficients. Where all of them are low-rank,
nothing is densified: QR of the factors leaves a core as small as the ranks
together. Otherwise the sums are taken band by band, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.bands import band_of
from deltavc.delta.contributions import KINDS
from deltavc.delta.exact import decode_exact
from deltavc.delta.kinds import Delta
from deltavc.delta.ordinals import widen
from deltavc.delta.sparse import decode_sparse
from deltavc.delta.tensor import Tensor
from deltavc.errors import ObjectCorrupt, ShapeMismatch

__all__ = ["Comparison", "Terms", "angle", "compare", "norm", "opposed_share"]

Matrix = NDArray[np.float64]
Terms = Sequence[tuple[Delta, Fraction]]
_Band = Callable[[int, int], Matrix]

_BAND = 1 << 16
_SAMPLE = 1 << 17  # elements that tell a share to 0.15 %


@dataclass(frozen=True)
class Comparison:
    """Two changes of one parameter, side by side.

    Attributes:
        norm_a: Frobenius norm of the one.
        norm_b: Frobenius norm of the other.
        norm_diff: Frobenius norm of the other less the one.
        cosine: Cosine of the angle between them; NaN if one is zero.
        rank_a: Numerical rank of the one, None unless it is a sum of low-rank deltas.
        rank_b: Numerical rank of the other, likewise.
    """

    norm_a: float
    norm_b: float
    norm_diff: float
    cosine: float
    rank_a: int | None
    rank_b: int | None


def norm(terms: Terms, base: Tensor | None) -> float:
    """Returns the Frobenius norm of a change.

    Args:
        terms: Deltas of one parameter with their coefficients; none is no change.
        base: The base's tensor, needed by deltas that are not low-rank or dense.

    Raises:
        ShapeMismatch: A delta has no difference from this base.
    """
    if not terms:
        return 0.0
    if _all_lowrank(terms):
        return float(np.linalg.norm(_core(*_factors(terms))))
    change = _band_of(terms, base, _matrix_shape(terms)[1])
    return math.sqrt(sum(float(np.vdot(band, band)) for band in _bands(terms, change)))


def compare(a_terms: Terms, b_terms: Terms, base: Tensor | None) -> Comparison:
    """Returns norms, angle and ranks of two changes of one parameter.

    Args:
        a_terms: Deltas of the one change with their coefficients.
        b_terms: Deltas of the other.
        base: The base's tensor, needed by deltas that are not low-rank or dense.

    Returns:
        The comparison.

    Numerics:
        float64; the norm of a difference of low-rank changes keeps its
        digits where a difference of squares would lose half of them.

    Cost:
        O((rows + columns) * r**2) for low-rank changes of rank r in all, else a few passes.

    Raises:
        ShapeMismatch: A delta has no difference from this base.
    """
    both = [*a_terms, *b_terms]
    if both and len({delta.shape for delta, _ in both}) > 1:
        raise ShapeMismatch("two changes of different shapes cannot be compared")
    ranks = [_rank(terms) if _all_lowrank(terms) else None for terms in (a_terms, b_terms)]
    if _all_lowrank(both):
        negated = [(delta, -coefficient) for delta, coefficient in a_terms]
        sizes = [norm(terms, None) for terms in (a_terms, b_terms, [*b_terms, *negated])]
        inner = _inner(a_terms, b_terms)
    else:
        sizes, inner = _densely(a_terms, b_terms, base)
    size = sizes[0] * sizes[1]
    cosine = max(-1.0, min(1.0, inner / size)) if size else math.nan
    return Comparison(sizes[0], sizes[1], sizes[2], cosine, ranks[0], ranks[1])


def angle(a_terms: Terms, b_terms: Terms, base: Tensor | None) -> tuple[float, float, float]:
    """Returns the norms of two changes of one parameter, and the cosine between them.

    A tenth of the time of :func:`compare` where both are low-rank: inner products of
    factors instead of QR, so that a norm is good to 1e-8 of the sum of its terms' norms.

    Args:
        a_terms: Deltas of the one change with their coefficients.
        b_terms: Deltas of the other.
        base: The base's tensor, needed by deltas that are relative to it.

    Returns:
        Frobenius norms of the one and the other, and the cosine; NaN if one is zero.

    Raises:
        ShapeMismatch: A delta has no difference from this base.
    """
    if not _all_lowrank([*a_terms, *b_terms]):
        found = compare(a_terms, b_terms, base)
        return found.norm_a, found.norm_b, found.cosine
    sizes = [math.sqrt(max(0.0, _inner(terms, terms))) for terms in (a_terms, b_terms)]
    size = sizes[0] * sizes[1]
    cosine = max(-1.0, min(1.0, _inner(a_terms, b_terms) / size)) if size else math.nan
    return sizes[0], sizes[1], cosine


def opposed_share(a_terms: Terms, b_terms: Terms, base: Tensor | None) -> float | None:
    """Returns how often two changes of one parameter pull an element in opposite directions.

    Args:
        a_terms: Deltas of the one change with their coefficients.
        b_terms: Deltas of the other.
        base: The base's tensor, needed by deltas that are relative to it.

    Returns:
        The share of opposed signs among the elements that both change, counted on
        evenly spaced rows of some 2^17 elements; None if no element is in both.

    Raises:
        ShapeMismatch: A delta has no difference from this base.
    """
    rows, columns = _matrix_shape([*a_terms, *b_terms])
    one, other = (_band_of(terms, base, columns) for terms in (a_terms, b_terms))
    count = min(rows, max(1, _SAMPLE // max(1, columns)))
    opposed = both = 0
    for row in (np.arange(count) * rows // max(1, count)).tolist():
        signs = np.sign(one(row, row + 1)) * np.sign(other(row, row + 1))
        opposed += int(np.count_nonzero(signs < 0))
        both += int(np.count_nonzero(signs))
    return opposed / both if both else None


def _densely(a_terms: Terms, b_terms: Terms, base: Tensor | None) -> tuple[list[float], float]:
    """Returns the three squared sums' roots and the inner product, band by band."""
    both = [*a_terms, *b_terms]
    columns = _matrix_shape(both)[1]
    one, other = (_band_of(terms, base, columns) for terms in (a_terms, b_terms))
    sums, inner = [0.0, 0.0, 0.0], 0.0
    for first, end in _bounds(both):
        a, b = one(first, end), other(first, end)
        inner += float(np.vdot(a, b))
        for index, band in enumerate((a, b, b - a)):
            sums[index] += float(np.vdot(band, band))
    return [math.sqrt(total) for total in sums], inner


def _all_lowrank(terms: Terms) -> bool:
    return all(_is_lowrank(delta) for delta, _ in terms)


def _is_lowrank(delta: Delta) -> bool:
    """Tells whether a delta has two factors that are smaller than the whole."""
    if delta.kind == "product":
        return 2 * delta.rank <= min(_matrix_shape([(delta, Fraction(1))]))
    return delta.kind == "lowrank"


def _factors(terms: Terms) -> tuple[Matrix, Matrix]:
    """Returns factors of a sum of low-rank deltas, side by side."""
    lefts, rights = [], []
    for delta, coefficient in terms:
        left, right = delta.matrices()
        lefts.append(left * float(coefficient * delta.scale))
        rights.append(right)
    return np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)


def _core(left: Matrix, right: Matrix) -> Matrix:
    """Returns a small matrix with the singular values of a product."""
    _, above = np.linalg.qr(left)
    _, below = np.linalg.qr(right.T)
    core: Matrix = above @ below.T
    return core


def _rank(terms: Terms) -> int:
    if not terms:
        return 0
    left, right = _factors(terms)
    values = np.linalg.svd(_core(left, right), compute_uv=False)
    scale = np.linalg.norm(left, axis=0) @ np.linalg.norm(right, axis=1)
    floor = float(scale) * max(left.shape[0], right.shape[1]) * np.finfo(np.float64).eps
    return int(np.count_nonzero(values > floor))


def _inner(a_terms: Terms, b_terms: Terms) -> float:
    if not a_terms or not b_terms:
        return 0.0
    (a_left, a_right), (b_left, b_right) = _factors(a_terms), _factors(b_terms)
    return float(np.vdot(a_left.T @ b_left, a_right @ b_right.T))


def _matrix_shape(terms: Terms) -> tuple[int, int]:
    shape = terms[0][0].shape
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def _bounds(terms: Terms) -> Iterator[tuple[int, int]]:
    rows, columns = _matrix_shape(terms)
    step = max(1, _BAND // max(1, columns))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _bands(terms: Terms, change: _Band) -> Iterator[Matrix]:
    for first, end in _bounds(terms):
        yield change(first, end)


def _band_of(terms: Terms, base: Tensor | None, columns: int) -> _Band:
    """Returns what gives the sum of deltas in a run of rows, flat."""
    parts = [(_single(delta, base), float(coefficient)) for delta, coefficient in terms]

    def band(first: int, end: int) -> Matrix:
        total = np.zeros((end - first) * columns)
        for part, coefficient in parts:
            total += coefficient * part(first, end)
        return total

    return band


def _single(delta: Delta, base: Tensor | None) -> _Band:
    """Returns what gives one delta's change in a run of rows, flat."""
    columns = _matrix_shape([(delta, Fraction(1))])[1]
    if delta.kind in KINDS:
        return band_of(delta, base)
    if delta.kind == "lowrank":
        left, right = _factors([(delta, Fraction(1))])
        return lambda first, end: (left[first:end] @ right).reshape(-1)
    if delta.kind == "dense":
        values = delta.values()
        return lambda first, end: widen(values.bits[first * columns : end * columns], values.dtype)
    if delta.kind == "sparse":
        return _sparse_band(delta, base, columns)
    if base is None or not base.dtype.arithmetic or base.shape != delta.shape:
        raise ShapeMismatch(f"a {delta.kind} delta has no difference from this base")
    new = decode_exact(delta, base) if delta.kind == "exact" else delta.values()
    if new.dtype is not base.dtype or new.shape != base.shape:
        raise ShapeMismatch(f"a {delta.kind} delta has no difference from this base")
    return lambda first, end: _difference(base, new, first * columns, end * columns)


def _difference(base: Tensor, new: Tensor, start: int, stop: int) -> Matrix:
    change = widen(new.bits[start:stop], new.dtype)
    change -= widen(base.bits[start:stop], base.dtype)
    return change


def _sparse_band(delta: Delta, base: Tensor | None, columns: int) -> _Band:
    positions, values = decode_sparse(delta, base)
    changes = widen(values.bits, values.dtype)
    if delta.header.values == "ordinal":
        if base is None:
            raise ObjectCorrupt("a sparse delta does not fit its base")
        changes = changes - widen(base.bits[positions], base.dtype)

    def band(first: int, end: int) -> Matrix:
        low, high = np.searchsorted(positions, (first * columns, end * columns)).tolist()
        total = np.zeros((end - first) * columns)
        total[positions[low:high] - first * columns] = changes[low:high]
        return total

    return band
