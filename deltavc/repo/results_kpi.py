"""What the verbs of KPIs and gates answer with; see :mod:`deltavc.repo.results`."""

from __future__ import annotations

import msgspec

__all__ = [
    "BisectStep",
    "Bisected",
    "GateChecked",
    "GateRow",
    "KpiDifference",
    "KpiRow",
    "RuleRow",
]


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Common settings of results."""


class KpiRow(_Result, frozen=True):
    """A KPI: its definition, where that comes from, and how many revisions have a value.

    ``origin`` is ``deltavc.toml``, ``recorded``, or ``not defined`` for one that was only
    measured; ``overrides`` says that the file's definition differs from a recorded one.
    """

    name: str
    origin: str
    direction: str | None = None
    kind: str | None = None
    unit: str = ""
    min_samples: int = 0
    quantile: float | None = None
    description: str = ""
    revisions: int = 0
    slices: list[str] = []
    overrides: bool = False
    changed: bool = True


class GateRow(_Result, frozen=True):
    """A gate, and where its rules come from, as for :class:`KpiRow`."""

    name: str
    origin: str
    rules: list[str]
    description: str = ""
    overrides: bool = False
    changed: bool = True


class KpiDifference(_Result, frozen=True):
    """A KPI on two revisions: ``verdict`` says what the interval of b - a shows."""

    kpi: str
    a: float | None
    b: float | None
    unit: str
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    samples_a: int | None
    samples_b: int | None
    method: str | None
    paired: bool
    verdict: str
    why: str = ""


class RuleRow(_Result, frozen=True):
    """What one rule of a gate says; the fields are those of ``deltavc.kpi.verdicts.Verdict``."""

    rule: str
    verdict: str
    sentence: str
    kpi: str
    value: float | None = None
    baseline: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    samples: int | None = None
    method: str | None = None
    measurement: str | None = None
    baseline_measurement: str | None = None


class GateChecked(_Result, frozen=True):
    """A gate's verdict on a revision: the worst of its rules'.

    ``policy`` is the id of the gate's record, and ``event`` the number of the newest event
    that was looked at, so that a verdict can be traced to what it saw.
    """

    gate: str
    verdict: str
    revision: str
    baseline: str | None
    rules: list[RuleRow]
    origin: str
    policy: str
    event: int
    hints: list[str] = []


class BisectStep(_Result, frozen=True):
    """A revision that a search looked at: ``verdict`` is good, bad, skip or unmeasured."""

    commit: str
    subject: str
    verdict: str
    value: float | None = None


class Bisected(_Result, frozen=True):
    """Where a search stands.

    Attributes:
        first_bad: The first bad revision; None while it is not known.
        subject: Its subject.
        next: The revision to look at next; None at the end.
        suspects: Revisions among which the first bad one is, where skips hide it.
        steps: What was looked at, in order.
        remaining: How many revisions are still in question.
        revisions: How many lie between good and bad, bad included.
        measured: How many of them have a value, for a search by KPI.
        unmeasured: Those that have none and would have been needed.
        value: The KPI's value at the first bad revision.
        parent_value: That of its parent.
        kpi: The KPI.
    """

    first_bad: str | None
    subject: str
    next: str | None
    suspects: list[str]
    steps: list[BisectStep]
    remaining: int
    revisions: int
    measured: int = 0
    unmeasured: list[str] = []
    value: float | None = None
    parent_value: float | None = None
    kpi: str | None = None
