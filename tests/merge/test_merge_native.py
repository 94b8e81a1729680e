"""The passes in C and those in NumPy give the same bytes."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deltavc.codec.digest import sha256_hex
from deltavc.delta.exact import code, finish, residual
from deltavc.delta.increment import Increment
from deltavc.delta.native import without
from deltavc.delta.predict import Same
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import NonFiniteTensor
from deltavc.merge.registry import strategy
from deltavc.merge.strategy import Parameter, Side

if TYPE_CHECKING:
    from tests.merge.conftest import Bench

SHAPE = (123, 457)
PLAIN: list[dict[str, Any]] = [
    {"weights": "0.7,0.4,-0.2"},
    {"divisor": "count", "lambda": "0.3"},
    {"sign": "count", "divisor": "none", "zero": "plus"},
    {"sign": "sum"},
]
CASES = [
    *(("ties", options) for options in PLAIN),
    ("dare-ties", {"rescale": "l1"}),
    ("breadcrumbs-ties", {"gamma": "0.1"}),
    ("magnitude-prune", {"weights": "0.7,0.4,1"}),
    ("della", {}),
    ("sce", {"density": "0.4"}),
]


def checkpoints(dtype: str) -> tuple[Parameter, list[Side]]:
    """Three full fine-tunes with equal elements, ties and zeros among their changes."""
    draw = np.random.default_rng(8)
    base = Tensor.from_array(narrow(draw.integers(-300, 300, SHAPE) / 2**8, dtype), dtype)
    sides, same = [], Same(base.dtype)
    for key in "cab":
        moved = base.to_float64() + draw.integers(-4, 5, SHAPE) / 2**9
        new = Tensor.from_array(narrow(moved, dtype), dtype)
        delta = finish(code(base, same, residual(base, new, same)), new, sha256_hex(base.raw()))
        sides.append(Side((Term(delta, Fraction(1)),), key))
    return Parameter("w", base, DTYPES[dtype], SHAPE), sides


def narrow(values: Any, dtype: str) -> Any:
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype({"F16": "<f2", "F32": "<f4"}[dtype])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_bytes_are_the_same_without_the_library(
    name: str, options: dict[str, Any], dtype: str
) -> None:
    parameter, sides = checkpoints(dtype)
    made = strategy(name, **options)
    outcome = made.combine(parameter, sides, threads=2)
    with without():
        plain = made.combine(parameter, sides)
    assert outcome.delta is not None
    assert plain.delta is not None
    assert outcome.delta.id() == plain.delta.id()
    assert outcome.facts == plain.facts


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_increments_are_the_same_without_the_library(dtype: str) -> None:
    parameter, sides = checkpoints(dtype)
    terms = [*sides[0].terms, Term(sides[1].terms[0].delta, Fraction(-1))]
    increment = Increment(parameter.base, terms, SHAPE)
    found = increment.values(5, 5000)
    with without():
        assert increment.values(5, 5000).tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["ties", "magnitude-prune"])
def test_what_is_not_finite_is_refused_either_way(bench: Bench, name: str) -> None:
    parameter = bench.parameter((4, 5), "BF16")
    values = np.ones((4, 5))
    values[1, 1] = 3.39e38
    sides = [bench.side(values, "a"), bench.side(values, "b")]
    made = strategy(name, density=1, weights="2,2", divisor="none")
    with pytest.raises(NonFiniteTensor, match="too large for BF16"):
        made.combine(parameter, sides)
    with without(), pytest.raises(NonFiniteTensor, match="too large for BF16"):
        made.combine(parameter, sides)
