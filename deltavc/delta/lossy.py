"""Low-rank approximations of a change: smaller, and not exact.

Only by request: what is stored this way does not rebuild to the bits that were
committed. The error is measured on the factors as they are stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.factored import Form
from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import ieee
from deltavc.delta.ordinals import widen
from deltavc.delta.range_finder import Bands, Limits, approximation
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UsageError

__all__ = ["approximate"]


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
        the rank is within one of the smallest for slowly falling spectra. The bytes
        are the same on every machine.

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
    base = _checked(base, new)
    rows, columns = new.matrix_shape

    def change(first: int, end: int) -> NDArray[np.float64]:
        span = slice(first * columns, end * columns)
        values: NDArray[np.float64] = widen(new.bits[span], new.dtype)
        values -= widen(base.bits[span], base.dtype)
        return values

    limits = Limits(min(rows, columns, max_rank or rows), rel_error)
    with ieee():
        found = approximation(Bands(rows, columns, change), limits, Form.of(new.shape, []))
    return found.delta, found.error


def _checked(base: Tensor | None, new: Tensor) -> Tensor:
    """Returns the base, zeros if there is none."""
    if len(new.shape) < 2 or not new.count or not new.dtype.arithmetic:
        raise ShapeMismatch("only matrices of floats can be approximated", shape=list(new.shape))
    if base is None:
        base = Tensor(new.dtype, new.shape, np.zeros(new.count, dtype=new.dtype.bits))
    if base.dtype is not new.dtype or base.shape != new.shape:
        raise ShapeMismatch("a change of shape or dtype cannot be approximated")
    if not (base.is_finite() and new.is_finite()):
        raise NonFiniteTensor("a tensor with NaN or infinity cannot be approximated")
    return base
