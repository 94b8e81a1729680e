"""Low-rank changes of stacked experts against rational arithmetic, element by element."""

from fractions import Fraction

import numpy as np
import pytest

from deltavc.delta import kinds
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.rounding import round_fraction
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import ObjectCorrupt, UnsupportedFormat

COUNT, ROWS, COLUMNS, RANK = 3, 5, 4, 2


def normal(*shape, dtype="f4", seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor.from_array(values)


def base_of(dtype):
    values = normal(COUNT, ROWS, COLUMNS, seed=1).to_float64().reshape(-1)
    bits = [round_fraction(Fraction(v), DTYPES[dtype]) for v in values]
    return Tensor(DTYPES[dtype], (COUNT, ROWS, COLUMNS), np.array(bits, DTYPES[dtype].bits))


def experts(*, transposed=False, scale=Fraction(3, 2), dtype="f4"):
    out, inner = (COLUMNS, ROWS) if transposed else (ROWS, COLUMNS)
    tensors = {
        "a": normal(COUNT * RANK, inner, dtype=dtype, seed=2),
        "b": normal(out, RANK * COUNT, dtype=dtype, seed=3),
    }
    shape = (COUNT, ROWS, COLUMNS)
    return kinds.product("experts", tensors, scale, shape=shape, transposed=transposed)


def change(delta, transposed):
    """Returns Σ_k b[o, k, e] · a[e, k, i], as PEFT stacks them, in rationals."""
    a, b = (delta.tensor(n).to_float64() for n in "ab")
    a, b = a.reshape(COUNT, RANK, -1), b.reshape(-1, RANK, COUNT)
    found = {}
    for e in range(COUNT):
        for p in range(ROWS):
            for q in range(COLUMNS):
                o, i = (q, p) if transposed else (p, q)
                pairs = ((b[o, k, e], a[e, k, i]) for k in range(RANK))
                total = sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))
                found[e, p, q] = total * delta.scale
    return found


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("coefficient", [Fraction(1), Fraction(-1, 3)])
@pytest.mark.parametrize("mixed", [False, True])
def test_each_element_is_the_sum_rounded_once(dtype, transposed, coefficient, mixed):
    base, delta = base_of(dtype), experts(transposed=transposed)
    terms = [Term(delta, coefficient)]
    other = kinds.lowrank(
        normal(COUNT, 1, seed=4), normal(1, ROWS, COLUMNS, seed=5), Fraction(1, 7),
        shape=base.shape, layer="conv",
    )  # fmt: skip
    if mixed:
        terms.append(Term(other, Fraction(2)))
    left, right = other.matrices()
    wanted, weights = [], base.to_float64().reshape(-1)
    for at, (place, value) in enumerate(sorted(change(delta, transposed).items())):
        total = Fraction(weights[at]) + coefficient * value
        if mixed:
            e, column = place[0], place[1] * COLUMNS + place[2]
            product = Fraction(left[e, 0]) * Fraction(right[0, column])
            total += 2 * Fraction(1, 7) * product
        wanted.append(round_fraction(total, DTYPES[dtype]))
    for threads in (1, 2):
        found = Rebuild(base, terms).tensor(threads=threads)
        assert found.shape == base.shape
        assert found.bits.tolist() == wanted


def test_any_rows_can_be_computed_alone():
    base = base_of("F32")
    whole = Rebuild(base, [Term(experts(), Fraction(1))])
    assert (whole.rows, whole.columns) == (COUNT * ROWS, COLUMNS)
    expected = whole.tensor().bits
    out = np.zeros(7 * COLUMNS, np.uint32)
    whole.compute(3, 10, out)  # the end of one expert, one, the start of another
    assert np.array_equal(out, expected[3 * COLUMNS : 10 * COLUMNS])


def test_experts_have_no_common_factors():
    with pytest.raises(UnsupportedFormat, match="no factors in common"):
        experts().matrices()
    with pytest.raises(UnsupportedFormat):
        experts(dtype="f8")


@pytest.mark.parametrize(
    "shape", [(COUNT, ROWS), (2, ROWS, COLUMNS), (COUNT, COLUMNS, ROWS), (0, 0, 0)]
)
def test_a_stack_that_the_factors_do_not_fit(shape):
    tensors = {"a": normal(COUNT * RANK, COLUMNS), "b": normal(ROWS, RANK * COUNT + 1)}
    with pytest.raises(ObjectCorrupt):
        kinds.product("experts", tensors, Fraction(1), shape=shape)
