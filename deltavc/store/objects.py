"""The object store of a repository: packs and loose objects under one folder.

::

    objects/packs/pack-<sha256>.pack     one a commit
    objects/loose/ab/<id>                small records, until they are packed
    quarantine/                          damaged files, kept
    tmp/                                 files being written
    cache/packs.idx                      which pack holds what; rebuilt at will

Files are immutable and named by content. Each read checks the body's SHA-256.
Nothing here knows what objects mean, nor which of them are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from deltavc.codec.digest import Buffer, object_id
from deltavc.codec.frames import Part, as_parts
from deltavc.codec.room import Room, heap
from deltavc.errors import ObjectCorrupt, ObjectMissing
from deltavc.ids import HEX_DIGITS, ObjectId, is_object_id, short
from deltavc.store import check as checking
from deltavc.store import files, record
from deltavc.store.files import ReadFile, StagedFile
from deltavc.store.loose import Loose
from deltavc.store.packfile import Entry
from deltavc.store.packs import PackSet
from deltavc.store.record import Prepared, RecordHeader
from deltavc.store.scratch import FileRoom
from deltavc.store.values import Finding, ObjectStat, Quarantined
from deltavc.store.writer import PackWriter

__all__ = ["LOOSE", "ObjectStore", "Place"]

LOOSE = "loose"
_T = TypeVar("_T")


class Place(NamedTuple):
    """One copy of an object: its file, and its index entry where that is a pack."""

    path: Path
    entry: Entry | None

    @property
    def name(self) -> str:
        """``loose``, or the pack's name."""
        return LOOSE if self.entry is None else self.path.name


class ObjectStore:
    """The objects of one repository.

    Safe to use from several threads, and beside other processes that add
    objects. :meth:`quarantine` and whatever removes files need the repository's
    lock, which is the caller's business.

    Args:
        root: The ``.deltavc`` folder.

    Attributes:
        root: That folder.
        packs: The set of packs.
        loose: The loose objects.
        staging: The folder of files being written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging = root / "tmp"
        self.packs_folder = root / "objects" / "packs"
        self.table_path = root / "cache" / "packs.idx"
        self.quarantine_folder = root / "quarantine"
        self.loose = Loose(root / "objects" / "loose")
        self.packs = PackSet(self.packs_folder, self.table_path, self.staging)

    @classmethod
    def create(cls, root: Path) -> ObjectStore:
        """Makes the folders of a store; those that exist are left as they are.

        Args:
            root: The ``.deltavc`` folder.

        Returns:
            The store.

        Raises:
            RepositoryUnwritable: A folder cannot be made.
        """
        store = cls(root)
        with files.writing(root):
            for folder in (
                store.packs_folder,
                store.loose.folder,
                store.quarantine_folder,
                store.staging,
                store.table_path.parent,
            ):
                files.make_folder(folder)
        return store

    # reading --------------------------------------------------------------

    def has(self, oid: ObjectId) -> bool:
        """Tells whether there is an object of this id; not whether it is whole."""
        return any(True for _ in self._places(oid))

    def get(
        self, oid: ObjectId, kind: str, *, limit: int | None = None, room: Room = heap
    ) -> memoryview:
        """Returns an object's body, checked against its id.

        Args:
            oid: The id.
            kind: The kind that it must have.
            limit: Largest length of the body that the caller takes.
            room: Where the body goes.

        Returns:
            The body, in a buffer of the caller's own.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: Every copy is damaged, or it is of another kind.
        """
        found, body = self.read_any(oid, limit=limit, room=room)
        if found != kind:
            raise ObjectCorrupt(
                f"object '{short(oid)}' is a {found}, not a {kind}",
                id=oid,
                expected=kind,
                found=found,
            )
        return body

    def read_any(
        self, oid: ObjectId, *, limit: int | None = None, room: Room = heap
    ) -> tuple[str, memoryview]:
        """Returns an object's kind and body, checked against its id; see :meth:`get`."""

        def read(file: ReadFile, offset: int, header: RecordHeader) -> tuple[str, memoryview]:
            most = record.limit_of(header.kind) if limit is None else limit
            return header.kind, record.read_body(file, offset, header, most, room)

        return self._first_whole(oid, read)

    def read_start(self, oid: ObjectId) -> bytes:
        """Returns the first frame of an object's body: of a delta, the header line.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: Every copy's first frame is damaged.
        """
        return self._first_whole(oid, record.read_start)

    def read_prepared(self, oid: ObjectId) -> Prepared:
        """Returns an object as it is stored, checked, ready to be added elsewhere.

        Args:
            oid: The id.

        Returns:
            The object, not compressed anew.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: Every copy is damaged.
        """
        return self._first_whole(oid, checking.copy_record)

    def stat(self, oid: ObjectId) -> ObjectStat:
        """Returns where an object is and how large, without reading its body.

        Args:
            oid: The id.

        Returns:
            What is known of it.

        Raises:
            ObjectMissing: There is no such object.
            ObjectCorrupt: Its header is damaged.
        """
        for place in self._places(oid):
            if place.entry is not None:
                return _stat_of(place.entry, place.name)
        header = self._first_whole(oid, lambda *found: found[2])
        return ObjectStat(oid, header.kind, header.length, header.stored, LOOSE)

    def iter(self) -> Iterator[ObjectStat]:
        """Yields every object once: those in packs, then loose ones.

        Objects in packs whose index cannot be read, and loose files without a
        readable header, are left out; :meth:`check` names them.
        """
        self.packs.refresh()
        seen: set[bytes] = set()
        for index in self.packs.indexes():
            for entry in index.entries():
                if entry.raw_id not in seen:
                    seen.add(entry.raw_id)
                    yield _stat_of(entry, index.name)
        for oid in self.loose.ids():
            if bytes.fromhex(oid) in seen:
                continue
            try:
                yield self.stat(oid)
            except (ObjectCorrupt, ObjectMissing):
                continue

    def resolve_prefix(self, prefix: str, kind: str | None = None) -> list[ObjectId]:
        """Returns the ids that begin with some digits, in order.

        Args:
            prefix: Lower-case hex digits; anything else fits nothing.
            kind: Only objects of this kind.

        Returns:
            The ids; several if the prefix is ambiguous.
        """
        if len(prefix) > HEX_DIGITS or not is_object_id(prefix.ljust(HEX_DIGITS, "0")):
            return []
        low = bytes.fromhex(prefix.ljust(HEX_DIGITS, "0"))
        high = bytes.fromhex(prefix.ljust(HEX_DIGITS, "f"))
        found = {ObjectId(raw_id.hex()) for raw_id in self.packs.within(low, high)}
        found.update(self.loose.ids(prefix))
        return sorted(oid for oid in found if kind is None or self._is_of_kind(oid, kind))

    def refresh(self) -> bool:
        """Looks for packs that other processes wrote; tells whether any came or went.

        Look-ups do so by themselves before they say that there is nothing.
        """
        return self.packs.refresh()

    # writing --------------------------------------------------------------

    def room(self) -> FileRoom:
        """Returns room for large buffers beside the store's own files, instead of in memory."""
        return FileRoom(self.staging)

    def prepare(
        self, kind: str, parts: Iterable[Part | Buffer], *, room: Room | None = None
    ) -> Prepared:
        """Hashes and compresses an object; pure, and safe in several threads at once.

        Args:
            kind: Its kind.
            parts: Its body in parts.
            room: Where the stored bytes go; None for as many buffers as there are frames.

        Returns:
            The object, ready for :meth:`PackWriter.add_prepared`.
        """
        return record.prepare(kind, parts, room=room)

    def put(self, kind: str, parts: Iterable[Part | Buffer]) -> ObjectId:
        """Keeps an object durably, as a loose file.

        Args:
            kind: Its kind.
            parts: Its body in parts.

        Returns:
            Its id. What is there already, and whole, is not written again; a
            damaged loose file of that id moves to quarantine.

        Raises:
            RepositoryUnwritable: It cannot be written; nothing is left behind.
        """
        record.check_kind(kind)
        body = as_parts(parts)
        oid = object_id(kind, [part.data for part in body])
        if self.is_whole(oid):
            return oid
        prepared = record.prepare(kind, body)
        file = StagedFile(self.staging, "loose")
        try:
            for chunk in prepared.chunks:
                file.write(chunk)
            path = self.loose.path(oid)
            if path.exists() or path.is_symlink():
                checking.move_away(self, path)
        except BaseException:
            file.discard()
            raise
        file.publish(path)
        return oid

    def pack(self) -> PackWriter:
        """Returns a writer for one pack, to be used as a context manager."""
        return PackWriter(self.packs_folder, self.staging, self.is_whole, self.packs.add)

    def is_whole(self, oid: ObjectId, *, apart_from: str = "") -> bool:
        """Tells whether a copy of an object is there whose checksums all hold.

        Args:
            oid: The id.
            apart_from: Name of a pack whose copy does not count.

        Returns:
            Whether there is.
        """
        for place in self._places(oid):
            if place.name == apart_from:
                continue
            try:
                self._with_header(place, oid, record.check_stored)
            except (FileNotFoundError, ObjectCorrupt):
                continue
            return True
        return False

    def sweep(self, age: float) -> list[Path]:
        """Removes left-overs in ``tmp/`` that no live writer holds.

        Args:
            age: Only files unchanged for so many seconds.

        Returns:
            What was removed.
        """
        return files.sweep(self.staging, age)

    # checking -------------------------------------------------------------

    def verify(self, oid: ObjectId) -> Finding | None:
        """Checks every copy of one object; returns what is wrong first, or None."""
        return checking.verify(self, oid)

    def check(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Finding]:
        """Checks every byte of the store and yields what is wrong.

        Args:
            progress: Called with the bytes done and the bytes there are.

        Yields:
            Findings, in order of paths.
        """
        return checking.check(self, progress)

    def quarantine(self, findings: Iterable[Finding]) -> Quarantined:
        """Moves the damaged files of findings to quarantine; see :func:`check.quarantine`."""
        return checking.quarantine(self, findings)

    # inside ---------------------------------------------------------------

    def places(self, oid: ObjectId) -> list[Place]:
        """Returns every copy of an object, after asking every pack."""
        found = [Place(i.path, e) for i, e in self.packs.find_everywhere(bytes.fromhex(oid))]
        return [*found, *([Place(self.loose.path(oid), None)] if self.loose.exists(oid) else [])]

    def _places(self, oid: ObjectId) -> Iterator[Place]:
        if not is_object_id(oid):
            return
        if self.loose.exists(oid):
            yield Place(self.loose.path(oid), None)
        for index, entry in self.packs.find(bytes.fromhex(oid)):
            yield Place(index.path, entry)

    def _first_whole(self, oid: ObjectId, read: Callable[[ReadFile, int, RecordHeader], _T]) -> _T:
        """Returns what the first whole copy of an object gives.

        When the usual places fail, the folder is listed again (another process
        may have packed the object meanwhile) and every pack is asked.
        """
        failure: ObjectCorrupt | None = None
        for last in (False, True):
            if not is_object_id(oid):
                break
            if last:
                self.packs.refresh()
            for place in self.places(oid) if last else self._places(oid):
                try:
                    return self._with_header(place, oid, read)
                except FileNotFoundError:
                    continue
                except ObjectCorrupt as error:
                    failure = failure or _named(error, oid, place)
        if failure is not None:
            raise failure
        for name, reason in self.packs.damaged().items():
            raise ObjectCorrupt(
                f"object '{short(oid)}' may be in a pack that cannot be read: {reason}",
                id=oid,
                pack=name,
            )
        raise ObjectMissing(f"object '{short(oid)}' is not in the store", id=oid)

    def _with_header(
        self, place: Place, oid: ObjectId, read: Callable[[ReadFile, int, RecordHeader], _T]
    ) -> _T:
        with ReadFile(place.path) as file:
            return read(file, *checking.open_record(file, place.entry, oid))

    def _is_of_kind(self, oid: ObjectId, kind: str) -> bool:
        try:
            return self.stat(oid).kind == kind
        except (ObjectCorrupt, ObjectMissing):
            return False


def _stat_of(entry: Entry, pack: str) -> ObjectStat:
    return ObjectStat(entry.id, entry.kind, entry.length, entry.stored, pack)


def _named(error: ObjectCorrupt, oid: ObjectId, place: Place) -> ObjectCorrupt:
    """Returns an error that names the object and its file."""
    context = {"id": oid, "path": str(place.path)}
    if short(oid) in error.message:
        return ObjectCorrupt(error.message, **context)
    return ObjectCorrupt(f"object '{short(oid)}' is damaged: {error.message}", **context)
