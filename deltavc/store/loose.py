"""Loose objects: one file each, named by id, in folders by its first two digits."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from deltavc.ids import ObjectId, is_object_id

__all__ = ["Loose"]


class Loose:
    """The loose objects of a store.

    Args:
        folder: The folder that holds their folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, oid: ObjectId) -> Path:
        """Returns where an object's file is, or would be."""
        return self.folder / oid[:2] / oid

    def exists(self, oid: ObjectId) -> bool:
        """Tells whether an object has a regular file."""
        try:  # a string: making a path takes as long as asking for it, and each look-up asks
            return stat.S_ISREG(os.lstat(f"{self.folder}/{oid[:2]}/{oid}").st_mode)
        except OSError:
            return False

    def ids(self, prefix: str = "") -> Iterator[ObjectId]:
        """Yields the ids with a prefix for which there is a file, in order."""
        for folder in sorted(_names(self.folder)):
            if len(folder) != 2 or not (folder.startswith(prefix[:2])):
                continue
            for name in sorted(_names(self.folder / folder)):
                if is_object_id(name) and name[:2] == folder and name.startswith(prefix):
                    yield ObjectId(name)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
