"""Filling a new catalog that nobody else has open: without journal, indexes at the end.

A catalog is made anew beside the old one and renamed when it is whole, so one that is
broken off is thrown away, and nothing that guards against that is needed meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deltavc.catalog import files

__all__ = ["filled"]

_CACHE_KIB = 1 << 17  # unique indexes on ids are filled in no order: 75 bytes an id
_WHILE_FILLING = (
    "journal_mode = OFF",
    "synchronous = OFF",
    "foreign_keys = OFF",  # keys are made here; a test compares with a catalog that has them on
    f"cache_size = -{_CACHE_KIB}",
)


@contextmanager
def filled(
    path: Path, busy_seconds: float
) -> Iterator[tuple[sqlite3.Connection, Callable[[], None]]]:
    """Opens a new catalog to be filled in one go.

    Args:
        path: Its file, with tables that are empty.
        busy_seconds: Seconds to wait for a lock; there is none unless two do the same.

    Yields:
        The connection, in a transaction, and what makes the indexes once there are rows.
        When the block ends well the file is one with a write-ahead log again; the caller
        waits for the disk.

    Raises:
        sqlite3.Error: It cannot be written.
    """
    connection = files.connect_to_write(path, "rw", busy_seconds)
    try:
        for setting in _WHILE_FILLING:
            connection.execute(f"PRAGMA {setting}").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        yield connection, _without_indexes(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    finally:
        connection.close()


def _without_indexes(connection: sqlite3.Connection) -> Callable[[], None]:
    """Drops the indexes, but those of unique columns; returns what makes them again."""
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        " ORDER BY rowid"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f'DROP INDEX "{name}"')

    def make_indexes() -> None:
        for _, sql in indexes:
            connection.execute(sql)

    return make_indexes
