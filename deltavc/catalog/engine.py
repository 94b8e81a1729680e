"""SQLAlchemy on the catalog's file, with the settings that make its writes safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from deltavc.catalog.files import connect_to_write

__all__ = ["make_engine"]


def make_engine(path: Path, mode: str, busy_seconds: float) -> Engine:
    """Returns an engine whose connections are opened when used and closed right after.

    No connection is kept: one that outlived a replacement of the file would delete
    the new file's write-ahead log when it is closed.

    Args:
        path: The database's file.
        mode: ``rw``, or ``rwc`` to make a new one.
        busy_seconds: How long SQLite waits for another writer.

    Returns:
        The engine.
    """
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: connect_to_write(path, mode, busy_seconds),
        poolclass=NullPool,
    )
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection | Any) -> None:
    """Takes the write lock at once.

    SQLite refuses a transaction that reads first and writes later when another writer
    came in between, and no busy timeout helps then.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")
