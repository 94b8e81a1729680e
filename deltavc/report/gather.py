"""From a repository to what its report tells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from deltavc.catalog import reader_report
from deltavc.errors import UnknownRevision, UsageError
from deltavc.kpi.verdicts import CLOCK_SLACK
from deltavc.ledger.verify import verify
from deltavc.records.ship import Environment as Definition
from deltavc.repo.environment_policy import definitions
from deltavc.repo.policy import read_policy
from deltavc.repo.revisions import parse_range
from deltavc.report import problems
from deltavc.report.data import (
    Change,
    Deployment,
    Edge,
    Environment,
    KpiNow,
    Lineage,
    Node,
    Report,
    Scope,
    Source,
)
from deltavc.report.folders import out_of_step
from deltavc.report.gather_changes import Changes
from deltavc.report.gather_kpis import Measured
from deltavc.report.gather_ship import ShipHistory, marks
from deltavc.report.lineage import MOST_NODES, reduced
from deltavc.report.versions import Versions
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.reader_report import History
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["gather"]


def gather(
    repo: Repository,
    *,
    environments: Sequence[str] = (),
    range_: str | None = None,
    since: int | None = None,
) -> Report:
    """Reads what a report tells.

    Args:
        repo: The repository.
        environments: Only these.
        range_: Only these revisions.
        since: Nothing that ended before this time.

    Returns:
        All that the pages need.

    Raises:
        UnknownRevision: There is no such environment or revision.
        UsageError: An earlier operation is looked at.
    """
    if repo.as_of is not None:
        raise UsageError(
            "a report tells of the newest state, so it cannot be made of an earlier operation",
            hint="leave --at-op out; what was served when: deltavc env log NAME",
        )
    return _Gathering(repo, Scope(tuple(environments), range_, since)).report()


class _Gathering:
    """One state of a repository, and what was read of it."""

    def __init__(self, repo: Repository, scope: Scope) -> None:
        self.repo, self.scope = repo, scope
        self.reader: CatalogReader = repo.reader()
        self.state: State = repo.state()
        self.history: History = reader_report.history(self.reader)
        self.versions = Versions(self.reader, self.state)
        self.policy = read_policy(repo)
        self.defined = definitions(repo, self.state.refs)
        self.damaged: list[str] = []
        self.marks = marks(repo, self.state, self.versions, self.damaged)
        self.ship = ShipHistory(repo, self.reader, self.versions, self.marks)
        self._check_names()
        self.allowed = self._allowed()
        self._inside: set[str] | None = None
        self.time = reader_report.time_of(self.reader, self.state.number)

    def _check_names(self) -> None:
        known = {*self.defined, *(d.environment for d in self.ship.deployments)}
        for name in self.scope.environments:
            if name not in known:
                raise UnknownRevision(
                    f"environment '{name[:80]}' is not defined",
                    hint="list them: deltavc env list",
                    environment=name,
                )

    def _allowed(self) -> frozenset[int] | None:
        """Returns the keys of the revisions to tell of; None for all."""
        scope, times = self.scope, self.history.times
        if scope.range is None and scope.since is None:
            return None
        keys: Iterable[int] = self.history.ids
        if scope.range is not None:
            asked = parse_range(self.repo, scope.range, self.state)
            inside = set(self.reader.ancestors(asked.starts, exclude=asked.exclude))
            keys = [key for key, oid in self.history.ids.items() if oid in inside]
        if scope.since is not None:
            keys = [key for key in keys if times[key] >= scope.since]
        return frozenset(keys)

    # what is told -----------------------------------------------------------

    def report(self) -> Report:
        everything = [d for d in self.ship.deployments if self._is_asked(d.environment)]
        told = [d for d in everything if self._is_told(d)]
        measured = Measured(self.repo, self.reader, self.policy, self.history, self.allowed)
        environments = tuple(
            self._environment(name, everything, measured)
            for name in sorted({*self.defined, *(d.environment for d in everything)})
            if self._is_asked(name)
        )
        requests = tuple(r for r in self.ship.requests if self._is_asked(r.environment))
        served, serving = _by_version(told), _by_version(d for d in everything if d.serving)
        series, left_out = measured.series(self.versions, served, serving)
        changes, more = self._changes(environments, told)
        return Report(
            source=self._source(),
            scope=self.scope,
            environments=environments,
            problems=problems.find(
                environments,
                self.ship.deployments,
                requests,
                [finding.message for finding in verify(self.repo.layout.events)],
                [s.number for s in reader_report.clock_steps(self.reader, CLOCK_SLACK)],
                self.damaged,
            ),
            deployments=tuple(told),
            requests=requests,
            lineage=self._lineage(told, served, serving),
            kpis=series,
            changes=changes,
            revisions=len(self.history.ids if self.allowed is None else self.allowed),
            kpis_left_out=left_out,
            more_changes=more,
        )

    def _source(self) -> Source:
        head = self.repo.head_branch(self.state) or self.repo.head_commit(self.state) or ""
        return Source(
            repository=reader_report.first_event(self.reader) or "",
            number=self.state.number,
            hash=self.state.hash,
            time=self.time,
            tool=f"deltavc {__version__}",
            head=head,
        )

    def _is_asked(self, environment: str) -> bool:
        return not self.scope.environments or environment in self.scope.environments

    def _is_told(self, deployment: Deployment) -> bool:
        """Tells whether a deployment was live within what is asked for."""
        since, version = self.scope.since, deployment.version
        if since is not None and deployment.until is not None and deployment.until < since:
            return False
        if self.scope.range is None or version is None or deployment.serving:
            return True
        return version.id in self._ids_allowed()

    def _ids_allowed(self) -> Collection[str]:
        if self._inside is None:
            self._inside = {self.history.ids[key] for key in self.allowed or ()}
        return self._inside

    def _environment(
        self, name: str, deployments: Sequence[Deployment], measured: Measured
    ) -> Environment:
        mine = [d for d in deployments if d.environment == name]
        serving = next((d for d in mine if d.serving), None)
        definition, origin = self.defined.get(name, (Definition(name), ""))
        kpis: tuple[KpiNow, ...] = ()
        if serving is not None and serving.version is not None:
            kpis = measured.now(serving.version.id, definition.gates, self.time)
        return Environment(
            name=name,
            origin=origin,
            definition=definition,
            serving=serving,
            decided=None if serving is None else problems.decided_at(serving, mine),
            deployments=len(mine),
            out_of_step=out_of_step(self.repo, name) if origin else (),
            bad=tuple(self.marks.get(name, {}).values()),
            kpis=kpis,
        )

    def _changes(
        self, environments: Sequence[Environment], told: Sequence[Deployment]
    ) -> tuple[tuple[Change, ...], int]:
        changes = Changes(self.repo, self.history, self.versions)
        found: list[Change] = []
        more = 0
        for environment in environments:
            some, rest = changes.of([d for d in told if d.environment == environment.name])
            found += some
            more += rest
        return tuple(found), more

    # lineage ----------------------------------------------------------------

    def _lineage(
        self,
        told: Sequence[Deployment],
        served: Mapping[str, tuple[str, ...]],
        serving: Mapping[str, tuple[str, ...]],
    ) -> Lineage:
        key_of: dict[str, int] = {oid: key for key, oid in self.history.ids.items()}
        head = self.repo.head_commit(self.state)
        named = sorted(
            (
                key_of[oid]
                for oid in {*self.versions.branches, *self.versions.tags}
                if oid in key_of
            ),
            reverse=True,
        )
        first = [key_of[oid] for oid in (*serving, head) if oid in key_of]
        deployed = [key_of[d.version.id] for d in told if d.version and d.version.id in key_of]
        allowed = None if self.allowed is None else self.allowed | set(first)
        wanted = [
            key
            for key in dict.fromkeys((*first, *_alternating(named, deployed)))
            if allowed is None or key in allowed
        ]
        rows = reduced(wanted[:MOST_NODES], self.history.parents, allowed)
        number = {key: at for at, (key, _) in enumerate(rows)}
        self.versions.read(self.history.ids[key] for key, _ in rows)
        nodes = []
        for key, edges in rows:
            oid = self.history.ids[key]
            parents = self.history.parents.get(key, ())
            nodes.append(
                Node(
                    version=self.versions[oid],
                    edges=tuple(Edge(number.get(to, -1), skipped) for to, skipped in edges),
                    served=served.get(oid, ()),
                    serving=serving.get(oid, ()),
                    is_head=oid == head,
                    merges=len(parents) if len(parents) > 1 else 0,
                )
            )
        total = len(self.history.ids if self.allowed is None else self.allowed)
        return Lineage(tuple(nodes), total, left_out=max(0, len(wanted) - MOST_NODES))


def _alternating(one: Sequence[int], other: Sequence[int]) -> Iterable[int]:
    """Yields from both in turn, so that neither crowds the other out."""
    for at in range(max(len(one), len(other))):
        yield from one[at : at + 1]
        yield from other[at : at + 1]


def _by_version(deployments: Iterable[Deployment]) -> dict[str, tuple[str, ...]]:
    """Returns the environments of each deployed version, by its id."""
    found: dict[str, dict[str, None]] = {}
    for deployment in deployments:
        if deployment.version is not None:
            found.setdefault(deployment.version.id, {})[deployment.environment] = None
    return {oid: tuple(sorted(names)) for oid, names in found.items()}
