"""Rows of the views that belong to some events, for tables that are handed out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.catalog.queries import SavedQuery, names, saved
from deltavc.catalog.readonly import ReadOnly
from deltavc.catalog.views import views
from deltavc.ledger.protocol import Entry

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["tables", "write_database", "write_metadata"]

_Row = tuple[Any, ...]
_EVENT = ("event", "number")
"""Columns that say which event brought a row."""
_COMMIT = ("revision", "child")
"""Columns that name the commit that a row belongs to, where no event is named."""
_INDEXED = ("id", "revision", "child", "parent", "number", "event", "environment", "sha256")


def tables(
    repo: Repository, events: Sequence[Entry], *, whole: bool, only: Sequence[str] | None = None
) -> Iterator[tuple[str, list[str], Iterator[_Row]]]:
    """Yields the views with the rows that some events brought.

    Args:
        repo: The repository; its catalog is brought in step first.
        events: The events.
        whole: These are all events there are.
        only: Names of views; default: all.

    Yields:
        Name, columns and rows of each view; the rows are to be read before the next.

    Raises:
        CatalogUnusable: There is no catalog, and none can be made.
    """
    with repo.reader() as reader:
        path = reader.path
    db = ReadOnly(path, 30.0)
    try:
        db.rows("PRAGMA trusted_schema = ON")  # views use JSON, which is trusted to none else
        db.rows("BEGIN")
        numbers = None if whole else {event.number for event, _ in events}
        commits: set[str] = set()
        for name, view in views().items():  # commits come first
            if only is not None and name not in only:
                continue
            columns = list(view.columns)
            listed = ", ".join(f'"{column}"' for column in columns)
            rows = db.each(f"SELECT {listed} FROM {name}")  # noqa: S608 - names of our views
            if numbers is not None:
                rows = _of_events(name, columns, rows, numbers, commits)
            yield name, columns, rows
    finally:
        db.close()


def _of_events(
    name: str, columns: Sequence[str], rows: Iterator[_Row], numbers: set[int], commits: set[str]
) -> Iterator[_Row]:
    event = next((columns.index(c) for c in _EVENT if c in columns), None)
    commit = next((columns.index(c) for c in _COMMIT if c in columns), None)
    for row in rows:
        number = None if event is None else row[event]
        if number is None and name == "v_approvals":  # a request without an approval yet
            number = int(str(row[columns.index("request")])[2:])
        if number in numbers or (event is None and commit is not None and row[commit] in commits):
            if name == "v_commits":
                commits.add(row[columns.index("id")])
            yield row


def write_database(repo: Repository, events: Sequence[Entry], path: Path, *, whole: bool) -> None:
    """Writes the views as plain tables of the same names.

    Args:
        repo: The repository.
        events: The events whose rows are wanted.
        path: The database to make.
        whole: These are all events there are.

    Raises:
        OSError: It cannot be written.
        CatalogUnusable: There is no catalog, and none can be made.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("BEGIN")
            for name, columns, rows in tables(repo, events, whole=whole):
                listed = ", ".join(f'"{column}"' for column in columns)
                db.execute(f"CREATE TABLE {name} ({listed})")
                marks = ", ".join("?" * len(columns))
                db.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)  # noqa: S608
                for column in columns:
                    if column in _INDEXED:
                        db.execute(f'CREATE INDEX "{name}_{column}" ON {name} ("{column}")')
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise OSError(None, str(error)) from error


def write_metadata(path: Path, database: Path, name: str) -> None:
    """Writes what Datasette shows beside a database: meanings, and the saved queries.

    Args:
        path: The file.
        database: The database. Queries that look behind the views, for speed, are left out:
            it has no more than the views.
        name: Name of the database, without its ending.

    Raises:
        OSError: It cannot be written.
    """
    described = {
        table: {"description": view.about, "columns": dict(view.columns)}
        for table, view in views().items()
    }
    queries = {
        found.name: {
            "title": found.title,
            "description": "; ".join(f"{p.name}: {p.about}" for p in found.params),
            "sql": found.sql,
            "params": [param.name for param in found.params],
        }
        for found in map(saved, names())
        if _runs_on(database, found)
    }
    metadata = {
        "title": "Audit trail of a deltavc repository",
        "description": "Who did what, when and why; what was live, measured and approved.",
        "databases": {name: {"tables": described, "queries": queries}},
    }
    path.write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _runs_on(database: Path, found: SavedQuery) -> bool:
    with closing(sqlite3.connect(database)) as db:
        try:
            values = {param.name: "" for param in found.params}
            db.execute(f"EXPLAIN {found.sql}", values)
        except sqlite3.Error:
            return False
    return True
