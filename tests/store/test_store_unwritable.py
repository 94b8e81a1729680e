"""Disk full, read-only, no permission: one error, nothing left behind, reading goes on."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import pytest

from deltavc.errors import RepositoryError, RepositoryUnwritable
from deltavc.store import ObjectStore, Part

NOISE = os.urandom(3 << 20)


@contextmanager
def files_at_most(size: int):
    """Makes writes beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_pack(store: ObjectStore) -> None:
    with store.pack() as pack:
        pack.add("delta", [Part(NOISE, 4)])
        pack.add("commit", [b"message"])
        pack.finish()


def put_loose(store: ObjectStore) -> None:
    store.put("blob", [NOISE])


def files_of(store: ObjectStore) -> set[object]:
    return {path for path in store.root.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("write", [write_pack, put_loose])
@pytest.mark.parametrize("size", [0, 7, 4096, 1 << 20, (3 << 20) + 20])
def test_a_full_disk(filled, write, size):
    store, held = filled
    before = files_of(store)
    with files_at_most(size), pytest.raises(RepositoryUnwritable) as caught:
        write(store)
    assert caught.value.exit_code == 14
    assert caught.value.context["reason"] == "EFBIG"
    assert files_of(store) == before
    assert list(store.check()) == []
    write(store)
    assert list(store.check()) == []
    assert all(store.get(oid, kind) == body for oid, (kind, body) in held.items())


@pytest.mark.parametrize("write", [write_pack, put_loose])
@pytest.mark.parametrize("name", ["open", "fdatasync", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_each_call_that_the_system_refuses(filled, monkeypatch, write, name, code):
    store, held = filled
    before = files_of(store)
    real = getattr(os, name)

    def refuse(*args, **kwargs):
        if name == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RepositoryUnwritable) as caught:
        write(store)
    monkeypatch.undo()
    assert os.strerror(code).lower() in caught.value.message
    assert files_of(store) == before
    assert all(store.get(oid, kind) == body for oid, (kind, body) in held.items())


@pytest.mark.parametrize(
    ("write", "folder", "code"),
    [
        (write_pack, "tmp", 14),
        (put_loose, "tmp", 14),
        (put_loose, "objects/loose", 14),
        (write_pack, "objects/packs", 10),  # it cannot even be listed
    ],
)
def test_a_folder_that_is_none(store, write, folder, code):
    path = store.root / folder
    path.rmdir()
    path.write_bytes(b"")
    with pytest.raises(RepositoryError) as caught:
        write(store)
    assert caught.value.exit_code == code
    assert files_of(store) == {path}


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RepositoryUnwritable):
        ObjectStore.create(tmp_path / "file" / ".deltavc")


def test_a_store_that_is_not_there(tmp_path):
    store = ObjectStore(tmp_path / "nowhere")
    with pytest.raises(RepositoryError):
        store.has(store.prepare("tag", [b""]).id)
    with pytest.raises(RepositoryError):
        list(store.check())
