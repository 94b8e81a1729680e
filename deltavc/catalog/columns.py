"""What tables share: their base class, and column types, one for each kind of value."""

from __future__ import annotations

from typing import Annotated

from sqlalchemy import REAL, BigInteger, Double, ForeignKey, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeEngine

__all__ = [
    "STRICT",
    "STRICT_WITHOUT_ROWID",
    "Record",
    "big_integer",
    "commit_fk",
    "event_fk",
    "key_pk",
    "oid_unique",
    "real",
    "utc_ms",
]

STRICT = {"sqlite_strict": True}
STRICT_WITHOUT_ROWID = {"sqlite_strict": True, "sqlite_with_rowid": False}


class Record(DeclarativeBase):
    """A row of the catalog."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text}  # noqa: RUF012 - SQLAlchemy reads it from the class


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
