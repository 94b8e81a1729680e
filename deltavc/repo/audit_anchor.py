"""A head of the log that was noted somewhere else: a file, read back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltavc.errors import DeltavcError, UsageError
from deltavc.ids import EventHash, is_object_id
from deltavc.ledger.protocol import Head
from deltavc.records import canonical
from deltavc.repo.layout import read_text

__all__ = ["read_anchor"]

_LINE = re.compile(r".*\b(\d[\d,]{0,17})\b.*?\b([0-9a-f]{64})\b")
_LONGEST = 1000  # of a line that is looked at
_WITHIN = ("data", "head", "anchor")


def read_anchor(path: Path) -> Head:
    """Reads a head that was noted earlier.

    Args:
        path: JSON with ``number`` and ``hash``, as every document of ``audit head``,
            ``audit verify`` and ``audit export`` has it; or text with a number and 64 hex
            digits on one line. Where there are several, the one with the greatest number.

    Returns:
        The head.

    Raises:
        UsageError: The file cannot be read, or holds no head.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"the noted head '{path}' cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="note one: deltavc audit head > FILE",
            path=str(path),
        ) from error
    try:
        heads = list(_heads(canonical.loads_strict(text.encode(), "the noted head")))
    except DeltavcError:
        heads = list(_written(text))
    if not heads:
        raise UsageError(
            f"'{path}' holds no head of an event log: a number and 64 hex digits",
            hint="note one: deltavc audit head > FILE",
            path=str(path),
        )
    return max(heads)


def _written(text: str) -> Iterator[Head]:
    """Yields the heads in a text: of each line the last number before 64 hex digits."""
    for line in text.splitlines():
        if found := _LINE.match(line[:_LONGEST]):
            yield Head(int(found[1].replace(",", "")), EventHash(found[2]))


def _heads(value: Any) -> Iterator[Head]:
    if not isinstance(value, dict):
        return
    number, event_hash = value.get("number"), value.get("hash")
    if type(number) is int and isinstance(event_hash, str) and is_object_id(event_hash):
        yield Head(number, EventHash(event_hash))
    for name in _WITHIN:
        yield from _heads(value.get(name))
