"""Records of what is live: environments, deployments, approvals, marks, signatures.

They are objects of the store like those of :mod:`deltavc.records.model`, and the same
rules hold: fields are only added, with a default that is left out of the encoding.
"""

from __future__ import annotations

from deltavc.ids import (
    ApprovalId,
    CommitId,
    DeploymentId,
    MeasurementId,
    ObjectId,
    RequestId,
)
from deltavc.records.model import Record

__all__ = [
    "Approval",
    "Deployment",
    "Environment",
    "GateSeen",
    "Mark",
    "Marks",
    "Request",
    "RuleSeen",
    "Signature",
]


class Environment(Record, frozen=True):
    """What an environment asks of versions and where it keeps them; the value of ``env:NAME``.

    Attributes:
        name: Its name.
        after: The environment that a version must be served by first.
        gates: Gates that must pass, by name.
        approvals: Number of approvals by others before a deployment takes effect.
        target: The folder kept in step, relative to the repository's folder or absolute;
            None for an environment that is a pointer only.
        keep: How many versions stay ready in the target.
        form: How they are written there: ``full``, ``peft`` or ``vllm``.
        hook: A shell command that runs after the switch.
        protect: Nothing may be forced.
    """

    name: str
    after: str | None = None
    gates: tuple[str, ...] = ()
    approvals: int = 0
    target: str | None = None
    keep: int = 3
    form: str = "full"
    hook: str | None = None
    protect: bool = False


class RuleSeen(Record, frozen=True):
    """What a rule of a gate said, and of which measurements.

    Attributes:
        rule: The rule in the gate language.
        verdict: ``pass``, ``fail`` or ``inconclusive``.
        sentence: Why.
        kpi: The series of values that it is about.
        value: What was measured.
        baseline: What was measured of the baseline.
        low: Lower end of the interval.
        high: Upper end of it.
        samples: Number of samples behind the value.
        method: How the interval came about.
        measurement: The measurement.
        baseline_measurement: That of the baseline.
    """

    rule: str
    verdict: str
    sentence: str
    kpi: str
    value: float | None = None
    baseline: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    method: str | None = None
    measurement: MeasurementId | None = None
    baseline_measurement: MeasurementId | None = None


class GateSeen(Record, frozen=True):
    """What a gate said when a version was to be deployed.

    Attributes:
        gate: Its name.
        verdict: The worst of its rules'.
        policy: SHA-256 of the gate and of the definitions that it names, as they were.
        rules: Its rules.
        baseline: The version that was compared with.
        overridden: Whether somebody deployed in spite of it.
    """

    gate: str
    verdict: str
    policy: str
    rules: tuple[RuleSeen, ...] = ()
    baseline: CommitId | None = None
    overridden: bool = False


class Request(Record, frozen=True):
    """A deployment that waits for approvals; called ``r-`` and the number of its event.

    Attributes:
        environment: Where the version is to be served.
        commit: The version.
        actor: Who asked.
        time: When.
        definition: Id of the :class:`Environment` as it was.
        evidence: SHA-256 over the version, the definition, the gates' policies and verdicts,
            and the measurements: what an approval is bound to.
        gates: What the gates said.
        measurements: The measurements of the version that counted, sorted.
        needed: How many approvals it waits for.
        reason: Why, as given.
        key: The idempotency key of the deployment that waits.
        promoted_from: The environment that it is promoted from.
    """

    environment: str
    commit: CommitId
    actor: str
    time: int
    definition: ObjectId
    evidence: str
    gates: tuple[GateSeen, ...] = ()
    measurements: tuple[MeasurementId, ...] = ()
    needed: int = 0
    reason: str | None = None
    key: str | None = None
    promoted_from: str | None = None


class Approval(Record, frozen=True):
    """Somebody's yes to a request. It counts while the evidence is what they saw."""

    request: RequestId
    environment: str
    commit: CommitId
    evidence: str
    actor: str
    time: int
    reason: str | None = None


class Deployment(Record, frozen=True):
    """A version served by an environment from some event on; the value of ``serve:NAME``.

    Attributes:
        environment: Where.
        commit: The version; None where the environment went back to serving nothing.
        action: ``deploy``, ``promote`` or ``rollback``.
        actor: Who.
        time: When, by the clock of whoever did it.
        previous: The deployment before, in the same environment.
        definition: Id of the :class:`Environment` as it was.
        reason: Why, as given.
        gates: What the gates said; a rollback asks none.
        evidence: As in :class:`Request`.
        request: The request that was approved.
        approvals: The approvals that counted.
        needed: How many were needed.
        key: Idempotency key: in one environment the same key is done once.
        promoted_from: The environment that it was promoted from.
        folder: The version's folder in the target.
        receipt: SHA-256 of that folder's ``deltavc.json``.
    """

    environment: str
    commit: CommitId | None
    action: str
    actor: str
    time: int
    definition: ObjectId
    previous: DeploymentId | None = None
    reason: str | None = None
    gates: tuple[GateSeen, ...] = ()
    evidence: str | None = None
    request: RequestId | None = None
    approvals: tuple[ApprovalId, ...] = ()
    needed: int = 0
    key: str | None = None
    promoted_from: str | None = None
    folder: str | None = None
    receipt: str | None = None


class Mark(Record, frozen=True):
    """Who called a version bad in an environment, when and why."""

    actor: str
    time: int
    reason: str | None = None


class Marks(Record, frozen=True):
    """The versions that are called bad in an environment; the value of ``marks:NAME``."""

    environment: str
    bad: dict[CommitId, Mark] = {}  # noqa: RUF012 - msgspec copies it


class Signature(Record, frozen=True):
    """A detached SSH signature of an object's id.

    Attributes:
        object: The id of what was signed.
        kind: What it is: commit, tag, approval.
        signer: The principal that the signer claims, as in ``allowed_signers``.
        key: Fingerprint of the key.
        signature: The signature in SSH's armour.
        time: When it was made, as claimed.
    """

    object: ObjectId
    kind: str
    signer: str
    key: str
    signature: str
    time: int
