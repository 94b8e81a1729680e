"""Exact deltas lead to the very bits, and refuse whatever is not the recorded tensor."""

import hashlib
import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta import exact, kinds
from deltavc.delta.drift import find_drift
from deltavc.delta.exact import code, decode_exact, finish, residual
from deltavc.delta.ordinals import fold, ordinals, round_bits, unfold, widen
from deltavc.delta.predict import Drift, LowRank, Same
from deltavc.delta.residual import group, ungroup
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt

FLOATS = ("F16", "BF16", "F32", "F64")


def tensor(bits, name, shape=None):
    array = np.asarray(bits, dtype=DTYPES[name].bits)
    return Tensor(DTYPES[name], array.shape if shape is None else shape, array.reshape(-1))


def random_bits(name, count, seed):
    raw = np.random.default_rng(seed).bytes(count * DTYPES[name].size)
    return np.frombuffer(raw, dtype=DTYPES[name].bits)


def tame(name, shape, seed):
    values = np.random.default_rng(seed).standard_normal(shape)
    return tensor(round_bits(values.reshape(-1).copy(), DTYPES[name]), name, tuple(shape))


def through_body(delta):
    return kinds.from_body(memoryview(b"".join(bytes(part) for part in delta.parts())))


def round_trip(base, new, predictor, *, grouped=False):
    coded = code(base, predictor, residual(base, new, predictor), grouped=grouped)
    delta = finish(coded, new, hashlib.sha256(base.raw()).hexdigest())
    return delta, decode_exact(through_body(delta), base)


def python_ordinal(bits, size):
    """The definition, in Python's own integers."""
    top = 1 << (8 * size - 1)
    return bits if bits < top else bits ^ (top - 1)


@given(st.sampled_from(FLOATS), st.integers(0, 2**32 - 1))
def test_ordinals_are_an_order_preserving_bijection(name, seed):
    dtype = DTYPES[name]
    bits = random_bits(name, 64, seed)
    found = ordinals(bits)
    assert found.tolist() == [python_ordinal(b, dtype.size) for b in bits.tolist()]
    assert np.array_equal(ordinals(found), bits)
    values = widen(bits, dtype)
    signed = found.view(np.dtype(f"<i{dtype.size}"))
    finite = np.isfinite(values)
    by_ordinal = np.argsort(signed[finite], kind="stable")
    assert np.all(np.diff(values[finite][by_ordinal]) >= 0)


@given(st.sampled_from(FLOATS), st.integers(0, 2**32 - 1))
def test_folding_is_a_bijection_with_small_numbers_for_small_steps(name, seed):
    bits = random_bits(name, 64, seed)
    assert np.array_equal(unfold(fold(bits)), bits)
    small = np.array([0, -1, 1, -2, 2], dtype=np.dtype(f"<i{DTYPES[name].size}"))
    assert fold(small.view(DTYPES[name].bits)).tolist() == [0, 1, 2, 3, 4]


@given(st.sampled_from(("F32", "BF16")), st.floats(allow_nan=False))
def test_rounding_goes_through_float32_to_nearest_even(name, value):
    with np.errstate(over="ignore"):
        single = struct.unpack("<I", np.float32(value).tobytes())[0]
    found = int(round_bits(np.array([value]), DTYPES[name])[0])
    if name == "F32":
        assert found == single
    else:
        low, high = single & 0xFFFF, single >> 16
        up = low > 0x8000 or (low == 0x8000 and high & 1)
        assert found == high + up


@settings(max_examples=60)
@given(
    st.sampled_from(FLOATS),
    st.integers(0, 300),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.0, 0.02, 0.2, 0.9)),
    st.booleans(),
)
def test_any_bits_come_back(name, count, seed, changed, grouped):
    """NaN payloads, infinities, -0.0 and subnormals too: the integers know no difference."""
    base = tensor(random_bits(name, count, seed), name)
    other = random_bits(name, count, seed + 1)
    where = np.random.default_rng(seed).random(count) < changed
    new = tensor(np.where(where, other, base.bits), name)
    delta, decoded = round_trip(base, new, Same(base.dtype), grouped=grouped)
    assert decoded.same_bits(new)
    few = int((other != base.bits)[where].sum()) < exact.GAPS_BELOW * count
    assert delta.header.coding == ("gaps" if few else "planes")


@pytest.mark.parametrize("name", FLOATS)
def test_blocks_and_grouping_over_many_blocks(name):
    base = tame(name, (300, 700), 1)
    new = tensor(base.bits + np.arange(base.count, dtype=base.dtype.bits) % 3, name, base.shape)
    for grouped in (False, True):
        assert round_trip(base, new, Same(base.dtype), grouped=grouped)[1].same_bits(new)
    grouped_bits = group(new.bits, base.bits, base.dtype)
    keys = (base.bits >> base.dtype.mantissa) & ((1 << base.dtype.exponent) - 1)
    assert np.array_equal(grouped_bits, new.bits[np.argsort(keys, kind="stable")])
    assert np.array_equal(ungroup(grouped_bits, base.bits, base.dtype), new.bits)


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("grouped", [False, True])
def test_low_rank_predictor_comes_back(name, grouped):
    base = tame(name, (130, 50), 2)
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((130, 4)), 0.1 * rng.standard_normal((4, 50))
    predictor = LowRank.quantised(left, right, base.dtype, 24)
    merged = widen(base.bits, base.dtype) + predictor.product(0, base.count)
    bits = round_bits(merged, base.dtype)
    bits[::10] += 1
    new = tensor(bits, name, base.shape)
    delta, decoded = round_trip(base, new, predictor, grouped=grouped)
    assert decoded.same_bits(new)
    assert delta.header.params["predictor"] == "lowrank"
    assert delta.header.params["count"] == new.count // 10


@given(st.integers(1, 33), st.integers(0, 2**32 - 1))
def test_fixed_point_products_do_not_depend_on_the_order(rank, seed):
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((9, rank)) * 10.0 ** rng.integers(-6, 6, (9, 1))
    right = rng.standard_normal((rank, 7)) * 10.0 ** rng.integers(-6, 6, (1, 7))
    fixed = LowRank.quantised(left, right, DTYPES["F32"], 32)
    found = fixed.product(0, 63).reshape(9, 7)
    exact_left = [[int(v) for v in row] for row in fixed.left.tolist()]
    exact_right = [[int(v) for v in row] for row in fixed.right.tolist()]
    for i in range(9):
        for j in range(7):
            whole = sum(exact_left[i][k] * exact_right[k][j] for k in range(rank))
            unit = int(fixed.left_exponents[i]) + int(fixed.right_exponents[j])
            assert abs(whole) <= 2**53
            assert found[i, j] == np.ldexp(float(whole), unit)


def decayed(values, steps, rate):
    for _ in range(steps):
        values = values * np.float32(1 - rate)
    return values


def test_weight_decay_is_predicted_from_the_mantissa():
    values = np.random.default_rng(5).standard_normal((400, 300)).astype(np.float32)
    base, new = Tensor.from_array(values), Tensor.from_array(decayed(values, 60, 2e-7))
    predictor = find_drift(base, new)
    assert predictor is not None
    delta, decoded = round_trip(base, new, predictor)
    assert decoded.same_bits(new)
    assert delta.header.params["predictor"] == "drift"
    assert residual(base, new, predictor).changed < 0.02 * new.count
    assert residual(base, new, Same(base.dtype)).changed == new.count


def test_no_drift_is_seen_in_noise():
    rng = np.random.default_rng(6)
    values = rng.standard_normal((400, 300)).astype(np.float32)
    noisy = (values + 1e-4 * rng.standard_normal(values.shape)).astype(np.float32)
    assert find_drift(Tensor.from_array(values), Tensor.from_array(noisy)) is None


def test_header_names_the_hashes_of_both_tensors():
    base, new = tame("F32", (20, 20), 7), tame("F32", (20, 20), 8)
    delta, _ = round_trip(base, new, Same(base.dtype))
    assert delta.header.base == hashlib.sha256(base.raw()).hexdigest()
    assert delta.header.result == hashlib.sha256(new.raw()).hexdigest()
    assert delta.header.check == xxhash.xxh3_64_hexdigest(new.raw())


def test_the_room_for_the_result_is_used():
    base, new = tame("F32", (20, 20), 7), tame("F32", (20, 20), 8)
    delta, _ = round_trip(base, new, Same(base.dtype))
    room = np.zeros(400, dtype=np.uint32)
    assert decode_exact(delta, base, room).bits is room
    assert np.array_equal(room, new.bits)
    with pytest.raises(ObjectCorrupt):
        decode_exact(delta, base, np.zeros(399, dtype=np.uint32))


def test_another_base_is_refused():
    base, new = tame("BF16", (30, 40), 9), tame("BF16", (30, 40), 10)
    delta, _ = round_trip(base, new, Same(base.dtype))
    changed = base.bits.copy()
    changed[17] ^= 1
    with pytest.raises(ObjectCorrupt) as refusal:
        decode_exact(delta, Tensor(base.dtype, base.shape, changed))
    assert refusal.value.context["expected"] == delta.header.check
    with pytest.raises(ObjectCorrupt):
        decode_exact(delta, Tensor(base.dtype, (40, 30), base.bits))
    with pytest.raises(ObjectCorrupt):
        decode_exact(delta, tame("F16", (30, 40), 9))


def examples():
    """One delta of each coding and predictor, with its base."""
    base = tame("BF16", (64, 48), 11)
    rng = np.random.default_rng(12)
    left, right = rng.standard_normal((64, 3)), 0.1 * rng.standard_normal((3, 48))
    merged = widen(base.bits, base.dtype).reshape(64, 48) + left @ right
    low = tensor(round_bits(merged.reshape(-1).copy(), base.dtype), "BF16", base.shape)
    few = base.bits.copy()
    few[[5, 700, 701, 3000]] += 1
    sparse = tensor(few, "BF16", base.shape)
    predictor = LowRank.quantised(left, right, base.dtype, 12)
    single = tame("F32", (64, 48), 11)
    moved = tensor(single.bits + 5, "F32", single.shape)
    table = Drift(single.dtype, np.full(16, 5, dtype=np.uint32))
    return [
        (round_trip(base, low, Same(base.dtype))[0], base),
        (round_trip(base, sparse, Same(base.dtype))[0], base),
        (round_trip(base, sparse, Same(base.dtype), grouped=True)[0], base),
        (round_trip(base, low, predictor)[0], base),
        (round_trip(base, low, predictor, grouped=True)[0], base),
        (round_trip(single, moved, table)[0], single),
    ]


EXAMPLES = examples()


def altered(delta, *, params=None, **fields):
    header = delta.header
    values = {f: getattr(header, f) for f in header.__struct_fields__}
    values["params"] = header.params | (params or {})
    return kinds.Delta(type(header)(**(values | fields)), delta.streams)


@settings(max_examples=150)
@given(st.sampled_from(range(len(EXAMPLES))), st.data())
def test_damaged_streams_are_refused(which, data):
    """Whatever is changed in a stream, the answer is one error, never other bits."""
    delta, base = EXAMPLES[which]
    victim = data.draw(st.sampled_from([s.name for s in delta.streams if s.length]))
    stream = next(s for s in delta.streams if s.name == victim)
    raw = bytearray(stream.data)
    at = data.draw(st.integers(0, len(raw) - 1))
    how = data.draw(st.sampled_from(("flip", "cut", "grow")))
    if how == "flip":
        raw[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del raw[at:]
    else:
        raw += raw[: at + 1]
    streams = tuple(
        kinds.Stream(s.name, bytes(raw), s.planes) if s is stream else s for s in delta.streams
    )
    original = decode_exact(delta, base)
    try:
        decoded = decode_exact(kinds.Delta(delta.header, streams), base)
    except ObjectCorrupt:
        return
    # a flipped bit of a factor may round to the same tensor: then the bits are right
    assert how == "flip"
    assert decoded.same_bits(original)


@pytest.mark.parametrize(
    "change",
    [
        {"coding": "huffman"},
        {"dtype": "I32"},
        {"dtype": "nothing"},
        {"check": "0" * 16},
        {"params": {"predictor": "oracle"}},
        {"params": {"predictor": "lowrank", "rank": 10**9}},
        {"params": {"predictor": "lowrank", "rank": 3, "left_bits": 30, "right_bits": 30}},
        {"params": {"predictor": "lowrank", "rank": "3", "left_bits": 12, "right_bits": 12}},
        {"params": {"predictor": "lowrank", "rank": 4}},
        {"params": {"predictor": "drift", "bits": 60}},
        {"params": {"predictor": "drift", "bits": 3}},
        {"params": {"predictor": ["lowrank"]}},
        {"params": {"count": 10**15}},
        {"params": {"count": -1}},
        {"params": {"count": True}},
        {"params": {"width": 8}},
        {"params": {"width": 3}},
        {"params": {"width": None}},
        {"params": {"grouped": "yes"}},
    ],
)
def test_hostile_headers_are_refused(change):
    for delta, base in EXAMPLES:
        if "count" in change.get("params", {}) and delta.header.coding != "gaps":
            continue
        if "width" in change.get("params", {}) and delta.header.coding != "gaps":
            continue
        with pytest.raises(ObjectCorrupt):
            decode_exact(altered(delta, **change), base)


def test_gaps_that_wrap_round_are_refused():
    base = tame("BF16", (64, 48), 11)
    escapes = np.array([2**63 - 1, 2**63 - 1, 300], dtype="<u8")
    streams = [
        kinds.Stream("gaps", bytes([255, 255, 255])),
        kinds.Stream("escapes", escapes.tobytes(), 8),
        kinds.Stream("values", bytes([1, 1, 1])),
    ]
    coded = exact.Coded("gaps", {"count": 3, "width": 1}, tuple(streams))
    with pytest.raises(ObjectCorrupt, match="past the end"):
        decode_exact(finish(coded, base, "0" * 64), base)


def test_other_kinds_are_refused():
    base = tame("F32", (4, 4), 1)
    with pytest.raises(ObjectCorrupt):
        decode_exact(kinds.dense(base), base)
