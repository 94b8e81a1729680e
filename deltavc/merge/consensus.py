"""How the kept values of several sides become one: added up, or by a vote on the sign.

Plain element-wise arithmetic in a fixed order: the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.merge_native import elect

__all__ = ["Add", "Ballot", "Consensus", "Elect"]

Floats = NDArray[Any]


@dataclass(frozen=True)
class Ballot:
    """One side's values at some elements.

    Attributes:
        plain: Kept values, rescaled; None unless asked for.
        weighted: The same times the side's weight.
        weight: The weight.
    """

    plain: Floats | None
    weighted: Floats
    weight: np.floating[Any]


class Consensus(Protocol):
    """Makes one value of several."""

    @property
    def needs_plain(self) -> bool:
        """Whether ballots must bring the values without their weights."""

    def merge(self, ballots: Sequence[Ballot]) -> tuple[Floats, int]:
        """Returns the merged values, and how many non-zero ones were outvoted."""


@dataclass(frozen=True)
class Add:
    """The sum; whatever it is divided by is part of the weights."""

    @property
    def needs_plain(self) -> bool:
        """Returns False."""
        return False

    def merge(self, ballots: Sequence[Ballot]) -> tuple[Floats, int]:
        """Returns the sum of the weighted values."""
        total = ballots[0].weighted
        for ballot in ballots[1:]:
            total += ballot.weighted
        return total, 0


@dataclass(frozen=True)
class Elect:
    """The sum of those values that have the elected sign, divided by who cast them.

    Attributes:
        sign: ``weighted``: sign of the weighted sum; ``sum``: of the plain sum;
            ``count``: of the number of positive less that of negative weighted values.
        zero: Sign elected where the vote is 0: 1, -1, or 0 for none.
        divisor: ``weights``: by the sum of the weights of the agreeing sides;
            ``count``: by their number; ``none``.
    """

    sign: str
    zero: int
    divisor: str

    @property
    def needs_plain(self) -> bool:
        """Whether the vote is on values without weights."""
        return self.sign == "sum"

    def vote(self, ballots: Sequence[Ballot]) -> Floats:
        """Returns 1, -1 or 0 for each element: the sign that the sides elect."""
        total = np.zeros_like(ballots[0].weighted)
        for ballot in ballots:
            total += np.sign(ballot.weighted) if self.sign == "count" else self._own(ballot)
        return np.sign(total, out=total)

    def merge(self, ballots: Sequence[Ballot]) -> tuple[Floats, int]:
        """Returns the merged values, and how many non-zero ones were outvoted."""
        if self.sign != "sum":
            one = ballots[0].weight.dtype.type(1)
            shares = {
                "weights": [ballot.weight for ballot in ballots],
                "count": [one] * len(ballots),
                "none": None,
            }[self.divisor]
            values = [ballot.weighted for ballot in ballots]
            found = elect(values, shares, self.zero, by_count=self.sign == "count")
            if found is not None:
                return found
        elected = self.vote(ballots)
        if self.zero:
            elected[elected == 0] = self.zero
        total = np.zeros_like(elected)
        share = np.zeros_like(elected) if self.divisor != "none" else None
        outvoted = 0
        for ballot in ballots:
            side = self._own(ballot) * elected
            agrees = side > 0
            outvoted += int(np.count_nonzero(side < 0))
            total += ballot.weighted * agrees
            if share is not None:
                one = ballot.weight if self.divisor == "weights" else share.dtype.type(1)
                share += agrees * one
        if share is not None:
            share[share == 0] = 1
            total /= share
        return total, outvoted

    def _own(self, ballot: Ballot) -> Floats:
        if self.sign == "sum" and ballot.plain is not None:
            return ballot.plain
        return ballot.weighted
