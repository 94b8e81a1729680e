"""Evidence is given of a checkout's files only after they were compared with the version."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.errors import DeltavcError, UnsafeFile, UnsupportedFormat, WorkspaceDirty
from deltavc.formats.files import read_small, shown
from deltavc.formats.filesums import file_sizes, file_sums
from deltavc.ids import CommitId, short
from deltavc.records import canonical
from deltavc.records.receipt import RECEIPT_FILE, Receipt
from deltavc.repo import receipt, workspace

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["checked_digests", "require_checkout"]

ADAPTER = "adapter_config.json"
MAX_CONFIG = 1 << 20


def checked_digests(repo: Repository, commit: CommitId, folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a checkout, by relative path.

    Args:
        repo: The repository.
        commit: The version that the folder has to hold.
        folder: The folder.

    Returns:
        Digests in hex, sorted by path.

    Raises:
        WorkspaceDirty: The folder holds something else.
        UnsafeFile: A file cannot be read.
    """
    require_checkout(repo, commit, folder)
    return _digests(folder, repo.session.threads)


def require_checkout(repo: Repository, commit: CommitId, folder: Path) -> None:
    """Refuses a folder that does not hold just a version, as a checkout writes it.

    The bits decide, never the receipt or times in the file system: weights are compared with
    the version tensor by tensor, an adapter is written once more beside.

    Args:
        repo: The repository.
        commit: The version.
        folder: The folder.

    Raises:
        WorkspaceDirty: It holds something else, or something more.
    """
    told = _receipt(folder)
    if told is not None and told.commit != commit:
        raise _refusal(folder, commit, f"holds revision '{short(told.commit)}'")
    form = told.form if told is not None else "full"
    same = (
        workspace.holds(repo, commit, folder)
        if form == "full"
        else _holds_adapter(repo, commit, folder, form, told)
    )
    if not same:
        raise _refusal(folder, commit, "is not as a checkout writes it")


def _refusal(folder: Path, commit: CommitId, what: str) -> WorkspaceDirty:
    return WorkspaceDirty(
        f"'{shown(folder)}' {what}, so nothing can be said of it as '{short(commit)}'",
        hint=f"write it first: deltavc checkout {short(commit)} --to DIR",
        path=str(folder),
        revision=commit,
    )


def _receipt(folder: Path) -> Receipt | None:
    """Returns the folder's receipt; None where there is none, as of an older deltavc."""
    try:
        return receipt.read(folder)
    except UnsupportedFormat:
        return None


def _holds_adapter(
    repo: Repository, commit: CommitId, folder: Path, form: str, told: Receipt | None
) -> bool:
    """Tells whether a folder holds a version in a form that is small: it is written again."""
    from deltavc.repo.checkout import checkout

    served = told.adapter if told is not None else None
    place = Path(tempfile.mkdtemp(prefix="deltavc-"))
    again = place / "again"
    try:
        checkout(
            repo,
            commit,
            to=again,
            form=form,
            base_name=served.base_model_name_or_path if served else _base_name(folder),
            pad_rank=served.rank if served else None,
        )
        return _without_receipt(repo, folder) == _without_receipt(repo, again)
    except DeltavcError:  # what cannot be written, or read, is not what was written
        return False
    finally:
        workspace.forget(repo, again)
        shutil.rmtree(place, ignore_errors=True)


def _base_name(folder: Path) -> str | None:
    text = read_small(folder / ADAPTER, max_bytes=MAX_CONFIG)
    config: Any = canonical.loads_strict(text, f"'{ADAPTER}'")
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _without_receipt(repo: Repository, folder: Path) -> dict[str, str]:
    """Returns the digests of all but the receipt, in which the time differs."""
    hidden = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    found = _digests(folder, repo.session.threads) | dict.fromkeys(hidden, "")
    found.pop(RECEIPT_FILE, None)
    return found


def _digests(folder: Path, threads: int) -> dict[str, str]:
    found = {}
    for path, sums in file_sums(folder, list(file_sizes(folder)), ("sha256",), threads):
        if sums is None:
            raise UnsafeFile(f"'{shown(path)}' cannot be read", path=str(folder / path))
        found[path] = sums["sha256"]
    return dict(sorted(found.items()))
