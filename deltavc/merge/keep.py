"""Which elements of an increment are kept, and what makes up for the others.

A rule looks at a run of values and tells for each whether it stays. All rules
are exact: selections count, draws compare integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltavc.merge.blocks import Blocks
from deltavc.merge.draws import WORDS, threshold, words
from deltavc.merge.reduce import Source, Values, sum_of_magnitudes
from deltavc.merge.selection import Band, magnitudes

__all__ = ["All", "Drawn", "DrawnByRank", "Keep", "Trimmed", "l1_scale"]

Mask = NDArray[np.bool_]


class Keep(Protocol):
    """A rule that tells which elements of one increment are kept."""

    def mask(self, values: Values, start: int) -> Mask | None:
        """Tells for a run of values from a position on which are kept; None for all."""

    def gains(self, values: Values, start: int) -> NDArray[np.float64] | None:
        """Returns what each kept value is multiplied by; None for 1."""


@dataclass(frozen=True)
class All:
    """Everything is kept."""

    def mask(self, values: Values, start: int) -> None:
        """Returns None: all."""

    def gains(self, values: Values, start: int) -> None:
        """Returns None: 1."""


@dataclass(frozen=True)
class Trimmed:
    """A band in the order of magnitude is kept."""

    band: Band

    def mask(self, values: Values, start: int) -> Mask:
        """Tells which values are within the band."""
        return self.band.within(magnitudes(values), start)

    def gains(self, values: Values, start: int) -> None:
        """Returns None: 1."""


@dataclass(frozen=True)
class Drawn:
    """Each element is kept with the same probability."""

    key: int
    probability: Fraction

    def mask(self, values: Values, start: int) -> Mask | None:
        """Tells which elements were drawn."""
        limit = threshold(self.probability)
        if limit >= WORDS:
            return None
        drawn: Mask = words(self.key, start, start + values.size) < np.uint32(limit)
        return drawn

    def gains(self, values: Values, start: int) -> None:
        """Returns None: 1."""


class DrawnByRank:
    """Each element is kept with a probability that grows with its rank in its row.

    Args:
        key: Of the draws.
        row: Elements in a row; values are asked for by whole rows.
        least: Probability of the smallest magnitude of a row.
        most: Probability of the largest; a row of one element has the mean.
        inverse: Whether what is kept is divided by its probability.
    """

    def __init__(
        self, key: int, row: int, least: Fraction, most: Fraction, *, inverse: bool
    ) -> None:
        self._key = key
        self._row = row
        chances = _line(row, least, most)
        self._limits = np.array([threshold(p) for p in chances], dtype=np.uint64)
        self._gains = np.array([float(1 / p) if p else 0.0 for p in chances]) if inverse else None

    def mask(self, values: Values, start: int) -> Mask:
        """Tells which elements were drawn."""
        limits = self._limits[self._ranks(values)]
        drawn: Mask = words(self._key, start, start + values.size) < limits
        return drawn

    def gains(self, values: Values, start: int) -> NDArray[np.float64] | None:  # noqa: ARG002
        """Returns the inverse probabilities, if they count."""
        return None if self._gains is None else self._gains[self._ranks(values)]

    def _ranks(self, values: Values) -> NDArray[np.int64]:
        """Returns each value's rank in its row: by magnitude, then by position."""
        places = np.arange(self._row, dtype=np.uint64)
        keys = magnitudes(values).astype(np.uint64).reshape(-1, self._row)
        keys <<= np.uint64(32)
        keys |= places
        keys.sort(axis=1)  # no two are equal: any sort gives this order
        order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, places.astype(np.int64)[np.newaxis], axis=1)
        return ranks.reshape(-1)


def _line(count: int, least: Fraction, most: Fraction) -> Sequence[Fraction]:
    """Returns evenly spaced numbers from one to another."""
    if count == 1:
        return [(least + most) / 2]
    step = (most - least) / max(count - 1, 1)
    return [least + i * step for i in range(count)]


def l1_scale(source: Source, blocks: Blocks, keep: Keep, threads: int) -> Fraction:
    """Returns Σ |v| over all elements by that over the kept ones; 1 if these are all zero."""

    def task(start: int, stop: int) -> tuple[Fraction, Fraction]:
        before = after = Fraction(0)
        for low, high in blocks.within(start, stop):
            values = source(low, high)
            whole = sum_of_magnitudes(values)
            mask = keep.mask(values, low)
            before += whole
            after += whole if mask is None else sum_of_magnitudes(values[mask])
        return before, after

    sums = blocks.map(task, threads)
    before, after = (sum((s[i] for s in sums), Fraction(0)) for i in (0, 1))
    return before / after if after else Fraction(1)
