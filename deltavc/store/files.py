"""Files of the store: read without trust, written beside and renamed.

A file in ``tmp/`` is locked (flock) by its writer for as long as it is open;
the kernel lets go when the writer dies, so that a sweep can tell a left-over
from work in progress.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deltavc.codec.digest import Buffer
from deltavc.errors import ObjectCorrupt, RepositoryUnwritable

__all__ = ["ReadFile", "StagedFile", "make_folder", "sweep", "sync_folder", "writing"]

AHEAD = 1 << 20  # bytes
READ_ONLY = 0o444  # objects never change; the umask takes its share


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses while writing into :class:`RepositoryUnwritable`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RepositoryUnwritable(
            f"'{path}' cannot be written: {reason}",
            path=str(path),
            reason=errno.errorcode.get(error.errno or 0, ""),
        ) from error


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk, so that a rename in it outlives a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents durably; one that exists is left as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


class ReadFile:
    """A regular file open for reading at given positions.

    Read with ``pread``, not mapped: a mapped file that somebody cuts short
    kills the process that touches it, and page by page costs more than it saves.

    Args:
        path: The file; a link, a pipe or a device is refused, without waiting for it.

    Raises:
        FileNotFoundError: There is no such file.
        ObjectCorrupt: It is not a regular file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ObjectCorrupt(
                f"'{path.name}' cannot be opened: {(error.strerror or '').lower()}", path=str(path)
            ) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise ObjectCorrupt(f"'{path.name}' is not a regular file", path=str(path))
        self.size = status.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly so many bytes from a position.

        Args:
            offset: The position.
            length: How many; never more than the file has.

        Returns:
            The bytes.

        Raises:
            ObjectCorrupt: The file is shorter, or cannot be read.
        """
        if length > self.size - offset:
            raise ObjectCorrupt(f"'{self.path.name}' ends too early", path=str(self.path))
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills a buffer from a position.

        Args:
            view: The buffer.
            offset: The position.

        Raises:
            ObjectCorrupt: The file is shorter, or cannot be read.
        """
        done = 0
        while done < view.nbytes:
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise ObjectCorrupt(
                    f"'{self.path.name}' cannot be read: {(error.strerror or '').lower()}",
                    path=str(self.path),
                ) from error
            if count == 0:
                raise ObjectCorrupt(f"'{self.path.name}' ends too early", path=str(self.path))
            done += count

    def sha256(self) -> str:
        """Returns the SHA-256 of the whole file in hex."""
        digest = hashlib.sha256()
        view = memoryview(bytearray(min(self.size, 1 << 20)))
        at = 0
        while at < self.size:
            piece = view[: min(view.nbytes, self.size - at)]
            self.read_into(piece, at)
            digest.update(piece)
            at += piece.nbytes
        return digest.hexdigest()


class _Ahead:
    """Flushes what was written so far while more is made, so that the last flush finds little.

    One flush at a time, in a thread of its own: 32 MB take 60 ms in one flush at the
    end, and under 1 ms there when they went out meanwhile.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._written = 0
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def wrote(self, count: int) -> None:
        """Notes written bytes, and starts a flush when they have become many."""
        self._written += count
        if self._written >= AHEAD and (self._thread is None or not self._thread.is_alive()):
            self._written = 0
            self._thread = threading.Thread(target=self._flush, name="deltavc-flush")
            self._thread.start()

    def wait(self) -> None:
        """Waits for the flush under way.

        Raises:
            OSError: One failed; the system tells that only once.
        """
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _flush(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS lacks the former
        except OSError as error:
            self._failure = error


class StagedFile:
    """A file that becomes visible whole, by a rename, or not at all.

    Args:
        folder: Where it is written; on the same file system as its target.
        prefix: First part of its name.

    Raises:
        RepositoryUnwritable: The folder cannot be written.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.path = folder / f"{prefix}-{os.getpid()}-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(self.path):
            make_folder(folder)
            fd = os.open(self.path, flags, READ_ONLY)
            self._file = os.fdopen(fd, "wb", buffering=1 << 18)
            self._ahead = _Ahead(fd)
            with suppress(OSError):  # a file system without locks: sweeps go by age alone
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: Buffer) -> None:
        """Appends bytes.

        Args:
            data: The bytes.

        Raises:
            RepositoryUnwritable: They cannot be written.
        """
        with writing(self.path):
            self._file.write(data)
        self._ahead.wrote(memoryview(data).nbytes)

    def publish(self, target: Path) -> None:
        """Flushes the file to disk and gives it its name, durably.

        Args:
            target: The name.

        Raises:
            RepositoryUnwritable: It cannot be written; the staged file is gone.
        """
        try:
            with writing(target):
                make_folder(target.parent)
                self._file.flush()
                self._ahead.wait()
                os.fsync(self._file.fileno())
                os.rename(self.path, target)  # noqa: PTH104 - one name for fault tests
                sync_folder(target.parent)
        except BaseException:
            self.discard()
            raise
        self._file.close()

    def discard(self) -> None:
        """Removes the file; does nothing if it was published."""
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            self._ahead.wait()  # its descriptor must not be another file's by then
        with suppress(OSError):
            self._file.close()


def sweep(folder: Path, age: float) -> list[Path]:
    """Removes files that no live writer holds and that have not changed for a while.

    Time is that of the file system, read off a file written now.

    Args:
        folder: The folder of staged files.
        age: Seconds since the last change.

    Returns:
        What was removed.

    Raises:
        RepositoryUnwritable: The folder cannot be written.
    """
    probe = StagedFile(folder, "now")
    now = probe.path.stat().st_mtime
    probe.discard()
    removed = []
    with writing(folder):
        for path in sorted(folder.iterdir()):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or now - status.st_mtime < age:
                continue
            if _is_free(path):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _is_free(path: Path) -> bool:
    """Tells whether no process holds the lock of a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(fd)
    return True
