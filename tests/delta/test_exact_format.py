"""A reader written from docs/reference/format/delta.md alone, without NumPy, agrees."""

import json
import struct
from fractions import Fraction

import numpy as np
import pytest
import xxhash

from deltavc.delta.encode import encode_tensor
from deltavc.delta.exact import Coded, code, finish, residual
from deltavc.delta.ordinals import round_bits, widen
from deltavc.delta.predict import Drift, LowRank, Same
from deltavc.delta.residual_bands import encode_bands
from deltavc.delta.residual_native import Bands
from deltavc.delta.tensor import DTYPES, Tensor

WIDTH = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
EXPONENT = {"F16": 5, "BF16": 8, "F32": 8, "F64": 11}
MANTISSA = {"F16": 10, "BF16": 7, "F32": 23, "F64": 52}
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def parse(body):
    line, _, rest = body.partition(b"\n")
    header = json.loads(line)
    streams = {}
    for info in header["streams"]:
        streams[info["name"]], rest = rest[: info["length"]], rest[info["length"] :]
    assert not rest
    return header, streams


def numbers(data, width):
    return list(struct.unpack(f"<{len(data) // width}{CODES[width]}", data))


def ordinal(u, n):
    return u ^ ((1 << (n - 1)) - 1) if u >> (n - 1) else u


def unfold(z):
    return -((z + 1) // 2) if z & 1 else z // 2


def positions(streams):
    escapes = iter(numbers(streams["escapes"], 8))
    at, found = -1, []
    for gap in streams["gaps"]:
        at += 1 + (next(escapes) if gap == 255 else gap)
        found.append(at)
    return found


def nearest(value, mantissa, smallest, largest):
    """Returns a Fraction rounded to a float format, ties to even."""
    if value == 0:
        return value
    power = 0
    size = abs(value)
    while size >= Fraction(2) ** (power + 1):
        power += 1
    while size < Fraction(2) ** power:
        power -= 1
    unit = Fraction(2) ** (max(power, smallest) - mantissa)
    whole = round(value / unit)  # Python rounds halves to even
    assert abs(whole * unit) <= largest
    return whole * unit


def predict_lowrank(header, streams, base):
    params = header["params"]
    _, columns = header["shape"]
    rank, p, q = params["rank"], params["left_bits"], params["right_bits"]

    def integers(name, bits):
        width = 1 if bits <= 8 else 2 if bits <= 16 else 4
        return [value - (1 << (bits - 1)) for value in numbers(streams[name], width)]

    left, right = integers("left", p), integers("right", q)
    e = [value - 500 for value in numbers(streams["left_exponents"], 2)]
    f = [value - 500 for value in numbers(streams["right_exponents"], 2)]
    found = []
    for at, u in enumerate(base):
        i, j = divmod(at, columns)
        whole = sum(left[i * rank + k] * right[k * columns + j] for k in range(rank))
        product = whole * Fraction(2) ** (e[i] + f[j])
        found.append(rounded(value_of(u, header["dtype"]) + product, header["dtype"]))
    return found


def value_of(u, name):
    if name == "BF16":
        u, name = u << 16, "F32"
    code = {"F16": "e", "F32": "f", "F64": "d"}[name]
    return Fraction(
        *struct.unpack(f"<{code}", u.to_bytes(WIDTH[name], "little"))[0].as_integer_ratio()
    )


def rounded(value, name):
    value = nearest(value, 52, -1022, 2**1023)
    value = nearest(value, 23, -126, Fraction(2) ** 128)
    if name == "F32":
        return struct.unpack("<I", struct.pack("<f", float(value)))[0]
    if name == "F16":
        return struct.unpack("<H", struct.pack("<e", float(nearest(value, 10, -14, 65504))))[0]
    value = nearest(value, 7, -126, Fraction(2) ** 127)
    return struct.unpack("<I", struct.pack("<f", float(value)))[0] >> 16


def read(body, base):
    header, streams = parse(body)
    name, params = header["dtype"], header.get("params", {})
    width, m = WIDTH[name], MANTISSA[name]
    n, mask = 8 * width, (1 << 8 * width) - 1
    predicted = base
    if params.get("predictor") == "lowrank":
        predicted = predict_lowrank(header, streams, base)
    ordinals = [ordinal(u, n) for u in predicted]
    if params.get("predictor") == "drift":
        k = params["bits"]
        table = numbers(streams["table"], width)
        for at, u in enumerate(base):
            t = table[(u >> (m - k)) % (1 << k)]
            ordinals[at] += -t if u >> (n - 1) else t
    folded = [0] * len(base)
    if header.get("coding") == "planes":
        planes, count = streams["residual"], len(base)
        assert len(planes) == count * width
        folded = [int.from_bytes(bytes(planes[at::count]), "little") for at in range(count)]
    elif header.get("coding") == "bands":
        folded = read_bands(
            params, streams, [(u >> m) % (1 << EXPONENT[name]) for u in base], width
        )
    else:
        values = numbers(streams["values"], params.get("width") or header["width"])
        for at, value in zip(positions(streams), values, strict=True):
            folded[at] = value
    if params.get("grouped"):
        exponents = [(u >> m) % (1 << EXPONENT[name]) for u in base]
        order = sorted(range(len(base)), key=lambda at: exponents[at])
        own = [0] * len(base)
        for rank, at in enumerate(order):
            own[at] = folded[rank]
        folded = own
    bits = [ordinal((o + unfold(z)) & mask, n) for o, z in zip(ordinals, folded, strict=True)]
    data = struct.pack(f"<{len(bits)}{CODES[width]}", *bits)
    if header["kind"] == "exact":
        assert xxhash.xxh3_64_hexdigest(data) == header["check"]
    return bits


def read_bands(params, streams, exponents, width):
    planes, count, kept = streams["residual"], len(exponents), params["width"]
    assert len(planes) == count * kept
    escapes = iter(numbers(streams["escapes"], width))
    bands = [sum(edge <= exponent for edge in params["bands"]) for exponent in exponents]
    folded = [0] * count
    for rank, at in enumerate(sorted(range(count), key=bands.__getitem__)):
        folded[at] = int.from_bytes(bytes(planes[rank::count]), "little")
        if kept < width and folded[at] == (1 << 8 * kept) - 1:
            folded[at] = next(escapes)
    assert next(escapes, None) is None
    return folded


def body(delta):
    return b"".join(bytes(part) for part in delta.parts())


def pair(name, seed, share=1.0):
    rng = np.random.default_rng(seed)
    base = round_bits(0.1 * rng.standard_normal(24 * 18), DTYPES[name])
    new = base.copy()
    where = rng.random(base.size) < share
    new[where] += rng.integers(0, 40, int(where.sum())).astype(new.dtype)
    dtype = DTYPES[name]
    return Tensor(dtype, (24, 18), base), Tensor(dtype, (24, 18), new)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("share", [0.05, 1.0])
@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "F64"])
def test_codings(name, share, grouped):
    base, new = pair(name, 1, share)
    coded = code(base, Same(base.dtype), residual(base, new, Same(base.dtype)), grouped=grouped)
    assert read(body(finish(coded, new, "")), base.bits.tolist()) == new.bits.tolist()


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("edges", [(), (3,), (12, 13, 14), (120, 121, 122, 123, 124, 125, 126)])
@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "F64"])
def test_bands(name, edges, width):
    base, new = pair(name, 1)
    new.bits[::50] += np.array(1000, dtype=new.bits.dtype)
    top = (1 << base.dtype.exponent) - 1
    bands = Bands(tuple(edge for edge in edges if edge <= top), width)
    folded = residual(base, new, Same(base.dtype)).folded
    streams, params = encode_bands(folded, base.bits, base.dtype, bands)
    coded = Coded("bands", params, tuple(streams))
    assert read(body(finish(coded, new, "")), base.bits.tolist()) == new.bits.tolist()


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_drift(name):
    base, _ = pair(name, 2)
    table = np.arange(16, dtype=base.dtype.bits) * 7 - 20
    drift = Drift(base.dtype, table)
    new = Tensor(base.dtype, base.shape, base.bits + 3)
    delta = finish(code(base, drift, residual(base, new, drift)), new, "")
    assert read(body(delta), base.bits.tolist()) == new.bits.tolist()


@pytest.mark.parametrize("bits", [8, 12, 24])
@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
def test_lowrank(name, bits):
    base, _ = pair(name, 3)
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((24, 5)), 0.05 * rng.standard_normal((5, 18))
    predictor = LowRank.quantised(left, right, base.dtype, bits)
    merged = widen(base.bits, base.dtype).reshape(24, 18) + left @ right
    new = Tensor(base.dtype, base.shape, round_bits(merged.reshape(-1).copy(), base.dtype))
    folded = residual(base, new, predictor)
    plain = residual(base, new, Same(base.dtype))
    sizes = [float(np.log2(each.folded + 1.0).sum()) for each in (folded, plain)]
    assert sizes[0] < 0.9 * sizes[1]  # the prediction matters
    delta = finish(code(base, predictor, folded), new, "")
    assert read(body(delta), base.bits.tolist()) == new.bits.tolist()


def test_sparse():
    base, new = pair("BF16", 5, 0.02)
    encoded = encode_tensor(base, new)
    assert encoded.delta.kind == "sparse"
    assert read(body(encoded.delta), base.bits.tolist()) == new.bits.tolist()
    far = base.bits.copy()
    far[-1] ^= 1
    lonely = Tensor(base.dtype, base.shape, far)  # one gap of more than 255
    assert read(body(encode_tensor(base, lonely).delta), base.bits.tolist()) == far.tolist()
