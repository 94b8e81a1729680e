"""One thread a matrix product, while several workers compute side by side.

A BLAS splits even small products among all cores and its threads wait for each
other spinning. With two workers, or with anything else on the machine, they
wait for threads that do not run: a QR of 256 x 256 takes 220 ms instead of 2,
and finding low rank takes most of a commit's time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_inside = 0
_limits: threadpool_limits | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Makes every BLAS compute on the calling thread alone.

    The count is the whole process's. The first to enter sets it and the last to
    leave puts back what was there, so that uses may nest and overlap.
    """
    global _inside, _limits
    with _lock:
        if _inside == 0:
            _limits = threadpool_limits(1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _limits is not None:
                _limits.restore_original_limits()
