"""What was served, and who approved it: the catalog's rows as the report's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from deltavc.catalog import reader_report
from deltavc.errors import DeltavcError
from deltavc.ids import ObjectId
from deltavc.records import canonical
from deltavc.records.ship import Marks
from deltavc.repo.environments import why_void
from deltavc.repo.evidence import same_person
from deltavc.report.data import Approval, Deployment, Gate, Mark, Request, Rule, Signature

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.reader_report import VerdictRow, Vote
    from deltavc.catalog.reader_ship import DeploymentRow, RequestRow
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository
    from deltavc.report.versions import Versions

__all__ = ["ShipHistory", "marks"]

MARKS = "marks:"

MarksOf = Mapping[str, Mapping[str, Mark]]


def marks(
    repo: Repository, state: State, versions: Versions, damaged: list[str]
) -> dict[str, dict[str, Mark]]:
    """Returns the versions that are called bad, by environment and id.

    Args:
        repo: The repository.
        state: The refs.
        versions: Names of revisions.
        damaged: Takes what cannot be read: a report must say so rather than fail.

    Returns:
        The marks.
    """
    found: dict[str, dict[str, Mark]] = {}
    for ref, value in sorted(state.refs.items()):
        if not ref.startswith(MARKS):
            continue
        try:
            record = canonical.decode(repo.store.get(ObjectId(value), "marks"), Marks)
        except DeltavcError as error:
            damaged.append(error.message)
            continue
        versions.read(record.bad)
        found[ref.removeprefix(MARKS)] = {
            oid: Mark(versions[oid], mark.actor, mark.time, mark.reason)
            for oid, mark in record.bad.items()
        }
    return found


class ShipHistory:
    """All that the catalog knows of deployments and requests, read in a few queries.

    Args:
        repo: The repository.
        reader: Its catalog.
        versions: Names of revisions.
        bad: What is called bad.
    """

    def __init__(
        self, repo: Repository, reader: CatalogReader, versions: Versions, bad: MarksOf
    ) -> None:
        self._repo = repo
        self._versions, self._bad = versions, bad
        rows, waiting = reader.deployments(), reader.open_requests()
        versions.read(row.commit for row in rows if row.commit is not None)
        versions.read(row.commit for row in waiting)
        self._votes = reader_report.votes(reader)
        self._asked = {row.id: row for row in reader.requests()}
        self._said = reader_report.verdicts(
            reader, [*(row.number for row in rows), *(row.number for row in waiting)]
        )
        self._numbers: dict[str, int] = {row.id: row.number for row in rows}
        self._signed = self._signatures(reader)
        self.deployments = [self._deployment(row) for row in rows]
        self.requests = [self._request(row) for row in waiting]

    def _signatures(self, reader: CatalogReader) -> dict[str, list[Signature]]:
        found: dict[str, list[Signature]] = {}
        for row in reader_report.signatures(reader):
            found.setdefault(row.object, []).append(
                Signature(row.kind, row.signer, row.key, row.time)
            )
        return found

    def _deployment(self, row: DeploymentRow) -> Deployment:
        request = self._asked.get(row.request) if row.request is not None else None
        votes = self._votes.get(request.id, []) if request is not None else []
        signed = [row.commit, *(vote.id for vote in votes)]
        return Deployment(
            number=row.number,
            environment=row.environment,
            version=None if row.commit is None else self._versions[row.commit],
            action=row.action,
            actor=row.actor,
            time=row.time,
            until=row.until,
            reason=row.reason,
            verdict=row.gate_verdict,
            overridden=row.overridden,
            gates=_gates(self._said.get(row.number, ())),
            approvals=self._approvals(votes, request, until=row.number),
            counted=row.approvals,
            needed=row.needed,
            request=None if request is None else request.number,
            promoted_from=row.promoted_from,
            previous=self._numbers.get(row.previous) if row.previous is not None else None,
            late=row.late,
            receipt=row.receipt,
            bad=None if row.commit is None else self._bad.get(row.environment, {}).get(row.commit),
            signatures=tuple(s for oid in signed if oid for s in self._signed.get(oid, ())),
            serving=row.until_event is None,
        )

    def _request(self, row: RequestRow) -> Request:
        approvals = self._approvals(self._votes.get(row.id, []), row)
        return Request(
            number=row.number,
            environment=row.environment,
            version=self._versions[row.commit],
            actor=row.actor,
            time=row.time,
            reason=row.reason,
            needed=row.needed,
            counted=sum(not approval.void for approval in approvals),
            verdict=row.gate_verdict,
            gates=_gates(self._said.get(row.number, ())),
            approvals=approvals,
            stale=self._stale(row),
        )

    def _stale(self, row: RequestRow) -> str:
        try:
            return why_void(self._repo, row) or ""
        except DeltavcError as error:
            return error.message

    def _approvals(
        self, votes: Iterable[Vote], request: RequestRow | None, until: int | None = None
    ) -> tuple[Approval, ...]:
        """Returns approvals, each with why it does not count; a deployment's end before it."""
        found: list[Approval] = []
        people: list[str] = []
        for vote in votes:
            if until is not None and vote.event >= until:
                continue
            void = ""
            if request is not None:
                author = self._versions[request.commit].author
                if vote.evidence != request.evidence:
                    void = "evidence"
                elif any(same_person(vote.actor, who) for who in (request.actor, author)):
                    void = "self"
                elif any(same_person(vote.actor, who) for who in people):
                    void = "again"
            if not void:
                people.append(vote.actor)
            found.append(Approval(vote.actor, vote.time, vote.reason, void))
        return tuple(found)


def _gates(rows: Sequence[VerdictRow]) -> tuple[Gate, ...]:
    by_gate: dict[str, list[VerdictRow]] = {}
    for row in rows:
        by_gate.setdefault(row.gate, []).append(row)
    return tuple(
        Gate(
            gate=name,
            verdict=found[0].gate_verdict,
            policy=found[0].policy,
            overridden=found[0].overridden,
            baseline=found[0].compared_with,
            rules=tuple(
                Rule(
                    rule=row.rule,
                    verdict=row.verdict or "",
                    sentence=row.sentence or "",
                    kpi=row.kpi or "",
                    value=row.value,
                    baseline=row.baseline,
                    low=row.low,
                    high=row.high,
                    samples=row.samples,
                )
                for row in found
                if row.rule is not None
            ),
        )
        for name, found in by_gate.items()
    )
