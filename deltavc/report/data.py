"""What a report tells, as plain values: all that the pages need, and nothing of how they look.

Texts are of foreign origin unless a comment says otherwise: whoever shows them escapes
them. Times are milliseconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deltavc.records.ship import Environment as Definition

__all__ = [
    "NOTE",
    "SERIOUS",
    "WARNING",
    "Approval",
    "Change",
    "Deployment",
    "Edge",
    "Environment",
    "Gate",
    "Group",
    "KpiChange",
    "KpiNow",
    "Lineage",
    "Mark",
    "Node",
    "Point",
    "Problem",
    "Report",
    "Request",
    "Rule",
    "Scope",
    "Series",
    "Signature",
    "Source",
    "Version",
]

# Levels of problems, the worst first.
SERIOUS, WARNING, NOTE = "serious", "warning", "note"


@dataclass(frozen=True)
class Version:
    """A revision as the report names it."""

    id: str
    subject: str
    author: str
    time: int
    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    exact: bool = True
    max_error: float | None = None


@dataclass(frozen=True)
class Mark:
    """A version that somebody called bad in an environment."""

    version: Version
    actor: str
    time: int
    reason: str | None


@dataclass(frozen=True)
class Signature:
    """A signature as recorded; the report does not check it."""

    kind: str
    signer: str
    key: str
    time: int


@dataclass(frozen=True)
class Rule:
    """What a rule of a gate said."""

    rule: str
    verdict: str
    sentence: str
    kpi: str = ""
    value: float | None = None
    baseline: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Gate:
    """What a gate said, by rule; ``baseline`` is the version that was compared with."""

    gate: str
    verdict: str
    policy: str
    overridden: bool = False
    baseline: str | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Approval:
    """Somebody's yes; ``void`` says why it does not count, "" where it does.

    ``void`` is ``evidence`` (what was measured or asked for has changed since), ``self``
    (given by who asked, or who made the version) or ``again`` (their second).
    """

    actor: str
    time: int
    reason: str | None
    void: str = ""


@dataclass(frozen=True)
class Deployment:
    """A version served by an environment from an event on.

    Attributes:
        number: Its event's.
        environment: Where.
        version: What; None where the environment went back to serving nothing.
        action: ``deploy``, ``promote`` or ``rollback``.
        actor: Who.
        time: When.
        until: When the next one took its place; None while it is served.
        reason: Why.
        verdict: The worst of its gates'; None where none was asked.
        overridden: Whether somebody deployed in spite of a gate.
        gates: What they said.
        approvals: Who said yes.
        counted: How many of them counted.
        needed: How many were needed.
        request: Number of the request; None where no approval was needed.
        promoted_from: The environment that it came from.
        previous: Number of the deployment before it.
        late: Whether it was recorded later than it happened.
        receipt: SHA-256 of the served folder's receipt.
        bad: The mark, where the version is called bad there.
        signatures: Signatures of the version and of its approvals.
        serving: Whether it is served now.
    """

    number: int
    environment: str
    version: Version | None
    action: str
    actor: str
    time: int
    until: int | None = None
    reason: str | None = None
    verdict: str | None = None
    overridden: bool = False
    gates: tuple[Gate, ...] = ()
    approvals: tuple[Approval, ...] = ()
    counted: int = 0
    needed: int = 0
    request: int | None = None
    promoted_from: str | None = None
    previous: int | None = None
    late: bool = False
    receipt: str | None = None
    bad: Mark | None = None
    signatures: tuple[Signature, ...] = ()
    serving: bool = False


@dataclass(frozen=True)
class Request:
    """A deployment that waits for approvals; ``stale`` says what changed since it was asked."""

    number: int
    environment: str
    version: Version
    actor: str
    time: int
    reason: str | None
    needed: int
    counted: int
    verdict: str | None
    gates: tuple[Gate, ...] = ()
    approvals: tuple[Approval, ...] = ()
    stale: str = ""


@dataclass(frozen=True)
class KpiNow:
    """What is known of a KPI of the version that is served; ``value`` None for no number.

    ``rules`` are what the environment's gates ask of it, ``fails`` those of them that the
    measurements of today do not meet.
    """

    series: str
    unit: str
    direction: str
    value: float | None
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    rules: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    measured: bool = True


@dataclass(frozen=True)
class Environment:
    """An environment as it is defined, and what it serves now."""

    name: str
    origin: str  # the file's name, or "recorded", or "" for one that is only served
    definition: Definition
    serving: Deployment | None = None
    decided: Deployment | None = None  # where gates and approvals of what is served were asked
    deployments: int = 0
    bad: tuple[Mark, ...] = ()
    out_of_step: tuple[str, ...] = ()  # sentences about the served folder
    kpis: tuple[KpiNow, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something that somebody has to look at.

    Attributes:
        kind: Names its sentence in the catalogue of texts.
        level: ``serious``, ``warning`` or ``note``.
        values: What the sentence names.
        environment: Where.
        deployment: Number of the deployment that it is about.
        details: Further lines.
    """

    kind: str
    level: str
    values: Mapping[str, object] = field(default_factory=dict)
    environment: str | None = None
    deployment: int | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A measured value; ``at`` counts all revisions of the report in the order of recording."""

    version: Version
    at: int
    value: float
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    branch: str | None = None
    served: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """A KPI over revisions.

    Attributes:
        name: The KPI, its slice in brackets.
        unit: Its unit.
        direction: ``higher`` or ``lower`` is better; "" where nothing defines it.
        description: Its one sentence.
        limits: Limits of gates: value, whether values must be above it, the rule.
        points: What is shown, oldest first.
        measured: How many revisions have a value.
        span: Number of revisions along the axis.
        dates: Positions along the axis with their time, for its labels.
    """

    name: str
    unit: str
    direction: str
    description: str
    limits: tuple[tuple[float, bool, str], ...]
    points: tuple[Point, ...]
    measured: int
    span: int
    dates: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Edge:
    """A line of descent to an older node, over ``skipped`` revisions that are not listed."""

    to: int  # row of the older node; -1 for a line that ends at a first revision
    skipped: int


@dataclass(frozen=True)
class Node:
    """A row of the lineage."""

    version: Version
    edges: tuple[Edge, ...]
    served: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    is_head: bool = False
    merges: int = 0  # number of parents, where there are several


@dataclass(frozen=True)
class Lineage:
    """The drawn part of history, newest first.

    Attributes:
        nodes: Its rows.
        total: How many revisions there are.
        left_out: Named or deployed revisions that the drawing has no room for.
    """

    nodes: tuple[Node, ...]
    total: int
    left_out: int = 0


@dataclass(frozen=True)
class Group:
    """Parameters that changed together, such as all ``layers.*.self_attn.q_proj.weight``."""

    name: str
    changed: int
    norm: float | None = None  # Frobenius norm of the change; None where it was not computed


@dataclass(frozen=True)
class KpiChange:
    """A KPI before and after; ``low`` and ``high`` are ends of the difference's interval."""

    series: str
    unit: str
    before: float | None
    after: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Change:
    """What changed from one deployment to the next in an environment.

    Attributes:
        environment: Where.
        before: The deployment before.
        after: The deployment.
        added: Revisions that came with it, newest first.
        more_added: How many more came than are listed.
        dropped: How many revisions are no longer part of what is served.
        groups: Parameters by group.
        files: Files other than weights that changed.
        other_base: Whether the two stand on different bases.
        kpis: What was measured.
    """

    environment: str
    before: Deployment
    after: Deployment
    added: tuple[Version, ...] = ()
    more_added: int = 0
    dropped: int = 0
    groups: tuple[Group, ...] = ()
    files: tuple[str, ...] = ()
    other_base: bool = False
    kpis: tuple[KpiChange, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What the report was asked to tell; nothing for all."""

    environments: tuple[str, ...] = ()
    range: str | None = None
    since: int | None = None


@dataclass(frozen=True)
class Source:
    """Which state of which repository the report is about.

    Attributes:
        repository: Hash of its first event.
        number: Number of its newest event.
        hash: That event's hash: the head of the log.
        time: That event's time: the report's own.
        tool: The program.
        head: What HEAD stands on: a branch's name, or a revision.
    """

    repository: str
    number: int
    hash: str
    time: int
    tool: str
    head: str = ""


@dataclass(frozen=True)
class Report:
    """All that a report tells."""

    source: Source
    scope: Scope
    environments: tuple[Environment, ...]
    problems: tuple[Problem, ...]
    deployments: tuple[Deployment, ...]  # newest first
    requests: tuple[Request, ...]
    lineage: Lineage
    kpis: tuple[Series, ...]
    changes: tuple[Change, ...]
    revisions: int = 0
    kpis_left_out: tuple[str, ...] = ()
    more_changes: int = 0
