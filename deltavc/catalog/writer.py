"""Keeping the catalog: made by migrations, moved forward by events, made anew from files.

Migrations import SQLAlchemy, which costs a good part of a second; rows are written, as
they are read, through the standard library alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol, Self

from deltavc.catalog import files
from deltavc.catalog.errors import CatalogUnusable
from deltavc.catalog.fresh import filled
from deltavc.catalog.projection import Entry, Load, Projection, Skipped
from deltavc.ids import EventHash

__all__ = ["Applied", "Catalog", "Log"]

Applied = tuple[int, EventHash]
"""Number and hash of the last event that the catalog holds."""

_BATCH = 1000  # events of one transaction when catching up: a second of work, a few MB of rows


class Log(Protocol):
    """The part of an event log that the catalog needs."""

    def read(self, start: int = 1) -> Iterator[Entry]:
        """Yields the events from a number on, oldest first."""
        ...


class Catalog:
    """The catalog as its writer sees it. It holds nothing open between two calls.

    Args:
        path: The database's file.
        busy_seconds: How long to wait for other writers.
    """

    def __init__(self, path: Path, *, busy_seconds: float = files.BUSY_SECONDS) -> None:
        self.path = path
        self.busy_seconds = busy_seconds

    @classmethod
    def open_or_create(cls, path: Path, *, busy_seconds: float = files.BUSY_SECONDS) -> Self:
        """Opens a catalog; makes its tables, or brings them to the current schema, if needed.

        Args:
            path: The database's file.
            busy_seconds: How long to wait for other writers.

        Returns:
            The catalog.

        Raises:
            CatalogUnusable: Damaged, locked, unwritable, or of a newer schema.
        """
        catalog = cls(path, busy_seconds=busy_seconds)
        with files.guard(path.parent, exclusive=False, timeout=busy_seconds):
            current = catalog._is_current()
        if not current:
            with files.guard(path.parent, exclusive=True, timeout=busy_seconds):
                if not catalog._is_current():  # another process may have been first
                    catalog._migrate()
        return catalog

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of the catalog."""

    def applied(self) -> Applied:
        """Returns number and hash of the last event applied.

        Returns:
            Both; 0 and 64 zeros for an empty catalog.

        Raises:
            CatalogUnusable: The catalog cannot be read.
        """
        with self._transaction() as connection:
            return _applied(connection)

    def apply(
        self, events: Sequence[Entry], load: Load, *, skipped: Skipped | None = None
    ) -> Applied:
        """Adds the rows of events and moves ``applied``, in one transaction.

        Events that are in the catalog already are passed over, so two processes may
        apply the same ones.

        Args:
            events: Events in order.
            load: Returns the canonical body of an object, by kind and id.
            skipped: When given, it is told of objects that cannot be loaded and they are
                left out; else they raise.

        Returns:
            Number and hash of the last event that is applied now.

        Raises:
            CatalogUnusable: A gap between the catalog and the events, another history, or
                the catalog cannot be written.
            ObjectMissing: An object that an event brought is not there.
            ObjectCorrupt: An object is not what its kind says.
            AuditChainBroken: An event's detail is malformed.
        """
        with self._transaction() as connection:
            applied = _applied(connection)
            todo = _unapplied(events, applied)
            if not todo:
                return applied
            Projection(connection, load, skipped).write(todo)
            return _note_applied(connection, todo[-1])

    def catch_up(self, log: Log, load: Load, *, skipped: Skipped | None = None) -> Applied:
        """Applies what a log has and the catalog lacks, a thousand events a transaction.

        Args:
            log: The event log.
            load: As in :meth:`apply`.
            skipped: As in :meth:`apply`.

        Returns:
            Number and hash of the last event that is applied now.

        Raises:
            CatalogUnusable: As in :meth:`apply`; ``diverged`` also when the catalog is
                ahead of the log, as after a power cut that cost the log its end.
            ObjectMissing: As in :meth:`apply`.
            ObjectCorrupt: As in :meth:`apply`.
            AuditChainBroken: The log is broken.
        """
        applied = self.applied()
        # Reading begins at the last applied event itself, to see that it is the log's.
        entries = log.read(max(1, applied[0]))
        if applied[0] > 0:
            first = next(entries, None)
            if first is None or (first[0].number, first[1]) != applied:
                raise _diverged(applied[0])
        while batch := list(islice(entries, _BATCH)):
            applied = self.apply(batch, load, skipped=skipped)
        return applied

    def rebuild(self, log: Log, load: Load, *, skipped: Skipped | None = None) -> Applied:
        """Makes the catalog anew, beside, and puts it in the old one's place.

        The caller holds the repository's lock, so that no two rebuild at once. Readers
        go on with the old file until they open the new one.

        Args:
            log: The event log.
            load: As in :meth:`apply`.
            skipped: As in :meth:`apply`.

        Returns:
            Number and hash of the last event applied.

        Raises:
            CatalogUnusable: The folder cannot be written, or another process keeps the
                catalog busy.
            ObjectMissing: As in :meth:`apply`.
            ObjectCorrupt: As in :meth:`apply`.
            AuditChainBroken: The log is broken.
        """
        beside = self.path.with_name(f"{self.path.name}.rebuild")
        try:
            files.remove_database(beside)  # what a killed rebuild left
            fresh = type(self)(beside, busy_seconds=self.busy_seconds)
            fresh._migrate()
            applied = fresh._fill(log, load, skipped)
            files.sync_path(beside)
            with files.guard(self.path.parent, exclusive=True, timeout=self.busy_seconds):
                files.remove_database(self.path)
                beside.rename(self.path)
                files.sync_path(self.path.parent)
        except OSError as error:
            raise files.unusable(error, self.path) from error
        return applied

    def _fill(self, log: Log, load: Load, skipped: Skipped | None) -> Applied:
        """Applies all of a log to a new catalog that nobody else has open."""
        applied: Applied = (0, EventHash("0" * 64))
        with self._failing(), filled(self.path, self.busy_seconds) as (connection, make_indexes):
            projection = Projection(connection, load, skipped, fresh=True)
            entries = iter(log.read(1))
            while batch := list(islice(entries, _BATCH)):
                projection.write(_unapplied(batch, applied))
                applied = _note_applied(connection, batch[-1])
            projection.finish(make_indexes)
        return applied

    def _is_current(self) -> bool:
        if not self.path.exists():
            return False
        try:
            connection = files.connect(self.path, "rw", self.busy_seconds)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                application = connection.execute("PRAGMA application_id").fetchone()[0]
            finally:
                connection.close()
        except files.FAILURES as error:
            raise files.unusable(error, self.path) from error
        try:
            files.check_marks(version, application, self.path)
        except CatalogUnusable as error:
            if error.context["reason"] == "older":
                return False
            raise
        return True

    def _migrate(self) -> None:
        from deltavc.catalog.migrate import migrate

        if not self.path.exists():
            self._remove_side_files()
        migrate(self.path, self.busy_seconds)

    def _remove_side_files(self) -> None:
        try:
            files.remove_database(self.path)
        except OSError as error:
            raise files.unusable(error, self.path) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Begins a transaction that writes, on a connection of its own.

        None is kept: one that outlived a replacement of the file would delete the new
        file's write-ahead log when it is closed. The write lock is taken at once: SQLite
        refuses a transaction that reads first and writes later when another writer came in
        between, and no busy timeout helps then.
        """
        guarded = files.guard(self.path.parent, exclusive=False, timeout=self.busy_seconds)
        with guarded, self._failing():
            connection = files.connect_to_write(self.path, "rw", self.busy_seconds)
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()  # what is not committed is rolled back

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except files.FAILURES as error:
            raise files.unusable(error, self.path) from error


def _applied(connection: sqlite3.Connection) -> Applied:
    row = connection.execute("SELECT applied_number, applied_hash FROM meta").fetchone()
    if row is None:
        raise CatalogUnusable("the catalog does not say which events it holds", reason="damaged")
    return row[0], EventHash(row[1])


def _note_applied(connection: sqlite3.Connection, last: Entry) -> Applied:
    applied = last[0].number, last[1]
    connection.execute("UPDATE meta SET applied_number = ?, applied_hash = ?", applied)
    return applied


def _unapplied(events: Iterable[Entry], applied: Applied) -> list[Entry]:
    """Returns the events behind the applied one, having seen that they follow it."""
    todo: list[Entry] = []
    number, prev = applied
    for event, event_hash in events:
        if event.number < applied[0]:
            continue
        if event.number == applied[0]:
            if event_hash != applied[1]:
                raise _diverged(event.number)
            continue
        if event.number != number + 1:
            raise CatalogUnusable(
                f"the catalog is at event {number}, event {event.number} cannot follow",
                reason="gap",
                applied=number,
                given=event.number,
            )
        if event.prev != prev:
            raise _diverged(event.number)
        todo.append((event, event_hash))
        number, prev = event.number, event_hash
    return todo


def _diverged(number: int) -> CatalogUnusable:
    return CatalogUnusable(
        f"the catalog and the event log differ at event {number}", reason="diverged", number=number
    )
