"""Build beside, then rename: a reader sees the old folder or the new one, never half of one.

A folder NAME is built as ``.NAME.deltavc-XXXXXXXX`` beside it, locked (flock)
by its writer, and then put in its place in one step: a plain rename where
nothing is there, an exchange of both names where something is. What a killed
writer leaves behind is not locked any more, so the next writer removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from deltavc.errors import NameTaken, UnsafeFile
from deltavc.formats.writer_engine import unwritable

__all__ = [
    "Stage",
    "create_file",
    "settle",
    "stage_folder",
    "sync_file",
    "sync_folder",
    "sync_tree",
]

_MARK = ".deltavc-"
_OLD = ".old"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def create_file(path: Path) -> int:
    """Creates a file that is not there, mode 0644 less the umask.

    Args:
        path: Its path.

    Returns:
        A descriptor for reading and writing.

    Raises:
        RepositoryUnwritable: It cannot be created.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error


def sync_file(path: Path) -> None:
    """Flushes a regular file to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Flushes a folder's entries to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: Path) -> None:
    """Flushes all files and folders under a folder to disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            if (Path(folder) / name).is_symlink():
                continue
            sync_file(Path(folder) / name)
        sync_folder(Path(folder))


class Stage:
    """A folder that is being built beside its target.

    Attributes:
        path: Where it is built.
        target: What it will be.
    """

    def __init__(self, target: Path, *, replace: bool, durable: bool) -> None:
        self.target = target
        self._replace = replace
        self._durable = durable
        while True:
            self.path = target.with_name(f".{target.name}{_MARK}{secrets.token_hex(4)}")
            self.path.mkdir(mode=0o755)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(self._fd).st_ino == self.path.stat().st_ino:
                    return
            os.close(self._fd)  # another writer took it for a leftover before it was locked

    def publish(self) -> None:
        """Puts the folder in the place of the target.

        Raises:
            NameTaken: Something is there and ``replace`` was not asked.
        """
        if self._durable:
            sync_tree(self.path)
        try:
            self.path.rename(self.target)  # also takes the place of an empty folder
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if not self._replace or not self.target.is_dir():
                raise taken(self.target) from error
            old = self._swap()
            if self._durable:
                sync_folder(self.target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            if self._durable:
                sync_folder(self.target.parent)

    def _swap(self) -> Path:
        """Exchanges stage and target; returns where the old folder is now."""
        if exchange(self.path, self.target):
            return self.path
        old = self.path.with_name(self.path.name + _OLD)
        self.target.rename(old)
        try:
            self.path.rename(self.target)
        except OSError:
            old.rename(self.target)
            raise
        return old

    def discard(self) -> None:
        """Removes what was built."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._fd)


def taken(target: Path) -> NameTaken:
    """Returns the refusal for a target that exists."""
    return NameTaken(
        f"'{target}' exists and is not empty",
        hint="choose another folder, or overwrite it: --force",
        path=str(target),
    )


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    done = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextlib.contextmanager
def stage_folder(target: Path, *, replace: bool, durable: bool) -> Iterator[Stage]:
    """Makes a stage for a target and, unless it was published, removes it again.

    Args:
        target: The folder that is to be.
        replace: It may be there already.
        durable: Flush to disk before it takes its place.

    Yields:
        The stage; the caller fills it and calls :meth:`Stage.publish`.

    Raises:
        NameTaken: The target is there, and not to be replaced.
        UnsafeFile: The target is a symbolic link.
        RepositoryUnwritable: The system would not create, write or rename.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links
    made: list[Path] = []
    try:
        _look(target, replace=replace)
        made = _make_parents(target.parent)
        settle(target)
        stage = Stage(target, replace=replace, durable=durable)
    except OSError as error:
        _unmake(made)
        raise unwritable(target, error) from error
    done = False
    try:
        yield stage
        done = True
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if not done:
            stage.discard()
            _unmake(made)
        stage.close()


def _look(target: Path, *, replace: bool) -> None:
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise UnsafeFile(
            f"'{target}' is a symbolic link, which is not followed for writing",
            hint="give the folder that it points to",
            path=str(target),
        )
    if not stat.S_ISDIR(mode) or (not replace and any(target.iterdir())):
        raise taken(target)


def _make_parents(folder: Path) -> list[Path]:
    """Makes the missing folders above a target; returns them, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o755, exist_ok=True)
            made.append(path)
    except OSError:
        _unmake(made)
        raise
    return made


def _unmake(made: list[Path]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir()


def settle(target: Path) -> None:
    """Cleans up after writers of this target that were killed.

    Folders that a living writer has locked stay. Where the exchange had to be
    done in two renames and was cut between them, the old folder goes back.

    Args:
        target: The folder.

    Raises:
        RepositoryUnwritable: The system would not.
    """
    try:
        if not target.parent.is_dir():
            return
        prefix = f".{target.name}{_MARK}"
        for path in sorted(target.parent.iterdir()):
            if path.name.startswith(prefix) and not path.is_symlink() and path.is_dir():
                _settle_one(target, path)
    except OSError as error:
        raise unwritable(target, error) from error


def _settle_one(target: Path, path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.name.endswith(_OLD) and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
