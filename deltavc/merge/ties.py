"""TIES: trim, elect a sign, add up those that agree."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.delta.increment import Increment
from deltavc.merge.elementwise import Electing, Frame
from deltavc.merge.keep import Keep, trimmed
from deltavc.merge.options import Rational, option
from deltavc.merge.strategy import Operand

__all__ = ["Ties"]


@dataclass(frozen=True)
class Ties(Electing):
    """Each side keeps its largest elements; those that have the elected sign are averaged."""

    name: ClassVar[str] = "ties"
    summary: ClassVar[str] = "keeps the largest changes of each side and averages those that agree"
    source: ClassVar[str] = "arXiv:2306.01708"

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "share of elements that each side keeps"
    )

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:  # noqa: ARG002
        return trimmed(increment.values, frame.blocks, self.density, Fraction(0), frame.threads)

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:  # noqa: ARG002
        return Fraction(1)
