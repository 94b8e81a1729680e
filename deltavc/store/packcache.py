"""One sorted table over many packs, so that finding an object opens one pack.

A history of 10,000 commits has 10,000 packs; reading each index takes half a
second, this table two milliseconds. It is a cache: rebuilt from the packs at
will, thrown away when its checksum does not hold, and only ever a hint. A hit
counts once the pack's own index confirms it, and an object is called missing
only after every pack was asked.

::

    "DVCMIDX1"  packs u64  entries u64  xxh3-64 of all that follows u64
    packs   x 32 bytes   SHA-256 in the pack's name
    entries x 36 bytes   object id, number of the pack (u32, big-endian), ascending
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

from deltavc.codec.digest import fast64
from deltavc.errors import ObjectCorrupt
from deltavc.store.files import ReadFile, StagedFile
from deltavc.store.packfile import ID_SIZE, PackIndex, pack_name

__all__ = ["PackTable", "load_table", "save_table"]

MAGIC = b"DVCMIDX1"
_HEAD = struct.Struct("<8sQQQ")
_ENTRY_SIZE = ID_SIZE + 4


class PackTable:
    """Which pack holds which object, over a set of packs.

    Attributes:
        names: The packs that it covers, by number.
    """

    def __init__(self, names: list[str], entries: bytes) -> None:
        self.names = names
        self._entries = entries
        self._count = len(entries) // _ENTRY_SIZE

    def _entry(self, at: int) -> bytes:
        return self._entries[at * _ENTRY_SIZE : (at + 1) * _ENTRY_SIZE]

    def within(self, low: bytes, high: bytes) -> Iterator[tuple[bytes, str]]:
        """Yields (raw id, pack name) for the ids from ``low`` to ``high``, both included."""
        at = bisect_left(range(self._count), low, key=self._entry)
        while at < self._count:
            entry = self._entry(at)
            if entry[:ID_SIZE] > high:
                return
            number = int.from_bytes(entry[ID_SIZE:], "big")
            if number < len(self.names):
                yield entry[:ID_SIZE], self.names[number]
            at += 1

    def extended(self, indexes: Iterable[PackIndex], gone: set[str]) -> PackTable:
        """Returns a table that covers further packs.

        Args:
            indexes: Indexes of the further packs.
            gone: Names of covered packs that are no more.

        Returns:
            The new table.
        """
        rows = [self._entry(at) for at in range(self._count)]
        names = list(self.names)
        if gone:
            kept = [number for number, name in enumerate(names) if name not in gone]
            moved = {old.to_bytes(4, "big"): new.to_bytes(4, "big") for new, old in enumerate(kept)}
            names = [names[number] for number in kept]
            rows = [r[:ID_SIZE] + moved[r[ID_SIZE:]] for r in rows if r[ID_SIZE:] in moved]
        for index in indexes:
            number = len(names).to_bytes(4, "big")
            names.append(index.name)
            rows += [raw_id + number for raw_id in index.raw_ids()]
        rows.sort()
        return PackTable(names, b"".join(rows))

    def to_bytes(self) -> bytes:
        """Returns the table as it is kept."""
        body = b"".join(bytes.fromhex(name[5:-5]) for name in self.names) + self._entries
        return _HEAD.pack(MAGIC, len(self.names), self._count, fast64(body)) + body


def load_table(path: Path) -> PackTable:
    """Reads a kept table.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        FileNotFoundError: There is none.
        ObjectCorrupt: It is damaged.
    """
    with ReadFile(path) as file:
        data = file.read(0, file.size)
    if len(data) < _HEAD.size:
        raise ObjectCorrupt(f"'{path.name}' is too short", path=str(path))
    magic, packs, entries, checksum = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    split = packs * ID_SIZE
    if magic != MAGIC or split + entries * _ENTRY_SIZE != len(body) or fast64(body) != checksum:
        raise ObjectCorrupt(f"'{path.name}' is damaged", path=str(path))
    hashes = bytes(body[:split]).hex()
    names = [pack_name(hashes[at : at + 64]) for at in range(0, len(hashes), 64)]
    return PackTable(names, bytes(body[split:]))


def save_table(table: PackTable, path: Path, staging: Path) -> None:
    """Keeps a table for the next process.

    Args:
        table: The table.
        path: Where it is kept.
        staging: Folder of staged files.

    Raises:
        RepositoryUnwritable: It cannot be written.
    """
    file = StagedFile(staging, "cache")
    try:
        file.write(table.to_bytes())
    except BaseException:
        file.discard()
        raise
    file.publish(path)
