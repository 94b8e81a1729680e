"""Writes that are on disk when they return, and leave nothing half done behind."""

from __future__ import annotations

import os
from pathlib import Path

from deltavc.codec.digest import sha256_hex
from deltavc.errors import RepositoryUnwritable
from deltavc.ledger.segments import open_regular, read_lines

__all__ = ["append_line", "make_folder", "settle", "sync_file"]


def make_folder(folder: Path) -> None:
    """Makes a folder whose name survives a power cut.

    Args:
        folder: The folder; its parent is there.

    Raises:
        RepositoryUnwritable: It cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error


def append_line(path: Path, line: bytes) -> None:
    """Appends bytes to a file and waits until they are on disk; all of them or none.

    Args:
        path: The file; made where it is missing.
        line: What to append.

    Raises:
        RepositoryUnwritable: It could not be written; the file has its former length.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, line)
            os.fsync(handle)
            if size == 0:
                _sync_folder(path.parent)
        except OSError as error:
            os.ftruncate(handle, size)  # shrinking needs no space
            raise _unwritable(path, error) from error
    finally:
        os.close(handle)


def settle(path: Path, quarantine: Path) -> None:
    """Moves the torn end of a segment to the quarantine: evidence, and out of the way.

    A kill in between leaves the copy, and the same copy is made again next time.

    Args:
        path: The segment.
        quarantine: The folder for what was moved away.

    Raises:
        RepositoryUnwritable: It cannot be written.
    """
    if _ends_whole(path):
        return
    _, torn = read_lines(path)
    make_folder(quarantine)
    offset = path.stat().st_size - len(torn)
    copy = quarantine / f"{path.name}.{offset}.{sha256_hex(torn)[:16]}.torn"
    try:
        with copy.open("wb") as file:
            file.write(torn)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(quarantine)
        with path.open("r+b") as file:
            file.truncate(offset)
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def sync_file(path: Path) -> None:
    """Waits until a file is on disk.

    Args:
        path: The file.

    Raises:
        RepositoryUnwritable: The disk refuses.
    """
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def _ends_whole(path: Path) -> bool:
    with open_regular(path) as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> RepositoryUnwritable:
    return RepositoryUnwritable(
        f"'{path}' cannot be written: {error.strerror}", path=str(path), errno=error.errno
    )
