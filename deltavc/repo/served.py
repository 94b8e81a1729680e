"""Which environments serve which revisions, for ``log``, ``show`` and ``status``.

Told of the refs and the catalog, unlike :mod:`deltavc.repo.serving`, on which an
incident stands.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from deltavc.errors import DeltavcError, UnknownRevision
from deltavc.ids import CommitId, ObjectId
from deltavc.records import canonical
from deltavc.records.ship import Deployment
from deltavc.repo.results import ServedRow, StandingRow

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["MOST", "relations", "served", "standings"]

ENVIRONMENT, SERVE = "env:", "serve:"  # refs; what knows more of them is loaded when needed

MOST = 1000
"""How many revisions between two others are counted at most."""


def served(repo: Repository, state: State, reader: CatalogReader) -> dict[str, CommitId]:
    """Returns what environments serve.

    Args:
        repo: The repository.
        state: The refs.
        reader: The catalog.

    Returns:
        Environment to revision, by name; those that serve nothing are left out.
    """
    refs = {
        name.removeprefix(SERVE): value
        for name, value in sorted(state.refs.items())
        if name.startswith(SERVE)
    }
    now = reader.serving() if refs else {}
    found: dict[str, CommitId] = {}
    for name, value in refs.items():
        row = now.get(name)
        if row is not None and row.id == value:
            commit = row.commit
        else:  # as it was at an earlier operation
            body = repo.store.get(ObjectId(value), "deployment")
            commit = canonical.decode(body, Deployment).commit
        if commit is not None:
            found[name] = commit
    return found


def relations(
    repo: Repository, state: State, reader: CatalogReader, commit: CommitId
) -> list[ServedRow] | None:
    """Tells how what environments serve, and served, is related to a revision.

    Args:
        repo: The repository.
        state: The refs.
        reader: The catalog.
        commit: The revision.

    Returns:
        A row for each environment that serves something, and one for each that served
        the revision before; None where there are no environments.
    """
    now = served(repo, state, reader)
    if not now and not _defined(repo, state):
        return None
    rows = [
        ServedRow(environment=name, revision=other, relation=_relation(reader, other, commit))
        for name, other in now.items()
    ]
    return [*rows, *_earlier(reader, commit, now)]


def _relation(reader: CatalogReader, other: CommitId, commit: CommitId) -> str:
    """Says what another revision is to this one."""
    if other == commit:
        return "this"
    try:
        if reader.is_ancestor(other, commit):
            return "ancestor"
        return "descendant" if reader.is_ancestor(commit, other) else "apart"
    except UnknownRevision:  # left out of the catalog, since it is damaged
        return "apart"


def _defined(repo: Repository, state: State) -> set[str]:
    """Returns the names of the environments; those of a policy file that makes no sense lack."""
    recorded = {n.removeprefix(ENVIRONMENT) for n in state.refs if n.startswith(ENVIRONMENT)}
    if not (repo.root / "deltavc.toml").exists():
        return recorded
    from deltavc.repo.environment_policy import definitions

    try:
        return recorded | definitions(repo, state.refs).keys()
    except DeltavcError as error:
        repo.warnings.append(error.message)
        return recorded


def _earlier(reader: CatalogReader, commit: CommitId, now: dict[str, CommitId]) -> list[ServedRow]:
    """Returns the last time that each environment served a revision which it serves no more."""
    past = [row for row in reader.deployments_of(commit) if now.get(row.environment) != commit]
    if not past:
        return []
    from deltavc.repo.serving import deployment_name

    rows = {
        row.environment: ServedRow(
            environment=row.environment,
            revision=commit,
            relation="this",
            deployment=deployment_name(row.number),
            until_time=row.until,
        )
        for row in past
    }
    return [rows[name] for name in sorted(rows)]


def standings(
    repo: Repository, state: State, reader: CatalogReader, head: CommitId | None
) -> list[StandingRow]:
    """Tells how far what environments serve is from a revision.

    Args:
        repo: The repository.
        state: The refs.
        reader: The catalog.
        head: The revision.

    Returns:
        The environments by name. Counts end at :data:`MOST`.
    """
    now = served(repo, state, reader)
    rows = []
    for name in sorted({*_defined(repo, state), *now}):
        commit, behind, ahead = now.get(name), None, None
        if commit is not None and head is not None:
            behind = _count(reader, head, commit)
            ahead = _count(reader, commit, head)
        rows.append(StandingRow(environment=name, revision=commit, behind=behind, ahead=ahead))
    return rows


def _count(reader: CatalogReader, start: CommitId, exclude: CommitId) -> int | None:
    """Counts the revisions of one that are not of the other; None where one is not known."""
    if start == exclude:
        return 0
    try:
        return sum(1 for _ in islice(reader.ancestors([start], exclude=[exclude]), MOST))
    except UnknownRevision:  # left out of the catalog, since it is damaged
        return None
