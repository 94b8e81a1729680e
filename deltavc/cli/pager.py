"""Paging: answers that are longer than the screen go through the reader's pager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

__all__ = ["DEFAULT_PAGER", "page", "pager_command"]

DEFAULT_PAGER = "less -FRX"


def pager_command(setting: str | None, environ: Mapping[str, str]) -> list[str] | None:
    """Returns the pager to run, or None for none.

    Args:
        setting: The setting ``ui.pager``, if there is one.
        environ: Environment: ``DELTAVC_PAGER`` before the setting, ``PAGER`` after it.

    Returns:
        The command in words; None when it is empty, ``cat``, or not installed.
    """
    import shlex
    import shutil

    text = environ.get("DELTAVC_PAGER")
    if text is None:
        text = setting
    if text is None:
        text = environ.get("PAGER", DEFAULT_PAGER)
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    if not words or words == ["cat"] or shutil.which(words[0]) is None:
        return None
    return words


def page(
    lines: Iterable[str], command: list[str] | None, height: int, write: Callable[[str], object]
) -> None:
    """Writes lines, through the pager once they are more than the screen holds.

    Args:
        lines: Rendered lines without their ends; read as they come, so that the first
            screen of a long answer does not wait for the last.
        command: The pager; None to write directly.
        height: Lines of the screen.
        write: Writes to the terminal.
    """
    source = iter(lines)
    if command is not None:
        first = list(islice(source, height))
        if len(first) == height:
            _feed(chain(first, source), command, write)
            return
        source = iter(first)
    for line in source:
        write(line + "\n")


def _feed(lines: Iterator[str], command: list[str], write: Callable[[str], object]) -> None:
    import subprocess

    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 (the reader's own)
    except OSError:
        for line in lines:
            write(line + "\n")
        return
    stdin = process.stdin
    assert stdin is not None
    try:
        for line in lines:
            stdin.write((line + "\n").encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        pass  # the reader has seen enough
    finally:
        with suppress(BrokenPipeError):
            stdin.close()
        _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Waits for the pager; Ctrl-C belongs to it as long as it shows something."""
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            continue
        return
