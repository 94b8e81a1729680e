"""Other people's SQL on the catalog: reading only, within limits.

A statement runs on a read-only connection behind an authorizer that knows what is
harmless and refuses the rest, under a limit of time, rows, bytes and memory. Values
come in bound, never as text of the statement. The handler that watches the clock is
not asked within one call of a function, so functions whose one call can take hours
(``printf`` with a width, ``instr``, ``replace`` and ``trim`` of two long texts) are kept
to the views or replaced by ones that take linear time.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deltavc.catalog import files
from deltavc.catalog.errors import CatalogUnusable
from deltavc.catalog.query_functions import (
    FUNCTIONS,
    IN_VIEWS,
    LINEAR,
    LONGEST,
    SCHEMA_TABLES,
    TABLE_FUNCTIONS,
    Value,
)
from deltavc.catalog.readonly import ReadOnly
from deltavc.errors import UsageError

__all__ = ["LIMITS", "Answer", "Limits", "Value", "query", "refused", "run"]


@dataclass(frozen=True)
class Limits:
    """How much a query may take.

    Attributes:
        seconds: Time; asked for every few thousand steps of SQLite's machine.
        rows: Rows of the answer; what is beyond them is cut, and the answer says so.
        bytes: Bytes of texts in the answer; cut likewise.
        memory: Bytes that SQLite may hold in this process meanwhile.
    """

    seconds: float = 10.0
    rows: int = 10_000
    bytes: int = 64 << 20
    memory: int = 512 << 20


LIMITS = Limits()


class Answer(NamedTuple):
    """The rows of a query, and whether there would have been more."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    cut: bool


_STEPS = 5000  # of SQLite's machine between two looks at the clock: well under a millisecond
_SMALL = {
    sqlite3.SQLITE_LIMIT_LENGTH: LONGEST,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,  # a pattern of many % takes exponential time
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 999,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_SEPARATE = threading.Lock()  # the limit of memory is one for the whole process


def run(
    path: Path, sql: str, values: Mapping[str, Value] | None = None, *, limits: Limits = LIMITS
) -> Answer:
    """Runs one SELECT on a catalog.

    Args:
        path: The catalog's file, or a database with its views as tables.
        sql: One statement; ``:name`` stands for a value.
        values: The values by name.
        limits: How much it may take.

    Returns:
        The answer.

    Raises:
        UsageError: It is no single SELECT, names what is not there, asks for what is
            not allowed, lacks a value, or takes too long.
        CatalogUnusable: The catalog cannot be read.
    """
    db = ReadOnly(path, files.BUSY_SECONDS)
    try:
        return query(db.connection, path, sql, values or {}, limits)
    finally:
        db.close()


def query(
    connection: sqlite3.Connection,
    path: Path,
    sql: str,
    values: Mapping[str, Value],
    limits: Limits,
) -> Answer:
    """Runs one SELECT on a connection that is of no other use afterwards.

    Args:
        connection: Opened for reading only.
        path: Its file, for messages.
        sql: One statement.
        values: The values by name.
        limits: How much it may take.

    Returns:
        The answer.

    Raises:
        UsageError: As in :func:`run`.
        CatalogUnusable: The catalog cannot be read.
    """
    _check_text(sql)
    guard = _Guard(connection, limits)
    try:
        with _little_memory(connection, limits.memory):
            guard.close_gates()
            cursor = connection.execute(sql, dict(values))
            if cursor.description is None:
                raise refused("the query asks for nothing: it is no SELECT")
            columns = tuple(str(column[0]) for column in cursor.description)
            return Answer(columns, *_fetch(cursor, limits))
    except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, UnicodeError) as error:
        raise _refusal(error, guard, limits, path) from error


def refused(message: str, *, hint: str = "", **context: object) -> UsageError:
    """Returns the error for a query that is not run, or not to its end."""
    return UsageError(
        message, hint=hint or "see what there is: deltavc audit query --views", **context
    )


def _check_text(sql: str) -> None:
    if "\0" in sql:
        raise refused("the query holds a NUL character")
    if not sql.strip():
        raise refused("the query is empty")
    try:
        sql.encode("utf-8")
    except UnicodeError as error:
        raise refused("the query is not valid text") from error


def _fetch(cursor: sqlite3.Cursor, limits: Limits) -> tuple[list[tuple[Value, ...]], bool]:
    rows: list[tuple[Value, ...]] = []
    left = limits.bytes
    for row in cursor:
        left -= sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if len(rows) == limits.rows or (left < 0 and rows):
            return rows, True
        rows.append(row)
    return rows, False


class _Guard:
    """The authorizer and the clock of a query, and what they refused."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self.connection = connection
        self.deadline = time.monotonic() + limits.seconds
        self.late = False
        self.denied = ""
        named = [
            (str(name).lower(), kind == "view")
            for name, kind in connection.execute(
                "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')"
            )
        ]
        self.tables = SCHEMA_TABLES | TABLE_FUNCTIONS | {name for name, _ in named}
        self.views = {name for name, is_view in named if is_view}

    def close_gates(self) -> None:
        """Lets nothing through from here on that is not harmless."""
        # Views use JSON, which SQLite trusts no schema with; the authorizer sees to functions.
        self.connection.execute("PRAGMA trusted_schema = ON")
        # A table function is declared at its first use, which an authorizer would refuse.
        self.connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
        for name, arguments, function in LINEAR:
            self.connection.create_function(name, arguments, function, deterministic=True)
        for kind, most in _SMALL.items():
            self.connection.setlimit(kind, most)
        self.connection.set_progress_handler(self._watch, _STEPS)
        self.connection.set_authorizer(self._allow)

    def _watch(self) -> int:
        self.late = self.late or time.monotonic() > self.deadline
        return int(self.late)

    def _allow(
        self, action: int, one: str | None, two: str | None, database: str | None, via: str | None
    ) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            if not two and database is None:
                return sqlite3.SQLITE_OK  # the rows of a subquery are counted
            if (one or "").lower() in self.tables and database == "main":
                return sqlite3.SQLITE_OK
            self.denied = self.denied or f"reading '{one}'"
        elif action == sqlite3.SQLITE_FUNCTION:
            name = (two or "").lower()
            if name in FUNCTIONS or (name in IN_VIEWS and (via or "").lower() in self.views):
                return sqlite3.SQLITE_OK
            self.denied = self.denied or f"the function '{two}'"
        else:
            self.denied = self.denied or "anything but reading"
        return sqlite3.SQLITE_DENY


@contextmanager
def _little_memory(connection: sqlite3.Connection, most: int) -> Iterator[None]:
    """Bounds what SQLite may hold; a heap limit that is lower already stays."""
    with _SEPARATE:
        before = int(connection.execute("PRAGMA hard_heap_limit").fetchone()[0])
        connection.execute("PRAGMA temp_store = MEMORY")  # what is sorted is bounded too, that way
        connection.execute(f"PRAGMA hard_heap_limit = {min(most, before or most)}")
        try:
            yield
        finally:
            connection.set_authorizer(None)
            connection.set_progress_handler(None, 0)
            connection.execute(f"PRAGMA hard_heap_limit = {before}")


def _refusal(
    error: BaseException, guard: _Guard, limits: Limits, path: Path
) -> UsageError | CatalogUnusable:
    """Returns what to say of a failure: whose fault it is, and what can be done."""
    if guard.late:
        return refused(
            f"the query took longer than {limits.seconds:g} s and was stopped",
            hint="narrow it, or give it more time: deltavc audit query --timeout SECONDS",
            seconds=limits.seconds,
        )
    if guard.denied:
        return refused(f"a query may only read views and tables, and {guard.denied} is not allowed")
    name = getattr(error, "sqlite_errorname", "") or ""
    if isinstance(error, MemoryError) or name.startswith(("SQLITE_NOMEM", "SQLITE_TOOBIG")):
        return refused(
            f"the query needs more than {limits.memory >> 20} MiB of memory", hint="narrow it"
        )
    mine = name in ("SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_RANGE", "")
    if not mine:
        return files.unusable(error, path)
    return refused(f"the query cannot be run: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:1].lower() + text[1:]
