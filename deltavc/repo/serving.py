"""What an environment serves, told from the event log and the spool alone.

No catalog is asked: it may be locked, damaged or gone, and this is what an incident
stands on. Order is that of the log, never that of clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from deltavc.errors import DeltavcError, RefMoved, UsageError
from deltavc.ids import CommitId, DeploymentId, ObjectId, short
from deltavc.ledger.lock import RepositoryLock
from deltavc.records import canonical
from deltavc.records.model import Event, RefChange
from deltavc.records.ship import Deployment, Environment, Marks
from deltavc.repo.environment_policy import (
    ENVIRONMENT,
    MARKS,
    SERVE,
    environment_of,
    recorded,
    target_of,
)
from deltavc.repo.spool import Entry, Spool, environments_with_spools
from deltavc.repo.target import linked

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = [
    "Served",
    "Standing",
    "append_entry",
    "deployment_name",
    "request_name",
    "settle",
]

SETTLE_SECONDS = 1.0


def deployment_name(number: int | None) -> str:
    """Returns what a deployment is called: ``d-`` and the number of its event."""
    return "d-spooled" if number is None else f"d-{number:06d}"


def request_name(number: int) -> str:
    """Returns what a request is called: ``r-`` and the number of its event."""
    return f"r-{number:06d}"


@dataclass(frozen=True)
class Standing:
    """A deployment in the order of the log.

    Attributes:
        number: The number of its event; None while it is only in the spool.
        id: Its id.
        record: The deployment.
    """

    number: int | None
    id: DeploymentId
    record: Deployment

    @property
    def name(self) -> str:
        """What it is called."""
        return deployment_name(self.number)


class Served:
    """An environment as of now.

    Args:
        repo: The repository.
        name: The environment.

    Raises:
        UnknownRevision: There is no such environment.
        AuditChainBroken: The end of the log cannot be read.
    """

    def __init__(self, repo: Repository, name: str) -> None:
        self.repo, self.name = repo, name
        refs: dict[str, str] = {}
        self._serves: list[tuple[int, DeploymentId]] = []
        names = frozenset(kind + name for kind in (ENVIRONMENT, SERVE, MARKS))
        then = None if repo.as_of is None else repo.as_of.number
        for event, _ in repo.log.changes_of(names):
            if then is not None and event.number > then:
                continue
            for change in event.refs:
                if change.name not in names:
                    continue
                refs.setdefault(change.name, change.after or "")
                if change.name == SERVE + name and change.after is not None:
                    self._serves.append((event.number, DeploymentId(ObjectId(change.after))))
        self.refs = {ref: value for ref, value in refs.items() if value}
        self.definition: Environment = self._definition()
        self.target = target_of(repo, self.definition)
        self.spool = Spool(repo.layout.folder, name, self.target)
        known = {oid for _, oid in self._serves}
        entries = self.spool.entries() if then is None else []
        self.pending = [entry for entry in entries if entry.id not in known]

    def _definition(self) -> Environment:
        """Returns the definition; where the policy file is broken, the one that was live last."""
        try:
            return environment_of(self.repo, self.refs, self.name)
        except UsageError as error:
            if not self._serves:
                raise
            newest = load_deployment(self.repo, self._serves[0][1])
            self.repo.warnings.append(f"{error.message}; '{self.name}' is as it was deployed last")
            return recorded(self.repo, newest.definition)

    @cached_property
    def current(self) -> Standing | None:
        """What it serves; None before the first deployment."""
        return next(self.standings(), None)

    @property
    def commit(self) -> CommitId | None:
        """The version that it serves; None for none."""
        return None if self.current is None else self.current.record.commit

    def standings(self) -> Iterator[Standing]:
        """Yields its deployments, newest first; those in the spool are the newest."""
        for entry in reversed(self.pending):
            yield Standing(None, entry.id, entry.deployment)
        for number, oid in self._serves:
            yield Standing(number, oid, load_deployment(self.repo, oid))

    @cached_property
    def marks(self) -> Marks:
        """The versions that are called bad here."""
        for entry in reversed(self.pending):
            if entry.marks is not None:
                return entry.marks
        value = self.refs.get(MARKS + self.name)
        if value is None:
            return Marks(self.name)
        return canonical.decode(self.repo.store.get(ObjectId(value), "marks"), Marks)

    @property
    def marks_id(self) -> ObjectId | None:
        """Id of the marks as the log has them; None for none."""
        value = self.refs.get(MARKS + self.name)
        return None if value is None else ObjectId(value)

    def receipt_of(self, commit: CommitId, folder: str) -> str | None:
        """Returns the receipt that was recorded when a version's folder was last written."""
        for standing in self.standings():
            record = standing.record
            if record.commit == commit and record.folder == folder:
                return record.receipt
        return None


def load_deployment(repo: Repository, oid: DeploymentId) -> Deployment:
    """Returns a deployment from the store."""
    return canonical.decode(repo.store.get(oid, "deployment"), Deployment)


def moved(served: Served, seen: DeploymentId | None) -> RefMoved:
    """Returns the error for somebody else having been faster: who, when, to what."""
    now = served.current
    if now is None:
        return RefMoved(f"'{served.name}' moved while the command ran", environment=served.name)
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(now.record.time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    to = "nothing" if now.record.commit is None else short(now.record.commit)
    return RefMoved(
        f"'{served.name}' was moved by {now.record.actor} at {when} ({now.record.action},"
        f" {now.name}); it serves {to} now",
        hint=f"look at it before going on: deltavc env show {served.name}",
        environment=served.name,
        actor=now.record.actor,
        time=now.record.time,
        deployment=now.name,
        revision=now.record.commit,
        expected=seen,
    )


# recording ------------------------------------------------------------------


def append_entry(repo: Repository, entry: Entry, *, late: bool) -> tuple[Event, str]:
    """Appends the event of a switch that has happened. The caller holds the repository's lock.

    Only files are touched: the catalog catches up with the next command that asks it.

    Args:
        repo: The repository.
        entry: The switch.
        late: It is recorded by another process than the one that did it.

    Returns:
        The event as written, and its hash.

    Raises:
        RepositoryUnwritable: The log cannot be written; it is as it was.
    """
    from deltavc.repo.switching import deployment_id

    record = entry.deployment
    repo.put_record("environment", entry.definition)
    if deployment_id(record) == entry.id:  # a journal leaves out what the store has already
        repo.put_record("deployment", record)
    name = record.environment
    refs = [RefChange(SERVE + name, entry.before, entry.id)]
    if entry.marks is not None:
        oid = repo.put_record("marks", entry.marks)
        if oid != entry.marks_before:
            refs.append(RefChange(MARKS + name, entry.marks_before, oid))
    from deltavc.ledger.log import draft_event

    draft = draft_event(
        time=repo.session.clock() if late else record.time,
        actor=record.actor,
        command=record.action,
        summary=entry.summary,
        tool=entry.tool,
        reason=record.reason,
        refs=tuple(sorted(refs, key=lambda ref: ref.name)),
        objects=(entry.id,),
        detail={"deployments": [entry.id], **({"late": True} if late else {})},
        host=entry.host,
        user=entry.user,
    )
    return repo.log.append(draft, expected=repo.log.head())


def settle(repo: Repository) -> None:
    """Records what other processes switched and could not record, as far as that can be done.

    Cheap where there is nothing: one look at each spool.

    Args:
        repo: The repository.
    """
    for name in environments_with_spools(repo.layout.folder):
        try:
            _settle(repo, name)
        except DeltavcError as error:
            if Spool.found(repo.layout.folder, name).entries():
                repo.warnings.append(
                    f"a switch of '{name}' is not in the log yet, and cannot be recorded now:"
                    f" {error.message}"
                )


def _settle(repo: Repository, name: str) -> None:
    spool = Spool.found(repo.layout.folder, name)
    if not spool.entries():
        return
    with spool.hold(0.0):
        entries = spool.entries()
        if not entries:
            return
        lock = RepositoryLock(repo.layout.lock, f"recording of '{name}'", SETTLE_SECONDS)
        with lock:
            for entry in _happened(spool, entries):
                newest = _newest_serve(repo, name)
                if entry.id != newest and entry.before == newest:
                    append_entry(repo, entry, late=True)
        spool.clear()


def _happened(spool: Spool, entries: list[Entry]) -> list[Entry]:
    """Returns the entries up to the last one that the target's link shows."""
    if spool.target is None:
        return entries
    here = linked(spool.target)
    for end in range(len(entries), 0, -1):
        if not entries[end - 1].linked or entries[end - 1].folder == here:
            return entries[:end]
    return []


def _newest_serve(repo: Repository, name: str) -> DeploymentId | None:
    ref = SERVE + name
    for event, _ in repo.log.changes_of([ref]):
        for change in event.refs:
            if change.name == ref:
                return None if change.after is None else DeploymentId(ObjectId(change.after))
    return None
