"""Norms, angles and approximations agree with plain linear algebra on the dense changes."""

import math
from fractions import Fraction

import numpy as np
import pytest

from deltavc.delta import kinds
from deltavc.delta.compare import compare, norm
from deltavc.delta.encode import encode_tensor
from deltavc.delta.lossy import approximate
from deltavc.delta.sparse import sparse_change
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UsageError


def single(values):
    return Tensor.from_array(np.asarray(values, dtype=np.float32))


def lowrank(rng, rank=3, shape=(40, 30)):
    b = single(rng.standard_normal((shape[0], rank)))
    a = single(rng.standard_normal((rank, shape[1])))
    scale = Fraction(2, rank)
    dense = float(scale) * (b.to_float64() @ a.to_float64())
    return kinds.lowrank(b, a, scale, shape=shape), dense


def everything(rng):
    """One delta of each kind on one base, with its change as a dense matrix."""
    base = single(rng.standard_normal((40, 30)))
    start = base.to_float64()
    pairs = [lowrank(rng)]
    new = single(start + 0.01 * rng.standard_normal((40, 30)))
    pairs.append((encode_tensor(base, new).delta, new.to_float64() - start))
    few = start.astype(np.float32).copy()
    few[3, 5:9] += 1
    pairs.append((encode_tensor(base, single(few)).delta, few.astype(np.float64) - start))
    changes = single([0.5, -2.0])
    apart = np.zeros((40, 30))
    apart.flat[[7, 1000]] = [0.5, -2.0]
    pairs.append((sparse_change((40, 30), np.array([7, 1000]), changes), apart))
    pairs.append((kinds.replace(new), new.to_float64() - start))
    return base, pairs


def test_every_kind_is_measured():
    base, pairs = everything(np.random.default_rng(1))
    assert {delta.kind for delta, _ in pairs} == {"lowrank", "exact", "sparse", "replace"}
    for delta, dense in pairs:
        found = norm([(delta, Fraction(-1, 3))], base)
        assert found == pytest.approx(np.linalg.norm(dense) / 3, rel=1e-12)
    dense_delta = kinds.dense(base)
    assert norm([(dense_delta, Fraction(1))], None) == pytest.approx(
        np.linalg.norm(base.to_float64())
    )


@pytest.mark.parametrize("which", [(0, 1), (1, 2), (2, 0), (3, 4), (0, 0)])
def test_comparisons_agree_with_dense_arithmetic(which):
    base, pairs = everything(np.random.default_rng(2))
    (a, dense_a), (b, dense_b) = (pairs[index] for index in which)
    found = compare([(a, Fraction(1))], [(b, Fraction(2))], base)
    dense_b = 2 * dense_b
    assert found.norm_a == pytest.approx(np.linalg.norm(dense_a))
    assert found.norm_b == pytest.approx(np.linalg.norm(dense_b))
    assert found.norm_diff == pytest.approx(np.linalg.norm(dense_b - dense_a))
    cosine = np.vdot(dense_a, dense_b) / np.linalg.norm(dense_a) / np.linalg.norm(dense_b)
    assert found.cosine == pytest.approx(cosine, abs=1e-12)


def test_ranks_of_sums_of_adapters():
    rng = np.random.default_rng(3)
    (a, _), (b, _) = lowrank(rng, 3), lowrank(rng, 5)
    one = Fraction(1)
    found = compare([(a, one)], [(a, one), (b, one)], None)
    assert (found.rank_a, found.rank_b) == (3, 8)
    assert compare([(a, one)], [(a, one), (a, one)], None).rank_b == 3
    base, pairs = everything(rng)
    assert compare([(pairs[1][0], one)], [(a, one)], base).rank_a is None


def test_small_differences_of_adapters_keep_their_digits():
    rng = np.random.default_rng(4)
    a, dense = lowrank(rng)
    near = Fraction(10**12 + 1, 10**12)
    found = compare([(a, Fraction(1))], [(a, near)], None)
    assert found.norm_diff == pytest.approx(1e-12 * np.linalg.norm(dense), rel=1e-2)


def test_no_change_has_no_direction():
    a, dense = lowrank(np.random.default_rng(5))
    found = compare([], [(a, Fraction(1))], None)
    assert (found.norm_a, found.rank_a) == (0.0, 0)
    assert math.isnan(found.cosine)
    assert found.norm_diff == pytest.approx(np.linalg.norm(dense))
    assert norm([], None) == 0.0
    base, pairs = everything(np.random.default_rng(6))
    assert compare([], [(pairs[1][0], Fraction(1))], base).norm_a == 0.0
    assert compare([], [], None).norm_diff == 0.0


def test_what_has_no_difference_is_refused():
    base, pairs = everything(np.random.default_rng(7))
    other = kinds.replace(Tensor.from_array(np.arange(4)))
    for delta in (other, pairs[1][0]):
        with pytest.raises(ShapeMismatch):
            norm([(delta, Fraction(1))], None)
    with pytest.raises(ShapeMismatch):
        compare([(pairs[0][0], Fraction(1))], [(other, Fraction(1))], base)


def falling(rng, shape=(80, 60)):
    """A change with singular values 1, 1/2, 1/4, …."""
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], 30)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], 30)))
    return (left * 0.5 ** np.arange(30)) @ right.T


@pytest.mark.parametrize("rel_error", [0.5, 0.1, 0.01, 1e-3])
def test_the_smallest_rank_within_an_error(rel_error):
    rng = np.random.default_rng(8)
    base = single(rng.standard_normal((80, 60)))
    new = single(base.to_float64() + falling(rng))
    change = new.to_float64() - base.to_float64()
    delta, error = approximate(base, new, rel_error=rel_error)
    left, right = delta.matrices()
    measured = np.linalg.norm(change - left @ right) / np.linalg.norm(change)
    assert error == pytest.approx(measured, rel=1e-9)
    assert error <= rel_error
    values = np.linalg.svd(change, compute_uv=False)
    tails = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) / np.linalg.norm(values)
    smallest = int(np.argmax(tails <= rel_error))
    assert smallest <= delta.rank <= smallest + 1


def test_a_rank_is_kept_to():
    rng = np.random.default_rng(9)
    base = single(rng.standard_normal((80, 60)))
    new = single(base.to_float64() + falling(rng))
    delta, error = approximate(base, new, max_rank=4)
    assert delta.rank == 4
    values = 0.5 ** np.arange(30)
    assert error == pytest.approx(np.linalg.norm(values[4:]) / np.linalg.norm(values), rel=1e-3)
    both, _ = approximate(base, new, max_rank=2, rel_error=1e-6)
    assert both.rank == 2


def test_parameters_that_the_base_lacks_and_convolutions():
    rng = np.random.default_rng(10)
    new = single(falling(rng).reshape(80, 15, 2, 2))
    delta, error = approximate(None, new, rel_error=0.05)
    assert delta.shape == (80, 15, 2, 2)
    assert error <= 0.05
    zero, none = approximate(new, new, max_rank=3)
    assert (zero.rank, none) == (1, 0.0)


def test_bad_requests_for_approximations():
    base = single(np.zeros((4, 4)))
    nan = single(np.full((4, 4), np.nan))
    for wrong in ({}, {"max_rank": 0}, {"rel_error": 1.0}, {"rel_error": -0.1}):
        with pytest.raises(UsageError):
            approximate(base, base, **wrong)
    with pytest.raises(NonFiniteTensor):
        approximate(base, nan, max_rank=1)
    for new in (
        single(np.zeros(4)),
        single(np.zeros((4, 5))),
        Tensor.from_array(np.zeros((4, 4), dtype=np.int64)),
    ):
        with pytest.raises(ShapeMismatch):
            approximate(base, new, max_rank=1)
