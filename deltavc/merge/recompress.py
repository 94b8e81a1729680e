"""Recompression: one pair of low-rank factors for any increment, no longer than it must be.

Sums of low-rank deltas are cut in the space of their factors, by QR and the
singular values of a small core. What has no factors (the result of an element-wise
strategy, a full fine-tune) goes through a randomised range finder first. A
dense singular value decomposition is never made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from deltavc.delta.factored import Form
from deltavc.delta.kinds import Delta
from deltavc.delta.ordered import ieee
from deltavc.delta.rebuild import Term
from deltavc.delta.spectrum import FACTORED, Sum
from deltavc.delta.tensor import DTYPES
from deltavc.delta.truncate import cut
from deltavc.errors import (
    MergeConflict,
    NonFiniteTensor,
    ShapeMismatch,
    UnsupportedFormat,
    UsageError,
)
from deltavc.merge.strategy import Parameter

__all__ = ["Recompressed", "limits", "recompress"]

EXACT = 1e-6  # error allowed without limits where there are no factors: values are float32


class Recompressed(NamedTuple):
    """A low-rank delta instead of a sum.

    Attributes:
        delta: The delta, of scale 1 unless its dtype could not hold the factors then.
        error: ‖stored − sum‖ / ‖sum‖ in the Frobenius norm, rounding included.
        rank: Its rank; 0 where the sum is zero (the delta then holds one pair of zeros).
    """

    delta: Delta
    error: float
    rank: int


def recompress(
    parameter: Parameter,
    terms: Sequence[Term],
    *,
    max_rank: int | None = None,
    rel_error: float | None = None,
    dtype: str = "F32",
) -> Recompressed:
    """Returns a low-rank delta near a formal sum, and how far it is from it.

    Args:
        parameter: The parameter.
        terms: The sum; never empty.
        max_rank: Largest rank; None for no bound.
        rel_error: The smallest rank that keeps within it is taken. Both limits given, the
            rank's goes first. With neither, what is left out is numerically zero.
        dtype: What the factors are stored in: F32, BF16 or F16.

    Returns:
        The delta, its measured relative error, and its rank.

    Numerics:
        The rounding of the factors (some 3e-8 in F32) is part of the error, so that an error
        below it is never reached. Equal bytes on every machine.

    Cost:
        O((rows + columns) · r²) for low-rank deltas of rank r in all; several passes over the
        values for others.

    Raises:
        UsageError: A limit is out of range, or the error cannot be kept by factors that are
            smaller than the values.
        UnsupportedFormat: The parameter is no matrix.
        ShapeMismatch: A delta does not fit the parameter.
        MergeConflict: A delta replaces instead of adding.
        NonFiniteTensor: A number is NaN or infinite.
    """
    limits(max_rank, rel_error)
    _check(parameter, terms)
    if any(term.delta.kind not in FACTORED for term in terms):
        return _of_values(parameter, terms, max_rank, rel_error, dtype)
    form = Form.of(parameter.shape, [term.delta for term in terms])
    with ieee():
        total = Sum([[(term.delta, term.coefficient) for term in terms]], parameter.name)
        spectrum = total.spectrum(total.core())
        delta, error, rank = cut(
            spectrum, form, max_rank=max_rank, rel_error=rel_error, dtype=dtype
        )
    return Recompressed(delta, error, rank)


def _of_values(
    parameter: Parameter,
    terms: Sequence[Term],
    max_rank: int | None,
    rel_error: float | None,
    dtype: str,
) -> Recompressed:
    """Recompresses what has no factors."""
    from deltavc.delta.increment import Increment
    from deltavc.delta.range_finder import Bands, Limits, approximation

    name, (rows, columns) = parameter.name, parameter.matrix_shape
    increment = Increment(parameter.base, terms, parameter.shape, name=name)
    bands = Bands(rows, columns, lambda a, z: increment.values(a * columns, z * columns))
    # Beyond it the factors are no smaller than the values in the parameter's dtype.
    even = rows * columns * parameter.dtype.size // ((rows + columns) * DTYPES[dtype].size)
    error = EXACT if rel_error is None and max_rank is None else rel_error
    rank = min(rows, columns, max(1, even) if max_rank is None else max_rank)
    with ieee():
        if not math.isfinite(bands.largest()):
            raise NonFiniteTensor(
                f"a change of '{name}' is not finite, which has no low-rank factors",
                parameter=name,
            )
        found = approximation(bands, Limits(rank, error), Form.of(parameter.shape, []), dtype)
    if max_rank is None and error is not None and found.error > error:
        raise UsageError(
            f"'{name}' needs a rank above {rank} for a relative error of {error:g}, where its"
            " factors are no smaller than its values",
            hint="allow a larger --rel-error, give --max-rank, or leave both out",
            parameter=name,
            rank=rank,
            error=found.error,
        )
    return Recompressed(found.delta, found.error, found.rank)


def limits(max_rank: int | None, rel_error: float | None) -> None:
    """Refuses limits that no factors could keep.

    Args:
        max_rank: Largest rank.
        rel_error: Largest relative error.

    Raises:
        UsageError: The rank is below 1, or the error is not from 0 to 1.
    """
    if max_rank is not None and max_rank < 1:
        raise UsageError(
            f"a rank of {max_rank} holds nothing", hint="give a rank of at least 1", found=max_rank
        )
    if rel_error is not None and not 0 <= rel_error < 1:
        raise UsageError(
            f"a relative error of {rel_error:g} is out of range",
            hint="give an error of at least 0 and below 1",
            found=str(rel_error),
        )


def _check(parameter: Parameter, terms: Sequence[Term]) -> None:
    name = parameter.name
    if len(parameter.shape) < 2 or not parameter.dtype.arithmetic or not parameter.count:
        raise UnsupportedFormat(
            f"'{name}' is no matrix of floats, which alone has low-rank factors",
            hint="leave --max-rank and --rel-error out for it",
            parameter=name,
        )
    if not terms:
        raise UsageError(f"'{name}' has no change to recompress")
    for term in terms:
        if term.delta.kind == "replace":
            raise MergeConflict(
                f"'{name}' is replaced, which has no low-rank factors",
                hint=f"take one side: --resolve '{name}=ours'",
                parameter=name,
            )
        if term.delta.shape != parameter.shape:
            raise ShapeMismatch(
                f"'{name}' has the shape {list(parameter.shape)}, and a change of"
                f" {list(term.delta.shape)} does not fit it",
                parameter=name,
                expected=list(parameter.shape),
                found=list(term.delta.shape),
            )
