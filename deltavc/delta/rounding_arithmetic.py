"""The state of the processor and of torch that certified rounding stands on.

Error bounds assume IEEE arithmetic: rounding to nearest, subnormal numbers
kept. Both are switches of a thread, and a training script may have turned
them. Tiles also want one thread each, since the rebuild brings its own.
:func:`plain_arithmetic` sees to this for as long as a computation lasts, and
puts back what it found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deltavc.errors import InternalError

__all__ = ["flushes_subnormals", "plain_arithmetic", "rounds_to_nearest"]

_lock = threading.Lock()
_inside = threading.local()
_active = 0
_outside = 1  # torch's thread count when no computation was under way


def flushes_subnormals() -> bool:
    """Tells whether this thread's processor takes or gives subnormal numbers as zero."""
    smallest_normal, smallest = 2.2250738585072014e-308, 5e-324
    return smallest_normal * float("0.5") == 0.0 or smallest * float("1") == 0.0


def rounds_to_nearest() -> bool:
    """Tells whether this thread's processor rounds to nearest."""
    one, little = float("1"), float("1e-30")
    return one + little == one and one - little == one


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Gives the calling thread IEEE arithmetic and one torch thread, then restores it.

    Raises:
        InternalError: The processor keeps flushing subnormals or rounds
            another way, so that no result could be certified.
    """
    if getattr(_inside, "depth", 0):
        yield
        return
    flushed = flushes_subnormals()
    if flushed:
        torch.set_flush_denormal(False)
    try:
        if flushes_subnormals() or not rounds_to_nearest():
            raise InternalError("this thread's floating-point arithmetic is not IEEE's")
        with _one_thread():
            yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Makes torch use one thread in the calling one.

    The count is kept for each thread, but a thread that is new takes over
    the last count that any thread set. One that starts while another computes
    would take its 1 for its own, hence the count from before them all.
    """
    global _active, _outside
    _inside.depth = 1
    with _lock:
        mine = torch.get_num_threads()
        if _active == 0:
            _outside = mine
        elif mine == 1:
            mine = _outside
        _active += 1
        if mine != 1:
            torch.set_num_threads(1)
    try:
        yield
    finally:
        _inside.depth = 0
        with _lock:
            _active -= 1
            if mine != 1:
                torch.set_num_threads(mine)
