"""Many packs: the table over them helps, and is never believed."""

from __future__ import annotations

import os
import random
import struct

import pytest
import xxhash

from deltavc.errors import ObjectMissing
from deltavc.ids import ObjectId
from deltavc.store import ObjectStore

PACKS = 80


@pytest.fixture
def history(store, monkeypatch):
    """A store of many packs of two objects, and what it holds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # durability is tested elsewhere
    held = {}
    for number in range(PACKS):
        with store.pack() as pack:
            for kind in ("manifest", "commit"):
                body = b"%s %d" % (kind.encode(), number)
                held[pack.add(kind, [body])] = (kind, body)
            pack.finish()
    return store, held


def all_there(store: ObjectStore, held) -> bool:
    same = all(store.get(oid, kind) == body for oid, (kind, body) in held.items())
    return same and {stat.id for stat in store.iter()} == held.keys()


def test_the_table_is_written_and_used(history, monkeypatch):
    store, held = history
    assert store.table_path.is_file()
    reader = ObjectStore(store.root)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    oid, (kind, body) = next(iter(held.items()))
    assert reader.get(oid, kind) == body
    assert len(opened) < PACKS // 2
    monkeypatch.undo()
    assert all_there(reader, held)


def test_prefixes_with_a_table(history):
    store, held = history
    reader = ObjectStore(store.root)
    for oid in held:
        assert oid in reader.resolve_prefix(oid[:2])
        assert reader.resolve_prefix(oid) == [oid]
    assert reader.resolve_prefix("") == sorted(held)


def damaged(data: bytes) -> list[bytes]:
    rng = random.Random(0)
    flipped = []
    for _ in range(20):
        copy = bytearray(data)
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        flipped.append(bytes(copy))
    return [b"", data[:20], data[:-1], data + b"\0", bytes(len(data)), *flipped]


def test_a_damaged_table_is_found_and_changes_nothing(history):
    store, held = history
    whole = store.table_path.read_bytes()
    store.table_path.chmod(0o644)
    for data in damaged(whole):
        store.table_path.write_bytes(data)
        reader = ObjectStore(store.root)
        assert [finding.code for finding in reader.check()] == ["cache-damaged"]
        store.table_path.write_bytes(data)
        assert all_there(ObjectStore(store.root), held)
        store.table_path.unlink(missing_ok=True)
        store.table_path.write_bytes(b"")
    store.quarantine(list(store.check()))
    assert not store.table_path.exists()
    assert list(store.check()) == []


def write_table(store: ObjectStore, names: list[str], rows: list[tuple[bytes, int]]) -> None:
    body = b"".join(bytes.fromhex(name[5:-5]) for name in names)
    body += b"".join(oid + struct.pack(">I", number) for oid, number in rows)
    head = struct.pack("<8sQQQ", b"DVCMIDX1", len(names), len(rows), xxhash.xxh3_64_intdigest(body))
    store.table_path.unlink(missing_ok=True)
    store.table_path.write_bytes(head + body)


def test_a_lying_table_is_not_believed(history):
    store, held = history
    names = store.packs.names()
    ids = sorted(bytes.fromhex(oid) for oid in held)
    absent = ObjectId("0" * 64)
    for rows in (
        [],  # nothing is anywhere
        [(oid, 0) for oid in ids],  # everything is in one pack
        [(oid, 1 << 31) for oid in ids],  # in packs that there are not
        [(bytes(32), 3), *((oid, 5) for oid in ids)],  # what there is not is there
        [(oid, 0) for oid in reversed(ids)],  # out of order
    ):
        write_table(store, names, rows)
        reader = ObjectStore(store.root)
        assert not reader.has(absent)
        with pytest.raises(ObjectMissing):
            reader.get(absent, "commit")
        assert all_there(ObjectStore(store.root), held)


def test_packs_that_went_leave_the_table(history):
    store, held = history
    gone = set(store.packs.names()[::2])
    for name in gone:
        (store.packs_folder / name).unlink()
    for number in range(PACKS):  # enough to extend the table again
        with store.pack() as pack:
            body = b"later %d" % number
            held[pack.add("commit", [body])] = ("commit", body)
            pack.finish()
    reader = ObjectStore(store.root)
    left = {stat.id for stat in reader.iter()}
    assert {oid for oid in held if reader.has(oid)} == left
    assert len(left) == PACKS // 2 * 2 + PACKS
    assert all(reader.get(oid, held[oid][0]) == held[oid][1] for oid in left)


def test_a_store_that_cannot_keep_the_table_works_without(history):
    store, held = history
    store.table_path.unlink()
    store.table_path.parent.rmdir()
    store.table_path.parent.write_bytes(b"")  # not a folder
    assert all_there(ObjectStore(store.root), held)
    store.staging.rmdir()
    store.staging.write_bytes(b"")
    assert all_there(ObjectStore(store.root), held)
