"""The packs of a store as one set: which there are, and where an object is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deltavc.errors import ObjectCorrupt, RepositoryError, RepositoryUnwritable
from deltavc.store.packcache import PackTable, load_table, save_table
from deltavc.store.packfile import Entry, PackIndex, is_pack_name, read_index

__all__ = ["PackSet"]

MIN_UNCOVERED = 32  # below this, opening the packs beats keeping a table of them
COVERED_PER_UNCOVERED = 64
SETTLED = 0.05  # seconds; folder times have steps of up to 10 ms


class PackSet:
    """The packs in a folder.

    The folder is listed at the first look-up, and again when a look-up finds
    nothing and the folder has changed since. Safe in several threads.

    Args:
        folder: The folder of packs.
        table_path: Where the table over many packs is kept.
        staging: Folder of staged files.
    """

    def __init__(self, folder: Path, table_path: Path, staging: Path) -> None:
        self._folder = folder
        self._table_path = table_path
        self._staging = staging
        self._lock = threading.RLock()
        self._indexes: dict[str, PackIndex | None] = {}
        self._damaged: dict[str, str] = {}
        self._table = PackTable([], b"")
        self._uncovered: list[str] = []
        self._listed: tuple[int, float] | None = None
        self._settled = False

    def names(self) -> list[str]:
        """Returns the names of all packs, in order."""
        with self._lock:
            self._ensure_listed()
            return sorted(self._indexes)

    def damaged(self) -> dict[str, str]:
        """Returns the packs whose index could not be read so far, with the reason."""
        return dict(self._damaged)

    def refresh(self) -> bool:
        """Lists the folder again if it may have changed.

        Returns:
            Whether packs came or went.

        Raises:
            RepositoryError: The folder cannot be listed.
        """
        with self._lock:
            try:
                changed = self._folder.stat().st_mtime_ns
                now = time.monotonic()
                if self._listed and self._listed[0] == changed:
                    # a pack that came within the same step of the folder's time does
                    # not show in it, so the same time is believed only after a while
                    if self._settled:
                        return False
                    self._settled = now - self._listed[1] > SETTLED
                else:
                    self._listed, self._settled = (changed, now), False
                with os.scandir(self._folder) as found:
                    names = {item.name for item in found if is_pack_name(item.name)}
            except OSError as error:
                raise RepositoryError(
                    f"'{self._folder}' cannot be listed: {(error.strerror or '').lower()}",
                    path=str(self._folder),
                ) from error
            if names == self._indexes.keys():
                return False
            self._indexes = {name: self._indexes.get(name) for name in names}
            self._damaged = {n: why for n, why in self._damaged.items() if n in names}
            self._cover()
            return True

    def add(self, index: PackIndex) -> None:
        """Takes in a pack that was just written."""
        with self._lock:
            new = index.name not in self._indexes
            self._indexes[index.name] = index
            self._damaged.pop(index.name, None)
            if self._listed and new:
                self._uncovered.append(index.name)
                if len(self._uncovered) > self._allowed():
                    self._cover()

    def index(self, name: str) -> PackIndex | None:
        """Returns the index of a pack, or None if it is gone or cannot be read."""
        with self._lock:
            index = self._indexes.get(name)
            if index is None and name in self._indexes and name not in self._damaged:
                try:
                    index = self._indexes[name] = read_index(self._folder / name)
                except FileNotFoundError:
                    return None
                except ObjectCorrupt as error:
                    self._damaged[name] = error.message
            return index

    def find(self, raw_id: bytes) -> list[tuple[PackIndex, Entry]]:
        """Returns where an object lies, as the packs' own indexes tell.

        Args:
            raw_id: The id's 32 bytes.

        Returns:
            Pack and entry for each copy found; usually none or one.

        Raises:
            RepositoryError: The folder cannot be listed.
        """
        with self._lock:
            self._ensure_listed()
            found = self._look_up(raw_id)
            if not found and self.refresh():
                found = self._look_up(raw_id)
            return found

    def find_everywhere(self, raw_id: bytes) -> list[tuple[PackIndex, Entry]]:
        """Returns where an object lies after asking every pack; see :meth:`find`."""
        return [(i, entry) for i in self.indexes() if (entry := i.find(raw_id)) is not None]

    def within(self, low: bytes, high: bytes) -> set[bytes]:
        """Returns the raw ids from ``low`` to ``high``, both included."""
        with self._lock:
            self._ensure_listed()
            self.refresh()
            found = {
                raw_id
                for raw_id, name in self._table.within(low, high)
                if (index := self.index(name)) and index.find(raw_id)
            }
            for name in self._uncovered:
                if index := self.index(name):
                    found.update(index.within(low, high))
            return found

    def indexes(self) -> Iterator[PackIndex]:
        """Yields the index of every pack that can be read, in order of names."""
        for name in self.names():
            if index := self.index(name):
                yield index

    def _ensure_listed(self) -> None:
        if self._listed is None:
            with suppress(FileNotFoundError, ObjectCorrupt):
                self._table = load_table(self._table_path)
            self.refresh()

    def _look_up(self, raw_id: bytes) -> list[tuple[PackIndex, Entry]]:
        names = [name for _, name in self._table.within(raw_id, raw_id)]
        found = []
        for name in (*names, *self._uncovered):
            index = self.index(name)
            if index and (entry := index.find(raw_id)):
                found.append((index, entry))
        return found

    def _cover(self) -> None:
        """Works out which packs the table does not cover, and extends it if they are many."""
        covered = set(self._table.names)
        fresh = self._indexes.keys() - covered
        allowed = self._allowed()
        if len(fresh) > allowed:
            readable = [index for name in sorted(fresh) if (index := self.index(name))]
            if len(readable) > allowed:
                self._table = self._table.extended(readable, covered - self._indexes.keys())
                fresh -= {index.name for index in readable}
                with suppress(RepositoryUnwritable):  # a read-only store works without it
                    save_table(self._table, self._table_path, self._staging)
        self._uncovered = sorted(fresh)

    def _allowed(self) -> int:
        """Returns how many packs may lie outside the table, so that it grows in few steps."""
        return max(MIN_UNCOVERED, len(self._indexes) // COVERED_PER_UNCOVERED)
