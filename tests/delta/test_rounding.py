"""Rounding as a definition, against a search over all numbers of a dtype."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.delta.exactsum import Accumulator, common_denominator, float_chunks, two_product
from deltavc.delta.rounding import round_fraction, round_sticky, value_of_bits
from deltavc.delta.tensor import DTYPES, DType

FLOATS = ["BF16", "F16", "F32", "F64"]
NARROW = ["BF16", "F16", "F32"]


def decoded(bits: int, dtype: DType) -> Fraction:
    """The value of a finite pattern, as the platform's own float formats read it."""
    if dtype.name == "BF16":
        return Fraction(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    code, word = {"F16": ("e", "H"), "F32": ("f", "I"), "F64": ("d", "Q")}[dtype.name]
    return Fraction(struct.unpack("<" + code, struct.pack("<" + word, bits))[0])


def nearest(value: Fraction, dtype: DType) -> int:
    """Round to nearest even by bisection over the patterns, which are in the order of values."""
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    # IEEE rounds overflow as if the exponent range went on: infinity stands for the next power.
    beyond = Fraction(2) ** (1 << (dtype.exponent - 1))
    size = abs(value)
    low, high = 0, infinity
    while high - low > 1:
        middle = (low + high) // 2
        if decoded(middle, dtype) <= size:
            low = middle
        else:
            high = middle
    below = size - decoded(low, dtype)
    above = (beyond if high == infinity else decoded(high, dtype)) - size
    chosen = low if below < above or (below == above and low % 2 == 0) else high
    return chosen | (1 << (8 * dtype.size - 1) if value < 0 else 0)


def around(dtype: DType) -> st.SearchStrategy[Fraction]:
    """Values at, beside and halfway between numbers of a dtype, and plain rationals."""
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    patterns = st.one_of(
        st.integers(0, infinity - 1), st.integers(0, 40), st.integers(infinity - 40, infinity - 1)
    )

    def place(bits: int, part: Fraction, negative: bool) -> Fraction:
        here = decoded(bits, dtype)
        last = bits == infinity - 1
        step = here - decoded(bits - 1, dtype) if last else decoded(bits + 1, dtype) - here
        value = here + part * step
        return -value if negative else value

    tiny = Fraction(1, 3**60)
    parts = st.sampled_from(
        [Fraction(0), Fraction(1, 2), Fraction(1, 2) - tiny, Fraction(1, 2) + tiny, tiny, 1 - tiny]
    )
    near = st.builds(place, patterns, st.one_of(parts, st.fractions(0, 2)), st.booleans())
    return st.one_of(near, st.fractions(), st.just(Fraction(0)))


@pytest.mark.parametrize("name", FLOATS)
def test_round_fraction_is_the_nearest_number(name: str) -> None:
    dtype = DTYPES[name]

    @given(around(dtype))
    def check(value: Fraction) -> None:
        assert round_fraction(value, dtype) == nearest(value, dtype)

    check()


@pytest.mark.parametrize("name", FLOATS)
def test_value_of_bits_inverts_rounding(name: str) -> None:
    dtype = DTYPES[name]
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    for bits in [
        0,
        1,
        2,
        1 << dtype.mantissa,
        (1 << dtype.mantissa) - 1,
        infinity - 1,
        infinity // 3,
    ]:
        assert value_of_bits(bits, dtype) == decoded(bits, dtype)
        assert round_fraction(decoded(bits, dtype), dtype) == bits


def nearby_float(value: Fraction, toward: bool) -> float:
    """One of the two float64 that enclose a value."""
    try:
        near = float(value)
    except OverflowError:
        near = 1.7976931348623157e308 * (1 if value > 0 else -1)
    if toward and Fraction(near) != value:
        return float(np.nextafter(near, np.inf if Fraction(near) < value else -np.inf))
    return near


@pytest.mark.parametrize("name", NARROW)
def test_round_sticky_needs_only_a_float64_and_a_sign(name: str) -> None:
    dtype = DTYPES[name]

    @given(st.lists(st.tuples(around(dtype), st.booleans()), min_size=1, max_size=6))
    def check(values: list[tuple[Fraction, bool]]) -> None:
        exact = [value for value, _ in values]
        near = np.array([nearby_float(v, toward) for v, toward in values])
        rest = np.array(
            [
                float(np.sign(float(v - Fraction(n)) or (v > Fraction(n)) - (v < Fraction(n))))
                for v, n in zip(exact, near.tolist(), strict=True)
            ]
        )
        bits = round_sticky(near, rest, dtype)
        assert bits.dtype == dtype.bits
        assert [int(b) for b in bits] == [nearest(v, dtype) for v in exact]

    check()


@given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
def test_two_product_is_exact(a: float, b: float) -> None:
    if 0 < abs(a) < 1e-100 or 0 < abs(b) < 1e-100:
        return
    product, error = two_product(np.array([a]), np.array([b]))
    assert Fraction(float(product[0])) + Fraction(float(error[0])) == Fraction(a) * Fraction(b)


numbers = st.one_of(
    st.floats(-1e30, 1e30),
    st.sampled_from([1e8, -1e8, 1.0, -1.0, 2.0**-60, -(2.0**-60), 0.0, -0.0, 3e20, -3e20]),
)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_accumulated_sums_are_exact_or_say_that_they_are_not(
    terms: list[tuple[float, float]],
) -> None:
    total = Accumulator(2)
    sums = [Fraction(0), Fraction(0)]
    for pair in terms:
        total.add(np.array(pair))
        sums = [s + Fraction(x) for s, x in zip(sums, pair, strict=True)]
    leading, known = total.leading()
    for i, exact in enumerate(sums):
        if not total.lost[i]:
            assert sum(Fraction(float(level[i])) for level in total.levels) == exact
        if known[i]:
            assert abs(Fraction(float(leading[i])) - exact) * 100 <= abs(exact)
            assert (leading[i] > 0) == (exact > 0)
            assert (leading[i] < 0) == (exact < 0)


def test_sums_that_fit_three_numbers_are_not_lost() -> None:
    total = Accumulator(1)
    for term in [1e8, 1.0, -1e8, 2.0**-80, 1e8, -1.0, -1e8]:
        total.add(np.array([term]))
    leading, known = total.leading()
    assert known.all()
    assert leading[0] == 2.0**-80


@given(st.fractions())
def test_chunks_add_up(value: Fraction) -> None:
    common = common_denominator([value, Fraction(1, 12)])
    assert common % 2 == 1
    chunks = float_chunks(value * common)
    if chunks is not None:
        assert sum(map(Fraction, chunks)) == value * common


def test_values_that_float_sums_cannot_take_are_refused() -> None:
    assert float_chunks(Fraction(2) ** 400) is None
    assert float_chunks(Fraction(1, 2**400)) is None
    assert float_chunks(Fraction(2**300 + 1, 2**150)) is None
    assert float_chunks(Fraction(0)) == []
