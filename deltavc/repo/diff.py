"""The verb ``diff``: how two versions differ, parameter by parameter.

The difference of two vectors is a vector; norms, cosine and ranks are computed
on its factors without forming full matrices where both sides are low-rank.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deltavc.delta.vector import ATTACHMENT, FILE, REMOVED, Vector
from deltavc.errors import BaseMismatch, ShapeMismatch, UsageError
from deltavc.ids import CommitId, ObjectId, short
from deltavc.repo.repository import HEAD
from deltavc.repo.results import Diff, DiffRow
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.openbase import OpenBase
    from deltavc.repo.repository import Repository

__all__ = ["diff"]

WORKSPACE = "workspace"


def diff(
    repo: Repository,
    a: str | None = None,
    b: str | None = None,
    *,
    params: Sequence[str] = (),
    with_kpis: bool = False,
) -> Diff:
    """Compares two revisions, or HEAD and the workspace.

    Args:
        repo: The repository.
        a: The one; with neither ``a`` nor ``b``: HEAD.
        b: The other; with ``a`` alone: HEAD; with neither: the workspace.
        params: Only parameters that fit one of these globs.
        with_kpis: Add the latest measurements of both.

    Returns:
        The difference.

    Raises:
        BaseMismatch: The two stand on different bases.
    """
    from deltavc.repo.openbase import open_base

    state = repo.state()
    left = resolve(repo, a or HEAD, state)
    before = repo.vector(left)
    if a is None and b is None:
        right, after = WORKSPACE, _workspace_vector(repo, before)
    else:
        right = resolve(repo, b or HEAD, state)
        after = repo.vector(CommitId(ObjectId(right)))
    if before.base != after.base:
        raise BaseMismatch(
            f"the two stand on different bases: {short(before.base)} and {short(after.base)}",
            expected=before.base,
            found=after.base,
        )
    names = [
        name
        for name in before.changed(after)
        if not params or any(fnmatch.fnmatchcase(name, p) for p in params)
    ]
    rows: list[DiffRow] = []
    if names:
        base = open_base(repo, before.base)
        sizes = [base.checkpoint.entries[n].nbytes if n in base.sha256 else 0 for n in names]
        done = 0
        for name, size in zip(names, sizes, strict=True):
            rows.append(_row(repo, base, name, before, after))
            done += size
            repo.session.progress("compare", done, sum(sizes))
    files = _meta_changes(before, after)
    return Diff(
        a=left,
        b=str(right),
        base=before.base,
        base_name=repo.base_name(state, before.base),
        same=_is_same_model(before, after),
        total_a=len(before.params),
        total_b=len(after.params),
        rows=rows,
        files=files,
        measurements=_measurements(repo, left, str(right)) if with_kpis else [],
    )


def _is_same_model(before: Vector, after: Vector) -> bool:
    """Tells whether two versions rebuild to the same files; attachments only say where from."""
    one, other = (
        {key: value for key, value in vector.meta.items() if not key.startswith(ATTACHMENT)}
        for vector in (before, after)
    )
    return before.base == after.base and before.params == after.params and one == other


def _workspace_vector(repo: Repository, head: Vector) -> Vector:
    """Encodes the workspace as a commit would, keeping the objects in memory only."""
    from deltavc.formats.checkpoint import open_checkpoint
    from deltavc.repo.encoding import Options, encode_checkpoint
    from deltavc.repo.objects import ObjectSink
    from deltavc.repo.openbase import open_base

    if repo.workspace is None or not repo.workspace.exists():
        raise UsageError("there is no workspace to compare", hint="deltavc diff A B")
    with open_checkpoint(repo.workspace) as found:
        sink = ObjectSink(repo.store, None, keep=True)
        base = open_base(repo, head.base)
        options = Options(effort="fast")
        vector = encode_checkpoint(repo, base, found, head, options, sink).vector
        repo.transient.update(sink.deltas)
        return vector


def _row(repo: Repository, base: OpenBase, name: str, before: Vector, after: Vector) -> DiffRow:
    from deltavc.delta.compare import compare

    old, new = before.params.get(name, {}), after.params.get(name, {})
    in_base = name in base.record.tensors
    origin = base.tensor(name) if in_base else None
    change = "changed" if old and new else "added" if new else "removed"
    try:
        found = compare(
            [(repo.delta(oid), c) for oid, c in old.items()],
            [(repo.delta(oid), c) for oid, c in new.items()],
            origin,
        )
    except ShapeMismatch:  # replacements of another form have no difference in numbers
        return DiffRow(
            parameter=name,
            norm_a=None,
            norm_b=None,
            norm_diff=None,
            relative=None,
            cosine=None,
            rank_a=None,
            rank_b=None,
            change="replaced" if old and new else change,
        )
    return DiffRow(
        parameter=name,
        norm_a=found.norm_a,
        norm_b=found.norm_b,
        norm_diff=found.norm_diff,
        relative=found.norm_diff / found.norm_a if found.norm_a else None,
        cosine=None if math.isnan(found.cosine) else found.cosine,
        rank_a=found.rank_a,
        rank_b=found.rank_b,
        change=change,
    )


def _meta_changes(before: Vector, after: Vector) -> list[dict[str, str]]:
    changes = []
    for key in sorted({*before.meta, *after.meta}):
        old, new = before.meta.get(key), after.meta.get(key)
        if old != new and key.startswith((FILE, REMOVED)):
            what = "changed" if old is not None and new is not None else "added"
            if new is None:
                what = "as in the base"
            elif new == "" or key.startswith(REMOVED):
                what = "removed"
            changes.append({"name": key.partition(":")[2], "change": what})
    return changes


def _measurements(repo: Repository, left: CommitId, right: str) -> list[dict[str, Any]]:
    reader = repo.reader()
    a = {row.kpi: row.value for row in reader.measurements(left)}
    b: dict[str, float | None] = {}
    if right != WORKSPACE:
        b = {row.kpi: row.value for row in reader.measurements(CommitId(ObjectId(right)))}
    return [{"kpi": k, "a": a.get(k), "b": b.get(k)} for k in sorted({*a, *b})]
