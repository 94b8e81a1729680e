"""Changes of scaled, rotated and factored kinds as float64, a run of rows at a time.

For people who compare versions: plain arithmetic, not the certified sum.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.body import Delta
from deltavc.delta.contributions import contribution
from deltavc.delta.exactsum import Vector
from deltavc.delta.ordinals import widen
from deltavc.delta.rounding_terms import Blocks, ExtraTerm, Gained, Hadamard, Kronecker, Scaled
from deltavc.delta.tensor import Tensor
from deltavc.errors import InternalError

__all__ = ["band_of"]

Band = Callable[[int, int], NDArray[np.float64]]


def band_of(delta: Delta, base: Tensor | None) -> Band:
    """Returns what gives a delta's change in a run of rows, flat.

    Args:
        delta: A delta of one of :data:`deltavc.delta.contributions.KINDS`.
        base: The base's tensor.

    Returns:
        A function of the first row and the row after the last.

    Raises:
        ShapeMismatch: The delta needs the base's tensor and does not fit it.
    """
    parts = contribution(delta, Fraction(1), base, "")
    bands = [_extra_band(extra) for extra in parts.extras]

    def band(first: int, end: int) -> NDArray[np.float64]:
        total = np.zeros((end - first, int(np.prod(delta.shape[1:], dtype=np.int64))))
        if parts.share and base is not None:
            total += float(parts.share) * _rows(base, first, end)
        for term in parts.factors:
            total += float(term.coefficient) * (term.left[first:end] @ term.right)
        for extra, part in zip(parts.extras, bands, strict=True):
            total += float(extra.coefficient) * part(first, end)
        return total.reshape(-1)

    return band


def _rows(values: Tensor, first: int, end: int) -> Vector:
    columns = values.matrix_shape[1]
    found = widen(values.bits[first * columns : end * columns], values.dtype)
    return found.reshape(end - first, columns)


def _extra_band(term: ExtraTerm) -> Band:
    if isinstance(term, Scaled):
        scaled = term  # the closures below keep what each is
        gain = scaled.gain[None] if scaled.axis else scaled.gain[:, None]
        return lambda first, end: (
            _rows(scaled.values, first, end) * (gain if scaled.axis else gain[first:end])
        )
    if isinstance(term, Gained):
        left = term.left if term.axis else term.left * term.gain[:, None]
        right = term.right * term.gain if term.axis else term.right
        return lambda first, end: left[first:end] @ right
    if isinstance(term, Blocks):
        return _block_band(term)
    if isinstance(term, Hadamard):
        (a, b), (c, d) = term.first, term.second
        return lambda first, end: (a[first:end] @ b) * (c[first:end] @ d)
    if not isinstance(term, Kronecker):
        raise InternalError(f"a term of the kind {type(term).__name__} has no band")
    outer, inner = (
        one if other is None else one @ other
        for one, other in (term.factors.first, term.factors.second)
    )

    def kron(first: int, end: int) -> NDArray[np.float64]:
        high, low = np.divmod(np.arange(first, end), inner.shape[0])
        found: NDArray[np.float64] = outer[high][:, :, None] * inner[low][:, None]
        return found.reshape(end - first, -1)

    return kron


def _block_band(term: Blocks) -> Band:
    def band(first: int, end: int) -> NDArray[np.float64]:
        values = _rows(term.values, first, end)
        values[~np.isfinite(values)] = 0.0
        blocks = values.reshape(end - first, -1, term.size).transpose(1, 0, 2) @ term.blocks
        found = blocks.transpose(1, 0, 2).reshape(end - first, -1)
        return found if term.gain is None else found * term.gain[first:end, None]

    return band
