"""Segment files of the event log: names, and lines read from either end.

A segment holds up to 1,000 events, one line each, and is named after its first
event. Only the last segment grows. Bytes behind a segment's last newline are the
torn write of a process that was killed; they are no event.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deltavc.errors import AuditChainBroken, RepositoryError

__all__ = [
    "SEGMENT_EVENTS",
    "Segment",
    "first_of",
    "is_segment_name",
    "lines_backward",
    "list_segments",
    "open_regular",
    "read_lines",
    "segment_name",
]

SEGMENT_EVENTS = 1000
MAX_LINE = 1 << 26
_FIRST_BLOCK = 1 << 13  # a few events; one read finds the head
_LARGEST_BLOCK = 1 << 20
_NAME = re.compile(r"([0-9]{8,18})\.jsonl\Z")


class Segment(NamedTuple):
    """A segment: the number of its first event, and its file."""

    first: int
    path: Path


def segment_name(first: int) -> str:
    """Returns the file name of the segment that begins with this event."""
    return f"{first:08d}.jsonl"


def first_of(number: int) -> int:
    """Returns the number of the first event in the segment of an event."""
    return (number - 1) // SEGMENT_EVENTS * SEGMENT_EVENTS + 1


def is_segment_name(name: str) -> bool:
    """Tells whether a file name is one that a segment can have."""
    match = _NAME.match(name)
    if match is None:
        return False
    first = int(match.group(1))
    return first > 0 and first == first_of(first) and name == segment_name(first)


def list_segments(folder: Path) -> list[Segment]:
    """Returns the segments in a folder, in order; other files are passed over.

    Args:
        folder: The log's folder.

    Returns:
        The segments.

    Raises:
        AuditChainBroken: The folder is missing: an empty log has an empty folder.
        RepositoryError: The folder cannot be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if is_segment_name(path.name)]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AuditChainBroken(
            f"the event log's folder '{folder}' is missing", folder=str(folder)
        ) from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(Segment(int(name.split(".")[0]), folder / name) for name in names)


def open_regular(path: Path) -> BinaryIO:
    """Opens a segment for reading, unless it is a link, a pipe or a device.

    Args:
        path: The file.

    Returns:
        The open file.

    Raises:
        AuditChainBroken: It is missing, or not a regular file.
        RepositoryError: It cannot be read.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise AuditChainBroken(f"segment '{path.name}' is missing", segment=path.name) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AuditChainBroken(f"segment '{path.name}' is not a regular file", segment=path.name)
    return os.fdopen(handle, "rb")


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Reads a segment.

    Args:
        path: The segment's file.

    Returns:
        Its whole lines without their newlines, and the torn bytes behind the last one.

    Raises:
        AuditChainBroken: The file is missing, or not a regular file.
        RepositoryError: It cannot be read.
    """
    with open_regular(path) as file:
        try:
            data = file.read()
        except OSError as error:
            raise _unreadable(path, error) from error
    lines = data.split(b"\n")
    torn = lines.pop()
    return lines, torn


def lines_backward(path: Path) -> Iterator[bytes]:
    """Yields a segment's whole lines, last first, reading no more than is asked for.

    Args:
        path: The segment's file.

    Yields:
        Lines without their newlines.

    Raises:
        AuditChainBroken: The file is missing or not regular, or a line is beyond all bounds.
        RepositoryError: It cannot be read.
    """
    block = _FIRST_BLOCK
    pending, ended = b"", False  # bytes of the line that is being put together; its newline seen?
    with open_regular(path) as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            step = min(block, position)
            position -= step
            block = min(2 * block, _LARGEST_BLOCK)
            try:
                file.seek(position)
                pieces = (file.read(step) + pending).split(b"\n")
            except OSError as error:
                raise _unreadable(path, error) from error
            for piece in reversed(pieces[1:]):
                if ended:
                    yield piece
                ended = True
            pending = pieces[0]
            if len(pending) > MAX_LINE:
                raise AuditChainBroken(
                    f"segment '{path.name}' holds a line of more than {MAX_LINE} bytes",
                    segment=path.name,
                )
        if ended:
            yield pending


def _unreadable(path: Path, error: OSError) -> RepositoryError:
    return RepositoryError(
        f"'{path}' cannot be read: {error.strerror}",
        hint="check the permissions of the repository's folder and the disk's health",
        path=str(path),
    )
