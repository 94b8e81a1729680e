"""The verb ``audit verify``: has anybody touched the history?

One pass over the log checks the chain and, along the way, the catalog's rows of events
against the lines, the clock, and that each ref was what an event says it was. Then the
objects that events name, the catalog's other tables against a projection from the files,
and the signatures. What is wrong is a value; nothing is changed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deltavc.catalog.compare import EVENT_TABLES, Difference, EventRows, differences
from deltavc.catalog.errors import CatalogUnusable
from deltavc.errors import DeltavcError, IntegrityError
from deltavc.ids import EventHash, ObjectId, is_object_id, short
from deltavc.ledger.protocol import START, Entry, Head
from deltavc.records.model import Event
from deltavc.repo.audit import require_whole_history
from deltavc.repo.results_audit import AuditFinding, AuditHead, AuditVerified

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["FULL_ROWS", "MOST_SIGNATURES", "verify"]

FULL_ROWS = 20_000
"""Objects that events name up to which the rows of all tables are compared without being asked:
a second of work. Beyond it only those of events and refs are, unless ``deep``."""

MOST_SIGNATURES = 200
"""Signatures that are checked without being asked: each takes a process of some milliseconds."""

MOST_STEPS = 20
"""Steps of the clock that are told one by one."""

Level = Literal["problem", "warn"]


def verify(
    repo: Repository, *, deep: bool = False, anchor: Head | None = None, rows: bool | None = None
) -> AuditVerified:
    """Looks for edits, deletions, insertions and reorderings, in the log and in the catalog.

    Args:
        repo: The repository.
        deep: Also read every object that an event names, compare the rows of all tables
            and check all signatures, however many there are.
        anchor: A head that was noted earlier: without one, a log that was cut off at its
            end, or written anew as a whole together with the catalog, cannot be told.
        rows: Compare the rows of all tables; default: when ``deep``, or when there are at
            most :data:`FULL_ROWS` objects.

    Returns:
        What was found, in the order of the checks.

    Raises:
        UsageError: The repository is looked at as it was at an earlier operation.

    Cost:
        About 15 microseconds an event, and the reading of every object when ``deep``.
    """
    require_whole_history(repo, "audit verify")
    started = time.monotonic()
    walk = _Walk(repo, deep=deep)
    chain = list(repo.log.verify(anchor=anchor, seen=walk.see))
    findings = [
        AuditFinding(
            level="warn" if found.severity == "warning" else "problem",
            code=f"log-{found.kind}",
            message=found.message,
            event=found.number,
            subject=found.file or "",
        )
        for found in chain
    ]
    broken = [f for f in chain if f.severity == "error" and f.kind != "anchor"]
    findings += walk.findings
    compared, full = walk.finish(whole=not broken, rows=rows, deep=deep)
    findings += compared
    wrong = _gone(walk.missing) if walk.named is None else _read_all(repo, walk.named)
    findings += _about_objects(repo, wrong)
    signed, signatures = _signatures(repo, walk.signatures, deep=deep)
    findings += signed
    return AuditVerified(
        ok=not any(f.level == "problem" for f in findings),
        events=walk.events,
        head=AuditHead(number=walk.head.number, hash=walk.head.hash, time=walk.last_time),
        first_time=walk.first_time,
        last_time=walk.last_time,
        first_broken=min((f.number for f in broken if f.number is not None), default=None),
        objects=walk.objects,
        objects_read=0 if walk.named is None else len(walk.named),
        rows=walk.rows,
        rows_full=full,
        signatures=signatures,
        anchor=None if anchor is None else AuditHead(number=anchor.number, hash=anchor.hash),
        deep=deep,
        findings=findings,
        seconds=time.monotonic() - started,
    )


class _Walk:
    """What one pass over the log learns."""

    def __init__(self, repo: Repository, *, deep: bool) -> None:
        self.repo = repo
        self.findings: list[AuditFinding] = []
        self.events = 0
        self.head: Head = START
        self.first_time: int | None = None
        self.last_time: int | None = None
        self._seen: set[int] = set()  # hashes: a fifth of the memory of the ids, to count them
        self.missing: set[ObjectId] = set()
        self.named: set[ObjectId] | None = set() if deep else None
        self._held: set[str] = set() if deep else _held(repo)
        self.signatures: list[ObjectId] = []
        self.rows = 0
        self._refs: dict[str, str] = {}
        self._steps = 0
        self._latest: int | None = None  # the greatest time so far
        self._start_head = START
        self._catalog: EventRows | None = None
        self._unusable: CatalogUnusable | None = None
        with suppress(DeltavcError):  # the chain says what is wrong with the log
            self._start_head = repo.log.head()
        try:
            self._catalog = EventRows(repo.layout.catalog)
        except CatalogUnusable as error:
            self._unusable = error

    @property
    def objects(self) -> int:
        """How many objects the events name."""
        return len(self._seen)

    def see(self, event: Event, event_hash: EventHash) -> None:
        """Takes the next event that can be read."""
        self.events += 1
        self.head = Head(event.number, event_hash)
        self._clock(event)
        objects = event.objects
        for change in event.refs:
            self._ref(event, change.name, change.before, change.after)
            value = change.after
            if value is not None and value not in objects and is_object_id(value):
                objects = (*objects, ObjectId(value))
        self._seen.update(map(hash, objects))
        if self.named is not None:
            self.named.update(objects)
        elif not self._held.issuperset(objects):
            self.missing.update(oid for oid in objects if oid not in self._held)
        for value in event.detail.get("signatures", ()):
            if isinstance(value, str) and is_object_id(value):
                self.signatures.append(ObjectId(value))
        if self._catalog is not None:
            try:
                self._catalog.see(event, event_hash)
            except CatalogUnusable as error:
                self._catalog, self._unusable = None, error

    def _clock(self, event: Event) -> None:
        if self.first_time is None:
            self.first_time = event.time
        if self.last_time is not None and event.time < self.last_time:
            self._steps += 1
            if self._steps <= MOST_STEPS:
                back = (self.last_time - event.time) / 1000
                self._note(
                    "warn",
                    "clock-back",
                    f"the clock of event {event.number} is {back:,.0f} s behind that of the event "
                    "before it; order is by number",
                    event.number,
                )
        self.last_time = event.time

    def _ref(self, event: Event, name: str, before: str | None, after: str | None) -> None:
        if self._refs.get(name) != before:
            self._note(
                "problem",
                "log-ref",
                f"event {event.number} moves '{name}' from a value that it did not have",
                event.number,
            )
        if after is None:
            self._refs.pop(name, None)
        else:
            self._refs[name] = after

    def _note(self, level: Level, code: str, message: str, event: int | None = None) -> None:
        self.findings.append(AuditFinding(level=level, code=code, message=message, event=event))

    def finish(
        self, *, whole: bool, rows: bool | None, deep: bool
    ) -> tuple[list[AuditFinding], bool]:
        """Compares what is left of the catalog; returns what was found, and whether all was."""
        self.findings = []
        if self._steps > MOST_STEPS:
            self._note("warn", "clock-back", f"the clock went back {self._steps:,} times in all")
        now = self.repo.session.clock()
        if self.last_time is not None and self.last_time > now + 1000:
            self._note(
                "warn",
                "clock-ahead",
                f"event {self.head.number} is {(self.last_time - now) / 1000:,.0f} s in the future",
                self.head.number,
            )
        full = False
        if rows is None:
            rows = deep or self.objects <= FULL_ROWS
        try:
            if self._catalog is not None:
                full = self._compare(self._catalog, whole=whole, rows=rows)
        except CatalogUnusable as error:
            self._unusable = error
        finally:
            if self._catalog is not None:
                self._catalog.__exit__()
        if self._unusable is not None:
            self._note_unusable(self._unusable)
        return self.findings, full

    def _compare(self, catalog: EventRows, *, whole: bool, rows: bool) -> bool:
        found = catalog.finish(self.head)
        self.rows = catalog.compared
        if catalog.applied[0] < self._start_head.number:
            self._note(
                "warn",
                "catalog-behind",
                f"the catalog knows {catalog.applied[0]:,} of {self.head.number:,} events; "
                "the next command brings it in step",
            )
        self._note_rows(found)
        if not (whole and rows):
            return False
        with tempfile.TemporaryDirectory(prefix="deltavc-") as folder:
            fresh = self._project(Path(folder) / "catalog.db", catalog.applied[0])
            if fresh is None:
                return False
            in_step = catalog.applied[0] == self.head.number
            seen = (*EVENT_TABLES, "refs") if in_step else EVENT_TABLES
            found, compared = differences(catalog.db, fresh, leave_out=seen)
        self.rows += compared
        self._note_rows(found)
        return True

    def _project(self, path: Path, until: int) -> Path | None:
        """Makes a catalog of the first events from the files."""
        from deltavc.catalog.writer import Catalog

        try:
            with Catalog(path) as catalog:
                catalog.rebuild(
                    _Until(self.repo, until), self.repo.load_body, skipped=lambda *_found: None
                )
        except DeltavcError as error:
            self._note("problem", "rows-not-compared", f"{error.message}; rows were not compared")
            return None
        return path

    def _note_rows(self, found: list[Difference]) -> None:
        for table, what, event in found:
            self._note("problem", "catalog-differs", f"the catalog's '{table}' {what}", event)

    def _note_unusable(self, error: CatalogUnusable) -> None:
        level: Level = "problem" if error.context.get("reason") == "damaged" else "warn"
        self._note(level, "catalog-unusable", f"{error.message}; its rows were not compared")


class _Until:
    """The first events of a log."""

    def __init__(self, repo: Repository, last: int) -> None:
        self.repo = repo
        self.last = last

    def read(self, start: int = 1) -> Iterator[Entry]:
        """Yields the events from a number on, up to the last one."""
        for event, event_hash in self.repo.log.read(start):
            if event.number > self.last:
                return
            yield event, event_hash


def _held(repo: Repository) -> set[str]:
    """Returns the ids of all objects: one look at each index takes a tenth of many."""
    store = repo.store
    store.refresh()
    held: set[str] = set(store.loose.ids())
    for index in store.packs.indexes():
        held.update(map(bytes.hex, index.raw_ids()))
    return held


def _gone(missing: set[ObjectId]) -> dict[ObjectId, tuple[str, str]]:
    return {oid: ("object-missing", f"object {short(oid)} is missing") for oid in sorted(missing)}


def _about_objects(
    repo: Repository, wrong: dict[ObjectId, tuple[str, str]]
) -> Iterator[AuditFinding]:
    """Yields what is wrong with objects, by the events that name them first."""
    for oid, event in _named_by(repo, wrong.keys()):
        code, message = wrong[oid]
        message = f"{message}; event {event} names it"
        yield AuditFinding(level="problem", code=code, message=message, event=event, subject=oid)


def _read_all(repo: Repository, named: set[ObjectId]) -> dict[ObjectId, tuple[str, str]]:
    """Reads objects and compares each with its id."""
    wrong: dict[ObjectId, tuple[str, str]] = {}
    for done, oid in enumerate(sorted(named)):
        if done % 64 == 0:
            repo.session.progress("read", done, len(named))
        try:
            found = repo.store.verify(oid)
        except IntegrityError as error:
            wrong[oid] = (error.slug, error.message)
            continue
        if found is not None:
            wrong[oid] = (found.code, found.message)
    return wrong


def _named_by(repo: Repository, ids: Collection[ObjectId]) -> Iterator[tuple[ObjectId, int]]:
    """Yields ids with the number of the first event that names each."""
    if not ids:
        return
    left = set(ids)

    def see(event: Event, _hash: EventHash) -> None:
        values = (ObjectId(change.after) for change in event.refs if change.after is not None)
        for oid in left.intersection((*event.objects, *values)):
            left.discard(oid)
            found.append((oid, event.number))

    found: list[tuple[ObjectId, int]] = []
    repo.log.verify(seen=see)
    yield from found


def _signatures(
    repo: Repository, ids: list[ObjectId], *, deep: bool
) -> tuple[list[AuditFinding], int]:
    """Checks signatures, the newest ones where there are many."""
    from deltavc.repo import signing

    findings: list[AuditFinding] = []
    chosen = ids if deep else ids[-MOST_SIGNATURES:]
    if len(chosen) < len(ids):
        message = f"{len(ids) - len(chosen):,} older signatures were not checked; --deep checks all"
        findings.append(AuditFinding(level="warn", code="signatures-not-checked", message=message))
    for row in signing.verify(repo, chosen):
        if row.status == "good":
            continue
        level: Level = "warn" if row.status in ("unknown-key", "unchecked") else "problem"
        what = f"the signature of {row.kind or 'object'} {short(row.object or row.id)}"
        findings.append(
            AuditFinding(
                level=level,
                code=f"signature-{row.status}",
                message=f"{what} is {row.status}: {row.sentence}",
                subject=row.object or row.id,
            )
        )
    return findings, len(chosen)
