"""The one place where an exception becomes an exit code, a slug, a sentence and a hint."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from deltavc.errors import DeltavcError, InternalError, RepositoryUnwritable
from deltavc.errors import UsageError as LibraryUsageError

__all__ = ["INTERRUPTED", "Failure", "describe"]

INTERRUPTED = 130
MAX_MESSAGE = 600
MOST_CONFLICTS = 5

_UNWRITABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


@dataclass(frozen=True)
class Failure:
    """A refusal as people and documents see it."""

    slug: str
    message: str
    hint: str
    exit_code: int
    context: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """Returns the ``error`` object of the envelope."""
        from deltavc.cli.document import plain

        return {
            "slug": self.slug,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
            "context": plain(self.context),
        }


def describe(error: BaseException, argv: Sequence[str] = (), verb: str = "") -> Failure:
    """Describes an exception.

    Args:
        error: Whatever ended the command, but for a closed pipe.
        argv: The command line, for hints that can be pasted.
        verb: The verb that ran, for the report of a bug.

    Returns:
        What to tell.
    """
    if isinstance(error, DeltavcError):
        context = {key: _tame(value) for key, value in error.context.items()}
        return Failure(
            error.slug,
            _short(error.message),
            error.hint,
            error.exit_code,
            context,
            tuple(_conflict_lines(context.get("conflicts"))),
        )
    if isinstance(error, click.ClickException):
        return _from_click(error, argv)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure("interrupted", "interrupted", "", INTERRUPTED)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        where = f"'{error.filename}' cannot be written" if error.filename else "writing failed"
        return Failure(
            RepositoryUnwritable.slug,
            f"{where}: {_UNWRITABLE[error.errno]}",
            RepositoryUnwritable.default_hint,
            RepositoryUnwritable.exit_code,
            {"path": _tame(error.filename), "errno": errno.errorcode[error.errno]},
        )
    return _bug(error, verb)


def _conflict_lines(rows: Any) -> Iterator[str]:
    """Yields a line for each of the first conflicts of a merge."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return
    cells = []
    for row in rows[:MOST_CONFLICTS]:
        told = [str(row.get("reason", ""))]
        if row.get("cosine") is not None:
            told = [f"cosine {row['cosine']:.2f}"]
        if row.get("opposed") is not None:
            told.append(f"sign conflicts {row['opposed']:.0%}")
        if row.get("parts"):
            told.append(", ".join(row["parts"][:MOST_CONFLICTS]))
        cells.append((str(row.get("name", "")), *told))
    width = max((len(name) for name, *_ in cells), default=0)
    yield from (f"{name.ljust(width)}  {'  '.join(told)}" for name, *told in cells)
    if len(rows) > len(cells):
        yield f"... {len(rows) - len(cells)} more (--json lists all)"


def _short(message: str) -> str:
    """Returns a message that fits a screen, whatever a caller put into it."""
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"


def _bug(error: BaseException, verb: str) -> Failure:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = "" if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
    subject = f"'{verb}'" if verb else "the command"
    return Failure(
        InternalError.slug,
        f"{subject} met a bug in deltavc",
        "see where with DELTAVC_DEBUG=1; " + InternalError.default_hint,
        InternalError.exit_code,
        {"exception": type(error).__name__, "text": str(error)[:500], "place": place},
    )


def _tame(value: Any) -> Any:
    """Returns a context value that JSON can hold, whatever a caller put there."""
    from deltavc.cli.document import plain

    try:
        return plain(value)
    except TypeError:
        return str(value)


def _from_click(error: click.ClickException, argv: Sequence[str]) -> Failure:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = "deltavc" if context is None else context.command_path
    hint = f"{path} -h"
    if isinstance(error, click.exceptions.NoSuchCommand):
        message = f"no such command '{error.command_name}'"
        if error.possibilities:
            hint = "did you mean: " + _corrected(argv, error.command_name, error.possibilities[0])
    elif isinstance(error, click.NoSuchOption):
        message = f"no such option '{error.option_name}'"
        if error.possibilities:
            hint = "did you mean: " + error.possibilities[0]
    else:
        message = " ".join(error.format_message().split()).removesuffix(".")
        message = message[:1].lower() + message[1:]
    return Failure(
        LibraryUsageError.slug, message, hint, LibraryUsageError.exit_code, {"command": path}
    )


def _corrected(argv: Sequence[str], wrong: str, right: str) -> str:
    """Returns the command line with one word put right, ready to be pasted."""
    words = list(argv)
    if wrong in words:
        words[words.index(wrong)] = right
    else:
        words = [right]
    return shlex.join(["deltavc", *words])
