"""Sum: every increment once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Sum"]


@dataclass(frozen=True)
class Sum(Strategy):
    """m + Σ d_i: formal, exact, and the same in any order."""

    name: ClassVar[str] = "sum"
    summary: ClassVar[str] = "adds every side's increment once"
    source: ClassVar[str] = "task arithmetic with all weights 1, arXiv:2212.04089"

    def _combine(
        self,
        parameter: Parameter,  # noqa: ARG002 -- whatever it is
        operands: Sequence[Operand],
        threads: int,  # noqa: ARG002
    ) -> Outcome:
        return Outcome(coefficients=(Fraction(1),) * len(operands))
