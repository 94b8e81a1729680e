"""A revision in memory: its state dict, and the files that go with it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.delta.torchview import to_torch
from deltavc.errors import BaseUnavailable
from deltavc.repo.attached import refuse_weightless
from deltavc.repo.parallel import unordered
from deltavc.repo.revisions import resolve
from deltavc.repo.version import Part, open_version

if TYPE_CHECKING:
    import torch

    from deltavc.repo.repository import Repository

__all__ = ["files", "load"]


def load(
    repo: Repository, rev: str, *, params: Sequence[str] = (), base_path: Path | None = None
) -> dict[str, torch.Tensor]:
    """Rebuilds a revision's tensors.

    Args:
        repo: The repository.
        rev: The revision.
        params: Only tensors that fit one of these globs.
        base_path: Where the base's files are now.

    Returns:
        Tensor name to torch tensor; each owns its memory.

    Raises:
        UnsupportedFormat: The revision's adapter has no form as weights.
    """
    version = open_version(repo, resolve(repo, rev), base_path=base_path)
    refuse_weightless(repo, version.vector, "a state dict would be the base's alone")
    parts = [
        part
        for part in version.parts()
        if not params or any(fnmatch.fnmatchcase(part.name, p) for p in params)
    ]

    def one(part: Part) -> tuple[str, torch.Tensor]:
        value = version.tensor(part.param, threads=1)
        return part.name, to_torch(value, copy=not version.is_changed(part.param))

    # The largest first, so that no thread is left with it at the end.
    largest_first = sorted(parts, key=lambda part: -version.nbytes(part.param))
    tensors = dict(unordered(one, largest_first, repo.session.threads))
    return {part.name: tensors[part.name] for part in parts}


def files(repo: Repository, rev: str, *, base_path: Path | None = None) -> dict[str, bytes]:
    """Returns the files that go with a revision's weights.

    Args:
        repo: The repository.
        rev: The revision.
        base_path: Where the base's files are now.

    Returns:
        Relative path to contents.

    Raises:
        BaseUnavailable: The base's files cannot be found or read.
        BaseMismatch: They are not the base's any more.
    """
    version = open_version(repo, resolve(repo, rev), base_path=base_path)
    found = {}
    for name, content in version.files().items():
        if isinstance(content, bytes):
            found[name] = content
            continue
        try:
            found[name] = content.read_bytes()
        except OSError as error:
            raise BaseUnavailable(f"'{content}' cannot be read: {error.strerror}") from error
    return found
