"""Increments: the float32 nearest to the exact sum of deltas, against Fraction arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.codec.digest import sha256_hex
from deltavc.delta import kinds
from deltavc.delta.exact import code, finish, residual
from deltavc.delta.increment import Increment
from deltavc.delta.kinds import Delta
from deltavc.delta.predict import Same
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.sparse import sparse_change
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import NonFiniteTensor

ROWS, COLUMNS = 5, 4
SHAPE = (ROWS, COLUMNS)
COEFFICIENTS = [Fraction(1), Fraction(-1), Fraction(2, 3), Fraction(-1, 10), Fraction(3)]


def nearest(value: Fraction) -> float:
    """The float32 nearest to an exact value: the nearer of two neighbours, even in a tie."""
    guess = np.float32(float(value))
    around = [
        np.nextafter(guess, np.float32(-np.inf)),
        guess,
        np.nextafter(guess, np.float32(np.inf)),
    ]
    found = min(around, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.uint32)) & 1))
    return float(found) + 0.0


def tensor(values: NDArray[Any], dtype: str) -> Tensor:
    if dtype == "BF16":
        return Tensor.from_array((values.astype("<f4").view("<u4") >> 16).astype("<u2"), "BF16")
    return Tensor.from_array(values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]))


def exact_delta(base: Tensor, new: Tensor) -> Delta:
    same = Same(base.dtype)
    return finish(code(base, same, residual(base, new, same)), new, sha256_hex(base.raw()))


def exact_values(found: Tensor) -> list[Fraction]:
    return [Fraction(x) for x in found.to_float64().reshape(-1).tolist()]


def numbers(draw: st.DrawFn, size: int) -> NDArray[np.float64]:
    """Numbers with equal ones, zeros of both signs, subnormals and cancellations among them."""
    pool = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 2.0**-24, -(2.0**-20), 3e-5, 0.1, 257.0])
    return np.array(draw(st.lists(pool, min_size=size, max_size=size)))


@st.composite
def sums(draw: st.DrawFn) -> tuple[Tensor, list[Term], list[Fraction]]:
    """A base, a formal sum over it, and the exact values of that sum."""
    dtype = draw(st.sampled_from(["BF16", "F16", "F32", "F64"]))
    base = tensor(numbers(draw, ROWS * COLUMNS).reshape(SHAPE), dtype)
    terms, total = [], [Fraction(0)] * base.count
    for kind in draw(
        st.lists(st.sampled_from(["lowrank", "exact", "dense", "sparse"]), max_size=3)
    ):
        coefficient = draw(st.sampled_from(COEFFICIENTS))
        delta, change = made(draw, kind, base)
        terms.append(Term(delta, coefficient))
        total = [t + coefficient * c for t, c in zip(total, change, strict=True)]
    return base, terms, total


def made(draw: st.DrawFn, kind: str, base: Tensor) -> tuple[Delta, list[Fraction]]:
    if kind == "lowrank":
        b = Tensor.from_array(numbers(draw, 2 * ROWS).astype("<f4").reshape(ROWS, 2))
        a = Tensor.from_array(numbers(draw, 2 * COLUMNS).astype("<f4").reshape(2, COLUMNS))
        left, right = exact_values(b), exact_values(a)
        change = [
            Fraction(1, 3) * sum(left[2 * i + k] * right[COLUMNS * k + j] for k in range(2))
            for i in range(ROWS)
            for j in range(COLUMNS)
        ]
        return kinds.lowrank(b, a, Fraction(1, 3), shape=SHAPE), change
    if kind == "sparse":
        values = Tensor.from_array(numbers(draw, 3).astype("<f4"))
        change = [Fraction(0)] * base.count
        for place, value in zip((1, 7, 19), exact_values(values), strict=True):
            change[place] = value
        return sparse_change(SHAPE, np.array([1, 7, 19]), values), change
    new = tensor(numbers(draw, base.count).reshape(SHAPE), base.dtype.name)
    if kind == "dense":
        return kinds.dense(new), exact_values(new)
    pairs = zip(exact_values(new), exact_values(base), strict=True)
    return exact_delta(base, new), [after - before for after, before in pairs]


@given(sums())
@settings(max_examples=150)
def test_each_element_is_the_float32_nearest_to_the_exact_sum(
    case: tuple[Tensor, list[Term], list[Fraction]],
) -> None:
    base, terms, total = case
    increment = Increment(base, terms, SHAPE, name="w")
    found = increment.values(0, increment.count)
    assert found.dtype == np.float32
    assert found.tolist() == [nearest(value) for value in total]
    assert not np.signbit(found[found == 0]).any()


@given(sums(), st.integers(0, ROWS))
@settings(max_examples=40)
def test_parts_are_parts_of_the_whole(
    case: tuple[Tensor, list[Term], list[Fraction]], row: int
) -> None:
    base, terms, _ = case
    increment = Increment(base, terms, SHAPE, name="w")
    cut = row * COLUMNS
    parts = [increment.values(0, cut), increment.values(cut, increment.count)]
    assert np.concatenate(parts).tobytes() == increment.values(0, increment.count).tobytes()


def test_equal_deltas_cancel_before_anything_is_computed() -> None:
    base = tensor(np.ones(SHAPE), "F32")
    delta = kinds.dense(tensor(np.full(SHAPE, 0.1), "F32"))
    terms = [Term(delta, Fraction(1, 3)), Term(delta, Fraction(-1, 3))]
    assert not Increment(base, terms, SHAPE).values(0, 20).any()


def test_a_parameter_that_the_base_lacks_has_increments_too() -> None:
    values = tensor(np.arange(20.0).reshape(SHAPE), "BF16")
    increment = Increment(None, [Term(kinds.dense(values), Fraction(1, 2))], SHAPE)
    assert increment.values(0, 20).tolist() == [x / 2 for x in range(20)]


def test_rows_without_a_factor_are_zero() -> None:
    b = np.zeros((ROWS, 2), dtype="<f4")
    b[3] = 1.0
    a = Tensor.from_array(np.ones((2, COLUMNS), dtype="<f4"))
    delta = kinds.lowrank(Tensor.from_array(b), a, Fraction(1), shape=SHAPE)
    found = Increment(None, [Term(delta, Fraction(1))], SHAPE).values(0, 20).reshape(SHAPE)
    assert found.tolist() == [[2.0 if i == 3 else 0.0] * COLUMNS for i in range(ROWS)]


def test_what_is_not_finite_in_the_base_has_no_increment() -> None:
    held, new = np.ones(SHAPE), np.full(SHAPE, 2.0)
    held[0, 0] = new[0, 0] = np.inf
    base = tensor(held, "F32")
    delta = exact_delta(base, tensor(new, "F32"))
    with pytest.raises(NonFiniteTensor, match="'w' holds NaN or infinity"):
        Increment(base, [Term(delta, Fraction(1))], SHAPE, name="w")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_dense_delta_adds_to_a_parameter_of_the_base(dtype: str) -> None:
    base = tensor(np.full(SHAPE, 1.0), dtype)
    delta = kinds.dense(tensor(np.full(SHAPE, 0.25), dtype))
    found = Rebuild(base, [Term(delta, Fraction(1))]).tensor()
    assert found.dtype is DTYPES[dtype]
    assert found.to_float64().tolist() == np.full(SHAPE, 1.25).tolist()


def test_deltas_that_scale_the_base_have_increments() -> None:
    held = np.arange(1, 21).reshape(SHAPE) / 8
    base, by = tensor(held, "BF16"), np.array([1.5, 0.1, 1.0, -2.0, 3.0], dtype="<f4")
    delta = kinds.rowscale(Tensor.from_array(by), Fraction(-1), shape=SHAPE)
    factor = Fraction(2, 7)
    found = Increment(base, [Term(delta, factor)], SHAPE, name="w").values(0, 20)
    weights = exact_values(base)
    wanted = [factor * (Fraction(float(by[i // COLUMNS])) - 1) * w for i, w in enumerate(weights)]
    assert found.tolist() == [nearest(value) for value in wanted]
