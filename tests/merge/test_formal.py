"""Strategies that answer with coefficients: exact, low rank kept, angles against mpmath."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from deltavc.delta.increment import Increment
from deltavc.merge.registry import strategy
from deltavc.merge.strategy import Outcome, Parameter, Side

if TYPE_CHECKING:
    from tests.merge.conftest import Bench

SHAPE = (20, 30)


def combine(bench: Bench, name: str, sides: list[Side], **options: Any) -> tuple[Fraction, ...]:
    outcome: Outcome = strategy(name, **options).combine(bench.parameter(SHAPE), sides)
    assert outcome.delta is None
    assert outcome.coefficients is not None
    return outcome.coefficients


def lowrank(bench: Bench, count: int) -> list[Side]:
    return [bench.lowrank(seed, SHAPE, 2 + seed, f"{9 - seed}") for seed in range(count)]


def values(side: Side) -> NDArray[np.float64]:
    return Increment(None, side.terms, SHAPE).values(0, 600).astype(np.float64)


def test_linear_ones_are_exact_rationals(bench: Bench) -> None:
    three = lowrank(bench, 3)
    assert combine(bench, "sum", three) == (1, 1, 1)
    assert combine(bench, "linear", three) == (Fraction(1, 3),) * 3
    assert combine(bench, "task-arithmetic", three, lambda_=0.3) == (Fraction(3, 10),) * 3
    assert combine(bench, "linear", three, weights="0.1,0.2,-1/7") == (
        Fraction(1, 10),
        Fraction(1, 5),
        Fraction(-1, 7),
    )
    halves = combine(bench, "linear", three, weights="1,2,3", normalize=True, lambda_="1/2")
    assert halves == (Fraction(1, 12), Fraction(1, 6), Fraction(1, 4))


def test_picks_take_one_side_or_none(bench: Bench) -> None:
    three = lowrank(bench, 3)
    assert combine(bench, "ours", three) == (1, 0, 0)
    assert combine(bench, "theirs", three) == (0, 0, 1)
    assert combine(bench, "base", three) == (0, 0, 0)


@pytest.mark.parametrize("name", ["sum", "linear", "karcher", "model-stock"])
def test_coefficients_follow_their_side_whatever_the_order(bench: Bench, name: str) -> None:
    three = lowrank(bench, 3)
    weighed = name in ("linear", "karcher")
    found = set()
    for order in itertools.permutations(range(3)):
        options = {"weights": [i + 1 for i in order]} if weighed else {}
        placed = combine(bench, name, [three[i] for i in order], **options)
        found.add(tuple(sorted(zip(order, placed, strict=True))))
    assert len(found) == 1


@pytest.mark.parametrize("t", ["0", "1/4", "1/2", "0.9", "1"])
def test_slerp_follows_the_great_circle(bench: Bench, t: str) -> None:
    a, b = lowrank(bench, 2)
    x, y = values(a), values(b)
    found = combine(bench, "slerp", [a, b], t=t)
    mpmath.mp.dps = 30
    theta = mpmath.acos(
        mpmath.mpf(float(x @ y)) / mpmath.sqrt(float(x @ x)) / mpmath.sqrt(float(y @ y))
    )
    share = mpmath.mpf(Fraction(t).numerator) / Fraction(t).denominator
    wanted = [mpmath.sin(k * theta) / mpmath.sin(theta) for k in (1 - share, share)]
    # the angle is known to some 1e-8: the oracle's increments are rounded to float32
    assert all(abs(float(c) - float(w)) < 1e-7 for c, w in zip(found, wanted, strict=True))
    assert all(Fraction(float(c)) == c for c in found)


def test_slerp_of_unit_sides_has_unit_length(bench: Bench) -> None:
    x, y = np.zeros(SHAPE), np.zeros(SHAPE)
    x[0, 0], y[0, 0], y[1, 1] = 1.0, 0.5, 1.0
    sides = [bench.side(x, "a"), bench.side(y, "b")]
    for t in (0.1, 0.5):
        p, q = map(float, combine(bench, "slerp", sides, t=t))
        length = float(np.linalg.norm(y))
        assert np.isclose(
            np.linalg.norm(p * x + q / length * y * length), np.linalg.norm(p * x + q * y)
        )
    (p, q) = map(
        float, combine(bench, "slerp", [bench.side(x, "a"), bench.side(y - 0.5 * x, "b")], t=0.3)
    )
    assert np.isclose(p * p + q * q, 1, rtol=1e-15)
    assert np.isclose(np.arctan2(q, p), 0.3 * np.pi / 2, rtol=1e-15)


def test_slerp_goes_straight_where_there_is_no_circle(bench: Bench) -> None:
    a = lowrank(bench, 1)[0]
    x = values(a).reshape(SHAPE)
    straight = (Fraction(3, 4), Fraction(1, 4))
    for other in (2 * x, -x, 0 * x, x + 0.01 * np.roll(x, 1)):
        assert combine(bench, "slerp", [a, bench.side(other, "b")], t="1/4") == straight
    assert (
        combine(bench, "slerp", [a, bench.side(x + 0.5 * np.roll(x, 1), "b")], t=0.25) != straight
    )


def test_karcher_of_two_is_the_middle_of_the_arc(bench: Bench) -> None:
    a, b = lowrank(bench, 2)
    p, q = combine(bench, "karcher", [a, b])
    x, y = values(a), values(b)
    mean = float(p) * x + float(q) * y
    assert np.isclose(np.linalg.norm(mean), (np.linalg.norm(x) + np.linalg.norm(y)) / 2, rtol=1e-7)
    cosines = [mean @ v / np.linalg.norm(mean) / np.linalg.norm(v) for v in (x, y)]
    assert np.isclose(cosines[0], cosines[1], rtol=1e-6)


def test_karcher_balances_the_ways_to_the_sides(bench: Bench) -> None:
    sides, weights = lowrank(bench, 4), [1, 2, 3, 4]
    coefficients = combine(
        bench, "karcher", sides, weights=weights, tolerance="1e-12", iterations=200
    )
    units = [v / np.linalg.norm(v) for v in map(values, sides)]
    mean = sum(float(c) * values(s) for c, s in zip(coefficients, sides, strict=True))
    mean = mean / np.linalg.norm(mean)
    ways = [
        np.arccos(mean @ u) * (u - (mean @ u) * mean) / np.linalg.norm(u - (mean @ u) * mean)
        for u in units
    ]
    assert np.linalg.norm(sum(w * v for w, v in zip(weights, ways, strict=True))) < 1e-6


def test_karcher_of_opposites_is_the_first_side(bench: Bench) -> None:
    x = np.eye(*SHAPE)
    p, q = combine(bench, "karcher", [bench.side(-3 * x, "b"), bench.side(x, "a")])
    assert (p, q) == (0, 2)
    assert combine(bench, "karcher", [bench.side(0 * x, "a"), bench.side(x, "b")]) == (
        0,
        Fraction(1, 2),
    )
    assert combine(bench, "karcher", [bench.side(0 * x, "a"), bench.side(0 * x, "b")]) == (0, 0)


def test_model_stock_draws_towards_the_merge_base(bench: Bench) -> None:
    x, y, z = np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE)
    x[0, 0] = y[0, 0] = z[0, 0] = 3.0
    x[1, 0] = y[2, 0] = z[3, 0] = 4.0  # cosine 9 / 25 between any two
    cosine = 9 / 25
    for sides in ([x, y], [x, y, z]):
        n = len(sides)
        found = combine(bench, "model-stock", [bench.side(v, str(i)) for i, v in enumerate(sides)])
        t = n * cosine / (1 + (n - 1) * cosine)
        assert len(set(found)) == 1
        assert np.isclose(float(found[0]), t / n, rtol=1e-15)
    assert combine(bench, "model-stock", [bench.side(x, "a"), bench.side(-x, "b")]) == (0, 0)


@pytest.mark.parametrize("name", ["slerp", "karcher", "model-stock"])
def test_dense_and_factored_increments_give_the_same_angles(bench: Bench, name: str) -> None:
    sides = lowrank(bench, 2)
    dense = [bench.side(values(s).reshape(SHAPE), s.key) for s in sides]
    mixed = [sides[0], dense[1]]
    one, other, third = (combine(bench, name, s) for s in (sides, dense, mixed))
    assert np.allclose([float(c) for c in one], [float(c) for c in other], rtol=1e-7)
    assert np.allclose([float(c) for c in one], [float(c) for c in third], rtol=1e-7)


PINNED = {
    "slerp": ("0x1.413cf0639a7cdp-1", "0x1.413cf0639a7cdp-1"),
    "karcher": ("0x1.419e2dbba68d7p-1", "0x1.40dbedc690d0fp-1"),
    "model-stock": ("0x1.b3987a92989eep-3", "0x1.b3987a92989eep-3"),
}


@pytest.mark.parametrize("name", PINNED)
def test_coefficients_are_the_same_on_every_machine(bench: Bench, name: str) -> None:
    """Computed elsewhere: a change of them is a change of stored history."""
    numbers = np.arange(600, dtype=np.uint64)
    made = [((numbers * np.uint64(m)) % np.uint64(509)).astype(np.float32) - 200 for m in (37, 91)]
    sides = [bench.side(v.reshape(SHAPE), k) for v, k in zip(made, "ab", strict=True)]
    assert tuple(float(c).hex() for c in combine(bench, name, sides)) == PINNED[name]


def test_coefficients_are_the_float64_nearest_to_the_formula(bench: Bench) -> None:
    numbers = np.arange(600, dtype=np.int64)
    x, y = ((numbers * m) % 509 - 200 for m in (37, 91))  # whole: their products are exact
    sides = [bench.side(v.reshape(SHAPE), k) for v, k in zip((x, y), "ab", strict=True)]
    mpmath.mp.dps = 60
    xx, xy, yy = (mpmath.mpf(int(p @ q)) for p, q in ((x, x), (x, y), (y, y)))
    theta = mpmath.acos(xy / mpmath.sqrt(xx * yy))
    for t in (Fraction(1, 3), Fraction(7, 10)):
        shares = [mpmath.mpf(s.numerator) / s.denominator for s in (1 - t, t)]
        wanted = [float(mpmath.sin(s * theta) / mpmath.sin(theta)) for s in shares]
        assert [float(c) for c in combine(bench, "slerp", sides, t=t)] == wanted
    cosine = mpmath.cos(theta)
    wanted = [float(cosine / (1 + cosine))] * 2
    assert [float(c) for c in combine(bench, "model-stock", sides)] == wanted


def test_nothing_is_computed_for_what_needs_no_numbers(bench: Bench) -> None:
    """A parameter too large for memory: only coefficients may be touched."""
    from deltavc.delta import kinds
    from deltavc.delta.rebuild import Term
    from deltavc.delta.tensor import DTYPES, Tensor

    rows = 1 << 20
    b, a = (Tensor.from_array(np.ones(s, "<f4")) for s in ((rows, 1), (1, rows)))
    delta = kinds.lowrank(b, a, Fraction(1), shape=(rows, rows))
    parameter = Parameter("w", None, DTYPES["BF16"], (rows, rows))
    sides = [Side((Term(delta, Fraction(k)),), str(k)) for k in (1, 2)]
    for name in ("sum", "linear", "slerp", "karcher", "model-stock", "ours"):
        assert strategy(name).combine(parameter, sides).coefficients is not None
