"""From events to rows: what a batch of events adds to the tables.

Rows depend on the events and objects alone, never on the clock or on how events
are cut into batches, so that a rebuilt catalog has the rows of one that was kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from deltavc.catalog import projection_ship
from deltavc.catalog.projection_event import branch_of, brought_by, stats
from deltavc.catalog.seen import Seen
from deltavc.catalog.tables import Row, ordered
from deltavc.catalog.write import Corrections, by_ids, insert, rank_latest, replace, replace_latest
from deltavc.errors import IntegrityError, ObjectCorrupt, ObjectMissing
from deltavc.ids import EventHash, ObjectId
from deltavc.records import canonical
from deltavc.records.model import BaseSource, Commit, Event, Measurement, Tag, series_name
from deltavc.records.ship import Environment

__all__ = ["Entry", "Load", "Projection", "Skipped"]

Entry = tuple[Event, EventHash]
Load = Callable[[str, ObjectId], bytes]
"""Returns the canonical body of an object: kind (commit, tag, measurement, basesource), id."""
Skipped = Callable[[str, ObjectId, IntegrityError], None]
"""Told of an object that cannot be loaded: kind, id, why."""

BASE, ENVIRONMENT = "base:", "env:"
_REMEMBERED = 1 << 17  # commits whose keys stay in memory between batches
_TABLES = {"commits": ("commit", Commit), "tags": ("tag", Tag),
           "measurements": ("measurement", Measurement), **projection_ship.KINDS}  # fmt: skip
"""Keys of an event's detail that name objects: the kind and the record; also their tables."""


class Projection:
    """Collects the rows of a batch of events, then writes them; batch after batch.

    Args:
        connection: In a transaction, which the caller commits.
        load: Loads objects.
        skipped: When given, objects that cannot be loaded are reported to it and left
            out, instead of raising.
        fresh: The tables were empty when the first batch came, and nobody reads them
            before :meth:`finish` was called: what counts is then worked out once.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        load: Load,
        skipped: Skipped | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.connection = connection
        self.load = load
        self.skipped = skipped
        self.fresh = fresh
        self.seen = Seen() if fresh else None
        self.commits: dict[str, tuple[int, int]] = {}  # id -> key, generation
        self.corrections = Corrections()
        self.next_commit = self._next_key("commits")
        self.next_measurement = self._next_key("measurements")
        self._begin()

    def _begin(self) -> None:
        """Forgets what belongs to the last batch."""
        self.rows: dict[str, list[Row]] = {}
        self.known: set[str] = set()  # ids of what is not a commit and has rows
        self.refs: dict[str, Row | None] = {}
        self.bases: dict[str, Row | None] = {}
        self.environments: dict[str, Row | None] = {}
        self.latest: dict[tuple[int, str], Row] = {}
        self.loaded: dict[str, Any] = {}
        if len(self.commits) > _REMEMBERED:
            self.commits.clear()

    def write(self, entries: Sequence[Entry]) -> None:
        """Writes the rows of events that are not in the catalog yet.

        Args:
            entries: Events in order, the first one following the catalog's last.

        Raises:
            ObjectMissing: An object, or a parent of a commit, cannot be found.
            ObjectCorrupt: An object is not what its kind says.
            AuditChainBroken: The detail of an event names what is no id.
        """
        self._begin()
        brought = [(event, brought_by(event)) for event, _ in entries]
        self._load_objects(brought)
        self._look_up()
        for (event, event_hash), (_, ids) in zip(entries, brought, strict=True):
            self._event(event, event_hash)
            for oid in self._parents_first(ids.get("commits", ())):
                self._commit(oid, event)
            for oid in ids.get("tags", ()):
                self._tag(oid, event)
            for oid in ids.get("measurements", ()):
                self._measurement(oid, event)
            for key, (_, kind) in projection_ship.KINDS.items():
                for oid in ids.get(key, ()):
                    self._ship(oid, kind, event)
        self._flush()

    def finish(self, make_indexes: Callable[[], None]) -> None:
        """Works out what counts, once all batches of a fresh catalog are written.

        Args:
            make_indexes: Makes the indexes, which corrections are looked up by.
        """
        rank_latest(self.connection)
        make_indexes()
        self.corrections.settle(self.connection)

    # reading --------------------------------------------------------------

    def _load_objects(self, brought: Iterable[tuple[Event, dict[str, list[ObjectId]]]]) -> None:
        for event, ids in brought:
            for key, named in ids.items():
                kind, record = _TABLES[key]
                for oid in named:
                    self._load_one(kind, oid, record)
            for change in event.refs:
                if change.after is None:
                    continue
                if change.name.startswith(BASE):
                    self._load_one("basesource", ObjectId(change.after), BaseSource)
                elif change.name.startswith(ENVIRONMENT):
                    self._load_one("environment", ObjectId(change.after), Environment)

    def _load_one(self, kind: str, oid: ObjectId, record: type[Any]) -> None:
        if oid in self.loaded:
            return
        try:
            self.loaded[oid] = canonical.decode(self.load(kind, oid), record)
        except (ObjectMissing, ObjectCorrupt) as error:
            if self.skipped is None:
                raise
            self.skipped(kind, oid, error)
            self.loaded[oid] = None

    def _look_up(self) -> None:
        """Finds out, in a few statements, which of the objects and their commits have rows."""
        commits: set[str] = set()
        others: dict[str, list[str]] = {}
        corrected: set[str] = set()
        for oid, record in self.loaded.items():
            if isinstance(record, Measurement):
                commits.add(record.commit)
                if record.supersedes is not None:
                    corrected.add(record.supersedes)
            elif isinstance(record, Commit):
                commits |= {oid, *record.parents}
            elif (commit := getattr(record, "commit", None)) is not None:
                commits.add(commit)
            if self.seen is None or self.seen.again(oid):
                others.setdefault(type(record).__name__, []).append(oid)
        commits -= self.commits.keys()
        if self.seen is not None:  # those of this batch are not in the tables either
            again = set(others.get("Commit", ()))
            commits = {oid for oid in commits if oid in again or oid not in self.loaded}
        for oid, key, generation in by_ids(
            self.connection, "SELECT id, key, generation FROM commits", commits
        ):
            self.commits[oid] = (key, generation)
        for table, (_, kind) in _TABLES.items():
            ids = others.get(kind.__name__, ()) if kind is not Commit else ()
            self.known.update(
                oid
                for (oid,) in by_ids(self.connection, f"SELECT id FROM {table}", ids)  # noqa: S608
            )
        self.corrections.look_up(self.connection, corrected)

    def _next_key(self, table: str) -> int:
        query = f"SELECT coalesce(max(key), 0) + 1 FROM {table}"  # noqa: S608
        return int(self.connection.execute(query).fetchone()[0])

    def _parents_first(self, ids: Sequence[ObjectId]) -> Iterator[ObjectId]:
        """Yields an event's commits in their order, but none before its parents."""
        if len(ids) == 1:
            yield ids[0]
            return
        waiting = set(ids)
        for oid in ids:
            stack = [oid]
            while stack:
                record = self.loaded[stack[-1]]
                before = (
                    [p for p in record.parents if p in waiting]
                    if isinstance(record, Commit)
                    else []
                )
                if before and stack[-1] in waiting:
                    stack.extend(reversed(before))
                    continue
                done = stack.pop()
                if done in waiting:
                    waiting.discard(done)
                    yield done

    # rows -----------------------------------------------------------------

    def _add(self, table: str, *row: Any) -> None:
        self.rows.setdefault(table, []).append(row)

    def _event(self, event: Event, event_hash: EventHash) -> None:
        self._add(
            "events", event.number, event_hash, event.time, event.actor, event.command,
            event.summary, event.tool, event.reason, event.undoes, event.redoes,
            canonical.encode(event.objects).decode(), canonical.encode(event.detail).decode(),
            event.host, event.user,
        )  # fmt: skip
        for position, change in enumerate(event.refs):
            name, after = change.name, change.after
            self._add("ref_changes", event.number, position, name, change.before, after)
            self.refs[name] = None if after is None else (name, after, event.number)
            if name.startswith(BASE):
                self._base(name.removeprefix(BASE), after, event)
            elif name.startswith(ENVIRONMENT):
                self._environment(name.removeprefix(ENVIRONMENT), after, event)

    def _base(self, name: str, oid: str | None, event: Event) -> None:
        found: BaseSource | None = self.loaded[oid] if oid is not None else None
        row = None
        if found is not None:
            copied = int(found.copied)
            row = (name, oid, found.base, found.path, found.source, copied, event.number)
        self.bases[name] = row

    def _environment(self, name: str, oid: str | None, event: Event) -> None:
        record: Environment | None = self.loaded[oid] if oid is not None else None
        row = None
        if record is not None and oid is not None:
            found = projection_ship.environment_row(record, ObjectId(oid), event)
            row = ordered("environments", found)
        self.environments[name] = row

    def _ship(self, oid: ObjectId, kind: type[Any], event: Event) -> None:
        record = self.loaded[oid]
        if not isinstance(record, kind) or oid in self.known:
            return
        commit = getattr(record, "commit", None)
        if commit is not None and not self._has_commit(commit, "object", oid):
            return
        self.known.add(oid)
        key = None if commit is None else self.commits[commit][0]
        for table, row in projection_ship.rows_of(record, oid, event, key):
            self._add(table, *ordered(table, row))

    def _commit(self, oid: ObjectId, event: Event) -> None:
        commit = self.loaded[oid]
        if not isinstance(commit, Commit) or oid in self.commits:
            return
        parents = [self.commits[p] for p in commit.parents if self._has_commit(p, "commit", oid)]
        key, self.next_commit = self.next_commit, self.next_commit + 1
        generation = 1 + max((found[1] for found in parents), default=0)
        self.commits[oid] = (key, generation)
        counts = stats(event, oid)
        self._add(
            "commits", key, oid, commit.manifest, commit.base, commit.author, commit.time,
            commit.message, commit.tool, commit.run, commit.source.kind if commit.source else None,
            branch_of(event, oid), generation, int(not commit.errors),
            max(commit.errors.values(), default=None), counts.get("params"), counts.get("stored"),
            event.number,
        )  # fmt: skip
        for position, (parent, _) in enumerate(parents):
            self._add("parents", key, position, parent)
        for name, value in commit.labels.items():
            self._add("labels", key, name, value)
        for position, data in enumerate(commit.data):
            self._add("commit_data", key, position, data.name, data.size, data.sha256)

    def _has_commit(self, oid: ObjectId, what: str, needed_by: ObjectId) -> bool:
        if oid in self.commits:
            return True
        if self.skipped is None:
            raise ObjectMissing(
                f"{what} '{needed_by}' needs commit '{oid}', which no event brought", id=oid
            )
        return False

    def _tag(self, oid: ObjectId, event: Event) -> None:
        tag = self.loaded[oid]
        if (
            not isinstance(tag, Tag)
            or oid in self.known
            or not self._has_commit(tag.commit, "tag", oid)
        ):
            return
        self.known.add(oid)
        self._add(
            "tags", oid, tag.name, self.commits[tag.commit][0], tag.tagger, tag.time, tag.message,
            event.number,
        )  # fmt: skip

    def _measurement(self, oid: ObjectId, event: Event) -> None:
        found = self.loaded[oid]
        if not isinstance(found, Measurement) or oid in self.known:
            return
        if not self._has_commit(found.commit, "measurement", oid):
            return
        self.known.add(oid)
        key, self.next_measurement = self.next_measurement, self.next_measurement + 1
        commit_key, series = self.commits[found.commit][0], series_name(found.kpi, found.slice)
        place = self.corrections.place(oid, found.supersedes, key, commit_key, series)
        value = found.value
        self._add(
            "measurements", key, oid, commit_key, found.kpi, value, int(value is None),
            found.samples, found.dataset, found.source, found.actor, found.time, event.number,
            place, found.stderr, found.values, found.dataset_sha256, found.slice, found.tool,
            found.seed, found.supersedes, found.reason,
        )  # fmt: skip
        if not self.fresh:
            self.latest[commit_key, series] = (commit_key, series, key, value)

    # writing --------------------------------------------------------------

    def _flush(self) -> None:
        insert(self.connection, self.rows)
        replace(self.connection, "refs", self.refs)
        replace(self.connection, "bases", self.bases)
        replace(self.connection, "environments", self.environments)
        if not self.fresh:
            replace_latest(self.connection, self.latest.values())
            self.corrections.settle(self.connection)
