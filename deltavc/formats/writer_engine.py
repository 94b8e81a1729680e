"""The engine that fills files: copies what is unchanged, computes what is not.

Two kinds of work come off one queue: runs of bytes that the kernel copies from
file to file, and computed tensors in blocks of about 8 MiB of rows. Each worker
computes a block into its own buffer, a few rows at a time where that costs
nothing, takes its checksum while it is in the cache, and writes it in pieces of
256 KiB. A tensor is prepared (read, decoded) by whichever worker is free, so that
this overlaps with computing; few prepared tensors are alive at a time, so memory
stays near the largest one.

The workers are Python threads: everything long (copying, computing, hashing,
writing) happens outside the interpreter lock.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import Running64, fast64
from deltavc.errors import BaseUnavailable, InternalError, RepositoryUnwritable
from deltavc.formats.writer_plan import Copied, Planned, RowSource, Slot

__all__ = [
    "BLOCK",
    "Checksums",
    "Computed",
    "Run",
    "Sink",
    "Sources",
    "Work",
    "block_rows",
    "copy_range",
    "perform",
    "split",
    "unwritable",
]

BLOCK = 8 << 20
PIECE = 256 << 10  # one pwrite; larger ones are slow where the host takes freed memory back
CACHED = 512 << 10  # computed, hashed and written at a time where that costs nothing
COPY_STEP = 32 << 20  # one copy task, so that a failure or an interrupt is soon seen
READY = 2  # prepared tensors alive at a time, when they are large
READY_BYTES = 128 << 20  # below this, as many as there are workers

Progress = Callable[[int], None]
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def unwritable(path: Path, error: OSError) -> RepositoryUnwritable:
    """Returns the refusal for a file or folder that the system would not write."""
    reason = (error.strerror or str(error)).lower()
    return RepositoryUnwritable(f"'{path}' cannot be written: {reason}", path=str(path))


@dataclass(frozen=True)
class Checksums:
    """xxh3-64 of each block of a computed tensor.

    Attributes:
        block: Bytes of a block; the last one may be shorter.
        sums: One checksum a block.
    """

    block: int
    sums: tuple[int, ...]


def block_rows(row_bytes: int) -> int:
    """Returns how many rows of this length make a block."""
    return max(1, BLOCK // max(1, row_bytes))


class Sources:
    """The files that bytes are copied from, opened once each."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def open(self, path: Path) -> int:
        """Returns a descriptor of a regular file, for reading at offsets.

        Args:
            path: The file; symbolic links are followed.

        Returns:
            The descriptor, which stays this object's.

        Raises:
            BaseUnavailable: It cannot be opened, or is not a regular file.
        """
        with self._lock:
            if path not in self._files:
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise BaseUnavailable(
                        f"'{path}' cannot be read: {reason}", path=str(path)
                    ) from error
                self._files[path] = fd
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise BaseUnavailable(f"'{path}' is not a regular file", path=str(path))
            return self._files[path]

    def close(self) -> None:
        """Closes all of them."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()


class Sink:
    """A file that is being filled, at offsets, from several threads.

    Args:
        path: Its path, for messages.
        fd: Its descriptor, open for writing; stays the caller's.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def write(self, offset: int, data: memoryview) -> None:
        """Writes bytes at an offset.

        Args:
            offset: Where.
            data: The bytes.

        Raises:
            RepositoryUnwritable: The system would not.
        """
        at, end = 0, data.nbytes
        try:
            while at < end:
                at += os.pwrite(self.fd, data[at : at + PIECE], offset + at)
        except OSError as error:
            raise unwritable(self.path, error) from error


@dataclass(frozen=True)
class Run:
    """Bytes to copy from file to file."""

    sink: Sink
    offset: int
    source: Copied


@dataclass(eq=False)
class Computed:
    """A tensor to compute into its place."""

    sink: Sink
    offset: int
    tensor: Planned
    source: RowSource | None = None
    sums: list[int] = field(default_factory=list)
    left: int = 0  # blocks that are not done
    rows: int = 0  # of the source, which may see more of them than the first dimension has

    @property
    def row_bytes(self) -> int:
        """Length of one row."""
        rows = self.rows or (self.tensor.shape[0] if self.tensor.shape else 1)
        return self.tensor.nbytes // rows if rows else 0

    def checksums(self) -> Checksums:
        """Returns the checksums of the blocks, once all are done."""
        return Checksums(block_rows(self.row_bytes) * self.row_bytes, tuple(self.sums))


@dataclass
class Work:
    """All that is to be done, over all files.

    Attributes:
        runs: Bytes to copy.
        computed: Tensors to compute.
        touched: Whether any byte may have been written.
    """

    runs: list[Run] = field(default_factory=list)
    computed: list[Computed] = field(default_factory=list)
    touched: bool = False

    def add(self, sink: Sink, slots: Iterable[Slot]) -> None:
        """Adds tensors of one file, neighbours that are copied as one run."""
        runs, computed = split(sink, slots)
        self.runs += runs
        self.computed += computed


def split(sink: Sink, slots: Iterable[Slot]) -> tuple[list[Run], list[Computed]]:
    """Returns what is to be copied, in as few runs as may be, and what to compute."""
    runs: list[Run] = []
    computed: list[Computed] = []
    for slot in slots:
        source = slot.tensor.source
        if not slot.tensor.nbytes:
            continue
        if not isinstance(source, Copied):
            computed.append(Computed(sink, slot.offset, slot.tensor))
            continue
        if runs:
            last, before = runs[-1], runs[-1].source
            if (
                before.path == source.path
                and before.offset + before.nbytes == source.offset
                and last.offset + before.nbytes == slot.offset
            ):
                joined = Copied(before.path, before.offset, before.nbytes + source.nbytes)
                runs[-1] = Run(sink, last.offset, joined)
                continue
        runs.append(Run(sink, slot.offset, source))
    return runs, computed


def copy_range(sources: Sources, run: Run) -> None:
    """Copies a run inside the kernel, or through a buffer where it will not.

    Args:
        sources: Open sources.
        run: What to copy.

    Raises:
        BaseUnavailable: The source cannot be read, or is too short.
        RepositoryUnwritable: The target cannot be written.
    """
    fd = sources.open(run.source.path)
    at, end = 0, run.source.nbytes
    while at < end:
        step = min(COPY_STEP, end - at)
        try:
            done = os.copy_file_range(
                fd, run.sink.fd, step, run.source.offset + at, run.offset + at
            )
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise unwritable(run.sink.path, error) from error
            done = _copy_by_hand(fd, run, at, min(BLOCK, step))
        if done <= 0:
            raise BaseUnavailable(
                f"'{run.source.path}' is shorter than it was",
                path=str(run.source.path),
                expected=run.source.offset + end,
            )
        at += done


def _copy_by_hand(fd: int, run: Run, at: int, step: int) -> int:
    try:
        data = os.pread(fd, step, run.source.offset + at)
    except OSError as error:
        raise BaseUnavailable(
            f"'{run.source.path}' cannot be read: {(error.strerror or '').lower()}",
            path=str(run.source.path),
        ) from error
    run.sink.write(run.offset + at, memoryview(data))
    return len(data)


Task = Callable[[NDArray[np.uint8]], int]  # takes the worker's buffer, returns bytes done


class _Schedule:
    """Hands out tasks; knows how many prepared tensors are alive."""

    def __init__(self, work: Work, sources: Sources, threads: int) -> None:
        self._work = work
        self._sources = sources
        self._threads = threads
        self._lock = threading.Condition()
        self._waiting = deque(work.computed)
        self._blocks: deque[tuple[Computed, int]] = deque()
        self._runs = deque(_pieces(work.runs))
        self._alive = 0
        self._alive_bytes = 0
        self.error: BaseException | None = None
        self.stopped = False

    def stop(self, error: BaseException | None = None) -> None:
        """Lets every worker end after its task; the first error is kept."""
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self.stopped = True
            self._lock.notify_all()

    def next(self, *, copies_first: bool) -> Task | None:
        """Returns the next task, or None when there will be none; waits for blocks.

        One worker copies first while the others compute: two copies into one
        file would only wait for each other.
        """
        with self._lock:
            while not self.stopped:
                if copies_first and self._runs:
                    return self._copy(self._runs.popleft())
                if self._waiting and self._may_prepare(self._waiting[0].tensor.nbytes):
                    item = self._waiting.popleft()
                    self._alive += 1
                    self._alive_bytes += item.tensor.nbytes
                    return self._prepare(item)
                if self._blocks:
                    return self._compute(*self._blocks.popleft())
                if self._runs:
                    return self._copy(self._runs.popleft())
                if not self._alive:
                    return None
                self._lock.wait()
            return None

    def _may_prepare(self, nbytes: int) -> bool:
        small = self._alive_bytes + nbytes <= READY_BYTES
        return self._alive < (max(READY, self._threads) if small else READY)

    def _copy(self, run: Run) -> Task:
        def task(_buffer: NDArray[np.uint8]) -> int:
            self._sources.open(run.source.path)  # nothing is touched when the source is gone
            self._work.touched = True
            copy_range(self._sources, run)
            return run.source.nbytes

        return task

    def _prepare(self, item: Computed) -> Task:
        def task(_buffer: NDArray[np.uint8]) -> int:
            prepare = item.tensor.source
            assert not isinstance(prepare, Copied)
            source = prepare()
            planned = item.tensor
            if source.dtype is not planned.dtype or tuple(source.shape) != tuple(planned.shape):
                raise InternalError(f"'{planned.name}' was prepared as another kind of tensor")
            item.rows = source.rows
            count = -(-source.rows // block_rows(item.row_bytes))
            item.source, item.left, item.sums = source, count, [0] * count
            with self._lock:
                self._blocks.extend((item, index) for index in range(count))
                self._lock.notify_all()
            return 0

        return task

    def _compute(self, item: Computed, index: int) -> Task:
        def task(buffer: NDArray[np.uint8]) -> int:
            self._work.touched = True
            done = compute_block(item, index, buffer)
            with self._lock:
                item.left -= 1
                if not item.left:
                    item.source = None
                    self._alive -= 1
                    self._alive_bytes -= item.tensor.nbytes
                    self._lock.notify_all()
            return done

        return task


def compute_block(item: Computed, index: int, buffer: NDArray[np.uint8]) -> int:
    """Computes one block of a tensor into its place; returns its length.

    A source that says ``in_cache`` costs no more a few rows at a time: those are
    hashed and written while they are in the second cache.
    """
    source, rows = item.source, block_rows(item.row_bytes)
    assert source is not None
    first = index * rows
    last = min(source.rows, first + rows)
    step = rows
    if getattr(source, "in_cache", False):
        step = max(1, CACHED // item.row_bytes)
    digest = Running64()
    for start in range(first, last, step):
        stop = min(last, start + step)
        nbytes = (stop - start) * item.row_bytes
        out = buffer[:nbytes] if nbytes <= buffer.size else np.empty(nbytes, dtype=np.uint8)
        source.compute(start, stop, out.view(item.tensor.dtype.bits))
        digest.update(out.data)
        item.sink.write(item.offset + start * item.row_bytes, out.data)
    item.sums[index] = digest.value()
    return (last - first) * item.row_bytes


def _pieces(runs: Sequence[Run]) -> Iterable[Run]:
    for run in runs:
        for at in range(0, run.source.nbytes, COPY_STEP):
            length = min(COPY_STEP, run.source.nbytes - at)
            piece = Copied(run.source.path, run.source.offset + at, length)
            yield Run(run.sink, run.offset + at, piece)


def perform(work: Work, *, threads: int = 2, progress: Progress | None = None) -> None:
    """Does all the work, or raises the first error after every worker has ended.

    Args:
        work: What to do.
        threads: Workers.
        progress: Is told the number of bytes finished since the last call,
            by one worker at a time.

    Raises:
        BaseUnavailable: A source cannot be read.
        RepositoryUnwritable: A target cannot be written.
    """
    sources = Sources()
    schedule = _Schedule(work, sources, threads)
    reporting = threading.Lock()

    def worker(number: int) -> None:
        buffer = np.empty(BLOCK if work.computed else 0, dtype=np.uint8)
        try:
            while task := schedule.next(copies_first=number == 0):
                done = task(buffer)
                if progress is not None and done:
                    with reporting:
                        progress(done)
        except BaseException as error:  # carried to the caller's thread, raised there
            schedule.stop(error)

    count = max(1, threads)
    helpers = [
        threading.Thread(target=worker, args=(number,), name=f"deltavc-writer-{number}")
        for number in range(count)
    ]
    try:
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
    finally:
        schedule.stop()
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
        sources.close()
    if schedule.error is not None:
        raise schedule.error


def check_blocks(data: Any, sums: Checksums) -> bool:
    """Tells whether a tensor's bytes are those that were written."""
    view = memoryview(data).cast("B")
    found = tuple(fast64(view[at : at + sums.block]) for at in range(0, view.nbytes, sums.block))
    return found == sums.sums
