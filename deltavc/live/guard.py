"""Who may look at the weights while they change.

Any number of readers, or one writer. A writer that waits keeps new readers out,
so that steady traffic cannot starve a switch; a thread that reads already may
begin to read again, so that nested requests cannot lock each other out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deltavc.errors import StateError, UsageError

__all__ = ["Guard"]


class Guard:
    """A lock for many readers and one writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # entered itself: Ctrl-C cannot part it from its 'with'
        self._changed = threading.Condition(self._lock)
        self._readers = 0
        self._writing = False
        self._waiting = 0
        self._mine = threading.local()

    @property
    def held_here(self) -> bool:
        """Whether the calling thread is reading."""
        return getattr(self._mine, "depth", 0) > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keeps writers out; waits while one writes or waits to."""
        entered = False
        try:
            with self._lock:
                while self._writing or (self._waiting and not self.held_here):
                    self._changed.wait()
                self._readers += 1
                self._mine.depth = getattr(self._mine, "depth", 0) + 1
                entered = True
            yield
        finally:
            if entered:
                with self._lock:
                    self._readers -= 1
                    self._mine.depth -= 1
                    self._changed.notify_all()

    @contextmanager
    def exclusive(self, timeout: float | None = None) -> Iterator[None]:
        """Keeps everybody else out, after those that read have ended.

        Args:
            timeout: Seconds to wait for them; None waits as long as it takes.

        Raises:
            UsageError: The calling thread is reading itself and would wait for ever.
            StateError: Somebody still read when the time was over.
        """
        self.refuse_reader()
        entered = False
        try:
            with self._lock:
                self._wait(timeout)
                self._writing = entered = True
            yield
        finally:
            if entered:
                with self._lock:
                    self._writing = False
                    self._changed.notify_all()

    def refuse_reader(self) -> None:
        """Refuses a thread that would wait for itself.

        Raises:
            UsageError: The calling thread is reading.
        """
        if self.held_here:
            raise UsageError(
                "a thread that is serving cannot switch the model that it serves",
                hint="leave the 'with live.serving()' block first, or switch from another thread",
            )

    def _wait(self, timeout: float | None) -> None:
        """Waits, under the lock, until nobody reads or writes; newcomers wait meanwhile."""
        end = None if timeout is None else time.monotonic() + timeout
        self._waiting += 1
        try:
            while self._writing or self._readers:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise StateError(
                        f"{self._readers} requests were still being served after {timeout:g} s",
                        hint="wait longer (timeout=SECONDS), or let the requests end first",
                        readers=self._readers,
                    )
                self._changed.wait(left)
        finally:
            self._waiting -= 1
            self._changed.notify_all()
