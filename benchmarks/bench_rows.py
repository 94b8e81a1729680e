"""What a group of measurements returns, and the surroundings that it gets."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import deltavc
from benchmarks.assets import CACHE
from benchmarks.timing import table
from deltavc.api import Repository

__all__ = ["Lab", "Row", "Template", "report"]


@dataclass(frozen=True)
class Row:
    """One measured value and what it must reach.

    Attributes:
        what: What was measured.
        value: The value.
        limit: What it must reach; None for a value that is told for orientation.
        unit: Unit of both, such as ``x cp`` or ``GB/s``.
        at_least: The value must not be below the limit; else not above it.
        note: Seconds behind a ratio, a peer's value, and the like.
    """

    what: str
    value: float
    limit: float | None = None
    unit: str = ""
    at_least: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the value reaches the limit; a value that is not a number reaches none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def cells(self) -> tuple[str, ...]:
        """Returns the row for people."""
        must, verdict = "", ""
        if self.limit is not None:
            must = f"{'>=' if self.at_least else '<='} {_number(self.limit)} {self.unit}".rstrip()
            verdict = "yes" if self.ok else "no"
        return (self.what, f"{_number(self.value)} {self.unit}".rstrip(), must, verdict, self.note)


def _number(value: float) -> str:
    if value == value and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def report(rows: Sequence[Row]) -> str:
    """Returns the table of all rows."""
    cells = [row.cells() for row in rows]
    plain = table(("what", "measured", "must reach", "ok", ""), [(*row[:4], "") for row in cells])
    title, rule, *lines = plain.splitlines()
    notes = [f"{line}  {row[4]}".rstrip() for line, row in zip(lines, cells, strict=True)]
    return "\n".join([title, rule, *notes])


@dataclass
class Lab:
    """Where and how a group measures.

    Attributes:
        quick: Small sizes and few rounds, to see that everything works.
        folder: Scratch folder, empty at the start of a run.
    """

    quick: bool
    folder: Path = CACHE / "bench"
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def rounds(self, usual: int = 5) -> int:
        """Returns how often to repeat."""
        return min(usual, 2) if self.quick else usual

    def say(self, text: str) -> None:
        """Tells what is going on, on stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def scratch(self, name: str) -> Path:
        """Returns a new empty folder."""
        target = self.folder / f"{name}-{next(self._number)}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        return target

    def repository(self, base: Path) -> Repository:
        """Returns a new repository with one base and no commit."""
        repo = deltavc.init(self.scratch("repo"), actor="Bench <bench@example.org>")
        repo.add_base("base", base)
        return repo


class Template:
    """A repository that can be put back to how it was, to record the same thing again.

    What is stored once costs nothing the second time, so each timed commit needs a
    repository that has not seen it; making one would hash the base again.

    Args:
        repo: The repository as it shall be before each call.
    """

    def __init__(self, repo: Repository) -> None:
        self._live = repo.path / ".deltavc"
        self._copy = repo.path / "template"
        shutil.copytree(self._live, self._copy)

    def fresh(self) -> Repository:
        """Puts the repository back and opens it."""
        shutil.rmtree(self._live)
        shutil.copytree(self._copy, self._live)
        return deltavc.open(self._live.parent, actor="Bench <bench@example.org>")
