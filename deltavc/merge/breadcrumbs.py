"""Model Breadcrumbs: keep neither the largest changes nor the small ones."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.delta.increment import Increment
from deltavc.merge.elementwise import Adding, Electing, Elementwise, Frame
from deltavc.merge.keep import Keep, trimmed
from deltavc.merge.options import Rational, option
from deltavc.merge.strategy import Operand

__all__ = ["Breadcrumbs", "BreadcrumbsTies"]


@dataclass(frozen=True)
class _Breadcrumbs(Elementwise):
    """Keeps a band of magnitudes."""

    source: ClassVar[str] = "arXiv:2312.06795"

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "share of elements that each side keeps"
    )
    gamma: Fraction = option(
        Fraction(1, 100), Rational(0, 1), "share of the very largest elements that is dropped"
    )

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:  # noqa: ARG002
        return trimmed(increment.values, frame.blocks, self.density, self.gamma, frame.threads)

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:  # noqa: ARG002
        return Fraction(1)


@dataclass(frozen=True)
class Breadcrumbs(_Breadcrumbs, Adding):
    """m + λ Σ w_i x_i, x_i the increment without its outliers and without its small elements."""

    name: ClassVar[str] = "breadcrumbs"
    summary: ClassVar[str] = "drops outliers and small changes and adds up the rest"


@dataclass(frozen=True)
class BreadcrumbsTies(_Breadcrumbs, Electing):
    """Drops outliers and small elements, then elects signs as ties does."""

    name: ClassVar[str] = "breadcrumbs-ties"
    summary: ClassVar[str] = "drops outliers and small changes, and averages those that agree"
