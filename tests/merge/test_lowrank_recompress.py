"""Recompression against the dense singular value decomposition, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.delta import kinds, native
from deltavc.delta.kinds import Delta
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.delta.truncate import truncate
from deltavc.errors import (
    DeltavcError,
    MergeConflict,
    NonFiniteTensor,
    ShapeMismatch,
    UnsupportedFormat,
    UsageError,
)
from deltavc.merge.recompress import recompress
from deltavc.merge.strategy import Parameter

Matrix = NDArray[np.float64]


def parameter(shape: tuple[int, ...], dtype: str = "F32") -> Parameter:
    zeros = np.zeros(int(np.prod(shape)), DTYPES[dtype].bits)
    return Parameter("w", Tensor(DTYPES[dtype], shape, zeros), DTYPES[dtype], shape)


def factors(seed: int, product: tuple[int, int], rank: int, size: float = 1.0, **how: Any) -> Delta:
    draw = np.random.default_rng(seed)
    b = (draw.standard_normal((product[0], rank)) * size).astype("<f4")
    a = draw.standard_normal((rank, product[1])).astype("<f4")
    how = {"shape": product, **how}
    return kinds.lowrank(Tensor.from_array(b), Tensor.from_array(a), Fraction(1, 2), **how)


def dense(terms: Sequence[Term]) -> Matrix:
    """The sum as a matrix: float64 sums of the factors' products."""
    total: Any = 0.0
    for term in terms:
        left, right = term.delta.matrices()
        total = total + (left * float(term.coefficient * term.delta.scale)) @ right
    return np.asarray(total)


def off(delta: Delta, matrix: Matrix) -> float:
    missed = dense([Term(delta, Fraction(1))]) - matrix
    return float(np.linalg.norm(missed) / np.linalg.norm(matrix))


SUMS = st.tuples(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.lists(
        st.tuples(st.integers(1, 6), st.fractions(-3, 3, max_denominator=10**4)),
        min_size=1,
        max_size=3,
    ),
)


def terms_of(
    seed: int, shape: tuple[int, int], parts: Sequence[tuple[int, Fraction]]
) -> list[Term]:
    return [
        Term(factors(seed + i, shape, rank), coefficient)
        for i, (rank, coefficient) in enumerate(parts)
    ]


@given(SUMS, st.integers(1, 16))
def test_no_matrix_of_the_rank_is_nearer(
    made: tuple[int, tuple[int, int], list[tuple[int, Fraction]]], max_rank: int
) -> None:
    seed, shape, parts = made
    terms = terms_of(seed, shape, parts)
    matrix = dense(terms)
    if not matrix.any():
        assert recompress(parameter(shape), terms).rank == 0
        return
    values = np.linalg.svd(matrix, compute_uv=False)
    delta, error, rank = recompress(parameter(shape), terms, max_rank=max_rank)
    numerical = int(np.count_nonzero(values > 1e-12 * values[0]))
    assert rank == min(max_rank, numerical) == delta.rank
    best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    assert off(delta, matrix) <= best * (1 + 1e-6) + 1.3e-7  # two factors rounded to float32
    assert error == pytest.approx(off(delta, matrix), rel=1e-4, abs=1e-14)


@given(SUMS, st.sampled_from([0.0, 1e-6, 0.01, 0.3, 0.9]))
def test_the_smallest_rank_keeps_the_error(
    made: tuple[int, tuple[int, int], list[tuple[int, Fraction]]], wanted: float
) -> None:
    seed, shape, parts = made
    terms = terms_of(seed, shape, parts)
    matrix = dense(terms)
    if not matrix.any():
        return
    _, error, rank = recompress(parameter(shape), terms, rel_error=wanted)
    assert error <= max(wanted, 2e-7)
    if rank > 1:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert np.linalg.norm(values[rank - 1 :]) > wanted * np.linalg.norm(values) * (1 - 1e-6)


@pytest.mark.parametrize("power", [0, 90, -90, 600, -600])
def test_any_size_of_numbers(power: int) -> None:
    shape = (9, 12)
    terms = [
        Term(factors(1, shape, 2), Fraction(2) ** power),
        Term(factors(2, shape, 2, size=1e-30), Fraction(2) ** power),
    ]
    delta, error, rank = recompress(parameter(shape), terms, max_rank=2)
    assert rank == 2
    assert error < 1e-7
    matrix = dense([Term(terms[0].delta, Fraction(1))])
    moved = kinds.lowrank(
        delta.factor("b"), delta.factor("a"), delta.scale / Fraction(2) ** power, shape=shape
    )
    assert off(moved, matrix) < 1e-7
    assert delta.factor("b").is_finite()
    assert (delta.scale == 1) == (abs(power) < 100)


def test_what_training_added_to_an_adapter_survives_the_cancellation() -> None:
    shape = (60, 80)
    before = factors(1, shape, 6)
    draw = np.random.default_rng(2)
    later = [
        Tensor.from_array(
            (
                before.factor(n).to_float64() + 1e-4 * draw.standard_normal(before.factor(n).shape)
            ).astype("<f4")
        )
        for n in ("b", "a")
    ]
    after = kinds.lowrank(later[0], later[1], before.scale, shape=shape)
    terms = [Term(after, Fraction(1)), Term(before, Fraction(-1))]
    delta, error, rank = recompress(parameter(shape), terms)
    assert rank == 12
    assert error < 1e-7
    assert off(delta, dense(terms)) < 2e-7


def test_equal_factors_cancel_to_nothing() -> None:
    one = factors(5, (8, 9), 3)
    delta, error, rank = recompress(
        parameter((8, 9)), [Term(one, Fraction(1, 3)), Term(one, Fraction(-1, 3))]
    )
    assert (rank, error, delta.rank) == (0, 0.0, 1)
    assert not dense([Term(delta, Fraction(1))]).any()


def test_a_convolution_and_a_transposed_layer_stay_what_they_are() -> None:
    shape = (6, 4, 3, 3)
    draw = np.random.default_rng(0)
    b = Tensor.from_array(draw.standard_normal((6, 3, 1, 1)).astype("<f4"))
    a = Tensor.from_array(draw.standard_normal((3, 4, 3, 3)).astype("<f4"))
    conv = kinds.lowrank(b, a, Fraction(1), shape=shape, layer="conv")
    delta, error, _ = recompress(parameter(shape), [Term(conv, Fraction(1))], max_rank=2)
    assert (delta.header.layer, delta.header.b_shape, delta.header.a_shape) == (
        "conv",
        (6, 2, 1, 1),
        (2, 4, 3, 3),
    )
    assert off(delta, dense([Term(conv, Fraction(1))])) == pytest.approx(error, rel=1e-4)
    turned = factors(1, (10, 7), 4, shape=(7, 10), transposed=True, layer="embedding")
    delta, error, _ = recompress(parameter((7, 10)), [Term(turned, Fraction(1))], max_rank=3)
    assert (delta.header.layer, delta.header.transposed, delta.header.b_shape) == (
        "embedding",
        True,
        (10, 3),
    )
    assert off(delta, dense([Term(turned, Fraction(1))])) == pytest.approx(error, rel=1e-4)


def test_products_of_factors_are_recompressed_too() -> None:
    draw = np.random.default_rng(4)
    shapes = {"w1a": (12, 2), "w1b": (2, 9), "w2a": (12, 3), "w2b": (3, 9)}
    tensors = {
        n: Tensor.from_array(draw.standard_normal(s).astype("<f4")) for n, s in shapes.items()
    }
    loha = kinds.product("hadamard", tensors, Fraction(1, 4), shape=(12, 9))
    values = {n: t.to_float64() for n, t in tensors.items()}
    matrix = (values["w1a"] @ values["w1b"]) * (values["w2a"] @ values["w2b"]) / 4
    delta, error, rank = recompress(parameter((12, 9)), [Term(loha, Fraction(1))], max_rank=4)
    best = np.linalg.svd(matrix, compute_uv=False)
    assert rank == 4
    assert error == pytest.approx(np.linalg.norm(best[4:]) / np.linalg.norm(best), rel=1e-6)
    assert off(delta, matrix) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(("dtype", "least", "most"), [("BF16", 1e-4, 5e-3), ("F16", 1e-5, 6e-4)])
def test_factors_of_16_bits(dtype: str, least: float, most: float) -> None:
    terms = [Term(factors(3, (20, 30), 4, size=1e-3), Fraction(1))]
    delta, error, _ = recompress(parameter((20, 30)), terms, dtype=dtype)
    assert delta.factor("a").dtype.name == delta.factor("b").dtype.name == dtype
    assert least < error < most
    assert off(delta, dense(terms)) == pytest.approx(error, rel=1e-3)


def test_same_bytes_without_native_code_and_from_any_order_of_sides() -> None:
    terms = terms_of(7, (40, 300), [(5, Fraction(1)), (6, Fraction(-2, 3))])
    for limits in ({}, {"max_rank": 4}, {"rel_error": 0.2}):
        found = recompress(parameter((40, 300)), terms, **limits)
        with native.without():
            plain = recompress(parameter((40, 300)), terms, **limits)
        assert found.delta.id() == plain.delta.id()
        assert found.error == plain.error


def test_the_bytes_are_those_of_all_machines() -> None:
    # Made of integers, so that the inputs are the same wherever this runs.
    b = (np.arange(1, 61, dtype="<f4").reshape(20, 3) * 7919 % 101) - 50
    a = (np.arange(1, 91, dtype="<f4").reshape(3, 30) * 104729 % 89) - 44
    term = Term(
        kinds.lowrank(Tensor.from_array(b), Tensor.from_array(a), Fraction(1, 3), shape=(20, 30)),
        Fraction(1),
    )
    delta, error, _ = recompress(parameter((20, 30)), [term], max_rank=2)
    assert (delta.id(), error.hex()) == PINNED


PINNED = (
    "ed8ff9be8df697b85ab0da7edc1edf312ba1306ed105639d9ae8d442c8546473",
    "0x1.e3113b680f704p-2",
)


# without factors ---------------------------------------------------------------------------


def whole(matrix: NDArray[Any]) -> Term:
    return Term(kinds.dense(Tensor.from_array(matrix.astype("<f4"))), Fraction(1))


def test_values_of_low_rank_are_found_out() -> None:
    matrix = dense([Term(factors(1, (50, 70), 3), Fraction(1))])
    delta, error, rank = recompress(parameter((50, 70)), [whole(matrix)])
    assert rank == 3
    assert error < 1e-6
    assert off(delta, matrix) == pytest.approx(error, abs=1e-7)
    with native.without():
        assert recompress(parameter((50, 70)), [whole(matrix)]).delta.id() == delta.id()


def test_values_of_full_rank_are_cut_nearly_as_well_as_can_be() -> None:
    draw = np.random.default_rng(6)
    left, _ = np.linalg.qr(draw.standard_normal((60, 60)))
    right, _ = np.linalg.qr(draw.standard_normal((60, 60)))
    matrix = left * 0.8 ** np.arange(60) @ right
    values = np.linalg.svd(matrix.astype("f4").astype("f8"), compute_uv=False)
    for rank in (1, 5, 12):
        delta, error, found = recompress(parameter((60, 60)), [whole(matrix)], max_rank=rank)
        best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
        assert found == rank
        assert best <= error * (1 + 1e-6) <= best * 1.01
        assert off(delta, matrix) == pytest.approx(error, rel=1e-4)
    delta, error, rank = recompress(parameter((60, 60)), [whole(matrix)], rel_error=0.1)
    assert error <= 0.1
    assert np.linalg.norm(values[rank - 1 :]) > 0.099 * np.linalg.norm(values)


def test_a_sum_of_both_kinds_is_one_pair_of_factors() -> None:
    shape = (30, 40)
    low = Term(factors(1, shape, 2), Fraction(1, 2))
    terms = [low, whole(dense([Term(factors(2, shape, 2), Fraction(1))]))]
    delta, error, rank = recompress(parameter(shape), terms, rel_error=1e-5)
    assert rank == 4
    assert error < 1e-5
    rebuilt = Rebuild(parameter(shape).base, [Term(delta, Fraction(1))])
    exact = Rebuild(parameter(shape).base, terms)
    out = [np.empty(1200, np.uint32) for _ in range(2)]
    rebuilt.compute(0, 30, out[0])
    exact.compute(0, 30, out[1])
    one, other = (bits.view(np.float32).astype(np.float64) for bits in out)
    assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(other)


def test_values_that_need_a_high_rank_are_refused_without_one() -> None:
    noise = np.random.default_rng(0).standard_normal((64, 64))
    with pytest.raises(UsageError, match=r"'w' needs a rank above 32 .* no smaller") as caught:
        recompress(parameter((64, 64)), [whole(noise)], rel_error=0.1)
    assert "--max-rank" in caught.value.hint
    _, error, rank = recompress(parameter((64, 64)), [whole(noise)], rel_error=0.1, max_rank=40)
    assert rank == 40
    assert error > 0.1


def test_values_of_any_size() -> None:
    matrix = dense([Term(factors(1, (20, 30), 2), Fraction(1))])
    for size in (1e30, 1e-36):
        _, error, rank = recompress(parameter((20, 30)), [whole(matrix * size)], max_rank=2)
        assert rank == 2
        assert error < 1e-5
    zero = recompress(parameter((20, 30)), [whole(matrix * 0)], max_rank=2)
    assert (zero.rank, zero.error) == (0, 0.0)


# refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_rank": 0}, "a rank of 0 holds nothing"),
        ({"rel_error": 1.0}, "a relative error of 1 is out of range"),
        ({"rel_error": -0.1}, "a relative error of -0.1 is out of range"),
        ({"rel_error": float("nan")}, "a relative error of nan is out of range"),
        ({"dtype": "F8_E4M3"}, "low-rank factors are not stored as 'F8_E4M3'"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any], message: str) -> None:
    term = Term(factors(1, (4, 5), 2), Fraction(1))
    with pytest.raises(UsageError, match=message):
        recompress(parameter((4, 5)), [term], **limits)


def test_what_has_no_factors_is_refused_by_name() -> None:
    vector = Term(kinds.dense(Tensor.from_array(np.ones(3, "<f4"))), Fraction(1))
    replaced = Term(kinds.replace(Tensor.from_array(np.ones((4, 5), "<f4"))), Fraction(1))
    other = Term(factors(1, (5, 4), 2), Fraction(1))
    nan = factors(1, (4, 5), 2)
    spoilt = Tensor.from_array(np.full((4, 2), np.nan, "<f4"))
    spoilt_term = Term(
        kinds.lowrank(spoilt, nan.factor("a"), Fraction(1), shape=(4, 5)), Fraction(1)
    )
    cases: list[tuple[tuple[int, ...], list[Term], type[DeltavcError]]] = [
        ((3,), [vector], UnsupportedFormat),
        ((4, 5), [replaced], MergeConflict),
        ((4, 5), [other], ShapeMismatch),
        ((4, 5), [spoilt_term], NonFiniteTensor),
        ((4, 5), [whole(np.full((4, 5), np.inf))], NonFiniteTensor),
        ((4, 5), [], UsageError),
    ]
    for shape, terms, error in cases:
        with pytest.raises(error, match="'w'"):
            recompress(parameter(shape), terms, max_rank=1)


def test_a_commit_with_max_rank_has_the_same_bytes_without_native_code() -> None:
    one = factors(1, (30, 50), 6)
    found = truncate(one, max_rank=3)
    with native.without():
        plain = truncate(one, max_rank=3)
    assert found[0].id() == plain[0].id()
    assert found[1] == plain[1]
