"""Model Stock: the average, drawn towards the merge base by how little the sides agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar

from deltavc.merge.angles import Angles
from deltavc.merge.numbers import nearest, precise
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["ModelStock"]

_SINGULAR = Decimal("0.000001")  # of the denominator: opposite increments have no estimate


@dataclass(frozen=True)
class ModelStock(Strategy):
    """m + t · (Σ d_i) / n with t = n c / (1 + (n-1) c), c the mean cosine between increments.

    Increments that point away from each other, c <= 0, leave the merge base.
    """

    name: ClassVar[str] = "model-stock"
    summary: ClassVar[str] = "averages, and goes back towards the merge base where sides disagree"
    source: ClassVar[str] = "arXiv:2403.19522"
    sides: ClassVar[tuple[int, int | None]] = (2, None)

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        n = len(operands)
        with precise():
            angles = Angles.between(parameter, operands, threads)
            pairs = [angles.cosines[i][j] for i in range(n) for j in range(i)]
            cosine = sum(pairs, Decimal(0)) / len(pairs)
            below = 1 + (n - 1) * cosine
            ratio = n * cosine / below if cosine > 0 and below > _SINGULAR else Decimal(0)
            coefficient = nearest(ratio / n)
            facts = {"cosine": float(cosine), "t": float(ratio)}
        return Outcome(coefficients=(Fraction(coefficient),) * n, facts=facts)
