"""A stored object: a header, and one frame for each chunk of the body.

The same bytes stand alone in a loose file and one after another in a pack; see
``docs/reference/format/object.md``. A reader believes nothing in them: each
number is checked against the bytes that are there, and the body against the id.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from deltavc.codec import frames
from deltavc.codec.digest import Buffer, fast64, object_header, object_id
from deltavc.codec.frames import Frame, Part
from deltavc.codec.room import Room, heap
from deltavc.errors import InternalError, ObjectCorrupt
from deltavc.ids import ObjectId, short
from deltavc.store.files import ReadFile

__all__ = [
    "MIN_STORED",
    "Prepared",
    "RecordHeader",
    "check_kind",
    "check_stored",
    "kind_from_bytes",
    "limit_of",
    "prepare",
    "read_body",
    "read_header",
]

MAGIC = b"DVO1"
MIN_STORED = 72
MAX_FRAMES = 1 << 16
MAX_LARGE = 1 << 34  # the largest embeddings known take 9 GB in float32
MAX_SMALL = 1 << 28
LARGE_KINDS = ("delta", "blob")
_FIXED = struct.Struct("<4sIQ16s32s")
_FRAME = struct.Struct("<BBHIIQ")
_CHECKSUM = struct.Struct("<Q")
_KIND = re.compile(r"[a-z][a-z0-9]{0,15}\Z")
_FIRST_READ = 4096


@dataclass(frozen=True, eq=False)
class Prepared:
    """An object ready to be written: hashed and compressed.

    Attributes:
        id: Its id.
        kind: Its kind.
        length: Length of its body.
        chunks: The bytes to store; some may be views of what it was made from,
            which must not change before it is written.
    """

    id: ObjectId
    kind: str
    length: int
    chunks: tuple[Buffer, ...]

    @property
    def stored(self) -> int:
        """Bytes that it takes on disk."""
        return sum(memoryview(chunk).nbytes for chunk in self.chunks)


@dataclass(frozen=True)
class RecordHeader:
    """What a stored object says of itself, its numbers checked against each other."""

    id: ObjectId
    kind: str
    length: int
    frames: tuple[Frame, ...]

    @property
    def size(self) -> int:
        """Bytes before the first frame."""
        return MIN_STORED + _FRAME.size * len(self.frames)

    @property
    def stored(self) -> int:
        """Bytes of header and frames together."""
        return self.size + sum(frame.stored for frame in self.frames)


def prepare(kind: str, parts: Iterable[Part | Buffer], *, room: Room | None = None) -> Prepared:
    """Hashes and compresses an object; pure, and safe in several threads at once.

    Args:
        kind: Its kind: a lower-case ASCII word of at most 16 letters and digits.
        parts: Its body in parts.
        room: Where the stored bytes go; None for as many buffers as there are frames.

    Returns:
        The object, ready to be written.

    Raises:
        InternalError: The kind is not such a word, or the body is over the limit.
    """
    check_kind(kind)
    body = frames.as_parts(parts)
    length = sum(memoryview(part.data).nbytes for part in body)
    if length > limit_of(kind):
        raise InternalError(f"a {kind} of {length} bytes is over the limit", length=length)
    oid = object_id(kind, [part.data for part in body])
    listed, stored = frames.compress(body, room)
    if len(listed) > MAX_FRAMES:
        raise InternalError(f"a {kind} has {len(listed)} chunks", frames=len(listed))
    head = _FIXED.pack(MAGIC, len(listed), length, kind.encode(), bytes.fromhex(oid))
    head += b"".join(
        _FRAME.pack(f.method, f.width, 0, f.length, f.stored, f.checksum) for f in listed
    )
    head += _CHECKSUM.pack(fast64(head))
    return Prepared(oid, kind, length, tuple(chain([head], stored)))


def check_kind(kind: str) -> None:
    """Raises :class:`InternalError` for a word that cannot be a kind."""
    if not _KIND.match(kind):
        raise InternalError(f"'{kind[:40]}' cannot be a kind of object", kind=kind)


def limit_of(kind: str) -> int:
    """Returns the largest length of a body of this kind that is ever read."""
    return MAX_LARGE if kind in LARGE_KINDS else MAX_SMALL


def kind_from_bytes(field: bytes) -> str:
    """Reads the 16-byte field that holds a kind.

    Args:
        field: ASCII, padded with NUL.

    Returns:
        The kind.

    Raises:
        ObjectCorrupt: It holds no kind.
    """
    kind = field.rstrip(b"\0").decode("ascii", "replace")
    if not _KIND.match(kind):
        raise ObjectCorrupt("an object has a malformed kind")
    return kind


def read_header(file: ReadFile, offset: int, available: int) -> RecordHeader:
    """Reads the header of a stored object.

    Args:
        file: The file that holds it.
        offset: Where it begins.
        available: How many bytes it can have at most.

    Returns:
        The header; the frames it lists fit what is available and the body.

    Raises:
        ObjectCorrupt: It is not the header of a stored object.
    """
    data = file.read(offset, min(_FIRST_READ, available))
    if len(data) < MIN_STORED:
        raise ObjectCorrupt("a stored object is shorter than a header")
    magic, count, length, kind, raw_id = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise ObjectCorrupt("a stored object does not begin as one")
    size = MIN_STORED + _FRAME.size * count
    if count > MAX_FRAMES or size > available:
        raise ObjectCorrupt(f"a stored object declares {count} frames")
    if size > len(data):
        data = file.read(offset, size)
    end = size - _CHECKSUM.size
    if fast64(data[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise ObjectCorrupt("a stored object's header does not match its checksum")
    listed = _frames(data[_FIXED.size : end])
    header = RecordHeader(ObjectId(raw_id.hex()), kind_from_bytes(kind), length, listed)
    if header.stored > available or sum(frame.length for frame in listed) != length:
        raise ObjectCorrupt("a stored object's frames do not add up to its length")
    return header


def _frames(table: bytes) -> tuple[Frame, ...]:
    listed = []
    for method, width, zero, length, stored, checksum in _FRAME.iter_unpack(table):
        frame = Frame(method, width, length, stored, checksum)
        if zero:
            raise ObjectCorrupt("a frame has bits set that mean nothing")
        frames.check_frame(frame)
        listed.append(frame)
    return tuple(listed)


class _Scratch(threading.local):
    """One buffer a thread for stored bytes: fresh ones cost more in page faults than reading."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def view(self, size: int) -> memoryview:
        if len(self.buffer) < size:
            self.buffer = bytearray(max(size, 1 << 16))
        return memoryview(self.buffer)[:size]


_SCRATCH = _Scratch()


def read_body(
    file: ReadFile, offset: int, header: RecordHeader, limit: int, room: Room = heap
) -> memoryview:
    """Reads the body of a stored object and checks it against the id.

    Frames are expanded straight into one buffer and hashed while in cache.

    Args:
        file: The file that holds it.
        offset: Where the stored object begins.
        header: Its header.
        limit: Largest length that is accepted.
        room: Where the body goes.

    Returns:
        The body, in a buffer that nobody else holds.

    Raises:
        ObjectCorrupt: It is damaged, or larger than the limit.
    """
    if header.length > limit:
        raise ObjectCorrupt(
            f"object '{short(header.id)}' declares {header.length} bytes, over {limit}",
            id=header.id,
        )
    try:
        body = room(header.length)
    except MemoryError as error:
        raise ObjectCorrupt(
            f"object '{short(header.id)}' declares {header.length} bytes, more than memory holds",
            id=header.id,
        ) from error
    digest = hashlib.sha256(object_header(header.kind, header.length))
    at, where = 0, offset + header.size
    for frame in header.frames:
        out = body[at : at + frame.length]
        stored = _SCRATCH.view(frame.stored)
        file.read_into(stored, where)
        frames.expand(frame, stored, out)
        digest.update(out)
        at += frame.length
        where += frame.stored
    if digest.hexdigest() != header.id:
        raise ObjectCorrupt(f"object '{short(header.id)}' does not match its id", id=header.id)
    return body


def read_start(file: ReadFile, offset: int, header: RecordHeader) -> bytes:
    """Reads the first frame of a stored object's body and checks it against its checksum.

    Args:
        file: The file that holds it.
        offset: Where the stored object begins.
        header: Its header.

    Returns:
        The beginning of the body; all of it, if it has one frame.

    Raises:
        ObjectCorrupt: The frame is damaged.
    """
    if not header.frames:
        return b""
    frame = header.frames[0]
    stored, out = _SCRATCH.view(frame.stored), bytearray(frame.length)
    file.read_into(stored, offset + header.size)
    frames.expand(frame, stored, memoryview(out))
    return bytes(out)


def check_stored(file: ReadFile, offset: int, header: RecordHeader) -> None:
    """Checks the stored bytes of an object against their checksums, without expanding them.

    Args:
        file: The file that holds it.
        offset: Where the stored object begins.
        header: Its header.

    Raises:
        ObjectCorrupt: A frame does not match its checksum.
    """
    where = offset + header.size
    for frame in header.frames:
        stored = _SCRATCH.view(frame.stored)
        file.read_into(stored, where)
        if fast64(stored) != frame.checksum:
            raise ObjectCorrupt(f"object '{short(header.id)}' has a damaged frame", id=header.id)
        where += frame.stored
