"""Where histories part: merge bases, and the version that several of them stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deltavc.delta.threeway import put, split, sum_terms
from deltavc.delta.vector import SHAPE, Terms, Vector
from deltavc.ids import BaseId, CommitId, DeltaId

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.repo.repository import Repository

__all__ = ["common_ancestors", "independent", "merge_base_vector"]


def independent(reader: CatalogReader, commits: Sequence[CommitId]) -> list[CommitId]:
    """Returns the commits that are no ancestor of another of them, in the order given."""
    kept = list(dict.fromkeys(commits))
    return [
        one
        for one in kept
        if not any(other != one and reader.is_ancestor(one, other) for other in kept)
    ]


def common_ancestors(
    reader: CatalogReader, ours: Sequence[CommitId], theirs: CommitId
) -> list[CommitId]:
    """Returns the best common ancestors of a commit and the merge of some others.

    Args:
        reader: Answers who descends from whom.
        ours: The commits whose merge is the one side; one is that commit itself.
        theirs: The other side.

    Returns:
        Their ids, sorted, so that the answer does not depend on who asks.
    """
    found = [oid for one in ours for oid in reader.merge_bases(one, theirs)]
    return sorted(independent(reader, found))


def merge_base_vector(
    repo: Repository, reader: CatalogReader, bases: Sequence[CommitId], base: BaseId
) -> Vector:
    """Returns the version that merge bases stand for: their own merge by ``sum``.

    Args:
        repo: The repository.
        reader: Answers who descends from whom.
        bases: The merge bases; none stands for the base model itself.
        base: The base model.

    Returns:
        The version. What several merge bases replaced in different ways is left
        out of it, so that sides which differ in it are in conflict.
    """
    if not bases:
        return Vector(base)
    merged, seen = repo.vector(bases[0]), [bases[0]]
    for commit in bases[1:]:
        below = merge_base_vector(repo, reader, common_ancestors(reader, seen, commit), base)
        merged = _virtual(below, (merged, repo.vector(commit)), _replaces(repo))
        seen.append(commit)
    return merged


def _replaces(repo: Repository) -> Callable[[DeltaId], bool]:
    return lambda oid: repo.delta(oid).kind == "replace"


def _virtual(
    base: Vector, sides: tuple[Vector, Vector], replaces: Callable[[DeltaId], bool]
) -> Vector:
    found = split(base, sides)
    params: dict[str, Terms] = {}
    meta = dict(found.meta)
    for name, standing in found.standings.items():
        put(params, meta, name, standing)
    for name in found.conflicts:
        shapes = {side.meta.get(SHAPE + name) for side in sides}
        terms = sum_terms(base.params.get(name, {}), [s.params.get(name, {}) for s in sides])
        if terms and len(shapes) == 1 and not any(map(replaces, terms)):
            params[name] = terms
            if (shape := shapes.pop()) is not None:
                meta[SHAPE + name] = shape
    return Vector(base.base, dict(sorted(params.items())), dict(sorted(meta.items())))
