"""The kinds of delta object, and their bodies.

A delta is the change of one parameter against the frozen base. This module
holds what a delta *is*; :mod:`deltavc.delta.encode` makes them,
:mod:`deltavc.delta.rebuild` adds them up. Bodies are told in
``docs/reference/format/delta.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import Buffer, object_id
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt
from deltavc.ids import DeltaId
from deltavc.records import canonical
from deltavc.records.delta import (
    DeltaHeader,
    DenseHeader,
    ExactHeader,
    LowRankHeader,
    ReplaceHeader,
    SparseHeader,
    StreamInfo,
)
from deltavc.records.model import fraction_from_text, fraction_to_text

__all__ = [
    "ADDITIVE",
    "Delta",
    "Stream",
    "dense",
    "from_body",
    "lowrank",
    "replace",
    "replace_rows",
]

MAX_HEADER = 1 << 20
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(DeltaHeader)
ADDITIVE = (LowRankHeader, ExactHeader, SparseHeader, DenseHeader)


@dataclass(frozen=True)
class Stream:
    """One stream of a delta's body.

    Attributes:
        name: Its name in the header.
        data: Its bytes.
        planes: Width in bytes of the elements whose byte planes compress
            better apart; 1 for none. A hint to the store, not part of the body.
    """

    name: str
    data: Buffer
    planes: int = 1

    @property
    def length(self) -> int:
        """Length in bytes."""
        return memoryview(self.data).nbytes


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta: its header and its streams."""

    header: Any  # one of DeltaHeader
    streams: tuple[Stream, ...]

    def stream(self, name: str) -> memoryview:
        """Returns the bytes of the stream of this name.

        Args:
            name: The stream's name.

        Returns:
            Its bytes.

        Raises:
            ObjectCorrupt: There is none.
        """
        for stream in self.streams:
            if stream.name == name:
                return memoryview(stream.data).cast("B")
        raise ObjectCorrupt(f"a {self.kind} delta lacks its stream '{name}'")

    @property
    def kind(self) -> str:
        """Kind by name: lowrank, exact, sparse, dense, replace."""
        return str(self.header.__struct_config__.tag)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        shape: tuple[int, ...] = self.header.shape
        return shape

    def parts(self) -> list[Buffer]:
        """Returns the body in parts: header line, then the streams."""
        return [canonical.encode(self.header) + b"\n", *(s.data for s in self.streams)]

    def id(self) -> DeltaId:
        """Returns the object id."""
        return DeltaId(object_id("delta", self.parts()))

    # low-rank factors -----------------------------------------------------

    @property
    def scale(self) -> Fraction:
        """Scale of low-rank factors."""
        return fraction_from_text(self.header.scale)

    def factor(self, name: str) -> Tensor:
        """Returns the factor ``b`` or ``a`` of a low-rank delta, as found."""
        header: LowRankHeader = self.header
        dtype = DTYPES[header.b_dtype if name == "b" else header.a_dtype]
        shape = header.b_shape if name == "b" else header.a_shape
        return Tensor.from_buffer(dtype, shape, self.stream(name))

    @property
    def rank(self) -> int:
        """Inner dimension of low-rank factors."""
        header: LowRankHeader = self.header
        return header.a_shape[0]

    def matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns float64 factors (L, R) with parameter matrix = scale * L @ R.

        Shapes:
            L: (rows, r), R: (r, columns), where (rows, columns) is the
            parameter seen as a matrix: first dimension, product of the others.
        """
        header: LowRankHeader = self.header
        b = self.factor("b").to_float64().reshape(header.b_shape[0], -1)
        a = self.factor("a").to_float64().reshape(header.a_shape[0], -1)
        if header.transposed:
            b, a = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
        return b, a

    # whole values ---------------------------------------------------------

    def values(self) -> Tensor:
        """Returns the values of a dense delta or a replacement (of its rows, if by rows)."""
        header = self.header
        shape = header.shape
        if isinstance(header, ReplaceHeader) and header.rows:
            shape = (header.rows, *header.shape[1:])
        return Tensor.from_buffer(DTYPES[header.dtype], shape, self.stream("values"))

    def row_index(self) -> NDArray[np.uint64]:
        """Returns the row numbers of a replacement by rows."""
        return np.frombuffer(self.stream("index"), dtype="<u8")


def _delta(make: Any, streams: Sequence[Stream], **fields: Any) -> Delta:
    infos = tuple(StreamInfo(s.name, s.length) for s in streams)
    return Delta(make(streams=infos, **fields), tuple(streams))


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
    return _delta(
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
    """Returns the delta of a parameter that the base lacks, from finite values."""
    return _delta(
        DenseHeader,
        [Stream("values", values.raw(), values.dtype.size)],
        shape=values.shape,
        dtype=values.dtype.name,
    )


def replace(values: Tensor) -> Delta:
    """Returns a replacement of a whole parameter: any dtype, any shape, any bits."""
    return _delta(
        ReplaceHeader,
        [Stream("values", values.raw(), values.dtype.size)],
        shape=values.shape,
        dtype=values.dtype.name,
    )


def replace_rows(index: NDArray[np.uint64], values: Tensor, shape: tuple[int, ...]) -> Delta:
    """Returns a replacement of some rows: ascending row numbers and their values."""
    return _delta(
        ReplaceHeader,
        [
            Stream("index", np.ascontiguousarray(index, dtype="<u8").view(np.uint8).data, 8),
            Stream("values", values.raw(), values.dtype.size),
        ],
        shape=shape,
        dtype=values.dtype.name,
        rows=int(index.size),
    )


def make(header_type: Any, streams: Sequence[Stream], **fields: Any) -> Delta:
    """Returns a delta of any kind from its streams and header fields."""
    return _delta(header_type, streams, **fields)


def from_body(body: memoryview) -> Delta:
    """Reads a delta from an object's body without copying its streams.

    Args:
        body: The body, already checked against its id.

    Returns:
        The delta.

    Raises:
        ObjectCorrupt: The body is not that of a delta.
    """
    end = bytes(body[:MAX_HEADER]).find(b"\n")
    if end < 0:
        raise ObjectCorrupt("a delta has no header line")
    line = bytes(body[:end])
    try:
        header = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        raise ObjectCorrupt(f"a delta's header cannot be read: {error}") from error
    if canonical.encode(header) != line:
        raise ObjectCorrupt("a delta's header is not in canonical form")
    streams, at = [], end + 1
    for info in header.streams:
        streams.append(Stream(info.name, body[at : at + info.length]))
        at += info.length
    if at != body.nbytes:
        raise ObjectCorrupt("a delta's streams do not fill its body")
    _check(header)
    return Delta(header, tuple(streams))


def _size(shape: tuple[int, ...], dtype: str) -> int:
    count = 1
    for dim in shape:
        if dim < 0:
            raise ObjectCorrupt("a delta has a negative dimension")
        count *= dim
    if dtype not in DTYPES:
        raise ObjectCorrupt(f"a delta has the unknown dtype '{dtype[:20]}'")
    return count * DTYPES[dtype].size


def _check(header: Any) -> None:
    """Refuses headers whose stream lengths do not follow from their shapes."""
    lengths = {info.name: info.length for info in header.streams}
    wanted: dict[str, int] = {}
    if isinstance(header, LowRankHeader):
        wanted = {
            "b": _size(header.b_shape, header.b_dtype),
            "a": _size(header.a_shape, header.a_dtype),
        }
        b, a, shape = header.b_shape, header.a_shape, header.shape
        ok = len(b) >= 2 and len(a) >= 2 and len(shape) >= 2
        ok = ok and _size(b, "U8") == b[0] * a[0]
        product = (b[0], _size(a[1:], "U8"))
        if header.transposed:
            product = product[::-1]
        if not ok or product != (shape[0], _size(shape[1:], "U8")):
            raise ObjectCorrupt("a low-rank delta's factors do not fit its shape")
    elif isinstance(header, ReplaceHeader) and header.rows:
        wanted = {
            "index": 8 * header.rows,
            "values": _size((header.rows, *header.shape[1:]), header.dtype),
        }
    elif isinstance(header, DenseHeader | ReplaceHeader):
        wanted = {"values": _size(header.shape, header.dtype)}
    if any(lengths.get(name) != length for name, length in wanted.items()):
        raise ObjectCorrupt("a delta's streams do not fit its shape")
