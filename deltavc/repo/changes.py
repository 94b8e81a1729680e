"""The verbs ``revert`` and ``cherry-pick``: sums and differences of versions.

``revert X`` is HEAD − X + parent(X), ``cherry-pick X`` is HEAD + X − parent(X);
both are exact, wherever in history X stands. Nothing is read of any tensor but
where replacements have to be checked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltavc.delta.vector import Vector, shift
from deltavc.errors import UsageError
from deltavc.ids import CommitId, short
from deltavc.records.model import Commit, Source
from deltavc.repo.encoding import term_check
from deltavc.repo.objects import ObjectSink
from deltavc.repo.openbase import open_base
from deltavc.repo.record import About, record_version
from deltavc.repo.results import Committed, KindRow
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["cherry_pick", "revert"]


def revert(
    repo: Repository,
    revs: Sequence[str],
    *,
    message: str | None = None,
    mainline: int | None = None,
    dry_run: bool = False,
) -> Committed:
    """Takes commits back with one new commit; the bits are those of the history without them.

    Args:
        repo: The repository.
        revs: The commits.
        message: Message; default says what is reverted.
        mainline: Which parent of a merge is the one to go back to, from 1.
        dry_run: Only check and say what would change.

    Returns:
        The new commit; ``changed`` is False when it would equal HEAD.

    Raises:
        UsageError: A merge without ``mainline``.
        MergeConflict: A file or a replacement changed since in another way.
    """
    state = repo.state()
    ids = [resolve(repo, rev, state) for rev in revs]
    steps = [(oid, _parent(repo, oid, mainline)) for oid in ids]
    subjects = [repo.commit(oid).message.partition("\n")[0] for oid in ids]
    text = message or "\n\n".join(
        [
            "Revert " + ", ".join(f'"{s}"' for s in subjects),
            "This takes back " + ", ".join(ids) + ".",
        ]
    )
    return _apply(repo, "revert", steps, text, dry_run=dry_run)


def cherry_pick(
    repo: Repository, revs: Sequence[str], *, message: str | None = None, dry_run: bool = False
) -> list[Committed]:
    """Brings the changes of other commits here, each as a new commit.

    Args:
        repo: The repository.
        revs: The commits, in the order in which to apply them.
        message: Message; default: that of the commit.
        dry_run: Only check and say what would change.

    Returns:
        One outcome a commit.

    Raises:
        UsageError: One is a merge.
        BaseMismatch: One stands on another base.
        MergeConflict: A file or a replacement changed in another way here.
    """
    state = repo.state()
    ids = [resolve(repo, rev, state) for rev in revs]
    steps = [(_parent(repo, oid, None), oid) for oid in ids]
    return [
        _apply(
            repo,
            "cherry-pick",
            [step],
            message or repo.commit(oid).message,
            dry_run=dry_run,
            origin=repo.commit(oid),
            detail=oid,
        )
        for oid, step in zip(ids, steps, strict=True)
    ]


def _parent(repo: Repository, oid: CommitId, mainline: int | None) -> CommitId | None:
    parents = repo.commit(oid).parents
    if mainline is None:
        if len(parents) > 1:
            raise UsageError(
                f"{short(oid)} is a merge: which parent is the one to go back to?",
                hint=f"deltavc revert {short(oid)} --mainline 1",
                commit=oid,
            )
        return parents[0] if parents else None
    if not 1 <= mainline <= len(parents):
        raise UsageError(f"{short(oid)} has {len(parents)} parents, not {mainline}", commit=oid)
    return parents[mainline - 1]


def _apply(
    repo: Repository,
    command: str,
    steps: Sequence[tuple[CommitId | None, CommitId | None]],
    message: str,
    *,
    dry_run: bool,
    origin: Commit | None = None,
    detail: str = "",
) -> Committed:
    started = time.monotonic()
    with repo.change(command) as change, repo.store.pack() as pack:
        head = repo.need_head(change.state)
        here = vector = repo.vector(head)
        for before, after in steps:
            vector = shift(vector, _vector(repo, before, vector), _vector(repo, after, vector))
        names = here.changed(vector)
        if any(len(vector.params.get(name, {})) > 1 for name in names):
            base = open_base(repo, vector.base)
            known = base.record.tensors
            term_check(
                repo, vector, names, lambda name: base.tensor(name) if name in known else None
            )
        sink = ObjectSink(repo.store, None if dry_run else pack)
        oid: CommitId | None = None
        changed = vector != here
        if changed and not dry_run:
            about = About(
                message=message,
                labels=origin.labels if origin is not None else {},
                source=Source(command, detail or ",".join(filter(None, (a for a, _ in steps)))),
                errors=_errors(repo, vector, head, origin),
                contents={"from history": len(names)},
            )
            oid, changed = record_version(repo, change, sink, vector, about)
            pack.finish()
        branch = repo.head_branch(change.state)
    return Committed(
        commit=oid if changed else head,
        branch=branch,
        message=message,
        source=command,
        base=vector.base,
        base_name=repo.base_name(repo.state(), vector.base),
        changed=changed,
        parameters=len(names),
        kinds=[KindRow(kind="from history", parameters=len(names), stored=0)],
        bytes_read=0,
        bytes_stored=sink.stored,
        model_bytes=0,
        exact=True,
        errors={},
        measurements={},
        seconds=time.monotonic() - started,
        dry_run=dry_run,
    )


def _vector(repo: Repository, oid: CommitId | None, like: Vector) -> Vector:
    """Returns a commit's vector; the parent of a first commit is the base itself."""
    return Vector(like.base) if oid is None else repo.vector(oid)


def _errors(
    repo: Repository, vector: Vector, head: CommitId, origin: Commit | None
) -> dict[str, float]:
    """Keeps the measured errors of approximate parameters that the new version still holds."""
    known = dict(repo.commit(head).errors) | dict(origin.errors if origin is not None else {})
    return {name: error for name, error in known.items() if name in vector.params}
