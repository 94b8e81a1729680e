"""Sizes and digests of the files of a folder, several at a time.

Neither torch nor NumPy is imported here: a rollback checks what it goes back to.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import xxhash

from deltavc.errors import DeltavcError, UnsafeFile
from deltavc.formats.files import MAX_FILES, open_regular, shown

__all__ = ["KINDS", "file_sizes", "file_sums"]

PIECE = 64 << 20
"""A longer file is hashed in pieces of this size, several at a time, and then their digests:
one file of 2 GB would keep one core busy while an incident waits."""

BUFFER = 1 << 20  # stays in the cache between reading and hashing


def file_sizes(folder: Path) -> dict[str, int | None]:
    """Returns the size of each file of a folder, hidden names left out.

    Linked folders are not entered, so no path leads out of the folder.

    Args:
        folder: The folder.

    Returns:
        Relative POSIX path to bytes; None of what is no regular file.

    Raises:
        UnsafeFile: It cannot be listed, or holds too many files.
    """
    found: dict[str, int | None] = {}
    try:
        for path, entry in _walk(folder, ""):
            info = entry.stat(follow_symlinks=False)
            found[path] = info.st_size if stat.S_ISREG(info.st_mode) else None
            if len(found) > MAX_FILES:
                raise UnsafeFile(
                    f"'{shown(folder)}' holds more than {MAX_FILES} files",
                    hint="give a folder that holds one model",
                )
    except OSError as error:
        raise UnsafeFile(
            f"'{shown(folder)}' cannot be listed: {error.strerror}",
            hint="check the path and its permissions",
            path=str(folder),
        ) from error
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder / prefix) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def file_sums(
    folder: Path, paths: Collection[str], kinds: Collection[str], threads: int
) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yields the digests of files as they are ready; they are begun in the order given.

    Args:
        folder: The folder.
        paths: The files, relative to it.
        kinds: Which of :data:`KINDS`.
        threads: How many files, or with xxh3 alone pieces of files, to read at a time.

    Yields:
        Path and digests in hex by kind; None of a file that cannot be read.
    """
    todo: queue.SimpleQueue[tuple[str, int | None]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, int | None, Any]] = queue.SimpleQueue()
    stop = threading.Event()
    waiting: dict[str, int] = {}
    for path in paths:
        pieces = _pieces(folder / path) if tuple(kinds) == ("xxh3",) else 1
        waiting[path] = pieces
        for piece in [None] if pieces == 1 else range(pieces):
            todo.put((path, piece))

    def work() -> None:
        while not stop.is_set():
            try:
                path, piece = todo.get_nowait()
            except queue.Empty:
                return
            place = folder / path
            found = _sums(place, kinds, stop) if piece is None else _piece(place, piece)
            done.put((path, piece, found))

    count = min(max(threads, 1), sum(waiting.values()))
    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield from _gathered(waiting, done)
    finally:
        stop.set()  # of those who were interrupted: nobody waits for the rest
        for worker in workers:
            worker.join()


def _gathered(
    waiting: dict[str, int], done: queue.SimpleQueue[tuple[str, int | None, Any]]
) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yields each file once all of its pieces are there."""
    pieces: dict[str, dict[int, bytes | None]] = {}
    for _ in range(sum(waiting.values())):
        path, piece, found = done.get()
        if piece is None:
            yield path, found
            continue
        here = pieces.setdefault(path, {})
        here[piece] = found
        if len(here) == waiting[path]:
            digests = [here[at] for at in range(len(here))]
            whole = None if None in digests else {"xxh3": _joined(digests)}
            yield path, whole


def _pieces(path: Path) -> int:
    """Returns of how many pieces a file is; 1 for what is small, or cannot be looked at."""
    try:
        size = path.stat().st_size
    except OSError:
        return 1
    return max(1, -(-size // PIECE))


def _joined(digests: Sequence[bytes | None]) -> str:
    return xxhash.xxh3_128_hexdigest(b"".join(d for d in digests if d is not None))


class _PieceSum:
    """xxh3 of a file that comes in order: of its bytes, or of its pieces' digests if it is long."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._inner, self._room = xxhash.xxh3_128(), PIECE

    def update(self, data: memoryview) -> None:
        """Takes the next bytes."""
        while data:
            if not self._room:
                self._digests.append(self._inner.digest())
                self._inner, self._room = xxhash.xxh3_128(), PIECE
            part = data[: self._room]
            self._inner.update(part)
            self._room -= len(part)
            data = data[len(part) :]

    def hexdigest(self) -> str:
        """Returns the digest of all that came."""
        if not self._digests:
            return self._inner.hexdigest()
        return _joined([*self._digests, self._inner.digest()])


KINDS: dict[str, Callable[[], Any]] = {"sha256": hashlib.sha256, "xxh3": _PieceSum}
"""The digests there are, by name."""


def _piece(path: Path, number: int) -> bytes | None:
    """Returns the digest of one piece of a file; None if it cannot be read."""
    hasher, at = xxhash.xxh3_128(), number * PIECE
    end, buffer = at + PIECE, memoryview(bytearray(BUFFER))
    try:
        with open_regular(path) as (file, _):
            while at < end and (count := os.preadv(file.fileno(), [buffer[: end - at]], at)):
                hasher.update(buffer[:count])
                at += count
    except (DeltavcError, OSError):
        return None
    return hasher.digest()


def _sums(path: Path, kinds: Collection[str], stop: threading.Event) -> dict[str, str] | None:
    hashers = {kind: KINDS[kind]() for kind in kinds}
    buffer = memoryview(bytearray(BUFFER))
    try:
        with open_regular(path) as (file, _):
            reader = cast("io.BufferedReader", file)
            while (count := reader.readinto(buffer)) and not stop.is_set():
                for hasher in hashers.values():
                    hasher.update(buffer[:count])
    except (DeltavcError, OSError):
        return None
    return {kind: hasher.hexdigest() for kind, hasher in hashers.items()}
