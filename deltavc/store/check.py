"""Checking a store, and moving what is damaged out of the way.

A check reads every byte: names against contents, indexes against objects,
bodies against ids. What is wrong is a value. Moving is apart from checking, and
never deletes: damaged files keep their bytes in ``quarantine/``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import ObjectCorrupt, RepositoryError
from deltavc.ids import ObjectId, is_object_id, short
from deltavc.store import files, record
from deltavc.store.files import ReadFile
from deltavc.store.packcache import load_table
from deltavc.store.packfile import MAGIC, Entry, is_pack_name, pack_name, read_index
from deltavc.store.record import Prepared, RecordHeader
from deltavc.store.values import Finding, Quarantined
from deltavc.store.writer import PackWriter

if TYPE_CHECKING:
    from deltavc.store.objects import ObjectStore

__all__ = ["check", "copy_record", "move_away", "open_record", "quarantine", "verify"]

Progress = Callable[[int, int], None]


def open_record(
    file: ReadFile, entry: Entry | None, oid: ObjectId | None
) -> tuple[int, RecordHeader]:
    """Reads the header of a stored object and compares it with what names it.

    Args:
        file: The loose file or the pack.
        entry: The pack's index entry; None for a loose file, which the object
            must fill.
        oid: The id that it must have.

    Returns:
        Where it begins, and its header.

    Raises:
        ObjectCorrupt: It is damaged, or another object than said.
    """
    offset, stored = (0, file.size) if entry is None else (entry.offset, entry.stored)
    header = record.read_header(file, offset, stored)
    if header.stored != stored:
        raise ObjectCorrupt(f"a stored object takes {header.stored} bytes, not {stored}")
    if oid is not None and header.id != oid:
        raise ObjectCorrupt(f"object '{short(header.id)}' lies in the place of '{short(oid)}'")
    if entry is not None and (header.kind, header.length) != (entry.kind, entry.length):
        raise ObjectCorrupt(f"object '{short(header.id)}' is not as its pack's index says")
    return offset, header


def copy_record(file: ReadFile, offset: int, header: RecordHeader) -> Prepared:
    """Returns a stored object as it is, once its body was checked against its id.

    Args:
        file: The file that holds it.
        offset: Where it begins.
        header: Its header.

    Returns:
        The object, not compressed anew.

    Raises:
        ObjectCorrupt: It is damaged.
    """
    record.read_body(file, offset, header, record.limit_of(header.kind))
    stored = file.read(offset, header.stored)
    return Prepared(header.id, header.kind, header.length, (stored,))


def verify(store: ObjectStore, oid: ObjectId) -> Finding | None:
    """Checks every copy of one object.

    Args:
        store: The store.
        oid: The id.

    Returns:
        What is wrong with the first copy that is not whole, or None.
    """
    places = store.places(oid) if is_object_id(oid) else []
    for place in places:
        path = _relative(store, place.path)
        try:
            with ReadFile(place.path) as file:
                _check_record(file, place.entry, oid)
        except (FileNotFoundError, ObjectCorrupt) as error:
            return Finding("object-damaged", path, _sentence(error), oid)
    if not places:
        return Finding("object-missing", "", f"object '{short(oid)}' is not in the store", oid)
    return None


def check(store: ObjectStore, progress: Progress | None = None) -> Iterator[Finding]:
    """Checks every byte of a store.

    Args:
        store: The store.
        progress: Called with the bytes done and the bytes there are.

    Yields:
        What is wrong, in order of paths.
    """
    paths = [*_walk(store.packs_folder), *_walk(store.loose.folder)]
    total = sum(size for _, size in paths)
    done = 0
    for path, size in paths:
        yield from _check_file(store, path)
        done += size
        if progress is not None:
            progress(done, total)
    with suppress(FileNotFoundError):
        try:
            load_table(store.table_path)
        except ObjectCorrupt as error:
            yield Finding("cache-damaged", _relative(store, store.table_path), error.message)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yields everything in a folder that is not a folder, with sizes, in order."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise RepositoryError(
            f"'{folder}' cannot be listed: {(error.strerror or '').lower()}", path=str(folder)
        ) from error
    for path in found:
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(path)
            else:
                yield path, status.st_size


def _check_file(store: ObjectStore, path: Path) -> Iterator[Finding]:
    where = _relative(store, path)
    folder = path.parent
    try:
        if folder == store.packs_folder and is_pack_name(path.name):
            yield from _check_pack(path, where)
        elif is_object_id(path.name) and path == store.loose.path(ObjectId(path.name)):
            oid = ObjectId(path.name)
            try:
                with ReadFile(path) as file:
                    _check_record(file, None, oid)
            except ObjectCorrupt as error:
                yield Finding("object-damaged", where, error.message, oid)
        else:
            yield Finding("file-unexpected", where, f"'{where}' does not belong here")
    except FileNotFoundError:
        return  # packed or removed by another process since the folder was listed


def _check_record(file: ReadFile, entry: Entry | None, oid: ObjectId) -> None:
    offset, header = open_record(file, entry, oid)
    record.read_body(file, offset, header, record.limit_of(header.kind))


def _check_pack(path: Path, where: str) -> Iterator[Finding]:
    try:
        index = read_index(path)
        file = ReadFile(path)
    except ObjectCorrupt as error:
        yield Finding("pack-damaged", where, error.message)
        return
    with file:
        at = len(MAGIC)
        for entry in sorted(index.entries(), key=lambda e: e.offset):
            if entry.offset != at:
                yield Finding("pack-damaged", where, f"'{path.name}' has a gap or an overlap")
            at = entry.offset + entry.stored
            try:
                _check_record(file, entry, entry.id)
            except ObjectCorrupt as error:
                yield Finding("object-damaged", where, error.message, entry.id)
        if at != index.end:
            yield Finding("pack-damaged", where, f"'{path.name}' has bytes that nothing lists")
        if pack_name(file.sha256()) != path.name:
            yield Finding("pack-name", where, f"'{path.name}' does not match its name")


def quarantine(store: ObjectStore, findings: Iterable[Finding]) -> Quarantined:
    """Moves damaged files to quarantine, after saving what is whole in them.

    Needs the repository's lock. A pack's whole objects are written to a new
    pack before the damaged one goes, so that a kill at any moment loses nothing.

    Args:
        store: The store.
        findings: What :func:`check` or :func:`verify` found.

    Returns:
        What was moved, saved and lost.

    Raises:
        RepositoryUnwritable: Files cannot be moved or written.
    """
    moved: list[str] = []
    salvaged: list[ObjectId] = []
    held: set[ObjectId] = set()
    for where in sorted({finding.path for finding in findings if finding.path}):
        path = store.root / where
        if not os.path.lexists(path):
            continue
        if path.parent == store.packs_folder and is_pack_name(path.name):
            held |= _held(path)
            kept, target = _salvage(store, path)
            salvaged += kept
        else:
            if is_object_id(path.name):
                held.add(ObjectId(path.name))
            target = move_away(store, path)
        moved.append(_relative(store, target))
    store.refresh()
    lost = sorted(oid for oid in held if not store.is_whole(oid))
    return Quarantined(tuple(moved), tuple(salvaged), tuple(lost))


def move_away(store: ObjectStore, path: Path) -> Path:
    """Moves a file to quarantine.

    Args:
        store: The store.
        path: The file.

    Returns:
        Where it is now.

    Raises:
        RepositoryUnwritable: It cannot be moved.
    """
    target = _free_name(store, path.name)
    with files.writing(path):
        path.rename(target)
        files.sync_folder(target.parent)
        files.sync_folder(path.parent)
    return target


def _free_name(store: ObjectStore, name: str) -> Path:
    with files.writing(store.quarantine_folder):
        files.make_folder(store.quarantine_folder)
    number = 0
    while True:
        target = store.quarantine_folder / (f"{name}.{number}" if number else name)
        if not os.path.lexists(target):
            return target
        number += 1


def _held(path: Path) -> set[ObjectId]:
    """Returns the ids that a damaged pack held, as far as it still tells."""
    try:
        return {entry.id for entry in read_index(path).entries()}
    except (ObjectCorrupt, FileNotFoundError):
        return set()


def _salvage(store: ObjectStore, path: Path) -> tuple[list[ObjectId], Path]:
    """Writes a damaged pack's whole objects to a new one, and moves it away."""

    def known(oid: ObjectId) -> bool:
        return store.is_whole(oid, apart_from=path.name)

    target = _free_name(store, path.name)
    with PackWriter(store.packs_folder, store.staging, known, store.packs.add) as writer:
        for prepared in _whole_records(path):
            writer.add_prepared(prepared)
        # a link first: the new pack may have the very name of the damaged one
        with files.writing(path):
            try:
                os.link(path, target, follow_symlinks=False)
            except OSError:
                path.rename(target)
            files.sync_folder(target.parent)
        info = writer.finish()
    if info.name != path.name:
        with files.writing(path):
            path.unlink(missing_ok=True)
            files.sync_folder(path.parent)
    return list(info.objects), target


def _whole_records(path: Path) -> Iterator[Prepared]:
    """Yields the objects of a damaged pack that are whole."""
    try:
        file = ReadFile(path)
    except (FileNotFoundError, ObjectCorrupt):
        return
    with file:
        try:
            entries = sorted(read_index(path).entries(), key=lambda e: e.offset)
            starts = [(entry.offset, entry.stored) for entry in entries]
        except (ObjectCorrupt, FileNotFoundError):
            starts = list(_walk_records(file))
        for offset, stored in starts:
            with suppress(ObjectCorrupt):
                yield copy_record(file, offset, record.read_header(file, offset, stored))


def _walk_records(file: ReadFile) -> Iterator[tuple[int, int]]:
    """Yields where the objects of a pack without a readable index begin, one after another."""
    at = len(MAGIC)
    while at < file.size:
        try:
            header = record.read_header(file, at, file.size - at)
        except ObjectCorrupt:
            return
        yield at, header.stored
        at += header.stored


def _relative(store: ObjectStore, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, ObjectCorrupt) else "the file is gone"
