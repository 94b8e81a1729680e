"""Room for buffers as large as a parameter: memory, or files that the system may put away.

Code that needs such a buffer asks a *room* for it. The usual one is memory. Where
several of them must be at hand at once, as in a merge of whole models, it is a
file without a name (see :meth:`deltavc.store.ObjectStore.room`).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Room", "heap"]

Room = Callable[[int], memoryview]
"""Returns a writable buffer of a length in bytes, which is nobody else's as long as it is held."""

_CLEARED = 1 << 22  # bytes; smaller ones are cleared, which costs less than importing NumPy


def heap(length: int) -> memoryview:
    """Returns a buffer in memory; a large one without the cost of clearing it."""
    if length < _CLEARED:
        return memoryview(bytearray(length))
    import numpy as np

    return np.empty(length, dtype=np.uint8).data
