"""What a folder of weights is to become: tensors copied, tensors computed, other files.

A plan is plain data. Nothing is read, decoded or computed while it is made: a
computed tensor brings a callable that prepares it when its turn comes, inside
a worker of :mod:`deltavc.formats.writer_engine`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from deltavc.delta.tensor import Bits, DType, Tensor
from deltavc.errors import InvalidName, ShapeMismatch, UnsafeFile
from deltavc.formats.safetensors import build_header
from deltavc.records import canonical

__all__ = [
    "Copied",
    "FolderPlan",
    "Held",
    "Layout",
    "Planned",
    "PlannedFile",
    "RowSource",
    "Seal",
    "Slot",
    "check_name",
    "check_plan",
    "index_files",
    "layout",
]

MAX_NAME = 255


class RowSource(Protocol):
    """A tensor that is computed by rows; :class:`deltavc.delta.rebuild.Rebuild` is one."""

    @property
    def dtype(self) -> DType:
        """What the bits mean."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""

    @property
    def rows(self) -> int:
        """Rows of the tensor as a matrix: its first dimension."""

    @property
    def columns(self) -> int:
        """Columns of the tensor as a matrix: the product of the other dimensions."""

    def compute(self, start: int, stop: int, out: Bits) -> None:
        """Computes rows ``[start, stop)`` into flat bit patterns; called from several threads."""


@dataclass(frozen=True)
class Held:
    """A row source over a tensor that is in memory, or mapped."""

    tensor: Tensor

    @classmethod
    def later(cls, tensor: Tensor) -> Callable[[], RowSource]:
        """Returns what a plan wants: a callable that gives the row source."""
        return lambda: cls(tensor)

    @property
    def dtype(self) -> DType:
        """What the bits mean."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return self.tensor.shape

    @property
    def rows(self) -> int:
        """Rows of the tensor as a matrix."""
        return self.tensor.matrix_shape[0]

    @property
    def columns(self) -> int:
        """Columns of the tensor as a matrix."""
        return self.tensor.matrix_shape[1]

    def compute(self, start: int, stop: int, out: Bits) -> None:
        """Copies rows."""
        out[:] = self.tensor.bits[start * self.columns : stop * self.columns]


@dataclass(frozen=True)
class Copied:
    """Bytes of a file that is there, taken as they are."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Planned:
    """One tensor of a file.

    Attributes:
        name: Its name in the header.
        dtype: Its dtype.
        shape: Its shape.
        source: Where its bytes come from. The callable prepares a computed
            tensor: it reads and decodes what the rows are computed from.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    source: Copied | Callable[[], RowSource]

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.size


@dataclass(frozen=True)
class PlannedFile:
    """One safetensors file.

    Attributes:
        name: Relative POSIX path in the folder.
        metadata: The header's ``__metadata__``.
        tensors: The tensors in file order.
        header: The first bytes of the file, length included, when they are to
            be another file's own (the base's) and not newly made ones.
    """

    name: str
    metadata: Mapping[str, str]
    tensors: Sequence[Planned]
    header: bytes | None = None


@dataclass(frozen=True)
class Seal:
    """A file that says what a folder is, so it is there only while that is true.

    It is made last, when all else is in its place, and taken away before anything changes.

    Attributes:
        name: Its name in the folder.
        content: Makes its bytes of the folder, where all else lies.
    """

    name: str
    content: Callable[[Path], bytes]


@dataclass(frozen=True)
class FolderPlan:
    """A whole folder.

    Attributes:
        weights: The safetensors files; an index is added where several lie in
            one folder and ``files`` brings none.
        files: The other files by relative POSIX path: copied, or given.
        seal: The file that is made last.
    """

    weights: Sequence[PlannedFile]
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    seal: Seal | None = None


@dataclass(frozen=True)
class Slot:
    """A tensor and the place of its first byte in the file."""

    tensor: Planned
    offset: int


@dataclass(frozen=True)
class Layout:
    """The bytes of a file that do not come from tensors, and where the tensors go."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


def layout(planned: PlannedFile) -> Layout:
    """Returns header and places of a planned file.

    Args:
        planned: The file.

    Returns:
        Its layout: safetensors leaves no holes, so the tensors follow the
        header one after another.

    Raises:
        UnsafeFile: The given header does not describe these tensors.
        ShapeMismatch: A copied run is not as long as its tensor.
    """
    if planned.header is None:
        entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in planned.tensors]
        header = build_header(entries, dict(planned.metadata))[0]
    else:
        header = planned.header
        _check_header(planned, header)
    slots, at = [], len(header)
    for tensor in planned.tensors:
        source = tensor.source
        if isinstance(source, Copied) and source.nbytes != tensor.nbytes:
            raise ShapeMismatch(
                f"the bytes to copy for '{tensor.name}' are not as many as the tensor's",
                tensor=tensor.name,
                expected=tensor.nbytes,
                found=source.nbytes,
            )
        slots.append(Slot(tensor, at))
        at += tensor.nbytes
    return Layout(header, tuple(slots), at)


def _check_header(planned: PlannedFile, header: bytes) -> None:
    """Refuses a header that says anything else than the plan."""
    found = None
    if len(header) >= 8 and int.from_bytes(header[:8], "little") == len(header) - 8:
        found = canonical.loads_strict(header[8:], f"the header of '{planned.name}'")
    expected: dict[str, Any] = {}
    at = 0
    for tensor in planned.tensors:
        expected[tensor.name] = {
            "dtype": tensor.dtype.name,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    if isinstance(found, dict):
        found.pop("__metadata__", None)
    if found != expected or len(expected) != len(planned.tensors):
        raise UnsafeFile(
            f"the header given for '{planned.name}' does not describe its tensors",
            hint="let the header be made anew",
            file=planned.name,
        )


def check_name(name: str) -> str:
    """Returns the name of a file of a folder unchanged, if it can do no harm.

    Args:
        name: Relative POSIX path.

    Returns:
        The name.

    Raises:
        InvalidName: It is absolute, leaves the folder, or holds characters
            that a file's name should not have.
    """
    parts = name.split("/")
    bad = any(
        part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > MAX_NAME for part in parts
    )
    if bad or "\\" in name or not name.isprintable():
        raise InvalidName(
            f"'{name[:80]}' cannot be the name of a file in a model's folder",
            hint="names are relative, without '..', backslashes and control characters",
            name=name,
        )
    return name


def check_plan(plan: FolderPlan) -> None:
    """Refuses a plan whose names are harmful, or taken twice.

    Args:
        plan: The plan.

    Raises:
        InvalidName: A name is not relative and plain, stands for two files, or
            for a file and a folder.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in _names(plan):
        check_name(name)
        if name in seen:
            raise InvalidName(f"'{name}' stands for two files of one folder", name=name)
        seen.add(name)
        folders.update(str(parent) for parent in PurePosixPath(name).parents)
    for name in sorted(seen & folders):
        raise InvalidName(f"'{name}' stands for a file and for a folder", name=name)


def _names(plan: FolderPlan) -> Iterator[str]:
    for planned in plan.weights:
        yield planned.name
    yield from plan.files
    if plan.seal is not None:
        yield plan.seal.name


def index_files(plan: FolderPlan) -> dict[str, bytes]:
    """Returns the index of each folder that holds several safetensors files.

    Args:
        plan: The plan.

    Returns:
        Name and bytes of each index that ``plan.files`` does not bring. A name
        is that of the shards without their number.
    """
    folders: dict[str, list[PlannedFile]] = {}
    for planned in plan.weights:
        folders.setdefault(str(PurePosixPath(planned.name).parent), []).append(planned)
    indices: dict[str, bytes] = {}
    for shards in folders.values():
        first = PurePosixPath(shards[0].name)
        stem = first.stem.split("-0")[0] if "-of-" in first.stem else "model"
        name = str(first.with_name(f"{stem}.safetensors.index.json"))
        if len(shards) == 1 or name in plan.files:
            continue
        content = {
            "metadata": {"total_size": sum(t.nbytes for s in shards for t in s.tensors)},
            "weight_map": {t.name: PurePosixPath(s.name).name for s in shards for t in s.tensors},
        }
        indices[name] = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    return indices
