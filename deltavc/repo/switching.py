"""Writing a version beside the others, running the hook: what deploy and rollback share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import DeltavcError, ObjectCorrupt, RepositoryUnwritable, UsageError
from deltavc.ids import BlobId, CommitId, DeploymentId, ObjectId
from deltavc.records import canonical
from deltavc.records.ship import Deployment
from deltavc.repo import target as targets
from deltavc.repo.hooks import run_hook

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results_ship import HookRow
    from deltavc.repo.serving import Served

__all__ = [
    "Ready",
    "check_objects",
    "check_reason",
    "deployment_id",
    "keep_ready",
    "materialise",
    "run",
]

MAX_REASON = 4000
MAX_HEADER = 1 << 20  # a header line is no longer, see deltavc.delta.body


@dataclass(frozen=True)
class Ready:
    """A version's folder in the target.

    Attributes:
        folder: Its name.
        receipt: SHA-256 of its receipt.
        written: Whether it was written now.
        seconds: How long that took.
    """

    folder: str
    receipt: str
    written: bool = False
    seconds: float = 0.0


def check_reason(reason: str | None) -> str | None:
    """Returns a reason as it is kept; None for an empty one.

    Raises:
        UsageError: It is too long for an incident's record.
    """
    text = (reason or "").strip()
    if len(text) > MAX_REASON:
        raise UsageError(
            f"the reason is longer than {MAX_REASON} characters", hint="keep the rest elsewhere"
        )
    return text or None


def deployment_id(record: Deployment) -> DeploymentId:
    """Returns the object id of a deployment."""
    from deltavc.codec.digest import object_id

    return DeploymentId(object_id("deployment", [canonical.encode(record)]))


def check_objects(repo: Repository, commit: CommitId) -> tuple[int, list[str]]:
    """Reads every object of a version and compares it with its id.

    Args:
        repo: The repository.
        commit: The version.

    Returns:
        How many are whole, and a sentence for each that is not.
    """
    whole, wrong = 0, []
    try:
        manifest = repo.manifest(repo.commit(commit).manifest)
    except DeltavcError as error:
        return 0, [error.message]
    deltas = {oid for params in manifest.params.values() for oid in params}
    blobs = {oid for oid in (*manifest.files.values(), *manifest.attachments.values()) if oid}
    for oid in sorted(deltas):
        try:
            blobs |= set(_blobs_of(repo.store.get(oid, "delta")))
            whole += 1
        except DeltavcError as error:
            wrong.append(error.message)
    for blob in sorted(blobs):
        try:
            repo.store.get(ObjectId(blob), "blob")
            whole += 1
        except DeltavcError as error:
            wrong.append(error.message)
    return whole + 2, wrong


def _blobs_of(body: memoryview) -> list[BlobId]:
    """Returns the blobs that a delta refers to; NumPy is imported only where there are any."""
    header = bytes(body[:MAX_HEADER]).partition(b"\n")[0]
    if b'"blob":' not in header:
        return []
    from deltavc.delta.body import blobs_of

    return blobs_of(bytes(body))


def materialise(repo: Repository, served: Served, commit: CommitId) -> Ready:
    """Makes sure that a version lies whole in an environment's target.

    A folder that is whole is used as it is. One that is damaged is moved aside, but never
    the one that is served: then the version is written under another name.

    Args:
        repo: The repository.
        served: The environment; it has a target.
        commit: The version.

    Returns:
        The version's folder.

    Raises:
        ObjectCorrupt: An object of the version is damaged.
        BaseUnavailable: The base's files cannot be found.
        RepositoryUnwritable: The target cannot be written.
    """
    target, form = served.target, served.definition.form
    assert target is not None
    first = targets.folder_for(target, commit, form)
    name, number = first, 1
    while (target / name).exists():
        expected = served.receipt_of(commit, name)
        wrong = targets.problems(target / name, commit, expected, threads=repo.session.threads)
        if not wrong and expected is not None:
            return Ready(name, expected)
        if name != targets.linked(target):
            targets.set_aside(target / name)
            break
        number += 1
        name = f"{first}.{number}"
    started = time.monotonic()
    _write(repo, commit, target / name, form)
    digest = targets.receipt_sha256(target / name)
    if digest is None:
        raise ObjectCorrupt(f"'{target / name}' has no receipt right after it was written")
    return Ready(name, digest, written=True, seconds=time.monotonic() - started)


def _write(repo: Repository, commit: CommitId, folder: Path, form: str) -> None:
    from deltavc.repo.checkout import checkout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryUnwritable(
            f"the target '{folder.parent}' cannot be made: {error.strerror}",
            path=str(folder.parent),
        ) from error
    checkout(repo, commit, to=folder, form=form, digests=True)


def keep_ready(repo: Repository, served: Served, folder: str) -> list[str]:
    """Removes the versions of a target beyond those that are kept ready.

    Args:
        repo: The repository.
        served: The environment as it was before the switch.
        folder: The folder that is served now.

    Returns:
        The folders removed.
    """
    assert served.target is not None
    keep = [folder]
    for standing in served.standings():
        name = standing.record.folder
        if name is None or name in keep or standing.record.commit in served.marks.bad:
            continue
        if len(keep) >= served.definition.keep:
            break
        keep.append(name)
    return targets.prune(repo, served.target, keep)


def run(served: Served, record: Deployment, name: str, before: CommitId | None) -> HookRow | None:
    """Runs an environment's hook after a switch; None where there is none.

    Args:
        served: The environment.
        record: The deployment that was made.
        name: What it is called.
        before: The version that was served before.

    Returns:
        How the hook ended.
    """
    hook, target = served.definition.hook, served.target
    if hook is None or target is None:
        return None
    values = {
        "DELTAVC_ENVIRONMENT": record.environment,
        "DELTAVC_ACTION": record.action,
        "DELTAVC_DEPLOYMENT": name,
        "DELTAVC_REVISION": record.commit or "",
        "DELTAVC_PREVIOUS": before or "",
        "DELTAVC_TARGET": str(target.absolute()),
        "DELTAVC_FOLDER": "" if record.folder is None else str(target.absolute() / record.folder),
    }
    return run_hook(hook, values)
