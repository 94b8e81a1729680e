"""A read-only connection to the catalog that fails in one way only."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltavc.catalog import files
from deltavc.catalog.errors import CatalogUnusable

__all__ = ["ReadOnly", "Row"]

Row = tuple[Any, ...]


class ReadOnly:
    """Runs queries on the catalog's file without ever writing to it.

    Args:
        path: The database's file.
        timeout: Seconds to wait where another process replaces or repairs the file.

    Raises:
        CatalogUnusable: Missing, damaged, locked, or of another schema.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        if not path.exists():
            raise files.unusable(FileNotFoundError(), path)
        with files.guard(path.parent, exclusive=False, timeout=timeout):
            try:
                self._connection = self._connect(timeout)
            except CatalogUnusable as error:
                # On a read-only disk nobody writes, and SQLite may do without its side files.
                if error.context["reason"] != "unwritable" or not _on_read_only_disk(path):
                    raise
                self._connection = self._connect(timeout, mode="ro&immutable=1")

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection itself, for those who guard it further."""
        return self._connection

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[Row]:
        """Returns all rows of a query.

        Args:
            query: One statement.
            values: What its question marks stand for.

        Returns:
            The rows.

        Raises:
            CatalogUnusable: SQLite cannot answer.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except files.FAILURES as error:
            raise files.unusable(error, self.path) from error

    def each(self, query: str, *values: object) -> Iterator[Row]:
        """Yields the rows of a query one by one, for those who may stop early.

        Args:
            query: One statement.
            values: What its question marks stand for.

        Yields:
            The rows.

        Raises:
            CatalogUnusable: SQLite cannot answer.
        """
        try:
            yield from self._connection.execute(query, values)
        except files.FAILURES as error:
            raise files.unusable(error, self.path) from error

    def one(self, query: str, *values: object) -> Row:
        """Returns the row of a query that has just one.

        Args:
            query: One statement.
            values: What its question marks stand for.

        Returns:
            The row.

        Raises:
            CatalogUnusable: There is none, or more, or SQLite cannot answer.
        """
        rows = self.rows(query, *values)
        if len(rows) != 1:
            raise CatalogUnusable("the catalog's tables do not agree", reason="damaged")
        return rows[0]

    def _connect(self, timeout: float, mode: str = "ro") -> sqlite3.Connection:
        try:
            connection = files.connect(self.path, mode, timeout)
        except files.FAILURES as error:
            raise files.unusable(error, self.path) from error
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            files.check_marks(version, application, self.path)
            # The first read also opens the side files, while the guard is held.
            if connection.execute("SELECT schema FROM meta").fetchall() != [(files.SCHEMA,)]:
                raise CatalogUnusable("the catalog's marks do not agree", reason="damaged")
        except files.FAILURES as error:
            connection.close()
            raise files.unusable(error, self.path) from error
        except CatalogUnusable:
            connection.close()
            raise
        return connection


def _on_read_only_disk(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
