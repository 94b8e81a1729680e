"""The catalog's tables.

Private: what others may query are the views. A row's ``key`` is given in the
order of the event log and, within an event, parents first; so a commit's key is
greater than those of all its ancestors, which is what
:mod:`deltavc.catalog.ancestry` stands on.

A change here needs a migration; a test holds the two together.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from deltavc.catalog.columns import (
    STRICT,
    STRICT_WITHOUT_ROWID,
    Record,
    big_integer,
    commit_fk,
    event_fk,
    key_pk,
    oid_unique,
    real,
    utc_ms,
)
from deltavc.catalog.models_ship import (
    ApprovalRecord,
    DeploymentRecord,
    EnvironmentRecord,
    RequestRecord,
    SignatureRecord,
    VerdictRecord,
)

__all__ = [
    "ApprovalRecord",
    "BaseRecord",
    "CommitRecord",
    "DataRecord",
    "DeploymentRecord",
    "EnvironmentRecord",
    "EventRecord",
    "LabelRecord",
    "LatestRecord",
    "MeasurementRecord",
    "Meta",
    "ParentRecord",
    "Record",
    "RefChangeRecord",
    "RefRecord",
    "RequestRecord",
    "SignatureRecord",
    "TagRecord",
    "VerdictRecord",
]


class Meta(Record):
    """The one row that says which schema this is and which event was applied last."""

    __tablename__ = "meta"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    schema: Mapped[int] = mapped_column(Integer)
    applied_number: Mapped[int] = mapped_column(big_integer)
    applied_hash: Mapped[str]
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), STRICT)


class EventRecord(Record):
    """An event of the log."""

    __tablename__ = "events"
    number: Mapped[key_pk]
    hash: Mapped[str] = mapped_column(unique=True)
    time: Mapped[utc_ms]
    actor: Mapped[str]
    command: Mapped[str]
    summary: Mapped[str]
    tool: Mapped[str]
    reason: Mapped[str | None]
    undoes: Mapped[int | None] = mapped_column(big_integer)
    redoes: Mapped[int | None] = mapped_column(big_integer)
    objects: Mapped[str]
    detail: Mapped[str]
    host: Mapped[str | None]
    user: Mapped[str | None]
    __table_args__ = (CheckConstraint("number > 0", name="number"), STRICT)


class RefChangeRecord(Record):
    """A ref before and after an event."""

    __tablename__ = "ref_changes"
    event_number: Mapped[int] = mapped_column(
        big_integer, ForeignKey("events.number"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str]
    before: Mapped[str | None]
    after: Mapped[str | None]
    __table_args__ = (Index(None, "name", "event_number"), STRICT_WITHOUT_ROWID)


class RefRecord(Record):
    """A ref as it is now."""

    __tablename__ = "refs"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    event_number: Mapped[event_fk]
    __table_args__ = (STRICT_WITHOUT_ROWID,)


class CommitRecord(Record):
    """A commit; ``branch`` is the one that the event which brought it moved."""

    __tablename__ = "commits"
    key: Mapped[key_pk]
    id: Mapped[oid_unique]
    manifest: Mapped[str]
    base: Mapped[str]
    author: Mapped[str]
    time: Mapped[utc_ms]
    message: Mapped[str]
    tool: Mapped[str]
    run: Mapped[str | None]
    source: Mapped[str | None]
    branch: Mapped[str | None]
    generation: Mapped[int] = mapped_column(big_integer)
    exact: Mapped[int] = mapped_column(Integer)
    max_error: Mapped[float | None] = mapped_column(real)
    params: Mapped[int | None] = mapped_column(big_integer)
    stored_bytes: Mapped[int | None] = mapped_column(big_integer)
    event_number: Mapped[event_fk]
    __table_args__ = (
        CheckConstraint("generation > 0", name="generation"),
        CheckConstraint("exact IN (0, 1)", name="exact"),
        CheckConstraint("length(id) = 64", name="id"),
        Index(None, "base"),
        STRICT,
    )


class ParentRecord(Record):
    """One parent of a commit; position 0 is the first parent."""

    __tablename__ = "parents"
    child_key: Mapped[int] = mapped_column(big_integer, ForeignKey("commits.key"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    parent_key: Mapped[commit_fk]
    __table_args__ = (
        CheckConstraint("parent_key < child_key", name="order"),
        Index(None, "parent_key"),
        STRICT_WITHOUT_ROWID,
    )


class LabelRecord(Record):
    """A free ``name=value`` on a commit."""

    __tablename__ = "labels"
    commit_key: Mapped[int] = mapped_column(
        big_integer, ForeignKey("commits.key"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    __table_args__ = (Index(None, "name", "value"), STRICT_WITHOUT_ROWID)


class DataRecord(Record):
    """Training data that a commit names, by its fingerprint."""

    __tablename__ = "commit_data"
    commit_key: Mapped[int] = mapped_column(
        big_integer, ForeignKey("commits.key"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str]
    size: Mapped[int] = mapped_column(big_integer)
    sha256: Mapped[str]
    __table_args__ = (Index(None, "sha256"), STRICT_WITHOUT_ROWID)


class TagRecord(Record):
    """An annotated tag object; whether it is in use is what ``refs`` says."""

    __tablename__ = "tags"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    commit_key: Mapped[commit_fk]
    tagger: Mapped[str]
    time: Mapped[utc_ms]
    message: Mapped[str]
    event_number: Mapped[event_fk]
    __table_args__ = (STRICT_WITHOUT_ROWID,)


class BaseRecord(Record):
    """A named base: the value of a ``base:`` ref, read."""

    __tablename__ = "bases"
    name: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str]
    fingerprint: Mapped[str]
    path: Mapped[str]
    source: Mapped[str | None]
    copied: Mapped[int] = mapped_column(Integer)
    event_number: Mapped[event_fk]
    __table_args__ = (
        CheckConstraint("copied IN (0, 1)", name="copied"),
        Index(None, "fingerprint"),
        STRICT_WITHOUT_ROWID,
    )


class MeasurementRecord(Record):
    """An observed KPI value; ``value`` is NULL for NaN.

    ``place`` orders the values of a series: a correction has the place of what it
    corrects, everything else its own key. ``superseded_by`` is the key of a correction.
    """

    __tablename__ = "measurements"
    key: Mapped[key_pk]
    id: Mapped[oid_unique]
    commit_key: Mapped[commit_fk]
    kpi: Mapped[str]
    value: Mapped[float | None] = mapped_column(real)
    is_nan: Mapped[int] = mapped_column(Integer)
    samples: Mapped[int | None] = mapped_column(big_integer)
    dataset: Mapped[str | None]
    source: Mapped[str | None]
    actor: Mapped[str]
    time: Mapped[utc_ms]
    event_number: Mapped[event_fk]
    stderr: Mapped[float | None] = mapped_column(real)
    values_id: Mapped[str | None]
    dataset_sha256: Mapped[str | None]
    slice: Mapped[str | None]
    tool: Mapped[str | None]
    seed: Mapped[int | None] = mapped_column(big_integer)
    supersedes: Mapped[str | None]
    reason: Mapped[str | None]
    place: Mapped[int | None] = mapped_column(big_integer)
    superseded_by: Mapped[int | None] = mapped_column(big_integer)
    __table_args__ = (
        CheckConstraint("is_nan IN (0, 1) AND (value IS NULL) = (is_nan = 1)", name="is_nan"),
        Index(None, "commit_key", "kpi"),
        STRICT,
    )


class LatestRecord(Record):
    """The measurement of a KPI of a commit that counts, by order of record and not by clock.

    ``kpi`` is the name of the series: the KPI's, with the slice in brackets if it is of one.
    """

    __tablename__ = "latest_measurements"
    commit_key: Mapped[int] = mapped_column(
        big_integer, ForeignKey("commits.key"), primary_key=True
    )
    kpi: Mapped[str] = mapped_column(primary_key=True)
    measurement_key: Mapped[int] = mapped_column(big_integer, ForeignKey("measurements.key"))
    value: Mapped[float | None] = mapped_column(real)
    __table_args__ = (Index(None, "kpi", "value", "commit_key"), STRICT_WITHOUT_ROWID)
