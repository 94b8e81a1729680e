"""A sum of factors that needs more digits than float32 has, split at a higher rank."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor
from deltavc.formats.writer_lora import combine

Terms = list[tuple[Delta, Fraction]]


def product(b: Any, a: Any, scale: Fraction) -> list[Fraction]:
    """Returns scale · B · A element by element, over the rationals."""
    rows = [[Fraction(float(x)) for x in row] for row in b]
    columns = [[Fraction(float(x)) for x in column] for column in np.asarray(a).T]
    return [
        scale * sum((x * y for x, y in zip(r, c, strict=True)), Fraction(0))
        for r in rows
        for c in columns
    ]


def summed(parts: list[list[Fraction]]) -> list[Fraction]:
    return [sum(column, Fraction(0)) for column in zip(*parts, strict=True)]


def factors(seed: int, rank: int, dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, rank)).astype(dtype), rng.normal(size=(rank, 2)).astype(dtype)


def term(b: Any, a: Any, scale: Fraction, coefficient: Fraction) -> tuple[Delta, Fraction]:
    delta = lowrank(Tensor.from_array(b), Tensor.from_array(a), scale, shape=(3, 2))
    return delta, coefficient


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 99),
            st.integers(1, 3),
            st.sampled_from(["f4", "f2"]),
            st.fractions(-9, 9, max_denominator=12).filter(bool),
            st.sampled_from([Fraction(1), Fraction(-1), Fraction(3, 10)]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_nothing_is_rounded(items: list[tuple[int, int, str, Fraction, Fraction]]) -> None:
    terms: Terms = []
    wanted = []
    for seed, rank, dtype, scale, coefficient in items:
        b, a = factors(seed, rank, dtype)
        terms.append(term(b, a, scale, coefficient))
        wanted.append(product(b, a, scale * coefficient))
    layer = combine(terms, split=True)
    common = math.lcm(*((s * c).denominator for *_, s, c in items))
    if layer is None:  # alpha / rank would take a rank that is a multiple of it
        assert common > 64
        return
    assert not layer.rounded
    scale = Fraction(layer.alpha) / layer.rank  # as PEFT's config says it
    b = layer.b.to_float64().reshape(layer.b.shape)
    a = layer.a.to_float64().reshape(layer.a.shape)
    assert product(b, a, scale) == summed(wanted)


def test_rank_stabilised_scales_of_two_ranks() -> None:
    """Scales of 53 digits each take four parts."""
    scales = [Fraction(float(np.float64(16) / np.sqrt(r))) for r in (3, 5)]
    pairs = [factors(1, 3, "f4"), factors(2, 5, "f4")]
    terms = [term(b, a, s, Fraction(1)) for (b, a), s in zip(pairs, scales, strict=True)]
    assert combine(terms) is None
    layer = combine(terms, split=True)
    assert layer is not None
    b = layer.b.to_float64().reshape(layer.b.shape)
    a = layer.a.to_float64().reshape(layer.a.shape)
    wanted = summed([product(b, a, s) for (b, a), s in zip(pairs, scales, strict=True)])
    assert product(b, a, Fraction(layer.alpha) / layer.rank) == wanted


def test_what_float32_does_not_reach_is_still_refused() -> None:
    b, a = factors(1, 2, "f4")
    huge = [term(b * np.float32(2**100), a, Fraction(10**30, 3), Fraction(1)),
            term(b, a, Fraction(1, 5), Fraction(1))]  # fmt: skip
    assert combine(huge, split=True) is None
