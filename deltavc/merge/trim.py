"""Keeping the largest changes of a side, of one parameter or of the model as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from deltavc.delta.increment import Increment
from deltavc.merge.elementwise import Elementwise, Frame
from deltavc.merge.keep import All, Keep, Trimmed
from deltavc.merge.options import Choice, Rational, option
from deltavc.merge.selection import Band, boundaries
from deltavc.merge.strategy import Operand

__all__ = ["Scoped", "Trimming"]

SCOPES = Choice(("tensor", "model"))


@dataclass(frozen=True)
class Trimming(Elementwise):
    """Each side keeps the share ``density`` of its elements, the largest."""

    density: Fraction = option(
        Fraction(1, 2), Rational(0, 1, above=True), "share of elements that each side keeps"
    )

    def ranks(self, count: int) -> tuple[int, int]:
        """Returns where what is kept ends and begins in the order of magnitude.

        Args:
            count: Number of elements.
        """
        keep = max(1, int(self.density * count))
        skip = min(int(self._outliers() * count), count - keep)
        return skip + keep, skip

    def _outliers(self) -> Fraction:
        """Returns the share of the very largest elements that is dropped."""
        return Fraction(0)

    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:
        source, blocks = increment.values, frame.blocks
        end, begin = self.ranks(blocks.count)
        if operand.side.share is not None:
            band = operand.side.share.band(source, blocks)
        elif end - begin == blocks.count:
            return All()
        else:
            last, first = boundaries(source, blocks, (end, begin), frame.threads)
            band = Band(last, first if begin else None)
        return Trimmed(band)

    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:  # noqa: ARG002
        return Fraction(1)


@dataclass(frozen=True)
class Scoped(Trimming):
    """Trimming whose threshold may be one for the whole model."""

    scope: str = option(
        "tensor", SCOPES, "what the density is a share of: each parameter, or all that are merged"
    )

    @property
    def surveys(self) -> bool:
        """Whether what is kept depends on other parameters, too."""
        return self.scope == "model"
