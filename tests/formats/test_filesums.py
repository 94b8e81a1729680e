"""Digests of files: of long ones in pieces, and the same however they are read."""

from __future__ import annotations

import hashlib

import pytest
import xxhash

from deltavc.formats import filesums

SIZES = (0, 1, 999, 1000, 1001, 2000, 2001, 5555)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(filesums, "PIECE", 1000)
    for size in SIZES:
        (tmp_path / f"f{size}").write_bytes(bytes(7 * i % 251 for i in range(size)))
    return tmp_path


def plainly(data):
    """xxh3-128 of the bytes, or of the digests of pieces of 1,000 bytes where there are more."""
    if len(data) <= 1000:
        return xxhash.xxh3_128_hexdigest(data)
    digests = [xxhash.xxh3_128_digest(data[at : at + 1000]) for at in range(0, len(data), 1000)]
    return xxhash.xxh3_128_hexdigest(b"".join(digests))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kinds", [("xxh3",), ("sha256", "xxh3")])
def test_one_digest_whatever_the_way(folder, kinds, threads):
    paths = [f"f{size}" for size in SIZES]
    found = dict(filesums.file_sums(folder, paths, kinds, threads))
    assert set(found) == set(paths)
    for path in paths:
        data = (folder / path).read_bytes()
        wanted = {"sha256": hashlib.sha256(data).hexdigest(), "xxh3": plainly(data)}
        assert found[path] == {kind: wanted[kind] for kind in kinds}


def test_a_file_that_cannot_be_read_has_none(folder):
    found = dict(filesums.file_sums(folder, ["f5555", "nothing"], ("xxh3",), 2))
    assert found["nothing"] is None
    assert found["f5555"] is not None
