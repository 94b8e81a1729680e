"""Sums in a written order: the same bits in C, in NumPy and from many threads; they are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.delta import native, ordered
from deltavc.delta.orthonormal import Rows, basis
from deltavc.delta.spectrum import triplets

Matrix = NDArray[np.float64]


def rows(seed: int, count: int, width: int, *, wild: bool = False) -> Matrix:
    """Random rows; wild ones with zeros of both signs, subnormal and huge numbers."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((count, width))
    if wild:
        values *= 2.0 ** draw.integers(-500, 400, size=values.shape)
        values[draw.random(values.shape) < 0.2] = 5e-324
        values[draw.random(values.shape) < 0.2] = -0.0
    return ordered.padded(values)


def both(compute: Callable[[], Any]) -> list[Any]:
    """What a computation gives with native code and without."""
    with native.without():
        plain = compute()
    return [compute(), plain]


def same(one: Matrix, other: Matrix) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def test_native_code_is_there() -> None:
    assert native.library("small_svd") is not None  # else the comparisons below would say nothing


SHAPES = st.tuples(
    st.integers(0, 2**32),
    st.integers(1, 11),
    st.integers(1, 7),
    st.sampled_from([1, 3, 4, 5, 8, 64, 255, 256, 257, 300, 1030]),
    st.booleans(),
)


@given(SHAPES)
def test_products_have_the_same_bits_in_both_ways(shape: tuple[int, int, int, int, bool]) -> None:
    seed, k, m, n, wild = shape
    x, y = rows(seed, k, n, wild=wild), rows(seed + 1, m, n, wild=wild)
    weights = np.random.default_rng(seed).standard_normal((m, k))
    with np.errstate(all="ignore"):
        for compute in (
            lambda: ordered.cross(x),
            lambda: ordered.cross(x, y),
            lambda: ordered.combine(weights, x),
            lambda: ordered.combine(weights, x, y.copy()),
        ):
            one, other = both(compute)
            assert same(one, other)
        one, other = both(lambda: ordered.round_rows(weights, x, n, 3))
    assert one.values.tobytes() == other.values.tobytes()
    for part in ("peaks", "squares", "mixed"):
        assert same(getattr(one, part), getattr(other, part)), part


@given(SHAPES)
def test_products_are_right(shape: tuple[int, int, int, int, bool]) -> None:
    seed, k, m, n, _ = shape
    x, y = rows(seed, k, n), rows(seed + 1, m, n)
    for product, right in (
        (ordered.cross(x, y), [[math.fsum(a * b) for b in y] for a in x]),
        (ordered.combine(x[:, :k], x[:k].copy()), x[:, :k] @ x[:k]) if n >= k else (x, x),
    ):
        assert np.abs(product - right).max() <= 1e-13 * (n + k)
    assert np.array_equal(ordered.cross(x), ordered.cross(x, x))
    assert np.array_equal(ordered.cross(x, y), ordered.cross(y, x).T)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 14), st.integers(0, 12))
def test_rotations_have_the_same_bits_and_diagonalise(
    seed: int, count: int, width: int, deficient: int
) -> None:
    given_rows = rows(seed, count, width)
    for row in range(min(deficient, count - 1)):  # combinations of others, zeros
        given_rows[row] = (row % 3) * given_rows[-1] - (row % 2) * given_rows[count // 2]

    def compute() -> tuple[Matrix, Matrix]:
        turned = given_rows.copy()
        return turned, ordered.rotate(turned)

    (turned, turn), plain = both(compute)
    assert same(turned, plain[0])
    assert same(turn, plain[1])
    assert np.abs(turn @ turn.T - np.eye(count)).max() < 1e-13
    assert np.abs(turn @ given_rows - turned).max() < 1e-13 * (1 + np.abs(given_rows).max())
    mine = np.sort(np.linalg.norm(turned, axis=1))[::-1]
    theirs = np.zeros(count)
    theirs[: min(given_rows.shape)] = np.linalg.svd(given_rows, compute_uv=False)
    assert np.abs(mine - theirs).max() < 1e-13 * (1 + theirs[0])


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
def test_a_cholesky_factor_has_the_same_bits_and_fits(seed: int, count: int, width: int) -> None:
    gram = ordered.cross(rows(seed, count, width))
    one, other = both(lambda: ordered.cholesky(gram, 1e-9))
    for part, plain in zip(one, other, strict=True):
        assert part.tobytes() == plain.tobytes()
    order, upper, inverse = one
    assert order.size == min(count, width)
    assert np.abs(upper.T @ upper - gram).max() < 1e-8 * np.abs(gram).max()
    triangle = upper[:, order]
    assert not np.tril(triangle, -1).any()
    assert np.abs(inverse @ triangle.T - np.eye(order.size)).max() < 1e-6


def test_many_threads_give_the_same_bits() -> None:
    given_rows = rows(1, 24, 3000)

    def compute(_: int) -> bytes:
        turned = ordered.padded(ordered.cross(given_rows))
        turned = np.ascontiguousarray(turned)
        ordered.rotate(turned)
        return turned.tobytes() + ordered.combine(turned[:, :24], given_rows).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(compute, range(8)))) == 1


@given(
    st.integers(0, 2**32),
    st.integers(1, 9),
    st.integers(1, 12),
    st.sampled_from([0.0, 1e-3, 1e-7, 1e-11]),
    st.sampled_from([0, 300, -300, 1000, -1000]),
)
def test_a_basis_is_orthonormal_and_holds_its_rows(
    seed: int, count: int, width: int, apart: float, power: int
) -> None:
    draw = np.random.default_rng(seed)
    close = draw.standard_normal((count, width))
    close[: count // 2] = close[-1] + apart * close[: count // 2]  # nearly one direction
    scaled = np.ldexp(close, power)
    made = Rows.of(ordered.padded(scaled), width)
    assert made is not None
    found = basis(made)
    assert found.size <= min(count, width)
    orthonormal = (found.turn @ found.source)[:, :width]
    assert np.abs(orthonormal @ orthonormal.T - np.eye(found.size)).max() < 1e-8
    held = np.ldexp(found.coordinates @ orthonormal, (made.exponents - power)[:, None].astype(int))
    assert np.abs(held - np.ldexp(scaled, -power)).max() < 1e-12 * np.abs(close).max()


def test_rows_that_are_not_finite_have_no_basis() -> None:
    values = rows(0, 3, 8)
    for wrong in (np.nan, np.inf, -np.inf):
        values[1, 2] = wrong
        assert Rows.of(values, 8) is None


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 6), (6, 1), (0, 3), (3, 0)])
def test_triplets_give_the_matrix_back(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(3).standard_normal(shape)
    parts = triplets(matrix)
    assert np.allclose(parts.left.T * parts.values @ parts.right, matrix, rtol=0, atol=1e-13)
    assert np.all(np.diff(parts.values) <= 0)
    assert np.allclose(parts.tails()[0], np.linalg.norm(matrix))
    assert parts.tails()[-1] == 0.0
