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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, cast

import xxhash

from deltavc.errors import DeltavcError, UnsafeFile
from deltavc.formats.files import MAX_FILES, open_regular, shown

__all__ = ["KINDS", "file_sizes", "file_sums"]

KINDS: dict[str, Callable[[], Any]] = {"sha256": hashlib.sha256, "xxh3": xxhash.xxh3_128}
"""The digests there are, by name."""

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
        threads: How many files to read at a time.

    Yields:
        Path and digests in hex by kind; None of a file that cannot be read.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, dict[str, str] | None]] = queue.SimpleQueue()
    stop = threading.Event()
    for path in paths:
        todo.put(path)

    def work() -> None:
        while not stop.is_set():
            try:
                path = todo.get_nowait()
            except queue.Empty:
                return
            done.put((path, _sums(folder / path, kinds, stop)))

    workers = [threading.Thread(target=work) for _ in range(min(max(threads, 1), len(paths)))]
    for worker in workers:
        worker.start()
    try:
        for _ in paths:
            yield done.get()
    finally:
        stop.set()  # of those who were interrupted: nobody waits for the rest
        for worker in workers:
            worker.join()


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
