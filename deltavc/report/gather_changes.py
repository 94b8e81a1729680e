"""What changed from one deployment to the next."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from deltavc.catalog import ancestry
from deltavc.delta.vector import FILE, REMOVED, Vector, add_terms
from deltavc.errors import DeltavcError
from deltavc.ids import CommitId, ObjectId
from deltavc.report.data import Change, Deployment, Group, KpiChange

if TYPE_CHECKING:
    from deltavc.catalog.reader_report import History
    from deltavc.repo.repository import Repository
    from deltavc.report.versions import Versions

__all__ = ["Changes", "group_name"]

MOST_CHANGES = 10
"""Changes told of each environment, the newest ones; further ones are counted."""

MOST_VERSIONS = 5
MOST_GROUPS = 12
NORM_BYTES = 32 << 20  # stored bytes of deltas that a report reads for norms: under a second

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")


def group_name(parameter: str) -> str:
    """Returns the group of a parameter: its name with the numbers of layers left open."""
    return _NUMBER.sub("*", parameter)


class Changes:
    """Compares what deployments served.

    Args:
        repo: The repository.
        history: All commits: descent is looked up here, as often as there are changes.
        versions: Names of revisions.
    """

    def __init__(self, repo: Repository, history: History, versions: Versions) -> None:
        self._repo, self._history, self._versions = repo, history, versions
        self._keys = {oid: key for key, oid in history.ids.items()}
        self._budget = NORM_BYTES
        self._vectors: dict[str, Vector] = {}

    def of(self, deployments: Sequence[Deployment]) -> tuple[tuple[Change, ...], int]:
        """Returns the changes of one environment.

        Args:
            deployments: Its deployments, newest first.

        Returns:
            The newest changes, and how many more there are.
        """
        pairs = [
            (before, after)
            for after, before in pairwise(deployments)
            if before.version is not None
            and after.version is not None
            and before.version.id != after.version.id
        ]
        told = [self._change(before, after) for before, after in pairs[:MOST_CHANGES]]
        return tuple(told), len(pairs) - len(told)

    def _change(self, before: Deployment, after: Deployment) -> Change:
        assert before.version is not None
        assert after.version is not None
        old, new = (CommitId(ObjectId(d.version.id)) for d in (before, after) if d.version)
        added, dropped = self._beyond(new, old), len(self._beyond(old, new))
        listed = added[:MOST_VERSIONS]
        self._versions.read(listed)
        groups, files, other_base = self._compared(old, new)
        return Change(
            environment=after.environment,
            before=before,
            after=after,
            added=tuple(self._versions[oid] for oid in listed),
            more_added=len(added) - len(listed),
            dropped=dropped,
            groups=groups,
            files=files,
            other_base=other_base,
            kpis=self._kpis(old, new),
        )

    def _beyond(self, start: CommitId, other: CommitId) -> list[CommitId]:
        """Returns a revision and its ancestors that another does not have, newest first."""
        parents = self._history.parents
        keys = [self._keys[oid] for oid in (start, other) if oid in self._keys]
        if len(keys) < 2:
            return []
        walk = ancestry.walk(keys[:1], keys[1:], lambda key: parents.get(key, ()))
        return [self._history.ids[key] for key in walk]

    def _compared(
        self, old: CommitId, new: CommitId
    ) -> tuple[tuple[Group, ...], tuple[str, ...], bool]:
        try:
            before, after = self._vector(old), self._vector(new)
        except DeltavcError:  # a damaged manifest is told of where the repository is checked
            return (), (), False
        if before.base != after.base:
            return (), (), True
        groups: dict[str, list[str]] = {}
        for name in before.changed(after):
            groups.setdefault(group_name(name), []).append(name)
        norms = self._norms(before, after, [n for names in groups.values() for n in names])
        rows = [Group(name, len(names), _root(norms, names)) for name, names in groups.items()]
        rows.sort(key=lambda row: (-(row.norm or 0.0), -row.changed, row.name))
        if len(rows) > MOST_GROUPS:
            rest = rows[MOST_GROUPS - 1 :]
            rows = [*rows[: MOST_GROUPS - 1], Group("", sum(row.changed for row in rest))]
        return tuple(rows), _files(before, after), False

    def _vector(self, oid: CommitId) -> Vector:
        if oid not in self._vectors:
            self._vectors[oid] = self._repo.vector(oid)
        return self._vectors[oid]

    def _norms(self, before: Vector, after: Vector, names: Sequence[str]) -> dict[str, float]:
        """Returns the norm of each parameter's change; nothing where that takes long."""
        terms = {
            name: add_terms((1, after.params.get(name, {})), (-1, before.params.get(name, {})))
            for name in names
        }
        deltas = {oid for found in terms.values() for oid in found}
        try:
            size = sum(self._repo.store.stat(oid).stored for oid in deltas)
            if size > self._budget:
                return {}
            self._budget -= size
            loaded = {oid: self._repo.delta(oid) for oid in deltas}
            if any(delta.kind not in ("lowrank", "dense") for delta in loaded.values()):
                return {}
            from deltavc.delta.compare import norm

            return {
                name: norm([(loaded[oid], c) for oid, c in found.items()], None)
                for name, found in terms.items()
            }
        except DeltavcError:
            return {}

    def _kpis(self, old: CommitId, new: CommitId) -> tuple[KpiChange, ...]:
        from deltavc.repo.kpi_compare import compare

        return tuple(
            KpiChange(
                series=row.kpi,
                unit=row.unit,
                before=row.a,
                after=row.b,
                difference=row.difference,
                low=row.low,
                high=row.high,
                verdict=row.verdict,
            )
            for row in compare(self._repo, old, new)
        )


def _root(norms: dict[str, float], names: Sequence[str]) -> float | None:
    if not norms or not all(name in norms for name in names):
        return None
    return math.sqrt(math.fsum(norms[name] ** 2 for name in names))


def _files(before: Vector, after: Vector) -> tuple[str, ...]:
    return tuple(
        key.partition(":")[2]
        for key in sorted({*before.meta, *after.meta})
        if key.startswith((FILE, REMOVED)) and before.meta.get(key) != after.meta.get(key)
    )
