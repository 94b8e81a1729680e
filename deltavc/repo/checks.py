"""The verb ``fsck``: is everything there, and is it what it was?

Reads every object, follows every commit to its deltas, verifies the event
log's chain and holds the catalog against the log. What is wrong is a value;
only ``repair`` moves anything, and nothing is ever deleted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from deltavc.catalog.errors import CatalogUnusable
from deltavc.errors import DeltavcError, IntegrityError
from deltavc.ids import CommitId, DeltaId, ObjectId, short
from deltavc.ledger.state import State, replay
from deltavc.repo.results import Checked, Finding
from deltavc.repo.revisions import peel, resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["fsck"]

SALVAGED = "salvaged"


def fsck(
    repo: Repository,
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    repair: bool = False,
    deep: bool = False,
) -> Checked:
    """Checks objects, history, event log and catalog.

    Args:
        repo: The repository.
        quick: Names and connections only; no object is read whole.
        only: Just what these revisions need.
        repair: Move damaged files to ``quarantine/``, saving what is whole in them.
        deep: Do recorded merges again from their recipes and compare.

    Returns:
        What was found; ``ok`` when there is no problem among it.
    """
    started = time.monotonic()
    findings: list[Finding] = []
    quarantined: list[str] = []
    state = _log_findings(repo, findings)
    reach = _Reach(repo, findings)
    if state is not None:
        wanted = [resolve(repo, rev, state) for rev in only] or _roots(repo, state, findings)
        if not only:
            reach.bases(state)
            reach.policy(state)
            reach.measurements()
        reach.walk(wanted)
    if not quick:
        damaged = _damaged(repo, reach, only_some=bool(only))
        findings += damaged
        if repair and any(f.subject for f in damaged):
            quarantined = _repair(repo, findings)
    if not only and state is not None:
        findings += _catalog_findings(repo, state)
    merges = _merge_findings(repo, reach, findings) if deep else None
    return Checked(
        ok=not any(f.level == "problem" for f in findings),
        objects=len(reach.needed) if only else sum(1 for _ in repo.store.iter()),
        events=state.number if state is not None else 0,
        findings=findings,
        quarantined=quarantined,
        seconds=time.monotonic() - started,
        merges=merges,
    )


def _merge_findings(repo: Repository, reach: _Reach, findings: list[Finding]) -> int:
    """Does all merges again that came of a recipe; returns how many there are."""
    from deltavc.repo.merge import redo_merge

    done = 0
    for oid in sorted(reach.seen):
        try:
            commit = repo.commit(oid)
            again = redo_merge(repo, commit)
        except DeltavcError as error:
            message = f"{short(oid)} cannot be merged again: {error.message}"
            findings.append(
                Finding(level="problem", code="merge-not-redone", message=message, subject=oid)
            )
            continue
        if again is None or commit.recipe is None:
            continue
        done += 1
        manifest, recipe = again
        if manifest != commit.manifest or recipe != repo.recipe(commit.recipe):
            what = "version" if manifest != commit.manifest else "recipe"
            message = f"{short(oid)} was recorded with another {what} than its merge gives"
            findings.append(
                Finding(level="problem", code="merge-differs", message=message, subject=oid)
            )
    return done


def _log_findings(repo: Repository, findings: list[Finding]) -> State | None:
    """Verifies the chain; returns the refs, or None when they cannot be told."""
    for found in repo.log.verify():
        level = "warn" if found.severity == "warning" else "problem"
        findings.append(Finding(level=level, code=f"log-{found.kind}", message=found.message))
    try:
        return replay(repo.log)
    except DeltavcError as error:
        if not findings:
            findings.append(Finding(level="problem", code="log-chain", message=error.message))
        return None


def _roots(repo: Repository, state: State, findings: list[Finding]) -> list[CommitId]:
    """Returns the commits of all refs and of all events; undone ones are kept for redo."""
    roots: dict[CommitId, None] = {}
    for name, value in state.refs.items():
        if name.startswith(("branch:", "tag:")) or (name == "HEAD" and ":" not in value):
            try:
                roots[peel(repo, ObjectId(value))] = None
            except IntegrityError as error:
                findings.append(
                    Finding(level="problem", code=error.slug, message=error.message, subject=value)
                )
    for event, _ in repo.log.read():
        for oid in event.detail.get("commits", ()):
            roots[CommitId(ObjectId(oid))] = None
    return list(roots)


class _Reach:
    """Follows commits to manifests, deltas and files, and notes who needs what."""

    def __init__(self, repo: Repository, findings: list[Finding]) -> None:
        self.repo = repo
        self.findings = findings
        self.needed: dict[ObjectId, list[CommitId]] = {}
        self.seen: set[CommitId] = set()
        self._blobs: dict[DeltaId, tuple[ObjectId, ...]] = {}

    def walk(self, roots: Sequence[CommitId]) -> None:
        """Visits commits and all that they need."""
        todo = list(roots)
        while todo:
            oid = todo.pop()
            if oid in self.seen:
                continue
            self.seen.add(oid)
            self._need(oid, oid)
            try:
                commit = self.repo.commit(oid)
                self._need(commit.manifest, oid)
                self._need(commit.base, oid)
                if commit.recipe is not None:
                    self._need(commit.recipe, oid)
                todo.extend(commit.parents)
                vector = self.repo.vector(oid)
            except IntegrityError as error:
                self._problem(error, oid)
                continue
            blobs = [v for k, v in vector.meta.items() if k.startswith(("file:", "attachment:"))]
            for need in (*vector.deltas(), *(ObjectId(blob) for blob in blobs if blob)):
                self._need(need, oid)
            for delta in vector.deltas():
                for blob in self._shared(delta):
                    self._need(blob, oid)
        self._missing()

    def bases(self, state: State) -> None:
        """Visits the registered bases."""
        for name, value in state.refs.items():
            if name.startswith("base:"):
                try:
                    source = self.repo.base_source(ObjectId(value))
                    self.repo.base(source.base)
                    for info in source.files.values():
                        if info.blob:
                            self.needed.setdefault(ObjectId(info.blob), [])
                except IntegrityError as error:
                    self._problem(error, value)

    def policy(self, state: State) -> None:
        """Visits the definitions of KPIs and gates."""
        for name, value in state.refs.items():
            if name.startswith(("kpi:", "gate:")):
                self.needed.setdefault(ObjectId(value), [])

    def measurements(self) -> None:
        """Visits what was measured, with the per-sample values, and what was signed."""
        for event, _ in self.repo.log.read():
            if event.detail.get("measurements") or event.detail.get("signatures"):
                for oid in event.objects:
                    self.needed.setdefault(oid, [])

    def _shared(self, oid: DeltaId) -> tuple[ObjectId, ...]:
        """Returns the blobs that a delta refers to; what cannot be read is found elsewhere."""
        from deltavc.delta.body import blobs_of

        if oid not in self._blobs:
            self._blobs[oid] = ()
            with suppress(IntegrityError):
                self._blobs[oid] = tuple(blobs_of(self.repo.store.read_start(oid)))
        return self._blobs[oid]

    def _need(self, oid: ObjectId, commit: CommitId) -> None:
        needers = self.needed.setdefault(oid, [])
        if len(needers) < 20:
            needers.append(commit)

    def _problem(self, error: IntegrityError, subject: str) -> None:
        self.findings.append(
            Finding(
                level="problem",
                code=error.slug,
                message=error.message,
                subject=str(error.context.get("id", subject)),
                needed_by=[subject] if len(subject) == 64 else [],
            )
        )

    def _missing(self) -> None:
        known = {f.subject for f in self.findings}
        for oid, commits in self.needed.items():
            if oid not in known and not self.repo.store.has(oid):
                self.findings.append(
                    Finding(
                        level="problem",
                        code="object-missing",
                        message=f"object {short(oid)} is missing",
                        subject=oid,
                        needed_by=list(commits),
                    )
                )


def _damaged(repo: Repository, reach: _Reach, *, only_some: bool) -> list[Finding]:
    """Reads every object whole, or just those that were asked for."""
    if only_some:
        found = [f for oid in reach.needed if (f := repo.store.verify(oid)) is not None]
    else:
        found = list(repo.store.check(lambda a, b: repo.session.progress("check", a, b)))
    return [
        Finding(
            level="warn" if item.code == "cache-damaged" else "problem",
            code=item.code,
            message=item.message,
            subject=item.id or "",
            needed_by=[*reach.needed.get(item.id, ())] if item.id else [],
        )
        for item in found
    ]


def _repair(repo: Repository, findings: list[Finding]) -> list[str]:
    moved = repo.store.quarantine(repo.store.check())
    for oid in moved.salvaged:
        message = f"object {short(oid)} was whole in a damaged file and was kept"
        findings.append(Finding(level="ok", code=SALVAGED, message=message, subject=oid))
    return list(moved.moved)


def _catalog_findings(repo: Repository, state: State) -> Iterator[Finding]:
    from deltavc.catalog.reader import CatalogReader

    try:
        reader = CatalogReader(repo.layout.catalog)
    except CatalogUnusable as error:
        yield Finding(
            level="warn", code=error.slug, message=f"{error.message}; {error.hint}", subject=""
        )
        return
    with suppress(CatalogUnusable):
        applied = reader.applied()
        if applied != (state.number, state.hash):
            yield Finding(
                level="warn",
                code="catalog-behind",
                message="the catalog is not in step with the event log; the next command mends it",
            )
        elif dict(reader.refs()) != dict(state.refs):
            yield Finding(
                level="problem",
                code="catalog-differs",
                message="the catalog's refs are not those of the event log; "
                "rebuild it: deltavc doctor --rebuild-catalog",
            )
