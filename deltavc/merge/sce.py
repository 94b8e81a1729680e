"""SCE: select where the sides differ most, calculate weights, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.increment import Increment
from deltavc.merge.angles import increments_of
from deltavc.merge.blocks import Blocks
from deltavc.merge.consensus import Elect
from deltavc.merge.elementwise import ZEROS, Frame, Kept
from deltavc.merge.keep import All, Keep
from deltavc.merge.options import Rational, option
from deltavc.merge.reduce import Values, sum_of_squares
from deltavc.merge.selection import Band, boundaries, magnitudes
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Sce"]


@dataclass(frozen=True)
class Sce(Strategy):
    """m + λ · the average of those that have the elected sign, weighted by energy.

    Kept are the elements at which the sides' increments vary most. A side's weight
    is the sum of the squares of what is kept of it, over that of all sides.
    """

    name: ClassVar[str] = "sce"
    summary: ClassVar[str] = "keeps where sides differ most, weighs them by energy, then votes"
    source: ClassVar[str] = "arXiv:2408.07990"
    sides: ClassVar[tuple[int, int | None]] = (2, None)

    density: Fraction = option(
        Fraction(1), Rational(0, 1, above=True), "share kept of the elements that vary"
    )
    zero: str = option("none", ZEROS, "what a vote of 0 elects: no sign, or plus")
    lambda_: Fraction = option(Fraction(1), Rational(), "factor on the merged increment")

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        if not parameter.count:
            return Outcome(coefficients=(Fraction(0),) * len(operands))
        increments = increments_of(parameter, operands)
        blocks = Blocks(parameter.count, max(i.columns for i in increments))
        keep = self._keep(increments, blocks, threads)
        energies = [_energy(increment, keep, blocks, threads) for increment in increments]
        total = sum(energies, Fraction(0))
        weights = [e / total if total else Fraction(1, len(energies)) for e in energies]
        sides = [
            Kept(increment, keep, Fraction(1), weight)
            for increment, weight in zip(increments, weights, strict=True)
        ]
        consensus = Elect("sum", 1 if self.zero == "plus" else 0, "weights")
        return Frame(parameter, blocks, threads).merge(sides, consensus, self.lambda_, Fraction(1))

    def _keep(self, increments: Sequence[Increment], blocks: Blocks, threads: int) -> Keep:
        if self.density == 1:
            return All()
        spread = _Spread(increments)

        def varying(start: int, stop: int) -> int:
            parts = (spread(low, high) for low, high in blocks.within(start, stop))
            return sum(int(np.count_nonzero(part)) for part in parts)

        rank = int(self.density * sum(blocks.map(varying, threads)))
        (end,) = boundaries(spread, blocks, (rank,), threads)
        return _Varying(spread, Band(end))


@dataclass(frozen=True)
class _Spread:
    """The standard deviation of the sides' increments at each element, as float32."""

    increments: Sequence[Increment]

    def __call__(self, start: int, stop: int) -> Values:
        values = [i.values(start, stop).astype(np.float64) for i in self.increments]
        mean = _total(values) / len(values)
        square = _total([(v - mean) * (v - mean) for v in values])
        spread: Values = np.sqrt(square / len(values)).astype(np.float32)
        return spread


@dataclass(frozen=True)
class _Varying:
    """Keeps the elements of largest spread."""

    spread: _Spread
    band: Band

    def mask(self, values: Values, start: int) -> NDArray[np.bool_]:
        return self.band.within(magnitudes(self.spread(start, start + values.size)), start)

    def gains(self, values: Values, start: int) -> None:
        """Returns None: 1."""


def _total(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = values[0].copy()
    for each in values[1:]:
        total += each
    return total


def _energy(increment: Increment, keep: Keep, blocks: Blocks, threads: int) -> Fraction:
    def task(start: int, stop: int) -> Fraction:
        total = Fraction(0)
        for low, high in blocks.within(start, stop):
            values = increment.values(low, high)
            mask = keep.mask(values, low)
            total += sum_of_squares(values if mask is None else values[mask])
        return total

    return sum(blocks.map(task, threads), Fraction(0))
