"""A base opened for reading, after making sure that its files are still the recorded ones.

Hashing a model takes about a second for 2 GB, so the outcome is cached with
size, modification time and inode of each weights file; any difference there
means that the tensors are hashed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import BaseMismatch, BaseUnavailable
from deltavc.formats.files import kind_of, shown
from deltavc.ids import BaseId, short
from deltavc.records.model import Base, BaseSource, BaseTensor, FileInfo
from deltavc.repo.parallel import unordered

if TYPE_CHECKING:
    from deltavc.delta.tensor import Tensor
    from deltavc.formats.checkpoint import Checkpoint
    from deltavc.repo.repository import Repository

__all__ = [
    "OpenBase",
    "describe",
    "differences",
    "file_infos",
    "fingerprint",
    "open_base",
    "quick_match",
    "remember",
    "source_path",
    "stamps_of",
]

Stamp = tuple[int, int, int]


class _Known(msgspec.Struct, frozen=True):
    """What a fingerprint was last found for."""

    path: str
    stamps: dict[str, Stamp]


@dataclass(frozen=True)
class OpenBase:
    """A base whose files have been checked.

    Attributes:
        id: Its fingerprint.
        name: The name it is registered under.
        record: Its tensors as recorded.
        source: Where it is registered to be.
        path: Where it was found.
        checkpoint: Its open files.
    """

    id: BaseId
    name: str
    record: Base
    source: BaseSource
    path: Path
    checkpoint: Checkpoint

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor as a view of the mapped file."""
        return self.checkpoint.tensor(name)

    @cached_property
    def sha256(self) -> Mapping[str, str]:
        """SHA-256 of each tensor's bytes."""
        return {name: tensor.sha256 for name, tensor in self.record.tensors.items()}


def source_path(repo: Repository, source: BaseSource) -> Path:
    """Returns where a base is registered to be, as an absolute path."""
    return repo.root / source.path


def open_base(repo: Repository, base: BaseId, *, path: Path | None = None) -> OpenBase:
    """Opens a base, checking that it is the one that is meant.

    Args:
        repo: The repository.
        base: The fingerprint.
        path: Where its files are now; default: where it is registered to be.

    Returns:
        The open base.

    Raises:
        BaseUnavailable: Its files cannot be found.
        BaseMismatch: The files hold other tensors.
    """
    from deltavc.formats.checkpoint import open_checkpoint

    name, source = _registered(repo, base)
    where = path or source_path(repo, source)
    if kind_of(where) is None:
        raise BaseUnavailable(
            f"base '{name}' is not at '{shown(where)}'" + (" any more" if path is None else ""),
            hint=f"say where it is: deltavc base add {name} PATH (or --base-path PATH)",
            base=base,
            path=str(where),
        )
    checkpoint = open_checkpoint(where)
    opened = OpenBase(base, name, repo.base(base), source, where, checkpoint)
    _ensure_same(repo, opened)
    return opened


def _registered(repo: Repository, base: BaseId) -> tuple[str, BaseSource]:
    for name, source in repo.base_names(repo.state()).items():
        if source.base == base:
            return name, source
    raise BaseUnavailable(
        f"base {short(base)} is not registered any more",
        hint="register it again: deltavc base add NAME PATH",
        base=base,
    )


def _ensure_same(repo: Repository, opened: OpenBase) -> None:
    stamps = stamps_of(opened.checkpoint, opened.path)
    if _is_known(repo, opened.id, opened.path, stamps):
        return
    found = fingerprint(repo, opened.checkpoint)
    wrong = differences(opened.record, found)
    if wrong:
        shown = ", ".join(f"'{name}'" for name, _, _ in wrong[:5]) + (" …" if wrong[5:] else "")
        raise BaseMismatch(
            f"'{opened.path}' is not base '{opened.name}' any more: "
            f"{len(wrong)} of {len(opened.record.tensors)} tensors differ: {shown}",
            hint=f"see all of it: deltavc base verify {opened.name}",
            base=opened.id,
            tensors=[name for name, _, _ in wrong],
        )
    remember(repo, opened.id, opened.path, stamps, opened.checkpoint)


def remember(
    repo: Repository, base: BaseId, path: Path, stamps: dict[str, Stamp], checkpoint: Checkpoint
) -> None:
    """Keeps that these files hold this base, unless they changed meanwhile or just now.

    A file written less than two seconds ago could change again without a new
    time on a coarse file system, so it is not remembered.
    """
    recent = time.time_ns() - 2_000_000_000
    if stamps != stamps_of(checkpoint, path) or any(s[1] > recent for s in stamps.values()):
        return
    repo.layout.keep(_memory(repo, base), msgspec.json.encode(_Known(str(path), stamps)))


def _memory(repo: Repository, base: BaseId) -> Path:
    return repo.layout.cache / f"base-{base[:32]}.json"


def _is_known(repo: Repository, base: BaseId, path: Path, stamps: dict[str, Stamp]) -> bool:
    try:
        known = msgspec.json.decode(_memory(repo, base).read_bytes(), type=_Known)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return False
    return known == _Known(str(path), stamps)


def quick_match(repo: Repository, base: BaseId, path: Path, checkpoint: Checkpoint) -> bool:
    """Tells whether size, time and inode of the files are those last hashed as this base."""
    return _is_known(repo, base, path, stamps_of(checkpoint, path))


def stamps_of(checkpoint: Checkpoint, path: Path) -> dict[str, Stamp]:
    """Returns size, time and inode of each weights file."""
    folder = path if path.is_dir() else path.parent
    stamps = {}
    for weights in checkpoint.layout:
        try:
            stat = (folder / weights.name).stat()
        except OSError as error:
            raise BaseUnavailable(f"'{folder / weights.name}' cannot be read") from error
        stamps[weights.name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return stamps


def fingerprint(repo: Repository, checkpoint: Checkpoint) -> Base:
    """Hashes all tensors of a checkpoint; the record's object id is the fingerprint."""
    sizes = {name: checkpoint.tensor(name).nbytes for name in checkpoint.entries}
    total, done = sum(sizes.values()), 0

    def digest(name: str) -> tuple[str, str]:
        return name, hashlib.sha256(checkpoint.tensor(name).raw()).hexdigest()

    tensors = {}
    names = sorted(sizes, key=lambda name: -sizes[name])
    for name, sha256 in unordered(digest, names, repo.session.threads):
        entry = checkpoint.entries[name]
        tensors[name] = BaseTensor(entry.dtype.name, tuple(entry.shape), sha256)
        done += sizes[name]
        repo.session.progress("fingerprint", done, total)
    return Base(tensors)


def differences(
    expected: Base, found: Base
) -> list[tuple[str, BaseTensor | None, BaseTensor | None]]:
    """Returns the tensors that differ: name, as recorded, as found."""
    names = sorted(set(expected.tensors) | set(found.tensors))
    pairs = ((n, expected.tensors.get(n), found.tensors.get(n)) for n in names)
    return [(n, a, b) for n, a, b in pairs if a != b]


def file_infos(
    files: Mapping[str, Path], keep: Callable[[bytes], str] | None = None
) -> dict[str, FileInfo]:
    """Returns size and SHA-256 of the files that go with a model.

    Args:
        files: Relative path to file.
        keep: Stores a file's bytes and returns the blob's id; default: nothing is kept.

    Returns:
        The same paths with what the files hold.

    Raises:
        BaseUnavailable: One cannot be read.
    """
    infos = {}
    for name, path in files.items():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BaseUnavailable(f"'{path}' cannot be read: {error.strerror}") from error
        blob = keep(data) if keep is not None else ""
        infos[name] = FileInfo(len(data), hashlib.sha256(data).hexdigest(), blob)
    return infos


def describe(tensor: BaseTensor | None) -> str | None:
    """Returns a tensor's shape and dtype for people; None stays None."""
    if tensor is None:
        return None
    return f"({', '.join(map(str, tensor.shape))}) {tensor.dtype.lower()}"
