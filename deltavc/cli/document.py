"""The JSON documents: plain values, and the envelope around every answer.

The envelope is a promise: ``schema``, ``ok``, ``data`` or ``error``,
``warnings``, ``hints``. Fields are only added; a breaking change raises the
number in ``schema``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from deltavc.cli.units import iso

__all__ = ["dumps", "failure_envelope", "plain", "success_envelope"]


def plain(value: Any) -> Any:
    """Turns an answer into plain JSON values.

    Records become objects by their fields, and their integer fields named
    ``time`` or ``*_time`` become ISO 8601; rationals, paths and enumerations
    become text, bytes hex. NaN becomes null, and the object around it gets
    ``"is_nan": true``; an infinity becomes null and ``"is_infinite": true``.

    Args:
        value: Records, mappings, sequences and scalars.

    Returns:
        Values that :mod:`json` writes.

    Raises:
        TypeError: A value has no written form.
    """
    return _plain(value, {})


def _plain(value: Any, marks: dict[str, bool]) -> Any:
    """Converts; ``marks`` belongs to the innermost object around the value."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        marks["is_nan" if math.isnan(value) else "is_infinite"] = True
        return None
    if isinstance(value, Enum):
        return _plain(value.value, marks)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return _object({str(key): item for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [_plain(item, marks) for item in value]
    if isinstance(value, set | frozenset):
        return [_plain(item, marks) for item in sorted(value)]
    if isinstance(value, Fraction | PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    fields = _fields(value)
    if fields is None:
        raise TypeError(f"a {type(value).__name__} has no form in JSON")
    return _object({name: _time(name, item) for name, item in fields.items()})


def _object(items: Mapping[str, Any]) -> dict[str, Any]:
    marks: dict[str, bool] = {}
    result = {key: _plain(item, marks) for key, item in items.items()}
    return {**result, **marks}


def _fields(value: Any) -> dict[str, Any] | None:
    """Returns the fields of a msgspec struct or a dataclass, without importing either."""
    names = getattr(type(value), "__struct_fields__", None)
    if names is None:
        names = getattr(type(value), "__dataclass_fields__", None)
    return None if names is None else {name: getattr(value, name) for name in names}


def _time(name: str, value: Any) -> Any:
    is_time = name == "time" or name.endswith("_time")
    return iso(value) if is_time and type(value) is int else value


def success_envelope(
    schema: str, data: Any, warnings: list[str], hints: list[str]
) -> dict[str, Any]:
    """Returns the document of an answer; ``data`` is plain already."""
    return {"schema": schema, "ok": True, "data": data, "warnings": warnings, "hints": hints}


def failure_envelope(
    schema: str, error: Mapping[str, Any], warnings: list[str], hints: list[str]
) -> dict[str, Any]:
    """Returns the document of a refusal; ``error`` has slug, message, hint, exit_code, context."""
    return {
        "schema": schema,
        "ok": False,
        "error": dict(error),
        "warnings": warnings,
        "hints": hints,
    }


def dumps(value: Any) -> str:
    """Writes plain values as one line of ASCII JSON: safe on any terminal, in any encoding."""
    import json

    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")
