"""JSON that has one spelling, and names and times as the standards want them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["compact", "document", "person", "subject", "without_empty", "zulu"]

_PERSON = re.compile(r"\s*(?P<name>[^<>]*?)\s*<(?P<mail>[^<>\s@]+@[^<>\s@]+)>\s*")


def document(value: object) -> bytes:
    """Returns a JSON document for people and programs: sorted, indented, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def compact(value: object) -> str:
    """Returns JSON in one line, sorted."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def without_empty(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping without what is None, "", [] or {}: such fields are left out."""
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def person(actor: str) -> dict[str, str]:
    """Returns name and mail of ``name <mail>``; all of it is the name where it is not that."""
    found = _PERSON.fullmatch(actor)
    if found is None:
        return {"name": actor}
    return without_empty({"name": found["name"], "email": found["mail"]})


def subject(message: str) -> str:
    """Returns the first line of a message."""
    return message.strip().partition("\n")[0].strip()


def zulu(milliseconds: int) -> str:
    """Returns a time as ISO 8601 in UTC, to the second; "" for one that no calendar has."""
    try:
        return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""
