"""The verb ``checkout``: a version becomes files.

Full weights are rebuilt tensor by tensor into a folder beside and renamed. A
workspace that still is as deltavc wrote it is changed where it lies instead:
only the tensors that differ are computed (``docs/adr/0005-workspace-in-place.md``).
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.delta.vector import ATTACHMENT, FILE, Vector
from deltavc.errors import (
    DeltavcError,
    InputError,
    IntegrityError,
    ObjectCorrupt,
    Protected,
    RefMoved,
    StateError,
    UsageError,
    WorkspaceDirty,
)
from deltavc.formats.inplace import clear_journal, read_journal, update_folder, why_not_in_place
from deltavc.formats.writer import write_folder
from deltavc.ids import CommitId, short
from deltavc.records.receipt import FORMS
from deltavc.repo import receipt, workspace
from deltavc.repo.openbase import source_path
from deltavc.repo.repository import HEAD, branch_ref
from deltavc.repo.results import CheckedOut
from deltavc.repo.revisions import resolve
from deltavc.repo.version import Version, open_version

if TYPE_CHECKING:
    from deltavc.formats.writer_plan import FolderPlan
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["checkout", "follow_head"]


@dataclass(frozen=True)
class _Done:
    """What was written, whatever the way."""

    bytes: int
    tensors: int
    files: list[str]
    in_place: bool


def checkout(
    repo: Repository,
    rev: str,
    *,
    to: Path | None = None,
    form: str = "full",
    base_path: Path | None = None,
    base_name: str | None = None,
    max_rank: int | None = None,
    rel_error: float | None = None,
    pad_rank: int | None = None,
    card: bool = False,
    verify: bool = False,
    force: bool = False,
    digests: bool = False,
    dry_run: bool = False,
) -> CheckedOut:
    """Rebuilds a revision into a folder, with a receipt that says which one it is.

    Args:
        repo: The repository.
        rev: The revision.
        to: Write there and leave HEAD alone; default: the workspace, and HEAD moves.
        form: ``full``, ``peft`` or ``vllm``.
        base_path: Where the base's files are now.
        base_name: What to write as ``base_model_name_or_path`` (peft, vllm).
        max_rank: Refuse a higher rank, or with ``rel_error`` truncate to it (peft, vllm).
        rel_error: Largest relative error when truncating (peft, vllm).
        pad_rank: Fill all factors up to this rank (vllm).
        card: Write a model card as README.md, in the place of the base's; needs ``to``.
        verify: Read the written files back and compare.
        force: Overwrite what deltavc did not write.
        digests: Have the receipt tell what each file holds; the form ``vllm`` always does.
        dry_run: Only check and say what would be written.

    Returns:
        What was written.

    Raises:
        WorkspaceDirty: The folder holds something that no commit records.
        UnsupportedFormat: The version cannot be expressed in this form.
        BaseUnavailable: The base's files cannot be found.
        BaseMismatch: They are not the base's any more.
        RefMoved: The branch went on while its revision was written; HEAD stays.
    """
    started = time.monotonic()
    target = _target(repo, to, form)
    if card and to is None:
        raise UsageError(
            "--card needs --to DIR: the workspace holds the model and nothing else",
            hint="deltavc checkout REV --to DIR --card",
        )
    _spare_bases(repo, target)
    if to is None:
        repo.require_now("checkout")
    with _turn(repo, to, dry_run=dry_run):
        state = repo.state()
        commit = resolve(repo, rev, state)
        ours = _refuse_unrecorded(repo, target, commit, force=force)
        extra = _card(repo, commit, form, base_name) if card else {}
        if form == "peft":
            from deltavc.repo.export import write_peft

            return write_peft(
                repo,
                commit,
                target,
                base_name=base_name,
                max_rank=max_rank,
                rel_error=rel_error,
                base_path=base_path,
                extra=extra,
                replace=target.exists(),
                digests=digests,
                dry_run=dry_run,
            )
        if form == "vllm":
            from deltavc.repo.export_vllm import write_for_vllm

            return write_for_vllm(
                repo,
                commit,
                target,
                base_name=base_name,
                max_rank=max_rank,
                rel_error=rel_error,
                pad_rank=pad_rank,
                base_path=base_path,
                extra=extra,
                replace=target.exists(),
                dry_run=dry_run,
            )
        version = open_version(repo, commit, base_path=base_path)
        plan = version.plan()
        sealed = receipt.seal(repo, commit, digests=digests)
        plan = replace(plan, files={**plan.files, **extra}, seal=sealed)
        done = _Done(0, 0, [], False)
        if not dry_run:
            done = _write(repo, version, plan, target, commit, ours)
            if verify:
                _verify(version, target)
        branch, moved = None, False
        if to is None:
            branch, moved = _move_head(repo, rev, commit, state, dry_run=dry_run)
    return CheckedOut(
        commit=commit,
        target=str(target),
        form=form,
        bytes=sum(t.nbytes for f in plan.weights for t in f.tensors),
        tensors=sum(len(f.tensors) for f in plan.weights),
        tensors_changed=len(version.vector.params),
        tensors_written=done.tensors,
        files=done.files,
        branch=branch,
        head_moved=moved,
        seconds=time.monotonic() - started,
        in_place=done.in_place,
        verified=verify and not dry_run,
        dry_run=dry_run,
    )


def _card(repo: Repository, commit: CommitId, form: str, base_name: str | None) -> dict[str, bytes]:
    from deltavc.repo.card import CARD_FILE, model_card

    return {CARD_FILE: model_card(repo, commit, form=form, base_name=base_name)}


def follow_head(repo: Repository) -> tuple[bool, str]:
    """Writes HEAD's version to the workspace if that is as deltavc left it.

    Returns:
        Whether it was written, and if not a note that says why.
    """
    target = repo.workspace
    if target is None or not target.exists():
        return False, ""
    try:
        with workspace.lock(repo, "undo"):
            commit = repo.head_commit(repo.state())
            found = workspace.held(repo, target)
            if commit is None:
                return False, ""
            if not workspace.is_clean(target, found):
                return False, "the workspace holds unrecorded changes and was left alone"
            version = open_version(repo, commit)
            plan = replace(version.plan(), seal=receipt.seal(repo, commit))
            _write(repo, version, plan, target, commit, found)
    except DeltavcError as error:  # the refs have moved; that stands
        return False, f"the workspace was not written: {error.message}"
    return True, ""


def _turn(repo: Repository, to: Path | None, *, dry_run: bool) -> AbstractContextManager[object]:
    """Returns the right to change the workspace, where it is going to be changed."""
    return nullcontext() if to is not None or dry_run else workspace.lock(repo, "checkout")


def _target(repo: Repository, to: Path | None, form: str) -> Path:
    if form not in FORMS:
        raise UsageError(f"'{form}' is not a form to write", hint=f"forms: {', '.join(FORMS)}")
    if to is not None:
        repo.layout.check_target(to)
        return to
    if form != "full":
        raise UsageError(f"--as {form} needs --to DIR: the workspace holds full weights")
    if repo.workspace is None:
        raise UsageError(
            "a bare repository has no workspace", hint="say where to: deltavc checkout REV --to DIR"
        )
    return repo.workspace


def _spare_bases(repo: Repository, target: Path) -> None:
    """Refuses to take the place of a base's folder, or of one that it lies in."""
    wanted = Path(os.path.realpath(target))
    for name, source in repo.base_names(repo.state()).items():
        if Path(os.path.realpath(source_path(repo, source))).is_relative_to(wanted):
            raise Protected(
                f"'{target}' holds base '{name}', which every version is rebuilt from",
                hint="choose another folder",
                base=source.base,
                path=str(target),
            )


def _refuse_unrecorded(
    repo: Repository, target: Path, commit: CommitId, *, force: bool
) -> workspace.Held | None:
    """Returns what deltavc wrote there before; refuses a folder that holds anything else."""
    found = workspace.held(repo, target)
    if not target.exists() or workspace.is_empty(target):
        return None
    if _is_cut_off(repo, target):
        return found  # a switch that was cut off: taken up again
    if workspace.is_clean(target, found):
        return found
    if not force and not _holds_a_revision(repo, target, commit, found):
        what = "unrecorded changes" if found is not None else "files that deltavc did not write"
        raise WorkspaceDirty(
            f"'{target}' holds {what}",
            hint="record them: deltavc commit PATH -m TEXT, or overwrite them: --force",
            path=str(target),
        )
    return None


def _holds_a_revision(
    repo: Repository, target: Path, commit: CommitId, found: workspace.Held | None
) -> bool:
    """Tells whether nothing is lost with a folder: it holds a revision that was to be there."""
    head = repo.head_commit(repo.state()) if target == repo.workspace else None
    known = (found.next, found.commit) if found is not None else ()
    candidates = dict.fromkeys(c for c in (*known, head, commit) if c is not None)
    return target.is_dir() and any(workspace.holds(repo, c, target) for c in candidates)


def _is_cut_off(repo: Repository, target: Path) -> bool:
    """Tells whether a journal says that this folder was being changed in place."""
    try:
        journal = read_journal(repo.layout.journal)
    except ObjectCorrupt:
        return True
    return journal is not None and journal.target == str(target.absolute())


def _write(
    repo: Repository,
    version: Version,
    plan: FolderPlan,
    target: Path,
    commit: CommitId,
    ours: workspace.Held | None,
) -> _Done:
    total, seen = sum(t.nbytes for f in plan.weights for t in f.tensors), 0

    def progress(step: int) -> None:
        nonlocal seen
        seen += step
        repo.session.progress("rebuild", seen, total)

    manifest = repo.commit(commit).manifest
    is_workspace = target == repo.workspace
    workspace.intend(repo, target, commit, manifest)
    if ours is not None and is_workspace:
        done = _in_place(repo, version, plan, target, commit, ours, progress)
        if done is not None:
            workspace.remember(repo, target, commit, manifest)
            return done
    written = write_folder(
        target, plan, threads=repo.session.threads, progress=progress, replace=target.exists()
    )
    if is_workspace:
        clear_journal(repo.layout.journal)
    workspace.remember(repo, target, commit, manifest)
    return _Done(
        bytes=written.copied + written.computed,
        tensors=sum(len(f.tensors) for f in plan.weights),
        files=sorted(written.sizes),
        in_place=False,
    )


def _in_place(
    repo: Repository,
    version: Version,
    plan: FolderPlan,
    target: Path,
    commit: CommitId,
    ours: workspace.Held,
    progress: object,
) -> _Done | None:
    """Rewrites what differs from the version that the folder holds; None if it cannot be done."""
    try:
        old = Vector.from_manifest(repo.manifest(ours.manifest))
    except IntegrityError:
        return None
    changed = _changed_tensors(version, plan, old)
    if changed is None:
        return None
    files, removed = _changed_files(version, old)
    same = not changed and not files and not removed
    if same and read_journal(repo.layout.journal) is None and _is_told(target, commit):
        return _Done(0, 0, [], True)
    if why_not_in_place(target, plan.weights, changed) is not None:
        return None
    try:
        written = update_folder(
            target,
            plan.weights,
            changed,
            journal=repo.layout.journal,
            before=ours.commit,
            after=commit,
            files=files,
            removed=removed,
            seal=plan.seal,
            threads=repo.session.threads,
            progress=progress,  # type: ignore[arg-type]
        )
    except StateError:  # also a switch to other files that was cut off: write all afresh
        return None
    count = sum(len(names) for names in changed.values())
    return _Done(
        written.copied + written.computed, count, sorted({*written.sizes, *changed, *removed}), True
    )


def _is_told(target: Path, commit: CommitId) -> bool:
    """Tells whether the receipt of a folder says just this."""
    try:
        told = receipt.read(target)
    except InputError:
        return False
    return (told.commit, told.form) == (commit, "full")


def _changed_tensors(version: Version, plan: FolderPlan, old: Vector) -> dict[str, set[str]] | None:
    """Returns the tensors to rewrite by file; None when the two versions are laid out apart."""
    new = version.vector
    layout_keys = [key for key in {*old.meta, *new.meta} if not key.startswith((FILE, ATTACHMENT))]
    if old.base != new.base or any(old.meta.get(k) != new.meta.get(k) for k in layout_keys):
        return None
    known = version.base.record.tensors
    names = {(version.prefix + param if param in known else param) for param in old.changed(new)}
    by_file = {f.name: {t.name for t in f.tensors} & names for f in plan.weights}
    return {name: tensors for name, tensors in by_file.items() if tensors}


def _changed_files(version: Version, old: Vector) -> tuple[dict[str, Path | bytes], list[str]]:
    wanted = version.files()
    keys = {k for k in {*old.meta, *version.vector.meta} if k.startswith(FILE)}
    paths = [
        key.removeprefix(FILE)
        for key in sorted(keys)
        if old.meta.get(key) != version.vector.meta.get(key)
    ]
    return {p: wanted[p] for p in paths if p in wanted}, [p for p in paths if p not in wanted]


def _verify(version: Version, target: Path) -> None:
    """Reads the written weights back and compares them with another rebuild.

    Raises:
        ObjectCorrupt: The files do not hold the version's bits.
    """
    from deltavc.formats.checkpoint import open_checkpoint

    with open_checkpoint(target) as found:
        parts = list(version.parts())
        wrong = [
            part.name
            for part in parts
            if part.name not in found.entries
            or not found.tensor(part.name).same_bits(version.tensor(part.param))
        ]
        if wrong or len(parts) != len(found.entries):
            raise ObjectCorrupt(
                f"'{target}' does not hold what was written: {len(wrong)} tensors differ",
                hint="check the disk, then check out again with --force",
                tensors=wrong[:20],
            )


def _move_head(
    repo: Repository, rev: str, commit: CommitId, before: State, *, dry_run: bool
) -> tuple[str | None, bool]:
    """Moves HEAD to what was written, unless the branch went on meanwhile."""
    branch = rev.removeprefix("branch:")
    to_branch = before.refs.get(branch_ref(branch)) == commit

    def value(state: State) -> str | None:
        if rev in (HEAD, "@"):
            return state.refs.get(HEAD)
        return branch_ref(branch) if to_branch else commit

    wanted = value(before)
    moved = before.refs.get(HEAD) != wanted
    if not dry_run:
        with repo.change("checkout") as change:
            wanted = value(change.state)
            stands = change.state.refs.get(wanted or "", wanted)
            if stands != commit:
                raise RefMoved(
                    f"'{rev}' moved while {short(commit)} was written",
                    hint=f"write it again: deltavc checkout {rev}",
                    expected=commit,
                    found=stands,
                )
            moved = change.state.refs.get(HEAD) != wanted
            if moved:
                change.summary = f"checkout {rev} {short(commit)}"
                change.detail["workspace"] = True
                change.set(HEAD, wanted)
    name = wanted.removeprefix("branch:") if wanted and wanted.startswith("branch:") else None
    return name, moved
