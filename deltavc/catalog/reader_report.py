"""Asking the catalog for a report: whole tables at once, where other verbs ask for a row.

Each function reads in one query what a report of 10,000 commits would otherwise ask for
10,000 times. Commits are named by their key: the order in which they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deltavc.ids import ApprovalId, CommitId, EventHash, RequestId

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.reader_ship import SignatureRow

__all__ = [
    "ClockStep",
    "History",
    "VerdictRow",
    "Vote",
    "clock_steps",
    "first_event",
    "history",
    "series",
    "signatures",
    "time_of",
    "verdicts",
    "votes",
]


class VerdictRow(NamedTuple):
    """What a rule said; ``rule`` and what follows are None for a gate without rules."""

    event: int
    gate: str
    gate_verdict: str
    policy: str
    overridden: bool
    compared_with: CommitId | None
    rule: str | None
    verdict: str | None
    sentence: str | None
    kpi: str | None
    value: float | None
    baseline: float | None
    low: float | None
    high: float | None
    samples: int | None
    measurement: str | None


class Vote(NamedTuple):
    """An approval, with the evidence that its giver saw."""

    id: ApprovalId
    request: RequestId
    evidence: str
    actor: str
    time: int
    reason: str | None
    event: int


class ClockStep(NamedTuple):
    """An event whose time lies before that of the event recorded before it."""

    number: int
    time: int
    before: int


@dataclass(frozen=True)
class History:
    """All commits and what they descend from, by key.

    Attributes:
        ids: Key to id, oldest first.
        times: Key to time.
        branches: Key to the branch that the commit was made on.
        parents: Key to the parents' keys, first parent first; roots are left out.
    """

    ids: dict[int, CommitId]
    times: dict[int, int]
    branches: dict[int, str | None]
    parents: dict[int, tuple[int, ...]]


def history(reader: CatalogReader) -> History:
    """Returns all commits with their parents."""
    ids: dict[int, CommitId] = {}
    times: dict[int, int] = {}
    branches: dict[int, str | None] = {}
    rows = reader._db.rows("SELECT key, id, time, branch FROM commits ORDER BY key")
    for key, oid, time, branch in rows:
        ids[key], times[key], branches[key] = oid, time, branch
    parents: dict[int, tuple[int, ...]] = {}
    for child, parent in reader._db.rows(
        "SELECT child_key, parent_key FROM parents ORDER BY child_key, position"
    ):
        parents[child] = (*parents.get(child, ()), parent)
    return History(ids, times, branches, parents)


def series(reader: CatalogReader) -> dict[str, list[tuple[int, float]]]:
    """Returns the values that count, by series: commit key and value, oldest commit first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for kpi, key, value in reader._db.rows(
        "SELECT kpi, commit_key, value FROM latest_measurements WHERE value IS NOT NULL"
        " ORDER BY kpi, commit_key"
    ):
        found.setdefault(kpi, []).append((key, value))
    return found


def verdicts(reader: CatalogReader, events: Iterable[int]) -> dict[int, list[VerdictRow]]:
    """Returns what gates said for deployments and requests, by the number of their event."""
    found: dict[int, list[VerdictRow]] = {}
    for row in reader._db.rows(
        "SELECT v.event_number, v.gate, v.gate_verdict, v.policy, v.overridden, v.compared_with,"
        " v.rule, v.verdict, v.sentence, v.kpi, v.value, v.baseline, v.low, v.high, v.samples,"
        " v.measurement FROM verdicts v WHERE v.event_number IN (SELECT value FROM json_each(?))"
        " ORDER BY v.event_number, v.position",
        json.dumps(list(events)),
    ):
        read = VerdictRow._make(row)
        found.setdefault(read.event, []).append(read._replace(overridden=bool(read.overridden)))
    return found


def votes(reader: CatalogReader) -> dict[RequestId, list[Vote]]:
    """Returns all approvals by their request, oldest first."""
    found: dict[RequestId, list[Vote]] = {}
    for row in reader._db.rows(
        "SELECT id, request, evidence, actor, time, reason, event_number FROM approvals"
        " ORDER BY event_number, id"
    ):
        vote = Vote._make(row)
        found.setdefault(vote.request, []).append(vote)
    return found


def signatures(reader: CatalogReader) -> list[SignatureRow]:
    """Returns all signatures, oldest first."""
    from deltavc.catalog.reader_ship import SignatureRow

    return [
        SignatureRow._make(row)
        for row in reader._db.rows(
            "SELECT id, object, kind, signer, key, time, event_number FROM signatures"
            " ORDER BY event_number, id"
        )
    ]


def clock_steps(reader: CatalogReader, slack: int) -> list[ClockStep]:
    """Returns where a clock was set back by more than a slack in milliseconds, oldest first."""
    return [
        ClockStep._make(row)
        for row in reader._db.rows(
            "SELECT number, time, before FROM (SELECT number, time,"
            " lag(time) OVER (ORDER BY number) AS before FROM events)"
            " WHERE time + ? < before ORDER BY number",
            slack,
        )
    ]


def first_event(reader: CatalogReader) -> EventHash | None:
    """Returns the hash of the first event, which tells one repository from another."""
    rows = reader._db.rows("SELECT hash FROM events WHERE number = 1")
    return EventHash(rows[0][0]) if rows else None


def time_of(reader: CatalogReader, number: int) -> int:
    """Returns the time of an event; 0 where there is none."""
    rows = reader._db.rows("SELECT time FROM events WHERE number = ?", number)
    return int(rows[0][0]) if rows else 0
