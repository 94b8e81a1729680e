"""Record types that are objects of the store or lines of the event log.

Fields are only ever added with a default that is left out of the encoding, so
that old ids stay what they are. Times are integer milliseconds since 1970 in
UTC. Coefficients and scales are rationals written ``"p"`` or ``"p/q"`` in
lowest terms.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec

from deltavc.ids import (
    BaseId,
    BlobId,
    CommitId,
    DeltaId,
    EventHash,
    ManifestId,
    MeasurementId,
    ObjectId,
)

__all__ = [
    "Base",
    "BaseSource",
    "BaseTensor",
    "Commit",
    "DataRef",
    "Event",
    "FileInfo",
    "Gate",
    "Kpi",
    "Manifest",
    "Measurement",
    "Recipe",
    "Record",
    "RefChange",
    "Source",
    "Tag",
    "fraction_from_text",
    "fraction_to_text",
    "series_name",
    "split_series",
]


def fraction_to_text(value: Fraction) -> str:
    """Returns the written form of a rational: ``"p"`` or ``"p/q"`` in lowest terms."""
    return str(value)


def fraction_from_text(text: str) -> Fraction:
    """Reads a rational in its written form.

    Args:
        text: ``"p"`` or ``"p/q"``.

    Returns:
        The rational.

    Raises:
        ValueError: Not the written form of a rational.
    """
    value = Fraction(text)
    if str(value) != text:
        raise ValueError(f"'{text}' is not a rational in lowest terms")
    return value


def series_name(kpi: str, part: str | None) -> str:
    """Returns the name of a series of values: the KPI's, its slice in brackets behind it."""
    return kpi if part is None else f"{kpi}[{part}]"


def split_series(name: str) -> tuple[str, str | None]:
    """Returns KPI and slice of a series' name; the slice is None where it has no brackets."""
    kpi, bracket, rest = name.partition("[")
    if bracket and rest.endswith("]") and kpi and len(rest) > 1:
        return kpi, rest[:-1]
    return name, None


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Common settings of all records."""


class BaseTensor(Record, frozen=True):
    """One tensor of a base: what it is and the SHA-256 of its bytes as stored in the file."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


class Base(Record, frozen=True):
    """A frozen base model. Its object id is the base's fingerprint: it covers tensors only."""

    tensors: dict[str, BaseTensor]


class FileInfo(Record, frozen=True):
    """A file that goes with a model: its size and the SHA-256 of its bytes.

    ``blob`` is the id of the object that keeps the bytes, so that a version's
    files are there when the base's folder has others; "" where none does.
    """

    size: int
    sha256: str
    blob: str = ""


class BaseSource(Record, frozen=True):
    """Where a base is and what else its folder holds; the value of a ``base:NAME`` ref.

    ``path`` is relative to the folder of the repository when the base lies
    inside it, else absolute. ``weights`` are the safetensors files in order.
    """

    base: BaseId
    path: str
    weights: tuple[str, ...]
    files: dict[str, FileInfo] = {}
    source: str | None = None
    copied: bool = False


class Manifest(Record, frozen=True):
    """A model version as a vector over the base.

    Attributes:
        base: The base's fingerprint.
        params: Parameter name to {delta id: coefficient}; no zero coefficient,
            no empty map: a parameter that is not listed is the base's own.
        shapes: ``DTYPE:D0,D1,…`` of each parameter that the base lacks or has
            in another dtype or shape, so that a version's layout is known
            without opening a delta.
        removed: Base tensors that this version does not have, sorted.
        files: Files other than weights that differ from the base's: path to
            blob id, or to "" where the version lacks the base's file.
        prefix: What the version's own names have in front of the base's names.
        attachments: Carried along unchanged, such as an adapter's config.
    """

    base: BaseId
    params: dict[str, dict[DeltaId, str]] = {}
    shapes: dict[str, str] = {}
    removed: tuple[str, ...] = ()
    files: dict[str, str] = {}
    prefix: str = ""
    attachments: dict[str, BlobId] = {}


class Source(Record, frozen=True):
    """What a commit was read from: ``peft``, ``checkpoint``, ``base``, or a verb as ``revert``."""

    kind: str
    detail: str = ""
    bytes_read: int = 0


class DataRef(Record, frozen=True):
    """Fingerprint of training data; the data itself is not kept."""

    name: str
    size: int
    sha256: str


class Commit(Record, frozen=True):
    """A recorded model version with its history.

    ``errors`` is empty for an exact commit; else it holds, per parameter, the
    measured relative Frobenius error of the stored change against the given one.
    ``contents`` counts the parameters by kind and holds the largest rank under
    ``rank``, so that history can be told without opening a delta. ``recipe`` is
    how a merge came about.
    """

    manifest: ManifestId
    base: BaseId
    author: str
    time: int
    message: str
    tool: str
    parents: tuple[CommitId, ...] = ()
    source: Source | None = None
    labels: dict[str, str] = {}
    data: tuple[DataRef, ...] = ()
    run: str | None = None
    errors: dict[str, float] = {}
    contents: dict[str, int] = {}
    recipe: ObjectId | None = None


class Recipe(Record, frozen=True):
    """How a merge came about: done again from the parents, it gives the same manifest.

    Attributes:
        bases: The merge bases; several were combined by ``sum``, none means that the
            parents share no history and the base itself stood for it.
        strategy: Settings of the strategy, its name under ``strategy``; empty for none.
        rules: Who decides what, as given (``GLOB=CHOICE``); the first that fits counts.
        rule_options: Options of the strategies that the rules name.
        max_rank: Largest rank of what was combined, where it was asked for.
        rel_error: Largest relative error of it, likewise.
        outcomes: How each parameter or file that some side changed was decided: a side
            (``ours``, ``theirs``, ``theirs:2``), ``equal``, ``base``, ``rows``, ``keys`` or
            a strategy.
        facts: What the strategies say of parameters, such as the share of nonzeros.
    """

    bases: tuple[CommitId, ...] = ()
    strategy: dict[str, str] = {}
    rules: tuple[str, ...] = ()
    rule_options: dict[str, str] = {}
    max_rank: int | None = None
    rel_error: float | None = None
    outcomes: dict[str, str] = {}
    facts: dict[str, dict[str, float | int | str]] = {}


class Tag(Record, frozen=True):
    """An annotated tag."""

    commit: CommitId
    name: str
    tagger: str
    time: int
    message: str


class Kpi(Record, frozen=True):
    """What a KPI is; the value of a ``kpi:NAME`` ref.

    Attributes:
        name: Its name.
        direction: ``higher`` or ``lower``: which values are better.
        kind: ``proportion``, ``mean``, ``quantile`` or ``count``; decides the interval.
        unit: For people and reports; "" for none.
        min_samples: Below this number of samples a gate is inconclusive.
        quantile: Which quantile, of the kind ``quantile``.
        description: One sentence.
    """

    name: str
    direction: str
    kind: str
    unit: str = ""
    min_samples: int = 0
    quantile: float | None = None
    description: str = ""


class Gate(Record, frozen=True):
    """Rules that must all hold, in the gate language; the value of a ``gate:NAME`` ref."""

    name: str
    rules: tuple[str, ...]
    description: str = ""


class Measurement(Record, frozen=True):
    """An observed KPI value of a commit.

    Attributes:
        commit: What was measured.
        kpi: Name of the KPI.
        value: The value; None for NaN.
        actor: Who recorded it.
        time: When.
        samples: Number of samples behind it.
        dataset: What it was measured on.
        source: Where the number comes from.
        stderr: Standard error of the value.
        values: The blob of per-sample values: a JSON list, or an object by sample's name.
        dataset_sha256: Digest of the data set.
        slice: The part of the data that it is about; None for all of it.
        tool: What measured, with its version.
        seed: Seed of the evaluation.
        supersedes: The measurement that this one corrects.
        reason: Why it corrects it.
    """

    commit: CommitId
    kpi: str
    value: float | None
    actor: str
    time: int
    samples: int | None = None
    dataset: str | None = None
    source: str | None = None
    stderr: float | None = None
    values: BlobId | None = None
    dataset_sha256: str | None = None
    slice: str | None = None
    tool: str | None = None
    seed: int | None = None
    supersedes: MeasurementId | None = None
    reason: str | None = None


class RefChange(Record, frozen=True):
    """One ref before and after an event; None where it did not or does not exist.

    Names: ``HEAD`` (value ``branch:NAME`` or a commit id), ``branch:NAME``
    (commit id; absent before the first commit), ``tag:NAME`` (commit or tag id),
    ``base:NAME`` (id of a :class:`BaseSource`), ``kpi:NAME`` (id of a :class:`Kpi`),
    ``gate:NAME`` (id of a :class:`Gate`); of :mod:`deltavc.records.ship`: ``env:NAME``
    (environment), ``serve:NAME`` (its deployment), ``marks:NAME`` (versions called bad).
    """

    name: str
    before: str | None = None
    after: str | None = None


class Event(Record, frozen=True):
    """One line of the event log; its hash is the SHA-256 of its canonical bytes.

    Attributes:
        number: 1, 2, 3, … without a gap.
        time: When it was appended.
        actor: Who, as ``name <mail>``.
        command: The verb.
        summary: One line for people.
        reason: Why, where it was asked for.
        refs: Refs that changed.
        objects: Ids that the event brought or concerns.
        detail: Further plain values.
        undoes: Number of the event that this one takes back.
        redoes: Number of the event that this one does again.
        prev: Hash of the event before; 64 zeros for the first.
        host: The machine, as observed; ``actor`` is what somebody calls themselves.
        user: The operating system's user, as observed.
    """

    number: int
    time: int
    actor: str
    command: str
    summary: str
    prev: EventHash
    tool: str
    reason: str | None = None
    refs: tuple[RefChange, ...] = ()
    objects: tuple[ObjectId, ...] = ()
    detail: dict[str, Any] = {}
    undoes: int | None = None
    redoes: int | None = None
    host: str | None = None
    user: str | None = None
