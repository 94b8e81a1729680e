"""The verbs ``undo``, ``redo`` and ``op``: the event log read as a list of operations.

Undo works like Ctrl-Z: again goes further back, redo comes forward, and a new
operation forgets what could be redone. Both are events themselves; nothing is
ever deleted or edited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deltavc.catalog.errors import CatalogUnusable
from deltavc.errors import (
    AmbiguousRevision,
    AuditChainBroken,
    NothingToUndo,
    RepositoryLocked,
    RepositoryUnwritable,
    UnknownRevision,
)
from deltavc.ids import EventHash
from deltavc.ledger.state import State, replay
from deltavc.records.model import Event, RefChange
from deltavc.repo.results import OperationRow, Undone

if TYPE_CHECKING:
    from deltavc.repo.change import Change
    from deltavc.repo.repository import Repository

__all__ = ["find", "log", "redo", "restore", "show", "state_at", "undo"]

OP_DIGITS = 8
MIN_PREFIX = 4
OUTSIDE = {"deploy", "promote", "rollback"}
"""What others see: taking the record back would not take back what happened."""

NOT_UNDOABLE = {"init", "env define", "env approve", "env mark", *OUTSIDE}
"""Where the history begins, what others see and rely on, and what people answered for."""

_KEPT = ("serve:", "marks:")
"""Refs that say what environments serve; only their own verbs move them."""


class Stack:
    """What can be taken back and what can be done again, after a run of events."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.done: list[Event] = []
        self.undone: list[Event] = []
        for event in events:
            self.push(event)

    def push(self, event: Event) -> None:
        """Counts one more event."""
        if event.undoes is not None:
            self.undone.append(self._taken(self.done, event, event.undoes))
        elif event.redoes is not None:
            self.done.append(self._taken(self.undone, event, event.redoes))
        elif event.refs and event.command not in NOT_UNDOABLE:
            self.done.append(event)
            self.undone.clear()

    @staticmethod
    def _taken(events: list[Event], event: Event, number: int) -> Event:
        if not events or events[-1].number != number:
            raise AuditChainBroken(
                f"event {event.number} takes back or does again event {number}, out of order",
                number=event.number,
            )
        return events.pop()


def _stack(repo: Repository) -> Stack:
    return Stack(event for event, _ in repo.log.read())


def log(repo: Repository, *, limit: int | None = None) -> list[OperationRow]:
    """Returns the operations, newest first.

    Args:
        repo: The repository.
        limit: At most this many.

    Returns:
        One row an operation.
    """
    entries = list(repo.log.read_back(limit))
    undone = _undone_numbers(event for event, _ in reversed(entries))
    return [
        _row(event, oid, current=i == 0, undone=event.number in undone)
        for i, (event, oid) in enumerate(entries)
    ]


def show(repo: Repository, operation: str) -> OperationRow:
    """Returns one operation in full.

    Args:
        repo: The repository.
        operation: Its id, or the first four or more digits of it, with or without ``op:``.

    Returns:
        The operation.

    Raises:
        UnknownRevision: There is no such operation.
        AmbiguousRevision: Several begin like that.
    """
    event, oid = find(repo, operation)
    current = repo.log.head().number == event.number
    undone = _undone_numbers(later for later, _ in repo.log.read(event.number))
    return _row(event, oid, current=current, undone=event.number in undone, full=True)


def _undone_numbers(events: Iterable[Event]) -> set[int]:
    """Returns which operations a run of events leaves taken back, by number."""
    undone: set[int] = set()
    for event in events:
        if event.undoes is not None:
            undone.add(event.undoes)
        if event.redoes is not None:
            undone.discard(event.redoes)
    return undone


def find(repo: Repository, operation: str) -> tuple[Event, EventHash]:
    """Finds an operation by the beginning of its id, ``@`` being the newest.

    Args:
        repo: The repository.
        operation: The id.

    Returns:
        The event and its hash.

    Raises:
        UnknownRevision: There is no such operation.
        AmbiguousRevision: Several begin like that.
    """
    prefix = operation.removeprefix("op:").lower()
    if prefix == "@":
        for entry in repo.log.read_back(1):
            return entry
    hits = _beginning_with(repo, prefix) if len(prefix) >= MIN_PREFIX else []
    if not hits:
        raise UnknownRevision(
            f"no operation begins with '{operation[:80]}'",
            hint="list the operations: deltavc op log",
            operation=operation,
        )
    if len(hits) > 1:
        raise AmbiguousRevision(
            f"'{operation}' fits {len(hits)} operations", candidates=[oid for _, oid in hits]
        )
    return hits[0]


def _beginning_with(repo: Repository, prefix: str) -> list[tuple[Event, EventHash]]:
    """Finds events by the beginning of their hash: told by the catalog, read in the log."""
    try:
        with repo.kept_reader() as reader:
            rows = reader.find_event(prefix)
        found = [next(iter(repo.log.read(row.number))) for row in rows]
    except (CatalogUnusable, RepositoryUnwritable, RepositoryLocked, StopIteration):
        found, rows = [], []
    if found and [oid for _, oid in found] == [row.hash for row in rows]:
        return found
    return [entry for entry in repo.log.read() if entry[1].startswith(prefix)]


def state_at(repo: Repository, operation: str) -> State:
    """Returns the refs as they were right after an operation."""
    event, _ = find(repo, operation)
    return replay(repo.log, until=event.number)


def undo(repo: Repository, *, dry_run: bool = False) -> Undone:
    """Takes back the newest operation that has not been taken back.

    Args:
        repo: The repository.
        dry_run: Only say what would be taken back.

    Returns:
        What was taken back.

    Raises:
        NothingToUndo: There is none.
    """
    with repo.change("undo") as change:
        stack = _stack(repo)
        if not stack.done:
            raise NothingToUndo("there is no operation to take back")
        target = stack.done[-1]
        if not dry_run:
            change.undoes = target.number
        refs = [RefChange(ref.name, ref.after, ref.before) for ref in target.refs]
        _move(change, refs, f"undo: {target.summary}", dry_run=dry_run)
    passed = _passed_over(repo, target.number)
    return _undone(repo, change, target, refs, dry_run=dry_run, passed=passed)


def _passed_over(repo: Repository, number: int) -> list[str]:
    """Says of what environments did since an event that undoing does not take it back."""
    return [
        f"{event.summary} stays: what takes it back is deltavc rollback"
        f" {ref.name.removeprefix('serve:')}"
        for event, _ in repo.log.read(number + 1)
        for ref in event.refs
        if event.command in OUTSIDE and ref.name.startswith("serve:")
    ][-3:]


def redo(repo: Repository, *, dry_run: bool = False) -> Undone:
    """Does again what the newest undo took back.

    Args:
        repo: The repository.
        dry_run: Only say what would be done again.

    Returns:
        What was done again.

    Raises:
        NothingToUndo: There is none.
    """
    with repo.change("redo") as change:
        stack = _stack(repo)
        if not stack.undone:
            raise NothingToUndo("there is no operation to do again")
        target = stack.undone[-1]
        if not dry_run:
            change.redoes = target.number
        refs = list(target.refs)
        _move(change, refs, f"redo: {target.summary}", dry_run=dry_run)
    return _undone(repo, change, target, refs, dry_run=dry_run)


def restore(repo: Repository, operation: str, *, dry_run: bool = False) -> Undone:
    """Puts all refs back to where they were right after an operation; itself an operation.

    Args:
        repo: The repository.
        operation: The operation's id.
        dry_run: Only say what would change.

    Returns:
        What moved.

    Raises:
        UnknownRevision: There is no such operation.
    """
    event, _ = find(repo, operation)
    with repo.change("op restore") as change:
        then = replay(repo.log, until=event.number).refs
        now = change.state.refs
        refs = [
            RefChange(name, now.get(name), then.get(name))
            for name in sorted(set(now) | set(then))
            if now.get(name) != then.get(name) and not name.startswith(_KEPT)
        ]
        _move(change, refs, f"restore: {event.summary}", dry_run=dry_run)
    return _undone(repo, change, event, refs, dry_run=dry_run)


def _move(change: Change, refs: list[RefChange], summary: str, *, dry_run: bool) -> None:
    if dry_run:
        return
    change.summary = summary
    for ref in refs:
        change.set(ref.name, ref.after, expected=ref.before)


def _undone(
    repo: Repository,
    change: Change,
    target: Event,
    refs: list[RefChange],
    *,
    dry_run: bool,
    passed: Sequence[str] = (),
) -> Undone:
    written, notes = False, list(passed)
    if not dry_run and (target.detail.get("workspace") or _held_head(repo, change.state)):
        from deltavc.repo.checkout import follow_head

        written, note = follow_head(repo)
        notes += [note] if note else []
    taken = next((oid for event, oid in repo.log.read(target.number) if event == target), "")
    return Undone(
        operation=change.event_hash,
        taken=taken,
        summary=target.summary,
        refs=[_ref(ref) for ref in refs],
        workspace_written=written,
        changed=bool(refs) and not dry_run,
        dry_run=dry_run,
        notes=notes,
    )


def _held_head(repo: Repository, before: State) -> bool:
    """Tells whether the workspace was what HEAD stood for before refs moved."""
    from deltavc.repo import workspace

    folder, head = repo.workspace, repo.head_commit(before)
    found = workspace.held(repo, folder) if folder is not None else None
    return found is not None and head is not None and found.commit == head


def _ref(ref: RefChange) -> dict[str, str | None]:
    return {"name": ref.name, "before": ref.before, "after": ref.after}


def _row(
    event: Event, oid: EventHash, *, current: bool, undone: bool, full: bool = False
) -> OperationRow:
    return OperationRow(
        id=oid,
        number=event.number,
        time=event.time,
        actor=event.actor,
        command=event.command,
        summary=event.summary,
        reason=event.reason,
        refs=[_ref(ref) for ref in event.refs],
        undoable=bool(event.refs) and event.command not in NOT_UNDOABLE,
        undone=undone,
        current=current,
        detail=dict(event.detail) if full else {},
        objects=list(event.objects) if full else [],
    )
