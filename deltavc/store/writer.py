"""Writing a pack: beside, then renamed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from deltavc.codec.digest import Buffer
from deltavc.codec.frames import Part
from deltavc.errors import InternalError
from deltavc.ids import ObjectId
from deltavc.store.files import StagedFile
from deltavc.store.packfile import (
    MAGIC,
    Entry,
    PackIndex,
    closed_index,
    pack_name,
)
from deltavc.store.record import Prepared, prepare
from deltavc.store.values import PackInfo

__all__ = ["PackWriter"]


class PackWriter:
    """A pack in the making; a context manager.

    Leaving the context without :meth:`finish`, by an exception or not, leaves
    nothing behind. Objects may be added from several threads.

    Args:
        packs: Folder of packs.
        staging: Folder of staged files.
        known: Tells whether the store has an object already, whole.
        written: Called with the index of the pack once it is durable.

    Attributes:
        stored_bytes: Bytes of the objects added so far.
    """

    def __init__(
        self,
        packs: Path,
        staging: Path,
        known: Callable[[ObjectId], bool],
        written: Callable[[PackIndex], None],
    ) -> None:
        self._packs = packs
        self._staging = staging
        self._known = known
        self._written = written
        self._lock = threading.Lock()
        self._file: StagedFile | None = None
        self._digest = hashlib.sha256()
        self._entries: dict[ObjectId, Entry] = {}
        self._closed = False
        self.stored_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def add(self, kind: str, parts: Iterable[Part | Buffer]) -> ObjectId:
        """Adds an object.

        Args:
            kind: Its kind.
            parts: Its body in parts.

        Returns:
            Its id.

        Raises:
            RepositoryUnwritable: The pack cannot be written.
        """
        return self.add_prepared(prepare(kind, parts))

    def add_prepared(self, prepared: Prepared, *, is_new: bool = False) -> ObjectId:
        """Adds an object that is hashed and compressed already.

        What the pack or the store has already is not written again.

        Args:
            prepared: The object.
            is_new: The caller has just seen that the store lacks it.

        Returns:
            Its id.

        Raises:
            RepositoryUnwritable: The pack cannot be written.
        """
        with self._lock:
            if self._closed:
                raise InternalError("an object was added to a pack that is closed")
            if prepared.id in self._entries or (not is_new and self._known(prepared.id)):
                return prepared.id
            try:
                if self._file is None:
                    self._file = StagedFile(self._staging, "pack")
                    self._write(MAGIC)
                for chunk in prepared.chunks:
                    self._write(chunk)
            except BaseException:
                self._drop()
                raise
            self._entries[prepared.id] = Entry(
                bytes.fromhex(prepared.id),
                prepared.kind,
                len(MAGIC) + self.stored_bytes,
                prepared.stored,
                prepared.length,
            )
            self.stored_bytes += prepared.stored
            return prepared.id

    def finish(self) -> PackInfo:
        """Makes the pack durable and visible; a pack without objects is not written.

        Returns:
            What was written.

        Raises:
            RepositoryUnwritable: It cannot be written; nothing is left behind.
        """
        with self._lock:
            if self._closed:
                raise InternalError("a pack was finished twice")
            self._closed = True
            objects = tuple(self._entries)
            if self._file is None:
                return PackInfo(None, objects, 0)
            try:
                end = len(MAGIC) + self.stored_bytes
                table, trailer = closed_index(list(self._entries.values()), end)
                self._write(table)
                self._write(trailer)
                path = self._packs / pack_name(self._digest.hexdigest())
            except BaseException:
                self._drop()
                raise
            self._file.publish(path)
            self._written(PackIndex(path, end + len(table) + len(trailer), table))
            return PackInfo(path.name, objects, self.stored_bytes)

    def abort(self) -> None:
        """Drops the pack; does nothing once it is finished."""
        with self._lock:
            if not self._closed:
                self._drop()

    def _drop(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.discard()

    def _write(self, data: Buffer) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
