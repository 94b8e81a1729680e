"""Values that the store hands out."""

from __future__ import annotations

from dataclasses import dataclass

from deltavc.ids import ObjectId

__all__ = ["Finding", "ObjectStat", "PackInfo", "Quarantined"]


@dataclass(frozen=True)
class ObjectStat:
    """Where an object is and how large it is.

    Attributes:
        id: Its id.
        kind: Its kind.
        length: Length of its body.
        stored: Bytes it takes on disk.
        place: ``loose``, or the name of its pack.
    """

    id: ObjectId
    kind: str
    length: int
    stored: int
    place: str


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the store; a value, not an exception.

    Attributes:
        code: ``object-damaged``, ``object-missing``, ``pack-damaged``,
            ``pack-name``, ``file-unexpected`` or ``cache-damaged``.
        path: The file, relative to the store's root; "" for a missing object.
        message: One sentence, worded as an error's.
        id: The object concerned, where there is one.
    """

    code: str
    path: str
    message: str
    id: ObjectId | None = None


@dataclass(frozen=True)
class PackInfo:
    """A pack that was written.

    Attributes:
        name: Its file name; None if there was nothing to write.
        objects: Ids of its objects, in the order they were added.
        stored: Bytes of its objects on disk, without index.
    """

    name: str | None
    objects: tuple[ObjectId, ...]
    stored: int


@dataclass(frozen=True)
class Quarantined:
    """What moving damaged files away did.

    Attributes:
        moved: Their paths now, relative to the store's root.
        salvaged: Objects that were whole in them and now lie in a new pack.
        lost: Objects that those files held and that nothing whole holds now,
            as far as their index or their headers still tell.
    """

    moved: tuple[str, ...]
    salvaged: tuple[ObjectId, ...]
    lost: tuple[ObjectId, ...]
