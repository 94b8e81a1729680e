"""Exact selection by magnitude without sorting: two passes over counts of bit patterns.

Elements stand in the order of descending magnitude, equal ones by position.
Where the first ``rank`` of them end is a :class:`Boundary`: a bit pattern, and
a position among those of just that pattern. The magnitudes of float32 are in
the order of their patterns, so one pass counts the upper halves of the
patterns, a second one the lower halves of those at the boundary. Nothing is
held but the counts. What is selected from may come in several parts, one after
another (:class:`Wanted`): the whole of a model is never there at once.

Source:
    Radix selection. Sorting 8 million numbers takes 0.9 s, this 0.03 s a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.merge_native import count_lower, count_upper, mark_within
from deltavc.merge.blocks import Blocks

__all__ = [
    "MAGNITUDE",
    "Band",
    "Boundary",
    "Quota",
    "Share",
    "Tally",
    "Wanted",
    "boundaries",
    "lower",
    "magnitudes",
    "merged",
    "upper",
]

Values = NDArray[np.float32]
Patterns = NDArray[np.uint32]
Counts = NDArray[np.int64]
Halves = NDArray[np.uint16]
Source = Callable[[int, int], Values]

MAGNITUDE = np.uint32(0x7FFFFFFF)
_HALF = 16
_LOW = np.uint32(0xFFFF)
_FIRST = 0x7FFFFFFF  # a pattern above all others: nothing is in


@dataclass(frozen=True)
class Boundary:
    """The end of the first so many elements in the order of magnitude.

    Attributes:
        pattern: Elements of larger patterns are in; -1 if all are.
        cut: Elements of just this pattern are in if their position is below.
    """

    pattern: int
    cut: int

    def within(self, patterns: Patterns, start: int) -> NDArray[np.bool_]:
        """Tells for a run of elements which are in.

        Args:
            patterns: Their magnitudes' patterns.
            start: Position of the first.
        """
        if self.pattern < 0:
            return np.ones(patterns.size, dtype=np.bool_)
        marked = mark_within(patterns, self.pattern, self.cut - start)
        if marked is not None:
            return marked
        inside = patterns > np.uint32(self.pattern)
        equal = min(self.cut - start, patterns.size)
        if equal > 0:
            inside[:equal] |= patterns[:equal] == np.uint32(self.pattern)
        return inside


@dataclass(frozen=True)
class Band:
    """Elements after one boundary and up to another: without the largest and the small ones.

    Attributes:
        end: Where the kept elements end.
        skip: Where they begin; None for the very first.
    """

    end: Boundary
    skip: Boundary | None = None

    def within(self, patterns: Patterns, start: int) -> NDArray[np.bool_]:
        """Tells for a run of elements which are kept."""
        inside = self.end.within(patterns, start)
        if self.skip is not None:
            inside &= ~self.skip.within(patterns, start)
        return inside


def magnitudes(values: Values) -> Patterns:
    """Returns the bit patterns of magnitudes, in the order of the magnitudes."""
    return values.view(np.uint32) & MAGNITUDE


@dataclass(frozen=True)
class Quota:
    """What the end of the first so many elements of several parts means for one part.

    Attributes:
        pattern: Elements of larger patterns are in; -1 if all are.
        number: How many elements of just this pattern are in: the first ones.
        whole: Whether these are all that the part has.
    """

    pattern: int
    number: int
    whole: bool

    def boundary(self, source: Source, blocks: Blocks) -> Boundary:
        """Returns the boundary in the part.

        Args:
            source: Gives the part's values from a first to an end position.
            blocks: How to go over them.

        Cost:
            A pass over the part at most, and only over that in which the quota ends.
        """
        if not self.number:
            return Boundary(self.pattern, 0)
        if self.whole:
            return Boundary(self.pattern, blocks.count)
        return Boundary(self.pattern, _cut(source, blocks, blocks.pieces(), self))


@dataclass(frozen=True)
class Share:
    """What one part keeps where several parts together decide: a band by its ends.

    Attributes:
        end: Where the kept elements end.
        skip: Where they begin.
    """

    end: Quota
    skip: Quota

    def band(self, source: Source, blocks: Blocks) -> Band:
        """Returns the band in the part; see :meth:`Quota.boundary`."""
        skip = None if self.skip.pattern == _FIRST else self.skip.boundary(source, blocks)
        return Band(self.end.boundary(source, blocks), skip)


@dataclass(frozen=True, eq=False)
class Tally:
    """How often numbers of 16 bits occur; those that do not are left out.

    Attributes:
        halves: The numbers, ascending.
        counts: How often each occurs.
    """

    halves: Halves
    counts: Counts

    @classmethod
    def of(cls, counts: NDArray[Any]) -> Tally:
        """Returns the tally of counts of all numbers."""
        there = np.flatnonzero(counts)
        return cls(there.astype(np.uint16), counts[there].astype(np.int64))

    def add_to(self, total: Counts) -> None:
        """Adds to the counts of all numbers."""
        total[self.halves] += self.counts

    def count(self, half: int) -> int:
        """Returns how often a number occurs."""
        at = int(np.searchsorted(self.halves, half))
        there = at < self.halves.size and int(self.halves[at]) == half
        return int(self.counts[at]) if there else 0


def merged(tallies: Iterable[Tally]) -> Counts:
    """Returns the counts of all 2**16 numbers, of several tallies together."""
    total = np.zeros(1 << _HALF, dtype=np.int64)
    for tally in tallies:
        tally.add_to(total)
    return total


@dataclass
class Wanted:
    """Where the first ``rank`` elements end, found in two passes.

    Attributes:
        rank: How many elements are in.
        half: The upper half of the pattern at which they end; -1 where all or none are in.
        rest: How many of the elements with this upper half are in.
        pattern: That pattern.
        equal: How many of the elements of just this pattern are in.
    """

    rank: int
    half: int = -1
    rest: int = 0
    pattern: int = _FIRST
    equal: int = 0

    def after_first(self, counts: Counts) -> None:
        """Takes how often each upper half occurs among all elements."""
        if self.rank >= int(counts.sum()):
            self.pattern = -1
        elif self.rank:
            self.half, before = _find(counts, self.rank)
            self.rest = self.rank - before

    def after_second(self, counts: Counts) -> None:
        """Takes how often each lower half occurs among those with :attr:`half`."""
        low, before = _find(counts, self.rest)
        self.pattern = (self.half << _HALF) | low
        self.equal = self.rest - before

    def quota(self, tally: Tally | None) -> Quota:
        """Returns what this means for the next part, whose elements of the pattern it takes.

        Args:
            tally: How often each lower half occurs in the part among those with
                :attr:`half`; None where that is -1.
        """
        there = 0 if tally is None else tally.count(self.pattern & int(_LOW))
        number = min(self.equal, there)
        self.equal -= number
        return Quota(self.pattern, number, number == there)


def boundaries(
    source: Source, blocks: Blocks, ranks: Sequence[int], threads: int
) -> list[Boundary]:
    """Returns where the first so many elements end.

    Args:
        source: Gives values from a first to an end position.
        blocks: How to go over them.
        ranks: How many elements, each from 0 to their number.
        threads: How many threads.

    Returns:
        One boundary for each rank.

    Cost:
        Two passes, and a 64th of one.
    """
    wanted = [Wanted(rank) for rank in ranks]
    counts = merged([upper(source, blocks, threads)])
    for each in wanted:
        each.after_first(counts)
    halves = sorted({each.half for each in wanted} - {-1})
    pieces = lower(source, blocks, halves, threads) if halves else []
    found = []
    for each in wanted:
        if each.half < 0:
            found.append(Boundary(each.pattern, 0))
            continue
        tallies = [piece[halves.index(each.half)] for piece in pieces]
        each.after_second(merged(tallies))
        # The quota ends in one of the pieces, and only that is looked at.
        for bounds, tally in zip(blocks.pieces(), tallies, strict=True):
            quota = each.quota(tally)
            if not each.equal:
                found.append(Boundary(each.pattern, _cut(source, blocks, [bounds], quota)))
                break
    return found


def upper(source: Source, blocks: Blocks, threads: int) -> Tally:
    """Returns how often each upper half of a magnitude's pattern occurs.

    Args:
        source: Gives values from a first to an end position.
        blocks: How to go over them.
        threads: How many threads.
    """

    def task(start: int, stop: int) -> Tally:
        counts = np.zeros(1 << (_HALF - 1), dtype=np.int64)
        for low, high in blocks.within(start, stop):
            values = source(low, high)
            if count_upper(values, counts):
                continue
            halves = magnitudes(values) >> np.uint32(_HALF)
            counts += np.bincount(halves.view(np.int32), minlength=counts.size)
        return Tally.of(counts)

    return Tally.of(merged(blocks.map(task, threads)))


def lower(source: Source, blocks: Blocks, halves: Sequence[int], threads: int) -> list[list[Tally]]:
    """Returns how often each lower half occurs among patterns with some upper halves.

    Args:
        source: Gives values from a first to an end position.
        blocks: How to go over them.
        halves: The upper halves.
        threads: How many threads.

    Returns:
        For each piece, in order, the tally of each upper half.
    """

    def task(start: int, stop: int) -> list[Tally]:
        counts = np.zeros((len(halves), 1 << _HALF), dtype=np.uint32)
        for low, high in blocks.within(start, stop):
            values = source(low, high)
            if all(count_lower(values, half, counts[row]) for row, half in enumerate(halves)):
                continue
            _count_lower(values, halves, counts)
        return [Tally.of(row) for row in counts]

    return blocks.map(task, threads)


def _count_lower(values: Values, halves: Sequence[int], counts: NDArray[np.uint32]) -> None:
    patterns = magnitudes(values)
    high = (patterns >> np.uint32(_HALF)).astype(np.uint16)
    for row, half in enumerate(halves):
        at = patterns[high == half] & _LOW
        if at.size:
            counts[row] += np.bincount(at, minlength=1 << _HALF).astype(np.uint32)


def _find(counts: Counts, rank: int) -> tuple[int, int]:
    """Returns the bin in which the rank-th largest is, and how many are in larger ones."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, rank))
    before = int(above[place - 1]) if place else 0
    return counts.size - 1 - place, before


def _cut(source: Source, blocks: Blocks, pieces: Sequence[tuple[int, int]], quota: Quota) -> int:
    """Returns the position before which so many elements of a quota's pattern are."""
    left = quota.number
    for start, stop in pieces:
        for low, high in blocks.within(start, stop):
            here = np.flatnonzero(magnitudes(source(low, high)) == np.uint32(quota.pattern))
            if left <= here.size:
                return low + int(here[left - 1]) + 1
            left -= here.size
    return blocks.count
