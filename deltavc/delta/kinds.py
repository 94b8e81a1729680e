"""The kinds of delta object, and how they are made.

A delta is the change of one parameter against the frozen base. This module
makes deltas of each kind from their parts; :mod:`deltavc.delta.body` holds what
a delta *is*, :mod:`deltavc.delta.encode` chooses among kinds,
:mod:`deltavc.delta.rebuild` adds deltas up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as replace_fields
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.body import Delta, Stream, from_body, make
from deltavc.delta.fits import PARAMS as ROTATION_PARAMS
from deltavc.delta.fits import PRODUCT_FORMS, check_header
from deltavc.delta.tensor import Tensor
from deltavc.errors import UnsupportedFormat
from deltavc.ids import BlobId
from deltavc.records.delta import (
    ColScaleHeader,
    DenseHeader,
    DoraHeader,
    LowRankHeader,
    ProductHeader,
    ReplaceHeader,
    RightMulHeader,
    RowScaleHeader,
    TensorInfo,
)
from deltavc.records.model import fraction_to_text

__all__ = [
    "Delta",
    "Stream",
    "colscale",
    "dense",
    "dora",
    "from_body",
    "lowrank",
    "make",
    "product",
    "replace",
    "replace_rows",
    "rightmul",
    "rowscale",
]


def lowrank(
    b: Tensor,
    a: Tensor,
    scale: Fraction,
    *,
    shape: tuple[int, ...],
    transposed: bool = False,
    layer: str = "linear",
) -> Delta:
    """Returns a low-rank delta from factors as found.

    Args:
        b: (out, r) or, for a convolution, (out, r, 1, …).
        a: (r, in) or (r, in, k, …).
        scale: alpha / r, or the nearest float64 to alpha / sqrt(r).
        shape: The parameter's shape.
        transposed: The parameter is the transpose of B @ A.
        layer: linear, embedding or conv.

    Returns:
        The delta.
    """
    return make(
        LowRankHeader,
        [Stream("b", b.raw(), b.dtype.size), Stream("a", a.raw(), a.dtype.size)],
        shape=shape,
        scale=fraction_to_text(scale),
        b_dtype=b.dtype.name,
        b_shape=b.shape,
        a_dtype=a.dtype.name,
        a_shape=a.shape,
        transposed=transposed,
        layer=layer,
    )


def dense(values: Tensor) -> Delta:
    """Returns the delta that adds finite values: of a new parameter, or of a merged one."""
    return make(
        DenseHeader,
        [Stream("values", values.raw(), values.dtype.size)],
        shape=values.shape,
        dtype=values.dtype.name,
    )


def replace(values: Tensor) -> Delta:
    """Returns a replacement of a whole parameter: any dtype, any shape, any bits."""
    return make(
        ReplaceHeader,
        [Stream("values", values.raw(), values.dtype.size)],
        shape=values.shape,
        dtype=values.dtype.name,
    )


def replace_rows(index: NDArray[np.uint64], values: Tensor, shape: tuple[int, ...]) -> Delta:
    """Returns a replacement of some rows: ascending row numbers and their values."""
    return make(
        ReplaceHeader,
        [
            Stream("index", np.ascontiguousarray(index, dtype="<u8").view(np.uint8).data, 8),
            Stream("values", values.raw(), values.dtype.size),
        ],
        shape=shape,
        dtype=values.dtype.name,
        rows=int(index.size),
    )


def rowscale(
    v: Tensor,
    offset: Fraction,
    *,
    shape: tuple[int, ...],
    shared: Mapping[str, BlobId] | None = None,
) -> Delta:
    """Returns scaled rows: ``diag(v + offset) * W0``.

    Args:
        v: One number for each row of the parameter as a matrix, in any shape.
        offset: What is added to each; -1 where v is what the weights are multiplied by.
        shape: The parameter's shape; one dimension, such as a bias's, is a matrix of one column.
        shared: ``v``, where its bytes are kept as a blob: a weight and its bias share it.

    Returns:
        The delta.

    Raises:
        ObjectCorrupt: ``v`` does not fit the shape.
    """
    told = fraction_to_text(offset)
    return _of_tensors(RowScaleHeader, {"v": v}, shared, shape=shape, offset=told)


def colscale(
    v: Tensor,
    offset: Fraction,
    *,
    shape: tuple[int, ...],
    shared: Mapping[str, BlobId] | None = None,
) -> Delta:
    """Returns scaled columns: ``W0 * diag(v + offset)``.

    Args:
        v: One number for each index of the parameter's second dimension, in any
            shape; for a convolution that is the input channel, and all its
            columns of the parameter as a matrix share the number.
        offset: What is added to each; -1 where v is what the weights are multiplied by.
        shape: The parameter's shape, of two dimensions or more.
        shared: ``v``, where its bytes are kept as a blob.

    Returns:
        The delta.

    Raises:
        ObjectCorrupt: ``v`` does not fit the shape.
    """
    told = fraction_to_text(offset)
    return _of_tensors(ColScaleHeader, {"v": v}, shared, shape=shape, offset=told)


def dora(
    b: Tensor,
    a: Tensor,
    m: Tensor,
    gain: NDArray[np.float64] | None,
    scale: Fraction,
    *,
    shape: tuple[int, ...],
    transposed: bool = False,
    layer: str = "linear",
) -> Delta:
    """Returns a low-rank change with a gain: ``diag(gain) * (W0 + scale * B @ A) - W0``.

    Args:
        b: As for :func:`lowrank`.
        a: As for :func:`lowrank`.
        m: The magnitude as found, one number for each output feature, in any shape.
        gain: The magnitude over the norm, see :func:`deltavc.delta.dora.gains`; None to
            leave it to each rebuild, which takes a pass over the base more.
        scale: As for :func:`lowrank`.
        shape: The parameter's shape.
        transposed: The parameter is the transpose of B @ A; gains are then of its columns.
        layer: linear, embedding or conv.

    Returns:
        The delta.

    Raises:
        ObjectCorrupt: The tensors do not fit the shape.
    """
    tensors = {"a": a, "b": b, "m": m}
    if gain is not None:
        tensors["gain"] = Tensor.from_array(gain)
    return _of_tensors(
        DoraHeader,
        tensors,
        shape=shape,
        scale=fraction_to_text(scale),
        transposed=transposed,
        layer=layer,
    )


def product(
    form: str,
    tensors: Mapping[str, Tensor],
    scale: Fraction,
    *,
    shape: tuple[int, ...],
    transposed: bool = False,
    layer: str = "linear",
    shared: Mapping[str, BlobId] | None = None,
) -> Delta:
    """Returns a low-rank change in another factored form.

    Args:
        form: ``hadamard`` (w1a, w1b, w2a, w2b), ``kron`` (w1 or w1a and w1b; w2, or w2a and
            w2b, or these with t2), ``vera`` (a, b, lambda_b, lambda_d), ``adalora`` (a, b, e)
            or ``experts`` (a, b: those of each matrix of a stack).
        tensors: Its tensors by name, as found; the shared ones too.
        scale: What the product is multiplied by.
        shape: The parameter's shape.
        transposed: The parameter is the transpose of the product; not for ``kron``.
        layer: linear, embedding or conv.
        shared: Names of tensors whose bytes are kept as blobs, once for several deltas.

    Returns:
        The delta.

    Raises:
        UnsupportedFormat: The form is unknown, or its two factors are not exact in float64.
        ObjectCorrupt: The tensors do not fit the form and the shape.
        NonFiniteTensor: A tensor holds NaN or infinity.
    """
    from deltavc.delta.product import check_exact

    if form not in PRODUCT_FORMS or (form == "kron" and transposed):
        raise UnsupportedFormat(
            f"a product of the form '{form}' has no compact form{' transposed' * transposed}",
            hint="store the changed weights as exact",
        )
    delta = _of_tensors(
        ProductHeader,
        tensors,
        shared or {},
        form=form,
        shape=shape,
        scale=fraction_to_text(scale),
        transposed=transposed,
        layer=layer,
    )
    check_exact(delta)
    return delta


def rightmul(
    form: str,
    tensors: Mapping[str, Tensor],
    params: Mapping[str, int] | None = None,
    *,
    shape: tuple[int, ...],
    transposed: bool = False,
) -> Delta:
    """Returns a rotation of the parameter's rows: ``W0 * M``.

    Args:
        form: ``oft`` (r; params ball, direct, share, terms), ``boft`` (r, s) or ``hra`` (u;
            param orthogonal).
        tensors: Its tensors by name, as found.
        params: ``terms``: length of the truncated Cayley series, 0 for the whole
            (``num_cayley_neumann_terms`` with ``use_cayley_neumann``); ``share``: 1 where all
            blocks are the same (``block_share``); ``direct``: 1 for W0 * R (embeddings)
            instead of W0 * R^T; ``ball``: the bits of a float64, the size to which blocks
            are shrunk (``coft``); ``orthogonal``: 1 where the vectors are made orthogonal
            first (``apply_GS``). A parameter that is 0 may be left out.
        shape: The parameter's shape.
        transposed: Not supported.

    Returns:
        The delta.

    Raises:
        UnsupportedFormat: The form, a parameter or ``transposed`` is not supported, or the
            rotation is too wild for float64.
        ObjectCorrupt: The tensors do not fit the form and the shape.
        NonFiniteTensor: A tensor holds NaN or infinity.
    """
    from deltavc.delta.rotations import check_rotation

    given = {name: int(value) for name, value in (params or {}).items() if value}
    if transposed or not given.keys() <= ROTATION_PARAMS.get(form, frozenset()):
        what = "a transposed weight" if transposed else f"{sorted(given)}"
        raise UnsupportedFormat(
            f"a rotation of the form '{form}' with {what} has no compact form",
            hint="store the rotated weights as exact",
        )
    delta = _of_tensors(RightMulHeader, tensors, form=form, shape=shape, params=given)
    check_rotation(delta)
    return delta


def _of_tensors(
    header: Any,
    tensors: Mapping[str, Tensor],
    shared: Mapping[str, BlobId] | None = None,
    **fields: Any,
) -> Delta:
    """Returns a delta that holds tensors as found, in the order of their names."""
    blobs = shared or {}
    infos = {n: TensorInfo(t.dtype.name, t.shape, blobs.get(n, "")) for n, t in tensors.items()}
    streams = {n: Stream(n, tensors[n].raw(), tensors[n].dtype.size) for n in sorted(tensors)}
    own = [stream for name, stream in streams.items() if name not in blobs]
    delta = make(header, own, tensors=infos, **fields)
    check_header(delta.header)
    return replace_fields(delta, shared=tuple(streams[n] for n in sorted(blobs)))
