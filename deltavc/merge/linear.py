"""Linear combinations of increments: averages and task arithmetic.

Both are formal: coefficients of the very increments, exact rationals.
Low-rank increments stay low-rank, and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.errors import UsageError
from deltavc.merge.options import Flag, Rational, Weights, option
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Linear", "TaskArithmetic"]

_LAMBDA = "factor on the merged increment"


@dataclass(frozen=True)
class Linear(Strategy):
    """m + λ Σ w_i d_i, by default the average of the sides."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "adds weighted increments; by default their average"
    source: ClassVar[str] = "model soups, arXiv:2203.05482"

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; equal shares if not given"
    )
    lambda_: Fraction = option(Fraction(1), Rational(), _LAMBDA)
    normalize: bool = option(False, Flag(), "divide by the sum of the weights")

    def check(self, count: int) -> None:
        """Refuses a number of sides, or weights that cannot be normalised."""
        super().check(count)
        if self.normalize and not sum(self._weights(count)):
            raise UsageError(
                f"the weights of {self.name} add up to 0 and cannot be normalised",
                hint="leave normalize out, or give other weights",
                strategy=self.name,
            )

    def _weights(self, count: int) -> tuple[Fraction, ...]:
        return self.weights if self.weights is not None else (Fraction(1, count),) * count

    def _combine(
        self,
        parameter: Parameter,  # noqa: ARG002 -- whatever it is
        operands: Sequence[Operand],
        threads: int,  # noqa: ARG002
    ) -> Outcome:
        return Outcome(coefficients=_shares(operands, self.lambda_, self.normalize))


@dataclass(frozen=True)
class TaskArithmetic(Linear):
    """m + λ Σ w_i d_i with weights of 1."""

    name: ClassVar[str] = "task-arithmetic"
    summary: ClassVar[str] = "adds weighted increments, times one factor"
    source: ClassVar[str] = "arXiv:2212.04089"

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; 1 each if not given"
    )

    def _weights(self, count: int) -> tuple[Fraction, ...]:
        return self.weights if self.weights is not None else (Fraction(1),) * count


def _shares(operands: Sequence[Operand], factor: Fraction, normalize: bool) -> tuple[Fraction, ...]:
    total = sum((o.weight for o in operands), Fraction(0)) if normalize else Fraction(1)
    return tuple(factor * o.weight / total for o in operands)
