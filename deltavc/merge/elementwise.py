"""Element-wise strategies: sparsify each increment, let them vote, add up, round.

All of them are one computation with other parts::

    x_i = keep_i(d_i) · scale_i           what is kept of side i's increment
    y   = consensus(w_1 x_1, …, w_n x_n)
    Δ   = RN(λ · y)                       rounded into the parameter's own dtype

d_i is rounded once to float32 (:mod:`deltavc.delta.increment`), what follows is
IEEE arithmetic element by element, in the canonical order of the sides, in
float32 for 16-bit parameters and in float64 for others. Factors that are the
same for a whole side are multiplied as exact rationals first and rounded once.

Everything is done block by block, several times over rather than held: beyond
the deltas and the result a merge takes some ten megabytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from deltavc.delta.increment import Increment
from deltavc.delta.merge_native import scale_masked
from deltavc.delta.rounding import round_fraction
from deltavc.delta.tensor import DTYPES
from deltavc.errors import UsageError
from deltavc.merge.angles import increments_of
from deltavc.merge.blocks import Blocks
from deltavc.merge.consensus import Add, Ballot, Consensus, Elect
from deltavc.merge.keep import Keep, l1_scale
from deltavc.merge.options import Choice, Rational, Weights, option
from deltavc.merge.result import Result, work_dtype
from deltavc.merge.strategy import Fact, Operand, Outcome, Parameter, Strategy

__all__ = ["RESCALES", "Adding", "Electing", "Elementwise", "Frame", "Kept"]

SIGNS = Choice(("weighted", "sum", "count"))
ZEROS = Choice(("none", "plus"))
DIVISORS = Choice(("weights", "count", "none"))
RESCALES = Choice(("inverse", "l1", "none"))


@dataclass(frozen=True)
class Kept:
    """One side of an element-wise merge, ready to be computed.

    Attributes:
        increment: Its increment.
        keep: What is kept of it.
        scale: What makes up for the rest.
        weight: Its weight.
    """

    increment: Increment
    keep: Keep
    scale: Fraction
    weight: Fraction


@dataclass(frozen=True)
class Elementwise(Strategy):
    """The frame of the element-wise strategies."""

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; 1 each if not given"
    )
    lambda_: Fraction = option(Fraction(1), Rational(), "factor on the merged increment")

    @abstractmethod
    def _keep(self, frame: Frame, operand: Operand, increment: Increment) -> Keep:
        """Returns the rule that tells what is kept of an increment."""

    @abstractmethod
    def _scale(self, frame: Frame, increment: Increment, keep: Keep) -> Fraction:
        """Returns what makes up for the elements that are not kept."""

    @abstractmethod
    def _consensus(self) -> Consensus:
        """Returns how the kept values become one."""

    def _row(self, parameter: Parameter) -> int:  # noqa: ARG002
        """Returns how many elements must not be cut apart."""
        return 1

    def _divided(self, sides: Sequence[Kept]) -> Fraction:  # noqa: ARG002
        """Returns a divisor of all weights that does not depend on the element."""
        return Fraction(1)

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        if not parameter.count:
            return Outcome(coefficients=(Fraction(0),) * len(operands))
        increments = increments_of(parameter, operands)
        align = max(self._row(parameter), *(i.columns for i in increments))
        frame = Frame(parameter, Blocks(parameter.count, align), threads)
        sides = []
        for operand, increment in zip(operands, increments, strict=True):
            keep = self._keep(frame, operand, increment)
            scale = self._scale(frame, increment, keep)
            sides.append(Kept(increment, keep, scale, operand.weight))
        return frame.merge(sides, self._consensus(), self.lambda_, self._divided(sides))


@dataclass(frozen=True)
class Adding(Elementwise):
    """Element-wise strategies that add up what the sides keep."""

    divisor: str = option(
        "none", DIVISORS, "what the sum is divided by: the weights, the number of sides, nothing"
    )

    def check(self, count: int) -> None:
        """Refuses a number of sides, or weights that cannot be divided by."""
        super().check(count)
        if self.divisor == "weights" and not sum(self._weights(count)):
            raise UsageError(
                f"the weights of {self.name} add up to 0 and cannot be divided by",
                hint="give other weights, or the divisor none",
                strategy=self.name,
            )

    def _consensus(self) -> Consensus:
        return Add()

    def _divided(self, sides: Sequence[Kept]) -> Fraction:
        if self.divisor == "weights":
            return sum((side.weight for side in sides), Fraction(0))
        return Fraction(len(sides) if self.divisor == "count" else 1)


@dataclass(frozen=True)
class Electing(Elementwise):
    """Element-wise strategies whose sides vote on the sign of each element."""

    sign: str = option(
        "weighted", SIGNS, "what elects: the weighted sum, the plain sum, or the count of signs"
    )
    zero: str = option("none", ZEROS, "what a vote of 0 elects: no sign, or plus")
    divisor: str = option(
        "weights", DIVISORS, "what the sum is divided by: agreeing weights, their number, nothing"
    )

    def _consensus(self) -> Consensus:
        return Elect(self.sign, 1 if self.zero == "plus" else 0, self.divisor)


@dataclass(frozen=True)
class Frame:
    """Where and how an element-wise merge is computed.

    Attributes:
        parameter: The parameter.
        blocks: How it is cut.
        threads: How many threads.
    """

    parameter: Parameter
    blocks: Blocks
    threads: int

    def l1_scale(self, increment: Increment, keep: Keep) -> Fraction:
        """Returns the factor that gives the kept elements the L1 norm of all."""
        return l1_scale(increment.values, self.blocks, keep, self.threads)

    def merge(
        self, sides: Sequence[Kept], consensus: Consensus, factor: Fraction, divisor: Fraction
    ) -> Outcome:
        """Merges sides and returns the delta.

        Args:
            sides: The sides in canonical order.
            consensus: How their values become one.
            factor: λ.
            divisor: What all weights are divided by.
        """
        work = work_dtype(self.parameter.dtype)
        linear = not isinstance(consensus, Elect)
        common = (factor if linear else 1) / divisor
        casts = [_Cast(side, common, work, consensus.needs_plain) for side in sides]
        after = None if linear or factor == 1 else nearest(factor, work)
        result = Result(self.parameter)

        def task(start: int, stop: int) -> tuple[int, int]:
            nonzero = outvoted = 0
            for low, high in self.blocks.within(start, stop):
                with np.errstate(all="ignore"):
                    merged, lost = consensus.merge([cast.ballot(low, high) for cast in casts])
                    if after is not None:
                        merged *= after
                nonzero += result.put(merged, low)
                outvoted += lost
            return nonzero, outvoted

        counts = self.blocks.map(task, self.threads)
        facts: dict[str, Fact] = {}
        if not linear:
            facts["outvoted"] = sum(lost for _, lost in counts) / self.parameter.count
        nonzero = sum(found for found, _ in counts)
        if not nonzero:
            return Outcome(
                coefficients=(Fraction(0),) * len(sides), facts={**facts, "nonzero": 0.0}
            )
        return result.outcome(nonzero, facts)


class _Cast:
    """Computes one side's ballots: its factors rounded once, as rationals, to the work dtype."""

    def __init__(self, side: Kept, common: Fraction, work: np.dtype[Any], plain: bool) -> None:
        self._side = side
        self._work = work
        self._scale = nearest(side.scale, work)
        self._factor = nearest(side.scale * side.weight * common, work)
        self._weight = nearest(side.weight, work)
        self._plain = plain

    def ballot(self, start: int, stop: int) -> Ballot:
        """Returns the side's values at some elements."""
        found = self._side.increment.values(start, stop)
        mask = self._side.keep.mask(found, start)
        gains = self._side.keep.gains(found, start)
        values = found.astype(self._work, copy=False)
        if gains is not None:
            values = values * gains.astype(self._work)
        if mask is not None:
            if not self._plain and scale_masked(values, mask, self._factor):
                return Ballot(None, values, self._weight)
            values *= mask
        plain = values * self._scale if self._plain else None
        if self._factor != 1:
            values *= self._factor
        return Ballot(plain, values, self._weight)


def nearest(value: Fraction, work: np.dtype[Any]) -> np.floating[Any]:
    """Returns the float of a dtype that is nearest to a rational.

    Raises:
        UsageError: It is too large for the dtype.
    """
    dtype = DTYPES["F32" if work.itemsize == 4 else "F64"]
    bits = np.array([round_fraction(value, dtype)], dtype=dtype.bits)
    number: np.floating[Any] = bits.view(work)[0]
    if not np.isfinite(number):
        raise UsageError(
            f"a weight of {float(value):.3g} is too large to compute with",
            hint="give smaller weights, or a smaller lambda",
        )
    return number
