"""The verb ``bisect``: the first bad revision, by recorded numbers, a command, or a person.

Good is inherited by ancestors and bad by descendants; the search looks at the middle
of what is left, in order of record, so that a line of n revisions takes log2(n) looks.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.errors import (
    DeltavcError,
    NothingToUndo,
    RepositoryError,
    RepositoryUnwritable,
    UnknownRevision,
    UsageError,
)
from deltavc.ids import CommitId, ObjectId, is_object_id, short
from deltavc.kpi.rules import LimitRule, parse
from deltavc.repo.layout import read_text
from deltavc.repo.results_kpi import Bisected, BisectStep
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["BAD", "GOOD", "SKIP", "by_kpi", "mark", "reset", "run", "start"]

GOOD, BAD, SKIP = "good", "bad", "skip"
FILE = "bisect.json"

Look = Callable[[CommitId], str]
"""Returns ``good``, ``bad`` or ``skip`` for a revision."""


class Search:
    """Which revision is the first bad one, among those of ``bad`` that ``good`` has not.

    Args:
        repo: The repository.
        good: A revision that is good.
        bad: A revision that is bad.

    Raises:
        UsageError: The good one is not among the ancestors of the bad one.
    """

    def __init__(self, repo: Repository, good: CommitId, bad: CommitId) -> None:
        self.repo, self.reader = repo, repo.reader()
        self.line = self.reader.line(good, bad)
        if not self.line.connected:
            raise UsageError(
                f"good {short(good)} is not before bad {short(bad)} in its history",
                hint="name a good revision that the bad one came from: deltavc log BAD",
                good=good,
                bad=bad,
            )
        self.bad, self.bad_key = bad, self.line.keys[0]
        self.total = len(self.line.keys)
        self.skipped: set[int] = set()
        self.steps: list[BisectStep] = []

    def next_key(self) -> int | None:
        """Returns the key to look at next: the open one that is nearest to the middle."""
        left = self.line.keys
        middle = len(left) // 2
        for away in range(middle + 1):
            for at in (middle - away, middle + away):
                if at < len(left) and left[at] != self.bad_key and left[at] not in self.skipped:
                    return left[at]
        return None

    def next(self) -> CommitId | None:
        """Returns the revision to look at next; None when there is none left to ask about."""
        key = self.next_key()
        return None if key is None else self.line.ids([key])[0]

    def mark(self, oid: CommitId, verdict: str, value: float | None = None) -> None:
        """Takes in what was found out about a revision."""
        self.steps.append(
            BisectStep(commit=oid, subject=self._subject(oid), verdict=verdict, value=value)
        )
        key = self.reader.key(oid)
        if verdict not in (GOOD, BAD):
            self.skipped.add(key)
        elif verdict == BAD:
            self.bad, self.bad_key = oid, key
            self.line.leave_ancestors(key)
        else:
            self.line.drop_ancestors(key)

    def has(self, oid: CommitId) -> bool:
        """Tells whether a revision is still in question."""
        return self.reader.key(oid) in self.line.keys

    def _subject(self, oid: CommitId) -> str:
        return self.repo.commit(oid).message.partition("\n")[0]

    def result(self, **more: Any) -> Bisected:
        """Returns where the search stands."""
        following, left = self.next(), self.line.keys
        found = following is None and len(left) == 1
        return Bisected(
            first_bad=self.bad if found else None,
            subject=self._subject(self.bad) if found else "",
            next=following,
            suspects=[*self.line.ids(left)] if following is None and not found else [],
            steps=list(self.steps),
            remaining=len(left),
            revisions=self.total,
            **more,
        )


def by_kpi(repo: Repository, kpi: str, *, expect: str, good: str, bad: str = "HEAD") -> Bisected:
    """Finds the first revision whose recorded value is not as expected.

    Args:
        repo: The repository.
        kpi: The KPI, or ``KPI[slice]``.
        expect: What is good, such as ``>= 0.85``.
        good: Last revision known to be good.
        bad: First revision known to be bad.

    Returns:
        What was found; revisions without a value are passed over, and named.

    Raises:
        UsageError: The expectation is none, or an end is not what it is said to be.
        UnknownRevision: No revision in between has a value.
    """
    rule = parse(f"{kpi} {expect}")
    if not isinstance(rule, LimitRule) or rule.unit or rule.stated is not None:
        raise UsageError(
            f"'{expect[:80]}' does not say what is good", hint="--expect '>= 0.85'", expect=expect
        )
    ends = resolve(repo, good), resolve(repo, bad)
    search = Search(repo, *ends)
    values = search.line.values(rule.series)
    between = list(search.line.keys)
    measured = sum(key in values for key in between)
    if not measured:
        raise UnknownRevision(
            f"no revision from {short(ends[0])} to {short(ends[1])} has a value of '{kpi}'",
            hint=f"measure them: deltavc kpi add REV {kpi}=VALUE, or use deltavc bisect run",
            kpi=kpi,
        )

    def is_good(value: float) -> bool:
        return value >= rule.limit if rule.at_least else value <= rule.limit

    for oid, wanted in zip(ends, (True, False), strict=True):
        value = values.get(search.reader.key(oid))
        if value is not None and is_good(value) != wanted:
            word = "good" if wanted else "bad"
            raise UsageError(
                f"{short(oid)} was given as {word}, but its {kpi} is {value:.6g}",
                hint=f"name another {word} end, or another --expect",
                value=value,
            )
    search.skipped = {key for key in between if key not in values}
    while (key := search.next_key()) is not None:
        asked = search.line.ids([key])[0]
        search.mark(asked, GOOD if is_good(values[key]) else BAD, values[key])
    parents = repo.commit(search.bad).parents
    return search.result(
        measured=measured,
        unmeasured=search.line.ids(key for key in between if key not in values),
        value=values.get(search.bad_key),
        parent_value=values.get(search.reader.key(parents[0])) if parents else None,
        kpi=kpi,
    )


def run(
    repo: Repository,
    judge: Callable[[Path, CommitId], int],
    *,
    good: str,
    bad: str = "HEAD",
    form: str = "full",
) -> Bisected:
    """Finds the first bad revision by rebuilding candidates and asking a program.

    Args:
        repo: The repository.
        judge: Gets the folder of a candidate; returns an exit code as git reads it:
            0 good, 125 skip, 1 to 127 bad, more stops.
        good: Last revision known to be good.
        bad: First revision known to be bad.
        form: How to write each candidate: full or peft.

    Returns:
        What was found.

    Raises:
        UsageError: The program ended in a way that says nothing of the revision.
    """
    from deltavc.repo.checkout import checkout

    search = Search(repo, resolve(repo, good), resolve(repo, bad))
    while (oid := search.next()) is not None:
        folder = Path(tempfile.mkdtemp(prefix="deltavc-bisect-"))
        try:
            target = folder / short(oid)
            checkout(repo, oid, to=target, form=form)
            code = judge(target, oid)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not 0 <= code <= 127:
            raise UsageError(
                f"the command ended with {code} on {short(oid)}, which stops the search",
                hint="0 is good, 125 skips, 1 to 127 is bad",
                revision=oid,
                code=code,
            )
        search.mark(oid, GOOD if code == 0 else SKIP if code == 125 else BAD)
    return search.result()


# by a person: what was said so far is a file


def start(repo: Repository, *, good: str, bad: str = "HEAD") -> Bisected:
    """Begins a search that :func:`mark` goes on with; an earlier one is forgotten."""
    ends = resolve(repo, good), resolve(repo, bad)
    search = Search(repo, *ends)
    _write(repo, {"good": ends[0], "bad": ends[1], "marks": []})
    return search.result()


def mark(repo: Repository, verdict: str, rev: str | None = None) -> Bisected:
    """Says what a revision is.

    Args:
        repo: The repository.
        verdict: good, bad or skip.
        rev: The revision; default: the one that was asked about.

    Returns:
        Where the search stands.

    Raises:
        NothingToUndo: No search was begun.
        UsageError: The revision is not in question.
    """
    if verdict not in (GOOD, BAD, SKIP):
        raise UsageError(f"'{verdict[:40]}' is not a verdict", hint="good, bad or skip")
    kept = _read(repo)
    search = _replayed(repo, kept)
    oid = resolve(repo, rev) if rev is not None else search.next()
    if oid is None or not search.has(oid):
        what = "the search is over" if oid is None else f"{short(oid)} is not in question any more"
        raise UsageError(what, hint="begin anew: deltavc bisect start --good REV --bad REV")
    if oid == search.bad and verdict != BAD:
        raise UsageError(f"{short(oid)} was given as bad", hint="begin anew: deltavc bisect start")
    search.mark(oid, verdict)
    _write(repo, {**kept, "marks": [*kept["marks"], [oid, verdict]]})
    return search.result()


def reset(repo: Repository) -> bool:
    """Forgets a search.

    Args:
        repo: The repository.

    Returns:
        Whether there was one.

    Raises:
        RepositoryUnwritable: Its file cannot be removed.
    """
    try:
        (repo.layout.folder / FILE).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RepositoryUnwritable(f"the search cannot be forgotten: {error.strerror}") from error
    return True


def _replayed(repo: Repository, kept: dict[str, Any]) -> Search:
    search = Search(repo, kept["good"], kept["bad"])
    for oid, verdict in kept["marks"]:
        search.mark(oid, verdict)
    return search


def _write(repo: Repository, kept: dict[str, Any]) -> None:
    path = repo.layout.folder / FILE
    beside = path.with_name(f"{FILE}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(kept), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise RepositoryUnwritable(f"the search cannot be kept: {error.strerror}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _read(repo: Repository) -> dict[str, Any]:
    from deltavc.records import canonical

    path = repo.layout.folder / FILE
    try:
        kept = canonical.loads_strict(read_text(path).encode(), f"'{path}'")
        ids = [kept["good"], kept["bad"], *(oid for oid, _ in kept["marks"])]
        if not _all_ids(ids) or {v for _, v in kept["marks"]} - {GOOD, BAD, SKIP}:
            raise ValueError
    except FileNotFoundError:
        raise NothingToUndo(
            "no search was begun", hint="deltavc bisect start --good REV --bad REV"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, DeltavcError) as error:
        raise RepositoryError(
            f"the search in '{path}' cannot be read", hint="forget it: deltavc bisect reset"
        ) from error
    return {**kept, "good": CommitId(ObjectId(kept["good"]))}


def _all_ids(ids: Iterable[object]) -> bool:
    return all(isinstance(oid, str) and is_object_id(oid) for oid in ids)
