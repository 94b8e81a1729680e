"""Looking for tampering: every line, every link, every name, without stopping at the first.

After a finding the walk goes on from what stands there, so that one changed line
gives the findings of one changed line and not of all that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deltavc.codec.digest import sha256_hex
from deltavc.errors import DeltavcError, ObjectCorrupt
from deltavc.ids import EventHash
from deltavc.ledger.protocol import START, Finding, FindingKind, Head
from deltavc.ledger.segments import Segment, first_of, is_segment_name, list_segments, read_lines
from deltavc.records import canonical
from deltavc.records.model import Event

__all__ = ["verify"]


def verify(
    folder: Path, anchor: Head | None = None, seen: Callable[[Event, EventHash], None] | None = None
) -> list[Finding]:
    """Checks a whole log.

    Args:
        folder: The log's folder.
        anchor: A head noted earlier, to be found in the log again.
        seen: Told of each event that can be read, in the order of the lines, with its hash.

    Returns:
        What is wrong, in the order of the log.
    """
    try:
        segments = list_segments(folder)
        strangers = sorted(path.name for path in folder.iterdir() if not is_segment_name(path.name))
    except (DeltavcError, OSError) as error:
        return [Finding("segment", f"the log cannot be read: {error}")]
    walk = _Walk(anchor, seen)
    for name in strangers:
        walk.note("segment", f"'{name}' is not a segment of the log", file=name)
    for segment in segments:
        walk.segment(segment, last=segment is segments[-1])
    walk.finish()
    return walk.findings


class _Walk:
    """Where the walk is: the event that was read last, and what was found so far."""

    def __init__(
        self, anchor: Head | None, seen: Callable[[Event, EventHash], None] | None
    ) -> None:
        self.seen = seen
        self.findings: list[Finding] = []
        self.anchor = anchor
        self.anchor_seen = anchor is None or anchor == START
        self.number = 0
        self.prev: EventHash = START.hash

    def note(
        self, kind: FindingKind, message: str, *, number: int | None = None, file: str
    ) -> None:
        self.findings.append(
            Finding(kind, message, number, file, "warning" if kind == "torn" else "error")
        )

    def segment(self, segment: Segment, *, last: bool) -> None:
        name = segment.path.name
        if segment.first != self.number + 1:
            self.note(
                "segment",
                f"segment '{name}' follows event {self.number}",
                number=self.number + 1,
                file=name,
            )
            if segment.first > self.number:  # report the gap once, not again at its first line
                self.number = segment.first - 1
        try:
            lines, torn = read_lines(segment.path)
        except DeltavcError as error:
            self.note("segment", error.message, file=name)
            return
        for line in lines:
            self._line(line, segment.first, name)
        if torn:
            what = "the last line of" if last else "a line in the middle of the log, in"
            self.note(
                "torn" if last else "form",
                f"{what} segment '{name}' is unfinished: {len(torn)} bytes",
                number=self.number + 1,
                file=name,
            )

    def _line(self, line: bytes, first: int, name: str) -> None:
        number = self.number + 1
        try:
            event = canonical.decode(line, Event)
        except ObjectCorrupt as error:
            self.note("form", f"event {number}: {error.message}", number=number, file=name)
            self.number, self.prev = number, EventHash(sha256_hex(line))
            return
        if event.number != number:
            self.note(
                "number",
                f"event {event.number} stands where event {number} should",
                number=event.number,
                file=name,
            )
        elif first_of(event.number) != first:
            self.note(
                "segment",
                f"event {event.number} does not belong in segment '{name}'",
                number=event.number,
                file=name,
            )
        if event.prev != self.prev:
            self.note(
                "chain",
                f"event {event.number} does not follow from the event before it",
                number=event.number,
                file=name,
            )
        self.number, self.prev = event.number, EventHash(sha256_hex(line))
        self._compare_anchor(name)
        if self.seen is not None:
            self.seen(event, self.prev)

    def _compare_anchor(self, name: str) -> None:
        if self.anchor is None or self.anchor_seen or self.number != self.anchor.number:
            return
        self.anchor_seen = True
        if self.prev != self.anchor.hash:
            self.note(
                "anchor",
                f"event {self.number} is not the one that was noted",
                number=self.number,
                file=name,
            )

    def finish(self) -> None:
        if self.anchor is not None and not self.anchor_seen:
            self.findings.append(
                Finding(
                    "anchor",
                    f"the log ends at event {self.number}, "
                    f"but event {self.anchor.number} was noted",
                    self.anchor.number,
                )
            )
