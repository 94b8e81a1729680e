"""What the verbs of the audit trail answer with; see :mod:`deltavc.repo.results`."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "AuditFinding",
    "AuditHead",
    "AuditRow",
    "AuditVerified",
    "Exported",
    "QueryAnswer",
    "SavedRow",
    "ViewRow",
]


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Common settings of results."""


class AuditHead(_Result, frozen=True):
    """The last event: noted elsewhere, it shows later whether the log was cut off or rewritten."""

    number: int
    hash: str
    time: int | None = None


class AuditRow(_Result, frozen=True):
    """An event as the log has it.

    ``clock_back`` says by how many milliseconds its time is before that of the event before.
    """

    number: int
    hash: str
    time: int
    actor: str
    command: str
    summary: str
    tool: str
    reason: str | None = None
    user: str | None = None
    host: str | None = None
    refs: list[dict[str, str | None]] = []
    objects: list[str] = []
    detail: dict[str, Any] = {}
    undoes: int | None = None
    redoes: int | None = None
    clock_back: int = 0


class AuditFinding(_Result, frozen=True):
    """Something that is not as it should be; ``level`` is ``problem`` or ``warn``.

    ``event`` is the number of the event that it concerns, as far as one can be told.
    """

    level: str
    code: str
    message: str
    event: int | None = None
    subject: str = ""


class AuditVerified(_Result, frozen=True):
    """What verifying found; ``ok`` when there is no problem among it.

    Attributes:
        ok: Whether there is no problem.
        events: Number of events in the log.
        head: The last event.
        first_time: Time of the first event.
        last_time: Time of the last.
        first_broken: Number of the first event from which on the chain does not hold.
        objects: How many objects the events name.
        objects_read: How many of them were read and compared with their ids.
        rows: How many rows of the catalog were compared.
        rows_full: Whether those of all tables were.
        signatures: How many signatures were checked.
        anchor: The head that was noted earlier, when one was given.
        deep: Whether every object was read.
        findings: What was found.
        seconds: How long it took.
    """

    ok: bool
    events: int
    head: AuditHead
    first_time: int | None
    last_time: int | None
    first_broken: int | None
    objects: int
    objects_read: int
    rows: int
    rows_full: bool
    signatures: int
    anchor: AuditHead | None
    deep: bool
    findings: list[AuditFinding]
    seconds: float


class QueryAnswer(_Result, frozen=True):
    """The rows of a query.

    Attributes:
        columns: Names of the columns.
        rows: The rows, each by column; the last of columns with the same name counts.
        cut: Whether there would have been more.
        saved: Name of the saved query, for one.
        expects_nothing: Whether any row is bad news.
        params: The values that were bound, as bound.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    cut: bool
    saved: str | None = None
    expects_nothing: bool = False
    params: dict[str, Any] = {}


class SavedRow(_Result, frozen=True):
    """A saved query: its name, what it answers, which of the twenty questions, what it wants."""

    name: str
    title: str
    question: str
    params: list[dict[str, str | None]]
    expects_nothing: bool


class ViewRow(_Result, frozen=True):
    """A column of a view, and its meaning."""

    view: str
    column: str
    meaning: str


class Exported(_Result, frozen=True):
    """What was written.

    Attributes:
        kind: ``jsonl``, ``csv``, ``sqlite``, ``pack``, or one that others added.
        path: The file or folder.
        files: Files that were written, or that the pack holds.
        bytes: Bytes that were written.
        events: How many events were asked for and are in it.
        head: The last event of the log when it was written.
        sha256: Of the file, where it is one.
        signed_by: Who signed it.
        missing: Ids of objects that events name and that are not to be had.
    """

    kind: str
    path: str
    files: int
    bytes: int
    events: int
    head: AuditHead
    sha256: str | None = None
    signed_by: str | None = None
    missing: list[str] = []
