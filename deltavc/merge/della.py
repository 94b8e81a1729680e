"""DELLA: drop at random, small changes more often, then vote or add up."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.delta.increment import Increment
from deltavc.errors import UsageError
from deltavc.merge.dare import SEEDS
from deltavc.merge.draws import key_for
from deltavc.merge.elementwise import RESCALES, Adding, Electing, Elementwise, Frame
from deltavc.merge.keep import All, DrawnByRank, Keep
from deltavc.merge.options import Rational, option
from deltavc.merge.strategy import Operand, Parameter

__all__ = ["Della", "DellaLinear"]


@dataclass(frozen=True)
class _Della(Elementwise):
    """Keeps each element with a probability that grows with its rank in its row."""

    source: ClassVar[str] = "arXiv:2406.11617"

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "mean probability with which one is kept"
    )
    epsilon: Fraction = option(
        Fraction("0.15"),
        Rational(0, 1),
        "by how much the smallest of a row has less, and the largest more",
    )
    rescale: str = option(
        "inverse", RESCALES, "what makes up for the rest: 1 / probability, the L1 norm, nothing"
    )
    seed: int = option(0, SEEDS, "seed of the draws")

    def check(self, count: int) -> None:
        """Refuses a number of sides, or probabilities that would leave 0 … 1."""
        super().check(count)
        spread = self.epsilon if self.density < 1 else 0
        if self.density - spread <= 0 or self.density + spread > 1:
            raise UsageError(
                f"{self.name} draws with density - epsilon to density + epsilon,"
                f" {float(self.density - spread):.3g} to {float(self.density + spread):.3g}",
                hint="choose epsilon below the density and at most 1 - density",
                strategy=self.name,
                density=float(self.density),
                epsilon=float(self.epsilon),
            )

    def _row(self, parameter: Parameter) -> int:
        # A vector is one row; the rows of anything else lie along its first dimension.
        return parameter.matrix_shape[1] if len(parameter.shape) > 1 else parameter.count

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:  # noqa: ARG002
        if self.density == 1:
            return All()
        return DrawnByRank(
            key_for(self.seed, frame.parameter.name, operand.key),
            self._row(frame.parameter),
            self.density - self.epsilon,
            self.density + self.epsilon,
            inverse=self.rescale == "inverse",
        )

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:
        return frame.l1_scale(increment, keep) if self.rescale == "l1" else Fraction(1)


@dataclass(frozen=True)
class Della(_Della, Electing):
    """Drops elements at random by rank, then elects signs as ties does."""

    name: ClassVar[str] = "della"
    summary: ClassVar[str] = "drops changes at random, small ones first, and averages what agrees"


@dataclass(frozen=True)
class DellaLinear(_Della, Adding):
    """m + λ Σ w_i x_i, x_i the increment with elements dropped at random by rank."""

    name: ClassVar[str] = "della-linear"
    summary: ClassVar[str] = "drops changes at random, small ones first, and adds up the rest"
