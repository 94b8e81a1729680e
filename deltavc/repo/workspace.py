"""What deltavc last wrote to a folder, so that its own work can be told from a person's.

A cache beside the truth: losing it costs a comparison, never data. A folder
counts as clean while size, time and inode of each file that deltavc wrote are
as it left them. Where they are not, as after a kill or a copy, the bits decide
(:func:`holds`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import DeltavcError
from deltavc.ids import CommitId, ManifestId
from deltavc.ledger.lock import RepositoryLock

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["Held", "held", "holds", "intend", "is_clean", "lock", "remember", "stamp"]

Stamp = tuple[int, int, int]


class Held(msgspec.Struct, frozen=True):
    """What a folder holds by deltavc's own hand.

    Attributes:
        path: The folder.
        commit: The revision that was written.
        manifest: Its manifest.
        files: Size, modification time and inode of each file, by relative path; none while
            the folder is written for the first time.
        next: The revision that it is being changed to; None when that is done.
    """

    path: str
    commit: CommitId
    manifest: ManifestId
    files: dict[str, Stamp]
    next: CommitId | None = None


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
    if found is None or not found.files:
        return False
    return {name: stamp(folder / name) for name in _listing(folder)} == found.files


def _listing(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def holds(repo: Repository, commit: CommitId, folder: Path) -> bool:
    """Tells whether a folder holds just a revision, tensor by tensor and file by file.

    What differs ends the comparison, so a folder with other names costs nothing.

    Args:
        repo: The repository.
        commit: The revision.
        folder: The folder.

    Returns:
        Whether it does; False as well when that cannot be found out.
    """
    from deltavc.formats.checkpoint import open_checkpoint
    from deltavc.formats.writer_plan import index_files
    from deltavc.repo.version import open_version

    try:
        version = open_version(repo, commit)
        plan = version.plan()
        files = dict(plan.files) | index_files(plan)
        if set(_listing(folder)) != {file.name for file in plan.weights} | set(files):
            return False
        for name, content in files.items():
            wanted = content if isinstance(content, bytes) else content.read_bytes()
            if (folder / name).read_bytes() != wanted:
                return False
        with open_checkpoint(folder) as found:
            parts = list(version.parts())
            if {part.name for part in parts} != set(found.entries):
                return False
            return all(
                version.tensor(part.param).same_bits(found.tensor(part.name)) for part in parts
            )
    except (DeltavcError, OSError):
        return False


def lock(repo: Repository, command: str) -> RepositoryLock:
    """Returns the right to change the workspace: two checkouts take turns.

    It is taken before the repository's lock, never after it.

    Args:
        repo: The repository.
        command: The verb, for those who wait.

    Returns:
        The lock, not yet taken.
    """
    owner = f"{command} by {repo.session.actor}"
    return RepositoryLock(repo.layout.workspace_lock, owner, repo.session.lock_timeout)


def intend(repo: Repository, folder: Path, commit: CommitId, manifest: ManifestId) -> None:
    """Notes that a folder is about to be changed to a revision.

    Who is killed in between then finds that what is there is deltavc's own work.
    """
    found = held(repo, folder)
    before = found or Held(str(folder.absolute()), commit, manifest, {})
    _keep(repo, folder, msgspec.structs.replace(before, next=commit))


def remember(repo: Repository, folder: Path, commit: CommitId, manifest: ManifestId) -> None:
    """Notes that a folder now holds a revision."""
    stamps = {name: found for name in _listing(folder) if (found := stamp(folder / name))}
    _keep(repo, folder, Held(str(folder.absolute()), commit, manifest, stamps))


def _keep(repo: Repository, folder: Path, record: Held) -> None:
    repo.layout.keep(_memory(repo, folder), msgspec.json.encode(record))
