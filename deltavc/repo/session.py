"""What the surroundings give to the library: who acts, what time it is, how many threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Session", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is (0: unknown)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class Session:
    """The surroundings of a run, injected so that results can be reproduced.

    Attributes:
        actor: Who acts, ``name <mail>``, for commits and the event log.
        clock: Returns the time in milliseconds since 1970, UTC.
        threads: Worker threads for reading, encoding and rebuilding.
        progress: Told how far long work is.
        lock_timeout: Seconds to wait for another process's lock.
    """

    actor: str
    clock: Callable[[], int]
    threads: int = 2
    progress: Progress = no_progress
    lock_timeout: float = 30.0
