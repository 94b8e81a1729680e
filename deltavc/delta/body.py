"""A delta: its header and its streams, and how they are read from an object's body.

Bodies are told in ``docs/reference/format/delta.md``; :mod:`deltavc.delta.kinds` makes deltas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import Buffer, object_id
from deltavc.delta.fits import check_header, matrix_shape
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt
from deltavc.ids import BlobId, DeltaId, ObjectId
from deltavc.records import canonical
from deltavc.records.delta import (
    DeltaHeader,
    DoraHeader,
    LowRankHeader,
    ProductHeader,
    ReplaceHeader,
    StreamInfo,
)
from deltavc.records.model import fraction_from_text

__all__ = ["Delta", "Stream", "blobs_of", "from_body", "make"]

MAX_HEADER = 1 << 20
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(DeltaHeader)


@dataclass(frozen=True)
class Stream:
    """One stream of a delta's body.

    Attributes:
        name: Its name in the header.
        data: Its bytes.
        planes: Width in bytes of the elements whose byte planes compress
            better apart; 1 for none. A hint to the store, not part of the body.
        runs: Number of equally long runs with statistics of their own. A hint.
        block: Bytes after which statistics change in a run; 0 for never. A hint.
    """

    name: str
    data: Buffer
    planes: int = 1
    runs: int = 1
    block: int = 0

    @property
    def length(self) -> int:
        """Length in bytes."""
        return memoryview(self.data).nbytes


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta: its header and its streams.

    Attributes:
        header: Its header, one of those in :mod:`deltavc.records.delta`.
        streams: Its streams, in the header's order.
        shared: Tensors that the header refers to as blobs, once they are there.
    """

    header: Any
    streams: tuple[Stream, ...]
    shared: tuple[Stream, ...] = ()

    def stream(self, name: str) -> memoryview:
        """Returns the bytes of the stream of this name.

        Args:
            name: The stream's name, or that of a shared tensor.

        Returns:
            Its bytes.

        Raises:
            ObjectCorrupt: There is none.
        """
        for stream in (*self.streams, *self.shared):
            if stream.name == name:
                return memoryview(stream.data).cast("B")
        raise ObjectCorrupt(f"a {self.kind} delta lacks its stream '{name}'")

    @property
    def kind(self) -> str:
        """Kind by name: lowrank, exact, sparse, dense, replace, rowscale, colscale, …."""
        return str(self.header.__struct_config__.tag)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        shape: tuple[int, ...] = self.header.shape
        return shape

    @property
    def blobs(self) -> dict[str, BlobId]:
        """Blobs that hold tensors of this delta and of others, by the tensors' names."""
        tensors = getattr(self.header, "tensors", {})
        return {n: BlobId(ObjectId(info.blob)) for n, info in tensors.items() if info.blob}

    def with_blobs(self, bodies: Mapping[str, Buffer]) -> Delta:
        """Returns the delta with its shared tensors at hand.

        Args:
            bodies: Bytes of each blob that :attr:`blobs` names, by the tensor's name.

        Returns:
            The delta.

        Raises:
            ObjectCorrupt: A blob does not have the length that its tensor needs.
        """
        for name in self.blobs:
            info = self.header.tensors[name]
            wanted = math.prod(info.shape) * DTYPES[info.dtype].size
            if memoryview(bodies[name]).nbytes != wanted:
                raise ObjectCorrupt(f"the blob of a delta's '{name}' does not fit its shape")
        return replace(self, shared=tuple(Stream(n, bodies[n]) for n in self.blobs))

    def parts(self) -> list[Buffer]:
        """Returns the body in parts: header line, then the streams."""
        return [canonical.encode(self.header) + b"\n", *(s.data for s in self.streams)]

    def id(self) -> DeltaId:
        """Returns the object id."""
        return DeltaId(object_id("delta", self.parts()))

    # tensors as found -------------------------------------------------------

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor that the header declares, as it was found.

        Args:
            name: Its name: ``b`` and ``a`` of low-rank factors, ``v``, ``m``, ….

        Returns:
            The tensor, over the stream's bytes.

        Raises:
            ObjectCorrupt: There is none of this name.
        """
        header = self.header
        if isinstance(header, LowRankHeader):
            dtype, shape = (
                (header.b_dtype, header.b_shape)
                if name == "b"
                else (header.a_dtype, header.a_shape)
            )
        elif name in getattr(header, "tensors", {}):
            dtype, shape = header.tensors[name].dtype, header.tensors[name].shape
        else:
            raise ObjectCorrupt(f"a {self.kind} delta lacks its tensor '{name}'")
        return Tensor.from_buffer(DTYPES[dtype], shape, self.stream(name))

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that the header declares, by name."""
        names = ("b", "a") if isinstance(self.header, LowRankHeader) else ()
        return {n: self.tensor(n) for n in names or sorted(getattr(self.header, "tensors", {}))}

    def factor(self, name: str) -> Tensor:
        """Returns the factor ``b`` or ``a`` of a delta that has them, as found."""
        return self.tensor(name)

    # low-rank factors -----------------------------------------------------

    @property
    def scale(self) -> Fraction:
        """Scale of low-rank factors."""
        return fraction_from_text(self.header.scale)

    @property
    def rank(self) -> int:
        """Inner dimension of :meth:`matrices`."""
        header = self.header
        if isinstance(header, ProductHeader):
            from deltavc.delta.product import rank

            return rank(header.form, {n: i.shape for n, i in header.tensors.items()})
        if isinstance(header, DoraHeader):
            return header.tensors["a"].shape[0]
        lowrank: LowRankHeader = header
        return lowrank.a_shape[0]

    def matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns float64 factors (L, R) with parameter matrix = scale * L @ R, exactly.

        Those of a ``lowrank`` or ``product`` delta; of ``dora`` those before the gain.

        Shapes:
            L: (rows, r), R: (r, columns), where (rows, columns) is the
            parameter seen as a matrix: first dimension, product of the others.
        """
        header = self.header
        if isinstance(header, ProductHeader):
            from deltavc.delta.product import expand

            values = {name: tensor.to_float64() for name, tensor in self.tensors().items()}
            b, a = expand(header.form, values, matrix_shape(header.shape), header.transposed)
        else:
            b, a = self.tensor("b").to_float64(), self.tensor("a").to_float64()
            b, a = b.reshape(b.shape[0], -1), a.reshape(a.shape[0], -1)
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


def make(header_type: Any, streams: Sequence[Stream], **fields: Any) -> Delta:
    """Returns a delta of any kind from its streams and header fields."""
    infos = tuple(StreamInfo(s.name, s.length) for s in streams)
    return Delta(header_type(streams=infos, **fields), tuple(streams))


def from_body(body: memoryview) -> Delta:
    """Reads a delta from an object's body without copying its streams.

    Args:
        body: The body, already checked against its id.

    Returns:
        The delta.

    Raises:
        ObjectCorrupt: The body is not that of a delta.
    """
    header, at = _header(body)
    streams = []
    for info in header.streams:
        streams.append(Stream(info.name, body[at : at + info.length]))
        at += info.length
    if at != body.nbytes:
        raise ObjectCorrupt("a delta's streams do not fill its body")
    check_header(header)
    return Delta(header, tuple(streams))


def blobs_of(start: bytes) -> list[BlobId]:
    """Returns the blobs that a delta refers to, from the beginning of its body.

    Args:
        start: The body as far as it was read, with the header line.

    Returns:
        Their ids.

    Raises:
        ObjectCorrupt: The header line is not there or malformed.
    """
    header, _ = _header(memoryview(start))
    check_header(header)
    return list(Delta(header, ()).blobs.values())


def _header(body: memoryview) -> tuple[Any, int]:
    """Reads the header line; returns the header and where the streams begin."""
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
    return header, end + 1
