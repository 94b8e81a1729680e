"""What the verbs of environments answer with; see :mod:`deltavc.repo.results`."""

from __future__ import annotations

import msgspec

__all__ = [
    "ApprovedRow",
    "DeployedRow",
    "DeploymentRow",
    "EnvironmentRow",
    "EnvironmentShown",
    "GateSeenRow",
    "HookRow",
    "MarkRow",
    "RequestShown",
    "RolledBack",
    "RuleSeenRow",
]


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Common settings of results."""


class EnvironmentRow(_Result, frozen=True):
    """An environment: its definition, where that comes from, and what it serves.

    ``origin`` is ``deltavc.toml`` or ``recorded``; ``overrides`` says that the file's
    definition differs from a recorded one.
    """

    name: str
    origin: str
    after: str | None = None
    gates: list[str] = []
    approvals: int = 0
    target: str | None = None
    keep: int = 3
    format: str = "full"
    hook: str | None = None
    protect: bool = False
    revision: str | None = None
    subject: str | None = None
    deployment: str | None = None
    since_time: int | None = None
    actor: str | None = None
    overrides: bool = False
    changed: bool = False


class RuleSeenRow(_Result, frozen=True):
    """What a rule said when a version was deployed; see ``deltavc.records.ship.RuleSeen``."""

    rule: str
    verdict: str
    sentence: str
    kpi: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    measurement: str | None = None


class GateSeenRow(_Result, frozen=True):
    """What a gate said when a version was deployed."""

    gate: str
    verdict: str
    overridden: bool
    policy: str
    rules: list[RuleSeenRow] = []


class DeploymentRow(_Result, frozen=True):
    """A deployment as history tells it; ``until_time`` is None while it serves."""

    deployment: str
    environment: str
    revision: str | None
    subject: str | None
    action: str
    actor: str
    time: int
    until_time: int | None
    reason: str | None
    gate_verdict: str | None
    overridden: bool
    approvals: int
    approvals_needed: int
    request: str | None
    promoted_from: str | None
    previous: str | None
    key: str | None
    event: int | None
    late: bool = False
    approvers: list[str] = []
    gates: list[GateSeenRow] = []


class MarkRow(_Result, frozen=True):
    """A version that is called bad in an environment."""

    environment: str
    revision: str
    actor: str
    time: int
    reason: str | None
    bad: bool = True
    changed: bool = False


class RequestShown(_Result, frozen=True):
    """A deployment that waits for approvals; ``void`` says why its approvals do not count."""

    request: str
    environment: str
    revision: str
    subject: str
    actor: str
    time: int
    needed: int
    approvers: list[str]
    reason: str | None
    void: str | None = None


class EnvironmentShown(_Result, frozen=True):
    """What an environment serves, or served at a time.

    Attributes:
        environment: Its definition.
        serving: What it serves; None for nothing.
        at_time: The time that was asked for; None for now.
        also: What it served then too, where a clock was set back and the time passed twice.
        waiting: Requests that no deployment has used yet.
        bad: Versions that are called bad here.
        ready: Versions kept ready in the target, the served one first.
        linked: What the target's link points at; None without a target.
        in_step: Whether that is what the log says.
        back: What a rollback would go to; None for nothing.
    """

    environment: EnvironmentRow
    serving: DeploymentRow | None
    at_time: int | None = None
    also: list[DeploymentRow] = []
    waiting: list[RequestShown] = []
    bad: list[MarkRow] = []
    ready: list[str] = []
    linked: str | None = None
    in_step: bool = True
    back: str | None = None


class HookRow(_Result, frozen=True):
    """A hook that ran: its exit code and the end of what it said."""

    command: str
    exit_code: int
    seconds: float
    output: str = ""


class DeployedRow(_Result, frozen=True):
    """What a deployment or promotion did, or would do.

    Attributes:
        environment: Where.
        action: ``deploy`` or ``promote``.
        revision: The version.
        subject: Its message's first line.
        before: The version that was served before.
        deployment: What it is called; None where nothing was deployed.
        verdict: The worst verdict of the gates that nobody overrode.
        gates: What they said.
        blocked: What stands in the way: ``gate`` or ``approval``; None for nothing.
        request: The request that waits for approvals, or was approved.
        approvers: Who approved.
        needed: How many approvals it takes.
        target: The folder that is kept in step.
        folder: The version's folder in it.
        written: Whether the folder was written now.
        removed: Versions that are not kept ready any more.
        hook: The hook that ran.
        seconds: How long it took.
        changed: Whether it serves another version now.
        dry_run: Nothing was done.
        head_number: The number of the log's newest event, to note elsewhere.
        head_hash: Its hash.
    """

    environment: str
    action: str
    revision: str
    subject: str
    before: str | None
    deployment: str | None = None
    verdict: str | None = None
    gates: list[GateSeenRow] = []
    blocked: str | None = None
    request: str | None = None
    approvers: list[str] = []
    needed: int = 0
    target: str | None = None
    folder: str | None = None
    written: bool = False
    removed: list[str] = []
    hook: HookRow | None = None
    seconds: float = 0.0
    changed: bool = False
    dry_run: bool = False
    head_number: int | None = None
    head_hash: str | None = None
    hints: list[str] = []


class ApprovedRow(_Result, frozen=True):
    """An approval."""

    request: str
    environment: str
    revision: str
    subject: str
    actor: str
    approvers: list[str]
    needed: int
    signed: bool = False
    changed: bool = True

    @property
    def enough(self) -> bool:
        """Whether the deployment may take effect now."""
        return len(self.approvers) >= self.needed


class RolledBack(_Result, frozen=True):
    """What a rollback did, or would do.

    Attributes:
        environment: Where.
        revision: The version that is served now; None where a first deployment was taken back.
        before: The version that was served before, and is called bad here now.
        deployment: What it is called; ``d-spooled`` until it is in the log.
        of: The deployment that it takes back.
        seen: Id of that deployment, to be given as ``expected``.
        target: The folder that is kept in step.
        folder: The version's folder in it.
        ready: Whether it was kept ready.
        checked: How many files of it, or objects of the version, were found whole.
        bytes: How many bytes of files those are.
        missing: What keeps the version from being served as it is; it is rebuilt for that.
        rebuilt_seconds: How long it took to rebuild it; None where it was ready.
        recorded: Whether the log has it; else the next command records it.
        why_not: Why the log does not have it.
        hook: The hook that ran.
        kpis: KPI to its values on ``before`` and ``revision``, of a dry run.
        seconds: How long it took.
        changed: Whether it serves another version now.
        dry_run: Nothing was done.
    """

    environment: str
    revision: str | None
    before: str | None
    deployment: str | None
    of: str
    seen: str
    target: str | None = None
    folder: str | None = None
    ready: bool = True
    checked: int = 0
    bytes: int = 0
    missing: list[str] = []
    rebuilt_seconds: float | None = None
    recorded: bool = True
    why_not: str | None = None
    hook: HookRow | None = None
    kpis: dict[str, list[float | None]] = {}
    seconds: float = 0.0
    changed: bool = False
    dry_run: bool = False
