"""Truncation of low-rank factors against the SVD of the full matrix."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor
from deltavc.delta.truncate import truncate


def factors(rank: int, *, transposed: bool = False) -> Delta:
    rng = np.random.default_rng(rank)
    b = (rng.normal(size=(20, rank)) * 4.0 ** -np.arange(rank)).astype("f4")
    a = rng.normal(size=(rank, 30)).astype("f4")
    shape = (30, 20) if transposed else (20, 30)
    return lowrank(
        Tensor.from_array(b),
        Tensor.from_array(a),
        Fraction(3, 2),
        shape=shape,
        transposed=transposed,
    )


def dense(delta: Delta) -> NDArray[np.float64]:
    left, right = delta.matrices()
    return float(delta.scale) * left @ right


@pytest.mark.parametrize("transposed", [False, True])
def test_rank_bound_is_the_best_approximation(transposed: bool) -> None:
    delta = factors(6, transposed=transposed)
    new, error = truncate(delta, max_rank=3)
    full = dense(delta)
    best = np.linalg.norm(np.linalg.svd(full, compute_uv=False)[3:]) / np.linalg.norm(full)
    assert new.rank == 3
    assert new.shape == delta.shape
    assert error == pytest.approx(
        np.linalg.norm(dense(new) - full) / np.linalg.norm(full), rel=1e-6
    )
    assert error == pytest.approx(best, rel=1e-3)


def test_error_bound_takes_the_smallest_rank() -> None:
    delta = factors(6)
    new, error = truncate(delta, rel_error=0.05)
    assert error <= 0.05
    assert truncate(delta, max_rank=new.rank - 1)[1] > 0.05


def test_within_bounds_is_left_alone() -> None:
    delta = factors(4)
    assert truncate(delta, max_rank=4) == (delta, 0.0)
    assert truncate(delta, rel_error=0.0) == (delta, 0.0)
