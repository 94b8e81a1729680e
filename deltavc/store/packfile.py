"""The pack file: stored objects one after another, and a sorted index at the end.

Opening a pack reads its index alone; a look-up is a bisection over its bytes.
The layout is told in ``docs/reference/format/pack.md``.
"""

from __future__ import annotations

import hashlib
import re
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deltavc.errors import ObjectCorrupt
from deltavc.ids import ObjectId
from deltavc.store.files import ReadFile
from deltavc.store.record import MIN_STORED, kind_from_bytes

__all__ = [
    "MAGIC",
    "Entry",
    "PackIndex",
    "closed_index",
    "is_pack_name",
    "pack_name",
    "read_index",
]

MAGIC = b"DVCPACK1"
END_MAGIC = b"DVCPEND1"
ID_SIZE = 32
_ENTRY = struct.Struct("<32s16sQQQ")
_TRAILER = struct.Struct("<QQ32s8s")
_COUNTS = struct.Struct("<QQ")
_NAME = re.compile(r"pack-[0-9a-f]{64}\.pack\Z")
_FIRST_READ = 4096  # 56 objects: the index of a usual commit comes with one read


class Entry(NamedTuple):
    """One object of a pack, as its index tells."""

    raw_id: bytes
    kind: str
    offset: int
    stored: int
    length: int

    @property
    def id(self) -> ObjectId:
        """The object's id."""
        return ObjectId(self.raw_id.hex())


def pack_name(sha256: str) -> str:
    """Returns the name of the pack whose bytes have this SHA-256."""
    return f"pack-{sha256}.pack"


def is_pack_name(name: str) -> bool:
    """Tells whether a file name is that of a pack."""
    return _NAME.match(name) is not None


class PackIndex:
    """The index of one pack, held in memory; the file is not kept open.

    Attributes:
        path: The pack.
        size: Its size.
        end: Where its objects end and the index begins.
        count: Number of its objects.
    """

    def __init__(self, path: Path, size: int, table: bytes) -> None:
        self.path = path
        self.name = path.name
        self.size = size
        self.count = len(table) // _ENTRY.size
        self.end = size - _TRAILER.size - len(table)
        self._table = table

    def _raw_id(self, at: int) -> bytes:
        return self._table[at * _ENTRY.size : at * _ENTRY.size + ID_SIZE]

    def entry(self, at: int) -> Entry:
        """Returns an entry by its place in the order of ids, from 0 to ``count - 1``."""
        raw_id, kind, *numbers = _ENTRY.unpack_from(self._table, at * _ENTRY.size)
        return Entry(raw_id, kind_from_bytes(kind), *numbers)

    def find(self, raw_id: bytes) -> Entry | None:
        """Returns the entry of the object with these 32 bytes of id, or None."""
        at = bisect_left(range(self.count), raw_id, key=self._raw_id)
        if at < self.count and self._raw_id(at) == raw_id:
            return self.entry(at)
        return None

    def within(self, low: bytes, high: bytes) -> Iterator[bytes]:
        """Yields the raw ids from ``low`` to ``high``, both included, in order."""
        at = bisect_left(range(self.count), low, key=self._raw_id)
        while at < self.count and self._raw_id(at) <= high:
            yield self._raw_id(at)
            at += 1

    def raw_ids(self) -> list[bytes]:
        """Returns all raw ids in order."""
        table = self._table
        return [table[at : at + ID_SIZE] for at in range(0, len(table), _ENTRY.size)]

    def entries(self) -> Iterator[Entry]:
        """Yields all entries in order of ids."""
        return map(self.entry, range(self.count))


def closed_index(entries: Sequence[Entry], end: int) -> tuple[bytes, bytes]:
    """Returns what closes a pack: the index and the trailer.

    Args:
        entries: The pack's objects in any order, no id twice.
        end: Where the objects end.

    Returns:
        The bytes of both.
    """
    table = b"".join(
        _ENTRY.pack(e.raw_id, e.kind.encode(), e.offset, e.stored, e.length)
        for e in sorted(entries)
    )
    digest = hashlib.sha256(table + _COUNTS.pack(end, len(entries))).digest()
    return table, _TRAILER.pack(end, len(entries), digest, END_MAGIC)


def read_index(path: Path) -> PackIndex:
    """Reads the index of a pack.

    Args:
        path: The pack.

    Returns:
        Its index.

    Raises:
        FileNotFoundError: There is no such file.
        ObjectCorrupt: The file is not a whole pack.
    """
    with ReadFile(path) as file:
        if file.size < len(MAGIC) + _TRAILER.size:
            raise ObjectCorrupt(f"'{path.name}' is too short for a pack", path=str(path))
        tail_size = min(file.size - len(MAGIC), _FIRST_READ)
        tail = file.read(file.size - tail_size, tail_size)
        end, count, digest, magic = _TRAILER.unpack_from(tail, tail_size - _TRAILER.size)
        table_size = file.size - _TRAILER.size - end
        if magic != END_MAGIC or end < len(MAGIC) or count * _ENTRY.size != table_size:
            raise ObjectCorrupt(f"'{path.name}' does not end as a pack", path=str(path))
        if table_size + _TRAILER.size <= tail_size:
            start = tail_size - _TRAILER.size - table_size
            table = tail[start : start + table_size]
        else:
            table = file.read(end, table_size)
        begins = file.read(0, len(MAGIC)) == MAGIC
    if not begins or hashlib.sha256(table + _COUNTS.pack(end, count)).digest() != digest:
        raise ObjectCorrupt(f"the index of '{path.name}' is damaged", path=str(path))
    _check_table(path, table, end)
    return PackIndex(path, end + table_size + _TRAILER.size, table)


def _check_table(path: Path, table: bytes, end: int) -> None:
    """Refuses entries out of order, or that point outside the pack's objects."""
    before, kinds = b"", set()
    for raw_id, kind, offset, stored, _ in _ENTRY.iter_unpack(table):
        if kind not in kinds:  # of thousands of objects, three are different
            kind_from_bytes(kind)
            kinds.add(kind)
        inside = offset >= len(MAGIC) and stored >= MIN_STORED and offset + stored <= end
        if not inside or raw_id <= before:
            raise ObjectCorrupt(
                f"'{path.name}' lists object '{raw_id.hex()[:10]}' where it cannot be",
                path=str(path),
                id=raw_id.hex(),
            )
        before = raw_id
