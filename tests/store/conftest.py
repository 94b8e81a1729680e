from __future__ import annotations

import os
from pathlib import Path

import pytest

from deltavc.ids import ObjectId
from deltavc.store import ObjectStore, Part


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.create(tmp_path / ".deltavc")


@pytest.fixture
def filled(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> tuple[ObjectStore, dict[ObjectId, tuple[str, bytes]]]:
    """A store with two packs and loose objects, and what it holds."""
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a fixture need not outlive a power cut
    held: dict[ObjectId, tuple[str, bytes]] = {}
    noise = os.urandom(20_000)
    for number in range(2):
        with store.pack() as pack:
            for kind, body, planes in (
                ("delta", b"header %d\n" % number + noise, 2),
                ("delta", b"%d" % number * 3_000 + bytes(range(256)) * 8, 4),
                ("manifest", b'{"params":{"w":%d}}' % number * 20, 1),
                ("commit", b'{"message":"number %d"}' % number, 1),
            ):
                held[pack.add(kind, [Part(body, planes)])] = (kind, body)
            pack.finish()
        body = b'{"value":%d.5}' % number
        held[store.put("measurement", [body])] = ("measurement", body)
    monkeypatch.setattr(os, "fsync", real)
    return store, held
