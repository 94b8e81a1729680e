"""The verb ``status``: where HEAD stands and whether the workspace still holds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.ids import CommitId
from deltavc.repo import workspace
from deltavc.repo.results import HeadInfo, StandingRow, Status

if TYPE_CHECKING:
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository
    from deltavc.repo.version import Version

__all__ = ["status"]


def status(repo: Repository, *, hash_: bool = True) -> Status:
    """Tells where things stand.

    Args:
        repo: The repository.
        hash_: Compare the workspace's tensors with HEAD's unless the files are
            just as deltavc left them; else go by size, time and inode alone.

    Returns:
        The status; ``clean`` is None when that cannot be told without hashing.
    """
    state = repo.state()
    head = repo.head_commit(state)
    record = repo.commit(head) if head is not None else None
    folder = repo.workspace
    exists = folder is not None and folder.exists()
    found = workspace.held(repo, folder) if folder is not None and exists else None
    untouched = folder is not None and workspace.is_clean(folder, found)
    interrupted = _interrupted(repo)
    facts: dict[str, Any] = {"changed": [], "new": [], "missing": [], "files": []}
    clean: bool | None = None
    hashed = False
    if folder is not None and exists and not interrupted and head is not None and record:
        if untouched and found is not None and found.manifest == record.manifest:
            clean = True
        elif hash_ and untouched:
            clean = False  # another revision, just as it was written: nothing has to be read
        elif hash_:
            facts, hashed = _compare(repo, head, folder), True
            clean = not any(facts.values())
    return Status(
        head=HeadInfo(branch=repo.head_branch(state), commit=head),
        base=record.base if record else None,
        base_name=repo.base_name(state, record.base) if record else None,
        workspace=str(folder) if folder is not None else None,
        workspace_exists=exists,
        workspace_commit=found.commit if found is not None and untouched else None,
        clean=clean,
        hashed=hashed,
        parameters=len(repo.manifest(record.manifest).params) if record else 0,
        measurements=_measurements(repo, head),
        interrupted=interrupted,
        environments=_environments(repo, state, head),
        **facts,
    )


def _interrupted(repo: Repository) -> bool:
    """Tells whether a rewrite of the workspace was cut off; the next checkout does it again."""
    return repo.layout.journal.exists()


def _measurements(repo: Repository, head: CommitId | None) -> dict[str, float | None]:
    if head is None:
        return {}
    return {row.kpi: row.value for row in repo.reader().measurements(head)}


def _environments(repo: Repository, state: State, head: CommitId | None) -> list[StandingRow]:
    from deltavc.repo.served import standings

    return standings(repo, state, repo.reader(), head)


def _compare(repo: Repository, head: CommitId, folder: Path) -> dict[str, Any]:
    """Compares a folder's tensors and files with a revision's, at memory speed where equal."""
    from deltavc.formats.checkpoint import open_checkpoint
    from deltavc.repo.parallel import unordered
    from deltavc.repo.version import open_version

    version = open_version(repo, head)
    with open_checkpoint(folder) as found:
        parts = {part.name: part for part in version.parts()}
        shared = [name for name in parts if name in found.entries]
        total = sum(found.tensor(name).nbytes for name in shared) or 1
        done = 0

        def one(name: str) -> tuple[str, dict[str, Any] | None]:
            now, then = found.tensor(name), version.tensor(parts[name].param, threads=1)
            if then.same_bits(now):
                return name, None
            return name, {"name": name, "relative": _relative(then, now)}

        changed = []
        for name, difference in unordered(one, shared, repo.session.threads):
            done += found.tensor(name).nbytes
            repo.session.progress("compare", done, total)
            if difference is not None:
                changed.append(difference)
        return {
            "changed": sorted(changed, key=lambda row: str(row["name"])),
            "new": sorted(set(found.entries) - set(parts) - set(found.tied)),
            "missing": sorted(set(parts) - set(found.entries)),
            "files": _files(version, found.files),
        }


def _relative(then: Any, now: Any) -> float | None:
    """Returns ‖now − then‖ / ‖then‖ in float64; None where that has no meaning."""
    import numpy as np

    if now.shape != then.shape or not (now.dtype.arithmetic and then.dtype.arithmetic):
        return None
    before, after = then.to_float64(), now.to_float64()
    norm = float(np.linalg.norm(before))
    value = float(np.linalg.norm(after - before)) / norm if norm else float("inf")
    return value if np.isfinite(value) else None


def _files(version: Version, found: dict[str, Path]) -> list[str]:
    wanted = version.files()
    different = set(wanted) ^ set(found)
    for name in set(wanted) & set(found):
        content = wanted[name]
        expected = content if isinstance(content, bytes) else content.read_bytes()
        if found[name].read_bytes() != expected:
            different.add(name)
    return sorted(different)
