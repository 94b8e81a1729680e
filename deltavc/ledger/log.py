"""The event log in a folder: append durably, read forwards and backwards.

Readers need no lock: an event is there when its line is whole. The writer holds
the repository's lock (:mod:`deltavc.ledger.lock`) from reading the head until
``append`` has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from deltavc.codec.digest import sha256_hex
from deltavc.errors import AuditChainBroken, ObjectCorrupt, RefMoved, UsageError
from deltavc.ids import EventHash
from deltavc.ledger import durable
from deltavc.ledger.protocol import GENESIS, START, Entry, Finding, Head
from deltavc.ledger.segments import (
    MAX_LINE,
    SEGMENT_EVENTS,
    Segment,
    first_of,
    lines_backward,
    list_segments,
    open_regular,
    read_lines,
    segment_name,
)
from deltavc.records import canonical
from deltavc.records.model import Event

__all__ = ["EventLog", "draft_event", "hash_line"]


def hash_line(line: bytes) -> EventHash:
    """Returns the hash of an event from its line without the newline."""
    return EventHash(sha256_hex(line))


def draft_event(
    *, time: int, actor: str, command: str, summary: str, tool: str, **more: Any
) -> Event:
    """Returns an event that has no place in the log yet.

    Args:
        time: Milliseconds since 1970, UTC.
        actor: Who, as ``name <mail>``.
        command: The verb.
        summary: One line for people.
        tool: The program and its version.
        more: Other fields of :class:`~deltavc.records.model.Event`.

    Returns:
        The event; ``append`` gives it its number and its place in the chain.
    """
    return Event(
        number=0,
        prev=GENESIS,
        time=time,
        actor=actor,
        command=command,
        summary=summary,
        tool=tool,
        **more,
    )


class EventLog:
    """The append-only log of everything that changed a repository.

    Args:
        folder: The folder of the segments, ``.deltavc/events``.
        quarantine: Where torn writes are moved; default: ``quarantine`` beside the folder.
    """

    def __init__(self, folder: Path, quarantine: Path | None = None) -> None:
        self.folder = folder
        self.quarantine = folder.parent / "quarantine" if quarantine is None else quarantine

    @classmethod
    def create(cls, folder: Path) -> EventLog:
        """Makes the folder of a new log; one that is there is kept as it is.

        Args:
            folder: The folder.

        Returns:
            The log.

        Raises:
            RepositoryUnwritable: The folder cannot be made.
        """
        durable.make_folder(folder)
        return cls(folder)

    def head(self) -> Head:
        """Returns the last event's number and hash, from the end of the last segment.

        Returns:
            The head; :data:`~deltavc.ledger.protocol.START` without events.

        Raises:
            AuditChainBroken: The last line is not an event, or not one of this segment.
        """
        for event, event_hash in self.read_back(1):
            return Head(event.number, event_hash)
        return START

    def read(self, start: int = 1) -> Iterator[Entry]:
        """Yields events from a number on, oldest first, checking that each follows the last.

        Args:
            start: Number of the first event wanted.

        Yields:
            Events with their hashes.

        Raises:
            AuditChainBroken: A line is not a canonical event, or does not follow.
        """
        segments = list_segments(self.folder)
        wanted = [s for s in segments if s.first + SEGMENT_EVENTS > start]
        if not wanted:
            return
        number, prev = wanted[0].first, GENESIS
        if number > 1:
            before = segments[: len(segments) - len(wanted)]
            number, prev = self._end_of(before[-1]) if before else (0, GENESIS)
            number += 1
        for segment in wanted:
            if segment.first != number:
                raise _broken("events are missing", number, segment.path)
            lines, torn = read_lines(segment.path)
            if torn and segment is not wanted[-1]:
                raise _broken("an unfinished line stands", number + len(lines), segment.path)
            skip = max(0, min(start - number, len(lines)))
            if skip:
                number, prev = number + skip, hash_line(lines[skip - 1])
            for line in lines[skip:]:
                event = _decode(line, number, segment.path)
                _check_place(event, number, segment)
                if event.prev != prev:
                    raise _broken("the event does not follow from the one before", number)
                prev = hash_line(line)
                yield event, prev
                number += 1

    def read_back(self, limit: int | None = None) -> Iterator[Entry]:
        """Yields events newest first, reading the log from its end.

        Args:
            limit: Largest number of events; None for all.

        Yields:
            Events with their hashes.

        Raises:
            AuditChainBroken: A line is not a canonical event, or the next does not follow it.
        """
        left = -1 if limit is None else limit
        newer: Event | None = None
        segments = list_segments(self.folder)
        for position in range(len(segments) - 1, -1, -1):
            segment = segments[position]
            for line in lines_backward(segment.path):
                if left == 0:
                    return
                left -= 1
                number = newer.number - 1 if newer else None
                event, event_hash = _decode(line, number, segment.path), hash_line(line)
                _check_place(event, number, segment)
                if newer is not None and newer.prev != event_hash:
                    raise _broken("the event does not follow from the one before", newer.number)
                yield event, event_hash
                newer = event
            if newer is not None and newer.number != segment.first:
                raise _broken("events are missing", newer.number - 1, segment.path)
            if newer is None and position + 1 < len(segments):
                raise _broken("a segment without events stands", segment.first, segment.path)
        if newer is not None and left != 0 and (newer.number, newer.prev) != (1, GENESIS):
            raise _broken("events are missing", newer.number - 1)

    def changes_of(self, names: Collection[str]) -> Iterator[Entry]:
        """Yields the events that moved one of these refs, newest first.

        All other lines are passed over undecoded, so that an incident does not wait for
        them; that the chain is whole is what :meth:`verify` says.

        Args:
            names: Names of refs.

        Yields:
            Events with their hashes.

        Raises:
            AuditChainBroken: A line that names one is no canonical event.
        """
        needles = [canonical.encode(name) for name in names]
        for segment in reversed(list_segments(self.folder)):
            with open_regular(segment.path) as file:
                data = file.read()
            for start, end in sorted(_lines_with(data, needles), reverse=True):
                line = data[start:end]
                event = _decode(line, None, segment.path)
                if any(change.name in names for change in event.refs):
                    yield event, hash_line(line)

    def append(self, draft: Event, *, expected: Head) -> Entry:
        """Adds one event; when it returns, the event is on disk.

        The caller holds the repository's lock. A torn line that a killed process left
        is moved to the quarantine first.

        Args:
            draft: The event; its number and ``prev`` are filled in here.
            expected: The head that the caller's decision was based on.

        Returns:
            The event as written, and its hash.

        Raises:
            RefMoved: The log has another head by now.
            RepositoryUnwritable: Disk full, read-only, no permission; the log is as before.
            UsageError: The draft holds something that JSON cannot.
            AuditChainBroken: The log's end cannot be read.
        """
        head = self.head()
        if head != expected:
            raise RefMoved(
                f"the event log is at event {head.number}, not at event {expected.number}",
                expected=list(expected),
                found=list(head),
            )
        event, line = _prepare(draft, head)
        segments = list_segments(self.folder)
        if segments:
            durable.settle(segments[-1].path, self.quarantine)
        path = self.folder / segment_name(first_of(event.number))
        others = [s for s in segments if s.path != path]
        if others and event.number == first_of(event.number):
            durable.sync_file(others[-1].path)  # no event may reach the disk before those before it
        durable.append_line(path, line + b"\n")
        return event, hash_line(line)

    def verify(
        self, *, anchor: Head | None = None, seen: Callable[[Event, EventHash], None] | None = None
    ) -> list[Finding]:
        """Looks for everything that is wrong with the log; never raises for what it finds.

        Args:
            anchor: A head that was noted earlier; the chain alone cannot show that its
                own end was changed or cut off.
            seen: Told of each event that can be read, with its hash.

        Returns:
            Findings in the order of the log; none for a sound one.
        """
        from deltavc.ledger.verify import verify

        return verify(self.folder, anchor, seen)

    def _end_of(self, segment: Segment) -> Head:
        for line in lines_backward(segment.path):
            event = _decode(line, None, segment.path)
            _check_place(event, None, segment)
            return Head(event.number, hash_line(line))
        return Head(segment.first - 1, GENESIS)


def _lines_with(data: bytes, needles: Iterable[bytes]) -> set[tuple[int, int]]:
    """Returns where the whole lines begin and end that hold one of some texts.

    Searched in the segment at once: line by line took four times as long.
    """
    found: set[tuple[int, int]] = set()
    for needle in needles:
        at = data.find(needle)
        while at >= 0:
            end = data.find(b"\n", at)
            if end < 0:
                break
            found.add((data.rfind(b"\n", 0, at) + 1, end))
            at = data.find(needle, end)
    return found


def _prepare(draft: Event, head: Head) -> tuple[Event, bytes]:
    """Gives a draft its place, and returns it as it will be read back, with its line."""
    event = msgspec.structs.replace(draft, number=head.number + 1, prev=head.hash)
    try:
        line = canonical.encode(event)
        event = canonical.decode(line, Event)
    except (ObjectCorrupt, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"the event of '{draft.command}' cannot be written: {error}") from error
    if len(line) >= MAX_LINE:
        raise UsageError(f"the event of '{draft.command}' is longer than {MAX_LINE} bytes")
    return event, line


def _decode(line: bytes, number: int | None, path: Path) -> Event:
    try:
        return canonical.decode(line, Event)
    except ObjectCorrupt as error:
        raise _broken("the line is not a canonical event", number, path) from error


def _check_place(event: Event, number: int | None, segment: Segment) -> None:
    if number is None:
        number = event.number if first_of(event.number) == segment.first else segment.first
    if event.number != number:
        raise _broken(f"the line has number {event.number}", number, segment.path)


def _broken(what: str, number: int | None, path: Path | None = None) -> AuditChainBroken:
    where = "at the end" if number is None else f"at event {number}"
    return AuditChainBroken(
        f"the event log is broken {where}: {what}",
        number=number,
        segment=path.name if path else None,
    )
