"""What strategies are made of, each against an independent oracle: sorts, integers, mpmath."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.increment import Increment
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import Tensor
from deltavc.merge.blocks import Blocks
from deltavc.merge.draws import key_for, threshold, words
from deltavc.merge.keep import DrawnByRank
from deltavc.merge.numbers import arccos, nearest, precise, sine_cosine
from deltavc.merge.reduce import gram, sum_of_magnitudes, sum_of_squares
from deltavc.merge.selection import Band, boundaries, magnitudes

Values = NDArray[np.float32]
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 2.0**-140, -3.0, 3.0])


def source_of(values: Values) -> Callable[[int, int], Values]:
    return lambda start, stop: values[start:stop]


# selection --------------------------------------------------------------------


@given(
    st.lists(st.one_of(few, floats), min_size=1, max_size=60),
    st.data(),
    st.integers(1, 9),
    st.integers(1, 2),
)
def test_boundaries_are_those_of_a_stable_sort(
    numbers: list[float], data: st.DataObject, block: int, threads: int
) -> None:
    values = np.array(numbers, dtype=np.float32)
    ranks = data.draw(st.lists(st.integers(0, values.size), min_size=1, max_size=3))
    found = boundaries(source_of(values), Blocks(values.size, 1, block), ranks, threads)
    order = np.argsort(-np.abs(values.astype(np.float64)), kind="stable")
    for rank, boundary in zip(ranks, found, strict=True):
        wanted = np.zeros(values.size, dtype=bool)
        wanted[order[:rank]] = True
        cut = data.draw(st.integers(0, values.size))
        parts = [(0, values[:cut]), (cut, values[cut:])]
        inside = [boundary.within(magnitudes(part), start) for start, part in parts]
        assert np.concatenate(inside).tolist() == wanted.tolist()


def test_a_band_leaves_out_both_ends() -> None:
    values = np.arange(10, dtype=np.float32)
    skip, end = boundaries(source_of(values), Blocks(10), (2, 5), 1)
    assert np.flatnonzero(Band(end, skip).within(magnitudes(values), 0)).tolist() == [5, 6, 7]


def test_equal_elements_are_taken_by_position_over_many_pieces() -> None:
    values = np.full(100_000, -0.25, dtype=np.float32)
    values[77] = 1
    (end,) = boundaries(source_of(values), Blocks(values.size, 1, 100), (40_001,), 2)
    inside = end.within(magnitudes(values), 0)
    assert np.flatnonzero(inside).tolist() == list(range(40_001))


# draws ------------------------------------------------------------------------

MASK = (1 << 64) - 1


def philox(counter: int, key: int) -> list[int]:
    """Philox 4x64-10 as its authors write it."""
    x = [(counter >> (64 * i)) & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(second >> 64) ^ x[1] ^ k[0], second & MASK, (first >> 64) ^ x[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


@given(st.integers(0, 2**63 - 1), st.text(max_size=9), st.integers(0, 2**45), st.integers(0, 40))
def test_an_elements_word_is_what_the_reference_page_says(
    seed: int, name: str, start: int, count: int
) -> None:
    text = f"deltavc merge 1\0{seed}\0{name}\0side".encode("utf-8", "surrogatepass")
    key = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    assert key_for(seed, name, "side") == key
    wanted = []
    for element in range(start, start + count):
        number = philox(element // 8, key)[element % 8 // 2]
        wanted.append(number >> 32 if element % 2 else number & 0xFFFFFFFF)
    assert words(key, start, start + count).tolist() == wanted


@given(st.fractions(0, 1))
def test_a_threshold_is_the_number_of_words_below_the_probability(p: Fraction) -> None:
    limit = threshold(p)
    assert Fraction(limit - 1, 2**32) < p or limit == 0
    assert Fraction(limit, 2**32) >= p


def test_draws_by_rank_keep_large_ones_more_often() -> None:
    rows, row = 2000, 40
    values = np.tile(np.linspace(1, 2, row, dtype=np.float32), rows)
    rule = DrawnByRank(5, row, Fraction(1, 10), Fraction(9, 10), inverse=True)
    share = rule.mask(values, 0).reshape(rows, row).mean(axis=0)
    chances = np.linspace(0.1, 0.9, row)
    # five standard deviations of a share of 2000 draws
    assert (np.abs(share - chances) < 5 * np.sqrt(chances * (1 - chances) / rows)).all()
    gains = rule.gains(values, 0)
    assert gains is not None
    assert np.allclose(gains.reshape(rows, row)[7], 1 / chances, rtol=1e-15)


# sums -------------------------------------------------------------------------


@given(st.lists(floats, max_size=30))
def test_sums_are_exact(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32)
    exact = [Fraction(float(v)) for v in values]
    assert sum_of_magnitudes(values) == sum((abs(v) for v in exact), Fraction(0))
    assert sum_of_squares(values) == sum((v * v for v in exact), Fraction(0))


small = st.floats(-8, 8, width=16)


@given(st.data(), st.integers(1, 3))
@settings(max_examples=40)
def test_inner_products_of_numbers_of_few_digits_are_exact(data: st.DataObject, sides: int) -> None:
    shape = (3, 5)
    rows = [data.draw(st.lists(small, min_size=15, max_size=15)) for _ in range(sides)]
    dense = [
        Increment(None, [Term(kinds.dense(made), Fraction(1))], shape)
        for made in (Tensor.from_array(np.array(r, "<f4").reshape(shape)) for r in rows)
    ]
    exact = [
        [sum(Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)) for y in rows]
        for x in rows
    ]
    # float16 numbers below 8 are multiples of 2**-24: all within 40 bits of the largest, or lost
    tops = [max(map(abs, r)) for r in rows]
    for i, line in enumerate(gram(dense, 1)):
        for j, found in enumerate(line):
            assert abs(found - exact[i][j]) <= 15 * Fraction(tops[i]) * Fraction(
                tops[j]
            ) * Fraction(1, 2**37)


def factors(seed: int, rank: int) -> tuple[Increment, NDArray[np.float64]]:
    draw = np.random.default_rng(seed)
    b, a = (
        draw.standard_normal((50, rank)).astype("<f4"),
        draw.standard_normal((rank, 70)).astype("<f4"),
    )
    delta = kinds.lowrank(
        Tensor.from_array(b), Tensor.from_array(a), Fraction(1, 3), shape=(50, 70)
    )
    twice = [
        Term(delta, Fraction(1, 2)),
        Term(
            kinds.lowrank(
                Tensor.from_array(b), Tensor.from_array(2 * a), Fraction(1), shape=(50, 70)
            ),
            Fraction(-1),
        ),
    ]
    whole = b.astype(np.float64) @ a.astype(np.float64)
    return Increment(None, twice, (50, 70)), (1 / 6 - 2) * whole


def test_inner_products_of_factors_need_no_dense_matrix() -> None:
    made = [factors(1, 3), factors(2, 5)]
    found = gram([increment for increment, _ in made], 1)
    for i, (_, x) in enumerate(made):
        for j, (_, y) in enumerate(made):
            size = float(np.linalg.norm(x) * np.linalg.norm(y))
            assert abs(float(found[i][j]) - float((x * y).sum())) < 1e-11 * size
    assert found[0][1] == found[1][0]


def test_inner_products_do_not_depend_on_threads() -> None:
    draw = np.random.default_rng(4)
    shape = (700, 300)
    dense = [
        Increment(None, [Term(kinds.dense(Tensor.from_array(v)), Fraction(1))], shape)
        for v in (draw.standard_normal(shape).astype("<f4") for _ in range(2))
    ]
    assert gram(dense, 1) == gram(dense, 2)


# angles -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "1", "-1", "0.5", "-0.999999999999", "0.9995", "1e-30"])
def test_angles_have_fifty_digits(text: str) -> None:
    mpmath.mp.dps = 70
    with precise():
        angle = arccos(Decimal(text))
        sine, cosine = sine_cosine(angle)
        assert abs(mpmath.mpf(str(angle)) - mpmath.acos(mpmath.mpf(text))) < mpmath.mpf("1e-50")
        assert abs(mpmath.mpf(str(sine)) - mpmath.sin(mpmath.acos(mpmath.mpf(text)))) < 1e-50
        assert abs(cosine - Decimal(text)) < Decimal("1e-50")
        assert nearest(Decimal("0.1")) == Fraction(0.1)
