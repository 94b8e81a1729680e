"""The rows of what is live: what events bring of environments, deployments and approvals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from deltavc.ids import ObjectId
from deltavc.kpi.outcomes import worst_of
from deltavc.records import canonical
from deltavc.records.model import Event
from deltavc.records.ship import (
    Approval,
    Deployment,
    Environment,
    GateSeen,
    Request,
    Signature,
)

__all__ = ["KINDS", "environment_row", "rows_of"]

Row = tuple[str, dict[str, Any]]

KINDS: dict[str, tuple[str, type[Deployment | Request | Approval | Signature]]] = {
    "deployments": ("deployment", Deployment),
    "requests": ("request", Request),
    "approvals": ("approval", Approval),
    "signatures": ("signature", Signature),
}
"""Keys of an event's detail that name such objects: the objects' kind and record."""

LATE = "late"
"""The key of an event's detail that says that a rollback was recorded later than it was done."""


def rows_of(
    record: Deployment | Request | Approval | Signature,
    oid: ObjectId,
    event: Event,
    commit_key: int | None,
) -> Iterator[Row]:
    """Yields the rows of a record that an event brought.

    Args:
        record: The record.
        oid: Its id.
        event: The event.
        commit_key: Key of the commit that it is about; None for a signature.

    Yields:
        Tables and rows.
    """
    if isinstance(record, Signature):
        yield (
            "signatures",
            {
                "id": oid,
                "object": record.object,
                "kind": record.kind,
                "signer": record.signer,
                "key": record.key,
                "time": record.time,
                "event_number": event.number,
            },
        )
        return
    row = {
        "id": oid,
        "environment": record.environment,
        "commit_key": commit_key,
        "actor": record.actor,
        "time": record.time,
        "reason": record.reason,
        "evidence": record.evidence,
        "event_number": event.number,
    }
    if isinstance(record, Approval):
        yield "approvals", row | {"request": record.request}
        return
    row |= {
        "definition": record.definition,
        "needed": record.needed,
        "gate_verdict": worst_of(gate.verdict for gate in record.gates),
        "idempotency_key": record.key,
        "promoted_from": record.promoted_from,
    }
    if isinstance(record, Request):
        yield "requests", row
    else:
        yield "deployments", row | _deployment(record, event)
    yield from _verdicts(record.gates, event)


def _deployment(record: Deployment, event: Event) -> dict[str, Any]:
    return {
        "action": record.action,
        "previous": record.previous,
        "overridden": int(any(gate.overridden for gate in record.gates)),
        "request": record.request,
        "approvals": len(record.approvals),
        "folder": record.folder,
        "receipt": record.receipt,
        "late": int(event.detail.get(LATE) is True),
    }


def _verdicts(gates: Sequence[GateSeen], event: Event) -> Iterator[Row]:
    position = 0
    for gate in gates:
        shared = {
            "event_number": event.number,
            "gate": gate.gate,
            "gate_verdict": gate.verdict,
            "policy": gate.policy,
            "overridden": int(gate.overridden),
            "compared_with": gate.baseline,
        }
        for rule in gate.rules:
            yield (
                "verdicts",
                shared
                | {
                    "position": position,
                    "rule": rule.rule,
                    "verdict": rule.verdict,
                    "sentence": rule.sentence,
                    "kpi": rule.kpi,
                    "value": rule.value,
                    "baseline": rule.baseline,
                    "low": rule.low,
                    "high": rule.high,
                    "samples": rule.samples,
                    "method": rule.method,
                    "measurement": rule.measurement,
                    "baseline_measurement": rule.baseline_measurement,
                },
            )
            position += 1


def environment_row(record: Environment, oid: ObjectId, event: Event) -> dict[str, Any]:
    """Returns the row of a recorded definition."""
    return {
        "name": record.name,
        "definition": oid,
        "after": record.after,
        "gates": canonical.encode(list(record.gates)).decode(),
        "approvals": record.approvals,
        "target": record.target,
        "keep": record.keep,
        "form": record.form,
        "hook": record.hook,
        "protect": int(record.protect),
        "event_number": event.number,
    }
