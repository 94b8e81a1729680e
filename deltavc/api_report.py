"""The verb ``report`` in the Python API; see :mod:`deltavc.api`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.report.verb import Reported

__all__ = ["Reporting"]


class Reporting:
    """What :class:`deltavc.api.Repository` can tell those who do not use a terminal."""

    _repo: Repository

    def report(
        self,
        output: str | os.PathLike[str] = "report.html",
        *,
        environments: Sequence[str] = (),
        revisions: str | None = None,
        since: int | None = None,
        title: str | None = None,
        language: str = "en",
        charts: bool = True,
    ) -> Reported:
        """Writes one HTML file about what is served, and why; see :mod:`deltavc.report.verb`.

        Args:
            output: The file; an earlier report in its place is replaced.
            environments: Only these.
            revisions: Only this range of revisions.
            since: Nothing that ended before this time, in milliseconds since 1970.
            title: Its title; default: that of the language.
            language: Language of the fixed text: ``en`` or ``ja``.
            charts: Whether KPIs have charts, which need the extra ``report``.

        Returns:
            What was written.
        """
        from deltavc.report.verb import report

        return report(
            self._repo,
            Path(output),
            environments=environments,
            range_=revisions,
            since=since,
            title=title,
            language=language,
            charts=charts,
        )
