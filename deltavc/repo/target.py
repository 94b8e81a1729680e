"""The folder that an environment keeps in step: versions beside each other, one switched link.

::

    serve/production/
      c7d20e8f13/      a version, as checkout writes it, with its receipt
      a41f6b2290/      the one before, kept ready
      current -> c7d20e8f13

Who serves opens ``current``. It changes by one rename, so that a reader sees the old
version or the new one; versions are never changed where they lie.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.codec.digest import sha256_hex
from deltavc.errors import DeltavcError, InputError, Protected, RepositoryUnwritable
from deltavc.formats.files import read_small
from deltavc.ids import CommitId, short
from deltavc.records.receipt import MAX_BYTES, RECEIPT_FILE
from deltavc.repo import receipt
from deltavc.store.files import sync_folder

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["CURRENT", "folder_for", "linked", "problems", "prune", "receipt_sha256", "switch"]

CURRENT = "current"
_STEM = ".current-"


def folder_for(target: Path, commit: CommitId, form: str) -> str:
    """Returns the name of a version's folder: the short id, or the full one where that is taken."""
    ending = "" if form == "full" else f".{form}"
    name = short(commit) + ending
    if os.path.lexists(target / name) and _holder(target / name) not in (commit, None):
        return commit + ending
    return name


def _holder(folder: Path) -> CommitId | None:
    try:
        return receipt.read(folder).commit
    except DeltavcError:
        return None


def receipt_sha256(folder: Path) -> str | None:
    """Returns the SHA-256 of a version's receipt, which has the digests of all its files."""
    try:
        return sha256_hex(read_small(folder / RECEIPT_FILE, max_bytes=MAX_BYTES))
    except InputError:
        return None


def problems(
    folder: Path, commit: CommitId, expected: str | None, *, deep: bool = False, threads: int = 2
) -> list[str]:
    """Says why a version's folder cannot be served.

    Args:
        folder: The folder.
        commit: The version that it is to hold.
        expected: SHA-256 of its receipt, as recorded when it was written; None where none was.
        deep: Compare SHA-256 of all files; default: xxh3, at memory speed.
        threads: How many files to read at a time.

    Returns:
        Sentences; none for a folder that is whole.
    """
    if not folder.is_dir() or folder.is_symlink():
        return [f"'{folder.name}' is not kept ready"]
    if expected is None or receipt_sha256(folder) != expected:
        return [f"the receipt in '{folder.name}' is not the one that was recorded"]
    try:
        found = receipt.verify(folder, deep=deep, threads=threads)
        if receipt.read(folder).commit != commit:
            return [f"'{folder.name}' holds another version"]
    except (InputError, OSError) as error:
        return [str(error)]
    return [f"{folder.name}: {problem.message}" for problem in found]


def linked(target: Path) -> str | None:
    """Returns the folder that the link points at; None without a link."""
    try:
        return str((target / CURRENT).readlink())
    except OSError:
        return None


def check_link(target: Path) -> None:
    """Refuses a target where somebody else's file stands in the link's place.

    Raises:
        Protected: It does.
    """
    link = target / CURRENT
    if os.path.lexists(link) and not link.is_symlink():
        raise Protected(
            f"'{link}' is not a link, so it cannot be switched",
            hint="move it away, or choose another target",
            path=str(link),
        )


def switch(target: Path, folder: str | None) -> None:
    """Points the link at a folder by one rename, durably.

    Args:
        target: The target.
        folder: A folder in it; None takes the link away.

    Raises:
        RepositoryUnwritable: The system would not; the link is as it was.
    """
    link, beside = target / CURRENT, target / f"{_STEM}{os.getpid()}"
    try:
        if folder is None:
            link.unlink(missing_ok=True)
        else:
            beside.unlink(missing_ok=True)
            beside.symlink_to(folder, target_is_directory=True)
            beside.replace(link)
        sync_folder(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RepositoryUnwritable(
            f"the link '{link}' cannot be switched: {error.strerror}", path=str(link)
        ) from error


def set_aside(folder: Path) -> None:
    """Moves a damaged version out of the way, so that it can be written anew; nothing is lost."""
    if os.path.lexists(folder):
        with contextlib.suppress(OSError):
            folder.rename(folder.with_name(f".damaged-{folder.name}-{os.urandom(4).hex()}"))


def prune(repo: Repository, target: Path, keep: Collection[str]) -> list[str]:
    """Removes versions that are not kept ready any more; only folders that deltavc wrote.

    Args:
        repo: The repository.
        target: The target.
        keep: Folders to keep.

    Returns:
        The folders removed.
    """
    removed = []
    try:
        names = sorted(path.name for path in target.iterdir())
    except OSError:
        return []
    for name in names:
        if name.startswith(_STEM):
            with contextlib.suppress(OSError):
                (target / name).unlink()
        folder = target / name
        if name in keep or name.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        commit = _holder(folder)
        if commit is None or not repo.store.has(commit) or not name.startswith(short(commit)):
            continue
        going = target / f".gone-{name}-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.rename(going)  # so that nobody opens half of it
            shutil.rmtree(going, ignore_errors=True)
            removed.append(name)
    return removed
