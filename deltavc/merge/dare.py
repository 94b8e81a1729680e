"""DARE: drop at random and rescale, then add up or vote."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.delta.increment import Increment
from deltavc.merge.draws import key_for
from deltavc.merge.elementwise import RESCALES, Adding, Electing, Elementwise, Frame
from deltavc.merge.keep import All, Drawn, Keep
from deltavc.merge.options import Rational, Whole, option
from deltavc.merge.strategy import Operand

__all__ = ["SEEDS", "DareLinear", "DareTies"]

SEEDS = Whole(0, (1 << 63) - 1)


@dataclass(frozen=True)
class _Dare(Elementwise):
    """Keeps each element with the same probability."""

    source: ClassVar[str] = "arXiv:2311.03099"

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "probability with which an element is kept"
    )
    rescale: str = option(
        "inverse", RESCALES, "what makes up for the rest: 1 / density, the L1 norm, nothing"
    )
    seed: int = option(0, SEEDS, "seed of the draws")

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:  # noqa: ARG002
        if self.density == 1:
            return All()
        return Drawn(key_for(self.seed, frame.parameter.name, operand.key), self.density)

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:
        if self.rescale == "inverse":
            return 1 / self.density
        return frame.l1_scale(increment, keep) if self.rescale == "l1" else Fraction(1)


@dataclass(frozen=True)
class DareLinear(_Dare, Adding):
    """m + λ Σ w_i x_i, x_i the increment with elements dropped at random and the rest rescaled."""

    name: ClassVar[str] = "dare-linear"
    summary: ClassVar[str] = "drops changes at random, rescales the rest and adds them up"


@dataclass(frozen=True)
class DareTies(_Dare, Electing):
    """Drops elements at random, then elects signs as ties does."""

    name: ClassVar[str] = "dare-ties"
    summary: ClassVar[str] = "drops changes at random, rescales, and averages those that agree"
