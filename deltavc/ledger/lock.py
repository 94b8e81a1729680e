"""One process at a time changes the repository.

The lock is a ``flock`` on a file that is never removed: the kernel frees it when
its holder ends, however that ends, so nothing is left that blocks the next
command. What the file holds is for messages only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deltavc.errors import InternalError, RepositoryLocked, RepositoryUnwritable

__all__ = ["RepositoryLock", "is_held"]

_SHORTEST_WAIT = 0.002  # seconds between two tries; doubles up to the longest
_LONGEST_WAIT = 0.05
_INFO_BYTES = 4096

_held: dict[tuple[int, int], tuple[int, int]] = {}
"""(device, inode) of locks held by this process, to the thread that holds it and the handle."""


def is_held(path: Path) -> bool:
    """Tells whether this thread holds a lock.

    Args:
        path: The lock file.

    Returns:
        Whether it does.
    """
    try:
        found = path.stat()
    except OSError:
        return False
    return _held.get((found.st_dev, found.st_ino), (None,))[0] == threading.get_ident()


class RepositoryLock:
    """The right to change a repository, as a context manager.

    Another thread of the same process waits like another process; the same thread
    asking twice would wait for itself and is refused as a bug.

    Args:
        path: The lock file; made if it is missing, never removed.
        owner: Who takes it, for the messages of those who wait: the command.
        timeout: Seconds to wait for another holder.
    """

    def __init__(self, path: Path, owner: str, timeout: float = 30.0) -> None:
        self.path = path
        self.owner = owner
        self.timeout = timeout
        self._key: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            RepositoryLocked: Another holder kept it for longer than the timeout.
            RepositoryUnwritable: The lock file cannot be opened for writing.
            InternalError: This thread holds it already.
        """
        handle = self._open()
        try:
            found = os.fstat(handle)
            key = (found.st_dev, found.st_ino)
            if _held.get(key, (None,))[0] == threading.get_ident():
                raise InternalError(f"the lock '{self.path}' is taken twice by one thread")
            self._wait(handle)
        except BaseException:
            os.close(handle)
            raise
        _held[key] = (threading.get_ident(), handle)
        self._key = key
        self._describe(handle)

    def release(self) -> None:
        """Frees the lock; one that is not held is left alone."""
        if self._key is None:
            return
        _, handle = _held.pop(self._key)
        self._key = None
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
        fcntl.flock(handle, fcntl.LOCK_UN)  # also where a forked child still has the handle
        os.close(handle)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            handle = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise RepositoryUnwritable(
                f"the lock file '{self.path}' cannot be opened: {error.strerror}",
                path=str(self.path),
            ) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RepositoryUnwritable(f"the lock '{self.path}' is not a regular file")
        return handle

    def _wait(self, handle: int) -> None:
        deadline = time.monotonic() + self.timeout
        pause = _SHORTEST_WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._refusal(handle) from None
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_WAIT)
            except OSError as error:
                raise RepositoryUnwritable(
                    f"the lock '{self.path}' cannot be taken: {error.strerror}",
                    hint="the file system must support flock",
                ) from error
            else:
                return

    def _describe(self, handle: int) -> None:
        """Writes who holds the lock. The file's own time says since when."""
        info = json.dumps({"command": self.owner[:500], "pid": os.getpid()}).encode()
        with contextlib.suppress(OSError):  # a full disk must not stop a rollback
            os.ftruncate(handle, 0)
            os.pwrite(handle, info, 0)

    def _refusal(self, handle: int) -> RepositoryLocked:
        context: dict[str, Any] = {"timeout": self.timeout}
        who = "another process"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            info = json.loads(os.pread(handle, _INFO_BYTES, 0))
            since = datetime.fromtimestamp(os.fstat(handle).st_mtime, UTC)
            holder = {"pid": int(info["pid"]), "command": str(info["command"])}
            context |= holder | {"since": since.strftime("%Y-%m-%dT%H:%M:%SZ")}
            who = f"process {holder['pid']} ('{holder['command']}') since {context['since']}"
        return RepositoryLocked(
            f"the repository is locked by {who}; waited {self.timeout:g} s", **context
        )


def _forget_after_fork() -> None:
    """Closes a parent's locks in its child, so that they end with the parent alone."""
    for _, handle in _held.values():
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
