"""Opening foreign files and folders safely.

Every file that others made is opened through here: regular files only, never
waiting (a pipe or a device in place of a file is refused at once), sizes
checked before bytes are read, names looked at before they are used. Symbolic
links to files are followed, because hub caches are made of them; linked
folders are not entered.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from deltavc.errors import InputError, UnsafeFile, UnsupportedFormat

__all__ = [
    "Listing",
    "check_tensor_name",
    "kind_of",
    "list_folder",
    "open_regular",
    "read_small",
    "shown",
]

MAX_SHOWN = 100
MAX_TENSOR_NAME = 512
MAX_COMPONENT = 255
MAX_DEPTH = 8
MAX_FILES = 20_000
MAX_FILE_BYTES = 512 << 20
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(text: object) -> str:
    """Returns foreign text as a message may show it: short, nothing that moves a cursor."""
    head = str(text)[:MAX_SHOWN]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return safe if len(str(text)) <= MAX_SHOWN else f"{safe}…"


def check_tensor_name(name: str, what: str) -> str:
    """Returns a tensor's name unchanged, if it may be used as one.

    Args:
        name: The name.
        what: Where it stands, for the message.

    Returns:
        The name.

    Raises:
        UnsafeFile: It is empty, too long, or holds characters that no parameter name has.
    """
    if not name or len(name) > MAX_TENSOR_NAME:
        raise UnsafeFile(
            f"{what} has a tensor name of {len(name)} characters", length=len(name), name=name[:80]
        )
    if _has_control(name):
        raise UnsafeFile(
            f"{what} has the tensor name '{shown(name)}' with control characters", name=shown(name)
        )
    return name


def _has_control(text: str) -> bool:
    """Tells whether text holds C0 or C1 controls, DEL, NUL or lone surrogates."""
    return _CONTROL.search(text) is not None


def kind_of(path: Path) -> str | None:
    """Returns what a path leads to: ``file``, ``folder`` or ``other``; None for nothing.

    What cannot be looked at (no permission, a name too long) counts as nothing.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a regular file for reading without ever waiting for one.

    Args:
        path: The file; a symbolic link to one is followed.

    Yields:
        The open file and its size in bytes.

    Raises:
        UnsafeFile: A folder, pipe, socket or device.
        InputError: It is not there or cannot be read.
    """
    try:
        # Looked at first, since opening a device can do something; and once
        # more when open, since the name may stand for something else by then.
        _require_regular(path, path.stat())
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        _require_regular(path, found)
        try:
            yield file, found.st_size
        except OSError as error:  # what looks like a file and cannot be read, in /proc for one
            raise _refusal(path, error) from error


def _require_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = names.get(stat.S_IFMT(found.st_mode), "a device")
    raise UnsafeFile(
        f"'{shown(path)}' is {kind}, not a regular file",
        hint="give a regular file",
        path=str(path),
    )


def _refusal(path: Path, error: OSError | ValueError) -> InputError:
    name = shown(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnsupportedFormat(f"there is no file '{name}'", hint="check the path", path=name)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UnsafeFile(
        f"'{name}' cannot be read: {reason}", hint="check the path and its permissions", path=name
    )


def read_small(path: Path, *, max_bytes: int) -> bytes:
    """Reads a whole regular file that must be small.

    Args:
        path: The file.
        max_bytes: Largest accepted size.

    Returns:
        Its bytes.

    Raises:
        UnsafeFile: Larger, not a regular file, or unreadable.
        UnsupportedFormat: It is not there.
    """
    with open_regular(path) as (file, size):
        if size > max_bytes:
            raise UnsafeFile(
                f"'{shown(path.name)}' is larger than {max_bytes} bytes", size=size, path=str(path)
            )
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise _refusal(path, error) from error
    if len(data) > max_bytes:
        raise UnsafeFile(f"'{shown(path.name)}' grows while it is read", path=str(path))
    return data


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: Regular files by relative POSIX path, in the order of their names.
        ignored: What is left out, by relative path, and why.
    """

    files: dict[str, Path] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def list_folder(folder: Path) -> Listing:
    """Lists a folder's regular files, sub-folders included, hidden names left out.

    Args:
        folder: The folder.

    Returns:
        Its files, and what was left out.

    Raises:
        UnsafeFile: Not a readable folder, or too many files.
    """
    listing = Listing()
    _walk(folder, "", listing, 0)
    return listing


def _walk(folder: Path, prefix: str, listing: Listing, depth: int) -> None:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        raise _refusal(folder, error) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        reason = _left_out(entry, depth)
        if reason:
            listing.ignored[shown(name)] = reason
        elif entry.is_dir(follow_symlinks=False):
            _walk(folder / entry.name, f"{name}/", listing, depth + 1)
        else:
            listing.files[name] = folder / entry.name
        if len(listing.files) + len(listing.ignored) > MAX_FILES:
            raise UnsafeFile(
                f"'{shown(folder)}' holds more than {MAX_FILES} files",
                hint="give a folder that holds one model",
            )


def _left_out(entry: os.DirEntry[str], depth: int) -> str | None:
    """Returns why a directory entry is not taken, or None."""
    if _has_control(entry.name) or "\\" in entry.name or len(entry.name) > MAX_COMPONENT:
        return "its name"
    if entry.is_dir(follow_symlinks=False):
        return "nested too deep" if depth >= MAX_DEPTH else None
    try:
        found = entry.stat()
    except OSError:
        return "a link that leads nowhere"
    if stat.S_ISDIR(found.st_mode):
        return "a link to a folder"
    return None if stat.S_ISREG(found.st_mode) else "not a regular file"
