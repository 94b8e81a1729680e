"""Increments of one parameter, made by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.merge.strategy import Outcome, Parameter, Side


class Bench:
    """Makes parameters and sides, and reads outcomes."""

    def parameter(self, shape: tuple[int, ...], dtype: str = "F32", name: str = "w") -> Parameter:
        """A parameter that the base holds, all of it zero."""
        count = int(np.prod(shape, dtype=np.int64))
        zeros = np.zeros(count, DTYPES[dtype].bits)
        return Parameter(name, Tensor(DTYPES[dtype], shape, zeros), DTYPES[dtype], shape)

    def side(self, values: NDArray[Any], key: str) -> Side:
        """A side whose increment is these float32 numbers, whatever the parameter's dtype."""
        made = Tensor.from_array(np.asarray(values, dtype="<f4"))
        return Side((Term(kinds.dense(made), Fraction(1)),), key)

    def lowrank(self, seed: int, shape: tuple[int, int], rank: int, key: str) -> Side:
        """A side whose increment is a product of factors."""
        draw = np.random.default_rng(seed)
        b = Tensor.from_array(draw.standard_normal((shape[0], rank)).astype("<f4"))
        a = Tensor.from_array(draw.standard_normal((rank, shape[1])).astype("<f4"))
        return Side((Term(kinds.lowrank(b, a, Fraction(1, 2), shape=shape), Fraction(1)),), key)

    def values(self, outcome: Outcome, parameter: Parameter) -> NDArray[np.float64]:
        """The merged increment, flat."""
        if outcome.delta is None:
            assert outcome.coefficients is not None
            assert not any(outcome.coefficients)
            return np.zeros(parameter.count)
        from deltavc.delta.increment import Increment

        increment = Increment(parameter.base, [Term(outcome.delta, Fraction(1))], parameter.shape)
        return increment.values(0, parameter.count).astype(np.float64)


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Makes increments."""
    return Bench()
