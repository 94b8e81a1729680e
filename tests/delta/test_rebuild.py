"""The rebuild, bit for bit against the definition in Fraction arithmetic."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.exact import code, finish, residual
from deltavc.delta.kinds import Delta
from deltavc.delta.ordinals import fold, ordinals
from deltavc.delta.predict import Same
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.residual import Residual, encode_gaps
from deltavc.delta.sparse import sparse_change
from deltavc.delta.tensor import DTYPES, DType, Tensor
from deltavc.errors import MergeConflict, NonFiniteTensor, ShapeMismatch, UnsupportedFormat
from deltavc.records.delta import SparseHeader

FLOATS = ["BF16", "F16", "F32", "F64"]
CODES = {"BF16": ("f", "I"), "F16": ("e", "H"), "F32": ("f", "I"), "F64": ("d", "Q")}
relaxed = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])

# the definition, independent of the code --------------------------------------


def decoded(bits: int, dtype: DType) -> Fraction:
    code, word = CODES[dtype.name]
    wide = bits << 16 if dtype.name == "BF16" else bits
    return Fraction(struct.unpack("<" + code, struct.pack("<" + word, wide))[0])


def encoded(value: float, dtype: DType) -> int:
    code, word = CODES[dtype.name]
    bits: int = struct.unpack("<" + word, struct.pack("<" + code, value))[0]
    return bits >> 16 if dtype.name == "BF16" else bits


def finite(bits: int, dtype: DType) -> bool:
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    return bits & infinity != infinity


def rounded(value: Fraction, dtype: DType) -> int:
    """IEEE: the multiple of the local step that is nearest, ties to even multiples."""
    if value == 0:
        return 0
    largest_exponent = (1 << (dtype.exponent - 1)) - 1
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - 1
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    exponent = max(exponent, 1 - largest_exponent)
    step = Fraction(2) ** (exponent - dtype.mantissa)
    multiple = round(value / step)  # Python rounds ties to even
    if abs(multiple * step) >= Fraction(2) ** (largest_exponent + 1):
        return encoded(math.inf if value > 0 else -math.inf, dtype)
    return encoded(math.copysign(float(multiple * step), value), dtype)


def expected(base: Tensor, changes: Sequence[tuple[Fraction, list[Fraction]]]) -> list[int]:
    """The result of adding changes, given as exact values, to a base."""
    bits = []
    for i, held in enumerate(base.bits.tolist()):
        if not finite(held, base.dtype):
            bits.append(held)
            continue
        change = sum((c * values[i] for c, values in changes), Fraction(0))
        bits.append(rounded(decoded(held, base.dtype) + change, base.dtype) if change else held)
    return bits


def product(delta: Delta) -> list[Fraction]:
    """The exact elements of a low-rank delta, from its stored factors."""
    header = delta.header
    b, a = delta.factor("b"), delta.factor("a")
    rank = header.a_shape[0]
    left = np.array([decoded(x, b.dtype) for x in b.bits.tolist()], object).reshape(-1, rank)
    right = np.array([decoded(x, a.dtype) for x in a.bits.tolist()], object).reshape(rank, -1)
    full = left.dot(right) * delta.scale
    return list((full.T if header.transposed else full).reshape(-1))


# material ------------------------------------------------------------------------


def patterns(dtype: DType, *, every: bool = False) -> st.SearchStrategy[int]:
    """Finite patterns, leaning towards zeros, subnormals, short numbers and the largest ones."""
    sign = 1 << (8 * dtype.size - 1)
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    one = ((1 << (dtype.exponent - 1)) - 1) << dtype.mantissa
    quarter = 1 << max(dtype.mantissa - 2, 0)
    sizes = st.one_of(
        st.sampled_from([0, 1, 2, 1 << dtype.mantissa, infinity - 1, one, one + 1, one + quarter]),
        st.integers(one - 3 * (1 << dtype.mantissa), one + 3 * (1 << dtype.mantissa)),
        st.integers(0, infinity + 1 if every else infinity - 1),
    )
    return st.builds(lambda size, minus: size | (sign if minus else 0), sizes, st.booleans())


def tensor_of(bits: Sequence[int], shape: tuple[int, ...], dtype: DType) -> Tensor:
    return Tensor(dtype, shape, np.array(bits, dtype=dtype.bits).reshape(-1))


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtype: DType, *, every: bool = False) -> Tensor:
    count = math.prod(shape)
    bits = draw(st.lists(patterns(dtype, every=every), min_size=count, max_size=count))
    return tensor_of(bits, shape, dtype)


coefficients = st.one_of(
    st.sampled_from([Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(2)]),
    st.sampled_from([Fraction(1, 3), Fraction(-7, 5), Fraction(3), Fraction(1, 3 * 2**20)]),
    st.fractions(-4, 4),
)


@st.composite
def low_ranks(draw: Any, rows: int, columns: int, dtype: DType | None = None) -> Delta:
    rank = draw(st.integers(1, 3))
    kind = dtype or DTYPES[draw(st.sampled_from(FLOATS))]
    transposed = draw(st.booleans())
    outer, inner = (columns, rows) if transposed else (rows, columns)
    scale = draw(
        st.one_of(st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 16)]), coefficients)
    )
    b = draw(tensors((outer, rank), kind))
    a = draw(tensors((rank, inner), kind))
    return kinds.lowrank(b, a, scale, shape=(rows, columns), transposed=transposed)


def rebuilt(base: Tensor | None, terms: Sequence[tuple[Delta, Fraction | int]]) -> Tensor:
    return Rebuild(base, [Term(d, Fraction(c)) for d, c in terms], name="p").tensor()


def sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.raw()).hexdigest()


def exact_delta(base: Tensor, new: Tensor) -> Delta:
    same = Same(base.dtype)
    return finish(code(base, same, residual(base, new, same)), new, sha(base))


def ordinal_delta(base: Tensor, new: Tensor) -> Delta:
    folded = fold(ordinals(new.bits) - ordinals(base.bits))
    streams, count, width = encode_gaps(Residual.of(folded))
    return kinds.make(
        SparseHeader,
        streams,
        shape=base.shape,
        dtype=base.dtype.name,
        count=count,
        base=sha(base),
        width=width,
    )


def change_of(base: Tensor, new: Tensor) -> list[Fraction]:
    """W1 - W0 where both are finite."""
    return [
        decoded(y, base.dtype) - decoded(x, base.dtype) if finite(x, base.dtype) else Fraction(0)
        for x, y in zip(base.bits.tolist(), new.bits.tolist(), strict=True)
    ]


# laws ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_low_rank_terms(name: str) -> None:
    dtype = DTYPES[name]

    @relaxed
    @given(st.data())
    def check(data: Any) -> None:
        rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
        base = data.draw(tensors((rows, columns), dtype, every=True))
        terms = data.draw(st.lists(st.tuples(low_ranks(rows, columns), coefficients), max_size=3))
        wanted = expected(base, [(c, product(d)) for d, c in terms])
        assert rebuilt(base, terms).bits.tolist() == wanted

    check()


@pytest.mark.parametrize("name", FLOATS)
def test_mixtures_of_every_additive_kind(name: str) -> None:
    dtype = DTYPES[name]
    shape = (3, 3)

    @relaxed
    @given(st.data())
    def check(data: Any) -> None:
        base = data.draw(tensors(shape, dtype))
        known: list[tuple[Delta, list[Fraction]]] = []
        for make in data.draw(st.lists(st.sampled_from("lesfd"), min_size=1, max_size=4)):
            if make == "l":
                delta = data.draw(low_ranks(*shape))
                known.append((delta, product(delta)))
            elif make in "es":
                new = data.draw(tensors(shape, dtype))
                delta = (exact_delta if make == "e" else ordinal_delta)(base, new)
                known.append((delta, change_of(base, new)))
            elif make == "f":
                at = sorted(data.draw(st.sets(st.integers(0, 8), min_size=1)))
                values = data.draw(tensors((len(at),), dtype))
                full = [Fraction(0)] * 9
                for place, bits in zip(at, values.bits.tolist(), strict=True):
                    full[place] = decoded(bits, dtype)
                known.append((sparse_change(shape, np.array(at, np.int64), values), full))
            else:
                values = data.draw(tensors(shape, dtype))
                known.append(
                    (kinds.dense(values), [decoded(b, dtype) for b in values.bits.tolist()])
                )
        used = [*known, *known[: data.draw(st.integers(0, 2))]]  # repeated ids
        weights = [data.draw(coefficients) for _ in used]
        vector: dict[str, Fraction] = {}
        for (delta, _), weight in zip(used, weights, strict=True):
            vector[delta.id()] = vector.get(delta.id(), Fraction(0)) + weight
        kept = {oid: weight for oid, weight in vector.items() if weight}
        lone = {d.kind for d, _ in known if list(kept.items()) == [(d.id(), Fraction(1))]}
        result = rebuilt(base, [(d, c) for (d, _), c in zip(used, weights, strict=True)])
        wanted = expected(base, [(c, v) for (_, v), c in zip(used, weights, strict=True)])
        if lone & {"exact", "sparse"}:  # gives the very bits, also of zeros: its own test
            pairs = zip(result.bits.tolist(), wanted, strict=True)
            assert all(x == y or decoded(x, dtype) == decoded(y, dtype) == 0 for x, y in pairs)
        else:
            assert result.bits.tolist() == wanted

    check()


@pytest.mark.parametrize("name", FLOATS)
def test_one_exact_delta_gives_the_very_bits(name: str) -> None:
    dtype = DTYPES[name]

    @relaxed
    @given(tensors((2, 4), dtype), tensors((2, 4), dtype))
    def check(base: Tensor, new: Tensor) -> None:
        for delta in (exact_delta(base, new), ordinal_delta(base, new)):
            assert rebuilt(base, [(delta, 1)]).same_bits(new)
            halves = [(delta, Fraction(1, 2)), (delta, Fraction(1, 3)), (delta, Fraction(1, 6))]
            assert rebuilt(base, halves).same_bits(new)
            assert rebuilt(base, [(delta, 1), (delta, -1)]).same_bits(base)

    check()


def test_dense_stands_on_zeros_where_the_base_lacks_the_parameter() -> None:
    values = tensor_of([0x8000, 0x3F80, 0x0001, 0xBF81], (4,), DTYPES["BF16"])
    dense = kinds.dense(values)
    assert rebuilt(None, [(dense, 1)]).same_bits(values)
    half = rebuilt(None, [(dense, Fraction(1, 2))])
    assert half.bits.tolist() == [0x0000, 0x3F00, 0x0000, 0xBF01]
    other = kinds.dense(tensor_of([0x0000, 0x3F80, 0x8001, 0x3F80], (4,), DTYPES["BF16"]))
    both = rebuilt(None, [(dense, 1), (other, 1)])
    assert both.bits.tolist() == [0x0000, 0x4000, 0x0000, 0xBC00]


def test_signs_of_zero_and_what_is_not_finite() -> None:
    dtype = DTYPES["F32"]
    minus, nan, infinity = 0x80000000, 0x7FC12345, 0xFF800000
    base = tensor_of([minus, minus, 0x3F800000, nan, infinity, 0x00000001, 0], (7,), dtype)
    at = np.arange(7, dtype=np.int64)

    def moved(*changes: float) -> list[int]:
        values = Tensor.from_array(np.array(changes, np.float64))
        result = rebuilt(base, [(sparse_change((7,), at, values), 1)])
        return [int(b) for b in result.bits]

    # unchanged, changed below half the smallest step, to zero, not finite, down to zero, kept
    assert moved(0.0, 1e-300, -1.0, 1.0, 1.0, -(2.0**-149), -1e-300) == [
        minus,
        0,
        0,
        nan,
        infinity,
        0,
        minus,
    ]


def test_minus_zero_survives_terms_that_cancel() -> None:
    dtype = DTYPES["BF16"]
    base = tensor_of([0x8000, 0x8000], (1, 2), dtype)
    one = tensor_of([0x3F80], (1, 1), dtype)
    pair = tensor_of([0x3F80, 0xBF80], (1, 2), dtype)
    plus = kinds.lowrank(one, pair, Fraction(1), shape=(1, 2))
    twice = kinds.lowrank(one, pair, Fraction(2), shape=(1, 2))
    assert rebuilt(base, [(plus, 2), (twice, -1)]).bits.tolist() == [0x8000, 0x8000]
    assert rebuilt(base, [(plus, 1), (twice, -1)]).bits.tolist() == [0xBF80, 0x3F80]


# replacements ------------------------------------------------------------------------


def test_replacements_stand_instead_and_deltas_add_to_them() -> None:
    base = Tensor.from_array(np.array([[1, 2], [3, 4]], np.float32))
    whole = kinds.replace(Tensor.from_array(np.array([[8, 16]], np.float64)))
    assert rebuilt(base, [(whole, 1)]).same_bits(whole.values())
    ones = Tensor.from_array(np.ones((2, 1), np.float32))
    rows = kinds.replace_rows(
        np.array([1], np.uint64), Tensor.from_array(np.array([[7, -0.0]], np.float32)), (2, 2)
    )
    wanted = np.array([[1, 2], [7, -0.0]], np.float32)
    rebuild = Rebuild(base, [Term(rows, Fraction(1))])
    assert rebuild.tensor().same_bits(Tensor.from_array(wanted))
    assert rebuild.changed_rows is not None
    assert rebuild.changed_rows.tolist() == [1]
    add = kinds.lowrank(
        ones, Tensor.from_array(np.ones((1, 2), np.float32)), Fraction(2), shape=(2, 2)
    )
    both = rebuilt(base, [(add, 1), (rows, 1)])
    assert both.same_bits(Tensor.from_array(np.array([[3, 4], [9, 2]], np.float32)))


def test_an_exact_delta_beside_a_replacement_keeps_meaning_its_change() -> None:
    base = Tensor.from_array(np.array([1.0, 2.0, 1e30], np.float32))
    new = Tensor.from_array(np.array([1.5, 2.0, 3.0], np.float32))
    instead = Tensor.from_array(np.array([10.0, 20.0, 30.0], np.float32))
    result = rebuilt(
        base, [(ordinal_delta(base, new), Fraction(1, 3)), (kinds.replace(instead), 1)]
    )
    change = change_of(base, new)
    assert result.bits.tolist() == expected(instead, [(Fraction(1, 3), change)])


def test_replacements_that_exclude_each_other_conflict() -> None:
    base = Tensor.from_array(np.zeros((4, 2), np.float32))

    def rows(index: list[int], value: float) -> Delta:
        values = Tensor.from_array(np.full((len(index), 2), value, np.float32))
        return kinds.replace_rows(np.array(index, np.uint64), values, (4, 2))

    whole = kinds.replace(base)
    other = kinds.replace(Tensor.from_array(np.ones((4, 2), np.float32)))
    assert rebuilt(base, [(rows([0, 1], 5), 1), (rows([1, 3], 5), 1)]).to_float64()[1, 0] == 5
    for terms in (
        [(whole, 2)],
        [(whole, Fraction(1, 2))],
        [(whole, 1), (other, 1)],
        [(whole, 1), (rows([0], 1), 1)],
        [(rows([0, 1], 5), 1), (rows([1, 3], 6), 1)],
        [(rows([0], 5), -1)],
    ):
        with pytest.raises(MergeConflict, match="'layer'") as caught:
            Rebuild(base, [Term(d, Fraction(c)) for d, c in terms], name="layer")
        assert caught.value.exit_code == 30
        assert caught.value.context["parameter"] == "layer"
        assert terms[0][0].id() in caught.value.context["deltas"]


def test_what_does_not_fit_is_refused() -> None:
    base = Tensor.from_array(np.zeros((2, 3), np.float32))
    factor = Tensor.from_array(np.ones((2, 1), np.float32))
    wide = Tensor.from_array(np.ones((1, 3), np.float32))
    narrow = kinds.lowrank(factor, wide, Fraction(1), shape=(2, 3))
    tall = Tensor.from_array(np.zeros((3, 3), np.float32))
    with pytest.raises(ShapeMismatch):
        rebuilt(tall, [(narrow, 1)])
    with pytest.raises(MergeConflict):
        rebuilt(base, [(narrow, 1), (kinds.replace(tall), 1)])
    with pytest.raises(ShapeMismatch):
        rebuilt(None, [(narrow, 1)])
    with pytest.raises(UnsupportedFormat):
        rebuilt(Tensor.from_array(np.zeros((2, 3), np.int64)), [(narrow, 1)])
    bad = Tensor.from_array(np.array([[1.0], [np.nan]], np.float32))
    with pytest.raises(NonFiniteTensor):
        rebuilt(base, [(kinds.lowrank(bad, wide, Fraction(1), shape=(2, 3)), 1)])
    with pytest.raises(ShapeMismatch):
        rebuilt(base, [(kinds.replace_rows(np.array([2], np.uint64), wide, (2, 3)), 1)])
    rebuild = Rebuild(base, [Term(narrow, Fraction(1))])
    with pytest.raises(ShapeMismatch):
        rebuild.compute(0, 3, np.empty(9, "<u4"))
    with pytest.raises(ShapeMismatch):
        rebuild.compute(0, 2, np.empty(6, "<u2"))


def test_nothing_added_is_the_base_itself() -> None:
    base = Tensor.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    rebuild = Rebuild(base, [])
    assert rebuild.identity
    assert rebuild.tensor() is base
    assert (rebuild.rows, rebuild.columns) == (2, 3)
    out = np.empty(3, "<u4")
    rebuild.compute(1, 2, out)
    assert out.tolist() == base.bits[3:].tolist()
    empty = Tensor.from_array(np.zeros((0, 3), np.float32))
    assert Rebuild(empty, []).tensor().count == 0


# one value, however it is computed ------------------------------------------------------


def ties(dtype: DType, rows: int, columns: int, seed: int) -> tuple[Tensor, list[Term]]:
    """A parameter and deltas of short numbers, so that halfway cases abound."""
    random = np.random.default_rng(seed)

    def short(*shape: int) -> Tensor:
        values = random.integers(-8, 9, shape) * 2.0 ** random.integers(-6, 1, shape)
        return cast(values, dtype)

    base = short(rows, columns)
    terms = [
        Term(kinds.lowrank(short(rows, 3), short(3, columns), s, shape=(rows, columns)), c)
        for s, c in [
            (Fraction(1, 64), Fraction(1)),
            (Fraction(1, 3), Fraction(3, 32)),
            (Fraction(1), Fraction(-1, 7)),
        ]
    ]
    return base, terms


def cast(values: np.ndarray[Any, Any], dtype: DType) -> Tensor:
    """Values in a dtype, BF16 by cutting off."""
    if dtype.name == "BF16":
        bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return Tensor(dtype, values.shape, bits.reshape(-1))
    return Tensor.from_array(np.ascontiguousarray(values, f"<f{dtype.size}"))


@pytest.mark.parametrize("name", FLOATS)
def test_blocks_threads_and_order_do_not_matter(name: str) -> None:
    dtype = DTYPES[name]
    base, terms = ties(dtype, 96, 70, 5)
    whole = Rebuild(base, terms).tensor()
    for order in itertools.permutations(terms):
        assert Rebuild(base, order).tensor().same_bits(whole)
    rebuild = Rebuild(base, terms)
    for block in (1, 2, 3, 7, 31, 95):
        out = np.empty_like(base.bits)
        for start in range(0, 96, block):
            stop = min(start + block, 96)
            rebuild.compute(start, stop, out[start * 70 : stop * 70])
        assert np.array_equal(out, whole.bits)
    wanted = expected(base, [(t.coefficient, product(t.delta)) for t in terms])
    assert whole.bits.tolist() == wanted


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_two_threads_give_the_bits_of_one(name: str) -> None:
    base, terms = ties(DTYPES[name], 1200, 1100, 6)
    one, two = Rebuild(base, terms[:1]).tensor(), Rebuild(base, terms[:1]).tensor(threads=2)
    assert one.same_bits(two)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_cancelling_factors_in_any_order(name: str) -> None:
    """What is left after 1e8 - 1e8 must not depend on when it was added."""
    dtype = DTYPES[name]
    rows, columns = 40, 50
    random = np.random.default_rng(3)
    base = cast(random.normal(0, 1e-3, (rows, columns)), dtype)
    left = np.stack(
        [np.full(rows, 2.0**13), random.normal(size=rows), np.full(rows, -(2.0**13))], 1
    )
    right = np.stack(
        [np.full(columns, 2.0**14), random.normal(size=columns), np.full(columns, 2.0**14)]
    )
    results = []
    for order in itertools.permutations(range(3)):
        b = Tensor.from_array(left[:, order].astype(np.float32))
        a = Tensor.from_array(right[list(order)].astype(np.float32))
        delta = kinds.lowrank(b, a, Fraction(1, 3), shape=(rows, columns))
        results.append(rebuilt(base, [(delta, 1)]))
    assert all(result.same_bits(results[0]) for result in results)
    assert results[0].bits.tolist() == expected(base, [(Fraction(1), product(delta))])


def test_sums_outside_the_range_of_exact_float_sums() -> None:
    """Factors of 2**-320, coefficients of 2**200, denominators of 300 bits: by integers."""
    base = Tensor.from_array(np.array([[1.0, 2.0**-140], [0.0, -3.0]], np.float32))
    small = Tensor.from_array(np.array([[2.0**-320], [1.5]], np.float64))
    big = Tensor.from_array(np.array([[2.0**300, 2.0**-700]], np.float64))
    for coefficient in (
        Fraction(1),
        Fraction(2) ** 200,
        Fraction(1, 3**200),
        Fraction(3**120, 2**190),
    ):
        delta = kinds.lowrank(small, big, Fraction(1), shape=(2, 2))
        wanted = expected(base, [(coefficient, product(delta))])
        assert rebuilt(base, [(delta, coefficient)]).bits.tolist() == wanted


def test_read_only_memory_and_scalars() -> None:
    base = Tensor.from_buffer(DTYPES["BF16"], (2, 2), bytes([0x80, 0x3F] * 4))
    one = Tensor.from_array(np.ones((2, 1), np.float32))
    delta = kinds.lowrank(
        one, Tensor.from_array(np.ones((1, 2), np.float32)), Fraction(1), shape=(2, 2)
    )
    assert rebuilt(base, [(delta, 1)]).bits.tolist() == [0x4000] * 4
    scalar = Tensor.from_array(np.array(1.0, np.float32).reshape(()))
    move = sparse_change((), np.array([0]), Tensor.from_array(np.array([0.5], np.float32)))
    result = rebuilt(scalar, [(move, 1)])
    assert result.shape == ()
    assert result.to_float64().item() == 1.5


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
def test_many_listed_elements_are_what_the_definition_says(name: str) -> None:
    """Listed elements that are many become a plane of all: its zeros change no bit."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(5)
    sign = 1 << (8 * dtype.size - 1)
    bits = rng.integers(0, 2 * sign, 128).astype(dtype.bits)
    bits[[not finite(int(b), dtype) for b in bits]] = 0
    bits[:8] = sign  # -0.0 stays where nothing is added
    index = np.flatnonzero(rng.random(128) < 0.5)
    index = index[index > 3]
    change = rng.integers(0, 2 * sign, index.size).astype(dtype.bits)
    change[[not finite(int(b), dtype) for b in change]] = 1
    gaps = (np.diff(index, prepend=-1) - 1).astype(np.uint8)
    streams = [
        kinds.Stream("gaps", gaps.data),
        kinds.Stream("escapes", b""),
        kinds.Stream("values", change.view(np.uint8).data, dtype.size),
    ]
    delta = kinds.make(
        SparseHeader, streams, shape=(16, 8), dtype=name, count=int(index.size),
        values="float", width=dtype.size,
    )  # fmt: skip
    base = tensor_of(bits.tolist(), (16, 8), dtype)
    values = [Fraction(0)] * 128
    for at, added in zip(index.tolist(), change.tolist(), strict=True):
        values[at] = decoded(added, dtype)
    found = rebuilt(base, [(delta, Fraction(1, 3))])
    assert found.bits.tolist() == expected(base, [(Fraction(1, 3), values)])
