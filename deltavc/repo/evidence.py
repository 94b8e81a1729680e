"""What a deployment stands on: verdicts, measurements, approvals that still hold.

An approval is a yes to one version on these numbers under this policy. Its evidence is
a digest over all three; where one changes, the digest is another and the approval void.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltavc.codec.digest import sha256_hex
from deltavc.errors import UnknownRevision
from deltavc.ids import ApprovalId, CommitId, MeasurementId, ObjectId, RequestId
from deltavc.kpi.outcomes import worst_of
from deltavc.records import canonical
from deltavc.records.ship import Environment, GateSeen, Request, RuleSeen
from deltavc.repo.environment_policy import definition_id

if TYPE_CHECKING:
    from deltavc.catalog.reader_ship import ApprovalRow, RequestRow
    from deltavc.repo.repository import Repository
    from deltavc.repo.results_kpi import GateChecked

__all__ = [
    "Approved",
    "Evidence",
    "approvals_that_count",
    "as_seen",
    "gather",
    "same_person",
    "what_changed",
]


@dataclass(frozen=True)
class Evidence:
    """What is known of a version for an environment.

    Attributes:
        commit: The version.
        definition: Id of the environment's definition.
        gates: What its gates say.
        measurements: The measurements of the version that count, sorted.
        event: The number of the newest event that was looked at.
        hints: What to do where a gate cannot decide.
    """

    commit: CommitId
    definition: ObjectId
    gates: tuple[GateSeen, ...]
    measurements: tuple[MeasurementId, ...]
    event: int
    hints: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over version, definition, policies, verdicts and measurements."""
        gates = [
            [
                gate.gate,
                gate.verdict,
                gate.policy,
                gate.baseline,
                gate.overridden,
                [[r.rule, r.verdict, r.measurement, r.baseline_measurement] for r in gate.rules],
            ]
            for gate in self.gates
        ]
        told = [self.commit, self.definition, gates, list(self.measurements)]
        return sha256_hex(canonical.encode(told))

    @property
    def verdict(self) -> str | None:
        """The worst verdict of the gates that nobody overrode; None without any."""
        return worst_of(gate.verdict for gate in self.gates if not gate.overridden)


def gather(
    repo: Repository,
    environment: Environment,
    commit: CommitId,
    baseline: CommitId | None,
    overridden: Collection[str] = (),
) -> Evidence:
    """Asks an environment's gates about a version.

    Args:
        repo: The repository.
        environment: The environment.
        commit: The version.
        baseline: What it serves now: the baseline of rules that compare.
        overridden: Gates that somebody wants to pass over.

    Returns:
        The evidence.

    Raises:
        UnknownRevision: The environment names a gate that is not defined.
    """
    from deltavc.repo import gates

    event = repo.state().number
    seen, hints = [], []
    for name in environment.gates:
        try:
            checked = gates.check(repo, name, commit, against=baseline)
        except UnknownRevision as error:
            if error.context.get("gate") != name:
                raise
            raise UnknownRevision(
                f"environment '{environment.name}' asks for gate '{name}', which is not defined",
                hint=f"define it: deltavc kpi gate define {name} --require RULE",
                gate=name,
                environment=environment.name,
            ) from error
        seen.append(as_seen(checked, overridden=name in overridden and checked.verdict != "pass"))
        hints += checked.hints
    rows = repo.reader().latest_rows([commit]).get(commit, {})
    return Evidence(
        commit=commit,
        definition=definition_id(environment),
        gates=tuple(seen),
        measurements=tuple(sorted(row.id for row in rows.values())),
        event=event,
        hints=tuple(dict.fromkeys(hints)),
    )


def as_seen(checked: GateChecked, *, overridden: bool = False) -> GateSeen:
    """Returns a gate's verdict as it is recorded."""
    return GateSeen(
        gate=checked.gate,
        verdict=checked.verdict,
        policy=checked.policy,
        baseline=None if checked.baseline is None else CommitId(ObjectId(checked.baseline)),
        overridden=overridden,
        rules=tuple(
            RuleSeen(
                rule=rule.rule,
                verdict=rule.verdict,
                sentence=rule.sentence,
                kpi=rule.kpi,
                value=rule.value,
                baseline=rule.baseline,
                low=rule.low,
                high=rule.high,
                samples=rule.samples,
                method=rule.method,
                measurement=_measurement(rule.measurement),
                baseline_measurement=_measurement(rule.baseline_measurement),
            )
            for rule in checked.rules
        ),
    )


def _measurement(oid: str | None) -> MeasurementId | None:
    return None if oid is None else MeasurementId(ObjectId(oid))


# approvals ------------------------------------------------------------------


@dataclass(frozen=True)
class Approved:
    """How far the approvals of a version for an environment are.

    Attributes:
        request: The request that they answer; None where nobody asked on this evidence.
        approvals: Those that count, oldest first.
        void: Requests on other evidence, newest first.
    """

    request: RequestRow | None
    approvals: tuple[ApprovalRow, ...] = ()
    void: tuple[RequestRow, ...] = ()

    @property
    def ids(self) -> tuple[ApprovalId, ...]:
        """The ids of the approvals that count."""
        return tuple(row.id for row in self.approvals)


def approvals_that_count(
    repo: Repository, environment: Environment, evidence: Evidence
) -> Approved:
    """Returns who approved a version on just this evidence.

    Only people other than the commit's author and than who asked count, each once.
    A request counts until a deployment has used it.

    Args:
        repo: The repository.
        environment: The environment.
        evidence: The evidence as of now.

    Returns:
        The request and the approvals that count.
    """
    reader = repo.reader()
    open_ = {row.id for row in reader.open_requests()}
    requests = [
        row
        for row in reader.requests(environment=environment.name, commit=evidence.commit)
        if row.id in open_
    ]
    matching = [row for row in requests if row.evidence == evidence.digest]
    void = tuple(row for row in requests if row.evidence != evidence.digest)
    if not matching:
        return Approved(None, void=void)
    author = repo.commit(evidence.commit).author
    votes = reader.approvals([row.id for row in matching])
    asked = {row.id: row.actor for row in matching}
    counted: list[ApprovalRow] = []
    for vote in sorted((v for found in votes.values() for v in found), key=lambda v: v.event):
        others = (author, asked[vote.request], *(other.actor for other in counted))
        if not any(same_person(vote.actor, other) for other in others):
            counted.append(vote)
    return Approved(matching[0], tuple(counted), void)


def same_person(a: str, b: str) -> bool:
    """Tells whether two actors ``name <mail>`` are one: by mail where both have one."""
    mails = [
        text.rpartition("<")[2].rstrip("> ").casefold() if "<" in text else "" for text in (a, b)
    ]
    if all(mails):
        return mails[0] == mails[1]
    names = [text.partition("<")[0].strip().casefold() for text in (a, b)]
    return names[0] == names[1]


def load_request(repo: Repository, oid: RequestId) -> Request:
    """Returns a request from the store."""
    return canonical.decode(repo.store.get(oid, "request"), Request)


def what_changed(repo: Repository, request: Request, now: Evidence) -> str:
    """Says in a phrase what of a request's evidence is another by now."""
    if request.definition != now.definition:
        return "the environment was defined anew"
    if request.measurements != now.measurements:
        new = set(now.measurements) ^ set(request.measurements)
        return f"measurements of the version changed: {_kpis(repo, sorted(new))}"
    old, gates = {g.gate: g for g in request.gates}, {g.gate: g for g in now.gates}
    for name, gate in gates.items():
        before = old.get(name)
        if before is None:
            return f"gate '{name}' was not asked then"
        if before.policy != gate.policy:
            return f"gate '{name}' or a KPI that it names was defined anew"
        if before.baseline != gate.baseline:
            return f"gate '{name}' compares with another version"
        if before.verdict != gate.verdict:
            return f"gate '{name}' says {gate.verdict} now"
        if before.overridden != gate.overridden:
            return f"gate '{name}' was{'' if before.overridden else ' not'} overridden then"
    return "a measurement of the baseline changed"


def _kpis(repo: Repository, ids: Sequence[MeasurementId]) -> str:
    from deltavc.records.model import Measurement, series_name

    names = []
    for oid in ids:
        found = canonical.decode(repo.store.get(oid, "measurement"), Measurement)
        names.append(series_name(found.kpi, found.slice))
    return ", ".join(dict.fromkeys(names))
