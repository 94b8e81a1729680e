"""Versions of a repository as a live model wants them (:mod:`deltavc.live.source`).

The base stays open between switches: its files are mapped once, and looked at
(size, time, inode) before each switch. Where they might go away, or be cut short
under a running process, a copy in memory does not depend on them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import Tensor
from deltavc.delta.vector import Terms
from deltavc.errors import UsageError
from deltavc.ids import BaseId, CommitId
from deltavc.live.source import Form
from deltavc.repo.attached import refuse_weightless
from deltavc.repo.openbase import OpenBase, open_base, stamps_of
from deltavc.repo.revisions import resolve
from deltavc.repo.version import Version

if TYPE_CHECKING:
    import torch

    from deltavc.live.model import LiveModel
    from deltavc.repo.repository import Repository

__all__ = ["BASES", "RepositorySource", "live"]

BASES = ("mapped", "memory")


def live(
    repo: Repository,
    module: torch.nn.Module,
    rev: str = "HEAD",
    *,
    staging: str = "beside",
    base: str = "mapped",
    base_path: Path | None = None,
) -> LiveModel:
    """Makes a resident module live: brings it to a revision and lets it move to others.

    Args:
        repo: The repository.
        module: A torch module in CPU memory, of the base's architecture and dtype.
        rev: The first revision.
        staging: ``beside`` or ``in-place``; see :mod:`deltavc.live.model`.
        base: ``mapped`` reads the base from its files, ``memory`` from a copy of them.
        base_path: Where the base's files are now.

    Returns:
        The live model.

    Raises:
        UsageError: No such staging or base.
        BaseMismatch: The module is not a model of the revision's base.
        ShapeMismatch: A tensor has another shape or dtype than in the revision.
        UnsupportedFormat: A tensor is not in CPU memory.
        MergeConflict: Tensors that are tied in the module differ in the revision.
        BaseUnavailable: The base's files cannot be found.
    """
    from deltavc.live.model import LiveModel

    if base not in BASES:
        raise UsageError(
            f"'{base}' is not a way to keep the base", hint=f"ways: {', '.join(BASES)}"
        )
    source = RepositorySource(repo, in_memory=base == "memory", base_path=base_path)
    return LiveModel(module, source, rev, staging=staging, threads=repo.session.threads)


@dataclass(frozen=True)
class _Copied:
    """A base's tensors in memory."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, base: OpenBase) -> _Copied:
        views = {name: base.tensor(name) for name in base.record.tensors}
        return cls({n: Tensor(v.dtype, v.shape, v.bits.copy()) for n, v in views.items()})


@dataclass(frozen=True)
class _Opened:
    """A revision, open: a :class:`deltavc.live.source.LiveVersion`."""

    commit: CommitId
    version: Version
    copied: _Copied | None

    @property
    def base(self) -> BaseId:
        return self.version.vector.base

    @property
    def params(self) -> Mapping[str, Terms]:
        return self.version.vector.params

    @cached_property
    def forms(self) -> Mapping[str, Form]:
        return {part.param: Form(*self.version.form(part.param)) for part in self.version.parts()}

    def origin(self, param: str) -> Tensor | None:
        if param not in self.version.base.record.tensors:
            return None
        return self.copied.tensors[param] if self.copied else self.version.base.tensor(param)

    def rebuild(self, param: str) -> Rebuild:
        terms = self.params.get(param, {})
        loaded = [Term(self.version.repo.delta(oid), c) for oid, c in terms.items()]
        return Rebuild(self.origin(param), loaded, name=param)


class RepositorySource:
    """Revisions of a repository for a live model.

    Args:
        repo: The repository.
        in_memory: Keep a copy of the base's tensors.
        base_path: Where the base's files are now.
    """

    def __init__(
        self, repo: Repository, *, in_memory: bool = False, base_path: Path | None = None
    ) -> None:
        self._repo = repo
        self._in_memory = in_memory
        self._path = base_path
        self._lock = threading.Lock()
        self._base: OpenBase | None = None
        self._stamps: object = None
        self._copied: _Copied | None = None

    @property
    def tied(self) -> Mapping[str, str]:
        """Parameters that are one tensor with another: alias to name."""
        return self._base.checkpoint.tied if self._base is not None else {}

    def open(self, rev: str) -> _Opened:
        """Opens a revision; the base is looked at again unless it is a copy in memory.

        Raises:
            UnknownRevision: There is no such revision.
            BaseUnavailable: The base's files cannot be found.
            BaseMismatch: They are not the base's any more.
            UnsupportedFormat: The revision's adapter has no form as weights.
        """
        commit = resolve(self._repo, rev)
        vector = self._repo.vector(commit)
        refuse_weightless(self._repo, vector, "a live model of it would be the base")
        with self._lock:
            base = self._opened(vector.base)
            if self._in_memory and self._copied is None:
                self._copied = _Copied.of(base)
            copied = self._copied if self._base is base else None
        return _Opened(commit, Version(self._repo, vector, base), copied)

    def _opened(self, wanted: BaseId) -> OpenBase:
        """Returns the open base; the first one is kept, another is opened only to be refused."""
        known = self._base
        if known is not None and known.id == wanted:
            if self._copied is not None:
                return known
            if stamps_of(known.checkpoint, known.path) == self._stamps:
                return known
        base = open_base(self._repo, wanted, path=self._path)
        if known is None or known.id == wanted:
            self._base, self._stamps = base, stamps_of(base.checkpoint, base.path)
        return base
