"""The verb ``report``: gathers, renders and writes one HTML file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import RepositoryUnwritable, UsageError
from deltavc.report.data import NOTE
from deltavc.report.gather import gather
from deltavc.report.texts import LANGUAGES, Texts

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["LANGUAGES", "Reported", "report"]

MAX_TITLE = 200
_HEAD = 2048  # bytes at the beginning of a file that tell whether it is a report


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """A report that was written.

    Attributes:
        path: The file.
        size: Its bytes.
        language: Language of its fixed text.
        revisions: How many revisions it is about.
        deployments: How many deployments it tells of.
        environments: How many environments.
        kpis: How many KPIs.
        problems: How many problems are open, notes left out.
        event: Number of the newest event: the state that it is about.
        head: That event's hash.
    """

    path: str
    size: int
    language: str
    revisions: int
    deployments: int
    environments: int
    kpis: int
    problems: int
    event: int
    head: str


def report(
    repo: Repository,
    output: Path,
    *,
    environments: Sequence[str] = (),
    range_: str | None = None,
    since: int | None = None,
    title: str | None = None,
    language: str = "en",
    charts: bool = True,
) -> Reported:
    """Writes a report as one HTML file that loads nothing.

    Args:
        repo: The repository.
        output: The file; an earlier report in its place is replaced, other files are not.
        environments: Only these.
        range_: Only these revisions.
        since: Nothing that ended before this time, in milliseconds since 1970.
        title: Its title; default: that of the language.
        language: Language of the fixed text.
        charts: Whether KPIs have charts, which need matplotlib.

    Returns:
        What was written.

    Raises:
        UnknownRevision: There is no such environment or revision.
        UsageError: The language, the title or the file makes no sense.
        MissingExtra: There is something to chart, and matplotlib is not installed.
        RepositoryUnwritable: The file cannot be written.
    """
    from deltavc.report.render import render

    Texts(language)
    if title is not None and not 0 < len(title.strip()) <= MAX_TITLE:
        raise UsageError(
            f"a title has 1 to {MAX_TITLE} characters", hint="shorten it, or leave --title out"
        )
    _check_output(output)
    repo.session.progress("report", 0, 3)
    told = gather(repo, environments=environments, range_=range_, since=since)
    repo.session.progress("report", 1, 3)
    page = render(told, title=title, language=language, charts=charts).encode("utf-8")
    repo.session.progress("report", 2, 3)
    _write(output, page)
    repo.session.progress("report", 3, 3)
    return Reported(
        path=str(output),
        size=len(page),
        language=language,
        revisions=told.revisions,
        deployments=len(told.deployments),
        environments=len(told.environments),
        kpis=len(told.kpis) + len(told.kpis_left_out),
        problems=sum(problem.level != NOTE for problem in told.problems),
        event=told.source.number,
        head=told.source.hash,
    )


def _check_output(output: Path) -> None:
    """Refuses to replace what is not a report."""
    from deltavc.report.render import GENERATOR

    try:
        if not os.path.lexists(output):
            return
        if output.is_file() and not output.is_symlink():
            with output.open("rb") as file:
                if GENERATOR.encode() in file.read(_HEAD):
                    return
    except OSError as error:
        raise RepositoryUnwritable(f"'{output}' cannot be read: {error.strerror}") from error
    raise UsageError(
        f"'{output}' is there and is no report, so it is not replaced",
        hint="choose another name: deltavc report -o FILE",
        path=str(output),
    )


def _write(output: Path, page: bytes) -> None:
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{output.name[:100]}.", dir=output.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(page)
            Path(beside).chmod(0o644)
            Path(beside).replace(output)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RepositoryUnwritable(
            f"'{output}' cannot be written: {why}", path=str(output)
        ) from error
