"""Digests: SHA-256 is identity, xxh3 is speed.

The id of an object is the SHA-256 of ``KIND SP LENGTH NUL BODY`` where KIND is
ASCII, LENGTH the decimal length of BODY. xxh3 only guards frames against
damage and lets ``status`` skip work; it is never an identity, since collisions
can be made at will.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import xxhash

from deltavc.ids import ObjectId

__all__ = ["Buffer", "Running64", "fast64", "fast128", "object_header", "object_id", "sha256_hex"]

Buffer = bytes | bytearray | memoryview


def object_header(kind: str, length: int) -> bytes:
    """Returns what stands in front of an object's body when it is hashed."""
    return f"{kind} {length}\0".encode("ascii")


def object_id(kind: str, parts: Iterable[Buffer]) -> ObjectId:
    """Returns the id of an object whose body is given in parts."""
    views = [memoryview(part).cast("B") for part in parts]
    digest = hashlib.sha256(object_header(kind, sum(view.nbytes for view in views)))
    for view in views:
        digest.update(view)
    return ObjectId(digest.hexdigest())


def sha256_hex(data: Buffer) -> str:
    """Returns the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def fast64(data: Buffer) -> int:
    """Returns the xxh3-64 of bytes: a checksum, never an identity."""
    return xxhash.xxh3_64_intdigest(data)


class Running64:
    """xxh3-64 of bytes that come in pieces; the same as :func:`fast64` of all of them."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_64()

    def update(self, data: Buffer) -> None:
        """Adds a piece."""
        self._state.update(data)

    def value(self) -> int:
        """Returns the checksum of what was added so far."""
        return int(self._state.intdigest())


def fast128(data: Buffer) -> str:
    """Returns the xxh3-128 of bytes in hex: a checksum, never an identity."""
    return xxhash.xxh3_128_hexdigest(data)
