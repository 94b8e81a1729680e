"""Low-rank factors of lower rank: approximate, and only by request."""

from __future__ import annotations

import math
from fractions import Fraction

from deltavc.delta.factored import Form, store
from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import ieee
from deltavc.delta.spectrum import Spectrum, Sum

__all__ = ["cut", "truncate"]


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
        float64 inside, the same bytes on every machine. The new scale is 1, as far as
        float32 can hold the factors then.

    Cost:
        O((rows + columns) · r² + r³) time.

    Source:
        Eckart and Young 1936 for the optimum.
    """
    if not rel_error and (max_rank is None or delta.rank <= max_rank):
        return delta, 0.0
    with ieee():
        total = Sum([[(delta, Fraction(1))]], "factors")
        spectrum = total.spectrum(total.core())
        form = Form.of(delta.shape, [delta])
        new, error, rank = cut(spectrum, form, max_rank=max_rank, rel_error=rel_error)
    return (new, error) if max(rank, 1) < delta.rank else (delta, 0.0)


def cut(
    spectrum: Spectrum,
    form: Form,
    *,
    max_rank: int | None = None,
    rel_error: float | None = None,
    dtype: str = "F32",
) -> tuple[Delta, float, int]:
    """Stores the leading triplets of a matrix within limits.

    Args:
        spectrum: The matrix.
        form: How the factors lie in the delta.
        max_rank: Largest rank; None for no bound.
        rel_error: The smallest rank that keeps within it is taken, rounding of the factors
            included, or the largest if none does.
        dtype: What the factors are stored in.

    Returns:
        The delta, its relative error in the Frobenius norm, and the rank.
    """
    tails = spectrum.parts.tails()
    whole = float(tails[0])
    most = spectrum.parts.rank
    most = most if max_rank is None else min(max_rank, most)
    rank = most
    if rel_error is not None:
        least = min(most, 1)
        rank = next((r for r in range(least, most) if tails[r] <= rel_error * whole), most)
    while True:
        stored = store(spectrum.first(rank), form, dtype)
        error = math.hypot(float(tails[rank]), stored.miss) / whole if whole else 0.0
        if rel_error is None or error <= rel_error or rank >= most:
            return stored.delta, error, rank
        rank += 1
