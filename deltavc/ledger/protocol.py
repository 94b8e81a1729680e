"""What an event log offers, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from deltavc.ids import HEX_DIGITS, EventHash
from deltavc.records.model import Event

__all__ = ["GENESIS", "START", "Entry", "Finding", "FindingKind", "Head", "Ledger"]

GENESIS = EventHash("0" * HEX_DIGITS)
"""What the first event names as the hash of the event before it."""

Entry = tuple[Event, EventHash]
"""An event and its hash."""


class Head(NamedTuple):
    """The last event of a log: its number and its hash."""

    number: int
    hash: EventHash


START = Head(0, GENESIS)
"""The head of a log without events."""


FindingKind = Literal["segment", "form", "number", "chain", "torn", "anchor"]


@dataclass(frozen=True)
class Finding:
    """Something about a log that is not as it should be.

    Attributes:
        kind: ``segment`` (a file that does not belong), ``form`` (a line that is no
            canonical event), ``number`` (a gap or a repetition), ``chain`` (a line
            that does not follow from the one before), ``torn`` (an unfinished last
            line), ``anchor`` (not the log that a noted head was taken from).
        message: One sentence for people, in the form of error messages.
        number: The event's number, as far as it is known.
        file: The segment's name.
        severity: A torn last line is a ``warning``: it was never acknowledged.
    """

    kind: FindingKind
    message: str
    number: int | None = None
    file: str | None = None
    severity: Literal["error", "warning"] = "error"


class Ledger(Protocol):
    """A log of events: the last one, one more, all of them.

    ``append`` is a compare-and-swap on the head. In a folder the repository's lock
    makes it one; where objects are created only if absent, the next number does.
    """

    def head(self) -> Head:
        """Returns the last event's number and hash."""
        ...

    def append(self, draft: Event, *, expected: Head) -> Entry:
        """Adds an event behind the expected head, durably, and returns it as written."""
        ...

    def read(self, start: int = 1) -> Iterator[Entry]:
        """Yields the events from a number on, oldest first."""
        ...
