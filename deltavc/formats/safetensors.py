"""Reading and describing safetensors files, strictly and without copying.

Layout: eight bytes with the length of the header (little-endian), the header
(a JSON object, padded with spaces), the tensors' bytes end to end. The parser
is our own so that nothing doubtful passes: it refuses everything that the
reference reader refuses, and also duplicate names, unusual white space,
unknown fields and names with control characters.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from deltavc.delta.tensor import DTYPES, DType, Tensor
from deltavc.errors import InternalError, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import check_tensor_name, open_regular, shown
from deltavc.records.canonical import loads_strict

__all__ = ["MAX_HEADER", "SafetensorsFile", "TensorEntry", "build_header", "parse_header"]

MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 32
MAX_BYTES = 1 << 60
LENGTH_BYTES = 8
ALIGNMENT = 8
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
# dtypes of the format that no bit pattern of whole bytes or no rebuild can hold
OTHER_DTYPES = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its dimensions.
        offset: Where its bytes start, counted from the start of the file; -1
            where the file has no such place.
        nbytes: Number of bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def parse_header(
    header: bytes, data_bytes: int, what: str
) -> tuple[list[TensorEntry], dict[str, str]]:
    """Reads a header and checks it against the bytes that follow.

    Args:
        header: The header without its length field.
        data_bytes: How many bytes follow it.
        what: Whose header it is, for messages.

    Returns:
        The tensors in the order of their bytes, and the metadata.

    Raises:
        UnsafeFile: Anything in it is not as the format wants it.
        UnsupportedFormat: A dtype that deltavc does not read.
    """
    text = header.rstrip(b" ")
    if not text.startswith(b"{") or not text.endswith(b"}"):
        raise UnsafeFile(f"{what} does not start with a JSON object")
    fields = loads_strict(text, what, max_bytes=MAX_HEADER)
    metadata = _metadata(fields.pop(METADATA, {}), what)
    start = LENGTH_BYTES + len(header)
    entries = [_entry(name, info, start, what) for name, info in fields.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    at = start
    for entry in entries:
        if entry.offset != at:
            fault = "overlaps the tensor before it" if entry.offset < at else "leaves a hole"
            raise UnsafeFile(f"{what}: tensor '{shown(entry.name)}' {fault}", tensor=entry.name)
        at += entry.nbytes
    if at - start != data_bytes:
        raise UnsafeFile(
            f"{what} describes {at - start} bytes of tensors, but {data_bytes} follow",
            expected=at - start,
            found=data_bytes,
        )
    return entries, metadata


def _metadata(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise UnsafeFile(f"{what} has metadata that are not texts by name")
    return value


def _entry(name: str, info: Any, start: int, what: str) -> TensorEntry:
    check_tensor_name(name, what)
    if not isinstance(info, dict) or set(info) != FIELDS:
        raise UnsafeFile(f"{what}: tensor '{shown(name)}' is not described as it should be")
    dtype = _dtype(name, info["dtype"], what)
    shape, offsets = info["shape"], info["data_offsets"]
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise UnsafeFile(f"{what}: tensor '{shown(name)}' has an impossible shape", tensor=name)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UnsafeFile(f"{what}: tensor '{shown(name)}' has impossible offsets", tensor=name)
    bound = dtype.size
    for dim in shape:
        bound *= dim or 1  # zeros do not excuse the other dimensions
        if bound > MAX_BYTES:
            raise UnsafeFile(f"{what}: tensor '{shown(name)}' has an impossible shape", tensor=name)
    nbytes = 0 if 0 in shape else bound
    if offsets[1] - offsets[0] != nbytes:
        raise UnsafeFile(
            f"{what}: tensor '{shown(name)}' needs {nbytes} bytes and has"
            f" {offsets[1] - offsets[0]}",
            tensor=name,
        )
    return TensorEntry(name, dtype, tuple(shape), start + offsets[0], nbytes)


def _counts(value: Any) -> bool:
    """Tells whether a value is a list of integers that sizes can have; True is not one."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v <= MAX_BYTES for v in value)


def _dtype(name: str, value: Any, what: str) -> DType:
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    if isinstance(value, str) and value in OTHER_DTYPES:
        raise UnsupportedFormat(
            f"{what}: tensor '{shown(name)}' has dtype {value}, which deltavc does not read",
            hint="deltavc reads " + ", ".join(DTYPES),
            tensor=name,
            dtype=value,
        )
    raise UnsafeFile(f"{what}: tensor '{shown(name)}' has the unknown dtype '{shown(value)}'")


class SafetensorsFile:
    """An open safetensors file; tensors are views of a read-only mapping.

    Closing gives the mapping up; it goes away with the last view of it.

    Args:
        path: The file.

    Attributes:
        path: The file.
        name: Its name without folders.
        size: Its size in bytes.
        entries: The tensors in the order of their bytes.
        metadata: The header's metadata.
        header: The first bytes of the file up to the first tensor, length included.

    Raises:
        UnsafeFile: Not a regular file, or malformed in any way.
        UnsupportedFormat: Not there, or with a dtype that deltavc does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        what = f"the header of '{shown(self.name)}'"
        with open_regular(self.path) as (file, size):
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
                raise UnsafeFile(
                    f"'{shown(self.name)}' is not a safetensors file, or it is cut off",
                    path=str(self.path),
                    size=size,
                )
            if length > MAX_HEADER:
                raise UnsafeFile(f"{what} is larger than {MAX_HEADER} bytes", size=length)
            header = file.read(length)
            self.size = size
            self.entries, self.metadata = parse_header(header, size - LENGTH_BYTES - length, what)
            self.header = length.to_bytes(LENGTH_BYTES, "little") + header
            self._map = self._mapped(file.fileno(), size)
        self._by_name = {entry.name: entry for entry in self.entries}

    def _mapped(self, handle: int, size: int) -> mmap.mmap | None:
        try:
            return mmap.mmap(handle, size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UnsafeFile(f"'{shown(self.name)}' cannot be mapped: {error}") from error

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor as a view of the file.

        Args:
            name: Its name.

        Returns:
            The tensor; its bits are read-only and need not be aligned.

        Raises:
            UnsupportedFormat: The file has no such tensor.
        """
        entry = self._by_name.get(name)
        if entry is None:
            raise UnsupportedFormat(f"'{shown(self.name)}' has no tensor '{shown(name)}'")
        if self._map is None:
            raise InternalError(f"'{shown(self.name)}' is read after it was closed")
        count = entry.nbytes // entry.dtype.size
        bits = (
            np.frombuffer(self._map, entry.dtype.bits, count=count, offset=entry.offset)
            if (count)
            else np.empty(0, entry.dtype.bits)
        )
        return Tensor(entry.dtype, entry.shape, bits)

    def close(self) -> None:
        """Gives the mapping up; views that are in use stay good."""
        mapping, self._map = self._map, None
        if mapping is not None:
            try:
                mapping.close()
            except BufferError:
                return  # a view is in use; the mapping ends with the last of them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def build_header(
    entries: Sequence[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str] | None
) -> tuple[bytes, list[int]]:
    """Returns what stands in front of the tensors of a file, and where each of them starts.

    With the order and metadata of a file that the reference library wrote, the
    bytes are those of that file.

    Args:
        entries: Name, dtype and shape of each tensor in the order of their bytes.
        metadata: The header's metadata.

    Returns:
        Length field and padded header; the offset of each tensor in the file.

    Raises:
        UnsafeFile: A name may not be used, or stands twice.
    """
    fields: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    starts, at = [], 0
    for name, dtype, shape in entries:
        if name in fields or name == METADATA:
            raise UnsafeFile(f"the tensor name '{shown(name)}' stands twice", tensor=name)
        check_tensor_name(name, "the new file")
        nbytes = dtype.size
        for dim in shape:
            nbytes *= dim
        fields[name] = {
            "dtype": dtype.name,
            "shape": list(shape),
            "data_offsets": [at, at + nbytes],
        }
        starts.append(at)
        at += nbytes
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return header, [len(header) + start for start in starts]
