"""Reading in bulk gives what reading one by one gives, in any order, and damage is told."""

import random
from contextlib import suppress

import pytest

from deltavc.codec.frames import Part
from deltavc.errors import ObjectCorrupt, ObjectMissing
from deltavc.store import ObjectStore
from deltavc.store.bulk import BulkReader


@pytest.fixture
def store(tmp_path):
    return ObjectStore.create(tmp_path / "store")


def packed(store, bodies, kind="commit"):
    with store.pack() as pack:
        ids = [pack.add(kind, [Part(body)]) for body in bodies]
        pack.finish()
    return ids


def bodies(count, draw):
    kinds = (b"", b"{}", b"a" * 3000, draw.randbytes(500), draw.randbytes(70_000), b"b" * 200_000)
    return [b"%d" % n + draw.choice(kinds) for n in range(count)]


def test_any_order_gives_the_bodies(store):
    draw = random.Random(5)
    wanted = {}
    for _ in range(3):
        made = bodies(40, draw)
        wanted |= dict(zip(packed(store, made), made, strict=True))
    wanted |= {store.put("commit", [Part(body)]): body for body in (b"loose", b"")}
    order = [*wanted, *draw.sample([*wanted], 20)]  # some twice
    for _ in range(2):
        reader = BulkReader(store)
        assert all(reader.get("commit", oid) == wanted[oid] for oid in order)
        draw.shuffle(order)


def test_large_objects_between_are_passed_over(store):
    with store.pack() as pack:
        first = pack.add("commit", [Part(b"first")])
        large = pack.add("delta", [Part(random.Random(1).randbytes(9 << 20))])
        last = pack.add("measurement", [Part(b"last")])
        pack.finish()
    reader = BulkReader(store)
    assert reader.get("commit", first) == b"first"
    assert reader.get("measurement", last) == b"last"
    assert reader.get("delta", large) == bytes(store.get(large, "delta"))


def test_the_kind_is_checked(store):
    first, second = packed(store, [b"one", b"two"])
    reader = BulkReader(store)
    assert reader.get("commit", first) == b"one"
    with pytest.raises(ObjectCorrupt, match="not a tag"):
        reader.get("tag", second)  # at hand
    with pytest.raises(ObjectCorrupt, match="not a tag"):
        reader.get("tag", first)


@pytest.mark.parametrize("oid", ["0" * 64, "no id", "F" * 64, ""])
def test_what_is_not_there_is_missing(store, oid):
    packed(store, [b"one"])
    with pytest.raises(ObjectMissing):
        BulkReader(store).get("commit", oid)


def test_each_damaged_byte_is_told_or_harmless(store):
    """No byte of a pack can be changed so that another body comes out."""
    made = [b"one" * 30, b"two" * 30, b"three"]
    ids = packed(store, made)
    (path,) = store.packs_folder.iterdir()
    path.chmod(0o644)
    whole = path.read_bytes()
    for at in range(8, 8 + 3 * 110, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        reader = BulkReader(ObjectStore(store.root))
        for oid, body in zip(ids, made, strict=True):
            with suppress(ObjectCorrupt, ObjectMissing):
                assert reader.get("commit", oid) == body
    path.write_bytes(whole)
    reader = BulkReader(ObjectStore(store.root))
    assert [reader.get("commit", oid) for oid in ids] == made
