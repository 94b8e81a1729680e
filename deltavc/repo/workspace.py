"""What deltavc last wrote to a folder, so that its own work can be told from a person's.

A cache beside the truth: losing it costs a comparison, never data. A folder
counts as clean while size, time and inode of each file that deltavc wrote are
as it left them; the receipt is no part of the version and does not count. Where
they are not, as after a kill or a copy, the bits decide
(:func:`holds`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import DeltavcError, InputError
from deltavc.formats.files import read_small
from deltavc.ids import CommitId, ManifestId
from deltavc.ledger.lock import RepositoryLock
from deltavc.records.receipt import MAX_BYTES, RECEIPT_FILE, is_receipt
from deltavc.repo import receipt

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = [
    "Held",
    "held",
    "holds",
    "intend",
    "is_clean",
    "is_empty",
    "lock",
    "remember",
    "retell",
    "stamp",
]

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
    files = {name: known for name, known in found.files.items() if name != RECEIPT_FILE}
    return {name: stamp(folder / name) for name in _listing(folder)} == files


def _listing(folder: Path) -> Iterable[str]:
    """Yields what lies in a folder at any depth, but for a receipt."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            name = path.relative_to(folder).as_posix()
            if name != RECEIPT_FILE or not _is_ours(path):
                yield name


def _is_ours(path: Path) -> bool:
    """Tells whether a file of the receipt's name is one."""
    try:
        return not path.is_symlink() and is_receipt(read_small(path, max_bytes=MAX_BYTES))
    except InputError:
        return False


def is_empty(folder: Path) -> bool:
    """Tells whether a folder holds nothing, or nothing but a receipt."""
    if not folder.is_dir():
        return False
    return all(path.name == RECEIPT_FILE and _is_ours(path) for path in folder.iterdir())


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


def retell(repo: Repository, folder: Path, before: Held | None, commit: CommitId | None) -> None:
    """Keeps the receipt of the workspace true when what lies there was committed.

    A folder without one gets none. A failure is a warning: the commit stands.

    Args:
        repo: The repository.
        folder: The workspace.
        before: What :func:`held` said before it was read; if that is another by now, a
            checkout came between, and has written its own receipt.
        commit: The revision that it now holds; None where it holds none, since the commit
            took a part of it, or an approximation.
    """
    try:
        told = receipt.read(folder).commit
    except InputError:
        return
    try:
        with lock(repo, "commit"):
            if told == commit or held(repo, folder) != before:
                return
            if commit is None:
                receipt.discard(folder)
            else:
                receipt.write(repo, folder, commit)
    except DeltavcError as error:
        repo.warnings.append(error.message)


def forget(repo: Repository, folder: Path) -> None:
    """Forgets a folder that will not be there any more."""
    with suppress(OSError):
        _memory(repo, folder).unlink(missing_ok=True)


def _keep(repo: Repository, folder: Path, record: Held) -> None:
    repo.layout.keep(_memory(repo, folder), msgspec.json.encode(record))
