"""A version made concrete: its vector on an open base, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import DTYPES, DType, Tensor
from deltavc.delta.vector import FILE, PREFIX, REMOVED, SHAPE, Vector, form_from_text
from deltavc.errors import BaseMismatch, ObjectCorrupt
from deltavc.formats.writer_plan import Copied, FolderPlan, Planned, PlannedFile
from deltavc.ids import BlobId, CommitId, ObjectId
from deltavc.records.receipt import RECEIPT_FILE
from deltavc.repo.attached import refuse_weightless
from deltavc.repo.openbase import OpenBase, file_infos, open_base

if TYPE_CHECKING:
    from deltavc.formats.safetensors import TensorEntry
    from deltavc.records.model import FileInfo
    from deltavc.repo.repository import Repository

__all__ = ["Part", "Version", "open_version"]


@dataclass(frozen=True)
class Part:
    """One tensor of a version: its own name, its parameter, whether the base has it."""

    name: str
    param: str
    in_base: bool


@dataclass(frozen=True)
class Version:
    """A version that can be rebuilt."""

    repo: Repository
    vector: Vector
    base: OpenBase

    @cached_property
    def prefix(self) -> str:
        """What the version's names have in front of the base's."""
        return self.vector.meta.get(PREFIX, "")

    @cached_property
    def removed(self) -> frozenset[str]:
        """Base tensors that the version lacks."""
        return frozenset(
            key.removeprefix(REMOVED) for key in self.vector.meta if key.startswith(REMOVED)
        )

    @cached_property
    def new(self) -> list[Part]:
        """Parameters that the base lacks, by name."""
        known = self.base.record.tensors
        return [Part(name, name, False) for name in sorted(self.vector.params) if name not in known]

    def parts(self) -> Iterator[Part]:
        """Yields the version's tensors: those of the base in file order, then the new ones."""
        for weights in self.base.checkpoint.layout:
            for entry in weights.entries:
                if entry.name not in self.removed:
                    yield Part(self.prefix + entry.name, entry.name, True)
        yield from self.new

    def is_changed(self, param: str) -> bool:
        """Tells whether a parameter is not the base's own."""
        return param in self.vector.params

    def rebuild(self, param: str) -> Rebuild:
        """Prepares the sum of a parameter: reads its deltas from the store."""
        origin = self.base.tensor(param) if param in self.base.record.tensors else None
        terms = self.vector.params.get(param, {})
        return Rebuild(
            origin, [Term(self.repo.delta(oid), c) for oid, c in terms.items()], name=param
        )

    def tensor(self, param: str, *, threads: int | None = None) -> Tensor:
        """Returns a parameter's value: the base's own view, or rebuilt by this many threads."""
        if not self.is_changed(param):
            return self.base.tensor(param)
        return self.rebuild(param).tensor(threads=threads or self.repo.session.threads)

    def nbytes(self, param: str) -> int:
        """Returns the size of a parameter's value in bytes."""
        dtype, shape = self.form(param)
        return math.prod(shape) * dtype.size

    def files(self) -> dict[str, Path | bytes]:
        """Returns the files that go with the weights: the base's as registered, and the others.

        The name of the receipt is not among them, whatever an older deltavc recorded.

        Raises:
            BaseMismatch: One of the base's is another one now, and no object keeps it.
        """
        files = {
            name: self._base_file(name, info)
            for name, info in self.base.source.files.items()
            if FILE + name not in self.vector.meta
        }
        for key, blob in self.vector.meta.items():
            if key.startswith(FILE) and blob:
                files[key.removeprefix(FILE)] = self._blob(blob)
        files.pop(RECEIPT_FILE, None)
        return files

    def _blob(self, oid: str) -> bytes:
        return bytes(self.repo.store.get(BlobId(ObjectId(oid)), "blob"))

    def _base_file(self, name: str, info: FileInfo) -> Path | bytes:
        """Returns one of the base's files as it was registered, from its folder or the store."""
        path = self.base.checkpoint.files.get(name)
        if path is not None and file_infos({name: path})[name].sha256 == info.sha256:
            return path
        if info.blob:
            return self._blob(info.blob)
        raise BaseMismatch(
            f"'{name}' of base '{self.base.name}' is not what was registered any more",
            hint=f"put it back, or register it so: deltavc base add {self.base.name} PATH",
            base=self.base.id,
            files=[name],
        )

    def plan(self) -> FolderPlan:
        """Returns the plan of the version's folder, in the base's own layout.

        A file in which no name, dtype or shape changed keeps the base's header
        byte for byte; new parameters go behind the last file's tensors.

        Raises:
            UnsupportedFormat: The version's adapter has no form as weights.
        """
        refuse_weightless(self.repo, self.vector, "full weights would be the base's alone")
        layout = self.base.checkpoint.layout
        planned = []
        for i, weights in enumerate(layout):
            last = i == len(layout) - 1
            kept = [e for e in weights.entries if e.name not in self.removed]
            tensors = [self._planned(Part(self.prefix + e.name, e.name, True), e) for e in kept]
            if last:
                tensors += [self._planned(part, None) for part in self.new]
            same = [(t.name, t.dtype, t.shape) for t in tensors] == [
                (e.name, e.dtype, e.shape) for e in weights.entries
            ]
            planned.append(
                PlannedFile(
                    weights.name,
                    weights.metadata,
                    tensors,
                    weights.header if same and weights.header else None,
                )
            )
        return FolderPlan(planned, self.files())

    def _planned(self, part: Part, entry: TensorEntry | None) -> Planned:
        if entry is not None and not self.is_changed(part.param):
            path = self.base.checkpoint.file_of(part.param)
            source = Copied(path, entry.offset, entry.nbytes)
            return Planned(part.name, entry.dtype, entry.shape, source)
        dtype, shape = self.form(part.param)
        return Planned(part.name, dtype, shape, partial(self.rebuild, part.param))

    def form(self, param: str) -> tuple[DType, tuple[int, ...]]:
        """Returns dtype and shape of a parameter without opening a delta."""
        written = self.vector.meta.get(SHAPE + param)
        if written is None:
            tensor = self.base.record.tensors.get(param)
            if tensor is None:
                raise ObjectCorrupt(f"the manifest does not say what '{param}' looks like")
            return DTYPES[tensor.dtype], tensor.shape
        name, shape = form_from_text(written)
        if name not in DTYPES:
            raise ObjectCorrupt(f"'{param}' has the unknown dtype '{name[:20]}'")
        return DTYPES[name], shape


def open_version(repo: Repository, commit: CommitId, *, base_path: Path | None = None) -> Version:
    """Opens a commit for rebuilding.

    Args:
        repo: The repository.
        commit: The commit.
        base_path: Where the base's files are now.

    Returns:
        The version.

    Raises:
        BaseUnavailable: The base's files cannot be found.
        BaseMismatch: They are not the base's any more.
    """
    vector = repo.vector(commit)
    return Version(repo, vector, open_base(repo, vector.base, path=base_path))
