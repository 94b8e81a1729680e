"""The catalog's tables of what is live: environments, deployments, requests, approvals.

As in :mod:`deltavc.catalog.models`, which names them all.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from deltavc.catalog.columns import (
    STRICT,
    STRICT_WITHOUT_ROWID,
    Record,
    big_integer,
    commit_fk,
    event_fk,
    oid_unique,
    real,
    utc_ms,
)

__all__ = [
    "ApprovalRecord",
    "DeploymentRecord",
    "EnvironmentRecord",
    "RequestRecord",
    "SignatureRecord",
    "VerdictRecord",
]


class EnvironmentRecord(Record):
    """A recorded definition: the value of an ``env:`` ref, read."""

    __tablename__ = "environments"
    name: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[str]
    after: Mapped[str | None]
    gates: Mapped[str]
    approvals: Mapped[int] = mapped_column(Integer)
    target: Mapped[str | None]
    keep: Mapped[int] = mapped_column(Integer)
    form: Mapped[str]
    hook: Mapped[str | None]
    protect: Mapped[int] = mapped_column(Integer)
    event_number: Mapped[event_fk]
    __table_args__ = (
        CheckConstraint("protect IN (0, 1)", name="protect"),
        STRICT_WITHOUT_ROWID,
    )


class DeploymentRecord(Record):
    """A version served by an environment from an event on; the event's number names it."""

    __tablename__ = "deployments"
    event_number: Mapped[int] = mapped_column(
        big_integer, ForeignKey("events.number"), primary_key=True
    )
    id: Mapped[oid_unique]
    environment: Mapped[str]
    commit_key: Mapped[int | None] = mapped_column(big_integer, ForeignKey("commits.key"))
    action: Mapped[str]
    actor: Mapped[str]
    time: Mapped[utc_ms]
    previous: Mapped[str | None]
    definition: Mapped[str]
    reason: Mapped[str | None]
    gate_verdict: Mapped[str | None]
    overridden: Mapped[int] = mapped_column(Integer)
    evidence: Mapped[str | None]
    request: Mapped[str | None]
    approvals: Mapped[int] = mapped_column(Integer)
    needed: Mapped[int] = mapped_column(Integer)
    idempotency_key: Mapped[str | None]
    promoted_from: Mapped[str | None]
    folder: Mapped[str | None]
    receipt: Mapped[str | None]
    late: Mapped[int] = mapped_column(Integer)
    __table_args__ = (
        CheckConstraint("overridden IN (0, 1)", name="overridden"),
        CheckConstraint("late IN (0, 1)", name="late"),
        Index(None, "environment", "event_number"),
        Index(None, "commit_key"),
        Index(None, "request"),
        Index(None, "environment", "idempotency_key"),
        STRICT,
    )


class VerdictRecord(Record):
    """What a rule of a gate said, for a deployment or a request."""

    __tablename__ = "verdicts"
    event_number: Mapped[int] = mapped_column(
        big_integer, ForeignKey("events.number"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    gate: Mapped[str]
    gate_verdict: Mapped[str]
    policy: Mapped[str]
    overridden: Mapped[int] = mapped_column(Integer)
    compared_with: Mapped[str | None]
    rule: Mapped[str | None]
    verdict: Mapped[str | None]
    sentence: Mapped[str | None]
    kpi: Mapped[str | None]
    value: Mapped[float | None] = mapped_column(real)
    baseline: Mapped[float | None] = mapped_column(real)
    low: Mapped[float | None] = mapped_column(real)
    high: Mapped[float | None] = mapped_column(real)
    samples: Mapped[int | None] = mapped_column(big_integer)
    method: Mapped[str | None]
    measurement: Mapped[str | None]
    baseline_measurement: Mapped[str | None]
    __table_args__ = (
        CheckConstraint("overridden IN (0, 1)", name="overridden"),
        STRICT_WITHOUT_ROWID,
    )


class RequestRecord(Record):
    """A deployment that waits, or waited, for approvals; the event's number names it."""

    __tablename__ = "requests"
    event_number: Mapped[int] = mapped_column(
        big_integer, ForeignKey("events.number"), primary_key=True
    )
    id: Mapped[oid_unique]
    environment: Mapped[str]
    commit_key: Mapped[commit_fk]
    actor: Mapped[str]
    time: Mapped[utc_ms]
    definition: Mapped[str]
    evidence: Mapped[str]
    needed: Mapped[int] = mapped_column(Integer)
    gate_verdict: Mapped[str | None]
    reason: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    promoted_from: Mapped[str | None]
    __table_args__ = (Index(None, "environment", "commit_key"), STRICT)


class ApprovalRecord(Record):
    """Somebody's yes to a request."""

    __tablename__ = "approvals"
    id: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[str]
    environment: Mapped[str]
    commit_key: Mapped[commit_fk]
    evidence: Mapped[str]
    actor: Mapped[str]
    time: Mapped[utc_ms]
    reason: Mapped[str | None]
    event_number: Mapped[event_fk]
    __table_args__ = (Index(None, "request"), STRICT_WITHOUT_ROWID)


class SignatureRecord(Record):
    """A detached signature of an object."""

    __tablename__ = "signatures"
    id: Mapped[str] = mapped_column(primary_key=True)
    object: Mapped[str]
    kind: Mapped[str]
    signer: Mapped[str]
    key: Mapped[str]
    time: Mapped[utc_ms]
    event_number: Mapped[event_fk]
    __table_args__ = (Index(None, "object"), STRICT_WITHOUT_ROWID)
