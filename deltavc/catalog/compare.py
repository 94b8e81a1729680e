"""The catalog's rows against what the files say: every row, every column.

:class:`EventRows` compares the rows of events while the log is read, at a few
microseconds each. :func:`differences` compares all tables, and what makes them, with
those of a catalog that was made from the files just now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from deltavc.catalog.readonly import ReadOnly, Row
from deltavc.ids import EventHash
from deltavc.records import canonical
from deltavc.records.model import Event

__all__ = ["EVENT_TABLES", "Difference", "EventRows", "differences"]

MOST = 20
"""Differences of one table that are told one by one."""

EVENT_TABLES = ("events", "ref_changes")
"""Tables that :class:`EventRows` compares; those of refs too, where the catalog is in step."""

_EVENTS = (
    "number", "hash", "time", "actor", "command", "summary", "tool", "reason", "undoes", "redoes",
    "objects", "detail", "host", "user",
)  # fmt: skip
_CHANGES = ("event_number", "position", "name", "before", "after")
_EVERY_EVENT = (
    "SELECT number, hash, time, actor, command, summary, tool, reason, undoes, redoes,"
    ' objects, detail, host, "user" FROM events ORDER BY number'
)
_EVERY_CHANGE = (
    "SELECT event_number, position, name, before, after FROM ref_changes"
    " ORDER BY event_number, position"
)


class Difference(NamedTuple):
    """A row that is not what the files say.

    Attributes:
        table: The table; ``schema`` for what makes tables and views.
        what: What is the matter, as the rest of a sentence that begins with the table.
        event: Number of the event that the row belongs to, where it says one.
    """

    table: str
    what: str
    event: int | None


class EventRows:
    """Compares the rows of events with the events, one after the other.

    Args:
        path: The catalog's file.
        timeout: Seconds to wait for others.

    Attributes:
        db: The catalog as it was at the beginning.
        applied: Number and hash of the last event that the catalog says it holds.
        compared: How many rows have been compared.
        found: What differs, at most some of it.

    Raises:
        CatalogUnusable: The catalog cannot be read.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self.db = ReadOnly(path, timeout)
        self.db.rows("BEGIN")  # what others add meanwhile is not seen
        number, event_hash = self.db.one("SELECT applied_number, applied_hash FROM meta")
        self.applied: tuple[int, str] = (number, event_hash)
        self.compared = 0
        self.found: list[Difference] = []
        self._left_out = 0
        self._refs: dict[str, tuple[str, int]] = {}
        self._events = self.db.each(_EVERY_EVENT)
        self._changes = self.db.each(_EVERY_CHANGE)
        self._event, self._change = next(self._events, None), next(self._changes, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.db.close()

    def see(self, event: Event, event_hash: EventHash) -> None:
        """Compares the rows of the next event.

        Args:
            event: The event.
            event_hash: Its hash.

        Raises:
            CatalogUnusable: The catalog cannot be read.
        """
        number = event.number
        known = number <= self.applied[0]
        if known:
            self._compare_event(number, _row_of(event, event_hash))
        for position, change in enumerate(event.refs):
            if change.after is None:
                self._refs.pop(change.name, None)
            else:
                self._refs[change.name] = (change.after, number)
            if known:
                row = (number, position, change.name, change.before, change.after)
                self._compare_change(number, row)

    def finish(self, head: tuple[int, str]) -> list[Difference]:
        """Compares what is left: rows behind the last event, refs, and what was applied.

        Args:
            head: Number and hash of the last event of the log.

        Returns:
            All that differs.

        Raises:
            CatalogUnusable: The catalog cannot be read.
        """
        self._skip_events(1 << 62)
        self._skip_changes((1 << 62, 0))
        if self.applied[0] > head[0]:
            self._note("meta", f"knows {self.applied[0]} events, the log has {head[0]}", None)
        if self.applied[0] == head[0]:
            if self.applied[1] != head[1]:
                self._note("meta", "names another hash for the last event", head[0])
            self._compare_refs()
        if self._left_out:
            self._append(Difference("events", f"differs in {self._left_out:,} rows more", None))
        return self.found

    def _compare_event(self, number: int, wanted: Row) -> None:
        if self._event != wanted:
            self._skip_events(number)
            if self._event is None or self._event[0] != number:
                self._note("events", f"lacks event {number}", number)
                return
            if self._event != wanted:
                self._note_columns("events", _EVENTS, self._event, wanted, number)
        self.compared += 1
        self._event = next(self._events, None)

    def _compare_change(self, number: int, wanted: Row) -> None:
        if self._change != wanted:
            self._skip_changes(wanted[:2])
            if self._change is None or self._change[:2] != wanted[:2]:
                self._note("ref_changes", f"lacks a change of '{wanted[2]}'", number)
                return
            if self._change != wanted:
                self._note_columns("ref_changes", _CHANGES, self._change, wanted, number)
        self.compared += 1
        self._change = next(self._changes, None)

    def _skip_events(self, number: int) -> None:
        while self._event is not None and self._event[0] < number:
            self._note("events", "has a row that is no event of the log", self._event[0])
            self._event = next(self._events, None)

    def _skip_changes(self, key: Row) -> None:
        while self._change is not None and self._change[:2] < key:
            self._note("ref_changes", "has a change that no event made", self._change[0])
            self._change = next(self._changes, None)

    def _compare_refs(self) -> None:
        rows = self.db.rows("SELECT name, value, event_number FROM refs ORDER BY name")
        found = {name: (value, number) for name, value, number in rows}
        for name in sorted(found.keys() | self._refs.keys()):
            if found.get(name) != self._refs.get(name):
                wanted = self._refs.get(name)
                self._note("refs", f"has '{name}' not as the log", wanted[1] if wanted else None)
        self.compared += len(found)

    def _note_columns(
        self, table: str, columns: Sequence[str], row: Row, wanted: Row, event: int
    ) -> None:
        what = _differing(columns, row, wanted)
        self._note(table, f"has another {what} for event {event}", event)

    def _note(self, table: str, what: str, event: int | None) -> None:
        if len(self.found) < MOST:
            self._append(Difference(table, what, event))
        else:
            self._left_out += 1

    def _append(self, difference: Difference) -> None:
        self.found.append(difference)


def _row_of(event: Event, event_hash: EventHash) -> Row:
    return (
        event.number,
        event_hash,
        event.time,
        event.actor,
        event.command,
        event.summary,
        event.tool,
        event.reason,
        event.undoes,
        event.redoes,
        canonical.encode(event.objects).decode() if event.objects else "[]",
        canonical.encode(event.detail).decode() if event.detail else "{}",
        event.host,
        event.user,
    )


def _differing(names: Sequence[str], row: Row, wanted: Row) -> str:
    """Returns the names of the columns in which two rows differ, in quotes."""
    pairs = zip(names, row, wanted, strict=True)
    differ = [n for n, one, other in pairs if type(one) is not type(other) or one != other]
    return ", ".join(f"'{name}'" for name in differ)


def differences(
    kept: ReadOnly, fresh: Path, *, leave_out: Sequence[str] = EVENT_TABLES, timeout: float = 5.0
) -> tuple[list[Difference], int]:
    """Compares a catalog with one that was made from the files just now.

    Args:
        kept: The catalog.
        fresh: The file of the other.
        leave_out: Tables that are compared elsewhere.
        timeout: Seconds to wait for others.

    Returns:
        What differs, and how many rows were compared.

    Raises:
        CatalogUnusable: One of them cannot be read.
    """
    found: list[Difference] = []
    compared = 0
    other = ReadOnly(fresh, timeout)
    try:
        _compare_schema(kept, other, found)
        if found:  # rows of other tables, or behind other views, say nothing
            return found, 0
        for table in _tables(other):
            if table not in leave_out:
                compared += _compare_table(table, kept, other, found)
    finally:
        other.close()
    return found, compared


def _compare_schema(one: ReadOnly, other: ReadOnly, found: list[Difference]) -> None:
    query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    have = {(kind, name): sql for kind, name, sql in one.rows(query)}
    want = {(kind, name): sql for kind, name, sql in other.rows(query)}
    for kind, name in sorted(have.keys() | want.keys()):
        mine, wanted = have.get((kind, name)), want.get((kind, name))
        if mine == wanted:
            continue
        verb = "lacks the" if mine is None else "has a" if wanted is None else "has another"
        found.append(Difference("schema", f"{verb} {kind} '{name}'", None))


def _tables(db: ReadOnly) -> list[str]:
    return [
        str(row[0])
        for row in db.rows(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            " ORDER BY name"
        )
    ]


def _compare_table(table: str, one: ReadOnly, other: ReadOnly, found: list[Difference]) -> int:
    """Walks both sides in the order of the key; returns how many rows there are."""
    info = other.rows("SELECT name, pk FROM pragma_table_info(?)", table)
    columns = [str(name) for name, _ in info]
    keys = [name for name, pk in sorted(info, key=lambda row: row[1]) if pk] or columns
    names = [*keys, *(n for n in columns if n not in keys)]
    listed = ", ".join(f'"{name}"' for name in names)
    order = ", ".join(str(at + 1) for at in range(len(keys)))
    query = f'SELECT {listed} FROM "{table}" ORDER BY {order}'  # noqa: S608 - names of our tables
    walk = _Merged(one.each(query), other.each(query), len(keys))
    told = 0
    for mine, wanted in walk:
        told += 1
        if told <= MOST:
            found.append(_row_difference(table, names, len(keys), mine, wanted))
    if told > MOST:
        found.append(Difference(table, f"differs in {told - MOST:,} rows more", None))
    return walk.rows


class _Merged:
    """Two runs of rows in the same order; yields the pairs that differ, None for none."""

    def __init__(self, one: Iterator[Row], other: Iterator[Row], key: int) -> None:
        self.one, self.other, self.key = one, other, key
        self.rows = 0

    def __iter__(self) -> Iterator[tuple[Row | None, Row | None]]:
        mine, wanted = next(self.one, None), next(self.other, None)
        while mine is not None or wanted is not None:
            order = _order(mine, wanted, self.key)
            if order == 0:
                self.rows += 1
                if mine != wanted:
                    yield mine, wanted
                mine, wanted = next(self.one, None), next(self.other, None)
            elif order < 0:
                yield mine, None
                mine = next(self.one, None)
            else:
                yield None, wanted
                wanted = next(self.other, None)


def _order(mine: Row | None, wanted: Row | None, key: int) -> int:
    if mine is None or wanted is None:
        return 1 if mine is None else -1
    one, other = mine[:key], wanted[:key]
    return 0 if one == other else -1 if one < other else 1


def _row_difference(
    table: str, names: Sequence[str], key: int, mine: Row | None, wanted: Row | None
) -> Difference:
    row = wanted or mine or ()
    label = ", ".join(
        f"{name} {_short(cell)}" for name, cell in zip(names[:key], row, strict=False)
    )
    event = next((row[i] for i, name in enumerate(names) if name == "event_number"), None)
    event = event if isinstance(event, int) else None
    if mine is None:
        return Difference(table, f"lacks the row of {label}", event)
    if wanted is None:
        return Difference(table, f"has a row that the files do not, of {label}", event)
    what = _differing(names, mine, wanted)
    return Difference(table, f"has another {what} in the row of {label}", event)


def _short(cell: object) -> str:
    text = str(cell)
    return text[:10] if len(text) == 64 else text[:60]
