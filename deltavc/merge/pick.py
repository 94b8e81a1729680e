"""Picks: one side's increment as it is, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Base", "Ours", "Theirs"]


@dataclass(frozen=True)
class _Pick(Strategy):
    """m + d_k for one k, or m."""

    symmetric: ClassVar[bool] = False

    def _combine(
        self,
        parameter: Parameter,  # noqa: ARG002 -- whatever it is
        operands: Sequence[Operand],
        threads: int,  # noqa: ARG002
    ) -> Outcome:
        picked = self._picked(len(operands))
        return Outcome(coefficients=tuple(Fraction(i == picked) for i in range(len(operands))))

    def _picked(self, count: int) -> int | None:
        """Returns the number of the side whose increment is taken."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ours(_Pick):
    """m + d_1."""

    name: ClassVar[str] = "ours"
    summary: ClassVar[str] = "takes our side"
    source: ClassVar[str] = "a choice"

    def _picked(self, count: int) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True)
class Theirs(_Pick):
    """m + d_n, the side named last."""

    name: ClassVar[str] = "theirs"
    summary: ClassVar[str] = "takes the other side; of several, the one named last"
    source: ClassVar[str] = "a choice"

    def _picked(self, count: int) -> int:
        return count - 1


@dataclass(frozen=True)
class Base(_Pick):
    """m: neither side's increment."""

    name: ClassVar[str] = "base"
    summary: ClassVar[str] = "takes the merge base: neither side's increment"
    source: ClassVar[str] = "a choice"

    def _picked(self, count: int) -> None:  # noqa: ARG002
        return None
