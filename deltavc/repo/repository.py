"""The repository: what the verbs stand on.

Holds the store, the event log and the catalog together and answers where
things are. Truth is in objects and the event log; the catalog is an index that
is brought in step before it is asked.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deltavc.catalog.errors import CatalogUnusable
from deltavc.codec.room import Room, heap
from deltavc.errors import (
    DeltavcError,
    RepositoryError,
    RepositoryLocked,
    RepositoryUnwritable,
    UnknownRevision,
    UsageError,
)
from deltavc.ids import BaseId, CommitId, DeltaId, ManifestId, ObjectId, short
from deltavc.ledger.log import EventLog
from deltavc.ledger.protocol import START, Head
from deltavc.ledger.state import State, replay
from deltavc.records import canonical
from deltavc.records.model import Base, BaseSource, Commit, Manifest, Recipe
from deltavc.repo.layout import Layout, discover
from deltavc.store import ObjectStore

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.delta.kinds import Delta
    from deltavc.delta.vector import Vector
    from deltavc.repo.change import Change
    from deltavc.repo.session import Session

__all__ = ["HEAD", "Repository", "branch_ref", "tag_ref"]

HEAD = "HEAD"
MANY_EVENTS = 1000  # from here on a catalog that is missing is made in bulk: ten times as fast
STALE_SECONDS = 3600.0  # a live writer holds its file's lock; this is for file systems without
_T = TypeVar("_T")


def branch_ref(name: str) -> str:
    """Returns the ref of a branch."""
    return f"branch:{name}"


def tag_ref(name: str) -> str:
    """Returns the ref of a tag."""
    return f"tag:{name}"


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turns a catalog that the system or another process keeps from us into what that is."""
    try:
        yield
    except CatalogUnusable as error:
        kinds = {"unwritable": RepositoryUnwritable, "locked": RepositoryLocked}
        kind = kinds.get(str(error.context.get("reason")))
        if kind is None:
            raise
        raise kind(error.message, **error.context) from error


class Repository:
    """An open repository.

    Args:
        layout: Where its files are; the format has been checked.
        session: Who acts, the clock, threads, progress.
    """

    def __init__(self, layout: Layout, session: Session) -> None:
        self.layout = layout
        self.session = session
        self.warnings: list[str] = []
        self.transient: dict[DeltaId, Delta] = {}
        self.as_of: State | None = None
        self._spare: Path | None = None

    @classmethod
    def open(cls, start: Path, session: Session) -> Repository:
        """Opens the repository at or above a folder.

        Args:
            start: Where to look first.
            session: Who acts, the clock, threads, progress.

        Returns:
            The repository.

        Raises:
            NotARepository: There is none.
            FormatTooNew: A newer deltavc wrote it.
        """
        from deltavc.repo.spool import spool_folder

        repo = cls(discover(start), session)
        if spool_folder(repo.layout.folder).is_dir():
            from deltavc.repo.serving import settle

            settle(repo)
        return repo

    def look_at(self, operation: str) -> None:
        """Makes the repository answer as it was right after an operation, and read-only.

        Args:
            operation: The operation's id.

        Raises:
            UnknownRevision: There is no such operation.
        """
        from deltavc.repo.operations import state_at

        self.as_of = state_at(self, operation)

    # parts ----------------------------------------------------------------

    @cached_property
    def store(self) -> ObjectStore:
        """The objects."""
        return ObjectStore(self.layout.folder)

    @cached_property
    def log(self) -> EventLog:
        """The event log."""
        return EventLog(self.layout.events, self.layout.folder / "quarantine")

    @property
    def root(self) -> Path:
        """The folder that holds the repository."""
        return self.layout.root

    @cached_property
    def workspace(self) -> Path | None:
        """The folder that checkout rebuilds and status watches; None in a bare repository.

        Raises:
            RepositoryError: The settings make no sense.
            UsageError: It would replace the repository.
        """
        settings = self.layout.settings()
        core, section = settings.get("core", {}), settings.get("workspace", {})
        path = section.get("path", "model") if isinstance(section, dict) else None
        if not isinstance(core, dict) or not isinstance(path, str) or not path or "\0" in path:
            raise RepositoryError(
                f"the settings file '{self.layout.config}' does not say where the workspace is",
                hint="say it: deltavc config set workspace.path model",
            )
        if core.get("bare") is True:
            return None
        folder = self.root / path
        self.layout.check_target(folder)
        return folder

    # state ----------------------------------------------------------------

    def state(self) -> State:
        """Returns all refs as of now, from the catalog when it is in step, else from the log."""
        if self.as_of is not None:
            return self.as_of
        try:
            found = self._in_step()
        except CatalogUnusable:
            found = None
        if found is None:
            return replay(self.log)
        reader, head = found
        with reader:
            return State(refs=reader.refs(), number=head.number, hash=head.hash)

    def _in_step(self) -> tuple[CatalogReader, Head] | None:
        """Returns the catalog's reader and the log's head; None where the catalog is behind."""
        from deltavc.catalog.reader import CatalogReader

        head = self.log.head()
        reader = CatalogReader(self.layout.catalog)
        if (reader.applied() or START) == head:
            return reader, head
        reader.close()
        return None

    def reader(self) -> CatalogReader:
        """Returns the catalog's reader, after bringing the catalog in step with the log.

        Where the catalog is of no use and cannot be mended, on a full or read-only
        disk for one, a temporary one is made from the files, and a warning says so.

        Returns:
            The reader.

        Raises:
            CatalogUnusable: The catalog is of no use, and no other can be made.
            RepositoryUnwritable: The same, since nothing can be written.
        """
        try:
            return self.kept_reader()
        except (CatalogUnusable, RepositoryUnwritable, RepositoryLocked) as error:
            found = self._temporary_reader()
            if found is None:
                with _told_apart():
                    raise
            self.warnings.append(
                f"{error.message}; answered from the files (mend it: deltavc doctor --fix)"
            )
            return found

    def kept_reader(self) -> CatalogReader:
        """Returns the reader of the repository's own catalog, in step with the log.

        Returns:
            The reader.

        Raises:
            CatalogUnusable: The catalog is damaged or of a newer schema.
            RepositoryUnwritable: It cannot be written.
            RepositoryLocked: Another process keeps it.
        """
        from deltavc.catalog.reader import CatalogReader

        try:
            found = self._in_step()
            if found is not None:
                return found[0]
        except CatalogUnusable as error:
            if error.context.get("reason") not in ("missing", "older"):
                raise
        try:
            self.catch_up()
        except CatalogUnusable as error:
            if error.context.get("reason") != "diverged":
                raise
            # The log is the truth: a catalog of another log, as after a power cut, is remade.
            self.rebuild_catalog()
        return CatalogReader(self.layout.catalog)

    def _temporary_reader(self) -> CatalogReader | None:
        from deltavc.catalog.reader import CatalogReader
        from deltavc.catalog.writer import Catalog

        try:
            if self._spare is None:
                self._spare = Path(tempfile.mkdtemp(prefix="deltavc-")) / "catalog.db"
                weakref.finalize(self, shutil.rmtree, self._spare.parent, ignore_errors=True)
            with Catalog.open_or_create(self._spare) as catalog:
                catalog.catch_up(self.log, self._bodies(), skipped=self.note_skipped)
            return CatalogReader(self._spare)
        except (CatalogUnusable, OSError):
            return None

    def catch_up(self) -> None:
        """Applies to the catalog what the event log has and the catalog lacks."""
        from deltavc.catalog.writer import Catalog

        if self._lacks_catalog() and self.log.head().number > MANY_EVENTS:
            with suppress(RepositoryLocked):  # then event by event, beside whoever holds it
                self.rebuild_catalog(timeout=0.0)
                return
        with _told_apart(), Catalog.open_or_create(self.layout.catalog) as catalog:
            catalog.catch_up(self.log, self._bodies(), skipped=self.note_skipped)

    def _lacks_catalog(self) -> bool:
        """Tells whether there is no catalog, or one that an upgrade would fill anew."""
        from deltavc.catalog.reader import CatalogReader

        try:
            with CatalogReader(self.layout.catalog) as reader:
                return reader.applied() is None
        except CatalogUnusable as error:
            return error.context.get("reason") in ("missing", "older")

    def rebuild_catalog(self, *, timeout: float | None = None) -> None:
        """Makes the catalog anew from objects and event log.

        Args:
            timeout: Seconds to wait for the repository's lock; default: the session's.

        Raises:
            RepositoryLocked: Another process holds the lock for longer, or the catalog.
        """
        from deltavc.catalog.writer import Catalog
        from deltavc.ledger.lock import RepositoryLock, is_held

        seconds = self.session.lock_timeout if timeout is None else timeout
        lock = RepositoryLock(self.layout.lock, "catalog rebuild", seconds)
        held = nullcontext() if is_held(self.layout.lock) else lock
        with held, _told_apart(), Catalog(self.layout.catalog) as catalog:
            catalog.rebuild(self.log, self._bodies(), skipped=self.note_skipped)

    def note_skipped(self, kind: str, oid: ObjectId, error: DeltavcError) -> None:
        """Warns of an object that the catalog had to leave out: it must not block a command."""
        self.warnings.append(
            f"left out of the catalog: {kind} {short(oid)}, {error.message}; see deltavc fsck"
        )

    @contextmanager
    def change(self, command: str) -> Iterator[Change]:
        """Opens a change of refs: all of it or none of it, one event.

        Args:
            command: The verb, for the event.

        Yields:
            The change, holding the state under the lock.

        Raises:
            RepositoryLocked: Another process holds the lock for too long.
            UsageError: The repository is looked at as it was at an earlier operation.
        """
        self.require_now(command)
        from deltavc.repo.change import apply_change

        with apply_change(self, command) as change:
            yield change

    def sweep(self) -> list[Path]:
        """Removes what killed processes left in ``tmp/`` more than an hour ago.

        Returns:
            What was removed; nothing where the folder cannot be written.
        """
        with suppress(RepositoryError, OSError):
            if any(self.layout.staging.iterdir()):
                return self.store.sweep(STALE_SECONDS)
        return []

    def require_now(self, command: str) -> None:
        """Refuses to change anything while an earlier operation is looked at.

        Args:
            command: The verb.

        Raises:
            UsageError: The repository is looked at as it was at an earlier operation.
        """
        if self.as_of is not None:
            raise UsageError(
                f"'{command}' changes the repository, and an earlier operation is read-only",
                hint="go back to it: deltavc op restore OPERATION",
            )

    # objects --------------------------------------------------------------

    def load_body(self, kind: str, oid: ObjectId) -> bytes:
        """Returns the body of an object of this kind."""
        return bytes(self.store.get(oid, kind))

    def _bodies(self) -> Callable[[str, ObjectId], bytes]:
        """Returns what reads bodies of objects for those who want many, in the log's order."""
        from deltavc.store.bulk import BulkReader

        return BulkReader(self.store).get

    def _record(self, kind: str, oid: ObjectId, model: type[_T]) -> _T:
        return canonical.decode(self.store.get(oid, kind), model)

    def put_record(self, kind: str, record: object) -> ObjectId:
        """Writes a small record as a loose object."""
        from deltavc.codec.frames import Part

        return self.store.put(kind, [Part(canonical.encode(record))])

    def commit(self, oid: CommitId) -> Commit:
        """Returns a commit."""
        return self._record("commit", oid, Commit)

    def manifest(self, oid: ManifestId) -> Manifest:
        """Returns a manifest."""
        return self._record("manifest", oid, Manifest)

    def recipe(self, oid: ObjectId) -> Recipe:
        """Returns how a merge came about."""
        return self._record("recipe", oid, Recipe)

    def base(self, oid: BaseId) -> Base:
        """Returns a base."""
        return self._record("base", oid, Base)

    def base_source(self, oid: ObjectId) -> BaseSource:
        """Returns where a base is."""
        return self._record("basesource", oid, BaseSource)

    def delta(self, oid: DeltaId, room: Room = heap) -> Delta:
        """Returns a delta, from the store or of a comparison that records nothing."""
        from deltavc.delta.kinds import from_body

        if oid in self.transient:
            return self.transient[oid]
        delta = from_body(self.store.get(oid, "delta", room=room))
        if not delta.blobs:
            return delta
        return delta.with_blobs({n: self.store.get(b, "blob") for n, b in delta.blobs.items()})

    def vector(self, oid: CommitId) -> Vector:
        """Returns a commit's model version as a vector."""
        from deltavc.delta.vector import Vector

        return Vector.from_manifest(self.manifest(self.commit(oid).manifest))

    # refs -----------------------------------------------------------------

    def head_branch(self, state: State) -> str | None:
        """Returns the branch that HEAD stands on; None when detached."""
        value = state.refs.get(HEAD, "")
        return value.removeprefix("branch:") if value.startswith("branch:") else None

    def head_commit(self, state: State) -> CommitId | None:
        """Returns the commit that HEAD stands on; None before the first one."""
        value = state.refs.get(HEAD, "")
        if value.startswith("branch:"):
            value = state.refs.get(value, "")
        return CommitId(ObjectId(value)) if value else None

    def need_head(self, state: State) -> CommitId:
        """Returns the commit that HEAD stands on.

        Args:
            state: The refs.

        Returns:
            The commit's id.

        Raises:
            UnknownRevision: There is no commit yet.
        """
        commit = self.head_commit(state)
        if commit is None:
            branch = self.head_branch(state)
            raise UnknownRevision(
                f"branch '{branch}' has no commit yet", hint="make one: deltavc commit PATH -m TEXT"
            )
        return commit

    def base_names(self, state: State) -> dict[str, BaseSource]:
        """Returns the registered bases by name."""
        return {
            name.removeprefix("base:"): self.base_source(ObjectId(value))
            for name, value in sorted(state.refs.items())
            if name.startswith("base:")
        }

    def base_name(self, state: State, base: BaseId) -> str:
        """Returns the name of a base, or its short fingerprint when it has none any more."""
        for name, source in self.base_names(state).items():
            if source.base == base:
                return name
        return short(base)
