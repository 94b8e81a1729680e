"""Asking the catalog what is live, what was, and who approved it.

Mixed into :class:`~deltavc.catalog.reader.CatalogReader`: plain sqlite3 and bound values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deltavc.catalog.readonly import ReadOnly
from deltavc.ids import ApprovalId, CommitId, DeploymentId, ObjectId, RequestId

__all__ = ["ApprovalRow", "DeploymentRow", "RequestRow", "ShipReader", "SignatureRow"]

_DEPLOYMENT = (
    "SELECT d.event_number, d.id, d.environment, c.id, d.action, d.actor, d.time,"
    " next.event_number, next.time, d.reason, d.gate_verdict, d.overridden, d.approvals,"
    " d.needed, d.request, d.promoted_from, d.previous, d.idempotency_key, d.folder, d.receipt,"
    " d.late"
    " FROM deployments d LEFT JOIN commits c ON c.key = d.commit_key"
    " LEFT JOIN deployments next ON next.event_number ="
    "  (SELECT min(n.event_number) FROM deployments n"
    "   WHERE n.environment = d.environment AND n.event_number > d.event_number)"
)
_REQUEST = (
    "SELECT q.event_number, q.id, q.environment, c.id, q.actor, q.time, q.evidence, q.needed,"
    " q.gate_verdict, q.reason, q.promoted_from, q.idempotency_key"
    " FROM requests q JOIN commits c ON c.key = q.commit_key"
)
_NEWEST = "(SELECT max(event_number) FROM deployments GROUP BY environment)"
_USED = "(SELECT 1 FROM deployments d WHERE d.request = q.id)"


class DeploymentRow(NamedTuple):
    """A deployment; ``until_event`` and ``until`` are those of the next in its environment.

    ``commit`` is None where the environment went back to serving nothing.

    The fields are those of :class:`~deltavc.records.ship.Deployment`; ``number`` is its
    event's, which gives it its name.
    """

    number: int
    id: DeploymentId
    environment: str
    commit: CommitId | None
    action: str
    actor: str
    time: int
    until_event: int | None
    until: int | None
    reason: str | None
    gate_verdict: str | None
    overridden: bool
    approvals: int
    needed: int
    request: RequestId | None
    promoted_from: str | None
    previous: DeploymentId | None
    key: str | None
    folder: str | None
    receipt: str | None
    late: bool


class RequestRow(NamedTuple):
    """A deployment that waits, or waited, for approvals."""

    number: int
    id: RequestId
    environment: str
    commit: CommitId
    actor: str
    time: int
    evidence: str
    needed: int
    gate_verdict: str | None
    reason: str | None
    promoted_from: str | None
    key: str | None


class ApprovalRow(NamedTuple):
    """Somebody's yes to a request."""

    id: ApprovalId
    request: RequestId
    environment: str
    commit: CommitId
    evidence: str
    actor: str
    time: int
    reason: str | None
    event: int


class SignatureRow(NamedTuple):
    """A detached signature; ``object`` is what was signed."""

    id: ObjectId
    object: ObjectId
    kind: str
    signer: str
    key: str
    time: int
    event: int


class ShipReader:
    """What the reader knows of environments."""

    _db: ReadOnly

    def serving(self) -> dict[str, DeploymentRow]:
        """Returns what each environment serves now, by the environment's name."""
        rows = self._db.rows(
            f"{_DEPLOYMENT} WHERE d.event_number IN {_NEWEST} ORDER BY d.environment"
        )
        return {row.environment: row for row in map(_deployment, rows)}

    def deployments(
        self, environment: str | None = None, *, limit: int | None = None
    ) -> list[DeploymentRow]:
        """Returns deployments, newest first.

        Args:
            environment: Only of this one; default: of all.
            limit: At most this many.

        Returns:
            The deployments.
        """
        where = "" if environment is None else " WHERE d.environment = ?"
        values = () if environment is None else (environment,)
        return [
            _deployment(row)
            for row in self._db.rows(
                f"{_DEPLOYMENT}{where} ORDER BY d.event_number DESC LIMIT ?",
                *values,
                -1 if limit is None else limit,
            )
        ]

    def deployments_of(self, commit: CommitId) -> list[DeploymentRow]:
        """Returns the deployments of a version, oldest first."""
        return [
            _deployment(row)
            for row in self._db.rows(
                f"{_DEPLOYMENT} WHERE c.id = ? ORDER BY d.event_number", commit
            )
        ]

    def deployment(self, number: int) -> DeploymentRow | None:
        """Returns the deployment of this number; None if there is none."""
        for row in self._db.rows(f"{_DEPLOYMENT} WHERE d.event_number = ?", number):
            return _deployment(row)
        return None

    def deployment_number(self, oid: DeploymentId) -> int | None:
        """Returns the number of a deployment's event; None if there is no such deployment."""
        for row in self._db.rows("SELECT event_number FROM deployments WHERE id = ?", oid):
            return int(row[0])
        return None

    def request_number(self, oid: RequestId) -> int | None:
        """Returns the number of a request's event; None if there is no such request."""
        for row in self._db.rows("SELECT event_number FROM requests WHERE id = ?", oid):
            return int(row[0])
        return None

    def deployment_by_key(self, environment: str, key: str) -> DeploymentRow | None:
        """Returns the deployment that an idempotency key was used for; None for a new key."""
        for row in self._db.rows(
            f"{_DEPLOYMENT} WHERE d.environment = ? AND d.idempotency_key = ?"
            " ORDER BY d.event_number LIMIT 1",
            environment,
            key,
        ):
            return _deployment(row)
        return None

    def live_at(self, environment: str, time: int) -> list[DeploymentRow]:
        """Returns what an environment served at a time by the clocks of those who deployed.

        Order is that of the log. The first is the last deployment recorded with a time not
        after this one. More than one means that a clock was set back, so that the time
        passed more than once: the others served then too, by the clock of their day.

        Args:
            environment: The environment.
            time: Milliseconds since 1970, UTC.

        Returns:
            What was served, newest first; nothing where nothing was.
        """
        first = self._db.rows(
            "SELECT max(event_number) FROM deployments WHERE environment = ? AND time <= ?",
            environment,
            time,
        )[0][0]
        numbers = [] if first is None else [first]
        numbers += [
            row[0]
            for row in self._db.rows(
                "SELECT d.event_number FROM deployments d"
                " JOIN deployments n ON n.event_number ="
                "  (SELECT min(event_number) FROM deployments"
                "   WHERE environment = d.environment AND event_number > d.event_number)"
                " WHERE d.environment = ? AND d.time <= ? AND n.time > ?"
                " ORDER BY d.event_number DESC",
                environment,
                time,
                time,
            )
            if row[0] not in numbers
        ]
        found = {}
        for number in numbers:
            row = self.deployment(number)
            if row is not None:
                found[number] = row
        return [found[number] for number in numbers if number in found]

    def requests(
        self,
        *,
        environment: str | None = None,
        commit: CommitId | None = None,
        number: int | None = None,
    ) -> list[RequestRow]:
        """Returns requests, newest first.

        Args:
            environment: Only for this environment.
            commit: Only of this version.
            number: Only the one of this number.

        Returns:
            The requests.
        """
        given = {"q.environment": environment, "c.id": commit, "q.event_number": number}
        asked = {column: value for column, value in given.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in asked) or "1"
        return [
            RequestRow._make(row)
            for row in self._db.rows(
                f"{_REQUEST} WHERE {where} ORDER BY q.event_number DESC", *asked.values()
            )
        ]

    def open_requests(self) -> list[RequestRow]:
        """Returns the requests that no deployment used, newest first."""
        return [
            RequestRow._make(row)
            for row in self._db.rows(
                f"{_REQUEST} WHERE NOT EXISTS {_USED} ORDER BY q.event_number DESC"
            )
        ]

    def approvals(self, requests: Iterable[RequestId]) -> dict[RequestId, list[ApprovalRow]]:
        """Returns the approvals of requests, oldest first."""
        found: dict[RequestId, list[ApprovalRow]] = {}
        for request in requests:
            rows = self._db.rows(
                "SELECT a.id, a.request, a.environment, c.id, a.evidence, a.actor, a.time,"
                " a.reason, a.event_number FROM approvals a"
                " JOIN commits c ON c.key = a.commit_key WHERE a.request = ?"
                " ORDER BY a.event_number, a.id",
                request,
            )
            found[request] = [ApprovalRow._make(row) for row in rows]
        return found

    def signatures_of(self, objects: Sequence[ObjectId]) -> dict[ObjectId, list[SignatureRow]]:
        """Returns the signatures of objects, oldest first."""
        found: dict[ObjectId, list[SignatureRow]] = {oid: [] for oid in objects}
        for oid in found:
            found[oid] = [
                SignatureRow._make(row)
                for row in self._db.rows(
                    "SELECT id, object, kind, signer, key, time, event_number FROM signatures"
                    " WHERE object = ? ORDER BY event_number, id",
                    oid,
                )
            ]
        return found


def _deployment(row: tuple[object, ...]) -> DeploymentRow:
    found = DeploymentRow._make(row)
    return found._replace(overridden=bool(found.overridden), late=bool(found.late))
