"""The verb ``blame``: which commit brought each delta of a parameter, and how much it weighs."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from deltavc.errors import UnknownRevision
from deltavc.ids import CommitId, DeltaId
from deltavc.records.model import fraction_to_text
from deltavc.repo.results import BlameRow
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.delta.vector import Vector
    from deltavc.repo.repository import Repository

__all__ = ["blame"]


def blame(repo: Repository, pattern: str | None = None, *, rev: str = "HEAD") -> list[BlameRow]:
    """Says which commit each delta of the parameters came from.

    Args:
        repo: The repository.
        pattern: Only parameters that fit this glob.
        rev: As of this revision.

    Returns:
        One row a delta; ``share`` is its norm over the sum of the norms of the
        parameter's deltas, None where norms have no meaning (replacements).

    Raises:
        UnknownRevision: The pattern fits no changed parameter.
    """
    from deltavc.delta.compare import norm
    from deltavc.repo.openbase import open_base

    start = resolve(repo, rev)
    vector = repo.vector(start)
    names = [n for n in vector.params if pattern is None or fnmatch.fnmatchcase(n, pattern)]
    if pattern is not None and not names:
        raise UnknownRevision(
            f"no parameter that {rev} changes fits '{pattern}'",
            hint=f"list them: deltavc show {rev} --param '*'",
            pattern=pattern,
        )
    origins = _origins(repo, start, vector, names)
    base = open_base(repo, vector.base)
    rows = []
    for name in names:
        origin = base.tensor(name) if name in base.record.tensors else None
        deltas = {oid: repo.delta(oid) for oid in vector.params[name]}
        norms = {
            oid: norm([(deltas[oid], c)], origin) if deltas[oid].kind != "replace" else None
            for oid, c in vector.params[name].items()
        }
        total = sum(value for value in norms.values() if value is not None)
        for oid, coefficient in vector.params[name].items():
            commit = origins[name, oid]
            record = repo.commit(commit)
            value = norms[oid]
            rows.append(
                BlameRow(
                    parameter=name,
                    delta=oid,
                    kind=deltas[oid].kind,
                    coefficient=fraction_to_text(coefficient),
                    commit=commit,
                    author=record.author,
                    time=record.time,
                    subject=record.message.partition("\n")[0],
                    share=value / total if value is not None and total else None,
                )
            )
    return rows


def _origins(
    repo: Repository, start: CommitId, vector: Vector, names: list[str]
) -> dict[tuple[str, DeltaId], CommitId]:
    """Walks back from a commit: a delta comes from the commit no parent of which holds it."""
    origins: dict[tuple[str, DeltaId], CommitId] = {}
    open_ = {(name, oid) for name in names for oid in vector.params[name]}
    todo: list[tuple[CommitId, set[tuple[str, DeltaId]]]] = [(start, open_)]
    while todo:
        commit, wanted = todo.pop()
        parents = repo.commit(commit).parents
        for parent in parents:
            params = repo.vector(parent).params
            inherited = {(n, oid) for n, oid in wanted if oid in params.get(n, {})}
            if inherited:
                todo.append((parent, inherited))
                wanted = wanted - inherited
        for key in wanted:
            origins.setdefault(key, commit)
    return origins
