"""Large buffers that are files without a name."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from deltavc.codec.frames import Part
from deltavc.store import ObjectStore
from deltavc.store.scratch import FileRoom

SIZE = 1 << 16


def mapped(folder: Path) -> int:
    """How many files of a folder this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(folder) in line for line in lines)


def test_large_buffers_are_files_without_a_name_and_small_ones_are_memory(tmp_path: Path) -> None:
    room = FileRoom(tmp_path, least=SIZE)
    large, small = room(SIZE), room(SIZE - 1)
    assert (large.nbytes, small.nbytes) == (SIZE, SIZE - 1)
    assert mapped(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    large[:] = bytes(range(256)) * (SIZE // 256)
    view = np.frombuffer(large, dtype="<u8")
    del large
    assert int(view[-1] >> np.uint64(56)) == 255  # whoever holds a view holds the buffer
    del view
    gc.collect()
    assert mapped(tmp_path) == 0


def test_a_buffer_is_nobody_elses(tmp_path: Path) -> None:
    room = FileRoom(tmp_path, least=1)
    one, other = room(8), room(8)
    one[:], other[:] = b"11111111", b"22222222"
    assert bytes(one) == b"11111111"


@pytest.mark.parametrize("length", [0, 1, SIZE])
def test_without_a_folder_to_write_buffers_are_memory(tmp_path: Path, length: int) -> None:
    found = FileRoom(tmp_path / "gone", least=1)(length)
    assert (found.nbytes, found.readonly) == (length, False)


def test_what_neither_files_nor_memory_hold_leaves_nothing(tmp_path: Path) -> None:
    length = 1 << 62  # beyond what any file may have, and what memory has
    with pytest.raises((MemoryError, ValueError)):
        FileRoom(tmp_path, least=1)(length)
    assert list(tmp_path.iterdir()) == []


def test_objects_are_the_same_whatever_room_they_are_made_and_read_in(tmp_path: Path) -> None:
    store = ObjectStore.create(tmp_path / "store")
    room = FileRoom(tmp_path, least=1)
    draw = np.random.default_rng(7)
    values = (draw.standard_normal(3 << 20).astype("<f4").view("<u4") >> 16).astype("<u2")
    parts = [Part(b"header\n"), Part(values.view(np.uint8).data, 2), Part(bytes(1 << 18))]
    plain, roomy = store.prepare("delta", parts), store.prepare("delta", parts, room=room)
    assert plain.id == roomy.id
    assert [bytes(c) for c in plain.chunks] == [bytes(c) for c in roomy.chunks]
    with store.pack() as pack:
        pack.add_prepared(roomy)
        pack.finish()
    body = store.get(roomy.id, "delta", room=room)
    assert bytes(body) == bytes(store.get(roomy.id, "delta"))
    assert bytes(body[:7]) == b"header\n"
