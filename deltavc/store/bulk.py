"""Reading many small objects one after another, as whoever goes through a history does.

What an event names lies side by side in a pack, in the order in which it was written.
So where one object is asked for, those behind it are read with it, in one piece, and are
at hand when they are asked for next.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import zstandard

from deltavc.codec.frames import MAX_GAIN, RAW, ZSTD
from deltavc.errors import ObjectCorrupt
from deltavc.ids import ObjectId, is_object_id
from deltavc.store.files import ReadFile
from deltavc.store.objects import ObjectStore
from deltavc.store.record import MAGIC

__all__ = ["BulkReader"]

_BLOCK = 1 << 18  # bytes read at once: some hundred records, and little lost on others
_SMALL = 1 << 16  # largest size, stored or plain, of an object that is read with others
_AT_HAND = 1 << 25  # bytes kept for those who may still ask
_HEADER = struct.Struct("<4sIQ16s32sBBHIIQQ")  # of an object with one frame; see object.md


class BulkReader:
    """Reads objects like :meth:`ObjectStore.get`, fast where neighbours are asked for.

    A body is at hand once; it is read again for whoever asks again.

    Cost: 8 us an object in packs of thousands, where one by one it is 105: most of that
    is opening the file, and looking up the index.

    Args:
        store: The store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_SMALL)
        self._bodies: dict[ObjectId, tuple[bytes, bytes]] = {}
        self._kept = 0

    def get(self, kind: str, oid: ObjectId) -> bytes:
        """Returns an object's body, checked against its id.

        Args:
            kind: The kind that it must have.
            oid: The id.

        Returns:
            The body.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: Every copy is damaged, or it is of another kind.
        """
        found = self._bodies.pop(oid, None)
        if found is None:
            self._read_from(oid)
            found = self._bodies.pop(oid, None)
        if found is not None:
            self._kept -= len(found[1])
            if found[0] == kind.encode():
                return found[1]
        return bytes(self._store.get(oid, kind))  # which also says what is wrong

    def _read_from(self, oid: ObjectId) -> None:
        """Puts at hand what a pack holds from this object on, if it is in one."""
        places = self._store.packs.find(bytes.fromhex(oid)) if is_object_id(oid) else []
        if not places or places[0][1].stored > _SMALL:
            return
        index, entry = places[0]
        try:
            with ReadFile(index.path) as file:
                data = file.read(entry.offset, min(_BLOCK, index.end - entry.offset))
        except (FileNotFoundError, ObjectCorrupt):
            return
        if self._kept > _AT_HAND:
            self._bodies.clear()
            self._kept = 0
        for kind, found, body in self._records(data):
            self._bodies[found] = (kind, body)
            self._kept += len(body)

    def _records(self, data: bytes) -> Iterator[tuple[bytes, ObjectId, bytes]]:
        """Yields kind, id and body of what a piece of a pack begins with.

        Up to an object that is not as most records are: one frame without planes. A body is
        checked against its id, which covers all there is to it; where anything does not fit,
        it is for the store's own reader to say what.
        """
        at, end, head, sha256 = 0, len(data), _HEADER.size, hashlib.sha256
        while at + head <= end:
            magic, frames, length, padded, raw_id, method, width, zero, plain, stored, _, _ = (
                _HEADER.unpack_from(data, at)
            )
            start, at = at + head, at + head + stored
            if magic != MAGIC or frames != 1 or (width, zero, plain) != (1, 0, length) or at > end:
                return
            if length > _SMALL:
                continue
            body = (
                data[start:at] if method == RAW else self._inflate(method, data[start:at], length)
            )
            kind = padded.rstrip(b"\0")
            if body is None or sha256(b"%b %d\0%b" % (kind, length, body)).digest() != raw_id:
                return
            yield kind, ObjectId(raw_id.hex()), body

    def _inflate(self, method: int, stored: bytes, length: int) -> bytes | None:
        """Returns what plainly one zstd frame of this length holds; None for anything else."""
        if method != ZSTD or not 0 < length <= len(stored) * MAX_GAIN:
            return None
        try:
            if zstandard.frame_content_size(stored) != length:
                return None
            body: bytes = self._decoder.decompress(
                stored, max_output_size=length, read_across_frames=False, allow_extra_data=False
            )
        except zstandard.ZstdError:
            return None
        return body
