"""Residuals in bands of the base's exponent: one order, whoever makes or reads it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.codec.frames import RAW, ZSTD, Part, compress, expand
from deltavc.delta import kinds
from deltavc.delta.exact import Coded, code, decode_exact, finish, leads_to, residual
from deltavc.delta.native import library, without
from deltavc.delta.predict import Same
from deltavc.delta.residual_bands import choose_bands, encode_bands
from deltavc.delta.residual_native import MAX_BANDS, Bands
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt

FLOATS = ("F16", "BF16", "F32", "F64")
LENGTHS = (0, 1, 7, 8, 9, 31, 32, 33, 223, 224, 225, 4095, 4096, 4097, 8200)
"""Around the lanes, what is looked at together, and the chunks of the kernels."""


def pair(name, count, seed, reach=40):
    """Any bit patterns as a base; each moves by less than ``reach``, a few by anything."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(seed)
    base = np.frombuffer(rng.bytes(count * dtype.size), dtype=dtype.bits)
    far = np.frombuffer(rng.bytes(count * dtype.size), dtype=dtype.bits)
    near = base + rng.integers(0, reach, count).astype(dtype.bits)
    new = np.where(rng.random(count) < 0.03, far, near)
    return Tensor(dtype, (count,), base), Tensor(dtype, (count,), new)


def weights(name, shape, seed, step):
    """A matrix as trained, and the same after some training."""
    rng = np.random.default_rng(seed)
    values = (0.05 * rng.standard_normal(shape)).astype(np.float32)
    moved = (values + step * rng.standard_normal(shape)).astype(np.float32)
    cut = 16 if name == "BF16" else 0
    dtype = DTYPES[name]
    return tuple(
        Tensor(dtype, shape, (each.reshape(-1).view(np.uint32) >> cut).astype(dtype.bits))
        for each in (values, moved)
    )


def coded(base, new, bands):
    same = Same(base.dtype)
    left = residual(base, new, same)
    streams, params = encode_bands(left.folded, base.bits, base.dtype, bands)
    return finish(Coded("bands", params, tuple(streams)), new, "")


def bodies(delta):
    return [bytes(part) for part in delta.parts()]


def both(make):
    assert library("residual") is not None
    with_library = make()
    with without():
        return with_library, make()


@settings(max_examples=150)
@given(st.sampled_from(FLOATS), st.sampled_from(LENGTHS), st.integers(0, 2**32 - 1), st.data())
def test_any_bands_and_any_width_lead_back(name, count, seed, data):
    dtype = DTYPES[name]
    top = (1 << dtype.exponent) - 1
    edges = data.draw(st.sets(st.integers(1, top), max_size=MAX_BANDS - 1))
    bands = Bands(tuple(sorted(edges)), data.draw(st.integers(1, dtype.size)))
    base, new = pair(name, count, seed, data.draw(st.sampled_from((1, 40, 200))))
    delta, other = both(lambda: coded(base, new, bands))
    assert bodies(delta) == bodies(other)
    for decoded in both(lambda: decode_exact(delta, base)):
        assert decoded.same_bits(new)
    assert both(lambda: leads_to(delta, base, new)) == (True, True)


@pytest.mark.parametrize("name", FLOATS)
def test_the_order_is_that_of_the_bands(name):
    base, new = pair(name, 5000, 1)
    dtype = base.dtype
    edges = tuple((1 << dtype.exponent) * part // 8 for part in (3, 4, 6))
    left = residual(base, new, Same(dtype)).folded
    exponent = (base.bits >> dtype.mantissa).astype(int) & ((1 << dtype.exponent) - 1)
    order = sorted(range(base.count), key=lambda at: sum(exponent[at] >= edge for edge in edges))
    values = [int(left[at]) for at in order]
    escapes, planes = encode_bands(left, base.bits, dtype, Bands(edges, 1))[0]
    assert bytes(planes.data) == bytes(min(value, 255) for value in values)
    found = np.frombuffer(escapes.data, dtype=dtype.bits)
    assert found.tolist() == [value for value in values if value >= 255]


def test_trained_weights_take_less_than_without_bands():
    base, new = weights("BF16", (300, 400), 2, 2e-4)
    same = Same(base.dtype)
    left = residual(base, new, same)

    def stored(delta):
        parts = [Part(s.data, s.planes, s.runs, s.block) for s in delta.streams]
        return sum(memoryview(piece).nbytes for piece in compress(parts)[1])

    chosen = finish(code(base, same, left), new, "")
    assert chosen.header.coding == "bands"
    assert chosen.header.params["width"] == 1
    assert 2 <= len(chosen.header.params["bands"]) < MAX_BANDS
    plain = finish(code(base, same, left, grouped=False), new, "")
    grouped = finish(code(base, same, left, grouped=True), new, "")
    assert stored(chosen) < 0.9 * stored(plain)
    assert stored(chosen) < 1.02 * stored(grouped)


def test_a_base_of_one_exponent_needs_no_bands():
    bits = np.full(10_000, 0x3F80, dtype=np.uint16)
    left = np.arange(10_000, dtype=np.uint16) % 200
    assert choose_bands(left, bits, DTYPES["BF16"]) == Bands((), 1)
    assert choose_bands(left * np.uint16(300), bits, DTYPES["BF16"]).width == 2


def altered(delta, params=None, **streams):
    header = delta.header
    values = {name: getattr(header, name) for name in header.__struct_fields__}
    values["params"] = header.params | (params or {})
    kept = tuple(
        kinds.Stream(s.name, streams.get(s.name, bytes(s.data)), s.planes) for s in delta.streams
    )
    return kinds.Delta(type(header)(**values), kept)


def refused(delta, base, new):
    """Makes sure that a damaged delta is refused, with kernels and without."""

    def attempt():
        with pytest.raises(ObjectCorrupt):
            decode_exact(delta, base)
        try:
            return leads_to(delta, base, new)
        except ObjectCorrupt:
            return False

    assert both(attempt) == (False, False)


@pytest.mark.parametrize(
    "params",
    [
        {"width": 0},
        {"width": 2},
        {"width": 3},
        {"width": True},
        {"width": None},
        {"bands": None},
        {"bands": "117"},
        {"bands": [117, 117]},
        {"bands": [118, 117]},
        {"bands": [0, 117]},
        {"bands": [117, 256]},
        {"bands": [117, True]},
        {"bands": [117, 118.0]},
        {"bands": list(range(110, 110 + MAX_BANDS))},
    ],
)
def test_hostile_settings_are_refused(params):
    base, new = pair("BF16", 900, 3)
    delta = altered(coded(base, new, Bands((117, 118), 1)), params)
    refused(delta, base, new)


def test_hostile_escapes_are_refused():
    base, new = pair("BF16", 900, 3)
    delta = coded(base, new, Bands((117, 118), 1))
    escapes = bytes(delta.stream("escapes"))
    small = (254).to_bytes(2, "little") + escapes[2:]
    planes = bytes(delta.stream("residual"))
    more = planes.replace(b"\1", b"\xff", 1)
    for streams in (
        {"escapes": escapes[:-2]},
        {"escapes": escapes[:-1]},
        {"escapes": escapes + escapes[:2]},
        {"escapes": small},
        {"escapes": b""},
        {"residual": planes[:-1]},
        {"residual": more},
    ):
        refused(altered(delta, **streams), base, new)
    whole = coded(base, new, Bands((117, 118), 2))
    refused(altered(whole, escapes=b"\xff\xff"), base, new)


def test_a_base_of_other_exponents_is_refused():
    base, new = pair("BF16", 900, 3)
    delta = coded(base, new, Bands((117, 118), 1))
    other = Tensor(base.dtype, base.shape, np.roll(base.bits, 1))
    refused(delta, other, new)


def test_long_runs_are_frames_of_their_own_and_noise_is_kept():
    rng = np.random.default_rng(4)
    run = 200_000
    noise = rng.integers(0, 256, run, dtype=np.uint8)
    small = rng.integers(0, 5, run, dtype=np.uint8)
    body = np.concatenate([noise, small])
    frames, stored = compress([Part(b"head"), Part(body.data, runs=2, block=1 << 15)])
    assert [(frame.method, frame.length) for frame in frames[1:]] == [(RAW, run), (ZSTD, run)]
    back = bytearray(run)
    for frame, data, plain in zip(frames[1:], stored[1:], (noise, small), strict=True):
        expand(frame, data, memoryview(back))
        assert bytes(back) == plain.tobytes()
