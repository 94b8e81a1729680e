"""The verb ``init``: an empty repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import NameTaken, RepositoryExists, RepositoryUnwritable
from deltavc.ids import check_name
from deltavc.ledger.log import EventLog
from deltavc.ledger.protocol import START
from deltavc.repo.layout import FORMAT_TEXT, Layout
from deltavc.repo.repository import HEAD, Repository, branch_ref
from deltavc.store import ObjectStore

if TYPE_CHECKING:
    from deltavc.repo.session import Session

__all__ = ["init"]


def init(
    root: Path,
    session: Session,
    *,
    workspace: str = "model",
    branch: str = "main",
    bare: bool = False,
    dry_run: bool = False,
) -> tuple[Repository, bool]:
    """Makes a repository in a folder; does nothing when there is the same one already.

    Args:
        root: The folder; made when missing.
        session: Who acts, the clock.
        workspace: Folder that checkout rebuilds, relative to ``root``.
        branch: Name of the first branch.
        bare: No workspace.
        dry_run: Only check.

    Returns:
        The repository and whether it was made.

    Raises:
        RepositoryExists: There is one with another workspace.
        RepositoryUnwritable: The folder cannot be written.
        InvalidName: The branch's name may not be used.
    """
    check_name(branch, "branch")
    layout = Layout(root.absolute())
    settings = _settings(workspace, bare)
    if layout.folder.exists():
        layout.check_format()
        wanted = "" if bare else workspace
        repo = Repository(layout, session)
        found = repo.workspace
        if found != (layout.root / wanted if wanted else None):
            raise RepositoryExists(
                f"'{layout.root}' holds a repository with another workspace",
                hint="change it: deltavc config set workspace.path PATH",
                workspace=str(found) if found else None,
            )
        # An init that was killed before its first event is finished now.
        return repo, False if dry_run else _begin(repo, branch)
    repo = Repository(layout, session)
    if dry_run:
        return repo, True
    try:
        is_new = _populate(layout, settings)
    except OSError as error:
        raise RepositoryUnwritable(
            f"cannot make a repository in '{layout.root}': {error.strerror}"
        ) from error
    if not is_new:  # another process was faster
        return init(root, session, workspace=workspace, branch=branch, bare=bare)
    return repo, _begin(repo, branch)


def _begin(repo: Repository, branch: str) -> bool:
    """Records the first event, unless there is one; says whether it did."""
    if repo.log.head() != START:
        return False
    with repo.change("init") as change:
        if change.state.number == 0:
            change.summary = f"init, branch {branch}"
            change.set(HEAD, branch_ref(branch))
    return change.event is not None


def _settings(workspace: str, bare: bool) -> str:
    if bare:
        return "[core]\nbare = true\n"
    quoted = workspace.replace("\\", "\\\\").replace('"', '\\"')
    return f'[workspace]\npath = "{quoted}"\n'


def _populate(layout: Layout, settings: str) -> bool:
    """Builds the folder beside and renames it: half a repository is never seen.

    Returns:
        Whether it was made; False when another process made one meanwhile.
    """
    from deltavc.formats.writer_stage import stage_folder

    try:
        with stage_folder(layout.folder, replace=False, durable=True) as stage:
            (stage.path / layout.cache.name).mkdir()
            EventLog.create(stage.path / layout.events.name)
            ObjectStore.create(stage.path)
            (stage.path / layout.config.name).write_text(settings, encoding="utf-8")
            (stage.path / layout.lock.name).touch()
            (stage.path / layout.format.name).write_text(FORMAT_TEXT, encoding="utf-8")
            stage.publish()
    except NameTaken:
        return False
    return True
