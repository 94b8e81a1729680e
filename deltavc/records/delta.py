"""Headers of delta objects.

The body of a ``delta`` object is its header as one line of canonical JSON, a
newline, and the streams one after another, each as long as the header's
``streams`` says. What the streams mean is told at each header; numbers are
little-endian throughout.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "ColScaleHeader",
    "DeltaHeader",
    "DenseHeader",
    "DoraHeader",
    "ExactHeader",
    "LowRankHeader",
    "ProductHeader",
    "ReplaceHeader",
    "RightMulHeader",
    "RowScaleHeader",
    "SparseHeader",
    "StreamInfo",
    "TensorInfo",
]


class StreamInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name and length in bytes of one stream."""

    name: str
    length: int


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Form of a tensor that a delta holds in the stream of the same name.

    With ``blob`` its bytes are those of the blob object of this id, which
    several deltas share, and there is no stream.
    """

    dtype: str
    shape: tuple[int, ...]
    blob: str = ""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    shape: tuple[int, ...]
    streams: tuple[StreamInfo, ...]


class LowRankHeader(_Header, frozen=True, tag_field="kind", tag="lowrank", kw_only=True):
    """Low-rank factors: ``delta = scale * B @ A``, reshaped, transposed where said.

    ``shape`` is the parameter's shape. Stream ``b`` holds B as stored in
    ``b_dtype`` and ``b_shape``, stream ``a`` holds A. With B flattened to
    (b_shape[0], r) and A to (r, rest), the product has B's rows and A's columns;
    ``transposed`` means that the parameter is the transpose of that product
    (fan_in_fan_out, embeddings). ``layer`` is what the adapter's layer was:
    ``linear``, ``embedding`` or ``conv``.
    """

    scale: str
    b_dtype: str
    b_shape: tuple[int, ...]
    a_dtype: str
    a_shape: tuple[int, ...]
    transposed: bool = False
    layer: str = "linear"


class ExactHeader(_Header, frozen=True, tag_field="kind", tag="exact", kw_only=True):
    """The change from a base tensor to the very bits of another one.

    ``base`` and ``result`` are the SHA-256 of the two tensors' bytes and
    ``check`` is the xxh3-64 of the result (hex). ``coding`` names the residual
    coder and ``params`` its settings, predictor included; the streams are told
    in the format's page on deltas.
    """

    dtype: str
    base: str
    result: str
    check: str
    coding: str
    params: dict[str, Any] = {}


class SparseHeader(_Header, frozen=True, tag_field="kind", tag="sparse", kw_only=True):
    """A change of ``count`` elements.

    Stream ``gaps`` holds for each changed element, in flat order, the distance
    to the one before minus one as u8, 255 standing for the next u64 of
    ``escapes``. With ``values`` = ``ordinal`` the stream ``values`` holds the
    zigzag difference of the ordered bit patterns against the base tensor whose
    bytes have SHA-256 ``base``; with ``float`` it holds the change itself in
    ``dtype`` and no base is needed.
    """

    dtype: str
    count: int
    values: str = "ordinal"
    base: str = ""
    width: int = 0


class DenseHeader(_Header, frozen=True, tag_field="kind", tag="dense", kw_only=True):
    """Finite values that are added, to zeros where the base lacks the parameter; in ``dtype``."""

    dtype: str


class ReplaceHeader(_Header, frozen=True, tag_field="kind", tag="replace", kw_only=True):
    """Bytes that stand instead of the base's: all, or whole rows of it.

    Stream ``values`` holds the bytes in ``dtype``. With ``rows`` > 0 the stream
    ``index`` holds that many ascending u64 row numbers and ``values`` just those rows.
    """

    dtype: str
    rows: int = 0


class RowScaleHeader(_Header, frozen=True, tag_field="kind", tag="rowscale", kw_only=True):
    """Scaled rows: ``delta = diag(v + offset) * W0``.

    Tensor ``v`` has one number for each row of the parameter as a matrix.
    """

    tensors: dict[str, TensorInfo]
    offset: str = "0"


class ColScaleHeader(_Header, frozen=True, tag_field="kind", tag="colscale", kw_only=True):
    """Scaled columns: ``delta = W0 * diag(v + offset)``.

    Tensor ``v`` has one number for each index of the parameter's second
    dimension; for a convolution all columns of one input channel share theirs.
    """

    tensors: dict[str, TensorInfo]
    offset: str = "0"


class DoraHeader(_Header, frozen=True, tag_field="kind", tag="dora", kw_only=True):
    """Low-rank change with a gain: ``delta = diag(gain) * (W0 + scale * B @ A) - W0``.

    Tensors ``b`` and ``a`` are as in ``lowrank``, ``m`` is the magnitude as found and
    ``gain`` (F64) the magnitude over the norm: one for each row of the parameter as a
    matrix, for each column with ``transposed``. Without ``gain`` it follows from ``m``
    and the base; with it ``m`` has no bearing on the numbers.
    """

    scale: str
    tensors: dict[str, TensorInfo]
    transposed: bool = False
    layer: str = "linear"


class ProductHeader(_Header, frozen=True, tag_field="kind", tag="product", kw_only=True):
    """A low-rank change in another factored form, named by ``form``, times ``scale``.

    The forms ``hadamard``, ``kron``, ``vera`` and ``adalora`` and their tensors
    are told in the format's page on deltas.
    """

    form: str
    scale: str
    tensors: dict[str, TensorInfo]
    transposed: bool = False
    layer: str = "linear"


class RightMulHeader(_Header, frozen=True, tag_field="kind", tag="rightmul", kw_only=True):
    """A rotation of the rows: ``delta = W0 * M``, or ``diag(s) * W0 * (I + M) - W0``.

    M is a function of the tensors by ``form`` (``oft``, ``boft``, ``hra``) and
    ``params``, told in the format's page on deltas; it is not stored.
    """

    form: str
    tensors: dict[str, TensorInfo]
    params: dict[str, int] = {}


DeltaHeader = (
    LowRankHeader
    | ExactHeader
    | SparseHeader
    | DenseHeader
    | ReplaceHeader
    | RowScaleHeader
    | ColScaleHeader
    | DoraHeader
    | ProductHeader
    | RightMulHeader
)
