"""The catalog's file: its marks, who may replace it, and what goes wrong with it.

SQLite keeps a catalog in up to three files (``catalog.db``, ``-wal``, ``-shm``)
that belong together by name. Replacing the first while somebody is between
opening it and opening the others would mix two catalogs, so everybody holds a
``flock`` on the folder then: shared to open or to write, exclusive to replace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from deltavc.catalog.errors import CatalogUnusable

__all__ = [
    "APPLICATION_ID",
    "BUSY_SECONDS",
    "FAILURES",
    "SCHEMA",
    "check_marks",
    "connect",
    "connect_to_write",
    "guard",
    "remove_database",
    "sync_path",
    "unusable",
]

SCHEMA = 3
"""Number of the current schema; the last migration brings tables to it."""

APPLICATION_ID = 0x64767463
"""Marks the file as a catalog ("dvtc"), so that another database is not taken for one."""

BUSY_SECONDS = 30.0
FAILURES = (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError)
"""What SQLite raises: on damaged files its messages can be no UTF-8, on values beyond 64 bits
it overflows."""

_UNWRITABLE = (
    "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_PERM", "SQLITE_CANTOPEN",
    "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE",
)  # fmt: skip
_SIDE_FILES = ("-wal", "-shm", "-journal")


@contextlib.contextmanager
def guard(folder: Path, *, exclusive: bool, timeout: float = BUSY_SECONDS) -> Iterator[None]:
    """Keeps the catalog's file from being replaced meanwhile, or replaces it alone.

    Args:
        folder: The folder that the catalog is in.
        exclusive: The file is about to be made or replaced.
        timeout: Seconds to wait for others.

    Raises:
        CatalogUnusable: The folder is missing, or others took too long.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CatalogUnusable(
            f"the catalog's folder '{folder}' cannot be opened: {error.strerror}", reason="missing"
        ) from error
    try:
        _lock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, timeout)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, how: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise CatalogUnusable(
                    f"the catalog is in use by another process; waited {timeout:g} s",
                    reason="locked",
                ) from None
            time.sleep(0.005)
        except OSError:
            return  # a file system without flock: SQLite's own locks are all there is
        else:
            return


def check_marks(user_version: int, application_id: int, path: Path) -> None:
    """Refuses a database that is not a catalog of the current schema.

    Args:
        user_version: The file's ``PRAGMA user_version``.
        application_id: The file's ``PRAGMA application_id``.
        path: The file.

    Raises:
        CatalogUnusable: Another schema, or another program's database.
    """
    if user_version and application_id != APPLICATION_ID:
        raise CatalogUnusable(f"'{path}' is not a catalog of deltavc", reason="damaged")
    if user_version > SCHEMA:
        raise CatalogUnusable(
            f"the catalog has schema {user_version}, this deltavc knows schema {SCHEMA}",
            hint="upgrade deltavc: pip install --upgrade deltavc",
            reason="newer",
            found=user_version,
            supported=SCHEMA,
        )
    if user_version < SCHEMA:
        raise CatalogUnusable(
            f"the catalog has schema {user_version}, schema {SCHEMA} is needed",
            reason="older",
            found=user_version,
        )


def unusable(error: BaseException, path: Path) -> CatalogUnusable:
    """Returns the error for a failure of SQLite.

    Args:
        error: What SQLite, the operating system or the binding of a value raised.
        path: The catalog's file.

    Returns:
        The error, with its reason.
    """
    name = getattr(error, "sqlite_errorname", "") or ""
    if isinstance(error, FileNotFoundError) or not path.exists():
        reason, what = "missing", "is missing"
    elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        reason, what = "locked", "is locked by another process"
    elif name.startswith(_UNWRITABLE) or isinstance(error, OSError):
        reason, what = "unwritable", f"cannot be opened or written: {error}"
    else:
        reason, what = "damaged", f"is damaged: {error}"
    return CatalogUnusable(f"the catalog '{path}' {what}", reason=reason, path=str(path))


def connect(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """Opens a database file without ever making one by accident.

    Args:
        path: The file.
        mode: ``ro``, ``rw`` or ``rwc``.
        timeout: Seconds that SQLite waits for a lock.

    Returns:
        The connection, in autocommit mode: transactions are begun explicitly.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def connect_to_write(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """Opens a database file with the settings that make writes safe.

    Args:
        path: The file.
        mode: ``rw``, or ``rwc`` to make a new one.
        timeout: Seconds that SQLite waits for another writer.

    Returns:
        The connection, in autocommit mode.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = connect(path, mode, timeout)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if mode == "rwc":  # a lasting property of the file
            connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def remove_database(path: Path) -> None:
    """Removes a database and the files beside it, in an order that a kill cannot harm.

    The database goes first: a log of changes without its database is ignored by
    SQLite, a database without its log may be incomplete.

    Args:
        path: The database's file.

    Raises:
        OSError: It cannot be removed.
    """
    for name in (path.name, *(path.name + suffix for suffix in _SIDE_FILES)):
        path.with_name(name).unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Waits until a file or the names in a folder are on disk.

    Args:
        path: The file or folder.

    Raises:
        OSError: The disk refuses.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
