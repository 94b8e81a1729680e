"""Statements that write rows, on a plain connection in a transaction of the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping

from deltavc.catalog.tables import COLUMNS, Row, insert_into
from deltavc.records.model import series_name, split_series

__all__ = ["Corrections", "by_ids", "insert", "rank_latest", "replace", "replace_latest"]

_PLAIN = COLUMNS["measurements"].index("place") + 1  # columns that every measurement fills
_NONE: Row = (None,) * (len(COLUMNS["measurements"]) - _PLAIN)


def by_ids(db: sqlite3.Connection, query: str, ids: Collection[str]) -> Iterator[Row]:
    """Returns the rows whose id is among some.

    Args:
        db: The connection.
        query: The statement up to its ``WHERE``.
        ids: The ids.
    """
    if not ids:
        return iter(())
    within = f"{query} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
    return db.execute(within, (json.dumps(sorted(ids)),))


def insert(db: sqlite3.Connection, rows: Mapping[str, list[Row]]) -> None:
    """Adds rows, table after table in an order in which none refers to a later one.

    Args:
        db: The connection.
        rows: Table to rows.
    """
    for table in COLUMNS:
        found = rows.get(table)
        if not found:
            continue
        if table == "measurements":
            # Values are bound one by one: leaving out what few rows have saves a third.
            plain = [row[:_PLAIN] for row in found if row[_PLAIN:] == _NONE]
            found = [row for row in found if row[_PLAIN:] != _NONE]
            db.executemany(insert_into(table, _PLAIN), plain)
        db.executemany(insert_into(table), found)


def replace(db: sqlite3.Connection, table: str, rows: Mapping[str, Row | None]) -> None:
    """Puts rows in the place of those of the same name; None leaves none there.

    Args:
        db: The connection.
        table: A table whose first column is ``name``.
        rows: Name to row.
    """
    if not rows:
        return
    query = f"DELETE FROM {table} WHERE name IN (SELECT value FROM json_each(?))"  # noqa: S608
    db.execute(query, (json.dumps(list(rows)),))
    db.executemany(insert_into(table), [row for row in rows.values() if row is not None])


def replace_latest(db: sqlite3.Connection, rows: Collection[Row]) -> None:
    """Puts values in the place of those that counted in their series.

    Args:
        db: The connection.
        rows: Rows of ``latest_measurements``.
    """
    db.executemany(
        "DELETE FROM latest_measurements WHERE commit_key = ? AND kpi = ?",
        [row[:2] for row in rows],
    )
    db.executemany(insert_into("latest_measurements"), rows)


def rank_latest(db: sqlite3.Connection) -> None:
    """Fills the empty table of what counts, as if nothing had been corrected.

    Args:
        db: The connection.
    """
    # Of the columns beside a max(), SQLite takes the row that has it.
    db.execute(
        "INSERT INTO latest_measurements (commit_key, kpi, measurement_key, value)"
        " SELECT commit_key, CASE WHEN slice IS NULL THEN kpi ELSE kpi || '[' || slice || ']' END"
        " AS series, max(key), value FROM measurements GROUP BY commit_key, series"
    )


class Corrections:
    """What measurements correct, and what counts in the series that have a correction."""

    def __init__(self) -> None:
        self._series: dict[str, tuple[int, int, str, int]] = {}  # of what is corrected, by id
        self._corrected: dict[int, int] = {}  # key of what is superseded -> key of the correction
        self._unsettled: dict[tuple[int, str], None] = {}  # series that have a correction
        self._wanted: set[str] = set()

    def look_up(self, db: sqlite3.Connection, ids: set[str]) -> None:
        """Finds the rows of earlier measurements that the ones of a batch correct.

        Args:
            db: The connection.
            ids: What they correct.
        """
        self._wanted, self._series = ids, {}
        query = "SELECT id, key, commit_key, kpi, slice, coalesce(place, key) FROM measurements"
        for oid, key, commit_key, kpi, part, place in by_ids(db, query, ids):
            self._series[oid] = (key, commit_key, series_name(kpi, part), place)

    def place(
        self, oid: str, supersedes: str | None, key: int, commit_key: int, series: str
    ) -> int:
        """Notes what a measurement corrects; returns its place among those of its series."""
        old = self._series.get(supersedes) if supersedes is not None else None
        place = key
        if old is not None:
            old_key, old_commit, old_series, old_place = old
            self._corrected.setdefault(old_key, key)
            self._unsettled[old_commit, old_series] = self._unsettled[commit_key, series] = None
            if (old_commit, old_series) == (commit_key, series):
                place = old_place
        if oid in self._wanted:
            self._series[oid] = (key, commit_key, series, place)
        return place

    def settle(self, db: sqlite3.Connection) -> None:
        """Writes what is superseded, and what counts instead.

        Args:
            db: The connection; all measurements that were given a place have rows.
        """
        db.executemany(
            "UPDATE measurements SET superseded_by = ? WHERE key = ? AND superseded_by IS NULL",
            [(new, old) for old, new in self._corrected.items()],
        )
        db.executemany(
            "DELETE FROM latest_measurements WHERE commit_key = ? AND kpi = ?", self._unsettled
        )
        db.executemany(insert_into("latest_measurements"), list(self._counting(db)))
        self._corrected, self._unsettled = {}, {}

    def _counting(self, db: sqlite3.Connection) -> Iterable[Row]:
        for commit_key, series in self._unsettled:
            kpi, part = split_series(series)
            yield from db.execute(
                "SELECT commit_key, ?2, key, value FROM measurements WHERE commit_key = ?1"
                " AND (kpi = ?2 AND slice IS NULL OR kpi = ?3 AND slice = ?4)"
                " AND superseded_by IS NULL ORDER BY place DESC, key DESC LIMIT 1",
                (commit_key, series, kpi, part),
            )
