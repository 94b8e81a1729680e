"""The verbs ``revert`` and ``cherry-pick``: sums and differences of versions.

``revert X`` is HEAD − X + parent(X), ``cherry-pick X`` is HEAD + X − parent(X);
both are exact, wherever in history X stands. Nothing is read of any tensor but
where replacements have to be checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    from deltavc.repo.change import Change
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
    with _on_head(repo, "revert", dry_run=dry_run) as tip:
        return tip.apply(steps, text, Source("revert", ",".join(ids)))


def cherry_pick(
    repo: Repository, revs: Sequence[str], *, message: str | None = None, dry_run: bool = False
) -> list[Committed]:
    """Brings the changes of other commits here, each as a new commit, all in one operation.

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
    with _on_head(repo, "cherry-pick", dry_run=dry_run) as tip:
        done = []
        for oid, step in zip(ids, steps, strict=True):
            origin = repo.commit(oid)
            text = message or origin.message
            done.append(tip.apply([step], text, Source("cherry-pick", oid), origin))
        if sum(one.changed for one in done) > 1 and not dry_run:
            last = tip.change.summary.removeprefix("cherry-pick ")
            tip.change.summary = f"cherry-pick of {len(ids)} revisions, the last {last}"
        return done


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


@dataclass
class _Tip:
    """HEAD within an open change: what the next commit stands on."""

    repo: Repository
    change: Change
    sink: ObjectSink
    head: CommitId
    vector: Vector
    errors: dict[str, float]
    dry_run: bool

    def apply(
        self,
        steps: Sequence[tuple[CommitId | None, CommitId | None]],
        message: str,
        source: Source,
        origin: Commit | None = None,
    ) -> Committed:
        """Adds the difference of each pair of commits, as one commit.

        Args:
            steps: Pairs of before and after; None is the base itself.
            message: Message.
            source: What the commit says it comes from.
            origin: The commit whose labels carry over.

        Returns:
            The commit; ``changed`` is False when it would equal the tip.
        """
        started, stored = time.monotonic(), self.sink.stored
        repo, here = self.repo, self.vector
        vector = here
        for before, after in steps:
            vector = shift(vector, _vector(repo, before, vector), _vector(repo, after, vector))
        names = here.changed(vector)
        _check_terms(repo, vector, names)
        errors = self.errors
        for before, after in steps:
            errors = _shift_errors(errors, _errors(repo, before), _errors(repo, after))
        errors = {name: error for name, error in errors.items() if name in vector.params}
        commit: CommitId | None = None if self.dry_run else self.head
        if vector != here and not self.dry_run:
            about = About(
                message=message,
                labels=origin.labels if origin is not None else {},
                source=source,
                errors=errors,
                contents={"from history": len(names)},
            )
            commit, _ = record_version(
                repo, self.change, self.sink, vector, about, parents=(self.head,)
            )
            assert commit is not None
            self.head = commit
        self.vector, self.errors = vector, errors
        return Committed(
            commit=commit if vector != here else self.head,
            branch=repo.head_branch(self.change.state),
            message=message,
            source=source.kind,
            base=vector.base,
            base_name=repo.base_name(self.change.state, vector.base),
            changed=vector != here,
            parameters=len(names),
            kinds=[KindRow(kind="from history", parameters=len(names), stored=0)],
            bytes_read=0,
            bytes_stored=self.sink.stored - stored,
            model_bytes=0,
            exact=not errors,
            errors=errors,
            measurements={},
            seconds=time.monotonic() - started,
            dry_run=self.dry_run,
        )


@contextmanager
def _on_head(repo: Repository, command: str, *, dry_run: bool) -> Iterator[_Tip]:
    """Opens a change whose commits stand on HEAD and on one another: all of them or none."""
    with repo.change(command) as change, repo.store.pack() as pack:
        head = repo.need_head(change.state)
        sink = ObjectSink(repo.store, None if dry_run else pack)
        errors = dict(repo.commit(head).errors)
        tip = _Tip(repo, change, sink, head, repo.vector(head), errors, dry_run)
        yield tip
        if tip.head != head:
            pack.finish()


def _check_terms(repo: Repository, vector: Vector, names: Sequence[str]) -> None:
    """Refuses a replacement that other terms would be added to."""
    if any(len(vector.params.get(name, {})) > 1 for name in names):
        base = open_base(repo, vector.base)
        known = base.record.tensors
        term_check(repo, vector, names, lambda name: base.tensor(name) if name in known else None)


def _vector(repo: Repository, oid: CommitId | None, like: Vector) -> Vector:
    """Returns a commit's vector; the parent of a first commit is the base itself."""
    return Vector(like.base) if oid is None else repo.vector(oid)


def _errors(repo: Repository, oid: CommitId | None) -> Mapping[str, float]:
    return {} if oid is None else repo.commit(oid).errors


def _shift_errors(
    head: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float]:
    """Returns the measured errors of head + (after − before): each goes with what it was of."""
    errors = dict(head)
    for name in {*before, *after}:
        old, new = before.get(name), after.get(name)
        if old == new or (name in head and head[name] != old):
            continue  # not of this change, or another approximation lies on top
        if new is None:
            errors.pop(name, None)
        else:
            errors[name] = new
    return errors
