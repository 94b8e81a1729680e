"""Rotations, gains and fixed-point products, against their formulas."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.dora import gains, weigh
from deltavc.delta.fixedpoint import fixed_product
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.rotations import matrix, reflections
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsupportedFormat

from .scaled_definition import Sampler, fractions  # type: ignore[import-not-found]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def f32(values: object) -> Tensor:
    return Tensor.from_array(np.asarray(values, dtype=np.float32))


def skew(upper: Array, size: int) -> Array:
    found = np.zeros((size, size))
    found[np.triu_indices(size, 1)] = upper
    return found - found.T


def series(q: Array, terms: int) -> Array:
    """The truncated series as adapters define it: 2 Q**k, the last power once."""
    found = np.eye(len(q))
    if terms < 3:
        return found + (2 * q if terms == 2 else 0)
    last = max(terms - 1, 3)
    for k in range(1, last):
        found = found + 2 * np.linalg.matrix_power(q, k)
    return found + np.linalg.matrix_power(q, last)


@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("terms", [0, 1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_oft(size: int, terms: int, direct: int) -> None:
    r = Sampler(size).gaussian((3, size * (size - 1) // 2), 0.2)
    params = {"terms": terms, "direct": direct}
    blocks = matrix(kinds.rightmul("oft", {"r": r}, params, shape=(4, 3 * size)))
    for upper, block in zip(r.to_float64(), blocks, strict=True):
        q, one = skew(upper, size), np.eye(size)
        rotation = series(q, terms) if terms else (one - q) @ np.linalg.inv(one + q)
        wanted = rotation if direct else rotation.T
        assert np.abs(one + block - wanted).max() < 1e-13
        if not terms:
            assert np.abs((one + block) @ (one + block).T - one).max() < 1e-13


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_boft_is_a_product_of_permuted_rotations(factors: int) -> None:
    size, count = 4, 8
    r = Sampler(factors).gaussian((factors, count, size, size))
    blocks = matrix(kinds.rightmul("boft", {"r": r, "s": f32(np.ones(2))}, shape=(2, 32)))
    rotation = np.eye(32)
    for level, raw in enumerate(r.to_float64()):
        q = (raw - raw.transpose(0, 2, 1)) / 2
        whole = torch.block_diag(
            *[torch.from_numpy((np.eye(4) - x) @ np.linalg.inv(np.eye(4) + x)) for x in q]
        ).numpy()
        span, half = size << level, size // 2
        order = np.arange(32)
        if factors > 1:
            runs = np.arange(32).reshape(-1, span // half, half)
            order = np.concatenate([runs[:, 0::2], runs[:, 1::2]], axis=1).reshape(-1)
        swap = np.eye(32)[order]
        rotation = swap @ whole @ swap.T @ rotation
    wide = blocks.shape[1]
    assert wide == size << (factors - 1)
    found = np.eye(32) + torch.block_diag(*torch.from_numpy(blocks)).numpy()
    assert np.abs(found - rotation.T).max() < 1e-13


def test_reflections() -> None:
    u = Sampler(4).gaussian((24, 6), 3.0)
    vectors, right = reflections(kinds.rightmul("hra", {"u": u}, shape=(5, 24)))
    wanted = np.eye(24)
    for vector in u.to_float64().T:
        unit = vector / np.linalg.norm(vector)
        wanted = wanted - 2 * wanted @ np.outer(unit, unit)
    assert np.abs(np.eye(24) + vectors @ right - wanted).max() < 1e-13


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_a_fixed_point_product_is_its_integers(seed: int) -> None:
    sampler = Sampler(seed)
    left = sampler.base()
    right = sampler.gaussian((left.matrix_shape[1], 2)).to_float64()
    found = fixed_product(left, right)
    rows = fractions(left).reshape(left.matrix_shape)
    for i, row in enumerate(rows):
        for k in range(2):
            line = [Fraction(x) for x in right[:, k].tolist()]
            e, f = unit(row.tolist()), unit(line)
            total = sum(
                round(x * Fraction(2) ** (40 - e)) * round(y * Fraction(2) ** (40 - f))
                for x, y in zip(row, line, strict=True)
            )
            if math.isfinite(found[i, k]) and abs(e) < 900:
                assert Fraction(found[i, k]) == Fraction(float(total)) * Fraction(2) ** (e + f - 80)


def unit(values: list[Fraction]) -> int:
    top = max(abs(value) for value in values)
    return next(e for e in range(-1100, 1100) if top < Fraction(2) ** e) if top else 0


def test_long_rows_of_a_fixed_point_product_are_summed_without_loss() -> None:
    columns = 40_000
    left = f32(np.full((1, columns), 1.5 - 2.0**-23))
    found = fixed_product(left, np.full((columns, 1), 1.25))
    assert found[0, 0] == columns * 1.25 * (1.5 - 2.0**-23)


# gains -----------------------------------------------------------------------------


def defined(
    base: Tensor, b: Tensor, a: Tensor, m: Tensor, scale: Fraction, turned: bool
) -> list[float]:
    product = fractions(b).dot(fractions(a).reshape(a.shape[0], -1)) * scale
    whole = fractions(base).reshape(base.matrix_shape) + (product.T if turned else product)
    found = []
    for line, size in zip(whole.T if turned else whole, fractions(m).reshape(-1), strict=True):
        ratio = size * size / sum(x * x for x in line)
        with localcontext() as context:
            context.prec = 80
            root = (Decimal(ratio.numerator) / Decimal(ratio.denominator)).sqrt()
            unit_ = Decimal(2) ** (36 - math.frexp(float(root))[1])
            rounded = (root * unit_).to_integral_value(ROUND_HALF_EVEN) / unit_
        found.append(math.copysign(float(rounded), size))
    return found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(7, 9), (5, 34), (40, 3), (4, 3, 2)])
def test_gains_are_magnitude_over_norm_in_36_bits(shape: tuple[int, ...], turned: bool) -> None:
    if turned and len(shape) > 2:
        shape = (6, 4)
    sampler = Sampler(sum(shape) + turned)
    rows, columns = shape[0], math.prod(shape[1:])
    out, into = (columns, rows) if turned else (rows, columns)
    base, b, a = sampler.gaussian(shape), sampler.gaussian((out, 2)), sampler.gaussian((2, into))
    m, scale = sampler.gaussian((1, out), 2.0), Fraction(2, 3)
    assert gains(base, b, a, m, scale, transposed=turned).tolist() == defined(
        base, b, a, m, scale, turned
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("coefficient", [Fraction(1), Fraction(-2, 3)])
def test_gains_that_are_left_out_change_no_bit(turned: bool, coefficient: Fraction) -> None:
    sampler = Sampler(11 + turned)
    shape = (40, 24)
    out, into = reversed(shape) if turned else shape
    base, m = sampler.gaussian(shape), sampler.gaussian((out,), 2.0)
    b, a = sampler.gaussian((out, 1)), sampler.gaussian((1, into))
    scale = Fraction(3, 2)
    gain = gains(base, b, a, m, scale, transposed=turned)
    with_them, without = (
        kinds.dora(b, a, m, each, scale, shape=shape, transposed=turned) for each in (gain, None)
    )
    assert set(without.tensors()) == {"a", "b", "m"}
    again = kinds.from_body(memoryview(b"".join(bytes(part) for part in without.parts())))
    results = [Rebuild(base, [Term(d, coefficient)]).tensor() for d in (with_them, without, again)]
    assert len({bytes(result.raw()) for result in results}) == 1


def test_gains_are_left_out_where_they_would_be_much_of_the_whole() -> None:
    def told(rank: int, rows: int, columns: int, kind: str) -> bool:
        b, a, m = (
            Tensor.from_array(np.zeros(dims, dtype=kind))
            for dims in ((rows, rank), (rank, columns), (rows,))
        )
        return weigh(b, a, m)

    assert [told(r, 64, 64, "<f4") for r in (1, 2, 3, 4)] == [False, False, True, True]
    assert [told(r, 64, 64, "<f2") for r in (1, 2, 3, 4)] == [False, False, True, True]
    assert [told(1, 64, 512, kind) for kind in ("<f4", "<f2")] == [True, True]


def test_gains_where_the_adapter_nearly_takes_the_weights_away() -> None:
    """Norms of what cancellation leaves: nothing of float64's own digits."""
    sampler = Sampler(1)
    b, a = sampler.gaussian((4, 1)), sampler.gaussian((1, 6))
    product = b.to_float64() @ a.to_float64()
    base = Tensor.from_array(product * (1 + 2.0**-44))
    m = sampler.gaussian((4,))
    assert gains(base, b, a, m, Fraction(-1)).tolist() == defined(
        base, b, a, m, Fraction(-1), False
    )


def test_gains_that_are_not_there() -> None:
    ones, b, a, m = f32(np.ones((2, 2))), f32([[1], [1]]), f32([[1, 1]]), f32([1, 2])
    with pytest.raises(UnsupportedFormat, match="all zero"):
        gains(ones, b, a, m, Fraction(-1))
    with pytest.raises(NonFiniteTensor):
        gains(f32([[1, np.nan], [1, 1]]), b, a, m, Fraction(1))
    with pytest.raises(NonFiniteTensor):
        gains(ones, b, a, f32([1, np.inf]), Fraction(1))
    with pytest.raises(ShapeMismatch):
        gains(ones, b, a, f32([1, 2, 3]), Fraction(1))
    with pytest.raises(ShapeMismatch):
        gains(f32(np.ones((3, 2))), b, a, m, Fraction(1))
    assert gains(ones, b, a, f32([0, -2]), Fraction(1)).tolist()[0] == 0
