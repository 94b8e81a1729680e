"""What the rest of deltavc needs of a place that keeps objects.

Small on purpose: objects are immutable and named by content, so four verbs are
enough for a folder, and will be for object storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from deltavc.codec.digest import Buffer
from deltavc.codec.frames import Part
from deltavc.ids import ObjectId
from deltavc.store.values import ObjectStat

__all__ = ["Objects"]


class Objects(Protocol):
    """A place that keeps objects by id."""

    def has(self, oid: ObjectId, /) -> bool:
        """Tells whether an object of this id is kept; not whether it is whole."""
        ...

    def get(self, oid: ObjectId, kind: str, /) -> memoryview:
        """Returns an object's body, checked against its id.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: It is damaged, or of another kind.
        """
        ...

    def put(self, kind: str, parts: Iterable[Part | Buffer], /) -> ObjectId:
        """Keeps an object durably and returns its id; keeping it twice is keeping it once."""
        ...

    def iter(self) -> Iterator[ObjectStat]:
        """Yields every object once."""
        ...
