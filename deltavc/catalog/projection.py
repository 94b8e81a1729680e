"""From events to rows: what a batch of events adds to the tables.

Rows depend on the events and objects alone, never on the clock or on how events
are cut into batches, so that a rebuilt catalog has the rows of one that was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update

from deltavc.catalog import models, projection_ship
from deltavc.catalog.projection_event import branch_of, brought_by, stats
from deltavc.errors import IntegrityError, ObjectCorrupt, ObjectMissing
from deltavc.ids import EventHash, ObjectId
from deltavc.records import canonical
from deltavc.records.model import (
    BaseSource,
    Commit,
    Event,
    Measurement,
    Tag,
    series_name,
    split_series,
)
from deltavc.records.ship import Approval, Deployment, Environment, Request, Signature

__all__ = ["Entry", "Load", "Projection", "Skipped"]

Entry = tuple[Event, EventHash]
Load = Callable[[str, ObjectId], bytes]
"""Returns the canonical body of an object: kind (commit, tag, measurement, basesource), id."""
Skipped = Callable[[str, ObjectId, IntegrityError], None]
"""Told of an object that cannot be loaded: kind, id, why."""

_T = TypeVar("_T")
_Row = dict[str, Any]
_IN_CHUNK = 500  # bound values of one statement; old SQLite builds take 999
BASE, ENVIRONMENT = "base:", "env:"


class Projection:
    """Collects the rows of a batch of events, then writes them.

    Args:
        connection: In a transaction, which the caller commits.
        load: Loads objects.
        skipped: When given, objects that cannot be loaded are reported to it and left
            out, instead of raising.
    """

    def __init__(self, connection: Connection, load: Load, skipped: Skipped | None = None) -> None:
        self.connection = connection
        self.load = load
        self.skipped = skipped
        self.rows: dict[type[models.Record], list[_Row]] = {}
        self.commits: dict[str, tuple[int, int]] = {}  # id -> key, generation
        self.known: set[str] = set()  # ids of tags and measurements that have rows
        self.refs: dict[str, tuple[str | None, int]] = {}
        self.bases: dict[str, _Row | None] = {}
        self.environments: dict[str, _Row | None] = {}
        self.latest: dict[tuple[int, str], _Row] = {}
        self.series: dict[str, tuple[int, int, str, int]] = {}  # of what is corrected, by id
        self.corrected: dict[int, int] = {}  # key of what is superseded -> key of the correction
        self.unsettled: dict[tuple[int, str], None] = {}  # series that have a correction
        self.loaded: dict[str, Any] = {}

    def write(self, entries: Sequence[Entry]) -> None:
        """Writes the rows of events that are not in the catalog yet.

        Args:
            entries: Events in order, the first one following the catalog's last.

        Raises:
            ObjectMissing: An object, or a parent of a commit, cannot be found.
            ObjectCorrupt: An object is not what its kind says.
            AuditChainBroken: The detail of an event names what is no id.
        """
        brought = [(event, brought_by(event)) for event, _ in entries]
        self._load_objects(brought)
        self._look_up()
        self.next_commit = self._next_key(models.CommitRecord.key)
        self.next_measurement = self._next_key(models.MeasurementRecord.key)
        for (event, event_hash), (_, ids) in zip(entries, brought, strict=True):
            self._event(event, event_hash)
            for oid in self._parents_first(ids["commits"]):
                self._commit(oid, event)
            for oid in ids["tags"]:
                self._tag(oid, event)
            for oid in ids["measurements"]:
                self._measurement(oid, event)
            for key in projection_ship.KINDS:
                for oid in ids[key]:
                    self._ship(oid, event)
        self._flush()

    # reading --------------------------------------------------------------

    def _load_objects(self, brought: Iterable[tuple[Event, dict[str, list[ObjectId]]]]) -> None:
        for event, ids in brought:
            for oid in ids["commits"]:
                self._load_one("commit", oid, Commit)
            for oid in ids["tags"]:
                self._load_one("tag", oid, Tag)
            for oid in ids["measurements"]:
                self._load_one("measurement", oid, Measurement)
            for key, (kind, record) in projection_ship.KINDS.items():
                for oid in ids[key]:
                    self._load_one(kind, oid, record)
            for change in event.refs:
                if change.after is None:
                    continue
                if change.name.startswith(BASE):
                    self._load_one("basesource", ObjectId(change.after), BaseSource)
                elif change.name.startswith(ENVIRONMENT):
                    self._load_one("environment", ObjectId(change.after), Environment)

    def _load_one(self, kind: str, oid: ObjectId, record: type[_T]) -> None:
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
        for oid, record in self.loaded.items():
            if isinstance(record, Commit):
                commits |= {oid, *record.parents}
            elif (commit := getattr(record, "commit", None)) is not None:
                commits.add(commit)
        table = models.CommitRecord
        for chunk in _chunks(sorted(commits)):
            query = select(table.id, table.key, table.generation).where(table.id.in_(chunk))
            for oid, key, generation in self.connection.execute(query):
                self.commits[oid] = (key, generation)
        for kind, column in (
            (Tag, models.TagRecord.id),
            (Measurement, models.MeasurementRecord.id),
            (Deployment, models.DeploymentRecord.id),
            (Request, models.RequestRecord.id),
            (Approval, models.ApprovalRecord.id),
            (Signature, models.SignatureRecord.id),
        ):
            ids = sorted(oid for oid, record in self.loaded.items() if isinstance(record, kind))
            for chunk in _chunks(ids):
                found = self.connection.execute(select(column).where(column.in_(chunk)))
                self.known.update(found.scalars())
        self._look_up_corrected()

    def _look_up_corrected(self) -> None:
        """Finds the rows of earlier measurements that the new ones correct."""
        row = models.MeasurementRecord
        ids = {m.supersedes for m in self.loaded.values() if isinstance(m, Measurement)}
        for chunk in _chunks(sorted(oid for oid in ids if oid is not None)):
            query = select(row.id, row.key, row.commit_key, row.kpi, row.slice, row.place)
            for oid, key, commit_key, kpi, part, place in self.connection.execute(
                query.where(row.id.in_(chunk))
            ):
                self.series[oid] = (
                    key,
                    commit_key,
                    series_name(kpi, part),
                    key if place is None else place,
                )

    def _next_key(self, column: Any) -> int:
        return (self.connection.execute(select(func.max(column))).scalar() or 0) + 1

    def _parents_first(self, ids: list[ObjectId]) -> Iterator[ObjectId]:
        """Yields an event's commits in their order, but none before its parents."""
        waiting = set(ids)
        for oid in ids:
            stack = [oid]
            while stack:
                record = self.loaded[stack[-1]]
                before = [p for p in record.parents if p in waiting] if record else []
                if before and stack[-1] in waiting:
                    stack.extend(reversed(before))
                    continue
                done = stack.pop()
                if done in waiting:
                    waiting.discard(done)
                    yield done

    # rows -----------------------------------------------------------------

    def _add(self, table: type[models.Record], **row: Any) -> None:
        self.rows.setdefault(table, []).append(row)

    def _event(self, event: Event, event_hash: EventHash) -> None:
        self._add(
            models.EventRecord,
            number=event.number,
            hash=event_hash,
            time=event.time,
            actor=event.actor,
            command=event.command,
            summary=event.summary,
            tool=event.tool,
            reason=event.reason,
            undoes=event.undoes,
            redoes=event.redoes,
            objects=canonical.encode(event.objects).decode(),
            detail=canonical.encode(event.detail).decode(),
            host=event.host,
            user=event.user,
        )
        for position, change in enumerate(event.refs):
            self._add(
                models.RefChangeRecord,
                event_number=event.number,
                position=position,
                name=change.name,
                before=change.before,
                after=change.after,
            )
            self.refs[change.name] = (change.after, event.number)
            if change.name.startswith(BASE):
                self._base(change.name.removeprefix(BASE), change.after, event)
            elif change.name.startswith(ENVIRONMENT):
                self._environment(change.name.removeprefix(ENVIRONMENT), change.after, event)

    def _base(self, name: str, oid: str | None, event: Event) -> None:
        source: BaseSource | None = self.loaded[oid] if oid is not None else None
        self.bases[name] = (
            None
            if source is None
            else {
                "name": name,
                "source_id": oid,
                "fingerprint": source.base,
                "path": source.path,
                "source": source.source,
                "copied": int(source.copied),
                "event_number": event.number,
            }
        )

    def _environment(self, name: str, oid: str | None, event: Event) -> None:
        record: Environment | None = self.loaded[oid] if oid is not None else None
        row = None
        if record is not None and oid is not None:
            row = projection_ship.environment_row(record, ObjectId(oid), event)
        self.environments[name] = row

    def _ship(self, oid: ObjectId, event: Event) -> None:
        record = self.loaded[oid]
        if record is None or oid in self.known:
            return
        commit = getattr(record, "commit", None)
        if commit is not None and not self._has_commit(commit, f"object '{oid}'"):
            return
        self.known.add(oid)
        key = None if commit is None else self.commits[commit][0]
        for table, row in projection_ship.rows_of(record, oid, event, key):
            self._add(table, **row)

    def _commit(self, oid: ObjectId, event: Event) -> None:
        commit: Commit | None = self.loaded[oid]
        if commit is None or oid in self.commits:
            return
        parents = [p for p in commit.parents if self._has_commit(p, f"commit '{oid}'")]
        key, self.next_commit = self.next_commit, self.next_commit + 1
        generation = 1 + max((self.commits[p][1] for p in parents), default=0)
        self.commits[oid] = (key, generation)
        counts = stats(event, oid)
        self._add(
            models.CommitRecord,
            key=key,
            id=oid,
            manifest=commit.manifest,
            base=commit.base,
            author=commit.author,
            time=commit.time,
            message=commit.message,
            tool=commit.tool,
            run=commit.run,
            source=commit.source.kind if commit.source else None,
            branch=branch_of(event, oid),
            generation=generation,
            exact=int(not commit.errors),
            max_error=max(commit.errors.values(), default=None),
            params=counts.get("params"),
            stored_bytes=counts.get("stored"),
            event_number=event.number,
        )
        for position, parent in enumerate(parents):
            self._add(
                models.ParentRecord,
                child_key=key,
                position=position,
                parent_key=self.commits[parent][0],
            )
        for name, value in commit.labels.items():
            self._add(models.LabelRecord, commit_key=key, name=name, value=value)
        for position, data in enumerate(commit.data):
            self._add(
                models.DataRecord,
                commit_key=key,
                position=position,
                name=data.name,
                size=data.size,
                sha256=data.sha256,
            )

    def _has_commit(self, oid: ObjectId, needed_by: str) -> bool:
        if oid in self.commits:
            return True
        if self.skipped is None:
            raise ObjectMissing(f"{needed_by} needs commit '{oid}', which no event brought", id=oid)
        return False

    def _tag(self, oid: ObjectId, event: Event) -> None:
        tag: Tag | None = self.loaded[oid]
        if tag is None or oid in self.known or not self._has_commit(tag.commit, f"tag '{oid}'"):
            return
        self.known.add(oid)
        self._add(
            models.TagRecord,
            id=oid,
            name=tag.name,
            commit_key=self.commits[tag.commit][0],
            tagger=tag.tagger,
            time=tag.time,
            message=tag.message,
            event_number=event.number,
        )

    def _measurement(self, oid: ObjectId, event: Event) -> None:
        found: Measurement | None = self.loaded[oid]
        if found is None or oid in self.known:
            return
        if not self._has_commit(found.commit, f"measurement '{oid}'"):
            return
        self.known.add(oid)
        key, self.next_measurement = self.next_measurement, self.next_measurement + 1
        commit_key, series = self.commits[found.commit][0], series_name(found.kpi, found.slice)
        place = self._correct(found, key, commit_key, series)
        self.series[oid] = (key, commit_key, series, place)
        self._add(
            models.MeasurementRecord,
            key=key,
            id=oid,
            commit_key=commit_key,
            kpi=found.kpi,
            value=found.value,
            is_nan=int(found.value is None),
            samples=found.samples,
            dataset=found.dataset,
            source=found.source,
            actor=found.actor,
            time=found.time,
            event_number=event.number,
            stderr=found.stderr,
            values_id=found.values,
            dataset_sha256=found.dataset_sha256,
            slice=found.slice,
            tool=found.tool,
            seed=found.seed,
            supersedes=found.supersedes,
            reason=found.reason,
            place=place,
        )
        self.latest[commit_key, series] = {
            "commit_key": commit_key,
            "kpi": series,
            "measurement_key": key,
            "value": found.value,
        }

    def _correct(self, found: Measurement, key: int, commit_key: int, series: str) -> int:
        """Notes what a measurement corrects; returns its place among those of its series."""
        old = self.series.get(found.supersedes) if found.supersedes is not None else None
        if old is None:
            return key
        old_key, old_commit, old_series, old_place = old
        self.corrected.setdefault(old_key, key)
        self.unsettled[old_commit, old_series] = self.unsettled[commit_key, series] = None
        return old_place if (old_commit, old_series) == (commit_key, series) else key

    # writing --------------------------------------------------------------

    def _flush(self) -> None:
        for table in (
            models.EventRecord,
            models.RefChangeRecord,
            models.CommitRecord,
            models.ParentRecord,
            models.LabelRecord,
            models.DataRecord,
            models.TagRecord,
            models.MeasurementRecord,
            models.DeploymentRecord,
            models.RequestRecord,
            models.ApprovalRecord,
            models.VerdictRecord,
            models.SignatureRecord,
        ):
            if rows := self.rows.get(table):
                self.connection.execute(insert(table), rows)
        refs = [
            {"name": name, "value": value, "event_number": number}
            for name, (value, number) in self.refs.items()
            if value is not None
        ]
        self._replace(models.RefRecord, list(self.refs), refs)
        for named, found in (
            (models.BaseRecord, self.bases),
            (models.EnvironmentRecord, self.environments),
        ):
            self._replace(named, list(found), [row for row in found.values() if row])
        latest = models.LatestRecord
        if self.latest:
            self.connection.execute(
                delete(latest).where(
                    latest.commit_key == bindparam("key"), latest.kpi == bindparam("name")
                ),
                [{"key": commit_key, "name": kpi} for commit_key, kpi in self.latest],
            )
            self.connection.execute(insert(latest), list(self.latest.values()))
        if self.corrected:
            self._settle()

    def _settle(self) -> None:
        """Finds out what counts in the series that have a correction."""
        row, latest = models.MeasurementRecord, models.LatestRecord
        self.connection.execute(
            update(row)
            .where(row.key == bindparam("old"), row.superseded_by.is_(None))
            .values(superseded_by=bindparam("new")),
            [{"old": old, "new": new} for old, new in self.corrected.items()],
        )
        for commit_key, series in self.unsettled:
            here = (latest.commit_key == commit_key, latest.kpi == series)
            self.connection.execute(delete(latest).where(*here))
            kpi, part = split_series(series)
            counts = self.connection.execute(
                select(row.key, row.value)
                .where(
                    row.commit_key == commit_key,
                    or_(
                        and_(row.kpi == series, row.slice.is_(None)),
                        and_(row.kpi == kpi, row.slice == part),
                    ),
                    row.superseded_by.is_(None),
                )
                .order_by(row.place.desc(), row.key.desc())
                .limit(1)
            ).first()
            if counts is not None:
                self._insert_latest(commit_key, series, counts.key, counts.value)

    def _insert_latest(self, commit_key: int, series: str, key: int, value: float | None) -> None:
        self.connection.execute(
            insert(models.LatestRecord).values(
                commit_key=commit_key, kpi=series, measurement_key=key, value=value
            )
        )

    def _replace(self, table: Any, names: list[str], rows: list[_Row]) -> None:
        for chunk in _chunks(names):
            self.connection.execute(delete(table).where(table.name.in_(chunk)))
        if rows:
            self.connection.execute(insert(table), rows)


def _chunks(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _IN_CHUNK):
        yield values[start : start + _IN_CHUNK]
