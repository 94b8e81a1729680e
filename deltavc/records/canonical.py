"""The one written form of a record, and strict reading of everybody's JSON.

Records are encoded as UTF-8 JSON without white space, keys sorted, shortest
round-trip floats; equal values have equal bytes, so their SHA-256 can be an
id. Reading checks types and that the bytes are the canonical ones, which rules
out duplicate keys, NaN, stray fields and other spellings of the same value.

:func:`loads_strict` is for JSON that others wrote: tensor file headers,
adapter and model configs.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

import msgspec

from deltavc.errors import ObjectCorrupt, UnsafeFile

__all__ = ["decode", "encode", "loads_strict"]

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
MAX_DEPTH = 64
MAX_DIGITS = 64


def encode(record: Any) -> bytes:
    """Returns the canonical bytes of a record or of plain JSON values."""
    return _ENCODER.encode(record)


def decode(data: bytes | memoryview, kind: type[_T]) -> _T:
    """Reads a record back.

    Args:
        data: Canonical bytes.
        kind: The record's type.

    Returns:
        The record.

    Raises:
        ObjectCorrupt: The bytes are not the canonical form of such a record.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    raw = bytes(data)
    try:
        record: _T = decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ObjectCorrupt(f"a {kind.__name__} record cannot be read: {error}") from error
    if _ENCODER.encode(record) != raw:
        raise ObjectCorrupt(f"a {kind.__name__} record is not in canonical form")
    return record


def loads_strict(data: bytes, what: str, *, max_bytes: int = 100_000_000) -> Any:
    """Parses JSON of foreign origin without taking anything doubtful.

    Args:
        data: UTF-8 text.
        what: What it is, for messages.
        max_bytes: Largest accepted length.

    Returns:
        Plain Python values.

    Raises:
        UnsafeFile: Not JSON, duplicate keys, NaN or infinity, too deep, too
            large, too many digits, or text that UTF-8 cannot hold.
    """
    if len(data) > max_bytes:
        raise UnsafeFile(f"{what} is larger than {max_bytes} bytes", size=len(data))

    def refuse(text: str) -> NoReturn:
        raise UnsafeFile(f"{what} holds '{text[:20]}', which is not a JSON number")

    def number(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise UnsafeFile(f"{what} holds a number of {len(text)} digits")
        return int(text)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            raise UnsafeFile(f"{what} holds the same key twice")
        return value

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse, parse_int=number
        )
        _check(value, what, 0)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"{what} is not valid JSON: {error}") from error
    return value


def _check(value: Any, what: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UnsafeFile(f"{what} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        value.encode("utf-8")  # lone surrogates raise UnicodeEncodeError, a ValueError
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode("utf-8")
            _check(item, what, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, what, depth + 1)
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise UnsafeFile(f"{what} holds a number that is too large")
