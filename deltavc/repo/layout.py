"""Where a repository keeps its files, and how one is found.

``docs/reference/format/repository-layout.md`` is the normative page.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltavc.errors import FormatTooNew, NotARepository, RepositoryError, UsageError

__all__ = ["FORMAT", "Layout", "discover"]

FOLDER = ".deltavc"
FORMAT = 1
FORMAT_TEXT = f"deltavc {FORMAT}\nsha256\n"
MAX_TEXT = 1 << 20


def read_text(path: Path) -> str:
    """Returns what a small regular file holds, without waiting for a pipe.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        OSError: It is not there, is something else, or is larger than a mebibyte.
        UnicodeDecodeError: It is not UTF-8.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_TEXT:
            raise OSError(errno.EINVAL, "it is not a small regular file", str(path))
        return file.read(MAX_TEXT).decode("utf-8")


@dataclass(frozen=True)
class Layout:
    """Paths of one repository. ``root`` is the folder that holds ``.deltavc``."""

    root: Path

    @property
    def folder(self) -> Path:
        """The repository's own folder."""
        return self.root / FOLDER

    @property
    def format(self) -> Path:
        """The format file, read before anything else."""
        return self.folder / "format"

    @property
    def config(self) -> Path:
        """The repository's settings."""
        return self.folder / "config.toml"

    @property
    def lock(self) -> Path:
        """The lock file, never removed."""
        return self.folder / "lock"

    @property
    def events(self) -> Path:
        """The event log's folder."""
        return self.folder / "events"

    @property
    def catalog(self) -> Path:
        """The SQLite catalog."""
        return self.folder / "catalog.db"

    @property
    def cache(self) -> Path:
        """What can be computed again: base fingerprints, workspace state."""
        return self.folder / "cache"

    @property
    def bases(self) -> Path:
        """Copies of bases that were added with ``--copy``."""
        return self.folder / "bases"

    @property
    def journal(self) -> Path:
        """Says that the workspace is being rewritten in place."""
        return self.folder / "workspace.journal"

    @property
    def workspace_lock(self) -> Path:
        """The lock of those who change the workspace, never removed."""
        return self.folder / "workspace.lock"

    @property
    def staging(self) -> Path:
        """Files being written; what a killed process leaves there is swept."""
        return self.folder / "tmp"

    def keep(self, path: Path, data: bytes) -> None:
        """Replaces a file of the cache in one step, if that can be done.

        Args:
            path: The file.
            data: What it is to hold.
        """
        beside = self.staging / f"cache-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            path.parent.mkdir(exist_ok=True)
            self.staging.mkdir(exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError:  # all that is lost is time
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def check_format(self) -> None:
        """Refuses a repository that this version cannot read.

        Raises:
            NotARepository: There is none, or its format file is not one.
            FormatTooNew: A newer deltavc wrote it.
        """
        try:
            lines = read_text(self.format).split("\n")
        except (OSError, UnicodeError) as error:
            raise NotARepository(f"'{self.root}' is not a deltavc repository") from error
        word, _, number = lines[0].partition(" ")
        if word != "deltavc" or not number.isdecimal() or len(number) > 9:
            raise NotARepository(f"'{self.format}' is not the format file of a repository")
        if int(number) > FORMAT or lines[1:2] != ["sha256"]:
            raise FormatTooNew(
                f"the repository has format {number}, this deltavc reads format {FORMAT}",
                found=int(number),
                supported=FORMAT,
            )

    def check_target(self, target: Path) -> None:
        """Refuses to write a model where that would replace the repository, or into it.

        Args:
            target: The folder to write.

        Raises:
            UsageError: The folder holds the repository, or lies in it.
        """
        wanted, own = Path(os.path.realpath(target)), Path(os.path.realpath(self.folder))
        if own.is_relative_to(wanted) or wanted.is_relative_to(own):
            raise UsageError(
                f"'{target}' holds the repository, or lies in it, and cannot hold a model",
                hint="choose another folder",
                path=str(target),
            )

    def settings(self) -> dict[str, Any]:
        """Returns the repository's settings file as nested values.

        Returns:
            The values; empty without a file.

        Raises:
            RepositoryError: The file cannot be read as TOML.
        """
        try:
            return tomllib.loads(read_text(self.config))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise RepositoryError(
                f"the settings file '{self.config}' cannot be read: {error}",
                hint="repair the file, or move it away",
            ) from error


def discover(start: Path) -> Layout:
    """Finds the repository at or above a folder.

    Args:
        start: Where to begin.

    Returns:
        The repository's layout; its format has been checked.

    Raises:
        NotARepository: There is none.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            layout = Layout(folder)
            layout.check_format()
            return layout
    raise NotARepository(f"no repository at or above '{start}'", start=str(start))
