"""Magnitude pruning: keep the largest changes of each side and add them up."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.delta.increment import Increment
from deltavc.merge.elementwise import Adding, Frame
from deltavc.merge.keep import Keep, trimmed
from deltavc.merge.options import Rational, option
from deltavc.merge.strategy import Operand

__all__ = ["MagnitudePrune"]


@dataclass(frozen=True)
class MagnitudePrune(Adding):
    """m + λ Σ w_i x_i, x_i the increment's largest elements."""

    name: ClassVar[str] = "magnitude-prune"
    summary: ClassVar[str] = "keeps the largest changes of each side and adds them up"
    source: ClassVar[str] = "the trimming of arXiv:2306.01708, without its vote"

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "share of elements that each side keeps"
    )

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:  # noqa: ARG002
        return trimmed(increment.values, frame.blocks, self.density, Fraction(0), frame.threads)

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:  # noqa: ARG002
        return Fraction(1)
