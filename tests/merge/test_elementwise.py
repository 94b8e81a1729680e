"""Element-wise strategies against their definitions in rational arithmetic, and their laws."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import (
    MergeConflict,
    NonFiniteTensor,
    ShapeMismatch,
    UnsupportedFormat,
    UsageError,
)
from deltavc.merge.draws import key_for, threshold, words
from deltavc.merge.registry import strategy
from deltavc.merge.strategy import Parameter, Side

if TYPE_CHECKING:
    from tests.merge.conftest import Bench

ELEMENTWISE = [
    "ties",
    "dare-linear",
    "dare-ties",
    "breadcrumbs",
    "breadcrumbs-ties",
    "magnitude-prune",
    "della",
    "della-linear",
    "sce",
]
Rows = list[list[Fraction]]

# the definitions, as docs/reference/merge-strategies.md words them ---------------


def trim(x: list[Fraction], density: Fraction, gamma: Fraction = Fraction(0)) -> list[Fraction]:
    n = len(x)
    keep = max(1, int(density * n))
    skip = min(int(gamma * n), n - keep)
    order = sorted(range(n), key=lambda i: (-abs(x[i]), i))
    kept = set(order[skip : skip + keep])
    return [v if i in kept else Fraction(0) for i, v in enumerate(x)]


def draw(x: list[Fraction], chances: list[Fraction], key: int) -> list[Fraction]:
    drawn = words(key, 0, len(x)).tolist()
    return [
        v if w < threshold(p) else Fraction(0) for v, w, p in zip(x, drawn, chances, strict=True)
    ]


def by_rank(x: list[Fraction], row: int, density: Fraction, epsilon: Fraction) -> list[Fraction]:
    chances = [density] * len(x)
    for start in range(0, len(x), row):
        order = sorted(range(start, start + row), key=lambda i: (abs(x[i]), i))
        for rank, i in enumerate(order):
            if row > 1:
                chances[i] = density - epsilon + 2 * epsilon * Fraction(rank, row - 1)
    return chances


def l1(x: list[Fraction], kept: list[Fraction]) -> Fraction:
    after = sum(map(abs, kept))
    return sum(map(abs, x)) / after if after else Fraction(1)


def add(sides: Rows, weights: list[Fraction], divisor: str) -> list[Fraction]:
    by = {"none": Fraction(1), "count": Fraction(len(sides)), "weights": sum(weights, Fraction(0))}
    columns = zip(*sides, strict=True)
    return [sum(w * v for w, v in zip(weights, c, strict=True)) / by[divisor] for c in columns]


def sign(v: Fraction) -> int:
    return (v > 0) - (v < 0)


def elect(
    sides: Rows, weights: list[Fraction], rule: str, zero: str, divisor: str
) -> list[Fraction]:
    merged = []
    for column in zip(*sides, strict=True):
        weighted = [w * v for w, v in zip(weights, column, strict=True)]
        voters = {"weighted": weighted, "sum": column, "count": [sign(v) for v in weighted]}[rule]
        elected = sign(sum(voters, Fraction(0))) or (zero == "plus")
        own = column if rule == "sum" else weighted
        agree = [i for i, v in enumerate(own) if sign(v) and sign(v) == elected]
        total = sum((weighted[i] for i in agree), Fraction(0))
        by = {
            "none": Fraction(1),
            "count": Fraction(len(agree)),
            "weights": sum((weights[i] for i in agree), Fraction(0)),
        }[divisor]
        merged.append(total / by if by else total)
    return merged


def definition(
    name: str, x: Rows, options: dict[str, Any], keys: Sequence[str], row: int
) -> list[Fraction]:
    weights = options["weights"]
    density = options["density"]
    kept, family = [], name.removesuffix("-linear").removesuffix("-ties")
    for side, key in zip(x, keys, strict=True):
        if family in ("ties", "magnitude-prune"):
            kept.append(trim(side, density))
        elif family == "breadcrumbs":
            kept.append(trim(side, density, options["gamma"]))
        else:
            chances = [density] * len(side)
            if family == "della":
                chances = by_rank(side, row, density, options["epsilon"])
            drawn = draw(side, chances, key_for(options["seed"], "w", key))
            if options["rescale"] == "inverse":
                drawn = [v / p for v, p in zip(drawn, chances, strict=True)]
            elif options["rescale"] == "l1":
                scale = l1(side, drawn)
                drawn = [v * scale for v in drawn]
            kept.append(drawn)
    if name.endswith("-linear") or name in ("breadcrumbs", "magnitude-prune"):
        merged = add(kept, weights, options["divisor"])
    else:
        merged = elect(kept, weights, options["sign"], options["zero"], options["divisor"])
    return [options["lambda_"] * v for v in merged]


# against the definitions --------------------------------------------------------

SHAPES = [(4, 3), (12,), (2, 3, 2), (1, 12), (12, 1)]
pool = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 2.0, -2.0, 3.0, -0.75, 5.0])


@st.composite
def cases(draw_: st.DrawFn) -> tuple[str, tuple[int, ...], str, Rows, dict[str, Any]]:
    name = draw_(st.sampled_from([n for n in ELEMENTWISE if n != "sce"]))
    count = draw_(st.integers(1, 3))
    x = [
        [Fraction(v) for v in draw_(st.lists(pool, min_size=12, max_size=12))] for _ in range(count)
    ]
    share = st.sampled_from([Fraction(k, 12) for k in range(3, 10)])
    options: dict[str, Any] = {
        "weights": draw_(
            st.lists(
                st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(3), Fraction(1, 4)]),
                min_size=count,
                max_size=count,
            )
        ),
        "lambda_": draw_(st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(-3)])),
        "density": draw_(share),
        "divisor": draw_(st.sampled_from(["weights", "count", "none"])),
    }
    if name.startswith("breadcrumbs"):
        options["gamma"] = draw_(st.sampled_from([Fraction(0), Fraction(1, 10), Fraction(1, 2)]))
    if name.startswith("d"):
        options["rescale"] = draw_(st.sampled_from(["inverse", "l1", "none"]))
        options["seed"] = draw_(st.integers(0, 5))
    if name.startswith("della"):
        options["epsilon"] = Fraction(1, 8)
    if name.endswith("ties") or name == "della":
        options["sign"] = draw_(st.sampled_from(["weighted", "sum", "count"]))
        options["zero"] = draw_(st.sampled_from(["none", "plus"]))
        # A vote that is exactly 0 shall be so in float32 too: scales must be powers of two.
        if "rescale" in options:
            options["density"] = draw_(st.sampled_from([Fraction(1, 4), Fraction(1, 2)]))
            options["rescale"] = draw_(
                st.sampled_from(["none"] if name == "della" else ["none", "inverse"])
            )
    return (
        name,
        draw_(st.sampled_from(SHAPES)),
        draw_(st.sampled_from(["F32", "BF16", "F16", "F64"])),
        x,
        options,
    )


@given(case=cases())
@settings(max_examples=250)
def test_every_element_is_what_the_definition_says(bench: Bench, case: Any) -> None:
    name, shape, dtype, x, options = case
    keys = [f"{9 - i}" for i in range(len(x))]
    parameter = bench.parameter(shape, dtype)
    sides = [
        bench.side(np.array(v, dtype=float).reshape(shape), k) for v, k in zip(x, keys, strict=True)
    ]
    found = bench.values(strategy(name, **options).combine(parameter, sides), parameter)
    row = 12 if len(shape) == 1 else 12 // shape[0]
    wanted = definition(name, x, options, keys, row)
    # a rounding into the dtype, and some of the arithmetic's, of terms that may cancel
    step = {"BF16": 2.0**-8, "F16": 2.0**-11}.get(dtype, 2.0**-24) * 1.01
    fine = 2.0**-20 if dtype in ("BF16", "F16") else 2.0**-48
    for i, (have, want) in enumerate(zip(found.tolist(), wanted, strict=True)):
        # no scale is above 12, and no weight or factor above 3
        room = fine * 12 * 9 * sum(abs(float(side[i])) for side in x)
        assert abs(have - float(want)) <= step * abs(float(want)) + room, (name, options)


def test_sce_selects_calculates_and_erases(bench: Bench) -> None:
    x = np.array([[1, 4, 0, -2, 0, 1], [1, -1, 0, 2, 3, 0.5]])
    parameter = bench.parameter((6,))
    sides = [bench.side(v, k) for v, k in zip(x, "ab", strict=True)]
    # spread: 0, 2.5, 0, 2, 1.5, 0.25; four of them vary, of which half are kept
    found = bench.values(strategy("sce", density=0.5).combine(parameter, sides), parameter)
    # weights (16 + 4) : (1 + 4); at element 1 the sum 3 elects plus, at element 3 nothing
    assert found.tolist() == [0, 4, 0, 0, 0, 0]
    whole = bench.values(strategy("sce", zero="plus").combine(parameter, sides), parameter)
    w = np.array([22.0, 15.25]) / 37.25
    wanted = [1, 4, 0, 2, 3, (w[0] + 0.5 * w[1])]
    assert np.allclose(whole, wanted, rtol=2**-23)


# laws ---------------------------------------------------------------------------


def normal(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_bytes_depend_neither_on_threads_nor_on_the_order_of_sides(
    bench: Bench, name: str, dtype: str
) -> None:
    shape = (300, 500)  # several blocks
    parameter = bench.parameter(shape, dtype)
    a, b = bench.side(normal(1, shape), "aa"), bench.lowrank(2, shape, 3, "bb")
    weights = {} if name == "sce" else {"weights": "0.7,0.3"}
    turned = {} if name == "sce" else {"weights": "0.3,0.7"}
    one = strategy(name, density=0.4, **weights).combine(parameter, [a, b])
    other = strategy(name, density=0.4, **turned).combine(parameter, [b, a], threads=2)
    assert one.delta is not None
    assert other.delta is not None
    assert one.delta.id() == other.delta.id()
    assert one.facts == other.facts


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_merge_of_opposites_is_the_opposite(bench: Bench, name: str) -> None:
    shape = (20, 30)
    parameter = bench.parameter(shape, "BF16")
    values = [normal(1, shape), normal(2, shape)]
    made = strategy(name, density=0.5)
    plus, minus = (
        bench.values(
            made.combine(
                parameter, [bench.side(s * v, k) for v, k in zip(values, "ab", strict=True)]
            ),
            parameter,
        )
        for s in (1, -1)
    )
    assert np.array_equal(plus, -minus)


@pytest.mark.parametrize(
    "name", ["ties", "breadcrumbs-ties", "magnitude-prune", "dare-linear", "sce"]
)
def test_equal_sides_average_to_themselves(bench: Bench, name: str) -> None:
    shape = (20, 30)
    parameter, values = bench.parameter(shape), normal(3, shape)
    options = {"divisor": "weights"} if name in ("magnitude-prune", "dare-linear") else {}
    sides = [bench.side(values, "a"), bench.side(values, "b")]
    found = bench.values(strategy(name, density=1, **options).combine(parameter, sides), parameter)
    assert np.array_equal(found, values.reshape(-1).astype(np.float64))


def test_opposite_sides_elect_nothing(bench: Bench) -> None:
    parameter, values = bench.parameter((5, 6)), normal(3, (5, 6))
    sides = [bench.side(values, "a"), bench.side(-values, "b")]
    outcome = strategy("ties", density=1).combine(parameter, sides)
    assert outcome.delta is None
    assert outcome.coefficients == (0, 0)
    assert outcome.facts["nonzero"] == 0


def test_draws_differ_between_seeds_sides_and_parameters(bench: Bench) -> None:
    shape = (40, 50)
    values = normal(3, shape)
    found = {
        strategy("dare-linear", seed=seed)
        .combine(bench.parameter(shape, name=name), [bench.side(values, key)])
        .delta.id()  # type: ignore[union-attr]
        for seed, name, key in [(0, "w", "a"), (1, "w", "a"), (0, "v", "a"), (0, "w", "b")]
    }
    assert len(found) == 4


def test_dare_keeps_the_expected_change(bench: Bench) -> None:
    shape = (300, 300)
    parameter, values = bench.parameter(shape), np.ones(shape)
    for density in (0.1, 0.5, 0.9):
        made = strategy("dare-linear", density=density).combine(
            parameter, [bench.side(values, "a")]
        )
        found = bench.values(made, parameter)
        assert set(np.unique(found).tolist()) == {0.0, float(np.float32(1 / density))}
        # five standard deviations of 90,000 draws
        assert abs(found.mean() - 1) < 5 * ((1 / density - 1) / 90_000) ** 0.5


# what is stored -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "stored"), [("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("F64", "F32")]
)
def test_few_changes_are_sparse_and_many_dense(bench: Bench, dtype: str, stored: str) -> None:
    parameter = bench.parameter((30, 1000), dtype)
    sides = [bench.side(normal(k, (30, 1000)), str(k)) for k in range(2)]
    few = strategy("ties", density=0.01).combine(parameter, sides)
    many = strategy("ties", density=0.9).combine(parameter, sides)
    assert few.delta is not None
    assert many.delta is not None
    assert (few.delta.kind, many.delta.kind) == ("sparse", "dense")
    assert few.delta.header.dtype == many.delta.header.dtype == stored
    assert (few.facts["stored"], many.facts["stored"]) == ("sparse", "dense")
    found = bench.values(few, parameter)
    assert few.facts["nonzero"] == np.count_nonzero(found) / found.size
    assert kinds.from_body(memoryview(b"".join(few.delta.parts()))).id() == few.delta.id()


def test_a_parameter_that_the_base_lacks_stays_dense(bench: Bench) -> None:
    parameter = Parameter("head", None, DTYPES["BF16"], (20, 30))
    sides = [bench.side(normal(k, (20, 30)), str(k)) for k in range(2)]
    outcome = strategy("ties", density=0.1).combine(parameter, sides)
    assert outcome.delta is not None
    assert outcome.delta.kind == "dense"
    rebuilt = Rebuild(None, [Term(outcome.delta, Fraction(1))]).tensor()
    assert (rebuilt.shape, rebuilt.dtype.name) == ((20, 30), "BF16")


@pytest.mark.parametrize("density", [0.01, 0.9])
def test_the_model_that_comes_out_is_the_base_plus_the_increment(
    bench: Bench, density: float
) -> None:
    shape = (30, 40)
    base = Tensor.from_array(normal(9, shape))
    parameter = Parameter("w", base, DTYPES["F32"], shape)
    sides = [bench.side(normal(k, shape), str(k)) for k in range(2)]
    outcome = strategy("ties", density=density).combine(parameter, sides)
    assert outcome.delta is not None
    found = Rebuild(base, [Term(outcome.delta, Fraction(1))]).tensor().to_float64().reshape(-1)
    wanted = base.to_float64().reshape(-1) + bench.values(outcome, parameter)
    assert np.array_equal(found, wanted.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
@pytest.mark.parametrize("name", ["ties", "della", "sce", "dare-linear"])
def test_nothing_merges_to_nothing(bench: Bench, name: str, shape: tuple[int, ...]) -> None:
    sides = [bench.side(np.zeros(shape), k) for k in "ab"]
    assert strategy(name).combine(bench.parameter(shape), sides).coefficients == (0, 0)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_scalar_can_be_merged(bench: Bench, name: str) -> None:
    parameter = bench.parameter(())
    sides = [bench.side(np.array(v), k) for v, k in ((1.5, "a"), (0.5, "b"))]
    assert bench.values(strategy(name, density=1).combine(parameter, sides), parameter).size == 1


PINNED = {
    ("ties", "BF16"): "b27d408a7440671e7f28fcb9e203ad76b2212d27227203b5191cca0b923f9996",
    ("dare-ties", "F16"): "72512581e43b434c9669bd9188ca36e9782eb00121585485aaea9b1eed6d0853",
    ("della-linear", "F32"): "8e4d781e1c8135209f897c85d3caabc85d46b35690b052765c154d358b579da2",
    ("breadcrumbs", "BF16"): "7fa064378526d5a0b362e508ae14281e6b1b0f05c6b597318dbc2b4f19212191",
    ("sce", "F32"): "b626be91cf89fa46a0a9c9c463a42152c5c615eefb8de7674af68c46b26a0f75",
}


@pytest.mark.parametrize(("name", "dtype"), PINNED)
def test_bytes_are_the_same_on_every_machine(bench: Bench, name: str, dtype: str) -> None:
    """Ids that were computed elsewhere: a change of them is a change of stored history."""
    shape = (97, 193)
    numbers = np.arange(shape[0] * shape[1], dtype=np.uint64)
    made = [
        (((numbers * np.uint64(m)) % np.uint64(8191)).astype(np.float32) - 4095) / 2**15
        for m in (7919, 104729)
    ]
    factors = [
        Tensor.from_array(made[0][:97].reshape(97, 1)),
        Tensor.from_array(made[1][:193].reshape(1, 193)),
    ]
    product = kinds.lowrank(*factors, Fraction(1, 3), shape=shape)
    sides = [
        bench.side(made[0].reshape(shape), "aa"),
        Side((*bench.side(made[1].reshape(shape), "b").terms, Term(product, Fraction(2, 7))), "bb"),
    ]
    options = {} if name == "sce" else {"weights": "0.7,0.4", "lambda": "0.9"}
    outcome = strategy(name, density=0.6, **options).combine(bench.parameter(shape, dtype), sides)
    assert outcome.delta is not None
    assert outcome.delta.id() == PINNED[name, dtype]


# refusals -----------------------------------------------------------------------


def test_what_is_too_large_for_the_dtype_is_refused(bench: Bench) -> None:
    sides = [bench.side(np.full((2, 2), 60000.0), k) for k in "ab"]
    made = strategy("magnitude-prune", density=1)
    with pytest.raises(NonFiniteTensor, match="'w' is too large for F16"):
        made.combine(bench.parameter((2, 2), "F16"), sides)
    with pytest.raises(UsageError, match="too large to compute with"):
        strategy("ties", weights="1e300,1").combine(bench.parameter((2, 2), "F16"), sides)


def test_what_is_not_an_increment_is_refused(bench: Bench) -> None:
    made = strategy("ties")
    good = bench.side(np.ones((2, 2)), "a")
    replaced = Side(
        (Term(kinds.replace(Tensor.from_array(np.ones((2, 2), "<f4"))), Fraction(1)),), "b"
    )
    with pytest.raises(MergeConflict, match="'w' is replaced on one side"):
        made.combine(bench.parameter((2, 2)), [good, replaced])
    with pytest.raises(ShapeMismatch, match=r"an increment of \[3, 2\] cannot be merged"):
        made.combine(bench.parameter((2, 2)), [good, bench.side(np.ones((3, 2)), "b")])
    with pytest.raises(UnsupportedFormat, match="'w' is I64, which has no increments"):
        made.combine(bench.parameter((2, 2), "I64"), [good, good])
    with pytest.raises(UsageError, match="has no increment"):
        made.combine(bench.parameter((2, 2)), [good, Side((), "b")])
    broken = bench.side(np.array([[1.0, np.nan], [0, 0]]), "b")
    with pytest.raises(NonFiniteTensor, match="'w' holds NaN or infinity"):
        made.combine(bench.parameter((2, 2)), [good, broken])
