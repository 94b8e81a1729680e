"""The verb ``rollback``: an environment returns to what it served before.

For the worst minute of the week: no gate, no approval, no tensor arithmetic, no network.
It stands on files alone, so it works while the catalog is locked, damaged or gone, while
another process keeps the log, and on a full or read-only disk: then what was done waits
in the spool. Neither torch nor SQLAlchemy is imported unless a version that is not kept
ready has to be rebuilt first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from deltavc.errors import (
    BaseError,
    DeltavcError,
    HookFailed,
    InputError,
    IntegrityError,
    NothingToUndo,
    RefMoved,
    RepositoryError,
    RepositoryUnwritable,
    UnknownRevision,
    UsageError,
)
from deltavc.ids import CommitId, DeploymentId, ObjectId, short
from deltavc.ledger.lock import RepositoryLock
from deltavc.records.ship import Deployment, Mark, Marks
from deltavc.repo import receipt
from deltavc.repo import target as targets
from deltavc.repo.change import TOOL
from deltavc.repo.environment_policy import definition_id
from deltavc.repo.results_ship import RolledBack
from deltavc.repo.serving import Served, Standing, append_entry, deployment_name, moved
from deltavc.repo.spool import Entry
from deltavc.repo.switching import (
    Ready,
    check_objects,
    check_reason,
    deployment_id,
    materialise,
    run,
)

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["back_from", "candidates", "go_back", "rollback"]

HOLD_SECONDS = 2.0
LOCK_SECONDS = 2.0
MARK_REASON = 300  # all of it is in the deployment; the marks have to fit into the spool
SECOND_THOUGHT_MS = 5 * 60 * 1000
"""For so long after somebody else's rollback a plain one is refused: it would be a second one."""


def candidates(served: Served) -> Iterator[Standing]:
    """Yields what a rollback may go to, the nearest first: each version once, none called bad.

    Args:
        served: The environment.

    Yields:
        The newest deployment of each earlier version.
    """
    current = served.commit
    seen = {current, None, *served.marks.bad}
    for standing in served.standings():
        commit = standing.record.commit
        if commit not in seen:
            seen.add(commit)
            yield standing


def rollback(
    repo: Repository,
    environment: str,
    *,
    to: str | None = None,
    steps: int = 1,
    reason: str | None = None,
    expected: str | None = None,
    dry_run: bool = False,
) -> RolledBack:
    """Returns an environment to the last version that it served and that is not called bad.

    The version that it leaves is called bad there from now on, so that the next rollback
    goes further back and no deployment brings it again unasked.

    Args:
        repo: The repository.
        environment: The environment.
        to: An earlier deployment or version instead.
        steps: How many versions back.
        reason: Why, for the audit trail.
        expected: Id of the deployment that is believed to serve, as :attr:`RolledBack.seen`
            of a dry run says.
        dry_run: Only say what would be served.

    Returns:
        What was done.

    Raises:
        UnknownRevision: There is no such environment or earlier version.
        NothingToUndo: Nothing earlier is left.
        RefMoved: Somebody else switched meanwhile, or rolled back just now.
        ObjectCorrupt: The version is not kept ready and an object of it is damaged.
        RepositoryUnwritable: The target cannot be switched; it is as before.
        HookFailed: It serves the earlier version, and the hook failed.
    """
    started = time.monotonic()
    if not dry_run:
        repo.require_now("rollback")
    why = check_reason(reason)
    served = Served(repo, environment)
    current = served.current
    if current is None or current.record.commit is None:
        raise NothingToUndo(
            f"'{environment}' serves nothing, so there is nothing to go back from",
            hint=f"deploy a version: deltavc deploy REV --env {environment}",
        )
    if expected is not None and current.id != expected:
        raise moved(served, DeploymentId(ObjectId(expected)))
    if to is None and expected is None:
        _refuse_second(repo, served, current)
    goal = _goal(repo, served, current, to, steps)
    plan = _Plan(repo, served, current, goal)
    if dry_run:
        return plan.told(started, dry_run=True)
    return go_back(plan, why, started)


@dataclass
class _Plan:
    """A rollback that is about to happen."""

    repo: Repository
    served: Served
    current: Standing
    goal: Standing | None

    def __post_init__(self) -> None:
        self.commit = None if self.goal is None else self.goal.record.commit
        self.ready: Ready | None = None
        self.missing: list[str] = []
        self.checked = self.bytes = 0
        if self.commit is not None:
            self._look(self.commit)

    def _look(self, commit: CommitId) -> None:
        """Finds out whether the version can be served as it lies there."""
        target = self.served.target
        if target is None:
            self.checked, self.missing = check_objects(self.repo, commit)
            return
        assert self.goal is not None
        folder = self.goal.record.folder
        if folder is None:
            self.missing = [f"{short(commit)} was never written to '{target}'"]
            return
        expected = self.served.receipt_of(commit, folder)
        self.missing = targets.problems(
            target / folder, commit, expected, threads=self.repo.session.threads
        )
        if not self.missing and expected is not None:
            self.ready = Ready(folder, expected)
            files = receipt.read(target / folder).files
            self.checked, self.bytes = len(files), sum(file.size for file in files.values())

    def told(self, started: float, *, dry_run: bool = False) -> RolledBack:
        """Returns the plan, or what came of it but for what only the switch knows."""
        target = self.served.target
        return RolledBack(
            environment=self.served.name,
            revision=self.commit,
            before=self.current.record.commit,
            deployment=None,
            of=self.current.name,
            seen=self.current.id,
            target=None if target is None else str(target),
            folder=None if self.ready is None else self.ready.folder,
            ready=not self.missing,
            checked=self.checked,
            bytes=self.bytes,
            missing=self.missing,
            kpis=_kpis(self.repo, self.current.record.commit, self.commit) if dry_run else {},
            seconds=time.monotonic() - started,
            changed=not dry_run,
            dry_run=dry_run,
        )


def _refuse_second(repo: Repository, served: Served, current: Standing) -> None:
    """Stops a responder who does not know that another has just gone back."""
    record = current.record
    age = repo.session.clock() - record.time
    another = record.actor != repo.session.actor
    if record.action == "rollback" and another and 0 <= age < SECOND_THOUGHT_MS:
        error = moved(served, None)
        raise RefMoved(
            error.message,
            hint=f"to go further back all the same: deltavc rollback {served.name} --to REV",
            **error.context,
        )


def _goal(
    repo: Repository, served: Served, current: Standing, to: str | None, steps: int
) -> Standing:
    if to is not None:
        return _named(repo, served, current, to)
    if steps < 1:
        raise UsageError(f"{steps} steps lead nowhere", hint="--steps 1 is the version before")
    found = list(islice(candidates(served), steps))
    if len(found) < steps:
        bad = sum(1 for commit in served.marks.bad if commit != current.record.commit)
        marked = f"; {bad} earlier ones are called bad" if bad else ""
        raise NothingToUndo(
            f"'{served.name}' has {len(found)} earlier versions to go back to{marked}",
            hint=f"choose one yourself: deltavc env log {served.name}, then --to REV",
            environment=served.name,
        )
    return found[steps - 1]


def _named(repo: Repository, served: Served, current: Standing, to: str) -> Standing:
    """Finds an earlier deployment by its name, its version's id, or any other revision."""
    earlier = [s for s in served.standings() if s.id != current.id and s.record.commit]
    wanted = to.strip()
    hits = [s for s in earlier if s.name == wanted]
    if not hits and len(wanted) >= 4:
        hits = [s for s in earlier if str(s.record.commit).startswith(wanted.lower())]
    if not hits:
        from deltavc.repo.revisions import resolve

        commit = resolve(repo, wanted)
        hits = [s for s in earlier if s.record.commit == commit]
    commits = {s.record.commit for s in hits}
    if len(commits) > 1:
        raise UsageError(
            f"'{wanted[:80]}' fits {len(commits)} versions that '{served.name}' served",
            hint="give more digits",
        )
    if not hits:
        raise UnknownRevision(
            f"'{wanted[:80]}' was never served by '{served.name}', so it cannot go back to it",
            hint=f"deploy it: deltavc deploy {wanted[:80]} --env {served.name}",
            revision=wanted,
        )
    if hits[0].record.commit == current.record.commit:
        raise UsageError(
            f"'{served.name}' serves {short(str(current.record.commit))} already",
            hint=f"what it served: deltavc env log {served.name}",
        )
    return hits[0]


def go_back(plan: _Plan, reason: str | None, started: float) -> RolledBack:
    """Carries a rollback out.

    Args:
        plan: Where from and where to.
        reason: Why.
        started: When the command began, by the monotonic clock.

    Returns:
        What was done.

    Raises:
        As :func:`rollback`.
    """
    served = plan.served
    rebuilt = None
    if plan.missing:
        rebuilt = _rebuild(plan)
    record = _record(plan, reason)
    recorded, number, why_not = _switch(plan, record)
    name = deployment_name(number)
    hook = run(served, record, name, plan.current.record.commit)
    told = plan.told(started)
    import msgspec

    told = msgspec.structs.replace(
        told,
        deployment=name,
        folder=record.folder,
        ready=rebuilt is None,
        rebuilt_seconds=rebuilt,
        recorded=recorded,
        why_not=why_not,
        hook=hook,
        seconds=time.monotonic() - started,
    )
    if hook is not None and hook.exit_code:
        to = "nothing" if plan.commit is None else short(plan.commit)
        raise HookFailed(
            f"'{served.name}' serves {to} again, but its hook failed with"
            f" {hook.exit_code}: {hook.output[-300:] or 'it said nothing'}",
            **msgspec.to_builtins(told),
        )
    return told


def _rebuild(plan: _Plan) -> float | None:
    """Rebuilds a version that is not kept ready, or says which other one is."""
    served, commit = plan.served, plan.commit
    assert commit is not None
    try:
        if served.target is None:
            raise _damaged(plan)
        plan.ready = materialise(plan.repo, served, commit)
    except (IntegrityError, BaseError, InputError) as error:
        raise type(error)(
            f"{error.message}; '{served.name}' still serves"
            f" {short(str(plan.current.record.commit))}",
            hint=_next_good(plan),
            **error.context,
        ) from error
    return plan.ready.seconds


def _damaged(plan: _Plan) -> IntegrityError:
    from deltavc.errors import ObjectCorrupt

    return ObjectCorrupt(plan.missing[0])


def _next_good(plan: _Plan) -> str:
    """Returns the hint that offers the next version back that is whole."""
    served = plan.served
    for standing in candidates(served):
        if standing.record.commit == plan.commit:
            continue
        other = _Plan(plan.repo, served, plan.current, standing)
        if not other.missing:
            commit = short(str(standing.record.commit))
            return f"this one is whole: deltavc rollback {served.name} --to {commit}"
    return f"repair it: deltavc fsck --repair --only {short(str(plan.commit))}"


def _record(plan: _Plan, reason: str | None) -> Deployment:
    repo, served = plan.repo, plan.served
    return Deployment(
        environment=served.name,
        commit=plan.commit,
        action="rollback",
        actor=repo.session.actor,
        time=repo.session.clock(),
        previous=plan.current.id,
        definition=definition_id(served.definition),
        reason=reason,
        folder=None if plan.ready is None else plan.ready.folder,
        receipt=None if plan.ready is None else plan.ready.receipt,
    )


def _marks_after(plan: _Plan, record: Deployment) -> Marks:
    """Returns the marks with the left version called bad, and the one gone back to not."""
    bad = dict(plan.served.marks.bad)
    if plan.commit is not None:
        bad.pop(plan.commit, None)
    left = plan.current.record.commit
    if left is not None:
        why = None if record.reason is None else record.reason[:MARK_REASON]
        bad[left] = Mark(record.actor, record.time, why)
    return Marks(plan.served.name, dict(sorted(bad.items())))


def _switch(plan: _Plan, record: Deployment) -> tuple[bool, int | None, str | None]:
    """Switches the folder, then records it, in the log or else in the spool."""
    repo, served = plan.repo, plan.served
    spool = served.spool
    to = "nothing" if plan.commit is None else short(plan.commit)
    entry = Entry(
        id=deployment_id(record),
        deployment=record,
        before=plan.current.id,
        definition=served.definition,
        summary=f"rollback {served.name} to {to}",
        tool=TOOL,
        marks=_marks_after(plan, record),
        marks_before=served.marks_id,
        host=repo.session.host,
        user=repo.session.user,
        folder=record.folder,
        linked=served.target is not None,
    )
    with spool.hold(HOLD_SECONDS):
        now = Served(repo, served.name)
        if now.current is None or now.current.id != plan.current.id:
            raise moved(now, plan.current.id)
        spooled = _spool(plan, [*now.pending, entry])
        if served.target is not None:
            try:
                targets.check_link(served.target)
                targets.switch(served.target, record.folder)
            except DeltavcError:
                if spooled is None:
                    spool.write(now.pending)
                raise
        try:
            number = _append(repo, now, entry)
        except (RepositoryError, OSError) as error:
            if spooled is not None and served.target is None:
                raise  # neither a folder nor a record: nothing has happened
            told = error.message if isinstance(error, DeltavcError) else str(error)
            return False, None, told if spooled is None else f"{told}; {spooled}"
        spool.clear()
        return True, number, None


def _spool(plan: _Plan, entries: list[Entry]) -> str | None:
    """Writes down what is about to happen; returns why it could not be written."""
    spool = plan.served.spool
    try:
        spool.write(entries)
    except RepositoryUnwritable:
        try:
            spool.prepare()
            spool.write(entries)
        except RepositoryError as error:
            return error.message
    return None


def _append(repo: Repository, now: Served, entry: Entry) -> int:
    lock = RepositoryLock(repo.layout.lock, f"rollback by {repo.session.actor}", LOCK_SECONDS)
    with lock:
        for pending in now.pending:
            append_entry(repo, pending, late=True)
        event, _ = append_entry(repo, entry, late=False)
    return event.number


def _kpis(
    repo: Repository, before: CommitId | None, after: CommitId | None
) -> dict[str, list[float | None]]:
    """Returns the KPIs of both versions, as far as there is a catalog to ask."""
    if before is None or after is None:
        return {}
    from deltavc.catalog.reader import CatalogReader

    try:
        with CatalogReader(repo.layout.catalog, timeout=1.0) as reader:
            rows = reader.latest_rows([before, after])
    except DeltavcError:
        return {}
    one, other = rows.get(before, {}), rows.get(after, {})
    return {
        name: [
            one[name].value if name in one else None,
            other[name].value if name in other else None,
        ]
        for name in sorted({*one, *other})
    }


def back_from(repo: Repository, environment: str, failed: DeploymentId, reason: str) -> RolledBack:
    """Takes back a deployment whose hook failed, if it still is the one that serves.

    Args:
        repo: The repository.
        environment: The environment.
        failed: Id of the deployment.
        reason: Why.

    Returns:
        What was done; it serves nothing where nothing was served before.

    Raises:
        As :func:`rollback`.
    """
    served = Served(repo, environment)
    current = served.current
    if current is None or current.id != failed:
        raise moved(served, failed)
    goal = next(candidates(served), None)
    return go_back(_Plan(repo, served, current, goal), reason, time.monotonic())
