"""What an event itself says of the objects that it brought."""

from __future__ import annotations

from deltavc.catalog.projection_ship import KINDS
from deltavc.errors import AuditChainBroken
from deltavc.ids import ObjectId, is_object_id
from deltavc.records.model import Event

__all__ = ["branch_of", "brought_by", "stats"]

BRANCH = "branch:"
BROUGHT = ("commits", "tags", "measurements", *KINDS)


def brought_by(event: Event) -> dict[str, list[ObjectId]]:
    """Returns the ids that an event's detail says it brought, by the key there."""
    ids: dict[str, list[ObjectId]] = {}
    for key in BROUGHT:
        if key not in event.detail:
            continue
        found = event.detail[key]
        if not isinstance(found, list) or not all(
            isinstance(oid, str) and is_object_id(oid) for oid in found
        ):
            raise AuditChainBroken(
                f"event {event.number} names {key} that are no ids", number=event.number
            )
        ids[key] = list(dict.fromkeys(ObjectId(oid) for oid in found))
    return ids


def stats(event: Event, oid: ObjectId) -> dict[str, int]:
    """Returns the counts that an event gives for a commit; they are for show only."""
    given = event.detail.get("stats")
    found = given.get(oid) if isinstance(given, dict) else None
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if type(value) is int}


def branch_of(event: Event, oid: ObjectId) -> str | None:
    """Returns the branch that a commit was made on: the one moved to it, or the only one moved."""
    moved = [c for c in event.refs if c.name.startswith(BRANCH) and c.after is not None]
    here = [c for c in moved if c.after == oid]
    if not here and len(moved) == 1:
        here = moved
    return here[0].name.removeprefix(BRANCH) if here else None
