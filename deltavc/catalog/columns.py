"""Column types that tables share, so that one kind of value is kept in one way."""

from __future__ import annotations

from typing import Annotated

from sqlalchemy import REAL, BigInteger, Double, ForeignKey, Integer, Text
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeEngine

__all__ = [
    "big_integer",
    "commit_fk",
    "event_fk",
    "key_pk",
    "oid_unique",
    "real",
    "utc_ms",
]

# STRICT tables of SQLite know INTEGER, REAL, TEXT, BLOB and ANY alone.
big_integer: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
real: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")

key_pk = Annotated[int, mapped_column(big_integer, primary_key=True)]
"""Key of a row, in the order of the event log; not known outside."""

oid_unique = Annotated[str, mapped_column(Text, unique=True)]
"""Object id in 64 hex digits."""

utc_ms = Annotated[int, mapped_column(big_integer)]
"""Milliseconds since 1970 in UTC."""

event_fk = Annotated[int, mapped_column(big_integer, ForeignKey("events.number"))]
"""Number of the event that brought the row."""

commit_fk = Annotated[int, mapped_column(big_integer, ForeignKey("commits.key"))]
"""Key of a commit."""
