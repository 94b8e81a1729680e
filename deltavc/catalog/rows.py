"""What the catalog's reader answers with: plain values in the words of the records."""

from __future__ import annotations

from typing import Any, NamedTuple

from deltavc.ids import (
    BaseId,
    BlobId,
    CommitId,
    EventHash,
    ManifestId,
    MeasurementId,
    ObjectId,
    TagId,
)
from deltavc.records.model import series_name

__all__ = ["BaseRow", "CommitRow", "EventRow", "MeasurementRow", "RefChangeRow", "TagRow"]


class CommitRow(NamedTuple):
    """A commit as the catalog knows it.

    Attributes:
        id: Its id.
        parents: Ids of its parents, first parent first.
        manifest: Id of its manifest.
        base: Fingerprint of its base.
        author: Who made it.
        time: When, in milliseconds since 1970, UTC.
        message: Its message.
        tool: The program that made it.
        generation: 1 for a root, else one more than the greatest of its parents'.
        branch: The branch that it was made on, if it was made on one.
        source: What it was read from: peft, checkpoint, or a verb.
        run: The training run it names.
        exact: Whether it rebuilds to the very bits that were committed.
        max_error: The greatest measured relative error of a parameter, unless exact.
        params: How many parameters it holds deltas of, if the event said so.
        stored_bytes: What it added to the store, if the event said so.
        event: Number of the event that brought it.
    """

    id: CommitId
    parents: tuple[CommitId, ...]
    manifest: ManifestId
    base: BaseId
    author: str
    time: int
    message: str
    tool: str
    generation: int
    branch: str | None
    source: str | None
    run: str | None
    exact: bool
    max_error: float | None
    params: int | None
    stored_bytes: int | None
    event: int


class MeasurementRow(NamedTuple):
    """An observed KPI value; ``value`` is None for NaN.

    The fields are those of :class:`~deltavc.records.model.Measurement`; ``superseded_by``
    is the correction that replaces it, ``is_latest`` whether it is the one that counts.
    """

    id: MeasurementId
    commit: CommitId
    kpi: str
    value: float | None
    samples: int | None
    dataset: str | None
    source: str | None
    actor: str
    time: int
    event: int
    stderr: float | None = None
    values: BlobId | None = None
    dataset_sha256: str | None = None
    slice: str | None = None
    tool: str | None = None
    seed: int | None = None
    supersedes: MeasurementId | None = None
    reason: str | None = None
    superseded_by: MeasurementId | None = None
    is_latest: bool = False

    @property
    def series(self) -> str:
        """The KPI's name, with the slice in brackets if it is about one."""
        return series_name(self.kpi, self.slice)


class RefChangeRow(NamedTuple):
    """A ref before and after an event."""

    name: str
    before: str | None
    after: str | None


class EventRow(NamedTuple):
    """An event of the log, with the refs that it changed."""

    number: int
    hash: EventHash
    time: int
    actor: str
    command: str
    summary: str
    tool: str
    reason: str | None
    undoes: int | None
    redoes: int | None
    refs: tuple[RefChangeRow, ...]
    objects: tuple[ObjectId, ...]
    detail: dict[str, Any]


class TagRow(NamedTuple):
    """A tag ref; ``id`` and what follows it are None for one that is no more than a name."""

    name: str
    commit: CommitId
    id: TagId | None
    tagger: str | None
    time: int | None
    message: str | None


class BaseRow(NamedTuple):
    """A named base."""

    name: str
    source_id: ObjectId
    fingerprint: BaseId
    path: str
    source: str | None
    copied: bool
