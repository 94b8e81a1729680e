"""A change: objects first, then one event, then the catalog.

The event is the commit point. What came before it (packs, loose objects) is
harmless when the process dies: nothing refers to it. What comes after it (the
catalog's rows) is made up for by the next command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deltavc.errors import DeltavcError, RefMoved
from deltavc.ids import EventHash, ObjectId
from deltavc.ledger.lock import RepositoryLock
from deltavc.ledger.state import State
from deltavc.records.model import Event, RefChange
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import SignatureRow
    from deltavc.repo.session import Session

__all__ = ["TOOL", "Change", "apply_change"]

TOOL = f"deltavc {__version__}"
KEEP: Any = object()


class Change:
    """What one operation changes, collected under the repository's lock.

    Attributes:
        state: The refs before the change.
        time: The operation's time.
        summary: One line for people.
        reason: Why, where it was asked for.
        detail: Further plain values of the event.
        signatures: The signatures that come with it.
        event: The event, once it is on disk; None when nothing changed.
    """

    def __init__(self, command: str, state: State, time: int) -> None:
        self.command = command
        self.state = state
        self.time = time
        self.summary = command
        self.reason: str | None = None
        self.detail: dict[str, Any] = {}
        self.signatures: list[SignatureRow] = []
        self.undoes: int | None = None
        self.redoes: int | None = None
        self.event: Event | None = None
        self.event_hash: EventHash | None = None
        self._refs: dict[str, str | None] = {}
        self._objects: list[ObjectId] = []

    def set(self, name: str, value: str | None, *, expected: str | None = KEEP) -> None:
        """Moves a ref; None deletes it.

        Args:
            name: The ref.
            value: Its new value.
            expected: What it must stand at now, when that matters.

        Raises:
            RefMoved: It stands somewhere else.
        """
        now = self.state.refs.get(name)
        if expected is not KEEP and now != expected:
            raise RefMoved(
                f"'{name.partition(':')[2] or name}' moved while the command ran",
                ref=name,
                expected=expected,
                found=now,
            )
        self._refs[name] = value

    def touch(self, *objects: ObjectId) -> None:
        """Names objects that the operation brought or concerns."""
        self._objects.extend(objects)

    def note(self, key: str, *ids: str) -> None:
        """Adds ids under a key of the event's detail, such as ``commits``."""
        self.detail.setdefault(key, []).extend(ids)

    def ref_changes(self) -> tuple[RefChange, ...]:
        """Returns the refs that really change, by name."""
        return tuple(
            RefChange(name, self.state.refs.get(name), value)
            for name, value in sorted(self._refs.items())
            if self.state.refs.get(name) != value
        )

    def draft(self, session: Session) -> Event | None:
        """Returns the event without its place in the chain; None when nothing changes."""
        refs = self.ref_changes()
        if not refs and not self._objects:
            return None
        return Event(
            number=0,
            time=self.time,
            actor=session.actor,
            command=self.command,
            summary=self.summary,
            prev=EventHash(""),
            tool=TOOL,
            reason=self.reason,
            refs=refs,
            objects=tuple(dict.fromkeys(self._objects)),
            detail=self.detail,
            undoes=self.undoes,
            redoes=self.redoes,
            host=session.host,
            user=session.user,
        )


@contextmanager
def apply_change(repo: Repository, command: str) -> Iterator[Change]:
    """Holds the lock, yields the change, appends its event, brings the catalog in step."""
    repo.sweep()
    lock = RepositoryLock(
        repo.layout.lock,
        owner=f"{command} by {repo.session.actor}",
        timeout=repo.session.lock_timeout,
    )
    with lock:
        state = repo.state()
        change = Change(command, state, repo.session.clock())
        yield change
        draft = change.draft(repo.session)
        if draft is None:
            return
        head = repo.log.head()
        change.event, change.event_hash = repo.log.append(draft, expected=head)
    try:
        repo.catch_up()
    except DeltavcError as error:
        repo.warnings.append(
            f"recorded, but the catalog could not be brought in step: {error}; "
            "the next command tries again (deltavc doctor)"
        )
