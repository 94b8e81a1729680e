"""Rebuilding parameters into memory, by a few threads, and comparing memory with a rebuild.

A parameter is cut into ranges of rows that the workers take in turn, the largest
parameters first, so that no worker is left with a large one at the end. Each is
prepared (its deltas read and decoded) by whichever worker comes to it first, and
let go after its last range.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deltavc.delta.blas import one_blas_thread
from deltavc.delta.rebuild import Rebuild
from deltavc.delta.tensor import Bits
from deltavc.errors import ShapeMismatch
from deltavc.live.source import Form

__all__ = ["Job", "differing", "fill", "prepare"]

BLOCK = 1 << 21  # elements of a range: 4 MB of bf16, small against a switch and large to settle


class Job:
    """One parameter to rebuild.

    Args:
        form: What it must be.
        prepare: Reads its deltas.
        out: Where its bit patterns go, or what they are compared with; flat.
    """

    def __init__(self, form: Form, prepare: Callable[[], Rebuild], out: Bits) -> None:
        self.form = form
        self.out = out
        self._prepare = prepare
        self._rebuild: Rebuild | None = None
        self._lock = threading.Lock()
        rows = form.shape[0] if form.shape else 1
        self._columns = out.size // rows if rows else 0
        step = max(1, BLOCK // max(self._columns, 1))
        self.ranges = [(at, min(at + step, rows)) for at in range(0, rows, step)]
        self._left = len(self.ranges)

    def rebuild(self) -> Rebuild:
        """Returns the prepared sum, the same for all workers.

        Raises:
            ShapeMismatch: It would be a tensor of another form.
        """
        with self._lock:
            if self._rebuild is None:
                made = self._prepare()
                if made.dtype is not self.form.dtype or made.shape != self.form.shape:
                    found = Form(made.dtype, made.shape)
                    raise ShapeMismatch(
                        f"a parameter that must be {self.form} would be {found}",
                        expected=str(self.form),
                        found=str(found),
                    )
                self._rebuild = made
            return self._rebuild

    def place(self, start: int, stop: int) -> Bits:
        """Returns the memory of some rows."""
        return self.out[start * self._columns : stop * self._columns]

    def done(self) -> None:
        """Counts a range as finished; after the last one the deltas are let go."""
        with self._lock:
            self._left -= 1
            if not self._left:
                self._rebuild = None


def prepare(jobs: Sequence[Job], threads: int) -> None:
    """Prepares every job, so that filling them reads nothing from the store any more."""
    _each([(job, 0, 0) for job in jobs], lambda job, _start, _stop: job.rebuild(), threads)


def fill(jobs: Sequence[Job], threads: int) -> None:
    """Computes every job into its memory; the first error ends it.

    Args:
        jobs: What to compute.
        threads: Workers; the bits do not depend on it.
    """

    def work(job: Job, start: int, stop: int) -> None:
        job.rebuild().compute(start, stop, job.place(start, stop))
        job.done()

    _each(_ranges(jobs), work, threads)


def differing(jobs: Sequence[Job], threads: int) -> list[Job]:
    """Returns the jobs whose memory does not hold what they compute, in their order.

    Args:
        jobs: What to compute and compare.
        threads: Workers.
    """
    wrong: set[int] = set()

    def work(job: Job, start: int, stop: int) -> None:
        if id(job) not in wrong:
            mine = job.place(start, stop)
            expected = np.empty_like(mine)
            job.rebuild().compute(start, stop, expected)
            if not np.array_equal(expected, mine):
                wrong.add(id(job))
        job.done()

    _each(_ranges(jobs), work, threads)
    return [job for job in jobs if id(job) in wrong]


def _ranges(jobs: Sequence[Job]) -> list[tuple[Job, int, int]]:
    largest_first = sorted(jobs, key=lambda job: -job.out.size)
    return [(job, start, stop) for job in largest_first for start, stop in job.ranges]


def _each(
    tasks: Sequence[tuple[Job, int, int]],
    work: Callable[[Job, int, int], object],
    threads: int,
) -> None:
    """Does all tasks; after an error, or an interrupt, workers end with the task they are at."""
    if not tasks:
        return
    todo, lock, stopped = iter(tasks), threading.Lock(), threading.Event()

    def take() -> Iterator[tuple[Job, int, int]]:
        while not stopped.is_set():
            with lock:
                task = next(todo, None)
            if task is None:
                return
            yield task

    def worker() -> None:
        try:
            for job, start, stop in take():
                work(job, start, stop)
        except BaseException:
            stopped.set()
            raise

    count = min(max(threads, 1), len(tasks))
    with one_blas_thread():
        if count == 1:
            worker()
            return
        with ThreadPoolExecutor(count, thread_name_prefix="deltavc-live") as pool:
            try:
                futures = [pool.submit(worker) for _ in range(count)]
                for future in futures:
                    future.result()
            finally:
                stopped.set()
