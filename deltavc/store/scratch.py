"""Buffers that are files without a name, for what is too much to be held in memory at once.

Their pages can be written out when memory is short, and are given up for good with the
last reference to the buffer. Nothing is left behind, however the process ends.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from deltavc.codec.room import heap

__all__ = ["FileRoom"]

LEAST = 1 << 24  # bytes; smaller buffers are in memory, which takes half the time to fill


class FileRoom:
    """Gives buffers: small ones in memory, large ones in files.

    Safe in several threads. Where the folder takes no file of the size, the buffer is in
    memory as well: room is set aside at once, so that a full disk shows here and not as
    a signal at some later write.

    Args:
        folder: Where the files go.
        least: Smallest length in bytes of a buffer that is a file.
    """

    def __init__(self, folder: Path, least: int = LEAST) -> None:
        self._folder = folder
        self._least = least

    def __call__(self, length: int) -> memoryview:
        """Returns a writable buffer of a length in bytes; its contents mean nothing."""
        if length < self._least:
            return heap(length)
        import tempfile

        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix="room-") as file:
                os.posix_fallocate(file.fileno(), 0, length)
                return memoryview(mmap.mmap(file.fileno(), length))
        except OSError:
            return heap(length)
