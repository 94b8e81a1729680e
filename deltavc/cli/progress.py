"""Progress on stderr: one line that is redrawn on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from deltavc.cli import units
from deltavc.cli.terminal import cut, escape

__all__ = ["ProgressLine"]

REDRAW_SECONDS = 0.1
COUNTED = frozenset({"evidence", "export", "merge", "read", "report", "survey", "weigh"})
"""What is told in pieces; everything else is in bytes."""

PLAIN_SECONDS = 5.0
"""Without a terminal a line is written at most this often: quick commands stay silent."""


class ProgressLine:
    """Shows how far long work is; has the signature of :data:`deltavc.repo.session.Progress`.

    Args:
        stream: Where it is shown.
        mode: ``line`` redraws one line; ``plain`` writes a line now and then; ``none`` is silent.
        width: Columns of the terminal.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        mode: str,
        *,
        width: int = 80,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._mode = mode
        self._width = width
        self._clock = clock
        self._lock = threading.Lock()
        self._what = ""
        self._began = clock()
        self._shown_at = self._began
        self._visible = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tells how much is done; may be called from any thread, as often as wanted.

        Args:
            what: What is being done, such as ``rebuilding``.
            done: Bytes done, or pieces of what is counted.
            total: How much there is; 0 when nobody knows.
        """
        if self._mode == "none":
            return
        with self._lock:
            now = self._clock()
            if what != self._what:
                self._what, self._began, self._shown_at = what, now, now
            pause = REDRAW_SECONDS if self._mode == "line" else PLAIN_SECONDS
            if now - self._shown_at < pause:
                return
            self._shown_at = now
            self._show(self._word(done, total, now - self._began))

    def _word(self, done: int, total: int, elapsed: float) -> str:
        parts = [escape(self._what, one_line=True)]
        if self._what in COUNTED:
            of = f" of {units.count(total)}" if total > 0 else ""
            return f"{parts[0]}  {units.count(done)}{of}"
        if total > 0:
            parts.append(f"{min(100, 100 * done // total)} %")
            parts.append(f"{units.size(done)} of {units.size(total)}")
        else:
            parts.append(units.size(done))
        if elapsed > 0:
            parts.append(f"{units.size(int(done / elapsed))}/s")
        return "  ".join(parts)

    def _show(self, text: str) -> None:
        if self._mode == "line":
            self._stream.write("\r\x1b[K" + cut(text, max(1, self._width - 1)))
            self._visible = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Takes the line off the terminal, so that something else can be written."""
        with self._lock:
            if self._visible:
                self._visible = False
                self._stream.write("\r\x1b[K")
                self._stream.flush()
