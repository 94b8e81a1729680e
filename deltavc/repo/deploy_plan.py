"""A deployment that is about to happen: what is known, what stands in the way, who must agree."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import ApprovalMissing, Protected, RepositoryLocked, UsageError
from deltavc.ids import CommitId, ObjectId, RequestId, short
from deltavc.records.ship import Environment, Request
from deltavc.repo import evidence as evidences
from deltavc.repo.results_ship import DeployedRow, GateSeenRow, RuleSeenRow
from deltavc.repo.serving import Served, request_name, settle

if TYPE_CHECKING:
    from deltavc.records.ship import GateSeen
    from deltavc.repo.evidence import Approved, Evidence
    from deltavc.repo.repository import Repository
    from deltavc.repo.switching import Ready

__all__ = [
    "Plan",
    "check_key",
    "check_override",
    "comes_from",
    "gate_rows",
    "refuse_marked",
    "request_of",
    "settled",
    "wait_for_approval",
]

MAX_KEY = 200


@dataclass
class Plan:
    """A deployment that is about to happen."""

    repo: Repository
    served: Served
    commit: CommitId
    action: str
    reason: str | None
    key: str | None
    promoted_from: str | None
    dry_run: bool
    started: float
    evidence: Evidence
    approved: Approved
    ready: Ready | None = None

    @property
    def environment(self) -> Environment:
        """The environment's definition."""
        return self.served.definition

    def told(self, **more: object) -> DeployedRow:
        """Returns what is known so far as a result."""
        row = DeployedRow(
            environment=self.environment.name,
            action=self.action,
            revision=self.commit,
            subject=_subject(self.repo, self.commit),
            before=self.served.commit,
            verdict=self.evidence.verdict,
            gates=gate_rows(self.evidence.gates),
            approvers=[vote.actor for vote in self.approved.approvals],
            needed=self.environment.approvals,
            target=None if self.served.target is None else str(self.served.target),
            seconds=time.monotonic() - self.started,
            dry_run=self.dry_run,
            hints=list(self.evidence.hints),
        )
        return msgspec.structs.replace(row, **more)


def gate_rows(gates: Sequence[GateSeen]) -> list[GateSeenRow]:
    """Returns what gates said, as results."""
    return [
        GateSeenRow(
            gate=gate.gate,
            verdict=gate.verdict,
            overridden=gate.overridden,
            policy=gate.policy,
            rules=[
                RuleSeenRow(
                    rule=rule.rule,
                    verdict=rule.verdict,
                    sentence=rule.sentence,
                    kpi=rule.kpi,
                    value=rule.value,
                    low=rule.low,
                    high=rule.high,
                    samples=rule.samples,
                    measurement=rule.measurement,
                )
                for rule in gate.rules
            ],
        )
        for gate in gates
    ]


def _subject(repo: Repository, commit: CommitId) -> str:
    return repo.commit(commit).message.partition("\n")[0]


def settled(repo: Repository, environment: str) -> Served:
    """Returns an environment once nobody is switching it and the log knows of every switch.

    Args:
        repo: The repository.
        environment: The environment.

    Returns:
        The environment.

    Raises:
        RepositoryLocked: Another process is switching it for too long, or a switch cannot
            be recorded.
    """
    served = Served(repo, environment)
    if not served.pending:
        return served
    with served.spool.hold(repo.session.lock_timeout):
        pass  # whoever is in the middle of a switch has ended
    settle(repo)
    served = Served(repo, environment)
    if served.pending:
        raise RepositoryLocked(
            f"a switch of '{environment}' is not in the log yet, so nothing can follow it",
            hint="see why: deltavc doctor",
            environment=environment,
        )
    return served


def comes_from(
    repo: Repository, served: Served, commit: CommitId, promoted_from: str | None
) -> str | None:
    """Returns the environment that a version is promoted from; refuses to pass one over.

    Args:
        repo: The repository.
        served: The environment that it is to go to.
        commit: The version.
        promoted_from: Where it is said to come from.

    Returns:
        The environment; None where it may come from anywhere.

    Raises:
        Protected: It does not come from where versions must come from.
    """
    after = served.definition.after
    if after is None:
        return promoted_from
    if promoted_from not in (None, after):
        raise Protected(
            f"'{served.name}' takes versions from '{after}', not from '{promoted_from}'",
            hint=f"deltavc promote {promoted_from} {after}, then {after} {served.name}",
            environment=served.name,
        )
    before = Served(repo, after)
    if before.commit != commit:
        now = "nothing" if before.commit is None else short(before.commit)
        raise Protected(
            f"'{served.name}' takes versions from '{after}', which serves {now},"
            f" not {short(commit)}",
            hint=f"deploy it there first: deltavc deploy {short(commit)} --env {after}",
            environment=served.name,
        )
    return after


def refuse_marked(plan: Plan) -> None:
    """Refuses a version that is called bad in the environment.

    Args:
        plan: The deployment.

    Raises:
        Protected: It is.
    """
    mark = plan.served.marks.bad.get(plan.commit)
    if mark is not None:
        name, version = plan.environment.name, short(plan.commit)
        why = f": {mark.reason}" if mark.reason else ""
        raise Protected(
            f"{version} is called bad in '{name}' since {mark.actor} left it{why}",
            hint=f"if that is over: deltavc env mark {name} {version} --good --reason TEXT",
            environment=name,
            revision=plan.commit,
        )


def check_override(plan: Plan, override: Collection[str]) -> None:
    """Refuses to pass over gates where that is not allowed, or not explained.

    Args:
        plan: The deployment.
        override: The gates to pass over.

    Raises:
        UsageError: The environment does not ask such a gate, or there is no reason.
        Protected: Nothing can be forced there.
    """
    if not override:
        return
    environment = plan.environment
    strange = sorted(set(override) - set(environment.gates))
    if strange:
        raise UsageError(
            f"'{environment.name}' does not ask gate '{strange[0][:80]}'",
            hint=f"it asks: {', '.join(environment.gates) or 'none'}",
        )
    if environment.protect:
        raise Protected(
            f"'{environment.name}' is protected: none of its gates can be overridden",
            hint="measure what is missing, or change the gate where it is reviewed",
            environment=environment.name,
        )
    if plan.reason is None:
        raise UsageError("overriding a gate needs a reason", hint='--reason "TEXT"')


def check_key(key: str | None) -> str | None:
    """Returns an idempotency key as it was given.

    Raises:
        UsageError: It cannot be one.
    """
    if key is not None and (not key.isprintable() or not 0 < len(key) <= MAX_KEY):
        raise UsageError("the key is empty, too long, or has control characters", hint="--key TEXT")
    return key


def wait_for_approval(plan: Plan) -> DeployedRow:
    """Records a request, unless there is one on the same evidence, and says what is missing.

    Args:
        plan: The deployment.

    Returns:
        What is missing, of a dry run.

    Raises:
        ApprovalMissing: The request is recorded.
    """
    environment, approved = plan.environment, plan.approved
    have, need = len(approved.approvals), environment.approvals
    if plan.dry_run:
        return plan.told(blocked="approval", request=request_of(plan))
    number = approved.request.number if approved.request is not None else _ask(plan)
    name = request_name(number)
    void = ""
    if approved.request is None and approved.void:
        old = approved.void[0]
        request = evidences.load_request(plan.repo, RequestId(ObjectId(old.id)))
        changed = evidences.what_changed(plan.repo, request, plan.evidence)
        void = f"; {request_name(old.number)} is void: {changed}"
    raise ApprovalMissing(
        f"{short(plan.commit)} has {have} of {need} approvals for '{environment.name}':"
        f" request {name}{void}",
        hint=f"somebody else: deltavc env approve {name}; then the same command again",
        request=name,
        environment=environment.name,
        revision=plan.commit,
        approvals=have,
        needed=need,
    )


def request_of(plan: Plan) -> str | None:
    """Returns what the request on this evidence is called; None where nobody asked."""
    request = plan.approved.request
    return None if request is None else request_name(request.number)


def _ask(plan: Plan) -> int:
    repo, environment = plan.repo, plan.environment
    with repo.change(plan.action) as change:
        repo.put_record("environment", environment)
        record = Request(
            environment=environment.name,
            commit=plan.commit,
            actor=repo.session.actor,
            time=change.time,
            definition=plan.evidence.definition,
            evidence=plan.evidence.digest,
            gates=plan.evidence.gates,
            measurements=plan.evidence.measurements,
            needed=environment.approvals,
            reason=plan.reason,
            key=plan.key,
            promoted_from=plan.promoted_from,
        )
        oid = repo.put_record("request", record)
        change.note("requests", oid)
        change.touch(oid)
        change.reason = plan.reason
        change.summary = f"ask to {plan.action} {short(plan.commit)} to {environment.name}"
    assert change.event is not None
    return change.event.number
