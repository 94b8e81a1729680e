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
    "DeltaHeader",
    "DenseHeader",
    "ExactHeader",
    "LowRankHeader",
    "ReplaceHeader",
    "SparseHeader",
    "StreamInfo",
]


class StreamInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name and length in bytes of one stream."""

    name: str
    length: int


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
    """Finite values of a parameter that the base lacks; stream ``values`` in ``dtype``."""

    dtype: str


class ReplaceHeader(_Header, frozen=True, tag_field="kind", tag="replace", kw_only=True):
    """Bytes that stand instead of the base's: all, or whole rows of it.

    Stream ``values`` holds the bytes in ``dtype``. With ``rows`` > 0 the stream
    ``index`` holds that many ascending u64 row numbers and ``values`` just those rows.
    """

    dtype: str
    rows: int = 0


DeltaHeader = LowRankHeader | ExactHeader | SparseHeader | DenseHeader | ReplaceHeader
