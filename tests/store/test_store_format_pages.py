"""A second reader, written from docs/reference/format/object.md and pack.md alone."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard

from deltavc.store import Part


def read_object(data: bytes) -> tuple[str, str, bytes, int]:
    """Returns id, kind, body and length of the stored object at the start of some bytes."""
    assert data[:4] == b"DVO1"
    count = int.from_bytes(data[4:8], "little")
    length = int.from_bytes(data[8:16], "little")
    kind = data[16:32].rstrip(b"\0").decode("ascii")
    table_end = 64 + 20 * count
    checksum = int.from_bytes(data[table_end : table_end + 8], "little")
    assert checksum == xxhash.xxh3_64_intdigest(data[:table_end])
    body, at = b"", table_end + 8
    for entry in range(64, table_end, 20):
        method, width, zero, chunk_length, stored_length, check = struct.unpack(
            "<BBHIIQ", data[entry : entry + 20]
        )
        stored = data[at : at + stored_length]
        at += stored_length
        assert zero == 0
        assert check == xxhash.xxh3_64_intdigest(stored)
        chunk = stored if method == 0 else zstandard.ZstdDecompressor().decompress(stored)
        assert len(chunk) == chunk_length
        body += chunk if method < 2 else join(chunk, width, rotated=method == 3)
    assert len(body) == length
    head = f"{kind} {length}".encode() + b"\0"
    assert hashlib.sha256(head + body).digest() == data[32:64]
    return data[32:64].hex(), kind, body, at


def join(planes: bytes, width: int, *, rotated: bool) -> bytes:
    count, bits = len(planes) // width, 8 * width
    out = b""
    for i in range(count):
        element = sum(planes[byte * count + i] << (8 * byte) for byte in range(width))
        if rotated:
            element = (element >> 1) | ((element & 1) << (bits - 1))
        out += element.to_bytes(width, "little")
    return out + planes[count * width :]


def read_pack(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    assert path.name == f"pack-{hashlib.sha256(data).hexdigest()}.pack"
    assert data[:8] == b"DVCPACK1"
    trailer = data[-56:]
    end, count = struct.unpack("<QQ", trailer[:16])
    index = data[end:-56]
    assert trailer[48:] == b"DVCPEND1"
    assert len(index) == 72 * count
    assert trailer[16:48] == hashlib.sha256(index + trailer[:16]).digest()
    held, ids = {}, []
    for at in range(0, len(index), 72):
        raw_id, kind, offset, stored, length = struct.unpack("<32s16sQQQ", index[at : at + 72])
        ids.append(raw_id)
        oid, found, body, size = read_object(data[offset : offset + stored])
        assert (oid, found, len(body), size) == (
            raw_id.hex(), kind.rstrip(b"\0").decode(), length, stored,
        )  # fmt: skip
        held[oid] = (found, body)
    assert ids == sorted(set(ids))
    return held


def test_the_second_reader_reads_a_store(filled):
    store, held = filled
    rng = np.random.default_rng(0)
    with store.pack() as pack:
        for dtype, planes in (("<f4", 4), ("<f8", 8), ("<f2", 2)):
            body = b"odd" + rng.standard_normal(5_000).astype(dtype).tobytes() + b"\1"
            held[pack.add("delta", [Part(body, planes)])] = ("delta", body)
            counts = rng.geometric(0.3, 5_000).astype(f"<u{planes}").tobytes() + b"\1"
            held[pack.add("delta", [b"x", Part(counts, planes)])] = ("delta", b"x" + counts)
        held[pack.add("blob", [b""])] = ("blob", b"")
        pack.finish()
    found: dict[str, tuple[str, bytes]] = {}
    for path in (store.root / "objects" / "packs").iterdir():
        found |= read_pack(path)
    for path in (store.root / "objects" / "loose").glob("*/*"):
        oid, kind, body, size = read_object(path.read_bytes())
        assert (path.parent.name, path.name, path.stat().st_size) == (oid[:2], oid, size)
        found[oid] = (kind, body)
    assert found == held
    methods = {method for path in (store.root / "objects").rglob("*.pack")
               for method in methods_in(path.read_bytes())}  # fmt: skip
    assert methods == {0, 1, 2, 3}  # each method of the page was read


def methods_in(pack: bytes) -> set[int]:
    end, methods, at = struct.unpack("<Q", pack[-56:-48])[0], set(), 8
    while at < end:
        count = int.from_bytes(pack[at + 4 : at + 8], "little")
        methods |= {pack[entry] for entry in range(at + 64, at + 64 + 20 * count, 20)}
        at += read_object(pack[at:end])[3]
    return methods


@pytest.mark.parametrize("page", ["object.md", "pack.md"])
def test_the_pages_name_every_magic(page):
    text = (Path(__file__).parents[2] / "docs" / "reference" / "format" / page).read_text()
    for magic in {"object.md": ["DVO1"], "pack.md": ["DVCPACK1", "DVCPEND1", "DVCMIDX1"]}[page]:
        assert f"`{magic}`" in text
