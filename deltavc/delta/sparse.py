"""Sparse deltas: the few elements that changed.

With values ``ordinal`` a sparse delta leads from one base tensor to other bits
exactly; with ``float`` it is a change by itself, for any base.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.exact import Coded
from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import ordinals, unfold
from deltavc.delta.residual import Residual, decode_gaps, decode_sparse_values, encode_gaps
from deltavc.delta.tensor import DTYPES, DType, Tensor
from deltavc.errors import ObjectCorrupt
from deltavc.records.delta import SparseHeader

__all__ = ["decode_sparse", "sparse_change", "sparse_ordinal"]


def sparse_ordinal(shape: tuple[int, ...], dtype: DType, coded: Coded, base_sha256: str) -> Delta:
    """Returns the sparse delta of a residual against the base itself, coded by gaps.

    Args:
        shape: The parameter's shape.
        dtype: Its dtype.
        coded: The residual, from no predictor and not grouped.
        base_sha256: SHA-256 of the base tensor's bytes.
    """
    return kinds.make(
        SparseHeader,
        coded.streams,
        shape=shape,
        dtype=dtype.name,
        count=coded.params["count"],
        base=base_sha256,
        width=coded.params["width"],
    )


def sparse_change(shape: tuple[int, ...], positions: NDArray[np.int64], changes: Tensor) -> Delta:
    """Returns a sparse delta that adds values by itself, for any base.

    Args:
        shape: The parameter's shape.
        positions: Ascending flat positions.
        changes: What is added there, one finite value for each position.
    """
    marks = np.zeros(int(np.prod(shape, dtype=np.int64)), dtype=np.uint8)
    marks[positions] = 1
    gaps, escapes, _ = encode_gaps(Residual.of(marks))[0]
    return kinds.make(
        SparseHeader,
        [gaps, escapes, Stream("values", changes.raw(), changes.dtype.size)],
        shape=shape,
        dtype=changes.dtype.name,
        count=int(positions.size),
        values="float",
        width=changes.dtype.size,
    )


def decode_sparse(delta: Delta, base: Tensor | None) -> tuple[NDArray[np.int64], Tensor]:
    """Reads where a sparse delta changes a parameter, and what it makes there.

    Args:
        delta: A sparse delta.
        base: The base tensor; not needed for values ``float``.

    Returns:
        Ascending flat positions, and at them: for ``ordinal`` the new values,
        for ``float`` the changes. The tensor is flat.

    Raises:
        ObjectCorrupt: The delta is malformed or does not fit the base. Only the
            caller can know that the base is the recorded one.
    """
    header = delta.header
    if not isinstance(header, SparseHeader):
        raise ObjectCorrupt(f"a {delta.kind} delta is not a sparse one")
    dtype = DTYPES.get(header.dtype)
    if dtype is None or not dtype.arithmetic or any(dim < 0 for dim in header.shape):
        raise ObjectCorrupt(f"a sparse delta has the dtype '{header.dtype[:20]}'")
    limit = 1
    for dim in header.shape:
        limit *= dim
    positions = decode_gaps(delta, header.count, limit)
    values = decode_sparse_values(delta, dtype, header.count, header.width)
    if header.values == "float" and header.width == dtype.size:
        changes = Tensor(dtype, (header.count,), values)
        if not changes.is_finite():
            raise ObjectCorrupt("a sparse delta adds what is not a finite number")
        return positions, changes
    if header.values != "ordinal":
        raise ObjectCorrupt(f"a sparse delta has the unknown values '{header.values[:20]}'")
    if base is None or dtype is not base.dtype or header.shape != base.shape:
        raise ObjectCorrupt("a sparse delta does not fit its base", shape=list(header.shape))
    moved = unfold(values)
    moved += ordinals(base.bits[positions])
    return positions, Tensor(dtype, (header.count,), ordinals(moved))
