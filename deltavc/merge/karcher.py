"""Karcher mean: the middle of several increments on the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar

from deltavc.errors import UsageError
from deltavc.merge.angles import Angles
from deltavc.merge.numbers import arccos, decimal, nearest, precise, sine_cosine
from deltavc.merge.options import Rational, Weights, Whole, option
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Karcher"]


@dataclass(frozen=True)
class Karcher(Strategy):
    """m + (Σ a_i ‖d_i‖) · u, u the weighted Karcher mean of the unit increments d_i / ‖d_i‖.

    The mean lies in the span of the increments, so the iteration runs on their
    inner products alone. It starts at the weighted average, and at the first
    side, by key, if that is zero.
    """

    name: ClassVar[str] = "karcher"
    summary: ClassVar[str] = "takes the mean direction on the sphere, and the mean length"
    source: ClassVar[str] = "Karcher 1977; for models arXiv:2603.04972"
    sides: ClassVar[tuple[int, int | None]] = (2, None)

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; equal shares if not given"
    )
    iterations: int = option(10, Whole(1, 1000), "largest number of steps")
    tolerance: Fraction = option(
        Fraction("0.00001"), Rational(0, 1, above=True), "angle of a step at which to stop"
    )

    def check(self, count: int) -> None:
        """Refuses a number of sides, or weights that are no shares."""
        super().check(count)
        weights = self._weights(count)
        if min(weights) < 0 or not sum(weights):
            raise UsageError(
                "the weights of karcher must be positive, or some of them 0",
                hint="give positive weights, one for each side",
                strategy=self.name,
            )

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        total = sum((o.weight for o in operands), Fraction(0))
        with precise():
            angles = Angles.between(parameter, operands, threads)
            shares = [decimal(o.weight / total) for o in operands]
            valid = [i for i, norm in enumerate(angles.norms) if norm and shares[i]]
            size = sum((a * n for a, n in zip(shares, angles.norms, strict=True)), Decimal(0))
            coefficients = [Fraction(0)] * len(operands)
            steps = 0
            if valid:
                cosines = [[angles.cosines[i][j] for j in valid] for i in valid]
                inner = sum((shares[i] for i in valid), Decimal(0))
                mean, steps = self._mean(cosines, [shares[i] / inner for i in valid])
                for x, i in zip(mean, valid, strict=True):
                    coefficients[i] = nearest(size * x / angles.norms[i])
        return Outcome(coefficients=tuple(coefficients), facts={"iterations": steps})

    def _mean(
        self, cosines: list[list[Decimal]], shares: list[Decimal]
    ) -> tuple[list[Decimal], int]:
        """Returns the mean as coefficients of the unit increments, and the steps it took."""
        tolerance = decimal(self.tolerance)
        mean = list(shares)
        if _norm(mean, cosines) < tolerance:
            mean = [Decimal(int(i == 0)) for i in range(len(shares))]
        mean = _scaled(mean, 1 / _norm(mean, cosines))
        for step in range(self.iterations):
            tangent = _tangent(mean, cosines, shares, tolerance)
            angle = _norm(tangent, cosines)
            if angle < tolerance:
                return mean, step
            sine, cosine = sine_cosine(angle)
            mean = [cosine * m + sine / angle * t for m, t in zip(mean, tangent, strict=True)]
            mean = _scaled(mean, 1 / _norm(mean, cosines))
        return mean, self.iterations


def _tangent(
    mean: list[Decimal], cosines: list[list[Decimal]], shares: list[Decimal], tolerance: Decimal
) -> list[Decimal]:
    """Returns the weighted mean of the ways from a point to the unit increments."""
    tangent = [Decimal(0)] * len(mean)
    for i, share in enumerate(shares):
        dot = sum((m * c for m, c in zip(mean, cosines[i], strict=True)), Decimal(0))
        dot = max(Decimal(-1), min(Decimal(1), dot))
        theta = arccos(dot)
        sine, _ = sine_cosine(theta)
        if theta < tolerance or sine < tolerance:
            continue  # there already, or just opposite, where no direction is the shortest
        pull = share * theta / sine
        tangent = [t - pull * dot * m for t, m in zip(tangent, mean, strict=True)]
        tangent[i] += pull
    return tangent


def _norm(vector: list[Decimal], cosines: list[list[Decimal]]) -> Decimal:
    square = sum(
        (
            x * y * c
            for x, row in zip(vector, cosines, strict=True)
            for y, c in zip(vector, row, strict=True)
        ),
        Decimal(0),
    )
    return max(square, Decimal(0)).sqrt()


def _scaled(vector: list[Decimal], factor: Decimal) -> list[Decimal]:
    return [factor * x for x in vector]
