"""The receipt of a checkout: written last, read strictly, checked at memory speed.

Whoever serves a folder tells from its ``deltavc.json`` which version it is, without a
repository, and ``deltavc show`` finds the version by the serving id in it. With digests
the folder can also be checked: xxh3 finds damage, SHA-256 somebody's hand. Neither torch
nor NumPy is imported here, since a rollback checks what it goes back to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import RepositoryUnwritable, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import kind_of, read_small, shown
from deltavc.formats.filesums import KINDS, file_sizes, file_sums
from deltavc.ids import CommitId, serving_id
from deltavc.records.receipt import (
    MAX_BYTES,
    RECEIPT_FILE,
    SCHEMA,
    FileDigest,
    Form,
    Receipt,
    ReceiptBase,
    ServedAdapter,
    decode,
    encode,
)
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.formats.writer_plan import Seal
    from deltavc.repo.repository import Repository

__all__ = ["Problem", "describe", "discard", "read", "seal", "verify", "write"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = 253_402_300_799_999  # the last millisecond of the year 9999


@dataclass(frozen=True)
class Problem:
    """What of a folder is not as its receipt says.

    Attributes:
        path: The file, relative to the folder.
        kind: ``missing``, ``extra`` (the receipt does not name it), ``irregular`` (a link, a
            pipe, …), ``unreadable``, ``size``, ``xxh3`` or ``sha256``; ``no-digests`` of the
            receipt itself, which then says nothing of files.
        message: A sentence for people.
    """

    path: str
    kind: str
    message: str


def describe(
    repo: Repository,
    commit: CommitId,
    form: Form = "full",
    *,
    exact: bool = True,
    adapter: ServedAdapter | None = None,
    files: dict[str, FileDigest] | None = None,
) -> Receipt:
    """Returns the receipt of a version as of now.

    Args:
        repo: The repository.
        commit: The version.
        form: In which form it is written.
        exact: Whether writing it approximates nothing.
        adapter: What a server is to know of it.
        files: What the files hold.

    Returns:
        The receipt.
    """
    record = repo.commit(commit)
    return Receipt(
        schema=SCHEMA,
        serving_id=serving_id(commit),
        commit=commit,
        manifest=record.manifest,
        base=ReceiptBase(record.base, repo.base_name(repo.state(), record.base)),
        form=form,
        exact=exact and not record.errors,
        tool=f"deltavc {__version__}",
        written=_iso(repo.session.clock()),
        adapter=adapter,
        files=files or {},
    )


def seal(
    repo: Repository,
    commit: CommitId,
    form: Form = "full",
    *,
    exact: bool = True,
    adapter: ServedAdapter | None = None,
    digests: bool = False,
) -> Seal:
    """Returns what a plan wants, to have the receipt made last.

    Args:
        repo: The repository.
        commit: The version.
        form: In which form it is written.
        exact: Whether writing it approximates nothing.
        adapter: What a server is to know of it.
        digests: Read the written files back, and tell what they hold.

    Returns:
        The seal.
    """
    from deltavc.formats.writer_plan import Seal

    def content(folder: Path) -> bytes:
        files = _digests(folder, repo.session.threads) if digests else None
        return encode(describe(repo, commit, form, exact=exact, adapter=adapter, files=files))

    return Seal(RECEIPT_FILE, content)


def write(repo: Repository, folder: Path, commit: CommitId) -> Receipt:
    """Writes the receipt of full weights that lie there already, in one step.

    Args:
        repo: The repository.
        folder: The folder, which holds the version.
        commit: The version.

    Returns:
        The receipt.

    Raises:
        RepositoryUnwritable: The system would not.
    """
    from deltavc.formats.writer import put_file

    receipt = describe(repo, commit)
    beside = folder / f".{RECEIPT_FILE}.deltavc-{os.getpid()}"
    try:
        beside.unlink(missing_ok=True)
        put_file(beside, encode(receipt))
        beside.replace(folder / RECEIPT_FILE)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return receipt


def discard(folder: Path) -> None:
    """Takes a receipt away that is not true any more; what is not one stays.

    Args:
        folder: The folder.

    Raises:
        RepositoryUnwritable: The system would not.
    """
    try:
        read(folder)
    except (UnsafeFile, UnsupportedFormat):
        return
    try:
        (folder / RECEIPT_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def read(folder: Path) -> Receipt:
    """Reads the receipt of a folder, trusting nothing of it.

    Args:
        folder: The folder.

    Returns:
        The receipt.

    Raises:
        UnsupportedFormat: There is none, it is another file, or one of a newer schema.
        UnsafeFile: It is malformed, too large, or no regular file.
    """
    path = Path(folder) / RECEIPT_FILE
    if kind_of(path) is None:
        raise UnsupportedFormat(
            f"there is no '{RECEIPT_FILE}' in '{shown(folder)}'",
            hint="give a folder that checkout wrote, or write it anew: deltavc checkout REV --to",
            path=str(folder),
        )
    return decode(read_small(path, max_bytes=MAX_BYTES))


def verify(folder: Path, *, deep: bool = False, threads: int = 2) -> list[Problem]:
    """Compares the files of a folder with its receipt.

    Sizes come first, and files are read only where all of them fit. Hidden names are
    passed over: servers leave theirs.

    Args:
        folder: The folder.
        deep: Compare SHA-256, which nobody can match by another file; default: xxh3.
        threads: How many files to read at a time.

    Returns:
        What is not as it was written, by path; empty where all is.

    Raises:
        UnsupportedFormat: There is no receipt, or one of a newer schema.
        UnsafeFile: The receipt is malformed, or the folder cannot be listed.

    Cost:
        One read of each file; xxh3 is as fast as that, SHA-256 some 1.2 GB/s a thread.
    """
    receipt = read(folder)
    if not receipt.files:
        told = f"'{RECEIPT_FILE}' tells nothing of files, so they cannot be checked"
        return [Problem(RECEIPT_FILE, "no-digests", told)]
    found = file_sizes(Path(folder))
    found.pop(RECEIPT_FILE, None)
    problems = [_problem(path, "missing") for path in receipt.files.keys() - found.keys()]
    for path, size in found.items():
        wanted = receipt.files.get(path)
        if wanted is None:
            problems.append(_problem(path, "extra"))
        elif size is None:
            problems.append(_problem(path, "irregular"))
        elif size != wanted.size:
            problems.append(_problem(path, "size"))
    if not problems:
        kind = "sha256" if deep else "xxh3"
        for path, sums in file_sums(Path(folder), _largest_first(found), (kind,), threads):
            if sums is None:
                problems.append(_problem(path, "unreadable"))
            elif sums[kind] != getattr(receipt.files[path], kind):
                problems.append(_problem(path, kind))
    return sorted(problems, key=lambda problem: problem.path)


_SENTENCES = {
    "missing": "is not there",
    "extra": "was not written with the rest",
    "irregular": "is not a regular file",
    "unreadable": "cannot be read",
    "size": "has another size than when it was written",
    "xxh3": "does not hold what was written",
    "sha256": "does not hold what was written",
}


def _problem(path: str, kind: str) -> Problem:
    return Problem(path, kind, f"'{shown(path)}' {_SENTENCES[kind]}")


def _digests(folder: Path, threads: int) -> dict[str, FileDigest]:
    """Reads the files of a folder that was just written."""
    sizes = file_sizes(folder)
    digests = {}
    for path, found in file_sums(folder, _largest_first(sizes), tuple(KINDS), threads):
        size = sizes[path]
        if found is None or size is None:
            raise UnsafeFile(f"'{shown(path)}' cannot be read back", path=str(folder / path))
        digests[path] = FileDigest(size, found["sha256"], found["xxh3"])
    return dict(sorted(digests.items()))


def _largest_first(sizes: Mapping[str, int | None]) -> list[str]:
    return sorted(sizes, key=lambda path: (-(sizes[path] or 0), path))


def _unwritable(folder: Path, error: OSError) -> RepositoryUnwritable:
    return RepositoryUnwritable(
        f"the receipt of '{shown(folder)}' cannot be written: {error.strerror}", path=str(folder)
    )


def _iso(milliseconds: int) -> str:
    """Returns a time in ISO 8601, UTC; what no calendar has becomes its nearest end."""
    whole = min(max(milliseconds, 0), _LAST)
    text = (_EPOCH + timedelta(milliseconds=whole)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{whole % 1000:03d}Z" if whole % 1000 else f"{text}Z"
