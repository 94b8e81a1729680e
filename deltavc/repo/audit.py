"""The verb ``audit log``: who did what, when and why, from the event log alone.

Needs no catalog, so it works while that is locked, damaged or gone. The newest events
come from the end of the log; only a filter that fits few of them reads further back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from deltavc.errors import DeltavcError, NamingError, UnknownRevision, UsageError
from deltavc.ids import EventHash, ObjectId, is_object_id
from deltavc.ledger.protocol import START
from deltavc.records import canonical
from deltavc.records.model import Event, Measurement
from deltavc.records.ship import Approval, Deployment, Request
from deltavc.repo.results_audit import AuditHead, AuditRow

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["Selection", "head", "log", "require_whole_history", "selection"]

KINDS = ("branch", "tag", "base", "kpi", "gate", "env", "serve", "marks")
"""Kinds of ref; a name without one stands for a ref of any kind."""


class Selection:
    """Which events are asked for.

    Args:
        repo: The repository.
        since: Not before this time, in milliseconds.
        until: Not after this time.
        actor: Only by this one: the whole ``name <mail>`` or a part of it, or the observed user.
        actions: Only these verbs; ``deploy`` or, with all its words, ``kpi add``.
        about: Only about one of these refs, environments or revisions.

    Raises:
        UnknownRevision: There is nothing of that name.
    """

    def __init__(
        self,
        repo: Repository,
        *,
        since: int | None = None,
        until: int | None = None,
        actor: str | None = None,
        actions: Collection[str] = (),
        about: Sequence[str] = (),
    ) -> None:
        self.since, self.until = since, until
        self.actor = actor.casefold() if actor else None
        self.actions = frozenset(actions)
        self.abouts = [_About(repo, name) for name in about]

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        limited = self.since is not None or self.until is not None or self.actor or self.actions
        return not limited and not self.abouts

    def takes(self, event: Event) -> bool:
        """Tells whether an event is asked for."""
        if self.since is not None and event.time < self.since:
            return False
        if self.until is not None and event.time > self.until:
            return False
        if self.actions and self.actions.isdisjoint((event.command, event.command.split(" ")[0])):
            return False
        if self.actor and not (
            self.actor in event.actor.casefold() or self.actor == (event.user or "").casefold()
        ):
            return False
        return not self.abouts or any(about.concerns(event) for about in self.abouts)


class _About:
    """A ref, an environment or a revision, and what has to do with it."""

    def __init__(self, repo: Repository, name: str) -> None:
        self.repo = repo
        kind, colon, rest = name.partition(":")
        if name == "HEAD" or (colon and kind in KINDS):
            self.refs = {name}
            if kind == "env":
                self.refs |= {f"serve:{rest}", f"marks:{rest}"}
        else:
            self.refs = {f"{kind}:{name}" for kind in KINDS}
        self.environments = {ref.partition(":")[2] for ref in self.refs if ref.startswith("serve:")}
        self.commit = "" if colon and kind in KINDS else self._commit(name)
        self.seen = False
        if not self.commit and not self._is_known():
            raise UnknownRevision(
                f"no ref, environment or revision has the name '{name}', now or earlier",
                hint="see the names: deltavc branch, deltavc tag, deltavc env list",
                name=name,
            )

    def _commit(self, name: str) -> str:
        from deltavc.repo.revisions import resolve

        with suppress(NamingError):
            return resolve(self.repo, name)
        return ""

    def _is_known(self) -> bool:
        """Tells whether a ref of the name is or ever was there."""
        if not self.refs.isdisjoint(self.repo.state().refs):
            return True
        return any(self.concerns(event) for event, _ in self.repo.log.read_back())

    def concerns(self, event: Event) -> bool:
        """Tells whether an event has to do with it."""
        for change in event.refs:
            if change.name in self.refs:
                return True
            if self.commit and self.commit in (change.before, change.after):
                return True
        if self.commit and self.commit in event.objects:
            return True
        detail = event.detail
        if self.environments or self.commit:
            for key, kind in _LIVE.items():
                if detail.get(key) and self._is_of_ours(kind, detail[key]):
                    return True
        measured = detail.get("measurements")
        return bool(self.commit and measured and self._is_measured(measured))

    def _is_of_ours(self, kind: str, ids: object) -> bool:
        for oid in _object_ids(ids):
            with suppress(DeltavcError):
                found = canonical.decode(self.repo.store.get(oid, kind), _RECORDS[kind])
                if found.environment in self.environments or found.commit == self.commit:
                    return True
        return False

    def _is_measured(self, ids: object) -> bool:
        for oid in _object_ids(ids)[:1]:  # one event measures one version
            with suppress(DeltavcError):
                body = self.repo.store.get(oid, "measurement")
                return canonical.decode(body, Measurement).commit == self.commit
        return False


_RECORDS: dict[str, type[Deployment | Request | Approval]] = {
    "deployment": Deployment,
    "request": Request,
    "approval": Approval,
}
_LIVE = {"deployments": "deployment", "requests": "request", "approvals": "approval"}


def _object_ids(value: object) -> list[ObjectId]:
    listed = value if isinstance(value, list) else []
    return [ObjectId(oid) for oid in listed if isinstance(oid, str) and is_object_id(oid)]


def selection(
    repo: Repository,
    *,
    since: int | None = None,
    until: int | None = None,
    about: Sequence[str] = (),
) -> Selection:
    """Returns which events an export takes; see :class:`Selection`."""
    return Selection(repo, since=since, until=until, about=about)


def log(
    repo: Repository,
    *,
    since: int | None = None,
    until: int | None = None,
    actor: str | None = None,
    actions: Collection[str] = (),
    about: str | None = None,
    limit: int | None = None,
) -> list[AuditRow]:
    """Returns events, newest first.

    Args:
        repo: The repository.
        since: Not before this time, in milliseconds.
        until: Not after this time.
        actor: Only by this one: ``name <mail>`` or a part of it, or the observed user.
        actions: Only these verbs.
        about: Only about this ref, environment or revision.
        limit: At most this many.

    Returns:
        The events.

    Raises:
        UnknownRevision: There is nothing called ``about``.
        AuditChainBroken: The log does not follow from itself.
    """
    wanted = Selection(
        repo,
        since=since,
        until=until,
        actor=actor,
        actions=actions,
        about=() if about is None else (about,),
    )
    rows = (row(*found) for found in _backward(repo) if wanted.takes(found[0]))
    return list(islice(rows, limit))


def _backward(repo: Repository) -> Iterator[tuple[Event, EventHash, int]]:
    """Yields events newest first, with how far the clock went back to reach them."""
    last = None if repo.as_of is None else repo.as_of.number
    newer: tuple[Event, EventHash] | None = None
    for event, event_hash in repo.log.read_back():
        if newer is not None:
            yield *newer, max(0, event.time - newer[0].time)
        newer = (event, event_hash) if last is None or event.number <= last else None
    if newer is not None:
        yield *newer, 0


def row(event: Event, event_hash: EventHash, clock_back: int = 0) -> AuditRow:
    """Returns an event as the answer has it."""
    return AuditRow(
        number=event.number,
        hash=event_hash,
        time=event.time,
        actor=event.actor,
        command=event.command,
        summary=event.summary,
        tool=event.tool,
        reason=event.reason,
        user=event.user,
        host=event.host,
        refs=[{"name": c.name, "before": c.before, "after": c.after} for c in event.refs],
        objects=list(event.objects),
        detail=event.detail,
        undoes=event.undoes,
        redoes=event.redoes,
        clock_back=clock_back,
    )


def head(repo: Repository) -> AuditHead:
    """Returns the last event's number, hash and time, to be noted somewhere else.

    Args:
        repo: The repository.

    Returns:
        The head; number 0 and 64 zeros without events.

    Raises:
        AuditChainBroken: The last line is no event.
    """
    for event, event_hash in repo.log.read_back(1):
        return AuditHead(number=event.number, hash=event_hash, time=event.time)
    return AuditHead(number=START.number, hash=START.hash)


def require_whole_history(repo: Repository, what: str) -> None:
    """Refuses to answer from an earlier operation what is about the history as a whole.

    Args:
        repo: The repository.
        what: The verb.

    Raises:
        UsageError: ``--at-op`` was given.
    """
    if repo.as_of is not None:
        raise UsageError(
            f"'{what}' is about the whole history, so it cannot look at an earlier operation",
            hint="leave --at-op out; --until and conditions on event narrow it",
        )
