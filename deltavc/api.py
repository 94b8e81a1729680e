"""The Python API: the verbs of the command line as methods of one object.

::

    import deltavc

    repo = deltavc.open(".")
    repo.commit("out/checkpoint-300", message="epoch 4", kpis={"accuracy": 0.879})
    state_dict = repo.load("main")          # torch tensors, nothing written to disk
    repo.revert(["HEAD~1"])

Names exported here follow semantic versioning. Results are the records of
:mod:`deltavc.repo.results`, errors those of :mod:`deltavc.errors`.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.api_audit import Auditing
from deltavc.api_measure import Measuring
from deltavc.api_report import Reporting
from deltavc.api_ship import Shipping
from deltavc.repo.repository import Repository as _Repository
from deltavc.repo.session import Progress, Session, Signing, no_progress

if TYPE_CHECKING:
    import torch

    from deltavc.live.model import LiveModel
    from deltavc.repo import results

__all__ = ["Repository", "Signing", "init", "open"]

PathLike = str | os.PathLike[str]


def _clock() -> int:
    return time.time_ns() // 1_000_000


def _session(
    actor: str | None,
    threads: int,
    progress: Progress | None,
    clock: Callable[[], int] | None,
    signing: Signing | None,
) -> Session:
    if actor is None:
        actor = f"{getpass.getuser()} <{getpass.getuser()}@{socket.gethostname()}>"
    signing = signing or Signing()
    if not signing.environ:  # OpenSSH needs PATH and where the agent is, as all programs do
        signing = replace(signing, environ=os.environ)
    return Session(
        actor,
        clock or _clock,
        threads,
        progress or no_progress,
        signing=signing,
        host=socket.gethostname(),
        user=getpass.getuser(),
    )


def open(  # noqa: A001 - deltavc.open reads like the built-in that it stands for
    path: PathLike = ".",
    *,
    actor: str | None = None,
    threads: int = 2,
    progress: Progress | None = None,
    clock: Callable[[], int] | None = None,
    signing: Signing | None = None,
) -> Repository:
    """Opens the repository at or above a folder.

    Args:
        path: Where to look first.
        actor: Who acts, ``name <mail>``; default: the user of this process.
        threads: Worker threads.
        progress: Called with what is done, how much of it, and of how much.
        clock: Returns milliseconds since 1970, UTC; default: the system's clock.
        signing: With which key to sign, and whose signatures count.

    Returns:
        The repository.

    Raises:
        deltavc.errors.NotARepository: There is none.
        deltavc.errors.FormatTooNew: A newer deltavc wrote it.
    """
    session = _session(actor, threads, progress, clock, signing)
    return Repository(_Repository.open(Path(path), session))


def init(
    path: PathLike = ".",
    *,
    workspace: str = "model",
    branch: str = "main",
    bare: bool = False,
    actor: str | None = None,
    threads: int = 2,
    clock: Callable[[], int] | None = None,
    signing: Signing | None = None,
) -> Repository:
    """Makes a repository in a folder, or opens the same one that is there.

    Args:
        path: The folder; made when missing.
        workspace: Folder that checkout rebuilds, relative to ``path``.
        branch: Name of the first branch.
        bare: No workspace.
        actor: Who acts.
        threads: Worker threads.
        clock: Returns milliseconds since 1970, UTC.
        signing: With which key to sign, and whose signatures count.

    Returns:
        The repository.

    Raises:
        deltavc.errors.RepositoryExists: There is one with another workspace.
    """
    from deltavc.repo.initialise import init as make

    session = _session(actor, threads, None, clock, signing)
    repo, _ = make(Path(path), session, workspace=workspace, branch=branch, bare=bare)
    return Repository(repo)


class Repository(Measuring, Shipping, Auditing, Reporting):
    """A repository, with a method for each verb.

    Made by :func:`open` and :func:`init`. Options are those of the command line,
    told in the reference of each verb.
    """

    def __init__(self, repo: _Repository) -> None:
        self._repo = repo

    @property
    def path(self) -> Path:
        """The folder that holds the repository."""
        return self._repo.root

    @property
    def warnings(self) -> list[str]:
        """What went not quite as asked since the repository was opened."""
        return self._repo.warnings

    # bases ----------------------------------------------------------------

    def add_base(
        self, name: str, path: PathLike, *, source: str | None = None, copy: bool = False
    ) -> results.BaseInfo:
        """Registers a frozen model under a name."""
        from deltavc.repo import bases

        return bases.add(self._repo, name, Path(path), source=source, copy=copy)

    def bases(self) -> list[results.BaseInfo]:
        """Returns the registered bases."""
        from deltavc.repo import bases

        return bases.list_(self._repo)

    # record ---------------------------------------------------------------

    def commit(
        self,
        source: PathLike | None = None,
        *,
        message: str,
        kind: str = "auto",
        base: str | None = None,
        stack: bool = False,
        max_rank: int | None = None,
        rel_error: float | None = None,
        effort: str = "default",
        params: Sequence[str] = (),
        exclude: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        data: Sequence[PathLike] = (),
        kpis: Mapping[str, float] | None = None,
        run: str | None = None,
        allow_pickle: bool = False,
        dry_run: bool = False,
        branch: str | None = None,
        sign: bool = False,
    ) -> results.Committed:
        """Records what the model is; see :func:`deltavc.repo.record.commit`."""
        from deltavc.repo import record

        return record.commit(
            self._repo,
            None if source is None else Path(source),
            message=message,
            kind=kind,
            base=base,
            stack=stack,
            max_rank=max_rank,
            rel_error=rel_error,
            effort=effort,
            params=params,
            exclude=exclude,
            labels=labels,
            data=[Path(path) for path in data],
            kpis=kpis,
            run=run,
            allow_pickle=allow_pickle,
            dry_run=dry_run,
            branch=branch,
            sign=sign,
        )

    def status(self, *, hash: bool = True) -> results.Status:  # noqa: A002 - the option's name
        """Tells where HEAD stands and whether the workspace still holds it."""
        from deltavc.repo import status

        return status.status(self._repo, hash_=hash)

    def diff(
        self, a: str | None = None, b: str | None = None, *, params: Sequence[str] = ()
    ) -> results.Diff:
        """Compares two revisions parameter by parameter."""
        from deltavc.repo import diff

        return diff.diff(self._repo, a, b, params=params)

    # history --------------------------------------------------------------

    def log(
        self,
        revisions: str | None = None,
        *,
        limit: int | None = None,
        signatures: bool = False,
    ) -> list[results.LogRow]:
        """Returns revisions, newest first."""
        from deltavc.repo import history

        return history.log(self._repo, range_=revisions, limit=limit, signatures=signatures)

    def show(self, name: str = "HEAD") -> results.Shown:
        """Returns an object: a commit, tag, manifest, base, delta or operation."""
        from deltavc.repo import history

        return history.show(self._repo, name)

    def blame(self, pattern: str | None = None, *, rev: str = "HEAD") -> list[results.BlameRow]:
        """Says which commit brought each delta of the parameters."""
        from deltavc.repo.blame import blame

        return blame(self._repo, pattern, rev=rev)

    def resolve(self, name: str) -> str:
        """Returns the id of the commit that a revision's name stands for."""
        from deltavc.repo.revisions import resolve

        return resolve(self._repo, name)

    def serving_id(self, rev: str = "HEAD") -> str:
        """Returns what a server answers with, to say which revision it serves."""
        from deltavc.ids import serving_id
        from deltavc.repo.revisions import resolve

        return serving_id(resolve(self._repo, rev))

    def branch(self, name: str, start: str | None = None) -> results.BranchRow:
        """Makes a branch."""
        from deltavc.repo import branches

        return branches.create(self._repo, name, start)

    def branches(self) -> list[results.BranchRow]:
        """Returns the branches."""
        from deltavc.repo import branches

        return branches.list_(self._repo)

    def switch(
        self, name: str, *, create: bool = False, start: str | None = None
    ) -> results.BranchRow:
        """Moves HEAD to a branch, made here or at ``start`` if asked for, and writes no model."""
        from deltavc.repo import branches

        if create:
            return branches.switch(self._repo, create=name, start=start)
        return branches.switch(self._repo, name, start=start)

    def tag(
        self,
        name: str,
        rev: str | None = None,
        *,
        message: str | None = None,
        sign: bool = False,
    ) -> results.BranchRow:
        """Gives a commit a fixed name."""
        from deltavc.repo import branches

        return branches.tag(self._repo, name, rev, message=message, sign=sign)

    def verify_tag(self, name: str) -> results.BranchRow:
        """Checks the signatures of a tag; see :func:`deltavc.repo.branches.verify_tag`."""
        from deltavc.repo import branches

        return branches.verify_tag(self._repo, name)

    def tags(self) -> list[results.BranchRow]:
        """Returns the tags."""
        from deltavc.repo import branches

        return branches.tags(self._repo)

    def revert(
        self, revs: Sequence[str], *, message: str | None = None, mainline: int | None = None
    ) -> results.Committed:
        """Takes commits back with one new commit, exactly."""
        from deltavc.repo import changes

        return changes.revert(self._repo, revs, message=message, mainline=mainline)

    def cherry_pick(
        self, revs: Sequence[str], *, message: str | None = None
    ) -> list[results.Committed]:
        """Brings the changes of other commits here."""
        from deltavc.repo import changes

        return changes.cherry_pick(self._repo, revs, message=message)

    def merge(
        self,
        revs: Sequence[str],
        *,
        message: str | None = None,
        strategy: str | None = None,
        options: Mapping[str, object] | None = None,
        resolve: Sequence[str] = (),
        max_rank: int | None = None,
        rel_error: float | None = None,
        fast_forward: str = "auto",
        dry_run: bool = False,
    ) -> results.Merged:
        """Merges other lines of adaptation into HEAD, three-way from the merge base."""
        from deltavc.repo import merge

        return merge.merge(
            self._repo,
            revs,
            message=message,
            strategy=strategy,
            options=options,
            resolve=resolve,
            max_rank=max_rank,
            rel_error=rel_error,
            fast_forward=fast_forward,
            dry_run=dry_run,
        )

    # rebuild --------------------------------------------------------------

    def checkout(
        self,
        rev: str,
        *,
        to: PathLike | None = None,
        form: str = "full",
        base_path: PathLike | None = None,
        base_name: str | None = None,
        max_rank: int | None = None,
        rel_error: float | None = None,
        pad_rank: int | None = None,
        card: bool = False,
        verify: bool = False,
        force: bool = False,
        digests: bool = False,
    ) -> results.CheckedOut:
        """Rebuilds a revision into a folder, with a receipt that says which one it is."""
        from deltavc.repo import checkout

        return checkout.checkout(
            self._repo,
            rev,
            to=None if to is None else Path(to),
            form=form,
            base_path=None if base_path is None else Path(base_path),
            base_name=base_name,
            max_rank=max_rank,
            rel_error=rel_error,
            pad_rank=pad_rank,
            card=card,
            verify=verify,
            force=force,
            digests=digests,
        )

    def load(
        self, rev: str = "HEAD", *, params: Sequence[str] = (), base_path: PathLike | None = None
    ) -> dict[str, torch.Tensor]:
        """Rebuilds a revision as a state dict, in memory.

        Args:
            rev: The revision.
            params: Only tensors that fit one of these globs.
            base_path: Where the base's files are now.

        Returns:
            Tensor name to a torch tensor of its own memory, with the bits that
            checkout writes.
        """
        from deltavc.repo.loading import load

        where = None if base_path is None else Path(base_path)
        return load(self._repo, rev, params=params, base_path=where)

    def files(self, rev: str = "HEAD", *, base_path: PathLike | None = None) -> dict[str, bytes]:
        """Returns the files that go with a revision's weights: config, tokenizer and the like.

        Args:
            rev: The revision.
            base_path: Where the base's files are now.

        Returns:
            Relative path to contents.
        """
        from deltavc.repo.loading import files

        where = None if base_path is None else Path(base_path)
        return files(self._repo, rev, base_path=where)

    def live(
        self,
        module: torch.nn.Module,
        rev: str = "HEAD",
        *,
        staging: str = "beside",
        base: str = "mapped",
        base_path: PathLike | None = None,
    ) -> LiveModel:
        """Makes a resident torch module live: it moves between versions where it lies.

        Args:
            module: A module in CPU memory, of the base's architecture and dtype. It
                need not hold any version: it is brought to ``rev`` at once.
            rev: The first revision.
            staging: ``beside`` rebuilds beside and exchanges pointers, so that requests
                hardly wait; ``in-place`` needs no such memory, and requests wait.
            base: ``mapped`` reads the base from its files, ``memory`` from a copy.
            base_path: Where the base's files are now.

        Returns:
            The live model: ``switch``, ``rollback``, ``verify``, ``serving``, ``revision``.
        """
        from deltavc.repo.living import live

        where = None if base_path is None else Path(base_path)
        return live(self._repo, module, rev, staging=staging, base=base, base_path=where)

    # safety ---------------------------------------------------------------

    def undo(self) -> results.Undone:
        """Takes back the newest operation."""
        from deltavc.repo import operations

        return operations.undo(self._repo)

    def redo(self) -> results.Undone:
        """Does again what the newest undo took back."""
        from deltavc.repo import operations

        return operations.redo(self._repo)

    def restore(self, operation: str) -> results.Undone:
        """Puts all refs back to where they were right after an operation."""
        from deltavc.repo import operations

        return operations.restore(self._repo, operation)

    def operations(self, *, limit: int | None = None) -> list[results.OperationRow]:
        """Returns the operations, newest first."""
        from deltavc.repo import operations

        return operations.log(self._repo, limit=limit)

    def fsck(self, *, quick: bool = False, deep: bool = False) -> results.Checked:
        """Checks objects, event log and catalog; with ``deep`` does merges again."""
        from deltavc.repo import checks

        return checks.fsck(self._repo, quick=quick, deep=deep)
