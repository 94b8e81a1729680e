"""Model Breadcrumbs: keep neither the largest changes nor the small ones."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.merge.elementwise import Adding, Electing
from deltavc.merge.options import Rational, option
from deltavc.merge.trim import Scoped

__all__ = ["Breadcrumbs", "BreadcrumbsTies"]


@dataclass(frozen=True)
class _Breadcrumbs(Scoped):
    """Keeps a band of magnitudes."""

    source: ClassVar[str] = "arXiv:2312.06795"

    gamma: Fraction = option(
        Fraction(1, 100), Rational(0, 1), "share of the very largest elements that is dropped"
    )

    def _outliers(self) -> Fraction:
        return self.gamma


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
