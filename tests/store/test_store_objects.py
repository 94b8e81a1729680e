"""The store's verbs: what goes in comes out, under the id that anybody can compute."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavc.errors import InternalError, ObjectCorrupt, ObjectMissing
from deltavc.ids import ObjectId
from deltavc.store import Objects, ObjectStore, Part

ABSENT = ObjectId("0" * 64)


def id_by_hand(kind: str, body: bytes) -> str:
    return hashlib.sha256(f"{kind} {len(body)}".encode() + b"\0" + body).hexdigest()


def files_of(store: ObjectStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if not path.is_dir())


def test_store_is_the_protocol(store):
    place: Objects = store
    oid = place.put("tag", [b"v1"])
    assert place.has(oid)
    assert place.get(oid, "tag") == b"v1"
    assert [stat.id for stat in place.iter()] == [oid]


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("base", "blob", "commit", "delta", "manifest")),
            st.lists(st.tuples(st.binary(max_size=3000), st.sampled_from((1, 2, 4, 8)))),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_what_goes_in_comes_out(tmp_path_factory, objects):
    store = ObjectStore.create(tmp_path_factory.mktemp("store"))
    held = {}
    with store.pack() as pack:
        for kind, runs, loose in objects:
            body = b"".join(data for data, _ in runs)
            parts = [Part(data, planes) for data, planes in runs]
            oid = store.put(kind, parts) if loose else pack.add(kind, parts)
            assert oid == id_by_hand(kind, body)
            held[oid] = (kind, body)
        pack.finish()
    for reader in (store, ObjectStore(store.root)):
        for oid, (kind, body) in held.items():
            assert reader.has(oid)
            assert reader.get(oid, kind) == body
            assert reader.read_any(oid) == (kind, body)
            assert (reader.stat(oid).kind, reader.stat(oid).length) == (kind, len(body))
            assert reader.verify(oid) is None
        assert {stat.id for stat in reader.iter()} == held.keys()
        assert list(reader.check()) == []
    assert not list(store.staging.iterdir())


def test_the_same_object_is_kept_once(filled):
    store, held = filled
    before = files_of(store)
    with store.pack() as pack:
        for kind, body in held.values():
            pack.add(kind, [body])
        info = pack.finish()
    assert info == type(info)(None, (), 0)
    for kind, body in held.values():
        store.put(kind, [body])
    assert files_of(store) == before


def test_a_pack_reports_what_it_wrote(store):
    with store.pack() as pack:
        first = pack.add("delta", [b"a" * 1000])
        again = pack.add("delta", [b"a" * 1000])
        second = pack.add("commit", [b"b"])
        assert first == again
        stored = pack.stored_bytes
        info = pack.finish()
    assert info.objects == (first, second)
    assert info.stored == stored == sum(store.stat(oid).stored for oid in info.objects)
    assert info.name == store.stat(first).place
    path = store.packs_folder / str(info.name)
    assert info.name == f"pack-{hashlib.sha256(path.read_bytes()).hexdigest()}.pack"


def test_a_pack_left_without_finish_leaves_nothing(store):
    with store.pack() as pack:
        oid = pack.add("delta", [b"a" * 1000])

    def fail() -> None:
        with store.pack() as pack:
            pack.add("delta", [b"b" * 1000])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert files_of(store) == []
    assert not store.has(oid)
    with pytest.raises(InternalError):
        pack.add("delta", [b"c"])


def test_absent_objects(store):
    for oid in (ABSENT, ObjectId("../../etc/passwd"), ObjectId(""), ObjectId("AB" * 32)):
        assert not store.has(oid)
        with pytest.raises(ObjectMissing):
            store.get(oid, "blob")
        with pytest.raises(ObjectMissing):
            store.stat(oid)
        finding = store.verify(oid)
        assert finding is not None
        assert finding.code == "object-missing"


def test_another_kind_is_refused(filled):
    store, held = filled
    for oid, (kind, _) in held.items():
        with pytest.raises(ObjectCorrupt) as caught:
            store.get(oid, "tag")
        assert caught.value.context["id"] == oid
        assert caught.value.context["found"] == kind


@pytest.mark.parametrize("kind", ["", "Commit", "two words", "a" * 17, "é", "commit\n"])
def test_kinds_are_words(store, kind):
    with pytest.raises(InternalError):
        store.put(kind, [b""])


def test_a_body_over_the_callers_limit_is_refused(filled):
    store, held = filled
    for oid, (kind, body) in held.items():
        assert store.get(oid, kind, limit=len(body)) == body
        with pytest.raises(ObjectCorrupt):
            store.get(oid, kind, limit=len(body) - 1)


def test_the_body_is_the_callers_own(filled):
    store, held = filled
    for oid, (kind, body) in held.items():
        view = store.get(oid, kind)
        view[0] ^= 255
        assert store.get(oid, kind) == body


def test_a_large_body_of_many_frames(store):
    values = np.random.default_rng(0).standard_normal(3_000_000).astype("<f4").view(np.uint8)
    with store.pack() as pack:
        oid = pack.add("delta", [b"header\n", Part(values.data, 4)])
        pack.finish()
    assert store.get(oid, "delta") == b"header\n" + values.tobytes()


def test_prefixes(filled):
    store, held = filled
    for oid, (kind, _) in held.items():
        for digits in (0, 1, 2, 3, 5, 9, 64):
            prefix = oid[:digits]
            expected = sorted(other for other in held if other.startswith(prefix))
            assert store.resolve_prefix(prefix) == expected
            of_kind = [other for other in expected if held[other][0] == kind]
            assert store.resolve_prefix(prefix, kind) == of_kind
    for strange in ("xyz", "AB", "../", "0" * 65, "12 "):
        assert store.resolve_prefix(strange) == []


def test_other_handles_are_seen_without_asking(store):
    other = ObjectStore(store.root)
    assert not other.has(ABSENT)
    for number in range(20):  # quicker than the steps of a folder's time
        with store.pack() as pack:
            oid = pack.add("commit", [b"%d" % number])
            pack.finish()
        assert other.has(oid)
        assert other.get(oid, "commit") == b"%d" % number


def test_an_object_packed_meanwhile_is_found(store):
    oid = store.put("tag", [b"v1"])
    other = ObjectStore(store.root)
    assert other.get(oid, "tag") == b"v1"
    prepared = store.read_prepared(oid)
    store.loose.path(oid).unlink()
    with store.pack() as pack:
        pack.add_prepared(prepared)
        pack.finish()
    assert other.get(oid, "tag") == b"v1"
    assert other.stat(oid).place != "loose"


def test_encoders_run_in_threads(store):
    rng = np.random.default_rng(0)
    bodies = [rng.geometric(0.1, 100_000).astype("<u2").tobytes() for _ in range(12)]
    with store.pack() as pack:

        def work(mine: list[bytes]) -> None:
            for body in mine:
                pack.add_prepared(store.prepare("delta", [Part(body, 2)]))

        threads = [threading.Thread(target=work, args=(bodies[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        info = pack.finish()
    assert len(info.objects) == len(bodies)
    for body in bodies:
        assert store.get(ObjectId(id_by_hand("delta", body)), "delta") == body


def test_a_damaged_loose_object_is_healed_by_putting_it_again(store):
    oid = store.put("tag", [b"v1"])
    path = store.loose.path(oid)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])  # torn, as after a power cut
    damaged = path.read_bytes()
    with pytest.raises(ObjectCorrupt):
        store.get(oid, "tag")
    assert store.put("tag", [b"v1"]) == oid
    assert store.get(oid, "tag") == b"v1"
    assert [p.read_bytes() for p in store.quarantine_folder.iterdir()] == [damaged]


def test_a_damaged_packed_object_is_written_again(store):
    with store.pack() as pack:
        oid = pack.add("delta", [b"body" * 500])
        name = pack.finish().name
    path = store.packs_folder / str(name)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[120] ^= 1
    path.write_bytes(data)
    assert store.has(oid)
    with store.pack() as pack:
        pack.add("delta", [b"body" * 500])
        assert pack.finish().objects == (oid,)
    assert store.get(oid, "delta") == b"body" * 500


def test_sweep_takes_only_what_nobody_holds(store):
    code = (
        "import os, sys; from pathlib import Path; from deltavc.store import ObjectStore\n"
        "pack = ObjectStore(Path(sys.argv[1])).pack(); pack.add('delta', [b'x'])\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=False)
    (left_over,) = store.staging.iterdir()
    with store.pack() as pack:
        oid = pack.add("delta", [b"y"])
        assert store.sweep(3600) == []
        hour_ago = time.time() - 4000
        for path in store.staging.iterdir():
            os.utime(path, (hour_ago, hour_ago))
        assert store.sweep(3600) == [left_over]
        pack.finish()
    assert store.get(oid, "delta") == b"y"
    assert list(store.staging.iterdir()) == []


def test_reading_records_needs_no_heavy_import(filled):
    store, held = filled
    oid = next(oid for oid, (kind, _) in held.items() if kind == "commit")
    code = (
        "import sys; from pathlib import Path; from deltavc.store import ObjectStore\n"
        "ObjectStore(Path(sys.argv[1])).get(sys.argv[2], 'commit')\n"
        "assert not {'numpy', 'torch', 'sqlalchemy', 'click'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root), oid], check=True)
