"""Damage and hostile files: all of it is found, none of it is ever handed out."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash
import zstandard

from deltavc.errors import IntegrityError, ObjectCorrupt, ObjectMissing
from deltavc.ids import ObjectId
from deltavc.store import Finding, ObjectStore

Held = dict[ObjectId, tuple[str, bytes]]


def object_files(store: ObjectStore) -> list[Path]:
    return sorted(path for path in (store.root / "objects").rglob("*") if path.is_file())


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Fails if more than so many bytes are touched; what is only reserved costs nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < most


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def nothing_wrong_is_handed_out(store: ObjectStore, held: Held) -> list[ObjectId]:
    """Reads everything; returns what could not be had."""
    lost = []
    for oid, (kind, body) in held.items():
        try:
            assert store.get(oid, kind) == body
        except (ObjectCorrupt, ObjectMissing):
            lost.append(oid)
    return lost


def test_every_flipped_bit_is_found(filled):
    store, held = filled
    rng = random.Random(0)
    for path in object_files(store):
        whole = path.read_bytes()
        positions = {0, 5, 20, 40, len(whole) - 1, len(whole) - 20, len(whole) - 60}
        positions |= {rng.randrange(len(whole)) for _ in range(12)}
        for position in positions:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << rng.randrange(8)
            overwrite(path, bytes(damaged))
            reader = ObjectStore(store.root)
            findings = list(reader.check())
            assert any(store.root / f.path == path for f in findings), (path.name, position)
            nothing_wrong_is_handed_out(reader, held)
        overwrite(path, whole)
    assert list(store.check()) == []


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:0],
    truncated,
    lambda data: data[:-1],
    lambda data: data[1:],
    lambda data: data + b"\0",
    lambda data: data + data,
    lambda data: bytes(len(data)),
    lambda data: data[:100] + data[101:],
]


@pytest.mark.parametrize("change", CHANGES)
def test_files_cut_short_or_made_longer_are_found(filled, change):
    store, held = filled
    for path in object_files(store):
        whole = path.read_bytes()
        overwrite(path, change(whole))
        reader = ObjectStore(store.root)
        assert any(store.root / f.path == path for f in reader.check())
        assert nothing_wrong_is_handed_out(reader, held)
        overwrite(path, whole)


def test_files_that_change_places_are_found(filled):
    store, held = filled
    files = object_files(store)
    for first, second in ((files[0], files[1]), (files[2], files[3]), (files[0], files[3])):
        one, two = first.read_bytes(), second.read_bytes()
        overwrite(first, two)
        overwrite(second, one)
        reader = ObjectStore(store.root)
        found = {store.root / finding.path for finding in reader.check()}
        assert {first, second} <= found
        nothing_wrong_is_handed_out(reader, held)
        overwrite(first, one)
        overwrite(second, two)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda p: Path(p).symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(filled, make):
    store, held = filled
    for path in object_files(store):
        whole = path.read_bytes()
        path.unlink()
        make(path)
        reader = ObjectStore(store.root)
        assert any(store.root / f.path == path for f in reader.check())
        assert nothing_wrong_is_handed_out(reader, held)
        path.unlink()
        path.write_bytes(whole)


def test_a_damaged_pack_is_not_called_missing(filled):
    store, _ = filled
    path = object_files(store)[-1]
    assert path.suffix == ".pack"
    overwrite(path, path.read_bytes()[:-3])
    reader = ObjectStore(store.root)
    with pytest.raises(ObjectCorrupt, match="may be in a pack that cannot be read"):
        reader.get(ObjectId("0" * 64), "blob")


def test_one_whole_copy_is_enough(filled):
    store, held = filled
    oid, (kind, body) = next(iter(held.items()))
    prepared = store.read_prepared(oid)
    pack = store.packs_folder / store.stat(oid).place
    data = bytearray(pack.read_bytes())
    data[data.index(bytes.fromhex(oid)) + 60] ^= 1
    overwrite(pack, bytes(data))
    with store.pack() as writer:
        writer.add_prepared(prepared)
        assert writer.finish().objects == (oid,)
    reader = ObjectStore(store.root)
    assert reader.get(oid, kind) == body
    assert reader.verify(oid) is not None  # the other copy is still damaged


def test_strange_files_are_reported(filled):
    store, _ = filled
    strange = [
        store.packs_folder / "notes.txt",
        store.packs_folder / "pack-12.pack",
        store.loose.folder / "ab" / "cd",
        store.loose.folder / "ab" / ("cd" * 32),
        store.loose.folder / ("ab" * 32),
    ]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = {store.root / f.path for f in store.check() if f.code == "file-unexpected"}
    assert found == set(strange)


def test_progress_ends_at_the_whole(filled):
    store, _ = filled
    calls: list[tuple[int, int]] = []
    assert list(store.check(lambda done, total: calls.append((done, total)))) == []
    total = sum(path.stat().st_size for path in object_files(store))
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


# quarantine -------------------------------------------------------------------


def damage_first_object(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    overwrite(path, bytes(data))


def damage_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    overwrite(path, bytes(data))


@pytest.mark.parametrize(("damage", "lost"), [(damage_first_object, 1), (damage_index, 0)])
def test_a_damaged_pack_is_salvaged(filled, damage, lost):
    store, held = filled
    path = object_files(store)[-1]
    inside = {stat.id for stat in store.iter() if stat.place == path.name}
    damage(path)
    damaged = path.read_bytes()
    reader = ObjectStore(store.root)
    done = reader.quarantine(list(reader.check()))
    assert len(done.lost) == lost
    assert set(done.salvaged) == inside - set(done.lost)
    assert [(store.root / moved).read_bytes() for moved in done.moved] == [damaged]
    for again in (reader, ObjectStore(store.root)):
        assert list(again.check()) == []
        assert nothing_wrong_is_handed_out(again, held) == list(done.lost)


def test_salvage_takes_nothing_that_is_elsewhere(filled):
    store, held = filled
    path = object_files(store)[-1]
    inside = [stat.id for stat in store.iter() if stat.place == path.name]
    others = [store.read_prepared(oid) for oid in inside]
    damage_first_object(path)
    with store.pack() as writer:
        for prepared in others:
            writer.add_prepared(prepared)
        writer.finish()
    done = store.quarantine(list(store.check()))
    assert done.lost == ()
    assert list(store.check()) == []
    assert nothing_wrong_is_handed_out(store, held) == []


def test_damaged_loose_files_and_strangers_move(filled):
    store, held = filled
    path = object_files(store)[0]
    overwrite(path, b"torn")
    (store.packs_folder / "notes.txt").write_bytes(b"mine")
    done = store.quarantine(list(store.check()))
    assert done.lost == (ObjectId(path.name),)
    assert sorted(p.read_bytes() for p in store.quarantine_folder.iterdir()) == [b"mine", b"torn"]
    kind, body = held[ObjectId(path.name)]
    assert store.put(kind, [body]) == path.name
    assert list(store.check()) == []


def test_quarantine_never_overwrites(store):
    for body in (b"one", b"two", b"three"):
        (store.packs_folder / "notes.txt").write_bytes(body)
        store.quarantine([Finding("file-unexpected", "objects/packs/notes.txt", "")])
    kept = sorted(path.read_bytes() for path in store.quarantine_folder.iterdir())
    assert kept == [b"one", b"three", b"two"]


# hostile files, written by hand -------------------------------------------------


def record(body: bytes, *, frames: list[tuple[int, int, int, int, bytes]], **lies: object) -> bytes:
    """A stored object whose checksums hold, whatever else it says."""
    oid = hashlib.sha256(b"blob %d\0" % len(body) + body).digest()
    head = struct.pack(
        "<4sIQ16s32s",
        lies.get("magic", b"DVO1"),
        lies.get("count", len(frames)),
        lies.get("length", len(body)),
        lies.get("kind", b"blob"),
        lies.get("id", oid),
    )
    for method, width, zero, length, data in frames:
        checksum = xxhash.xxh3_64_intdigest(data)
        stored = lies.get("stored", len(data))
        head += struct.pack("<BBHIIQ", method, width, zero, length, stored, checksum)
    head += struct.pack("<Q", xxhash.xxh3_64_intdigest(head))
    return head + b"".join(frame[4] for frame in frames)


def put_loose(store: ObjectStore, oid: str, data: bytes) -> ObjectId:
    path = store.loose.path(ObjectId(oid))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return ObjectId(oid)


BODY = b"hello hello hello hello hello hello hello"
RAW = (0, 1, 0, len(BODY), BODY)
ZEROS = zstandard.ZstdCompressor().compress(bytes(1 << 22))
BODY_ID = hashlib.sha256(b"blob %d\0" % len(BODY) + BODY).hexdigest()


def test_the_hand_written_record_is_read(store):
    oid = put_loose(store, BODY_ID, record(BODY, frames=[RAW]))
    assert store.get(oid, "blob") == BODY
    squeezed = zstandard.ZstdCompressor().compress(BODY)
    put_loose(store, BODY_ID, record(BODY, frames=[(1, 1, 0, len(BODY), squeezed)]))
    assert store.get(oid, "blob") == BODY


HOSTILE = [
    record(BODY, frames=[RAW], magic=b"DVO2"),
    record(BODY, frames=[RAW], count=0),
    record(BODY, frames=[RAW], count=2),
    record(BODY, frames=[RAW], count=(1 << 32) - 1),
    record(BODY, frames=[RAW], length=1 << 62),
    record(BODY, frames=[RAW], length=len(BODY) - 1),
    record(BODY, frames=[RAW], kind=b"Blob"),
    record(BODY, frames=[RAW], kind=b"commit"),
    record(BODY, frames=[RAW], kind=b"blob\0x"),
    record(BODY, frames=[RAW], kind=b"\0" * 16),
    record(BODY, frames=[RAW], kind=b"\xff" * 16),
    record(BODY, frames=[RAW], id=bytes(32)),
    record(BODY, frames=[RAW], stored=(1 << 32) - 1),
    record(BODY, frames=[(0, 1, 7, len(BODY), BODY)]),
    record(BODY, frames=[(9, 1, 0, len(BODY), BODY)]),
    record(BODY, frames=[(0, 1, 0, (1 << 32) - 1, BODY)]),
    record(BODY, frames=[RAW]) + b"\0",
    record(BODY, frames=[RAW, (0, 1, 0, 0, b"")]),
    record(BODY, frames=[(0, 1, 0, len(BODY), BODY[::-1])]),
    # a body of 16 GiB out of frames of 4 MiB that hold nothing like it; one frame more
    record(BODY, frames=[(1, 1, 0, 1 << 22, b"\0" * 128)] * 4096, length=1 << 34),
    record(BODY, frames=[(1, 1, 0, 1 << 22, b"\0" * 128)] * 4097, length=4097 << 22),
    record(BODY, frames=[(1, 1, 0, 1 << 21, ZEROS)], length=1 << 21),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_loose_files_are_refused(store, data):
    oid = put_loose(store, BODY_ID, data)
    for read in (lambda: store.get(oid, "blob"), lambda: store.read_prepared(oid)):
        with memory_below(64 << 20), pytest.raises(ObjectCorrupt) as caught:
            read()
        assert caught.value.context["id"] == oid
    assert [finding.id for finding in store.check()] == [oid]
    finding = store.verify(oid)
    assert finding is not None
    assert finding.code == "object-damaged"


def pack_of(
    objects: list[bytes], entries: list[tuple[bytes, bytes, int, int, int]], **lies: object
) -> bytes:
    """A pack whose index checksum holds, whatever else it says."""
    data = lies.get("magic", b"DVCPACK1") + b"".join(objects)
    table = b"".join(struct.pack("<32s16sQQQ", *entry) for entry in entries)
    counts = struct.pack("<QQ", lies.get("end", len(data)), lies.get("count", len(entries)))
    digest = hashlib.sha256(table + counts).digest()
    return data + table + counts + digest + lies.get("end_magic", b"DVCPEND1")


def put_pack(store: ObjectStore, data: bytes) -> None:
    name = f"pack-{hashlib.sha256(data).hexdigest()}.pack"
    (store.packs_folder / name).write_bytes(data)


GOOD = record(BODY, frames=[RAW])
ID = bytes.fromhex(BODY_ID)
ENTRY = (ID, b"blob", 8, len(GOOD), len(BODY))


def test_the_hand_written_pack_is_read(store):
    put_pack(store, pack_of([GOOD], [ENTRY]))
    assert store.get(ObjectId(BODY_ID), "blob") == BODY
    assert list(store.check()) == []


HOSTILE_PACKS = [
    pack_of([GOOD], [ENTRY], magic=b"DVCPACK2"),
    pack_of([GOOD], [ENTRY], end_magic=b"DVCPEND2"),
    pack_of([GOOD], [ENTRY], count=2),
    pack_of([GOOD], [ENTRY], count=1 << 60),
    pack_of([GOOD], [ENTRY], end=0),
    pack_of([GOOD], [ENTRY], end=1 << 62),
    pack_of([GOOD], [ENTRY, ENTRY]),
    pack_of([GOOD], [(b"\xff" * 32, *ENTRY[1:]), ENTRY]),
    pack_of([GOOD], [(ID, b"blob", 0, len(GOOD), len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 9, len(GOOD), len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 1 << 63, len(GOOD), len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 8, 1 << 62, len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 8, 10, len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 8, len(GOOD) - 1, len(BODY))]),
    pack_of([GOOD], [(ID, b"blob", 8, len(GOOD), 1 << 62)]),
    pack_of([GOOD], [(ID, b"commit", 8, len(GOOD), len(BODY))]),
    pack_of([GOOD], [(ID, b"../etc", 8, len(GOOD), len(BODY))]),
    pack_of([GOOD[:40]], [(ID, b"blob", 8, 40, len(BODY))]),
    pack_of([GOOD], [ENTRY])[:-1],
    b"",
    b"DVCPACK1",
]


@pytest.mark.parametrize("data", HOSTILE_PACKS)
def test_hostile_packs_are_refused(store, data):
    put_pack(store, data)
    good = store.put("tag", [b"v1"])
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            store.get(ObjectId(BODY_ID), "blob")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert list(store.check())
    assert store.get(good, "tag") == b"v1"  # the rest of the store goes on
    assert good in {stat.id for stat in store.iter()}


@pytest.mark.parametrize(
    "data",
    [
        pack_of([GOOD, b"unlisted"], [ENTRY]),
        pack_of([GOOD, GOOD], [(ID, b"blob", 8 + len(GOOD), len(GOOD), len(BODY))]),
    ],
)
def test_packs_with_hidden_bytes_are_reported(store, data):
    put_pack(store, data)
    assert {finding.code for finding in store.check()} == {"pack-damaged"}
    assert store.get(ObjectId(BODY_ID), "blob") == BODY


def test_an_empty_pack_is_a_pack(store):
    put_pack(store, pack_of([], []))
    assert list(store.check()) == []
    with pytest.raises(ObjectMissing):
        store.get(ObjectId(BODY_ID), "blob")
