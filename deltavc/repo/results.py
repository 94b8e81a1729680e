"""Result records of the verbs: values for programs, worded for people by the command line.

Field names are those of the JSON documents; ids are full, times are integer
milliseconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "BaseInfo",
    "BaseVerified",
    "BlameRow",
    "BranchRow",
    "Checked",
    "CheckedOut",
    "CommitRow",
    "Committed",
    "Diff",
    "DiffRow",
    "DoctorReport",
    "Finding",
    "HeadInfo",
    "KindRow",
    "LogRow",
    "MeasurementRow",
    "MergeConflictRow",
    "MergeRow",
    "Merged",
    "OperationRow",
    "ServedRow",
    "Shown",
    "SignatureRow",
    "StandingRow",
    "Status",
    "TensorDifference",
    "Undone",
]


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Common settings of results."""


class HeadInfo(_Result, frozen=True):
    """Where HEAD stands: on a branch, or detached; ``commit`` is None before the first one."""

    branch: str | None
    commit: str | None


class BaseInfo(_Result, frozen=True):
    """A registered base."""

    name: str
    fingerprint: str
    path: str
    source: str | None
    copied: bool
    tensors: int
    bytes: int
    seconds: float = 0.0
    changed: bool = True
    tensor_list: list[dict[str, Any]] | None = None


class TensorDifference(_Result, frozen=True):
    """A tensor that is not what was expected; None on a side where it is missing."""

    name: str
    expected: str | None
    found: str | None


class BaseVerified(_Result, frozen=True):
    """Whether a folder still holds a base."""

    name: str
    fingerprint: str
    path: str
    quick: bool
    ok: bool
    tensors: int
    bytes: int
    seconds: float
    differences: list[TensorDifference]


class KindRow(_Result, frozen=True):
    """How many parameters of a commit are of one kind, and what they take."""

    kind: str
    parameters: int
    stored: int
    rank_median: int | None = None
    rank_max: int | None = None


class SignatureRow(_Result, frozen=True):
    """A signature and what it is worth.

    ``status`` is good, bad, unknown-key, revoked or unchecked, ``sentence`` says why for
    all but good ones. ``key`` is the fingerprint.
    """

    id: str
    object: str
    kind: str
    signer: str
    key: str
    time: int
    status: str
    sentence: str = ""


class Committed(_Result, frozen=True):
    """What a commit recorded, or with ``dry_run`` would record."""

    commit: str | None
    branch: str | None
    message: str
    source: str
    base: str
    base_name: str
    changed: bool
    parameters: int
    kinds: list[KindRow]
    bytes_read: int
    bytes_stored: int
    model_bytes: int
    exact: bool
    errors: dict[str, float]
    measurements: dict[str, float | None]
    seconds: float
    dry_run: bool = False
    ignored: list[str] = []
    signature: SignatureRow | None = None


class MergeConflictRow(_Result, frozen=True):
    """A parameter or file that sides changed in different ways.

    ``norms`` has a change's Frobenius norm for each side, ``cosine`` the angle between the
    first two that changed it, ``opposed`` the share of the elements that both change in which
    they do so with opposite signs, on a sample of some 2^17 elements.
    ``parts`` are rows of a parameter, or keys of a file.
    """

    name: str
    reason: str
    parts: list[str] = []
    norms: list[float | None] = []
    cosine: float | None = None
    opposed: float | None = None


class MergeRow(_Result, frozen=True):
    """How a parameter or file was decided: a side, ``equal``, ``rows``, ``keys`` or a strategy."""

    name: str
    outcome: str
    facts: dict[str, float | int | str] = {}
    error: float | None = None
    norms: list[float | None] = []
    cosine: float | None = None
    opposed: float | None = None


class Merged(_Result, frozen=True):
    """What a merge recorded, or with ``dry_run`` would record.

    ``kind`` is ``merge``, ``fast-forward`` or ``up-to-date``; ``sides`` are the merged
    commits, ours first; ``unchanged`` counts the parameters that no side changed.
    """

    kind: str
    commit: str | None
    branch: str | None
    message: str
    base: str
    base_name: str
    merge_bases: list[str]
    sides: list[str]
    strategy: dict[str, str]
    rows: list[MergeRow]
    unchanged: int
    bytes_stored: int
    errors: dict[str, float]
    seconds: float
    changed: bool
    dry_run: bool = False
    taken_back_by: str | None = None


class MeasurementRow(_Result, frozen=True):
    """A measured KPI value; ``low`` and ``high`` are the ends of its 95 % interval, where known."""

    kpi: str
    value: float | None
    samples: int | None
    dataset: str | None
    source: str | None
    actor: str
    time: int
    is_nan: bool = False
    id: str = ""
    revision: str = ""
    slice: str | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    method: str | None = None
    stderr: float | None = None
    values: str | None = None
    dataset_sha256: str | None = None
    tool: str | None = None
    seed: int | None = None
    supersedes: str | None = None
    reason: str | None = None
    superseded_by: str | None = None
    is_latest: bool = True
    event: int | None = None


class ServedRow(_Result, frozen=True):
    """What an environment serves, and how a revision is related to that.

    ``relation`` says what is served: ``this`` revision, an ``ancestor`` or ``descendant`` of
    it, or one of another line (``apart``). With ``until_time`` it was served till then.
    """

    environment: str
    revision: str
    relation: str
    deployment: str | None = None
    until_time: int | None = None


class StandingRow(_Result, frozen=True):
    """What an environment serves, and how many revisions HEAD has that this has not, and back.

    ``revision`` is None where nothing is served. Counts end at 1000.
    """

    environment: str
    revision: str | None
    behind: int | None = None
    ahead: int | None = None


class LogRow(_Result, frozen=True):
    """One revision of the log."""

    commit: str
    parents: list[str]
    author: str
    time: int
    message: str
    base: str
    exact: bool
    is_head: bool
    branches: list[str]
    tags: list[str]
    measurements: dict[str, float | None]
    labels: dict[str, str]
    parameters: int
    stored: int
    half_widths: dict[str, float] = {}
    environments: list[str] = []
    signatures: list[SignatureRow] | None = None


class CommitRow(_Result, frozen=True):
    """A commit as ``show`` tells it."""

    commit: str
    parents: list[dict[str, str]]
    base: str
    base_name: str | None
    author: str
    time: int
    message: str
    run: str | None
    labels: dict[str, str]
    data: list[dict[str, Any]]
    source: dict[str, Any] | None
    tool: str
    exact: bool
    errors: dict[str, float]
    measurements: list[MeasurementRow]
    parameters: int
    kinds: dict[str, int]
    rank_max: int | None
    stored: int
    files: list[str]
    removed: list[str]
    branches: list[str]
    tags: list[str]
    params: dict[str, dict[str, str]] | None = None
    recipe: dict[str, Any] | None = None
    served: list[ServedRow] | None = None
    signatures: list[SignatureRow] = []


class Shown(_Result, frozen=True):
    """An object of any kind: ``kind``, ``id`` and either a commit row or plain values."""

    kind: str
    id: str
    commit: CommitRow | None = None
    value: Any = None
    signatures: list[SignatureRow] = []


class BranchRow(_Result, frozen=True):
    """A branch or a tag and where it stands."""

    name: str
    commit: str | None
    subject: str
    current: bool = False
    message: str | None = None
    before: str | None = None
    changed: bool = True
    signatures: list[SignatureRow] = []


class CheckedOut(_Result, frozen=True):
    """What a checkout wrote."""

    commit: str
    target: str
    form: str
    bytes: int
    tensors: int
    tensors_changed: int
    tensors_written: int
    files: list[str]
    branch: str | None
    head_moved: bool
    seconds: float
    in_place: bool
    verified: bool
    dry_run: bool = False
    rank: int | None = None
    sha256: dict[str, str] = {}
    rounded: list[str] = []
    energy_lost: dict[str, float] = {}
    energy_lost_total: float = 0.0


class Status(_Result, frozen=True):
    """Where things stand."""

    head: HeadInfo
    base_name: str | None
    base: str | None
    workspace: str | None
    workspace_exists: bool
    workspace_commit: str | None
    clean: bool | None
    hashed: bool
    changed: list[dict[str, Any]]
    new: list[str]
    missing: list[str]
    files: list[str]
    parameters: int
    measurements: dict[str, float | None]
    interrupted: bool
    environments: list[StandingRow] = []


class DiffRow(_Result, frozen=True):
    """How one parameter differs between two revisions."""

    parameter: str
    norm_a: float | None
    norm_b: float | None
    norm_diff: float | None
    relative: float | None
    cosine: float | None
    rank_a: int | None
    rank_b: int | None
    change: str


class Diff(_Result, frozen=True):
    """The difference of two revisions."""

    a: str
    b: str
    base: str
    base_name: str | None
    same: bool
    total_a: int
    total_b: int
    rows: list[DiffRow]
    files: list[dict[str, str]]
    measurements: list[dict[str, Any]]


class BlameRow(_Result, frozen=True):
    """A delta of a parameter and the commit that brought it."""

    parameter: str
    delta: str
    kind: str
    coefficient: str
    commit: str
    author: str
    time: int
    subject: str
    share: float | None


class OperationRow(_Result, frozen=True):
    """One operation."""

    id: str
    number: int
    time: int
    actor: str
    command: str
    summary: str
    reason: str | None
    refs: list[dict[str, str | None]]
    undoable: bool
    undone: bool
    current: bool
    detail: dict[str, Any] = {}
    objects: list[str] = []


class Undone(_Result, frozen=True):
    """An operation that was taken back, done again or restored."""

    operation: str | None
    taken: str
    summary: str
    refs: list[dict[str, str | None]]
    workspace_written: bool
    changed: bool
    dry_run: bool = False
    notes: list[str] = []


class Finding(_Result, frozen=True):
    """Something that a check found. ``level`` is ok, warn or problem."""

    level: str
    code: str
    message: str
    subject: str = ""
    needed_by: list[str] = []


class Checked(_Result, frozen=True):
    """Outcome of ``fsck``."""

    ok: bool
    objects: int
    events: int
    findings: list[Finding]
    quarantined: list[str]
    seconds: float
    merges: int | None = None


class DoctorReport(_Result, frozen=True):
    """Outcome of ``doctor``."""

    ok: bool
    findings: list[Finding]
    fixed: list[str]
