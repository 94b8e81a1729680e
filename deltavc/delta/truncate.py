"""Low-rank factors of lower rank: approximate, and only by request."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor

__all__ = ["truncate"]

Matrix = NDArray[np.float64]


def truncate(
    delta: Delta, *, max_rank: int | None = None, rel_error: float | None = None
) -> tuple[Delta, float]:
    """Returns low-rank factors within bounds, and the error that they have.

    Works on the factors alone: QR of both, then an SVD of the small core, so
    the full matrix is never formed.

    Args:
        delta: A low-rank delta.
        max_rank: Largest rank; None for no bound.
        rel_error: Largest ‖new − old‖ / ‖old‖; the smallest rank that keeps it is taken.

    Returns:
        The delta itself with error 0 when its rank is within the bounds already;
        else new factors in float32 and the relative Frobenius error measured on them.

    Numerics:
        float64 inside. The new scale is 1.

    Cost:
        O((rows + columns) · r² + r³) time.

    Source:
        Eckart and Young 1936 for the optimum.
    """
    if rel_error is None and (max_rank is None or delta.rank <= max_rank):
        return delta, 0.0
    left, right = delta.matrices()
    left = left * float(delta.scale)
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, s, v = np.linalg.svd(r_left @ r_right.T)
    rank = _rank(s, max_rank, rel_error)
    if rank >= delta.rank:
        return delta, 0.0
    root = np.sqrt(s[:rank])
    new_left = (q_left @ u[:, :rank] * root).astype(np.float32)
    new_right = (root[:, None] * (v[:rank] @ q_right.T)).astype(np.float32)
    error = _error(left, right, new_left, new_right)
    return _like(delta, new_left, new_right), error


def _rank(singular: Matrix, max_rank: int | None, rel_error: float | None) -> int:
    """Returns the smallest rank within the error, at least 1, at most the bound."""
    rank = singular.size
    if rel_error is not None:
        tail = np.sqrt(np.cumsum(singular[::-1] ** 2))[::-1]  # norm of what is left out from i on
        within = np.flatnonzero(tail <= rel_error * tail[0]) if tail.size else np.empty(0)
        rank = int(within[0]) if within.size else singular.size
    if max_rank is not None:
        rank = min(rank, max_rank)
    return max(rank, 1)


def _error(left: Matrix, right: Matrix, new_left: Matrix, new_right: Matrix) -> float:
    """Returns the relative error of the stored factors, from the difference as one factor pair."""
    stacked_left = np.hstack([left, -new_left.astype(np.float64)])
    stacked_right = np.vstack([right, new_right.astype(np.float64)])
    old = _norm(left, right)
    return _norm(stacked_left, stacked_right) / old if old else 0.0


def _norm(left: Matrix, right: Matrix) -> float:
    _, core_left = np.linalg.qr(left)
    _, core_right = np.linalg.qr(right.T)
    return float(np.linalg.norm(core_left @ core_right.T))


def _like(delta: Delta, left: NDArray[np.float32], right: NDArray[np.float32]) -> Delta:
    """Returns a delta with these factors in the orientation of another one."""
    header = delta.header
    rank = left.shape[1]
    if header.transposed:
        left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
    b_shape = (header.b_shape[0], rank, *header.b_shape[2:])
    a_shape = (rank, *header.a_shape[1:])
    return lowrank(
        Tensor.from_array(left.reshape(b_shape)),
        Tensor.from_array(right.reshape(a_shape)),
        Fraction(1),
        shape=header.shape,
        transposed=header.transposed,
        layer=header.layer,
    )
