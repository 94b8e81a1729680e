"""The verb ``audit export``: the trail, or a part of it, as files for others.

Kinds are kept in a registry, so that other packages can add theirs. Nothing that is
there is overwritten: files and folders are written beside and renamed.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deltavc.codec.digest import sha256_hex
from deltavc.errors import RepositoryUnwritable, UsageError
from deltavc.ids import CommitId
from deltavc.ledger.protocol import Entry
from deltavc.records import canonical
from deltavc.repo.audit import Selection, head, require_whole_history
from deltavc.repo.results_audit import Exported

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["KINDS", "Evidence", "Exporter", "Wanted", "chosen", "export", "written"]


Evidence = Callable[["Repository", Sequence[CommitId]], Mapping[str, bytes]]
"""Makes documents about versions, by the path that they have in a pack."""


class Wanted(NamedTuple):
    """What is to be exported.

    Attributes:
        output: The file or folder to write.
        selection: Which events.
        since: Not before this time, in milliseconds.
        until: Not after this time.
        about: Only about these refs, environments or revisions.
        sign: Whether the result is to be signed.
        deep: Whether weights go with it.
        evidence: Makes documents about versions for a pack, by path.
    """

    output: Path
    selection: Selection
    since: int | None
    until: int | None
    about: tuple[str, ...]
    sign: bool
    deep: bool
    evidence: Evidence | None = None


Exporter = Callable[["Repository", Wanted], Exported]
"""Writes what is wanted and says what it wrote."""


def export(
    repo: Repository,
    output: Path,
    kind: str,
    *,
    since: int | None = None,
    until: int | None = None,
    about: Sequence[str] = (),
    sign: bool = False,
    deep: bool = False,
    evidence: Evidence | None = None,
) -> Exported:
    """Writes the trail, or a part of it, to a file or folder that is not there yet.

    Args:
        repo: The repository.
        output: The file or folder.
        kind: One of :data:`KINDS`.
        since: Not before this time, in milliseconds.
        until: Not after this time.
        about: Only about these refs, environments or revisions.
        sign: Sign a pack with the configured key.
        deep: Put the weights into a pack too: deltas and files.
        evidence: Makes documents for a pack about the versions that it is about.

    Returns:
        What was written.

    Raises:
        UsageError: There is no such kind, it has no signature or no weights, something is
            there already, or no event fits.
        UnknownRevision: There is nothing called like that.
        RepositoryUnwritable: It cannot be written.
        AuditChainBroken: The log does not follow from itself.
    """
    require_whole_history(repo, "audit export")
    exporter = KINDS.get(kind)
    if exporter is None:
        raise UsageError(f"there is no export as '{kind}'", hint=f"one of: {', '.join(KINDS)}")
    if (sign or deep) and kind != "pack":
        raise UsageError(
            f"an export as '{kind}' has no {'signature' if sign else 'weights'}",
            hint="write a pack: --as pack",
        )
    if os.path.lexists(output):
        raise UsageError(
            f"'{output}' is there already, and an export overwrites nothing",
            hint="choose another name",
            path=str(output),
        )
    selection = Selection(repo, since=since, until=until, about=about)
    wanted = Wanted(output, selection, since, until, tuple(about), sign, deep, evidence)
    try:
        return exporter(repo, wanted)
    except OSError as error:
        raise RepositoryUnwritable(
            f"'{output}' cannot be written: {error.strerror or error}", path=str(output)
        ) from error


@contextmanager
def written(output: Path) -> Iterator[Path]:
    """Yields a name beside an output to write to; renames it when all went well.

    Args:
        output: The file or folder that is to be there in the end.

    Yields:
        The name to write to; nothing is there.

    Raises:
        OSError: It cannot be written, or meanwhile something else is there.
    """
    beside = output.with_name(f".{output.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield beside
        if beside.is_dir():
            beside.rename(output)  # fails where a folder that is not empty, or a file, is there
        else:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            _publish(beside, output)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def _publish(beside: Path, output: Path) -> None:
    """Gives a file its name, unless something has it by now."""
    try:
        output.hardlink_to(beside)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as on many a memory stick
        if os.path.lexists(output):
            raise
        beside.rename(output)


def chosen(repo: Repository, wanted: Wanted) -> list[Entry]:
    """Returns the events that are asked for, oldest first.

    Args:
        repo: The repository.
        wanted: What is asked for.

    Returns:
        The events with their hashes.

    Raises:
        UsageError: There are none.
        AuditChainBroken: The log does not follow from itself.
    """
    found = [entry for entry in repo.log.read() if wanted.selection.takes(entry[0])]
    if not found:
        raise UsageError(
            "no event fits, so there is nothing to export",
            hint="see what there is: deltavc audit log",
        )
    return found


def done(
    repo: Repository, wanted: Wanted, kind: str, files: int, events: int, **more: object
) -> Exported:
    """Returns what an exporter answers, with the sizes of what it wrote."""
    output = wanted.output
    paths = [p for p in output.rglob("*") if p.is_file()] if output.is_dir() else [output]
    return Exported(
        kind=kind,
        path=str(output),
        files=files,
        bytes=sum(path.stat().st_size for path in paths),
        events=events,
        head=head(repo),
        **more,  # type: ignore[arg-type]
    )


def export_jsonl(repo: Repository, wanted: Wanted) -> Exported:
    """Writes the lines of the log as they are: the SHA-256 of a line is the event's hash."""
    events = chosen(repo, wanted)
    data = b"".join(canonical.encode(event) + b"\n" for event, _ in events)
    with written(wanted.output) as beside:
        beside.write_bytes(data)
    return done(repo, wanted, "jsonl", 1, len(events), sha256=sha256_hex(data))


def export_csv(repo: Repository, wanted: Wanted) -> Exported:
    """Writes the views, a file each; the one of events alone where the name ends in .csv."""
    from deltavc.repo.audit_tables import tables

    events = chosen(repo, wanted)
    only = ["v_events"] if wanted.output.suffix == ".csv" else None
    files = 0
    with written(wanted.output) as beside:
        if only is None:
            beside.mkdir()
        for name, columns, rows in tables(repo, events, whole=wanted.selection.is_all, only=only):
            path = beside if only else beside / f"{name.removeprefix('v_')}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows([_cell(cell) for cell in row] for row in rows)
            files += 1
    return done(repo, wanted, "csv", files, len(events))


def _cell(value: object) -> object:
    """Returns a cell that no spreadsheet takes for a formula: an apostrophe in front of such."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def export_sqlite(repo: Repository, wanted: Wanted) -> Exported:
    """Writes the views as tables of a database of their own, and Datasette's metadata beside."""
    from deltavc.repo.audit_tables import write_database, write_metadata

    events = chosen(repo, wanted)
    metadata = wanted.output.with_name(f"{wanted.output.stem}.metadata.json")
    if os.path.lexists(metadata):
        raise UsageError(
            f"'{metadata}' is there already, and an export overwrites nothing",
            hint="choose another name",
            path=str(metadata),
        )
    with written(wanted.output) as beside, written(metadata) as about:
        write_database(repo, events, beside, whole=wanted.selection.is_all)
        write_metadata(about, beside, wanted.output.stem)
    return done(repo, wanted, "sqlite", 2, len(events))


def _export_pack(repo: Repository, wanted: Wanted) -> Exported:
    from deltavc.repo.audit_pack import export_pack

    return export_pack(repo, wanted)


KINDS: dict[str, Exporter] = {
    "jsonl": export_jsonl,
    "csv": export_csv,
    "sqlite": export_sqlite,
    "pack": _export_pack,
}
"""Ways to write the trail down; other packages add theirs."""
