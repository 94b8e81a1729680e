"""Where encoders put the objects they make: a pack, or for a dry run just a count."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deltavc.codec.frames import Part
from deltavc.codec.room import Room
from deltavc.ids import BlobId, DeltaId, ObjectId
from deltavc.records import canonical

if TYPE_CHECKING:
    from deltavc.delta.kinds import Delta
    from deltavc.store import ObjectStore, PackWriter

__all__ = ["ObjectSink"]


class ObjectSink:
    """Takes objects, from any thread, and tells what they take up.

    Args:
        store: The store.
        pack: The pack to write to; None for a dry run.
        keep: Keep the deltas in memory, for a comparison that records nothing.

    Attributes:
        ids: What was new.
        deltas: The deltas that were kept.
        stored: Bytes that the new objects take.
    """

    def __init__(self, store: ObjectStore, pack: PackWriter | None, *, keep: bool = False) -> None:
        self._store = store
        self._pack = pack
        self._keep = keep
        self._lock = threading.Lock()
        self._seen: set[ObjectId] = set()
        self.ids: list[ObjectId] = []
        self.deltas: dict[DeltaId, Delta] = {}
        self.stored = 0

    def add(
        self, kind: str, parts: Sequence[Part], room: Room | None = None
    ) -> tuple[ObjectId, int]:
        """Adds an object.

        Args:
            kind: Its kind.
            parts: Its body.
            room: Where the stored bytes go until they are written.

        Returns:
            Its id and the bytes that it newly takes: 0 when it was there.
        """
        prepared = self._store.prepare(
            kind, parts, room=room
        )  # hashing and zstd run outside the lock
        with self._lock:
            if prepared.id in self._seen or self._store.has(prepared.id):
                return prepared.id, 0
            if self._pack is not None:
                self._pack.add_prepared(prepared, is_new=True)
            self._seen.add(prepared.id)
            self.ids.append(prepared.id)
            self.stored += prepared.stored
            return prepared.id, prepared.stored

    def delta(self, delta: Delta, room: Room | None = None) -> tuple[DeltaId, int]:
        """Adds a delta; returns its id and the bytes that it newly takes."""
        header, *_ = delta.parts()
        parts = [Part(header), *(Part(s.data, s.planes, s.runs, s.block) for s in delta.streams)]
        oid, stored = self.add("delta", parts, room)
        if self._keep:
            self.deltas[DeltaId(oid)] = delta
        return DeltaId(oid), stored

    def blob(self, data: bytes) -> BlobId:
        """Adds a file's bytes."""
        return BlobId(self.add("blob", [Part(data)])[0])

    def record(self, kind: str, record: Any) -> ObjectId:
        """Adds a record."""
        return self.add(kind, [Part(canonical.encode(record))])[0]
