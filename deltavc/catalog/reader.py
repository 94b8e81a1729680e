"""Asking the catalog: read-only, through the standard library's sqlite3 alone.

Point look-ups instead of recursive queries: a look-up costs some microseconds at
any size, while the planner of a recursive query may choose to read whole tables.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Literal, Self

from deltavc.catalog import ancestry, files
from deltavc.catalog.line import Line, ParentLookup, marked_ancestors
from deltavc.catalog.reader_ship import ShipReader
from deltavc.catalog.readonly import ReadOnly, Row
from deltavc.catalog.rows import (
    BaseRow,
    CommitRow,
    EventRow,
    MeasurementRow,
    RefChangeRow,
    TagRow,
)
from deltavc.errors import UnknownRevision
from deltavc.ids import BaseId, CommitId, EventHash, MeasurementId, ObjectId, short

__all__ = ["CatalogReader"]

_FIRST_BATCH, _LARGEST_BATCH = 16, 512  # commits read at once by a log
_HEX = frozenset("0123456789abcdef")
_COMMIT = (
    "SELECT key, id, manifest, base, author, time, message, tool, generation, branch, source,"
    " run, exact, max_error, params, stored_bytes, event_number FROM commits"
)
_LISTED = "(SELECT value FROM json_each(?))"  # a list of any length as one bound value
_COMMITS_BY_ID = f"{_COMMIT} WHERE id IN {_LISTED}"
_COMMITS_BY_KEY = f"{_COMMIT} WHERE key IN {_LISTED}"
_TAGGED = (
    "SELECT t.id, c.id, t.message FROM tags t JOIN commits c ON c.key = t.commit_key"
    " WHERE t.id IN (SELECT value FROM json_each(?1))"
    " UNION ALL SELECT id, id, NULL FROM commits"
    " WHERE id IN (SELECT value FROM json_each(?1))"
)
_EVENT = (
    "SELECT number, hash, time, actor, command, summary, tool, reason, undoes, redoes,"
    " objects, detail FROM events"
)
_MEASUREMENT = (
    "SELECT m.id, c.id, m.kpi, m.value, m.samples, m.dataset, m.source, m.actor, m.time,"
    " m.event_number, m.stderr, m.values_id, m.dataset_sha256, m.slice, m.tool, m.seed,"
    " m.supersedes, m.reason,"
    " (SELECT s.id FROM measurements s WHERE s.key = m.superseded_by),"
    " EXISTS (SELECT 1 FROM latest_measurements l"
    "  WHERE l.commit_key = m.commit_key AND l.measurement_key = m.key)"
    " FROM measurements m JOIN commits c ON c.key = m.commit_key"
)
_LATEST = (
    "SELECT l.measurement_key, l.commit_key FROM latest_measurements l"
    " WHERE l.kpi = ? AND l.value IS NOT NULL"
)
_BEST = {
    "higher": f"{_LATEST} ORDER BY l.value DESC, l.commit_key DESC",
    "lower": f"{_LATEST} ORDER BY l.value, l.commit_key DESC",
}


class CatalogReader(ShipReader):
    """The catalog as those who ask see it; every method sees what was last committed.

    Args:
        path: The database's file.
        timeout: Seconds to wait where another process replaces or repairs the file;
            writers never make readers wait.

    Raises:
        CatalogUnusable: Missing, damaged, locked, or of another schema.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self.path = path
        self._db = ReadOnly(path, timeout)
        self._parents = ParentLookup(self._db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # state ----------------------------------------------------------------

    def applied(self) -> tuple[int, EventHash] | None:
        """Returns number and hash of the last event that the catalog holds; None for none."""
        number, event_hash = self._db.one("SELECT applied_number, applied_hash FROM meta")
        return (number, EventHash(event_hash)) if number else None

    def check(self) -> list[str]:
        """Lets SQLite check the whole file.

        Returns:
            What is wrong, in SQLite's words; none for a sound file.
        """
        found = [str(row[0]) for row in self._db.rows("PRAGMA integrity_check")]
        orphans = self._db.rows("PRAGMA foreign_key_check")
        return [text for text in found if text != "ok"] + [
            f"a row of {row[0]} refers to a missing row of {row[2]}" for row in orphans
        ]

    def refs(self) -> dict[str, str]:
        """Returns all refs with their values, by name."""
        return dict(self._db.rows("SELECT name, value FROM refs ORDER BY name"))

    def ref(self, name: str) -> str | None:
        """Returns the value of a ref; None if there is none of this name."""
        for row in self._db.rows("SELECT value FROM refs WHERE name = ?", name):
            return str(row[0])
        return None

    def tags(self) -> list[TagRow]:
        """Returns the tags by name, each with the commit that it stands for."""
        return [
            TagRow(name.removeprefix("tag:"), *rest)
            for name, *rest in self._db.rows(
                "SELECT r.name, COALESCE(c.id, r.value), t.id, t.tagger, t.time, t.message"
                " FROM refs r LEFT JOIN tags t ON t.id = r.value"
                " LEFT JOIN commits c ON c.key = t.commit_key"
                " WHERE r.name >= 'tag:' AND r.name < 'tag;' ORDER BY r.name"
            )
        ]

    def tagged(self, values: Iterable[str]) -> dict[str, tuple[CommitId, str | None]]:
        """Returns what values of tags stand for: a commit, and an annotated one's message."""
        listed = json.dumps(list(values))
        rows = self._db.rows(_TAGGED, listed)
        return {value: (oid, message) for value, oid, message in rows}

    def bases(self) -> list[BaseRow]:
        """Returns the named bases by name."""
        return [
            BaseRow._make((*row[:-1], bool(row[-1])))
            for row in self._db.rows(
                "SELECT name, source_id, fingerprint, path, source, copied FROM bases ORDER BY name"
            )
        ]

    # commits --------------------------------------------------------------

    def commit(self, oid: CommitId) -> CommitRow:
        """Returns a commit.

        Args:
            oid: Its id.

        Returns:
            The commit.

        Raises:
            UnknownRevision: The catalog holds none with this id.
        """
        for row in self.commits([oid]).values():
            return row
        raise _unknown(oid)

    def commits(self, ids: Iterable[CommitId]) -> dict[CommitId, CommitRow]:
        """Returns commits by id; those that the catalog does not hold are left out."""
        rows = self._db.rows(_COMMITS_BY_ID, json.dumps(list(ids)))
        return {commit.id: commit for commit in self._commit_rows(rows)}

    def find_prefix(self, prefix: str, *, limit: int = 100) -> list[CommitId]:
        """Returns the ids of commits that begin with some hex digits, sorted, up to a limit."""
        return [row[0] for row in self._by_prefix("SELECT id FROM commits", "id", prefix, limit)]

    def log(
        self,
        starts: Iterable[CommitId],
        *,
        exclude: Iterable[CommitId] = (),
        limit: int | None = None,
    ) -> Iterator[CommitRow]:
        """Yields commits and their ancestors, the one recorded last first.

        Args:
            starts: Where to begin.
            exclude: Left out together with all their ancestors.
            limit: Largest number of commits.

        Yields:
            Commits, a child always before its parents.

        Raises:
            UnknownRevision: A start or an excluded commit is not in the catalog.
        """
        keys = islice(self._walk(starts, exclude), limit)
        size = _FIRST_BATCH  # those who ask may stop soon, or go on to the end
        while batch := list(islice(keys, size)):
            rows = self._db.rows(_COMMITS_BY_KEY, json.dumps(batch))
            rows.sort(key=itemgetter(0), reverse=True)
            yield from self._commit_rows(rows)
            size = min(2 * size, _LARGEST_BATCH)

    def ancestors(
        self, starts: Iterable[CommitId], *, exclude: Iterable[CommitId] = ()
    ) -> Iterator[CommitId]:
        """Yields the ids that :meth:`log` would, faster: nothing else is read."""
        keys = self._walk(starts, exclude)
        while batch := list(islice(keys, _LARGEST_BATCH)):
            yield from (
                row[0]
                for row in self._db.rows(
                    "SELECT id FROM commits WHERE key IN (SELECT value FROM json_each(?))"
                    " ORDER BY key DESC",
                    json.dumps(batch),
                )
            )

    def parents(self, oid: CommitId) -> tuple[CommitId, ...]:
        """Returns the ids of a commit's parents, first parent first."""
        return tuple(
            row[0]
            for row in self._db.rows(
                "SELECT c.id FROM parents p JOIN commits c ON c.key = p.parent_key"
                " WHERE p.child_key = ? ORDER BY p.position",
                self.key(oid),
            )
        )

    def children(self, oid: CommitId) -> list[CommitId]:
        """Returns the ids of the commits that have this one as a parent, oldest first."""
        return [
            row[0]
            for row in self._db.rows(
                "SELECT c.id FROM parents p JOIN commits c ON c.key = p.child_key"
                " WHERE p.parent_key = ? ORDER BY p.child_key",
                self.key(oid),
            )
        ]

    def is_ancestor(self, ancestor: CommitId, oid: CommitId) -> bool:
        """Tells whether a commit is another one, or among its ancestors."""
        return ancestry.is_ancestor(self.key(ancestor), self.key(oid), self._parents)

    def line(self, early: CommitId, late: CommitId) -> Line:
        """Returns what the later of two commits came from and the earlier one did not."""
        return Line(self._db, self.key(early), self.key(late))

    def merge_bases(self, ours: CommitId, theirs: CommitId) -> list[CommitId]:
        """Returns the best common ancestors of two commits, the one recorded last first."""
        keys = ancestry.merge_bases(self.key(ours), self.key(theirs), self._parents)
        return [self._db.one("SELECT id FROM commits WHERE key = ?", key)[0] for key in keys]

    def labels(self, oid: CommitId) -> dict[str, str]:
        """Returns the labels of a commit, by name."""
        return dict(
            self._db.rows(
                "SELECT name, value FROM labels WHERE commit_key = ? ORDER BY name", self.key(oid)
            )
        )

    def commits_of_base(self, base: BaseId, *, limit: int | None = None) -> list[CommitId]:
        """Returns the ids of the commits that stand on a base, newest first, up to a limit."""
        return [
            row[0]
            for row in self._db.rows(
                "SELECT id FROM commits WHERE base = ? ORDER BY key DESC LIMIT ?",
                base,
                -1 if limit is None else limit,
            )
        ]

    # measurements ---------------------------------------------------------

    def measurements(self, oid: CommitId) -> list[MeasurementRow]:
        """Returns all measurements of a commit, oldest first."""
        return [
            _measurement(row)
            for row in self._db.rows(
                f"{_MEASUREMENT} WHERE m.commit_key = ? ORDER BY m.key", self.key(oid)
            )
        ]

    def measurement(self, oid: MeasurementId) -> MeasurementRow | None:
        """Returns a measurement by its id; None if there is none."""
        rows = self._db.rows(f"{_MEASUREMENT} WHERE m.id = ?", oid)
        return _measurement(rows[0]) if rows else None

    def find_measurement(self, prefix: str, *, limit: int = 100) -> list[MeasurementRow]:
        """Returns the measurements whose id begins with some hex digits, by id, up to a limit."""
        return [_measurement(row) for row in self._by_prefix(_MEASUREMENT, "m.id", prefix, limit)]

    def latest_rows(
        self, ids: Iterable[CommitId], kpis: Collection[str] | None = None
    ) -> dict[CommitId, dict[str, MeasurementRow]]:
        """Returns the measurements that count, in full.

        Args:
            ids: Commits.
            kpis: Only these series; default: all.

        Returns:
            Commit id to series (the KPI, with its slice in brackets) to measurement.
        """
        found: dict[CommitId, dict[str, MeasurementRow]] = {}
        for row in self._db.rows(
            f"{_MEASUREMENT} JOIN latest_measurements c_l ON c_l.measurement_key = m.key"
            f" AND c_l.commit_key = m.commit_key WHERE c.id IN {_LISTED} ORDER BY m.key",
            json.dumps(list(ids)),
        ):
            measured = _measurement(row)
            if kpis is None or measured.series in kpis:
                found.setdefault(measured.commit, {})[measured.series] = measured
        return found

    def kpis(self) -> dict[str, int]:
        """Returns the names under which anything was measured, with how many revisions have it."""
        return dict(
            self._db.rows("SELECT kpi, count(*) FROM latest_measurements GROUP BY kpi ORDER BY kpi")
        )

    def latest(
        self, ids: Iterable[CommitId], kpis: Collection[str] | None = None
    ) -> dict[CommitId, dict[str, float | None]]:
        """Returns the values that were recorded last.

        Args:
            ids: Commits.
            kpis: Only these; default: all.

        Returns:
            Commit id to KPI to value, None for NaN; commits and KPIs without any are left out.
        """
        found: dict[CommitId, dict[str, float | None]] = {}
        for oid, kpi, value in self._db.rows(
            "SELECT c.id, l.kpi, l.value FROM commits c"
            " JOIN latest_measurements l ON l.commit_key = c.key"
            " WHERE c.id IN (SELECT value FROM json_each(?)) ORDER BY c.key, l.kpi",
            json.dumps(list(ids)),
        ):
            if kpis is None or kpi in kpis:
                found.setdefault(oid, {})[kpi] = value
        return found

    def best(
        self,
        kpi: str,
        direction: Literal["higher", "lower"],
        *,
        within: CommitId | None = None,
    ) -> MeasurementRow | None:
        """Finds the best of the values that were recorded last for each commit.

        Args:
            kpi: The KPI.
            direction: Which values are better.
            within: Only this commit and its ancestors; default: all.

        Returns:
            The best measurement, of the commit recorded last where several are as good;
            None without one. NaN is never best.
        """
        marks = None if within is None else marked_ancestors(self._db, self.key(within))
        for key, commit in self._db.each(_BEST[direction], kpi):
            if marks is None or (commit < len(marks) and marks[commit]):
                return _measurement(self._db.one(f"{_MEASUREMENT} WHERE m.key = ?", key))
        return None

    # events ---------------------------------------------------------------

    def events(self, limit: int | None = None, *, before: int | None = None) -> list[EventRow]:
        """Returns events newest first.

        Args:
            limit: Largest number of events; default: all.
            before: Only events with a smaller number.

        Returns:
            The events.
        """
        return [
            self._event_row(row)
            for row in self._db.rows(
                f"{_EVENT} WHERE ?1 IS NULL OR number < ?1 ORDER BY number DESC LIMIT ?2",
                before,
                -1 if limit is None else limit,
            )
        ]

    def event(self, number: int) -> EventRow | None:
        """Returns an event by its number; None if there is none."""
        rows = self._db.rows(f"{_EVENT} WHERE number = ?", number)
        return self._event_row(rows[0]) if rows else None

    def find_event(self, prefix: str, *, limit: int = 100) -> list[EventRow]:
        """Returns the events whose hash begins with some hex digits, by hash, up to a limit."""
        return [self._event_row(row) for row in self._by_prefix(_EVENT, "hash", prefix, limit)]

    # plumbing -------------------------------------------------------------

    def _by_prefix(self, query: str, column: str, prefix: str, limit: int) -> list[Row]:
        if not prefix or not _HEX.issuperset(prefix):
            return []
        return self._db.rows(
            f"{query} WHERE {column} >= ? AND {column} < ? ORDER BY {column} LIMIT ?",
            prefix,
            prefix + "g",  # the first text behind all that continue the prefix in hex
            limit,
        )

    def key(self, oid: CommitId) -> int:
        """Returns the key of a commit: greater than those of its ancestors, else meaningless."""
        for row in self._db.rows("SELECT key FROM commits WHERE id = ?", oid):
            return int(row[0])
        raise _unknown(oid)

    def _walk(self, starts: Iterable[CommitId], exclude: Iterable[CommitId]) -> Iterator[int]:
        return ancestry.walk(
            [self.key(oid) for oid in starts],
            [self.key(oid) for oid in exclude],
            self._parents,
        )

    def _commit_rows(self, rows: list[Row]) -> Iterator[CommitRow]:
        parents: dict[int, list[CommitId]] = {}
        for child, parent in self._db.rows(
            "SELECT p.child_key, c.id FROM parents p JOIN commits c ON c.key = p.parent_key"
            " WHERE p.child_key IN (SELECT value FROM json_each(?))"
            " ORDER BY p.child_key, p.position",
            json.dumps([row[0] for row in rows]),
        ):
            parents.setdefault(child, []).append(parent)
        for key, oid, *fields in rows:
            row = CommitRow._make((oid, tuple(parents.get(key, ())), *fields))
            yield row._replace(exact=bool(row.exact))

    def _event_row(self, row: Row) -> EventRow:
        *fields, objects, detail = row
        refs = tuple(
            RefChangeRow(*change)
            for change in self._db.rows(
                "SELECT name, before, after FROM ref_changes WHERE event_number = ?"
                " ORDER BY position",
                row[0],
            )
        )
        try:
            ids = tuple(ObjectId(oid) for oid in json.loads(objects))
            return EventRow._make((*fields, refs, ids, json.loads(detail)))
        except (ValueError, TypeError, RecursionError) as error:
            raise files.unusable(error, self.path) from error


def _measurement(row: Row) -> MeasurementRow:
    return MeasurementRow._make((*row[:-1], bool(row[-1])))


def _unknown(oid: str) -> UnknownRevision:
    return UnknownRevision(f"no revision has the id '{short(oid)}'", revision=oid)
