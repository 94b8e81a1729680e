"""Encoders find what a change is, and what they return leads to the very bits."""

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.encode import EFFORTS, encode_tensor
from deltavc.delta.exact import decode_exact
from deltavc.delta.ordinals import round_bits, widen
from deltavc.delta.rankfind import Pair, find_factors, probe, refine
from deltavc.delta.sparse import decode_sparse, sparse_change
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt, UsageError


def tensor(values, name):
    values = np.asarray(values, dtype=np.float64)
    return Tensor(DTYPES[name], values.shape, round_bits(values.reshape(-1).copy(), DTYPES[name]))


def weights(name, shape, seed=0):
    return tensor(0.05 * np.random.default_rng(seed).standard_normal(shape), name)


def rebuilt(encoded, base):
    """What a reader gets from the body as it is stored."""
    body = b"".join(bytes(part) for part in encoded.delta.parts())
    delta = kinds.from_body(memoryview(body))
    if delta.kind == "exact":
        return decode_exact(delta, base)
    if delta.kind == "sparse":
        positions, values = decode_sparse(delta, base)
        bits = base.bits.copy()
        bits[positions] = values.bits
        return Tensor(base.dtype, base.shape, bits)
    return delta.values()


def merged(base, rank, seed=1, size=0.3):
    """A LoRA merged as PEFT does it: float32 product, one rounding into the base's dtype."""
    rows, columns = base.matrix_shape
    rng = np.random.default_rng(seed)
    b = (rng.standard_normal((rows, rank)) * size).astype(np.float32)
    a = (rng.standard_normal((rank, columns)) * 0.05).astype(np.float32)
    start = widen(base.bits, base.dtype).astype(np.float32).reshape(rows, columns)
    return tensor(start + b @ a, base.dtype.name)


def xor_planes(base, new):
    """The peer: byte planes of the XOR under a general coder."""
    planes = (base.bits ^ new.bits).view(np.uint8).reshape(-1, base.dtype.size).T
    return sum(len(zlib.compress(np.ascontiguousarray(plane).data, 1)) for plane in planes)


@settings(max_examples=60)
@given(
    st.sampled_from(("F16", "BF16", "F32", "F64")),
    st.lists(st.integers(0, 12), max_size=3),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.0, 0.1, 1.0)),
    st.sampled_from(sorted(EFFORTS)),
    st.booleans(),
)
def test_every_tensor_comes_back(name, shape, seed, changed, effort, wild):
    rng = np.random.default_rng(seed)
    dtype = DTYPES[name]
    count = int(np.prod(shape, dtype=int))
    bits = np.frombuffer(rng.bytes(2 * count * dtype.size), dtype=dtype.bits)
    if not wild:  # keep exponents away from infinity
        bits = bits & dtype.bits.type(
            ~(1 << (dtype.mantissa + dtype.exponent - 1)) & (2**64 - 1) >> (64 - 8 * dtype.size)
        )
    base = Tensor(dtype, tuple(shape), bits[:count])
    where = rng.random(count) < changed
    new = Tensor(dtype, tuple(shape), np.where(where, bits[count:], bits[:count]))
    encoded = encode_tensor(base, new, effort=effort)
    if encoded is None:
        assert new.same_bits(base)
        return
    assert not new.same_bits(base)
    assert rebuilt(encoded, base).same_bits(new)
    finite = bool(np.isfinite(widen(bits, dtype)).all())
    assert finite <= (encoded.what in ("exact", "sparse"))
    assert (encoded.what == "replaced") <= (not finite)


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
def test_a_merged_adapter_is_found_out(name):
    base = weights(name, (256, 320))
    new = merged(base, 8)
    encoded = encode_tensor(base, new)
    assert encoded.what == "low-rank + correction"
    assert encoded.rank == 8
    assert rebuilt(encoded, base).same_bits(new)
    assert encoded.estimate < 0.45 * xor_planes(base, new)
    assert encoded.estimate < 0.3 * new.nbytes


def test_the_rank_is_the_true_one_for_wider_adapters():
    base = weights("F32", (400, 384))
    for rank in (1, 4, 16, 48):
        assert encode_tensor(base, merged(base, rank, seed=rank)).rank == rank


def test_a_convolution_is_seen_as_a_matrix():
    base = weights("F32", (256, 32, 3, 3))
    new = merged(base, 4)
    new = Tensor(new.dtype, base.shape, new.bits)
    encoded = encode_tensor(base, new)
    assert encoded.rank == 4
    assert rebuilt(encoded, base).same_bits(new)


@pytest.mark.parametrize("name", ["BF16", "F32"])
@pytest.mark.parametrize("effort", sorted(EFFORTS))
def test_a_full_fine_tune_is_not_taken_for_low_rank(name, effort):
    base = weights(name, (256, 256))
    rng = np.random.default_rng(2)
    new = tensor(
        widen(base.bits, base.dtype).reshape(256, 256) + 1e-3 * rng.standard_normal((256, 256)),
        name,
    )
    encoded = encode_tensor(base, new, effort=effort)
    assert encoded.what == "exact"
    assert encoded.rank is None
    assert rebuilt(encoded, base).same_bits(new)
    assert encoded.estimate < xor_planes(base, new)


def test_more_effort_is_not_larger():
    base = weights("BF16", (384, 384))
    rng = np.random.default_rng(3)
    spectrum = 2e-3 * rng.standard_normal((384, 8)) @ rng.standard_normal((8, 384)) / 5
    new = tensor(
        widen(base.bits, base.dtype).reshape(384, 384)
        + spectrum
        + 1e-3 * rng.standard_normal((384, 384)),
        "BF16",
    )
    sizes = [
        encode_tensor(base, new, effort=effort).estimate for effort in ("fast", "default", "max")
    ]
    assert sizes[0] >= sizes[1] >= sizes[2]
    assert sizes[2] < 0.97 * sizes[1]


def test_few_changes_are_sparse():
    base = weights("BF16", (500, 300))
    bits = base.bits.copy()
    where = np.random.default_rng(4).random(bits.size) < 0.03
    bits[where] ^= 1
    new = Tensor(base.dtype, base.shape, bits)
    encoded = encode_tensor(base, new)
    assert encoded.what == "sparse"
    assert rebuilt(encoded, base).same_bits(new)
    # entropy of 3 % marks is 0.194 bits an element, a sign adds 0.03
    assert encoded.estimate < 1.12 * 0.224 / 8 * bits.size + 600


def test_changed_rows_of_an_embedding_are_sparse():
    base = weights("F32", (3000, 64))
    values = widen(base.bits, base.dtype).reshape(3000, 64)
    values[::20] += 1e-3 * np.random.default_rng(5).standard_normal((150, 64))
    new = tensor(values, "F32")
    encoded = encode_tensor(base, new)
    assert encoded.what == "sparse"
    assert rebuilt(encoded, base).same_bits(new)


def test_weight_decay_costs_next_to_nothing():
    values = (0.05 * np.random.default_rng(6).standard_normal((600, 256))).astype(np.float32)
    moved = values
    for _ in range(100):
        moved = moved * np.float32(1 - 2e-7)
    base, new = Tensor.from_array(values), Tensor.from_array(moved)
    encoded = encode_tensor(base, new)
    assert rebuilt(encoded, base).same_bits(new)
    assert encoded.estimate < 0.05 * xor_planes(base, new)


def test_what_has_no_difference_is_replaced():
    base = weights("F32", (8, 8))
    broken = base.bits.copy()
    broken[3] = 0x7FC00001
    nan = Tensor(base.dtype, base.shape, broken)
    counts = Tensor.from_array(np.arange(9, dtype=np.int64))
    for old, new in (
        (base, nan),
        (nan, base),
        (base, weights("F32", (8, 9))),
        (base, weights("BF16", (8, 8))),
        (counts, Tensor.from_array(np.arange(9, dtype=np.int64) + 1)),
        (None, nan),
        (None, counts),
    ):
        encoded = encode_tensor(old, new)
        assert (encoded.what, encoded.delta.kind) == ("replaced", "replace")
        assert encoded.delta.values().same_bits(new)
    added = encode_tensor(None, base)
    assert (added.what, added.delta.kind) == ("new", "dense")
    assert added.delta.values().same_bits(base)


def test_negative_zero_is_a_change():
    base = Tensor.from_array(np.zeros((3, 3), dtype=np.float32))
    new = Tensor.from_array(-np.zeros((3, 3), dtype=np.float32))
    encoded = encode_tensor(base, new)
    assert encoded is not None
    assert rebuilt(encoded, base).same_bits(new)


def test_equal_input_gives_equal_bytes():
    base = weights("BF16", (256, 256))
    new = merged(base, 4)
    first, second = (encode_tensor(base, new, effort="max") for _ in range(2))
    assert first.delta.id() == second.delta.id()


def test_the_base_hash_is_computed_or_taken():
    base = weights("F32", (20, 20))
    new = weights("F32", (20, 20), 1)
    assert encode_tensor(base, new).delta.header.base == hashlib.sha256(base.raw()).hexdigest()
    assert encode_tensor(base, new, base_sha256="ab" * 32).delta.header.base == "ab" * 32


def test_an_unknown_effort_is_refused():
    with pytest.raises(UsageError):
        encode_tensor(None, weights("F32", (2, 2)), effort="heroic")


@given(st.integers(0, 200_000), st.integers(0, 1))
@settings(max_examples=25)
def test_same_bits_sees_one_bit_anywhere(at, offset):
    raw = np.zeros(200_001 + 8, dtype=np.uint8)[offset:]
    first = Tensor(DTYPES["U8"], (200_001,), raw[:200_001])
    bits = first.bits.copy()
    assert first.same_bits(Tensor(DTYPES["U8"], (200_001,), bits))
    bits[at] = 1
    assert not first.same_bits(Tensor(DTYPES["U8"], (200_001,), bits))


def test_same_bits_minds_dtype_and_shape():
    base = weights("F32", (4, 6))
    assert not base.same_bits(Tensor(base.dtype, (6, 4), base.bits))
    assert not base.same_bits(Tensor(DTYPES["I32"], (4, 6), base.bits))


def test_the_probe_is_not_deceived():
    base = weights("F32", (512, 256))
    values = widen(base.bits, base.dtype).reshape(512, 256)
    rows = values.copy()
    rows[:300] += merged(base, 4).to_float64()[:300] - values[:300]
    assert probe(Pair.of(base, tensor(rows, "F32"))) == 0  # some rows only
    assert probe(Pair.of(base, base)) == 0
    assert probe(Pair.of(base, tensor(values * (1 + 1e-3), "F32"))) == 0  # as full as the base
    assert probe(Pair.of(base, merged(base, 4))) >= 4


def test_refining_leaves_fewer_wrong_elements():
    base = weights("BF16", (384, 384))
    new = merged(base, 8)
    pair = Pair.of(base, new)
    factors = find_factors(pair, probe(pair))

    def wrong(found):
        values = widen(base.bits, base.dtype) + (found.left @ found.right).reshape(-1)
        return int(np.count_nonzero(round_bits(values, base.dtype) != new.bits))

    assert wrong(refine(pair, factors, (5.0, 4.0))) < 0.6 * wrong(factors)


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from((0.001, 0.05, 0.7)))
@settings(max_examples=30)
def test_changes_by_themselves_come_back(count, seed, share):
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(count) < share)
    changes = Tensor.from_array(rng.standard_normal(positions.size).astype(np.float32))
    delta = sparse_change((count,), positions, changes)
    found, values = decode_sparse(delta, None)
    assert np.array_equal(found, positions)
    assert values.same_bits(changes)


def test_hostile_sparse_deltas_are_refused():
    base = weights("BF16", (40, 40))
    bits = base.bits.copy()
    bits[[3, 900, 901]] += 1
    good = encode_tensor(base, Tensor(base.dtype, base.shape, bits)).delta
    header = good.header
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    for change in (
        {"count": 2},
        {"count": 10**15},
        {"count": -3},
        {"width": 0},
        {"width": 8},
        {"values": "words"},
        {"dtype": "I64"},
        {"dtype": "?"},
        {"shape": (-40, -40)},
        {"shape": (3, 3)},
        {"shape": (40, 41)},
    ):
        with pytest.raises(ObjectCorrupt):
            decode_sparse(kinds.Delta(type(header)(**(fields | change)), good.streams), base)
    with pytest.raises(ObjectCorrupt):
        decode_sparse(good, None)
    with pytest.raises(ObjectCorrupt):
        decode_sparse(kinds.dense(base), base)
    infinite = sparse_change((3,), np.array([1]), Tensor.from_array(np.array([np.inf], "f4")))
    with pytest.raises(ObjectCorrupt):
        decode_sparse(infinite, None)
