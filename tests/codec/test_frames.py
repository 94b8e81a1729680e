"""Frames: round trips against an oracle, and hostile stored bytes."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.codec import frames
from deltavc.codec.frames import Frame, Part
from deltavc.codec.planes import join_planes, split_planes
from deltavc.errors import ObjectCorrupt


def expand_all(listed: list[Frame], stored: list[object]) -> bytes:
    out = bytearray(sum(frame.length for frame in listed))
    at = 0
    for frame, data in zip(listed, stored, strict=True):
        frames.expand(frame, data, memoryview(out)[at : at + frame.length])
        at += frame.length
    return bytes(out)


def frame_of(data: bytes, length: int, method: int = frames.ZSTD, width: int = 1) -> Frame:
    return Frame(method, width, length, len(data), xxhash.xxh3_64_intdigest(data))


def planes_by_hand(data: bytes, width: int, rotate: bool) -> bytes:
    """The definition of byte planes, element by element."""
    bits, count = 8 * width, len(data) // width
    elements = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(count)]
    if rotate:
        elements = [((e << 1) | (e >> (bits - 1))) & ((1 << bits) - 1) for e in elements]
    planes = [bytes((e >> (8 * k)) & 255 for e in elements) for k in range(width)]
    return b"".join(planes) + data[count * width :]


@given(
    st.binary(max_size=300),
    st.sampled_from((2, 4, 8)),
    st.booleans(),
    st.integers(min_value=0, max_value=7),
)
def test_planes_are_what_they_are_defined_to_be(data, width, rotate, shift):
    body = memoryview(b"x" * shift + data)[shift:]  # elements need not be aligned
    planes = bytes(split_planes(body, width, rotate=rotate))
    assert planes == planes_by_hand(data, width, rotate)
    out = bytearray(shift + len(data))
    join_planes(planes, width, memoryview(out)[shift:], rotate=rotate)
    assert out[shift:] == data


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("rotate", [False, True])
def test_planes_over_several_blocks(width, rotate):
    rng = np.random.default_rng(width)
    data = rng.integers(0, 256, 150_000 * width + 1, dtype=np.uint8)
    planes = split_planes(data.data, width, rotate=rotate)
    out = np.zeros_like(data)
    join_planes(planes, width, out.data, rotate=rotate)
    assert np.array_equal(out, data)
    if not rotate:
        assert np.array_equal(np.frombuffer(planes, np.uint8)[:150_000], data[:-1:width])


parts_lists = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, 200_000).map(lambda n: bytes(n)),
            st.integers(0, 40_000).map(lambda n: b'{"name":"layer.0"}' * (n // 18)),
        ),
        st.sampled_from((1, 2, 4, 8, 3, 0)),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(parts_lists)
def test_a_body_comes_back(parts):
    listed, stored = frames.compress([Part(data, planes) for data, planes in parts])
    assert expand_all(listed, stored) == b"".join(data for data, _ in parts)
    for frame, data in zip(listed, stored, strict=True):
        frames.check_frame(frame)
        assert frame.stored == memoryview(data).nbytes
        assert frame.stored <= frame.length <= frames.MAX_FRAME


def test_bodies_beyond_one_chunk_come_back():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(2_500_001).astype("<f4").view(np.uint8)
    parts = [Part(b"header\n"), Part(values.data, 4), Part(values[: 5 << 20].data)]
    listed, stored = frames.compress(parts)
    assert max(frame.length for frame in listed) == frames.MAX_FRAME
    assert (
        expand_all(listed, stored) == b"header\n" + values.tobytes() + values[: 5 << 20].tobytes()
    )


def test_the_method_follows_the_data():
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, 1 << 18, dtype=np.uint8)
    bf16 = (rng.standard_normal(1 << 18).astype("<f4").view("<u4") >> 16).astype("<u2")
    residual = np.minimum(rng.geometric(0.2, 1 << 18), 65535).astype("<u2")
    text = b'{"weight":"model.layers.0.self_attn.q_proj","rank":16}' * 5000

    def only(part: Part) -> tuple[Frame, float]:
        (frame,), _ = frames.compress([part])
        return frame, frame.stored / frame.length

    assert only(Part(noise.data))[0].method == frames.RAW
    assert only(Part(noise.data, 4))[0].method == frames.RAW
    frame, ratio = only(Part(bf16.view(np.uint8).data, 2))
    assert (frame.method, frame.width) == (frames.ROTATED, 2)
    assert ratio < 0.70
    frame, ratio = only(Part(residual.view(np.uint8).data, 2))
    assert (frame.method, frame.width) == (frames.PLANES, 2)
    assert ratio < 0.25
    frame, ratio = only(Part(text))
    assert frame.method == frames.ZSTD
    assert ratio < 0.01


def test_small_neighbours_share_a_frame():
    listed, _ = frames.compress([Part(b"a" * 100), Part(b"b" * 100), Part(b"c" * 100)])
    assert [frame.length for frame in listed] == [300]


def test_threads_do_not_share_contexts():
    rng = np.random.default_rng(3)
    bodies = [rng.geometric(0.1, 1 << 19).astype("<u2").view(np.uint8).data for _ in range(4)]
    wrong = []

    def work(body: memoryview) -> None:
        bodies_back = [expand_all(*frames.compress([Part(body, 2), Part(body)])) for _ in range(5)]
        wrong.extend(back for back in bodies_back if back != bytes(body) * 2)

    threads = [threading.Thread(target=work, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


GOOD = zstandard.ZstdCompressor().compress(b"a" * 1000)
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 1000)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"12345678"
# magic, descriptor with an 8-byte content size, window of 1 KiB, then a declared size of 2**62
HUGE = b"\x28\xb5\x2f\xfd\xc0\x00" + (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00"
WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
).compress(bytes(1000))
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 26))


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (GOOD + b"x", 1000),
        (GOOD + GOOD, 1000),
        (GOOD + SKIPPABLE, 1000),
        (SKIPPABLE, 8 + len(SKIPPABLE)),
        (GOOD[:-1], 1000),
        (GOOD, 999),
        (GOOD, 1001),
        (UNSIZED, 1000),
        (HUGE, 1 << 20),
        (WIDE, 1000),
        (BOMB, 1 << 20),
        (b"not zstd at all", 1000),
    ],
)
@pytest.mark.parametrize(("method", "width"), [(frames.ZSTD, 1), (frames.PLANES, 2)])
def test_hostile_stored_bytes_are_refused(data, length, method, width):
    out = memoryview(bytearray(length))
    tracemalloc.start()
    with pytest.raises(ObjectCorrupt):
        frames.expand(frame_of(data, length, method, width), data, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "frame",
    [
        Frame(frames.ZSTD, 1, 0, 10, 0),
        Frame(frames.ZSTD, 1, frames.MAX_FRAME + 1, 4000, 0),
        Frame(frames.ZSTD, 1, 10, 10, 0),
        Frame(frames.ZSTD, 1, frames.MAX_FRAME, 1, 0),
        Frame(frames.ZSTD, 2, 1000, 10, 0),
        Frame(frames.PLANES, 1, 1000, 10, 0),
        Frame(frames.PLANES, 3, 1000, 10, 0),
        Frame(frames.RAW, 1, 10, 9, 0),
        Frame(4, 1, 1000, 10, 0),
    ],
)
def test_impossible_declarations_are_refused(frame):
    with pytest.raises(ObjectCorrupt):
        frames.check_frame(frame)


@settings(deadline=None)
@given(st.integers(0, 7), st.data())
def test_any_flipped_bit_is_noticed(bit, data):
    body = bytes(range(256)) * 4
    (frame,), (stored,) = frames.compress([Part(body)])
    damaged = bytearray(stored)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << bit
    with pytest.raises(ObjectCorrupt):
        frames.expand(frame, bytes(damaged), memoryview(bytearray(len(body))))
