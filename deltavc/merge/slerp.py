"""Slerp: along the great circle from one increment to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.merge.angles import Angles
from deltavc.merge.numbers import arccos, decimal, nearest, precise, sine_cosine
from deltavc.merge.options import Rational, option
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Slerp"]


@dataclass(frozen=True)
class Slerp(Strategy):
    """m + sin((1-t)θ)/sin θ · d_1 + sin(tθ)/sin θ · d_2, θ the angle between the increments.

    Where they are nearly parallel, or opposite, or one is zero: m + (1-t) d_1 + t d_2.
    """

    name: ClassVar[str] = "slerp"
    summary: ClassVar[str] = "goes from one increment to the other along a great circle"
    source: ClassVar[str] = "Shoemake 1985"
    symmetric: ClassVar[bool] = False
    sides: ClassVar[tuple[int, int | None]] = (2, 2)

    t: Fraction = option(
        Fraction(1, 2), Rational(0, 1), "how far to go from the first side to the second"
    )
    parallel: Fraction = option(
        Fraction("0.9995"), Rational(0, 1), "size of the cosine above which the path is straight"
    )

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        with precise():
            angles = Angles.between(parameter, operands, threads)
            cosine = angles.cosines[0][1]
            facts = {"cosine": float(cosine)}
            if not all(angles.norms) or abs(cosine) > decimal(self.parallel):
                return Outcome(coefficients=(1 - self.t, self.t), facts=facts)
            theta = arccos(cosine)
            whole, _ = sine_cosine(theta)
            ours, _ = sine_cosine(decimal(1 - self.t) * theta)
            theirs, _ = sine_cosine(decimal(self.t) * theta)
            coefficients = (nearest(ours / whole), nearest(theirs / whole))
        return Outcome(coefficients=coefficients, facts=facts)
