"""Residuals in C and in NumPy are the same bytes, and lead to the same bits."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.encode import EFFORTS, encode_tensor
from deltavc.delta.exact import code, decode_exact, finish, leads_to, residual
from deltavc.delta.native import library, without
from deltavc.delta.predict import Drift, LowRank, Same
from deltavc.delta.residual import encode_gaps, group, read_gaps, ungroup
from deltavc.delta.sparse import decode_sparse
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt

FLOATS = ("F16", "BF16", "F32", "F64")
LENGTHS = (0, 1, 2, 3, 15, 16, 17, 255, 256, 4095, 4096, 4097, 8193)
"""Around the lanes, the runs of sixteen and the chunks of the kernels."""


def tensor(bits, name, shape=None):
    return Tensor(DTYPES[name], (bits.size,) if shape is None else shape, bits)


def pair(name, count, seed, changed):
    """Any bit patterns at all, NaN and infinities too; a share of them differs."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(seed)
    base = np.frombuffer(rng.bytes(count * dtype.size), dtype=dtype.bits)
    other = np.frombuffer(rng.bytes(count * dtype.size), dtype=dtype.bits)
    small = base + rng.integers(0, 40, count).astype(dtype.bits)
    where = rng.random(count)
    new = np.where(where < changed, np.where(where < changed / 2, other, small), base)
    return tensor(base, name), tensor(new, name)


def predictors(dtype, count, seed):
    yield Same(dtype)
    bits = min(7, dtype.mantissa)
    raw = np.random.default_rng(seed).bytes(dtype.size << bits)
    yield Drift(dtype, np.frombuffer(raw, dtype=dtype.bits))


def lowrank(name, rows, columns, seed):
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, 3)), rng.standard_normal((3, columns))
    return LowRank.quantised(left, right, DTYPES[name], 12)


def both(make):
    """Returns the same made with the library and without."""
    assert library("residual") is not None
    with_library = make()
    with without():
        assert library("residual") is None
        return with_library, make()


def bodies(delta):
    return [bytes(part) for part in delta.parts()]


@settings(max_examples=80)
@given(
    st.sampled_from(FLOATS),
    st.one_of(st.sampled_from(LENGTHS), st.integers(0, 20000)),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.0, 0.003, 0.2, 1.0)),
    st.sampled_from((None, False, True)),
)
def test_objects_are_the_same_bytes(name, count, seed, changed, grouped):
    base, new = pair(name, count, seed, changed)
    for predictor in predictors(base.dtype, count, seed):

        def make(predictor=predictor):
            left = residual(base, new, predictor)
            return left, finish(code(base, predictor, left, grouped=grouped), new, "")

        (found, delta), (expected, other) = both(make)
        assert np.array_equal(found.folded, expected.folded)
        assert (found.changed, found.any, found.finite) == (
            expected.changed, expected.any, expected.finite,
        )  # fmt: skip
        assert bodies(delta) == bodies(other)
        for decoded in both(lambda delta=delta: decode_exact(delta, base)):
            assert decoded.same_bits(new)
        assert both(lambda delta=delta: leads_to(delta, base, new)) == (True, True)


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("changed", [0.1, 1.0])
def test_low_rank_predictors_too(name, grouped, changed):
    rng = np.random.default_rng(1)
    values = rng.standard_normal(70 * 90).astype(np.float32)
    narrow = {"F32": values.view(np.uint32), "F16": values.astype(np.float16).view(np.uint16)}
    base = tensor(
        narrow.get(name, (values.view(np.uint32) >> 16).astype(np.uint16)), name, (70, 90)
    )
    predictor = lowrank(name, 70, 90, 2)
    predicted = predictor.patterns(base.bits, 0)
    off = (rng.random(base.count) < changed).astype(predicted.dtype)
    new = tensor(predicted + off, name, base.shape)

    def make():
        left = residual(base, new, predictor)
        return finish(code(base, predictor, left, grouped=grouped), new, "")

    found, expected = both(make)
    assert bodies(found) == bodies(expected)
    for decoded in both(lambda: decode_exact(found, base)):
        assert decoded.same_bits(new)


@settings(max_examples=60)
@given(st.sampled_from(FLOATS), st.integers(0, 9000), st.integers(0, 2**32 - 1))
def test_grouping_is_a_stable_order_by_exponent(name, count, seed):
    base, values = pair(name, count, seed, 1.0)
    keys = (base.bits >> base.dtype.mantissa) & ((1 << base.dtype.exponent) - 1)
    expected = values.bits[np.argsort(keys, kind="stable")]
    for found in both(lambda: group(values.bits, base.bits, base.dtype)):
        assert np.array_equal(found, expected)
    assert np.array_equal(ungroup(expected, base.bits, base.dtype), values.bits)


@pytest.mark.parametrize("effort", sorted(EFFORTS))
@pytest.mark.parametrize("name", ["BF16", "F32"])
@pytest.mark.parametrize("step", [1e-3, 3e-5])
def test_encoders_choose_the_same(name, effort, step):
    rng = np.random.default_rng(3)
    values = (0.05 * rng.standard_normal((160, 160))).astype(np.float32)
    moved = (values + step * rng.standard_normal(values.shape)).astype(np.float32)
    cut = 16 if name == "BF16" else 0
    base, new = (
        tensor(
            (each.reshape(-1).view(np.uint32) >> cut).astype(DTYPES[name].bits), name, (160, 160)
        )
        for each in (values, moved)
    )
    found, expected = both(lambda: encode_tensor(base, new, effort=effort))
    assert found.what == expected.what
    assert bodies(found.delta) == bodies(expected.delta)


def test_tensors_that_lie_anywhere_in_memory():
    base, new = pair("F32", 5000, 4, 0.9)
    shifted = []
    for each in (base, new):
        room = np.zeros(each.nbytes + 1, dtype=np.uint8)
        room[1:] = each.bits.view(np.uint8)
        shifted.append(tensor(np.frombuffer(room.data, "<u4", offset=1), "F32"))
    same = Same(base.dtype)
    delta = finish(code(shifted[0], same, residual(*shifted, same), grouped=True), new, "")
    body = b"x" + b"".join(bodies(delta))  # streams begin anywhere, too
    loaded = kinds.from_body(memoryview(body)[1:])
    assert decode_exact(loaded, shifted[0]).same_bits(new)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("changed", [0.1, 1.0])
def test_a_delta_leads_to_nothing_else(grouped, changed):
    base, new = pair("BF16", 9001, 5, changed)
    same = Same(base.dtype)
    delta = finish(code(base, same, residual(base, new, same), grouped=grouped), new, "")
    for at in (0, 4096, 9000):
        bits = new.bits.copy()
        bits[at] ^= 1
        other = tensor(bits, "BF16")
        assert both(lambda other=other: leads_to(delta, base, other)) == (False, False)
    assert not leads_to(delta, base, Tensor(base.dtype, (9001, 1), new.bits))


def gaps_of(gaps, escapes, values=b""):
    streams = [
        kinds.Stream("gaps", bytes(gaps)),
        kinds.Stream("escapes", np.array(escapes, dtype="<u8").tobytes(), 8),
        kinds.Stream("values", values),
    ]
    header = encode_tensor(*pair("BF16", 400, 6, 0.01)).delta.header
    return kinds.Delta(header, tuple(streams))


@pytest.mark.parametrize(
    ("gaps", "escapes", "limit", "wrong"),
    [
        ([0, 1], [], 3, ""),
        ([0, 1], [], 2, "past the end"),
        ([255], [255], 256, ""),
        ([255], [255], 255, "past the end"),
        ([255], [254], 1000, "do not fit"),
        ([255], [], 1000, "do not fit"),
        ([3], [300], 1000, "do not fit"),
        ([255, 255], [2**63, 2**63], 1000, "past the end"),
        ([255, 255], [2**64 - 1, 300], 2**40, "past the end"),
        ([255], [2**64 - 1], 2**62, "past the end"),
    ],
)
def test_hostile_gaps_are_refused(gaps, escapes, limit, wrong):
    def answer():
        try:
            return read_gaps(gaps_of(gaps, escapes), len(gaps), limit).positions().tolist()
        except ObjectCorrupt as error:
            return error.message

    found, other = both(answer)
    assert found == other
    if wrong:
        assert wrong in found
    else:
        assert found[-1] == limit - 1


def test_sparse_deltas_are_the_same():
    base, new = pair("F32", 70000, 7, 0.01)
    finite = np.uint32(0xBFFFFFFF)  # an exponent bit less: no NaN, no infinity
    base, new = (tensor(each.bits & finite, "F32") for each in (base, new))
    found, expected = both(lambda: encode_tensor(base, new))
    assert found.what == "sparse"
    assert bodies(found.delta) == bodies(expected.delta)
    positions, values = decode_sparse(found.delta, base)
    assert np.array_equal(np.flatnonzero(base.bits != new.bits), positions)
    assert np.array_equal(values.bits, new.bits[positions])


def test_gaps_of_every_width():
    for width, largest in ((1, 255), (2, 256), (4, 1 << 16), (8, 1 << 32)):
        base = tensor(np.zeros(3000, dtype=np.uint64), "F64")
        bits = base.bits.copy()
        bits[[0, 700, 2999]] = largest // 2, 3, 1
        left = residual(base, tensor(bits, "F64"), Same(base.dtype))
        found, expected = both(lambda left=left: encode_gaps(left))
        assert (found[1], found[2]) == (expected[1], expected[2]) == (3, width)
        assert [bytes(s.data) for s in found[0]] == [bytes(s.data) for s in expected[0]]


def test_the_hash_is_that_of_the_tensor():
    base, new = pair("BF16", 500, 8, 1.0)
    same = Same(base.dtype)
    for delta in both(lambda: finish(code(base, same, residual(base, new, same)), new, "")):
        assert delta.header.result == hashlib.sha256(new.raw()).hexdigest()
