"""Strategies in the space of the factors against their definitions on dense matrices.

The oracles form what deltavc does not: the increments themselves, in float64, and their
singular value decompositions by LAPACK. TIES is written down once more, plainly.
"""

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
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, UnsupportedFormat, UsageError
from deltavc.merge.draws import key_for, threshold, words
from deltavc.merge.recompress import recompress
from deltavc.merge.registry import strategy, strategy_from_record
from deltavc.merge.strategy import Outcome, Side

Matrix = NDArray[np.float64]

NAMES = ("knots-ties", "knots-dare", "core-ties", "core-dare", "tsv", "iso-c")
SHAPE = (18, 25)
TOLERANCE = 2e-6  # float32 in the merged elements, float32 factors


def dense(terms: Sequence[Term]) -> Matrix:
    total = np.zeros(SHAPE)
    for term in terms:
        left, right = term.delta.matrices()
        total = total + (left * float(term.coefficient * term.delta.scale)) @ right
    return total


def result(outcome: Outcome) -> Matrix:
    assert outcome.delta is not None
    assert outcome.delta.kind == "lowrank"
    assert outcome.delta.scale == 1
    assert {outcome.delta.factor(n).dtype.name for n in ("b", "a")} == {"F32"}
    return dense([Term(outcome.delta, Fraction(1))])


def near(found: Matrix, wanted: Matrix) -> None:
    assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)


@pytest.fixture
def sides(bench: Any) -> list[Side]:
    return [bench.lowrank(seed, SHAPE, 3 + seed % 2, f"{seed}") for seed in (1, 2, 3)]


# oracles -----------------------------------------------------------------------------------


def ties(values: Sequence[Matrix], weights: Sequence[float], kept: Sequence[Any]) -> Matrix:
    """Average of the weighted values whose sign is that of the weighted sum."""
    weighted = np.stack(
        [w * np.where(k, v, 0.0) for v, w, k in zip(values, weights, kept, strict=True)]
    )
    agree = (weighted * np.sign(weighted.sum(axis=0))) > 0
    share = (agree * np.reshape(weights, (-1, 1, 1))).sum(axis=0)
    return (weighted * agree).sum(axis=0) / np.where(share == 0, 1, share)


def largest(values: Matrix, density: float) -> Any:
    """The elements of the largest magnitudes, ``density`` of all."""
    count = max(1, int(density * values.size))
    return np.abs(values) >= np.sort(np.abs(values).reshape(-1))[-count]


def drawn(values: Matrix, density: Fraction, key: str) -> Any:
    word = words(key_for(0, "w", key), 0, values.size)
    return (word < threshold(density)).reshape(values.shape)


def knots_rows(increments: Sequence[Matrix]) -> tuple[Matrix, Matrix, list[Matrix]]:
    left, values, right = np.linalg.svd(np.hstack(increments), full_matrices=False)
    rank = int(np.count_nonzero(values > 1e-5))
    return left[:, :rank], values[:rank], np.split(right[:rank], len(increments), axis=1)


def references(sides: Sequence[Side]) -> tuple[Matrix, Matrix]:
    """Left singular vectors of all B side by side, right ones of all A."""
    lefts, rights = [], []
    for term in (term for side in sides for term in side.terms):
        root = np.sqrt(abs(float(term.coefficient * term.delta.scale)))
        left, right = term.delta.matrices()
        lefts.append(left * root)
        rights.append(right * root)
    u, s, _ = np.linalg.svd(np.hstack(lefts), full_matrices=False)
    _, t, v = np.linalg.svd(np.vstack(rights), full_matrices=False)
    return u[:, s > 1e-9 * s[0]], v[t > 1e-9 * t[0]]


def nearest_orthogonal(matrix: Matrix) -> Matrix:
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def task_singular_vectors(increments: Sequence[Matrix], ranks: Sequence[int]) -> Matrix:
    parts = [np.linalg.svd(increment, full_matrices=False) for increment in increments]
    left = np.hstack([u[:, :k] for (u, _, _), k in zip(parts, ranks, strict=True)])
    values = np.concatenate([s[:k] for (_, s, _), k in zip(parts, ranks, strict=True)])
    right = np.vstack([v[:k] for (_, _, v), k in zip(parts, ranks, strict=True)])
    return nearest_orthogonal(left) * values @ nearest_orthogonal(right)


# definitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("density", "weights", "lambda_"), [("1", None, "1"), ("3/10", (1, 2, "1/2"), "0.4")]
)
def test_knots_ties(
    bench: Any, sides: list[Side], scaled: bool, density: str, weights: Any, lambda_: str
) -> None:
    made = strategy("knots-ties", density=density, weights=weights, lambda_=lambda_, scaled=scaled)
    found = made.combine(bench.parameter(SHAPE), sides)
    left, values, blocks = knots_rows([dense(side.terms) for side in sides])
    rows = [values[:, None] * block if scaled else block for block in blocks]
    numbers = [float(Fraction(w)) for w in weights or (1, 1, 1)]
    merged = ties(rows, numbers, [largest(r, float(Fraction(density))) for r in rows])
    if not scaled:
        merged = values[:, None] * merged
    near(result(found), float(lambda_) * left @ merged)
    assert found.facts["rank"] == found.delta.rank <= left.shape[1]  # type: ignore[union-attr]
    assert found.facts["relative_error"] < 1e-7  # type: ignore[operator]


def test_knots_dare(bench: Any, sides: list[Side]) -> None:
    found = strategy("knots-dare", density="1/4").combine(bench.parameter(SHAPE), sides)
    left, values, blocks = knots_rows([dense(side.terms) for side in sides])
    rows = [4 * values[:, None] * block for block in blocks]
    kept = [drawn(r, Fraction(1, 4), side.key) for r, side in zip(rows, sides, strict=True)]
    near(result(found), left @ ties(rows, [1, 1, 1], kept))


@pytest.mark.parametrize("density", ["1", "3/10"])
def test_core_ties(bench: Any, sides: list[Side], density: str) -> None:
    found = strategy("core-ties", density=density).combine(bench.parameter(SHAPE), sides)
    left, right = references(sides)
    cores = [left.T @ dense(side.terms) @ right.T for side in sides]
    merged = ties(cores, [1, 1, 1], [largest(c, float(Fraction(density))) for c in cores])
    near(result(found), left @ merged @ right)


def test_core_dare(bench: Any, sides: list[Side]) -> None:
    found = strategy("core-dare", density="3/4").combine(bench.parameter(SHAPE), sides)
    left, right = references(sides)
    cores = [4 / 3 * left.T @ dense(side.terms) @ right.T for side in sides]
    kept = [drawn(c, Fraction(3, 4), side.key) for c, side in zip(cores, sides, strict=True)]
    near(result(found), left @ ties(cores, [1, 1, 1], kept) @ right)


def test_tsv(bench: Any, sides: list[Side]) -> None:
    parameter = bench.parameter(SHAPE)
    increments = [dense(side.terms) for side in sides]
    found = strategy("tsv").combine(parameter, sides)  # joint rank 11, a third of it is 3
    near(result(found), task_singular_vectors(increments, [3, 3, 3]))
    kept = sum(np.sum(np.linalg.svd(i, compute_uv=False)[:3] ** 2) for i in increments)
    assert found.facts["energy"] == pytest.approx(kept / sum(np.sum(i**2) for i in increments))
    found = strategy("tsv", share="1/5", weights=(2, -1, 1), lambda_="1/2").combine(
        parameter, sides
    )
    weighted = [w * i for w, i in zip((1.0, -0.5, 0.5), increments, strict=True)]
    near(result(found), task_singular_vectors(weighted, [2, 2, 2]))
    found = strategy("tsv", share="1").combine(parameter, sides)
    near(result(found), task_singular_vectors(increments, [4, 3, 4]))


def test_iso_c(bench: Any, sides: list[Side]) -> None:
    total = sum(w * dense(side.terms) for w, side in zip((1, -3, 0.5), sides, strict=True))
    left, values, right = np.linalg.svd(total, full_matrices=False)
    made = strategy("iso-c", weights=(2, -6, 1), lambda_="1/2")
    found = made.combine(bench.parameter(SHAPE), sides)
    assert found.facts["rank"] == 11
    near(result(found), values[:11].mean() * left[:, :11] @ right[:11])


# laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_in_any_order_on_any_threads_and_without_native_code(
    bench: Any, sides: list[Side], name: str
) -> None:
    parameter = bench.parameter(SHAPE, "BF16")
    made = strategy(name, weights=(3, 1, 2))
    found = made.combine(parameter, sides)
    turned = strategy(name, weights=(2, 3, 1)).combine(
        parameter, [sides[2], sides[0], sides[1]], threads=2
    )
    with native.without():
        plain = made.combine(parameter, sides)
    again = strategy_from_record(made.record()).combine(parameter, sides)
    assert found.delta is not None
    for other in (turned, plain, again):
        assert other.delta is not None
        assert other.delta.id() == found.delta.id()
        assert other.facts == found.facts


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(NAMES),
)
def test_any_small_shape(
    bench: Any, seed: int, shape: tuple[int, int], ranks: list[int], name: str
) -> None:
    made = [bench.lowrank(seed + i, shape, rank, str(i)) for i, rank in enumerate(ranks)]
    made.append(Side(made[0].terms, "again"))  # a side that says the same
    outcome = strategy(name).combine(bench.parameter(shape), made)
    turned = strategy(name).combine(bench.parameter(shape), made[::-1])
    if outcome.delta is None:
        assert turned.coefficients == outcome.coefficients
        return
    assert outcome.delta.id() == turned.delta.id()  # type: ignore[union-attr]
    assert outcome.delta.rank <= min(*shape, sum(ranks))
    assert outcome.facts["relative_error"] < 2e-7  # type: ignore[operator]
    values = bench.values(outcome, bench.parameter(shape))
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("knots-ties", {"density": 1}), ("core-ties", {"density": 1}), ("tsv", {"share": 1})],
)
def test_a_side_merged_with_itself_is_itself(bench: Any, name: str, options: Any) -> None:
    one = bench.lowrank(1, SHAPE, 4, "a")
    made = strategy(name, **options).combine(
        bench.parameter(SHAPE), [one, Side(one.terms, "b"), Side(one.terms, "c")]
    )
    near(result(made), dense(one.terms))


def test_sides_that_are_orthogonal_are_added_up_by_tsv(bench: Any) -> None:
    draw = np.random.default_rng(0)
    left, _ = np.linalg.qr(draw.standard_normal((18, 6)))
    right, _ = np.linalg.qr(draw.standard_normal((25, 6)))
    made = []
    for part, key in ((slice(0, 3), "a"), (slice(3, 6), "b")):
        b, a = left[:, part] * [5, 3, 2], right[:, part].T
        delta = kinds.lowrank(
            Tensor.from_array(b.astype("<f4")), Tensor.from_array(a.astype("<f4")), Fraction(1),
            shape=SHAPE,
        )  # fmt: skip
        made.append(Side((Term(delta, Fraction(1)),), key))
    outcome = strategy("tsv").combine(bench.parameter(SHAPE), made)
    near(result(outcome), dense([*made[0].terms, *made[1].terms]))


def test_all_singular_values_of_iso_c_are_one(bench: Any, sides: list[Side]) -> None:
    found = strategy("iso-c").combine(bench.parameter(SHAPE), sides)
    values = np.linalg.svd(result(found), compute_uv=False)
    assert np.ptp(values[:11]) < 1e-6 * values[0]
    assert values[11] < 1e-6 * values[0]


def test_a_result_is_a_small_adapter_that_can_be_cut_further(bench: Any, sides: list[Side]) -> None:
    parameter = bench.parameter(SHAPE)
    found = strategy("knots-ties").combine(parameter, sides)
    assert found.delta is not None
    delta, error, rank = recompress(parameter, [Term(found.delta, Fraction(1))], max_rank=5)
    values = np.linalg.svd(result(found), compute_uv=False)
    assert rank == delta.rank == 5
    assert error == pytest.approx(np.linalg.norm(values[5:]) / np.linalg.norm(values), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_increments_that_cancel_change_nothing(bench: Any, name: str) -> None:
    one = bench.lowrank(1, SHAPE, 2, "a").terms[0]
    zero = Side((Term(one.delta, Fraction(1)), Term(one.delta, Fraction(-1))), "b")
    found = strategy(name).combine(bench.parameter(SHAPE), [zero, Side(zero.terms, "c")])
    assert found.coefficients == (0, 0)
    assert found.facts["rank"] == 0


def test_ids_are_those_of_all_machines(bench: Any) -> None:
    # Made of integers, so that the inputs are the same wherever this runs.
    made = []
    for step, key in ((7919, "a"), (6007, "b")):
        b = (np.arange(1, 55, dtype="<f4").reshape(18, 3) * step % 101) - 50
        a = (np.arange(1, 76, dtype="<f4").reshape(3, 25) * step % 89) - 44
        factors = Tensor.from_array(b), Tensor.from_array(a)
        delta = kinds.lowrank(*factors, Fraction(1, 64), shape=SHAPE)
        made.append(Side((Term(delta, Fraction(1)),), key))
    found = {}
    for name in NAMES:
        outcome = strategy(name).combine(bench.parameter(SHAPE), made)
        assert outcome.delta is not None
        found[name] = outcome.delta.id()[:16]
    assert found == PINNED


PINNED = {
    "knots-ties": "00d73aadd61472fd",
    "knots-dare": "4d4b062d298a915e",
    "core-ties": "69067cc468d3036c",
    "core-dare": "64d237133a246346",
    "tsv": "1dfe5557a00c4952",
    "iso-c": "d488e722e17bf799",
}


# refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_change_without_factors_is_refused_by_name(bench: Any, name: str) -> None:
    one, other = bench.lowrank(1, SHAPE, 2, "a"), bench.side(np.ones(SHAPE), "b")
    with pytest.raises(UnsupportedFormat, match="'w' is dense, which has no low-rank factors") as e:
        strategy(name).combine(bench.parameter(SHAPE), [one, other])
    assert "--resolve 'w=ties'" in e.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_factors_that_are_not_finite_are_refused(bench: Any, name: str) -> None:
    one = bench.lowrank(1, SHAPE, 2, "a")
    spoilt = kinds.lowrank(
        Tensor.from_array(np.full((18, 1), np.inf, "<f4")),
        Tensor.from_array(np.ones((1, 25), "<f4")),
        Fraction(1),
        shape=SHAPE,
    )
    with pytest.raises(NonFiniteTensor, match="'w' hold NaN or infinity"):
        strategy(name).combine(
            bench.parameter(SHAPE), [one, Side((Term(spoilt, Fraction(1)),), "b")]
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [("tsv", {"share": 0}), ("knots-ties", {"density": 2}), ("knots-ties", {"scaled": "maybe"})],
)
def test_options_out_of_range_are_refused(name: str, options: Any) -> None:
    with pytest.raises(UsageError, match=f"for {name}: it must be"):
        strategy(name, **options)
