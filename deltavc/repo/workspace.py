"""What deltavc last wrote to a folder, so that its own work can be told from a person's.

A cache beside the truth: losing it costs a comparison, never data. A folder
counts as clean while size, time and inode of each file that deltavc wrote are
as it left them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deltavc.ids import CommitId, ManifestId

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["Held", "forget", "held", "is_clean", "remember", "stamp"]

Stamp = tuple[int, int, int]


class Held(msgspec.Struct, frozen=True):
    """What a folder holds by deltavc's own hand.

    Attributes:
        path: The folder.
        commit: The revision that was written.
        manifest: Its manifest.
        files: Size, modification time and inode of each file, by relative path.
    """

    path: str
    commit: CommitId
    manifest: ManifestId
    files: dict[str, Stamp]


def _memory(repo: Repository, folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:32]
    return repo.layout.cache / f"folder-{key}.json"


def stamp(path: Path) -> Stamp | None:
    """Returns size, modification time and inode of a regular file; None when there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def held(repo: Repository, folder: Path) -> Held | None:
    """Returns what deltavc last wrote to a folder; None when that is not known."""
    try:
        found = msgspec.json.decode(_memory(repo, folder).read_bytes(), type=Held)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
    return found if found.path == str(folder.absolute()) else None


def is_clean(folder: Path, found: Held | None) -> bool:
    """Tells whether a folder is just as deltavc left it, nothing changed, added or removed."""
    if found is None:
        return False
    return {name: stamp(folder / name) for name in _listing(folder)} == found.files


def _listing(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def remember(repo: Repository, folder: Path, commit: CommitId, manifest: ManifestId) -> None:
    """Notes that a folder now holds a revision."""
    stamps = {name: found for name in _listing(folder) if (found := stamp(folder / name))}
    record = Held(str(folder.absolute()), commit, manifest, stamps)
    memory = _memory(repo, folder)
    beside = memory.with_suffix(f".{os.getpid()}")
    try:
        memory.parent.mkdir(exist_ok=True)
        beside.write_bytes(msgspec.json.encode(record))
        beside.replace(memory)
    except OSError:
        beside.unlink(missing_ok=True)  # the next checkout compares instead


def forget(repo: Repository, folder: Path) -> None:
    """Forgets what a folder holds, before it is changed."""
    _memory(repo, folder).unlink(missing_ok=True)
