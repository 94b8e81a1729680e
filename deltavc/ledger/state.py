"""What the repository's refs are, from the events alone.

This is the truth that the catalog only indexes: enough for ``rollback``,
``undo`` and ``--at-op`` while no catalog can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deltavc.codec.digest import sha256_hex
from deltavc.errors import AuditChainBroken
from deltavc.ids import EventHash
from deltavc.ledger.protocol import GENESIS, Head, Ledger
from deltavc.records import canonical
from deltavc.records.model import Event

__all__ = ["State", "apply", "replay"]


@dataclass(frozen=True)
class State:
    """The refs after an event.

    Attributes:
        refs: Ref name to value, as in :class:`~deltavc.records.model.RefChange`.
        number: The event's number; 0 before the first.
        hash: The event's hash.
    """

    refs: Mapping[str, str] = field(default_factory=dict)
    number: int = 0
    hash: EventHash = GENESIS

    @property
    def head(self) -> Head:
        """The event as a head of the log."""
        return Head(self.number, self.hash)


def apply(state: State, event: Event, event_hash: EventHash | None = None) -> State:
    """Returns the state after one more event.

    Args:
        state: The state before it.
        event: The next event.
        event_hash: Its hash, where it is known already.

    Returns:
        The new state; the given one stays as it is.

    Raises:
        AuditChainBroken: The event is not the next one, or a ref was not what it says.
    """
    if event.number != state.number + 1 or event.prev != state.hash:
        raise AuditChainBroken(
            f"event {event.number} does not follow event {state.number}", number=event.number
        )
    if event_hash is None:
        event_hash = EventHash(sha256_hex(canonical.encode(event)))
    if not event.refs:
        return State(state.refs, event.number, event_hash)
    refs = dict(state.refs)
    _change(refs, event)
    return State(refs, event.number, event_hash)


def replay(log: Ledger, *, until: int | None = None) -> State:
    """Returns the state after the events of a log.

    Args:
        log: The log.
        until: Number of the last event to count; default: all.

    Returns:
        The state.

    Raises:
        AuditChainBroken: The log does not follow from itself.
    """
    refs: dict[str, str] = {}
    number, last_hash = 0, GENESIS
    if until is not None and until <= 0:
        return State(refs)
    for event, event_hash in log.read():
        _change(refs, event)
        number, last_hash = event.number, event_hash
        if number == until:
            break
    return State(refs, number, last_hash)


def _change(refs: dict[str, str], event: Event) -> None:
    for change in event.refs:
        found = refs.get(change.name)
        if found != change.before:
            raise AuditChainBroken(
                f"event {event.number} moves '{change.name}' from a value that it did not have",
                number=event.number,
                ref=change.name,
                expected=change.before,
                found=found,
            )
        if change.after is None:
            refs.pop(change.name, None)
        else:
            refs[change.name] = change.after
