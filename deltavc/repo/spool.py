"""What was switched and is not in the log yet: a journal, and the spool of an incident.

A deployment writes down what it is about to do before it switches the folder, and
strikes it out when the event is in the log. A process that dies in between leaves the
entry, and the next command finds out from the folder's link which of the two happened.

A rollback that cannot write the log, for a full or read-only disk or a lock that is
never freed, leaves its entry there for good, to be recorded by the next command that
can. So the file is made when all is well and is written in place ever after: that needs
no space on the disk. It has two slots, so that a torn write leaves the older one.

A second copy of the file lies in the target, for a repository that cannot be written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltavc.codec.digest import sha256_hex
from deltavc.errors import DeltavcError, RepositoryLocked, RepositoryUnwritable
from deltavc.ids import DeploymentId, ObjectId
from deltavc.records import canonical
from deltavc.records.model import Record
from deltavc.records.ship import Deployment, Environment, Marks
from deltavc.store.files import sync_folder

__all__ = ["Entry", "Spool", "environments_with_spools", "spool_folder"]

FOLDER = "spool"
BESIDE = ".deltavc-spool"
SLOT = 64 << 10
_SLASH = "%"  # stands for '/' in file names; no environment's name has one


class Entry(Record, frozen=True):
    """A switch that the log does not know yet.

    Attributes:
        id: The deployment's id.
        deployment: The deployment itself, unless it is in the store already.
        before: The deployment that it follows.
        marks: The environment's marks after it; None where they stay as they are.
        marks_before: Id of the marks before it.
        definition: The environment as it was.
        summary: One line for people.
        tool: Which deltavc did it.
        host: On which machine.
        user: By which user.
        folder: What the target's link points at once it is done; None without a target
            or where nothing is served.
        linked: Whether there is a target, so that the link tells whether it happened.
    """

    id: DeploymentId
    deployment: Deployment
    before: DeploymentId | None
    definition: Environment
    summary: str
    tool: str
    marks: Marks | None = None
    marks_before: ObjectId | None = None
    host: str | None = None
    user: str | None = None
    folder: str | None = None
    linked: bool = False


class _Content(Record, frozen=True):
    sequence: int
    entries: tuple[Entry, ...] = ()
    target: str | None = None


def spool_folder(repository: Path) -> Path:
    """Returns the folder of the spools in a repository's own folder."""
    return repository / FOLDER


def environments_with_spools(repository: Path) -> list[str]:
    """Returns the environments that have a spool, by name."""
    try:
        names = [path.name for path in spool_folder(repository).iterdir()]
    except OSError:
        return []
    return sorted(name.replace(_SLASH, "/") for name in names if not name.startswith("."))


class Spool:
    """The spool of one environment.

    Args:
        repository: The repository's own folder.
        environment: The environment's name.
        target: The folder that it keeps in step, if any.
    """

    def __init__(self, repository: Path, environment: str, target: Path | None) -> None:
        self.environment = environment
        self.target = target
        self._own = spool_folder(repository) / environment.replace("/", _SLASH)

    @classmethod
    def found(cls, repository: Path, environment: str) -> Spool:
        """Returns the spool of an environment whose target is what the spool itself says."""
        spool = cls(repository, environment, None)
        content = _read(spool._own)
        if content is not None and content.target is not None:
            spool.target = Path(content.target)
        return spool

    @property
    def _places(self) -> list[Path]:
        beside = [] if self.target is None else [self.target / BESIDE]
        return [self._own, *beside]

    def prepare(self) -> None:
        """Makes the files, with all the space that they will ever need.

        Raises:
            RepositoryUnwritable: They cannot be made.
        """
        for path in self._places:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                content = _read(path)
                if content is None or content.target != self._target_text():
                    fresh = _Content(1, () if content is None else content.entries)
                    _make(path, self._with_target(fresh))
            except OSError as error:
                raise RepositoryUnwritable(
                    f"'{path}' cannot be made: {error.strerror}", path=str(path)
                ) from error

    def entries(self) -> list[Entry]:
        """Returns what is not in the log yet, in the order in which it was done."""
        found: dict[DeploymentId, Entry] = {}
        for path in self._places:
            content = _read(path)
            for entry in content.entries if content is not None else ():
                found.setdefault(entry.id, entry)
        return _ordered(list(found.values()))

    def write(self, entries: Sequence[Entry]) -> Path:
        """Puts entries in the place of those that are there, durably and in place.

        Args:
            entries: What is not in the log yet.

        Returns:
            The file that holds them.

        Raises:
            RepositoryUnwritable: None of the files could be written.
        """
        failure: Exception | None = None
        for path in self._places:
            try:
                _write(path, self._with_target(_Content(0, tuple(entries))))
            except (OSError, DeltavcError) as error:
                failure = error
            else:
                return path
        raise RepositoryUnwritable(
            f"neither the log nor the spool of '{self.environment}' can be written: {failure}",
            hint="free some space, or make the repository or the target writable",
        )

    def clear(self) -> None:
        """Strikes out all entries, wherever they are; what cannot be written keeps them."""
        for path in self._places:
            content = _read(path)
            if content is not None and content.entries:
                with contextlib.suppress(OSError, DeltavcError):
                    _write(path, self._with_target(_Content(0)))

    @contextlib.contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Keeps other processes from switching this environment meanwhile.

        Needs no space and no right to write: the kernel locks the file that is there.

        Args:
            timeout: Seconds to wait for another holder.

        Yields:
            Nothing.

        Raises:
            RepositoryLocked: Another process holds it for longer.
        """
        handle = self._open()
        if handle is None:
            yield  # an environment without a folder, in a repository that cannot be written
            return
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise RepositoryLocked(
                            f"environment '{self.environment}' is being switched by another"
                            f" process; waited {timeout:g} s",
                            environment=self.environment,
                        ) from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(handle)

    def _open(self) -> int | None:
        for path in self._places:
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            self._own.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(self._own, flags, 0o666)
        return None

    def _target_text(self) -> str | None:
        return None if self.target is None else str(self.target.absolute())

    def _with_target(self, content: _Content) -> _Content:
        return _Content(content.sequence, content.entries, self._target_text())


def _ordered(entries: list[Entry]) -> list[Entry]:
    """Returns entries so that each follows the one that it names; they form one chain."""
    ids = {entry.id for entry in entries}
    after: dict[DeploymentId | None, Entry] = {
        entry.before if entry.before in ids else None: entry for entry in entries
    }
    chain: list[Entry] = []
    step = after.pop(None, None)
    while step is not None:
        chain.append(step)
        step = after.pop(step.id, None)
    return chain


def _read(path: Path) -> _Content | None:
    """Returns what the newer whole slot of a file holds; None where there is no whole one."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        slots = [os.pread(handle, SLOT, 0), os.pread(handle, SLOT, SLOT)]
    except OSError:
        return None
    finally:
        os.close(handle)
    found = [content for content in map(_decode, slots) if content is not None]
    return max(found, key=lambda content: content.sequence, default=None)


def _decode(slot: bytes) -> _Content | None:
    digest, _, rest = slot.partition(b" ")
    body, newline, _ = rest.partition(b"\n")
    if not newline or sha256_hex(body).encode() != digest:
        return None
    try:
        return canonical.decode(body, _Content)
    except DeltavcError:
        return None


def _encode(content: _Content) -> bytes:
    body = canonical.encode(content)
    slot = b"%s %s\n" % (sha256_hex(body).encode(), body)
    if len(slot) > SLOT:
        raise RepositoryUnwritable("the spool has no room for more", hint="mend the repository")
    return slot.ljust(SLOT, b" ")


def _make(path: Path, content: _Content) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(handle, _encode(content) + b" " * SLOT)
        os.fsync(handle)
    finally:
        os.close(handle)
    beside.replace(path)
    sync_folder(path.parent)


def _write(path: Path, content: _Content) -> None:
    """Writes the older slot of a file, and waits until it is on disk."""
    now = _read(path)
    sequence = 1 if now is None else now.sequence + 1
    slot = _encode(_Content(sequence, content.entries, content.target))
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, slot, SLOT * ((sequence + 1) % 2))
        os.fdatasync(handle)
    finally:
        os.close(handle)
